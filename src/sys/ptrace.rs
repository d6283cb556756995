//! ptrace(2), beyond what nix has of it.

use super::{Result, check};
use nix::unistd::Pid;

/// Lets a process go on that is traced and has stopped, with a signal or 0; ptrace(2). The signal may be one without a name.
pub fn ptrace_onward(how: u32, pid: i32, signal: i32) -> Result<()> {
    // SAFETY: `how` is one of the requests that make a process go on; those take integers only.
    check(unsafe { libc::syscall(libc::SYS_ptrace, how, pid, 0, signal) }).map(drop)
}

/// A system call at which a traced process has stopped.
#[derive(Clone, Copy, Debug)]
pub enum SystemCall {
    Entry { number: i64, arguments: [u64; 6] },
    Exit { value: i64, failed: bool },
}

/// At which call this traced process has stopped; ptrace(2), PTRACE_GET_SYSCALL_INFO. `None` if at none.
pub fn system_call(pid: Pid) -> nix::Result<Option<SystemCall>> {
    let info = nix::sys::ptrace::syscall_info(pid)?;
    Ok(match info.op {
        libc::PTRACE_SYSCALL_INFO_ENTRY => {
            // SAFETY: `op` says that this is the part of the union that the kernel has written.
            let entry = unsafe { info.u.entry };
            Some(SystemCall::Entry {
                number: entry.nr as i64,
                arguments: entry.args,
            })
        }
        libc::PTRACE_SYSCALL_INFO_EXIT => {
            // SAFETY: likewise.
            let exit = unsafe { info.u.exit };
            Some(SystemCall::Exit {
                value: exit.sval,
                failed: exit.is_error != 0,
            })
        }
        _ => None,
    })
}
