//! What nobody trusts, in a sandbox: what it tries, what it uses up, and how little of that anybody else notices.
//!
//! These tests are the pool's client themselves. As in `escapes`, an attack that works nowhere proves nothing: controls show
//! that each works where nothing holds it. What `escapes` has of processes that come in (`exec`) has no place here: nothing comes into
//! a sandbox that runs. Its other programs are tried here, too.

#[path = "sandbox/between.rs"]
mod between;
#[path = "sandbox/closed.rs"]
mod closed;
#[path = "sandbox/explain.rs"]
mod explain;
mod harness;
#[path = "sandbox/limits.rs"]
mod limits;
#[path = "sandbox/luck.rs"]
mod luck;
#[path = "sandbox/overlay.rs"]
mod overlay;
#[path = "sandbox/pool.rs"]
mod pool;
#[path = "sandbox/strangers.rs"]
mod strangers;

use harness::{BOTH, Ended as Outside, Mode};
use pool::{PRELUDE, PYTHON, Pools};
use serde_json::json;
use std::path::Path;
use std::process::Command;

/// As the host's root: the control.
fn outside(script: &str) -> Outside {
    let script = format!("{PRELUDE}{script}");
    Outside::from(Command::new(PYTHON).args(["-c", &script]).output().unwrap())
}

#[test]
fn no_right_is_left_and_none_can_be_had() {
    // That the attacks work for the host's root is shown in `escapes`.
    let nodes = "nodes [('full', 1, 7), ('null', 1, 3), ('ptmx', 5, 2), ('random', 1, 8), ('tty', 5, 0), ('urandom', 1, 9), \
                 ('zero', 1, 5)]\n";
    for mode in BOTH {
        Pools::new(mode).each_prints(include_str!("escapes/rights.py"), nodes);
    }
}

#[test]
fn pid_1_shows_nothing_and_cannot_be_touched() {
    for mode in BOTH {
        Pools::new(mode).each(include_str!("escapes/pid_1.py"), |way, ended| {
            let ended = ended.ok();
            for line in ended.out.lines() {
                // Where all have one id, how many descriptors it has is to be seen, and nothing of what they are. A program may look
                // before PID 1 has closed all but two.
                let line = match line.split_once('[').zip(line.split_once(']')) {
                    Some(((before, listed), (_, after))) if mode == Mode::Rootless => {
                        let numbers = listed.split(']').next().unwrap_or_default().split(", ");
                        let is_number = |n: &str| n.trim_matches('\'').parse::<u32>().is_ok();
                        assert!(numbers.clone().all(is_number), "{mode:?} {way:?}: {line}");
                        format!("{before}EACCES{after}")
                    }
                    _ => line.to_owned(),
                };
                let refused = |word: &str| matches!(word, "EACCES" | "EPERM" | "ESRCH" | "ENOENT" | "ENOSYS");
                assert!(
                    line.split(' ').skip(1).all(refused),
                    "{mode:?} {way:?}: {line}\n{ended:#?}"
                );
            }
            assert_eq!(ended.out.lines().count(), 20, "{ended:#?}");
        });
    }
}

#[test]
fn no_call_gets_round_the_filter() {
    const CALLS: &str = include_str!("escapes/calls.py");
    let allowed = outside(CALLS).out;
    assert!(
        allowed.contains("'process_vm_readv': 8") && allowed.contains("'ptrace': 0"),
        "the host's root is refused neither: {allowed}"
    );
    for mode in BOTH {
        let pools = Pools::new(mode);
        pools.each(CALLS, |way, ended| {
            let found: Vec<_> = ended.out.trim().trim_matches(['{', '}']).split(", ").collect();
            assert_eq!(found.len(), 15, "{ended:#?}");
            for call in found {
                assert!(call.ends_with(": 'EPERM'"), "{mode:?} {way:?}: {call}");
            }
        });
        // By the calls of 32 bits: SIGSYS, with or without a dump.
        pools.each(include_str!("escapes/narrow.py"), |way, ended| {
            let status: i32 = ended.out.trim().parse().unwrap();
            assert_eq!(status & 0x7f, 31, "{mode:?} {way:?}: {ended:#?}");
        });
    }
}

