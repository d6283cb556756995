//! The control socket's client side: what `ps`, `down` and `exec` speak to.

use super::protocol::{AppStatus, Reply, Request};
use crate::plan::Dirs;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{app}` is not up; start it with `pysecure up -d`")]
    NotUp { app: String },
    #[error("talk to the supervisor of `{app}`: {cause}")]
    Io { app: String, cause: io::Error },
    #[error("{0}")]
    Refused(String),
}

pub struct Client {
    app: String,
    socket: OwnedFd,
}

impl Client {
    pub fn connect(dirs: &Dirs, app: &str) -> Result<Client, ClientError> {
        let failed = |cause: io::Error| match cause.raw_os_error() {
            Some(libc::ENOENT | libc::ECONNREFUSED | libc::ENOTDIR) => ClientError::NotUp { app: app.to_owned() },
            _ => ClientError::Io {
                app: app.to_owned(),
                cause,
            },
        };
        let socket = connect(&dirs.run).map_err(failed)?;
        Ok(Client {
            app: app.to_owned(),
            socket,
        })
    }

    /// Over a socket whose other end is not a supervisor's, but speaks a session all the same.
    pub fn over(socket: OwnedFd, app: &str) -> Client {
        let app = app.to_owned();
        Client { app, socket }
    }

    fn io(&self, cause: impl Into<io::Error>) -> ClientError {
        let (app, cause) = (self.app.clone(), cause.into());
        match cause.kind() {
            // It ended after the connection was made and before it answered.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::NotUp { app },
            _ => ClientError::Io { app, cause },
        }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a request, and descriptors with it.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.io(io::Error::other(e)))?;
        line.push(b'\n');
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(fds));
        }
        let sent = rustix::net::sendmsg(
            &self.socket,
            &[io::IoSlice::new(&line)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .map_err(|e| self.io(e))?;
        let mut rest = &line[sent..];
        while !rest.is_empty() {
            let sent = rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL).map_err(|e| self.io(e))?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    fn reply(&self) -> Result<Reply, ClientError> {
        let mut line = Vec::new();
        let mut bytes = [0u8; 16 << 10];
        while !line.ends_with(b"\n") {
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return Err(self.io(io::Error::from(io::ErrorKind::ConnectionReset))),
                Ok(read) => line.extend_from_slice(&bytes[..read]),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.io(errno)),
            }
        }
        let reply: Reply = serde_json::from_slice(&line).map_err(|e| self.io(io::Error::other(e)))?;
        match reply.error {
            Some(error) => Err(ClientError::Refused(error)),
            None => Ok(reply),
        }
    }

    pub fn status(&self) -> Result<AppStatus, ClientError> {
        self.send(&Request::Ps, &[])?;
        self.reply()?
            .app
            .ok_or_else(|| self.io(io::Error::other("it answered without a status")))
    }

    /// Returns when all services have ended and the supervisor with them.
    pub fn down(&self) -> Result<(), ClientError> {
        self.send(&Request::Down, &[])?;
        self.reply().map(drop)
    }

    /// The next message of an exec session: kind, number, text and a descriptor if one came.
    pub fn session_message(&self) -> Result<(u32, u32, String, Option<OwnedFd>), ClientError> {
        let mut head = [0u8; 12];
        let mut fd = None;
        let mut filled = 0;
        while filled < head.len() {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            match rustix::net::recvmsg(
                &self.socket,
                &mut [io::IoSliceMut::new(&mut head[filled..])],
                &mut ancillary,
                RecvFlags::CMSG_CLOEXEC,
            ) {
                Ok(received) if received.bytes == 0 => {
                    return Err(self.io(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the session ended without a word; is the service still up?",
                    )));
                }
                Ok(received) => filled += received.bytes,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.io(errno)),
            }
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(mut fds) = message {
                    fd = fds.next();
                }
            }
        }
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut text = vec![0u8; (word(8) as usize).min(64 << 10)];
        let mut filled = 0;
        while filled < text.len() {
            match rustix::io::read(&self.socket, &mut text[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.io(errno)),
            }
        }
        Ok((
            word(0),
            word(4),
            String::from_utf8_lossy(&text[..filled]).into_owned(),
            fd,
        ))
    }
}

fn connect(run: &Path) -> io::Result<OwnedFd> {
    let folder = rustix::fs::open(
        run,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    // Named by descriptor: sockaddr_un holds 108 bytes.
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join("control.sock");
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&short)?)?;
    Ok(socket)
}
