//! Calls between services that PySecure starts. A function marked `#[rpc(run_as = "authsvc")]` runs in the service of
//! that name; everywhere else it is a call to it, over a socket that the manifest's `callers` granted.
//!
//! ```no_run
//! use pysecure_rpc::{Result, rpc};
//!
//! #[rpc(run_as = "authsvc")]
//! fn login(user: String, password: String) -> Result<bool> {
//!     Ok(user == "alice" && password == "secret")
//! }
//!
//! fn main() -> Result<()> {
//!     pysecure_rpc::start_service("authsvc")
//! }
//! ```
//!
//! The wire is docs/rpc-protocol.md's. Nothing here makes anything but plain values of what comes over it.

mod client;
mod decode;
mod encode;
mod error;
#[cfg(feature = "service")]
mod figures;
#[cfg(feature = "service")]
mod function;
pub mod kinds;
#[cfg(feature = "service")]
mod lobby;
mod memfd;
mod process;
#[cfg(feature = "service")]
mod returned;
#[cfg(feature = "tokio")]
mod runtime;
#[cfg(feature = "service")]
mod server;
mod socket;
pub mod spin;
mod types;
pub mod value;
mod writer;

pub use client::{Answer, Connection, Fill, Known, call, traced, traceparent, within};
pub use decode::from_value;
pub use encode::to_value;
pub use error::{Error, Result};
#[cfg(feature = "service")]
pub use function::{Arguments, Function, Parameter};
pub use memfd::{Area, Kept, Outgoing};
#[cfg(feature = "service")]
pub use pysecure_rpc_macros::{Typed, rpc};
#[cfg(feature = "service")]
pub use returned::{Returned, Stream};
#[cfg(feature = "service")]
pub use server::{Reply, caller, runs_here, start_service};
pub use types::{Bytes, Outcome, Typed, hash};
pub use value::Value;
pub use writer::{Message, Writer};

/// What `#[rpc]` writes needs.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod private {
    pub use crate::function::{argument, call};
    #[cfg(feature = "tokio")]
    pub use crate::runtime::elsewhere;
    pub use inventory;
}
