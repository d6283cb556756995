//! `sandbox`: one run of what nobody trusts, without a manifest; and the pool of a program that has none of its own.

use super::args::{Cli, FrontEnd, Sandbox, SandboxAction, SandboxLimits, SandboxRun};
use super::load::with_privilege;
use super::{Done, Failure};
use crate::app::sandbox::{OwnIds, own_plan};
use crate::host::outer;
use crate::host::{Dirs, make_private, make_state};
use crate::launch;
use crate::launch::cgroup::{Cgroups, Offer};
use crate::packages;
use crate::sandbox::request::{Asked, Event, LONGEST};
use crate::sandbox::{Limits, Profile, Source, Userdirs, serve};
use crate::sys::helper::{self, Keeps};
use crate::sys::{self, exit_status};
use crate::values::Isolation;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, WaitOptions};
use serde_json::{Value, json};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

pub(super) fn run(cli: &Cli, args: &Sandbox) -> Done {
    let in_place = match &args.action {
        // The pool that it asks for takes what privilege there is, and not this.
        Some(SandboxAction::Mcp(front)) => return front_end(cli, "mcp", front),
        Some(SandboxAction::Serve(front)) => return front_end(cli, "serve", front),
        Some(SandboxAction::Pool) => asks_for_landlock(),
        Some(SandboxAction::Run(run)) => run.limits.isolation == Isolation::Landlock,
        None => args.limits.isolation == Isolation::Landlock,
    };
    if !in_place && let Some(code) = enter()? {
        return Ok(code);
    }
    match &args.action {
        Some(SandboxAction::Mcp(_) | SandboxAction::Serve(_)) => Err(Failure::failed("a front end needs no privilege")),
        Some(SandboxAction::Pool) => pool(cli),
        Some(SandboxAction::Run(run)) => python(cli, run),
        None if args.command.is_empty() => Err(Failure::new(
            2,
            "nothing to run; write `pysecure sandbox run FILE`, or `pysecure sandbox -- COMMAND`",
        )),
        None => program(cli, &args.limits, &args.command),
    }
}

/// What lies in the working directory is no module of it.
const FRONT_END: &str = "import sys
sys.path[:1] = [path for path in sys.path[:1] if path]
from pysecure_sandbox.__main__ import main
sys.exit(main())";

/// Becomes a front end, which is written in Python. Its package is the interpreter's own, if it is installed for that, or else this program's.
fn front_end(cli: &Cli, name: &str, front: &FrontEnd) -> Done {
    let dirs = Dirs::find(
        "sandbox",
        rustix::process::geteuid().is_root(),
        cli.state_dir.as_deref(),
    )?;
    make_state(&dirs.state)?;
    let folder = packages::folder(&dirs.state);
    let wrong = |e| Failure::failed(format!("unpack the Python packages into {}: {e}", folder.display()));
    packages::unpack(&dirs.state).map_err(wrong)?;
    let binary = std::env::current_exe()?;
    let path = std::env::var("PYTHONPATH").ok().filter(|path| !path.is_empty());
    let path = path.map_or(folder.display().to_string(), |path| {
        format!("{path}:{}", folder.display())
    });
    let interpreter = interpreter(&binary);
    let error = std::process::Command::new(&interpreter)
        .args(["-c", FRONT_END, name])
        .args(&front.options)
        .env("PYTHONPATH", path)
        .env("PYSECURE_BINARY", &binary)
        .exec();
    let remedy = "install Python 3.10 or later, or put it into PATH";
    Err(Failure::new(
        127,
        format!("run {}: {error}; {remedy}", interpreter.display()),
    ))
}

/// That of the virtual environment that a program lies in, or the first in PATH.
fn interpreter(binary: &Path) -> PathBuf {
    let beside = binary.parent().map(|folder| folder.join("python3"));
    let in_environment = |python: &PathBuf| python.exists() && python.with_file_name("../pyvenv.cfg").exists();
    beside.filter(in_environment).unwrap_or_else(|| "python3".into())
}

/// Into namespaces, where this is an ordinary user.
fn enter() -> Result<Option<u8>, Failure> {
    with_privilege().map_err(no_namespaces)
}

