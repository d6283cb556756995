//! Descriptors by number: what a process that came of clone3(2) keeps, and where a program is to find it.

#![allow(unsafe_code)]

use super::{Result, check};
use libc::c_long;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// close_range(2): every descriptor from `first` on.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: closes descriptors only; whoever calls this owns none from `first` on that it uses later.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on that is not in the list. With an error, whatever was open still may be: who goes on has
/// what was not meant for it.
pub fn close_all_but(kept: &[RawFd]) -> Result<()> {
    close_except(|| kept.iter().copied())
}

/// Closes every descriptor from 3 on that is not among these, in whatever order they come; takes no memory.
pub fn close_except<I: Iterator<Item = RawFd>>(kept: impl Fn() -> I) -> Result<()> {
    let mut first = 3u32;
    while let Some(next) = kept().map(|fd| fd as u32).filter(|fd| *fd >= first).min() {
        if next > first {
            // SAFETY: closes descriptors only, of which the caller uses none later.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) })?;
        }
        first = next + 1;
    }
    close_from(first)
}

pub fn close_on_exec(fd: RawFd) -> Result<()> {
    // SAFETY: takes integers only.
    check(c_long::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
    }))
    .map(drop)
}

/// Makes `to` a copy of `from` that stays open on exec; dup3(2).
pub fn duplicate_to(from: RawFd, to: RawFd) -> Result<()> {
    // SAFETY: takes integers only; `to` is one of the numbers that the service is to have.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
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
}
