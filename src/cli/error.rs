//! A command's failure: what to say, a sentence each, and the exit code.

use crate::host::HostError;
use crate::host::outer::OuterError;
use crate::launch::LaunchError;
use crate::manifest::diagnostic::Diagnostic;
use crate::oneoff::OneOffError;
use crate::plan::PlanError;
use crate::storage::StorageError;
use crate::supervise::{SuperviseError, client::ClientError};

/// What a command comes to: an exit code, or what to say and which.
pub(super) type Done = Result<u8, Failure>;

#[derive(Debug)]
pub(crate) struct Failure {
    pub messages: Vec<String>,
    /// What is to be shown with the manifest's lines, by whoever has them.
    pub located: Vec<Diagnostic>,
    pub code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl std::fmt::Display) -> Failure {
        Failure {
            messages: vec![message.to_string()],
            located: Vec::new(),
            code,
        }
    }

    /// All has been said already.
    pub(crate) fn silent(code: u8) -> Failure {
        Failure {
            messages: Vec::new(),
            located: Vec::new(),
            code,
        }
    }

    pub(crate) fn failed(message: impl std::fmt::Display) -> Failure {
        Failure::new(1, message)
    }
}

/// What is the manifest's fault is 2, what is the host's 1.
impl From<Vec<PlanError>> for Failure {
    fn from(errors: Vec<PlanError>) -> Failure {
        let host = errors.iter().all(|e| {
            matches!(
                e,
                PlanError::Host(_) | PlanError::Ledger { .. } | PlanError::Busy { .. }
            )
        });
        Failure {
            messages: errors.iter().map(ToString::to_string).collect(),
            located: Vec::new(),
            code: if host { 1 } else { 2 },
        }
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Failure {
        PlanError::from(error).into()
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        vec![error].into()
    }
}

macro_rules! failed {
    ($($of:ty),*) => { $(impl From<$of> for Failure {
        fn from(error: $of) -> Failure {
            Failure::failed(error)
        }
    })* };
}

failed!(
    StorageError,
    SuperviseError,
    ClientError,
    OuterError,
    crate::supervise::network::NetworkError,
    crate::compile::CompileError,
    crate::jail::JailError,
    std::io::Error
);

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Failure {
        Failure::new(error.exit_code(), error)
    }
}

impl From<OneOffError> for Failure {
    fn from(error: OneOffError) -> Failure {
        match error {
            OneOffError::Launch(error) => error.into(),
            other => Failure::failed(other),
        }
    }
}

impl From<crate::manifest::LoadError> for Failure {
    fn from(error: crate::manifest::LoadError) -> Failure {
        Failure::new(2, error)
    }
}

/// For a service that was named on the command line, and is not in the manifest.
pub(super) fn no_service(name: &str, plan: &crate::plan::Plan) -> Failure {
    let known: Vec<&str> = plan.services.iter().map(|s| s.name.as_str()).take(20).collect();
    Failure::new(
        2,
        format!("no service is called `{name}`; there are: {}", known.join(", ")),
    )
}
