//! Probes: one question asked inside a service, as the service, by a process that has taken on all that the service's
//! own program has.
//!
//! A helper stays outside and waits, no longer than the answer may take. Its exit code is the answer
//! ([`YES`], [`NO`], [`LATE`]); why it is no, it leaves in a pipe ([`Asking::words`]). Its child is born in the namespaces
//! as `exec`'s is ([`super::join`]), and there connects, or has a command run.
//!
//! A command may start more, and those may outlive it. So the child stays as the one that all of them end up below, and
//! when the command has ended or its time is over, none is left.

#![allow(
    unsafe_code,
    reason = "in a copy of the process, it works on descriptors and memory that the original owns"
)]

use super::descendants;
use super::join::{Joiner, explain_joined};
use super::{LaunchError, Launcher, Report, child, explain_stage, keeper, read_report, step::Stage};
use crate::sys::helper::{self, Keeps};
use crate::sys::{self, SingleThreaded, exit_status};
use crate::values::Question;
use oci_spec::runtime::Spec;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Gid, Uid};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

pub const YES: u8 = 0;
pub const NO: u8 = 1;
/// No answer within the time.
pub const LATE: u8 = 124;
/// The question could not be asked.
const UNASKED: u8 = 125;

/// How much is kept of what a command printed last, and of all that is said of an answer: no more than a pipe takes at once.
const LONGEST_OUTPUT: usize = 400;
const LONGEST_WORDS: usize = 2048;

/// How long the child may take to end by itself when the command has, and nothing is left of it.
const AT_ONCE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 20_000_000,
};

/// A question that is being asked.
#[derive(Debug)]
pub struct Asking {
    /// The process that ends with the answer.
    pub helper: Pid,
    words: OwnedFd,
}

impl Asking {
    /// What there is to say of an answer other than yes, once the helper has ended. Some of it is a service's own words.
    pub fn words(&self) -> Vec<u8> {
        let mut bytes = vec![0; LONGEST_WORDS];
        let read = rustix::io::read(&self.words, &mut bytes).unwrap_or(0);
        bytes.truncate(read);
        bytes
    }
}

/// A question with nothing left to compute.
enum Asked {
    Connect(SocketAddrAny),
    Http {
        address: SocketAddrAny,
        request: Vec<u8>,
    },
    /// What the [`ExecContext`](super::step::ExecContext) runs. The child goes on as this id, in the service's namespaces, if 0 is the service's there.
    Command {
        keep: Option<(u32, u32)>,
    },
}

/// For what is said of the answer.
struct Names {
    /// What is asked.
    object: String,
    program: String,
    directory: String,
}

impl Launcher {
    /// Asks beside the service whose PID 1 is `init`. `owner` is the service's, as ids are here.
    pub fn ask(
        &mut self,
        init: Pid,
        spec: &Spec,
        null: BorrowedFd<'_>,
        question: &Question,
        timeout: Duration,
        (uid, gid): (Uid, Gid),
    ) -> Result<Asking, LaunchError> {
        let mut spec = spec.clone();
        let asked = match question {
            Question::Tcp(address) => Asked::Connect((*address).into()),
            Question::Unix(path) => Asked::Connect(
                SocketAddrUnix::new(path.as_str())
                    .map_err(LaunchError::system("connect to", path.clone()))?
                    .into(),
            ),
            Question::Http { address, path } => Asked::Http {
                address: (*address).into(),
                request: format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nUser-Agent: pysecure\r\n\r\n").into_bytes(),
            },
            Question::Command(args) => {
                if let Some(process) = spec.process_mut() {
                    process.set_args(Some(args.clone()));
                }
                let root_inside = spec.process().as_ref().is_some_and(|p| p.user().uid() == 0);
                let keep = if root_inside { keeper(&spec) } else { None };
                Asked::Command { keep }
            }
        };
        let process = spec.process().as_ref();
        let args = process.and_then(|p| p.args().as_ref());
        let names = Names {
            object: match question {
                Question::Tcp(address) => address.to_string(),
                Question::Unix(path) => path.clone(),
                Question::Http { address, path } => format!("http://{address}{path}"),
                Question::Command(args) => format!("`{}`", args.join(" ")),
            },
            program: args.and_then(|a| a.first()).cloned().unwrap_or_default(),
            directory: process.map(|p| p.cwd().display().to_string()).unwrap_or_default(),
        };
        let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(LaunchError::system("make", "a pipe"));
        let ((printed, output), (words, tell)) = (pipe()?, pipe()?);
        for end in [&printed, &words] {
            rustix::io::ioctl_fionbio(end, true).map_err(LaunchError::system("prepare", "a pipe"))?;
        }
        // So that a command can open /dev/stdout.
        rustix::fs::fchown(&output, Some(uid), Some(gid)).map_err(LaunchError::system("give away", "a pipe"))?;
        let (joiner, reports) = self.joiner(init, &spec, [null, output.as_fd(), output.as_fd()], false)?;
        let alone = super::single_threaded("a process")?;
        let mut kept = joiner.descriptors();
        kept.extend([&reports, &printed, &tell].map(AsRawFd::as_raw_fd));
        let unready = |errno: Errno| {
            let _ = rustix::io::write(
                &tell,
                format!("close descriptors of the supervisor: {errno}").as_bytes(),
            );
        };
        let life = || match probe_monitor(&alone, joiner, &reports, &printed, &asked, timeout, &names) {
            Ok(()) => YES.into(),
            Err((code, mut why)) => {
                why.truncate(LONGEST_WORDS);
                let _ = rustix::io::write(&tell, &why);
                code.into()
            }
        };
        let helper = helper::start(&alone, 0, &Keeps::These(&kept), unready, life)
            .map_err(LaunchError::system("start", "a process"))?;
        Ok(Asking { helper, words })
    }
}

