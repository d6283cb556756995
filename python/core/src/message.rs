//! Whole messages: from a list of Python's to bytes and descriptors, and back.

use crate::area::{Area, PeerArea};
use crate::decode::Objects;
use crate::encode::{self, Large, Unable};
use crate::failed::Failed;
use crate::fd;
use crate::names;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PyString};
use pysecure_wire::message::{self, Refused};
use pysecure_wire::{EncodedMessage, Malformed, MessageKind, OutgoingArea, Reader, ReceivedFds, Writer};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// One message as it is sent: its bytes, and the descriptors that go along.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Message {
    #[pyo3(get)]
    data: Py<PyBytes>,
    descriptors: Vec<Arc<OwnedFd>>,
    /// Does any of it lie in the area?
    #[pyo3(get)]
    in_area: bool,
    /// How many bytes of it lie in memfds.
    #[pyo3(get)]
    large: usize,
}

#[pymethods]
impl Message {
    #[getter]
    fn fds(&self) -> Vec<i32> {
        self.descriptors.iter().map(|fd| fd.as_raw_fd()).collect()
    }

    /// Its descriptors are its own, however long it waits.
    fn keep(&self) {}

    fn close(&self) {}
}

pub fn pack_value(value: &Bound<'_, PyAny>) -> Result<Vec<u8>, Unable> {
    let mut w = Writer::bare();
    encode::put(&mut w, value, 0, Large::Inline)?;
    Ok(w.finish().bytes)
}

/// One value as MessagePack; bytes stand in it however many they are.
#[pyfunction]
pub fn pack<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let packed = pack_value(value).map_err(|e| e.raise(py))?;
    Ok(PyBytes::new(py, &packed))
}

/// The one value that these bytes are.
#[pyfunction]
pub fn unpack<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let (mut none, mut area) = (ReceivedFds::default(), Default::default());
    Reader::new(data, &mut none, &mut area)
        .whole(&mut Objects(py))
        .map_err(|e| e.raise(py))
}

/// Encodes a message, whose large bytes go to the area if there is one that is free. True if it uses the area.
pub fn encode(
    py: Python<'_>,
    area: Option<&Bound<'_, Area>>,
    buffer: Vec<u8>,
    fill: impl Fn(&mut Writer<'_>) -> Result<(), Unable>,
) -> PyResult<(EncodedMessage, bool)> {
    let Some(area) = area else {
        let encoded = message::encode(buffer, &mut OutgoingArea::default(), false, fill);
        return encoded.map_err(|error| error.raise(py));
    };
    let area = &mut *area.try_borrow_mut()?;
    let (message, in_area) =
        message::encode(buffer, &mut area.outgoing, area.free, fill).map_err(|error| error.raise(py))?;
    area.free &= !in_area;
    Ok((message, in_area))
}

fn message(py: Python<'_>, (encoded, in_area): (EncodedMessage, bool)) -> Message {
    Message {
        data: PyBytes::new(py, &encoded.bytes).unbind(),
        descriptors: encoded.fds,
        in_area,
        large: encoded.large,
    }
}

/// A message with these elements.
#[pyfunction]
#[pyo3(signature = (elements, area=None))]
pub fn seal(py: Python<'_>, elements: &Bound<'_, PyAny>, area: Option<&Bound<'_, Area>>) -> PyResult<Message> {
    let encoded = encode(py, area, Vec::new(), |w| {
        encode::put(w, elements, 0, Large::Descriptors)
    })?;
    Ok(message(py, encoded))
}

/// The elements of a message that came; with LARGE, of that which lies in its memfd. All its descriptors are accounted for.
pub fn open<'py>(
    py: Python<'py>,
    data: &[u8],
    fds: Vec<OwnedFd>,
    peer_area: &mut PeerArea,
    may: Option<&Bound<'py, PyDict>>,
) -> Result<Bound<'py, PyList>, Failed> {
    let mut opened = match may {
        None => message::open(data, fds, &mut peer_area.area)?,
        Some(functions) => {
            let may = |name: &str| functions.contains(name).unwrap_or(false);
            let opened = match message::open_call(data, fds, &mut peer_area.area, may)? {
                Ok(opened) => opened,
                Err(refused) => return elements_of(py, &refused),
            };
            if let Some(refused) = message::refused(&opened.bytes, may)? {
                return elements_of(py, &refused);
            }
            opened
        }
    };
    let mut reader = Reader::new(&opened.bytes, &mut opened.fds, &mut peer_area.area);
    let value = reader.whole(&mut Objects(py))?;
    let values = reader.values();
    let list = value.cast_into_exact::<PyList>().map_err(|_| Malformed::Array.into());
    let list = list.map_err(Failed::Wire)?;
    match list.get_item(0) {
        Ok(first) if first.is_exact_instance_of::<PyInt>() => {}
        _ => return Err(Failed::Wire(Malformed::Array.into())),
    }
    opened.fds.finish(&mut peer_area.area)?;
    peer_area.cost = data.len() + opened.fds.large_bytes() + VALUE * values;
    Ok(list)
}

/// What a value that came takes of memory, about.
const VALUE: usize = 32;

/// Of a call that its caller may not make: its kind, number and name.
fn elements_of<'py>(py: Python<'py>, refused: &Refused) -> Result<Bound<'py, PyList>, Failed> {
    let (kind, id) = (PyInt::new(py, MessageKind::Call.number()), PyInt::new(py, refused.id));
    let name = PyString::new(py, &refused.function);
    Ok(PyList::new(py, [kind.into_any(), id.into_any(), name.into_any()])?)
}

/// As `open_message`, in a service: a CALL of what is not in `functions` comes as its kind, number and name, and nothing is made
/// of the rest.
#[pyfunction]
pub fn open_call<'py>(
    py: Python<'py>,
    data: &[u8],
    fds: Vec<i32>,
    peer_area: &Bound<'py, PeerArea>,
    functions: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyList>> {
    let fds = owned(py, fds)?;
    open(py, data, fds, &mut *peer_area.try_borrow_mut()?, Some(functions)).map_err(|e| e.raise(py))
}

/// The elements of a message that came with these descriptors, which are closed if nothing in it takes them.
#[pyfunction]
pub fn open_message<'py>(
    py: Python<'py>,
    data: &[u8],
    fds: Vec<i32>,
    peer_area: &Bound<'py, PeerArea>,
) -> PyResult<Bound<'py, PyList>> {
    let fds = owned(py, fds)?;
    open(py, data, fds, &mut *peer_area.try_borrow_mut()?, None).map_err(|e| e.raise(py))
}

fn owned(py: Python<'_>, fds: Vec<i32>) -> PyResult<Vec<OwnedFd>> {
    fd::owned(fds).ok_or_else(|| names::protocol_error(py, "a descriptor with a negative number"))
}
