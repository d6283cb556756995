//! An OCI bundle, as it is compiled and as it is launched: `config.json`, what is in the root that it mounts things on, and the layers that
//! supply mount points which a read-only source lacks and hide what it should not show.

use crate::beneath::Root;
use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::io::Errno;
use serde_json::{Value, json};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Below a bundle's folder: where what a service writes to its root goes, if it is not kept.
pub const MEMORY: &str = "memory";

/// An annotation that names a directory which is to be in memory, as long as the service runs.
pub const MEMORY_ANNOTATION: &str = "org.pysecure.memory";

/// An annotation that lists what was granted, in JSON: which row of the access matrix each mount is, and the rest.
pub const GRANTS_ANNOTATION: &str = "org.pysecure.grants";

/// ip-sysctl: the first port that takes no right to bind.
pub const LOWEST_PORT: &str = "net.ipv4.ip_unprivileged_port_start";

/// An annotation that names the ids of the first process, `UID:GID`, where the service is root inside and has further ones.
pub const INIT_ANNOTATION: &str = "org.pysecure.init";

/// Where a service sees its own cgroup, and the one file that is of no cgroup of its own: which processors there are.
pub const CGROUPS: &str = "/sys/fs/cgroup";
pub const CPUSET: &str = "/sys/fs/cgroup/cpuset/cpuset.cpus";

/// An annotation that says that the places for that are there.
pub const CGROUPS_ANNOTATION: &str = "org.pysecure.cgroups";

#[derive(Clone, Debug)]
pub struct Bundle {
    pub spec: Spec,
    /// What the root holds before anything is mounted; parents before children.
    pub root: Vec<RootEntry>,
    /// Trees of empty mount points and of whiteouts, and of what is generated for a root that the service may write to.
    pub layers: Vec<Layer>,
}

#[derive(Clone, Debug)]
pub struct Layer {
    /// Of its folder below `layers`.
    pub name: String,
    pub entries: Vec<RootEntry>,
    /// Whose it is, if not the launcher's.
    pub owner: Option<(u32, u32)>,
}

/// Paths are relative to the tree's root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RootEntry {
    Directory(PathBuf),
    File(PathBuf, String),
    Link(PathBuf, PathBuf),
    /// In a layer: nothing is to be seen here of what the layers below hold (overlayfs.rst, "whiteouts").
    Whiteout(PathBuf),
}

impl RootEntry {
    pub fn path(&self) -> &Path {
        match self {
            RootEntry::Directory(path)
            | RootEntry::File(path, _)
            | RootEntry::Link(path, _)
            | RootEntry::Whiteout(path) => path,
        }
    }

    fn printed(&self) -> Value {
        let path = Path::new("/").join(self.path()).display().to_string();
        match self {
            RootEntry::Directory(_) => json!({ "directory": path }),
            RootEntry::File(_, content) => json!({ "file": path, "content": content }),
            RootEntry::Link(_, target) => json!({ "link": path, "target": target.display().to_string() }),
            RootEntry::Whiteout(_) => json!({ "whiteout": path }),
        }
    }
}

impl Bundle {
    /// The spec as JSON. Annotations have no order of their own and get one, so that the same spec is the same text.
    pub fn json(&self) -> serde_json::Result<Value> {
        let mut spec = serde_json::to_value(&self.spec)?;
        if let Some(annotations) = spec["annotations"].as_object_mut() {
            annotations.sort_keys();
        }
        Ok(spec)
    }

    /// All of the bundle as one value: the spec, and as a member `pysecure` of it, which every other runtime ignores (config.md,
    /// "Extensibility"), what [`Bundle::write`] lays down beside it as folders.
    pub fn printed(&self) -> serde_json::Result<Value> {
        let mut printed = self.json()?;
        let entries = |all: &[RootEntry]| all.iter().map(RootEntry::printed).collect::<Vec<_>>();
        let layer = |layer: &Layer| {
            let mut printed = json!({ "name": layer.name, "entries": entries(&layer.entries) });
            if let Some((uid, gid)) = layer.owner {
                printed["owner"] = json!({ "uid": uid, "gid": gid });
            }
            printed
        };
        let layers: Vec<Value> = self.layers.iter().map(layer).collect();
        printed["pysecure"] = json!({ "rootfs": entries(&self.root), "layers": layers });
        Ok(printed)
    }

