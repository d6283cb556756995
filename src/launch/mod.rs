//! OCI spec → running process. Reads the spec and what is on the host, nothing of the plan.
//!
//! [`prepare`] opens every path and computes every byte while still in the launcher; [`child`] carries the
//! steps out between clone3(2) and execve(2), where only system calls are safe. What fails there comes back
//! as a number and leaves here as a sentence.

pub mod ask;
mod attach;
mod call;
pub mod capabilities;
pub mod cgroup;
mod child;
pub mod companion;
pub mod descendants;
pub mod dry_run;
mod error;
mod filesystem;
pub mod forward;
pub mod join;
mod landlock;
pub mod network;
mod prepare;
pub mod program;
pub mod relay;
pub(crate) mod seccomp;
mod step;
pub mod trace;
mod writable;

pub use attach::OwnMounts;
pub use call::Descriptors;
pub use error::LaunchError;
pub use landlock::{Allowed, May};
pub use prepare::{is_null, raise_limit};
pub use step::Program;

use crate::bundle::{INIT_ANNOTATION, RootEntry, id_map};
use crate::cause::Cause;
use crate::host::idmap::{IdMaps, Maps};
use crate::sys::helper;
use crate::sys::{self, SingleThreaded};
use child::report;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Spec};
use rustix::io::Errno;
use rustix::process::Pid;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use step::{Failed, Stage, Step};

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
struct Request<'a> {
    spec: &'a Spec,
    /// What the spec's root holds, which is made anew in memory; parents before children.
    root: &'a [RootEntry],
    /// Standard input, output and error.
    stdio: [BorrowedFd<'a>; 3],
    /// Sockets for `LISTEN_FDS`, and their names.
    sockets: &'a [(BorrowedFd<'a>, &'a str)],
    /// Give it a terminal of its own in place of `stdio`; its other end comes as [`Report::Terminal`].
    terminal: bool,
    /// The network namespace that the spec names by path, if it does.
    network: Option<BorrowedFd<'a>>,
    /// When all is there but the program, wait: for a [`companion`] to do its part, or for [`Running::go`].
    hold: bool,
    program: Program<'a>,
    /// A detached tree, and where it is attached.
    shown: Option<(BorrowedFd<'a>, &'a std::path::Path)>,
    owner: Option<u32>,
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
    /// All is there, and waits ([`Descriptors::hold`]).
    Held,
    Started,
    /// The Landlock rules that a process which joins is to apply to itself ([`Program::Joining`]), where there are any.
    Rules(OwnedFd),
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
        let proc = open_proc()?;
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

    /// Another /proc was mounted, by whose numbers processes go now.
    pub fn reopen_proc(&mut self) -> Result<(), LaunchError> {
        self.proc = open_proc()?;
        Ok(())
    }

    /// From now on services with limits get a cgroup below these. Without it, none with limits is started.
    pub fn hold_limits(&mut self, cgroups: cgroup::Cgroups) {
        self.cgroups = Some(cgroups);
    }

    /// Those cgroups, for a copy of this process to start something in. They stay this process's to remove.
    pub fn take_limits(&mut self) -> Option<cgroup::Cgroups> {
        self.cgroups.take()
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
    fn start(&mut self, request: &Request<'_>) -> Result<Running, LaunchError> {
        let linux = request
            .spec
            .linux()
            .as_ref()
            .ok_or_else(|| LaunchError::Spec("has no `linux` section".into()))?;
        let page = supported_page()?;
        let alone = single_threaded("a service")?;
        let mut exec = prepare::exec_context(self, request.spec, request.stdio, request.sockets, request.terminal)?;
        let joined = match request.program {
            Program::OfSpec => false,
            Program::Forking => {
                exec.landlock = None;
                false
            }
            Program::Joining(place) => {
                if let Some(rules) = &mut exec.landlock {
                    rules.allow_mount_at(place)?;
                }
                true
            }
        };
        if let (Some((_, place)), Some(rules)) = (request.shown, &mut exec.landlock) {
            rules.allow_mount_at(place)?;
        }
        let group = self.group(request.spec)?;
        let mut idmaps = IdMaps::default();
        let steps = prepare::steps(self, request, group.as_ref(), &mut idmaps)?;
        let born = Birth::of(linux, request, group.as_ref())?;
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
        let directory = exec.directory.to_string_lossy().into_owned();
        let root_inside = exec.uid == 0;
        let init = child::Init {
            steps,
            report: theirs.as_raw_fd(),
            launcher: ours.as_raw_fd(),
            keep: if root_inside { keeper(request.spec) } else { None },
            exec,
            joined,
            stack: sys::Stack::new(EXEC_STACK).map_err(LaunchError::system("map", "a stack"))?,
            page,
        };
        let pid = born
            .spawn(&alone, || child::run_init(&init))
            .map_err(LaunchError::system("make the namespaces of", "a new process"))?;
        drop(theirs);
        let running = Running {
            pid,
            reports: ours,
            steps: described,
            program,
            directory,
            cgroup: group,
        };
        self.release(running, linux)
    }

    /// Starts a process that has no namespaces of its own, and so no PID 1: it is a child of this process. When its program runs,
    /// [`Running::report`] comes to an end. Without rules it is trusted, and outlives this process.
    fn start_in_place(&mut self, request: &Request<'_>, rules: Option<&[Allowed]>) -> Result<Running, LaunchError> {
        let alone = single_threaded("a process")?;
        let mut exec = prepare::exec_context(self, request.spec, request.stdio, request.sockets, false)?;
        exec.in_place = true;
        exec.landlock = rules
            .map(|rules| landlock::in_place(self.landlock_abi, rules))
            .transpose()?;
        if rules.is_none() {
            exec.filter = None;
        }
        let program = exec.argv.first();
        let directory = exec.directory.to_string_lossy().into_owned();
        let (ours, theirs) = socketpair()?;
        let report = theirs.as_raw_fd();
        let pid = match sys::clone3(&alone, 0).map_err(LaunchError::system("start", program.clone()))? {
            0 => child::run_in_place(&exec, rules.is_none(), report),
            pid => Pid::from_raw(pid).ok_or(LaunchError::Vanished)?,
        };
        Ok(Running {
            pid,
            reports: ours,
            steps: Vec::new(),
            program,
            directory,
            cgroup: None,
        })
    }

    /// These rules as the kernel holds them, for a process that confines itself without namespaces of its own.
    pub fn ruleset(&self, allowed: &[Allowed]) -> Result<OwnedFd, LaunchError> {
        let rules = landlock::in_place(self.landlock_abi, allowed)?;
        landlock::ruleset(&rules).map_err(LaunchError::system("make", "Landlock rules"))
    }

    /// Adds to rules that nobody is held by yet.
    pub fn allow(&self, ruleset: BorrowedFd<'_>, allowed: &[Allowed]) -> Result<(), LaunchError> {
        let rules = landlock::in_place(self.landlock_abi, allowed)?;
        landlock::allow(ruleset, &rules).map_err(LaunchError::system("add to", "Landlock rules"))
    }

    /// Maps the ids of a process that waits for it, and lets it go on.
    fn release(&self, running: Running, linux: &Linux) -> Result<Running, LaunchError> {
        let text = |lines: &Option<Vec<LinuxIdMapping>>| id_map(lines.as_deref().unwrap_or_default());
        let maps = Maps([text(linux.uid_mappings()), text(linux.gid_mappings())]);
        let maps = self
            .write_maps(&maps, running.pid)
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

    fn write_maps(&self, maps: &Maps, pid: Pid) -> Result<(), LaunchError> {
        maps.write(&self.proc, pid)
            .map_err(|unwritten| LaunchError::system("write", unwritten.object)(unwritten.errno))
    }

    /// A tree of what `source` shows, attached nowhere, for [`OwnMounts::attach_in`]: with no device and no set-id program in it, and with
    /// other ids where there is a map. `path` is what an error names, and `idmaps` keeps the map for the next.
    pub fn detached(
        &self,
        source: BorrowedFd<'_>,
        path: &std::path::Path,
        map: Option<&(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
        idmaps: &mut IdMaps,
    ) -> Result<OwnedFd, LaunchError> {
        prepare::detached(source, path, map, idmaps)
    }

    /// An overlay on such a tree: what [`OwnMounts::attach_in`] takes in its place, and the layer in memory that what is written goes to. It
    /// holds so many bytes and files, and is this owner's.
    pub fn overlay(
        &self,
        lower: OwnedFd,
        holds: (u64, u64),
        owner: (u32, u32),
        outer: bool,
    ) -> Result<[OwnedFd; 2], LaunchError> {
        writable::over(lower, holds, owner, outer)
    }

    /// A filter of system calls as seccomp(2) takes it, to be loaded by a process that joins: an array of `struct sock_filter`.
    pub fn filter(&mut self, spec: &Spec) -> Result<Vec<u8>, LaunchError> {
        let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
        let program = self.filters.program(profile)?;
        Ok(program.map_or_else(Vec::new, |program| {
            let bytes = |i: &libc::sock_filter| {
                let [c0, c1] = i.code.to_ne_bytes();
                let [k0, k1, k2, k3] = i.k.to_ne_bytes();
                [c0, c1, i.jt, i.jf, k0, k1, k2, k3]
            };
            program.iter().flat_map(bytes).collect()
        }))
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
}

fn open_proc() -> Result<OwnedFd, LaunchError> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc", flags, Mode::empty()).map_err(LaunchError::system("open", "/proc"))
}

/// How a service's process is born: into which new namespaces, in which cgroup, and in which network that is there.
struct Birth<'a> {
    namespaces: u64,
    cgroup: Option<OwnedFd>,
    network: Option<BorrowedFd<'a>>,
    /// Whose the user namespace is, if not this process's.
    owner: Option<u32>,
}

impl<'a> Birth<'a> {
    fn of(linux: &Linux, request: &Request<'a>, group: Option<&cgroup::Group>) -> Result<Birth<'a>, LaunchError> {
        let network = request.network;
        let mut flags = 0;
        let mut joined = None;
        for namespace in linux.namespaces().iter().flatten() {
            match (namespace.typ(), namespace.path(), network) {
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
        Ok(Birth {
            namespaces: flags,
            cgroup: group.map_or(Ok(None), |group| group.birthplace())?,
            network: joined,
            owner: request.owner,
        })
    }

    /// `life` never returns, and uses what was prepared and nothing else.
    fn spawn(&self, alone: &SingleThreaded, life: impl FnOnce() -> i32) -> Result<Pid, Errno> {
        let cgroup = self.cgroup.as_ref().map(AsFd::as_fd);
        let Some(network) = self.network else {
            let bear = || match sys::clone3_into(alone, self.namespaces, cgroup)? {
                0 => sys::exit(life()),
                pid => Pid::from_raw(pid).ok_or(Errno::SRCH),
            };
            return match self.owner {
                Some(id) => capabilities::as_effective_user(id, bear)?,
                None => bear(),
            };
        };
        // Its new user namespace would give it no right to enter the network by itself, and this process, if it is not the
        // host's root, would not come back.
        helper::born_after(alone, || network::enter(network), self.namespaces, cgroup, |()| life())
    }
}

impl Running {
    /// Waits for the next report. With a non-blocking socket, `Err(WOULDBLOCK)` if there is none yet.
    pub fn report(&self) -> Result<Report, Errno> {
        read_report(self.reports.as_fd(), |failed, errno| self.explain(failed, errno))
    }

    /// The service's cgroup, if it has limits that need one.
    pub fn cgroup(&self) -> Option<&cgroup::Group> {
        self.cgroup.as_ref()
    }

    /// Its program runs: no step can fail any more, and what each was about need not be remembered.
    pub fn settle(&mut self) {
        self.steps = Vec::new();
    }

    /// Tells a service that was started with [`Descriptors::hold`] to run its program.
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

    fn explain(&self, failed: Failed, errno: Errno) -> LaunchError {
        match failed {
            Failed::Stage(stage) => explain_stage(stage, errno, &self.program, &self.directory),
            Failed::Step(number) => match self.steps.get(number as usize) {
                Some((operation, object)) => LaunchError::System {
                    operation,
                    object: object.clone(),
                    errno,
                },
                None => LaunchError::Vanished,
            },
        }
    }
}

/// Tells a service's PID 1 that all it waits for is done; `reports` is the launcher's end of its socket.
fn go(reports: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::send(reports, &[child::GO], rustix::net::SendFlags::NOSIGNAL).map(drop)
}

/// The sentence for a stage of [`step::ExecContext`] that failed.
fn explain_stage(stage: Stage, errno: Errno, program: &str, directory: &str) -> LaunchError {
    let operation = stage.words();
    match (stage, errno) {
        (Stage::Exec, Errno::NOENT) => LaunchError::Program {
            message: format!(
                "run {program}: it is not in the service's root, or what runs it is not: its loader, or the interpreter that its first \
                 line names; `pysecure check` says which; correct `command`, or grant the path that it lies in"
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

fn read_report(socket: BorrowedFd<'_>, explain: impl FnOnce(Failed, Errno) -> LaunchError) -> Result<Report, Errno> {
    let mut bytes = [0u8; 12];
    let received = match sys::receive_when_there(socket, &mut bytes) {
        Ok(received) if received.bytes == bytes.len() => received,
        Ok(_) | Err(Errno::CONNRESET) => return Ok(Report::End),
        Err(errno) => return Err(errno),
    };
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let errno = || Errno::from_raw_os_error(word(8) as i32);
    Ok(match word(0) {
        report::HELD => Report::Held,
        report::STARTED => Report::Started,
        report::RULES => received.fd.map_or(Report::End, Report::Rules),
        report::EXITED => Report::Exited(word(4) as i32),
        report::STEP_FAILED => Report::Failed(explain(Failed::Step(word(4)), errno())),
        report::STAGE_FAILED => Report::Failed(match Stage::from_code(word(4)) {
            Some(stage) => explain(Failed::Stage(stage), errno()),
            None => LaunchError::Vanished,
        }),
        report::TERMINAL => received.fd.map_or(Report::End, Report::Terminal),
        _ => Report::End,
    })
}

/// fork(2), for a process of one thread, whose copy can go on as if it were itself. `None` in the child.
pub fn fork() -> Result<Option<Pid>, LaunchError> {
    let alone = single_threaded("a supervisor")?;
    let pid = sys::clone3(&alone, 0).map_err(LaunchError::system("start", "a supervisor"))?;
    Ok(Pid::from_raw(pid))
}

/// Is this the only thread, as it has to be for `what` to be started by copying this process?
pub fn single_threaded(what: &str) -> Result<SingleThreaded, LaunchError> {
    SingleThreaded::count().map_err(|threads| LaunchError::Other {
        operation: "start",
        object: what.to_owned(),
        cause: Cause::new(format!("this process has {threads} threads")),
    })
}

fn socketpair() -> Result<(OwnedFd, OwnedFd), LaunchError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(LaunchError::system("make", "a socket pair"))
}

/// What the service's process may use of a stack until its execve(2).
const EXEC_STACK: usize = 60 << 10;

/// The size of this machine's pages, if it is one that PID 1 knows how to forget its memory with.
fn supported_page() -> Result<usize, LaunchError> {
    let page = sys::page_size();
    match sys::stack_padding(page) {
        Some(_) => Ok(page),
        None => Err(LaunchError::Other {
            operation: "start",
            object: "a service".into(),
            cause: Cause::new(format!(
                "memory pages of {page} bytes are not provided for; `pysecure doctor` says which are"
            )),
        }),
    }
}

/// The id beside the service's own, where that is 0 inside.
fn keeper(spec: &Spec) -> Option<(u32, u32)> {
    if let Some(init) = spec.annotations().as_ref().and_then(|all| all.get(INIT_ANNOTATION)) {
        let (uid, gid) = init.split_once(':')?;
        return Some((uid.parse().ok()?, gid.parse().ok()?));
    }
    let linux = spec.linux().as_ref()?;
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
