//! A call that a service runs, and this process's clock.

use pyo3::prelude::*;

/// This process's monotonic clock, in seconds, as Python has it.
pub fn monotonic() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}

/// A call that is open, and what the running function can ask of it.
#[pyclass(module = "pysecure_rpc._core", get_all, set_all)]
pub struct Call {
    pub connection: Py<PyAny>,
    pub id: u64,
    pub function: Py<PyAny>,
    pub caller: Option<Py<PyAny>>,
    /// On this process's monotonic clock.
    pub deadline: Option<f64>,
    pub traceparent: Option<Py<PyAny>>,
    pub credit: i64,
    pub args: Option<Py<PyAny>>,
    pub kwargs: Option<Py<PyAny>>,
    pub stream: Option<Py<PyAny>>,
    pub pumping: bool,
    pub begun: f64,
    pub task: Option<Py<PyAny>>,
    pub wake: Option<Py<PyAny>>,
    pub answered: bool,
    pub cancelled: bool,
    /// What its arguments take of memory, about, if that counts.
    pub cost: usize,
}

impl Call {
    pub fn open(connection: Py<PyAny>, id: u64, function: Py<PyAny>, caller: Option<Py<PyAny>>) -> Call {
        Call {
            connection,
            id,
            function,
            caller,
            deadline: None,
            traceparent: None,
            credit: 1,
            args: None,
            kwargs: None,
            stream: None,
            pumping: false,
            begun: 0.0,
            task: None,
            wake: None,
            answered: false,
            cancelled: false,
            cost: 0,
        }
    }
}

#[pymethods]
impl Call {
    #[new]
    fn new(
        py: Python<'_>,
        connection: Py<PyAny>,
        identity: u64,
        function: Py<PyAny>,
        deadline: Option<f64>,
        trace: Option<Py<PyAny>>,
        credit: i64,
    ) -> PyResult<Call> {
        let caller = connection.getattr(py, "caller")?;
        let caller = (!caller.is_none(py)).then_some(caller);
        Ok(Call {
            deadline,
            traceparent: trace,
            credit,
            ..Call::open(connection, identity, function, caller)
        })
    }
}
