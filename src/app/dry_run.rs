//! What `up` would fail on although the plan can be drawn, at the manifest's lines where it has some: for `check` and
//! `up --dry-run`. Nothing on the host is changed.

use super::error::AppError;
use super::limits;
use super::load::Loaded;
use crate::bundle::Bundle;
use crate::compile::{CompileError, effects};
use crate::host::{Dirs, Privilege};
use crate::jail::listing::Listing;
use crate::jail::store::Store;
use crate::launch::dry_run::{self, Trouble, View};
use crate::manifest::diagnostic::{Diagnostic, Severity};
use crate::model::life::Ready;
use crate::model::{Model, ResourceId, SETUP_SCRIPT, Service};
use crate::plan::{self, Plan};
use crate::supervise::{self, network};
use crate::values::Question;
use crate::values::ResourceKind;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

#[derive(Default)]
pub struct Found {
    /// Errors and warnings.
    pub located: Vec<Diagnostic>,
    /// What lies with this host or this shell, and would be refused.
    pub refused: Vec<String>,
    pub notes: Vec<String>,
}

pub fn find(loaded: &Loaded, plan: &Plan) -> Result<Found, AppError> {
    let model = &loaded.model;
    let coming = coming(loaded, plan)?;
    let kept = plan.kept();
    let others = plan.privilege != Privilege::OneId;
    let mut found = Found::default();
    // Most services have the same mounts as others.
    let mut tried: BTreeSet<String> = BTreeSet::new();
    for (service, planned) in model.services.iter().zip(&plan.services) {
        let folder = plan.dirs.bundle(&service.name);
        let bundle = match effects(plan, planned, &folder) {
            Ok(bundle) => bundle,
            Err(error) => {
                found.located.push(does_not_compile(&error, &service.span));
                continue;
            }
        };
        let view = View::new(&bundle, &folder, &kept, &coming, others);
        let (directory, environment) = (Path::new(&planned.directory), &planned.environment);
        let mut add = |trouble: Option<Trouble>, at: &Range<usize>| {
            found.located.extend(trouble.map(|t| diagnostic(t, &service.name, at)));
        };
        let outside = view.directory(directory);
        let nowhere = outside.is_some();
        add(outside, &service.places.directory);
        let from_there = |command: &[String]| match command.first() {
            // What is wrong with the directory has been said.
            Some(program) if nowhere && !program.starts_with('/') && program.contains('/') => None,
            _ => view.command(command, directory, environment),
        };
        add(from_there(&planned.command), &service.places.command);
        for command in probes(service) {
            // It is asked again and again: what is not there may come.
            let trouble = from_there(command);
            add(trouble.map(|t| Trouble { fatal: false, ..t }), &service.span);
        }
        mounts(model, plan, &bundle, &mut tried, &mut found.located);
    }
    if let (Some(setup_script), Some(setup)) = (&plan.setup_script, &model.setup) {
        let folder = plan.dirs.bundle(SETUP_SCRIPT);
        match effects(plan, &setup_script.service, &folder) {
            Err(error) => found.located.push(does_not_compile(&error, &setup.span)),
            Ok(bundle) => {
                let of = &setup_script.service;
                // Its copy of the script is yet to be made; what runs it has to be there.
                let program = of.command.first().filter(|p| !p.starts_with("/run/pysecure/")).cloned();
                let command: Vec<String> = program.into_iter().collect();
                let view = View::new(&bundle, &folder, &kept, &coming, others);
                let trouble = view.command(&command, Path::new("/"), &of.environment);
                found
                    .located
                    .extend(trouble.map(|t| diagnostic(t, SETUP_SCRIPT, &setup.span)));
                mounts(model, plan, &bundle, &mut tried, &mut found.located);
            }
        }
    }
    host(model, plan, &mut found);
    found.located.extend(exposed(loaded, &plan.dirs));
    Ok(found)
}

