//! Bad code, and code that uses up what there is: each run ends, its result says by which limit, and the next one is well.

use crate::harness::{BOTH, Mode};
use crate::pool::{Pool, exists, hear, in_memory, processes_with, rest, say};
use crate::same_owner;
use serde_json::{Value, json};

#[test]
fn code_that_cannot_be_read_is_its_authors_fault() {
    let long = |last: &str| [vec![b'#'; 10 << 20], format!("\n{last}\n").into_bytes()].concat();
    let text = format!("x = '{}'\nprint(len(x))\n", "y".repeat(10 << 20));
    for mode in BOTH {
        for pool in [Pool::new(mode, json!({})), Pool::new(mode, json!({ "warm": false }))] {
            for (code, exit, out, err) in [
                (b"".to_vec(), 0, "", ""),
                (b"\0".to_vec(), 1, "", "null bytes"),
                (b"print(1)\0".to_vec(), 1, "", "null bytes"),
                (b"print('\xff')".to_vec(), 1, "", "SyntaxError"),
                (b"# coding: no-such\nprint(1)".to_vec(), 1, "", "SyntaxError"),
                (b"# coding: latin-1\nprint('\xe9')".to_vec(), 0, "é\n", ""),
                (b"\xef\xbb\xbfprint(1)".to_vec(), 0, "1\n", ""),
                (b"print(1".to_vec(), 1, "", "SyntaxError"),
                (vec![b'('; 10 << 20], 1, "", "Error"),
                (long("print(2)"), 0, "2\n", ""),
                (text.clone().into_bytes(), 0, "10485760\n", ""),
                (b"def f(): f()\nf()".to_vec(), 1, "", "RecursionError"),
                (b"raise SystemExit(3)".to_vec(), 3, "", ""),
                (b"import os; os._exit(9)".to_vec(), 9, "", ""),
            ] {
                let task = json!({ "task": { "source": "bytes", "name": "code" } });
                let ended = pool.ask(task, &[("code", &in_memory(&code))]).ended();
                let shown = String::from_utf8_lossy(&code[..code.len().min(40)]).into_owned();
                assert_eq!(ended.event["exit"], exit, "{mode:?} {shown:?}: {ended:#?}");
                assert_eq!(ended.out, out, "{mode:?} {shown:?}: {ended:#?}");
                assert!(ended.err.contains(err), "{mode:?} {shown:?}: {ended:#?}");
                assert!(ended.limit().is_none(), "{mode:?} {shown:?}: {ended:#?}");
            }
        }
    }
}

/// What is told of the end of each of these.
const ATTACKS: &[(&str, &str, &str)] = &[
    ("cpu", "{'cpu': 0.3}", "while True: pass"),
    ("wall", "{'wall': 0.3}", "while True: pass"),
    ("wall", "{'wall': 0.3}", "import time; time.sleep(1e6)"),
    ("wall", "{'wall': 0.3}", "import os; os.read(os.pipe()[0], 1)"),
    // A lock that is never given.
    (
        "wall",
        "{'wall': 0.3}",
        "import threading; l = threading.Lock(); l.acquire(); l.acquire()",
    ),
    // It does not want to hear.
    (
        "wall",
        "{'wall': 0.5}",
        "import signal, time\nfor n in range(1, 65):\n  try: signal.signal(n, signal.SIG_IGN)\n  except (OSError, ValueError): pass\n\
         signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: time.sleep(1)",
    ),
    (
        "cpu",
        "{'cpu': 0.5}",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    ),
    // Others compute for it.
    (
        "cpu",
        "{'cpu': 0.5, 'wall': 20}",
        "import os, time\nfor n in range(4):\n  if not os.fork():\n    while True: pass\ntime.sleep(1e6)",
    ),
    // In children of children, whose parents have gone.
    (
        "cpu",
        "{'cpu': 0.5}",
        "import os, time\nfor n in range(2):\n  if not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n    while True: pass\n\
         \x20 os.wait()\ntime.sleep(1e6)",
    ),
    // In children that nobody waits for, one after the other.
    (
        "cpu",
        "{'cpu': 0.5}",
        "import os, signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True:\n  if not os.fork():\n\
         \x20   while time.process_time() < 0.1: pass\n    os._exit(0)\n  try: os.wait()\n  except ChildProcessError: pass",
    ),
    ("memory", "{'memory': 100000000}", "x = bytearray(1 << 30)"),
    (
        "memory",
        "{'memory': 100000000}",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
    ),
    ("memory", "{'memory': 100000000}", "import mmap; mmap.mmap(-1, 1 << 30)"),
    (
        "file_size",
        "{'file_size': 100000}",
        "open('/tmp/x', 'wb').write(bytes(1 << 20))",
    ),
    (
        "processes",
        "{'processes': 8}",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()",
    ),
];

