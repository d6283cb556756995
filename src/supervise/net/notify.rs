//! What services say of themselves by sd_notify(3): a socket a service, which it alone sees, so whoever speaks on it is
//! that service. What is said is text from an untrusted side, and read as such.

use crate::host::{Dirs, make_passable};
use crate::plan::{self, NOTIFY_SOCKET, PlanError};
use rustix::net::SocketType;
use std::os::fd::{AsFd, OwnedFd};

/// A longer message is cut off; sd_notify(3) asks for short ones.
const LONGEST: usize = 4096;
/// What is kept of `STATUS=`.
const LONGEST_STATUS: usize = 200;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::supervise) struct Said {
    pub ready: bool,
    pub reloading: bool,
    pub stopping: bool,
    pub watchdog: Option<Watchdog>,
    pub status: Option<String>,
    /// More time for what it does, in microseconds.
    pub extend_usec: Option<u64>,
    /// What comes with it is a page of figures, to be kept ([`crate::supervise::stats::figures`]).
    pub figures: bool,
}

/// A descriptor that came with a message, and the process that sent it, as far as that can be told; 0 if not.
pub(in crate::supervise) type Handed = (OwnedFd, i32);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::supervise) enum Watchdog {
    /// It is well.
    Alive,
    /// It says itself that it is not.
    Trigger,
}

/// Makes the socket of a service that notifies.
pub(in crate::supervise) fn bind(dirs: &Dirs, service: &plan::Unit) -> Result<OwnedFd, PlanError> {
    let folder = dirs.notify(&service.name);
    make_passable(&folder)?;
    let path = folder.join(NOTIFY_SOCKET);
    let made = (|| {
        let socket = super::sockets::bind_unix(&path, SocketType::DGRAM)?;
        super::sockets::give(&path, &service.identity)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // Of several processes, each with figures of its own, one has to know which have ended.
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        Ok(socket)
    })();
    made.map_err(|e: std::io::Error| PlanError::io("make the socket", &path, e))
}

/// Takes the next message; `None` if there is none. Descriptors that come with one are closed, but for a page of figures:
/// that is how sd_notify_barrier(3) learns that it was read.
pub(in crate::supervise) fn hear(socket: &OwnedFd) -> Option<(Said, Option<Handed>)> {
    let mut bytes = [0u8; LONGEST];
    let received = crate::sys::receive(socket.as_fd(), &mut bytes).ok()?;
    let said = parse(bytes.get(..received.bytes).unwrap_or_default());
    let handed = received.fd.filter(|_| said.figures).map(|fd| (fd, received.sender));
    Some((said, handed))
}

fn parse(bytes: &[u8]) -> Said {
    let text = String::from_utf8_lossy(bytes);
    let mut said = Said::default();
    let (mut stores, mut named) = (false, false);
    for line in text.lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => said.ready = true,
            Some(("RELOADING", "1")) => said.reloading = true,
            Some(("STOPPING", "1")) => said.stopping = true,
            Some(("WATCHDOG", "1")) => said.watchdog = Some(Watchdog::Alive),
            Some(("WATCHDOG", "trigger")) => said.watchdog = Some(Watchdog::Trigger),
            Some(("STATUS", text)) => {
                let shown = crate::supervise::logs::console::shown(text.as_bytes());
                said.status = Some(shown.chars().take(LONGEST_STATUS).collect());
            }
            Some(("EXTEND_TIMEOUT_USEC", time)) => said.extend_usec = time.parse().ok(),
            Some(("FDSTORE", "1")) => stores = true,
            Some(("FDNAME", name)) => named = name == crate::supervise::stats::figures::NAME,
            _ => {}
        }
    }
    said.figures = stores && named;
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let said = parse(b"READY=1\nSTATUS=hello \x1b[2J\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=5\nX=\n=\nREADY=0");
        assert!(said.ready && !said.reloading && !said.stopping);
        assert_eq!(said.status.as_deref(), Some("hello \u{fffd}[2J"));
        assert_eq!((said.watchdog, said.extend_usec), (Some(Watchdog::Alive), Some(5)));
        assert_eq!(parse(b"\xff\xfe\n\nREADY"), Said::default());
    }

    /// Sends a message with these descriptors, and lets go of them.
    fn send(to: &OwnedFd, text: &[u8], fds: Vec<OwnedFd>) {
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        crate::sys::send_fds(to.as_fd(), text, &fds, rustix::net::SendFlags::empty()).unwrap();
    }

    /// A pipe of which somebody else has one end, in so many copies.
    fn held(copies: usize) -> (OwnedFd, Vec<OwnedFd>) {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let copies = (1..copies).map(|_| write.try_clone().unwrap()).collect::<Vec<_>>();
        (read, copies.into_iter().chain([write]).collect())
    }

    /// Waits until nobody has the other end.
    fn is_let_go(read: &OwnedFd) {
        assert_eq!(rustix::io::read(read, &mut [0u8; 1]), Ok(0));
    }

    #[test]
    fn descriptors_are_let_go_of_but_for_a_page_of_figures() {
        use rustix::net::{AddressFamily, SocketFlags, socketpair};
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None).unwrap();
        rustix::net::sockopt::set_socket_passcred(&ours, true).unwrap();
        assert!(hear(&ours).is_none());
        for (text, copies) in [
            ("BARRIER=1", 1),
            ("READY=1\nFDSTORE=1\nFDNAME=other", 3),
            ("FDNAME=rpc-figures", 64),
        ] {
            let (read, ends) = held(copies);
            send(&theirs, text.as_bytes(), ends);
            let (said, handed) = hear(&ours).unwrap();
            assert!(handed.is_none() && !said.figures, "{text}");
            is_let_go(&read);
        }
        let figures = b"FDSTORE=1\nFDNAME=rpc-figures";
        send(&theirs, figures, Vec::new());
        assert!(hear(&ours).is_some_and(|(said, handed)| said.figures && handed.is_none()));
        let (read, ends) = held(64);
        send(&theirs, figures, ends);
        let (page, sender) = hear(&ours).unwrap().1.unwrap();
        assert_eq!(sender, std::process::id() as i32);
        assert!(
            rustix::io::fcntl_getfd(&page)
                .unwrap()
                .contains(rustix::io::FdFlags::CLOEXEC)
        );
        drop(page);
        is_let_go(&read);
        assert!(hear(&ours).is_none());
    }

    proptest::proptest! {
        #[test]
        fn anything_is_read(bytes: Vec<u8>, key in "(READY|STATUS|WATCHDOG|EXTEND_TIMEOUT_USEC|RELOADING)", value in "\\PC*") {
            parse(&bytes);
            let said = parse(format!("{key}={value}\n").as_bytes());
            proptest::prop_assert!(said.status.is_none_or(|s| s.chars().count() <= LONGEST_STATUS));
        }
    }
}
