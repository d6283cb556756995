//! The areas of a connection (docs/reference/rpc-protocol.md, "Large values"): the one that this end writes to, and the peer's.

use pyo3::prelude::*;
use pysecure_wire::{IncomingArea, OutgoingArea};

/// A memfd that is sent once and used for the large bytes of many messages.
#[pyclass(module = "pysecure_rpc._core")]
pub struct Area {
    pub outgoing: OutgoingArea,
    /// Has the peer read all that lies in it?
    #[pyo3(get, set)]
    pub free: bool,
}

#[pymethods]
impl Area {
    #[new]
    pub fn new() -> Area {
        Area {
            outgoing: OutgoingArea::default(),
            free: true,
        }
    }

    pub fn close(&mut self) {
        *self = Area::new();
    }
}

/// The peer's area, which it keeps at this end.
#[pyclass(module = "pysecure_rpc._core")]
#[derive(Default)]
pub struct PeerArea {
    pub area: IncomingArea,
    /// What the last message took of memory, about, in bytes.
    #[pyo3(get)]
    pub cost: usize,
}

#[pymethods]
impl PeerArea {
    #[new]
    fn new() -> PeerArea {
        PeerArea::default()
    }

    /// How many messages used it.
    #[getter]
    fn read(&self) -> u64 {
        self.area.read
    }

    fn close(&mut self) {
        self.area.close();
    }
}
