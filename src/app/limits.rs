//! Limits before a start: a cgroup of our own is asked of systemd, and what this host cannot hold is said, or refused
//! where the manifest requires it.

use super::load::{Given, Loaded};
use crate::compile;
use crate::host::Privilege;
use crate::host::outer;
use crate::launch::cgroup::scope::{self, ScopeError};
use crate::launch::cgroup::{self, Offer, Refusal};
use crate::launch::raise_limit;
use crate::model::limits::size;
use crate::plan::Unit;
use oci_spec::runtime::PosixRlimitType;
use std::collections::{BTreeMap, BTreeSet};

/// What this host cannot hold.
#[derive(Debug, Default)]
pub struct Lacking {
    /// What is required.
    pub refused: Vec<String>,
    /// What is not, and to be said.
    pub notes: Vec<String>,
}

/// Goes on in a scope of systemd's, if limits need one. Where that cannot be had, it returns, and says why.
/// Comes before the outer namespace, in which the user's manager would not know the user.
pub fn enter_scope(given: Given<'_>) -> Option<ScopeError> {
    let outside = matches!(outer::privilege(), None | Some(Privilege::Root));
    if !outside || !scope::helps() {
        return None;
    }
    // What is wrong with the manifest is said later.
    let loaded = Loaded::read(given).ok()?;
    let model = &loaded.model;
    let limited = model.services.iter().any(|s| compile::resources(&s.limits).is_some());
    let needed = !loaded.has_errors() && (limited || !model.sandboxes.is_empty());
    needed.then(|| scope::enter(&loaded.model.app))
}

/// What of the limits cannot be held here, each once. By `strict` all are required.
pub fn lacking(services: &[Unit], strict: bool) -> Lacking {
    type Affected<'s> = (BTreeSet<&'static str>, BTreeSet<&'s str>);
    let mut lacking: BTreeMap<(bool, Refusal), Affected<'_>> = BTreeMap::new();
    let mut offer = None;
    for service in services {
        let required = service.limits.required || strict;
        let mut add = |key: &'static str, refusal: Refusal| {
            let entry = lacking.entry((required, refusal)).or_default();
            entry.0.insert(key);
            entry.1.insert(&service.name);
        };
        if let Some(resources) = compile::resources(&service.limits) {
            let offer = offer.get_or_insert_with(Offer::look);
            for lack in cgroup::lacking(offer, &resources) {
                add(lack.key, lack.refusal);
            }
        }
        for limit in compile::rlimits(&service.limits) {
            if let Err(most) = raise_limit(&limit) {
                let (key, most) = match limit.typ() {
                    PosixRlimitType::RlimitNofile => ("nofile", most.to_string()),
                    PosixRlimitType::RlimitFsize => ("fsize", size(most)),
                    _ => ("core", size(most)),
                };
                let refusal = Refusal {
                    why: format!("pysecure itself is held to {most}, and so is the service"),
                    remedy:
                        "raise the hard limit (`ulimit -H`, limits.conf(5), or LimitNOFILE= and the like in the unit)"
                            .into(),
                };
                add(key, refusal);
            }
        }
    }
    let mut out = Lacking::default();
    for ((required, Refusal { why, remedy }), (keys, services)) in lacking {
        let keys: Vec<&str> = keys.into_iter().collect();
        let quoted: Vec<String> = services.iter().take(10).map(|s| format!("`{s}`")).collect();
        let more = services.len().saturating_sub(quoted.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let keys = keys.join(", ");
        let services = quoted.join(", ");
        if required {
            out.refused.push(format!(
                "limits of {services}{more} are required but cannot be held here ({keys}): {why}; {remedy}"
            ));
        } else {
            out.notes.push(format!(
                "limits of {services}{more} cannot be held here ({keys}): {why}; {remedy}"
            ));
        }
    }
    out
}

/// The same for a start that is yet to come: what would be refused, and what would be said.
pub(super) fn foreseen(services: &[Unit]) -> Lacking {
    let outside = matches!(outer::privilege(), None | Some(Privilege::Root));
    if outside && scope::helps() {
        // What systemd will give is known only when it is asked.
        return Lacking::default();
    }
    lacking(services, false)
}
