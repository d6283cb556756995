//! Services that stay up: what comes first, when a service is ready, what happens when it ends, what a change of the
//! manifest touches.

mod harness;

use harness::{App, BOTH, Mode, place, wait_until};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStderr, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// An app whose ids no other app of these tests has.
fn app(mode: Mode, name: &str, services: &str) -> App {
    static NEXT: AtomicU32 = AtomicU32::new(42_000);
    let range = NEXT.fetch_add(20, Ordering::Relaxed);
    let last = range + 19;
    let manifest =
        format!("[app]\nname = \"{name}\"\nuid_range = [{range}, {last}]\ngid_range = [{range}, {last}]\n{services}");
    App::new(mode, &manifest)
}

/// Replaces a part of the manifest that stands in it once.
fn edit(app: &App, old: &str, new: &str) {
    let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    assert_eq!(manifest.matches(old).count(), 1, "{old}");
    app.write("pysecure.toml", manifest.replace(old, new));
}

/// A service that speaks sd_notify(3) through libsystemd.
const NOTIFIES: &str = r#"
import sys, time, signal
from systemd import daemon
"#;

#[test]
fn services_start_after_what_they_need_and_stop_before_it() {
    for mode in BOTH {
        let app = app(
            mode,
            "order",
            &format!(
                r#"
[services.web]
command = ["sleep", "1000"]
depends_on = {{ db = "ready", setup = "completed" }}
[services.setup]
type = "oneshot"
command = ["sh", "-c", "sleep 0.2; echo set up"]
depends_on = ["log"]
[services.db]
command = ["python3", "-c", '''{NOTIFIES}
time.sleep(0.2)
daemon.notify("READY=1\nSTATUS=serving")
time.sleep(1000)
''']
ready = "notify"
[services.log]
command = ["sleep", "1000"]
"#
            ),
        );
        app.ok(&["up", "-d"]);
        let shown = app.ok(&["ps"]).out;
        assert!(
            shown.contains("running: serving") && shown.contains("exited (0)"),
            "{shown}"
        );
        let mut events = app.events();
        app.ok(&["restart"]);
        let seen = events.until("started", "web");
        let before = |a: (&str, &str), b: (&str, &str)| {
            assert!(
                place(&seen, a.0, a.1) < place(&seen, b.0, b.1),
                "{a:?} before {b:?}: {seen:#?}"
            );
        };
        before(("stopped", "web"), ("stopped", "db"));
        before(("started", "log"), ("started", "setup"));
        before(("started", "db"), ("ready", "db"));
        before(("ready", "db"), ("started", "web"));
        before(("exited", "setup"), ("started", "web"));
        // What does not wait for another does not.
        before(("started", "db"), ("exited", "setup"));
        app.ok(&["down"]);
        let seen = events.rest();
        assert!(
            place(&seen, "stopped", "web") < place(&seen, "stopped", "db"),
            "{seen:#?}"
        );
    }
}

