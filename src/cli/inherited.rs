//! What a process inherits from whoever calls it, put right before anything else is done: signals that are ignored or
//! blocked, the umask, limits and open descriptors. Follows execve(2), signal(7), getrlimit(2), sd_listen_fds(3).
//!
//! Supplementary groups stay: by them a user may pass the folders that lead to a manifest. Services do not get them.

use crate::sys;
use nix::sys::signal::{SigSet, Signal};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::os::fd::RawFd;

/// Limits that would end this process in the middle of its work, or that its services would inherit unasked.
const RAISED: [Resource; 4] = [Resource::Fsize, Resource::Cpu, Resource::As, Resource::Data];

/// To be called first in `main`, while this is the only thread. An error is one of closing what is not ours.
pub(super) fn put_right() -> Result<(), Errno> {
    for number in Signal::iterator() {
        match number {
            // nohup(1), and a shell's background jobs: these are wishes of the caller.
            Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT => {}
            // Rust's runtime has handlers of its own for these.
            Signal::SIGSEGV | Signal::SIGBUS => {}
            Signal::SIGKILL | Signal::SIGSTOP => {}
            // A file that may not grow further is an error of the write, as a full disk is.
            Signal::SIGXFSZ => sys::ignore_signal(number),
            // SIGCHLD too: if it is ignored, nobody learns how a child ended; wait(2). And SIGPIPE, which Rust ignores: a
            // command whose reader has gone (`pysecure logs | head`) is to end quietly.
            _ => sys::default_signal(number),
        }
    }
    let _ = SigSet::empty().thread_set_mask();
    // What is made has the mode that it is made with.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for resource in RAISED {
        let Rlimit { current, maximum } = getrlimit(resource);
        if current != maximum {
            let _ = setrlimit(
                resource,
                Rlimit {
                    current: maximum,
                    maximum,
                },
            );
        }
    }
    // A lock, a pipe or a secret of the caller's would stay open for as long as the app is up.
    sys::close_inherited(&wanted())
}

/// Descriptors from 3 on that were handed over on purpose: by a service manager, and by the shell in arguments, as
/// in `-f <(generate)`.
fn wanted() -> Vec<RawFd> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<RawFd>().ok();
    let listening = number("LISTEN_PID").and_then(|_| number("LISTEN_FDS")).unwrap_or(0);
    let named = std::env::args().filter_map(|argument| {
        let (_, digits) = argument.rsplit_once("/fd/")?;
        digits.parse::<RawFd>().ok()
    });
    (3..3 + listening.clamp(0, 1024))
        .chain(named.filter(|fd| *fd > 2))
        .collect()
}
