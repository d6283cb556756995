//! Who waits for events. Of a service's threads one leads: it waits on the epoll set and runs what comes by itself, which costs no
//! hand-over. While a function runs, the lead lies on the table: if it takes long, the watch takes it from there and wakes
//! another thread to lead. A function that was slow lately has the lead given away before it runs.
//!
//! Where one caller alone calls, again and again, who leads gives that up to stay with its connection: it takes it out of the
//! epoll set and waits for its messages themselves, which is a system call less for each. It puts it back when others
//! call, when nothing comes for a moment, and when a call does not end at once.

use crate::check::Check;
use crate::client::{borrowed, monotonic};
use crate::decode::{Failed, Objects};
use crate::encode::{self, Large};
use crate::figures::Slots;
use crate::names;
use crate::server::{Call, Pace, Peer, Served};
use crate::socket::{self, Got};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};
use pysecure_rpc::Writer;
use pysecure_rpc::spin::Spin;
use pysecure_rpc::value::{Given, Plain, Reader, Value};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::cell::{Cell, RefCell};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A function that took longer has the lead given away before it runs the next times.
const SLOW: f64 = 0.000_5;
/// Once, twice, four times …, up to so many times, while it stays so: that it lost its CPU for a moment does not make it slow.
pub const SLOW_TURNS: u32 = 64;
/// How often the watch looks. A function that is seen twice runs for longer than that.
const TICK: Duration = Duration::from_millis(1);
/// It sleeps after having seen nothing so often.
const QUIET_TICKS: u32 = 20;
/// Calls that one connection may have open.
const OPEN_CALLS: usize = 256;
/// Events that are taken at once.
const EVENTS: usize = 16;
/// So many events of one connection alone, one after the other, and its messages are waited for themselves.
const ALONE: u32 = 32;
/// For so long.
const PATIENCE: Duration = Duration::from_millis(10);
/// What failed and should not is not tried again at once.
const MISHAP: Duration = Duration::from_millis(10);
/// What an epoll set is asked for, as `_server.py` has it.
const IN: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

/// What a thread does. Who leads or stays may close what the message came from.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    /// It waits to lead, or runs something.
    None,
    Leads,
    /// With the connection of this descriptor, which is not in this epoll set meanwhile.
    Stays {
        fd: i32,
        epoll: i32,
    },
}

thread_local! {
    static ROLE: Cell<Role> = const { Cell::new(Role::None) };
}

fn leads() -> bool {
    ROLE.get() == Role::Leads
}

/// False if it cannot be: then nobody would hear of the connection any more. One that had to wait until its caller reads was
/// put back by whoever sent to it (`_server.py`, `_want`), and asks for more than this does.
fn put_back(fd: i32, epoll: i32) -> bool {
    let data = epoll::EventData::new_u64(fd as u64);
    matches!(
        epoll::add(borrowed(epoll), borrowed(fd), data, IN),
        Ok(()) | Err(Errno::EXIST)
    )
}

#[derive(Default)]
struct State {
    led: bool,
    ended: bool,
    watching: bool,
}

#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Lead {
    state: Mutex<State>,
    vacant: Condvar,
    awake: Condvar,
    ended: AtomicBool,
    /// The number of the run for which the lead lies on the table; 0 if it does not.
    table: AtomicU64,
    runs: AtomicU64,
    /// Is the watch looking?
    watching: AtomicBool,
    /// Does a thread stay with a connection?
    staying: AtomicBool,
    /// Have others called since?
    company: AtomicBool,
    /// The number of the run of who stays; 0 if there is none. And its connection and epoll set.
    side_table: AtomicU64,
    side_fds: AtomicU64,
    /// Could the connection that was stayed with not be put back?
    lost: AtomicBool,
}

