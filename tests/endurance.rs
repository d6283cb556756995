//! Again and again: a thousand kills of the supervisor, a thousand starts and ends of a service, and a soak of all at once, whose
//! length the environment gives (`PYSECURE_SOAK`, in seconds). What is lost or left each time by one chance in a hundred shows here.

mod harness;
#[path = "endurance/soak.rs"]
mod soak;

use harness::{App, Mode, wait_until};
use nix::sys::signal::Signal;
use std::process::Stdio;
use std::time::Duration;

/// Kills a mode; two modes run side by side.
const KILLS: usize = 500;

/// A source of chance that is told, so that a run can be had again.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn manifest(mode: Mode, name: &str, range: u32, version: usize) -> String {
    // An ordinary user has no cgroups of version 1.
    let limits = match mode {
        Mode::Root => "limits = { pids = 50 }",
        Mode::Rootless => "",
    };
    format!(
        r#"
[app]
name = "{name}"
uid_range = [{range}, {}]
gid_range = [{range}, {}]
[resources]
data = {{ path = "/data/", owner = "rw" }}
[services.keeps]
command = ["sh", "-c", "echo {version} > /data/version; sleep 1000 & sleep 1000 & wait"]
owner_resources = ["data"]
[services.follows]
command = ["sleep", "1{version}"]
depends_on = ["keeps"]
[services.same]
command = ["sleep", "1000"]
{limits}
"#,
        range + 9,
        range + 9
    )
}

/// Processes that have the app's state directory in their environment: clients and supervisors. And those with one of
/// its ids, which are its services'. Who removes cgroups when the supervisor is gone is among the latter: it ends by itself.
fn processes(app: &App, ids: &std::ops::Range<u32>, client: Option<u32>) -> (Vec<u32>, usize) {
    let mark = format!("PYSECURE_STATE_DIR={}", app.state().display());
    let (mut launchers, mut services) = (Vec::<(u32, u32)>::new(), 0);
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        if status.contains("\nState:\tZ") {
            continue;
        }
        let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or("");
        if uids.split_whitespace().any(|uid| ids.contains(&uid.parse().unwrap())) {
            services += 1;
        } else {
            let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.windows(mark.len()).any(|w| w == mark.as_bytes()) {
                let depth = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap_or("");
                // Deeper ones are PID 1 of a service that has not changed its ids yet, and has to end by itself.
                if depth.split_whitespace().count() == own_depth() {
                    let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).unwrap_or("");
                    launchers.push((pid, parent.trim().parse().unwrap_or(0)));
                } else {
                    services += 1;
                }
            }
        }
    }
    // Made by a supervisor, which is itself made by a client or nobody's child any more.
    let all: Vec<u32> = launchers.iter().map(|(pid, _)| *pid).collect();
    let guard = |(pid, parent): &(u32, u32)| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "pysecure-guard\n" || client.is_some_and(|client| all.contains(parent) && *parent != client)
    };
    let (guards, launchers): (Vec<_>, Vec<_>) = launchers.iter().copied().partition(guard);
    (launchers.iter().map(|(pid, _)| *pid).collect(), services + guards.len())
}

fn own_depth() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("NSpid:")).unwrap();
    line.split_whitespace().count()
}

fn kill(pid: u32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), Signal::SIGKILL);
}

#[test]
fn a_thousand_kills_of_the_supervisor_lose_nothing_and_leave_nothing() {
    std::thread::scope(|scope| {
        scope.spawn(|| kills(Mode::Root, "rootkills", 43_000));
        scope.spawn(|| kills(Mode::Rootless, "userkills", 43_020));
    });
}

