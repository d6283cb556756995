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
use crate::durable;
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
        self.aside(|making| {
            let fresh = making.join("owned");
            directory(&fresh)?;
            let root = Root::open(&fresh).map_err(|e| JailError::io("open", &fresh, e))?;
            own_copy(&self.tree(hash), &root, ids)?;
            self.place(making, &fresh, &place)
        })
    }

    /// Has something made in a place of its own, of which nothing is left, however it ends: on a full disk it would be half
    /// a jail that fills it.
    fn aside<T>(&self, make: impl FnOnce(&Path) -> Result<T, JailError>) -> Result<T, JailError> {
        let making = self.folder.join("making");
        remove(&making)?;
        directory(&making)?;
        let made = make(&making);
        let cleared = remove(&making);
        made.and_then(|made| cleared.map(|()| made))
    }

    /// Gives what was made in `making` its name, when all of it is on disk. What has that name already goes.
    fn place(&self, making: &Path, fresh: &Path, place: &Path) -> Result<(), JailError> {
        let wrong = |e| JailError::io("put in place", place, e);
        durable::settle(making).map_err(wrong)?;
        self.put(making, fresh, place)
    }

    /// The same of what is on disk already.
    fn put(&self, making: &Path, fresh: &Path, place: &Path) -> Result<(), JailError> {
        let wrong = |e| JailError::io("put in place", place, e);
        directory(place.parent().unwrap_or(&self.folder))?;
        match std::fs::rename(place, making.join("former")) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(wrong(e)),
            _ => {}
        }
        durable::rename(fresh, place).map_err(wrong)
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
        is_hash(hash) && self.tree(hash).is_dir()
    }

    /// Is all there that a listing says, as far as names and sizes tell?
    pub fn is_whole(&self, hash: &str, listing: &Listing) -> bool {
        self.has(hash) && self.known(hash) && has_sizes(&self.tree(hash), listing)
    }

    /// The same, by the listing that is on record.
    pub fn is_intact(&self, hash: &str) -> bool {
        self.has(hash)
            && self
                .listing(hash)
                .is_ok_and(|(_, listing)| has_sizes(&self.tree(hash), &listing))
    }

    /// Makes a tree that is gone once more, of what the store and the host still have of it.
    pub fn restore(&self, hash: &str) -> Result<(), JailError> {
        if self.has(hash) {
            return Ok(());
        }
        let path = self.folder.join("lists").join(hash);
        let gone = |cause: String| JailError::Gone {
            path: self.tree(hash),
            cause,
        };
        let text = std::fs::read(&path).map_err(|e| gone(e.to_string()))?;
        let listing: Listing = serde_json::from_slice(&text).map_err(|e| gone(e.to_string()))?;
        match self.make(&listing, true) {
            Ok((made, _)) if made == hash => Ok(()),
            Ok(_) => Err(gone("what it was made of is not as it was".to_owned())),
            Err(e) => Err(gone(e.to_string())),
        }
    }

    /// Is it on record what is in a tree?
    pub fn known(&self, hash: &str) -> bool {
        let list = std::fs::symlink_metadata(self.folder.join("lists").join(hash));
        list.is_ok_and(|found| found.is_file() && found.len() > 0)
    }

    /// The hash of the tree that a listing comes to. Reads its files unless they are as they were at the last build.
    pub fn hash(&self, listing: &Listing) -> Result<String, JailError> {
        if let Some(known) = self.as_it_was(listing) {
            return Ok(known);
        }
        tree_hash(listing, |path, item| content(path, item))
    }

    /// Makes the tree of a listing, if it is not there. `thoroughly`: looks at what is there as well, and makes anew what is
    /// not as it should be.
    pub fn build(&self, listing: &Listing, recipe: &Recipe, thoroughly: bool) -> Result<(String, Count), JailError> {
        let built = self.make(listing, thoroughly)?;
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

    fn make(&self, listing: &Listing, thoroughly: bool) -> Result<(String, Count), JailError> {
        let as_it_was = || self.as_it_was(listing).filter(|_| !thoroughly);
        if let Some(known) = as_it_was() {
            return Ok((known, Count::default()));
        }
        let _lock = self.lock()?;
        if let Some(known) = as_it_was() {
            return Ok((known, Count::default()));
        }
        let (hash, made) = self.aside(|making| self.fill(making, listing))?;
        self.remember(listing, &hash)?;
        Ok((hash, made))
    }

    fn fill(&self, making: &Path, listing: &Listing) -> Result<(String, Count), JailError> {
        let tree = making.join("tree");
        directory(&tree)?;
        // Places are chosen by an image: no link of its own leads out.
        let root = Root::open(&tree).map_err(|e| JailError::io("open", &tree, e))?;
        let mut blobs = Blobs {
            store: self,
            making,
            fresh: BTreeMap::new(),
            whole: BTreeSet::new(),
            made: Count::default(),
        };
        blobs.take_from_image(listing)?;
        let mut contents = BTreeMap::new();
        for (number, (path, item)) in listing.items.iter().enumerate() {
            if let Some(tell) = self.tell {
                tell(number + 1, listing.items.len());
            }
            let wrong = |e| JailError::io("make in the jail", path, e);
            let place = inside(path);
            match &item.kind {
                Kind::Directory => root.directory(place, 0o755).map_err(wrong)?,
                Kind::Link(target) => root.link(place, target).map_err(wrong)?,
                Kind::File {
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
        let list = serde_json::to_vec(&kept).map_err(|e| JailError::io("write", &self.folder, e))?;
        // What has its name in the store counts as there, and is on disk.
        durable::settle(making).map_err(|e| JailError::io("write to disk", making, e))?;
        self.write("lists", &hash, &list)?;
        for (blob, one) in fresh {
            self.shelve(&one.at, &blob, one.executable, one.modified)?;
        }
        if !is_there {
            self.put(making, &tree, &self.tree(&hash))?;
            // Copies of a tree that was broken.
            let owned = self.folder.join("owned");
            for name in names(&owned).into_iter().filter(|name| name.starts_with(&hash)) {
                if !has_sizes(&owned.join(&name), &kept) {
                    remove(&owned.join(name))?;
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
                (Kind::Directory, _) => std::fs::symlink_metadata(&at).is_ok_and(|found| found.is_dir()),
                (Kind::Link(target), _) => std::fs::read_link(&at).is_ok_and(|found| found == *target),
                (
                    Kind::File {
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
                (Kind::File { .. }, None) => false,
            }
        })
    }

    /// The tree of a listing whose files are as they were when it was made.
    fn as_it_was(&self, listing: &Listing) -> Option<String> {
        let known = std::fs::read_to_string(self.folder.join("known").join(print(listing))).ok()?;
        self.is_whole(&known, listing).then_some(known)
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
        self.aside(|making| {
            let aside = making.join(place.file_name().unwrap_or_default());
            make(&aside)?;
            self.place(making, &aside, place)
        })
    }

    fn remember(&self, listing: &Listing, tree: &str) -> Result<(), JailError> {
        let name = print(listing);
        if lines(&self.folder.join("known").join(&name))
            .first()
            .is_some_and(|known| known == tree)
        {
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
        let had: BTreeSet<String> = lines(&path).into_iter().collect();
        let mut all = trees.clone();
        if keep {
            all.extend(had.iter().cloned());
        }
        if all == had {
            return Ok(());
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
                File::open(&aside)
                    .and_then(|file| file.sync_all())
                    .and_then(|()| std::fs::rename(aside, blob))
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
        durable::write(&fresh, &path, content).map_err(|e| JailError::io("write", path, e))
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

/// The blobs of a tree that is being made.
struct Blobs<'s> {
    store: &'s Store,
    making: &'s Path,
    /// Those that are not in the store yet, by the name that they will have there.
    fresh: BTreeMap<PathBuf, Fresh>,
    /// Those in the store that hold what their names say.
    whole: BTreeSet<PathBuf>,
    made: Count,
}

struct Fresh {
    at: PathBuf,
    executable: bool,
    modified: i64,
}

impl Blobs<'_> {
    /// Is there one with this content? One in the store is read: a power loss may have left half of it.
    fn has(&mut self, blob: &Path, hash: &str, size: u64) -> bool {
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
    fn at(&self, blob: PathBuf) -> PathBuf {
        self.fresh.get(&blob).map_or(blob, |fresh| fresh.at.clone())
    }

    /// Where the next one is made.
    fn next(&self) -> PathBuf {
        self.making.join(format!("blob-{}", self.fresh.len()))
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
    fn take_in(&mut self, from: &Path, item: &Item) -> Result<String, JailError> {
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
        match (found.ino(), found.ctime(), found.ctime_nsec(), found.len())
            == (item.print.0, item.print.1, item.print.2, size)
        {
            true => Ok(hash),
            false => Err(JailError::Changed),
        }
    }

    /// The files of an image that the store does not have yet.
    fn take_from_image(&mut self, listing: &Listing) -> Result<(), JailError> {
        let Some(image) = &listing.image else { return Ok(()) };
        let mut wanted: BTreeMap<Origin, (PathBuf, &String, bool, i64)> = BTreeMap::new();
        let mut named: BTreeSet<PathBuf> = BTreeSet::new();
        for item in listing.items.values() {
            let (
                Some(origin @ Origin::Layer { .. }),
                Kind::File {
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
        super::image::layers::extract(image, &origins, |origin, content| {
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

fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn inside(path: &Path) -> &Path {
    path.strip_prefix("/").unwrap_or(path)
}

fn is_file_of(path: &Path, size: u64) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == size)
}

/// Are both names of one file?
fn is_one(one: &Path, other: &Path) -> bool {
    let id = |path: &Path| {
        std::fs::symlink_metadata(path)
            .ok()
            .map(|found| (found.dev(), found.ino()))
    };
    id(one).is_some_and(|found| Some(found) == id(other))
}

/// Have the files of a tree the sizes that a listing has?
fn has_sizes(tree: &Path, listing: &Listing) -> bool {
    listing.items.iter().all(|(path, item)| match item.kind {
        Kind::File { size, .. } => is_file_of(&tree.join(inside(path)), size),
        _ => true,
    })
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
