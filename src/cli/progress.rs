//! How long work goes, as it goes: one line that counts on a terminal; elsewhere only what went wrong, so that scripts
//! have nothing to strip.

use crate::supervise::protocol::Progress;
use std::io::{IsTerminal, Write};

pub(super) struct Told {
    /// How many are to settle.
    of: usize,
    settled: usize,
    on_terminal: bool,
    failed: Option<u8>,
}

impl Told {
    pub(super) fn new(of: usize) -> Told {
        Told {
            of,
            settled: 0,
            on_terminal: std::io::stderr().is_terminal(),
            failed: None,
        }
    }

    pub(super) fn hear(&mut self, progress: &Progress) {
        match progress {
            Progress::Settled { service, state } => {
                self.settled += 1;
                if self.on_terminal && self.of > 1 {
                    // Back to the start of the line, and whatever stood there away.
                    eprint!(
                        "\r\x1b[K[{}/{}] {service} {state}",
                        self.settled,
                        self.of.max(self.settled)
                    );
                    let _ = std::io::stderr().flush();
                }
            }
            Progress::Failed { service, error, code } => {
                self.clear();
                if service.is_empty() {
                    eprintln!("error: {error}");
                } else {
                    eprintln!("error: service `{service}`: {error}");
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
