//! An OCI bundle: `config.json`, the skeleton of the root that it mounts things on, and the layers that
//! supply mount points which a read-only source lacks and hide what it should not show.

use oci_spec::runtime::Spec;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

/// Below a bundle's folder: where what a service writes to its root goes, if it is not kept.
pub const MEMORY: &str = "memory";

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
}

impl Bundle {
    /// `config.json` as it is written.
    pub fn config(&self) -> serde_json::Result<String> {
        let mut text = serde_json::to_string_pretty(&self.spec)?;
        text.push('\n');
        Ok(text)
    }

    /// Writes the bundle to `folder`, in place of one that is there already.
    /// `folder` must be the caller's alone: entries are made by path.
    pub fn write(&self, folder: &Path) -> io::Result<()> {
        clear(folder)?;
        let mut directory = fs::DirBuilder::new();
        // 0755, not 0700: id 0 of the service's namespace is not the host's, and another runtime has to
        // pass here as that.
        directory.mode(0o755).recursive(true);
        directory.create(folder)?;
        create(&folder.join("rootfs"), &self.root)?;
        // runc 1.1 gives a tmpfs the mode of the directory that it is mounted on, whatever its options say.
        let shared = folder.join("rootfs/tmp");
        if shared.is_dir() {
            fs::set_permissions(shared, fs::Permissions::from_mode(0o1777))?;
        }
        self.write_layers(folder)?;
        let config = self.config().map_err(io::Error::other)?;
        fs::write(folder.join("config.json"), config)
    }

    /// Writes only what the launcher reads from disk: the layers, of which most services have none.
    pub fn write_layers(&self, folder: &Path) -> io::Result<()> {
        for layer in &self.layers {
            let place = folder.join("layers").join(&layer.name);
            // Of an earlier start, whose overlay is gone or keeps what it needs.
            match fs::remove_dir_all(&place) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => create(&place, &layer.entries)?,
            }
            if let Some((uid, gid)) = layer.owner {
                let inside = layer.entries.iter().map(|e| place.join(e.path()));
                for path in inside.chain([place.clone()]) {
                    lchown(path, Some(uid), Some(gid))?;
                }
            }
        }
        Ok(())
    }
}

/// Removes an earlier bundle; refuses to remove anything else.
fn clear(folder: &Path) -> io::Result<()> {
    match fs::read_dir(folder) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
        Ok(mut entries) => {
            if entries.next().is_none() {
                return Ok(());
            }
        }
    }
    if !folder.join("config.json").is_file() && !folder.join("rootfs").is_dir() {
        return Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            "it holds something that is not an OCI bundle; name an empty folder",
        ));
    }
    for part in ["rootfs", "layers"] {
        match fs::remove_dir_all(folder.join(part)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    match fs::remove_file(folder.join("config.json")) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn create(root: &Path, entries: &[RootEntry]) -> io::Result<()> {
    let mut directory = fs::DirBuilder::new();
    directory.mode(0o755).recursive(true);
    directory.create(root)?;
    directory.recursive(false);
    for entry in entries {
        let at = root.join(entry.path());
        match entry {
            RootEntry::Directory(_) => directory.create(at)?,
            RootEntry::Link(_, target) => symlink(target, at)?,
            RootEntry::Whiteout(_) => whiteout(&at)?,
            RootEntry::File(_, content) => {
                let mut file = fs::File::options().write(true).create_new(true).mode(0o644).open(at)?;
                io::Write::write_all(&mut file, content.as_bytes())?;
            }
        }
    }
    Ok(())
}

/// A device that is none; making it takes no right (mknod(2), since Linux 5.8).
fn whiteout(at: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    Ok(mknodat(CWD, at, FileType::CharacterDevice, Mode::empty(), 0)?)
}
