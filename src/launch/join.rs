//! `exec`: one more process in the namespaces of a service that runs, with the service's ids, filters and
//! limits.
//!
//! The supervisor makes a helper that stays outside: it waits for the program and tells the client how it
//! ended. The helper's child is born in the namespaces: a process in between enters them all, of which nothing is seen
//! inside, and the PID namespace takes in only who is born after that. So whoever watches /proc in there sees
//! no mounts, sockets or command line of the host for a moment. It is never dumpable on the way (CVE-2016-9962),
//! loads nothing from inside (CVE-2019-14271), and holds no descriptor but the program's (CVE-2024-21626).
//!
//! A terminal for the program lies in a /dev/pts of its own, in a mount namespace of its own: the service has the same
//! ids, and could open one that it sees.

#![allow(
    unsafe_code,
    reason = "in a copy of the process, it works on descriptors and memory that the original owns"
)]

use super::step::{ExecContext, Failed, Stage, Step};
use super::{LaunchError, Launcher, Report, explain_stage, prepare, read_report, socketpair};
use super::{cgroup, child, seccomp};
use crate::sys::helper::{self, Keeps};
use crate::sys::{self, SingleThreaded};
use crate::transfer::{self, Modes, TransferError};
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use rustix::thread::ThreadNameSpaceType;
use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

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
    /// Starts a program beside the service whose PID 1 is `init`. The pid is the helper's, which ends when all is told.
    pub fn join(
        &mut self,
        init: Pid,
        program: &Program<'_>,
        stdio: [BorrowedFd<'_>; 3],
        terminal: bool,
        client: &OwnedFd,
    ) -> Result<Pid, LaunchError> {
        self.join_for(&Work::Program(program), init, program.spec, stdio, terminal, client)
    }

    /// Copies files in or out beside the service whose PID 1 is `init`: as [`Launcher::join`], but what is done there
    /// is this program's own. What comes in is read from standard input, what goes out written to standard output.
    pub fn copy(
        &mut self,
        init: Pid,
        spec: &Spec,
        stdio: [BorrowedFd<'_>; 3],
        copy: &Copy,
        client: &OwnedFd,
    ) -> Result<Pid, LaunchError> {
        let mut spec = spec.clone();
        if let Some(linux) = spec.linux_mut() {
            let profile = linux.seccomp().as_ref().map(seccomp::with_openat2).transpose()?;
            linux.set_seccomp(profile);
        }
        self.join_for(&Work::Copy(copy), init, &spec, stdio, false, client)
    }

    fn join_for(
        &mut self,
        work: &Work<'_>,
        init: Pid,
        spec: &Spec,
        stdio: [BorrowedFd<'_>; 3],
        terminal: bool,
        client: &OwnedFd,
    ) -> Result<Pid, LaunchError> {
        let (mut joiner, ours) = self.joiner(init, spec, stdio, terminal)?;
        joiner.exec.joins = !matches!(work, Work::Program(Program { chosen: true, .. }));
        let args = spec
            .process()
            .as_ref()
            .and_then(|p| p.args().clone())
            .unwrap_or_default();
        let program = args.first().map_or("", String::as_str);
        let alone = super::single_threaded("a process")?;
        let mut kept = joiner.descriptors();
        kept.extend([ours.as_raw_fd(), client.as_raw_fd()]);
        let unready = |errno| {
            refuse(
                client,
                &LaunchError::system("close descriptors", "of the supervisor")(errno),
            )
        };
        let life = || exec_monitor(&alone, work, joiner, &ours, client, program, spec);
        helper::start(&alone, 0, &Keeps::These(&kept), unready, life).map_err(LaunchError::system("start", "a process"))
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
        let mut exec = prepare::exec_context(self, spec, stdio, &[], terminal)?;
        exec.joins = true;
        let pidfd = rustix::process::pidfd_open(init, PidfdFlags::empty())
            .map_err(LaunchError::system("open", "the service's process"))?;
        let (ours, theirs) = socketpair()?;
        let shares_network = !super::network::own(linux);
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
                Kind::Pid => ThreadNameSpaceType::PROCESS_ID,
                Kind::Time => ThreadNameSpaceType::TIME,
            };
        }
        let joiner = Joiner {
            exec,
            pidfd,
            // Without a right over the user namespace that owns it, it is joined with those held here.
            network_first: shares_network && namespaces.contains(ThreadNameSpaceType::NETWORK),
            namespaces: if shares_network {
                namespaces.difference(ThreadNameSpaceType::NETWORK)
            } else {
                namespaces
            },
            entrances: self.entrances(spec)?,
            terminals: terminal.then(|| prepare::terminals(spec)).transpose()?,
            clear_groups: self.groups_allowed,
            root: linux.uid_mappings().iter().flatten().any(|m| m.container_id() == 0),
            report: theirs,
        };
        Ok((joiner, ours))
    }
}

