//! Spec → steps: every source opened, every string terminated, every number computed, so that nothing is
//! left to decide in the new process.
//!
//! Sources are opened through no link at all (openat2(2), RESOLVE_NO_SYMLINKS) and mounted by descriptor:
//! a path that was swapped for a link since it was checked is refused, and cannot be swapped after that.

use super::cgroup::Group;
use super::error::LaunchError;
use super::filesystem::{self, Layers};
use super::step::Program;
use super::step::{ExecContext, Step, Strings, c_path};
use super::writable::Overlay;
use super::{Launcher, Request, landlock};
use crate::bundle::{CGROUPS_ANNOTATION, MEMORY_ANNOTATION, RootEntry};
use crate::host::idmap::IdMaps;
use crate::sys;
use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType, Mount, PosixRlimit, PosixRlimitType, Spec};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, OpenTreeFlags};
use rustix::process::{Gid, Resource, Rlimit};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Host nodes that a service's /dev has; number, as null(4) and the like have it.
const DEVICES: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

const DEV_LINKS: [(&str, &str); 6] = [
    // What is not there is nothing that could be spoken to.
    ("log", "/run/pysecure/syslog/log.sock"),
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

pub(super) fn steps(
    launcher: &Launcher,
    request: &Request<'_>,
    group: Option<&Group>,
    idmaps: &mut IdMaps,
) -> Result<Vec<Step>, LaunchError> {
    let spec = request.spec;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| LaunchError::Spec("has no `linux` section".into()))?;
    let has = |kind: LinuxNamespaceType| linux.namespaces().iter().flatten().any(|n| n.typ() == kind);
    let mut steps = Vec::with_capacity(64);
    if let Some(group) = group {
        steps.push(Step::Cgroup {
            entrances: group.entrances()?,
            namespace: has(LinuxNamespaceType::Cgroup),
        });
    }
    let root = spec
        .root()
        .as_ref()
        .ok_or_else(|| LaunchError::Spec("has no `root`".into()))?;
    steps.push(Step::Root {
        tree: build_root(request.root, root.readonly().unwrap_or(false))?,
    });
    mount_all(launcher, spec, linux, idmaps, &mut steps)?;
    if let Some(group) = group {
        cgroups(spec, group, &mut steps)?;
    }
    if let Some((tree, place)) = request.shown {
        let again = rustix::io::fcntl_dupfd_cloexec(tree, 3);
        steps.push(Step::Attach {
            tree: again.map_err(LaunchError::system("copy", "a descriptor"))?,
            target: terminated(place)?,
            place: None,
        });
    }
    steps.push(Step::Leave);
    let own_network = super::network::own(linux);
    sysctls(linux, own_network, &mut steps)?;
    for path in linux.masked_paths().iter().flatten() {
        steps.push(Step::Mask {
            path: terminated(Path::new(path))?,
        });
    }
    for path in linux.readonly_paths().iter().flatten() {
        steps.push(Step::ReadOnly {
            path: terminated(Path::new(path))?,
        });
    }
    if let Some(name) = spec.hostname().as_ref().filter(|_| has(LinuxNamespaceType::Uts)) {
        steps.push(Step::Hostname(terminated(Path::new(name))?));
    }
    // What makes copies of itself speaks to nobody, and a supervisor has no right to bring up the loopback of a network that is in no
    // user namespace of its own.
    if own_network && !matches!(request.program, Program::Forking) {
        steps.push(Step::Loopback);
    }
    if request.hold {
        steps.push(Step::Hold);
    }
    if let Program::Joining(_) = request.program {
        steps.push(Step::Rules);
    }
    if request.terminal {
        let user = spec
            .process()
            .as_ref()
            .map(|p| p.user())
            .ok_or_else(|| LaunchError::Spec("has no `process`".into()))?;
        steps.push(Step::Terminal {
            uid: user.uid(),
            gid: user.gid(),
        });
    }
    Ok(steps)
}

