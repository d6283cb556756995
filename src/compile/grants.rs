//! What a unit was granted, as an annotation of its spec: by it a mount, a network or an id of the spec leads back to the
//! row of the access matrix that it carries out.
//!
//! Rows are written as `access --json` writes them, and without lines of the manifest: a line moves when a comment is
//! added, and no service is to be started anew for that. The `compile` command adds them to what it shows.

use crate::plan::{Mount, Unit};
use crate::values::{Network, Writable};
use serde::Serialize;
use std::net::SocketAddr;

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Granted<'u> {
    Resource {
        object: &'u str,
        permissions: String,
        class: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        bundle: Option<&'u str>,
        mount: &'u str,
    },
    Call {
        object: &'u str,
    },
    Sandbox {
        object: &'u str,
    },
    Listen {
        object: SocketAddr,
    },
    Publish {
        object: SocketAddr,
        port: u16,
    },
    Egress {
        object: &'static str,
    },
    Network {
        object: Network,
    },
    RootInside {
        /// Further users.
        object: Option<Vec<&'u str>>,
    },
    Root {
        object: Writable,
    },
}

/// The annotation's value: a list in JSON.
pub(super) fn annotation(unit: &Unit) -> String {
    let mut all: Vec<Granted<'_>> = unit.mounts.iter().filter_map(resource).collect();
    all.extend(unit.callees.iter().map(|object| Granted::Call { object }));
    all.extend(unit.sandboxes.iter().map(|object| Granted::Sandbox { object }));
    all.extend(unit.listen.iter().map(|object| Granted::Listen { object: *object }));
    all.extend(unit.publish.iter().map(|publish| Granted::Publish {
        object: publish.address,
        port: publish.port,
    }));
    all.extend(unit.egress.then_some(Granted::Egress { object: "outside" }));
    let network = Some(unit.network).filter(|network| *network != Network::None);
    all.extend(network.map(|object| Granted::Network { object }));
    let users: Vec<&str> = unit.users.iter().map(|(_, name)| name.as_str()).collect();
    all.extend(unit.identity.root_inside.then(|| Granted::RootInside {
        object: (!users.is_empty()).then_some(users),
    }));
    all.extend(unit.writable.as_ref().map(|upper| Granted::Root {
        object: match upper.kept {
            Some(_) => Writable::Persistent,
            None => Writable::Memory,
        },
    }));
    // Names and numbers: there is nothing here that JSON could not hold.
    serde_json::to_string(&all).unwrap_or_default()
}

fn resource(mount: &Mount) -> Option<Granted<'_>> {
    let grant = mount.grant.as_ref()?;
    Some(Granted::Resource {
        object: &grant.resource,
        permissions: grant.perms.letters(),
        class: grant.class.map_or("setup", |class| class.name()),
        bundle: grant.bundle.as_deref(),
        mount: &mount.target,
    })
}
