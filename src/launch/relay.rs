//! A relay: the process that brings a service the connections of the addresses it listens on (`listen`).
//!
//! A socket stays of the network that it was made in, whoever holds it: one of the host's, a connection that was accepted
//! on it too, can be disconnected and connected to the host's loopback, or be bound and listen there. So what a service is
//! handed is of a network of the relay's, in which there is nothing else. There every address is local: the relay
//! connects to the address that the client connected to, from the client's own, so the service sees what it would see
//! without it.
//!
//! Network and sockets are made anew for each process of a service. Connections that one did not take are left for the
//! next one's relay; for those that it did, a relay stays until all that it said has gone out.

#![allow(
    unsafe_code,
    reason = "in a copy of the process, it works on descriptors and memory that the original owns"
)]

use super::child;
use super::forward::{Forwarder, Way, on_loopback};
use super::network::take_in_both;
use super::{LaunchError, Launcher, Running, go, socketpair};
use crate::host::idmap::Maps;
use crate::sys;
use crate::sys::helper::{self, Keeps};
use nix::sys::epoll::EpollTimeout;
use oci_spec::runtime::LinuxSeccomp;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};
use rustix::process::{PidfdFlags, Signal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// What a relay is to do.
pub struct Task<'a> {
    /// Listening TCP sockets of the host that do not block.
    pub outside: &'a [BorrowedFd<'a>],
    /// How many may wait in each of the sockets that the service is handed.
    pub backlog: i32,
    /// Both ends of what connections that no process took are left in: a pair of sockets that keep messages apart.
    pub left: [BorrowedFd<'a>; 2],
    /// The id to go on as, in this process's user namespace; it owns nothing. `None` where there is but one.
    pub keeper: Option<(u32, u32)>,
    pub seccomp: Option<&'a LinuxSeccomp>,
}

/// A relay that runs. Dropped, it takes no more connections, and ends when those that it has are over.
#[derive(Debug)]
pub struct Relay {
    pidfd: OwnedFd,
    /// What it says ([`hear`]); ends when the relay does.
    pub control: OwnedFd,
}

/// What a relay says of the service that it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// It accepted a connection, the first.
    Accepted,
    /// There has been one for [`ACCEPT_PATIENCE`], and it accepted none.
    NoneAccepted,
    /// It has ended, and accepted none of those that there were.
    EndedUnaccepted,
    /// It has ended, and there was none.
    EndedIdle,
    /// The relay has ended.
    RelayEnded,
}

/// How long a connection waits, and none was accepted, before that is said.
pub const ACCEPT_PATIENCE: Duration = Duration::from_secs(10);

/// Takes what a relay said next, if it said something.
pub fn hear(control: BorrowedFd<'_>) -> Option<Notice> {
    let mut word = [0u8; 1];
    match sys::receive(control, &mut word) {
        Err(Errno::AGAIN | Errno::INTR) => None,
        Ok(received) if received.bytes == 1 => Some(match word[0] {
            b'T' => Notice::Accepted,
            b'N' => Notice::NoneAccepted,
            b'U' => Notice::EndedUnaccepted,
            _ => Notice::EndedIdle,
        }),
        _ => Some(Notice::RelayEnded),
    }
}

/// Does the service take connections?
#[derive(Default)]
struct AcceptWatch {
    accepted: bool,
    /// Since when one waits, and none was accepted.
    since: Option<Instant>,
    said: bool,
}

impl AcceptWatch {
    /// When there is something to say by then.
    fn wait(&self) -> EpollTimeout {
        let Some(since) = self.since.filter(|_| !self.accepted && !self.said) else {
            return EpollTimeout::NONE;
        };
        let left = (ACCEPT_PATIENCE + Duration::from_millis(1)).saturating_sub(since.elapsed());
        EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO)
    }

    fn look(&mut self, opened: u64, inside: &[OwnedFd], control: &OwnedFd) {
        if self.accepted || opened == 0 {
            return;
        }
        let waiting: u64 = inside
            .iter()
            .map(|listener| sys::waiting(listener.as_fd()).map_or(0, u64::from))
            .sum();
        let since = *self.since.get_or_insert_with(Instant::now);
        if opened > waiting {
            self.accepted = true;
            say(control, b'T');
        } else if !self.said && since.elapsed() >= ACCEPT_PATIENCE {
            self.said = true;
            say(control, b'N');
        }
    }
}

