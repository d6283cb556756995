//! The Python packages that this program carries, so that nothing has to be installed: `pysecure` for configurations,
//! `pysecure_rpc` for services, and `pysecure_sandbox` for those that run what nobody trusts.
//!
//! They are kept unpacked in the state directory, under the hash of all that they are, as root's (or the user's) own files,
//! and services see that folder read-only at [`FOLDER`]. What stands in it under the packages' names gives way to what is
//! installed for the interpreter (`stand_aside.py`); the packages themselves lie a folder further down.
//!
//! What may not happen here: a folder under its name that is not whole, whenever the machine loses power or a process is killed.
//!
//! Whoever uses a version holds a shared flock(2) on a file beside its folder for as long as it lives, which the kernel ends with
//! it. What nobody holds, and is not this program's own, is collected by the next `up`, whatever its version. Services see the
//! folder, so a lock on that would be theirs to take, and to keep all others waiting.

mod compiled;

use crate::durable;
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::io::{Error, ErrorKind};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

include!(concat!(env!("OUT_DIR"), "/packages.rs"));

/// Where services see them.
pub const FOLDER: &str = "/run/pysecure/python";
/// Of the launcher and of what it carries.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
const STAND_ASIDE: &str = include_str!("stand_aside.py");
const NAMES: [&str; 3] = ["pysecure", "pysecure_rpc", "pysecure_sandbox"];

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

/// What this process uses, until it ends: the folder, and the descriptor of the file that its lock is on.
static USED: Mutex<Vec<(PathBuf, OwnedFd)>> = Mutex::new(Vec::new());

/// Has the packages in a state directory, which is there, and keeps them there for as long as this process lives.
pub fn unpack(state: &Path) -> std::io::Result<()> {
    unpack_when(state, FlockOperation::LockExclusive, compiled::add)
}

/// The same for one that must not wait: where they have to be unpacked, and another process does that or collects, it fails.
pub fn try_unpack(state: &Path) -> std::io::Result<()> {
    unpack_when(state, FlockOperation::NonBlockingLockExclusive, |_| ()).map_err(|e| match e.kind() {
        ErrorKind::WouldBlock => Error::new(
            ErrorKind::WouldBlock,
            "another process unpacks or removes such packages at this moment",
        ),
        _ => e,
    })
}

/// `turn`: how it comes to be the one that unpacks or collects. `add`: what is put beside the packages, for speed alone.
fn unpack_when(state: &Path, turn: FlockOperation, add: fn(&Path)) -> std::io::Result<()> {
    let (place, above) = (folder(state), state.join("python"));
    let lock_file = lock_file(&above, hash());
    let mut used = USED.lock().unwrap_or_else(PoisonError::into_inner);
    let holds = |lock: &OwnedFd| is_at(lock, &lock_file);
    if is_folder(&place) && used.iter().any(|(folder, lock)| *folder == place && holds(lock)) {
        return Ok(());
    }
    let lock = match hold(&place, &lock_file) {
        Some(lock) => lock,
        None => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&above)?;
            // One at a time, so that no folder goes between its being found and its being locked.
            let _one = locked(open_folder(&above)?, turn)?;
            if !is_folder(&place) {
                put_in_place(&above.join(format!(".{}", hash())), &place, |fresh| {
                    fill(fresh)?;
                    add(fresh);
                    Ok(())
                })?;
            }
            // Only whoever collects has it alone, and that is nobody now.
            locked(
                open_lock_file(&lock_file, OFlags::CREATE)?,
                FlockOperation::NonBlockingLockShared,
            )?
        }
    };
    used.retain(|(folder, _)| *folder != place);
    used.push((place, lock));
    Ok(())
}

/// A lock on what is there already. None if it is not there, or is being collected.
fn hold(place: &Path, lock_file: &Path) -> Option<OwnedFd> {
    let lock = open_lock_file(lock_file, OFlags::empty()).ok()?;
    let lock = locked(lock, FlockOperation::NonBlockingLockShared).ok()?;
    // Now that it is held, nobody collects it; somebody may have until then.
    (is_at(&lock, lock_file) && is_folder(place)).then_some(lock)
}

/// What `make` makes is made at `fresh`, and is at `place` only when it is whole.
fn put_in_place(fresh: &Path, place: &Path, make: impl FnOnce(&Path) -> std::io::Result<()>) -> std::io::Result<()> {
    remove(fresh)?;
    let made = make(fresh).and_then(|()| durable::settle(fresh));
    let placed = made.and_then(|()| durable::rename(fresh, place));
    if placed.is_err() {
        // What stays of it is collected.
        let _ = remove(fresh);
    }
    placed
}