/// Folders that all services may read, and what is in them that looks as if it were not for them.
pub fn exposed(loaded: &Loaded, dirs: &Dirs) -> Vec<Diagnostic> {
    let model = &loaded.model;
    let own = [loaded.text.canonical(), dirs.state.clone(), dirs.run.clone()];
    let mut out = Vec::new();
    for (id, resource) in ResourceId::all(&model.resources).zip(&model.resources) {
        let Some(source) = resource.source.as_ref() else {
            continue;
        };
        if resource.kind != ResourceKind::Directory || !model.matrix().by_class(id).perms.global.read {
            continue;
        }
        let below = |r: &crate::model::Resource| {
            let inside = r.mount_path().strip_prefix(resource.path.as_str())?.strip_prefix('/')?;
            Some(PathBuf::from(inside))
        };
        let inner: Vec<PathBuf> = model.resources.iter().filter_map(below).collect();
        let exposed = plan::exposed::find(source, &resource.exclude, &inner, &own);
        if exposed.names.is_empty() {
            continue;
        }
        let more = match exposed.more {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let partly = if exposed.partly {
            "; the folder is large, and not all of it was looked at"
        } else {
            ""
        };
        let message = format!(
            "all services can read {}{more} in `{}`{partly}",
            exposed.names.join(", "),
            resource.name
        );
        let patterns: Vec<String> = exposed.patterns.iter().map(|p| format!("\"{p}\"")).collect();
        let patterns = patterns.join(", ");
        let help = match resource.name.strip_prefix("code:") {
            Some(path) => format!(
                "leave them out: {{ \"{path}\" = {{ source = \"…\", exclude = [{patterns}] }} }}; a pattern with `!` before it \
                 says that one is meant to be seen"
            ),
            None => {
                format!("leave them out: exclude = [{patterns}]; a pattern with `!` before it says that one is meant")
            }
        };
        out.push(Diagnostic::warning(resource.source_at.clone(), message).help(help));
    }
    out
}

/// Trees that a start would make first: jails that are not built, and services' own copies of them.
fn coming(loaded: &Loaded, plan: &Plan) -> Result<BTreeMap<PathBuf, Listing>, AppError> {
    let store = Store::new(&plan.dirs.state);
    let library = loaded.library(&plan.dirs);
    let mut out = BTreeMap::new();
    for template in plan.templates.values() {
        let Some(hash) = &template.jail else { continue };
        let own = plan
            .services
            .iter()
            .filter(|s| s.rootfs == template.name)
            .filter_map(|s| s.writable.as_ref().map(|w| w.lower.clone()));
        let trees: Vec<PathBuf> = own.chain([store.tree(hash)]).filter(|tree| !tree.is_dir()).collect();
        if !trees.is_empty() {
            let listing = library.listing(&template.name)?;
            out.extend(trees.into_iter().map(|tree| (tree, listing.clone())));
        }
    }
    Ok(out)
}

fn probes(service: &Service) -> impl Iterator<Item = &[String]> {
    let ready = match &service.life.ready {
        Ready::Probe(probe) => Some(probe),
        _ => None,
    };
    let all = ready.into_iter().chain(&service.life.health);
    all.filter_map(|probe| match &probe.question {
        Question::Command(command) => Some(command.as_slice()),
        _ => None,
    })
}

fn diagnostic(trouble: Trouble, service: &str, at: &Range<usize>) -> Diagnostic {
    let message = format!("`{service}`: {}", trouble.message);
    let out = if trouble.fatal {
        Diagnostic::error(at.clone(), message)
    } else {
        Diagnostic::warning(at.clone(), message)
    };
    out.help(trouble.help)
}

fn does_not_compile(error: &CompileError, at: &Range<usize>) -> Diagnostic {
    Diagnostic::of(at.clone(), error, error.help().as_deref())
}

/// Idmapped mounts, which not every file system has. An ordinary user has none of them.
fn mounts(model: &Model, plan: &Plan, bundle: &Bundle, tried: &mut BTreeSet<String>, found: &mut Vec<Diagnostic>) {
    if plan.privilege != Privilege::Root {
        return;
    }
    for mount in bundle.spec.mounts().iter().flatten() {
        let Some(source) = mount.source().as_ref().filter(|_| mount.uid_mappings().is_some()) else {
            continue;
        };
        if !tried.insert(source.display().to_string()) {
            continue;
        }
        let Some(cause) = dry_run::mount(mount) else { continue };
        let Some(resource) = model
            .resources
            .iter()
            .find(|r| Path::new(r.mount_path()) == mount.destination())
        else {
            continue;
        };
        let help = match &resource.source {
            Some(_) => format!(
                "write chown = true for `{}` to have PySecure change its owner, or move it to ext4, xfs, btrfs or tmpfs",
                resource.name
            ),
            None => "keep the data elsewhere, by --state-dir: on ext4, xfs, btrfs or tmpfs".to_owned(),
        };
        let message = format!("`{}`: {cause}", resource.name);
        found.push(Diagnostic::error(resource.source_at.clone(), message).help(help));
    }
}

/// What does not lie with a line of the manifest, but with this host.
fn host(model: &Model, plan: &Plan, found: &mut Found) {
    // A limit of this shell; `up` may be run by something with another.
    if let Err(error) = supervise::enough_descriptors(&plan.services) {
        found.notes.push(error.to_string());
    }
    let lacking = limits::foreseen(&plan.services);
    found.refused.extend(lacking.refused);
    found.notes.extend(lacking.notes);
    for (service, planned) in model.services.iter().zip(&plan.services) {
        if planned.egress
            && let Err(error) = network::way_out(&planned.name, &plan.privilege)
        {
            found
                .located
                .push(Diagnostic::of(service.span.clone(), &error, error.help()));
        }
        let published = planned.publish.iter().map(|p| ("publish", p.address));
        let listened = planned.listen.iter().map(|address| ("listen on", *address));
        for (operation, address) in listened.chain(published) {
            if let Some(reason) = supervise::cannot_bind(address, &plan.privilege) {
                let text = format!("`{}`: {operation} {address}: {reason}", planned.name);
                found.located.push(Diagnostic {
                    // systemd may bind it and hand it over.
                    severity: match operation {
                        "publish" => Severity::Error,
                        _ => Severity::Warning,
                    },
                    ..Diagnostic::of(service.span.clone(), &text, reason.help())
                });
            }
        }
    }
}
