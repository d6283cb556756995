//! Carries out what the rules of services' lives ([`super::machine`]) say is to be done, and tells them what has happened.
//!
//! Nothing here decides. What an effect comes to is fed back when all effects of its step are carried out.

use super::app::{App, Child};
use super::control::fingerprint::of_sources;
use super::error::{SuperviseError, system};
use super::ids::{EpollToken, ServiceId, WatchId};
use super::limits;
use super::logs::syslog;
use super::machine::{Effect, Ending, Exit, Input};
use super::net::network::Networks;
use super::net::notify;
use super::net::sockets::Waiting;
use super::process::Process;
use super::protocol::Progress;
use super::stats::events::Event;
use crate::bundle::Bundle;
use crate::compile;
use crate::host::Privilege;
use crate::jail::store::Store;
use crate::launch::ask::YES;
use crate::launch::relay::Notice;
use crate::launch::{Descriptors, LaunchError, Running, program};
use crate::packages;
use crate::plan::{self, Keeping, Mount};
use crate::values::Start;
use nix::sys::epoll::EpollFlags;
use rustix::process::{Pid, Signal};
use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Instant;

/// Messages of one service that are read in one turn of the loop: one that never stops speaking holds up nobody.
const MOST_MESSAGES: usize = 64;

/// So many services are named of those that somebody waits for.
const NAMED: usize = 3;

impl App {
    /// Tells the machine what has happened, and does what follows.
    pub(super) fn feed(&mut self, input: Input) {
        let effects = self.machine.step(Instant::now(), input);
        self.carry_out(effects);
    }

    /// Does what is to be done, in order, and then what follows from what that came to.
    pub(super) fn carry_out(&mut self, mut effects: Vec<Effect>) {
        let mut inputs = VecDeque::new();
        loop {
            for effect in effects {
                inputs.extend(self.perform(effect));
            }
            let Some(input) = inputs.pop_front() else { return };
            effects = self.machine.step(Instant::now(), input);
        }
    }

