//! One service under supervision: where it stands, and what it left in the pipes.

use super::logs::Stream;
use super::protocol::ServiceStatus;
use crate::launch::Running;
use std::os::fd::OwnedFd;
use std::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Its turn has not come.
    Waiting,
    Starting,
    Running,
    Exited {
        code: u8,
    },
    Failed {
        error: String,
    },
}

impl State {
    pub fn word(&self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Starting => "starting",
            State::Running => "running",
            State::Exited { .. } => "exited",
            State::Failed { .. } => "failed",
        }
    }

    /// Is its process there, or on its way?
    pub fn live(&self) -> bool {
        matches!(self, State::Starting | State::Running)
    }
}

pub(super) struct Service {
    pub state: State,
    pub since: Instant,
    pub running: Option<Running>,
    /// Standard output and standard error.
    pub pipes: [Option<OwnedFd>; 2],
    pub streams: [Stream; 2],
    /// Why it ended as it did, where that is known.
    pub note: Option<String>,
}

impl Service {
    pub(super) fn new() -> Service {
        Service {
            state: State::Waiting,
            since: Instant::now(),
            running: None,
            pipes: [None, None],
            streams: [Stream::new("stdout"), Stream::new("stderr")],
            note: None,
        }
    }

    pub(super) fn enter(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }

    pub(super) fn status(&self, plan: &crate::plan::Service) -> ServiceStatus {
        ServiceStatus {
            service: plan.name.clone(),
            state: self.state.word().to_owned(),
            pid: self.running.as_ref().map(|r| r.pid.as_raw_nonzero().get() as u32),
            uid: plan.identity.uid,
            gid: plan.identity.gid,
            exit_code: match self.state {
                State::Exited { code } => Some(code),
                _ => None,
            },
            seconds: self.since.elapsed().as_secs(),
            error: match &self.state {
                State::Failed { error } => Some(error.clone()),
                _ => self.note.clone(),
            },
            usage: self
                .running
                .as_ref()
                .and_then(|r| r.cgroup())
                .map(|group| group.usage()),
        }
    }
}

/// A wait status of waitpid(2) as an exit code, as shells have it.
pub fn exit_code(status: i32) -> u8 {
    if status & 0x7f == 0 {
        (status >> 8 & 0xff) as u8
    } else {
        128 + (status & 0x7f) as u8
    }
}
