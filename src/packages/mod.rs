//! The Python packages that this program carries, so that nothing has to be installed: `pysecure` for configurations, and
//! `pysecure_rpc` for services.
//!
//! They are kept unpacked in the state directory, under the hash of all that they are, as root's (or the user's) own files,
//! and services see that folder read-only at [`FOLDER`]. What stands in it under the packages' names gives way to what is
//! installed for the interpreter (`stand_aside.py`); the packages themselves lie a folder further down.
//!
//! What may not happen here: a folder under its name that is not whole, whenever the machine loses power or a process is killed.
//!
//! Whoever uses a version holds a shared flock(2) on its folder for as long as it lives, which the kernel ends with it. What nobody
//! holds, and is not this program's own, is collected by the next `up`, whatever its version.

use crate::durable;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

include!(concat!(env!("OUT_DIR"), "/packages.rs"));

/// Where services see them.
pub const FOLDER: &str = "/run/pysecure/python";
/// Of the launcher and of what it carries.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const STAND_ASIDE: &str = include_str!("stand_aside.py");
const NAMES: [&str; 2] = ["pysecure", "pysecure_rpc"];

/// The packages' files and their content, by paths such as `pysecure_rpc/_wire.py`, sorted.
pub fn carried() -> &'static [(&'static str, &'static str)] {
    CARRIED
}

/// Where the packages lie, or will lie, in a state directory.
pub fn folder(state: &Path) -> PathBuf {
    state.join("python").join(hash())
}

/// Does a service with this environment look for modules in [`FOLDER`]?
pub fn seen_by(environment: &std::collections::BTreeMap<String, String>) -> bool {
    let path = environment.get("PYTHONPATH");
    path.is_some_and(|path| path.split(':').any(|folder| folder == FOLDER))
}

/// A PYTHONPATH with [`FOLDER`] behind what is in it.
pub fn appended(path: Option<&str>) -> String {
    match path {
        Some(path) if !path.is_empty() => format!("{path}:{FOLDER}"),
        _ => FOLDER.to_owned(),
    }
}

/// All that is unpacked.
fn files() -> impl Iterator<Item = (String, &'static str)> {
    let stand_ins = NAMES.iter().map(|name| (format!("{name}.py"), STAND_ASIDE));
    stand_ins.chain(CARRIED.iter().map(|(path, text)| (format!("carried/{path}"), *text)))
}

fn hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| {
        let mut hasher = Sha256::new();
        for (path, text) in files() {
            for part in [path.as_str(), text] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    })
}

/// What this process uses, until it ends: the folder and the descriptor that its lock is on.
static USED: Mutex<Vec<(PathBuf, OwnedFd)>> = Mutex::new(Vec::new());

/// Has the packages in a state directory, which is there, and keeps them there for as long as this process lives.
pub fn unpack(state: &Path) -> std::io::Result<()> {
    let place = folder(state);
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let is_there = |descriptor: &OwnedFd| {
        let (found, ours) = (std::fs::symlink_metadata(&place), rustix::fs::fstat(descriptor));
        found.is_ok_and(|found| ours.is_ok_and(|ours| found.ino() == ours.st_ino))
    };
    if used.iter().any(|(folder, lock)| *folder == place && is_there(lock)) {
        return Ok(());
    }
    let above = state.join("python");
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&above)?;
    // One at a time unpacks or collects, so that no folder goes between its being found and its being locked.
    let _one = locked(&above, FlockOperation::LockExclusive)?;
    if !std::fs::symlink_metadata(&place).is_ok_and(|found| found.is_dir()) {
        let fresh = above.join(format!(".{}", hash()));
        remove(&fresh)?;
        let made = fill(&fresh).and_then(|()| durable::settle(&fresh));
        if let Err(e) = made.and_then(|()| durable::rename(&fresh, &place)) {
            remove(&fresh)?;
            return Err(e);
        }
    }
    let lock = locked(&place, FlockOperation::LockShared)?;
    used.retain(|(folder, _)| *folder != place);
    used.push((place, lock));
    Ok(())
}

/// Removes what other versions have unpacked and no process uses, and what one left that was killed while it did this.
pub fn collect(state: &Path) -> std::io::Result<()> {
    let above = state.join("python");
    let _one = match locked(&above, FlockOperation::LockExclusive) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    for entry in std::fs::read_dir(&above)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let place = above.join(name);
        let version = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        if name.strip_prefix('.').is_some_and(version) {
            remove(&place)?;
        } else if version(name) && name != hash() {
            let _alone = match locked(&place, FlockOperation::NonBlockingLockExclusive) {
                Err(e) if e.kind() == ErrorKind::WouldBlock => continue,
                other => other?,
            };
            // From here on nobody finds it, whole or not.
            let gone = above.join(format!(".{name}"));
            remove(&gone)?;
            std::fs::rename(&place, &gone)?;
            remove(&gone)?;
        }
    }
    Ok(())
}

