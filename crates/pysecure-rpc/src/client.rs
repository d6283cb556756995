//! The caller's side: one connection for each thread and callee, made at the first call and again when the service
//! restarts. A call is repeated only if it certainly did not run, or if its function is marked idempotent.

use crate::error::Error;
use crate::memfd::Outgoing;
use crate::process;
use crate::socket::{self, Incoming};
use crate::value::Value;
use crate::writer::Writer;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::cell::RefCell;
use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Where a service finds the sockets of those that it may call.
const FOLDER: &str = "/run/pysecure/rpc";
/// Functions that every callee has.
#[cfg(feature = "service")]
pub(crate) const RESERVED: &str = "pysecure.";

/// How often a service may end before it greets, as it does when it starts again.
const GREETINGS: u32 = 5;

/// How often an idempotent call is made again because the service went away.
const REPEATS: u32 = 3;
/// How often a connection is tried that ends before its greeting, and a call that a service which ends did not take.
const CONNECTS: u32 = 16;
const TURNED_AWAY: u32 = 50;

thread_local! {
    /// A program has few callees, and most often the last one: a list is found in sooner than a map.
    #[expect(clippy::vec_box, reason = "each call takes one out and puts it back")]
    static CONNECTIONS: RefCell<Vec<Box<Connection>>> = const { RefCell::new(Vec::new()) };
    static CONTEXT: RefCell<Context> = const { RefCell::new(Context { deadline: None, traceparent: None }) };
}

/// What nested calls inherit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Context {
    pub deadline: Option<Instant>,
    pub traceparent: Option<String>,
}

impl Context {
    pub(crate) fn current() -> Context {
        CONTEXT.with_borrow(Clone::clone)
    }

    /// Has it be this thread's while `body` runs.
    pub(crate) fn within<T>(self, body: impl FnOnce() -> T) -> T {
        struct Back(Context);
        impl Drop for Back {
            fn drop(&mut self) {
                CONTEXT.set(std::mem::take(&mut self.0));
            }
        }
        let _back = Back(CONTEXT.replace(self));
        body()
    }
}

/// The W3C trace context of the call that runs in this thread, or that calls from it are to carry.
pub fn traceparent() -> Option<String> {
    CONTEXT.with_borrow(|c| c.traceparent.clone())
}

/// Has the calls that `body` makes in this thread carry a W3C trace context.
pub fn traced<T>(traceparent: impl Into<String>, body: impl FnOnce() -> T) -> T {
    let context = Context {
        traceparent: Some(traceparent.into()),
        ..Context::current()
    };
    context.within(body)
}

/// Has the calls that `body` makes in this thread end within `time`; a nearer deadline stays.
pub fn within<T>(time: Duration, body: impl FnOnce() -> T) -> T {
    let mut context = Context::current();
    let ours = Instant::now().checked_add(time);
    context.deadline = [ours, context.deadline].into_iter().flatten().min();
    context.within(body)
}

/// What a call brings, written into its message: an array of the positional arguments and a map of the named ones.
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
    /// It belongs to who made it: after fork(2), the other process's messages are not to be mixed in.
    process: u32,
    incoming: Incoming,
    outgoing: Outgoing,
    next: u64,
    /// The deadline of the call that was made last.
    deadline: Option<Instant>,
    /// The functions that this caller has, and their signatures' hashes.
    pub functions: HashMap<String, u64>,
    /// Who this is to the service.
    pub caller: Option<String>,
}

impl Connection {
    /// Connects by a socket's path, again if the service ends before it has greeted: nothing was asked of it yet.
    pub fn open(callee: &str, path: &Path) -> Result<Connection, Error> {
        for attempt in 0..GREETINGS - 1 {
            match Connection::greeted(callee, path) {
                Err(Error::Lost { .. }) => std::thread::sleep(Duration::from_millis(10 << attempt)),
                other => return other,
            }
        }
        Connection::greeted(callee, path)
    }

