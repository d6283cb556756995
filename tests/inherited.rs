//! What `pysecure` inherits from its caller, and what is done to its supervisor from outside: ignored and blocked signals, limits,
//! descriptors, groups, a terminal that hangs up, a pause, clients that say nothing.

mod harness;

use harness::{App, BOTH, Ended, Mode, signal, wait_until};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Command;

fn app(mode: Mode, name: &str, services: &str) -> App {
    App::new(mode, &format!("[app]\nname = \"{name}\"\n{services}"))
}

const IDLE: &str = "[services.idle]\ncommand = [\"sleep\", \"1000000\"]\n";

/// `pysecure ARGS`, exec'd by a program that was told so by `words`.
fn under(app: &App, words: &[&str], args: &[&str]) -> Command {
    let words: Vec<&str> = words
        .iter()
        .copied()
        .chain([harness::binary().to_str().unwrap()])
        .collect();
    let all: Vec<&str> = words[1..].iter().chain(args).copied().collect();
    app.shell_free(words[0], &all)
}

/// Has everything ignored and blocked that can be, and execs the rest of its arguments.
const DEAF: &str = "import os, signal, sys
for number in range(1, 65):
    try: signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError): pass
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
os.execv(sys.argv[1], sys.argv[1:])";

/// Has one system call fail from here on, and execs the rest of its arguments: its number, the error, and what its second
/// argument is to be, or -1 for any. seccomp(2).
const DENYING: &str = "import ctypes, os, struct, sys
call, error, second = map(int, sys.argv[1:4])
def op(code, yes, no, k): return struct.pack('HBBI', code, yes, no, k)
ops = [op(0x20, 0, 0, 0), op(0x15, 0, 3, call), op(0x20, 0, 0, 24)]
ops += [op(0x15, 0, 1, second) if second >= 0 else op(0x05, 0, 0, 0)]
ops += [op(0x06, 0, 0, 0x00050000 | error), op(0x06, 0, 0, 0x7fff0000)]
code = ctypes.create_string_buffer(b''.join(ops))
program = struct.pack('H6xP', len(ops), ctypes.addressof(code))
assert ctypes.CDLL(None, use_errno=True).prctl(22, 2, program) == 0, ctypes.get_errno()
os.execv(sys.argv[4], sys.argv[4:])";

/// `pysecure ARGS` where a system call fails.
fn denying(app: &App, call: i64, error: i32, args: &[&str]) -> Ended {
    let (call, error) = (call.to_string(), error.to_string());
    let words = ["/usr/bin/python3", "-c", DENYING, &call, &error, "-1"];
    Ended::from(under(app, &words, args).output().unwrap())
}

