//! Options of sockets and of the loopback that neither rustix nor nix has.

use super::{Result, check};
use libc::{c_char, c_int, c_long};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has a socket that is bound to an address without a port get one that is free for what it then connects to, in place of
/// one that is free altogether; ip(7), IP_BIND_ADDRESS_NO_PORT.
pub fn port_when_connecting(socket: BorrowedFd<'_>) -> Result<()> {
    let on: c_int = 1;
    // SAFETY: the option is an int, which is read during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<c_int>() as u32,
        )
    };
    check(c_long::from(result)).map(drop)
}

/// How many bytes written to a TCP socket its peer has yet to acknowledge; tcp(7), SIOCOUTQ.
pub fn unsent(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes an int.
    check(c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes)
    }))?;
    Ok(bytes.max(0) as usize)
}

/// How many connections wait in a listening TCP socket to be accepted. tcp(7) does not say it, but ss(8) goes by it too.
pub fn waiting(listener: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: an all-zero tcp_info is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes as many bytes as the length says at most.
    check(c_long::from(unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut length,
        )
    }))?;
    Ok(info.tcpi_unacked)
}

/// Brings up `lo` in this network namespace; netdevice(7).
pub fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    check(c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)
    }))
    .map(drop)
}
