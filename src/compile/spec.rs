//! One service's spec, from the default of `specs/config.json` and what the plan says of the service.

use super::accounts;
use super::{limits, writable};
use crate::bundle::{Bundle, LOWEST_PORT, Layer, MEMORY_ANNOTATION, RootEntry, app_network, id_map};
use crate::packages;
use crate::plan::template::{Entry, Template};
use crate::plan::{Identity, Mount as PlannedMount, MountPoint, Plan, Unit};
use crate::values::Network;
use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Mount, Process,
    Spec,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// What a spec cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the default spec in specs/ is broken: {0}")]
    Default(String),
    #[error("service `{service}`: the path {} holds `{character}`, which an overlay's options cannot; rename it", path.display())]
    Character {
        service: String,
        path: PathBuf,
        character: char,
    },
    #[error(
        "service `{service}` is in {groups} bundles, whose GIDs are {ranges} ranges: more than the kernel takes for one user \
         namespace; merge bundles that have the same members"
    )]
    Groups {
        service: String,
        groups: usize,
        ranges: usize,
    },
    #[error(
        "service `{service}`: {} is to be made in its root, but rootfs \"{rootfs}\" brings {} as {kind}, and nothing is made \
         through one; write `exclude = [\"{}\"]` in the recipe to leave that out", path.display(), by.display(), by.display()
    )]
    Blocked {
        service: String,
        rootfs: String,
        path: PathBuf,
        by: PathBuf,
        kind: &'static str,
    },
    #[error("service `{service}`: no rootfs template \"{name}\" was loaded")]
    Template { service: String, name: String },
}

struct Defaults {
    spec: Spec,
    seccomp: LinuxSeccomp,
}

/// Parsed once a process: `up` of a thousand services compiles a thousand times.
fn defaults() -> Result<&'static Defaults, CompileError> {
    static DEFAULTS: OnceLock<Result<Defaults, String>> = OnceLock::new();
    DEFAULTS
        .get_or_init(|| {
            let spec = serde_json::from_str(include_str!("../../specs/config.json")).map_err(|e| e.to_string())?;
            let seccomp = serde_json::from_str(include_str!("../../specs/seccomp.json")).map_err(|e| e.to_string())?;
            Ok(Defaults { spec, seccomp })
        })
        .as_ref()
        .map_err(|e| CompileError::Default(e.clone()))
}

/// The calls that a process may make which only passes on what others say.
pub fn seccomp() -> Result<&'static LinuxSeccomp, CompileError> {
    Ok(&defaults()?.seccomp)
}

