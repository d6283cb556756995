//! What a program started by `exec`, `run` and `up` is told, and what is told of its end: exit codes, pipes,
//! terminals, signals.

mod harness;

use harness::{App, BOTH, Ended, Mode, signal, wait_until};
use nix::sys::signal::Signal;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

/// An app of one service, `web`.
fn one(mode: Mode, name: &str, script: &str) -> App {
    with_patience(mode, name, script, "10s")
}

/// `stop_timeout`: when SIGKILL follows SIGTERM.
fn with_patience(mode: Mode, name: &str, script: &str, stop_timeout: &str) -> App {
    let manifest = format!(
        "[app]\nname = \"{name}\"\n[services.web]\nstop_timeout = \"{stop_timeout}\"\ncommand = [\"sh\", \"-c\", {}]\n",
        serde_json::to_string(script).unwrap()
    );
    App::new(mode, &manifest)
}

fn idle(mode: Mode, name: &str) -> App {
    one(mode, name, "echo ready; exec sleep infinity")
}

/// The two ways to run a program with a service's grants.
const WAYS: [[&str; 3]; 2] = [["exec", "-T", "web"], ["run", "-T", "web"]];

fn args<'a>(way: &[&'a str], command: &[&'a str]) -> Vec<&'a str> {
    [way, &["--"], command].concat()
}

#[test]
fn the_exit_code_is_the_programs_own() {
    for mode in BOTH {
        let app = idle(mode, "exitcodes");
        app.ok(&["up", "-d"]);
        for way in WAYS {
            let code = |command: &[&str]| app.run(&args(&way, command));
            assert_eq!(code(&["true"]).code, 0);
            assert_eq!(code(&["sh", "-c", "exit 7"]).code, 7);
            assert_eq!(code(&["sh", "-c", "exit 255"]).code, 255);
            assert_eq!(code(&["sh", "-c", "kill -KILL $$"]).code, 137);
            assert_eq!(code(&["sh", "-c", "kill -TERM $$"]).code, 143);
            let missing = code(&["/no/such/program"]);
            assert_eq!(missing.code, 127, "{missing:?}");
            assert!(missing.err.contains("/no/such/program"), "{missing:?}");
            assert_eq!(code(&["nosuchprogram"]).code, 127);
            let data = code(&["/etc/passwd"]);
            assert_eq!(data.code, 126, "{data:?}");
            assert!(data.err.contains("not executable"), "{data:?}");
        }
        assert_eq!(app.run(&["exec", "-T", "nobody", "--", "true"]).code, 125);
        app.ok(&["down"]);
        assert_ne!(
            app.run(&["exec", "-T", "web", "--", "true"]).code,
            0,
            "nothing to exec in"
        );
        assert_eq!(
            app.run(&["run", "-T", "web", "--", "sh", "-c", "exit 7"]).code,
            7,
            "run needs no supervisor"
        );
    }
}

#[test]
fn pipes_carry_every_byte_both_ways() {
    let data: Vec<u8> = (0..1u32 << 20)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    for mode in BOTH {
        let app = idle(mode, "pipes");
        app.ok(&["up", "-d"]);
        for way in WAYS {
            let mut child = app
                .command(&args(&way, &["sh", "-c", "cat; echo done >&2"]))
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            let given = data.clone();
            let feeder = std::thread::spawn(move || stdin.write_all(&given).unwrap());
            let mut out = Vec::new();
            child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
            feeder.join().unwrap();
            assert!(out == data, "{way:?}: {} of {} bytes", out.len(), data.len());
            let ended = Ended::from(child.wait_with_output().unwrap());
            assert_eq!((ended.code, ended.err.as_str()), (0, "done\n"), "{way:?}");
        }
    }
}

#[test]
fn a_terminal_is_a_real_one() {
    for mode in BOTH {
        let app = idle(mode, "terminal");
        app.ok(&["up", "-d"]);
        for way in ["exec", "run"] {
            let command = [way, "web", "--", "sh", "-c", "PS1='%%' exec sh -i"];
            let mut terminal = app.on_terminal(&command, 33, 77);
            let greeting = terminal.until("%%");
            assert!(
                !greeting.contains("job control"),
                "{way}: no controlling terminal: {greeting}"
            );
            // The shell echoes what is typed; the texts waited for are not in it literally.
            terminal.type_in("tty; echo o''k\n");
            assert!(terminal.until("ok\r\n%%").contains("\r\n/dev/pts/"), "{way}");
            terminal.type_in("stty size\n");
            terminal.until("\r\n33 77\r\n%%");
            terminal.resize(44, 99);
            terminal.type_in("while [ \"$(stty size)\" != '44 99' ]; do :; done; echo re''sized\n");
            terminal.until("resized\r\n%%");
            // Said by the job itself, which then is the terminal's foreground.
            terminal.type_in("sh -c 'echo be\"\"fore; exec sleep 1000'; echo never\n");
            terminal.until("before\r\n");
            terminal.type_in("\x03");
            terminal.until("%%");
            terminal.type_in("echo al''ive\n");
            terminal.until("alive\r\n%%");
            terminal.type_in("sh -c 'echo be\"\"fore; exec sleep 1000'\n");
            terminal.until("before\r\n");
            terminal.type_in("\x1a");
            terminal.until("%%");
            terminal.type_in("jobs; kill -KILL %1; echo go''ne\n");
            // Whether the shell has seen by then that its job is dead, and says so before it prompts, is chance.
            assert!(terminal.until("gone\r\n").contains("Stopped"), "{way}: no job control");
            terminal.until("%%");
            // The first is refused if the shell has not seen yet that its job is dead.
            terminal.type_in("exit 3\nexit 3\n");
            let (code, shown) = terminal.ended();
            assert_eq!(code, 3, "{way}: {shown}");
            let settings = rustix::termios::tcgetattr(&terminal.slave).unwrap();
            use rustix::termios::LocalModes;
            assert!(
                settings
                    .local_modes
                    .contains(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG),
                "{way}: the caller's terminal is left raw"
            );
        }
    }
}

/// A child whose output is read line by line.
struct Talking {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Talking {
    fn start(app: &App, args: &[&str]) -> Talking {
        let mut child = app
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Talking { child, lines }
    }

    fn until(&mut self, text: &str) {
        for line in &mut self.lines {
            if line.unwrap().contains(text) {
                return;
            }
        }
        let ended = self.child.wait().unwrap();
        let mut err = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        panic!("it ended ({ended}) without {text:?}: {err}");
    }

    fn ended(mut self) -> Ended {
        let rest: Vec<String> = (&mut self.lines).map(Result::unwrap).collect();
        let mut ended = Ended::from(self.child.wait_with_output().unwrap());
        ended.out = rest.join("\n");
        ended
    }
}

#[test]
fn signals_reach_the_program() {
    for mode in BOTH {
        let app = idle(mode, "signalled");
        app.ok(&["up", "-d"]);
        for way in WAYS {
            for (name, number) in [
                ("TERM", Signal::SIGTERM),
                ("INT", Signal::SIGINT),
                ("HUP", Signal::SIGHUP),
                ("USR1", Signal::SIGUSR1),
            ] {
                let script =
                    format!("trap 'echo told {name}; exit 9' {name}; echo waiting; while :; do sleep 0.02; done");
                let mut talking = Talking::start(&app, &args(&way, &["sh", "-c", &script]));
                talking.until("waiting");
                signal(talking.child.id(), number);
                let ended = talking.ended();
                assert!(
                    ended.out.contains(&format!("told {name}")),
                    "{mode:?} {way:?} {name}: {ended:?}"
                );
                assert_eq!(ended.code, 9, "{mode:?} {way:?} {name}: {ended:?}");
            }
        }
    }
}

#[test]
fn nothing_goes_on_when_the_client_is_killed() {
    for mode in BOTH {
        let app = idle(mode, "orphaned");
        app.ok(&["up", "-d"]);
        for (way, seconds) in WAYS.into_iter().zip(["70001", "70002"]) {
            let mut talking = Talking::start(
                &app,
                &args(&way, &["sh", "-c", &format!("echo waiting; sleep {seconds}")]),
            );
            talking.until("waiting");
            wait_until(|| running(seconds).then_some(()));
            signal(talking.child.id(), Signal::SIGKILL);
            wait_until(|| (!running(seconds)).then_some(()));
            let _ = talking.child.wait();
        }
        // `run` killed in the middle must not be in the way of `down`, nor leave its folder for ever.
        app.ok(&["down"]);
    }
}

/// Is there a `sleep` of this many seconds on the host?
fn running(seconds: &str) -> bool {
    let wanted = format!("sleep\0{seconds}\0");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|entry| std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes()))
}

