//! How a sandbox is made: its PID 1, its root, and the directory that its run is shown.

use super::*;

/// What an overlay holds where no limit says it.
const OVERLAY_BYTES: u64 = 64 << 20;
const OVERLAY_FILES: u64 = 10_000;

impl Pool {
    pub(super) fn start(&mut self, run: Option<u32>) -> Result<(), SandboxError> {
        let Some(place) = self.free.pop() else { return Ok(()) };
        let launched = match run {
            run if self.in_place() => self.launch_in_place(place, run),
            run => self.launch(place, run),
        };
        match launched {
            Ok(()) => Ok(()),
            Err(error) => {
                self.free.push(place);
                if let Some(run) = run {
                    self.give_back(run, Runner::of(self.ids.as_ref(), place));
                }
                Err(error)
            }
        }
    }

    pub(super) fn launch(&mut self, place: u32, run: Option<u32>) -> Result<(), SandboxError> {
        let runner = Runner::of(self.ids.as_ref(), place);
        let pending = run.and_then(|run| self.runs.get(&run));
        let has_command = pending.is_some_and(|run| run.asked.command.is_some());
        let copy = self.profile.warm && !has_command;
        let common = copy && pending.is_none_or(|run| run.asked.readable.is_empty());
        let bundle = match self
            .bundles
            .get_mut(place as usize)
            .and_then(Option::take)
            .filter(|_| common)
        {
            Some(bundle) => bundle,
            None => self.compile(place, runner, run)?,
        };
        let home = match run {
            // A copy is shown it when it is there.
            Some(run) if !copy => self.home(run, place, runner)?,
            _ => None,
        };
        let (ours, theirs) = socketpair()?;
        rustix::net::sockopt::set_socket_passcred(&ours, true).map_err(SandboxError::system("ask for credentials"))?;
        let null = self.null.as_fd();
        let pending = run.and_then(|run| self.runs.get(&run));
        let given = |name: &str| pending.and_then(|run| run.fd(name)).map_or(null, AsFd::as_fd);
        let stdio = match has_command {
            true => [given("stdin"), given("stdout"), given("stderr")],
            // What keeps it from beginning is to be read.
            false => [null, null, given("stderr")],
        };
        let sockets = [(theirs.as_fd(), "pool")];
        let launched = self.launcher.launch(
            &bundle,
            &Descriptors {
                sockets: if copy || has_command { &[] } else { &sockets },
                program: if copy {
                    Program::Joining(Path::new(HOME))
                } else {
                    Program::OfSpec
                },
                shown: home.as_ref().map(|tree| (tree.as_fd(), Path::new(HOME))),
                owner: self.ids.as_ref().filter(|_| copy).map(|ids| ids.warm),
                hold: has_command && pending.is_some_and(|run| run.asked.explain),
                ..Descriptors::of(stdio)
            },
        );
        if common && let Some(slot) = self.bundles.get_mut(place as usize) {
            *slot = Some(bundle);
        }
        let running = launched?;
        let number = self.next_serial();
        self.watch(running.reports.as_fd(), Token::Reports(number))?;
        self.watch(ours.as_fd(), Token::Inside(number))?;
        self.sandboxes.insert(
            number,
            Sandbox {
                copy,
                running: Some(running),
                theirs: copy.then_some(theirs),
                common,
                ..Sandbox::new(place, runner, ours, run)
            },
        );
        if let Some(run) = run.and_then(|run| self.runs.get_mut(&run)) {
            run.sandbox = Some(number);
        }
        Ok(())
    }

    /// What a sandbox is made of: for a copy of the warm interpreter, or for what this run names.
    fn compile(&mut self, place: u32, runner: Runner, run: Option<u32>) -> Result<Bundle, SandboxError> {
        let pending = run.and_then(|run| self.runs.get(&run));
        let Some(pending) = pending.filter(|run| run.asked.command.is_some() || !self.profile.warm) else {
            let further = run
                .and_then(|run| self.runs.get(&run))
                .map_or(&[][..], |run| &run.asked.readable);
            let of = self.place(place);
            return unit::sandbox(
                &self.plan,
                &self.profile,
                of,
                &self.profile.limits,
                &Runs::Copy,
                further,
                false,
            );
        };
        let runs = match &pending.asked.command {
            Some(command) => Runs::Command {
                command,
                environment: &pending.asked.environment,
            },
            None => Runs::Python,
        };
        let further = &pending.asked.readable;
        unit::sandbox(
            &self.plan,
            &self.profile,
            Place {
                number: place,
                runner,
                cgroup: self.limited,
            },
            &pending.limits,
            &runs,
            further,
            pending.userdir.is_some(),
        )
    }

    /// The tree that a run is shown as its home, attached nowhere yet; with an overlay on it, if it wants one.
    pub(super) fn home(&mut self, number: u32, place: u32, runner: Runner) -> Result<Option<OwnedFd>, SandboxError> {
        let Some(run) = self.runs.get_mut(&number) else {
            return Ok(None);
        };
        let Some(userdir) = &run.userdir else { return Ok(None) };
        let shown = userdir.shown(&self.plan.privilege, runner);
        if matches!(shown, Shown::Given) {
            // What is given in part comes back as well.
            run.given = true;
            userdir.give(runner, self.ids.as_ref())?;
        }
        let map = match &shown {
            Shown::Mapped(map) => Some(map),
            Shown::AsIs | Shown::Given => None,
        };
        let mut none = IdMaps::default();
        let idmaps = self.idmaps.get_mut(place as usize).unwrap_or(&mut none);
        let tree = self.launcher.detached(userdir.fd.as_fd(), &userdir.path, map, idmaps)?;
        if !run.asked.overlay {
            return Ok(Some(tree));
        }
        let holds = (
            run.limits.userdir.or(run.limits.tmp).unwrap_or(OVERLAY_BYTES),
            run.limits.files.unwrap_or(OVERLAY_FILES),
        );
        let uid = runner.uid_seen_outside(self.ids.as_ref());
        let outer = self.plan.privilege != Privilege::Root;
        let [over, upper] = self.launcher.overlay(tree, holds, (uid, uid), outer)?;
        run.upper = Some(Upper(upper));
        Ok(Some(over))
    }

    pub(super) fn place(&self, number: u32) -> Place {
        Place {
            number,
            runner: Runner::of(self.ids.as_ref(), number),
            cgroup: self.limited,
        }
    }
}
