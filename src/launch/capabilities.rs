//! Which capabilities each kind of process keeps; capabilities(7). The supervisor drops the others by the crate `caps`, which reads
//! what the kernel has; between clone3(2) and execve(2) it is rustix that does, without taking memory. Both go by these lists.

use caps::Capability;
use rustix::io::Errno;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};

/// The supervisor's, and what for.
pub const SUPERVISOR: [Capability; 14] = [
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

/// PID 1 of a service passes signals on to processes whose id is not its own.
pub(super) const INIT: CapabilitySet = set(&[Capability::CAP_KILL]);

/// What the guard of cgroups removes is its own user's, but may lie in a directory that nobody may write to: cgroupfs's root.
pub(super) const GUARD: CapabilitySet = set(&[Capability::CAP_DAC_OVERRIDE]);

/// A service's program, and whoever works as one.
pub(super) const NONE: CapabilitySet = set(&[]);

/// What a service may have that becomes further users, and no other: nothing of it reaches beyond the ids that are mapped in its namespace.
const MOST: [(oci_spec::runtime::Capability, Capability); 8] = {
    use oci_spec::runtime::Capability as Named;
    [
        (Named::Chown, Capability::CAP_CHOWN),
        (Named::DacOverride, Capability::CAP_DAC_OVERRIDE),
        (Named::Fowner, Capability::CAP_FOWNER),
        (Named::Kill, Capability::CAP_KILL),
        (Named::NetBindService, Capability::CAP_NET_BIND_SERVICE),
        (Named::Setgid, Capability::CAP_SETGID),
        (Named::Setuid, Capability::CAP_SETUID),
        (Named::SysChroot, Capability::CAP_SYS_CHROOT),
    ]
};

/// What of a spec's process is kept; an error names what this launcher gives nobody.
pub(super) fn of_spec(process: &oci_spec::runtime::Process) -> Result<CapabilitySet, String> {
    let named = process.capabilities().as_ref().and_then(|all| all.permitted().as_ref());
    let mut out = NONE;
    for capability in named.into_iter().flatten() {
        let known = MOST.iter().find(|(name, _)| name == capability);
        let (_, known) = known.ok_or_else(|| format!("{capability:?}"))?;
        out |= set(&[*known]);
    }
    Ok(out)
}

/// So that they can be handed on, with all else as it is. Async-signal-safe.
pub(super) fn make_inheritable(these: CapabilitySet) -> Result<(), Errno> {
    let now = rustix::thread::capabilities(None)?;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            inheritable: these,
            ..now
        },
    )
}

/// Has these survive execve(2) of id 0 and of nobody else: whoever becomes another id has none. Async-signal-safe.
pub(super) fn hand_on(these: CapabilitySet) -> Result<(), Errno> {
    let sets = CapabilitySets {
        effective: these,
        permitted: these,
        inheritable: these,
    };
    rustix::thread::set_capabilities(None, sets)?;
    for one in these.iter() {
        rustix::thread::configure_capability_in_ambient_set(one, true)?;
    }
    Ok(())
}

const fn set(of: &[Capability]) -> CapabilitySet {
    let (mut bits, mut at) = (0, 0);
    while at < of.len() {
        bits |= 1 << of[at] as u64;
        at += 1;
    }
    CapabilitySet::from_bits_retain(bits)
}

/// Drops all but these from the effective and the permitted set, and all from the inheritable one. Async-signal-safe.
pub(super) fn keep(only: CapabilitySet) -> Result<(), Errno> {
    let sets = CapabilitySets {
        effective: only,
        permitted: only,
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, sets)
}

/// Being uid 0 gives nothing any more, and that cannot be undone; capabilities(7), "The securebits flags".
pub(super) fn lock_root() -> Result<(), Errno> {
    rustix::thread::set_capabilities_secure_bits(
        CapabilitiesSecureBits::NO_ROOT | CapabilitiesSecureBits::NO_ROOT_LOCKED,
    )
}

/// Does something with another effective user id, and with the capabilities that this process has: what is made belongs to that id.
/// A copy of this process that `what` makes must not return from it.
pub(super) fn as_effective_user<T>(id: u32, what: impl FnOnce() -> T) -> Result<T, Errno> {
    let real = rustix::process::getuid();
    let become_effective = |id| rustix::thread::set_thread_res_uid(real, id, real);
    let sets = rustix::thread::capabilities(None)?;
    let ends_with_parent = rustix::process::parent_process_death_signal()?;
    // The change takes the capabilities out of effect, though it keeps them permitted.
    let restored = become_effective(rustix::process::Uid::from_raw(id))
        .and_then(|()| rustix::thread::set_capabilities(None, sets))
        .map(|()| what());
    become_effective(real)?;
    // A change of id lets go of it; prctl(2).
    rustix::process::set_parent_process_death_signal(ends_with_parent)?;
    restored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_crates_number_alike() {
        assert_eq!(INIT, CapabilitySet::KILL);
        assert_eq!(GUARD, CapabilitySet::DAC_OVERRIDE);
        assert_eq!(
            set(&[Capability::CAP_CHOWN, Capability::CAP_SETFCAP]),
            CapabilitySet::CHOWN | CapabilitySet::SETFCAP
        );
        assert_eq!(NONE, CapabilitySet::empty());
        for capability in SUPERVISOR {
            assert_eq!(set(&[capability]).bits(), capability.bitmask());
        }
    }
}
