//! Which functions are slow.

use std::sync::atomic::{AtomicU32, Ordering};

/// A function that is found to be slow is taken to be for one, two, four … calls, up to so many, while it stays so: that it lost its
/// CPU for a moment does not make it slow.
const SLOW_TURNS: u32 = 64;

/// Whether a function is taken to be slow: one that nobody has measured is. Used by whoever has the interpreter's lock, which orders
/// all access: the atomics are Relaxed, and are there for Rust's sake alone.
pub struct Pace {
    /// For so many calls more.
    turns: AtomicU32,
    /// For so many calls when it last was found to be slow.
    last: AtomicU32,
}

impl Pace {
    pub fn new() -> Pace {
        Pace {
            turns: AtomicU32::new(1),
            last: AtomicU32::new(0),
        }
    }

    /// Before it runs: is it slow?
    pub fn begin(&self) -> bool {
        let turns = self.turns.load(Ordering::Relaxed);
        if turns > 0 {
            self.turns.store(turns - 1, Ordering::Relaxed);
        }
        turns > 0
    }

    /// After it ran: was it slow?
    pub fn ended(&self, slow: bool) {
        let last = self.last.load(Ordering::Relaxed);
        if slow {
            let turns = (2 * last).clamp(1, SLOW_TURNS);
            self.last.store(turns, Ordering::Relaxed);
            self.turns.store(turns, Ordering::Relaxed);
        } else if last > 0 {
            self.last.store(last / 2, Ordering::Relaxed);
        }
    }
}
