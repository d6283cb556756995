//! What services have of sockets and the network, and what outlasts their processes of it.

pub mod network;
pub(in crate::supervise) mod notify;
mod queue;
pub(in crate::supervise) mod relays;
pub(in crate::supervise) mod sockets;
