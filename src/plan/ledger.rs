//! Which name has which id, for as long as the app's data exists.
//!
//! An entry is never taken back: a service that is gone from the manifest keeps its line, so its id goes
//! to nobody else while files of it may exist, and the service has it again if it returns. The file is
//! replaced in one rename, under a lock against a second `pysecure`.

use super::PlanError;
use super::lock::Lock;
use super::sandbox::IdNames;
use crate::cause::{Cause, Reason};
use crate::durable;
use crate::host::{Dirs, Privilege};
use crate::model::{self, BundleId, Model, SETUP_SCRIPT, ServiceId, Subject};
use serde::{Deserialize, Serialize};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::{Path, PathBuf};

/// Where the ranges begin that are tried for an app whose manifest names none, a thousand ids each: the upper end of
/// people's accounts, downwards.
///
/// They exist wherever there are 65536 ids, as an ordinary user and a container have, so an app has the same ones everywhere.
/// None of them is one that others give out (systemd's UIDS-GIDS): systemd's own users and its dynamic ones (61184 to
/// 65519), nobody, subordinate ids and containers; nor what manifests name in examples, 60706 to 61183 and 61000 to 61999.
fn free_ranges() -> impl Iterator<Item = [u32; 2]> {
    let lows = (20_000..=59_000).rev().step_by(1_000);
    lows.map(|low| [low, low + 999])
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub version: u32,
    pub app: String,
    /// The manifest that the app was last started from.
    pub manifest: PathBuf,
    /// The folder that it was in, by what stays the same when it is moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folder: Option<Folder>,
    pub uid_range: [u32; 2],
    pub gid_range: [u32; 2],
    /// Id 0 of every service's namespace.
    pub keeper: Ids,
    pub services: BTreeMap<String, Ids>,
    /// GIDs by the names of the bundles that share them, joined by `+`.
    pub groups: BTreeMap<String, u32>,
    /// How each resource's files were last owned, so that a change of policy is carried through to them.
    #[serde(default)]
    pub applied: BTreeMap<String, super::Ownership>,
    /// The path at which services last saw each resource that is kept.
    #[serde(default)]
    pub paths: BTreeMap<String, String>,
}

const VERSION: u32 = 1;

/// A directory, whatever it is called: device, inode, and when it was made, in nanoseconds since 1970, if the file system
/// tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    pub device: u64,
    pub inode: u64,
    pub born: Option<u64>,
}

impl Folder {
    pub fn of(path: &Path) -> Option<Folder> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).ok()?;
        let born = found
            .created()
            .ok()
            .and_then(|t| t.duration_since(std::time::UNIX_EPOCH).ok());
        Some(Folder {
            device: found.dev(),
            inode: found.ino(),
            born: born.and_then(|t| u64::try_from(t.as_nanos()).ok()),
        })
    }
}

/// Whose an app's data is, seen from a manifest that names the app.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whose {
    /// This manifest's, or nobody's yet.
    Ours,
    /// That of one which is not there any more: it was moved here, or this is a copy of it.
    Gone(PathBuf),
    /// Another's.
    Theirs(PathBuf),
}

impl Ledger {
    /// Reads an app's ledger; an empty one if there is none yet.
    pub fn read(dirs: &Dirs, app: &str) -> Result<Ledger, PlanError> {
        match read(&dirs.ledger())? {
            Some(mut ledger) => {
                let unfit = |cause: String| PlanError::Ledger {
                    path: dirs.ledger(),
                    cause: Cause::new(cause),
                };
                ledger.fit().map_err(unfit)?;
                if ledger.app != app {
                    // Whoever gave the app another name may have moved its folder; if the other one has one, this is a copy.
                    let other = dirs.app.with_file_name(&ledger.app);
                    if !ledger.app.is_empty() && other.exists() {
                        return Err(unfit(format!("it is that of the app `{}`", ledger.app)));
                    }
                    app.clone_into(&mut ledger.app);
                }
                Ok(ledger)
            }
            // Which ids its files have is not known any more.
            None if has_data(&dirs.app) => Err(lost(&dirs.app)),
            None => Ok(Ledger {
                version: VERSION,
                app: app.to_owned(),
                ..Ledger::default()
            }),
        }
    }

