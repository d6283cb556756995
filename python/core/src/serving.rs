//! What a service's threads do: wait for events, and serve the calls that are like most by themselves. Everything else is handed to
//! the engine in Python (`_server/engine.py`), by the names that it has there.

use crate::admission::Admission;
use crate::call::{Call, monotonic};
use crate::connection::ServerConn;
use crate::decode::Objects;
use crate::encode::{self, Large};
use crate::failed::Failed;
use crate::fd::{self, Socket};
use crate::figures::Counters;
use crate::handler::{FastHandler, Handler};
use crate::leader::{self, Interest, LeaderFollowers};
use crate::names;
use crate::socket;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString, PyTuple};
use pysecure_wire::kind::MessageKind;
use pysecure_wire::limits::{MAX_MESSAGE, NO_DEADLINE};
use pysecure_wire::message::{CallHead, CallOptions, MessageHead, write_answer};
use pysecure_wire::socket::{Received, receive, send};
use pysecure_wire::{Plain, Reader, ReceivedFds, Spin, Value, Writer};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// A function that took longer, in seconds, has the leadership given away before it runs the next times.
const SLOW: f64 = 0.000_5;
/// Calls that one connection may have open.
const OPEN_CALLS: usize = 256;
/// Events that are taken at once.
const EVENTS: usize = 16;
/// So many events of one connection alone, one after the other, and it is pinned.
const ALONE: u32 = 32;
/// For so long it is waited for the next message of a pinned connection.
const PATIENCE: Duration = Duration::from_millis(10);
/// What failed and should not is not tried again at once.
const MISHAP: Duration = Duration::from_millis(10);

/// What an epoll set is asked for, as `_server/connection.py` has it.
const IN: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

type Threads = LeaderFollowers<EpollSet>;

/// The engine's epoll set, by a descriptor of its own.
#[derive(Default)]
struct EpollSet(OnceLock<OwnedFd>);

impl EpollSet {
    /// The same set for all threads, of which the first to come has it copied.
    fn of(&self, py: Python<'_>, engine: i32) -> std::io::Result<BorrowedFd<'_>> {
        if self.0.get().is_none() {
            let copy = fd::duplicate(py, engine)?;
            // If another thread was first, this copy is closed.
            let _ = self.0.set(copy);
        }
        self.0.get().map(AsFd::as_fd).ok_or_else(|| Errno::BADF.into())
    }
}

impl Interest for EpollSet {
    type Connection = Socket;

    /// One that had to wait until its caller reads was put back by whoever sent to it (`_server/connection.py`, `want`), and asks for
    /// more than this does.
    fn put_back(&self, socket: Socket) -> bool {
        let data = epoll::EventData::new_u64(socket.number() as u64);
        let added = self.0.get().map(|set| epoll::add(set, socket, data, IN));
        matches!(added, Some(Ok(()) | Err(Errno::EXIST)))
    }
}

/// Who of a service's threads leads.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Leader {
    threads: Threads,
    /// Is this a process that the service's own code forked? Then there are no other threads, and a lock may be theirs for ever.
    forked: AtomicBool,
}

#[pymethods]
impl Leader {
    #[new]
    fn new() -> Leader {
        Leader {
            threads: LeaderFollowers::new(EpollSet::default()),
            forked: AtomicBool::new(false),
        }
    }

    /// Before a function runs. What it returns is for `done`.
    fn begin(&self, slow: bool) -> u64 {
        self.threads.begin(slow)
    }

    /// After it ran.
    fn done(&self, run: u64) {
        self.threads.done(run);
    }

    /// May this thread close what an event was for?
    #[getter]
    fn leading(&self) -> bool {
        leader::may_close()
    }

    /// Is this the socket of the connection that is pinned? Then it is closed by the thread that has it, after that has unpinned it.
    fn is_pinned(&self, fd: i32) -> bool {
        self.threads.is_pinned(|socket| socket.number() == fd)
    }

