//! How many calls of a service run, and those that wait.

use pyo3::prelude::*;
use std::collections::VecDeque;

/// How many calls run, and those that wait because as many run as may. No caller has all threads while others have none, and
/// each has a queue of its own: whose turn it is goes round.
#[pyclass(module = "pysecure_rpc._core")]
pub struct Admission {
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

impl Admission {
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
impl Admission {
    #[new]
    fn new(limit: usize, waits: usize) -> Admission {
        Admission {
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