#[test]
fn run_works_beside_the_same_service_and_shares_only_its_files() {
    for mode in BOTH {
        let manifest = r#"
[app]
name = "beside"
[resources]
data = { path = "/data/d/file.txt", owner = "rw" }
[services.web]
command = ["sh", "-c", "echo kept > /data/d/file.txt; touch /tmp/private; echo ready; exec sleep 70003"]
owner_resources = ["data"]
"#;
        let app = App::new(mode, manifest);
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "ready");
        let seen = app.ok(&[
            "run",
            "web",
            "--",
            "sh",
            "-c",
            "cat /data/d/file.txt; ls -A /tmp; cat /proc/*/cmdline",
        ]);
        assert!(seen.out.starts_with("kept\n"), "{seen:?}");
        assert!(!seen.out.contains("private") && !seen.out.contains("70003"), "{seen:?}");
        assert_eq!(app.ps()["services"][0]["state"], "running");
    }
}

#[test]
fn orphans_are_reaped() {
    for mode in BOTH {
        let app = idle(mode, "zombies");
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "ready");
        // Each `sleep` is orphaned at once and PID 1 becomes its parent.
        let made = app.sh(
            "web",
            "for i in 1 2 3 4 5 6 7 8 9 10; do (sleep 0.3 &) ; done; grep -hs ^PPid /proc/[0-9]*/status",
        );
        assert!(
            made.out.matches("PPid:\t1\n").count() >= 10,
            "they are PID 1's: {made:?}"
        );
        wait_until(|| {
            let states = app.sh("web", "grep -hsE '^(Name|State)' /proc/[0-9]*/status").out;
            (states.matches("Name:\tsleep\n").count() == 1 && !states.contains("zombie")).then_some(())
        });
    }
}