/// There may be another way, which nobody is led to unasked.
fn no_namespaces(mut failure: Failure) -> Failure {
    let other =
        "where namespaces stay refused, `isolation = \"landlock\"` (`--isolation landlock`) needs none, and holds less";
    failure.messages.push(other.into());
    failure
}

/// Does the profile that comes first on standard input name this level? It stays there to be read.
fn asks_for_landlock() -> bool {
    let mut bytes = vec![0; LONGEST];
    let peeked = rustix::net::recv(rustix::stdio::stdin(), &mut bytes[..], RecvFlags::PEEK);
    let length = peeked.map_or(0, |(length, _)| length);
    matches!(
        serde_json::from_slice(&bytes[..length]),
        Ok(Asked::Profile(profile)) if profile.isolation == Isolation::Landlock
    )
}

/// The pool of whoever holds the other end of standard input, who says first of what kind it is.
fn pool(cli: &Cli) -> Done {
    let connection = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).map_err(std::io::Error::from)?;
    let kind = rustix::net::sockopt::socket_type(&connection);
    if kind != Ok(SocketType::SEQPACKET) {
        return Err(Failure::new(
            2,
            "standard input is no SOCK_SEQPACKET socket: this is for programs, such as Python's pysecure_sandbox",
        ));
    }
    let mut bytes = vec![0; LONGEST];
    let (length, _) =
        rustix::net::recv(&connection, &mut bytes[..], RecvFlags::empty()).map_err(std::io::Error::from)?;
    let refuse = |error: String| {
        say(&connection, &Event::Refused { error: error.clone() });
        Failure::failed(error)
    };
    let profile = match serde_json::from_slice(&bytes[..length]) {
        Ok(Asked::Profile(profile)) => *profile,
        Ok(Asked::Run(_)) => return Err(refuse("say first what profile it is to have".into())),
        Err(e) => return Err(refuse(format!("the profile: {e}"))),
    };
    match Beside::start(cli, profile, &connection) {
        Ok(beside) => {
            // The pool's alone, so that its end is seen.
            drop(connection);
            Ok(beside.wait())
        }
        Err(failure) => Err(refuse(failure.messages.join("; "))),
    }
}

/// A pool that was started as PID 1 of a PID namespace, which is killed with this process; and what is taken away when it has ended.
struct Beside {
    pid: Pid,
    cgroups: Option<Cgroups>,
    scratch: PathBuf,
    _ids: Option<OwnIds>,
}

impl Beside {
    fn start(cli: &Cli, profile: Profile, connection: &OwnedFd) -> Result<Beside, Failure> {
        let in_place = profile.isolation == Isolation::Landlock;
        let privilege = outer::expected();
        let (mut plan, ids) = own_plan(&privilege, &profile, cli.state_dir.as_deref())?;
        // Pools in several PID namespaces of one host may have the same pid.
        let name = format!("sandbox-{:016x}", chance()?);
        let scratch = plan.dirs.run.join(&name);
        let offer = Offer::look();
        if in_place {
            let made = make_private(&plan.dirs.run).and_then(|()| make_private(&scratch));
            made.map_err(crate::plan::PlanError::from)?;
            plan.dirs.run = scratch.clone();
        }
        let mut cgroups = match offer.places.is_empty() || in_place {
            true => None,
            false => {
                let made = make_private(&plan.dirs.run).and_then(|()| make_private(&scratch));
                made.map_err(crate::plan::PlanError::from)?;
                Some(Cgroups::open(&name, &scratch, &offer)?)
            }
        };
        let alone = launch::single_threaded("a pool of sandboxes")?;
        let namespaces = match in_place {
            true => 0,
            false => (libc::CLONE_NEWPID | libc::CLONE_NEWNS) as u64,
        };
        let maker = (!in_place)
            .then(crate::sandbox::maker)
            .transpose()
            .map_err(|e| Failure::failed(e.to_string()))?;
        let kept: Vec<i32> = ids
            .iter()
            .map(|ids| ids.claim.as_raw_fd())
            .chain([connection.as_raw_fd()])
            .chain(maker.iter().map(AsRawFd::as_raw_fd))
            .collect();
        let life = || {
            if in_place && let Err(errno) = apart() {
                let error = format!("start a pool of sandboxes: {errno}");
                say(connection, &Event::Refused { error });
                return 1;
            }
            let block = ids.as_ref().map(|ids| ids.block);
            let served = connection.try_clone().map_err(|e| e.to_string()).and_then(|own| {
                let source = (Source::Control(own), maker);
                serve(plan, profile, block, Userdirs::Host, source, cgroups.take()).map_err(|e| e.to_string())
            });
            if in_place {
                let _ = crate::walk::remove(&scratch);
            }
            match served {
                Ok(()) => 0,
                Err(error) => {
                    say(connection, &Event::Refused { error });
                    1
                }
            }
        };
        let pid = helper::start(&alone, namespaces, &Keeps::These(&kept), |_| (), life).map_err(|errno| {
            let failure = launch::LaunchError::system("start", "a pool of sandboxes")(errno).into();
            if in_place { failure } else { no_namespaces(failure) }
        })?;
        Ok(Beside {
            pid,
            cgroups,
            scratch,
            _ids: ids,
        })
    }

