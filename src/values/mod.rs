//! The values that a manifest is written in and that every later stage speaks of: permissions, networks, restarts.
//!
//! They hold no place in a text and no rule: reading them is [`crate::manifest`]'s, what they come to is
//! [`crate::model`]'s. What serialises does so in the manifest's own words.

mod callable;
mod isolation;
mod life;
mod logs;
mod network;
pub mod path;
mod perms;
mod probe;
mod resource;
mod root;
mod signal;

pub use callable::Callable;
pub use isolation::Isolation;
pub use life::{Condition, Restart, ServiceType, Start};
pub use logs::{MOST_LOG_FILES, Sink};
pub use network::Network;
pub use perms::Perms;
pub use probe::Question;
pub use resource::ResourceKind;
pub use root::Writable;
pub use signal::{signal_name, signal_number};
