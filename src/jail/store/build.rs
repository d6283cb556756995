//! From a listing to its tree in the store.

use super::blobs::Blobs;
use super::files::{directory, has_sizes, inside, is_file_of, is_one, lines, link_or_copy, names, remove};
use super::{Count, Store};
use crate::beneath::Root;
use crate::cause::Cause;
use crate::durable;
use crate::jail::JailError;
use crate::jail::hash::hash_file;
use crate::jail::listing::{EntryKind, Listing, Origin, content, tree_hash};
use crate::jail::recipe::Recipe;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

impl Store {
    /// Makes a tree that is gone once more, of what the store and the host still have of it.
    pub fn restore(&self, hash: &str) -> Result<(), JailError> {
        if self.has(hash) {
            return Ok(());
        }
        let path = self.manifests().join(hash);
        let gone = |cause: Box<dyn Error + Send + Sync>| JailError::Gone {
            path: self.tree(hash),
            cause: Cause::new(cause),
        };
        let text = std::fs::read(&path).map_err(|e| gone(e.into()))?;
        let listing: Listing = serde_json::from_slice(&text).map_err(|e| gone(e.into()))?;
        match self.make(&listing, true) {
            Ok((made, _)) if made == hash => Ok(()),
            Ok(_) => Err(gone("what it was made of is not as it was".into())),
            Err(e) => Err(gone(e.into())),
        }
    }

    /// The hash of the tree that a listing comes to. Reads its files unless they are as they were at the last build.
    pub fn hash(&self, listing: &Listing) -> Result<String, JailError> {
        if let Some(known) = self.look_up(listing) {
            return Ok(known);
        }
        tree_hash(listing, |path, item| content(path, item))
    }

    /// Makes the tree of a listing, if it is not there. `thoroughly`: looks at what is there as well, and makes anew what is
    /// not as it should be.
    /// `inputs`: the names of what other programs made for it, which stays as long as the tree does.
    pub fn build(
        &self,
        listing: &Listing,
        recipe: &Recipe,
        inputs: Vec<String>,
        thoroughly: bool,
    ) -> Result<(String, Count), JailError> {
        let built = self.make(listing, thoroughly)?;
        if !inputs.is_empty() {
            let _lock = self.lock()?;
            let mut all: BTreeSet<String> = inputs.into_iter().collect();
            all.extend(lines(&self.input_refs().join(&built.0)));
            let all: Vec<String> = all.into_iter().collect();
            self.write(&self.input_refs(), &built.0, all.join("\n").as_bytes())?;
        }
        if let Some(image) = &listing.image {
            self.index_image(image, recipe, &built.0)?;
        }
        Ok(built)
    }

    fn make(&self, listing: &Listing, thoroughly: bool) -> Result<(String, Count), JailError> {
        let indexed = || self.look_up(listing).filter(|_| !thoroughly);
        if let Some(known) = indexed() {
            return Ok((known, Count::default()));
        }
        let _lock = self.lock()?;
        if let Some(known) = indexed() {
            return Ok((known, Count::default()));
        }
        let (hash, made) = self.in_tmp(|tmp| self.fill(tmp, listing))?;
        self.index_listing(listing, &hash)?;
        Ok((hash, made))
    }

    fn fill(&self, tmp: &Path, listing: &Listing) -> Result<(String, Count), JailError> {
        let tree = tmp.join("tree");
        directory(&tree)?;
        // Places are chosen by an image: no link of its own leads out.
        let root = Root::open(&tree).map_err(|e| JailError::io("open", &tree, e))?;
        let mut blobs = Blobs {
            store: self,
            tmp,
            fresh: BTreeMap::new(),
            whole: BTreeSet::new(),
            made: Count::default(),
        };
        blobs.take_from_image(listing)?;
        let mut contents = BTreeMap::new();
        for (number, (path, item)) in listing.items.iter().enumerate() {
            if self
                .tell
                .is_some_and(|tell| tell(number + 1, listing.items.len()).is_break())
            {
                return Err(JailError::BrokenOff);
            }
            let wrong = |e| JailError::io("make in the jail", path, e);
            let place = inside(path);
            match &item.kind {
                EntryKind::Directory => root.directory(place, 0o755).map_err(wrong)?,
                EntryKind::Link(target) => root.link(place, target).map_err(wrong)?,
                EntryKind::File {
                    executable,
                    modified,
                    size,
                } => {
                    let known = item.content.as_ref().filter(|hash| {
                        let of_image = matches!(item.origin, Some(Origin::Layer { .. }));
                        of_image || blobs.has(&self.blob(hash, *executable, *modified), hash, *size)
                    });
                    let content = match (known, &item.origin) {
                        (Some(known), _) => known.clone(),
                        (None, Some(Origin::Host(from))) => blobs.take_in(from, item)?,
                        (None, _) => blobs.take_in(path, item)?,
                    };
                    let blob = blobs.at(self.blob(&content, *executable, *modified));
                    link_or_copy(&blob, &root, place, *executable, *modified)?;
                    contents.insert(path, content);
                }
            }
        }
        let hash = tree_hash(listing, |path, _| contents.get(path).cloned().ok_or(JailError::Changed))?;
        let mut kept = listing.clone();
        for (path, item) in &mut kept.items {
            item.content = contents.get(path).cloned();
        }
        let Blobs { fresh, whole, made, .. } = blobs;
        let is_there = self.has(&hash) && self.is_as_listed(&self.tree(&hash), &kept, &whole);
        let manifest = serde_json::to_vec(&kept).map_err(|e| JailError::io("write", &self.folder, e))?;
        // What has its name in the store counts as there, and is on disk.
        durable::settle(tmp).map_err(|e| JailError::io("write to disk", tmp, e))?;
        self.write(&self.manifests(), &hash, &manifest)?;
        for (blob, one) in fresh {
            self.shelve(&one.at, &blob, one.executable, one.modified)?;
        }
        if !is_there {
            self.put(tmp, &tree, &self.tree(&hash))?;
            // Copies of a tree that was broken.
            let private = self.private();
            for name in names(&private).into_iter().filter(|name| name.starts_with(&hash)) {
                if !has_sizes(&private.join(&name), &kept) {
                    remove(&private.join(name))?;
                }
            }
        }
        Ok((hash, made))
    }

    /// Is all of a tree as a listing has it, whose contents are known? `whole`: blobs that are known to be right.
    fn is_as_listed(&self, tree: &Path, listing: &Listing, whole: &BTreeSet<PathBuf>) -> bool {
        listing.items.iter().all(|(path, item)| {
            let at = tree.join(inside(path));
            match (&item.kind, &item.content) {
                (EntryKind::Directory, _) => std::fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()),
                (EntryKind::Link(target), _) => std::fs::read_link(&at).is_ok_and(|found| found == *target),
                (
                    EntryKind::File {
                        executable,
                        modified,
                        size,
                    },
                    Some(hash),
                ) => {
                    let blob = self.blob(hash, *executable, *modified);
                    let same = || is_one(&at, &blob) && whole.contains(&blob);
                    is_file_of(&at, *size) && (same() || hash_file(&at).is_ok_and(|found| found == *hash))
                }
                (EntryKind::File { .. }, None) => false,
            }
        })
    }
}
