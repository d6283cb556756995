//! The rules of services' lives: pure functions from a state and what has happened to a new state and what is to be done.
//!
//! Nothing here opens a descriptor, reads a clock or starts a process: time comes with each [`Input`], and what is to be done
//! leaves as an [`Effect`], which [`super::lifecycle`] carries out. So every rule can be tried as a table, and all of them
//! together with events at random (`tests.rs`). What an effect comes to, where the rules go by it, is the next input.
//!
//! Who waits for what is here as well ([`watch`]): whoever asked for a start hears how it goes by the same rules.

mod deps;
mod exit;
mod health;
mod orders;
mod restart;
mod start;
pub(crate) mod state;
mod stop;
#[cfg(test)]
mod tests;
pub(crate) mod timers;
pub(crate) mod watch;

use super::ids::{ServiceId, WatchId};
use super::net::notify::Said;
use super::protocol::Progress;
use super::stats::events::Kind;
pub(crate) use exit::Ending;
pub(crate) use orders::{Order, Planned};
use rustix::process::Signal;
pub(crate) use state::{Service, ServiceDefinition, State};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};
use timers::{Timer, Timers};
use watch::Watches;

/// What has happened.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// The app begins: these services are to run, and those that they depend on. None named: all.
    Up(Vec<String>),
    /// A process was started ([`Effect::Launch`]). `trouble`: it cannot be supervised, and is to end.
    Launched {
        service: ServiceId,
        trouble: Option<String>,
    },
    LaunchFailed {
        service: ServiceId,
        error: String,
        code: u8,
    },
    /// The sockets of a service are watched ([`Effect::Listen`]), or why they are not.
    Listens {
        service: ServiceId,
        how: Result<(), String>,
    },
    /// Somebody has connected to a service that listens.
    Connected(ServiceId),
    /// Its program runs.
    ProgramRuns(ServiceId),
    /// Its process was waited for, and all of it has ended.
    Exited { service: ServiceId, exit: Exit },
    /// It does not do as it should.
    Misbehaves { service: ServiceId, why: String },
    /// What it has of the network is gone, so it is to be killed.
    CutOff { service: ServiceId, why: String },
    /// It spoke by sd_notify(3).
    Said { service: ServiceId, said: Said },
    /// A probe ([`Effect::Ask`]) was answered, or why it was not.
    Answered {
        service: ServiceId,
        answer: Result<(), String>,
    },
    /// Its relay says that a connection was accepted, or that none was for a while.
    Accepts { service: ServiceId, accepts: bool },
    /// The relay of an instance that has ended says whether connections were left that it never accepted.
    Judged { service: ServiceId, unaccepted: bool },
    /// A timer that [`Machine::due`] gave.
    Fired(ServiceId, Timer),
    /// The app is to end.
    Down { timeout: Option<Duration> },
    /// The app is to end at once.
    Kill,
}

