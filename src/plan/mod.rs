//! From what a manifest means to what this host will do: ids from the ledger, directories on disk,
//! and for every service the mounts, identity and environment that its grants come to.
//!
//! A plan is data. Making it reads the host and may write the ledger ([`ledger`]); it mounts, chowns
//! and starts nothing. Two plans of one manifest and one ledger are equal.

mod error;
pub mod exposed;
mod extents;
mod hide;
mod host;
mod initialize;
mod installed;
pub mod ledger;
pub mod leftover;
mod links;
pub mod lock;
mod mounts;
mod overlap;
mod storage;
pub mod template;

pub use error::PlanError;
pub use extents::Mounts;
pub use hide::again as hide_again;
pub use initialize::Initializer;
pub use ledger::Ledger;
pub use overlap::{Ground, Place};
pub use storage::{Holding, Initial, Keeping, Ownership, Storage, Who};

use crate::host::{Dirs, Privilege};
use crate::jail::store::Store;
use crate::model::{
    Exclude, Grant, Life, Limits, Logs, Matrix, Model, Object, Publish, ResourceId, Right, ServiceId, Subject, assert,
    indexed_by,
};
use crate::packages;
use crate::values::{Callable, Network, Perms, Writable};
use ledger::{Ids, Siblings};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

indexed_by!(ResourceId: Storage);

#[derive(Clone, Debug)]
pub struct Plan {
    pub app: String,
    pub privilege: Privilege,
    pub dirs: Dirs,
    pub storage: Vec<Storage>,
    pub services: Vec<Unit>,
    pub templates: BTreeMap<String, template::Template>,
    /// Who makes the first content of the resources, if the manifest names a script.
    pub initializer: Option<Initializer>,
    /// What the services could meet on disk, and who may do what with it.
    pub places: Vec<Place>,
    /// What the user should know before relying on this: one sentence each.
    pub notes: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    pub name: String,
    pub identity: Identity,
    pub command: Vec<String>,
    pub directory: String,
    /// Sorted by key. `LISTEN_*` are the launcher's to add.
    pub environment: BTreeMap<String, String>,
    /// umask(2).
    #[serde(default = "private")]
    pub umask: u32,
    pub rootfs: String,
    /// How it can write to its root, if it may.
    #[serde(default)]
    pub writable: Option<Upper>,
    /// Outer mounts before those that lie in them.
    pub mounts: Vec<Mount>,
    pub network: Network,
    pub publish: Vec<Publish>,
    pub egress: bool,
    /// Its resolv.conf(5): the host's where it shares the host's network, a forwarder's where it may connect to the
    /// outside, else empty.
    pub resolver: String,
    pub listen: Vec<SocketAddr>,
    /// Who may call this one: a listening socket each.
    pub callers: Vec<String>,
    /// The host's id of the dynamic service, if that may call this one, and files can be given to it.
    #[serde(default)]
    pub dynamic_uid: Option<u32>,
    /// Services that this one may call.
    pub callees: Vec<String>,
    /// What the spec does not hold: it is the supervisor's to carry out.
    pub life: Life,
    pub limits: Limits,
    /// What the supervisor does with its output; likewise.
    pub logs: Logs,
}

impl Unit {
    /// Has it a socket to speak sd_notify(3) on? Services that are called hand over their figures there.
    pub fn notifies(&self) -> bool {
        self.life.notifies() || !self.callers.is_empty()
    }

    /// Makes of it what is run beside the app, without a supervisor: nobody calls it, or hears what it says of itself.
    pub fn stand_alone(&mut self) {
        self.life = Life::default();
        self.callers.clear();
        for variable in ["NOTIFY_SOCKET", "WATCHDOG_USEC"] {
            self.environment.remove(variable);
        }
    }
}

/// An overlay over a jail. A service has no right to what belongs to others, so below lies a copy of the jail that is
/// its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upper {
    /// The copy, in the store of jails.
    pub lower: PathBuf,
    /// Where what it writes is kept. `None`: in memory.
    pub kept: Option<PathBuf>,
}

