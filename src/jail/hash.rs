//! SHA-256 of files and of trees.

use super::JailError;
use super::listing::{EntryKind, JailEntry, Listing, Origin};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub(super) fn tree_hash(
    listing: &Listing,
    content: impl Fn(&PathBuf, &JailEntry) -> Result<String, JailError>,
) -> Result<String, JailError> {
    let mut hasher = Sha256::new();
    for (path, item) in &listing.items {
        hasher.update(path.as_os_str().as_bytes());
        match &item.kind {
            EntryKind::Directory => hasher.update(b"\0d"),
            EntryKind::Link(target) => {
                hasher.update(b"\0l");
                hasher.update(target.as_os_str().as_bytes());
            }
            EntryKind::File {
                executable, modified, ..
            } => hasher.update(format!("\0f{executable} {modified} {}", content(path, item)?)),
        }
        hasher.update(b"\0\n");
    }
    Ok(hex(&hasher.finalize()))
}

/// The hash of what a file of a listing holds; read, if it is not known.
pub fn content(path: &Path, item: &JailEntry) -> Result<String, JailError> {
    match (&item.content, &item.origin) {
        (Some(known), _) => Ok(known.clone()),
        (None, Some(Origin::Host(from))) => hash_file(from),
        (None, _) => hash_file(path),
    }
}

pub(super) fn open(path: &Path) -> Result<File, JailError> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| JailError::io("read", path, e))
}

pub(super) fn hash_file(path: &Path) -> Result<String, JailError> {
    hash_all(&mut open(path)?, path)
}

pub(super) fn hash_all(file: &mut File, path: &Path) -> Result<String, JailError> {
    let wrong = |e| JailError::io("read", path, e);
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer).map_err(wrong)? {
            0 => return Ok(hex(&hasher.finalize())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
