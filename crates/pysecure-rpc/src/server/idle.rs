//! Connections on which nothing happens, and the threads that serve those on which something does. An idle connection
//! has no thread and no buffer; a thread to which nothing comes for a while gives its connection back.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The most threads of one caller, so that none takes them all; its connections beyond them wait for one.
pub(super) const MAX_THREADS: usize = 256;
const STACK: usize = 2 << 20;

/// What an event of the epoll set is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EpollToken {
    /// The service has to end.
    Stop,
    /// A caller connects to the endpoint of this index.
    Endpoint(usize),
    /// Something came on the connection of this number.
    Connection(u64),
}

impl EpollToken {
    const KIND: u32 = 56;

    fn encode(self) -> EventData {
        EventData::new_u64(match self {
            EpollToken::Stop => 0,
            EpollToken::Endpoint(index) => 1 << EpollToken::KIND | index as u64,
            EpollToken::Connection(number) => 2 << EpollToken::KIND | number,
        })
    }

    fn decode(data: EventData) -> EpollToken {
        let data = data.u64();
        let number = data & ((1 << EpollToken::KIND) - 1);
        match data >> EpollToken::KIND {
            0 => EpollToken::Stop,
            1 => EpollToken::Endpoint(number as usize),
            _ => EpollToken::Connection(number),
        }
    }
}

/// A connection that can be idle.
pub(super) trait Connection: Sized + Send + 'static {
    /// Its number, which no other has.
    fn number(&self) -> u64;
    /// The index of its caller's endpoint.
    fn endpoint(&self) -> usize;
    /// How many threads its caller may have.
    fn max_threads(&self) -> usize;
    /// Its socket.
    fn socket(&self) -> Arc<OwnedFd>;
    /// Serves until nothing comes for a while; then it is given back. None if the connection has ended.
    fn serve(self) -> Option<Self>;
}

/// The idle connections of a service.
pub(super) struct IdleConnections<C> {
    epoll: OwnedFd,
    inner: Mutex<Inner<C>>,
}

struct Inner<C> {
    idle: HashMap<u64, C>,
    /// By the indices of their endpoints.
    callers: HashMap<usize, Caller<C>>,
    closed: bool,
}

struct Caller<C> {
    threads: usize,
    /// Something came, and there was no thread for it.
    waiting: VecDeque<C>,
}

impl<C> Default for Caller<C> {
    fn default() -> Caller<C> {
        Caller {
            threads: 0,
            waiting: VecDeque::new(),
        }
    }
}

impl<C: Connection> IdleConnections<C> {
    pub(super) fn new() -> Result<IdleConnections<C>, Errno> {
        Ok(IdleConnections {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            inner: Mutex::new(Inner {
                idle: HashMap::new(),
                callers: HashMap::new(),
                closed: false,
            }),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner<C>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `wait` report this descriptor by this token.
    pub(super) fn watch(&self, fd: impl AsFd, token: EpollToken) -> Result<(), Errno> {
        epoll::add(&self.epoll, fd, token.encode(), EventFlags::IN)
    }

    /// Waits for events.
    pub(super) fn wait(&self) -> Result<Vec<EpollToken>, Errno> {
        let mut events = [Event {
            flags: EventFlags::empty(),
            data: EventData::new_u64(0),
        }; 64];
        let many = rustix::io::retry_on_intr(|| epoll::wait(&self.epoll, &mut events[..], None))?;
        Ok(events[..many].iter().map(|e| EpollToken::decode(e.data)).collect())
    }

    /// Takes a new connection, which is idle until something comes on it.
    pub(super) fn add(&self, connection: C) {
        self.park(connection, true);
    }

    fn park(&self, connection: C, first: bool) {
        let (number, socket) = (connection.number(), connection.socket());
        let mut inner = self.inner();
        if inner.closed {
            drop(inner);
            // What it sent before is answered, and no more can come.
            drop(connection.serve());
            return;
        }
        inner.idle.insert(number, connection);
        // One event is reported: from then on the connection is a thread's.
        let (token, flags) = (EpollToken::Connection(number), EventFlags::IN | EventFlags::ONESHOT);
        let armed = match first {
            true => epoll::add(&self.epoll, &socket, token.encode(), flags),
            false => epoll::modify(&self.epoll, &socket, token.encode(), flags),
        };
        if armed.is_err() {
            let lost = inner.idle.remove(&number);
            drop(inner);
            drop(lost);
        }
    }

    /// Something came on a connection: a thread serves it, as soon as its caller may have one.
    pub(super) fn wake(self: &Arc<Self>, number: u64) {
        let mut inner = self.inner();
        let Some(connection) = inner.idle.remove(&number) else {
            return;
        };
        let endpoint = connection.endpoint();
        let caller = inner.callers.entry(endpoint).or_default();
        if caller.threads >= connection.max_threads() {
            caller.waiting.push_back(connection);
            return;
        }
        caller.threads += 1;
        drop(inner);
        let all = self.clone();
        let thread = std::thread::Builder::new().stack_size(STACK);
        // Where there can be no thread, one that this caller has takes it over; if it has none, its connection is closed.
        let handed = Arc::new(Mutex::new(Some(connection)));
        let take = |handed: &Mutex<Option<C>>| handed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let theirs = handed.clone();
        let spawned = thread.spawn(move || {
            if let Some(connection) = take(&theirs) {
                all.serve(connection, endpoint);
            }
        });
        if spawned.is_err() {
            let connection = take(&handed);
            let mut inner = self.inner();
            let caller = inner.callers.entry(endpoint).or_default();
            caller.threads -= 1;
            if caller.threads > 0
                && let Some(connection) = connection
            {
                caller.waiting.push_back(connection);
            }
        }
    }

    fn serve(&self, connection: C, endpoint: usize) {
        let mut next = Some(connection);
        while let Some(connection) = next {
            if let Some(idle) = connection.serve() {
                self.park(idle, false);
            }
            next = self.next_of(endpoint);
        }
    }

    /// The connection that waits for the thread that this was. Without one there is a thread less.
    fn next_of(&self, endpoint: usize) -> Option<C> {
        let mut inner = self.inner();
        let caller = inner.callers.get_mut(&endpoint)?;
        let next = caller.waiting.pop_front();
        if next.is_none() {
            caller.threads -= 1;
        }
        next
    }

    /// No connection is idle any more. What came and was not looked at is answered.
    pub(super) fn close(&self) {
        let mut inner = self.inner();
        inner.closed = true;
        let idle = std::mem::take(&mut inner.idle);
        drop(inner);
        for (_, connection) in idle {
            drop(connection.serve());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back() {
        for token in [
            EpollToken::Stop,
            EpollToken::Endpoint(0),
            EpollToken::Endpoint(65_535),
            EpollToken::Connection(1),
            EpollToken::Connection((1 << 56) - 1),
        ] {
            assert_eq!(EpollToken::decode(token.encode()), token);
        }
    }
}