/// Everything that is mounted on the root. What is made inside of the new namespaces belongs to id 0 there, which has to exist
/// first.
fn mount_all(
    launcher: &Launcher,
    spec: &Spec,
    linux: &Linux,
    idmaps: &mut IdMaps,
    steps: &mut Vec<Step>,
) -> Result<(), LaunchError> {
    let ids_zero = linux.uid_mappings().iter().flatten().any(|m| m.container_id() == 0);
    let clear_groups = launcher.groups_allowed;
    let mut awaited = false;
    let mut uppers = uppers(spec, linux)?.into_iter();
    for mount in spec.mounts().iter().flatten() {
        let kind = mount.typ().as_deref().unwrap_or("bind");
        let made_inside = !matches!(kind, "bind" | "none" | "overlay");
        if made_inside && !awaited {
            steps.push(Step::AwaitIds {
                root: ids_zero,
                clear_groups,
            });
            awaited = true;
        }
        mount_steps(mount, kind, &mut uppers, idmaps, steps)?;
    }
    if !awaited {
        steps.push(Step::AwaitIds {
            root: ids_zero,
            clear_groups,
        });
    }
    Ok(())
}

/// The service's own cgroup, to be read.
fn cgroups(spec: &Spec, group: &Group, steps: &mut Vec<Step>) -> Result<(), LaunchError> {
    let annotations = spec.annotations().as_ref();
    if !annotations.is_some_and(|all| all.contains_key(CGROUPS_ANNOTATION)) {
        return Ok(());
    }
    let flags = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;
    for (path, target) in group.shown() {
        // Hosts have links from one controller to another that is mounted with it.
        let path = path.canonicalize().unwrap_or(path);
        steps.push(Step::Attach {
            tree: open_detached(&path, flags, None)?,
            target: terminated(&target)?,
            place: None,
        });
    }
    Ok(())
}

/// What the spec sets below /proc/sys, of which nothing may be the host's.
fn sysctls(linux: &Linux, own_network: bool, steps: &mut Vec<Step>) -> Result<(), LaunchError> {
    for (key, value) in linux.sysctl().iter().flatten() {
        // What is not of a namespace of its own would be the host's.
        if !key.starts_with("net.") || !own_network || key.contains('/') {
            return Err(LaunchError::Spec(format!(
                "sets {key}, which this launcher does not do there"
            )));
        }
        steps.push(Step::Sysctl {
            path: terminated(&Path::new("/proc/sys").join(key.replace('.', "/")))?,
            value: terminated(Path::new(value))?,
        });
    }
    Ok(())
}

/// The step that mounts another /dev/pts like the spec's.
pub(super) fn terminals(spec: &Spec) -> Result<Step, LaunchError> {
    let mount = spec
        .mounts()
        .iter()
        .flatten()
        .find(|m| m.typ().as_deref() == Some("devpts"));
    let mount = mount.ok_or_else(|| LaunchError::Spec("mounts no devpts, so it has no terminals".into()))?;
    let mut steps = Vec::new();
    mount_steps(
        mount,
        "devpts",
        &mut std::iter::empty(),
        &mut IdMaps::default(),
        &mut steps,
    )?;
    steps.pop().ok_or(LaunchError::Vanished)
}

/// The overlays of a spec that can be written to, made, in their order.
fn uppers(spec: &Spec, linux: &Linux) -> Result<Vec<OwnedFd>, LaunchError> {
    let overlays: Vec<Overlay> = spec
        .mounts()
        .iter()
        .flatten()
        .filter(|mount| mount.typ().as_deref() == Some("overlay"))
        .filter_map(|mount| {
            let (set, rest) = attributes(mount.options().as_deref().unwrap_or_default());
            Overlay::of(mount, &rest, set)
        })
        .collect();
    if overlays.is_empty() {
        return Ok(Vec::new());
    }
    let user = spec
        .process()
        .as_ref()
        .map(|p| p.user())
        .ok_or_else(|| LaunchError::Spec("has no `process`".into()))?;
    let outside = |map: &Option<Vec<LinuxIdMapping>>, id: u32| {
        let inside = |l: &&LinuxIdMapping| id.checked_sub(l.container_id()).is_some_and(|n| n < l.size());
        let line = map.iter().flatten().find(inside);
        line.map_or(id, |l| l.host_id() + (id - l.container_id()))
    };
    let owner = (
        outside(linux.uid_mappings(), user.uid()),
        outside(linux.gid_mappings(), user.gid()),
    );
    let memory = spec.annotations().as_ref().and_then(|a| a.get(MEMORY_ANNOTATION));
    super::writable::make(&overlays, memory.map(Path::new), owner)
}

