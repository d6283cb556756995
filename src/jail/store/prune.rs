//! What the store holds that nobody has any more.

use super::files::{lines, names, remove, weigh};
use super::{Count, Store};
use crate::jail::JailError;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

impl Store {
    /// Removes jails that no app has (`apps`: those that are there), and what no jail has or was made of.
    pub fn prune(&self, apps: &Path) -> Result<Count, JailError> {
        if !self.folder.exists() {
            return Ok(Count::default());
        }
        let _lock = self.lock()?;
        remove(&self.tmp())?;
        for app in names(&self.refs()) {
            if !apps.join(&app).exists() {
                remove(&self.refs().join(app))?;
            }
        }
        for (hash, users) in self.list() {
            if users.is_empty() {
                // Out of the way first: half a tree may not have a whole one's name.
                let tmp = self.tmp();
                std::fs::rename(self.tree(&hash), &tmp).map_err(|e| JailError::io("remove", self.tree(&hash), e))?;
                remove(&tmp)?;
                remove(&self.manifests().join(hash))?;
            }
        }
        for name in names(&self.private()) {
            if !name.split('.').next().is_some_and(|hash| self.has(hash)) {
                remove(&self.private().join(name))?;
            }
        }
        for key in names(&self.index()) {
            let path = self.index().join(key);
            if !lines(&path).first().is_some_and(|hash| self.has(hash)) {
                remove(&path)?;
            }
        }
        let mut freed = Count::default();
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for hash in names(&self.input_refs()) {
            let path = self.input_refs().join(&hash);
            match self.has(&hash) {
                true => wanted.extend(lines(&path)),
                false => remove(&path)?,
            }
        }
        for name in names(&self.inputs()) {
            if !wanted.contains(&name) {
                let path = self.inputs().join(name);
                weigh(&path, &mut freed)?;
                remove(&path)?;
            }
        }
        let blobs = self.folder.join("blobs");
        for shelf in names(&blobs) {
            for name in names(&blobs.join(&shelf)) {
                let path = blobs.join(&shelf).join(name);
                let found = std::fs::symlink_metadata(&path).map_err(|e| JailError::io("look at", &path, e))?;
                if found.nlink() == 1 {
                    freed.files += 1;
                    freed.bytes += found.len();
                    remove(&path)?;
                }
            }
        }
        Ok(freed)
    }
}
