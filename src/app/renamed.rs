//! What a manifest renames, or leaves behind: carried out where it says so (`was`), and else said.

use super::error::AppError;
use super::load::Loaded;
use crate::host::Dirs;
use crate::manifest::diagnostic::Diagnostic;
use crate::model::path;
use crate::plan::Ledger;
use crate::plan::leftover::{self, What};
use crate::storage::renamed::{self, Moved};
use crate::supervise::client::Client;
use crate::values::ResourceKind;
use std::path::Path;

/// Gives data the names that the manifest has for it now. The ledger is the caller's to write, afterwards.
pub(super) fn carry_out(loaded: &Loaded, dirs: &Dirs, ledger: &mut Ledger) -> Result<(), AppError> {
    let model = &loaded.model;
    let both = |at: &std::ops::Range<usize>, old: &str, new: &str| {
        let diagnostic = Diagnostic::error(at.clone(), format!("both `{old}` and `{new}` have data")).help(format!(
            "look at both (`pysecure data`), and delete one: `pysecure data remove {new}`, or `pysecure data remove {old}`"
        ));
        loaded.at_lines(vec![diagnostic])
    };
    for resource in model.resources.iter().filter(|r| r.source.is_none()) {
        let folder = dirs.resources().join(&resource.name);
        let was = resource.was.as_ref();
        if let Some(was) = was
            && renamed::folder(&dirs.resources().join(was), &folder)? == Moved::Both
        {
            return Err(both(&resource.was_at, was, &resource.name));
        }
        // Until this is written, the old name's record says how the file in it is called.
        let before = was
            .and_then(|was| ledger.paths.get(was))
            .or(ledger.paths.get(&resource.name));
        let before = before.map(|p| path::base(p).to_owned());
        if resource.kind == ResourceKind::File && (was.is_some() || before.is_some()) {
            renamed::file(&folder, before.as_deref(), path::base(&resource.path))?;
        }
        if let Some(was) = was {
            ledger.paths.remove(was);
            if let Some(ownership) = ledger.applied.remove(was) {
                ledger.applied.insert(resource.name.clone(), ownership);
            }
        }
        ledger.paths.insert(resource.name.clone(), resource.path.clone());
    }
    for service in &model.services {
        let Some(was) = &service.was else { continue };
        let (old, new) = (dirs.roots().join(was), dirs.roots().join(&service.name));
        if old.exists() {
            // An overlay that is mounted may not be moved from under a service.
            if dirs.socket().exists() && Client::connect(dirs, &model.app).is_ok() {
                return Err(AppError::RootInUse {
                    was: was.clone(),
                    service: service.name.clone(),
                });
            }
            if renamed::folder(&old, &new)? == Moved::Both {
                return Err(both(&service.span, was, &service.name));
            }
        }
        renamed::logs(dirs, was, &service.name)?;
    }
    Ok(())
}

/// Data that no name of the manifest has any more, and how to go on.
pub fn left_behind(loaded: &Loaded, dirs: &Dirs) -> Vec<Diagnostic> {
    let model = &loaded.model;
    let Ok(ledger) = Ledger::read(dirs, &model.app) else {
        // Said by what comes next.
        return Vec::new();
    };
    // What cannot be looked into as this user may be empty.
    let empty = |path: &Path| !renamed::holds_something(path).unwrap_or(false);
    let mut out = Vec::new();
    for left in leftover::kept(model, &ledger, dirs) {
        let adopted = model.resources.iter().any(|r| r.was.as_ref() == Some(&left.name))
            || model.services.iter().any(|s| s.was.as_ref() == Some(&left.name));
        if left.used || left.what == What::Log || adopted || empty_for_sure(&left.place) {
            continue;
        }
        let seen = left.path.as_ref().map(|p| format!(" ({p})")).unwrap_or_default();
        let what = match left.what {
            What::Root => "what was written to the root of",
            _ => "the data of",
        };
        let kept = format!("{what} `{}`{seen} is kept in {}", left.name, left.place.display());
        let remove = format!("`pysecure data remove {}` deletes it", left.name);
        let next = leftover::successor(model, &left, empty, dirs);
        out.push(match next {
            Some(next) => {
                let (name, span) = match left.what {
                    What::Root => (&model.services[next].name, &model.services[next].span),
                    _ => (&model.resources[next].name, &model.resources[next].span),
                };
                Diagnostic::warning(
                    span.clone(),
                    format!("`{name}` begins empty, and {kept}, where nothing of the manifest uses it"),
                )
                .help(format!(
                    "if it is the same under another name, write was = \"{}\" for `{name}`; else {remove}",
                    left.name
                ))
            }
            None => Diagnostic::warning(
                model.places.app.clone(),
                format!("{kept}, and nothing of the manifest uses it"),
            )
            .help(format!(
                "give it back its name, or write was = \"{}\" where it goes on; {remove}",
                left.name
            )),
        });
    }
    for resource in &model.resources {
        let Some(was) = &resource.was else { continue };
        let there = |name: &str| dirs.resources().join(name).exists();
        if dirs.resources().exists() && !there(was) && !there(&resource.name) {
            out.push(
                Diagnostic::warning(
                    resource.was_at.clone(),
                    format!(
                        "nothing is kept under the name \"{was}\", so `{}` begins empty",
                        resource.name
                    ),
                )
                .help("`pysecure data` lists what is kept"),
            );
        }
    }
    out.extend(renamed_app(loaded, dirs, &ledger));
    out
}

fn empty_for_sure(path: &Path) -> bool {
    renamed::holds_something(path).is_ok_and(|something| !something)
}

/// An app that has no data, whose manifest had another name before.
fn renamed_app(loaded: &Loaded, dirs: &Dirs, ledger: &Ledger) -> Option<Diagnostic> {
    let app = &loaded.model.app;
    let manifest = std::fs::canonicalize(loaded.text.path()).ok()?;
    if !ledger.manifest.as_os_str().is_empty() {
        return None;
    }
    let apps = dirs.app.parent()?;
    let before = std::fs::read_dir(apps).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let other = Ledger::at(&entry.path(), &name).ok()?;
        (name != *app && other.manifest == manifest).then_some(name)
    })?;
    let place = apps.join(&before);
    Some(
        Diagnostic::warning(
            loaded.model.places.app.clone(),
            format!(
                "this manifest was the app `{before}` before, whose data stays in {}",
                place.display()
            ),
        )
        .help(format!(
            "write name = \"{before}\" to go on with it; or, while nothing of it runs, `mv {} {}`",
            place.display(),
            dirs.app.display()
        )),
    )
}
