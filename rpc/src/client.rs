//! The caller's side: one connection for each thread and callee, made at the first call and again when the service
//! restarts. A call is repeated only if it certainly did not run.

use crate::error::Error;
use crate::socket::{self, Incoming, SocketError};
use crate::value::{Message, Value, Writer};
use rustix::event::{PollFd, PollFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a service finds the sockets of those that it may call.
const FOLDER: &str = "/run/pysecure/rpc";
/// Functions that every callee has.
#[cfg(feature = "service")]
pub(crate) const RESERVED: &str = "pysecure.";

thread_local! {
    static CONNECTIONS: RefCell<HashMap<String, Connection>> = RefCell::new(HashMap::new());
    static DEADLINE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Has the calls that `body` makes in this thread end within `time`; a nearer deadline stays.
pub fn within<T>(time: Duration, body: impl FnOnce() -> T) -> T {
    let ours = Instant::now().checked_add(time);
    let outer = DEADLINE.get();
    until([ours, outer].into_iter().flatten().min(), body)
}

pub(crate) fn until<T>(deadline: Option<Instant>, body: impl FnOnce() -> T) -> T {
    struct Back(Option<Instant>);
    impl Drop for Back {
        fn drop(&mut self) {
            DEADLINE.set(self.0);
        }
    }
    let _back = Back(DEADLINE.replace(deadline));
    body()
}

/// A connection to one service, as one caller.
pub struct Connection {
    callee: String,
    socket: OwnedFd,
    /// It belongs to who made it: after fork(2), the other process's messages are not to be mixed in.
    process: u32,
    incoming: Incoming,
    next: u64,
    /// The functions that this caller has, and their signatures' hashes.
    pub functions: HashMap<String, u64>,
    /// Who this is to the service.
    pub caller: Option<String>,
}

impl Connection {
    /// Connects by a socket's path.
    pub fn open(callee: &str, path: &Path) -> Result<Connection, Error> {
        let io = |e: rustix::io::Errno| match e {
            rustix::io::Errno::NOENT => Error::NotGranted(callee.to_owned()),
            errno => Error::Io {
                callee: callee.to_owned(),
                cause: errno.into(),
            },
        };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io)?;
        let (folder, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
        match SocketAddrUnix::new(path) {
            Ok(address) => rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(io)?,
            // sockaddr_un holds 108 bytes, so the folder is named by descriptor.
            Err(_) => {
                let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
                let folder = rustix::fs::open(folder, flags, rustix::fs::Mode::empty()).map_err(io)?;
                let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
                let address = SocketAddrUnix::new(&short).map_err(io)?;
                rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address)).map_err(io)?;
            }
        }
        let mut connection = Connection {
            callee: callee.to_owned(),
            socket,
            process: std::process::id(),
            incoming: Incoming::new(),
            next: 0,
            functions: HashMap::new(),
            caller: None,
        };
        connection.hello()?;
        Ok(connection)
    }

    fn hello(&mut self) -> Result<(), Error> {
        self.wait(DEADLINE.get(), false)?;
        let message = self.receive(false)?;
        let mut elements = message.into_iter();
        match elements.next() {
            Some(Value::Int(1)) => {}
            Some(Value::Int(4)) => return Err(failure(&self.callee, elements.skip(1))),
            _ => return Err(self.bad("it did not begin with HELLO")),
        }
        let (version, _, caller, functions) = (elements.next(), elements.next(), elements.next(), elements.next());
        if version != Some(Value::Int(1)) {
            return Err(self.bad("it speaks another version of the protocol"));
        }
        if let Some(Value::Str(name)) = caller {
            self.caller = Some(name);
        }
        let Some(Value::Map(functions)) = functions else {
            return Err(self.bad("a HELLO without functions"));
        };
        for (name, hash) in functions {
            match (name, hash) {
                (Value::Str(name), Value::Int(hash)) => drop(self.functions.insert(name, hash as u64)),
                (Value::Str(name), Value::UInt(hash)) => drop(self.functions.insert(name, hash)),
                _ => return Err(self.bad("a HELLO with a function that is none")),
            }
        }
        Ok(())
    }

    fn bad(&self, what: &'static str) -> Error {
        Error::Wire {
            callee: self.callee.clone(),
            cause: crate::value::WireError::Bad(what),
        }
    }

    fn receive(&mut self, ran: bool) -> Result<Vec<Value>, Error> {
        let received = self.incoming.receive(self.socket.as_fd());
        received.map_err(|e| Error::socket(&self.callee, e, ran))
    }

    /// Waits for a message, if there is a deadline.
    fn wait(&self, deadline: Option<Instant>, ran: bool) -> Result<(), Error> {
        let Some(deadline) = deadline else {
            return Ok(());
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = rustix::event::Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
            match rustix::event::poll(&mut ready, Some(&timeout)) {
                Ok(0) => {
                    return Err(Error::Deadline {
                        callee: self.callee.clone(),
                    });
                }
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::socket(&self.callee, SocketError::Io(errno), ran)),
            }
        }
    }

    /// Calls a function. A stream is read to its end, and comes back as a list.
    pub fn call(&mut self, function: &str, args: &[Value], kwargs: &[(Value, Value)]) -> Result<Value, Error> {
        self.next += 1;
        let id = self.next;
        let deadline = DEADLINE.get();
        let message = call(id, function, args, kwargs, deadline).map_err(|cause| Error::Wire {
            callee: self.callee.clone(),
            cause,
        })?;
        let sent = socket::send(self.socket.as_fd(), message);
        sent.map_err(|e| Error::socket(&self.callee, e, false))?;
        let mut items = Vec::new();
        loop {
            if let Err(passed) = self.wait(deadline, true) {
                // The answer is nobody's now; the connection is given up with it.
                let mut cancel = Writer::message(2);
                cancel.uint(8);
                cancel.uint(id);
                let _ = socket::send(self.socket.as_fd(), cancel.finish());
                return Err(passed);
            }
            let mut elements = self.receive(true)?.into_iter();
            let (kind, answered) = (elements.next(), elements.next());
            let ours = answered == Some(Value::Int(id as i64));
            match kind {
                Some(Value::Int(3)) if ours => return Ok(elements.next().unwrap_or(Value::Nil)),
                Some(Value::Int(4)) if ours || answered == Some(Value::Int(0)) => {
                    return Err(failure(&self.callee, elements));
                }
                Some(Value::Int(5)) if ours => {
                    items.push(elements.next().unwrap_or(Value::Nil));
                    let mut credit = Writer::message(3);
                    credit.uint(7);
                    credit.uint(id);
                    credit.uint(1);
                    let sent = socket::send(self.socket.as_fd(), credit.finish());
                    sent.map_err(|e| Error::socket(&self.callee, e, true))?;
                }
                Some(Value::Int(6)) if ours => return Ok(Value::Array(items)),
                // It ends, but answers what it has; a call that crossed comes back as GoingAway.
                Some(Value::Int(9)) => self.process = 0,
                _ => return Err(self.bad("an answer to nothing that was asked")),
            }
        }
    }

    /// Can it carry another call?
    fn usable(&self) -> bool {
        if self.process != std::process::id() {
            return false;
        }
        // Between calls nothing comes but GOAWAY and the end.
        let mut ready = [PollFd::new(&self.socket, PollFlags::IN)];
        matches!(
            rustix::event::poll(&mut ready, Some(&rustix::event::Timespec::default())),
            Ok(0)
        )
    }
}

