//! The processes below one, as proc(5) tells of them, and the end of them all.

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal};
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};

/// How often those below are looked for that go on having children, and how long is waited in between.
const ROUNDS: usize = 1000;
const PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

pub fn children(pid: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    threads
        .filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|list| {
            list.split_ascii_whitespace()
                .filter_map(|p| p.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect()
}

/// All processes below one.
pub fn below(pid: u32) -> Vec<u32> {
    let mut out = Vec::new();
    let mut left = children(pid);
    while let Some(pid) = left.pop() {
        out.push(pid);
        left.extend(children(pid));
    }
    out
}

/// Kills a child of this process, and all that are below it. For none to get away, it takes in those whose parents have
/// ended (PR_SET_CHILD_SUBREAPER). `pidfd` is its descriptor; it is still to be waited for.
pub(super) fn end(child: Pid, pidfd: BorrowedFd<'_>) {
    // It reaps no more, so that none vanishes from below it while the others are looked for.
    let _ = rustix::process::kill_process(child, Signal::STOP);
    let top = child.as_raw_nonzero().get() as u32;
    // While others come and go, one may be missing in a list.
    let mut quiet = 0;
    for _ in 0..ROUNDS {
        quiet = if kill_below(top) { 0 } else { quiet + 1 };
        if quiet == 2 || ended(pidfd, &PAUSE) {
            break;
        }
    }
    let _ = rustix::process::kill_process(child, Signal::KILL);
}

/// Kills all below `top`; says whether any was alive.
fn kill_below(top: u32) -> bool {
    let found = below(top);
    let family: HashSet<u32> = found.iter().copied().chain([top]).collect();
    let mut alive = false;
    for number in found {
        let Some(pid) = i32::try_from(number).ok().and_then(Pid::from_raw) else {
            continue;
        };
        let Ok(pidfd) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        // The number may be another's by now: what the descriptor stands for has to be below.
        if let Some(seen) = Seen::of(number)
            && family.contains(&seen.parent)
        {
            alive |= seen.alive;
            let _ = rustix::process::pidfd_send_signal(&pidfd, Signal::KILL);
        }
    }
    alive
}

/// Has a process ended, or does it within this time?
pub(super) fn ended(pidfd: impl AsFd, patience: &Timespec) -> bool {
    rustix::event::poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(patience)) == Ok(1)
}

struct Seen {
    parent: u32,
    /// Does any thread of it run?
    alive: bool,
}

impl Seen {
    fn of(pid: u32) -> Option<Seen> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The program's name may hold anything, brackets too; the fields begin behind the last one.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_ascii_whitespace().collect();
        // Fields 3, 4 and 20: state, parent, threads. The first thread may have ended before others.
        let threads: u32 = fields.get(17)?.parse().ok()?;
        Some(Seen {
            parent: fields.get(1)?.parse().ok()?,
            alive: !matches!(*fields.first()?, "Z" | "X") || threads > 1,
        })
    }
}