fn ends(pid: i32) {
    wait_until(|| (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
}

#[test]
fn what_the_caller_ignores_or_blocks_changes_nothing() {
    for mode in BOTH {
        let app = app(mode, "deaf", IDLE);
        let caller = ["/usr/bin/python3", "-c", DEAF];
        let run = Ended::from(
            under(
                &app,
                &caller,
                &[
                    "run",
                    "idle",
                    "--",
                    "sh",
                    "-c",
                    "grep -E '^Sig(Blk|Ign)' /proc/self/status; exit 7",
                ],
            )
            .output()
            .unwrap(),
        );
        // The control: so a program without such care starts.
        let bare = Ended::from(
            app.shell_free(
                caller[0],
                &["-c", DEAF, "/usr/bin/grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"],
            )
            .output()
            .unwrap(),
        );
        assert!(!bare.out.contains("SigBlk:\t0000000000000000"), "{bare:?}");
        assert_eq!(run.code, 7, "{run:?}");
        for line in ["SigBlk:\t0000000000000000", "SigIgn:\t0000000000000000"] {
            assert!(run.out.contains(line), "{mode:?} {run:?}");
        }
        let up = Ended::from(under(&app, &caller, &["up", "-d"]).output().unwrap()).ok();
        assert!(up.out.contains("is up"), "{up:?}");
        let supervisor = app.supervisor();
        // None of these says anything to it.
        for other in [
            Signal::SIGUSR1,
            Signal::SIGUSR2,
            Signal::SIGALRM,
            Signal::SIGVTALRM,
            Signal::SIGIO,
            Signal::SIGXFSZ,
        ] {
            signal(supervisor as u32, other);
        }
        #[allow(unsafe_code, reason = "neither nix nor rustix sends a real-time signal")]
        // SAFETY: kill(2) takes integers only.
        let sent = unsafe { libc::kill(supervisor, libc::SIGRTMIN() + 3) };
        assert_eq!(sent, 0);
        assert_eq!(app.supervisor(), supervisor);
        assert_eq!(app.sh("idle", "exit 3").code, 3);
        signal(supervisor as u32, Signal::SIGTERM);
        ends(supervisor);
    }
}

#[test]
fn limits_and_descriptors_of_the_caller_are_not_the_apps() {
    for mode in BOTH {
        let writes = "[services.writes]
command = [\"sh\", \"-c\", \"seq -f 'line %.0f' 0 19999; sleep 1000000\"]
logs = { max_size = \"1M\" }\n";
        let app = app(mode, "limited", writes);
        let lock = app.write("lock", "");
        // As a soft limit: a file of 1 KiB, and 2 GiB of addresses; and a lock that the caller holds.
        let script = "ulimit -S -f 2; exec 9<lock; flock 9; exec \"$@\"";
        let caller = ["/bin/sh", "-c", script, "sh"];
        Ended::from(under(&app, &caller, &["up", "-d"]).output().unwrap()).ok();
        app.wait_for_log("writes", "line 19999");
        assert_eq!(app.logs("writes").lines().count(), 20_000);
        let free = Command::new("flock").arg("-n").arg(&lock).arg("true").status().unwrap();
        assert!(free.success(), "the supervisor holds its caller's lock");
        app.ok(&["down"]);
        // As a hard limit: what does not fit goes on in the next file, and nobody dies of it.
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write("pysecure.toml", manifest.replace("'line %.0f'", "'again %.0f'"));
        let script = "ulimit -f 256; exec \"$@\"";
        Ended::from(
            under(&app, &["/bin/sh", "-c", script, "sh"], &["up", "-d"])
                .output()
                .unwrap(),
        )
        .ok();
        let all = app.wait_for_log("writes", "again 19999");
        let last = all.lines().rev().take(2_000);
        let missing = last
            .zip((18_000..20_000).rev())
            .find(|(line, n)| !line.ends_with(&format!(" again {n}")));
        assert_eq!(
            missing, None,
            "what comes in one piece and lies in two files is all there"
        );
        assert_eq!(app.service("writes")["state"], "running");
    }
}

#[test]
fn groups_that_let_the_caller_pass_a_folder_go_on_doing_so() {
    let app = app(Mode::Rootless, "groups", IDLE);
    let (uid, gid) = harness::user();
    let (closed, group) = (app.folder.join("closed"), 54_321);
    std::fs::create_dir(&closed).unwrap();
    for path in [&closed, &closed.join("app"), &closed.join("app/code")] {
        let _ = std::fs::create_dir(path);
    }
    std::fs::write(closed.join("app/code/file"), "read").unwrap();
    std::fs::copy(app.folder.join("pysecure.toml"), closed.join("app/pysecure.toml")).unwrap();
    let manifest = std::fs::read_to_string(closed.join("app/pysecure.toml")).unwrap();
    let manifest = manifest.replace("[services", "code = { \"/srv/code\" = \"code\" }\n[services");
    std::fs::write(closed.join("app/pysecure.toml"), manifest).unwrap();
    std::os::unix::fs::chown(&closed, Some(0), Some(group)).unwrap();
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o750)).unwrap();
    let run = |groups: &str| {
        let mut command = Command::new("setpriv");
        command
            .arg(format!("--reuid={uid}"))
            .arg(format!("--regid={gid}"))
            .arg(groups)
            .arg("--inh-caps=-all")
            .arg(harness::binary())
            .args([
                "--file",
                closed.join("app").to_str().unwrap(),
                "run",
                "idle",
                "--",
                "sh",
                "-c",
            ])
            .arg("cat /srv/code/file; id -G")
            .env("PYSECURE_STATE_DIR", app.state())
            .current_dir("/");
        Ended::from(command.output().unwrap())
    };
    let passes = run(&format!("--groups={group}")).ok();
    assert!(passes.out.starts_with("read"), "{passes:?}");
    // They are the caller's, and no service's.
    assert_eq!(
        passes.out.trim_start_matches("read").split_whitespace().count(),
        1,
        "{passes:?}"
    );
    assert_ne!(run("--clear-groups").code, 0);
}

#[test]
fn a_terminal_that_hangs_up_ends_the_app_in_order() {
    for mode in BOTH {
        let app = app(
            mode,
            "hangup",
            "[services.says]
command = [\"sh\", \"-c\", \"trap 'echo ended in order; exit 0' TERM; echo runs; while :; do sleep 0.05; done\"]\n",
        );
        let mut terminal = app.on_terminal(&["up"], 24, 80);
        terminal.until("runs");
        let supervisor = app.supervisor();
        terminal.hang_up().wait().unwrap();
        ends(supervisor);
        assert!(
            app.logs("says").contains("ended in order"),
            "{mode:?}: {}",
            app.logs("says")
        );
    }
}

/// A process and all that descend from it.
fn family(root: i32) -> Vec<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let (Some((pid, _)), Some((_, rest))) = (stat.split_once(' '), stat.rsplit_once(") ")) {
            let parent = rest.split(' ').nth(1).unwrap().parse().unwrap();
            children.entry(parent).or_default().push(pid.parse().unwrap());
        }
    }
    let mut all = vec![root];
    let mut next = 0;
    while next < all.len() {
        all.extend(children.get(&all[next]).into_iter().flatten());
        next += 1;
    }
    all
}

#[test]
fn a_pause_of_the_supervisor_or_of_all_is_not_a_services_fault() {
    let beats = "import os, socket, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.connect(os.environ['NOTIFY_SOCKET'])
while True:
    s.send(b'WATCHDOG=1\\nREADY=1')
    time.sleep(0.05)";
    for mode in BOTH {
        let app = app(
            mode,
            "paused",
            &format!(
                "[services.beats]\ncommand = [\"python3\", \"-c\", '''{beats}''']\nready = \"notify\"\nwatchdog = \"1s\"\nrestart = \"always\"\n"
            ),
        );
        app.ok(&["up", "-d"]);
        let supervisor = app.supervisor();
        // A helper may have ended since the list was made.
        let send = |to: &[i32], what: Signal| {
            for pid in to {
                let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), what);
            }
        };
        let pause = |ms: u64| std::thread::sleep(std::time::Duration::from_millis(ms));
        for _ in 0..3 {
            send(&[supervisor], Signal::SIGSTOP);
            pause(1500);
            send(&[supervisor], Signal::SIGCONT);
            pause(100);
        }
        for _ in 0..3 {
            let services: Vec<i32> = family(supervisor).split_off(1);
            send(&[supervisor], Signal::SIGSTOP);
            send(&services, Signal::SIGSTOP);
            pause(2000);
            // The machine goes on, the service only a moment later.
            send(&[supervisor], Signal::SIGCONT);
            pause(300);
            send(&services, Signal::SIGCONT);
            pause(100);
        }
        assert_eq!(app.service("beats")["restarts"], 0, "{mode:?}");
        // The control: who says nothing while the supervisor runs is found out.
        let services: Vec<i32> = family(supervisor).split_off(1);
        let mut events = app.events();
        send(&services, Signal::SIGSTOP);
        events.until("restarting", "beats");
        drop(events);
    }
}

