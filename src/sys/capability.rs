//! prctl(2), PR_CAPBSET_DROP.

use super::{Result, check};
use rustix::io::Errno;

/// Empties the capability bounding set of this thread; capabilities(7).
pub fn drop_bounding_set() -> Result<()> {
    for number in 0..64 {
        // SAFETY: takes integers only; a number past the kernel's last capability answers EINVAL.
        match check(unsafe { libc::syscall(libc::SYS_prctl, libc::PR_CAPBSET_DROP, number, 0, 0, 0) }) {
            Ok(_) => {}
            Err(Errno::INVAL) if number > 30 => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}
