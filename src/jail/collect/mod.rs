//! From a recipe to the list of what its jail holds, and why: links as links, programs with their interpreters and
//! libraries, scripts with what runs them.
//!
//! Set-id bits and device nodes, pipes and sockets do not get onto the list.

mod libraries;
mod needs;

use super::JailError;
use super::listing::{EntryKind, FileStamp, JailEntry, Listing, MOST_LINKS, Origin, parts};
use super::packages::Installed;
use super::recipe::{Recipe, VENV, checked, patterns};
use needs::Pending;
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What packages bring for people to read, and for programs that no service has.
const DOCUMENTATION: [&str; 12] = [
    "/usr/share/doc",
    "/usr/share/man",
    "/usr/share/info",
    "/usr/share/lintian",
    "/usr/share/bug",
    "/usr/share/doc-base",
    "/usr/share/locale",
    "/usr/share/bash-completion",
    "/usr/share/menu",
    "/lib/systemd",
    "/usr/lib/systemd",
    "/etc/init.d",
];

/// Who brings an entry along, and how.
#[derive(Clone, Copy, Default)]
struct Bringer<'a> {
    /// Whose link, directory or file it was, if root reads it and he is not root: he is not to show in a jail what he may
    /// not read.
    owner: Option<u32>,
    /// Where the program that loads it says (RPATH) that libraries are.
    loaders: &'a [PathBuf],
}

struct Collector {
    out: Listing,
    exclude: Vec<glob::Pattern>,
    cache: Option<Vec<(String, PathBuf)>>,
    /// Paths that were seen to be directories, and no links.
    directories: HashSet<PathBuf>,
    /// Directories that are on the list with all that is in them.
    walked: HashSet<PathBuf>,
    /// The tree that is to be elsewhere in the jail.
    grafted: PathBuf,
    /// Files whose needs are still to be looked at.
    queue: Vec<Pending>,
    /// What was in the queue already, by the file and the folder in which its loader sees it.
    queued: HashSet<(PathBuf, PathBuf)>,
    /// Libraries of which it is known what they open by name.
    openers: HashSet<String>,
    /// Is this the host's root, who may read everything?
    reads_all: bool,
}

/// `venv`: a virtual environment that was made for the recipe.
pub fn collect(name: &str, recipe: &Recipe, venv: Option<&Path>) -> Result<Listing, JailError> {
    let exclude = patterns(&recipe.exclude)?;
    let mut it = Collector {
        out: Listing::default(),
        exclude,
        cache: None,
        directories: HashSet::new(),
        walked: HashSet::new(),
        grafted: venv.map_or_else(|| PathBuf::from("/nowhere"), Path::to_owned),
        queue: Vec::new(),
        queued: HashSet::new(),
        openers: HashSet::new(),
        reads_all: reads_all(),
    };
    let named = format!("recipe {name} names it");
    for path in &recipe.paths {
        let place = checked(path)?;
        if !it.add(&place, &named, true, Bringer::default())? {
            return Err(JailError::NoPath(place));
        }
    }
    for binary in &recipe.binaries {
        let path = find_program(binary)?.ok_or_else(|| JailError::NoBinary(binary.clone()))?;
        it.add(&path, &named, true, Bringer::default())?;
    }
    for (globs, needed) in [(&recipe.globs, true), (&recipe.optional, false)] {
        for text in globs {
            checked(text)?;
            let found = glob::glob(text).map_err(|e| JailError::glob(text, e))?;
            let mut any = false;
            for path in found.flatten() {
                any |= it.add(
                    &path,
                    &format!("recipe {name} names {text}"),
                    needed,
                    Bringer::default(),
                )?;
            }
            if !any && needed {
                return Err(JailError::NoMatch(text.clone()));
            }
        }
    }
    if recipe.with_dependencies == Some(true) {
        for (package, by) in Installed::read()?.with_what_they_need(&recipe.packages)? {
            let by = by.map_or_else(String::new, |by| format!(", which package {by} needs"));
            it.package(&package, &format!("package {package} brings it{by}"))?;
        }
    } else {
        for package in &recipe.packages {
            it.package(package, &format!("package {package} brings it"))?;
        }
    }
    if let Some(venv) = venv {
        it.graft(venv, Path::new(VENV))?;
    }
    it.follow()?;
    for (place, target) in &recipe.links {
        let place = checked(place)?;
        let parent = it.resolve(place.parent().unwrap_or(Path::new("/")), &named, &mut None)?;
        it.parents(&parent.join("x"));
        let name = place.file_name().unwrap_or_default();
        let kind = EntryKind::Link(target.into());
        it.insert(parent.join(name), kind, &named, FileStamp::default());
    }
    for directory in &recipe.directories {
        let place = it.resolve(&checked(&directory.to_string_lossy())?, &named, &mut None)?;
        it.parents(&place.join("x"));
    }
    let text = |path: &Path| path.to_str().is_some();
    let is_text = |(path, item): &(&PathBuf, &JailEntry)| {
        text(path) && !matches!(&item.kind, EntryKind::Link(target) if !text(target))
    };
    match it.out.items.iter().find(|entry| !is_text(entry)) {
        Some((path, _)) => Err(JailError::NotText(path.to_owned())),
        None => Ok(it.out),
    }
}

