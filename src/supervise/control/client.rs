//! The control socket's client side: what `ps`, `down`, `restart` and `exec` speak through.

use super::protocol::{AppStatus, Hello, Progress, Reply, Request};
use crate::host::Dirs;
use crate::plan::{PlanError, lock};
use crate::supervise::stats::events::Event;
use crate::supervise::stats::usage::ServiceUsage;
use crate::sys;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("`{app}` is not up; start it with `pysecure up -d`")]
    NotUp { app: String },
    #[error("`{app}` went down before it had said what came of this; `pysecure ps` shows whether it is up again")]
    Ended { app: String },
    #[error("talk to the supervisor of `{app}`: {cause}")]
    Io {
        app: String,
        #[source]
        cause: io::Error,
    },
    /// Somebody has the app's data for himself, and does not answer.
    #[error(transparent)]
    Unreachable(#[from] PlanError),
    #[error("{0}")]
    Refused(String),
    /// The supervisor is another pysecure's, and does not know what is asked.
    #[error("`{app}`: {why}")]
    Apart { app: String, why: String },
    #[error("what became of it was not waited for")]
    Unheard,
}

pub struct Client {
    app: String,
    socket: OwnedFd,
    /// Read, and not looked at yet.
    heard: Vec<u8>,
    /// Who answers.
    supervisor: Hello,
}

impl Client {
    /// Connects, and learns what is spoken there.
    pub fn connect(dirs: &Dirs, app: &str) -> Result<Client, ClientError> {
        let mut client = Client::over(reach(dirs, app, &dirs.socket())?, app);
        client.send(&Request::Hello(Hello::own()), &[])?;
        match client.reply() {
            Ok(reply) => client.supervisor = reply.hello.unwrap_or_else(Hello::unsaid),
            // One of version 0 has no such request, and closes the connection.
            Err(ClientError::Refused(why)) if why.starts_with("not a request") => {
                client = Client::over(reach(dirs, app, &dirs.socket())?, app);
            }
            Err(ClientError::Refused(why)) => {
                let app = app.to_owned();
                return Err(ClientError::Apart { app, why });
            }
            Err(error) => return Err(error),
        }
        match client.supervisor.understands(&Hello::own()) {
            true => Ok(client),
            false => Err(client.apart()),
        }
    }

    /// Over a socket whose other end is not a supervisor's, but speaks a session all the same.
    pub fn over(socket: OwnedFd, app: &str) -> Client {
        Client {
            app: app.to_owned(),
            socket,
            heard: Vec::new(),
            supervisor: Hello::unsaid(),
        }
    }

    /// Does the supervisor know what came with this version of the protocol?
    pub fn require(&self, version: u32) -> Result<(), ClientError> {
        match self.supervisor.version >= version {
            true => Ok(()),
            false => Err(self.apart()),
        }
    }

    fn apart(&self) -> ClientError {
        ClientError::Apart {
            app: self.app.clone(),
            why: self.supervisor.apart_from(&Hello::own()),
        }
    }

