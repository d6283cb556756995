//! Makes the disk agree with the plan's storage: folders and files that are ours are made, owner, group,
//! mode and ACL set, and a changed policy carried through to what lies there already.
//!
//! Works by descriptor and follows no link: services write into these trees, and this runs as root. A
//! `source` of the user's is changed only if the manifest says `chown`.

pub mod adopted;
pub mod purge;
pub mod renamed;
pub mod staging;

use crate::durable;
use crate::host::{Dirs, HostError};
use crate::launch::LaunchError;
use crate::plan::{Keeping, Ledger, MountPoint, Ownership, Plan, PlanError, Storage};
use crate::walk::{self, Found, Walk, remove};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, RenameFlags, ResolveFlags, Uid, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error("resource `{resource}`: {source}")]
    Resource { resource: String, source: LaunchError },
    #[error(
        "resource `{resource}` is shared, but the file system of {path} keeps no ACLs, without which a file that one \
         member makes would be closed to the others; use --state-dir to put the data on ext4, xfs or btrfs"
    )]
    NoAcl { resource: String, path: String },
}

/// Carries out the plan's storage. `ledger.applied` says afterwards how things stand; the caller saves it.
pub fn prepare(plan: &Plan, ledger: &mut Ledger) -> Result<(), StorageError> {
    if plan.storage.is_empty() {
        return Ok(());
    }
    for storage in plan.storage.iter().filter(|s| s.keeping == Keeping::Adopted) {
        if adopted::record(&plan.dirs, ledger, &storage.resource, &storage.path)? {
            ledger.applied.remove(&storage.resource);
        }
    }
    let mut changed = Vec::new();
    let made = make(&plan.dirs, &plan.storage, &mut ledger.applied, &mut changed);
    for (storage, done) in changed {
        if let Err(e) = settle(&plan.dirs.resources(), storage, done) {
            ledger.applied.remove(&storage.resource);
            return Err(PlanError::io("write to disk what was changed in", &storage.path, e).into());
        }
    }
    made
}

/// Makes the folder of a resource once more, which was deleted while the app is up. The ledger knows it.
pub fn make_again(dirs: &Dirs, storage: &Storage) -> Result<(), StorageError> {
    let mut changed = Vec::new();
    make(dirs, std::slice::from_ref(storage), &mut BTreeMap::new(), &mut changed)?;
    for (storage, done) in changed {
        settle(&dirs.resources(), storage, done)
            .map_err(|e| PlanError::io("write to disk what was changed in", &storage.path, e))?;
    }
    Ok(())
}

/// Has on disk what the ledger is about to say.
fn settle(resources: &Path, storage: &Storage, done: Applied) -> std::io::Result<()> {
    let folder = match storage.directory {
        true => Some(storage.path.as_path()),
        false => storage.path.parent(),
    };
    let folder = folder.unwrap_or(resources);
    match done {
        Applied::Nothing => Ok(()),
        // A folder, or an empty file in one.
        Applied::Made => durable::settle_names(folder).and_then(|()| durable::settle_names(resources)),
        Applied::Changed => durable::settle(folder),
    }
}

/// Takes off the record how those resources are owned that are about to be owned otherwise: if that is interrupted, it is
/// done again, whatever the manifest says by then.
pub fn forget_changing(plan: &Plan, ledger: &mut Ledger) {
    for storage in &plan.storage {
        if ledger.applied.get(&storage.resource) != Some(&storage.ownership) {
            ledger.applied.remove(&storage.resource);
        }
    }
}

/// What was done about a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    Nothing,
    /// It is there now, and empty.
    Made,
    /// What is in it is owned otherwise.
    Changed,
}

