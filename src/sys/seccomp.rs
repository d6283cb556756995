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

/// Has this thread, and what comes of it, get EPERM from one system call.
#[cfg(test)]
pub(super) fn refuse(call: libc::c_long) {
    use libc::{BPF_ABS, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET, BPF_W};
    let line = |code: u32, jf: u8, k: u32| libc::sock_filter {
        code: code as u16,
        jt: 0,
        jf,
        k,
    };
    let filter = [
        line(BPF_LD | BPF_W | BPF_ABS, 0, 0),
        line(BPF_JMP | BPF_JEQ | BPF_K, 1, call as u32),
        line(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        line(BPF_RET | BPF_K, 0, libc::SECCOMP_RET_ALLOW),
    ];
    rustix::thread::set_no_new_privs(true).unwrap();
    seccomp_load(&filter).unwrap();
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
