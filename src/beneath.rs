//! Making things below a root that holds what others have chosen: a service's root with an image's links in it, a jail's
//! tree, a bundle.
//!
//! Everything is named relative to the root's descriptor and reached through no link (openat2(2), RESOLVE_BENEATH,
//! RESOLVE_NO_SYMLINKS). A link on the way is an error, ELOOP, and not a way out of the root: an image's `/etc` may lead
//! to a folder of the host's. Nothing that is there already is opened for writing, and nothing is replaced.

use rustix::fs::{AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

const DIRECTORY: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory below which things are made. Paths are relative to it, without `..`.
pub struct Root {
    fd: OwnedFd,
    /// The links that are there, where all of them are known.
    links: Option<RefCell<Vec<PathBuf>>>,
}

/// The directory that something lies in.
enum Parent<'r> {
    Root(BorrowedFd<'r>),
    Inside(OwnedFd),
}

impl AsFd for Parent<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Parent::Root(fd) => *fd,
            Parent::Inside(fd) => fd.as_fd(),
        }
    }
}

impl Root {
    /// The directory at `path`, which is no link itself; those on the way to it are whoever's who named it.
    pub fn open(path: &Path) -> Result<Root, Errno> {
        rustix::fs::open(path, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map(Root::of)
    }

    pub fn of(fd: OwnedFd) -> Root {
        Root { fd, links: None }
    }

    /// A root that is empty, and that nobody else can write to: the only links in it are those that are made here, and
    /// where none is on the way, nothing has to be looked for.
    pub fn fresh(fd: OwnedFd) -> Root {
        let links = Some(RefCell::default());
        Root { fd, links }
    }

    pub fn into_inner(self) -> OwnedFd {
        self.fd
    }

    /// A directory below, as a root of its own.
    pub fn below(&self, path: &Path) -> Result<Root, Errno> {
        openat2(self.fd.as_fd(), path, DIRECTORY).map(Root::of)
    }

    /// What lies in the root itself.
    pub fn names(&self) -> Result<Vec<OsString>, Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.fd, ".", flags, Mode::empty())?;
        let mut out = Vec::new();
        for entry in Dir::new(opened)? {
            let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                out.push(name);
            }
        }
        Ok(out)
    }

    /// mkdir(2), with the process' umask; an error if something is there.
    pub fn directory(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(mode))
    }

    /// An empty file to write to; an error if something is there.
    pub fn file(&self, path: &Path, mode: u32) -> Result<File, Errno> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(mode)).map(File::from)
    }

    pub fn link(&self, path: &Path, target: &Path) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, parent, name)?;
        self.may_lead_away(path);
        Ok(())
    }

    /// A fifo(7).
    pub fn fifo(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::mknodat(parent, name, FileType::Fifo, Mode::from_raw_mode(mode), 0)
    }

    /// rename(2), in the place of what is there.
    pub fn rename(&self, from: &Path, to: &Path) -> Result<(), Errno> {
        let (from_parent, from_name) = self.parent(from)?;
        let (to_parent, to_name) = self.parent(to)?;
        rustix::fs::renameat(from_parent, from_name, to_parent, to_name)
    }

    /// A device that is none, which hides what lies below it in an overlay; making it takes no right (mknod(2), since
    /// Linux 5.8).
    pub fn whiteout(&self, path: &Path) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
    }

    /// One more name for the file `of`, a path of this program's own choosing.
    pub fn hard_link(&self, path: &Path, of: &Path) -> Result<(), Errno> {
        let (parent, name) = self.parent(path)?;
        rustix::fs::linkat(CWD, of, parent, name, AtFlags::empty())?;
        self.may_lead_away(path);
        Ok(())
    }

    /// chmod(2) of a directory, whatever the umask.
    pub fn set_directory_mode(&self, path: &Path, mode: u32) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::fchmod(openat2(self.fd.as_fd(), path, flags)?, Mode::from_raw_mode(mode))
    }

    /// lchown(2); the root itself by an empty path.
    pub fn own(&self, path: &Path, (uid, gid): (u32, u32)) -> Result<(), Errno> {
        let ids = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
        if path.as_os_str().is_empty() {
            return rustix::fs::chownat(&self.fd, "", ids.0, ids.1, AtFlags::EMPTY_PATH);
        }
        let (parent, name) = self.parent(path)?;
        rustix::fs::chownat(parent, name, ids.0, ids.1, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// Removes what is there, with all that is in it.
    pub fn remove(&self, path: &Path) -> std::io::Result<()> {
        let (parent, name) = match self.parent(path) {
            Err(Errno::NOENT) => return Ok(()),
            other => other?,
        };
        crate::walk::remove_at(parent.as_fd(), name).map_err(|trouble| trouble.below(path))
    }

    fn parent<'p>(&self, path: &'p Path) -> Result<(Parent<'_>, &'p OsStr), Errno> {
        if self.meets_no_link(path) {
            return Ok((Parent::Root(self.fd.as_fd()), path.as_os_str()));
        }
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                Parent::Inside(openat2(self.fd.as_fd(), parent, DIRECTORY)?)
            }
            _ => Parent::Root(self.fd.as_fd()),
        };
        Ok((parent, name))
    }

    fn may_lead_away(&self, path: &Path) {
        if let Some(links) = &self.links {
            links.borrow_mut().push(path.to_owned());
        }
    }

    /// Is it known that no link is on the way to `path`, which stays below?
    fn meets_no_link(&self, path: &Path) -> bool {
        let below = |path: &Path| path.components().all(|c| matches!(c, Component::Normal(_)));
        let known = |links: &RefCell<Vec<PathBuf>>| !links.borrow().iter().any(|link| path.starts_with(link));
        self.links.as_ref().is_some_and(known) && below(path)
    }
}

