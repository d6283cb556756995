//! What a client says to a pool and hears of it, and what the pool says to the interpreter in a sandbox: messages of a
//! SOCK_SEQPACKET socket, each one JSON object, with descriptors by SCM_RIGHTS.

use super::profile::{Limits, Profile};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The longest message. What is longer goes as a file in memory.
pub const LONGEST: usize = 64 << 10;
/// The most descriptors that come with one.
pub const MOST_DESCRIPTORS: usize = 16;

/// On the control connection.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Asked {
    /// First of all where the pool is the client's own.
    Profile(Box<Profile>),
    Run(Box<Run>),
}

/// One run. What its descriptors are is said by name.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Run {
    pub fds: Vec<String>,
    /// A program with its arguments, in place of Python.
    pub command: Option<Vec<String>>,
    /// For the interpreter in the sandbox; nobody else reads it.
    pub task: Value,
    pub userdir: Option<PathBuf>,
    pub readable: Vec<PathBuf>,
    pub environment: BTreeMap<String, String>,
    pub limits: Limits,
    /// An interpreter that is kept, for more than one piece of code.
    pub session: bool,
    pub overlay: bool,
    /// Does the client want to hear when it begins?
    pub started: bool,
    pub explain: bool,
}

/// On a run's connection, from its client.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Order {
    /// Ends it; the reason is what [`Event::Ended`] has as its limit.
    Kill(String),
    Interrupt(bool),
    /// What was written to an overlay becomes the directory's.
    Commit(bool),
    Discard(bool),
}

/// On the control connection, or on a run's.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    Ready {
        isolation: &'static str,
    },
    Refused {
        error: String,
    },
    Started {
        uid: u32,
    },
    /// Fewer bytes than the client said that it holds a run to, or than it said nothing of: what it is to hold it to.
    Output {
        bytes: u64,
    },
    Ended(Box<Ended>),
    Committed,
    Discarded,
}

/// How a run ended. Its processes are gone, or were killed and do nothing any more.
#[derive(Debug, Default, Serialize)]
pub struct Ended {
    /// Who it was, as it saw itself.
    pub uid: u32,
    pub exit: Option<i32>,
    pub signal: Option<i32>,
    /// Which limit ended it.
    pub limit: Option<String>,
    pub usage: Usage,
    pub isolation: &'static str,
    pub denied: Vec<Denied>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes: Option<Vec<Change>>,
    /// How many more there are than [`Ended::changes`] tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changes_left: Option<u64>,
}

/// Seconds and bytes.
#[derive(Debug, Default, Serialize)]
pub struct Usage {
    pub wall: f64,
    pub cpu: f64,
    pub memory: u64,
}

/// What an overlay holds that its directory does not.
#[derive(Debug, Serialize)]
pub struct Change {
    pub path: String,
    /// `added`, `modified` or `deleted`.
    pub kind: &'static str,
    pub size: u64,
}

/// From the interpreter in a sandbox. Whatever it says may be a lie.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// It waits for its task.
    Confined(bool),
    /// A copy could not be confined, and why.
    Failed(String),
    Done(Done),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Done {
    pub exit: i32,
    /// Which limit ended it, as far as it was told by an error.
    pub limit: Option<String>,
    pub denied: Vec<Denied>,
}

/// What the code wanted and does not have. Told by the interpreter that runs it: a hint for who wrote the code, and no record.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Denied {
    pub kind: String,
    pub target: String,
    pub rule: String,
    /// What would allow it.
    pub allow: String,
}

/// To the interpreter in a sandbox.
#[derive(Debug, Serialize)]
pub struct Task<'a> {
    pub task: &'a Value,
    pub fds: &'a [String],
    pub directory: &'a str,
    /// Where an interpreter that was not warm looks for modules, too.
    pub paths: &'a [PathBuf],
    pub environment: &'a BTreeMap<String, String>,
    /// Number, soft and hard; getrlimit(2). Memory is what may be had beyond what is in use.
    pub rlimits: &'a [(u32, u64, u64)],
    pub memory: Option<u64>,
}

/// To the warm interpreter. Descriptors are named as in a run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWarm<'a> {
    /// With the filter of system calls.
    Boot {
        paths: &'a [PathBuf],
        preload: &'a [String],
        after_fork: &'a Option<String>,
    },
    /// With the copy's end of its control socket; the Landlock rules, if there are any; the ways into its
    /// cgroups; and the namespaces that it joins.
    Fork {
        uid: u32,
        gid: u32,
        groups: bool,
        landlock: bool,
        cgroups: usize,
        /// Do its Landlock rules come with its task, the first of what comes along?
        later: bool,
        /// Does it wait for a task, and not a task for it?
        rehearse: bool,
        rlimits: &'a [(u32, u64, u64)],
    },
}

/// From the warm interpreter.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWarm {
    Ready(bool),
    /// It cannot go on.
    Failed(String),
    /// A copy has ended: its pid, wait status and seconds of computing, and the most memory that it had, in bytes.
    Ended(i32, i32, f64, u64),
}
