//! What a service knows of its functions, callers and calls; `_server.py` uses it, and so does the quick way in `lead.rs`.

use crate::area::{Area, Kept};
use crate::check::{self, Check};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyTuple};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};

/// A call that is open, and what the running function can ask of it.
#[pyclass(module = "pysecure_rpc._core", get_all, set_all)]
pub struct Call {
    pub connection: Py<PyAny>,
    pub id: i64,
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
    pub fn open(connection: Py<PyAny>, id: i64, function: Py<PyAny>, caller: Option<Py<PyAny>>) -> Call {
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
        identity: i64,
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

/// How many calls run, and those that wait because as many run as may. No caller has all threads while others have none, and
/// each has a queue of its own: whose turn it is goes round.
#[pyclass(module = "pysecure_rpc._core")]
pub struct Gate {
    #[pyo3(get)]
    pub running: usize,
    pub limit: usize,
    /// For each caller.
    waits: usize,
    callers: Vec<Caller>,
    /// How many callers have nothing that runs.
    idle: usize,
    /// Whose turn is next.
    turn: usize,
    #[pyo3(get)]
    pub stopping: bool,
}

#[derive(Default)]
struct Caller {
    running: usize,
    queue: VecDeque<(Py<PyAny>, Py<PyAny>)>,
}

impl Gate {
    /// May one more call of this caller run? For each caller that has none a thread is left, but of all no more than half.
    pub fn may_run(&self, caller: usize) -> bool {
        let kept = match self.callers.get(caller) {
            Some(Caller { running: 1.., .. }) => self.idle.min(self.limit / 2),
            _ => 0,
        };
        self.running + kept < self.limit
    }

    pub fn begins(&mut self, caller: usize) {
        self.running += 1;
        if let Some(caller) = self.callers.get_mut(caller) {
            self.idle -= usize::from(caller.running == 0);
            caller.running += 1;
        }
    }

    fn ends(&mut self, caller: usize) {
        self.running = self.running.saturating_sub(1);
        if let Some(caller) = self.callers.get_mut(caller) {
            caller.running = caller.running.saturating_sub(1);
            self.idle += usize::from(caller.running == 0);
        }
    }
}

#[pymethods]
impl Gate {
    #[new]
    fn new(limit: usize, waits: usize) -> Gate {
        Gate {
            running: 0,
            limit,
            waits,
            callers: Vec::new(),
            idle: 0,
            turn: 0,
            stopping: false,
        }
    }

    /// One more caller: its number.
    fn caller(&mut self) -> usize {
        self.callers.push(Caller::default());
        self.idle += 1;
        self.callers.len() - 1
    }

    #[getter]
    fn waiting(&self) -> usize {
        self.callers.iter().map(|caller| caller.queue.len()).sum()
    }

    /// "run", "wait", or why not: "stopping", "busy". `always`: it was admitted before, and waits whatever waits.
    fn enter(&mut self, call: Py<PyAny>, work: Py<PyAny>, always: bool, caller: usize) -> &'static str {
        if self.stopping && !always {
            return "stopping";
        }
        if self.may_run(caller) {
            self.begins(caller);
            return "run";
        }
        let waits = self.waits;
        match self.callers.get_mut(caller) {
            Some(caller) if always || caller.queue.len() < waits => {
                caller.queue.push_back((call, work));
                "wait"
            }
            _ => "busy",
        }
    }

    /// A call of this caller's has ended: the one that runs in its place.
    pub fn leave(&mut self, caller: usize) -> Option<(Py<PyAny>, Py<PyAny>)> {
        self.ends(caller);
        let many = self.callers.len();
        let mut turns = (self.turn..many).chain(0..self.turn.min(many));
        let next = turns.find(|next| !self.callers[*next].queue.is_empty() && self.may_run(*next))?;
        self.turn = next + 1;
        self.begins(next);
        self.callers[next].queue.pop_front()
    }

    /// No more: what waited.
    fn stop(&mut self) -> Vec<(Py<PyAny>, Py<PyAny>)> {
        self.stopping = true;
        self.callers
            .iter_mut()
            .flat_map(|caller| caller.queue.drain(..))
            .collect()
    }
}

/// A function that can be served the quick way.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Served {
    pub function: Py<PyAny>,
    pub run: Py<PyAny>,
    pub checks: Vec<Check>,
    pub needed: usize,
    pub result: Check,
    /// Its number in the page of figures, if there is room for it.
    pub slot: Option<usize>,
}