fn say(control: &OwnedFd, word: u8) {
    // Whoever would read it may be gone; then nobody has to know.
    let _ = rustix::net::send(control, &[word], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// How long a client may take for what a process said that is gone.
const PATIENCE: Duration = Duration::from_secs(60);

impl Launcher {
    /// Starts a relay, and returns with it the listening sockets for the service, in the order of those outside. It takes no
    /// connection before [`Relay::begin`].
    pub fn relay(&mut self, task: &Task<'_>) -> Result<(Relay, Vec<OwnedFd>), LaunchError> {
        let wrong = || LaunchError::system("start", "a process for `listen`");
        let (ours, theirs) = socketpair()?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(LaunchError::system("open", "/dev/null"))?;
        let filter = self.filters.program(task.seccomp)?;
        let groups = self.groups_allowed;
        let alone = super::single_threaded("a process for `listen`")?;
        let mut kept: Vec<BorrowedFd<'_>> = task.outside.iter().chain(&task.left).copied().collect();
        kept.push(theirs.as_fd());
        let keeps = Keeps::Detached {
            kept: &kept,
            null: null.as_fd(),
        };
        let failed = |errno: Errno| {
            let _ = rustix::net::send(&theirs, &errno.raw_os_error().to_ne_bytes(), SendFlags::NOSIGNAL);
        };
        let life = || match live(task, &theirs, groups, filter.as_deref()) {
            Ok(()) => 0,
            Err(errno) => {
                failed(errno);
                1
            }
        };
        let namespaces = (libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as u64;
        let pid = helper::start(&alone, namespaces, &keeps, failed, life).map_err(wrong())?;
        drop(theirs);
        let made = (|| {
            let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(wrong())?;
            self.write_maps(&Maps::of_root(task.keeper.unwrap_or((0, 0))), pid)?;
            go(ours.as_fd()).map_err(wrong())?;
            let mut inside = Vec::with_capacity(task.outside.len());
            for outside in task.outside {
                let mut answer = [0u8; 4];
                while rustix::event::poll(&mut [PollFd::new(&ours, PollFlags::IN)], None) == Err(Errno::INTR) {}
                let received = sys::receive(ours.as_fd(), &mut answer).map_err(wrong())?;
                match (i32::from_ne_bytes(answer), received.fd) {
                    (0, Some(socket)) if received.bytes == answer.len() => inside.push(socket),
                    (0, _) => return Err(LaunchError::Vanished),
                    (errno, _) => {
                        let address = rustix::net::getsockname(outside)
                            .ok()
                            .and_then(|a| SocketAddr::try_from(a).ok());
                        let address = address.map_or_else(String::new, |a| a.to_string());
                        return Err(LaunchError::system("make the socket of `listen`", address)(
                            Errno::from_raw_os_error(errno),
                        ));
                    }
                }
            }
            Ok((pidfd, inside))
        })();
        match made {
            Ok((pidfd, inside)) => Ok((Relay { pidfd, control: ours }, inside)),
            Err(error) => {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                // It may have failed first, and knows better why.
                Err(last_word(ours.as_fd()).map_or(error, wrong()))
            }
        }
    }
}

/// The errno that a relay which has ended left in its socket.
fn last_word(control: BorrowedFd<'_>) -> Option<Errno> {
    let mut answer = [0u8; 4];
    let received = match sys::receive(control, &mut answer) {
        // That it had not read all comes first.
        Err(Errno::CONNRESET) => sys::receive(control, &mut answer),
        other => other,
    };
    let whole = received.is_ok_and(|received| received.bytes == answer.len());
    let errno = Some(i32::from_ne_bytes(answer)).filter(|errno| whole && *errno > 0);
    errno.map(Errno::from_raw_os_error)
}

impl Relay {
    /// Connections are for this process of the service from now on, until it ends.
    pub fn begin(&self, service: &Running) -> Result<(), LaunchError> {
        let wrong = || LaunchError::system("begin", "with the connections of a service");
        let pidfd = rustix::process::pidfd_open(service.pid, PidfdFlags::empty()).map_err(wrong())?;
        sys::send_fd(self.control.as_fd(), b"!", pidfd.as_fd()).map_err(wrong())
    }

    /// A descriptor of its process, readable when it has ended, and what it says.
    pub fn let_go(self) -> (OwnedFd, OwnedFd) {
        (self.pidfd, self.control)
    }
}

/// The relay's whole life.
fn live(
    task: &Task<'_>,
    control: &OwnedFd,
    clear_groups: bool,
    filter: Option<&super::seccomp::Program>,
) -> Result<(), Errno> {
    // The ids are mapped.
    if rustix::io::read(control, &mut [0u8; 1])? != 1 {
        return Ok(());
    }
    if clear_groups {
        rustix::thread::set_thread_groups(&[])?;
    }
    child::become_id(0, 0)?;
    sys::loopback_up()?;
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    take_in_both((all[0], 0), (all[1], 0))?;
    let (mut inside, mut listeners) = (Vec::new(), Vec::new());
    for outside in task.outside {
        let outside = rustix::io::fcntl_dupfd_cloexec(outside, 0)?;
        let socket = twin(&outside, task.backlog)?;
        sys::send_fd(control.as_fd(), &0i32.to_ne_bytes(), socket.as_fd())?;
        inside.push(socket);
        listeners.push((outside, Way::Same));
    }
    child::give_up(None, false)?;
    if let Some(filter) = filter {
        sys::seccomp_load(filter)?;
    }
    let mut ready = [PollFd::new(control, PollFlags::IN)];
    while rustix::event::poll(&mut ready, None) == Err(Errno::INTR) {}
    let begun = sys::receive(control.as_fd(), &mut [0u8; 1])?;
    // Without a process to be for, none of it is wanted.
    let Some(service) = begun.fd else { return Ok(()) };
    let [left, leave] = task.left;
    listeners.push((rustix::io::fcntl_dupfd_cloexec(left, 0)?, Way::Left));
    let mut forwarder = Forwarder::new(listeners).map_err(|_| Errno::NOMEM)?;
    forwarder.await_too(control.as_fd())?;
    forwarder.await_too(service.as_fd())?;
    let mut accepts = AcceptWatch::default();
    while !forwarder.turn(accepts.wait()) {
        accepts.look(forwarder.opened(), &inside, control);
    }
    accepts.look(forwarder.opened(), &inside, control);
    // Both stay ready from now on.
    forwarder.await_no_more(control.as_fd());
    forwarder.await_no_more(service.as_fd());
    for outside in task.outside {
        // SAFETY: its owner is on the supervisor's side of clone3(2); nothing here uses it any more.
        unsafe { rustix::io::close(outside.as_raw_fd()) };
    }
    let left = forwarder.leave(&inside, leave);
    if !accepts.accepted {
        say(control, if left > 0 { b'U' } else { b'0' });
    }
    drop(inside);
    let until = Instant::now() + PATIENCE;
    while !forwarder.idle() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        forwarder.turn(EpollTimeout::try_from(left).unwrap_or(EpollTimeout::ZERO));
    }
    Ok(())
}

/// A listening socket of this network with the address of one outside.
fn twin(outside: &OwnedFd, backlog: i32) -> Result<OwnedFd, Errno> {
    // As it is, not as what came by it is named.
    let address = on_loopback(rustix::net::getsockname(outside)?.try_into()?);
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_freebind(&socket, true)?;
        sockopt::set_ipv6_v6only(&socket, sockopt::ipv6_v6only(outside)?)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, backlog)?;
    Ok(socket)
}
