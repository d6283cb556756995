//! What services use and do, as it is told: usage, figures of calls, metrics, events.

pub mod events;
pub mod figures;
pub(in crate::supervise) mod metrics;
pub mod usage;
