//! From what a manifest means to what this host will do: ids from the ledger, directories on disk,
//! and for every service the mounts, identity and environment that its grants come to.
//!
//! A plan is data. Making it reads the host and may write the ledger ([`ledger`]); it mounts, chowns
//! and starts nothing. Two plans of one manifest and one ledger are equal.

mod context;
mod draw;
mod error;
pub mod exposed;
mod extents;
mod hide;
mod host;
mod installed;
pub mod ledger;
pub mod leftover;
mod links;
pub mod lock;
mod mounts;
mod oneoff;
mod overlap;
mod sandbox;
mod service;
mod setup;
mod storage;
pub mod template;
mod unit;

pub use draw::{HardLinks, Plan, draw, hard_links, on_disk};
pub use error::PlanError;
pub use extents::Mounts;
pub use hide::again as hide_again;
pub use ledger::Ledger;
pub use oneoff::OneOff;
pub use overlap::{Overlaps, Subtree, Viewer};
pub use sandbox::{Sandbox, SandboxIds, Userdirs};
pub use service::{EGRESS_RESOLVER, NOTIFY_FOLDER, NOTIFY_SOCKET, SYSLOG_FOLDER, SYSLOG_SOCKET};
pub use setup::SetupScript;
pub use storage::{Holding, Initial, Keeping, Ownership, Storage, Who};
pub use unit::{Confinement, IdMap, Identity, Mount, MountPoint, Role, SANDBOX_HOME, Unit, Upper};

use crate::model::{ResourceId, indexed_by};

indexed_by!(ResourceId: Storage);
