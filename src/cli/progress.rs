//! How long work goes, as it goes: one line that counts on a terminal; elsewhere a plain line now and then, of work that
//! takes so long that somebody may wonder.

use crate::jail::store::Tell;
use crate::supervise::protocol::Progress;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two plain lines, and before the first.
const PAUSE: Duration = Duration::from_secs(2);

/// How far the building of a jail is, on a terminal.
pub(super) fn building() -> Option<Tell> {
    fn show(done: usize, all: usize) {
        match done {
            _ if done == all => eprint!("\r\x1b[K"),
            _ if done % 64 == 1 => eprint!("\rbuilding a jail: {done} of {all} files"),
            _ => {}
        }
    }
    std::io::stderr().is_terminal().then_some(show as Tell)
}

pub(super) struct Told {
    /// How many are to settle.
    of: usize,
    settled: usize,
    on_terminal: bool,
    last_line: Instant,
    failed: Option<u8>,
}

impl Told {
    pub(super) fn new(of: usize) -> Told {
        Told {
            of,
            settled: 0,
            on_terminal: std::io::stderr().is_terminal(),
            last_line: Instant::now(),
            failed: None,
        }
    }

    pub(super) fn hear(&mut self, progress: &Progress) {
        match progress {
            Progress::Settled { service, state } => {
                let state = crate::plain::line(state);
                self.settled += 1;
                if self.on_terminal && self.of > 1 {
                    // Back to the start of the line, and whatever stood there away.
                    eprint!(
                        "\r\x1b[K[{}/{}] {service} {state}",
                        self.settled,
                        self.of.max(self.settled)
                    );
                    let _ = std::io::stderr().flush();
                } else if self.last_line.elapsed() >= PAUSE {
                    errln!("{} of {}: {service} {state}", self.settled, self.of.max(self.settled));
                    self.last_line = Instant::now();
                }
            }
            Progress::Failed { service, error, code } => {
                self.clear();
                if service.is_empty() {
                    errln!("error: {error}");
                } else {
                    errln!("error: service `{service}`: {error}");
                }
                self.failed.get_or_insert((*code).max(1));
            }
            Progress::Done => {}
        }
    }

    fn clear(&self) {
        if self.on_terminal && self.of > 1 {
            eprint!("\r\x1b[K");
        }
    }

    /// The exit code that it comes to.
    pub(super) fn end(self) -> u8 {
        self.clear();
        self.failed.unwrap_or(0)
    }
}
