//! The control socket's server side. Its folder is the owner's alone, and who connects is asked of the kernel
//! besides. A client can say anything, half of it, or nothing: it is held to one line of bounded length, and never
//! waited for. What a client does not read is held for it, within bounds where nobody asked for it all.

use super::protocol::{Hello, LONGEST_REQUEST, Reply, Request};
use crate::sys;
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

/// The longest request of a scraper, in bytes.
const LONGEST_SCRAPE: usize = 16 << 10;
/// Read in one turn of the loop at most, so that a long request holds up nobody.
const MOST_READ: usize = 256 << 10;
/// Answers that a client may leave unread, in bytes: until it reads on, nothing more of it is heard.
const MOST_UNSENT: usize = 1 << 20;

/// Descriptors that are taken of one message: more than any request has, so that too many are noticed.
const MOST_PASSED: usize = 8;

pub(in crate::supervise) struct Connection {
    pub socket: OwnedFd,
    /// Who asks.
    pub client: Hello,
    incoming: Vec<u8>,
    /// How much of `incoming` has been looked at, and holds no end of a request.
    seen: usize,
    outgoing: Vec<u8>,
    /// How much of `outgoing` has been sent.
    sent: usize,
    /// Descriptors that came with a request.
    pub passed: Vec<OwnedFd>,
    /// A reply is owed, but not ready.
    pub waits_for_down: bool,
    /// It speaks HTTP, and asks for the metrics.
    pub scrapes: bool,
    /// It is to be let go of when all is sent.
    pub closes: bool,
    /// It hears of all that happens.
    pub events: bool,
    /// It has not been told of some.
    pub lost: bool,
    /// When it last said something, or came.
    heard: Instant,
}

/// What reading from a client came to.
pub(in crate::supervise) enum Heard {
    Nothing,
    Request(Request),
    /// To be answered with this, and closed.
    Rubbish(String),
    /// A request for the metrics, or for something else.
    Scrape(bool),
    Gone,
}

