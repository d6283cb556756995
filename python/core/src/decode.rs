//! What a message holds, as objects of Python's.

use crate::crowd;
use crate::failed::{Failed, MALFORMED, refused};
use crate::ffi;
use crate::names::{self, Late};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyComplex, PyDict, PyFloat, PyFrozenSet, PyInt, PyList, PySet, PyString, PyTuple};
use pysecure_wire::kind::extension;
use pysecure_wire::{Build, Malformed, Memfd, WireError};
use std::os::fd::{IntoRawFd, OwnedFd};

pub struct Objects<'py>(pub Python<'py>);

fn list<'py>(inner: &Bound<'py, PyAny>, len: Option<usize>) -> Result<Bound<'py, PyList>, Failed> {
    let items = inner.cast_exact::<PyList>().map_err(|_| MALFORMED)?;
    if len.is_some_and(|len| items.len() != len) {
        return Err(MALFORMED);
    }
    Ok(items.clone())
}

fn whole_numbers<'a, 'py>(parts: impl IntoIterator<Item = &'a Bound<'py, PyAny>>) -> Result<(), Failed>
where
    'py: 'a,
{
    match parts.into_iter().all(|p| p.is_exact_instance_of::<PyInt>()) {
        true => Ok(()),
        false => Err(MALFORMED),
    }
}

