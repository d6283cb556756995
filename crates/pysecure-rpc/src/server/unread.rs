//! How much a service has sent to a caller that the caller has not read.

use super::held;
use pysecure_wire::limits::max_bytes;
use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};

/// With so many unread bytes a caller's calls are refused.
pub(super) fn refusing() -> usize {
    (2 * max_bytes()).max(8 << 20)
}

/// No more than so many bytes may be unread.
pub(super) fn most() -> usize {
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

    /// Something is sent on this connection.
    pub(super) fn add(&self, connection: u64, socket: &Arc<OwnedFd>, bytes: usize, fds: usize) {
        let mut sent = held(&self.sent);
        let of = sent.of.entry(connection).or_insert_with(|| (socket.clone(), 0, 0));
        of.1 += bytes;
        of.2 += fds;
        sent.bytes += bytes;
        sent.fds += fds;
    }

    /// The connection is closed.
    pub(super) fn remove(&self, connection: u64) {
        held(&self.sent).remove(connection);
    }

    /// May so much more be unread, of so many bytes at most?
    pub(super) fn has_room(&self, bytes: usize, fds: usize, most: usize) -> bool {
        let mut sent = held(&self.sent);
        let fits = |sent: &Sent| sent.bytes + bytes <= most && sent.fds + fds <= self.max_fds;
        if fits(&sent) {
            return true;
        }
        sent.recount();
        fits(&sent)
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
