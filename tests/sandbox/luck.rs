//! Bad luck: what is killed in the middle, many at once, and directories that are not what they should be.

use crate::harness::{App, BOTH, Mode, signal, wait_until};
use crate::pool::{Pool, processes_with};
use nix::sys::signal::Signal::SIGKILL;
use serde_json::json;

/// A run with a process of its own that can be told from all others.
fn sleeper(argument: &str) -> serde_json::Value {
    let code = format!("import os\nif os.fork() == 0: os.setsid()\nos.execv('/bin/sleep', ['sleep', '{argument}'])");
    json!({ "task": { "code": code }, "limits": { "wall": 1000.0 } })
}

fn argument(mode: Mode, number: u32) -> String {
    format!("7{number}{}{}.5", std::process::id(), mode as u32)
}

#[test]
fn runs_end_with_their_client() {
    for mode in BOTH {
        let mut pool = Pool::new(mode, json!({}));
        let argument = argument(mode, 1);
        let run = pool.ask(sleeper(&argument), &[]);
        let _other = pool.ask(sleeper(&argument), &[]);
        wait_until(|| (processes_with(&argument).len() == 4).then_some(()));
        // One connection closed is one run.
        drop(run);
        wait_until(|| (processes_with(&argument).len() == 2).then_some(()));
        pool.still_serves();
        // The client's end is that of all.
        pool.control = None;
        assert!(pool.process.wait().unwrap().success(), "{mode:?}");
        assert_eq!(processes_with(&argument), [0; 0], "{mode:?}");
    }
}

#[test]
fn runs_end_with_their_pool() {
    for mode in BOTH {
        let mut pool = Pool::new(mode, json!({ "ready": 1 }));
        let argument = argument(mode, 2);
        let run = pool.ask(sleeper(&argument), &[]);
        wait_until(|| (processes_with(&argument).len() == 2).then_some(()));
        let all = pool.processes();
        assert!(all.len() >= 4, "{all:?}");
        pool.process.kill().unwrap();
        pool.process.wait().unwrap();
        let lives = |pid: &&i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            text.contains("VmRSS")
        };
        wait_until(|| all.iter().find(lives).is_none().then_some(()));
        assert_eq!(processes_with(&argument), [0; 0], "{mode:?}");
        drop(run);
    }
}

/// A process that takes on another effective id loses the signal that it was to have at its maker's end: here none has it at all. As root
/// alone: under a filter of its own a user has no program that maps ids, which runs with more rights than its caller.
#[test]
fn a_pool_sees_for_itself_that_its_maker_has_ended() {
    let app = App::new(Mode::Root, "");
    app.write("refusing.py", include_str!("../sandbox_landlock/refusing.py"));
    let within = ["/usr/bin/python3", "-B", "refusing.py", "death=0", "--"];
    let pool = Pool::start_within(app, &json!({ "ready": 1 }), &within);
    let mut pool = pool.unwrap_or_else(|(_, error)| panic!("{error}"));
    pool.still_serves();
    let all = pool.processes();
    assert!(all.len() >= 4, "{all:?}");
    // Its client stays, whose end would be reason enough to end.
    pool.process.kill().unwrap();
    pool.process.wait().unwrap();
    let lives = |pid: &i32| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains("VmRSS")
    };
    wait_until(|| (!all.iter().any(lives)).then_some(()));
}

/// What a run has started, and what is not waited for, does nothing any more when its end is told; nor does anything that it made look
/// like somebody else's child.
#[test]
fn nothing_of_a_run_goes_on_when_it_is_told_that_it_has_ended() {
    let grow = "
import ctypes, os, threading, time
def grow():
    with open('grows', 'ab', 0) as file:
        while True: file.write(b'x')
def until_it_grows():
    while not os.path.exists('grows') or os.stat('grows').st_size < 10: time.sleep(0.001)
";
    let ways = [
        ("a child", "if os.fork() == 0: grow()\nuntil_it_grows()"),
        (
            "an orphan",
            "if os.fork() == 0:\n    if os.fork() == 0: os.setsid(); grow()\n    os._exit(0)\nos.wait()\nuntil_it_grows()",
        ),
        (
            "a thread",
            "threading.Thread(target=grow, daemon=True).start()\nuntil_it_grows()",
        ),
        (
            // A child of who started it, or none at all: CLONE_PARENT makes it the parent's.
            "a sibling",
            "pid = ctypes.CDLL(None).syscall({'x86_64': 56, 'aarch64': 220}[os.uname().machine], 0x8000 | 17, 0, 0, 0, 0)\nif pid == 0: grow()\nif pid > 0: until_it_grows()\nelse: open('grows', 'w')",
        ),
    ];
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        for (name, way) in ways {
            let userdir = pool.userdir(&name.replace(' ', "-"));
            let ended = pool.with(&format!("{grow}{way}"), json!({ "userdir": userdir })).ok();
            let size = || std::fs::metadata(userdir.join("grows")).unwrap().len();
            let then = size();
            // Control: in no more time than this it has grown before.
            std::thread::sleep(std::time::Duration::from_millis(50));
            assert_eq!(size(), then, "{mode:?} {name}: {ended:#?}");
            assert!(then > 0 || name == "a sibling", "{mode:?} {name}");
        }
        pool.still_serves();
    }
}

