//! One connection: the messages that come on it, and how they are answered.

use super::answer::Answering;
use super::endpoint::Endpoint;
use super::idle::Connection;
use super::{CALLER, Service, held};
use crate::context::Context;
use crate::error::Error;
use crate::function::{Arguments, Function};
use crate::incoming::{self, Incoming, SocketError};
use crate::reply::Reply;
use pysecure_wire::limits::NO_DEADLINE;
use pysecure_wire::message::{self, FromCaller, Refused};
use pysecure_wire::{MessageKind, OutgoingArea, Reader, Value, WireError, Writer};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long nothing comes before a connection gives up its thread.
const IDLE_BEFORE_PARK: Duration = Duration::from_millis(50);
/// How long a caller may not read what it is sent.
const MAX_WRITE: Duration = Duration::from_secs(60);
/// The most bytes of an error's text.
const MAX_TEXT: usize = 4_000;
/// The most streams of one connection that wait for credit, each within the one before.
const MAX_STREAMS: usize = 32;
/// Functions that every service has.
const RESERVED: &str = "pysecure.";
const UNREAD: &str = "this caller has not read what it was answered";

/// One connection.
pub(super) struct Session {
    pub(super) service: Arc<Service>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) socket: Arc<OwnedFd>,
    number: u64,
    incoming: Incoming,
    outgoing: OutgoingArea,
    /// Messages sent that used the area.
    used: u64,
    /// How many of those the caller has read; `None` if it does not say.
    read: Option<u64>,
    has_area: bool,
    /// Did it have anything to put into an area?
    had_large: bool,
    /// Calls that run, the innermost last: while a stream waits for credit, calls that come are answered.
    pub(super) running: Vec<Credit>,
}

/// What a call that runs may send.
pub(super) struct Credit {
    pub(super) id: u64,
    /// So many more items.
    pub(super) left: u64,
    /// False once the caller has cancelled it.
    pub(super) wanted: bool,
}

/// Why a connection is served no longer.
pub(super) enum Stop {
    Closed,
    Malformed(WireError),
    /// An id of a call that is open.
    IdTwice,
}

impl From<SocketError> for Stop {
    fn from(error: SocketError) -> Stop {
        match error {
            SocketError::Wire(error) => Stop::Malformed(error),
            _ => Stop::Closed,
        }
    }
}

/// Why a message was not sent.
pub(super) enum NotSent {
    Stop(Stop),
    /// It cannot be sent; what is to be sent instead.
    Error(Error),
}

/// A CALL of a function that its caller may call.
struct Requested {
    id: u64,
    function: &'static Function,
    arguments: Arguments,
    context: Context,
    read: Option<u64>,
    credit: u64,
}

/// A message from the caller, as it is acted on.
enum Request {
    Call(Requested),
    Refused(Refused),
    Credit { id: u64, count: u64, read: Option<u64> },
    Cancel { id: u64 },
}

impl Request {
    fn of(message: FromCaller<'_, &'static Function>) -> Request {
        match message {
            FromCaller::Refused(refused) => Request::Refused(refused),
            FromCaller::Credit { id, count, read } => Request::Credit { id, count, read },
            FromCaller::Cancel { id } => Request::Cancel { id },
            FromCaller::Call(call, function) => {
                let left = call.options.deadline.filter(|left| *left < NO_DEADLINE);
                Request::Call(Requested {
                    id: call.id,
                    function,
                    arguments: Arguments::new(call.args, call.kwargs),
                    context: Context {
                        deadline: left.and_then(|left| Instant::now().checked_add(Duration::from_millis(left))),
                        traceparent: call.options.traceparent.map(str::to_owned),
                    },
                    read: call.options.read,
                    credit: call.options.credit.unwrap_or(1),
                })
            }
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.endpoint.disconnect(self.has_area);
        self.endpoint.unread.remove(self.number);
        held(&self.service.open).retain(|(number, _)| *number != self.number);
        self.service.all_closed.notify_all();
    }
}

impl Connection for Session {
    fn number(&self) -> u64 {
        self.number
    }

    fn endpoint(&self) -> usize {
        self.endpoint.index
    }

    fn max_threads(&self) -> usize {
        self.endpoint.max_threads
    }

    fn socket(&self) -> Arc<OwnedFd> {
        self.socket.clone()
    }

