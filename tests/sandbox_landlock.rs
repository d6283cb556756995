//! Sandboxes where user namespaces are refused: Landlock, a filter of system calls, limits, and an end for all that a run has started.

#[path = "sandbox_landlock/closed.rs"]
mod closed;
mod harness;
#[path = "sandbox_landlock/held.rs"]
mod held;
#[path = "sandbox/pool.rs"]
mod pool;

use harness::python::package;
use harness::{App, BOTH, Ended, binary, wait_until};
use serde_json::Value;
use std::path::Path;

/// What `pysecure sandbox run --isolation landlock` comes to, and how the run ended.
fn run(app: &App, options: &[&str], code: &str) -> (Ended, Value) {
    app.write("code.py", code);
    let mut args = vec!["sandbox", "run", "--isolation", "landlock", "--json"];
    args.extend(options);
    args.push("code.py");
    told(app.run(&args))
}

fn told(ended: Ended) -> (Ended, Value) {
    let line = ended.err.lines().rev().find(|line| line.starts_with('{'));
    let event = line.map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
    (ended, event)
}

/// A directory of this user's, for runs to write to.
fn userdir(app: &App) -> String {
    app.write("user/mine", "what was there");
    app.folder.join("user").display().to_string()
}

fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[test]
fn a_run_reads_and_writes_what_it_was_given_and_nothing_else_of_its_user() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let dir = userdir(&app);
        let secret = app.write("secret.txt", "of the user").display().to_string();
        // Without a sandbox, the same user reads it, and may change its mode.
        let tries = format!(
            "import os\n\
             for what, does in [('read', lambda: open({secret:?}).read()), ('list', lambda: os.listdir({folder:?})),\n\
             \x20   ('write', lambda: open({secret:?}, 'a')), ('truncate', lambda: os.truncate({secret:?}, 3)),\n\
             \x20   ('chmod', lambda: os.chmod({secret:?}, 0o600)), ('touch', lambda: os.utime({secret:?})),\n\
             \x20   ('attribute', lambda: os.setxattr({secret:?}, 'user.x', b'')), ('others', lambda: os.listdir('/proc')),\n\
             \x20   ('make', lambda: open({beside:?}, 'w')), ('passwd', lambda: open('/etc/passwd'))]:\n\
             \x20   try: does(); print(what, 'done')\n\
             \x20   except OSError as error: print(what, type(error).__name__)\n",
            folder = app.folder.display().to_string(),
            beside = app.folder.join("beside").display().to_string(),
        );
        let control = Ended::from(app.shell_free("/usr/bin/python3", &["-c", &tries]).output().unwrap()).ok();
        assert_eq!(control.out.matches("done").count(), 10, "{mode:?}: {control:?}");
        std::fs::remove_file(app.folder.join("beside")).unwrap();
        let (ended, event) = run(&app, &["--userdir", &dir], &tries);
        assert_eq!(ended.code, 0, "{mode:?}: {ended:?}");
        assert_eq!(ended.out.matches("PermissionError").count(), 10, "{mode:?}: {ended:?}");
        assert_eq!(event["isolation"], "landlock");
        let own = "import os\nprint(open('mine').read(), os.getcwd() == os.environ['HOME'])\nopen('made', 'w').write('x')\n\
                   import tempfile; tempfile.TemporaryFile().write(b'x')\nprint(os.listdir('.'))\n";
        let (ended, _) = run(
            &app,
            &["--userdir", &dir, "--readable", &secret],
            &format!("{own}print(open({secret:?}).read())"),
        );
        assert_eq!(ended.code, 0, "{mode:?}: {ended:?}");
        let lines: Vec<&str> = ended.out.lines().collect();
        assert_eq!((lines[0], lines[2]), ("what was there True", "of "), "{mode:?}");
        assert!(app.folder.join("user/made").exists());
    }
}

#[test]
fn which_files_are_denied_is_not_told_and_that_is_said() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let (ended, _) = run(&app, &["--explain"], "print('never')");
        assert!(ended.code == 125 && ended.out.is_empty(), "{mode:?}: {ended:?}");
        assert!(
            ended.err.contains("leave out `explain`, or `isolation`"),
            "{mode:?}: {ended:?}"
        );
    }
}

