//! The service's side: takes the sockets that the supervisor made, one for each caller, and answers what comes in on
//! them. Who calls is the name of the socket; what that caller may call is looked up before anything else, and a function
//! outside its list is answered as one that there is not.

use crate::client::{Context, RESERVED};
use crate::error::Error;
use crate::figures::Figures;
use crate::function::{Arguments, Function};
use crate::lobby::Lobby;
use crate::memfd::Outgoing;
use crate::socket::{self, Came, Incoming, SocketError};
use crate::value::{Value, WireError};
use crate::writer::{Message, Writer};
use nix::sys::signal::{SigSet, Signal};
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What a caller has not read, in bytes: with so much its calls are refused, and with so much nothing is added to it.
fn much() -> usize {
    (2 * crate::value::largest()).max(8 << 20)
}
fn too_much() -> usize {
    (4 * crate::value::largest()).max(16 << 20)
}
/// So many connections of a caller have areas, which stay as long as they do.
const MOST_AREAS: usize = 16;
/// A connection takes so many descriptors: its socket, and an area for each direction. A thread takes so many: a message's.
const OF_CONNECTION: usize = 3;
const OF_THREAD: usize = 16;
/// How often it is looked whether a caller has read more, which no event tells.
const MOMENT: Duration = Duration::from_millis(10);

/// The first descriptor handed over; sd_listen_fds(3).
const FIRST: RawFd = 3;
/// Name of sockets that are not RPC's.
const LISTEN: &str = "listen";
/// The most connections of one caller.
const MOST_CONNECTIONS: usize = 1024;
/// How long nothing comes before a connection gives up its thread.
const RESTLESS: Duration = Duration::from_millis(50);
/// How long a caller may not read what it is sent.
const LONGEST_WRITE: Duration = Duration::from_secs(60);
/// The most bytes of an error's text.
const MOST_TEXT: usize = 4_000;
/// The most streams of one connection that wait for credit, each within the one before.
const MOST_STREAMS: usize = 32;

/// The last number of a call.
const LAST_ID: i64 = 1 << 53;
/// So many milliseconds, 31 years, are no deadline: timers need not count so far.
const NO_DEADLINE: u64 = 1_000_000_000_000;

static SERVES: OnceLock<String> = OnceLock::new();
static TAKEN: AtomicBool = AtomicBool::new(false);