    /// No more: wakes all that wait to lead.
    fn end(&self) {
        self.threads.end();
    }

    /// In a child, where nobody leads.
    fn forked(&self) {
        self.forked.store(true, Ordering::Relaxed);
    }

    /// The monitor; runs in a thread of its own.
    fn watch(&self, py: Python<'_>) {
        py.detach(|| self.threads.monitor());
    }

    /// Leads, again and again, until the end. `server` is a `_server.engine.Engine`.
    fn run<'py>(&self, py: Python<'py>, server: &Bound<'py, PyAny>, epoll: i32) -> PyResult<()> {
        let round = Round::new(server, self.threads.interest().of(py, epoll)?)?;
        let mut spin = Spin::default();
        let mut alone = (-1, 0);
        loop {
            if !py.detach(|| self.threads.lead()) {
                return Ok(());
            }
            while leader::leads() && !self.threads.ended() && !self.forked.load(Ordering::Relaxed) {
                if let Err(error) = round.turn(py, &self.threads, &mut spin, &mut alone) {
                    // Whatever it is, a thread that ends with the lead would take the service with it.
                    let text = format!("while it served: {error}");
                    let _ = server.call_method1(intern!(py, "_say"), (text,));
                    py.detach(|| std::thread::sleep(MISHAP));
                }
            }
            if self.forked.load(Ordering::Relaxed) {
                return Ok(());
            }
            self.threads.resign();
        }
    }
}

/// What a thread needs for serving.
struct Round<'a, 'py> {
    server: Bound<'py, PyAny>,
    connections: Bound<'py, PyDict>,
    gate: Bound<'py, Admission>,
    figures: Bound<'py, Counters>,
    set_context: Bound<'py, PyAny>,
    reset_context: Bound<'py, PyAny>,
    /// `_context.enter` and `leave`.
    enter: Bound<'py, PyAny>,
    leave: Bound<'py, PyAny>,
    epoll: BorrowedFd<'a>,
    /// The process that serves.
    process: u32,
}

/// What came of a message.
enum Came {
    FastHandler,
    /// Nothing was done: Python has to do it all.
    Other(Vec<OwnedFd>),
}

impl<'a, 'py> Round<'a, 'py> {
    fn new(server: &Bound<'py, PyAny>, epoll: BorrowedFd<'a>) -> PyResult<Round<'a, 'py>> {
        let py = server.py();
        let function = py.import("pysecure_rpc._context")?;
        let context = function.getattr("context")?;
        Ok(Round {
            server: server.clone(),
            connections: server.getattr("_connections")?.cast_into()?,
            gate: server.getattr("gate")?.cast_into()?,
            figures: server.getattr("_figures")?.getattr("numbers")?.cast_into()?,
            set_context: context.getattr("set")?,
            reset_context: context.getattr("reset")?,
            enter: function.getattr("enter")?,
            leave: function.getattr("leave")?,
            epoll,
            process: std::process::id(),
        })
    }

