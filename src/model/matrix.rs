//! The access matrix: who has which right to what, and because of which lines. The one place where that is decided:
//! mounts, modes, callers, specs, `access` and assertions are drawn from these rows.
//!
//! **A row** is (subject, object, right, because). To a resource a service is its owner, a member of one of its bundles,
//! or anyone else, and the first of these that fits decides, as UNIX has it: an owner with fewer rights than the bundle
//! does not borrow the bundle's. Rights of other kinds (calls, the network, ids, a root that can be written to) are a
//! key of the manifest each. A row is made when it is asked for, and only where something is granted: there is no table
//! of all subjects and all objects.
//!
//! **Names and the disk.** The model knows names and where a `source` leads; what else a path shows (mounts, layers,
//! hard links, what is hidden from whom) only a plan knows. So the rows are of names, and a plan closes them over the
//! disk: it hands in a [`Disk`], and [`Matrix::ways`] then gives the rows by which a subject reaches a resource, those
//! by way of something that holds it among them. Assertions are asked of names when the model is built, and of the disk
//! when a plan is drawn.

use super::sandboxes::IN_USERDIR;
use super::{BundleId, Model, Publish, Resource, ResourceId, SETUP_SCRIPT, SandboxId, ServiceId};
use crate::values::{Callable, Network, Perms, Writable};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Whose rights are asked about. What runs under rights of its own is to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    Service(ServiceId),
    /// The service that PySecure does not start.
    External,
    /// Whoever runs the app; calls services, and has no rights to resources.
    Operator,
    /// The setup script, which makes the first content of the resources.
    SetupScript,
    /// Code that a service has run in a sandbox, and does not trust.
    Sandbox(SandboxId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    Owner,
    Bundle,
    Global,
}

impl Class {
    pub fn name(self) -> &'static str {
        match self {
            Class::Owner => "owner",
            Class::Bundle => "bundle",
            Class::Global => "global",
        }
    }
}

/// What a right is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A file or directory; a code folder is one, too.
    Resource(ResourceId),
    /// The functions of a service, behind a socket that each caller has for itself.
    Functions(ServiceId),
    /// An address of the host, whose connections the supervisor hands over.
    Listen(SocketAddr),
    /// An address of the host, whose connections are passed on to a port inside.
    Publish(Publish),
    /// What lies outside of this host.
    Egress,
    /// The loopback that services of the app share.
    AppNetwork,
    HostNetwork,
    /// Id 0 of its own user namespace.
    RootInside,
    /// Ids of the host that are the subject's own.
    HostIds,
    /// What it makes in a `source` that stays root's: that is root's.
    HostRoot(ResourceId),
    /// The root that it runs in.
    Root(Writable),
    /// A sandbox, to have code run in.
    Sandbox(SandboxId),
    /// A folder of packages of a sandbox's, by its number there.
    Packages(SandboxId, usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right<'m> {
    Touch(Perms),
    Call(&'m Callable),
    /// All that there is to be done with the object.
    Use,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<'m> {
    pub subject: Subject,
    pub object: Object,
    pub right: Right<'m>,
    pub because: Because<'m>,
}

/// Why a row stands in the matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Because<'m> {
    /// What the subject is to the resource. The bundle that makes it a member.
    Class(Class, Option<BundleId>),
    /// It makes the first content.
    Setup,
    /// This key of the manifest.
    Key(Range<usize>),
    /// Something else, to which it has a right, holds the object or a part of it. `None`: its root does.
    Way(Option<Box<Row<'m>>>, Alias),
}

/// Two names of one thing on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    pub outer: Holder,
    /// What of `outer` is, or lies in, this one.
    pub inner: ResourceId,
    /// Where a service meets it that sees `outer`.
    pub at: PathBuf,
    /// The file that has a name in both by a hard link.
    pub linked: Option<PathBuf>,
    /// How many more files have.
    pub more: usize,
}

/// What shows something on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Resource(ResourceId),
    /// The root that is made of this template.
    Rootfs(String),
}

/// What lies on disk, as a plan knows it.
pub trait Disk {
    /// What shows `of`, or something in it.
    fn holders(&self, of: ResourceId) -> Vec<Alias>;

    /// What else names something in `of`, at a place that `of`'s path does not lead to.
    fn parts(&self, of: ResourceId) -> Vec<Alias>;