thread_local! {
    static CALLER: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Who called the function that runs in this thread; `None` outside a call, and for a caller without a name.
pub fn caller() -> Option<String> {
    CALLER.with_borrow(Clone::clone)
}

/// Is this process the service of that name?
pub fn runs_here(service: &str) -> bool {
    SERVES.get().is_some_and(|name| name == service)
}

/// What one caller may call.
enum Granted {
    All,
    These(HashSet<String>),
}

impl Granted {
    fn holds(&self, name: &str) -> bool {
        match self {
            Granted::All => true,
            Granted::These(names) => names.contains(name),
        }
    }
}

/// A listening socket, and all that is the same for each connection to it.
struct Door {
    /// In the order of the sockets, from 0.
    number: u64,
    /// As the socket is called; `None` outside PySecure.
    caller: Option<String>,
    socket: OwnedFd,
    granted: Granted,
    hello: Vec<u8>,
    connections: Mutex<usize>,
    most_connections: usize,
    pub(crate) most_threads: usize,
    /// Connections that have an area.
    areas: AtomicUsize,
    unread: Mutex<Unread>,
    /// Descriptors that may be on their way to this caller.
    most_unread: usize,
    refused: Mutex<HashMap<&'static str, u64>>,
}

/// What was sent by memfd and not read, by the numbers of the connections.
#[derive(Default)]
struct Unread {
    of: HashMap<u64, (Arc<OwnedFd>, usize, usize)>,
    bytes: usize,
    fds: usize,
}

impl Unread {
    fn add(&mut self, number: u64, socket: &Arc<OwnedFd>, bytes: usize, fds: usize) {
        let of = self.of.entry(number).or_insert_with(|| (socket.clone(), 0, 0));
        of.1 += bytes;
        of.2 += fds;
        self.bytes += bytes;
        self.fds += fds;
    }

    fn remove(&mut self, number: u64) {
        if let Some((_, bytes, fds)) = self.of.remove(&number) {
            self.bytes -= bytes;
            self.fds -= fds;
        }
    }

    /// Forgets what has been read meanwhile.
    fn recount(&mut self) {
        let read = |(_, (socket, _, _)): &(&u64, &(Arc<OwnedFd>, usize, usize))| socket::all_read(socket.as_fd());
        let read: Vec<u64> = self.of.iter().filter(read).map(|(number, _)| *number).collect();
        for number in read {
            self.remove(number);
        }
    }
}

impl Door {
    /// May so much more be held for this caller, of so much at most?
    fn has_room(&self, bytes: usize, fds: usize, most: usize) -> bool {
        let mut unread = held(&self.unread);
        let fits = |unread: &Unread| unread.bytes + bytes <= most && unread.fds + fds <= self.most_unread;
        if fits(&unread) {
            return true;
        }
        unread.recount();
        fits(&unread)
    }
}

struct Service {
    name: String,
    functions: BTreeMap<&'static str, &'static Function>,
    open: Mutex<Vec<(u64, Arc<OwnedFd>)>>,
    all_closed: Condvar,
    ends: AtomicBool,
    figures: Option<Figures>,
    lobby: Arc<Lobby>,
}

/// A panic in a function leaves what it held as it was; counts and lists are whole at any time.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Serves the functions of this program whose `run_as` is `name`, until SIGTERM; what runs then is answered first.
/// To be called before the program starts threads, which would take the signal.
pub fn start_service(name: &str) -> Result<(), Error> {
    let wrong = |problem: String| Error::Serve {
        service: name.to_owned(),
        problem,
    };
    let functions: BTreeMap<_, _> = inventory::iter::<Function>
        .into_iter()
        .filter(|f| f.service == name)
        .map(|f| (f.name, f))
        .collect();
    if functions.is_empty() {
        return Err(wrong(format!("no function has #[rpc(run_as = \"{name}\")]")));
    }
    let doors = doors(name, &functions).map_err(wrong)?;
    if SERVES.set(name.to_owned()).is_err() {
        return Err(wrong("this process serves already".into()));
    }
    let mut term = SigSet::empty();
    term.add(Signal::SIGTERM);
    term.thread_block().map_err(|e| wrong(format!("block SIGTERM: {e}")))?;
    let figures = Figures::under_pysecure(functions.keys().copied());
    let service = Arc::new(Service {
        name: name.to_owned(),
        functions,
        open: Mutex::default(),
        all_closed: Condvar::new(),
        ends: AtomicBool::new(false),
        figures,
        lobby: Arc::new(Lobby::new().map_err(|e| wrong(format!("make an epoll: {e}")))?),
    });
    let doors: Vec<Arc<Door>> = doors.into_iter().map(Arc::new).collect();
    // A thread waits for the signal, and ends the accepting by a pipe that closes.
    let (ended, ends) = std::io::pipe().map_err(|e| wrong(format!("make a pipe: {e}")))?;
    let waiting = std::thread::Builder::new().spawn(move || {
        let _ = term.wait();
        drop(ends);
    });
    waiting.map_err(|e| wrong(format!("start a thread: {e}")))?;
    ready().map_err(|e| wrong(format!("say that it is ready: {e}")))?;
    // The doors are watched by their numbers, the pipe by the next one, and connections by all that follow.
    let lobby = &service.lobby;
    let watched = doors
        .iter()
        .zip(0..)
        .try_for_each(|(door, n)| lobby.watch(&door.socket, n));
    let end = doors.len() as u64;
    let watched = watched.and_then(|()| lobby.watch(&ended, end));
    watched.map_err(|errno| wrong(format!("watch for callers: {errno}")))?;
    let mut number = end;
    'serves: loop {
        let came = lobby.wait();
        for one in came.map_err(|errno| wrong(format!("wait for callers: {errno}")))? {
            match doors.get(one as usize) {
                Some(door) => {
                    number += 1;
                    accept(&service, door, number);
                }
                None if one == end => break 'serves,
                None => lobby.wake(one),
            }
        }
    }
    drain(&service);
    Ok(())
}

