//! The user's terminal: whether there is one, tables on it, and a program's terminal relayed to it.

use comfy_table::Table;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios};
use std::io::IsTerminal;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

pub(super) fn colour() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub(super) fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Columns with space between them and no lines, for people and for `awk`.
pub(super) fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    *table.style_mut() = comfy_table::presets::NOTHING;
    table.set_header(header);
    table
}

/// Do both ends of a conversation lead to a terminal?
pub(super) fn interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Signals to this process that are meant for the program it runs, as a descriptor to read them from.
pub(super) fn signals_for_the_program() -> std::io::Result<SignalFd> {
    use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
    taken(&[SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2])
}

fn taken(signals: &[Signal]) -> std::io::Result<SignalFd> {
    let mask: SigSet = signals.iter().copied().collect();
    mask.thread_block()?;
    Ok(SignalFd::with_flags(
        &mask,
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )?)
}

/// Leaves the caller's terminal and session; what is said from now on goes to `log`.
pub(super) fn become_daemon(log: &Path) -> std::io::Result<()> {
    rustix::process::setsid()?;
    std::env::set_current_dir("/")?;
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(log)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&log)?;
    rustix::stdio::dup2_stderr(&log)?;
    Ok(())
}

/// The terminal in raw mode, until this is dropped.
struct Raw {
    before: Termios,
}

impl Raw {
    fn enter() -> Result<Raw, Errno> {
        let stdin = std::io::stdin();
        let before = rustix::termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        Ok(Raw { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before);
    }
}

/// Copies between the user's terminal and a program's, and passes changes of size on, until `ended` has
/// something to say or the program's side closes.
pub(super) struct Relay {
    master: OwnedFd,
    signals: SignalFd,
    _raw: Raw,
}

impl Relay {
    pub(super) fn start(master: OwnedFd) -> std::io::Result<Relay> {
        let signals = taken(&[Signal::SIGWINCH])?;
        let relay = Relay {
            master,
            signals,
            _raw: Raw::enter()?,
        };
        relay.resize();
        Ok(relay)
    }

    fn resize(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin()) {
            let _ = rustix::termios::tcsetwinsize(&self.master, size);
        }
    }

    /// Relays until `ended` is readable or closed; what the program printed last is still to be [`Relay::drain`]ed.
    pub(super) fn until(&self, ended: BorrowedFd<'_>) -> std::io::Result<()> {
        let stdin = std::io::stdin();
        let mut typing = true;
        loop {
            let mut ready = [
                PollFd::new(&ended, PollFlags::IN),
                PollFd::new(&self.master, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
                PollFd::new(&stdin, PollFlags::IN),
            ];
            let watched = if typing { 4 } else { 3 };
            match rustix::event::poll(&mut ready[..watched], None) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            if !ready[2].revents().is_empty() {
                while let Ok(Some(_)) = self.signals.read_signal() {}
                self.resize();
            }
            if watched == 4 && !ready[3].revents().is_empty() {
                typing = copy(stdin.as_fd(), self.master.as_fd())?;
            }
            if !ready[1].revents().is_empty() && !copy(self.master.as_fd(), std::io::stdout().as_fd())? {
                return Ok(());
            }
            if !ready[0].revents().is_empty() {
                return Ok(());
            }
        }
    }

    /// Shows what is left of the program's output.
    pub(super) fn drain(&self) {
        let _ = rustix::io::ioctl_fionbio(&self.master, true);
        while copy(self.master.as_fd(), std::io::stdout().as_fd()).unwrap_or(false) {}
    }
}

/// Copies what there is; `false` at the end. A terminal whose other side is closed answers EIO.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> std::io::Result<bool> {
    let mut bytes = [0u8; 16 << 10];
    let read = match rustix::io::read(from, &mut bytes) {
        Ok(0) | Err(Errno::IO | Errno::AGAIN) => return Ok(false),
        Ok(read) => read,
        Err(Errno::INTR) => return Ok(true),
        Err(errno) => return Err(errno.into()),
    };
    let mut rest = &bytes[..read];
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = &rest[written..],
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(true)
}
