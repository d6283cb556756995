//! Where each resource lies on disk, and whose it is to be.
//!
//! The policy stands on the host as plain owner, group and mode bits, so it holds even where a
//! namespace would not. New files take it on by a default ACL ([`Ownership::default_acl`]), since neither
//! umask nor set-group-id alone gives the owner of shared data its right to a file that a member made.

use super::ledger::owner_ids;
use super::{Dirs, IdMap, Ledger, MountPoint, PlanError, Privilege};
use crate::manifest::types::Kind;
use crate::model::{Model, Resource, path};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is to be at a resource's place before a service may start.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    pub resource: String,
    /// What is mounted.
    pub path: PathBuf,
    /// Is `path` a directory?
    pub directory: bool,
    pub keeping: Keeping,
    pub ownership: Ownership,
    pub idmap: Option<IdMap>,
    /// Mount points of nested resources, relative to `path`, to be made in it.
    pub mount_points: Vec<MountPoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeping {
    /// Below the app's own data; made if it is not there.
    Ours,
    /// The user's, and given to us by `adopt = true`.
    Adopted,
    /// The user's; nothing about it is changed.
    Theirs,
}

/// Owner, group and what each may do: `rwx` bits as in a mode, before a directory's search bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ownership {
    pub uid: u32,
    pub gid: u32,
    pub owner: u32,
    pub bundle: u32,
    pub global: u32,
}

impl Ownership {
    pub fn file_mode(&self) -> u32 {
        self.owner << 6 | self.bundle << 3 | self.global
    }

    /// With search for whoever has any right, and set-group-id so that new files stay the bundle's.
    pub fn directory_mode(&self) -> u32 {
        let search = |bits: u32| bits | u32::from(bits != 0);
        0o2000 | search(self.owner) << 6 | search(self.bundle) << 3 | search(self.global)
    }

    /// The value of `system.posix_acl_default` (acl(5); layout of linux/posix_acl_xattr.h) for
    /// directories of this resource. A file's creator gets what any class may, for a member that makes
    /// a file is its UNIX owner; the resource's owner keeps its right by name.
    pub fn default_acl(&self) -> Vec<u8> {
        self.acl(self.owner | self.bundle | self.global)
    }

    /// The value of `system.posix_acl_access` for the directories themselves.
    pub fn access_acl(&self) -> Vec<u8> {
        self.acl(self.owner)
    }

    fn acl(&self, user: u32) -> Vec<u8> {
        const NOBODY_NAMED: u32 = u32::MAX;
        const VERSION: u32 = 2;
        let search = |bits: u32| bits | u32::from(bits != 0);
        let mask = search(self.owner | self.bundle);
        // Kind, rights, and for a named user its id; in the order that the kernel wants.
        let entries: [(u16, u32, u32); 5] = [
            (0x01, search(user), NOBODY_NAMED),
            (0x02, search(self.owner), self.uid),
            (0x04, search(self.bundle), NOBODY_NAMED),
            (0x10, mask, NOBODY_NAMED),
            (0x20, search(self.global), NOBODY_NAMED),
        ];
        let mut out = VERSION.to_le_bytes().to_vec();
        for (kind, bits, id) in entries {
            out.extend(kind.to_le_bytes());
            out.extend((bits as u16).to_le_bytes());
            out.extend(id.to_le_bytes());
        }
        out
    }
}

/// One entry a resource, in the model's order.
pub(super) fn plan(
    model: &Model,
    ledger: &Ledger,
    privilege: &Privilege,
    dirs: &Dirs,
    errors: &mut Vec<PlanError>,
) -> Vec<Storage> {
    let mut out: Vec<Storage> = model
        .resources
        .iter()
        .map(|resource| {
            let ownership = ownership(model, ledger, privilege, resource);
            let (path, keeping) = match &resource.source {
                Some(source) if resource.adopt => (source.clone(), Keeping::Adopted),
                Some(source) => (source.clone(), Keeping::Theirs),
                None => (kept_at(dirs, resource), Keeping::Ours),
            };
            let directory = resource.kind == Kind::Directory || resource.with_directory;
            let blind = [resource.perms.owner, resource.perms.bundle, resource.perms.global].into_iter().any(|p| p.any() && !p.read);
            if *privilege == Privilege::OneId && blind {
                // Mounts can withhold writing and executing, but not reading.
                let cause = "it grants a right without `r`, which takes ids of its own to hold: `pysecure doctor` says how to get subordinate ids".to_owned();
                errors.push(PlanError::Resource { name: resource.name.clone(), cause });
            }
            let mut storage = Storage {
                resource: resource.name.clone(),
                path,
                directory,
                keeping,
                ownership,
                idmap: None,
                mount_points: Vec::new(),
            };
            if keeping == Keeping::Theirs
                && let Err(cause) = theirs(resource, privilege, &mut storage)
            {
                errors.push(PlanError::Resource {
                    name: resource.name.clone(),
                    cause,
                });
            }
            storage
        })
        .collect();
    for resource in &model.resources {
        let Some(parent) = resource.parent else { continue };
        let target = resource.mount_path();
        if out[parent].keeping != Keeping::Theirs
            && let Some(inside) = target.strip_prefix(&model.resources[parent].path)
        {
            let point = MountPoint {
                path: inside.trim_start_matches('/').to_owned(),
                directory: resource.kind == Kind::Directory || resource.with_directory,
            };
            if !point.path.is_empty() {
                out[parent].mount_points.push(point);
            }
        }
    }
    out
}

