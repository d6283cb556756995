//! The numbers of the page of figures; `_figures.py` makes the page and knows the names.

use crate::fd;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pysecure_wire::figures::Counters;
use std::time::Duration;

#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Slots(Counters);

#[pymethods]
impl Slots {
    #[new]
    #[allow(unsafe_code)]
    fn new(fd: i32) -> PyResult<Slots> {
        if fd < 0 {
            return Err(PyValueError::new_err("a malformed page of figures"));
        }
        // SAFETY: not -1, and `_figures.Page` has it open while this runs.
        let page = unsafe { fd::borrow(fd) };
        Ok(Slots(Counters::map(page)?))
    }

    /// A call has ended.
    pub fn ended(&self, slot: usize, seconds: f64, failed: bool) {
        // A float that is no time becomes 0 or the largest one.
        let took = Duration::from_nanos((seconds * 1e9) as u64);
        self.0.ended(slot, took, failed);
    }

    /// A caller was refused it.
    fn denied(&self, slot: usize) {
        self.0.refused(slot);
    }

    /// Calls, errors, refusals, nanoseconds, and the buckets.
    fn read(&self, slot: usize) -> Vec<u64> {
        self.0.read(slot).to_vec()
    }
}
