//! A command's failure: what to say, and the exit code. Which error has which code is decided here alone.

use super::terminal;
use crate::app::{AppError, ManifestText};
use crate::host::outer::OuterError;
use crate::manifest::diagnostic::Diagnostic;
use crate::oneoff::OneOffError;
use crate::plan::PlanError;
use crate::python::PythonError;

/// What a command comes to: an exit code, or what to say and which.
pub(super) type Done = Result<u8, Failure>;

/// An exit code, for the manual and for docs/reference: this is the one list of them.
pub(super) struct ExitCode {
    pub code: &'static str,
    pub meaning: &'static str,
    /// The commands that have it; none: all.
    pub of: &'static [&'static str],
}

impl ExitCode {
    pub(super) fn is_of(&self, command: &str) -> bool {
        self.of.is_empty() || self.of.contains(&command)
    }
}

const RUN_A_PROGRAM: &[&str] = &["exec", "run", "sandbox", "sandbox run"];
const START_A_PROGRAM: &[&str] = &["exec", "run", "sandbox", "sandbox run", "jail trace", "unshare"];

#[rustfmt::skip]
pub(super) const EXIT_CODES: &[ExitCode] = &[
    ExitCode { code: "0", meaning: "The command has done what it was asked to do.", of: &[] },
    ExitCode { code: "1", meaning: "It has failed. The error says what was to be done, and what to do about it.", of: &[] },
    ExitCode { code: "1", meaning: "A service could not be started, did not get ready, or ended with an error. `up` never ends with a service's own code.", of: &["up"] },
    ExitCode { code: "2", meaning: "Bad usage, or an error in the manifest, which is shown at its line.", of: &[] },
    ExitCode { code: "125", meaning: "The program could not be started: PySecure or this host is the cause.", of: START_A_PROGRAM },
    ExitCode { code: "126", meaning: "The program was found and cannot be run.", of: START_A_PROGRAM },
    ExitCode { code: "127", meaning: "The program was not found.", of: START_A_PROGRAM },
    ExitCode { code: "128+n", meaning: "The program was ended by signal n, for example 137 by SIGKILL.", of: RUN_A_PROGRAM },
    ExitCode { code: "any other", meaning: "The program's own exit code.", of: RUN_A_PROGRAM },
    ExitCode { code: "any other", meaning: "The first exit code of a service that is not 0.", of: &["wait"] },
];

#[derive(Debug)]
pub(crate) struct Failure {
    /// What comes first, as it is to be shown: lines of the manifest, or what a configuration printed.
    shown: String,
    /// A sentence each.
    pub messages: Vec<String>,
    pub code: u8,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl std::fmt::Display) -> Failure {
        Failure::all(code, vec![message.to_string()])
    }

    pub(crate) fn all(code: u8, messages: Vec<String>) -> Failure {
        Failure {
            shown: String::new(),
            messages,
            code,
        }
    }

    /// All has been said already.
    pub(crate) fn silent(code: u8) -> Failure {
        Failure::all(code, Vec::new())
    }

    pub(crate) fn failed(message: impl std::fmt::Display) -> Failure {
        Failure::new(1, message)
    }

    /// Says it on standard error.
    pub(crate) fn tell(&self) {
        eprint!("{}", self.shown);
        for line in &self.messages {
            errln!("error: {line}");
        }
    }
}

/// What is bad usage or the manifest's fault is 2, what is the host's 1, what lies between a start and its program 125.
fn code(error: &AppError) -> u8 {
    let of_plan = |error: &PlanError| match error {
        PlanError::Host(_) | PlanError::Ledger { .. } | PlanError::Busy { .. } => 1,
        _ => 2,
    };
    let of_one_off = |error: &OneOffError| match error {
        OneOffError::Launch(error) => error.exit_code(),
        _ => 1,
    };
    match error {
        AppError::Load(_)
        | AppError::Python(_)
        | AppError::Folder { .. }
        | AppError::Wrong { .. }
        | AppError::NoService { .. }
        | AppError::NoScript => 2,
        AppError::Refused { located, others, .. } if located.is_empty() => {
            others.iter().map(of_plan).max().unwrap_or(2)
        }
        AppError::Refused { .. } => 2,
        AppError::Plan(error) => of_plan(error),
        AppError::Launch(error) => error.exit_code(),
        AppError::OneOff(error) => of_one_off(error),
        AppError::Script { source, .. } => of_one_off(source),
        AppError::NotConnected(_) | AppError::Companion(_) => 125,
        _ => 1,
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Failure {
        let code = code(&error);
        let first = match &error {
            AppError::Wrong { text, .. } | AppError::Refused { text, .. } => shown(text, error.located()),
            AppError::Python(PythonError::Failed { printed: text, .. }) => printed(text),
            _ => String::new(),
        };
        let messages = match error {
            AppError::Wrong { .. } => Vec::new(),
            AppError::Refused { others, .. } => others.iter().map(ToString::to_string).collect(),
            other => vec![other.to_string()],
        };
        Failure {
            shown: first,
            messages,
            code,
        }
    }
}

macro_rules! as_of_an_app {
    ($($of:ty),*) => { $(impl From<$of> for Failure {
        fn from(error: $of) -> Failure {
            AppError::from(error).into()
        }
    })* };
}

as_of_an_app!(
    PlanError,
    OneOffError,
    crate::host::HostError,
    crate::storage::StorageError,
    crate::supervise::SuperviseError,
    crate::supervise::client::ClientError,
    crate::launch::LaunchError,
    crate::compile::CompileError,
    crate::jail::JailError
);

impl From<OuterError> for Failure {
    fn from(error: OuterError) -> Failure {
        Failure::failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::failed(error)
    }
}

/// Diagnostics with the lines that they are about, for standard error.
pub(super) fn shown(text: &ManifestText, found: &[Diagnostic]) -> String {
    text.render(found, terminal::colour_on_stderr())
}

/// What a configuration printed: it may be anything, so nothing of it may steer a terminal.
pub(super) fn printed(text: &str) -> String {
    let harmless = |line: &str| crate::supervise::console::shown(line.as_bytes());
    let lines = text
        .lines()
        .map(|line| format!("{}\n", crate::plain::lines(&harmless(line))));
    lines.collect()
}
