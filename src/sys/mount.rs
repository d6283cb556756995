//! mount_setattr(2), which rustix does not wrap.

use super::{Result, check};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Attributes to set on a detached mount tree; mount_setattr(2).
#[derive(Clone, Copy, Default)]
pub struct MountAttributes<'fd> {
    pub set: u64,
    pub idmap: Option<BorrowedFd<'fd>>,
}

/// Sets attributes on a mount tree and all below it, and makes it private, so that nothing mounted in it is
/// seen by the host.
pub fn mount_setattr(tree: BorrowedFd<'_>, attributes: MountAttributes<'_>) -> Result<()> {
    let idmap = if attributes.idmap.is_some() {
        libc::MOUNT_ATTR_IDMAP
    } else {
        0
    };
    let attr = libc::mount_attr {
        attr_set: attributes.set | idmap,
        // How it notes when something was read is one of several values in these bits.
        attr_clr: if attributes.set & libc::MOUNT_ATTR__ATIME == 0 {
            0
        } else {
            libc::MOUNT_ATTR__ATIME
        },
        propagation: libc::MS_PRIVATE,
        userns_fd: attributes.idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a terminated string, `attr` is valid for the call and of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}
