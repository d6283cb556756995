//! A companion: the one process beside a service that has to do with the network outside. It has pasta(1) connect the
//! service's network to the outside, and joins connections to published ports with the service ([`super::forward`]).
//!
//! It is PID 1 of a PID namespace of its own, so that pasta, which changes its ids and thereby forgets whose child it
//! is, ends with it whatever happens. It ends with its service and with its supervisor. pasta gets no right but
//! those over the service's own network, and the companion, when all is set up, has none at all.

#![allow(
    unsafe_code,
    reason = "in a copy of the process, it works on descriptors and memory that the original owns"
)]

use super::forward::{Forwarder, Header, SOURCES, Way};
use super::network::{Network, enter, take_in_both};
use super::{LaunchError, Launcher, Running, child, go};
use crate::sys::helper::{self, Keeps};
use crate::sys::{self, SingleThreaded};
use nix::sys::epoll::EpollTimeout;
use oci_spec::runtime::LinuxSeccomp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{PidfdFlags, Signal};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// What a companion is to do.
pub struct Task<'a> {
    pub network: &'a Network,
    /// The service whose life it shares. Left out, it is the supervisor's.
    pub service: Option<&'a Running>,
    /// pasta's path and arguments, if it is wanted. Only when it is ready is a held service told to go on.
    pub pasta: Option<&'a [CString]>,
    pub published: &'a [Published<'a>],
    /// The id to go on as, in this process's user namespace; it owns nothing. `None` where there is but one.
    pub keeper: Option<(u32, u32)>,
    pub seccomp: Option<&'a LinuxSeccomp>,
}

/// A port of the host's that leads inside.
pub struct Published<'a> {
    /// A listening socket that does not block.
    pub listener: BorrowedFd<'a>,
    /// The port inside.
    pub port: u16,
    /// What the service is told first, if it is to know who connects.
    pub header: Option<Header>,
}

/// A companion that runs. In `words` it says [`READY`] when all is set up, and what it cannot do; they end when it
/// does.
#[derive(Debug)]
pub struct Companion {
    pidfd: OwnedFd,
    pub words: OwnedFd,
}

impl Companion {
    /// Ends it, and with it pasta. When this returns, it holds no port any more.
    pub fn end(self) {
        let _ = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        while rustix::event::poll(&mut [PollFd::new(&self.pidfd, PollFlags::IN)], None) == Err(Errno::INTR) {}
    }
}

pub const READY: u8 = 0;

/// How long pasta may be silent before its network is there; it takes some hundredths of a second.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// How much of what pasta says is kept.
const LONGEST_WORDS: usize = 4096;

impl Launcher {
    pub fn accompany(&mut self, task: &Task<'_>) -> Result<Companion, LaunchError> {
        let wrong = || LaunchError::system("start", "a process for the network");
        let (words, theirs) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(wrong())?;
        rustix::io::ioctl_fionbio(&words, true).map_err(wrong())?;
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(LaunchError::system("open", "/dev/null"))?;
        let pidfd = task
            .service
            .map(|service| rustix::process::pidfd_open(service.pid, PidfdFlags::empty()))
            .transpose()
            .map_err(LaunchError::system("open", "the service's process"))?;
        let filter = self.filters.program(task.seccomp)?;
        let groups = self.groups_allowed;
        let alone = super::single_threaded("a process for the network")?;
        let mut kept: Vec<BorrowedFd<'_>> = task.published.iter().map(|p| p.listener).collect();
        kept.extend([&task.network.user, &task.network.network, &theirs].map(AsFd::as_fd));
        kept.extend(pidfd.as_ref().map(AsFd::as_fd));
        kept.extend(task.service.map(|s| s.reports.as_fd()));
        let keeps = Keeps::Detached {
            kept: &kept,
            null: null.as_fd(),
        };
        let say = |why: LaunchError| {
            let _ = rustix::io::write(&theirs, why.to_string().as_bytes());
        };
        let unready = |errno| {
            say(LaunchError::system(
                "close descriptors of the supervisor",
                "for the network",
            )(errno))
        };
        let life = || {
            if let Err(why) = live(&alone, task, &theirs, pidfd.as_ref(), groups, filter.as_deref()) {
                say(why);
            }
            1
        };
        let pid = helper::start(&alone, libc::CLONE_NEWPID as u64, &keeps, unready, life).map_err(wrong())?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(wrong())?;
        Ok(Companion { pidfd, words })
    }
}

