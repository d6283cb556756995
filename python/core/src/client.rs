//! The caller's side: a call whose arguments and answer are like most, from its check to its result, in one go. Everything
//! else is handed back to `_client.py`, which knows all cases.

use crate::area::{Area, PeerArea};
use crate::call::{Call, monotonic};
use crate::check::{self, Check};
use crate::decode::Objects;
use crate::encode::{self, Large};
use crate::failed::Failed;
use crate::fd::Socket;
use crate::message;
use crate::names;
use crate::socket;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString, PyTuple};
use pysecure_wire::message::{CallOptions, MessageHead, read_id, write_call};
use pysecure_wire::socket::{Received, send};
use pysecure_wire::{Malformed, MessageKind, Reader, ReceivedFds, Spin, Writer};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// What of a connection the fast path needs; `_connection.Connection` is one.
#[pyclass(module = "pysecure_rpc._core", subclass)]
pub struct ClientConn {
    /// -1: only Python may use it.
    #[pyo3(get, set)]
    fd: i32,
    #[pyo3(get, set)]
    next_id: u64,
    /// What SO_RCVTIMEO is set to, in seconds; 0 is no end.
    #[pyo3(get, set)]
    limit: f64,
    #[pyo3(get, set)]
    functions: Py<PyDict>,
    #[pyo3(get)]
    out_area: Py<Area>,
    #[pyo3(get)]
    peer_area: Py<PeerArea>,
    spin: Spin,
}

#[pymethods]
impl ClientConn {
    #[new]
    #[pyo3(signature = (*_rest))]
    fn new(py: Python<'_>, _rest: &Bound<'_, PyTuple>) -> PyResult<ClientConn> {
        Ok(ClientConn {
            fd: -1,
            next_id: 1,
            limit: 0.0,
            functions: PyDict::new(py).unbind(),
            out_area: Py::new(py, Area::new())?,
            peer_area: Py::new(py, PeerArea::default())?,
            spin: Spin::default(),
        })
    }
}

/// What of `_client.py` a call needs, by its attributes there.
#[derive(FromPyObject)]
struct Hooks {
    /// `get` of the context variables.
    local_caller: Py<PyAny>,
    context: Py<PyAny>,
    deadline_here: Py<PyAny>,
    traceparent_here: Py<PyAny>,
    /// `sys.modules`, and what says more of a trace where one of them traces.
    modules: Py<PyDict>,
    traceparent: Py<PyAny>,
    /// Returned when nothing was done, or nothing that counts: the call goes the other way.
    not_done: Py<PyAny>,
    /// (function, connection, identity, deadline, reply): another answer than a result.
    other: Py<PyAny>,
    /// (function): the connection ended, or the time did.
    lost: Py<PyAny>,
    late: Py<PyAny>,
    /// (function, value): a result that has to be converted, or refused.
    load: Py<PyAny>,
}

/// The fast path of calling one function.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct FastCall {
    function: Py<PyAny>,
    service: Py<PyString>,
    name: Py<PyString>,
    packed: Vec<u8>,
    hash: u64,
    checks: Vec<Check>,
    needed: usize,
    result: Check,
    timeout: Option<f64>,
    hooks: Hooks,
}

/// The most connections that a thread keeps.
const IDLE: usize = 4;

/// What a call inherits.
struct Inherited {
    now: f64,
    deadline: Option<f64>,
    trace: Option<String>,
}

/// A connection that is this call's alone. If it is not put back it is closed, which cancels the call.
struct Taken<'py> {
    /// Where it is put back.
    list: Bound<'py, PyList>,
    connection: Bound<'py, ClientConn>,
    socket: Socket,
    identity: u64,
    limit: f64,
    spin: Spin,
    area: Bound<'py, Area>,
    peer_area: Bound<'py, PeerArea>,
}

/// What came of waiting for an answer.
enum Waited {
    Answer(Vec<u8>, usize, Vec<OwnedFd>),
    /// What Python makes of it, or returns.
    Ended(Py<PyAny>),
}

#[pymethods]
impl FastCall {
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
        hooks: Hooks,
    ) -> PyResult<FastCall> {
        Ok(FastCall {
            function,
            service,
            packed: message::pack_value(name.as_any()).map_err(|e| e.raise(name.py()))?,
            name: name.unbind(),
            hash,
            checks: check::all(plans)?,
            needed,
            result: Check::new(result)?,
            timeout,
            hooks,
        })
    }

    /// `idle`: this thread's connections that nothing uses, by service.
    fn __call__<'py>(
        &self,
        py: Python<'py>,
        idle: &Bound<'py, PyDict>,
        args: &Bound<'py, PyTuple>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let not_done = || Ok(self.hooks.not_done.bind(py).clone());
        let many = args.len();
        if many < self.needed || many > self.checks.len() {
            return not_done();
        }
        let mut pairs = args.iter().zip(&self.checks);
        if !pairs.all(|(value, check)| check.accepts(&value)) {
            return not_done();
        }
        if !self.hooks.local_caller.bind(py).call0()?.is_none() {
            return not_done();
        }
        let mut inherited = self.inherited(py)?;
        let Some(mut taken) = self.take(py, idle)? else {
            return not_done();
        };
        if !self.send(py, &mut taken, args, &mut inherited)? {
            return not_done();
        }
        let (buffer, len, fds) = match self.wait(py, &mut taken, &inherited)? {
            Waited::Answer(buffer, len, fds) => (buffer, len, fds),
            Waited::Ended(outcome) => return Ok(outcome.into_bound(py)),
        };
        self.answered(py, taken, inherited.deadline, buffer, len, fds)
    }

    #[getter]
    fn packed<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.packed)
    }
}

