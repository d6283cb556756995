//! `exec`: one more process in the namespaces of a service that runs, with the service's ids, filters and
//! limits.
//!
//! The supervisor makes a helper that stays outside: it waits for the program and tells the client how it
//! ended. The helper's child joins the namespaces. It is never dumpable on the way (CVE-2016-9962), loads
//! nothing from inside (CVE-2019-14271), and holds no descriptor but the program's (CVE-2024-21626).

#![allow(unsafe_code)]

use super::step::{Entry, Stage};
use super::{LaunchError, Launcher, Report, explain_stage, prepare, read_report, socketpair, sys};
use super::{cgroup, child};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What the helper tells the client: a kind, a number, and how many bytes of text follow.
pub mod told {
    /// The program's terminal comes with the message.
    pub const TERMINAL: u32 = 1;
    /// The program runs.
    pub const STARTED: u32 = 2;
    /// The program ended, with this exit code (128+n for signal n).
    pub const EXITED: u32 = 3;
    /// It could not be run: the exit code to end with, and why.
    pub const FAILED: u32 = 4;
}

/// One message of the helper, as bytes.
pub fn encode(kind: u32, number: u32, text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(12 + text.len());
    for word in [kind, number, text.len() as u32] {
        out.extend(word.to_ne_bytes());
    }
    out.extend(text.as_bytes());
    out
}

impl Launcher {
    /// Starts a program beside the service whose PID 1 is `init`. `spec` is the service's, with the program
    /// in its `process`. The pid is the helper's, which ends when all is told.
    pub fn join(
        &mut self,
        init: Pid,
        spec: &Spec,
        stdio: [BorrowedFd<'_>; 3],
        terminal: bool,
        client: &OwnedFd,
    ) -> Result<Pid, LaunchError> {
        let (joiner, ours) = self.joiner(init, spec, stdio, terminal)?;
        let args = spec
            .process()
            .as_ref()
            .and_then(|p| p.args().clone())
            .unwrap_or_default();
        // SAFETY: the supervisor is single-threaded, so its copy may go on as it is.
        match unsafe { sys::clone3(0) }.map_err(LaunchError::system("start", "a process"))? {
            0 => help(joiner, ours, client, args.first().map_or("", String::as_str), spec),
            pid => Pid::from_raw(pid).ok_or(LaunchError::Vanished),
        }
    }

    /// What it takes to become a process beside the one whose PID 1 is `init`, and the socket on which that process
    /// reports.
    pub(super) fn joiner(
        &mut self,
        init: Pid,
        spec: &Spec,
        stdio: [BorrowedFd<'_>; 3],
        terminal: bool,
    ) -> Result<(Joiner, OwnedFd), LaunchError> {
        let linux = spec
            .linux()
            .as_ref()
            .ok_or_else(|| LaunchError::Spec("has no `linux` section".into()))?;
        let entry = prepare::entry(self, spec, stdio, &[], terminal)?;
        let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty())
            .map_err(LaunchError::system("open", "the service's process"))?;
        let (ours, theirs) = socketpair()?;
        let mut namespaces = ThreadNameSpaceType::empty();
        for namespace in linux.namespaces().iter().flatten() {
            use oci_spec::runtime::LinuxNamespaceType as Kind;
            namespaces |= match namespace.typ() {
                Kind::User => ThreadNameSpaceType::USER,
                Kind::Mount => ThreadNameSpaceType::MOUNT,
                Kind::Ipc => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
                Kind::Uts => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
                Kind::Cgroup => ThreadNameSpaceType::CONTROL_GROUP,
                Kind::Network => ThreadNameSpaceType::NETWORK,
                // A process does not change its own; its children are born there.
                Kind::Pid => ThreadNameSpaceType::empty(),
                Kind::Time => ThreadNameSpaceType::TIME,
            };
        }
        let joiner = Joiner {
            entry,
            pidfd,
            entrances: self.entrances(spec)?,
            namespaces,
            clear_groups: self.groups_allowed,
            root: linux.uid_mappings().iter().flatten().any(|m| m.container_id() == 0),
            report: theirs,
        };
        Ok((joiner, ours))
    }
}

pub(super) struct Joiner {
    pub entry: Entry,
    pub pidfd: OwnedFd,
    /// Ways into the service's cgroups.
    entrances: Vec<OwnedFd>,
    namespaces: ThreadNameSpaceType,
    clear_groups: bool,
    root: bool,
    pub report: OwnedFd,
}

impl Joiner {
    /// What must stay open until the namespaces are entered.
    pub(super) fn descriptors(&self) -> Vec<i32> {
        let mut out: Vec<i32> = self.entry.stdio.to_vec();
        out.extend([self.pidfd.as_raw_fd(), self.report.as_raw_fd()]);
        out.extend(self.entrances.iter().map(AsRawFd::as_raw_fd));
        out
    }