/// A lock on a folder, which ends with the descriptor.
fn locked(folder: &Path, how: FlockOperation) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let descriptor = rustix::fs::openat(CWD, folder, flags, Mode::empty())?;
    loop {
        match rustix::fs::flock(&descriptor, how) {
            Err(Errno::INTR) => {}
            other => return Ok(other.map(|()| descriptor)?),
        }
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// For everybody to read, whatever the umask is: a service is neither owner nor group.
fn fill(fresh: &Path) -> std::io::Result<()> {
    directory(fresh)?;
    for (path, text) in files() {
        let file = fresh.join(path);
        let folder = file.parent().ok_or_else(|| Error::from(ErrorKind::InvalidInput))?;
        if !folder.exists() {
            directory(folder)?;
        }
        std::fs::write(&file, text)?;
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644))?;
    }
    Ok(())
}

fn directory(path: &Path) -> std::io::Result<()> {
    if let Some(above) = path.parent().filter(|above| !above.exists()) {
        directory(above)?;
    }
    std::fs::create_dir(path)?;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_carried_is_whole_and_of_this_version() {
        let text = |path: &str| {
            CARRIED
                .iter()
                .find(|(p, _)| *p == path)
                .unwrap_or_else(|| panic!("{path} is not carried"))
                .1
        };
        assert!(CARRIED.is_sorted());
        assert!(CARRIED.iter().all(|(path, _)| path.ends_with(".py")));
        for path in ["pysecure_rpc/__init__.py", "pysecure_rpc/_server/__init__.py"] {
            text(path);
        }
        let version = |path| {
            let line = text(path).lines().find_map(|l| l.strip_prefix("__version__ = \""));
            line.map(|l| l.trim_end_matches('"'))
        };
        for path in ["pysecure/__init__.py", "pysecure_rpc/_version.py"] {
            assert_eq!(version(path), Some(VERSION), "{path}");
        }
    }

    #[test]
    fn they_are_unpacked_once_for_everybody_to_read_and_nobody_to_write() {
        let state = tempfile::tempdir().unwrap();
        let place = folder(state.path());
        for _ in 0..2 {
            unpack(state.path()).unwrap();
            for (path, text) in files() {
                assert_eq!(std::fs::read_to_string(place.join(path)).unwrap(), text);
            }
        }
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&place), 0o755);
        assert_eq!(mode(&place.join("carried/pysecure_rpc/_server")), 0o755);
        assert_eq!(mode(&place.join("carried/pysecure_rpc/_server/calls.py")), 0o644);
        assert_eq!(std::fs::read_dir(state.path().join("python")).unwrap().count(), 1);
    }

    #[test]
    fn other_versions_go_unless_they_are_used() {
        let state = tempfile::tempdir().unwrap();
        collect(state.path()).unwrap();
        unpack(state.path()).unwrap();
        let above = state.path().join("python");
        let version = |letter: &str| letter.repeat(64);
        let make = |name: &str| {
            directory(&above.join(name).join("carried")).unwrap();
            std::fs::write(above.join(name).join("carried/a.py"), "").unwrap();
            above.join(name)
        };
        let left = || {
            let names = std::fs::read_dir(&above).unwrap();
            let mut names: Vec<_> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        };
        let (used, unused) = (make(&version("a")), version("b"));
        make(&unused);
        // What was left by one that was killed: while it unpacked, or while it collected this very one.
        make(&format!(".{}", version("c")));
        make(&format!(".{unused}"));
        // And what is none of ours.
        make("other");
        let lock = locked(&used, FlockOperation::LockShared).unwrap();
        collect(state.path()).unwrap();
        let mut expected = vec![hash().to_owned(), version("a"), "other".to_owned()];
        expected.sort();
        assert_eq!(left(), expected);
        drop(lock);
        collect(state.path()).unwrap();
        assert_eq!(left().len(), 2);
        // Of another's program ours is another version.
        let own = locked(&folder(state.path()), FlockOperation::NonBlockingLockExclusive);
        assert_eq!(own.unwrap_err().kind(), ErrorKind::WouldBlock);
        // What is deleted meanwhile is made and held anew.
        std::fs::remove_dir_all(folder(state.path())).unwrap();
        unpack(state.path()).unwrap();
        let own = locked(&folder(state.path()), FlockOperation::NonBlockingLockExclusive);
        assert_eq!(own.unwrap_err().kind(), ErrorKind::WouldBlock);
    }

    #[test]
    fn ours_comes_last() {
        assert_eq!(appended(None), FOLDER);
        assert_eq!(appended(Some("")), FOLDER);
        assert_eq!(appended(Some("/opt/lib")), format!("/opt/lib:{FOLDER}"));
        let seen = |path: &str| seen_by(&[("PYTHONPATH".to_owned(), path.to_owned())].into());
        assert!(seen(&appended(Some("/opt/lib"))) && seen(FOLDER));
        assert!(!seen("/opt/lib") && !seen(&format!("{FOLDER}/carried")) && !seen_by(&Default::default()));
    }
}