/// Compiles one service. `folder` is where its bundle will lie: an overlay names its layers by their path.
pub fn compile(plan: &Plan, service: &Unit, folder: &Path) -> Result<Bundle, CompileError> {
    let defaults = defaults()?;
    let template = plan
        .templates
        .get(&service.rootfs)
        .ok_or_else(|| CompileError::Template {
            service: service.name.clone(),
            name: service.rootfs.clone(),
        })?;
    let mut spec = defaults.spec.clone();
    let mut root = Tree::new();
    let mut layers = Vec::new();

    let mut mounts = spec.mounts_mut().take().unwrap_or_default();
    for mount in &mounts {
        root.directory(mount.destination());
    }
    let overlays_at = mounts.len();
    match &service.writable {
        None => template_mounts(template, &mut root, &mut mounts),
        Some(upper) => writable::tops(template, upper, &mut root, &mut mounts),
    }
    if !service.callees.is_empty() {
        root.directory(Path::new("/run/pysecure/rpc"));
        mounts.push(bind(
            Path::new("/run/pysecure/rpc"),
            &plan.dirs.rpc(&service.name),
            false,
            false,
            false,
        ));
    }
    if packages::seen_by(&service.environment) {
        root.directory(Path::new(packages::FOLDER));
        let source = packages::folder(&plan.dirs.state);
        mounts.push(bind(Path::new(packages::FOLDER), &source, false, false, false));
    }
    if service.notifies() {
        root.directory(Path::new(crate::plan::NOTIFY_FOLDER));
        mounts.push(bind(
            Path::new(crate::plan::NOTIFY_FOLDER),
            &plan.dirs.notify(&service.name),
            false,
            false,
            false,
        ));
    }
    let mut targets: Vec<&PlannedMount> = Vec::new();
    for mount in &service.mounts {
        let inside_another = targets
            .iter()
            .any(|t| crate::values::path::is_below(&mount.target, &t.target));
        let inside_template = template.binds().any(|(b, _)| Path::new(&mount.target).starts_with(b));
        if !inside_another && !inside_template {
            root.mount_point(Path::new(&mount.target), mount.directory);
        }
        mounts.push(if mount.missing.is_empty() && mount.hidden.is_empty() {
            resource(mount)
        } else {
            layered(service, mount, folder, &mut layers)?
        });
        targets.push(mount);
    }
    etc(service, &mut root);
    if let Some((path, by, kind)) = root.blocked.take() {
        return Err(CompileError::Blocked {
            service: service.name.clone(),
            rootfs: service.rootfs.clone(),
            path: Path::new("/").join(path),
            by: Path::new("/").join(by),
            kind,
        });
    }
    if let Some(upper) = &service.writable {
        let made = writable::Overlays::make(plan, service, upper, folder, &mut root, &mut layers)?;
        mounts.splice(overlays_at..overlays_at, made.mounts);
        if let Some(memory) = made.memory {
            spec.set_annotations(Some([(MEMORY_ANNOTATION.to_owned(), memory)].into()));
        }
    }

    *spec.mounts_mut() = Some(mounts);
    spec.set_hostname(Some(service.name.clone()));
    if let Some(process) = spec.process_mut() {
        set_process(process, service);
        limits::replace(process, &service.limits);
    }
    let (uids, gids) = mappings(&service.identity);
    if gids.len() > MOST_RANGES || id_map(&gids).len() >= LONGEST_ID_MAP {
        return Err(CompileError::Groups {
            service: service.name.clone(),
            groups: service.identity.groups.len(),
            ranges: gids.len(),
        });
    }
    let masked = service
        .mounts
        .iter()
        .flat_map(|m| m.masked.iter().map(|inside| format!("{}/{inside}", m.target)));
    if let Some(linux) = spec.linux_mut() {
        let mut paths = linux.masked_paths().clone().unwrap_or_default();
        paths.extend(masked);
        linux.set_masked_paths(Some(paths));
        linux.set_uid_mappings(Some(uids));
        linux.set_gid_mappings(Some(gids));
        let seccomp = super::seccomp::of(plan, service, &defaults.seccomp);
        linux.set_seccomp(Some(seccomp.map_err(|e| CompileError::Default(e.to_string()))?));
        linux.set_resources(limits::resources(&service.limits));
        set_network(linux, service, folder);
    }
    Ok(Bundle {
        spec,
        root: root.entries(),
        layers,
    })
}

fn set_network(linux: &mut Linux, service: &Unit, folder: &Path) {
    let is_network = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Network;
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    match service.network {
        Network::Host => namespaces.retain(|n| !is_network(n)),
        Network::App => {
            for namespace in namespaces.iter_mut().filter(|n| is_network(n)) {
                namespace.set_path(Some(app_network(folder)));
            }
        }
        Network::None => {
            // A service has no right to ports below 1024, which mean nothing in a namespace that is its own.
            if service.publish.iter().any(|p| p.port < 1024) {
                let all = [(LOWEST_PORT.to_owned(), "0".to_owned())];
                linux.set_sysctl(Some(all.into()));
            }
        }
    }
    linux.set_namespaces(Some(namespaces));
}

fn set_process(process: &mut Process, service: &Unit) {
    let Identity {
        uid,
        gid,
        ref groups,
        root_inside,
        ..
    } = service.identity;
    let mut user = process.user().clone();
    user.set_uid(if root_inside { 0 } else { uid });
    user.set_gid(if root_inside { 0 } else { gid });
    user.set_umask(Some(service.umask));
    user.set_additional_gids((!groups.is_empty()).then(|| groups.iter().map(|g| g.0).collect()));
    process.set_user(user);
    process.set_args(Some(service.command.clone()));
    process.set_cwd(PathBuf::from(&service.directory));
    process.set_env(Some(
        service.environment.iter().map(|(k, v)| format!("{k}={v}")).collect(),
    ));
}

