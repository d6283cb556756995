//! Data of an app under names that its manifest no longer has: renamed there, or gone from it.

use super::Ledger;
use crate::host::Dirs;
use crate::model::{Model, ServiceId, path};
use crate::values::ResourceKind;
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    Resource,
    /// What a service has written to its root, with `writable = "persistent"`.
    Root,
    Log,
}

impl What {
    pub fn word(self) -> &'static str {
        match self {
            What::Resource => "resource",
            What::Root => "root",
            What::Log => "log",
        }
    }
}

/// A folder, or a log, that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub what: What,
    /// The resource's or service's.
    pub name: String,
    pub place: PathBuf,
    /// A resource's path as services saw it last, where that is on record.
    pub path: Option<String>,
    /// Has the manifest something of this name that it belongs to?
    pub used: bool,
}

/// All that is kept of an app, by kind and name.
pub fn kept(model: &Model, ledger: &Ledger, dirs: &Dirs) -> Vec<Kept> {
    let names = |folder: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|name| !name.starts_with('.'))
            .collect()
    };
    let mut out = Vec::new();
    for name in names(&dirs.resources()) {
        out.push(Kept {
            what: What::Resource,
            place: dirs.resources().join(&name),
            path: ledger.paths.get(&name).cloned(),
            used: model
                .resource(&name)
                .is_some_and(|r| model.resources[r].source.is_none()),
            name,
        });
    }
    for name in names(&dirs.roots()) {
        out.push(Kept {
            what: What::Root,
            place: dirs.roots().join(&name),
            path: None,
            used: model.service(&name).is_some_and(|s| model.matrix().keeps_root(s)),
            name,
        });
    }
    for file in names(&dirs.logs()) {
        if let Some(name) = file.strip_suffix(".log") {
            out.push(Kept {
                what: What::Log,
                place: dirs.logs().join(&file),
                path: None,
                used: model.service(name).is_some(),
                name: name.to_owned(),
            });
        }
    }
    out.sort_by(|a, b| (a.what, &a.name).cmp(&(b.what, &b.name)));
    out
}

/// The resource or service that most looks like what this was, of those that begin with nothing. `empty`: does it?
pub fn successor(model: &Model, left: &Kept, empty: impl Fn(&Path) -> bool, dirs: &Dirs) -> Option<usize> {
    match left.what {
        What::Resource => {
            let fresh = |r: &&(usize, &crate::model::Resource)| {
                r.1.source.is_none() && r.1.was.is_none() && empty(&dirs.resources().join(&r.1.name))
            };
            let all: Vec<(usize, &crate::model::Resource)> = model.resources.iter().enumerate().collect();
            let fresh: Vec<_> = all.iter().filter(fresh).collect();
            let same_path = fresh.iter().find(|r| left.path.as_deref() == Some(&r.1.path));
            let kind = |r: &crate::model::Resource| r.kind == ResourceKind::File;
            let file = left.path.as_deref().map(|p| path::base(p).contains('.'));
            let same_kind = fresh.iter().find(|r| file.is_none_or(|f| f == kind(r.1)));
            same_path.or(same_kind).map(|r| r.0)
        }
        What::Root => model
            .services
            .iter()
            .zip(ServiceId::all(&model.services))
            .position(|(s, id)| model.matrix().keeps_root(id) && s.was.is_none() && empty(&dirs.roots().join(&s.name))),
        What::Log => None,
    }
}