    /// Is it one that [`Ledger::allocate`] may have made? Whoever edits it may give two names one id, or one the host's.
    fn fit(&self) -> Result<(), String> {
        for (key, [low, high]) in [("uid_range", self.uid_range), ("gid_range", self.gid_range)] {
            if low > high || (low == 0) != (high == 0) {
                return Err(format!("{key} is {low}-{high}"));
            }
        }
        let keeper = (self.keeper != Ids::default()).then_some(("the keeper", self.keeper));
        let services = self
            .services
            .iter()
            .map(|(name, ids)| (name.as_str(), *ids))
            .chain(keeper);
        let uids = services.clone().map(|(name, ids)| (name, ids.uid));
        // One that no range holds is the external service's, and all bundles that it uses may have it.
        let own = |gid: u32| (self.gid_range[0]..=self.gid_range[1]).contains(&gid);
        let groups = self.groups.iter().map(|(name, gid)| (name.as_str(), *gid));
        let (own, others): (Vec<_>, Vec<_>) = groups.partition(|(_, gid)| own(*gid));
        let gids = services.map(|(name, ids)| (name, ids.gid));
        once_each("UID", uids)?;
        let taken = once_each("GID", gids.chain(own))?;
        for (name, gid) in others {
            if let Some(other) = taken.get(&gid) {
                return Err(format!("it gives the GID {gid} to `{other}` and `{name}`"));
            }
            once_each("GID", [(name, gid)].into_iter())?;
        }
        Ok(())
    }

