//! What an image's layers come to, one over the other: whiteouts, opaque directories, links. And their files, to be put
//! into the store.
//!
//! The layers are read as streams, and no path of theirs is ever made on disk: names and links lead from place to place
//! in a list, whose root is the root. What no image builder writes is an error. Bounds hold whatever a header claims.

use super::{Image, Layer};
use crate::jail::JailError;
use crate::jail::collect::{Item, Kind, Listing, Origin};
use crate::jail::store::hex;
use sha2::{Digest, Sha256};
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
/// …but a small one may be steep.
const SMALL: u64 = 64 << 20;
const MOST_ENTRIES: u64 = 1_000_000;
/// Longer names and headers than the kernel's paths are nobody's.
const LONGEST_NAME: u64 = 4096;
const LONGEST_HEADER: u64 = 1 << 20;
const LARGEST_PASSWD: u64 = 1 << 16;
/// The kernel follows as many.
const MOST_LINKS: usize = 40;

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
    };
    let mut budget = Budget {
        bytes: LARGEST_IMAGE,
        entries: MOST_ENTRIES,
    };
    for (number, layer) in image.layers.iter().enumerate() {
        each(image, number, layer, &mut budget, |ordinal, head, content| {
            merge.entry(number, ordinal, head, content)
        })?;
        merge.end_layer();
    }
    let mut items = merge.base;
    items.retain(|path, _| !exclude.iter().any(|g| path.ancestors().any(|p| g.matches_path(p))));
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
    let mut budget = Budget {
        bytes: LARGEST_IMAGE,
        entries: MOST_ENTRIES,
    };
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

struct Budget {
    bytes: u64,
    entries: u64,
}

/// An entry's header, with the names that stood before it.
struct Head {
    name: Vec<u8>,
    link: Option<Vec<u8>>,
    kind: EntryType,
    mode: u32,
    modified: i64,
    size: u64,
}

/// Goes through a layer, and then sees that it is what the configuration says.
fn each(
    image: &Image,
    number: usize,
    layer: &Layer,
    budget: &mut Budget,
    mut visit: impl FnMut(u64, Head, &mut dyn Read) -> Result<(), JailError>,
) -> Result<(), JailError> {
    let bad = |what: String| JailError::image(&image.path, format!("layer {number}: {what}"));
    let read = |e: std::io::Error| bad(e.to_string());
    let (packed, size) = image.archive.file(&layer.file)?;
    let most = size.saturating_mul(STEEPEST).max(SMALL).min(budget.bytes);
    let mut stream = Bounded {
        inner: unpacked(packed).map_err(read)?,
        hasher: Sha256::new(),
        left: most,
    };
    let mut archive = tar::Archive::new(&mut stream);
    // Raw: names of any length would be read into memory.
    let entries = archive.entries().map_err(read)?.raw(true);
    let (mut long_name, mut long_link, mut extended) = (None, None, Vec::new());
    let mut used = 0u64;
    for (ordinal, entry) in entries.enumerate() {
        let mut entry = entry.map_err(read)?;
        budget.entries = budget
            .entries
            .checked_sub(1)
            .ok_or_else(|| bad(format!("the image has more than {MOST_ENTRIES} entries")))?;
        let kind = entry.header().entry_type();
        let size = entry.size();
        let mut whole = |most: u64| {
            if size > most {
                return Err(bad(format!("a header of {size} bytes, more than {most}")));
            }
            let mut text = Vec::new();
            entry.read_to_end(&mut text).map_err(read)?;
            Ok(text)
        };
        match kind {
            EntryType::GNULongName => {
                long_name = Some(until_nul(whole(LONGEST_NAME)?));
                continue;
            }
            EntryType::GNULongLink => {
                long_link = Some(until_nul(whole(LONGEST_NAME)?));
                continue;
            }
            EntryType::XHeader => {
                extended = whole(LONGEST_HEADER)?;
                continue;
            }
            EntryType::XGlobalHeader => {
                whole(LONGEST_HEADER)?;
                continue;
            }
            _ => {}
        }
        let mut head = Head {
            name: long_name.take().unwrap_or_else(|| entry.path_bytes().into_owned()),
            link: long_link
                .take()
                .or_else(|| entry.link_name_bytes().map(|l| l.into_owned())),
            kind,
            mode: entry.header().mode().map_err(read)?,
            modified: entry.header().mtime().map_err(read)?.try_into().unwrap_or(0),
            size,
        };
        let records = std::mem::take(&mut extended);
        for record in tar::PaxExtensions::new(&records) {
            let record = record.map_err(read)?;
            match record.key().unwrap_or_default() {
                "path" => head.name = record.value_bytes().to_vec(),
                "linkpath" => head.link = Some(record.value_bytes().to_vec()),
                "mtime" => {
                    let whole = record.value().unwrap_or_default().split('.').next().unwrap_or_default();
                    head.modified = whole.parse().unwrap_or(head.modified);
                }
                "size" if record.value().ok().and_then(|v| v.parse::<u64>().ok()) != Some(size) => {
                    return Err(bad(
                        "a file has two sizes; the image is broken, or made to be misread".into()
                    ));
                }
                key if key.starts_with("GNU.sparse") => return Err(bad(sparse(&head))),
                _ => {}
            }
        }
        if kind == EntryType::GNUSparse {
            return Err(bad(sparse(&head)));
        }
        if size > LARGEST_FILE {
            let name = String::from_utf8_lossy(&head.name).into_owned();
            return Err(bad(format!(
                "{name} has {size} bytes, more than {LARGEST_FILE}; take it out of the image"
            )));
        }
        used += size;
        visit(ordinal as u64, head, &mut entry)?;
    }
    // What lies behind the end is part of the digest too.
    std::io::copy(&mut stream, &mut std::io::sink()).map_err(read)?;
    budget.bytes = budget.bytes.saturating_sub(used.max(most - stream.left));
    if !layer.diff.is_empty() && hex(&stream.hasher.finalize()) != layer.diff {
        return Err(bad(
            "its content is not what the configuration says; fetch the image again".into(),
        ));
    }
    Ok(())
}

