//! The text of a manifest, and what is wrong with it at its lines.

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::{self, Source};
use crate::plain;
use crate::python::Python;
use std::path::{Path, PathBuf};

/// A manifest as it was read.
#[derive(Debug)]
pub struct ManifestText {
    pub(super) source: Source,
    /// If it is one in Python: the file that it came from.
    pub(super) python: Option<Python>,
}

impl ManifestText {
    /// The path as it was given.
    pub fn path(&self) -> &Path {
        &self.source.path
    }

    /// The path, free of links.
    pub fn canonical(&self) -> PathBuf {
        std::fs::canonicalize(&self.source.path).unwrap_or_else(|_| self.source.path.clone())
    }

    /// What it printed, if it is one in Python.
    pub fn printed(&self) -> &str {
        self.python.as_ref().map_or("", |python| python.printed.as_str())
    }

    /// Diagnostics with the lines that they are about, for people; nothing if there are none.
    pub fn render(&self, found: &[Diagnostic], colour: bool) -> String {
        let text = match &self.python {
            None => manifest::render(&self.source, found, colour),
            Some(python) => {
                let (shown, found) = python.at_its_lines(&self.source, found);
                manifest::render(&shown, &found, colour)
            }
        };
        // The renderer makes what would be a style in the manifest's own text visible.
        match colour {
            true => plain::styled(&text),
            false => plain::lines(&text).into_owned(),
        }
    }

    /// The same for programs.
    pub fn to_json(&self, found: &[Diagnostic]) -> serde_json::Value {
        match &self.python {
            None => manifest::diagnostics_json(&self.source, found),
            Some(python) => {
                let (shown, found) = python.at_its_lines(&self.source, found);
                manifest::diagnostics_json(&shown, &found)
            }
        }
    }
}