impl FastCall {
    /// How long the call may take, and its trace context: those of the call that makes it, of this context, and the function's own.
    #[inline]
    fn inherited(&self, py: Python<'_>) -> PyResult<Inherited> {
        let hooks = &self.hooks;
        let now = monotonic();
        let mut deadline = self.timeout.map(|timeout| now + timeout);
        let mut nearer = |at: Option<f64>| {
            if let Some(at) = at {
                deadline = Some(deadline.map_or(at, |d| d.min(at)));
            }
        };
        let mut trace: Option<Py<PyAny>> = None;
        let context = hooks.context.bind(py).call0()?;
        if let Ok(call) = context.cast_exact::<Call>() {
            let call = call.try_borrow()?;
            nearer(call.deadline);
            trace = call.traceparent.as_ref().map(|t| t.clone_ref(py));
        } else if !context.is_none() {
            nearer(context.getattr("deadline")?.extract()?);
            trace = Some(context.getattr("traceparent")?.unbind());
        }
        let ours = hooks.deadline_here.bind(py).call0()?;
        if !ours.is_none() {
            nearer(Some(ours.extract()?));
        }
        let ours = hooks.traceparent_here.bind(py).call0()?;
        if !ours.is_none() {
            trace = Some(ours.unbind());
        } else if hooks.modules.bind(py).contains(intern!(py, "opentelemetry.trace"))? {
            trace = Some(hooks.traceparent.call0(py)?);
        }
        let trace = match trace {
            Some(trace) => trace.extract(py)?,
            None => None,
        };
        Ok(Inherited { now, deadline, trace })
    }

    /// Takes a connection out of the idle ones, if there is one whose service has the same function.
    ///
    /// From then on it is this call's alone: what runs of Python's, such as a value's own code, may itself call, or close what
    /// is idle.
    #[inline]
    #[allow(unsafe_code)]
    fn take<'py>(&self, py: Python<'py>, idle: &Bound<'py, PyDict>) -> PyResult<Option<Taken<'py>>> {
        let Some(list) = idle.get_item(&self.service)? else {
            return Ok(None);
        };
        let list = list.cast_into::<PyList>()?;
        let Some(last) = list.len().checked_sub(1) else {
            return Ok(None);
        };
        let connection = list.get_item(last)?.cast_into::<ClientConn>()?;
        let mut link = connection.try_borrow_mut()?;
        let same = match link.functions.bind(py).get_item(&self.name)? {
            None => true,
            Some(hash) => hash.extract::<u64>().is_ok_and(|hash| hash == self.hash),
        };
        // SAFETY: `Connection` of `_connection.py` owns the socket, and sets the number to -1 before it closes it. From here on it is not among
        // those that are idle, so nobody closes it but whoever has this, which refers to the connection.
        let Some(socket) = unsafe { Socket::new(link.fd) }.filter(|_| same) else {
            return Ok(None);
        };
        list.del_item(last)?;
        let identity = link.next_id;
        link.next_id += 1;
        let (limit, spin) = (link.limit, link.spin);
        let (area, peer_area) = (link.out_area.bind(py).clone(), link.peer_area.bind(py).clone());
        drop(link);
        Ok(Some(Taken {
            list,
            connection,
            socket,
            identity,
            limit,
            spin,
            area,
            peer_area,
        }))
    }

