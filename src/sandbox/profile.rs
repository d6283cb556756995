//! What a sandbox is, before anybody uses it: how it is kept, what it sees, and how much it may use.

use super::SandboxError;
use crate::values::Isolation;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// A sandbox, as `[sandboxes.NAME]` or a client describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    pub name: String,
    pub isolation: Isolation,
    /// The interpreter. `None`: what the root has as `python3`.
    pub python: Option<PathBuf>,
    /// Where it looks for modules, behind its own library. Shown read-only.
    pub paths: Vec<PathBuf>,
    /// Modules that the warm interpreter imports.
    pub preload: Vec<String>,
    /// `module:function`, called in each copy of the warm interpreter.
    pub after_fork: Option<String>,
    /// Paths of the host that are shown read-only, at the same place.
    pub readable: Vec<PathBuf>,
    /// How many sandboxes wait ready.
    pub ready: usize,
    /// How many run at once; who comes later waits.
    pub at_once: usize,
    /// Is there a warm interpreter? Without one each run of Python starts one of its own.
    pub warm: bool,
    /// The jail.
    #[serde(rename = "jail")]
    pub rootfs: String,
    pub limits: Limits,
}

impl Default for Profile {
    fn default() -> Profile {
        Profile {
            name: "sandbox".into(),
            isolation: Isolation::Namespaces,
            python: None,
            paths: Vec::new(),
            preload: Vec::new(),
            after_fork: None,
            readable: Vec::new(),
            ready: 0,
            at_once: 16,
            warm: true,
            rootfs: "host".into(),
            limits: Limits::default(),
        }
    }
}

/// How much a run may use. `None` of a request: as the profile has it; of a profile: as [`Limits::DEFAULT`] has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Seconds from its start.
    pub wall: Option<f64>,
    /// Seconds of computing.
    pub cpu: Option<f64>,
    /// The same of a session, in all.
    pub session_wall: Option<f64>,
    pub session_cpu: Option<f64>,
    /// Bytes: of each process, and of all together where there are cgroups.
    pub memory: Option<u64>,
    /// Processes and threads at once.
    pub processes: Option<u64>,
    /// Bytes of each file that is written.
    pub file_size: Option<u64>,
    /// Files in the user's directory, and in each file system in memory.
    pub files: Option<u64>,
    /// Bytes in the user's directory.
    pub userdir: Option<u64>,
    /// Bytes in each file system in memory.
    pub tmp: Option<u64>,
    /// Bytes that it prints. Whoever reads them holds this, and is told ([`Event::Output`](super::request::Event::Output)).
    pub output: Option<u64>,
}

impl Limits {
    pub const DEFAULT: Limits = Limits {
        wall: Some(30.0),
        cpu: Some(10.0),
        session_wall: Some(3600.0),
        session_cpu: Some(600.0),
        memory: Some(512 << 20),
        processes: Some(64),
        file_size: Some(64 << 20),
        files: Some(10_000),
        userdir: None,
        tmp: Some(64 << 20),
        output: None,
    };

    /// These, and for what they do not say, what `others` do; of two that are said, the lower one.
    pub fn within(&self, others: &Limits) -> Limits {
        fn lower<T: PartialOrd + Copy>(ours: Option<T>, theirs: Option<T>) -> Option<T> {
            match (ours, theirs) {
                (Some(a), Some(b)) => Some(if a < b { a } else { b }),
                (one, other) => one.or(other),
            }
        }
        Limits {
            wall: lower(self.wall, others.wall),
            cpu: lower(self.cpu, others.cpu),
            session_wall: lower(self.session_wall, others.session_wall),
            session_cpu: lower(self.session_cpu, others.session_cpu),
            memory: lower(self.memory, others.memory),
            processes: lower(self.processes, others.processes),
            file_size: lower(self.file_size, others.file_size),
            files: lower(self.files, others.files),
            userdir: lower(self.userdir, others.userdir),
            tmp: lower(self.tmp, others.tmp),
            output: lower(self.output, others.output),
        }
    }

    /// A profile's: what it says, and the defaults for the rest.
    pub fn or_default(&self) -> Limits {
        let d = Limits::DEFAULT;
        Limits {
            wall: self.wall.or(d.wall),
            cpu: self.cpu.or(d.cpu),
            session_wall: self.session_wall.or(d.session_wall),
            session_cpu: self.session_cpu.or(d.session_cpu),
            memory: self.memory.or(d.memory),
            processes: self.processes.or(d.processes),
            file_size: self.file_size.or(d.file_size),
            files: self.files.or(d.files),
            userdir: self.userdir.or(d.userdir),
            tmp: self.tmp.or(d.tmp),
            output: self.output.or(d.output),
        }
    }

    /// What either a run or a session may use: a task lowers it to its own.
    pub fn widest(&self) -> Limits {
        let cpu = self.cpu.zip(self.session_cpu).map(|(run, session)| run.max(session));
        Limits { cpu, ..*self }
    }

    /// What holds for a session: its times are those of a whole session.
    pub fn of_session(&self, profile: &Limits) -> Limits {
        let whole = Limits {
            wall: profile.session_wall,
            cpu: profile.session_cpu,
            ..*profile
        };
        self.within(&whole)
    }

    /// Times that are none are refused, so that no sum of them can overflow.
    pub fn check(&self) -> Result<(), SandboxError> {
        let all = [
            ("wall", self.wall),
            ("cpu", self.cpu),
            ("session_wall", self.session_wall),
            ("session_cpu", self.session_cpu),
        ];
        for (key, seconds) in all {
            if let Some(seconds) = seconds
                && !(seconds > 0.0 && seconds <= LONGEST)
            {
                return Err(SandboxError::refused(format!(
                    "limits.{key} is {seconds}: write seconds, more than 0 and at most {LONGEST}"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn wall(&self) -> Option<Duration> {
        self.wall.map(Duration::from_secs_f64)
    }

    pub(super) fn cpu(&self) -> Option<Duration> {
        self.cpu.map(Duration::from_secs_f64)
    }
}

/// Ten years.
const LONGEST: f64 = 315_576_000.0;

/// The ids of a pool, each of a user and of a group: neighbours on this host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identities {
    /// Of the warm interpreter, to whom the namespaces of the sandboxes belong.
    pub warm: u32,
    /// What id 0 of each sandbox is outside, of whom nothing is.
    pub keeper: u32,
    /// Of the first run. Others follow.
    pub first: u32,
    /// How many runs have one at once.
    pub count: u32,
}

/// Which directories of users may be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Userdirs {
    /// None.
    None,
    /// Any of the host's, with the rights of whoever started the pool.
    Host,
    /// What lies below a resource.
    Below {
        /// As those see it who ask.
        shown: PathBuf,
        /// On disk, free of links.
        source: PathBuf,
        /// Whose it is there.
        owner: (u32, u32),
    },
}
