//! What brings services the connections of the addresses that they listen on ([`crate::launch::relay`]): one at each start.
//!
//! The listening sockets of the host are the supervisor's ([`super::sockets`]) and outlast the services; what a service is
//! handed is made anew.

use super::sockets::BACKLOG;
use crate::compile;
use crate::launch::relay::{Notice, Relay, Task, hear};
use crate::launch::{LaunchError, Launcher, Running};
use crate::plan::Unit;
use crate::supervise::ids::ServiceId;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How long clients may take, when the app goes down, for what was said to them last.
const FAREWELL: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// The relays of an app, by service.
#[derive(Default)]
pub(in crate::supervise) struct Relays {
    held: BTreeMap<ServiceId, Relay>,
    /// What connections lie in that no process of a service took: the end that is read, and the other.
    left: BTreeMap<ServiceId, [OwnedFd; 2]>,
    /// Processes of relays whose service has ended.
    ending: Vec<OwnedFd>,
    /// Of these by service what they have yet to say of it.
    parting: BTreeMap<ServiceId, OwnedFd>,
}

impl Relays {
    /// Makes what a start of this service needs, and with it the sockets that it is to be handed in place of `outside`.
    pub(in crate::supervise) fn prepare(
        &mut self,
        id: ServiceId,
        service: &Unit,
        outside: &[BorrowedFd<'_>],
        launcher: &mut Launcher,
    ) -> Result<Vec<OwnedFd>, LaunchError> {
        self.end(id);
        if outside.is_empty() {
            self.forget(id);
            return Ok(Vec::new());
        }
        for socket in outside {
            rustix::io::ioctl_fionbio(socket, true).map_err(LaunchError::system("prepare", "a socket"))?;
        }
        let [left, leave] = match self.left.entry(id) {
            std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
            std::collections::btree_map::Entry::Vacant(empty) => {
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                    .map_err(LaunchError::system("make", "a socket pair"))?;
                empty.insert([pair.0, pair.1])
            }
        };
        let seccomp = compile::seccomp().map_err(|e| LaunchError::system_text("start", "a process for `listen`", e))?;
        let (relay, inside) = launcher.relay(&Task {
            outside,
            backlog: BACKLOG,
            left: [left.as_fd(), leave.as_fd()],
            keeper: service.identity.keeper.map(|keeper| (keeper.uid, keeper.gid)),
            seccomp: Some(seccomp),
        })?;
        self.held.insert(id, relay);
        Ok(inside)
    }

    /// Has a service get connections from now on, if it gets any by a relay.
    pub(in crate::supervise) fn begin(&self, id: ServiceId, running: &Running) -> Result<(), LaunchError> {
        self.held.get(&id).map_or(Ok(()), |relay| relay.begin(running))
    }

    /// Readable when the relay of a service has ended.
    pub(in crate::supervise) fn control(&self, id: ServiceId) -> Option<BorrowedFd<'_>> {
        self.held.get(&id).map(|relay| relay.control.as_fd())
    }

    /// Readable when there are connections that no process of the service took.
    pub(in crate::supervise) fn left(&self, id: ServiceId) -> Option<BorrowedFd<'_>> {
        self.left.get(&id).map(|[left, _]| left.as_fd())
    }

    /// What the relay of a service says, and whether that service has ended.
    pub(in crate::supervise) fn heard(&mut self, id: ServiceId) -> Option<(Notice, bool)> {
        if let Some(said) = self.parting.get(&id).and_then(|control| hear(control.as_fd())) {
            if said != Notice::NoneAccepted {
                self.parting.remove(&id);
            }
            return Some((said, true));
        }
        Some((hear(self.control(id)?)?, false))
    }

    /// As [`Relays::end`], of a process that had begun: its relay will yet say whether it took connections. Is there one?
    pub(in crate::supervise) fn part(&mut self, id: ServiceId) -> bool {
        if let Some(relay) = self.held.remove(&id) {
            let (pidfd, control) = relay.let_go();
            self.parting.insert(id, control);
            self.ending.push(pidfd);
            return true;
        }
        false
    }

    /// Its process is gone. What this said is still brought to its clients, and the rest is left for the next one.
    pub(in crate::supervise) fn end(&mut self, id: ServiceId) -> bool {
        self.ending
            .retain(|pidfd| !ended(pidfd, &Timespec { tv_sec: 0, tv_nsec: 0 }));
        let relay = self.held.remove(&id);
        let held = relay.is_some();
        self.ending.extend(relay.map(|relay| relay.let_go().0));
        self.parting.remove(&id);
        held
    }

    /// Nobody comes after it, so connections that are left for the next one are closed.
    pub(in crate::supervise) fn forget(&mut self, id: ServiceId) {
        self.left.remove(&id);
        self.parting.remove(&id);
    }

    /// Ends all of it, but gives clients a moment to take what they were sent.
    pub(in crate::supervise) fn close(&mut self) {
        for id in self.held.keys().copied().collect::<Vec<_>>() {
            self.end(id);
        }
        self.left.clear();
        self.parting.clear();
        let mut patience = FAREWELL;
        for pidfd in self.ending.drain(..) {
            if !ended(&pidfd, &patience) {
                patience = Timespec { tv_sec: 0, tv_nsec: 0 };
                let _ = rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL);
            }
        }
    }
}

fn ended(pidfd: &OwnedFd, patience: &Timespec) -> bool {
    rustix::event::poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(patience)) != Ok(0)
}
