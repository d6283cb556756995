//! ioctl_tty(2).

#![allow(unsafe_code)]

use super::{Result, check};
use libc::c_long;
use std::os::fd::RawFd;

/// Makes the terminal at `fd` the controlling one of this session; ioctl_tty(2).
pub fn set_controlling_terminal(fd: RawFd) -> Result<()> {
    // SAFETY: takes an integer argument.
    check(c_long::from(unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) })).map(drop)
}
