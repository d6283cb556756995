//! Rootfs templates: recipes for the read-only root that a service sees, as they stand on this host.
//!
//! A template either binds host paths (what is a link on the host becomes the same link, what is not there is left
//! out), or is a jail ([`crate::jail`]): then what is mounted are parts of its tree in the store, where whoever starts
//! services has it made first. Looked for beside the manifest first, in `jails/NAME.toml`, then among those
//! that PySecure brings.

use super::PlanError;
use crate::cause::Reason;
use crate::jail;
use crate::jail::listing::{EntryKind, Listing};
use crate::jail::recipe::{self, Recipe};
use crate::jail::store::{Store, Tell};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where templates are looked for.
#[derive(Clone, Debug)]
pub struct Library {
    folder: PathBuf,
    state: PathBuf,
    manifest: Option<PathBuf>,
}

/// A recipe as it stands on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub name: String,
    pub entries: Vec<Entry>,
    /// The hash of the jail's tree, if it is a jail.
    pub jail: Option<String>,
    /// What is at the top of the jail's tree; sources are relative to a tree.
    #[serde(default)]
    pub tops: Vec<Entry>,
    /// What its programs expect; a service's own goes before it.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A host path that is mounted read-only.
    Bind {
        path: PathBuf,
        source: PathBuf,
        directory: bool,
    },
    Link {
        path: PathBuf,
        target: PathBuf,
    },
    Directory {
        path: PathBuf,
    },
}

impl Library {
    /// `manifest_folder`: where the manifest lies; `state`: the directory that holds the store of jails.
    pub fn new(manifest_folder: &Path, state: &Path) -> Library {
        Library {
            folder: manifest_folder.join("jails"),
            state: state.to_owned(),
            manifest: None,
        }
    }

    /// The manifest whose templates these are.
    pub fn of(self, manifest: &Path) -> Library {
        Library {
            manifest: Some(manifest.to_owned()),
            ..self
        }
    }

    /// What says who may do what, and so is nobody's to write.
    pub(super) fn rules(&self) -> Vec<(String, PathBuf)> {
        let manifest = self.manifest.iter().map(|m| ("the manifest".to_owned(), m.clone()));
        let templates = [("the jail recipes".to_owned(), self.folder.clone())];
        manifest.chain(templates).collect()
    }

    pub fn load(&self, name: &str) -> Result<Template, PlanError> {
        let bad = |reason: Reason| PlanError::Template {
            name: name.to_owned(),
            reason,
        };
        let recipe = recipe::load(&self.folder, name).map_err(|e| bad(e.into()))?;
        if !recipe.is_jail() {
            return Ok(Template {
                name: name.to_owned(),
                entries: entries(&recipe).map_err(bad)?,
                jail: None,
                tops: Vec::new(),
                environment: BTreeMap::new(),
            });
        }
        let store = Store::new(&self.state);
        let listing = jail::work_out(&store, name, &recipe).map_err(|e| bad(e.into()))?;
        let hash = store.hash(&listing).map_err(|e| bad(e.into()))?;
        Ok(Template {
            name: name.to_owned(),
            entries: parts(&listing, &store.tree(&hash)),
            jail: Some(hash),
            tops: tops(&listing),
            environment: environment(&recipe, &listing),
        })
    }

    /// What is in the jail of a template, built or not.
    pub fn listing(&self, name: &str) -> Result<Listing, PlanError> {
        let bad = |e: crate::jail::JailError| PlanError::Template {
            name: name.to_owned(),
            reason: e.into(),
        };
        let recipe = recipe::load(&self.folder, name).map_err(bad)?;
        jail::work_out(&Store::new(&self.state), name, &recipe).map_err(bad)
    }

    /// Has the jail of a template made, if it is one and is not there.
    pub fn make(&self, template: &Template, tell: Option<Tell>) -> Result<(), PlanError> {
        let Some(hash) = &template.jail else { return Ok(()) };
        let store = Store::new(&self.state).telling(tell);
        if store.is_intact(hash) {
            return Ok(());
        }
        let bad = |e: crate::jail::JailError| PlanError::Template {
            name: template.name.clone(),
            reason: e.into(),
        };
        let recipe = recipe::load(&self.folder, &template.name).map_err(bad)?;
        let listing = jail::work_out(&store, &template.name, &recipe).map_err(bad)?;
        let (built, _) = jail::build(&store, &listing, &recipe, false).map_err(bad)?;
        if built != *hash {
            return Err(bad(crate::jail::JailError::Changed));
        }
        Ok(())
    }
}

fn entries(recipe: &Recipe) -> Result<Vec<Entry>, Reason> {
    let mut out = Vec::new();
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    for path in recipe.bind.iter().chain(&recipe.directories) {
        let text = path.to_str().ok_or("a path is not UTF-8")?;
        if crate::values::path::normal(text).is_err() {
            let why = format!("{text} cannot be part of a root");
            return Err(Reason::new(why).remedy("write an absolute path without `..`"));
        }
    }
    for path in &matches(&recipe.bind)? {
        let Ok(found) = std::fs::symlink_metadata(path) else {
            continue;
        };
        let entry = if found.is_symlink() {
            let target = std::fs::read_link(path)
                .map_err(|e| Reason::new(format!("read the link {}: {e}", path.display())).because(e))?;
            Entry::Link {
                path: path.clone(),
                target,
            }
        } else {
            Entry::Bind {
                path: path.clone(),
                source: path.clone(),
                directory: found.is_dir(),
            }
        };
        made.insert(path.clone());
        out.push(entry);
    }
    let fresh = recipe.directories.iter().filter(|d| !made.contains(*d));
    out.extend(fresh.map(|path| Entry::Directory { path: path.clone() }));
    Ok(out)
}

