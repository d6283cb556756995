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
use super::{Identities, Profile, SandboxError, Userdirs};
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

mod explained;
mod in_place;

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

/// Runs that wait, of all clients.
const MOST_WAITING: usize = 10_000;
/// Overlays of runs that have ended: each holds memory until it is said what becomes of it.
const MOST_UNDECIDED: usize = 64;
/// Connections of clients at once.
const MOST_CLIENTS: usize = 256;
/// A directory that may hold only so much is looked at no more often than this, and so that all but one part in so many of the time is
/// left for else; and a run whose processes nothing else counts.
const LOOK: Duration = Duration::from_millis(200);
const PART: u32 = 20;
const COUNT: Duration = Duration::from_millis(50);
/// So long a warm interpreter is not made anew that did not come to be ready.
const BACK_OFF: Duration = Duration::from_secs(1);
/// So many sandboxes wait without an interpreter, which is most of what it takes to make one.
const PREPARED: usize = 2;
/// For so long nothing has happened before one is prepared or taken down: whoever asks meanwhile would wait for that, and who was told
/// something does not want to share a processor.
const QUIET: Duration = Duration::from_millis(1);
const QUIET_AMONG_RUNS: Duration = Duration::from_millis(5);
/// So many sandboxes are left, when their runs are over, until nobody wants anything: to take one down takes time.
const MOST_OVER: usize = 8;
const EVENTS: usize = 64;

/// What an overlay holds where no limit says it.
const OVERLAY_BYTES: u64 = 64 << 20;
const OVERLAY_FILES: u64 = 10_000;

