//! A pool as its client sees it: `pysecure sandbox pool` at the other end of a socket pair, and runs that it is asked for.

#![allow(dead_code, reason = "each test binary uses a part")]

use crate::harness::{App, Mode, wait_until};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde_json::{Value, json};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Child;

/// What every attack starts with.
pub(crate) const PRELUDE: &str = include_str!("../escapes/prelude.py");
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// The ways in which code comes to run in a sandbox.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Way {
    Copy,
    Cold,
    Command,
}

pub(crate) const WAYS: [Way; 3] = [Way::Copy, Way::Cold, Way::Command];

/// A pool with a warm interpreter, and one without.
pub(crate) struct Pools {
    pub(crate) mode: Mode,
    pub(crate) warm: Pool,
    pub(crate) cold: Pool,
}

impl Pools {
    pub(crate) fn new(mode: Mode) -> Pools {
        Pools::of(mode, json!({}))
    }

    pub(crate) fn of(mode: Mode, mut profile: Value) -> Pools {
        let warm = Pool::new(mode, profile.clone());
        profile["warm"] = false.into();
        let cold = Pool::new(mode, profile);
        Pools { mode, warm, cold }
    }

    /// Begins a script in this way, with these keys of a run and descriptors.
    pub(crate) fn begin(&self, way: Way, script: &str, mut keys: Value, fds: &[(&str, &OwnedFd)]) -> Run {
        let script = format!("{PRELUDE}{script}");
        let code = in_memory(script.as_bytes());
        let mut fds = fds.to_vec();
        match way {
            Way::Command => keys["command"] = json!([PYTHON, "-c", script]),
            Way::Copy | Way::Cold => {
                keys["task"] = json!({ "source": "bytes", "name": "attack" });
                fds.push(("code", &code));
            }
        }
        let pool = if way == Way::Cold { &self.cold } else { &self.warm };
        pool.ask(keys, &fds)
    }

    /// Runs a script each way.
    pub(crate) fn each(&self, script: &str, see: impl Fn(Way, Ended)) {
        for way in WAYS {
            see(way, self.begin(way, script, json!({}), &[]).ended());
        }
        self.warm.still_serves();
    }

    /// The same, and each prints this.
    pub(crate) fn each_prints(&self, script: &str, expected: &str) {
        let mode = self.mode;
        self.each(script, |way, ended| {
            assert_eq!(ended.out, expected, "{mode:?} {way:?}: {ended:#?}");
        });
    }
}

pub(crate) fn socketpair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

pub(crate) fn in_memory(content: &[u8]) -> OwnedFd {
    let memory = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    let file = std::fs::File::from(memory);
    file.write_all_at(content, 0).unwrap();
    file.into()
}

/// The next message; `None` at the end.
pub(crate) fn hear(socket: &OwnedFd) -> Option<Value> {
    let mut bytes = vec![0; 1 << 20];
    match rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()) {
        Ok((0, _)) | Err(rustix::io::Errno::CONNRESET) => None,
        Ok((length, _)) => Some(serde_json::from_slice(&bytes[..length]).unwrap()),
        Err(e) => panic!("{e}"),
    }
}

pub(crate) fn say(socket: &OwnedFd, bytes: &[u8], fds: &[&OwnedFd]) {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let sent = pysecure::sys::send_fds(socket.as_fd(), bytes, &fds, SendFlags::NOSIGNAL);
    assert_eq!(sent.unwrap(), bytes.len());
}

pub(crate) struct Pool {
    pub(crate) control: Option<OwnedFd>,
    pub(crate) process: Child,
    /// Its folder and state, until they are somebody else's.
    app: Option<App>,
}

/// A run that was asked for.
pub(crate) struct Run {
    pub(crate) connection: OwnedFd,
    stdout: std::fs::File,
    stderr: std::fs::File,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) event: Value,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) uid: Option<u64>,
}

impl Ended {
    /// Panics if it did not end well.
    #[track_caller]
    pub(crate) fn ok(self) -> Ended {
        assert!(
            self.event["exit"] == 0 && self.event["limit"].is_null(),
            "not ended well: {self:#?}"
        );
        self
    }

    pub(crate) fn limit(&self) -> Option<&str> {
        self.event["limit"].as_str()
    }

    pub(crate) fn refused(&self) -> Option<&str> {
        self.event["error"]
            .as_str()
            .filter(|_| self.event["event"] == "refused")
    }
}

