//! `up --watch`: brings the app up, and from then on makes it what manifest and code say, whenever one of them changes.
//!
//! The supervisor is a process of its own; this one watches, and asks it over the control socket as any client does.

use super::args::{Cli, Up};
use super::load::Loaded;
use super::progress::Told;
use super::{Done, Failure, up};
use crate::launch;
use crate::plan::lock::Claim;
use crate::plan::{Dirs, Ledger};
use crate::supervise::client::ClientError;
use crate::supervise::protocol::Request;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use notify::{EventKind, RecursiveMode, Watcher};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// An editor writes a file in several steps, and a checkout many files: after the last of them it is quiet for so long.
const QUIET: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// What is read-only for a service is its code: paths on the host, and who sees them.
struct Code {
    paths: Vec<(PathBuf, String)>,
}

pub(super) fn run(cli: &Cli, args: &Up, loaded: &Loaded, dirs: &Dirs) -> Done {
    let supervisor = match up::connect(loaded, dirs) {
        Ok((client, status)) => {
            up::reconcile(loaded, dirs, client, &status, args)?;
            None
        }
        Err(ClientError::NotUp { .. }) => {
            let claim = Claim::supervise(dirs)?;
            let plan = up::planned(loaded, dirs, &claim, args.strict)?;
            if args.detach {
                let code = up::detach(plan, claim)?;
                if code != 0 {
                    return Ok(code);
                }
                None
            } else {
                // Before the watcher makes a thread of its own.
                match launch::fork()? {
                    None => {
                        let code = match up::attached(plan, claim) {
                            Ok(code) => code,
                            Err(failure) => {
                                failure.messages.iter().for_each(|m| errln!("error: {m}"));
                                failure.code
                            }
                        };
                        std::process::exit(code.into());
                    }
                    pid => pid,
                }
            }
        }
        Err(e) => return Err(e.into()),
    };
    // Whoever presses Ctrl-C means the supervisor; this process ends after it.
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        mask.add(signal);
    }
    mask.thread_block().map_err(std::io::Error::from)?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(std::io::Error::from)?;
    let (changed, told) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK)
        .map_err(std::io::Error::from)?;
    let mut watched = Watched::new(told)?;
    let manifest = std::fs::canonicalize(&loaded.source.path)?;
    let mut code = Code::of(loaded, dirs)?;
    watched.hold(&manifest, &code)?;
    errln!("note: watching {} and the code of its services", manifest.display());
    loop {
        let mut ready = [
            PollFd::new(&signals, PollFlags::IN),
            PollFd::new(&changed, PollFlags::IN),
        ];
        match rustix::event::poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(std::io::Error::from)?,
        };
        if !ready[0].revents().is_empty()
            && let Some(code) = ended(&signals, supervisor)?
        {
            return Ok(code);
        }
        if ready[1].revents().is_empty() {
            continue;
        }
        let paths = settle(&changed, &watched)?;
        if paths.iter().any(|p| *p == manifest) {
            match again(cli, args, dirs) {
                Ok(fresh) => {
                    code = fresh;
                    watched.hold(&manifest, &code)?;
                }
                // Half-written, or wrong: what runs goes on.
                Err(failure) => failure.messages.iter().for_each(|m| errln!("error: {m}")),
            }
        }
        let services = code.seen_by(&paths);
        if !services.is_empty()
            && let Err(failure) = restart(loaded, dirs, services)
        {
            failure.messages.iter().for_each(|m| errln!("error: {m}"));
        }
    }
}

/// Has the supervisor ended, or is this process to end? The exit code.
fn ended(signals: &SignalFd, supervisor: Option<Pid>) -> Result<Option<u8>, Failure> {
    let mut end = false;
    while let Ok(Some(info)) = signals.read_signal() {
        if info.ssi_signo == Signal::SIGCHLD as u32 {
            let Some(pid) = supervisor else { continue };
            let waited = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).map_err(std::io::Error::from)?;
            if let Some((_, status)) = waited {
                return Ok(Some(crate::supervise::exit_code(status.as_raw())));
            }
        } else if let Some(pid) = supervisor {
            // A terminal signals both; kill(1) this one alone. The supervisor takes two for one.
            if info.ssi_signo != Signal::SIGINT as u32 {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            } else if info.ssi_code <= 0 {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            }
        } else {
            end = true;
        }
    }
    Ok(end.then_some(0))
}

