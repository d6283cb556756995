//! Why an app cannot be made ready. What caused it is its source; where lines of the manifest are at fault, it has them.

use super::text::ManifestText;
use crate::compile::CompileError;
use crate::host::HostError;
use crate::jail::JailError;
use crate::launch::LaunchError;
use crate::manifest::LoadError;
use crate::manifest::diagnostic::Diagnostic;
use crate::oneoff::OneOffError;
use crate::plan::PlanError;
use crate::python::PythonError;
use crate::storage::StorageError;
use crate::supervise::SuperviseError;
use crate::supervise::client::ClientError;
use crate::supervise::network::NetworkError;
use std::path::PathBuf;
use std::rc::Rc;

#[derive(Debug, thiserror::Error)]
pub enum AppError {
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Python(#[from] PythonError),
    /// What is wrong with the manifest itself, and its warnings.
    #[error("the manifest {} has errors; see `pysecure check`", text.path().display())]
    Wrong {
        text: Rc<ManifestText>,
        found: Vec<Diagnostic>,
    },
    /// What this host cannot do of the manifest: at its lines where it has some.
    #[error("{}", sentences(located, others))]
    Refused {
        text: Rc<ManifestText>,
        located: Vec<Diagnostic>,
        others: Vec<PlanError>,
    },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Jail(#[from] JailError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    OneOff(#[from] OneOffError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Supervise(#[from] SuperviseError),
    /// Where the manifest lies cannot be looked into.
    #[error("open {}: {source}", path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("{operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("no service is called `{name}`; there are: {}", known.join(", "))]
    NoService { name: String, known: Vec<String> },
    #[error(
        "`{service}` runs, and its program a second time would work on the same data; `pysecure exec {service} -- CMD` or \
         `pysecure run {service} -- CMD` for another one, or `pysecure stop {service}` first"
    )]
    Twice { service: String },
    #[error("`{was}` may be running, and its root is to be `{service}`'s; `pysecure down` first")]
    RootInUse { was: String, service: String },
    #[error("the manifest names no script; write `initialize = \"SCRIPT\"` in [app]")]
    NoScript,
    #[error("`{app}` is up, and its services use its data; `pysecure down` first")]
    IsUp { app: String },
    #[error("initialize: {}: {source}; {unchanged}", script.display())]
    Script {
        script: PathBuf,
        source: Box<OneOffError>,
        unchanged: &'static str,
    },
    #[error("initialize: {} ended with {code}; correct it: {unchanged}", script.display())]
    ScriptEnded {
        script: PathBuf,
        code: u8,
        unchanged: &'static str,
    },
    /// A program has no way to the network that it is to have.
    #[error(transparent)]
    NotConnected(NetworkError),
    /// What the process that was to connect it says.
    #[error("{0}")]
    Companion(String),
    #[error("`{service}` was not traced; run `pysecure jail trace {service}` first")]
    NotTraced { service: String },
}

impl AppError {
    pub(super) fn io(operation: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> AppError {
        let path = path.into();
        move |source| AppError::Io {
            operation,
            path,
            source,
        }
    }

    /// A name from outside that is no service's.
    pub fn no_service<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> AppError {
        AppError::NoService {
            name: name.to_owned(),
            known: known.take(20).map(str::to_owned).collect(),
        }
    }

    /// What of it is to be shown at lines of the manifest.
    pub fn located(&self) -> &[Diagnostic] {
        match self {
            AppError::Wrong { found, .. } => found,
            AppError::Refused { located, .. } => located,
            _ => &[],
        }
    }
}

fn sentences(located: &[Diagnostic], others: &[PlanError]) -> String {
    let located = located.iter().map(|d| d.message.clone());
    let all: Vec<String> = located.chain(others.iter().map(ToString::to_string)).collect();
    all.join("; ")
}