/// Inside → outside, for UIDs and GIDs: the service's own, its peers', its bundles', and a 0, which is the keeper's or,
/// for a service that is root inside, its own.
fn mappings(identity: &Identity) -> (Vec<LinuxIdMapping>, Vec<LinuxIdMapping>) {
    let Identity {
        uid,
        gid,
        ref groups,
        ref peers,
        keeper,
        root_inside,
    } = *identity;
    let (own_uid, own_gid) = if root_inside { (0, 0) } else { (uid, gid) };
    let (mut uids, mut gids): (BTreeMap<u32, u32>, BTreeMap<u32, u32>) = match keeper {
        // One id in all, which is 0 in the outer namespace.
        None => ([(own_uid, 0)].into(), [(own_gid, 0)].into()),
        Some(keeper) if root_inside => (
            [(0, uid), (keeper.uid, keeper.uid)].into(),
            [(0, gid), (keeper.gid, keeper.gid)].into(),
        ),
        Some(keeper) => (
            [(0, keeper.uid), (uid, uid)].into(),
            [(0, keeper.gid), (gid, gid)].into(),
        ),
    };
    uids.extend(peers.iter().map(|(uid, _)| (*uid, *uid)));
    gids.extend(groups.iter().map(|(gid, _)| (*gid, *gid)));
    (ranges(&mut uids), ranges(&mut gids))
}

/// Neighbours become one range: the kernel takes few of them, and they are written at once.
fn ranges(map: &mut BTreeMap<u32, u32>) -> Vec<LinuxIdMapping> {
    let mut out: Vec<[u32; 3]> = Vec::new();
    for (inside, outside) in std::mem::take(map) {
        match out.last_mut() {
            Some([i, o, size]) if i.checked_add(*size) == Some(inside) && o.checked_add(*size) == Some(outside) => {
                *size += 1;
            }
            _ => out.push([inside, outside, 1]),
        }
    }
    out.into_iter().map(|[i, o, size]| range(i, o, size)).collect()
}

/// The most lines of a map of ids; user_namespaces(7).
const MOST_RANGES: usize = 340;
/// A map is one write(2) of less than a page; user_namespaces(7).
const LONGEST_ID_MAP: usize = 4096;

fn range(inside: u32, outside: u32, size: u32) -> LinuxIdMapping {
    // All three fields are set, so the builder cannot fail.
    LinuxIdMappingBuilder::default()
        .container_id(inside)
        .host_id(outside)
        .size(size)
        .build()
        .unwrap_or_default()
}

fn template_mounts(template: &Template, root: &mut Tree, mounts: &mut Vec<Mount>) {
    for entry in &template.entries {
        match entry {
            Entry::Bind {
                path,
                source,
                directory,
            } => {
                root.mount_point(path, *directory);
                mounts.push(bind(path, source, *directory, false, true));
            }
            Entry::Link { path, target } => root.link(path, target),
            Entry::Directory { path } => root.directory(path),
        }
    }
}

pub(super) fn bind(target: &Path, source: &Path, recursive: bool, writable: bool, executable: bool) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(target.to_owned());
    mount.set_typ(Some("bind".into()));
    mount.set_source(Some(source.to_owned()));
    mount.set_options(Some(options(recursive, writable, executable)));
    mount
}

/// The recursive forms hold whatever is mounted below the source to the same; below a file and in a directory of
/// our own nothing can be. This launcher takes both for the same, but crun 1.8 does not: for the recursive ones it
/// opens the mount as a directory and for reading, so files and other services' directories need the plain ones,
/// of which it forgets all but `ro` where it cannot reach the source from inside.
fn options(recursive: bool, writable: bool, executable: bool) -> Vec<String> {
    let plain = ["bind", if writable { "rw" } else { "ro" }, "nosuid", "nodev", "noexec"];
    let deep = [
        "rbind",
        if writable { "rw" } else { "rro" },
        "rnosuid",
        "rnodev",
        "rnoexec",
    ];
    let all = if recursive { deep } else { plain };
    let wanted = if executable { 4 } else { 5 };
    all[..wanted].iter().map(|o| (*o).to_owned()).collect()
}