/// Removes what other versions have unpacked and no process uses, and what one left that was killed while it did this. What cannot
/// be removed is said, and keeps nothing else.
pub fn collect(state: &Path) -> std::io::Result<()> {
    let above = state.join("python");
    let _one = match open_folder(&above) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        other => locked(other?, FlockOperation::LockExclusive)?,
    };
    for entry in std::fs::read_dir(&above)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        let version = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
        // A file of locks is alone where one was killed before it could remove that, too.
        let of = name.strip_suffix(LOCK).unwrap_or(name);
        let removed = if name.strip_prefix('.').is_some_and(version) {
            remove(&above.join(name))
        } else if version(of) && of != hash() {
            collect_version(&above, of)
        } else {
            Ok(())
        };
        if let Err(e) = removed {
            let stays = above.join(name);
            tracing::warn!("remove Python packages of another version at {}: {e}", stays.display());
        }
    }
    Ok(())
}

fn collect_version(above: &Path, version: &str) -> std::io::Result<()> {
    let lock_file = lock_file(above, version);
    let lock = open_lock_file(&lock_file, OFlags::CREATE)?;
    let _alone = match locked(lock, FlockOperation::NonBlockingLockExclusive) {
        Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
        other => other?,
    };
    // From here on nobody finds it, whole or not.
    let gone = above.join(format!(".{version}"));
    remove(&gone)?;
    match std::fs::rename(above.join(version), &gone) {
        Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
        _ => remove(&gone)?,
    }
    // Whoever has opened it meanwhile sees that it is gone.
    std::fs::remove_file(lock_file)
}

const LOCK: &str = ".lock";

/// What users of a version hold a lock on.
fn lock_file(above: &Path, version: &str) -> PathBuf {
    above.join(format!("{version}{LOCK}"))
}

/// `create`: nothing, or that it is made where it is not there.
fn open_lock_file(path: &Path, create: OFlags) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags | create, Mode::RUSR | Mode::WUSR)?)
}