/// Who a service is, in the ids of the namespace that PySecure itself runs in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// The GIDs of its bundles and their names, sorted by id.
    pub groups: Vec<(u32, String)>,
    /// The UIDs and names of services that may connect to sockets which this one makes, sorted by id: in its namespace
    /// they have their own ids, by which SO_PEERCRED tells them apart.
    #[serde(default)]
    pub peers: Vec<(u32, String)>,
    /// Id 0 of the service's namespace. `None` where there is but one id in all.
    pub keeper: Option<Ids>,
    /// Is the service root inside its namespace?
    pub root_inside: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Path as the service sees it.
    pub target: String,
    /// Host path, free of links.
    pub source: PathBuf,
    pub directory: bool,
    /// Is it of our own keeping, and its owner or group one that the service's namespace does not map?
    pub foreign: bool,
    pub writable: bool,
    pub executable: bool,
    /// Owner on disk ↔ owner as the service sees it. Each is shown as the other, and every other id as itself.
    pub idmap: Option<IdMap>,
    /// Mount points, relative to `target`, that `source` lacks and that a layer of ours supplies.
    pub missing: Vec<MountPoint>,
    /// What `source` holds and the service is not to see, relative to `target`.
    #[serde(default)]
    pub hidden: Vec<String>,
    /// What of that is looked for anew at each start.
    #[serde(default)]
    pub exclude: Exclude,
    /// The same for what nobody can take away and put something else in the place of.
    #[serde(default)]
    pub masked: Vec<String>,
    /// The row of the access matrix that it carries out. `None`: what is mounted is no resource.
    #[serde(default)]
    pub grant: Option<Grant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub disk: Ids,
    pub seen: Ids,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountPoint {
    pub path: String,
    pub directory: bool,
}

