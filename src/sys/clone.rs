//! clone3(2), vfork(2), execve(2) and _exit(2): how a process comes to be, and what it becomes.

#![allow(unsafe_code)]

use super::{Result, check};
use libc::{c_char, c_int, c_long, c_void};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// linux/sched.h; libc has it in a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// clone3(2) as fork(2), into the given new namespaces. `Ok(0)` in the child.
///
/// # Safety
/// The process must be single-threaded, or the child may touch nothing that another thread could hold.
pub unsafe fn clone3(flags: u64) -> Result<i32> {
    // SAFETY: as promised by the caller.
    unsafe { clone3_into(flags, None) }
}

/// The same, the child being born in the given cgroup of version 2; cgroups(7), CLONE_INTO_CGROUP.
///
/// # Safety
/// As for [`clone3`].
pub unsafe fn clone3_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    // SAFETY: as promised by the caller.
    unsafe { clone(flags, libc::SIGCHLD as u64, cgroup) }
}

/// As [`clone3`], but of a child of the process whose child this one is.
///
/// # Safety
/// As for [`clone3`].
pub unsafe fn clone3_sibling(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    // It tells its end as this process does, so it names no signal of its own.
    // SAFETY: as promised by the caller.
    unsafe { clone(flags | libc::CLONE_PARENT as u64, 0, cgroup) }
}

/// # Safety
/// As for [`clone3`].
unsafe fn clone(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    // SAFETY: an all-zero clone_args is valid; without CLONE_VM and a stack the child runs on a copy of ours.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = exit_signal;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is valid for the call and of the size given.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    check(result).map(|pid| pid as i32)
}

/// Runs `entry(argument)` in a child that shares our memory, and waits until it has exec'd or exited;
/// vfork(2) with a stack of its own.
///
/// # Safety
/// `stack_top` is the end of a writable region that nothing else uses and that suffices for `entry`;
/// `entry` never returns and writes to no memory that the caller relies on, but through `argument`.
pub unsafe fn vfork(
    stack_top: *mut u8,
    entry: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> Result<i32> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: as promised by the caller.
    let result = unsafe { libc::clone(entry, stack_top.cast(), flags, argument) };
    check(c_long::from(result)).map(|pid| pid as i32)
}

/// execve(2); returns only if it failed.
pub fn execve(path: &CStr, argv: &[*const c_char], envp: &[*const c_char]) -> Errno {
    debug_assert!(argv.last().is_some_and(|p| p.is_null()) && envp.last().is_some_and(|p| p.is_null()));
    // SAFETY: both arrays end in a null pointer, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    check(result).err().unwrap_or(Errno::INVAL)
}

/// _exit(2): without destructors or handlers, which belong to the process that this is a copy of.
pub fn exit(code: i32) -> ! {
    // SAFETY: ends the process; takes an integer only.
    unsafe { libc::_exit(code) }
}

/// clone3(2) with arguments of size 0, which a kernel that has it refuses as invalid. No process is made.
pub fn clone3_refusal() -> Errno {
    // SAFETY: the kernel checks the size (EINVAL) before it uses the pointer, and no child can come of it.
    let result = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<u8>(), 0usize) };
    check(result).err().unwrap_or(Errno::INVAL)
}
