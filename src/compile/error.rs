//! What a spec cannot hold.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

const RENAME: &str = "rename it";
const MERGE: &str = "merge bundles that have the same members";

fn leave_out(path: &Path) -> String {
    format!(
        "write `exclude = [\"{}\"]` in the recipe to leave that out",
        path.display()
    )
}

/// What a spec cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the default spec in specs/ is broken: {0}")]
    Default(String),
    #[error("service `{service}`: the path {} holds `{character}`, which an overlay's options cannot; {RENAME}", path.display())]
    Character {
        service: String,
        path: PathBuf,
        character: char,
    },
    #[error(
        "service `{service}` is in {groups} bundles, whose GIDs are {ranges} ranges: more than the kernel takes for one user \
         namespace; {MERGE}"
    )]
    Groups {
        service: String,
        groups: usize,
        ranges: usize,
    },
    #[error(
        "service `{service}`: {} is to be made in its root, but jail \"{rootfs}\" brings {} as {kind}, and nothing is made \
         through one; {}", path.display(), by.display(), leave_out(by)
    )]
    Blocked {
        service: String,
        rootfs: String,
        path: PathBuf,
        by: PathBuf,
        kind: &'static str,
    },
    #[error("service `{service}`: no jail \"{name}\" was loaded")]
    Template { service: String, name: String },
    /// What would keep a unit in is not there, so it does not run.
    #[error("the profile of a unit cannot be applied: its spec is without {0}")]
    Unconfined(&'static str),
}

impl CompileError {
    /// What to do about it, as its text ends.
    pub fn help(&self) -> Option<Cow<'_, str>> {
        match self {
            CompileError::Character { .. } => Some(RENAME.into()),
            CompileError::Groups { .. } => Some(MERGE.into()),
            CompileError::Blocked { by, .. } => Some(leave_out(by).into()),
            CompileError::Default(_) | CompileError::Template { .. } | CompileError::Unconfined(_) => None,
        }
    }
}
