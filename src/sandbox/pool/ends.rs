//! How a run ends, what is told of it, and how its sandbox is taken down.

use super::looks::{COUNT, holds_too_much};
use super::*;

/// So many sandboxes are left, when their runs are over, until nobody wants anything: to take one down takes time.
const MOST_OVER: usize = 8;
const MOST_DENIED: usize = 16;

impl Pool {
    /// The code has ended. Its interpreter waits for its end, so that what it used can be read.
    pub(super) fn done(&mut self, number: u32, done: Done) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        sandbox.done = Some(done);
        let Some(pid) = sandbox.inside.map(|inside| inside.as_raw_nonzero().get()) else {
            return self.end(number);
        };
        sandbox.cpu = usage::of_family(pid);
        sandbox.memory = confined::most_memory(pid);
        // What it leaves behind is killed without being waited for, and in so short a time has computed little.
        let counted = sandbox.running.as_ref().and_then(Running::cgroup).is_some();
        let run = sandbox.run.and_then(|run| self.runs.get_mut(&run));
        if let Some(run) = run.filter(|run| !counted && run.began.is_some_and(|began| began.elapsed() > COUNT)) {
            // What is missing the second time is lost.
            sandbox.computed(&mut run.spent);
            sandbox.computed(&mut run.spent);
        }
        // What follows its calls has its own way to tell that it is over.
        let Some(exit) = sandbox.exit.as_ref().filter(|_| sandbox.tracer.is_none()) else {
            return self.end(number);
        };
        sandbox.phase = Phase::Ending;
        let waited = usage::waits_alone(pid);
        let _ = rustix::process::pidfd_send_signal(exit, rustix::process::Signal::KILL);
        if let (Isolation::Landlock, Some(group)) = (self.profile.isolation, sandbox.leader()) {
            group.kill();
        }
        // If it has done nothing but wait until it was killed, it does nothing more. Else its end is waited for. (It takes no processor
        // from this process when it is woken: it is of SCHED_BATCH, sched(7).)
        if waited.is_some() && waited == sys::cpu_time(pid) {
            self.copy_ended(number);
        }
    }

    /// A copy of the warm interpreter does nothing any more, and what it had started is its PID 1's, or that of whoever adopts it here. If
    /// there is nothing, the run is over; else all of it is killed first. Of one that ended without a word its maker tells.
    pub(super) fn copy_ended(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        if let Some(exit) = sandbox.exit.take() {
            let _ = self.epoll.delete(exit.as_fd());
        }
        if sandbox.done.is_none() || sandbox.tracer.is_some() {
            return;
        }
        let Some(mut sandbox) = self.sandboxes.remove(&number) else {
            return;
        };
        let init = sandbox.running.as_ref();
        let init = init.map(|running| running.pid.as_raw_nonzero().get());
        if sandbox.failed.is_none()
            && let Some(run) = sandbox
                .run
                .filter(|run| self.runs.get(run).is_some_and(|run| !run.given))
            && match init {
                Some(init) => usage::is_childless(init),
                None => self.has_adopted_nobody(&sandbox),
            }
        {
            sandbox.run = None;
            let of_init = init.map(usage::of_family).unwrap_or_default();
            let ended = self.how_it_ended(run, &mut sandbox, of_init);
            self.tell_end(run, ended);
        }
        let over = sandbox.run.is_none();
        let has_init = sandbox.running.is_some();
        self.sandboxes.insert(number, sandbox);
        match over {
            true if has_init => self.over.push_back(number),
            // Nothing is left to be taken down.
            true => {}
            false => self.end(number),
        }
        if self.over.len() > MOST_OVER {
            self.take_down_one();
        }
    }

    /// Ends the oldest of the sandboxes whose runs are over. Was there one?
    pub(super) fn take_down_one(&mut self) -> bool {
        while let Some(number) = self.over.pop_front() {
            // One whose PID 1 has ended by itself is gone already.
            if self.sandboxes.contains_key(&number) {
                self.end(number);
                return true;
            }
        }
        false
    }

    /// It could not be made, or is not what it should be.
    pub(super) fn fail(&mut self, number: u32, why: String) {
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.failed.get_or_insert(why);
        }
        self.end(number);
    }

    /// Kills all that is in it. What follows comes when that has happened.
    pub(super) fn end(&mut self, number: u32) {
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.phase = Phase::Ending;
            match (&self.profile.isolation, &sandbox.running) {
                (Isolation::Landlock, _) => sandbox.kill_in_place(),
                (Isolation::Namespaces, Some(running)) => drop(running.signal(rustix::process::Signal::KILL)),
                (Isolation::Namespaces, None) => {}
            }
        }
    }

    /// Ends a run for this reason.
    pub(super) fn kill(&mut self, number: u32, reason: &str) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        run.killed.get_or_insert_with(|| reason.to_owned());
        match run.sandbox {
            Some(sandbox) => self.end(sandbox),
            None => {
                self.waiting.retain(|waits| *waits != number);
                self.tell_end(number, Ended::default());
            }
        }
    }

    pub(super) fn refuse(&mut self, number: u32, error: &str) {
        if let Some(run) = self.runs.remove(&number) {
            self.unwatch(run.connection.as_fd());
            tell(
                &run.connection,
                &Event::Refused {
                    error: error.to_owned(),
                },
            );
        }
    }

    /// A process of this pool's own has ended: a sandbox's PID 1, and with it all that was in there, or the warm interpreter's.
    pub(super) fn ended(&mut self, reaped: &sys::Reaped) {
        let is = |pid: Pid| pid.as_raw_nonzero().get() == reaped.pid;
        if self.warm.as_ref().is_some_and(|warm| is(warm.running.pid)) {
            match self.warm.as_ref().is_some_and(|warm| warm.ready) {
                // It had been well: another one is made at once, for which those wait that have a sandbox already.
                true => self.let_go_of_warm(),
                false => self.end_warm("it ended".into()),
            }
            return;
        }
        if self.in_place() {
            return self.ended_in_place(reaped);
        }
        let found = self
            .sandboxes
            .iter()
            .find(|(_, s)| s.running.as_ref().is_some_and(|running| is(running.pid)))
            .map(|(number, _)| *number);
        if let Some(number) = found {
            self.hear_last(number);
            let said_nothing = |s: &Sandbox| s.phase == Phase::Ending && s.done.is_none();
            if self.sandboxes.get(&number).is_some_and(said_nothing) {
                self.hear_inside(number);
            }
            if self.is_yet_to_tell(number, reaped.cpu) {
                return;
            }
        }
        if let Some(sandbox) = found.and_then(|number| self.sandboxes.remove(&number)) {
            self.finish(sandbox, reaped.cpu);
        }
    }

    /// Nothing of it is left. `cpu`: what its PID 1 has used.
    pub(super) fn finish(&mut self, mut sandbox: Sandbox, cpu: Duration) {
        if let Some(running) = &sandbox.running {
            self.unwatch(running.reports.as_fd());
        }
        self.unwatch(sandbox.control.as_fd());
        self.free.push(sandbox.place);
        let Some(number) = sandbox.run else { return };
        self.give_back(number, sandbox.runner);
        if let Some(why) = &sandbox.failed {
            let why = why.clone();
            return self.refuse(number, &why);
        }
        let ended = self.how_it_ended(number, &mut sandbox, cpu);
        self.tell_end(number, ended);
    }

    /// What a PID 1 said before it ended, and nobody has read yet: how its program ended, for one.
    pub(super) fn hear_last(&mut self, number: u32) {
        while let Some(sandbox) = self.sandboxes.get_mut(&number).filter(|s| s.status.is_none()) {
            let Some(running) = &sandbox.running else { return };
            match running.report() {
                Ok(Report::Exited(status)) => sandbox.status = Some(status),
                Ok(Report::Started) if !sandbox.copy => self.started(number),
                Ok(Report::Failed(error)) => {
                    sandbox.failed.get_or_insert(error.to_string());
                }
                Ok(Report::End) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    pub(super) fn give_back(&self, number: u32, runner: Runner) {
        let Some(run) = self.runs.get(&number).filter(|run| run.given) else {
            return;
        };
        if let Some(Err(error)) = run.userdir.as_ref().map(|userdir| userdir.take_back(runner)) {
            tracing::error!(%error, "give a user's directory back");
        }
    }

    fn how_it_ended(&self, number: u32, sandbox: &mut Sandbox, of_init: Duration) -> Ended {
        let Some(run) = self.runs.get(&number) else {
            return Ended::default();
        };
        let mut out = Ended {
            uid: sandbox.runner.uid,
            isolation: self.profile.isolation.name(),
            ..Ended::default()
        };
        let group = sandbox.running.as_ref().and_then(Running::cgroup);
        let in_group = group.and_then(Group::computed).unwrap_or_default();
        let cpu = run.spent.in_all(sandbox.cpu + of_init).max(in_group);
        out.usage = Usage {
            wall: run.began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
            cpu: cpu.as_secs_f64(),
            memory: sandbox.memory,
        };
        if let Some(done) = &mut sandbox.done {
            out.denied = std::mem::take(&mut done.denied);
            // Of files it is told by who sees to it.
            out.denied.retain(|denied| denied.kind != "file");
            out.denied.truncate(MOST_DENIED);
        }
        let told = sandbox.tracer.take().and_then(|tracer| tracer.told);
        out.denied.extend(told.into_iter().flatten());
        match (&sandbox.done, sandbox.status) {
            (Some(done), _) => {
                out.exit = Some(done.exit);
                out.limit = done.limit.clone().filter(|limit| LIMITS.contains(&limit.as_str()));
            }
            (None, Some(status)) => match sys::exit_status::signal(status) {
                Some(signal) => {
                    out.signal = Some(signal);
                    out.limit = limit_of_signal(signal, cpu, run, group.is_some_and(|group| group.oom_kills() > 0));
                }
                None => out.exit = Some(sys::exit_status::exit_code(status).into()),
            },
            (None, None) => out.signal = Some(libc::SIGKILL),
        }
        if run.killed.is_some() {
            out.limit = run.killed.clone();
        }
        let too_much = match out.limit {
            None => holds_too_much(run),
            Some(_) => None,
        };
        out.limit = out.limit.or(too_much.map(str::to_owned));
        out
    }

    fn tell_end(&mut self, number: u32, mut ended: Ended) {
        if let Some(run) = self.runs.remove(&number) {
            let changes = run.upper.as_ref().zip(run.userdir.as_ref());
            match changes.map(|(upper, userdir)| upper.changes(userdir)) {
                None => self.unwatch(run.connection.as_fd()),
                Some(Ok((changes, left))) => {
                    ended.changes = Some(changes);
                    ended.changes_left = (left > 0).then_some(left);
                    tell(&run.connection, &Event::Ended(Box::new(ended)));
                    self.undecided.insert(number, run);
                    return;
                }
                Some(Err(error)) => {
                    self.unwatch(run.connection.as_fd());
                    let error = error.to_string();
                    return tell(&run.connection, &Event::Refused { error });
                }
            }
            if ended.isolation.is_empty() {
                ended.isolation = self.profile.isolation.name();
                ended.limit = run.killed;
            }
            tell(&run.connection, &Event::Ended(Box::new(ended)));
        }
    }
}

/// What [`Ended::limit`] may be.
const LIMITS: [&str; 8] = [
    "wall",
    "cpu",
    "memory",
    "processes",
    "file_size",
    "files",
    "userdir",
    "tmp",
];

fn limit_of_signal(signal: i32, cpu: Duration, run: &Pending, oom: bool) -> Option<String> {
    let limit = match signal {
        libc::SIGXCPU => "cpu",
        libc::SIGXFSZ => "file_size",
        libc::SIGKILL if oom => "memory",
        libc::SIGKILL if run.limits.cpu().is_some_and(|most| cpu >= most) => "cpu",
        _ => return None,
    };
    Some(limit.to_owned())
}