fn open_folder(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// With a lock, which ends with the descriptor.
fn locked(descriptor: OwnedFd, how: FlockOperation) -> std::io::Result<OwnedFd> {
    loop {
        match rustix::fs::flock(&descriptor, how) {
            Err(Errno::INTR) => {}
            other => return Ok(other.map(|()| descriptor)?),
        }
    }
}

/// Is this the file that is at a path?
fn is_at(descriptor: &OwnedFd, path: &Path) -> bool {
    match (rustix::fs::fstat(descriptor), rustix::fs::lstat(path)) {
        (Ok(ours), Ok(found)) => (ours.st_dev, ours.st_ino) == (found.st_dev, found.st_ino),
        _ => false,
    }
}

fn is_folder(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

/// Whatever it is; a link, and not what it leads to.
fn remove(place: &Path) -> std::io::Result<()> {
    let removed = match is_folder(place) {
        true => std::fs::remove_dir_all(place),
        false => std::fs::remove_file(place),
    };
    match removed {
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
        for path in [
            "pysecure_rpc/__init__.py",
            "pysecure_rpc/_server/__init__.py",
            "pysecure_sandbox/_inside.py",
        ] {
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
        let lock = lock_file(&state.path().join("python"), hash());
        assert_eq!(mode(&lock), 0o600);
        assert_eq!(std::fs::read_dir(state.path().join("python")).unwrap().count(), 2);
    }

    #[test]
    fn whoever_must_not_wait_fails_while_another_unpacks() {
        let state = tempfile::tempdir().unwrap();
        let above = state.path().join("python");
        std::fs::create_dir(&above).unwrap();
        let busy = |above: &Path| locked(open_folder(above).unwrap(), FlockOperation::LockExclusive).unwrap();
        let other = busy(&above);
        let error = try_unpack(state.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WouldBlock);
        assert!(error.to_string().contains("another process"), "{error}");
        assert!(!folder(state.path()).exists());
        drop(other);
        try_unpack(state.path()).unwrap();
        // What is there takes nobody's turn: neither what is held already, nor what is not.
        let _other = busy(&above);
        try_unpack(state.path()).unwrap();
        let moved = tempfile::tempdir().unwrap();
        std::fs::rename(&above, moved.path().join("python")).unwrap();
        try_unpack(moved.path()).unwrap();
        let held = |state: &Path| USED.lock().unwrap().iter().any(|(place, _)| *place == folder(state));
        assert!(held(moved.path()));
    }

    #[test]
    fn what_is_being_collected_is_not_held() {
        let state = tempfile::tempdir().unwrap();
        unpack(state.path()).unwrap();
        let (place, at) = (folder(state.path()), lock_file(&state.path().join("python"), hash()));
        USED.lock().unwrap().retain(|(folder, _)| *folder != place);
        assert!(hold(&place, &at).is_some());
        let open = || open_lock_file(&at, OFlags::empty()).unwrap();
        let collects = locked(open(), FlockOperation::NonBlockingLockExclusive).unwrap();
        assert!(hold(&place, &at).is_none());
        drop(collects);
        std::fs::remove_dir_all(&place).unwrap();
        assert!(hold(&place, &at).is_none());
    }

    #[test]
    fn a_file_of_the_same_number_elsewhere_is_another() {
        use std::os::unix::fs::MetadataExt;
        let (one, other) = (Path::new("/proc"), Path::new("/sys"));
        let number = |path: &Path| path.metadata().unwrap().ino();
        assert_eq!(
            number(one),
            number(other),
            "both are roots, which the kernel numbers alike"
        );
        let opened = open_folder(one).unwrap();
        assert!(is_at(&opened, one) && !is_at(&opened, other));
    }

    #[test]
    fn why_they_cannot_be_unpacked_is_said_whatever_stays_of_them() {
        let state = tempfile::tempdir().unwrap();
        let above = state.path().join("python");
        std::fs::create_dir(&above).unwrap();
        let make = |fresh: &Path| {
            // What is below a file cannot be removed.
            std::fs::remove_dir(&above)?;
            std::fs::write(&above, "")?;
            assert!(remove(fresh).is_err());
            Err(Error::from(ErrorKind::StorageFull))
        };
        let error = put_in_place(&above.join(".fresh"), &above.join("place"), make).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn what_cannot_be_removed_keeps_nothing_else() {
        let state = tempfile::tempdir().unwrap();
        let above = state.path().join("python");
        let version = |letter: &str| letter.repeat(64);
        std::fs::create_dir(&above).unwrap();
        // A file and a link under such names go, and what a link leads to stays.
        std::fs::write(above.join(version("a")), "").unwrap();
        std::fs::create_dir(state.path().join("kept")).unwrap();
        std::os::unix::fs::symlink(state.path().join("kept"), above.join(version("b"))).unwrap();
        // A file of locks that is none cannot be opened; in whatever order they are found, some others come after these.
        for letter in ["c", "d", "e"] {
            std::fs::create_dir(lock_file(&above, &version(letter))).unwrap();
            std::fs::create_dir(above.join(version(letter))).unwrap();
        }
        for number in 0..20 {
            std::fs::create_dir(above.join(format!("{number:064}"))).unwrap();
            std::fs::write(lock_file(&above, &format!("{:064}", 50 + number)), "").unwrap();
        }
        collect(state.path()).unwrap();
        assert_eq!(std::fs::read_dir(&above).unwrap().count(), 6);
        assert!(state.path().join("kept").exists());
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
        // Services may lock what they see.
        let seen = locked(
            open_folder(&above.join(&unused)).unwrap(),
            FlockOperation::LockExclusive,
        )
        .unwrap();
        // And what is none of ours.
        make("other");
        let lock = |version: &str| open_lock_file(&lock_file(&above, version), OFlags::CREATE).unwrap();
        let used_lock = locked(lock(&version("a")), FlockOperation::LockShared).unwrap();
        assert!(used.exists());
        collect(state.path()).unwrap();
        let with_lock = |version: &str| [version.to_owned(), format!("{version}.lock")];
        let mut expected = [with_lock(hash()), with_lock(&version("a"))].concat();
        expected.push("other".to_owned());
        expected.sort();
        assert_eq!(left(), expected);
        drop((used_lock, seen));
        collect(state.path()).unwrap();
        assert_eq!(left().len(), 3);
        // Of another's program ours is another version.
        let own = || locked(lock(hash()), FlockOperation::NonBlockingLockExclusive).unwrap_err();
        assert_eq!(own().kind(), ErrorKind::WouldBlock);
        // What is deleted meanwhile is made and held anew: all of it, or a part.
        for gone in [folder(state.path()), lock_file(&above, hash()), above.clone()] {
            match gone.is_dir() {
                true => std::fs::remove_dir_all(gone).unwrap(),
                false => std::fs::remove_file(gone).unwrap(),
            }
            unpack(state.path()).unwrap();
            assert!(folder(state.path()).join("carried").is_dir());
            assert_eq!(own().kind(), ErrorKind::WouldBlock);
        }
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
