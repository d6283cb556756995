//! What follows from an event: when a service is started, when it counts as ready, what is done when it ends.
//!
//! Every change of a service's state is made here. Nothing here waits: what is to happen later is a timer, and what is
//! to happen when another service has come so far is decided again when it has ([`App::consider`]).

use super::app::{App, Child, Source, SuperviseError, system};
use super::limits;
use super::net::network::Networks;
use super::net::notify::{self, Watchdog};
use super::service::{After, Ending, Service, State, exit_code};
use super::stats::events::{Event, Kind};
use super::timers::Timer;
use crate::compile;
use crate::jail::store::Store;
use crate::launch::ask::YES;
use crate::launch::relay::{ACCEPT_PATIENCE, Notice};
use crate::launch::{LaunchError, Request as Start};
use crate::model::life::{Probe, Ready};
use crate::plan::{Keeping, Mount};
use crate::values::{Condition, Restart, ServiceType, Start as Begin};
use nix::sys::epoll::{EpollEvent, EpollFlags};
use rustix::process::{Pid, Signal};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// Messages of one service that are read in one turn of the loop: one that never stops speaking holds up nobody.
const MOST_MESSAGES: usize = 64;

/// How many times `start_timeout` and `stop_timeout` a service may take in all if it asks for more time.
const LONGEST_START: u32 = 10;
const LONGEST_END: u32 = 3;

/// Of a service on demand.
const UNACCEPTED: &str = "ended with code 0 and took none of the connections that wait for it";

/// Most services are ready soon, and those behind them wait: the first questions come quicker, each wait twice the last.
const FIRST_ASKED: Duration = Duration::from_millis(20);

/// May a service start, as far as others go?
enum Blocked {
    Free,
    Wait,
    /// For this it would wait in vain.
    Never(String),
}

impl App {
    /// Has a service run, from now on.
    pub(super) fn want(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.wanted = true;
        service.demanded = false;
        service.restarts = 0;
        service.after = After::Policy;
        service.enter(State::Waiting);
        self.consider(id);
    }

    /// Puts a service in the queue if its time has come.
    pub(super) fn consider(&mut self, id: u32) {
        let Some(service) = self.services.get(&id) else { return };
        if self.stopping.is_some() || !service.wanted {
            return;
        }
        if service.state == State::Listening && service.plan.life.start != Begin::OnDemand {
            // By its rules it is to run now, whether somebody connects or not.
            return self.demanded(id);
        }
        if service.state != State::Waiting {
            return;
        }
        if service.plan.life.start == Begin::OnDemand && !service.demanded {
            self.listen(id);
            return;
        }
        match self.blocked(id) {
            Blocked::Free if self.queue.contains(&id) => {}
            Blocked::Free => self.queue.push_back(id),
            Blocked::Wait => {}
            Blocked::Never(why) => self.fail(id, &why, 1),
        }
    }

    fn blocked(&self, id: u32) -> Blocked {
        let Some(service) = self.services.get(&id) else {
            return Blocked::Wait;
        };
        let mut waits = false;
        for (name, condition) in &service.plan.life.depends_on {
            let Some(on) = self.by_name.get(name).and_then(|on| self.services.get(on)) else {
                return Blocked::Never(format!("depends on `{name}`, which the app no longer has"));
            };
            if on.after != After::Policy || on.state == State::Stopping {
                // Whatever it is now, it will not stay so.
                waits = true;
                continue;
            }
            if has_come(condition, &on.state, on.program_runs) {
                continue;
            }
            match &on.state {
                State::Exited { code } => {
                    return Blocked::Never(format!("depends on `{name}`, which ended with code {code}"));
                }
                State::Failed { .. } => return Blocked::Never(format!("depends on `{name}`, which failed")),
                State::Stopped => {
                    return Blocked::Never(format!(
                        "depends on `{name}`, which was stopped; `pysecure start {}` starts both",
                        service.plan.name
                    ));
                }
                _ => waits = true,
            }
        }
        if waits { Blocked::Wait } else { Blocked::Free }
    }

    /// Holds the service's sockets open for it until something connects.
    fn listen(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if let Err(error) = self.sockets.reclaim(&self.plan.dirs, &service.plan) {
            return self.fail(id, &error.to_string(), 1);
        }
        let sockets = self.sockets.of(&service.plan);
        let sockets = sockets.into_iter().map(|(socket, _)| socket);
        for socket in sockets.chain(self.relays.left(id)) {
            if let Err(e) = self
                .epoll
                .add(socket, EpollEvent::new(EpollFlags::EPOLLIN, Source::Demand(id).pack()))
            {
                tracing::warn!(service = service.plan.name, "watch a socket: {e}");
            }
        }
        service.enter(State::Listening);
        service.acceptance_known = true;
        self.warm.push_back(id);
        self.settle_start(id, Ok(()));
        self.wake_dependents(id);
    }

    /// Makes the process of a service that listens, all but its program: most of what a start takes is done before
    /// anybody waits for it. Says whether there was one to be made.
    pub(super) fn warm_next(&mut self) -> bool {
        let Some(id) = self.warm.pop_front() else { return false };
        let cold = |s: &Service| s.state == State::Listening && s.running.is_none();
        // A process that is to have a companion waits for that, and cannot wait for two things.
        let alone = |s: &Service| !s.plan.egress && s.plan.publish.is_empty();
        if self.stopping.is_none() && self.services.get(&id).is_some_and(|s| cold(s) && alone(s)) {
            if let Some(service) = self.services.get_mut(&id) {
                service.begun = Instant::now();
            }
            self.launched(id, true);
        }
        true
    }

