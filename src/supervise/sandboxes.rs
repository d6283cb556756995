//! What is known of the processes that make runs in sandboxes, one a sandbox. [`super::pools`] starts them.

use super::control::fingerprint::{self, Fingerprint};
use super::protocol::SandboxStatus;
use crate::model::life::Restarts;
use crate::plan::{self, Plan};
use crate::values::Restart;
use rustix::process::{Pid, Signal, WaitOptions};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where the lock's records of them begin, behind those of all services that an app may have.
const RECORDS: u32 = 1 << 16;
/// How it is tried again: as services are by default, and without end.
const RESTARTS: Restarts = Restarts {
    when: Restart::Always,
    delay: Duration::from_millis(100),
    max_delay: Duration::from_secs(60),
    limit: 0,
    window: Duration::from_secs(600),
};

/// All sandboxes of an app, by name.
#[derive(Default)]
pub(super) struct Sandboxes {
    pub(super) held: BTreeMap<String, Sandbox>,
    /// How many there have been.
    numbers: u32,
}

pub(super) struct Sandbox {
    pub planned: plan::Sandbox,
    /// Its place among the lock's records.
    pub number: u32,
    pub process: Option<Pid>,
    /// When its process began or ended.
    pub since: Instant,
    /// When it is started next, if it is to be.
    pub due: Option<Instant>,
    /// Restarts in a row, and in all.
    in_a_row: u32,
    restarts: u32,
    /// Why its process ended, or could not be started.
    note: Option<String>,
}

impl Sandbox {
    fn new(planned: plan::Sandbox, number: u32, now: Instant) -> Sandbox {
        Sandbox {
            planned,
            number,
            process: None,
            since: now,
            due: Some(now),
            in_a_row: 0,
            restarts: 0,
            note: None,
        }
    }

    /// Ends its process, and waits for it: with it, which is PID 1 of a PID namespace, ends all that runs there, and only then are
    /// the ids of runs free for another.
    pub(super) fn end(&mut self) {
        if let Some(pid) = self.process.take() {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            while let Err(rustix::io::Errno::INTR) = rustix::process::waitpid(Some(pid), WaitOptions::empty()) {}
        }
    }

    /// Its process has ended, or did not come to be: when it is tried again.
    pub(super) fn fail(&mut self, why: String, now: Instant) -> Duration {
        let lasted = now.saturating_duration_since(self.since) >= RESTARTS.window;
        self.in_a_row = if lasted { 0 } else { self.in_a_row };
        let wait = RESTARTS.wait(self.in_a_row);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.restarts = self.restarts.saturating_add(1);
        self.due = Some(now + wait);
        self.since = now;
        self.note = Some(why);
        wait
    }
}

impl Sandboxes {
    pub(super) fn new(planned: Vec<plan::Sandbox>, now: Instant) -> Sandboxes {
        let mut out = Sandboxes::default();
        planned.into_iter().for_each(|planned| out.add(planned, now));
        out
    }

    pub(super) fn add(&mut self, planned: plan::Sandbox, now: Instant) {
        let sandbox = Sandbox::new(planned, RECORDS.saturating_add(self.numbers), now);
        self.numbers = self.numbers.saturating_add(1);
        self.held.insert(sandbox.planned.name.clone(), sandbox);
    }

    /// When there is something to be started.
    pub(super) fn next(&self) -> Option<Instant> {
        self.held.values().filter_map(|s| s.due).min()
    }

    /// Ends all, and what runs in them.
    pub(super) fn close(&mut self) {
        for sandbox in self.held.values_mut() {
            sandbox.end();
        }
        self.held.clear();
    }

    pub(super) fn status(&self, plan: &Plan, now: Instant) -> Vec<SandboxStatus> {
        let of = |sandbox: &Sandbox| SandboxStatus {
            sandbox: sandbox.planned.name.clone(),
            state: match sandbox.process {
                Some(_) => "running",
                None => "restarting",
            }
            .to_owned(),
            pid: sandbox.process.map(|pid| pid.as_raw_nonzero().get() as u32),
            used_by: sandbox.planned.used_by.clone(),
            seconds: now.saturating_duration_since(sandbox.since).as_secs(),
            restarts: sandbox.restarts,
            error: sandbox.note.clone().filter(|_| sandbox.process.is_none()),
            fingerprint: Some(fingerprint_of(&sandbox.planned, plan)),
        };
        self.held.values().map(of).collect()
    }
}

pub(super) fn fingerprint_of(sandbox: &plan::Sandbox, plan: &Plan) -> Fingerprint {
    fingerprint::of_sandbox(sandbox, plan.templates.get(&sandbox.rootfs))
}
