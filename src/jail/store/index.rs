//! Which tree a listing came to, so that one whose files are as they were is not read again.

use super::Store;
use super::files::lines;
use crate::jail::JailError;
use crate::jail::hash::hex;
use crate::jail::image::Image;
use crate::jail::listing::{EntryKind, FileStamp, Listing};
use crate::jail::recipe::Recipe;
use sha2::{Digest, Sha256};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

impl Store {
    /// The tree of a listing whose files are as they were when it was made.
    pub(super) fn look_up(&self, listing: &Listing) -> Option<String> {
        let known = std::fs::read_to_string(self.index().join(listing_key(listing))).ok()?;
        self.is_whole(&known, listing).then_some(known)
    }

    /// What an image came to when a jail was made of it, if that is still there.
    pub fn known_image(&self, image: &Arc<Image>, recipe: &Recipe) -> Option<Listing> {
        let tree = std::fs::read_to_string(self.index().join(image_key(image, recipe))).ok()?;
        let (_, mut listing) = self.has(&tree).then(|| self.listing(&tree).ok())??;
        listing.image = Some(image.clone());
        Some(listing)
    }

    /// Writes down what an image has come to.
    pub(super) fn index_image(&self, image: &Image, recipe: &Recipe, tree: &str) -> Result<(), JailError> {
        self.write(&self.index(), &image_key(image, recipe), tree.as_bytes())
    }

    pub(super) fn index_listing(&self, listing: &Listing, tree: &str) -> Result<(), JailError> {
        let key = listing_key(listing);
        if lines(&self.index().join(&key))
            .first()
            .is_some_and(|known| known == tree)
        {
            return Ok(());
        }
        self.write(&self.index(), &key, tree.as_bytes())
    }
}

/// What tells that no file of a listing has changed, without reading any.
fn listing_key(listing: &Listing) -> String {
    let mut hasher = Sha256::new();
    for (path, entry) in &listing.items {
        hasher.update(path.as_os_str().as_bytes());
        match &entry.kind {
            EntryKind::Directory => hasher.update(b"\0d"),
            EntryKind::Link(target) => {
                hasher.update(b"\0l");
                hasher.update(target.as_os_str().as_bytes());
            }
            EntryKind::File {
                executable,
                size,
                modified,
            } => {
                let FileStamp { inode, changed } = entry.stamp;
                let content = entry.content.as_deref().unwrap_or_default();
                let (seconds, nanoseconds) = changed;
                hasher.update(format!(
                    "\0f{executable} {size} {modified} {inode} {seconds} {nanoseconds} {content}"
                ));
            }
        }
        hasher.update(b"\0\n");
    }
    hex(&hasher.finalize())
}

fn image_key(image: &Image, recipe: &Recipe) -> String {
    let mut hasher = Sha256::new();
    hasher.update(format!("image {}", image.identity));
    for glob in &recipe.exclude {
        hasher.update(format!("\0exclude {glob}"));
    }
    for directory in &recipe.directories {
        hasher.update(b"\0directory ");
        hasher.update(directory.as_os_str().as_bytes());
    }
    hex(&hasher.finalize())
}
