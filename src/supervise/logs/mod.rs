//! Services' output: as records, to its sinks, and read back.

pub mod console;
mod escape;
pub mod history;
pub(in crate::supervise) mod logfile;
pub(in crate::supervise) mod output;
pub mod record;
pub(in crate::supervise) mod sink;
pub(in crate::supervise) mod syslog;

pub use record::stamp;
