//! What a jail holds, and why each of it is there.

use super::JailError;
use super::hash::{hash_file, hex};
use super::image::Image;
use super::recipe::checked;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The kernel follows as many, path_resolution(7).
pub(super) const MOST_LINKS: usize = 40;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    Directory,
    Link(PathBuf),
    File {
        executable: bool,
        size: u64,
        /// Whole seconds: python's caches hold the time of their source.
        modified: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JailEntry {
    pub kind: EntryKind,
    /// A sentence's end: "is here because …".
    pub why: String,
    /// Not part of what the entry is.
    #[serde(skip)]
    pub stamp: FileStamp,
    /// The SHA-256 of a file's content, where it is known before it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Where its content comes from, if not from the same place of this host.
    #[serde(skip)]
    pub origin: Option<Origin>,
}

/// What changes when a file does, or another takes its place; stat(2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileStamp {
    pub inode: u64,
    /// Seconds and nanoseconds.
    pub changed: (i64, i64),
}

impl FileStamp {
    pub fn of(found: &std::fs::Metadata) -> FileStamp {
        FileStamp {
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// An entry of a layer of the listing's image, by number.
    Layer {
        layer: usize,
        ordinal: u64,
    },
    Host(PathBuf),
}

impl JailEntry {
    pub fn new(kind: EntryKind, why: impl Into<String>) -> JailEntry {
        JailEntry {
            kind,
            why: why.into(),
            stamp: FileStamp::default(),
            content: None,
            origin: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub items: BTreeMap<PathBuf, JailEntry>,
    /// What the jail lacks, a sentence each.
    pub notes: Vec<String>,
    /// An image's own /etc/passwd, which says where its users are at home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwd: Option<String>,
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

impl Listing {
    /// Is it a tree: does everything lie in a directory, and nothing below a link or a file?
    pub fn check(&self) -> Result<(), JailError> {
        for path in self.items.keys() {
            let parent = path.parent().filter(|p| *p != Path::new("/"));
            let in_directory = |p: &Path| self.items.get(p).is_some_and(|i| i.kind == EntryKind::Directory);
            let leads_out = !path.is_absolute() || path.components().any(|c| c == Component::ParentDir);
            if leads_out || parent.is_some_and(|p| !in_directory(p)) {
                return Err(JailError::Below {
                    path: path.to_owned(),
                    by: parent.unwrap_or(Path::new("/")).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Where a path leads here, itself not followed if it is a link.
    pub fn place(&self, path: &Path) -> PathBuf {
        let mut left = parts(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            match self.items.get(&next).map(|i| &i.kind) {
                Some(EntryKind::Link(target)) if !left.is_empty() && links < MOST_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    left.extend(parts(target));
                }
                _ => at = next,
            }
        }
        at
    }
}

/// Directories that are to be there, be it with something in them or not.
pub(super) fn add_directories(listing: &mut Listing, directories: &[PathBuf], why: &str) -> Result<(), JailError> {
    for directory in directories {
        // By the image's own links, within its root: what lies below a link would be made elsewhere.
        let named = checked(&directory.to_string_lossy())?;
        let place = listing.place(&named.join("x"));
        let place = place.parent().unwrap_or(Path::new("/"));
        for path in place.ancestors().filter(|p| *p != Path::new("/")) {
            listing
                .items
                .entry(path.to_owned())
                .or_insert_with(|| JailEntry::new(EntryKind::Directory, why));
        }
    }
    Ok(())
}

/// The hash that a tree has for its name: of what there is to see in it.
pub(super) fn tree_hash(
    listing: &Listing,
    content: impl Fn(&PathBuf, &JailEntry) -> Result<String, JailError>,
) -> Result<String, JailError> {
    hash_entries(listing, |path, item, _, modified| {
        Ok(format!("{modified} {}", content(path, item)?))
    })
}

/// The hash of a listing's paths and kinds, and of what `of_file` says of each file, whose size and time it is given.
pub(super) fn hash_entries<E>(
    listing: &Listing,
    of_file: impl Fn(&PathBuf, &JailEntry, u64, i64) -> Result<String, E>,
) -> Result<String, E> {
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
                executable,
                size,
                modified,
            } => hasher.update(format!("\0f{executable} {}", of_file(path, item, *size, *modified)?)),
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

/// The parts of a path, last first.
pub(super) fn parts(path: &Path) -> Vec<OsString> {
    let kept = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut all: Vec<_> = kept.collect();
    all.reverse();
    all
}
