//! What an image's layers come to, one over the other: whiteouts, opaque directories, links. And their files, to be put
//! into the store.
//!
//! The layers are read as streams, and no path of theirs is ever made on disk: names and links lead from place to place
//! in a list, whose root is the root. What no image builder writes is an error. Bounds hold whatever a header claims.

use super::header::{Before, Head, LONGEST_NAME};
use super::{Image, Layer};
use crate::cause::Reason;
use crate::jail::JailError;
use crate::jail::hash::hex;
use crate::jail::listing::{EntryKind, JailEntry, Listing, MOST_LINKS, Origin};
use sha2::{Digest, Sha256};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tar::EntryType;

/// The largest file.
const LARGEST_FILE: u64 = 4 << 30;
/// All layers, unpacked.
const LARGEST_IMAGE: u64 = 32 << 30;
/// A layer that comes to more than so many times its size has not been packed to save space…
const STEEPEST: u64 = 100;
/// …but an image may be steep for so much.
const SMALL: u64 = 64 << 20;
/// Entries, and directories that no entry but only the names of others bring.
const MOST_ENTRIES: u64 = 1_000_000;
/// More directories than anybody's files lie in, one in the other. Each may have to be made for one file.
const DEEPEST: usize = 128;
/// All paths and targets of links that are held, in bytes.
const LONGEST_LIST: u64 = 128 << 20;
/// All paths that are looked up, in bytes: on the way to a file and through links each directory is.
const MOST_LOOKED_UP: u64 = 1 << 30;
const LARGEST_PASSWD: u64 = 1 << 16;

/// What is made for each service, and what is nobody's in a jail.
const GENERATED: [&str; 11] = [
    "/etc/passwd",
    "/etc/passwd-",
    "/etc/group",
    "/etc/group-",
    "/etc/shadow",
    "/etc/shadow-",
    "/etc/gshadow",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
];
const NOT_IN_JAILS: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];

/// What the layers come to. Every file is read once, for the hash of its content.
pub fn listing(image: &Arc<Image>, exclude: &[glob::Pattern]) -> Result<Listing, JailError> {
    let mut merge = Merge {
        image,
        base: BTreeMap::new(),
        fresh: BTreeMap::new(),
        gone: Vec::new(),
        opaque: Vec::new(),
        passwd: None,
        notes: BTreeSet::new(),
        room: Room {
            implied: MOST_ENTRIES,
            list: LONGEST_LIST,
            looked_up: Cell::new(MOST_LOOKED_UP),
        },
        buffer: vec![0; 1 << 16],
    };
    let mut budget = Budget::new();
    for (number, layer) in image.layers.iter().enumerate() {
        each(image, number, layer, &mut budget, |ordinal, head, content| {
            merge.entry(number, ordinal, head, content)
        })?;
        merge.end_layer();
    }
    let mut items = merge.base;
    leave_out(&mut items, exclude);
    Ok(Listing {
        items,
        notes: merge.notes.into_iter().collect(),
        passwd: merge.passwd,
        image: Some(image.clone()),
    })
}

/// Hands the content of these files over, in the order in which they lie in the layers.
pub fn extract(
    image: &Image,
    wanted: &BTreeSet<Origin>,
    mut take: impl FnMut(Origin, &mut dyn Read) -> Result<(), JailError>,
) -> Result<(), JailError> {
    let mut budget = Budget::new();
    for (number, layer) in image.layers.iter().enumerate() {
        if !wanted
            .iter()
            .any(|o| matches!(o, Origin::Layer { layer, .. } if *layer == number))
        {
            continue;
        }
        each(image, number, layer, &mut budget, |ordinal, _, content| {
            let origin = Origin::Layer { layer: number, ordinal };
            match wanted.contains(&origin) {
                true => take(origin, content),
                false => Ok(()),
            }
        })?;
    }
    Ok(())
}

/// What is left of what all layers together may come to.
struct Budget {
    bytes: u64,
    /// Of what is steeper than it may be.
    steep: u64,
    entries: u64,
}

