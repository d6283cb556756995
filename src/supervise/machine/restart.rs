//! Whether a service that ended is started again, and when.

use super::state::State;
use super::timers::Timer;
use super::{Effect, Machine, ServiceId, in_words};
use crate::model::life::Restarts;
use crate::supervise::stats::events::Kind;
use crate::values::Restart;
use std::time::Duration;

/// What becomes of a service that is to be started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    /// It is started after this time, as the so manieth restart in a row.
    In { wait: Duration, restarts: u32 },
    /// It was restarted so often in a row that it is given up.
    GivenUp { restarts: u32 },
}

/// `ran`: how long ago the process was started that ended now. `restarts`: those in a row before.
pub(super) fn again(rules: &Restarts, ran: Duration, restarts: u32) -> Again {
    // One that lasted begins a new row.
    let before = if ran >= rules.window { 0 } else { restarts };
    if rules.limit > 0 && before >= rules.limit {
        return Again::GivenUp { restarts: before };
    }
    Again::In {
        wait: rules.wait(before),
        restarts: before.saturating_add(1),
    }
}

/// Is a service that could not be started, or not so far that it ran, given up at once? The app has yet to come up, and then
/// does not; or it is up, and this may pass.
pub(super) fn given_up_at_once(app_waits_for_it: bool, restart: Restart) -> bool {
    app_waits_for_it || restart == Restart::No
}

impl Machine {
    pub(super) fn could_not_start(&mut self, id: ServiceId, error: &str, code: u8) {
        let Some(service) = self.services.get(&id) else { return };
        if given_up_at_once(self.watches.first_awaits(id), service.policy().restart.when) {
            self.fail(id, error, code);
        } else {
            self.restart_later(id, error, code);
        }
    }

    /// Starts a service again after a while, unless it has been tried often enough.
    pub(super) fn restart_later(&mut self, id: ServiceId, why: &str, code: u8) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let ran = now.saturating_duration_since(service.instance.begun);
        let (wait, restarts) = match again(&service.policy().restart, ran, service.restarts) {
            Again::In { wait, restarts } => (wait, restarts),
            Again::GivenUp { restarts } => {
                let error = format!("{why}; given up after {restarts} restarts");
                return self.fail(id, &error, code.max(1));
            }
        };
        service.restarts = restarts;
        service.restarts_in_all = service.restarts_in_all.saturating_add(1);
        service.enter(State::Restarting, now);
        let name = service.name().to_owned();
        self.timers.set_in(id, Timer::Restart, now, wait);
        let detail = format!("{why}; starts again in {}", in_words(wait));
        self.effects.push(Effect::Say(format!("{name}: {detail}")));
        self.effects.push(Effect::Remark(id, detail.clone()));
        self.emit(Kind::Restarting, &name, Some(code), Some(detail));
        self.wake_dependents(id);
    }
}