    fn io(&self, cause: impl Into<io::Error>) -> ClientError {
        let (app, cause) = (self.app.clone(), cause.into());
        match cause.kind() {
            // It ended after the connection was made and before it answered.
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ClientError::NotUp { app },
            _ => ClientError::Io { app, cause },
        }
    }

    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Sends a request, and descriptors with it.
    pub fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(request).map_err(|e| self.io(io::Error::other(e)))?;
        line.push(b'\n');
        let sent = sys::send_fds(self.socket.as_fd(), &line, fds, SendFlags::empty()).map_err(|e| self.io(e))?;
        let mut rest = &line[sent..];
        while !rest.is_empty() {
            let sent = rustix::net::send(&self.socket, rest, SendFlags::NOSIGNAL).map_err(|e| self.io(e))?;
            rest = &rest[sent..];
        }
        Ok(())
    }

    /// The next line that the supervisor says; `None` if it has no more to say.
    fn line(&mut self) -> Result<Option<Vec<u8>>, ClientError> {
        let mut bytes = [0u8; 16 << 10];
        let mut seen = 0;
        loop {
            if let Some(end) = self.heard[seen..].iter().position(|b| *b == b'\n') {
                return Ok(Some(self.heard.drain(..=seen + end).collect()));
            }
            seen = self.heard.len();
            match rustix::io::read(&self.socket, &mut bytes) {
                Ok(0) => return Ok(None),
                Ok(read) => self.heard.extend_from_slice(&bytes[..read]),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.io(errno)),
            }
        }
    }

    fn reply(&mut self) -> Result<Reply, ClientError> {
        let line = self
            .line()?
            .ok_or_else(|| self.io(io::Error::from(io::ErrorKind::ConnectionReset)))?;
        let reply: Reply = serde_json::from_slice(&line).map_err(|e| self.io(io::Error::other(e)))?;
        match reply.error {
            Some(error) => Err(ClientError::Refused(error)),
            None => Ok(reply),
        }
    }

    pub fn status(&mut self) -> Result<AppStatus, ClientError> {
        self.send(&Request::Ps, &[])?;
        let app = self.reply()?.app;
        app.ok_or_else(|| self.io(io::Error::other("it answered without a status")))
    }

    /// [`Client::status`], but for fingerprints, where the supervisor knows how.
    pub fn states(&mut self) -> Result<AppStatus, ClientError> {
        if self.require(Request::States.since()).is_err() {
            return self.status();
        }
        self.send(&Request::States, &[])?;
        let app = self.reply()?.app;
        app.ok_or_else(|| self.io(io::Error::other("it answered without a status")))
    }

    pub fn stats(&mut self) -> Result<Vec<ServiceUsage>, ClientError> {
        self.send(&Request::Stats, &[])?;
        let stats = self.reply()?.stats;
        stats.ok_or_else(|| self.io(io::Error::other("it answered without figures")))
    }

    /// Returns when all services have ended and the supervisor with them.
    pub fn down(&mut self, timeout: Option<Duration>) -> Result<(), ClientError> {
        let timeout_ms = timeout.map(|t| t.as_millis() as u64);
        self.send(&Request::Down { timeout_ms }, &[])?;
        self.reply().map(drop)
    }

    /// Asks for a change, and hears how it goes until it is done. `wait` is asked before each wait for more, and may wait
    /// itself until there is some; if it says no, nobody wants to hear the rest.
    pub fn change(
        &mut self,
        request: &Request,
        mut each: impl FnMut(Progress),
        wait: &mut dyn FnMut(BorrowedFd<'_>) -> bool,
    ) -> Result<(), ClientError> {
        // It was up a moment ago.
        let app = self.app.clone();
        let ended = |e| match e {
            ClientError::NotUp { .. } => ClientError::Ended { app: app.clone() },
            other => other,
        };
        self.require(request.since())?;
        self.send(request, &[]).map_err(ended)?;
        loop {
            if !self.heard.contains(&b'\n') && !wait(self.socket.as_fd()) {
                return Err(ClientError::Unheard);
            }
            let Some(line) = self.line().map_err(ended)? else {
                return Err(ClientError::Ended { app });
            };
            match serde_json::from_slice(&line) {
                Ok(Progress::Done) => return Ok(()),
                Ok(progress) => each(progress),
                Err(_) => {
                    let reply: Reply = serde_json::from_slice(&line).map_err(|e| self.io(io::Error::other(e)))?;
                    if let Some(error) = reply.error {
                        return Err(ClientError::Refused(error));
                    }
                }
            }
        }
    }

    /// Hears of all that happens from now on, until the app is down or `each` has heard enough.
    pub fn events(&mut self, mut each: impl FnMut(Event) -> bool) -> Result<(), ClientError> {
        self.hear_events()?;
        while let Some(event) = self.event()? {
            if !each(event) {
                break;
            }
        }
        Ok(())
    }

    /// From when this returns, nothing that happens is missed by [`Client::event`].
    pub fn hear_events(&mut self) -> Result<(), ClientError> {
        self.send(&Request::Events, &[])?;
        self.reply()?;
        tracing::debug!("hearing of events");
        Ok(())
    }

    /// The next event; `None` if the app is down.
    pub fn event(&mut self) -> Result<Option<Event>, ClientError> {
        let Some(line) = self.line()? else { return Ok(None) };
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|e| self.io(io::Error::other(e)))
    }

    /// The next message of an exec session: kind, number, text and a descriptor if one came.
    pub fn session_message(&self) -> Result<(u32, u32, String, Option<OwnedFd>), ClientError> {
        let mut head = [0u8; 12];
        let mut fd = None;
        let mut filled = 0;
        while filled < head.len() {
            match sys::receive_when_there(self.socket.as_fd(), &mut head[filled..]) {
                Ok(received) if received.bytes == 0 => {
                    return Err(self.io(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the session ended without a word; is the service still up?",
                    )));
                }
                Ok(received) => {
                    filled += received.bytes;
                    fd = fd.or(received.fd);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.io(errno)),
            }
        }
        let word = |at: usize| u32::from_ne_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut text = vec![0u8; (word(8) as usize).min(64 << 10)];
        let mut filled = 0;
        while filled < text.len() {
            match rustix::io::read(&self.socket, &mut text[filled..]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.io(errno)),
            }
        }
        Ok((
            word(0),
            word(4),
            String::from_utf8_lossy(&text[..filled]).into_owned(),
            fd,
        ))
    }
}

