//! The caller's side: a call whose arguments and answer are like most, from its check to its result, in one go. Everything
//! else is handed back to `_client.py`, which knows all cases.

use crate::area::{Area, Kept};
use crate::check::{self, Check};
use crate::decode::Objects;
use crate::encode::{self, Unable};
use crate::message::{self, Tail};
use crate::names;
use crate::server::Call;
use crate::socket::{self, Got};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use pysecure_rpc::spin::Spin;
use pysecure_rpc::value::{Given, Plain, Reader, Value};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// This process's monotonic clock, as Python has it.
pub fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// What of a connection the quick way needs; `_client.Connection` is one.
#[pyclass(module = "pysecure_rpc._core", subclass)]
pub struct Link {
    /// -1: only Python may use it.
    #[pyo3(get, set)]
    fd: i32,
    #[pyo3(get, set)]
    next_id: u64,
    /// What SO_RCVTIMEO is set to; 0 is no end.
    #[pyo3(get, set)]
    limit: f64,
    #[pyo3(get, set)]
    functions: Py<PyDict>,
    #[pyo3(get)]
    out_area: Py<Area>,
    #[pyo3(get)]
    kept: Py<Kept>,
    spin: Spin,
}

#[pymethods]
impl Link {
    #[new]
    #[pyo3(signature = (*_rest))]
    fn new(py: Python<'_>, _rest: &Bound<'_, PyTuple>) -> PyResult<Link> {
        Ok(Link {
            fd: -1,
            next_id: 1,
            limit: 0.0,
            functions: PyDict::new(py).unbind(),
            out_area: Py::new(py, Area::new())?,
            kept: Py::new(py, Kept::default())?,
            spin: Spin::default(),
        })
    }
}

/// Objects of `_client.py`'s that a call needs.
struct Ways {
    /// `get` of the context variables.
    local_caller: Py<PyAny>,
    context: Py<PyAny>,
    deadline_here: Py<PyAny>,
    traceparent_here: Py<PyAny>,
    /// `sys.modules`, and what says more of it where one of them traces.
    modules: Py<PyDict>,
    traceparent: Py<PyAny>,
    /// What is returned when nothing was done, or nothing that counts: the usual way has to be gone.
    not_done: Py<PyAny>,
    /// (function, connection, identity, deadline, reply): another answer than a result.
    other: Py<PyAny>,
    /// (function): the connection ended, or the time did.
    lost: Py<PyAny>,
    late: Py<PyAny>,
    /// (function, value): a result that has to be converted, or refused.
    load: Py<PyAny>,
}

/// The quick way of one function.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Quick {
    function: Py<PyAny>,
    service: Py<PyString>,
    name: Py<PyString>,
    packed: Vec<u8>,
    hash: u64,
    checks: Vec<Check>,
    needed: usize,
    result: Check,
    timeout: Option<f64>,
    ways: Ways,
}

/// Most connections that a thread keeps.
const IDLE: usize = 4;

#[pymethods]
impl Quick {
    #[new]
    #[allow(clippy::too_many_arguments)]
    fn new(
        function: Py<PyAny>,
        service: Py<PyString>,
        name: Bound<'_, PyString>,
        hash: u64,
        plans: &Bound<'_, PyTuple>,
        needed: usize,
        result: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        ways: &Bound<'_, PyTuple>,
    ) -> PyResult<Quick> {
        let way = |at: usize| Ok::<_, PyErr>(ways.get_item(at)?.unbind());
        Ok(Quick {
            function,
            service,
            packed: message::pack_value(name.as_any())
                .map_err(|e| e.raise(name.py()))?
                .finish()
                .bytes,
            name: name.unbind(),
            hash,
            checks: check::all(plans)?,
            needed,
            result: Check::new(result)?,
            timeout,
            ways: Ways {
                local_caller: way(0)?,
                context: way(1)?,
                deadline_here: way(2)?,
                traceparent_here: way(3)?,
                modules: ways.get_item(4)?.cast_into::<PyDict>()?.unbind(),
                traceparent: way(5)?,
                not_done: way(6)?,
                other: way(7)?,
                lost: way(8)?,
                late: way(9)?,
                load: way(10)?,
            },
        })
    }

