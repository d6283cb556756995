//! Manifest → Model: names are resolved, defaults filled in, and what only makes sense together is
//! checked together.

use super::source::Base;
use super::{
    Bundle, BundleId, BundlePlaces, EXTERNAL, Model, OPERATOR, Places, ResourceId, SandboxId, ServiceId, Setup,
    Subject, assert, life, matrix, nesting, network, ranges, renames, resources, sandboxes, services, shadow,
};
use crate::former;
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At, Manifest};
use crate::values::ResourceKind;
use std::collections::{BTreeMap, HashMap};

/// Builds the model of a manifest whose relative sources start from `base`, and says all that is wrong.
/// With an error among the diagnostics the model is not to be used further.
pub fn build(manifest: &Manifest, base: &Base) -> (Model, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let names = Names::collect(manifest);
    let mut model = Model {
        app: manifest.app.name.value.clone(),
        uid_range: manifest.app.uid_range.as_ref().map(|r| r.value),
        gid_range: manifest.app.gid_range.as_ref().map(|r| r.value),
        external_uid: manifest.app.external_uid.as_ref().map(|u| u.value),
        external_gid: manifest.app.external_gid.as_ref().map(|g| g.value),
        places: places(&manifest.app),
        ..Model::default()
    };
    resources::declare(&mut model, manifest, base, &mut found);
    model.setup = setup(&manifest.app, base, &mut found);
    model.rpc_max_message = largest(&manifest.app, &mut found);
    services::declare(&mut model, manifest, &names, &mut found);
    bundles(&mut model, manifest, &names, &mut found);
    owners(&mut model, manifest, &names, &mut found);
    sandboxes::declare(&mut model, manifest, base, &names, &mut found);
    model.index = matrix::Index::of(&model);
    life::check(&model, manifest, &names, &mut found);
    network::check(manifest, &mut found);
    sandboxes::check(&model, &mut found);
    nesting::check(&mut model, &mut found);
    shadow::check(&model, base, &mut found);
    renames::check(manifest, &mut found);
    ranges::check(&model, manifest, &mut found);
    pointless(&model, &mut found);
    model.assertions = assert::read(&manifest.assert, &names, &mut found);
    found.extend(assert::check(model.matrix()).iter().map(assert::Broken::located));
    (model, found)
}

fn places(app: &types::App) -> Places {
    let name = app.name.span.clone();
    let of = |range: &Option<At<[u32; 2]>>| range.as_ref().map_or_else(|| name.clone(), |r| r.span.clone());
    let id = |id: &Option<At<u32>>| id.as_ref().map_or_else(|| name.clone(), |id| id.span.clone());
    Places {
        external_uid: id(&app.external_uid),
        external_gid: id(&app.external_gid),
        uid_range: of(&app.uid_range),
        gid_range: of(&app.gid_range),
        app: name.clone(),
    }
}

/// Where each declared name stands; indices agree with the model's.
pub(super) struct Names<'m> {
    resources: HashMap<&'m str, ResourceId>,
    /// Paths of `code`, which stand behind the resources.
    code: HashMap<&'m str, ResourceId>,
    bundles: HashMap<&'m str, BundleId>,
    services: HashMap<&'m str, ServiceId>,
    sandboxes: HashMap<&'m str, SandboxId>,
    external: bool,
}

impl<'m> Names<'m> {
    fn collect(manifest: &'m Manifest) -> Self {
        fn index<T, Id>(table: &types::Named<T>, id: fn(usize) -> Id) -> HashMap<&str, Id> {
            let names = table.iter().map(|(name, _)| name.value.as_str());
            names.enumerate().map(|(at, name)| (name, id(at))).collect()
        }
        Names {
            resources: index(&manifest.resources, ResourceId::new),
            code: {
                let paths = manifest.app.code.iter().map(|(path, _)| path.value.as_str());
                let ids = (manifest.resources.len()..).map(ResourceId::new);
                paths.zip(ids).collect()
            },
            bundles: index(&manifest.bundles, BundleId::new),
            services: index(&manifest.services, ServiceId::new),
            sandboxes: index(&manifest.sandboxes, SandboxId::new),
            external: manifest.app.external_uid.is_some(),
        }
    }

    pub(super) fn resource(&self, name: &str) -> Option<ResourceId> {
        self.resources.get(name).copied()
    }