#[test]
fn what_cannot_come_about_fails_at_once_and_says_for_what() {
    let app = app(
        Mode::Root,
        "vain",
        r#"
[services.setup]
type = "oneshot"
command = ["sh", "-c", "exit 4"]
[services.web]
command = ["sleep", "1000"]
depends_on = { setup = "completed" }
"#,
    );
    let ended = app.run(&["up", "-d"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("`setup`: ended with code 4"), "{ended:?}");
    assert!(!app.state().join("run").exists());
}

#[test]
fn a_service_says_how_it_is_through_a_real_client_library() {
    for mode in BOTH {
        let app = app(
            mode,
            "notify",
            &format!(
                r#"
[services.says]
command = ["python3", "-c", '''{NOTIFIES}
def reload(*_):
    daemon.notify("RELOADING=1")
    time.sleep(0.3)
    daemon.notify("READY=1\nSTATUS=read again")
signal.signal(signal.SIGHUP, reload)
daemon.notify("STATUS=warming up")
sys.stdin.read()
time.sleep(0.1)
daemon.notify("READY=1\nSTATUS=warm")
beats = 0
while True:
    daemon.notify("WATCHDOG=1")
    beats += 1
    # Goes on for a while, and then hangs.
    time.sleep(0.1 if beats < 20 else 1000)
''']
ready = "notify"
watchdog = "1s"
restart = "on-failure"
[services.never]
command = ["sleep", "1000"]
ready = "notify"
start_timeout = "300ms"
"#
            ),
        );
        let ended = app.run(&["up", "-d"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.err.contains("`never`: was not ready within 300ms"), "{ended:?}");
        edit(&app, "start_timeout = \"300ms\"", "restart = \"no\"");
        edit(
            &app,
            "command = [\"sleep\", \"1000\"]\nready = \"notify\"",
            "command = [\"sleep\", \"1000\"]",
        );
        app.ok(&["up", "-d"]);
        assert_eq!(app.service("says")["status"], "warm");
        let mut events = app.events();
        app.ok(&["reload", "says"]);
        events.until("reloading", "says");
        events.until("ready", "says");
        assert_eq!(app.service("says")["status"], "read again");
        let seen = events.until("restarting", "says");
        let why = seen[place(&seen, "restarting", "says")]["detail"].as_str().unwrap();
        assert!(why.contains("sent no WATCHDOG=1 for 1s"), "{why}");
        events.until("ready", "says");
        assert_eq!(app.service("says")["restarts"], 1);
    }
}

/// Asks for all the time in the world when it is told to end, again and again.
const STAYS: &str = r#"
import signal, socket, time
from systemd import daemon
def stay(*_):
    while True:
        daemon.notify("EXTEND_TIMEOUT_USEC=18446744073709551615")
        time.sleep(0.01)
signal.signal(signal.SIGTERM, stay)
daemon.notify("READY=1")
while True:
    time.sleep(1000)
"#;

#[test]
fn a_service_gets_more_time_but_not_without_end() {
    for mode in BOTH {
        let app = app(
            mode,
            "extends",
            &format!(
                r#"
[services.starts]
command = ["python3", "-c", '''{NOTIFIES}
while True:
    daemon.notify("EXTEND_TIMEOUT_USEC=18446744073709551615")
    time.sleep(0.01)
''']
ready = "notify"
start_timeout = "100ms"
stop_timeout = "100ms"
[services.stays]
command = ["python3", "-c", '''{STAYS}''']
ready = "notify"
stop_timeout = "100ms"
[services.tidies]
command = ["python3", "-c", '''{NOTIFIES}
def tidy(*_):
    daemon.notify("EXTEND_TIMEOUT_USEC=5000000")
    time.sleep(3)
    print("tidied up", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, tidy)
daemon.notify("READY=1")
while True:
    time.sleep(1000)
''']
ready = "notify"
stop_timeout = "2s"
"#
            ),
        );
        let ended = app.run(&["up", "-d"]);
        assert!(ended.err.contains("`starts`: was not ready within 100ms"), "{ended:?}");
        edit(&app, "start_timeout = \"100ms\"", "start_timeout = 0");
        edit(
            &app,
            "while True:\n    daemon.notify",
            "if True:\n    daemon.notify(\"READY=1\")\n    daemon.notify",
        );
        edit(&app, "    time.sleep(0.01)\n''']", "    time.sleep(1000)\n''']");
        app.ok(&["up", "-d"]);
        // With no word of how long: as long as its own time allows, thrice.
        app.ok(&["stop", "stays", "tidies"]);
        assert!(app.logs("tidies").contains("tidied up"));
        app.ok(&["start", "stays"]);
        edit(
            &app,
            "ready = \"notify\"\nstop_timeout = \"100ms\"\n[services.tidies]",
            "ready = \"notify\"\nstop_timeout = \"1h\"\n[services.tidies]",
        );
        app.ok(&["up", "-d"]);
        // Whoever says how long is taken at their word.
        app.ok(&["restart", "-t", "0.1", "stays"]);
        // What was told to end may be killed, also when the whole app was.
        let mut down = app.command(&["down"]).spawn().unwrap();
        app.wait_for_state("stays", "stopping");
        app.ok(&["kill", "-s", "KILL", "stays"]);
        assert!(down.wait().unwrap().success());
        // Who comes with less patience has it end sooner.
        app.ok(&["up", "-d"]);
        let mut down = app.command(&["down"]).spawn().unwrap();
        app.wait_for_state("stays", "stopping");
        app.ok(&["down", "-t", "0.1"]);
        assert!(down.wait().unwrap().success());
        // And a service manager need not kill the supervisor.
        edit(&app, "stop_timeout = \"1h\"", "stop_timeout = \"100ms\"");
        app.ok(&["up", "-d"]);
        harness::signal(app.supervisor() as u32, nix::sys::signal::Signal::SIGTERM);
        wait_until(|| (!app.state().join("run").exists()).then_some(()));
    }
}

#[test]
fn probes_ask_from_inside() {
    for mode in BOTH {
        let app = app(
            mode,
            "probes",
            r#"
[services.tcp]
command = ["sh", "-c", "sleep 0.2; exec python3 -m http.server --bind 127.0.0.1 8000"]
ready = { tcp = "127.0.0.1:8000", interval = "20ms" }
[services.http]
command = ["sh", "-c", "sleep 0.2; cd /tmp; exec python3 -m http.server --bind 127.0.0.1 8080"]
ready = { http = "http://127.0.0.1:8080/", interval = "20ms" }
health = { http = "http://127.0.0.1:8080/healthy", interval = "50ms", retries = 2 }
[services.unix]
command = ["python3", "-c", "import socket,time; time.sleep(0.2); s=socket.socket(socket.AF_UNIX); s.bind('/tmp/s'); s.listen(); time.sleep(1000)"]
ready = { unix = "/tmp/s", interval = "20ms" }
[services.command]
command = ["sh", "-c", "sleep 0.2; touch /tmp/here; sleep 1000 & wait"]
ready = { command = ["test", "-e", "/tmp/here"], interval = "20ms" }
health = { command = ["test", "!", "-e", "/tmp/ill"], interval = "50ms", retries = 2 }
restart = "on-failure"
"#,
        );
        app.ok(&["up", "-d"]);
        // Nothing lies at /healthy, and this one is not restarted.
        let ill = wait_until(|| Some(app.service("http")).filter(|s| s["health"] == "unhealthy"));
        assert_eq!(
            (&ill["state"], &ill["restarts"]),
            (&Value::from("running"), &Value::from(0))
        );
        let why = "pysecure: unhealthy: its probe failed 2 times in a row: http://127.0.0.1:8080/healthy: status 404";
        assert!(app.logs("http").contains(why));
        wait_until(|| (app.service("command")["health"] == "healthy").then_some(()));
        let mut events = app.events();
        app.sh("command", "touch /tmp/ill").ok();
        let seen = events.until("ready", "command");
        assert!(
            place(&seen, "unhealthy", "command") < place(&seen, "restarting", "command"),
            "{seen:#?}"
        );
        app.sh("http", "touch /tmp/healthy").ok();
        events.until("healthy", "http");
    }
}

#[test]
fn nothing_is_left_of_a_probe() {
    for mode in BOTH {
        // Each leaves one that is its child, one that is not, and one in a session of its own, and notes which.
        let starts = "sleep 1000 & echo $! >>/tmp/pids; (sleep 1000 & echo $! >>/tmp/pids); setsid sh -c 'echo $$ >>/tmp/pids; exec sleep 1000' &";
        let app = app(
            mode,
            "leftover",
            &format!(
                r#"
[services.late]
command = ["sleep", "1000"]
health = {{ command = ["sh", "-c", "{starts} sleep 1000"], interval = "10ms", timeout = "300ms", retries = 4 }}
[services.prompt]
command = ["sleep", "1000"]
health = {{ command = ["sh", "-c", "{starts} until [ $(wc -l </tmp/pids) -ge 3 ]; do sleep 0.01; done"], interval = "10ms" }}
[services.root]
command = ["sleep", "1000"]
runs_with_root = true
health = {{ command = ["sh", "-c", "{starts} sleep 1000"], interval = "10ms", timeout = "300ms", retries = 4 }}
"#
            ),
        );
        app.ok(&["up", "-d"]);
        let noted = |service: &str| {
            let script = "for p in $(cat /tmp/pids); do if [ -d /proc/$p ]; then echo alive; else echo gone; fi; done";
            let told = app.sh(service, script).ok().out;
            let [alive, gone] = ["alive", "gone"].map(|word| told.matches(word).count());
            (alive + gone, alive)
        };
        for service in ["late", "prompt", "root"] {
            wait_until(|| (noted(service).0 >= 12).then_some(()));
            let (_, alive) = noted(service);
            assert!(alive <= 3, "{service}: {alive} are left, and one probe has three");
        }
        assert!(app.service("late")["health"] != "healthy" && app.service("prompt")["health"] == "healthy");
    }
}

#[test]
fn a_probe_that_fails_says_why() {
    let asked = [
        (
            r#"command = ["pg_isreadyy"]"#,
            "run pg_isreadyy: it is not in the service's root",
        ),
        (
            r#"command = ["sh", "-c", "echo no room >&2; exit 3"]"#,
            "exit 3` ended with code 3: no room",
        ),
        (r#"command = ["sh", "-c", "kill -9 $$"]"#, "ended by signal 9"),
        (
            r#"command = ["sh", "-c", "echo asking; sleep 1000"], timeout = "100ms""#,
            "gave no answer within 100ms: asking",
        ),
        (r#"tcp = "127.0.0.1:9""#, "127.0.0.1:9: connection refused"),
        (r#"unix = "/tmp/none.sock""#, "/tmp/none.sock: no such file"),
        (r#"http = "http://127.0.0.1:8000/none""#, "/none: status 404"),
    ];
    for mode in BOTH {
        let services: String = asked
            .iter()
            .enumerate()
            .map(|(n, (probe, _))| {
                format!(
                    r#"
[services.s{n}]
command = ["sh", "-c", "cd /tmp; exec python3 -m http.server --bind 127.0.0.1 8000"]
ready = {{ {probe}, interval = "20ms" }}
start_timeout = "3s"
restart = "always"
"#
                )
            })
            .collect();
        let app = app(mode, "complains", &services);
        let mut up = app
            .command(&["up", "-d"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let shown = wait_until(|| {
            let shown = app.run(&["ps"]).out;
            asked.iter().all(|(_, why)| shown.contains(why)).then_some(shown)
        });
        assert!(shown.contains("starting: probe: "), "{shown}");
        // Each time that it is given up, the service's log has why.
        for (n, (_, why)) in asked.iter().enumerate() {
            let name = format!("s{n}");
            let log = app.wait_for_log(&name, "starts again in 200ms");
            assert!(log.matches(why).count() >= 2, "{log}");
        }
        app.ok(&["down"]);
        up.wait().unwrap();
        // And so when it gets ill later.
        let healthy = r#"
[services.ill]
command = ["sleep", "1000"]
health = { tcp = "127.0.0.1:9", interval = "20ms", retries = 2 }
restart = "on-failure"
"#;
        let app = self::app(mode, "complains", healthy);
        app.ok(&["up", "-d"]);
        app.wait_for_log(
            "ill",
            "failed 2 times in a row: 127.0.0.1:9: connection refused; starts again",
        );
        app.ok(&["down"]);
        edit(
            &app,
            "health = { tcp = \"127.0.0.1:9\"",
            "start_timeout = 1\nready = { command = [\"pg_isreadyy\"]",
        );
        edit(&app, ", retries = 2", "");
        edit(&app, "on-failure", "no");
        let ended = app.run(&["up", "-d"]);
        assert!(
            ended.err.contains(
                "`ill`: was not ready within 1s; its probe: run pg_isreadyy: it is not in the service's root"
            ),
            "{ended:?}"
        );
    }
}

#[test]
fn restarts_wait_longer_each_time_and_are_given_up() {
    for (mode, port) in [(Mode::Root, 18_331), (Mode::Rootless, 18_332)] {
        let app = app(
            mode,
            "crash",
            &r#"
[services.crashes]
command = ["sh", "-c", "exit 7"]
restart = "on-failure"
restart_delay = "20ms"
restart_limit = 3
listen = ["127.0.0.1:PORT"]
[services.ends]
command = ["sh", "-c", "exit 0"]
restart = "on-failure"
[services.always]
command = ["sh", "-c", "sleep 0.05"]
restart = "always"
restart_delay = "10ms"
restart_limit = 2
restart_window = "40ms"
[services.killed]
command = ["sleep", "1000"]
restart = "on-failure"
restart_delay = "10ms"
"#
            .replace("PORT", &port.to_string()),
        );
        // One may have been given up by the time that this returns.
        assert!(app.run(&["up", "-d"]).code < 2);
        let mut events = app.events();
        let failed = app.wait_for_state("crashes", "failed");
        // Nobody waits for one that does not come back.
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        assert_eq!(failed["error"], "ended with code 7; given up after 3 restarts");
        assert_eq!(app.service("ends")["state"], "exited");
        // It lasts longer than the window each time, so it is never given up.
        wait_until(|| (app.service("always")["restarts"].as_i64().unwrap() > 6).then_some(()));
        let before = app.init_of("killed");
        app.ok(&["kill", "-s", "SEGV", "killed"]);
        let seen = events.until("started", "killed");
        let exited = &seen[place(&seen, "exited", "killed")];
        assert_eq!(exited["code"], 128 + 11, "{exited}");
        assert_ne!(app.init_of("killed"), before);
        // Killed from outside, PID 1 and all.
        kill(app.init_of("killed"));
        events.until("started", "killed");
        // What was given up can be started by hand.
        edit(&app, "exit 7", "sleep 1000");
        app.ok(&["up", "-d"]);
        assert_eq!(app.service("crashes")["state"], "running");
        TcpStream::connect(("127.0.0.1", port)).unwrap();
    }
}

fn kill(pid: i32) {
    harness::signal(pid as u32, nix::sys::signal::Signal::SIGKILL);
}

#[test]
fn the_first_connection_starts_a_service_and_none_is_lost_over_a_restart() {
    for (mode, port) in [(Mode::Root, 18_311), (Mode::Rootless, 18_312)] {
        let app = app(
            mode,
            "demand",
            &format!(
                r#"
[services.lazy]
command = ["python3", "-c", '''
import socket
s = socket.socket(fileno=3)
while True:
    c, _ = s.accept()
    c.sendall(c.recv(100).upper())
    c.close()
''']
listen = ["127.0.0.1:{port}"]
start = "on-demand"
restart = "always"
restart_delay = "1ms"
restart_limit = 0
stop_signal = "SIGKILL"
[services.brief]
command = ["sh", "-c", "exit 0"]
listen = ["127.0.0.1:{}"]
start = "on-demand"
"#,
                port + 100
            ),
        );
        app.ok(&["up", "-d"]);
        assert_eq!(app.service("lazy")["state"], "listening");
        assert_eq!(app.service("lazy")["pid"], Value::Null);
        let ask = |text: &str| {
            let mut socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
            socket.write_all(text.as_bytes()).unwrap();
            let mut answer = String::new();
            // One that was accepted by a process that is then killed is reset: that is the service's loss, not ours.
            socket
                .read_to_string(&mut answer)
                .is_ok_and(|_| !answer.is_empty())
                .then_some(answer)
        };
        assert_eq!(ask("first").as_deref(), Some("FIRST"));
        assert_eq!(app.service("lazy")["state"], "running");
        // Connections that come while it is away wait for it.
        for _ in 0..20 {
            std::thread::scope(|scope| {
                let restart = scope.spawn(|| app.ok(&["restart", "lazy"]));
                let mut lost = 0;
                for n in 0..50 {
                    match ask(&format!("a{n}")) {
                        Some(answer) => assert_eq!(answer, format!("A{n}")),
                        None => lost += 1,
                    }
                }
                restart.join().unwrap();
                // At most the one that was being answered when it was killed.
                assert!(lost <= 1, "{lost} of 50 connections were lost");
            });
        }
        // It ends well without having looked at the connection, and is not started in a circle without end: it comes
        // back for as long as somebody waits, and rests when nobody does.
        app.ok(&["stop", "brief"]);
        assert_eq!(app.service("brief")["state"], "stopped");
        app.ok(&["start", "brief"]);
        app.wait_for_state("brief", "listening");
        app.ok(&["stop", "lazy"]);
        assert_eq!(app.service("lazy")["state"], "stopped");
        app.ok(&["up", "-d"]);
        assert_eq!(app.service("lazy")["state"], "listening");
        assert_eq!(ask("again").as_deref(), Some("AGAIN"));
    }
}

/// Reads until the other end is closed or reset.
fn closed(mut stream: TcpStream) {
    let mut bytes = [0u8; 100];
    while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
}

#[test]
fn who_takes_no_connection_is_not_started_without_end() {
    for (mode, port) in [(Mode::Root, 18_341), (Mode::Rootless, 18_351)] {
        let app = app(
            mode,
            "untaken",
            &format!(
                r#"
[services.brief]
command = ["sh", "-c", "exit 0"]
listen = ["127.0.0.1:{port}"]
start = "on-demand"
restart_delay = "1ms"
restart_limit = 3
[services.deaf]
command = ["sh", "-c", "exit 0"]
callers = {{ operator = "*" }}
start = "on-demand"
restart_delay = "1ms"
restart_limit = 3
[services.each]
command = ["python3", "-c", '''
import socket
c, _ = socket.socket(fileno=3).accept()
c.sendall(b"hello")
''']
listen = ["127.0.0.1:{}"]
start = "on-demand"
restart_delay = "1h"
[services.slow]
command = ["sh", "-c", "exit 0"]
listen = ["127.0.0.1:{}"]
start = "on-demand"
restart_delay = "1h"
"#,
                port + 1,
                port + 2,
            ),
        );
        app.ok(&["up", "-d"]);
        let waits = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let failed = app.wait_for_state("brief", "failed");
        let why = "ended with code 0 and took none of the connections that wait for it";
        assert_eq!(failed["error"], format!("{why}; given up after 3 restarts"));
        assert!(app.logs("brief").contains(&format!("{why}; starts again in 1ms")));
        // Nobody is left waiting, nor waits anew.
        closed(waits);
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        let called = app.run(&["rpc", "call", "deaf", "anything"]);
        assert_ne!(called.code, 0, "{called:?}");
        assert_eq!(app.wait_for_state("deaf", "failed")["error"], failed["error"]);
        assert_ne!(app.run(&["rpc", "call", "deaf", "anything"]).code, 0);
        // One that takes one each time is started as often as that, however many wait.
        let all: Vec<TcpStream> = (0..20)
            .map(|_| TcpStream::connect(("127.0.0.1", port + 1)).unwrap())
            .collect();
        for mut stream in all {
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "hello");
        }
        app.wait_for_state("each", "listening");
        assert_eq!(app.service("each")["restarts"], 0);
        // And one that is to wait does.
        let _waits = TcpStream::connect(("127.0.0.1", port + 2)).unwrap();
        app.wait_for_state("slow", "restarting");
        assert_eq!(app.service("slow")["restarts"], 1);
        app.ok(&["start", "slow"]);
    }
}

#[test]
fn nobody_waits_for_what_has_ended_for_good_or_never_takes_a_connection() {
    for (mode, port) in [(Mode::Root, 18_361), (Mode::Rootless, 18_371)] {
        let serves = |sleep: u32| {
            format!(
                r#"["python3", "-c", '''
import socket, time
time.sleep({sleep})
s = socket.socket(fileno=3)
while True:
    c, _ = s.accept()
    c.sendall(b"hello")
    c.close()
''']"#
            )
        };
        let app = app(
            mode,
            "forgood",
            &format!(
                r#"
[services.ends]
command = ["sh", "-c", "until [ -e /tmp/end ]; do sleep 0.01; done"]
listen = ["127.0.0.1:{port}"]
callers = {{ operator = "*" }}
publish = ["127.0.0.1:{}:80"]
[services.done]
type = "oneshot"
command = ["true"]
listen = ["127.0.0.1:{}"]
[services.never]
command = ["sleep", "1000"]
listen = ["127.0.0.1:{}"]
[services.prompt]
command = {}
listen = ["127.0.0.1:{}"]
[services.late]
command = {}
listen = ["127.0.0.1:{}"]
"#,
                port + 1,
                port + 5,
                port + 2,
                serves(0),
                port + 3,
                serves(13),
                port + 4,
            ),
        );
        app.ok(&["up", "-d"]);
        let connect = |port: u16| TcpStream::connect(("127.0.0.1", port));
        let _waits: Vec<TcpStream> = (2..5).map(|n| connect(port + n).unwrap()).collect();
        let waits = connect(port).unwrap();
        let call = app
            .command(&["rpc", "call", "ends", "anything"])
            .stderr(Stdio::null())
            .spawn();
        app.sh("ends", "touch /tmp/end");
        app.wait_for_state("ends", "exited");
        closed(waits);
        assert!(!call.unwrap().wait().unwrap().success());
        for port in [port, port + 1] {
            assert!(connect(port).is_err(), "{port}");
        }
        assert_ne!(app.run(&["rpc", "call", "ends", "anything"]).code, 0);
        // It is back with all of them.
        app.ok(&["start", "ends"]);
        let _again = [connect(port).unwrap(), connect(port + 1).unwrap()];
        // Nor does anybody wait for work that is done, also when something else changes.
        assert!(connect(port + 5).is_err());
        edit(
            &app,
            "[services.done]",
            "[services.new]\ncommand = [\"sleep\", \"1000\"]\n[services.done]",
        );
        app.ok(&["up", "-d"]);
        assert!(connect(port + 5).is_err());
        // Who waits in vain is not told, but who runs it is.
        let told = format!("no connection to 127.0.0.1:{} was taken in 10s", port + 2);
        let log = app.wait_for_log("never", &told);
        assert!(log.contains("`--fd 3`") && log.contains("`publish`"), "{log}");
        wait_until(|| app.service("never")["error"].as_str()?.starts_with(&told).then_some(()));
        assert_eq!(app.service("prompt")["error"], Value::Null);
        // One that begins late is told of as well, until it has begun.
        app.wait_for_log("late", "was taken in 10s");
        wait_until(|| app.service("late")["error"].is_null().then_some(()));
    }
}

#[test]
fn up_touches_only_what_changed() {
    for mode in BOTH {
        let app = app(
            mode,
            "change",
            r#"
[resources]
kept = { path = "/data/kept/", owner = "rw" }
[services.same]
command = ["sleep", "1000"]
owner_resources = ["kept"]
[services.other]
command = ["sleep", "1001"]
depends_on = ["same"]
[services.rules]
command = ["sleep", "1002"]
[services.goes]
command = ["sleep", "1003"]
"#,
        );
        let dry = app.ok(&["up", "--dry-run"]).out;
        assert!(dry.lines().count() == 4 && dry.contains("add      same"), "{dry}");
        assert!(!app.state().join("run").exists());
        app.ok(&["up", "-d"]);
        let supervisor = app.supervisor();
        let pids = |app: &App| ["same", "other", "rules"].map(|s| app.init_of(s));
        let before = pids(&app);
        // A comment moves all that follows it to another line, and touches nothing.
        edit(&app, "[resources]", "# What is kept.\n\n[resources]");
        assert!(app.ok(&["up", "--dry-run"]).out.contains("is up already"));
        assert!(app.ok(&["up", "-d"]).out.contains("is up already"));
        assert_eq!(pids(&app), before);
        let gone = app.init_of("goes");
        edit(&app, "\"1001\"", "\"1011\"");
        edit(
            &app,
            "\"1002\"]",
            "\"1002\"]\nrestart = \"always\"\nrestart_delay = \"1ms\"",
        );
        edit(
            &app,
            "[services.goes]\ncommand = [\"sleep\", \"1003\"]",
            "[services.comes]\ncommand = [\"sleep\", \"1004\"]",
        );
        let dry = app.ok(&["up", "--dry-run"]).out;
        let expected = "  restart  other\n  adjust   rules\n  add      comes\n  remove   goes\n";
        assert_eq!(dry, expected);
        assert_eq!(pids(&app), before, "a dry run touches nothing");
        let mut events = app.events();
        let out = app.ok(&["up", "-d"]).out;
        assert!(out.starts_with(expected), "{out}");
        let after = pids(&app);
        assert_eq!((after[0], after[2]), (before[0], before[2]));
        assert_ne!(after[1], before[1]);
        assert_eq!(app.supervisor(), supervisor);
        assert!(!std::path::Path::new(&format!("/proc/{gone}")).exists());
        let names: Vec<String> = app.ps()["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["service"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(names, ["same", "other", "rules", "comes"]);
        events.until("removed", "goes");
        // The new rule holds for the old process.
        app.ok(&["kill", "rules"]);
        events.until("started", "rules");
        // A manifest with an error changes nothing.
        edit(&app, "\"1011\"]", "\"1011\"]\nnonsense = 1");
        assert_eq!(app.run(&["up", "-d"]).code, 2);
        edit(&app, "\nnonsense = 1", "");
        // A change that cannot start is told; what ran before and was not touched runs on.
        edit(&app, "\"sleep\", \"1011\"", "\"nosuchprogram\"");
        let failed = app.run(&["up", "-d"]);
        assert_eq!(failed.code, 1, "{failed:?}");
        assert!(
            failed.err.contains("`other`") && failed.err.contains("no program is called"),
            "{failed:?}"
        );
        assert_eq!(app.init_of("same"), after[0]);
        edit(&app, "\"nosuchprogram\"", "\"sleep\", \"1012\"");
        app.ok(&["up", "-d"]);
        assert_eq!(app.service("other")["state"], "running");
        assert!(app.ok(&["up", "-d"]).out.contains("is up already"));
    }
}

#[test]
fn what_was_given_up_comes_back_with_what_depends_on_it() {
    let app = app(
        Mode::Root,
        "back",
        r#"
[services.web]
command = ["sleep", "1000"]
depends_on = { db = "ready" }
[services.db]
command = ["sh", "-c", "sleep 0.2; exit 3"]
"#,
    );
    // One has ended by the time that this returns, or ends a moment later.
    assert!(app.run(&["up", "-d"]).code < 2);
    app.wait_for_state("db", "exited");
    app.ok(&["stop", "web"]);
    edit(&app, "sleep 0.2; exit 3", "sleep 1000");
    for all in [&["up", "-d"][..], &["start"], &["restart"]] {
        // Declared before what it depends on, and yet it does not find that as it was.
        let out = app.ok(all).out;
        assert_eq!(app.service("web")["state"], "running", "{all:?}: {out}");
        assert_eq!(app.service("db")["state"], "running");
        app.ok(&["stop"]);
    }
}

#[test]
fn services_are_stopped_started_and_signalled_by_name() {
    for mode in BOTH {
        let app = app(
            mode,
            "byname",
            r#"
[services.db]
command = ["sh", "-c", "trap 'echo got HUP' HUP; trap 'echo got USR1' USR1; echo runs; while :; do sleep 0.05; done"]
[services.web]
command = ["sleep", "1000"]
depends_on = ["db"]
[services.deaf]
command = ["sh", "-c", "trap '' TERM; echo deaf; while :; do sleep 1; done"]
stop_timeout = "300ms"
"#,
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("db", "runs");
        app.ok(&["reload", "db"]);
        app.wait_for_log("db", "got HUP");
        app.ok(&["kill", "-s", "SIGUSR1", "db"]);
        app.wait_for_log("db", "got USR1");
        assert_eq!(app.run(&["kill", "-s", "NONSENSE", "db"]).code, 2);
        let unknown = app.run(&["stop", "nobody"]);
        assert!(
            unknown.code == 1 && unknown.err.contains("no service is called `nobody`"),
            "{unknown:?}"
        );
        let out = app.ok(&["stop", "db", "web"]).out;
        assert!(out.contains("db: stopped") && out.contains("web: stopped"), "{out}");
        // A service brings with it what it depends on.
        let out = app.ok(&["start", "web"]).out;
        assert!(out.contains("db: running") && out.contains("web: running"), "{out}");
        // One that does not hear is killed, with all that is in its namespace.
        app.wait_for_log("deaf", "deaf");
        app.ok(&["stop", "deaf"]);
        assert_eq!(app.service("deaf")["last_exit_code"], 137);
        app.ok(&["start", "deaf"]);
        wait_until(|| (app.logs("deaf").matches("deaf | deaf").count() == 2).then_some(()));
        edit(&app, "stop_timeout = \"300ms\"", "stop_timeout = \"1h\"");
        app.ok(&["up", "-d"]);
        app.ok(&["stop", "-t", "0.1", "deaf"]);
        // A stopped process ends all the same.
        app.ok(&["kill", "-s", "STOP", "db"]);
        let inside = app.init_of("db");
        wait_until(|| {
            let children = std::fs::read_to_string(format!("/proc/{inside}/task/{inside}/children")).unwrap();
            let child: i32 = children.split_whitespace().next().unwrap().parse().unwrap();
            let status = std::fs::read_to_string(format!("/proc/{child}/status")).unwrap();
            status.contains("State:\tT").then_some(())
        });
        app.ok(&["down"]);
    }
}

#[test]
fn what_services_use_and_how_they_are_is_told() {
    for mode in BOTH {
        let app = app(
            mode,
            "told",
            r#"
[services.busy]
command = ["sh", "-c", "while :; do :; done"]
[services.idle]
command = ["sleep", "1000"]
"#,
        );
        app.ok(&["up", "-d"]);
        let stats: Value = serde_json::from_str(&app.ok(&["stats", "--json"]).out).unwrap();
        let of = |name: &str| {
            stats
                .as_array()
                .unwrap()
                .iter()
                .find(|s| s["service"] == name)
                .unwrap()
                .clone()
        };
        assert!(of("busy")["cpu_percent"].as_f64().unwrap() > 1.0, "{stats}");
        assert!(of("idle")["memory_bytes"].as_u64().unwrap() > 10_000, "{stats}");
        assert_eq!(of("idle")["pids"], 2);
        assert!(
            app.ok(&["stats"]).out.contains("busy"),
            "a table where there is no terminal"
        );
        // As Prometheus would: over HTTP on the unix socket.
        let socket = app.ok(&["metrics", "--socket"]).out;
        let text = curl(&app, socket.trim());
        assert!(
            text.contains("pysecure_service_up{app=\"told\",service=\"busy\"} 1"),
            "{text}"
        );
        assert!(
            text.contains("# TYPE pysecure_service_cpu_seconds_total counter"),
            "{text}"
        );
        assert_eq!(app.ok(&["metrics"]).out.lines().count(), text.lines().count());
    }
}

fn curl(app: &App, socket: &str) -> String {
    let out = app
        .shell_free(
            "curl",
            &[
                "--silent",
                "--show-error",
                "--fail",
                "--unix-socket",
                socket,
                "http://pysecure/metrics",
            ],
        )
        .output()
        .expect("install `curl`");
    let text = String::from_utf8(out.stdout).unwrap();
    assert!(out.status.success(), "{text}{}", String::from_utf8_lossy(&out.stderr));
    text
}

#[test]
fn another_user_is_turned_away_and_that_is_told() {
    let app = app(
        Mode::Root,
        "denied",
        "[services.idle]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    app.ok(&["up", "-d"]);
    // As if somebody had opened the folder to all.
    for folder in [app.state(), app.state().join("run"), app.state().join("run/denied")] {
        std::fs::set_permissions(&folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let socket = app.state().join("run/denied/control.sock");
    std::fs::set_permissions(&socket, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let (uid, _) = harness::user();
    let mut events = app.events();
    let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.sendall(b'{\"do\":\"ps\"}\\n'); print(len(s.recv(100)))";
    let out = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            &uid.to_string(),
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            script,
        ])
        .arg(&socket)
        .output()
        .unwrap();
    let (out, err) = (
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(
        out.trim() == "0" || err.contains("reset") || err.contains("Broken pipe"),
        "{out}{err}"
    );
    let seen = events.until("denied", "");
    assert!(
        seen.last().unwrap()["detail"]
            .as_str()
            .unwrap()
            .contains("another user")
    );
    assert!(
        app.ok(&["metrics"])
            .out
            .contains("pysecure_denied_total{app=\"denied\"} 1")
    );
}

#[test]
fn under_a_service_manager_it_says_when_it_is_ready_and_takes_its_sockets() {
    for (mode, port) in [(Mode::Root, 18_321), (Mode::Rootless, 18_322)] {
        let app = app(
            mode,
            "managed",
            &format!(
                r#"
[services.web]
command = ["python3", "-c", "import socket,time; time.sleep(0.3); s=socket.socket(fileno=3); c,_=s.accept(); c.sendall(b'served'); c.close(); time.sleep(1000)"]
listen = ["127.0.0.1:{port}"]
"#
            ),
        );
        let path = app.folder.join("manager.sock");
        let manager = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let binary = harness::binary().to_str().unwrap();
        let address = format!("127.0.0.1:{port}");
        // The real thing: it listens, and starts what is to serve at the first connection.
        let mut activate = app
            .shell_free(
                "systemd-socket-activate",
                &[
                    "-E",
                    "PYSECURE_STATE_DIR",
                    "-E",
                    "NOTIFY_SOCKET",
                    "-E",
                    "WATCHDOG_USEC",
                    "-l",
                    &address,
                    binary,
                    "up",
                ],
            )
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "200000")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install `systemd`");
        let mut client = wait_until(|| TcpStream::connect(&address).ok());
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served");
        let hear = || {
            let mut bytes = [0; 4096];
            let read = manager.recv(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..read]).into_owned()
        };
        let mut heard = Vec::new();
        while !heard.iter().any(|text: &String| text.contains("READY=1")) {
            heard.push(hear());
        }
        while heard.iter().filter(|text| text.contains("WATCHDOG=1")).count() < 3 {
            heard.push(hear());
        }
        app.ok(&["down"]);
        while !heard.iter().any(|text| text.contains("STOPPING=1")) {
            heard.push(hear());
        }
        assert!(activate.wait().unwrap().success());
    }
}

/// `up --watch`, once it has said that it watches: what changes from then on is seen. It can say more as long as its stderr
/// is kept.
fn watch(app: &App) -> (Child, BufReader<ChildStderr>) {
    let mut up = app
        .command(&["up", "--watch"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = BufReader::new(up.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("watching") {
        line.clear();
        assert_ne!(
            says.read_line(&mut line).unwrap(),
            0,
            "`up --watch` ended before it watched"
        );
    }
    (up, says)
}

#[test]
fn watch_restarts_what_has_new_code_and_follows_the_manifest() {
    for mode in BOTH {
        let app = app(
            mode,
            "watched",
            r#"
code = { "/app" = "./code" }
[services.web]
command = ["sh", "/app/web.sh"]
"#,
        );
        app.write("code/web.sh", "echo version one; sleep 1000 & wait\n");
        let (mut up, _says) = watch(&app);
        app.wait_for_log("web", "version one");
        app.write("code/web.sh", "echo version two; sleep 1000 & wait\n");
        app.wait_for_log("web", "version two");
        edit(
            &app,
            "[services.web]",
            "[services.more]\ncommand = [\"sh\", \"-c\", \"echo more; sleep 1000 & wait\"]\n[services.web]",
        );
        app.wait_for_log("more", "more");
        harness::signal(up.id(), nix::sys::signal::Signal::SIGTERM);
        assert_eq!(up.wait().unwrap().code(), Some(0));
        assert!(!app.state().join("run").exists());
    }
}

/// A process that waits for the lock that is held through this file, if one does; proc_locks(5).
fn waits_for(lock: &std::fs::File) -> Option<u32> {
    use std::os::fd::AsRawFd;
    // Device and inode as the kernel counts them for locks: stat(2) has other devices on some file systems.
    let held = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", lock.as_raw_fd())).unwrap();
    let held = held.lines().find_map(|line| line.strip_prefix("lock:")).unwrap();
    let place = held.split_whitespace().nth(5).unwrap();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let waits = words.get(1) == Some(&"->") && words.get(6) == Some(&place);
        waits.then(|| words[5].parse().unwrap())
    })
}

/// Has a process blocked SIGTERM, and been sent it? proc_pid_status(5).
fn has_pending_end(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(pending.trim(), 16).unwrap() & 1 << (libc::SIGTERM - 1) != 0
}

#[test]
fn watch_ends_at_a_signal_while_it_builds_a_jail() {
    for mode in BOTH {
        let app = app(mode, "building", "[services.web]\ncommand = [\"sleep\", \"1000\"]\n");
        app.write("jails/own.toml", "paths = [\"/usr/bin/env\"]\n");
        // So that there is a store.
        app.write("jails/first.toml", "paths = [\"/usr/bin/true\"]\n");
        app.ok(&["jail", "build", "first"]);
        let (mut up, mut says) = watch(&app);
        // Whoever builds waits for the store's lock first, and so for this test.
        let jails = app.state().join("jails");
        let lock = std::fs::File::options().write(true).open(jails.join("lock")).unwrap();
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
        edit(
            &app,
            "[services.web]",
            "[services.jailed]\ncommand = [\"/none\"]\njail = \"own\"\n[services.web]",
        );
        let watcher = wait_until(|| waits_for(&lock));
        harness::signal(up.id(), nix::sys::signal::Signal::SIGTERM);
        wait_until(|| has_pending_end(watcher).then_some(()));
        drop(lock);
        assert_eq!(up.wait().unwrap().code(), Some(0));
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut says, &mut rest).unwrap();
        assert!(rest.contains("jail \"own\": a signal broke off the building"), "{rest}");
        assert_eq!(std::fs::read_dir(jails.join("trees")).unwrap().count(), 1);
        assert!(!jails.join("tmp").exists() && !app.state().join("run").exists());
    }
}

#[test]
fn watch_is_heard_beside_one_who_writes_on_and_on() {
    for mode in BOTH {
        let app = app(
            mode,
            "noise",
            "code = { \"/app\" = \"./code\" }\n[services.web]\ncommand = [\"sh\", \"/app/web.sh\"]\n[services.still]\ncommand = [\"sleep\", \"1000\"]\n",
        );
        app.write("code/web.sh", "echo version one; sleep 1000 & wait\n");
        let (mut up, mut says) = watch(&app);
        std::thread::spawn(move || std::io::copy(&mut says, &mut std::io::sink()));
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let noisy = |name: &'static str| {
                let (app, over) = (&app, &over);
                scope.spawn(move || {
                    for n in 0u64.. {
                        if over.load(Ordering::Relaxed) {
                            break;
                        }
                        app.write(name, n.to_string());
                        std::thread::sleep(std::time::Duration::from_millis(20));
                    }
                });
            };
            // Beside the manifest: that is nobody's business, and what is asked for is done all the same.
            noisy("noise");
            edit(
                &app,
                "[services.still]",
                "[services.more]\ncommand = [\"sh\", \"-c\", \"echo more; sleep 1000 & wait\"]\n[services.still]",
            );
            app.wait_for_log("more", "more");
            assert_eq!(app.logs("web").matches("version one").count(), 1);
            // In the code itself: of what has changed nothing waits for the end of it.
            noisy("code/noise");
            app.write("code/web.sh", "echo version two; sleep 1000 & wait\n");
            app.wait_for_log("web", "version two");
            // While it waits for a service that does not come, a signal is heard.
            edit(
                &app,
                "[services.still]",
                "[services.never]\ncommand = [\"sleep\", \"1000\"]\nready = { command = [\"false\"] }\nstart_timeout = \"1h\"\n[services.still]",
            );
            wait_until(|| app.run(&["ps"]).out.contains("never").then_some(()));
            app.wait_for_state("never", "starting");
            harness::signal(up.id(), nix::sys::signal::Signal::SIGTERM);
            assert_eq!(up.wait().unwrap().code(), Some(0));
            over.store(true, Ordering::Relaxed);
        });
        assert!(!app.state().join("run").exists());
    }
}

#[test]
fn a_socket_that_was_handed_over_stays_when_a_change_fails() {
    for (mode, port) in [(Mode::Root, 18_323), (Mode::Rootless, 18_325)] {
        let app = app(mode, "handed", "[services.idle]\ncommand = [\"sleep\", \"1000\"]\n");
        let (address, other) = (format!("127.0.0.1:{port}"), format!("127.0.0.2:{port}"));
        let mut activate = app
            .shell_free(
                "systemd-socket-activate",
                &[
                    "-E",
                    "PYSECURE_STATE_DIR",
                    "-l",
                    &address,
                    harness::binary().to_str().unwrap(),
                    "up",
                ],
            )
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("install `systemd`");
        // It waits in the socket for a service that is yet to come.
        let mut client = wait_until(|| TcpStream::connect(&address).ok());
        wait_until(|| (app.run(&["ps"]).code == 0).then_some(()));
        let taken = std::net::TcpListener::bind(&other).unwrap();
        edit(
            &app,
            "[services.idle]",
            &format!(
                r#"[services.web]
command = ["python3", "-c", "import socket,time; s=socket.socket(fileno=3); c,_=s.accept(); c.sendall(b'served'); c.close(); time.sleep(1000)"]
listen = ["{address}", "{other}"]
[services.idle]"#
            ),
        );
        let refused = app.run(&["up", "-d"]);
        assert!(
            refused.code == 1 && refused.err.contains("another program listens there"),
            "{refused:?}"
        );
        drop(taken);
        app.ok(&["up", "-d"]);
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served", "{mode:?}");
        app.ok(&["down"]);
        assert!(activate.wait().unwrap().success());
    }
}

#[test]
fn long_work_shows_how_far_it_is() {
    let services: String = (0..3)
        .map(|n| {
            format!(
                "[services.s{n}]\ncommand = [\"sh\", \"-c\", \"sleep {n}.5; touch /tmp/up; sleep 1000 & wait\"]\n\
                 ready = {{ command = [\"test\", \"-e\", \"/tmp/up\"], interval = \"50ms\" }}\n"
            )
        })
        .collect();
    let app = app(Mode::Root, "progress", &services);
    let mut terminal = app.on_terminal(&["up", "-d"], 24, 80);
    for far in ["[1/3] s0 running", "[2/3] s1 running", "[3/3] s2 running"] {
        terminal.until(far);
    }
    assert_eq!(terminal.ended().0, 0);
    app.ok(&["down"]);
    // Elsewhere a plain line, and only of what takes its time.
    let elsewhere = app.ok(&["up", "-d"]);
    assert!(elsewhere.err.contains("of 3: s2 running\n"), "{elsewhere:?}");
    assert!(
        !elsewhere.err.contains("s0 running") && !elsewhere.err.contains('\r'),
        "{elsewhere:?}"
    );
}

#[test]
fn a_call_starts_a_service_on_demand() {
    for mode in BOTH {
        let app = app(
            mode,
            "oncall",
            r#"
[services.callee]
command = ["python3", "-c", '''
import socket
s = socket.socket(fileno=3)
c, _ = s.accept()
try: c.send(b"heard " + c.recv(100))
except OSError: pass  # who has connected again since
''']
start = "on-demand"
restart_delay = "1h"
callers = { caller = "*" }
[services.caller]
command = ["sleep", "1000"]
depends_on = { callee = "ready" }
"#,
        );
        app.ok(&["up", "-d"]);
        assert_eq!(app.service("callee")["state"], "listening");
        let call = "import socket; s=socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); \
                    s.connect('/run/pysecure/rpc/callee.sock'); s.send(b'you'); print(s.recv(100).decode())";
        // It ends after each, and the next one starts it anew.
        for _ in 0..3 {
            let heard = app.ok(&["exec", "-T", "caller", "--", "python3", "-c", call]);
            assert_eq!(heard.out, "heard you\n");
        }
        // So it does where others wait already: one that takes a connection each time does not fail, however many there are. The first
        // is kept waiting until all have connected. A socket that is made anew ends those that wait in it, and they connect again.
        let calls = "import socket\n\
                     def new():\n \
                     s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n \
                     s.connect('/run/pysecure/rpc/callee.sock')\n \
                     return s\n\
                     def heard(s):\n \
                     while True:\n  \
                     try:\n   \
                     s.send(b'you')\n   \
                     if said := s.recv(100): return said\n  \
                     except OSError: pass\n  \
                     try: s = new()\n  \
                     except OSError: pass\n\
                     all = [new() for _ in range(20)]\n\
                     print({heard(s) for s in all})";
        let heard = app.ok(&["exec", "-T", "caller", "--", "python3", "-c", calls]);
        assert_eq!(heard.out, "{b'heard you'}\n");
        assert_eq!(app.service("callee")["restarts"], 0);
        app.wait_for_state("callee", "listening");
    }
}

#[test]
fn top_is_one_page_with_keys() {
    for mode in BOTH {
        let app = app(
            mode,
            "onepage",
            r#"
[services.first]
command = ["sh", "-c", "echo '\u001b[2J######'; sleep 1000 & wait"]
[services.second]
command = ["sh", "-c", "echo @@@@@@@@@@@@; sleep 1000 & wait"]
"#,
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("second", "@@@@@@@@@@@@");
        let before = app.init_of("second");
        let mut page = app.on_terminal(&["top"], 30, 100);
        page.until("RESTARTS");
        let shown = page.until("leave");
        assert!(shown.contains("######") && !shown.contains("[2J######"), "{shown:?}");
        page.type_in("j");
        page.until("@@@@@@@@@@@@");
        page.type_in("r");
        wait_until(|| Some(app.service("second")).filter(|s| s["pid"].as_i64() != Some(before.into())));
        page.type_in("t");
        app.wait_for_state("second", "stopped");
        page.type_in("q");
        assert_eq!(page.ended().0, 0);
        let elsewhere = app.run(&["top"]);
        assert!(
            elsewhere.code == 2 && elsewhere.err.contains("pysecure stats"),
            "{elsewhere:?}"
        );
    }
}

/// What is said beside the rule that holds does not count.
#[test]
fn readiness_and_completion_are_what_the_manifest_says() {
    for mode in BOTH {
        let app = app(
            mode,
            "meant",
            &format!(
                r#"
[services.probed]
command = ["python3", "-c", '''{NOTIFIES}
daemon.notify("READY=1\nSTATUS=told")
while True:
    time.sleep(0.1)
    daemon.notify("WATCHDOG=1")
''']
ready = {{ command = ["test", "-e", "/tmp/ready"] }}
watchdog = "600s"
[services.setup]
type = "oneshot"
command = ["sh", "-c", "exit $(cat /code/code)"]
[services.after]
command = ["sleep", "1000"]
depends_on = {{ setup = "completed" }}
"#
            ),
        );
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        let name = "name = \"meant\"\n";
        app.write(
            "pysecure.toml",
            manifest.replacen(name, &format!("{name}code = {{ \"/code\" = \"./code\" }}\n"), 1),
        );
        app.write("code/code", "0");
        let mut up = app.command(&["up", "-d"]).spawn().unwrap();
        wait_until(|| {
            let ended = app.run(&["ps", "--json"]);
            let ps: Value = serde_json::from_str(&ended.out).ok()?;
            let said = |s: &Value| s["service"] == "probed" && s["status"] == "told";
            ps["services"].as_array()?.iter().any(said).then_some(())
        });
        // It has said that it is ready, and is asked whether it is.
        assert_eq!(app.service("probed")["state"], "starting", "{mode:?}");
        app.sh("probed", "touch /tmp/ready").ok();
        assert!(up.wait().unwrap().success());
        assert_eq!(app.service("probed")["state"], "running");
        assert_eq!(app.service("after")["state"], "running");
        // What ends with an error has not completed.
        app.ok(&["stop", "after"]);
        app.write("code/code", "4");
        app.run(&["restart", "setup"]);
        app.wait_for_state("setup", "failed");
        let started = app.run(&["start", "after"]);
        assert!(
            started.code != 0 && app.service("after")["state"] != "running",
            "{mode:?}: {started:?}"
        );
    }
}

/// The clock of a watchdog runs from the moment at which a service is ready, and not from what it says first.
#[test]
fn a_watchdog_is_for_those_too_that_never_said_a_word() {
    for mode in BOTH {
        let app = app(
            mode,
            "mute",
            &format!(
                r#"
[services.mute]
command = ["python3", "-c", '''{NOTIFIES}
daemon.notify("READY=1")
time.sleep(100000)
''']
ready = "notify"
watchdog = "500ms"
restart = "on-failure"
[services.speaks]
command = ["python3", "-c", '''{NOTIFIES}
daemon.notify("READY=1")
daemon.notify("WATCHDOG=1")
time.sleep(100000)
''']
ready = "notify"
watchdog = "500ms"
restart = "on-failure"
depends_on = ["mute"]
"#
            ),
        );
        app.ok(&["up", "-d"]);
        // The one that was ready later, and spoke, has been restarted: the one before it has been, too.
        let all = wait_until(|| {
            let (mute, speaks) = (app.service("mute"), app.service("speaks"));
            let restarts = |s: &Value| s["restarts"].as_u64().unwrap_or(0);
            (restarts(&speaks) >= 3).then(|| restarts(&mute))
        });
        assert!(all >= 1, "{mode:?}");
    }
}
