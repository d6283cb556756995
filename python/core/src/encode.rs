//! Objects of Python's as they stand on the wire.

use crate::fd;
use crate::ffi;
use crate::names::{self, Late};
use pyo3::exceptions::{PyTypeError, PyUnicodeEncodeError};
use pyo3::prelude::*;
use pyo3::types::{
    PyBool, PyByteArray, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple,
    PyType,
};
use pysecure_wire::error::TooLarge;
use pysecure_wire::kind::extension;
use pysecure_wire::limits::{INLINE_BYTES, MAX_DEPTH, max_bytes};
use pysecure_wire::message::EncodeError;
use pysecure_wire::{WireError, Writer};
use std::sync::Arc;

/// Where large bytes and descriptors of one message go.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Large {
    /// Large bytes stand in the message: there are no descriptors.
    Inline,
    /// There are to be none: whoever meets some gives up, and does it another way.
    Refused,
    /// They go along, as far as the message has room for them.
    Descriptors,
}

/// `Large::Refused` met large bytes or a descriptor.
#[derive(Debug)]
pub enum Unable {
    Python(PyErr),
    Wire(WireError),
    Large,
}

impl From<PyErr> for Unable {
    fn from(error: PyErr) -> Unable {
        Unable::Python(error)
    }
}

impl From<WireError> for Unable {
    fn from(error: WireError) -> Unable {
        Unable::Wire(error)
    }
}

impl Unable {
    pub fn raise(self, py: Python<'_>) -> PyErr {
        match self {
            Unable::Python(error) => error,
            Unable::Wire(WireError::Memfd(errno)) => std::io::Error::from(errno).into(),
            Unable::Wire(error) => names::too_large(py, error.to_string()),
            Unable::Large => names::too_large(py, "large bytes where there can be none"),
        }
    }
}

impl EncodeError for Unable {
    fn crowded(&self) -> bool {
        matches!(self, Unable::Wire(error) if error.crowded())
    }
}

type Put = Result<(), Unable>;

fn deep(depth: usize) -> Put {
    match depth >= MAX_DEPTH {
        true => Err(WireError::from(TooLarge::Depth).into()),
        false => Ok(()),
    }
}

fn room(w: &Writer<'_>, more: usize) -> Put {
    match w.len() + more > max_bytes() {
        true => Err(WireError::from(TooLarge::Bytes).into()),
        false => Ok(()),
    }
}

/// Writes one value, which lies in as many containers as `depth` says.
pub fn put(w: &mut Writer<'_>, value: &Bound<'_, PyAny>, depth: usize, large: Large) -> Put {
    if let Ok(text) = value.cast_exact::<PyString>() {
        return put_str(w, text, depth);
    }
    if value.is_none() {
        w.nil();
        return Ok(());
    }
    if let Ok(flag) = value.cast_exact::<PyBool>() {
        w.bool(flag.is_true());
        return Ok(());
    }
    if let Ok(number) = value.cast_exact::<PyInt>() {
        return put_int(w, number, depth);
    }
    if let Ok(number) = value.cast_exact::<PyFloat>() {
        w.float(number.value());
        return Ok(());
    }
    if let Ok(bytes) = value.cast_exact::<PyBytes>() {
        return put_bytes(w, bytes.as_bytes(), depth, large);
    }
    if let Ok(list) = value.cast_exact::<PyList>() {
        return put_items(w, list.len(), list.iter(), depth, large);
    }
    if let Ok(dict) = value.cast_exact::<PyDict>() {
        return put_map(w, dict, depth, large);
    }
    if let Ok(tuple) = value.cast_exact::<PyTuple>() {
        deep(depth)?;
        return w.nested(extension::TUPLE, |w| {
            put_items(w, tuple.len(), tuple.iter(), depth + 1, large)
        });
    }
    if let Ok(set) = value.cast_exact::<PySet>() {
        deep(depth)?;
        return w.nested(extension::SET, |w| {
            put_items(w, set.len(), set.iter(), depth + 1, large)
        });
    }
    if let Ok(set) = value.cast_exact::<PyFrozenSet>() {
        deep(depth)?;
        return w.nested(extension::FROZENSET, |w| {
            put_items(w, set.len(), set.iter(), depth + 1, large)
        });
    }
    put_rare(w, value, depth, large)
}

