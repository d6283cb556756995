//! What runs against what the manifest says now: the difference, and making it so. Only what differs is touched.

use super::fingerprint::{FingerprintReader, Fingerprints, of_sources};
use super::protocol::Apply;
use crate::plan;
use crate::supervise::app::{App, Sink};
use crate::supervise::ids::ServiceId;
use crate::supervise::machine::{Order, Planned, ServiceDefinition};
use std::collections::{BTreeMap, BTreeSet};

/// What is to be done with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Add,
    Remove,
    /// It has to be started anew.
    Restart,
    /// It goes on running by other rules.
    Adjust,
}

/// The difference between what runs and what is wanted, by name: first what is wanted, in its order.
pub fn difference(runs: &[(String, Fingerprints)], wanted: &[(String, Fingerprints)]) -> Vec<(String, Change)> {
    let have: BTreeMap<&str, &Fingerprints> = runs.iter().map(|(name, of)| (name.as_str(), of)).collect();
    let mut out = Vec::new();
    for (name, new) in wanted {
        let change = match have.get(name.as_str()) {
            None => Change::Add,
            Some(old) if old.process != new.process => Change::Restart,
            Some(old) if old.policy != new.policy => Change::Adjust,
            Some(_) => continue,
        };
        out.push((name.clone(), change));
    }
    let wanted: std::collections::BTreeSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    let gone = runs.iter().filter(|(name, _)| !wanted.contains(name.as_str()));
    out.extend(gone.map(|(name, _)| (name.clone(), Change::Remove)));
    out
}

impl App {
    /// Makes the app what it is to become; `sink` hears how that goes. With an error nothing was changed.
    pub(in crate::supervise) fn apply(&mut self, apply: Apply, sink: Sink) -> Result<(), String> {
        self.going_down()?;
        let planned = self.units_of(apply.services, &apply.order)?;
        let spare = crate::supervise::app::raise_descriptors(&planned).map_err(|e| e.to_string())?;
        let networks = self
            .networks
            .prepare(&self.plan.privilege, planned.iter(), &mut self.launcher)
            .map_err(|e| e.to_string())?;
        let overlaps = crate::supervise::overlaps::known(apply.subtrees).map_err(|e| e.to_string())?;
        self.sockets
            .hold(&self.plan.dirs, planned.iter())
            .map_err(|e| e.to_string())?;
        self.overlaps.replace(overlaps);
        self.spare_descriptors = spare;
        self.networks.take_on(networks);
        self.watch_app_network().map_err(|e| e.to_string())?;
        let old = self.fingerprint_reader();
        let new = FingerprintReader::new(&self.plan.app, &self.plan.privilege, apply.templates.clone());
        let only = &apply.only;
        let begins = |unit: &plan::Unit| only.is_empty() || only.contains(&unit.name);
        let planned = planned.into_iter().map(|unit| Planned {
            begins: begins(&unit),
            ..self.planned(unit, &old, &new)
        });
        let planned: Vec<Planned> = planned.collect();
        self.keep_bundles(&planned);
        let sandboxes = self.sandbox_fingerprints();
        self.plan.templates = apply.templates;
        self.apply_sandboxes(apply.sandboxes, &sandboxes);
        self.resources = apply.resources;
        if let Err(error) = self.watch_shared(apply.shared) {
            tracing::warn!(%error, "shared folders are not watched");
        }
        self.order(sink, Order::Apply(planned))
    }

    /// All units of the app that is to be, in order: those that came, and for the others those that are known.
    fn units_of(&self, given: Vec<plan::Unit>, order: &[String]) -> Result<Vec<plan::Unit>, String> {
        let mut given: BTreeMap<String, plan::Unit> = given.into_iter().map(|s| (s.name.clone(), s)).collect();
        let unit = |name: &String| {
            let known = |name| Some(plan::Unit::clone(self.machine.by_name(name)?.1.latest().unit()));
            let unit = given.remove(name).or_else(|| known(name));
            unit.ok_or_else(|| format!("service `{name}` is not known, and came without a plan"))
        };
        order.iter().map(unit).collect()
    }

    fn planned(&self, unit: plan::Unit, old: &FingerprintReader, new: &FingerprintReader) -> Planned {
        let runs = self.machine.by_name(&unit.name).map(|(_, service)| &service.definition);
        let old = runs.map(|definition| definition.fingerprints(|unit| old.read(unit)));
        let same_sources = self.is_shown_the_same(&unit);
        let definition = ServiceDefinition::new(unit);
        let new = definition.fingerprints(|unit| new.read(unit));
        Planned {
            same_process: same_sources && old.is_some_and(|old| old.process == new.process),
            definition,
            begins: true,
        }
    }

    /// Does the service's process, if one runs, see the files and folders that lie where its sources are now?
    fn is_shown_the_same(&self, unit: &plan::Unit) -> bool {
        let process = self
            .machine
            .by_name(&unit.name)
            .and_then(|(id, _)| self.processes.get(&id));
        let shown = process.and_then(|process| process.sources.as_ref());
        shown.is_none_or(|shown| *shown == of_sources(unit, &self.plan.dirs.app))
    }

    /// Takes fingerprints by the plan that runs.
    pub(crate) fn fingerprint_reader(&self) -> FingerprintReader {
        FingerprintReader::new(&self.plan.app, &self.plan.privilege, self.plan.templates.clone())
    }

    /// Keeps the bundles of processes that would be started otherwise from now on, for as long as they still run: of the plan
    /// that is to come they could not be compiled any more.
    fn keep_bundles(&self, planned: &[Planned]) {
        let stays = |p: &&Planned| p.same_process;
        let same: BTreeSet<&str> = planned.iter().filter(stays).map(|p| p.definition.name()).collect();
        let others = self.machine.services().filter(|(_, s)| !same.contains(s.name()));
        for id in others.map(|(id, _)| id).collect::<Vec<ServiceId>>() {
            if self.processes.contains_key(&id)
                && let Err(error) = self.bundle_of_process(id)
            {
                tracing::warn!(error, "keep the bundle of a process");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_named() {
        let of = |name: &str, process: u32, policy: u32| {
            let of = |n: u32| serde_json::from_value(n.to_string().into()).unwrap();
            let (process, policy) = (of(process), of(policy));
            let of = Fingerprints {
                process,
                policy,
                source: None,
                said: None,
            };
            (name.to_owned(), of)
        };
        let runs = [of("a", 1, 1), of("b", 1, 1), of("c", 1, 1), of("d", 1, 1)];
        let wanted = [of("e", 1, 1), of("a", 1, 1), of("b", 2, 2), of("c", 1, 2)];
        let named: Vec<_> = difference(&runs, &wanted);
        let of = |name: &str, change| (name.to_owned(), change);
        assert_eq!(
            named,
            [
                of("e", Change::Add),
                of("b", Change::Restart),
                of("c", Change::Adjust),
                of("d", Change::Remove)
            ]
        );
    }
}