pub(super) struct Joiner {
    pub exec: ExecContext,
    pub pidfd: OwnedFd,
    network_first: bool,
    /// Ways into the service's cgroups.
    entrances: Vec<OwnedFd>,
    namespaces: ThreadNameSpaceType,
    /// Mounts a /dev/pts of the program's own, if it is to have a terminal.
    terminals: Option<Step>,
    clear_groups: bool,
    root: bool,
    pub report: OwnedFd,
}

impl Joiner {
    /// What must stay open until the namespaces are entered.
    pub(super) fn descriptors(&self) -> Vec<i32> {
        let mut out: Vec<i32> = self.exec.stdio.to_vec();
        out.extend([self.pidfd.as_raw_fd(), self.report.as_raw_fd()]);
        out.extend(self.entrances.iter().map(AsRawFd::as_raw_fd));
        out
    }

    /// A child of this process, born in the service's namespaces as their id 0, in no group and undumpable. `life` gets
    /// the program's terminal, if it is to have one, and never returns.
    pub(super) fn bear(&self, alone: &SingleThreaded, life: impl FnOnce(Option<OwnedFd>) -> i32) -> Result<Pid, Errno> {
        let mut life = Some(life);
        let mut born = |late: bool| {
            let life = |terminal| match (late.then(|| self.enter_cgroups()), life.take()) {
                (Some(Err(errno)), _) => child::fail(self.report.as_fd(), Stage::Namespaces, errno),
                (_, Some(life)) => life(terminal),
                (_, None) => child::exit(125),
            };
            helper::born_after(alone, || self.enter(late), 0, None, life)
        };
        // Where a limit leaves no room for one more process none can be born, but one may still move in: whoever looks into a
        // service that has used it up is not kept out. Inside it is seen for a moment in which cgroup it was before.
        match born(false) {
            Err(Errno::AGAIN) if !self.entrances.is_empty() => born(true),
            other => other,
        }
    }

    fn enter_cgroups(&self) -> Result<(), Errno> {
        self.entrances
            .iter()
            .try_for_each(|entrance| cgroup::enter(entrance.as_fd()))
    }

    /// Into the namespaces, all at once. Nothing inside sees this process, for the PID namespace is its children's.
    /// `late`: but for the cgroups, which the child is to enter.
    fn enter(&self, late: bool) -> Result<Option<OwnedFd>, Errno> {
        // SAFETY: nothing here looks at it.
        unsafe { sys::forget_arguments(&self.exec.arguments) };
        let _ = rustix::process::setsid();
        // First, while it is still the supervisor's to move.
        if !late {
            self.enter_cgroups()?;
        }
        if self.network_first {
            rustix::thread::move_into_thread_name_spaces(self.pidfd.as_fd(), ThreadNameSpaceType::NETWORK)?;
        }
        rustix::thread::move_into_thread_name_spaces(self.pidfd.as_fd(), self.namespaces)?;
        if self.clear_groups {
            rustix::thread::set_thread_groups(&[])?;
        }
        if self.root {
            child::become_id(0, 0)?;
        }
        child::hide()?;
        let Some(terminals) = &self.terminals else {
            return Ok(None);
        };
        let report = self.report.as_fd();
        let opened = sys::own_mount_namespace()
            .and_then(|()| child::carry_out(terminals, report))
            .and_then(|_| child::open_terminal(self.exec.uid, self.exec.gid, report))
            .and_then(|slave| rustix::io::fcntl_dupfd_cloexec(slave, 64));
        match opened {
            Ok(slave) => Ok(Some(slave)),
            Err(errno) => child::fail(report, Stage::Terminal, errno),
        }
    }
}

fn tell(client: &OwnedFd, kind: u32, number: u32, text: &str) {
    let bytes = encode(kind, number, text);
    let _ = rustix::net::send(client, &bytes, rustix::net::SendFlags::NOSIGNAL);
}

fn refuse(client: &OwnedFd, error: &LaunchError) {
    tell(client, told::FAILED, error.exit_code().into(), &error.to_string());
}