/// The longest message of an interpreter in a sandbox, and how much that was denied is told of it.
const LONGEST_SAID: usize = 16 << 10;
const MOST_DENIED: usize = 16;

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

    // Clients.

    fn meet(&mut self, connection: OwnedFd) -> Result<(), SandboxError> {
        let number = self.next_serial();
        self.watch(connection.as_fd(), Token::Client(number))?;
        self.clients.insert(number, connection);
        Ok(())
    }

    fn accept(&mut self, number: u32) {
        let Some(listener) = self.listeners.get(number as usize) else {
            return;
        };
        let accepted = rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let Ok(connection) = accepted else { return };
        if self.clients.len() < MOST_CLIENTS {
            let _ = self.meet(connection);
        }
    }

    fn hear_client(&mut self, number: u32) {
        let mut fds = Vec::new();
        let Some(client) = self.clients.get(&number) else {
            return;
        };
        let taken = sys::receive_fds(client.as_fd(), &mut self.buffer, MOST_DESCRIPTORS, &mut fds);
        let length = match taken {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(0) | Err(_) => return self.client_gone(number),
            Ok(length) => length,
        };
        match serde_json::from_slice::<Asked>(&self.buffer[..length]) {
            Ok(Asked::Run(run)) => self.asked(number, *run, fds),
            Ok(Asked::Profile(_)) => self.tell_refused(fds.first(), "the sandbox has a profile already"),
            Err(e) => self.tell_refused(fds.first(), &format!("the request: {e}")),
        }
    }

    /// To whoever asked, on the connection that came first with the request.
    fn tell_refused(&self, connection: Option<&OwnedFd>, error: &str) {
        if let Some(connection) = connection {
            tell(
                connection,
                &Event::Refused {
                    error: error.to_owned(),
                },
            );
        }
    }

    fn client_gone(&mut self, number: u32) {
        if let Some(connection) = self.clients.remove(&number) {
            self.unwatch(connection.as_fd());
        }
        let its: Vec<u32> = self
            .runs
            .iter()
            .filter(|(_, run)| run.client == number)
            .map(|(n, _)| *n)
            .collect();
        for run in its {
            self.kill(run, "stopped");
        }
    }

    fn asked(&mut self, client: u32, mut asked: Run, fds: Vec<OwnedFd>) {
        let mut names = std::mem::take(&mut asked.fds);
        let at = names.iter().position(|name| name == "run");
        let mut fds = fds;
        let (Some(at), true) = (at.filter(|at| *at < fds.len()), names.len() == fds.len()) else {
            return self.tell_refused(fds.first(), "name each descriptor, and one of them `run`");
        };
        names.remove(at);
        let connection = fds.remove(at);
        let refuse = |error: SandboxError| {
            tell(
                &connection,
                &Event::Refused {
                    error: error.to_string(),
                },
            )
        };
        if asked.command.as_ref().is_some_and(Vec::is_empty) {
            return refuse(SandboxError::refused(
                "`command` is empty: name a program, or leave it out",
            ));
        }
        if self.waiting.len() >= MOST_WAITING {
            return refuse(SandboxError::refused("too many runs wait already; ask again later"));
        }
        let limits = match asked.session {
            true => asked.limits.of_session(&self.profile.limits),
            false => asked.limits.within(&self.profile.limits),
        };
        if let Err(error) = asked.limits.check() {
            return refuse(error);
        }
        if asked.explain
            && let Err(error) = self.may_explain(&asked)
        {
            return refuse(error);
        }
        if asked.overlay && self.undecided.len() >= MOST_UNDECIDED {
            return refuse(SandboxError::refused(
                "too many runs with an overlay have ended, of which it is not said whether their changes are kept; commit or discard",
            ));
        }
        if asked.overlay && self.in_place() {
            return refuse(SandboxError::refused(
                "an overlay is a mount, which there is none of without namespaces; leave out `overlay`, or `isolation`",
            ));
        }
        if asked.overlay && asked.userdir.is_none() {
            return refuse(SandboxError::refused(
                "an overlay is of a userdir; name that, or leave out `overlay`",
            ));
        }
        if !asked.readable.is_empty() {
            match &self.userdirs {
                Userdirs::Host => match canonical(&asked.readable, self.profile.isolation) {
                    Ok(paths) => {
                        as_shown(&mut asked, &paths);
                        asked.readable = paths;
                    }
                    Err(error) => return refuse(error),
                },
                _ => {
                    return refuse(SandboxError::refused(
                        "what a sandbox may read is the manifest's to say",
                    ));
                }
            }
        }
        let found = asked
            .userdir
            .as_deref()
            .map(|path| userdir::find(&self.userdirs, path))
            .transpose();
        let userdir = match found {
            Ok(userdir) => userdir,
            Err(error) => return refuse(error),
        };
        let number = self.next_serial();
        if let Err(error) = self.watch(connection.as_fd(), Token::Run(number)) {
            return refuse(error);
        }
        if let Some(bytes) = limits
            .output
            .filter(|most| asked.limits.output.is_none_or(|held| held > *most))
        {
            tell(&connection, &Event::Output { bytes });
        }
        let run = Pending {
            client,
            asked,
            names,
            fds,
            connection,
            limits,
            userdir,
            upper: None,
            given: false,
            scratch: None,
            sandbox: None,
            began: None,
            spent: Spent::default(),
            again: false,
            killed: None,
            look: None,
            walk: None,
        };
        self.runs.insert(number, run);
        self.waiting.push_back(number);
        self.assign();
    }

    fn hear_run(&mut self, number: u32) {
        if self.undecided.contains_key(&number) {
            return self.decide(number);
        }
        let Some(run) = self.runs.get(&number) else { return };
        let mut bytes = [0u8; 256];
        match rustix::net::recv(&run.connection, &mut bytes[..], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok((0, _)) | Err(_) => {
                self.unwatch_run(number);
                self.kill(number, "stopped");
            }
            Ok((length, _)) => match serde_json::from_slice::<Order>(&bytes[..length]) {
                Ok(Order::Kill(reason)) => self.kill(number, &reason),
                Ok(Order::Interrupt(_)) => self.interrupt(number),
                Ok(Order::Commit(_) | Order::Discard(_)) | Err(_) => {}
            },
        }
    }

    /// What becomes of what a run has written to an overlay. Who says nothing lets it go.
    fn decide(&mut self, number: u32) {
        let mut bytes = [0u8; 64];
        let order = match self.undecided.get(&number) {
            None => return,
            Some(run) => match rustix::net::recv(&run.connection, &mut bytes[..], RecvFlags::DONTWAIT) {
                Err(Errno::AGAIN | Errno::INTR) => return,
                Ok((length, _)) => serde_json::from_slice::<Order>(&bytes[..length]).ok(),
                Err(_) => None,
            },
        };
        let Some(run) = self.undecided.remove(&number) else {
            return;
        };
        self.unwatch(run.connection.as_fd());
        let event = match (order, &run.upper, &run.userdir) {
            (Some(Order::Commit(true)), Some(upper), Some(userdir)) => match upper.commit(userdir) {
                Ok(()) => Event::Committed,
                Err(error) => Event::Refused {
                    error: error.to_string(),
                },
            },
            _ => Event::Discarded,
        };
        tell(&run.connection, &event);
    }

    fn unwatch_run(&self, number: u32) {
        if let Some(run) = self.runs.get(&number) {
            self.unwatch(run.connection.as_fd());
        }
    }

    fn interrupt(&mut self, number: u32) {
        let sandbox = self.runs.get(&number).and_then(|run| run.sandbox);
        let sandbox = sandbox.and_then(|sandbox| self.sandboxes.get(&sandbox));
        if let Some(sandbox) = sandbox.filter(|s| s.phase == Phase::Running) {
            match sandbox.inside {
                Some(inside) => drop(sys::kill(inside.as_raw_nonzero().get(), libc::SIGINT)),
                None => {
                    if let Some(running) = &sandbox.running {
                        let _ = running.signal(rustix::process::Signal::INT);
                    }
                }
            }
        }
    }

    // The warm interpreter.

    fn warm_up(&mut self) {
        match self.launch_warm() {
            Ok(warm) => self.warm = Some(warm),
            Err(error) => self.is_cold(error.to_string()),
        }
    }

    fn launch_warm(&mut self) -> Result<Warm, SandboxError> {
        let (ours, theirs) = socketpair()?;
        let (running, filter) = match self.in_place() {
            true => (self.launch_warm_in_place(&theirs)?, self.filter_in_place()?),
            false => self.launch_warm_apart(&theirs)?,
        };
        let memory = rustix::fs::memfd_create("filter", rustix::fs::MemfdFlags::CLOEXEC)
            .map_err(SandboxError::system("make a file in memory"))?;
        rustix::io::write(&memory, &filter).map_err(SandboxError::system("write the filter of system calls"))?;
        let boot = ToWarm::Boot {
            paths: &unit::module_paths(&self.profile),
            preload: &self.profile.preload,
            after_fork: &self.profile.after_fork,
        };
        send(&ours, &boot, &[memory.as_fd()]).map_err(SandboxError::system("speak to the warm interpreter"))?;
        self.watch(ours.as_fd(), Token::Warm)?;
        self.watch(running.reports.as_fd(), Token::WarmReports)?;
        Ok(Warm {
            running,
            socket: ours,
            ready: false,
        })
    }

    /// In namespaces of its own; and the filter of its copies.
    fn launch_warm_apart(&mut self, theirs: &OwnedFd) -> Result<(Running, Vec<u8>), SandboxError> {
        let mut bundle = unit::warm(&self.plan, &self.profile, self.ids.as_ref())?;
        // The copy gets the filter of a sandbox, beside that of the interpreter itself.
        let of = unit::sandbox(
            &self.plan,
            &self.profile,
            self.place(0),
            &self.profile.limits,
            &Runs::Copy,
            &[],
            false,
        )?;
        let filter = self.launcher.filter(&of.spec)?;
        if let Some(process) = bundle.spec.process_mut() {
            process.set_rlimits(None);
        }
        let running = self.launcher.launch(
            &bundle,
            &Descriptors {
                sockets: &[(theirs.as_fd(), "pool")],
                program: Program::Forking,
                ..Descriptors::of([self.null.as_fd(), self.null.as_fd(), rustix::stdio::stderr()])
            },
        )?;
        Ok((running, filter))
    }

    /// There is none now; whoever needs it is refused, and after a while it is tried again.
    fn is_cold(&mut self, why: String) {
        tracing::warn!(why, "no warm interpreter");
        let again = Instant::now() + BACK_OFF;
        self.cold = Some((why.clone(), again));
        let those: Vec<u32> = self
            .sandboxes
            .iter()
            .filter(|(_, s)| s.copy && matches!(s.phase, Phase::Starting | Phase::Joinable | Phase::Joining))
            .map(|(number, _)| *number)
            .collect();
        for number in those {
            self.fail(number, format!("the warm interpreter: {why}"));
        }
        while let Some(run) = self.waiting.iter().position(|run| self.needs_warm(*run)) {
            if let Some(run) = self.waiting.remove(run) {
                self.refuse(run, &format!("the warm interpreter: {why}"));
            }
        }
    }

    fn needs_warm(&self, run: u32) -> bool {
        self.profile.warm && self.runs.get(&run).is_some_and(|run| run.asked.command.is_none())
    }

    fn hear_warm(&mut self) {
        let Some(warm) = &self.warm else { return };
        let mut fds = Vec::new();
        let taken = sys::receive_fds(warm.socket.as_fd(), &mut self.buffer, 1, &mut fds);
        let length = match taken {
            Err(Errno::AGAIN | Errno::INTR) => return,
            // It is told of by its PID 1.
            Ok(0) | Err(_) => return self.unwatch(warm.socket.as_fd()),
            Ok(length) => length,
        };
        match serde_json::from_slice::<FromWarm>(&self.buffer[..length]) {
            Ok(FromWarm::Ready(_)) => {
                if let Some(warm) = &mut self.warm {
                    warm.ready = true;
                }
                self.cold = None;
                let joinable: Vec<u32> = self
                    .sandboxes
                    .iter()
                    .filter(|(_, s)| s.phase == Phase::Joinable && s.run.is_some())
                    .map(|(number, _)| *number)
                    .collect();
                for number in joinable {
                    self.join(number);
                }
            }
            Ok(FromWarm::Failed(why)) => self.end_warm(why),
            Ok(FromWarm::Ended(pid, status, cpu, memory)) => {
                let of = |s: &Sandbox| s.inside.is_some_and(|inside| inside.as_raw_nonzero().get() == pid);
                let found = self.sandboxes.iter_mut().find(|(_, s)| of(s));
                if let Some((number, sandbox)) = found {
                    if sandbox.run.is_none() && sandbox.done.is_some() {
                        // Its run is over, and its number may be given again.
                        sandbox.inside = None;
                        return;
                    }
                    sandbox.status = Some(status);
                    sandbox.cpu = Duration::from_secs_f64(cpu.clamp(0.0, 1e9));
                    sandbox.memory = memory;
                    let number = *number;
                    self.end(number);
                }
            }
            Err(e) => self.end_warm(format!("it says what nobody understands: {e}")),
        }
    }

    fn hear_warm_reports(&mut self) {
        let Some(warm) = &self.warm else { return };
        match warm.running.report() {
            Ok(Report::Failed(error)) => self.end_warm(error.to_string()),
            Ok(Report::Exited(_) | Report::End) => self.unwatch(warm.running.reports.as_fd()),
            _ => {}
        }
    }

    fn end_warm(&mut self, why: String) {
        self.let_go_of_warm();
        self.is_cold(why);
    }

    fn let_go_of_warm(&mut self) {
        if let Some(warm) = self.warm.take() {
            let _ = warm.running.signal(rustix::process::Signal::KILL);
            self.unwatch(warm.socket.as_fd());
            self.unwatch(warm.running.reports.as_fd());
        }
    }

    // Sandboxes.

    /// What is to be made while nobody wants anything.
    fn to_prepare(&self) -> Option<Preparation> {
        if !self.over.is_empty() {
            return Some(Preparation::Room);
        }
        let failed = self.unprepared.is_some_and(|until| until > Instant::now());
        let warm = self.warm.as_ref().is_some_and(|warm| warm.ready);
        if failed || !warm || !self.waiting.is_empty() || self.in_place() {
            return None;
        }
        let spare = || {
            let all = self.sandboxes.iter();
            all.filter(|(_, s)| s.run.is_none() && s.phase != Phase::Ending)
        };
        let interpreters = spare().filter(|(_, s)| matches!(s.phase, Phase::Joining | Phase::Ready));
        if interpreters.count() < self.profile.ready
            && let Some((number, _)) = spare().find(|(_, s)| s.phase == Phase::Joinable)
        {
            return Some(Preparation::Interpreter(*number));
        }
        let lacks = spare().count() < self.profile.ready + PREPARED && !self.free.is_empty();
        lacks.then_some(Preparation::Sandbox)
    }

    fn prepare(&mut self, what: &Preparation) {
        let done = match what {
            Preparation::Room => {
                self.take_down_one();
                Ok(())
            }
            Preparation::Sandbox => self.start(None),
            Preparation::Interpreter(number) => {
                self.join(*number);
                Ok(())
            }
        };
        if let Err(error) = done {
            tracing::warn!(%error, "prepare a sandbox");
            self.unprepared = Some(Instant::now() + BACK_OFF);
        }
    }

    /// Gives those who wait what there is, first come first served.
    fn assign(&mut self) {
        self.revive();
        while let Some((at, run)) = self.next_in_line() {
            let busy = self.runs.values().filter(|run| run.sandbox.is_some()).count();
            if busy >= self.profile.at_once {
                return;
            }
            let common = self
                .runs
                .get(&run)
                .is_some_and(|run| run.asked.command.is_none() && run.asked.readable.is_empty());
            let spare = |phase: fn(&Phase) -> bool| {
                let found = self
                    .sandboxes
                    .iter()
                    .find(|(_, s)| s.run.is_none() && s.common && phase(&s.phase));
                found.map(|(number, _)| *number)
            };
            let there = match common && self.profile.warm {
                true => spare(|p| *p == Phase::Ready)
                    .or_else(|| spare(|p| *p == Phase::Joining))
                    .or_else(|| spare(|p| *p == Phase::Joinable))
                    .or_else(|| spare(|p| *p == Phase::Starting)),
                false => None,
            };
            match there {
                Some(number) => {
                    self.waiting.remove(at);
                    self.take(number, run);
                }
                None if self.free.is_empty() => {
                    // One that waits for anybody makes room for one that is made for somebody.
                    let idle = spare(|p| *p != Phase::Ending).filter(|_| !common);
                    if let (false, Some(number)) = (self.take_down_one(), idle) {
                        self.end(number);
                    }
                    return;
                }
                None => {
                    self.waiting.remove(at);
                    if let Err(error) = self.start(Some(run)) {
                        self.refuse(run, &error.to_string());
                    }
                }
            }
        }
    }

    /// The first one that waits for nothing but a place. Where what is in a directory is given to a run ([`Shown::Given`]), whoever
    /// wants the same directory waits for that run's end.
    fn next_in_line(&self) -> Option<(usize, u32)> {
        let given: Vec<&Path> = match self.plan.privilege {
            Privilege::SubordinateIds => {
                let those = self.runs.values().filter(|run| run.sandbox.is_some());
                those
                    .filter_map(|run| Some(run.userdir.as_ref()?.path.as_path()))
                    .collect()
            }
            Privilege::Root | Privilege::OneId => Vec::new(),
        };
        let is_given = |path: &Path| {
            given
                .iter()
                .any(|given| given.starts_with(path) || path.starts_with(given))
        };
        self.waiting.iter().copied().enumerate().find(|(_, number)| {
            let userdir = self.runs.get(number).and_then(|run| run.userdir.as_ref());
            !userdir.is_some_and(|userdir| is_given(&userdir.path))
        })
    }

    fn revive(&mut self) {
        if !self.profile.warm || self.warm.is_some() {
            return;
        }
        let waits = |s: &Sandbox| s.copy && s.run.is_some() && matches!(s.phase, Phase::Starting | Phase::Joinable);
        let wanted = self.profile.ready > 0
            || self.waiting.iter().any(|run| self.needs_warm(*run))
            || self.sandboxes.values().any(waits);
        let may = self.cold.as_ref().is_none_or(|(_, until)| *until <= Instant::now());
        if wanted && may {
            self.warm_up();
        } else if let Some((why, _)) = self.cold.clone() {
            while let Some(at) = self.waiting.iter().position(|run| self.needs_warm(*run)) {
                if let Some(run) = self.waiting.remove(at) {
                    self.refuse(run, &format!("the warm interpreter: {why}"));
                }
            }
        }
    }

    /// A sandbox that is there or on its way becomes this run's.
    fn take(&mut self, number: u32, run: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        sandbox.run = Some(run);
        let phase = sandbox.phase;
        if let Some(run) = self.runs.get_mut(&run) {
            run.sandbox = Some(number);
        }
        match phase {
            Phase::Ready => self.open(number),
            Phase::Joinable => self.join_when_warm(number),
            _ => {}
        }
    }

    /// Has a copy of the warm interpreter join, if there is one; else that is done when it is there.
    fn join_when_warm(&mut self, number: u32) {
        if self.warm.as_ref().is_some_and(|warm| warm.ready) {
            self.join(number);
        }
    }

    fn start(&mut self, run: Option<u32>) -> Result<(), SandboxError> {
        let Some(place) = self.free.pop() else { return Ok(()) };
        let launched = match run {
            Some(run) if self.in_place() => self.launch_in_place(place, run),
            _ => self.launch(place, run),
        };
        match launched {
            Ok(()) => Ok(()),
            Err(error) => {
                self.free.push(place);
                if let Some(run) = run {
                    self.give_back(run, Runner::of(self.ids.as_ref(), place));
                }
                Err(error)
            }
        }
    }

    fn launch(&mut self, place: u32, run: Option<u32>) -> Result<(), SandboxError> {
        let runner = Runner::of(self.ids.as_ref(), place);
        let pending = run.and_then(|run| self.runs.get(&run));
        let has_command = pending.is_some_and(|run| run.asked.command.is_some());
        let copy = self.profile.warm && !has_command;
        let common = copy && pending.is_none_or(|run| run.asked.readable.is_empty());
        let bundle = match self
            .bundles
            .get_mut(place as usize)
            .and_then(Option::take)
            .filter(|_| common)
        {
            Some(bundle) => bundle,
            None => self.compile(place, runner, run)?,
        };
        let home = match run {
            // A copy is shown it when it is there.
            Some(run) if !copy => self.home(run, place, runner)?,
            _ => None,
        };
        let (ours, theirs) = socketpair()?;
        rustix::net::sockopt::set_socket_passcred(&ours, true).map_err(SandboxError::system("ask for credentials"))?;
        let null = self.null.as_fd();
        let pending = run.and_then(|run| self.runs.get(&run));
        let given = |name: &str| pending.and_then(|run| run.fd(name)).map_or(null, AsFd::as_fd);
        let stdio = match has_command {
            true => [given("stdin"), given("stdout"), given("stderr")],
            // What keeps it from beginning is to be read.
            false => [null, null, given("stderr")],
        };
        let sockets = [(theirs.as_fd(), "pool")];
        let launched = self.launcher.launch(
            &bundle,
            &Descriptors {
                sockets: if copy || has_command { &[] } else { &sockets },
                program: if copy {
                    Program::Joining(Path::new(HOME))
                } else {
                    Program::OfSpec
                },
                shown: home.as_ref().map(|tree| (tree.as_fd(), Path::new(HOME))),
                owner: self.ids.as_ref().filter(|_| copy).map(|ids| ids.warm),
                hold: has_command && pending.is_some_and(|run| run.asked.explain),
                ..Descriptors::of(stdio)
            },
        );
        if common && let Some(slot) = self.bundles.get_mut(place as usize) {
            *slot = Some(bundle);
        }
        let running = launched?;
        let number = self.next_serial();
        self.watch(running.reports.as_fd(), Token::Reports(number))?;
        self.watch(ours.as_fd(), Token::Inside(number))?;
        self.sandboxes.insert(
            number,
            Sandbox {
                place,
                runner,
                phase: Phase::Starting,
                copy,
                running: Some(running),
                control: ours,
                theirs: copy.then_some(theirs),
                ruleset: None,
                mounts: None,
                exit: None,
                inside: None,
                run,
                status: None,
                done: None,
                cpu: Duration::ZERO,
                memory: 0,
                failed: None,
                common,
                tracer: None,
                gone: None,
            },
        );
        if let Some(run) = run.and_then(|run| self.runs.get_mut(&run)) {
            run.sandbox = Some(number);
        }
        Ok(())
    }

    /// What a sandbox is made of: for a copy of the warm interpreter, or for what this run names.
    fn compile(&mut self, place: u32, runner: Runner, run: Option<u32>) -> Result<Bundle, SandboxError> {
        let pending = run.and_then(|run| self.runs.get(&run));
        let Some(pending) = pending.filter(|run| run.asked.command.is_some() || !self.profile.warm) else {
            let further = run
                .and_then(|run| self.runs.get(&run))
                .map_or(&[][..], |run| &run.asked.readable);
            let of = self.place(place);
            return unit::sandbox(
                &self.plan,
                &self.profile,
                of,
                &self.profile.limits,
                &Runs::Copy,
                further,
                false,
            );
        };
        let runs = match &pending.asked.command {
            Some(command) => Runs::Command {
                command,
                environment: &pending.asked.environment,
            },
            None => Runs::Python,
        };
        let further = &pending.asked.readable;
        unit::sandbox(
            &self.plan,
            &self.profile,
            Place {
                number: place,
                runner,
                cgroup: self.limited,
            },
            &pending.limits,
            &runs,
            further,
            pending.userdir.is_some(),
        )
    }

    /// The tree that a run is shown as its home, attached nowhere yet; with an overlay on it, if it wants one.
    fn home(&mut self, number: u32, place: u32, runner: Runner) -> Result<Option<OwnedFd>, SandboxError> {
        let Some(run) = self.runs.get_mut(&number) else {
            return Ok(None);
        };
        let Some(userdir) = &run.userdir else { return Ok(None) };
        let shown = userdir.shown(&self.plan.privilege, runner);
        if matches!(shown, Shown::Given) {
            // What is given in part comes back as well.
            run.given = true;
            userdir.give(runner, self.ids.as_ref())?;
        }
        let map = match &shown {
            Shown::Mapped(map) => Some(map),
            Shown::AsIs | Shown::Given => None,
        };
        let mut none = IdMaps::default();
        let idmaps = self.idmaps.get_mut(place as usize).unwrap_or(&mut none);
        let tree = self.launcher.detached(userdir.fd.as_fd(), &userdir.path, map, idmaps)?;
        if !run.asked.overlay {
            return Ok(Some(tree));
        }
        let holds = (
            run.limits.userdir.or(run.limits.tmp).unwrap_or(OVERLAY_BYTES),
            run.limits.files.unwrap_or(OVERLAY_FILES),
        );
        let uid = runner.uid_seen_outside(self.ids.as_ref());
        let outer = self.plan.privilege != Privilege::Root;
        let [over, upper] = self.launcher.overlay(tree, holds, (uid, uid), outer)?;
        run.upper = Some(Upper(upper));
        Ok(Some(over))
    }

    fn place(&self, number: u32) -> Place {
        Place {
            number,
            runner: Runner::of(self.ids.as_ref(), number),
            cgroup: self.limited,
        }
    }

    fn hear_reports(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(running) = &sandbox.running else { return };
        match running.report() {
            Ok(Report::Rules(ruleset)) => sandbox.ruleset = Some(ruleset),
            Ok(Report::Started) => self.started(number),
            Ok(Report::Exited(status)) => {
                sandbox.status = Some(status);
                sandbox.phase = Phase::Ending;
            }
            Ok(Report::Failed(error)) => self.fail(number, error.to_string()),
            Ok(Report::End) => {
                let _ = self.epoll.delete(running.reports.as_fd());
                if self.in_place() && sandbox_is_starting(self, number) {
                    self.started(number);
                }
            }
            Ok(Report::Held) => self.held(number),
            Ok(Report::Terminal(_)) | Err(_) => {}
        }
    }

    /// Has a copy of the warm interpreter join.
    fn join(&mut self, number: u32) {
        if let Err(error) = self.try_join(number) {
            self.fail(number, error.to_string());
        }
    }

    fn try_join(&mut self, number: u32) -> Result<(), SandboxError> {
        let (Some(sandbox), Some(warm)) = (self.sandboxes.get_mut(&number), &self.warm) else {
            return Ok(());
        };
        let Some(theirs) = sandbox.theirs.take() else {
            return Ok(());
        };
        let mut namespaces = match &sandbox.running {
            Some(running) => confined::namespaces(running.pid.as_raw_nonzero().get())
                .map_err(SandboxError::system("open the sandbox's namespaces"))?,
            None => Vec::new(),
        };
        let cgroups = match sandbox.running.as_ref().and_then(Running::cgroup) {
            Some(group) => group.entrances()?,
            None => Vec::new(),
        };
        let mut fds = vec![theirs.as_fd()];
        fds.extend(sandbox.ruleset.as_ref().map(AsFd::as_fd));
        fds.extend(cgroups.iter().map(AsFd::as_fd));
        fds.extend(namespaces.iter().map(AsFd::as_fd));
        let limits = of_kernel(&self.profile, &self.profile.limits.widest());
        let rlimits = unit::rlimits(&limits, None);
        let fork = ToWarm::Fork {
            uid: sandbox.runner.uid,
            gid: match sandbox.running {
                Some(_) => sandbox.runner.uid,
                None => rustix::process::getegid().as_raw(),
            },
            groups: self.profile.isolation == Isolation::Namespaces && self.plan.privilege != Privilege::OneId,
            landlock: sandbox.ruleset.is_some(),
            cgroups: cgroups.len(),
            rehearse: sandbox.run.is_none(),
            rlimits: &rlimits,
        };
        match send(&warm.socket, &fork, &fds) {
            Ok(()) => {}
            // It has ended, which is heard next: the one after it is asked.
            Err(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN) => {
                sandbox.theirs = Some(theirs);
                return Ok(());
            }
            Err(errno) => return Err(SandboxError::system("speak to the warm interpreter")(errno)),
        }
        sandbox.ruleset = None;
        sandbox.mounts = (namespaces.len() > confined::MOUNTS).then(|| namespaces.swap_remove(confined::MOUNTS));
        sandbox.phase = Phase::Joining;
        Ok(())
    }

    fn hear_inside(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let mut bytes = [0u8; LONGEST_SAID];
        let received = match sys::receive(sandbox.control.as_fd(), &mut bytes) {
            Err(Errno::AGAIN | Errno::INTR) => return,
            Ok(received) if received.bytes > 0 => received,
            _ => {
                let _ = self.epoll.delete(sandbox.control.as_fd());
                if matches!(sandbox.phase, Phase::Joining | Phase::Ready) {
                    self.fail_copy(number, None);
                }
                return;
            }
        };
        match serde_json::from_slice::<Said>(&bytes[..received.bytes]) {
            Ok(Said::Confined(_)) if sandbox.phase != Phase::Ending => self.confined(number, received.sender),
            Ok(Said::Done(done)) if sandbox.phase == Phase::Running && sandbox.inside.is_some() => {
                self.done(number, done)
            }
            // That it has ended was heard of first, from who made it.
            Ok(Said::Done(done)) if sandbox.phase == Phase::Ending => {
                sandbox.done.get_or_insert(done);
            }
            Ok(Said::Failed(why)) if sandbox.phase == Phase::Joining => self.fail_copy(number, Some(&why)),
            // What else it says in its last moment is nobody's concern.
            _ if sandbox.phase == Phase::Ending => {}
            _ => self.fail(
                number,
                "the interpreter in the sandbox says what nobody understands".into(),
            ),
        }
    }

    /// A copy has ended before it had a task. If nobody asked for it, no other is made at once: that may end in the same way.
    fn fail_copy(&mut self, number: u32, why: Option<&str>) {
        let why = why.unwrap_or("standard error may say why");
        let error = format!("the interpreter in the sandbox ended before it had its task; {why}");
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(run) = sandbox.run else {
            self.fail(number, error);
            return self.end_warm(format!("a copy of it ended before it had its task; {why}"));
        };
        match self.runs.get_mut(&run).filter(|run| !run.again && run.killed.is_none()) {
            // None of its code has run, so it gets another one: the warm interpreter may have been killed.
            Some(pending) => {
                pending.again = true;
                pending.sandbox = None;
                sandbox.run = None;
                self.end(number);
                self.waiting.push_front(run);
            }
            None => self.fail(number, error),
        }
    }

    /// An interpreter waits for its task; whether it may have one is not for it to say.
    fn confined(&mut self, number: u32, pid: i32) {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return;
        };
        let expected = match &sandbox.running {
            _ if self.in_place() => self.expected_in_place(),
            running => Expected {
                uid: sandbox.runner.uid_seen_outside(self.ids.as_ref()),
                gid: sandbox.runner.uid_seen_outside(self.ids.as_ref()),
                no_groups: self.plan.privilege != Privilege::OneId,
                no_bounding: true,
                init: running.as_ref().map(|running| running.pid.as_raw_nonzero().get()),
                filters: if sandbox.copy { 2 } else { 1 },
            },
        };
        if self.in_place() && !sandbox.copy && sandbox.phase == Phase::Starting {
            // It was heard before the end of its start was.
            self.started(number);
        }
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let in_turn = match sandbox.copy {
            true => sandbox.phase == Phase::Joining,
            false => sandbox.phase == Phase::Running && sandbox.inside.is_none(),
        };
        if !in_turn {
            return self.fail(number, "the interpreter in the sandbox speaks out of turn".into());
        }
        let exit = match (sandbox.copy && sandbox.running.is_some(), Pid::from_raw(pid)) {
            (true, Some(pid)) => rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok(),
            _ => None,
        };
        if let Some(lacking) = confined::lacking(pid, &expected) {
            return self.fail(
                number,
                format!("the interpreter in the sandbox is not confined: {lacking}"),
            );
        }
        sandbox.inside = Pid::from_raw(pid);
        if !sandbox.copy {
            return self.give_task(number);
        }
        if let Some(group) = sandbox.running.as_ref().and_then(Running::cgroup)
            && !group.holds(pid)
            && let Err(error) = group.admit(pid)
        {
            return self.fail(number, error.to_string());
        }
        sandbox.phase = Phase::Ready;
        sandbox.exit = exit;
        let has_run = sandbox.run.is_some();
        if let Some(exit) = &sandbox.exit
            && let Err(error) = watch(&self.epoll, exit.as_fd(), Token::Exit(number))
        {
            return self.fail(number, error.to_string());
        }
        if has_run {
            self.open(number);
        }
    }

    /// Shows the user's directory, and hands over the task.
    fn open(&mut self, number: u32) {
        match self.show_userdir(number) {
            Ok(()) => self.give_task(number),
            Err(error) => self.fail(number, error.to_string()),
        }
    }

    fn show_userdir(&mut self, number: u32) -> Result<(), SandboxError> {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return Ok(());
        };
        let (run, place, runner) = (sandbox.run, sandbox.place, sandbox.runner);
        let mounts = sandbox.mounts.take();
        if self.in_place() {
            return Ok(());
        }
        let Some(tree) = run.map_or(Ok(None), |run| self.home(run, place, runner))? else {
            return Ok(());
        };
        let (Some(mounts), Some(own)) = (mounts, &self.own_mounts) else {
            return Err(SandboxError::refused(
                "the user's directory cannot be shown: the sandbox has no mounts of its own",
            ));
        };
        own.attach_in(mounts.as_fd(), tree.as_fd(), Path::new(HOME))
            .map_err(SandboxError::system("show the user's directory"))
    }

    fn started(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        if sandbox.copy {
            sandbox.phase = Phase::Joinable;
            if sandbox.run.is_some() {
                self.join_when_warm(number);
            }
            return;
        }
        sandbox.phase = Phase::Running;
        let of_command = sandbox
            .run
            .and_then(|run| self.runs.get(&run))
            .is_some_and(|run| run.asked.command.is_some());
        if of_command {
            self.begun(number);
        }
    }

    fn give_task(&mut self, number: u32) {
        if let Err(error) = self.trace(number) {
            return self.fail(number, error.to_string());
        }
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        let Some(run) = sandbox.run.and_then(|run| self.runs.get(&run)) else {
            return;
        };
        sandbox.phase = Phase::Running;
        let mut rlimits = unit::rlimits(&of_kernel(&self.profile, &run.limits), None);
        if sandbox.copy {
            // The rest it has already.
            let has = unit::rlimits(&of_kernel(&self.profile, &self.profile.limits.widest()), None);
            rlimits.retain(|limit| !has.contains(limit));
        }
        let paths = match sandbox.copy {
            true => Vec::new(),
            false => unit::module_paths(&self.profile),
        };
        // Where it cannot see for itself what it has, it is told.
        let has = match (&run.scratch, sandbox.inside) {
            (Some(_), Some(inside)) => confined::memory(inside.as_raw_nonzero().get()),
            _ => 0,
        };
        let task = Task {
            task: &run.asked.task,
            paths: &paths,
            fds: &run.names,
            directory: &run.directory(),
            environment: &run.asked.environment,
            rlimits: &rlimits,
            memory: run.limits.memory.map(|memory| memory.saturating_add(has)),
        };
        let fds: Vec<BorrowedFd<'_>> = run.fds.iter().map(AsFd::as_fd).collect();
        match send(&sandbox.control, &task, &fds) {
            Ok(()) => self.begun(number),
            Err(errno) => self.fail(number, format!("speak to the interpreter in the sandbox: {errno}")),
        }
    }

    fn begun(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get(&number) else {
            return;
        };
        let Some(run) = sandbox.run.and_then(|run| self.runs.get_mut(&run)) else {
            return;
        };
        let now = Instant::now();
        run.began = Some(now);
        run.walk = is_bounded(run).then(|| now + least_pause(run));
        run.look = next_look(now, run, Duration::ZERO);
        // Theirs now.
        run.fds.clear();
        run.names.clear();
        if run.asked.started {
            let uid = sandbox.runner.uid;
            tell(&run.connection, &Event::Started { uid });
        }
        if run.killed.is_some() {
            self.end(number);
        }
    }

    /// The code has ended. Its interpreter waits for its end, so that what it used can be read.
    fn done(&mut self, number: u32, done: Done) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        sandbox.done = Some(done);
        let Some(pid) = sandbox.inside.map(|inside| inside.as_raw_nonzero().get()) else {
            return self.end(number);
        };
        sandbox.cpu = usage::of_family(pid);
        sandbox.memory = confined::most_memory(pid);
        // What it leaves behind is killed without being waited for, and in so short a time has computed little.
        let counted = sandbox.running.as_ref().and_then(Running::cgroup).is_some();
        let run = sandbox.run.and_then(|run| self.runs.get_mut(&run));
        if let Some(run) = run.filter(|run| !counted && run.began.is_some_and(|began| began.elapsed() > COUNT)) {
            // What is missing the second time is lost.
            sandbox.computed(&mut run.spent);
            sandbox.computed(&mut run.spent);
        }
        // What follows its calls has its own way to tell that it is over.
        let Some(exit) = sandbox.exit.as_ref().filter(|_| sandbox.tracer.is_none()) else {
            return self.end(number);
        };
        sandbox.phase = Phase::Ending;
        let waited = usage::waits_alone(pid);
        let _ = rustix::process::pidfd_send_signal(exit, rustix::process::Signal::KILL);
        // If it has done nothing but wait until it was killed, it does nothing more. Else its end is waited for. (It takes no processor
        // from this process when it is woken: it is of SCHED_BATCH, sched(7).)
        if waited.is_some() && waited == sys::cpu_time(pid) {
            self.copy_ended(number);
        }
    }

    /// A copy of the warm interpreter does nothing any more, and what it had started is its PID 1's. If there is nothing, the run is
    /// over; else all of it is killed first. Of one that ended without a word its maker tells.
    fn copy_ended(&mut self, number: u32) {
        let Some(sandbox) = self.sandboxes.get_mut(&number) else {
            return;
        };
        if let Some(exit) = sandbox.exit.take() {
            let _ = self.epoll.delete(exit.as_fd());
        }
        if sandbox.done.is_none() || sandbox.tracer.is_some() {
            return;
        }
        let Some(mut sandbox) = self.sandboxes.remove(&number) else {
            return;
        };
        if let Some(init) = sandbox
            .running
            .as_ref()
            .map(|running| running.pid.as_raw_nonzero().get())
            && sandbox.failed.is_none()
            && let Some(run) = sandbox
                .run
                .filter(|run| self.runs.get(run).is_some_and(|run| !run.given))
            && usage::is_childless(init)
        {
            sandbox.run = None;
            let ended = self.how_it_ended(run, &mut sandbox, usage::of_family(init));
            self.tell_end(run, ended);
        }
        let over = sandbox.run.is_none();
        self.sandboxes.insert(number, sandbox);
        match over {
            true => self.over.push_back(number),
            false => self.end(number),
        }
        if self.over.len() > MOST_OVER {
            self.take_down_one();
        }
    }

    /// Ends the oldest of the sandboxes whose runs are over. Was there one?
    fn take_down_one(&mut self) -> bool {
        while let Some(number) = self.over.pop_front() {
            // One whose PID 1 has ended by itself is gone already.
            if self.sandboxes.contains_key(&number) {
                self.end(number);
                return true;
            }
        }
        false
    }

    /// It could not be made, or is not what it should be.
    fn fail(&mut self, number: u32, why: String) {
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.failed.get_or_insert(why);
        }
        self.end(number);
    }

    /// Kills all that is in it. What follows comes when that has happened.
    fn end(&mut self, number: u32) {
        if let Some(sandbox) = self.sandboxes.get_mut(&number) {
            sandbox.phase = Phase::Ending;
            match (&self.profile.isolation, &sandbox.running) {
                (Isolation::Landlock, _) => sandbox.kill_in_place(),
                (Isolation::Namespaces, Some(running)) => drop(running.signal(rustix::process::Signal::KILL)),
                (Isolation::Namespaces, None) => {}
            }
        }
    }

    /// Ends a run for this reason.
    fn kill(&mut self, number: u32, reason: &str) {
        let Some(run) = self.runs.get_mut(&number) else { return };
        run.killed.get_or_insert_with(|| reason.to_owned());
        match run.sandbox {
            Some(sandbox) => self.end(sandbox),
            None => {
                self.waiting.retain(|waits| *waits != number);
                self.tell_end(number, Ended::default());
            }
        }
    }

    fn refuse(&mut self, number: u32, error: &str) {
        if let Some(run) = self.runs.remove(&number) {
            self.unwatch(run.connection.as_fd());
            tell(
                &run.connection,
                &Event::Refused {
                    error: error.to_owned(),
                },
            );
        }
    }

    // Ends.

    /// A process of this pool's own has ended: a sandbox's PID 1, and with it all that was in there, or the warm interpreter's.
    fn ended(&mut self, reaped: &sys::Reaped) {
        let is = |pid: Pid| pid.as_raw_nonzero().get() == reaped.pid;
        if self.warm.as_ref().is_some_and(|warm| is(warm.running.pid)) {
            match self.warm.as_ref().is_some_and(|warm| warm.ready) {
                // It had been well: another one is made at once, for which those wait that have a sandbox already.
                true => self.let_go_of_warm(),
                false => self.end_warm("it ended".into()),
            }
            return;
        }
        if self.in_place() {
            return self.ended_in_place(reaped);
        }
        let found = self
            .sandboxes
            .iter()
            .find(|(_, s)| s.running.as_ref().is_some_and(|running| is(running.pid)))
            .map(|(number, _)| *number);
        if let Some(number) = found {
            self.hear_last(number);
            let said_nothing = |s: &Sandbox| s.phase == Phase::Ending && s.done.is_none();
            if self.sandboxes.get(&number).is_some_and(said_nothing) {
                self.hear_inside(number);
            }
            if self.is_yet_to_tell(number, reaped.cpu) {
                return;
            }
        }
        if let Some(sandbox) = found.and_then(|number| self.sandboxes.remove(&number)) {
            self.finish(sandbox, reaped.cpu);
        }
    }

    /// Nothing of it is left. `cpu`: what its PID 1 has used.
    fn finish(&mut self, mut sandbox: Sandbox, cpu: Duration) {
        if let Some(running) = &sandbox.running {
            self.unwatch(running.reports.as_fd());
        }
        self.unwatch(sandbox.control.as_fd());
        self.free.push(sandbox.place);
        let Some(number) = sandbox.run else { return };
        self.give_back(number, sandbox.runner);
        if let Some(why) = &sandbox.failed {
            let why = why.clone();
            return self.refuse(number, &why);
        }
        let ended = self.how_it_ended(number, &mut sandbox, cpu);
        self.tell_end(number, ended);
    }

    /// What a PID 1 said before it ended, and nobody has read yet: how its program ended, for one.
    fn hear_last(&mut self, number: u32) {
        while let Some(sandbox) = self.sandboxes.get_mut(&number).filter(|s| s.status.is_none()) {
            let Some(running) = &sandbox.running else { return };
            match running.report() {
                Ok(Report::Exited(status)) => sandbox.status = Some(status),
                Ok(Report::Started) if !sandbox.copy => self.started(number),
                Ok(Report::Failed(error)) => {
                    sandbox.failed.get_or_insert(error.to_string());
                }
                Ok(Report::End) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    fn give_back(&self, number: u32, runner: Runner) {
        let Some(run) = self.runs.get(&number).filter(|run| run.given) else {
            return;
        };
        if let Some(Err(error)) = run.userdir.as_ref().map(|userdir| userdir.take_back(runner)) {
            tracing::error!(%error, "give a user's directory back");
        }
    }

    fn how_it_ended(&self, number: u32, sandbox: &mut Sandbox, of_init: Duration) -> Ended {
        let Some(run) = self.runs.get(&number) else {
            return Ended::default();
        };
        let mut out = Ended {
            uid: sandbox.runner.uid,
            isolation: self.profile.isolation.name(),
            ..Ended::default()
        };
        let group = sandbox.running.as_ref().and_then(Running::cgroup);
        let in_group = group.and_then(Group::computed).unwrap_or_default();
        let cpu = run.spent.in_all(sandbox.cpu + of_init).max(in_group);
        out.usage = Usage {
            wall: run.began.map_or(0.0, |began| began.elapsed().as_secs_f64()),
            cpu: cpu.as_secs_f64(),
            memory: sandbox.memory,
        };
        if let Some(done) = &mut sandbox.done {
            out.denied = std::mem::take(&mut done.denied);
            // Of files it is told by who sees to it.
            out.denied.retain(|denied| denied.kind != "file");
            out.denied.truncate(MOST_DENIED);
        }
        let told = sandbox.tracer.take().and_then(|tracer| tracer.told);
        out.denied.extend(told.into_iter().flatten());
        match (&sandbox.done, sandbox.status) {
            (Some(done), _) => {
                out.exit = Some(done.exit);
                out.limit = done.limit.clone().filter(|limit| LIMITS.contains(&limit.as_str()));
            }
            (None, Some(status)) => match sys::exit_status::signal(status) {
                Some(signal) => {
                    out.signal = Some(signal);
                    out.limit = limit_of_signal(signal, cpu, run, group.is_some_and(|group| group.oom_kills() > 0));
                }
                None => out.exit = Some(sys::exit_status::exit_code(status).into()),
            },
            (None, None) => out.signal = Some(libc::SIGKILL),
        }
        if run.killed.is_some() {
            out.limit = run.killed.clone();
        }
        let too_much = match out.limit {
            None => holds_too_much(run),
            Some(_) => None,
        };
        out.limit = out.limit.or(too_much.map(str::to_owned));
        out
    }

    fn tell_end(&mut self, number: u32, mut ended: Ended) {
        if let Some(run) = self.runs.remove(&number) {
            let changes = run.upper.as_ref().zip(run.userdir.as_ref());
            match changes.map(|(upper, userdir)| upper.changes(userdir)) {
                None => self.unwatch(run.connection.as_fd()),
                Some(Ok((changes, left))) => {
                    ended.changes = Some(changes);
                    ended.changes_left = (left > 0).then_some(left);
                    tell(&run.connection, &Event::Ended(Box::new(ended)));
                    self.undecided.insert(number, run);
                    return;
                }
                Some(Err(error)) => {
                    self.unwatch(run.connection.as_fd());
                    let error = error.to_string();
                    return tell(&run.connection, &Event::Refused { error });
                }
            }
            if ended.isolation.is_empty() {
                ended.isolation = self.profile.isolation.name();
                ended.limit = run.killed;
            }
            tell(&run.connection, &Event::Ended(Box::new(ended)));
        }
    }

    // Limits that nobody else holds.

    fn next_look(&self) -> Option<Duration> {
        let soonest = self.runs.values().filter_map(|run| run.look).min();
        let again = self
            .cold
            .as_ref()
            .filter(|_| self.profile.ready > 0)
            .map(|(_, until)| *until);
        let next = soonest.into_iter().chain(again).chain(self.unprepared).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    fn look(&mut self) {
        let now = Instant::now();
        self.unprepared = self.unprepared.filter(|until| *until > now);
        let due: Vec<u32> = self
            .runs
            .iter()
            .filter(|(_, r)| r.look.is_some_and(|l| l <= now))
            .map(|(n, _)| *n)
            .collect();
        for number in due {
            let Some(run) = self.runs.get_mut(&number) else {
                continue;
            };
            let sandbox = run.sandbox.and_then(|s| self.sandboxes.get(&s));
            let used = sandbox
                .map(|sandbox| sandbox.computed(&mut run.spent))
                .unwrap_or_default();
            let wall = run
                .limits
                .wall()
                .zip(run.began)
                .is_some_and(|(most, began)| now >= began + most);
            let leader = sandbox.filter(|_| run.scratch.is_some()).and_then(Sandbox::leader);
            let reason = if wall {
                Some("wall")
            } else if run.limits.cpu().is_some_and(|most| used >= most) {
                Some("cpu")
            } else {
                let group = leader.and_then(|group| group.exceeded(&run.limits));
                group.or_else(|| walked(now, run))
            };
            run.look = match reason {
                Some(_) => None,
                None => next_look(now, run, used),
            };
            if let Some(reason) = reason {
                self.kill(number, reason);
            }
        }
    }
}

/// What a pool makes before it is asked for.
enum Preparation {
    /// One whose run is over is taken down.
    Room,
    /// A sandbox without an interpreter.
    Sandbox,
    /// The interpreter of this one.
    Interpreter(u32),
}

fn watch(epoll: &Epoll, fd: BorrowedFd<'_>, token: Token) -> Result<(), SandboxError> {
    let event = EpollEvent::new(EpollFlags::EPOLLIN, token.pack());
    let added = epoll.add(fd, event);
    added.map_err(|errno| SandboxError::system("watch a descriptor")(Errno::from_raw_os_error(errno as i32)))
}

/// What [`Ended::limit`] may be.
const LIMITS: [&str; 8] = [
    "wall",
    "cpu",
    "memory",
    "processes",
    "file_size",
    "files",
    "userdir",
    "tmp",
];

/// When to look at a run again: when its time is over, when it can have computed for long enough, or after a while, if its
/// directory may hold only so much.
fn next_look(now: Instant, run: &Pending, used: Duration) -> Option<Instant> {
    let wall = run.limits.wall().zip(run.began).map(|(most, began)| began + most);
    // On several processors at once it may compute faster than time goes by. How many there are takes long to find out.
    static PROCESSORS: LazyLock<u32> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
    let processors = *PROCESSORS;
    let soonest = Duration::from_millis(5);
    let cpu = run
        .limits
        .cpu()
        .map(|most| now + run.spent.pause((most.saturating_sub(used) / processors).max(soonest)));
    let processes = run.scratch.as_ref().map(|_| now + COUNT);
    wall.into_iter().chain(cpu).chain(processes).chain(run.walk).min()
}

fn is_bounded(run: &Pending) -> bool {
    let directory = run.userdir.is_some() && (run.limits.files.is_some() || run.limits.userdir.is_some());
    directory || run.scratch.is_some()
}

/// Looks through what a run has written, if it is time to, and says when it is time again.
fn walked(now: Instant, run: &mut Pending) -> Option<&'static str> {
    run.walk.filter(|walk| *walk <= now)?;
    let began = Instant::now();
    let found = holds_too_much(run);
    run.walk = Some(Instant::now() + pause_after(began.elapsed(), least_pause(run)));
    found
}

fn holds_too_much(run: &Pending) -> Option<&'static str> {
    let userdir = run.userdir.as_ref().and_then(|userdir| exceeded(userdir, &run.limits));
    userdir.or_else(|| run.scratch.as_ref()?.exceeded(&run.limits))
}

/// Of temporary files that lie on a disk nothing else is bounded.
fn least_pause(run: &Pending) -> Duration {
    if run.scratch.is_some() { COUNT } else { LOOK }
}

/// What takes long is done seldom.
fn pause_after(took: Duration, least: Duration) -> Duration {
    took.saturating_mul(PART).max(least)
}

/// Of these limits those that the kernel holds for each process.
fn of_kernel(profile: &Profile, limits: &super::Limits) -> super::Limits {
    match profile.isolation {
        Isolation::Namespaces => *limits,
        Isolation::Landlock => landlock::of_each(limits),
    }
}

fn sandbox_is_starting(pool: &Pool, number: u32) -> bool {
    let sandbox = pool.sandboxes.get(&number);
    sandbox.is_some_and(|sandbox| sandbox.phase == Phase::Starting)
}

fn exceeded(userdir: &userdir::Userdir, limits: &super::Limits) -> Option<&'static str> {
    let (most_files, most_bytes) = (limits.files.unwrap_or(u64::MAX), limits.userdir.unwrap_or(u64::MAX));
    let (files, bytes) = userdir.holds(most_files, most_bytes);
    match (files > most_files, bytes > most_bytes) {
        (true, _) => Some("files"),
        (_, true) => Some("userdir"),
        _ => None,
    }
}

