//! Connections that come in on sockets of the host are joined to connections to this process's own network namespace.
//! Bytes go from socket to socket through pipes (splice(2)) and never come here.
//!
//! Nothing blocks. What one connection has to send is bounded by its pipe, and how many there are by [`MOST`] and the
//! limit of open files: whoever comes after waits in the listening socket. A pipe that is empty is nobody's, so that a
//! connection that rests has two descriptors.

use super::LaunchError;
use crate::sys;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketFlags, SocketType, sockopt};
use rustix::pipe::{PipeFlags, SpliceFlags};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Connections at a time, as many as a service may have open files by default.
const MOST: usize = 16_384;
/// The descriptors that one of them needs at most, and those of all together.
const DESCRIPTORS: [u64; 2] = [6, 64];
/// How long a client may be silent before it is asked whether it is there.
const KEPT_ALIVE: Duration = Duration::from_secs(300);
/// How long no connection is taken when there is no descriptor for one, and none to wait for.
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};
/// Empty pipes that are kept; and connections that are taken from one socket before others have their turn.
const SPARE: usize = 16;
/// As much as is moved at once: the size of a pipe.
const PIECE: usize = 64 << 10;
/// How many pieces of one connection are moved before others have their turn.
const TURNS: u32 = 16;
/// Connections in one message to a successor. Each has two descriptors, of which a message takes [`sys::MOST_FDS`].
const BATCH: usize = 100;
/// What tells events of listeners, and of what else is waited for, from a connection's, which say of which end they are.
const LISTENER: u64 = 1 << 40;
const OTHER: u64 = 1 << 41;

/// Which of a connection's ends something has happened at.
#[derive(Clone, Copy, PartialEq)]
enum Side {
    Outside,
    Inside,
    Both,
}

/// Where published connections come from inside: the dummy address of RFC 7600, and one of the prefix of RFC 6666, both of
/// which are nobody's. Were it the loopback's, whoever trusts that would trust everybody (CVE-2021-20199).
pub(super) const SOURCES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 8)),
    IpAddr::V6(Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 8)),
];

/// The PROXY protocol's header, which says first of all who connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Where connections of a listening socket lead.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// To this port of the loopback, from one of [`SOURCES`].
    Port(u16, Option<Header>),
    /// To the very address that the client connected to, from the client's own: all are local in a relay's network.
    Same,
    /// It is not a listening socket: an earlier forwarder left its connections in it ([`Forwarder::leave`]).
    Left,
}

pub(super) struct Forwarder {
    epoll: Epoll,
    listeners: Vec<(OwnedFd, Way)>,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    /// Connections that had more to move when their turn was over.
    unfinished: Vec<usize>,
    pipes: Pipes,
    /// Connections that there is room for.
    most: usize,
    /// Are the listeners left alone, for want of room?
    full: bool,
    /// Is there nobody inside any more? Then nothing goes there.
    leaving: bool,
    /// Connections that have come to be inside so far, whether anybody took them or not.
    opened: u64,
}

struct Connection {
    outside: OwnedFd,
    /// What was sent to an earlier process of the service, which did not take it: it comes before all else.
    left: Option<OwnedFd>,
    inside: OwnedFd,
    state: State,
    /// From outside to inside, and back.
    flows: [Flow; 2],
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Connecting {
        /// The port where it may be tried once more, by IPv6.
        again: Option<u16>,
    },
    Open,
}

