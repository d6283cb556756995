//! Published ports: connections that come in on sockets of the host are joined to connections to this process's own
//! network namespace, which is the service's. Bytes go from socket to socket through pipes (splice(2)) and never
//! come here.
//!
//! Nothing blocks. What one connection has to send is bounded by its pipe, and how many there are by [`MOST`] and the
//! limit of open files: whoever comes after waits in the listening socket.

use super::LaunchError;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustix::io::Errno;
use rustix::net::{AddressFamily, Shutdown, SocketFlags, SocketType};
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Connections at a time; each has six descriptors.
const MOST: usize = 4096;
/// As much as is moved at once: the size of a pipe.
const PIECE: usize = 64 << 10;
/// How many pieces of one connection are moved before others have their turn.
const TURNS: u32 = 16;

pub(super) struct Forwarder {
    epoll: Epoll,
    listeners: Vec<(OwnedFd, u16)>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that had more to move when their turn was over.
    unfinished: Vec<usize>,
    /// Are the listeners left alone, for want of room?
    full: bool,
}

struct Connection {
    outside: OwnedFd,
    inside: OwnedFd,
    port: u16,
    state: State,
    /// From outside to inside, and back.
    flows: [Flow; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    /// To this loopback address.
    Connecting(IpAddr),
    Open,
}

/// One direction: what was read and is still to be written lies in the pipe.
struct Flow {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
    ended: bool,
    shut: bool,
}

/// Does a connection go on?
enum Left {
    Waiting,
    More,
    Over,
}

impl Forwarder {
    /// Each listener with the port that its connections are for. They must not block.
    pub(super) fn new(listeners: Vec<(OwnedFd, u16)>) -> Result<Forwarder, LaunchError> {
        let wrong = |e: nix::Error| LaunchError::system_text("watch", "the published ports", e);
        let forwarder = Forwarder {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(wrong)?,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            unfinished: Vec::new(),
            full: false,
        };
        forwarder.listen().map_err(wrong)?;
        Ok(forwarder)
    }

    /// Readable when there is something to do in [`Forwarder::turn`].
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Is there something to do without an event?
    pub(super) fn busy(&self) -> bool {
        !self.unfinished.is_empty()
    }

    fn listen(&self) -> nix::Result<()> {
        for (number, (listener, _)) in self.listeners.iter().enumerate() {
            self.epoll
                .add(listener, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        }
        Ok(())
    }

    /// Handles what has happened, without waiting.
    pub(super) fn turn(&mut self) {
        let mut events = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        for index in std::mem::take(&mut self.unfinished) {
            self.advance(index);
        }
        for event in &events[..count] {
            match (event.data() as usize).checked_sub(self.listeners.len()) {
                None => self.accept(event.data() as usize),
                Some(index) => self.advance(index),
            }
        }
    }

    fn accept(&mut self, number: usize) {
        let (listener, port) = &self.listeners[number];
        let port = *port;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let opened = if self.connections.len() - self.free.len() < MOST {
            rustix::net::accept_with(listener, flags).and_then(|outside| Connection::open(outside, port))
        } else {
            Err(Errno::MFILE)
        };
        let connection = match opened {
            Ok(connection) => connection,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // Listeners would be ready again and again until a connection ends.
                if self.connections.len() > self.free.len() {
                    self.full = true;
                    for (listener, _) in &self.listeners {
                        let _ = self.epoll.delete(listener);
                    }
                }
                return;
            }
            // It went away, or cannot be had; the next one may.
            Err(_) => return,
        };
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let watched = self
            .watch(&connection.outside, index)
            .and_then(|()| self.watch(&connection.inside, index));
        if watched.is_ok() {
            self.connections[index] = Some(connection);
            self.advance(index);
        } else {
            self.free.push(index);
        }
    }

    fn watch(&self, socket: &OwnedFd, index: usize) -> nix::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        let number = (index + self.listeners.len()) as u64;
        self.epoll.add(socket, EpollEvent::new(flags, number))
    }

    fn advance(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let before = connection.state;
        let left = match connection.connected() {
            Ok(true) => connection.pump(),
            Ok(false) => Left::Waiting,
            Err(_) => Left::Over,
        };
        let other_socket = connection.state != before && connection.state != State::Open;
        match left {
            Left::Over => self.close(index),
            Left::More => self.unfinished.push(index),
            Left::Waiting if other_socket => {
                let again = self.connections[index]
                    .as_ref()
                    .map(|c| self.watch(&c.inside, index).is_ok());
                if again == Some(false) {
                    self.close(index);
                }
            }
            Left::Waiting => {}
        }
    }

    fn close(&mut self, index: usize) {
        // Closing takes its sockets out of the epoll.
        self.connections[index] = None;
        self.free.push(index);
        if self.full && self.listen().is_ok() {
            self.full = false;
        }
    }
}

impl Connection {
    fn open(outside: OwnedFd, port: u16) -> Result<Connection, Errno> {
        let first = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let _ = rustix::net::sockopt::set_tcp_nodelay(&outside, true);
        Ok(Connection {
            inside: connect(first, port)?,
            flows: [Flow::new()?, Flow::new()?],
            outside,
            port,
            state: State::Connecting(first),
        })
    }

    /// Is the inner connection there? Where nobody listens on IPv4, somebody may on IPv6.
    fn connected(&mut self) -> Result<bool, Errno> {
        let State::Connecting(address) = self.state else {
            return Ok(true);
        };
        match rustix::net::sockopt::socket_error(&self.inside)? {
            Ok(()) => match rustix::net::getpeername(&self.inside) {
                Ok(_) => {
                    self.state = State::Open;
                    Ok(true)
                }
                Err(_) => Ok(false),
            },
            Err(Errno::CONNREFUSED) if address.is_ipv4() => {
                let next = IpAddr::V6(Ipv6Addr::LOCALHOST);
                self.inside = connect(next, self.port)?;
                self.state = State::Connecting(next);
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }

    fn pump(&mut self) -> Left {
        for _ in 0..TURNS {
            let [there, back] = &mut self.flows;
            let moved = match (
                there.pump(&self.outside, &self.inside),
                back.pump(&self.inside, &self.outside),
            ) {
                (Ok(there), Ok(back)) => there | back,
                _ => return Left::Over,
            };
            if self.flows.iter().all(|f| f.shut) {
                return Left::Over;
            }
            if !moved {
                return Left::Waiting;
            }
        }
        Left::More
    }
}

impl Flow {
    fn new() -> Result<Flow, Errno> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Flow {
            read,
            write,
            filled: 0,
            ended: false,
            shut: false,
        })
    }

    /// Moves a piece; says whether it could.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd) -> Result<bool, Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let mut moved = false;
        if !self.ended {
            match rustix::pipe::splice(from, None, &self.write, None, PIECE, flags) {
                Ok(0) => {
                    self.ended = true;
                    moved = true;
                }
                Ok(read) => {
                    self.filled += read;
                    moved = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        if self.filled > 0 {
            match rustix::pipe::splice(&self.read, None, to, None, self.filled, flags) {
                Ok(written) => {
                    self.filled -= written;
                    moved = true;
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        if self.ended && self.filled == 0 && !self.shut {
            self.shut = true;
            rustix::net::shutdown(to, Shutdown::Write)?;
        }
        Ok(moved)
    }
}

fn connect(address: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let family = match address {
        IpAddr::V4(_) => AddressFamily::INET,
        IpAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
    match rustix::net::connect(&socket, &SocketAddr::new(address, port)) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}
