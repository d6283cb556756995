//! Probes.

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What a probe asks, inside the service, as the service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    Tcp(SocketAddr),
    Unix(String),
    Http { address: SocketAddr, path: String },
    Command(Vec<String>),
}
