//! Attaches a tree in the mount namespace of a sandbox that is there already, whose PID 1 has no right to do so any more.
//!
//! This process enters that namespace for the one call, and comes back; setns(2), move_mount(2). It executes nothing and opens nothing
//! but the place, through no link.

use super::LaunchError;
use crate::sys;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::MoveMountFlags;
use rustix::path::Arg;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// This process's own mount namespace, root and working directory: where it comes back to.
pub struct OwnMounts {
    namespace: OwnedFd,
    root: OwnedFd,
    directory: OwnedFd,
}

impl OwnMounts {
    pub fn new() -> Result<OwnMounts, LaunchError> {
        let open = |path: &'static str, flags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).map_err(LaunchError::system("open", path))
        };
        Ok(OwnMounts {
            namespace: open("/proc/self/ns/mnt", OFlags::RDONLY)?,
            root: open("/", OFlags::PATH)?,
            directory: open(".", OFlags::PATH)?,
        })
    }

    /// Attaches a detached tree at `place` in this mount namespace. If there is no way back, this process ends: what it is to do
    /// it would do in there.
    pub fn attach_in(&self, namespace: BorrowedFd<'_>, tree: BorrowedFd<'_>, place: &Path) -> Result<(), Errno> {
        move_into_link_name_space(namespace, Some(LinkNameSpaceType::Mount))?;
        let attached = attach(tree, place);
        if self.come_back().is_err() {
            sys::exit(125);
        }
        attached
    }

    fn come_back(&self) -> Result<(), Errno> {
        move_into_link_name_space(self.namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
        rustix::process::fchdir(&self.root)?;
        rustix::process::chroot(".")?;
        rustix::process::fchdir(&self.directory)
    }
}

/// Opens a path below the root, through no link; `None` if it is not there. Neither this nor what is below allocates for a path that
/// is a C string, or short: they are used between clone3(2) and execve(2), too.
pub(super) fn open_place(path: impl Arg) -> Result<Option<OwnedFd>, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

pub(super) fn attach(tree: BorrowedFd<'_>, target: impl Arg) -> Result<(), Errno> {
    let place = open_place(target)?.ok_or(Errno::NOENT)?;
    attach_at(tree, place.as_fd())
}

pub(super) fn attach_at(tree: BorrowedFd<'_>, place: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(tree, c"", place, c"", flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_mount_point_is_reached_through_no_link() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::fs::create_dir_all(real.join("in")).unwrap();
        symlink(&real, &link).unwrap();
        symlink("/proc/self/fd/0", folder.path().join("magic")).unwrap();
        let open = |path: &Path| open_place(path).map(|found| found.is_some());
        assert_eq!(open(&real.join("in")), Ok(true));
        assert_eq!(open(&real.join("missing")), Ok(false));
        for path in [link.clone(), link.join("in"), folder.path().join("magic")] {
            assert!(path.symlink_metadata().is_ok());
            assert_eq!(open(&path), Err(Errno::LOOP), "{}", path.display());
        }
    }
}
