//! A service's life: when it starts, what it waits for, what is done when it ends.

use serde::{Deserialize, Serialize};

/// How a service is meant to end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServiceType {
    #[default]
    Simple,
    Oneshot,
}

/// When a service is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Start {
    #[default]
    Auto,
    OnDemand,
}

/// What must be true of a service before one that depends on it is started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// Its program runs, or has run.
    #[default]
    Started,
    Ready,
    /// It has ended, with 0.
    Completed,
}

/// What is done when a service ends by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Restart {
    #[default]
    No,
    /// Restarted if it ended other than well.
    OnFailure,
    Always,
}
