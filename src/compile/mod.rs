//! Plan → OCI runtime spec: for every service one bundle, which any OCI runtime can run.
//!
//! What this prints is what runs: the launcher reads the spec and nothing else of the plan. The same plan
//! gives the same bytes. Nothing here looks at the host or changes it, but for [`Bundle::write`], which puts
//! a bundle on disk.
//!
//! Follows the OCI runtime specification 1.2 (config.md, config-linux.md). A spec calls itself
//! 1.1.0, which brought the recursive mount options and the id maps of mounts: crun 1.8 (Debian 12) refuses numbers
//! above that.

mod accounts;
pub mod bundle;
mod limits;
mod seccomp;
mod spec;
mod writable;

pub use bundle::{Bundle, RootEntry};
pub use limits::{resources, rlimits};
pub use spec::{CompileError, LOWEST_PORT, MEMORY_ANNOTATION, app_network, compile, id_map, seccomp};