    /// `idle`: this thread's connections that nothing uses, by service.
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        idle: &Bound<'py, PyDict>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let not_done = || Ok(self.ways.not_done.bind(py).clone());
        let many = args.len();
        if many < self.needed || many > self.checks.len() {
            return not_done();
        }
        if !args
            .iter()
            .zip(&self.checks)
            .all(|(value, check)| check.accepts(&value))
        {
            return not_done();
        }
        if !self.ways.local_caller.bind(py).call0()?.is_none() {
            return not_done();
        }
        // How long it may take.
        let now = monotonic();
        let mut deadline = self.timeout.map(|timeout| now + timeout);
        let mut nearer = |at: Option<f64>| {
            if let Some(at) = at {
                deadline = Some(deadline.map_or(at, |d| d.min(at)));
            }
        };
        let mut trace: Option<Py<PyAny>> = None;
        let context = self.ways.context.bind(py).call0()?;
        if let Ok(call) = context.cast_exact::<Call>() {
            let call = call.try_borrow()?;
            nearer(call.deadline);
            trace = call.traceparent.as_ref().map(|t| t.clone_ref(py));
        } else if !context.is_none() {
            nearer(context.getattr("deadline")?.extract()?);
            trace = Some(context.getattr("traceparent")?.unbind());
        }
        let ours = self.ways.deadline_here.bind(py).call0()?;
        if !ours.is_none() {
            nearer(Some(ours.extract()?));
        }
        let ours = self.ways.traceparent_here.bind(py).call0()?;
        if !ours.is_none() {
            trace = Some(ours.unbind());
        } else if self
            .ways
            .modules
            .bind(py)
            .contains(intern!(py, "opentelemetry.trace"))?
        {
            trace = Some(self.ways.traceparent.call0(py)?);
        }
        let trace: Option<String> = match trace {
            Some(trace) => trace.extract(py)?,
            None => None,
        };

        let Some(list) = idle.get_item(&self.service)? else {
            return not_done();
        };
        let list = list.cast_into::<PyList>()?;
        let Some(last) = list.len().checked_sub(1) else {
            return not_done();
        };
        // From here on the connection is this call's alone: what runs of Python's from now on, such as a value's own code, may
        // itself call, or close what is idle. What is not put back ends with it, which is what cancels the call.
        let connection = list.get_item(last)?.cast_into::<Link>()?;
        list.del_item(last)?;
        let (fd, identity, mut limit, area, kept, mut spin) = {
            let mut link = connection.try_borrow_mut()?;
            let known = link.functions.bind(py).get_item(&self.name)?;
            let same = match known {
                None => true,
                Some(hash) => hash.extract::<u64>().is_ok_and(|hash| hash == self.hash),
            };
            if link.fd < 0 || !same {
                drop(link);
                list.append(&connection)?;
                return not_done();
            }
            let identity = link.next_id;
            link.next_id += 1;
            (
                link.fd,
                identity,
                link.limit,
                link.out_area.clone_ref(py),
                link.kept.clone_ref(py),
                link.spin,
            )
        };
        let area = area.into_bound(py);
        let kept = kept.into_bound(py);

        let read = kept.try_borrow()?.read;
        let filled = message::fill(py, Some(&area), socket::outgoing(), |w, large| {
            w.array(9);
            w.uint(2);
            w.uint(identity);
            w.raw(&self.packed);
            w.array(many);
            for value in args.iter() {
                encode::put(w, &value, 2, large)?;
            }
            w.map(0);
            let tail = Tail {
                left: deadline.map(|d| ((d - now) * 1000.0).max(0.0) as u64),
                trace: trace.as_deref(),
                read,
                credit: None,
            };
            tail.put(w);
            Ok::<(), Unable>(())
        });
        let writer = match filled {
            Ok((writer, _)) => writer,
            Err(error) => {
                list.append(&connection)?; // nothing was sent
                return Err(error);
            }
        };
        let mut outgoing = writer.finish();
        let fd = borrowed(fd);
        let mut buffer = socket::incoming();