    fn greeted(callee: &str, path: &Path) -> Result<Connection, Error> {
        let io = |e: rustix::io::Errno| match e {
            rustix::io::Errno::NOENT => Error::NotGranted(callee.to_owned()),
            errno => Error::Io {
                callee: callee.to_owned(),
                cause: errno.into(),
            },
        };
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(io)?;
        // Where as many wait to be accepted as may, it waits for no longer than the deadline.
        let deadline = Context::current().deadline;
        let late = || Error::Deadline {
            callee: callee.to_owned(),
        };
        if let Some(at) = deadline {
            let left = at.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(late());
            }
            let left = left.max(Duration::from_micros(1));
            rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, Some(left)).map_err(io)?;
        }
        let io = |e| match e {
            rustix::io::Errno::AGAIN => late(),
            e => io(e),
        };
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
        if deadline.is_some() {
            rustix::net::sockopt::set_socket_timeout(&socket, Timeout::Send, None).map_err(io)?;
        }
        let mut connection = Connection {
            callee: callee.to_owned(),
            socket,
            process: process::id(),
            incoming: Incoming::default(),
            outgoing: Outgoing::default(),
            next: 0,
            deadline,
            functions: HashMap::new(),
            caller: None,
        };
        connection.hello()?;
        Ok(connection)
    }

    fn hello(&mut self) -> Result<(), Error> {
        let message = self.receive(false)?;
        let mut elements = message.into_iter();
        match elements.next() {
            Some(Value::Int(1)) => {}
            // It was accepted, and then the service ended.
            Some(Value::Int(9)) => {
                return Err(Error::Lost {
                    callee: self.callee.clone(),
                    ran: false,
                });
            }
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
        match self.incoming.receive(self.socket.as_fd(), self.deadline) {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(Error::Deadline {
                callee: self.callee.clone(),
            }),
            Err(e) => Err(Error::socket(&self.callee, e, ran)),
        }
    }

    /// Asks for a function, when what was asked before has been answered whole; [`Connection::answer`] has what comes of it.
    pub fn begin(&mut self, function: &str, arguments: Fill<'_>) -> Result<(), Error> {
        let context = Context::current();
        self.next += 1;
        self.deadline = context.deadline;
        let sent = self.send_call(&context, function, arguments, true);
        match sent {
            // Large bytes took the descriptors: they go within the message, all of it by memfd.
            Err(Error::Value(e) | Error::Wire { cause: e, .. }) if e.crowded() => {
                self.send_call(&context, function, arguments, false)
            }
            sent => sent,
        }
    }

    fn send_call(&mut self, context: &Context, function: &str, arguments: Fill<'_>, memfds: bool) -> Result<(), Error> {
        // One call at a time: what the one before had in the area has been read.
        self.outgoing.begin(true);
        let mut writer = match memfds {
            true => Writer::with(&mut self.outgoing, 9),
            false => Writer::message(9),
        };
        writer.uint(2);
        writer.uint(self.next);
        writer.str(function);
        arguments(&mut writer)?;
        match context.deadline {
            Some(deadline) => {
                let left = deadline.saturating_duration_since(Instant::now()).as_millis();
                writer.uint(left.min(1 << 53) as u64);
            }
            None => writer.nil(),
        }
        match &context.traceparent {
            Some(text) => writer.str(text),
            None => writer.nil(),
        }
        writer.uint(self.incoming.kept.read);
        writer.uint(1);
        let message = writer.finish();
        let sent = socket::send(self.socket.as_fd(), message);
        sent.map_err(|e| Error::socket(&self.callee, e, false))?;
        self.outgoing.sent();
        Ok(())
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
            let mut elements = message?.into_iter();
            let (kind, answered) = (elements.next(), elements.next());
            let ours = answered == Some(Value::Int(self.next as i64));
            let mut value = || elements.next().unwrap_or(Value::Nil);
            match kind {
                Some(Value::Int(3)) if ours => return Ok(Answer::Whole(value())),
                Some(Value::Int(4)) if ours || answered == Some(Value::Int(0)) => {
                    return Err(failure(&self.callee, elements));
                }
                Some(Value::Int(5)) if ours => {
                    let item = value();
                    let mut credit = Writer::message(4);
                    credit.uint(7);
                    credit.uint(self.next);
                    credit.uint(1);
                    credit.uint(self.incoming.kept.read);
                    let sent = socket::send(self.socket.as_fd(), credit.finish());
                    sent.map_err(|e| Error::socket(&self.callee, e, true))?;
                    return Ok(Answer::Item(item));
                }
                Some(Value::Int(6)) if ours => return Ok(Answer::End(value())),
                // It ends, but answers what it has; a call that crossed comes back as GoingAway.
                Some(Value::Int(9)) => self.process = 0,
                _ => return Err(self.bad("an answer to nothing that was asked")),
            }
        }
    }

    /// Says that nobody wants the last call's answer any more.
    fn cancel(&mut self) {
        let mut cancel = Writer::message(2);
        cancel.uint(8);
        cancel.uint(self.next);
        let _ = socket::send(self.socket.as_fd(), cancel.finish());
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

/// How long to wait before it is tried anew.
fn moment(attempt: u32) -> Duration {
    Duration::from_millis(1 << attempt.min(6))
}

/// A greeted connection. One that ended before its greeting is made anew: the service may be restarting.
fn connect(callee: &str) -> Result<Connection, Error> {
    let mut attempt = 0;
    loop {
        match Connection::open(callee, &path(callee)) {
            Err(Error::Lost { ran: false, .. }) if attempt < CONNECTS => {
                attempt += 1;
                std::thread::sleep(moment(attempt));
            }
            other => return other,
        }
    }
}

/// What a program knows of a function that it calls.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The signature, and its hash.
    pub signature: &'a str,
    pub hash: u64,
    /// May it be called again when nobody knows whether it ran?
    pub idempotent: bool,
}

