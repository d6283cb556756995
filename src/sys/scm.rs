//! Descriptors and credentials that come with a message; unix(7), SCM_RIGHTS and SCM_CREDENTIALS.

use super::{Result, check};
use libc::{c_int, c_long};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// As many descriptors as one message takes; unix(7), SCM_MAX_FD.
pub const MOST_FDS: usize = 253;

/// Sends a message, and with it a descriptor; sendmsg(2). Async-signal-safe.
pub fn send_fd(socket: BorrowedFd<'_>, bytes: &[u8], fd: BorrowedFd<'_>) -> Result<()> {
    send_fds(socket, bytes, &[fd], SendFlags::empty()).map(drop)
}

/// The same with any number of descriptors up to [`MOST_FDS`]; how many bytes a stream took of it. Async-signal-safe.
pub fn send_fds(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], flags: SendFlags) -> Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::NOBUFS);
    }
    let bytes = [IoSlice::new(bytes)];
    rustix::net::sendmsg(socket, &bytes, &mut ancillary, flags | SendFlags::NOSIGNAL)
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
    receive_one(socket, bytes, libc::MSG_DONTWAIT)
}

/// As [`receive`], but waits for a message where the socket is one that waits.
pub fn receive_when_there(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received> {
    receive_one(socket, bytes, 0)
}

/// As [`receive`], but takes up to `most` descriptors, no more than [`MOST_FDS`], which come behind those in `fds`; how many
/// bytes it took. The kernel closes what is beyond.
pub fn receive_fds(socket: BorrowedFd<'_>, bytes: &mut [u8], most: usize, fds: &mut Vec<OwnedFd>) -> Result<usize> {
    let mut control = [0u64; 2 + MOST_FDS.div_ceil(2)];
    let room = room_for(most.min(MOST_FDS));
    let taken = receive_with(socket, bytes, &mut control, room, libc::MSG_DONTWAIT, |fd| fds.push(fd))?;
    Ok(taken.bytes)
}

/// The bytes of a header and of so many descriptors, to the byte: the kernel takes as many as the room is for, and rounded up to
/// what is aligned it may be for one more.
fn room_for(descriptors: usize) -> usize {
    size_of::<libc::cmsghdr>() + descriptors * size_of::<RawFd>()
}

fn receive_one(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: c_int) -> Result<Received> {
    // Credentials take 32 bytes, a descriptor 24; aligned as a cmsghdr is.
    let mut control = [0u64; 7];
    let mut first = None;
    let room = size_of_val(&control);
    let mut taken = receive_with(socket, bytes, &mut control, room, flags, |fd| {
        first.get_or_insert(fd);
    })?;
    taken.fd = first;
    Ok(taken)
}

/// Each descriptor goes to `each`. `room`: the bytes of `control` that may be filled.
fn receive_with(
    socket: BorrowedFd<'_>,
    bytes: &mut [u8],
    control: &mut [u64],
    room: usize,
    flags: c_int,
    mut each: impl FnMut(OwnedFd),
) -> Result<Received> {
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = room.min(size_of_val(control)) as _;
    let flags = flags | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message leads to memory that is valid, and ours alone, for the call.
    let taken = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) } as c_long)?;
    let mut sender = 0;
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
                sender = unsafe { data.cast::<libc::ucred>().read_unaligned() }.pid;
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for at in 0..length / size_of::<RawFd>() {
                    // SAFETY: as many descriptors are there; each is new, and nobody else owns it.
                    each(unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()) });
                }
            }
            _ => {}
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(Received {
        bytes: taken as usize,
        fd: None,
        sender,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::os::fd::AsFd;

    /// So many copies of one end of a pipe, sent and received, of which `most` are taken; how many are, and the other end.
    fn passed(count: usize, most: usize) -> (Vec<OwnedFd>, OwnedFd) {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let all = vec![write.as_fd(); count];
        assert_eq!(send_fds(theirs.as_fd(), b"word", &all, SendFlags::DONTWAIT), Ok(4));
        let (mut bytes, mut fds) = ([0; 8], Vec::new());
        assert_eq!(receive_fds(ours.as_fd(), &mut bytes, most, &mut fds), Ok(4));
        assert_eq!(&bytes[..4], b"word");
        (fds, read)
    }

    #[test]
    fn as_many_descriptors_come_as_are_sent_and_no_more_than_are_wanted() {
        for (count, most) in [(0, 8), (1, 8), (3, 8), (7, 7), (200, MOST_FDS), (MOST_FDS, MOST_FDS)] {
            let (fds, _read) = passed(count, most);
            assert_eq!(fds.len(), count);
            assert!(fds.iter().all(|fd| {
                rustix::io::fcntl_getfd(fd)
                    .unwrap()
                    .contains(rustix::io::FdFlags::CLOEXEC)
            }));
        }
        // What is beyond is closed by the kernel: with those that came, the last of the pipe's writers goes.
        for (count, most) in [(MOST_FDS, 8), (8, 7), (2, 1), (1, 0)] {
            let (fds, read) = passed(count, most);
            assert_eq!(fds.len(), most, "of {count}");
            drop(fds);
            assert_eq!(rustix::io::read(&read, &mut [0; 1]), Ok(0), "{most} of {count}");
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let beyond = vec![ours.as_fd(); MOST_FDS + 1];
        assert!(send_fds(theirs.as_fd(), b"x", &beyond, SendFlags::empty()).is_err());
    }
}
