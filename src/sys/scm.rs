//! Descriptors and credentials that come with a message; unix(7), SCM_RIGHTS and SCM_CREDENTIALS.

use super::{Result, check};
use libc::{c_int, c_long};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Sends a message, and with it a descriptor; sendmsg(2). Async-signal-safe.
pub fn send_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd];
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// What came with a message.
pub struct Received {
    /// The bytes that were taken of it.
    pub bytes: usize,
    /// The first descriptor. All others were closed.
    pub fd: Option<OwnedFd>,
    /// The process that sent it, as this one counts; 0 if it is not to be seen from here, or SO_PASSCRED is not set.
    pub sender: i32,
}

/// Takes a message and, close-on-exec, what came with it, without waiting; recvmsg(2). rustix has the sender's pid in a
/// type that cannot be 0, and nix leaves descriptors open when there were more than expected.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received> {
    receive_with(socket, bytes, libc::MSG_DONTWAIT)
}

/// As [`receive`], but waits for a message where the socket is one that waits.
pub fn receive_when_there(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received> {
    receive_with(socket, bytes, 0)
}

fn receive_with(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: c_int) -> Result<Received> {
    // Credentials take 32 bytes, a descriptor 24; aligned as a cmsghdr is.
    let mut control = [0u64; 7];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message leads to memory that is valid, and ours alone, for the call.
    let taken = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) } as c_long)?;
    let mut received = Received {
        bytes: taken as usize,
        fd: None,
        sender: 0,
    };
    // SAFETY: the kernel filled the control buffer as far as msg_controllen says, which the macros go by.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: a header within the buffer, and its content as far as its length says.
        let (kind, data, length) = unsafe {
            let content = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            (
                ((*header).cmsg_level, (*header).cmsg_type),
                libc::CMSG_DATA(header),
                content,
            )
        };
        match kind {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: so many bytes are there, and any are a ucred.
                received.sender = unsafe { data.cast::<libc::ucred>().read_unaligned() }.pid;
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for at in 0..length / size_of::<RawFd>() {
                    // SAFETY: as many descriptors are there; each is new, and nobody else owns it.
                    let fd = unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()) };
                    received.fd.get_or_insert(fd);
                }
            }
            _ => {}
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(received)
}