/// `applied`: how the files of each resource are owned, as far as that is known; brought up to date. `changed`: those that
/// it was brought up to date for.
pub(super) fn make<'s>(
    dirs: &Dirs,
    storages: &'s [Storage],
    applied: &mut BTreeMap<String, Ownership>,
    changed: &mut Vec<(&'s Storage, Applied)>,
) -> Result<(), StorageError> {
    let resources = dirs.resources();
    crate::host::make_private(&dirs.app)?;
    crate::host::make_private(&resources)?;
    // Of a start that was killed.
    let unfinished = staging::initial(&resources);
    remove(&unfinished).map_err(|e| PlanError::io("remove", &unfinished, e))?;
    for storage in storages {
        let before = applied.get(&storage.resource).cloned();
        tracing::debug!(resource = storage.resource, path = %storage.path.display(), keeping = ?storage.keeping, "storage");
        let done = one(&resources, storage, before.as_ref()).map_err(|e| match e {
            Trouble::Launch(source) => StorageError::Resource {
                resource: storage.resource.clone(),
                source,
            },
            Trouble::NoAcl => StorageError::NoAcl {
                resource: storage.resource.clone(),
                path: storage.path.display().to_string(),
            },
        })?;
        if done != Applied::Nothing {
            applied.insert(storage.resource.clone(), storage.ownership.clone());
            changed.push((storage, done));
        }
    }
    Ok(())
}

enum Trouble {
    Launch(LaunchError),
    NoAcl,
}

impl From<LaunchError> for Trouble {
    fn from(error: LaunchError) -> Self {
        Trouble::Launch(error)
    }
}

fn one(resources: &Path, storage: &Storage, before: Option<&Ownership>) -> Result<Applied, Trouble> {
    let shown = storage.path.display().to_string();
    let wrong = |operation: &'static str| LaunchError::system(operation, shown.clone());
    if storage.keeping == Keeping::Theirs {
        return Ok(Applied::Nothing);
    }
    let (mut fresh, mut filled) = (false, false);
    if storage.keeping == Keeping::Ours {
        let folder = resources.join(&storage.resource);
        if let Some(initial) = storage.initial.as_ref().filter(|_| !folder.exists()) {
            staging::begin_with(initial, &staging::initial(resources), &folder)
                .map_err(|(path, e)| LaunchError::system_text("copy what it begins with from", path.display(), e))?;
            filled = true;
        }
        fresh |= make_directory(&folder)?;
        if !storage.directory {
            fresh |= make_file(&storage.path)?;
        }
    }
    let flags = OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | if storage.directory {
            OFlags::RDONLY | OFlags::DIRECTORY
        } else {
            OFlags::PATH
        };
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let top = rustix::fs::openat2(CWD, &storage.path, flags, Mode::empty(), resolve).map_err(wrong("open"))?;
    let changed = fresh || filled || before != Some(&storage.ownership);
    if changed {
        let apply = Apply { of: &storage.ownership };
        if storage.directory {
            apply.tree(top.as_fd(), &storage.path)?;
        } else {
            apply.file(top.as_fd(), At(&storage.path, Path::new("")))?;
        }
    }
    for point in &storage.mount_points {
        mount_point(top.as_fd(), &storage.path, point)?;
    }
    Ok(match (changed, fresh && !filled && before.is_none()) {
        (false, _) => Applied::Nothing,
        (true, true) => Applied::Made,
        (true, false) => Applied::Changed,
    })
}

fn make_directory(path: &Path) -> Result<bool, LaunchError> {
    match rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o711)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(LaunchError::system("make directory", path.display().to_string())(errno)),
    }
}

fn make_file(path: &Path) -> Result<bool, LaunchError> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)) {
        Ok(_) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(LaunchError::system("make file", path.display().to_string())(errno)),
    }
}

/// Takes an ACL off. That there is none, or can be none, is as good.
fn without(fd: BorrowedFd<'_>, acl: &std::ffi::CStr) -> Result<(), Errno> {
    match rustix::fs::removexattr(through_proc(fd), acl) {
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(()),
        other => other,
    }
}

