//! Who waits to be accepted in a listening unix socket: what the kernel says of it by sock_diag(7).

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::os::fd::OwnedFd;

/// linux/sock_diag.h, linux/unix_diag.h: the request, what is to be shown, and the attribute that it comes in.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const UDIAG_SHOW_ICONS: u32 = 8;
const UNIX_DIAG_ICONS: u16 = 3;
/// linux/netlink.h
const NLM_F_REQUEST: u16 = 1;
const HEADER: usize = 16;
/// struct unix_diag_msg
const ANSWER: usize = 16;

/// Who waits in a listening socket.
#[derive(Debug)]
pub(super) struct Queue {
    /// The inode of the listening socket: one that was made in its place has another queue.
    of: u32,
    /// The inodes of the sockets that wait, in the order in which they connected; 0 for one that is closed already.
    waiting: Vec<u32>,
}

/// None where the kernel does not say: it has no unix_diag, or more wait than it tells of (some 900).
pub(super) fn waiting(socket: &OwnedFd) -> Option<Queue> {
    let inode = u32::try_from(rustix::fs::fstat(socket).ok()?.st_ino).ok()?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let kernel = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(SOCK_DIAG)).ok()?;
    rustix::net::sendto(
        &kernel,
        &request(inode),
        SendFlags::empty(),
        &SocketAddrNetlink::new(0, 0),
    )
    .ok()?;
    let mut buffer = [0; 8192];
    // The kernel has answered when the request is sent.
    let (len, _) = rustix::net::recv(&kernel, &mut buffer[..], RecvFlags::empty()).ok()?;
    let waiting = inodes(&buffer[..len])?;
    Some(Queue { of: inode, waiting })
}

/// struct nlmsghdr and struct unix_diag_req, for the one socket with this inode.
fn request(inode: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER + 24);
    out.extend((HEADER as u32 + 24).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(NLM_F_REQUEST.to_ne_bytes());
    out.extend([0; 8]); // number and port
    out.extend([libc::AF_UNIX as u8, 0, 0, 0]);
    for word in [u32::MAX, inode, UDIAG_SHOW_ICONS, u32::MAX, u32::MAX] {
        out.extend(word.to_ne_bytes());
    }
    out
}

fn inodes(answer: &[u8]) -> Option<Vec<u32>> {
    let half = |at: usize| Some(u16::from_ne_bytes(answer.get(at..at + 2)?.try_into().ok()?));
    if half(4)? != SOCK_DIAG_BY_FAMILY {
        return None;
    }
    let mut at = HEADER + ANSWER;
    while let (Some(len), Some(kind)) = (half(at), half(at + 2)) {
        let len = usize::from(len);
        let content = answer.get(at + 4..at + len)?;
        if kind == UNIX_DIAG_ICONS {
            let words = content.chunks_exact(4);
            return words
                .map(|word| Some(u32::from_ne_bytes(word.try_into().ok()?)))
                .collect();
        }
        at += len.next_multiple_of(4);
    }
    Some(Vec::new())
}

/// Was one of those accepted that waited before? They are accepted in turn, and one that is closed stays where it is. Of a
/// socket that is no longer there, it is not known.
pub(super) fn advanced(before: &Queue, now: &Queue) -> bool {
    let stays = |(then, now): (&u32, &u32)| then == now || *now == 0;
    let all_stay = || before.waiting.iter().zip(&now.waiting).all(stays);
    before.of == now.of && (now.waiting.len() < before.waiting.len() || !all_stay())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SocketAddrUnix, accept, bind, connect, listen, socket};

    #[test]
    fn the_kernel_says_who_waits_and_in_which_order() {
        let folder = tempfile::tempdir().unwrap();
        let address = SocketAddrUnix::new(folder.path().join("s")).unwrap();
        let new = || socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let listening = new();
        bind(&listening, &address).unwrap();
        listen(&listening, 100).unwrap();
        let none = waiting(&listening).expect("this kernel has no unix_diag (CONFIG_UNIX_DIAG)");
        assert!(none.waiting.is_empty());
        let come = || {
            let client = new();
            connect(&client, &address).unwrap();
            client
        };
        let clients: Vec<OwnedFd> = (0..3).map(|_| come()).collect();
        let inode = |client: &OwnedFd| u32::try_from(rustix::fs::fstat(client).unwrap().st_ino).unwrap();
        let before = waiting(&listening).unwrap();
        assert_eq!(before.waiting, clients.iter().map(inode).collect::<Vec<_>>());
        // Others come, and one goes: it is not accepted.
        let _later = come();
        let mut clients = clients.into_iter();
        drop(clients.next());
        assert!(!advanced(&before, &waiting(&listening).unwrap()));
        drop(accept(&listening).unwrap());
        assert!(advanced(&before, &waiting(&listening).unwrap()));
    }

    #[test]
    fn what_has_moved_on() {
        for (before, now, moved) in [
            (vec![], vec![], false),
            (vec![], vec![7], false),
            (vec![7], vec![7, 8], false),
            (vec![7, 8], vec![0, 8, 9], false),
            (vec![0], vec![0, 8], false),
            (vec![7], vec![], true),
            (vec![7], vec![8], true),
            (vec![7, 8], vec![8], true),
            (vec![7, 8], vec![8, 9, 10], true),
            (vec![0, 8], vec![8, 9], true),
        ] {
            let queue = |of, waiting| Queue { of, waiting };
            let (before, now) = (queue(1, before), queue(1, now));
            assert_eq!(advanced(&before, &now), moved, "{before:?} {now:?}");
            // What is there in its place says nothing of it.
            assert!(!advanced(&before, &Queue { of: 2, ..now }));
        }
    }

    #[test]
    fn an_answer_that_is_cut_short_says_nothing() {
        let mut answer = vec![0; HEADER + ANSWER];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(inodes(&answer), Some(Vec::new()));
        answer.extend(100u16.to_ne_bytes());
        answer.extend(UNIX_DIAG_ICONS.to_ne_bytes());
        assert_eq!(inodes(&answer), None);
        answer.truncate(3);
        assert_eq!(inodes(&answer), None);
        // Neither does one whose attribute is shorter than its own head.
        let mut answer = vec![0; HEADER + ANSWER + 4];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        assert_eq!(inodes(&answer), None);
    }
}
