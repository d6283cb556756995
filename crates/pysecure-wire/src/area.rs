//! Sealed memfds, for bytes that are too many for a message on the socket (docs/reference/rpc-protocol.md, "Large values"). The seal says that
//! a descriptor is a memfd and cannot shrink, so a reader is neither made to wait nor cut short.

use crate::error::{Malformed, WireError};
use memmap2::{MmapOptions, MmapRaw};
use rustix::buffer::spare_capacity;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// F_SEAL_WRITE is not among them: the reader copies before it looks, and that seal fails with EBUSY while the kernel has a page
/// in hand.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

fn new_memfd() -> Result<OwnedFd, Errno> {
    rustix::fs::memfd_create("pysecure-rpc", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
}

/// A sealed memfd that holds these bytes.
pub(crate) fn sealed(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let fd = new_memfd()?;
    let mut done = 0;
    while done < bytes.len() {
        done += rustix::io::retry_on_intr(|| rustix::io::pwrite(&fd, &bytes[done..], done as u64))?;
    }
    rustix::fs::fcntl_add_seals(&fd, SEALS)?;
    Ok(fd)
}

/// Where large bytes of a message lie: in a memfd that comes with it, or in the area, which the peer has.
pub(crate) struct Place {
    pub(crate) fd: Option<Arc<OwnedFd>>,
    pub(crate) offset: u64,
    pub(crate) keep: bool,
}

/// The smallest and the largest area, in bytes. Larger values have a memfd of their own: an area stays as long as its
/// connection.
const AREA: std::ops::RangeInclusive<u64> = 1 << 20..=8 << 20;

/// This end's area: the memfd that it writes large bytes into, message after message. Making, filling and freeing the pages of a
/// new memfd is most of what large bytes cost.
///
/// Each message is written between [`OutgoingArea::begin`] and [`OutgoingArea::sent`]; without the latter it counts as not sent.
#[derive(Debug, Default)]
pub struct OutgoingArea {
    area: Option<(Arc<OwnedFd>, MmapRaw)>,
    /// Was it made for the message that is being written?
    fresh: bool,
    /// How far that message has filled it.
    end: u64,
    /// May it be written to: has the peer read all that was sent in it?
    free: bool,
}

impl OutgoingArea {
    /// A message begins. `free`: the peer has read all that was sent in the area.
    pub fn begin(&mut self, free: bool) {
        if std::mem::take(&mut self.fresh) {
            // The message that was to bring it was not sent.
            self.area = None;
        }
        self.end = 0;
        self.free = free;
    }

    /// The message was sent. True if it used the area.
    pub fn sent(&mut self) -> bool {
        self.fresh = false;
        self.end > 0
    }

    /// The last message was not sent after all: another area takes the place of what the peer may not have.
    pub fn forget(&mut self) {
        *self = OutgoingArea::default();
    }

    /// Puts bytes where they can be sent from.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<Place, Errno> {
        let len = bytes.len() as u64;
        let room = |area: &Option<(Arc<OwnedFd>, MmapRaw)>, from: u64| {
            area.as_ref().is_some_and(|(_, map)| from + len <= map.len() as u64)
        };
        if !self.free || len > *AREA.end() || (self.end > 0 && !room(&self.area, self.end)) {
            return Ok(Place {
                fd: Some(Arc::new(sealed(bytes)?)),
                offset: 0,
                keep: false,
            });
        }
        let fd = match &self.area {
            Some((_, map)) if room(&self.area, self.end) => {
                fill(map, self.end as usize, bytes);
                None
            }
            _ => {
                let all = len.next_power_of_two().clamp(*AREA.start(), *AREA.end());
                let fd = new_memfd()?;
                rustix::fs::ftruncate(&fd, all)?;
                rustix::fs::fcntl_add_seals(&fd, SEALS)?;
                let map = MmapOptions::new().len(all as usize).map_raw(&fd);
                let map = map.map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::NOMEM))?;
                fill(&map, 0, bytes);
                let fd = Arc::new(fd);
                self.area = Some((fd.clone(), map));
                self.fresh = true;
                Some(fd)
            }
        };
        let place = Place {
            keep: fd.is_some(),
            fd,
            offset: self.end,
        };
        self.end += len;
        Ok(place)
    }
}

