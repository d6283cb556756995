//! Files that a run was denied, which are told where that is asked for.

use crate::harness::{App, BOTH, Mode, folder_of_the_host, wait_until};
use crate::pool::{Ended, PYTHON, Pool, Pools, Run, Way, say};
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// What each of these comes to, told by the code itself.
const TRIES: &str = "
import os, sys
beside, hidden, missing = sys.argv[-1] + '/data', sys.argv[-1] + '/private', sys.argv[-1] + '/none'
def tried(do):
    try:
        do()
        return 'done'
    except OSError as error:
        return error.errno
print(tried(lambda: open(beside)), tried(lambda: open(beside)), tried(lambda: os.stat(hidden)), tried(lambda: open(missing)))
print(tried(lambda: open('/usr/bin/env', 'rb')), tried(lambda: open('/usr/own', 'w')), tried(lambda: os.mkdir('/srv/own')))
print(tried(lambda: open('own', 'w')), tried(lambda: os.chmod('own', 0)), tried(lambda: open('own')), tried(lambda: open('none')))
print(tried(lambda: os.execv('/etc/passwd', ['x'])), tried(lambda: os.mknod('node', 0o20600, 0x103)))
";

fn denied(ended: &Ended) -> Vec<(String, String, String)> {
    let text = |of: &Value, key: &str| of[key].as_str().unwrap().to_owned();
    let all = ended.event["denied"].as_array().unwrap();
    let files = all.iter().filter(|one| one["kind"] == "file");
    files
        .map(|one| (text(one, "target"), text(one, "rule"), text(one, "allow")))
        .collect()
}

/// Files of the host that no sandbox shows, one of which not everybody may read.
fn beside() -> tempfile::TempDir {
    let folder = folder_of_the_host();
    let open = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    open(folder.path(), 0o755);
    for (name, mode) in [("data", 0o644), ("private", 0o600)] {
        let path = folder.path().join(name);
        std::fs::write(&path, "told\n").unwrap();
        open(&path, mode);
    }
    folder
}

fn run(pools: &Pools, way: Way, script: &str, argument: &str, keys: Value) -> Ended {
    begin(pools, way, script, argument, keys).ended()
}

fn begin(pools: &Pools, way: Way, script: &str, argument: &str, mut keys: Value) -> Run {
    keys["explain"] = keys["explain"].as_bool().unwrap_or(true).into();
    match way {
        Way::Command => {
            keys["command"] = json!([PYTHON, "-I", "-S", "-c", script, argument]);
            pools.warm.ask(keys, &[])
        }
        Way::Copy | Way::Cold => {
            let pool = if way == Way::Copy { &pools.warm } else { &pools.cold };
            pool.begin(&format!("import sys\nsys.argv.append({argument:?})\n{script}"), keys)
        }
    }
}

