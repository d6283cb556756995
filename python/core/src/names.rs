//! Classes and objects of the package's Python files, looked up once.

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

static ERRORS: PyOnceLock<[Py<PyType>; 2]> = PyOnceLock::new();
static VALUES: PyOnceLock<[Py<PyType>; 2]> = PyOnceLock::new();

fn classes<'py>(
    py: Python<'py>,
    once: &'py PyOnceLock<[Py<PyType>; 2]>,
    module: &str,
    names: [&str; 2],
) -> PyResult<&'py [Py<PyType>; 2]> {
    once.get_or_try_init(py, || {
        let module = py.import(module)?;
        let class = |name: &str| Ok::<_, PyErr>(module.getattr(name)?.cast_into::<PyType>()?.unbind());
        Ok([class(names[0])?, class(names[1])?])
    })
}

fn error(py: Python<'_>, at: usize, text: String) -> PyErr {
    match classes(py, &ERRORS, "pysecure_rpc._errors", ["ProtocolError", "TooLarge"]) {
        Ok(found) => PyErr::from_type(found[at].bind(py).clone(), text),
        Err(error) => error,
    }
}

pub fn protocol_error(py: Python<'_>, text: impl Into<String>) -> PyErr {
    error(py, 0, text.into())
}

/// The answer to a call is malformed: its function may have run.
pub fn broken_answer(py: Python<'_>, text: impl Into<String>) -> PyErr {
    may_have_run(py, protocol_error(py, text))
}

pub fn may_have_run(py: Python<'_>, error: PyErr) -> PyErr {
    match error.value(py).setattr("may_have_run", true) {
        Ok(()) => error,
        Err(other) => other,
    }
}

pub fn too_large(py: Python<'_>, text: impl Into<String>) -> PyErr {
    error(py, 1, text.into())
}

pub fn member(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    Ok(classes(py, &VALUES, "pysecure_rpc._values", ["Member", "Fd"])?[0].bind(py))
}

pub fn descriptor(py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
    Ok(classes(py, &VALUES, "pysecure_rpc._values", ["Member", "Fd"])?[1].bind(py))
}

/// Classes of modules that are only loaded if the program uses them, or if one of their values comes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Late {
    DateTime,
    Date,
    Time,
    TimeDelta,
    Decimal,
    Uuid,
}

const LATE: [(Late, &str, &str); 6] = [
    (Late::DateTime, "datetime", "datetime"),
    (Late::Date, "datetime", "date"),
    (Late::Time, "datetime", "time"),
    (Late::TimeDelta, "datetime", "timedelta"),
    (Late::Decimal, "decimal", "Decimal"),
    (Late::Uuid, "uuid", "UUID"),
];

static CLASSES: [PyOnceLock<Py<PyType>>; 6] = [const { PyOnceLock::new() }; 6];

impl Late {
    pub fn class(self, py: Python<'_>) -> PyResult<&Bound<'_, PyType>> {
        let (_, module, name) = LATE[self as usize];
        let class = CLASSES[self as usize].get_or_try_init(py, || {
            Ok::<_, PyErr>(py.import(module)?.getattr(name)?.cast_into::<PyType>()?.unbind())
        })?;
        Ok(class.bind(py))
    }

    /// Which of them a class is, if any.
    pub fn of(class: &Bound<'_, PyType>) -> PyResult<Option<Late>> {
        let py = class.py();
        for (late, module, name) in LATE {
            if let Some(known) = CLASSES[late as usize].get(py) {
                if known.is(class) {
                    return Ok(Some(late));
                }
                continue;
            }
            let modules = py.import("sys")?.getattr("modules")?;
            if class.name()? == name && modules.contains(module)? && late.class(py)?.is(class) {
                return Ok(Some(late));
            }
        }
        Ok(None)
    }
}

/// The name of a class, for an error.
pub fn name_of(class: &Bound<'_, PyType>) -> String {
    class.qualname().map(|n| n.to_string()).unwrap_or_default()
}

pub fn cannot_cross(class: &Bound<'_, PyType>) -> PyErr {
    PyTypeError::new_err(format!("a value of type {} cannot cross", name_of(class)))
}
