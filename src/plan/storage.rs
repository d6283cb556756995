//! Where each resource lies on disk, whose it is to be, and how a service comes to see it.
//!
//! A grant holds for whatever file a program makes, whatever mode it asks for. There are two ways to that:
//!
//! - **One owner** ([`Holding::OneOwner`]), wherever the file system can be mounted with other ids: all of a resource
//!   is its owner's on disk, and every service that may read it sees it, by an idmapped mount of its own, as its own.
//!   What it makes is stored as the owner's, so mode bits never part those who hold a grant. What each may do, the
//!   mount says: absent, read-only, noexec.
//! - **By class** ([`Holding::Classes`]), elsewhere: the policy stands on disk as owner, group and mode, and new files
//!   take it on by a default ACL, since neither umask nor set-group-id alone gives the owner of shared data its right
//!   to a file that a member made.
//!
//! Even where there is one owner, two kinds of users see the files as they are on disk, and get their rights by name
//! in an ACL: the external service, which has no mounts of ours, and who has a right without `r`, for a mount can
//! withhold writing and executing, but not reading.

use super::context::{Context, Findings};
use super::ledger::{Ids, owner_ids};
use super::{IdMap, Ledger, MountPoint, PlanError};
use crate::cause::Reason;
use crate::host::{Dirs, Privilege};
use crate::model::{ByClass, Model, Resource, ResourceId, ServiceId, Subject, path};
use crate::values::{Perms, ResourceKind};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is to be at a resource's place before a service may start.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Storage {
    pub resource: String,
    /// What is mounted.
    pub path: PathBuf,
    /// Is `path` a directory?
    pub directory: bool,
    pub keeping: Keeping,
    pub holding: Holding,
    /// What it holds when it is made.
    pub initial: Option<Initial>,
    pub ownership: Ownership,
    /// Whose the files are on disk.
    pub disk: Ids,
    /// Mount points of nested resources, relative to `path`, to be made in it.
    pub mount_points: Vec<MountPoint>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Initial {
    pub from: PathBuf,
    /// The name of the file in the resource's folder; `None`: it is that folder.
    pub file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Keeping {
    /// Below the app's own data; made if it is not there.
    Ours,
    /// The user's, and given to us by `chown = true`.
    Adopted,
    /// The user's; nothing about it is changed.
    Theirs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Holding {
    OneOwner,
    Classes,
}

/// Owner, group and what each may do: `rwx` bits as in a mode, before a directory's search bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    pub owner: u32,
    pub bundle: u32,
    pub global: u32,
    /// Who else has rights, by name in an ACL. Sorted as the kernel wants: users before groups, by id.
    #[serde(default)]
    pub named: Vec<(Who, u32)>,
    /// Do new files and directories follow an ACL?
    #[serde(default)]
    pub inherited: bool,
    /// Which of the forms that this has had over time: what was made in an older one is made anew once.
    #[serde(default)]
    pub form: u32,
}

/// Without set-group-id, which a service may not have in a mode that it sets.
const FORM: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Who {
    User(u32),
    Group(u32),
}

impl Ownership {
    /// All for one: owner and group, and nobody else.
    pub fn of_one(ids: Ids, owner: u32) -> Ownership {
        Ownership {
            uid: ids.uid,
            gid: ids.gid,
            owner,
            form: FORM,
            ..Ownership::default()
        }
    }

    /// A file's mode. With an ACL its group bits are the mask.
    pub fn file_mode(&self) -> u32 {
        self.owner << 6 | self.bundle << 3 | self.global
    }

    /// With search for whoever has any right.
    pub fn directory_mode(&self) -> u32 {
        searched(self.owner) << 6 | searched(self.bundle) << 3 | searched(self.global)
    }

    /// The value of `system.posix_acl_default` (acl(5); layout of linux/posix_acl_xattr.h) for directories of this
    /// resource. A file's creator gets what any class may, for a member that makes a file is its UNIX owner; the
    /// resource's owner keeps its right by name.
    pub fn default_acl(&self) -> Vec<u8> {
        let named = self.named.iter().fold(0, |all, (_, bits)| all | bits);
        self.acl(self.owner | self.bundle | self.global | named, searched)
    }

    /// The value of `system.posix_acl_access` for the directories themselves.
    pub fn directory_acl(&self) -> Vec<u8> {
        self.acl(self.owner, searched)
    }

    /// The same for a file; `runs`: may anyone execute it?
    pub fn file_acl(&self, runs: bool) -> Vec<u8> {
        self.acl(self.owner, |bits| if runs { bits } else { bits & 0o6 })
    }

    fn acl(&self, user: u32, of: impl Fn(u32) -> u32) -> Vec<u8> {
        const NOBODY_NAMED: u32 = u32::MAX;
        const VERSION: u32 = 2;
        // Kind, rights, and for whoever is named its id; in the order that the kernel wants.
        let mut entries: Vec<(u16, u32, u32)> = vec![(0x01, of(user), NOBODY_NAMED)];
        let named = |who: &(Who, u32)| match *who {
            (Who::User(id), bits) => (0x02, of(bits), id),
            (Who::Group(id), bits) => (0x08, of(bits), id),
        };
        let users = self.named.iter().filter(|(who, _)| matches!(who, Who::User(_)));
        let groups = self.named.iter().filter(|(who, _)| matches!(who, Who::Group(_)));
        entries.extend(users.map(named));
        entries.push((0x04, of(self.bundle), NOBODY_NAMED));
        entries.extend(groups.map(named));
        if !self.named.is_empty() {
            let mask = self.named.iter().fold(self.bundle, |all, (_, bits)| all | bits);
            entries.push((0x10, of(mask), NOBODY_NAMED));
        }
        entries.push((0x20, of(self.global), NOBODY_NAMED));
        let mut out = VERSION.to_le_bytes().to_vec();
        for (kind, bits, id) in entries {
            out.extend(kind.to_le_bytes());
            out.extend((bits as u16).to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }
}

/// What a directory takes for these rights in it.
fn searched(bits: u32) -> u32 {
    bits | u32::from(bits != 0)
}

impl Storage {
    /// The ids under which a service, with these of its own, sees the files.
    pub(super) fn idmap(&self, perms: Perms, own: Ids) -> Option<IdMap> {
        let seen = match self.holding {
            Holding::Classes => return None,
            Holding::OneOwner if perms.read => own,
            // By class, as the modes of the user's own tree have it.
            Holding::OneOwner if self.keeping == Keeping::Theirs => Ids {
                uid: self.ownership.uid,
                gid: self.ownership.gid,
            },
            Holding::OneOwner => return None,
        };
        (self.disk != seen).then_some(IdMap { disk: self.disk, seen })
    }
}

/// What ACLs do not hold; docs/how-to/rootless.md has it in a list.
const NOT_HELD: &str = "are held by ACLs: what a program closes to others is opened to them a moment later, and only \
                        while the app is up; only the service that made a file may change its mode and its times; `r` \
                        alone does not let connect to sockets";

/// One entry a resource, in the model's order.
pub(super) fn plan(of: &Context<'_>, found: &mut Findings) -> Vec<Storage> {
    let mut trials = super::host::IdmapTrials::default();
    let mut by_acl: Vec<String> = Vec::new();
    let resources = ResourceId::all(&of.model.resources);
    let mut out: Vec<Storage> = resources
        .map(|id| one(of, id, &mut trials, &mut by_acl, &mut found.errors))
        .collect();
    if !by_acl.is_empty() {
        let cause = match of.privilege {
            Privilege::Root => format!(
                "the file system of {} cannot be mounted with other ids",
                of.dirs.resources().display()
            ),
            _ => "without root no file system can be mounted with other ids".to_owned(),
        };
        found
            .notes
            .push(format!("{cause}, so {} {NOT_HELD}", by_acl.join(", ")));
    }
    mount_points(of.model, &mut out);
    out
}

/// One resource's. `by_acl` gains its name if it would have one owner, but cannot here.
fn one(
    of: &Context<'_>,
    id: ResourceId,
    trials: &mut super::host::IdmapTrials,
    by_acl: &mut Vec<String>,
    errors: &mut Vec<PlanError>,
) -> Storage {
    let resource = &of.model.resources[id];
    let rows = of.model.matrix().by_class(id);
    let (path, keeping) = match &resource.source {
        Some(source) if resource.chown => (source.clone(), Keeping::Adopted),
        Some(source) => (source.clone(), Keeping::Theirs),
        None => (kept_at(of.dirs, resource), Keeping::Ours),
    };
    let mut refuse = |reason: Reason| {
        errors.push(PlanError::Resource {
            name: resource.name.clone(),
            reason,
        });
    };
    if of.has_one_id() && blind(rows.perms.all()) {
        // Mounts can withhold writing and executing, but not reading.
        refuse("it grants a right without `r`, which takes ids of its own to hold: `pysecure doctor` says how to get subordinate ids".into());
    }
    let wants_one_owner = keeping != Keeping::Theirs && !of.has_one_id() && wants_one_owner(&rows);
    let one_owner = wants_one_owner && *of.privilege == Privilege::Root && trials.works_at(&path).is_ok();
    if wants_one_owner && !one_owner {
        by_acl.push(format!("`{}`", resource.name));
    }
    let ownership = match of.privilege {
        // One id stands for every service; what each may do, its mounts alone decide.
        Privilege::OneId => Ownership::of_one(Ids::default(), union(rows.perms.all())),
        _ if one_owner => owned_by_one(of.model, of.ledger, &rows),
        _ => by_class(of.model, of.ledger, &rows),
    };
    let mut storage = Storage {
        resource: resource.name.clone(),
        path,
        directory: resource.kind == ResourceKind::Directory || resource.with_directory,
        keeping,
        initial: resource.initial.as_ref().map(|from| Initial {
            from: from.clone(),
            file: (resource.kind == ResourceKind::File).then(|| path::base(&resource.path).to_owned()),
        }),
        holding: if one_owner { Holding::OneOwner } else { Holding::Classes },
        disk: Ids {
            uid: ownership.uid,
            gid: ownership.gid,
        },
        ownership,
        mount_points: Vec::new(),
    };
    if let Some(service) = several_users(of.model, id) {
        if blind(rows.perms.all()) {
            refuse(
                format!("it grants a right without `r`, which `{service}` would get round: it has `users`, and so falls into whichever class it likes")
                    .into(),
            );
        }
        // On disk it lies in a folder that no account of the host passes.
        if keeping == Keeping::Ours && of.model.external_uid.is_none() {
            storage.ownership.global |= storage.ownership.owner & 0o5;
            storage.ownership.bundle |= storage.ownership.global;
        }
    }
    let would_be_roots =
        keeping != Keeping::Ours && *of.privilege == Privilege::Root && rows.writable() && !rows.as_root;
    if let Some(reason) = would_be_roots.then(|| roots(&storage)).flatten() {
        refuse(reason);
    }
    if keeping == Keeping::Theirs
        && let Err(reason) = theirs(&rows, of.privilege, &mut storage)
    {
        refuse(reason);
    }
    storage
}

/// A service that is granted it and has further users, which are neither its owner nor in its group.
fn several_users(model: &Model, id: ResourceId) -> Option<&str> {
    let matrix = model.matrix();
    let of = |service: &ServiceId| matrix.perms(Subject::Service(*service), id).any();
    let mut all = ServiceId::all(&model.services).filter(|service| !model.services[*service].users.is_empty());
    all.find(of).map(|service| model.services[service].name.as_str())
}

/// What is nested in something of our keeping is mounted on a place that is made there.
fn mount_points(model: &Model, all: &mut [Storage]) {
    for resource in &model.resources {
        let Some(parent) = resource.parent else { continue };
        let target = resource.mount_path();
        if all[parent].keeping != Keeping::Theirs
            && let Some(inside) = target.strip_prefix(&model.resources[parent].path)
        {
            let point = MountPoint {
                path: inside.trim_start_matches('/').to_owned(),
                directory: resource.kind == ResourceKind::Directory || resource.with_directory,
            };
            if !point.path.is_empty() {
                all[parent].mount_points.push(point);
            }
        }
    }
}

/// Is there a right among these that is one without reading?
fn blind(all: [Perms; 3]) -> bool {
    all.into_iter().any(|p| p.any() && !p.read)
}

fn union(all: [Perms; 3]) -> u32 {
    all.into_iter().fold(Perms::default(), Perms::union).file_bits()
}

/// Are there several who hold it, and may any of them make files in it or own what is there?
fn wants_one_owner(rows: &ByClass<'_>) -> bool {
    rows.is_shared() && (rows.owner_reads() || rows.writable())
}

/// Whose a resource is that several hold. What nobody owns, or not wholly, is an id's of the app's own that no service
/// has. Never root's, whose set-id bits would be the host's.
fn holder(model: &Model, ledger: &Ledger, rows: &ByClass<'_>) -> Ids {
    if rows.owner_reads() {
        owner_ids(model, ledger, rows.owner)
    } else {
        ledger.service(crate::model::UNOWNED)
    }
}

/// All is one id's; by name, those who see it as it is on disk.
fn owned_by_one(model: &Model, ledger: &Ledger, rows: &ByClass<'_>) -> Ownership {
    let perms = rows.perms;
    let holder = holder(model, ledger, rows);
    let seeing = |p: Perms| if p.read { p } else { Perms::default() };
    let all = perms.all().map(seeing);
    let mut out = Ownership::of_one(holder, union(all));
    let mut guests_write = false;
    if !perms.global.read {
        guests_write |= perms.global.write;
        out.global = perms.global.file_bits();
    }
    let others = out.global != 0 || perms.bundle.any() && !perms.bundle.read;
    let mut name = |who: Who, perms: Perms| {
        // Who has no right must not fall among the others who have one.
        if perms.any() || others {
            guests_write |= perms.write;
            out.named.push((who, perms.file_bits()));
        }
    };
    let owner = rows.owner.map(|owner| owner_ids(model, ledger, Some(owner)).uid);
    if let Some(uid) = owner.filter(|_| !rows.owner_reads()) {
        name(Who::User(uid), perms.owner);
    }
    if let Some(uid) = model.external_uid.filter(|_| rows.owner != Some(Subject::External)) {
        name(Who::User(uid), rows.external);
    }
    if !perms.bundle.read
        && let Some(gid) = ledger.group(model, rows.bundles)
    {
        name(Who::Group(gid), perms.bundle);
    }
    out.inherited = !out.named.is_empty() || out.global != 0;
    if guests_write {
        out.named.push((Who::User(holder.uid), out.owner));
    }
    out.named.sort_unstable();
    out
}

/// By class, as UNIX has it.
fn by_class(model: &Model, ledger: &Ledger, rows: &ByClass<'_>) -> Ownership {
    let perms = rows.perms;
    let owner = owner_ids(model, ledger, rows.owner);
    let group = ledger.group(model, rows.bundles);
    let mut out = Ownership {
        uid: owner.uid,
        gid: owner.gid,
        owner: perms.owner.file_bits(),
        bundle: 0,
        global: perms.global.file_bits(),
        named: Vec::new(),
        inherited: perms.bundle.any() || perms.global.any(),
        form: FORM,
    };
    // A file that another makes is the other's, in a group of the other's: the owner's right and the bundle's stand by
    // name. Set-group-id would do for the latter, but for programs that give a new file the group of the old one, which
    // an owner may who is in the bundle, and only then (patch). Where nobody else writes, the mask is left as narrow as the bundle's rights: a data
    // folder that its owner shows to a bundle is 0750, as PostgreSQL wants it.
    if (perms.bundle.write || perms.global.write) && out.owner != 0 {
        out.named.push((Who::User(owner.uid), out.owner));
    }
    if let Some(gid) = group.filter(|_| perms.bundle.any() || out.global != 0) {
        out.named.push((Who::Group(gid), perms.bundle.file_bits()));
    }
    out
}

fn kept_at(dirs: &Dirs, resource: &Resource) -> PathBuf {
    let folder = dirs.resources().join(&resource.name);
    match resource.kind {
        ResourceKind::File if !resource.with_directory => folder.join(path::base(&resource.path)),
        _ => folder,
    }
}

/// What root runs, reads or obeys, whoever put it there.
const ROOTS_FOLDERS: [&str; 14] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lib/systemd",
    "/var/spool/cron",
];

/// Why writing in a tree would be writing as root: what is made in one that stays root's is root's on the host,
/// and in some folders the owner does not matter.
fn roots(storage: &Storage) -> Option<Reason> {
    let path = &storage.path;
    let shown = path.display();
    let remedy = "leave `source` out, or write write_as_root = true if that is meant";
    let system = ROOTS_FOLDERS.iter().find(|folder| {
        let folder = Path::new(folder);
        path.starts_with(folder) || folder.starts_with(path)
    });
    if let Some(folder) = system {
        let why = format!("services would write in {shown}, and root runs or obeys what lies in {folder}");
        return Some(Reason::new(why).remedy(remedy));
    }
    // That it is not there is said elsewhere.
    let owner = std::fs::symlink_metadata(path).ok()?.uid();
    (owner == 0 && storage.keeping == Keeping::Theirs).then(|| {
        let why = format!(
            "{shown} is root's, and so would be all that services write there, for every other program of this host"
        );
        Reason::new(why).remedy(format!(
            "give it to another user, write chown = true to have PySecure make it the services', {remedy}"
        ))
    })
}

/// A tree that stays the user's: its modes must already allow what the manifest grants, and its owner is
/// shown as the manifest's by an idmapped mount (mount_setattr(2)) where one is needed.
fn theirs(rows: &ByClass<'_>, privilege: &Privilege, storage: &mut Storage) -> Result<(), Reason> {
    let metadata = std::fs::symlink_metadata(&storage.path)
        .map_err(|e| Reason::new(format!("look at {}: {e}", storage.path.display())).because(e))?;
    let perms = rows.perms;
    let for_all_alike = !rows.writable() && !perms.owner.any() && !perms.bundle.any();
    let bits = |p: Perms| {
        if storage.directory {
            p.directory_bits()
        } else {
            p.file_bits()
        }
    };
    let chown = "or write chown = true to have PySecure change its owner and mode";
    let wanted = if for_all_alike {
        // The `x` of code says that its programs may be run; which of its files are programs, their own modes say.
        bits(perms.global) & if storage.directory { 0o7 } else { 0o6 }
    } else if *privilege == Privilege::Root {
        storage.holding = Holding::OneOwner;
        storage.disk = Ids {
            uid: metadata.uid(),
            gid: metadata.gid(),
        };
        // Who reads it is shown it as the owner; others keep the class that the modes give them.
        let class = |p: Perms, place: u32| if p.read { bits(p) << 6 } else { bits(p) << place };
        class(perms.owner, 6) | class(perms.bundle, 3) | class(perms.global, 0)
    } else if rows.writable() {
        let shown = storage.path.display();
        return Err(format!(
            "{shown} is yours, and without root it cannot be shown to a service as its own: leave `source` out, {chown}"
        )
        .into());
    } else {
        bits(perms.owner.union(perms.bundle).union(perms.global))
    };
    let have = metadata.mode() & 0o777;
    let lacking = wanted & !have;
    if lacking != 0 {
        let shown = storage.path.display();
        let why = format!("{shown} has mode {have:04o}, which does not allow what the manifest grants");
        return Err(Reason::new(why).remedy(opened(lacking, have | wanted, storage)));
    }
    Ok(())
}

/// What to do about a mode that closes a tree to services. Nobody is told to open one to others: that would be to every account of this
/// host, and the mode may be what keeps a secret.
fn opened(lacking: u32, wanted: u32, storage: &Storage) -> String {
    let shown = storage.path.display();
    if lacking & !0o700 == 0 {
        return format!(
            "`chmod {wanted:04o} {shown}`, or write chown = true to have PySecure change its owner and mode"
        );
    }
    match storage.resource.strip_prefix("code:") {
        Some(path) => format!(
            "services read `code` as every account of this host does; what is not for all of these is shown by a resource with \
             path = \"{path}\", global = \"rx\" and initial = \"{shown}\", a copy that services alone can read, or with source and chown = true"
        ),
        None => format!(
            "write initial = \"{shown}\" in place of `source` (services get a copy, which no others can read), or chown = true to have \
             PySecure make it theirs; a wider mode would open it to every account of this host"
        ),
    }
}

/// Is `inside` there below `source`, and of the right kind? Links are not followed.
pub(super) fn has_mount_point(source: &Path, point: &MountPoint) -> Result<bool, Reason> {
    let mut at = source.to_owned();
    let mut parts = point.path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let last = parts.peek().is_none();
        match std::fs::symlink_metadata(&at) {
            Err(_) => return Ok(false),
            Ok(found) if found.is_symlink() => {
                let why = format!("{} is a link, and nothing is mounted over or through one", at.display());
                return Err(Reason::new(why).remedy("remove it"));
            }
            Ok(found) if found.is_dir() != (!last || point.directory) => {
                let kind = if found.is_dir() { "a directory" } else { "a file" };
                let why = format!("{} is {kind}, which the resource cannot be mounted on", at.display());
                return Err(Reason::new(why).remedy("rename one of them"));
            }
            Ok(_) => {}
        }
    }
    Ok(true)
}

/// What the external service may do with a tree that stays the user's, by what modes say: it runs on the host, so nothing
/// else stands between them.
pub(super) fn external(model: &Model, storage: &[Storage]) -> Vec<PlanError> {
    let Some(uid) = model.external_uid else {
        return Vec::new();
    };
    let gid = model.external_gid;
    let mut out = Vec::new();
    for ((id, resource), storage) in ResourceId::all(&model.resources).zip(&model.resources).zip(storage) {
        let bits = |path: &Path| -> u32 {
            let Ok(found) = std::fs::metadata(path) else { return 0 };
            let shift = if found.uid() == uid {
                6
            } else if Some(found.gid()) == gid {
                3
            } else {
                0
            };
            found.mode() >> shift & 0o7
        };
        let granted = model.matrix().perms(Subject::External, id);
        let way = || storage.path.ancestors().skip(1).all(|a| bits(a) & 0o1 != 0);
        if storage.keeping != Keeping::Theirs || granted.read && granted.write || !way() {
            continue;
        }
        let real = bits(&storage.path);
        // Whoever passes a directory reaches what is in it.
        let (reads, writes) = match storage.directory {
            true => (real & 0o1 != 0, real & 0o3 == 0o3),
            false => (real & 0o4 != 0, real & 0o2 != 0),
        };
        let more = match (reads && !granted.read, writes && !granted.write) {
            (false, false) => continue,
            (true, false) => "read",
            (false, true) => "write",
            (true, true) => "read and write",
        };
        let closed = if more == "write" { "o-w" } else { "o-rwx" };
        let shown = storage.path.display();
        let why = format!(
            "the external service runs on the host, where the mode of {shown} lets it {more} this, which the manifest does not"
        );
        let help = format!(
            "`chmod {closed} {shown}` or the group's likewise, or write chown = true to have PySecure see to it"
        );
        out.push(PlanError::Resource {
            name: resource.name.clone(),
            reason: Reason::new(why).remedy(help),
        });
    }
    out
}
