//! Whole messages: from a list of Python's to bytes and descriptors, and back.

use crate::area::{Area, Kept};
use crate::decode::{Failed, Objects};
use crate::encode::{self, Large, Placing, Unable};
use crate::names;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt, PyList, PySequence, PyString};
use pysecure_rpc::Writer;
use pysecure_rpc::value::{self, Given, Reader, WireError, largest};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

/// The longest message on the socket.
pub const LONGEST: usize = 65_536;

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

pub fn pack_value(value: &Bound<'_, PyAny>) -> Result<Writer<'static>, Unable> {
    let mut w = Writer::bare();
    encode::put(&mut w, value, 0, &mut Large::Inline)?;
    Ok(w)
}

/// One value as MessagePack; bytes stand in it however many they are.
#[pyfunction]
pub fn pack<'py>(py: Python<'py>, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    let w = pack_value(value).map_err(|e| e.raise(py))?;
    Ok(PyBytes::new(py, &w.finish().bytes))
}

/// The one value that these bytes are.
#[pyfunction]
pub fn unpack<'py>(py: Python<'py>, data: &[u8]) -> PyResult<Bound<'py, PyAny>> {
    let mut given = Given::default();
    let mut area = None;
    Reader::new(data, &mut given, &mut area)
        .whole(&mut Objects(py))
        .map_err(|e| e.raise(py))
}

/// Fills a message, whose large bytes go to the area if there is one that is free.
pub fn fill(
    py: Python<'_>,
    area: Option<&Bound<'_, Area>>,
    buffer: Vec<u8>,
    fill: impl Fn(&mut Writer, &mut Large<'_>) -> Result<(), Unable>,
) -> PyResult<(Writer<'static>, bool)> {
    let mut area = area.map(|a| a.try_borrow_mut()).transpose()?;
    let mut w = Writer::over(buffer);
    let mut large = Large::Memfds(Placing::new(area.as_deref_mut()));
    let filled = fill(&mut w, &mut large);
    let used = matches!(large, Large::Memfds(Placing { used: true, .. }));
    let error = match filled.and_then(|()| finished(w)) {
        Ok(w) => return Ok((w, used)),
        Err(error) => error,
    };
    if used && let Some(area) = &mut area {
        // Part of it lies there, which the peer may not even know: begin another.
        area.close();
    }
    if !matches!(&error, Unable::Wire(error) if error.crowded()) {
        return Err(error.raise(py));
    }
    // Large bytes took the descriptors: they go within the message, all of it by memfd.
    let mut w = Writer::bare();
    let filled = fill(&mut w, &mut Large::Memfds(Placing::within()));
    let w = filled.and_then(|()| finished(w)).map_err(|error| error.raise(py))?;
    Ok((w, false))
}

/// What the receiver would refuse is not sent; what is too long for the socket goes by memfd.
fn finished(w: Writer<'static>) -> Result<Writer<'static>, Unable> {
    w.check()?;
    match w.len() > LONGEST {
        true => encode::long(w),
        false => Ok(w),
    }
}

fn message(py: Python<'_>, (w, in_area): (Writer, bool)) -> Message {
    let pysecure_rpc::Message { bytes, fds, large, .. } = w.finish();
    Message {
        data: PyBytes::new(py, &bytes).unbind(),
        descriptors: fds,
        in_area,
        large,
    }
}

/// A message with these elements.
#[pyfunction]
#[pyo3(signature = (elements, area=None))]
pub fn seal(py: Python<'_>, elements: &Bound<'_, PyAny>, area: Option<&Bound<'_, Area>>) -> PyResult<Message> {
    let filled = fill(py, area, Vec::new(), |w, large| encode::put(w, elements, 0, large))?;
    Ok(message(py, filled))
}

/// What stands behind a CALL's function and arguments.
pub struct Tail<'a> {
    pub left: Option<u64>,
    pub trace: Option<&'a str>,
    pub read: u64,
    pub credit: Option<u64>,
}

impl Tail<'_> {
    pub fn put(&self, w: &mut Writer) {
        let number = |w: &mut Writer, value: Option<u64>| match value {
            Some(value) => w.uint(value),
            None => w.nil(),
        };
        number(w, self.left);
        match self.trace {
            Some(trace) => w.str(trace),
            None => w.nil(),
        }
        w.uint(self.read);
        number(w, self.credit);
    }
}

/// A CALL. `name` is the function's, as MessagePack.
#[pyfunction]
#[allow(clippy::too_many_arguments)]
pub fn seal_call(
    py: Python<'_>,
    identity: u64,
    name: &[u8],
    args: &Bound<'_, PySequence>,
    kwargs: &Bound<'_, PyDict>,
    left: Option<u64>,
    trace: Option<&str>,
    read: u64,
    credit: Option<u64>,
    area: &Bound<'_, Area>,
) -> PyResult<Message> {
    let args = args.to_list()?;
    let tail = Tail {
        left,
        trace,
        read,
        credit,
    };
    let filled = fill(py, Some(area), Vec::new(), |w, large| {
        w.array(9);
        w.uint(2);
        w.uint(identity);
        w.raw(name);
        encode::put(w, &args, 1, large)?;
        encode::put(w, kwargs, 1, large)?;
        tail.put(w);
        Ok(())
    })?;
    Ok(message(py, filled))
}