/// Numbers of x86_64 that the suite of services leaves to the filter's own tests, and newer ones than any list has.
#[test]
fn raw_calls_are_refused_each_in_its_way() {
    let script = "
space = ctypes.create_string_buffer(4096)
class arguments(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in ('flags', 'pidfd', 'child', 'parent', 'signal', 'stack', 'size', 'tls', 'set', 'sets', 'cgroup')]
def new(flags):
    made = call(435, ctypes.byref(arguments(flags=flags, signal=17)), 88)
    if made == 0:
        os._exit(0)
    return 'made' if isinstance(made, int) else made
found = {
    'io_uring_setup': call(425, 8, space), 'io_uring_enter': call(426, -1, 0, 0, 0, 0), 'io_uring_register': call(427, -1, 0, 0, 0),
    'userfaultfd': call(323, 0), 'keyctl': call(250, 0, -3, 0), 'add_key': call(248, b'user', b'x', b'y', 1, -3),
    'unshare': call(272, 0x20000), 'setns': call(308, -1, 0), 'mount': call(165, b'none', b'/missing', b'tmpfs', 0, 0),
    'umount2': call(166, b'/missing', 0), 'bpf': call(321, 0, space, 128), 'perf_event_open': call(298, space, 0, -1, -1, 0),
    'ptrace': call(101, 16, 99999999, 0, 0), 'process_vm_readv': call(310, os.getpid(), None, 0, None, 0, 0), 'x32 getpid': call(0x40000000 + 39),
    'kexec_load': call(246, 0, 99, 0, 0xff), 'fsopen': call(430, b'tmpfs', 0),
    'open_tree': call(428, -100, b'/', 1), 'swapon': call(167, b'/missing', 0), 'chroot': call(161, b'/missing'),
    'quotactl': call(179, 0, 0, 0, 0), 'lookup_dcookie': call(212, 0, 0, 0), 'fanotify_init': call(300, 0, 0),
    'clone3': new(0), 'clone3 of a user namespace': new(0x10000000), 'clone3 of a mount namespace': new(0x20000),
    'newer 470': call(470, 0), 'newer 511': call(511, 0), 'newer 9999': call(9999, 0),
}
for name, got in sorted(found.items()):
    print(name, got)
";
    let control = outside(script).out;
    for works in ["unshare 0", "clone3 made", "clone3 of a user namespace made", "fsopen "] {
        assert!(control.contains(works), "{works}: {control}");
    }
    for mode in BOTH {
        Pools::new(mode).each(script, |way, ended| {
            let ended = ended.ok();
            for line in ended.out.lines() {
                let (call, got) = line.rsplit_once(' ').unwrap();
                let unknown = call.starts_with("clone3") || call.starts_with("newer");
                let fine = match call {
                    _ if unknown => got == "ENOSYS",
                    _ => got == "EPERM" || got == "ENOSYS",
                };
                assert!(fine, "{mode:?} {way:?}: {line}");
            }
            assert_eq!(ended.out.lines().count(), 29, "{ended:#?}");
        });
    }
}

/// A file of the user's that anybody may run would otherwise be a way to the user's id, and on a host's disk to root's.
#[test]
fn no_file_gets_a_set_id_bit() {
    const SET_ID: &str = include_str!("escapes/set_id.py");
    // A pipe cannot be made here at all.
    let set_id = SET_ID.replacen("os.mkfifo(here + b'/pipe', 0o622)\n", "", 1);
    assert_ne!(set_id, SET_ID);
    let expected = "allowed [] []\nset []\n32 bits 31 0\n";
    for mode in BOTH {
        let pools = Pools::new(mode);
        pools.each_prints(&format!("FOLDER = '/tmp'\n{set_id}"), expected);
        let userdir = pools.warm.userdir("user");
        let script = format!("{PRELUDE}FOLDER = '/home/user'\n{set_id}");
        let ended = pools.warm.with(&script, json!({ "userdir": userdir }));
        assert_eq!(ended.out, expected, "{mode:?}: {ended:#?}");
    }
}

/// What of the host and of the pool's user shows.
#[test]
fn nothing_of_the_host_is_in_reach() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        r"
def to(family, address):
    with socket.socket(family) as s:
        s.settimeout(20)
        s.connect(address)
        return 'connected'
print('loopback', tried(to, socket.AF_INET, ('127.0.0.1', {port})))
print('passwd', 'daemon' in open('/etc/passwd').read() if os.path.exists('/etc/passwd') else False)
print('files', [p for p in ('/etc/shadow', '/etc/ssh', '/home/user/x', '/run/user', '/boot/grub', '/var/lib/dpkg', '/dev/kmsg', '/sys/kernel') if os.path.lexists(p)])
print('empty', all(not os.listdir(p) for p in ('/root', '/srv', '/home/user') if os.path.isdir(p) and os.access(p, os.R_OK)))
print('writable', [p for p in ('/', '/etc', '/usr', '/usr/bin', '/home', '/run', '/proc/sys', '/sys', '/run/pysecure/python') if os.access(p, os.W_OK)])
print('others', [p for p in os.listdir('/proc') if p.isdigit() and int(p) not in (1, os.getpid())])
print('network', [n for _, n in socket.if_nameindex()])
"
    );
    let control = outside(&script).out;
    for works in ["loopback connected", "passwd True", "'/etc/shadow'", "'/usr/bin'"] {
        assert!(control.contains(works), "{works}: {control}");
    }
    let expected =
        "loopback ECONNREFUSED\npasswd False\nfiles []\nempty True\nwritable []\nothers []\nnetwork ['lo']\n";
    for mode in BOTH {
        Pools::new(mode).each_prints(&script, expected);
    }
}

