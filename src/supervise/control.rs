//! The control socket's server side. Its folder is the owner's alone, and who connects is asked of the kernel
//! besides. A client can say anything, half of it, or nothing: it is held to one short line, and never
//! waited for.

use super::protocol::{LONGEST_REQUEST, Reply, Request};
use rustix::io::Errno;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags};
use std::os::fd::{AsFd, OwnedFd};

pub(super) struct Connection {
    pub socket: OwnedFd,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Descriptors that came with a request.
    pub passed: Vec<OwnedFd>,
    /// A reply is owed, but not ready.
    pub waits_for_down: bool,
}

/// What reading from a client came to.
pub(super) enum Heard {
    Nothing,
    Request(Request),
    /// To be answered with this, and closed.
    Rubbish(String),
    Gone,
}

impl Connection {
    pub(super) fn new(socket: OwnedFd) -> Connection {
        Connection {
            socket,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            passed: Vec::new(),
            waits_for_down: false,
        }
    }

    /// Is the peer this process's own user? unix(7), SO_PEERCRED.
    pub(super) fn is_owner(&self) -> bool {
        rustix::net::sockopt::socket_peercred(&self.socket).is_ok_and(|peer| peer.uid == rustix::process::geteuid())
    }

    pub(super) fn hear(&mut self) -> Heard {
        let mut bytes = [0u8; 4096];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let read = match rustix::net::recvmsg(
            &self.socket,
            &mut [rustix::io::IoSliceMut::new(&mut bytes)],
            &mut ancillary,
            flags,
        ) {
            Ok(received) => received.bytes,
            Err(Errno::AGAIN | Errno::INTR) => return Heard::Nothing,
            Err(_) => return Heard::Gone,
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.passed.extend(fds);
            }
        }
        if read == 0 {
            return Heard::Gone;
        }
        self.incoming.extend_from_slice(&bytes[..read]);
        if self.passed.len() > 3 {
            return Heard::Rubbish("more descriptors than a request has".into());
        }
        let Some(end) = self.incoming.iter().position(|b| *b == b'\n') else {
            return if self.incoming.len() > LONGEST_REQUEST {
                Heard::Rubbish("the request is too long".into())
            } else {
                Heard::Nothing
            };
        };
        let line: Vec<u8> = self.incoming.drain(..=end).collect();
        match serde_json::from_slice(&line) {
            Ok(request) => Heard::Request(request),
            Err(e) => Heard::Rubbish(format!("not a request: {e}")),
        }
    }

    pub(super) fn reply(&mut self, reply: &Reply) {
        // A reply holds strings and numbers only, which always serialise.
        self.outgoing.extend(serde_json::to_vec(reply).unwrap_or_default());
        self.outgoing.push(b'\n');
    }

    /// Sends what it can; says whether something is left, or `Err` if the client is gone.
    pub(super) fn flush(&mut self) -> Result<bool, Errno> {
        while !self.outgoing.is_empty() {
            match rustix::net::send(
                self.socket.as_fd(),
                &self.outgoing,
                SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
            ) {
                Ok(sent) => drop(self.outgoing.drain(..sent)),
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(false)
    }
}