#[test]
fn files_that_were_denied_are_told_where_it_is_asked_for() {
    for mode in BOTH {
        let (pools, beside) = (Pools::new(mode), beside());
        let at = beside.path().to_str().unwrap();
        let userdir = pools.warm.userdir("of-warm");
        let of_cold = pools.cold.userdir("of-cold");
        for way in [Way::Copy, Way::Cold, Way::Command] {
            let keys = json!({ "userdir": if way == Way::Cold { &of_cold } else { &userdir } });
            let ended = run(&pools, way, TRIES, at, keys.clone()).ok();
            let context = format!("{mode:?} {way:?}: {ended:#?}");
            let found = denied(&ended);
            let expected = "2 2 2 2\ndone 30 30\ndone done 13 2\n13 1\n";
            assert_eq!(ended.out, expected, "{context}");
            let of = |target: &str| found.iter().filter(|one| one.0 == target).collect::<Vec<_>>();
            let [data] = of(&format!("{at}/data"))[..] else {
                panic!("{context}")
            };
            assert_eq!(data.1, "it is not shown in the sandbox", "{context}");
            assert!(data.2.starts_with(&format!("readable=[\"{at}/data\"]")), "{context}");
            assert!(!data.2.contains("think twice"), "{context}");
            let [private] = of(&format!("{at}/private"))[..] else {
                panic!("{context}")
            };
            assert!(private.2.contains("think twice"), "{context}");
            let [written] = of("/usr/own")[..] else {
                panic!("{context}")
            };
            assert_eq!(written.1, "/usr is mounted read-only", "{context}");
            let [own] = of("own")[..] else { panic!("{context}") };
            assert!(own.1.ends_with("/home/user/own has mode 0000"), "{context}");
            let [node] = of("node")[..] else { panic!("{context}") };
            assert!(node.1.contains("(2) is refused"), "{context}");
            // Neither what may be read, nor what is nowhere, nor what an interpreter looks for when it begins.
            let told: Vec<&str> = found.iter().map(|one| one.0.as_str()).collect();
            for other in ["/usr/bin/env", "none", &format!("{at}/none")] {
                assert!(!told.contains(&other), "{context}");
            }
            assert_eq!(found.len(), 7, "{context}");
            // The control: unasked it is told of none.
            std::fs::remove_file(keys["userdir"].as_str().map(|d| Path::new(d).join("own")).unwrap()).unwrap();
            let mut keys = keys;
            keys["explain"] = false.into();
            let unasked = run(&pools, way, TRIES, at, keys.clone()).ok();
            assert_eq!(
                (&unasked.out, denied(&unasked)),
                (&ended.out, vec![]),
                "{mode:?} {way:?}"
            );
            std::fs::remove_file(Path::new(keys["userdir"].as_str().unwrap()).join("own")).unwrap();
        }
    }
}

#[test]
fn what_it_was_that_denied_a_file_is_told() {
    let script = "
import os, sys
open('/tmp/program', 'w').write('#!/bin/sh\\n')
os.chmod('/tmp/program', 0o755)
os.mkdir('/tmp/closed', 0)
for try_it in (lambda: open('/proc/1/environ'), lambda: os.execv('/tmp/program', ['x']), lambda: open(sys.argv[-1] + '/private'),
               lambda: os.listdir('/sys/kernel'), lambda: open('/tmp/closed/x')):
    try: try_it()
    except OSError: pass
";
    let nothing = "nothing; a function of the api can do it outside";
    for mode in BOTH {
        let (pool, beside) = (Pool::new(mode, json!({})), beside());
        let private = beside.path().join("private").display().to_string();
        let at = beside.path().to_str().unwrap();
        let script = format!("import sys\nsys.argv.append({at:?})\n{script}");
        let ended = pool
            .with(&script, json!({ "explain": true, "readable": [&private] }))
            .ok();
        let expected = [
            (
                "/proc/1/environ",
                "/proc tells a run of its own processes alone".to_owned(),
                nothing.to_owned(),
            ),
            (
                "/tmp/program",
                "/tmp is mounted noexec".into(),
                "its folder (`userdir`), or its interpreter: python3 FILE, sh FILE".into(),
            ),
            (
                &private,
                format!("{private} belongs to another id and has mode 0600"),
                "a copy of what it needs: put={…}".into(),
            ),
            ("/sys/kernel", "it is not shown in the sandbox".into(), nothing.into()),
            (
                "/tmp/closed/x",
                "/tmp/closed has mode 0000".into(),
                "chmod u+x /tmp/closed, which the code may do itself".into(),
            ),
        ];
        let expected = expected.map(|(target, rule, allow)| (target.to_owned(), rule, allow));
        assert_eq!(denied(&ended), expected, "{mode:?}");
    }
}

/// What would allow it does.
#[test]
fn what_would_allow_a_file_allows_it() {
    for mode in BOTH {
        let (pool, beside) = (Pool::new(mode, json!({})), beside());
        let data = beside.path().join("data");
        let script = format!("print(open({data:?}).read(), end='')");
        let refused = pool.with(&script, json!({ "explain": true }));
        assert_eq!(refused.event["exit"], 1, "{refused:#?}");
        let [(_, _, allow)] = &denied(&refused)[..] else {
            panic!("{refused:#?}")
        };
        let paths: Value = serde_json::from_str(allow.split(['=', ' ']).nth(1).unwrap()).unwrap();
        let allowed = pool.with(&script, json!({ "explain": true, "readable": paths })).ok();
        assert_eq!((allowed.out.as_str(), denied(&allowed)), ("told\n", vec![]), "{mode:?}");
    }
}

