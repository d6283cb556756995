//! The store of jails: files by content, trees of links to them by the hash of what they hold.
//!
//! ```text
//! STATE/jails/blobs/ab/…        files, by hash, time and whether they are programs
//! STATE/jails/trees/HASH        roots; whole as soon as they have this name
//! STATE/jails/private/…         copies of them that belong to a service which may write, by hash and ids
//! STATE/jails/manifests/HASH    what is in them, and why
//! STATE/jails/inputs            what other programs have made for jails: virtual environments, Debians
//! STATE/jails/input-refs/HASH   which of these a tree was made of
//! STATE/jails/index/KEY         the hash of a listing whose files are as they were
//! STATE/jails/refs/APP          the jails that an app has
//! STATE/jails/tmp               what a build that was killed has left; the next one clears it away
//! ```
//!
//! A blob is a copy of the host's file (a reflink where the disk can), never a hard link to it: what is written to
//! the host's file later must not change a jail. A tree's files are hard links to blobs.

mod blobs;
mod build;
mod files;
mod index;
mod private;
mod prune;

use super::JailError;
use super::listing::Listing;
use crate::durable;
pub use files::Count;
use files::{directory, has_sizes, is_hash, lines, make_private, names, remove};
use rustix::fs::FlockOperation;
use std::collections::BTreeSet;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

pub struct Store {
    folder: PathBuf,
    tell: Option<Tell>,
}

/// Hears how many of how many files are done, and may break the building off.
pub type Tell = fn(usize, usize) -> ControlFlow<()>;

impl Store {
    /// `state`: the directory that holds all apps'.
    pub fn new(state: &Path) -> Store {
        Store {
            folder: state.join("jails"),
            tell: None,
        }
    }

    /// The same, telling how far builds are.
    pub fn telling(self, tell: Option<Tell>) -> Store {
        Store { tell, ..self }
    }

    /// Until version 0.2 some folders of a store had other names.
    fn rename_old_folders(&self) -> Result<(), JailError> {
        let moved = [
            ("owned", self.private()),
            ("lists", self.manifests()),
            ("made", self.inputs()),
            ("makings", self.input_refs()),
            ("users", self.refs()),
            ("known", self.index()),
            ("making", self.tmp()),
        ];
        for (old, new) in moved {
            let old = self.folder.join(old);
            if old.is_dir() && !new.exists() {
                std::fs::rename(&old, &new).map_err(|e| JailError::io("rename", old, e))?;
            }
        }
        Ok(())
    }

    fn private(&self) -> PathBuf {
        self.folder.join("private")
    }

    fn manifests(&self) -> PathBuf {
        self.folder.join("manifests")
    }

    fn input_refs(&self) -> PathBuf {
        self.folder.join("input-refs")
    }

    fn refs(&self) -> PathBuf {
        self.folder.join("refs")
    }

    fn index(&self) -> PathBuf {
        self.folder.join("index")
    }

    fn tmp(&self) -> PathBuf {
        self.folder.join("tmp")
    }

    pub fn tree(&self, hash: &str) -> PathBuf {
        self.folder.join("trees").join(hash)
    }

    pub fn has(&self, hash: &str) -> bool {
        is_hash(hash) && self.tree(hash).is_dir()
    }

    /// Is all there that a listing says, as far as names and sizes tell?
    pub fn is_whole(&self, hash: &str, listing: &Listing) -> bool {
        self.has(hash) && self.has_manifest(hash) && has_sizes(&self.tree(hash), listing)
    }

    /// The same, by the listing that is on record.
    pub fn is_intact(&self, hash: &str) -> bool {
        self.has(hash)
            && self
                .listing(hash)
                .is_ok_and(|(_, listing)| has_sizes(&self.tree(hash), &listing))
    }

    /// Is it on record what is in a tree?
    pub fn has_manifest(&self, hash: &str) -> bool {
        let manifest = std::fs::symlink_metadata(self.manifests().join(hash));
        manifest.is_ok_and(|found| found.is_file() && found.len() > 0)
    }

    /// Where what other programs make for jails is kept.
    pub fn inputs(&self) -> PathBuf {
        self.folder.join("inputs")
    }

    /// Has something made, and puts it in place as a whole.
    pub fn make_input(&self, place: &Path, make: impl FnOnce(&Path) -> Result<(), JailError>) -> Result<(), JailError> {
        let _lock = self.lock()?;
        self.in_tmp(|tmp| {
            let aside = tmp.join(place.file_name().unwrap_or_default());
            make(&aside)?;
            self.place(tmp, &aside, place)
        })
    }

