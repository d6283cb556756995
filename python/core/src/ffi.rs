//! What CPython's API has and PyO3 does not.
#![allow(unsafe_code, reason = "calls of CPython's API")]

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyInt;

/// An int of Python's as one of 64 bits, or how it is beyond: -1 or 1.
pub fn as_i64(number: &Bound<'_, PyInt>) -> Result<i64, i32> {
    let mut beyond = 0;
    // SAFETY: it is an int, as its type says, and lives as long as the reference. `beyond` is this function's own.
    let small = unsafe { ffi::PyLong_AsLongLongAndOverflow(number.as_ptr(), &mut beyond) };
    match beyond {
        0 => Ok(small),
        _ => Err(beyond),
    }
}

/// Bytes that `fill` fills; to set them to zero first would take as long again.
pub fn bytes_filled<E: From<PyErr>>(
    py: Python<'_>,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
) -> Result<Bound<'_, PyAny>, E> {
    let size = isize::try_from(len).map_err(|_| PyOverflowError::new_err("bytes that are too long"))?;
    // SAFETY: without a source it makes a new object of that size, or none, and sets an exception.
    let made = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size)) }?;
    // SAFETY: nobody else has the object yet, and it is of this length. What lies there is not read before it is filled.
    let out = unsafe { std::slice::from_raw_parts_mut(ffi::PyBytes_AsString(made.as_ptr()).cast::<u8>(), len) };
    fill(out)?;
    Ok(made)
}
