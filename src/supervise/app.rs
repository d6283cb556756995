//! The event loop of one app: what there is to wait for, and who is told of what. What follows from an event stands in
//! [`super::lifecycle`], what clients may ask for in [`super::control::requests`].

use super::control::fingerprint::Fingerprint;
use super::control::server::Connection;
use super::error::{SuperviseError, system};
use super::ids::{ConnectionId, EpollToken, ServiceId, WatchId};
use super::logs::output::Outputs;
use super::machine::{Ending, Input, Machine, ServiceDefinition, State};
use super::mending::{self, Mending};
use super::net::network::Networks;
use super::net::relays::Relays;
use super::net::sockets::{self, Sockets};
use super::overlaps::OverlapWatch;
use super::process::Process;
use super::protocol::{Progress, Reply};
use super::sandboxes::Sandboxes;
use super::stats::events::{self, Event, Kind};
use super::stats::figures::Figures;
use super::waits::Waits;
use super::{capabilities, systemd};
use crate::host::{Dirs, Privilege, ids_outside, make_private};
use crate::launch::{Launcher, Report};
use crate::plan::lock::{Claim, Deed};
use crate::plan::{self, Plan};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use std::collections::BTreeMap;
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
    /// Start these services, and those that they depend on. None: all.
    pub services: Vec<String>,
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

/// Which role a child process has.
#[derive(Clone, Copy)]
pub(super) enum Child {
    /// PID 1 of a service's namespace.
    Service(ServiceId),
    /// The helper of a probe.
    Probe(ServiceId),
}

/// Who hears how a request goes on.
pub(super) enum Sink {
    Nobody,
    Pipe(OwnedFd),
    Connection(ConnectionId),
}

