//! How a service comes to run: when its turn has come, on demand, and until its program runs.

use super::deps::Blocked;
use super::state::{Instance, Service, State};
use super::timers::Timer;
use super::{Effect, Machine, ServiceId, WatchId};
use crate::model::life::Ready;
use crate::supervise::stats::events::Kind;
use crate::values::{ServiceType, Start};

impl Machine {
    pub(super) fn up(&mut self, names: &[String]) {
        let wanted = match names.is_empty() {
            true => self.order.clone(),
            false => {
                let named: Vec<ServiceId> = names
                    .iter()
                    .filter_map(|name| self.by_name.get(name).copied())
                    .collect();
                self.with_dependencies(&named)
            }
        };
        let (wanted, others): (Vec<ServiceId>, Vec<ServiceId>) = self.order.iter().partition(|id| wanted.contains(*id));
        for id in others {
            if let Some(service) = self.services.get_mut(&id) {
                service.enter(State::Stopped, self.now);
            }
            self.effects.push(Effect::Release(id));
        }
        for id in &wanted {
            self.watches.await_start(WatchId::FIRST, *id);
        }
        for id in wanted {
            self.want(id);
        }
        self.check_watch(WatchId::FIRST);
    }

    /// Has a service run, from now on.
    pub(super) fn want(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id) {
            service.reset_wanted(self.now);
            self.consider(id);
        }
    }

    /// Puts a service in the queue if its time has come.
    pub(super) fn consider(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        if self.stopping || !service.wanted {
            return;
        }
        let on_demand = service.policy().start == Start::OnDemand;
        match service.state {
            // By its rules it is to run now, whether somebody connects or not.
            State::Listening if !on_demand => self.connected(id),
            State::Waiting if on_demand && !service.demanded => self.open(id),
            State::Waiting => match self.blocked(id) {
                Blocked::Free if self.queue.contains(&id) => {}
                Blocked::Free => self.queue.push_back(id),
                Blocked::Wait => {}
                Blocked::Never(why) => self.fail(id, &why, 1),
            },
            _ => {}
        }
    }

    /// The service's sockets are to be held open for it until something connects.
    fn open(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id)
            && !std::mem::replace(&mut service.opening, true)
        {
            self.effects.push(Effect::Listen(id));
        }
    }

    pub(super) fn listens(&mut self, id: ServiceId, how: Result<(), String>) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.opening = false;
        let on_demand = service.policy().start == Start::OnDemand && !service.demanded;
        if service.state != State::Waiting || !service.wanted || !on_demand || self.stopping {
            // It is to be something else meanwhile.
            if how.is_ok() {
                self.effects.push(Effect::Unlisten(id));
            }
            return;
        }
        if let Err(error) = how {
            return self.fail(id, &error, 1);
        }
        service.enter(State::Listening, now);
        service.instance.acceptance_known = true;
        self.warm.push_back(id);
        self.settle_start(id, Ok(()));
        self.wake_dependents(id);
    }

    pub(super) fn unlisten(&mut self, id: ServiceId) {
        if self.services.get(&id).is_some_and(|s| s.state == State::Listening) {
            self.effects.push(Effect::Unlisten(id));
        }
    }

    /// Something has connected to a service that is not there yet; the connection waits in the socket.
    pub(super) fn connected(&mut self, id: ServiceId) {
        self.unlisten(id);
        let now = self.now;
        if let Some(service) = self.services.get_mut(&id).filter(|s| s.state == State::Listening) {
            service.demanded = true;
            service.enter(State::Waiting, now);
            self.consider(id);
        }
    }

    /// Makes the process of a service that listens, all but its program: most of what a start takes is done before
    /// anybody waits for it. Says whether there was one to be made.
    pub(super) fn warm_next(&mut self) -> bool {
        let Some(id) = self.warm.pop_front() else { return false };
        let cold = |s: &Service| s.state == State::Listening && !s.instance.alive && s.definition.can_be_held();
        if !self.stopping && self.services.get(&id).is_some_and(cold) {
            self.launch(id, true);
        }
        true
    }

    /// Starts the next of those whose turn it is; says whether there was one.
    pub(super) fn start_next(&mut self) -> bool {
        let Some(id) = self.queue.pop_front() else {
            return false;
        };
        let waits = |s: &&Service| s.wanted && s.state == State::Waiting;
        if self.stopping || !self.services.get(&id).is_some_and(|s| waits(&s)) {
            return true;
        }
        // What it depends on may have ended since its turn had come.
        match self.blocked(id) {
            Blocked::Free => self.run(id),
            Blocked::Wait => {}
            Blocked::Never(why) => self.fail(id, &why, 1),
        }
        true
    }

    fn run(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        match &service.instance {
            instance if !instance.alive => self.launch(id, false),
            // It was killed. When it has ended, another is started.
            instance if instance.fault.is_some() => {}
            _ => self.let_go(id),
        }
    }

    fn launch(&mut self, id: ServiceId, hold: bool) {
        if let Some(service) = self.services.get_mut(&id) {
            service.instance = Instance::new(self.now, hold);
            self.effects.push(Effect::Launch { service: id, hold });
        }
    }

    /// A process that was made ready runs its program. If it is gone, that is told by its end.
    fn let_go(&mut self, id: ServiceId) {
        if let Some(service) = self.services.get_mut(&id) {
            service.instance.held = false;
            service.instance.begun = self.now;
            self.starting(id);
            self.effects.push(Effect::LetGo(id));
        }
    }

    pub(super) fn launched(&mut self, id: ServiceId, trouble: Option<String>) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.instance.alive = true;
        if !service.instance.held {
            self.starting(id);
        }
        if let Some(trouble) = trouble {
            self.misbehaves(id, &trouble);
        }
    }

    pub(super) fn launch_failed(&mut self, id: ServiceId, error: &str, code: u8) {
        self.unlisten(id);
        if let Some(service) = self.services.get_mut(&id) {
            service.instance.held = false;
        }
        self.could_not_start(id, error, code);
    }

    fn starting(&mut self, id: ServiceId) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.enter(State::Starting, now);
        let policy = service.policy();
        if policy.ready != Ready::Started && !policy.start_timeout.is_zero() {
            let limit = policy.start_timeout;
            self.timers.set_in(id, Timer::Start, now, limit);
        }
    }

    pub(super) fn program_runs(&mut self, id: ServiceId) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.instance.program_runs = true;
        if service.state != State::Starting {
            // It was told to end meanwhile.
            return;
        }
        let name = service.name().to_owned();
        let (ready, kind) = (service.policy().ready.clone(), service.policy().kind);
        // Nobody waits for it to be ready, but for its end.
        let awaited_to_end = ready == Ready::Started && kind == ServiceType::Oneshot;
        if awaited_to_end {
            service.enter(State::Running, now);
        }
        self.emit(Kind::Started, &name, None, None);
        match ready {
            Ready::Started if awaited_to_end => self.wake_dependents(id),
            Ready::Started => self.become_ready(id),
            Ready::Notify => self.wake_dependents(id),
            Ready::Probe(_) => {
                self.wake_dependents(id);
                self.ask(id);
            }
        }
    }

    pub(super) fn become_ready(&mut self, id: ServiceId) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id).filter(|s| s.state == State::Starting) else {
            return;
        };
        service.enter(State::Running, now);
        let name = service.name().to_owned();
        self.timers.cancel(id, Timer::Start);
        self.emit(Kind::Ready, &name, None, None);
        self.rearm(id);
        self.settle_start(id, Ok(()));
        self.wake_dependents(id);
    }

    /// Has a service that runs, or starts, go by its rules, which may be others than they were.
    pub(super) fn go_by_rules(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id) else { return };
        let simple = service.policy().kind == ServiceType::Simple;
        let settled = service.policy().ready == Ready::Started && simple;
        match service.state {
            State::Starting if service.instance.program_runs && settled => self.become_ready(id),
            State::Starting if service.instance.program_runs && self.timers.at(id, Timer::Ask).is_none() => {
                self.ask(id)
            }
            State::Running => {
                self.rearm(id);
                if simple {
                    self.settle_start(id, Ok(()));
                }
            }
            _ => {}
        }
    }

    /// Sets the timers of a service that runs.
    fn rearm(&mut self, id: ServiceId) {
        let Some(service) = self.services.get(&id).filter(|s| s.state == State::Running) else {
            return;
        };
        let health = service.policy().health.as_ref().map(|h| h.interval);
        for (timer, time) in [(Timer::Ask, health), (Timer::Watchdog, service.policy().watchdog)] {
            match time {
                Some(time) => self.timers.set_in(id, timer, self.now, time),
                None => self.timers.cancel(id, timer),
            }
        }
    }
}
