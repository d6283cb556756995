//! What goes over the control socket: one JSON object a line each way. After an `exec` request is granted,
//! the socket carries that session's messages instead ([`crate::launch::join::told`]); after `events`, an
//! [`Event`](crate::supervise::stats::events::Event) a line; after a request that changes something, [`Progress`] until
//! [`Progress::Done`].

use super::reconcile::Prints;
use crate::launch::join::Copy;
use crate::plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A request is refused if it is longer than this, in bytes: some thousand services' plans.
pub const LONGEST_REQUEST: usize = 32 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How are the services?
    Ps,
    /// What do they use?
    Stats,
    /// Stop all services and end; answered when that is done.
    Down {
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Make of the app what the manifest says now.
    Apply(Box<Apply>),
    /// Start services; none named: all.
    Start { services: Vec<String> },
    Stop {
        services: Vec<String>,
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    Restart {
        services: Vec<String>,
        #[serde(default)]
        timeout_ms: Option<u64>,
    },
    /// Have services read their configuration again.
    Reload { services: Vec<String> },
    /// Send a signal, by number, to services' programs.
    Kill { services: Vec<String>, signal: u8 },
    /// Tell whatever happens from now on.
    Events,
    /// Run a program beside a service. Standard input, output and error come with the request.
    Exec {
        service: String,
        args: Vec<String>,
        #[serde(default)]
        environment: Vec<String>,
        #[serde(default)]
        directory: Option<String>,
        terminal: bool,
    },
    /// Copy files in or out beside a service. Standard input, output and error come with the request; after it the
    /// socket carries a session as after `exec`.
    Copy { service: String, copy: Copy },
}

/// What an app is to become.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// All services, in the manifest's order.
    pub order: Vec<String>,
    /// Those that are new or different.
    pub services: Vec<plan::Unit>,
    pub templates: BTreeMap<String, plan::template::Template>,
    /// What the services could meet on disk.
    pub places: Vec<plan::Place>,
    /// See [`AppStatus::storage`].
    pub storage: u64,
    pub shared: Vec<crate::supervise::mending::Shared>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppStatus>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stats: Option<Vec<crate::supervise::stats::usage::ServiceUsage>>,
}

impl Reply {
    pub(in crate::supervise) fn error(error: String) -> Reply {
        Reply {
            error: Some(error),
            ..Reply::default()
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AppStatus {
    pub app: String,
    pub supervisor_pid: u32,
    /// Connections of other users that were turned away.
    pub denied: u64,
    /// What its resources were planned to be, in short.
    pub storage: u64,
    /// All of it was told to end.
    #[serde(default)]
    pub going_down: bool,
    pub services: Vec<ServiceStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub service: String,
    /// `waiting`, `listening`, `starting`, `running`, `stopping`, `restarting`, `exited`, `failed` or `stopped`.
    pub state: String,
    /// PID 1 of the service's namespace, as the host counts.
    pub pid: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    /// 128+n if signal n ended it.
    pub exit_code: Option<u8>,
    /// How it ended the last time, whatever it does now.
    pub last_exit_code: Option<u8>,
    /// Seconds since it came to this state.
    pub seconds: u64,
    pub error: Option<String>,
    pub restarts: u32,
    /// `healthy` or `unhealthy`, if it has a probe that was answered.
    pub health: Option<String>,
    /// What it says of itself (`STATUS=`, sd_notify(3)).
    pub status: Option<String>,
    pub reloading: bool,
    /// What it was planned to be, in short: tells whether the manifest has changed since.
    pub prints: Prints,
}

/// How a request that changes something goes on, a line each.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress {
    /// It is as it was asked to be: ready, or ended.
    Settled { service: String, state: String },
    Failed {
        /// Empty if it is about no one service.
        service: String,
        error: String,
        code: u8,
    },
    /// Nothing more is to come.
    Done,
}