/// No new calls; those that run are answered.
fn drain(service: &Service) {
    service.ends.store(true, Ordering::SeqCst);
    let open = held(&service.open);
    for (_, socket) in open.iter() {
        let mut goaway = Writer::message(2);
        goaway.uint(9);
        goaway.str("the service ends");
        let bytes = goaway.finish().bytes;
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        let _ = rustix::net::send(socket, &bytes, flags);
        let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Read);
    }
    drop(open);
    service.lobby.close();
    let mut open = held(&service.open);
    while !open.is_empty() {
        open = service.all_closed.wait(open).unwrap_or_else(PoisonError::into_inner);
    }
}

fn accept(service: &Arc<Service>, door: &Arc<Door>, number: u64) {
    let flags = SocketFlags::CLOEXEC;
    let socket = match rustix::net::accept_with(&door.socket, flags) {
        Ok(socket) => Arc::new(socket),
        Err(_) => {
            // Out of descriptors: those that are open have to end first.
            std::thread::sleep(Duration::from_millis(10));
            return;
        }
    };
    {
        let mut connections = held(&door.connections);
        if *connections >= door.most_connections {
            drop(connections);
            let busy = error("pysecure.Busy", "too many connections of this caller", false);
            let busy = write_error(Writer::message(7), 0, &busy);
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            let _ = rustix::net::send(&socket, &busy.bytes, flags);
            return;
        }
        *connections += 1;
    }
    for (which, time) in [(Timeout::Send, LONGEST_WRITE), (Timeout::Recv, RESTLESS)] {
        let _ = rustix::net::sockopt::set_socket_timeout(&socket, which, Some(time));
    }
    held(&service.open).push((number, socket.clone()));
    let one = Session {
        service: service.clone(),
        door: door.clone(),
        socket,
        number,
        incoming: Incoming::default(),
        outgoing: Outgoing::default(),
        used: 0,
        read: None,
        has_area: false,
        had_large: false,
        streams: Vec::new(),
    };
    // The socket is new and holds a message, so this waits for nobody.
    if rustix::net::send(&one.socket, &one.door.hello, rustix::net::SendFlags::NOSIGNAL).is_ok() {
        service.lobby.rest(one, true);
    }
}

/// One connection.
pub(crate) struct Session {
    service: Arc<Service>,
    door: Arc<Door>,
    socket: Arc<OwnedFd>,
    number: u64,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Messages sent that used the area, and how many of those the caller has read; `None` if it does not say.
    used: u64,
    read: Option<u64>,
    /// May it have an area, and did it have anything to put there?
    has_area: bool,
    had_large: bool,
    /// Streams that run, the innermost last: while one waits for credit, calls that come are answered.
    streams: Vec<Credit>,
}

struct Credit {
    id: u64,
    left: u64,
    wanted: bool,
}

/// Why a connection is served no longer.
enum Stop {
    Closed,
    /// Its messages are none.
    Refused(String),
}

impl From<SocketError> for Stop {
    fn from(error: SocketError) -> Stop {
        match error {
            SocketError::Wire(error) => Stop::Refused(error.to_string()),
            _ => Stop::Closed,
        }
    }
}

impl From<&str> for Stop {
    fn from(problem: &str) -> Stop {
        Stop::Refused(problem.to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        *held(&self.door.connections) -= 1;
        held(&self.door.unread).remove(self.number);
        if self.has_area {
            self.door.areas.fetch_sub(1, Ordering::Relaxed);
        }
        held(&self.service.open).retain(|(number, _)| *number != self.number);
        self.service.all_closed.notify_all();
    }
}

/// What ERR says of an error.
fn write_error(mut writer: Writer<'_>, id: u64, error: &Error) -> Message {
    let (class, message, args, ran) = match error {
        Error::Remote {
            class,
            message,
            args,
            ran,
        } => (class.as_str(), message.clone(), args.as_slice(), *ran),
        other => (other.class(), other.to_string(), &[][..], true),
    };
    writer.uint(4);
    writer.uint(id);
    writer.str(class);
    // What was refused may be quoted in it.
    let end = (0..=message.len().min(MOST_TEXT))
        .rev()
        .find(|at| message.is_char_boundary(*at));
    writer.str(&message[..end.unwrap_or(0)]);
    // Values that cannot cross are left out; the text says the same.
    let mut inside = Writer::bare();
    let crosses = args.iter().all(|arg| inside.at(arg, 2).is_ok());
    writer.array(if crosses { args.len() } else { 0 });
    for arg in args.iter().filter(|_| crosses) {
        let _ = writer.at(arg, 2);
    }
    writer.nil();
    writer.bool(ran);
    writer.finish()
}

fn error(class: &str, message: impl Into<String>, ran: bool) -> Error {
    Error::Remote {
        class: class.to_owned(),
        message: message.into(),
        args: Vec::new(),
        ran,
    }
}

impl Session {
    pub(crate) fn door(&self) -> u64 {
        self.door.number
    }

