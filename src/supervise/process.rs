//! The process of a service: what the supervisor holds of it. What is known of it besides is its instance
//! ([`super::machine::state::Instance`]); both begin and end together.

use super::control::fingerprint::Fingerprint;
use super::machine::Ending;
use super::machine::State;
use super::machine::state::{After, Service};
use super::net::sockets::Waiting;
use super::protocol::ServiceStatus;
use crate::bundle::Bundle;
use crate::launch::Running;
use crate::launch::ask::Asking;
use std::cell::OnceCell;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Instant;

pub(super) struct Process {
    pub running: Running,
    /// The socket on which it speaks sd_notify(3).
    pub notify: Option<OwnedFd>,
    /// A probe that is being asked.
    pub asking: Option<Asking>,
    /// How it ended, as PID 1 said before it ended itself.
    pub ending: Option<Ending>,
    /// On demand: who waited when its program was let go.
    pub waited: Waiting,
    /// The bundle that it was started from, once something was to be done beside it: the plan may be another by then. One that
    /// nobody asks for takes no memory.
    pub bundle: OnceCell<Rc<Bundle>>,
    /// Of the files and folders that it is shown.
    pub sources: Option<Fingerprint>,
}

impl Process {
    pub(super) fn new(running: Running, notify: Option<OwnedFd>) -> Process {
        Process {
            running,
            notify,
            asking: None,
            ending: None,
            waited: Waiting::default(),
            bundle: OnceCell::new(),
            sources: None,
        }
    }

    /// PID 1 of its namespace, as the host counts.
    pub(super) fn pid(&self) -> u32 {
        self.running.pid.as_raw_nonzero().get() as u32
    }
}

/// What `ps` says of a service, but for its fingerprints. `pid`: PID 1 of its namespace. `shared`:
/// the ids that all services have on the host, if they have none of their own.
pub(super) fn status(
    service: &Service,
    (pid, sources): (Option<u32>, Option<Fingerprint>),
    shared: Option<(u32, u32)>,
    now: Instant,
) -> ServiceStatus {
    let instance = &service.instance;
    let identity = &service.definition.unit().identity;
    let inside = [identity.uid, identity.gid];
    ServiceStatus {
        service: service.name().to_owned(),
        state: match service.after {
            After::Policy => service.state.word(),
            // What depends on it ends first.
            _ if service.state.live() => State::Stopping.word(),
            _ => service.state.word(),
        }
        .to_owned(),
        pid,
        uid: shared.map_or(inside[0], |(uid, _)| uid),
        gid: shared.map_or(inside[1], |(_, gid)| gid),
        ids_inside: shared.map(|_| inside),
        exit_code: match service.state {
            State::Exited { code } => Some(code),
            _ => None,
        },
        last_exit_code: service.last_exit,
        seconds: now.saturating_duration_since(service.since).as_secs(),
        error: match &service.state {
            State::Failed { error } => Some(error.clone()),
            _ => {
                let probe = || Some(format!("probe: {}", instance.complaint.as_ref()?));
                instance.note.clone().or_else(probe).or_else(|| instance.advice.clone())
            }
        },
        restarts: service.restarts_in_all,
        health: instance
            .healthy
            .map(|well| if well { "healthy" } else { "unhealthy" }.to_owned()),
        status: instance.says.clone(),
        reloading: instance.reloading,
        fingerprints: None,
        sources,
    }
}