/// Bounded whatever the code does; and its processes are followed, too.
#[test]
fn it_is_told_of_so_many_and_of_all_processes() {
    let script = "
import os, subprocess, threading
names = [f'/usr/none-{n}\\x1b[31m' + 'x' * 200 + '/' * 3000 + 'y' for n in range(20)]
def write(name):
    try: open(name.split('/y')[0].rstrip('/'), 'w')
    except OSError: pass
thread = threading.Thread(target=write, args=('/usr/of-a-thread',)); thread.start(); thread.join()
if os.fork() == 0:
    write('/usr/of-a-child')
    os._exit(0)
os.wait()
subprocess.run(['sh', '-c', ': > /usr/of-a-program'], stderr=subprocess.DEVNULL)
for name in names: write(name)
print('end')
";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let ended = pool.with(script, json!({ "explain": true })).ok();
        let found = denied(&ended);
        assert_eq!((found.len(), ended.out.as_str()), (16, "end\n"), "{mode:?}: {ended:#?}");
        let told: Vec<&str> = found.iter().map(|one| one.0.as_str()).collect();
        assert_eq!(told[..3], ["/usr/of-a-thread", "/usr/of-a-child", "/usr/of-a-program"]);
        assert!(told.iter().all(|one| !one.contains('\x1b')), "{told:?}");
        pool.still_serves();
    }
}

/// However it ends: it is told what it was denied before, and nothing of it is left.
#[test]
fn a_run_that_is_ended_tells_what_it_was_denied() {
    let script = "
import os, signal, sys
try: open('/usr/own', 'w')
except OSError: pass
if sys.argv[-1] == 'killed': os.kill(os.getpid(), signal.SIGKILL)
if os.fork() == 0:
    while True: pass
print('tried', flush=True)
while True: pass
";
    for mode in BOTH {
        let pools = Pools::new(mode);
        for way in [Way::Copy, Way::Cold, Way::Command] {
            for (how, limit) in [("killed", None), ("loops", Some("stopped"))] {
                let run = begin(&pools, way, script, how, json!({}));
                if limit.is_some() {
                    run.until("tried");
                    say(&run.connection, br#"{"kill":"stopped"}"#, &[]);
                }
                let ended = run.ended();
                let context = format!("{mode:?} {way:?} {how}: {ended:#?}");
                assert_eq!(
                    (ended.event["signal"].as_i64(), ended.limit()),
                    (Some(9), limit),
                    "{context}"
                );
                let told: Vec<String> = denied(&ended).into_iter().map(|one| one.0).collect();
                assert_eq!(told, ["/usr/own"], "{context}");
            }
            pools.warm.still_serves();
        }
    }
}

#[test]
fn a_run_ends_with_what_follows_it() {
    let script = "
import os, time
if os.fork() == 0: time.sleep(3600)
print('there', flush=True)
time.sleep(3600)
";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({ "limits": { "wall": 100_000 } }));
        let run = pool.begin(script, json!({ "explain": true, "limits": { "wall": 100_000 } }));
        run.until("there");
        let tracer = |pid: &i32| -> Option<i32> {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("TracerPid:"))?;
            line.trim().parse().ok().filter(|tracer| *tracer != 0)
        };
        let all = pool.processes();
        let followed: Vec<i32> = all.iter().filter(|pid| tracer(pid).is_some()).copied().collect();
        assert_eq!(followed.len(), 2, "{mode:?}");
        let tracer = nix::unistd::Pid::from_raw(tracer(&followed[0]).unwrap());
        nix::sys::signal::kill(tracer, nix::sys::signal::Signal::SIGKILL).unwrap();
        let ended = run.ended();
        let refused = ended.refused().unwrap_or_default();
        assert!(refused.contains("has ended before the run"), "{mode:?}: {ended:#?}");
        wait_until(|| followed.iter().all(|pid| !lives(*pid)).then_some(()));
        pool.still_serves();
    }
}

