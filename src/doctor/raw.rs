//! The three system calls that neither nix nor rustix wraps, each in a function without unsafety.
//!
//! The only unsafe code of the doctor. Nothing but the calls: what they mean is said elsewhere.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Calls `clone3` with arguments of size 0, which a kernel that has it refuses as invalid. No
/// process is made.
pub fn clone3_refusal() -> Errno {
    // SAFETY: the kernel reads no argument, because the size is checked (EINVAL) before the pointer
    // is used, and no child can come of it.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize) };
    Errno::result(result).err().unwrap_or(Errno::UnknownErrno)
}

/// Sets attributes of the mount that `tree` itself is.
pub fn mount_setattr(tree: BorrowedFd, set: u64, userns: Option<BorrowedFd>) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: set,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a NUL-terminated constant, `attr` is a live mount_attr of the size given
    // and only read, and both descriptors are borrowed for the length of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Whether seccomp filters may answer with `action` (`SECCOMP_RET_…`).
pub fn seccomp_action_available(action: u32) -> Result<(), Errno> {
    // SAFETY: the kernel reads one u32 through a pointer that is live for the length of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0u32,
            &raw const action,
        )
    };
    Errno::result(result).map(drop)
}