    /// Resources that others show, or that show others.
    fn aliased(&self) -> Vec<ResourceId>;

    /// Does a service that sees the outer one see this in it, or is it hidden?
    fn sees(&self, service: ServiceId, alias: &Alias) -> bool;
}

/// A line of the manifest that leads to a row, and what it says, beginning with its subject.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub span: Range<usize>,
    pub says: String,
}

/// The row that a mount carries out, in names: it outlives the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    pub resource: String,
    pub perms: Perms,
    /// `None`: it is the setup script that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<String>,
}

/// The rows of one resource, in names: it outlives the model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Of every service that has no row of its own.
    pub everyone: Perms,
    pub named: BTreeMap<String, Perms>,
}

impl Column {
    pub fn of_everyone(everyone: Perms) -> Column {
        Column {
            everyone,
            named: BTreeMap::new(),
        }
    }

    pub fn of(&self, subject: &str) -> Perms {
        self.named.get(subject).copied().unwrap_or(self.everyone)
    }

    /// What each service may, or a part of them.
    pub fn of_services(&self) -> impl Iterator<Item = Perms> {
        let named = self.named.iter().filter(|(name, _)| *name != SETUP_SCRIPT);
        named.map(|(_, perms)| *perms).chain([self.everyone])
    }
}

/// Rows that cannot be told from what they are about alone, sorted by what they are asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Resources that everyone may touch in some way.
    everyone: Vec<ResourceId>,
    /// For each service, those whose functions it may call.
    callees: Vec<Vec<ServiceId>>,
    /// Resources in which what is made is root's.
    of_root: Vec<ResourceId>,
    /// For each service, the sandboxes that it may use, and the place that says so.
    sandboxes: Vec<Vec<(SandboxId, usize)>>,
}

impl Index {
    pub(super) fn of(model: &Model) -> Index {
        let mut callees = vec![Vec::new(); model.services.len()];
        for (callee, service) in ServiceId::all(&model.services).zip(&model.services) {
            for caller in &service.callers {
                if let Subject::Service(id) = caller.subject {
                    callees[id.position()].push(callee);
                }
            }
        }
        let mut sandboxes = vec![Vec::new(); model.services.len()];
        for (id, sandbox) in SandboxId::all(&model.sandboxes).zip(&model.sandboxes) {
            for (at, user) in sandbox.used_by.iter().enumerate() {
                sandboxes[user.position()].push((id, at));
            }
        }
        Index {
            sandboxes,
            everyone: ResourceId::all(&model.resources)
                .filter(|r| model.resources[*r].declared.global.any())
                .collect(),
            callees,
            of_root: ResourceId::all(&model.resources)
                .filter(|r| model.resources[*r].write_as_root)
                .collect(),
        }
    }
}

impl Model {
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix {
            model: self,
            disk: None,
        }
    }
}

/// A view of a model's rights.
#[derive(Clone, Copy)]
pub struct Matrix<'m> {
    pub model: &'m Model,
    disk: Option<&'m dyn Disk>,
}

impl<'m> Matrix<'m> {
    /// The same over what lies on disk.
    pub fn over(self, disk: &'m dyn Disk) -> Matrix<'m> {
        Matrix {
            disk: Some(disk),
            ..self
        }
    }

    /// All that may have rights.
    pub fn subjects(self) -> impl Iterator<Item = Subject> {
        let model = self.model;
        let external = model.external_uid.is_some().then_some(Subject::External);
        let setup_script = model.setup.is_some().then_some(Subject::SetupScript);
        let services = ServiceId::all(&model.services).map(Subject::Service);
        let sandboxes = SandboxId::all(&model.sandboxes).map(Subject::Sandbox);
        services
            .chain(external)
            .chain([Subject::Operator])
            .chain(setup_script)
            .chain(sandboxes)
    }

    /// All rows, by subject.
    pub fn rows(self) -> impl Iterator<Item = Row<'m>> {
        self.subjects().flat_map(move |subject| self.rows_of(subject))
    }