/// How the child came to an end.
enum End {
    /// A wait status: its own, or the command's.
    Status(i32),
    Failed(LaunchError),
    Late,
}

/// The helper's part. An answer other than yes comes with what there is to say of it.
fn probe_monitor(
    alone: &SingleThreaded,
    joiner: Joiner,
    reports: &OwnedFd,
    printed: &OwnedFd,
    asked: &Asked,
    timeout: Duration,
    names: &Names,
) -> Result<(), (u8, Vec<u8>)> {
    let explain = |failed, errno| explain_joined(failed, errno, &names.program, &names.directory);
    let stage = |stage, errno| explain_stage(stage, errno, &names.program, &names.directory);
    let unasked = |error: LaunchError| (UNASKED, error.to_string().into_bytes());
    let born = joiner.bear(alone, |_| ask(alone, &joiner, asked));
    drop(joiner);
    let pid = born.map_err(|errno| match read_report(reports.as_fd(), explain) {
        Ok(Report::Failed(error)) => unasked(error),
        _ => unasked(stage(Stage::Namespaces, errno)),
    })?;
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(errno) => {
            let _ = rustix::process::kill_process(pid, Signal::KILL);
            return Err(unasked(stage(Stage::Spawn, errno)));
        }
    };
    let until = Instant::now().checked_add(timeout);
    let (mut output, mut open, mut waited) = (Vec::new(), [true; 2], false);
    let end = loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut ready = [
            PollFd::new(&pidfd, PollFlags::IN),
            PollFd::new(reports, if open[0] { PollFlags::IN } else { PollFlags::empty() }),
            PollFd::new(printed, if open[1] { PollFlags::IN } else { PollFlags::empty() }),
        ];
        // One that is at its end is always ready.
        let watched: &mut [PollFd<'_>] = match open {
            [_, true] => &mut ready,
            [true, false] => &mut ready[..2],
            [false, false] => &mut ready[..1],
        };
        match rustix::event::poll(watched, left.as_ref()) {
            Err(Errno::INTR) => continue,
            Ok(1..) => {}
            _ => break End::Late,
        }
        let [ended, reported, printed_more] = [0, 1, 2].map(|at| !ready[at].revents().is_empty());
        if printed_more && open[1] {
            open[1] = keep(printed, &mut output);
        }
        if reported && open[0] {
            match read_report(reports.as_fd(), explain) {
                Ok(Report::Exited(status)) => break End::Status(status),
                Ok(Report::Failed(error)) => break End::Failed(error),
                Ok(Report::End) => open[0] = false,
                _ => {}
            }
        } else if ended {
            let status = rustix::process::waitpid(Some(pid), WaitOptions::empty());
            waited = true;
            break End::Status(status.ok().flatten().map_or(-1, |(_, status)| status.as_raw()));
        }
    };
    if !waited {
        if matches!(end, End::Late) || !descendants::ended(&pidfd, &AT_ONCE) {
            descendants::end(pid, pidfd.as_fd());
        }
        let _ = rustix::process::waitpid(Some(pid), WaitOptions::empty());
    }
    // What it printed last; none of it is left to print more.
    for _ in 0..64 {
        if !open[1] || !keep(printed, &mut output) {
            break;
        }
    }
    judge(end, asked, timeout, names, &output)
}

fn judge(end: End, asked: &Asked, timeout: Duration, names: &Names, output: &[u8]) -> Result<(), (u8, Vec<u8>)> {
    let object = &names.object;
    let (code, why) = match (end, asked) {
        (End::Status(0), _) => return Ok(()),
        (End::Failed(error), _) => return Err((UNASKED, error.to_string().into_bytes())),
        (End::Late, _) => (LATE, format!("{object} gave no answer within {timeout:?}")),
        (End::Status(status), Asked::Command { .. }) => match exit_status::signal(status) {
            None => (
                NO,
                format!("{object} ended with code {}", exit_status::exit_code(status)),
            ),
            Some(signal) => (NO, format!("{object} ended by signal {signal}")),
        },
        (End::Status(_), _) => (NO, object.clone()),
    };
    let mut why = why.into_bytes();
    let output = output.trim_ascii();
    if !output.is_empty() {
        why.extend_from_slice(b": ");
        // One line, whatever it printed.
        why.extend(
            output
                .iter()
                .map(|b| if matches!(*b, b'\n' | b'\r') { b' ' } else { *b }),
        );
    }
    Err((code, why))
}

