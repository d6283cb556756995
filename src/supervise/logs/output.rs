//! What services print, from their pipes to a file, the host's log and the terminal.
//!
//! This room has an epoll(7) of its own: the app's loop watches that one descriptor ([`Outputs::as_fd`]) and calls
//! [`Outputs::turn`] when it is readable. Each pipe is read once a turn, a buffer at most, so that no service that
//! prints without end holds up another. Nothing here waits: for a disk that is full, a log daemon that is slow, a
//! terminal that nobody reads. Memory is bounded for each service; what finds no room is counted and told.

use super::console::Console;
use super::logfile::{LogFile, Shelf};
use super::record::{self, STREAMS, Stream};
use super::sink::{Connection, Daemon};
use super::syslog;
use crate::host::Dirs;
use crate::model::Logs;
use crate::plan;
use crate::supervise::ids::{EpollToken, OutputStream, ServiceId};
use crate::values::Sink;
use memchr::memchr_iter;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Read from one pipe in one turn.
const PIECE: usize = 64 << 10;

/// Messages of syslog(3) that are taken in one turn.
const MOST_MESSAGES: usize = 64;

/// Pieces that are read of a service that has ended; a pipe holds no more (pipe-max-size).
const LAST_PIECES: usize = 32;

/// Bytes of records that wait for a log daemon, of services that ended meanwhile.
const MOST_WAITING: usize = 1 << 20;

/// How long a log daemon may take for the next line when all services have ended.
const LAST_WAIT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    #[error(
        "the lines of `{service}` are for {daemon}, but {path} cannot be used: {cause}; start {daemon}, or write \
         sink = \"file\" in [services.{service}.logs]"
    )]
    Sink {
        service: String,
        daemon: &'static str,
        path: &'static str,
        #[source]
        cause: std::io::Error,
    },
    #[error("keep services' output: {operation}: {cause}")]
    System {
        operation: &'static str,
        #[source]
        cause: std::io::Error,
    },
}

fn system<E: Into<std::io::Error>>(operation: &'static str) -> impl FnOnce(E) -> OutputError {
    move |cause| OutputError::System {
        operation,
        cause: cause.into(),
    }
}

/// The output of all services of an app.
pub(crate) struct Outputs {
    epoll: Epoll,
    /// By service.
    each: BTreeMap<ServiceId, Output>,
    console: Option<Console>,
    shelf: Shelf,
    buffer: Vec<u8>,
    /// Kept for its memory alone.
    records: Vec<u8>,
}

/// The output of one service.
struct Output {
    policy: Logs,
    name: String,
    pipes: [Option<OwnedFd>; 2],
    /// On which it speaks syslog(3).
    messages: Option<OwnedFd>,
    streams: [Stream; 2],
    to: To,
    /// Records that the log daemon has no room for. While there are any, the service's pipes are not read.
    waiting: Vec<u8>,
    lost: u64,
    /// Why they were.
    why: String,
}

enum To {
    File(LogFile),
    Daemon(Box<Connection>),
    Nowhere,
}