impl Budget {
    fn new() -> Budget {
        Budget {
            bytes: LARGEST_IMAGE,
            steep: SMALL,
            entries: MOST_ENTRIES,
        }
    }
}

/// Takes out what a pattern matches, and what lies below.
fn leave_out(items: &mut BTreeMap<PathBuf, JailEntry>, exclude: &[glob::Pattern]) {
    let matches = |path: &Path| exclude.iter().any(|g| g.matches_path(path));
    if matches(Path::new("/")) {
        return items.clear();
    }
    // What lies below a directory follows it.
    let mut last: Option<PathBuf> = None;
    items.retain(|path, _| {
        if last.as_ref().is_some_and(|l| path.starts_with(l)) {
            return false;
        }
        let gone = matches(path);
        if gone {
            last = Some(path.clone());
        }
        !gone
    });
}

/// Goes through a layer, and then sees that it is what the configuration says.
fn each(
    image: &Image,
    number: usize,
    layer: &Layer,
    budget: &mut Budget,
    mut visit: impl FnMut(u64, Head, &mut dyn Read) -> Result<(), JailError>,
) -> Result<(), JailError> {
    let bad = |what: Reason| JailError::image(&image.path, what.within(&format!("layer {number}")));
    let read = |e: std::io::Error| bad(Reason::new(e.to_string()).because(e));
    let (packed, size) = image.archive.file(&layer.file)?;
    let usual = size.saturating_mul(STEEPEST);
    let most = usual.max(budget.steep).min(budget.bytes);
    let mut stream = Bounded {
        inner: unpacked(packed).map_err(read)?,
        hasher: Sha256::new(),
        left: most,
    };
    let mut archive = tar::Archive::new(&mut stream);
    // Raw: names of any length would be read into memory.
    let entries = archive.entries().map_err(read)?.raw(true);
    let mut before = Before::default();
    let mut used = 0u64;
    for (ordinal, entry) in entries.enumerate() {
        let mut entry = entry.map_err(read)?;
        budget.entries = budget.entries.checked_sub(1).ok_or_else(|| bad(too_many().into()))?;
        let Some(head) = before.head(&mut entry).map_err(|e| bad(e.into()))? else {
            continue;
        };
        let size = head.size;
        if head.recorded.is_some_and(|recorded| recorded != size) {
            return Err(bad(
                Reason::new("a file has two sizes").remedy("the image is broken, or made to be misread")
            ));
        }
        if head.sparse {
            return Err(bad(sparse(&head)));
        }
        if size > LARGEST_FILE {
            let name = String::from_utf8_lossy(&head.name).into_owned();
            return Err(bad(Reason::new(format!(
                "{name} has {size} bytes, more than {LARGEST_FILE}"
            ))
            .remedy("take it out of the image")));
        }
        used += size;
        visit(ordinal as u64, head, &mut entry)?;
    }
    // What lies behind the end is part of the digest too.
    std::io::copy(&mut stream, &mut std::io::sink()).map_err(read)?;
    let unpacked = most - stream.left;
    budget.bytes = budget.bytes.saturating_sub(used.max(unpacked));
    budget.steep = budget.steep.saturating_sub(unpacked.saturating_sub(usual));
    if !layer.diff.is_empty() && hex(&stream.hasher.finalize()) != layer.diff {
        return Err(bad(
            Reason::new("its content is not what the configuration says").remedy("fetch the image again")
        ));
    }
    Ok(())
}

fn sparse(head: &Head) -> Reason {
    let name = String::from_utf8_lossy(&head.name);
    Reason::new(format!("{name} is a sparse file, which no image builder writes"))
        .remedy("make the image anew without it")
}

fn too_many() -> String {
    format!("the image has more than {MOST_ENTRIES} entries")
}

