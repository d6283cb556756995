//! What went wrong with a file or folder of the host: operation, object, cause.

use std::path::PathBuf;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{operation} {}: {cause}", path.display())]
pub struct HostError {
    pub operation: &'static str,
    pub path: PathBuf,
    /// As text, so that errors can be compared: a plan that fails twice for the same reason says so once.
    pub cause: String,
}

impl HostError {
    pub fn new(operation: &'static str, path: impl Into<PathBuf>, cause: impl std::fmt::Display) -> Self {
        HostError {
            operation,
            path: path.into(),
            cause: cause.to_string(),
        }
    }
}
