//! The sandbox of a configuration in Python: like a service's, but it sees the file's folder besides, can write
//! nowhere, and may make no other process.
//!
//! It is a unit, compiled and launched as any: own namespaces, no capability, the system calls of services. What it does
//! not have of that is its profile's ([`Confinement::Configuration`]).

use super::PythonError;
use crate::host::Privilege;
use crate::launch::Descriptors;
use crate::oneoff::{OneOff, OneOffError};
use crate::plan::ledger::Ids;
use crate::plan::template::{Entry, Library};
use crate::plan::{Confinement, Identity, Mount, Plan, PlanError, Role, Unit};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How this program is told to be the sandbox's launcher; standard input is the configuration.
pub const COMMAND: &str = "read-python";

const BOOT: &str = include_str!("boot.py");
/// Who it is inside, where no other id exists.
const INSIDE: u32 = 1000;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Run(#[from] OneOffError),
    #[error("{0}")]
    Place(String),
    /// What would keep the configuration in is not there, so it does not run.
    #[error("the sandbox of a configuration is drawn up without {0}")]
    Unprotected(&'static str),
}

/// Runs the configuration in the sandbox; its exit code. `file` is where it lies, free of links, and `owner` whose it is.
pub fn run(file: &Path, owner: u32, privilege: &Privilege) -> Result<u8, SandboxError> {
    let wrong = |operation: &'static str| {
        let path = file.to_owned();
        move |cause: std::io::Error| PythonError::Io { path, operation, cause }
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let (Some(shown), Some(path)) = (folder.to_str(), file.to_str().map(str::to_owned)) else {
        return Err(SandboxError::Place(format!(
            "{}: its path is not UTF-8; rename it",
            file.display()
        )));
    };
    if shown == "/" {
        return Err(SandboxError::Place(format!(
            "{}: a configuration sees its folder, which here would be all of this host; put it into a folder of its own",
            file.display()
        )));
    }
    let ids = match privilege {
        Privilege::Root => Some(ids(owner)?),
        _ => None,
    };
    let mut template = Library::new(Path::new("/usr/share/pysecure/none"), Path::new("/")).load("host")?;
    // Of /etc Python needs no more.
    template.entries.retain(|entry| match entry {
        Entry::Bind { path, .. } | Entry::Link { path, .. } => {
            !path.starts_with("/etc")
                || ["/etc/ld.so.cache", "/etc/localtime"]
                    .iter()
                    .any(|p| path == Path::new(p))
        }
        Entry::Directory { .. } => true,
    });
    let python = template.python();
    let packages = packages(folder);
    let around = folder.metadata().map_err(wrong("look at its folder"))?;
    let passes = ids.is_none_or(|(uid, _)| uid == around.uid() || around.mode() & 0o001 != 0);
    let directory = if passes { shown } else { "/" };
    let mut service = unit(vec![python, "-c".into(), BOOT.into(), path], directory, ids);
    let search: Vec<&str> = packages.iter().filter_map(|p| p.to_str()).collect();
    if !search.is_empty() {
        service.environment.insert("PYTHONPATH".into(), search.join(":"));
    }
    service.mounts.push(seen(folder));
    for package in packages.iter().filter(|p| !p.starts_with(folder)) {
        // One that lies around the folder would hide it.
        let place = if folder.starts_with(package) {
            0
        } else {
            service.mounts.len()
        };
        service.mounts.insert(place, seen(package));
    }
    service
        .mounts
        .retain(|m| !template.binds().any(|(bind, _)| Path::new(&m.target).starts_with(bind)));
    let templates = [(template.name.clone(), template)].into();
    let plan = Plan::without_data("configuration", privilege, templates);
    let mut once = OneOff::prepare(&plan, service)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let stdio = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let running = once.launch(&Descriptors::of(stdio))?;
    Ok(once.exit_code(&running)?)
}

/// Folders in which Python is to look for modules besides its own: those that the user's Python looks in, that of the
/// environment which this program was installed into, and `lib` beside the file.
fn packages(folder: &Path) -> Vec<PathBuf> {
    let mut wanted: Vec<PathBuf> = Vec::new();
    if let Some(path) = std::env::var_os("PYTHONPATH") {
        wanted.extend(std::env::split_paths(&path).filter(|p| p.is_absolute()));
    }
    let own = std::fs::read_link("/proc/self/exe").ok();
    let prefixes = [
        std::env::var_os("VIRTUAL_ENV").map(PathBuf::from),
        own.and_then(|exe| Some(exe.parent()?.parent()?.to_owned())),
    ];
    for prefix in prefixes.into_iter().flatten() {
        let versions = std::fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
        wanted.extend(
            versions
                .map(|entry| entry.path().join("site-packages"))
                .filter(|site| site.join("pysecure").is_dir()),
        );
    }
    // Of the folder itself: a link would show what lies elsewhere to whoever made it.
    let beside = folder.join("lib");
    if beside.canonicalize().is_ok_and(|real| real == beside) && beside.join("pysecure").is_dir() {
        wanted.push(beside);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for path in wanted.iter().filter_map(|p| p.canonicalize().ok()) {
        let fit = path.is_dir() && path != Path::new("/");
        if fit && !found.contains(&path) && !path.to_string_lossy().contains(':') {
            found.push(path);
        }
    }
    found
}

fn seen(folder: &Path) -> Mount {
    Mount::read_only(folder.to_string_lossy().into_owned(), folder.to_owned(), true)
}

/// The unit of a configuration. `ids`: who it is outside; `None`: the user, of whom there is but one id.
fn unit(command: Vec<String>, directory: &str, ids: Option<(u32, u32)>) -> Unit {
    let (uid, gid) = ids.unwrap_or_default();
    let identity = Identity {
        uid: INSIDE,
        gid: INSIDE,
        groups: Vec::new(),
        peers: Vec::new(),
        keeper: None,
        outside: Ids { uid, gid },
        root_inside: false,
    };
    let environment = [
        ("HOME", "/"),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONHASHSEED", "0"),
    ];
    Unit {
        confinement: Confinement::Configuration,
        directory: directory.to_owned(),
        environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..Unit::new(Role::Configuration, "configuration", identity, "host", command)
    }
}

/// Who a configuration is on the host, if root reads it: whoever wrote it, so that it reads what he lets himself read,
/// with his own group and no other; nobody at all for a file of root's.
fn ids(owner: u32) -> Result<(u32, u32), SandboxError> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let lacks = || SandboxError::Unprotected("an id to run as that is not root's");
    let nobody = nobodys(&read("/proc/self/uid_map")).ok_or_else(lacks)?;
    let no_group = nobodys(&read("/proc/self/gid_map")).ok_or_else(lacks)?;
    let uid = if [0, OVERFLOW].contains(&owner) { nobody } else { owner };
    let accounts = read("/etc/passwd");
    let of_owner = |line: &str| {
        let mut numbers = line.split(':').skip(2).map(str::parse::<u32>);
        let (of, gid) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        (of == uid && ![0, OVERFLOW].contains(&gid)).then_some(gid)
    };
    Ok((uid, accounts.lines().find_map(of_owner).unwrap_or(no_group)))
}

/// Whose is what is nobody's here, and processes of the host's have it too.
const OVERFLOW: u32 = 65_534;

/// An id of which no account, no file and no process is: systemd's list of ids (UIDS-GIDS.md) has no use for the first,
/// and the second is the last that a small user namespace has. `map` is a uid_map; user_namespaces(7).
fn nobodys(map: &str) -> Option<u32> {
    let mapped = |id: u32| {
        map.lines().any(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<u32>);
            let (first, count) = (fields.next().and_then(Result::ok), fields.nth(1).and_then(Result::ok));
            first
                .zip(count)
                .is_some_and(|(first, count)| id.checked_sub(first).is_some_and(|n| n < count))
        })
    };
    [2_147_483_001, 65_533].into_iter().find(|id| mapped(*id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_an_id_that_exists_and_is_nobodys() {
        let map = |text| nobodys(text);
        assert_eq!(map("         0          0 4294967295\n"), Some(2_147_483_001));
        assert_eq!(map("0 1000 1\n1 100000 65536\n"), Some(65_533));
        assert_eq!(map("0 1000 1\n"), None);
        assert_eq!(map(""), None);
    }

    #[test]
    fn a_configuration_is_never_root() {
        for owner in [0, OVERFLOW] {
            let (uid, gid) = ids(owner).unwrap();
            assert!(![0, OVERFLOW].contains(&uid) && ![0, OVERFLOW].contains(&gid));
        }
        assert_eq!(ids(4_242).unwrap().0, 4_242);
    }
}