/// What is there of paths and patterns, in their order.
fn matches(named: &[PathBuf]) -> Result<Vec<PathBuf>, Reason> {
    let mut out = Vec::with_capacity(named.len());
    for path in named {
        let text = path.to_str().ok_or("a path is not UTF-8")?;
        if !text.contains(['*', '?', '[']) {
            out.push(path.clone());
            continue;
        }
        let found = glob::glob(text).map_err(|e| Reason::new(format!("the pattern {text}: {e}")).because(e))?;
        out.extend(found.flatten());
    }
    Ok(out)
}

/// Directories that hold more than a jail's: generated files, resources. Of these the parts are mounted.
const SHARED: [&str; 9] = [
    "/etc",
    "/var",
    "/var/lib",
    "/var/log",
    "/var/cache",
    "/home",
    "/opt",
    "/srv",
    "/mnt",
];

/// The parts of a jail's tree that are mounted: as few as can be, and nothing where nothing is in it.
fn parts(listing: &Listing, tree: &Path) -> Vec<Entry> {
    let mut out = Vec::new();
    let mut bound: Option<&Path> = None;
    let filled: BTreeSet<&Path> = listing
        .items
        .iter()
        .filter(|(_, item)| item.kind != EntryKind::Directory)
        .flat_map(|(path, _)| path.ancestors().skip(1))
        .collect();
    for (path, item) in &listing.items {
        if bound.is_some_and(|b| path.starts_with(b)) {
            continue;
        }
        let bind = |directory| Entry::Bind {
            path: path.clone(),
            source: tree.join(path.strip_prefix("/").unwrap_or(path)),
            directory,
        };
        out.push(match &item.kind {
            EntryKind::Link(target) => Entry::Link {
                path: path.clone(),
                target: target.clone(),
            },
            EntryKind::File { .. } => bind(false),
            EntryKind::Directory if SHARED.iter().any(|s| path == Path::new(s)) || !filled.contains(path.as_path()) => {
                Entry::Directory { path: path.clone() }
            }
            EntryKind::Directory => {
                bound = Some(path);
                bind(true)
            }
        });
    }
    out
}

/// An image's variables, and the name and home of the user that it names; a virtual environment's.
fn environment(recipe: &Recipe, listing: &Listing) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    if recipe.requirements.is_some() {
        out.insert("VIRTUAL_ENV".to_owned(), jail::recipe::VENV.to_owned());
        let path = format!(
            "{}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            jail::recipe::VENV
        );
        out.insert("PATH".to_owned(), path);
    }
    let Some(image) = &listing.image else { return out };
    let user = image.user.split(':').next().unwrap_or_default();
    if !user.is_empty() {
        // Its number is PySecure's to give; what is left of it is who it believes to be, and where it is at home.
        let lines = listing.passwd.as_deref().unwrap_or_default().lines();
        let fields = lines.map(|l| l.split(':').collect::<Vec<_>>());
        let found = fields
            .into_iter()
            .find(|f| f.len() >= 6 && (f[0] == user || f[2] == user));
        if let Some(fields) = found {
            out.insert("USER".to_owned(), fields[0].to_owned());
            out.insert("LOGNAME".to_owned(), fields[0].to_owned());
            out.insert("HOME".to_owned(), fields[5].to_owned());
        }
    }
    out.extend(image.environment.iter().cloned());
    out
}

fn tops(listing: &Listing) -> Vec<Entry> {
    let at_top = listing.items.iter().filter(|(p, _)| p.components().count() == 2);
    at_top
        .map(|(path, item)| match &item.kind {
            EntryKind::Link(target) => Entry::Link {
                path: path.clone(),
                target: target.clone(),
            },
            kind => Entry::Bind {
                path: path.clone(),
                source: path.strip_prefix("/").unwrap_or(path).to_owned(),
                directory: *kind == EntryKind::Directory,
            },
        })
        .collect()
}

impl Template {
    /// The Python that services with this root find.
    pub fn python(&self) -> String {
        let shown = |path: &Path| self.binds().any(|(bind, _)| path.starts_with(bind));
        ["/usr/local/bin/python3", "/usr/bin/python3"]
            .into_iter()
            .find(|path| Path::new(path).canonicalize().is_ok_and(|real| shown(&real)))
            .unwrap_or("/usr/bin/python3")
            .to_owned()
    }

    /// Where a link stands, and where it leads.
    pub fn links(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Link { path, target } => Some((path.as_path(), target.as_path())),
            _ => None,
        })
    }

    /// Where something is mounted, and what.
    pub fn binds(&self) -> impl Iterator<Item = (&Path, &Path)> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Bind { path, source, .. } => Some((path.as_path(), source.as_path())),
            _ => None,
        })
    }
}