    fn unlisten(&mut self, id: u32) {
        let Some(service) = self.services.get(&id).filter(|s| s.state == State::Listening) else {
            return;
        };
        let sockets = self.sockets.of(&service.plan);
        let sockets = sockets.into_iter().map(|(socket, _)| socket);
        for socket in sockets.chain(self.relays.left(id)) {
            let _ = self.epoll.delete(socket);
        }
    }

    /// Something has connected to a service that is not there yet; the connection waits in the socket.
    pub(super) fn demanded(&mut self, id: u32) {
        self.unlisten(id);
        if let Some(service) = self.services.get_mut(&id).filter(|s| s.state == State::Listening) {
            service.demanded = true;
            service.enter(State::Waiting);
            self.consider(id);
        }
    }

    fn wake_dependents(&mut self, id: u32) {
        for dependent in self.dependents.get(&id).cloned().unwrap_or_default() {
            self.consider(dependent);
        }
    }

    /// Starts the next of those whose turn it is; says whether there was one.
    pub(super) fn start_next(&mut self) -> bool {
        let Some(id) = self.queue.pop_front() else {
            return false;
        };
        let waits = |s: &Service| s.wanted && s.state == State::Waiting && (s.running.is_none() || s.held);
        if self.stopping.is_none()
            && let Some(service) = self.services.get_mut(&id).filter(|s| waits(s))
        {
            service.begun = Instant::now();
            if service.held {
                self.let_go(id);
            } else {
                self.launched(id, false);
            }
        }
        true
    }

    fn launched(&mut self, id: u32, hold: bool) {
        let error = match self.launch(id, hold) {
            Ok(()) => return,
            Err(error) => error,
        };
        self.unlisten(id);
        self.relays.end(id);
        self.networks.end(id);
        let code = match &error {
            SuperviseError::Launch(error) => error.exit_code(),
            _ => 1,
        };
        self.broke(id, &error.to_string(), code);
    }

    /// Has a process that was made ready run its program.
    fn let_go(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.held = false;
        service.enter(State::Starting);
        let life = &service.plan.life;
        if life.ready != Ready::Started && !life.start_timeout.is_zero() {
            self.timers.set_in(id, Timer::Start, life.start_timeout);
        }
        // If it is gone, that is told by its end.
        if let Some(running) = &service.running {
            let begun = self.relays.begin(id, running);
            let _ = running.go();
            if let Err(error) = begun {
                self.fault(id, &error.to_string());
            }
        }
    }

    /// Connects the app's network to the outside again, if it was and no longer is.
    fn restore_way_out(&mut self, id: u32) -> Result<(), SuperviseError> {
        if self
            .services
            .get(&id)
            .is_some_and(|s| self.networks.lacks_way_out(&s.plan))
        {
            let planned = self.services.values().map(|s| &s.plan);
            let prepared = self
                .networks
                .prepare(&self.plan.privilege, planned, &mut self.launcher)?;
            self.networks.take_on(prepared);
            self.watch_app_network()?;
        }
        Ok(())
    }

    /// Makes what a service needs on disk once more, if it was deleted while the app is up: its jail, its copy of that, the
    /// folders of its resources, which are as when they are made.
    fn restore(&self, service: &crate::plan::Unit) -> Result<(), SuperviseError> {
        let store = Store::new(&self.plan.dirs.state);
        let of_template = self.plan.templates.get(&service.rootfs);
        if let Some(hash) = of_template.and_then(|t| t.jail.as_ref()) {
            let wrong = |e| LaunchError::system_text("make anew the root of", &service.name, e);
            store.restore(hash).map_err(wrong)?;
            if service.writable.is_some() {
                store
                    .make_private_tree(hash, service.identity.on_disk())
                    .map_err(wrong)?;
            }
        }
        let missing = |mount: &&Mount| std::fs::symlink_metadata(&mount.source).is_err();
        for mount in service.mounts.iter().filter(missing) {
            let of = self.plan.storage.iter().find(|s| s.path == mount.source);
            if let Some(storage) = of.filter(|s| s.keeping == Keeping::Ours) {
                tracing::warn!(
                    resource = storage.resource,
                    "its data is gone; it is made anew, as at first"
                );
                crate::storage::make_again(&self.plan.dirs, storage)
                    .map_err(|e| LaunchError::system_text("make anew", storage.path.display(), e))?;
            }
        }
        Ok(())
    }

