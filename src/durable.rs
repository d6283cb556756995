//! What outlasts a power loss: it is on disk before it gets the name by which it counts as there.
//!
//! rename(2) alone does not see to that. A file system may keep the new name and lose what was written under the old one,
//! which leaves an empty file (close(2), "no guarantee"; ext4's delayed allocation).

use rustix::fs::{CWD, Mode, OFlags};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Has all on disk that was written to the file system of `path`: many files at once cost less so than one by one.
pub fn settle(path: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::syncfs(&directory(path)?)?)
}

/// Gives what is on disk its name, in place of what has it. When this returns the name is on disk, too.
pub fn rename(fresh: &Path, place: &Path) -> std::io::Result<()> {
    std::fs::rename(fresh, place)?;
    settle_names(place.parent().unwrap_or(Path::new("/")))
}

/// Has the names in a directory on disk, as they are now.
pub fn settle_names(folder: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::fsync(&directory(folder)?)?)
}

/// Replaces a file in one step, by way of `fresh`: whoever reads it, before a power loss or after, sees the old content or
/// the new. It is its owner's alone.
pub fn write(fresh: &Path, place: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut options = File::options();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW);
    let written = options
        .open(fresh)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()))
        .and_then(|()| rename(fresh, place));
    if written.is_err() {
        // What was there stays as it was; a torn copy beside it serves nobody.
        let _ = std::fs::remove_file(fresh);
    }
    written
}

fn directory(path: &Path) -> std::io::Result<std::os::fd::OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}
