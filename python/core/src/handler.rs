//! Functions that a service can run by the core's fast path.

use crate::check::{self, Check};
use crate::pace::Pace;
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use std::collections::HashMap;

/// A function that can be served by the fast path.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct FastHandler {
    pub function: Py<PyAny>,
    pub run: Py<PyAny>,
    pub checks: Vec<Check>,
    pub needed: usize,
    pub result: Check,
    /// Its number in the page of figures, if there is room for it.
    pub slot: Option<usize>,
}

#[pymethods]
impl FastHandler {
    #[new]
    fn new(
        function: Py<PyAny>,
        run: Py<PyAny>,
        plans: &Bound<'_, PyTuple>,
        needed: usize,
        result: &Bound<'_, PyAny>,
        slot: Option<usize>,
    ) -> PyResult<FastHandler> {
        Ok(FastHandler {
            function,
            run,
            checks: check::all(plans)?,
            needed,
            result: Check::new(result)?,
            slot,
        })
    }
}

/// What one caller may call of that which can be served by the fast path.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct FastHandlers {
    pub functions: HashMap<String, Handler>,
}

/// One function, as one caller calls it.
pub struct Handler {
    pub served: Py<FastHandler>,
    pub pace: Pace,
}

#[pymethods]
impl FastHandlers {
    #[new]
    fn new(functions: HashMap<String, Py<FastHandler>>) -> FastHandlers {
        FastHandlers {
            functions: functions
                .into_iter()
                .map(|(name, served)| {
                    let pace = Pace::new();
                    (name, Handler { served, pace })
                })
                .collect(),
        }
    }
}