/// An app that is about to run, or runs.
pub struct App {
    /// Of its services nothing: they are the machine's.
    pub(super) plan: Plan,
    pub(super) attached: bool,
    /// What is started first, if not all.
    first: Vec<String>,
    /// The user's ids on the host, if all services have those.
    pub(super) shared_ids: Option<(u32, u32)>,
    pub(super) launcher: Launcher,
    pub(super) epoll: Epoll,
    signals: SignalFd,
    control: OwnedFd,
    metrics: OwnedFd,
    /// Tells when these are deleted.
    folder: Option<Inotify>,
    pub(super) connections: BTreeMap<ConnectionId, Connection>,
    next_connection: ConnectionId,
    /// Until when nobody is let in.
    deaf: Option<Instant>,
    /// When the loop last came out of waiting.
    awake: Instant,
    /// Turns in a row that took as many events as one may.
    full_turns: usize,
    /// The services, and the rules that they go by.
    pub(super) machine: Machine,
    /// Processes of services, for as long as they are not waited for.
    pub(super) processes: BTreeMap<ServiceId, Process>,
    pub(super) by_pid: BTreeMap<i32, Child>,
    /// What came of the calls of services' functions, since the app is up.
    pub(super) figures: BTreeMap<ServiceId, Figures>,
    /// Who hears of a watch.
    pub(super) sinks: BTreeMap<WatchId, Sink>,
    pub(super) waits: Waits,
    pub(super) sockets: Sockets,
    pub(super) relays: Relays,
    pub(super) sandboxes: Sandboxes,
    pub(super) overlaps: OverlapWatch,
    pub(super) networks: Networks,
    pub(super) mending: Option<Mending>,
    pub(super) outputs: Outputs,
    pub(super) null: File,
    /// Held until nothing of the app runs any more: a second `up` of it finds that.
    pub(super) claim: Option<Claim>,
    pub(super) manager: systemd::Manager,
    pub(super) denied_in_all: u64,
    /// What the app's resources were planned to be, in short.
    pub(super) resources: Fingerprint,
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
        clear_stale(&plan.dirs)?;
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
        let overlaps = OverlapWatch::new(std::mem::take(&mut plan.subtrees))?;
        let mut networks = Networks::default();
        let prepared = networks.prepare(&plan.privilege, plan.services.iter(), &mut launcher)?;
        networks.take_on(prepared);
        let (control, metrics) = (door(&plan.dirs.socket())?, door(&plan.dirs.metrics())?);
        // A user may have but so many, and it is no must.
        let folder = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).ok();
        let folder = folder.filter(|folder| watch_folder(folder, &plan.dirs));
        let signals = take_signals()?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("make an epoll"))?;
        let outputs = Outputs::new(options.attached, plan.services.iter().map(|s| s.name.as_str()))?;
        capabilities::reduce().map_err(|e| SuperviseError::System {
            operation: "drop capabilities",
            cause: std::io::Error::other(e),
        })?;
        let resources = super::control::fingerprint::of_storage(&plan.storage);
        let definitions: Vec<ServiceDefinition> = std::mem::take(&mut plan.services)
            .into_iter()
            .map(ServiceDefinition::new)
            .collect();
        let first = match options.progress {
            Some(pipe) => Sink::Pipe(pipe),
            None => Sink::Nobody,
        };
        let null = File::options().read(true).write(true).open("/dev/null");
        let now = Instant::now();
        let sandboxes = Sandboxes::new(std::mem::take(&mut plan.sandboxes), now);
        let mut app = App {
            null: null.map_err(system("open /dev/null"))?,
            shared_ids: ids_outside().filter(|_| plan.privilege == Privilege::OneId),
            plan,
            attached: options.attached,
            first: options.services,
            launcher,
            epoll,
            signals,
            control,
            metrics,
            folder,
            connections: BTreeMap::new(),
            next_connection: ConnectionId::FIRST,
            deaf: None,
            awake: now,
            full_turns: 0,
            machine: Machine::new(definitions, now),
            processes: BTreeMap::new(),
            by_pid: BTreeMap::new(),
            figures: BTreeMap::new(),
            sinks: BTreeMap::from([(WatchId::FIRST, first)]),
            waits: Waits::default(),
            sockets,
            overlaps,
            networks,
            relays: Relays::default(),
            sandboxes,
            mending: None,
            outputs,
            claim: None,
            manager,
            denied_in_all: 0,
            resources,
            spare_descriptors,
        };
        app.watch_all()?;
        Ok(app)
    }

    /// Watches all that is there before any service runs.
    fn watch_all(&mut self) -> Result<(), SuperviseError> {
        self.watch(self.signals.as_fd(), EpollToken::Signals)?;
        self.watch(self.control.as_fd(), EpollToken::Control)?;
        self.watch(self.metrics.as_fd(), EpollToken::Metrics)?;
        if let Some(folder) = &self.folder {
            self.watch(folder.as_fd(), EpollToken::Folder)?;
        }
        self.watch(self.outputs.as_fd(), EpollToken::Outputs)?;
        for (id, service) in self.machine.services() {
            self.outputs
                .hold(id, &self.plan.app, &self.plan.dirs, service.definition.unit())?;
        }
        self.watch_app_network()?;
        self.watch_shared(mending::shared(&self.plan.storage))
    }

    /// Starts the services and stays until the app is stopped.
    pub fn run(mut self) -> Result<Outcome, SuperviseError> {
        self.start_sandboxes(Instant::now());
        self.waits.begin(WatchId::FIRST, Instant::now());
        let first = std::mem::take(&mut self.first);
        self.feed(Input::Up(first));
        while !self.machine.finished(self.attached) {
            let (effects, more) = self.machine.turn(Instant::now());
            self.carry_out(effects);
            let mending = self.mending.as_ref().is_some_and(Mending::busy);
            let timeout = if more || mending {
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
        Ok(match self.machine.failure() {
            Some(code) => Outcome::StartFailed(code),
            None if self.machine.is_unwell() && !self.machine.is_stopping() => Outcome::ServiceFailed,
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
        let event = EpollToken::Mending.event(EpollFlags::EPOLLIN);
        self.epoll.add(&made, event).map_err(system("watch a descriptor"))?;
        self.mending = Some(made);
        Ok(())
    }

    fn mend(&mut self) {
        if let Some(mending) = &mut self.mending {
            mending.turn();
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let sandboxes = self.sandboxes.next().filter(|_| !self.machine.is_stopping());
        let waits = self.waits.next();
        let all = [
            self.machine.next_deadline(),
            self.manager.next(),
            self.deaf,
            sandboxes,
            waits,
        ];
        let next = all.into_iter().flatten().min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    pub(super) fn watch(&self, fd: BorrowedFd<'_>, token: EpollToken) -> Result<(), SuperviseError> {
        self.epoll
            .add(fd, token.event(EpollFlags::EPOLLIN))
            .map_err(system("watch a descriptor"))
    }

    /// Hears when the way out of the app's network is lost.
    pub(super) fn watch_app_network(&self) -> Result<(), SuperviseError> {
        let Some(words) = self.networks.app_words() else {
            return Ok(());
        };
        match self.epoll.add(words, EpollToken::AppNetwork.event(EpollFlags::EPOLLIN)) {
            // It is the one that was there before.
            Ok(()) | Err(nix::errno::Errno::EEXIST) => Ok(()),
            Err(e) => Err(system("watch a descriptor")(e)),
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
            let Some(token) = EpollToken::unpack(event.data()) else {
                continue;
            };
            match token {
                EpollToken::Signals => self.signalled(),
                EpollToken::Control => self.accept(false),
                EpollToken::Metrics => self.accept(true),
                EpollToken::Connection(number) => self.converse(number),
                EpollToken::Reports(id) => self.reported(id),
                EpollToken::Outputs => self.outputs.turn()?,
                EpollToken::Notify(id) => self.notified(id),
                EpollToken::Demand(id) => self.feed(Input::Connected(id)),
                EpollToken::Network(id) => self.network_said(id),
                EpollToken::AppNetwork => self.app_network_said(),
                EpollToken::Relay(id) => self.relay_said(id),
                EpollToken::Folder => self.folder_changed(),
                EpollToken::Mending => self.mend(),
                // Those are of the epoll of all output.
                EpollToken::Pipe(..) | EpollToken::Syslog(_) | EpollToken::LogDaemon(_) | EpollToken::Console => {}
            }
        }
        // There may be more than was taken. As the kernel begins with those that were not, timers wait for some turns at most.
        self.full_turns = if count == EVENTS { self.full_turns + 1 } else { 0 };
        if self.full_turns > 0 && self.full_turns <= self.sources() / EVENTS {
            return Ok(());
        }
        self.full_turns = 0;
        while let Some(fired) = self.machine.due(asked) {
            self.feed(fired);
        }
        self.manager.tick(asked);
        self.tell_waits(asked);
        self.start_sandboxes(asked);
        if self.deaf.is_some_and(|until| until <= asked) {
            self.listen_again();
        }
        Ok(())
    }

    /// At least as many descriptors as can have something to say at once.
    fn sources(&self) -> usize {
        self.connections.len() + 4 * self.machine.services().count() + 8
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
            self.machine.postpone(working + waiting);
        }
    }

    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(signal @ (Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT | Signal::SIGHUP)) => {
                    // timeout(1) and systemd send several signals for one wish; who presses Ctrl-C again means it.
                    let stopping = self.machine.is_stopping();
                    if stopping && self.attached && signal == Signal::SIGINT {
                        self.feed(Input::Kill);
                    } else {
                        if !stopping {
                            self.outputs.say("\nStopping … press Ctrl-C again to kill");
                        }
                        self.feed(Input::Down { timeout: None });
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
                None => self.sandbox_over(pid, status.as_raw()),
            }
        }
    }

    fn reported(&mut self, id: ServiceId) {
        while let Some(process) = self.processes.get_mut(&id) {
            match process.running.report() {
                Ok(Report::Started) => self.program_runs(id),
                Ok(Report::Exited(status)) => process.ending = Some(Ending::Exited(status)),
                Ok(Report::Failed(error)) => {
                    let error = self.explained(id, error);
                    if let Some(process) = self.processes.get_mut(&id) {
                        process.ending = Some(Ending::Failed {
                            error: error.to_string(),
                            code: error.exit_code(),
                        });
                    }
                }
                Ok(Report::Terminal(_) | Report::Held | Report::Rules(_)) => {}
                Ok(Report::End) => {
                    // The rest comes with SIGCHLD.
                    let _ = self.epoll.delete(&process.running.reports);
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
            self.next_connection = number.next();
            if self
                .watch(connection.socket.as_fd(), EpollToken::Connection(number))
                .is_ok()
            {
                self.connections.insert(number, connection);
            }
        }
        for _ in 0..denied {
            self.denied_in_all += 1;
            let detail = "another user connected to the control socket";
            self.emit(&Event::new(Kind::Denied, "").detail(detail));
        }
    }

    /// Makes room by closing the connection that came first of those for which nothing is under way.
    fn let_go_of_idle(&mut self) -> bool {
        let watching = |number: ConnectionId| {
            let is = |sink: &Sink| matches!(sink, Sink::Connection(client) if *client == number);
            self.sinks.values().any(is)
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
        for (socket, source) in [
            (&self.control, EpollToken::Control),
            (&self.metrics, EpollToken::Metrics),
        ] {
            let _ = self.epoll.modify(socket, &mut source.event(interest));
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
                let watched = [
                    (&self.control, EpollToken::Control),
                    (&self.metrics, EpollToken::Metrics),
                ]
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
    pub(super) fn push(&mut self, number: ConnectionId, line: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&number) {
            connection.put(line);
        }
        self.flush(number);
    }

    /// Lets go of a client that is gone.
    pub(super) fn flush(&mut self, number: ConnectionId) {
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
        let mut event = EpollToken::Connection(number).event(interest);
        let _ = self.epoll.modify(&connection.socket, &mut event);
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
            let numbers: Vec<ConnectionId> = self
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

    pub(super) fn tell(&mut self, watch: WatchId, progress: &Progress) {
        let mut line = serde_json::to_vec(progress).unwrap_or_default();
        line.push(b'\n');
        let Some(sink) = self.sinks.get_mut(&watch) else {
            return;
        };
        match sink {
            Sink::Nobody => {}
            Sink::Pipe(pipe) => {
                if rustix::io::write(pipe, &line).is_err() {
                    // Whoever started us is gone.
                    *sink = Sink::Nobody;
                }
            }
            Sink::Connection(client) => {
                let client = *client;
                self.push(client, &line);
            }
        }
    }

    /// Leaves the host as it was before `up`.
    fn clean_up(&mut self) {
        // Whoever is told that all is over may start anew at once.
        self.sockets.clear();
        self.sandboxes.close();
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
        let left: Vec<(WatchId, bool)> = self.machine.watches().left().collect();
        for (number, waits) in left {
            // The first has been told which service could not be started, if that is why all end.
            if waits && (number != WatchId::FIRST || self.machine.failure().is_none()) {
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

    /// Is a service to be reached by `exec` and signals?
    pub(super) fn reachable(&self, id: ServiceId) -> bool {
        let (Some(service), Some(process)) = (self.machine.service(id), self.processes.get(&id)) else {
            return false;
        };
        service.instance.program_runs && process.ending.is_none() && service.state != State::Waiting
    }
}

/// None ends the app by its default: who sends one that says nothing here is not heard. A terminal's Ctrl-Z goes on
/// stopping this process, and a fault of its own goes on ending it.
fn take_signals() -> Result<SignalFd, SuperviseError> {
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
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK).map_err(system("make a signalfd"))
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
const RUNTIME_FOLDERS: [&str; 5] = ["services", "rpc", "notify", "sandbox", "syslog"];

/// Clears away what a killed supervisor left, and makes the folders that the app needs.
fn clear_stale(dirs: &Dirs) -> Result<(), SuperviseError> {
    make_private(&dirs.run)?;
    crate::launch::cgroup::clear(&dirs.run);
    for stale in RUNTIME_FOLDERS {
        crate::walk::remove(&dirs.run.join(stale)).map_err(system("clear away an earlier run"))?;
    }
    Ok(make_private(&dirs.logs())?)
}

/// Removes an app's runtime directory. The claim is to be held.
fn clear_away(dirs: &Dirs) {
    let _ = std::fs::remove_file(dirs.socket());
    let _ = std::fs::remove_file(dirs.metrics());
    for left in RUNTIME_FOLDERS {
        let _ = crate::walk::remove(&dirs.run.join(left));
    }
    let _ = crate::walk::remove(&dirs.external);
    let _ = dirs.external.parent().map(std::fs::remove_dir);
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
        // One for what is said of a probe's answer, and one for its log.
        7 + s.listen.len()
            + relay(s)
            + s.publish.len()
            + s.callers.len()
            + s.sandboxes.len()
            + usize::from(s.notifies())
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
