//! The outer namespace: how an ordinary user gets ids to give out.
//!
//! `pysecure` runs itself once more inside a user and mount namespace in which it is root and the user's
//! subordinate ids are mapped, by newuidmap(1) and newgidmap(1); from there on everything is as with the
//! host's root. A user without subordinate ids gets a namespace of one id. Follows user_namespaces(7),
//! subuid(5).
//!
//! The crate `unshare` does the clone, the maps and the exec: once a command, and nothing is shared with
//! the path on which services start.

use super::Privilege;
use super::idmap::Maps;
use super::subid::{self, Accounts};
use crate::cause::Reason;
use crate::sys::exit_status::exit_code;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::process::WaitOptions;
use std::ffi::OsString;
use std::path::PathBuf;

/// Tells the process inside that it is inside, and with how many ids.
const MARK: &str = "PYSECURE_OUTER";

#[derive(Debug, thiserror::Error)]
pub enum OuterError {
    #[error("make a user namespace: {0}; run `pysecure doctor` to see what this host lacks")]
    Unshare(#[source] Reason),
    #[error("wait for the process in the user namespace: {0}")]
    Signals(#[source] std::io::Error),
    #[error("find this program: {0}; mount /proc")]
    Own(#[source] std::io::Error),
}

/// With what ids this process may work, or `None` if it has to [`enter`] the outer namespace first.
pub fn privilege() -> Option<Privilege> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    match std::env::var(MARK).as_deref() {
        Ok("ids") => Some(Privilege::SubordinateIds),
        Ok("one") => Some(Privilege::OneId),
        _ => Some(Privilege::Root),
    }
}

/// Is this process inside the outer namespace?
pub fn inside() -> bool {
    std::env::var_os(MARK).is_some()
}

/// What [`enter`] would come to, found without entering.
pub fn expected() -> Privilege {
    privilege().unwrap_or_else(|| {
        if subordinate().is_some() {
            Privilege::SubordinateIds
        } else {
            Privilege::OneId
        }
    })
}

struct Subordinate {
    uids: Vec<subid::Range>,
    gids: Vec<subid::Range>,
    newuidmap: PathBuf,
    newgidmap: PathBuf,
}

/// The user's subordinate ids and the programs that map them; `None` if anything is missing.
fn subordinate() -> Option<Subordinate> {
    let uid = rustix::process::geteuid().as_raw();
    let read = |path: &str| {
        std::fs::read(path)
            .map(|b| String::from_utf8_lossy(&b).into_owned())
            .unwrap_or_default()
    };
    let accounts = Accounts::parse(&read("/etc/passwd"));
    let names = accounts.names_of(uid);
    let of = |path: &str| subid::parse(&read(path)).of(&names, uid);
    let (uids, gids) = (of("/etc/subuid"), of("/etc/subgid"));
    if uids.is_empty() || gids.is_empty() {
        return None;
    }
    Some(Subordinate {
        uids,
        gids,
        newuidmap: program("newuidmap")?,
        newgidmap: program("newgidmap")?,
    })
}

/// A program of this name along PATH.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|p| p.is_file())
}

/// Runs this program with the same arguments inside the outer namespace, and waits; its exit code.
pub fn enter() -> Result<u8, OuterError> {
    let own = std::fs::read_link("/proc/self/exe").map_err(OuterError::Own)?;
    let mut command = unshare::Command::new(own);
    command.args(&std::env::args_os().skip(1).collect::<Vec<OsString>>());
    command.unshare(&[unshare::Namespace::User, unshare::Namespace::Mount]);
    let signals = take_signals().map_err(|e| OuterError::Signals(e.into()))?;
    match subordinate() {
        Some(subordinate) => {
            command.env(MARK, "ids");
            let (uids, gids) = maps(&subordinate);
            command.set_id_maps(uids, gids);
            command.set_id_map_commands(&subordinate.newuidmap, &subordinate.newgidmap);
        }
        None => {
            command.env(MARK, "one");
            command.before_unfreeze(write_one_id);
        }
    }
    command.gid(0).uid(0);
    // Killed with this process, and with no signal blocked: so the crate starts it unless told otherwise.
    let child = command.spawn().map_err(|e| OuterError::Unshare(explain(&e)))?;
    accompany(Pid::from_raw(child.pid()), &signals).map_err(|e| OuterError::Signals(e.into()))
}

/// From now on signals wait to be read, by [`accompany`].
fn take_signals() -> nix::Result<SignalFd> {
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
    ] {
        mask.add(signal);
    }
    mask.thread_block()?;
    SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC)
}