#[pymethods]
impl Served {
    #[new]
    fn new(
        function: Py<PyAny>,
        run: Py<PyAny>,
        plans: &Bound<'_, PyTuple>,
        needed: usize,
        result: &Bound<'_, PyAny>,
        slot: Option<usize>,
    ) -> PyResult<Served> {
        Ok(Served {
            function,
            run,
            checks: check::all(plans)?,
            needed,
            result: Check::new(result)?,
            slot,
        })
    }
}

/// Whether a function is taken to be slow: what nobody has measured is. Who has the interpreter's lock uses it.
pub struct Pace {
    /// So many times more.
    turns: AtomicU32,
    /// So many times when it last was found to be.
    last: AtomicU32,
}

impl Pace {
    fn new() -> Pace {
        Pace {
            turns: AtomicU32::new(1),
            last: AtomicU32::new(0),
        }
    }

    /// Before it runs: is it slow?
    pub fn begin(&self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        if turns > 0 {
            self.turns.store(turns - 1, Ordering::Relaxed);
        }
        turns > 0
    }

    /// After it ran: was it?
    pub fn ended(&self, slow: bool) {
        let last = self.last.load(Ordering::Relaxed);
        if slow {
            let turns = (2 * last).clamp(1, crate::lead::SLOW_TURNS);
            self.last.store(turns, Ordering::Relaxed);
            self.turns.store(turns, Ordering::Relaxed);
        } else if last > 0 {
            self.last.store(last / 2, Ordering::Relaxed);
        }
    }
}

/// What one caller may call of that which can be served the quick way.
#[pyclass(module = "pysecure_rpc._core", frozen)]
pub struct Table {
    pub functions: HashMap<String, (Py<Served>, Pace)>,
}

#[pymethods]
impl Table {
    #[new]
    fn new(functions: HashMap<String, Py<Served>>) -> Table {
        Table {
            functions: functions
                .into_iter()
                .map(|(name, served)| (name, (served, Pace::new())))
                .collect(),
        }
    }
}

/// What of a connection the quick way needs; `_server._Connection` is one.
#[pyclass(module = "pysecure_rpc._core", subclass)]
pub struct Peer {
    /// -1: only Python may use it.
    #[pyo3(get, set)]
    pub fd: i32,
    #[pyo3(get, set)]
    pub closed: bool,
    #[pyo3(get, set)]
    pub leaving: bool,
    /// Its caller's number at the gate.
    #[pyo3(get, set)]
    pub number: usize,
    #[pyo3(get, set)]
    pub caller: Option<Py<PyAny>>,
    /// The open calls, by number.
    #[pyo3(get)]
    pub calls: Py<PyDict>,
    /// What waits until the caller reads.
    #[pyo3(get, set)]
    pub backlog: Option<Py<PyAny>>,
    #[pyo3(get, set)]
    pub quick: Option<Py<Table>>,
    kept: Option<Py<Kept>>,
    #[pyo3(get, set)]
    pub out_area: Option<Py<Area>>,
}

#[pymethods]
impl Peer {
    #[new]
    #[pyo3(signature = (*_rest))]
    fn new(py: Python<'_>, _rest: &Bound<'_, PyTuple>) -> Peer {
        Peer {
            fd: -1,
            closed: false,
            leaving: false,
            number: 0,
            caller: None,
            calls: PyDict::new(py).unbind(),
            backlog: None,
            quick: None,
            kept: None,
            out_area: None,
        }
    }

    /// Made when it is first needed: most connections send no large bytes.
    #[getter]
    pub fn kept(&mut self, py: Python<'_>) -> PyResult<Py<Kept>> {
        let kept = match self.kept.take() {
            Some(kept) => kept,
            None => Py::new(py, Kept::default())?,
        };
        self.kept = Some(kept.clone_ref(py));
        Ok(kept)
    }

    /// Closes what the caller keeps here.
    fn forget(&mut self) {
        self.kept = None;
        self.out_area = None;
    }
}
