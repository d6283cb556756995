//! clone3(2), vfork(2), execve(2) and _exit(2): how a process comes to be, and what it becomes.

use super::{Result, check};
use libc::{c_char, c_int, c_long, c_void};
use rustix::io::Errno;
use std::ffi::CStr;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

/// That this process has one thread: it was counted. What comes of clone3(2) is a copy of the calling thread alone, so a lock
/// that another one held would be held in it for ever. Whoever has this may copy the process, and the copy may go on as it
/// is. It cannot be sent to another thread, and a process that has one of these makes none.
#[derive(Debug)]
pub struct SingleThreaded(PhantomData<*const ()>);

impl SingleThreaded {
    /// Counts: the number of directories in /proc/self/task, which is two more in its number of links. An error is the number
    /// of threads, or 0 if it cannot be known. One system call.
    pub fn count() -> std::result::Result<SingleThreaded, u32> {
        use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
        let found = statx(CWD, c"/proc/self/task", AtFlags::empty(), StatxFlags::NLINK);
        match found.map_or(0, |found| found.stx_nlink).saturating_sub(2) {
            1 => Ok(SingleThreaded(PhantomData)),
            threads => Err(threads),
        }
    }
}

#[cfg(test)]
impl SingleThreaded {
    /// Among the threads of a test. What is done in the copy takes no memory and no lock.
    pub(super) fn in_a_test() -> SingleThreaded {
        SingleThreaded(PhantomData)
    }
}

/// linux/sched.h; libc has it in a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// What may be asked for: nothing by which a copy would share memory or descriptors with the original.
const NAMESPACES: u64 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWNET) as u64
    | libc::CLONE_NEWTIME as u64;

/// clone3(2) as fork(2), into the given new namespaces. `Ok(0)` in the child.
pub fn clone3(alone: &SingleThreaded, namespaces: u64) -> Result<i32> {
    clone(alone, namespaces, 0, None)
}

/// The same, the child being born in the given cgroup of version 2; cgroups(7), CLONE_INTO_CGROUP.
pub fn clone3_into(alone: &SingleThreaded, namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    clone(alone, namespaces, 0, cgroup)
}

/// As [`clone3_into`], but of a child of the process whose child this one is.
pub fn clone3_sibling(alone: &SingleThreaded, namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    clone(alone, namespaces, libc::CLONE_PARENT as u64, cgroup)
}

fn clone(_: &SingleThreaded, namespaces: u64, parent: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    if namespaces & !NAMESPACES != 0 {
        return Err(Errno::INVAL);
    }
    // SAFETY: an all-zero clone_args is valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces | parent;
    // A sibling tells its end as this process does, so it names no signal of its own.
    args.exit_signal = if parent == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is valid for the call and of the size given. Without CLONE_VM the child runs on a copy of our memory, and
    // with one thread here there is nothing in it that another was about to change.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    match check(result) {
        // A container's filter, which cannot look into the arguments, says so of a call that the kernel has.
        Err(Errno::NOSYS) if args.flags & !OF_CLONE == 0 => clone_by_number(args.flags | args.exit_signal),
        other => other.map(|pid| pid as i32),
    }
}

/// What clone(2) takes as well: its low byte is a signal's, and its flags are a word of 32 bits.
const OF_CLONE: u64 = 0xffff_ff00;

fn clone_by_number(flags: u64) -> Result<i32> {
    let none = std::ptr::null::<c_void>();
    // SAFETY: as above: without CLONE_VM the child goes on on a copy of this stack. Nothing is written to the null pointers, whose
    // flags are not among those that may be asked for.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, none, none, none, none) };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_counted() {
        let (tell, told) = std::sync::mpsc::channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || told.recv());
            assert!(SingleThreaded::count().is_err_and(|threads| threads >= 2));
            drop(tell);
        });
    }
}