/// A connection to where metrics are asked for.
pub fn metrics(dirs: &Dirs, app: &str) -> Result<OwnedFd, ClientError> {
    reach(dirs, app, &dirs.metrics())
}

/// Where there is nobody to answer, the app's lock tells whether it is up all the same: its sockets may have been deleted.
fn reach(dirs: &Dirs, app: &str, path: &Path) -> Result<OwnedFd, ClientError> {
    let cause = match connect(path) {
        Ok(socket) => return Ok(socket),
        Err(cause) => cause,
    };
    match cause.raw_os_error() {
        Some(libc::ENOENT | libc::ECONNREFUSED | libc::ENOTDIR) => {}
        _ => {
            return Err(ClientError::Io {
                app: app.to_owned(),
                cause,
            });
        }
    }
    let Some(holder) = lock::holder(dirs)? else {
        return Err(ClientError::NotUp { app: app.to_owned() });
    };
    // It may have them elsewhere, where another environment said so.
    let elsewhere = holder.as_ref().and_then(|h| h.socket.as_deref()?.parent());
    if let Some(elsewhere) = elsewhere.filter(|e| *e != dirs.run)
        && let Ok(socket) = connect(&elsewhere.join(path.file_name().unwrap_or_default()))
    {
        return Ok(socket);
    }
    // One that ends removes its sockets first, and one whose sockets were deleted makes them again.
    for _ in 0..50 {
        std::thread::sleep(Duration::from_millis(10));
        if let Ok(socket) = connect(path) {
            return Ok(socket);
        }
        if lock::holder(dirs)?.is_none() {
            return Err(ClientError::NotUp { app: app.to_owned() });
        }
    }
    Err(lock::busy(dirs, holder.as_ref()).into())
}

