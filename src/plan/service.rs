//! One service of the model → its unit.

use super::context::{Context, Findings};
use super::ledger::{Ids, Ledger};
use super::overlap::Leak;
use super::template::Template;
use super::unit::private;
use super::{Identity, Mount, Overlaps, Ownership, PlanError, Role, Storage, Unit, Upper, Viewer, host, mounts};
use crate::cause::Reason;
use crate::host::{Dirs, Privilege};
use crate::jail::store::Store;
use crate::model::{self, Matrix, Model, Object, Publish, Right, Row, SandboxId, ServiceId, Subject};
use crate::packages;
use crate::values::{Callable, Network, Perms, Writable};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

/// Where a service that may connect to the outside asks for names; whoever forwards for it listens there.
pub const EGRESS_RESOLVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// Where a service finds the socket of sd_notify(3).
pub const NOTIFY_FOLDER: &str = "/run/pysecure/notify";
pub const NOTIFY_SOCKET: &str = "notify.sock";

/// Where a service finds the socket of syslog(3), to which its /dev/log leads.
pub const SYSLOG_FOLDER: &str = "/run/pysecure/syslog";
pub const SYSLOG_SOCKET: &str = "log.sock";

/// What the units of all services are drawn from.
pub(super) struct Services<'a> {
    of: Context<'a>,
    storage: &'a [Storage],
    templates: &'a BTreeMap<String, Template>,
    overlaps: &'a Overlaps,
    /// What a default ACL holds, by its place on disk.
    by_acl: BTreeMap<&'a Path, Vec<&'a Ownership>>,
}

impl<'a> Services<'a> {
    pub(super) fn new(
        of: Context<'a>,
        storage: &'a [Storage],
        templates: &'a BTreeMap<String, Template>,
        overlaps: &'a Overlaps,
    ) -> Services<'a> {
        let mut by_acl: BTreeMap<&Path, Vec<&Ownership>> = BTreeMap::new();
        for place in storage.iter().filter(|s| s.ownership.inherited) {
            by_acl.entry(&place.path).or_default().push(&place.ownership);
        }
        Services {
            of,
            storage,
            templates,
            overlaps,
            by_acl,
        }
    }

    /// One unit a service, in the model's order.
    pub(super) fn draw(&self, leaks: &mut Vec<Leak>, found: &mut Findings) -> Vec<Unit> {
        ServiceId::all(&self.of.model.services)
            .map(|id| self.unit(id, leaks, found))
            .collect()
    }

    fn unit(&self, id: ServiceId, leaks: &mut Vec<Leak>, found: &mut Findings) -> Unit {
        let Context {
            model, privilege, dirs, ..
        } = self.of;
        let service = &model.services[id];
        let template = self.templates.get(&service.rootfs);
        let matrix = model.matrix();
        let uses = Uses::of(&matrix.uses(Subject::Service(id)));
        let identity = identity(&self.of, id, &uses);
        let mounts = self.mounts(id, &identity, leaks, found);
        let upper = template.map(|template| upper(service, uses.root, &identity, template, dirs));
        let writable = upper.and_then(|made| made.map_err(|e| found.errors.push(e)).ok().flatten());
        Unit {
            environment: environment(matrix, id, &identity, &uses, template),
            umask: match service.users.is_empty() {
                true => umask(&mounts, &self.by_acl),
                // Its users are others to each other.
                false => umask(&mounts, &self.by_acl) & COMMON,
            },
            users: self.users(service, found),
            directory: service.directory.clone(),
            writable,
            mounts,
            network: uses.network,
            low_ports: uses.publish.iter().any(|p| p.port < 1024),
            publish: uses.publish,
            egress: uses.egress,
            resolver: match uses.network {
                Network::Host => host::resolver(),
                _ if uses.egress => format!("nameserver {EGRESS_RESOLVER}\n"),
                _ => String::new(),
            },
            listen: uses.listen,
            callers: matrix
                .calls_to(id)
                .map(|row| model.subject_name(row.subject).to_owned())
                .collect(),
            external_uid: model
                .external_uid
                .filter(|_| *privilege == Privilege::Root && matrix.call(Subject::External, id).is_some()),
            callees: matrix
                .calls_by(Subject::Service(id))
                .into_iter()
                .filter_map(|row| match row.object {
                    Object::Functions(callee) => Some(model.services[callee].name.clone()),
                    _ => None,
                })
                .collect(),
            sandboxes: uses
                .sandboxes
                .iter()
                .map(|id| model.sandboxes[*id].name.clone())
                .collect(),
            life: service.life.clone(),
            limits: service.limits.clone(),
            logs: service.logs.clone(),
            memory_files: service.memory_files,
            ..Unit::new(
                Role::Service,
                &service.name,
                identity,
                &service.rootfs,
                service.command.clone(),
            )
        }
    }

    /// The further users of a service, which take ids of its own.
    fn users(&self, service: &model::Service, found: &mut Findings) -> Vec<(Ids, String)> {
        if self.of.has_one_id() && !service.users.is_empty() {
            let reason = Reason::new("has `users`, which take ids of their own, and there is but one here");
            found.errors.push(PlanError::Service {
                name: service.name.clone(),
                reason: reason.remedy("`pysecure doctor` says how to get subordinate ids"),
            });
            return Vec::new();
        }
        let id = |user: &String| {
            (
                self.of.ledger.service(&Ledger::user_of(&service.name, user)),
                user.clone(),
            )
        };
        let mut out: Vec<(Ids, String)> = service.users.iter().map(id).collect();
        out.sort_unstable_by_key(|(ids, _)| ids.uid);
        out
    }

    /// Its grants, less what they would show of others' resources.
    fn mounts(&self, id: ServiceId, identity: &Identity, leaks: &mut Vec<Leak>, found: &mut Findings) -> Vec<Mount> {
        let service = &self.of.model.services[id];
        let own = Ids {
            uid: identity.uid,
            gid: identity.gid,
        };
        let mut mounts = mounts::plan(
            self.of.model.matrix(),
            Subject::Service(id),
            own,
            self.of.privilege,
            self.storage,
            self.templates.get(&service.rootfs),
            &mut found.errors,
        );
        let closed = self.of.is_closed();
        let viewer = Viewer {
            service: &service.name,
            rootfs: &service.rootfs,
            identity,
        };
        leaks.extend(self.overlaps.restrict(&viewer, closed, &mut mounts));
        for error in self.overlaps.under_layers(&mounts) {
            if !found.errors.contains(&error) {
                found.errors.push(error);
            }
        }
        mounts
    }
}

