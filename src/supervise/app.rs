//! The event loop of one app: what there is to wait for, and who is told of what. What follows from an event stands in
//! [`super::lifecycle`], what clients may ask for in [`super::control::requests`].

use super::control::protocol::{Progress, Reply};
use super::control::server::Connection;
use super::ground::Ground;
use super::logs::output::{OutputError, Outputs};
use super::mending::{self, Mending};
use super::net::network::{NetworkError, Networks};
use super::net::relays::Relays;
use super::net::sockets::{self, Sockets};
use super::service::{After, Ending, Service, State};
use super::stats::events::{Event, Kind};
use super::timers::Timers;
use super::{capabilities, events, systemd};
use crate::host::{Dirs, HostError, make_private};
use crate::launch::{LaunchError, Launcher, Report};
use crate::plan::lock::{Claim, Deed};
use crate::plan::{self, Plan, PlanError};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// Descriptors beyond those of the services.
const SPARE_DESCRIPTORS: u64 = 96;
/// Clients that these suffice for.
const FEW_CLIENTS: usize = 32;
/// Clients at the same time, however many descriptors there are.
const MOST_CLIENTS: usize = 1024;
/// How long nobody is let in where no descriptor is left; and how long a client may take to say what it wants, if another
/// wants its place.
const DEAF: Duration = Duration::from_secs(1);
/// A loop that is so late was not running: this process was stopped, or the whole machine.
const LATE: Duration = Duration::from_millis(500);
/// Events taken in one turn.
const EVENTS: usize = 64;

pub struct Options {
    /// Print services' lines to standard output, and end when all services have.
    pub attached: bool,
    /// Where to say how the start goes.
    pub progress: Option<OwnedFd>,
}

/// How an app ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// All services ended well, or were told to.
    Done,
    /// A service could not be started, with this code; all others were stopped.
    StartFailed(u8),
    /// This service was the last to end other than well.
    ServiceFailed,
}

#[derive(Debug, thiserror::Error)]
pub enum SuperviseError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(
        "{services} services need {needed} open files, but the limit is {limit}; raise it (`ulimit -Hn`, or LimitNOFILE= in the unit)"
    )]
    Descriptors { services: usize, needed: u64, limit: u64 },
    #[error("supervise: {operation}: {cause}")]
    System {
        operation: &'static str,
        cause: std::io::Error,
    },
}

pub(super) fn system<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> SuperviseError {
    move |cause| SuperviseError::System {
        operation,
        cause: cause.into(),
    }
}

/// What an epoll event is about: its kind, and which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Control,
    Metrics,
    Connection(u32),
    Reports(u32),
    Outputs,
    Notify(u32),
    /// A socket of a service that is started on demand.
    Demand(u32),
    /// What a service's companion says.
    Network(u32),
    /// The same of the app's network.
    AppNetwork,
    /// The relay of a service.
    Relay(u32),
    /// Something in the folder of the app's sockets is gone.
    Folder,
    /// Something was made in a shared folder.
    Mending,
}

impl Source {
    pub(super) fn pack(self) -> u64 {
        let (kind, number) = match self {
            Source::Signals => (0u64, 0),
            Source::Control => (1, 0),
            Source::Metrics => (2, 0),
            Source::Connection(n) => (3, n),
            Source::Reports(n) => (4, n),
            Source::Outputs => (5, 0),
            Source::Notify(n) => (6, n),
            Source::Demand(n) => (7, n),
            Source::Network(n) => (8, n),
            Source::AppNetwork => (9, 0),
            Source::Relay(n) => (10, n),
            Source::Folder => (11, 0),
            Source::Mending => (12, 0),
        };
        kind << 32 | u64::from(number)
    }

    fn unpack(data: u64) -> Source {
        let number = data as u32;
        match data >> 32 {
            0 => Source::Signals,
            1 => Source::Control,
            2 => Source::Metrics,
            3 => Source::Connection(number),
            4 => Source::Reports(number),
            5 => Source::Outputs,
            6 => Source::Notify(number),
            7 => Source::Demand(number),
            8 => Source::Network(number),
            9 => Source::AppNetwork,
            10 => Source::Relay(number),
            11 => Source::Folder,
            _ => Source::Mending,
        }
    }
}

/// Whose a child process is.
#[derive(Clone, Copy)]
pub(super) enum Child {
    /// PID 1 of a service's namespace.
    Service(u32),
    /// The helper of a probe.
    Probe(u32),
}

