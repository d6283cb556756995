//! What differs between an app that runs and its manifest, and what its supervisor is asked for.

use super::error::AppError;
use super::load::Loaded;
use super::ready::lacking;
use crate::host::Dirs;
use crate::plan::{self, Ledger, Plan, Unit};
use crate::supervise::client::Client;
use crate::supervise::fingerprint::{
    FingerprintReader, Fingerprints, beside_services, of_sandbox, of_sources, of_storage,
};
use crate::supervise::mending::shared;
use crate::supervise::protocol::{AppStatus, Apply, ServiceStatus};
use crate::supervise::reconcile::{Change, difference};
use crate::values::ServiceType;
use std::collections::{BTreeMap, BTreeSet};

/// Since this version of the control protocol the supervisor says fingerprints that can be compared.
const FINGERPRINTS: u32 = 1;

pub struct Difference {
    /// What the manifest comes to.
    pub plan: Plan,
    /// By name: first what is wanted, in its order.
    pub changes: Vec<(String, Change)>,
    /// Services that do not run, and are to be started as they are.
    pub resting: Vec<String>,
    /// Services of which something on disk is gone that a start would make.
    pub lacking: Vec<String>,
    /// Neither services nor resources nor the ledger change.
    same: bool,
    /// Some services are yet to run.
    starting: bool,
}

impl Difference {
    /// What runs is compared by what the supervisor says of it.
    pub fn of(loaded: &Loaded, dirs: &Dirs, client: &Client, status: &AppStatus) -> Result<Difference, AppError> {
        let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
        let before = ledger.clone();
        let plan = loaded.plan(dirs, &mut ledger)?;
        client.require(FINGERPRINTS)?;
        let runs: Vec<(String, Fingerprints)> = status
            .services
            .iter()
            .filter_map(|s| Some((s.service.clone(), s.fingerprints.clone()?)))
            .collect();
        let mut changes = difference(&runs, &fingerprints(&plan, &runs));
        changes.extend(difference(&running_sandboxes(status), &sandboxes(&plan)));
        let others = replaced(&plan, status, &changes);
        changes.extend(others);
        let resources = of_storage(&plan.storage);
        Ok(Difference {
            same: changes.is_empty() && status.resources.as_ref() == Some(&resources) && ledger == before,
            resting: resting(&plan, status, &changes),
            starting: status.services.iter().any(|s| is_starting(&plan, s)),
            lacking: lacking(&plan),
            changes,
            plan,
        })
    }

    /// Is all as the manifest says, though it may be yet to run?
    pub fn is_none(&self) -> bool {
        self.same && self.resting.is_empty() && self.lacking.is_empty()
    }

    /// Is there nothing to wait for either?
    pub fn is_settled(&self, status: &AppStatus) -> bool {
        self.is_none() && !self.starting && !status.going_down
    }

    /// Is there something to be made on disk, or to be written down, before the supervisor is asked?
    pub fn is_to_be_made(&self) -> bool {
        !self.same || !self.lacking.is_empty()
    }

    /// Services that go on running without what is gone.
    pub fn run_without(&self) -> Vec<&str> {
        let changed: BTreeSet<&str> = self.changed().collect();
        let running = |name: &&str| !changed.contains(name) && !self.resting.iter().any(|r| r == name);
        self.lacking.iter().map(String::as_str).filter(running).collect()
    }

    /// Services whose sources lead elsewhere than they did when these were started, by a link that was switched. `None`: the manifest says
    /// something else of one, too.
    pub fn moved_sources(&self, status: &AppStatus) -> Option<Vec<String>> {
        let reader = reader(&self.plan);
        let mut out = Vec::new();
        for (name, change) in &self.changes {
            let unit = self.plan.services.iter().find(|s| s.name == *name)?;
            let runs = status.services.iter().find(|s| s.service == *name)?;
            let runs = runs.fingerprints.as_ref()?;
            let now = reader.read(unit);
            if *change != Change::Restart || runs.said != now.said {
                return None;
            }
            // Another file of the same name is followed by any start.
            if runs.process != now.process {
                out.push(name.clone());
            }
        }
        Some(out)
    }

    fn changed(&self) -> impl Iterator<Item = &str> {
        self.changes.iter().map(|(name, _)| name.as_str())
    }

