//! What a pool holds: its warm interpreter, its sandboxes, and the runs that it was asked for.

use super::denied::Tracer;
use super::landlock::{Group, Scratch};
use super::overlay::Upper;
use super::profile::Limits;
use super::request::{Done, Run};
use super::unit::{HOME, NO_HOME, Runner};
use super::usage::Spent;
use super::userdir::Userdir;
use crate::launch::Running;
use rustix::process::Pid;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

/// The interpreter whose copies go into sandboxes.
pub(super) struct Warm {
    pub running: Running,
    pub socket: OwnedFd,
    pub ready: bool,
}

/// How far a sandbox is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// PID 1 makes its mounts, and gives up its rights.
    Starting,
    /// All is there but its interpreter.
    Joinable,
    /// A copy of the warm interpreter is on its way.
    Joining,
    /// The copy is confined, and waits for a task. Without namespaces, its Landlock rules come with that: which files it may use is
    /// not known before.
    Ready,
    Running,
    /// It was killed.
    Ending,
}

pub(super) struct Sandbox {
    pub place: u32,
    pub runner: Runner,
    pub phase: Phase,
    /// Is it a copy of the warm interpreter that runs in it?
    pub copy: bool,
    /// Its PID 1; without namespaces, its program; `None`: a copy of the warm interpreter, without namespaces.
    pub running: Option<Running>,
    /// To the interpreter in it.
    pub control: OwnedFd,
    /// The interpreter's end, until that has it; and the Landlock rules for it.
    pub theirs: Option<OwnedFd>,
    pub ruleset: Option<OwnedFd>,
    /// Its mount namespace, for what is attached later; and what says that its copy is gone, pidfd_open(2).
    pub mounts: Option<OwnedFd>,
    pub exit: Option<OwnedFd>,
    /// The interpreter, as this namespace counts it.
    pub inside: Option<Pid>,
    pub run: Option<u32>,
    /// What its program ended with, as waitpid(2) has it.
    pub status: Option<i32>,
    pub done: Option<Done>,
    /// What its interpreter has used.
    pub cpu: Duration,
    pub memory: u64,
    /// Why it could not be made.
    pub failed: Option<String>,
    /// Can any run have it, or is it made for one?
    pub common: bool,
    /// What follows its calls, for a run that asked for that.
    pub tracer: Option<Tracer>,
    /// All of it is gone, and this is what its PID 1 has used: that is told when the tracer is over.
    pub gone: Option<Duration>,
}

impl Sandbox {
    /// One whose PID 1, or program, was just started. `control`: to the interpreter in it.
    pub(super) fn new(place: u32, runner: Runner, control: OwnedFd, run: Option<u32>) -> Sandbox {
        Sandbox {
            place,
            runner,
            phase: Phase::Starting,
            copy: false,
            running: None,
            control,
            theirs: None,
            ruleset: None,
            mounts: None,
            exit: None,
            inside: None,
            run,
            status: None,
            done: None,
            cpu: Duration::ZERO,
            memory: 0,
            failed: None,
            common: false,
            tracer: None,
            gone: None,
        }
    }

    /// How long all that is in it has computed: what its PID 1 has adopted, too.
    pub(super) fn computed(&self, spent: &mut Spent) -> Duration {
        let group = self.running.as_ref().and_then(Running::cgroup);
        if let Some(all) = group.and_then(|group| group.computed()) {
            return spent.counted(all);
        }
        let program = self.running.as_ref().map(|running| running.pid);
        let roots = self.inside.into_iter().chain(program);
        let roots: Vec<i32> = roots.map(|pid| pid.as_raw_nonzero().get()).collect();
        spent.look(&roots)
    }

    /// The first of its processes, by whose group all are ended where there are no namespaces.
    pub(super) fn leader(&self) -> Option<Group> {
        let program = self.running.as_ref().map(|running| running.pid);
        program.or(self.inside).map(Group)
    }

    /// Without namespaces. A copy that nobody has heard of ends when nobody is left to hear it.
    pub(super) fn kill_in_place(&self) {
        match self.leader() {
            Some(group) => group.kill(),
            None => drop(rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both)),
        }
    }
}

/// A run, from the moment that it is asked for.
pub(super) struct Pending {
    pub client: u32,
    pub asked: Run,
    /// As `asked.fds` names them, without `run`.
    pub names: Vec<String>,
    pub fds: Vec<OwnedFd>,
    /// To its client.
    pub connection: OwnedFd,
    pub limits: Limits,
    pub userdir: Option<Userdir>,
    /// Where what it writes goes, if not into its directory.
    pub upper: Option<Upper>,
    /// Was what is in its directory given to the run's id?
    pub given: bool,
    /// Without namespaces: a directory for what it writes, and for its temporary files.
    pub scratch: Option<Scratch>,
    pub sandbox: Option<u32>,
    pub began: Option<Instant>,
    /// How long all of its processes have computed, as far as it was looked at.
    pub spent: Spent,
    /// Has a sandbox that it was given been lost before it had its task?
    pub again: bool,
    /// Why it was killed.
    pub killed: Option<String>,
    /// When to look next at what it has used.
    pub look: Option<Instant>,
    /// When to look through what it has written, if that is bounded.
    pub walk: Option<Instant>,
}

impl Pending {
    /// Where its code begins, as that sees it.
    pub(super) fn directory(&self) -> String {
        let real = |path: &Path| path.display().to_string();
        match (&self.userdir, &self.scratch) {
            (Some(userdir), Some(_)) => real(&userdir.path),
            (None, Some(scratch)) => real(&scratch.path),
            (Some(_), None) => HOME.to_owned(),
            (None, None) => NO_HOME.to_owned(),
        }
    }

    /// The descriptor of this name.
    pub(super) fn fd(&self, name: &str) -> Option<&OwnedFd> {
        let at = self.names.iter().position(|n| n == name)?;
        self.fds.get(at)
    }
}
