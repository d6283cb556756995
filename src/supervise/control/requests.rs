//! What clients may ask for over the control socket, and what becomes of it. Whoever asks is the owner: that was made
//! sure of when the connection was accepted.

use super::protocol::{AppStatus, Progress, Reply, Request};
use super::reconcile::{Prints, is_starting, rests};
use super::server::{Connection, Heard};
use crate::compile;
use crate::launch::{descendants, join};
use crate::supervise::app::{App, Sink, Watch};
use crate::supervise::service::{After, Service, State};
use crate::supervise::stats::metrics;
use crate::supervise::stats::usage::{self, ServiceUsage};
use crate::values::Start;
use oci_spec::runtime::Spec;
use rustix::process::{Pid, Signal};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

impl App {
    /// A client has said something, reads on, or is gone.
    pub(in crate::supervise) fn converse(&mut self, number: u32) {
        self.flush(number);
        // What it has said at once is answered at once: nothing would wake the loop for what was read already.
        while let Some(connection) = self.connections.get_mut(&number).filter(|c| c.is_heard()) {
            let more = match connection.hear() {
                Heard::Nothing => false,
                Heard::Gone => {
                    self.connections.remove(&number);
                    return;
                }
                Heard::Rubbish(why) => {
                    self.answer(number, Reply::error(why));
                    self.close(number);
                    false
                }
                Heard::Scrape(asked) => {
                    let answer = match asked {
                        true => metrics::answer(&self.status(), &self.usage()),
                        false => metrics::refusal(),
                    };
                    if let Some(connection) = self.connections.get_mut(&number) {
                        connection.put(&answer);
                    }
                    self.close(number);
                    false
                }
                Heard::Request(request) => {
                    self.request(number, request);
                    self.flush(number);
                    self.connections.get(&number).is_some_and(Connection::has_more)
                }
            };
            if !more {
                break;
            }
        }
        self.flush(number);
    }

