//! `was`: a resource or service that had another name before, and goes on with what is kept under that.

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{At, Manifest};
use std::collections::HashMap;

pub(super) fn check(manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    let of_resources = manifest
        .resources
        .iter()
        .map(|(name, table)| (name, table.was.as_ref()));
    names("resource", of_resources, found);
    let of_services = manifest.services.iter().map(|(name, table)| (name, table.was.as_ref()));
    names("service", of_services, found);
    for (name, table) in &manifest.resources {
        if let (Some(was), Some(source)) = (&table.was, &table.source) {
            found.push(
                Diagnostic::error(
                    was.span.clone(),
                    format!("`{}` has a `source`, so nothing is kept under any name", name.value),
                )
                .other(source.span.clone(), "named here")
                .help("take `was` out"),
            );
        }
    }
}

fn names<'m>(
    what: &str,
    table: impl Iterator<Item = (&'m At<String>, Option<&'m At<String>>)> + Clone,
    found: &mut Vec<Diagnostic>,
) {
    let mut claimed: HashMap<&str, &At<String>> = HashMap::new();
    let declared: HashMap<&str, &At<String>> = table.clone().map(|(name, _)| (name.value.as_str(), name)).collect();
    for (name, was) in table.filter_map(|(name, was)| Some((name, was.filter(|w| !w.span.is_empty())?))) {
        let text = &was.value;
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !text.starts_with(|c: char| c.is_ascii_alphabetic()) || !text.chars().all(plain) {
            found.push(
                Diagnostic::error(was.span.clone(), format!("\"{text}\" was never the name of a {what}")).help(
                    format!(
                        "write the name that `{}` had before; `pysecure data` lists them",
                        name.value
                    ),
                ),
            );
        } else if let Some(other) = declared.get(text.as_str()) {
            found.push(
                Diagnostic::error(
                    was.span.clone(),
                    format!(
                        "`{}` was `{text}`, but there is a {what} of that name, whose data it is",
                        name.value
                    ),
                )
                .other(other.span.clone(), "declared here")
                .help("take `was` out, or give that one another name first"),
            );
        } else if let Some(first) = claimed.insert(text, was) {
            found.push(
                Diagnostic::error(was.span.clone(), format!("two {what}s were `{text}`"))
                    .other(first.span.clone(), "said first here")
                    .help("data goes on under one name; take one of them out"),
            );
        }
    }
}
