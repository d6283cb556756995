//! Which network a service is in.

use serde::{Deserialize, Serialize};

/// The network namespace that a service is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// A network namespace of its own, with nothing in it but a loopback.
    #[default]
    None,
    /// One network namespace for all services of the app that say so, with nothing in it but a loopback.
    App,
    /// The host's network.
    Host,
}
