//! Why an app cannot be supervised.

use super::logs::output::OutputError;
use super::net::network::NetworkError;
use crate::host::HostError;
use crate::launch::LaunchError;
use crate::plan::PlanError;

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(
        "{services} services need {needed} open files, but the limit is {limit}; raise it (`ulimit -Hn`, or LimitNOFILE= in the unit)"
    )]
    Descriptors { services: usize, needed: u64, limit: u64 },
    #[error("supervise: {operation}: {cause}")]
    System {
        operation: &'static str,
        #[source]
        cause: std::io::Error,
    },
}

pub(super) fn system<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> SuperviseError {
    move |cause| SuperviseError::System {
        operation,
        cause: cause.into(),
    }
}