/// Outlasts the process inside, to tell how it ended, and passes on what is sent to this one.
fn accompany(inside: Pid, signals: &SignalFd) -> nix::Result<u8> {
    loop {
        let ended = rustix::process::waitpid(rustix::process::Pid::from_raw(inside.as_raw()), WaitOptions::NOHANG)
            .map_err(|e| nix::Error::from_raw(e.raw_os_error()))?;
        if let Some((_, status)) = ended.filter(|(_, status)| status.exited() || status.signaled()) {
            return Ok(exit_code(status.as_raw()));
        }
        let Some(info) = signals.read_signal()? else { continue };
        let signal = Signal::try_from(info.ssi_signo as i32)?;
        // What the kernel sends comes from a terminal: the process inside has it as well, and a second Ctrl-C
        // means something else than the first. Only that the terminal hung up is told to the session's leader alone.
        let from_kernel = info.ssi_code > 0 && signal != Signal::SIGHUP;
        if signal != Signal::SIGCHLD && !from_kernel {
            let _ = kill(inside, signal);
        }
    }
}

/// 0 is the user; the subordinate ids follow from 1 on, range after range.
fn maps(of: &Subordinate) -> (Vec<unshare::UidMap>, Vec<unshare::GidMap>) {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let mut uids = vec![unshare::UidMap {
        inside_uid: 0,
        outside_uid: uid,
        count: 1,
    }];
    let mut gids = vec![unshare::GidMap {
        inside_gid: 0,
        outside_gid: gid,
        count: 1,
    }];
    let mut next = 1;
    for range in &of.uids {
        uids.push(unshare::UidMap {
            inside_uid: next,
            outside_uid: range.start,
            count: range.count,
        });
        next = next.saturating_add(range.count);
    }
    next = 1;
    for range in &of.gids {
        gids.push(unshare::GidMap {
            inside_gid: next,
            outside_gid: range.start,
            count: range.count,
        });
        next = next.saturating_add(range.count);
    }
    (uids, gids)
}

/// Without subordinate ids the kernel takes one id, and only from who gives up setgroups(2) first.
fn write_one_id(pid: u32) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let ids = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let pid = rustix::process::Pid::from_raw(pid as i32).ok_or("the process is gone")?;
    std::fs::write(format!("/proc/{}/setgroups", pid.as_raw_nonzero()), "deny")?;
    Maps::of_root(ids)
        .write(std::fs::File::open("/proc")?, pid)
        .map_err(|unwritten| format!("write {}: {}", unwritten.object, unwritten.errno).into())
}

fn explain(error: &unshare::Error) -> Reason {
    let lacking = match error.raw_os_error() {
        Some(libc::EMFILE) => "; no more files can be open here: raise the limit (`ulimit -n`)",
        Some(libc::ENFILE) => "; the host has no more open files to give: raise fs.file-max",
        Some(libc::EAGAIN) => "; no more processes can be started here: end some, or raise the limit (`ulimit -u`)",
        Some(libc::ENOMEM) => "; the host is out of memory",
        _ => "",
    };
    let text = match error {
        unshare::Error::SetIdMap(_) => format!("run newuidmap or newgidmap: {error}{lacking}"),
        // It has said why.
        unshare::Error::AuxCommandExited(_) | unshare::Error::AuxCommandKilled(_) => {
            format!("{error}: newuidmap or newgidmap refused; /etc/subuid and /etc/subgid must name this user")
        }
        other => format!("{other}{lacking}"),
    };
    match error.raw_os_error() {
        Some(errno) => Reason::new(text).because(std::io::Error::from_raw_os_error(errno)),
        None => text.into(),
    }
}
