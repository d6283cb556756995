//! The one process that `up` leaves running for an app: it starts the services, keeps their output, knows how
//! they are, and ends them.
//!
//! Single-threaded, one epoll(7) loop. Nothing here blocks on a service, a client or a disk that is slow to
//! answer, and nothing wakes it up but an event or a deadline that was asked for. It reads the plan to
//! compile each service's spec when it starts it; it never reads the manifest.

mod app;
mod capabilities;
pub mod client;
pub mod console;
mod control;
pub mod events;
pub mod figures;
mod ground;
pub mod history;
mod lifecycle;
mod limits;
mod logfile;
pub mod logs;
pub mod mending;
mod metrics;
pub mod network;
mod notify;
mod output;
pub mod protocol;
pub mod reconcile;
mod relays;
mod requests;
mod service;
mod sink;
mod sockets;
mod systemd;
mod timers;
pub mod usage;

pub use app::{App, Options, Outcome, SuperviseError, enough_descriptors};
pub use service::{State, exit_code};
pub use sockets::{cannot_bind, folders};
