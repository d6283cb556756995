//! This supervisor under a service manager of its own: it says when all services are ready, and takes sockets that were
//! opened for it. Follows sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).

use sd_notify::NotifyState;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// sd_listen_fds(3): SD_LISTEN_FDS_START.
const FIRST_DESCRIPTOR: i32 = 3;

pub(super) struct Manager {
    /// How often it wants to hear from us, halved.
    interval: Option<Duration>,
    next: Option<Instant>,
}

impl Manager {
    pub(super) fn find() -> Manager {
        let interval = std::env::var_os("NOTIFY_SOCKET")
            .and_then(|_| std::env::var("WATCHDOG_USEC").ok())
            .and_then(|time| time.parse().ok())
            .map(|time: u64| Duration::from_micros(time / 2))
            .filter(|time| !time.is_zero());
        Manager {
            interval,
            next: interval.map(|_| Instant::now()),
        }
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    pub(super) fn tick(&mut self, now: Instant) {
        if self.next.is_some_and(|next| next <= now) {
            say(&[NotifyState::Watchdog]);
            self.next = self.interval.map(|interval| now + interval);
        }
    }

    pub(super) fn ready(&self) {
        say(&[NotifyState::Ready, NotifyState::Status("all services have begun")]);
    }

    pub(super) fn stopping(&self) {
        say(&[NotifyState::Stopping]);
    }
}

fn say(what: &[NotifyState<'_>]) {
    // Without a manager nobody is told, and nothing is wrong.
    if let Err(e) = sd_notify::notify(what) {
        tracing::debug!("tell the service manager: {e}");
    }
}

/// Listening sockets that this process was handed, and their addresses. Those of an ordinary user's `pysecure` were handed
/// to the process that waits outside of the outer namespace, which is the parent of this one.
pub(super) fn inherited() -> Vec<(SocketAddr, OwnedFd)> {
    let number = |name: &str| std::env::var(name).ok()?.parse::<i32>().ok();
    let own = rustix::process::getpid().as_raw_nonzero().get();
    let parent = rustix::process::getppid().map_or(0, |p| p.as_raw_nonzero().get());
    let (Some(pid), Some(count)) = (number("LISTEN_PID"), number("LISTEN_FDS")) else {
        return Vec::new();
    };
    if pid != own && !(pid == parent && crate::host::outer::inside()) {
        return Vec::new();
    }
    let mut out = Vec::new();
    for fd in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR.saturating_add(count.clamp(0, 1024)) {
        let Some(socket) = crate::sys::take_inherited(fd) else {
            continue;
        };
        let name = rustix::net::getsockname(&socket)
            .ok()
            .and_then(|name| name.try_into().ok());
        match name {
            Some(address) => out.push((address, socket)),
            None => tracing::warn!(fd, "a socket that was handed over is no TCP socket"),
        }
    }
    out
}
