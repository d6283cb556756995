//! Numbers that name things of one supervisor, a type each, and what an event of epoll(7) is about.

use nix::sys::epoll::{EpollEvent, EpollFlags};

/// A service of the app. A name that the manifest loses and gets back is another service by then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(u32);

/// A client at the control socket, or a scraper of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ConnectionId(u32);

/// Somebody who waits for services to begin or to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct WatchId(u32);

impl ServiceId {
    /// The service of a process that is run beside the app, where there is no other.
    pub const ALONE: ServiceId = ServiceId(0);

    /// The first of an app.
    pub(crate) const FIRST: ServiceId = ServiceId(0);

    #[cfg(test)]
    pub(crate) fn new(number: u32) -> ServiceId {
        ServiceId(number)
    }

    /// Its place among the records of an app's lock.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn next(self) -> ServiceId {
        ServiceId(self.0 + 1)
    }
}

impl ConnectionId {
    pub(crate) const FIRST: ConnectionId = ConnectionId(0);

    /// Long after the last client with that number has gone, it is another's.
    pub(crate) fn next(self) -> ConnectionId {
        ConnectionId(self.0.wrapping_add(1))
    }
}

impl WatchId {
    /// The `up` that started this supervisor.
    pub(crate) const FIRST: WatchId = WatchId(0);

    pub(crate) fn next(self) -> WatchId {
        WatchId(self.0.wrapping_add(1))
    }
}

/// Which of a service's two streams of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OutputStream {
    Stdout,
    Stderr,
}

impl OutputStream {
    pub(crate) const BOTH: [OutputStream; 2] = [OutputStream::Stdout, OutputStream::Stderr];

    pub(crate) fn index(self) -> usize {
        match self {
            OutputStream::Stdout => 0,
            OutputStream::Stderr => 1,
        }
    }
}

/// What an event of epoll(7) is about. The kernel keeps 64 bits for it: the kind in the upper half, a number in the lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EpollToken {
    Signals,
    Control,
    Metrics,
    Connection(ConnectionId),
    /// The report socket of a service's PID 1.
    Reports(ServiceId),
    /// The epoll of all output ([`super::logs::output`]).
    Outputs,
    /// The socket on which a service speaks sd_notify(3).
    Notify(ServiceId),
    /// A socket of a service that is started on demand.
    Demand(ServiceId),
    /// A service's companion ([`crate::launch::companion`]).
    Network(ServiceId),
    /// The companion of the app's network.
    AppNetwork,
    /// The relay of a service ([`crate::launch::relay`]).
    Relay(ServiceId),
    /// The folder of the app's own sockets.
    Folder,
    /// The folders in which rights go by ACL.
    Mending,
    /// A pipe that a service prints to.
    Pipe(ServiceId, OutputStream),
    /// The socket on which a service speaks syslog(3).
    Syslog(ServiceId),
    /// The log daemon that a service's lines go to.
    LogDaemon(ServiceId),
    Console,
}

impl EpollToken {
    pub(crate) fn pack(self) -> u64 {
        let (kind, number) = match self {
            EpollToken::Signals => (0u64, 0),
            EpollToken::Control => (1, 0),
            EpollToken::Metrics => (2, 0),
            EpollToken::Connection(id) => (3, id.0),
            EpollToken::Reports(id) => (4, id.0),
            EpollToken::Outputs => (5, 0),
            EpollToken::Notify(id) => (6, id.0),
            EpollToken::Demand(id) => (7, id.0),
            EpollToken::Network(id) => (8, id.0),
            EpollToken::AppNetwork => (9, 0),
            EpollToken::Relay(id) => (10, id.0),
            EpollToken::Folder => (11, 0),
            EpollToken::Mending => (12, 0),
            EpollToken::Pipe(id, OutputStream::Stdout) => (13, id.0),
            EpollToken::Pipe(id, OutputStream::Stderr) => (14, id.0),
            EpollToken::LogDaemon(id) => (15, id.0),
            EpollToken::Console => (16, 0),
            EpollToken::Syslog(id) => (17, id.0),
        };
        kind << 32 | u64::from(number)
    }

    /// `None` for a number that [`EpollToken::pack`] does not make.
    pub(crate) fn unpack(data: u64) -> Option<EpollToken> {
        let number = data as u32;
        let service = ServiceId(number);
        Some(match data >> 32 {
            0 => EpollToken::Signals,
            1 => EpollToken::Control,
            2 => EpollToken::Metrics,
            3 => EpollToken::Connection(ConnectionId(number)),
            4 => EpollToken::Reports(service),
            5 => EpollToken::Outputs,
            6 => EpollToken::Notify(service),
            7 => EpollToken::Demand(service),
            8 => EpollToken::Network(service),
            9 => EpollToken::AppNetwork,
            10 => EpollToken::Relay(service),
            11 => EpollToken::Folder,
            12 => EpollToken::Mending,
            13 => EpollToken::Pipe(service, OutputStream::Stdout),
            14 => EpollToken::Pipe(service, OutputStream::Stderr),
            15 => EpollToken::LogDaemon(service),
            16 => EpollToken::Console,
            17 => EpollToken::Syslog(service),
            _ => return None,
        })
    }

    /// The event to register: `interest`, and this token with it.
    pub(crate) fn event(self, interest: EpollFlags) -> EpollEvent {
        EpollEvent::new(interest, self.pack())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_token_is_told_from_all_others() {
        let mut found = std::collections::BTreeSet::new();
        for kind in 0u64..=u64::from(u32::MAX >> 16) {
            for number in [0u64, 1, u64::from(u32::MAX)] {
                let Some(token) = EpollToken::unpack(kind << 32 | number) else {
                    continue;
                };
                let packed = token.pack();
                assert_eq!(EpollToken::unpack(packed), Some(token));
                assert_eq!(packed >> 32, kind);
                found.insert(packed);
            }
        }
        // Ten kinds with a number of three values each, and eight without.
        assert_eq!(found.len(), 10 * 3 + 8);
    }
}