    /// Waits for events, and does what they ask for.
    /// `alone`: which connection was the last to have an event, and how often in succession.
    fn turn(&self, py: Python<'py>, lead: &Threads, spinning: &mut Spin, alone: &mut (i32, u32)) -> PyResult<()> {
        let epoll = self.epoll;
        let (many, found) = py.detach(|| {
            let mut events = [Event {
                flags: EventFlags::empty(),
                data: epoll::EventData::new_u64(0),
            }; EVENTS];
            let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
            let into = RefCell::new(&mut events);
            let many = spinning.turn(
                || match epoll::wait(epoll, &mut into.borrow_mut()[..], Some(&zero)) {
                    Ok(0) => Err(Errno::AGAIN),
                    other => other,
                },
                || epoll::wait(epoll, &mut into.borrow_mut()[..], None),
            );
            (many, events.map(|e| (e.data.u64() as i32, e.flags)))
        });
        let many = match many {
            Ok(many) => many,
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(std::io::Error::from(errno).into()),
        };
        let pinned = lead.pinned();
        for (fd, flags) in &found[..many] {
            let Some(connection) = self.connections.get_item(fd)? else {
                continue; // what says stop, or one that is gone
            };
            if pinned {
                lead.call_of_others();
            }
            if let Err(error) = self.event(py, lead, &connection, *flags) {
                self.server.call_method1(intern!(py, "_defect"), (&connection, error))?;
            }
            if !leader::leads() {
                return Ok(()); // whoever leads now is told of the others again
            }
            *alone = match alone {
                (last, times) if last == fd && many == 1 && !pinned => (*fd, *times + 1),
                _ => (*fd, 0),
            };
            if alone.1 >= ALONE {
                alone.1 = 0;
                self.pin(py, lead, &connection, spinning)?;
            }
        }
        Ok(())
    }

    /// May it be pinned? Not if anything but the next message can concern it.
    fn is_quiet(&self, py: Python<'py>, peer: &Bound<'py, ServerConn>) -> PyResult<bool> {
        let peer = peer.try_borrow()?;
        let quiet = !peer.closed && peer.fd >= 0 && !peer.leaving && peer.backlog.is_none();
        Ok(quiet && peer.fast.is_some() && peer.calls.bind(py).is_empty())
    }

    /// Pins a connection to this thread for as long as it calls alone.
    fn pin(
        &self,
        py: Python<'py>,
        lead: &Threads,
        connection: &Bound<'py, PyAny>,
        spinning: &mut Spin,
    ) -> PyResult<()> {
        let peer = connection.cast::<ServerConn>()?;
        if !self.is_quiet(py, peer)? || !lead.claim() {
            return Ok(());
        }
        let socket = socket_of(peer)?.filter(|socket| {
            socket::set_limit(socket.as_fd(), Some(PATIENCE)) && epoll::delete(self.epoll, socket).is_ok()
        });
        let Some(socket) = socket else {
            lead.unclaim();
            return Ok(());
        };
        lead.pin(socket);
        let outcome = self.serve_pinned(py, lead, connection, peer, socket, spinning);
        let is_open = peer.try_borrow().is_ok_and(|peer| !peer.closed);
        if !lead.unpin(is_open) {
            // Nobody else hears of it, so it is this thread's to close.
            self.server.call_method1(intern!(py, "_drop"), (connection, true))?;
        }
        outcome
    }

    fn serve_pinned(
        &self,
        py: Python<'py>,
        lead: &Threads,
        connection: &Bound<'py, PyAny>,
        peer: &Bound<'py, ServerConn>,
        socket: Socket,
        spinning: &mut Spin,
    ) -> PyResult<()> {
        loop {
            let mut buffer = socket::incoming();
            let got = py.detach(|| socket::wait(socket.as_fd(), &mut buffer, spinning));
            let nothing = matches!(got, Err(Errno::AGAIN));
            let outcome = self.came(py, lead, connection, peer, got, &buffer);
            socket::incoming_done(buffer);
            if let Err(error) = outcome {
                self.server.call_method1(intern!(py, "_defect"), (connection, error))?;
            }
            if nothing || !lead.may_stay() || !self.is_quiet(py, peer)? {
                return Ok(());
            }
        }
    }

    fn event(
        &self,
        py: Python<'py>,
        lead: &Threads,
        connection: &Bound<'py, PyAny>,
        flags: EventFlags,
    ) -> PyResult<()> {
        let peer = connection.cast::<ServerConn>()?;
        let plain = !peer.try_borrow()?.closed && !flags.contains(EventFlags::OUT);
        let Some(socket) = socket_of(peer)?.filter(|_| plain) else {
            self.server
                .call_method1(intern!(py, "_event"), (connection, flags.bits()))?;
            return Ok(());
        };
        let mut buffer = socket::incoming();
        let got = receive(socket.as_fd(), &mut buffer, RecvFlags::DONTWAIT);
        let outcome = self.came(py, lead, connection, peer, got, &buffer);
        socket::incoming_done(buffer);
        outcome
    }

