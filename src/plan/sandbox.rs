//! Sandboxes: what the process is told that makes runs in one, and ids for them.

use super::context::{Context, Findings};
use super::ledger::Ids;
use super::overlap::Overlaps;
use super::{Ledger, PlanError, Storage};
use crate::cause::Reason;
use crate::host::Dirs;
use crate::model::{self, Object, Right, SandboxId, SandboxLimits, Subject};
use crate::values::Isolation;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    pub name: String,
    /// Services that may use it: a socket each.
    pub used_by: Vec<String>,
    pub rootfs: String,
    /// `None` where there is but one id for all.
    pub ids: Option<SandboxIds>,
    pub userdirs: Option<Userdirs>,
    /// Folders of the host's from which runs import.
    pub packages: Vec<PathBuf>,
    pub preload: Vec<String>,
    /// How many runs there may be at once.
    pub uids: u32,
    pub ready: u32,
    pub isolation: Isolation,
    pub limits: SandboxLimits,
}

/// Each number is a UID and a GID, of nobody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxIds {
    /// Id 0 of the namespaces.
    pub keeper: u32,
    /// Of the interpreter that runs are forked from.
    pub warm: u32,
    /// Of runs: this one, and those that follow.
    pub first: u32,
    pub count: u32,
}

/// Where the directories of runs lie.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Userdirs {
    pub resource: String,
    /// As services see it.
    pub shown: String,
    /// On the host.
    pub source: PathBuf,
    /// Whose the files are there.
    pub owner: Ids,
}

/// One a sandbox, in the model's order.
pub(super) fn plan(of: &Context<'_>, storage: &[Storage], overlaps: &Overlaps, found: &mut Findings) -> Vec<Sandbox> {
    let sandboxes = SandboxId::all(&of.model.sandboxes);
    sandboxes.map(|id| one(of, id, storage, overlaps, found)).collect()
}

fn one(of: &Context<'_>, id: SandboxId, storage: &[Storage], overlaps: &Overlaps, found: &mut Findings) -> Sandbox {
    let (model, matrix) = (of.model, of.model.matrix());
    let sandbox = &model.sandboxes[id];
    let (mut userdirs, mut packages) = (None, Vec::new());
    for row in matrix.rows_of(Subject::Sandbox(id)) {
        match (row.object, row.right) {
            (Object::Resource(resource), Right::Touch(_)) => {
                found.errors.extend(overlaps.shown_in(resource));
                userdirs = Some(Userdirs {
                    resource: model.resources[resource].name.clone(),
                    shown: model.resources[resource].path.clone(),
                    source: storage[resource].path.clone(),
                    owner: storage[resource].disk,
                });
            }
            _ => packages.extend(matrix.packages(row.object).map(Path::to_path_buf)),
        }
    }
    let ours = packages.iter().find(|folder| holds_ours(of.dirs, folder));
    found.errors.extend(ours.map(|folder| {
        PlanError::Sandbox {
            name: sandbox.name.clone(),
            reason: Reason::new(format!("its packages in {} hold PySecure's own data", folder.display()))
                .remedy("put the packages into a folder of their own"),
        }
    }));
    let ids = match of.has_one_id() {
        true => None,
        false => {
            let ids = of.ledger.sandbox(sandbox);
            found.errors.extend(ids.is_none().then(|| {
                PlanError::Sandbox {
                    name: sandbox.name.clone(),
                    reason: Reason::new("the ledger does not have its ids in a row, as PySecure gives them")
                        .remedy("restore the ledger from a backup, or give the sandbox another name"),
                }
            }));
            ids
        }
    };
    let users = matrix.users(id).map(|user| model.services[user].name.clone());
    Sandbox {
        name: sandbox.name.clone(),
        used_by: users.collect(),
        rootfs: sandbox.rootfs.clone(),
        ids,
        userdirs,
        packages,
        preload: sandbox.preload.clone(),
        uids: sandbox.uids,
        ready: sandbox.ready,
        isolation: sandbox.isolation,
        limits: sandbox.limits.clone(),
    }
}

/// Would who sees this folder see data of apps, or what says whose they are?
fn holds_ours(dirs: &Dirs, folder: &Path) -> bool {
    let run = dirs.run.parent().unwrap_or(&dirs.run);
    let ours = [
        dirs.locks(),
        dirs.state.join("apps"),
        dirs.state.join("jails"),
        run.to_owned(),
    ];
    ours.iter()
        .any(|own| own.starts_with(folder) || folder.starts_with(own))
}

/// The names under which the ledger has a sandbox's ids. No service can be called so.
pub(super) struct IdNames<'s>(pub &'s str);

impl IdNames<'_> {
    pub(super) fn keeper(&self) -> String {
        format!("{}/keeper", self.0)
    }

    pub(super) fn warm(&self) -> String {
        format!("{}/warm", self.0)
    }

    pub(super) fn run(&self, number: u32) -> String {
        format!("{}/{number}", self.0)
    }
}

impl Ledger {
    /// The ids of a sandbox that [`Ledger::allocate`] has seen.
    pub fn sandbox(&self, sandbox: &model::Sandbox) -> Option<SandboxIds> {
        let names = IdNames(&sandbox.name);
        let id = |name: String| {
            self.services
                .get(&name)
                .filter(|ids| ids.uid == ids.gid)
                .map(|ids| ids.uid)
        };
        let first = id(names.run(0))?;
        let in_a_row = (0..sandbox.uids).all(|n| id(names.run(n)) == first.checked_add(n));
        in_a_row.then_some(SandboxIds {
            keeper: id(names.keeper())?,
            warm: id(names.warm())?,
            first,
            count: sandbox.uids,
        })
    }
}
