//! Descriptors that objects of Python's have open. Python hands them over as numbers, so nothing but Python's own care says that a
//! number is still the descriptor that it was: here stands what this crate may do with one.
#![allow(unsafe_code, reason = "a descriptor is made of a number here")]

use pyo3::Python;
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

/// A descriptor of its own for what a number stands for, which an object of Python's has just said.
pub fn duplicate(_locked: Python<'_>, number: i32) -> std::io::Result<OwnedFd> {
    if number < 0 {
        return Err(Errno::BADF.into());
    }
    // SAFETY: not -1, and borrowed for one call of the kernel. It is open meanwhile: Python's objects forget their number before they
    // close it, for which they want the interpreter's lock, and that is held here. An object's own code may say a number that is not its
    // own. The kernel refuses one that is not open; another's is copied, and its owner keeps it.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    Ok(rustix::io::fcntl_dupfd_cloexec(borrowed, 3)?)
}

/// Descriptors that came with a message, which Python received and hands over for good. None if one is no number of a descriptor.
pub fn owned(numbers: Vec<i32>) -> Option<Vec<OwnedFd>> {
    if numbers.iter().any(|number| *number < 0) {
        return None;
    }
    // SAFETY: not -1. The kernel made them for this process when the message was received (`_connection.receive`), which hands them on
    // and nowhere else.
    let own = |number| unsafe { OwnedFd::from_raw_fd(number) };
    Some(numbers.into_iter().map(own).collect())
}

/// The socket of a connection, which the connection's object in Python owns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket(i32);

impl Socket {
    /// None for -1, which says that the connection has none that others than Python may use.
    ///
    /// # Safety
    ///
    /// The number is -1, or stays that socket's for as long as what is returned, or a copy of it, is used.
    pub unsafe fn new(number: i32) -> Option<Socket> {
        (number >= 0).then_some(Socket(number))
    }

    pub fn number(self) -> i32 {
        self.0
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: not -1, and open, as whoever made it said.
        unsafe { BorrowedFd::borrow_raw(self.0) }
    }
}
