//! What it costs to leave an app running: the supervisor at rest, the first connection to a service that is started on
//! demand, an `up` with nothing to do, and a service's own throughput. `cargo bench --bench supervise`, as root, with
//! Debian's gcc, redis-server and systemd.
//!
//! Ours and the peer's are measured in turn, and the median counts. Nothing is asserted: the table says what was seen.

use std::fmt::Write as _;
use std::io::Read;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Listens on the socket that it is handed, answers once, and ends.
const ANSWERS: &str = r#"
#include <sys/socket.h>
#include <unistd.h>
int main(void) {
  int c = accept(3, 0, 0);
  if (c < 0) return 1;
  write(c, "answer", 6);
  close(c);
  return 0;
}
"#;

fn main() {
    for (program, package) in [
        ("cc", "gcc"),
        ("redis-server", "redis-server"),
        ("redis-benchmark", "redis-tools"),
        ("systemd-socket-activate", "systemd"),
    ] {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status();
        if !found.is_ok_and(|s| s.success()) {
            eprintln!("the benchmark wants Debian's package {package}");
            std::process::exit(1);
        }
    }
    println!("| what | ours | peer | ratio | must reach | met? |");
    println!("| --- | --- | --- | --- | --- | --- |");
    // `-- demand`, for example, for one part alone.
    let wanted: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    for (name, part) in [("idle", idle_and_up as fn()), ("demand", on_demand), ("redis", redis)] {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            part();
        }
    }
}

