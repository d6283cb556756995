//! Overlays that take what a service writes to its root: on disk, or in memory.
//!
//! The kernel takes an overlay's layers from mounts that have a place. What is in memory gets one in a mount namespace
//! that lives only until the overlays are made: it is then theirs alone, and gone with them.

use super::LaunchError;
use super::filesystem::{self, Layers};
use crate::cause::Cause;
use crate::sys;
use crate::sys::helper::{self, Keeps};
use oci_spec::runtime::Mount;
use rustix::fs::{CWD, FileType, Mode};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// As much as `/tmp` may hold.
const SIZE: &std::ffi::CStr = c"mode=0700,size=262144k";

/// An overlay to make.
pub(super) struct Overlay {
    pub source: CString,
    pub target: PathBuf,
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    pub user_attributes: bool,
    pub attributes: u64,
}

impl Overlay {
    /// From the options of a mount, if it is an overlay that can be written to.
    pub(super) fn of(mount: &Mount, options: &[&str], attributes: u64) -> Option<Overlay> {
        let value = |key: &str| options.iter().find_map(|o| o.strip_prefix(key)?.strip_prefix('='));
        let known = |o: &&str| {
            let key = o.split('=').next().unwrap_or_default();
            matches!(key, "lowerdir" | "upperdir" | "workdir" | "userxattr")
        };
        if !options.iter().all(known) {
            return None;
        }
        Some(Overlay {
            source: super::step::c_path(mount.source().as_deref()?)?,
            target: mount.destination().clone(),
            lower: value("lowerdir")?.split(':').map(PathBuf::from).collect(),
            upper: value("upperdir")?.into(),
            work: value("workdir")?.into(),
            user_attributes: options.contains(&"userxattr"),
            attributes,
        })
    }
}

/// Makes them all. `memory`: the directory that is to be in memory; `owner`: whose the uppers are.
pub(super) fn make(
    overlays: &[Overlay],
    memory: Option<&Path>,
    owner: (u32, u32),
) -> Result<Vec<OwnedFd>, LaunchError> {
    match memory {
        None => overlays.iter().map(|o| one(o, owner)).collect(),
        Some(memory) => {
            crate::host::make_private(memory)
                .map_err(|e| LaunchError::system_text("make a place for", memory.display().to_string(), e))?;
            aside(memory, SIZE, overlays.len(), || {
                overlays.iter().map(|o| one(o, owner)).collect()
            })
        }
    }
}

/// An overlay on a detached tree, attached nowhere either; and the layer in memory that takes what is written, which holds so many
/// bytes and files, and is this owner's.
pub(super) fn over(
    lower: OwnedFd,
    (bytes, files): (u64, u64),
    owner: (u32, u32),
    user_attributes: bool,
) -> Result<[OwnedFd; 2], LaunchError> {
    // In the maker's mount namespace, where nothing else is done.
    let memory = Path::new("/tmp");
    let options = CString::new(format!(
        "mode=0700,size={}k,nr_inodes={}",
        bytes.div_ceil(1024),
        files.saturating_add(8)
    ));
    let options = options.map_err(|_| LaunchError::Vanished)?;
    let made = aside(memory, &options, 2, || {
        let place = |name: &str| memory.join(name);
        let wrong = |operation: &'static str| LaunchError::system(operation, "an overlay in memory");
        for name in ["lower", "upper", "work"] {
            rustix::fs::mkdirat(CWD, place(name), Mode::from_raw_mode(0o755)).map_err(wrong("make a layer of"))?;
        }
        let (uid, gid) = (rustix::fs::Uid::from_raw(owner.0), rustix::fs::Gid::from_raw(owner.1));
        rustix::fs::chown(place("upper"), Some(uid), Some(gid)).map_err(wrong("give away a layer of"))?;
        let attach = rustix::mount::MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(&lower, "", CWD, place("lower"), attach).map_err(wrong("attach the tree below"))?;
        let open = |name: &str| super::prepare::open_without_links(&place(name));
        let layers = Layers {
            source: c"overlay".to_owned(),
            lower: vec![open("lower")?],
            upper: Some([open("upper")?, open("work")?]),
            user_attributes,
        };
        let flags = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
        let tree = filesystem::overlay(&layers, flags).map_err(wrong("mount"))?;
        Ok(vec![tree, open("upper")?])
    })?;
    <[OwnedFd; 2]>::try_from(made).map_err(|_| LaunchError::Vanished)
}

/// Makes a mount with the tree at `layer` in memory meanwhile: an overlay takes no layer that lies in another one.
pub(super) fn with_layer_in_memory(
    layer: &Path,
    make: impl FnOnce() -> Result<OwnedFd, LaunchError>,
) -> Result<OwnedFd, LaunchError> {
    let wrong = |e: std::io::Error| LaunchError::system_text("copy the layer", layer.display(), e);
    let mut tree = Vec::new();
    list(layer, Path::new(""), &mut tree).map_err(wrong)?;
    let made = aside(layer, c"mode=0755,size=16384k", 1, || {
        for (path, kind) in &tree {
            let at = layer.join(path);
            let done = match kind {
                FileType::Directory => rustix::fs::mkdirat(CWD, &at, Mode::from_raw_mode(0o755)),
                FileType::CharacterDevice => rustix::fs::mknodat(CWD, &at, FileType::CharacterDevice, Mode::empty(), 0),
                _ => rustix::fs::mknodat(CWD, &at, FileType::RegularFile, Mode::from_raw_mode(0o644), 0),
            };
            done.map_err(LaunchError::system("make in a layer", at.display().to_string()))?;
        }
        Ok(vec![make()?])
    })?;
    made.into_iter().next().ok_or(LaunchError::Vanished)
}

