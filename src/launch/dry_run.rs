//! What a start would fail for, found without one: programs, scripts and directories are looked for where the service
//! would see them, and mounts are tried and let go.
//!
//! Works on what [`crate::compile`] makes, as a start does, and changes nothing. What cannot be known (a service's own
//! data may gain files before the program runs, and an ordinary user cannot look into all of it) counts as there.

use super::error::{LaunchError, errno_name};
use super::prepare;
use crate::bundle::{Bundle, RootEntry};
use crate::jail::listing::{EntryKind, Listing};
use oci_spec::runtime::Mount;
use rustix::io::Errno;
use std::collections::{BTreeMap, VecDeque};
use std::ffi::OsString;
use std::fs::Metadata;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

/// What is wrong with a command, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    pub message: String,
    pub help: String,
    /// Would the start fail, or only what is started?
    pub fatal: bool,
}

/// What a bundle's root will be, as far as this host's files tell.
pub struct View<'b> {
    mounts: Vec<Mounted>,
    root: BTreeMap<PathBuf, &'b RootEntry>,
    coming: &'b BTreeMap<PathBuf, Listing>,
    /// Below these lies what PySecure keeps, or has been given.
    kept: &'b [PathBuf],
    /// Has a start failed already? What is not there then did not come.
    pub(super) failed: bool,
}

struct Mounted {
    target: PathBuf,
    /// Upper ones first.
    layers: Vec<Layer>,
    executable: bool,
    /// Do the modes on disk say what the service may do? Not where ids are shown as others.
    as_on_disk: bool,
}

enum Layer {
    Host(PathBuf),
    /// Made with the bundle: these paths and nothing in them, and those that layers below do not show.
    Places(Vec<PathBuf>, Vec<PathBuf>),
    Empty,
    Unknown,
}

/// What a path is for a service.
pub(super) enum Seen {
    Is(Node),
    /// With the link that leads nowhere, if that is why.
    Missing(Option<Link>),
    /// Something on the way is no directory, or closed to the service.
    Barred(PathBuf, &'static str),
    Unknown,
}

pub(super) struct Node {
    pub kind: Kind,
    /// The path in the service's root, free of links.
    pub path: PathBuf,
    /// Where it lies on the host, if it can be read there.
    pub host: Option<PathBuf>,
    /// Are the service's rights those of everybody else?
    pub mode: Option<u32>,
    pub executable: bool,
}

/// A symbolic link as the service sees it, and where it leads.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub at: PathBuf,
    pub to: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link(PathBuf),
    Other,
}

/// As the kernel has it; path_resolution(7).
const MOST_LINKS: usize = 40;