fn put_str(w: &mut Writer<'_>, text: &Bound<'_, PyString>, depth: usize) -> Put {
    match text.to_str() {
        Ok(text) => {
            room(w, text.len())?;
            w.str(text);
            Ok(())
        }
        Err(error) if error.is_instance_of::<PyUnicodeEncodeError>(text.py()) => {
            deep(depth)?;
            let encoded = text.call_method1("encode", ("utf-8", "surrogatepass"))?;
            let encoded = encoded.cast_into::<PyBytes>().map_err(PyErr::from)?;
            Ok(w.ext(extension::SURROGATES, encoded.as_bytes())?)
        }
        Err(error) => Err(error.into()),
    }
}

fn put_int(w: &mut Writer<'_>, number: &Bound<'_, PyInt>, depth: usize) -> Put {
    let beyond = match ffi::as_i64(number) {
        Ok(small) => {
            w.int(small);
            return Ok(());
        }
        Err(beyond) => beyond,
    };
    if let (1, Ok(large)) = (beyond, number.extract::<u64>()) {
        w.uint(large);
        return Ok(());
    }
    deep(depth)?;
    // As many bits as it has, and its sign.
    let bits = match beyond {
        1 => number.call_method0("bit_length")?,
        _ => number.add(1)?.call_method0("bit_length")?,
    };
    let bytes = bits.extract::<usize>()? / 8 + 1;
    let signed = PyDict::new(number.py());
    signed.set_item("signed", true)?;
    let data = number.call_method("to_bytes", (bytes, "big"), Some(&signed))?;
    let data = data.cast_into::<PyBytes>().map_err(PyErr::from)?;
    Ok(w.ext(extension::INTEGER, data.as_bytes())?)
}

fn put_items<'py>(
    w: &mut Writer<'_>,
    len: usize,
    items: impl Iterator<Item = Bound<'py, PyAny>>,
    depth: usize,
    large: Large,
) -> Put {
    deep(depth)?;
    room(w, len)?;
    w.array(len);
    let mut many = 0;
    for item in items {
        many += 1;
        put(w, &item, depth + 1, large)?;
    }
    same(many, len)
}

/// Another thread may have changed it while it was read.
fn same(many: usize, len: usize) -> Put {
    match many == len {
        true => Ok(()),
        false => Err(PyTypeError::new_err("a container changed while it was sent").into()),
    }
}

fn put_map(w: &mut Writer<'_>, dict: &Bound<'_, PyDict>, depth: usize, large: Large) -> Put {
    deep(depth)?;
    let len = dict.len();
    room(w, 2 * len)?;
    w.map(len);
    let mut many = 0;
    for (key, value) in dict.iter() {
        many += 1;
        // A key is never in a memfd: two of them could be equal without looking so.
        put(w, &key, depth + 1, Large::Inline)?;
        put(w, &value, depth + 1, large)?;
    }
    same(many, len)
}

fn put_bytes(w: &mut Writer<'_>, bytes: &[u8], depth: usize, large: Large) -> Put {
    if bytes.len() > INLINE_BYTES {
        match large {
            Large::Descriptors => return Ok(w.bytes(bytes, depth)?),
            Large::Refused => return Err(Unable::Large),
            Large::Inline => {}
        }
    }
    room(w, bytes.len())?;
    Ok(w.bin(bytes)?)
}

fn numbers(w: &mut Writer<'_>, kind: i8, depth: usize, value: &Bound<'_, PyAny>, parts: &[&str], timed: bool) -> Put {
    deep(depth + 1)?;
    w.nested(kind, |w| {
        w.array(parts.len() + if timed { 2 } else { 0 });
        for part in parts {
            w.int(value.getattr(*part)?.extract()?);
        }
        if timed {
            let offset = value.call_method0("utcoffset")?;
            if offset.is_none() {
                w.nil();
            } else {
                let part = |name: &str| offset.getattr(name)?.extract::<i64>();
                w.int((part("days")? * 86_400 + part("seconds")?) * 1_000_000 + part("microseconds")?);
            }
            w.int(value.getattr("fold")?.extract()?);
        }
        Ok(())
    })
}