impl Lead {
    fn put_back(&self, fd: i32, epoll: i32) {
        if !put_back(fd, epoll) {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn give(&self) {
        self.state().led = false;
        self.vacant.notify_one();
    }

    /// Waits to lead. False at the end.
    fn take(&self) -> bool {
        let mut state = self.state();
        while state.led && !state.ended {
            state = self.vacant.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended {
            return false;
        }
        state.led = true;
        ROLE.set(Role::Leads);
        true
    }

    /// Puts the number of a run where the watch finds it.
    fn lay(&self, table: &AtomicU64) -> u64 {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        table.store(run, Ordering::SeqCst);
        if !self.watching.load(Ordering::SeqCst) {
            // Both in one go: said after the watch had slept again, it would never be woken.
            let mut state = self.state();
            state.watching = true;
            self.watching.store(true, Ordering::SeqCst);
            self.awake.notify_one();
        }
        run
    }
}

/// Takes the number of a run away. False if it is not there any more.
fn take(table: &AtomicU64, run: u64) -> bool {
    table
        .compare_exchange(run, 0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}

#[pymethods]
impl Lead {
    #[new]
    fn new() -> Lead {
        Lead {
            state: Mutex::default(),
            vacant: Condvar::new(),
            awake: Condvar::new(),
            ended: AtomicBool::new(false),
            table: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            watching: AtomicBool::new(false),
            staying: AtomicBool::new(false),
            company: AtomicBool::new(false),
            side_table: AtomicU64::new(0),
            side_fds: AtomicU64::new(0),
            lost: AtomicBool::new(false),
        }
    }

    /// Before a function runs. What it returns is for `done`.
    fn begin(&self, slow: bool) -> u64 {
        match ROLE.replace(Role::None) {
            Role::None => 0,
            Role::Leads if slow => {
                self.give();
                0
            }
            Role::Leads => self.lay(&self.table),
            Role::Stays { fd, epoll } if slow => {
                self.put_back(fd, epoll);
                0
            }
            Role::Stays { fd, epoll } => {
                self.side_fds.store((epoll as u64) << 32 | fd as u64, Ordering::Relaxed);
                self.lay(&self.side_table)
            }
        }
    }

    /// After it ran.
    fn done(&self, run: u64) {
        if run == 0 {
            return;
        }
        if take(&self.table, run) {
            ROLE.set(Role::Leads);
        } else if take(&self.side_table, run) {
            let fds = self.side_fds.load(Ordering::Relaxed);
            ROLE.set(Role::Stays {
                fd: fds as u32 as i32,
                epoll: (fds >> 32) as i32,
            });
        }
    }

    /// May this thread close what an event was for?
    #[getter]
    fn leading(&self) -> bool {
        ROLE.get() != Role::None
    }

    /// No more: wakes all that wait to lead.
    fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.ended.store(true, Ordering::Release);
        self.vacant.notify_all();
        self.awake.notify_all();
    }

    /// The watch; runs in a thread of its own.
    fn watch(&self, py: Python<'_>) {
        py.detach(|| {
            let (mut seen, mut seen_aside) = (0, 0);
            let mut quiet = 0;
            loop {
                {
                    let mut state = self.state();
                    while !state.watching && !state.ended {
                        state = self.awake.wait(state).unwrap_or_else(PoisonError::into_inner);
                    }
                    if state.ended {
                        return;
                    }
                }
                std::thread::sleep(TICK);
                let runs = self.runs.load(Ordering::Relaxed);
                let run = self.table.load(Ordering::Acquire);
                let aside = self.side_table.load(Ordering::Acquire);
                if aside != 0 && aside == seen_aside {
                    // Who stays is in a call, and does not touch the connection's place in the set before it is done with it.
                    let fds = self.side_fds.load(Ordering::Relaxed);
                    if take(&self.side_table, aside) {
                        self.put_back(fds as u32 as i32, (fds >> 32) as i32);
                    }
                }
                seen_aside = aside;
                if run != 0 && run == seen {
                    if take(&self.table, run) {
                        self.give();
                    }
                } else if run == 0 && aside == 0 && runs == seen {
                    quiet += 1;
                    if quiet >= QUIET_TICKS {
                        quiet = 0;
                        let mut state = self.state();
                        // A run that begins now sees that nobody watches, or is seen here.
                        self.watching.store(false, Ordering::SeqCst);
                        state.watching = [&self.table, &self.side_table]
                            .iter()
                            .any(|t| t.load(Ordering::SeqCst) != 0);
                        self.watching.store(state.watching, Ordering::SeqCst);
                    }
                    continue;
                }
                quiet = 0;
                seen = if run != 0 { run } else { runs };
            }
        });
    }

    /// Leads, again and again, until the end. `server` is a `_server.Server`.
    fn run<'py>(&self, py: Python<'py>, server: &Bound<'py, PyAny>, epoll: i32) -> PyResult<()> {
        let round = Round::new(server, epoll)?;
        let mut spin = Spin::default();
        let mut alone = (-1, 0);
        loop {
            if !py.detach(|| self.take()) {
                return Ok(());
            }
            while leads() && !self.ended.load(Ordering::Acquire) {
                if let Err(error) = round.turn(py, self, &mut spin, &mut alone) {
                    // Whatever it is, a thread that ends with the lead would take the service with it.
                    let text = format!("while it served: {error}");
                    let _ = server.call_method1(intern!(py, "_say"), (text,));
                    py.detach(|| std::thread::sleep(MISHAP));
                }
            }
            if ROLE.replace(Role::None) == Role::Leads {
                self.give();
            }
        }
    }
}

/// What a thread needs for serving.
struct Round<'py> {
    server: Bound<'py, PyAny>,
    connections: Bound<'py, PyDict>,
    gate: Bound<'py, crate::server::Gate>,
    figures: Bound<'py, Slots>,
    set_context: Bound<'py, PyAny>,
    reset_context: Bound<'py, PyAny>,
    /// `_context.enter` and `leave`.
    enter: Bound<'py, PyAny>,
    leave: Bound<'py, PyAny>,
    epoll: i32,
}

/// What came of a message.
enum Came {
    Served,
    /// Nothing was done: Python has to do it all.
    Other(Vec<OwnedFd>),
}

impl<'py> Round<'py> {
    fn new(server: &Bound<'py, PyAny>, epoll: i32) -> PyResult<Round<'py>> {
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
        })
    }

