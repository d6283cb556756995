//! The processes that make runs in sandboxes: started with the app, started again when they end, and ended with it. What they
//! listen on is [`super::net::sockets`]'s and outlasts them, so whoever asks meanwhile only waits.

use super::app::App;
use super::control::fingerprint::Fingerprint;
use super::error::{SuperviseError, system};
use super::limits;
use super::sandboxes::{Sandbox, fingerprint_of};
use crate::jail::store::Store;
use crate::launch::LaunchError;
use crate::packages;
use crate::plan::{self, Plan};
use crate::sandbox::{self, Identities, Limits, Profile, Source, Userdirs};
use crate::sys::{self, SingleThreaded, helper};
use rustix::process::Pid;
use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

impl App {
    /// Starts the processes of sandboxes whose time has come. Of an app that goes down none is started any more.
    pub(super) fn start_sandboxes(&mut self, now: Instant) {
        if self.machine.is_stopping() {
            return;
        }
        let due = |(name, s): (&String, &Sandbox)| s.due.filter(|due| *due <= now).map(|_| name.clone());
        let names: Vec<String> = self.sandboxes.held.iter().filter_map(due).collect();
        for name in names {
            let started = self.start_sandbox(&name);
            let Some(sandbox) = self.sandboxes.held.get_mut(&name) else {
                continue;
            };
            match started {
                Ok(pid) => {
                    (sandbox.process, sandbox.since, sandbox.due) = (Some(pid), now, None);
                }
                Err(error) => {
                    let wait = sandbox.fail(error.to_string(), now);
                    self.tried_again(&name, &error.to_string(), wait);
                }
            }
        }
    }

    fn tried_again(&mut self, name: &str, why: &str, wait: Duration) {
        let wait = super::machine::in_words(wait);
        self.outputs.say(&format!("{name}: {why}; starts again in {wait}"));
    }

    /// Makes what its runs need on disk once more, if it was deleted while the app is up.
    fn restore_sandbox(&self, planned: &plan::Sandbox) -> Result<(), SuperviseError> {
        let template = self.plan.templates.get(&planned.rootfs);
        if let Some(hash) = template.and_then(|t| t.jail.as_ref()) {
            let wrong = |e| LaunchError::system_text("make anew the root of", &planned.name, e);
            Store::new(&self.plan.dirs.state).restore(hash).map_err(wrong)?;
        }
        let wrong = |e| LaunchError::system_text("unpack the Python packages for", &planned.name, e);
        packages::unpack(&self.plan.dirs.state).map_err(wrong)?;
        Ok(())
    }

    fn start_sandbox(&mut self, name: &str) -> Result<Pid, SuperviseError> {
        limits::offer(&self.plan, &mut self.launcher)?;
        let Some(sandbox) = self.sandboxes.held.get(name) else {
            return Err(SuperviseError::System {
                operation: "find a sandbox",
                cause: std::io::ErrorKind::NotFound.into(),
            });
        };
        let planned = &sandbox.planned;
        self.restore_sandbox(planned)?;
        let listeners = self.sockets.of_sandbox(name);
        let listeners = listeners.into_iter().map(|socket| socket.try_clone_to_owned());
        let listeners: Vec<OwnedFd> = listeners
            .collect::<Result<_, _>>()
            .map_err(system("copy the sockets of a sandbox"))?;
        let maker = sandbox::maker().map_err(|error| SuperviseError::System {
            operation: "start the process of a sandbox",
            cause: std::io::Error::other(error.to_string()),
        })?;
        let kept: Vec<i32> = listeners.iter().chain([&maker]).map(AsRawFd::as_raw_fd).collect();
        let alone = SingleThreaded::count().map_err(|threads| SuperviseError::System {
            operation: "start the process of a sandbox",
            cause: std::io::Error::other(format!("this process has {threads} threads")),
        })?;
        let words = |error: &dyn std::fmt::Display| {
            // Its standard error is the app's log, or the terminal of whoever started the app there.
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "{name}: {error}");
        };
        let plan = Plan {
            dirs: self.plan.dirs.clone(),
            ..Plan::without_data(&self.plan.app, &self.plan.privilege, self.plan.templates.clone())
        };
        let launcher = &mut self.launcher;
        let life = || {
            // Ctrl-C is the supervisor's to handle, and its signals are not this process's.
            let _ = rustix::process::setsid();
            sys::reset_signals();
            sys::set_signal_mask(0);
            let served = helper::hide().map_err(|errno| errno.to_string()).and_then(|()| {
                let (ids, source) = (planned.ids.map(identities), (Source::Listeners(listeners), Some(maker)));
                let (profile, userdirs) = (profile(planned), userdirs(planned));
                sandbox::serve(plan, profile, ids, userdirs, source, launcher.take_limits()).map_err(|e| e.to_string())
            });
            match served {
                Ok(()) => 0,
                Err(error) => {
                    words(&error);
                    1
                }
            }
        };
        let keeps = helper::Keeps::These(&kept);
        // Whatever it makes ends with it.
        let namespaces = (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64;
        let pid = helper::start(&alone, namespaces, &keeps, |errno| words(&errno), life)
            .map_err(system("start the process of a sandbox"))?;
        if let Some(claim) = &self.claim {
            claim.runs(sandbox.number, pid.as_raw_nonzero().get());
        }
        Ok(pid)
    }