fn openat2(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename elsewhere on the host while `..` was looked at; openat2(2).
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// What could be seen of a change: names, kinds, modes, owners, times and contents.
    fn state(folder: &Path) -> Vec<String> {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()) {
            let m = entry.symlink_metadata().unwrap();
            out.push(format!(
                "{entry:?} {:o} {}.{} {:?}",
                m.mode(),
                m.ctime(),
                m.ctime_nsec(),
                std::fs::read(&entry).ok()
            ));
        }
        let own = folder.symlink_metadata().unwrap();
        out.push(format!("{:o} {} {}", own.mode(), own.ctime(), own.ctime_nsec()));
        out.sort();
        out
    }

    #[test]
    fn nothing_is_made_or_changed_through_a_link() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let away = outside.path().join("away");
        std::fs::create_dir(&away).unwrap();
        std::fs::write(away.join("theirs"), "theirs").unwrap();
        std::fs::create_dir(inside.path().join("real")).unwrap();
        let dots = format!("../../../../../..{}", away.display());
        for (name, target) in [
            ("absolute", away.to_str().unwrap()),
            ("dots", &dots),
            ("chain", "absolute"),
        ] {
            symlink(target, inside.path().join(name)).unwrap();
            symlink(format!("../{name}"), inside.path().join("real").join(name)).unwrap();
        }
        let before = state(&away);
        let root = Root::open(inside.path()).unwrap();
        let blob = inside.path().join("blob");
        std::fs::write(&blob, "x").unwrap();
        for way in ["absolute", "dots", "chain", "real/absolute", "real/dots", "real/chain"] {
            // By path, every one of these would do what it says: the links do lead there.
            assert_eq!(
                std::fs::read_to_string(inside.path().join(way).join("theirs")).unwrap(),
                "theirs"
            );
            let made = Path::new(way).join("made");
            let theirs = Path::new(way).join("theirs");
            assert_eq!(root.directory(&made, 0o755), Err(Errno::LOOP), "{way}");
            assert_eq!(root.file(&made, 0o644).map(drop), Err(Errno::LOOP), "{way}");
            assert_eq!(root.link(&made, Path::new("x")), Err(Errno::LOOP), "{way}");
            assert_eq!(root.whiteout(&made), Err(Errno::LOOP), "{way}");
            assert_eq!(root.hard_link(&made, &blob), Err(Errno::LOOP), "{way}");
            assert_eq!(root.own(&theirs, (1, 1)), Err(Errno::LOOP), "{way}");
            assert!(root.set_directory_mode(Path::new(way), 0o700).is_err(), "{way}");
            assert!(root.below(Path::new(way)).is_err(), "{way}");
            assert!(root.remove(&theirs).is_err(), "{way}");
            assert_eq!(root.directory(Path::new(way), 0o755), Err(Errno::EXIST), "{way}");
            assert_eq!(root.file(Path::new(way), 0o644).map(drop), Err(Errno::EXIST), "{way}");
        }
        for out in ["../made", "real/../../made", "/tmp/made"] {
            assert_eq!(root.directory(Path::new(out), 0o755), Err(Errno::XDEV), "{out}");
        }
        assert!(Root::open(&inside.path().join("absolute")).is_err());
        assert_eq!(state(&away), before);
        // And what is no way out is made.
        root.directory(Path::new("real/a"), 0o755).unwrap();
        root.file(Path::new("real/a/f"), 0o600).unwrap();
        root.link(Path::new("real/a/l"), &away).unwrap();
        root.hard_link(Path::new("real/a/h"), &blob).unwrap();
        root.set_directory_mode(Path::new("real/a"), 0o1777).unwrap();
        let mode = std::fs::metadata(inside.path().join("real/a"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o7777, 0o1777);
        for gone in ["real", "absolute", "nothing", "no/where"] {
            root.remove(Path::new(gone)).unwrap();
            assert!(inside.path().join(gone).symlink_metadata().is_err());
        }
        assert_eq!(state(&away), before);
    }

    #[test]
    fn a_fresh_root_follows_no_link_that_was_made_in_it() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = Root::fresh(std::fs::File::open(inside.path()).unwrap().into());
        root.directory(Path::new("real"), 0o755).unwrap();
        root.link(Path::new("real/away"), outside.path()).unwrap();
        root.hard_link(Path::new("real/too"), &inside.path().join("real/away"))
            .unwrap();
        for way in ["real/away", "real/too"] {
            // By path, it would be made outside.
            assert!(inside.path().join(way).is_dir());
            let made = Path::new(way).join("made");
            assert_eq!(root.directory(&made, 0o755), Err(Errno::LOOP), "{way}");
            assert_eq!(root.file(&made, 0o644).map(drop), Err(Errno::LOOP), "{way}");
            assert_eq!(root.link(&made, Path::new("x")), Err(Errno::LOOP), "{way}");
        }
        assert_eq!(root.directory(Path::new("real/../../made"), 0o755), Err(Errno::XDEV));
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        root.file(Path::new("real/f"), 0o600).unwrap();
        assert!(inside.path().join("real/f").is_file());
    }
}