    /// Whose the app's data is. `manifest` is free of links.
    pub fn whose(&self, manifest: &Path) -> Whose {
        let owner = &self.manifest;
        let (here, there) = (manifest.parent(), owner.parent());
        // What `run_with_config` wrote and what lies beside it are the same app, whichever is named.
        let written = from_python(owner) || from_python(manifest);
        if owner.as_os_str().is_empty() || owner == manifest || written && here == there {
            return Whose::Ours;
        }
        if self.has_moved_to(manifest) || written && self.folder.is_some() && self.folder == here.and_then(Folder::of) {
            return Whose::Ours;
        }
        match std::fs::symlink_metadata(owner) {
            Err(e)
                if matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
                ) =>
            {
                Whose::Gone(owner.clone())
            }
            // Or it cannot be looked at, which tells nothing.
            _ => Whose::Theirs(owner.clone()),
        }
    }

    /// Is this the app's manifest, in the folder that it was in, but that folder has another name now?
    pub fn has_moved_to(&self, manifest: &Path) -> bool {
        self.manifest != manifest
            && self.manifest.file_name() == manifest.file_name()
            && self.folder.is_some()
            && self.folder == manifest.parent().and_then(Folder::of)
    }

    /// From now on the data is this manifest's.
    pub fn belong_to(&mut self, manifest: &Path) {
        self.manifest = manifest.to_owned();
        self.folder = manifest.parent().and_then(Folder::of);
    }

    /// That of the app whose data lies here.
    pub fn at(folder: &Path, app: &str) -> Result<Ledger, PlanError> {
        let ledger = read(&folder.join("ledger.json"))?.unwrap_or_default();
        Ok(Ledger {
            app: app.to_owned(),
            ..ledger
        })
    }

    /// Replaces the file in one step; readers see the old one or the new one, after a power loss as well.
    pub fn write(&self, dirs: &Dirs, _held: &Lock) -> Result<(), PlanError> {
        let path = dirs.ledger();
        let fresh = path.with_extension("json.new");
        let wrong = |e: std::io::Error| PlanError::io("write the ledger", &path, e);
        let mut text = serde_json::to_string_pretty(self).map_err(|e| wrong(e.into()))?;
        text.push('\n');
        let first = !path.exists();
        durable::write(&fresh, &path, text.as_bytes()).map_err(wrong)?;
        if first {
            // So may the folders be that it lies in.
            for folder in [dirs.state.join("apps"), dirs.state.clone()] {
                durable::settle_names(&folder).map_err(wrong)?;
            }
        }
        Ok(())
    }

    /// The ids of a service that [`Ledger::allocate`] has seen.
    pub fn service(&self, name: &str) -> Ids {
        self.services.get(name).copied().unwrap_or(self.keeper)
    }

    /// The GID of a resource's bundles, if it is in any.
    pub fn group(&self, model: &Model, bundles: &[BundleId]) -> Option<u32> {
        if bundles.is_empty() {
            None
        } else {
            self.groups.get(&set_name(model, bundles)).copied()
        }
    }

    /// All GIDs that the bundles of a service come to, and their names, sorted by id.
    pub fn groups_of(&self, model: &Model, service: ServiceId) -> Vec<(u32, String)> {
        let sets = model.matrix().sets_of(service);
        let named = |set: &[BundleId]| Some((self.group(model, set)?, set_name(model, set)));
        let gids: BTreeSet<(u32, String)> = sets.filter_map(named).collect();
        gids.into_iter().collect()
    }

    /// Gives every name of the model an id, and every range a place. What was given before stays.
    pub(super) fn allocate(
        &mut self,
        model: &Model,
        siblings: &Siblings,
        privilege: &Privilege,
        notes: &mut Vec<String>,
    ) -> Vec<PlanError> {
        let mut errors = Vec::new();
        let Siblings {
            known: siblings,
            unknown,
        } = siblings;
        let before = (self.uid_range, self.gid_range);
        self.rename(model);
        let needed = crate::model::needed_ids(model);
        let fresh = self.uid_range == [0, 0];
        match self.ranges(model, siblings, needed, fresh, privilege) {
            Ok((uid_range, gid_range)) => {
                self.uid_range = uid_range;
                self.gid_range = gid_range;
            }
            Err(e) => return vec![e],
        }
        // Which ids another app has is not known. Those that this one has had before it has from when that was known.
        match (self.uid_range, self.gid_range) == before {
            true => notes.extend(
                unknown
                    .iter()
                    .map(|e| format!("another app of this state directory cannot start: {e}")),
            ),
            false => errors.extend(unknown.iter().cloned()),
        }
        errors.extend(self.moved());
        errors.extend(self.given_to_others(model, siblings));
        if !errors.is_empty() {
            return errors;
        }
        let (mut uids, mut gids) = self.pools();
        let result = self.fill(model, &mut uids, &mut gids);
        errors.extend(result.err());
        errors
    }

    /// Ranges of this app's that hold an id of the external service, or of another app.
    fn given_to_others(&self, model: &Model, siblings: &[Ledger]) -> Vec<PlanError> {
        type Range = fn(&Ledger) -> [u32; 2];
        let ranges: [(&'static str, Range, Option<u32>); 2] = [
            ("uid_range", |ledger| ledger.uid_range, model.external_uid),
            ("gid_range", |ledger| ledger.gid_range, model.external_gid),
        ];
        let external = ranges.iter().filter_map(|(key, range, external)| {
            let range = range(self);
            let id = external.filter(|id| (range[0]..=range[1]).contains(id))?;
            Some(PlanError::Taken {
                key,
                range,
                id,
                whose: "the external service".to_owned(),
            })
        });
        let apps = ranges.iter().flat_map(|(key, range, _)| {
            let own = range(self);
            let theirs = siblings.iter().filter(move |s| overlap(range(s), own));
            theirs.map(move |s| PlanError::Overlap {
                key,
                app: model.app.clone(),
                range: own,
                other: s.app.clone(),
                manifest: s.manifest.clone(),
                theirs: range(s),
            })
        });
        external.chain(apps).collect()
    }

    /// What of the ranges is free: for UIDs, and for GIDs.
    fn pools(&self) -> (Pool, Pool) {
        let given = || self.services.values().chain([&self.keeper]);
        let gids = given().map(|ids| ids.gid).chain(self.groups.values().copied());
        (
            Pool::new("uid_range", self.uid_range, given().map(|ids| ids.uid)),
            Pool::new("gid_range", self.gid_range, gids),
        )
    }

    /// Services that go on under another name go on with their ids. What they had under the new one is not given again.
    fn rename(&mut self, model: &Model) {
        for service in &model.services {
            let Some(was) = &service.was else { continue };
            let users = service
                .users
                .iter()
                .map(|user| (Ledger::user_of(was, user), Ledger::user_of(&service.name, user)));
            let init = (Ledger::init_of(was), Ledger::init_of(&service.name));
            let names: Vec<_> = users.chain([init, (was.clone(), service.name.clone())]).collect();
            for (was, name) in names {
                let Some(ids) = self.services.remove(&was) else {
                    continue;
                };
                if let Some(former) = self.services.insert(name.clone(), ids) {
                    self.retire(&name, former);
                }
            }
        }
    }

    /// Keeps ids that a name had, so that they are not given again.
    fn retire(&mut self, name: &str, former: Ids) {
        // No service can be called so.
        let mut key = format!("{name}/former");
        while self.services.contains_key(&key) {
            key.push('+');
        }
        self.services.insert(key, former);
    }

    /// The services that have ids, and nothing else that has.
    pub fn service_names(&self) -> impl Iterator<Item = &str> {
        let all = self.services.keys().map(String::as_str);
        all.filter(|name| !name.contains('/') && *name != SETUP_SCRIPT && *name != model::UNOWNED)
    }

    /// By which name the ledger has a service's further user. No service can be called so.
    pub(super) fn user_of(service: &str, user: &str) -> String {
        format!("{service}/user:{user}")
    }

    /// And the id that the first process of a service with such users has.
    pub(super) fn init_of(service: &str) -> String {
        format!("{service}/init")
    }

    fn fill(&mut self, model: &Model, uids: &mut Pool, gids: &mut Pool) -> Result<(), PlanError> {
        let of_sandboxes: u32 = model.sandboxes.iter().map(model::ids_of).sum();
        let users: usize = model.services.iter().map(|s| s.users.len()).sum();
        let live = model.services.len() + of_sandboxes as usize + users;
        if self.keeper == Ids::default() {
            self.keeper = Ids {
                uid: uids.take(live)?,
                gid: gids.take(live)?,
            };
        }
        let setup = model.setup.as_ref().map(|_| SETUP_SCRIPT);
        let unowned = model.matrix().has_unowned().then_some(crate::model::UNOWNED);
        for name in model
            .services
            .iter()
            .map(|s| s.name.as_str())
            .chain(setup)
            .chain(unowned)
        {
            if !self.services.contains_key(name) {
                let ids = Ids {
                    uid: uids.take(live)?,
                    gid: gids.take(live)?,
                };
                self.services.insert(name.to_owned(), ids);
            }
        }
        for service in model.services.iter().filter(|service| !service.users.is_empty()) {
            let users = service.users.iter().map(|user| Ledger::user_of(&service.name, user));
            for name in users.chain([Ledger::init_of(&service.name)]) {
                if let Entry::Vacant(vacant) = self.services.entry(name) {
                    vacant.insert(Ids {
                        uid: uids.take(live)?,
                        gid: gids.take(live)?,
                    });
                }
            }
        }
        for sandbox in &model.sandboxes {
            self.fill_sandbox(sandbox, uids, gids)?;
        }
        for set in model.bundle_sets() {
            let name = set_name(model, &set);
            let external = model.external_gid.filter(|_| model.has_external(&set));
            let range = self.gid_range[0]..=self.gid_range[1];
            let held = self.groups.get(&name).copied().filter(|gid| range.contains(gid));
            // No bundle can be called so.
            let former = format!("{name}/former");
            match (external, held) {
                // The external service has one GID, which is not ours to choose; it becomes the bundle's. Files may have the
                // bundle's own yet, and it may return.
                (Some(gid), held) => {
                    self.groups.insert(name, gid);
                    if let Some(held) = held.filter(|held| *held != gid) {
                        self.groups.insert(former, held);
                    }
                }
                (None, Some(_)) => {}
                (None, None) => {
                    let own = match self.groups.remove(&former).filter(|gid| range.contains(gid)) {
                        Some(own) => own,
                        None => gids.take(live)?,
                    };
                    self.groups.insert(name, own);
                }
            }
        }
        Ok(())
    }

    /// A sandbox's ids are numbers that are nobody's as UIDs nor as GIDs, and those of its runs stand in a row. Where there are
    /// to be more of them and the row cannot go on, it has another, and the former one is given to nobody.
    fn fill_sandbox(&mut self, sandbox: &model::Sandbox, uids: &mut Pool, gids: &mut Pool) -> Result<(), PlanError> {
        let names = IdNames(&sandbox.name);
        let mut both = [uids, gids];
        for name in [names.keeper(), names.warm()] {
            if !self.services.contains_key(&name) {
                self.take_row(sandbox, None, vec![name], &mut both)?;
            }
        }
        let has = (0..sandbox.uids).take_while(|n| self.services.contains_key(&names.run(*n)));
        let has = has.count() as u32;
        let missing: Vec<String> = (has..sandbox.uids).map(|n| names.run(n)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let last = has.checked_sub(1).and_then(|n| self.services.get(&names.run(n)));
        let next = last.and_then(|ids| ids.uid.checked_add(1));
        let goes_on = next.filter(|next| both.iter().all(|pool| pool.has_free(*next, missing.len())));
        if has == 0 || goes_on.is_some() {
            return self.take_row(sandbox, goes_on, missing, &mut both);
        }
        for number in 0..has {
            if let Some(ids) = self.services.remove(&names.run(number)) {
                self.retire(&names.run(number), ids);
            }
        }
        let all = (0..sandbox.uids).map(|n| names.run(n)).collect();
        self.take_row(sandbox, None, all, &mut both)
    }

    /// Gives these names ids in a row. `first`: the first of them, if that is known to be free.
    fn take_row(
        &mut self,
        sandbox: &model::Sandbox,
        first: Option<u32>,
        names: Vec<String>,
        both: &mut [&mut Pool; 2],
    ) -> Result<(), PlanError> {
        let low = first.or_else(|| free_row(both, names.len()));
        let low = low.ok_or_else(|| no_row(sandbox, both))?;
        for (id, name) in (low..).zip(names) {
            for pool in both.iter_mut() {
                pool.taken.insert(id);
            }
            self.services.insert(name, Ids { uid: id, gid: id });
        }
        Ok(())
    }

    fn ranges(
        &self,
        model: &Model,
        siblings: &[Ledger],
        needed: (u64, u64),
        fresh: bool,
        privilege: &Privilege,
    ) -> Result<([u32; 2], [u32; 2]), PlanError> {
        if let (Some(uids), Some(gids)) = (model.uid_range, model.gid_range) {
            return Ok((uids, gids));
        }
        if !fresh {
            return Ok((
                model.uid_range.unwrap_or(self.uid_range),
                model.gid_range.unwrap_or(self.gid_range),
            ));
        }
        let size = needed.0.max(needed.1);
        let free = free_ranges().find(|range| {
            let probe = Ledger {
                uid_range: *range,
                gid_range: *range,
                ..Ledger::default()
            };
            let external = [model.external_uid, model.external_gid].into_iter().flatten();
            !siblings
                .iter()
                .any(|s| overlap(s.uid_range, *range) || overlap(s.gid_range, *range))
                && !external.into_iter().any(|id| (range[0]..=range[1]).contains(&id))
                && super::host::collisions(&probe, privilege, [None; 2]).is_empty()
        });
        let no_free = |holders| PlanError::NoFreeRange {
            app: model.app.clone(),
            size,
            holders,
        };
        match free {
            Some(range) if size <= 1_000 => Ok((model.uid_range.unwrap_or(range), model.gid_range.unwrap_or(range))),
            // There are some, and they are too small.
            Some(_) => Err(no_free(Vec::new())),
            None => {
                let has = |s: &&Ledger| free_ranges().any(|r| overlap(s.uid_range, r) || overlap(s.gid_range, r));
                let holders = siblings.iter().filter(has);
                Err(no_free(holders.map(|s| (s.app.clone(), s.manifest.clone())).collect()))
            }
        }
    }

    /// Ids that were given from a range which the manifest has moved away since.
    fn moved(&self) -> Vec<PlanError> {
        let inside = |range: [u32; 2], id: u32| id == 0 || (range[0]..=range[1]).contains(&id);
        let everyone = self
            .services
            .iter()
            .map(|(n, i)| (n.as_str(), *i))
            .chain([("the keeper", self.keeper)]);
        let mut out = Vec::new();
        for (name, ids) in everyone {
            if !inside(self.uid_range, ids.uid) {
                out.push(PlanError::Moved {
                    key: "uid_range",
                    range: self.uid_range,
                    name: name.to_owned(),
                    id: ids.uid,
                });
            }
            if !inside(self.gid_range, ids.gid) {
                out.push(PlanError::Moved {
                    key: "gid_range",
                    range: self.gid_range,
                    name: name.to_owned(),
                    id: ids.gid,
                });
            }
        }
        out.truncate(3);
        out
    }
}

/// Who has which id, if each is one that can be given out, and one name's alone.
fn once_each<'n>(what: &str, given: impl Iterator<Item = (&'n str, u32)>) -> Result<BTreeMap<u32, &'n str>, String> {
    let mut taken = BTreeMap::new();
    for (name, id) in given {
        if id == 0 || id == u32::MAX {
            return Err(format!("it gives the {what} {id} to `{name}`"));
        }
        if let Some(other) = taken.insert(id, name) {
            return Err(format!("it gives the {what} {id} to `{other}` and `{name}`"));
        }
    }
    Ok(taken)
}