/// One direction: what was read and is still to be written lies in the pipe.
#[derive(Default)]
struct Flow {
    pipe: Option<Pipe>,
    filled: usize,
    ended: bool,
    shut: bool,
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

/// Empty ones.
#[derive(Default)]
struct Pipes(Vec<Pipe>);

/// Does a connection go on?
enum Left {
    Waiting,
    More,
    Over,
    /// One of its ends was reset, and so is the other.
    Broken,
}

impl Forwarder {
    /// Each listener with where its connections lead. They must not block.
    pub(super) fn new(listeners: Vec<(OwnedFd, Way)>) -> Result<Forwarder, LaunchError> {
        let wrong = |e: nix::Error| LaunchError::system_text("watch", "the published ports", e);
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let [each, all] = DESCRIPTORS;
        let room = files.map_or(MOST as u64, |files| files.saturating_sub(all) / each);
        let forwarder = Forwarder {
            pipes: Pipes::default(),
            most: MOST.min(usize::try_from(room).unwrap_or(MOST)),
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(wrong)?,
            listeners,
            connections: Vec::new(),
            free: Vec::new(),
            unfinished: Vec::new(),
            full: false,
            leaving: false,
            opened: 0,
        };
        for (number, (listener, _)) in forwarder.listeners.iter().enumerate() {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER | number as u64);
            forwarder.epoll.add(listener, event).map_err(wrong)?;
        }
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

    /// How many connections have come to be inside so far.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Is no connection left?
    pub(super) fn idle(&self) -> bool {
        self.connections.len() == self.free.len()
    }

    /// Hears of new connections, or of none. Their listeners stay in the epoll: to be put there again may fail, and then
    /// nothing would ever try once more.
    fn hear(&self, interest: EpollFlags) {
        for (number, (listener, _)) in self.listeners.iter().enumerate() {
            let mut event = EpollEvent::new(interest, LISTENER | number as u64);
            let _ = self.epoll.modify(listener, &mut event);
        }
    }

    /// Has [`Forwarder::turn`] end a wait when there is something to be read here too.
    pub(super) fn await_too(&self, other: BorrowedFd<'_>) -> Result<(), Errno> {
        let added = self.epoll.add(other, EpollEvent::new(EpollFlags::EPOLLIN, OTHER));
        added.map_err(|e| Errno::from_raw_os_error(e as i32))
    }

    pub(super) fn await_no_more(&self, other: BorrowedFd<'_>) {
        let _ = self.epoll.delete(other);
    }

    /// Handles what has happened; waits for it so long if there is nothing to do. Has anything happened elsewhere?
    pub(super) fn turn(&mut self, wait: EpollTimeout) -> bool {
        let mut events = [EpollEvent::empty(); 64];
        let wait = if self.busy() { EpollTimeout::ZERO } else { wait };
        let count = self.epoll.wait(&mut events, wait).unwrap_or(0);
        for index in std::mem::take(&mut self.unfinished) {
            self.advance(index, Side::Both);
        }
        let mut elsewhere = false;
        for event in &events[..count] {
            let number = event.data();
            match number & (LISTENER | OTHER) {
                OTHER => elsewhere = true,
                LISTENER => self.accept((number & !LISTENER) as usize),
                _ if number & 1 == 0 => self.advance((number >> 1) as usize, Side::Outside),
                _ => self.advance((number >> 1) as usize, Side::Inside),
            }
        }
        elsewhere
    }

    fn accept(&mut self, number: usize) {
        let Some((listener, way)) = self.listeners.get(number) else {
            return;
        };
        let way = *way;
        if let Way::Left = way {
            for (outside, left) in receive(listener.as_fd()) {
                if let Ok(connection) = Connection::open(outside, left, way, &mut self.pipes) {
                    self.take(connection);
                }
            }
            return;
        }
        for _ in 0..SPARE {
            if !self.accept_one(number, way) {
                return;
            }
        }
    }

    /// May there be another one?
    fn accept_one(&mut self, number: usize, way: Way) -> bool {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let opened = if self.connections.len() - self.free.len() < self.most {
            rustix::net::accept_with(&self.listeners[number].0, flags)
                .and_then(|outside| Connection::open(outside, None, way, &mut self.pipes))
        } else {
            Err(Errno::MFILE)
        };
        match opened {
            Ok(connection) => self.take(connection),
            Err(Errno::AGAIN) => return false,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                // Listeners would be ready again and again until a connection ends.
                if self.idle() {
                    // None of its own will, so it is others who hold all.
                    let _ = rustix::event::poll(&mut [], Some(&PAUSE));
                } else {
                    self.full = true;
                    self.hear(EpollFlags::empty());
                }
                return false;
            }
            // It went away, or cannot be had; the next one may.
            Err(_) => {}
        }
        true
    }

