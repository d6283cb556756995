//! What tests of the whole program share: a manifest in a folder of its own, run as root or as an ordinary
//! user, and cleaned away afterwards.
//!
//! Nothing here is skipped: a test that lacks what it needs panics and says what to install. Nothing has a
//! time limit either; what is waited for either comes, or the test is stuck. That is told by name after a while, and
//! ends all tests of its program: [`bound`].

#![allow(dead_code, reason = "each test binary uses a part")]
#![allow(unreachable_pub, reason = "each test binary has it as a module of its own")]

pub mod python;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, OnceLock};

/// The ordinary user that rootless tests run as; made on first use.
pub const USER: &str = "pysecure-test";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Root,
    Rootless,
}

pub const BOTH: [Mode; 2] = [Mode::Root, Mode::Rootless];

/// A manifest in a folder, and the state of the app that it makes.
pub struct App {
    pub mode: Mode,
    pub folder: PathBuf,
}

/// What a command came to.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn from(output: Output) -> Ended {
        use std::os::unix::process::ExitStatusExt;
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let code = output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
        Ended {
            code,
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Panics with all that was printed if the command failed.
    #[track_caller]
    pub fn ok(self) -> Ended {
        assert_eq!(self.code, 0, "failed:\n{}\n{}", self.out, self.err);
        self
    }
}

/// Has the test that runs in this thread end in a bounded time: counted from its last app, so that it bears on one that is
/// stuck, and not on one that is slow. A bound of the run and no assertion; `PYSECURE_TEST_MINUTES` is another one, and 0
/// is none.
pub fn bound() {
    use std::collections::HashMap;
    use std::thread::{ThreadId, current};
    use std::time::{Duration, Instant};
    static RUNNING: Mutex<Option<HashMap<ThreadId, (String, Instant)>>> = Mutex::new(None);
    /// Gone with its thread.
    struct Entered(ThreadId);
    impl Drop for Entered {
        fn drop(&mut self) {
            if let Some(running) = &mut *RUNNING.lock().unwrap() {
                running.remove(&self.0);
            }
        }
    }
    thread_local! {
        static ENTERED: Entered = Entered(current().id());
    }
    let number = |name: &str| std::env::var(name).ok()?.parse::<u64>().ok();
    let minutes = number("PYSECURE_TEST_MINUTES").unwrap_or(30);
    // A soak is as long as it is told to be.
    let bound = Duration::from_secs(
        60 * minutes
            + if minutes > 0 {
                number("PYSECURE_SOAK").unwrap_or(0)
            } else {
                0
            },
    );
    if bound.is_zero() {
        return;
    }
    let name = current().name().unwrap_or("a test").to_owned();
    let watch = move || {
        loop {
            std::thread::sleep(Duration::from_secs(1));
            let running = RUNNING.lock().unwrap();
            let all = running.iter().flat_map(HashMap::values);
            let stuck: Vec<&str> = all
                .filter(|(_, since)| since.elapsed() > bound)
                .map(|(name, _)| name.as_str())
                .collect();
            if !stuck.is_empty() {
                let text = format!("\nstuck for {} minutes: {}\n", bound.as_secs() / 60, stuck.join(", "));
                // Not by what the tests' output is taken by.
                let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
                remove_folders();
                std::process::abort();
            }
        }
    };
    let mut running = RUNNING.lock().unwrap();
    if running.is_none() {
        std::thread::spawn(watch);
    }
    let id = ENTERED.with(|entered| entered.0);
    running.get_or_insert_default().insert(id, (name, Instant::now()));
}

impl App {
    /// A folder with this manifest as `pysecure.toml`. The app's name should be unlike that of any other test.
    pub fn new(mode: Mode, manifest: &str) -> App {
        bound();
        need_root();
        let folder = fresh_folder();
        let app = App { mode, folder };
        if mode == Mode::Rootless {
            user();
        }
        app.write("pysecure.toml", manifest);
        app.give(&app.folder);
        app
    }

