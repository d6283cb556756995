//! What the command line needs of RPC beside the crate `pysecure-rpc`, which speaks the protocol: values as JSON, and
//! interfaces for other programs. Here a service is the one who may not be trusted: what it sends is shown as text.

pub mod interface;
mod json;

pub use json::{from_json, line, to_json};
