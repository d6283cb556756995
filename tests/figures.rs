//! What came of calls of services' functions, in `stats` and `metrics`: exact numbers, from services of one process and of
//! several, over workers that die and services that start again; and services that lie about it harm nobody.

mod harness;

use harness::{App, BOTH, Ended, Mode, wait_until};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

/// `many` does not say `ready = "notify"`: whoever is called has a place to hand its figures to.
const MANIFEST: &str = r#"
[app]
name = "NAME"
code = { "/app" = "./app", "/opt/pysecure" = "./lib" }

[services.one]
command = ["python3", "functions.py", "one"]
directory = "/app"
ready = "notify"
environment = { PYTHONPATH = "/opt/pysecure" }
callers = { web = ["add", "fail", "slow"] }

[services.many]
command = ["python3", "functions.py", "many"]
directory = "/app"
environment = { PYTHONPATH = "/opt/pysecure" }
callers = { web = ["plus", "pid", "die"] }

[services.web]
command = ["sleep", "infinity"]
directory = "/app"
depends_on = { one = "ready" }
environment = { PYTHONPATH = "/opt/pysecure" }
"#;

const FUNCTIONS: &str = r#"
import os, sys, time
import pysecure_rpc
from pysecure_rpc import rpc

@rpc(run_as="one")
def add(a: int, b: int) -> int:
    return a + b

@rpc(run_as="one")
def fail(text: str) -> None:
    raise ValueError(text)

@rpc(run_as="one")
def slow() -> None:
    time.sleep(0.01)

@rpc(run_as="one")
def hidden() -> None:
    pass

@rpc(run_as="many")
def plus(a: int, b: int) -> int:
    return a + b

@rpc(run_as="many")
def pid() -> int:
    return os.getpid()

@rpc(run_as="many")
def die() -> None:
    os._exit(3)

if __name__ == "__main__":
    if sys.argv[1] == "many":
        pysecure_rpc.start_service("many", processes=2)
    pysecure_rpc.start_service("one")
"#;

const CALL_ONE: &str = r#"
import socket
import functions as f
from pysecure_rpc import NoSuchFunction, _wire
for n in range(7):
    assert f.add(n, 1) == n + 1
for n in range(2):
    try:
        f.fail("x")
    except ValueError:
        continue
    raise AssertionError
f.slow()
try:
    f.hidden()
except NoSuchFunction:
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect("/run/pysecure/rpc/one.sock")
    s.recv(65536)
    for n in range(3):
        s.send(_wire.pack([2, n + 1, f"os.system{n}", [], {}]))
        assert _wire.unpack(s.recv(65536))[2] == "pysecure.NoSuchFunction"
    print("done")
"#;

/// 8 callers at once, each with a connection of its own: 8 × 5 calls.
const CALL_MANY: &str = r#"
import threading
import functions as f
def run():
    for n in range(5):
        assert f.plus(n, 1) == n + 1
threads = [threading.Thread(target=run) for _ in range(8)]
for t in threads: t.start()
for t in threads: t.join()
print("done")
"#;

const KILL_ONE_OF_MANY: &str = r#"
import functions as f
from pysecure_rpc import ConnectionLost
try:
    f.die()
except ConnectionLost:
    print("done")
"#;

fn app(mode: Mode) -> App {
    let name = format!("figures-{mode:?}").to_lowercase();
    let app = App::new(mode, &MANIFEST.replace("NAME", &name));
    harness::python::package(&app, false, "lib");
    app.write("app/functions.py", FUNCTIONS);
    app
}

/// Runs a program inside a service, to its last line.
fn python(app: &App, service: &str, program: &str) {
    let ended = app.run(&["exec", "-T", service, "--", "python3", "-Bc", program]).ok();
    assert!(ended.out.ends_with("done\n"), "{}\n{}", ended.out, ended.err);
}