fn row(what: &str, ours: (f64, &str), peer: (&str, f64), bound: f64, least: bool) {
    let ratio = ours.0 / peer.1;
    let met = if least { ratio >= bound } else { ratio <= bound };
    let (sign, verdict) = (if least { "≥" } else { "≤" }, if met { "met" } else { "**missed**" });
    println!(
        "| {what} | {:.2} {unit} | {}: {:.2} {unit} | {ratio:.2} | {sign} {bound} | {verdict} |",
        ours.0,
        peer.0,
        peer.1,
        unit = ours.1
    );
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// An app in a folder of its own.
struct App {
    folder: PathBuf,
}

impl App {
    fn new(name: &str, services: &str) -> App {
        let folder = std::env::temp_dir().join(format!("pysecure-bench-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let manifest =
            format!("[app]\nname = \"{name}\"\nuid_range = [47000, 47999]\ngid_range = [47000, 47999]\n{services}");
        std::fs::write(folder.join("pysecure.toml"), manifest).unwrap();
        App { folder }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pysecure"));
        command
            .args(args)
            .current_dir(&self.folder)
            .env("PYSECURE_STATE_DIR", self.folder.join("state"))
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, args: &[&str]) -> String {
        let out = self.command(args).output().unwrap();
        assert!(
            out.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8(out.stdout).unwrap()
    }

    fn ps(&self) -> serde_json::Value {
        serde_json::from_str(&self.ok(&["ps", "--json"])).unwrap()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        let _ = self.command(&["down", "--purge"]).output();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn field(path: &str, key: &str) -> f64 {
    let text = std::fs::read_to_string(path).unwrap();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn idle_and_up() {
    let mut services = String::new();
    for n in 0..100 {
        let _ = writeln!(services, "[services.s{n}]\ncommand = [\"sleep\", \"infinity\"]");
    }
    let app = App::new("idle", &services);
    app.ok(&["up", "-d"]);
    let supervisor = app.ps()["supervisor_pid"].as_u64().unwrap();
    // Nanoseconds on a CPU; proc(5), schedstat.
    let on_cpu = || field(&format!("/proc/{supervisor}/schedstat"), "");
    let woken = || field(&format!("/proc/{supervisor}/status"), "voluntary_ctxt_switches:");
    std::thread::sleep(Duration::from_secs(1));
    let (before, wakes) = (on_cpu(), woken());
    std::thread::sleep(Duration::from_secs(60));
    let percent = (on_cpu() - before) / 60e9 * 100.0;
    row(
        "CPU of a supervisor of 100 idle services, over a minute",
        (percent, "%"),
        ("one core", 100.0),
        0.001,
        false,
    );
    println!("| wake-ups of it in that minute | {} | | | 0 | |", woken() - wakes);
    let pss = field(&format!("/proc/{supervisor}/smaps_rollup"), "Pss:") / 1024.0;
    row(
        "memory (Pss) of that supervisor",
        (pss, "MiB"),
        ("the bound", 10.0),
        1.0,
        false,
    );
    let time = |args: &[&str]| {
        let begin = Instant::now();
        app.ok(args);
        begin.elapsed().as_secs_f64() * 1000.0
    };
    let (mut up, mut check) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        up.push(time(&["up", "-d"]));
        check.push(time(&["check"]));
    }
    row(
        "`up` with nothing to do, 100 services",
        (median(up), "ms"),
        ("`check`", median(check)),
        3.0,
        false,
    );
}

/// Milliseconds from the connection to the whole answer.
fn answered(port: u16) -> f64 {
    let begin = Instant::now();
    let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let time = begin.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(answer, "answer");
    time
}

fn on_demand() {
    let (ours, theirs) = (18_611, 18_612);
    let app = App::new(
        "demand",
        &format!(
            "code = {{ \"/app\" = \"./code\" }}\n[services.lazy]\ncommand = [\"/app/answers\"]\n\
             listen = [\"127.0.0.1:{ours}\"]\nstart = \"on-demand\"\n"
        ),
    );
    let code = app.folder.join("code");
    std::fs::create_dir_all(&code).unwrap();
    std::fs::write(app.folder.join("answers.c"), ANSWERS).unwrap();
    let program = code.join("answers");
    let made = Command::new("cc")
        .args(["-O2", "-static", "-o"])
        .arg(&program)
        .arg(app.folder.join("answers.c"))
        .status();
    assert!(made.is_ok_and(|s| s.success()), "cc failed");
    app.ok(&["up", "-d"]);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..21 {
        while app.ps()["services"][0]["state"] != "listening" {}
        // As long as anybody waits who is not waiting for it.
        std::thread::sleep(Duration::from_millis(50));
        a.push(answered(ours));
        let mut peer = activate(&program, theirs);
        b.push(answered(theirs));
        peer.wait().unwrap();
    }
    row(
        "first connection to an on-demand service until its answer",
        (median(a), "ms"),
        ("systemd-socket-activate", median(b)),
        0.7,
        false,
    );
}

/// The peer, listening: no connection may be made to find out, for it would be the first.
fn activate(program: &Path, port: u16) -> Child {
    let child = Command::new("systemd-socket-activate")
        .args(["-l", &format!("127.0.0.1:{port}")])
        .arg(program)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let line = format!("0100007F:{port:04X} 00000000:0000 0A");
    while !std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&line) {}
    child
}

fn redis() {
    let app = App::new(
        "redis",
        "[resources]\nsocket = { path = \"/run/redis/\", owner = \"rw\" }\n[services.redis]\n\
         command = [\"redis-server\", \"--port\", \"0\", \"--unixsocket\", \"/run/redis/redis.sock\", \"--save\", \"\", \"--supervised\", \"systemd\"]\n\
         owner_resources = [\"socket\"]\nready = \"notify\"\n",
    );
    app.ok(&["up", "-d"]);
    let inside = app.folder.join("state/apps/redis/resources/socket/redis.sock");
    let outside = app.folder.join("host.sock");
    let mut host = Command::new("redis-server")
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&outside)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    while !outside.exists() {}
    let inside = if inside.exists() {
        inside
    } else {
        find(&app.folder.join("state"), "redis.sock").unwrap()
    };
    let rate = |socket: &Path| -> f64 {
        let out = Command::new("redis-benchmark")
            .args(["-t", "get", "-n", "200000", "-c", "20", "--csv", "-s"])
            .arg(socket)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let line = text
            .lines()
            .find(|l| l.starts_with("\"GET\""))
            .unwrap_or_else(|| panic!("{text}"));
        line.split(',').nth(1).unwrap().trim_matches('"').parse().unwrap()
    };
    rate(&inside);
    rate(&outside);
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        a.push(rate(&inside) / 1000.0);
        b.push(rate(&outside) / 1000.0);
    }
    row(
        "Redis inside, GET over a unix socket",
        (median(a), "k/s"),
        ("on the host", median(b)),
        0.97,
        true,
    );
    let _ = host.kill();
    let _ = host.wait();
}

fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    for entry in std::fs::read_dir(folder).ok()?.flatten() {
        let path = entry.path();
        if path.ends_with(name) {
            return Some(path);
        }
        if entry.file_type().is_ok_and(|t| t.is_dir())
            && let Some(found) = find(&path, name)
        {
            return Some(found);
        }
    }
    None
}
