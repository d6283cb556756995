//! What several probes need to know about this machine and this user.
//!
//! Reads only. Files that may be large or absent are read with a bound and as empty.

use super::child::Runner;
use crate::host::subid::Accounts;
use std::io::Read;
use std::path::{Path, PathBuf};

pub(crate) struct Host {
    pub runner: Runner,
    /// Root decides the mode: it is what `pysecure up` goes by.
    pub root: bool,
    pub uid: u32,
    pub gid: u32,
    pub user: String,
    pub accounts: Accounts,
    /// Where the applications' data are kept; may not exist yet.
    pub data: PathBuf,
}

impl Host {
    pub(crate) fn new(runner: Runner) -> Self {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let accounts = Accounts::parse(&read("/etc/passwd"));
        // An account of LDAP or the like stands in no file; then the environment is believed, for
        // it can only spoil this report.
        let user = accounts
            .names_of(uid)
            .first()
            .map(|name| (*name).to_owned())
            .or_else(|| std::env::var("USER").ok())
            .unwrap_or_else(|| uid.to_string());
        let root = uid == 0;
        Host {
            runner,
            root,
            uid,
            gid,
            user,
            accounts,
            data: data_directory(root),
        }
    }

    /// All names that the user has.
    pub(crate) fn names(&self) -> Vec<&str> {
        let mut names = self.accounts.names_of(self.uid);
        if names.is_empty() {
            names.push(&self.user);
        }
        names
    }

    /// The data directory, or the nearest directory above that exists.
    pub(crate) fn data_parent(&self) -> &Path {
        self.data
            .ancestors()
            .find(|path| path.is_dir())
            .unwrap_or(Path::new("/"))
    }
}

fn data_directory(root: bool) -> PathBuf {
    if root {
        return "/var/lib/pysecure".into();
    }
    let absolute = |name| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .unwrap_or_else(|| "/".into())
        .join("pysecure")
}

/// The text of a file; empty if there is none. Cut off after 16 MiB.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = std::fs::File::open(path) {
        // What came before an error is still worth reading.
        let _ = file.take(16 << 20).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A file that holds one number, as sysctls do.
pub(crate) fn number(path: &str) -> Option<u64> {
    read(path).trim().parse().ok()
}

/// The remedy that sets a sysctl now and after each boot.
pub(crate) fn set_sysctl(name: &str, value: &str) -> String {
    // In two lines, for a report of 100 columns; appended, for there may be several.
    format!(
        "echo '{name} = {value}' |\n\
         \x20 sudo tee -a /etc/sysctl.d/60-pysecure.conf\n\
         sudo sysctl --system"
    )
}