/// `stats --json` of a service, by function.
fn stats(app: &App, service: &str) -> BTreeMap<String, Value> {
    let all: Value = serde_json::from_str(&app.ok(&["stats", "--json", service]).out).unwrap();
    let functions = all[0]["functions"].as_array().unwrap();
    let of = |f: &Value| (f["function"].as_str().unwrap().to_owned(), f.clone());
    functions.iter().map(of).collect()
}

/// Calls, errors and refusals of each function that has any.
fn counts(app: &App, service: &str) -> Vec<(String, u64, u64, u64)> {
    let of = |(name, f): (String, Value)| {
        let number = |key: &str| f[key].as_u64().unwrap();
        (name, number("calls"), number("errors"), number("denied"))
    };
    stats(app, service)
        .into_iter()
        .map(of)
        .filter(|(_, calls, errors, denied)| calls + errors + denied > 0)
        .collect()
}

fn told(all: &[(&str, u64, u64, u64)]) -> Vec<(String, u64, u64, u64)> {
    all.iter().map(|(n, c, e, d)| ((*n).to_owned(), *c, *e, *d)).collect()
}

/// What Prometheus' own reader of its text format makes of `metrics`.
const PARSE: &str = r#"
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
print(json.dumps([[f.type, s.name, s.labels, s.value] for f in parse(sys.stdin.read()) for s in f.samples]))
"#;

struct Metrics(Vec<Value>);

impl Metrics {
    fn of(app: &App) -> Metrics {
        let text = app.ok(&["metrics"]).out;
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", PARSE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("install `python3`");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let ended = Ended::from(child.wait_with_output().unwrap());
        assert_eq!(
            ended.code, 0,
            "install `python3-prometheus-client`:\n{}\n{text}",
            ended.err
        );
        Metrics(serde_json::from_str(&ended.out).unwrap())
    }

    /// The values of a metric, by label `le` if it has that.
    fn all(&self, name: &str, service: &str, function: &str) -> Vec<(String, f64)> {
        let wanted = |s: &&Value| {
            s[1] == name && s[2]["service"] == service && s[2]["function"].as_str().unwrap_or("") == function
        };
        let of = |s: &Value| (s[2]["le"].as_str().unwrap_or("").to_owned(), s[3].as_f64().unwrap());
        self.0.iter().filter(wanted).map(of).collect()
    }

    #[track_caller]
    fn one(&self, name: &str, service: &str, function: &str) -> f64 {
        match self.all(name, service, function)[..] {
            [(_, value)] => value,
            ref other => panic!("{name} of {service}.{function}: {other:?}"),
        }
    }
}

