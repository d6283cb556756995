//! Which tree a listing came to, so that one whose files are as they were is not read again.

use super::Store;
use super::files::lines;
use crate::jail::JailError;
use crate::jail::hash::hex;
use crate::jail::image::Image;
use crate::jail::listing::{FileStamp, Listing, hash_entries};
use crate::jail::recipe::Recipe;
use sha2::{Digest, Sha256};
use std::convert::Infallible;
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
    let Ok(key) = hash_entries::<Infallible>(listing, |_, entry, size, modified| {
        let FileStamp { inode, changed } = entry.stamp;
        let (seconds, nanoseconds) = changed;
        let content = entry.content.as_deref().unwrap_or_default();
        Ok(format!("{size} {modified} {inode} {seconds} {nanoseconds} {content}"))
    });
    key
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jail::listing::{EntryKind, JailEntry, tree_hash};
    use std::path::Path;

    /// One of each kind of entry.
    fn small() -> Listing {
        let file = |executable, size| EntryKind::File {
            executable,
            size,
            modified: 1_700_000_000,
        };
        let mut listing = Listing::default();
        for (path, kind) in [
            ("/bin", EntryKind::Link("usr/bin".into())),
            ("/usr", EntryKind::Directory),
            ("/usr/bin", EntryKind::Directory),
            ("/usr/bin/true", file(true, 3)),
            ("/usr/motd", file(false, 8)),
        ] {
            listing.items.insert(path.into(), JailEntry::new(kind, "it was named"));
        }
        let motd = listing.items.get_mut(Path::new("/usr/motd")).unwrap();
        motd.content = Some("c0ffee".to_owned());
        motd.stamp = FileStamp {
            inode: 12,
            changed: (1_700_000_001, 5),
        };
        listing
    }

    /// Trees that are in a store already are looked for by this.
    #[test]
    fn the_hash_of_a_tree_is_what_it_was_in_other_releases() {
        let hash = tree_hash(&small(), |path, _| Ok(format!("content of {}", path.display()))).unwrap();
        assert_eq!(hash, "583d39403429ddac6f1f836751b5c5486f09ca9ecfebe7d1f3a7dc05515483a9");
    }

    /// A store that another release has filled is not read anew.
    #[test]
    fn the_key_of_a_listing_is_what_it_was_in_other_releases() {
        assert_eq!(
            listing_key(&small()),
            "97483baff8163a229a08388bb3872d7cf26eb42494a973142995f0da988663e3"
        );
    }
}