/// Who hears how a request goes on.
pub(super) enum Sink {
    Nobody,
    Pipe(OwnedFd),
    Connection(u32),
}

/// Services that somebody waits for.
pub(super) struct Watch {
    sink: Sink,
    starts: BTreeSet<u32>,
    ends: BTreeSet<u32>,
    /// It is an `up`, which speaks of all services: of those as well that had started when it was asked.
    whole: bool,
    /// Of a whole one: services that had started, and were told to start anew since.
    anew: BTreeSet<u32>,
}

impl Watch {
    pub(super) fn new(sink: Sink) -> Watch {
        Watch {
            sink,
            starts: BTreeSet::new(),
            ends: BTreeSet::new(),
            whole: false,
            anew: BTreeSet::new(),
        }
    }

    pub(super) fn of_all(sink: Sink) -> Watch {
        Watch {
            whole: true,
            ..Watch::new(sink)
        }
    }

    pub(super) fn await_start(&mut self, service: u32) {
        self.starts.insert(service);
    }

    pub(super) fn await_end(&mut self, service: u32) {
        self.ends.insert(service);
    }
}

/// The watch of the `up` that started this supervisor.
const FIRST_WATCH: u32 = 0;

/// An app that is about to run, or runs.
pub struct App {
    /// Of its services nothing: they stand below, each with its plan.
    pub(super) plan: Plan,
    pub(super) attached: bool,
    pub(super) launcher: Launcher,
    pub(super) epoll: Epoll,
    signals: SignalFd,
    control: OwnedFd,
    metrics: OwnedFd,
    /// Tells when these are deleted.
    folder: Option<Inotify>,
    pub(super) connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    /// Until when nobody is let in.
    deaf: Option<Instant>,
    /// When the loop last came out of waiting.
    awake: Instant,
    /// Turns in a row that took as many events as one may.
    full_turns: usize,
    pub(super) services: BTreeMap<u32, Service>,
    pub(super) next_service: u32,
    /// Services in the manifest's order.
    pub(super) order: Vec<u32>,
    pub(super) by_name: BTreeMap<String, u32>,
    /// Services that depend on one.
    pub(super) dependents: BTreeMap<u32, Vec<u32>>,
    pub(super) by_pid: BTreeMap<i32, Child>,
    /// Services whose turn has come.
    pub(super) queue: VecDeque<u32>,
    /// Services that listen, and whose process may be made ready for the first connection.
    pub(super) warm: VecDeque<u32>,
    pub(super) timers: Timers,
    watches: BTreeMap<u32, Watch>,
    next_watch: u32,
    pub(super) sockets: Sockets,
    pub(super) relays: Relays,
    pub(super) ground: Ground,
    pub(super) networks: Networks,
    pub(super) mending: Option<Mending>,
    pub(super) outputs: Outputs,
    pub(super) null: File,
    /// Held until nothing of the app runs any more: a second `up` of it finds that.
    pub(super) claim: Option<Claim>,
    manager: systemd::Manager,
    /// Services that are to be told to end, once none that depends on them runs.
    pub(super) doomed: BTreeSet<u32>,
    pub(super) stopping: Option<Instant>,
    pub(super) failure: Option<u8>,
    pub(super) unwell: bool,
    pub(super) denied_in_all: u64,
    /// What the app's resources were planned to be, in short.
    pub(super) storage: u64,
    /// Descriptors that nothing else needs: so many pages of figures may be held.
    pub(super) spare_descriptors: usize,
}

impl App {
    /// Clears away what a killed supervisor left, and binds all sockets. Starts nothing. The claim was taken before
    /// anything of the app's data was touched.
    pub fn new(plan: Plan, claim: Claim, options: Options) -> Result<App, SuperviseError> {
        let spare = raise_descriptors(&plan.services)?;
        let launcher = Launcher::new()?;
        let dirs = plan.dirs.clone();
        let mut made = App::make(plan, options, launcher, spare).inspect_err(|_| clear_away(&dirs))?;
        claim.say(Deed::Up, Some(&dirs.socket()));
        made.claim = Some(claim);
        Ok(made)
    }

