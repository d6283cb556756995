//! Where PySecure keeps things. Everything is the owner's alone (mode 0700): a file below could be
//! set-id for a service (CVE-2021-41091, CVE-2021-41103).
//!
//! | what | root | ordinary user |
//! | --- | --- | --- |
//! | state: ledger, data, logs | `/var/lib/pysecure/apps/APP` | `$XDG_DATA_HOME/pysecure/apps/APP` (`~/.local/share`) |
//! | runtime: socket, bundles | `/run/pysecure/APP` | the state's `run/APP` |
//!
//! An ordinary user's sockets do not lie in `$XDG_RUNTIME_DIR`: cron and su(1) have another one or none, and it is
//! emptied at logout. Beside the data, whoever finds the data finds its supervisor.
//!
//! `PYSECURE_STATE_DIR` (or `--state-dir`) puts both below one directory. That may be there already, and be others' as
//! well, such as `/tmp`: its mode is not touched, and what lies in it is made for one user and checked to be his.

use super::HostError;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Holds a directory for every app.
    pub state: PathBuf,
    /// This app's ledger, resources and logs.
    pub app: PathBuf,
    /// This app's socket and OCI bundles; gone after `down`.
    pub run: PathBuf,
    /// The sockets of the external service, which runs on the host and could not pass `run`; gone after `down`.
    pub external: PathBuf,
}

impl Dirs {
    /// `root`: is this the host's root, rather than a user who is root in a namespace of his own?
    pub fn find(app: &str, root: bool, state_dir: Option<&Path>) -> Result<Dirs, HostError> {
        let (state, runtime) = match state_dir {
            Some(given) => {
                let state =
                    std::path::absolute(given).map_err(|e| HostError::new("find the state directory", given, e))?;
                let runtime = state.join("run");
                (state, runtime)
            }
            None if root => ("/var/lib/pysecure".into(), "/run/pysecure".into()),
            None => {
                let data = absolute_variable("XDG_DATA_HOME")
                    .or_else(|| absolute_variable("HOME").map(|h| h.join(".local/share")));
                let state = data
                    .ok_or_else(|| {
                        HostError::new(
                            "find the state directory",
                            "$HOME",
                            "is not set; set it, or give --state-dir",
                        )
                    })?
                    .join("pysecure");
                let runtime = state.join("run");
                (state, runtime)
            }
        };
        let external = runtime.with_file_name(match runtime.file_name() {
            Some(name) => format!("{}-external", name.to_string_lossy()),
            None => "external".to_owned(),
        });
        let dirs = Dirs {
            app: state.join("apps").join(app),
            external: external.join(app),
            run: runtime.join(app),
            state,
        };
        check_state(&dirs.state, !root && rustix::process::geteuid().is_root())?;
        // In a directory of others, they may have been first.
        for own in [
            dirs.locks(),
            dirs.state.join("apps"),
            dirs.state.join("jails"),
            runtime,
            external,
        ] {
            check_own(&own)?;
        }
        Ok(dirs)
    }

    /// Locks of apps; they outlast the apps' data, since a lock that is deleted locks nobody out.
    pub fn locks(&self) -> PathBuf {
        self.state.join("locks")
    }

    pub fn ledger(&self) -> PathBuf {
        self.app.join("ledger.json")
    }

    pub fn resources(&self) -> PathBuf {
        self.app.join("resources")
    }

    /// Where resources get their first content, before they are put in place as a whole; removed after that.
    pub fn initializing(&self) -> PathBuf {
        self.app.join("initializing")
    }

    /// What `down --purge` is deleting, and what one that was killed has left.
    pub fn purging(&self) -> PathBuf {
        self.app.join("purging")
    }

    /// What services have written to their roots, where that is kept.
    pub fn roots(&self) -> PathBuf {
        self.app.join("writable")
    }

    pub fn logs(&self) -> PathBuf {
        self.app.join("logs")
    }

    /// What a service's programs opened when they were traced, a path a line.
    pub fn trace(&self, service: &str) -> PathBuf {
        self.app.join("traces").join(service)
    }

    pub fn log(&self, service: &str) -> PathBuf {
        self.logs().join(format!("{service}.log"))
    }

    pub fn socket(&self) -> PathBuf {
        self.run.join("control.sock")
    }

    /// Where Prometheus and the like ask.
    pub fn metrics(&self) -> PathBuf {
        self.run.join("metrics.sock")
    }

    /// The OCI bundle of a service.
    pub fn bundle(&self, service: &str) -> PathBuf {
        self.run.join("services").join(service)
    }

    /// Holds the socket of sd_notify(3) of a service; a directory that only it sees.
    pub fn notify(&self, service: &str) -> PathBuf {
        self.run.join("notify").join(service)
    }