fn mount_steps(
    mount: &Mount,
    kind: &str,
    uppers: &mut impl Iterator<Item = OwnedFd>,
    idmaps: &mut IdMaps,
    steps: &mut Vec<Step>,
) -> Result<(), LaunchError> {
    let target = terminated(mount.destination())?;
    let place = place_within(mount.destination(), steps)?;
    let options = mount.options().as_deref().unwrap_or_default();
    let (attributes, rest) = attributes(options);
    match kind {
        "bind" | "none" => {
            known(&rest, mount)?;
            let source = source(mount)?;
            let idmap = match (mount.uid_mappings(), mount.gid_mappings()) {
                (Some(uids), Some(gids)) => Some(namespace(idmaps, uids, gids)?),
                _ => None,
            };
            steps.push(Step::Attach {
                tree: open_detached(source, attributes, idmap)?,
                target,
                place,
            });
        }
        "overlay" => steps.push(Step::Attach {
            tree: match Overlay::of(mount, &rest, attributes) {
                Some(_) => uppers.next().ok_or(LaunchError::Vanished)?,
                None => overlay(mount, &rest, attributes)?,
            },
            target,
            place,
        }),
        "proc" | "tmpfs" | "devpts" | "mqueue" | "sysfs" => {
            let mut options = vec![(filesystem::SOURCE.to_owned(), Some(terminated(source(mount)?)?))];
            for option in rest {
                options.push(match option.split_once('=') {
                    Some((key, value)) => (terminated(Path::new(key))?, Some(terminated(Path::new(value))?)),
                    None => (terminated(Path::new(option))?, None),
                });
            }
            let attributes = MountAttrFlags::from_bits_retain(attributes as u32);
            steps.push(Step::Filesystem {
                kind: terminated(Path::new(kind))?,
                options,
                attributes,
                target,
            });
            if kind == "tmpfs" && mount.destination() == Path::new("/dev") {
                devices(steps)?;
            }
        }
        other => {
            return Err(LaunchError::Spec(format!(
                "mounts a {other} on {}, which this launcher does not do",
                mount.destination().display()
            )));
        }
    }
    Ok(())
}

/// What a source shows, attached nowhere.
pub(super) fn detached(
    source: BorrowedFd<'_>,
    path: &Path,
    map: Option<&(Vec<LinuxIdMapping>, Vec<LinuxIdMapping>)>,
    idmaps: &mut IdMaps,
) -> Result<OwnedFd, LaunchError> {
    let idmap = map.map(|(uids, gids)| namespace(idmaps, uids, gids)).transpose()?;
    clone_of(source, path, libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV, idmap)
}