    /// Waits for its end; its exit code.
    fn wait(self) -> u8 {
        let waited = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
        drop(self.cgroups);
        let _ = crate::walk::remove(&self.scratch);
        match waited {
            Ok(Some((_, status))) => exit_status::exit_code(status.as_raw()),
            _ => 125,
        }
    }
}

/// Without a PID namespace nothing ends with this process: it has to live until it has seen to that itself, whatever becomes of the
/// process that started it and of that one's terminal. The end of its client is heard by the end of its connection.
fn apart() -> Result<(), rustix::io::Errno> {
    rustix::process::set_parent_process_death_signal(None)?;
    rustix::process::setsid().map(drop)
}

/// A number that nobody else has; getrandom(2).
fn chance() -> Result<u64, Failure> {
    let mut bytes = [0u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(std::io::Error::from)?;
    Ok(u64::from_ne_bytes(bytes))
}

fn say(connection: &OwnedFd, event: &Event) {
    if let Ok(bytes) = serde_json::to_vec(event) {
        let _ = rustix::net::send(connection, &bytes, SendFlags::NOSIGNAL);
    }
}

/// A file in Python.
fn python(cli: &Cli, run: &SandboxRun) -> Done {
    let mut code = Vec::new();
    let read = match run.file.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut code),
        false => std::fs::File::open(&run.file).and_then(|mut file| file.read_to_end(&mut code)),
    };
    read.map_err(|e| Failure::new(2, format!("read {}: {e}", run.file.display())))?;
    let memory = rustix::fs::memfd_create("code", rustix::fs::MemfdFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let mut file = std::fs::File::from(memory);
    std::io::Write::write_all(&mut file, &code)?;
    let name = run.file.display().to_string();
    let task = json!({ "name": name, "source": "bytes", "arguments": run.arguments, "value": false });
    once(
        cli,
        &run.limits,
        &json!({ "task": task }),
        &[("code", OwnedFd::from(file))],
    )
}

fn program(cli: &Cli, limits: &SandboxLimits, command: &[String]) -> Done {
    once(cli, limits, &json!({ "command": command }), &[])
}

