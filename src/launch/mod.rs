//! OCI spec → running process. Reads the spec and what is on the host, nothing of the plan.
//!
//! [`prepare`] opens every path and computes every byte while still in the launcher; [`child`] carries the
//! steps out between clone3(2) and execve(2), where only system calls are safe. What fails there comes back
//! as a number and leaves here as a sentence.

pub mod ask;
pub mod cgroup;
mod child;
pub mod companion;
pub mod descendants;
pub mod dry_run;
mod error;
pub mod forward;
pub mod join;
mod landlock;
pub mod network;
mod prepare;
pub mod relay;
mod seccomp;
mod step;
pub mod trace;
pub mod transfer;
mod writable;

pub use error::LaunchError;
pub use prepare::raise_limit;

use crate::bundle::RootEntry;
use crate::sys;
use child::report;
use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use step::{Stage, Step};

/// What starts services: facts of this host, found once, and compiled filters.
pub struct Launcher {
    landlock_abi: u32,
    /// May setgroups(2) be called here? Not in an outer namespace of one id.
    groups_allowed: bool,
    filters: seccomp::Compiler,
    /// Where this process's command line lies in memory.
    arguments: std::ops::Range<usize>,
    proc: OwnedFd,
    cgroups: Option<cgroup::Cgroups>,
}

/// A service to start.
pub struct Request<'a> {
    pub spec: &'a Spec,
    /// What the spec's root holds, which is made anew in memory; parents before children.
    pub root: &'a [RootEntry],
    /// Standard input, output and error.
    pub stdio: [BorrowedFd<'a>; 3],
    /// Sockets for `LISTEN_FDS`, and their names.
    pub sockets: &'a [(BorrowedFd<'a>, &'a str)],
    /// Give it a terminal of its own in place of `stdio`; its other end comes as [`Report::Terminal`].
    pub terminal: bool,
    /// The network namespace that the spec names by path, if it does.
    pub network: Option<BorrowedFd<'a>>,
    /// When all is there but the program, wait: for a [`companion`] to do its part, or for [`Running::go`].
    pub hold: bool,
}