/// A configuration in Python, or the manifest that one wrote.
fn from_python(manifest: &Path) -> bool {
    let name = manifest.file_name().unwrap_or_default().to_string_lossy();
    crate::manifest::is_python(manifest) || name.ends_with(".pysecure.json")
}

/// Owner of a resource, as ids.
pub(super) fn owner_ids(model: &Model, ledger: &Ledger, owner: Option<Subject>) -> Ids {
    match owner {
        Some(Subject::Service(id)) => ledger.service(&model.services[id].name),
        Some(Subject::External) => {
            let uid = model.external_uid.unwrap_or(0);
            Ids {
                uid,
                gid: model.external_gid.unwrap_or(0),
            }
        }
        // Nobody's: PySecure's own root keeps it. The keeper's id must own nothing.
        Some(Subject::Operator | Subject::SetupScript | Subject::Sandbox(_)) | None => Ids { uid: 0, gid: 0 },
    }
}

/// Ids of one range that are still free, lowest first.
struct Pool {
    key: &'static str,
    range: [u32; 2],
    taken: BTreeSet<u32>,
    next: u64,
}

impl Pool {
    fn new(key: &'static str, range: [u32; 2], taken: impl Iterator<Item = u32>) -> Pool {
        Pool {
            key,
            range,
            taken: taken.collect(),
            next: range[0].into(),
        }
    }