    /// `config.json` as it is written.
    pub fn config(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(&self.json()?)?;
        text.push('\n');
        Ok(text)
    }

    /// Writes the bundle to `folder`, in place of one that is there already.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        let root = open(folder)?;
        clear(&root)?;
        create(&root, Path::new("rootfs"), &self.root)?;
        // runc 1.1 gives a tmpfs the mode of the directory that it is mounted on, whatever its options say.
        let tmp = RootEntry::Directory("tmp".into());
        if self.root.contains(&tmp) {
            root.set_directory_mode(Path::new("rootfs/tmp"), 0o1777)?;
        }
        self.layers_in(&root)?;
        let config = self.config().map_err(io::Error::other)?;
        root.file(Path::new("config.json"), 0o644)?.write_all(config.as_bytes())
    }

    /// Writes only what the launcher reads from disk: the layers, of which most services have none.
    pub fn write_layers(&self, folder: &Path) -> io::Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        self.layers_in(&open(folder)?)
    }

    fn layers_in(&self, root: &Root) -> io::Result<()> {
        if self.layers.is_empty() {
            return Ok(());
        }
        let all = Path::new("layers");
        match root.directory(all, 0o755) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        for layer in &self.layers {
            let place = all.join(&layer.name);
            // Of an earlier start, whose overlay is gone or keeps what it needs.
            root.remove(&place)?;
            create(root, &place, &layer.entries)?;
            if let Some(ids) = layer.owner {
                let layer_root = root.below(&place)?;
                for path in layer.entries.iter().map(RootEntry::path).chain([Path::new("")]) {
                    layer_root.own(path, ids)?;
                }
            }
        }
        Ok(())
    }
}

/// 0755, not 0700: id 0 of the service's namespace is not the host's, and another runtime has to pass here as that.
fn open(folder: &Path) -> io::Result<Root> {
    fs::DirBuilder::new().mode(0o755).recursive(true).create(folder)?;
    Ok(Root::open(folder)?)
}

/// Removes an earlier bundle; refuses to remove anything else.
fn clear(root: &Root) -> io::Result<()> {
    let names = root.names()?;
    if names.is_empty() {
        return Ok(());
    }
    if !["config.json", "rootfs"]
        .iter()
        .any(|part| names.iter().any(|n| n == part))
    {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it holds something that is not an OCI bundle; name an empty folder",
        ));
    }
    for part in ["rootfs", "layers", "config.json"] {
        root.remove(Path::new(part))?;
    }
    Ok(())
}

fn create(root: &Root, place: &Path, entries: &[RootEntry]) -> io::Result<()> {
    root.directory(place, 0o755)?;
    let root = root.below(place)?;
    for entry in entries {
        match entry {
            RootEntry::Directory(path) => root.directory(path, 0o755)?,
            RootEntry::Link(path, target) => root.link(path, target)?,
            RootEntry::Whiteout(path) => root.whiteout(path)?,
            RootEntry::File(path, content) => root.file(path, 0o644)?.write_all(content.as_bytes())?,
        }
    }
    Ok(())
}

/// Where the bundle in `folder` names the network namespace of its app: beside all bundles, under a name that no
/// service can have.
pub fn app_network(folder: &Path) -> PathBuf {
    folder.with_file_name("app.net")
}

/// A map as uid_map and gid_map take it; user_namespaces(7).
pub fn id_map(lines: &[LinuxIdMapping]) -> String {
    lines
        .iter()
        .map(|l| format!("{} {} {}\n", l.container_id(), l.host_id(), l.size()))
        .collect()
}