    /// Writes a file beside the manifest, as its user's.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.join(name);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).unwrap();
        }
        std::fs::write(&path, content).unwrap();
        let mut at = path.clone();
        while at != self.folder {
            self.give(&at);
            at.pop();
        }
        path
    }

    fn give(&self, path: &Path) {
        if self.mode == Mode::Rootless {
            let (uid, gid) = user();
            std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// `pysecure ARGS`, in the manifest's folder, as the mode's user; not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        self.shell_free(binary().to_str().unwrap(), args)
    }

    /// Any program as the mode's user, in the manifest's folder, with the app's state directory set.
    pub fn shell_free(&self, program: &str, args: &[&str]) -> Command {
        let mut command = match self.mode {
            Mode::Root => Command::new(program),
            Mode::Rootless => {
                let mut command = Command::new("setpriv");
                command.args([
                    "--reuid",
                    USER,
                    "--regid",
                    USER,
                    "--init-groups",
                    "--inh-caps=-all",
                    program,
                ]);
                command
            }
        };
        command
            .args(args)
            .current_dir(&self.folder)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.folder)
            .env("PYSECURE_STATE_DIR", self.state())
            .stdin(Stdio::null());
        command
    }

    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Runs `pysecure ARGS` to its end.
    pub fn run(&self, args: &[&str]) -> Ended {
        Ended::from(self.command(args).output().unwrap())
    }

    /// Runs it, and panics if it fails.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> Ended {
        self.run(args).ok()
    }

    /// A shell command inside a running service.
    pub fn sh(&self, service: &str, script: &str) -> Ended {
        self.run(&["exec", "-T", service, "--", "sh", "-c", script])
    }

    /// `ps --json`.
    pub fn ps(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["ps", "--json"]).out).unwrap()
    }

    /// The rows of `access --json`.
    pub fn access(&self) -> Vec<serde_json::Value> {
        serde_json::from_str(&self.ok(&["access", "--json"]).out).unwrap()
    }

    pub fn supervisor(&self) -> i32 {
        self.ps()["supervisor_pid"].as_i64().unwrap() as i32
    }

    /// What `ps --json` says of a service.
    pub fn service(&self, service: &str) -> serde_json::Value {
        let ps = self.ps();
        let all = ps["services"].as_array().unwrap();
        all.iter().find(|s| s["service"] == service).unwrap().clone()
    }

    /// Waits until a service is in this state.
    pub fn wait_for_state(&self, service: &str, state: &str) -> serde_json::Value {
        wait_until(|| Some(self.service(service)).filter(|s| s["state"] == state))
    }

    /// PID 1 of a service's namespace, as the host counts.
    pub fn init_of(&self, service: &str) -> i32 {
        self.service(service)["pid"].as_i64().unwrap() as i32
    }

    /// The events of the app from now on.
    pub fn events(&self) -> Events {
        use std::io::BufRead;
        let mut child = self
            .command(&["-v", "events", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = std::io::BufReader::new(child.stdout.take().unwrap());
        let says = std::io::BufReader::new(child.stderr.take().unwrap());
        let heard = says
            .lines()
            .map_while(Result::ok)
            .any(|l| l.contains("hearing of events"));
        assert!(heard, "`events` ended before it heard of any");
        Events { child, lines }
    }

    /// All that a service has printed so far.
    pub fn logs(&self, service: &str) -> String {
        self.ok(&["logs", service]).out
    }

    /// Waits until a service has printed `text`.
    pub fn wait_for_log(&self, service: &str, text: &str) -> String {
        wait_until(|| Some(self.logs(service)).filter(|all| all.contains(text)))
    }
}

impl App {
    /// `pysecure ARGS` on a terminal of its own, which is its controlling terminal.
    pub fn on_terminal(&self, args: &[&str], rows: u16, columns: u16) -> Terminal {
        self.on_terminal_with(args, &[], rows, columns)
    }

    /// The same, with more in its environment.
    pub fn on_terminal_with(&self, args: &[&str], more: &[(&str, &str)], rows: u16, columns: u16) -> Terminal {
        let size = winsize(rows, columns);
        let ends = nix::pty::openpty(Some(&size), None).unwrap();
        let end = || Stdio::from(ends.slave.try_clone().unwrap());
        let inner = self.command(args);
        let mut command = Command::new("setsid");
        command
            .arg("--ctty")
            .arg(inner.get_program())
            .args(inner.get_args())
            .current_dir(&self.folder)
            .env_clear();
        for (key, value) in inner.get_envs() {
            command.env(key, value.unwrap());
        }
        command.envs(more.iter().copied());
        command.env("TERM", "dumb").stdin(end()).stdout(end()).stderr(end());
        let child = command
            .spawn()
            .expect("install `util-linux`: a terminal needs setsid(1)");
        Terminal {
            child,
            master: File::from(ends.master),
            slave: ends.slave,
            shown: String::new(),
        }
    }
}

/// `events --json`, while the app is up.
pub struct Events {
    child: Child,
    lines: std::io::BufReader<std::process::ChildStdout>,
}

impl Events {
    /// Reads up to the event of this kind and service; all up to and with it.
    pub fn until(&mut self, event: &str, service: &str) -> Vec<serde_json::Value> {
        use std::io::BufRead;
        let mut seen: Vec<serde_json::Value> = Vec::new();
        loop {
            let mut line = String::new();
            self.lines.read_line(&mut line).unwrap();
            assert!(!line.is_empty(), "no {event} of {service}, but {seen:?}");
            seen.push(serde_json::from_str(&line).unwrap());
            let last = seen.last().unwrap();
            if last["event"] == event && last["service"].as_str().unwrap_or("") == service {
                return seen;
            }
        }
    }

    /// All that are left, once the app is down.
    pub fn rest(mut self) -> Vec<serde_json::Value> {
        let mut text = String::new();
        self.lines.read_to_string(&mut text).unwrap();
        self.child.wait().unwrap();
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where an event stands among others; panics if it is not there.
#[track_caller]
pub fn place(events: &[serde_json::Value], event: &str, service: &str) -> usize {
    events
        .iter()
        .position(|e| e["event"] == event && e["service"] == service)
        .unwrap_or_else(|| panic!("no {event} of {service} in {events:#?}"))
}

/// A terminal, seen from the side of whoever sits before it.
pub struct Terminal {
    pub child: Child,
    master: File,
    /// Kept, so that the terminal's settings can be asked for when the program has ended.
    pub slave: OwnedFd,
    shown: String,
}

impl Terminal {
    pub fn type_in(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until `text` is shown; what was shown since the last call, up to and with it.
    pub fn until(&mut self, text: &str) -> String {
        let mut bytes = [0u8; 4096];
        loop {
            if let Some(at) = self.shown.find(text) {
                return self.shown.drain(..at + text.len()).collect();
            }
            let read = self.master.read(&mut bytes).unwrap();
            assert_ne!(read, 0, "the terminal closed; it showed {:?}", self.shown);
            self.shown += &String::from_utf8_lossy(&bytes[..read]);
        }
    }

    /// Closes both ends that are held here, as when a connection is lost.
    pub fn hang_up(self) -> Child {
        self.child
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        let size = rustix::termios::Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&self.master, size).unwrap();
    }

    /// Waits for the program, showing on so that it does not block.
    pub fn ended(&mut self) -> (i32, String) {
        use std::os::unix::process::ExitStatusExt;
        nix::fcntl::fcntl(
            &self.master,
            nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK),
        )
        .unwrap();
        let status = wait_until(|| {
            self.take();
            self.child.try_wait().unwrap()
        });
        self.take();
        (
            status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
            std::mem::take(&mut self.shown),
        )
    }

    fn take(&mut self) {
        let mut bytes = [0u8; 4096];
        while let Ok(read @ 1..) = self.master.read(&mut bytes) {
            self.shown += &String::from_utf8_lossy(&bytes[..read]);
        }
    }
}

fn winsize(rows: u16, columns: u16) -> nix::pty::Winsize {
    nix::pty::Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: nix::sys::signal::Signal) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal).unwrap();
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.run(&["down", "--purge"]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Asks again and again, a hundred times a second, until there is an answer.
pub fn wait_until<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// The program under test, where an ordinary user can run it.
pub fn binary() -> &'static Path {
    static COPY: OnceLock<PathBuf> = OnceLock::new();
    COPY.get_or_init(|| {
        let folder = fresh_folder();
        let copy = folder.join("pysecure");
        std::fs::copy(env!("CARGO_BIN_EXE_pysecure"), &copy).unwrap();
        std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o755)).unwrap();
        // Another thread may have forked while the copy was open for writing, and its child holds that until it execs.
        wait_until(|| match Command::new(&copy).arg("--version").output() {
            Err(e) if e.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
            other => Some(other.unwrap()),
        });
        copy
    })
}

