//! The wire of PySecure's RPC, as docs/reference/rpc-protocol.md has it: messages and values as bytes and descriptors, and back. The crate
//! `pysecure-rpc`, the compiled core of the Python package and the launcher all use this one implementation.
//!
//! Whatever is read comes from a peer that may be hostile: no length is believed before it is checked against what is there, and
//! nothing but plain values comes of it.
//!
//! | module | |
//! | --- | --- |
//! | [`kind`], [`limits`], [`error`] | kinds of messages and extensions, bounds, and what can be wrong |
//! | [`value`], [`reader`], [`writer`] | values, decoded and encoded; what is made of them is a [`Build`]'s to say |
//! | [`message`] | messages, decoded and encoded |
//! | [`area`] | large bytes in memfds |
//! | [`socket`], [`spin`] | messages on a socket, and how they are waited for |
//! | [`figures`] | the page in which a service counts its calls |
//! | `listen` | a service's sockets and what its callers may call (with the feature `listen`) |
#![warn(missing_docs)]

pub mod area;
mod build;
mod distinct;
pub mod error;
mod extension;
pub mod figures;
pub mod kind;
pub mod limits;
#[cfg(feature = "listen")]
pub mod listen;
pub mod message;
pub mod reader;
pub mod socket;
pub mod spin;
pub mod value;
pub mod writer;

pub use area::{IncomingArea, Memfd, OutgoingArea};
pub use build::{Build, Plain};
pub use distinct::read;
pub use error::{Malformed, WireError};
pub use kind::MessageKind;
pub use reader::{Reader, ReceivedFds};
pub use spin::Spin;
pub use value::{Descriptor, Value};
pub use writer::{EncodedMessage, Writer};