    /// What makes the app this plan.
    pub fn apply(&self, plan: Plan, status: &AppStatus) -> Apply {
        let changed: BTreeSet<&str> = self.changed().collect();
        let kept: BTreeSet<&str> = status.services.iter().map(|s| s.service.as_str()).collect();
        Apply {
            order: plan.services.iter().map(|s| s.name.clone()).collect(),
            resources: of_storage(&plan.storage),
            shared: shared(&plan.storage),
            services: plan
                .services
                .into_iter()
                .filter(|s| changed.contains(s.name.as_str()) || !kept.contains(s.name.as_str()))
                .collect(),
            sandboxes: plan.sandboxes,
            templates: plan.templates,
            subtrees: plan.subtrees,
            only: Vec::new(),
        }
    }

    /// These services and all that they depend on; the first name that no service has, otherwise.
    pub fn with_dependencies<'n>(&self, names: &'n [String]) -> Result<BTreeSet<String>, &'n str> {
        let unit = |name: &str| self.plan.services.iter().find(|s| s.name == name);
        if let Some(unknown) = names.iter().find(|name| unit(name).is_none()) {
            return Err(unknown);
        }
        let (mut all, mut left) = (BTreeSet::new(), names.to_vec());
        while let Some(name) = left.pop() {
            let on = unit(&name).into_iter().flat_map(|unit| &unit.life.depends_on);
            left.extend(on.map(|(on, _)| on.clone()).filter(|on| !all.contains(on)));
            all.insert(name);
        }
        Ok(all)
    }

    /// Leaves alone what rests of the others. The first of those that would change, otherwise: to leave it as it is would be another app
    /// than the manifest's.
    pub fn restrict(&mut self, only: &BTreeSet<String>) -> Result<(), &str> {
        self.resting.retain(|name| only.contains(name));
        match self.changes.iter().find(|(name, _)| !only.contains(name)) {
            Some((name, _)) => Err(name),
            None => Ok(()),
        }
    }
}

fn reader(plan: &Plan) -> FingerprintReader {
    FingerprintReader::new(&plan.app, &plan.privilege, plan.templates.clone())
}

/// Services that are not changed, but in the place of a source of theirs lies another file or folder.
fn replaced(plan: &Plan, status: &AppStatus, changes: &[(String, Change)]) -> Vec<(String, Change)> {
    let changed: BTreeSet<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
    let units: BTreeMap<&str, &Unit> = plan.services.iter().map(|s| (s.name.as_str(), s)).collect();
    let runs = status
        .services
        .iter()
        .filter(|s| s.pid.is_some() && !changed.contains(s.service.as_str()));
    let others = runs.filter(|s| match (&s.sources, units.get(s.service.as_str())) {
        (Some(shown), Some(unit)) => *shown != of_sources(unit, &plan.dirs.app),
        _ => false,
    });
    others.map(|s| (s.service.clone(), Change::Restart)).collect()
}

fn fingerprints(plan: &Plan, runs: &[(String, Fingerprints)]) -> Vec<(String, Fingerprints)> {
    let reader = reader(plan);
    let runs: BTreeMap<&str, &Fingerprints> = runs.iter().map(|(name, of)| (name.as_str(), of)).collect();
    let of = |s: &Unit| {
        (
            s.name.clone(),
            reader.read_beside(s, runs.get(s.name.as_str()).copied()),
        )
    };
    plan.services.iter().map(of).collect()
}

fn running_sandboxes(status: &AppStatus) -> Vec<(String, Fingerprints)> {
    let runs = status.sandboxes.iter();
    runs.filter_map(|s| Some((s.sandbox.clone(), beside_services(s.fingerprint.clone()?))))
        .collect()
}

fn sandboxes(plan: &Plan) -> Vec<(String, Fingerprints)> {
    let of = |s: &plan::Sandbox| beside_services(of_sandbox(s, plan.templates.get(&s.rootfs)));
    plan.sandboxes.iter().map(|s| (s.name.clone(), of(s))).collect()
}

fn is_oneshot(plan: &Plan, name: &str) -> bool {
    let of = plan.services.iter().find(|s| s.name == name);
    of.is_some_and(|s| s.life.kind == ServiceType::Oneshot)
}

fn resting(plan: &Plan, status: &AppStatus, changes: &[(String, Change)]) -> Vec<String> {
    let rests = |s: &&ServiceStatus| matches!(s.state.as_str(), "exited" | "failed" | "stopped" | "stopping");
    status
        .services
        .iter()
        .filter(rests)
        .filter(|s| s.exit_code != Some(0) || !is_oneshot(plan, &s.service))
        .filter(|s| !changes.iter().any(|(name, _)| *name == s.service))
        .map(|s| s.service.clone())
        .collect()
}

fn is_starting(plan: &Plan, service: &ServiceStatus) -> bool {
    match service.state.as_str() {
        "waiting" | "starting" | "restarting" => true,
        "running" => is_oneshot(plan, &service.service),
        _ => false,
    }
}