    /// A resource, or a code folder by `code:PATH`.
    pub(super) fn object(&self, name: &str) -> Option<ResourceId> {
        let code = name.strip_prefix("code:").and_then(|path| self.code.get(path).copied());
        self.resource(name).or(code)
    }

    pub(super) fn service(&self, name: &str) -> Option<ServiceId> {
        self.services.get(name).copied()
    }

    pub(super) fn sandbox(&self, name: &str) -> Option<SandboxId> {
        self.sandboxes.get(name).copied()
    }

    pub(super) fn subject(&self, name: &str) -> Option<Subject> {
        if let Some(id) = self.service(name) {
            return Some(Subject::Service(id));
        }
        match name {
            OPERATOR => Some(Subject::Operator),
            EXTERNAL => self.external.then_some(Subject::External),
            _ => self.sandbox(name).map(Subject::Sandbox),
        }
    }

    /// The sentence for a name that nothing declares, with the nearest one that something does.
    pub(super) fn undeclared(&self, what: &str, name: &str) -> String {
        if name == EXTERNAL && what == "service" {
            return "`external` is named, but `external_uid` is not set in [app]".into();
        }
        if let Some(new) = former::value(name).filter(|_| what == "service") {
            return format!("there is no service `{name}`: {}", former::now(new));
        }
        let table: Vec<&str> = match what {
            "resource" => self.resources.keys().copied().collect(),
            "bundle" => self.bundles.keys().copied().collect(),
            "sandbox" => self.sandboxes.keys().copied().collect(),
            _ => self.services.keys().copied().collect(),
        };
        let nearest = table.iter().map(|k| (strsim::damerau_levenshtein(name, k), *k)).min();
        match nearest {
            Some((distance, near)) if distance <= 1 + name.len() / 4 => {
                format!("no {what} is called `{name}`; did you mean `{near}`?")
            }
            _ => format!("no {what} is called `{name}`"),
        }
    }

    pub(super) fn unknown(&self, what: &str, at: &At<String>) -> Diagnostic {
        Diagnostic::error(at.span.clone(), self.undeclared(what, &at.value)).help(format!(
            "declare it as [{}.{}], or correct the name",
            tables(what),
            at.value
        ))
    }
}

/// The table that such things are declared in.
fn tables(what: &str) -> String {
    match what {
        "sandbox" => "sandboxes".to_owned(),
        _ => format!("{what}s"),
    }
}

/// A field that failed to decode was reported there, and has no place in the text.
pub(super) fn reported<T>(at: &At<T>) -> bool {
    at.span.is_empty()
}

pub(super) fn flag(at: &Option<At<bool>>) -> bool {
    at.as_ref().is_some_and(|f| f.value)
}

fn setup(app: &types::App, base: &Base, found: &mut Vec<Diagnostic>) -> Option<Setup> {
    let Some(at) = app.setup.as_ref().filter(|at| !reported(at)) else {
        if let (None, Some(rootfs)) = (&app.setup, &app.setup_jail) {
            found.push(
                Diagnostic::error(rootfs.span.clone(), "`setup_jail` is set, but `setup` is not")
                    .help("name the script as `setup`, or take this out"),
            );
        }
        return None;
    };
    let mut wrong = |why: String| {
        let text = format!("setup \"{}\" {why}", at.value);
        found.push(Diagnostic::error(at.span.clone(), text).help("name a script beside the manifest"));
        None
    };
    match base.find(&at.value) {
        Err(why) => wrong(why),
        Ok(there) if there.kind == ResourceKind::Directory => wrong("is a directory, not a script".into()),
        Ok(there) => Some(Setup {
            script: there.path,
            rootfs: app
                .setup_jail
                .as_ref()
                .map_or_else(|| "host".to_owned(), |r| r.value.clone()),
            span: at.span.clone(),
        }),
    }
}

/// Less could not hold what goes without a memfd, and more would be the memory of a whole service.
fn largest(app: &types::App, found: &mut Vec<Diagnostic>) -> Option<u64> {
    let at = app.rpc_max_message.as_ref().filter(|at| !reported(at))?;
    if !(64 << 10..=1 << 30).contains(&at.value) {
        let text = format!("`rpc_max_message` is {} bytes", at.value);
        found.push(Diagnostic::error(at.span.clone(), text).help("write a size from \"64K\" to \"1G\""));
    }
    Some(at.value)
}