fn resource(planned: &PlannedMount) -> Mount {
    let recursive = planned.directory && !planned.foreign;
    let mut mount = bind(
        Path::new(&planned.target),
        &planned.source,
        recursive,
        planned.writable,
        planned.executable,
    );
    if let Some(map) = planned.idmap {
        // Without the option `idmap`, which is of 1.2: crun 1.8 takes no higher number than 1.1, which knows the maps.
        mount.set_uid_mappings(Some(swapped(map.disk.uid, map.seen.uid)));
        mount.set_gid_mappings(Some(swapped(map.disk.gid, map.seen.gid)));
    }
    mount
}

/// A mount's map that shows each of two ids as the other, and every other one as itself: whoever makes a file has an
/// id that is mapped (EOVERFLOW else), and files of third parties stay what their modes say.
fn swapped(one: u32, other: u32) -> Vec<LinuxIdMapping> {
    let (low, high) = (one.min(other), one.max(other));
    if low == high {
        return vec![range(0, 0, u32::MAX)];
    }
    let lines = [
        (0, 0, low),
        (low, high, 1),
        (low + 1, low + 1, high - low - 1),
        (high, low, 1),
        (high + 1, high + 1, u32::MAX - high - 1),
    ];
    let there = lines.into_iter().filter(|(_, _, size)| *size > 0);
    there
        .map(|(inside, outside, size)| range(inside, outside, size))
        .collect()
}

/// Commas and colons part an overlay's options.
pub(super) fn fit_for_options(service: &Unit, path: &Path) -> Result<(), CompileError> {
    match path.to_string_lossy().chars().find(|c| matches!(c, ':' | ',' | '\\')) {
        None => Ok(()),
        Some(character) => Err(CompileError::Character {
            service: service.name.clone(),
            path: path.to_owned(),
            character,
        }),
    }
}

/// The source under a layer of empty mount points, and of whiteouts for what it is not to show: an overlay without an
/// upper, so nothing can be written. By name, so it holds whatever is put in the place of what is hidden.
fn layered(
    service: &Unit,
    planned: &PlannedMount,
    folder: &Path,
    layers: &mut Vec<Layer>,
) -> Result<Mount, CompileError> {
    let name = layers.len().to_string();
    let layer = folder.join("layers").join(&name);
    for path in [&planned.source, &layer] {
        fit_for_options(service, path)?;
    }
    let mut tree = Tree::new();
    for MountPoint { path, directory } in &planned.missing {
        tree.mount_point(Path::new(path), *directory);
    }
    for path in &planned.hidden {
        tree.insert(Path::new(path), RootEntry::Whiteout);
    }
    layers.push(Layer {
        name,
        entries: tree.entries(),
        owner: None,
    });
    let lower = format!("lowerdir={}:{}", layer.display(), planned.source.display());
    let mut options: Vec<String> = vec![lower, "ro".into(), "nosuid".into(), "nodev".into()];
    if !planned.executable {
        options.push("noexec".into());
    }
    let mut mount = Mount::default();
    mount.set_destination(PathBuf::from(&planned.target));
    mount.set_typ(Some("overlay".into()));
    mount.set_source(Some("overlay".into()));
    mount.set_options(Some(options));
    Ok(mount)
}

fn etc(service: &Unit, root: &mut Tree) {
    root.file("/etc/passwd", accounts::passwd(service));
    root.file("/etc/group", accounts::group(service));
    root.file("/etc/hosts", accounts::hosts(service));
    root.file("/etc/hostname", format!("{}\n", service.name));
    root.file("/etc/nsswitch.conf", accounts::NSSWITCH.to_owned());
    root.file("/etc/resolv.conf", service.resolver.clone());
    root.directory(Path::new("/sys"));
    root.directory(Path::new("/var"));
    root.link(Path::new("/var/tmp"), Path::new("/tmp"));
    root.link(Path::new("/var/run"), Path::new("/run"));
    root.link(Path::new("/etc/mtab"), Path::new("/proc/mounts"));
}