    /// Does what a message asks for.
    fn came(
        &self,
        py: Python<'py>,
        lead: &Threads,
        connection: &Bound<'py, PyAny>,
        peer: &Bound<'py, ServerConn>,
        got: Result<Received, Errno>,
        buffer: &[u8],
    ) -> PyResult<()> {
        match got {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok(Received::Message(len, fds)) if len > 0 => match self.fast_call(py, lead, peer, &buffer[..len], fds) {
                Ok(Came::FastHandler) => Ok(()),
                Ok(Came::Other(fds)) => {
                    let data = PyBytes::new(py, &buffer[..len]);
                    let fds: Vec<i32> = fds.into_iter().map(std::os::fd::IntoRawFd::into_raw_fd).collect();
                    self.server
                        .call_method1(intern!(py, "_arrived"), (connection, data, fds))
                        .map(drop)
                }
                Err(error) => Err(error),
            },
            Ok(Received::CutShort) => {
                let error = names::protocol_error(py, "a message is longer than may be, or has too many descriptors");
                self.server
                    .call_method1(intern!(py, "_malformed"), (connection, error))
                    .map(drop)
            }
            Ok(Received::Message(..)) | Err(_) => self
                .server
                .call_method1(intern!(py, "_drop"), (connection, true))
                .map(drop),
        }
    }

    /// A CALL of a function that is like most: from its check to its answer.
    fn fast_call(
        &self,
        py: Python<'py>,
        lead: &Threads,
        peer: &Bound<'py, ServerConn>,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
    ) -> PyResult<Came> {
        let (table, peer_area, calls, caller, number) = {
            let mut borrowed = peer.try_borrow_mut()?;
            let Some(table) = borrowed.fast.as_ref().map(|t| t.clone_ref(py)) else {
                return Ok(Came::Other(fds));
            };
            // An array of few elements, and CALL: all else is Python's.
            let call = matches!(bytes, [0x90..=0x9f, kind, _, ..] if *kind == MessageKind::Call.number());
            if !call || !fds.is_empty() || borrowed.leaving {
                return Ok(Came::Other(fds));
            }
            let peer_area = borrowed.peer_area(py)?;
            let caller = borrowed.caller.as_ref().map(|c| c.clone_ref(py));
            (
                table,
                peer_area,
                borrowed.calls.bind(py).clone(),
                caller,
                borrowed.number,
            )
        };
        let table = table.get();
        let peer_area = peer_area.bind(py);
        // Whatever is wrong with it, Python finds again, and says so.
        let mut none = ReceivedFds::default();
        let read = {
            let peer_area = &mut *peer_area.try_borrow_mut()?;
            let mut reader = Reader::new(bytes, &mut none, &mut peer_area.area);
            Asked::read(py, &mut reader, |name| table.functions.get(name))
        };
        let asked = match read {
            Ok(Some(asked)) => asked,
            Ok(None) | Err(Failed::Wire(_)) => return Ok(Came::Other(Vec::new())),
            Err(Failed::Python(error)) => return Err(error),
        };
        let pace = &asked.handler.pace;
        if calls.len() >= OPEN_CALLS || calls.contains(asked.id)? {
            return Ok(Came::Other(Vec::new()));
        }
        {
            let mut gate = self.gate.try_borrow_mut()?;
            if gate.stopping || !gate.may_run(number) {
                return Ok(Came::Other(Vec::new()));
            }
            gate.begins(number);
        }
        // It has no descriptors, so this counts a use of the area, and refuses nothing.
        let _ = none.finish(&mut peer_area.try_borrow_mut()?.area);
        let run = lead.begin(pace.begin());
        let begun = monotonic();
        let outcome = self.serve(py, peer, &calls, caller, asked, begun);
        pace.ended(outcome.as_ref().map_or_else(|_| monotonic(), |ended| *ended) - begun > SLOW);
        lead.done(run);
        let following = self.gate.try_borrow_mut()?.leave(number);
        if let Some((call, work)) = following {
            self.server.call_method1(intern!(py, "_work_through"), (call, work))?;
        } else if self.gate.try_borrow()?.stopping {
            self.server.call_method0(intern!(py, "_at_rest"))?;
        }
        outcome?;
        Ok(Came::FastHandler)
    }

