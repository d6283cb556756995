//! Lines of many services on one terminal: each with its service's name, in a colour of its own where there
//! is a terminal that shows one.
//!
//! The terminal, or whatever stands in its place, may be slow, stuck or gone. That is no reason to hold up a
//! service: what it does not take is kept up to a bound, and then left out and counted.

use super::escape::write_shown;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use std::io::{IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Colours that read on dark and on light ground.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

/// Bytes that wait for a slow reader.
const MOST_WAITING: usize = 256 << 10;

/// Written at once where nothing but poll(2) says that there is room; pipe(7), PIPE_BUF.
const ONE_PIECE: usize = 4096;

/// How long a reader may take for the next piece when all else is done.
const LAST_WAIT: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// How lines look.
pub struct Lines {
    width: usize,
    coloured: bool,
}

impl Lines {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Lines {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Lines {
            width: names.map(str::len).max().unwrap_or(0),
            coloured,
        }
    }

    /// Appends a line of the service that stands `number`th in the manifest. Of what a terminal would obey, colours alone reach
    /// one ([`super::escape`]), and nothing that would mislead its reader ([`crate::plain`]).
    pub fn write(&self, number: usize, name: &str, time: Option<&str>, text: &[u8], out: &mut Vec<u8>) {
        let width = self.width;
        // Writing to memory does not fail.
        let _ = if self.coloured {
            let colour = COLOURS[number % COLOURS.len()];
            write!(out, "\x1b[{colour}m{name:width$} |\x1b[0m ")
        } else {
            write!(out, "{name:width$} | ")
        };
        if let Some(time) = time {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        write_shown(without_return(text), self.coloured, out);
        out.push(b'\n');
    }
}

/// A line of a service as it may be shown elsewhere than behind its name: without escape sequences.
pub fn line(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    write_shown(without_return(text), false, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn without_return(text: &[u8]) -> &[u8] {
    text.strip_suffix(b"\r").unwrap_or(text)
}

/// Words of a service, which are no lines of its log, as they may be shown: what is hidden in them is shown to be there.
pub fn shown(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    printable(text, &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

fn printable(text: &[u8], out: &mut Vec<u8>) {
    let text = without_return(text);
    if text.iter().all(|b| matches!(b, b' '..=b'~' | b'\t')) {
        return out.extend_from_slice(text);
    }
    let mut bytes = [0; 4];
    for c in String::from_utf8_lossy(text).chars() {
        let visible = if crate::plain::is_hidden(c) && c != '\t' {
            '\u{fffd}'
        } else {
            c
        };
        out.extend_from_slice(visible.encode_utf8(&mut bytes).as_bytes());
    }
}

/// Where an `up` in the foreground shows its services.
pub(in crate::supervise) struct Console {
    lines: Lines,
    out: Outlet,
    err: Outlet,
    /// Lines that were left out since the last one that was not.
    unseen: u64,
}

impl Console {
    pub(in crate::supervise) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Console {
        Console {
            lines: Lines::new(names),
            out: Outlet::new(rustix::stdio::stdout()),
            err: Outlet::new(rustix::stdio::stderr()),
            unseen: 0,
        }
    }

    /// Shows a line of the service that stands `number`th in the manifest, or counts it.
    pub(in crate::supervise) fn line(&mut self, number: usize, name: &str, text: &[u8]) {
        if self.out.waiting() >= MOST_WAITING {
            self.unseen += 1;
            return;
        }
        self.own_up();
        if self.unseen > 0 {
            self.unseen += 1;
        } else {
            self.lines.write(number, name, None, text, &mut self.out.bytes);
        }
    }

    /// Says something of the supervisor's own, on standard error.
    pub(in crate::supervise) fn say(&mut self, text: &str) {
        if self.err.waiting() < MOST_WAITING {
            self.err.bytes.extend_from_slice(crate::plain::lines(text).as_bytes());
            self.err.bytes.push(b'\n');
        }
        self.err.flush();
    }

    /// Says how much is missing, when there is room to go on.
    fn own_up(&mut self) {
        if self.unseen > 0 && self.out.waiting() < MOST_WAITING / 2 {
            let _ = writeln!(self.out.bytes, "… {} lines not shown; see `pysecure logs`", self.unseen);
            self.unseen = 0;
        }
    }

    /// Shows what can be shown now.
    pub(in crate::supervise) fn flush(&mut self) {
        self.out.flush();
        if self.unseen > 0 {
            self.own_up();
            self.out.flush();
        }
        self.err.flush();
    }

    /// What is worth watching for room, edge-triggered.
    pub(in crate::supervise) fn outlets(&self) -> [BorrowedFd<'_>; 2] {
        [self.out.fd(), self.err.fd()]
    }

    /// Shows the rest, as long as its reader goes on reading.
    pub(in crate::supervise) fn finish(&mut self) {
        self.flush();
        while self.out.wait_for_room() {
            self.flush();
        }
        let rest = memchr::memchr_iter(b'\n', &self.out.bytes[self.out.sent..]).count() as u64;
        if rest + self.unseen > 0 {
            self.say(&format!("{} lines not shown; see `pysecure logs`", rest + self.unseen));
        }
        while self.err.wait_for_room() {
            self.err.flush();
        }
    }
}

/// How a descriptor is written to without waiting for whoever reads it.
enum Way {
    /// Opened anew, for this process alone: to set O_NONBLOCK on what was handed down would set it for the
    /// user's shell as well.
    Own(OwnedFd),
    Socket,
    /// A disk: nobody reads it.
    File,
    /// Asked before each piece.
    Asked,
    Gone,
}

struct Outlet {
    given: BorrowedFd<'static>,
    way: Way,
    bytes: Vec<u8>,
    /// How much of them is written.
    sent: usize,
}

impl Outlet {
    fn new(given: BorrowedFd<'static>) -> Outlet {
        let kind = rustix::fs::fstat(given).map(|s| FileType::from_raw_mode(s.st_mode));
        let way = match kind {
            Err(_) => Way::Gone,
            Ok(FileType::RegularFile) => Way::File,
            Ok(FileType::Socket) => Way::Socket,
            Ok(_) => {
                let path = format!("/proc/self/fd/{}", given.as_raw_fd());
                let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
                rustix::fs::open(path, flags, Mode::empty()).map_or(Way::Asked, Way::Own)
            }
        };
        Outlet {
            given,
            way,
            bytes: Vec::new(),
            sent: 0,
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Own(fd) => fd.as_fd(),
            _ => self.given,
        }
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.sent
    }

    fn flush(&mut self) {
        while self.sent < self.bytes.len() {
            match self.write() {
                Ok(written) => self.sent += written,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    // Not at each piece: that would move all of it each time.
                    if self.sent > MOST_WAITING / 4 {
                        self.bytes.drain(..self.sent);
                        self.sent = 0;
                    }
                    return;
                }
                Err(errno) => {
                    // A reader that is gone is no reason to stop the services; a full disk may have room later.
                    if errno != Errno::NOSPC {
                        self.way = Way::Gone;
                    }
                    self.sent = self.bytes.len();
                }
            }
        }
        self.bytes.clear();
        self.sent = 0;
    }

    fn write(&self) -> Result<usize, Errno> {
        let rest = &self.bytes[self.sent..];
        match &self.way {
            Way::Own(fd) => rustix::io::write(fd, rest),
            Way::File => rustix::io::write(self.given, rest),
            Way::Socket => {
                use rustix::net::SendFlags;
                rustix::net::send(self.given, rest, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)
            }
            Way::Asked => {
                let mut asked = [PollFd::from_borrowed_fd(self.given, PollFlags::OUT)];
                match rustix::event::poll(&mut asked, Some(&Timespec::default()))? {
                    0 => Err(Errno::AGAIN),
                    _ => rustix::io::write(self.given, &rest[..rest.len().min(ONE_PIECE)]),
                }
            }
            Way::Gone => Ok(rest.len()),
        }
    }

    /// Is something left, and did its reader make room for it?
    fn wait_for_room(&self) -> bool {
        if self.waiting() == 0 {
            return false;
        }
        let fd = self.fd();
        let mut asked = [PollFd::from_borrowed_fd(fd, PollFlags::OUT)];
        loop {
            match rustix::event::poll(&mut asked, Some(&LAST_WAIT)) {
                Err(Errno::INTR) => {}
                other => return other.is_ok_and(|ready| ready > 0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8]) -> String {
        let mut out = Vec::new();
        printable(text, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn nothing_that_a_terminal_would_obey() {
        assert_eq!(shown(b"plain\ttext\r"), "plain\ttext");
        assert_eq!(shown(b"\x1b[2Jx"), "\u{fffd}[2Jx");
        assert_eq!(
            shown("käse\u{9b}\u{202e}\u{2028}".as_bytes()),
            "käse\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(shown(b"\xff"), "\u{fffd}");
    }

    /// The end that is read, and an outlet to the one that is written. It stays open: outlets are standard streams.
    fn outlet(way: fn(OwnedFd) -> Way, socket: bool) -> (OwnedFd, Outlet) {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (read, write) = if socket {
            socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::empty(), None).unwrap()
        } else {
            rustix::pipe::pipe().unwrap()
        };
        let given: &'static OwnedFd = Box::leak(Box::new(write));
        let outlet = Outlet {
            given: given.as_fd(),
            way: way(given.try_clone().unwrap()),
            bytes: Vec::new(),
            sent: 0,
        };
        (read, outlet)
    }

    #[test]
    fn what_a_stuck_reader_misses_is_counted() {
        let own = |fd: OwnedFd| {
            let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
            let flags = OFlags::WRONLY | OFlags::NONBLOCK;
            Way::Own(rustix::fs::open(path, flags, Mode::empty()).unwrap())
        };
        // The descriptors themselves block; none of the ways may.
        stuck(outlet(own, false));
        stuck(outlet(|_| Way::Asked, false));
        stuck(outlet(|_| Way::Socket, true));
    }

    fn stuck((read, out): (OwnedFd, Outlet)) {
        let (_, mut err) = outlet(|_| Way::Gone, false);
        err.flush();
        let mut console = Console {
            lines: Lines {
                width: 1,
                coloured: false,
            },
            out,
            err,
            unseen: 0,
        };
        let mut given = 0;
        while console.unseen < 1000 {
            console.line(0, "a", format!("{given:060}").as_bytes());
            console.flush();
            given += 1;
        }
        assert!(console.out.bytes.capacity() < 4 * MOST_WAITING);
        let mut seen = Vec::new();
        let mut bytes = [0; 4096];
        while console.out.waiting() > 0 || console.unseen > 0 {
            let read = rustix::io::read(&read, &mut bytes).unwrap();
            seen.extend_from_slice(&bytes[..read]);
            console.flush();
        }
        rustix::io::ioctl_fionbio(&read, true).unwrap();
        while let Ok(read) = rustix::io::read(&read, &mut bytes) {
            seen.extend_from_slice(&bytes[..read]);
        }
        let seen = String::from_utf8(seen).unwrap();
        let lines: Vec<&str> = seen.lines().collect();
        let shown = given - 1000;
        assert_eq!(lines.len(), shown + 1);
        assert!(lines[..shown].iter().all(|l| l.starts_with("a | 0")));
        assert_eq!(lines[shown], "… 1000 lines not shown; see `pysecure logs`");
    }
}
