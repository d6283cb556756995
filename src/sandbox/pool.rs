//! The event loop of a pool.

use super::confined::{self, Expected};
use super::instance::{Pending, Phase, Sandbox, Warm};
use super::landlock;
use super::overlay::Upper;
use super::request::{
    Asked, Done, Ended, Event, FromWarm, LONGEST, MOST_DESCRIPTORS, Order, Run, Said, Task, ToWarm, Usage,
};
use super::unit::{self, HOME, Place, Runner, Runs};
use super::usage::{self, Spent};
use super::userdir::{self, Shown};
use super::{Identities, Limits, Profile, SandboxError, Userdirs};
use crate::bundle::Bundle;
use crate::host::Privilege;
use crate::host::idmap::IdMaps;
use crate::launch::cgroup::{Cgroups, Group};
use crate::launch::{Allowed, Descriptors, Launcher, OwnMounts, Program, Report, Running};
use crate::plan::Plan;
use crate::sys;
use crate::values::Isolation;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

mod assignment;
mod clients;
mod ends;
mod explained;
mod in_place;
mod looks;
mod starting;
mod tasks;
mod warm;

/// Where requests come from.
pub enum Source {
    /// One client, whose connection this is. With it ends the pool.
    Control(OwnedFd),
    /// Whoever connects to these.
    Listeners(Vec<OwnedFd>),
}

/// The process that this function is called in, for the pool that it starts and that is to end with it. A signal alone does not see to
/// that (PR_SET_PDEATHSIG): a process that takes on another effective id lets go of it for a moment.
pub fn maker() -> Result<OwnedFd, SandboxError> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(SandboxError::system("open this process"))
}

/// So many sandboxes wait without an interpreter, which is most of what it takes to make one.
const PREPARED: usize = 2;
/// For so long nothing has happened before one is prepared or taken down: whoever asks meanwhile would wait for that, and who was told
/// something does not want to share a processor.
const QUIET: Duration = Duration::from_millis(1);
const QUIET_AMONG_RUNS: Duration = Duration::from_millis(5);
const EVENTS: usize = 64;

/// What there is to wait for.
#[derive(Clone, Copy, Debug)]
enum Token {
    Signals,
    /// The end of whoever made this pool.
    Maker,
    Listener(u32),
    Client(u32),
    Warm,
    WarmReports,
    /// What a sandbox's PID 1 says.
    Reports(u32),
    /// What the interpreter in it says.
    Inside(u32),
    /// What a run's client says.
    Run(u32),
    /// What follows a sandbox's calls says.
    Tracer(u32),
    /// That a sandbox's copy has ended.
    Exit(u32),
}

impl Token {
    fn pack(self) -> u64 {
        let (kind, number) = match self {
            Token::Signals => (0, 0),
            Token::Maker => (10, 0),
            Token::Listener(n) => (1, n),
            Token::Client(n) => (2, n),
            Token::Warm => (3, 0),
            Token::WarmReports => (4, 0),
            Token::Reports(n) => (5, n),
            Token::Inside(n) => (6, n),
            Token::Run(n) => (7, n),
            Token::Tracer(n) => (8, n),
            Token::Exit(n) => (9, n),
        };
        kind << 32 | u64::from(number)
    }

    fn unpack(data: u64) -> Option<Token> {
        let number = data as u32;
        Some(match data >> 32 {
            0 => Token::Signals,
            10 => Token::Maker,
            1 => Token::Listener(number),
            2 => Token::Client(number),
            3 => Token::Warm,
            4 => Token::WarmReports,
            5 => Token::Reports(number),
            6 => Token::Inside(number),
            7 => Token::Run(number),
            8 => Token::Tracer(number),
            9 => Token::Exit(number),
            _ => return None,
        })
    }
}

struct Pool {
    plan: Plan,
    profile: Profile,
    ids: Option<Identities>,
    userdirs: Userdirs,
    launcher: ManuallyDrop<Launcher>,
    /// Where there are namespaces.
    own_mounts: Option<OwnMounts>,
    /// Has each sandbox a cgroup?
    limited: bool,
    epoll: Epoll,
    signals: SignalFd,
    null: OwnedFd,
    listeners: Vec<OwnedFd>,
    clients: BTreeMap<u32, OwnedFd>,
    /// Does it end with its client?
    own: bool,
    warm: Option<Warm>,
    /// Why there is no warm interpreter, and until when none is made.
    cold: Option<(String, Instant)>,
    /// Until when none is prepared, since that has failed.
    unprepared: Option<Instant>,
    sandboxes: BTreeMap<u32, Sandbox>,
    runs: BTreeMap<u32, Pending>,
    /// Runs that have ended, of which it is not said yet what becomes of what they wrote.
    undecided: BTreeMap<u32, Pending>,
    waiting: VecDeque<u32>,
    /// Sandboxes whose runs are over, and whose PID 1 is still there.
    over: VecDeque<u32>,
    /// Places that nobody has, and what each sandbox in them is made of.
    free: Vec<u32>,
    bundles: Vec<Option<Bundle>>,
    idmaps: Vec<IdMaps>,
    serial: u32,
    buffer: Vec<u8>,
}

