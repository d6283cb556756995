//! Limits before a start: a cgroup of our own is asked of systemd, and what this host cannot hold is said, or refused
//! where the manifest requires it.

use super::Failure;
use super::args::Cli;
use super::load::Loaded;
use crate::compile;
use crate::host::Privilege;
use crate::host::outer;
use crate::launch::cgroup::{self, Offer, Refusal, scope};
use crate::launch::raise_limit;
use crate::model::limits::size;
use crate::plan::Unit;
use oci_spec::runtime::PosixRlimitType;
use std::collections::{BTreeMap, BTreeSet};

/// Goes on in a scope of systemd's, if limits need one. Where that cannot be had, it says so and returns.
/// Comes before the outer namespace, in which the user's manager would not know the user.
pub(super) fn in_scope(cli: &Cli) {
    let outside = matches!(outer::privilege(), None | Some(Privilege::Root));
    if !outside || !scope::helps() {
        return;
    }
    // What is wrong with the manifest is said later.
    let Ok(loaded) = Loaded::read(cli) else { return };
    if loaded.has_errors()
        || !loaded
            .model
            .services
            .iter()
            .any(|s| compile::resources(&s.limits).is_some())
    {
        return;
    }
    let error = scope::enter(&loaded.model.app);
    errln!("note: systemd gives no cgroup of our own: {error}");
}

/// Says what of the limits cannot be held here, each once; an error if one of them is required, or all are by `strict`.
pub(super) fn say(services: &[Unit], strict: bool) -> Result<(), Failure> {
    let (refused, notes) = lacking(services, strict);
    for note in notes {
        errln!("note: {note}");
    }
    if refused.is_empty() {
        return Ok(());
    }
    let mut failure = Failure::failed("");
    failure.messages = refused;
    Err(failure)
}

/// The same for a start that is yet to come: what would be refused, and what would be said.
pub(super) fn foreseen(services: &[Unit]) -> (Vec<String>, Vec<String>) {
    let outside = matches!(outer::privilege(), None | Some(Privilege::Root));
    if outside && scope::helps() {
        // What systemd will give is known only when it is asked.
        return (Vec::new(), Vec::new());
    }
    lacking(services, false)
}

/// What is refused, and what is only said.
fn lacking(services: &[Unit], strict: bool) -> (Vec<String>, Vec<String>) {
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
    let (mut refused, mut notes) = (Vec::new(), Vec::new());
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
            refused.push(format!(
                "limits of {services}{more} are required but cannot be held here ({keys}): {why}; {remedy}"
            ));
        } else {
            notes.push(format!(
                "limits of {services}{more} cannot be held here ({keys}): {why}; {remedy}"
            ));
        }
    }
    (refused, notes)
}
