//! Bounds of messages (docs/reference/rpc-protocol.md, "Limits").

use std::sync::OnceLock;

/// The most containers and extensions in each other, the message itself being the first.
pub const MAX_DEPTH: usize = 64;
/// The most values in one message.
pub const MAX_VALUES: usize = 1_000_000;
/// The most descriptors with one message.
pub const MAX_DESCRIPTORS: usize = 16;
/// The longest message on the socket, in bytes. What is longer goes by LARGE.
pub const MAX_MESSAGE: usize = 65_536;
/// Bytes values that are longer than this go into a memfd.
pub const INLINE_BYTES: usize = 16 << 10;
/// The longest name of a function that is looked for, in bytes: a longer one is no function's.
pub const MAX_NAME: usize = 1 << 12;
/// The last id of a call.
pub const MAX_CALL_ID: u64 = 1 << 53;
/// The most items of a stream that one CALL or CREDIT allows.
pub const MAX_CREDIT: u64 = 1 << 31;
/// So many milliseconds, 31 years, and more are no deadline: timers need not count so far.
pub const NO_DEADLINE: u64 = 1_000_000_000_000;

/// The most bytes of a message: all large values together, and a message by LARGE. It is as the app's manifest says, in
/// `PYSECURE_RPC_MAX_MESSAGE`, or 64 MiB.
pub fn max_bytes() -> usize {
    *MAX_BYTES.get_or_init(|| {
        let set = std::env::var("PYSECURE_RPC_MAX_MESSAGE").ok();
        set.and_then(|bytes| bytes.parse().ok()).unwrap_or(64 << 20)
    })
}

/// Sets what [`max_bytes`] is. To be called before the first message; later it changes nothing.
pub fn set_max_bytes(bytes: usize) {
    let _ = MAX_BYTES.set(bytes);
}

static MAX_BYTES: OnceLock<usize> = OnceLock::new();
