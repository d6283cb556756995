//! What the end of a process leads to.

use super::state::{After, State};
use super::{Effect, Exit, Machine, ServiceId};
use crate::launch::LaunchError;
use crate::plain::counted;
use crate::supervise::stats::events::Kind;
use crate::sys::exit_status::exit_code;
use crate::values::{Restart, ServiceType, Start};
use rustix::process::Signal;

/// Of a service on demand.
pub(super) const UNACCEPTED: &str = "ended with code 0 and took none of the connections that wait for it";

/// How a process ended, as PID 1 said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A wait status of waitpid(2).
    Exited(i32),
    /// It did not come to its program.
    Failed { error: String, code: u8 },
}

/// All that counts for what the end of a process leads to.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub ending: Ending,
    pub after: After,
    /// It had been made ready ahead of time, and waited.
    pub held: bool,
    /// Its program was reached.
    pub began: bool,
    /// It had become ready.
    pub ready: bool,
    /// Why it was ended, if not because somebody said so.
    pub fault: Option<String>,
    /// What the kernel did to it.
    pub note: Option<String>,
    /// Callers wait.
    pub callers_wait: bool,
    /// It accepted a connection, as far as is known.
    pub accepted: bool,
    /// Its relay will yet say whether connections wait, of which it never accepted one.
    pub parting: bool,
    pub kind: ServiceType,
    pub start: Start,
    pub restart: Restart,
}

/// What the end of a process leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// None of it was the service's own: the connection that wants it, or has come meanwhile, gets another.
    Spare,
    /// It could not be started.
    CouldNotStart { error: String, code: u8 },
    /// It was told to end.
    AsTold,
    /// It ended by itself.
    ByItself { why: String, verdict: Verdict },
}

/// What is done with a service that ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is started again, after a while.
    Restart,
    /// Its sockets are watched again: it had no more to do, and the next connection starts it anew.
    Listen,
    /// What it is to be depends on what its relay says.
    AwaitRelay,
    /// It failed.
    Fail,
    /// It stays as it is.
    Rest,
}

impl Ended {
    /// As shells have it: 128+n for signal n.
    pub(super) fn code(&self) -> u8 {
        match &self.ending {
            Ending::Exited(status) => exit_code(*status),
            Ending::Failed { code, .. } => *code,
        }
    }

    /// Did it end other than well?
    pub(super) fn failed(&self) -> bool {
        self.code() != 0 || self.fault.is_some()
    }

    pub(super) fn outcome(&self) -> Outcome {
        let by_policy = self.after == After::Policy;
        match &self.ending {
            _ if !by_policy => Outcome::AsTold,
            Ending::Failed { error, code } => Outcome::CouldNotStart {
                error: error.clone(),
                code: *code,
            },
            Ending::Exited(_) if self.held => Outcome::Spare,
            Ending::Exited(_) if !self.began => Outcome::CouldNotStart {
                error: self.fault.clone().unwrap_or_else(|| LaunchError::Vanished.to_string()),
                code: 125,
            },
            Ending::Exited(_) => {
                let (why, verdict) = self.verdict();
                Outcome::ByItself { why, verdict }
            }
        }
    }

    fn verdict(&self) -> (String, Verdict) {
        let code = self.code();
        let known = self.fault.clone().or_else(|| self.note.clone());
        let why = known.unwrap_or_else(|| match self.ready || self.kind != ServiceType::Simple {
            true => format!("ended with code {code}"),
            false => format!("ended with code {code} before it was ready"),
        });
        let failed = self.failed();
        let done_on_demand = self.start == Start::OnDemand && !failed;
        let verdict = match self.restart {
            Restart::Always => Verdict::Restart,
            Restart::OnFailure if failed => Verdict::Restart,
            // Whoever waited would have it started at once, again and again.
            _ if done_on_demand && self.callers_wait && !self.accepted => {
                return (UNACCEPTED.to_owned(), Verdict::Restart);
            }
            _ if done_on_demand && self.parting && !self.accepted => Verdict::AwaitRelay,
            _ if done_on_demand => Verdict::Listen,
            _ if self.kind == ServiceType::Oneshot && failed => Verdict::Fail,
            _ if self.kind == ServiceType::Simple && (self.fault.is_some() || !self.ready) => Verdict::Fail,
            _ => Verdict::Rest,
        };
        (why, verdict)
    }
}