/// An empty place for a resource that lies in this one. Folders on the way are ours, and only searched. What a service has
/// put there meanwhile goes out of the way: a member that can rename folders holds up nobody's start.
fn mount_point(top: BorrowedFd<'_>, shown: &Path, point: &MountPoint) -> Result<(), LaunchError> {
    let wrong = || LaunchError::system("make a mount point in", format!("{} ({})", shown.display(), point.path));
    let mut at = rustix::io::fcntl_dupfd_cloexec(top, 3).map_err(wrong())?;
    let mut parts = point.path.split('/').peekable();
    while let Some(part) = parts.next() {
        let directory = parts.peek().is_some() || point.directory;
        if let Some(name) = move_out_of_the_way(at.as_fd(), part, directory).map_err(wrong())? {
            tracing::warn!(
                resource = %shown.display(),
                "{part}, which was in the place of {}, is called {name} now", point.path
            );
        }
        if !directory {
            let flags = OFlags::CREATE | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::openat(&at, part, flags, Mode::empty()).map_err(wrong())?;
            return Ok(());
        }
        let made = match rustix::fs::mkdirat(&at, part, Mode::from_raw_mode(0o711)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(errno) => return Err(wrong()(errno)),
        };
        at = enter(at.as_fd(), part).map_err(wrong())?;
        if made {
            // Whatever the resource's own ACL made of it: whoever gets so far may pass.
            for acl in [DEFAULT_ACL, ACCESS_ACL] {
                without(at.as_fd(), acl).map_err(wrong())?;
            }
            rustix::fs::chmod(through_proc(at.as_fd()), Mode::from_raw_mode(0o711)).map_err(wrong())?;
        }
    }
    Ok(())
}

/// A directory in this one. A link that a service has put in its place since that was looked at is none.
fn enter(at: BorrowedFd<'_>, part: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(at, part, flags, Mode::empty())
}

/// Gives another name to what nothing can be mounted on: a link, or a file where a directory is to be, and the other way
/// round. That name, if there was such.
fn move_out_of_the_way(at: BorrowedFd<'_>, part: &str, directory: bool) -> Result<Option<String>, Errno> {
    match rustix::fs::statat(at, part, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno),
        Ok(found) => match FileType::from_raw_mode(found.st_mode) {
            FileType::Directory if directory => return Ok(None),
            FileType::Directory | FileType::Symlink => {}
            _ if !directory => return Ok(None),
            _ => {}
        },
    }
    let mut number = 1;
    loop {
        let name = format!("moved-aside-{number}");
        match rustix::fs::renameat_with(at, part, at, &name, RenameFlags::NOREPLACE) {
            Ok(()) => return Ok(Some(name)),
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::EXIST) if number < 10_000 => number += 1,
            Err(errno) => return Err(errno),
        }
    }
}

struct Apply<'a> {
    of: &'a Ownership,
}

/// A path below another one, put together only for an error.
#[derive(Clone, Copy)]
struct At<'a>(&'a Path, &'a Path);

impl At<'_> {
    fn wrong(self, operation: &'static str, errno: Errno) -> LaunchError {
        let path = match self.1.as_os_str().is_empty() {
            true => self.0.to_owned(),
            false => self.0.join(self.1),
        };
        LaunchError::system(operation, walk::shown(&path))(errno)
    }
}

const DEFAULT_ACL: &std::ffi::CStr = c"system.posix_acl_default";
const ACCESS_ACL: &std::ffi::CStr = c"system.posix_acl_access";