fn bundles(model: &mut Model, manifest: &Manifest, names: &Names, found: &mut Vec<Diagnostic>) {
    for (at, (name, table)) in manifest.bundles.iter().enumerate() {
        let id = BundleId::new(at);
        let mut members = BTreeMap::new();
        for at in &table.resources {
            match names.resource(&at.value) {
                None => found.push(names.unknown("resource", at)),
                Some(resource) => {
                    if members.insert(resource, at.span.clone()).is_some() {
                        found.push(
                            Diagnostic::error(
                                at.span.clone(),
                                format!("bundle `{}` names `{}` twice", name.value, at.value),
                            )
                            .help("once is enough"),
                        );
                    } else {
                        model.resources[resource].bundles.push(id);
                    }
                }
            }
        }
        model.bundles.push(Bundle {
            name: name.value.clone(),
            resources: members.keys().copied().collect(),
            members: Vec::new(),
            used_by_external: flag(&table.used_by_external),
            span: name.span.clone(),
            places: BundlePlaces {
                resources: members.into_values().collect(),
                used_by_external: table
                    .used_by_external
                    .as_ref()
                    .map_or_else(|| name.span.clone(), |at| at.span.clone()),
            },
        });
    }
    for (at, (_, table)) in manifest.services.iter().enumerate() {
        let service = ServiceId::new(at);
        let mut used = BTreeMap::new();
        for at in &table.bundles {
            match names.bundles.get(at.value.as_str()) {
                None => found.push(names.unknown("bundle", at)),
                Some(bundle) if used.contains_key(bundle) => {
                    found.push(
                        Diagnostic::error(at.span.clone(), format!("bundle `{}` is named twice", at.value))
                            .help("once is enough"),
                    );
                }
                Some(bundle) => {
                    used.insert(*bundle, at.span.clone());
                    model.bundles[*bundle].members.push(service);
                }
            }
        }
        model.services[service].bundles = used.keys().copied().collect();
        model.services[service].places.bundles = used.into_values().collect();
    }
}

fn owners(model: &mut Model, manifest: &Manifest, names: &Names, found: &mut Vec<Diagnostic>) {
    let mut claimed: HashMap<ResourceId, &At<String>> = HashMap::new();
    for (at, (_, table)) in manifest.services.iter().enumerate() {
        let service = ServiceId::new(at);
        for at in &table.owner_resources {
            let Some(resource) = names.resource(&at.value) else {
                found.push(names.unknown("resource", at));
                continue;
            };
            if let Some(first) = claimed.insert(resource, at) {
                found.push(
                    Diagnostic::error(at.span.clone(), format!("resource `{}` has two owners", at.value))
                        .other(first.span.clone(), "first claimed here")
                        .help("a file has one owner; share it through a bundle instead"),
                );
            } else if model.resources[resource].owner == Some(Subject::External) {
                found.push(
                    Diagnostic::error(
                        at.span.clone(),
                        format!("resource `{}` is owned by the external service as well", at.value),
                    )
                    .other(
                        model.resources[resource].span.clone(),
                        "`owned_by_external` is set here",
                    )
                    .help("a file has one owner; share it through a bundle instead"),
                );
            } else {
                model.resources[resource].owner = Some(Subject::Service(service));
                model.services[service].owns.push(resource);
                model.services[service].places.owns.push(at.span.clone());
            }
        }
    }
}

/// Permissions that nobody can use are no danger, but hardly what was meant.
fn pointless(model: &Model, found: &mut Vec<Diagnostic>) {
    for resource in model.resources.iter().filter(|r| !r.path.is_empty()) {
        if resource.owner.is_none() && resource.declared.owner.any() {
            found.push(
                Diagnostic::warning(
                    resource.span.clone(),
                    format!(
                        "nobody owns `{}`, so its `owner` permissions serve nobody",
                        resource.name
                    ),
                )
                .help("list it in a service's owner_resources, or leave `owner` out"),
            );
        }
        if resource.bundles.is_empty() && resource.declared.bundle.any() {
            found.push(
                Diagnostic::warning(
                    resource.span.clone(),
                    format!(
                        "`{}` is in no bundle, so its `bundle` permissions serve nobody",
                        resource.name
                    ),
                )
                .help("list it in a bundle, or leave `bundle` out"),
            );
        }
    }
}
