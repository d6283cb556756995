//! What a service's programs open: ptrace(2) of all that its PID 1 starts, system call by system call.
//!
//! The tracer has its right over the service's processes from the namespace above theirs, as an ordinary user too. It
//! only looks: no call is changed, and when the tracer ends, what it traces is killed.

use super::{LaunchError, Running};
use crate::sys;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::unistd::Pid;
use rustix::process::WaitOptions;
use std::collections::{BTreeSet, HashMap};
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

/// The event of a process that a signal such as SIGSTOP has stopped; linux/ptrace.h.
const EVENT_STOP: i32 = 128;
/// What a process stops with at a system call, by `PTRACE_O_TRACESYSGOOD`.
const SYSTEM_CALL: i32 = libc::SIGTRAP | 0x80;
/// As long as the kernel's paths may be.
const LONGEST_PATH: usize = 4096;

#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Programs, as they were named.
    pub programs: BTreeSet<PathBuf>,
    /// Files that were opened or looked at, as they were named.
    pub named: BTreeSet<PathBuf>,
    /// Files that were opened, as they are: no link leads to them.
    pub files: BTreeSet<PathBuf>,
    /// Directories that were listed.
    pub directories: BTreeSet<PathBuf>,
}

/// A call that a process has begun.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub number: i64,
    pub arguments: [u64; 6],
}

/// Who is told of the calls of processes that are followed. What these name may change while it is read.
pub trait Witness {
    fn begins(&mut self, _pid: Pid, _call: Call) {}
    /// `value`: what it came to; of one that failed the error's number, negative.
    fn ends(&mut self, pid: Pid, call: Call, value: i64, failed: bool);
    /// A program has been put in place of another.
    fn executed(&mut self, _pid: Pid) {}
}

/// Traces a service that was started with `hold`, from its program's first instruction until all of it has ended.
pub fn follow(running: &Running) -> Result<Opened, LaunchError> {
    let init = Pid::from_raw(running.pid.as_raw_nonzero().get());
    seize(init).map_err(wrong)?;
    running.go().map_err(LaunchError::system("signal", "the new process"))?;
    let mut opened = Opened::default();
    watch(Some(running.pid), &mut opened)?;
    Ok(opened)
}

/// From now on what this PID 1 starts is followed. [`watch`] has to come next.
pub fn seize_init(init: rustix::process::Pid) -> Result<(), rustix::io::Errno> {
    seize(Pid::from_raw(init.as_raw_nonzero().get())).map_err(errno)
}

/// From now on this process is followed, and what it starts, whatever it is at. [`watch`] has to come next.
pub fn seize_running(pid: rustix::process::Pid) -> Result<(), rustix::io::Errno> {
    let pid = Pid::from_raw(pid.as_raw_nonzero().get());
    seize(pid).and_then(|()| ptrace::interrupt(pid)).map_err(errno)
}

fn seize(pid: Pid) -> Result<(), Errno> {
    let options = Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(pid, options)
}

fn errno(errno: Errno) -> rustix::io::Errno {
    rustix::io::Errno::from_raw_os_error(errno as i32)
}

fn wrong(found: Errno) -> LaunchError {
    LaunchError::System {
        operation: "trace",
        object: "the service's processes".into(),
        errno: errno(found),
    }
}

/// Follows what was seized until all of it has ended. A PID 1 among them is ours, and of no interest.
pub fn watch(init: Option<rustix::process::Pid>, witness: &mut impl Witness) -> Result<(), LaunchError> {
    let init = init.map(|pid| Pid::from_raw(pid.as_raw_nonzero().get()));
    let mut begun: HashMap<Pid, Call> = HashMap::new();
    let all = WaitOptions::from_bits_retain(libc::__WALL as u32);
    loop {
        let (pid, status) = match rustix::process::wait(all) {
            Err(rustix::io::Errno::INTR) | Ok(None) => continue,
            // All have ended.
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(errno) => return Err(wrong(Errno::from_raw(errno.raw_os_error()))),
            Ok(Some((pid, status))) => (Pid::from_raw(pid.as_raw_nonzero().get()), status.as_raw()),
        };
        if !libc::WIFSTOPPED(status) {
            begun.remove(&pid);
            if Some(pid) == init {
                return Ok(());
            }
            continue;
        }
        let onward = match Some(pid) == init {
            true => libc::PTRACE_CONT,
            false => libc::PTRACE_SYSCALL,
        };
        // The signal may be one that has a number only, as real-time signals do.
        let (onward, signal) = match (status >> 16, libc::WSTOPSIG(status)) {
            (0, SYSTEM_CALL) => {
                let _ = call(pid, &mut begun, witness);
                (onward, 0)
            }
            (0, signal) => (onward, signal),
            (libc::PTRACE_EVENT_EXEC, _) => {
                begun.remove(&pid);
                witness.executed(pid);
                (onward, 0)
            }
            // It has been stopped, by SIGSTOP for one, and stays so until it is told to go on.
            (EVENT_STOP, signal) if signal != libc::SIGTRAP => (libc::PTRACE_LISTEN, 0),
            _ => (onward, 0),
        };
        // Whoever is gone meanwhile needs no word.
        let _ = sys::ptrace_onward(onward, pid.as_raw(), signal);
    }
}

