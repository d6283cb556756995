//! The seccomp profile of a service: the one of `specs/seccomp.json`, less what this service could misuse.

use crate::host::Privilege;
use crate::plan::{Plan, Unit};
use crate::values::Network;
use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscallBuilder,
};

/// Calls with a certain argument: its index, its value, and by which bits another value is told from it.
type Refused = (usize, u64, &'static [u32]);

/// SO_REUSEPORT of SOL_SOCKET, by which two sockets share a port if one user owns both. No level has more than 9 bits, no
/// option more than 8.
const REUSEPORT: [Refused; 2] = [
    (1, libc::SOL_SOCKET as u64, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
    (2, libc::SO_REUSEPORT as u64, &[0, 1, 2, 3, 4, 5, 6, 7]),
];

/// All that asks a socket for the interfaces of its network, netdevice(7): the second byte is 0x89, or 0x8B (wireless).
const INTERFACES: [Refused; 1] = [(1, 0x8900, &[8, 10, 11, 12, 13, 14, 15])];

pub(super) fn of(plan: &Plan, service: &Unit, profile: &LinuxSeccomp) -> Result<LinuxSeccomp, OciSpecError> {
    let mut profile = profile.clone();
    // The kernel would let each service take connections of others, and of all that the user runs.
    if plan.privilege == Privilege::OneId && service.network != Network::None {
        refuse(&mut profile, "setsockopt", &REUSEPORT)?;
    }
    // An accepted Unix socket is of the network of whoever called.
    if !service.callers.is_empty() && service.network != Network::Host {
        refuse(&mut profile, "ioctl", &INTERFACES)?;
    }
    if !service.users.is_empty() {
        let call = LinuxSyscallBuilder::default()
            .names(vec!["chroot".to_owned()])
            .action(LinuxSeccompAction::ScmpActAllow)
            .build()?;
        let mut all = profile.syscalls().clone().unwrap_or_default();
        all.push(call);
        profile.set_syscalls(Some(all));
    }
    Ok(profile)
}

/// Takes out of the calls by this name, all of which were allowed, those to which all of this applies: what is left differs
/// from it in one bit at least. The kernel looks at 32 bits of these arguments, and what stands in the others makes no
/// difference.
fn refuse(profile: &mut LinuxSeccomp, name: &str, refused: &[Refused]) -> Result<(), OciSpecError> {
    let mut all = profile.syscalls().clone().unwrap_or_default();
    for call in &mut all {
        let names = call.names().iter().filter(|n| *n != name).cloned().collect();
        call.set_names(names);
    }
    for (index, value, bits) in refused {
        for bit in bits.iter().map(|bit| 1u64 << bit) {
            let differs = LinuxSeccompArgBuilder::default()
                .index(*index)
                .op(LinuxSeccompOperator::ScmpCmpMaskedEq)
                .value(bit)
                .value_two(!value & bit)
                .build()?;
            let call = LinuxSyscallBuilder::default()
                .names(vec![name.to_owned()])
                .action(LinuxSeccompAction::ScmpActAllow)
                .args(vec![differs])
                .build()?;
            all.push(call);
        }
    }
    profile.set_syscalls(Some(all));
    Ok(())
}