/// Values as [`Fill`], by position alone.
pub(crate) fn positional(writer: &mut Writer<'_>, args: &[Value]) -> Result<(), Error> {
    writer.array(args.len());
    args.iter().try_for_each(|arg| writer.at(arg, 2))?;
    writer.map(0);
    Ok(())
}

/// A call by name over this thread's connection, for a program that has not the function's text.
pub fn call(callee: &str, function: &str, args: &[Value]) -> Result<Value, Error> {
    let arguments = |writer: &mut Writer<'_>| positional(writer, args);
    let mut items = Vec::new();
    let mut pending = match Pending::begin(callee, function, &arguments, None)? {
        (Answer::Whole(value), _) => return Ok(value),
        (Answer::End(_), _) => return Ok(Value::Array(items)),
        (Answer::Item(first), pending) => {
            items.push(first);
            pending
        }
    };
    while let Some(item) = pending.next()? {
        items.push(item);
    }
    Ok(Value::Array(items))
}

/// A stream that has begun. It has its connection for itself until it ends.
pub(crate) struct Pending {
    connection: Option<Box<Connection>>,
}

impl Pending {
    /// Makes a call, and waits for the first that comes of it.
    pub(crate) fn begin(
        callee: &str,
        function: &str,
        arguments: Fill<'_>,
        known: Option<Known<'_>>,
    ) -> Result<(Answer, Pending), Error> {
        let (mut repeats, mut turned) = (0, 0);
        loop {
            let held = CONNECTIONS.with_borrow_mut(|all| {
                let at = all.iter().rposition(|c| c.callee == callee)?;
                Some(all.swap_remove(at))
            });
            let held = held.filter(|c| process::is(c.process));
            let reused = held.is_some();
            let mut connection = match held {
                Some(connection) => connection,
                None => Box::new(connect(callee)?),
            };
            if let (Some(known), Some(there)) = (known, connection.functions.get(function))
                && *there != known.hash
            {
                return Err(Error::Version {
                    function: function.to_owned(),
                    here: known.signature.to_owned(),
                });
            }
            let began = connection.begin(function, arguments);
            let error = match began.and_then(|()| connection.answer()) {
                Ok(item @ Answer::Item(_)) => {
                    let pending = Pending {
                        connection: Some(connection),
                    };
                    return Ok((item, pending));
                }
                Ok(answer) => {
                    keep(connection);
                    return Ok((answer, Pending { connection: None }));
                }
                Err(error) => error,
            };
            match &error {
                // It ended between the last call and this one.
                Error::Lost { ran: false, .. } if reused => {}
                Error::Remote { class, ran: false, .. } if class == "pysecure.GoingAway" && turned < TURNED_AWAY => {
                    turned += 1;
                    std::thread::sleep(moment(turned));
                }
                Error::Lost { .. } if known.is_some_and(|k| k.idempotent) && repeats < REPEATS => repeats += 1,
                // What it answered, it answered whole.
                Error::Remote { .. } => {
                    keep(connection);
                    return Err(error);
                }
                _ => return Err(error),
            }
        }
    }

    /// The next item; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Value>, Error> {
        let Some(mut connection) = self.connection.take() else {
            return Ok(None);
        };
        match connection.answer() {
            Ok(Answer::Item(item)) => {
                self.connection = Some(connection);
                Ok(Some(item))
            }
            Ok(_) => {
                keep(connection);
                Ok(None)
            }
            Err(error) => {
                if matches!(error, Error::Remote { .. }) {
                    keep(connection);
                }
                Err(error)
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        // Closing the connection says so as well, but only once its descriptor is nobody else's.
        if let Some(connection) = &mut self.connection {
            connection.cancel();
        }
    }
}

fn keep(connection: Box<Connection>) {
    // One that is going away is made anew for the next call.
    if process::is(connection.process) {
        // During the thread's end there is nothing to keep it in.
        let _ = CONNECTIONS.try_with(|all| {
            let mut all = all.borrow_mut();
            // A stream that had its own connection gives way to the one that was made meanwhile.
            if all.iter().all(|c| c.callee != connection.callee) {
                all.push(connection);
            }
        });
    }
}