    /// Are so many in a row free, from this one on?
    fn has_free(&self, first: u32, count: usize) -> bool {
        let [low, high] = self.range;
        let is_free = |id: u32| (low..=high).contains(&id) && !self.taken.contains(&id);
        let row = (first..=high).take(count);
        row.clone().count() == count && row.into_iter().all(is_free)
    }

    fn take(&mut self, live: usize) -> Result<u32, PlanError> {
        while let Ok(id) = u32::try_from(self.next) {
            if id > self.range[1] {
                break;
            }
            self.next += 1;
            if self.taken.insert(id) {
                return Ok(id);
            }
        }
        let retired = self.taken.len().saturating_sub(live);
        Err(PlanError::Exhausted {
            key: self.key,
            range: self.range,
            live,
            retired,
        })
    }
}

/// The lowest of the first `count` numbers in a row that are free in both.
fn free_row(both: &[&mut Pool; 2], count: usize) -> Option<u32> {
    let low = both.iter().map(|pool| pool.range[0]).max()?;
    let high = both.iter().map(|pool| pool.range[1]).min()?;
    let mut first = low;
    for id in low..=high {
        if both.iter().any(|pool| pool.taken.contains(&id)) {
            first = id.checked_add(1)?;
        } else if (id - first) as usize + 1 >= count {
            return Some(first);
        }
    }
    None
}

