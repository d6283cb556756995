//! Resources that PySecure keeps, which begin empty, in the place of files that the folder around them brings.

use super::source::Base;
use super::{Model, ResourceId, path};
use crate::manifest::diagnostic::Diagnostic;
use crate::values::ResourceKind;
use std::path::Path;

/// A warning for each. `exclude` of the folder says that what it brings there is not meant to be seen.
pub(super) fn check(model: &Model, base: &Base, found: &mut Vec<Diagnostic>) {
    let all = ResourceId::all(&model.resources).zip(&model.resources);
    for (id, resource) in all.filter(|(_, r)| r.source.is_none() && r.initial.is_none()) {
        let Some(outer) = resource.parent.map(|p| &model.resources[p]) else {
            continue;
        };
        let Some(folder) = outer.source.as_ref().filter(|_| outer.kind == ResourceKind::Directory) else {
            continue;
        };
        let below = |path: &str| path[outer.path.len()..].trim_start_matches('/').to_owned();
        let own = below(&resource.path);
        // A file's folder is mounted with it, unless that is the outer one itself.
        let mounted = match path::is_below(resource.mount_path(), &outer.path) {
            true => below(resource.mount_path()),
            false => own.clone(),
        };
        if outer.exclude.hides(Path::new(&own)) || outer.exclude.hides(Path::new(&mounted)) {
            continue;
        }
        let brought = [&own, &mounted]
            .into_iter()
            .find(|inside| holds_something(&folder.join(inside)));
        let Some(inside) = brought else { continue };
        let there = folder.join(inside);
        let shown = match there.strip_prefix(base.path()) {
            Ok(relative) => format!("./{}", relative.display()),
            Err(_) => there.display().to_string(),
        };
        let (initial, also) = if inside == &own {
            (shown.clone(), String::new())
        } else {
            let file = path::base(&resource.path);
            (format!("{shown}/{file}"), format!(" (and all beside {file})"))
        };
        let source = match model.matrix().by_class(id).writable() {
            true => format!("`initial = \"{initial}\"` to begin with a copy of it"),
            false => format!("`source = \"{initial}\"` to have these files"),
        };
        found.push(
            Diagnostic::warning(
                resource.span.clone(),
                format!(
                    "`{}` begins empty, and hides {shown}{also}, which `{}` brings",
                    resource.name, outer.name
                ),
            )
            .other(outer.span.clone(), "brought from here")
            .help(format!(
                "write {source}; if it is to begin empty, leave that out of the folder: exclude = [\"/{inside}\"]"
            )),
        );
    }
}

/// A file with something in it, or a folder with something other than empty folders in it. One that cannot be read is no
/// reason to be silent.
fn holds_something(path: &Path) -> bool {
    crate::walk::any(path, |entry| {
        entry.kind() != rustix::fs::FileType::Directory && entry.stat.st_size > 0
    })
}
