//! Signals, by number: real-time signals have no name, and between clone3(2) and execve(2) nothing may be allocated.

use super::{Result, check};
use libc::{c_int, c_void};
use nix::sys::signal::{SigHandler, Signal, signal};
use std::mem::MaybeUninit;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Every signal at its default, none blocked: what a program expects to start with. Rust ignores SIGPIPE,
/// and a shell may have left others ignored; both would be inherited through execve(2).
pub fn reset_signals() {
    // SAFETY: an all-zero sigaction is SIG_DFL; signals that cannot be set answer EINVAL, which is as good.
    unsafe {
        let default: [u64; 4] = [0; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, &default, std::ptr::null::<c_void>(), 8);
        }
    }
    set_signal_mask(0);
}

/// Blocks the signals in `mask` (bit n-1 for signal n) and no other; rt_sigprocmask(2).
pub fn set_signal_mask(mask: u64) {
    // SAFETY: the mask is 8 bytes, the size of the kernel's sigset_t.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &mask,
            std::ptr::null::<c_void>(),
            8,
        );
    }
}

/// A descriptor from which the signals in `mask` are read; signalfd(2).
pub fn signalfd(mask: u64) -> Result<OwnedFd> {
    // SAFETY: the mask is 8 bytes, the size of the kernel's sigset_t.
    let result = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &mask,
            8,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    };
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Does one of these wait, which this thread has blocked? sigpending(2).
pub fn is_pending(signals: &[Signal]) -> bool {
    let mut pending = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: the set is valid for the call, and is read only after the call has filled it.
    unsafe {
        libc::sigpending(pending.as_mut_ptr()) == 0
            && signals
                .iter()
                .any(|signal| libc::sigismember(pending.as_ptr(), *signal as c_int) == 1)
    }
}

/// Sends a signal; kill(2). `pid` -1: to all that may be signalled, in a PID namespace all but its init.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signal) }).map(drop)
}

/// Reaps one child, if one has ended: its pid and wait status; wait4(2).
pub fn reap() -> Option<(i32, i32)> {
    let mut status: c_int = 0;
    // SAFETY: `status` is valid for the call; no usage is asked for.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_wait4,
            -1,
            &mut status,
            libc::WNOHANG,
            std::ptr::null::<c_void>(),
        )
    };
    (pid > 0).then_some((pid as i32, status))
}

/// One child that has ended, and what it and those that it waited for have used; wait4(2), getrusage(2).
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    pub pid: i32,
    pub status: i32,
    pub cpu: std::time::Duration,
}

/// Reaps one child, if one has ended.
pub fn reap_with_usage() -> Option<Reaped> {
    let mut status: c_int = 0;
    // SAFETY: an all-zero rusage is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both are valid for the call.
    let pid = unsafe { libc::wait4(-1, &mut status, libc::WNOHANG, &mut usage) };
    let time = |t: libc::timeval| std::time::Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1000);
    (pid > 0).then(|| Reaped {
        pid,
        status,
        cpu: time(usage.ru_utime) + time(usage.ru_stime),
    })
}

/// How long a process has computed, all of its threads together; clock_getcpuclockid(3).
pub fn cpu_time(pid: i32) -> Option<std::time::Duration> {
    let mut clock = 0;
    // SAFETY: `clock` is valid for the call.
    if unsafe { libc::clock_getcpuclockid(pid, &mut clock) } != 0 {
        return None;
    }
    // SAFETY: an all-zero timespec is valid.
    let mut time: libc::timespec = unsafe { std::mem::zeroed() };
    // SAFETY: `time` is valid for the call.
    let read = unsafe { libc::clock_gettime(clock, &mut time) };
    (read == 0).then(|| std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

/// From now on this process ignores the signal; signal(7).
pub fn ignore_signal(number: Signal) {
    // SAFETY: no handler is installed, so none can do what a handler may not. What cannot be set stays as it is.
    let _ = unsafe { signal(number, SigHandler::SigIgn) };
}

/// From now on the signal does to this process what it does by default; signal(7).
pub fn default_signal(number: Signal) {
    // SAFETY: likewise.
    let _ = unsafe { signal(number, SigHandler::SigDfl) };
}
