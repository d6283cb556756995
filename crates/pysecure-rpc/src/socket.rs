//! One end of a connection: whole messages, with their descriptors.

use crate::memfd::{self, Kept};
use crate::spin::Spin;
use crate::value::{self, Asked, Given, Value, WireError};
use crate::writer::{Message, Writer};
use memmap2::MmapMut;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

/// The longest message on the socket.
pub(crate) const LONGEST: usize = 65_536;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SocketError {
    #[error("the connection has ended")]
    Ended,
    #[error("{0}")]
    Io(Errno),
    #[error(transparent)]
    Wire(#[from] WireError),
}

/// Sends one message, by way of LARGE if it is too long.
pub(crate) fn send(socket: BorrowedFd<'_>, message: Message) -> Result<(), SocketError> {
    message.check()?;
    if message.bytes.len() <= LONGEST {
        return put(socket, &message.bytes, &message.fds);
    }
    if message.bytes.len() > value::largest() {
        return Err(WireError::TooLarge("a message of more bytes than it may have").into());
    }
    message.full()?;
    let Message { bytes, mut fds, .. } = message;
    let mut large = Writer::message(2);
    large.uint(0);
    large.uint(bytes.len() as u64);
    fds.push(std::sync::Arc::new(memfd::sealed(&[&bytes]).map_err(WireError::from)?));
    put(socket, &large.finish().bytes, &fds)
}

fn put(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[std::sync::Arc<OwnedFd>]) -> Result<(), SocketError> {
    let result = if fds.is_empty() {
        rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, SendFlags::NOSIGNAL))
    } else {
        let borrowed: Vec<BorrowedFd<'_>> = fds.iter().map(|fd| fd.as_fd()).collect();
        rustix::io::retry_on_intr(|| {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&borrowed));
            rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)
        })
    };
    match result {
        Ok(_) => Ok(()),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(SocketError::Ended),
        Err(errno) => Err(SocketError::Io(errno)),
    }
}

/// A message that came.
pub(crate) enum Came {
    Message(Vec<Value>),
    /// A CALL of a function that this caller may not call: nothing was made of the rest. Names that are longer than any are cut.
    #[cfg_attr(not(feature = "service"), allow(dead_code))]
    Refused {
        id: u64,
        function: String,
    },
}

/// May the caller call this function?
pub(crate) type May<'a> = &'a dyn Fn(&str) -> bool;

/// What the peer sends, and what it keeps here.
#[derive(Debug, Default)]
pub(crate) struct Incoming {
    pub kept: Kept,
    /// A mapping of its own, which goes back to the kernel whole.
    buffer: Option<MmapMut>,
    spin: Spin,
}

impl Incoming {
    /// Gives up the memory that only messages need.
    #[cfg(feature = "service")]
    pub(crate) fn rest(&mut self) {
        self.buffer = None;
    }

    /// Waits for the next message; `None` if the deadline passes before, or the socket's own limit.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Option<Instant>,
    ) -> Result<Option<Vec<Value>>, SocketError> {
        match self.receive_call(socket, deadline, None)? {
            Some(Came::Message(message)) => Ok(Some(message)),
            _ => Ok(None),
        }
    }

    /// The same for a service: of calls that may not be made only their names are looked at.
    pub(crate) fn receive_call(
        &mut self,
        socket: BorrowedFd<'_>,
        deadline: Option<Instant>,
        may: Option<May<'_>>,
    ) -> Result<Option<Came>, SocketError> {
        let Incoming { kept, buffer, spin } = self;
        let bytes = match buffer {
            Some(bytes) => bytes,
            none => none.insert(MmapMut::map_anon(LONGEST).map_err(|_| SocketError::Io(Errno::NOMEM))?),
        };
        // Both closures write into it, but never at the same time.
        let buffer = std::cell::RefCell::new(bytes);
        let got = spin.turn(
            || get(socket, &mut buffer.borrow_mut(), RecvFlags::DONTWAIT),
            || match deadline.is_none() || readable(socket, deadline)? {
                true => get(socket, &mut buffer.borrow_mut(), RecvFlags::empty()),
                false => Err(Errno::TIMEDOUT),
            },
        );
        let (len, fds, cut) = match got {
            Ok(got) => got,
            Err(Errno::TIMEDOUT | Errno::AGAIN) => return Ok(None),
            Err(Errno::CONNRESET) => return Err(SocketError::Ended),
            Err(errno) => return Err(SocketError::Io(errno)),
        };
        if cut {
            return Err(WireError::Bad("a message or its descriptors were cut short").into());
        }
        if len == 0 {
            return Err(SocketError::Ended);
        }
        open(&buffer.into_inner()[..len], fds, kept, may).map(Some)
    }
}

