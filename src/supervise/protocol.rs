//! What goes over the control socket: one JSON object a line each way. After an `exec` request is granted,
//! the socket carries that session's messages instead ([`crate::launch::join::told`]).

use serde::{Deserialize, Serialize};

/// A request is refused if it is longer than this, in bytes.
pub const LONGEST_REQUEST: usize = 256 << 10;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// How are the services?
    Ps,
    /// Stop all services and end; answered when that is done.
    Down,
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
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<AppStatus>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct AppStatus {
    pub app: String,
    pub supervisor_pid: u32,
    /// A hash of what the app was compiled to; tells whether a manifest has changed since.
    pub fingerprint: String,
    pub services: Vec<ServiceStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServiceStatus {
    pub service: String,
    /// `waiting`, `starting`, `running`, `exited` or `failed`.
    pub state: String,
    /// PID 1 of the service's namespace, as the host counts.
    pub pid: Option<u32>,
    pub uid: u32,
    pub gid: u32,
    /// 128+n if signal n ended it.
    pub exit_code: Option<u8>,
    /// Seconds since it came to this state.
    pub seconds: u64,
    pub error: Option<String>,
    /// What it uses, where limits have given it a cgroup of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<crate::launch::cgroup::Usage>,
}

/// What a supervisor that was just started says to the `up` that started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress {
    Started {
        service: String,
    },
    Failed {
        service: String,
        error: String,
        code: u8,
    },
    /// Nothing more is to come.
    Done,
}