/// By its first bytes: what media types say is a claim.
fn unpacked(mut packed: Box<dyn Read>) -> std::io::Result<Box<dyn Read>> {
    let mut head = Vec::new();
    Read::by_ref(&mut packed).take(4).read_to_end(&mut head)?;
    let whole = std::io::Cursor::new(head.clone()).chain(packed);
    Ok(match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(whole)),
        [0x28, 0xb5, 0x2f, 0xfd] => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(whole).map_err(std::io::Error::other)?;
            Box::new(decoder)
        }
        _ => Box::new(whole),
    })
}

/// No more than so many bytes; and their digest.
struct Bounded {
    inner: Box<dyn Read>,
    hasher: Sha256,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let got = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(got as u64).ok_or_else(|| {
            std::io::Error::other("it unpacks to far more than its size, as a bomb does; do not use this image")
        })?;
        self.hasher.update(&buffer[..got]);
        Ok(got)
    }
}

struct Merge<'i> {
    image: &'i Image,
    /// What the layers below come to.
    base: BTreeMap<PathBuf, JailEntry>,
    /// What this layer brings.
    fresh: BTreeMap<PathBuf, JailEntry>,
    /// What it takes away, and directories below which it takes all away.
    gone: Vec<PathBuf>,
    opaque: Vec<PathBuf>,
    passwd: Option<String>,
    notes: BTreeSet<String>,
    room: Room,
    buffer: Vec<u8>,
}

/// What is left of what the list and the work on it may come to.
struct Room {
    implied: u64,
    list: u64,
    looked_up: Cell<u64>,
}

impl Room {
    /// For something that is kept.
    fn hold(&mut self, length: usize) -> Result<(), Reason> {
        let left = self.list.checked_sub(length as u64);
        self.list = left.ok_or_else(|| {
            let most = LONGEST_LIST >> 20;
            Reason::new(format!("its names and links come to more than {most} MiB")).remedy("do not use this image")
        })?;
        Ok(())
    }
}

