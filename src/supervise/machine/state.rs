//! What is known of a service: its definition, what is wanted of it, and its instance.

use crate::model::Life;
use crate::plan;
use crate::supervise::control::fingerprint::Fingerprints;
use std::cell::OnceCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Where a service stands.
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

/// What follows when the process of a service has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    /// It was not told to end: its restart policy decides.
    Policy,
    /// It was told to end, and stays stopped.
    Rest,
    /// It was told to start anew.
    Again,
    /// The manifest has it no more.
    Gone,
}

/// What a service is: what is started, and by which rules. One definition may have many instances.
#[derive(Clone, Debug)]
pub(crate) struct ServiceDefinition {
    unit: Rc<plan::Unit>,
    /// Taken when somebody asks first.
    fingerprints: Rc<OnceCell<Fingerprints>>,
}

impl ServiceDefinition {
    pub(crate) fn new(unit: plan::Unit) -> ServiceDefinition {
        ServiceDefinition {
            unit: Rc::new(unit),
            fingerprints: Rc::default(),
        }
    }

    /// What it is in short; `read` takes it, once.
    pub(crate) fn fingerprints(&self, read: impl FnOnce(&plan::Unit) -> Fingerprints) -> &Fingerprints {
        self.fingerprints.get_or_init(|| read(&self.unit))
    }

    pub(crate) fn name(&self) -> &str {
        &self.unit.name
    }

    /// What is started. A copy costs nothing.
    pub(crate) fn unit(&self) -> &Rc<plan::Unit> {
        &self.unit
    }

    /// The rules that the supervisor goes by.
    pub(crate) fn policy(&self) -> &Life {
        &self.unit.life
    }

    /// Can a process be made ready ahead of time? One that is to have a companion waits for that, and cannot wait for two
    /// things.
    pub(crate) fn can_be_held(&self) -> bool {
        !self.unit.egress && self.unit.publish.is_empty()
    }
}

/// One start of a service, and all that belongs to it: a new start has a new one. What an instance was like stays on show
/// until then.
#[derive(Clone, Debug)]
pub(crate) struct Instance {
    /// It owns a process.
    pub alive: bool,
    /// On demand: its process is there, with all but its program, and waits.
    pub held: bool,
    /// Its program was reached: what runs is no longer ours.
    pub program_runs: bool,
    /// When the process was started.
    pub begun: Instant,
    /// Why it is being ended, if not because somebody said so.
    pub fault: Option<String>,
    /// Why it ended as it did, where that is known.
    pub note: Option<String>,
    /// Of its health probe; `None` before the first answer.
    pub healthy: Option<bool>,
    /// Probes in a row that were not answered as they are to be.
    pub failures: u32,
    /// A probe is being asked.
    pub asking: bool,
    /// Why the last one was not answered as it is to be.
    pub complaint: Option<String>,
    /// `STATUS=` of sd_notify(3).
    pub says: Option<String>,
    pub reloading: bool,
    /// Its process has accepted a connection of those that it listens for.
    pub accepts: bool,
    /// What keeps it from that, as far as that can be told.
    pub advice: Option<String>,
    /// On demand: of an instance that has ended it is known whether it accepted a connection.
    pub acceptance_known: bool,
}

impl Instance {
    pub(super) fn new(now: Instant, held: bool) -> Instance {
        Instance {
            alive: false,
            held,
            program_runs: false,
            begun: now,
            fault: None,
            note: None,
            healthy: None,
            failures: 0,
            asking: false,
            complaint: None,
            says: None,
            reloading: false,
            accepts: false,
            advice: None,
            acceptance_known: true,
        }
    }
}

/// A service under supervision.
#[derive(Clone, Debug)]
pub(crate) struct Service {
    pub definition: ServiceDefinition,
    /// What the manifest says by now, to be taken on when the process has ended.
    pub next: Option<ServiceDefinition>,
    pub state: State,
    /// Since when.
    pub since: Instant,
    pub after: After,
    /// How long it may take to end, if whoever ends it says so.
    pub stop_within: Option<Duration>,
    /// It is to run.
    pub wanted: bool,
    /// On demand: something has connected.
    pub demanded: bool,
    /// Its sockets are about to be watched.
    pub opening: bool,
    /// Restarts in a row, none of which lasted.
    pub restarts: u32,
    pub restarts_in_all: u32,
    pub last_exit: Option<u8>,
    pub instance: Instance,
}

impl Service {
    pub(super) fn new(definition: ServiceDefinition, now: Instant) -> Service {
        Service {
            definition,
            next: None,
            state: State::Waiting,
            since: now,
            after: After::Policy,
            stop_within: None,
            wanted: false,
            demanded: false,
            opening: false,
            restarts: 0,
            restarts_in_all: 0,
            last_exit: None,
            instance: Instance::new(now, false),
        }
    }

    pub(crate) fn name(&self) -> &str {
        self.definition.name()
    }

    pub(crate) fn policy(&self) -> &Life {
        self.definition.policy()
    }

    /// What the manifest says of it by now.
    pub(crate) fn latest(&self) -> &ServiceDefinition {
        self.next.as_ref().unwrap_or(&self.definition)
    }

    pub(super) fn enter(&mut self, state: State, now: Instant) {
        self.state = state;
        self.since = now;
    }

    /// Has it run from now on, as if it had never run before.
    pub(super) fn reset_wanted(&mut self, now: Instant) {
        self.wanted = true;
        self.demanded = false;
        self.restarts = 0;
        self.after = After::Policy;
        self.enter(State::Waiting, now);
    }
}