fn sparse(head: &Head) -> String {
    let name = String::from_utf8_lossy(&head.name);
    format!("{name} is a sparse file, which no image builder writes; make the image anew without it")
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|b| *b == 0) {
        text.truncate(end);
    }
    text
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
    base: BTreeMap<PathBuf, Item>,
    /// What this layer brings.
    fresh: BTreeMap<PathBuf, Item>,
    /// What it takes away, and directories below which it takes all away.
    gone: Vec<PathBuf>,
    opaque: Vec<PathBuf>,
    passwd: Option<String>,
    notes: BTreeSet<String>,
}

impl Merge<'_> {
    fn entry(&mut self, number: usize, ordinal: u64, head: Head, content: &mut dyn Read) -> Result<(), JailError> {
        let bad = |what: String| JailError::image(&self.image.path, format!("layer {number}: {what}"));
        let shown = String::from_utf8_lossy(&head.name).into_owned();
        let name =
            String::from_utf8(head.name).map_err(|_| bad(format!("the name {shown} is not UTF-8; rename it")))?;
        let path = place(&name).ok_or_else(|| bad(format!("{shown} leads out of the root; do not use this image")))?;
        let Some(last) = path.file_name().and_then(|n| n.to_str()) else {
            // The root itself, which is there.
            return Ok(());
        };
        let parent = self.resolve(path.parent().unwrap_or(Path::new("/"))).map_err(bad)?;
        let path = parent.join(last);
        if let Some(removed) = last.strip_prefix(".wh.") {
            return match removed {
                ".wh..opq" if parent != Path::new("/") => {
                    self.opaque.push(parent);
                    Ok(())
                }
                "" | "." | ".." | ".wh..opq" => Err(bad(format!("{shown} takes the root away; do not use this image"))),
                // Of aufs, for itself.
                _ if removed.starts_with(".wh.") => Ok(()),
                _ => {
                    self.gone.push(parent.join(removed));
                    Ok(())
                }
            };
        }
        if NOT_IN_JAILS.iter().any(|r| path.starts_with(r)) {
            return Ok(());
        }
        let kind = match head.kind {
            EntryType::Directory => Kind::Directory,
            EntryType::Symlink => {
                let target = head
                    .link
                    .ok_or_else(|| bad(format!("the link {shown} leads nowhere")))?;
                let target = String::from_utf8(target).map_err(|_| bad(format!("the link {shown} is not UTF-8")))?;
                if target.is_empty() || target.contains('\0') {
                    return Err(bad(format!("the link {shown} leads nowhere")));
                }
                Kind::Link(target.into())
            }
            EntryType::Link => {
                let target = String::from_utf8(head.link.unwrap_or_default()).unwrap_or_default();
                let inside = place(&target).ok_or_else(|| {
                    bad(format!(
                        "the hard link {shown} to {target} leads out of the root; do not use this image"
                    ))
                })?;
                let parent = self.resolve(inside.parent().unwrap_or(Path::new("/"))).map_err(bad)?;
                let inside = parent.join(inside.file_name().unwrap_or_default());
                let item = self.fresh.get(&inside).or_else(|| self.base.get(&inside)).cloned();
                return match item.filter(|i| i.kind != Kind::Directory) {
                    Some(item) => self.put(path, item).map_err(bad),
                    None => Err(bad(format!(
                        "the hard link {shown} leads to {target}, which is no file of the image"
                    ))),
                };
            }
            EntryType::Regular | EntryType::Continuous => Kind::File {
                executable: head.mode & 0o111 != 0,
                size: head.size,
                modified: head.modified,
            },
            EntryType::Char | EntryType::Block => {
                return Err(bad(format!(
                    "{shown} is a device, which no jail holds; take it out of the image"
                )));
            }
            EntryType::Fifo => {
                self.notes.insert(format!("{shown} is a pipe, and stays out"));
                return Ok(());
            }
            other => return Err(bad(format!("{shown} is of a kind that is not known ({other:?})"))),
        };
        let mut item = Item::new(
            kind,
            format!("layer {number} of {} brings it", self.image.path.display()),
        );
        if let Kind::File { .. } = item.kind {
            let mut hasher = Sha256::new();
            let mut text = Vec::new();
            let wants_text = path == Path::new("/etc/passwd") && head.size <= LARGEST_PASSWD;
            let mut buffer = vec![0; 1 << 16];
            loop {
                match content.read(&mut buffer).map_err(|e| bad(format!("{shown}: {e}")))? {
                    0 => break,
                    n => {
                        hasher.update(&buffer[..n]);
                        if wants_text {
                            text.extend_from_slice(&buffer[..n]);
                        }
                    }
                }
            }
            if wants_text {
                self.passwd = String::from_utf8(text).ok();
            }
            item.content = Some(hex(&hasher.finalize()));
            item.origin = Some(Origin::Layer { layer: number, ordinal });
        }
        if GENERATED.iter().any(|g| path == Path::new(g)) {
            return Ok(());
        }
        self.put(path, item).map_err(bad)
    }

    fn get(&self, path: &Path) -> Option<&Item> {
        self.fresh.get(path).or_else(|| self.base.get(path))
    }

    fn put(&mut self, path: PathBuf, item: Item) -> Result<(), String> {
        for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
            match self.get(parent).map(|i| &i.kind) {
                None => {}
                Some(Kind::Directory) => break,
                Some(_) => return Err(format!("{} lies in a file", path.display())),
            }
            let directory = Item::new(Kind::Directory, "something lies in it");
            self.fresh.insert(parent.to_owned(), directory);
        }
        // What this layer has put into a directory of a layer below goes with that, too.
        if item.kind != Kind::Directory {
            remove_below(&mut self.fresh, &path);
        }
        self.fresh.insert(path, item);
        Ok(())
    }

    /// Where a directory really is; the root is the root, whatever links and `..` say.
    fn resolve(&self, path: &Path) -> Result<PathBuf, String> {
        let mut left: Vec<String> = names(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let Some(Kind::Link(target)) = self.get(&next).map(|i| &i.kind) else {
                at = next;
                continue;
            };
            links += 1;
            if links > MOST_LINKS {
                return Err(format!("the links at {} lead in a circle", path.display()));
            }
            if target.is_absolute() {
                at = PathBuf::from("/");
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
            if item.kind != Kind::Directory && self.base.get(&path).is_some_and(|i| i.kind == Kind::Directory) {
                remove_below(&mut self.base, &path);
            }
            // A directory may have been taken away, and be there again by what lies in it alone.
            for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
                let directory = || Item::new(Kind::Directory, "something lies in it");
                self.base.entry(parent.to_owned()).or_insert_with(directory);
            }
            self.base.insert(path, item);
        }
    }
}

fn remove_below(items: &mut BTreeMap<PathBuf, Item>, path: &Path) {
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
