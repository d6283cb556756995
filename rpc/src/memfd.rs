//! Sealed memfds: bytes that are too many for a socket's message. The seal says that it is a memfd and cannot shrink, so a
//! reader is neither made to wait nor cut short.

use crate::value::WireError;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;

/// A memfd that holds these, one after another, sealed.
pub(crate) fn sealed(parts: &[&[u8]]) -> Result<OwnedFd, Errno> {
    let fd = rustix::fs::memfd_create("pysecure-rpc", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    for part in parts {
        let mut rest = *part;
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, rest))?;
            rest = &rest[written..];
        }
    }
    rustix::fs::fcntl_add_seals(
        &fd,
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE | SealFlags::SEAL,
    )?;
    Ok(fd)
}

/// A memfd of the peer's, checked.
#[derive(Debug)]
pub struct Area {
    fd: OwnedFd,
    len: u64,
}

impl Area {
    pub(crate) fn check(fd: OwnedFd) -> Result<Area, WireError> {
        let bad = WireError::Bad("a descriptor for bytes that is no sealed memfd");
        match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
            _ => return Err(bad),
        }
        let len = size(&fd)?;
        Ok(Area { fd, len })
    }

    /// Copies out, once.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, WireError> {
        self.holds(offset, len)?;
        let mut out = vec![0; len];
        self.read_into(offset, &mut out)?;
        Ok(out)
    }

    /// Are there so many bytes? To be asked before memory is taken for them.
    pub fn holds(&self, offset: u64, len: usize) -> Result<(), WireError> {
        // A kept one may have grown since; never does it shrink.

        let end = offset.checked_add(len as u64);
        let end = end.ok_or(WireError::Bad("bytes beyond the end of their memfd"))?;
        if end > self.len && end > size(&self.fd)? {
            return Err(WireError::Bad("bytes beyond the end of their memfd"));
        }
        Ok(())
    }

    /// Copies out what `holds` said is there.
    pub fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<(), WireError> {
        let len = out.len();
        let mut done = 0;
        while done < len {
            let read =
                rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut out[done..], offset + done as u64))?;
            if read == 0 {
                return Err(WireError::Bad("bytes beyond the end of their memfd"));
            }
            done += read;
        }
        Ok(())
    }
}

fn size(fd: &OwnedFd) -> Result<u64, WireError> {
    let stat = rustix::fs::fstat(fd).map_err(|_| WireError::Bad("a descriptor for bytes that is no sealed memfd"))?;
    Ok(stat.st_size as u64)
}