fn kills(mode: Mode, name: &str, range: u32) {
    let app = App::new(mode, &manifest(mode, name, range, 0));
    let guarded = mode == Mode::Root;
    let shift = match mode {
        Mode::Root => 0,
        // newuidmap maps 1 to the first subordinate id.
        Mode::Rootless => harness::first_subordinate_id() - 1,
    };
    let ids = range + shift..range + shift + 10;
    let seed = u64::from(std::process::id()) << 20 | 0x9e37;
    println!("{mode:?}: seed {seed:#x}");
    let mut chance = Chance(seed);
    let mut version = 0;
    let mut identities = None;
    let mut moments = std::collections::BTreeMap::<(&str, bool), usize>::new();
    for round in 0..KILLS {
        let action = ["up", "down", "reconcile"][chance.below(3) as usize];
        if action != "up" {
            app.ok(&["up", "-d"]);
            let ps = app.ps();
            let of = |s: &serde_json::Value| (s["service"].clone(), s["uid"].clone());
            let now: Vec<_> = ps["services"].as_array().unwrap().iter().map(of).collect();
            assert_eq!(
                *identities.get_or_insert_with(|| now.clone()),
                now,
                "the ledger has lost an id"
            );
            assert!(
                ps["services"]
                    .as_array()
                    .unwrap()
                    .iter()
                    .all(|s| s["state"] == "running"),
                "{ps}"
            );
            assert_eq!(guarded, !harness::cgroups_of(name).is_empty());
        }
        if action == "reconcile" {
            version += 1;
            app.write("pysecure.toml", manifest(mode, name, range, version));
        }
        let args: &[&str] = if action == "down" { &["down"] } else { &["up", "-d"] };
        let mut client = app
            .command(args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_micros(chance.below(if action == "down" {
            15_000
        } else {
            100_000
        })));
        let was_running = client.try_wait().unwrap().is_none();
        // All that is not a service: a client that lived on would start a supervisor anew.
        wait_until(|| {
            // Asked first: what it has started before its end is among those that are found then. While it is only just
            // becoming `pysecure` (execve(2)), it has no environment to be found by.
            let ended = client.try_wait().unwrap().is_some();
            let (launchers, services) = processes(&app, &ids, guarded.then_some(client.id()));
            launchers.iter().copied().for_each(kill);
            (ended && launchers.is_empty() && services == 0).then_some(())
        });
        client.wait().unwrap();
        *moments.entry((action, was_running)).or_default() += 1;
        let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!all.contains(app.folder.to_str().unwrap()), "{round}: a mount is left");
        assert_eq!(
            harness::cgroups_of(name),
            Vec::<std::path::PathBuf>::new(),
            "{round}: a cgroup is left"
        );
        let ledger = std::fs::read_to_string(app.state().join(format!("apps/{name}/ledger.json")));
        if let Ok(text) = ledger {
            serde_json::from_str::<serde_json::Value>(&text).expect("the ledger is whole");
        }
    }
    println!("{mode:?}: {moments:?}");
    assert!(moments.len() >= 5, "the moments were all alike: {moments:?}");
    app.ok(&["up", "-d"]);
    app.ok(&["down"]);
    assert!(!app.state().join("run").exists());
}

#[test]
fn a_soak_of_all_at_once_loses_nothing_and_leaves_nothing() {
    std::thread::scope(|scope| {
        scope.spawn(|| soak::soak(Mode::Root, "rootsoak", 43_100, 28_310));
        scope.spawn(|| soak::soak(Mode::Rootless, "usersoak", 43_130, 28_320));
    });
}

/// Open descriptors, and memory of its own in KiB: that of the program's file is shared with whoever runs it.
fn cost(pid: i32) -> (usize, u64) {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let own = rollup.lines().find_map(|l| l.strip_prefix("Anonymous:")).unwrap();
    (descriptors, own.trim().trim_end_matches(" kB").parse().unwrap())
}

#[test]
fn a_thousand_starts_and_ends_cost_the_supervisor_nothing() {
    let manifest = r#"
[app]
name = "cycles"
uid_range = [43040, 43049]
gid_range = [43040, 43049]
[services.cycles]
command = ["sh", "-c", "echo a line"]
restart = "always"
restart_delay = "1ms"
restart_max_delay = "1ms"
restart_window = "0s"
[services.probed]
command = ["sleep", "1000"]
ready = { command = ["true"] }
health = { command = ["true"], interval = "20ms" }
watchdog = "1h"
"#;
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    let after = |count: u64| {
        wait_until(|| (app.service("cycles")["restarts"].as_u64().unwrap() >= count).then_some(()));
        app.ok(&["restart", "probed"]);
        app.ok(&["stop", "cycles"]);
        let cost = cost(app.supervisor());
        app.ok(&["start", "cycles"]);
        cost
    };
    let early = after(100);
    let late = after(1_100);
    println!("after 100: {early:?}, after 1,100: {late:?}");
    // A probe may be under way in one of them.
    assert!(late.0 <= early.0 + 2, "descriptors grow: {early:?}, {late:?}");
    assert!(late.1 <= early.1 + 256, "memory grows: {early:?}, {late:?}");
}

