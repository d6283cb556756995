//! Descriptors that objects of Python's have open. Python hands them over as numbers.

use std::os::fd::BorrowedFd;

/// Borrows a descriptor by its number.
///
/// # Safety
///
/// It is not -1, and stays open for as long as `'a`: an object of Python's that owns it is referred to meanwhile, and nothing closes it.
#[allow(unsafe_code)]
pub unsafe fn borrow<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: as the caller of this says.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