    /// Runs the function and answers. Returns when the function ended.
    fn serve(
        &self,
        py: Python<'py>,
        peer: &Bound<'py, ServerConn>,
        calls: &Bound<'py, PyDict>,
        caller: Option<Py<PyAny>>,
        asked: Asked<'py, '_>,
        begun: f64,
    ) -> PyResult<f64> {
        self.note_read(py, peer, asked.read)?;
        let served = asked.handler.served.get();
        let traced = asked.trace.is_some();
        let left = asked.left.filter(|left| *left < NO_DEADLINE);
        let deadline = left.map(|left| begun + left as f64 / 1000.0);
        let connection = peer.clone().into_any().unbind();
        let call = Call {
            deadline,
            traceparent: asked.trace.map(|t| PyString::new(py, t).into_any().unbind()),
            begun,
            ..Call::open(connection, asked.id, served.function.clone_ref(py), caller)
        };
        let call = Bound::new(py, call)?;
        calls.set_item(asked.id, &call)?;
        // `enter` does no more than that if there is no trace context.
        let (enter, leave) = match traced {
            true => (&self.enter, &self.leave),
            false => (&self.set_context, &self.reset_context),
        };
        let token = enter.call1((&call,))?;
        let result = served.run.bind(py).call(asked.args, None);
        leave.call1((token,))?;
        let now = monotonic();
        let result = match result {
            Ok(result) => result,
            Err(error) => {
                self.server
                    .call_method1(intern!(py, "_raised"), (&call, error.into_value(py)))?;
                return Ok(now);
            }
        };
        let late = deadline.is_some_and(|deadline| now > deadline);
        // A process that the function forked answers nothing: Python ends it.
        let forked = std::process::id() != self.process;
        let Some(bytes) = encoded(&call, served, &result, late || forked)? else {
            self.server.call_method1(intern!(py, "_returned"), (&call, result))?;
            return Ok(now);
        };
        // Whoever takes it out of the open calls answers it.
        if !calls.get_item(asked.id)?.is_some_and(|open| open.is(&call)) {
            return Ok(now);
        }
        calls.del_item(asked.id)?;
        call.try_borrow_mut()?.answered = true;
        if let Some(slot) = served.slot {
            self.figures.get().ended(slot, now - begun, false);
        }
        // Nothing gives up the interpreter's lock from here to the send, so the socket is still this connection's.
        let open = {
            let peer = peer.try_borrow()?;
            !peer.closed && peer.backlog.is_none()
        };
        let sent = match socket_of(peer)?.filter(|_| open) {
            Some(socket) => send(socket.as_fd(), &bytes, &[], SendFlags::DONTWAIT).is_ok(),
            None => false,
        };
        if !sent {
            self.server
                .call_method1(intern!(py, "_put"), (peer, PyBytes::new(py, &bytes)))?;
        }
        socket::outgoing_done(bytes);
        Ok(now)
    }

    /// The caller has read so many messages that used the area: said only if there is an area that this can free.
    fn note_read(&self, py: Python<'py>, peer: &Bound<'py, ServerConn>, read: Option<u64>) -> PyResult<()> {
        if let Some(read) = read
            && let Some(area) = &peer.try_borrow()?.out_area.as_ref().map(|area| area.clone_ref(py))
            && !area.try_borrow(py).is_ok_and(|area| area.free)
        {
            self.server.call_method1(intern!(py, "_have_read"), (peer, read))?;
        }
        Ok(())
    }
}

