//! What `leader.rs` is synchronised by. Its test has loom's in their place.

pub use std::sync::atomic::{AtomicBool, AtomicU64, fence};
pub use std::sync::{Condvar, Mutex, MutexGuard};
pub use std::thread::sleep;
pub use std::thread_local;
