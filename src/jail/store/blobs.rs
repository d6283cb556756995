//! Files by their content.

use super::files::{AT_ONCE, cloned, copy, create, directory, fill, finish, is_file_of, remove};
use super::{Count, Store};
use crate::jail::JailError;
use crate::jail::hash::{hash_all, hash_file, hex};
use crate::jail::image::layers;
use crate::jail::listing::{EntryKind, FileStamp, JailEntry, Listing, Origin};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The blobs of a tree that is being made.
pub(super) struct Blobs<'s> {
    pub(super) store: &'s Store,
    pub(super) tmp: &'s Path,
    /// Those that are not in the store yet, by the name that they will have there.
    pub(super) fresh: BTreeMap<PathBuf, Fresh>,
    /// Those in the store that hold what their names say.
    pub(super) whole: BTreeSet<PathBuf>,
    pub(super) made: Count,
}

pub(super) struct Fresh {
    pub(super) at: PathBuf,
    pub(super) executable: bool,
    pub(super) modified: i64,
}

impl Store {
    pub(super) fn blob(&self, hash: &str, executable: bool, modified: i64) -> PathBuf {
        let kind = if executable { "x" } else { "f" };
        let shelf = self.folder.join("blobs").join(hash.get(..2).unwrap_or(hash));
        shelf.join(format!("{hash}-{kind}-{modified}"))
    }

    /// Gives a file that is whole its name in the store.
    pub(super) fn shelve(&self, fresh: &Path, blob: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
        let mut placed = std::fs::rename(fresh, blob);
        if matches!(&placed, Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            directory(blob.parent().unwrap_or(&self.folder))?;
            placed = std::fs::rename(fresh, blob);
        }
        let placed = match placed {
            // The blobs may be a mount of their own.
            Err(e) if e.raw_os_error() == Some(libc::EXDEV) => {
                let aside = blob.with_extension("fresh");
                remove(&aside)?;
                copy(fresh, &aside, executable, modified)?;
                File::open(&aside)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| std::fs::rename(aside, blob))
            }
            other => other,
        };
        placed.map_err(|e| JailError::io("put in place", blob, e))
    }
}

impl Blobs<'_> {
    /// Is there one with this content? One in the store is read: a power loss may have left half of it.
    pub(super) fn has(&mut self, blob: &Path, hash: &str, size: u64) -> bool {
        if self.fresh.contains_key(blob) || self.whole.contains(blob) {
            return true;
        }
        let whole = is_file_of(blob, size) && hash_file(blob).is_ok_and(|found| found == hash);
        if whole {
            self.whole.insert(blob.to_owned());
        }
        whole
    }

    /// Where it is now.
    pub(super) fn at(&self, blob: PathBuf) -> PathBuf {
        self.fresh.get(&blob).map_or(blob, |fresh| fresh.at.clone())
    }

    /// Where the next one is made.
    fn next(&self) -> PathBuf {
        self.tmp.join(format!("blob-{}", self.fresh.len()))
    }

    fn add(&mut self, blob: PathBuf, at: PathBuf, executable: bool, modified: i64) {
        let fresh = Fresh {
            at,
            executable,
            modified,
        };
        self.fresh.insert(blob, fresh);
        self.made.files += 1;
    }

    /// Puts a file of the host into the store if its content is not there; the hash of that. Read once: what is hashed is
    /// what is written.
    pub(super) fn take_in(&mut self, from: &Path, item: &JailEntry) -> Result<String, JailError> {
        let EntryKind::File {
            executable,
            size,
            modified,
        } = item.kind
        else {
            return Err(JailError::Changed);
        };
        let wrong = |e| JailError::io("read", from, e);
        // Where it was found there was no link on the way.
        let resolve = match item.origin {
            None => ResolveFlags::NO_SYMLINKS,
            _ => ResolveFlags::empty(),
        };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat2(CWD, from, flags, Mode::empty(), resolve);
        let mut source = File::from(source.map_err(|e| JailError::io("read", from, std::io::Error::from(e)))?);
        let small = size <= AT_ONCE;
        let mut content = Vec::with_capacity(if small { size as usize + 1 } else { 0 });
        let hash = if small {
            Read::by_ref(&mut source)
                .take(AT_ONCE + 1)
                .read_to_end(&mut content)
                .map_err(wrong)?;
            hex(&Sha256::digest(&content))
        } else {
            hash_all(&mut source, from)?
        };
        let blob = self.store.blob(&hash, executable, modified);
        if !self.has(&blob, &hash, size) {
            let fresh = self.next();
            if small {
                let mut target = create(&fresh)?;
                if !cloned(&source, &target, &fresh, &content)? {
                    target
                        .write_all(&content)
                        .map_err(|e| JailError::io("write", &fresh, e))?;
                }
                finish(&target, &fresh, executable, modified)?;
            } else {
                source.rewind().map_err(wrong)?;
                let mut target = create(&fresh)?;
                fill(&mut source, &mut target, &fresh)?;
                finish(&target, &fresh, executable, modified)?;
                if hash_file(&fresh)? != hash {
                    return Err(JailError::Changed);
                }
            }
            self.add(blob, fresh, executable, modified);
            self.made.bytes += size;
        }
        // As it was when the listing was made, and not half of that and half of what it is now.
        let found = source.metadata().map_err(wrong)?;
        match FileStamp::of(&found) == item.stamp && found.len() == size {
            true => Ok(hash),
            false => Err(JailError::Changed),
        }
    }

    /// The files of an image that the store does not have yet.
    pub(super) fn take_from_image(&mut self, listing: &Listing) -> Result<(), JailError> {
        let Some(image) = &listing.image else { return Ok(()) };
        let mut wanted: BTreeMap<Origin, (PathBuf, &String, bool, i64)> = BTreeMap::new();
        let mut named: BTreeSet<PathBuf> = BTreeSet::new();
        for item in listing.items.values() {
            let (
                Some(origin @ Origin::Layer { .. }),
                EntryKind::File {
                    executable,
                    modified,
                    size,
                },
            ) = (&item.origin, &item.kind)
            else {
                continue;
            };
            let hash = item.content.as_ref().ok_or(JailError::Changed)?;
            let blob = self.store.blob(hash, *executable, *modified);
            if !self.has(&blob, hash, *size) && named.insert(blob.clone()) {
                wanted.insert(origin.clone(), (blob, hash, *executable, *modified));
            }
        }
        let origins = wanted.keys().cloned().collect();
        layers::extract(image, &origins, |origin, content| {
            let Some((blob, hash, executable, modified)) = wanted.get(&origin) else {
                return Ok(());
            };
            let fresh = self.next();
            let mut file = create(&fresh)?;
            let wrong = |e| JailError::io("write", &fresh, e);
            self.made.bytes += std::io::copy(content, &mut file).map_err(wrong)?;
            finish(&file, &fresh, *executable, *modified)?;
            if hash_file(&fresh)? != **hash {
                return Err(JailError::Changed);
            }
            self.add(blob.clone(), fresh, *executable, *modified);
            Ok(())
        })
    }
}
