//! What the peer of a connection sends, and how messages are sent to it.

use memmap2::MmapMut;
use pysecure_wire::limits::MAX_MESSAGE;
use pysecure_wire::socket::{Received, readable, receive, send_message};
use pysecure_wire::{EncodedMessage, IncomingArea, Malformed, Spin, WireError};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Instant;

/// Why nothing more comes on a connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("the connection has ended")]
    Ended,
    #[error("{0}")]
    Io(Errno),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl From<Errno> for SocketError {
    fn from(errno: Errno) -> SocketError {
        match errno {
            Errno::PIPE | Errno::CONNRESET => SocketError::Ended,
            errno => SocketError::Io(errno),
        }
    }
}

impl From<Malformed> for SocketError {
    fn from(malformed: Malformed) -> SocketError {
        SocketError::Wire(malformed.into())
    }
}

/// Sends a message that has been sealed.
pub(crate) fn send(socket: BorrowedFd<'_>, message: &EncodedMessage) -> Result<(), SocketError> {
    Ok(send_message(socket, message)?)
}

/// What the peer sends, and what it keeps here.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub(crate) area: IncomingArea,
    /// A mapping of its own, which goes back to the kernel whole.
    buffer: Option<MmapMut>,
    spin: Spin,
}

impl Incoming {
    /// Gives up the memory that only messages need.
    #[cfg(feature = "service")]
    pub(crate) fn free_buffer(&mut self) {
        self.buffer = None;
    }

    /// Waits for the next message, and reads it. None if the deadline passes before, or the socket's own limit.
    pub(crate) fn receive<T>(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Option<Instant>,
        read: impl FnOnce(&[u8], Vec<OwnedFd>, &mut IncomingArea) -> Result<T, WireError>,
    ) -> Result<Option<T>, SocketError> {
        let Incoming { area, buffer, spin } = self;
        let bytes = match buffer {
            Some(bytes) => bytes,
            none => none.insert(MmapMut::map_anon(MAX_MESSAGE).map_err(|_| SocketError::Io(Errno::NOMEM))?),
        };
        // Both closures write into it, but never at the same time.
        let buffer = std::cell::RefCell::new(bytes);
        let get = |flags| rustix::io::retry_on_intr(|| receive(socket, &mut buffer.borrow_mut(), flags));
        let got = spin.turn(
            || get(RecvFlags::DONTWAIT),
            || match deadline.is_none() || readable(socket, deadline)? {
                true => get(RecvFlags::empty()),
                false => Err(Errno::TIMEDOUT),
            },
        );
        match got {
            Ok(Received::Message(0, _)) => Err(SocketError::Ended),
            Ok(Received::Message(len, fds)) => Ok(Some(read(&buffer.into_inner()[..len], fds, area)?)),
            Ok(Received::CutShort) => Err(Malformed::CutShort.into()),
            Err(Errno::TIMEDOUT | Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
