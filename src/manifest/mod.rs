//! The manifest: found, read, parsed, and its errors shown.
//!
//! Text goes in, a [`Manifest`] and [`Diagnostic`]s come out. Nothing here looks at the host beyond the
//! one file, and nothing decides whether what the manifest asks for is possible or wise: that is
//! [`crate::model`]'s.

mod compose;
mod decode;
pub mod diagnostic;
mod quantity;
mod render;
mod scalar;
mod schema;
mod shape;
mod shell;
mod source;
mod supervision;
mod tree;
pub mod types;

pub use diagnostic::{Diagnostic, Severity};
pub use quantity::parse_size as size;
pub use render::{diagnostics_json, render};
pub use scalar::is_app_name;
pub use schema::schema;
pub use source::{Format, LoadError, Source, is_python, locate};
pub use types::{App, Assertions, At, Bundle, Manifest, Named, Probe, Readiness, Resource, Sandbox, Service};

use std::collections::HashSet;

use decode::{Cx, Place, Table};
use render::Index;

/// What `pysecure init` writes.
pub const INIT: &str = include_str!("../../specs/init.toml");

/// Decodes a manifest and says everything that is wrong with it, in the order of the text.
///
/// Decoding is best effort. What could not be decoded has its default and the span `0..0`, and has been
/// reported. After a syntax error the manifest is empty: what is missing from it may stand in the part
/// that could not be read, so nothing may be concluded from its absence.
pub fn parse(source: &Source) -> (Manifest, Vec<Diagnostic>) {
    let text = source.text.as_str();
    if text.trim().is_empty() {
        let empty = Diagnostic::error(0..0, "the manifest is empty").help("`pysecure init` writes one that works");
        return (Manifest::default(), vec![empty]);
    }
    if let Some(said) = compose::instead_of_manifest(source) {
        return (Manifest::default(), said);
    }
    let (root, syntax_errors) = tree::parse(text, source.format);
    if !syntax_errors.is_empty() && compose::is_compose(text) {
        return (Manifest::default(), compose::of_yaml(text));
    }
    let mut cx = Cx::new(source.format);
    let manifest = Manifest::decode_entries(root, &Place::ROOT, &mut cx);
    let mut diagnostics = cx.diagnostics;
    if syntax_errors.is_empty() {
        diagnostics.extend(cx.absences);
        diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
        return (manifest, diagnostics);
    }
    // On the line of a syntax error, whatever else is wrong follows from it.
    let index = Index::new(text);
    let broken: HashSet<usize> = syntax_errors.iter().map(|error| index.line(error.span.start)).collect();
    diagnostics.retain(|diagnostic| !broken.contains(&index.line(diagnostic.span.start)));
    diagnostics.extend(syntax_errors);
    diagnostics.sort_by_key(|diagnostic| diagnostic.span.start);
    (Manifest::default(), diagnostics)
}