    pub(crate) fn most_threads(&self) -> usize {
        self.door.most_threads
    }

    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn socket(&self) -> Arc<OwnedFd> {
        self.socket.clone()
    }

    /// Serves until nothing comes for a while; then it is given back. Gone if the connection has ended.
    pub(crate) fn serve(mut self) -> Option<Session> {
        CALLER.set(self.door.caller.clone());
        loop {
            match self.next() {
                Ok(true) => {}
                Ok(false) => {
                    self.incoming.rest();
                    return Some(self);
                }
                Err(Stop::Closed) => return None,
                Err(Stop::Refused(problem)) => {
                    let refused = error("pysecure.BadMessage", problem, false);
                    let _ = self.fail(0, &refused);
                    return None;
                }
            }
        }
    }

    /// Waits for a message, and does what it says; `false` if none came for a while.
    fn next(&mut self) -> Result<bool, Stop> {
        let (service, door) = (&self.service, &self.door);
        let may = |name: &str| service.functions.contains_key(name) && door.granted.holds(name);
        match self.incoming.receive_call(self.socket.as_fd(), None, Some(&may))? {
            Some(Came::Message(message)) => self.take(message).map(|()| true),
            Some(Came::Refused { id, function }) => self.other(id, &function).map(|()| true),
            None => Ok(false),
        }
    }

    fn take(&mut self, message: Vec<Value>) -> Result<(), Stop> {
        let mut elements = message.into_iter();
        let kind = elements.next();
        if kind == Some(Value::Int(2)) {
            return self.call(elements);
        }
        let Some(Value::Int(id @ 1..=LAST_ID)) = elements.next() else {
            return Err("no number of a call".into());
        };
        // What is not known has ended meanwhile.
        let of = self.streams.iter_mut().find(|s| s.id == id as u64);
        match kind {
            Some(Value::Int(7)) => {
                let (Some(Value::Int(more @ 1..=0x8000_0000)), read) = (elements.next(), elements.next()) else {
                    return Err("credit that is none".into());
                };
                if let Some(of) = of {
                    of.left = of.left.saturating_add(more as u64);
                }
                self.has_read(read)?;
            }
            Some(Value::Int(8)) => {
                if let Some(of) = of {
                    of.wanted = false;
                }
            }
            _ => return Err("a message of unknown kind".into()),
        }
        Ok(())
    }

    fn has_read(&mut self, read: Option<Value>) -> Result<(), Stop> {
        self.read = match read {
            None | Some(Value::Nil) => None,
            Some(Value::Int(read @ 0..)) => Some(read as u64),
            Some(Value::UInt(read)) => Some(read),
            _ => return Err("a number of messages that is none".into()),
        };
        Ok(())
    }