    /// Into the namespaces, as their id 0, in no group and undumpable. The PID namespace was entered before.
    pub(super) fn enter_namespaces(&self) -> Result<(), Errno> {
        // First, while it is still the supervisor's to move.
        for entrance in &self.entrances {
            cgroup::enter(entrance.as_fd())?;
        }
        rustix::thread::move_into_thread_name_spaces(self.pidfd.as_fd(), self.namespaces)?;
        if self.clear_groups {
            rustix::thread::set_thread_groups(&[])?;
        }
        if self.root {
            child::become_id(0, 0)?;
        }
        child::hide()
    }
}

/// The helper's whole life. It is a copy of the supervisor that execs nothing, outside all namespaces.
fn help(joiner: Joiner, reports: OwnedFd, client: &OwnedFd, program: &str, spec: &Spec) -> ! {
    let mut kept = joiner.descriptors();
    kept.extend([reports.as_raw_fd(), client.as_raw_fd()]);
    // The supervisor's other descriptors are what other services' lives hang on.
    sys::close_all_but(&mut kept);
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let tell = |kind: u32, number: u32, text: &str| {
        let bytes = encode(kind, number, text);
        let _ = rustix::net::send(client, &bytes, rustix::net::SendFlags::NOSIGNAL);
    };
    let failed = |error: &LaunchError| -> ! {
        tell(told::FAILED, error.exit_code().into(), &error.to_string());
        child::exit(0)
    };
    if let Err(errno) =
        rustix::thread::move_into_thread_name_spaces(joiner.pidfd.as_fd(), ThreadNameSpaceType::PROCESS_ID)
    {
        failed(&explain_stage(Stage::Namespaces as u32, errno, program, ""));
    }
    // SAFETY: this process has one thread.
    let pid = match unsafe { sys::clone3(0) } {
        Ok(0) => join(&joiner),
        Ok(pid) => pid,
        Err(errno) => failed(&explain_stage(Stage::Spawn as u32, errno, program, "")),
    };
    drop(joiner);
    let directory = spec
        .process()
        .as_ref()
        .map(|p| p.cwd().display().to_string())
        .unwrap_or_default();
    loop {
        match read_report(reports.as_fd(), |number, errno| {
            explain_stage(number, errno, program, &directory)
        }) {
            Ok(Report::Terminal(master)) => hand_over(client, &master),
            Ok(Report::Failed(error)) => failed(&error),
            Err(Errno::INTR) => {}
            // Closed on exec: the program runs.
            _ => break,
        }
    }
    tell(told::STARTED, 0, "");
    let Some(pid) = Pid::from_raw(pid) else { child::exit(0) };
    let status = accompany(pid, client);
    tell(told::EXITED, status, "");
    child::exit(0)
}

/// Passes the client's signals on until the program ends; its exit code.
fn accompany(pid: Pid, client: &OwnedFd) -> u32 {
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        return 125;
    };
    let mut watched = 2;
    loop {
        let mut ready = [PollFd::new(&pidfd, PollFlags::IN), PollFd::new(client, PollFlags::IN)];
        if rustix::event::poll(&mut ready[..watched], None).is_err() {
            continue;
        }
        if !ready[0].revents().is_empty() {
            return match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
                Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => code as u32,
                    (None, signal) => 128 + signal.unwrap_or(0) as u32,
                },
                _ => 125,
            };
        }
        let mut number = [0u8; 1];
        match rustix::io::read(client, &mut number) {
            Ok(1) => drop(sys::kill(pid.as_raw_nonzero().get(), number[0].into())),
            Err(Errno::INTR | Errno::AGAIN) => {}
            // The client is gone: as when a terminal's line goes down, for the program and what it started.
            _ => {
                let _ = rustix::process::kill_process_group(pid, Signal::HUP);
                watched = 1;
            }
        }
    }
}

fn hand_over(client: &OwnedFd, master: &OwnedFd) {
    let bytes = encode(told::TERMINAL, 0, "");
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
    let fds = [master.as_fd()];
    ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds));
    let _ = rustix::net::sendmsg(
        client,
        &[rustix::io::IoSlice::new(&bytes)],
        &mut ancillary,
        rustix::net::SendFlags::NOSIGNAL,
    );
}

/// In the service's PID namespace already; into the others, and to the program. As after every clone3(2) on
/// the way to execve(2), only system calls.
fn join(joiner: &Joiner) -> ! {
    let report = joiner.report.as_fd();
    let entered = joiner.enter_namespaces();
    if let Err(errno) = entered {
        child::fail(report, Stage::Namespaces as u32, errno);
    }
    let terminal = if joiner.entry.terminal {
        let slave = child::open_terminal(joiner.entry.uid, joiner.entry.gid, report);
        match slave.and_then(|slave| rustix::io::fcntl_dupfd_cloexec(slave, 64)) {
            Ok(slave) => Some(slave),
            Err(errno) => child::fail(report, Stage::Terminal as u32, errno),
        }
    } else {
        None
    };
    // Behind the program's three, where it stays open until execve(2) succeeds.
    if let Err(errno) = sys::duplicate_to(report.as_raw_fd(), 3).and_then(|()| sys::close_on_exec(3)) {
        child::fail(report, Stage::Descriptors as u32, errno);
    }
    // SAFETY: the descriptor was just made.
    let report = unsafe { BorrowedFd::borrow_raw(3) };
    let (stage, errno) = child::enter(&joiner.entry, terminal.as_ref().map(|t| t.as_fd()), 1);
    child::fail(report, stage as u32, errno)
}
