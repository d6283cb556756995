//! Runs of which it is told which files they were denied: what follows their calls is started, and heard.

use super::*;
use crate::launch;
use crate::sandbox::denied::{self, Asker, Followed, Tracer};
use crate::sandbox::request::Denied;
use crate::sys::helper::{self, Keeps};
use std::os::fd::AsRawFd;

impl Pool {
    /// Can it be told of this run which files it is denied?
    pub(super) fn may_explain(&self, asked: &Run) -> Result<(), SandboxError> {
        if self.in_place() {
            return Err(SandboxError::refused(
                "which files are denied is told with namespaces only, whose maker may follow what is in them; leave out `explain`, or `isolation`",
            ));
        }
        if asked.session {
            return Err(SandboxError::refused(
                "which files are denied is told of a run at its end, and not of a session; leave out `explain`, or use `run`",
            ));
        }
        Ok(())
    }

    /// A program's PID 1 waits, so that all that it starts can be followed.
    pub(super) fn held(&mut self, number: u32) {
        let begun = self.trace(number).and_then(|()| {
            let running = self.sandboxes.get(&number).and_then(|s| s.running.as_ref());
            let go = running.map_or(Ok(()), Running::go);
            go.map_err(SandboxError::system("speak to the sandbox's PID 1"))
        });
        if let Err(error) = begun {
            self.fail(number, error.to_string());
        }
    }

    /// Has a process follow what this sandbox does from now on, if that was asked for.
    pub(super) fn trace(&mut self, number: u32) -> Result<(), SandboxError> {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return Ok(());
        };
        let run = sandbox.run.and_then(|run| self.runs.get(&run));
        let (Some(_), Some(running)) = (run.filter(|run| run.asked.explain), &sandbox.running) else {
            return Ok(());
        };
        let followed = sandbox
            .inside
            .map_or(Followed::Init(running.pid), Followed::Interpreter);
        let uid = sandbox.runner.uid_seen_outside(self.ids.as_ref());
        let asker = match self.userdirs {
            Userdirs::Host => Asker::Host {
                root: self
                    .plan
                    .templates
                    .get(&self.profile.rootfs)
                    .is_none_or(|t| t.jail.is_none()),
            },
            Userdirs::Below { .. } | Userdirs::None => Asker::Service(self.profile.name.clone()),
        };
        let (ours, theirs) = socketpair()?;
        let alone = launch::single_threaded("what follows a run")?;
        let life = || denied::follow(followed, theirs.as_fd(), uid, asker);
        helper::start(&alone, 0, &Keeps::These(&[theirs.as_raw_fd()]), |_| (), life)
            .map_err(SandboxError::system("start what follows a run"))?;
        drop(theirs);
        let mut word = [0u8; 4];
        match rustix::net::recv(&ours, &mut word[..], RecvFlags::empty()) {
            Ok((4, _)) if word == [0; 4] => {}
            Ok((4, _)) => {
                let errno = Errno::from_raw_os_error(i32::from_ne_bytes(word));
                return Err(SandboxError::refused(format!(
                    "follow the calls of a run: {errno}; ptrace(2) wants CAP_SYS_PTRACE, and the host to allow it; or leave out `explain`"
                )));
            }
            _ => {
                return Err(SandboxError::refused(
                    "what was to follow a run has ended; leave out `explain`",
                ));
            }
        }
        self.watch(ours.as_fd(), Token::Tracer(number))?;
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.tracer = Some(Tracer {
                socket: ours,
                told: None,
                over: false,
            });
        }
        Ok(())
    }

    pub(super) fn hear_tracer(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(tracer) = &mut sandbox.tracer else { return };
        match rustix::net::recv(&tracer.socket, &mut self.buffer[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok((length, _)) if length > 0 => {
                tracer.told = serde_json::from_slice::<Vec<Denied>>(&self.buffer[..length]).ok();
                return;
            }
            Ok(_) | Err(_) => {
                let _ = self.epoll.delete(tracer.socket.as_fd());
                tracer.over = true;
            }
        }
        let gone = sandbox.gone;
        if tracer.told.is_none() {
            let why = "what followed its calls has ended before the run; leave out `explain`, or ask again";
            self.fail(number, why.into());
        }
        if let Some(cpu) = gone
            && let Some(sandbox) = self.sandboxes.remove(&number)
        {
            self.finish(sandbox, cpu);
        }
    }

    /// Nothing is left of a sandbox: is there something that its tracer still has to say?
    pub(super) fn is_yet_to_tell(&mut self, number: u32, cpu: Duration) -> bool {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return false;
        };
        let waits = sandbox.tracer.as_ref().is_some_and(|tracer| !tracer.over);
        if waits {
            sandbox.phase = Phase::Ending;
            sandbox.gone = Some(cpu);
        }
        waits
    }
}