/// A connection's socket; None if it has none that others than Python may use.
///
/// It may be used until the interpreter's lock is given up, and by a thread that has the connection pinned before, until that unpins it.
#[allow(unsafe_code)]
fn socket_of(peer: &Bound<'_, ServerConn>) -> PyResult<Option<Socket>> {
    let number = peer.try_borrow()?.fd;
    // SAFETY: `Connection` of `_server/connection.py` owns the socket. Once others know the connection, `Connections.drop` alone closes
    // the socket, and sets the number to -1 before. Both that and this want the interpreter's lock, so the number is the socket's until
    // this thread gives the lock up. `Round::pin` uses it for longer: it pins a connection that is not `closed` before it gives the lock up, and
    // `drop` says `closed` first and closes nothing that is pinned then (`Leader.is_pinned`). The monitor, which has no such lock, uses it
    // only between taking it out of what is pinned and unlocking that, which `is_pinned` waits for.
    Ok(unsafe { Socket::new(number) })
}

/// The answer to a call whose result is plain; None if it is Python's to answer.
#[inline]
fn encoded(
    call: &Bound<'_, Call>,
    served: &FastHandler,
    result: &Bound<'_, PyAny>,
    late: bool,
) -> PyResult<Option<Vec<u8>>> {
    let id = {
        let call = call.try_borrow()?;
        if late || call.answered || call.cancelled {
            return Ok(None);
        }
        call.id
    };
    if !served.result.accepts(result) {
        return Ok(None);
    }
    let mut w = Writer::over(socket::outgoing(), None);
    let written = write_answer(&mut w, MessageKind::Ok, id, |w| {
        encode::put(w, result, 1, Large::Refused)
    });
    let plain = written.is_ok() && w.len() <= MAX_MESSAGE;
    Ok(plain.then(|| w.finish().bytes))
}

/// A CALL, as far as it is plain.
struct Asked<'py, 'a> {
    id: u64,
    handler: &'a Handler,
    args: Bound<'py, PyTuple>,
    left: Option<u64>,
    trace: Option<&'a str>,
    read: Option<u64>,
}

impl<'py, 'a> Asked<'py, 'a> {
    /// None if it is not, or not of a function that this caller may call by the fast path.
    #[inline]
    fn read(
        py: Python<'py>,
        reader: &mut Reader<'a, '_>,
        find: impl FnOnce(&str) -> Option<&'a Handler>,
    ) -> Result<Option<Asked<'py, 'a>>, Failed> {
        let head = MessageHead::read(reader)?;
        let call = CallHead::read(reader, head)?;
        // Before anything is made of its arguments: may this caller call it?
        let Some(handler) = call.function.and_then(find) else {
            return Ok(None);
        };
        let served = handler.served.get();
        let Some(many) = reader.array(1)? else {
            return Ok(None);
        };
        if many < served.needed || many > served.checks.len() {
            return Ok(None);
        }
        let mut args = Vec::with_capacity(many);
        for check in &served.checks[..many] {
            let value = reader.value(&mut Objects(py), 2)?;
            if !check.accepts(&value) {
                return Ok(None);
            }
            args.push(value);
        }
        if !matches!(reader.value(&mut Plain, 1)?, Value::Map(entries) if entries.is_empty()) {
            return Ok(None);
        }
        let options = CallOptions::read(reader, call.options)?;
        // An elapsed deadline is Python's to answer.
        if options.deadline == Some(0) {
            return Ok(None);
        }
        Ok(Some(Asked {
            id: call.id,
            handler,
            args: PyTuple::new(py, args)?,
            left: options.deadline,
            trace: options.traceparent,
            read: options.read.filter(|read| *read > 0),
        }))
    }
}