#[test]
fn there_is_no_network_and_no_way_to_other_processes() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let code = format!(
            "import os, socket, ctypes, resource\n\
             def t(what, does):\n\
             \x20   try: does(); print(what, 'done')\n\
             \x20   except OSError as error: print(what, type(error).__name__)\n\
             t('tcp', lambda: socket.socket(socket.AF_INET))\n\
             t('unix', lambda: socket.socket(socket.AF_UNIX))\n\
             t('netlink', lambda: socket.socket(socket.AF_NETLINK))\n\
             t('datagrams', lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM))\n\
             t('signal', lambda: os.kill({own}, 0))\n\
             t('limits', lambda: resource.prlimit({own}, resource.RLIMIT_CORE, (0, 0)))\n\
             t('priority', lambda: os.setpriority(os.PRIO_PROCESS, {own}, 19))\n\
             t('affinity', lambda: os.sched_setaffinity({own}, {{0}}))\n\
             t('session', os.setsid)\n\
             t('group', lambda: os.setpgid(0, 0))\n\
             def raw(number, *args):\n\
             \x20   libc = ctypes.CDLL(None, use_errno=True)\n\
             \x20   if libc.syscall(number, *args) < 0: raise OSError(ctypes.get_errno(), 'refused')\n\
             t('io_uring', lambda: raw(425, 1, ctypes.create_string_buffer(256)))\n\
             t('memory', lambda: raw(29 if os.uname().machine == 'x86_64' else 194, 0, 4096, 0o1600))\n\
             t('pair', lambda: socket.socketpair())\n",
            own = std::process::id(),
        );
        let (ended, _) = run(&app, &[], &code);
        let done: Vec<&str> = ended.out.lines().filter(|line| line.ends_with("done")).collect();
        assert_eq!(
            (done, ended.out.lines().count()),
            (vec!["pair done"], 13),
            "{mode:?}: {ended:?}"
        );
    }
}

#[test]
fn a_program_is_held_as_an_interpreter_is() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let secret = app.write("secret.txt", "of the user").display().to_string();
        let dir = userdir(&app);
        let args = ["sandbox", "--isolation", "landlock", "--json", "--userdir", &dir, "--"];
        let script = format!("cat mine; cat {secret}; echo $HOME; echo made > made; exit 3");
        let (ended, event) = told(app.run(&[&args[..], &["sh", "-c", &script]].concat()));
        assert_eq!(ended.code, 3, "{mode:?}: {ended:?}");
        assert_eq!(ended.out, format!("what was there{dir}\n"), "{mode:?}");
        assert!(ended.err.contains("Permission denied"), "{mode:?}: {ended:?}");
        assert_eq!((&event["isolation"], &event["exit"]), (&"landlock".into(), &3.into()));
        let (ended, _) = told(app.run(&[&args[..], &["/nowhere"]].concat()));
        assert!(ended.err.contains("/nowhere"), "{mode:?}: {ended:?}");
    }
}

#[test]
fn each_limit_ends_a_run_and_is_named() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let dir = userdir(&app);
        for (options, code, limit) in [
            (&["--wall", "1"][..], "import time; time.sleep(100)", "wall"),
            (&["--cpu", "1"], "while True: pass", "cpu"),
            (
                &["--processes", "20"],
                "import os, time\nfor n in range(6): os.fork()\ntime.sleep(100)",
                "processes",
            ),
            (&["--processes", "20"], "import os\nwhile True: os.fork()", "processes"),
            (
                &["--file-size", "1M"],
                "open('x', 'wb').write(b'x' * (2 << 20))",
                "file_size",
            ),
            (&["--memory", "64M"], "x = bytearray(512 << 20)", "memory"),
            (
                &["--memory", "64M"],
                "import os, time\nfor n in range(6): os.fork() or (bytearray(os.urandom(1 << 20) * 40), time.sleep(100))\n\
                 time.sleep(100)",
                "memory",
            ),
            (&[], "for n in range(1 << 20): open(f'{n}', 'w').close()", "files"),
        ] {
            let (ended, event) = run(&app, &[&["--userdir", &dir], options].concat(), code);
            assert_eq!(event["limit"], limit, "{mode:?}: {code}: {ended:?}");
            assert_ne!(ended.code, 0, "{mode:?}: {code}");
        }
    }
}

