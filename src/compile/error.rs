//! What a spec cannot hold.

use std::path::PathBuf;

/// What a spec cannot hold.
#[derive(Debug, thiserror::Error)]
pub enum CompileError {
    #[error("the default spec in specs/ is broken: {0}")]
    Default(String),
    #[error("service `{service}`: the path {} holds `{character}`, which an overlay's options cannot; rename it", path.display())]
    Character {
        service: String,
        path: PathBuf,
        character: char,
    },
    #[error(
        "service `{service}` is in {groups} bundles, whose GIDs are {ranges} ranges: more than the kernel takes for one user \
         namespace; merge bundles that have the same members"
    )]
    Groups {
        service: String,
        groups: usize,
        ranges: usize,
    },
    #[error(
        "service `{service}`: {} is to be made in its root, but rootfs \"{rootfs}\" brings {} as {kind}, and nothing is made \
         through one; write `exclude = [\"{}\"]` in the recipe to leave that out", path.display(), by.display(), by.display()
    )]
    Blocked {
        service: String,
        rootfs: String,
        path: PathBuf,
        by: PathBuf,
        kind: &'static str,
    },
    #[error("service `{service}`: no rootfs template \"{name}\" was loaded")]
    Template { service: String, name: String },
    /// What would keep a unit in is not there, so it does not run.
    #[error("the profile of a unit cannot be applied: its spec is without {0}")]
    Unconfined(&'static str),
}
