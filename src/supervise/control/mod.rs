//! The control socket: what is said over it, who says it, and what becomes of a request.

pub mod client;
mod disposition;
pub mod fingerprint;
pub mod protocol;
pub mod reconcile;
pub(in crate::supervise) mod requests;
pub(in crate::supervise) mod server;