fn limits(text: &str) -> Value {
    serde_json::from_str(&text.replace('\'', "\"")).unwrap()
}

#[test]
fn each_limit_says_that_it_was_the_one() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        for (limit, given, code) in ATTACKS {
            let ended = pool.with(code, json!({ "limits": limits(given) }));
            assert_eq!(ended.limit(), Some(*limit), "{mode:?} {code}: {ended:#?}");
            pool.still_serves();
        }
        // The control: without a limit it goes on, until it is stopped.
        let run = pool.begin("print('on', flush=True)\nwhile True: pass", json!({}));
        run.until("on\n");
        say(&run.connection, br#"{"kill": "stopped"}"#, &[]);
        assert_eq!(run.ended().limit(), Some("stopped"));
    }
}

/// For a command there is nobody inside to say what an error meant, so it is the signal that says it.
#[test]
fn a_command_ends_by_its_limits_too() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({ "warm": false }));
        let busy = ["sh", "-c", "while :; do :; done"];
        for (limit, given, command) in [
            ("wall", "{'wall': 0.3}", &["sleep", "1000"][..]),
            ("wall", "{'wall': 0.3}", &busy),
            ("cpu", "{'cpu': 0.5, 'wall': 20}", &busy),
            (
                "file_size",
                "{'file_size': 100000}",
                &["dd", "if=/dev/zero", "of=/tmp/x", "bs=4096", "count=1000"],
            ),
        ] {
            let ended = pool.run(json!({ "command": command, "limits": limits(given) }));
            assert_eq!(ended.limit(), Some(limit), "{mode:?} {command:?}: {ended:#?}");
        }
        // More memory than it may have is an error of its own.
        let script = "import mmap\ntry: mmap.mmap(-1, 1 << 30)\nexcept OSError as e: print(e.errno)";
        let ended = pool
            .run(json!({ "command": ["/usr/bin/python3", "-c", script], "limits": limits("{'memory': 500000000}") }));
        assert_eq!(ended.ok().out, "12\n", "{mode:?}");
    }
}

#[test]
fn what_lies_in_memory_is_bounded() {
    let fill = "
import os
def full(write):
    try:
        while True: write()
    except OSError as e:
        return e.strerror
made = 0
def file():
    global made
    with open(f'{folder}/{made}', 'wb'): pass
    made += 1
for folder in ('/tmp', '/dev/shm'):
    with open(f'{folder}/large', 'wb', 0) as large:
        print(full(lambda: large.write(bytes(1 << 16))), large.tell())
    os.remove(f'{folder}/large')
    made = 0
    print(full(file), made <= 100 and made > 90)
";
    let expected = "No space left on device 1048576\nNo space left on device True\n".repeat(2);
    for mode in BOTH {
        let profile = json!({ "limits": { "tmp": 1 << 20, "files": 100 } });
        for warm in [true, false] {
            let mut profile = profile.clone();
            profile["warm"] = json!(warm);
            let pool = Pool::new(mode, profile);
            for _ in 0..2 {
                assert_eq!(pool.python(fill).ok().out, expected, "{mode:?} {warm}");
            }
        }
    }
}

