//! The numbers of the page of figures (docs/rpc-protocol.md, "Figures"); `_figures.py` makes the page and knows the names.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use rustix::fs::SealFlags;
use rustix::mm::{MapFlags, ProtFlags};
use std::sync::atomic::{AtomicU64, Ordering};

/// In bytes.
const SIZE: usize = 65_536;
/// In words: what comes before the slots, and a slot.
const HEAD: usize = 2;
const SLOT: usize = 40;
const SLOTS: usize = (SIZE / 8 - HEAD) / SLOT;
/// In a slot.
const CALLS: usize = 8;
const ERRORS: usize = 9;
const DENIED: usize = 10;
const TIME: usize = 11;
const BUCKETS: usize = 12;
const LAST_BUCKET: usize = SLOT - BUCKETS - 1;

#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Slots {
    page: *mut AtomicU64,
}

// SAFETY: whoever uses the page uses it by atomic operations.
#[allow(unsafe_code)]
unsafe impl Send for Slots {}
// SAFETY: the same.
#[allow(unsafe_code)]
unsafe impl Sync for Slots {}

#[pymethods]
impl Slots {
    /// The page is a memfd that cannot shrink.
    #[new]
    #[allow(unsafe_code)]
    fn new(fd: i32) -> PyResult<Slots> {
        let none = || PyValueError::new_err("a page of figures that is none");
        if fd < 0 {
            return Err(none());
        }
        let fd = crate::client::borrowed(fd);
        let seals = rustix::fs::fcntl_get_seals(fd).map_err(std::io::Error::from)?;
        let stat = rustix::fs::fstat(fd).map_err(std::io::Error::from)?;
        if !seals.contains(SealFlags::SHRINK) || stat.st_size < SIZE as i64 {
            return Err(none());
        }
        // SAFETY: a new mapping at an address that the kernel chooses, of a file that was seen not to end before it.
        let page = unsafe {
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), SIZE, protection, MapFlags::SHARED, fd, 0)
        };
        let page = page.map_err(std::io::Error::from)?.cast();
        Ok(Slots { page })
    }

    /// A call has ended.
    pub fn ended(&self, slot: usize, seconds: f64, failed: bool) {
        self.add(slot, CALLS, 1);
        if failed {
            self.add(slot, ERRORS, 1);
        }
        let nanos = (seconds * 1e9) as u64;
        self.add(slot, TIME, nanos);
        let bucket = (u64::BITS - (nanos / 1000).leading_zeros()) as usize;
        self.add(slot, BUCKETS + bucket.min(LAST_BUCKET), 1);
    }

    /// A caller was refused it.
    fn denied(&self, slot: usize) {
        self.add(slot, DENIED, 1);
    }

    /// Calls, errors, refusals, nanoseconds, and the buckets.
    fn read(&self, slot: usize) -> Vec<u64> {
        let value = |at| self.word(slot, at).map_or(0, |word| word.load(Ordering::Relaxed));
        (CALLS..SLOT).map(value).collect()
    }
}

impl Slots {
    #[allow(unsafe_code)]
    fn word(&self, slot: usize, at: usize) -> Option<&AtomicU64> {
        // SAFETY: within the mapping, which is there as long as this object; words are aligned in it.
        (slot < SLOTS && at < SLOT).then(|| unsafe { &*self.page.add(HEAD + slot * SLOT + at) })
    }

    fn add(&self, slot: usize, at: usize, more: u64) {
        if let Some(word) = self.word(slot, at) {
            word.fetch_add(more, Ordering::Relaxed);
        }
    }
}

impl Drop for Slots {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: what `new` mapped; nothing refers to it any more.
        let _ = unsafe { rustix::mm::munmap(self.page.cast(), SIZE) };
    }
}