/// Draws up the plan. `ledger` gains an entry for every name that it does not hold yet; saving it is the
/// caller's affair, so that `check` can plan without a trace.
pub fn draw(
    model: &Model,
    privilege: &Privilege,
    dirs: &Dirs,
    templates: &template::Library,
    ledger: &mut Ledger,
) -> Result<Plan, Vec<PlanError>> {
    let mut errors = Vec::new();
    let siblings = ledger::siblings(dirs, &model.app).unwrap_or_else(|e| {
        errors.push(e);
        Siblings::default()
    });
    let mut notes = Vec::new();
    errors.extend(ledger.allocate(model, &siblings, privilege, &mut notes));
    if errors.is_empty() {
        errors.extend(host::collisions(
            ledger,
            privilege,
            [model.dynamic_uid, model.dynamic_gid],
        ));
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    notes.extend(host::notes(model, ledger, privilege));
    let mut used = BTreeMap::new();
    let initialize = model.initialize.as_ref().map(|i| &i.rootfs);
    for rootfs in model.services.iter().map(|s| &s.rootfs).chain(initialize) {
        if !used.contains_key(rootfs) {
            match templates.load(rootfs) {
                Ok(template) => drop(used.insert(rootfs.clone(), template)),
                Err(e) => errors.push(e),
            }
        }
    }
    let storage = storage::plan(model, ledger, privilege, dirs, &mut notes, &mut errors);
    errors.extend(storage::dynamic(model, &storage));
    let places = overlap::places(model.matrix(), &storage, dirs, used.values(), templates.rules());
    let ground = match Mounts::read() {
        Ok(mounts) => Ground::new(places, &mounts),
        Err(e) => {
            errors.push(e);
            Ground::default()
        }
    };
    errors.extend(ground.own_data_named());
    let mut leaks = Vec::new();
    let closed = *privilege != Privilege::OneId;
    let mut services = Vec::with_capacity(model.services.len());
    let matrix = model.matrix();
    let mut by_acl: BTreeMap<&Path, Vec<&Ownership>> = BTreeMap::new();
    for place in storage.iter().filter(|s| s.ownership.inherited) {
        by_acl.entry(&place.path).or_default().push(&place.ownership);
    }
    for (id, service) in ServiceId::all(&model.services).zip(&model.services) {
        let identity = identity(model, id, ledger, privilege);
        let own = Ids {
            uid: identity.uid,
            gid: identity.gid,
        };
        let mut mounts = mounts::plan(
            matrix,
            Subject::Service(id),
            own,
            privilege,
            &storage,
            used.get(&service.rootfs),
            &mut errors,
        );
        leaks.extend(ground.settle(&service.name, &service.rootfs, closed, &mut mounts));
        errors.extend(
            ground
                .under_layers(&mounts)
                .into_iter()
                .filter(|e| !errors.contains(e))
                .collect::<Vec<_>>(),
        );
        let writable = used
            .get(&service.rootfs)
            .and_then(|template| {
                upper(service, &identity, template, dirs)
                    .map_err(|e| errors.push(e))
                    .ok()
            })
            .flatten();
        services.push(Unit {
            name: service.name.clone(),
            environment: environment(matrix, id, &identity, used.get(&service.rootfs)),
            identity,
            umask: umask(&mounts, &by_acl),
            command: service.command.clone(),
            directory: service.directory.clone(),
            rootfs: service.rootfs.clone(),
            writable,
            mounts,
            network: service.network,
            publish: service.publish.clone(),
            egress: service.egress,
            resolver: match service.network {
                Network::Host => host::resolver(),
                _ if service.egress => format!("nameserver {EGRESS_RESOLVER}\n"),
                _ => String::new(),
            },
            listen: service.listen.clone(),
            callers: matrix
                .calls_to(id)
                .map(|row| model.subject_name(row.subject).to_owned())
                .collect(),
            dynamic_uid: (*privilege == Privilege::Root && matrix.call(Subject::Dynamic, id).is_some())
                .then_some(model.dynamic_uid)
                .flatten(),
            callees: matrix
                .calls_by(Subject::Service(id))
                .iter()
                .filter_map(|row| match row.object {
                    Object::Functions(callee) => Some(model.services[callee].name.clone()),
                    _ => None,
                })
                .collect(),
            life: service.life.clone(),
            limits: service.limits.clone(),
            logs: service.logs.clone(),
        });
    }
    let mut initializer = model.initialize.as_ref().map(|i| {
        initialize::plan(
            model,
            i,
            ledger,
            privilege,
            dirs,
            &storage,
            used.get(&i.rootfs),
            &mut errors,
        )
    });
    if let Some(of) = &mut initializer {
        leaks.extend(ground.settle(&of.service.name, &of.service.rootfs, closed, &mut of.service.mounts));
    }
    errors.extend(ground.errors(&leaks));
    errors.extend(broken(model, &ground, &services, closed, std::iter::empty()));
    errors.dedup();
    if !errors.is_empty() {
        return Err(errors);
    }
    notes.extend(installed::notes(&services, |name| used.get(name)));
    notes.dedup();
    tracing::debug!(
        app = model.app,
        ?privilege,
        services = services.len(),
        uids = ?ledger.uid_range,
        gids = ?ledger.gid_range,
        "planned"
    );
    Ok(Plan {
        app: model.app.clone(),
        privilege: privilege.clone(),
        dirs: dirs.clone(),
        storage,
        services,
        templates: used,
        initializer,
        places: ground.into_places(),
        notes,
    })
}

/// Has the matrix closed over what lies on disk, hard links aside.
pub fn on_disk<T>(model: &Model, plan: &Plan, then: impl FnOnce(Matrix<'_>) -> T) -> Result<T, PlanError> {
    let ground = Ground::new(plan.places.clone(), &Mounts::read()?);
    let closed = plan.privilege != Privilege::OneId;
    let disk = overlap::Aliases::new(&ground, &plan.services, closed, std::iter::empty());
    Ok(then(model.matrix().over(&disk)))
}

/// Assertions that hold of names, but not of what lies on disk. `links`: hard links between places, which
/// [`draw`] does not look for.
fn broken(
    model: &Model,
    ground: &Ground,
    services: &[Unit],
    closed: bool,
    links: impl Iterator<Item = (usize, usize, PathBuf)>,
) -> Vec<PlanError> {
    if model.assertions.is_empty() {
        return Vec::new();
    }
    let disk = overlap::Aliases::new(ground, services, closed, links);
    let found = assert::check(model.matrix().over(&disk));
    found.into_iter().map(|b| PlanError::Broken(Box::new(b))).collect()
}

/// What [`draw`] does not look for, since it takes a look at every file: hard links between resources that let a
/// service do what it may not. Notes say what was not looked at.
pub fn hard_links(model: &Model, plan: &Plan) -> Result<Vec<String>, Vec<PlanError>> {
    let found = links::find(&plan.places);
    if !found.is_empty() {
        let mounts = Mounts::read().map_err(|e| vec![e])?;
        let ground = Ground::new(plan.places.clone(), &mounts);
        let mut errors = ground.errors(&found.leaks(&ground, &plan.services));
        let closed = plan.privilege != Privilege::OneId;
        errors.extend(broken(model, &ground, &plan.services, closed, found.pairs()));
        if !errors.is_empty() {
            return Err(errors);
        }
    }
    let note = |path: PathBuf| {
        format!(
            "{} holds too many files to look for hard links of them in other resources within a second: if there are \
             any, whoever may read those reads these",
            path.display()
        )
    };
    Ok(found.unseen.into_iter().map(note).collect())
}

fn upper(
    service: &crate::model::Service,
    identity: &Identity,
    template: &template::Template,
    dirs: &Dirs,
) -> Result<Option<Upper>, PlanError> {
    if service.writable == Writable::No {
        return Ok(None);
    }
    let Some(jail) = &template.jail else {
        return Err(PlanError::Template {
            name: service.rootfs.clone(),
            cause: format!(
                "binds the host's directories, which `{}` may not write to; give it a jail, such as \"minimal\", or take \
                 `writable` out",
                service.name
            ),
        });
    };
    Ok(Some(Upper {
        lower: Store::new(&dirs.state).private_tree(jail, identity.on_disk()),
        kept: (service.writable == Writable::Kept).then(|| dirs.roots().join(&service.name)),
    }))
}

impl Identity {
    /// Owner and group of what is the service's, as files have them.
    pub fn on_disk(&self) -> (u32, u32) {
        match self.keeper {
            Some(_) => (self.uid, self.gid),
            // One id in all, which is 0 in the outer namespace.
            None => (0, 0),
        }
    }
}

/// What each caller may call, as the RPC library reads it (docs/rpc-protocol.md).
fn rpc_callers(matrix: Matrix<'_>, callee: ServiceId) -> String {
    let callers = matrix.calls_to(callee).map(|row| {
        let granted = match row.right {
            Right::Call(Callable::All) => serde_json::Value::from("*"),
            Right::Call(Callable::Functions(names)) => serde_json::Value::from(names.clone()),
            Right::Touch(_) | Right::Use => serde_json::Value::Array(Vec::new()),
        };
        (matrix.model.subject_name(row.subject).to_owned(), granted)
    });
    serde_json::Value::Object(callers.collect()).to_string()
}

/// The umask of a service that shares nothing by mode.
pub(crate) const fn private() -> u32 {
    0o077
}

/// A default ACL decides in place of the umask, but not for sockets: bind(2) takes the umask off first. So what a
/// service shares with others by mode, its umask leaves to the ACL.
///
/// `by_acl`: what a default ACL holds, by its place on disk.
fn umask(mounts: &[Mount], by_acl: &BTreeMap<&Path, Vec<&Ownership>>) -> u32 {
    let mut out = private();
    for mount in mounts.iter().filter(|m| m.writable) {
        for of in by_acl.get(mount.source.as_path()).into_iter().flatten() {
            if of.bundle != 0 || !of.named.is_empty() {
                out &= !0o070;
            }
            if of.global != 0 {
                out &= !0o007;
            }
        }
    }
    out
}

fn identity(model: &Model, id: ServiceId, ledger: &Ledger, privilege: &Privilege) -> Identity {
    let service = &model.services[id];
    let own = ledger.service(&service.name);
    let groups = match privilege {
        Privilege::OneId => Vec::new(),
        _ => ledger.groups_of(model, id),
    };
    let one_id = matches!(privilege, Privilege::OneId);
    Identity {
        uid: own.uid,
        gid: own.gid,
        groups,
        peers: if one_id || service.runs_with_root {
            Vec::new()
        } else {
            peers(model, id, ledger)
        },
        keeper: (!matches!(privilege, Privilege::OneId)).then_some(ledger.keeper),
        root_inside: service.runs_with_root,
    }
}

/// So many peers a service has at most: each may take a line of its namespace's map, which takes few.
const MOST_PEERS: usize = 200;

/// Who may, as owner or by a bundle, connect to sockets in a directory that this service writes. To be mapped gives the
/// service nothing but their number: it has no capability in its namespace, so it can neither become one of them nor
/// give a file away, and shares no process and no mount with them.
fn peers(model: &Model, server: ServiceId, ledger: &Ledger) -> Vec<(u32, String)> {
    let mut found = std::collections::BTreeSet::new();
    let matrix = model.matrix();
    for row in matrix.resources(Subject::Service(server)) {
        let (Object::Resource(id), Right::Touch(Perms { write: true, .. })) = (row.object, row.right) else {
            continue;
        };
        let resource = &model.resources[id];
        let members = resource
            .bundles
            .iter()
            .flat_map(|b| &model.bundles[*b].members)
            .copied();
        let owner = match resource.owner {
            Some(Subject::Service(owner)) => Some(owner),
            _ => None,
        };
        let others = members.chain(owner).filter(|other| *other != server);
        found.extend(others.filter(|other| matrix.perms(Subject::Service(*other), id).connects()));
        if found.len() > MOST_PEERS {
            return Vec::new();
        }
    }
    let name = |id: ServiceId| model.services[id].name.clone();
    let mut out: Vec<_> = found
        .into_iter()
        .map(|id| (ledger.service(&model.services[id].name).uid, name(id)))
        .collect();
    out.sort_unstable();
    out
}

/// Where a service that may connect to the outside asks for names; whoever forwards for it listens there.
pub const EGRESS_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Where a service finds the socket of sd_notify(3).
pub const NOTIFY_FOLDER: &str = "/run/pysecure/notify";
pub const NOTIFY_SOCKET: &str = "notify.sock";

/// What a login would set.
fn login(service: &str, user: &str) -> BTreeMap<String, String> {
    [
        ("HOME", "/tmp"),
        ("LANG", "C.UTF-8"),
        ("LOGNAME", user),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("PYSECURE_SERVICE", service),
        ("USER", user),
    ]
    .into_iter()
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .collect()
}

/// What a login would set, then what the manifest adds or replaces.
fn environment(
    matrix: Matrix<'_>,
    id: ServiceId,
    identity: &Identity,
    template: Option<&template::Template>,
) -> BTreeMap<String, String> {
    let (model, service) = (matrix.model, &matrix.model.services[id]);
    let user = if identity.root_inside { "root" } else { &service.name };
    let mut out = login(&service.name, user);
    out.extend(template.iter().flat_map(|t| t.environment.clone()));
    // As [`Unit::notifies`].
    if service.life.notifies() || !service.callers.is_empty() {
        out.insert("NOTIFY_SOCKET".into(), format!("{NOTIFY_FOLDER}/{NOTIFY_SOCKET}"));
    }
    if let Some(time) = service.life.watchdog {
        out.insert("WATCHDOG_USEC".into(), time.as_micros().to_string());
    }
    out.extend(service.environment.iter().cloned());
    if let Some(bytes) = model.rpc_largest {
        out.insert("PYSECURE_RPC_LARGEST".to_owned(), bytes.to_string());
    }
    if !service.callers.is_empty() {
        out.insert("PYSECURE_RPC_CALLERS".to_owned(), rpc_callers(matrix, id));
        out.insert(
            "PYSECURE_RPC_TRACEBACKS".to_owned(),
            u8::from(service.rpc_tracebacks).to_string(),
        );
    }
    if !service.callers.is_empty() || !matrix.calls_by(Subject::Service(id)).is_empty() {
        show_packages(&mut out);
    }
    out
}

/// Has Python find the packages that this program carries, behind all else that it finds.
fn show_packages(environment: &mut BTreeMap<String, String>) {
    let path = packages::appended(environment.get("PYTHONPATH").map(String::as_str));
    environment.insert("PYTHONPATH".to_owned(), path);
}
