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
    Run(std::io::Error),
}

/// Would a scope help? Not without systemd or version 2, nor where this process has been delegated a cgroup already.
pub fn helps() -> bool {
    if !host::systemd_runs() || std::env::var_os(IN_SCOPE).is_some() {
        return false;
    }
    let offer = super::Offer::look();
    offer.version == "2" && offer.places.iter().all(|place| place.topmost)
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
    command.arg(own).args(std::env::args_os().skip(1)).env(IN_SCOPE, "1");
    ScopeError::Run(command.exec())
}

fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join("systemd-run"))
        .find(|program| program.is_file())
}

fn run(program: &Path, unit: &str) -> Command {
    let mut command = Command::new(program);
    let user = rustix::process::geteuid();
    if !user.is_root() {
        command.arg("--user");
        // After su or under cron nobody has set where the user's manager is.
        let runtime = format!("/run/user/{}", user.as_raw());
        if std::env::var_os("XDG_RUNTIME_DIR").is_none() && Path::new(&runtime).is_dir() {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
    }
    command
        .args(["--scope", "--quiet", "--collect", "-p", "Delegate=yes"])
        .arg(format!("--unit={unit}"))
        .arg("--");
    command
}