/// What of it is refused without the rest being looked at.
fn refused(asked: Option<Asked<'_>>, may: Option<May<'_>>) -> Option<Came> {
    let (asked, may) = (asked?, may?);
    match asked.function {
        Some(name) if may(name) => None,
        name => Some(Came::Refused {
            id: asked.id as u64,
            function: name.unwrap_or("(a name longer than any)").chars().take(64).collect(),
        }),
    }
}

fn open(bytes: &[u8], fds: Vec<OwnedFd>, kept: &mut Kept, may: Option<May<'_>>) -> Result<Came, SocketError> {
    if may.is_some()
        && let Some(refused) = refused(value::asked(bytes, bytes.len())?, may)
    {
        return Ok(refused);
    }
    let mut given = Given::new(fds);
    let mut message = value::elements(bytes, &mut given, kept)?;
    // LARGE: [0, length], with the memfd as the last descriptor.
    if message.first() == Some(&Value::Int(0)) {
        let length = match message.get(1) {
            Some(Value::Int(length)) => usize::try_from(*length).ok(),
            _ => None,
        };
        let length = length.filter(|l| (1..=value::largest()).contains(l));
        let length = length.ok_or(WireError::Bad("LARGE without a length that may be"))?;
        let look = |beginning: &[u8]| match may {
            None => Ok(None),
            Some(_) => match value::asked(beginning, length)? {
                // What else a caller sends is short.
                None => Err(WireError::Bad("LARGE that is no CALL")),
                asked => Ok(refused(asked, may)),
            },
        };
        let long = match given.long(length, look)? {
            Ok(long) => long,
            Err(refused) => return Ok(refused),
        };
        message = value::elements(&long, &mut given, kept)?;
        if message.first() == Some(&Value::Int(0)) {
            return Err(WireError::Bad("LARGE in LARGE").into());
        }
    }
    given.all_named()?;
    kept.read += u64::from(given.from_area);
    Ok(Came::Message(message))
}

/// Has the peer received all that was sent? SIOCOUTQ, of unix(7).
#[cfg(feature = "service")]
pub(crate) fn all_read(socket: BorrowedFd<'_>) -> bool {
    const OUTQ: rustix::ioctl::Opcode = nix::libc::TIOCOUTQ as rustix::ioctl::Opcode;
    // SAFETY: it writes an int, and nothing else.
    #[allow(unsafe_code)]
    let left = unsafe {
        let ask = rustix::ioctl::Getter::<OUTQ, std::ffi::c_int>::new();
        rustix::ioctl::ioctl(socket, ask)
    };
    left == Ok(0)
}

/// Waits for a message or the end; `false` if the deadline passes before.
pub(crate) fn readable(socket: BorrowedFd<'_>, deadline: Option<Instant>) -> Result<bool, Errno> {
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

/// How long the message is, what came with it, and was it cut short?
fn get(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: RecvFlags) -> Result<(usize, Vec<OwnedFd>, bool), Errno> {
    loop {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let into = &mut [IoSliceMut::new(bytes)];
        match rustix::net::recvmsg(socket, into, &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC) {
            Ok(got) => {
                let mut fds = Vec::new();
                for message in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(passed) = message {
                        fds.extend(passed);
                    }
                }
                let cut = got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
                return Ok((got.bytes, fds, cut));
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