/// There are never more than so many, whatever they do, and all are gone at the end.
#[test]
fn a_fork_bomb_is_as_large_as_it_may_be() {
    let bomb = "
import os, time
count = open('/tmp/count', 'ab', 0)
os.write(1, b'begun\\n')
while True:
    try:
        if os.fork() == 0: count.write(b'.')
    except OSError:
        os.write(1, f'{os.stat(\"/tmp/count\").st_size}\\n'.encode())
        time.sleep(0.01)
";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let ended = pool.with(
            bomb,
            json!({ "limits": { "processes": 12, "wall": 1.0, "cpu": 100.0 } }),
        );
        assert_eq!(ended.limit(), Some("wall"), "{mode:?}: {ended:#?}");
        let most = ended.out.lines().filter_map(|line| line.parse::<u32>().ok()).max();
        assert!(
            most.is_some_and(|most| (4..=12).contains(&most)),
            "{mode:?}: {most:?} {ended:#?}"
        );
        pool.still_serves();
    }
}

#[test]
fn an_output_bomb_is_its_readers_to_stop() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let code = "while True: print('x' * 10000)";
        // Nobody reads: it waits, and its time goes by.
        let (unread, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let task = json!({ "task": { "code": code }, "limits": { "wall": 0.5 } });
        let ended = pool.ask(task, &[("stdout", &write)]).ended();
        drop(write);
        assert_eq!(ended.limit(), Some("wall"), "{mode:?}: {ended:#?}");
        assert!(rest(unread).len() <= 1 << 16);
        // Somebody reads as much as he wants.
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let run = pool.ask(json!({ "task": { "code": code } }), &[("stdout", &write)]);
        drop(write);
        let mut most = vec![0; 1 << 20];
        let mut file = std::fs::File::from(read);
        std::io::Read::read_exact(&mut file, &mut most).unwrap();
        say(&run.connection, br#"{"kill": "output"}"#, &[]);
        let ended = run.ended();
        assert_eq!(ended.limit(), Some("output"), "{mode:?}: {ended:#?}");
        // Nobody writes any more.
        rest(file);
        pool.still_serves();
    }
}

#[test]
fn a_users_directory_holds_only_so_much() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let many = "for n in range(200): open(str(n), 'w').close()\n";
        let large = "for n in range(8): open(str(n), 'wb').write(b'x' * (1 << 20))\n";
        let deep = "import os\nfor n in range(3000): os.mkdir('d'); os.chdir('d')\n";
        let forever = "import time\ntime.sleep(1e6)\n";
        for (limit, given, code) in [
            ("files", "{'files': 50}", many),
            ("files", "{'files': 50}", deep),
            ("userdir", "{'userdir': 2000000}", large),
        ] {
            for (how, code) in [("ends", code.to_owned()), ("stays", format!("{code}{forever}"))] {
                let userdir = pool.userdir(&format!("{limit}-{how}-{}", code.len()));
                let ended = pool.with(&code, json!({ "userdir": userdir, "limits": limits(given) }));
                assert_eq!(ended.limit(), Some(limit), "{mode:?} {how} {code}: {ended:#?}");
            }
        }
        let userdir = pool.userdir("large");
        let ended = pool.with(
            "open('large', 'wb').write(bytes(1 << 20))",
            json!({ "userdir": userdir, "limits": { "file_size": 100_000 } }),
        );
        assert_eq!(ended.limit(), Some("file_size"), "{mode:?}: {ended:#?}");
        assert_eq!(std::fs::metadata(userdir.join("large")).unwrap().len(), 100_000);
        // Deeper than a path can name, and than there are descriptors for; within its limit.
        let userdir = pool.userdir("deep");
        let keys = json!({ "userdir": userdir, "limits": { "wall": 60.0 } });
        pool.with(deep, keys.clone()).ok();
        pool.with("open('beside', 'w').write('x')", keys).ok();
        assert!(exists(&userdir.join("beside")));
        pool.still_serves();
    }
}

