//! `up --watch`: brings the app up, and from then on makes it what manifest and code say, whenever one of them changes.
//!
//! The supervisor is a process of its own; this one watches, and asks it over the control socket as any client does.

use super::args::{Cli, Up};
use super::load::Loaded;
use super::progress::Told;
use super::{Done, Failure, up};
use crate::host::Dirs;
use crate::launch;
use crate::plan::Ledger;
use crate::plan::lock::Claim;
use crate::supervise::client::ClientError;
use crate::supervise::protocol::Request;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use notify::{EventKind, RecursiveMode, Watcher};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An editor writes a file in several steps, and a checkout many files: after the last of them it is quiet for so long.
const QUIET: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// Whoever goes on writing is not waited for any longer.
const LONGEST: Duration = Duration::from_secs(2);

/// What is read-only for a service is its code: paths on the host, and who sees them.
struct Code {
    paths: Vec<(PathBuf, String)>,
}

pub(super) fn run(cli: &Cli, args: &Up, loaded: &Loaded, dirs: &Dirs) -> Done {
    // Whoever presses Ctrl-C means the supervisor; this process ends after it. They wait from before there is one, whose end
    // would not be noticed else.
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        mask.add(signal);
    }
    let supervisor = match up::connect(loaded, dirs) {
        Ok((client, status)) => {
            up::reconcile(loaded, dirs, client, &status, args, &mut |_| true)?;
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
                mask.thread_block().map_err(std::io::Error::from)?;
                // Before the watcher makes a thread of its own.
                match launch::fork()? {
                    None => {
                        mask.thread_unblock().map_err(std::io::Error::from)?;
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
    // What a signal or the supervisor's end has this process do while it waits for something else.
    let mut over: Option<Done> = None;
    loop {
        if !heard(&changed, &signals, supervisor, None, &mut over) {
            break;
        }
        if !settle(&changed, &signals, supervisor, &mut over) {
            break;
        }
        let paths = watched.take();
        let mut failures = Vec::new();
        let mut wait = |socket: BorrowedFd<'_>| heard(socket, &signals, supervisor, None, &mut over);
        if paths.contains(&manifest) {
            match again(cli, args, dirs, &mut wait) {
                Ok(fresh) => {
                    code = fresh;
                    watched.hold(&manifest, &code)?;
                }
                // Half-written, or wrong: what runs goes on.
                Err(failure) => failures.push(failure),
            }
        }
        let services = code.seen_by(&paths);
        if !services.is_empty()
            && let Err(failure) = restart(loaded, dirs, services, &mut wait)
        {
            failures.push(failure);
        }
        if over.is_some() {
            break;
        }
        for message in failures.iter().flat_map(|failure| &failure.messages) {
            errln!("error: {message}");
        }
    }
    over.unwrap_or(Ok(0))
}

/// Waits until there is something to be read here, at most so long; signals are obeyed meanwhile. `false` if this process is to
/// end, as `over` then says, or if nothing came.
fn heard(
    what: impl AsFd,
    signals: &SignalFd,
    supervisor: Option<Pid>,
    within: Option<&Timespec>,
    over: &mut Option<Done>,
) -> bool {
    while over.is_none() {
        let mut ready = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::from_borrowed_fd(what.as_fd(), PollFlags::IN),
        ];
        match rustix::event::poll(&mut ready, within) {
            Ok(0) => return false,
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => *over = Some(Err(std::io::Error::from(e).into())),
            Ok(_) if !ready[0].revents().is_empty() => *over = ended(signals, supervisor).transpose(),
            Ok(_) => return true,
        }
    }
    false
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
fn again(cli: &Cli, args: &Up, dirs: &Dirs, wait: &mut dyn FnMut(BorrowedFd<'_>) -> bool) -> Result<Code, Failure> {
    let loaded = up::read(cli)?;
    let (client, status) = up::connect(&loaded, dirs)?;
    up::reconcile(&loaded, dirs, client, &status, args, wait)?;
    Code::of(&loaded, dirs)
}

fn restart(
    loaded: &Loaded,
    dirs: &Dirs,
    services: BTreeSet<&str>,
    wait: &mut dyn FnMut(BorrowedFd<'_>) -> bool,
) -> Result<(), Failure> {
    let services: Vec<String> = services.into_iter().map(str::to_owned).collect();
    outln!("  restart  {} (its code has changed)", services.join(", "));
    let (mut client, _) = up::connect(loaded, dirs)?;
    let mut told = Told::new(services.len());
    let request = Request::Restart {
        services,
        timeout_ms: None,
    };
    client.change(&request, |progress| told.hear(&progress), wait)?;
    told.end();
    Ok(())
}

/// Waits until nothing has changed for a while, or for as long as is reasonable; `false` if this process is to end.
fn settle(changed: &OwnedFd, signals: &SignalFd, supervisor: Option<Pid>, over: &mut Option<Done>) -> bool {
    let mut bytes = [0u8; 4096];
    let begun = Instant::now();
    loop {
        while rustix::io::read(changed, &mut bytes).is_ok_and(|n| n > 0) {}
        if begun.elapsed() >= LONGEST || !heard(changed, signals, supervisor, Some(&QUIET), over) {
            return over.is_none();
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

/// The manifest and the code, and which of them have changed. What else lies beside them is nobody's business.
#[derive(Default)]
struct Concern {
    of: BTreeSet<PathBuf>,
    changed: BTreeSet<PathBuf>,
}

impl Concern {
    /// Is it about one of these?
    fn note(&mut self, event: &notify::Event) -> bool {
        let kind = matches!(
            event.kind,
            EventKind::Create(_) | EventKind::Modify(_) | EventKind::Remove(_)
        );
        // More has happened than the kernel could tell: it may have been any.
        let lost = event.need_rescan();
        let hit = |of: &&PathBuf| lost || kind && event.paths.iter().any(|path| path.starts_with(of));
        let hits: Vec<PathBuf> = self.of.iter().filter(hit).cloned().collect();
        let concerns = !hits.is_empty();
        self.changed.extend(hits);
        concerns
    }
}

struct Watched {
    watcher: notify::RecommendedWatcher,
    concern: Arc<Mutex<Concern>>,
    held: BTreeSet<PathBuf>,
}

impl Watched {
    /// `told` gets a byte whenever something has changed.
    fn new(told: OwnedFd) -> Result<Watched, Failure> {
        let concern = Arc::new(Mutex::new(Concern::default()));
        let noted = concern.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event
                && noted.lock().is_ok_and(|mut concern| concern.note(&event))
            {
                // Full: then there is enough in it to wake the reader.
                let _ = rustix::io::write(&told, b"!");
            }
        })
        .map_err(|e| Failure::failed(format!("watch for changes: {e}")))?;
        Ok(Watched {
            watcher,
            concern,
            held: BTreeSet::new(),
        })
    }

    /// What has changed since this was last asked.
    fn take(&self) -> BTreeSet<PathBuf> {
        let concern = self.concern.lock();
        concern.map_or_else(|_| BTreeSet::new(), |mut concern| std::mem::take(&mut concern.changed))
    }

    fn hold(&mut self, manifest: &Path, code: &Code) -> Result<(), Failure> {
        if let Ok(mut concern) = self.concern.lock() {
            let sources = code.paths.iter().map(|(source, _)| source.clone());
            concern.of = sources.chain([manifest.to_owned()]).collect();
        }
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