/// A tree of empty places, in which the first entry for a path stays and parents come by themselves.
pub(super) struct Tree {
    entries: BTreeMap<PathBuf, RootEntry>,
    /// What could not be made, for what the root brings stands in its way: its path, that one's, and what that is.
    blocked: Option<(PathBuf, PathBuf, &'static str)>,
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree {
            entries: BTreeMap::new(),
            blocked: None,
        }
    }

    fn insert(&mut self, path: &Path, entry: impl FnOnce(PathBuf) -> RootEntry) {
        let path = path.strip_prefix("/").unwrap_or(path);
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let there = self
                .entries
                .entry(parent.to_owned())
                .or_insert_with(|| RootEntry::Directory(parent.to_owned()));
            let kind = match there {
                RootEntry::Directory(_) => continue,
                RootEntry::Link(..) => "a link",
                RootEntry::File(..) => "a file",
                RootEntry::Whiteout(_) => "nothing",
            };
            self.blocked.get_or_insert((path.to_owned(), parent.to_owned(), kind));
        }
        let wanted = entry(path.to_owned());
        let kind = match (self.entries.get(path), &wanted) {
            (None, _) => {
                self.entries.insert(path.to_owned(), wanted);
                return;
            }
            // A link is there for who finds nothing else.
            (_, RootEntry::Link(..) | RootEntry::Whiteout(_)) => return,
            (Some(RootEntry::Directory(_)), RootEntry::Directory(_)) => return,
            (Some(RootEntry::File(..)), RootEntry::File(..)) => return,
            (Some(RootEntry::Directory(_)), _) => "a directory",
            (Some(RootEntry::Link(..)), _) => "a link",
            (Some(RootEntry::File(..)), _) => "a file",
            (Some(RootEntry::Whiteout(_)), _) => "nothing",
        };
        self.blocked.get_or_insert((path.to_owned(), path.to_owned(), kind));
    }

    pub(super) fn directory(&mut self, path: &Path) {
        // Below /dev everything is made anew in a tmpfs, by whoever mounts that.
        if !path.starts_with("/dev") || path == Path::new("/dev") {
            self.insert(path, RootEntry::Directory);
        }
    }

    fn file(&mut self, path: &str, content: String) {
        self.insert(Path::new(path), |p| RootEntry::File(p, content));
    }

    pub(super) fn link(&mut self, path: &Path, target: &Path) {
        self.insert(path, |p| RootEntry::Link(p, target.to_owned()));
    }

    pub(super) fn mount_point(&mut self, path: &Path, directory: bool) {
        if directory {
            self.directory(path);
        } else {
            self.insert(path, |p| RootEntry::File(p, String::new()));
        }
    }

    /// Takes out what lies below the directories at the top, but for those that something is mounted on at once; under
    /// each directory's name, with paths relative to it.
    pub(super) fn take_below_tops(&mut self, but: &[&str]) -> BTreeMap<PathBuf, Vec<RootEntry>> {
        let mut out: BTreeMap<PathBuf, Vec<RootEntry>> = BTreeMap::new();
        let mut left = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.entries) {
            let mut parts = path.iter();
            let top = PathBuf::from(parts.next().unwrap_or_default());
            let inside = parts.as_path().to_owned();
            if but.iter().any(|b| top == Path::new(b)) {
                left.insert(path, entry);
            } else if inside.as_os_str().is_empty() {
                if matches!(entry, RootEntry::Directory(_)) {
                    out.entry(top).or_default();
                }
                left.insert(path, entry);
            } else {
                out.entry(top).or_default().push(match entry {
                    RootEntry::Directory(_) => RootEntry::Directory(inside),
                    RootEntry::File(_, content) => RootEntry::File(inside, content),
                    RootEntry::Link(_, target) => RootEntry::Link(inside, target),
                    RootEntry::Whiteout(_) => RootEntry::Whiteout(inside),
                });
            }
        }
        self.entries = left;
        out
    }

    /// Sorted by path, so parents come before children.
    pub(super) fn entries(self) -> Vec<RootEntry> {
        self.entries.into_values().collect()
    }
}
