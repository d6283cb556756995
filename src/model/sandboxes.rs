//! Sandboxes as a manifest declares them: who may have code run in which, and what a run may reach and use.
//!
//! A run is nobody's but its own: it has none of the grants of the service that asked for it. What it may do follows from the
//! keys of its sandbox alone.

use super::build::{Names, reported};
use super::source::Base;
use super::{Model, ResourceId, SandboxId, ServiceId, Subject};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At, Manifest};
use crate::values::{Isolation, Perms, ResourceKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::time::Duration;

const UIDS: u32 = 16;
/// In less, no interpreter starts.
const LEAST_MEMORY: u64 = 8 << 20;

/// What grants something is the model's own, as of a [`Resource`](super::Resource).
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub name: String,
    /// Sorted.
    pub(super) used_by: Vec<ServiceId>,
    pub(super) userdirs: Option<ResourceId>,
    /// Host paths, absolute and free of links.
    pub(super) packages: Vec<PathBuf>,
    pub rootfs: String,
    /// Modules that are imported before any run begins.
    pub preload: Vec<String>,
    /// How many ids there are for runs.
    pub uids: u32,
    /// How many sandboxes are kept ready.
    pub ready: u32,
    pub isolation: Isolation,
    pub limits: SandboxLimits,
    pub span: Range<usize>,
    pub places: SandboxPlaces,
}

/// Where a sandbox's keys stand; its name where one is left out.
#[derive(Clone, Debug, Default)]
pub struct SandboxPlaces {
    /// As [`Sandbox::used_by`].
    pub used_by: Vec<Range<usize>>,
    pub userdirs: Range<usize>,
    /// As [`Sandbox::packages`].
    pub packages: Vec<Range<usize>>,
    pub rootfs: Range<usize>,
}

/// What one run may use, where the manifest says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxLimits {
    pub wall: Option<Duration>,
    pub cpu: Option<Duration>,
    /// Of a session, in all.
    pub session_wall: Option<Duration>,
    pub session_cpu: Option<Duration>,
    /// Bytes.
    pub memory: Option<u64>,
    pub processes: Option<u32>,
    /// Bytes.
    pub output: Option<u64>,
    /// Bytes.
    pub file_size: Option<u64>,
    pub files: Option<u32>,
    /// Bytes.
    pub userdir: Option<u64>,
    /// Bytes.
    pub tmp: Option<u64>,
}

/// What a run has of its own, and sees nothing of the host's below.
const OF_A_RUN: [&str; 6] = ["/dev", "/home/user", "/proc", "/run/pysecure", "/sys", "/tmp"];

/// What a run may do in its directory.
pub(super) const IN_USERDIR: Perms = Perms {
    read: true,
    write: true,
    exec: true,
    connect: false,
};

pub(super) fn declare(
    model: &mut Model,
    manifest: &Manifest,
    base: &Base,
    names: &Names<'_>,
    found: &mut Vec<Diagnostic>,
) {
    for (name, table) in &manifest.sandboxes {
        not_taken(name, manifest, found);
        let sandbox = sandbox(name, table, base, names, found);
        model.sandboxes.push(sandbox);
    }
}

/// With its defaults filled in.
fn sandbox(
    name: &At<String>,
    table: &types::Sandbox,
    base: &Base,
    names: &Names<'_>,
    found: &mut Vec<Diagnostic>,
) -> Sandbox {
    let place = |at: Option<&Range<usize>>| at.unwrap_or(&name.span).clone();
    let (used_by, used_by_at) = used_by(name, table, names, found);
    let (packages, packages_at) = packages(table, base, found);
    let uids = table.uids.as_ref().map_or(UIDS, |at| at.value);
    let ready = table.ready.as_ref().map_or(0, |at| at.value);
    if let Some(at) = table.ready.as_ref().filter(|_| ready > uids) {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!("`{}` keeps {ready} sandboxes ready, but has ids for {uids}", name.value),
            )
            .help(format!("write uids = {ready}, or a smaller number here")),
        );
    }
    Sandbox {
        name: name.value.clone(),
        used_by,
        userdirs: userdirs(table, names, found),
        packages,
        rootfs: rootfs(name, table, found),
        preload: preload(table, found),
        uids,
        ready,
        isolation: isolation(table, found),
        limits: limits(name, table, found),
        span: name.span.clone(),
        places: SandboxPlaces {
            used_by: used_by_at,
            userdirs: place(table.userdirs.as_ref().map(|at| &at.span)),
            packages: packages_at,
            rootfs: place(table.jail.as_ref().map(|at| &at.span)),
        },
    }
}

/// A name stands for one subject in `[assert]` and `access`.
fn not_taken(name: &At<String>, manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    let other = manifest
        .services
        .iter()
        .find(|(service, _)| service.value == name.value);
    if let Some((service, _)) = other {
        found.push(
            Diagnostic::error(name.span.clone(), format!("a service is called `{}`, too", name.value))
                .other(service.span.clone(), "declared here")
                .help("give one of them another name: rules and rows name both alike"),
        );
    }
    super::services::not_reserved("sandbox", name, found);
}

