//! How long work goes, as it goes: one line that counts on a terminal; elsewhere a plain line now and then, of work that
//! takes so long that somebody may wonder.

use crate::supervise::protocol::Progress;
use crate::sys::is_pending;
use nix::sys::signal::Signal;
use std::io::{IsTerminal, Write};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

/// Between two plain lines, and before the first.
const PAUSE: Duration = Duration::from_secs(2);

/// How far the building of a jail is, on a terminal. It is broken off where `up --watch` has blocked a signal to end, which it
/// would hear only when the jail is there.
pub(super) fn building(done: usize, all: usize) -> ControlFlow<()> {
    if done == all || done % 64 == 1 {
        show_building(done, all);
    }
    match is_pending(&[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    }
}

fn show_building(done: usize, all: usize) {
    match std::io::stderr().is_terminal() {
        false => {}
        true if done == all => eprint!("\r\x1b[K"),
        true => eprint!("\rbuilding a jail: {done} of {all} files"),
    }
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