#[test]
fn the_warm_interpreter_is_made_again() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        for round in 0..3 {
            pool.still_serves();
            let argument = argument(mode, 3);
            let run = pool.ask(sleeper(&argument), &[]);
            wait_until(|| (processes_with(&argument).len() == 2).then_some(()));
            let warm = pool.warm();
            signal(warm as u32, SIGKILL);
            // The next may still be refused by name, or finds the new one; what runs goes on.
            let next = pool.python("print(6 * 7)");
            match next.refused() {
                Some(error) => assert!(error.contains("the warm interpreter"), "{mode:?} {round}: {error}"),
                None => assert_eq!(next.ok().out, "42\n"),
            }
            wait_until(|| {
                let again = pool.python("print(1)");
                again.refused().is_none().then(|| again.ok())
            });
            assert_ne!(pool.warm(), warm);
            assert_eq!(processes_with(&argument).len(), 2, "{mode:?} {round}");
            crate::pool::say(&run.connection, br#"{"kill": "stopped"}"#, &[]);
            assert_eq!(run.ended().limit(), Some("stopped"), "{mode:?} {round}");
            assert_eq!(processes_with(&argument), [0; 0]);
        }
    }
}

/// Each begins after all but fifteen of those that were asked for before it have ended.
#[test]
fn two_hundred_at_once_all_end_in_their_turn() {
    let code = "import time; a = time.monotonic_ns(); time.sleep(0.002); print(a, time.monotonic_ns())";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({ "at_once": 16 }));
        let runs: Vec<_> = (0..200).map(|_| pool.begin(code, json!({}))).collect();
        let times: Vec<(u64, u64)> = runs
            .into_iter()
            .map(|run| {
                let out = run.ended().ok().out;
                let (began, ended) = out.trim().split_once(' ').unwrap();
                (began.parse().unwrap(), ended.parse().unwrap())
            })
            .collect();
        for (number, (began, _)) in times.iter().enumerate() {
            let over = times[..number].iter().filter(|(_, ended)| ended < began).count();
            assert!(over + 15 >= number, "{mode:?}: {over} before {number} were over");
        }
        pool.still_serves();
    }
}

#[test]
fn a_full_disk_is_the_runs_to_see() {
    let fill = "
made = 0
try:
    with open('large', 'wb', 0) as file:
        while True: made += file.write(bytes(1 << 16))
except OSError as e:
    print(e.strerror, made > 100000)
try: open('next', 'w').write('x' * 100000)
except OSError as e: print(e.strerror)
";
    for mode in BOTH {
        let app = App::new(mode, "");
        let small = app.write("small/placeholder", "");
        let small = small.parent().unwrap().to_owned();
        let owner = if mode == Mode::Root {
            (0, 0)
        } else {
            crate::harness::user()
        };
        let options = format!("size=1m,mode=700,uid={},gid={}", owner.0, owner.1);
        // In a mount namespace of the pool's own, so that nothing has to be taken away.
        let script = format!("mount -t tmpfs -o {options} none {} && exec \"$@\"", small.display());
        let pool = Pool::start_within(app, &json!({}), &["unshare", "-m", "sh", "-c", &script, "sh"]);
        let pool = pool.unwrap_or_else(|(_, error)| panic!("{mode:?}: {error}"));
        let keys = || json!({ "userdir": small });
        let full = "No space left on device";
        assert_eq!(
            pool.with(fill, keys()).ok().out,
            format!("{full} True\n{full}\n"),
            "{mode:?}"
        );
        let ended = pool.with("import os; os.remove('large'); print(sorted(os.listdir()))", keys());
        assert_eq!(ended.ok().out, "['next']\n", "{mode:?}");
        pool.still_serves();
    }
}

#[test]
fn a_directory_that_is_not_one_is_refused_by_name() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let real = pool.userdir("real/inner");
        let file = pool.file("file", b"");
        let folder = file.parent().unwrap();
        let link = |name: &str, to: &str| {
            std::os::unix::fs::symlink(to, folder.join(name)).unwrap();
            folder.join(name)
        };
        let to_inner = link("to-inner", "real/inner");
        let to_real = link("to-real", "real");
        let dangling = link("dangling", "nowhere");
        let open = file.parent().unwrap().join("real");
        let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        for (path, error) in [
            (text(&to_inner), "a link"),
            (text(&to_real.join("inner")), "a link lies on the way"),
            (text(&dangling), "a link"),
            (text(&open.join("../real/inner")), "without `..`"),
            (text(&open.join("..")), "without `..`"),
            ("real/inner".into(), "absolute"),
            ("".into(), "absolute"),
            (text(&open.join("missing")), "not there"),
            (text(&file), "no directory"),
            ("/proc/self/cwd".into(), ""),
            ("/proc/1/root".into(), ""),
        ] {
            for command in [None, Some(["true"])] {
                let mut run = json!({ "userdir": path, "task": { "code": "print('ran')" } });
                if let Some(command) = command {
                    run["command"] = json!(command);
                }
                let ended = pool.run(run);
                let refused = ended.refused().unwrap_or_else(|| panic!("{mode:?} {path}: {ended:#?}"));
                assert!(refused.contains(error), "{mode:?} {path}: {refused}");
                assert!(ended.out.is_empty());
            }
        }
        // The control.
        let ended = pool.with("open('made', 'w').close()", json!({ "userdir": real }));
        ended.ok();
        assert!(real.join("made").exists(), "{mode:?}");
        pool.still_serves();
    }
}
