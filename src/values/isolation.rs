//! What keeps a sandbox's run from all else.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Isolation {
    /// Namespaces of its own, and all else that holds for services.
    #[default]
    Namespaces,
    /// Landlock, seccomp and limits alone, where there are no namespaces to be had.
    Landlock,
}

impl Isolation {
    pub fn name(self) -> &'static str {
        match self {
            Isolation::Namespaces => "namespaces",
            Isolation::Landlock => "landlock",
        }
    }
}