/// Serves until the clients are gone (a pool of one's own), or until this process is killed, or its [`maker`] ends. This process is PID 1 of a PID
/// namespace and has a mount namespace of its own: whatever was made here ends with it. Without namespaces
/// ([`Isolation::Landlock`]) it is any process, and has a directory of its own in `plan.dirs.run`.
pub fn serve(
    plan: Plan,
    profile: Profile,
    ids: Option<Identities>,
    userdirs: Userdirs,
    (source, maker): (Source, Option<OwnedFd>),
    cgroups: Option<Cgroups>,
) -> Result<(), SandboxError> {
    // They are removed by whoever made them, who is there when this process is gone.
    let limited = cgroups.is_some();
    let mut launcher = ManuallyDrop::new(Launcher::new()?);
    if let Some(cgroups) = cgroups {
        launcher.hold_limits(cgroups);
    }
    if profile.isolation == Isolation::Namespaces {
        own_proc()?;
        launcher.reopen_proc()?;
    }
    more_descriptors()?;
    let mut plan = plan;
    let templates = std::mem::take(&mut plan.templates);
    plan.templates = templates
        .into_iter()
        .map(|(name, template)| (name, unit::root(template)))
        .collect();
    let pool = Pool::new(plan, profile, ids, userdirs, source, (launcher, limited))?;
    if let Some(maker) = &maker {
        pool.watch(maker.as_fd(), Token::Maker)?;
    }
    pool.turn_until_over()
}

/// Runs that wait hold descriptors of their clients.
fn more_descriptors() -> Result<(), SandboxError> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let all = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, all).map_err(SandboxError::system("have more files open"))
}

/// /proc of this PID namespace in place of the one around it.
fn own_proc() -> Result<(), SandboxError> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let alone = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", alone).map_err(SandboxError::system("keep mounts to this pool"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).map_err(|errno| {
        SandboxError::refused(format!(
            "mount /proc for the pool: {errno}; where /proc is covered in part, as in many containers, sandboxes need \
             isolation = \"landlock\""
        ))
    })
}

