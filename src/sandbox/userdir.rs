//! A user's directory: found below its resource through no link, and shown with the ids of the run.

use super::unit::Runner;
use super::{Identities, SandboxError, Userdirs};
use crate::compile::swapped;
use crate::host::Privilege;
use crate::walk::{Found, Walk, WalkError};
use oci_spec::runtime::LinuxIdMapping;
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// A directory that was found.
#[derive(Debug)]
pub(super) struct Userdir {
    pub path: PathBuf,
    pub fd: OwnedFd,
    /// Whose it is on disk, in the namespace of the pool.
    owner: (u32, u32),
}

/// How the run's id becomes the owner's.
#[derive(Debug)]
pub(super) enum Shown {
    /// It is the owner's already.
    AsIs,
    /// The mount has other ids than the disk.
    Mapped((Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)),
    /// What is in it is given to the run, and given back when it has ended: nobody but the host's root maps ids of mounts.
    Given,
}

/// Opens the directory that a client named.
pub(super) fn find(all: &Userdirs, named: &Path) -> Result<Userdir, SandboxError> {
    let refused = |why: String| SandboxError::refused(format!("userdir {}: {why}", named.display()));
    let plain = |path: &Path| {
        path.components()
            .all(|c| matches!(c, Component::RootDir | Component::Normal(_)))
    };
    if !named.is_absolute() || !plain(named) {
        return Err(refused("write an absolute path without `..`".into()));
    }
    let (path, owner) = match all {
        Userdirs::None => {
            return Err(refused(
                "this sandbox shows none; name `userdirs` in the manifest".into(),
            ));
        }
        Userdirs::Host => (named.to_owned(), None),
        Userdirs::Below { shown, source, owner } => {
            let inside = named
                .strip_prefix(shown)
                .ok()
                .filter(|inside| !inside.as_os_str().is_empty());
            let inside = inside.ok_or_else(|| refused(format!("it has to lie below {}", shown.display())))?;
            (source.join(inside), Some(*owner))
        }
    };
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = rustix::fs::openat2(CWD, &path, flags, Mode::empty(), resolve).map_err(|errno| {
        refused(match errno {
            Errno::NOENT => "it is not there; make it first".into(),
            Errno::LOOP => "a link lies on the way; name the directory itself".into(),
            Errno::NOTDIR => "it is no directory".into(),
            other => other.to_string(),
        })
    })?;
    let stat = rustix::fs::fstat(&fd).map_err(|errno| refused(errno.to_string()))?;
    Ok(Userdir {
        path,
        fd,
        owner: owner.unwrap_or((stat.st_uid, stat.st_gid)),
    })
}

impl Userdir {
    /// Whose it is on disk.
    pub(super) fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// How it is shown to a run.
    pub(super) fn shown(&self, privilege: &Privilege, runner: Runner) -> Shown {
        match privilege {
            Privilege::OneId => Shown::AsIs,
            Privilege::Root => {
                let (uid, gid) = self.owner;
                Shown::Mapped((swapped(uid, runner.uid), swapped(gid, runner.uid)))
            }
            Privilege::SubordinateIds => Shown::Given,
        }
    }

    /// Gives what is its owner's to a run; and what a run has left whose pool was killed, so that it could not be given back.
    pub(super) fn give(&self, runner: Runner, ids: Option<&Identities>) -> Result<(), SandboxError> {
        let of_a_run = |id: u32| ids.is_some_and(|ids| id.checked_sub(ids.first).is_some_and(|n| n < ids.count));
        let from = |owner: (u32, u32)| owner == self.owner || (of_a_run(owner.0) && owner.0 == owner.1);
        self.pass(from, (runner.uid, runner.uid))
    }

    /// Gives what is a run's to the owner.
    pub(super) fn take_back(&self, runner: Runner) -> Result<(), SandboxError> {
        self.pass(|owner| owner == (runner.uid, runner.uid), self.owner)
    }

    fn pass(&self, from: impl Fn((u32, u32)) -> bool, to: (u32, u32)) -> Result<(), SandboxError> {
        let wrong = |e: WalkError| SandboxError::refused(e.below(&self.path).to_string());
        let mut walk = self.walk()?;
        while let Some(found) = walk.next().map_err(wrong)? {
            let Found::Entry(entry) = found else { continue };
            if !from((entry.stat.st_uid, entry.stat.st_gid)) {
                continue;
            }
            let ids = (Some(Uid::from_raw(to.0)), Some(Gid::from_raw(to.1)));
            rustix::fs::chownat(
                entry.file,
                "",
                ids.0,
                ids.1,
                AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|errno| SandboxError::refused(format!("give {} to a run: {errno}", self.path.display())))?;
        }
        Ok(())
    }

    fn walk(&self) -> Result<Walk, SandboxError> {
        let refused = |errno: Errno| SandboxError::refused(format!("userdir {}: {errno}", self.path.display()));
        walk(&self.fd).map_err(refused)
    }

    /// What it holds: files of all kinds, and bytes. Counted as far as what is asked for.
    pub(super) fn holds(&self, most_files: u64, most_bytes: u64) -> (u64, u64) {
        holds(&self.fd, most_files, most_bytes)
    }
}

fn walk(directory: &OwnedFd) -> Result<Walk, Errno> {
    Walk::new(rustix::io::fcntl_dupfd_cloexec(directory.as_fd(), 0)?)
}

/// What a directory holds, counted as far as what is asked for.
pub(super) fn holds(directory: &OwnedFd, most_files: u64, most_bytes: u64) -> (u64, u64) {
    let (mut files, mut bytes) = (0, 0);
    let Ok(mut walk) = walk(directory) else { return (0, 0) };
    loop {
        match walk.next() {
            Ok(Some(Found::Entry(entry))) => {
                files += 1;
                if entry.kind() == FileType::RegularFile {
                    bytes += entry.stat.st_blocks as u64 * 512;
                }
                if files > most_files || bytes > most_bytes {
                    return (files, bytes);
                }
            }
            Ok(Some(Found::End { .. })) | Err(_) => {}
            Ok(None) => return (files, bytes),
        }
    }
}