    /// Waits for events, and does what they ask for.
    /// `alone`: which connection was the last to have an event, and how often in succession.
    fn turn(&self, py: Python<'py>, lead: &Lead, spinning: &mut Spin, alone: &mut (i32, u32)) -> PyResult<()> {
        let epoll = borrowed(self.epoll);
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
        let staying = lead.staying.load(Ordering::Relaxed);
        for (fd, flags) in &found[..many] {
            let Some(connection) = self.connections.get_item(fd)? else {
                continue; // what says stop, or one that is gone
            };
            if staying {
                lead.company.store(true, Ordering::Relaxed);
            }
            if let Err(error) = self.event(py, lead, &connection, *flags) {
                self.server.call_method1(intern!(py, "_defect"), (&connection, error))?;
            }
            if !leads() {
                return Ok(()); // whoever leads now is told of the others again
            }
            *alone = match alone {
                (last, times) if last == fd && many == 1 && !staying => (*fd, *times + 1),
                _ => (*fd, 0),
            };
            if alone.1 >= ALONE {
                alone.1 = 0;
                self.stay(py, lead, &connection, spinning)?;
            }
        }
        Ok(())
    }

    /// May its messages be waited for themselves? Not if anything but the next message can concern it.
    fn quiet(&self, py: Python<'py>, peer: &Bound<'py, Peer>) -> PyResult<bool> {
        let peer = peer.try_borrow()?;
        let quiet = !peer.closed && peer.fd >= 0 && !peer.leaving && peer.backlog.is_none();
        Ok(quiet && peer.quick.is_some() && peer.calls.bind(py).is_empty())
    }

