//! Manifest → Model: names are resolved, defaults filled in, and what only makes sense together is
//! checked together.

use super::source::Base;
use super::{
    Bundle, BundleId, ClassPerms, DYNAMIC, Exclude, INITIALIZE, Initialize, Model, OPERATOR, Places, Resource,
    ResourceId, Service, ServiceId, ServicePlaces, Subject, assert, life, limits, logs, nesting, network, path,
    renames, shadow,
};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At, Manifest};
use crate::values::{Callable, Perms, ResourceKind};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;

/// Builds the model of a manifest whose relative sources start from `base`, and says all that is wrong.
/// With an error among the diagnostics the model is not to be used further.
pub fn build(manifest: &Manifest, base: &Base) -> (Model, Vec<Diagnostic>) {
    let mut found = Vec::new();
    let names = Names::collect(manifest);
    let mut model = Model {
        app: manifest.app.name.value.clone(),
        uid_range: manifest.app.uid_range.as_ref().map(|r| r.value),
        gid_range: manifest.app.gid_range.as_ref().map(|r| r.value),
        dynamic_uid: manifest.app.dynamic_svc_uid.as_ref().map(|u| u.value),
        dynamic_gid: manifest.app.dynamic_svc_gid.as_ref().map(|g| g.value),
        places: places(&manifest.app),
        ..Model::default()
    };
    resources(&mut model, manifest, base, &mut found);
    model.initialize = initialize(&manifest.app, base, &mut found);
    model.rpc_largest = largest(&manifest.app, &mut found);
    services(&mut model, manifest, &names, &mut found);
    bundles(&mut model, manifest, &names, &mut found);
    owners(&mut model, manifest, &names, &mut found);
    model.index_everyone();
    life::check(&model, manifest, &names, &mut found);
    network::check(manifest, &mut found);
    nesting::check(&mut model, &mut found);
    shadow::check(&model, base, &mut found);
    renames::check(manifest, &mut found);
    ids(&model, manifest, &mut found);
    pointless(&model, &mut found);
    assert::check(&model, &manifest.never, &names, &mut found);
    (model, found)
}

fn places(app: &types::App) -> Places {
    let name = app.name.span.clone();
    let of = |range: &Option<At<[u32; 2]>>| range.as_ref().map_or_else(|| name.clone(), |r| r.span.clone());
    let id = |id: &Option<At<u32>>| id.as_ref().map_or_else(|| name.clone(), |id| id.span.clone());
    Places {
        dynamic_uid: id(&app.dynamic_svc_uid),
        dynamic_gid: id(&app.dynamic_svc_gid),
        uid_range: of(&app.uid_range),
        gid_range: of(&app.gid_range),
        app: name.clone(),
    }
}

/// Where each declared name stands; indices agree with the model's.
pub(super) struct Names<'m> {
    resources: HashMap<&'m str, ResourceId>,
    bundles: HashMap<&'m str, BundleId>,
    services: HashMap<&'m str, ServiceId>,
    dynamic: bool,
}

impl<'m> Names<'m> {
    fn collect(manifest: &'m Manifest) -> Self {
        fn index<T, Id>(table: &types::Named<T>, id: fn(usize) -> Id) -> HashMap<&str, Id> {
            let names = table.iter().map(|(name, _)| name.value.as_str());
            names.enumerate().map(|(at, name)| (name, id(at))).collect()
        }
        Names {
            resources: index(&manifest.resources, ResourceId::new),
            bundles: index(&manifest.bundles, BundleId::new),
            services: index(&manifest.services, ServiceId::new),
            dynamic: manifest.app.dynamic_svc_uid.is_some(),
        }
    }

    pub(super) fn resource(&self, name: &str) -> Option<ResourceId> {
        self.resources.get(name).copied()
    }

    pub(super) fn service(&self, name: &str) -> Option<ServiceId> {
        self.services.get(name).copied()
    }