/// A new empty folder that everybody may pass through. What is left of it when this program ends is removed then.
pub fn fresh_folder() -> PathBuf {
    static AT_EXIT: std::sync::Once = std::sync::Once::new();
    AT_EXIT.call_once(|| {
        #[allow(
            unsafe_code,
            reason = "what is in a static is not dropped, and the test runner leaves by exit(3)"
        )]
        // SAFETY: the function takes nothing, and does not unwind.
        let registered = unsafe { libc::atexit(remove_folders) };
        assert_eq!(registered, 0);
    });
    let folder = tempfile::Builder::new()
        .prefix("pysecure-")
        .tempdir_in("/tmp")
        .unwrap()
        .keep();
    FOLDERS.lock().unwrap().push(folder.clone());
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

static FOLDERS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

extern "C" fn remove_folders() {
    // Most are gone: an app's with the app.
    for folder in FOLDERS
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
        .drain(..)
    {
        let _ = std::fs::remove_dir_all(folder);
    }
}

/// The same below /opt, for what a jail is made of: of /tmp nothing gets into one. Gone with the value.
pub fn folder_of_the_host() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("pysecure-").tempdir_in("/opt").unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// An OCI runtime of the host's, where it cannot give away what is the host's: see the script. Its streams are pipes.
pub fn runtime(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/harness/runtime-namespace.sh"
    ));
    if program == "crun" {
        command.arg("--cgroup2");
    }
    command
        .arg(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// An OCI runtime's container in the foreground, and what it prints. It ends with the value.
pub struct Container {
    program: &'static str,
    pub id: String,
    child: Child,
    lines: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
    /// Passed on as it comes, and kept.
    complaints: Option<std::thread::JoinHandle<String>>,
}

impl Container {
    pub fn run(program: &'static str, bundle: &Path) -> Container {
        use std::io::{BufRead, BufReader};
        let name = bundle.file_name().unwrap().to_str().unwrap();
        let id = format!("pysecure-test-{}-{program}-{name}", std::process::id());
        let mut child = runtime(program, &["run", "-b", bundle.to_str().unwrap(), &id])
            .spawn()
            .unwrap_or_else(|e| panic!("{e}: install `util-linux` and `{program}`"));
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let complaints = BufReader::new(child.stderr.take().unwrap()).lines();
        let complaints = std::thread::spawn(move || {
            let mut all = String::new();
            for line in complaints.map_while(Result::ok) {
                let _ = writeln!(std::io::stderr(), "{line}");
                all += &format!("{line}\n");
            }
            all
        });
        Container {
            program,
            id,
            child,
            lines,
            complaints: Some(complaints),
        }
    }

    /// All it prints, up to and with the line that ends so.
    pub fn until(&mut self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for line in self.lines.by_ref() {
            seen.push(line.unwrap());
            if seen.last().is_some_and(|line| line.ends_with(last)) {
                return seen;
            }
        }
        panic!("{} {}: ended without `{last}`: {seen:#?}", self.program, self.id)
    }

    /// Panics with what the runtime said if it has ended.
    #[track_caller]
    pub fn still_runs(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            let said = self.complained();
            panic!("{} {}: {status}: {said}", self.program, self.id);
        }
    }

    /// Waits for its end.
    pub fn ended(mut self) -> Ended {
        drop(self.child.stdin.take());
        let out: String = self.lines.by_ref().map(|line| line.unwrap() + "\n").collect();
        let status = self.child.wait().unwrap();
        Ended::from(Output {
            status,
            stdout: out.into_bytes(),
            stderr: self.complained().into_bytes(),
        })
    }

    fn complained(&mut self) -> String {
        self.complaints
            .take()
            .map(|all| all.join().unwrap())
            .unwrap_or_default()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // It may be on its way still, and have no process yet that could be killed.
        wait_until(|| {
            let ended = self.child.try_wait().unwrap();
            if ended.is_none() {
                let state = Command::new(self.program).args(["state", &self.id]).output();
                let state = state.map(|state| state.stdout).unwrap_or_default();
                let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
                // One that has ended has the process 0, which is the group of this one for kill(2).
                if let Some(pid @ 1..) = state["pid"].as_u64() {
                    let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).status();
                }
            }
            ended
        });
    }
}

