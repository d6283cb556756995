//! Descriptors by number: what a process that came of clone3(2) keeps, and where a program is to find it.

use super::{Result, check};
use libc::c_long;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// close_range(2): every descriptor from `first` on.
///
/// # Safety
/// Nothing in this process uses one of them later, be it by dropping its owner.
pub unsafe fn close_from(first: u32) -> Result<()> {
    // SAFETY: closes descriptors only; as promised by the caller.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on that is not in the list. With an error, whatever was open still may be: who goes on has
/// what was not meant for it.
///
/// # Safety
/// As for [`close_from`], but of those that are kept.
pub unsafe fn close_all_but(kept: &[RawFd]) -> Result<()> {
    // SAFETY: as promised by the caller.
    unsafe { close_except(|| kept.iter().copied()) }
}

/// Closes every descriptor from 3 on that is not among these, in whatever order they come; takes no memory.
///
/// # Safety
/// As for [`close_all_but`].
pub unsafe fn close_except<I: Iterator<Item = RawFd>>(kept: impl Fn() -> I) -> Result<()> {
    let mut first = 3u32;
    while let Some(next) = kept().map(|fd| fd as u32).filter(|fd| *fd >= first).min() {
        if next > first {
            // SAFETY: closes descriptors only; as promised by the caller.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) })?;
        }
        first = next + 1;
    }
    // SAFETY: as promised by the caller.
    unsafe { close_from(first) }
}

/// Closes what whoever called this program left open, from 3 on, but for these. To be called first in `main`: what this program
/// opens is close-on-exec, and then there is none of it yet.
pub fn close_inherited(kept: &[RawFd]) -> Result<()> {
    debug_assert!(only_inherited(), "this program has opened something already");
    // SAFETY: nothing is open that this program has opened, so nothing in it has an owner.
    unsafe { close_all_but(kept) }
}

/// Is nothing open that is close-on-exec, but for what is looked with?
fn only_inherited() -> bool {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else {
        return true;
    };
    let numbers: Vec<RawFd> = open
        .flatten()
        .filter_map(|e| e.file_name().to_str()?.parse().ok())
        .collect();
    let own = |fd: &RawFd| {
        // SAFETY: takes integers only.
        let flags = unsafe { libc::fcntl(*fd, libc::F_GETFD) };
        flags > 0 && flags & libc::FD_CLOEXEC != 0
    };
    // The directory that was read is closed by now.
    !numbers.iter().any(own)
}

fn close_on_exec(fd: RawFd) -> Result<()> {
    // SAFETY: takes integers only, and whoever owns it keeps it.
    check(c_long::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
    }))
    .map(drop)
}

/// Makes `to` a copy of `from` that stays open on exec, whatever `to` was; dup3(2).
///
/// # Safety
/// Nothing in this process uses what `to` was, and nobody closes what it is now while what is returned is in use.
pub unsafe fn duplicate_to(from: RawFd, to: RawFd) -> Result<BorrowedFd<'static>> {
    // SAFETY: takes integers only; as promised by the caller.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) })?;
    // SAFETY: it was just made, and is no -1.
    Ok(unsafe { BorrowedFd::borrow_raw(to) })
}

/// As [`duplicate_to`], but closed on exec.
///
/// # Safety
/// As for [`duplicate_to`].
pub unsafe fn duplicate_to_cloexec(from: RawFd, to: RawFd) -> Result<BorrowedFd<'static>> {
    // SAFETY: as promised by the caller.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, libc::O_CLOEXEC) })?;
    // SAFETY: it was just made, and is no -1.
    Ok(unsafe { BorrowedFd::borrow_raw(to) })
}

/// Takes over a descriptor that this process was started with, which is close-on-exec from then on. `None` if it is not
/// open, is a standard one, or was opened by this program, all of whose own are close-on-exec.
pub fn take_inherited(fd: RawFd) -> Option<OwnedFd> {
    if fd <= 2 {
        return None;
    }
    // SAFETY: takes an integer only.
    let flags = check(c_long::from(unsafe { libc::fcntl(fd, libc::F_GETFD) })).ok()?;
    if flags & c_long::from(libc::FD_CLOEXEC) != 0 {
        return None;
    }
    close_on_exec(fd).ok()?;
    // SAFETY: it is open, and nothing here has opened it or taken it over before, for then it would be close-on-exec.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::{AsRawFd, IntoRawFd};

    #[test]
    fn only_what_was_inherited_is_taken_over_and_only_once() {
        let (own, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        assert!(take_inherited(own.as_raw_fd()).is_none());
        // As if it had come by execve(2).
        let number = rustix::io::dup(&own).unwrap().into_raw_fd();
        drop((own, write));
        let taken = take_inherited(number).unwrap();
        assert_eq!(taken.as_raw_fd(), number);
        assert!(take_inherited(number).is_none());
        assert!(take_inherited(-1).is_none() && take_inherited(0).is_none());
    }

    #[test]
    fn what_cannot_be_closed_is_said() {
        // The filter is of this thread alone.
        std::thread::spawn(|| {
            crate::sys::seccomp::refuse(libc::SYS_close_range);
            // SAFETY: nothing is closed.
            let answers = unsafe { [close_all_but(&[]), close_all_but(&[7]), close_from(3)] };
            assert_eq!(answers, [Err(rustix::io::Errno::PERM); 3]);
        })
        .join()
        .unwrap();
    }
}