/// What one run leaves in its directory is met by the pool and by later runs.
#[test]
fn links_and_pipes_in_a_users_directory_lead_nowhere() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let userdir = pool.userdir("user");
        let secret = pool.file("secret", b"swordfish");
        let plant = format!(
            "
import os, socket
os.symlink('{}', 'link'); os.symlink('/etc', 'etc'); os.symlink('.', 'loop')
os.mkdir('own'); open('own/file', 'w').write('x'); os.chmod('own', 0)
for name, make in ('fifo', os.mkfifo), ('socket', lambda name: socket.socket(socket.AF_UNIX).bind(name)):
    try: make(name); print(name)
    except OSError as e: print(e.strerror)
",
            secret.display()
        );
        let keys = || json!({ "userdir": userdir, "limits": { "files": 100, "userdir": 1 << 20 } });
        let planted = pool.with(&plant, keys()).ok().out;
        for name in ["link", "etc", "loop", "own"] {
            same_owner(&userdir, &userdir.join(name));
        }
        // Whoever opens a pipe outside would wait for ever: none can be made.
        assert_eq!(planted, "Operation not permitted\nsocket\n", "{mode:?}");
        let follow = "
import os
for name in ('link', 'etc/shadow', 'loop/loop/link'):
    try: print(open(name).read())
    except OSError as e: print(e.strerror)
os.chmod('own', 0o700)
print(sorted(os.listdir()), open('own/file').read())
";
        let ended = pool.with(follow, keys()).ok();
        let nothing = "No such file or directory\n".repeat(3);
        let all = "['etc', 'link', 'loop', 'own', 'socket'] x\n";
        assert_eq!(ended.out, format!("{nothing}{all}"), "{mode:?}");
        // The control: outside, the link leads where it says.
        assert_eq!(std::fs::read_to_string(userdir.join("link")).unwrap(), "swordfish");
    }
}

#[test]
fn what_a_run_leaves_behind_is_gone_when_it_has_ended() {
    for (number, mode) in BOTH.into_iter().enumerate() {
        let pool = Pool::new(mode, json!({}));
        let argument = format!("8{number}{}.5", std::process::id());
        let leave = format!(
            "
import os, signal, sys, time
def sleeper(prepare):
    if os.fork() == 0:
        prepare()
        for n in range(1, 32):
            try: signal.signal(n, signal.SIG_IGN)
            except OSError: pass
        os.execv('/bin/sleep', ['sleep', '{argument}'])
def twice():
    os.setsid()
    if os.fork(): os._exit(0)
    os.setsid() if os.getpid() != os.getsid(0) else None
sleeper(lambda: None); sleeper(os.setsid); sleeper(twice)
while sum(open(f'/proc/{{p}}/cmdline').read().startswith('sleep') for p in os.listdir('/proc') if p.isdigit()) < 3:
    time.sleep(0.01)
print('left', flush=True)
"
        );
        let on = format!("{leave}sys.stdin.read()");
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let run = pool.ask(json!({ "task": { "code": on } }), &[("stdin", &read)]);
        run.until("left\n");
        assert_eq!(processes_with(&argument).len(), 3, "{mode:?}");
        drop(write);
        run.ended().ok();
        assert_eq!(processes_with(&argument), [0; 0], "{mode:?}");
        // With its first process gone in another way, and for a command.
        for run in [
            json!({ "task": { "code": format!("{leave}os.kill(os.getpid(), 9)") } }),
            json!({ "task": { "code": format!("{leave}os._exit(3)") } }),
            json!({ "command": ["/usr/bin/python3", "-c", leave] }),
        ] {
            let ended = pool.run(run);
            assert_eq!(ended.out, "left\n", "{mode:?} {ended:#?}");
            assert_eq!(processes_with(&argument), [0; 0], "{mode:?}");
        }
        pool.still_serves();
    }
}