fn live(
    alone: &SingleThreaded,
    task: &Task<'_>,
    words: &OwnedFd,
    service: Option<&OwnedFd>,
    clear_groups: bool,
    filter: Option<&super::seccomp::Program>,
) -> Result<(), LaunchError> {
    let wrong = |operation: &'static str| LaunchError::system(operation, "for the network");
    let mut pasta = task
        .pasta
        .map(|arguments| Pasta::start(alone, arguments, task, words.as_fd(), service, clear_groups))
        .transpose()?;
    if let Some(service) = task.service {
        if task.pasta.is_some() {
            go(service.reports.as_fd()).map_err(wrong("go on"))?;
        }
        // By its end the service's PID 1 knows that the supervisor is gone.
        // SAFETY: the descriptor's owner is on the supervisor's side of clone3(2); nothing here uses it any more.
        unsafe { rustix::io::close(service.reports.as_raw_fd()) };
    }
    let mut forwarder = None;
    if !task.published.is_empty() {
        let listeners = task
            .published
            .iter()
            .map(|p| Ok((p.listener.try_clone_to_owned()?, Way::Port(p.port, p.header))))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|e| LaunchError::system_text("copy", "a published port", e))?;
        forwarder = Some(Forwarder::new(listeners)?);
        enter(task.network.network.as_fd()).map_err(wrong("enter the service's network"))?;
        // The service's PID 1 does it as well, sooner or later.
        sys::loopback_up().map_err(wrong("bring up the loopback"))?;
        let [four, six] = SOURCES;
        take_in_both((four, 32), (six, 128)).map_err(wrong("make a source of connections"))?;
    }
    child::give_up(task.keeper, clear_groups).map_err(wrong("give up rights"))?;
    if let Some(filter) = filter {
        sys::seccomp_load(filter).map_err(wrong("load the seccomp filter"))?;
    }
    rustix::io::write(words, &[READY]).map_err(wrong("say so"))?;
    loop {
        let mut ready = vec![PollFd::new(words, PollFlags::empty())];
        ready.extend(service.map(|fd| PollFd::new(fd, PollFlags::IN)));
        let at_pasta = ready.len();
        let pasta_fd = pasta.as_ref().map(|p| p.said.as_fd());
        ready.extend(pasta_fd.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let events = forwarder.as_ref().map(Forwarder::events);
        ready.extend(events.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let busy = forwarder.as_ref().is_some_and(Forwarder::busy);
        match rustix::event::poll(&mut ready, busy.then_some(&now)) {
            Err(Errno::INTR) => continue,
            other => other.map_err(wrong("wait"))?,
        };
        // The supervisor's end closed, or the service ended.
        if ready[..at_pasta].iter().any(|fd| !fd.revents().is_empty()) {
            return Ok(());
        }
        let pasta_spoke = pasta.is_some() && !ready[at_pasta].revents().is_empty();
        if pasta_spoke && let Some(pasta) = &mut pasta {
            pasta.listen()?;
        }
        if let Some(forwarder) = &mut forwarder {
            forwarder.turn(EpollTimeout::ZERO);
        }
    }
}

/// pasta, as a child of this process.
struct Pasta {
    said: OwnedFd,
    text: Vec<u8>,
}

impl Pasta {
    /// Starts it, and waits until the network is there or it has ended.
    fn start(
        alone: &SingleThreaded,
        arguments: &[CString],
        task: &Task<'_>,
        words: BorrowedFd<'_>,
        service: Option<&OwnedFd>,
        clear_groups: bool,
    ) -> Result<Pasta, LaunchError> {
        let wrong = |operation: &'static str| LaunchError::system(operation, "pasta");
        let (said, stderr) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(wrong("make a pipe for"))?;
        if let Some((uid, gid)) = task.network.root {
            // It opens this once more by its name, to write its PID there.
            rustix::fs::fchown(&stderr, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(wrong("give a pipe to"))?;
        }
        let life = || {
            let errno = become_pasta(arguments, task.network, clear_groups, &stderr);
            let text = format!("{}: {errno}", arguments[0].to_string_lossy());
            let _ = rustix::io::write(&stderr, text.as_bytes());
            127
        };
        helper::start(alone, 0, &Keeps::All, |_| (), life).map_err(wrong("start"))?;
        drop(stderr);
        let mut pasta = Pasta { said, text: Vec::new() };
        loop {
            let mut ready = vec![
                PollFd::new(&pasta.said, PollFlags::IN),
                PollFd::from_borrowed_fd(words, PollFlags::empty()),
            ];
            ready.extend(service.map(|fd| PollFd::new(fd, PollFlags::IN)));
            match rustix::event::poll(&mut ready, Some(&PATIENCE)) {
                Err(Errno::INTR) => continue,
                Ok(0) => {
                    let why = format!("it was not ready within {} seconds", PATIENCE.tv_sec);
                    return Err(LaunchError::system_text("connect to the outside", "by pasta", why));
                }
                other => other.map_err(wrong("wait for"))?,
            };
            let [spoke, others @ ..] = &ready[..] else { continue };
            let spoke = !spoke.revents().is_empty();
            if others.iter().any(|fd| !fd.revents().is_empty()) {
                child::exit(0)
            }
            if spoke {
                pasta.listen()?;
            }
            // Its PID, when all is done.
            let lines = pasta.text.split_inclusive(|b| *b == b'\n');
            if lines.into_iter().any(|line| {
                line.len() > 1 && line.ends_with(b"\n") && line[..line.len() - 1].iter().all(u8::is_ascii_digit)
            }) {
                pasta.text.clear();
                return Ok(pasta);
            }
        }
    }

    /// Reads what it says; an error if it has ended.
    fn listen(&mut self) -> Result<(), LaunchError> {
        let mut bytes = [0u8; 1024];
        match rustix::io::read(&self.said, &mut bytes) {
            Ok(0) => Err(LaunchError::system_text(
                "connect to the outside",
                "by pasta",
                self.words(),
            )),
            Ok(read) => {
                self.text.extend_from_slice(&bytes[..read]);
                let over = self.text.len().saturating_sub(LONGEST_WORDS);
                self.text.drain(..over);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    fn words(&self) -> String {
        let text = String::from_utf8_lossy(&self.text);
        // Where there is no system log, it complains of that at each line.
        let lines: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.ends_with("to syslog"))
            .collect();
        if lines.is_empty() {
            "it ended without a word".to_owned()
        } else {
            lines.join("; ")
        }
    }
}

/// Returns only if it failed. It has the service's network for standard input, and where it cannot be root over that
/// by itself, the user namespace that this belongs to for standard output.
fn become_pasta(arguments: &[CString], network: &Network, clear_groups: bool, stderr: &OwnedFd) -> Errno {
    let become_it = || -> Result<(), Errno> {
        if network.root.is_some() {
            move_into_link_name_space(network.user.as_fd(), Some(LinkNameSpaceType::User))?;
            if clear_groups {
                rustix::thread::set_thread_groups(&[])?;
            }
            child::become_id(0, 0)?;
        }
        // SAFETY: the standard descriptors are /dev/null here, and nothing uses them before the program does.
        unsafe {
            sys::duplicate_to(network.network.as_raw_fd(), 0)?;
            if network.root.is_none() {
                sys::duplicate_to(network.user.as_raw_fd(), 1)?;
            }
            sys::duplicate_to(stderr.as_raw_fd(), 2)?;
        }
        // All others are closed on exec.
        sys::reset_signals();
        Ok(())
    };
    if let Err(errno) = become_it() {
        return errno;
    }
    let pointers: Vec<*const libc::c_char> = arguments.iter().map(|a| a.as_ptr()).chain([std::ptr::null()]).collect();
    sys::execve(&arguments[0], &pointers, &[std::ptr::null()])
}
