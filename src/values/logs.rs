//! What becomes of the lines that a service prints.

use serde::{Deserialize, Serialize};

/// The most files of one log, the current one included.
pub const MOST_LOG_FILES: u32 = 1_000;

/// Where a service's lines go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sink {
    #[default]
    File,
    Journald,
    Syslog,
    None,
}
