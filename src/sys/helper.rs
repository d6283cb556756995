//! Helper processes: copies of the launcher that run its code and no other program, each for one piece of work.
//!
//! A copy holds all that its maker holds. What is open here is what other services' lives hang on: a helper that lives on for as
//! long as it likes closes all but what it was told to keep ([`Keeps`]), and does not begin if it cannot.

use super::{SingleThreaded, exit};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

/// Which of its maker's descriptors a helper keeps.
pub enum Keeps<'a> {
    /// All: its maker waits for its end, and it hands over what it makes.
    All,
    /// This one, as standard input, and no other. Who made it holds the other end, and closes that to end it.
    Input(BorrowedFd<'a>),
    /// The standard ones and these, whatever their order. It is killed with its maker.
    These(&'a [RawFd]),
    /// These, and /dev/null in place of the standard ones. It has a session of its own, for Ctrl-C is its maker's to handle,
    /// may not be looked into, and is killed with its maker.
    Detached {
        kept: &'a [BorrowedFd<'a>],
        null: BorrowedFd<'a>,
    },
    /// The same, but it outlives its maker: no signal reaches it but SIGKILL.
    Outliving {
        kept: &'a [BorrowedFd<'a>],
        null: BorrowedFd<'a>,
    },
}

/// How a helper ends that could not begin, or failed at what it has no words for.
pub const FAILED: i32 = 125;

/// Starts a helper in these new namespaces (`CLONE_NEW…`). `life` is all that it does, and its exit code; what `life` uses of
/// this process's descriptors has to be among those that it keeps. Where those that it does not keep cannot be closed, it says
/// so by `unready`, and ends.
pub fn start(
    alone: &SingleThreaded,
    namespaces: u64,
    keeps: &Keeps<'_>,
    unready: impl FnOnce(Errno),
    life: impl FnOnce() -> i32,
) -> Result<Pid, Errno> {
    match super::clone3(alone, namespaces)? {
        0 => {
            if let Err(errno) = keep(keeps) {
                unready(errno);
                exit(FAILED)
            }
            exit(life())
        }
        pid => Pid::from_raw(pid).ok_or(Errno::SRCH),
    }
}

fn keep(keeps: &Keeps<'_>) -> Result<(), Errno> {
    // SAFETY, of all that is closed and replaced here: this is a copy of a process, in which nothing goes on but `life`. The
    // owners of what it does not keep are on the other side of clone3(2).
    match keeps {
        Keeps::All => Ok(()),
        Keeps::Input(input) => {
            // SAFETY: as above.
            unsafe { super::duplicate_to(input.as_raw_fd(), 0) }?;
            // SAFETY: as above.
            unsafe { super::close_from(1) }
        }
        Keeps::These(kept) => {
            // SAFETY: as above.
            unsafe { super::close_all_but(kept) }?;
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        }
        Keeps::Detached { kept, null } => {
            detach(kept, *null)?;
            hide()
        }
        Keeps::Outliving { kept, null } => {
            super::set_signal_mask(u64::MAX);
            detach(kept, *null)
        }
    }
}

fn detach(kept: &[BorrowedFd<'_>], null: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: as in `keep`. `null` is kept until it has been copied.
    unsafe { super::close_except(|| kept.iter().chain([&null]).map(AsRawFd::as_raw_fd)) }?;
    for place in 0..3 {
        // SAFETY: as in `keep`.
        unsafe { super::duplicate_to(null.as_raw_fd(), place) }?;
    }
    // Where it was one of the standard ones itself, it stays.
    if null.as_raw_fd() > 2 {
        // SAFETY: as in `keep`; it has been copied.
        unsafe { rustix::io::close(null.as_raw_fd()) };
    }
    let _ = rustix::process::setsid();
    Ok(())
}

/// Not dumpable, so neither traceable nor readable through /proc; killed with its supervisor. Both are undone
/// by a change of id, so they come after the last one.
pub fn hide() -> Result<(), Errno> {
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
}

/// clone3(2) of a child of this process, by another process in between, which first goes where the child is to be born,
/// and ends when it is. `life` never returns.
pub fn born_after<T>(
    alone: &SingleThreaded,
    go: impl FnOnce() -> Result<T, Errno>,
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    life: impl FnOnce(T) -> i32,
) -> Result<Pid, Errno> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let between = start(
        alone,
        0,
        &Keeps::All,
        |_| (),
        || {
            let born = go().and_then(|found| match super::clone3_sibling(alone, namespaces, cgroup)? {
                0 => exit(life(found)),
                pid => Ok(pid),
            });
            let answer = born.unwrap_or_else(|errno| -errno.raw_os_error());
            let _ = rustix::io::write(&write, &answer.to_ne_bytes());
            0
        },
    )?;
    drop(write);
    let mut answer = [0u8; 4];
    let read = rustix::io::read(&read, &mut answer);
    let _ = rustix::process::waitpid(Some(between), WaitOptions::empty());
    match i32::from_ne_bytes(answer) {
        _ if read? != answer.len() => Err(Errno::SRCH),
        errno if errno <= 0 => Err(Errno::from_raw_os_error(-errno)),
        pid => Pid::from_raw(pid).ok_or(Errno::SRCH),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn no_helper_begins_that_cannot_close_what_is_not_its() {
        // The filter is of this thread alone, and of the helpers.
        let refused = || {
            let null = std::fs::File::open("/dev/null").unwrap();
            let (told, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
            crate::sys::seccomp::refuse(libc::SYS_close_range);
            let (numbers, null) = ([tell.as_raw_fd()], null.as_fd());
            let kept = &[tell.as_fd()][..];
            for keeps in [
                Keeps::Input(null),
                Keeps::These(&numbers),
                Keeps::Detached { kept, null },
                Keeps::Outliving { kept, null },
            ] {
                let say = |word: i32| assert_eq!(rustix::io::write(&tell, &word.to_ne_bytes()), Ok(4));
                let life = || {
                    say(0);
                    0
                };
                let alone = SingleThreaded::in_a_test();
                let helper = start(&alone, 0, &keeps, |errno| say(errno.raw_os_error()), life).unwrap();
                let (_, status) = rustix::process::waitpid(Some(helper), WaitOptions::empty())
                    .unwrap()
                    .unwrap();
                assert_eq!(status.exit_status(), Some(FAILED));
                let mut said = [0; 8];
                assert_eq!(rustix::io::read(&told, &mut said), Ok(4));
                assert_eq!(said[..4], libc::EPERM.to_ne_bytes());
            }
        };
        std::thread::spawn(refused).join().unwrap();
    }
}