        let mut at_now = now;
        // Without waiting first: then the lock of the interpreter need not be given up for it.
        let mut sent = socket::send(fd, &outgoing.bytes, &outgoing.fds, SendFlags::DONTWAIT);
        while let Err(Errno::AGAIN | Errno::INTR) = sent {
            py.check_signals()?;
            sent = py.detach(|| socket::send(fd, &outgoing.bytes, &outgoing.fds, SendFlags::empty()));
            at_now = monotonic();
        }
        socket::outgoing_done(std::mem::take(&mut outgoing.bytes));
        if sent.is_err() {
            return not_done(); // it had ended before
        }
        let got = loop {
            match deadline {
                None if limit == 0.0 => {}
                None => {
                    limit = 0.0;
                    set_limit(fd, limit);
                }
                Some(at) => {
                    let wanted = at - at_now;
                    if wanted <= 0.0 {
                        return self.ways.late.bind(py).call1((&self.function,));
                    }
                    if !(0.5 * wanted <= limit && limit <= wanted) {
                        limit = (wanted * 0.9).max(0.001);
                        set_limit(fd, limit);
                    }
                }
            }
            let got = py.detach(|| socket::wait(fd, &mut buffer, &mut spin));
            connection.try_borrow_mut()?.spin = spin;
            match got {
                Err(Errno::INTR) => py.check_signals()?,
                Err(Errno::AGAIN) => {}
                other => break other,
            }
            at_now = monotonic();
        };
        connection.try_borrow_mut()?.limit = limit;
        let (len, fds) = match got {
            Ok(Got::Message(len, fds)) if len > 0 => (len, fds),
            Ok(Got::CutShort) => return Err(names::broken_answer(py, "a message is longer than may be")),
            Ok(Got::Message(..)) | Err(_) => return self.ways.lost.bind(py).call1((&self.function,)),
        };
        let bytes = &buffer[..len];
        if bytes.first() != Some(&0x93) || bytes.get(1) != Some(&3) {
            let reply = message::open(py, bytes, fds, &mut *kept.try_borrow_mut()?, None);
            let reply = reply.map_err(|e| names::may_have_run(py, e.raise(py)))?;
            socket::incoming_done(buffer);
            return self
                .ways
                .other
                .bind(py)
                .call1((&self.function, connection, identity, deadline, reply));
        }
        let mut given = Given::new(fds);
        let value = {
            let mut kept = kept.try_borrow_mut()?;
            let mut reader = Reader::new(bytes, &mut given, &mut kept.area);
            let value = self.result(py, &mut reader, identity);
            let value = value.map_err(|e| names::may_have_run(py, e.raise(py)))?;
            given.all_named().map_err(|e| names::broken_answer(py, e.to_string()))?;
            kept.read += u64::from(given.from_area);
            value
        };
        socket::incoming_done(buffer);
        area.try_borrow_mut()?.free = true;
        if list.len() < IDLE {
            list.append(connection)?;
        }
        if self.result.accepts(&value) {
            return Ok(value);
        }
        self.ways.load.bind(py).call1((&self.function, value))
    }

    #[getter]
    fn packed<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.packed)
    }
}

impl Quick {
    fn result<'py>(
        &self,
        py: Python<'py>,
        reader: &mut Reader<'_>,
        identity: u64,
    ) -> Result<Bound<'py, PyAny>, crate::decode::Failed> {
        let other = pysecure_rpc::value::WireError::Bad("an answer to what was not asked");
        reader.array(0)?;
        let kind = reader.value(&mut Plain, 1)?;
        let of = reader.value(&mut Plain, 1)?;
        if kind != Value::Int(3) || i64::try_from(identity).is_ok_and(|identity| of != Value::Int(identity)) {
            return Err(other.into());
        }
        let value = reader.value(&mut Objects(py), 1)?;
        reader.end()?;
        Ok(value)
    }
}

#[allow(unsafe_code)]
pub fn borrowed<'a>(fd: i32) -> BorrowedFd<'a> {
    // SAFETY: the socket of a connection's object, which is referred to for as long as this is used; never -1.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

fn set_limit(fd: BorrowedFd<'_>, limit: f64) {
    // If that fails it is no socket, and the receive fails, too.
    socket::set_limit(fd, (limit > 0.0).then(|| Duration::from_secs_f64(limit.min(1e9))));
}
