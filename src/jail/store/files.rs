//! How files and folders of the store are made, compared and removed.

use crate::beneath::Root;
use crate::jail::JailError;
use crate::jail::hash::open;
use crate::jail::listing::{EntryKind, Listing};
use crate::walk::{Found, Walk};
use rustix::fs::{FileType, Mode, Timespec, Timestamps};
use rustix::io::Errno;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

/// A file up to this size is read into memory.
pub(super) const AT_ONCE: u64 = 8 << 20;

/// What a build or a prune came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub files: u64,
    pub bytes: u64,
}

pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

pub(super) fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

pub(super) fn is_file_of(path: &Path, size: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Are both names of one file?
pub(super) fn is_one(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| {
        std::fs::symlink_metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    id(one).is_some_and(|found| Some(found) == id(other))
}

/// Have the files of a tree the sizes that a listing has?
pub(super) fn has_sizes(tree: &Path, listing: &Listing) -> bool {
    listing.items.iter().all(|(path, item)| match item.kind {
        EntryKind::File { size, .. } => is_file_of(&tree.join(inside(path)), size),
        _ => true,
    })
}

/// Makes an empty file share its blocks with what was read, where the disk can, if that still is what was read.
pub(super) fn cloned(source: &File, target: &File, place: &Path, content: &[u8]) -> Result<bool, JailError> {
    if rustix::fs::ioctl_ficlone(target, source).is_err() {
        return Ok(false);
    }
    let mut shared = Vec::with_capacity(content.len() + 1);
    open(place)?
        .take(AT_ONCE + 1)
        .read_to_end(&mut shared)
        .map_err(|e| JailError::io("read", place, e))?;
    if shared == content {
        return Ok(true);
    }
    target.set_len(0).map_err(|e| JailError::io("write", place, e))?;
    Ok(false)
}

/// A reflink, or a copy (copy_file_range(2)); without set-id bits, whatever the umask.
pub(super) fn copy(from: &Path, to: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
    let mut target = create(to)?;
    fill(&mut open(from)?, &mut target, to)?;
    finish(&target, to, executable, modified)
}

pub(super) fn fill(source: &mut File, target: &mut File, shown: &Path) -> Result<(), JailError> {
    crate::host::copy_content(source, target).map_err(|e| JailError::io("copy to", shown, e))
}

pub(super) fn create(path: &Path) -> Result<File, JailError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(|e| JailError::io("make", path, e))
}

/// Sets mode and time of a file that is whole.
pub(super) fn finish(target: &File, shown: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
    let wrong = |e: rustix::io::Errno| JailError::io("set mode and time of", shown, e);
    let mode = if executable { 0o555 } else { 0o444 };
    rustix::fs::fchmod(target, Mode::from_raw_mode(mode)).map_err(wrong)?;
    let time = Timespec {
        tv_sec: modified,
        tv_nsec: 0,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    rustix::fs::futimens(target, &times).map_err(wrong)
}

pub(super) fn link_or_copy(
    blob: &Path,
    root: &Root,
    place: &Path,
    executable: bool,
    modified: i64,
) -> Result<(), JailError> {
    let wrong = |e| JailError::io("make in the jail", Path::new("/").join(place), e);
    match root.hard_link(place, blob) {
        // Some disks have no hard links, and the others not endless many for a file.
        Err(Errno::MLINK | Errno::PERM | Errno::OPNOTSUPP | Errno::XDEV) => {
            let mut target = root.file(place, 0o600).map_err(wrong)?;
            fill(&mut open(blob)?, &mut target, place)?;
            finish(&target, place, executable, modified)
        }
        other => other.map_err(wrong),
    }
}

pub(super) fn directory(path: &Path) -> Result<(), JailError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)))
        .map_err(|e| JailError::io("make the directory", path, e))
}

/// The store is its owner's alone: what services see of it is mounted by descriptor.
pub(super) fn make_private(path: &Path) -> Result<(), JailError> {
    crate::host::make_private(path).map_err(|e| JailError::io("use", path, e))
}

pub(super) fn remove(path: &Path) -> Result<(), JailError> {
    crate::walk::remove(path).map_err(|e| JailError::io("remove", path, e))
}

/// Adds what lies at a path.
pub(super) fn weigh(path: &Path, sum: &mut Count) -> Result<(), JailError> {
    let wrong = |e: std::io::Error| JailError::io("look at", path, e);
    let mut walk = Walk::at(path).map_err(|errno| wrong(errno.into()))?;
    while let Some(found) = walk.next().map_err(|trouble| wrong(trouble.below(path)))? {
        if let Found::Entry(entry) = found
            && entry.kind() == FileType::RegularFile
        {
            sum.files += 1;
            sum.bytes += u64::try_from(entry.stat.st_size).unwrap_or(0);
        }
    }
    Ok(())
}

pub(super) fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut out: Vec<String> = all.filter_map(|e| e.file_name().into_string().ok()).collect();
    out.sort();
    out
}

pub(super) fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