impl Connection {
    pub(in crate::supervise) fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            client: Hello::unsaid(),
            incoming: Vec::new(),
            seen: 0,
            outgoing: Vec::new(),
            sent: 0,
            passed: Vec::new(),
            waits_for_down: false,
            scrapes: false,
            closes: false,
            events: false,
            lost: false,
            heard: Instant::now(),
        }
    }

    /// Is the peer this process's own user? unix(7), SO_PEERCRED.
    pub(in crate::supervise) fn is_owner(&self) -> bool {
        rustix::net::sockopt::socket_peercred(&self.socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
    }

    /// Reads what is there, up to the end of one request.
    pub(in crate::supervise) fn hear(&mut self) -> Heard {
        let mut in_all = 0;
        loop {
            // A client may have sent the next request before the answer to this one.
            if self.scrapes {
                if let Some(asked) = scraped(&self.incoming) {
                    return Heard::Scrape(asked);
                }
            } else if let Some(request) = self.next_request() {
                return request;
            }
            let seen = self.incoming.len();
            let longest = if self.scrapes { LONGEST_SCRAPE } else { LONGEST_REQUEST };
            if seen > longest {
                return Heard::Rubbish("the request is too long".into());
            }
            if in_all > MOST_READ {
                return Heard::Nothing;
            }
            match self.read() {
                Ok(0) => return Heard::Gone,
                Ok(read) => in_all += read,
                Err(Errno::AGAIN) => return Heard::Nothing,
                Err(Errno::INTR) => {}
                Err(_) => return Heard::Gone,
            }
            if self.passed.len() > 3 {
                return Heard::Rubbish("more descriptors than a request has".into());
            }
        }
    }

    /// Takes the first request that has come as a whole. What has been looked at is not looked at again: a long one comes in
    /// many pieces.
    fn next_request(&mut self) -> Option<Heard> {
        let Some(end) = memchr::memchr(b'\n', &self.incoming[self.seen..]) else {
            self.seen = self.incoming.len();
            return None;
        };
        let line: Vec<u8> = self.incoming.drain(..=self.seen + end).collect();
        self.seen = 0;
        Some(match serde_json::from_slice(&line) {
            Ok(request) => Heard::Request(request),
            Err(error) => Heard::Rubbish(self.not_understood(&line, &error)),
        })
    }

    /// What to say of a line that is no request, or one that only another pysecure knows.
    fn not_understood(&self, line: &[u8], error: &serde_json::Error) -> String {
        let own = Hello::own();
        let asks = serde_json::from_slice::<serde_json::Value>(line).is_ok_and(|line| line.get("do").is_some());
        match asks && self.client.version != own.version {
            true => format!("not a request: {error}; {}", own.apart_from(&self.client)),
            false => format!("not a request: {error}"),
        }
    }

    /// Has a whole request been read that was not looked at yet?
    pub(in crate::supervise) fn has_more(&self) -> bool {
        !self.scrapes && memchr::memchr(b'\n', &self.incoming[self.seen..]).is_some()
    }

    /// Has it said nothing for so long, and is nothing owed to it? Whether it waits for a service, others know.
    pub(in crate::supervise) fn is_idle_for(&self, time: Duration) -> bool {
        self.heard.elapsed() >= time && !self.events && !self.waits_for_down && self.unsent() == 0
    }

    /// Not while it leaves so much unread, and not when its last answer is on the way.
    pub(in crate::supervise) fn is_heard(&self) -> bool {
        !self.closes && self.unsent() <= MOST_UNSENT
    }

    fn read(&mut self) -> Result<usize, Errno> {
        let mut bytes = [0u8; 16 << 10];
        let read = sys::receive_fds(self.socket.as_fd(), &mut bytes, MOST_PASSED, &mut self.passed)?;
        self.incoming.extend_from_slice(&bytes[..read]);
        self.heard = Instant::now();
        Ok(read)
    }

    pub(in crate::supervise) fn reply(&mut self, reply: &Reply) {
        // A reply holds strings and numbers only, which always serialise.
        self.outgoing.extend(serde_json::to_vec(reply).unwrap_or_default());
        self.outgoing.push(b'\n');
    }

    pub(in crate::supervise) fn put(&mut self, bytes: &[u8]) {
        self.outgoing.extend_from_slice(bytes);
    }

    /// Bytes that the client has not taken yet.
    pub(in crate::supervise) fn unsent(&self) -> usize {
        self.outgoing.len() - self.sent
    }

    /// Sends what it can; says whether something is left, or `Err` if the client is gone.
    pub(in crate::supervise) fn flush(&mut self) -> Result<bool, Errno> {
        while self.sent < self.outgoing.len() {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(self.socket.as_fd(), &self.outgoing[self.sent..], flags) {
                Ok(sent) => self.sent += sent,
                Err(Errno::AGAIN) => {
                    if self.sent > 1 << 20 {
                        self.outgoing.drain(..self.sent);
                        self.sent = 0;
                    }
                    return Ok(true);
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(false)
    }
}

/// Has a whole HTTP request come, and does it ask for the metrics? RFC 9112, 2.1.
fn scraped(bytes: &[u8]) -> Option<bool> {
    let head = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let line = bytes[..head].split(|b| *b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|b| *b == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    Some(method == b"GET" && (target == b"/metrics" || target == b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scrapes() {
        assert_eq!(scraped(b"GET /metrics HTTP/1.1\r\nHost: x\r\n"), None);
        assert_eq!(scraped(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"), Some(true));
        assert_eq!(scraped(b"POST /metrics HTTP/1.1\r\n\r\n"), Some(false));
        assert_eq!(scraped(b"\r\n\r\n"), Some(false));
    }

    /// A connection, and its client's end.
    fn connected() -> (Connection, OwnedFd) {
        let (ours, theirs) = rustix::net::socketpair(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        (Connection::new(ours), theirs)
    }

    /// Whoever never ends a request does not fill this process's memory with it.
    #[test]
    fn what_has_no_end_is_no_request() {
        let (mut connection, theirs) = connected();
        // All but a little has come.
        connection.incoming = vec![b'x'; LONGEST_REQUEST];
        assert!(matches!(connection.hear(), Heard::Nothing));
        // What was looked at is not looked at again.
        assert_eq!(connection.seen, LONGEST_REQUEST);
        rustix::io::write(&theirs, b"x").unwrap();
        assert!(matches!(connection.hear(), Heard::Rubbish(_)));
    }

    proptest::proptest! {
        #[test]
        fn anything_is_heard(bytes: Vec<u8>) {
            scraped(&bytes);
            // What a client says becomes a request or a sentence.
            let (mut connection, theirs) = connected();
            rustix::io::write(&theirs, &bytes).unwrap();
            rustix::io::write(&theirs, b"\n").unwrap();
            while connection.incoming.is_empty() || connection.has_more() {
                let heard = connection.hear();
                proptest::prop_assert!(matches!(heard, Heard::Rubbish(_) | Heard::Request(_)));
                if connection.incoming.is_empty() {
                    break;
                }
            }
        }
    }
}
