//! What clients may ask for over the control socket, and what becomes of it. Whoever asks is the owner: that was made
//! sure of when the connection was accepted.

use super::disposition::unhandled;
use super::protocol::{AppStatus, Hello, Progress, Reply, Request};
use super::server::{Connection, Heard};
use crate::bundle::Bundle;
use crate::launch::{descendants, join, program};
use crate::plan::Unit;
use crate::supervise::app::{App, Sink};
use crate::supervise::ids::{ConnectionId, ServiceId};
use crate::supervise::machine::{Input, Order};
use crate::supervise::process;
use crate::supervise::stats::metrics;
use crate::supervise::stats::usage::{self, ServiceUsage};
use crate::values::signal_name;
use rustix::process::{Pid, Signal};
use std::cell::OnceCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

impl App {
    /// A client has said something, reads on, or is gone.
    pub(in crate::supervise) fn converse(&mut self, number: ConnectionId) {
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
    fn close(&mut self, number: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.closes = true;
        }
    }

    fn answer(&mut self, number: ConnectionId, reply: Reply) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.reply(&reply);
        }
    }

    fn request(&mut self, number: ConnectionId, request: Request) {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        let done = match request {
            Request::Hello(hello) => self.hello(number, hello),
            Request::Ps => {
                self.answer_status(number);
                Ok(())
            }
            Request::States => {
                let app = Some(self.states());
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
                self.feed(Input::Down {
                    timeout: time(timeout_ms),
                });
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
            Request::Start { services: names } => self.order(Sink::Connection(number), Order::Start { names }),
            Request::Stop {
                services: names,
                timeout_ms,
            } => {
                let timeout = time(timeout_ms);
                self.order(Sink::Connection(number), Order::Stop { names, timeout })
            }
            Request::Restart {
                services: names,
                timeout_ms,
            } => {
                let timeout = time(timeout_ms);
                self.order(Sink::Connection(number), Order::Restart { names, timeout })
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

    pub(in crate::supervise) fn going_down(&self) -> Result<(), String> {
        match self.machine.is_stopping() {
            true => Err(format!("`{}` is going down", self.plan.app)),
            false => Ok(()),
        }
    }

    /// Has an order carried out; `sink` hears how that goes.
    pub(in crate::supervise) fn order(&mut self, sink: Sink, order: Order) -> Result<(), String> {
        self.going_down()?;
        let (watch, effects) = self.machine.order(Instant::now(), order)?;
        self.sinks.insert(watch, sink);
        self.waits.begin(watch, Instant::now());
        self.carry_out(effects);
        Ok(())
    }

    /// Somebody says who they are.
    fn hello(&mut self, number: ConnectionId, hello: Hello) -> Result<(), String> {
        let own = Hello::own();
        let understood = own.understands(&hello);
        let apart = own.apart_from(&hello);
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.client = hello;
        }
        if !understood {
            return Err(apart);
        }
        let hello = Some(own);
        self.answer(
            number,
            Reply {
                hello,
                ..Reply::default()
            },
        );
        Ok(())
    }

    fn answer_status(&mut self, number: ConnectionId) {
        let status = self.status();
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        if connection.client.version == 0 {
            let mut line = serde_json::json!({ "app": status.to_version_0() }).to_string();
            line.push('\n');
            connection.put(line.as_bytes());
        } else {
            let app = Some(status);
            connection.reply(&Reply {
                app,
                ..Reply::default()
            });
        }
    }

    /// Signals services' programs: with this, or with what `reload_signal` says. Of the latter those are left alone that have no handler for
    /// it: most signals end them then.
    fn signal_named(&mut self, number: ConnectionId, names: &[String], signal: Option<u8>) -> Result<(), String> {
        if signal.is_none() {
            // A signal is of use until the end: what takes long to end may be killed.
            self.going_down()?;
        }
        let ids = self.machine.named(names)?;
        for id in ids {
            let Some(service) = self.machine.service(id) else {
                continue;
            };
            let name = service.name().to_owned();
            let number_of = signal.unwrap_or(service.policy().reload_signal);
            let process = self
                .processes
                .get(&id)
                .filter(|_| signal.is_none() && self.reachable(id));
            let settled = match process.and_then(|process| unhandled(process.pid(), number_of)) {
                Some(why) if names.is_empty() => Ok(why),
                Some(why) => Err(why),
                None => self.signal_one(id, number_of).map(|()| match signal {
                    None => format!("sent {}", signal_name(number_of)),
                    Some(_) => service.state.word().to_owned(),
                }),
            };
            let progress = match settled {
                Ok(state) => Progress::Settled { service: name, state },
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

    fn signal_one(&self, id: ServiceId, number: u8) -> Result<(), String> {
        let state = || self.machine.service(id).map_or("gone", |service| service.state.word());
        let running = self.processes.get(&id).map(|process| &process.running);
        match (running, Signal::from_named_raw(number.into())) {
            _ if !self.reachable(id) => Err(format!("is not running ({})", state())),
            (_, None) => Err(format!("{number} is no signal that can be sent")),
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
        }
    }

    fn put_progress(&mut self, number: ConnectionId, progress: &Progress) {
        let mut line = serde_json::to_vec(progress).unwrap_or_default();
        line.push(b'\n');
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.put(&line);
        }
    }

    fn status(&self) -> AppStatus {
        // Taken once a service, so most often there is none to be taken.
        let reader = OnceCell::new();
        let mut status = self.states();
        for (said, (_, service)) in status.services.iter_mut().zip(self.machine.in_order()) {
            let read = |unit: &Unit| reader.get_or_init(|| self.fingerprint_reader()).read(unit);
            said.fingerprints = Some(service.latest().fingerprints(read).clone());
        }
        status
    }

    fn states(&self) -> AppStatus {
        let now = Instant::now();
        let services = self.machine.in_order().map(|(id, service)| {
            let sources = self.processes.get(&id).and_then(|p| p.sources.clone());
            process::status(service, (self.pid_of(id), sources), self.shared_ids, now)
        });
        AppStatus {
            app: self.plan.app.clone(),
            supervisor_pid: std::process::id(),
            denied: self.denied_in_all,
            resources: Some(self.resources.clone()),
            going_down: self.machine.is_stopping(),
            services: services.collect(),
            sandboxes: self.sandboxes.status(&self.plan, now),
        }
    }

    /// PID 1 of a service's namespace. One that was made ready ahead of time is not on show.
    fn pid_of(&self, id: ServiceId) -> Option<u32> {
        let shown = self.machine.service(id).is_some_and(|s| !s.instance.held);
        self.processes.get(&id).filter(|_| shown).map(|process| process.pid())
    }

    fn usage(&mut self) -> Vec<ServiceUsage> {
        let mut all = Vec::new();
        for (id, service) in self.machine.in_order() {
            let mut used = ServiceUsage {
                service: service.name().to_owned(),
                state: service.state.word().to_owned(),
                restarts: service.restarts_in_all,
                functions: self.figures.get_mut(&id).map(|f| f.read()).unwrap_or_default(),
                ..ServiceUsage::default()
            };
            if let Some(pid) = self.pid_of(id) {
                used.seconds = service.instance.begun.elapsed().as_secs();
                usage::add(&mut used, pid);
            }
            if let Some(group) = self.processes.get(&id).and_then(|p| p.running.cgroup()) {
                used.refine(&group.usage());
            }
            all.push(used);
        }
        all
    }

    /// Hands a connection over to a helper, which holds a copy of it; from here on that is the one to speak.
    fn session(
        &mut self,
        number: ConnectionId,
        begin: impl FnOnce(&mut App, &mut Connection) -> Result<(), (u32, String)>,
    ) {
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
        let (init, bundle) = self.joinable(service)?;
        let stdio = [passed[0].as_fd(), passed[1].as_fd(), passed[2].as_fd()];
        let helper = self.launcher.copy(init, &bundle.spec, stdio, copy, &connection.socket);
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
        let (init, bundle) = self.joinable(service)?;
        let mut spec = bundle.spec.clone();
        let chosen = directory.is_some();
        if let Some(process) = spec.process_mut() {
            process.set_args(Some(args));
            let mut all = process.env().clone().unwrap_or_default();
            // What it says to these is the service's own to say.
            all.retain(|v| !v.starts_with("NOTIFY_SOCKET=") && !v.starts_with("WATCHDOG_USEC="));
            // Of two of one name, some programs take the first.
            let named: Vec<&str> = environment.iter().filter_map(|v| v.split('=').next()).collect();
            all.retain(|v| !v.split('=').next().is_some_and(|name| named.contains(&name)));
            all.extend(environment);
            process.set_env(Some(all));
            if let Some(directory) = directory {
                process.set_cwd(directory.into());
            }
        }
        let stdio = [passed[0].as_fd(), passed[1].as_fd(), passed[2].as_fd()];
        let (folder, kept, others) = (self.plan.dirs.bundle(service), self.plan.kept(), self.shows_other_ids());
        let explained = |error| program::explained(error, &bundle, spec.process().as_ref(), &folder, &kept, others);
        let program = join::Program {
            spec: &spec,
            chosen,
            explained: &explained,
        };
        let helper = self.launcher.join(init, &program, stdio, terminal, &connection.socket);
        helper.map(drop).map_err(|e| (e.exit_code().into(), e.to_string()))
    }

    /// PID 1 of a service that something can be done beside, and the service's bundle.
    fn joinable(&self, service: &str) -> Result<(Pid, Rc<Bundle>), (u32, String)> {
        let id = self.machine.named(&[service.to_owned()]).map_err(|e| (125, e))?[0];
        let Some(of) = self.machine.service(id) else {
            return Err((125, format!("`{service}` is gone")));
        };
        let Some(process) = self.processes.get(&id).filter(|_| self.reachable(id)) else {
            let state = of.state.word();
            return Err((
                125,
                format!(
                    "service `{service}` is not running ({state}); `pysecure run {service}` starts a process of its own"
                ),
            ));
        };
        let bundle = self.bundle_of_process(id).map_err(|e| (125, e))?;
        Ok((process.running.pid, bundle))
    }
}

/// The three descriptors that come with a request for a session.
fn passed(connection: &mut Connection) -> Result<[OwnedFd; 3], (u32, String)> {
    std::mem::take(&mut connection.passed)
        .try_into()
        .map_err(|_| (125, "the request came without descriptors".to_owned()))
}