    fn serve(mut self) -> Option<Session> {
        CALLER.set(self.endpoint.caller.clone());
        loop {
            let problem = match self.next() {
                Ok(true) => continue,
                Ok(false) => {
                    self.incoming.free_buffer();
                    return Some(self);
                }
                Err(Stop::Closed) => return None,
                Err(Stop::Malformed(error)) => error.to_string(),
                Err(Stop::IdTwice) => "the id of a call that is open".to_owned(),
            };
            let _ = self.fail(0, &Error::reply("pysecure.BadMessage", problem, false));
            return None;
        }
    }
}

impl Session {
    pub(super) fn new(service: Arc<Service>, endpoint: Arc<Endpoint>, socket: Arc<OwnedFd>, number: u64) -> Session {
        for (which, time) in [(Timeout::Send, MAX_WRITE), (Timeout::Recv, IDLE_BEFORE_PARK)] {
            let _ = set_socket_timeout(&socket, which, Some(time));
        }
        Session {
            service,
            endpoint,
            socket,
            number,
            incoming: Incoming::default(),
            outgoing: OutgoingArea::default(),
            used: 0,
            read: None,
            has_area: false,
            had_large: false,
            running: Vec::new(),
        }
    }

    /// Sends HELLO. The socket is new and holds a message, so this waits for nobody. False if the caller is gone.
    pub(super) fn greet(&self) -> bool {
        rustix::net::send(&self.socket, &self.endpoint.hello, rustix::net::SendFlags::NOSIGNAL).is_ok()
    }

    /// Waits for a message, and does what it says. False if none came for a while.
    pub(super) fn next(&mut self) -> Result<bool, Stop> {
        let (service, endpoint) = (&self.service, &self.endpoint);
        let find = |name: &str| {
            let function = service.functions.get(name).copied();
            function.filter(|_| endpoint.allowed.allows(name))
        };
        let request = self.incoming.receive(self.socket.as_fd(), None, |bytes, fds, area| {
            let mut opened = match message::open_call(bytes, fds, area, |name| find(name).is_some())? {
                Ok(opened) => opened,
                Err(refused) => return Ok(Request::Refused(refused)),
            };
            let mut reader = Reader::new(&opened.bytes, &mut opened.fds, area);
            let request = Request::of(FromCaller::read(&mut reader, find)?);
            // Of a call that is refused nothing else is looked at.
            if !matches!(request, Request::Refused(_)) {
                opened.fds.finish(area)?;
            }
            Ok(request)
        })?;
        let Some(request) = request else {
            return Ok(false);
        };
        match request {
            Request::Call(call) => self.call(call)?,
            Request::Refused(refused) => self.refused(refused)?,
            // An unknown id is of a call that has ended meanwhile.
            Request::Credit { id, count, read } => {
                self.read = read;
                if let Some(of) = self.running.iter_mut().find(|of| of.id == id) {
                    of.left = of.left.saturating_add(count);
                }
            }
            Request::Cancel { id } => {
                if let Some(of) = self.running.iter_mut().find(|of| of.id == id) {
                    of.wanted = false;
                }
            }
        }
        Ok(true)
    }

    /// Answers a call that is not to be run. True if it was.
    fn turned_away(&mut self, id: u64) -> Result<bool, Stop> {
        if self.running.iter().any(|of| of.id == id) {
            return Err(Stop::IdTwice);
        }
        if self.service.ends.load(Ordering::SeqCst) {
            self.fail(id, &Error::reply("pysecure.GoingAway", "the service ends", false))?;
            return Ok(true);
        }
        Ok(false)
    }

    fn call(&mut self, call: Requested) -> Result<(), Stop> {
        let (id, deadline) = (call.id, call.context.deadline);
        self.read = call.read;
        if self.turned_away(id)? {
            return Ok(());
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return self.fail(id, &Error::late(false));
        }
        if self.running.len() >= MAX_STREAMS {
            let waiting = "too many streams of this connection wait";
            return self.fail(id, &Error::reply("pysecure.Busy", waiting, false));
        }
        if self.endpoint.unread.refuses() {
            return self.fail(id, &Error::reply("pysecure.Busy", UNREAD, false));
        }
        let begun = Instant::now();
        self.running.push(Credit {
            id,
            left: call.credit,
            wanted: true,
        });
        let mut answering = Answering::new(self, id, deadline);
        let mut reply = Reply::new(&mut answering);
        let run = || {
            call.context
                .within(|| (call.function.serve)(call.arguments, &mut reply))
        };
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        let panicked = |_| {
            Err(Error::raise(
                "RuntimeError",
                format!("`{}` panicked", call.function.name),
            ))
        };
        let result = result.unwrap_or_else(panicked);
        let (stop, answered) = answering.outcome();
        self.running.pop();
        if let Some(figures) = &self.service.figures {
            figures.ended(call.function.name, begun.elapsed(), result.is_err());
        }
        match (stop, result) {
            (Some(stop), _) => Err(stop),
            (None, Err(error)) if !answered => self.fail(id, &error),
            (None, Ok(())) if !answered => self.fail(id, &Error::reply("pysecure.InvalidResult", "nothing", true)),
            (None, _) => Ok(()),
        }
    }