    fn call(&mut self, mut elements: std::vec::IntoIter<Value>) -> Result<(), Stop> {
        let (id, function, args, kwargs) = (elements.next(), elements.next(), elements.next(), elements.next());
        let (deadline, traceparent) = (elements.next(), elements.next());
        let (
            Some(Value::Int(id @ 1..=LAST_ID)),
            Some(Value::Str(name)),
            Some(Value::Array(args)),
            Some(Value::Map(kwargs)),
        ) = (id, function, args, kwargs)
        else {
            return Err("a CALL that is none".into());
        };
        // Text with lone surrogates is no parameter's name, and is told so.
        let named = |(key, _): &(Value, Value)| matches!(key, Value::Str(_) | Value::Other(13, _));
        if !kwargs.iter().all(named) {
            return Err("a keyword argument whose name is no text".into());
        }
        let id = id as u64;
        if self.streams.iter().any(|s| s.id == id) {
            return Err("a call's number twice".into());
        }
        let deadline = match deadline {
            None | Some(Value::Nil) => None,
            Some(Value::Int(left @ 0..)) => Some(left as u64),
            Some(Value::UInt(left)) => Some(left),
            _ => return Err("a deadline that is none".into()),
        };
        let deadline = deadline.filter(|left| *left < NO_DEADLINE);
        let deadline = deadline.and_then(|left| Instant::now().checked_add(Duration::from_millis(left)));
        let traceparent = match traceparent {
            None | Some(Value::Nil) => None,
            Some(Value::Str(text)) => Some(text),
            _ => return Err("a trace that is none".into()),
        };
        self.has_read(elements.next())?;
        let credit = match elements.next() {
            None | Some(Value::Nil) => 1,
            Some(Value::Int(credit @ 0..=0x8000_0000)) => credit as u64,
            _ => return Err("credit that is none".into()),
        };
        if self.service.ends.load(Ordering::SeqCst) {
            return self.fail(id, &error("pysecure.GoingAway", "the service ends", false));
        }
        if deadline.is_some_and(|at| at <= Instant::now()) {
            return self.fail(id, &late(false));
        }
        if self.streams.len() >= MOST_STREAMS {
            return self.fail(
                id,
                &error("pysecure.Busy", "too many streams of this connection wait", false),
            );
        }
        let Some(function) = self.service.functions.get(name.as_str()).copied() else {
            return Err("a CALL that is none".into());
        };
        if !self.door.has_room(0, 0, much()) {
            let unread = "this caller has not read what it was answered";
            return self.fail(id, &error("pysecure.Busy", unread, false));
        }
        let begun = Instant::now();
        self.streams.push(Credit {
            id,
            left: credit,
            wanted: true,
        });
        let context = Context { deadline, traceparent };
        let mut reply = Reply {
            session: self,
            id,
            deadline,
            stop: None,
            answered: false,
        };
        let arguments = Arguments::new(args, kwargs);
        let run = || context.within(|| (function.serve)(arguments, &mut reply));
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
            .unwrap_or_else(|_| Err(Error::raise("RuntimeError", format!("`{name}` panicked"))));
        let (stop, answered) = (reply.stop.take(), reply.answered);
        self.streams.pop();
        if let Some(figures) = &self.service.figures {
            figures.ended(function.name, begun.elapsed(), result.is_err());
        }
        match (stop, result) {
            (Some(stop), _) => Err(stop),
            (None, Err(error)) if !answered => self.fail(id, &error),
            (None, Ok(())) if !answered => self.fail(id, &error("pysecure.InvalidResult", "nothing", true)),
            (None, _) => Ok(()),
        }
    }

    /// A call of a function that this caller has not, of which nothing but the name was looked at: one that everybody has, or none.
    fn other(&mut self, id: u64, name: &str) -> Result<(), Stop> {
        if self.streams.iter().any(|s| s.id == id) {
            return Err("a call's number twice".into());
        }
        if self.service.ends.load(Ordering::SeqCst) {
            return self.fail(id, &error("pysecure.GoingAway", "the service ends", false));
        }
        match name.strip_prefix(RESERVED) {
            Some("ping") => self.reply(id, |writer| {
                writer.nil();
                Ok(())
            }),
            Some("describe") => {
                let described = self.describe();
                self.reply(id, |writer| Ok(writer.value(&described)?))
            }
            _ => {
                self.refused(name);
                let none = format!("there is no function `{name}`");
                self.fail(id, &error("pysecure.NoSuchFunction", none, false))
            }
        }
    }

