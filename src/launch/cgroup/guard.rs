//! Who removes an app's cgroups when the supervisor is killed: a process that waits for the end of a pipe that the
//! supervisor holds, and does nothing else.
//!
//! It is a copy of the supervisor with one descriptor, one capability, and no signal that reaches it but SIGKILL. (The kernel could
//! call a program for every empty cgroup instead, but runs it with the host's full rights: CVE-2022-0492.)

use super::{PATIENCE, remove_all};
use crate::launch::{LaunchError, child};
use crate::sys;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::os::fd::{AsRawFd, OwnedFd};
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
        let forked = crate::launch::fork();
        if !matches!(forked, Ok(None)) {
            let _ = rustix::thread::set_name(&name);
        }
        match forked? {
            None => {
                drop(ours);
                watch(&theirs, paths)
            }
            Some(pid) => Ok(Guard { pid, pipe: Some(ours) }),
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.pipe.take());
        while rustix::process::waitpid(Some(self.pid), WaitOptions::empty()).is_err_and(|e| e == Errno::INTR) {}
    }
}

fn watch(pipe: &OwnedFd, paths: &[PathBuf]) -> ! {
    sys::set_signal_mask(u64::MAX);
    let _ = rustix::process::setsid();
    let _ = rustix::process::chdir(c"/");
    // What it removes is its own user's, but may lie in a directory that nobody may write to: cgroupfs's root.
    let only = CapabilitySet::DAC_OVERRIDE;
    let sets = CapabilitySets {
        effective: only,
        permitted: only,
        inheritable: CapabilitySet::empty(),
    };
    if rustix::thread::set_capabilities(None, sets).is_err() {
        // Rather no guard than one with all rights: the next `up` or `down` clears away as well.
        child::exit(1)
    }
    // Whoever reads the supervisor's output is not to wait for this process.
    let null = rustix::fs::open(
        c"/dev/null",
        rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    );
    if let Ok(null) = null {
        let _ = rustix::stdio::dup2_stdin(&null);
        let _ = rustix::stdio::dup2_stdout(&null);
        let _ = rustix::stdio::dup2_stderr(&null);
    }
    if sys::close_all_but(&[pipe.as_raw_fd()]).is_err() {
        child::exit(1)
    }
    while rustix::io::read(pipe, &mut [0u8; 1]) == Err(Errno::INTR) {}
    // The services end with their supervisor, each as soon as it is scheduled.
    for _ in 0..30 {
        if !remove_all(paths, PATIENCE) {
            break;
        }
    }
    child::exit(0)
}
