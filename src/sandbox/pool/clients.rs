//! Clients: whom a pool serves, and what they ask for.

use super::*;

/// Runs that wait, of all clients.
const MOST_WAITING: usize = 10_000;
/// Overlays of runs that have ended: each holds memory until it is said what becomes of it.
const MOST_UNDECIDED: usize = 64;
/// Connections of clients at once.
const MOST_CLIENTS: usize = 256;

impl Pool {
    pub(super) fn meet(&mut self, connection: OwnedFd) -> Result<(), SandboxError> {
        let number = self.next_serial();
        self.watch(connection.as_fd(), Token::Client(number))?;
        self.clients.insert(number, connection);
        Ok(())
    }

    pub(super) fn accept(&mut self, number: u32) {
        let Some(listener) = self.listeners.get(number as usize) else {
            return;
        };
        let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let Ok(connection) = accepted else { return };
        if self.clients.len() < MOST_CLIENTS {
            let _ = self.meet(connection);
        }
    }

    pub(super) fn hear_client(&mut self, number: u32) {
        let mut fds = Vec::new();
        let Some(client) = self.clients.get(&number) else {
            return;
        };
        let taken = sys::receive_fds(client.as_fd(), &mut self.buffer, MOST_DESCRIPTORS, &mut fds);
        let length = match taken {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(0) | Err(_) => return self.client_gone(number),
            Ok(length) => length,
        };
        match serde_json::from_slice::<Asked>(&self.buffer[..length]) {
            Ok(Asked::Run(run)) => self.asked(number, *run, fds),
            Ok(Asked::Profile(_)) => self.tell_refused(fds.first(), "the sandbox has a profile already"),
            Err(e) => self.tell_refused(fds.first(), &format!("the request: {e}")),
        }
    }

    /// To whoever asked, on the connection that came first with the request.
    fn tell_refused(&self, connection: Option<&OwnedFd>, error: &str) {
        if let Some(connection) = connection {
            tell(
                connection,
                &Event::Refused {
                    error: error.to_owned(),
                },
            );
        }
    }

    fn client_gone(&mut self, number: u32) {
        if let Some(connection) = self.clients.remove(&number) {
            self.unwatch(connection.as_fd());
        }
        let its: Vec<u32> = self
            .runs
            .iter()
            .filter(|(_, run)| run.client == number)
            .map(|(n, _)| *n)
            .collect();
        for run in its {
            self.kill(run, "stopped");
        }
    }

    pub(super) fn asked(&mut self, client: u32, mut asked: Run, fds: Vec<OwnedFd>) {
        let mut names = std::mem::take(&mut asked.fds);
        let at = names.iter().position(|name| name == "run");
        let mut fds = fds;
        let (Some(at), true) = (at.filter(|at| *at < fds.len()), names.len() == fds.len()) else {
            return self.tell_refused(fds.first(), "name each descriptor, and one of them `run`");
        };
        names.remove(at);
        let connection = fds.remove(at);
        let refuse = |error: SandboxError| {
            tell(
                &connection,
                &Event::Refused {
                    error: error.to_string(),
                },
            )
        };
        if asked.command.as_ref().is_some_and(Vec::is_empty) {
            return refuse(SandboxError::refused(
                "`command` is empty: name a program, or leave it out",
            ));
        }
        if self.waiting.len() >= MOST_WAITING {
            return refuse(SandboxError::refused("too many runs wait already; ask again later"));
        }
        let limits = match asked.session {
            true => asked.limits.of_session(&self.profile.limits),
            false => asked.limits.within(&self.profile.limits),
        };
        if let Err(error) = asked.limits.check() {
            return refuse(error);
        }
        if asked.explain
            && let Err(error) = self.may_explain(&asked)
        {
            return refuse(error);
        }
        if asked.overlay && self.undecided.len() >= MOST_UNDECIDED {
            return refuse(SandboxError::refused(
                "too many runs with an overlay have ended, of which it is not said whether their changes are kept; commit or discard",
            ));
        }
        if asked.overlay && self.in_place() {
            return refuse(SandboxError::refused(
                "an overlay is a mount, which there is none of without namespaces; leave out `overlay`, or `isolation`",
            ));
        }
        if asked.overlay && asked.userdir.is_none() {
            return refuse(SandboxError::refused(
                "an overlay is of a userdir; name that, or leave out `overlay`",
            ));
        }
        if !asked.readable.is_empty() {
            match &self.userdirs {
                Userdirs::Host => match canonical(&asked.readable, self.profile.isolation) {
                    Ok(paths) => {
                        as_shown(&mut asked, &paths);
                        asked.readable = paths;
                    }
                    Err(error) => return refuse(error),
                },
                _ => {
                    return refuse(SandboxError::refused(
                        "what a sandbox may read is the manifest's to say",
                    ));
                }
            }
        }
        let found = asked
            .userdir
            .as_deref()
            .map(|path| userdir::find(&self.userdirs, path))
            .transpose();
        let userdir = match found {
            Ok(userdir) => userdir,
            Err(error) => return refuse(error),
        };
        let number = self.next_serial();
        if let Err(error) = self.watch(connection.as_fd(), Token::Run(number)) {
            return refuse(error);
        }
        if let Some(bytes) = limits
            .output
            .filter(|most| asked.limits.output.is_none_or(|held| held > *most))
        {
            tell(&connection, &Event::Output { bytes });
        }
        let run = Pending {
            client,
            asked,
            names,
            fds,
            connection,
            limits,
            userdir,
            upper: None,
            given: false,
            scratch: None,
            sandbox: None,
            began: None,
            spent: Spent::default(),
            again: false,
            killed: None,
            look: None,
            walk: None,
        };
        self.runs.insert(number, run);
        self.waiting.push_back(number);
        self.assign();
    }