    /// `hold`: all but the program.
    fn launch(&mut self, id: u32, hold: bool) -> Result<(), SuperviseError> {
        self.restore_way_out(id)?;
        let Some(service) = self.services.get(&id) else {
            return Ok(());
        };
        self.restore(&service.plan)?;
        let hidden = crate::plan::hide_again(&service.plan)?;
        let planned = &self.ground.settle(&hidden)?;
        self.sockets.reclaim(&self.plan.dirs, planned)?;
        self.networks.reclaim(planned)?;
        let folder = self.plan.dirs.bundle(&planned.name);
        let bundle = compile::compile(&self.plan, planned, &folder)
            .map_err(|e| LaunchError::system_text("compile", &planned.name, e))?;
        bundle
            .write_layers(&folder)
            .map_err(|e| LaunchError::system_text("write layers of the root to", folder.display(), e))?;
        let notify = match planned.notifies() {
            true => Some(notify::bind(&self.plan.dirs, planned)?),
            false => None,
        };
        self.outputs.hold(id, &self.plan.app, &self.plan.dirs, planned)?;
        let [out_write, err_write] = self.outputs.begin(id)?;
        // So that it can open /dev/stdout and /dev/stderr, which many a daemon's log goes to.
        for pipe in [&out_write, &err_write] {
            let (uid, gid) = super::net::sockets::ids(&planned.identity);
            rustix::fs::fchown(pipe, Some(uid), Some(gid)).map_err(system("give a pipe to a service"))?;
        }
        limits::hold(planned, &self.plan, &mut self.launcher)?;
        let outside = self.sockets.listening(planned);
        let inside = self.relays.prepare(id, planned, &outside, &mut self.launcher)?;
        let mut sockets = self.sockets.of(planned);
        // Those of `listen` come first.
        for ((socket, _), inside) in sockets.iter_mut().zip(&inside) {
            *socket = inside.as_fd();
        }
        let request = Start {
            spec: &bundle.spec,
            root: &bundle.root,
            stdio: [self.null.as_fd(), out_write.as_fd(), err_write.as_fd()],
            sockets: &sockets,
            terminal: false,
            network: self.networks.shared(planned),
            hold: hold || Networks::holds(planned),
        };
        tracing::debug!(service = planned.name, sockets = sockets.len(), "starting");
        let running = self.launcher.start(&request)?;
        if let Some(claim) = &self.claim {
            claim.runs(id, running.pid.as_raw_nonzero().get());
        }
        let companion = self.networks.accompany(id, planned, &running, &mut self.launcher);
        let watched = companion.map_err(SuperviseError::from).and_then(|words| match words {
            Some(words) => {
                let event = EpollEvent::new(EpollFlags::EPOLLIN, Source::Network(id).pack());
                self.epoll.add(words, event).map_err(system("watch a descriptor"))
            }
            None => Ok(()),
        });
        let watched = watched.and_then(|()| {
            if !hold {
                self.relays.begin(id, &running)?;
            }
            match self.relays.control(id) {
                Some(control) => self.watch(control, Source::Relay(id)),
                None => Ok(()),
            }
        });
        if let Err(error) = watched {
            running.abort();
            return Err(error);
        }
        // From here on what was started is on record, so that whatever fails now it will be ended and reaped.
        self.by_pid
            .insert(running.pid.as_raw_nonzero().get(), Child::Service(id));
        let watched = rustix::io::ioctl_fionbio(&running.reports, true)
            .map_err(system("prepare a report socket"))
            .and_then(|()| self.watch(running.reports.as_fd(), Source::Reports(id)))
            .and_then(|()| match &notify {
                Some(socket) => self.watch(socket.as_fd(), Source::Notify(id)),
                None => Ok(()),
            });
        let (ready, limit) = (planned.life.ready.clone(), planned.life.start_timeout);
        let Some(service) = self.services.get_mut(&id) else {
            return Ok(());
        };
        service.notify = notify;
        service.running = Some(running);
        service.program_runs = false;
        service.ending = None;
        service.fault = None;
        service.note = None;
        service.healthy = None;
        service.failures = 0;
        service.complaint = None;
        service.says = None;
        (service.accepts, service.advice, service.acceptance_known) = (false, None, true);
        service.reloading = false;
        service.held = hold;
        if !hold {
            service.enter(State::Starting);
        }
        if !hold && ready != Ready::Started && !limit.is_zero() {
            self.timers.set_in(id, Timer::Start, limit);
        }
        if let Err(error) = watched {
            self.fault(id, &error.to_string());
        }
        Ok(())
    }

    /// Its program runs.
    pub(super) fn began(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.program_runs = true;
        if let Some(running) = &mut service.running {
            running.settle();
        }
        if service.state != State::Starting {
            // It was told to end meanwhile.
            return;
        }
        let (name, ready, kind) = (
            service.plan.name.clone(),
            service.plan.life.ready.clone(),
            service.plan.life.kind,
        );
        tracing::debug!(service = name, "its program runs");
        self.emit(&Event::new(Kind::Started, &name));
        match ready {
            // Nobody waits for it to be ready, but for its end.
            Ready::Started if kind == ServiceType::Oneshot => {
                if let Some(service) = self.services.get_mut(&id) {
                    service.enter(State::Running);
                }
                self.wake_dependents(id);
            }
            Ready::Started => self.become_ready(id),
            Ready::Notify => self.wake_dependents(id),
            Ready::Probe(_) => {
                self.wake_dependents(id);
                self.ask(id);
            }
        }
    }

