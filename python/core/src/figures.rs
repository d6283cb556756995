//! The numbers of the page of figures; `_figures.py` makes the page and knows the names.

use crate::fd;
use pyo3::prelude::*;
use pysecure_wire::figures;
use std::os::fd::AsFd;
use std::time::Duration;

/// What is counted of each function.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Counters(figures::Counters);

#[pymethods]
impl Counters {
    /// `fd`: the number of the page's memfd.
    #[new]
    fn new(py: Python<'_>, fd: i32) -> PyResult<Counters> {
        let page = fd::duplicate(py, fd)?;
        Ok(Counters(figures::Counters::map(page.as_fd())?))
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