fn kept_at(dirs: &Dirs, resource: &Resource) -> PathBuf {
    let folder = dirs.resources().join(&resource.name);
    match resource.kind {
        Kind::File if !resource.with_directory => folder.join(path::base(&resource.path)),
        _ => folder,
    }
}

fn ownership(model: &Model, ledger: &Ledger, privilege: &Privilege, resource: &Resource) -> Ownership {
    let perms = resource.perms;
    if *privilege == Privilege::OneId {
        // One id stands for every service; what each may do, its mounts alone decide.
        let owner = perms.owner.union(perms.bundle).union(perms.global).file_bits();
        return Ownership {
            uid: 0,
            gid: 0,
            owner,
            bundle: 0,
            global: 0,
        };
    }
    let owner = owner_ids(model, ledger, resource.owner);
    Ownership {
        uid: owner.uid,
        gid: ledger.group(model, &resource.bundles).unwrap_or(owner.gid),
        owner: perms.owner.file_bits(),
        bundle: perms.bundle.file_bits(),
        global: perms.global.file_bits(),
    }
}

/// A tree that stays the user's: its modes must already allow what the manifest grants, and its owner is
/// shown as the manifest's by an idmapped mount (mount_setattr(2)) where one is needed.
fn theirs(resource: &Resource, privilege: &Privilege, storage: &mut Storage) -> Result<(), String> {
    let metadata =
        std::fs::symlink_metadata(&storage.path).map_err(|e| format!("look at {}: {e}", storage.path.display()))?;
    let perms = resource.perms;
    let for_all_alike = !resource.writable() && !perms.owner.any() && !perms.bundle.any();
    let bits = |p: crate::manifest::types::Perms| {
        if storage.directory {
            p.directory_bits()
        } else {
            p.file_bits()
        }
    };
    let adopt = "or write adopt = true to have PySecure change its owner and mode";
    let wanted = if for_all_alike {
        // The `x` of code says that its programs may be run; which of its files are programs, their own modes say.
        bits(perms.global) & if storage.directory { 0o7 } else { 0o6 }
    } else if *privilege == Privilege::Root {
        storage.idmap = Some(IdMap {
            disk: super::ledger::Ids {
                uid: metadata.uid(),
                gid: metadata.gid(),
            },
            seen: super::ledger::Ids {
                uid: storage.ownership.uid,
                gid: storage.ownership.gid,
            },
        });
        bits(perms.owner) << 6 | bits(perms.bundle) << 3 | bits(perms.global)
    } else if resource.writable() {
        return Err(format!(
            "{} is yours, and without root it cannot be shown to a service as its own: leave `source` out, {adopt}",
            storage.path.display()
        ));
    } else {
        bits(perms.owner.union(perms.bundle).union(perms.global))
    };
    let have = metadata.mode() & 0o777;
    let lacking = wanted & !have;
    if lacking != 0 {
        return Err(format!(
            "{} has mode {have:04o}, which does not allow what the manifest grants: `chmod {:04o} {}`, {adopt}",
            storage.path.display(),
            have | wanted,
            storage.path.display()
        ));
    }
    Ok(())
}

/// Is `inside` there below `source`, and of the right kind? Links are not followed.
pub(super) fn has_mount_point(source: &Path, point: &MountPoint) -> Result<bool, String> {
    let mut at = source.to_owned();
    let mut parts = point.path.split('/').peekable();
    while let Some(part) = parts.next() {
        at.push(part);
        let last = parts.peek().is_none();
        match std::fs::symlink_metadata(&at) {
            Err(_) => return Ok(false),
            Ok(found) if found.is_symlink() => {
                return Err(format!(
                    "{} is a link, and nothing is mounted over or through one; remove it",
                    at.display()
                ));
            }
            Ok(found) if found.is_dir() != (!last || point.directory) => {
                let kind = if found.is_dir() { "a directory" } else { "a file" };
                return Err(format!(
                    "{} is {kind}, which the resource cannot be mounted on; rename one of them",
                    at.display()
                ));
            }
            Ok(_) => {}
        }
    }
    Ok(true)
}
