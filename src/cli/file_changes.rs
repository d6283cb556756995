//! Which of some files and folders have changed; inotify(7). It has no thread of its own, for whoever watches starts services
//! by copying this process ([`crate::sys::SingleThreaded`]).

use super::noise::{self, is_noise};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// What is watched, and what of it has changed. What else lies beside it is nobody's business.
pub(super) struct FileChanges {
    inotify: OwnedFd,
    /// The directories that are watched, by the kernel's number of each: a directory may have several names.
    watched: BTreeMap<i32, BTreeSet<PathBuf>>,
    /// Those of them that are watched for a file in them alone, and those with all that lies below.
    held: BTreeMap<PathBuf, Depth>,
    of: BTreeSet<PathBuf>,
    changed: BTreeSet<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    Itself,
    All,
}

/// A directory that cannot be watched.
#[derive(Debug)]
pub(super) struct Unwatched(pub PathBuf, pub Errno);

const WANTED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::ONLYDIR);

impl FileChanges {
    pub(super) fn new() -> Result<FileChanges, Errno> {
        Ok(FileChanges {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            watched: BTreeMap::new(),
            held: BTreeMap::new(),
            of: BTreeSet::new(),
            changed: BTreeSet::new(),
        })
    }

    /// From now on it is about these. For a file its folder is watched, since an editor puts a new file in its place.
    pub(super) fn hold(&mut self, of: BTreeSet<PathBuf>) -> Result<(), Unwatched> {
        for path in &of {
            let (folder, depth) = match path.is_dir() {
                true => (path.as_path(), Depth::All),
                false => (path.parent().unwrap_or(path), Depth::Itself),
            };
            if self.held.get(folder).is_some_and(|held| *held >= depth) {
                continue;
            }
            match depth {
                Depth::All => self.watch_all(folder)?,
                Depth::Itself => self.watch(folder)?,
            }
            self.held.insert(folder.to_owned(), depth);
        }
        self.of = of;
        Ok(())
    }

    /// Takes what the kernel has to tell. Was any of it about what this is about?
    pub(super) fn read(&mut self) -> bool {
        let mut buffer = [const { MaybeUninit::uninit() }; 16 << 10];
        let mut told: Vec<(i32, ReadFlags, Option<Vec<u8>>)> = Vec::new();
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    let name = event.file_name().map(|name| name.to_bytes().to_vec());
                    told.push((event.wd(), event.events(), name));
                }
                Err(Errno::INTR) => {}
                // There is no more for now.
                Err(_) => break,
            }
        }
        let mut concerns = false;
        for (number, events, name) in told {
            concerns |= self.note(number, events, name.as_deref());
        }
        concerns
    }

    fn note(&mut self, number: i32, events: ReadFlags, name: Option<&[u8]>) -> bool {
        if events.contains(ReadFlags::QUEUE_OVERFLOW) {
            // More has happened than the kernel could tell: it may have been any.
            self.changed.extend(self.of.iter().cloned());
            return !self.of.is_empty();
        }
        if events.contains(ReadFlags::IGNORED) {
            self.watched.remove(&number);
            return false;
        }
        let folders = self.watched.get(&number).cloned().unwrap_or_default();
        let mut concerns = false;
        for folder in folders {
            let path = name.map_or(folder.clone(), |name| folder.join(OsStr::from_bytes(name)));
            let is_code = |of: &PathBuf| path.strip_prefix(of).is_ok_and(|below| !is_noise(below));
            if self.of.iter().any(is_code) {
                concerns = true;
                self.changed.insert(path.clone());
            }
            if !events.contains(ReadFlags::ISDIR) || name.is_none() {
                continue;
            }
            if events.contains(ReadFlags::MOVED_FROM) {
                self.forget(&path);
            } else if events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) && self.reaches(&path) {
                // That it came is noted; what is in it by now came with it.
                let _ = self.watch_all(&path);
            }
        }
        concerns
    }

    /// What has changed since this was last asked: paths in what this is about, without what editors and caches leave there.
    pub(super) fn take(&mut self) -> BTreeSet<PathBuf> {
        std::mem::take(&mut self.changed)
    }

    /// Does it lie in a folder that is watched with all that is below?
    fn reaches(&self, path: &Path) -> bool {
        let mut held = self.held.iter().filter(|(_, depth)| **depth == Depth::All);
        held.any(|(folder, _)| path.starts_with(folder))
    }

    fn watch(&mut self, folder: &Path) -> Result<(), Unwatched> {
        let number = inotify::add_watch(&self.inotify, folder, WANTED).map_err(|e| Unwatched(folder.to_owned(), e))?;
        self.watched.entry(number).or_default().insert(folder.to_owned());
        Ok(())
    }

    /// Watches a folder and all below it, but through no link.
    fn watch_all(&mut self, top: &Path) -> Result<(), Unwatched> {
        self.watch(top)?;
        let mut left = vec![top.to_owned()];
        while let Some(folder) = left.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else {
                continue;
            };
            for entry in entries.flatten() {
                let directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if !directory || noise::is_folder(&entry.file_name(), folder.file_name()) {
                    continue;
                }
                match self.watch(&entry.path()) {
                    Ok(()) => left.push(entry.path()),
                    // Gone by now, or not to be looked into.
                    Err(Unwatched(_, Errno::NOENT | Errno::NOTDIR | Errno::ACCESS)) => {}
                    Err(other) => return Err(other),
                }
            }
        }
        Ok(())
    }

    /// Watches what has gone to another place no more.
    fn forget(&mut self, path: &Path) {
        for (number, folders) in &mut self.watched {
            let before = folders.len();
            folders.retain(|folder| !folder.starts_with(path));
            if folders.is_empty() && before > 0 {
                // It says so with an event of its own.
                let _ = inotify::remove_watch(&self.inotify, *number);
            }
        }
    }
}