/// The place of a mount that lies in an earlier one, opened here and now: the new namespace's id 0 need have no way
/// through a directory that is another service's.
fn place_within(destination: &Path, steps: &[Step]) -> Result<Option<OwnedFd>, LaunchError> {
    let outer = steps.iter().rev().find_map(|step| match step {
        Step::Attach { tree, target, .. } => {
            let inside = destination.strip_prefix(target.to_str().ok()?).ok()?;
            Some((tree, inside))
        }
        _ => None,
    });
    let Some((tree, inside)) = outer else { return Ok(None) };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(tree, inside, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map(Some)
        .map_err(LaunchError::system(
            "open the mount point",
            destination.display().to_string(),
        ))
}

/// Nodes and links of /dev, and the places for what is mounted in it.
fn devices(steps: &mut Vec<Step>) -> Result<(), LaunchError> {
    for (name, major, minor) in DEVICES {
        let path = Path::new("/dev").join(name);
        let node = open_without_links(&path)?;
        let found = rustix::fs::fstat(&node).map_err(LaunchError::system("look at", path.display().to_string()))?;
        let is_device = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::CharacterDevice;
        if !is_device || found.st_rdev != rustix::fs::makedev(major, minor) {
            return Err(LaunchError::Spec(format!(
                "needs the device {}, but the host's is another one; restore it (`mknod`, udev)",
                path.display()
            )));
        }
        let tree = clone_of(
            node.as_fd(),
            &path,
            libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NOEXEC,
            None,
        )?;
        steps.push(Step::Device {
            tree,
            path: terminated(&path)?,
        });
    }
    for (name, to) in DEV_LINKS {
        steps.push(Step::Link {
            path: terminated(&Path::new("/dev").join(name))?,
            to: terminated(Path::new(to))?,
        });
    }
    for name in ["pts", "shm"] {
        steps.push(Step::Directory {
            path: terminated(&Path::new("/dev").join(name))?,
        });
    }
    Ok(())
}

/// Mount flags among OCI's mount options (config.md, "Linux mount options"), and the options that are left.
fn attributes(options: &[String]) -> (u64, Vec<&str>) {
    let mut set = 0;
    let mut rest = Vec::new();
    for option in options {
        set |= match option.as_str() {
            "ro" | "rro" => libc::MOUNT_ATTR_RDONLY,
            "nosuid" | "rnosuid" => libc::MOUNT_ATTR_NOSUID,
            "nodev" | "rnodev" => libc::MOUNT_ATTR_NODEV,
            "noexec" | "rnoexec" => libc::MOUNT_ATTR_NOEXEC,
            "strictatime" => libc::MOUNT_ATTR_STRICTATIME,
            "rw" | "relatime" | "bind" | "rbind" | "idmap" | "ridmap" | "private" | "rprivate" => 0,
            other => {
                rest.push(other);
                0
            }
        };
    }
    (set, rest)
}

fn source(mount: &Mount) -> Result<&Path, LaunchError> {
    let source = mount.source().as_deref();
    source.ok_or_else(|| LaunchError::Spec(format!("mounts nothing on {}", mount.destination().display())))
}

/// An option that is not carried out would be a promise.
fn known(rest: &[&str], mount: &Mount) -> Result<(), LaunchError> {
    match rest.first() {
        None => Ok(()),
        Some(option) => Err(LaunchError::Spec(format!(
            "mounts {} with the option {option}, which this launcher does not do there",
            mount.destination().display()
        ))),
    }
}

pub(super) fn open_without_links(path: &Path) -> Result<OwnedFd, LaunchError> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
        .map_err(LaunchError::system("open", path.display().to_string()))
}

/// A user namespace with these maps, for a mount.
fn namespace<'m>(
    idmaps: &'m mut IdMaps,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
) -> Result<BorrowedFd<'m>, LaunchError> {
    let made = idmaps.namespace(uids, gids);
    made.map_err(LaunchError::system("make an id map for", "a mount (idmap)"))
}