fn connect(path: &Path) -> io::Result<OwnedFd> {
    let folder = rustix::fs::open(
        path.parent().unwrap_or(Path::new("/")),
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    // Named by descriptor: sockaddr_un holds 108 bytes.
    let short = Path::new("/proc/self/fd")
        .join(folder.as_raw_fd().to_string())
        .join(path.file_name().unwrap_or_default());
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(&short)?)?;
    // Terminals and descriptors are handed to whoever answers.
    if rustix::net::sockopt::socket_peercred(&socket)?.uid != rustix::process::geteuid() {
        return Err(io::Error::other(format!("{} is another user's", path.display())));
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixListener;
    use std::thread::JoinHandle;

    /// A supervisor that answers as `answer` says, which also says whether the connection stays open, for so many
    /// connections; what it was asked comes back.
    fn supervisor(
        folder: &Path,
        connections: usize,
        answer: fn(&str) -> (&'static str, bool),
    ) -> (Dirs, JoinHandle<Vec<String>>) {
        let dirs = Dirs {
            state: folder.to_owned(),
            app: folder.to_owned(),
            run: folder.to_owned(),
            external: folder.to_owned(),
        };
        let listener = UnixListener::bind(dirs.socket()).unwrap();
        let answers = move || {
            let mut asked = Vec::new();
            for socket in listener.incoming().take(connections) {
                let mut socket = socket.unwrap();
                for line in BufReader::new(socket.try_clone().unwrap()).lines() {
                    let line = line.unwrap();
                    let (answer, stays) = answer(&line);
                    asked.push(line);
                    socket.write_all(answer.as_bytes()).unwrap();
                    if !stays {
                        break;
                    }
                }
            }
            asked
        };
        (dirs, std::thread::spawn(answers))
    }

    const PS_ANSWER: &str = include_str!("../../../tests/control-version-0/ps-answer.json");
    const HELLO_ANSWER: &str = include_str!("../../../tests/control-version-0/hello-answer.json");

    /// It closes the connection of whoever says what it does not know.
    fn version_0(line: &str) -> (&'static str, bool) {
        match line {
            r#"{"do":"ps"}"# => (PS_ANSWER, true),
            r#"{"do":"down","timeout_ms":null}"# => ("{}\n", true),
            _ => (HELLO_ANSWER, false),
        }
    }

    #[test]
    fn a_supervisor_of_before_there_were_versions_is_understood_or_it_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let (dirs, asked) = supervisor(folder.path(), 2, version_0);
        let mut client = Client::connect(&dirs, "recorded").unwrap();
        let status = client.status().unwrap();
        assert_eq!(
            (status.services[0].state.as_str(), status.services[0].pid),
            ("running", Some(7))
        );
        assert!(status.resources.is_none() && status.services[0].fingerprints.is_none());
        let apply = serde_json::json!({
            "do": "apply", "order": [], "services": [], "templates": {}, "places": [], "resources": "0", "shared": [],
        });
        let apply = serde_json::from_value(apply).unwrap();
        let error = client.change(&apply, |_| (), &mut |_| true).unwrap_err().to_string();
        for told in [
            "`recorded`",
            "version 0",
            "version 3",
            "`pysecure down && pysecure up -d`",
        ] {
            assert!(error.contains(told), "{error}");
        }
        client.down(None).unwrap();
        drop(client);
        let asked = asked.join().unwrap();
        assert!(asked[0].starts_with(r#"{"do":"hello","version":3,"#), "{asked:?}");
        assert_eq!(asked[1..], [r#"{"do":"ps"}"#, r#"{"do":"down","timeout_ms":null}"#]);
    }

    #[test]
    fn a_newer_supervisor_is_understood_if_it_says_so() {
        let newer = |line: &str| {
            let answer = match line {
                r#"{"do":"ps"}"# => PS_ANSWER,
                _ => {
                    "{\"hello\":{\"version\":9,\"minimum\":1,\"pysecure\":\"9.0.0\",\"colour\":\"blue\"},\"more\":[]}\n"
                }
            };
            (answer, true)
        };
        let folder = tempfile::tempdir().unwrap();
        let (dirs, asked) = supervisor(folder.path(), 1, newer);
        let mut client = Client::connect(&dirs, "newer").unwrap();
        assert_eq!(client.status().unwrap().app, "recorded");
        drop(client);
        assert_eq!(asked.join().unwrap().len(), 2);
        let apart = |_: &str| {
            (
                "{\"hello\":{\"version\":9,\"minimum\":8,\"pysecure\":\"9.0.0\"}}\n",
                true,
            )
        };
        let folder = tempfile::tempdir().unwrap();
        let (dirs, asked) = supervisor(folder.path(), 1, apart);
        let error = Client::connect(&dirs, "newer").err().unwrap().to_string();
        asked.join().unwrap();
        for told in [
            "pysecure 9.0.0",
            "version 9",
            "version 3",
            "`pysecure down && pysecure up -d`",
        ] {
            assert!(error.contains(told), "{error}");
        }
    }
}
