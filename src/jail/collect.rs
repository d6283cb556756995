//! From a recipe to the list of what its jail holds, and why: links as links, programs with their interpreters and
//! libraries, scripts with what runs them.
//!
//! Set-id bits and device nodes, pipes and sockets do not get onto the list.

use super::image::Image;
use super::opened::{self, Opens};
use super::packages::Installed;
use super::recipe::Recipe;
use super::{JailError, elf};
use rustix::fs::{CWD, Dir, Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// The kernel follows as many.
const MOST_LINKS: usize = 40;

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

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    Directory,
    Link(PathBuf),
    File {
        executable: bool,
        size: u64,
        /// Whole seconds: python's caches hold the time of their source.
        modified: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    pub kind: Kind,
    /// A sentence's end: "is here because …".
    pub why: String,
    /// What changes when the file does; not part of what it is.
    #[serde(skip)]
    pub print: (u64, i64, i64),
    /// The SHA-256 of a file's content, where it is known before it is read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Where its content comes from, if not from the same place of this host.
    #[serde(skip)]
    pub origin: Option<Origin>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// An entry of a layer of the listing's image, by number.
    Layer {
        layer: usize,
        ordinal: u64,
    },
    Host(PathBuf),
}

impl Item {
    pub fn new(kind: Kind, why: impl Into<String>) -> Item {
        Item {
            kind,
            why: why.into(),
            print: (0, 0, 0),
            content: None,
            origin: None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub items: BTreeMap<PathBuf, Item>,
    /// What the jail lacks, a sentence each.
    pub notes: Vec<String>,
    /// An image's own /etc/passwd, which says where its users are at home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwd: Option<String>,
    #[serde(skip)]
    pub image: Option<Arc<Image>>,
}

impl Listing {
    /// Is it a tree: does everything lie in a directory, and nothing below a link or a file?
    pub fn check(&self) -> Result<(), JailError> {
        for path in self.items.keys() {
            let parent = path.parent().filter(|p| *p != Path::new("/"));
            let in_directory = |p: &Path| self.items.get(p).is_some_and(|i| i.kind == Kind::Directory);
            let leads_out = !path.is_absolute() || path.components().any(|c| c == Component::ParentDir);
            if leads_out || parent.is_some_and(|p| !in_directory(p)) {
                return Err(JailError::Below {
                    path: path.to_owned(),
                    by: parent.unwrap_or(Path::new("/")).to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Where a path leads here, itself not followed if it is a link.
    pub fn place(&self, path: &Path) -> PathBuf {
        let mut left = parts(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        while let Some(part) = left.pop() {
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            match self.items.get(&next).map(|i| &i.kind) {
                Some(Kind::Link(target)) if !left.is_empty() && links < MOST_LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    left.extend(parts(target));
                }
                _ => at = next,
            }
        }
        at
    }
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
    /// That of what is looked at now, for what it brings along.
    loaders: Vec<PathBuf>,
    /// Who has brought what is looked at now, by a link, a directory or a file of his, if root reads it and he is not root:
    /// he is not to show in a jail what he may not read.
    by: Option<u32>,
    /// Is this the host's root, who may read everything?
    reads_all: bool,
}

struct Pending {
    by: Option<u32>,
    path: PathBuf,
    /// As whoever loads it names it: the linker's $ORIGIN does not follow a library's links.
    named: PathBuf,
    /// Is a lack an error?
    needed: bool,
    /// Where those that load it say (RPATH) that libraries are.
    loaders: Vec<PathBuf>,
}

/// A library, where the linker finds it.
struct Found {
    file: PathBuf,
    /// Others beside it for some processors: which is taken is decided where the jail runs, so all of them go in.
    variants: Vec<PathBuf>,
    /// Does the linker know its place from ld.so.cache alone?
    by_cache: bool,
}

pub fn patterns(globs: &[String]) -> Result<Vec<glob::Pattern>, JailError> {
    let one = |g: &String| glob::Pattern::new(g).map_err(|e| JailError::Form(format!("the glob {g}: {e}; correct it")));
    globs.iter().map(one).collect()
}

/// Directories that are to be there, be it with something in them or not.
pub fn add_directories(listing: &mut Listing, directories: &[PathBuf], why: &str) -> Result<(), JailError> {
    for directory in directories {
        // By the image's own links, within its root: what lies below a link would be made elsewhere.
        let named = checked(&directory.to_string_lossy())?;
        let place = listing.place(&named.join("x"));
        let place = place.parent().unwrap_or(Path::new("/"));
        for path in place.ancestors().filter(|p| *p != Path::new("/")) {
            listing
                .items
                .entry(path.to_owned())
                .or_insert_with(|| Item::new(Kind::Directory, why));
        }
    }
    Ok(())
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
        loaders: Vec::new(),
        by: None,
        reads_all: reads_all(),
    };
    let named = format!("recipe {name} names it");
    for path in &recipe.paths {
        let place = checked(path)?;
        if !it.add(&place, &named, true)? {
            return Err(JailError::NoPath(place));
        }
    }
    for binary in &recipe.binaries {
        let path = find_program(binary)?.ok_or_else(|| JailError::NoBinary(binary.clone()))?;
        it.add(&path, &named, true)?;
    }
    for (globs, needed) in [(&recipe.globs, true), (&recipe.optional, false)] {
        for text in globs {
            checked(text)?;
            let found = glob::glob(text).map_err(|e| JailError::Form(format!("the glob {text}: {e}; correct it")))?;
            let mut any = false;
            for path in found.flatten() {
                any |= it.add(&path, &format!("recipe {name} names {text}"), needed)?;
            }
            if !any && needed {
                return Err(JailError::NoMatch(text.clone()));
            }
        }
    }
    if recipe.depends == Some(true) {
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
        it.graft(venv, Path::new(super::made::VENV))?;
    }
    it.follow()?;
    for (place, target) in &recipe.links {
        let place = checked(place)?;
        let parent = it.resolve(place.parent().unwrap_or(Path::new("/")), &named)?;
        it.parents(&parent.join("x"));
        let name = place.file_name().unwrap_or_default();
        let kind = Kind::Link(target.into());
        it.insert(parent.join(name), kind, &named, (0, 0, 0));
    }
    for directory in &recipe.directories {
        let place = it.resolve(&checked(&directory.to_string_lossy())?, &named)?;
        it.parents(&place.join("x"));
    }
    let text = |path: &Path| path.to_str().is_some();
    let is_text =
        |(path, item): &(&PathBuf, &Item)| text(path) && !matches!(&item.kind, Kind::Link(target) if !text(target));
    match it.out.items.iter().find(|entry| !is_text(entry)) {
        Some((path, _)) => Err(JailError::NotText(path.to_owned())),
        None => Ok(it.out),
    }
}

fn checked(text: &str) -> Result<PathBuf, JailError> {
    crate::model::path::normal(text)
        .map(PathBuf::from)
        .map_err(|cause| JailError::Leaves {
            path: text.to_owned(),
            cause,
        })
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
    fn insert(&mut self, path: PathBuf, kind: Kind, why: &str, print: (u64, i64, i64)) -> bool {
        if self.out.items.contains_key(&path) {
            return false;
        }
        let item = Item {
            print,
            ..Item::new(kind, why)
        };
        self.out.items.insert(path, item);
        true
    }

    fn parents(&mut self, path: &Path) {
        for parent in path.ancestors().skip(1).filter(|p| *p != Path::new("/")) {
            self.insert(parent.to_owned(), Kind::Directory, "something lies in it", (0, 0, 0));
        }
    }

    /// Where a path really leads; the links on the way get onto the list. The root is the root: `..` does not
    /// lead out of it.
    fn resolve(&mut self, path: &Path, why: &str) -> Result<PathBuf, JailError> {
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
                self.brought_by(link.uid());
            }
            let target = std::fs::read_link(&next).map_err(|e| JailError::io("read the link", &next, e))?;
            self.parents(&next);
            self.insert(next, Kind::Link(target.clone()), why, (0, 0, 0));
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            left.extend(parts(&target));
        }
        Ok(at)
    }

    /// Puts a path and what lies below it on the list: `false` if it is not there. What is `needed` may lack
    /// nothing itself.
    fn add(&mut self, path: &Path, why: &str, needed: bool) -> Result<bool, JailError> {
        self.add_as(path, None, why, needed)
    }

    /// `named`: by which name a library is loaded.
    fn add_as(&mut self, path: &Path, named: Option<&Path>, why: &str, needed: bool) -> Result<bool, JailError> {
        let before = self.by;
        let added = self.add_by(path, named, why, needed);
        self.by = before;
        added
    }

    fn brought_by(&mut self, uid: u32) {
        if self.reads_all && uid != 0 {
            self.by = Some(uid);
        }
    }

    fn add_by(&mut self, path: &Path, named: Option<&Path>, why: &str, needed: bool) -> Result<bool, JailError> {
        let place = self.resolve(path, why)?;
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
        if self
            .by
            .is_some_and(|by| by != found.uid() && !open_to_all(&place, &found))
        {
            let note = "is not for everybody to read, and what brings it is another user's; left out";
            self.out.notes.push(format!("{} {note}", place.display()));
            return Ok(true);
        }
        self.brought_by(found.uid());
        self.parents(&place);
        if found.is_file() {
            let executable = found.permissions().mode() & 0o111 != 0;
            let kind = Kind::File {
                executable,
                size: found.len(),
                modified: found.mtime(),
            };
            let print = (found.ino(), found.ctime(), found.ctime_nsec());
            let fresh = self.insert(place.clone(), kind, why, print);
            let named = named.unwrap_or(&place);
            let seen_in = named.parent().unwrap_or(Path::new("/")).to_owned();
            if fresh || named != place && !self.queued.contains(&(place.clone(), seen_in.clone())) {
                self.queued.insert((place.clone(), seen_in));
                self.queue.push(Pending {
                    by: self.by,
                    named: named.to_owned(),
                    path: place,
                    needed,
                    loaders: self.loaders.clone(),
                });
            }
        } else if found.is_dir() {
            self.insert(place.clone(), Kind::Directory, why, (0, 0, 0));
            // A link up to a directory that it lies in itself stays such a link, and brings nothing of that directory.
            let lies_in = self.resolve(path.parent().unwrap_or(Path::new("/")), why)?;
            let leads_up = place != path && lies_in.starts_with(&place);
            if leads_up || !self.walked.insert(place.clone()) {
                return Ok(true);
            }
            let inside = format!("it lies in {}", place.display());
            let mut names = names_in(&place).map_err(|e| JailError::io("read the directory", &place, e))?;
            names.sort();
            for name in names {
                if !self.exclude.iter().any(|g| g.matches_path(&name)) {
                    // A link in it that leads nowhere stays such a link.
                    match self.add(&name, &inside, false) {
                        Ok(_) => {}
                        Err(JailError::LinkLoop(at)) => {
                            self.out
                                .notes
                                .push(format!("the links at {} lead in a circle", at.display()));
                        }
                        Err(e) => return Err(e),
                    }
                }
            }
        }
        Ok(true)
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
                let place = self.resolve(path, why)?;
                self.parents(&place.join("x"));
            } else {
                self.add(path, why, false)?;
            }
        }
        Ok(())
    }

    /// A tree that lies elsewhere on this host, to be at `place`.
    fn graft(&mut self, tree: &Path, place: &Path) -> Result<(), JailError> {
        let found = std::fs::symlink_metadata(tree).map_err(|e| JailError::io("look at", tree, e))?;
        let why = "the recipe's `requirements` bring it";
        if found.is_dir() {
            self.insert(place.to_owned(), Kind::Directory, why, (0, 0, 0));
            let names = std::fs::read_dir(tree)
                .and_then(|all| all.map(|e| e.map(|e| e.file_name())).collect::<Result<Vec<_>, _>>())
                .map_err(|e| JailError::io("read the directory", tree, e))?;
            for name in names {
                self.graft(&tree.join(&name), &place.join(&name))?;
            }
        } else if found.is_symlink() {
            let target = std::fs::read_link(tree).map_err(|e| JailError::io("read the link", tree, e))?;
            self.insert(place.to_owned(), Kind::Link(target.clone()), why, (0, 0, 0));
            if target.is_absolute() && !target.starts_with(&self.grafted) {
                self.add(&target, &format!("{} leads to it", place.display()), false)?;
            }
        } else if found.is_file() {
            let kind = Kind::File {
                executable: found.permissions().mode() & 0o111 != 0,
                size: found.len(),
                modified: found.mtime(),
            };
            let item = Item {
                print: (found.ino(), found.ctime(), found.ctime_nsec()),
                origin: Some(Origin::Host(tree.to_owned())),
                ..Item::new(kind, why)
            };
            self.out.items.insert(place.to_owned(), item);
            // For what it needs of the host: what it brings itself is there.
            self.queue.push(Pending {
                by: None,
                path: tree.to_owned(),
                named: tree.to_owned(),
                needed: false,
                loaders: Vec::new(),
            });
        }
        Ok(())
    }

    /// Follows what is on the list to what that needs, until nothing is new.
    fn follow(&mut self) -> Result<(), JailError> {
        while let Some(mut next) = self.queue.pop() {
            self.loaders = std::mem::take(&mut next.loaders);
            self.by = next.by;
            match self.needs_of(&next) {
                Err(
                    e @ (JailError::NoLibrary { .. } | JailError::NoInterpreter { .. } | JailError::BrokenElf { .. }),
                ) if !next.needed => {
                    self.out.notes.push(e.to_string());
                }
                other => other?,
            }
        }
        Ok(())
    }

    /// A file that nobody may run, of a kind that needs nothing: there are thousands, and they need not be opened.
    fn is_text(&self, path: &Path) -> bool {
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
        let runs = |i: &Item| matches!(i.kind, Kind::File { executable: true, .. });
        let known = ["py", "pyc", "js", "json", "pem", "crt", "txt", "h", "html", "conf"].contains(&kind)
            || path.starts_with("/usr/share/zoneinfo");
        known && !self.out.items.get(path).is_some_and(runs)
    }

    fn needs_of(&mut self, pending: &Pending) -> Result<(), JailError> {
        use std::io::{Read, Seek};
        let Pending {
            path, named, needed, ..
        } = pending;
        let needed = *needed;
        if self.is_text(path) {
            return Ok(());
        }
        let read = |e| JailError::io("read", path, e);
        let mut file = std::fs::File::open(path).map_err(read)?;
        let mut head = [0; 256];
        let got = file.read(&mut head).map_err(read)?;
        let head = &head[..got];
        let why = format!("{} needs it", path.display());
        if let Some(line) = head.strip_prefix(b"#!") {
            let executable = matches!(
                self.out.items.get(path),
                Some(Item {
                    kind: Kind::File { executable: true, .. },
                    ..
                })
            );
            return if executable {
                self.script(path, line, &why, needed)
            } else {
                Ok(())
            };
        }
        if !elf::is_elf(head) {
            return Ok(());
        }
        file.rewind().map_err(read)?;
        let mut data = Vec::with_capacity(file.metadata().map_or(0, |m| m.len() as usize) + 1);
        file.read_to_end(&mut data).map_err(read)?;
        let broken = |cause| JailError::BrokenElf {
            path: path.to_owned(),
            cause,
        };
        let Some(needs) = elf::needs(&data).map_err(broken)? else {
            return Ok(());
        };
        if let Some(interpreter) = &needs.interpreter
            && !self.add(interpreter, &why, needed)?
        {
            return Err(JailError::NoInterpreter {
                script: path.to_owned(),
                interpreter: interpreter.display().to_string(),
            });
        }
        // Where a RUNPATH stands, no RPATH counts; else its own and those of whoever loads it, ld.so(8).
        let mut inherited = std::mem::take(&mut self.loaders);
        if needs.runpath.is_empty() {
            inherited.splice(0..0, elf::expand(&needs.rpath, named, needs.kind));
        }
        self.loaders = inherited;
        for library in &needs.libraries {
            let Some(found) = self.search(named, &needs, library)? else {
                continue;
            };
            self.bring(&found, &why, needed)?;
            self.opened_by(library, &found, needs.kind)?;
        }
        let why = format!("{} opens it by name", path.display());
        for library in &needs.opened {
            self.opened(named, &needs, library, &why)?;
        }
        self.loaders = Vec::new();
        Ok(())
    }

    fn bring(&mut self, found: &Found, why: &str, needed: bool) -> Result<(), JailError> {
        for variant in &found.variants {
            self.add_as(variant, Some(variant), why, needed)?;
        }
        if found.by_cache {
            let because = format!("it says where {} is", found.file.display());
            self.add(Path::new("/etc/ld.so.cache"), &because, needed)?;
        }
        self.add_as(&found.file, Some(&found.file), why, needed).map(drop)
    }

    /// What a library opens by name, as far as that is known; what of it is not here, is not there either.
    fn opened_by(&mut self, library: &str, found: &Found, kind: (u8, u16)) -> Result<(), JailError> {
        let opens = opened::by(library);
        if opens.is_empty() || !self.openers.insert(library.to_owned()) {
            return Ok(());
        }
        let place = self.resolve(&found.file, "")?;
        let why = format!("{} opens it by name", place.display());
        let loaders = std::mem::take(&mut self.loaders);
        let needs = elf::Needs {
            kind,
            ..elf::Needs::default()
        };
        for what in opens {
            match what {
                Opens::Library(name) => self.opened(&found.file, &needs, name, &why)?,
                Opens::Path(pattern) => {
                    for path in glob::glob(pattern).into_iter().flatten().flatten() {
                        if self.excluded(&path) {
                            continue;
                        }
                        // It may be so odd that it cannot be there; a recipe that names it is told so.
                        if let Err(e) = self.add(&path, &why, false) {
                            self.out.notes.push(e.to_string());
                        }
                    }
                }
            }
        }
        self.loaders = loaders;
        Ok(())
    }

    fn opened(&mut self, by: &Path, needs: &elf::Needs, name: &str, why: &str) -> Result<(), JailError> {
        match self.search(by, needs, name) {
            Ok(Some(found)) if !self.excluded(&found.file) => self.bring(&found, why, false),
            Ok(_) | Err(JailError::NoLibrary { .. }) => Ok(()),
            Err(e) => Err(e),
        }
    }

    /// By the name that it is found by, or by its place.
    fn excluded(&self, path: &Path) -> bool {
        let real = std::fs::canonicalize(path).unwrap_or_default();
        self.exclude
            .iter()
            .any(|g| g.matches_path(path) || g.matches_path(&real))
    }

    /// Where the linker finds a library; none if it need not look, for it is there.
    fn search(&mut self, path: &Path, needs: &elf::Needs, name: &str) -> Result<Option<Found>, JailError> {
        let own: Vec<PathBuf> = if name.contains('/') {
            elf::expand(&[name.to_owned()], path, needs.kind)
        } else {
            let folders = match needs.runpath.is_empty() {
                true => self.loaders.clone(),
                false => elf::expand(&needs.runpath, path, needs.kind),
            };
            folders.iter().map(|f| f.join(name)).collect()
        };
        let fits = |p: &Path| fits(p, needs.kind);
        if let Some(found) = own.into_iter().find(|p| fits(p)) {
            if path.starts_with(&self.grafted) && found.starts_with(&self.grafted) {
                return Ok(None);
            }
            let beside = found.parent().unwrap_or(Path::new("/")).join("glibc-hwcaps");
            let kinds = std::fs::read_dir(beside).into_iter().flatten().flatten();
            let mut variants: Vec<_> = kinds.map(|k| k.path().join(name)).filter(|p| fits(p)).collect();
            variants.sort();
            return Ok(Some(Found {
                file: found,
                variants,
                by_cache: false,
            }));
        }
        let folders = elf::default_folders(needs.kind);
        let cache = self.cache.get_or_insert_with(|| {
            let data = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
            elf::cache(&data)
        });
        let cached: Vec<PathBuf> = cache
            .iter()
            .filter(|(n, _)| n == name)
            .map(|(_, p)| p.clone())
            .collect();
        let is_variant = |p: &Path| p.components().any(|c| c.as_os_str() == "glibc-hwcaps");
        let (mut variants, plain): (Vec<_>, Vec<_>) = cached.into_iter().partition(|p| is_variant(p));
        variants.retain(|p| fits(p));
        let usual = folders.iter().map(|f| f.join(name));
        let Some(file) = plain.into_iter().chain(usual).find(|p| fits(p)) else {
            // The linker takes one of that name that somebody else has loaded, from wherever.
            let named = |p: &PathBuf| p.file_name().is_some_and(|n| n == name);
            if self.out.items.keys().any(|p| named(p) && fits(p)) {
                return Ok(None);
            }
            return Err(JailError::NoLibrary {
                program: path.to_owned(),
                library: name.to_owned(),
            });
        };
        Ok(Some(Found {
            by_cache: !file.parent().is_some_and(|p| folders.iter().any(|f| f == p)),
            file,
            variants,
        }))
    }

    fn script(&mut self, path: &Path, line: &[u8], why: &str, needed: bool) -> Result<(), JailError> {
        let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line).into_owned();
        let mut words = line.split_whitespace();
        let Some(interpreter) = words.next() else { return Ok(()) };
        let lacks = |what: &str| JailError::NoInterpreter {
            script: path.to_owned(),
            interpreter: what.to_owned(),
        };
        let found = Path::new(interpreter).is_absolute() && self.add(Path::new(interpreter), why, needed)?;
        if !found {
            return Err(lacks(interpreter));
        }
        if interpreter.ends_with("/env")
            && let Some(program) = words.find(|w| !w.starts_with('-') && !w.contains('='))
        {
            let place = find_program(program)?.ok_or_else(|| lacks(program))?;
            self.add(&place, why, needed)?;
        }
        Ok(())
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

/// The parts of a path, last first.
fn parts(path: &Path) -> Vec<std::ffi::OsString> {
    let kept = path.components().filter_map(|c| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut all: Vec<_> = kept.collect();
    all.reverse();
    all
}

/// Is this a file for the same kind of machine? The linker passes over others.
fn fits(path: &Path, kind: (u8, u16)) -> bool {
    use std::io::Read;
    let mut head = [0u8; 20];
    let read = std::fs::File::open(path).and_then(|mut f| f.read_exact(&mut head));
    if read.is_err() || !elf::is_elf(&head) || head[4] != kind.0 {
        return false;
    }
    let machine = [head[18], head[19]];
    let number = if head[5] == 2 {
        u16::from_be_bytes(machine)
    } else {
        u16::from_le_bytes(machine)
    };
    number == kind.1
}
