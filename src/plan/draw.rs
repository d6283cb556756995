//! The plan itself, drawn up from model, ledger and host.

use super::context::{Context, Findings};
use super::ledger::{Ledger, Siblings};
use super::overlap::{Leak, Subtree};
use super::service::Services;
use super::template::{Library, Template};
use super::{
    Keeping, Mounts, Overlaps, PlanError, Sandbox, SetupScript, Storage, Unit, Viewer, host, installed, ledger, links,
    overlap, sandbox, setup, storage,
};
use crate::host::{Dirs, Privilege};
use crate::model::{Matrix, Model, assert};
use std::collections::BTreeMap;
use std::path::PathBuf;

#[derive(Clone, Debug)]
pub struct Plan {
    pub app: String,
    pub privilege: Privilege,
    pub dirs: Dirs,
    pub storage: Vec<Storage>,
    pub services: Vec<Unit>,
    pub sandboxes: Vec<Sandbox>,
    pub templates: BTreeMap<String, Template>,
    /// Who makes the first content of the resources, if the manifest names a script.
    pub setup_script: Option<SetupScript>,
    /// What the services could meet on disk, and who may do what with it.
    pub subtrees: Vec<Subtree>,
    /// What the user should know before relying on this: one sentence each.
    pub notes: Vec<String>,
}

