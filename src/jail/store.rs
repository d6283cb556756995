//! The store of jails: files by content, trees of links to them by the hash of what they hold.
//!
//! ```text
//! STATE/jails/blobs/ab/…     files, by hash, time and whether they are programs
//! STATE/jails/trees/HASH     roots; whole as soon as they have this name
//! STATE/jails/owned/…        copies of them that belong to a service which may write, by hash and ids
//! STATE/jails/lists/HASH     what is in them, and why
//! STATE/jails/made           what other programs have made for jails: virtual environments, Debians
//! STATE/jails/makings/HASH   which of these a tree was made of
//! STATE/jails/known/PRINT    the hash of a listing whose files are as they were
//! STATE/jails/users/APP      the jails that an app has
//! STATE/jails/making         what a build that was killed has left; the next one clears it away
//! ```
//!
//! A blob is a copy of the host's file (a reflink where the disk can), never a hard link to it: what is written to
//! the host's file later must not change a jail. A tree's files are hard links to blobs.

use super::JailError;
use super::collect::{Item, Kind, Listing, Origin};
use super::image::Image;
use super::recipe::Recipe;
use crate::beneath::Root;
use crate::walk::{Found, Walk};
use rustix::fs::{CWD, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub struct Store {
    folder: PathBuf,
    tell: Option<Tell>,
}

/// Hears how many of how many files are done.
pub type Tell = fn(usize, usize);

/// A file up to this size is read into memory.
const AT_ONCE: u64 = 8 << 20;

/// What a build or a prune came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub files: u64,
    pub bytes: u64,
}

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

    pub fn tree(&self, hash: &str) -> PathBuf {
        self.folder.join("trees").join(hash)
    }

    /// A copy of a tree whose files are a service's own, so that it may write to what an overlay shows of them.
    pub fn owned(&self, hash: &str, (uid, gid): (u32, u32)) -> PathBuf {
        self.folder.join("owned").join(format!("{hash}.{uid}.{gid}"))
    }

    /// Makes that copy, if it is not there.
    pub fn own(&self, hash: &str, ids: (u32, u32)) -> Result<(), JailError> {
        let place = self.owned(hash, ids);
        if place.exists() {
            return Ok(());
        }
        let _lock = self.lock()?;
        if place.exists() {
            return Ok(());
        }
        let making = self.folder.join("making");
        remove(&making)?;
        directory(&making)?;
        let fresh = making.join("owned");
        directory(&fresh)?;
        let root = Root::open(&fresh).map_err(|e| JailError::io("open", &fresh, e))?;
        own_copy(&self.tree(hash), &root, ids)?;
        directory(place.parent().unwrap_or(&self.folder))?;
        std::fs::rename(&fresh, &place).map_err(|e| JailError::io("put in place", &place, e))?;
        remove(&making)
    }

    /// Removes the copies that belong to ids of an app that is deleted.
    pub fn disown(&self, theirs: impl Fn(u32, u32) -> bool) -> Result<(), JailError> {
        let folder = self.folder.join("owned");
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

    pub fn has(&self, hash: &str) -> bool {
        self.tree(hash).is_dir()
    }

    /// Is it on record what is in a tree?
    pub fn known(&self, hash: &str) -> bool {
        self.folder.join("lists").join(hash).exists()
    }

    /// The hash of the tree that a listing comes to. Reads its files unless they are as they were at the last build.
    pub fn hash(&self, listing: &Listing) -> Result<String, JailError> {
        if let Some(known) = self.as_it_was(listing) {
            return Ok(known);
        }
        tree_hash(listing, |path, item| content(path, item))
    }

    /// Makes the tree of a listing, if it is not there.
    pub fn build(&self, listing: &Listing, recipe: &Recipe) -> Result<(String, Count), JailError> {
        let built = self.make(listing)?;
        let made = super::made::names(self, recipe)?;
        if !made.is_empty() {
            let _lock = self.lock()?;
            let mut all: BTreeSet<String> = made.into_iter().collect();
            all.extend(lines(&self.folder.join("makings").join(&built.0)));
            let all: Vec<String> = all.into_iter().collect();
            self.write("makings", &built.0, all.join("\n").as_bytes())?;
        }
        if let Some(image) = &listing.image {
            self.remember_image(image, recipe, &built.0)?;
        }
        Ok(built)
    }

    fn make(&self, listing: &Listing) -> Result<(String, Count), JailError> {
        if let Some(known) = self.as_it_was(listing) {
            return Ok((known, Count::default()));
        }
        let _lock = self.lock()?;
        if let Some(known) = self.as_it_was(listing) {
            return Ok((known, Count::default()));
        }
        let making = self.folder.join("making");
        remove(&making)?;
        directory(&making)?;
        let tree = making.join("tree");
        directory(&tree)?;
        // Places are chosen by an image: no link of its own leads out.
        let root = Root::open(&tree).map_err(|e| JailError::io("open", &tree, e))?;
        let mut made = Count::default();
        self.take_from_image(listing, &mut made)?;
        let mut contents = BTreeMap::new();
        for (number, (path, item)) in listing.items.iter().enumerate() {
            if let Some(tell) = self.tell {
                tell(number + 1, listing.items.len());
            }
            let wrong = |e| JailError::io("make in the jail", path, e);
            let place = path.strip_prefix("/").unwrap_or(path);
            match &item.kind {
                Kind::Directory => root.directory(place, 0o755).map_err(wrong)?,
                Kind::Link(target) => root.link(place, target).map_err(wrong)?,
                Kind::File {
                    executable, modified, ..
                } => {
                    let content = match (&item.content, &item.origin) {
                        (Some(known), _) => known.clone(),
                        (None, Some(Origin::Host(from))) => self.take_in(from, item, &mut made)?,
                        (None, _) => self.take_in(path, item, &mut made)?,
                    };
                    let blob = self.blob(&content, *executable, *modified);
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
        let list = serde_json::to_vec(&kept).map_err(|e| JailError::io("write", &self.folder, e))?;
        self.write("lists", &hash, &list)?;
        let place = self.tree(&hash);
        directory(place.parent().unwrap_or(&self.folder))?;
        if !self.has(&hash) {
            std::fs::rename(&tree, &place).map_err(|e| JailError::io("put in place", &place, e))?;
        }
        remove(&making)?;
        self.remember(listing, &hash)?;
        Ok((hash, made))
    }

    /// The tree of a listing whose files are as they were when it was made.
    fn as_it_was(&self, listing: &Listing) -> Option<String> {
        let known = std::fs::read_to_string(self.folder.join("known").join(print(listing))).ok()?;
        (self.has(&known) && self.known(&known)).then_some(known)
    }

    /// Puts a file of the host into the store if its content is not there; the hash of that. Read once: what is hashed is
    /// what is written.
    fn take_in(&self, from: &Path, item: &Item, made: &mut Count) -> Result<String, JailError> {
        let Kind::File {
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
        let blob = self.blob(&hash, executable, modified);
        if !blob.exists() {
            let fresh = self.fresh()?;
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
            self.shelve(&fresh, &blob, executable, modified)?;
            made.files += 1;
            made.bytes += size;
        }
        // As it was when the listing was made, and not half of that and half of what it is now.
        let found = source.metadata().map_err(wrong)?;
        match (found.ino(), found.ctime(), found.ctime_nsec(), found.len())
            == (item.print.0, item.print.1, item.print.2, size)
        {
            true => Ok(hash),
            false => Err(JailError::Changed),
        }
    }

    /// The files of an image that the store does not have yet.
    fn take_from_image(&self, listing: &Listing, made: &mut Count) -> Result<(), JailError> {
        let Some(image) = &listing.image else { return Ok(()) };
        let mut wanted: BTreeMap<Origin, (PathBuf, &String, bool, i64)> = BTreeMap::new();
        let mut named: BTreeSet<PathBuf> = BTreeSet::new();
        for item in listing.items.values() {
            let (
                Some(origin @ Origin::Layer { .. }),
                Kind::File {
                    executable, modified, ..
                },
            ) = (&item.origin, &item.kind)
            else {
                continue;
            };
            let hash = item.content.as_ref().ok_or(JailError::Changed)?;
            let blob = self.blob(hash, *executable, *modified);
            if !blob.exists() && named.insert(blob.clone()) {
                wanted.insert(origin.clone(), (blob, hash, *executable, *modified));
            }
        }
        let origins = wanted.keys().cloned().collect();
        super::image::layers::extract(image, &origins, |origin, content| {
            let Some((blob, hash, executable, modified)) = wanted.get(&origin) else {
                return Ok(());
            };
            let fresh = self.fresh()?;
            let mut file = create(&fresh)?;
            let wrong = |e| JailError::io("write", &fresh, e);
            made.bytes += std::io::copy(content, &mut file).map_err(wrong)?;
            made.files += 1;
            finish(&file, &fresh, *executable, *modified)?;
            if hash_file(&fresh)? != **hash {
                return Err(JailError::Changed);
            }
            self.shelve(&fresh, blob, *executable, *modified)
        })
    }

    /// Where a blob is made.
    fn fresh(&self) -> Result<PathBuf, JailError> {
        let fresh = self.folder.join("making").join("blob");
        remove(&fresh)?;
        Ok(fresh)
    }

    /// What an image came to when a jail was made of it, if that is still there.
    pub fn known_image(&self, image: &Arc<Image>, recipe: &Recipe) -> Option<Listing> {
        let tree = std::fs::read_to_string(self.folder.join("known").join(image_print(image, recipe))).ok()?;
        let (_, mut listing) = self.has(&tree).then(|| self.listing(&tree).ok())??;
        listing.image = Some(image.clone());
        Some(listing)
    }

    /// Writes down what an image has come to.
    fn remember_image(&self, image: &Image, recipe: &Recipe, tree: &str) -> Result<(), JailError> {
        self.write("known", &image_print(image, recipe), tree.as_bytes())
    }

    /// Where what other programs make for jails is kept.
    pub fn made(&self) -> PathBuf {
        self.folder.join("made")
    }

    /// Has something made, and puts it in place as a whole.
    pub fn make_aside(&self, place: &Path, make: impl FnOnce(&Path) -> Result<(), JailError>) -> Result<(), JailError> {
        let _lock = self.lock()?;
        let making = self.folder.join("making");
        remove(&making)?;
        directory(&making)?;
        let aside = making.join(place.file_name().unwrap_or_default());
        make(&aside)?;
        directory(place.parent().unwrap_or(&self.folder))?;
        remove(place)?;
        std::fs::rename(&aside, place).map_err(|e| JailError::io("put in place", place, e))?;
        remove(&making)
    }

    fn remember(&self, listing: &Listing, tree: &str) -> Result<(), JailError> {
        let name = print(listing);
        if self.folder.join("known").join(&name).exists() {
            return Ok(());
        }
        self.write("known", &name, tree.as_bytes())
    }

    /// Writes down which jails an app has: `prune` spares them. With `keep`, those that it had as well.
    pub fn use_by(&self, app: &str, trees: &BTreeSet<String>, keep: bool) -> Result<(), JailError> {
        let path = self.folder.join("users").join(app);
        if trees.is_empty() && !path.exists() {
            return Ok(());
        }
        // Not while a prune looks at what is used.
        let _lock = self.lock()?;
        let mut all = trees.clone();
        if keep {
            all.extend(lines(&path));
        }
        self.write("users", app, all.into_iter().collect::<Vec<_>>().join("\n").as_bytes())
    }

    /// Every jail there is, and the apps that have it.
    pub fn list(&self) -> Vec<(String, Vec<String>)> {
        let users: Vec<(String, Vec<String>)> = names(&self.folder.join("users"))
            .into_iter()
            .map(|app| (app.clone(), lines(&self.folder.join("users").join(app))))
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
        let path = self.folder.join("lists").join(&whole);
        let text = std::fs::read(&path).map_err(|e| JailError::io("read", &path, e))?;
        let listing = serde_json::from_slice(&text).map_err(|e| JailError::io("read", &path, e))?;
        Ok((whole, listing))
    }

    /// Removes jails that no app has (`apps`: those that are there), and what no jail has or was made of.
    pub fn prune(&self, apps: &Path) -> Result<Count, JailError> {
        if !self.folder.exists() {
            return Ok(Count::default());
        }
        let _lock = self.lock()?;
        remove(&self.folder.join("making"))?;
        for app in names(&self.folder.join("users")) {
            if !apps.join(&app).exists() {
                remove(&self.folder.join("users").join(app))?;
            }
        }
        for (hash, users) in self.list() {
            if users.is_empty() {
                // Out of the way first: half a tree may not have a whole one's name.
                let making = self.folder.join("making");
                std::fs::rename(self.tree(&hash), &making).map_err(|e| JailError::io("remove", self.tree(&hash), e))?;
                remove(&making)?;
                remove(&self.folder.join("lists").join(hash))?;
            }
        }
        for name in names(&self.folder.join("owned")) {
            if !name.split('.').next().is_some_and(|hash| self.has(hash)) {
                remove(&self.folder.join("owned").join(name))?;
            }
        }
        for print in names(&self.folder.join("known")) {
            let path = self.folder.join("known").join(print);
            if !lines(&path).first().is_some_and(|hash| self.has(hash)) {
                remove(&path)?;
            }
        }
        let mut freed = Count::default();
        let mut wanted: BTreeSet<String> = BTreeSet::new();
        for hash in names(&self.folder.join("makings")) {
            let path = self.folder.join("makings").join(&hash);
            match self.has(&hash) {
                true => wanted.extend(lines(&path)),
                false => remove(&path)?,
            }
        }
        for name in names(&self.made()) {
            if !wanted.contains(&name) {
                let path = self.made().join(name);
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

    fn blob(&self, hash: &str, executable: bool, modified: i64) -> PathBuf {
        let kind = if executable { "x" } else { "f" };
        let shelf = self.folder.join("blobs").join(hash.get(..2).unwrap_or(hash));
        shelf.join(format!("{hash}-{kind}-{modified}"))
    }

    /// Gives a file that is whole its name in the store.
    fn shelve(&self, fresh: &Path, blob: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
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
                std::fs::rename(aside, blob)
            }
            other => other,
        };
        placed.map_err(|e| JailError::io("put in place", blob, e))
    }

    fn write(&self, folder: &str, name: &str, content: &[u8]) -> Result<(), JailError> {
        let folder = self.folder.join(folder);
        private(&self.folder)?;
        directory(&folder)?;
        let path = folder.join(name);
        let fresh = self.folder.join(format!("fresh-{}", std::process::id()));
        std::fs::write(&fresh, content)
            .and_then(|()| std::fs::rename(&fresh, &path))
            .map_err(|e| JailError::io("write", path, e))
    }

    /// One build at a time; the other waits, and finds the work done.
    fn lock(&self) -> Result<File, JailError> {
        private(&self.folder)?;
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
        Ok(file)
    }
}

/// What tells that no file of a listing has changed, without reading any.
fn print(listing: &Listing) -> String {
    let mut hasher = Sha256::new();
    for (path, item) in &listing.items {
        let content = item.content.as_deref().unwrap_or_default();
        hasher.update(format!(
            "{}\0{:?}\0{:?}{content}\n",
            path.display(),
            item.kind,
            item.print
        ));
    }
    hex(&hasher.finalize())
}

fn image_print(image: &Image, recipe: &Recipe) -> String {
    let rest = format!("image {} {:?} {:?}", image.identity, recipe.exclude, recipe.directories);
    hex(&Sha256::digest(rest))
}

fn tree_hash(
    listing: &Listing,
    content: impl Fn(&PathBuf, &Item) -> Result<String, JailError>,
) -> Result<String, JailError> {
    let mut hasher = Sha256::new();
    for (path, item) in &listing.items {
        hasher.update(path.as_os_str().as_bytes());
        match &item.kind {
            Kind::Directory => hasher.update(b"\0d"),
            Kind::Link(target) => {
                hasher.update(b"\0l");
                hasher.update(target.as_os_str().as_bytes());
            }
            Kind::File {
                executable, modified, ..
            } => hasher.update(format!("\0f{executable} {modified} {}", content(path, item)?)),
        }
        hasher.update(b"\0\n");
    }
    Ok(hex(&hasher.finalize()))
}

/// The hash of what a file of a listing holds; read, if it is not known.
pub fn content(path: &Path, item: &Item) -> Result<String, JailError> {
    match (&item.content, &item.origin) {
        (Some(known), _) => Ok(known.clone()),
        (None, Some(Origin::Host(from))) => hash_file(from),
        (None, _) => hash_file(path),
    }
}

fn open(path: &Path) -> Result<File, JailError> {
    std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW)
        .open(path)
        .map_err(|e| JailError::io("read", path, e))
}

fn hash_file(path: &Path) -> Result<String, JailError> {
    hash_all(&mut open(path)?, path)
}

fn hash_all(file: &mut File, path: &Path) -> Result<String, JailError> {
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

/// Makes an empty file share its blocks with what was read, where the disk can, if that still is what was read.
fn cloned(source: &File, target: &File, place: &Path, content: &[u8]) -> Result<bool, JailError> {
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
fn copy(from: &Path, to: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
    let mut target = create(to)?;
    fill(&mut open(from)?, &mut target, to)?;
    finish(&target, to, executable, modified)
}

fn fill(source: &mut File, target: &mut File, shown: &Path) -> Result<(), JailError> {
    if rustix::fs::ioctl_ficlone(&*target, &*source).is_err() {
        std::io::copy(source, target).map_err(|e| JailError::io("copy to", shown, e))?;
    }
    Ok(())
}

fn create(path: &Path) -> Result<File, JailError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).map_err(|e| JailError::io("make", path, e))
}

/// Sets mode and time of a file that is whole.
fn finish(target: &File, shown: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
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

fn link_or_copy(blob: &Path, root: &Root, place: &Path, executable: bool, modified: i64) -> Result<(), JailError> {
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

fn directory(path: &Path) -> Result<(), JailError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .create(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)))
        .map_err(|e| JailError::io("make the directory", path, e))
}

/// The store is its owner's alone: what services see of it is mounted by descriptor.
fn private(path: &Path) -> Result<(), JailError> {
    crate::plan::make_private(path).map_err(|e| JailError::io("use", path, e))
}

fn remove(path: &Path) -> Result<(), JailError> {
    crate::walk::remove(path).map_err(|e| JailError::io("remove", path, e))
}

/// Adds what lies at a path.
fn weigh(path: &Path, sum: &mut Count) -> Result<(), JailError> {
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

fn names(folder: &Path) -> Vec<String> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut out: Vec<String> = all.filter_map(|e| e.file_name().into_string().ok()).collect();
    out.sort();
    out
}

fn lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
