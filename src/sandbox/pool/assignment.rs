//! Which run has which sandbox, and what is made before anybody asks.

use super::warm::BACK_OFF;
use super::*;

impl Pool {
    /// What is to be made while nobody wants anything.
    pub(super) fn to_prepare(&self) -> Option<Preparation> {
        if !self.over.is_empty() {
            return Some(Preparation::Room);
        }
        let failed = self.unprepared.is_some_and(|until| until > Instant::now());
        let warm = self.warm.as_ref().is_some_and(|warm| warm.ready);
        if failed || !warm || !self.waiting.is_empty() {
            return None;
        }
        let spare = || {
            let all = self.sandboxes.iter();
            all.filter(|(_, s)| s.run.is_none() && s.phase != Phase::Ending)
        };
        let interpreters = spare().filter(|(_, s)| matches!(s.phase, Phase::Joining | Phase::Ready));
        if interpreters.count() < self.profile.ready
            && let Some((number, _)) = spare().find(|(_, s)| s.phase == Phase::Joinable)
        {
            return Some(Preparation::Interpreter(*number));
        }
        // Without namespaces there is nothing to prepare but interpreters.
        let wanted = self.profile.ready + if self.in_place() { 0 } else { PREPARED };
        let lacks = spare().count() < wanted && !self.free.is_empty();
        lacks.then_some(Preparation::Sandbox)
    }

    pub(super) fn prepare(&mut self, what: &Preparation) {
        let done = match what {
            Preparation::Room => {
                self.take_down_one();
                Ok(())
            }
            Preparation::Sandbox => self.start(None),
            Preparation::Interpreter(number) => {
                self.join(*number);
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "prepare a sandbox");
            self.unprepared = Some(Instant::now() + BACK_OFF);
        }
    }

    /// Gives those who wait what there is, first come first served.
    pub(super) fn assign(&mut self) {
        self.revive();
        while let Some((at, run)) = self.next_in_line() {
            let busy = self.runs.values().filter(|run| run.sandbox.is_some()).count();
            if busy >= self.profile.at_once {
                return;
            }
            let common = self
                .runs
                .get(&run)
                .is_some_and(|run| run.asked.command.is_none() && run.asked.readable.is_empty());
            let spare = |phase: fn(&Phase) -> bool| {
                let found = self
                    .sandboxes
                    .iter()
                    .find(|(_, s)| s.run.is_none() && s.common && phase(&s.phase));
                found.map(|(number, _)| *number)
            };
            let there = match common && self.profile.warm {
                true => spare(|p| *p == Phase::Ready)
                    .or_else(|| spare(|p| *p == Phase::Joining))
                    .or_else(|| spare(|p| *p == Phase::Joinable))
                    .or_else(|| spare(|p| *p == Phase::Starting)),
                false => None,
            };
            match there {
                Some(number) => {
                    self.waiting.remove(at);
                    self.take(number, run);
                }
                None if self.free.is_empty() => {
                    // One that waits for anybody makes room for one that is made for somebody.
                    let idle = spare(|p| *p != Phase::Ending).filter(|_| !common);
                    if let (false, Some(number)) = (self.take_down_one(), idle) {
                        self.end(number);
                    }
                    return;
                }
                None => {
                    self.waiting.remove(at);
                    if let Err(error) = self.start(Some(run)) {
                        self.refuse(run, &error.to_string());
                    }
                }
            }
        }
    }

    /// The first one that waits for nothing but a place. Where what is in a directory is given to a run ([`Shown::Given`]), whoever
    /// wants the same directory waits for that run's end.
    fn next_in_line(&self) -> Option<(usize, u32)> {
        let given: Vec<&Path> = match self.plan.privilege {
            Privilege::SubordinateIds => {
                let those = self.runs.values().filter(|run| run.sandbox.is_some());
                those
                    .filter_map(|run| Some(run.userdir.as_ref()?.path.as_path()))
                    .collect()
            }
            Privilege::Root | Privilege::OneId => Vec::new(),
        };
        let is_given = |path: &Path| {
            given
                .iter()
                .any(|given| given.starts_with(path) || path.starts_with(given))
        };
        self.waiting.iter().copied().enumerate().find(|(_, number)| {
            let userdir = self.runs.get(number).and_then(|run| run.userdir.as_ref());
            !userdir.is_some_and(|userdir| is_given(&userdir.path))
        })
    }

    /// A sandbox that is there or on its way becomes this run's.
    pub(super) fn take(&mut self, number: u32, run: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        sandbox.run = Some(run);
        let phase = sandbox.phase;
        if let Some(run) = self.runs.get_mut(&run) {
            run.sandbox = Some(number);
        }
        match phase {
            Phase::Ready => self.open(number),
            Phase::Joinable => self.join_when_warm(number),
            _ => {}
        }
    }

    /// Has a copy of the warm interpreter join, if there is one; else that is done when it is there.
    pub(super) fn join_when_warm(&mut self, number: u32) {
        if self.warm.as_ref().is_some_and(|warm| warm.ready) {
            self.join(number);
        }
    }
}

/// What a pool makes before it is asked for.
pub(super) enum Preparation {
    /// One whose run is over is taken down.
    Room,
    /// A sandbox without an interpreter.
    Sandbox,
    /// The interpreter of this one.
    Interpreter(u32),
}
