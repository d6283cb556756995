//! How an interpreter joins a sandbox, is found to be confined, and is given its task.

use super::looks::{is_bounded, least_pause, next_look};
use super::*;

/// The longest message of an interpreter in a sandbox, and how much that was denied is told of it.
const LONGEST_SAID: usize = 16 << 10;

impl Pool {
    pub(super) fn hear_reports(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(running) = &sandbox.running else { return };
        match running.report() {
            Ok(Report::Rules(ruleset)) => sandbox.ruleset = Some(ruleset),
            Ok(Report::Started) => self.started(number),
            Ok(Report::Exited(status)) => {
                sandbox.status = Some(status);
                sandbox.phase = Phase::Ending;
            }
            Ok(Report::Failed(error)) => self.fail(number, error.to_string()),
            Ok(Report::End) => {
                let _ = self.epoll.delete(running.reports.as_fd());
                if self.in_place() && sandbox_is_starting(self, number) {
                    self.started(number);
                }
            }
            Ok(Report::Held) => self.held(number),
            Ok(Report::Terminal(_)) | Err(_) => {}
        }
    }

    /// Has a copy of the warm interpreter join.
    pub(super) fn join(&mut self, number: u32) {
        if let Err(error) = self.try_join(number) {
            self.fail(number, error.to_string());
        }
    }