/// What a layer of empty places and whiteouts holds, parents first.
fn list(layer: &Path, inside: &Path, out: &mut Vec<(PathBuf, FileType)>) -> std::io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    for entry in std::fs::read_dir(layer.join(inside))? {
        let entry = entry?;
        let (path, kind) = (inside.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            out.push((path.clone(), FileType::Directory));
            list(layer, &path, out)?;
        } else if kind.is_char_device() {
            out.push((path, FileType::CharacterDevice));
        } else {
            out.push((path, FileType::RegularFile));
        }
    }
    Ok(())
}

fn one(overlay: &Overlay, (uid, gid): (u32, u32)) -> Result<OwnedFd, LaunchError> {
    let wrong =
        |operation: &'static str| LaunchError::system(operation, format!("overlay -> {}", overlay.target.display()));
    for (place, owner) in [(&overlay.upper, Some((uid, gid))), (&overlay.work, None)] {
        let shown = || place.display().to_string();
        if let Some(parent) = place.parent() {
            crate::host::make_private(parent).map_err(|e| LaunchError::system_text("make a place for", shown(), e))?;
        }
        match rustix::fs::mkdirat(CWD, place, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(LaunchError::system("make the directory", shown())(errno)),
        }
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::lchown(place, Some(uid), Some(gid))
                .map_err(|e| LaunchError::system_text("change the owner of", shown(), e))?;
        }
    }
    let open = |path: &PathBuf| super::prepare::open_without_links(path);
    let layers = Layers {
        source: overlay.source.clone(),
        lower: overlay.lower.iter().map(open).collect::<Result<Vec<_>, _>>()?,
        upper: Some([open(&overlay.upper)?, open(&overlay.work)?]),
        user_attributes: overlay.user_attributes,
    };
    filesystem::overlay(&layers, overlay.attributes).map_err(wrong("mount"))
}

/// In a process with a mount namespace of its own, which hands over what it has made, or says why it could not.
fn aside(
    memory: &Path,
    options: &std::ffi::CStr,
    count: usize,
    make: impl FnOnce() -> Result<Vec<OwnedFd>, LaunchError>,
) -> Result<Vec<OwnedFd>, LaunchError> {
    let (ours, theirs) = super::socketpair()?;
    let alone = super::single_threaded("the maker of a root in memory")?;
    let life = || {
        let made = mount_memory(memory, options).and_then(|()| make());
        let _ = hand_over(&theirs, made);
        0
    };
    let maker = helper::start(&alone, libc::CLONE_NEWNS as u64, &Keeps::All, |_| (), life)
        .map_err(LaunchError::system("make a mount namespace for", "a root in memory"))?;
    drop(theirs);
    let taken = take_over(&ours, count);
    let _ = rustix::process::waitpid(Some(maker), rustix::process::WaitOptions::empty());
    taken
}

fn mount_memory(memory: &Path, options: &std::ffi::CStr) -> Result<(), LaunchError> {
    let wrong = |operation: &'static str| LaunchError::system(operation, memory.display().to_string());
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).map_err(wrong("part from the host's mounts, for"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", memory, "tmpfs", flags, options).map_err(wrong("mount a tmpfs on"))
}

fn hand_over(socket: &OwnedFd, made: Result<Vec<OwnedFd>, LaunchError>) -> Result<(), Errno> {
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            return rustix::net::send(socket, error.to_string().as_bytes(), rustix::net::SendFlags::NOSIGNAL).map(drop);
        }
    };
    made.iter()
        .try_for_each(|mount| sys::send_fd(socket.as_fd(), b"+", mount.as_fd()))
}

fn take_over(socket: &OwnedFd, count: usize) -> Result<Vec<OwnedFd>, LaunchError> {
    let wrong = || LaunchError::system("hear from the maker of", "a root in memory");
    let mut out = Vec::with_capacity(count);
    while out.len() < count {
        let mut text = [0u8; 4096];
        let received = match sys::receive_when_there(socket.as_fd(), &mut text) {
            Err(Errno::INTR) => continue,
            other => other.map_err(wrong())?,
        };
        if let Some(mount) = received.fd {
            out.push(mount);
        } else {
            let said = String::from_utf8_lossy(&text[..received.bytes]).into_owned();
            return Err(match said.as_str() {
                "" => LaunchError::Vanished,
                _ => LaunchError::Other {
                    operation: "make",
                    object: "a root in memory".into(),
                    cause: Cause::new(said),
                },
            });
        }
    }
    Ok(out)
}