impl Merge<'_> {
    fn entry(&mut self, number: usize, ordinal: u64, head: Head, content: &mut dyn Read) -> Result<(), JailError> {
        let image = self.image;
        let bad = |what: Reason| JailError::image(&image.path, what.within(&format!("layer {number}")));
        let shown = String::from_utf8_lossy(&head.name).into_owned();
        let name = std::str::from_utf8(&head.name)
            .map_err(|_| bad(Reason::new(format!("the name {shown} is not UTF-8")).remedy("rename it")))?;
        let path = place(name).ok_or_else(|| {
            bad(Reason::new(format!("{shown} leads out of the root")).remedy("do not use this image"))
        })?;
        let Some(last) = path.file_name().and_then(|n| n.to_str()) else {
            // The root itself, which is there.
            return Ok(());
        };
        let parent = self.resolve(path.parent().unwrap_or(Path::new("/"))).map_err(bad)?;
        let path = parent.join(last);
        if let Some(removed) = last.strip_prefix(".wh.") {
            return self.whiteout(&parent, removed, &shown).map_err(bad);
        }
        if NOT_IN_JAILS.iter().any(|r| path.starts_with(r)) {
            return Ok(());
        }
        let kind = match head.kind {
            EntryType::Link => return self.hard_link(path, head.link, &shown).map_err(bad),
            EntryType::Fifo => {
                self.room.hold(shown.len()).map_err(bad)?;
                self.notes.insert(format!("{shown} is a pipe, and stays out"));
                return Ok(());
            }
            _ => kind_of(&head, &shown).map_err(bad)?,
        };
        let why = format!("layer {number} of {} brings it", image.path.display());
        let mut item = JailEntry::new(kind, why);
        if let EntryKind::File { size, .. } = item.kind {
            let hash = self.hash(&path, size, content);
            item.content = Some(hash.map_err(|e| bad(Reason::new(format!("{shown}: {e}")).because(e)))?);
            item.origin = Some(Origin::Layer { layer: number, ordinal });
        }
        if GENERATED.iter().any(|g| path == Path::new(g)) {
            return Ok(());
        }
        self.put(path, item).map_err(bad)
    }

    /// An entry by which a layer takes something away (the OCI image specification's layer.md).
    fn whiteout(&mut self, parent: &Path, removed: &str, shown: &str) -> Result<(), Reason> {
        match removed {
            ".wh..opq" if parent != Path::new("/") => {
                self.room.hold(parent.as_os_str().len())?;
                self.opaque.push(parent.to_owned());
            }
            "" | "." | ".." | ".wh..opq" => {
                return Err(Reason::new(format!("{shown} takes the root away")).remedy("do not use this image"));
            }
            // Of aufs, for itself.
            _ if removed.starts_with(".wh.") => {}
            _ => {
                let path = parent.join(removed);
                self.room.hold(path.as_os_str().len())?;
                self.gone.push(path);
            }
        }
        Ok(())
    }

    fn hard_link(&mut self, path: PathBuf, target: Option<Vec<u8>>, shown: &str) -> Result<(), Reason> {
        let target = String::from_utf8(target.unwrap_or_default()).unwrap_or_default();
        let inside = place(&target).ok_or_else(|| {
            Reason::new(format!("the hard link {shown} to {target} leads out of the root"))
                .remedy("do not use this image")
        })?;
        let parent = self.resolve(inside.parent().unwrap_or(Path::new("/")))?;
        let inside = parent.join(inside.file_name().unwrap_or_default());
        let item = self.look_up(&inside)?.cloned();
        match item.filter(|i| i.kind != EntryKind::Directory) {
            Some(item) => self.put(path, item),
            None => Err(format!("the hard link {shown} leads to {target}, which is no file of the image").into()),
        }
    }

    /// The hash of a file's content; that of /etc/passwd is kept.
    fn hash(&mut self, path: &Path, size: u64, content: &mut dyn Read) -> std::io::Result<String> {
        let mut hasher = Sha256::new();
        let mut text = Vec::new();
        let wants_text = path == Path::new("/etc/passwd") && size <= LARGEST_PASSWD;
        loop {
            let got = content.read(&mut self.buffer)?;
            if got == 0 {
                break;
            }
            hasher.update(&self.buffer[..got]);
            if wants_text {
                text.extend_from_slice(&self.buffer[..got]);
            }
        }
        if wants_text {
            self.passwd = String::from_utf8(text).ok();
        }
        Ok(hex(&hasher.finalize()))
    }

    fn look_up(&self, path: &Path) -> Result<Option<&JailEntry>, Reason> {
        let left = self.room.looked_up.get().checked_sub(path.as_os_str().len() as u64);
        let left = left.ok_or_else(|| {
            Reason::new("its names and links lead through more directories than any image's").remedy("do not use it")
        })?;
        self.room.looked_up.set(left);
        Ok(self.fresh.get(path).or_else(|| self.base.get(path)))
    }

    fn put(&mut self, path: PathBuf, item: JailEntry) -> Result<(), Reason> {
        let mut implied = Vec::new();
        for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
            match self.look_up(parent)?.map(|i| &i.kind) {
                None => implied.push(parent.to_owned()),
                Some(EntryKind::Directory) => break,
                Some(_) => return Err(format!("{} lies in a file", path.display()).into()),
            }
        }
        for parent in implied {
            self.room.implied = self.room.implied.checked_sub(1).ok_or_else(too_many)?;
            self.room.hold(parent.as_os_str().len())?;
            self.fresh
                .insert(parent, JailEntry::new(EntryKind::Directory, "something lies in it"));
        }
        let target = match &item.kind {
            EntryKind::Link(target) => target.as_os_str().len(),
            _ => 0,
        };
        self.room.hold(path.as_os_str().len() + target)?;
        // What this layer has put into a directory of a layer below goes with that, too.
        if item.kind != EntryKind::Directory {
            remove_below(&mut self.fresh, &path);
        }
        self.fresh.insert(path, item);
        Ok(())
    }

    /// Where a directory really is; the root is the root, whatever links and `..` say.
    fn resolve(&self, path: &Path) -> Result<PathBuf, Reason> {
        let mut left: Vec<String> = names(path);
        let mut at = PathBuf::from("/");
        let (mut links, mut depth) = (0, 0);
        while let Some(part) = left.pop() {
            if part == ".." {
                depth -= usize::from(at.pop());
                continue;
            }
            let next = at.join(&part);
            if depth == DEEPEST || next.as_os_str().len() as u64 >= LONGEST_NAME {
                let why = format!(
                    "{} lies in more than {DEEPEST} directories, or its place has more than {LONGEST_NAME} bytes",
                    path.display()
                );
                return Err(Reason::new(why).remedy("take it out of the image"));
            }
            let Some(EntryKind::Link(target)) = self.look_up(&next)?.map(|i| &i.kind) else {
                depth += 1;
                at = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(format!("the links at {} lead in a circle", path.display()).into());
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
                depth = 0;
            }
            left.extend(names(target));
        }
        Ok(at)
    }

    /// What a layer takes away, it takes from those below, whatever the order of its entries.
    fn end_layer(&mut self) {
        for path in std::mem::take(&mut self.gone) {
            remove_below(&mut self.base, &path);
            self.base.remove(&path);
        }
        for path in std::mem::take(&mut self.opaque) {
            remove_below(&mut self.base, &path);
        }
        for (path, item) in std::mem::take(&mut self.fresh) {
            if item.kind != EntryKind::Directory && self.base.get(&path).is_some_and(|i| i.kind == EntryKind::Directory)
            {
                remove_below(&mut self.base, &path);
            }
            // A directory may have been taken away, and be there again by what lies in it alone. Where one is, those
            // above it are.
            for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
                if self.base.contains_key(parent) {
                    break;
                }
                let directory = JailEntry::new(EntryKind::Directory, "something lies in it");
                self.base.insert(parent.to_owned(), directory);
            }
            self.base.insert(path, item);
        }
    }
}

