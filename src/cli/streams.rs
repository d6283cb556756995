//! The three streams that a program without a terminal gets from whoever calls: such as it can open by path (/dev/stdout).
//!
//! A path to a descriptor is opened like a file: by the caller's id a pipe or a file of his is his alone, and a file lies
//! outside of all that the program's rules name. So a pipe is opened to it, as far as it is used; a file or a terminal that is
//! printed to, and a file that is read, become a pipe of ours, and this end copies. What was read and not taken goes back.

use crate::launch::is_null;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, Mode, Stat};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// statfs(2): what has no name on any disk.
const PIPEFS: u64 = 0x5049_5045;
/// Copied at once.
const PIECE: usize = 64 << 10;

pub(super) struct Streams {
    /// For the program, until it has them. `None`: the caller's own.
    lent: [Option<OwnedFd>; 3],
    /// What it prints, and the number of the stream that this goes to.
    out: Vec<(OwnedFd, u32)>,
    input: Option<Input>,
}

/// A file of the caller's, copied into a pipe.
struct Input {
    /// Gone at the file's end, so that the program sees that.
    pipe: Option<OwnedFd>,
    /// Its other end, which knows what was not taken.
    taken: OwnedFd,
    /// Read and not written yet.
    rest: Vec<u8>,
}

impl Streams {
    pub(super) fn new() -> std::io::Result<Streams> {
        let mut streams = Streams {
            lent: [None, None, None],
            out: Vec::new(),
            input: None,
        };
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let found = rustix::fs::fstat(&stdin)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::RegularFile {
            let (read, write) = pipe(0o604)?;
            rustix::io::ioctl_fionbio(&write, true)?;
            streams.input = Some(Input {
                pipe: Some(write),
                taken: read.try_clone()?,
                rest: Vec::new(),
            });
            streams.lent[0] = Some(read);
        } else {
            open_to_its_reader(stdin.as_fd(), &found, 0o004);
        }
        let of = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd);
        let (out, err) = (of(stdout.as_fd())?, of(stderr.as_fd())?);
        for (number, fd, found) in [(1, stdout.as_fd(), &out), (2, stderr.as_fd(), &err)] {
            // The program gets its own.
            if is_null(fd) || open_to_its_reader(fd, found, 0o002) {
                continue;
            }
            let same = (out.st_dev, out.st_ino) == (err.st_dev, err.st_ino);
            if number == 2
                && same
                && let Some(lent) = &streams.lent[1]
            {
                // One after the other, as they are printed.
                streams.lent[2] = Some(lent.try_clone()?);
                continue;
            }
            let (read, write) = pipe(0o602)?;
            rustix::io::ioctl_fionbio(&read, true)?;
            streams.lent[number as usize] = Some(write);
            streams.out.push((read, number));
        }
        Ok(streams)
    }

    /// Calls this with what the program is to have.
    pub(super) fn lend<T>(&self, to: impl FnOnce([BorrowedFd<'_>; 3]) -> T) -> T {
        let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
        let callers = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
        let mut all = callers;
        for (place, lent) in all.iter_mut().zip(&self.lent) {
            if let Some(fd) = lent {
                *place = fd.as_fd();
            }
        }
        to(all)
    }

    /// The program has its own: with these ends it would never see an end.
    pub(super) fn lent(&mut self) {
        self.lent = [None, None, None];
    }

    /// Copies until one of these is readable or closed.
    pub(super) fn until(&mut self, watched: &[BorrowedFd<'_>]) -> std::io::Result<()> {
        loop {
            let mut ready: Vec<PollFd<'_>> = watched
                .iter()
                .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
                .collect();
            let outs = ready.len();
            ready.extend(self.out.iter().map(|(fd, _)| PollFd::new(fd, PollFlags::IN)));
            let input = ready.len();
            let pipe = self.input.iter().flat_map(|of| &of.pipe);
            ready.extend(pipe.map(|pipe| PollFd::new(pipe, PollFlags::OUT)));
            match rustix::event::poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let is: Vec<bool> = ready.iter().map(|of| !of.revents().is_empty()).collect();
            drop(ready);
            if is[input..].contains(&true) {
                self.feed();
            }
            let mut at = outs;
            self.out.retain(|(pipe, to)| {
                at += 1;
                !is[at - 1] || pass(pipe, *to)
            });
            if is[..outs].contains(&true) {
                return Ok(());
            }
        }
    }

    /// The program has ended: what it printed last is passed on, and what it did not read is left to be read.
    pub(super) fn finish(&mut self) {
        self.out.retain(|(pipe, to)| {
            while let Ok(unread @ 1..) = rustix::io::ioctl_fionread(pipe) {
                if unread == 0 || !pass(pipe, *to) {
                    break;
                }
            }
            false
        });
        if let Some(Input { taken, rest, .. }) = self.input.take() {
            let unread = rustix::io::ioctl_fionread(&taken).unwrap_or(0) + rest.len() as u64;
            if unread > 0 {
                let back = rustix::fs::SeekFrom::Current(-(unread as i64));
                let _ = rustix::fs::seek(std::io::stdin(), back);
            }
        }
    }

    /// One piece of the caller's file, as far as there is room for it.
    fn feed(&mut self) {
        let Some(input) = &mut self.input else { return };
        let Some(pipe) = &input.pipe else { return };
        if input.rest.is_empty() {
            input.rest.resize(PIECE, 0);
            let read = rustix::io::read(std::io::stdin(), &mut input.rest[..]).unwrap_or(0);
            input.rest.truncate(read);
        }
        match rustix::io::write(pipe, &input.rest) {
            Ok(0) => input.pipe = None,
            Ok(written) => drop(input.rest.drain(..written)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => input.pipe = None,
        }
    }
}

/// Passes on a piece; `false` when there will be no more, or nobody to whom it could go.
fn pass(pipe: &OwnedFd, to: u32) -> bool {
    let mut bytes = [0u8; PIECE];
    let read = match rustix::io::read(pipe, &mut bytes) {
        Ok(0) => return false,
        Ok(read) => read,
        Err(Errno::AGAIN | Errno::INTR) => return true,
        Err(_) => return false,
    };
    let (stdout, stderr) = (std::io::stdout(), std::io::stderr());
    let to = if to == 1 { stdout.as_fd() } else { stderr.as_fd() };
    let mut rest = &bytes[..read];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                let mut room = [PollFd::new(&to, PollFlags::OUT)];
                let _ = rustix::event::poll(&mut room, None);
            }
            Err(_) => return false,
        }
    }
    true
}

/// Lets whoever holds a pipe open it by its path, to read or to write and no more: it has no other path.
fn open_to_its_reader(fd: BorrowedFd<'_>, found: &Stat, mode: u32) -> bool {
    let of_pipes = || rustix::fs::fstatfs(fd).is_ok_and(|of| of.f_type as u64 == PIPEFS);
    FileType::from_raw_mode(found.st_mode) == FileType::Fifo
        && of_pipes()
        && rustix::fs::fchmod(fd, Mode::from_raw_mode(found.st_mode & 0o777 | mode)).is_ok()
}

fn pipe(mode: u32) -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fchmod(&read, Mode::from_raw_mode(mode))?;
    Ok((read, write))
}
