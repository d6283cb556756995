//! The rules as tables, one row a rule, and all of them together under events at random.

mod model;
mod tables;

use super::ServiceDefinition;
use crate::model::{Life, Limits, Logs};
use crate::plan;
use crate::values::{Network, Sink};
use std::collections::BTreeMap;

/// A service of this name that goes by these rules. What is started is of no account here.
fn definition(name: &str, life: Life) -> ServiceDefinition {
    ServiceDefinition::new(plan::Unit {
        name: name.to_owned(),
        identity: plan::Identity {
            uid: 61000,
            gid: 61000,
            groups: Vec::new(),
            peers: Vec::new(),
            keeper: None,
            root_inside: false,
        },
        command: vec!["/bin/true".to_owned()],
        directory: "/".to_owned(),
        environment: BTreeMap::new(),
        umask: 0o077,
        rootfs: "base".to_owned(),
        writable: None,
        mounts: Vec::new(),
        network: Network::None,
        publish: Vec::new(),
        egress: false,
        resolver: String::new(),
        listen: Vec::new(),
        callers: Vec::new(),
        dynamic_uid: None,
        callees: Vec::new(),
        life,
        limits: Limits::default(),
        logs: Logs {
            sink: Sink::File,
            max_size: 1 << 20,
            max_files: 2,
        },
    })
}