/// umask(2) where a service has several users, as an ordinary machine has it.
const COMMON: u32 = 0o022;

/// What a service has of the network, of ids and of its root: that for which the matrix has a row.
#[derive(Default)]
struct Uses {
    network: Network,
    listen: Vec<SocketAddr>,
    publish: Vec<Publish>,
    egress: bool,
    root_inside: bool,
    root: Writable,
    sandboxes: Vec<SandboxId>,
}

impl Uses {
    fn of(rows: &[Row<'_>]) -> Uses {
        let mut out = Uses::default();
        for row in rows {
            match row.object {
                Object::AppNetwork => out.network = Network::App,
                Object::HostNetwork => out.network = Network::Host,
                Object::Listen(address) => out.listen.push(address),
                Object::Publish(publish) => out.publish.push(publish),
                Object::Egress => out.egress = true,
                Object::RootInside => out.root_inside = true,
                Object::Root(writable) => out.root = writable,
                Object::Sandbox(sandbox) => out.sandboxes.push(sandbox),
                // Mounts, sockets of callers, whose files are on disk, and what runs on the host.
                Object::Resource(_)
                | Object::Functions(_)
                | Object::HostRoot(_)
                | Object::HostIds
                | Object::Packages(..) => {}
            }
        }
        out
    }
}

fn upper(
    service: &model::Service,
    root: Writable,
    identity: &Identity,
    template: &Template,
    dirs: &Dirs,
) -> Result<Option<Upper>, PlanError> {
    if root == Writable::No {
        return Ok(None);
    }
    let Some(jail) = &template.jail else {
        return Err(PlanError::Template {
            name: service.rootfs.clone(),
            reason: Reason::new(format!(
                "binds the host's directories, which `{}` may not write to",
                service.name
            ))
            .remedy("give it a jail, such as \"minimal\", or take `writable` out"),
        });
    };
    Ok(Some(Upper {
        lower: Store::new(&dirs.state).private_tree(jail, identity.on_disk()),
        kept: (root == Writable::Persistent).then(|| dirs.roots().join(&service.name)),
    }))
}

/// What each caller may call, as the RPC library reads it (docs/reference/rpc-protocol.md).
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

/// The sandboxes that a service may use, and what of their limits is its own to hold, as the Python package reads it.
fn usable(model: &Model, sandboxes: &[SandboxId]) -> String {
    let each = sandboxes.iter().map(|id| {
        let of = &model.sandboxes[*id];
        let output = of.limits.output.map(|bytes| ("output".to_owned(), bytes.into()));
        let held: serde_json::Map<String, serde_json::Value> = output.into_iter().collect();
        (of.name.clone(), serde_json::Value::Object(held))
    });
    serde_json::Value::Object(each.collect()).to_string()
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

fn identity(of: &Context<'_>, id: ServiceId, uses: &Uses) -> Identity {
    let (model, ledger) = (of.model, of.ledger);
    let service = &model.services[id];
    let own = ledger.service(&service.name);
    let groups = if of.has_one_id() {
        Vec::new()
    } else {
        ledger.groups_of(model, id)
    };
    Identity {
        uid: own.uid,
        gid: own.gid,
        groups,
        peers: if of.has_one_id() || uses.root_inside {
            Vec::new()
        } else {
            peers(model, id, ledger)
        },
        // Whoever may become others may not become what other services have in common.
        keeper: (!of.has_one_id()).then(|| match service.users.is_empty() {
            true => ledger.keeper,
            false => ledger.service(&Ledger::init_of(&service.name)),
        }),
        outside: Ids::default(),
        root_inside: uses.root_inside,
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
        let services = matrix.named(id).filter_map(|subject| match subject {
            Subject::Service(other) => Some(other),
            _ => None,
        });
        let others = services.filter(|other| *other != server);
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

/// What a login would set.
pub(super) fn login(service: &str, user: &str) -> BTreeMap<String, String> {
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
    uses: &Uses,
    template: Option<&Template>,
) -> BTreeMap<String, String> {
    let (model, service) = (matrix.model, &matrix.model.services[id]);
    let user = if identity.root_inside { "root" } else { &service.name };
    let mut out = login(&service.name, user);
    out.extend(template.iter().flat_map(|t| t.environment.clone()));
    let called = matrix.calls_to(id).next().is_some();
    // As [`Unit::notifies`].
    if service.life.notifies() || called {
        out.insert("NOTIFY_SOCKET".into(), format!("{NOTIFY_FOLDER}/{NOTIFY_SOCKET}"));
    }
    if let Some(time) = service.life.watchdog {
        out.insert("WATCHDOG_USEC".into(), time.as_micros().to_string());
    }
    out.extend(service.environment.iter().cloned());
    if let Some(bytes) = model.rpc_max_message {
        out.insert("PYSECURE_RPC_MAX_MESSAGE".to_owned(), bytes.to_string());
    }
    if called {
        out.insert("PYSECURE_RPC_CALLERS".to_owned(), rpc_callers(matrix, id));
        out.insert(
            "PYSECURE_RPC_TRACEBACKS".to_owned(),
            u8::from(service.rpc_tracebacks).to_string(),
        );
    }
    if !uses.sandboxes.is_empty() {
        out.insert("PYSECURE_SANDBOXES".to_owned(), usable(model, &uses.sandboxes));
    }
    if called || !uses.sandboxes.is_empty() || !matrix.calls_by(Subject::Service(id)).is_empty() {
        show_packages(&mut out);
    }
    out
}

/// Has Python find the packages that this program carries, behind all else that it finds.
pub(super) fn show_packages(environment: &mut BTreeMap<String, String>) {
    let path = packages::appended(environment.get("PYTHONPATH").map(String::as_str));
    environment.insert("PYTHONPATH".to_owned(), path);
}