    pub fn rows_of(self, subject: Subject) -> Vec<Row<'m>> {
        let mut out = self.resources(subject);
        out.extend(self.calls_by(subject));
        out.extend(self.uses(subject));
        out
    }

    /// What a subject may do with a resource by the resource's own name, be it nothing.
    pub fn touch(self, subject: Subject, resource: ResourceId) -> (Perms, Because<'m>) {
        let of = &self.model.resources[resource];
        if subject == Subject::SetupScript {
            return (first_content(of), Because::Setup);
        }
        if let Subject::Sandbox(id) = subject {
            return self.in_sandbox(id, resource);
        }
        if of.owner == Some(subject) {
            return (of.declared.owner, Because::Class(Class::Owner, None));
        }
        let bundle = match subject {
            Subject::Service(id) => shared(&self.model.services[id].bundles, &of.bundles),
            Subject::External => of
                .bundles
                .iter()
                .copied()
                .find(|b| self.model.bundles[*b].used_by_external),
            // Whoever runs the app is no service of it.
            Subject::Operator | Subject::SetupScript | Subject::Sandbox(_) => {
                return (Perms::default(), Because::Class(Class::Global, None));
            }
        };
        match bundle {
            Some(_) => (of.declared.bundle, Because::Class(Class::Bundle, bundle)),
            None => (of.declared.global, Because::Class(Class::Global, None)),
        }
    }

    /// What a run may do with a resource: it writes in its own directory, which lies below one of them, and no service's
    /// grants are its.
    fn in_sandbox(self, id: SandboxId, resource: ResourceId) -> (Perms, Because<'m>) {
        let of = &self.model.sandboxes[id];
        match of.userdirs == Some(resource) {
            true => (IN_USERDIR, Because::Key(of.places.userdirs.clone())),
            false => (Perms::default(), Because::Key(of.span.clone())),
        }
    }

    pub fn perms(self, subject: Subject, resource: ResourceId) -> Perms {
        self.touch(subject, resource).0
    }

    fn row(self, subject: Subject, resource: ResourceId) -> Option<Row<'m>> {
        let (perms, because) = self.touch(subject, resource);
        perms.any().then_some(Row {
            subject,
            object: Object::Resource(resource),
            right: Right::Touch(perms),
            because,
        })
    }

    /// All resources that a subject may touch, in the order of declaration.
    pub fn resources(self, subject: Subject) -> Vec<Row<'m>> {
        let model = self.model;
        let mut ids: Vec<ResourceId> = match subject {
            Subject::Operator => Vec::new(),
            Subject::Sandbox(id) => model.sandboxes[id].userdirs.into_iter().collect(),
            // There is one of each at most.
            Subject::External | Subject::SetupScript => ResourceId::all(&model.resources).collect(),
            Subject::Service(id) => {
                let of = &model.services[id];
                let bundled = of.bundles.iter().flat_map(|b| &model.bundles[*b].resources);
                of.owns
                    .iter()
                    .chain(bundled)
                    .chain(&model.index.everyone)
                    .copied()
                    .collect()
            }
        };
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(|id| self.row(subject, id)).collect()
    }

    /// The ways by which a subject reaches a resource: by its own name, and over the disk.
    pub fn ways(self, subject: Subject, resource: ResourceId) -> Vec<Row<'m>> {
        let mut out: Vec<Row<'m>> = self.row(subject, resource).into_iter().collect();
        let Some(disk) = self.disk else { return out };
        let way = |right: Right<'m>, by: Option<Row<'m>>, alias: Alias| Row {
            subject,
            object: Object::Resource(resource),
            right,
            because: Because::Way(by.map(Box::new), alias),
        };
        if let Subject::Service(service) = subject {
            for alias in disk.holders(resource) {
                let by = match &alias.outer {
                    Holder::Resource(outer) => match self.row(subject, *outer) {
                        Some(row) => Some(row),
                        None => continue,
                    },
                    Holder::Rootfs(name) if self.model.services[service].rootfs == *name => None,
                    Holder::Rootfs(_) => continue,
                };
                if disk.sees(service, &alias) {
                    let right = by.as_ref().map_or(Right::Touch(Perms::READ_AND_RUN), |row| row.right);
                    out.push(way(right, by, alias));
                }
            }
        }
        for alias in disk.parts(resource) {
            if let Some(row) = self.row(subject, alias.inner) {
                out.push(way(row.right, Some(row), alias));
            }
        }
        out
    }

    /// The rows that the disk adds to those of names. By other names a subject reaches a resource, or something in it; or
    /// it has a right to something in a resource that it has no such right to by the resource's own name. Of files with
    /// hard links in another resource one stands for all.
    pub fn parts(self) -> Vec<Row<'m>> {
        let aliased = self.disk.map(Disk::aliased).unwrap_or_default();
        let pairs = aliased
            .into_iter()
            .flat_map(|id| self.subjects().map(move |subject| (subject, id)));
        let mut out: Vec<Row<'m>> = Vec::new();
        for (subject, id) in pairs.filter(|(subject, _)| *subject != Subject::SetupScript) {
            let own = self.perms(subject, id).with_implied();
            let mut linked: Vec<(Holder, usize)> = Vec::new();
            for mut row in self.ways(subject, id) {
                let (Because::Way(_, alias), Right::Touch(perms)) = (&mut row.because, row.right) else {
                    continue;
                };
                if alias.inner != id && !perms.without(own).any() {
                    continue;
                }
                if alias.linked.is_some() {
                    if let Some((_, first)) = linked.iter().find(|(outer, _)| *outer == alias.outer) {
                        if let Because::Way(_, first) = &mut out[*first].because {
                            first.more += 1;
                        }
                        continue;
                    }
                    linked.push((alias.outer.clone(), out.len()));
                }
                out.push(row);
            }
        }
        out
    }

    /// All rows of one resource, by its own name.
    pub fn column(self, resource: ResourceId) -> Column {
        let subjects: BTreeSet<Subject> = self.named(resource).chain([Subject::SetupScript]).collect();
        let named = |s: Subject| (self.model.subject_name(s).to_owned(), self.perms(s, resource));
        Column {
            everyone: self.by_class(resource).perms.global,
            named: subjects.into_iter().map(named).collect(),
        }
    }

    /// Who may call a service's functions.
    pub fn calls_to(self, callee: ServiceId) -> impl Iterator<Item = Row<'m>> {
        self.model.services[callee].callers.iter().map(move |caller| Row {
            subject: caller.subject,
            object: Object::Functions(callee),
            right: Right::Call(&caller.may),
            because: Because::Key(caller.span.clone()),
        })
    }

    /// May any service be called?
    pub fn has_calls(self) -> bool {
        ServiceId::all(&self.model.services).any(|callee| self.calls_to(callee).next().is_some())
    }

    /// Whose functions a subject may call.
    pub fn calls_by(self, caller: Subject) -> Vec<Row<'m>> {
        let callees: Vec<ServiceId> = match caller {
            Subject::Service(id) => self.model.index.callees.get(id.position()).cloned().unwrap_or_default(),
            _ => ServiceId::all(&self.model.services).collect(),
        };
        callees
            .into_iter()
            .filter_map(|callee| self.call(caller, callee))
            .collect()
    }

    pub fn call(self, caller: Subject, callee: ServiceId) -> Option<Row<'m>> {
        let callers = &self.model.services[callee].callers;
        let at = callers.binary_search_by_key(&caller, |c| c.subject).ok()?;
        Some(Row {
            subject: caller,
            object: Object::Functions(callee),
            right: Right::Call(&callers[at].may),
            because: Because::Key(callers[at].span.clone()),
        })
    }

    /// What a subject has of the network, of ids, and of its root.
    pub fn uses(self, subject: Subject) -> Vec<Row<'m>> {
        let mut out = Vec::new();
        let mut put = |object: Object, span: &Range<usize>| {
            out.push(Row {
                subject,
                object,
                right: Right::Use,
                because: Because::Key(span.clone()),
            });
        };
        let id = match subject {
            Subject::Service(id) => id,
            Subject::External => {
                put(Object::HostIds, &self.model.places.external_uid);
                return out;
            }
            Subject::Sandbox(id) => {
                for (number, span) in self.model.sandboxes[id].places.packages.iter().enumerate() {
                    put(Object::Packages(id, number), span);
                }
                return out;
            }
            Subject::Operator | Subject::SetupScript => return out,
        };
        let (of, at) = (&self.model.services[id], &self.model.services[id].places);
        for (address, span) in of.listen.iter().zip(&at.listen) {
            put(Object::Listen(*address), span);
        }
        for (publish, span) in of.publish.iter().zip(&at.publish) {
            put(Object::Publish(*publish), span);
        }
        if of.egress {
            put(Object::Egress, &at.egress);
        }
        match of.network {
            Network::None => {}
            Network::App => put(Object::AppNetwork, &at.network),
            Network::Host => put(Object::HostNetwork, &at.network),
        }
        if of.runs_with_root {
            put(Object::RootInside, &at.runs_with_root);
        }
        for id in &self.model.index.of_root {
            if self.perms(subject, *id).write {
                put(Object::HostRoot(*id), &self.model.resources[*id].places.write_as_root);
            }
        }
        if of.writable != Writable::No {
            put(Object::Root(of.writable), &at.writable);
        }
        for (sandbox, at) in self.model.index.sandboxes.get(id.position()).into_iter().flatten() {
            put(
                Object::Sandbox(*sandbox),
                &self.model.sandboxes[*sandbox].places.used_by[*at],
            );
        }
        out
    }

    /// The folder that a row of packages is about.
    pub fn packages(self, object: Object) -> Option<&'m Path> {
        match object {
            Object::Packages(id, number) => self.model.sandboxes[id].packages.get(number).map(PathBuf::as_path),
            _ => None,
        }
    }

    /// Who may use a sandbox.
    pub fn users(self, sandbox: SandboxId) -> impl Iterator<Item = ServiceId> {
        self.model.sandboxes[sandbox].used_by.iter().copied()
    }

    /// Is what a service writes to its root kept?
    pub fn keeps_root(self, service: ServiceId) -> bool {
        let uses = self.uses(Subject::Service(service));
        uses.iter().any(|row| row.object == Object::Root(Writable::Persistent))
    }

    /// The row of a resource as what outlives the model has it.
    pub fn grant(self, row: &Row<'_>) -> Option<(ResourceId, Grant)> {
        let (Object::Resource(resource), Right::Touch(perms)) = (row.object, row.right) else {
            return None;
        };
        let (class, bundle) = match row.because {
            Because::Class(class, bundle) => (Some(class), bundle),
            _ => (None, None),
        };
        let grant = Grant {
            resource: self.model.resources[resource].name.clone(),
            perms,
            class,
            bundle: bundle.map(|b| self.model.bundles[b].name.clone()),
        };
        Some((resource, grant))
    }

    /// The lines of the manifest that a row follows from, in the order in which they lead there.
    pub fn lines(self, row: &Row<'_>) -> Vec<Line> {
        let line = |span: &Range<usize>, says: String| Line {
            span: span.clone(),
            says,
        };
        let who = self.model.subject_name(row.subject);
        match (&row.because, row.object) {
            (Because::Class(class, bundle), Object::Resource(id)) => self.class_lines(row.subject, id, *class, *bundle),
            (Because::Way(by, alias), _) => self.way_lines(row.subject, by.as_deref(), alias),
            (Because::Key(span), Object::Resource(_)) if row.right == Right::Touch(Perms::default()) => {
                vec![line(span, "none of its keys grants it".to_owned())]
            }
            (Because::Key(span), object) => vec![line(span, format!("`{who}` {}", self.deed(object)))],
            (Because::Setup, _) => {
                let script = self.model.setup.as_ref().map(|i| &i.span);
                let says = "`setup` makes the first content of resources".to_owned();
                script.map(|span| line(span, says)).into_iter().collect()
            }
            (Because::Class(..), _) => Vec::new(),
        }
    }

    fn class_lines(self, subject: Subject, id: ResourceId, class: Class, bundle: Option<BundleId>) -> Vec<Line> {
        let model = self.model;
        let of = &model.resources[id];
        let who = model.subject_name(subject);
        let mut out = Vec::new();
        let mut line = |span: &Range<usize>, says: String| {
            out.push(Line {
                span: span.clone(),
                says,
            });
        };
        match (class, subject) {
            (Class::Owner, Subject::Service(service)) => {
                let service = &model.services[service];
                let at = service.owns.iter().position(|r| *r == id);
                let span = at.and_then(|at| service.places.owns.get(at)).unwrap_or(&service.span);
                line(span, format!("`{who}` owns `{}`", of.name));
            }
            (Class::Owner, _) => line(&of.places.owned_by_external, format!("`{who}` owns `{}`", of.name)),
            (Class::Bundle, _) => {
                let Some(bundle) = bundle else { return out };
                let shared = &model.bundles[bundle];
                let span = match subject {
                    Subject::Service(service) => {
                        let service = &model.services[service];
                        let at = service.bundles.iter().position(|b| *b == bundle);
                        at.and_then(|at| service.places.bundles.get(at))
                            .unwrap_or(&service.span)
                    }
                    _ => &shared.places.used_by_external,
                };
                line(span, format!("`{who}` uses bundle `{}`", shared.name));
                let at = shared.resources.iter().position(|r| *r == id);
                let span = at
                    .and_then(|at| shared.places.resources.get(at))
                    .unwrap_or(&shared.span);
                line(span, format!("bundle `{}` holds `{}`", shared.name, of.name));
            }
            (Class::Global, _) => {}
        }
        let (span, perms, whom) = match class {
            Class::Owner => (&of.places.owner, of.declared.owner, "its owner"),
            Class::Bundle => (&of.places.bundle, of.declared.bundle, "its bundles"),
            Class::Global => (&of.places.global, of.declared.global, "every service"),
        };
        line(span, format!("`{}` grants {whom} {}", of.name, perms.letters()));
        out
    }

    fn way_lines(self, subject: Subject, by: Option<&Row<'_>>, alias: &Alias) -> Vec<Line> {
        let model = self.model;
        let mut out = by.map(|row| self.lines(row)).unwrap_or_default();
        let inner = &model.resources[alias.inner];
        let (span, name) = match &alias.outer {
            Holder::Resource(outer) => {
                let outer = &model.resources[*outer];
                (outer.source_at.clone(), format!("`{}`", outer.name))
            }
            Holder::Rootfs(name) => {
                let span = match subject {
                    Subject::Service(id) => model.services[id].places.rootfs.clone(),
                    _ => 0..0,
                };
                (span, format!("jail \"{name}\""))
            }
        };
        let at = alias.at.display();
        let says = match &alias.linked {
            Some(file) => format!(
                "{name} has a hard link to a file of `{}`: {}",
                inner.name,
                file.display()
            ),
            None => format!("{name} shows at {at} what is `{}` on disk", inner.name),
        };
        out.push(Line { span, says });
        out.push(Line {
            span: inner.source_at.clone(),
            says: format!("`{}` is the same on disk", inner.name),
        });
        out
    }

    /// What is done with an object that a key grants, as the end of a sentence.
    fn deed(self, object: Object) -> String {
        let model = self.model;
        match object {
            Object::Functions(id) => format!("is named in the `callers` of `{}`", model.services[id].name),
            Object::Listen(address) => format!("listens on {address}"),
            Object::Publish(p) => format!("has connections to {} passed on to its port {}", p.address, p.port),
            Object::Egress => "may connect to the outside".to_owned(),
            Object::AppNetwork => "shares the app's network".to_owned(),
            Object::HostNetwork => "has the host's network".to_owned(),
            Object::RootInside => "is root inside".to_owned(),
            Object::HostIds => "has ids of the host".to_owned(),
            Object::HostRoot(id) => format!("makes files of root's in `{}`", model.resources[id].name),
            Object::Root(Writable::Persistent) => "writes to its root, and that is kept".to_owned(),
            Object::Root(_) => "writes to its root, in memory".to_owned(),
            Object::Resource(id) => format!("has its runs' directories in `{}`", model.resources[id].name),
            Object::Sandbox(id) => format!("has code run in sandbox `{}`", model.sandboxes[id].name),
            Object::Packages(id, number) => match model.sandboxes[id].packages.get(number) {
                Some(folder) => format!("imports from {}", folder.display()),
                None => "imports from a folder".to_owned(),
            },
        }
    }
}

/// What the setup script may: it makes the content of what PySecure keeps, reads what is the user's, and sees
/// nothing of what is adopted, which has its content already, and whose readers are not settled yet.
fn first_content(of: &Resource) -> Perms {
    match of.source {
        None => Perms::ALL,
        Some(_) if of.chown => Perms::default(),
        Some(_) => Perms {
            write: false,
            ..of.declared.all().into_iter().fold(Perms::default(), Perms::union)
        },
    }
}

/// What two sorted lists have in common, first of all.
fn shared(a: &[BundleId], b: &[BundleId]) -> Option<BundleId> {
    if a.len() > b.len() {
        return shared(b, a);
    }
    a.iter().copied().find(|x| b.binary_search(x).is_ok())
}
