//! One connection to one service, as one caller.

use crate::context::Context;
use crate::error::Error;
use crate::incoming::{self, Incoming};
use crate::process;
use pysecure_wire::message::{self, CallOptions, ErrorReply, FromService};
use pysecure_wire::{Malformed, OutgoingArea, Reader, Value, WireError, Writer};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often a service may end before it greets, as it does when it starts again.
const GREETINGS: u32 = 5;

/// Writes what a call brings into its message: an array of the positional arguments, and a map of the named ones. It may be called twice.
pub type Fill<'a> = &'a dyn Fn(&mut Writer<'_>) -> Result<(), Error>;

/// A part of what a call comes to.
#[derive(Debug)]
pub enum Answer {
    /// The result, and the last that comes.
    Whole(Value),
    /// An item of a stream.
    Item(Value),
    /// The end of a stream, with what the generator returned.
    End(Value),
}

/// A connection to one service, as one caller.
pub struct Connection {
    callee: String,
    socket: OwnedFd,
    /// The process that made it: after fork(2), the other process's messages are not to be mixed in. 0 once the service goes away.
    process: u32,
    incoming: Incoming,
    outgoing: OutgoingArea,
    last_id: u64,
    /// The deadline of the call that was made last.
    deadline: Option<Instant>,
    functions: HashMap<String, u64>,
}

impl Connection {
    /// Connects to the socket at this path, again if the service ends before it has greeted: nothing was asked of it yet.
    pub fn open(callee: &str, path: &Path) -> Result<Connection, Error> {
        for attempt in 0..GREETINGS - 1 {
            match Connection::greeted(callee, path) {
                Err(Error::ConnectionLost { .. }) => std::thread::sleep(Duration::from_millis(10 << attempt)),
                other => return other,
            }
        }
        Connection::greeted(callee, path)
    }

    fn greeted(callee: &str, path: &Path) -> Result<Connection, Error> {
        let deadline = Context::current().deadline;
        let socket = connected(path, deadline).map_err(|errno| match errno {
            Errno::NOENT => Error::NotGranted(callee.to_owned()),
            Errno::AGAIN | Errno::TIMEDOUT if deadline.is_some() => Error::Deadline {
                callee: callee.to_owned(),
            },
            errno => Error::Io {
                callee: callee.to_owned(),
                cause: errno.into(),
            },
        })?;
        let mut connection = Connection {
            callee: callee.to_owned(),
            socket,
            process: process::id(),
            incoming: Incoming::default(),
            outgoing: OutgoingArea::default(),
            last_id: 0,
            deadline,
            functions: HashMap::new(),
        };
        connection.hello()?;
        Ok(connection)
    }

    fn hello(&mut self) -> Result<(), Error> {
        match self.receive(false)? {
            FromService::Hello(hello) => self.functions = hello.functions.into_iter().collect(),
            // It was accepted, and then the service ended.
            FromService::GoAway(_) => {
                return Err(Error::ConnectionLost {
                    callee: self.callee.clone(),
                    ran: false,
                });
            }
            FromService::Err(_, error) => return Err(failure(&self.callee, error)),
            _ => return Err(self.malformed(Malformed::Unasked)),
        }
        Ok(())
    }

    /// The service's name.
    pub(crate) fn callee(&self) -> &str {
        &self.callee
    }

    /// May this process go on using it?
    pub(crate) fn is_usable(&self) -> bool {
        process::is(self.process)
    }

    /// The hash of a function's signature as the service has it, if this caller may call it.
    pub(crate) fn hash_of(&self, function: &str) -> Option<u64> {
        self.functions.get(function).copied()
    }

    fn malformed(&self, what: Malformed) -> Error {
        Error::Wire {
            callee: self.callee.clone(),
            cause: what.into(),
        }
    }

    fn receive(&mut self, ran: bool) -> Result<FromService, Error> {
        let received = self
            .incoming
            .receive(self.socket.as_fd(), self.deadline, |bytes, fds, area| {
                let mut opened = message::open(bytes, fds, area)?;
                let read = FromService::read(&mut Reader::new(&opened.bytes, &mut opened.fds, area))?;
                opened.fds.finish(area)?;
                Ok(read)
            });
        match received {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::Deadline {
                callee: self.callee.clone(),
            }),
            Err(e) => Err(Error::socket(&self.callee, e, ran)),
        }
    }

    /// Asks for a function, when what was asked before has been answered whole. What comes of it is for [`Connection::answer`].
    pub fn begin(&mut self, function: &str, arguments: Fill<'_>) -> Result<(), Error> {
        let context = Context::current();
        self.last_id += 1;
        self.deadline = context.deadline;
        let left = |deadline: Instant| {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            u64::try_from(left).unwrap_or(u64::MAX)
        };
        let options = CallOptions {
            deadline: context.deadline.map(left),
            traceparent: context.traceparent.as_deref(),
            read: Some(self.incoming.area.read),
            credit: Some(1),
        };
        let (id, name) = (self.last_id, |w: &mut Writer<'_>| w.str(function));
        // One call at a time: what the one before had in the area has been read.
        let (message, _) = message::encode(Vec::with_capacity(256), &mut self.outgoing, true, |writer| {
            message::write_call(writer, id, name, |w| arguments(w), &options)
        })?;
        let sent = incoming::send(self.socket.as_fd(), &message);
        sent.map_err(|e| Error::socket(&self.callee, e, false))
    }

    /// Waits for the next part of what the last call comes to.
    pub fn answer(&mut self) -> Result<Answer, Error> {
        loop {
            let message = self.receive(true).inspect_err(|error| {
                // The answer is nobody's now; the connection is given up with it.
                if matches!(error, Error::Deadline { .. }) {
                    self.cancel();
                }
            });
            match message? {
                FromService::Ok(id, value) if id == self.last_id => return Ok(Answer::Whole(value)),
                FromService::Err(id, error) if id == self.last_id || id == 0 => {
                    return Err(failure(&self.callee, error));
                }
                FromService::Item(id, item) if id == self.last_id => {
                    let credit = message::credit_message(self.last_id, 1, self.incoming.area.read);
                    let sent = incoming::send(self.socket.as_fd(), &credit);
                    sent.map_err(|e| Error::socket(&self.callee, e, true))?;
                    return Ok(Answer::Item(item));
                }
                FromService::End(id, value) if id == self.last_id => return Ok(Answer::End(value)),
                // It ends, but answers what it has; a call that crossed comes back as GoingAway.
                FromService::GoAway(_) => self.process = 0,
                _ => return Err(self.malformed(Malformed::Unasked)),
            }
        }
    }

    /// Says that nobody wants the last call's answer any more.
    pub(crate) fn cancel(&mut self) {
        let _ = incoming::send(self.socket.as_fd(), &message::cancel_message(self.last_id));
    }

    /// Calls a function. A stream is read to its end, and comes back as a list.
    pub fn call(&mut self, function: &str, arguments: Fill<'_>) -> Result<Value, Error> {
        self.begin(function, arguments)?;
        let mut items = Vec::new();
        loop {
            match self.answer()? {
                Answer::Whole(value) => return Ok(value),
                Answer::Item(item) => items.push(item),
                Answer::End(_) => return Ok(Value::Array(items)),
            }
        }
    }
}

/// A socket that is connected to the one at this path. Where as many wait to be accepted as may, it waits for no longer than the deadline, and
/// fails with EAGAIN or ETIMEDOUT then.
fn connected(path: &Path, deadline: Option<Instant>) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    if let Some(at) = deadline {
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Errno::TIMEDOUT);
        }
        set_socket_timeout(&socket, Timeout::Send, Some(left.max(Duration::from_micros(1))))?;
    }
    let connect = |address: &SocketAddrUnix| rustix::io::retry_on_intr(|| rustix::net::connect(&socket, address));
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(&address)?,
        // sockaddr_un holds 108 bytes, so the folder is named by descriptor.
        Err(_) => {
            let (folder, name) = (path.parent().unwrap_or(path), path.file_name().unwrap_or_default());
            let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
            let folder = rustix::fs::open(folder, flags, rustix::fs::Mode::empty())?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
            connect(&SocketAddrUnix::new(&short)?)?;
        }
    }
    if deadline.is_some() {
        set_socket_timeout(&socket, Timeout::Send, None)?;
    }
    Ok(socket)
}

fn failure(callee: &str, error: ErrorReply) -> Error {
    if error.class == "pysecure.DeadlineExceeded" {
        return Error::Deadline {
            callee: callee.to_owned(),
        };
    }
    Error::Remote {
        class: error.class,
        message: error.message,
        args: error.args,
        ran: error.ran,
    }
}

impl message::EncodeError for Error {
    fn crowded(&self) -> bool {
        matches!(self, Error::Value(error) | Error::Wire { cause: error, .. } if WireError::crowded(error))
    }
}
