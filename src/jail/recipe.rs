//! Recipes, as they are written: `jails/NAME.toml`, and the original's `jail_resources.txt`.

use super::JailError;
use crate::cause::Cause;
use crate::former;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const BUILT_IN: [(&str, &str); 8] = [
    ("apache", include_str!("../../rootfs-templates/apache.toml")),
    ("debian", include_str!("../../rootfs-templates/debian.toml")),
    ("host", include_str!("../../rootfs-templates/host.toml")),
    ("minimal", include_str!("../../rootfs-templates/minimal.toml")),
    ("nginx", include_str!("../../rootfs-templates/nginx.toml")),
    ("node", include_str!("../../rootfs-templates/node.toml")),
    ("oci", include_str!("../../rootfs-templates/oci.toml")),
    ("python", include_str!("../../rootfs-templates/python.toml")),
];

/// Where a virtual environment is in its jail.
pub const VENV: &str = "/venv";

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    pub description: String,
    pub extends: Option<String>,
    /// Host paths that are mounted: then nothing is copied.
    pub bind: Vec<PathBuf>,
    /// Made empty.
    pub directories: Vec<PathBuf>,
    /// Files and whole trees.
    pub paths: Vec<String>,
    /// Programs, by path or by name.
    pub binaries: Vec<String>,
    pub globs: Vec<String>,
    /// Debian packages that are installed here: all their files but documentation.
    pub packages: Vec<String>,
    /// The same of those that these depend on.
    pub with_dependencies: Option<bool>,
    /// Python packages for a virtual environment, /venv: a file as pip reads it, beside the manifest.
    pub requirements: Option<PathBuf>,
    /// An image on disk, which is all of the root.
    pub image: Option<PathBuf>,
    /// Which image, where there are several.
    pub tag: Option<String>,
    /// A Debian that mmdebstrap makes, which is all of the root.
    pub debian: Option<Debian>,
    /// Paths and globs that need not be there.
    pub optional: Vec<String>,
    /// Globs of what is left out of whole trees.
    pub exclude: Vec<String>,
    /// Links to make: place, target.
    pub links: BTreeMap<String, String>,
}

/// What mmdebstrap(1) is told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Debian {
    pub suite: String,
    #[serde(default)]
    pub variant: Option<String>,
    #[serde(default)]
    pub packages: Vec<String>,
    #[serde(default)]
    pub mirror: Option<String>,
}

impl Recipe {
    pub fn is_jail(&self) -> bool {
        self.copies() || self.whole()
    }

    /// Does it name files of this host?
    fn copies(&self) -> bool {
        let named = [&self.paths, &self.binaries, &self.globs, &self.optional, &self.packages];
        named.iter().any(|list| !list.is_empty()) || !self.links.is_empty() || self.requirements.is_some()
    }

    /// Is it a root that somebody else has put together?
    fn whole(&self) -> bool {
        self.image.is_some() || self.debian.is_some()
    }

    /// The original's list: a path or a program a line, `#` before a remark.
    pub fn from_list(text: &str) -> Recipe {
        let lines = text.lines().map(|l| l.split('#').next().unwrap_or_default().trim());
        let mut recipe = Recipe {
            description: "a list of paths".into(),
            ..Recipe::default()
        };
        for line in lines.filter(|l| !l.is_empty()) {
            let kind = match line {
                l if l.contains(['*', '?', '[']) => &mut recipe.globs,
                l if l.contains('/') => &mut recipe.paths,
                _ => &mut recipe.binaries,
            };
            kind.push(line.to_owned());
        }
        recipe
    }

    /// What `base` names comes first.
    fn onto(self, base: Recipe) -> Recipe {
        fn join<T>(mut first: Vec<T>, second: Vec<T>) -> Vec<T> {
            first.extend(second);
            first
        }
        let mut links = base.links;
        links.extend(self.links);
        Recipe {
            description: self.description,
            extends: None,
            bind: join(base.bind, self.bind),
            directories: join(base.directories, self.directories),
            paths: join(base.paths, self.paths),
            binaries: join(base.binaries, self.binaries),
            globs: join(base.globs, self.globs),
            packages: join(base.packages, self.packages),
            with_dependencies: self.with_dependencies.or(base.with_dependencies),
            requirements: self.requirements.or(base.requirements),
            image: self.image.or(base.image),
            tag: self.tag.or(base.tag),
            debian: self.debian.or(base.debian),
            optional: join(base.optional, self.optional),
            exclude: join(base.exclude, self.exclude),
            links,
        }
    }
}