    /// Did a sandbox's process end? Then it is started again after a while.
    pub(super) fn sandbox_over(&mut self, pid: Pid, status: i32) {
        let mut all = self.sandboxes.held.iter_mut();
        let Some((name, sandbox)) = all.find(|(_, s)| s.process == Some(pid)) else {
            return;
        };
        sandbox.process = None;
        let why = format!("its process ended ({})", super::exit_code(status));
        let (name, wait) = (name.clone(), sandbox.fail(why.clone(), Instant::now()));
        if !self.machine.is_stopping() {
            self.tried_again(&name, &why, wait);
        }
    }

    /// Makes the sandboxes what they are to become. One that stays as it is goes on, with what runs in it. The templates are
    /// those of the new plan already; `before`: what ran was made from these.
    pub(super) fn apply_sandboxes(&mut self, planned: Vec<plan::Sandbox>, before: &BTreeMap<String, Fingerprint>) {
        let now = Instant::now();
        let mut held = std::mem::take(&mut self.sandboxes.held);
        for planned in planned {
            let wanted = fingerprint_of(&planned, &self.plan);
            match held.remove_entry(&planned.name) {
                Some((name, runs)) if before.get(&name) == Some(&wanted) => {
                    self.sandboxes.held.insert(name, runs);
                }
                runs => {
                    if let Some((_, mut runs)) = runs {
                        runs.end();
                    }
                    self.sandboxes.add(planned, now);
                }
            }
        }
        held.values_mut().for_each(Sandbox::end);
    }

    pub(super) fn sandbox_fingerprints(&self) -> BTreeMap<String, Fingerprint> {
        let held = self.sandboxes.held.iter();
        held.map(|(name, s)| (name.clone(), fingerprint_of(&s.planned, &self.plan)))
            .collect()
    }
}

/// What the process of a sandbox is told of it.
fn profile(of: &plan::Sandbox) -> Profile {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
    Profile {
        name: of.name.clone(),
        isolation: of.isolation,
        paths: of.packages.clone(),
        preload: of.preload.clone(),
        ready: of.ready as usize,
        at_once: of.uids as usize,
        rootfs: of.rootfs.clone(),
        limits: Limits {
            wall: seconds(of.limits.wall),
            cpu: seconds(of.limits.cpu),
            session_wall: seconds(of.limits.session_wall),
            session_cpu: seconds(of.limits.session_cpu),
            memory: of.limits.memory,
            processes: of.limits.processes.map(u64::from),
            file_size: of.limits.file_size,
            files: of.limits.files.map(u64::from),
            userdir: of.limits.userdir,
            tmp: of.limits.tmp,
            output: of.limits.output,
        },
        ..Profile::default()
    }
}

fn userdirs(of: &plan::Sandbox) -> Userdirs {
    match &of.userdirs {
        None => Userdirs::None,
        Some(below) => Userdirs::Below {
            shown: below.shown.clone().into(),
            source: below.source.clone(),
            owner: (below.owner.uid, below.owner.gid),
        },
    }
}

fn identities(of: plan::SandboxIds) -> Identities {
    Identities {
        warm: of.warm,
        keeper: of.keeper,
        first: of.first,
        count: of.count,
    }
}
