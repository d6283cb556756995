//! Shared folders in which rights go by ACL: what a program makes there with a mode that closes it to the others is opened
//! to them again, as the manifest says.
//!
//! A default ACL is cut by the mode that a file is made with (mkstemp(3): 0600), by a later chmod(2), and for sockets by
//! the umask. inotify(7) tells of each; looked at and changed is what is found by descriptor, below the folder, through
//! no link. So much a turn of the loop, however much there is; what inotify could not tell is found by looking.

use crate::plan::{Keeping, Ownership, Storage};
use crate::storage::mend;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// So many directories are watched at most; what is made in others waits for the next start.
const MOST_WATCHES: usize = 8192;
/// So much is looked at in one turn of the loop.
const PIECE: usize = 256;

/// A folder, and how what is in it is to be held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shared {
    path: PathBuf,
    of: Ownership,
}

/// The folders of a plan in which rights go by ACL.
pub fn shared(storage: &[Storage]) -> Vec<Shared> {
    let by_acl = |s: &&Storage| s.ownership.inherited && s.directory && s.keeping != Keeping::Theirs;
    let folder = |s: &Storage| Shared {
        path: s.path.clone(),
        of: s.ownership.clone(),
    };
    storage.iter().filter(by_acl).map(folder).collect()
}

pub(super) struct Mending {
    inotify: OwnedFd,
    folders: Vec<Folder>,
    /// By watch: the folder, and the directory's path in it.
    watched: BTreeMap<i32, (usize, PathBuf)>,
    scans: VecDeque<Scan>,
}

struct Folder {
    top: OwnedFd,
    of: Ownership,
}

/// A directory that is being looked through.
struct Scan {
    folder: usize,
    path: PathBuf,
    entries: Dir,
}

impl Mending {
    /// Begins to watch; what is there already is looked at in the turns that follow.
    pub(super) fn new(shared: Vec<Shared>) -> Result<Mending, Errno> {
        let mut out = Mending {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            folders: Vec::new(),
            watched: BTreeMap::new(),
            scans: VecDeque::new(),
        };
        for Shared { path, of } in shared {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let top = rustix::fs::open(&path, flags, Mode::empty())?;
            out.folders.push(Folder { top, of });
            out.enter(out.folders.len() - 1, Path::new(""));
        }
        Ok(out)
    }

    /// Is there something to look at, whether inotify says so or not?
    pub(super) fn busy(&self) -> bool {
        !self.scans.is_empty()
    }

    /// Does a piece of what there is to do.
    pub(super) fn turn(&mut self) {
        let mut buffer = [const { MaybeUninit::uninit() }; 16 << 10];
        let mut told: Vec<(i32, ReadFlags, Option<Vec<u8>>)> = Vec::new();
        let mut reader = inotify::Reader::new(&self.inotify, &mut buffer);
        while let Ok(event) = reader.next() {
            let name = event.file_name().map(|n| n.to_bytes().to_vec());
            told.push((event.wd(), event.events(), name));
            // One read a turn.
            if reader.is_buffer_empty() {
                break;
            }
        }
        for (watch, events, name) in told {
            if events.contains(ReadFlags::QUEUE_OVERFLOW) {
                for folder in 0..self.folders.len() {
                    self.enter(folder, Path::new(""));
                }
            } else if events.contains(ReadFlags::IGNORED) {
                self.watched.remove(&watch);
            } else if let Some((folder, path)) = self.watched.get(&watch).cloned() {
                let path = name.map_or(path.clone(), |n| path.join(OsStr::from_bytes(&n)));
                let came = events.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO);
                self.look(folder, &path, came);
            }
        }
        let mut left = PIECE;
        while left > 0
            && let Some(mut scan) = self.scans.pop_front()
        {
            while left > 0 {
                left -= 1;
                match scan.entries.next() {
                    Some(Ok(entry)) => {
                        let name = entry.file_name().to_bytes();
                        if !matches!(name, b"." | b"..") {
                            let path = scan.path.join(OsStr::from_bytes(name));
                            self.look(scan.folder, &path, true);
                        }
                    }
                    _ => break,
                }
                if left == 0 {
                    self.scans.push_front(scan);
                    return;
                }
            }
        }
    }

    /// Mends what is there, and goes into a directory that is new.
    fn look(&mut self, folder: usize, path: &Path, new: bool) {
        let Some(Folder { top, of }) = self.folders.get(folder) else {
            return;
        };
        let Ok(found) = open(top.as_fd(), path, OFlags::PATH) else {
            return;
        };
        let Ok(stat) = rustix::fs::fstat(&found) else { return };
        match mend(found.as_fd(), &stat, of) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::warn!(path = %path.display(), %errno, "a shared file stays as its maker has it"),
        }
        if new && FileType::from_raw_mode(stat.st_mode).is_dir() {
            self.enter(folder, path);
        }
    }

    /// Watches a directory, and has it looked through: in this order, so that nothing slips in between.
    fn enter(&mut self, folder: usize, path: &Path) {
        let Some(Folder { top, .. }) = self.folders.get(folder) else {
            return;
        };
        if self.watched.len() >= MOST_WATCHES {
            tracing::warn!(path = %path.display(), "too many shared directories to watch");
            return;
        }
        let Ok(directory) = open(top.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY) else {
            return;
        };
        let wanted = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ATTRIB | WatchFlags::EXCL_UNLINK;
        let by_descriptor = format!("/proc/self/fd/{}", directory.as_raw_fd());
        match inotify::add_watch(&self.inotify, by_descriptor, wanted) {
            Ok(watch) => drop(self.watched.insert(watch, (folder, path.to_owned()))),
            Err(errno) => tracing::warn!(path = %path.display(), %errno, "a shared directory is not watched"),
        }
        if let Ok(entries) = Dir::read_from(&directory) {
            self.scans.push_back(Scan {
                folder,
                path: path.to_owned(),
                entries,
            });
        }
    }
}

impl AsFd for Mending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

/// Something in a folder, through no link and into no other file system.
fn open(top: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve =
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(top, path, flags, Mode::empty(), resolve)
}