/// The elements of a message that came; with LARGE, of that which lies in its memfd. All its descriptors are accounted for.
pub fn open<'py>(
    py: Python<'py>,
    data: &[u8],
    fds: Vec<OwnedFd>,
    kept: &mut Kept,
    may: Option<&Bound<'py, PyDict>>,
) -> Result<Bound<'py, PyList>, Failed> {
    const NONE: Failed = Failed::Wire(WireError::Bad("a message is not an array that begins with its kind"));
    let build = &mut Objects(py);
    // Of a call that its caller may not make, before anything is made of its arguments: its number and its name.
    let refused = |bytes: &[u8], whole: usize| -> Result<Option<Refused>, WireError> {
        let Some(may) = may else {
            return Ok(None);
        };
        let Some(asked) = value::asked(bytes, whole)? else {
            return Ok(None);
        };
        match asked.function {
            Some(name) if may.contains(name).unwrap_or(false) => Ok(None),
            name => Ok(Some(Refused {
                id: asked.id,
                function: name.unwrap_or("(a name longer than any)").to_owned(),
            })),
        }
    };
    if let Some(refused) = refused(data, data.len())? {
        return refused.elements(py);
    }
    let mut given = Given::new(fds);
    let mut reader = Reader::new(data, &mut given, &mut kept.area);
    let mut value = reader.whole(build)?;
    let mut values = reader.values();
    let kind = |value: &Bound<'py, PyAny>| {
        let list = value.cast_exact::<PyList>().ok()?;
        let kind = list.get_item(0).ok()?.cast_into_exact::<PyInt>().ok()?;
        kind.extract::<i64>().ok()
    };
    if kind(&value) == Some(0) {
        let bad = Failed::Wire(WireError::Bad("LARGE without its length"));
        let length = value.get_item(1).ok().and_then(|l| l.cast_into_exact::<PyInt>().ok());
        let length = length.and_then(|l| l.extract::<usize>().ok());
        let length = length.filter(|l| (1..=largest()).contains(l)).ok_or(bad)?;
        let look = |beginning: &[u8]| match may {
            None => Ok(None),
            // What else a caller sends is short.
            Some(_) if value::asked(beginning, length)?.is_none() => Err(WireError::Bad("LARGE that is no CALL")),
            Some(_) => refused(beginning, length),
        };
        let long = match given.long(length, look)? {
            Ok(long) => long,
            Err(refused) => return refused.elements(py),
        };
        let mut reader = Reader::new(&long, &mut given, &mut kept.area);
        value = reader.whole(build)?;
        values = reader.values();
        if kind(&value) == Some(0) {
            return Err(WireError::Bad("LARGE within LARGE").into());
        }
    }
    given.all_named()?;
    let list = value.cast_into_exact::<PyList>().map_err(|_| NONE)?;
    match list.get_item(0) {
        Ok(first) if first.is_exact_instance_of::<PyInt>() => {}
        _ => return Err(NONE),
    }
    kept.read += u64::from(given.from_area);
    kept.cost = data.len() + given.large() + VALUE * values;
    Ok(list)
}

/// What a value that came takes of memory, about.
const VALUE: usize = 32;

struct Refused {
    id: i64,
    function: String,
}

impl Refused {
    fn elements<'py>(self, py: Python<'py>) -> Result<Bound<'py, PyList>, Failed> {
        let (kind, id) = (PyInt::new(py, 2), PyInt::new(py, self.id));
        let name = PyString::new(py, &self.function);
        Ok(PyList::new(py, [kind.into_any(), id.into_any(), name.into_any()])?)
    }
}

/// As `open_message`, in a service: a CALL of what is not in `functions` comes as its kind, number and name, and nothing is made
/// of the rest.
#[pyfunction]
pub fn open_call<'py>(
    py: Python<'py>,
    data: &[u8],
    fds: Vec<i32>,
    kept: &Bound<'py, Kept>,
    functions: &Bound<'py, PyDict>,
) -> PyResult<Bound<'py, PyList>> {
    let fds = owned(py, fds)?;
    open(py, data, fds, &mut *kept.try_borrow_mut()?, Some(functions)).map_err(|e| e.raise(py))
}

/// The elements of a message that came with these descriptors, which are closed if nothing in it takes them.
#[pyfunction]
pub fn open_message<'py>(
    py: Python<'py>,
    data: &[u8],
    fds: Vec<i32>,
    kept: &Bound<'py, Kept>,
) -> PyResult<Bound<'py, PyList>> {
    let fds = owned(py, fds)?;
    open(py, data, fds, &mut *kept.try_borrow_mut()?, None).map_err(|e| e.raise(py))
}

#[allow(unsafe_code)]
fn owned(py: Python<'_>, fds: Vec<i32>) -> PyResult<Vec<OwnedFd>> {
    if fds.iter().any(|fd| *fd < 0) {
        return Err(names::protocol_error(py, "a descriptor that is none"));
    }
    // SAFETY: they came with the message, and the caller of this hands them over.
    Ok(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect())
}
