//! A cgroup of our own where systemd has the say: `pysecure` runs itself once more in a transient scope with
//! `Delegate=yes`, of the user's manager or, as root, of the system's. The scope goes when its last process ends.

use super::host::{self, IN_SCOPE};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    #[error("systemd-run is not installed (Debian: apt install systemd)")]
    NoProgram,
    #[error("{0}")]
    Refused(String),
    #[error("run systemd-run: {0}")]
    Run(#[source] std::io::Error),
}

/// Would a scope help? Not without systemd or version 2, nor where this process has been delegated a cgroup already.
pub fn helps() -> bool {
    // A unit has a cgroup of its own, out of which it must not go.
    if !host::systemd_runs() || host::is_unit() || std::env::var_os(IN_SCOPE).is_some() {
        return false;
    }
    let offer = super::Offer::look();
    offer.version == "2" && offer.places.iter().all(|place| place.topmost)
}

/// What limits a scope could hold, seen from outside; `None` if there is no manager to ask.
pub fn offer() -> Option<super::Offer> {
    program()?;
    let user = rustix::process::geteuid();
    if user.is_root() {
        return Some(super::Offer::look());
    }
    let id = user.as_raw();
    let runtime = std::env::var_os(RUNTIME).map_or_else(|| format!("/run/user/{id}").into(), PathBuf::from);
    let manager = format!("user.slice/user-{id}.slice/user@{id}.service");
    (runtime.join("systemd/private").exists() && runtime.is_absolute()).then(|| super::Offer::below(&manager))?
}

/// Runs this program with the same arguments in a scope. Returns only if that cannot be done.
pub fn enter(app: &str) -> ScopeError {
    let Some(program) = program() else {
        return ScopeError::NoProgram;
    };
    // Tried first, for what the real one prints and ends with is the program's own.
    let tried = run(&program, &format!("pysecure-try-{}", std::process::id()))
        .arg("true")
        .stdin(Stdio::null())
        .output();
    match tried {
        Err(e) => return ScopeError::Run(e),
        Ok(out) if !out.status.success() => {
            let said = String::from_utf8_lossy(&out.stderr);
            let said = said.lines().next_back().unwrap_or("it ended without a word").trim();
            return ScopeError::Refused(format!("systemd-run: {said}"));
        }
        Ok(_) => {}
    }
    let own = match std::fs::read_link("/proc/self/exe") {
        Ok(own) => own,
        Err(e) => return ScopeError::Run(e),
    };
    let mut command = run(&program, &format!("pysecure-{app}-{}", std::process::id()));
    if borrowed_runtime().is_some() {
        // For systemd-run alone: by it this program would find its own runtime directory elsewhere than others do.
        command.args(["env", "-u", RUNTIME]);
    }
    command.arg(own).args(std::env::args_os().skip(1)).env(IN_SCOPE, "1");
    ScopeError::Run(command.exec())
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join("systemd-run"))
        .find(|program| program.is_file())
}

const RUNTIME: &str = "XDG_RUNTIME_DIR";

/// Where the user's manager is, if nobody has set that, as after su or under cron.
fn borrowed_runtime() -> Option<PathBuf> {
    let user = rustix::process::geteuid();
    let usual = Path::new("/run/user").join(user.as_raw().to_string());
    (!user.is_root() && std::env::var_os(RUNTIME).is_none() && usual.is_dir()).then_some(usual)
}

fn run(program: &Path, unit: &str) -> Command {
    let mut command = Command::new(program);
    if !rustix::process::geteuid().is_root() {
        command.arg("--user");
        if let Some(runtime) = borrowed_runtime() {
            command.env(RUNTIME, runtime);
        }
    }
    command
        .args(["--scope", "--quiet", "--collect", "-p", "Delegate=yes"])
        .arg(format!("--unit={unit}"))
        .arg("--");
    command
}
