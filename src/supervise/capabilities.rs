//! The supervisor's own rights: what it needs to make namespaces and storage, and no more.

use crate::launch::capabilities::SUPERVISOR;
use caps::{CapSet, CapsHashSet};

/// Drops every other capability for good, from all sets; the inheritable and the ambient one are emptied
/// (CVE-2022-24769).
pub(super) fn reduce() -> Result<(), caps::errors::CapsError> {
    let needed: CapsHashSet = SUPERVISOR.into_iter().collect();
    for capability in caps::runtime::thread_all_supported() {
        if !needed.contains(&capability) && caps::has_cap(None, CapSet::Bounding, capability)? {
            caps::drop(None, CapSet::Bounding, capability)?;
        }
    }
    let kept: CapsHashSet = caps::read(None, CapSet::Permitted)?
        .intersection(&needed)
        .copied()
        .collect();
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)
}
