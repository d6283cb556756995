//! What a service waits for before it starts: the services that it depends on.

use super::state::{After, State};
use super::{Machine, ServiceId};
use crate::values::Condition;

/// May a service start, as far as others go?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Blocked {
    Free,
    Wait,
    /// For this it would wait in vain.
    Never(String),
}

/// What is to be known of a service on which another depends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dependency<'d> {
    pub state: &'d State,
    pub after: After,
    pub program_runs: bool,
}

/// May `service` start? `on`: what it depends on, by name; `None` for a service that the app does not have.
pub(super) fn blocked<'d>(
    service: &str,
    on: impl Iterator<Item = (&'d str, Condition, Option<Dependency<'d>>)>,
) -> Blocked {
    let mut waits = false;
    for (name, condition, dependency) in on {
        let Some(dependency) = dependency else {
            return Blocked::Never(format!("depends on `{name}`, which the app no longer has"));
        };
        if dependency.after != After::Policy || *dependency.state == State::Stopping {
            // Whatever it is now, it will not stay so.
            waits = true;
            continue;
        }
        if has_come(condition, dependency.state, dependency.program_runs) {
            continue;
        }
        match dependency.state {
            State::Exited { code } => {
                return Blocked::Never(format!("depends on `{name}`, which ended with code {code}"));
            }
            State::Failed { .. } => return Blocked::Never(format!("depends on `{name}`, which failed")),
            State::Stopped => {
                return Blocked::Never(format!(
                    "depends on `{name}`, which was stopped; `pysecure start {service}` starts both"
                ));
            }
            _ => waits = true,
        }
    }
    if waits { Blocked::Wait } else { Blocked::Free }
}

/// Does a service in this state fulfil what another waits for?
pub(super) fn has_come(condition: Condition, state: &State, program_runs: bool) -> bool {
    match condition {
        Condition::Started => program_runs || matches!(state, State::Listening | State::Exited { .. }),
        Condition::Ready => matches!(state, State::Running | State::Listening),
        Condition::Completed => *state == State::Exited { code: 0 },
    }
}

impl Machine {
    pub(super) fn blocked(&self, id: ServiceId) -> Blocked {
        let Some(service) = self.services.get(&id) else {
            return Blocked::Wait;
        };
        let on = service.policy().depends_on.iter().map(|(name, condition)| {
            let on = self.by_name(name).map(|(_, on)| Dependency {
                state: &on.state,
                after: on.after,
                program_runs: on.instance.program_runs,
            });
            (name.as_str(), *condition, on)
        });
        blocked(service.name(), on)
    }

    /// Looks again, at the end of this step, at all that depend on a service.
    pub(super) fn wake_dependents(&mut self, id: ServiceId) {
        self.woken.extend(self.dependents.get(&id).into_iter().flatten());
    }

    /// Who depends on whom, by number.
    pub(super) fn index(&mut self) {
        self.dependents.clear();
        for (id, service) in &self.services {
            for (on, _) in &service.policy().depends_on {
                if let Some(on) = self.by_name.get(on) {
                    self.dependents.entry(*on).or_default().push(*id);
                }
            }
        }
    }
}
