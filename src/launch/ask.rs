//! Probes: one question asked inside a service, as the service, by a process that has taken on all that the service's
//! own program has.
//!
//! A helper stays outside and waits, no longer than the answer may take. Its exit code is the answer
//! ([`YES`], [`NO`], [`LATE`]); it says nothing else. Its child is born in the namespaces as `exec`'s is
//! ([`super::join`]), and there connects, or runs a command.

#![allow(unsafe_code)]

use super::join::Joiner;
use super::{LaunchError, Launcher, child, sys};
use crate::model::life::Question;
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

pub const YES: u8 = 0;
pub const NO: u8 = 1;
/// No answer within the time.
pub const LATE: u8 = 124;
/// The question could not be asked.
const UNASKED: i32 = 125;

/// A question with nothing left to compute.
enum Asked {
    Connect(SocketAddrAny),
    Http {
        address: SocketAddrAny,
        request: Vec<u8>,
    },
    /// What the entry runs.
    Command,
}

impl Launcher {
    /// Asks beside the service whose PID 1 is `init`. The pid is the helper's.
    pub fn ask(
        &mut self,
        init: Pid,
        spec: &Spec,
        null: BorrowedFd<'_>,
        question: &Question,
        timeout: Duration,
    ) -> Result<Pid, LaunchError> {
        let mut spec = spec.clone();
        let asked = match question {
            Question::Tcp(address) => Asked::Connect((*address).into()),
            Question::Unix(path) => Asked::Connect(
                SocketAddrUnix::new(path.as_str())
                    .map_err(LaunchError::system("connect to", path.clone()))?
                    .into(),
            ),
            Question::Http { address, path } => Asked::Http {
                address: (*address).into(),
                request: format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: pysecure\r\n\r\n").into_bytes(),
            },
            Question::Command(args) => {
                if let Some(process) = spec.process_mut() {
                    process.set_args(Some(args.clone()));
                }
                Asked::Command
            }
        };
        let (joiner, reports) = self.joiner(init, &spec, [null; 3], false)?;
        // SAFETY: the supervisor is single-threaded, so its copy may go on as it is.
        match unsafe { sys::clone3(0) }.map_err(LaunchError::system("start", "a process"))? {
            0 => {
                drop(reports);
                help(&joiner, &asked, timeout)
            }
            pid => Pid::from_raw(pid).ok_or(LaunchError::Vanished),
        }
    }
}

fn help(joiner: &Joiner, asked: &Asked, timeout: Duration) -> ! {
    let mut kept = joiner.descriptors();
    // The supervisor's other descriptors are what other services' lives hang on.
    sys::close_all_but(&mut kept);
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let Ok(pid) = joiner.bear(|_| ask(joiner, asked)) else {
        child::exit(UNASKED)
    };
    let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
        child::exit(UNASKED)
    };
    let time = Timespec {
        tv_sec: timeout.as_secs() as i64,
        tv_nsec: timeout.subsec_nanos().into(),
    };
    let answered = rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&time));
    if answered != Ok(1) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        child::exit(LATE.into());
    }
    match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
        Ok(Some((_, status))) if status.exit_status() == Some(0) => child::exit(YES.into()),
        Ok(Some((_, status))) if status.exit_status() == Some(UNASKED) => child::exit(UNASKED),
        _ => child::exit(NO.into()),
    }
}

/// In the service's namespaces already. As after every clone3(2), only system calls.
fn ask(joiner: &Joiner, asked: &Asked) -> ! {
    let address = match asked {
        Asked::Command => {
            let _ = child::enter(&joiner.entry, None, 0);
            child::exit(UNASKED)
        }
        Asked::Connect(address) | Asked::Http { address, .. } => address,
    };
    if child::take_on(&joiner.entry, None, 0).is_err() || child::hide().is_err() {
        child::exit(UNASKED);
    }
    let answer = connect(address).and_then(|socket| match asked {
        Asked::Http { request, .. } => converse(socket.as_fd(), request),
        _ => Ok(true),
    });
    child::exit(if answer == Ok(true) { YES.into() } else { NO.into() })
}

fn connect(address: &SocketAddrAny) -> Result<std::os::fd::OwnedFd, Errno> {
    let family = address.address_family();
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match rustix::net::connect(&socket, address) {
        // A service may listen on sequenced packets, as sockets between services are.
        Err(Errno::PROTOTYPE) if family == AddressFamily::UNIX => {
            let socket = rustix::net::socket_with(family, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, address)?;
            Ok(socket)
        }
        other => other.map(|()| socket),
    }
}

/// Is the answer's status below 400? Its first line is `HTTP/1.x NNN …`; RFC 9112, 4.
fn converse(socket: BorrowedFd<'_>, request: &[u8]) -> Result<bool, Errno> {
    let mut rest = request;
    while !rest.is_empty() {
        let sent = rustix::net::send(socket, rest, rustix::net::SendFlags::NOSIGNAL)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    let mut head = [0u8; 12];
    let mut filled = 0;
    while filled < head.len() {
        match rustix::io::read(socket, &mut head[filled..])? {
            0 => return Ok(false),
            read => filled += read,
        }
    }
    Ok(head.starts_with(b"HTTP/1.") && matches!(head[9], b'1'..=b'3') && head[8] == b' ')
}