/// Reads a piece, and keeps the last of all; `false` when there is no more.
fn keep(printed: &OwnedFd, output: &mut Vec<u8>) -> bool {
    let mut bytes = [0u8; 4096];
    match rustix::io::read(printed, &mut bytes) {
        Ok(0) => false,
        Ok(read) => {
            output.extend_from_slice(&bytes[..read]);
            output.drain(..output.len().saturating_sub(LONGEST_OUTPUT));
            true
        }
        Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

/// In the service's namespaces already. As after every clone3(2), only system calls up to a program's execve(2).
fn ask(alone: &SingleThreaded, joiner: &Joiner, asked: &Asked) -> ! {
    let address = match asked {
        Asked::Command { keep } => run(alone, joiner, *keep),
        Asked::Connect(address) | Asked::Http { address, .. } => address,
    };
    if let Err((stage, errno)) = child::apply_credentials(&joiner.exec, None, 0) {
        // The socket for it is closed by now, or may be.
        complain(&format!("{stage:?}: {errno}"));
        child::exit(UNASKED.into());
    }
    if child::hide().is_err() {
        child::exit(UNASKED.into());
    }
    let answer = connect(address).and_then(|socket| match asked {
        Asked::Http { request, .. } => converse(socket.as_fd(), request),
        _ => Ok(None),
    });
    match answer {
        Ok(None) => child::exit(YES.into()),
        // No program comes after this, and it has one thread: it may take memory.
        Ok(Some(why)) => complain(&why),
        Err(errno) => complain(&nix::errno::Errno::from_raw(errno.raw_os_error()).desc().to_lowercase()),
    }
    child::exit(NO.into())
}

fn complain(why: &str) {
    let _ = rustix::io::write(rustix::stdio::stdout(), why.as_bytes());
}

/// Has the command run, tells how it ended, and stays until nothing is left of it.
fn run(alone: &SingleThreaded, joiner: &Joiner, keep: Option<(u32, u32)>) -> ! {
    let report = joiner.report.as_fd();
    if let Err(errno) = rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1)) {
        child::fail(report, Stage::Spawn, errno);
    }
    // Where a limit leaves no room for one more, it is this process that runs it. There can be no others, then.
    let main = match helper::start(
        alone,
        0,
        &Keeps::All,
        |_| (),
        || child::exec_reporting(&joiner.exec, None, report),
    ) {
        Ok(pid) => pid,
        Err(Errno::AGAIN) => child::exec_reporting(&joiner.exec, None, report),
        Err(errno) => child::fail(report, Stage::Spawn, errno),
    };
    // SAFETY: nothing here uses what 0 was, nor any of the others from now on.
    let report = match unsafe { sys::duplicate_to(report.as_raw_fd(), 0) } {
        Ok(report) => report,
        Err(errno) => child::fail(report, Stage::Descriptors, errno),
    };
    // SAFETY: likewise.
    if let Err(errno) = unsafe { sys::close_from(1) } {
        child::fail(report, Stage::Descriptors, errno);
    }
    if let Err(errno) = child::give_up(keep, false) {
        child::fail(report, Stage::User, errno);
    }
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == main => {
                child::say(report, child::report::EXITED, status.as_raw() as u32, 0);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => child::exit(0),
        }
    }
}

fn connect(address: &SocketAddrAny) -> Result<OwnedFd, Errno> {
    let family = address.address_family();
    let socket = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    match rustix::net::connect(&socket, address) {
        // A service may listen on sequenced packets, as sockets between services are.
        Err(Errno::PROTOTYPE) if family == AddressFamily::UNIX => {
            let socket = rustix::net::socket_with(family, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, address)?;
            Ok(socket)
        }
        other => other.map(|()| socket),
    }
}

/// Why an answer is not one whose status is below 400. Its first line is `HTTP/1.x NNN …`; RFC 9112, 4.
fn converse(socket: BorrowedFd<'_>, request: &[u8]) -> Result<Option<String>, Errno> {
    let mut rest = request;
    while !rest.is_empty() {
        let sent = rustix::net::send(socket, rest, rustix::net::SendFlags::NOSIGNAL)?;
        rest = rest.get(sent..).unwrap_or_default();
    }
    let mut head = [0u8; 12];
    let mut filled = 0;
    while filled < head.len() {
        match rustix::io::read(socket, &mut head[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    let status = head.strip_prefix(b"HTTP/1.").and_then(|rest| rest.get(2..5));
    Ok(match status {
        Some([b'1'..=b'3', b'0'..=b'9', b'0'..=b'9']) if head[8] == b' ' => None,
        Some(status) if head[8] == b' ' && status.iter().all(u8::is_ascii_digit) => {
            Some(format!("status {}", String::from_utf8_lossy(status)))
        }
        _ if filled == 0 => Some("it closed the connection without an answer".to_owned()),
        _ => Some("its answer is not one of HTTP".to_owned()),
    })
}