    /// Lets go of a client when it has been sent all.
    fn close(&mut self, number: u32) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.closes = true;
        }
    }

    fn answer(&mut self, number: u32, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.reply(&reply);
        }
    }

    fn request(&mut self, number: u32, request: Request) {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        let done = match request {
            Request::Ps => {
                let app = Some(self.status());
                self.answer(
                    number,
                    Reply {
                        app,
                        ..Reply::default()
                    },
                );
                Ok(())
            }
            Request::Stats => {
                let stats = Some(self.usage());
                self.answer(
                    number,
                    Reply {
                        stats,
                        ..Reply::default()
                    },
                );
                Ok(())
            }
            Request::Down { timeout_ms } => {
                self.stop(time(timeout_ms));
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.waits_for_down = true;
                }
                Ok(())
            }
            Request::Events => {
                if let Some(connection) = self.connections.get_mut(&number) {
                    connection.events = true;
                }
                // So that whoever asked knows that from here on nothing is missed.
                self.answer(number, Reply::default());
                Ok(())
            }
            Request::Apply(apply) => self.apply(*apply, Sink::Connection(number)),
            Request::Start { services } => self.start(number, &services),
            Request::Stop { services, timeout_ms } => self.end_named(number, &services, After::Rest, time(timeout_ms)),
            Request::Restart { services, timeout_ms } => {
                self.end_named(number, &services, After::Again, time(timeout_ms))
            }
            Request::Reload { services } => self.signal_named(number, &services, None),
            Request::Kill { services, signal } => self.signal_named(number, &services, Some(signal)),
            Request::Copy { service, copy } => {
                self.session(number, |app, connection| app.copy(connection, &service, &copy));
                Ok(())
            }
            Request::Exec {
                service,
                args,
                environment,
                directory,
                terminal,
            } => {
                self.session(number, |app, connection| {
                    app.exec(connection, &service, args, environment, directory, terminal)
                });
                Ok(())
            }
        };
        if let Err(error) = done {
            self.answer(number, Reply::error(error));
        }
    }

    /// Services by name, in the manifest's order; none named: all.
    fn named(&self, names: &[String]) -> Result<Vec<u32>, String> {
        if names.is_empty() {
            return Ok(self.order.clone());
        }
        let of = |name: &String| {
            let id = self.by_name.get(name).copied();
            id.ok_or_else(|| format!("no service is called `{name}`; `pysecure ps` lists them"))
        };
        names.iter().map(of).collect()
    }

    /// The same of those that may be started: what is removed has only its end before it.
    fn named_to_run(&self, names: &[String]) -> Result<Vec<u32>, String> {
        let mut ids = self.named(names)?;
        let is_gone = |id: &u32| self.services.get(id).is_some_and(|s| s.after == After::Gone);
        if let Some(service) = ids.iter().find(|id| is_gone(id)).and_then(|id| self.services.get(id))
            && !names.is_empty()
        {
            return Err(format!(
                "`{}` is being removed, as the manifest has it no more; write it there and `pysecure up -d` starts it",
                service.plan.name
            ));
        }
        ids.retain(|id| !is_gone(id));
        Ok(ids)
    }

    fn listens(&self, id: u32) -> bool {
        self.services.get(&id).is_some_and(|s| s.state == State::Listening)
    }

    fn going_down(&self) -> Result<(), String> {
        match self.stopping {
            Some(_) => Err(format!("`{}` is going down", self.plan.app)),
            None => Ok(()),
        }
    }

    fn start(&mut self, number: u32, names: &[String]) -> Result<(), String> {
        self.going_down()?;
        let asked = self.named_to_run(names)?;
        let mut wanted = Vec::new();
        let mut left = asked.clone();
        while let Some(id) = left.pop() {
            if wanted.contains(&id) {
                continue;
            }
            wanted.push(id);
            let depends = self
                .services
                .get(&id)
                .map(|s| s.plan.life.depends_on.as_slice())
                .unwrap_or_default();
            left.extend(depends.iter().filter_map(|(name, _)| self.by_name.get(name)));
        }
        // What others wait for first.
        wanted.reverse();
        let mut watch = Watch::new(Sink::Connection(number));
        let mut fresh = Vec::new();
        for id in wanted {
            let Some(service) = self.services.get(&id) else {
                continue;
            };
            let by_name = asked.contains(&id) && !names.is_empty();
            // By its name it is asked for now, and not when somebody connects or when it has waited long enough.
            let at_once = by_name && matches!(service.state, State::Listening | State::Restarting);
            if rests(service) || at_once {
                watch.await_start(id);
                fresh.push((id, by_name));
            } else if is_starting(service) {
                watch.await_start(id);
            }
        }
        let watch = self.watch_for(watch);
        // All are wanted before the first is looked at, lest it fails for one that is about to be.
        for (id, _) in fresh
            .iter()
            .filter(|(id, _)| !self.listens(*id))
            .copied()
            .collect::<Vec<_>>()
        {
            self.begin_anew(id, None);
        }
        for (id, by_name) in fresh {
            let on_demand = self
                .services
                .get(&id)
                .is_some_and(|s| s.plan.life.start == Start::OnDemand);
            match self.services.get_mut(&id) {
                Some(service) if on_demand && by_name && service.state == State::Listening => self.demanded(id),
                Some(service) if on_demand && by_name => {
                    service.demanded = true;
                    self.consider(id);
                }
                _ => self.consider(id),
            }
        }
        self.check_watch(watch);
        Ok(())
    }

    fn end_named(
        &mut self,
        number: u32,
        names: &[String],
        after: After,
        timeout: Option<Duration>,
    ) -> Result<(), String> {
        self.going_down()?;
        let ids = match after {
            After::Again => self.named_to_run(names)?,
            _ => self.named(names)?,
        };
        let mut watch = Watch::new(Sink::Connection(number));
        for id in &ids {
            match after {
                After::Again => watch.await_start(*id),
                _ => watch.await_end(*id),
            }
        }
        let watch = self.watch_for(watch);
        for id in &ids {
            match after {
                After::Again => self.begin_anew(*id, timeout),
                _ => self.end(*id, after, timeout),
            }
        }
        for id in ids {
            self.consider(id);
        }
        // There may have been none.
        self.check_watch(watch);
        Ok(())
    }

    /// Signals services' programs: with what `reload_signal` says, or with this.
    fn signal_named(&mut self, number: u32, names: &[String], signal: Option<u8>) -> Result<(), String> {
        if signal.is_none() {
            // A signal is of use until the end: what takes long to end may be killed.
            self.going_down()?;
        }
        let ids = self.named(names)?;
        for id in ids {
            let Some(service) = self.services.get(&id) else {
                continue;
            };
            let name = service.plan.name.clone();
            let number_of = signal.unwrap_or(service.plan.life.reload_signal);
            let sent = match (&service.running, Signal::from_named_raw(number_of.into())) {
                _ if !self.reachable(id) => Err(format!("is not running ({})", service.state.word())),
                (_, None) => Err(format!("{number_of} is no signal that can be sent")),
                // PID 1 cannot pass these on, and is not to be stopped itself.
                (Some(running), Some(signal @ Signal::STOP)) => {
                    for pid in descendants::below(running.pid.as_raw_nonzero().get() as u32) {
                        if let Some(pid) = Pid::from_raw(pid as i32) {
                            let _ = rustix::process::kill_process(pid, signal);
                        }
                    }
                    Ok(())
                }
                (Some(running), Some(signal)) => running.signal(signal).map_err(|e| e.to_string()),
                (None, _) => Err("is not running".into()),
            };
            let progress = match sent {
                Ok(()) => Progress::Settled {
                    service: name,
                    state: service.state.word().to_owned(),
                },
                // Of all services, those that do not run are not meant.
                Err(_) if names.is_empty() => continue,
                Err(error) => Progress::Failed {
                    service: name,
                    error,
                    code: 1,
                },
            };
            self.put_progress(number, &progress);
        }
        self.put_progress(number, &Progress::Done);
        Ok(())
    }

    fn put_progress(&mut self, number: u32, progress: &Progress) {
        let mut line = serde_json::to_vec(progress).unwrap_or_default();
        line.push(b'\n');
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.put(&line);
        }
    }

    fn status(&self) -> AppStatus {
        let of = |service: &Service| {
            let planned = service.next.as_ref().unwrap_or(&service.plan);
            service.status(Prints::of(planned, self.plan.templates.get(&planned.rootfs)))
        };
        AppStatus {
            app: self.plan.app.clone(),
            supervisor_pid: std::process::id(),
            denied: self.denied_in_all,
            storage: self.storage,
            going_down: self.stopping.is_some(),
            services: self
                .order
                .iter()
                .filter_map(|id| self.services.get(id))
                .map(of)
                .collect(),
        }
    }

    fn usage(&mut self) -> Vec<ServiceUsage> {
        let mut of = |id: &u32| {
            self.services.get_mut(id).map(|service| {
                let mut used = ServiceUsage {
                    service: service.plan.name.clone(),
                    state: service.state.word().to_owned(),
                    restarts: service.restarts_in_all,
                    functions: service.figures.read(),
                    ..ServiceUsage::default()
                };
                if let Some(pid) = service.pid() {
                    used.seconds = service.begun.elapsed().as_secs();
                    usage::add(&mut used, pid);
                }
                if let Some(group) = service.running.as_ref().and_then(|r| r.cgroup()) {
                    used.refine(&group.usage());
                }
                used
            })
        };
        self.order.iter().filter_map(&mut of).collect()
    }

    /// Hands a connection over to a helper, which holds a copy of it; from here on that is the one to speak.
    fn session(&mut self, number: u32, begin: impl FnOnce(&mut App, &mut Connection) -> Result<(), (u32, String)>) {
        let Some(mut connection) = self.connections.remove(&number) else {
            return;
        };
        let _ = rustix::io::ioctl_fionbio(&connection.socket, false);
        if let Err((code, why)) = begin(self, &mut connection) {
            let bytes = join::encode(join::told::FAILED, code, &why);
            let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
            let _ = rustix::net::send(&connection.socket, &bytes, flags);
        }
    }

    fn copy(&mut self, connection: &mut Connection, service: &str, copy: &join::Copy) -> Result<(), (u32, String)> {
        let passed = passed(connection)?;
        let (init, spec) = self.joinable(service)?;
        let stdio = [passed[0].as_fd(), passed[1].as_fd(), passed[2].as_fd()];
        let helper = self.launcher.copy(init, &spec, stdio, copy, &connection.socket);
        helper.map(drop).map_err(|e| (e.exit_code().into(), e.to_string()))
    }

    fn exec(
        &mut self,
        connection: &mut Connection,
        service: &str,
        args: Vec<String>,
        environment: Vec<String>,
        directory: Option<String>,
        terminal: bool,
    ) -> Result<(), (u32, String)> {
        let passed = passed(connection)?;
        let (init, mut spec) = self.joinable(service)?;
        let chosen = directory.is_some();
        if let Some(process) = spec.process_mut() {
            process.set_args(Some(args));
            let mut all = process.env().clone().unwrap_or_default();
            // What it says to these is the service's own to say.
            all.retain(|v| !v.starts_with("NOTIFY_SOCKET=") && !v.starts_with("WATCHDOG_USEC="));
            all.extend(environment);
            process.set_env(Some(all));
            if let Some(directory) = directory {
                process.set_cwd(directory.into());
            }
        }
        let stdio = [passed[0].as_fd(), passed[1].as_fd(), passed[2].as_fd()];
        let helper = self
            .launcher
            .join(init, &spec, chosen, stdio, terminal, &connection.socket);
        helper.map(drop).map_err(|e| (e.exit_code().into(), e.to_string()))
    }

    /// PID 1 of a service that something can be done beside, and the service's spec.
    fn joinable(&self, service: &str) -> Result<(Pid, Spec), (u32, String)> {
        let id = self.named(&[service.to_owned()]).map_err(|e| (125, e))?[0];
        let Some(of) = self.services.get(&id) else {
            return Err((125, format!("`{service}` is gone")));
        };
        let Some(init) = of.running.as_ref().filter(|_| self.reachable(id)).map(|r| r.pid) else {
            let state = of.state.word();
            return Err((
                125,
                format!(
                    "service `{service}` is not running ({state}); `pysecure run {service}` starts a process of its own"
                ),
            ));
        };
        let folder = self.plan.dirs.bundle(service);
        let bundle = compile::compile(&self.plan, &of.plan, &folder).map_err(|e| (125, e.to_string()))?;
        Ok((init, bundle.spec))
    }
}

/// The three descriptors that come with a request for a session.
fn passed(connection: &mut Connection) -> Result<[OwnedFd; 3], (u32, String)> {
    std::mem::take(&mut connection.passed)
        .try_into()
        .map_err(|_| (125, "the request came without descriptors".to_owned()))
}
