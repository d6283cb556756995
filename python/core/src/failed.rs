//! Why no object could be made of what came.

use crate::names;
use pyo3::exceptions::{PyArithmeticError, PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pysecure_wire::{Malformed, WireError};

/// Why no object could be made.
pub enum Failed {
    Wire(WireError),
    Python(PyErr),
}

impl From<WireError> for Failed {
    fn from(error: WireError) -> Failed {
        Failed::Wire(error)
    }
}

impl From<PyErr> for Failed {
    fn from(error: PyErr) -> Failed {
        Failed::Python(error)
    }
}

impl Failed {
    pub fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            Failed::Wire(error) => names::protocol_error(py, error.to_string()),
            Failed::Python(error) => error,
        }
    }
}

pub const MALFORMED: Failed = Failed::Wire(WireError::Malformed(Malformed::Extension));

/// A class that refuses what came for it.
pub fn refused(py: Python<'_>, error: PyErr) -> Failed {
    let ours = error.is_instance_of::<PyValueError>(py)
        || error.is_instance_of::<PyTypeError>(py)
        || error.is_instance_of::<PyOverflowError>(py)
        || error.is_instance_of::<PyArithmeticError>(py);
    if ours { MALFORMED } else { Failed::Python(error) }
}
