//! Messages on a socket, and the buffers for them.

use pysecure_wire::Spin;
use pysecure_wire::limits::MAX_MESSAGE;
use pysecure_wire::socket::{Received, receive};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::cell::{Cell, RefCell};
use std::os::fd::BorrowedFd;
use std::time::Duration;

thread_local! {
    /// A buffer for what comes, and one for what goes; whoever uses one takes it, and puts it back.
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub fn incoming() -> Vec<u8> {
    let mut buffer = INCOMING.take();
    if buffer.len() < MAX_MESSAGE {
        // Zeroed pages that are not touched take no memory.
        buffer = vec![0; MAX_MESSAGE];
    }
    buffer
}

pub fn incoming_done(buffer: Vec<u8>) {
    INCOMING.set(buffer);
}

pub fn outgoing() -> Vec<u8> {
    OUTGOING.take()
}

pub fn outgoing_done(buffer: Vec<u8>) {
    if buffer.capacity() <= 2 * MAX_MESSAGE {
        OUTGOING.set(buffer);
    }
}

/// Waits for a message; after asking again and again for a moment, where that pays.
pub fn wait(fd: BorrowedFd<'_>, buffer: &mut [u8], spin: &mut Spin) -> Result<Received, Errno> {
    // Both ways write into it, but never at the same time.
    let buffer = RefCell::new(buffer);
    let get = |flags| receive(fd, &mut buffer.borrow_mut(), flags);
    spin.turn(|| get(RecvFlags::DONTWAIT), || get(RecvFlags::empty()))
}

/// How long a receive waits. False if that cannot be said.
pub fn set_limit(fd: BorrowedFd<'_>, limit: Option<Duration>) -> bool {
    rustix::net::sockopt::set_socket_timeout(fd, rustix::net::sockopt::Timeout::Recv, limit).is_ok()
}
