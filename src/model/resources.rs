//! Resources as a manifest declares them, code folders among them: paths, kinds, sources, and which keys go together.

use super::build::{flag, reported};
use super::source::{Base, Found};
use super::{ClassPerms, Exclude, Model, Resource, ResourcePlaces, Subject, path};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At, Code, Manifest};
use crate::values::{Perms, ResourceKind};

/// A resource, and its path and kind as they are written.
struct Declared<'m> {
    path: &'m At<String>,
    kind: Option<&'m At<ResourceKind>>,
    resource: Resource,
}

pub(super) fn declare(model: &mut Model, manifest: &Manifest, base: &Base, found: &mut Vec<Diagnostic>) {
    // What is wrong with patterns comes after what is wrong with places.
    let mut excludes = Vec::new();
    let mut declared: Vec<Declared<'_>> = Vec::new();
    for (name, table) in &manifest.resources {
        declared.push(resource(name, table, base, found, &mut excludes));
    }
    for (path, folder) in &manifest.app.code {
        declared.push(code(path, folder, base, found, &mut excludes));
    }
    for of in declared {
        model.resources.push(placed(of, found));
    }
    found.append(&mut excludes);
    together(manifest, found);
}

fn locate(source: &At<String>, base: &Base, found: &mut Vec<Diagnostic>) -> Option<Found> {
    match base.find(&source.value) {
        Ok(there) => Some(there),
        Err(why) => {
            found.push(Diagnostic::error(
                source.span.clone(),
                format!("source \"{}\" {why}", source.value),
            ));
            None
        }
    }
}

fn resource<'m>(
    name: &At<String>,
    table: &'m types::Resource,
    base: &Base,
    found: &mut Vec<Diagnostic>,
    excludes: &mut Vec<Diagnostic>,
) -> Declared<'m> {
    let mut there_of = |at: &Option<At<String>>| {
        let at = at.as_ref().filter(|at| !reported(at))?;
        locate(at, base, found)
    };
    let there = there_of(&table.source);
    let initial = there_of(&table.initial);
    let perms = |p: &Option<At<Perms>>| p.as_ref().map(|p| p.value).unwrap_or_default();
    fn place<T>(at: &Option<At<T>>, name: &At<String>) -> std::ops::Range<usize> {
        at.as_ref().map_or_else(|| name.span.clone(), |at| at.span.clone())
    }
    let kind = match (&table.kind, there.as_ref().or(initial.as_ref())) {
        (_, Some(there)) => there.kind,
        (Some(kind), None) => kind.value,
        (None, None) => kind_of_name(&table.path.value),
    };
    let resource = Resource {
        name: name.value.clone(),
        path: String::new(),
        kind,
        source: there.map(|t| t.path),
        initial: initial.map(|t| t.path),
        was: table.was.as_ref().filter(|at| !reported(at)).map(|at| at.value.clone()),
        was_at: place(&table.was, name),
        owner: flag(&table.owned_by_external).then_some(Subject::External),
        bundles: Vec::new(),
        declared: ClassPerms {
            owner: perms(&table.owner),
            bundle: perms(&table.bundle),
            global: perms(&table.global),
        },
        chown: flag(&table.chown),
        exclude: Exclude::read(&table.exclude, excludes),
        write_as_root: flag(&table.write_as_root),
        parent: None,
        with_directory: false,
        span: name.span.clone(),
        source_at: place(&table.source, name),
        places: ResourcePlaces {
            owner: place(&table.owner, name),
            bundle: place(&table.bundle, name),
            global: place(&table.global, name),
            owned_by_external: place(&table.owned_by_external, name),
            write_as_root: place(&table.write_as_root, name),
        },
    };
    Declared {
        path: &table.path,
        kind: table.kind.as_ref(),
        resource,
    }
}

