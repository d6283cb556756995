//! An app made ready to be started: its ledger written, its data renamed, initialized and owned as planned, its jails built.

use super::error::AppError;
use super::load::{Listener, Loaded};
use super::{renamed, setup};
use crate::host::Dirs;
use crate::jail::store::Store;
use crate::packages;
use crate::plan::lock::{Claim, Deed, Lock};
use crate::plan::{self, Keeping, Ledger, Plan, PlanError, Storage, Unit};
use crate::storage;
use crate::supervise::client::{Client, ClientError};
use std::collections::BTreeSet;
use std::path::Path;

/// The plan with its ledger saved and its storage made: all that a service needs before it starts. `claim`: the right
/// to touch the data, which is to be kept for as long as something runs on it.
pub fn ready(loaded: &Loaded, dirs: &Dirs, claim: &Claim, listener: Listener) -> Result<Plan, AppError> {
    if loaded.model.setup.is_none() && !dirs.initializing().exists() {
        return prepared(loaded, dirs, claim, listener, |_| false);
    }
    let _one = plan::lock::initializing(dirs)?;
    // Of one that was killed.
    storage::staging::clear(&dirs.initializing())?;
    prepared(loaded, dirs, claim, listener, setup::due)
}

/// The same, with the setup script run once more, on an app that is not up.
pub fn setup_again(loaded: &Loaded, dirs: &Dirs, listener: Listener) -> Result<Plan, AppError> {
    if loaded.model.setup.is_none() {
        return Err(AppError::NoScript);
    }
    let app = &loaded.model.app;
    match Client::connect(dirs, app) {
        Err(ClientError::NotUp { .. }) => {}
        Ok(_) => return Err(AppError::IsUp { app: app.clone() }),
        Err(e) => return Err(e.into()),
    }
    let claim = Claim::alone(dirs, Deed::Setup)?;
    let _one = plan::lock::initializing(dirs)?;
    prepared(loaded, dirs, &claim, listener, |_| true)
}

/// `setup`: is its script to be run?
fn prepared(
    loaded: &Loaded,
    dirs: &Dirs,
    claim: &Claim,
    listener: Listener,
    setup: impl Fn(&Plan) -> bool,
) -> Result<Plan, AppError> {
    let mut lock = Lock::take(dirs)?;
    let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
    let before = ledger.clone();
    loaded.claim(&mut ledger, listener)?;
    if storage::purge::sweep(dirs)? {
        ledger.applied.clear();
        ledger.paths.clear();
    }
    renamed::carry_out(loaded, dirs, &mut ledger)?;
    let mut plan = loaded.plan(dirs, &mut ledger)?;
    loaded.compiles(&plan)?;
    plan.notes.extend(loaded.hard_links(&plan)?);
    claim.hold(&plan.app, written(&plan))?;
    ledger.belong_to(&loaded.text.canonical());
    storage::forget_changing(&plan, &mut ledger);
    // Ids first: what is chowned to an id must be on record as that id's.
    if ledger != before {
        ledger.write(dirs, &lock)?;
    }
    let with_scripts = plan.services.iter().chain(plan.setup_script.iter().map(|i| &i.service));
    if !plan.sandboxes.is_empty() || with_scripts.into_iter().any(|s| packages::seen_by(&s.environment)) {
        let wrong = |e| PlanError::io("unpack the Python packages into", packages::folder(&dirs.state), e);
        packages::unpack(&dirs.state).map_err(wrong)?;
    }
    if let Err(e) = packages::collect(&dirs.state) {
        tracing::warn!(
            "remove Python packages of other versions from {}: {e}",
            dirs.state.join("python").display()
        );
    }
    if let Some(setup_script) = plan.setup_script.as_ref().filter(|_| setup(&plan)) {
        // Whose the files are that the script makes is still to be put right.
        ledger.applied.clear();
        ledger.write(dirs, &lock)?;
        // Other apps need not wait for it.
        drop(lock);
        make_jails(loaded, dirs, &plan, listener)?;
        setup::make(&plan, setup_script)?;
        lock = Lock::take(dirs)?;
        ledger = Ledger::read(dirs, &loaded.model.app)?;
    }
    let allocated = ledger.clone();
    let made = storage::prepare(&plan, &mut ledger);
    if ledger != allocated {
        ledger.write(dirs, &lock)?;
    }
    made?;
    make_jails(loaded, dirs, &plan, listener)?;
    Ok(plan)
}

/// Folders of the user's that are changed: adopted, or written to by services.
fn written(plan: &Plan) -> impl Iterator<Item = &Path> {
    let by_services = move |path: &Path| {
        let mut mounts = plan.services.iter().flat_map(|s| &s.mounts);
        mounts.any(|m| m.writable && m.source == path)
    };
    let of = move |s: &&Storage| match s.keeping {
        Keeping::Ours => false,
        Keeping::Adopted => true,
        Keeping::Theirs => by_services(&s.path),
    };
    plan.storage.iter().filter(of).map(|s| s.path.as_path())
}

/// Services of which something on disk is gone that a start would make: a jail, a copy of one, a folder of a resource.
pub fn lacking(plan: &Plan) -> Vec<String> {
    let store = Store::new(&plan.dirs.state);
    let gone = |path: &Path| std::fs::symlink_metadata(path).is_err();
    let lacks = |service: &&Unit| {
        let jail = plan.templates.get(&service.rootfs).and_then(|t| t.jail.as_ref());
        let ours = plan.storage.iter().filter(|s| s.keeping == Keeping::Ours);
        let resources = ours.filter(|s| service.mounts.iter().any(|m| m.source == s.path));
        jail.is_some_and(|hash| !store.has(hash) || !store.has_manifest(hash))
            || service.writable.iter().any(|upper| gone(&upper.lower))
            || resources.into_iter().any(|s| gone(&s.path))
            || packages::seen_by(&service.environment) && gone(&packages::folder(&plan.dirs.state))
    };
    plan.services.iter().filter(lacks).map(|s| s.name.clone()).collect()
}

/// Jails that services of the plan have and that are not there yet.
fn make_jails(loaded: &Loaded, dirs: &Dirs, plan: &Plan, listener: Listener) -> Result<(), AppError> {
    let library = loaded.library(dirs);
    let trees: BTreeSet<String> = plan.templates.values().filter_map(|t| t.jail.clone()).collect();
    // On record before it is there, so that a prune at the same time spares it. What a running app has stays so.
    let store = Store::new(&dirs.state);
    store.set_refs(&plan.app, &trees, dirs.socket().exists())?;
    for template in plan.templates.values() {
        library
            .make(template, Some(listener.building))
            .map_err(|e| loaded.refused(vec![e]))?;
    }
    for service in plan.services.iter().filter(|s| s.writable.is_some()) {
        if let Some(hash) = plan.templates.get(&service.rootfs).and_then(|t| t.jail.as_ref()) {
            store.make_private_tree(hash, service.identity.on_disk())?;
        }
    }
    Ok(())
}
