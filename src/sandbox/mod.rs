//! Sandboxes: code that nobody trusts, each run in namespaces and with ids of its own.
//!
//! A [`pool`] is a process: the supervisor has one for each `[sandboxes.NAME]`, and a program without a supervisor one of its own
//! (`pysecure sandbox pool`). It is PID 1 of a PID namespace, so that whatever it made ends with it. What it is asked for, and
//! what it answers, is in [`request`].
//!
//! ```text
//! client ──run──> pool ──launch──> sandbox: PID 1, its mounts, no program yet
//!                  │  ──fork───> warm interpreter ──its copy joins and confines itself──┐
//!                  └──task──────────────────────────────────────────────────────────────> runs the code
//! ```
//!
//! A sandbox's PID 1 has given up its rights before anybody joins, and what it is shown later the pool attaches itself
//! ([`OwnMounts`](crate::launch::OwnMounts)). Some sandboxes are made before they are asked for, with an interpreter in them or without. That a run
//! has ended is told when nothing of it goes on any more; what is left of its sandbox is taken down when nobody wants anything.
//!
//! The copy is not believed: before it gets a task, the pool reads from the kernel that it is where it has to be, and has no
//! right left ([`confined`]). A program, and Python where nothing is warm, is launched as any service is.
//!
//! Where a host refuses user namespaces there is a second level, for who asks for it by name ([`Isolation::Landlock`](crate::values::Isolation::Landlock)): the same
//! pool, whose runs stay in its namespaces and have its id ([`landlock`], `pool/in_place.rs`).
//!
//! What may not happen here: a wait for what a client or a sandbox may never do.

pub mod confined;
mod denied;
mod error;
mod instance;
mod landlock;
mod overlay;
mod pool;
mod profile;
pub mod request;
mod unit;
mod usage;
mod userdir;

pub use error::SandboxError;
pub use pool::{Source, maker, serve};
pub use profile::{Identities, Limits, Profile, Userdirs};