    /// A message of one call that may use the area.
    fn reply(&mut self, id: u64, fill: impl Fn(&mut Writer<'_>) -> Result<(), Error>) -> Result<(), Stop> {
        match self.say(3, id, fill) {
            Ok(()) => Ok(()),
            Err(Said::Stop(stop)) => Err(stop),
            Err(Said::Error(error)) => self.fail(id, &error),
        }
    }

    fn say(&mut self, kind: u64, id: u64, fill: impl Fn(&mut Writer<'_>) -> Result<(), Error>) -> Result<(), Said> {
        let message = match self.message(kind, id, &fill, true) {
            // Large bytes took the descriptors: they go within the message, all of it by memfd.
            Err(Error::Value(e)) if e.crowded() => self.message(kind, id, &fill, false),
            made => made,
        };
        let message = message.map_err(|e| match e {
            Error::Value(WireError::TooLarge(what)) => error("pysecure.TooLarge", what, true),
            e => error("pysecure.InvalidResult", e.to_string(), true),
        })?;
        let (bytes, fds) = message.by_memfd();
        if bytes > 0 {
            self.had_large = true;
            if !self.door.has_room(bytes, fds, too_much()) {
                let unread = "this caller has not read what it was answered";
                return Err(Said::Error(error("pysecure.Busy", unread, true)));
            }
            held(&self.door.unread).add(self.number, &self.socket, bytes, fds);
        }
        match socket::send(self.socket.as_fd(), message) {
            Ok(()) => {
                self.used += u64::from(self.outgoing.sent());
                Ok(())
            }
            Err(SocketError::Wire(e)) => Err(Said::Error(error("pysecure.TooLarge", e.to_string(), true))),
            Err(e) => Err(Said::Stop(e.into())),
        }
    }

    fn message(
        &mut self,
        kind: u64,
        id: u64,
        fill: impl Fn(&mut Writer<'_>) -> Result<(), Error>,
        memfds: bool,
    ) -> Result<Message, Error> {
        if self.had_large && !self.has_area {
            let areas = &self.door.areas;
            let one_more = |areas| (areas < MOST_AREAS).then_some(areas + 1);
            let taken = areas.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            self.has_area = taken.is_ok();
        }
        self.outgoing.begin(self.has_area && self.read == Some(self.used));
        let mut writer = match memfds {
            true => Writer::with(&mut self.outgoing, 3),
            false => Writer::message(3),
        };
        writer.uint(kind);
        writer.uint(id);
        fill(&mut writer)?;
        let message = writer.finish();
        if message.bytes.len() > socket::LONGEST {
            message.full()?;
        }
        message.check()?;
        Ok(message)
    }

    fn fail(&mut self, id: u64, error: &Error) -> Result<(), Stop> {
        Ok(socket::send(
            self.socket.as_fd(),
            write_error(Writer::message(7), id, error),
        )?)
    }

    /// Refusals are counted, and said the first, second, fourth … time, so that no caller fills a log.
    fn refused(&self, name: &str) {
        if let Some(figures) = &self.service.figures {
            figures.denied(name);
        }
        let mut refused = held(&self.door.refused);
        // Names that are no function's are the caller's choice, and could be without end: they are counted as one.
        let known = self.service.functions.get_key_value(name);
        let count = refused.entry(known.map_or("", |(name, _)| *name)).or_default();
        *count += 1;
        if count.is_power_of_two() {
            let caller = self.door.caller.as_deref().unwrap_or("nobody by name");
            // Not by eprintln!, which panics where there is no place for it.
            let mut err = std::io::stderr().lock();
            let _ = writeln!(
                err,
                "{} refused {name:?} to {caller}, {count} so far",
                self.service.name
            );
        }
    }

    fn describe(&self) -> Value {
        let all = self.service.functions.values();
        Value::Array(
            all.filter(|f| self.door.granted.holds(f.name))
                .map(|f| f.describe())
                .collect(),
        )
    }
}

/// What becomes of a message that is to be sent.
enum Said {
    Stop(Stop),
    Error(Error),
}

impl From<Error> for Said {
    fn from(error: Error) -> Said {
        Said::Error(error)
    }
}

fn late(ran: bool) -> Error {
    error("pysecure.DeadlineExceeded", "the deadline has passed", ran)
}

/// How a call is answered by the function that it runs.
pub struct Reply<'a> {
    session: &'a mut Session,
    id: u64,
    deadline: Option<Instant>,
    /// The connection is served no longer.
    stop: Option<Stop>,
    /// Was the last message of this call sent?
    answered: bool,
}

impl Reply<'_> {
    fn passed(&self) -> bool {
        self.deadline.is_some_and(|at| at <= Instant::now())
    }

    fn send<T: Serialize + ?Sized>(&mut self, kind: u64, value: &T) -> Result<(), Error> {
        if self.passed() {
            return Err(late(true));
        }
        match self
            .session
            .say(kind, self.id, |writer| crate::encode::put(writer, value, 1))
        {
            Ok(()) => Ok(()),
            Err(Said::Error(error)) => Err(error),
            Err(Said::Stop(stop)) => Err(self.stopped(stop)),
        }
    }

    /// The error that ends the function is nobody's to read.
    fn stopped(&mut self, stop: Stop) -> Error {
        self.stop = Some(stop);
        error("pysecure.Cancelled", "the caller is gone", true)
    }

    pub(crate) fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.send(3, value)?;
        self.answered = true;
        Ok(())
    }

