//! Hints, as far as they can be seen to hold without changing the value: what is no plain match is left to the checkers
//! in Python, which convert it or refuse it.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList, PyTuple, PyType};

pub enum Check {
    Any,
    /// One of these classes, and no subclass.
    Types(Vec<Py<PyType>>),
    /// A container of this class, and each item.
    Each(Py<PyType>, Box<Check>),
    Map(Box<Check>, Box<Check>),
    Tuple(Vec<Check>),
    /// The first that takes the value decides; one that is left to Python ends the search.
    Union(Vec<Check>),
    Python,
}

impl Check {
    /// Of what `_hints.Type` says of itself: None, or a tuple that begins with a word.
    pub fn new(plan: &Bound<'_, PyAny>) -> PyResult<Check> {
        if plan.is_none() {
            return Ok(Check::Python);
        }
        let plan = plan.cast::<PyTuple>()?;
        let part = |at: usize| Ok::<_, PyErr>(Box::new(Check::new(&plan.get_item(at)?)?));
        let class = |c: Bound<'_, PyAny>| Ok::<_, PyErr>(c.cast_into::<PyType>()?.unbind());
        let word: String = plan.get_item(0)?.extract()?;
        Ok(match word.as_str() {
            "any" => Check::Any,
            "types" => Check::Types(plan.iter().skip(1).map(class).collect::<PyResult<_>>()?),
            "each" => Check::Each(class(plan.get_item(1)?)?, part(2)?),
            "map" => Check::Map(part(1)?, part(2)?),
            "tuple" => Check::Tuple(plan.iter().skip(1).map(|p| Check::new(&p)).collect::<PyResult<_>>()?),
            "union" => Check::Union(plan.iter().skip(1).map(|p| Check::new(&p)).collect::<PyResult<_>>()?),
            _ => return Err(PyTypeError::new_err("a plan of another kind")),
        })
    }

    /// Is the value what the hint says, as it is? None: Python has to say.
    fn verdict(&self, value: &Bound<'_, PyAny>) -> Option<bool> {
        let py = value.py();
        match self {
            Check::Any => Some(true),
            Check::Types(classes) => {
                let class = value.get_type();
                Some(classes.iter().any(|c| class.is(c)))
            }
            Check::Each(class, item) => {
                if !value.get_type().is(class) {
                    return Some(false);
                }
                if matches!(**item, Check::Any) {
                    return Some(true);
                }
                if let Ok(list) = value.cast_exact::<PyList>() {
                    return list.iter().all(|v| item.accepts(&v)).then_some(true);
                }
                let items = value.try_iter().ok()?;
                let mut all = true;
                for each in items {
                    all = all && each.is_ok_and(|v| item.accepts(&v));
                }
                all.then_some(true)
            }
            Check::Map(key, item) => {
                let Ok(dict) = value.cast_exact::<PyDict>() else {
                    return Some(false);
                };
                if matches!((&**key, &**item), (Check::Any, Check::Any)) {
                    return Some(true);
                }
                dict.iter()
                    .all(|(k, v)| key.accepts(&k) && item.accepts(&v))
                    .then_some(true)
            }
            Check::Tuple(items) => {
                let Ok(tuple) = value.cast_exact::<PyTuple>() else {
                    return Some(false);
                };
                let all = tuple.len() == items.len() && tuple.iter().zip(items).all(|(v, check)| check.accepts(&v));
                all.then_some(true)
            }
            Check::Union(options) => {
                for option in options {
                    match option.verdict(value) {
                        Some(true) => return Some(true),
                        Some(false) => {}
                        None => return None,
                    }
                }
                let _ = py;
                None
            }
            Check::Python => None,
        }
    }

    pub fn accepts(&self, value: &Bound<'_, PyAny>) -> bool {
        self.verdict(value) == Some(true)
    }
}

/// The plans of a function's parameters that can be given by position.
pub fn all(plans: &Bound<'_, PyTuple>) -> PyResult<Vec<Check>> {
    plans.iter().map(|p| Check::new(&p)).collect()
}