fn code<'m>(
    path: &'m At<String>,
    folder: &Code,
    base: &Base,
    found: &mut Vec<Diagnostic>,
    excludes: &mut Vec<Diagnostic>,
) -> Declared<'m> {
    let source = &folder.source;
    let there = if reported(source) {
        None
    } else {
        locate(source, base, found)
    };
    let at = || path.span.clone();
    let resource = Resource {
        name: format!("code:{}", path.value),
        path: String::new(),
        kind: there.as_ref().map_or(ResourceKind::Directory, |t| t.kind),
        source: there.map(|t| t.path),
        initial: None,
        was: None,
        was_at: at(),
        owner: None,
        bundles: Vec::new(),
        declared: ClassPerms {
            global: Perms::READ_AND_RUN,
            ..ClassPerms::default()
        },
        chown: false,
        exclude: Exclude::read(&folder.exclude, excludes),
        write_as_root: false,
        parent: None,
        with_directory: false,
        span: at(),
        source_at: source.span.clone(),
        places: ResourcePlaces {
            owner: at(),
            bundle: at(),
            global: at(),
            owned_by_external: at(),
            write_as_root: at(),
        },
    };
    Declared {
        path,
        kind: None,
        resource,
    }
}

/// With its path in normal form, if it has one.
fn placed(of: Declared<'_>, found: &mut Vec<Diagnostic>) -> Resource {
    let mut resource = of.resource;
    if !reported(of.path) {
        match path::normal(&of.path.value) {
            Ok(normal) => resource.path = normal,
            Err(why) => found.push(Diagnostic::error(
                of.path.span.clone(),
                format!("path \"{}\" {why}", of.path.value),
            )),
        }
    }
    let given = resource.source.is_some() || resource.initial.is_some();
    if let Some(kind) = of.kind.filter(|k| given && k.value != resource.kind) {
        found.push(
            Diagnostic::error(
                kind.span.clone(),
                format!("the source of `{}` is {}", resource.name, kind_name(resource.kind)),
            )
            .help("leave `kind` out, or correct `source`"),
        );
    }
    resource
}

/// Keys that contradict each other, or say nothing without another.
fn together(manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    for (name, table) in &manifest.resources {
        if let (Some(initial), Some(source)) = (&table.initial, &table.source) {
            found.push(
                Diagnostic::error(
                    initial.span.clone(),
                    format!("`{}` has a `source`, which holds what it holds", name.value),
                )
                .other(source.span.clone(), "named here")
                .help("take `initial` out; or take `source` out to have PySecure keep a copy"),
            );
        }
    }
    for (name, table) in &manifest.resources {
        if let Some(first) = table.exclude.first().filter(|_| table.source.is_none()) {
            found.push(
                Diagnostic::error(
                    first.span.clone(),
                    format!("`{}` has no source to leave anything out of", name.value),
                )
                .help("PySecure keeps this resource itself; take `exclude` out, or name a `source`"),
            );
        }
        if let Some(chown) = table.chown.as_ref().filter(|a| a.value && table.source.is_none()) {
            found.push(
                Diagnostic::error(
                    chown.span.clone(),
                    format!("`{}` has no source to change the owner of", name.value),
                )
                .help("PySecure keeps this resource itself; take `chown` out, or name a `source`"),
            );
        }
        if let Some(key) = table
            .write_as_root
            .as_ref()
            .filter(|key| key.value && table.source.is_none())
        {
            found.push(
                Diagnostic::error(
                    key.span.clone(),
                    format!("`{}` has no source that could be root's", name.value),
                )
                .help("PySecure keeps this resource itself; take `write_as_root` out, or name a `source`"),
            );
        }
    }
}

/// Without a source, the path's shape tells: `/data/` and `/data` are directories, `/a.db` a file.
fn kind_of_name(path: &str) -> ResourceKind {
    let base = path.rsplit('/').next().unwrap_or("");
    if base.trim_start_matches('.').contains('.') {
        ResourceKind::File
    } else {
        ResourceKind::Directory
    }
}

pub fn kind_name(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::File => "a file",
        ResourceKind::Directory => "a directory",
    }
}
