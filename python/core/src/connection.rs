//! A service's connection to a caller.

use crate::area::{Area, PeerArea};
use crate::handler::FastHandlers;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};

/// What of a connection the fast path needs; `_server.connection.Connection` is one.
#[pyclass(module = "pysecure_rpc._core", subclass)]
pub struct ServerConn {
    /// -1: only Python may use it.
    #[pyo3(get, set)]
    pub fd: i32,
    #[pyo3(get, set)]
    pub closed: bool,
    #[pyo3(get, set)]
    pub leaving: bool,
    /// Its caller's number at the gate.
    #[pyo3(get, set)]
    pub number: usize,
    #[pyo3(get, set)]
    pub caller: Option<Py<PyAny>>,
    /// The open calls, by number.
    #[pyo3(get)]
    pub calls: Py<PyDict>,
    /// What waits until the caller reads.
    #[pyo3(get, set)]
    pub backlog: Option<Py<PyAny>>,
    #[pyo3(get, set)]
    pub fast: Option<Py<FastHandlers>>,
    peer_area: Option<Py<PeerArea>>,
    #[pyo3(get, set)]
    pub out_area: Option<Py<Area>>,
}

#[pymethods]
impl ServerConn {
    #[new]
    #[pyo3(signature = (*_rest))]
    fn new(py: Python<'_>, _rest: &Bound<'_, PyTuple>) -> ServerConn {
        ServerConn {
            fd: -1,
            closed: false,
            leaving: false,
            number: 0,
            caller: None,
            calls: PyDict::new(py).unbind(),
            backlog: None,
            fast: None,
            peer_area: None,
            out_area: None,
        }
    }

    /// Made when it is first needed: most connections send no large bytes.
    #[getter]
    pub fn peer_area(&mut self, py: Python<'_>) -> PyResult<Py<PeerArea>> {
        let peer_area = match self.peer_area.take() {
            Some(peer_area) => peer_area,
            None => Py::new(py, PeerArea::default())?,
        };
        self.peer_area = Some(peer_area.clone_ref(py));
        Ok(peer_area)
    }

    /// Closes what the caller keeps here.
    fn forget(&mut self) {
        self.peer_area = None;
        self.out_area = None;
    }
}