    /// Gives the lead away to stay with a connection for as long as it calls alone.
    fn stay(&self, py: Python<'py>, lead: &Lead, connection: &Bound<'py, PyAny>, spinning: &mut Spin) -> PyResult<()> {
        let peer = connection.cast::<Peer>()?;
        if !self.quiet(py, peer)? || lead.staying.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let fd = peer.try_borrow()?.fd;
        let socket = borrowed(fd);
        let bounded = socket::set_limit(socket, Some(PATIENCE));
        if !bounded || epoll::delete(borrowed(self.epoll), socket).is_err() {
            lead.staying.store(false, Ordering::Relaxed);
            return Ok(());
        }
        lead.company.store(false, Ordering::Relaxed);
        ROLE.set(Role::Stays { fd, epoll: self.epoll });
        lead.give();
        let outcome = self.stay_with(py, lead, connection, peer, spinning);
        if let Role::Stays { fd, epoll } = ROLE.replace(Role::None)
            && peer.try_borrow().is_ok_and(|peer| peer.fd >= 0)
        {
            lead.put_back(fd, epoll);
        }
        let lost = lead.lost.swap(false, Ordering::Relaxed);
        lead.staying.store(false, Ordering::Relaxed);
        if lost {
            // Nobody else hears of it, so it is this thread's to close.
            self.server.call_method1(intern!(py, "_drop"), (connection, true))?;
        }
        outcome
    }

    fn stay_with(
        &self,
        py: Python<'py>,
        lead: &Lead,
        connection: &Bound<'py, PyAny>,
        peer: &Bound<'py, Peer>,
        spinning: &mut Spin,
    ) -> PyResult<()> {
        let socket = borrowed(peer.try_borrow()?.fd);
        loop {
            let mut buffer = socket::incoming();
            let got = py.detach(|| socket::wait(socket, &mut buffer, spinning));
            let nothing = matches!(got, Err(Errno::AGAIN));
            let outcome = self.came(py, lead, connection, peer, got, &buffer);
            socket::incoming_done(buffer);
            if let Err(error) = outcome {
                self.server.call_method1(intern!(py, "_defect"), (connection, error))?;
            }
            let on = !nothing
                && matches!(ROLE.get(), Role::Stays { .. })
                && self.quiet(py, peer)?
                && !lead.company.load(Ordering::Relaxed)
                && !lead.ended.load(Ordering::Relaxed);
            if !on {
                return Ok(());
            }
        }
    }

    fn event(&self, py: Python<'py>, lead: &Lead, connection: &Bound<'py, PyAny>, flags: EventFlags) -> PyResult<()> {
        let peer = connection.cast::<Peer>()?;
        let (fd, plain) = {
            let peer = peer.try_borrow()?;
            (peer.fd, !peer.closed && !flags.contains(EventFlags::OUT))
        };
        if !plain || fd < 0 {
            self.server
                .call_method1(intern!(py, "_event"), (connection, flags.bits()))?;
            return Ok(());
        }
        let mut buffer = socket::incoming();
        let got = socket::receive(borrowed(fd), &mut buffer, RecvFlags::DONTWAIT);
        let outcome = self.came(py, lead, connection, peer, got, &buffer);
        socket::incoming_done(buffer);
        outcome
    }

    /// Does what a message asks for.
    fn came(
        &self,
        py: Python<'py>,
        lead: &Lead,
        connection: &Bound<'py, PyAny>,
        peer: &Bound<'py, Peer>,
        got: Result<Got, Errno>,
        buffer: &[u8],
    ) -> PyResult<()> {
        match got {
            Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Ok(Got::Message(len, fds)) if len > 0 => match self.quick(py, lead, peer, &buffer[..len], fds) {
                Ok(Came::Served) => Ok(()),
                Ok(Came::Other(fds)) => {
                    let data = PyBytes::new(py, &buffer[..len]);
                    let fds: Vec<i32> = fds.into_iter().map(std::os::fd::IntoRawFd::into_raw_fd).collect();
                    self.server
                        .call_method1(intern!(py, "_arrived"), (connection, data, fds))
                        .map(drop)
                }
                Err(error) => Err(error),
            },
            Ok(Got::CutShort) => {
                let error = names::protocol_error(py, "a message is longer than may be, or has too many descriptors");
                self.server
                    .call_method1(intern!(py, "_malformed"), (connection, error))
                    .map(drop)
            }
            Ok(Got::Message(..)) | Err(_) => self
                .server
                .call_method1(intern!(py, "_drop"), (connection, true))
                .map(drop),
        }
    }