    /// Answers a call of a function that this caller may not call, of which nothing but the name was looked at: one that
    /// everybody may call, or none.
    fn refused(&mut self, call: Refused) -> Result<(), Stop> {
        let Refused { id, function } = call;
        if self.turned_away(id)? {
            return Ok(());
        }
        match function.strip_prefix(RESERVED) {
            Some("ping") => self.reply(id, &Value::Nil),
            Some("describe") => self.reply(id, &self.describe()),
            _ => {
                let (service, figures) = (&self.service, self.service.figures.as_ref());
                self.endpoint
                    .refuse(&service.name, &service.functions, figures, &function);
                let none = format!("there is no function `{function}`");
                self.fail(id, &Error::reply("pysecure.NoSuchFunction", none, false))
            }
        }
    }

    fn describe(&self) -> Value {
        let all = self.service.functions.values();
        let theirs = all.filter(|f| self.endpoint.allowed.allows(f.name));
        Value::Array(theirs.map(|f| f.describe()).collect())
    }

    fn reply(&mut self, id: u64, value: &Value) -> Result<(), Stop> {
        match self.send(MessageKind::Ok, id, &|writer| Ok(writer.value(value, 1)?)) {
            Ok(()) => Ok(()),
            Err(NotSent::Stop(stop)) => Err(stop),
            Err(NotSent::Error(error)) => self.fail(id, &error),
        }
    }

    /// Sends a message of one call, which may use the area.
    pub(super) fn send(
        &mut self,
        kind: MessageKind,
        id: u64,
        fill: &dyn Fn(&mut Writer<'_>) -> Result<(), Error>,
    ) -> Result<(), NotSent> {
        if self.had_large && !self.has_area {
            self.has_area = self.endpoint.take_area();
        }
        let free = self.has_area && self.read == Some(self.used);
        let encoded = message::encode(Vec::with_capacity(256), &mut self.outgoing, free, |writer| {
            message::write_answer(writer, kind, id, |w| fill(w))
        });
        let (message, in_area) = encoded.map_err(|e| {
            NotSent::Error(match e {
                Error::Value(WireError::TooLarge(what)) => Error::reply("pysecure.TooLarge", what.to_string(), true),
                e => Error::reply("pysecure.InvalidResult", e.to_string(), true),
            })
        })?;
        let (bytes, fds, unread) = (message.large, message.fds.len(), &self.endpoint.unread);
        self.had_large |= bytes > 0;
        let counts = bytes > 0 || fds > 0;
        if counts && !unread.reserve(bytes, fds) {
            if in_area {
                self.outgoing.forget();
            }
            return Err(NotSent::Error(Error::reply("pysecure.Busy", UNREAD, true)));
        }
        if let Err(error) = incoming::send(self.socket.as_fd(), &message) {
            if counts {
                unread.unreserve(bytes, fds);
            }
            return Err(NotSent::Stop(error.into()));
        }
        if counts {
            unread.sent(self.number, &self.socket, bytes, fds);
        }
        self.used += u64::from(in_area);
        Ok(())
    }

    /// Answers with ERR.
    pub(super) fn fail(&mut self, id: u64, error: &Error) -> Result<(), Stop> {
        let (message, args, ran) = match error {
            Error::Remote { message, args, ran, .. } => (message.clone(), args.as_slice(), *ran),
            other => (other.to_string(), &[][..], true),
        };
        // What was refused may be quoted in it.
        let mut end = message.len().min(MAX_TEXT);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        let message = message::error_message(id, error.class(), &message[..end], args, ran).sealed();
        let message = message.map_err(Stop::Malformed)?;
        Ok(incoming::send(self.socket.as_fd(), &message)?)
    }
}
