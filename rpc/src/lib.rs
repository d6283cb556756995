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
#![deny(unsafe_code)]

mod client;
mod decode;
mod encode;
mod error;
#[cfg(feature = "service")]
mod function;
mod memfd;
#[cfg(feature = "service")]
mod server;
mod socket;
mod types;
pub mod value;

pub use client::{Connection, call_known, within};
pub use decode::from_value;
pub use encode::to_value;
pub use error::{Error, Result};
#[cfg(feature = "service")]
pub use function::{Arguments, Function, Parameter};
pub use memfd::Area;
#[cfg(feature = "service")]
pub use pysecure_rpc_macros::{Typed, rpc};
#[cfg(feature = "service")]
pub use server::{caller, runs_here, start_service};
pub use types::{Bytes, Outcome, Typed, hash};
pub use value::Value;

/// What `#[rpc]` writes needs.
#[cfg(feature = "service")]
#[doc(hidden)]
pub mod private {
    pub use crate::function::call;
    pub use inventory;
}