    /// Sends an item when the caller wants another one.
    pub(crate) fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        loop {
            // The streams that began after this one have ended.
            let Some(credit) = self.session.streams.last_mut() else {
                return Err(error("pysecure.Cancelled", "the stream has ended", true));
            };
            if !credit.wanted {
                return Err(error("pysecure.Cancelled", "the caller wants no more", true));
            }
            let mut until = self.deadline;
            if credit.left > 0 {
                if self.session.door.has_room(0, 0, much()) {
                    credit.left -= 1;
                    return self.send(5, value);
                }
                let soon = Instant::now() + MOMENT;
                until = Some(until.map_or(soon, |at| at.min(soon)));
            }
            match socket::readable(self.session.socket.as_fd(), until) {
                Ok(true) => {}
                Ok(false) if self.passed() => return Err(late(true)),
                Ok(false) => continue,
                Err(errno) => return Err(self.stopped(SocketError::Io(errno).into())),
            }
            if let Err(stop) = self.session.next() {
                return Err(self.stopped(stop));
            }
        }
    }

    pub(crate) fn end(&mut self) -> Result<(), Error> {
        self.send(6, &())?;
        self.answered = true;
        Ok(())
    }

    /// Runs an `async` function.
    #[cfg(feature = "tokio")]
    #[doc(hidden)]
    pub fn run<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Error> {
        use crate::runtime::{Run, run};
        match run(self.session.socket.as_fd(), self.id, future) {
            Ok(Run::Done(out)) => Ok(out),
            Ok(Run::Late) => Err(late(true)),
            Ok(Run::Unwanted) => Err(error("pysecure.Cancelled", "the caller wants no answer", true)),
            Err(e) => Err(error("RuntimeError", format!("start the runtime: {e}"), false)),
        }
    }
}

/// The sockets that this service has, and for whom each is.
fn doors(name: &str, functions: &BTreeMap<&'static str, &'static Function>) -> Result<Vec<Door>, String> {
    let sockets = handed()?;
    // Each caller has its share of the descriptors, and some are the service's own.
    let limit = raise_limit();
    let share = (limit - (limit / 4).min(128)) / sockets.len().max(1);
    let door = |number: usize, caller: Option<String>, socket: OwnedFd, granted: Granted| {
        let hello = hello(name, caller.as_deref(), &granted, functions);
        if hello.len() > 65_536 {
            return Err("more functions than fit into a message".to_owned());
        }
        Ok(Door {
            number: number as u64,
            caller,
            socket,
            granted,
            hello,
            connections: Mutex::default(),
            most_connections: (share / 2 / OF_CONNECTION).clamp(1, MOST_CONNECTIONS),
            most_threads: (share / 2 / OF_THREAD).clamp(1, crate::lobby::MOST_THREADS),
            areas: AtomicUsize::new(0),
            unread: Mutex::default(),
            most_unread: share,
            refused: Mutex::default(),
        })
    };
    if std::env::var_os("LISTEN_FDS").is_none() {
        let folder = std::env::var_os("PYSECURE_RPC_DIR")
            .ok_or("it has no sockets: start it under pysecure, or set PYSECURE_RPC_DIR to a folder for them")?;
        let path = Path::new(&folder).join(format!("{name}.sock"));
        let socket = bind(&path).map_err(|e| format!("make the socket {}: {e}", path.display()))?;
        return Ok(vec![door(0, None, socket, Granted::All)?]);
    }
    let policy = std::env::var("PYSECURE_RPC_CALLERS");
    let mut policy: HashMap<String, serde_json::Value> = match policy {
        Ok(text) => serde_json::from_str(&text).map_err(|e| format!("PYSECURE_RPC_CALLERS is no policy: {e}"))?,
        Err(_) if sockets.is_empty() => HashMap::new(),
        Err(_) => return Err("PYSECURE_RPC_CALLERS is not set, so nothing says who may call what".into()),
    };
    let mut out = Vec::new();
    for (caller, socket) in sockets {
        let granted = match policy.remove(&caller) {
            Some(serde_json::Value::String(all)) if all == "*" => Granted::All,
            Some(serde_json::Value::Array(names)) => {
                Granted::These(names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect())
            }
            Some(_) => return Err(format!("PYSECURE_RPC_CALLERS says nothing that is known of `{caller}`")),
            None => Granted::These(HashSet::new()),
        };
        if let Granted::These(names) = &granted
            && let Some(lacks) = names.iter().filter(|n| !functions.contains_key(n.as_str())).min()
        {
            return Err(format!(
                "`callers` let {caller} call `{lacks}`, which this program does not have"
            ));
        }
        out.push(door(out.len(), Some(caller), socket, granted)?);
    }
    Ok(out)
}