    /// Does one thing; what it came to, where the rules go by that.
    fn perform(&mut self, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Launch { service, hold } => return self.launch(service, hold),
            Effect::LetGo(service) => return self.let_go(service),
            Effect::Ask(service) => return self.ask(service),
            Effect::Listen(service) => return self.listen(service),
            Effect::Unlisten(service) => self.unlisten(service),
            Effect::Signal(service, signal) => {
                // If it is gone, that is told by its end.
                if let Some(process) = self.processes.get(&service) {
                    let _ = process.running.signal(signal);
                }
            }
            Effect::Release(service) => self.release(service),
            Effect::Forget(service) => {
                self.relays.forget(service);
                self.outputs.remove(service);
                self.figures.remove(&service);
            }
            Effect::Emit {
                kind,
                service,
                code,
                detail,
            } => {
                tracing::debug!(service, event = kind.word(), detail);
                let event = Event::new(kind, &service);
                self.emit(&Event { code, detail, ..event });
            }
            Effect::Say(line) => self.outputs.say(&line),
            Effect::Remark(service, text) => self.outputs.remark(service, &text),
            Effect::Tell(watch, progress) => self.tell(watch, &progress),
            Effect::Done(watch) => {
                if watch == WatchId::FIRST {
                    self.manager.ready();
                }
                self.tell(watch, &Progress::Done);
                self.sinks.remove(&watch);
                self.waits.end(watch);
            }
            Effect::Stopping => self.manager.stopping(),
        }
        None
    }

    /// Tells those that wait for services to begin, and have for a while, for which.
    pub(super) fn tell_waits(&mut self, now: Instant) {
        for watch in self.waits.due(now) {
            let awaited = self.machine.awaited_by(watch);
            let named = awaited.iter().take(NAMED).map(|(name, what)| format!("{name}: {what}"));
            let mut text = named.collect::<Vec<String>>().join("; ");
            if awaited.len() > NAMED {
                text += &format!("; and {} more", awaited.len() - NAMED);
            }
            if text.is_empty() || !self.waits.is_news(watch, &text) {
                continue;
            }
            if watch == WatchId::FIRST {
                // There is a console only if this is attached to one.
                self.outputs.say(&format!("waiting for {text}"));
            }
            self.tell(watch, &Progress::Waiting { text });
        }
    }

    /// What is started of a service.
    fn unit(&self, id: ServiceId) -> Option<Rc<plan::Unit>> {
        self.machine.service(id).map(|s| Rc::clone(s.definition.unit()))
    }

    /// Watches the service's sockets until something connects.
    fn listen(&mut self, id: ServiceId) -> Option<Input> {
        let unit = self.unit(id)?;
        let how = self.sockets.reclaim(&self.plan.dirs, &unit);
        if how.is_ok() {
            let sockets = self.sockets.of(&unit).into_iter().map(|(socket, _)| socket);
            for socket in sockets.chain(self.relays.left(id)) {
                let event = EpollToken::Demand(id).event(EpollFlags::EPOLLIN);
                if let Err(e) = self.epoll.add(socket, event) {
                    tracing::warn!(service = unit.name, "watch a socket: {e}");
                }
            }
        }
        let how = how.map_err(|e| e.to_string());
        Some(Input::Listens { service: id, how })
    }

    fn unlisten(&mut self, id: ServiceId) {
        let Some(unit) = self.unit(id) else { return };
        let sockets = self.sockets.of(&unit).into_iter().map(|(socket, _)| socket);
        for socket in sockets.chain(self.relays.left(id)) {
            let _ = self.epoll.delete(socket);
        }
    }

    fn release(&mut self, id: ServiceId) {
        if let Some(unit) = self.unit(id) {
            self.sockets.release(&unit);
            self.networks.release(&unit);
        }
        self.relays.forget(id);
    }

    /// Connects the app's network to the outside again, if it was and no longer is.
    fn restore_way_out(&mut self, unit: &plan::Unit) -> Result<(), SuperviseError> {
        if self.networks.lacks_way_out(unit) {
            let units = self.machine.services().map(|(_, s)| s.definition.unit().as_ref());
            let prepared = self.networks.prepare(&self.plan.privilege, units, &mut self.launcher)?;
            self.networks.take_on(prepared);
            self.watch_app_network()?;
        }
        Ok(())
    }

    /// Makes what a service needs on disk once more, if it was deleted while the app is up: its jail, its copy of that, the
    /// folders of its resources, which are as when they are made; and the Python packages, which are this process's own version.
    fn restore(&self, service: &plan::Unit) -> Result<(), SuperviseError> {
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
        if packages::seen_by(&service.environment) {
            let wrong = |e| LaunchError::system_text("unpack the Python packages for", &service.name, e);
            // All services wait for the supervisor, which so must wait for no other process.
            packages::try_unpack(&self.plan.dirs.state).map_err(wrong)?;
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

    /// Starts the process of a service. `hold`: all but the program.
    fn launch(&mut self, id: ServiceId, hold: bool) -> Option<Input> {
        let unit = self.unit(id)?;
        let error = match self.start_process(id, &unit, hold) {
            Ok(trouble) => return Some(Input::Launched { service: id, trouble }),
            Err(error) => error,
        };
        self.relays.end(id);
        self.networks.end(id);
        let code = match &error {
            SuperviseError::Launch(error) => error.exit_code(),
            _ => 1,
        };
        let error = error.to_string();
        Some(Input::LaunchFailed {
            service: id,
            error,
            code,
        })
    }

    /// With an error nothing runs. What comes back is why that which runs cannot be supervised, if so.
    fn start_process(
        &mut self,
        id: ServiceId,
        unit: &plan::Unit,
        hold: bool,
    ) -> Result<Option<String>, SuperviseError> {
        self.restore_way_out(unit)?;
        self.restore(unit)?;
        let hidden = plan::hide_again(unit)?;
        let planned = &self.overlaps.restrict(&hidden)?;
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
        let waited = self.waiting(id, planned);
        // Before they are opened: what is put in their place meanwhile is noticed.
        let sources = of_sources(planned, &self.plan.dirs.app);
        let running = self.clone_process(id, planned, &bundle, hold)?;
        if let Err(error) = self.accompany(id, planned, &running, hold) {
            running.abort();
            return Err(error);
        }
        // From here on what was started is on record, so that whatever fails now it will be ended and reaped.
        let mut process = Process::new(running, notify);
        process.waited = waited;
        process.sources = Some(sources);
        self.by_pid.insert(process.pid() as i32, Child::Service(id));
        let watched = self.watch_process(id, &process);
        self.processes.insert(id, process);
        Ok(watched.err().map(|error| error.to_string()))
    }

    /// The process itself, with the sockets and pipes that it is handed.
    fn clone_process(
        &mut self,
        id: ServiceId,
        planned: &plan::Unit,
        bundle: &Bundle,
        hold: bool,
    ) -> Result<Running, SuperviseError> {
        self.outputs.hold(id, &self.plan.app, &self.plan.dirs, planned)?;
        let messages = syslog::bind(&self.plan.dirs, planned)?;
        let [out_write, err_write] = self.outputs.begin(id, messages)?;
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
        let request = Descriptors {
            sockets: &sockets,
            network: self.networks.shared(planned),
            hold: hold || Networks::holds(planned),
            ..Descriptors::of([self.null.as_fd(), out_write.as_fd(), err_write.as_fd()])
        };
        tracing::debug!(service = planned.name, sockets = sockets.len(), "starting");
        let running = self.launcher.launch(bundle, &request)?;
        if let Some(claim) = &self.claim {
            claim.runs(id.number(), running.pid.as_raw_nonzero().get());
        }
        Ok(running)
    }

    /// What a process needs beside it: its companion, and its relay.
    fn accompany(
        &mut self,
        id: ServiceId,
        planned: &plan::Unit,
        running: &Running,
        hold: bool,
    ) -> Result<(), SuperviseError> {
        if let Some(words) = self.networks.accompany(id, planned, running, &mut self.launcher)? {
            let event = EpollToken::Network(id).event(EpollFlags::EPOLLIN);
            self.epoll.add(words, event).map_err(system("watch a descriptor"))?;
        }
        if !hold {
            self.relays.begin(id, running)?;
        }
        match self.relays.control(id) {
            Some(control) => self.watch(control, EpollToken::Relay(id)),
            None => Ok(()),
        }
    }

    fn watch_process(&self, id: ServiceId, process: &Process) -> Result<(), SuperviseError> {
        let reports = &process.running.reports;
        rustix::io::ioctl_fionbio(reports, true).map_err(system("prepare a report socket"))?;
        self.watch(reports.as_fd(), EpollToken::Reports(id))?;
        match &process.notify {
            Some(socket) => self.watch(socket.as_fd(), EpollToken::Notify(id)),
            None => Ok(()),
        }
    }

    /// Has a process that was made ready run its program.
    fn let_go(&mut self, id: ServiceId) -> Option<Input> {
        let waited = self.waiting(id, &*self.unit(id)?);
        // If it is gone, that is told by its end.
        let process = self.processes.get_mut(&id)?;
        process.waited = waited;
        let begun = self.relays.begin(id, &process.running);
        let _ = process.running.go();
        let why = begun.err()?.to_string();
        Some(Input::Misbehaves { service: id, why })
    }

    /// Who waits for a service on demand: by that it is known, when it has ended, whether it took any.
    fn waiting(&self, id: ServiceId, unit: &plan::Unit) -> Waiting {
        let on_demand = |s: &super::machine::Service| s.policy().start == Start::OnDemand;
        match self.machine.service(id).is_some_and(on_demand) {
            true => self.sockets.waiting(unit),
            false => Waiting::default(),
        }
    }

    /// Its program runs.
    pub(super) fn program_runs(&mut self, id: ServiceId) {
        if let Some(process) = self.processes.get_mut(&id) {
            process.running.settle();
        }
        self.feed(Input::ProgramRuns(id));
    }

    /// A process of a service was waited for: all of the service has ended with it.
    pub(super) fn over(&mut self, id: ServiceId, status: i32) {
        // What it said last may change how its end is read.
        self.notified(id);
        let Some(process) = self.processes.remove(&id) else {
            return;
        };
        let Some(service) = self.machine.service(id) else {
            return;
        };
        let (unit, instance) = (Rc::clone(service.definition.unit()), &service.instance);
        let (held, began) = (instance.held, instance.program_runs);
        let _ = self.epoll.delete(&process.running.reports);
        if let Some(figures) = self.figures.get_mut(&id) {
            figures.end();
        }
        self.networks.end(id);
        let parting = match held {
            true => self.relays.end(id),
            false => self.relays.part(id),
        };
        let callers_wait = began && self.sockets.callers_wait(&unit);
        let accepted = began && self.sockets.accepted(&unit, &process.waited);
        if began {
            self.sockets.renew(&self.plan.dirs, &unit);
        }
        if let Some(asking) = process.asking {
            let _ = rustix::process::kill_process(asking.helper, Signal::KILL);
        }
        let ending = process.ending.unwrap_or(Ending::Exited(status));
        let note = match &ending {
            Ending::Exited(status) => limits::explain(*status, process.running.cgroup(), &unit.limits),
            Ending::Failed { .. } => None,
        };
        // With it goes its cgroup, of which the next one has to be a new one.
        drop(process.running);
        self.feed(Input::Exited {
            service: id,
            exit: Exit {
                ending,
                note,
                callers_wait,
                accepted,
                parting: parting && !held,
            },
        });
    }

    /// A service whose way to the network is gone is not left without it.
    pub(super) fn network_said(&mut self, id: ServiceId) {
        if let Some(why) = self.networks.heard(id) {
            self.cut_off(id, why);
        }
    }

    fn cut_off(&mut self, id: ServiceId, why: String) {
        if self.processes.get(&id).is_some_and(|p| !p.running.has_ended()) {
            self.feed(Input::CutOff { service: id, why });
        }
    }

    /// The app's network said something: if its way out is gone, those that were granted it are not left without.
    pub(super) fn app_network_said(&mut self) {
        let Some(why) = self.networks.app_heard() else { return };
        let lacks = |(id, service): (ServiceId, &super::machine::Service)| {
            self.networks.lacks_way_out(service.definition.unit()).then_some(id)
        };
        let lacking: Vec<ServiceId> = self.machine.services().filter_map(lacks).collect();
        for service in lacking {
            let why = why.clone();
            self.feed(Input::CutOff { service, why });
        }
    }

    /// What brings a service its connections says what becomes of them.
    pub(super) fn relay_said(&mut self, id: ServiceId) {
        while let Some((said, parting)) = self.relays.heard(id) {
            match said {
                Notice::RelayEnded if !parting => return self.relay_ended(id),
                Notice::NoneAccepted if parting => {}
                Notice::NoneAccepted | Notice::Accepted if !parting => self.feed(Input::Accepts {
                    service: id,
                    accepts: said == Notice::Accepted,
                }),
                said => self.feed(Input::Judged {
                    service: id,
                    unaccepted: said == Notice::EndedUnaccepted,
                }),
            }
        }
    }

    /// What brings a service its connections is gone: it is not left as if there were none.
    fn relay_ended(&mut self, id: ServiceId) {
        if self.relays.end(id) {
            let why = "the process that brings it the connections of `listen` ended";
            self.cut_off(id, why.to_owned());
        }
    }

    /// The bundle that the process of a service was started from. Compiling is a pure function of the plan and the unit, and a
    /// unit that has changed is taken on when its process has ended: so it can be made again when it is asked for first, as
    /// long as that is before the plan changes ([`App::keep_bundles`]).
    pub(super) fn bundle_of_process(&self, id: ServiceId) -> Result<Rc<Bundle>, String> {
        let (Some(process), Some(unit)) = (self.processes.get(&id), self.unit(id)) else {
            return Err("it has no process".to_owned());
        };
        if let Some(bundle) = process.bundle.get() {
            return Ok(Rc::clone(bundle));
        }
        let folder = self.plan.dirs.bundle(&unit.name);
        let bundle = compile::compile(&self.plan, &unit, &folder).map_err(|e| e.to_string())?;
        Ok(Rc::clone(process.bundle.get_or_init(|| Rc::new(bundle))))
    }

    /// The error of a start with the reason why the program cannot be run, if it is about that.
    pub(super) fn explained(&self, id: ServiceId, error: LaunchError) -> LaunchError {
        let (Ok(bundle), Some(unit)) = (self.bundle_of_process(id), self.unit(id)) else {
            return error;
        };
        let (folder, kept) = (self.plan.dirs.bundle(&unit.name), self.plan.kept());
        let process = bundle.spec.process().as_ref();
        program::explained(error, &bundle, process, &folder, &kept, self.shows_other_ids())
    }

    /// Are services others than those whose files lie on this host?
    pub(super) fn shows_other_ids(&self) -> bool {
        self.plan.privilege != Privilege::OneId
    }

    fn ask(&mut self, id: ServiceId) -> Option<Input> {
        let answer = match self.try_to_ask(id) {
            Ok(()) => return None,
            Err(why) => Err(why),
        };
        Some(Input::Answered { service: id, answer })
    }

    fn try_to_ask(&mut self, id: ServiceId) -> Result<(), String> {
        let bundle = self.bundle_of_process(id)?;
        let (Some(probe), Some(unit)) = (self.machine.probe(id), self.unit(id)) else {
            return Err("it is asked nothing".to_owned());
        };
        let Some(process) = self.processes.get_mut(&id) else {
            return Err("it has no process".to_owned());
        };
        let (null, owner) = (self.null.as_fd(), super::net::sockets::ids(&unit.identity));
        let init = process.running.pid;
        let asking = self
            .launcher
            .ask(init, &bundle.spec, null, &probe.question, probe.timeout, owner)
            .map_err(|e| e.to_string())
            .inspect_err(|e| tracing::warn!(service = unit.name, "ask a service how it is: {e}"))?;
        self.by_pid
            .insert(asking.helper.as_raw_nonzero().get(), Child::Probe(id));
        process.asking = Some(asking);
        Ok(())
    }

    /// The helper of a probe has ended.
    pub(super) fn answered(&mut self, id: ServiceId, helper: Pid, code: Option<i32>) {
        let Some(process) = self.processes.get_mut(&id) else {
            return;
        };
        if let Some(asking) = process.asking.take_if(|asking| asking.helper == helper) {
            let answer = match code {
                Some(code) if code == i32::from(YES) => Ok(()),
                _ => Err(match super::console::line(&asking.words()) {
                    nothing if nothing.is_empty() => "it ended without an answer".to_owned(),
                    words => words,
                }),
            };
            self.feed(Input::Answered { service: id, answer });
        }
    }

    /// A service speaks of itself.
    pub(super) fn notified(&mut self, id: ServiceId) {
        for _ in 0..MOST_MESSAGES {
            let socket = self.processes.get(&id).and_then(|p| p.notify.as_ref());
            let Some((said, handed)) = socket.and_then(notify::hear) else {
                return;
            };
            if let Some((page, sender)) = handed {
                self.take_figures(id, page, sender);
            }
            self.feed(Input::Said { service: id, said });
        }
    }

    /// A process of a service hands over where it counts calls. Of one that nobody may call there is nothing to count.
    fn take_figures(&mut self, id: ServiceId, page: OwnedFd, process: i32) {
        let Some(unit) = self.unit(id).filter(|unit| !unit.callers.is_empty()) else {
            return;
        };
        let others = self.figures.iter().filter(|(other, _)| **other != id);
        let held: usize = others.map(|(_, figures)| figures.pages()).sum();
        let room = self.spare_descriptors.saturating_sub(held);
        let figures = self.figures.entry(id).or_default();
        figures.take(&unit.name, page, process, room);
    }
}
