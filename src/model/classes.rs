//! A resource's rows by access class: what modes and ACLs on disk are drawn from, and a plain user of the host is let do by.

use super::matrix::{Matrix, Subject};
use super::{BundleId, ClassPerms, Model, ResourceId, SandboxId, ServiceId};
use crate::values::Perms;

/// The rows of one resource by class. A class that nobody can be in has no row, so it grants nothing here, whatever is
/// declared for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByClass<'m> {
    pub owner: Option<Subject>,
    /// Those whose members are in the bundles' class. Sorted.
    pub bundles: &'m [BundleId],
    pub perms: ClassPerms,
    /// Of the external service, whichever class it is in.
    pub external: Perms,
    /// Is what is made in it root's, and meant to be?
    pub as_root: bool,
}

impl ByClass<'_> {
    /// Has it an owner, and may that read it?
    pub fn owner_reads(&self) -> bool {
        self.perms.owner.read
    }

    /// May any class at all write?
    pub fn writable(&self) -> bool {
        self.perms.all().into_iter().any(|perms| perms.write)
    }

    /// May anyone but the owner do anything?
    pub fn is_shared(&self) -> bool {
        self.perms.bundle.any() || self.perms.global.any()
    }
}

impl<'m> Matrix<'m> {
    pub fn by_class(self, resource: ResourceId) -> ByClass<'m> {
        let of = &self.model.resources[resource];
        let declared = of.declared;
        let perms = ClassPerms {
            owner: of.owner.map(|_| declared.owner).unwrap_or_default(),
            bundle: match of.bundles.is_empty() {
                true => Perms::default(),
                false => declared.bundle,
            },
            global: declared.global,
        };
        ByClass {
            owner: of.owner,
            bundles: &of.bundles,
            perms,
            external: match self.model.external_uid {
                Some(_) => self.perms(Subject::External, resource),
                None => Perms::default(),
            },
            as_root: of.write_as_root,
        }
    }

    /// Those to whom a resource is not what it is to everybody: its owner, the members of its bundles, and the sandboxes whose
    /// runs have their directories in it.
    pub fn named(self, resource: ResourceId) -> impl Iterator<Item = Subject> {
        let of = &self.model.resources[resource];
        let bundles = || of.bundles.iter().map(|b| &self.model.bundles[*b]);
        let members = bundles().flat_map(|b| b.members.iter().map(|m| Subject::Service(*m)));
        let external = bundles().any(|b| b.used_by_external).then_some(Subject::External);
        let sandboxes = SandboxId::all(&self.model.sandboxes)
            .filter(move |id| self.model.sandboxes[*id].userdirs == Some(resource))
            .map(Subject::Sandbox);
        of.owner.into_iter().chain(members).chain(external).chain(sandboxes)
    }

    /// Is there something to share, some of it written, whose owner is nobody or may not read it?
    pub fn has_unowned(self) -> bool {
        ResourceId::all(&self.model.resources)
            .map(|id| self.by_class(id))
            .any(|rows| !rows.owner_reads() && rows.writable() && rows.is_shared())
    }

    /// The sets of bundles by which a service is a member of something: each of its own, and those that its bundles'
    /// resources are in.
    pub fn sets_of(self, service: ServiceId) -> impl Iterator<Item = &'m [BundleId]> {
        let model = self.model;
        let own = &model.services[service].bundles;
        let resources = own.iter().flat_map(|b| &model.bundles[*b].resources);
        let sets = resources.map(|r| model.resources[*r].bundles.as_slice());
        sets.chain(own.iter().map(std::slice::from_ref))
    }
}

impl Model {
    /// All sets of bundles that a resource is in, several times where several are. One bundle is a set, too.
    pub fn bundle_sets(&self) -> impl Iterator<Item = Vec<BundleId>> {
        let sets = self.resources.iter().map(|r| &r.bundles).filter(|set| set.len() > 1);
        BundleId::all(&self.bundles).map(|b| vec![b]).chain(sets.cloned())
    }

    /// Is the external service a member of one of these?
    pub fn has_external(&self, bundles: &[BundleId]) -> bool {
        bundles.iter().any(|b| self.bundles[*b].used_by_external)
    }
}
