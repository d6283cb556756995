//! Messages on a socket, with their descriptors.

use crate::writer::EncodedMessage;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

/// What came.
#[derive(Debug)]
pub enum Received {
    /// A message of so many bytes, with its descriptors. No bytes are the end of the connection.
    Message(usize, Vec<OwnedFd>),
    /// A message that is longer than the buffer, or has more descriptors than may be: it was cut short.
    CutShort,
}

/// Receives one message into `buffer`.
#[inline]
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8], flags: RecvFlags) -> Result<Received, Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let into = &mut [IoSliceMut::new(buffer)];
    let got = rustix::net::recvmsg(socket, into, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    match got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        true => Ok(Received::CutShort),
        false => Ok(Received::Message(got.bytes, fds)),
    }
}

/// Sends one message. EPIPE raises no signal.
#[inline]
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[Arc<OwnedFd>], flags: SendFlags) -> Result<(), Errno> {
    let flags = flags | SendFlags::NOSIGNAL;
    if fds.is_empty() {
        rustix::net::send(socket, bytes, flags)?;
        return Ok(());
    }
    let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)?;
    Ok(())
}

/// Sends one message, and waits for as long as that takes.
pub fn send_message(socket: BorrowedFd<'_>, message: &EncodedMessage) -> Result<(), Errno> {
    rustix::io::retry_on_intr(|| send(socket, &message.bytes, &message.fds, SendFlags::empty()))
}

/// Waits for a message or the end of the connection. False if the deadline passes before.
pub fn readable(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
    loop {
        let timeout = deadline.map(|at| {
            let left = at.saturating_duration_since(Instant::now());
            Timespec {
                tv_sec: left.as_secs() as i64,
                tv_nsec: left.subsec_nanos().into(),
            }
        });
        let mut ready = [PollFd::new(&socket, PollFlags::IN)];
        match rustix::event::poll(&mut ready, timeout.as_ref()) {
            Ok(came) => return Ok(came > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