/// A call begins or ends.
fn call(pid: Pid, begun: &mut HashMap<Pid, Call>, witness: &mut impl Witness) -> Result<(), Errno> {
    match sys::system_call(pid)? {
        Some(sys::SystemCall::Entry { number, arguments }) => {
            let call = Call { number, arguments };
            witness.begins(pid, call);
            begun.insert(pid, call);
        }
        Some(sys::SystemCall::Exit { value, failed }) => {
            if let Some(call) = begun.remove(&pid) {
                witness.ends(pid, call, value, failed);
            }
        }
        None => {}
    }
    Ok(())
}

impl Witness for Opened {
    fn begins(&mut self, pid: Pid, call: Call) {
        if matches!(call.number, libc::SYS_execve | libc::SYS_execveat)
            && let Some(path) = named(pid, call)
        {
            // Its memory is gone when it has succeeded.
            self.named.insert(path);
        }
    }

    fn ends(&mut self, pid: Pid, call: Call, value: i64, failed: bool) {
        if !failed {
            ended(pid, call, value, self);
        }
    }

    /// It, and what the kernel has brought in for it.
    fn executed(&mut self, pid: Pid) {
        let Ok(program) = std::fs::read_link(format!("/proc/{pid}/exe")) else {
            return;
        };
        self.programs.insert(program);
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let mapped = maps
            .lines()
            .filter_map(|l| l.find('/').map(|at| Path::new(&l[at..]).to_owned()));
        self.files.extend(mapped);
    }
}

fn ended(pid: Pid, call: Call, value: i64, opened: &mut Opened) {
    if !opens(call.number) && !looks(call.number) {
        return;
    }
    let name = named(pid, call);
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    if opens(call.number) {
        let Ok(real) = std::fs::read_link(format!("/proc/{pid}/fd/{value}")) else {
            return;
        };
        let Ok(found) = std::fs::metadata(format!("/proc/{pid}/fd/{value}")) else {
            return;
        };
        if found.is_dir() {
            opened.directories.insert(real);
        } else if found.is_file() {
            opened.named.insert(name.unwrap_or_else(|| real.clone()));
            opened.files.insert(real);
        }
    } else if let Some(name) = name
        && std::fs::symlink_metadata(root.join(name.strip_prefix("/").unwrap_or(&name))).is_ok_and(|m| !m.is_dir())
    {
        opened.named.insert(name);
    }
}

fn opens(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if number == libc::SYS_open {
        return true;
    }
    matches!(number, libc::SYS_openat | libc::SYS_openat2)
}

/// Calls that ask whether something is there; a program may want it to be, and not read it.
fn looks(number: i64) -> bool {
    names_first(number)
        || matches!(
            number,
            libc::SYS_newfstatat | libc::SYS_statx | libc::SYS_faccessat | libc::SYS_faccessat2 | libc::SYS_readlinkat
        )
}

/// Those whose first argument is the path; the others' is a directory.
fn names_first(number: i64) -> bool {
    #[cfg(target_arch = "x86_64")]
    if matches!(
        number,
        libc::SYS_open | libc::SYS_stat | libc::SYS_lstat | libc::SYS_access | libc::SYS_readlink
    ) {
        return true;
    }
    number == libc::SYS_execve
}

/// The path that a call names, as it is named: a link on it may be what has to be there.
fn named(pid: Pid, call: Call) -> Option<PathBuf> {
    let (from, at) = match names_first(call.number) {
        true => (None, 0),
        false => (Some(call.arguments[0]), 1),
    };
    let path = text_at(pid, call.arguments[at])?;
    absolute(pid, from, Path::new(&String::from_utf8(path).ok()?))
}

/// A path in the memory of a process.
pub fn text_at(pid: Pid, address: u64) -> Option<Vec<u8>> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut text = Vec::new();
    while text.len() < LONGEST_PATH {
        // Up to the end of a page: the next one may not be there.
        let at = address.checked_add(text.len() as u64)?;
        let mut piece = vec![0; (4096 - at % 4096) as usize];
        let got = memory.read_at(&mut piece, at).ok().filter(|n| *n > 0)?;
        match piece[..got].iter().position(|b| *b == 0) {
            Some(end) => {
                text.extend_from_slice(&piece[..end]);
                return Some(text);
            }
            None => text.extend_from_slice(&piece[..got]),
        }
    }
    None
}

/// A number of 64 bits in the memory of a process.
pub fn number_at(pid: Pid, address: u64) -> Option<u64> {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).ok()?;
    let mut bytes = [0; 8];
    memory.read_exact_at(&mut bytes, address).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

/// A relative path begins where the process is, or at a directory that the call names by its number.
pub fn absolute(pid: Pid, from: Option<u64>, path: &Path) -> Option<PathBuf> {
    if path.is_absolute() || path.as_os_str().is_empty() {
        return path.is_absolute().then(|| path.to_owned());
    }
    let from = match from.map(|number| number as i32) {
        None | Some(libc::AT_FDCWD) => format!("/proc/{pid}/cwd"),
        Some(number) => format!("/proc/{pid}/fd/{number}"),
    };
    let mut at = std::fs::read_link(from).ok().filter(|p| p.is_absolute())?;
    let mut below = false;
    for part in path.components() {
        match part {
            Component::Normal(name) => {
                at.push(name);
                below = true;
            }
            // Behind a name that may be a link it leads who knows where.
            Component::ParentDir if below => return None,
            Component::ParentDir => {
                at.pop();
            }
            _ => {}
        }
    }
    Some(at)
}
