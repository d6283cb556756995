//! Memfds for large bytes: the one that this end writes to again and again, and the one that the peer keeps with it.

use pyo3::prelude::*;
use pysecure_rpc::value::WireError;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{MapFlags, ProtFlags};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An area does not grow beyond this; larger bytes get a memfd for themselves.
pub const KEEP: usize = 8 << 20;

/// A memfd that is sent once and used for the large bytes of many messages.
#[pyclass(module = "pysecure_rpc._core")]
pub struct Area {
    memfd: Option<Mapped>,
    sent: bool,
    /// Has all that lies in it been read?
    #[pyo3(get, set)]
    pub free: bool,
}

struct Mapped {
    fd: Arc<OwnedFd>,
    at: *mut u8,
    len: usize,
}

// SAFETY: the mapping is this object's alone, and it is written to by whoever has the object for itself.
#[allow(unsafe_code)]
unsafe impl Send for Mapped {}
// SAFETY: the same.
#[allow(unsafe_code)]
unsafe impl Sync for Mapped {}

impl Mapped {
    fn new() -> Result<Mapped, WireError> {
        let fd = rustix::fs::memfd_create("pysecure-rpc", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK)?;
        Ok(Mapped {
            fd: Arc::new(fd),
            at: std::ptr::null_mut(),
            len: 0,
        })
    }

    #[allow(unsafe_code)]
    fn unmap(&mut self) {
        if self.len > 0 {
            // SAFETY: what `reserve` mapped; nothing refers to it.
            let _ = unsafe { rustix::mm::munmap(self.at.cast(), self.len) };
            self.len = 0;
        }
    }

    #[allow(unsafe_code)]
    fn reserve(&mut self, size: usize) -> Result<(), WireError> {
        if size <= self.len {
            return Ok(());
        }
        let len = size.max(1 << 20).max(2 * self.len).min(KEEP);
        rustix::fs::ftruncate(&*self.fd, len as u64)?;
        self.unmap();
        // SAFETY: a new mapping at an address that the kernel chooses. The memfd cannot shrink below it.
        let at = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                len,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &*self.fd,
                0,
            )?
        };
        self.at = at.cast();
        self.len = len;
        Ok(())
    }

    /// Room for this has been reserved.
    #[allow(unsafe_code)]
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: within the mapping, as asserted; the bytes are an object of Python's, which lies elsewhere.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at.add(offset), bytes.len()) }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        self.unmap();
    }
}

#[pymethods]
impl Area {
    #[new]
    pub fn new() -> Area {
        Area {
            memfd: None,
            sent: false,
            free: true,
        }
    }

    pub fn close(&mut self) {
        *self = Area::new();
    }
}

impl Area {
    /// Puts bytes there. The memfd, if the peer does not have it yet.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) -> Result<Option<Arc<OwnedFd>>, WireError> {
        if self.memfd.is_none() {
            self.memfd = Some(Mapped::new()?);
        }
        let Some(memfd) = &mut self.memfd else {
            return Ok(None);
        };
        memfd.reserve(offset + bytes.len())?;
        memfd.write(offset, bytes);
        self.free = false;
        let known = std::mem::replace(&mut self.sent, true);
        Ok((!known).then(|| memfd.fd.clone()))
    }
}

/// The area of the peer's that lies at this end, and how many messages used it.
#[pyclass(module = "pysecure_rpc._core")]
#[derive(Default)]
pub struct Kept {
    pub area: Option<pysecure_rpc::Area>,
    #[pyo3(get)]
    pub read: u64,
    /// What the last message took of memory, about, in bytes.
    #[pyo3(get)]
    pub cost: usize,
}

#[pymethods]
impl Kept {
    #[new]
    fn new() -> Kept {
        Kept::default()
    }

    fn close(&mut self) {
        self.area = None;
    }
}
