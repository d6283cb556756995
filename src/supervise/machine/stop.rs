//! How services end: in which order, within which time, and what follows.

use super::state::{After, State};
use super::timers::Timer;
use super::{Effect, Machine, ServiceId};
use crate::supervise::stats::events::Kind;
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::time::Duration;

/// Those of the doomed whom nobody depends on any more that is to end as well, last ones first.
pub(super) fn whose_turn_to_end<'d>(
    doomed: &BTreeSet<ServiceId>,
    dependents: impl Fn(ServiceId) -> &'d [ServiceId],
    ends: impl Fn(ServiceId) -> bool,
) -> Vec<ServiceId> {
    let free = |id: &&ServiceId| !dependents(**id).iter().any(|d| ends(*d));
    doomed.iter().filter(free).copied().rev().collect()
}

impl Machine {
    /// Ends a service, and then does as `after` says. `timeout` in place of its own, if there is one. Whoever waits for
    /// what an earlier order said is told that it is overtaken.
    pub(super) fn end(&mut self, id: ServiceId, after: After, timeout: Option<Duration>) {
        self.unlisten(id);
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        // What the manifest has no more does not come back because somebody restarts all.
        let after = match service.after {
            After::Gone => After::Gone,
            _ => after,
        };
        service.after = after;
        let earlier = service.stop_within;
        service.stop_within = timeout.or(earlier);
        service.wanted = after == After::Again;
        let (alive, held, ending) = (
            service.instance.alive,
            service.instance.held,
            service.state == State::Stopping,
        );
        let own_timeout = service.policy().stop_timeout;
        if alive && held && !ending {
            service.enter(State::Stopping, now);
        }
        if !self.stopping {
            self.overtake(id, after);
        }
        if !alive {
            self.timers.cancel_all(id);
            self.finish(id, after, false);
        } else if ending {
            // It has been told. No further order gives it more time, but one may give it less.
            if let Some(within) = timeout.or(earlier.map(|_| own_timeout)) {
                self.timers.bring_forward(id, Timer::Stop, now, within);
            }
        } else if held {
            // None of it is the service's own yet, so there is nothing to ask to end.
            self.effects.push(Effect::Signal(id, Signal::KILL));
        } else {
            self.doomed.insert(id);
        }
    }

    /// Has a service start again, as the manifest has it by now. One that runs ends first; one that does not waits for its
    /// turn, which [`Machine::consider`] gives it when all that are meant have got so far: what depends on another is not to
    /// find it as it was before.
    pub(super) fn begin_anew(&mut self, id: ServiceId, timeout: Option<Duration>) {
        let Some(service) = self.services.get(&id) else { return };
        if service.instance.alive {
            self.end(id, After::Again, timeout);
            return;
        }
        self.unlisten(id);
        self.timers.cancel_all(id);
        self.queue.retain(|queued| *queued != id);
        if let Some(service) = self.services.get_mut(&id) {
            service.reset_wanted(self.now);
        }
        self.take_next(id);
    }

    /// What the manifest has made of a service since it was started.
    fn take_next(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id)
            && let Some(next) = service.next.take()
        {
            service.definition = next;
            self.index();
        }
    }

    /// Tells those to end whose turn it is, in the reverse order of starting.
    pub(super) fn stop_next(&mut self) {
        if self.doomed.is_empty() {
            return;
        }
        let dependents = |id| self.dependents.get(&id).map(Vec::as_slice).unwrap_or_default();
        let ends = |id| {
            let of = self.services.get(&id);
            of.is_some_and(|s| s.instance.alive && (self.doomed.contains(&id) || s.after != After::Policy))
        };
        for id in whose_turn_to_end(&self.doomed, dependents, ends) {
            self.doomed.remove(&id);
            self.signal_to_end(id);
        }
    }

    /// Asks a process to end, and sets the time after which it is killed.
    fn signal_to_end(&mut self, id: ServiceId) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id).filter(|s| s.instance.alive) else {
            return;
        };
        let policy = service.policy();
        let signal = Signal::from_named_raw(policy.stop_signal.into()).unwrap_or(Signal::TERM);
        let within = service.stop_within.unwrap_or(policy.stop_timeout);
        self.effects.push(Effect::Signal(id, signal));
        // A stopped process would not see it before it is killed.
        self.effects.push(Effect::Signal(id, Signal::CONT));
        service.enter(State::Stopping, now);
        self.timers.cancel_all(id);
        self.timers.set_in(id, Timer::Stop, now, within);
    }

    /// Ends a service that does not do as it should; what follows is up to its restart policy.
    pub(super) fn misbehaves(&mut self, id: ServiceId, why: &str) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if !service.instance.alive || service.state == State::Stopping {
            return;
        }
        if service.instance.held {
            // Nothing is lost with it: the next connection starts another.
            return self.cut_off(id, why.to_owned());
        }
        service.instance.fault = Some(why.to_owned());
        self.signal_to_end(id);
    }

    /// A service whose way to the network is gone is not left without it.
    pub(super) fn cut_off(&mut self, id: ServiceId, why: String) {
        if let Some(service) = self.services.get_mut(&id).filter(|s| s.instance.alive) {
            service.instance.fault.get_or_insert(why);
            self.effects.push(Effect::Signal(id, Signal::KILL));
        }
    }

    /// A service that was told to end has (`ended`), or had nothing to end.
    pub(super) fn finish(&mut self, id: ServiceId, after: After, ended: bool) {
        let now = self.now;
        self.doomed.remove(&id);
        self.queue.retain(|queued| *queued != id);
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let name = service.name().to_owned();
        service.after = After::Policy;
        service.stop_within = None;
        self.take_next(id);
        if ended {
            self.emit(Kind::Stopped, &name, None, None);
        }
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match after {
            After::Again if !self.stopping => self.want(id),
            After::Gone => {
                service.enter(State::Stopped, now);
                self.settle_end(id);
                self.services.remove(&id);
                self.by_name.retain(|_, of| *of != id);
                self.order.retain(|of| *of != id);
                self.index();
                self.effects.push(Effect::Forget(id));
                self.emit(Kind::Removed, &name, None, None);
            }
            _ => {
                // How it ended by itself stays on show.
                if !service.state.over() || service.state == State::Stopped {
                    service.enter(State::Stopped, now);
                }
                self.settle_end(id);
                if !self.stopping {
                    self.wake_dependents(id);
                }
            }
        }
    }

    /// Ends the app. Who asks for it again may have less patience than who did first.
    pub(super) fn down(&mut self, timeout: Option<Duration>) {
        if self.stopping {
            if let Some(timeout) = timeout {
                self.hurry(timeout);
            }
            return;
        }
        self.stopping = true;
        self.effects.push(Effect::Stopping);
        self.queue.clear();
        let all: Vec<ServiceId> = self.services.keys().copied().collect();
        for id in all {
            self.end(id, After::Rest, timeout);
        }
    }

    /// None of those that are ending takes longer than this from now.
    fn hurry(&mut self, timeout: Duration) {
        let alive = self.services.iter_mut().filter(|(_, s)| s.instance.alive);
        for (id, service) in alive {
            service.stop_within = Some(service.stop_within.map_or(timeout, |before| before.min(timeout)));
            self.timers.bring_forward(*id, Timer::Stop, self.now, timeout);
        }
    }
}