/// Makes an idmapped mount, and lets it go.
pub(super) fn idmapped(path: &Path, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<(), LaunchError> {
    let mut idmaps = IdMaps::default();
    open_detached(path, 0, Some(namespace(&mut idmaps, uids, gids)?)).map(drop)
}

/// A copy of the mount tree at `path`, attached nowhere.
fn open_detached(path: &Path, attributes: u64, idmap: Option<BorrowedFd<'_>>) -> Result<OwnedFd, LaunchError> {
    clone_of(open_without_links(path)?.as_fd(), path, attributes, idmap)
}

fn clone_of(
    source: BorrowedFd<'_>,
    path: &Path,
    attributes: u64,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<OwnedFd, LaunchError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = rustix::mount::open_tree(source, c"", flags)
        .map_err(LaunchError::system("take a mount of", path.display().to_string()))?;
    let operation = if idmap.is_some() {
        "mount with other ids (idmap)"
    } else {
        "set the mount's flags of"
    };
    sys::mount_setattr(tree.as_fd(), sys::MountAttributes { set: attributes, idmap })
        .map_err(LaunchError::system(operation, path.display().to_string()))?;
    Ok(tree)
}

/// The root that everything is mounted on, in memory: it costs no disk, needs no name, and is gone with its last
/// user. Made here, so what is in it belongs to the launcher and not to the service's namespace.
fn build_root(entries: &[RootEntry], readonly: bool) -> Result<OwnedFd, LaunchError> {
    let wrong = |operation: &'static str| LaunchError::system(operation, "the service's root");
    let safe = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let options = [(c"mode", Some(c"0755")), (c"size", Some(c"1m"))];
    let root = filesystem::new(c"tmpfs", &options, safe).map_err(wrong("make"))?;
    // What an image brings lies among these: its links are the service's to follow, and not the launcher's.
    let root = crate::beneath::Root::fresh(root);
    for entry in entries {
        let wrong =
            |errno| LaunchError::system("make in the service's root", entry.path().display().to_string())(errno);
        match entry {
            RootEntry::Directory(path) => root.directory(path, 0o755).map_err(wrong)?,
            RootEntry::Link(path, target) => root.link(path, target).map_err(wrong)?,
            // Nothing lies below this root that it could hide.
            RootEntry::Whiteout(_) => return Err(wrong(Errno::INVAL)),
            RootEntry::File(path, content) => {
                let file = root.file(path, 0o644).map_err(wrong)?;
                if !content.is_empty() {
                    rustix::io::write(&file, content.as_bytes()).map_err(wrong)?;
                }
            }
        }
    }
    let root = root.into_inner();
    let attributes = if readonly { libc::MOUNT_ATTR_RDONLY } else { 0 };
    sys::mount_setattr(
        root.as_fd(),
        sys::MountAttributes {
            set: attributes,
            idmap: None,
        },
    )
    .map_err(wrong("set the mount's flags of"))?;
    Ok(root)
}

/// An overlay without an upper, made here: its layers are opened as the launcher, through no link.
fn overlay(mount: &Mount, options: &[&str], attributes: u64) -> Result<OwnedFd, LaunchError> {
    let target = mount.destination().as_path();
    let (lower, rest): (Vec<&str>, Vec<&str>) = options.iter().partition(|o| o.starts_with("lowerdir="));
    known(&rest, mount)?;
    let lower = lower.first().and_then(|o| o.strip_prefix("lowerdir="));
    let lower = lower
        .ok_or_else(|| LaunchError::Spec(format!("mounts an overlay without `lowerdir` on {}", target.display())))?;
    let places: Vec<&Path> = lower.split(':').map(Path::new).collect();
    let (ours, below) = places.split_first().unwrap_or((&target, &[]));
    if below.iter().any(|lower| ours.starts_with(lower)) {
        return super::writable::with_layer_in_memory(ours, || lowers(mount, &places, attributes));
    }
    lowers(mount, &places, attributes)
}

fn lowers(mount: &Mount, places: &[&Path], attributes: u64) -> Result<OwnedFd, LaunchError> {
    let target = mount.destination();
    let wrong = |operation: &'static str| LaunchError::system(operation, format!("overlay -> {}", target.display()));
    let layers = places
        .iter()
        .map(|layer| open_without_links(layer))
        .collect::<Result<Vec<_>, _>>()?;
    let layers = Layers {
        source: terminated(source(mount)?)?,
        lower: layers,
        upper: None,
        user_attributes: false,
    };
    filesystem::overlay(&layers, attributes).map_err(wrong("mount"))
}

/// The way from inside the namespaces to the program.
pub(super) fn exec_context(
    launcher: &mut Launcher,
    spec: &Spec,
    stdio: [BorrowedFd<'_>; 3],
    sockets: &[(BorrowedFd<'_>, &str)],
    terminal: bool,
) -> Result<ExecContext, LaunchError> {
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| LaunchError::Spec("has no `process`".into()))?;
    let linux = spec
        .linux()
        .as_ref()
        .ok_or_else(|| LaunchError::Spec("has no `linux` section".into()))?;
    let user = process.user();
    let mut environment = process.env().clone().unwrap_or_default();
    if !sockets.is_empty() {
        // sd_listen_fds(3). The program is always the second process of its PID namespace.
        let names: Vec<&str> = sockets.iter().map(|(_, name)| *name).collect();
        environment.extend([
            format!("LISTEN_FDS={}", sockets.len()),
            "LISTEN_PID=2".into(),
            format!("LISTEN_FDNAMES={}", names.join(":")),
        ]);
    }
    if terminal && !environment.iter().any(|v| v.starts_with("TERM=")) {
        environment.push(format!(
            "TERM={}",
            std::env::var("TERM").unwrap_or_else(|_| "xterm".into())
        ));
    }
    let args = process.args().as_deref().unwrap_or_default();
    let program = args
        .first()
        .ok_or_else(|| LaunchError::Spec("has no `process.args`".into()))?;
    let terminated_all = |strings: &[String]| {
        strings
            .iter()
            .map(|s| terminated(Path::new(s)))
            .collect::<Result<Vec<_>, _>>()
    };
    let mut kept = Vec::new();
    let least = (3 + sockets.len()).max(64) as i32;
    let mut above = |fd: BorrowedFd<'_>| {
        let copy = rustix::io::fcntl_dupfd_cloexec(fd, least).map_err(LaunchError::system("copy", "a descriptor"))?;
        let number = copy.as_raw_fd();
        kept.push(copy);
        Ok::<_, LaunchError>(number)
    };
    let null = stdio.map(is_null);
    let stdio = [above(stdio[0])?, above(stdio[1])?, above(stdio[2])?];
    let sockets = sockets.iter().map(|(fd, _)| above(*fd)).collect::<Result<_, _>>()?;
    Ok(ExecContext {
        uid: user.uid(),
        gid: user.gid(),
        groups: launcher.groups_allowed.then(|| groups(spec)),
        umask: user.umask().unwrap_or(0o077),
        capabilities: super::capabilities::of_spec(process)
            .map_err(|name| LaunchError::Spec(format!("gives {name}, which this launcher gives nobody")))?,
        rlimits: rlimits(process.rlimits().as_deref().unwrap_or_default())?,
        directory: terminated(process.cwd())?,
        joins: false,
        in_place: false,
        candidates: candidates(program, &environment)?,
        arguments: launcher.arguments.clone(),
        argv: Strings::new(terminated_all(args)?),
        environment: Strings::new(terminated_all(&environment)?),
        landlock: landlock::rules(launcher.landlock_abi, spec.mounts().as_deref().unwrap_or_default()),
        filter: launcher.filters.program(linux.seccomp().as_ref())?,
        stdio,
        null,
        sockets,
        _kept: kept,
    })
}

/// Is it null(4)? There is one in every root, and they are all the same.
pub fn is_null(fd: BorrowedFd<'_>) -> bool {
    let device = rustix::fs::makedev(1, 3);
    rustix::fs::fstat(fd).is_ok_and(|found| {
        rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::CharacterDevice
            && found.st_rdev == device
    })
}

fn groups(spec: &Spec) -> Vec<Gid> {
    let user = spec.process().as_ref().map(|p| p.user());
    let gids = user.and_then(|u| u.additional_gids().as_ref());
    gids.into_iter().flatten().map(|g| Gid::from_raw(*g)).collect()
}

fn resource(kind: PosixRlimitType) -> Option<Resource> {
    Some(match kind {
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitAs => Resource::As,
        _ => return None,
    })
}

/// Sees to it that services started from here can have this limit: it raises this process' own hard limit where it
/// may. `Err` is the most that they can have.
pub fn raise_limit(wanted: &PosixRlimit) -> Result<(), u64> {
    let Some(resource) = resource(wanted.typ()) else {
        return Ok(());
    };
    let held = rustix::process::getrlimit(resource);
    let Some(most) = held.maximum.filter(|most| *most < wanted.hard()) else {
        return Ok(());
    };
    let raised = Rlimit {
        current: held.current,
        maximum: Some(wanted.hard()),
    };
    rustix::process::setrlimit(resource, raised).map_err(|_| most)
}

/// A limit above what this process may raise to is lowered to that: stricter, and never in the way.
fn rlimits(wanted: &[PosixRlimit]) -> Result<Vec<(Resource, Rlimit)>, LaunchError> {
    wanted
        .iter()
        .map(|limit| {
            let resource = resource(limit.typ())
                .ok_or_else(|| LaunchError::Spec(format!("sets {:?}, which this launcher does not do", limit.typ())))?;
            let most = rustix::process::getrlimit(resource).maximum.unwrap_or(u64::MAX);
            let maximum = limit.hard().min(most);
            Ok((
                resource,
                Rlimit {
                    current: Some(limit.soft().min(maximum)),
                    maximum: Some(maximum),
                },
            ))
        })
        .collect()
}

/// Where a program may lie: itself if it has a slash, else its name in each folder of PATH.
fn candidates(program: &str, environment: &[String]) -> Result<Vec<CString>, LaunchError> {
    if program.contains('/') {
        return Ok(vec![terminated(Path::new(program))?]);
    }
    let path = environment
        .iter()
        .find_map(|v| v.strip_prefix("PATH="))
        .unwrap_or("/usr/bin:/bin");
    path.split(':')
        .filter(|folder| !folder.is_empty())
        .map(|folder| terminated(&Path::new(folder).join(program)))
        .collect()
}

fn terminated(text: &Path) -> Result<CString, LaunchError> {
    c_path(text).ok_or_else(|| LaunchError::Spec(format!("holds a NUL byte in {:?}", text.display().to_string())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A folder `place` with a folder, and links to that and to another folder outside.
    fn planted() -> (tempfile::TempDir, tempfile::TempDir) {
        let (inside, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir_all(inside.path().join("real/in")).unwrap();
        std::fs::create_dir(outside.path().join("in")).unwrap();
        symlink(outside.path(), inside.path().join("away")).unwrap();
        symlink("real", inside.path().join("aside")).unwrap();
        symlink("/proc/self/fd/0", inside.path().join("magic")).unwrap();
        symlink(
            format!("../../../../../..{}", outside.path().display()),
            inside.path().join("dots"),
        )
        .unwrap();
        (inside, outside)
    }

    #[test]
    fn a_place_within_a_mount_is_reached_through_no_link() {
        let (inside, _outside) = planted();
        let tree = rustix::fs::open(inside.path(), OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
        let steps = [Step::Attach {
            tree,
            target: c"/data".into(),
            place: None,
        }];
        let within = |path: &str| place_within(Path::new(path), &steps);
        assert!(within("/data/real/in").unwrap().is_some());
        assert!(within("/elsewhere").unwrap().is_none());
        for path in ["away", "away/in", "aside", "aside/in", "dots/in", "magic"] {
            assert!(inside.path().join(path).symlink_metadata().is_ok(), "{path}");
            assert!(within(&format!("/data/{path}")).is_err(), "{path}");
        }
    }

    #[test]
    fn a_source_is_reached_through_no_link() {
        let (inside, _outside) = planted();
        assert!(open_without_links(&inside.path().join("real/in")).is_ok());
        for path in ["away", "away/in", "aside", "aside/in", "dots/in", "magic"] {
            let path = inside.path().join(path);
            assert!(path.symlink_metadata().is_ok(), "{}", path.display());
            assert!(open_without_links(&path).is_err(), "{}", path.display());
        }
    }

    #[test]
    fn every_flag_is_the_mounts() {
        let of = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|o| (*o).to_owned()).collect();
            let (set, rest) = attributes(&options);
            (set, rest.len())
        };
        for (one, deep, flag) in [
            ("ro", "rro", libc::MOUNT_ATTR_RDONLY),
            ("nosuid", "rnosuid", libc::MOUNT_ATTR_NOSUID),
            ("nodev", "rnodev", libc::MOUNT_ATTR_NODEV),
            ("noexec", "rnoexec", libc::MOUNT_ATTR_NOEXEC),
        ] {
            assert_eq!((of(&[one]), of(&[deep])), ((flag, 0), (flag, 0)), "{one}");
        }
        assert_eq!(of(&["strictatime"]), (libc::MOUNT_ATTR_STRICTATIME, 0));
        assert_eq!(of(&["rbind", "rw", "relatime", "mode=755"]), (0, 1));
    }
}
