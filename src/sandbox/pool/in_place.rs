//! A pool without namespaces: how its runs are started there, and how they end. All else is as with namespaces.

use super::*;
use crate::sandbox::landlock::{self, Group};

impl Pool {
    pub(super) fn in_place(&self) -> bool {
        self.profile.isolation == Isolation::Landlock
    }

    /// Whoever is orphaned here becomes this process's.
    pub(super) fn prepare_in_place(&mut self) -> Result<(), SandboxError> {
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(SandboxError::system("adopt the processes of runs"))?;
        let template = self.plan.templates.get(&self.profile.rootfs);
        if template.is_some_and(|template| template.jail.is_some()) {
            return Err(SandboxError::refused(format!(
                "jail {:?}: without namespaces there is no root but this one's; leave out `jail`, or `isolation`",
                self.profile.rootfs
            )));
        }
        // That this kernel can do it is known before anybody relies on it.
        self.launcher.ruleset(&[])?;
        Ok(())
    }

    pub(super) fn launch_warm_in_place(&mut self, theirs: &OwnedFd) -> Result<Running, SandboxError> {
        let bundle = landlock::warm(&self.plan, &self.profile)?;
        let sockets = [(theirs.as_fd(), "pool")];
        let with = Descriptors {
            sockets: &sockets,
            ..Descriptors::of([self.null.as_fd(), self.null.as_fd(), rustix::stdio::stderr()])
        };
        Ok(self.launcher.launch_in_place(&bundle, &with, None)?)
    }

    /// The filter of a copy of the warm interpreter.
    pub(super) fn filter_in_place(&mut self) -> Result<Vec<u8>, SandboxError> {
        let bundle = landlock::warm(&self.plan, &self.profile)?;
        Ok(self.launcher.filter(&bundle.spec)?)
    }

    /// A copy of the warm interpreter, for a run or for whoever comes; or what a run without one is.
    pub(super) fn launch_in_place(&mut self, place: u32, run: Option<u32>) -> Result<(), SandboxError> {
        let pending = run.and_then(|run| self.runs.get(&run));
        let copy = self.profile.warm && pending.is_none_or(|run| run.asked.command.is_none());
        let (ours, theirs) = socketpair()?;
        rustix::net::sockopt::set_socket_passcred(&ours, true).map_err(SandboxError::system("ask for credentials"))?;
        let running = match run.filter(|_| !copy) {
            Some(run) => {
                let (home, tmp, of_run) = self.own_directory(run)?;
                let mut allowed = landlock::common(&self.plan, &self.profile);
                allowed.extend(of_run);
                Some(self.execute_in_place(run, &theirs, &home, &tmp, &allowed)?)
            }
            None => None,
        };
        let serial = self.next_serial();
        if let Some(running) = &running {
            self.watch(running.reports.as_fd(), Token::Reports(serial))?;
        }
        self.watch(ours.as_fd(), Token::Inside(serial))?;
        let ruleset = match copy {
            true => Some(self.launcher.ruleset(&landlock::common(&self.plan, &self.profile))?),
            false => None,
        };
        let sandbox = Sandbox {
            phase: if copy { Phase::Joinable } else { Phase::Starting },
            copy,
            running,
            theirs: copy.then_some(theirs),
            ruleset,
            // What a run may read comes with its task.
            common: copy,
            ..Sandbox::new(place, Runner::in_place(), ours, run)
        };
        self.sandboxes.insert(serial, sandbox);
        if let Some(run) = run.and_then(|run| self.runs.get_mut(&run)) {
            run.sandbox = Some(serial);
        }
        if copy && self.warm.as_ref().is_some_and(|warm| warm.ready) {
            self.join(serial);
        }
        Ok(())
    }

    /// Makes a directory for what a run writes, and for its temporary files. Where it begins, that directory, and what it may use that
    /// others may not.
    fn own_directory(&mut self, number: u32) -> Result<(PathBuf, PathBuf, Vec<Allowed>), SandboxError> {
        let serial = self.next_serial();
        let gone = || SandboxError::refused("the run is gone");
        let run = self.runs.get_mut(&number).ok_or_else(gone)?;
        let scratch = match run.scratch.take() {
            // It had another sandbox, which was lost before it had its task.
            Some(scratch) => scratch,
            None => landlock::Scratch::make(&self.plan.dirs.run, serial)?,
        };
        let tmp = scratch.path.clone();
        let home = run.userdir.as_ref().map_or(tmp.clone(), |userdir| userdir.path.clone());
        run.asked
            .environment
            .entry("TMPDIR".into())
            .or_insert_with(|| tmp.display().to_string());
        run.scratch = Some(scratch);
        let of_run = landlock::of_run(&run.asked.readable, &[&home, &tmp]);
        Ok((home, tmp, of_run))
    }

