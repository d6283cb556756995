//! What is planned to be seen → mounts of the spec.

use super::error::CompileError;
use super::identity::range;
use super::tree::Tree;
use crate::bundle::{Layer, RootEntry};
use crate::packages;
use crate::plan::template::{Entry, Template};
use crate::plan::{Mount as PlannedMount, MountPoint, NOTIFY_FOLDER, Plan, SYSLOG_FOLDER, Unit};
use crate::values::path::is_below;
use oci_spec::runtime::{LinuxIdMapping, Mount};
use std::path::{Path, PathBuf};

pub(super) fn template_mounts(template: &Template, root: &mut Tree, mounts: &mut Vec<Mount>) {
    for entry in &template.entries {
        match entry {
            Entry::Bind {
                path,
                source,
                directory,
            } => {
                root.mount_point(path, *directory);
                mounts.push(bind(path, source, programs(*directory)));
            }
            Entry::Link { path, target } => root.link(path, target),
            Entry::Directory { path } => root.directory(path),
        }
    }
}

/// Where a unit finds those whom it may call.
const CALLEES: &str = "/run/pysecure/rpc";
/// Where a unit finds the sandboxes that it may use.
const SANDBOXES: &str = "/run/pysecure/sandbox";

/// Folders of ours: sockets of those it may call, of sandboxes that it may use, packages that the program carries, the socket of its supervisor.
pub(super) fn ours(plan: &Plan, service: &Unit, root: &mut Tree, mounts: &mut Vec<Mount>) {
    let callees = (!service.callees.is_empty()).then(|| (CALLEES, plan.dirs.rpc(&service.name)));
    let sandboxes = (!service.sandboxes.is_empty()).then(|| (SANDBOXES, plan.dirs.sandboxes(&service.name)));
    let carried =
        packages::seen_by(&service.environment).then(|| (packages::FOLDER, packages::folder(&plan.dirs.state)));
    let notify = service
        .notifies()
        .then(|| (NOTIFY_FOLDER, plan.dirs.notify(&service.name)));
    let syslog = service
        .logs_messages()
        .then(|| (SYSLOG_FOLDER, plan.dirs.syslog(&service.name)));
    let all = callees
        .into_iter()
        .chain(sandboxes)
        .chain(carried)
        .chain(notify)
        .chain(syslog);
    for (place, source) in all {
        root.directory(Path::new(place));
        mounts.push(bind(Path::new(place), &source, Bind::default()));
    }
}

/// Its grants, and the places in its root that they are mounted on.
pub(super) fn granted(
    service: &Unit,
    template: &Template,
    folder: &Path,
    root: &mut Tree,
    layers: &mut Vec<Layer>,
    mounts: &mut Vec<Mount>,
) -> Result<(), CompileError> {
    let mut targets: Vec<&PlannedMount> = Vec::new();
    for mount in &service.mounts {
        let inside_another = targets.iter().any(|t| is_below(&mount.target, &t.target));
        let inside_template = template.binds().any(|(b, _)| Path::new(&mount.target).starts_with(b));
        if !inside_another && !inside_template {
            root.mount_point(Path::new(&mount.target), mount.directory);
        }
        mounts.push(if mount.missing.is_empty() && mount.hidden.is_empty() {
            resource(mount)
        } else {
            layered(service, mount, folder, layers)?
        });
        targets.push(mount);
    }
    Ok(())
}

/// As what a root brings is bound.
pub(super) fn programs(recursive: bool) -> Bind {
    Bind {
        recursive,
        writable: false,
        executable: true,
    }
}

/// How something is bound. Nothing of it may be a device or set ids.
#[derive(Clone, Copy, Default)]
pub(super) struct Bind {
    /// With what is mounted below it.
    pub recursive: bool,
    pub writable: bool,
    pub executable: bool,
}

pub(super) fn bind(target: &Path, source: &Path, with: Bind) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(target.to_owned());
    mount.set_typ(Some("bind".into()));
    mount.set_source(Some(source.to_owned()));
    mount.set_options(Some(options(with)));
    mount
}

/// The recursive forms hold whatever is mounted below the source to the same; below a file and in a directory of
/// our own nothing can be. This launcher takes both for the same, but crun 1.8 does not: for the recursive ones it
/// opens the mount as a directory and for reading, so files and other services' directories need the plain ones,
/// of which it forgets all but `ro` where it cannot reach the source from inside.
fn options(with: Bind) -> Vec<String> {
    let Bind {
        recursive,
        writable,
        executable,
    } = with;
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
        Bind {
            recursive,
            writable: planned.writable,
            executable: planned.executable,
        },
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
pub fn swapped(one: u32, other: u32) -> Vec<LinuxIdMapping> {
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
