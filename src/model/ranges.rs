//! Ranges of ids: that they suffice, and what the external service's ids must be.

use super::build::reported;
use super::{BundleId, Model, Sandbox};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{At, Manifest};
use std::collections::BTreeSet;

/// How many UIDs and GIDs an app needs, the keeper's among them.
pub fn needed_ids(model: &Model) -> (u64, u64) {
    let sets: BTreeSet<&[BundleId]> = model
        .resources
        .iter()
        .map(|r| r.bundles.as_slice())
        .filter(|b| b.len() > 1)
        .collect();
    let others = u64::from(model.setup.is_some()) + u64::from(model.matrix().has_unowned());
    let sandboxes: u64 = model.sandboxes.iter().map(|s| u64::from(ids_of(s))).sum();
    let services = model.services.len() as u64 + 1 + others + sandboxes;
    (services, services + model.bundles.len() as u64 + sets.len() as u64)
}

/// How many ids a sandbox has: of its keeper, of its warm interpreter, and one for each run at once.
pub fn ids_of(sandbox: &Sandbox) -> u32 {
    2 + sandbox.uids
}

pub(super) fn check(model: &Model, manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    let (uids, gids) = needed_ids(model);
    let app = &manifest.app;
    range(&app.uid_range, "uid_range", uids, &app.external_uid, found);
    range(&app.gid_range, "gid_range", gids, &app.external_gid, found);
    alike(model, app, found);
    external(model, manifest, found);
}

/// A run has one number as its UID and its GID, so sandboxes take numbers that are in both ranges.
fn alike(model: &Model, app: &crate::manifest::App, found: &mut Vec<Diagnostic>) {
    let (Some(uids), Some(gids)) = (&app.uid_range, &app.gid_range) else {
        return;
    };
    let needed: u64 = model.sandboxes.iter().map(|s| u64::from(ids_of(s))).sum();
    let (low, high) = (uids.value[0].max(gids.value[0]), uids.value[1].min(gids.value[1]));
    let both = u64::from(high.saturating_sub(low)) + u64::from(low <= high);
    if !model.sandboxes.is_empty() && both < needed && !reported(uids) && !reported(gids) {
        found.push(
            Diagnostic::error(
                gids.span.clone(),
                format!("sandboxes need {needed} ids that are in both ranges, which have {both} in common"),
            )
            .other(uids.span.clone(), "the other range")
            .label("a run's UID and GID are one number")
            .help("write the same for uid_range and gid_range"),
        );
    }
}

fn range(
    range: &Option<At<[u32; 2]>>,
    key: &str,
    needed: u64,
    external: &Option<At<u32>>,
    found: &mut Vec<Diagnostic>,
) {
    let Some(range) = range.as_ref().filter(|r| !reported(r)) else {
        return;
    };
    let [low, high] = range.value;
    let size = u64::from(high.saturating_sub(low)) + 1;
    if let Some(special) = [0, 65534, 65535, u32::MAX - 1, u32::MAX]
        .into_iter()
        .find(|s| (low..=high).contains(s))
    {
        found.push(
            Diagnostic::error(
                range.span.clone(),
                format!("{key} holds {special}, which is root's, nobody's or the kernel's"),
            )
            .help("write a range between 1000 and 65533, such as [60706, 61183]"),
        );
    } else if size < needed {
        found.push(
            Diagnostic::error(
                range.span.clone(),
                format!(
                    "{key} has {size} {}, but this app needs {needed}",
                    if size == 1 { "id" } else { "ids" }
                ),
            )
            .label("one a service, one a bundle's group, and one for the keeper")
            .help(format!(
                "write {key} = [{low}, {}] or a larger range",
                u64::from(low) + needed.max(1000) - 1
            )),
        );
    }
    if let Some(external) = external.as_ref().filter(|d| (low..=high).contains(&d.value)) {
        found.push(
            Diagnostic::error(
                external.span.clone(),
                format!("the external service's id {} lies in {key}", external.value),
            )
            .other(range.span.clone(), "from which services get theirs")
            .help("the external service has an id of its own; move the range"),
        );
    }
}

/// The external service has one UID and one GID, and needs them for what it owns and shares.
fn external(model: &Model, manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    let needs_uid = manifest
        .resources
        .iter()
        .filter_map(|(_, r)| r.owned_by_external.as_ref())
        .find(|f| f.value);
    if let Some(at) = needs_uid.filter(|_| model.external_uid.is_none()) {
        found.push(
            Diagnostic::error(at.span.clone(), "the external service owns this, but has no UID")
                .help("write external_uid in [app], such as 33 for Debian's www-data"),
        );
    }
    let used: Vec<_> = manifest
        .bundles
        .iter()
        .filter_map(|(_, b)| b.used_by_external.as_ref())
        .filter(|f| f.value)
        .collect();
    if let (Some(at), None) = (used.first(), model.external_gid) {
        found.push(
            Diagnostic::error(at.span.clone(), "the external service uses this bundle, but has no GID")
                .help("write external_gid in [app], such as 33 for Debian's www-data; it becomes the bundle's GID"),
        );
    }
    if let [first, second, ..] = used[..] {
        found.push(
            Diagnostic::error(
                second.span.clone(),
                "the external service uses two bundles, but has one GID",
            )
            .other(first.span.clone(), "first here")
            .help("put the resources into one bundle"),
        );
    }
    for resource in &model.resources {
        if resource.bundles.len() > 1 && resource.bundles.iter().any(|b| model.bundles[*b].used_by_external) {
            found.push(
                Diagnostic::error(
                    resource.span.clone(),
                    format!(
                        "resource `{}` is in two bundles, one of them the external service's",
                        resource.name
                    ),
                )
                .label("it would need a GID that the external service does not have")
                .help("leave it in one bundle"),
            );
        }
    }
}