/// A service's PID 1, and the socket over which it reports. Dropping this closes the socket, at which PID 1
/// ends and all of the service with it; it must still be waited for.
#[derive(Debug)]
pub struct Running {
    pub pid: Pid,
    pub reports: OwnedFd,
    /// For [`Running::explain`]: what each step was about.
    steps: Vec<(&'static str, String)>,
    program: String,
    directory: String,
    cgroup: Option<cgroup::Group>,
}

/// What a service's PID 1 says.
#[derive(Debug)]
pub enum Report {
    /// All is there, and waits ([`Request::hold`]).
    Held,
    Started,
    /// As waitpid(2) has it.
    Exited(i32),
    Failed(LaunchError),
    Terminal(OwnedFd),
    /// PID 1 is gone.
    End,
}

impl Launcher {
    pub fn new() -> Result<Launcher, LaunchError> {
        // Nobody may trace a launcher, nor a process that is a copy of it and has not dropped its rights yet.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
            .map_err(LaunchError::system("make undumpable", "this process"))?;
        let proc = rustix::fs::open(
            "/proc",
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(LaunchError::system("open", "/proc"))?;
        let denied = std::fs::read_to_string("/proc/self/setgroups").is_ok_and(|s| s.trim() == "deny");
        Ok(Launcher {
            landlock_abi: sys::landlock_abi().unwrap_or(0),
            groups_allowed: !denied,
            filters: seccomp::Compiler::default(),
            arguments: sys::arguments().map_err(LaunchError::system("find the command line of", "this process"))?,
            proc,
            cgroups: None,
        })
    }

    /// From now on services with limits get a cgroup below these. Without it, none with limits is started.
    pub fn hold_limits(&mut self, cgroups: cgroup::Cgroups) {
        self.cgroups = Some(cgroups);
    }

    /// The cgroups that services with limits get theirs below.
    pub fn cgroups(&self) -> Option<&cgroup::Cgroups> {
        self.cgroups.as_ref()
    }

    /// Removes the cgroups. All services must have ended.
    pub fn release_limits(&mut self) {
        self.cgroups = None;
    }

    /// Is there no Landlock in this kernel?
    pub fn lacks_landlock(&self) -> bool {
        self.landlock_abi == 0
    }

    /// Starts a service. That its program runs, [`Running::report`] says later.
    pub fn start(&mut self, request: &Request<'_>) -> Result<Running, LaunchError> {
        let linux = request
            .spec
            .linux()
            .as_ref()
            .ok_or_else(|| LaunchError::Spec("has no `linux` section".into()))?;
        let entry = prepare::entry(self, request.spec, request.stdio, request.sockets, request.terminal)?;
        let group = self.group(request.spec)?;
        let birthplace = group.as_ref().map_or(Ok(None), |group| group.birthplace())?;
        let mut idmaps = crate::host::idmap::IdMaps::default();
        let steps = prepare::steps(self, request, group.as_ref(), &mut idmaps)?;
        let mut flags = 0;
        let mut joined = None;
        for namespace in linux.namespaces().iter().flatten() {
            match (namespace.typ(), namespace.path(), request.network) {
                (kind, None, _) => flags |= namespace_flag(kind),
                (LinuxNamespaceType::Network, Some(_), Some(fd)) => joined = Some(fd),
                (kind, Some(path), _) => {
                    return Err(LaunchError::Spec(format!(
                        "joins the {kind} namespace {}, which this launcher was not given",
                        path.display()
                    )));
                }
            }
        }
        if group.is_some() {
            // It would have the launcher's cgroup for its root: the step makes it, from inside.
            flags &= !namespace_flag(LinuxNamespaceType::Cgroup);
        }
        for step in &steps {
            let (operation, object) = step.describe();
            tracing::trace!(operation, object, "step");
        }
        let (ours, theirs) = socketpair()?;
        let described = steps.iter().map(Step::describe).collect();
        let program = request
            .spec
            .process()
            .as_ref()
            .and_then(|p| p.args().as_ref()?.first().cloned())
            .unwrap_or_default();
        let directory = entry.directory.to_string_lossy().into_owned();
        let root_inside = entry.uid == 0;
        let init = child::Init {
            steps,
            report: theirs.as_raw_fd(),
            launcher: ours.as_raw_fd(),
            keep: if root_inside { keeper(linux) } else { None },
            entry,
            stack: sys::Stack::new(64 << 10).map_err(LaunchError::system("map", "a stack"))?,
        };
        // SAFETY: the launcher is single-threaded, and `run_init` uses what was prepared and nothing else.
        #[allow(unsafe_code)]
        let pid = unsafe {
            match joined {
                Some(network) => network::born_in(network, flags, birthplace.as_ref().map(AsFd::as_fd), || {
                    child::run_init(&init)
                }),
                None => match sys::clone3_into(flags, birthplace.as_ref().map(AsFd::as_fd)) {
                    Ok(0) => child::run_init(&init),
                    other => other,
                },
            }
        };
        let pid = pid.map_err(LaunchError::system("make the namespaces of", "a new process"))?;
        let pid = Pid::from_raw(pid).ok_or(LaunchError::Vanished)?;
        let running = Running {
            pid,
            reports: ours,
            steps: described,
            program,
            directory,
            cgroup: group,
        };
        drop(theirs);
        let maps = self
            .write_maps(pid, "uid_map", linux.uid_mappings().as_deref().unwrap_or_default())
            .and_then(|()| self.write_maps(pid, "gid_map", linux.gid_mappings().as_deref().unwrap_or_default()))
            .and_then(|()| go(running.reports.as_fd()).map_err(LaunchError::system("signal", "the new process")));
        match maps {
            Ok(()) => Ok(running),
            // It may have failed first, and knows better why.
            Err(ours) => Err(match running.abort() {
                Some(theirs) => theirs,
                None => ours,
            }),
        }
    }

    /// The cgroup that a spec's limits need, if there are any.
    fn group(&self, spec: &Spec) -> Result<Option<cgroup::Group>, LaunchError> {
        let Some(resources) = cgroup::of_spec(spec) else {
            return Ok(None);
        };
        let cgroups = self.cgroups.as_ref().ok_or_else(|| {
            LaunchError::Spec("sets limits in `linux.resources`, but no place for cgroups was made".into())
        })?;
        cgroups.make(cgroup_name(spec)?, resources).map(Some)
    }

    /// Ways into the cgroup of the service with this spec, for a process that joins it.
    fn entrances(&self, spec: &Spec) -> Result<Vec<OwnedFd>, LaunchError> {
        match (&self.cgroups, cgroup::of_spec(spec)) {
            (Some(cgroups), Some(_)) => cgroups.entrances(cgroup_name(spec)?),
            _ => Ok(Vec::new()),
        }
    }

    fn write_maps(&self, pid: Pid, file: &str, lines: &[LinuxIdMapping]) -> Result<(), LaunchError> {
        if lines.is_empty() {
            return Ok(());
        }
        self.write_map(pid, file, &crate::bundle::id_map(lines))
    }

    fn write_map(&self, pid: Pid, file: &str, text: &str) -> Result<(), LaunchError> {
        let path = format!("{}/{file}", pid.as_raw_nonzero());
        let wrong = || {
            LaunchError::system(
                "write",
                format!("/proc/{path} ({})", text.trim_end().replace('\n', ", ")),
            )
        };
        let fd = rustix::fs::openat(
            &self.proc,
            &path,
            rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(wrong())?;
        rustix::io::write(&fd, text.as_bytes()).map_err(wrong()).map(drop)
    }
}

impl Running {
    /// Waits for the next report. With a non-blocking socket, `Err(WOULDBLOCK)` if there is none yet.
    pub fn report(&self) -> Result<Report, Errno> {
        read_report(self.reports.as_fd(), |number, errno| self.explain(number, errno))
    }

    /// The service's cgroup, if it has limits that need one.
    pub fn cgroup(&self) -> Option<&cgroup::Group> {
        self.cgroup.as_ref()
    }

    /// Its program runs: no step can fail any more, and what each was about need not be remembered.
    pub fn settle(&mut self) {
        self.steps = Vec::new();
    }

    /// Tells a service that was started with [`Request::hold`] to run its program.
    pub fn go(&self) -> Result<(), Errno> {
        go(self.reports.as_fd())
    }

    /// Has PID 1 ended, and is to be waited for?
    pub fn has_ended(&self) -> bool {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let flags = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        !matches!(waitid(WaitId::Pid(self.pid), flags), Ok(None))
    }

    /// Sends a signal to PID 1, which passes it on.
    pub fn signal(&self, signal: rustix::process::Signal) -> Result<(), Errno> {
        rustix::process::kill_process(self.pid, signal)
    }

    /// Kills and reaps; what it said of itself before.
    pub fn abort(self) -> Option<LaunchError> {
        let _ = self.signal(rustix::process::Signal::KILL);
        let said = match self.report() {
            Ok(Report::Failed(error)) => Some(error),
            _ => None,
        };
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
        said
    }

    fn explain(&self, number: u32, errno: Errno) -> LaunchError {
        match self.steps.get(number as usize) {
            Some((operation, object)) => LaunchError::System {
                operation,
                object: object.clone(),
                errno,
            },
            None => explain_stage(number, errno, &self.program, &self.directory),
        }
    }
}

/// Tells a service's PID 1 that all it waits for is done; `reports` is the launcher's end of its socket.
fn go(reports: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::send(reports, b"!", rustix::net::SendFlags::NOSIGNAL).map(drop)
}

/// The sentence for a stage of [`step::Entry`] that failed.
fn explain_stage(number: u32, errno: Errno, program: &str, directory: &str) -> LaunchError {
    let Some((stage, operation)) = Stage::from_code(number) else {
        return LaunchError::Vanished;
    };
    match (stage, errno) {
        (Stage::Exec, Errno::NOENT) => LaunchError::Program {
            message: format!(
                "run {program}: not found in the service's root; correct `command`, or grant the path that it lies in"
            ),
            code: 127,
        },
        (Stage::Exec, Errno::ACCESS | Errno::PERM) => LaunchError::Program {
            message: format!(
                "run {program}: not executable for this service; `chmod +x` it, or grant `x` on what it lies in"
            ),
            code: 126,
        },
        (Stage::Exec, Errno::NOEXEC) => LaunchError::Program {
            message: format!("run {program}: neither a program for this machine nor a script with a `#!` line"),
            code: 126,
        },
        (Stage::Exec, errno) => LaunchError::Program {
            message: format!("run {program}: {errno}"),
            code: 126,
        },
        (Stage::Directory, Errno::NOENT | Errno::NOTDIR) => LaunchError::Program {
            message: format!(
                "enter the directory {directory}: it does not exist in the service's root; correct `directory`, or grant it"
            ),
            code: 125,
        },
        (Stage::Directory, errno) => LaunchError::System {
            operation,
            object: directory.to_owned(),
            errno,
        },
        _ => LaunchError::System {
            operation,
            object: format!("for {program}"),
            errno,
        },
    }
}

fn read_report(socket: BorrowedFd<'_>, explain: impl FnOnce(u32, Errno) -> LaunchError) -> Result<Report, Errno> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut bytes = [0u8; 12];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = match recvmsg(
        socket,
        &mut [rustix::io::IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    ) {
        Ok(received) => received.bytes,
        Err(Errno::CONNRESET) => 0,
        Err(errno) => return Err(errno),
    };
    if received < bytes.len() {
        return Ok(Report::End);
    }
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    Ok(match word(0) {
        report::HELD => Report::Held,
        report::STARTED => Report::Started,
        report::EXITED => Report::Exited(word(4) as i32),
        report::FAILED => Report::Failed(explain(word(4), Errno::from_raw_os_error(word(8) as i32))),
        report::TERMINAL => {
            let fds = ancillary.drain().find_map(|message| match message {
                RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
                _ => None,
            });
            fds.map_or(Report::End, Report::Terminal)
        }
        _ => Report::End,
    })
}

/// fork(2), for a process of one thread, whose copy can go on as if it were itself. `None` in the child.
pub fn fork() -> Result<Option<Pid>, LaunchError> {
    let threads = std::fs::read_dir("/proc/self/task").map(Iterator::count).unwrap_or(0);
    if threads != 1 {
        return Err(LaunchError::Other {
            operation: "start",
            object: "a supervisor".into(),
            cause: format!("this process has {threads} threads"),
        });
    }
    // SAFETY: there is no other thread, as was just seen.
    #[allow(unsafe_code)]
    let pid = unsafe { sys::clone3(0) }.map_err(LaunchError::system("start", "a supervisor"))?;
    Ok(Pid::from_raw(pid))
}

fn socketpair() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(LaunchError::system("make", "a socket pair"))
}

/// The id beside the service's own, where that is 0 inside.
fn keeper(linux: &oci_spec::runtime::Linux) -> Option<(u32, u32)> {
    let other = |lines: &Option<Vec<LinuxIdMapping>>| {
        lines
            .iter()
            .flatten()
            .map(LinuxIdMapping::container_id)
            .find(|id| *id != 0)
    };
    Some((other(linux.uid_mappings())?, other(linux.gid_mappings())?))
}

/// A service's cgroup is called as the service is, which is its host name too.
fn cgroup_name(spec: &Spec) -> Result<&str, LaunchError> {
    let name = spec.hostname().as_deref().unwrap_or_default();
    if name.is_empty() || name.starts_with('.') || name.contains('/') {
        return Err(LaunchError::Spec(
            "has limits, but no host name to call its cgroup by".into(),
        ));
    }
    Ok(name)
}

fn namespace_flag(kind: LinuxNamespaceType) -> u64 {
    (match kind {
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_launcher_is_not_dumpable() {
        use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::Dumpable);
        let _launcher = Launcher::new().unwrap();
        let has = dumpable_behavior().unwrap();
        // And what hides by itself, for a change of id would do the same where the host is set up so.
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        child::hide().unwrap();
        assert_eq!(dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
        rustix::process::set_parent_process_death_signal(None).unwrap();
        // It is the whole process's.
        set_dumpable_behavior(DumpableBehavior::Dumpable).unwrap();
        assert_eq!(has, DumpableBehavior::NotDumpable);
    }
}