    /// A CALL of a function that is like most: from its check to its answer.
    fn quick(
        &self,
        py: Python<'py>,
        lead: &Lead,
        peer: &Bound<'py, Peer>,
        bytes: &[u8],
        fds: Vec<OwnedFd>,
    ) -> PyResult<Came> {
        let (table, kept, calls, caller, number) = {
            let mut borrowed = peer.try_borrow_mut()?;
            let Some(table) = borrowed.quick.as_ref().map(|t| t.clone_ref(py)) else {
                return Ok(Came::Other(fds));
            };
            if bytes.len() < 3 || bytes[0] & 0xf0 != 0x90 || bytes[1] != 2 || !fds.is_empty() || borrowed.leaving {
                return Ok(Came::Other(fds));
            }
            let kept = borrowed.kept(py)?;
            let caller = borrowed.caller.as_ref().map(|c| c.clone_ref(py));
            (table, kept, borrowed.calls.bind(py).clone(), caller, borrowed.number)
        };
        let table = table.get();
        let kept = kept.bind(py);
        // Whatever is wrong with it, Python finds again, and says so.
        let mut given = Given::default();
        let read = {
            let kept = &mut *kept.try_borrow_mut()?;
            let mut reader = Reader::new(bytes, &mut given, &mut kept.area);
            Asked::read(py, &mut reader, |name| table.functions.get(name))
        };
        let asked = match read {
            Ok(Some(asked)) => asked,
            Ok(None) | Err(Failed::Wire(_)) => return Ok(Came::Other(Vec::new())),
            Err(Failed::Python(error)) => return Err(error),
        };
        let (served, pace) = (asked.served.0.get(), &asked.served.1);
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
        kept.try_borrow_mut()?.read += u64::from(given.from_area);
        let run = lead.begin(pace.begin());
        let begun = monotonic();
        let outcome = self.serve(py, peer, &calls, caller, served, asked, begun);
        pace.ended(outcome.as_ref().map_or_else(|_| monotonic(), |ended| *ended) - begun > SLOW);
        lead.done(run);
        let following = self.gate.try_borrow_mut()?.leave(number);
        if let Some((call, work)) = following {
            self.server.call_method1(intern!(py, "_work_through"), (call, work))?;
        } else if self.gate.try_borrow()?.stopping {
            self.server.call_method0(intern!(py, "_at_rest"))?;
        }
        outcome?;
        Ok(Came::Served)
    }

