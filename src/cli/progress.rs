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
    /// On a terminal: a line stands there that the next one takes the place of.
    stands: bool,
    last_line: Instant,
    failed: bool,
}

impl Told {
    pub(super) fn new(of: usize) -> Told {
        Told {
            of,
            settled: 0,
            on_terminal: std::io::stderr().is_terminal(),
            stands: false,
            last_line: Instant::now(),
            failed: false,
        }
    }

    pub(super) fn hear(&mut self, progress: &Progress) {
        match progress {
            Progress::Settled { service, state } => {
                let state = crate::plain::line(state);
                self.settled += 1;
                if self.on_terminal && self.of > 1 {
                    self.stand(&format!(
                        "[{}/{}] {service} {state}",
                        self.settled,
                        self.of.max(self.settled)
                    ));
                } else if self.last_line.elapsed() >= PAUSE {
                    errln!("{} of {}: {service} {state}", self.settled, self.of.max(self.settled));
                    self.last_line = Instant::now();
                }
            }
            Progress::Waiting { text } if self.on_terminal => {
                self.stand(&format!("waiting for {}", crate::plain::line(text)));
            }
            Progress::Waiting { text } => {
                errln!("waiting for {text}");
            }
            Progress::Failed { service, error, .. } => {
                self.clear();
                if service.is_empty() {
                    errln!("error: {error}");
                } else {
                    errln!("error: service `{service}`: {error}");
                }
                self.failed = true;
            }
            Progress::Done => {}
        }
    }

    /// Puts a line in the place of the last one, no longer than the terminal is wide: what has run over cannot be taken away.
    fn stand(&mut self, line: &str) {
        let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
        let width = if width == 0 { 80 } else { width };
        let line: String = line.chars().take(width.saturating_sub(1)).collect();
        // Back to the start of the line, and whatever stood there away.
        eprint!("\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
        self.stands = true;
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.stands) {
            eprint!("\r\x1b[K");
        }
    }

    /// The exit code that it comes to: 1 if anything failed, and never a service's own, which could be taken for one of this program's.
    pub(super) fn end(mut self) -> u8 {
        self.clear();
        u8::from(self.failed)
    }
}