    /// Sends the CALL. False if the connection had ended before.
    #[inline]
    fn send<'py>(
        &self,
        py: Python<'py>,
        taken: &mut Taken<'py>,
        args: &Bound<'py, PyTuple>,
        inherited: &mut Inherited,
    ) -> PyResult<bool> {
        let Inherited { now, deadline, trace } = &*inherited;
        let options = CallOptions {
            deadline: deadline.map(|d| ((d - now) * 1000.0).max(0.0) as u64),
            traceparent: trace.as_deref(),
            read: Some(taken.peer_area.try_borrow()?.area.read),
            credit: None,
        };
        let arguments = |w: &mut Writer<'_>| {
            w.array(args.len());
            for value in args.iter() {
                encode::put(w, &value, 2, Large::Descriptors)?;
            }
            w.map(0);
            Ok(())
        };
        let encoded = message::encode(py, Some(&taken.area), socket::outgoing(), |w| {
            write_call(w, taken.identity, |w| w.raw(&self.packed), arguments, &options)
        });
        let mut encoded = match encoded {
            Ok((encoded, _)) => encoded,
            Err(error) => {
                taken.list.append(&taken.connection)?; // nothing was sent
                return Err(error);
            }
        };
        // Without waiting first: then the lock of the interpreter need not be given up for it.
        let socket = taken.socket;
        let mut sent = send(socket.as_fd(), &encoded.bytes, &encoded.fds, SendFlags::DONTWAIT);
        while let Err(Errno::AGAIN | Errno::INTR) = sent {
            py.check_signals()?;
            sent = py.detach(|| send(socket.as_fd(), &encoded.bytes, &encoded.fds, SendFlags::empty()));
            inherited.now = monotonic();
        }
        socket::outgoing_done(std::mem::take(&mut encoded.bytes));
        Ok(sent.is_ok())
    }

    /// Waits for the answer, for as long as the deadline lets it.
    #[inline]
    fn wait<'py>(&self, py: Python<'py>, taken: &mut Taken<'py>, inherited: &Inherited) -> PyResult<Waited> {
        let mut buffer = socket::incoming();
        let mut now = inherited.now;
        let got = loop {
            match inherited.deadline {
                None if taken.limit == 0.0 => {}
                None => taken.set_limit(0.0),
                Some(at) => {
                    let wanted = at - now;
                    if wanted <= 0.0 {
                        let late = self.hooks.late.bind(py).call1((&self.function,))?;
                        return Ok(Waited::Ended(late.unbind()));
                    }
                    if !(0.5 * wanted <= taken.limit && taken.limit <= wanted) {
                        taken.set_limit((wanted * 0.9).max(0.001));
                    }
                }
            }
            let (socket, spin) = (taken.socket, &mut taken.spin);
            let got = py.detach(|| socket::wait(socket.as_fd(), &mut buffer, spin));
            match got {
                Err(Errno::INTR) => py.check_signals()?,
                Err(Errno::AGAIN) => {}
                other => break other,
            }
            now = monotonic();
        };
        {
            let mut link = taken.connection.try_borrow_mut()?;
            link.spin = taken.spin;
            link.limit = taken.limit;
        }
        match got {
            Ok(Received::Message(len, fds)) if len > 0 => Ok(Waited::Answer(buffer, len, fds)),
            Ok(Received::CutShort) => Err(names::broken_answer(py, Malformed::CutShort.to_string())),
            Ok(Received::Message(..)) | Err(_) => {
                let lost = self.hooks.lost.bind(py).call1((&self.function,))?;
                Ok(Waited::Ended(lost.unbind()))
            }
        }
    }

    /// Makes something of the answer, and puts the connection back.
    #[inline]
    fn answered<'py>(
        &self,
        py: Python<'py>,
        taken: Taken<'py>,
        deadline: Option<f64>,
        buffer: Vec<u8>,
        len: usize,
        fds: Vec<OwnedFd>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let bytes = &buffer[..len];
        // An array of three, and OK: all else is Python's to answer.
        if !matches!(bytes, [0x93, kind, ..] if *kind == MessageKind::Ok.number()) {
            let reply = message::open(py, bytes, fds, &mut *taken.peer_area.try_borrow_mut()?, None);
            let reply = reply.map_err(|e| names::may_have_run(py, e.raise(py)))?;
            socket::incoming_done(buffer);
            let other = self.hooks.other.bind(py);
            return other.call1((&self.function, taken.connection, taken.identity, deadline, reply));
        }
        let mut fds = ReceivedFds::new(fds);
        let value = {
            let area = &mut taken.peer_area.try_borrow_mut()?.area;
            let value = result(py, &mut Reader::new(bytes, &mut fds, area), taken.identity);
            let value = value.map_err(|e| names::may_have_run(py, e.raise(py)))?;
            fds.finish(area).map_err(|e| names::broken_answer(py, e.to_string()))?;
            value
        };
        socket::incoming_done(buffer);
        taken.area.try_borrow_mut()?.free = true;
        if taken.list.len() < IDLE {
            taken.list.append(taken.connection)?;
        }
        if self.result.accepts(&value) {
            return Ok(value);
        }
        self.hooks.load.bind(py).call1((&self.function, value))
    }
}

impl Taken<'_> {
    /// How long a receive waits, in seconds; 0 is no end.
    fn set_limit(&mut self, limit: f64) {
        self.limit = limit;
        // If that fails it is no socket, and the receive fails, too.
        socket::set_limit(
            self.socket.as_fd(),
            (limit > 0.0).then(|| Duration::from_secs_f64(limit.min(1e9))),
        );
    }
}

/// The value of an OK to this call.
fn result<'py>(py: Python<'py>, reader: &mut Reader<'_, '_>, identity: u64) -> Result<Bound<'py, PyAny>, Failed> {
    let head = MessageHead::read(reader)?;
    if head.kind != MessageKind::Ok || read_id(reader, false)? != identity {
        return Err(Failed::Wire(Malformed::Unasked.into()));
    }
    let value = reader.value(&mut Objects(py), 1)?;
    reader.end()?;
    Ok(value)
}