    fn become_ready(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id).filter(|s| s.state == State::Starting) else {
            return;
        };
        service.enter(State::Running);
        let name = service.plan.name.clone();
        self.timers.cancel(id, Timer::Start);
        self.emit(&Event::new(Kind::Ready, &name));
        self.rearm(id);
        self.settle_start(id, Ok(()));
        self.wake_dependents(id);
    }

    /// Sets the timers of a service that runs to what its rules say now.
    pub(super) fn rearm(&mut self, id: u32) {
        let Some(service) = self.services.get(&id).filter(|s| s.state == State::Running) else {
            return;
        };
        let (health, watchdog) = (
            service.plan.life.health.as_ref().map(|h| h.interval),
            service.plan.life.watchdog,
        );
        for (timer, time) in [(Timer::Ask, health), (Timer::Watchdog, watchdog)] {
            match time {
                Some(time) => self.timers.set_in(id, timer, time),
                None => self.timers.cancel(id, timer),
            }
        }
    }

    /// A process of a service was waited for: all of the service has ended with it.
    pub(super) fn over(&mut self, id: u32, status: i32) {
        // What it said last may change how its end is read.
        self.notified(id);
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let running = service.running.take();
        if let Some(running) = &running {
            let _ = self.epoll.delete(&running.reports);
        }
        service.notify = None;
        service.figures.end();
        self.networks.end(id);
        let asking = service.asking.take();
        let held = std::mem::take(&mut service.held);
        let parting = if held {
            self.relays.end(id)
        } else {
            self.relays.part(id)
        };
        let (began, ready) = (
            std::mem::take(&mut service.program_runs),
            service.state == State::Running,
        );
        let ending = service.ending.take().unwrap_or(Ending::Exited(status));
        service.advice = None;
        let unaccepted = began && !service.accepts && self.sockets.callers_wait(&service.plan);
        let parting = parting && !service.accepts;
        if began {
            self.sockets.renew(&self.plan.dirs, &service.plan);
        }
        let (after, mut fault) = (service.after, service.fault.take());
        // Whoever was told to end may have been killed for not doing so.
        if let (After::Policy, None, Ending::Exited(status)) = (after, &fault, &ending) {
            let group = running.as_ref().and_then(|r| r.cgroup());
            service.note = limits::explain(*status, group, &service.plan.limits);
        }
        // With it goes its cgroup, of which the next one has to be a new one.
        drop(running);
        let note = service.note.clone();
        let (name, kind) = (service.plan.name.clone(), service.plan.life.kind);
        let policy = service.plan.life.restart.when;
        self.timers.cancel_all(id);
        if let Some(asking) = asking {
            let _ = rustix::process::kill_process(asking.helper, Signal::KILL);
        }
        let code = match ending {
            Ending::Failed(error) if after == After::Policy => {
                self.unlisten(id);
                self.broke(id, &error.to_string(), error.exit_code());
                return;
            }
            Ending::Failed(error) => error.exit_code(),
            // It was made ready ahead of time, and none of it was the service's own: the connection that wants it, or has come
            // meanwhile, gets another.
            Ending::Exited(_) if held && after == After::Policy => {
                tracing::debug!(service = name, "what was made ready for it has ended");
                return;
            }
            Ending::Exited(_) if !began && after == After::Policy => {
                let why = fault.unwrap_or_else(|| LaunchError::Vanished.to_string());
                self.broke(id, &why, 125);
                return;
            }
            Ending::Exited(status) => exit_code(status),
        };
        if let Some(service) = self.services.get_mut(&id).filter(|_| !held) {
            service.last_exit = Some(code);
        }
        if after != After::Policy {
            self.finish(id, after, !held);
            return;
        }
        if let Some(note) = &note {
            self.emit(&Event::new(Kind::Oom, &name).detail(note.clone()));
        }
        let mut event = Event::new(Kind::Exited, &name).code(code);
        if let Some(fault) = &fault {
            event = event.detail(fault.clone());
        }
        self.emit(&event);
        let failed = code != 0 || fault.is_some();
        match &fault {
            Some(fault) => self.outputs.say(&format!("{name} was ended: {fault}")),
            None if kind == ServiceType::Oneshot && !failed => {}
            None => match &note {
                Some(note) => self.outputs.say(&format!("{name} ended with code {code}: {note}")),
                None => self.outputs.say(&format!("{name} ended with code {code}")),
            },
        }
        let faulty = fault.is_some();
        fault = fault.or(note);
        let why = match fault {
            Some(fault) => fault,
            None if !ready && kind == ServiceType::Simple => format!("ended with code {code} before it was ready"),
            None => format!("ended with code {code}"),
        };
        let on_demand = self
            .services
            .get(&id)
            .is_some_and(|s| s.plan.life.start == Begin::OnDemand);
        match policy {
            Restart::Always => self.restart_later(id, &why, code),
            Restart::OnFailure if failed => self.restart_later(id, &why, code),
            // Whoever waited would have it started at once, again and again.
            _ if on_demand && !failed && unaccepted => self.restart_later(id, UNACCEPTED, code),
            _ if on_demand && !failed && parting => {
                if let Some(service) = self.services.get_mut(&id) {
                    service.demanded = false;
                    service.acceptance_known = false;
                    service.enter(State::Waiting);
                }
            }
            // It had no more to do; the next connection starts it anew.
            _ if on_demand && !failed => {
                if let Some(service) = self.services.get_mut(&id) {
                    service.demanded = false;
                    service.restarts = 0;
                    service.enter(State::Waiting);
                }
                self.consider(id);
            }
            _ if kind == ServiceType::Oneshot && failed => self.fail(id, &why, code.max(1)),
            _ if kind == ServiceType::Simple && (faulty || !ready) => self.fail(id, &why, code.max(1)),
            _ => self.ended(id, code, failed),
        }
    }

    /// Of a service on demand that ended well it is known whether it took any of the connections that there were.
    fn judge(&mut self, id: u32, unaccepted: bool) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if std::mem::replace(&mut service.acceptance_known, true) || service.state != State::Waiting {
            return;
        }
        if unaccepted {
            return self.restart_later(id, UNACCEPTED, 0);
        }
        service.restarts = 0;
        self.consider(id);
    }

    /// Nobody waits any longer for what does not come back by itself.
    pub(super) fn release(&mut self, id: u32) {
        if let Some(service) = self.services.get(&id) {
            self.sockets.release(&service.plan);
            self.networks.release(&service.plan);
        }
        self.relays.forget(id);
    }

    /// It ended by itself, and stays so.
    fn ended(&mut self, id: u32, code: u8, failed: bool) {
        self.unwell |= failed;
        if let Some(service) = self.services.get_mut(&id) {
            service.wanted = false;
            service.enter(State::Exited { code });
        }
        self.release(id);
        self.settle_start(id, Ok(()));
        self.settle_end(id);
        self.wake_dependents(id);
    }

    /// It could not be started, or not so far that it ran: the app has yet to come up, and then does not; or it is up,
    /// and this may pass.
    fn broke(&mut self, id: u32, error: &str, code: u8) {
        let policy = self.services.get(&id).map(|s| s.plan.life.restart.when);
        if self.begins_with(id) || matches!(policy, None | Some(Restart::No)) {
            self.fail(id, error, code);
        } else {
            self.restart_later(id, error, code);
        }
    }

    /// Starts a service again after a while, unless it has been tried often enough.
    fn restart_later(&mut self, id: u32, why: &str, code: u8) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let rules = &service.plan.life.restart;
        if service.begun.elapsed() >= rules.window {
            service.restarts = 0;
        }
        if rules.limit > 0 && service.restarts >= rules.limit {
            let error = format!("{why}; given up after {} restarts", service.restarts);
            self.fail(id, &error, code.max(1));
            return;
        }
        let wait = rules.wait(service.restarts);
        service.restarts += 1;
        service.restarts_in_all = service.restarts_in_all.saturating_add(1);
        service.enter(State::Restarting);
        let name = service.plan.name.clone();
        self.timers.set_in(id, Timer::Restart, wait);
        let detail = format!("{why}; starts again in {}", in_words(wait));
        self.outputs.say(&format!("{name}: {detail}"));
        self.outputs.remark(id, &detail);
        self.emit(&Event::new(Kind::Restarting, &name).code(code).detail(detail));
        self.wake_dependents(id);
    }

    /// A service that cannot go on. One that never began takes the `up` with it: nothing half-started is left.
    pub(super) fn fail(&mut self, id: u32, error: &str, code: u8) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let name = service.plan.name.clone();
        tracing::debug!(service = name, error, "failed");
        service.wanted = false;
        service.enter(State::Failed {
            error: error.to_owned(),
        });
        self.timers.cancel_all(id);
        self.release(id);
        self.unwell = true;
        self.outputs.say(&format!("error: service `{name}`: {error}"));
        self.outputs.remark(id, &format!("error: {error}"));
        self.emit(&Event::new(Kind::Failed, &name).code(code).detail(error));
        let ends_all = self.begins_with(id) && self.stopping.is_none();
        if ends_all && self.failure.is_none() {
            self.failure = Some(code);
        }
        self.settle_start(id, Err((error, code)));
        self.settle_end(id);
        if ends_all {
            self.stop(None);
        }
        self.wake_dependents(id);
    }

    /// Ends a service, and then does as `after` says. `timeout` in place of its own, if there is one. Whoever waits for
    /// what an earlier order said is told that it is overtaken.
    pub(super) fn end(&mut self, id: u32, after: After, timeout: Option<Duration>) {
        self.unlisten(id);
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        // What the manifest has no more does not come back because somebody restarts all.
        let after = if service.after == After::Gone {
            After::Gone
        } else {
            after
        };
        service.after = after;
        let earlier = service.stop_within;
        service.stop_within = timeout.or(earlier);
        service.wanted = after == After::Again;
        if self.stopping.is_none() {
            self.overtake(id, after);
        }
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if service.running.is_none() {
            self.timers.cancel_all(id);
            self.finish(id, after, false);
        } else if service.state == State::Stopping {
            // It has been told. No further order gives it more time, but one may give it less.
            if let Some(within) = timeout.or(earlier.map(|_| service.plan.life.stop_timeout)) {
                self.timers.bring_forward(id, Timer::Stop, within);
            }
        } else if service.held {
            // None of it is the service's own yet, so there is nothing to ask to end.
            let _ = service.running.as_ref().map(|running| running.signal(Signal::KILL));
            service.enter(State::Stopping);
        } else {
            self.doomed.insert(id);
        }
    }

    /// Has a service start again, as the manifest has it by now. One that runs ends first; one that does not waits for its
    /// turn, which [`App::consider`] gives it when all that are meant have got so far: what depends on another is not to
    /// find it as it was before.
    pub(super) fn begin_anew(&mut self, id: u32, timeout: Option<Duration>) {
        let Some(service) = self.services.get(&id) else { return };
        if service.running.is_some() {
            self.end(id, After::Again, timeout);
            return;
        }
        self.unlisten(id);
        self.timers.cancel_all(id);
        self.queue.retain(|queued| *queued != id);
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.wanted = true;
        service.demanded = false;
        service.restarts = 0;
        service.after = After::Policy;
        service.enter(State::Waiting);
        self.take_next(id);
    }

    /// What the manifest has made of a service since it was started.
    fn take_next(&mut self, id: u32) {
        if let Some(service) = self.services.get_mut(&id)
            && let Some(next) = service.next.take()
        {
            service.plan = next;
            self.index();
        }
    }

    /// Tells those to end of whom nobody depends any more that is to end as well, in the reverse order of starting.
    pub(super) fn stop_next(&mut self) {
        if self.doomed.is_empty() {
            return;
        }
        let ends = |id: &u32| {
            let of = self.services.get(id);
            of.is_some_and(|s| s.running.is_some() && (self.doomed.contains(id) || s.after != After::Policy))
        };
        let free: Vec<u32> = self
            .doomed
            .iter()
            .copied()
            .filter(|id| !self.dependents.get(id).is_some_and(|d| d.iter().any(ends)))
            .collect();
        for id in free.into_iter().rev() {
            self.doomed.remove(&id);
            let Some(service) = self.services.get(&id) else {
                continue;
            };
            let signal = Signal::from_named_raw(service.plan.life.stop_signal.into()).unwrap_or(Signal::TERM);
            let within = service.stop_within.unwrap_or(service.plan.life.stop_timeout);
            self.signal_to_end(id, signal, within);
        }
    }

    fn signal_to_end(&mut self, id: u32, signal: Signal, within: Duration) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let Some(running) = &service.running else { return };
        let _ = running.signal(signal);
        // A stopped process would not see it before it is killed.
        let _ = running.signal(Signal::CONT);
        service.enter(State::Stopping);
        self.timers.cancel_all(id);
        self.timers.set_in(id, Timer::Stop, within);
    }

    /// Ends a service that does not do as it should; what follows is up to its restart policy.
    fn fault(&mut self, id: u32, why: &str) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if service.running.is_none() || service.state == State::Stopping {
            return;
        }
        service.fault = Some(why.to_owned());
        let within = service.plan.life.stop_timeout;
        let signal = Signal::from_named_raw(service.plan.life.stop_signal.into()).unwrap_or(Signal::TERM);
        self.signal_to_end(id, signal, within);
    }

    /// A service whose way to the network is gone is not left without it.
    pub(super) fn network_said(&mut self, id: u32) {
        let Some(error) = self.networks.heard(id) else { return };
        if let Some(service) = self.services.get_mut(&id)
            && let Some(running) = service.running.as_ref().filter(|r| !r.has_ended())
        {
            let _ = running.signal(Signal::KILL);
            service.fault.get_or_insert(error);
        }
    }

    /// What brings a service its connections says what becomes of them.
    pub(super) fn relay_said(&mut self, id: u32) {
        while let Some((said, parting)) = self.relays.heard(id) {
            match said {
                Notice::NoneAccepted if !parting => self.advise(id),
                Notice::Accepted if !parting => {
                    if let Some(service) = self.services.get_mut(&id) {
                        (service.accepts, service.advice) = (true, None);
                    }
                }
                Notice::RelayEnded if !parting => return self.relay_ended(id),
                Notice::NoneAccepted => {}
                said => self.judge(id, said == Notice::EndedUnaccepted),
            }
        }
    }

    /// Clients wait, and nobody takes their connections: most likely the program has opened a port of its own.
    fn advise(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let (name, plan) = (service.plan.name.clone(), &service.plan);
        let addresses: Vec<String> = plan.listen.iter().map(ToString::to_string).collect();
        let advice = format!(
            "no connection to {} was taken in {}: its program has to serve on the socket that it is handed (LISTEN_FDS; \
             `--fd 3` of uvicorn), or, if it opens a port of its own, be granted `publish` in place of `listen`",
            addresses.join(", "),
            in_words(ACCEPT_PATIENCE)
        );
        service.advice = Some(advice.clone());
        self.outputs.say(&format!("{name}: {advice}"));
        self.outputs.remark(id, &advice);
    }

    /// What brings a service its connections is gone: it is not left as if there were none.
    fn relay_ended(&mut self, id: u32) {
        if self.relays.end(id)
            && let Some(service) = self.services.get_mut(&id)
            && let Some(running) = service.running.as_ref().filter(|r| !r.has_ended())
        {
            let _ = running.signal(Signal::KILL);
            let error = "the process that brings it the connections of `listen` ended";
            service.fault.get_or_insert_with(|| error.to_owned());
        }
    }

    /// The app's network said something: if its way out is gone, those that were granted it are not left without.
    pub(super) fn app_network_said(&mut self) {
        let Some(error) = self.networks.app_heard() else { return };
        for service in self
            .services
            .values_mut()
            .filter(|s| self.networks.lacks_way_out(&s.plan))
        {
            if let Some(running) = &service.running {
                let _ = running.signal(Signal::KILL);
                service.fault.get_or_insert_with(|| error.clone());
            }
        }
    }

    /// A service that was told to end has, or had nothing to end.
    fn finish(&mut self, id: u32, after: After, ended: bool) {
        self.doomed.remove(&id);
        self.queue.retain(|queued| *queued != id);
        let stopping = self.stopping.is_some();
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        let name = service.plan.name.clone();
        service.after = After::Policy;
        service.stop_within = None;
        self.take_next(id);
        if ended {
            self.emit(&Event::new(Kind::Stopped, &name));
        }
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match after {
            After::Again if !stopping => {
                self.want(id);
            }
            After::Gone => {
                service.enter(State::Stopped);
                self.settle_end(id);
                self.services.remove(&id);
                self.relays.forget(id);
                self.outputs.remove(id);
                self.by_name.retain(|_, of| *of != id);
                self.order.retain(|of| *of != id);
                self.index();
                self.emit(&Event::new(Kind::Removed, &name));
            }
            _ => {
                // How it ended by itself stays on show.
                if !service.state.over() || service.state == State::Stopped {
                    service.enter(State::Stopped);
                }
                self.settle_end(id);
                if !stopping {
                    self.wake_dependents(id);
                }
            }
        }
    }

    /// Ends the app. Who asks for it again may have less patience than who did first.
    pub(super) fn stop(&mut self, timeout: Option<Duration>) {
        if self.stopping.is_some() {
            if let Some(timeout) = timeout {
                self.hurry(timeout);
            }
            return;
        }
        self.stopping = Some(Instant::now());
        self.leaving();
        self.queue.clear();
        let all: Vec<u32> = self.services.keys().copied().collect();
        for id in all {
            self.end(id, After::Rest, timeout);
        }
    }

    /// None of those that are ending takes longer than this from now.
    fn hurry(&mut self, timeout: Duration) {
        let until = Instant::now().checked_add(timeout);
        for (id, service) in self.services.iter_mut().filter(|(_, s)| s.running.is_some()) {
            service.stop_within = Some(service.stop_within.map_or(timeout, |before| before.min(timeout)));
            if let (Some(at), Some(until)) = (self.timers.at(*id, Timer::Stop), until)
                && until < at
            {
                self.timers.set(*id, Timer::Stop, until);
            }
        }
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.doomed.clear();
        for service in self.services.values() {
            if let Some(running) = &service.running {
                let _ = running.signal(Signal::KILL);
            }
        }
    }

    pub(super) fn fired(&mut self, id: u32, timer: Timer) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        match timer {
            Timer::Start => {
                let mut why = format!("was not ready within {}", in_words(service.plan.life.start_timeout));
                if let Ready::Probe(_) = service.plan.life.ready {
                    let said = service.complaint.as_deref().unwrap_or("not answered yet");
                    why = format!("{why}; its probe: {said}");
                }
                self.fault(id, &why);
            }
            Timer::Stop => {
                // PID 1 takes all of the namespace with it.
                if let Some(running) = &service.running {
                    tracing::debug!(service = service.plan.name, "did not end in time, and is killed");
                    let _ = running.signal(Signal::KILL);
                }
            }
            Timer::Restart => {
                service.enter(State::Waiting);
                self.consider(id);
            }
            Timer::Ask => self.ask(id),
            Timer::Watchdog => {
                let time = service.plan.life.watchdog.unwrap_or_default();
                let why = format!("sent no WATCHDOG=1 for {}", in_words(time));
                self.fault(id, &why);
            }
        }
    }

    /// The probe that a service is asked by now.
    fn probe(&self, id: u32) -> Option<&Probe> {
        let service = self.services.get(&id)?;
        match (&service.state, &service.plan.life.ready) {
            (State::Starting, Ready::Probe(probe)) => Some(probe),
            (State::Running, _) => service.plan.life.health.as_ref(),
            _ => None,
        }
    }

    fn ask(&mut self, id: u32) {
        let Some(probe) = self.probe(id).cloned() else { return };
        let Some(service) = self.services.get(&id) else { return };
        let Some(init) = service.running.as_ref().map(|r| r.pid) else {
            return;
        };
        if service.asking.is_some() {
            return;
        }
        let spec = compile::compile(&self.plan, &service.plan, &self.plan.dirs.bundle(&service.plan.name));
        let asked = spec.map_err(|e| e.to_string()).and_then(|bundle| {
            let (null, owner) = (self.null.as_fd(), super::net::sockets::ids(&service.plan.identity));
            let asked = self
                .launcher
                .ask(init, &bundle.spec, null, &probe.question, probe.timeout, owner);
            asked.map_err(|e| e.to_string())
        });
        match asked {
            Ok(asking) => {
                self.by_pid
                    .insert(asking.helper.as_raw_nonzero().get(), Child::Probe(id));
                if let Some(service) = self.services.get_mut(&id) {
                    service.asking = Some(asking);
                }
            }
            Err(e) => {
                tracing::warn!(id, "ask a service how it is: {e}");
                self.told(id, Err(e));
            }
        }
    }

    /// The helper of a probe has ended.
    pub(super) fn answered(&mut self, id: u32, helper: Pid, code: Option<i32>) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if let Some(asking) = service.asking.take_if(|asking| asking.helper == helper) {
            let answer = match code {
                Some(code) if code == i32::from(YES) => Ok(()),
                _ => Err(match super::logs::console::shown(&asking.words()) {
                    nothing if nothing.is_empty() => "it ended without an answer".to_owned(),
                    words => words,
                }),
            };
            self.told(id, answer);
        }
    }

    fn told(&mut self, id: u32, answer: Result<(), String>) {
        let well = answer.is_ok();
        let Some(probe) = self.probe(id) else { return };
        let (interval, retries) = (probe.interval, probe.retries);
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        service.complaint = answer.err();
        if service.state == State::Starting {
            if well {
                service.failures = 0;
                self.become_ready(id);
            } else {
                let wait = interval.min(FIRST_ASKED * (1 << service.failures.min(10)));
                service.failures = service.failures.saturating_add(1);
                self.timers.set_in(id, Timer::Ask, wait);
            }
            return;
        }
        let before = service.healthy;
        service.failures = if well { 0 } else { service.failures.saturating_add(1) };
        if well {
            service.healthy = Some(true);
        } else if service.failures >= retries {
            service.healthy = Some(false);
        }
        let said = service.complaint.clone().unwrap_or_default();
        let (now, failures) = (service.healthy, service.failures);
        let (name, policy) = (service.plan.name.clone(), service.plan.life.restart.when);
        self.timers.set_in(id, Timer::Ask, interval);
        if now == before {
            return;
        }
        match now {
            Some(true) => self.emit(&Event::new(Kind::Healthy, &name)),
            _ => {
                let why = format!("unhealthy: its probe failed {failures} times in a row: {said}");
                self.emit(&Event::new(Kind::Unhealthy, &name).detail(why.clone()));
                if policy != Restart::No {
                    self.fault(id, &why);
                } else {
                    self.outputs.say(&format!("{name}: {why}"));
                    self.outputs.remark(id, &why);
                }
            }
        }
    }

    /// A service speaks of itself.
    pub(super) fn notified(&mut self, id: u32) {
        for _ in 0..MOST_MESSAGES {
            let Some(service) = self.services.get_mut(&id) else {
                return;
            };
            let Some((said, handed)) = service.notify.as_ref().and_then(notify::hear) else {
                return;
            };
            if let Some((page, sender)) = handed {
                self.take_figures(id, page, sender);
            }
            let Some(service) = self.services.get_mut(&id) else {
                return;
            };
            if let Some(status) = said.status {
                service.says = Some(status);
            }
            if said.reloading {
                service.reloading = true;
                let name = service.plan.name.clone();
                self.emit(&Event::new(Kind::Reloading, &name));
            }
            if said.ready {
                self.ready_said(id);
            }
            if let Some(usec) = said.extend_usec {
                self.extend(id, Duration::from_micros(usec));
            }
            let watched = self.services.get(&id).and_then(|s| s.plan.life.watchdog);
            match (said.watchdog, watched) {
                (Some(Watchdog::Alive), Some(time))
                    if self.services.get(&id).is_some_and(|s| s.state == State::Running) =>
                {
                    self.timers.set_in(id, Timer::Watchdog, time);
                }
                (Some(Watchdog::Trigger), Some(_)) => self.fault(id, "asked for it by WATCHDOG=trigger"),
                _ => {}
            }
        }
    }

    /// A process of a service hands over where it counts calls. Of one that nobody may call there is nothing to count.
    fn take_figures(&mut self, id: u32, page: OwnedFd, process: i32) {
        let others = self.services.iter().filter(|(other, _)| **other != id);
        let held: usize = others.map(|(_, s)| s.figures.pages()).sum();
        let room = self.spare_descriptors.saturating_sub(held);
        if let Some(service) = self.services.get_mut(&id).filter(|s| !s.plan.callers.is_empty()) {
            service.figures.take(&service.plan.name, page, process, room);
        }
    }

    fn ready_said(&mut self, id: u32) {
        let Some(service) = self.services.get_mut(&id) else {
            return;
        };
        if std::mem::take(&mut service.reloading) {
            let name = service.plan.name.clone();
            self.emit(&Event::new(Kind::Ready, &name));
        }
        let of = self.services.get(&id);
        if of.is_some_and(|s| s.state == State::Starting && s.plan.life.ready == Ready::Notify) {
            self.become_ready(id);
        }
    }

    /// `EXTEND_TIMEOUT_USEC`: at least so long from now for what it is doing; sd_notify(3). Others wait for that, so there is
    /// a bound, which a service cannot move; and whoever said how long it may take to end is taken at their word.
    fn extend(&mut self, id: u32, time: Duration) {
        let Some(service) = self.services.get(&id) else { return };
        let life = &service.plan.life;
        let (timer, longest) = match service.state {
            State::Starting => (Timer::Start, life.start_timeout.saturating_mul(LONGEST_START)),
            State::Stopping if service.stop_within.is_none() => {
                (Timer::Stop, life.stop_timeout.saturating_mul(LONGEST_END))
            }
            _ => return,
        };
        let until = time.min(longest.saturating_sub(service.since.elapsed()));
        if let Some(until) = Instant::now().checked_add(until)
            && self.timers.at(id, timer).is_some_and(|at| at < until)
        {
            self.timers.set(id, timer, until);
        }
    }

    pub(super) fn denied(&mut self, what: &str) {
        self.emit(&Event::new(Kind::Denied, "").detail(what));
    }
}

