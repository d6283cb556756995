//! Twenty clients with conflicting orders, faults, a frozen supervisor, and calls all the while: nothing is lost, stuck, left
//! over or run twice.
//!
//! ```text
//! cargo test --test endurance soak -- --nocapture                   # a quarter of a minute
//! PYSECURE_SOAK=600 cargo test --test endurance soak -- --nocapture # ten minutes, or as many seconds as it says
//! ```
//!
//! Each call has a name. Who makes it writes down what it was told, and the callee writes a line for each that it runs, so that in
//! the end the two can be compared. Services hold a lock as long as they run: two of one at once would be seen.

use super::harness::python::package;
use super::harness::{self, App, Ended, Mode, wait_until};
use super::{Chance, cost, kill, processes};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const CLIENTS: usize = 20;
/// Without the environment's word.
const SECONDS: u64 = 15;
const SERVICES: [&str; 8] = [
    "counter",
    "calls",
    "slow",
    "ahead",
    "stubborn",
    "files",
    "listens",
    "published",
];
/// Those that write down what they were told of calls.
const CALLERS: [&str; 3] = ["calls", "slow", "ahead"];

fn manifest(mode: Mode, name: &str, range: u32, port: u16) -> String {
    // An ordinary user has no cgroups of version 1.
    let limits = match mode {
        Mode::Root => "limits = { pids = 50 }",
        Mode::Rootless => "",
    };
    let python = |service: &str, folder: &str, rest: &str| {
        format!(
            r#"
[services.{service}]
command = ["python3", "-B", "{service}.py"]
directory = "/app"
owner_resources = ["{folder}"]
environment = {{ PYTHONPATH = "/opt/pysecure" }}
{rest}
{RESTART}
"#
        )
    };
    const RESTART: &str =
        "restart = \"always\"\nrestart_delay = \"10ms\"\nrestart_max_delay = \"200ms\"\nrestart_limit = 0";
    let counter = python(
        "counter",
        "ran",
        "ready = \"notify\"\ncallers = { calls = [\"once\"], slow = [\"items\"], ahead = [\"once\"] }",
    );
    let callers: String = CALLERS.iter().map(|c| python(c, c, "")).collect();
    format!(
        r#"
[app]
name = "{name}"
uid_range = [{range}, {last}]
gid_range = [{range}, {last}]
code = {{ "/app" = "./app", "/opt/pysecure" = "./lib" }}
[resources]
ran = {{ path = "/data/ran/", owner = "rw" }}
calls = {{ path = "/data/calls/", owner = "rw" }}
slow = {{ path = "/data/slow/", owner = "rw" }}
ahead = {{ path = "/data/ahead/", owner = "rw" }}
files = {{ path = "/data/files/", owner = "rw" }}
{counter}{callers}
[services.stubborn]
command = ["sh", "-c", "trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.05; done"]
stop_timeout = "1s"
{limits}
{RESTART}
[services.files]
command = ["sh", "-c", "echo begins; sleep 100000 & wait"]
depends_on = ["stubborn"]
owner_resources = ["files"]
health = {{ command = ["true"], interval = "200ms" }}
{RESTART}
[services.listens]
command = ["python3", "-B", "-c", """
import socket
s = socket.socket(fileno=3)
while True:
    c, _ = s.accept()
    c.sendall(b'whole')
    c.close()
"""]
listen = ["127.0.0.1:{port}"]
start = "on-demand"
{RESTART}
[services.published]
command = ["python3", "-B", "-c", """
import socket
s = socket.create_server(('127.0.0.1', 80))
while True:
    c, _ = s.accept()
    c.sendall(b'whole')
    c.close()
"""]
publish = ["127.0.0.1:{published}:80"]
ready = {{ tcp = "127.0.0.1:80" }}
{RESTART}
"#,
        last = range + 19,
        published = port + 1,
    )
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Storm {
    /// Nothing that ends the supervisor.
    OneSupervisor,
    All,
}

struct Soak {
    app: App,
    name: &'static str,
    port: u16,
    seed: u64,
    over: AtomicBool,
    commands: AtomicU64,
    /// How commands ended, by what they were and what they said.
    ends: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<BTreeMap<&'static str, u64>>,
    /// What a client is about, and since when.
    now: Vec<Mutex<Option<(Instant, String)>>>,
    /// Files that were copied in, as the command said, and those of which it said otherwise.
    copied: Mutex<(BTreeSet<String>, BTreeSet<String>)>,
}

pub(super) fn soak(mode: Mode, name: &'static str, range: u32, port: u16) {
    let seconds = match std::env::var("PYSECURE_SOAK") {
        Ok(text) => text.parse().expect("PYSECURE_SOAK is a number of seconds"),
        Err(_) => SECONDS,
    };
    let app = App::new(mode, &manifest(mode, name, range, port));
    for (file, text) in [
        ("single.py", include_str!("single.py")),
        ("counter.py", include_str!("counter.py")),
        ("calls.py", include_str!("calls.py")),
        ("slow.py", include_str!("slow.py")),
        ("ahead.py", include_str!("ahead.py")),
    ] {
        app.write(&format!("app/{file}"), text);
    }
    package(&app, mode == Mode::Root, "lib");
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    let soak = Soak {
        app,
        name,
        port,
        seed: since.as_nanos() as u64 | 1,
        over: AtomicBool::new(false),
        commands: AtomicU64::new(0),
        ends: Mutex::default(),
        faults: Mutex::default(),
        now: (0..CLIENTS).map(|_| Mutex::default()).collect(),
        copied: Mutex::default(),
    };
    println!("{mode:?}: seed {:#x}, {seconds} s", soak.seed);
    let before = soak.figures(range);
    soak.rest();
    let first = soak.app.supervisor();
    soak.storm(Storm::OneSupervisor, Duration::from_secs(seconds) / 6, 1);
    soak.rest();
    let early = (cost(first), descriptors(first), soak.at_rest(range));
    soak.storm(Storm::OneSupervisor, Duration::from_secs(seconds) / 3, 2);
    soak.rest();
    assert_eq!(soak.app.supervisor(), first, "the supervisor was to last");
    let late = (cost(first), descriptors(first), soak.at_rest(range));
    soak.storm(Storm::All, Duration::from_secs(seconds) / 2, 3);
    soak.rest();
    let again = soak.app.sh("files", "echo again").ok().out;
    assert_eq!(again, "again\n");
    soak.app.ok(&["down"]);
    soak.nothing_runs(range);
    let after = soak.figures(range);
    assert_eq!(after, before);
    println!(
        "{mode:?}: {} commands by {CLIENTS} clients",
        soak.commands.load(Ordering::Relaxed)
    );
    println!("{mode:?}: faults: {:?}", soak.faults.lock().unwrap());
    for (end, count) in soak.ends.lock().unwrap().iter() {
        println!("{mode:?}: {count:6} {end}");
    }
    soak.calls(mode);
    soak.copies(mode);
    for (when, figures, supervisor) in [
        ("before", &before, None),
        ("early, at rest", &early.2, Some(early.0)),
        ("late, at rest", &late.2, Some(late.0)),
        ("after", &after, None),
    ] {
        println!("{mode:?}: {when}: {figures:?}; of the supervisor, descriptors and KiB: {supervisor:?}");
    }
    // `stubborn` has its sleep at most moments, and not at all.
    assert!(
        late.2.processes <= early.2.processes + 1
            && late.2.mounts <= early.2.mounts
            && late.2.sockets <= early.2.sockets,
        "something grows: {:?}, {:?}",
        early.2,
        late.2
    );
    // A probe or a client may be there in one of them.
    let count = |of: &BTreeMap<String, usize>| of.values().sum::<usize>();
    assert!(
        count(&late.1) <= count(&early.1) + 3,
        "descriptors grow: {:#?}, {:#?}",
        early.1,
        late.1
    );
    assert!(
        late.0.1 <= early.0.1 + 1024,
        "memory grows: {:?}, {:?}",
        early.0,
        late.0
    );
}

#[derive(Debug, PartialEq, Eq)]
struct Figures {
    processes: usize,
    mounts: usize,
    cgroups: usize,
    sockets: usize,
}

/// Sockets that lie below a folder.
fn sockets(folder: &Path) -> usize {
    use std::os::unix::fs::FileTypeExt;
    // What is looked at may go meanwhile.
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    all.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => sockets(&entry.path()),
        Ok(kind) => usize::from(kind.is_socket()),
        Err(_) => 0,
    })
    .sum()
}

