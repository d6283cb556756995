//! ioctl_tty(2).

use super::{Result, check};
use libc::c_long;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Makes a terminal the controlling one of this session; ioctl_tty(2).
pub fn set_controlling_terminal(terminal: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes an integer argument.
    check(c_long::from(unsafe {
        libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0)
    }))
    .map(drop)
}