    /// When the function ended.
    #[allow(clippy::too_many_arguments)]
    fn serve(
        &self,
        py: Python<'py>,
        peer: &Bound<'py, Peer>,
        calls: &Bound<'py, PyDict>,
        caller: Option<Py<PyAny>>,
        served: &Served,
        asked: Asked<'py, '_>,
        begun: f64,
    ) -> PyResult<f64> {
        // Only if there is something that it can free.
        if let Some(read) = asked.read
            && let Some(area) = &peer.try_borrow()?.out_area.as_ref().map(|area| area.clone_ref(py))
            && !area.try_borrow(py).is_ok_and(|area| area.free)
        {
            self.server.call_method1(intern!(py, "_have_read"), (peer, read))?;
        }
        let traced = asked.trace.is_some();
        let left = asked.left.filter(|left| *left < NO_DEADLINE);
        let deadline = left.map(|left| begun + left as f64 / 1000.0);
        let call = Call {
            deadline,
            traceparent: asked
                .trace
                .map(|t| pyo3::types::PyString::new(py, &t).into_any().unbind()),
            begun,
            ..Call::open(
                peer.clone().into_any().unbind(),
                asked.id,
                served.function.clone_ref(py),
                caller,
            )
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
        let usual = deadline.is_some_and(|deadline| now > deadline) || {
            let call = call.try_borrow()?;
            call.answered || call.cancelled
        };
        let mut written = None;
        if !usual && served.result.accepts(&result) {
            let mut w = Writer::over(socket::outgoing());
            w.array(3);
            w.uint(3);
            w.int(asked.id);
            if encode::put(&mut w, &result, 1, &mut Large::Refused).is_ok() && w.len() <= crate::message::LONGEST {
                written = Some(w.finish().bytes);
            }
        }
        let Some(bytes) = written else {
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
        let (fd, open) = {
            let peer = peer.try_borrow()?;
            (peer.fd, !peer.closed && peer.backlog.is_none())
        };
        let sent = match open {
            true => socket::send(borrowed(fd), &bytes, &[], SendFlags::DONTWAIT).is_ok(),
            false => false,
        };
        if !sent {
            self.server
                .call_method1(intern!(py, "_put"), (peer, PyBytes::new(py, &bytes)))?;
        }
        socket::outgoing_done(bytes);
        Ok(now)
    }
}

/// As `_server.py` has it.
const NO_DEADLINE: i64 = 1_000_000_000_000;

/// A CALL, as far as it is plain.
struct Asked<'py, 'a> {
    id: i64,
    served: &'a (Py<Served>, Pace),
    args: Bound<'py, PyTuple>,
    left: Option<i64>,
    trace: Option<String>,
    read: Option<i64>,
}

impl<'py, 'a> Asked<'py, 'a> {
    /// None if it is not, or not of a function in this caller's table.
    fn read(
        py: Python<'py>,
        reader: &mut Reader<'_>,
        find: impl FnOnce(&str) -> Option<&'a (Py<Served>, Pace)>,
    ) -> Result<Option<Asked<'py, 'a>>, Failed> {
        let Some(elements @ 5..=9) = reader.array(0)? else {
            return Ok(None);
        };
        let plain = &mut Plain;
        let kind = reader.value(plain, 1)?;
        let id = reader.value(plain, 1)?;
        let (Value::Int(2), Value::Int(id @ 1..=0x20_0000_0000_0000)) = (kind, id) else {
            return Ok(None);
        };
        // Before anything is made of its arguments: may this caller call it?
        let Some(served) = reader.short_str()?.and_then(find) else {
            return Ok(None);
        };
        let checks: &[Check] = &served.0.get().checks;
        let Some(many) = reader.array(1)? else {
            return Ok(None);
        };
        if many < served.0.get().needed || many > checks.len() {
            return Ok(None);
        }
        let mut args = Vec::with_capacity(many);
        for check in &checks[..many] {
            let value = reader.value(&mut Objects(py), 2)?;
            if !check.accepts(&value) {
                return Ok(None);
            }
            args.push(value);
        }
        if !matches!(reader.value(plain, 1)?, Value::Map(entries) if entries.is_empty()) {
            return Ok(None);
        }
        let mut asked = Asked {
            id,
            served,
            args: PyTuple::new(py, args)?,
            left: None,
            trace: None,
            read: None,
        };
        if elements == 5 {
            return Ok(reader.end().is_ok().then_some(asked));
        }
        // An elapsed deadline, and whatever is of another kind, is Python's to answer.
        match reader.value(plain, 1)? {
            Value::Nil => {}
            Value::Int(left @ 1..) => asked.left = Some(left),
            _ => return Ok(None),
        }
        if elements == 6 {
            return Ok(reader.end().is_ok().then_some(asked));
        }
        match reader.value(plain, 1)? {
            Value::Nil => {}
            Value::Str(trace) => asked.trace = Some(trace),
            _ => return Ok(None),
        }
        if elements == 7 {
            return Ok(reader.end().is_ok().then_some(asked));
        }
        match reader.value(plain, 1)? {
            Value::Nil | Value::Int(0) => {}
            Value::Int(read @ 1..) => asked.read = Some(read),
            _ => return Ok(None),
        }
        if elements == 8 {
            return Ok(reader.end().is_ok().then_some(asked));
        }
        if !matches!(reader.value(plain, 1)?, Value::Nil | Value::Int(0..=0x8000_0000)) {
            return Ok(None);
        }
        Ok(reader.end().is_ok().then_some(asked))
    }
}