impl Pool {
    pub(crate) fn new(mode: Mode, profile: Value) -> Pool {
        let app = App::new(mode, "");
        match Pool::start(app, &profile) {
            Ok(pool) => pool,
            Err((_, error)) => panic!("{mode:?}: the pool was refused: {error}"),
        }
    }

    /// With the state of an earlier one.
    pub(crate) fn start(app: App, profile: &Value) -> Result<Pool, (App, String)> {
        Pool::start_within(app, profile, &[])
    }

    /// Started by another program, which becomes it.
    pub(crate) fn start_within(app: App, profile: &Value, within: &[&str]) -> Result<Pool, (App, String)> {
        let (ours, theirs) = socketpair();
        let plain = app.command(&["sandbox", "pool"]);
        let mut command = match within {
            [] => plain,
            [program, args @ ..] => {
                let mut command = std::process::Command::new(program);
                command
                    .args(args)
                    .arg(plain.get_program())
                    .args(plain.get_args())
                    .env_clear();
                command.current_dir(plain.get_current_dir().unwrap());
                for (key, value) in plain.get_envs() {
                    command.env(key, value.unwrap());
                }
                command
            }
        };
        command.stdin(theirs);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn().unwrap();
        drop(command);
        say(&ours, json!({ "profile": profile }).to_string().as_bytes(), &[]);
        match hear(&ours) {
            Some(ready) if ready["event"] == "ready" => {
                let isolation = profile.get("isolation").map_or("namespaces", |i| i.as_str().unwrap());
                assert_eq!(ready, json!({ "event": "ready", "isolation": isolation }));
                let control = Some(ours);
                let app = Some(app);
                Ok(Pool { control, process, app })
            }
            other => {
                process.wait().unwrap();
                Err((app, format!("{other:?}")))
            }
        }
    }

    /// Where the packages lie that its interpreters begin with.
    pub(crate) fn package(&self) -> PathBuf {
        let mut found = std::fs::read_dir(self.state().join("python")).unwrap().flatten();
        let carried =
            found.find_map(|entry| Some(entry.path().join("carried/pysecure_sandbox")).filter(|path| path.is_dir()));
        carried.expect("the pool has unpacked its packages")
    }

    pub(crate) fn app(&self) -> &App {
        self.app.as_ref().unwrap()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.app().state()
    }

    /// A directory of the pool's user.
    pub(crate) fn userdir(&self, name: &str) -> PathBuf {
        self.app().write(&format!("{name}/placeholder"), "");
        let path = self.app().folder.join(name);
        std::fs::remove_file(path.join("placeholder")).unwrap();
        path
    }

    pub(crate) fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        self.app().write(name, content)
    }

    /// Asks for a run. `further`: descriptors beside the standard ones.
    pub(crate) fn ask(&self, mut run: Value, further: &[(&str, &OwnedFd)]) -> Run {
        let (ours, theirs) = socketpair();
        let [stdout, stderr] = [in_memory(b""), in_memory(b"")];
        let mut names = vec!["run"];
        let mut fds = vec![&theirs];
        for (name, own) in [("stdout", &stdout), ("stderr", &stderr)] {
            if !further.iter().any(|(given, _)| *given == name) {
                names.push(name);
                fds.push(own);
            }
        }
        for (name, fd) in further {
            names.push(name);
            fds.push(fd);
        }
        run["fds"] = json!(names);
        let bytes = json!({ "run": run }).to_string();
        say(self.control.as_ref().unwrap(), bytes.as_bytes(), &fds);
        Run {
            connection: ours,
            stdout: stdout.into(),
            stderr: stderr.into(),
        }
    }

    pub(crate) fn run(&self, run: Value) -> Ended {
        self.ask(run, &[]).ended()
    }

    /// Python, with nothing else said.
    pub(crate) fn python(&self, code: &str) -> Ended {
        self.with(code, json!({}))
    }

    /// Python, with these keys of a run.
    pub(crate) fn with(&self, code: &str, keys: Value) -> Ended {
        self.begin(code, keys).ended()
    }

    pub(crate) fn begin(&self, code: &str, mut keys: Value) -> Run {
        keys["task"] = json!({ "source": "bytes", "name": "attack" });
        self.ask(keys, &[("code", &in_memory(code.as_bytes()))])
    }

    /// Still serves: what one run did is nothing to the next.
    #[track_caller]
    pub(crate) fn still_serves(&self) {
        assert_eq!(self.python("print('still here')").ok().out, "still here\n");
    }

    /// It and all that it has made, as the host counts.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut all = vec![self.process.id() as i32];
        let mut next = 0;
        while let Some(pid) = all.get(next) {
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            all.extend(children.split_whitespace().map(|pid| pid.parse::<i32>().unwrap()));
            next += 1;
        }
        all
    }

    /// The warm interpreter: the first process of all that has its command line.
    pub(crate) fn warm(&self) -> i32 {
        wait_until(|| {
            let warm = |pid: &i32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                String::from_utf8_lossy(&line).contains("pysecure_sandbox._warm")
            };
            self.processes().into_iter().find(warm)
        })
    }

    /// How many the pool has open, once it has done all that it was asked for so far.
    pub(crate) fn descriptors(&self) -> usize {
        let (ours, theirs) = socketpair();
        say(self.control.as_ref().unwrap(), b"{}", &[&theirs]);
        drop(theirs);
        assert_eq!(hear(&ours).unwrap()["event"], "refused");
        let pool = self.processes()[1];
        std::fs::read_dir(format!("/proc/{pid}/fd", pid = pool))
            .unwrap()
            .count()
    }

    /// Ends it; what was its folder and state.
    pub(crate) fn end(mut self) -> App {
        self.control = None;
        self.process.wait().unwrap();
        self.app.take().unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.control = None;
        let _ = self.process.wait();
    }
}