#[test]
fn code_that_turns_on_its_surroundings_ends_alone() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        for (code, exit, signal) in [
            ("import os; os.closerange(0, 65536)", Some(0), None),
            ("import os; os.closerange(0, 65536); os._exit(4)", Some(4), None),
            ("import os; os.kill(os.getpid(), 9)", None, Some(9)),
            ("import os; os.kill(os.getpid(), 11)", None, Some(11)),
            ("import os; os.kill(0, 9)", None, Some(9)),
            ("import ctypes; ctypes.string_at(1)", None, Some(11)),
            ("import os; os.abort()", None, Some(6)),
            (
                "import os\ntry: os.kill(-1, 9)\nexcept ProcessLookupError: pass",
                Some(0),
                None,
            ),
            (
                "import os, sys\nfor p in {1, os.getppid()} - {0}:\n  try: os.kill(p, 9)\n  except PermissionError: pass\n  else: sys.exit(5)",
                Some(0),
                None,
            ),
            ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", None, Some(9)),
            ("import sys; sys.modules.clear(); del sys.stdout", Some(0), None),
            ("import builtins; builtins.__dict__.clear()", None, None),
            (
                "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))",
                Some(0),
                None,
            ),
        ] {
            let ended = pool.with(code, json!({ "limits": { "wall": 2.0 } }));
            if exit.is_some() || signal.is_some() {
                assert_eq!(ended.event["exit"], json!(exit), "{mode:?} {code}: {ended:#?}");
                assert_eq!(ended.event["signal"], json!(signal), "{mode:?} {code}: {ended:#?}");
            }
            assert!(ended.refused().is_none(), "{mode:?} {code}: {ended:#?}");
            pool.still_serves();
        }
    }
}