fn no_row(sandbox: &model::Sandbox, both: &[&mut Pool; 2]) -> PlanError {
    let [[a, b], [c, d]] = [both[0].range, both[1].range];
    let why = format!(
        "it needs {} ids in a row that are nobody's, neither in uid_range {a}-{b} nor in gid_range {c}-{d}",
        sandbox.uids
    );
    PlanError::Sandbox {
        name: sandbox.name.clone(),
        reason: Reason::new(why).remedy("write the same for both ranges, and wider ones, or a smaller `uids`"),
    }
}

fn set_name(model: &Model, bundles: &[BundleId]) -> String {
    let mut names: Vec<&str> = bundles.iter().map(|b| model.bundles[*b].name.as_str()).collect();
    names.sort_unstable();
    names.join("+")
}

fn overlap(a: [u32; 2], b: [u32; 2]) -> bool {
    a != [0, 0] && b != [0, 0] && a[0] <= b[1] && b[0] <= a[1]
}

fn read(path: &Path) -> Result<Option<Ledger>, PlanError> {
    let bad = |cause: Box<dyn Error + Send + Sync>| PlanError::Ledger {
        path: path.to_owned(),
        cause: Cause::new(cause),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(bad(e.into())),
    };
    let ledger: Ledger = serde_json::from_str(&text).map_err(|e| bad(e.into()))?;
    if ledger.version != VERSION {
        let version = ledger.version;
        return Err(bad(format!(
            "it is of version {version}, this pysecure reads {VERSION}"
        )
        .into()));
    }
    Ok(Some(ledger))
}

