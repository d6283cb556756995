//! The warm interpreter: how it is started, and what is done without it.

use super::*;

/// So long a warm interpreter is not made anew that did not come to be ready.
pub(super) const BACK_OFF: Duration = Duration::from_secs(1);

impl Pool {
    pub(super) fn warm_up(&mut self) {
        match self.launch_warm() {
            Ok(warm) => self.warm = Some(warm),
            Err(error) => self.is_cold(error.to_string()),
        }
    }

    fn launch_warm(&mut self) -> Result<Warm, SandboxError> {
        let (ours, theirs) = socketpair()?;
        let (running, filter) = match self.in_place() {
            true => (self.launch_warm_in_place(&theirs)?, self.filter_in_place()?),
            false => self.launch_warm_apart(&theirs)?,
        };
        let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(SandboxError::system("make a file in memory"))?;
        rustix::io::write(&memory, &filter).map_err(SandboxError::system("write the filter of system calls"))?;
        let boot = ToWarm::Boot {
            paths: &unit::module_paths(&self.profile),
            preload: &self.profile.preload,
            after_fork: &self.profile.after_fork,
        };
        send(&ours, &boot, &[memory.as_fd()]).map_err(SandboxError::system("speak to the warm interpreter"))?;
        self.watch(ours.as_fd(), Token::Warm)?;
        self.watch(running.reports.as_fd(), Token::WarmReports)?;
        Ok(Warm {
            running,
            socket: ours,
            ready: false,
        })
    }

    /// In namespaces of its own; and the filter of its copies.
    fn launch_warm_apart(&mut self, theirs: &OwnedFd) -> Result<(Running, Vec<u8>), SandboxError> {
        let mut bundle = unit::warm(&self.plan, &self.profile, self.ids.as_ref())?;
        // The copy gets the filter of a sandbox, beside that of the interpreter itself.
        let of = unit::sandbox(
            &self.plan,
            &self.profile,
            self.place(0),
            &self.profile.limits,
            &Runs::Copy,
            &[],
            false,
        )?;
        let filter = self.launcher.filter(&of.spec)?;
        if let Some(process) = bundle.spec.process_mut() {
            process.set_rlimits(None);
        }
        let running = self.launcher.launch(
            &bundle,
            &Descriptors {
                sockets: &[(theirs.as_fd(), "pool")],
                program: Program::Forking,
                ..Descriptors::of([self.null.as_fd(), self.null.as_fd(), rustix::stdio::stderr()])
            },
        )?;
        Ok((running, filter))
    }

    /// There is none now; whoever needs it is refused, and after a while it is tried again.
    fn is_cold(&mut self, why: String) {
        tracing::warn!(why, "no warm interpreter");
        let again = Instant::now() + BACK_OFF;
        self.cold = Some((why.clone(), again));
        let those: Vec<u32> = self
            .sandboxes
            .iter()
            .filter(|(_, s)| s.copy && matches!(s.phase, Phase::Starting | Phase::Joinable | Phase::Joining))
            .map(|(number, _)| *number)
            .collect();
        for number in those {
            self.fail(number, format!("the warm interpreter: {why}"));
        }
        while let Some(run) = self.waiting.iter().position(|run| self.needs_warm(*run)) {
            if let Some(run) = self.waiting.remove(run) {
                self.refuse(run, &format!("the warm interpreter: {why}"));
            }
        }
    }

    fn needs_warm(&self, run: u32) -> bool {
        self.profile.warm && self.runs.get(&run).is_some_and(|run| run.asked.command.is_none())
    }

    pub(super) fn hear_warm(&mut self) {
        let Some(warm) = &self.warm else { return };
        let mut fds = Vec::new();
        let taken = sys::receive_fds(warm.socket.as_fd(), &mut self.buffer, 1, &mut fds);
        let length = match taken {
            Err(Errno::AGAIN | Errno::INTR) => return,
            // It is told of by its PID 1.
            Ok(0) | Err(_) => return self.unwatch(warm.socket.as_fd()),
            Ok(length) => length,
        };
        match serde_json::from_slice::<FromWarm>(&self.buffer[..length]) {
            Ok(FromWarm::Ready(_)) => {
                if let Some(warm) = &mut self.warm {
                    warm.ready = true;
                }
                self.cold = None;
                let joinable: Vec<u32> = self
                    .sandboxes
                    .iter()
                    .filter(|(_, s)| s.phase == Phase::Joinable && s.run.is_some())
                    .map(|(number, _)| *number)
                    .collect();
                for number in joinable {
                    self.join(number);
                }
            }
            Ok(FromWarm::Failed(why)) => self.end_warm(why),
            Ok(FromWarm::Ended(pid, status, cpu, memory)) => {
                let of = |s: &Sandbox| s.inside.is_some_and(|inside| inside.as_raw_nonzero().get() == pid);
                let found = self.sandboxes.iter_mut().find(|(_, s)| of(s));
                if let Some((number, sandbox)) = found {
                    if sandbox.run.is_none() && sandbox.done.is_some() {
                        // Its run is over, and its number may be given again.
                        sandbox.inside = None;
                        return;
                    }
                    sandbox.status = Some(status);
                    sandbox.cpu = Duration::from_secs_f64(cpu.clamp(0.0, 1e9));
                    sandbox.memory = memory;
                    let number = *number;
                    self.end(number);
                }
            }
            Err(e) => self.end_warm(format!("it says what nobody understands: {e}")),
        }
    }

    pub(super) fn hear_warm_reports(&mut self) {
        let Some(warm) = &self.warm else { return };
        match warm.running.report() {
            Ok(Report::Failed(error)) => self.end_warm(error.to_string()),
            Ok(Report::Exited(_) | Report::End) => self.unwatch(warm.running.reports.as_fd()),
            _ => {}
        }
    }

    pub(super) fn end_warm(&mut self, why: String) {
        self.let_go_of_warm();
        self.is_cold(why);
    }

    pub(super) fn let_go_of_warm(&mut self) {
        if let Some(warm) = self.warm.take() {
            let _ = warm.running.signal(rustix::process::Signal::KILL);
            self.unwatch(warm.socket.as_fd());
            self.unwatch(warm.running.reports.as_fd());
        }
    }

    pub(super) fn revive(&mut self) {
        if !self.profile.warm || self.warm.is_some() {
            return;
        }
        let waits = |s: &Sandbox| s.copy && s.run.is_some() && matches!(s.phase, Phase::Starting | Phase::Joinable);
        let wanted = self.profile.ready > 0
            || self.waiting.iter().any(|run| self.needs_warm(*run))
            || self.sandboxes.values().any(waits);
        let may = self.cold.as_ref().is_none_or(|(_, until)| *until <= Instant::now());
        if wanted && may {
            self.warm_up();
        } else if let Some((why, _)) = self.cold.clone() {
            while let Some(at) = self.waiting.iter().position(|run| self.needs_warm(*run)) {
                if let Some(run) = self.waiting.remove(at) {
                    self.refuse(run, &format!("the warm interpreter: {why}"));
                }
            }
        }
    }
}