/// One run, with this process's standard descriptors; its exit code.
fn once(cli: &Cli, limits: &SandboxLimits, what: &Value, further: &[(&str, OwnedFd)]) -> Done {
    let (ours, theirs) = socketpair()?;
    let profile = Profile {
        warm: false,
        at_once: 1,
        isolation: limits.isolation,
        ..Profile::default()
    };
    let pool = Beside::start(cli, profile, &theirs)?;
    drop(theirs);
    let (told, tell) = socketpair()?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut names = vec!["run", "stdin", "stdout", "stderr"];
    let mut fds = vec![tell.as_fd(), stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    for (name, fd) in further {
        names.push(name);
        fds.push(fd.as_fd());
    }
    let mut run = what.clone();
    run["fds"] = json!(names);
    run["environment"] = json!(variables(&limits.env)?);
    run["limits"] = json!(limits_of(limits));
    run["explain"] = json!(limits.explain);
    run["readable"] = json!(absolute(&limits.readable)?);
    if let Some(userdir) = &limits.userdir {
        let real = userdir.canonicalize();
        run["userdir"] = json!(real.map_err(|e| Failure::new(2, format!("--userdir {}: {e}", userdir.display())))?);
    }
    let bytes = serde_json::to_vec(&json!({ "run": run })).map_err(Failure::failed)?;
    match sys::send_fds(ours.as_fd(), &bytes, &fds, SendFlags::NOSIGNAL) {
        // It ended, and has said why.
        Err(rustix::io::Errno::PIPE | rustix::io::Errno::CONNRESET) => {}
        sent => drop(sent.map_err(std::io::Error::from)?),
    }
    drop(tell);
    let done = hear(&ours, &told, limits.json);
    drop(ours);
    let _ = pool.wait();
    done
}

/// What becomes of the run.
fn hear(pool: &OwnedFd, told: &OwnedFd, json: bool) -> Done {
    use rustix::event::{PollFd, PollFlags, poll};
    let mut bytes = vec![0; LONGEST];
    loop {
        let mut ready = [PollFd::new(told, PollFlags::IN), PollFd::new(pool, PollFlags::IN)];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other.map_err(std::io::Error::from)?,
        };
        let from = if ready[0].revents().is_empty() { pool } else { told };
        let mut once = |from: &OwnedFd| rustix::net::recv(from, &mut bytes[..], RecvFlags::empty());
        let mut receive = |from: &OwnedFd| {
            // What was not read at the other end is told first, and what was said there comes after.
            let again = once(from).or_else(|errno| match errno {
                rustix::io::Errno::CONNRESET => once(from),
                other => Err(other),
            });
            again.map(|(length, _)| length).map_err(std::io::Error::from)
        };
        let length = match receive(from)? {
            // A pool that could not begin has let go of this run, and says why to whoever started it.
            0 if std::ptr::eq(from, told) => receive(pool)?,
            length => length,
        };
        let event: Value = serde_json::from_slice(&bytes[..length]).unwrap_or_default();
        match event["event"].as_str() {
            Some("refused") => {
                return Err(Failure::new(
                    125,
                    event["error"].as_str().unwrap_or_default().to_owned(),
                ));
            }
            Some("ended") => return Ok(ended(&event, json)),
            Some(_) => {}
            None => return Err(Failure::new(125, "the pool of the sandbox ended before the run did")),
        }
    }
}

fn ended(event: &Value, json: bool) -> u8 {
    let number = |key: &str| event[key].as_i64();
    if json {
        errln!("{event}");
    } else {
        for denied in event["denied"].as_array().into_iter().flatten() {
            explain(denied);
        }
        if let Some(limit) = event["limit"].as_str() {
            errln!("note: ended by its limit `{limit}`");
        }
    }
    match (number("exit"), number("signal")) {
        (Some(exit), _) => u8::try_from(exit & 0xff).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(128 + signal).unwrap_or(255),
        (None, None) => 125,
    }
}

/// Of files: what is denied of the network says itself.
fn explain(denied: &Value) {
    let text = |key: &str| denied[key].as_str().unwrap_or_default();
    if text("kind") == "file" {
        errln!("note: denied: {}: {}", text("target"), text("rule"));
        errln!("      allowed by: {}", text("allow"));
    }
}

fn variables(given: &[String]) -> Result<std::collections::BTreeMap<&str, &str>, Failure> {
    let pair = |variable: &'_ String| format!("-e {variable}: write KEY=VALUE");
    given
        .iter()
        .map(|v| v.split_once('=').ok_or_else(|| Failure::new(2, pair(v))))
        .collect()
}

fn absolute(paths: &[std::path::PathBuf]) -> Result<Vec<std::path::PathBuf>, Failure> {
    let real = |path: &std::path::PathBuf| {
        let wrong = |e: std::io::Error| Failure::new(2, format!("--readable {}: {e}", path.display()));
        Path::canonicalize(path).map_err(wrong)
    };
    paths.iter().map(real).collect()
}

fn limits_of(given: &SandboxLimits) -> Limits {
    Limits {
        wall: given.wall,
        cpu: given.cpu,
        memory: given.memory,
        processes: given.processes,
        file_size: given.file_size,
        ..Limits::default()
    }
}

fn socketpair() -> Result<(OwnedFd, OwnedFd), Failure> {
    let made = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
    Ok(made.map_err(std::io::Error::from)?)
}