/// Sorted, with the place of each.
fn used_by(
    name: &At<String>,
    table: &types::Sandbox,
    names: &Names<'_>,
    found: &mut Vec<Diagnostic>,
) -> (Vec<ServiceId>, Vec<Range<usize>>) {
    let mut users = BTreeMap::new();
    for at in table.used_by.iter().filter(|at| !reported(at)) {
        match names.service(&at.value) {
            None if matches!(names.subject(&at.value), Some(Subject::External | Subject::Operator)) => found.push(
                Diagnostic::error(
                    at.span.clone(),
                    format!(
                        "`{}` runs on the host, where no sandbox of the manifest is to be had",
                        at.value
                    ),
                )
                .help("name services that PySecure starts; others have `pysecure sandbox`"),
            ),
            None => found.push(names.unknown("service", at)),
            Some(service) => {
                if users.insert(service, at.span.clone()).is_some() {
                    found.push(
                        Diagnostic::error(at.span.clone(), format!("`{}` is named twice", at.value))
                            .help("once is enough"),
                    );
                }
            }
        }
    }
    if table.used_by.is_empty() {
        found.push(
            Diagnostic::warning(name.span.clone(), format!("no service may use `{}`", name.value))
                .help("write used_by = [\"SERVICE\"]"),
        );
    }
    (users.keys().copied().collect(), users.into_values().collect())
}

fn userdirs(table: &types::Sandbox, names: &Names<'_>, found: &mut Vec<Diagnostic>) -> Option<ResourceId> {
    let at = table.userdirs.as_ref().filter(|at| !reported(at))?;
    let resource = names.resource(&at.value);
    if resource.is_none() {
        found.push(names.unknown("resource", at));
    }
    resource
}

/// With the place of each.
fn packages(table: &types::Sandbox, base: &Base, found: &mut Vec<Diagnostic>) -> (Vec<PathBuf>, Vec<Range<usize>>) {
    let mut out = (Vec::new(), Vec::new());
    for at in table.packages.iter().filter(|at| !reported(at)) {
        let mut wrong = |why: &str| {
            found.push(
                Diagnostic::error(at.span.clone(), format!("packages \"{}\" {why}", at.value))
                    .help("name a folder that Python can import from, such as a virtual environment's site-packages"),
            );
        };
        match base.find(&at.value) {
            Err(why) => wrong(&why),
            Ok(there) if there.kind != ResourceKind::Directory => wrong("is a file"),
            Ok(there) if there.path.to_str().is_none_or(|path| path.contains(':')) => {
                wrong("has a name that cannot stand in sys.path");
            }
            Ok(there) if OF_A_RUN.iter().any(|own| there.path.starts_with(own)) => {
                wrong(&format!(
                    "is {}, where a run has files of its own",
                    there.path.display()
                ));
            }
            Ok(there) => {
                out.0.push(there.path);
                out.1.push(at.span.clone());
            }
        }
    }
    out
}

fn rootfs(name: &At<String>, table: &types::Sandbox, found: &mut Vec<Diagnostic>) -> String {
    let rootfs = table.jail.as_ref().map_or("host", |at| at.value.as_str());
    let landlock = table.isolation.as_ref().filter(|at| at.value == Isolation::Landlock);
    if let (Some(isolation), Some(at)) = (landlock, table.jail.as_ref().filter(|_| rootfs != "host")) {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!("`{}` cannot have a root of its own: that takes namespaces", name.value),
            )
            .other(isolation.span.clone(), "Landlock alone is asked for here")
            .help("leave `jail` out, or `isolation`"),
        );
    }
    rootfs.to_owned()
}

/// What is asked for is had or refused, and nothing else is put in its place.
fn isolation(table: &types::Sandbox, found: &mut Vec<Diagnostic>) -> Isolation {
    let Some(at) = &table.isolation else {
        return Isolation::default();
    };
    if at.value == Isolation::Landlock {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                "a manifest's sandboxes are not isolated by Landlock alone",
            )
            .help("leave `isolation` out: services need namespaces, so that sandboxes beside them have them, too; `pysecure doctor` says what this host lacks"),
        );
    }
    at.value
}

fn preload(table: &types::Sandbox, found: &mut Vec<Diagnostic>) -> Vec<String> {
    let is_module = |text: &str| {
        let part = |part: &str| {
            let mut letters = part.chars();
            letters.next().is_some_and(|c| c.is_alphabetic() || c == '_')
                && letters.all(|c| c.is_alphanumeric() || c == '_')
        };
        text.split('.').all(part)
    };
    let named = table.preload.iter().filter(|at| !reported(at));
    let (good, wrong): (Vec<_>, Vec<_>) = named.partition(|at| is_module(&at.value));
    found.extend(wrong.iter().map(|at| {
        Diagnostic::error(at.span.clone(), format!("\"{}\" is no name of a module", at.value))
            .help("write it as `import` takes it, such as \"numpy\" or \"xml.etree\"")
    }));
    good.into_iter().map(|at| at.value.clone()).collect()
}