/// Is it there, and no mere zombie?
fn lives(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

/// What the interpreter says of files itself is not believed, asked or not.
#[test]
fn no_run_makes_up_what_it_was_denied() {
    let script = "
from pysecure_sandbox import _program
for kind in ('file', 'network'):
    _program._denied.append({'kind': kind, 'target': 'made up', 'rule': '', 'allow': 'readable=[\"/\"]'})
";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        for explain in [true, false] {
            let ended = pool.with(script, json!({ "explain": explain })).ok();
            assert_eq!(
                ended.event["denied"].as_array().unwrap().len(),
                1,
                "{mode:?}: {ended:#?}"
            );
            assert_eq!(denied(&ended), [], "{mode:?}");
        }
    }
}

/// A run that is followed has no more rights than any other.
#[test]
fn a_run_that_is_followed_is_as_confined() {
    let script = "
for line in open('/proc/self/status'):
    if line.split(':')[0] in ('Uid', 'Gid', 'Groups', 'NoNewPrivs', 'Seccomp', 'Seccomp_filters', 'CapEff', 'CapBnd', 'TracerPid'):
        print(line, end='')
import os
print([os.readlink('/proc/self/ns/' + kind) != '' for kind in sorted(os.listdir('/proc/self/ns'))], sorted(os.listdir('/proc'))[:3])
";
    for mode in BOTH {
        let pools = Pools::new(mode);
        for way in [Way::Copy, Way::Cold, Way::Command] {
            let follow = |explain: bool| run(&pools, way, script, "", json!({ "explain": explain })).ok().out;
            // What follows is in another PID namespace, so that it has no number here.
            let (followed, alone) = (follow(true), follow(false));
            assert!(followed.contains("TracerPid:\t0\n"), "{mode:?} {way:?}: {followed}");
            let ids = |text: &str| -> Vec<String> {
                let lines = text
                    .lines()
                    .filter(|l| !l.starts_with("Uid") && !l.starts_with("Gid") && !l.starts_with('['));
                lines.map(str::to_owned).collect()
            };
            assert_eq!(ids(&followed), ids(&alone), "{mode:?} {way:?}");
        }
    }
}

#[test]
fn a_session_is_not_explained_and_says_so() {
    let pool = Pool::new(Mode::Root, json!({}));
    let ended = pool.with("", json!({ "explain": true, "session": true }));
    assert!(
        ended
            .refused()
            .is_some_and(|error| error.contains("leave out `explain`")),
        "{ended:#?}"
    );
    pool.still_serves();
}

#[test]
fn the_command_line_explains() {
    for mode in BOTH {
        let (app, beside) = (App::new(mode, ""), beside());
        let data = beside.path().join("data");
        app.write("read.py", format!("open({data:?})\n"));
        let path = data.display();
        let told = format!(
            "note: denied: {path}: it is not shown in the sandbox\n      allowed by: readable=[\"{path}\"] (--readable on the command line)\n"
        );
        for args in [
            &["sandbox", "run", "--explain", "read.py"][..],
            &["sandbox", "--explain", "--", "cat", data.to_str().unwrap()],
        ] {
            let ended = app.run(args);
            assert!(ended.code == 1 && ended.err.ends_with(&told), "{mode:?}: {ended:?}");
        }
        let ended = app.run(&["sandbox", "run", "read.py"]);
        assert!(ended.code == 1 && !ended.err.contains("note:"), "{mode:?}: {ended:?}");
        let ended = app.run(&[
            "sandbox",
            "run",
            "--explain",
            "--readable",
            data.to_str().unwrap(),
            "read.py",
        ]);
        assert!(ended.code == 0 && ended.err.is_empty(), "{mode:?}: {ended:?}");
    }
}
