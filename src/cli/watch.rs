//! `up --watch`: brings the app up, and from then on makes it what manifest and code say, whenever one of them changes.
//!
//! The supervisor is a process of its own; this one watches, and asks it over the control socket as any client does.

use super::args::{Cli, Up};
use super::file_changes::{FileChanges, Unwatched};
use super::progress::Told;
use super::reconcile::{connect, planned, reconcile};
use super::supervisor::{attached, detach};
use super::{Done, Failure, load};
use crate::app::Loaded;
use crate::host::Dirs;
use crate::launch;
use crate::plan::lock::Claim;
use crate::plan::{Ledger, Mount, Unit};
use crate::supervise::client::ClientError;
use crate::supervise::protocol::Request;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, WaitOptions};
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An editor writes a file in several steps, and a checkout many files: after the last of them it is quiet for so long.
const QUIET: Duration = Duration::from_millis(200);

/// Whoever goes on writing is not waited for any longer.
const LONGEST: Duration = Duration::from_secs(2);

/// What is read-only for a service is its code: what each is shown.
struct Code {
    services: Vec<(String, Vec<Shown>)>,
    /// PySecure's own, which is nobody's code wherever it lies.
    state: PathBuf,
}

/// A path on the host that a service is shown.
struct Shown {
    source: PathBuf,
    code: bool,
    /// What it does not see of it.
    hidden: Vec<PathBuf>,
}