    pub(super) fn hear_run(&mut self, number: u32) {
        if self.undecided.contains_key(&number) {
            return self.decide(number);
        }
        let Some(run) = self.runs.get(&number) else { return };
        let mut bytes = [0u8; 256];
        match rustix::net::recv(&run.connection, &mut bytes[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok((0, _)) | Err(_) => {
                self.unwatch_run(number);
                self.kill(number, "stopped");
            }
            Ok((length, _)) => match serde_json::from_slice::<Order>(&bytes[..length]) {
                Ok(Order::Kill(reason)) => self.kill(number, &reason),
                Ok(Order::Interrupt(_)) => self.interrupt(number),
                Ok(Order::Commit(_) | Order::Discard(_)) | Err(_) => {}
            },
        }
    }

    /// What becomes of what a run has written to an overlay. Who says nothing lets it go.
    fn decide(&mut self, number: u32) {
        let mut bytes = [0u8; 64];
        let order = match self.undecided.get(&number) {
            None => return,
            Some(run) => match rustix::net::recv(&run.connection, &mut bytes[..], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok((length, _)) => serde_json::from_slice::<Order>(&bytes[..length]).ok(),
                Err(_) => None,
            },
        };
        let Some(run) = self.undecided.remove(&number) else {
            return;
        };
        self.unwatch(run.connection.as_fd());
        let event = match (order, &run.upper, &run.userdir) {
            (Some(Order::Commit(true)), Some(upper), Some(userdir)) => match upper.commit(userdir) {
                Ok(()) => Event::Committed,
                Err(error) => Event::Refused {
                    error: error.to_string(),
                },
            },
            _ => Event::Discarded,
        };
        tell(&run.connection, &event);
    }

    fn unwatch_run(&self, number: u32) {
        if let Some(run) = self.runs.get(&number) {
            self.unwatch(run.connection.as_fd());
        }
    }

    fn interrupt(&mut self, number: u32) {
        let sandbox = self.runs.get(&number).and_then(|run| run.sandbox);
        let sandbox = sandbox.and_then(|sandbox| self.sandboxes.get(&sandbox));
        if let Some(sandbox) = sandbox.filter(|s| s.phase == Phase::Running) {
            match sandbox.inside {
                Some(inside) => drop(sys::kill(inside.as_raw_nonzero().get(), libc::SIGINT)),
                None => {
                    if let Some(running) = &sandbox.running {
                        let _ = running.signal(rustix::process::Signal::INT);
                    }
                }
            }
        }
    }
}

/// A program that is named by way of a link lies where that leads.
fn as_shown(asked: &mut Run, paths: &[PathBuf]) {
    let Some(program) = asked.command.as_mut().and_then(|command| command.first_mut()) else {
        return;
    };
    let named = Path::new(&*program);
    let below = |(given, real): (&PathBuf, &PathBuf)| {
        let inside = named.strip_prefix(given).ok()?;
        Some(if inside.as_os_str().is_empty() {
            real.clone()
        } else {
            real.join(inside)
        })
    };
    if let Some(path) = asked.readable.iter().zip(paths).find_map(below) {
        *program = path.to_string_lossy().into_owned();
    }
}
