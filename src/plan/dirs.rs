//! Where PySecure keeps things. Everything is the owner's alone (mode 0700): a file below could be
//! set-id for a service (CVE-2021-41091, CVE-2021-41103).
//!
//! | what | root | ordinary user |
//! | --- | --- | --- |
//! | state: ledger, data, logs | `/var/lib/pysecure/APP` | `$XDG_DATA_HOME/pysecure/APP` (`~/.local/share`) |
//! | runtime: socket, bundles | `/run/pysecure/APP` | `$XDG_RUNTIME_DIR/pysecure/APP`, else the state's `run` |
//!
//! `PYSECURE_STATE_DIR` (or `--state-dir`) puts both below one directory.

use super::PlanError;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dirs {
    /// Holds a directory for every app.
    pub state: PathBuf,
    /// This app's ledger, resources and logs.
    pub app: PathBuf,
    /// This app's socket and OCI bundles; gone after `down`.
    pub run: PathBuf,
    /// The sockets of the dynamic service, which runs on the host and could not pass `run`; gone after `down`.
    pub dynamic: PathBuf,
}

impl Dirs {
    /// `root`: is this the host's root, rather than a user who is root in a namespace of his own?
    pub fn find(app: &str, root: bool, state_dir: Option<&Path>) -> Result<Dirs, PlanError> {
        let (state, runtime) = match state_dir {
            Some(given) => {
                let state =
                    std::path::absolute(given).map_err(|e| PlanError::io("find the state directory", given, e))?;
                let runtime = state.join("run");
                (state, runtime)
            }
            None if root => ("/var/lib/pysecure".into(), "/run/pysecure".into()),
            None => {
                let data = absolute_variable("XDG_DATA_HOME")
                    .or_else(|| absolute_variable("HOME").map(|h| h.join(".local/share")));
                let state = data
                    .ok_or_else(|| {
                        PlanError::io(
                            "find the state directory",
                            "$HOME",
                            "is not set; set it, or give --state-dir",
                        )
                    })?
                    .join("pysecure");
                let runtime = absolute_variable("XDG_RUNTIME_DIR")
                    .filter(|d| d.is_dir())
                    .map_or_else(|| state.join("run"), |d| d.join("pysecure"));
                (state, runtime)
            }
        };
        Ok(Dirs {
            app: state.join("apps").join(app),
            dynamic: runtime
                .with_file_name(match runtime.file_name() {
                    Some(name) => format!("{}-dynamic", name.to_string_lossy()),
                    None => "dynamic".to_owned(),
                })
                .join(app),
            run: runtime.join(app),
            state,
        })
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
pub fn make_passable(path: &Path) -> Result<(), PlanError> {
    use std::os::unix::fs::PermissionsExt;
    make_private(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o711))
        .map_err(|e| PlanError::io("change the mode of", path, e))
}

/// Makes a directory for this user alone, and its parents.
pub fn make_private(path: &Path) -> Result<(), PlanError> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
    let wrong = |e: std::io::Error| PlanError::io("make directory", path, e);
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(wrong)?;
    let found = std::fs::symlink_metadata(path).map_err(wrong)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(PlanError::io(
            "use directory",
            path,
            "it is another user's or a link; move it away",
        ));
    }
    if found.permissions().mode() & 0o077 != 0 {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(wrong)?;
    }
    Ok(())
}
