//! The event loop of one app.

use super::console::Console;
use super::control::{Connection, Heard};
use super::protocol::{AppStatus, Progress, Reply, Request};
use super::service::{Service, State, exit_code};
use super::sockets::{self, Sockets};
use super::{capabilities, limits, logs};
use crate::compile;
use crate::launch::{LaunchError, Launcher, Report, Request as Start, join};
use crate::plan::{Dirs, Plan, PlanError, make_private};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::WaitOptions;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long a service may take to end after SIGTERM before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Descriptors beyond those of the services.
const SPARE_DESCRIPTORS: u64 = 96;

pub struct Options {
    /// Print services' lines to standard output, and end when all services have.
    pub attached: bool,
    /// Where to say how the start goes.
    pub progress: Option<OwnedFd>,
    pub fingerprint: String,
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
    Launch(#[from] LaunchError),
    #[error("{0}")]
    AlreadyUp(String),
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

fn system<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> SuperviseError {
    move |cause| SuperviseError::System {
        operation,
        cause: cause.into(),
    }
}

/// What an epoll event is about: its kind, and which one.
#[derive(Clone, Copy, Debug)]
enum Source {
    Signals,
    Control,
    Connection(u32),
    Reports(u32),
    Output(u32, usize),
}

impl Source {
    fn pack(self) -> u64 {
        let (kind, number, which) = match self {
            Source::Signals => (0u64, 0, 0),
            Source::Control => (1, 0, 0),
            Source::Connection(n) => (2, n, 0),
            Source::Reports(n) => (3, n, 0),
            Source::Output(n, which) => (4, n, which as u64),
        };
        kind << 40 | which << 32 | u64::from(number)
    }

    fn unpack(data: u64) -> Source {
        let number = data as u32;
        match data >> 40 {
            0 => Source::Signals,
            1 => Source::Control,
            2 => Source::Connection(number),
            3 => Source::Reports(number),
            _ => Source::Output(number, (data >> 32 & 1) as usize),
        }
    }
}

/// An app that is about to run, or runs.
pub struct App {
    plan: Plan,
    options: Options,
    launcher: Launcher,
    epoll: Epoll,
    signals: SignalFd,
    control: OwnedFd,
    connections: BTreeMap<u32, Connection>,
    next_connection: u32,
    services: Vec<Service>,
    by_pid: BTreeMap<i32, usize>,
    sockets: Vec<Sockets>,
    console: Option<Console>,
    null: File,
    /// Held for as long as this process lives: a second `up` of the app finds it.
    _lock: File,
    stopping: Option<Instant>,
    killed: bool,
    failure: Option<u8>,
    unwell: bool,
    buffer: Vec<u8>,
}

impl App {
    /// Takes the app's lock, clears away what a killed supervisor left, and binds all sockets. Starts nothing.
    pub fn new(plan: Plan, options: Options) -> Result<App, SuperviseError> {
        let each = 3 + plan
            .services
            .iter()
            .map(|s| s.listen.len() + s.callers.len())
            .max()
            .unwrap_or(0) as u64;
        raise_descriptors(plan.services.len(), each)?;
        let launcher = Launcher::new()?;
        let lock = take_lock(&plan)?;
        // A second descriptor of it, so that nobody comes in between before all is cleared away.
        let held = lock.try_clone().map_err(system("keep the lock"))?;
        let dirs = plan.dirs.clone();
        let made = App::make(plan, options, launcher, lock).inspect_err(|_| clear_away(&dirs));
        drop(held);
        made
    }

    /// What [`App::new`] does under the lock.
    fn make(plan: Plan, options: Options, mut launcher: Launcher, lock: File) -> Result<App, SuperviseError> {
        crate::launch::cgroup::clear(&plan.dirs.run);
        for stale in ["services", "rpc"] {
            crate::launch::storage::remove(&plan.dirs.run.join(stale)).map_err(system("clear away an earlier run"))?;
        }
        make_private(&plan.dirs.logs())?;
        limits::hold(&plan, &mut launcher)?;
        let sockets = sockets::bind(&plan)?;
        let control = sockets::bind_unix(&plan.dirs.socket(), rustix::net::SocketType::STREAM)
            .map_err(system("make the control socket"))?;
        rustix::net::listen(&control, 64).map_err(system("listen on the control socket"))?;
        rustix::io::ioctl_fionbio(&control, true).map_err(system("prepare the control socket"))?;
        let mut mask = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGQUIT,
            Signal::SIGHUP,
            Signal::SIGCHLD,
            Signal::SIGPIPE,
        ] {
            mask.add(signal);
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
        capabilities::reduce().map_err(|e| SuperviseError::System {
            operation: "drop capabilities",
            cause: std::io::Error::other(e),
        })?;
        let console = options
            .attached
            .then(|| Console::new(plan.services.iter().map(|s| s.name.as_str())));
        let services = plan.services.iter().map(|_| Service::new()).collect();
        Ok(App {
            null: File::options()
                .read(true)
                .write(true)
                .open("/dev/null")
                .map_err(system("open /dev/null"))?,
            plan,
            options,
            launcher,
            epoll,
            signals,
            control,
            connections: BTreeMap::new(),
            next_connection: 0,
            services,
            by_pid: BTreeMap::new(),
            sockets,
            console,
            _lock: lock,
            stopping: None,
            killed: false,
            failure: None,
            unwell: false,
            buffer: vec![0; 64 << 10],
        })
    }

    /// Starts all services and stays until the app is stopped.
    pub fn run(mut self) -> Result<Outcome, SuperviseError> {
        for index in 0..self.services.len() {
            if self.stopping.is_some() {
                break;
            }
            if let Err(error) = self.start(index) {
                self.start_failed(index, &error);
            }
            // Reports of the services before, so that a thousand starts do not pile up.
            self.turn(Some(Duration::ZERO))?;
        }
        while !self.finished() {
            let timeout = self.next_deadline();
            self.turn(timeout)?;
        }
        self.clean_up();
        Ok(match self.failure {
            Some(code) => Outcome::StartFailed(code),
            None if self.unwell && self.stopping.is_none() => Outcome::ServiceFailed,
            None => Outcome::Done,
        })
    }

    fn finished(&self) -> bool {
        // A stop in the middle of the start leaves services that never began; they are over too.
        let all_over = self
            .services
            .iter()
            .all(|s| !s.state.live() && s.running.is_none() && s.pipes.iter().all(Option::is_none));
        all_over && (self.stopping.is_some() || self.options.attached)
    }

    fn next_deadline(&self) -> Option<Duration> {
        match self.stopping {
            Some(_) if self.killed => None,
            Some(since) => Some((since + STOP_TIMEOUT).saturating_duration_since(Instant::now())),
            None => None,
        }
    }

    fn start(&mut self, index: usize) -> Result<(), SuperviseError> {
        let planned = &self.plan.services[index];
        let folder = self.plan.dirs.bundle(&planned.name);
        let bundle = compile::compile(&self.plan, planned, &folder)
            .map_err(|e| LaunchError::system_text("compile", &planned.name, e))?;
        bundle
            .write_layers(&folder)
            .map_err(|e| LaunchError::system_text("write layers of the root to", folder.display(), e))?;
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        let request = Start {
            spec: &bundle.spec,
            root: &bundle.root,
            stdio: [self.null.as_fd(), out_write.as_fd(), err_write.as_fd()],
            sockets: &self.sockets[index].handed(),
            terminal: false,
        };
        tracing::debug!(
            service = planned.name,
            sockets = self.sockets[index].count(),
            "starting"
        );
        let running = self.launcher.start(&request)?;
        rustix::io::ioctl_fionbio(&running.reports, true).map_err(system("prepare a report socket"))?;
        let number = index as u32;
        self.watch(running.reports.as_fd(), Source::Reports(number))?;
        self.watch(out_read.as_fd(), Source::Output(number, 0))?;
        self.watch(err_read.as_fd(), Source::Output(number, 1))?;
        self.by_pid.insert(running.pid.as_raw_nonzero().get(), index);
        let service = &mut self.services[index];
        service.pipes = [Some(out_read), Some(err_read)];
        service.running = Some(running);
        service.enter(State::Starting);
        Ok(())
    }

    fn watch(&self, fd: BorrowedFd<'_>, source: Source) -> Result<(), SuperviseError> {
        self.epoll
            .add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.pack()))
            .map_err(system("watch a descriptor"))
    }