fn hello(
    name: &str,
    caller: Option<&str>,
    granted: &Granted,
    functions: &BTreeMap<&'static str, &'static Function>,
) -> Vec<u8> {
    let theirs: Vec<_> = functions.values().filter(|f| granted.holds(f.name)).collect();
    let mut writer = Writer::message(5);
    writer.uint(1);
    writer.uint(1);
    writer.str(name);
    match caller {
        Some(caller) => writer.str(caller),
        None => writer.nil(),
    }
    writer.map(theirs.len());
    for function in theirs {
        writer.str(function.name);
        writer.uint(function.hash());
    }
    writer.finish().bytes
}

/// As many descriptors as may be: connections take them. How many those are.
fn raise_limit() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    let now = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    };
    now.and_then(|now| usize::try_from(now).ok())
        .unwrap_or(1 << 20)
        .min(1 << 20)
}

/// Sockets of RPC among those handed over, and their names.
fn handed() -> Result<Vec<(String, OwnedFd)>, String> {
    let Ok(count) = std::env::var("LISTEN_FDS") else {
        return Ok(Vec::new());
    };
    let count: RawFd = count.parse().map_err(|_| format!("LISTEN_FDS={count} is no number"))?;
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let names: Vec<&str> = names.split(':').collect();
    if !(0..=65_536).contains(&count) || TAKEN.swap(true, Ordering::SeqCst) {
        return Err("its sockets were taken before".into());
    }
    let mut out = Vec::new();
    for at in 0..count {
        let name = names.get(at as usize).copied().unwrap_or_default();
        let number = FIRST + at;
        if name.is_empty() || name == LISTEN {
            continue;
        }
        let kind = rustix::net::sockopt::socket_type(raw(number));
        if kind != Ok(SocketType::SEQPACKET) {
            continue;
        }
        rustix::io::fcntl_setfd(raw(number), rustix::io::FdFlags::CLOEXEC)
            .map_err(|e| format!("close at exec: {e}"))?;
        // SAFETY: it is open, was handed to this process for good, and is taken once.
        #[allow(unsafe_code)]
        out.push((name.to_owned(), unsafe { OwnedFd::from_raw_fd(number) }));
    }
    Ok(out)
}

fn raw(number: RawFd) -> BorrowedFd<'static> {
    // SAFETY: one that is not open is answered with EBADF; nothing here closes it.
    #[allow(unsafe_code)]
    unsafe {
        BorrowedFd::borrow_raw(number)
    }
}

fn bind(path: &Path) -> Result<OwnedFd, std::io::Error> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::fs::chmod(path, rustix::fs::Mode::from_raw_mode(0o600))?;
    rustix::net::listen(&socket, 4096)?;
    Ok(socket)
}

/// sd_notify(3), if somebody wants to know: where the socket that is named is not there, nobody does.
fn ready() -> std::io::Result<()> {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    match std::os::unix::net::UnixDatagram::unbound()?.send_to(b"READY=1", path) {
        Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => Err(e),
        _ => Ok(()),
    }
}
