//! Connections on which nothing happens, and the threads that serve those on which something does. A connection that
//! rests has no thread and no buffer; a thread that nothing comes to any more gives its connection back.

use crate::server::Session;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most threads of one caller, so that none takes them all; its connections beyond them wait for one.
pub(crate) const MOST_THREADS: usize = 256;
const STACK: usize = 2 << 20;

pub(crate) struct Lobby {
    epoll: OwnedFd,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    resting: HashMap<u64, Session>,
    /// By the numbers of their doors.
    callers: HashMap<u64, Caller>,
    closed: bool,
}

#[derive(Default)]
struct Caller {
    threads: usize,
    /// Something came, and there was no thread for it.
    waiting: VecDeque<Session>,
}

impl Lobby {
    pub(crate) fn new() -> Result<Lobby, Errno> {
        Ok(Lobby {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            inner: Mutex::default(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `wait` tell of this descriptor by this number.
    pub(crate) fn watch(&self, fd: impl AsFd, number: u64) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, EventData::new_u64(number), EventFlags::IN)
    }

    /// The numbers of those on which something came.
    pub(crate) fn wait(&self) -> Result<Vec<u64>, Errno> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; 64];
        let many = rustix::io::retry_on_intr(|| epoll::wait(&self.epoll, &mut events[..], None))?;
        Ok(events[..many].iter().map(|e| e.data.u64()).collect())
    }

    /// A connection rests until something comes on it; `first` if it never did before.
    pub(crate) fn rest(&self, session: Session, first: bool) {
        let (number, socket) = (session.number(), session.socket());
        let mut inner = self.inner();
        if inner.closed {
            drop(inner);
            // What it sent before is answered, and no more can come.
            drop(session.serve());
            return;
        }
        inner.resting.insert(number, session);
        // It is told of once: from then on it is a thread's.
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        let armed = match first {
            true => epoll::add(&self.epoll, &socket, EventData::new_u64(number), flags),
            false => epoll::modify(&self.epoll, &socket, EventData::new_u64(number), flags),
        };
        if armed.is_err() {
            let lost = inner.resting.remove(&number);
            drop(inner);
            drop(lost);
        }
    }

    /// Something came on a connection.
    pub(crate) fn wake(self: &Arc<Lobby>, number: u64) {
        let mut inner = self.inner();
        let Some(session) = inner.resting.remove(&number) else {
            return;
        };
        let door = session.door();
        let caller = inner.callers.entry(door).or_default();
        if caller.threads >= session.most_threads() {
            caller.waiting.push_back(session);
            return;
        }
        caller.threads += 1;
        drop(inner);
        let lobby = self.clone();
        let thread = std::thread::Builder::new().stack_size(STACK);
        // Where there can be no thread, one that this caller has takes it over; if it has none, its connection is closed.
        let session = Arc::new(Mutex::new(Some(session)));
        let theirs = session.clone();
        let spawned = thread.spawn(move || {
            let session = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(session) = session {
                lobby.serve(session, door);
            }
        });
        if spawned.is_err() {
            let session = session.lock().unwrap_or_else(PoisonError::into_inner).take();
            let mut inner = self.inner();
            let caller = inner.callers.entry(door).or_default();
            caller.threads -= 1;
            if caller.threads > 0
                && let Some(session) = session
            {
                caller.waiting.push_back(session);
            }
        }
    }

    fn serve(&self, session: Session, door: u64) {
        let mut next = Some(session);
        while let Some(session) = next {
            if let Some(idle) = session.serve() {
                self.rest(idle, false);
            }
            next = self.next_of(door);
        }
    }

    /// Who waits for the thread that this was; without one there is a thread less.
    fn next_of(&self, door: u64) -> Option<Session> {
        let mut inner = self.inner();
        let caller = inner.callers.get_mut(&door)?;
        let next = caller.waiting.pop_front();
        if next.is_none() {
            caller.threads -= 1;
        }
        next
    }

    /// Nobody rests any more. What came and was not looked at is answered.
    pub(crate) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        let resting = std::mem::take(&mut inner.resting);
        drop(inner);
        for (_, session) in resting {
            drop(session.serve());
        }
    }
}