    /// What [`App::new`] does under the claim.
    fn make(
        mut plan: Plan,
        options: Options,
        launcher: Launcher,
        spare_descriptors: usize,
    ) -> Result<App, SuperviseError> {
        make_private(&plan.dirs.run)?;
        crate::launch::cgroup::clear(&plan.dirs.run);
        for stale in RUNTIME_FOLDERS {
            crate::walk::remove(&plan.dirs.run.join(stale)).map_err(system("clear away an earlier run"))?;
        }
        make_private(&plan.dirs.logs())?;
        let manager = systemd::Manager::find();
        let mut sockets = Sockets::new(systemd::inherited());
        sockets.hold(&plan.dirs, plan.services.iter())?;
        for address in sockets.unclaimed() {
            // Nobody may be there to read it.
            let _ = writeln!(
                std::io::stderr(),
                "note: this process was handed a socket for {address}, on which no service listens"
            );
        }
        let mut launcher = launcher;
        let ground = Ground::new(std::mem::take(&mut plan.places))?;
        let mut networks = Networks::default();
        let prepared = networks.prepare(&plan.privilege, plan.services.iter(), &mut launcher)?;
        networks.take_on(prepared);
        let (control, metrics) = (door(&plan.dirs.socket())?, door(&plan.dirs.metrics())?);
        // A user may have but so many, and it is no must.
        let folder = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let folder = folder.filter(|folder| watch_folder(folder, &plan.dirs));
        // None ends the app by its default: who sends one that says nothing here is not heard. A terminal's Ctrl-Z goes on
        // stopping this process, and a fault of its own goes on ending it.
        let mut mask = SigSet::all();
        for signal in [
            Signal::SIGTSTP,
            Signal::SIGTTIN,
            Signal::SIGTTOU,
            Signal::SIGCONT,
            Signal::SIGSEGV,
            Signal::SIGBUS,
            Signal::SIGFPE,
            Signal::SIGILL,
            Signal::SIGABRT,
            Signal::SIGTRAP,
            Signal::SIGSYS,
        ] {
            mask.remove(signal);
        }
        mask.thread_block().map_err(system("block signals"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
            .map_err(system("make a signalfd"))?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("make an epoll"))?;
        let watch = |fd: BorrowedFd<'_>, source: Source| {
            epoll
                .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.pack()))
                .map_err(system("watch a descriptor"))
        };
        watch(signals.as_fd(), Source::Signals)?;
        watch(control.as_fd(), Source::Control)?;
        watch(metrics.as_fd(), Source::Metrics)?;
        if let Some(folder) = &folder {
            watch(folder.as_fd(), Source::Folder)?;
        }
        let outputs = Outputs::new(options.attached, plan.services.iter().map(|s| s.name.as_str()))?;
        watch(outputs.as_fd(), Source::Outputs)?;
        capabilities::reduce().map_err(|e| SuperviseError::System {
            operation: "drop capabilities",
            cause: std::io::Error::other(e),
        })?;
        let storage = super::control::reconcile::storage_print(&plan);
        let planned = std::mem::take(&mut plan.services);
        let first = match options.progress {
            Some(pipe) => Sink::Pipe(pipe),
            None => Sink::Nobody,
        };
        let mut app = App {
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map_err(system("open /dev/null"))?,
            plan,
            attached: options.attached,
            launcher,
            epoll,
            signals,
            control,
            metrics,
            folder,
            connections: BTreeMap::new(),
            next_connection: 0,
            deaf: None,
            awake: Instant::now(),
            full_turns: 0,
            services: BTreeMap::new(),
            next_service: 0,
            order: Vec::new(),
            by_name: BTreeMap::new(),
            dependents: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            queue: VecDeque::new(),
            warm: VecDeque::new(),
            timers: Timers::default(),
            watches: BTreeMap::from([(FIRST_WATCH, Watch::of_all(first))]),
            next_watch: FIRST_WATCH + 1,
            sockets,
            ground,
            networks,
            relays: Relays::default(),
            mending: None,
            outputs,
            claim: None,
            manager,
            doomed: BTreeSet::new(),
            stopping: None,
            failure: None,
            unwell: false,
            denied_in_all: 0,
            storage,
            spare_descriptors,
        };
        for service in planned {
            let id = app.add(service);
            let planned = &app.services[&id].plan;
            app.outputs.hold(id, &app.plan.app, &app.plan.dirs, planned)?;
            app.order.push(id);
        }
        app.index();
        app.watch_app_network()?;
        app.watch_shared(mending::shared(&app.plan.storage))?;
        Ok(app)
    }

    /// Starts all services and stays until the app is stopped.
    pub fn run(mut self) -> Result<Outcome, SuperviseError> {
        let all = self.order.clone();
        if let Some(watch) = self.watches.get_mut(&FIRST_WATCH) {
            watch.starts.extend(&all);
        }
        for id in &all {
            self.want(*id);
        }
        while !self.finished() {
            self.stop_next();
            // One start a turn, so that reports of a thousand do not pile up.
            let mending = self.mending.as_ref().is_some_and(Mending::busy);
            let timeout = if self.start_next() || self.warm_next() || mending {
                Some(Duration::ZERO)
            } else {
                self.next_deadline()
            };
            self.turn(timeout)?;
            if mending {
                self.mend();
            }
        }
        self.clean_up();
        Ok(match self.failure {
            Some(code) => Outcome::StartFailed(code),
            None if self.unwell && self.stopping.is_none() => Outcome::ServiceFailed,
            None => Outcome::Done,
        })
    }

    /// Watches the folders in which rights go by ACL, in place of those that were watched.
    pub(super) fn watch_shared(&mut self, shared: Vec<mending::Shared>) -> Result<(), SuperviseError> {
        self.mending = None;
        if shared.is_empty() {
            return Ok(());
        }
        let made = Mending::new(shared).map_err(system("watch shared folders"))?;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, Source::Mending.pack());
        self.epoll.add(&made, event).map_err(system("watch a descriptor"))?;
        self.mending = Some(made);
        Ok(())
    }

    fn mend(&mut self) {
        if let Some(mending) = &mut self.mending {
            mending.turn();
        }
    }

    fn finished(&self) -> bool {
        if !self.queue.is_empty() && self.stopping.is_none() {
            return false;
        }
        let mut services = self.services.values();
        match self.stopping {
            Some(_) => services.all(|s| !s.state.live() && s.running.is_none()),
            None => self.attached && services.all(|s| s.state.over() && s.running.is_none()),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let all = [self.timers.next(), self.manager.next(), self.deaf];
        let next = all.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    pub(super) fn watch(&self, fd: BorrowedFd<'_>, source: Source) -> Result<(), SuperviseError> {
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.pack()))
            .map_err(system("watch a descriptor"))
    }

    /// Hears when the way out of the app's network is lost.
    pub(super) fn watch_app_network(&self) -> Result<(), SuperviseError> {
        let Some(words) = self.networks.app_words() else {
            return Ok(());
        };
        match self
            .epoll
            .add(words, EpollEvent::new(EpollFlags::EPOLLIN, Source::AppNetwork.pack()))
        {
            // It is the one that was there before.
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(e) => Err(system("watch a descriptor")(e)),
        }
    }

    /// Who depends on whom, by number.
    pub(super) fn index(&mut self) {
        self.dependents.clear();
        for (id, service) in &self.services {
            for (on, _) in &service.plan.life.depends_on {
                if let Some(on) = self.by_name.get(on) {
                    self.dependents.entry(*on).or_default().push(*id);
                }
            }
        }
    }

    /// Waits for events, at most so long, and handles them. A timer fires when all that had come before its time has been
    /// looked at, however late that is: what a service said in time may lie in a socket.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), SuperviseError> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let wait = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up: waking before a deadline would only mean waiting again.
            Some(time) => EpollTimeout::try_from(time.as_nanos().div_ceil(1_000_000).min(1 << 30) as u32)
                .unwrap_or(EpollTimeout::ZERO),
        };
        let asked = Instant::now();
        let waited = self.epoll.wait(&mut events, wait);
        self.forgive(asked, timeout);
        let count = match waited {
            Ok(count) => count,
            // As after SIGSTOP and SIGCONT; signal(7). Nothing has been looked at.
            Err(nix::errno::Errno::EINTR) => return Ok(()),
            Err(e) => return Err(system("wait for events")(e)),
        };
        for event in &events[..count] {
            match Source::unpack(event.data()) {
                Source::Signals => self.signalled(),
                Source::Control => self.accept(false),
                Source::Metrics => self.accept(true),
                Source::Connection(number) => self.converse(number),
                Source::Reports(id) => self.reported(id),
                Source::Outputs => self.outputs.turn()?,
                Source::Notify(id) => self.notified(id),
                Source::Demand(id) => self.demanded(id),
                Source::Network(id) => self.network_said(id),
                Source::AppNetwork => self.app_network_said(),
                Source::Relay(id) => self.relay_said(id),
                Source::Folder => self.folder_changed(),
                Source::Mending => self.mend(),
            }
        }
        // There may be more than was taken. As the kernel begins with those that were not, timers wait for some turns at most.
        self.full_turns = if count == EVENTS { self.full_turns + 1 } else { 0 };
        if self.full_turns > 0 && self.full_turns <= self.sources() / EVENTS {
            return Ok(());
        }
        self.full_turns = 0;
        while let Some((id, timer)) = self.timers.pop(asked) {
            self.fired(id, timer);
        }
        self.manager.tick(asked);
        if self.deaf.is_some_and(|until| until <= asked) {
            self.listen_again();
        }
        Ok(())
    }

    /// At least as many descriptors as can have something to say at once.
    fn sources(&self) -> usize {
        self.connections.len() + 4 * self.services.len() + 8
    }

    /// Time in which this process did not run, since a signal or the machine had stopped it, is nobody's: it moves all
    /// timers. Whoever was to say something meanwhile may have been stopped as well. How much of the wait it was cannot be
    /// known, so all of it counts.
    fn forgive(&mut self, asked: Instant, timeout: Option<Duration>) {
        let now = Instant::now();
        let working = asked.saturating_duration_since(self.awake);
        let waiting = now.saturating_duration_since(asked);
        let late = working + timeout.map_or(Duration::ZERO, |timeout| waiting.saturating_sub(timeout));
        self.awake = now;
        if late > LATE {
            tracing::warn!(?late, "the supervisor did not run for a while");
            self.timers.postpone(working + waiting);
        }
    }

    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(signal @ (Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT | Signal::SIGHUP)) => {
                    // timeout(1) and systemd send several signals for one wish; who presses Ctrl-C again means it.
                    if self.stopping.is_some() && self.attached && signal == Signal::SIGINT {
                        self.kill();
                    } else {
                        if self.stopping.is_none() {
                            self.outputs.say("\nstopping; once more to kill");
                        }
                        self.stop(None);
                    }
                }
                _ => {}
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            match self.by_pid.remove(&pid.as_raw_nonzero().get()) {
                Some(Child::Service(id)) => {
                    // What PID 1 said last is still in the socket, and what its service printed in the pipes.
                    self.reported(id);
                    self.outputs.ended(id);
                    self.over(id, status.as_raw());
                }
                Some(Child::Probe(id)) => self.answered(id, pid, status.exit_status()),
                None => {}
            }
        }
    }

    fn reported(&mut self, id: u32) {
        while let Some(report) = self
            .services
            .get(&id)
            .and_then(|s| s.running.as_ref())
            .map(|r| r.report())
        {
            let Some(service) = self.services.get_mut(&id) else {
                return;
            };
            match report {
                Ok(Report::Started) => self.began(id),
                Ok(Report::Exited(status)) => service.ending = Some(Ending::Exited(status)),
                Ok(Report::Failed(error)) => service.ending = Some(Ending::Failed(error)),
                Ok(Report::Terminal(_) | Report::Held) => {}
                Ok(Report::End) => {
                    // The rest comes with SIGCHLD.
                    if let Some(running) = &service.running {
                        let _ = self.epoll.delete(&running.reports);
                    }
                    return;
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn accept(&mut self, metrics: bool) {
        use rustix::net::{SocketFlags, accept_with};
        let mut denied = 0;
        loop {
            let most = (FEW_CLIENTS + self.spare_descriptors / 2).min(MOST_CLIENTS);
            if self.connections.len() >= most && !self.let_go_of_idle() {
                self.be_deaf();
                break;
            }
            let from = if metrics { &self.metrics } else { &self.control };
            let socket = match accept_with(from, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => socket,
                Err(Errno::INTR | Errno::CONNABORTED) => continue,
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    if self.let_go_of_idle() {
                        continue;
                    }
                    self.be_deaf();
                    break;
                }
                Err(_) => break,
            };
            let mut connection = Connection::new(socket);
            connection.scrapes = metrics;
            if !connection.is_owner() {
                tracing::warn!("another user connected to the control socket and was turned away");
                denied += 1;
                continue;
            }
            let number = self.next_connection;
            self.next_connection = self.next_connection.wrapping_add(1);
            if self
                .watch(connection.socket.as_fd(), Source::Connection(number))
                .is_ok()
            {
                self.connections.insert(number, connection);
            }
        }
        for _ in 0..denied {
            self.denied_in_all += 1;
            self.denied("another user connected to the control socket");
        }
    }

    /// Makes room by closing the connection that came first of those for which nothing is under way.
    fn let_go_of_idle(&mut self) -> bool {
        let watching = |number: u32| {
            let is = |watch: &Watch| matches!(watch.sink, Sink::Connection(client) if client == number);
            self.watches.values().any(is)
        };
        let idle = self
            .connections
            .iter()
            .find(|(n, c)| c.is_idle_for(DEAF) && !watching(**n));
        let Some(number) = idle.map(|(number, _)| *number) else {
            return false;
        };
        self.connections.remove(&number);
        true
    }

    /// Lets nobody in for a while: sockets at which somebody waits would wake the loop again and again.
    fn be_deaf(&mut self) {
        self.hear_new_clients(EpollFlags::empty());
        self.deaf = Some(Instant::now() + DEAF);
    }

    fn listen_again(&mut self) {
        self.hear_new_clients(EpollFlags::EPOLLIN);
        self.deaf = None;
    }

    fn hear_new_clients(&self, interest: EpollFlags) {
        for (socket, source) in [(&self.control, Source::Control), (&self.metrics, Source::Metrics)] {
            let _ = self.epoll.modify(socket, &mut EpollEvent::new(interest, source.pack()));
        }
    }

    /// Makes the sockets again that somebody has deleted: without them nobody could end the app but by a signal.
    fn folder_changed(&mut self) {
        let Some(folder) = &self.folder else { return };
        while folder.read_events().is_ok_and(|events| !events.is_empty()) {}
        let dirs = &self.plan.dirs;
        if dirs.socket().exists() && dirs.metrics().exists() {
            return;
        }
        let again = make_private(&dirs.run)
            .map_err(SuperviseError::from)
            .and_then(|()| Ok((door(&dirs.socket())?, door(&dirs.metrics())?)))
            .inspect(|_| {
                watch_folder(folder, dirs);
            });
        match again {
            Ok((control, metrics)) => {
                // What is closed is watched no more.
                (self.control, self.metrics) = (control, metrics);
                let watched = [(&self.control, Source::Control), (&self.metrics, Source::Metrics)]
                    .into_iter()
                    .try_for_each(|(socket, source)| self.watch(socket.as_fd(), source));
                if let Err(e) = watched {
                    tracing::warn!("{e}");
                }
                self.outputs
                    .say(&format!("{} was deleted, and is made again", dirs.socket().display()));
            }
            Err(e) => self
                .outputs
                .say(&format!("{} was deleted: {e}", dirs.socket().display())),
        }
    }

    /// Sends a line to a client, as far as it takes it; the rest follows when it reads on.
    pub(super) fn push(&mut self, number: u32, line: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.put(line);
        }
        self.flush(number);
    }

    /// Lets go of a client that is gone.
    pub(super) fn flush(&mut self, number: u32) {
        let Some(connection) = self.connections.get_mut(&number) else {
            return;
        };
        let Ok(pending) = connection.flush() else {
            self.connections.remove(&number);
            return;
        };
        if !pending && connection.closes {
            self.connections.remove(&number);
            return;
        }
        let interest = match pending {
            true if !connection.is_heard() => EpollFlags::EPOLLOUT,
            true => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
            false => EpollFlags::EPOLLIN,
        };
        let mut event = EpollEvent::new(interest, Source::Connection(number).pack());
        let _ = self.epoll.modify(&connection.socket, &mut event);
    }

    /// Does the app's own start still wait for this service?
    pub(super) fn begins_with(&self, id: u32) -> bool {
        self.watches
            .get(&FIRST_WATCH)
            .is_some_and(|watch| watch.starts.contains(&id))
    }

    /// Takes up a watch; [`App::check_watch`] says what is so already.
    pub(super) fn watch_for(&mut self, watch: Watch) -> u32 {
        let number = self.next_watch;
        self.next_watch += 1;
        self.watches.insert(number, watch);
        number
    }

    /// Tells whoever waits for a service to begin.
    pub(super) fn settle_start(&mut self, id: u32, how: Result<(), (&str, u8)>) {
        let Some(service) = self.services.get(&id) else { return };
        let progress = match how {
            Ok(()) => Progress::Settled {
                service: service.plan.name.clone(),
                state: service.state.word().to_owned(),
            },
            Err((error, code)) => Progress::Failed {
                service: service.plan.name.clone(),
                error: error.to_owned(),
                code,
            },
        };
        let failed = how.is_err();
        self.settle(&progress, |watch| {
            watch.starts.remove(&id) | watch.anew.remove(&id) | (failed && watch.whole)
        });
    }

    /// Tells those whose order can no longer be carried out, as a later one says otherwise.
    pub(super) fn overtake(&mut self, id: u32, after: After) {
        match after {
            After::Policy => {}
            After::Rest => self.settle_start(id, Err(("it was told to stop meanwhile", 1))),
            After::Again => {
                // One that removes it does not speak of it.
                let speaks = |w: &&mut Watch| w.whole && !w.starts.contains(&id) && !w.ends.contains(&id);
                for watch in self.watches.values_mut().filter(speaks) {
                    watch.anew.insert(id);
                }
                let error = "it was told to start again before it had ended".to_owned();
                self.settle_failed(id, error, |watch| watch.ends.remove(&id));
            }
            After::Gone => {
                let error = "the manifest has it no more".to_owned();
                self.settle_failed(id, error, |watch| watch.starts.remove(&id) | watch.anew.remove(&id));
            }
        }
    }

    fn settle_failed(&mut self, id: u32, error: String, takes: impl FnMut(&mut Watch) -> bool) {
        let Some(service) = self.services.get(&id) else { return };
        let service = service.plan.name.clone();
        self.settle(
            &Progress::Failed {
                service,
                error,
                code: 1,
            },
            takes,
        );
    }

    pub(super) fn settle_end(&mut self, id: u32) {
        let Some(service) = self.services.get(&id) else { return };
        let progress = Progress::Settled {
            service: service.plan.name.clone(),
            state: service.state.word().to_owned(),
        };
        self.settle(&progress, |watch| watch.ends.remove(&id));
    }

    fn settle(&mut self, progress: &Progress, mut takes: impl FnMut(&mut Watch) -> bool) {
        let concerned: Vec<u32> = self
            .watches
            .iter_mut()
            .filter_map(|(number, watch)| takes(watch).then_some(*number))
            .collect();
        for number in concerned {
            self.tell(number, progress);
            self.check_watch(number);
        }
    }

    /// Tells an event to all who asked to hear of them; one who does not read hears in the end that some are lost.
    pub(super) fn emit(&mut self, event: &Event) {
        let mut line = Vec::new();
        for connection in self.connections.values_mut().filter(|c| c.events) {
            if line.is_empty() {
                line = event.line();
            }
            if connection.unsent() + line.len() > events::MOST_UNREAD {
                connection.lost = true;
                continue;
            }
            if std::mem::take(&mut connection.lost) {
                connection.put(&Event::new(Kind::Lost, "").line());
            }
            connection.put(&line);
        }
        if !line.is_empty() {
            let numbers: Vec<u32> = self
                .connections
                .iter()
                .filter(|(_, c)| c.events)
                .map(|(n, _)| *n)
                .collect();
            for number in numbers {
                self.flush(number);
            }
        }
    }

    fn tell(&mut self, number: u32, progress: &Progress) {
        let mut line = serde_json::to_vec(progress).unwrap_or_default();
        line.push(b'\n');
        let Some(watch) = self.watches.get_mut(&number) else {
            return;
        };
        match &watch.sink {
            Sink::Nobody => {}
            Sink::Pipe(pipe) => {
                if rustix::io::write(pipe, &line).is_err() {
                    // Whoever started us is gone.
                    watch.sink = Sink::Nobody;
                }
            }
            Sink::Connection(client) => {
                let client = *client;
                self.push(client, &line);
            }
        }
    }

    /// Ends a watch for which nothing more is to come.
    pub(super) fn check_watch(&mut self, number: u32) {
        let Some(watch) = self.watches.get(&number) else { return };
        if !watch.starts.is_empty() || !watch.ends.is_empty() || !watch.anew.is_empty() {
            return;
        }
        if number == FIRST_WATCH {
            if self.failure.is_some() {
                // There is something to come: that all is cleared away.
                return;
            }
            self.manager.ready();
        }
        self.tell(number, &Progress::Done);
        self.watches.remove(&number);
    }

    pub(super) fn leaving(&mut self) {
        self.manager.stopping();
    }

    /// Leaves the host as it was before `up`.
    fn clean_up(&mut self) {
        // Whoever is told that all is over may start anew at once.
        self.sockets.clear();
        self.relays.close();
        self.networks.close();
        self.launcher.release_limits();
        clear_away(&self.plan.dirs);
        self.claim = None;
        for connection in self.connections.values_mut().filter(|c| c.waits_for_down) {
            let _ = rustix::io::ioctl_fionbio(&connection.socket, false);
            connection.reply(&Reply::default());
            let _ = connection.flush();
        }
        let waits = |w: &Watch| !w.starts.is_empty() || !w.anew.is_empty();
        let left: Vec<(u32, bool)> = self.watches.iter().map(|(n, w)| (*n, waits(w))).collect();
        for (number, waits) in left {
            // The first has been told which service could not be started, if that is why all end.
            if waits && (number != FIRST_WATCH || self.failure.is_none()) {
                let error = format!("`{}` went down meanwhile", self.plan.app);
                self.tell(
                    number,
                    &Progress::Failed {
                        service: String::new(),
                        error,
                        code: 1,
                    },
                );
            }
            self.tell(number, &Progress::Done);
        }
        self.outputs.finish();
    }

    /// Is a service to be reached by `exec` and probes?
    pub(super) fn reachable(&self, id: u32) -> bool {
        let of = self.services.get(&id);
        of.is_some_and(|s| s.program_runs && s.ending.is_none() && s.running.is_some() && s.state != State::Waiting)
    }
}

/// A socket at which this process is asked for things.
fn door(path: &Path) -> Result<OwnedFd, SuperviseError> {
    let socket =
        sockets::bind_unix(path, rustix::net::SocketType::STREAM).map_err(system("make the control socket"))?;
    rustix::net::listen(&socket, 64).map_err(system("listen on the control socket"))?;
    rustix::io::ioctl_fionbio(&socket, true).map_err(system("prepare the control socket"))?;
    Ok(socket)
}

fn watch_folder(watch: &Inotify, dirs: &Dirs) -> bool {
    let lost = AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    watch.add_watch(&dirs.run, lost).is_ok()
}

/// What an app has in its runtime directory, beside its sockets.
const RUNTIME_FOLDERS: [&str; 3] = ["services", "rpc", "notify"];

/// Removes an app's runtime directory. The claim is to be held.
fn clear_away(dirs: &Dirs) {
    let _ = std::fs::remove_file(dirs.socket());
    let _ = std::fs::remove_file(dirs.metrics());
    for left in RUNTIME_FOLDERS {
        let _ = crate::walk::remove(&dirs.run.join(left));
    }
    let _ = crate::walk::remove(&dirs.dynamic);
    let _ = dirs.dynamic.parent().map(std::fs::remove_dir);
    let _ = std::fs::remove_dir(&dirs.run);
    // Only if no other app runs.
    let _ = dirs.run.parent().map(std::fs::remove_dir);
}

/// May this process have as many open files as these services need? How many are left then.
pub fn enough_descriptors(services: &[plan::Unit]) -> Result<u64, SuperviseError> {
    use nix::sys::resource::{Resource, getrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(system("read the limit of open files"))?;
    // A relay takes its control socket, that of the one before it, its pidfd and a pair of sockets.
    let relay = |s: &plan::Unit| if s.listen.is_empty() { 0 } else { 5 };
    let each = |s: &plan::Unit| {
        // One for what is said of a probe's answer.
        6 + s.listen.len() + relay(s) + s.publish.len() + s.callers.len() + usize::from(s.notifies())
    };
    let needed = services.iter().map(each).sum::<usize>() as u64 + SPARE_DESCRIPTORS;
    if needed > hard {
        return Err(SuperviseError::Descriptors {
            services: services.len(),
            needed,
            limit: hard,
        });
    }
    Ok(hard - needed)
}

/// As many open files as the services need, up to the hard limit; how many are left then.
pub(super) fn raise_descriptors(services: &[plan::Unit]) -> Result<usize, SuperviseError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let left = enough_descriptors(services)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(system("read the limit of open files"))?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(system("raise the limit of open files"))?;
    }
    Ok(usize::try_from(left).unwrap_or(usize::MAX))
}
