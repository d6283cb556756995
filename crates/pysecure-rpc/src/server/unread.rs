//! How much a service has sent to a caller that the caller has not read.

use super::held;
use pysecure_wire::limits::max_bytes;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// With so many unread bytes a caller's calls are refused.
fn refusing() -> usize {
    (2 * max_bytes()).max(8 << 20)
}

/// No more than so many bytes may be unread.
fn most() -> usize {
    (4 * max_bytes()).max(16 << 20)
}

/// What was sent to one caller by memfd, and is unread.
pub(super) struct Unread {
    sent: Mutex<Sent>,
    /// Descriptors that may be on their way to this caller.
    max_fds: usize,
}

#[derive(Default)]
struct Sent {
    /// By the numbers of the connections: the socket, bytes and descriptors.
    of: HashMap<u64, (Arc<OwnedFd>, usize, usize)>,
    bytes: usize,
    fds: usize,
}

impl Sent {
    fn remove(&mut self, connection: u64) {
        if let Some((_, bytes, fds)) = self.of.remove(&connection) {
            self.bytes -= bytes;
            self.fds -= fds;
        }
    }

    /// Forgets what has been read meanwhile.
    fn recount(&mut self) {
        let read = |(_, (socket, _, _)): &(&u64, &(Arc<OwnedFd>, usize, usize))| all_read(socket.as_fd());
        let read: Vec<u64> = self.of.iter().filter(read).map(|(number, _)| *number).collect();
        for number in read {
            self.remove(number);
        }
    }
}

impl Unread {
    pub(super) fn new(max_fds: usize) -> Unread {
        Unread {
            sent: Mutex::default(),
            max_fds,
        }
    }

    /// Counts so much more as unread, if that may be; in one step, for other connections of the caller's send meanwhile. It is
    /// a connection's by [`Unread::sent`], or nobody's by [`Unread::unreserve`].
    pub(super) fn reserve(&self, bytes: usize, fds: usize) -> bool {
        let mut sent = held(&self.sent);
        let fits = self.fits(&mut sent, bytes, fds, most());
        if fits {
            sent.bytes += bytes;
            sent.fds += fds;
        }
        fits
    }

    /// What was reserved is not sent.
    pub(super) fn unreserve(&self, bytes: usize, fds: usize) {
        let mut sent = held(&self.sent);
        sent.bytes -= bytes;
        sent.fds -= fds;
    }

    /// What was reserved was sent on this connection.
    pub(super) fn sent(&self, connection: u64, socket: &Arc<OwnedFd>, bytes: usize, fds: usize) {
        let mut sent = held(&self.sent);
        let of = sent.of.entry(connection).or_insert_with(|| (socket.clone(), 0, 0));
        of.1 += bytes;
        of.2 += fds;
    }

    /// The connection is closed.
    pub(super) fn remove(&self, connection: u64) {
        held(&self.sent).remove(connection);
    }

    /// Is so much unread that calls are refused?
    pub(super) fn refuses(&self) -> bool {
        !self.fits(&mut held(&self.sent), 0, 0, refusing())
    }

    fn fits(&self, sent: &mut Sent, bytes: usize, fds: usize, most: usize) -> bool {
        let fits = |sent: &Sent| sent.bytes + bytes <= most && sent.fds + fds <= self.max_fds;
        if fits(sent) {
            return true;
        }
        sent.recount();
        fits(sent)
    }
}

/// Has the peer received all that was sent? SIOCOUTQ, of unix(7).
fn all_read(socket: BorrowedFd<'_>) -> bool {
    const OUTQ: rustix::ioctl::Opcode = nix::libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: it writes an int, and nothing else.
    #[allow(unsafe_code)]
    let left = unsafe {
        let ask = rustix::ioctl::Getter::<OUTQ, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(socket, ask)
    };
    left == Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn what_is_reserved_is_held_though_nothing_was_sent_yet() {
        let unread = Unread::new(10);
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let ours = Arc::new(ours);
        let half = most() / 2;
        assert!(unread.reserve(half, 1) && unread.reserve(half, 1));
        // Looking again at what was read finds an empty socket, and may not forget what is about to be sent.
        assert!(!unread.reserve(1, 0) && unread.refuses());
        rustix::io::write(&*ours, b"first").unwrap();
        unread.sent(7, &ours, half, 1);
        assert!(!unread.reserve(1, 0), "it is unread");
        rustix::io::read(&theirs, &mut [0u8; 8]).unwrap();
        assert!(
            unread.reserve(half, 0),
            "the first was read, the second is still to be sent"
        );
        assert!(!unread.reserve(1, 0));
        unread.unreserve(half, 0);
        unread.unreserve(half, 1);
        assert!(!unread.refuses() && unread.reserve(most(), 10));
        assert!(!unread.reserve(0, 1), "descriptors have a bound of their own");
    }

    #[test]
    fn connections_that_send_at_once_stay_below_the_bound_together() {
        let unread = Unread::new(usize::MAX);
        let piece = most() / 5;
        let reserved: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| (0..1000).filter(|_| unread.reserve(piece, 0)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(reserved, 5);
    }
}