/// What is not of a type that most values are of.
fn put_rare(w: &mut Writer<'_>, value: &Bound<'_, PyAny>, depth: usize, large: Large) -> Put {
    let py = value.py();
    let class = value.get_type();
    if let Ok(bytes) = value.cast_exact::<PyByteArray>() {
        return put_bytes(w, &bytes.to_vec(), depth, large);
    }
    if let Ok(number) = value.cast_exact::<PyComplex>() {
        deep(depth)?;
        let part = |name: &str| number.getattr(name)?.extract::<f64>();
        let data = [part("real")?.to_be_bytes(), part("imag")?.to_be_bytes()].concat();
        return Ok(w.ext(extension::COMPLEX, &data)?);
    }
    if class.is(names::member(py)?) {
        deep(depth)?;
        let name = value.getattr("name")?;
        return w.nested(extension::MEMBER, |w| put(w, &name, 0, Large::Inline));
    }
    if class.is(names::descriptor(py)?) {
        return put_descriptor(w, value, depth, large);
    }
    if let Some(late) = Late::of(&class)? {
        return put_late(w, value, late, depth);
    }
    put_subclass(w, value, &class, depth, large)
}

/// Of a class that is only loaded if the program uses it.
fn put_late(w: &mut Writer<'_>, value: &Bound<'_, PyAny>, late: Late, depth: usize) -> Put {
    const DAY: [&str; 3] = ["year", "month", "day"];
    const TIME: [&str; 4] = ["hour", "minute", "second", "microsecond"];
    match late {
        Late::DateTime => numbers(w, extension::DATETIME, depth, value, &[&DAY[..], &TIME].concat(), true),
        Late::Date => numbers(w, extension::DATE, depth, value, &DAY, false),
        Late::Time => numbers(w, extension::TIME, depth, value, &TIME, true),
        Late::TimeDelta => {
            let parts = ["days", "seconds", "microseconds"];
            numbers(w, extension::TIMEDELTA, depth, value, &parts, false)
        }
        Late::Decimal => {
            deep(depth)?;
            Ok(w.ext(extension::DECIMAL, value.str()?.to_str()?.as_bytes())?)
        }
        Late::Uuid => {
            deep(depth)?;
            let bytes = value.getattr("bytes")?.cast_into::<PyBytes>().map_err(PyErr::from)?;
            Ok(w.ext(extension::UUID, bytes.as_bytes())?)
        }
    }
}

/// A subclass of a plain type crosses as what it is at heart, such as a template engine's "safe" string. All else is refused.
fn put_subclass(
    w: &mut Writer<'_>,
    value: &Bound<'_, PyAny>,
    class: &Bound<'_, PyType>,
    depth: usize,
    large: Large,
) -> Put {
    let py = value.py();
    if class.hasattr("__members__")? {
        if let Ok(number) = value.cast::<PyInt>() {
            let plain = py.get_type::<PyInt>().call1((number,))?;
            return put(w, &plain, depth, large);
        }
        let text = format!(
            "{} needs a hint: a member of an enumeration crosses by the function's hints",
            value.repr()?
        );
        return Err(PyTypeError::new_err(text).into());
    }
    if class.hasattr("__dataclass_fields__")? {
        let name = names::name_of(class);
        let text = format!("{name} needs a hint: a dataclass crosses by the function's hints");
        return Err(PyTypeError::new_err(text).into());
    }
    for base in [
        py.get_type::<PyString>(),
        py.get_type::<PyInt>(),
        py.get_type::<PyFloat>(),
        py.get_type::<PyBytes>(),
    ] {
        if value.is_instance(&base)? {
            let plain = base.call1((value,))?;
            if !plain.get_type().is(&base) {
                break;
            }
            return put(w, &plain, depth, large);
        }
    }
    Err(names::cannot_cross(class).into())
}

fn put_descriptor(w: &mut Writer<'_>, value: &Bound<'_, PyAny>, depth: usize, large: Large) -> Put {
    match large {
        Large::Inline => return Err(PyTypeError::new_err("a descriptor cannot cross here").into()),
        Large::Refused => return Err(Unable::Large),
        Large::Descriptors => {}
    }
    deep(depth + 1)?;
    let number: i32 = value.call_method0("fileno")?.extract()?;
    if number < 0 {
        return Err(PyTypeError::new_err("a descriptor that is closed cannot cross").into());
    }
    let copy = fd::duplicate(value.py(), number).map_err(PyErr::from)?;
    let at = w.descriptor(Arc::new(copy))?;
    w.nested(extension::DESCRIPTOR, |w| {
        w.array(1);
        w.uint(at);
        Ok(())
    })
}
