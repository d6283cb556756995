//! Network namespaces: the one that an app's services may share, and how a service is born in it.
//!
//! It belongs to a user namespace of its own, in which nothing runs: no service has a right over it. No process
//! stays in it for its sake; it lives as long as somebody holds a descriptor of it, and is nowhere on disk.

use super::{LaunchError, Launcher, child, socketpair};
use crate::bundle::LOWEST_PORT;
use crate::host::idmap::Maps;
use crate::sys;
use crate::sys::helper::{self, Keeps};
use oci_spec::runtime::{Linux, LinuxNamespaceType};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Does a spec give its service a network namespace that is new?
pub(super) fn own(linux: &Linux) -> bool {
    let mut all = linux.namespaces().iter().flatten();
    all.any(|n| n.typ() == LinuxNamespaceType::Network && n.path().is_none())
}

/// A network namespace, and the user namespace that it belongs to.
#[derive(Debug)]
pub struct Network {
    pub user: OwnedFd,
    pub network: OwnedFd,
    /// Who is 0 in that user namespace, as seen from here: as such one has every right over the network.
    pub root: Option<(u32, u32)>,
}

impl Network {
    /// Those of a process that is there.
    pub fn of(pid: Pid, root: Option<(u32, u32)>) -> Result<Network, LaunchError> {
        let open = |kind: &str| {
            let path = format!("/proc/{}/ns/{kind}", pid.as_raw_nonzero());
            rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                .map_err(LaunchError::system("open", path))
        };
        Ok(Network {
            user: open("user")?,
            network: open("net")?,
            root,
        })
    }
}

impl Launcher {
    /// Makes a network with nothing in it but a loopback, on which every port may be bound. `root` becomes 0 in the
    /// user namespace that it belongs to.
    pub fn new_network(&self, root: (u32, u32)) -> Result<Network, LaunchError> {
        let wrong = || LaunchError::system("make", "the app's network namespace");
        let (ours, theirs) = socketpair()?;
        let sysctl = format!("/proc/sys/{}\0", LOWEST_PORT.replace('.', "/"));
        let alone = super::single_threaded("the maker of a network")?;
        let namespaces = (libc::CLONE_NEWUSER | libc::CLONE_NEWNET) as u64;
        let life = || settle(&sysctl);
        let pid = helper::start(&alone, namespaces, &Keeps::Input(theirs.as_fd()), |_| (), life).map_err(wrong())?;
        drop(theirs);
        let made = (|| {
            self.write_maps(&Maps::of_root(root), pid)?;
            super::go(ours.as_fd()).map_err(wrong())?;
            let mut answer = [0u8; 4];
            if rustix::io::read(&ours, &mut answer).map_err(wrong())? != answer.len() {
                return Err(LaunchError::Vanished);
            }
            match i32::from_ne_bytes(answer) {
                0 => Network::of(pid, Some(root)),
                errno => Err(wrong()(Errno::from_raw_os_error(errno))),
            }
        })();
        // At which the child ends.
        drop(ours);
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
        made
    }
}

/// In the new namespaces: brings the loopback up and waits until both were opened. Only system calls; standard input is the
/// socket to the launcher.
fn settle(sysctl: &str) -> i32 {
    let launcher = rustix::stdio::stdin();
    let mut byte = [0u8; 1];
    if rustix::io::read(launcher, &mut byte) == Ok(1) {
        let done = sys::loopback_up().and_then(|()| {
            let path = std::ffi::CStr::from_bytes_with_nul(sysctl.as_bytes()).map_err(|_| Errno::INVAL)?;
            child::write_file(path, b"0")
        });
        let answer = done.err().map_or(0, Errno::raw_os_error).to_ne_bytes();
        let _ = rustix::net::send(launcher, &answer, rustix::net::SendFlags::NOSIGNAL);
        let _ = rustix::io::read(launcher, &mut byte);
    }
    0
}

/// [`take_in`] of an address of each family, where this kernel, or whoever set it up, may do without IPv6: then nobody connects
/// by it either.
pub(super) fn take_in_both(four: (IpAddr, u8), six: (IpAddr, u8)) -> Result<(), Errno> {
    take_in(four.0, four.1)?;
    match take_in(six.0, six.1) {
        Err(Errno::AFNOSUPPORT | Errno::OPNOTSUPP | Errno::NODEV | Errno::ACCESS) => Ok(()),
        done => done,
    }
}

/// Has this network namespace take for its own all that goes to these addresses, of which `prefix` bits count. None of its
/// interfaces gets any of them, so that whoever asks for this machine's addresses, as PostgreSQL's `samehost` does, does
/// not find them among those. Follows rtnetlink(7).
fn take_in(address: IpAddr, prefix: u8) -> Result<(), Errno> {
    const MOST: usize = 16 + 12 + 8 + 20;
    const LOOPBACK: u32 = 1;
    let octets = match address {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let (family, destination) = match address {
        IpAddr::V4(_) => (libc::AF_INET, &octets[12..]),
        IpAddr::V6(_) => (libc::AF_INET6, &octets[..]),
    };
    let destination = if prefix == 0 { &[][..] } else { destination };
    let length = 16 + 12 + 8 + if prefix == 0 { 0 } else { 4 + destination.len() };
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let mut message = [0u8; MOST];
    // struct nlmsghdr
    message[0..4].copy_from_slice(&(length as u32).to_ne_bytes());
    message[4..6].copy_from_slice(&libc::RTM_NEWROUTE.to_ne_bytes());
    message[6..8].copy_from_slice(&flags.to_ne_bytes());
    // struct rtmsg
    message[16..18].copy_from_slice(&[family as u8, prefix]);
    message[20..24].copy_from_slice(&[
        libc::RT_TABLE_LOCAL,
        libc::RTPROT_KERNEL,
        libc::RT_SCOPE_HOST,
        libc::RTN_LOCAL,
    ]);
    message[28..30].copy_from_slice(&8u16.to_ne_bytes());
    message[30..32].copy_from_slice(&libc::RTA_OIF.to_ne_bytes());
    message[32..36].copy_from_slice(&LOOPBACK.to_ne_bytes());
    if prefix > 0 {
        message[36..38].copy_from_slice(&(4 + destination.len() as u16).to_ne_bytes());
        message[38..40].copy_from_slice(&libc::RTA_DST.to_ne_bytes());
        message[40..40 + destination.len()].copy_from_slice(destination);
    }
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::NETLINK,
        rustix::net::SocketType::RAW,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::send(&socket, &message[..length], rustix::net::SendFlags::empty())?;
    // struct nlmsgerr, behind a header
    let mut answer = [0u8; 36];
    let (read, _) = rustix::net::recv(&socket, &mut answer[..], rustix::net::RecvFlags::empty())?;
    if read < 20 {
        return Err(Errno::PROTO);
    }
    let errno = -i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]]);
    if errno == 0 || errno == Errno::EXIST.raw_os_error() {
        Ok(())
    } else {
        Err(Errno::from_raw_os_error(errno))
    }
}

pub(super) fn enter(network: BorrowedFd<'_>) -> Result<(), Errno> {
    move_into_link_name_space(network, Some(LinkNameSpaceType::Network))
}