#[test]
fn rubbish_and_silence_on_the_control_socket_hold_up_nobody() {
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    let manifest = "[app]\nname = \"rubbish\"\nuid_range = [43060, 43069]\ngid_range = [43060, 43069]\n\
                    [services.idle]\ncommand = [\"sleep\", \"1000\"]\n";
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    let path = app.state().join("run/rubbish/control.sock");
    let (before, _) = cost(app.supervisor());
    let mut kept = Vec::new();
    let mut chance = Chance(0x1234_5678_9abc);
    for round in 0..300 {
        let mut socket = UnixStream::connect(&path).unwrap();
        let bytes: Vec<u8> = match round % 6 {
            0 => Vec::new(),
            1 => (0..chance.below(5_000)).map(|_| chance.below(256) as u8).collect(),
            2 => b"{\"do\":\"apply\",\"order\":[\"idle\"".to_vec(),
            3 => b"{\"do\":\"apply\",\"order\":[\"nobody\"],\"services\":[],\"templates\":{},\"storage\":0}\n".to_vec(),
            4 => b"{\"do\":\"exec\",\"service\":\"idle\",\"args\":[],\"terminal\":false}\n".to_vec(),
            _ => b"{\"do\":\"events\"}\n{\"do\":\"ps\"}\n".repeat(50),
        };
        // It may have been closed by then.
        let _ = socket.write_all(&bytes);
        if round % 2 == 0 {
            kept.push(socket);
        }
    }
    assert_eq!(app.service("idle")["state"], "running");
    // Requests that come all at once are answered one by one.
    let mut socket = UnixStream::connect(&path).unwrap();
    socket.write_all(&b"{\"do\":\"ps\"}\n".repeat(3)).unwrap();
    let mut answers = std::io::BufRead::lines(std::io::BufReader::new(&socket));
    for _ in 0..3 {
        assert!(answers.next().unwrap().unwrap().contains("\"supervisor_pid\""));
    }
    // One that asks on and on and reads nothing is not listened to any more, and costs no more than that.
    let memory = cost(app.supervisor()).1;
    let deaf = UnixStream::connect(&path).unwrap();
    deaf.set_nonblocking(true).unwrap();
    let asks = b"{\"do\":\"ps\"}\n".repeat(10_000);
    let mut heard = 0;
    for _ in 0..200 {
        heard += (&deaf).write(&asks).unwrap_or(0);
        assert_eq!(app.service("idle")["state"], "running");
    }
    let more = cost(app.supervisor()).1.saturating_sub(memory);
    println!("{heard} bytes of requests, {more} KiB more");
    assert!(more < 8 << 10, "{heard} bytes of requests cost {more} KiB");
    drop((kept, deaf));
    wait_until(|| (cost(app.supervisor()).0 <= before + 1).then_some(()));
    app.ok(&["down"]);
}

#[test]
fn a_service_that_closes_its_pipes_is_as_well_as_any() {
    let manifest = "[app]\nname = \"closes\"\nuid_range = [43080, 43089]\ngid_range = [43080, 43089]\n\
                    [services.closes]\ncommand = [\"sh\", \"-c\", \"echo last words; exec >&- 2>&-; sleep 1000 & wait\"]\n";
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    app.wait_for_log("closes", "last words");
    let supervisor = app.supervisor();
    let ticks = || -> u64 {
        let stat = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    std::thread::sleep(Duration::from_millis(500));
    // A closed pipe is readable for ever; the supervisor does not read it for ever.
    assert!(ticks() - before < 10, "it is busy with a pipe that is closed");
    assert_eq!(app.service("closes")["state"], "running");
    app.ok(&["stop", "closes"]);
    app.ok(&["start", "closes"]);
    wait_until(|| (app.logs("closes").matches("last words").count() == 2).then_some(()));
}