impl Machine {
    /// A process of a service was waited for: all of the service has ended with it.
    pub(super) fn exited(&mut self, id: ServiceId, exit: Exit) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let instance = &mut service.instance;
        instance.alive = false;
        instance.asking = false;
        instance.advice = None;
        let held = std::mem::take(&mut instance.held);
        let began = std::mem::take(&mut instance.program_runs);
        let fault = instance.fault.take();
        // Whoever was told to end may have been killed for not doing so.
        if service.after == After::Policy && fault.is_none() && matches!(exit.ending, Ending::Exited(_)) {
            instance.note = exit.note;
        }
        let ended = Ended {
            ending: exit.ending,
            after: service.after,
            held,
            began,
            ready: service.state == State::Running,
            fault,
            note: instance.note.clone(),
            callers_wait: began && exit.callers_wait,
            accepted: instance.accepts || exit.accepted,
            parting: exit.parting,
            kind: service.policy().kind,
            start: service.policy().start,
            restart: service.policy().restart.when,
        };
        self.timers.cancel_all(id);
        let outcome = ended.outcome();
        if matches!(outcome, Outcome::AsTold | Outcome::ByItself { .. })
            && !held
            && let Some(service) = self.services.get_mut(&id)
        {
            service.last_exit = Some(ended.code());
        }
        match outcome {
            // If a connection has come meanwhile, it is its turn again.
            Outcome::Spare => self.consider(id),
            Outcome::CouldNotStart { error, code } => {
                self.unlisten(id);
                self.could_not_start(id, &error, code);
            }
            Outcome::AsTold => self.finish(id, ended.after, !held),
            Outcome::ByItself { why, verdict } => {
                self.tell_exit(id, &ended);
                self.carry_out_verdict(id, verdict, &why, &ended);
            }
        }
    }

    fn tell_exit(&mut self, id: ServiceId, ended: &Ended) {
        let Some(service) = self.services.get(&id) else { return };
        let (name, code) = (service.name().to_owned(), ended.code());
        if let Some(note) = &ended.note {
            self.emit(Kind::Oom, &name, None, Some(note.clone()));
        }
        self.emit(Kind::Exited, &name, Some(code), ended.fault.clone());
        let line = match (&ended.fault, &ended.note) {
            (Some(fault), _) => format!("{name} was ended: {fault}"),
            (None, _) if ended.kind == ServiceType::Oneshot && code == 0 => return,
            (None, Some(note)) => format!("{name} ended with code {code}: {note}"),
            (None, None) => format!("{name} ended with code {code}"),
        };
        self.effects.push(Effect::Say(line));
    }

    fn carry_out_verdict(&mut self, id: ServiceId, verdict: Verdict, why: &str, ended: &Ended) {
        let (now, code) = (self.now, ended.code());
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match verdict {
            Verdict::Restart => self.restart_later(id, why, code),
            Verdict::AwaitRelay => {
                service.demanded = false;
                service.instance.acceptance_known = false;
                service.enter(State::Waiting, now);
            }
            Verdict::Listen => {
                service.demanded = false;
                service.restarts = 0;
                service.enter(State::Waiting, now);
                self.consider(id);
            }
            Verdict::Fail => self.fail(id, why, code.max(1)),
            Verdict::Rest => self.rest(id, code, ended.failed()),
        }
    }

    /// Of a service on demand that ended well it is known whether it took any of the connections that there were.
    pub(super) fn judged(&mut self, id: ServiceId, unaccepted: bool) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut service.instance.acceptance_known, true) || service.state != State::Waiting {
            return;
        }
        if unaccepted {
            return self.restart_later(id, UNACCEPTED, 0);
        }
        service.restarts = 0;
        self.consider(id);
    }

    /// It ended by itself, and stays so.
    fn rest(&mut self, id: ServiceId, code: u8, failed: bool) {
        let now = self.now;
        self.unwell |= failed;
        if let Some(service) = self.services.get_mut(&id) {
            service.wanted = false;
            service.enter(State::Exited { code }, now);
        }
        if failed && !self.stopping && self.services.len() > 1 {
            let meant = self.services.values().filter(|s| s.state != State::Stopped);
            let (run, all) = meant.fold((0, 0), |(run, all), s| (run + usize::from(s.state.live()), all + 1));
            let services = counted(all, "service");
            self.effects.push(Effect::Say(format!("{run} of {services} run")));
        }
        self.effects.push(Effect::Release(id));
        self.settle_start(id, Ok(()));
        self.settle_end(id);
        self.wake_dependents(id);
    }

    /// A service that cannot go on. One that never began takes the `up` with it: nothing half-started is left.
    pub(super) fn fail(&mut self, id: ServiceId, error: &str, code: u8) {
        let now = self.now;
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let name = service.name().to_owned();
        service.wanted = false;
        service.enter(
            State::Failed {
                error: error.to_owned(),
            },
            now,
        );
        if service.instance.alive {
            // It was made ready ahead of time, and nothing will come of it.
            self.effects.push(Effect::Signal(id, Signal::KILL));
        }
        self.timers.cancel_all(id);
        self.effects.push(Effect::Release(id));
        self.unwell = true;
        self.effects
            .push(Effect::Say(format!("error: service `{name}`: {error}")));
        self.effects.push(Effect::Remark(id, format!("error: {error}")));
        self.emit(Kind::Failed, &name, Some(code), Some(error.to_owned()));
        let ends_all = self.watches.first_awaits(id) && !self.stopping;
        if ends_all && self.failure.is_none() {
            self.failure = Some(code);
        }
        self.settle_start(id, Err((error, code)));
        self.settle_end(id);
        if ends_all {
            self.down(None);
        }
        self.wake_dependents(id);
    }
}