/// Is there something in an app's folder that may belong to ids?
pub fn has_data(app: &Path) -> bool {
    ["resources", "adopted", "writable", "initializing", "purging"]
        .iter()
        .any(|name| app.join(name).exists())
}

fn lost(app: &Path) -> PlanError {
    PlanError::Ledger {
        path: app.join("ledger.json"),
        cause: Cause::new("it is gone, and the app's data is there, of which nothing else says whose ids it has"),
    }
}

/// What is known of all other apps that keep their state in the same place.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    pub known: Vec<Ledger>,
    /// Of each of whose ids nothing can be said: why.
    pub unknown: Vec<PlanError>,
}

pub(super) fn siblings(dirs: &Dirs, app: &str) -> Result<Siblings, PlanError> {
    let apps = dirs.state.join("apps");
    let entries = match std::fs::read_dir(&apps) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Siblings::default()),
        Err(e) => return Err(PlanError::io("read", apps, e)),
    };
    let mut out = Siblings::default();
    for entry in entries {
        let path = entry.map_err(|e| PlanError::io("read", &apps, e))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // A file that somebody left there is nobody's.
        if name == app || !path.is_dir() {
            continue;
        }
        match read(&path.join("ledger.json")) {
            Ok(Some(ledger)) => out.known.push(Ledger { app: name, ..ledger }),
            // Its files may have any id.
            Ok(None) if has_data(&path) => out.unknown.push(lost(&path)),
            Ok(None) => {}
            Err(error) => out.unknown.push(error),
        }
    }
    Ok(out)
}
