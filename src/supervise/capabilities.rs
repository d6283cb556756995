//! The supervisor's own rights: what it needs to make namespaces and storage, and no more.

use caps::{CapSet, Capability, CapsHashSet};

/// And what for.
const NEEDED: [Capability; 14] = [
    Capability::CAP_CHOWN,            // storage
    Capability::CAP_DAC_OVERRIDE,     // storage of all services
    Capability::CAP_DAC_READ_SEARCH,  // likewise
    Capability::CAP_FOWNER,           // modes and ACLs of files that are services'
    Capability::CAP_FSETID,           // set-id bits are left as they are where a mode is mended
    Capability::CAP_KILL,             // PID 1 of each service has the keeper's id
    Capability::CAP_NET_BIND_SERVICE, // `listen` on ports below 1024
    Capability::CAP_SETFCAP,          // maps that hold id 0, user_namespaces(7)
    Capability::CAP_SETGID,           // gid_map
    Capability::CAP_SETPCAP,          // to drop the rest
    Capability::CAP_SETUID,           // uid_map
    Capability::CAP_SYS_ADMIN,        // mounts and setns(2)
    Capability::CAP_SYS_CHROOT,       // setns(2) into a mount namespace
    Capability::CAP_SYS_PTRACE,       // to join a process that nobody may trace
];

/// Drops every other capability for good, from all sets; the inheritable and the ambient one are emptied
/// (CVE-2022-24769).
pub(super) fn reduce() -> Result<(), caps::errors::CapsError> {
    let needed: CapsHashSet = NEEDED.into_iter().collect();
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