/// The socket to the pool is one of the run's descriptors, and code can say on it what it likes.
#[test]
fn what_code_tells_the_pool_harms_nobody_else() {
    let say = |messages: &str| {
        format!(
            "
import array, os, socket, time
def sockets():
    for n in range(3, 256):
        try:
            own = socket.socket(fileno=os.dup(n))
        except OSError:
            continue
        if own.type == socket.SOCK_SEQPACKET: yield own
control = next(sockets())
{messages}
time.sleep(1e6)
"
        )
    };
    let lie = "says what nobody understands";
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let before = pool.descriptors();
        for (messages, exit, error) in [
            (r#"control.send(b'{"done":{"exit":5}}')"#, Some(5), ""),
            // What it says of limits is taken, if it can be one; `stopped` and `output` are the client's to say.
            (r#"control.send(b'{"done":{"exit":5,"limit":"stopped"}}')"#, Some(5), ""),
            (
                r#"control.send(b'{"done":{"exit":5,"limit":"nonsense"}}')"#,
                Some(5),
                "",
            ),
            (
                r#"control.send(b'{"done":{"exit":5}}'); control.send(b'{"done":{"exit":6}}')"#,
                Some(5),
                "",
            ),
            (r#"control.send(b'{"done":{"exit":99999999999}}')"#, None, lie),
            (r#"control.send(b'{"done":{"exit":"0"}}')"#, None, lie),
            (r#"control.send(b'{"confined":true}')"#, None, "speaks out of turn"),
            (r#"control.send(b'{"ended":[1,0,0,0]}')"#, None, lie),
            (r#"control.send(b'[' * 1000)"#, None, lie),
            (r#"control.send(b'\xff' * 10)"#, None, lie),
            (r#"control.send(b'x' * 60000)"#, None, lie),
            (r#"control.send(b' ' * 20000 + b'{"done":{"exit":5}}')"#, None, lie),
            (
                r#"control.sendmsg([b'{"done":{"exit":5}}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1] * 200))])"#,
                Some(5),
                "",
            ),
        ] {
            let ended = pool.with(&say(messages), json!({ "limits": { "wall": 20.0 } }));
            assert_eq!(ended.event["exit"], json!(exit), "{mode:?} {messages}: {ended:#?}");
            assert!(ended.limit().is_none(), "{mode:?} {messages}: {ended:#?}");
            assert!(
                ended.refused().unwrap_or_default().contains(error),
                "{mode:?} {messages}: {ended:#?}"
            );
            pool.still_serves();
        }
        // Closed, and nothing said: it goes on, and its limits hold.
        let quiet = say("os.closerange(3, 256)");
        let ended = pool.with(&quiet, json!({ "limits": { "wall": 0.5 } }));
        assert_eq!(ended.limit(), Some("wall"), "{mode:?}: {ended:#?}");
        assert_eq!(pool.descriptors(), before, "{mode:?}: descriptors of the pool");
    }
}

/// In place of the interpreter, a program that speaks before it is asked, or in a way that no interpreter does.
#[test]
fn an_interpreter_that_speaks_out_of_turn_gets_no_task() {
    for mode in BOTH {
        // Of /tmp nothing gets into a sandbox.
        let folder = crate::harness::folder_of_the_host();
        let hostile = |name: &str, said: &str| {
            let text = format!(
                "#!/usr/bin/python3 -IS\nimport socket, time\ns = socket.socket(fileno=3)\n{said}\ntime.sleep(1e6)\n"
            );
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            path
        };
        for (name, said, error) in [
            (
                "done",
                r#"s.send(b'{"done":{"exit":0}}')"#,
                "says what nobody understands",
            ),
            ("other", r#"s.send(b'{}')"#, "says what nobody understands"),
            (
                "again",
                r#"s.send(b'{"confined":true}'); s.recv(9999); s.send(b'{"confined":true}')"#,
                "out of turn",
            ),
        ] {
            let python = hostile(name, said);
            let profile = json!({ "warm": false, "python": python, "readable": [folder.path()] });
            let pool = Pool::new(mode, profile);
            let ended = pool.with("print('never')", json!({ "limits": { "wall": 20.0 } }));
            let refused = ended.refused().unwrap_or_default();
            assert!(refused.contains(error), "{mode:?} {name}: {ended:#?}");
        }
    }
}

/// On the client's own side: what is wrong is refused by name, and what is no request ends nothing.
#[test]
fn a_request_that_is_none_is_refused_and_ends_nothing() {
    let pool = Pool::new(Mode::Root, json!({}));
    let control = pool.control.as_ref().unwrap();
    let before = pool.descriptors();
    for (request, error) in [
        ("", ""),
        ("x", "the request"),
        ("{}", "the request"),
        (r#"{"run":{"fds":["run"],"unknown":1}}"#, "unknown"),
        (r#"{"run":{"fds":[]}}"#, "name each descriptor"),
        (r#"{"run":{"fds":["run","stdin"]}}"#, "name each descriptor"),
        (r#"{"run":{"fds":["run"],"limits":{"wall":0}}}"#, "limits.wall"),
        (r#"{"run":{"fds":["run"],"limits":{"cpu":-1}}}"#, "limits.cpu"),
        (r#"{"run":{"fds":["run"],"readable":["/"]}}"#, "readable /"),
        (
            r#"{"run":{"fds":["run"],"readable":["/dev/null"]}}"#,
            "has a /dev of its own; move it elsewhere",
        ),
        (
            r#"{"run":{"fds":["run"],"readable":["/proc/sys"]}}"#,
            "has a /proc of its own; move it elsewhere",
        ),
        (
            r#"{"run":{"fds":["run"],"readable":["/run"]}}"#,
            "has a /run of its own; move it elsewhere",
        ),
        (
            r#"{"run":{"fds":["run"],"readable":["/sys/fs"]}}"#,
            "has a /sys of its own; move it elsewhere",
        ),
        (
            r#"{"run":{"fds":["run"],"readable":["/no/such"]}}"#,
            "readable /no/such",
        ),
        (r#"{"run":{"fds":["run"],"command":[]}}"#, "`command` is empty"),
        (
            r#"{"run":{"fds":["run"],"command":["no-such-program"]}}"#,
            "no-such-program",
        ),
        (r#"{"profile":{}}"#, "profile already"),
    ] {
        if request.is_empty() {
            continue;
        }
        let (ours, theirs) = crate::pool::socketpair();
        say(control, request.as_bytes(), &[&theirs]);
        drop(theirs);
        let heard = hear(&ours).unwrap_or_else(|| panic!("{request}: nothing was said"));
        assert_eq!(heard["event"], "refused", "{request}: {heard}");
        let found = heard["error"].as_str().unwrap();
        assert!(found.contains(error), "{request}: {found}");
        pool.still_serves();
    }
    assert_eq!(pool.descriptors(), before);
}

/// What a run's children compute is its own, whoever waits for them; and is counted once.
#[test]
fn what_children_compute_is_told() {
    let burn = |prepare: &str| {
        format!(
            "
import os, signal, time
{prepare}
for n in range(5):
    if not os.fork():
        while time.process_time() < 0.2: pass
        os._exit(0)
    try: os.wait()
    except ChildProcessError: pass
print(sum(os.times()[:4]))
"
        )
    };
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        // The first is the control: each is waited for, and the process knows how much it was.
        for (prepare, unknown) in [("", 0.0), ("signal.signal(signal.SIGCHLD, signal.SIG_IGN)", 1.0)] {
            let code = burn(prepare);
            let python = pool.with(&code, json!({}));
            let command = pool.run(json!({ "command": ["/usr/bin/python3", "-c", code] }));
            for ended in [python, command] {
                let ended = ended.ok();
                let known = ended.out.trim().parse::<f64>().unwrap();
                let told = ended.event["usage"]["cpu"].as_f64().unwrap();
                // Where no cgroup counts, not all is seen of those that nobody waits for.
                let least = known - 0.05 + if mode == Mode::Root { unknown } else { unknown / 2.0 };
                let most = known + unknown + 0.3;
                assert!(
                    least <= told && told <= most,
                    "{mode:?} {prepare}: {told}, not {least} to {most}: {ended:#?}"
                );
            }
        }
    }
}

/// A run's own paths are shown to its command, which may lie in them.
#[test]
fn a_command_may_lie_in_what_is_readable_for_it() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({}));
        let host = crate::harness::folder_of_the_host();
        let program = host.path().join("tool-1/bin/program");
        std::fs::create_dir_all(program.parent().unwrap()).unwrap();
        std::fs::write(&program, "#!/bin/sh\necho ran \"$0\" \"$@\"\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::os::unix::fs::symlink("tool-1", host.path().join("tool")).unwrap();
        for (readable, command) in [
            ("tool-1", "tool-1/bin/program"),
            ("tool-1/bin/program", "tool-1/bin/program"),
            ("tool", "tool/bin/program"),
            ("tool", "tool-1/bin/program"),
        ] {
            let [readable, command] = [readable, command].map(|path| host.path().join(path));
            let run = json!({ "readable": [readable], "command": [command, "a"] });
            let ended = pool.run(run).ok();
            assert_eq!(ended.out, format!("ran {} a\n", program.display()), "{mode:?}");
        }
        // The control.
        let refused = pool.run(json!({ "command": [program] }));
        assert!(
            refused
                .refused()
                .is_some_and(|error| error.contains("not in the service")),
            "{mode:?}: {refused:#?}"
        );
    }
}

/// Who reads the output holds that limit, and is told where it is lower than the one that he says.
#[test]
fn who_reads_the_output_is_told_how_much_there_may_be() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({ "limits": { "output": 1000 } }));
        for (held, told) in [
            (json!({}), true),
            (json!({ "output": 1001 }), true),
            (json!({ "output": 1000 }), false),
        ] {
            let run = pool.begin("print('x')", json!({ "limits": held }));
            let first = hear(&run.connection).unwrap();
            match told {
                true => assert_eq!(first, json!({ "event": "output", "bytes": 1000 }), "{mode:?} {held}"),
                false => assert_eq!(first["event"], "ended", "{mode:?} {held}"),
            }
        }
    }
}
