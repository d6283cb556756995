//! unshare(2): namespaces that this process goes on in. Those that it is born in are [`super::clone3`]'s.

use super::{Result, check};

/// Makes the cgroups that this process is in the roots of a namespace; cgroup_namespaces(7).
pub fn own_cgroup_namespace() -> Result<()> {
    // SAFETY: takes an integer only, and shares no memory or descriptors otherwise than before.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) }).map(drop)
}

/// Takes this process into a copy of its mount namespace; mount_namespaces(7).
pub fn own_mount_namespace() -> Result<()> {
    // SAFETY: takes an integer only, and shares no memory or descriptors otherwise than before.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) }).map(drop)
}