/// Names and descriptions of all recipes: those in `folder`, then those that PySecure brings.
pub fn all(folder: &Path) -> Vec<String> {
    let own = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = own
        .filter_map(|e| Some(e.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
        .chain(BUILT_IN.iter().map(|(n, _)| (*n).to_owned()))
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Reads a recipe and all that it extends.
pub fn load(folder: &Path, name: &str) -> Result<Recipe, JailError> {
    let mut seen: Vec<String> = Vec::new();
    let mut chain: Vec<Recipe> = Vec::new();
    let mut next = Some(name.to_owned());
    while let Some(name) = next {
        let circle = seen.contains(&name);
        seen.push(name.clone());
        if circle {
            return Err(JailError::Cycle(seen.join(" → ")));
        }
        let recipe = one(folder, &name)?;
        next = recipe.extends.clone();
        chain.push(recipe);
    }
    let mut whole = chain.pop().unwrap_or_default();
    while let Some(recipe) = chain.pop() {
        whole = recipe.onto(whole);
    }
    if whole.is_jail() && !whole.bind.is_empty() {
        return Err(JailError::Mixed);
    }
    if whole.whole() && whole.copies() || whole.image.is_some() && whole.debian.is_some() {
        return Err(JailError::NotWhole);
    }
    let beside = folder.parent().unwrap_or(Path::new("."));
    whole.requirements = whole.requirements.map(|path| beside.join(path));
    whole.image = whole.image.map(|path| {
        let path = beside.join(path);
        let mut archive = path.clone().into_os_string();
        archive.push(".tar");
        if !path.exists() && Path::new(&archive).exists() {
            return archive.into();
        }
        path
    });
    Ok(whole)
}

fn one(folder: &Path, name: &str) -> Result<Recipe, JailError> {
    if name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.') {
        return Err(JailError::Name);
    }
    let own = folder.join(format!("{name}.toml"));
    let text = match std::fs::read_to_string(&own) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && former_place(&own).is_some_and(|p| p.exists()) => {
            return Err(JailError::FormerFolder(former_place(&own).unwrap_or_default()));
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => match BUILT_IN.iter().find(|(n, _)| *n == name) {
            Some((_, text)) => (*text).to_owned(),
            None => {
                return Err(JailError::Unknown {
                    known: BUILT_IN.map(|(n, _)| n).join(", "),
                    folder: folder.to_owned(),
                });
            }
        },
        Err(e) => return Err(JailError::io("read", own, e)),
    };
    toml::from_str(&text).map_err(|e| former_key(&text).unwrap_or_else(|| JailError::Form(Cause::new(e))))
}

/// Where this recipe lay before version 1.
fn former_place(recipe: &Path) -> Option<PathBuf> {
    let folder = recipe.parent()?;
    Some(folder.with_file_name(former::RECIPES).join(recipe.file_name()?))
}

/// The first key that was called otherwise before version 1.
fn former_key(text: &str) -> Option<JailError> {
    let table: toml::Table = text.parse().ok()?;
    let (old, new) = table.keys().find_map(|key| former::recipe_key(key))?;
    Some(JailError::FormerKey { old, new })
}

/// A path below a root, absolute and normal.
pub(super) fn checked(text: &str) -> Result<PathBuf, JailError> {
    crate::values::path::normal(text)
        .map(PathBuf::from)
        .map_err(|cause| JailError::Leaves {
            path: text.to_owned(),
            cause,
        })
}

pub(super) fn patterns(globs: &[String]) -> Result<Vec<glob::Pattern>, JailError> {
    let one = |g: &String| glob::Pattern::new(g).map_err(|e| JailError::glob(g, e));
    globs.iter().map(one).collect()
}