pub fn need_root() {
    let uid = std::process::Command::new("id").arg("-u").output().unwrap().stdout;
    assert_eq!(
        uid, b"0\n",
        "these tests start services as root and as an ordinary user: run them as root (tests/run)"
    );
}

/// The test user's ids; the user is made if need be, with subordinate ids as useradd gives them.
pub fn user() -> (u32, u32) {
    static IDS: OnceLock<(u32, u32)> = OnceLock::new();
    *IDS.get_or_init(|| {
        let made = Command::new("flock")
            .args(["/run/lock/pysecure-test-user", "sh", "-c"])
            .arg(format!("id {USER} >/dev/null 2>&1 || useradd --create-home {USER}"))
            .status()
            .unwrap();
        assert!(
            made.success(),
            "make the user {USER}: install `passwd` and `util-linux`"
        );
        assert!(
            Path::new("/usr/bin/newuidmap").exists(),
            "install `uidmap`: rootless tests need newuidmap"
        );
        let id = |flag: &str| {
            let out = Command::new("id").args([flag, USER]).output().unwrap().stdout;
            String::from_utf8(out).unwrap().trim().parse().unwrap()
        };
        (id("-u"), id("-g"))
    })
}

/// The first of the test user's subordinate ids.
pub fn first_subordinate_id() -> u32 {
    let text = std::fs::read_to_string("/etc/subuid").unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(&format!("{}:", USER)))
        .unwrap();
    line.split(':').next().unwrap().parse().unwrap()
}

/// Cgroups of an app, in any hierarchy.
pub fn cgroups_of(app: &str) -> Vec<PathBuf> {
    fn below(folder: &Path, app: &str, depth: usize, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if folder.ends_with("pysecure") && name.starts_with(&format!("{app}.")) {
                    found.push(entry.path());
                }
                if depth > 0 {
                    below(&entry.path(), app, depth - 1, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    below(Path::new("/sys/fs/cgroup"), app, 4, &mut found);
    found
}

/// A port of this host that nobody has; never the same twice.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<std::collections::BTreeSet<u16>> = Mutex::new(std::collections::BTreeSet::new());
    loop {
        let port = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        if GIVEN.lock().unwrap().insert(port) {
            return port;
        }
    }
}
