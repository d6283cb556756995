//! How a service says, or is asked, how it is: readiness, probes, the watchdog.

use super::state::{Service, State};
use super::timers::Timer;
use super::{Effect, Machine, ServiceId, in_words};
use crate::launch::relay::ACCEPT_PATIENCE;
use crate::model::life::{Life, Probe, Ready};
use crate::supervise::net::notify::{Said, Watchdog};
use crate::supervise::stats::events::Kind;
use crate::values::Restart;
use std::time::Duration;

/// Most services are ready soon, and those behind them wait: the first probes come quicker, each wait twice the last.
const FIRST_PROBE: Duration = Duration::from_millis(20);

/// How many times `start_timeout` and `stop_timeout` a service may take in all if it asks for more time.
const LONGEST_START: u32 = 10;
const LONGEST_END: u32 = 3;

/// How long after a probe that failed a service that is not ready yet is asked the next time. `failures`: those in a row
/// before.
pub(super) fn wait_for_readiness(interval: Duration, failures: u32) -> Duration {
    interval.min(FIRST_PROBE * (1 << failures.min(10)))
}

/// What a probe's answer makes of the health of a service that runs: healthy or not, and failures in a row.
pub(super) fn health(before: Option<bool>, failures: u32, well: bool, retries: u32) -> (Option<bool>, u32) {
    if well {
        return (Some(true), 0);
    }
    let failures = failures.saturating_add(1);
    (if failures >= retries { Some(false) } else { before }, failures)
}

/// Until when, from now, a timer is to be set that a service asks to put off (`EXTEND_TIMEOUT_USEC`, sd_notify(3)); which
/// timer that is. Others wait for the service, so there is a bound, which it cannot move; and whoever said how long it may
/// take to end (`told_within`) is taken at their word.
pub(super) fn extension(
    state: &State,
    policy: &Life,
    told_within: bool,
    in_state: Duration,
    asked: Duration,
) -> Option<(Timer, Duration)> {
    let (timer, longest) = match state {
        State::Starting => (Timer::Start, policy.start_timeout.saturating_mul(LONGEST_START)),
        State::Stopping if !told_within => (Timer::Stop, policy.stop_timeout.saturating_mul(LONGEST_END)),
        _ => return None,
    };
    Some((timer, asked.min(longest.saturating_sub(in_state))))
}

/// The probe that a service is asked by now.
fn probe(service: &Service) -> Option<&Probe> {
    match (&service.state, &service.policy().ready) {
        (State::Starting, Ready::Probe(probe)) => Some(probe),
        (State::Running, _) => service.policy().health.as_ref(),
        _ => None,
    }
}

impl Machine {
    /// The probe that a service is asked by now.
    pub(crate) fn probe(&self, id: ServiceId) -> Option<&Probe> {
        probe(self.services.get(&id)?)
    }

    /// A service whose start took too long is ended.
    pub(super) fn was_not_ready_in_time(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        let mut why = format!("was not ready within {}", in_words(service.policy().start_timeout));
        if let Ready::Probe(_) = service.policy().ready {
            let said = service.instance.complaint.as_deref().unwrap_or("not answered yet");
            why = format!("{why}; its probe: {said}");
        }
        self.misbehaves(id, &why);
    }

    pub(super) fn ask(&mut self, id: ServiceId) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if probe(service).is_some() && service.instance.alive && !service.instance.asking {
            service.instance.asking = true;
            self.effects.push(Effect::Ask(id));
        }
    }

    pub(super) fn answered(&mut self, id: ServiceId, answer: Result<(), String>) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.instance.asking = false;
        let Some((interval, retries)) = probe(service).map(|p| (p.interval, p.retries)) else {
            return;
        };
        let (well, instance) = (answer.is_ok(), &mut service.instance);
        instance.complaint = answer.err();
        if service.state == State::Starting {
            if well {
                instance.failures = 0;
                self.become_ready(id);
            } else {
                let wait = wait_for_readiness(interval, instance.failures);
                instance.failures = instance.failures.saturating_add(1);
                self.timers.set_in(id, Timer::Ask, now, wait);
            }
            return;
        }
        let before = instance.healthy;
        (instance.healthy, instance.failures) = health(before, instance.failures, well, retries);
        self.timers.set_in(id, Timer::Ask, now, interval);
        if instance.healthy != before {
            self.health_changed(id);
        }
    }

    fn health_changed(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        let (name, instance) = (service.name().to_owned(), &service.instance);
        if instance.healthy == Some(true) {
            return self.emit(Kind::Healthy, &name, None, None);
        }
        let said = instance.complaint.clone().unwrap_or_default();
        let why = format!(
            "unhealthy: its probe failed {} times in a row: {said}",
            instance.failures
        );
        let restarts = service.policy().restart.when != Restart::No;
        self.emit(Kind::Unhealthy, &name, None, Some(why.clone()));
        if restarts {
            self.misbehaves(id, &why);
        } else {
            self.say_and_remark(id, &name, &why);
        }
    }

    /// A service speaks of itself.
    pub(super) fn said(&mut self, id: ServiceId, said: Said) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let name = service.name().to_owned();
        if let Some(status) = said.status {
            service.instance.says = Some(status);
        }
        if said.reloading {
            service.instance.reloading = true;
            self.emit(Kind::Reloading, &name, None, None);
        }
        if said.ready {
            self.ready_said(id);
        }
        if let Some(usec) = said.extend_usec {
            self.extend(id, Duration::from_micros(usec));
        }
        let Some(service) = self.services.get(&id) else { return };
        match (said.watchdog, service.policy().watchdog) {
            (Some(Watchdog::Alive), Some(time)) if service.state == State::Running => {
                self.timers.set_in(id, Timer::Watchdog, self.now, time);
            }
            (Some(Watchdog::Trigger), Some(_)) => self.misbehaves(id, "asked for it by WATCHDOG=trigger"),
            _ => {}
        }
    }

    fn ready_said(&mut self, id: ServiceId) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let becomes = service.state == State::Starting && service.policy().ready == Ready::Notify;
        if std::mem::take(&mut service.instance.reloading) {
            let name = service.name().to_owned();
            self.emit(Kind::Ready, &name, None, None);
        }
        if becomes {
            self.become_ready(id);
        }
    }

    fn extend(&mut self, id: ServiceId, asked: Duration) {
        let now = self.now;
        let Some(service) = self.services.get(&id) else { return };
        let in_state = now.saturating_duration_since(service.since);
        let told = service.stop_within.is_some();
        if let Some((timer, wait)) = extension(&service.state, service.policy(), told, in_state, asked)
            && let Some(until) = now.checked_add(wait)
            && self.timers.at(id, timer).is_some_and(|at| at < until)
        {
            self.timers.set(id, timer, until);
        }
    }

    pub(super) fn accepts(&mut self, id: ServiceId, accepts: bool) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if accepts {
            (service.instance.accepts, service.instance.advice) = (true, None);
            return;
        }
        // Clients wait, and nobody takes their connections: most likely the program has opened a port of its own.
        let name = service.name().to_owned();
        let addresses: Vec<String> = service
            .definition
            .unit()
            .listen
            .iter()
            .map(ToString::to_string)
            .collect();
        let advice = format!(
            "no connection to {} was taken in {}: its program has to serve on the socket that it is handed (LISTEN_FDS; \
             `--fd 3` of uvicorn), or, if it opens a port of its own, be granted `publish` in place of `listen`",
            addresses.join(", "),
            in_words(ACCEPT_PATIENCE)
        );
        service.instance.advice = Some(advice.clone());
        self.say_and_remark(id, &name, &advice);
    }
}