/// How a process ended, and what was found then.
#[derive(Clone, Debug)]
pub(crate) struct Exit {
    pub ending: Ending,
    /// What the kernel did to it, if that is known.
    pub note: Option<String>,
    /// Callers wait in its sockets.
    pub callers_wait: bool,
    /// It accepted a connection of its callers'.
    pub accepted: bool,
    /// Its relay will yet say whether it accepted connections ([`Input::Judged`]).
    pub parting: bool,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Effect {
    /// Start its process; `hold`: all but the program. Comes back as [`Input::Launched`] or [`Input::LaunchFailed`].
    Launch {
        service: ServiceId,
        hold: bool,
    },
    /// Have a process that was held run its program.
    LetGo(ServiceId),
    Signal(ServiceId, Signal),
    /// Ask its probe. Comes back as [`Input::Answered`].
    Ask(ServiceId),
    /// Watch its sockets. Comes back as [`Input::Listens`].
    Listen(ServiceId),
    Unlisten(ServiceId),
    /// Let go of its sockets: nobody waits any longer for what does not come back by itself.
    Release(ServiceId),
    /// Let go of all that is kept of it.
    Forget(ServiceId),
    /// Tell an event to whoever hears of events.
    Emit {
        kind: Kind,
        service: String,
        code: Option<u8>,
        detail: Option<String>,
    },
    /// Show a line to whoever is attached.
    Say(String),
    /// Write a line into its log.
    Remark(ServiceId, String),
    /// Tell whoever waits.
    Tell(WatchId, Progress),
    /// Tell them that no more is to come.
    Done(WatchId),
    /// Tell the service manager that the app is ending.
    Stopping,
}

/// All services of an app, and the rules that they go by.
#[derive(Clone, Debug)]
pub(crate) struct Machine {
    services: BTreeMap<ServiceId, Service>,
    next_service: ServiceId,
    /// In the manifest's order.
    order: Vec<ServiceId>,
    by_name: BTreeMap<String, ServiceId>,
    /// Services that depend on one.
    dependents: BTreeMap<ServiceId, Vec<ServiceId>>,
    /// Services whose turn has come.
    queue: VecDeque<ServiceId>,
    /// Services that listen, and whose process may be made ready for the first connection.
    warm: VecDeque<ServiceId>,
    /// Services that are to be told to end, once none that depends on them runs.
    doomed: BTreeSet<ServiceId>,
    timers: Timers,
    watches: Watches,
    stopping: bool,
    /// Why the app did not come up: the code of the service that failed first.
    failure: Option<u8>,
    unwell: bool,
    /// Services for which it may be time, since something has come so far that they wait for. Empty between two steps.
    woken: VecDeque<ServiceId>,
    /// What the current step has found is to be done. Empty between two steps.
    effects: Vec<Effect>,
    /// The time of the current step.
    now: Instant,
}

impl Machine {
    /// An app of these services, of which none runs yet.
    pub(crate) fn new(definitions: impl IntoIterator<Item = ServiceDefinition>, now: Instant) -> Machine {
        let mut machine = Machine {
            services: BTreeMap::new(),
            next_service: ServiceId::FIRST,
            order: Vec::new(),
            by_name: BTreeMap::new(),
            dependents: BTreeMap::new(),
            queue: VecDeque::new(),
            warm: VecDeque::new(),
            doomed: BTreeSet::new(),
            timers: Timers::default(),
            watches: Watches::default(),
            stopping: false,
            failure: None,
            unwell: false,
            woken: VecDeque::new(),
            effects: Vec::new(),
            now,
        };
        for definition in definitions {
            let id = machine.add(definition);
            machine.order.push(id);
        }
        machine.index();
        machine
    }

    /// What follows from what has happened.
    pub(crate) fn step(&mut self, now: Instant, input: Input) -> Vec<Effect> {
        self.now = now;
        match input {
            Input::Up(names) => self.up(&names),
            Input::Launched { service, trouble } => self.launched(service, trouble),
            Input::LaunchFailed { service, error, code } => self.launch_failed(service, &error, code),
            Input::Listens { service, how } => self.listens(service, how),
            Input::Connected(service) => self.connected(service),
            Input::ProgramRuns(service) => self.program_runs(service),
            Input::Exited { service, exit } => self.exited(service, exit),
            Input::Misbehaves { service, why } => self.misbehaves(service, &why),
            Input::CutOff { service, why } => self.cut_off(service, why),
            Input::Said { service, said } => self.said(service, said),
            Input::Answered { service, answer } => self.answered(service, answer),
            Input::Accepts { service, accepts } => self.accepts(service, accepts),
            Input::Judged { service, unaccepted } => self.judged(service, unaccepted),
            Input::Fired(service, timer) => self.fired(service, timer),
            Input::Down { timeout } => self.down(timeout),
            Input::Kill => self.kill(),
        }
        self.finish_step()
    }

    /// What is to be done before the loop waits again: the next to be told to end, and one start, so that reports of a
    /// thousand do not pile up. The second: whether there may be more to start.
    pub(crate) fn turn(&mut self, now: Instant) -> (Vec<Effect>, bool) {
        self.now = now;
        self.stop_next();
        let more = self.start_next() || self.warm_next();
        (self.finish_step(), more)
    }