#[test]
fn whatever_a_run_has_started_ends_with_it() {
    // It leaves its parent, tries to leave its session, and sees neither the terminal's signals nor the end of its streams.
    let escape = "import os, signal, time\n\
                  for s in (1, 2, 15): signal.signal(s, signal.SIG_IGN)\n\
                  if os.fork() == 0:\n\
                  \x20   for leaves in (os.setsid, os.setpgrp):\n\
                  \x20       try: leaves()\n\
                  \x20       except OSError: pass\n\
                  \x20   if os.fork() == 0:\n\
                  \x20       for fd in range(64):\n\
                  \x20           try: os.close(fd)\n\
                  \x20           except OSError: pass\n\
                  \x20       with open('pid.new', 'w') as file: file.write(str(os.getpid()))\n\
                  \x20       os.rename('pid.new', 'pid')\n\
                  \x20       time.sleep(10000)\n\
                  \x20   os._exit(0)\n\
                  while not os.path.exists('pid'): time.sleep(0.01)\n";
    for mode in BOTH {
        for warm in [false, true] {
            for (rest, killed) in [("", false), ("time.sleep(10000)\n", true)] {
                let app = App::new(mode, "");
                let dir = userdir(&app);
                app.write("code.py", format!("{escape}{rest}"));
                let pid = || std::fs::read_to_string(app.folder.join("user/pid")).ok();
                let mut command = match warm {
                    false => app.command(&[
                        "sandbox",
                        "run",
                        "--isolation",
                        "landlock",
                        "--userdir",
                        &dir,
                        "code.py",
                    ]),
                    true => {
                        package(&app, false, "python/src");
                        let program = "import sys\nfrom pysecure_sandbox import Sandbox\n\
                                       with Sandbox(isolation='landlock') as s: s.run(open('code.py').read(), sys.argv[1], wall=1000)";
                        let mut command = app.shell_free("/usr/bin/python3", &["-B", "-c", program, &dir]);
                        command.env("PYTHONPATH", app.folder.join("python/src"));
                        command.env("PYSECURE_BINARY", binary()).env("PYSECURE_RPC_PURE", "1");
                        command
                    }
                };
                let mut child = command.spawn().unwrap();
                let escaped = wait_until(pid);
                if killed {
                    // Whoever asked for the run is gone.
                    assert!(lives(&escaped), "{mode:?}, {warm}");
                    child.kill().unwrap();
                    child.wait().unwrap();
                    wait_until(|| (!lives(&escaped)).then_some(()));
                } else {
                    assert!(child.wait().unwrap().success(), "{mode:?}, {warm}");
                    assert!(!lives(&escaped), "{mode:?}, {warm}: {escaped}");
                }
            }
        }
    }
}

/// As in a container without privilege: no namespaces, and a filter that says of clone3(2) that there is none.
const CONTAINER: [&str; 3] = ["clone3=ENOSYS", "unshare=EPERM", "namespaces=EPERM"];

fn refusing(app: &App, refused: &[&str], program: &[&str]) -> Ended {
    let wrapper = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox_landlock/refusing.py");
    app.write("refusing.py", std::fs::read(wrapper).unwrap());
    let args = [&["-B", "refusing.py"], refused, &["--"], program].concat();
    let mut command = app.shell_free("/usr/bin/python3", &args);
    command.env("PYTHONPATH", app.folder.join("python/src"));
    command.env("PYSECURE_BINARY", binary()).env("PYSECURE_RPC_PURE", "1");
    Ended::from(command.output().unwrap())
}

#[test]
fn it_is_for_containers_that_refuse_namespaces_and_clone3() {
    let own = binary().to_str().unwrap();
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("code.py", "print(6 * 7)");
        let named = [own, "sandbox", "run", "--isolation", "landlock", "code.py"];
        let ended = refusing(&app, &CONTAINER, &named).ok();
        assert_eq!(ended.out, "42\n", "{mode:?}");
        // Who does not name it is refused, and told of it.
        let ended = refusing(&app, &CONTAINER, &[own, "sandbox", "run", "code.py"]);
        assert_ne!(ended.code, 0, "{mode:?}: {ended:?}");
        assert_eq!(ended.out, "", "{mode:?}");
        assert!(ended.err.contains("--isolation landlock"), "{mode:?}: {ended:?}");
        // And where there is no Landlock, nothing runs.
        let none = [&CONTAINER[..], &["landlock_create_ruleset=ENOSYS"]].concat();
        let ended = refusing(&app, &none, &named);
        assert_ne!(ended.code, 0, "{mode:?}: {ended:?}");
        assert_eq!(ended.out, "", "{mode:?}");
        assert!(ended.err.contains("Landlock"), "{mode:?}: {ended:?}");
    }
}

#[test]
fn a_server_of_many_threads_has_code_run_in_such_a_container() {
    for mode in BOTH {
        let app = App::new(mode, "");
        package(&app, false, "python/src");
        let server = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandbox_landlock/threads.py");
        app.write("threads.py", std::fs::read(server).unwrap());
        let ended = refusing(&app, &CONTAINER, &["/usr/bin/python3", "-B", "threads.py"]).ok();
        assert_eq!(ended.out, "served by 6 threads\n", "{mode:?}: {ended:?}");
    }
}
