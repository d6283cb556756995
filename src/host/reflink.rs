//! Copies that share blocks with what they are copies of, where the disk can; ioctl_ficlone(2).

use std::fs::File;

/// Has an empty file hold what another one does: a reflink, or else a copy (copy_file_range(2)).
pub fn copy_content(source: &mut File, target: &mut File) -> std::io::Result<()> {
    match rustix::fs::ioctl_ficlone(&*target, &*source) {
        Ok(()) => Ok(()),
        Err(_) => std::io::copy(source, target).map(drop),
    }
}