#[test]
fn calls_are_counted_by_function() {
    for mode in BOTH {
        let app = app(mode);
        app.ok(&["up", "-d"]);
        assert!(!app.ok(&["stats"]).out.contains("hidden 1"));
        python(&app, "web", CALL_ONE);
        let one = [
            ("", 0, 0, 3),
            ("add", 7, 0, 0),
            ("fail", 2, 2, 0),
            ("hidden", 0, 0, 1),
            ("slow", 1, 0, 0),
        ];
        assert_eq!(counts(&app, "one"), told(&one), "{mode:?}");
        let slow = &stats(&app, "one")["slow"];
        for key in ["mean_seconds", "p50_seconds", "p99_seconds"] {
            // Its bucket begins at 8.192 ms.
            assert!(slow[key].as_f64().unwrap() > 0.008, "{slow}");
        }
        assert_eq!(stats(&app, "one")["hidden"]["p50_seconds"], Value::Null);
        let table = app.ok(&["stats"]).out;
        let lines: Vec<Vec<&str>> = table.lines().map(|l| l.split_whitespace().collect()).collect();
        let has = |line: &[&str]| lines.iter().any(|l| l.starts_with(line));
        for line in [
            &["SERVICE", "FUNCTION", "CALLS", "ERRORS", "DENIED", "MEAN", "P50", "P99"][..],
            &["one", "add", "7", "0", "0"],
            &["one", "fail", "2", "2", "0"],
            &["one", "hidden", "0", "0", "1", "-", "-", "-"],
            &["one", "(no", "such)", "0", "0", "3"],
            &["many", "plus", "0", "0", "0"],
        ] {
            assert!(has(line), "{mode:?}: no line begins with {line:?}:\n{table}");
        }
        assert!(app.ok(&["stats", "web"]).out.lines().all(|l| !l.contains("FUNCTION")));

        let metrics = Metrics::of(&app);
        for (function, calls, errors, denied) in &one[1..] {
            assert_eq!(metrics.one("pysecure_rpc_calls_total", "one", function), *calls as f64);
            assert_eq!(
                metrics.one("pysecure_rpc_errors_total", "one", function),
                *errors as f64
            );
            assert_eq!(
                metrics.one("pysecure_rpc_denied_total", "one", function),
                *denied as f64
            );
            assert_eq!(
                metrics.one("pysecure_rpc_duration_seconds_count", "one", function),
                *calls as f64
            );
        }
        assert_eq!(metrics.one("pysecure_rpc_denied_total", "one", ""), 3.0);
        assert_eq!(metrics.all("pysecure_rpc_calls_total", "one", ""), []);
        let sum = metrics.one("pysecure_rpc_duration_seconds_sum", "one", "slow");
        assert!(sum >= 0.01, "{sum}");
        let buckets = metrics.all("pysecure_rpc_duration_seconds_bucket", "one", "slow");
        assert_eq!(buckets.len(), 28);
        assert_eq!(buckets[27], ("+Inf".to_owned(), 1.0));
        for (le, count) in &buckets[..27] {
            let bound: f64 = le.parse().unwrap();
            assert_eq!(*count, f64::from(u8::from(sum < bound)), "{le}: {sum}");
        }
        app.ok(&["down"]);
    }
}

#[test]
fn figures_of_all_processes_last_as_long_as_the_app() {
    for mode in BOTH {
        let app = app(mode);
        app.ok(&["up", "-d"]);
        let plus = |calls: u64| ("plus".to_owned(), calls, 0, 0);
        python(&app, "web", CALL_MANY);
        assert_eq!(counts(&app, "many"), [plus(40)], "{mode:?}");
        // One of its processes dies, another takes its place.
        for died in 1..4 {
            python(&app, "web", KILL_ONE_OF_MANY);
            let log = "a process of many ended with 3";
            wait_until(|| (app.logs("many").matches(log).count() == died).then_some(()));
        }
        python(&app, "web", CALL_MANY);
        assert_eq!(counts(&app, "many"), [plus(80)], "{mode:?}");
        app.ok(&["restart", "many"]);
        assert_eq!(counts(&app, "many"), [plus(80)], "{mode:?}");
        python(&app, "web", CALL_MANY);
        assert_eq!(counts(&app, "many"), [plus(120)], "{mode:?}");
        assert_eq!(Metrics::of(&app).one("pysecure_rpc_calls_total", "many", "plus"), 120.0);
        // What it came to is there when it runs no more.
        app.ok(&["stop", "many"]);
        assert_eq!(counts(&app, "many"), [plus(120)], "{mode:?}");
        app.ok(&["down"]);
    }
}

/// Pages of all kinds, each but the last of them a lie; then waits until the supervisor has read all.
const LIES: &str = r#"
import array, fcntl, os, socket, struct, sys
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect("/run/pysecure/notify/notify.sock")

def send(text, *fds):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    notify.sendmsg([text], rights)