/// What a process has open, and how often: but for logs, of which it opens each when it has something for it, and sixteen at most.
fn descriptors(pid: i32) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten() {
        let Ok(what) = std::fs::read_link(entry.path()) else {
            continue;
        };
        let what = what.display().to_string();
        if what.ends_with(".log") {
            continue;
        }
        // Of sockets and pipes the kind, and not the number.
        let kind = what.split(":[").next().unwrap_or_default();
        *all.entry(kind.to_owned()).or_default() += 1;
    }
    all
}

impl Soak {
    /// The app is up again by one command, and all of it runs.
    fn rest(&self) {
        self.app.ok(&["up", "-d"]);
        wait_until(|| {
            let ps = self.app.ps();
            let all = ps["services"].as_array().unwrap();
            let rests = |s: &serde_json::Value| s["state"] == "running" || s["service"] == "listens";
            (all.len() == SERVICES.len() && all.iter().all(rests)).then_some(())
        });
        // The one that starts on demand, too.
        let mut connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let mut text = String::new();
        connection.read_to_string(&mut text).unwrap();
        assert_eq!(text, "whole");
    }

    fn storm(&self, kind: Storm, length: Duration, number: u64) {
        self.over.store(false, Ordering::Relaxed);
        let end = Instant::now() + length;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let mut chance = Chance(self.seed ^ ((client as u64 + 1) * 7_919 + number) << 32);
                    scope.spawn(move || {
                        while Instant::now() < end {
                            self.order(client, kind, &mut chance);
                        }
                    })
                })
                .collect();
            let faults = scope.spawn(move || {
                let mut chance = Chance(self.seed ^ number << 40);
                while !self.over.load(Ordering::Relaxed) {
                    // All else has ended when what a client waits for has.
                    if Instant::now() < end {
                        self.fault(kind, &mut chance);
                    }
                    std::thread::sleep(Duration::from_millis(50 + chance.below(300)));
                    self.tell_what_takes_long();
                }
            });
            let wrong: Vec<_> = clients.into_iter().filter_map(|c| c.join().err()).collect();
            self.over.store(true, Ordering::Relaxed);
            faults.join().unwrap();
            assert!(wrong.is_empty(), "a client failed");
        });
    }

    /// Nothing here has a time limit. What is stuck has a name.
    fn tell_what_takes_long(&self) {
        for now in &self.now {
            let mut now = now.lock().unwrap();
            if let Some((since, what)) = &mut *now
                && since.elapsed() > Duration::from_secs(60)
            {
                println!("{}: for a minute more: {what}", self.name);
                *since = Instant::now();
            }
        }
    }

    /// Runs a command to its end, as a client.
    fn run(&self, client: usize, args: &[&str]) -> Ended {
        let what = args.join(" ");
        *self.now[client].lock().unwrap() = Some((Instant::now(), what.clone()));
        let ended = self.app.run(args);
        *self.now[client].lock().unwrap() = None;
        self.commands.fetch_add(1, Ordering::Relaxed);
        let said = ended.err.lines().find(|l| l.contains("error")).unwrap_or("");
        // What differs from time to time.
        let said: String = said.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let order: Vec<&str> = args
            .iter()
            .take_while(|a| !a.contains(['/', ':']))
            .take(3)
            .copied()
            .collect();
        *self
            .ends
            .lock()
            .unwrap()
            .entry(format!("{} → {} {said}", order.join(" "), ended.code))
            .or_default() += 1;
        assert!(!ended.err.contains("panicked"), "{what}: {}", ended.err);
        ended
    }

    fn order(&self, client: usize, kind: Storm, chance: &mut Chance) {
        let service = SERVICES[chance.below(SERVICES.len() as u64) as usize];
        let number = chance.below(1 << 40);
        match chance.below(40) {
            0..6 => drop(self.run(client, &["up", "-d"])),
            6 if kind == Storm::All => drop(self.run(client, &["down"])),
            7..11 => drop(self.run(client, &["stop", service])),
            11..16 => drop(self.run(client, &["start", service])),
            16..20 => drop(self.run(client, &["restart", service])),
            20 => drop(self.run(client, &["kill", "-s", "KILL", service])),
            21 => drop(self.run(client, &["kill", "-s", "TERM", service])),
            22..26 => {
                let script = format!("echo {number}");
                let ended = self.run(client, &["exec", "-T", "files", "--", "sh", "-c", &script]);
                assert!(ended.code != 0 || ended.out == format!("{number}\n"), "exec: {ended:?}");
            }
            26..29 => {
                let name = format!("in{number}");
                let source = self.app.write(&format!("from/{name}"), content(&name));
                let to = format!("files:/data/files/{name}");
                let ended = self.run(client, &["cp", source.to_str().unwrap(), &to]);
                let mut copied = self.copied.lock().unwrap();
                match ended.code {
                    0 => copied.0.insert(name),
                    _ => copied.1.insert(name),
                };
            }
            29..31 => {
                let name = self.copied.lock().unwrap().0.iter().next_back().cloned();
                if let Some(name) = name {
                    let to = self.app.folder.join(format!("to{client}"));
                    let _ = std::fs::remove_file(&to);
                    let from = format!("files:/data/files/{name}");
                    let ended = self.run(client, &["cp", &from, to.to_str().unwrap()]);
                    let got = std::fs::read(&to).ok();
                    let whole = got.as_ref().is_some_and(|got| *got == content(&name));
                    assert!(whole || (ended.code != 0 && got.is_none()), "cp out: {ended:?}");
                }
            }
            31..33 => drop(self.run(client, &["logs", "--tail", "5", service])),
            33..35 => {
                let ended = self.run(client, &["ps", "--json"]);
                assert!(ended.code != 0 || serde_json::from_str::<serde_json::Value>(&ended.out).is_ok());
            }
            35 => drop(self.run(client, &["stats", "--json"])),
            _ => self.connect(chance.below(2) as u16),
        }
    }

    /// What is answered at all is answered whole. A service that is stopped keeps its clients waiting.
    fn connect(&self, which: u16) {
        let Ok(mut connection) = TcpStream::connect(("127.0.0.1", self.port + which)) else {
            return;
        };
        connection.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let mut text = Vec::new();
        let ended = connection.read_to_end(&mut text);
        let end = match (&ended, text.as_slice()) {
            (Ok(_), b"whole") => "connection: whole",
            (Ok(_), b"") => "connection: closed",
            (Err(_), _) => "connection: not answered for two seconds, or reset",
            (Ok(_), _) => "connection: cut",
        };
        *self.ends.lock().unwrap().entry(end.into()).or_default() += 1;
    }

    fn fault(&self, kind: Storm, chance: &mut Chance) {
        let Ok(ps) = serde_json::from_str::<serde_json::Value>(&self.app.run(&["ps", "--json"]).out) else {
            return;
        };
        let supervisor = ps["supervisor_pid"].as_i64().unwrap() as u32;
        let services = ps["services"].as_array().unwrap();
        let inits: Vec<u32> = services
            .iter()
            .filter_map(|s| s["pid"].as_u64())
            .map(|p| p as u32)
            .collect();
        if inits.is_empty() {
            return;
        }
        let some = inits[chance.below(inits.len() as u64) as usize];
        let done = match chance.below(10) {
            0..2 => {
                kill(some);
                "a service's PID 1 killed"
            }
            2..4 => {
                children(some).first().copied().into_iter().for_each(kill);
                "a service's program killed"
            }
            4..6 => {
                let beside: Vec<u32> = children(supervisor)
                    .into_iter()
                    .filter(|pid| !inits.contains(pid) && name_of(*pid) != "pysecure-guard")
                    .collect();
                if beside.is_empty() {
                    return;
                }
                kill(beside[chance.below(beside.len() as u64) as usize]);
                "a process beside a service killed"
            }
            6..8 => {
                send(supervisor, Signal::SIGSTOP);
                std::thread::sleep(Duration::from_millis(chance.below(1500)));
                send(supervisor, Signal::SIGCONT);
                "supervisor frozen"
            }
            8 => {
                let _ = std::fs::remove_file(self.app.state().join(format!("run/{}/control.sock", self.name)));
                "control socket deleted"
            }
            _ if kind == Storm::All => {
                kill(supervisor);
                "supervisor killed"
            }
            _ => return,
        };
        *self.faults.lock().unwrap().entry(done).or_default() += 1;
    }

    /// What there is of the app on this host.
    fn figures(&self, range: u32) -> Figures {
        let shift = match self.app.mode {
            Mode::Root => 0,
            Mode::Rootless => harness::first_subordinate_id() - 1,
        };
        let (launchers, services) = processes(&self.app, &(range + shift..range + shift + 20), None);
        let named = |list: &str| {
            let text = std::fs::read_to_string(list).unwrap();
            let folder = self.app.folder.to_str().unwrap();
            text.lines().filter(|l| l.contains(folder)).count()
        };
        Figures {
            processes: launchers.len() + services,
            mounts: named("/proc/self/mountinfo"),
            cgroups: harness::cgroups_of(self.name).len(),
            sockets: sockets(&self.app.state()),
        }
    }

    /// The same, without a probe that happens to be asked: as few processes as there are at some moment.
    fn at_rest(&self, range: u32) -> Figures {
        let some = (0..50).map(|_| {
            std::thread::sleep(Duration::from_millis(20));
            self.figures(range)
        });
        some.min_by_key(|f| f.processes).unwrap()
    }

    fn nothing_runs(&self, range: u32) {
        wait_until(|| (self.figures(range).processes == 0).then_some(()));
        let run = self.app.state().join("run");
        assert!(
            !run.exists(),
            "{:?} is left",
            std::fs::read_dir(run).map(|d| d.flatten().map(|e| e.path()).collect::<Vec<_>>())
        );
    }

    fn book(&self, resource: &str, name: &str) -> String {
        let path = self
            .app
            .state()
            .join(format!("apps/{}/resources/{resource}/{name}", self.name));
        std::fs::read_to_string(path).unwrap_or_default()
    }

    /// What callers were told is what happened.
    fn calls(&self, mode: Mode) {
        let mut ran = BTreeMap::<&str, u64>::new();
        let book = self.book("ran", "ran");
        for call in book.lines() {
            *ran.entry(call).or_default() += 1;
        }
        let told: Vec<String> = CALLERS.iter().map(|c| self.book(c, "told")).collect();
        let mut calls = BTreeMap::<&str, &str>::new();
        let mut others = BTreeMap::<&str, u64>::new();
        for line in told.iter().flat_map(|t| t.lines()) {
            let (what, rest) = line.split_once(' ').unwrap();
            let call = rest.split(' ').next().unwrap();
            match what {
                "begun" => assert_eq!(calls.insert(call, "nothing"), None, "{line}"),
                "answered" | "unsure" | "refused" => assert_eq!(calls.insert(call, what), Some("nothing"), "{line}"),
                "whole" | "cut" => *others.entry(what).or_default() += 1,
                _ => panic!("{mode:?}: {line}"),
            }
        }
        let mut figures = BTreeMap::<(&str, u64), u64>::new();
        for (call, what) in &calls {
            let times = ran.remove(call).unwrap_or(0);
            *figures.entry((what, times)).or_default() += 1;
            let right = match *what {
                "answered" => times == 1,
                "refused" => times == 0,
                _ => times <= 1,
            };
            assert!(right, "{mode:?}: {call} was told {what}, and ran {times} times");
        }
        assert!(ran.is_empty(), "{mode:?}: calls that nobody made: {ran:?}");
        println!(
            "{mode:?}: {} calls; what was said of them, and how often they ran: {figures:?}",
            calls.len()
        );
        println!("{mode:?}: streams: {others:?}");
        for resource in ["ran", "calls", "slow", "ahead"] {
            assert_eq!(self.book(resource, "twice"), "", "{mode:?}: two at once");
        }
        assert!(
            figures.get(&("answered", 1)).is_some_and(|n| *n > 50),
            "{mode:?}: {figures:?}"
        );
    }

    /// A file that was said to be copied is there and whole; any other is whole, or not there.
    fn copies(&self, mode: Mode) {
        let (copied, not) = &*self.copied.lock().unwrap();
        let folder = self.app.state().join(format!("apps/{}/resources/files", self.name));
        let mut left: BTreeSet<String> = std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        for name in copied {
            assert!(left.remove(name), "{mode:?}: {name} is lost");
            assert!(
                std::fs::read(folder.join(name)).unwrap() == content(name),
                "{mode:?}: {name} is not whole"
            );
        }
        for name in not {
            if left.remove(name) {
                assert!(
                    std::fs::read(folder.join(name)).unwrap() == content(name),
                    "{mode:?}: {name} is a part"
                );
            }
        }
        println!("{mode:?}: {} files copied and whole; {} not", copied.len(), not.len());
        assert_eq!(left, BTreeSet::new(), "{mode:?}: left over by copies");
    }
}

/// Long enough that it is not copied at once.
fn content(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    while out.len() < 200_000 {
        writeln!(out, "{name} {}", out.len()).unwrap();
    }
    out
}

fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|p| p.parse().ok()).collect()
}

fn name_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    text.trim_end().to_owned()
}

fn send(pid: u32, signal: Signal) {
    // It may have ended.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal);
}