/// The helper's whole life. It is a copy of the supervisor that execs nothing, outside all namespaces: it waits for the
/// program, tells the client how it is with it, and passes on what the client sends.
fn exec_monitor(
    alone: &SingleThreaded,
    work: &Work<'_>,
    joiner: Joiner,
    reports: &OwnedFd,
    client: &OwnedFd,
    program: &str,
    spec: &Spec,
) -> i32 {
    let born = joiner.bear(alone, |terminal| match work {
        Work::Program(_) => enter_and_exec(&joiner, terminal),
        Work::Copy(copy) => enter_and_copy(&joiner, copy),
    });
    drop(joiner);
    let directory = spec
        .process()
        .as_ref()
        .map(|p| p.cwd().display().to_string())
        .unwrap_or_default();
    loop {
        match read_report(reports.as_fd(), |failed, errno| {
            explain_joined(failed, errno, program, &directory)
        }) {
            Ok(Report::Terminal(master)) => {
                let _ = sys::send_fd(client.as_fd(), &encode(told::TERMINAL, 0, ""), master.as_fd());
            }
            Ok(Report::Failed(error)) => {
                let error = match work {
                    Work::Program(program) => (program.explained)(error),
                    Work::Copy(_) => error,
                };
                refuse(client, &error);
                return 0;
            }
            Err(Errno::INTR) => {}
            // Closed on exec: the program runs.
            _ => break,
        }
    }
    let pid = match born {
        Ok(pid) => pid,
        Err(errno) => {
            refuse(client, &explain_stage(Stage::Namespaces, errno, program, ""));
            return 0;
        }
    };
    tell(client, told::STARTED, 0, "");
    let status = accompany(pid, client);
    tell(client, told::EXITED, status, "");
    0
}

/// As [`explain_stage`], for a process that has no steps.
pub(super) fn explain_joined(failed: Failed, errno: Errno, program: &str, directory: &str) -> LaunchError {
    match failed {
        Failed::Stage(stage) => explain_stage(stage, errno, program, directory),
        Failed::Step(_) => LaunchError::Vanished,
    }
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
                Ok(Some((_, status))) => sys::exit_status::exit_code(status.as_raw()).into(),
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

/// A copy into the service or out of it, as the service.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Copy {
    pub way: Way,
    /// As the service sees it.
    pub path: PathBuf,
    /// On the way in: what it is called if `path` is a directory that is there. Left out for a directory's content.
    pub name: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    In,
    Out,
}

/// A program that is to run beside a service.
pub struct Program<'a> {
    /// The service's, with the program in its `process`.
    pub spec: &'a Spec,
    /// Is the directory there one that the client has chosen, and not the service's?
    pub chosen: bool,
    /// Says more of an error of its start.
    pub explained: &'a dyn Fn(LaunchError) -> LaunchError,
}

/// What is done beside a service.
enum Work<'a> {
    Program(&'a Program<'a>),
    Copy(&'a Copy),
}

/// As [`enter_and_exec`], but what follows is this program's own, and no execve(2): it has one thread, and has given up all
/// that its service has not.
fn enter_and_copy(joiner: &Joiner, copy: &Copy) -> ! {
    let report = joiner.report.as_fd();
    // SAFETY: what 3 was is used no more: what the program is to have lies above, and the namespaces are entered.
    let report = match unsafe { sys::duplicate_to(report.as_raw_fd(), 3) } {
        Ok(report) => report,
        Err(errno) => child::fail(report, Stage::Descriptors, errno),
    };
    if let Err((stage, errno)) = child::apply_credentials(&joiner.exec, None, 1) {
        child::fail(report, stage, errno);
    }
    if let Err(errno) = child::hide() {
        child::fail(report, Stage::User, errno);
    }
    // By which the helper knows that it runs.
    // SAFETY: `report` is used no more, and nothing else from 3 on is open.
    if unsafe { sys::close_from(3) }.is_err() {
        child::exit(helper::FAILED);
    }
    let complain = |text: &str| {
        let _ = rustix::io::write(rustix::stdio::stderr(), format!("{text}\n").as_bytes());
    };
    let done = match copy.way {
        Way::In => {
            let name = copy.name.as_deref().map(OsStr::new);
            let input = std::io::BufReader::with_capacity(64 << 10, Descriptor(rustix::stdio::stdin()));
            transfer::unpack(input, &copy.path, name, Modes::Receiver)
        }
        Way::Out => {
            let output = Descriptor(rustix::stdio::stdout());
            let output = std::io::BufWriter::with_capacity(64 << 10, output);
            transfer::pack(&copy.path, output, &mut |note| complain(&format!("note: {note}")))
        }
    };
    match done {
        Ok(()) => child::exit(0),
        // The other end says why.
        Err(TransferError::Gone) => child::exit(1),
        Err(error) => {
            complain(&format!("error: {error}"));
            child::exit(1)
        }
    }
}

/// A standard descriptor without the buffer that the process this is a copy of may have filled.
struct Descriptor(BorrowedFd<'static>);

impl std::io::Read for Descriptor {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        Ok(rustix::io::read(self.0, bytes)?)
    }
}

impl std::io::Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(rustix::io::write(self.0, bytes)?)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// In the service's namespaces already; from there to the program. As after every clone3(2) on the way to execve(2), only
/// system calls.
fn enter_and_exec(joiner: &Joiner, terminal: Option<OwnedFd>) -> ! {
    child::exec_reporting(
        &joiner.exec,
        terminal.as_ref().map(|t| t.as_fd()),
        joiner.report.as_fd(),
    )
}