    pub(super) fn subject(&self, name: &str) -> Option<Subject> {
        match self.service(name) {
            Some(id) => Some(Subject::Service(id)),
            None if name == OPERATOR => Some(Subject::Operator),
            None => (name == DYNAMIC && self.dynamic).then_some(Subject::Dynamic),
        }
    }

    /// The sentence for a name that nothing declares, with the nearest one that something does.
    pub(super) fn undeclared(&self, what: &str, name: &str) -> String {
        if name == DYNAMIC && what == "service" {
            return "`dynamic` is named, but `dynamic_svc_uid` is not set in [app]".into();
        }
        let table: Vec<&str> = match what {
            "resource" => self.resources.keys().copied().collect(),
            "bundle" => self.bundles.keys().copied().collect(),
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

    fn unknown(&self, what: &str, at: &At<String>) -> Diagnostic {
        Diagnostic::error(at.span.clone(), self.undeclared(what, &at.value))
            .help(format!("declare it as [{what}s.{}], or correct the name", at.value))
    }
}

/// A field that failed to decode was reported there, and has no place in the text.
fn reported<T>(at: &At<T>) -> bool {
    at.span.is_empty()
}

fn flag(at: &Option<At<bool>>) -> bool {
    at.as_ref().is_some_and(|f| f.value)
}

fn resources(model: &mut Model, manifest: &Manifest, base: &Base, found: &mut Vec<Diagnostic>) {
    let mut locate = |source: &At<String>| match base.find(&source.value) {
        Ok(there) => Some(there),
        Err(why) => {
            found.push(Diagnostic::error(
                source.span.clone(),
                format!("source \"{}\" {why}", source.value),
            ));
            None
        }
    };
    /// A path as it is written, a kind if one is, and the rest.
    type Declared<'m> = (&'m At<String>, Option<&'m At<ResourceKind>>, Resource);
    let mut declared: Vec<Declared<'_>> = Vec::new();
    let mut excludes = Vec::new();
    for (name, table) in &manifest.resources {
        let there = table.source.as_ref().filter(|s| !reported(s)).and_then(&mut locate);
        let first = table.initial.as_ref().filter(|s| !reported(s));
        let initial = first.and_then(|at| Some((at, locate(at)?)));
        let perms = |p: &Option<At<Perms>>| p.as_ref().map(|p| p.value).unwrap_or_default();
        let kind = match (&table.kind, there.as_ref().or(initial.as_ref().map(|(_, there)| there))) {
            (_, Some(there)) => there.kind,
            (Some(kind), None) => kind.value,
            (None, None) => kind_of_name(&table.path.value),
        };
        declared.push((
            &table.path,
            table.kind.as_ref(),
            Resource {
                name: name.value.clone(),
                path: String::new(),
                kind,
                source: there.map(|t| t.path),
                initial: initial.map(|(_, there)| there.path),
                was: table.was.as_ref().filter(|at| !reported(at)).map(|at| at.value.clone()),
                was_at: table
                    .was
                    .as_ref()
                    .map_or_else(|| name.span.clone(), |at| at.span.clone()),
                owner: flag(&table.owned_by_dynamic_svc).then_some(Subject::Dynamic),
                bundles: Vec::new(),
                perms: ClassPerms {
                    owner: perms(&table.owner),
                    bundle: perms(&table.bundle),
                    global: perms(&table.global),
                },
                adopt: flag(&table.adopt),
                exclude: Exclude::read(&table.exclude, &mut excludes),
                write_as_root: flag(&table.write_as_root),
                parent: None,
                with_directory: false,
                span: name.span.clone(),
                source_at: table
                    .source
                    .as_ref()
                    .map_or_else(|| name.span.clone(), |s| s.span.clone()),
            },
        ));
    }
    for (path, code) in &manifest.app.code {
        let source = &code.source;
        let there = if reported(source) { None } else { locate(source) };
        declared.push((
            path,
            None,
            Resource {
                name: format!("code:{}", path.value),
                path: String::new(),
                kind: there.as_ref().map_or(ResourceKind::Directory, |t| t.kind),
                source: there.map(|t| t.path),
                initial: None,
                was: None,
                was_at: path.span.clone(),
                owner: None,
                bundles: Vec::new(),
                perms: ClassPerms {
                    global: Perms {
                        read: true,
                        write: false,
                        exec: true,
                        connect: false,
                    },
                    ..ClassPerms::default()
                },
                adopt: false,
                exclude: Exclude::read(&code.exclude, &mut excludes),
                write_as_root: false,
                parent: None,
                with_directory: false,
                span: path.span.clone(),
                source_at: source.span.clone(),
            },
        ));
    }
    for (path, kind, mut resource) in declared {
        if !reported(path) {
            match path::normal(&path.value) {
                Ok(normal) => resource.path = normal,
                Err(why) => found.push(Diagnostic::error(
                    path.span.clone(),
                    format!("path \"{}\" {why}", path.value),
                )),
            }
        }
        let given = resource.source.is_some() || resource.initial.is_some();
        if let Some(kind) = kind.filter(|k| given && k.value != resource.kind) {
            found.push(
                Diagnostic::error(
                    kind.span.clone(),
                    format!("the source of `{}` is {}", resource.name, kind_name(resource.kind)),
                )
                .help("leave `kind` out, or correct `source`"),
            );
        }
        model.resources.push(resource);
    }
    found.append(&mut excludes);
    for (name, table) in &manifest.resources {
        if let (Some(initial), Some(source)) = (&table.initial, &table.source) {
            found.push(
                Diagnostic::error(
                    initial.span.clone(),
                    format!("`{}` has a `source`, which holds what it holds", name.value),
                )
                .other(source.span.clone(), "named here")
                .help("take `initial` out; or take `source` out to have PySecure keep a copy"),
            );
        }
    }
    for (name, table) in &manifest.resources {
        if let Some(first) = table.exclude.first().filter(|_| table.source.is_none()) {
            found.push(
                Diagnostic::error(
                    first.span.clone(),
                    format!("`{}` has no source to leave anything out of", name.value),
                )
                .help("PySecure keeps this resource itself; take `exclude` out, or name a `source`"),
            );
        }
        if let Some(adopt) = table.adopt.as_ref().filter(|a| a.value && table.source.is_none()) {
            found.push(
                Diagnostic::error(adopt.span.clone(), format!("`{}` has no source to adopt", name.value))
                    .help("PySecure keeps this resource itself; take `adopt` out, or name a `source`"),
            );
        }
        if let Some(key) = table
            .write_as_root
            .as_ref()
            .filter(|key| key.value && table.source.is_none())
        {
            found.push(
                Diagnostic::error(
                    key.span.clone(),
                    format!("`{}` has no source that could be root's", name.value),
                )
                .help("PySecure keeps this resource itself; take `write_as_root` out, or name a `source`"),
            );
        }
    }
}

fn initialize(app: &types::App, base: &Base, found: &mut Vec<Diagnostic>) -> Option<Initialize> {
    let Some(at) = app.initialize.as_ref().filter(|at| !reported(at)) else {
        if let (None, Some(rootfs)) = (&app.initialize, &app.initialize_rootfs) {
            found.push(
                Diagnostic::error(
                    rootfs.span.clone(),
                    "`initialize_rootfs` is set, but `initialize` is not",
                )
                .help("name the script as `initialize`, or take this out"),
            );
        }
        return None;
    };
    let mut wrong = |why: String| {
        let text = format!("initialize \"{}\" {why}", at.value);
        found.push(Diagnostic::error(at.span.clone(), text).help("name a script beside the manifest"));
        None
    };
    match base.find(&at.value) {
        Err(why) => wrong(why),
        Ok(there) if there.kind == ResourceKind::Directory => wrong("is a directory, not a script".into()),
        Ok(there) => Some(Initialize {
            script: there.path,
            rootfs: app
                .initialize_rootfs
                .as_ref()
                .map_or_else(|| "host".to_owned(), |r| r.value.clone()),
            span: at.span.clone(),
        }),
    }
}

/// Less could not hold what goes without a memfd, and more would be the memory of a whole service.
fn largest(app: &types::App, found: &mut Vec<Diagnostic>) -> Option<u64> {
    let at = app.rpc_largest.as_ref().filter(|at| !reported(at))?;
    if !(64 << 10..=1 << 30).contains(&at.value) {
        let text = format!("`rpc_largest` is {} bytes", at.value);
        found.push(Diagnostic::error(at.span.clone(), text).help("write a size from \"64K\" to \"1G\""));
    }
    Some(at.value)
}

/// Without a source, the path's shape tells: `/data/` and `/data` are directories, `/a.db` a file.
fn kind_of_name(path: &str) -> ResourceKind {
    let base = path.rsplit('/').next().unwrap_or("");
    if base.trim_start_matches('.').contains('.') {
        ResourceKind::File
    } else {
        ResourceKind::Directory
    }
}

pub fn kind_name(kind: ResourceKind) -> &'static str {
    match kind {
        ResourceKind::File => "a file",
        ResourceKind::Directory => "a directory",
    }
}

fn services(model: &mut Model, manifest: &Manifest, names: &Names, found: &mut Vec<Diagnostic>) {
    let mut bound: BTreeMap<SocketAddr, &At<String>> = BTreeMap::new();
    for (name, table) in &manifest.services {
        if matches!(
            name.value.as_str(),
            DYNAMIC | OPERATOR | INITIALIZE | "listen" | "keeper"
        ) {
            found.push(
                Diagnostic::error(
                    name.span.clone(),
                    format!("a service cannot be called `{}`", name.value),
                )
                .label("PySecure uses this word itself")
                .help(format!("call it `{}svc`", name.value)),
            );
        }
        let directory = match &table.directory {
            None => "/".to_owned(),
            Some(at) if at.value.trim_end_matches('/').is_empty() && at.value.starts_with('/') => "/".to_owned(),
            Some(at) if reported(at) => "/".to_owned(),
            Some(at) => path::normal(&at.value).unwrap_or_else(|why| {
                found.push(Diagnostic::error(
                    at.span.clone(),
                    format!("directory \"{}\" {why}", at.value),
                ));
                "/".to_owned()
            }),
        };
        let mut listen = Vec::new();
        for at in &table.listen {
            match at.value.parse::<SocketAddr>() {
                Err(_) => found.push(address_error(at, "to listen on")),
                Ok(address) if address.port() == 0 => {
                    found.push(
                        Diagnostic::error(at.span.clone(), format!("\"{}\" has port 0", at.value))
                            .help("name the port that clients connect to, 1 to 65535"),
                    );
                }
                Ok(address) => match bound.insert(address, at) {
                    Some(first) => found.push(
                        Diagnostic::error(at.span.clone(), format!("{address} is listened on twice"))
                            .other(first.span.clone(), "first here")
                            .help("give one of them another port"),
                    ),
                    None => listen.push(address),
                },
            }
        }
        let mut callers: Vec<(Subject, Callable)> = Vec::new();
        for (caller, callable) in table.callers.iter().flatten() {
            match names.subject(&caller.value) {
                None => found.push(names.unknown("service", caller)),
                Some(Subject::Service(id)) if manifest.services[id.position()].0.value == name.value => {
                    found.push(
                        Diagnostic::error(
                            caller.span.clone(),
                            format!("`{}` names itself as a caller", name.value),
                        )
                        .help("a service needs no grant to call its own functions; take it out"),
                    );
                }
                Some(subject) => callers.push((subject, callable.value.clone())),
            }
        }
        if let Some(at) = table
            .rpc_tracebacks
            .as_ref()
            .filter(|at| at.value && callers.is_empty())
        {
            found.push(
                Diagnostic::error(
                    at.span.clone(),
                    format!("`{}` shows its callers tracebacks, but nobody may call it", name.value),
                )
                .help("name its `callers`, or take this out"),
            );
        }
        callers.sort_by_key(|c| c.0);
        model.services.push(Service {
            name: name.value.clone(),
            was: table.was.as_ref().filter(|at| !reported(at)).map(|at| at.value.clone()),
            command: table.command.value.clone(),
            directory,
            owns: Vec::new(),
            bundles: Vec::new(),
            runs_with_root: flag(&table.runs_with_root),
            rootfs: table
                .rootfs
                .as_ref()
                .map_or_else(|| "host".to_owned(), |r| r.value.clone()),
            writable: table.writable.as_ref().map(|w| w.value).unwrap_or_default(),
            callers,
            rpc_tracebacks: flag(&table.rpc_tracebacks),
            listen,
            network: table.network.as_ref().map(|n| n.value).unwrap_or_default(),
            publish: network::read(&table.publish, found),
            egress: flag(&table.egress),
            environment: table
                .environment
                .iter()
                .map(|(k, v)| (k.value.clone(), v.value.clone()))
                .collect(),
            life: life::read(name, table, names, found),
            limits: limits::read(name, table, found),
            logs: logs::read(table, found),
            span: name.span.clone(),
            places: ServicePlaces {
                command: table.command.span.clone(),
                directory: table
                    .directory
                    .as_ref()
                    .map_or_else(|| name.span.clone(), |d| d.span.clone()),
            },
        });
    }
}

/// `what`: what the address is for, such as "to listen on".
pub(super) fn address_error(at: &At<String>, what: &str) -> Diagnostic {
    let text = &at.value;
    let help = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && matches!(host, "localhost" | "") => {
            format!("write \"127.0.0.1:{port}\"")
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            format!("names are not looked up; write an address, such as \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
        }
        _ if text.parse::<u16>().is_ok() => {
            format!("write \"127.0.0.1:{text}\" for this machine alone, or \"0.0.0.0:{text}\" for everybody")
        }
        _ => "write ADDRESS:PORT, such as \"127.0.0.1:8080\"".to_owned(),
    };
    Diagnostic::error(at.span.clone(), format!("\"{text}\" is no address {what}")).help(help)
}

fn bundles(model: &mut Model, manifest: &Manifest, names: &Names, found: &mut Vec<Diagnostic>) {
    for (at, (name, table)) in manifest.bundles.iter().enumerate() {
        let id = BundleId::new(at);
        let mut members = BTreeSet::new();
        for at in &table.resources {
            match names.resource(&at.value) {
                None => found.push(names.unknown("resource", at)),
                Some(resource) => {
                    if !members.insert(resource) {
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
            resources: members.into_iter().collect(),
            members: Vec::new(),
            used_by_dynamic: flag(&table.used_by_dynamic_svc),
        });
    }
    for (at, (_, table)) in manifest.services.iter().enumerate() {
        let service = ServiceId::new(at);
        for at in &table.bundles {
            match names.bundles.get(at.value.as_str()) {
                None => found.push(names.unknown("bundle", at)),
                Some(bundle) if model.services[service].bundles.contains(bundle) => {
                    found.push(
                        Diagnostic::error(at.span.clone(), format!("bundle `{}` is named twice", at.value))
                            .help("once is enough"),
                    );
                }
                Some(bundle) => {
                    model.services[service].bundles.push(*bundle);
                    model.bundles[*bundle].members.push(service);
                }
            }
        }
        model.services[service].bundles.sort_unstable();
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
            } else if model.resources[resource].owner == Some(Subject::Dynamic) {
                found.push(
                    Diagnostic::error(
                        at.span.clone(),
                        format!("resource `{}` is owned by the dynamic service as well", at.value),
                    )
                    .other(
                        model.resources[resource].span.clone(),
                        "`owned_by_dynamic_svc` is set here",
                    )
                    .help("a file has one owner; share it through a bundle instead"),
                );
            } else {
                model.resources[resource].owner = Some(Subject::Service(service));
                model.services[service].owns.push(resource);
            }
        }
    }
}

/// How many UIDs and GIDs an app needs, the keeper's among them.
pub fn needed_ids(model: &Model) -> (u64, u64) {
    let sets: BTreeSet<&[BundleId]> = model
        .resources
        .iter()
        .map(|r| r.bundles.as_slice())
        .filter(|b| b.len() > 1)
        .collect();
    let others = u64::from(model.initialize.is_some()) + u64::from(model.has_unowned());
    let services = model.services.len() as u64 + 1 + others;
    (services, services + model.bundles.len() as u64 + sets.len() as u64)
}

fn ids(model: &Model, manifest: &Manifest, found: &mut Vec<Diagnostic>) {
    let (uids, gids) = needed_ids(model);
    for (range, key, needed, dynamic) in [
        (
            &manifest.app.uid_range,
            "uid_range",
            uids,
            &manifest.app.dynamic_svc_uid,
        ),
        (
            &manifest.app.gid_range,
            "gid_range",
            gids,
            &manifest.app.dynamic_svc_gid,
        ),
    ] {
        let Some(range) = range.as_ref().filter(|r| !reported(r)) else {
            continue;
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
        if let Some(dynamic) = dynamic.as_ref().filter(|d| (low..=high).contains(&d.value)) {
            found.push(
                Diagnostic::error(
                    dynamic.span.clone(),
                    format!("the dynamic service's id {} lies in {key}", dynamic.value),
                )
                .other(range.span.clone(), "from which services get theirs")
                .help("the dynamic service has an id of its own; move the range"),
            );
        }
    }
    let needs_uid = manifest
        .resources
        .iter()
        .filter_map(|(_, r)| r.owned_by_dynamic_svc.as_ref())
        .find(|f| f.value);
    if let Some(at) = needs_uid.filter(|_| model.dynamic_uid.is_none()) {
        found.push(
            Diagnostic::error(at.span.clone(), "the dynamic service owns this, but has no UID")
                .help("write dynamic_svc_uid in [app], such as 33 for Debian's www-data"),
        );
    }
    let used: Vec<_> = manifest
        .bundles
        .iter()
        .filter_map(|(_, b)| b.used_by_dynamic_svc.as_ref())
        .filter(|f| f.value)
        .collect();
    if let (Some(at), None) = (used.first(), model.dynamic_gid) {
        found.push(
            Diagnostic::error(at.span.clone(), "the dynamic service uses this bundle, but has no GID")
                .help("write dynamic_svc_gid in [app], such as 33 for Debian's www-data; it becomes the bundle's GID"),
        );
    }
    if let [first, second, ..] = used[..] {
        found.push(
            Diagnostic::error(
                second.span.clone(),
                "the dynamic service uses two bundles, but has one GID",
            )
            .other(first.span.clone(), "first here")
            .help("put the resources into one bundle"),
        );
    }
    for resource in &model.resources {
        if resource.bundles.len() > 1 && resource.bundles.iter().any(|b| model.bundles[*b].used_by_dynamic) {
            found.push(
                Diagnostic::error(
                    resource.span.clone(),
                    format!(
                        "resource `{}` is in two bundles, one of them the dynamic service's",
                        resource.name
                    ),
                )
                .label("it would need a GID that the dynamic service does not have")
                .help("leave it in one bundle"),
            );
        }
    }
}

/// Permissions that nobody can use are no danger, but hardly what was meant.
fn pointless(model: &Model, found: &mut Vec<Diagnostic>) {
    for resource in model.resources.iter().filter(|r| !r.path.is_empty()) {
        if resource.owner.is_none() && resource.perms.owner.any() {
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
        if resource.bundles.is_empty() && resource.perms.bundle.any() {
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