impl Run {
    pub(crate) fn ended(self) -> Ended {
        self.end()
    }

    /// Its end, of which more may be said.
    pub(crate) fn end(&self) -> Ended {
        loop {
            let event = hear(&self.connection).expect("the pool ended before the run did");
            if event["event"] == "started" {
                continue;
            }
            let text = |file: &std::fs::File| {
                let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
                file.read_exact_at(&mut bytes, 0).unwrap();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            return Ended {
                uid: event["uid"].as_u64(),
                event,
                out: text(&self.stdout),
                err: text(&self.stderr),
            };
        }
    }

    /// Waits until it has printed this.
    pub(crate) fn until(&self, text: &str) -> String {
        wait_until(|| {
            let mut bytes = vec![0; self.stdout.metadata().unwrap().len() as usize];
            self.stdout.read_at(&mut bytes, 0).unwrap();
            let said = String::from_utf8_lossy(&bytes).into_owned();
            said.contains(text).then_some(said)
        })
    }
}

/// Processes of the host with this text in their command line, but for those that only wait to be reaped.
pub(crate) fn processes_with(text: &str) -> Vec<i32> {
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            *pid != std::process::id() as i32 && String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
}

/// All that comes, until there is nobody who could write more.
pub(crate) fn rest(pipe: impl Into<OwnedFd>) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::fs::File::from(pipe.into()).read_to_end(&mut bytes).unwrap();
    bytes
}

/// A process of the pool's user, with no sandbox around it, at the head of a process group.
pub(crate) fn victim(app: &App) -> Child {
    let program =
        "import os, signal, time\nsignal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\ntime.sleep(1e6)";
    let mut command = app.shell_free(PYTHON, &["-c", program]);
    let child = std::os::unix::process::CommandExt::process_group(&mut command, 0)
        .spawn()
        .unwrap();
    wait_until(|| (field(child.id(), "SigBlk").as_deref() == Some("0000000000000200")).then_some(()));
    child
}

/// Has nobody sent it a signal, nor changed what it may use?
pub(crate) fn untouched(pid: u32) -> bool {
    let none = |name| field(pid, name).as_deref() == Some("0000000000000000");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap();
    let own = std::fs::read_to_string("/proc/self/limits").unwrap();
    let core = |limits: &str| {
        limits
            .lines()
            .find(|line| line.starts_with("Max core"))
            .unwrap()
            .to_owned()
    };
    none("SigPnd") && none("ShdPnd") && nice == "0" && core(&limits) == core(&own)
}

fn field(pid: u32, name: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// What a line of `escapes/strangers.py` says of each attempt: the name of an error, or what it got.
pub(crate) fn results(line: &str) -> impl Iterator<Item = &str> {
    let words = match line.strip_prefix("tried {") {
        Some(all) => all
            .trim_end_matches('}')
            .split(", ")
            .map(|one| one.rsplit(": ").next().unwrap())
            .collect(),
        // What comes of it is seen in the other process.
        None => Vec::new(),
    };
    words.into_iter().map(|word| word.trim_matches('\''))
}

pub(crate) fn exists(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}