pub(super) fn run(cli: &Cli, args: &Up, loaded: &Loaded, dirs: &Dirs) -> Done {
    // Whoever presses Ctrl-C means the supervisor; this process ends after it. They wait from before there is one, whose end
    // would not be noticed else.
    let mut mask = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGCHLD] {
        mask.add(signal);
    }
    let supervisor = match bring_up(args, loaded, dirs, &mask)? {
        App::Over(code) => return Ok(code),
        App::Runs(supervisor) => supervisor,
    };
    mask.thread_block().map_err(std::io::Error::from)?;
    let signals =
        SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(std::io::Error::from)?;
    let mut changes = FileChanges::new().map_err(|e| Failure::failed(format!("watch for changes: {e}")))?;
    let manifest = std::fs::canonicalize(loaded.text.path())?;
    let mut code = Code::of(loaded, dirs)?;
    hold(&mut changes, &manifest, &code)?;
    errln!("note: watching {} and the code of its services", manifest.display());
    // What a signal or the supervisor's end has this process do while it waits for something else.
    let mut over: Option<Done> = None;
    loop {
        if !heard(&changes, &signals, supervisor, None, &mut over) {
            break;
        }
        if !changes.read() {
            continue;
        }
        if !settle(&mut changes, &signals, supervisor, &mut over) {
            break;
        }
        let paths = changes.take();
        let mut failures = Vec::new();
        let mut wait = |socket: BorrowedFd<'_>| heard(socket, &signals, supervisor, None, &mut over);
        if paths.contains(&manifest) {
            match again(cli, args, dirs, &mut wait) {
                Ok(fresh) => {
                    code = fresh;
                    hold(&mut changes, &manifest, &code)?;
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
        failures.iter().for_each(Failure::tell);
    }
    over.unwrap_or(Ok(0))
}

/// How it is with the app.
enum App {
    /// It is up. The supervisor, if it is a child of this process.
    Runs(Option<Pid>),
    /// It did not come up; the exit code.
    Over(u8),
}

/// Makes the app what the manifest says, and starts it if it is not up. In a supervisor's own process it does not return.
fn bring_up(args: &Up, loaded: &Loaded, dirs: &Dirs, mask: &SigSet) -> Result<App, Failure> {
    match connect(loaded, dirs) {
        Ok((client, status)) => {
            reconcile(loaded, dirs, client, &status, args, &mut |_| true)?;
            Ok(App::Runs(None))
        }
        Err(ClientError::NotUp { .. }) => {
            let claim = Claim::supervise(dirs)?;
            let plan = planned(loaded, dirs, &claim, args.strict)?;
            if args.detach {
                let code = detach(plan, claim, &[])?;
                // A service that has died at once may be mended by the next change.
                return Ok(match connect(loaded, dirs) {
                    Ok(_) => App::Runs(None),
                    Err(_) => App::Over(code),
                });
            }
            mask.thread_block().map_err(std::io::Error::from)?;
            match launch::fork()? {
                None => {
                    mask.thread_unblock().map_err(std::io::Error::from)?;
                    let code = match attached(plan, claim, &[]) {
                        Ok(code) => code,
                        Err(failure) => {
                            failure.tell();
                            failure.code
                        }
                    };
                    std::process::exit(code.into());
                }
                supervisor => Ok(App::Runs(supervisor)),
            }
        }
        Err(e) => Err(e.into()),
    }
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
                return Ok(Some(crate::sys::exit_status::exit_code(status.as_raw())));
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
    let loaded = load::with_warnings(cli)?;
    let (client, status) = connect(&loaded, dirs)?;
    reconcile(&loaded, dirs, client, &status, args, wait)?;
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
    let (mut client, _) = connect(loaded, dirs)?;
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
fn settle(changes: &mut FileChanges, signals: &SignalFd, supervisor: Option<Pid>, over: &mut Option<Done>) -> bool {
    let begun = Instant::now();
    let mut last = begun;
    while over.is_none() && begun.elapsed() < LONGEST {
        let left = QUIET.saturating_sub(last.elapsed());
        if left.is_zero() {
            break;
        }
        let left = Timespec {
            tv_sec: 0,
            tv_nsec: left.subsec_nanos().into(),
        };
        if heard(&*changes, signals, supervisor, Some(&left), over) && changes.read() {
            last = Instant::now();
        }
    }
    over.is_none()
}

impl Code {
    fn of(loaded: &Loaded, dirs: &Dirs) -> Result<Code, Failure> {
        let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
        let plan = loaded.plan(dirs, &mut ledger)?;
        let shown = |mount: &Mount| Shown {
            code: !mount.writable && !mount.source.starts_with(&dirs.state),
            hidden: mount
                .hidden
                .iter()
                .chain(&mount.masked)
                .map(|path| mount.source.join(path))
                .collect(),
            source: mount.source.clone(),
        };
        let of = |service: &Unit| (service.name.clone(), service.mounts.iter().map(shown).collect());
        Ok(Code {
            services: plan.services.iter().map(of).collect(),
            state: dirs.state.clone(),
        })
    }

    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        let all = self.services.iter().flat_map(|(_, shown)| shown);
        all.filter(|shown| shown.code).map(|shown| &shown.source)
    }

    /// The services that are to start anew for these changes. The innermost of what a service is shown decides what a path is to it:
    /// data in its code, to which it writes itself, is none.
    fn seen_by(&self, changed: &BTreeSet<PathBuf>) -> BTreeSet<&str> {
        let is_code = |shown: &[Shown], path: &PathBuf| {
            let holders = shown.iter().filter(|s| path.starts_with(&s.source));
            let inner = holders.max_by_key(|s| s.source.components().count());
            inner.is_some_and(|s| s.code && !s.hidden.iter().any(|hidden| path.starts_with(hidden)))
        };
        let changed: Vec<&PathBuf> = changed.iter().filter(|path| !path.starts_with(&self.state)).collect();
        let concerned = self
            .services
            .iter()
            .filter(|(_, shown)| changed.iter().any(|path| is_code(shown, path)));
        concerned.map(|(name, _)| name.as_str()).collect()
    }
}

/// From now on `changes` is about the manifest and the code.
fn hold(changes: &mut FileChanges, manifest: &Path, code: &Code) -> Result<(), Failure> {
    let sources = code.paths().cloned();
    changes
        .hold(sources.chain([manifest.to_owned()]).collect())
        .map_err(|Unwatched(path, errno)| {
            Failure::failed(format!(
                "watch {}: {errno}; raise fs.inotify.max_user_watches, or leave --watch out",
                path.display()
            ))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_concerns_those_who_see_it_as_code() {
        let shown = |source: &str, code: bool, hidden: &[&str]| Shown {
            source: source.into(),
            code,
            hidden: hidden.iter().map(|path| Path::new(source).join(path)).collect(),
        };
        let code = Code {
            services: vec![
                (
                    "web".to_owned(),
                    vec![shown("/srv/app", true, &["tests"]), shown("/srv/app/data", false, &[])],
                ),
                ("lib".to_owned(), vec![shown("/srv/app/lib", true, &[])]),
                ("file".to_owned(), vec![shown("/srv/app/web.conf", true, &[])]),
            ],
            state: "/srv/app/state".into(),
        };
        let seen = |path: &str| {
            code.seen_by(&[PathBuf::from(path)].into())
                .into_iter()
                .collect::<Vec<_>>()
        };
        assert_eq!(seen("/srv/app/a.py"), ["web"]);
        assert_eq!(seen("/srv/app/lib/b.py"), ["lib", "web"]);
        assert_eq!(seen("/srv/app/web.conf"), ["file", "web"]);
        assert_eq!(seen("/srv/app"), ["web"]);
        // Its own data, what it does not see, what PySecure keeps, and what lies beside it.
        for other in [
            "/srv/app/data/x",
            "/srv/app/tests/a.py",
            "/srv/app/state/apps/log",
            "/srv/application/a.py",
        ] {
            assert!(seen(other).is_empty(), "{other}");
        }
        assert_eq!(code.paths().count(), 3);
    }
}