fn find_program(name: &str) -> Result<Option<PathBuf>, JailError> {
    if name.contains('/') {
        let path = checked(name)?;
        return Ok(path.is_file().then_some(path));
    }
    let folders = [
        "/usr/local/sbin",
        "/usr/local/bin",
        "/usr/sbin",
        "/usr/bin",
        "/sbin",
        "/bin",
    ];
    Ok(folders.iter().map(|f| Path::new(f).join(name)).find(|p| p.is_file()))
}

impl Collector {
    fn insert(&mut self, path: PathBuf, kind: EntryKind, why: &str, stamp: FileStamp) -> bool {
        if self.out.items.contains_key(&path) {
            return false;
        }
        let item = JailEntry {
            stamp,
            ..JailEntry::new(kind, why)
        };
        self.out.items.insert(path, item);
        true
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
            self.insert(
                parent.to_owned(),
                EntryKind::Directory,
                "something lies in it",
                FileStamp::default(),
            );
        }
    }

    /// Where a path really leads; the links on the way get onto the list, and `owner` becomes that of the last one that is
    /// not root's. The root is the root: `..` does not lead out of it.
    fn resolve(&mut self, path: &Path, why: &str, owner: &mut Option<u32>) -> Result<PathBuf, JailError> {
        let mut left: Vec<std::ffi::OsString> = parts(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            if self.directories.contains(&next) {
                at = next;
                continue;
            }
            let found = std::fs::symlink_metadata(&next);
            if found.as_ref().is_ok_and(std::fs::Metadata::is_dir) {
                self.directories.insert(next.clone());
            }
            if !found.as_ref().is_ok_and(std::fs::Metadata::is_symlink) {
                at = next;
                continue;
            }
            links += 1;
            if links > MOST_LINKS {
                return Err(JailError::LinkLoop(path.to_owned()));
            }
            if let Ok(link) = &found {
                self.note_owner(link.uid(), owner);
            }
            let target = std::fs::read_link(&next).map_err(|e| JailError::io("read the link", &next, e))?;
            self.parents(&next);
            self.insert(next, EntryKind::Link(target.clone()), why, FileStamp::default());
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            left.extend(parts(&target));
        }
        Ok(at)
    }

    /// Puts a path and what lies below it on the list: `false` if it is not there. What is `needed` may lack
    /// nothing itself.
    fn add(&mut self, path: &Path, why: &str, needed: bool, bringer: Bringer<'_>) -> Result<bool, JailError> {
        self.add_as(path, None, why, needed, bringer)
    }

    fn note_owner(&self, uid: u32, owner: &mut Option<u32>) {
        if self.reads_all && uid != 0 {
            *owner = Some(uid);
        }
    }

    /// `named`: by which name a library is loaded.
    fn add_as(
        &mut self,
        path: &Path,
        named: Option<&Path>,
        why: &str,
        needed: bool,
        bringer: Bringer<'_>,
    ) -> Result<bool, JailError> {
        let mut owner = bringer.owner;
        let place = self.resolve(path, why, &mut owner)?;
        let reserved = ["/proc", "/sys", "/dev", "/run", "/tmp"];
        if reserved.iter().any(|r| place.starts_with(r)) {
            // A link to it is one here too, and leads to what every service has of its own.
            return Ok(place != path);
        }
        let found = match std::fs::symlink_metadata(&place) {
            Ok(found) => found,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(JailError::io("look at", place, e)),
        };
        if owner.is_some_and(|owner| owner != found.uid() && !open_to_all(&place, &found)) {
            let note = "is not for everybody to read, and what brings it is another user's; left out";
            self.out.notes.push(format!("{} {note}", place.display()));
            return Ok(true);
        }
        self.note_owner(found.uid(), &mut owner);
        let bringer = Bringer { owner, ..bringer };
        self.parents(&place);
        if found.is_file() {
            self.add_file(place, &found, named, why, needed, bringer);
        } else if found.is_dir() {
            // A link up to a directory that it lies in itself stays such a link, and brings nothing of that directory.
            let lies_in = self.resolve(path.parent().unwrap_or(Path::new("/")), why, &mut owner)?;
            let leads_up = place != path && lies_in.starts_with(&place);
            self.insert(place.clone(), EntryKind::Directory, why, FileStamp::default());
            if !leads_up {
                self.add_below(&place, Bringer { owner, ..bringer })?;
            }
        }
        Ok(true)
    }

    fn add_file(
        &mut self,
        place: PathBuf,
        found: &std::fs::Metadata,
        named: Option<&Path>,
        why: &str,
        needed: bool,
        bringer: Bringer<'_>,
    ) {
        let kind = file_kind(found);
        let fresh = self.insert(place.clone(), kind, why, FileStamp::of(found));
        let named = named.unwrap_or(&place);
        let seen_in = named.parent().unwrap_or(Path::new("/")).to_owned();
        if fresh || named != place && !self.queued.contains(&(place.clone(), seen_in.clone())) {
            self.queued.insert((place.clone(), seen_in));
            self.queue.push(Pending {
                owner: bringer.owner,
                named: named.to_owned(),
                path: place,
                needed,
                loaders: bringer.loaders.to_owned(),
            });
        }
    }

    /// All that lies in a directory, unless it is on the list already.
    fn add_below(&mut self, place: &Path, bringer: Bringer<'_>) -> Result<(), JailError> {
        if !self.walked.insert(place.to_owned()) {
            return Ok(());
        }
        let why = format!("it lies in {}", place.display());
        let mut names = names_in(place).map_err(|e| JailError::io("read the directory", place, e))?;
        names.sort();
        for name in names {
            if self.exclude.iter().any(|g| g.matches_path(&name)) {
                continue;
            }
            // A link in it that leads nowhere stays such a link.
            match self.add(&name, &why, false, bringer) {
                Ok(_) => {}
                Err(JailError::LinkLoop(at)) => {
                    let note = format!("the links at {} lead in a circle", at.display());
                    self.out.notes.push(note);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// All files of a Debian package but its documentation, as dpkg has recorded them.
    fn package(&mut self, name: &str, why: &str) -> Result<(), JailError> {
        let right = |b: u8| b.is_ascii_alphanumeric() || b"+-.:".contains(&b);
        let lacks = || JailError::NoPackage(name.to_owned());
        if name.is_empty() || !name.bytes().all(right) {
            return Err(lacks());
        }
        let records = Path::new("/var/lib/dpkg/info");
        let whole = format!("{name}.list");
        let of_machine = format!("{name}:{}.list", super::packages::architecture());
        let text = [whole, of_machine]
            .iter()
            .find_map(|file| std::fs::read_to_string(records.join(file)).ok())
            .ok_or_else(lacks)?;
        let filled: HashSet<&Path> = text.lines().filter_map(|l| Path::new(l).parent()).collect();
        for line in text.lines() {
            let path = Path::new(line);
            let described = DOCUMENTATION.iter().any(|d| path.starts_with(d));
            if !path.is_absolute() || line == "/." || described || self.exclude.iter().any(|g| g.matches_path(path)) {
                continue;
            }
            let is_directory = std::fs::metadata(path).is_ok_and(|m| m.is_dir());
            // What the package knows as a directory may be a link of this host, as /lib is.
            let is_link = || std::fs::symlink_metadata(path).is_ok_and(|m| m.is_symlink()) && !filled.contains(path);
            if is_directory && !is_link() {
                // Of what lies in it, other packages have a part.
                let place = self.resolve(path, why, &mut None)?;
                self.parents(&place.join("x"));
            } else {
                self.add(path, why, false, Bringer::default())?;
            }
        }
        Ok(())
    }

    /// A tree that lies elsewhere on this host, to be at `place`.
    fn graft(&mut self, tree: &Path, place: &Path) -> Result<(), JailError> {
        let found = std::fs::symlink_metadata(tree).map_err(|e| JailError::io("look at", tree, e))?;
        let why = "the recipe's `requirements` bring it";
        if found.is_dir() {
            self.insert(place.to_owned(), EntryKind::Directory, why, FileStamp::default());
            let names = std::fs::read_dir(tree)
                .and_then(|all| all.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>())
                .map_err(|e| JailError::io("read the directory", tree, e))?;
            for name in names {
                self.graft(&tree.join(&name), &place.join(&name))?;
            }
        } else if found.is_symlink() {
            let target = std::fs::read_link(tree).map_err(|e| JailError::io("read the link", tree, e))?;
            self.insert(
                place.to_owned(),
                EntryKind::Link(target.clone()),
                why,
                FileStamp::default(),
            );
            if target.is_absolute() && !target.starts_with(&self.grafted) {
                self.add(
                    &target,
                    &format!("{} leads to it", place.display()),
                    false,
                    Bringer::default(),
                )?;
            }
        } else if found.is_file() {
            let item = JailEntry {
                stamp: FileStamp::of(&found),
                origin: Some(Origin::Host(tree.to_owned())),
                ..JailEntry::new(file_kind(&found), why)
            };
            self.out.items.insert(place.to_owned(), item);
            // For what it needs of the host: what it brings itself is there.
            self.queue.push(Pending {
                owner: None,
                path: tree.to_owned(),
                named: tree.to_owned(),
                needed: false,
                loaders: Vec::new(),
            });
        }
        Ok(())
    }
}

fn file_kind(found: &std::fs::Metadata) -> EntryKind {
    EntryKind::File {
        executable: found.permissions().mode() & 0o111 != 0,
        size: found.len(),
        modified: found.mtime(),
    }
}

/// What lies in a directory that was found to be one, through no link that has come since.
fn names_in(place: &Path) -> std::io::Result<Vec<PathBuf>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::openat2(CWD, place, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)?;
    let mut out = Vec::new();
    for entry in Dir::new(opened)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            out.push(place.join(OsStr::from_bytes(name.to_bytes())));
        }
    }
    Ok(out)
}

/// May everybody read it, and come so far?
fn open_to_all(place: &Path, found: &std::fs::Metadata) -> bool {
    let wanted = if found.is_dir() { 0o005 } else { 0o004 };
    let passes = |p: &Path| std::fs::metadata(p).is_ok_and(|m| m.mode() & 0o001 != 0);
    found.mode() & wanted == wanted && place.ancestors().skip(1).all(passes)
}

/// Is this process the host's root? Of a user's own namespace, nobody else can have files that only its root reads.
fn reads_all() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut first = map.split_whitespace();
    rustix::process::geteuid().is_root() && first.next() == Some("0") && first.next() == Some("0")
}