    /// Holds the socket of syslog(3) of a service; a directory that only it sees.
    pub fn syslog(&self, service: &str) -> PathBuf {
        self.run.join("syslog").join(service)
    }

    /// The sockets of the sandboxes that `service` may use; a directory that only it sees.
    pub fn sandboxes(&self, service: &str) -> PathBuf {
        self.run.join("sandbox").join(service)
    }

    /// The listening sockets that `caller` may connect to; a directory that only it sees.
    pub fn rpc(&self, caller: &str) -> PathBuf {
        self.run.join("rpc").join(caller)
    }
}

/// The XDG base directory specification: a relative path is to be ignored.
fn absolute_variable(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute())
}

/// Makes a directory with a socket in it that one service is to see: its id may pass, nobody may write.
pub fn make_passable(path: &Path) -> Result<(), HostError> {
    make(path, 0o711)
}

/// Makes a directory for this user alone, and its parents. One that is there already is to be like that.
pub fn make_private(path: &Path) -> Result<(), HostError> {
    make(path, 0o700)
}

fn make(path: &Path, mode: u32) -> Result<(), HostError> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    let wrong = |e: std::io::Error| HostError::new("make directory", path, e);
    if let Some(above) = path.parent().filter(|above| !above.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(above)
            .map_err(wrong)?;
    }
    let fresh = match std::fs::DirBuilder::new().mode(mode).create(path) {
        Ok(()) => true,
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => false,
        Err(e) => return Err(wrong(e)),
    };
    let found = std::fs::symlink_metadata(path).map_err(wrong)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(not_ours(path));
    }
    let has = found.mode() & 0o777;
    // A directory of ours may come to hold sockets as well.
    if has != mode && (fresh || mode == 0o711 && has == 0o700) {
        return set_mode(path, mode);
    }
    if has & 0o077 & !mode != 0 {
        return Err(HostError::new(
            "use directory",
            path,
            format!(
                "it has mode {has:04o}, and what PySecure keeps there is no other user's to see: `chmod {mode:04o} {}`, if it \
                 is PySecure's, or move it away",
                path.display()
            ),
        ));
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> Result<(), HostError> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .map_err(|e| HostError::new("change the mode of", path, e))
}

fn not_ours(path: &Path) -> HostError {
    HostError::new(
        "use directory",
        path,
        "it is another user's or a link; give a directory of your own with --state-dir",
    )
}

/// Makes the state directory, if it is not there. If it is, it stays as it is.
pub fn make_state(path: &Path) -> Result<(), HostError> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| HostError::new("make directory", path, e))
}

/// Is the state directory, if it is there, one in which others cannot put something in the place of what is ours? It may be
/// others' to write to if it is as `/tmp` is: root's or ours, and sticky.
///
/// `inside`: is this the outer namespace of an ordinary user, which shows as one all whose ids it does not map? What is
/// another user's and no root's, is then seen only by who looked before.
pub fn check_state(path: &Path, inside: bool) -> Result<(), HostError> {
    use std::os::unix::fs::MetadataExt;
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(HostError::new("use directory", path, e)),
    };
    if !found.is_dir() {
        return Err(not_ours(path));
    }
    let own = found.uid() == rustix::process::geteuid().as_raw();
    if !own && found.uid() != if inside { overflow_id() } else { 0 } {
        return Err(not_ours(path));
    }
    let sticky = found.mode() & 0o1000 != 0;
    let by_others = found.mode() & 0o002 != 0
        || found.mode() & 0o020 != 0 && !(own && found.gid() == rustix::process::getegid().as_raw());
    if by_others && !sticky {
        return Err(HostError::new(
            "use directory",
            path,
            format!(
                "others may write to it (mode {:04o}), and could put something in the place of what is PySecure's; give a \
                 directory of your own with --state-dir, or `chmod go-w {}`",
                found.mode() & 0o7777,
                path.display()
            ),
        ));
    }
    Ok(())
}

/// How ids are shown that a user namespace does not map: user_namespaces(7).
fn overflow_id() -> u32 {
    let text = std::fs::read_to_string("/proc/sys/kernel/overflowuid").unwrap_or_default();
    text.trim().parse().unwrap_or(65534)
}

/// Is a directory right below the state directory ours, if it is there, and nobody else's to write to?
fn check_own(path: &Path) -> Result<(), HostError> {
    use std::os::unix::fs::MetadataExt;
    let found = match std::fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(HostError::new("use directory", path, e)),
    };
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(not_ours(path));
    }
    let group = found.mode() & 0o020 != 0 && found.gid() != rustix::process::getegid().as_raw();
    if found.mode() & 0o002 != 0 || group {
        return Err(HostError::new(
            "use directory",
            path,
            format!(
                "others may write to it; give another directory with --state-dir, or `chmod go-w {}`",
                path.display()
            ),
        ));
    }
    Ok(())
}