impl Apply<'_> {
    /// A directory and all below it. What is mounted in it is not entered.
    fn tree(&self, top: BorrowedFd<'_>, shown: &Path) -> Result<(), Trouble> {
        let wrong = |e: walk::WalkError| LaunchError::system(e.operation, walk::shown(&shown.join(e.path)))(e.errno);
        let top = rustix::io::fcntl_dupfd_cloexec(top, 3)
            .map_err(LaunchError::system("open", shown.display().to_string()))?;
        let mut walk = Walk::new(top).map_err(LaunchError::system("look at", shown.display().to_string()))?;
        while let Some(Found::Entry(entry)) = walk.next().map_err(wrong)? {
            let at = At(shown, entry.path);
            match entry.kind() {
                FileType::Directory => self.directory(entry.file, &entry.stat, at)?,
                FileType::Symlink => self.own(entry.file, &entry.stat, at)?,
                _ => self.file(entry.file, at)?,
            }
        }
        Ok(())
    }

    fn directory(&self, directory: BorrowedFd<'_>, found: &rustix::fs::Stat, shown: At<'_>) -> Result<(), Trouble> {
        self.own(directory, found, shown)?;
        self.without(directory, ACCESS_ACL, shown)?;
        self.mode(directory, self.of.directory_mode(), shown)?;
        if self.of.inherited {
            self.xattr(directory, DEFAULT_ACL, &self.of.default_acl(), shown)?;
        } else {
            self.without(directory, DEFAULT_ACL, shown)?;
        }
        self.access(directory, &self.of.directory_acl(), shown)
    }

    /// The ACL's group class is a mask, which is where a mode's group bits go: so it is set, or taken off, after
    /// the mode.
    fn access(&self, fd: BorrowedFd<'_>, acl: &[u8], shown: At<'_>) -> Result<(), Trouble> {
        if self.of.named.is_empty() {
            return Ok(());
        }
        self.xattr(fd, ACCESS_ACL, acl, shown)
    }

    /// A file keeps `x` only where it had any; set-id bits it loses, and the ACL that it took on when it was made.
    fn file(&self, file: BorrowedFd<'_>, shown: At<'_>) -> Result<(), Trouble> {
        let found = rustix::fs::fstat(file).map_err(|errno| shown.wrong("look at", errno))?;
        self.own(file, &found, shown)?;
        // With an ACL, a mode's group bits would be but its mask.
        self.without(file, ACCESS_ACL, shown)?;
        let runs = found.st_mode & 0o111 != 0;
        self.mode(file, self.of.file_mode() & if runs { 0o777 } else { 0o666 }, shown)?;
        self.access(file, &self.of.file_acl(runs), shown)
    }

    /// All of a resource becomes its owner's, whoever made it: as a file's UNIX owner a former owner or member
    /// would keep rights that the manifest has taken away.
    fn own(&self, fd: BorrowedFd<'_>, found: &rustix::fs::Stat, shown: At<'_>) -> Result<(), LaunchError> {
        if (found.st_uid, found.st_gid) == (self.of.uid, self.of.gid) {
            return Ok(());
        }
        rustix::fs::chownat(
            fd,
            c"",
            Some(Uid::from_raw(self.of.uid)),
            Some(Gid::from_raw(self.of.gid)),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )
        .map_err(|errno| shown.wrong("change the owner of", errno))
    }

    fn mode(&self, fd: BorrowedFd<'_>, mode: u32, shown: At<'_>) -> Result<(), Trouble> {
        rustix::fs::chmod(through_proc(fd), Mode::from_raw_mode(mode))
            .map_err(|errno| shown.wrong("change the mode of", errno).into())
    }

    fn xattr(&self, fd: BorrowedFd<'_>, name: &std::ffi::CStr, value: &[u8], shown: At<'_>) -> Result<(), Trouble> {
        match rustix::fs::setxattr(through_proc(fd), name, value, XattrFlags::empty()) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP) => Err(Trouble::NoAcl),
            Err(errno) => Err(shown.wrong("set the ACL of", errno).into()),
        }
    }

    /// Takes an ACL off: what it grants may be a former owner's or member's.
    fn without(&self, fd: BorrowedFd<'_>, name: &std::ffi::CStr, shown: At<'_>) -> Result<(), Trouble> {
        without(fd, name).map_err(|errno| shown.wrong("take the ACL off", errno).into())
    }
}

