//! What a service may do with its root.

use serde::{Deserialize, Serialize};

/// What becomes of what a service writes to its root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writable {
    /// It can write nothing.
    #[default]
    No,
    Memory,
    Persistent,
}
