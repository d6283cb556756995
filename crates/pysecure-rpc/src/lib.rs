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
//! The wire is docs/reference/rpc-protocol.md's, and is `pysecure-wire`'s to read and write. Nothing but plain values is made of what comes over it.
#![warn(missing_docs)]

mod client;
mod connection;
mod context;
mod decode;
mod encode;
mod error;
#[cfg(feature = "service")]
mod function;
mod incoming;
pub mod kinds;
mod process;
#[cfg(feature = "service")]
mod reply;
#[cfg(feature = "service")]
mod returned;
#[cfg(feature = "tokio")]
mod runtime;
#[cfg(feature = "service")]
mod server;
mod types;

pub use client::{Known, call};
pub use connection::{Answer, Connection, Fill};
pub use context::{timeout, trace, traceparent};
pub use decode::from_value;
pub use encode::to_value;
pub use error::{Error, Result};
#[cfg(feature = "service")]
pub use function::{Arguments, Function, Parameter};
#[cfg(feature = "service")]
pub use pysecure_rpc_macros::{Typed, rpc};
pub use pysecure_wire::{Value, Writer};
#[cfg(feature = "service")]
pub use reply::Reply;
#[cfg(feature = "service")]
pub use returned::{Returned, Stream};
#[cfg(feature = "service")]
pub use server::{caller, runs_here, start_service};
pub use types::{Bytes, Outcome, Typed, hash};

/// What `#[rpc]` writes needs.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod private {
    pub use crate::function::{argument, call};
    #[cfg(feature = "tokio")]
    pub use crate::runtime::elsewhere;
    pub use inventory;
}
