//! A run on an overlay of its user's directory: what it changes lies in memory, is told when it has ended, and then becomes the
//! directory's or is let go.
//!
//! Follows the kernel's overlayfs.rst ("whiteouts and opaque directories"). The layer was the code's to write, so nothing in it
//! is followed, and what it says of owners and of set-id bits is not taken over.

use super::SandboxError;
use super::request::Change;
use super::userdir::Userdir;
use crate::beneath::Root;
use crate::walk::{Entry, Found, Walk, WalkError};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::fs::File;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

/// The layer that takes what is written.
#[derive(Debug)]
pub(super) struct Upper(pub OwnedFd);

/// Bytes of paths that are told; what there is beyond is counted.
const MOST_TOLD: usize = 40_000;

/// What a layer makes of one place in the directory.
enum Made {
    Gone,
    Directory {
        /// Is what lies there below left out?
        opaque: bool,
    },
    File,
    Link,
    Fifo,
    /// A socket, which nobody listens on any more.
    Nothing,
}

fn made(entry: &Entry<'_>) -> Made {
    match entry.kind() {
        FileType::CharacterDevice if entry.stat.st_rdev == 0 => Made::Gone,
        FileType::Directory => Made::Directory {
            opaque: is_opaque(entry.file),
        },
        FileType::RegularFile => Made::File,
        FileType::Symlink => Made::Link,
        FileType::Fifo => Made::Fifo,
        _ => Made::Nothing,
    }
}

fn is_opaque(directory: BorrowedFd<'_>) -> bool {
    let Ok(opened) = rustix::fs::openat(directory, ".", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        let mut value = [0u8; 4];
        matches!(rustix::fs::fgetxattr(&opened, *name, &mut value[..]), Ok(1) if value[0] == b'y')
    })
}

impl Upper {
    fn each(&self, mut of: impl FnMut(&Entry<'_>) -> Result<(), SandboxError>) -> Result<(), SandboxError> {
        let wrong =
            |e: WalkError| SandboxError::refused(format!("look through what was written: {} {}", e.operation, e.errno));
        let system = SandboxError::system("look through what was written");
        let again = rustix::io::fcntl_dupfd_cloexec(&self.0, 0).map_err(system)?;
        let mut walk = Walk::new(again).map_err(SandboxError::system("look through what was written"))?;
        while let Some(found) = walk.next().map_err(wrong)? {
            if let Found::Entry(entry) = found
                && !entry.path.as_os_str().is_empty()
            {
                of(&entry)?;
            }
        }
        Ok(())
    }

    /// What it changes, and how much more than is told here.
    pub(super) fn changes(&self, of: &Userdir) -> Result<(Vec<Change>, u64), SandboxError> {
        let (mut out, mut length, mut left) = (Vec::new(), 0, 0);
        self.each(|entry| {
            let there = rustix::fs::statat(&of.fd, entry.path, AtFlags::SYMLINK_NOFOLLOW);
            let is_there = there.is_ok();
            let was_directory = there.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
            let kind = match (made(entry), is_there) {
                (Made::Gone, true) => "deleted",
                (Made::Gone | Made::Nothing, _) => return Ok(()),
                (Made::Directory { opaque: false }, true) if was_directory => return Ok(()),
                (_, true) => "modified",
                (_, false) => "added",
            };
            let path = entry.path.to_string_lossy().into_owned();
            length += path.len() + 60;
            if length > MOST_TOLD {
                left += 1;
                return Ok(());
            }
            let size = match entry.kind() {
                FileType::RegularFile => entry.stat.st_size as u64,
                _ => 0,
            };
            out.push(Change { path, kind, size });
            Ok(())
        })?;
        Ok((out, left))
    }

    /// Makes the directory what the run saw.
    pub(super) fn commit(&self, to: &Userdir) -> Result<(), SandboxError> {
        let again = rustix::fs::openat(
            &to.fd,
            ".",
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let root = Root::of(again.map_err(SandboxError::system("open the user's directory"))?);
        self.each(|entry| {
            let wrong = |e: std::io::Error| SandboxError::refused(format!("{}: {e}", entry.path.display()));
            apply(&root, entry, to.owner()).map_err(wrong)
        })
    }
}

fn apply(root: &Root, entry: &Entry<'_>, owner: (u32, u32)) -> std::io::Result<()> {
    let path = entry.path;
    let mode = entry.stat.st_mode & 0o777;
    match made(entry) {
        Made::Nothing => return Ok(()),
        Made::Gone => return root.remove(path),
        Made::Directory { opaque } => {
            let there = root.below(path).is_ok();
            if opaque || !there {
                root.remove(path)?;
                root.directory(path, mode)?;
            }
            root.set_directory_mode(path, mode)?;
        }
        Made::File => replace(root, path, entry.file, mode, owner)?,
        Made::Link => {
            let target = rustix::fs::readlinkat(entry.file, "", Vec::new())?;
            root.remove(path)?;
            root.link(
                path,
                Path::new(std::ffi::OsStr::new(
                    target
                        .to_str()
                        .map_err(|_| std::io::Error::other("the link's target is not UTF-8"))?,
                )),
            )?;
        }
        Made::Fifo => {
            root.remove(path)?;
            root.fifo(path, mode)?;
        }
    }
    Ok(root.own(path, owner)?)
}

/// A file takes the place of what is there once it is whole.
fn replace(root: &Root, path: &Path, file: BorrowedFd<'_>, mode: u32, owner: (u32, u32)) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let mut from = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let parent = path.parent().unwrap_or(Path::new(""));
    let fresh = parent.join(".pysecure-commit");
    root.remove(&fresh)?;
    let mut to = root.file(&fresh, 0o600)?;
    crate::host::copy_content(&mut from, &mut to)?;
    root.own(&fresh, owner)?;
    rustix::fs::fchmod(&to, Mode::from_raw_mode(mode))?;
    to.sync_all()?;
    if root.below(path).is_ok() {
        root.remove(path)?;
    }
    Ok(root.rename(&fresh, path)?)
}