    /// Looks at all that the step has woken, and gives what is to be done.
    fn finish_step(&mut self) -> Vec<Effect> {
        while let Some(id) = self.woken.pop_front() {
            self.consider(id);
        }
        std::mem::take(&mut self.effects)
    }

    /// Takes the earliest timer that is due.
    pub(crate) fn due(&mut self, until: Instant) -> Option<Input> {
        let (service, timer) = self.timers.pop(until)?;
        Some(Input::Fired(service, timer))
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Moves all timers: nobody could do anything in this time.
    pub(crate) fn postpone(&mut self, by: Duration) {
        self.timers.postpone(by);
    }

    /// Is nothing more to come? With `until_over`, also if all services have ended by themselves.
    pub(crate) fn finished(&self, until_over: bool) -> bool {
        if !self.queue.is_empty() && !self.stopping {
            return false;
        }
        let mut services = self.services.values();
        match self.stopping {
            true => services.all(|s| !s.state.live() && !s.instance.alive),
            false => until_over && services.all(|s| s.state.over() && !s.instance.alive),
        }
    }

    pub(crate) fn service(&self, id: ServiceId) -> Option<&Service> {
        self.services.get(&id)
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (ServiceId, &Service)> + Clone {
        self.services.iter().map(|(id, service)| (*id, service))
    }

    /// In the manifest's order.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (ServiceId, &Service)> {
        self.order.iter().filter_map(|id| Some((*id, self.services.get(id)?)))
    }

    pub(crate) fn by_name(&self, name: &str) -> Option<(ServiceId, &Service)> {
        let id = self.by_name.get(name)?;
        Some((*id, self.services.get(id)?))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The code of the service that kept the app from coming up.
    pub(crate) fn failure(&self) -> Option<u8> {
        self.failure
    }

    /// Some service ended other than well.
    pub(crate) fn is_unwell(&self) -> bool {
        self.unwell
    }

    pub(crate) fn watches(&self) -> &Watches {
        &self.watches
    }

    /// Takes a new service on, which does not run yet.
    fn add(&mut self, definition: ServiceDefinition) -> ServiceId {
        let id = self.next_service;
        self.next_service = id.next();
        self.by_name.insert(definition.name().to_owned(), id);
        self.services.insert(id, Service::new(definition, self.now));
        id
    }

    fn emit(&mut self, kind: Kind, service: &str, code: Option<u8>, detail: Option<String>) {
        self.effects.push(Effect::Emit {
            kind,
            service: service.to_owned(),
            code,
            detail,
        });
    }

    /// Says it to whoever is attached, and in the service's own log.
    fn say_and_remark(&mut self, id: ServiceId, name: &str, text: &str) {
        self.effects.push(Effect::Say(format!("{name}: {text}")));
        self.effects.push(Effect::Remark(id, text.to_owned()));
    }

    fn kill(&mut self) {
        self.doomed.clear();
        let alive = self.services.iter().filter(|(_, s)| s.instance.alive);
        self.effects
            .extend(alive.map(|(id, _)| Effect::Signal(*id, Signal::KILL)));
    }

    fn fired(&mut self, id: ServiceId, timer: Timer) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match timer {
            Timer::Start => self.was_not_ready_in_time(id),
            // PID 1 takes all of the namespace with it.
            Timer::Stop if service.instance.alive => self.effects.push(Effect::Signal(id, Signal::KILL)),
            Timer::Stop => {}
            Timer::Restart => {
                service.enter(State::Waiting, now);
                self.consider(id);
            }
            Timer::Ask => self.ask(id),
            Timer::Watchdog => {
                let time = service.policy().watchdog.unwrap_or_default();
                let why = format!("sent no WATCHDOG=1 for {}", in_words(time));
                self.misbehaves(id, &why);
            }
        }
    }
}

/// A time as people say it.
pub(crate) fn in_words(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{}ms", time.as_millis())
    } else if time.subsec_millis() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}
