//! Copies of trees that belong to one service, which may write to what an overlay shows of them.

use super::Store;
use super::files::{directory, fill, finish, names, remove};
use crate::beneath::Root;
use crate::jail::JailError;
use crate::jail::hash::open;
use crate::walk::{Found, Walk};
use rustix::fs::{FileType, Mode};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

impl Store {
    /// A copy of a tree whose files are a service's own, so that it may write to what an overlay shows of them.
    pub fn private_tree(&self, hash: &str, (uid, gid): (u32, u32)) -> PathBuf {
        self.private().join(format!("{hash}.{uid}.{gid}"))
    }

    /// Makes that copy, if it is not there.
    pub fn make_private_tree(&self, hash: &str, ids: (u32, u32)) -> Result<(), JailError> {
        let place = self.private_tree(hash, ids);
        if place.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if place.exists() {
            return Ok(());
        }
        self.in_tmp(|tmp| {
            let fresh = tmp.join("private");
            directory(&fresh)?;
            let root = Root::open(&fresh).map_err(|e| JailError::io("open", &fresh, e))?;
            own_copy(&self.tree(hash), &root, ids)?;
            self.place(tmp, &fresh, &place)
        })
    }

    /// Removes the copies that belong to ids of an app that is deleted.
    pub fn remove_private_trees(&self, theirs: impl Fn(u32, u32) -> bool) -> Result<(), JailError> {
        let folder = self.private();
        if !folder.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        for name in names(&folder) {
            let mut ids = name.rsplit('.').map_while(|part| part.parse::<u32>().ok());
            if let (Some(gid), Some(uid)) = (ids.next(), ids.next())
                && theirs(uid, gid)
            {
                remove(&folder.join(name))?;
            }
        }
        Ok(())
    }
}

/// What is at `from` once more in `root`, which is there, as somebody's own, who may write to it.
fn own_copy(from: &Path, root: &Root, ids: (u32, u32)) -> Result<(), JailError> {
    let unseen = |e: std::io::Error| JailError::io("look at", from, e);
    let mut walk = Walk::at(from).map_err(|errno| unseen(errno.into()))?;
    while let Some(found) = walk.next().map_err(|trouble| unseen(trouble.below(from)))? {
        let Found::Entry(entry) = found else { continue };
        let inside = entry.path;
        let wrong = |e| JailError::io("make in the copy of a jail", Path::new("/").join(inside), e);
        let at = || from.join(inside);
        match (entry.kind(), entry.parent) {
            (FileType::Directory, None) => {}
            (FileType::Directory, Some(_)) => root.directory(inside, 0o755).map_err(wrong)?,
            (FileType::Symlink, _) => {
                let target = rustix::fs::readlinkat(entry.file, c"", Vec::new())
                    .map_err(|errno| JailError::io("read the link", at(), std::io::Error::from(errno)))?;
                root.link(inside, Path::new(OsStr::from_bytes(target.to_bytes())))
                    .map_err(wrong)?;
            }
            _ => {
                let (from, runs) = (at(), entry.stat.st_mode & 0o111 != 0);
                let mut target = root.file(inside, 0o600).map_err(wrong)?;
                fill(&mut open(&from)?, &mut target, &from)?;
                finish(&target, &from, runs, entry.stat.st_mtime)?;
                let mode = if runs { 0o755 } else { 0o644 };
                rustix::fs::fchmod(&target, Mode::from_raw_mode(mode)).map_err(wrong)?;
            }
        }
        root.own(inside, ids).map_err(wrong)?;
    }
    Ok(())
}