/// Copies into this end's own mapping: a write(2) into a memfd looks up each page again. What the peer sent is never mapped: a hole
/// in it, or huge pages that there are not, would be memory or a SIGBUS of this process.
fn fill(map: &MmapRaw, at: usize, bytes: &[u8]) {
    assert!(at.checked_add(bytes.len()).is_some_and(|end| end <= map.len()));
    // SAFETY: within the mapping, of a memfd that its seal keeps from shrinking; nothing in this process reads it, and `bytes` is not in it.
    #[allow(unsafe_code)]
    unsafe {
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.as_mut_ptr().add(at), bytes.len());
    }
}

/// The peer's area, which it keeps at this end of the connection.
#[derive(Debug, Default)]
pub struct IncomingArea {
    pub(crate) memfd: Option<Memfd>,
    /// How many messages used it, which is `read` in CALL and CREDIT.
    pub read: u64,
}

impl IncomingArea {
    /// Gives the memfd up; what refers to it from now on is malformed.
    pub fn close(&mut self) {
        self.memfd = None;
    }
}

/// A memfd of the peer's. It was seen to be one, and to be sealed with F_SEAL_SHRINK, so that no read of it waits or fails.
#[derive(Debug)]
pub struct Memfd {
    fd: OwnedFd,
    len: u64,
}

impl Memfd {
    pub(crate) fn check(fd: OwnedFd) -> Result<Memfd, WireError> {
        match rustix::fs::fcntl_get_seals(&fd) {
            Ok(seals) if seals.contains(SealFlags::SHRINK) => {}
            _ => return Err(Malformed::Memfd.into()),
        }
        let len = size(&fd)?;
        Ok(Memfd { fd, len })
    }

    /// Copies `len` bytes from `offset` out, once: what the peer changes later changes nothing.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, WireError> {
        self.holds(offset, len)?;
        let mut out: Vec<u8> = Vec::with_capacity(len);
        while out.len() < len {
            let at = offset + out.len() as u64;
            let read = match rustix::io::pread(&self.fd, spare_capacity(&mut out), at) {
                Err(Errno::INTR) => continue,
                other => other.map_err(unreadable)?,
            };
            if read == 0 {
                return Err(BEYOND);
            }
        }
        // An allocation may be larger than what was asked for.
        out.truncate(len);
        Ok(out)
    }

    /// Are there `len` bytes from `offset`? To be asked before memory is taken for them.
    pub fn holds(&self, offset: u64, len: usize) -> Result<(), WireError> {
        let end = offset.checked_add(len as u64).ok_or(BEYOND)?;
        // An area may have grown since it came; it never shrinks.
        if end > self.len && end > size(&self.fd)? {
            return Err(BEYOND);
        }
        Ok(())
    }

    /// Copies out bytes from `offset`, which [`Memfd::holds`] said are there.
    pub fn read_into(&self, offset: u64, out: &mut [u8]) -> Result<(), WireError> {
        let mut done = 0;
        while done < out.len() {
            let at = offset + done as u64;
            let read =
                rustix::io::retry_on_intr(|| rustix::io::pread(&self.fd, &mut out[done..], at)).map_err(unreadable)?;
            if read == 0 {
                return Err(BEYOND);
            }
            done += read;
        }
        Ok(())
    }
}

const BEYOND: WireError = WireError::Malformed(Malformed::Beyond);

/// A memfd that is open for writing only, or as a path, is the peer's fault and not this end's.
fn unreadable(_: Errno) -> WireError {
    Malformed::Memfd.into()
}

fn size(fd: &OwnedFd) -> Result<u64, WireError> {
    Ok(rustix::fs::fstat(fd)?.st_size as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::MemfdFlags;

    #[test]
    fn bytes_beyond_the_end_are_refused_before_memory_is_taken_for_them() {
        let fd = rustix::fs::memfd_create(c"test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, 100).unwrap();
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
        let peer = fd.try_clone().unwrap();
        let area = Memfd::check(fd).unwrap();
        for (offset, len, there) in [
            (0, 100, true),
            (100, 0, true),
            (40, 60, true),
            (0, 101, false),
            (1, 100, false),
            (101, 0, false),
            (0, usize::MAX, false),
            (u64::MAX, 1, false),
        ] {
            assert_eq!(area.holds(offset, len).is_ok(), there, "{offset} {len}");
            // Else this would ask for as much memory.
            assert_eq!(area.read(offset, len).is_ok(), there, "{offset} {len}");
        }
        // Its owner may make it longer.
        rustix::fs::ftruncate(&peer, 200).unwrap();
        assert!(area.holds(100, 100).is_ok() && area.holds(100, 101).is_err());
    }
}
