//! What went wrong with a file or folder of the host: operation, object, cause.

use crate::cause::Cause;
use std::error::Error;
use std::path::PathBuf;

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{operation} {}: {cause}", path.display())]
pub struct HostError {
    pub operation: &'static str,
    pub path: PathBuf,
    #[source]
    pub cause: Cause,
}

impl HostError {
    pub fn new(
        operation: &'static str,
        path: impl Into<PathBuf>,
        cause: impl Into<Box<dyn Error + Send + Sync>>,
    ) -> Self {
        HostError {
            operation,
            path: path.into(),
            cause: Cause::new(cause),
        }
    }
}
