//! landlock(7): the three calls, and the kernel's structures for them.

use super::{Result, check};
use libc::{c_int, c_void};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// struct landlock_ruleset_attr of linux/landlock.h, up to ABI 6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LandlockRuleset {
    pub handled_access_fs: u64,
    pub handled_access_net: u64,
    pub scoped: u64,
}

/// The Landlock ABI of this kernel; landlock_create_ruleset(2).
pub fn landlock_abi() -> Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with the version flag the kernel reads no attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<c_void>(),
            0,
            VERSION,
        )
    };
    check(result).map(|abi| abi as u32)
}

/// `size`: how much of the attributes this kernel's ABI knows.
pub fn landlock_create(ruleset: &LandlockRuleset, size: usize) -> Result<OwnedFd> {
    debug_assert!(size <= size_of::<LandlockRuleset>());
    // SAFETY: at most the structure's own size is read.
    let result = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ruleset, size, 0) };
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows `access` at and below what `parent` refers to; landlock_add_rule(2).
pub fn landlock_allow(ruleset: BorrowedFd<'_>, parent: BorrowedFd<'_>, access: u64) -> Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: c_int,
    }
    const PATH_BENEATH: c_int = 1;
    let rule = PathBeneath {
        allowed_access: access,
        parent_fd: parent.as_raw_fd(),
    };
    // SAFETY: `rule` has the layout of struct landlock_path_beneath_attr and lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &rule, 0) };
    check(result).map(drop)
}

pub fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}
