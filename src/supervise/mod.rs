//! The one process that `up` leaves running for an app: it starts the services, keeps their output, knows how
//! they are, and ends them.
//!
//! Single-threaded, one epoll(7) loop. Nothing here blocks on a service, a client or a disk that is slow to
//! answer, and nothing wakes it up but an event or a deadline that was asked for. It reads the plan to
//! compile each service's spec when it starts it; it never reads the manifest.

mod app;
mod capabilities;
mod control;
mod error;
mod ids;
mod lifecycle;
mod limits;
pub mod logs;
mod machine;
pub mod mending;
mod net;
mod overlaps;
mod pools;
mod process;
mod sandboxes;
mod stats;
mod systemd;
mod waits;

pub use crate::sys::exit_status::exit_code;
pub use app::{App, Options, Outcome, enough_descriptors};
pub use control::{client, fingerprint, protocol, reconcile};
pub use error::SuperviseError;
pub use ids::ServiceId;
pub use logs::{console, history};
pub use machine::state::State;
pub use net::network;
pub use net::sockets::{cannot_bind, folders};
pub use stats::{events, figures, usage};
