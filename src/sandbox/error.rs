//! What goes wrong in a pool: with all of it, or with one run.

use crate::compile::CompileError;
use crate::launch::LaunchError;
use crate::plan::PlanError;
use rustix::io::Errno;

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("{operation}: {errno}")]
    System {
        operation: &'static str,
        #[source]
        errno: Errno,
    },
    /// The sentence names the remedy.
    #[error("{0}")]
    Refused(String),
}

impl SandboxError {
    pub fn system(operation: &'static str) -> impl FnOnce(Errno) -> SandboxError {
        move |errno| SandboxError::System { operation, errno }
    }

    pub fn refused(why: impl Into<String>) -> SandboxError {
        SandboxError::Refused(why.into())
    }
}