impl<'b> View<'b> {
    /// `folder`: where the bundle would lie. `kept`: where files are owned as the manifest says. `coming`: trees that a
    /// start would make first. `others`: are services others than those whose files lie on this host?
    pub fn new(
        bundle: &'b Bundle,
        folder: &Path,
        kept: &'b [PathBuf],
        coming: &'b BTreeMap<PathBuf, Listing>,
        others: bool,
    ) -> View<'b> {
        let layers = folder.join("layers");
        let places = |name: &str| {
            let of = bundle.layers.iter().filter(|l| l.name == name);
            let all = of.flat_map(|l| &l.entries);
            let (hidden, there): (Vec<&RootEntry>, _) = all.partition(|e| matches!(e, RootEntry::Whiteout(_)));
            let paths = |of: Vec<&RootEntry>| of.into_iter().map(|e| e.path().to_owned()).collect();
            Layer::Places(paths(there), paths(hidden))
        };
        let lower = |path: &str| match Path::new(path).strip_prefix(&layers) {
            Ok(name) => places(&name.to_string_lossy()),
            Err(_) => Layer::Host(path.into()),
        };
        let mounts = bundle.spec.mounts().iter().flatten().map(|mount| {
            let options = mount.options().as_deref().unwrap_or_default();
            let option = |key: &str| options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='));
            Mounted {
                target: mount.destination().clone(),
                layers: match mount.typ().as_deref().unwrap_or("bind") {
                    "bind" | "none" => mount.source().iter().map(|s| Layer::Host(s.clone())).collect(),
                    "overlay" => {
                        let upper = option("upperdir").map(|u| Layer::Host(u.into()));
                        let lowers = option("lowerdir").unwrap_or_default().split(':').map(lower);
                        upper.into_iter().chain(lowers).collect()
                    }
                    "tmpfs" if mount.destination() != Path::new("/dev") => vec![Layer::Empty],
                    _ => vec![Layer::Unknown],
                },
                executable: !options.iter().any(|o| o == "noexec" || o == "rnoexec"),
                as_on_disk: others && mount.uid_mappings().is_none(),
            }
        });
        View {
            mounts: mounts.collect(),
            root: bundle.root.iter().map(|e| (e.path().to_owned(), e)).collect(),
            coming,
            kept,
            failed: false,
        }
    }

    /// What is at a path of the service's, links followed.
    pub(super) fn resolve(&self, path: &Path) -> Seen {
        let mut left: VecDeque<OsString> = parts(path);
        let mut at = PathBuf::from("/");
        let mut links = 0;
        // The last link, and how many parts of the path are left when all of its target's are taken.
        let mut last: Option<(Link, usize)> = None;
        let mut found = Node {
            kind: Kind::Directory,
            path: at.clone(),
            host: None,
            mode: None,
            executable: true,
        };
        while let Some(part) = left.pop_front() {
            if found.kind != Kind::Directory {
                return Seen::Barred(found.path, "is no directory");
            }
            if found.mode.is_some_and(|mode| mode & 0o001 == 0) {
                return Seen::Barred(found.path, "may not be searched by other users");
            }
            if part == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&part);
            let node = match self.node(&next) {
                Seen::Is(node) => node,
                Seen::Missing(_) => {
                    let of_link = last.filter(|(_, behind)| left.len() >= *behind);
                    return Seen::Missing(of_link.map(|(link, _)| link));
                }
                other => return other,
            };
            match &node.kind {
                Kind::Link(target) => {
                    let link = Link {
                        at: next.clone(),
                        to: at.join(target),
                    };
                    last = Some((link, left.len()));
                    links += 1;
                    if links > MOST_LINKS {
                        return Seen::Barred(next, "is a link in a circle");
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    for part in parts(target).into_iter().rev() {
                        left.push_front(part);
                    }
                }
                _ => {
                    at = next;
                    found = node;
                }
            }
        }
        Seen::Is(found)
    }

    /// What is at a path all of whose parents are directories.
    fn node(&self, path: &Path) -> Seen {
        let plain = |kind, executable| {
            Seen::Is(Node {
                kind,
                path: path.to_owned(),
                host: None,
                mode: None,
                executable,
            })
        };
        let Some(mount) = self
            .mounts
            .iter()
            .filter(|m| path.starts_with(&m.target))
            .max_by_key(|m| m.target.components().count())
        else {
            return match self.root.get(path.strip_prefix("/").unwrap_or(path)) {
                Some(RootEntry::Directory(_)) => plain(Kind::Directory, true),
                Some(RootEntry::File(..)) => plain(Kind::File, true),
                Some(RootEntry::Link(_, target)) => plain(Kind::Link(target.clone()), true),
                Some(RootEntry::Whiteout(_)) | None => Seen::Missing(None),
            };
        };
        let inside = path.strip_prefix(&mount.target).unwrap_or(path);
        let top = inside.as_os_str().is_empty();
        let mut unknown = false;
        for layer in &mount.layers {
            match layer {
                Layer::Unknown => return Seen::Unknown,
                Layer::Empty if top => return plain(Kind::Directory, mount.executable),
                Layer::Places(..) if top => {}
                Layer::Empty => {}
                Layer::Places(places, hidden) => {
                    if hidden.iter().any(|p| inside.starts_with(p)) {
                        return Seen::Missing(None);
                    }
                    // A directory that layers below may fill; of what is in it, they say the rest.
                    if places.iter().any(|p| p == inside) {
                        return plain(Kind::Directory, mount.executable);
                    }
                }
                Layer::Host(source) => {
                    let kept = self.kept.iter().any(|kept| source.starts_with(kept));
                    let host = if top { source.clone() } else { source.join(inside) };
                    match std::fs::symlink_metadata(&host) {
                        Ok(found) => {
                            let whiteout = found.file_type().is_char_device();
                            if whiteout {
                                return Seen::Unknown;
                            }
                            return Seen::Is(Node {
                                kind: kind_of(&found, &host),
                                path: path.to_owned(),
                                mode: (mount.as_on_disk && !kept).then(|| found.permissions().mode()),
                                host: Some(host),
                                executable: mount.executable,
                            });
                        }
                        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => return Seen::Unknown,
                        Err(_) => match self.to_come(&host) {
                            Some(Seen::Is(node)) => {
                                return Seen::Is(Node {
                                    path: path.to_owned(),
                                    executable: mount.executable,
                                    ..node
                                });
                            }
                            Some(_) => {}
                            None => unknown |= kept && !self.failed,
                        },
                    }
                }
            }
        }
        if unknown { Seen::Unknown } else { Seen::Missing(None) }
    }

    /// What will be at a host's path, if it is in a tree that is yet to be made.
    fn to_come(&self, host: &Path) -> Option<Seen> {
        let (tree, listing) = self.coming.iter().find(|(tree, _)| host.starts_with(tree))?;
        let inside = Path::new("/").join(host.strip_prefix(tree).ok()?);
        let (kind, mode) = match listing.items.get(&inside).map(|i| &i.kind) {
            Some(EntryKind::Directory) => (Kind::Directory, None),
            Some(EntryKind::Link(target)) => (Kind::Link(target.clone()), None),
            Some(EntryKind::File { executable, .. }) => (Kind::File, Some(if *executable { 0o755 } else { 0o644 })),
            None if inside == Path::new("/") => (Kind::Directory, None),
            None => return Some(Seen::Missing(None)),
        };
        Some(Seen::Is(Node {
            kind,
            path: inside,
            host: None,
            mode,
            executable: true,
        }))
    }

    /// Where the service sees what lies at a host's path, by a mount of a folder around it.
    pub(super) fn inside(&self, host: &Path) -> Option<PathBuf> {
        self.mounts.iter().find_map(|mount| {
            mount.layers.iter().find_map(|layer| match layer {
                Layer::Host(source) => Some(mount.target.join(host.strip_prefix(source).ok()?)),
                _ => None,
            })
        })
    }

    /// What is wrong with the folder that a command starts in.
    pub fn directory(&self, directory: &Path) -> Option<Trouble> {
        let shown = directory.display();
        let says = |message: String| {
            Some(Trouble {
                message,
                help: "correct `directory`, or grant what holds it: as a resource, or in `code`".into(),
                fatal: true,
            })
        };
        match self.resolve(directory) {
            Seen::Unknown => None,
            Seen::Missing(_) => says(format!("the directory {shown} does not exist in the service's root")),
            Seen::Barred(at, why) => says(format!(
                "the directory {shown} cannot be entered: {} {why}",
                at.display()
            )),
            Seen::Is(node) if node.kind != Kind::Directory => says(format!("{shown} is no directory")),
            Seen::Is(node) if node.mode.is_some_and(|mode| mode & 0o001 == 0) => {
                let host = node.host.unwrap_or(node.path);
                Some(Trouble {
                    message: format!(
                        "the directory {shown} may not be searched by other users, of which the service is one"
                    ),
                    help: closed(host.as_path()),
                    fatal: true,
                })
            }
            Seen::Is(_) => None,
        }
    }
}

