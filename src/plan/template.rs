//! Rootfs templates: recipes for the read-only root that a service sees.
//!
//! A template names host paths. What is a link on the host becomes the same link, what is not there is
//! left out, and the rest is mounted read-only. Looked for beside the manifest first, in
//! `rootfs-templates/NAME.toml`, then among those that PySecure brings.

use super::PlanError;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

const BUILT_IN: [(&str, &str); 1] = [("host", include_str!("../../rootfs-templates/host.toml"))];

/// Where templates are looked for.
#[derive(Clone, Debug)]
pub struct Library {
    folder: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    #[allow(dead_code, reason = "for the reader of the recipe")]
    description: String,
    bind: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

/// A recipe as it stands on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    pub name: String,
    pub entries: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// A host path that is mounted read-only at the same place.
    Bind {
        path: PathBuf,
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
    /// `manifest_folder`: where the manifest lies.
    pub fn new(manifest_folder: &Path) -> Library {
        Library {
            folder: manifest_folder.join("rootfs-templates"),
        }
    }

    pub fn load(&self, name: &str) -> Result<Template, PlanError> {
        let bad = |cause: String| PlanError::Template {
            name: name.to_owned(),
            cause,
        };
        if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
            return Err(bad("is no template's name; write a name such as \"host\"".into()));
        }
        let own = self.folder.join(format!("{name}.toml"));
        let text = match std::fs::read_to_string(&own) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => match BUILT_IN.iter().find(|(n, _)| *n == name) {
                Some((_, text)) => (*text).to_owned(),
                None => {
                    let known = BUILT_IN.map(|(n, _)| n).join(", ");
                    return Err(bad(format!(
                        "there is no such template; there are: {known}, and your own in {}",
                        self.folder.display()
                    )));
                }
            },
            Err(e) => return Err(bad(format!("read {}: {e}", own.display()))),
        };
        let recipe: Recipe = toml::from_str(&text).map_err(|e| bad(e.to_string()))?;
        Ok(Template {
            name: name.to_owned(),
            entries: entries(&recipe).map_err(bad)?,
        })
    }
}

fn entries(recipe: &Recipe) -> Result<Vec<Entry>, String> {
    let mut out = Vec::new();
    let mut made: BTreeSet<PathBuf> = BTreeSet::new();
    for path in recipe.bind.iter().chain(&recipe.directories) {
        let text = path.to_str().ok_or("a path is not UTF-8")?;
        if crate::model::path::normal(text).is_err() {
            return Err(format!(
                "{text} cannot be part of a root; write an absolute path without `..`"
            ));
        }
    }
    for path in &recipe.bind {
        let Ok(found) = std::fs::symlink_metadata(path) else {
            continue;
        };
        let entry = if found.is_symlink() {
            let target = std::fs::read_link(path).map_err(|e| format!("read the link {}: {e}", path.display()))?;
            Entry::Link {
                path: path.clone(),
                target,
            }
        } else {
            Entry::Bind {
                path: path.clone(),
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

impl Template {
    /// The host paths that are mounted.
    pub fn binds(&self) -> impl Iterator<Item = &Path> {
        self.entries.iter().filter_map(|entry| match entry {
            Entry::Bind { path, .. } => Some(path.as_path()),
            _ => None,
        })
    }
}