impl<'py> Objects<'py> {
    fn zone(&self, offset: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, Failed> {
        if offset.is_none() {
            return Ok(offset.clone());
        }
        whole_numbers([offset])?;
        let zone = self.0.import("datetime")?.getattr("timezone")?;
        let micros: i64 = offset.extract().map_err(|e| refused(self.0, e))?;
        if micros == 0 {
            return Ok(zone.getattr("utc")?);
        }
        let span = Late::TimeDelta.class(self.0)?.call1((0, 0, micros));
        let span = span.map_err(|e| refused(self.0, e))?;
        zone.call1((span,)).map_err(|e| refused(self.0, e))
    }

    /// A date and time, or a time: `many` numbers, the offset, and which of two equal times it is.
    fn time(&self, late: Late, inner: &Bound<'py, PyAny>, many: usize) -> Result<Bound<'py, PyAny>, Failed> {
        let parts: Vec<_> = list(inner, Some(many + 2))?.iter().collect();
        whole_numbers(&parts[..many])?;
        whole_numbers([&parts[many + 1]])?;
        let zone = self.zone(&parts[many])?;
        let more = PyDict::new(self.0);
        more.set_item("tzinfo", zone)?;
        more.set_item("fold", &parts[many + 1])?;
        let numbers = PyTuple::new(self.0, &parts[..many])?;
        let made = late.class(self.0)?.call(numbers, Some(&more));
        made.map_err(|e| refused(self.0, e))
    }

    fn numbers(&self, late: Late, inner: &Bound<'py, PyAny>) -> Result<Bound<'py, PyAny>, Failed> {
        let parts = list(inner, Some(3))?;
        let parts: Vec<_> = parts.iter().collect();
        whole_numbers(&parts)?;
        let made = late.class(self.0)?.call1(PyTuple::new(self.0, &parts)?);
        made.map_err(|e| refused(self.0, e))
    }
}

impl<'py> Build for Objects<'py> {
    type Node = Bound<'py, PyAny>;
    type Error = Failed;

    fn nil(&mut self) -> Self::Node {
        self.0.None().into_bound(self.0)
    }

    fn bool(&mut self, value: bool) -> Self::Node {
        PyBool::new(self.0, value).to_owned().into_any()
    }

    fn int(&mut self, value: i64) -> Result<Self::Node, Failed> {
        Ok(PyInt::new(self.0, value).into_any())
    }

    fn uint(&mut self, value: u64) -> Result<Self::Node, Failed> {
        Ok(PyInt::new(self.0, value).into_any())
    }

    fn float(&mut self, value: f64) -> Result<Self::Node, Failed> {
        Ok(PyFloat::new(self.0, value).into_any())
    }

    fn str(&mut self, text: &str) -> Result<Self::Node, Failed> {
        Ok(PyString::new(self.0, text).into_any())
    }

    fn bytes(&mut self, bytes: &[u8]) -> Result<Self::Node, Failed> {
        Ok(PyBytes::new(self.0, bytes).into_any())
    }

    fn array(&mut self, items: Vec<Self::Node>) -> Result<Self::Node, Failed> {
        Ok(PyList::new(self.0, items)?.into_any())
    }

    fn map(&mut self, entries: Vec<(Self::Node, Self::Node)>) -> Result<Self::Node, Failed> {
        let dict = PyDict::new(self.0);
        let many = entries.len();
        crowd::look(self.0, entries.iter().map(|(key, _)| key), crowd::DICT)?;
        for (key, value) in entries {
            dict.set_item(key, value).map_err(|e| refused(self.0, e))?;
        }
        if dict.len() != many {
            return Err(WireError::from(Malformed::Duplicate).into());
        }
        Ok(dict.into_any())
    }

    fn raw(&mut self, kind: i8, data: &[u8]) -> Result<Self::Node, Failed> {
        let py = self.0;
        let made = match kind {
            extension::INTEGER => {
                if data.is_empty() {
                    return Err(MALFORMED);
                }
                let signed = PyDict::new(py);
                signed.set_item("signed", true)?;
                py.get_type::<PyInt>()
                    .call_method("from_bytes", (PyBytes::new(py, data), "big"), Some(&signed))
            }
            extension::DECIMAL => {
                let known = |b: &u8| b"0123456789+-.EeNnaIiftySs".contains(b);
                let text = std::str::from_utf8(data).map_err(|_| MALFORMED)?;
                if !data.iter().all(known) {
                    return Err(MALFORMED);
                }
                Late::Decimal.class(py)?.call1((text,))
            }
            extension::UUID => {
                let bytes = PyDict::new(py);
                bytes.set_item("bytes", PyBytes::new(py, data))?;
                Late::Uuid.class(py)?.call((), Some(&bytes))
            }
            extension::COMPLEX => {
                let (real, imaginary) = data.split_at_checked(8).ok_or(MALFORMED)?;
                let part = |bytes: &[u8]| Ok::<_, Failed>(f64::from_be_bytes(bytes.try_into().map_err(|_| MALFORMED)?));
                Ok(PyComplex::from_doubles(py, part(real)?, part(imaginary)?).into_any())
            }
            _ => PyBytes::new(py, data).call_method1("decode", ("utf-8", "surrogatepass")),
        };
        made.map_err(|e| refused(py, e))
    }

    fn holding(&mut self, kind: i8, inner: Self::Node, _: &[u8]) -> Result<Self::Node, Failed> {
        let py = self.0;
        let twice = Failed::Wire(Malformed::Duplicate.into());
        match kind {
            extension::TUPLE => Ok(list(&inner, None)?.to_tuple().into_any()),
            extension::SET => {
                let items = list(&inner, None)?;
                crowd::look_at_items(self.0, &items)?;
                let set = PySet::new(py, items.iter()).map_err(|e| refused(py, e))?;
                if set.len() == items.len() {
                    Ok(set.into_any())
                } else {
                    Err(twice)
                }
            }
            extension::FROZENSET => {
                let items = list(&inner, None)?;
                crowd::look_at_items(self.0, &items)?;
                let set = PyFrozenSet::new(py, items.iter()).map_err(|e| refused(py, e))?;
                if set.len() == items.len() {
                    Ok(set.into_any())
                } else {
                    Err(twice)
                }
            }
            extension::DATETIME => self.time(Late::DateTime, &inner, 7),
            extension::DATE => self.numbers(Late::Date, &inner),
            extension::TIME => self.time(Late::Time, &inner, 4),
            extension::TIMEDELTA => self.numbers(Late::TimeDelta, &inner),
            _ => {
                if inner.is_exact_instance_of::<PyString>() || inner.is_exact_instance_of::<PyInt>() {
                    Ok(names::member(py)?.call1((inner,))?)
                } else {
                    Err(MALFORMED)
                }
            }
        }
    }

    fn large(&mut self, memfd: &Memfd, offset: u64, len: usize) -> Result<Self::Node, Failed> {
        // Before memory is taken for them.
        memfd.holds(offset, len)?;
        ffi::bytes_filled(self.0, len, |out| Ok(memfd.read_into(offset, out)?))
    }

    fn descriptor(&mut self, fd: OwnedFd) -> Result<Self::Node, Failed> {
        // From here on it is closed with the object, or where making that failed.
        let class = names::descriptor(self.0)?;
        let raw = fd.into_raw_fd();
        Ok(class.call1((raw, true))?)
    }
}
