//! The rules as tables, one row a rule, and all of them together under events at random.

mod model;
mod tables;

use super::ServiceDefinition;
use crate::model::{Life, Logs};
use crate::plan;
use crate::values::Sink;

/// A service of this name that goes by these rules. What is started is of no account here.
fn definition(name: &str, life: Life) -> ServiceDefinition {
    let identity = plan::Identity {
        uid: 61000,
        gid: 61000,
        groups: Vec::new(),
        peers: Vec::new(),
        keeper: None,
        outside: Default::default(),
        root_inside: false,
    };
    let command = vec!["/bin/true".to_owned()];
    ServiceDefinition::new(plan::Unit {
        life,
        logs: Logs {
            sink: Sink::File,
            max_size: 1 << 20,
            max_files: 2,
        },
        ..plan::Unit::new(plan::Role::Service, name, identity, "base", command)
    })
}