#[test]
fn down_tells_grandchildren_too() {
    for mode in BOTH {
        let script = "sh -c 'trap \"echo grandchild told; exit\" TERM; echo one; sleep 1000 & wait' & \
                      trap 'echo child told; wait; exit' TERM; echo two; wait";
        let app = one(mode, "grandchildren", script);
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "one");
        app.wait_for_log("web", "two");
        app.ok(&["down"]);
        let logs = app.logs("web");
        assert!(
            logs.contains("grandchild told") && logs.contains("child told"),
            "{logs}"
        );
        // And a shell that does not care: SIGTERM to the shell alone would leave the sleep.
        // SIGTERM alone ends it: no SIGKILL comes before tomorrow.
        let app = with_patience(mode, "careless", "sleep 70004 & sleep 70004 & echo ready; wait", "24h");
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "ready");
        app.ok(&["down"]);
        assert!(!running("70004"));
    }
}

#[test]
fn who_ignores_sigterm_is_killed_in_the_end() {
    for mode in BOTH {
        let app = one(
            mode,
            "stubborn",
            "trap '' TERM; echo ready; while :; do sleep 70005; done",
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "ready");
        let start = Instant::now();
        app.ok(&["down"]);
        assert!(
            start.elapsed() >= Duration::from_secs(9),
            "it had its time: {:?}",
            start.elapsed()
        );
        assert!(!running("70005"));
    }
}

