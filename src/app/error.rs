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
        /// The first of all of them.
        source: Option<Box<PlanError>>,
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
    #[error("the manifest names no script; write `setup = \"SCRIPT\"` in [app]")]
    NoScript,
    #[error("`{app}` is up, and its services use its data; `pysecure down` first")]
    IsUp { app: String },
    #[error("setup: {}: {source}; {unchanged}", script.display())]
    Script {
        script: PathBuf,
        source: Box<OneOffError>,
        unchanged: &'static str,
    },
    #[error("setup: {} ended with {code}; correct it: {unchanged}", script.display())]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::{Given, Loaded};
    use crate::plan::Ledger;
    use crate::plan::template::Library;
    use rustix::io::Errno;
    use std::error::Error;
    use std::io;

    /// The errors that one leads to, down to what failed at first.
    fn chain<'e>(error: &'e (dyn Error + 'static)) -> Vec<&'e (dyn Error + 'static)> {
        std::iter::successors(error.source(), |&error| error.source()).collect()
    }

    fn first(error: &AppError) -> Option<io::ErrorKind> {
        let last = *chain(error).last()?;
        let of_errno = last.downcast_ref::<Errno>().map(|errno| io::Error::from(*errno).kind());
        last.downcast_ref::<io::Error>().map(io::Error::kind).or(of_errno)
    }

    #[test]
    fn what_failed_at_first_ends_the_chain() {
        let folder = tempfile::tempdir().unwrap();
        let template = folder.path().join("jails/own.toml");
        std::fs::create_dir_all(&template).unwrap();
        let error = Library::new(folder.path(), folder.path()).load("own").unwrap_err();
        let shown = format!(
            "jail \"own\": read {}: Is a directory (os error 21)",
            template.display()
        );
        assert_eq!(error.to_string(), shown);
        let error = AppError::from(error);
        assert_eq!(first(&error), Some(io::ErrorKind::IsADirectory));
        assert!(chain(&error).iter().any(|e| e.is::<JailError>()), "{error:?}");

        let missing = folder.path().join("none.toml");
        let given = Given {
            manifest: Some(&missing),
            ..Given::default()
        };
        let Err(error) = Loaded::read(given) else {
            panic!("it is not there")
        };
        assert_eq!(first(&error), Some(io::ErrorKind::NotFound));

        let app = folder.path().join("apps/zoo");
        std::fs::create_dir_all(app.join("ledger.json")).unwrap();
        let error = AppError::from(Ledger::at(&app, "zoo").unwrap_err());
        assert_eq!(first(&error), Some(io::ErrorKind::IsADirectory));

        let error = LaunchError::system("open", "x")(Errno::NOENT);
        assert_eq!(first(&error.into()), Some(io::ErrorKind::NotFound));
    }
}