    /// Has something made in a place of its own, of which nothing is left, however it ends: on a full disk it would be half
    /// a jail that fills it.
    fn in_tmp<T>(&self, make: impl FnOnce(&Path) -> Result<T, JailError>) -> Result<T, JailError> {
        let tmp = self.tmp();
        remove(&tmp)?;
        directory(&tmp)?;
        let made = make(&tmp);
        let cleared = remove(&tmp);
        made.and_then(|made| cleared.map(|()| made))
    }

    /// Gives what was made in `tmp` its name, when all of it is on disk. What has that name already goes.
    fn place(&self, tmp: &Path, fresh: &Path, place: &Path) -> Result<(), JailError> {
        let wrong = |e| JailError::io("put in place", place, e);
        durable::settle(tmp).map_err(wrong)?;
        self.put(tmp, fresh, place)
    }

    /// The same of what is on disk already.
    fn put(&self, tmp: &Path, fresh: &Path, place: &Path) -> Result<(), JailError> {
        let wrong = |e| JailError::io("put in place", place, e);
        directory(place.parent().unwrap_or(&self.folder))?;
        match std::fs::rename(place, tmp.join("former")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(wrong(e)),
            _ => {}
        }
        durable::rename(fresh, place).map_err(wrong)
    }

    /// Writes down which jails an app has: `prune` spares them. With `keep`, those that it had as well.
    pub fn set_refs(&self, app: &str, trees: &BTreeSet<String>, keep: bool) -> Result<(), JailError> {
        let path = self.refs().join(app);
        if trees.is_empty() && !path.exists() {
            return Ok(());
        }
        // Not while a prune looks at what is used.
        let _lock = self.lock()?;
        let had: BTreeSet<String> = lines(&path).into_iter().collect();
        let mut all = trees.clone();
        if keep {
            all.extend(had.iter().cloned());
        }
        if all == had {
            return Ok(());
        }
        self.write(
            &self.refs(),
            app,
            all.into_iter().collect::<Vec<_>>().join("\n").as_bytes(),
        )
    }

    /// Every jail there is, and the apps that have it.
    pub fn list(&self) -> Vec<(String, Vec<String>)> {
        let users: Vec<(String, Vec<String>)> = names(&self.refs())
            .into_iter()
            .map(|app| (app.clone(), lines(&self.refs().join(app))))
            .collect();
        let used_by = |hash: &String| {
            let having = users.iter().filter(|(_, trees)| trees.contains(hash));
            having.map(|(app, _)| app.clone()).collect()
        };
        let trees = names(&self.folder.join("trees"));
        trees.into_iter().map(|hash| (hash.clone(), used_by(&hash))).collect()
    }

    /// What is in a jail. `hash` may be its beginning.
    pub fn listing(&self, hash: &str) -> Result<(String, Listing), JailError> {
        let mut found = names(&self.folder.join("trees"))
            .into_iter()
            .filter(|n| n.starts_with(hash));
        let (Some(whole), None) = (found.next(), found.next()) else {
            return Err(JailError::NotBuilt(hash.to_owned()));
        };
        let path = self.manifests().join(&whole);
        let text = std::fs::read(&path).map_err(|e| JailError::io("read", &path, e))?;
        let listing = serde_json::from_slice(&text).map_err(|e| JailError::io("read", &path, e))?;
        Ok((whole, listing))
    }

    fn write(&self, folder: &Path, name: &str, content: &[u8]) -> Result<(), JailError> {
        make_private(&self.folder)?;
        directory(folder)?;
        let path = folder.join(name);
        let fresh = self.folder.join(format!("fresh-{}", std::process::id()));
        durable::write(&fresh, &path, content).map_err(|e| JailError::io("write", path, e))
    }

    /// One build at a time; the other waits, and finds the work done.
    fn lock(&self) -> Result<File, JailError> {
        make_private(&self.folder)?;
        let path = self.folder.join("lock");
        let wrong = |e: std::io::Error| JailError::io("lock", &path, e);
        let file = std::fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(wrong)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive).map_err(|e| wrong(e.into()))?;
        self.rename_old_folders()?;
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_store_held_under_former_names_is_found_under_the_new_ones() {
        let state = tempfile::tempdir().unwrap();
        let folder = state.path().join("jails");
        std::fs::create_dir_all(folder.join("users")).unwrap();
        std::fs::create_dir_all(folder.join("trees/0123")).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::write(folder.join("users/app"), "0123").unwrap();
        let store = Store::new(state.path());
        // Whatever changes the store takes its lock first.
        store.set_refs("other", &["0123".to_owned()].into(), false).unwrap();
        assert_eq!(
            store.list(),
            [("0123".to_owned(), vec!["app".to_owned(), "other".to_owned()])]
        );
        assert!(!folder.join("users").exists());
    }
}