    fn take(&mut self, connection: Connection) {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        let watched = self
            .watch(&connection.outside, index, 0)
            .and_then(|()| self.watch(&connection.inside, index, 1))
            .and_then(|()| {
                connection
                    .left
                    .as_ref()
                    .map_or(Ok(()), |left| self.watch(left, index, 0))
            });
        if watched.is_ok() {
            self.connections[index] = Some(connection);
            self.advance(index, Side::Both);
        } else {
            self.free.push(index);
        }
    }

    /// `end`: 0 outside, 1 inside.
    fn watch(&self, socket: &OwnedFd, index: usize, end: u64) -> nix::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLET;
        self.epoll
            .add(socket, EpollEvent::new(flags, (index as u64) << 1 | end))
    }

    fn advance(&mut self, index: usize, mut side: Side) {
        let leaving = self.leaving;
        let Some(connection) = self.connections.get_mut(index).and_then(Option::as_mut) else {
            return;
        };
        let before = connection.state;
        if before != State::Open {
            side = Side::Both;
        }
        let left = match connection.connected() {
            Ok(true) => connection.pump(leaving, side, &mut self.pipes),
            Ok(false) => Left::Waiting,
            Err(_) => Left::Broken,
        };
        let other_socket = connection.state != before && connection.state != State::Open;
        if before != State::Open && connection.state == State::Open {
            self.opened += 1;
        }
        match left {
            Left::Over => self.close(index),
            Left::Broken => {
                connection.reset();
                self.close(index);
            }
            Left::More => self.unfinished.push(index),
            Left::Waiting if other_socket => {
                let again = self.connections[index]
                    .as_ref()
                    .map(|c| self.watch(&c.inside, index, 1).is_ok());
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
        if self.full {
            self.hear(EpollFlags::EPOLLIN);
            self.full = false;
        }
    }

    /// The process that `inside`, the listening sockets of this network, were for is gone. What it was sent by connections
    /// that it did not take is left for whoever comes after it in `successor`; what it said by others goes out yet. Says how
    /// many are left.
    pub(super) fn leave(&mut self, inside: &[OwnedFd], successor: BorrowedFd<'_>) -> usize {
        self.leaving = true;
        self.full = false;
        for (listener, _) in self.listeners.drain(..) {
            let _ = self.epoll.delete(&listener);
        }
        let mut by_ends: HashMap<(SocketAddr, SocketAddr), usize> = HashMap::new();
        let mut untaken = Vec::new();
        for (index, connection) in self.connections.iter().enumerate() {
            let Some(connection) = connection else { continue };
            if connection.state != State::Open {
                untaken.push((index, None));
            } else if let (Ok(here), Ok(there)) = (local(&connection.inside), peer(&connection.inside)) {
                by_ends.insert((here, there), index);
            }
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for listener in inside {
            // Whether it blocks was the process's own choice until now.
            let _ = rustix::io::ioctl_fionbio(listener, true);
            while let Ok(other) = rustix::net::accept_with(listener, flags) {
                let ends = (peer(&other), local(&other));
                if let (Ok(here), Ok(there)) = ends
                    && let Some(index) = by_ends.remove(&(here, there))
                {
                    untaken.push((index, Some(other)));
                }
            }
        }
        let mut left = Vec::new();
        for (index, other) in untaken {
            if let Some(connection) = self.connections[index].take() {
                self.free.push(index);
                left.extend(connection.leave(other, &mut self.pipes));
            }
        }
        for batch in left.chunks(BATCH) {
            // If it cannot be had, they are closed.
            let _ = send(successor, batch);
        }
        for index in 0..self.connections.len() {
            self.advance(index, Side::Both);
        }
        left.len()
    }
}

impl Connection {
    fn open(outside: OwnedFd, left: Option<OwnedFd>, way: Way, pipes: &mut Pipes) -> Result<Connection, Errno> {
        let _ = sockopt::set_tcp_nodelay(&outside, true);
        // Whoever is inside has its own end kept alive by this process, and would not notice that the client is gone.
        let _ = sockopt::set_tcp_keepidle(&outside, KEPT_ALIVE)
            .and_then(|()| sockopt::set_socket_keepalive(&outside, true));
        let client = peer(&outside)?;
        let local = local(&outside)?;
        let mut flows = [Flow::default(), Flow::default()];
        let (inside, again) = match way {
            Way::Port(port, header) => {
                if let Some(header) = header {
                    flows[0].begin_with(&header.bytes(client, local), pipes)?;
                }
                (connect_port(Ipv4Addr::LOCALHOST.into(), port)?, Some(port))
            }
            Way::Same | Way::Left => {
                let (to, from) = (on_loopback(local), on_loopback(client));
                // Its port may be taken here, by another connection of its that has yet to be forgotten.
                let other = || connect(to, SocketAddr::new(from.ip(), 0));
                (connect(to, from).or_else(|_| other())?, None)
            }
        };
        Ok(Connection {
            inside,
            flows,
            outside,
            left,
            state: State::Connecting { again },
        })
    }

    /// Is the inner connection there? Where nobody listens on IPv4, somebody may on IPv6.
    fn connected(&mut self) -> Result<bool, Errno> {
        let State::Connecting { again } = self.state else {
            return Ok(true);
        };
        match sockopt::socket_error(&self.inside)? {
            Ok(()) => match rustix::net::getpeername(&self.inside) {
                Ok(_) => {
                    self.state = State::Open;
                    Ok(true)
                }
                Err(_) => Ok(false),
            },
            Err(Errno::CONNREFUSED) if again.is_some() => {
                self.inside = connect_port(Ipv6Addr::LOCALHOST.into(), again.unwrap_or_default())?;
                self.state = State::Connecting { again: None };
                Ok(false)
            }
            Err(errno) => Err(errno),
        }
    }

    /// `leaving`: only what was said inside goes out. What happens at one end is about what comes from there, and about what
    /// could not be written to it.
    fn pump(&mut self, leaving: bool, side: Side, pipes: &mut Pipes) -> Left {
        let [go, come] = [(0, Side::Outside), (1, Side::Inside)]
            .map(|(flow, from)| side == Side::Both || side == from || self.flows[flow].filled > 0);
        for _ in 0..TURNS {
            let there = if go && !leaving {
                self.pump_there(pipes)
            } else {
                Ok(false)
            };
            let back = if come {
                self.flows[1].pump(&self.inside, &self.outside, true, pipes)
            } else {
                Ok(false)
            };
            let moved = match (there, back) {
                (Ok(there), Ok(back)) => there | back,
                _ => return Left::Broken,
            };
            let [there, back] = &self.flows;
            if back.shut && (there.shut || leaving) {
                return Left::Over;
            }
            if !moved {
                return Left::Waiting;
            }
        }
        Left::More
    }

    fn pump_there(&mut self, pipes: &mut Pipes) -> Result<bool, Errno> {
        let flow = &mut self.flows[0];
        let source = self.left.as_ref().unwrap_or(&self.outside);
        let moved = flow.pump(source, &self.inside, self.left.is_none(), pipes)?;
        if flow.ended && self.left.is_some() {
            flow.ended = false;
            self.left = None;
            return Ok(true);
        }
        Ok(moved)
    }

    /// Its client, and `other`, from which all can be read that was sent inside. `None` if the client has gone, or has
    /// sent more than the kernel holds for whoever does not read it.
    fn leave(mut self, other: Option<OwnedFd>, pipes: &mut Pipes) -> Option<(OwnedFd, Option<OwnedFd>)> {
        let mut outside = [PollFd::new(&self.outside, PollFlags::empty())];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        rustix::event::poll(&mut outside, Some(&now)).ok()?;
        if outside[0].revents().intersects(PollFlags::HUP | PollFlags::ERR) {
            return None;
        }
        if other.is_none() {
            return Some((self.outside, self.left));
        }
        while self.left.is_some() {
            if !self.pump_there(pipes).ok()? {
                return None;
            }
        }
        if let Some(pipe) = self.flows[0].pipe.take() {
            while self.flows[0].filled > 0 {
                if !self.flows[0].drain(&pipe, &self.inside).ok()? {
                    return None;
                }
            }
        }
        Some((self.outside, other))
    }

    /// What follows from the reset of one end: nobody takes what came so far for all. If something is still on its way to
    /// the client, that is let arrive instead.
    fn reset(&self) {
        let _ = sockopt::set_socket_linger(&self.inside, Some(Duration::ZERO));
        if self.flows[1].filled == 0 && sys::unsent(self.outside.as_fd()) == Ok(0) {
            let _ = sockopt::set_socket_linger(&self.outside, Some(Duration::ZERO));
        }
    }
}

impl Pipes {
    fn take(&mut self) -> Result<Pipe, Errno> {
        if let Some(pipe) = self.0.pop() {
            return Ok(pipe);
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Pipe { read, write })
    }

    fn give(&mut self, empty: Pipe) {
        if self.0.len() < SPARE {
            self.0.push(empty);
        }
    }
}

impl Flow {
    /// These bytes come before all that is read.
    fn begin_with(&mut self, bytes: &[u8], pipes: &mut Pipes) -> Result<(), Errno> {
        let pipe = pipes.take()?;
        self.filled += rustix::io::write(&pipe.write, bytes)?;
        self.pipe = Some(pipe);
        Ok(())
    }

    /// Moves a piece; says whether it could. `last`: when there is no more to read, the other side is to know.
    fn pump(&mut self, from: &OwnedFd, to: &OwnedFd, last: bool, pipes: &mut Pipes) -> Result<bool, Errno> {
        let mut moved = false;
        if !self.ended || self.filled > 0 {
            let pipe = match self.pipe.take() {
                Some(pipe) => pipe,
                None => pipes.take()?,
            };
            if !self.ended {
                match rustix::pipe::splice(from, None, &pipe.write, None, PIECE, FLAGS) {
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
            moved |= self.drain(&pipe, to)?;
            if self.filled == 0 {
                pipes.give(pipe);
            } else {
                self.pipe = Some(pipe);
            }
        }
        if last && self.ended && self.filled == 0 && !self.shut {
            self.shut = true;
            rustix::net::shutdown(to, Shutdown::Write)?;
        }
        Ok(moved)
    }

    /// Writes what was read; says whether any of it could be.
    fn drain(&mut self, pipe: &Pipe, to: &OwnedFd) -> Result<bool, Errno> {
        if self.filled == 0 {
            return Ok(false);
        }
        match rustix::pipe::splice(&pipe.read, None, to, None, self.filled, FLAGS) {
            Ok(written) => {
                self.filled -= written;
                Ok(true)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(false),
            Err(errno) => Err(errno),
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

impl Header {
    /// By the PROXY protocol's specification, sections 2.1 and 2.2.
    fn bytes(self, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
        let family = if client.is_ipv4() { 4 } else { 6 };
        match self {
            Header::V1 => {
                let (from, to) = (client.ip(), local.ip());
                format!("PROXY TCP{family} {from} {to} {} {}\r\n", client.port(), local.port()).into_bytes()
            }
            Header::V2 => {
                let mut addresses = Vec::with_capacity(36);
                for address in [client, local] {
                    match address.ip() {
                        IpAddr::V4(ip) => addresses.extend(ip.octets()),
                        IpAddr::V6(ip) => addresses.extend(ip.octets()),
                    }
                }
                addresses.extend(client.port().to_be_bytes());
                addresses.extend(local.port().to_be_bytes());
                let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
                // Version 2, PROXY; then the family, and TCP.
                bytes.extend([0x21, if family == 4 { 0x11 } else { 0x21 }]);
                bytes.extend((addresses.len() as u16).to_be_bytes());
                bytes.extend(addresses);
                bytes
            }
        }
    }
}

/// A socket's own address. What came by IPv4 to a socket for IPv6 came by IPv4.
fn local(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    Ok(canonical(rustix::net::getsockname(socket)?.try_into()?))
}

/// The address that it is connected to.
fn peer(socket: &OwnedFd) -> Result<SocketAddr, Errno> {
    let address = rustix::net::getpeername(socket)?.ok_or(Errno::NOTCONN)?;
    Ok(canonical(address.try_into()?))
}

fn canonical(mut address: SocketAddr) -> SocketAddr {
    if address.ip().to_canonical().is_ipv4() {
        address.set_ip(address.ip().to_canonical());
    }
    address
}

/// The same where there is no interface but the loopback: an address that holds for one interface holds for that.
pub(super) fn on_loopback(address: SocketAddr) -> SocketAddr {
    const LOOPBACK: u32 = 1;
    match address {
        SocketAddr::V6(mut address) if address.scope_id() != 0 => {
            address.set_scope_id(LOOPBACK);
            address.into()
        }
        other => other,
    }
}

fn connect_port(address: IpAddr, port: u16) -> Result<OwnedFd, Errno> {
    let source = SOURCES[usize::from(address.is_ipv6())];
    connect(SocketAddr::new(address, port), SocketAddr::new(source, 0))
}

/// Connects from an address that no interface need have. Never from another one: whom it stands for is what counts.
fn connect(to: SocketAddr, from: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = match to {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    if to.is_ipv6() {
        sockopt::set_ipv6_freebind(&socket, true)?;
    }
    if from.port() == 0 {
        sys::port_when_connecting(socket.as_fd())?;
    } else {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &from)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// A byte for each connection says how many descriptors it has.
fn send(to: BorrowedFd<'_>, connections: &[(OwnedFd, Option<OwnedFd>)]) -> Result<(), Errno> {
    let mut fds = Vec::with_capacity(2 * connections.len());
    let mut counts = Vec::with_capacity(connections.len());
    for (outside, left) in connections {
        fds.push(outside.as_fd());
        fds.extend(left.as_ref().map(AsFd::as_fd));
        counts.push(1 + u8::from(left.is_some()));
    }
    sys::send_fds(to, &counts, &fds, SendFlags::DONTWAIT).map(drop)
}

/// What [`send`] sent.
fn receive(from: BorrowedFd<'_>) -> Vec<(OwnedFd, Option<OwnedFd>)> {
    let (mut counts, mut fds) = ([0u8; BATCH], Vec::new());
    let Ok(received) = sys::receive_fds(from, &mut counts, 2 * BATCH, &mut fds) else {
        return Vec::new();
    };
    let mut fds = fds.into_iter();
    let mut next = |count: &u8| Some((fds.next()?, if *count == 2 { Some(fds.next()?) } else { None }));
    counts[..received].iter().map_while(&mut next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_their_specification_has_them() {
        let four = ["192.0.2.1:56324", "198.51.100.7:443"].map(|a| a.parse().unwrap());
        let six = ["[2001:db8::1]:56324", "[2001:db8::2]:443"].map(|a| a.parse().unwrap());
        assert_eq!(
            Header::V1.bytes(four[0], four[1]),
            b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
        );
        assert_eq!(
            Header::V1.bytes(six[0], six[1]),
            b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"
        );
        let two = Header::V2.bytes(four[0], four[1]);
        assert_eq!(two[..12], *b"\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a");
        assert_eq!(
            two[12..],
            [0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb]
        );
        let two = Header::V2.bytes(six[0], six[1]);
        assert_eq!((two.len(), &two[12..16]), (52, &[0x21, 0x21, 0, 36][..]));
    }
}