impl Outputs {
    /// `attached`: lines are shown on standard output as well.
    pub(crate) fn new<'n>(attached: bool, names: impl Iterator<Item = &'n str>) -> Result<Outputs, OutputError> {
        let made = Outputs {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(system("make an epoll"))?,
            each: BTreeMap::new(),
            console: attached.then(|| Console::new(names)),
            shelf: Shelf::default(),
            buffer: vec![0; PIECE],
            records: Vec::new(),
        };
        for fd in made.console.iter().flat_map(Console::outlets) {
            let event = EpollToken::Console.event(EpollFlags::EPOLLOUT | EpollFlags::EPOLLET);
            // A file on disk cannot be watched, and need not be.
            let _ = made.epoll.add(fd, event);
        }
        Ok(made)
    }

    /// Takes in a service, and connects to the log daemon that it names; does nothing if that is so already.
    pub(crate) fn hold(
        &mut self,
        id: ServiceId,
        app: &str,
        dirs: &Dirs,
        service: &plan::Unit,
    ) -> Result<(), OutputError> {
        if self.each.get(&id).is_some_and(|of| of.policy == service.logs) {
            return Ok(());
        }
        self.remove(id);
        let to = match Daemon::of(service.logs.sink) {
            Some(daemon) => {
                let connection = Connection::new(daemon, app, &service.name).map_err(|errno| OutputError::Sink {
                    service: service.name.clone(),
                    daemon: daemon.name(),
                    path: daemon.path(),
                    cause: errno.into(),
                })?;
                let event = EpollToken::LogDaemon(id).event(EpollFlags::empty());
                self.epoll
                    .add(&connection.socket, event)
                    .map_err(system("watch a socket"))?;
                To::Daemon(Box::new(connection))
            }
            None if service.logs.sink == Sink::File => To::File(LogFile::new(dirs.log(&service.name), &service.logs)),
            None => To::Nowhere,
        };
        let output = Output {
            policy: service.logs.clone(),
            name: service.name.clone(),
            pipes: [None, None],
            messages: None,
            streams: STREAMS.map(Stream::new),
            to,
            waiting: Vec::new(),
            lost: 0,
            why: String::new(),
        };
        self.each.insert(id, output);
        Ok(())
    }

    /// Lets go of a service, whose last words are taken first.
    pub(crate) fn remove(&mut self, id: ServiceId) {
        self.ended(id);
        if let Some(of) = self.each.remove(&id)
            && let To::Daemon(connection) = &of.to
        {
            let _ = self.epoll.delete(&connection.socket);
        }
    }

    /// Readable when [`Outputs::turn`] has something to do.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }

    /// Makes pipes for a service that is about to start, and reads them from now on; returns the ends that it
    /// writes to. What an earlier start of it left is taken first. `messages`: what it speaks syslog(3) on.
    pub(crate) fn begin(&mut self, id: ServiceId, messages: OwnedFd) -> Result<[OwnedFd; 2], OutputError> {
        self.ended(id);
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        if let Some(of) = self.each.get_mut(&id) {
            for (which, read) in OutputStream::BOTH.into_iter().zip([out_read, err_read]) {
                let event = EpollToken::Pipe(id, which).event(EpollFlags::EPOLLIN);
                self.epoll.add(&read, event).map_err(system("watch a pipe"))?;
                of.pipes[which.index()] = Some(read);
            }
            let event = EpollToken::Syslog(id).event(EpollFlags::EPOLLIN);
            self.epoll.add(&messages, event).map_err(system("watch a socket"))?;
            of.messages = Some(messages);
            if !of.waiting.is_empty() {
                self.watch(id);
            }
        }
        Ok([out_write, err_write])
    }

    /// A service's processes are gone: what is left in its pipes is taken, all of it, and they are closed.
    pub(crate) fn ended(&mut self, id: ServiceId) {
        let open = |outputs: &Outputs, which: OutputStream| {
            outputs
                .each
                .get(&id)
                .is_some_and(|of| of.pipes[which.index()].is_some())
        };
        for which in OutputStream::BOTH {
            for _ in 0..LAST_PIECES {
                if !open(self, which) || !self.read(id, which) {
                    break;
                }
            }
            if open(self, which) {
                self.close(id, which);
            }
        }
        // No more than the kernel keeps for a socket; somebody else may have been given its other end.
        for _ in 0..LAST_PIECES {
            if !self.hear(id) {
                break;
            }
        }
        if let Some(socket) = self.each.get_mut(&id).and_then(|of| of.messages.take()) {
            let _ = self.epoll.delete(&socket);
        }
        self.show();
    }

    /// Says something of the supervisor's own on standard error, if there is somebody to say it to.
    pub(crate) fn say(&mut self, text: &str) {
        if let Some(console) = &mut self.console {
            console.say(text);
        }
    }

    /// Says something of the supervisor's own among a service's lines.
    pub(crate) fn remark(&mut self, id: ServiceId, text: &str) {
        let time = record::now();
        self.records.clear();
        let text = crate::plain::line(text);
        self.records.extend(record::remark(&time, &text));
        self.deliver(id, &time);
    }

    /// Takes what has come, a piece from each pipe at most.
    pub(crate) fn turn(&mut self) -> Result<(), OutputError> {
        let mut events = [EpollEvent::empty(); 64];
        let count = match self.epoll.wait(&mut events, EpollTimeout::ZERO) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR) => 0,
            Err(errno) => return Err(system("wait for events")(errno)),
        };
        for event in &events[..count] {
            match EpollToken::unpack(event.data()) {
                Some(EpollToken::Pipe(number, which)) => drop(self.read(number, which)),
                Some(EpollToken::Syslog(number)) => drop(self.hear(number)),
                Some(EpollToken::LogDaemon(number)) => self.room(number),
                // The console's alone are left.
                _ => {}
            }
        }
        self.show();
        Ok(())
    }

    /// All services have ended: the last lines go where they can still go.
    pub(crate) fn finish(&mut self) {
        let mut patience = LAST_WAIT;
        let all: Vec<ServiceId> = self.each.keys().copied().collect();
        for id in all {
            self.ended(id);
            while let Some(of) = self.each.get_mut(&id).filter(|of| !of.waiting.is_empty()) {
                let To::Daemon(connection) = &of.to else {
                    break;
                };
                let mut asked = [PollFd::new(&connection.socket, PollFlags::OUT)];
                match rustix::event::poll(&mut asked, Some(&patience)) {
                    Err(Errno::INTR) => {}
                    Ok(1..) => self.room(id),
                    _ => {
                        let lines = memchr_iter(b'\n', &of.waiting).count();
                        tracing::warn!(
                            service = of.name,
                            "{lines} lines were lost: its log daemon does not answer"
                        );
                        of.waiting.clear();
                        // Not again for each service.
                        patience = Timespec::default();
                    }
                }
            }
        }
        if let Some(console) = &mut self.console {
            console.finish();
        }
    }

    fn show(&mut self) {
        if let Some(console) = &mut self.console {
            console.flush();
        }
    }

    /// One piece of a pipe; `false` if there is no more at present.
    fn read(&mut self, number: ServiceId, which: OutputStream) -> bool {
        let Some(of) = self.each.get_mut(&number) else {
            return false;
        };
        let Some(pipe) = &of.pipes[which.index()] else {
            return false;
        };
        let read = match rustix::io::read(pipe, &mut self.buffer) {
            Ok(read) => read,
            Err(Errno::AGAIN | Errno::INTR) => return false,
            Err(_) => 0,
        };
        if read == 0 {
            self.close(number, which);
            return false;
        }
        let time = record::now();
        self.records.clear();
        let stream = &mut of.streams[which.index()];
        let bytes = &self.buffer[..read];
        match &mut self.console {
            Some(console) => stream.take(bytes, &time, &mut self.records, |line| {
                console.line(number.number() as usize, &of.name, line)
            }),
            None => stream.take(bytes, &time, &mut self.records, |_| {}),
        }
        self.deliver(number, &time);
        true
    }

    /// What was said by syslog(3), no more of it at once than of a pipe; `false` if there is no more at present.
    fn hear(&mut self, number: ServiceId) -> bool {
        let Some(of) = self.each.get_mut(&number) else {
            return false;
        };
        let Some(socket) = &of.messages else { return false };
        let time = record::now();
        self.records.clear();
        let (mut left, mut more) = (MOST_MESSAGES, true);
        while left > 0 && self.records.len() < PIECE {
            let Some(length) = syslog::hear(socket, &mut self.buffer) else {
                more = false;
                break;
            };
            left -= 1;
            let said = syslog::parse(&self.buffer[..length]);
            let mut stream = Stream::new(STREAMS[usize::from(said.warns())]);
            let console = &mut self.console;
            stream.take(&said.lines(), &time, &mut self.records, |line| {
                if let Some(console) = console {
                    console.line(number.number() as usize, &of.name, line);
                }
            });
        }
        if left < MOST_MESSAGES {
            self.deliver(number, &time);
        }
        more
    }

    fn close(&mut self, number: ServiceId, which: OutputStream) {
        let Some(of) = self.each.get_mut(&number) else { return };
        if let Some(pipe) = of.pipes[which.index()].take() {
            let _ = self.epoll.delete(&pipe);
        }
        let time = record::now();
        self.records.clear();
        let console = &mut self.console;
        of.streams[which.index()].end(&time, &mut self.records, |line| {
            if let Some(console) = console {
                console.line(number.number() as usize, &of.name, line);
            }
        });
        self.deliver(number, &time);
    }

    /// Passes on the records that were just made.
    fn deliver(&mut self, number: ServiceId, time: &str) {
        let Some(of) = self.each.get_mut(&number) else { return };
        let was_waiting = !of.waiting.is_empty();
        of.deliver(&mut self.shelf, &self.records, time);
        // One that printed very short lines once should not cost their memory for ever.
        self.records.shrink_to(4 * PIECE);
        if !was_waiting && !of.waiting.is_empty() {
            self.watch(number);
        }
    }

    /// A log daemon can take more.
    fn room(&mut self, number: ServiceId) {
        let Some(of) = self.each.get_mut(&number) else { return };
        let records = std::mem::take(&mut of.waiting);
        of.deliver(&mut self.shelf, &records, &record::now());
        if of.waiting.is_empty() {
            self.watch(number);
        }
    }

    /// Reads a service's pipes, or waits for room at its log daemon: one of the two.
    fn watch(&mut self, number: ServiceId) {
        let Some(of) = self.each.get(&number) else { return };
        let (of_pipes, of_sink) = match of.waiting.is_empty() {
            true => (EpollFlags::EPOLLIN, EpollFlags::empty()),
            false => (EpollFlags::empty(), EpollFlags::EPOLLOUT),
        };
        for (which, pipe) in OutputStream::BOTH.into_iter().zip(&of.pipes) {
            if let Some(pipe) = pipe {
                let token = EpollToken::Pipe(number, which);
                let _ = self.epoll.modify(pipe, &mut token.event(of_pipes));
            }
        }
        if let Some(socket) = &of.messages {
            let _ = self
                .epoll
                .modify(socket, &mut EpollToken::Syslog(number).event(of_pipes));
        }
        if let To::Daemon(connection) = &of.to {
            let token = EpollToken::LogDaemon(number);
            let _ = self.epoll.modify(&connection.socket, &mut token.event(of_sink));
        }
    }
}

