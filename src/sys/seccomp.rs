//! seccomp(2).

use super::{Result, check};
use rustix::io::Errno;

/// Loads a classic BPF program as seccomp filter; seccomp(2). Wants no_new_privs.
pub fn seccomp_load(program: &[libc::sock_filter]) -> Result<()> {
    let prog = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: sock_fprog points to `len` instructions, which the kernel copies and does not write to.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &prog) };
    check(result).map(drop)
}

/// May filters answer with `action` (`SECCOMP_RET_…`)?
pub fn seccomp_action_available(action: u32) -> Result<()> {
    // SAFETY: the kernel reads one u32 through a pointer that is valid for the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_GET_ACTION_AVAIL,
            0u32,
            &raw const action,
        )
    };
    check(result).map(drop)
}
