//! The access matrix: who may touch what, and how. The one place where that is decided.
//!
//! A service is to a resource its owner, a member of one of its bundles, or anyone else, and the
//! first of these that fits decides, as UNIX has it: an owner with fewer rights than the bundle
//! does not borrow the bundle's. Mounts, modes, groups, `access`, assertions and exports are all
//! drawn from [`Model::access`] and [`Model::grants`].

use super::{BundleId, Model, ResourceId, ServiceId};
use crate::values::{Callable, Perms};

/// Whose rights are asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    Service(ServiceId),
    /// The service that PySecure does not start.
    Dynamic,
    /// Whoever runs the app; calls services, and has no rights to resources.
    Operator,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub class: Class,
    pub perms: Perms,
}

/// A row of the matrix in which something is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub resource: ResourceId,
    pub class: Class,
    pub perms: Perms,
}

impl Model {
    pub fn access(&self, subject: Subject, resource: ResourceId) -> Access {
        let of = &self.resources[resource];
        if of.owner == Some(subject) {
            return Access {
                class: Class::Owner,
                perms: of.perms.owner,
            };
        }
        let member = match subject {
            Subject::Service(id) => intersects(&self.services[id].bundles, &of.bundles),
            Subject::Operator => false,
            Subject::Dynamic => of.bundles.iter().any(|b| self.bundles[*b].used_by_dynamic),
        };
        if member {
            Access {
                class: Class::Bundle,
                perms: of.perms.bundle,
            }
        } else {
            Access {
                class: Class::Global,
                perms: of.perms.global,
            }
        }
    }

    /// All that a service is granted, in the order of declaration.
    pub fn grants(&self, service: ServiceId) -> Vec<Grant> {
        let of = &self.services[service];
        let shared = of.bundles.iter().flat_map(|b| &self.bundles[*b].resources);
        let mut ids: Vec<ResourceId> = of.owns.iter().chain(shared).chain(&self.everyone).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
            .map(|resource| {
                let Access { class, perms } = self.access(Subject::Service(service), resource);
                Grant { resource, class, perms }
            })
            .filter(|grant| grant.perms.any())
            .collect()
    }

    /// What `caller` may call of `callee`; `None` if nothing.
    pub fn may_call(&self, caller: Subject, callee: ServiceId) -> Option<&Callable> {
        let callers = &self.services[callee].callers;
        callers
            .binary_search_by_key(&caller, |c| c.0)
            .ok()
            .map(|at| &callers[at].1)
    }

    pub(super) fn index_everyone(&mut self) {
        self.everyone = ResourceId::all(&self.resources)
            .filter(|r| self.resources[*r].perms.global.any())
            .collect();
    }
}

/// Do two sorted lists share an element?
fn intersects(a: &[BundleId], b: &[BundleId]) -> bool {
    if a.len() > b.len() {
        return intersects(b, a);
    }
    a.iter().any(|x| b.binary_search(x).is_ok())
}

impl Perms {
    pub fn any(self) -> bool {
        self.read || self.write || self.exec || self.connect
    }

    /// May it connect to sockets there? Whoever reads may: as root it is shown the files as its own, and no mount
    /// withholds connecting.
    pub fn connects(self) -> bool {
        self.connect || self.read || self.write
    }

    /// The three bits of one class in a file's mode. To connect takes `w` on the socket, unix(7); that nothing else is
    /// written, the mount sees to.
    pub fn file_bits(self) -> u32 {
        u32::from(self.read) << 2 | u32::from(self.write || self.connect) << 1 | u32::from(self.exec)
    }

    /// The same for a directory, where reading and writing are worth nothing without search.
    pub fn directory_bits(self) -> u32 {
        u32::from(self.read) << 2 | u32::from(self.write) << 1 | u32::from(self.any())
    }

    pub fn union(self, other: Perms) -> Perms {
        Perms {
            read: self.read || other.read,
            write: self.write || other.write,
            exec: self.exec || other.exec,
            connect: self.connect || other.connect,
        }
    }
}

/// Three columns, as `ls` prints them: `rw-`; a fourth where connecting is granted by name: `---c`.
impl std::fmt::Display for Perms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bit = |on, letter| if on { letter } else { '-' };
        write!(
            f,
            "{}{}{}",
            bit(self.read, 'r'),
            bit(self.write, 'w'),
            bit(self.exec, 'x')
        )?;
        f.write_str(if self.connect { "c" } else { "" })
    }
}