    /// Adds to the rules of a copy what its run may use.
    pub(super) fn add_rules(&mut self, number: u32) -> Result<(), SandboxError> {
        let sandbox = self.sandboxes.get(&number).filter(|sandbox| sandbox.copy);
        let Some(run) = sandbox.and_then(|sandbox| sandbox.run) else {
            return Ok(());
        };
        let (_, _, of_run) = self.own_directory(run)?;
        if let Some(ruleset) = self.sandboxes.get(&number).and_then(|s| s.ruleset.as_ref()) {
            self.launcher.allow(ruleset.as_fd(), &of_run)?;
        }
        Ok(())
    }

    fn execute_in_place(
        &mut self,
        number: u32,
        control: &OwnedFd,
        home: &Path,
        tmp: &Path,
        allowed: &[Allowed],
    ) -> Result<Running, SandboxError> {
        let run = self
            .runs
            .get(&number)
            .ok_or_else(|| SandboxError::refused("the run is gone"))?;
        let null = self.null.as_fd();
        let given = |name: &str| run.fd(name).map_or(null, AsFd::as_fd);
        let (runs, stdio) = match &run.asked.command {
            Some(command) => {
                let environment = &run.asked.environment;
                let stdio = [given("stdin"), given("stdout"), given("stderr")];
                (Runs::Command { command, environment }, stdio)
            }
            None => (Runs::Python, [null, null, given("stderr")]),
        };
        let bundle = landlock::run(&self.plan, &self.profile, &run.limits, &runs, home, tmp)?;
        let sockets = [(control.as_fd(), "pool")];
        let with = Descriptors {
            sockets: if run.asked.command.is_some() { &[] } else { &sockets },
            ..Descriptors::of(stdio)
        };
        Ok(self.launcher.launch_in_place(&bundle, &with, Some(allowed))?)
    }

    /// What a process that confined itself has to be: its maker's id, with no right, under one filter more.
    pub(super) fn expected_in_place(&self) -> Expected {
        let capabilities = rustix::thread::capabilities(None);
        Expected {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
            no_groups: false,
            no_bounding: capabilities.is_ok_and(|sets| sets.effective.contains(rustix::thread::CapabilitySet::SETPCAP)),
            init: None,
            filters: confined::filters_of_this_process() + 1,
        }
    }

    /// Is it certain that no process of a run is left but its copy, which has no child? An orphan is adopted by the warm interpreter or by
    /// this process, and what else they have for children is known.
    pub(super) fn has_adopted_nobody(&self, ending: &Sandbox) -> bool {
        let there = self.sandboxes.values().chain([ending]);
        let own = there.flat_map(|s| {
            s.inside
                .into_iter()
                .chain(s.running.as_ref().map(|running| running.pid))
        });
        let warm = self.warm.as_ref().map(|warm| warm.running.pid);
        let known: Vec<i32> = own.chain(warm).map(|pid| pid.as_raw_nonzero().get()).collect();
        let parents = warm.into_iter().chain([rustix::process::getpid()]);
        parents
            .map(|pid| usage::children_of_one_thread(pid.as_raw_nonzero().get()))
            .all(|children| children.is_some_and(|children| children.iter().all(|pid| known.contains(pid))))
    }

    /// Whether a process that has ended was the first one of a run.
    pub(super) fn ended_in_place(&mut self, reaped: &sys::Reaped) {
        let is = |s: &Sandbox| {
            s.leader()
                .is_some_and(|leader| leader.0.as_raw_nonzero().get() == reaped.pid)
        };
        let Some(number) = self.sandboxes.iter().find(|(_, s)| is(s)).map(|(number, _)| *number) else {
            return;
        };
        // What it could not do it has said before.
        self.hear_last(number);
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.status.get_or_insert(reaped.status);
            sandbox.cpu += reaped.cpu;
        }
        self.end(number);
    }

    /// Of the runs that were killed, tells of those of which nothing is left.
    pub(super) fn settle_in_place(&mut self) {
        let is_gone = |s: &Sandbox| s.phase == Phase::Ending && s.leader().is_none_or(Group::is_gone);
        let gone: Vec<u32> = self
            .sandboxes
            .iter()
            .filter(|(_, s)| is_gone(s))
            .map(|(number, _)| *number)
            .collect();
        for number in gone {
            if self
                .sandboxes
                .get(&number)
                .is_some_and(|s| s.done.is_none() && s.inside.is_some())
            {
                self.hear_inside(number);
            }
            if let Some(sandbox) = self.sandboxes.remove(&number) {
                self.finish(sandbox, Duration::ZERO);
            }
        }
    }
}
