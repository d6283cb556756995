//! Resources that lie in one another.
//!
//! - The same path twice is an error: two sets of permissions cannot both hold.
//! - A resource inside another is mounted over it, and keeps its own permissions. But whoever may
//!   write a directory may remove and replace what is in it (unlink(2) asks the directory's
//!   permission, not the file's), so nobody may hold `w` on the outer one without `w` on the inner.
//! - A writable file needs its directory: SQLite's journals and write-then-rename make files beside
//!   it. Where nothing else declared lives in that directory, the directory is kept and mounted as a
//!   whole. Else only the file is, and that is worth a warning.

use super::{Model, ResourceId, Subject, path};
use crate::manifest::diagnostic::Diagnostic;
use crate::values::ResourceKind;

/// Directories that a root holds anyway; a resource that covered one would hide what is there.
const SYSTEM: [&str; 20] = [
    "/bin", "/boot", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/media", "/mnt", "/opt", "/root", "/run",
    "/sbin", "/srv", "/tmp", "/usr", "/var", "/var/lib", "/var/tmp",
];

pub(super) fn check(model: &mut Model, found: &mut Vec<Diagnostic>) {
    let mut order: Vec<ResourceId> = ResourceId::all(&model.resources)
        .filter(|r| !model.resources[*r].path.is_empty())
        .collect();
    order.sort_by(|a, b| path::nesting_order(&model.resources[*a].path, &model.resources[*b].path).then(a.cmp(b)));

    let mut enclosing: Vec<ResourceId> = Vec::new();
    for (at, &id) in order.iter().enumerate() {
        let here = model.resources[id].path.clone();
        while enclosing
            .last()
            .is_some_and(|top| !path::is_below(&here, &model.resources[*top].path))
        {
            let top = enclosing.pop();
            if let Some(twin) = top.filter(|t| model.resources[*t].path == here) {
                found.push(
                    Diagnostic::error(
                        model.resources[id].span.clone(),
                        format!(
                            "resource `{}` has the path of `{}`: {here}",
                            model.resources[id].name, model.resources[twin].name
                        ),
                    )
                    .other(model.resources[twin].span.clone(), "first declared here")
                    .help("one path is one resource; give one of them another path, or make them one"),
                );
            }
        }
        let parent = enclosing.last().copied();
        model.resources[id].parent = parent;
        if let Some(parent) = parent {
            inside(model, parent, id, found);
        }
        if SYSTEM.contains(&here.as_str()) {
            let resource = &model.resources[id];
            let (what, help) = match resource.name.starts_with("code:") {
                true => (
                    format!("`code` at {here}"),
                    format!(
                        "show what is in it, each at its own path, such as \"{here}/{}\"",
                        model.app
                    ),
                ),
                false => (
                    format!("resource `{}`", resource.name),
                    format!("put it below, such as \"{here}/{}\"", model.app),
                ),
            };
            let message = format!("{what} would hide the root's own {here}");
            found.push(Diagnostic::error(resource.span.clone(), message).help(help));
        }
        let neighbours = [at.checked_sub(1).map(|i| order[i]), order.get(at + 1).copied()];
        keep_directory(model, id, neighbours.into_iter().flatten(), found);
        enclosing.push(id);
    }
}

/// A file whose directory is its own is kept with it. All that lies below one directory stands
/// together in nesting order, so the two neighbours tell whether there is anything else.
fn keep_directory(
    model: &mut Model,
    id: ResourceId,
    mut neighbours: impl Iterator<Item = ResourceId>,
    found: &mut Vec<Diagnostic>,
) {
    let of = &model.resources[id];
    if of.kind != ResourceKind::File || !model.matrix().by_class(id).writable() {
        return;
    }
    let directory = path::parent(&of.path);
    let shared = neighbours.find(|n| {
        let other = &model.resources[*n].path;
        other == directory || path::is_below(other, directory)
    });
    let reason = if let Some(other) = shared {
        format!("`{}` lives in {directory} too", model.resources[other].name)
    } else if directory == "/" || SYSTEM.contains(&directory) {
        format!("{directory} is the root's own")
    } else if of.source.is_some() {
        "it has a `source`, whose directory is yours".to_owned()
    } else {
        model.resources[id].with_directory = true;
        return;
    };
    found.push(
        Diagnostic::warning(
            of.span.clone(),
            format!("only the file of `{}` can be mounted, not its directory", of.name),
        )
        .label(format!("{reason}; SQLite's journals and write-then-rename will fail"))
        .help(format!(
            "give it a directory of its own, such as {}/{}/{}",
            directory.trim_end_matches('/'),
            of.name,
            path::base(&of.path)
        )),
    );
}

/// Refuses a pair in which a right on the outer directory undoes what the inner resource forbids.
fn inside(model: &Model, outer: ResourceId, inner: ResourceId, found: &mut Vec<Diagnostic>) {
    let (out, inn) = (&model.resources[outer], &model.resources[inner]);
    if out.kind == ResourceKind::File {
        found.push(
            Diagnostic::error(
                inn.span.clone(),
                format!(
                    "the path of `{}` goes through `{}`, which is a file",
                    inn.name, out.name
                ),
            )
            .other(out.span.clone(), "declared here")
            .help(format!(
                "move one of them, or write kind = \"directory\" for `{}`",
                out.name
            )),
        );
        return;
    }
    let matrix = model.matrix();
    let (around, within) = (matrix.by_class(outer), matrix.by_class(inner));
    if !around.writable() {
        return;
    }
    let subjects = matrix.named(outer).chain(matrix.named(inner));
    let named = subjects
        .chain((model.external_uid.is_some()).then_some(Subject::External))
        .find(|s| matrix.perms(*s, outer).write && !matrix.perms(*s, inner).write);
    let who = match named {
        Some(subject) => format!("`{}`", model.subject_name(subject)),
        None if around.perms.global.write && !within.perms.global.write => "every other service".to_owned(),
        None => return,
    };
    found.push(
        Diagnostic::error(
            inn.span.clone(),
            format!(
                "{who} may not write `{}`, but may write the directory that it lies in",
                inn.name
            ),
        )
        .label("whoever writes a directory can remove and replace what is in it")
        .other(out.span.clone(), format!("`{}` grants `w` on {}", out.name, out.path))
        .help(format!(
            "move `{}` out of {}, or take `w` from the directory, or grant it on both",
            inn.name, out.path
        )),
    );
}