/// A time as people say it.
pub(super) fn in_words(time: Duration) -> String {
    if time < Duration::from_secs(1) {
        format!("{}ms", time.as_millis())
    } else if time.subsec_millis() == 0 {
        format!("{}s", time.as_secs())
    } else {
        format!("{:.1}s", time.as_secs_f64())
    }
}

/// Does a service in this state fulfil what another waits for?
fn has_come(condition: &Condition, state: &State, program_runs: bool) -> bool {
    match condition {
        Condition::Started => program_runs || matches!(state, State::Listening | State::Exited { .. }),
        Condition::Ready => matches!(state, State::Running | State::Listening),
        Condition::Completed => *state == State::Exited { code: 0 },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_comes_in_no_other_state() {
        let of = |condition: Condition| {
            let states = [
                State::Waiting,
                State::Starting,
                State::Running,
                State::Listening,
                State::Stopping,
                State::Stopped,
                State::Exited { code: 0 },
                State::Exited { code: 1 },
                State::Exited { code: 143 },
            ];
            states.map(|state| u8::from(has_come(&condition, &state, false)))
        };
        assert_eq!(of(Condition::Started), [0, 0, 0, 1, 0, 0, 1, 1, 1]);
        assert_eq!(of(Condition::Ready), [0, 0, 1, 1, 0, 0, 0, 0, 0]);
        assert_eq!(of(Condition::Completed), [0, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert!(has_come(&Condition::Started, &State::Starting, true));
        assert!(!has_come(&Condition::Ready, &State::Starting, true));
    }
}