/// What to do about a file or a folder that its mode closes to others. Whether every account of this host may read it, its user knows.
pub(super) fn closed(host: &Path) -> String {
    let host = serde_json::Value::from(host.to_string_lossy());
    format!(
        "show it by a resource with initial = {host}, a copy that services alone can read, or with source = {host} and chown = true; a \
         wider mode would open it to every account of this host"
    )
}

fn parts(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|c| match c {
            Component::Normal(part) => Some(part.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        })
        .collect()
}

fn kind_of(found: &Metadata, host: &Path) -> Kind {
    let kind = found.file_type();
    if kind.is_symlink() {
        std::fs::read_link(host).map_or(Kind::Other, Kind::Link)
    } else if kind.is_dir() {
        Kind::Directory
    } else if kind.is_file() {
        Kind::File
    } else {
        Kind::Other
    }
}

/// Tries an idmapped mount as a start makes it, and lets it go again; why it cannot be had. What is not made yet is not
/// tried.
pub fn mount(mount: &Mount) -> Option<String> {
    let source = mount.source().as_ref().filter(|source| source.exists())?;
    let (uids, gids) = (mount.uid_mappings().as_ref()?, mount.gid_mappings().as_ref()?);
    match prepare::idmapped(source, uids, gids).err()? {
        LaunchError::System { object, errno, .. } => Some(match errno {
            Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM | Errno::NOSYS => format!(
                "the file system of {object} cannot show files under other ids ({}: no idmapped mount)",
                errno_name(errno)
            ),
            _ => format!("{object} cannot be mounted: {}", errno_name(errno)),
        }),
        other => Some(other.to_string()),
    }
}