const SLOW: &str = r#"
[app]
name = "foreground"
[services.first]
command = ["sh", "-c", "trap 'sleep 1; echo first says bye; exit' TERM; echo first runs; sleep 1000 & while :; do wait; done"]
[services.second]
command = ["sh", "-c", "trap 'sleep 1; echo second says bye; exit' TERM; echo second runs; sleep 1000 & while :; do wait; done"]
"#;

#[test]
fn one_ctrl_c_stops_all_and_kills_none() {
    for mode in BOTH {
        let app = App::new(mode, SLOW);
        let mut terminal = app.on_terminal(&["up"], 24, 80);
        terminal.until("runs");
        terminal.until("runs");
        terminal.type_in("\x03");
        let (code, shown) = terminal.ended();
        // The key reaches all of the foreground's processes: counted twice, it would kill.
        assert!(
            shown.contains("first says bye") && shown.contains("second says bye"),
            "{mode:?}: {shown}"
        );
        assert_eq!(code, 0, "{mode:?}: {shown}");
        assert!(!app.state().join("run").exists());
    }
}

#[test]
fn a_second_ctrl_c_kills() {
    for mode in BOTH {
        let app = with_patience(
            mode,
            "impatient",
            "trap '' TERM; echo ready; while :; do sleep 70006; done",
            "24h",
        );
        let mut terminal = app.on_terminal(&["up"], 24, 80);
        terminal.until("ready");
        terminal.type_in("\x03");
        terminal.until("press Ctrl-C again to kill");
        terminal.type_in("\x03");
        terminal.ended();
        assert!(!running("70006"));
        assert!(!app.state().join("run").exists());
    }
}

#[test]
fn a_signal_to_up_alone_is_enough() {
    for mode in BOTH {
        let app = App::new(mode, SLOW);
        let mut talking = Talking::start(&app, &["up"]);
        talking.until("runs");
        talking.until("runs");
        // As timeout(1) and systemd do: more than one, for one wish.
        for number in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGTERM] {
            signal(talking.child.id(), number);
            std::thread::sleep(Duration::from_millis(20));
        }
        let ended = talking.ended();
        assert!(
            ended.out.contains("first says bye") && ended.out.contains("second says bye"),
            "{mode:?}: {ended:?}"
        );
        assert_eq!(ended.code, 0, "{mode:?}: {ended:?}");
    }
}

#[test]
fn the_exit_code_of_up_says_how_it_went() {
    for mode in BOTH {
        assert_eq!(one(mode, "upwell", "exit 0").run(&["up"]).code, 0);
        let ended = one(mode, "upunwell", "exit 3").run(&["up"]);
        assert_eq!(ended.code, 1, "{ended:?}");
        assert!(ended.err.contains("web ended with code 3"), "{ended:?}");
    }
}

#[test]
fn an_end_by_a_signal_that_has_no_name_is_told_as_any() {
    let app = App::new(
        Mode::Rootless,
        "[app]\nname = \"nameless\"\n[services.idle]\ncommand = [\"sleep\", \"1000\"]\n",
    );
    let mut outside = app.command(&["run", "-T", "idle"]).spawn().unwrap();
    let list = format!("/proc/{0}/task/{0}/children", outside.id());
    // As an ordinary user the program goes on in a namespace, and the first process waits for that.
    let inside: u32 = wait_until(|| {
        let text = std::fs::read_to_string(&list).unwrap();
        let first = text.split_whitespace().next()?.parse().ok()?;
        let arguments = std::fs::read(format!("/proc/{first}/cmdline")).ok()?;
        let environment = std::fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
        (arguments.ends_with(b"idle\0") && environment.starts_with("pysecure")).then_some(first)
    });
    // It has taken the signals by then that it listens to, and 40 is not one.
    wait_until(|| {
        let text = std::fs::read_to_string(format!("/proc/{inside}/task/{inside}/children")).unwrap();
        (!text.is_empty()).then_some(())
    });
    let sent = std::process::Command::new("kill")
        .args(["-40", &inside.to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    assert_eq!(outside.wait().unwrap().code(), Some(128 + 40));
}