/// Programs look up who they are, and where their files lie.
#[test]
fn who_it_is_is_what_programs_expect() {
    let script = "
import getpass, grp, pwd
who = pwd.getpwuid(os.getuid())
print(who.pw_name, who.pw_dir, grp.getgrgid(os.getgid()).gr_name, getpass.getuser(), pwd.getpwnam('user').pw_uid == os.getuid())
";
    for mode in BOTH {
        let pools = Pools::new(mode);
        pools.each_prints(script, "user /home/user user user True\n");
        let userdir = pools.warm.userdir("home");
        for (pool, key) in [(&pools.warm, "task"), (&pools.cold, "task"), (&pools.warm, "command")] {
            let run = match key {
                "command" => json!({ "command": ["sh", "-c", "echo ~ ~user"], "userdir": userdir }),
                _ => json!({
                    "task": { "code": "import os; print(*map(os.path.expanduser, ('~', '~user')))" },
                    "userdir": userdir,
                }),
            };
            assert_eq!(pool.run(run).ok().out, "/home/user /home/user\n", "{mode:?} {key}");
        }
    }
}

/// `pysecure sandbox` without a program that asks: files and commands, and their exit codes.
#[test]
fn on_the_command_line_it_is_as_confined() {
    for mode in BOTH {
        let app = harness::App::new(mode, "");
        let rights = format!("{PRELUDE}{}", include_str!("escapes/rights.py"));
        app.write("rights.py", &rights);
        app.write("loop.py", "while True: pass\n");
        app.write("exit.py", "import sys\nprint(sys.argv[1:])\nsys.exit(7)\n");
        app.write("nul.py", b"print(1)\0");
        let ended = app.ok(&["sandbox", "run", "rights.py"]);
        assert!(ended.out.starts_with("nodes [('full', 1, 7)"), "{mode:?}: {ended:?}");
        let ended = app.ok(&["sandbox", "--", PYTHON, "-c", &rights]);
        assert!(ended.out.starts_with("nodes [('full', 1, 7)"), "{mode:?}: {ended:?}");
        let ended = app.run(&["sandbox", "run", "exit.py", "a", "--b"]);
        assert_eq!((ended.code, ended.out.as_str()), (7, "['a', '--b']\n"), "{ended:?}");
        let ended = app.run(&["sandbox", "run", "nul.py"]);
        assert!(ended.code == 1 && ended.err.contains("null bytes"), "{ended:?}");
        for args in [
            &["sandbox", "run", "--wall", "0.5", "loop.py"][..],
            &["sandbox", "--wall", "0.5", "--", "sleep", "1000"],
        ] {
            let ended = app.run(args);
            assert_eq!(ended.code, 137, "{ended:?}");
            assert!(ended.err.contains("ended by its limit `wall`"), "{ended:?}");
        }
        let ended = app.run(&["sandbox", "run", "missing.py"]);
        assert_eq!(ended.code, 2, "{ended:?}");
        assert!(ended.err.contains("missing.py"), "{ended:?}");
        let user = app.write("user/kept", "");
        let userdir = user.parent().unwrap().to_str().unwrap();
        let ended = app.ok(&[
            "sandbox",
            "--userdir",
            userdir,
            "--",
            "sh",
            "-c",
            "echo made > made; ls; pwd",
        ]);
        assert_eq!(ended.out, "kept\nmade\n/home/user\n", "{ended:?}");
        assert_eq!(
            std::fs::read_to_string(Path::new(userdir).join("made")).unwrap(),
            "made\n"
        );
        same_owner(&user, &Path::new(userdir).join("made"));
    }
}

#[track_caller]
fn same_owner(one: &Path, other: &Path) {
    use std::os::unix::fs::MetadataExt;
    let [one, other] = [one, other].map(|path| std::fs::symlink_metadata(path).unwrap());
    assert_eq!((one.uid(), one.gid()), (other.uid(), other.gid()));
}