impl Plan {
    /// A plan that keeps nothing: it has no place on disk.
    pub fn without_data(app: &str, privilege: &Privilege, templates: BTreeMap<String, Template>) -> Plan {
        Plan {
            app: app.to_owned(),
            privilege: privilege.clone(),
            dirs: Dirs {
                state: PathBuf::new(),
                app: PathBuf::new(),
                run: PathBuf::new(),
                external: PathBuf::new(),
            },
            storage: Vec::new(),
            services: Vec::new(),
            sandboxes: Vec::new(),
            templates,
            setup_script: None,
            subtrees: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Below these lies what PySecure keeps for the app, or what was adopted: files are owned there as the manifest says.
    pub fn kept(&self) -> Vec<PathBuf> {
        let adopted = self.storage.iter().filter(|s| s.keeping == Keeping::Adopted);
        let adopted = adopted.map(|s| s.path.clone());
        std::iter::once(self.dirs.app.clone()).chain(adopted).collect()
    }
}

/// Templates by name.
type Templates = BTreeMap<String, Template>;

/// Draws up the plan. `ledger` gains an entry for every name that it does not hold yet; saving it is the
/// caller's affair, so that `check` can plan without a trace.
pub fn draw(
    model: &Model,
    privilege: &Privilege,
    dirs: &Dirs,
    templates: &Library,
    ledger: &mut Ledger,
) -> Result<Plan, Vec<PlanError>> {
    let mut found = Findings::default();
    allocate(model, privilege, dirs, ledger, &mut found);
    if !found.errors.is_empty() {
        return Err(found.errors);
    }
    let of = Context {
        model,
        ledger: &*ledger,
        privilege,
        dirs,
    };
    found.notes.extend(host::notes(model, of.ledger, privilege));
    let used = load(&of, templates, &mut found);
    let storage = storage::plan(&of, &mut found);
    found.errors.extend(storage::external(model, &storage));
    let overlaps = overlaps(&of, &storage, &used, templates, &mut found);
    let mut leaks: Vec<Leak> = Vec::new();
    let services = Services::new(of, &storage, &used, &overlaps).draw(&mut leaks, &mut found);
    found.notes.extend(installed::notes(&services, |name| used.get(name)));
    let setup_script = model.setup.as_ref().map(|script| {
        let mut drawn = setup::plan(&of, script, &storage, used.get(&script.rootfs), &mut found);
        let unit = &mut drawn.service;
        let viewer = Viewer {
            service: &unit.name,
            rootfs: &unit.rootfs,
            identity: &unit.identity,
        };
        leaks.extend(overlaps.restrict(&viewer, of.is_closed(), &mut unit.mounts));
        drawn
    });
    let sandboxes = sandbox::plan(&of, &storage, &overlaps, &mut found);
    found.errors.extend(overlaps.errors(&leaks));
    let wrong = broken(model, &overlaps, &services, of.is_closed(), std::iter::empty());
    found.errors.extend(wrong);
    found.errors.dedup();
    if !found.errors.is_empty() {
        return Err(found.errors);
    }
    found.notes.dedup();
    tracing::debug!(
        app = model.app,
        ?privilege,
        services = services.len(),
        uids = ?of.ledger.uid_range,
        gids = ?of.ledger.gid_range,
        "planned"
    );
    Ok(Plan {
        app: model.app.clone(),
        privilege: privilege.clone(),
        dirs: dirs.clone(),
        storage,
        services,
        sandboxes,
        templates: used,
        setup_script,
        subtrees: overlaps.into_subtrees(),
        notes: found.notes,
    })
}

/// Gives ids to what has none yet, and looks whether they are free here.
fn allocate(model: &Model, privilege: &Privilege, dirs: &Dirs, ledger: &mut Ledger, found: &mut Findings) {
    let siblings = ledger::siblings(dirs, &model.app).unwrap_or_else(|e| {
        found.errors.push(e);
        Siblings::default()
    });
    let wrong = ledger.allocate(model, &siblings, privilege, &mut found.notes);
    found.errors.extend(wrong);
    if found.errors.is_empty() {
        let external = [model.external_uid, model.external_gid];
        found.errors.extend(host::collisions(ledger, privilege, external));
    }
}

/// The rootfs templates that anything of the app has.
fn load(of: &Context<'_>, templates: &Library, found: &mut Findings) -> Templates {
    let mut used = Templates::new();
    let setup = of.model.setup.as_ref().map(|i| &i.rootfs);
    let sandboxes = of.model.sandboxes.iter().map(|s| &s.rootfs);
    let services = of.model.services.iter().map(|s| &s.rootfs);
    for rootfs in services.chain(setup).chain(sandboxes) {
        if !used.contains_key(rootfs) {
            match templates.load(rootfs) {
                Ok(template) => drop(used.insert(rootfs.clone(), template)),
                Err(e) => found.errors.push(e),
            }
        }
    }
    used
}

/// What the services could meet on disk.
fn overlaps(
    of: &Context<'_>,
    storage: &[Storage],
    used: &Templates,
    templates: &Library,
    found: &mut Findings,
) -> Overlaps {
    let subtrees = overlap::subtrees(of.model.matrix(), storage, of.dirs, used.values(), templates.rules());
    let overlaps = match Mounts::read() {
        Ok(mounts) => Overlaps::new(subtrees, &mounts),
        Err(e) => {
            found.errors.push(e);
            Overlaps::default()
        }
    };
    found.errors.extend(overlaps.own_data_named());
    let adopted = storage.iter().filter(|s| s.keeping == Keeping::Adopted);
    let adopted = adopted.map(|s| s.resource.as_str()).collect();
    found.errors.extend(overlaps.own_data_adopted(&adopted));
    overlaps
}

/// Has the matrix closed over what lies on disk.
pub fn on_disk<T>(
    model: &Model,
    plan: &Plan,
    links: &HardLinks,
    then: impl FnOnce(Matrix<'_>) -> T,
) -> Result<T, PlanError> {
    let overlaps = Overlaps::new(plan.subtrees.clone(), &Mounts::read()?);
    let closed = plan.privilege != Privilege::OneId;
    let disk = overlap::Aliases::new(&overlaps, &plan.services, closed, links.found.pairs());
    Ok(then(model.matrix().over(&disk)))
}

/// Assertions that hold of names, but not of what lies on disk. `links`: hard links between subtrees, which
/// [`draw`] does not look for.
fn broken(
    model: &Model,
    overlaps: &Overlaps,
    services: &[Unit],
    closed: bool,
    links: impl Iterator<Item = (usize, usize, PathBuf)>,
) -> Vec<PlanError> {
    if model.assertions.is_empty() {
        return Vec::new();
    }
    let disk = overlap::Aliases::new(overlaps, services, closed, links);
    let found = assert::check(model.matrix().over(&disk));
    found.into_iter().map(|b| PlanError::Broken(Box::new(b))).collect()
}

/// Files with names in several resources.
pub struct HardLinks {
    found: links::Links,
    /// What was not looked at.
    pub notes: Vec<String>,
}

/// What [`draw`] does not look for, since it takes a look at every file: hard links between resources. An error if they
/// let a service do what it may not.
pub fn hard_links(model: &Model, plan: &Plan) -> Result<HardLinks, Vec<PlanError>> {
    let found = links::find(&plan.subtrees);
    if !found.is_empty() {
        let mounts = Mounts::read().map_err(|e| vec![e])?;
        let overlaps = Overlaps::new(plan.subtrees.clone(), &mounts);
        let mut errors = overlaps.errors(&found.leaks(&overlaps, &plan.services));
        let closed = plan.privilege != Privilege::OneId;
        errors.extend(broken(model, &overlaps, &plan.services, closed, found.pairs()));
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    let note = |path: &PathBuf| {
        format!(
            "{} holds too many files to look for hard links of them in other resources within a second: if there are \
             any, whoever may read those reads these",
            path.display()
        )
    };
    Ok(HardLinks {
        notes: found.unseen.iter().map(note).collect(),
        found,
    })
}