impl Pool {
    fn new(
        plan: Plan,
        profile: Profile,
        ids: Option<Identities>,
        userdirs: Userdirs,
        source: Source,
        (launcher, limited): (ManuallyDrop<Launcher>, bool),
    ) -> Result<Pool, SandboxError> {
        let system = |operation| {
            move |errno: nix::Error| SandboxError::system(operation)(Errno::from_raw_os_error(errno as i32))
        };
        profile.limits.check()?;
        let mut profile = profile;
        profile.limits = profile.limits.or_default();
        profile.readable = canonical(&profile.readable, profile.isolation)?;
        for path in &mut profile.paths {
            let refused = |e| SandboxError::refused(format!("modules in {}: {e}", path.display()));
            *path = path.canonicalize().map_err(refused)?;
        }
        profile.at_once = profile.at_once.max(1);
        let wanted = profile.at_once + profile.ready + PREPARED;
        let places = ids.map_or(wanted, |ids| wanted.min(ids.count as usize));
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block().map_err(system("block SIGCHLD"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        let null = rustix::fs::open(
            "/dev/null",
            rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        let own_mounts = match profile.isolation {
            Isolation::Namespaces => Some(OwnMounts::new()?),
            Isolation::Landlock => None,
        };
        let mut pool = Pool {
            launcher,
            own_mounts,
            limited,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("make an epoll"))?,
            signals: signals.map_err(system("take signals"))?,
            null: null.map_err(SandboxError::system("open /dev/null"))?,
            plan,
            profile,
            ids,
            userdirs,
            listeners: Vec::new(),
            clients: BTreeMap::new(),
            own: matches!(source, Source::Control(_)),
            warm: None,
            cold: None,
            unprepared: None,
            sandboxes: BTreeMap::new(),
            runs: BTreeMap::new(),
            undecided: BTreeMap::new(),
            waiting: VecDeque::new(),
            over: VecDeque::new(),
            free: (0..places as u32).rev().collect(),
            bundles: (0..places).map(|_| None).collect(),
            idmaps: (0..places).map(|_| IdMaps::default()).collect(),
            serial: 0,
            buffer: vec![0; LONGEST],
        };
        pool.watch(pool.signals.as_fd(), Token::Signals)?;
        if pool.in_place() {
            pool.prepare_in_place()?;
        }
        match source {
            Source::Control(connection) => {
                let isolation = pool.profile.isolation.name();
                tell(&connection, &Event::Ready { isolation });
                pool.meet(connection)?;
            }
            Source::Listeners(listeners) => {
                for (number, listener) in listeners.into_iter().enumerate() {
                    pool.watch(listener.as_fd(), Token::Listener(number as u32))?;
                    pool.listeners.push(listener);
                }
            }
        }
        if pool.profile.warm {
            pool.warm_up();
        }
        Ok(pool)
    }

    fn watch(&self, fd: BorrowedFd<'_>, token: Token) -> Result<(), SandboxError> {
        watch(&self.epoll, fd, token)
    }

    fn unwatch(&self, fd: BorrowedFd<'_>) {
        let _ = self.epoll.delete(fd);
    }

    fn next_serial(&mut self) -> u32 {
        self.serial = self.serial.wrapping_add(1);
        self.serial
    }

    fn turn_until_over(mut self) -> Result<(), SandboxError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut last = Instant::now();
        while !self.is_over() {
            let begun = Instant::now();
            let quiet = match self.runs.is_empty() {
                true => QUIET,
                false => QUIET_AMONG_RUNS,
            };
            let quiet = self.to_prepare().map(|_| quiet.saturating_sub(last.elapsed()));
            let wait = quiet.into_iter().chain(self.next_look()).min();
            let wait = wait.map_or(EpollTimeout::NONE, |time| {
                let milliseconds = time.as_nanos().div_ceil(1_000_000).min(1 << 30);
                EpollTimeout::try_from(milliseconds as u32).unwrap_or(EpollTimeout::ZERO)
            });
            let count = match self.epoll.wait(&mut events, wait) {
                Ok(count) => count,
                Err(nix::Error::EINTR) => continue,
                Err(errno) => {
                    let errno = Errno::from_raw_os_error(errno as i32);
                    return Err(SandboxError::system("wait for events")(errno));
                }
            };
            for event in &events[..count] {
                if let Some(token) = Token::unpack(event.data()) {
                    self.handle(token);
                }
            }
            self.look();
            if self.in_place() {
                self.settle_in_place();
            }
            self.assign();
            if count > 0 {
                last = Instant::now();
            } else if quiet.is_some_and(|quiet| quiet <= begun.elapsed())
                && let Some(what) = self.to_prepare()
            {
                self.prepare(&what);
            }
        }
        Ok(())
    }

    /// Is nobody there any more whom it serves, and nothing left of what they wanted?
    fn is_over(&self) -> bool {
        self.own && self.clients.is_empty() && self.runs.is_empty()
    }

    fn handle(&mut self, token: Token) {
        match token {
            Token::Maker => sys::exit(137),
            Token::Signals => {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                while let Some(reaped) = sys::reap_with_usage() {
                    self.ended(&reaped);
                }
            }
            Token::Listener(number) => self.accept(number),
            Token::Client(number) => self.hear_client(number),
            Token::Warm => self.hear_warm(),
            Token::WarmReports => self.hear_warm_reports(),
            Token::Reports(number) => self.hear_reports(number),
            Token::Inside(number) => self.hear_inside(number),
            Token::Run(number) => self.hear_run(number),
            Token::Tracer(number) => self.hear_tracer(number),
            Token::Exit(number) => self.copy_ended(number),
        }
    }
}

fn watch(epoll: &Epoll, fd: BorrowedFd<'_>, token: Token) -> Result<(), SandboxError> {
    let event = EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
    let added = epoll.add(fd, event);
    added.map_err(|errno| SandboxError::system("watch a descriptor")(Errno::from_raw_os_error(errno as i32)))
}

fn canonical(paths: &[PathBuf], isolation: Isolation) -> Result<Vec<PathBuf>, SandboxError> {
    let real = |path: &PathBuf| {
        let refused = |e: std::io::Error| SandboxError::refused(format!("readable {}: {e}", path.display()));
        match path.canonicalize() {
            Ok(real) if isolation == Isolation::Namespaces && unit::is_own(&real) => {
                Err(SandboxError::refused(format!(
                    "readable {}: a sandbox has a {} of its own; move it elsewhere, or put files into the userdir",
                    path.display(),
                    real.components().take(2).collect::<PathBuf>().display()
                )))
            }
            Ok(real) if real == Path::new("/") => Err(SandboxError::refused("readable /: name folders of it")),
            other => other.map_err(refused),
        }
    };
    paths.iter().map(real).collect()
}

fn socketpair() -> Result<(OwnedFd, OwnedFd), SandboxError> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(SandboxError::system("make a socket pair"))
}

fn send(socket: &OwnedFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = serde_json::to_vec(message).map_err(|_| Errno::INVAL)?;
    sys::send_fds(socket.as_fd(), &bytes, fds, SendFlags::DONTWAIT).map(drop)
}

/// Whoever would hear it may be gone.
fn tell(connection: &OwnedFd, event: &Event) {
    if let Ok(bytes) = serde_json::to_vec(event) {
        let _ = rustix::net::send(connection, &bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}
