//! System calls that neither rustix nor nix wraps safely, and nothing else, a file a concern. With what runs after clone3(2) in
//! [`crate::launch`], the only place in the crate where `unsafe` may stand.
//!
//! What may run between clone3(2) and execve(2) is async-signal-safe: no allocation, no lock, no errno in thread-local
//! storage that anyone reads later. Only what says so is not.

#![allow(
    unsafe_code,
    reason = "this folder is where system calls are made that no crate wraps safely"
)]

mod capability;
mod clone;
pub mod exit_status;
mod fds;
pub mod helper;
mod landlock;
mod memory;
mod mount;
mod namespace;
mod ptrace;
mod scm;
mod seccomp;
mod signal;
mod socket;
mod terminal;

pub use capability::*;
pub use clone::*;
pub use fds::*;
pub use landlock::*;
pub use memory::*;
pub use mount::*;
pub use namespace::*;
pub use ptrace::*;
pub use scm::*;
pub use seccomp::*;
pub use signal::*;
pub use socket::*;
pub use terminal::*;

use libc::c_long;
use rustix::io::Errno;

type Result<T> = std::result::Result<T, Errno>;

fn check(result: c_long) -> Result<c_long> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: errno is this thread's own and always mapped.
    Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
}