fn remove_below(items: &mut BTreeMap<PathBuf, JailEntry>, path: &Path) {
    let below: Vec<PathBuf> = items
        .range(path.to_owned()..)
        .map(|(p, _)| p)
        .take_while(|p| p.starts_with(path))
        .filter(|p| *p != path)
        .cloned()
        .collect();
    for gone in below {
        items.remove(&gone);
    }
}

/// An entry's place below the root: a relative name that does not lead out.
fn place(name: &str) -> Option<PathBuf> {
    let mut out = PathBuf::from("/");
    for part in Path::new(name).components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!name.is_empty() && !name.contains('\0') && name.len() as u64 <= LONGEST_NAME).then_some(out)
}

/// The names in a path, last first.
fn names(path: &Path) -> Vec<String> {
    let kept = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut all: Vec<_> = kept.collect();
    all.reverse();
    all
}

/// What an entry is that is no hard link and no pipe.
fn kind_of(head: &Head, shown: &str) -> Result<EntryKind, Reason> {
    let no_number = || format!("the mode or the time of {shown} is no number");
    match head.kind {
        EntryType::Directory => Ok(EntryKind::Directory),
        EntryType::Symlink => {
            let nowhere = || format!("the link {shown} leads nowhere");
            let target = head.link.as_ref().ok_or_else(nowhere)?;
            let target = std::str::from_utf8(target).map_err(|_| format!("the link {shown} is not UTF-8"))?;
            if target.is_empty() || target.contains('\0') {
                return Err(nowhere().into());
            }
            if Path::new(target).components().nth(DEEPEST).is_some() {
                return Err(Reason::new(format!(
                    "the link {shown} leads through more than {DEEPEST} directories"
                ))
                .remedy("take it out of the image"));
            }
            Ok(EntryKind::Link(target.into()))
        }
        EntryType::Regular | EntryType::Continuous => Ok(EntryKind::File {
            executable: head.mode.ok_or_else(no_number)? & 0o111 != 0,
            size: head.size,
            modified: head.modified.ok_or_else(no_number)?,
        }),
        EntryType::Char | EntryType::Block => {
            Err(Reason::new(format!("{shown} is a device, which no jail holds")).remedy("take it out of the image"))
        }
        other => Err(format!("{shown} is of a kind that is not known ({other:?})").into()),
    }
}