impl AsFd for FileChanges {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// What was noted of what has been done by now: the kernel tells at once.
    fn seen(changes: &mut FileChanges) -> Vec<PathBuf> {
        changes.read();
        changes.take().into_iter().collect()
    }

    fn only(path: &Path) -> Vec<PathBuf> {
        vec![path.to_owned()]
    }

    #[test]
    fn what_is_held_is_seen_to_change_and_nothing_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let (manifest, code) = (folder.path().join("pysecure.toml"), folder.path().join("code"));
        fs::create_dir_all(code.join("deep/er")).unwrap();
        fs::write(&manifest, "").unwrap();
        let mut changes = FileChanges::new().unwrap();
        changes.hold([manifest.clone(), code.clone()].into()).unwrap();
        assert!(seen(&mut changes).is_empty());
        fs::write(folder.path().join("beside"), "x").unwrap();
        fs::read(&manifest).unwrap();
        assert!(seen(&mut changes).is_empty());
        // As editors do it: another file takes the place.
        fs::write(folder.path().join("new"), "x").unwrap();
        fs::rename(folder.path().join("new"), &manifest).unwrap();
        assert_eq!(seen(&mut changes), only(&manifest));
        fs::write(code.join("deep/er/a.py"), "x").unwrap();
        assert_eq!(seen(&mut changes), only(&code.join("deep/er/a.py")));
        // A folder that is new, and what is made in it later.
        fs::create_dir_all(code.join("later/in")).unwrap();
        assert!(seen(&mut changes).contains(&code.join("later")));
        seen(&mut changes);
        fs::write(code.join("later/in/b.py"), "x").unwrap();
        assert_eq!(seen(&mut changes), only(&code.join("later/in/b.py")));
        fs::remove_file(code.join("deep/er/a.py")).unwrap();
        assert_eq!(seen(&mut changes), only(&code.join("deep/er/a.py")));
        // Moved away, it is of no concern any more.
        fs::rename(code.join("deep"), folder.path().join("away")).unwrap();
        assert_eq!(seen(&mut changes), only(&code.join("deep")));
        seen(&mut changes);
        fs::write(folder.path().join("away/er/c.py"), "x").unwrap();
        assert!(seen(&mut changes).is_empty());
    }

    #[test]
    fn a_folder_that_was_watched_for_a_file_is_watched_whole_when_it_is_code() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("pysecure.toml");
        fs::create_dir(folder.path().join("sub")).unwrap();
        fs::write(&manifest, "").unwrap();
        let mut changes = FileChanges::new().unwrap();
        changes.hold([manifest.clone()].into()).unwrap();
        let all = folder.path().to_owned();
        changes.hold([manifest, all.clone()].into()).unwrap();
        fs::write(folder.path().join("sub/a.py"), "x").unwrap();
        assert_eq!(seen(&mut changes), [all.join("sub/a.py")]);
    }

    #[test]
    fn what_editors_and_caches_leave_is_not_seen() {
        let folder = tempfile::tempdir().unwrap();
        let code = folder.path().to_owned();
        fs::create_dir_all(code.join(".git/refs")).unwrap();
        fs::create_dir_all(code.join("app")).unwrap();
        let mut changes = FileChanges::new().unwrap();
        changes.hold([code.clone()].into()).unwrap();
        for noise in [
            ".git/index",
            ".git/refs/x",
            "app/.a.py.swp",
            "app/4913",
            "app/a.py~",
            "app/.#a.py",
            "app/#a.py#",
        ] {
            fs::write(code.join(noise), "x").unwrap();
            assert!(seen(&mut changes).is_empty(), "{noise}");
        }
        fs::create_dir(code.join("app/__pycache__")).unwrap();
        fs::write(code.join("app/__pycache__/a.cpython-311.pyc"), "x").unwrap();
        assert!(seen(&mut changes).is_empty());
        // Vim's way to save: the file becomes the backup, and is written anew.
        fs::write(code.join("app/a.py"), "x").unwrap();
        seen(&mut changes);
        fs::rename(code.join("app/a.py"), code.join("app/a.py~")).unwrap();
        fs::write(code.join("app/a.py"), "y").unwrap();
        fs::remove_file(code.join("app/a.py~")).unwrap();
        assert_eq!(seen(&mut changes), only(&code.join("app/a.py")));
    }
}