fn limit_of_signal(signal: i32, cpu: Duration, run: &Pending, oom: bool) -> Option<String> {
    let limit = match signal {
        libc::SIGXCPU => "cpu",
        libc::SIGXFSZ => "file_size",
        libc::SIGKILL if oom => "memory",
        libc::SIGKILL if run.limits.cpu().is_some_and(|most| cpu >= most) => "cpu",
        _ => return None,
    };
    Some(limit.to_owned())
}

/// A program that is named by way of a link lies where that leads.
fn as_shown(asked: &mut Run, paths: &[PathBuf]) {
    let Some(program) = asked.command.as_mut().and_then(|command| command.first_mut()) else {
        return;
    };
    let named = Path::new(&*program);
    let below = |(given, real): (&PathBuf, &PathBuf)| {
        let inside = named.strip_prefix(given).ok()?;
        Some(if inside.as_os_str().is_empty() {
            real.clone()
        } else {
            real.join(inside)
        })
    };
    if let Some(path) = asked.readable.iter().zip(paths).find_map(below) {
        *program = path.to_string_lossy().into_owned();
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_takes_long_is_seldom() {
        let milliseconds = Duration::from_millis;
        for (took, pause) in [(0, 200), (1, 200), (10, 200), (11, 220), (50, 1000), (1000, 20_000)] {
            assert_eq!(pause_after(milliseconds(took), LOOK), milliseconds(pause), "{took}");
        }
        assert_eq!(pause_after(milliseconds(3), COUNT), milliseconds(60));
        assert_eq!(pause_after(Duration::MAX, LOOK), Duration::MAX);
    }
}