    fn start_failed(&mut self, index: usize, error: &SuperviseError) {
        let code = match error {
            SuperviseError::Launch(error) => error.exit_code(),
            _ => 1,
        };
        self.fail(index, &error.to_string(), code);
    }

    /// A service that cannot start takes the `up` with it, so that nothing half-started is left.
    fn fail(&mut self, index: usize, error: &str, code: u8) {
        let name = self.plan.services[index].name.clone();
        tracing::debug!(service = name, error, "failed");
        self.services[index].enter(State::Failed {
            error: error.to_owned(),
        });
        self.tell(&Progress::Failed {
            service: name.clone(),
            error: error.to_owned(),
            code,
        });
        if self.console.is_some() {
            eprintln!("error: service `{name}`: {error}");
        }
        if self.failure.is_none() {
            self.failure = Some(code);
        }
        self.stop();
    }

    fn tell(&mut self, progress: &Progress) {
        let Some(pipe) = &self.options.progress else { return };
        let mut line = serde_json::to_vec(progress).unwrap_or_default();
        line.push(b'\n');
        if rustix::io::write(pipe, &line).is_err() || matches!(progress, Progress::Done) {
            // Whoever started us is gone, or knows all it wants to.
            self.options.progress = None;
        }
    }

    /// Waits for events, at most so long, and handles them.
    fn turn(&mut self, timeout: Option<Duration>) -> Result<(), SuperviseError> {
        let mut events = [EpollEvent::empty(); 64];
        let wait = match timeout {
            None => EpollTimeout::NONE,
            // Rounded up: waking before a deadline would only mean waiting again.
            Some(time) => EpollTimeout::try_from(time.as_nanos().div_ceil(1_000_000).min(60_000) as u32)
                .unwrap_or(EpollTimeout::ZERO),
        };
        let count = match self.epoll.wait(&mut events, wait) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(e) => return Err(system("wait for events")(e)),
        };
        for event in &events[..count] {
            match Source::unpack(event.data()) {
                Source::Signals => self.signalled(),
                Source::Control => self.accept(),
                Source::Connection(number) => self.converse(number),
                Source::Reports(number) => self.reported(number as usize),
                Source::Output(number, which) => self.output(number as usize, which),
            }
        }
        if self.stopping.is_some_and(|since| since.elapsed() >= STOP_TIMEOUT) && !self.killed {
            self.kill();
        }
        Ok(())
    }

    fn signalled(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => self.reap(),
                Ok(signal @ (Signal::SIGINT | Signal::SIGTERM | Signal::SIGQUIT | Signal::SIGHUP)) => {
                    // timeout(1) and systemd send several signals for one wish; who presses Ctrl-C again means it.
                    if self.stopping.is_some() && self.options.attached && signal == Signal::SIGINT {
                        self.kill();
                    } else {
                        if self.console.is_some() {
                            eprintln!("\nstopping; once more to kill");
                        }
                        self.stop();
                    }
                }
                _ => {}
            }
        }
    }

    /// Asks every service to end, the last declared first.
    fn stop(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(Instant::now());
        for service in self.services.iter().rev() {
            if let Some(running) = &service.running {
                let _ = running.signal(rustix::process::Signal::TERM);
                // A stopped process would not see it before it is killed.
                let _ = running.signal(rustix::process::Signal::CONT);
            }
        }
    }

    fn kill(&mut self) {
        self.killed = true;
        for service in &self.services {
            if let Some(running) = &service.running {
                let _ = running.signal(rustix::process::Signal::KILL);
            }
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let Some(index) = self.by_pid.remove(&pid.as_raw_nonzero().get()) else {
                continue;
            };
            // What PID 1 said last is still in the socket.
            self.reported(index);
            if self.services[index].state.live() {
                self.ended(index, status.as_raw());
            }
            if let Some(running) = self.services[index].running.take() {
                let _ = self.epoll.delete(&running.reports);
            }
        }
    }

    fn reported(&mut self, index: usize) {
        while let Some(report) = self.services[index].running.as_ref().map(|r| r.report()) {
            match report {
                Ok(Report::Started) => {
                    self.services[index].enter(State::Running);
                    let service = self.plan.services[index].name.clone();
                    tracing::debug!(service, "running");
                    self.tell(&Progress::Started { service });
                    let begun = |s: &Service| !matches!(s.state, State::Waiting | State::Starting);
                    // After a failure there is something to come: that all is cleared away.
                    if self.failure.is_none() && self.services.iter().all(begun) {
                        self.tell(&Progress::Done);
                    }
                }
                Ok(Report::Exited(status)) => self.ended(index, status),
                Ok(Report::Failed(error)) => self.fail(index, &error.to_string(), error.exit_code()),
                Ok(Report::Terminal(_)) => {}
                Ok(Report::End) => {
                    // The rest comes with SIGCHLD.
                    if let Some(running) = &self.services[index].running {
                        let _ = self.epoll.delete(&running.reports);
                    }
                    return;
                }
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }

    fn ended(&mut self, index: usize, status: i32) {
        let code = exit_code(status);
        let name = self.plan.services[index].name.clone();
        if self.services[index].state == State::Starting {
            // PID 1 itself was killed before it could say anything.
            self.fail(index, &LaunchError::Vanished.to_string(), 125);
            return;
        }
        let service = &mut self.services[index];
        service.enter(State::Exited { code });
        let group = service.running.as_ref().and_then(|r| r.cgroup());
        service.note = limits::explain(status, group, &self.plan.services[index].limits).filter(|_| !self.killed);
        self.unwell |= code != 0;
        if self.console.is_some() {
            match &service.note {
                Some(note) => eprintln!("{name} ended with code {code}: {note}"),
                None => eprintln!("{name} ended with code {code}"),
            }
        }
    }

    fn output(&mut self, index: usize, which: usize) {
        let Some(pipe) = &self.services[index].pipes[which] else {
            return;
        };
        let read = match rustix::io::read(pipe, &mut self.buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return,
            Err(_) => 0,
        };
        let name = &self.plan.services[index].name;
        let time = logs::now();
        let mut records = Vec::with_capacity(read + 64);
        let console = self.console.as_ref();
        let print = |line: &[u8]| {
            if let Some(console) = console {
                console.line(index, name, line);
            }
        };
        let stream = &mut self.services[index].streams[which];
        if read == 0 {
            stream.end(&time, &mut records, print);
            self.services[index].pipes[which] = None;
        } else {
            stream.take(&self.buffer[..read], &time, &mut records, print);
        }
        // Opened for each piece: a thousand idle logs cost no descriptor.
        let written = logs::open(&self.plan.dirs.log(name)).and_then(|mut file| logs::append(&mut file, &records));
        if let Err(e) = written {
            tracing::warn!(service = name, "its output is lost: {e}");
        }
    }

    fn accept(&mut self) {
        use rustix::net::{SocketFlags, accept_with};
        while let Ok(socket) = accept_with(&self.control, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            let connection = Connection::new(socket);
            if !connection.is_owner() {
                tracing::warn!("another user connected to the control socket and was turned away");
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
    }

    fn converse(&mut self, number: u32) {
        let Some(mut connection) = self.connections.remove(&number) else {
            return;
        };
        let keep = match connection.hear() {
            Heard::Nothing => true,
            Heard::Gone => false,
            Heard::Rubbish(why) => {
                connection.reply(&Reply {
                    error: Some(why),
                    app: None,
                });
                let _ = connection.flush();
                false
            }
            Heard::Request(Request::Ps) => {
                connection.reply(&Reply {
                    error: None,
                    app: Some(self.status()),
                });
                true
            }
            Heard::Request(Request::Down) => {
                self.stop();
                connection.waits_for_down = true;
                true
            }
            Heard::Request(Request::Exec {
                service,
                args,
                environment,
                directory,
                terminal,
            }) => {
                self.exec(&mut connection, &service, args, environment, directory, terminal);
                // The session's helper holds a copy of the socket.
                false
            }
        };
        let pending = connection.flush();
        if keep && let Ok(pending) = pending {
            let interest = if pending {
                EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT
            } else {
                EpollFlags::EPOLLIN
            };
            let _ = self.epoll.modify(
                &connection.socket,
                &mut EpollEvent::new(interest, Source::Connection(number).pack()),
            );
            self.connections.insert(number, connection);
        }
    }

    fn status(&self) -> AppStatus {
        AppStatus {
            app: self.plan.app.clone(),
            supervisor_pid: std::process::id(),
            fingerprint: self.options.fingerprint.clone(),
            services: self
                .services
                .iter()
                .zip(&self.plan.services)
                .map(|(s, p)| s.status(p))
                .collect(),
        }
    }

    fn exec(
        &mut self,
        connection: &mut Connection,
        service: &str,
        args: Vec<String>,
        environment: Vec<String>,
        directory: Option<String>,
        terminal: bool,
    ) {
        let _ = rustix::io::ioctl_fionbio(&connection.socket, false);
        if let Err((code, why)) = self.try_exec(connection, service, args, environment, directory, terminal) {
            let bytes = join::encode(join::told::FAILED, code, &why);
            let _ = rustix::net::send(
                &connection.socket,
                &bytes,
                rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT,
            );
        }
    }

    fn try_exec(
        &mut self,
        connection: &mut Connection,
        service: &str,
        args: Vec<String>,
        environment: Vec<String>,
        directory: Option<String>,
        terminal: bool,
    ) -> Result<(), (u32, String)> {
        let passed: [OwnedFd; 3] = std::mem::take(&mut connection.passed)
            .try_into()
            .map_err(|_| (125, "the request came without descriptors".to_owned()))?;
        let index = self
            .plan
            .services
            .iter()
            .position(|s| s.name == service)
            .ok_or_else(|| {
                (
                    125,
                    format!("no service is called `{service}`; `pysecure ps` lists them"),
                )
            })?;
        let Some(init) = self.services[index]
            .running
            .as_ref()
            .filter(|_| self.services[index].state == State::Running)
            .map(|r| r.pid)
        else {
            return Err((
                125,
                format!(
                    "service `{service}` is not running ({}); `pysecure run {service}` starts a process of its own",
                    self.services[index].state.word()
                ),
            ));
        };
        let planned = &self.plan.services[index];
        let bundle =
            compile::compile(&self.plan, planned, &self.plan.dirs.bundle(service)).map_err(|e| (125, e.to_string()))?;
        let mut spec = bundle.spec;
        if let Some(process) = spec.process_mut() {
            process.set_args(Some(args));
            let mut all = process.env().clone().unwrap_or_default();
            all.extend(environment);
            process.set_env(Some(all));
            if let Some(directory) = directory {
                process.set_cwd(directory.into());
            }
        }
        let stdio = [passed[0].as_fd(), passed[1].as_fd(), passed[2].as_fd()];
        self.launcher
            .join(init, &spec, stdio, terminal, &connection.socket)
            .map(drop)
            .map_err(|e| (e.exit_code().into(), e.to_string()))
    }

    /// Leaves the host as it was before `up`.
    fn clean_up(&mut self) {
        self.launcher.release_limits();
        clear_away(&self.plan.dirs);
        for connection in self.connections.values_mut().filter(|c| c.waits_for_down) {
            let _ = rustix::io::ioctl_fionbio(&connection.socket, false);
            connection.reply(&Reply::default());
            let _ = connection.flush();
        }
        self.tell(&Progress::Done);
        let _ = std::io::stdout().flush();
    }
}

/// Removes an app's runtime directory. The lock is to be held, for it goes as well.
fn clear_away(dirs: &Dirs) {
    let _ = std::fs::remove_file(dirs.socket());
    for left in ["services", "rpc"] {
        let _ = crate::launch::storage::remove(&dirs.run.join(left));
    }
    let _ = std::fs::remove_file(dirs.run.join("lock"));
    let _ = std::fs::remove_dir(&dirs.run);
    // Only if no other app runs.
    let _ = dirs.run.parent().map(std::fs::remove_dir);
}

/// One supervisor an app; flock(2) ends with the process, however it ends.
fn take_lock(plan: &Plan) -> Result<File, SuperviseError> {
    // Who ends removes lock and folder: what was opened just before locks out nobody, so it is tried again.
    loop {
        make_private(&plan.dirs.run)?;
        match lock(&plan.dirs) {
            Ok(Some(file)) => return Ok(file),
            Ok(None) | Err(Errno::NOENT) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(SuperviseError::AlreadyUp(format!(
                    "`{}` is up, or being started by another pysecure; `pysecure ps` shows it, `pysecure down` ends it",
                    plan.app
                )));
            }
            Err(errno) => return Err(system("lock")(errno)),
        }
    }
}

/// The lock of who supervises an app, or clears away what a killed supervisor left; `WOULDBLOCK` if another
/// has it, `None` if it was removed meanwhile.
pub fn lock(dirs: &Dirs) -> Result<Option<File>, Errno> {
    use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
    let path = dirs.run.join("lock");
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
    let ours = rustix::fs::fstat(&file)?;
    Ok(rustix::fs::stat(&path)
        .is_ok_and(|there| (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino))
        .then(|| file.into()))
}

/// As many open files as the services need, up to the hard limit.
fn raise_descriptors(services: usize, each: u64) -> Result<(), SuperviseError> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(system("read the limit of open files"))?;
    let needed = services as u64 * each + SPARE_DESCRIPTORS;
    if needed > hard {
        return Err(SuperviseError::Descriptors {
            services,
            needed,
            limit: hard,
        });
    }
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(system("raise the limit of open files"))?;
    }
    Ok(())
}

/// A pipe whose reading end does not block.
fn pipe() -> Result<(OwnedFd, OwnedFd), SuperviseError> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(system("prepare a pipe"))?;
    Ok((read, write))
}
