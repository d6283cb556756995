//! One service under supervision: where it stands, and all that is kept of it.

use super::control::protocol::ServiceStatus;
use super::stats::figures::Figures;
use crate::launch::ask::Asking;
use crate::launch::{LaunchError, Running};
use crate::plan;
pub use crate::sys::exit_status::exit_code;
use std::os::fd::OwnedFd;
use std::time::Instant;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// For what it depends on, or for its turn.
    Waiting,
    /// Its sockets are open; its program is run when something connects.
    Listening,
    /// Its process is there; it is not ready yet.
    Starting,
    Running,
    /// It was told to end.
    Stopping,
    /// It ended by itself, and is started again after a while.
    Restarting,
    /// It ended by itself.
    Exited {
        code: u8,
    },
    /// It could not be started, or was given up.
    Failed {
        error: String,
    },
    /// It was told to end, and has.
    Stopped,
}

impl State {
    pub fn word(&self) -> &'static str {
        match self {
            State::Waiting => "waiting",
            State::Listening => "listening",
            State::Starting => "starting",
            State::Running => "running",
            State::Stopping => "stopping",
            State::Restarting => "restarting",
            State::Exited { .. } => "exited",
            State::Failed { .. } => "failed",
            State::Stopped => "stopped",
        }
    }

    /// Is its process there, or on its way?
    pub fn live(&self) -> bool {
        matches!(self, State::Starting | State::Running | State::Stopping)
    }

    /// Will nothing more happen unless somebody asks for it?
    pub fn over(&self) -> bool {
        matches!(self, State::Exited { .. } | State::Failed { .. } | State::Stopped)
    }
}

/// What follows when a process that is to end has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// It was not told to: its restart policy decides.
    Policy,
    Rest,
    Again,
    /// The manifest has it no more.
    Gone,
}

/// How a process ended, as PID 1 said.
pub(super) enum Ending {
    /// A wait status.
    Exited(i32),
    Failed(LaunchError),
}

pub(super) struct Service {
    pub plan: plan::Unit,
    /// What the manifest says by now, to be taken on when the process has ended.
    pub next: Option<plan::Unit>,
    pub state: State,
    pub since: Instant,
    pub running: Option<Running>,
    /// Its program was reached: what runs is no longer ours.
    pub program_runs: bool,
    /// When the process was started.
    pub begun: Instant,
    pub ending: Option<Ending>,
    pub after: After,
    /// How long it may take to end, if whoever ends it says so.
    pub stop_within: Option<std::time::Duration>,
    /// Why it is being ended, if not because somebody said so.
    pub fault: Option<String>,
    /// Why it ended as it did, where that is known.
    pub note: Option<String>,
    /// Is it to run at all?
    pub wanted: bool,
    /// On demand: something has connected.
    pub demanded: bool,
    /// On demand: its process is there, with all but its program, and waits.
    pub held: bool,
    /// Restarts in a row, none of which lasted.
    pub restarts: u32,
    pub restarts_in_all: u32,
    pub last_exit: Option<u8>,
    /// Of its health probe; `None` before the first answer.
    pub healthy: Option<bool>,
    pub failures: u32,
    /// A probe that is being asked.
    pub asking: Option<Asking>,
    /// Why the last one was not answered as it is to be.
    pub complaint: Option<String>,
    /// `STATUS=` of sd_notify(3).
    pub says: Option<String>,
    /// Has its process accepted a connection of those that it listens for?
    pub accepts: bool,
    /// What keeps it from that, as far as that can be told.
    pub advice: Option<String>,
    /// On demand: is it known of the process that ended last whether it accepted any?
    pub acceptance_known: bool,
    pub reloading: bool,
    pub notify: Option<OwnedFd>,
    /// Of its functions, since the app is up.
    pub figures: Figures,
}

impl Service {
    pub(super) fn new(plan: plan::Unit) -> Service {
        let now = Instant::now();
        Service {
            plan,
            next: None,
            state: State::Waiting,
            since: now,
            running: None,
            program_runs: false,
            begun: now,
            ending: None,
            after: After::Policy,
            stop_within: None,
            fault: None,
            note: None,
            wanted: false,
            demanded: false,
            held: false,
            restarts: 0,
            restarts_in_all: 0,
            last_exit: None,
            healthy: None,
            failures: 0,
            asking: None,
            complaint: None,
            says: None,
            accepts: false,
            advice: None,
            acceptance_known: true,
            reloading: false,
            notify: None,
            figures: Figures::default(),
        }
    }

    pub(super) fn enter(&mut self, state: State) {
        self.state = state;
        self.since = Instant::now();
    }

    /// PID 1 of the service's namespace, as the host counts.
    pub(super) fn pid(&self) -> Option<u32> {
        self.running
            .as_ref()
            .filter(|_| !self.held)
            .map(|r| r.pid.as_raw_nonzero().get() as u32)
    }

    pub(super) fn status(&self, prints: super::control::reconcile::Prints) -> ServiceStatus {
        ServiceStatus {
            service: self.plan.name.clone(),
            state: match self.after {
                After::Policy => self.state.word(),
                // What depends on it ends first.
                _ if self.state.live() => State::Stopping.word(),
                _ => self.state.word(),
            }
            .to_owned(),
            pid: self.pid(),
            uid: self.plan.identity.uid,
            gid: self.plan.identity.gid,
            exit_code: match self.state {
                State::Exited { code } => Some(code),
                _ => None,
            },
            last_exit_code: self.last_exit,
            seconds: self.since.elapsed().as_secs(),
            error: match &self.state {
                State::Failed { error } => Some(error.clone()),
                _ => {
                    let probe = || Some(format!("probe: {}", self.complaint.as_ref()?));
                    self.note.clone().or_else(probe).or_else(|| self.advice.clone())
                }
            },
            restarts: self.restarts_in_all,
            health: self
                .healthy
                .map(|well| if well { "healthy" } else { "unhealthy" }.to_owned()),
            status: self.says.clone(),
            reloading: self.reloading,
            prints,
        }
    }
}