    fn try_join(&mut self, number: u32) -> Result<(), SandboxError> {
        let (Some(sandbox), Some(warm)) = (self.sandboxes.get_mut(&number), &self.warm) else {
            return Ok(());
        };
        let Some(theirs) = sandbox.theirs.take() else {
            return Ok(());
        };
        let mut namespaces = match &sandbox.running {
            Some(running) => confined::namespaces(running.pid.as_raw_nonzero().get())
                .map_err(SandboxError::system("open the sandbox's namespaces"))?,
            None => Vec::new(),
        };
        let cgroups = match sandbox.running.as_ref().and_then(Running::cgroup) {
            Some(group) => group.entrances()?,
            None => Vec::new(),
        };
        let later = sandbox.running.is_none();
        let ruleset = sandbox.ruleset.as_ref().filter(|_| !later);
        let mut fds = vec![theirs.as_fd()];
        fds.extend(ruleset.map(AsFd::as_fd));
        fds.extend(cgroups.iter().map(AsFd::as_fd));
        fds.extend(namespaces.iter().map(AsFd::as_fd));
        let limits = of_kernel(&self.profile, &self.profile.limits.widest());
        let rlimits = unit::rlimits(&limits, None);
        let fork = ToWarm::Fork {
            uid: sandbox.runner.uid,
            gid: match sandbox.running {
                Some(_) => sandbox.runner.uid,
                None => rustix::process::getegid().as_raw(),
            },
            groups: self.profile.isolation == Isolation::Namespaces && self.plan.privilege != Privilege::OneId,
            landlock: ruleset.is_some(),
            cgroups: cgroups.len(),
            later,
            rehearse: sandbox.run.is_none(),
            rlimits: &rlimits,
        };
        match send(&warm.socket, &fork, &fds) {
            Ok(()) => {}
            // It has ended, which is heard next: the one after it is asked.
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                sandbox.theirs = Some(theirs);
                return Ok(());
            }
            Err(errno) => return Err(SandboxError::system("speak to the warm interpreter")(errno)),
        }
        if !later {
            sandbox.ruleset = None;
        }
        sandbox.mounts = (namespaces.len() > confined::MOUNTS).then(|| namespaces.swap_remove(confined::MOUNTS));
        sandbox.phase = Phase::Joining;
        Ok(())
    }

    pub(super) fn hear_inside(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let mut bytes = [0u8; LONGEST_SAID];
        let received = match sys::receive(sandbox.control.as_fd(), &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(received) if received.bytes > 0 => received,
            _ => {
                let _ = self.epoll.delete(sandbox.control.as_fd());
                if matches!(sandbox.phase, Phase::Joining | Phase::Ready) {
                    self.fail_copy(number, None);
                }
                return;
            }
        };
        match serde_json::from_slice::<Said>(&bytes[..received.bytes]) {
            Ok(Said::Confined(_)) if sandbox.phase != Phase::Ending => self.confined(number, received.sender),
            Ok(Said::Done(done)) if sandbox.phase == Phase::Running && sandbox.inside.is_some() => {
                self.done(number, done)
            }
            // That it has ended was heard of first, from who made it.
            Ok(Said::Done(done)) if sandbox.phase == Phase::Ending => {
                sandbox.done.get_or_insert(done);
            }
            Ok(Said::Failed(why)) if sandbox.phase == Phase::Joining => self.fail_copy(number, Some(&why)),
            // What else it says in its last moment is nobody's concern.
            _ if sandbox.phase == Phase::Ending => {}
            _ => self.fail(
                number,
                "the interpreter in the sandbox says what nobody understands".into(),
            ),
        }
    }

    /// A copy has ended before it had a task. If nobody asked for it, no other is made at once: that may end in the same way.
    fn fail_copy(&mut self, number: u32, why: Option<&str>) {
        let why = why.unwrap_or("standard error may say why");
        let error = format!("the interpreter in the sandbox ended before it had its task; {why}");
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(run) = sandbox.run else {
            self.fail(number, error);
            return self.end_warm(format!("a copy of it ended before it had its task; {why}"));
        };
        match self.runs.get_mut(&run).filter(|run| !run.again && run.killed.is_none()) {
            // None of its code has run, so it gets another one: the warm interpreter may have been killed.
            Some(pending) => {
                pending.again = true;
                pending.sandbox = None;
                sandbox.run = None;
                self.end(number);
                self.waiting.push_front(run);
            }
            None => self.fail(number, error),
        }
    }

    /// An interpreter waits for its task; whether it may have one is not for it to say.
    pub(super) fn confined(&mut self, number: u32, pid: i32) {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return;
        };
        let expected = match &sandbox.running {
            _ if self.in_place() => self.expected_in_place(),
            running => Expected {
                uid: sandbox.runner.uid_seen_outside(self.ids.as_ref()),
                gid: sandbox.runner.uid_seen_outside(self.ids.as_ref()),
                no_groups: self.plan.privilege != Privilege::OneId,
                no_bounding: true,
                init: running.as_ref().map(|running| running.pid.as_raw_nonzero().get()),
                filters: if sandbox.copy { 2 } else { 1 },
            },
        };
        if self.in_place() && !sandbox.copy && sandbox.phase == Phase::Starting {
            // It was heard before the end of its start was.
            self.started(number);
        }
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let in_turn = match sandbox.copy {
            true => sandbox.phase == Phase::Joining,
            false => sandbox.phase == Phase::Running && sandbox.inside.is_none(),
        };
        if !in_turn {
            return self.fail(number, "the interpreter in the sandbox speaks out of turn".into());
        }
        let exit = match (sandbox.copy, Pid::from_raw(pid)) {
            (true, Some(pid)) => rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok(),
            _ => None,
        };
        if let Some(lacking) = confined::lacking(pid, &expected) {
            return self.fail(
                number,
                format!("the interpreter in the sandbox is not confined: {lacking}"),
            );
        }
        sandbox.inside = Pid::from_raw(pid);
        if !sandbox.copy {
            return self.give_task(number);
        }
        if let Some(group) = sandbox.running.as_ref().and_then(Running::cgroup)
            && !group.holds(pid)
            && let Err(error) = group.admit(pid)
        {
            return self.fail(number, error.to_string());
        }
        sandbox.phase = Phase::Ready;
        sandbox.exit = exit;
        let has_run = sandbox.run.is_some();
        if let Some(exit) = &sandbox.exit
            && let Err(error) = watch(&self.epoll, exit.as_fd(), Token::Exit(number))
        {
            return self.fail(number, error.to_string());
        }
        if has_run {
            self.open(number);
        }
    }

    /// Shows the user's directory, and hands over the task.
    pub(super) fn open(&mut self, number: u32) {
        match self.show_userdir(number) {
            Ok(()) => self.give_task(number),
            Err(error) => self.fail(number, error.to_string()),
        }
    }

    fn show_userdir(&mut self, number: u32) -> Result<(), SandboxError> {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return Ok(());
        };
        let (run, place, runner) = (sandbox.run, sandbox.place, sandbox.runner);
        let mounts = sandbox.mounts.take();
        if self.in_place() {
            return self.add_rules(number);
        }
        let Some(tree) = run.map_or(Ok(None), |run| self.home(run, place, runner))? else {
            return Ok(());
        };
        let (Some(mounts), Some(own)) = (mounts, &self.own_mounts) else {
            return Err(SandboxError::refused(
                "the user's directory cannot be shown: the sandbox has no mounts of its own",
            ));
        };
        own.attach_in(mounts.as_fd(), tree.as_fd(), Path::new(HOME))
            .map_err(SandboxError::system("show the user's directory"))
    }

    pub(super) fn started(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        if sandbox.copy {
            sandbox.phase = Phase::Joinable;
            if sandbox.run.is_some() {
                self.join_when_warm(number);
            }
            return;
        }
        sandbox.phase = Phase::Running;
        let of_command = sandbox
            .run
            .and_then(|run| self.runs.get(&run))
            .is_some_and(|run| run.asked.command.is_some());
        if of_command {
            self.begun(number);
        }
    }

    fn give_task(&mut self, number: u32) {
        if let Err(error) = self.trace(number) {
            return self.fail(number, error.to_string());
        }
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(run) = sandbox.run.and_then(|run| self.runs.get(&run)) else {
            return;
        };
        sandbox.phase = Phase::Running;
        let mut rlimits = unit::rlimits(&of_kernel(&self.profile, &run.limits), None);
        if sandbox.copy {
            // The rest it has already.
            let has = unit::rlimits(&of_kernel(&self.profile, &self.profile.limits.widest()), None);
            rlimits.retain(|limit| !has.contains(limit));
        }
        let paths = match sandbox.copy {
            true => Vec::new(),
            false => unit::module_paths(&self.profile),
        };
        // Where it cannot see for itself what it has, it is told.
        let has = match (&run.scratch, sandbox.inside) {
            (Some(_), Some(inside)) => confined::memory(inside.as_raw_nonzero().get()),
            _ => 0,
        };
        let task = Task {
            task: &run.asked.task,
            paths: &paths,
            fds: &run.names,
            directory: &run.directory(),
            environment: &run.asked.environment,
            rlimits: &rlimits,
            memory: run.limits.memory.map(|memory| memory.saturating_add(has)),
        };
        let rules = sandbox.ruleset.take();
        if rules.is_none() && sandbox.copy && sandbox.running.is_none() {
            return self.fail(number, "there are no Landlock rules for the run".into());
        }
        let fds: Vec<BorrowedFd<'_>> = rules.iter().chain(&run.fds).map(AsFd::as_fd).collect();
        match send(&sandbox.control, &task, &fds) {
            Ok(()) => self.begun(number),
            Err(errno) => self.fail(number, format!("speak to the interpreter in the sandbox: {errno}")),
        }
    }

    pub(super) fn begun(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return;
        };
        let Some(run) = sandbox.run.and_then(|run| self.runs.get_mut(&run)) else {
            return;
        };
        let now = Instant::now();
        run.began = Some(now);
        run.walk = is_bounded(run).then(|| now + least_pause(run));
        run.look = next_look(now, run, Duration::ZERO);
        // Theirs now.
        run.fds.clear();
        run.names.clear();
        if run.asked.started {
            let uid = sandbox.runner.uid;
            tell(&run.connection, &Event::Started { uid });
        }
        if run.killed.is_some() {
            self.end(number);
        }
    }
}

/// Of these limits those that the kernel holds for each process.
fn of_kernel(profile: &Profile, limits: &Limits) -> Limits {
    match profile.isolation {
        Isolation::Namespaces => *limits,
        Isolation::Landlock => landlock::of_each(limits),
    }
}

fn sandbox_is_starting(pool: &Pool, number: u32) -> bool {
    let sandbox = pool.sandboxes.get(&number);
    sandbox.is_some_and(|sandbox| sandbox.phase == Phase::Starting)
}