fn call(
    id: u64,
    function: &str,
    args: &[Value],
    kwargs: &[(Value, Value)],
    deadline: Option<Instant>,
) -> Result<Message, crate::value::WireError> {
    let mut writer = Writer::message(if deadline.is_some() { 6 } else { 5 });
    writer.uint(2);
    writer.uint(id);
    writer.str(function);
    writer.array(args.len());
    for arg in args {
        writer.value_in(arg)?;
    }
    writer.map(kwargs.len());
    for (key, value) in kwargs {
        writer.value_in(key)?;
        writer.value_in(value)?;
    }
    if let Some(deadline) = deadline {
        writer.uint(deadline.saturating_duration_since(Instant::now()).as_millis() as u64);
    }
    Ok(writer.finish())
}

/// What stands in ERR after its id.
fn failure(callee: &str, mut elements: impl Iterator<Item = Value>) -> Error {
    let mut text = || match elements.next() {
        Some(Value::Str(text)) => text,
        _ => String::new(),
    };
    let (class, message) = (text(), text());
    let args = match elements.next() {
        Some(Value::Array(args) | Value::Tuple(args)) => args,
        _ => Vec::new(),
    };
    let ran = elements.nth(1) != Some(Value::Bool(false));
    if class == "pysecure.DeadlineExceeded" {
        return Error::Deadline {
            callee: callee.to_owned(),
        };
    }
    Error::Remote {
        class,
        message,
        args,
        ran,
    }
}

/// Where a callee's socket is to be found.
fn path(callee: &str) -> PathBuf {
    let folder = std::env::var_os("PYSECURE_RPC_DIR").map_or_else(|| PathBuf::from(FOLDER), PathBuf::from);
    folder.join(format!("{callee}.sock"))
}

/// A call over this thread's connection. `known` is the hash of the signature that this program has, and its text.
pub fn call_known(callee: &str, function: &str, args: &[Value], known: Option<(u64, &str)>) -> Result<Value, Error> {
    loop {
        let held = CONNECTIONS
            .with_borrow_mut(|all| all.remove(callee))
            .filter(Connection::usable);
        let reused = held.is_some();
        let mut connection = match held {
            Some(connection) => connection,
            None => Connection::open(callee, &path(callee))?,
        };
        if let (Some((hash, here)), Some(there)) = (known, connection.functions.get(function))
            && *there != hash
        {
            return Err(Error::Version {
                function: function.to_owned(),
                here: here.to_owned(),
            });
        }
        match connection.call(function, args, &[]) {
            // It ended between the last call and this one.
            Err(Error::Lost { ran: false, .. }) if reused => continue,
            Err(Error::Remote { class, ran: false, .. }) if class == "pysecure.GoingAway" => continue,
            Err(error @ (Error::Lost { .. } | Error::Deadline { .. } | Error::Io { .. } | Error::Wire { .. })) => {
                return Err(error);
            }
            result => {
                CONNECTIONS.with_borrow_mut(|all| all.insert(callee.to_owned(), connection));
                return result;
            }
        }
    }
}
