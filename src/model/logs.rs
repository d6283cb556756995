//! What becomes of a service's lines: defaults stand here, once.

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types;
use crate::values::{MOST_LOG_FILES, Sink};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    pub sink: Sink,
    /// Of each file, in bytes.
    pub max_size: u64,
    /// The current file included.
    pub max_files: u32,
}

impl Logs {
    /// The most files of one log that may be asked for; see [`types::Logs`].
    pub const MOST_FILES: u32 = MOST_LOG_FILES;
}

impl Default for Logs {
    fn default() -> Self {
        Logs {
            sink: Sink::File,
            max_size: 10 << 20,
            max_files: 3,
        }
    }
}

/// Holds several of the longest records; in a smaller file, a line might not fit at all.
const SMALLEST: u64 = 64 << 10;

pub(super) fn read(table: &types::Service, found: &mut Vec<Diagnostic>) -> Logs {
    let (default, table) = (Logs::default(), &table.logs);
    let sink = table.sink.as_ref().map(|s| s.value).unwrap_or_default();
    if let Some(at) = table.max_size.as_ref().filter(|s| s.value < SMALLEST) {
        found.push(
            Diagnostic::error(at.span.clone(), "a log so small would not hold long lines")
                .help("write max_size = \"64K\" or more"),
        );
    }
    if sink != Sink::File {
        let size = table.max_size.as_ref().map(|s| s.span.clone());
        let files = table.max_files.as_ref().map(|f| f.span.clone());
        if let Some(span) = size.or(files) {
            found.push(
                Diagnostic::error(span, "no file is written, so its size says nothing")
                    .help("take it out, or write sink = \"file\""),
            );
        }
    }
    Logs {
        sink,
        max_size: table.max_size.as_ref().map_or(default.max_size, |s| s.value),
        max_files: table.max_files.as_ref().map_or(default.max_files, |f| f.value),
    }
}
