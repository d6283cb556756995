//! Plan → OCI runtime spec: for every service one bundle, which any OCI runtime can run.
//!
//! What this prints ([`Bundle::printed`](crate::bundle::Bundle::printed)) is what runs: the launcher reads the bundle and nothing
//! else of the plan. The same plan gives the same bytes. Nothing here looks at the host or changes it;
//! [`Bundle::write`](crate::bundle::Bundle::write) puts a bundle on disk.
//!
//! Follows the OCI runtime specification 1.2 (config.md, config-linux.md). A spec calls itself
//! 1.1.0, which brought the recursive mount options and the id maps of mounts: crun 1.8 (Debian 12) refuses numbers
//! above that.

mod accounts;
mod confine;
mod error;
mod grants;
mod identity;
mod limits;
mod mounts;
mod seccomp;
mod spec;
mod tree;
mod writable;

pub use confine::CONFIGURATION_CPU_SECONDS;
pub use error::CompileError;
pub use limits::{resources, rlimits};
pub use mounts::swapped;
pub use spec::{compile, effects, seccomp};