#[test]
fn clients_that_say_nothing_take_nobody_in() {
    for mode in BOTH {
        let app = app(mode, "idlers", IDLE);
        // So that few clients use up all descriptors.
        let caller = ["/bin/sh", "-c", "ulimit -n 140; exec \"$@\"", "sh"];
        Ended::from(under(&app, &caller, &["up", "-d"]).output().unwrap()).ok();
        let supervisor = app.supervisor();
        let socket = app.state().join("run/idlers/control.sock");
        // The owner alone is let in, who as an ordinary user is not this process.
        let connect = format!(
            "import socket, sys, time
all = []
for n in range(400):
    s = socket.socket(socket.AF_UNIX)
    s.connect({socket:?})
    if sys.argv[1] == 'hears': s.send(b'{{\"do\":\"events\"}}\\n')
    all.append(s)
    if n == 399: print('connected', flush=True)
    # The socket's queue is short, and it is not let in any further.
    elif sys.argv[1] == 'hears' and n == 100: print('connected', flush=True)
time.sleep(1000000)"
        );
        let clients = |kind: &str| {
            use std::io::{BufRead, BufReader};
            let mut child = app
                .shell_free("/usr/bin/python3", &["-c", &connect, kind])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            let mut line = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut line)
                .unwrap();
            assert_eq!(line, "connected\n");
            child
        };
        let mut idle = clients("silent");
        app.ok(&["ps"]);
        assert_eq!(app.sh("idle", "exit 3").code, 3);
        idle.kill().unwrap();
        idle.wait().unwrap();
        app.ok(&["ps"]);
        // Those that are owed something stay, and whoever comes then waits; without end, but without work.
        let mut hearing = clients("hears");
        let switches = || {
            let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
            let line = status
                .lines()
                .find(|l| l.starts_with("voluntary_ctxt_switches"))
                .unwrap();
            let ticks = std::fs::read_to_string(format!("/proc/{supervisor}/stat")).unwrap();
            let fields: Vec<&str> = ticks.rsplit_once(") ").unwrap().1.split(' ').collect();
            let number = |text: &str| text.trim().parse::<u64>().unwrap();
            (
                number(line.rsplit('\t').next().unwrap()),
                number(fields[11]) + number(fields[12]),
            )
        };
        std::thread::sleep(std::time::Duration::from_millis(300));
        let before = switches();
        std::thread::sleep(std::time::Duration::from_secs(2));
        let after = switches();
        assert!(
            after.0 - before.0 < 50 && after.1 - before.1 < 40,
            "{before:?} {after:?}"
        );
        hearing.kill().unwrap();
        hearing.wait().unwrap();
        app.ok(&["ps"]);
        let _ = UnixStream::connect(&socket).map(|mut s| s.write_all(b"half a requ"));
        app.ok(&["ps"]);
    }
}

#[test]
fn what_cannot_be_closed_or_taken_away_is_no_reason_to_go_on() {
    let app = app(
        Mode::Root,
        "failclosed",
        "[resources]\ndata = { path = \"/data/\", owner = \"rw\" }\n\
         [services.idle]\ncommand = [\"sleep\", \"1000000\"]\nowner_resources = [\"data\"]\n",
    );
    // The control: with a call that nobody makes it is as ever.
    assert_eq!(denying(&app, libc::SYS_swapon, libc::EPERM, &["check"]).code, 0);
    let ended = denying(&app, libc::SYS_close_range, libc::EPERM, &["check"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(
        ended.err.contains("close the descriptors that the caller left open"),
        "{ended:?}"
    );
    // A former owner would go on by an entry of the ACL.
    let ended = denying(&app, libc::SYS_removexattr, libc::EIO, &["up", "-d"]);
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.err.contains("take the ACL off"), "{ended:?}");
    assert!(app.run(&["ps"]).err.contains("is not up"));
    // Where there are none, there is nothing to take off.
    denying(&app, libc::SYS_removexattr, libc::EOPNOTSUPP, &["up", "-d"]).ok();
}