fn limits(name: &At<String>, table: &types::Sandbox, found: &mut Vec<Diagnostic>) -> SandboxLimits {
    let Some(limits) = &table.limits else {
        return SandboxLimits::default();
    };
    fn value<T: Copy>(at: &Option<At<T>>) -> Option<T> {
        at.as_ref().map(|at| at.value)
    }
    for (key, at) in [
        ("wall", &limits.wall),
        ("cpu", &limits.cpu),
        ("session_wall", &limits.session_wall),
        ("session_cpu", &limits.session_cpu),
    ] {
        if let Some(at) = at.as_ref().filter(|at| at.value.is_zero()) {
            found.push(
                Diagnostic::error(at.span.clone(), format!("nothing runs in `{key}` = 0"))
                    .help(format!("write a time, such as {key} = \"10s\"")),
            );
        }
    }
    if let Some(at) = limits.memory.as_ref().filter(|at| at.value < LEAST_MEMORY) {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!(
                    "no interpreter of `{}` starts in {} bytes of memory",
                    name.value, at.value
                ),
            )
            .help("write a size with its unit, such as memory = \"256M\""),
        );
    }
    if let Some(at) = limits.userdir.as_ref().filter(|_| table.userdirs.is_none()) {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!("runs in `{}` have no directory that could be limited", name.value),
            )
            .help("name the resource that directories lie below as `userdirs`, or take this out"),
        );
    }
    SandboxLimits {
        wall: value(&limits.wall),
        cpu: value(&limits.cpu),
        session_wall: value(&limits.session_wall),
        session_cpu: value(&limits.session_cpu),
        memory: value(&limits.memory),
        processes: value(&limits.processes),
        output: value(&limits.output),
        file_size: value(&limits.file_size),
        files: value(&limits.files),
        userdir: value(&limits.userdir),
        tmp: value(&limits.tmp),
    }
}

/// What only makes sense together with resources and their owners.
pub(super) fn check(model: &Model, found: &mut Vec<Diagnostic>) {
    for id in SandboxId::all(&model.sandboxes) {
        let sandbox = &model.sandboxes[id];
        if let Some(resource) = sandbox.userdirs {
            below(model, id, resource, found);
        }
        for (folder, span) in sandbox.packages.iter().zip(&sandbox.places.packages) {
            shown(model, folder, span, found);
        }
    }
}

/// A run writes as the resource's owner, so it has to be one that PySecure knows, and that may write.
fn below(model: &Model, id: SandboxId, resource: ResourceId, found: &mut Vec<Diagnostic>) {
    let (sandbox, of) = (&model.sandboxes[id], &model.resources[resource]);
    let owner = model.matrix().by_class(resource);
    let wrong = if of.kind != ResourceKind::Directory {
        Some((
            format!("`{}` is a file, so no directory lies below it", of.name),
            "name a directory, or write kind = \"directory\" for it".to_owned(),
        ))
    } else if !matches!(owner.owner, Some(Subject::Service(_) | Subject::External)) {
        Some((
            format!(
                "nobody owns `{}`, and runs of `{}` make files as its owner",
                of.name, sandbox.name
            ),
            "list it in a service's owner_resources".to_owned(),
        ))
    } else if !(owner.perms.owner.read && owner.perms.owner.write) {
        Some((
            format!(
                "the owner of `{}` may not read and write it, and runs of `{}` do so as its owner",
                of.name, sandbox.name
            ),
            format!("write owner = \"rw\" for `{}`", of.name),
        ))
    } else if owner.as_root {
        Some((
            format!(
                "what is made in `{}` is root's, and code that is not trusted would make it",
                of.name
            ),
            "take `write_as_root` out, or name another resource".to_owned(),
        ))
    } else {
        None
    };
    if let Some((message, help)) = wrong {
        let at = sandbox.places.userdirs.clone();
        found.push(
            Diagnostic::error(at, message)
                .other(of.span.clone(), "declared here")
                .help(help),
        );
    }
}

/// A folder of packages is shown to code that is not trusted: it may hold nothing that not every service may read.
fn shown(model: &Model, folder: &std::path::Path, span: &Range<usize>, found: &mut Vec<Diagnostic>) {
    for (id, resource) in ResourceId::all(&model.resources).zip(&model.resources) {
        let Some(source) = &resource.source else { continue };
        if !source.starts_with(folder) && !folder.starts_with(source) {
            continue;
        }
        let hides = !resource.exclude.is_empty();
        if model.matrix().by_class(id).perms.global.read && !hides {
            continue;
        }
        let why = match hides {
            true => format!("of which something is left out for all services (`{}`)", resource.name),
            false => format!("which not every service may read (`{}`)", resource.name),
        };
        found.push(
            Diagnostic::error(span.clone(), format!("runs would see {}, {why}", source.display()))
                .other(resource.source_at.clone(), "named here")
                .help("put the packages into a folder of their own"),
        );
    }
}
