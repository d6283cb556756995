//! What a call can come to, other than its result.

use crate::incoming::SocketError;
use pysecure_wire::{Value, WireError};

/// A result, by default with an [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a call can come to, other than its result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no socket: the manifest's `callers` of the callee do not name this service.
    #[error("call `{0}`: not granted; name this service in the `callers` of `{0}`")]
    NotGranted(String),
    /// The connection ended before the answer. `ran` is false only if the function was certainly not entered.
    #[error("call `{callee}`: the service ended before it answered{}", if *.ran { "; the call may have run" } else { "" })]
    #[doc(alias = "Lost")]
    ConnectionLost {
        /// The service.
        callee: String,
        /// May the function have run?
        ran: bool,
    },
    /// The deadline passed before the answer came.
    #[error("call `{callee}`: the deadline has passed")]
    Deadline {
        /// The service.
        callee: String,
    },
    /// The two programs know different signatures of the function.
    #[error("call `{function}`: the service has another version of it; here it is {here}")]
    Version {
        /// The function.
        function: String,
        /// Its signature in this program.
        here: String,
    },
    /// What the function there answered instead of a result.
    #[error("{class}: {message}")]
    Remote {
        /// The exception's name on the wire, such as `ValueError`.
        class: String,
        /// Its text.
        message: String,
        /// Its arguments.
        args: Vec<Value>,
        /// False if the function was certainly not entered.
        ran: bool,
    },
    /// The connection could not be made, or failed.
    #[error("call `{callee}`: {cause}")]
    Io {
        /// The service.
        callee: String,
        /// What failed.
        cause: std::io::Error,
    },
    /// The service does not keep to the protocol.
    #[error("call `{callee}`: {cause}")]
    Wire {
        /// The service.
        callee: String,
        /// What it broke.
        cause: WireError,
    },
    /// A value is not of the type that is wanted.
    #[error("a value of another type: {0}")]
    Type(String),
    /// A value that cannot cross.
    #[error(transparent)]
    Value(#[from] WireError),
    /// The service could not be started.
    #[error("serve `{service}`: {problem}")]
    Serve {
        /// The service.
        service: String,
        /// Why.
        problem: String,
    },
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
            Error::ConnectionLost { .. } | Error::Io { .. } => "ConnectionError",
            _ => "RuntimeError",
        }
    }

    /// What a service answers.
    #[cfg(feature = "service")]
    pub(crate) fn reply(class: &str, message: impl Into<String>, ran: bool) -> Error {
        Error::Remote {
            class: class.to_owned(),
            message: message.into(),
            args: Vec::new(),
            ran,
        }
    }

    /// What a service answers when the deadline has passed.
    #[cfg(feature = "service")]
    pub(crate) fn late(ran: bool) -> Error {
        Error::reply("pysecure.DeadlineExceeded", "the deadline has passed", ran)
    }

    pub(crate) fn socket(callee: &str, error: SocketError, ran: bool) -> Error {
        let callee = callee.to_owned();
        match error {
            SocketError::Ended => Error::ConnectionLost { callee, ran },
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