def memfd(content, size=65536, seals=7):
    fd = os.memfd_create("x", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.pwrite(fd, content[:size], 0)
    return fd

def hand(fd, text=b"FDSTORE=1\nFDNAME=rpc-figures"):
    send(text, fd)
    os.close(fd)

def page(count, *slots):
    slots = [name.ljust(64, b"\0")[:64] + struct.pack("<32Q", *[number] * 32) for name, number in slots]
    return b"PSRPCFG1" + struct.pack("<II", count, 0) + b"".join(slots)

lie = page(1, (b"lie", 1))
for wrong in (
    memfd(lie, seals=6), memfd(lie, seals=3), memfd(lie, seals=0), memfd(lie, size=65535), memfd(lie, size=65537),
    memfd(lie, size=0), memfd(b"PSRPCFG0" + lie[8:]), memfd(b""), os.open("/dev/zero", os.O_RDONLY), os.open("/", os.O_PATH),
    os.open("/tmp/file", os.O_RDWR | os.O_CREAT, 0o600), os.pipe()[0], notify.dup().detach(),
):
    hand(wrong)
hand(memfd(lie), b"FDSTORE=1\nFDNAME=other")
hand(memfd(lie), b"FDNAME=rpc-figures")
send(b"FDSTORE=1\nFDNAME=rpc-figures")
# All that is sent beside the first descriptor is closed.
read, write = os.pipe()
fd = memfd(page(2**32 - 1, (b"evil\n\"\\} 1\n\x1b[2Jx", 1), (b"\xff\xfe", 2), (b"huge", 2**64 - 1), (b"huge", 1)))
send(b"FDSTORE=1\nFDNAME=rpc-figures", fd, *[write] * 60)
os.close(write)
assert os.read(read, 1) == b""
# Numbers that go back, and a page of which nothing is left.
back = memfd(page(1, (b"back", 100)))
send(b"FDSTORE=1\nFDNAME=rpc-figures", back)
for n in range(150):
    hand(memfd(page(204, *[(b"name%d.%d" % (n, m), 1) for m in range(204)])))
read, write = os.pipe()
send(b"BARRIER=1", write)
os.close(write)
assert os.read(read, 1) == b""
print("held", flush=True)
sys.stdin.readline()
os.pwrite(back, page(1, (b"back", 1)), 0)
os.pwrite(fd, bytes(65536), 0)
print("done", flush=True)
sys.stdin.readline()
"#;

#[test]
fn services_that_lie_about_it_harm_nobody() {
    for mode in BOTH {
        let app = app(mode);
        app.ok(&["up", "-d"]);
        python(&app, "web", CALL_ONE);
        let supervisor = app.supervisor();
        let descriptors = || std::fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
        let before = descriptors();
        let mut liar = app
            .command(&["exec", "-T", "many", "--", "python3", "-Bc", LIES])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(liar.stdout.take().unwrap()));
        assert_eq!(lines.next().unwrap().unwrap(), "held", "{mode:?}");
        // Two are those of its own processes.
        let many = stats(&app, "many");
        assert!(descriptors() <= before + 128, "{mode:?}: {before} {}", descriptors());
        assert!(many.len() <= 512 && !many.contains_key("lie"), "{mode:?}: {many:?}");
        assert_eq!(many["huge"]["calls"], u64::MAX);
        assert_eq!(many["\u{fffd}\u{fffd}"]["calls"], 2);
        assert_eq!(many["back"]["calls"], 100);
        let mut input = liar.stdin.take().unwrap();
        input.write_all(b"\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap(), "done", "{mode:?}");
        let many = stats(&app, "many");
        assert_eq!(
            (&many["back"]["calls"], &many["huge"]["calls"]),
            (&100.into(), &u64::MAX.into())
        );
        let evil = "evil\u{fffd}\"\\} 1\u{fffd}\u{fffd}[2Jx";
        assert_eq!(Metrics::of(&app).one("pysecure_rpc_calls_total", "many", evil), 1.0);
        let table = app.ok(&["stats"]).out;
        assert!(table.contains(evil) && !table.contains('\x1b'), "{table}");
        drop(input);
        liar.wait().unwrap();
        // Of all others nothing has changed, and the supervisor is as it was.
        assert_eq!(stats(&app, "one")["add"]["calls"], 7);
        app.ok(&["restart", "many"]);
        assert!(descriptors() <= before + 2, "{mode:?}: {before} {}", descriptors());
        python(&app, "web", CALL_MANY);
        assert_eq!(app.service("one")["restarts"], 0);
        app.ok(&["down"]);
    }
}
