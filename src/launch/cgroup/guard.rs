//! Who removes an app's cgroups when the supervisor is killed: a process that waits for the end of a pipe that the
//! supervisor holds, and does nothing else.
//!
//! It is a copy of the supervisor with one descriptor, one capability, and no signal that reaches it but SIGKILL. (The kernel could
//! call a program for every empty cgroup instead, but runs it with the host's full rights: CVE-2022-0492.)

use super::{PATIENCE, remove_all};
use crate::launch::{LaunchError, capabilities};
use crate::sys::helper::{self, Keeps};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

/// Dropping it ends the guard, and waits for that.
#[derive(Debug)]
pub(super) struct Guard {
    pid: Pid,
    pipe: Option<OwnedFd>,
}

impl Guard {
    pub(super) fn start(paths: &[PathBuf]) -> Result<Guard, LaunchError> {
        let (theirs, ours) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(LaunchError::system("make", "a pipe"))?;
        // It has its name from its first moment on, by which it is told from the supervisor.
        let name = rustix::thread::name().map_err(LaunchError::system("read", "the process's name"))?;
        let _ = rustix::thread::set_name(c"pysecure-guard");
        let alone = crate::launch::single_threaded("the guard of cgroups")?;
        // Whoever reads the supervisor's output is not to wait for this process.
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(LaunchError::system("open", "/dev/null"))?;
        let keeps = Keeps::Outliving {
            kept: &[theirs.as_fd()],
            null: null.as_fd(),
        };
        let started = helper::start(&alone, 0, &keeps, |_| (), || watch(&theirs, paths));
        let _ = rustix::thread::set_name(&name);
        let pid = started.map_err(LaunchError::system("start", "the guard of cgroups"))?;
        Ok(Guard { pid, pipe: Some(ours) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        while rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).is_err_and(|e| e == Errno::INTR) {}
    }
}

fn watch(pipe: &OwnedFd, paths: &[PathBuf]) -> i32 {
    let _ = rustix::process::chdir(c"/");
    if capabilities::keep(capabilities::GUARD).is_err() {
        // Rather no guard than one with all rights: the next `up` or `down` clears away as well.
        return helper::FAILED;
    }
    while rustix::io::read(pipe, &mut [0u8; 1]) == Err(Errno::INTR) {}
    // The services end with their supervisor, each as soon as it is scheduled.
    for _ in 0..30 {
        if !remove_all(paths, PATIENCE) {
            break;
        }
    }
    0
}