/// Opens what a program has made to those who are granted it, where rights go by ACL; what its maker may do with it stays
/// the maker's own affair.
pub fn mend(fd: BorrowedFd<'_>, found: &rustix::fs::Stat, of: &Ownership) -> Result<(), Errno> {
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind == FileType::Symlink {
        return Ok(());
    }
    let directory = kind == FileType::Directory;
    let runs = found.st_mode & 0o111 != 0;
    let maker = Ownership {
        owner: found.st_mode >> 6 & 7,
        ..of.clone()
    };
    let acl = if directory {
        maker.directory_acl()
    } else {
        maker.file_acl(runs)
    };
    let path = through_proc(fd);
    let put = |name: &std::ffi::CStr, wanted: &[u8]| {
        let mut have = vec![0u8; wanted.len() + 1];
        match rustix::fs::getxattr(&path, name, &mut have) {
            Ok(length) if have[..length] == *wanted => Ok(()),
            _ => rustix::fs::setxattr(&path, name, wanted, XattrFlags::empty()),
        }
    };
    if directory {
        put(DEFAULT_ACL, &of.default_acl())?;
    }
    if !of.named.is_empty() {
        return put(ACCESS_ACL, &acl);
    }
    let bits = if directory {
        maker.directory_mode()
    } else {
        maker.file_mode()
    };
    let wanted = found.st_mode & 0o7700 | bits & if directory || runs { 0o77 } else { 0o66 };
    if wanted != found.st_mode & 0o7777 {
        rustix::fs::chmod(&path, Mode::from_raw_mode(wanted))?;
    }
    Ok(())
}

/// The one path by which a descriptor of whatever kind can be named: magic, so no link is followed.
pub(super) fn through_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Holding;

    #[test]
    fn a_way_to_a_mount_point_goes_through_no_link() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("real")).unwrap();
        std::os::unix::fs::symlink("real", folder.path().join("link")).unwrap();
        assert!(folder.path().join("link").is_dir());
        let at = std::fs::File::open(folder.path()).unwrap();
        assert!(enter(at.as_fd(), "real").is_ok());
        assert!(enter(at.as_fd(), "link").is_err());
    }

    #[test]
    fn a_resource_that_has_become_a_link_is_not_followed() {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
        let folder = tempfile::tempdir().unwrap();
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let dirs = Dirs {
            state: folder.path().join("state"),
            app: folder.path().join("state/apps/a"),
            run: folder.path().join("run"),
            external: folder.path().join("external"),
        };
        for directory in [true, false] {
            let theirs = folder.path().join(format!("theirs-{directory}"));
            if directory {
                std::fs::create_dir(&theirs).unwrap();
            } else {
                std::fs::write(&theirs, "").unwrap();
            }
            std::fs::set_permissions(&theirs, PermissionsExt::from_mode(0o755)).unwrap();
            let link = folder.path().join(format!("link-{directory}"));
            symlink(&theirs, &link).unwrap();
            let storage = |path: &Path| Storage {
                resource: "r".into(),
                path: path.to_owned(),
                directory,
                keeping: Keeping::Adopted,
                holding: Holding::OneOwner,
                initial: None,
                ownership: Ownership {
                    uid,
                    gid,
                    owner: 7,
                    ..Ownership::default()
                },
                disk: Default::default(),
                mount_points: Vec::new(),
            };
            let mode = || theirs.symlink_metadata().unwrap().mode() & 0o777;
            // The one named, and one on the way to it.
            let way = folder.path().join(format!("way-{directory}"));
            symlink(folder.path(), &way).unwrap();
            for path in [link, way.join(theirs.file_name().unwrap_or_default())] {
                assert!(path.exists());
                assert!(make(&dirs, &[storage(&path)], &mut BTreeMap::new(), &mut Vec::new()).is_err());
                assert_eq!(mode(), 0o755, "{}", path.display());
            }
            // The control: by its own name it is changed.
            assert!(make(&dirs, &[storage(&theirs)], &mut BTreeMap::new(), &mut Vec::new()).is_ok());
            assert_eq!(mode() & 0o077, 0);
        }
    }
}
