//! One message on a socket, there or back.

use pysecure_rpc::spin::Spin;
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::cell::{Cell, RefCell};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::message::LONGEST;

thread_local! {
    /// A buffer for what comes, and one for what goes; whoever uses one takes it, and puts it back.
    static INCOMING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    static OUTGOING: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

pub fn incoming() -> Vec<u8> {
    let mut buffer = INCOMING.take();
    if buffer.len() < LONGEST {
        // Zeroed pages that are not touched take no memory.
        buffer = vec![0; LONGEST];
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
    if buffer.capacity() <= 2 * LONGEST {
        OUTGOING.set(buffer);
    }
}

pub enum Got {
    /// So many bytes; none at the end of the connection.
    Message(usize, Vec<OwnedFd>),
    /// More than there may be.
    CutShort,
}

pub fn receive(fd: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<Got, Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let got = rustix::net::recvmsg(
        fd,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        flags | RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    if got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Ok(Got::CutShort);
    }
    Ok(Got::Message(got.bytes, fds))
}

/// Waits for a message; after asking again and again for a moment, where that pays.
pub fn wait(fd: BorrowedFd<'_>, buffer: &mut [u8], spin: &mut Spin) -> Result<Got, Errno> {
    // Both ways write into it, but never at the same time.
    let buffer = RefCell::new(buffer);
    let get = |flags| receive(fd, &mut buffer.borrow_mut(), flags);
    spin.turn(|| get(RecvFlags::DONTWAIT), || get(RecvFlags::empty()))
}

/// How long a receive waits. False if that cannot be said.
pub fn set_limit(fd: BorrowedFd<'_>, limit: Option<Duration>) -> bool {
    rustix::net::sockopt::set_socket_timeout(fd, rustix::net::sockopt::Timeout::Recv, limit).is_ok()
}

pub fn send(fd: BorrowedFd<'_>, bytes: &[u8], fds: &[Arc<OwnedFd>], flags: SendFlags) -> Result<(), Errno> {
    let flags = flags | SendFlags::NOSIGNAL;
    if fds.is_empty() {
        rustix::net::send(fd, bytes, flags)?;
        return Ok(());
    }
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    rustix::net::sendmsg(fd, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}
