//! Services' lines for the host's own log, as its local programs send them: one datagram a line.
//!
//! journald: its native protocol, <https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>. syslog: RFC 3164, as syslog(3)
//! writes it. Nothing here waits: a socket that is full says so, and one that is gone is tried again.

use super::record::{self, Record};
use crate::values::Sink;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io::Write;
use std::os::fd::OwnedFd;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervise) enum Daemon {
    Journald,
    Syslog,
}

impl Daemon {
    pub(in crate::supervise) fn of(sink: Sink) -> Option<Daemon> {
        match sink {
            Sink::Journald => Some(Daemon::Journald),
            Sink::Syslog => Some(Daemon::Syslog),
            Sink::File | Sink::None => None,
        }
    }

    pub(in crate::supervise) fn name(self) -> &'static str {
        match self {
            Daemon::Journald => "journald",
            Daemon::Syslog => "syslog",
        }
    }

    pub(in crate::supervise) fn path(self) -> &'static str {
        match self {
            Daemon::Journald => "/run/systemd/journal/socket",
            Daemon::Syslog => "/dev/log",
        }
    }
}

/// A service's connection to a daemon. The descriptor stays the same when it is made anew.
pub(in crate::supervise) struct Connection {
    pub socket: OwnedFd,
    daemon: Daemon,
    app: String,
    service: String,
    message: Vec<u8>,
}

impl Connection {
    pub(in crate::supervise) fn new(daemon: Daemon, app: &str, service: &str) -> Result<Connection, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let made = Connection {
            socket: rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?,
            daemon,
            app: app.to_owned(),
            service: service.to_owned(),
            message: Vec::new(),
        };
        made.connect()?;
        Ok(made)
    }

    fn connect(&self) -> Result<(), Errno> {
        rustix::net::connect(&self.socket, &SocketAddrUnix::new(self.daemon.path())?)
    }

    /// Sends records; how many bytes of them went, and why it is not all. `AGAIN`: the rest may go later.
    pub(in crate::supervise) fn send(&mut self, records: &[u8]) -> (usize, Option<Errno>) {
        let mut done = 0;
        for line in records.split_inclusive(|b| *b == b'\n') {
            if let Some(record) = record::parse(line.strip_suffix(b"\n").unwrap_or(line)) {
                self.message.clear();
                self.compose(&record);
                if let Err(errno) = self.send_one() {
                    return (done, Some(errno));
                }
            }
            done += line.len();
        }
        (done, None)
    }

    fn send_one(&self) -> Result<(), Errno> {
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        let mut anew = false;
        loop {
            match rustix::net::send(&self.socket, &self.message, flags) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                // It was started anew, and listens under the same name.
                Err(Errno::CONNREFUSED | Errno::NOTCONN | Errno::CONNRESET | Errno::PIPE) if !anew => {
                    self.connect()?;
                    anew = true;
                }
                Err(Errno::NOBUFS) => return Err(Errno::AGAIN),
                Err(errno) => return Err(errno),
            }
        }
    }

    fn compose(&mut self, record: &Record<'_>) {
        // syslog(3): LOG_ERR, LOG_INFO.
        let priority = if record.stream == record::STREAMS[1] { 3 } else { 6 };
        let (app, service, out) = (&self.app, &self.service, &mut self.message);
        // Writing to memory does not fail.
        let _ = match self.daemon {
            Daemon::Journald => write!(
                out,
                "PRIORITY={priority}\nSYSLOG_IDENTIFIER={app}/{service}\nPYSECURE_APP={app}\nPYSECURE_SERVICE={service}\nMESSAGE="
            ),
            Daemon::Syslog => {
                // LOG_DAEMON; its times are local and without a year.
                let time = record.time.parse::<jiff::Timestamp>().unwrap_or_default();
                let time = time.to_zoned(jiff::tz::TimeZone::system());
                write!(
                    out,
                    "<{}>{} {app}/{service}: ",
                    3 * 8 + priority,
                    time.strftime("%b %e %H:%M:%S")
                )
            }
        };
        out.extend_from_slice(record.text);
        if self.daemon == Daemon::Journald {
            out.push(b'\n');
        }
    }
}