/// The manifest has changed: reads it anew and makes it so.
fn again(cli: &Cli, args: &Up, dirs: &Dirs) -> Result<Code, Failure> {
    let loaded = up::read(cli)?;
    let (client, status) = up::connect(&loaded, dirs)?;
    up::reconcile(&loaded, dirs, client, &status, args)?;
    Code::of(&loaded, dirs)
}

fn restart(loaded: &Loaded, dirs: &Dirs, services: BTreeSet<&str>) -> Result<(), Failure> {
    let services: Vec<String> = services.into_iter().map(str::to_owned).collect();
    outln!("  restart  {} (its code has changed)", services.join(", "));
    let (mut client, _) = up::connect(loaded, dirs)?;
    let mut told = Told::new(services.len());
    let request = Request::Restart {
        services,
        timeout_ms: None,
    };
    client.change(&request, |progress| told.hear(&progress))?;
    told.end();
    Ok(())
}

/// Waits until nothing has changed for a while; what has.
fn settle(changed: &OwnedFd, watched: &Watched) -> Result<BTreeSet<PathBuf>, Failure> {
    let mut bytes = [0u8; 4096];
    loop {
        while rustix::io::read(changed, &mut bytes).is_ok_and(|n| n > 0) {}
        match rustix::event::poll(&mut [PollFd::new(changed, PollFlags::IN)], Some(&QUIET)) {
            Ok(0) => return Ok(std::iter::from_fn(|| watched.paths.try_recv().ok()).flatten().collect()),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(std::io::Error::from(e).into()),
        }
    }
}

impl Code {
    fn of(loaded: &Loaded, dirs: &Dirs) -> Result<Code, Failure> {
        let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
        let plan = loaded.plan(dirs, &mut ledger).map_err(|f| loaded.tell(f))?;
        let mut paths = Vec::new();
        for service in &plan.services {
            let code = service
                .mounts
                .iter()
                .filter(|m| !m.writable && !m.source.starts_with(&dirs.state));
            paths.extend(code.map(|m| (m.source.clone(), service.name.clone())));
        }
        Ok(Code { paths })
    }

    fn seen_by(&self, changed: &BTreeSet<PathBuf>) -> BTreeSet<&str> {
        let concerned = self
            .paths
            .iter()
            .filter(|(source, _)| changed.iter().any(|p| p.starts_with(source)));
        concerned.map(|(_, service)| service.as_str()).collect()
    }
}

struct Watched {
    watcher: notify::RecommendedWatcher,
    paths: std::sync::mpsc::Receiver<Vec<PathBuf>>,
    held: BTreeSet<PathBuf>,
}

impl Watched {
    /// `told` gets a byte whenever something has changed.
    fn new(told: OwnedFd) -> Result<Watched, Failure> {
        let (sender, paths) = std::sync::mpsc::channel();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && matches!(
                    event.kind,
                    EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)
                )
                && sender.send(event.paths).is_ok()
            {
                // Full: then there is enough in it to wake the reader.
                let _ = rustix::io::write(&told, b"!");
            }
        })
        .map_err(|e| Failure::failed(format!("watch for changes: {e}")))?;
        Ok(Watched {
            watcher,
            paths,
            held: BTreeSet::new(),
        })
    }

    fn hold(&mut self, manifest: &Path, code: &Code) -> Result<(), Failure> {
        let folder = manifest.parent().unwrap_or(Path::new("/")).to_owned();
        // An editor puts a new file in the manifest's place, so it is the folder that is watched.
        let mut wanted = vec![(folder, RecursiveMode::NonRecursive)];
        for (source, _) in &code.paths {
            let at = if source.is_dir() {
                source.as_path()
            } else {
                source.parent().unwrap_or(source)
            };
            let mode = if source.is_dir() {
                RecursiveMode::Recursive
            } else {
                RecursiveMode::NonRecursive
            };
            wanted.push((at.to_owned(), mode));
        }
        for (path, mode) in wanted {
            if self.held.insert(path.clone()) {
                let watched = self.watcher.watch(&path, mode);
                watched.map_err(|e| {
                    Failure::failed(format!(
                        "watch {}: {e}; raise fs.inotify.max_user_watches, or leave --watch out",
                        path.display()
                    ))
                })?;
            }
        }
        Ok(())
    }
}
