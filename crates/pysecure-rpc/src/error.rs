//! What a call can come to, other than its result.

use crate::socket::SocketError;
use crate::value::{Value, WireError};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket: the manifest's `callers` of the callee do not name this service.
    #[error("call `{0}`: not granted; name this service in the `callers` of `{0}`")]
    NotGranted(String),
    /// The connection ended before the answer. `ran` is false only if the function was certainly not entered.
    #[error("call `{callee}`: the service ended before it answered{}", if *.ran { "; the call may have run" } else { "" })]
    Lost { callee: String, ran: bool },
    #[error("call `{callee}`: the deadline has passed")]
    Deadline { callee: String },
    /// The two programs know different signatures of the function.
    #[error("call `{function}`: the service has another version of it; here it is {here}")]
    Version { function: String, here: String },
    /// What the function there answered instead of a result.
    #[error("{class}: {message}")]
    Remote {
        class: String,
        message: String,
        args: Vec<Value>,
        ran: bool,
    },
    #[error("call `{callee}`: {cause}")]
    Io { callee: String, cause: std::io::Error },
    #[error("call `{callee}`: {cause}")]
    Wire { callee: String, cause: WireError },
    #[error("a value of another type: {0}")]
    Type(String),
    /// A value that cannot cross.
    #[error(transparent)]
    Value(#[from] WireError),
    #[error("serve `{service}`: {problem}")]
    Serve { service: String, problem: String },
}

impl Error {
    /// An exception as a Python caller would see it: `Error::raise("ValueError", "no such user")`.
    pub fn raise(class: &str, message: impl Into<String>) -> Error {
        let message = message.into();
        Error::Remote {
            class: class.to_owned(),
            args: vec![Value::Str(message.clone())],
            message,
            ran: true,
        }
    }

    /// Its name on the wire.
    pub fn class(&self) -> &str {
        match self {
            Error::Remote { class, .. } => class,
            Error::NotGranted(_) => "PermissionError",
            Error::Deadline { .. } => "pysecure.DeadlineExceeded",
            Error::Type(_) => "TypeError",
            Error::Lost { .. } | Error::Io { .. } => "ConnectionError",
            _ => "RuntimeError",
        }
    }

    pub(crate) fn socket(callee: &str, error: SocketError, ran: bool) -> Error {
        let callee = callee.to_owned();
        match error {
            SocketError::Ended => Error::Lost { callee, ran },
            SocketError::Io(errno) => Error::Io {
                callee,
                cause: errno.into(),
            },
            SocketError::Wire(cause) => Error::Wire { callee, cause },
        }
    }
}

impl serde::ser::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Error {
        Error::Type(message.to_string())
    }
}

impl serde::de::Error for Error {
    fn custom<T: std::fmt::Display>(message: T) -> Error {
        Error::Type(message.to_string())
    }
}
