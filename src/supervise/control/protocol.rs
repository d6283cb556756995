//! What goes over the control socket: one JSON object a line each way. After an `exec` request is granted,
//! the socket carries that session's messages instead ([`crate::launch::join::told`]); after `events`, an
//! [`Event`](crate::supervise::stats::events::Event) a line; after a request that changes something, [`Progress`] until
//! [`Progress::Done`].
//!
//! # Versions
//!
//! A supervisor may have been started by another pysecure than the one that asks, and long ago. So a client's first line is
//! [`Request::Hello`], with the version that it speaks and the lowest that it understands; the supervisor answers with its
//! own. Each side knows the other's then, and whoever does not understand the other says so, with both versions and what to do
//! ([`Hello::apart_from`]). Whoever begins without `hello` speaks version 0, which had none.
//!
//! - Fields of answers that a client does not know are left unread. What is added to answers has a default.
//! - Fields and requests that a supervisor does not know are refused, since what they ask for would not be done. Each that is
//!   added, and each that changes its meaning, raises [`VERSION`]; a client does not send it to a lower one
//!   ([`Request::since`]).
//! - `hello`, `ps` and `down` are understood in all versions: an app can always be looked at and ended.

use super::fingerprint::{Fingerprint, Fingerprints};
use crate::launch::join::Copy;
use crate::plan;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The version that this pysecure speaks.
///
/// - 0: as it was before there were versions.
/// - 1: `hello`; fingerprints in `ps` and `apply` are SHA-256.
/// - 2: sandboxes in `ps` and `apply`.
/// - 3: `states`; `apply` of some services; whoever waits for a change is told for what.
pub const VERSION: u32 = 3;
/// The lowest version of the other side's that this pysecure understands.
pub const MINIMUM: u32 = 0;

/// Who somebody is, and what is spoken there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    pub version: u32,
    /// The lowest version of the other side's that is understood.
    pub minimum: u32,
    /// The release of pysecure.
    pub pysecure: String,
}

impl Hello {
    pub fn own() -> Hello {
        Hello {
            version: VERSION,
            minimum: MINIMUM,
            pysecure: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Of whoever does not say hello.
    pub fn unsaid() -> Hello {
        Hello {
            version: 0,
            minimum: 0,
            pysecure: "of an earlier release".to_owned(),
        }
    }

    /// Do both understand each other?
    pub fn understands(&self, other: &Hello) -> bool {
        self.version >= other.minimum && other.version >= self.minimum
    }

    /// What a supervisor and a client that do not understand each other have to be told. `self` is the supervisor.
    pub fn apart_from(&self, client: &Hello) -> String {
        format!(
            "the supervisor is pysecure {} and speaks version {} of the control protocol, and this command is pysecure {} and \
             speaks version {}: `pysecure down && pysecure up -d` has the app run under this pysecure, or use the pysecure \
             that it was started by",
            self.pysecure, self.version, client.pysecure, client.version
        )
    }
}

/// A request is refused if it is longer than this, in bytes: some thousand services' plans.
pub const LONGEST_REQUEST: usize = 32 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// The first line of a connection: who asks. Answered by the supervisor's own.
    Hello(Hello),
    /// How are the services?
    Ps,
    /// The same without fingerprints, which take the supervisor time.
    States,
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

impl Request {
    /// The version that it came with.
    pub fn since(&self) -> u32 {
        match self {
            Request::States => 3,
            Request::Apply(apply) if !apply.only.is_empty() => 3,
            Request::Apply(apply) if !apply.sandboxes.is_empty() => 2,
            Request::Hello(_) | Request::Apply(_) => 1,
            _ => 0,
        }
    }
}

/// What an app is to become.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// All services, in the manifest's order.
    pub order: Vec<String>,
    /// Those that are new or different.
    pub services: Vec<plan::Unit>,
    /// All sandboxes. A supervisor of version 1 knows none, and is sent none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandboxes: Vec<plan::Sandbox>,
    pub templates: BTreeMap<String, plan::template::Template>,
    /// What the services could meet on disk.
    #[serde(rename = "places")]
    pub subtrees: Vec<plan::Subtree>,
    /// See [`AppStatus::resources`].
    pub resources: Fingerprint,
    /// Services that are to run, if not all are: no other that rests is started. A supervisor of a lower version is not sent this.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub only: Vec<String>,
    pub shared: Vec<crate::supervise::mending::Shared>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Reply {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<Hello>,
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
    /// What its resources were planned to be, in short. A supervisor of version 0 does not say.
    #[serde(default)]
    pub resources: Option<Fingerprint>,
    /// All of it was told to end.
    #[serde(default)]
    pub going_down: bool,
    pub services: Vec<ServiceStatus>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandboxes: Vec<SandboxStatus>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SandboxStatus {
    pub sandbox: String,
    /// `running` or `restarting`.
    pub state: String,
    /// The process that makes its runs, as the host counts.
    pub pid: Option<u32>,
    /// Services that may use it.
    pub used_by: Vec<String>,
    /// Seconds since it came to this state.
    pub seconds: u64,
    pub restarts: u32,
    pub error: Option<String>,
    /// What it was planned to be, in short.
    #[serde(default)]
    pub fingerprint: Option<Fingerprint>,
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
    /// Without subordinate ids all services have the user's, which `uid` and `gid` are then: what it sees as its own instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ids_inside: Option<[u32; 2]>,
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
    /// What it was planned to be, in short: tells whether the manifest has changed since. A supervisor of version 0 does not
    /// say.
    #[serde(default)]
    pub fingerprints: Option<Fingerprints>,
    /// Of the files and folders that its process was shown when it was started, if one runs.
    #[serde(default)]
    pub sources: Option<Fingerprint>,
}

/// How a request that changes something goes on, a line each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Progress {
    /// It is as it was asked to be: ready, or ended. Of one that was to read its configuration again `state` says what became of that.
    Settled { service: String, state: String },
    Failed {
        /// Empty if it is about no one service.
        service: String,
        error: String,
        code: u8,
    },
    /// For which services whoever asked still waits, and for what of them; said after a while. A client of a lower version does not know
    /// it, and reads on.
    Waiting { text: String },
    /// Nothing more is to come.
    Done,
}

impl AppStatus {
    /// As a client of version 0 reads it: with numbers that are no service's, so that it takes all as changed, and asks for
    /// what it is told then that it cannot have.
    pub(in crate::supervise) fn to_version_0(&self) -> serde_json::Value {
        let mut status = serde_json::to_value(self).unwrap_or_default();
        status["storage"] = 0.into();
        for service in status["services"].as_array_mut().into_iter().flatten() {
            service["prints"] = serde_json::json!({ "process": 0, "life": 0 });
        }
        status
    }
}