impl Output {
    fn deliver(&mut self, shelf: &mut Shelf, records: &[u8], time: &str) {
        if self.waiting.len() > MOST_WAITING {
            return self.lose(records, Errno::NOBUFS);
        }
        if !self.waiting.is_empty() {
            // Of a service that has ended, or ends again and again.
            return self.waiting.extend_from_slice(records);
        }
        if self.lost > 0 {
            let remark = record::remark(time, &format!("{} lines were lost: {}", self.lost, self.why));
            match self.put(shelf, &remark) {
                (_, None) => self.lost = 0,
                (_, Some(errno)) => return self.lose(records, errno),
            }
        }
        let (done, wrong) = self.put(shelf, records);
        match wrong {
            None => {}
            Some(Errno::AGAIN) => self.waiting.extend_from_slice(&records[done..]),
            Some(errno) => self.lose(&records[done..], errno),
        }
    }

    fn put(&mut self, shelf: &mut Shelf, records: &[u8]) -> (usize, Option<Errno>) {
        match &mut self.to {
            To::File(log) => log.append(shelf, records),
            To::Daemon(connection) => connection.send(records),
            To::Nowhere => (records.len(), None),
        }
    }

    fn lose(&mut self, records: &[u8], errno: Errno) {
        if self.lost == 0 {
            tracing::warn!(service = self.name, "its output is lost: {errno}");
        }
        self.lost += memchr_iter(b'\n', records).count() as u64;
        self.why = nix::errno::Errno::from_raw(errno.raw_os_error()).desc().to_lowercase();
    }
}

/// A pipe whose reading end does not block.
fn pipe() -> Result<(OwnedFd, OwnedFd), OutputError> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(system("make a pipe"))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(system("prepare a pipe"))?;
    Ok((read, write))
}
