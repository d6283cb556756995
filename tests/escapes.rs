//! From inside a service: what it tries in order to reach what is another's, the launcher's or the host's.
//!
//! Each attack runs in Python, whose `ctypes` makes any system call. Where the same code works outside, a
//! control shows that: an attack that never could have worked proves nothing.

mod harness;

use harness::{App, BOTH, Ended, Mode, wait_until};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::{Command, Stdio};

/// What every attack starts with.
const PRELUDE: &str = include_str!("escapes/prelude.py");

const PYTHON: &str = "/usr/bin/python3";

fn need_python() {
    assert!(
        Path::new(PYTHON).exists(),
        "install `python3`: attacks are written in it"
    );
}

/// Runs Python inside a service.
fn python(app: &App, service: &str, script: &str) -> Ended {
    need_python();
    app.run(&["exec", "-T", service, "--", PYTHON, "-c", &format!("{PRELUDE}{script}")])
}

/// The same as the host's root: the control.
fn python_outside(script: &str) -> Ended {
    need_python();
    Ended::from(
        Command::new(PYTHON)
            .arg("-c")
            .arg(format!("{PRELUDE}{script}"))
            .output()
            .unwrap(),
    )
}

/// Two services with a secret each, and a third line of the manifest for what is special.
fn two(mode: Mode, name: &str, extra: &str) -> App {
    let manifest = format!(
        r#"
[app]
name = "{name}"
[resources]
secret = {{ path = "/data/vault/secret.txt", owner = "rw" }}
[services.vault]
command = ["sh", "-c", "echo swordfish > /data/vault/secret.txt; echo ready; exec sleep 80001"]
owner_resources = ["secret"]
environment = {{ TOKEN = "{TOKEN}" }}
[services.web]
command = ["sh", "-c", "echo ready; exec sleep 80002"]
{extra}
"#
    );
    let app = App::new(mode, &manifest);
    app.ok(&["up", "-d"]);
    app.wait_for_log("vault", "ready");
    app.wait_for_log("web", "ready");
    app
}

const TOKEN: &str = "a-token-that-stands-nowhere-else-5d41402abc4b2a76";

/// The pid of the process with this command line, as the host counts, below one of a service.
fn host_pid(seconds: &str, app: &App, service: &str) -> i32 {
    let init = app.init_of(service);
    let children = wait_until(|| {
        std::fs::read_to_string(format!("/proc/{init}/task/{init}/children"))
            .ok()
            .filter(|c| !c.is_empty())
    });
    let found = children
        .split_whitespace()
        .map(|p| p.parse().unwrap())
        .find(|pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l.contains(seconds)));
    found.unwrap()
}

#[test]
fn a_service_reaches_nothing_of_another() {
    for mode in BOTH {
        let app = two(mode, "strangers", "");
        let victim = host_pid("80001", &app, "vault");
        let init = app.init_of("vault");
        let supervisor = app.supervisor();
        let data = app.state().join("apps/strangers/resources/secret/secret.txt");
        // All of it works outside: pids and paths are right.
        assert_eq!(
            std::fs::read_to_string(&data).unwrap_or_else(|e| panic!("{}: {e}", data.display())),
            "swordfish\n"
        );
        let script = format!(
            r#"
for pid in ({victim}, {init}, {supervisor}):
    print('kill', tried(os.kill, pid, 0))
    print('ptrace', call(101, 16, pid, 0, 0))              # PTRACE_ATTACH
    class iovec(ctypes.Structure):
        _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
    buf = ctypes.create_string_buffer(8)
    local = iovec(ctypes.addressof(buf), 8)
    print('vm_readv', call(310, pid, ctypes.byref(local), 1, ctypes.byref(local), 1, 0))
    print('pidfd', call(434, pid, 0))
    print('proc', os.path.exists('/proc/%d' % pid))
seen = sorted(int(p) for p in os.listdir('/proc') if p.isdigit())
print('pids', [p for p in seen if open('/proc/%d/cmdline' % p).read().startswith('sleep\080001')])
for path in ('{data}', '/data/vault/secret.txt', '/data/vault', '{folder}', '/proc/1/root{data}', '/etc/shadow', '/root/.ssh'):
    print('file', os.path.lexists(path), tried(open, path))
print('write', tried(open, '/data/vault/new', 'w'), tried(os.mkdir, '/data/vault'))
"#,
            data = data.display(),
            folder = app.folder.display(),
        );
        let seen = python(&app, "web", &script).ok().out;
        for line in seen.lines() {
            let (what, got) = line.split_once(' ').unwrap();
            let fine = match what {
                "kill" | "pidfd" => got == "ESRCH" || got == "EPERM",
                "ptrace" | "vm_readv" => got == "EPERM" || got == "ENOSYS" || got == "ESRCH",
                "proc" => got == "False",
                "pids" => got == "[]",
                "file" => got.starts_with("False E"),
                "write" => !got.contains("None") && got.matches('E').count() >= 2 && !got.contains("TextIO"),
                _ => false,
            };
            assert!(fine, "{mode:?}: {line}\n{seen}");
        }
        assert_eq!(seen.lines().count(), 3 * 5 + 1 + 7 + 1);
        assert_eq!(app.ps()["services"][0]["state"], "running");
    }
}

#[test]
fn pid_1_shows_nothing_and_cannot_be_touched() {
    for mode in BOTH {
        let app = two(mode, "pidone", "");
        let script = include_str!("escapes/pid_1.py");
        let seen = python(&app, "web", script).ok().out;
        for line in seen.lines() {
            let (what, got) = line.split_once(' ').unwrap();
            let refused = got
                .split(' ')
                .all(|word| matches!(word, "EACCES" | "EPERM" | "ESRCH" | "ENOENT" | "ENOSYS"));
            assert!(refused, "{mode:?}: {what}: {got}\n{seen}");
        }
        // The control: the same file of a process of its own is open to it.
        assert!(
            python(&app, "web", "print(tried(os.readlink, '/proc/self/exe'))")
                .out
                .contains("python")
        );
        assert_eq!(app.ps()["services"][1]["state"], "running");
    }
}

/// A watcher inside tries to catch each new process before it has become its program.
#[test]
fn exec_cannot_be_caught_on_its_way_in() {
    for mode in BOTH {
        let manifest = format!(
            r#"
[app]
name = "watched"
[services.web]
command = ["{PYTHON}", "-u", "/code/watch.py"]
[resources]
code = {{ path = "/code", source = "./code", global = "r" }}
"#
        );
        need_python();
        let app = App::new(mode, &manifest);
        app.write(
            "code/watch.py",
            format!(
                r#"{PRELUDE}
print('watching', flush=True)
known = set(os.listdir('/proc'))
caught = seen = 0
while True:
    for pid in os.listdir('/proc'):
        if not pid.isdigit() or pid == str(os.getpid()) or pid in known:
            continue
        for attempt in range(4):
            try:
                exe = os.readlink('/proc/%s/exe' % pid)
                if 'pysecure' in exe:
                    print('CAUGHT exe', exe, flush=True)
            except OSError:
                pass
            for flags in (os.O_WRONLY, os.O_RDONLY):
                try:
                    fd = os.open('/proc/%s/exe' % pid, flags)
                    name = os.readlink('/proc/self/fd/%d' % fd)
                    if 'pysecure' in name:
                        print('CAUGHT open', name, flush=True)
                    os.close(fd)
                except OSError:
                    pass
            try:
                for fd in os.listdir('/proc/%s/fd' % pid):
                    to = os.readlink('/proc/%s/fd/%s' % (pid, fd))
                    if int(fd) > 2 and not to.startswith('/proc/') and 'lib' not in to and '/etc/ld' not in to:
                        print('CAUGHT fd', fd, to, flush=True)
            except (OSError, ValueError):
                pass
            try:
                where = os.readlink('/proc/%s/cwd' % pid)
                if '{folder}' in where or '(unreachable)' in where:
                    print('CAUGHT cwd', where, flush=True)
            except OSError:
                pass
            if call(101, 16, int(pid), 0, 0) == 0:
                print('CAUGHT ptrace', flush=True)
        seen += 1
        if seen % 20 == 0:
            print('seen', seen, flush=True)
"#,
                folder = app.folder.display()
            ),
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "watching");
        let mut rounds = 0;
        // The watcher has to have seen many, whatever its luck.
        while !app.logs("web").contains("seen 60") {
            assert_eq!(app.sh("web", "exit 5").code, 5);
            rounds += 1;
        }
        let logs = app.logs("web");
        assert!(!logs.contains("CAUGHT"), "{mode:?} after {rounds}: {logs}");
    }
}

#[test]
fn a_program_starts_with_its_own_three_descriptors_inside_its_root() {
    for mode in BOTH {
        let app = two(mode, "descriptors", "");
        let script = "import os\nprint(sorted(os.listdir('/proc/self/fd'), key=int), os.getcwd(), os.readlink('/proc/self/root'))\n\
                      print([os.path.exists('/proc/self/fd/%d/..' % n) for n in range(3, 256)].count(True))";
        for way in ["exec", "run"] {
            let ended = app.ok(&[way, "web", "--", PYTHON, "-c", script]);
            // 3 is the directory that is being listed.
            assert_eq!(ended.out, "['0', '1', '2', '3'] / /\n0\n", "{mode:?} {way}: {ended:?}");
        }
        // As the service itself starts.
        let init = app.init_of("web");
        let main = host_pid("80002", &app, "web");
        let fds = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        assert_eq!(fds(main), 3);
        assert!(fds(init) <= 2, "PID 1 has its socket and a signalfd");
        let outside = std::fs::read_to_string(format!("/proc/{init}/status")).unwrap();
        assert!(
            outside.contains("CapPrm:\t0000000000000020\n"),
            "PID 1 may signal, and nothing else: {outside}"
        );
        assert!(outside.contains("CapBnd:\t0000000000000000\n"), "{outside}");
        assert!(
            outside.contains("Groups:\t \n") || outside.contains("Groups:\t\n"),
            "{outside}"
        );
    }
}

/// All that can be read of a process's memory holds `text`?
fn memory_holds(pid: i32, text: &str) -> bool {
    let memory = std::fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut scanned = 0;
    let mut found = false;
    for line in maps.lines().filter(|l| l.split(' ').nth(1).unwrap().starts_with('r')) {
        let (from, to) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let (from, to) = (
            u64::from_str_radix(from, 16).unwrap(),
            u64::from_str_radix(to, 16).unwrap(),
        );
        let mut bytes = vec![0; (to - from) as usize];
        // The kernel's own pages ([vvar]) cannot be read.
        let Ok(read) = memory.read_at(&mut bytes, from) else {
            continue;
        };
        scanned += read;
        if bytes[..read].windows(text.len()).any(|w| w == text.as_bytes()) {
            eprintln!("{text:?} in {line}");
            found = true;
        }
    }
    assert!(scanned > 100_000, "only {scanned} bytes of {pid} could be read");
    found
}

#[test]
fn pid_1_holds_nothing_of_any_services_environment() {
    for mode in BOTH {
        let app = two(mode, "memory", "");
        assert!(memory_holds(app.supervisor(), TOKEN), "the scan finds it where it is");
        assert!(
            memory_holds(host_pid("80001", &app, "vault"), TOKEN),
            "the service has what it was given"
        );
        for service in ["vault", "web"] {
            let init = app.init_of(service);
            for text in [TOKEN, "sleep 80001", "sleep 80002", "echo swordfish"] {
                assert!(!memory_holds(init, text), "{mode:?}: PID 1 of {service} holds {text:?}");
            }
            for file in ["environ", "cmdline"] {
                let content = std::fs::read(format!("/proc/{init}/{file}")).unwrap_or_default();
                assert!(
                    content.iter().all(|b| *b == 0),
                    "{mode:?}: {file} of {service}'s PID 1: {content:?}"
                );
            }
        }
        assert!(!memory_holds(host_pid("80002", &app, "web"), TOKEN));
    }
}

#[test]
fn no_right_is_left_and_none_can_be_had() {
    for mode in BOTH {
        let app = two(
            mode,
            "rights",
            "[services.rooted]\ncommand = [\"sleep\", \"1000\"]\nruns_with_root = true",
        );
        let script = include_str!("escapes/rights.py");
        for service in ["web", "rooted"] {
            let ended = python(&app, service, script).ok();
            let expected = "nodes [('full', 1, 7), ('null', 1, 3), ('ptmx', 5, 2), ('random', 1, 8), ('tty', 5, 0), ('urandom', 1, 9), ('zero', 1, 5)]\n";
            assert_eq!(ended.out, expected, "{mode:?} {service}: {}", ended.err);
        }
    }
    // The control: as the host's root some of the same numbers do what they are meant to do.
    let outside = python_outside("print(call(272, 0x20000), call(435, 0, 0), call(430, b'tmpfs', 0))");
    assert_eq!(outside.out, "0 EINVAL 3\n", "{outside:?}");
}

#[test]
fn a_setuid_program_gains_nothing() {
    for mode in BOTH {
        let manifest = r#"
[app]
name = "setuid"
code = { "/tools" = "./tools" }
[services.web]
command = ["sleep", "1000"]
"#;
        let app = App::new(mode, manifest);
        app.write("tools/placeholder", "");
        let tool = app.folder.join("tools/id");
        std::fs::copy("/usr/bin/id", &tool).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o6755)).unwrap();
        // It works outside: another user becomes root by it.
        let outside = app_user_runs(&tool);
        assert!(outside.out.contains("euid=0"), "{outside:?}");
        app.ok(&["up", "-d"]);
        let inside = app.sh("web", "/tools/id").ok();
        assert!(
            !inside.out.contains("euid=0") && !inside.out.contains("egid=0"),
            "{inside:?}"
        );
    }
}

fn app_user_runs(program: &Path) -> Ended {
    harness::user();
    let done = Command::new("setpriv")
        .args(["--reuid", harness::USER, "--regid", harness::USER, "--clear-groups"])
        .arg(program)
        .output();
    Ended::from(done.unwrap())
}

#[test]
fn the_hosts_sockets_are_out_of_reach() {
    for mode in BOTH {
        let app = two(
            mode,
            "reach",
            "[services.front]\ncommand = [\"sleep\", \"1000\"]\nnetwork = \"host\"",
        );
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = tcp.local_addr().unwrap().port();
        let name = format!("pysecure-test-{}-{mode:?}", std::process::id());
        use std::os::linux::net::SocketAddrExt;
        let _abstract = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let script = format!(
            r#"
def to(family, address):
    s = socket.socket(family)
    s.settimeout(20)
    s.connect(address)
    return 'connected'
print(tried(to, socket.AF_INET, ('127.0.0.1', {port})), tried(to, socket.AF_UNIX, '\0{name}'))
"#
        );
        assert_eq!(python_outside(&script).out, "connected connected\n");
        assert_eq!(python(&app, "web", &script).ok().out, "ECONNREFUSED ECONNREFUSED\n");
        let front = python(&app, "front", &script).ok().out;
        let abi = python_outside("print(call(444, 0, 0, 1))").out;
        let scoped = abi.trim().parse::<u32>().is_ok_and(|abi| abi >= 6);
        assert_eq!(
            front,
            if scoped {
                "connected EPERM\n"
            } else {
                "connected connected\n"
            },
            "Landlock {abi}"
        );
        assert_eq!(python(&app, "web", "print(sorted(os.listdir('/sys/class/net')) if os.path.exists('/sys/class/net') else [], [n for _, n in socket.if_nameindex()])").ok().out, "[] ['lo']\n");
    }
}

#[test]
fn nothing_can_be_typed_into_the_callers_terminal() {
    for mode in BOTH {
        let app = two(mode, "typed", "");
        need_python();
        let push = "import fcntl, os\n\
                    for fd in (0, 1, 2, '/dev/tty'):\n\
                    \x20try:\n\
                    \x20 fcntl.ioctl(os.open(fd, os.O_RDWR) if isinstance(fd, str) else fd, 0x5412, b'Z')\n\
                    \x20except OSError as e:\n\
                    \x20 pass\n\
                    print('tried', flush=True)";
        for args in [
            &["exec", "web"][..],
            &["run", "web"],
            &["exec", "-T", "web"],
            &["run", "-T", "web"],
        ] {
            let command = [args, &["--", PYTHON, "-c", push]].concat();
            let mut terminal = app.on_terminal(&command, 24, 80);
            let mut shown = terminal.until("tried");
            let (code, rest) = terminal.ended();
            assert_eq!(code, 0, "{shown}{rest}");
            shown += &rest;
            // What was pushed in would wait here to be read by the next program, the caller's shell.
            let waiting = rustix::io::ioctl_fionread(&terminal.slave).unwrap();
            use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
            let mut raw = tcgetattr(&terminal.slave).unwrap();
            raw.local_modes.remove(LocalModes::ICANON);
            tcsetattr(&terminal.slave, OptionalActions::Now, &raw).unwrap();
            let raw_waiting = rustix::io::ioctl_fionread(&terminal.slave).unwrap();
            assert_eq!((waiting, raw_waiting), (0, 0), "{mode:?} {args:?}: {shown}");
        }
    }
}

#[test]
fn a_source_swapped_for_a_link_is_never_mounted() {
    for mode in BOTH {
        let manifest = r#"
[app]
name = "swapped"
[resources]
shared = { path = "/data", source = "./dir", global = "r" }
[services.web]
command = ["cat", "/data/file"]
"#;
        let app = App::new(mode, manifest);
        app.write("dir/file", "harmless\n");
        // Who starts the app could read it; the service was not granted it. Links that stay below the manifest's
        // folder are followed, so it lies elsewhere.
        let private = harness::fresh_folder();
        std::fs::write(private.join("file"), "swordfish\n").unwrap();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let dir = app.folder.join("dir");
        let other = app.folder.join("other");
        std::os::unix::fs::symlink(&private, &other).unwrap();
        let swap = || {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(rustix::fs::CWD, &dir, rustix::fs::CWD, &other, flags).unwrap();
        };
        let (mut read, mut refused) = (0, 0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    swap();
                    std::thread::sleep(std::time::Duration::from_micros(150));
                }
            });
            let seen: Vec<_> = (0..60).map(|_| app.run(&["run", "-T", "web"])).collect();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            for ended in seen {
                assert!(!ended.out.contains("swordfish"), "{mode:?}: {ended:?}");
                match ended.code {
                    0 => read += 1,
                    _ => refused += 1,
                }
            }
        });
        assert!(refused > 0, "{mode:?}: the link was never met ({read} times read)");
        // And with the link in place for good.
        if !std::fs::symlink_metadata(&dir).unwrap().is_symlink() {
            swap();
        }
        let ended = app.run(&["run", "-T", "web"]);
        assert!(ended.code != 0 && !ended.out.contains("swordfish"), "{ended:?}");
    }
}

/// A service may write in the outer directory; what another one mounts in there must not follow its links.
#[test]
fn a_mount_point_swapped_for_a_link_leads_nowhere_else() {
    for mode in BOTH {
        let manifest = r#"
[app]
name = "planted"
[resources]
outer = { path = "/data/outer", bundle = "rw" }
inner = { path = "/data/outer/sub/inner", bundle = "rw" }
[bundles.both]
resources = ["outer", "inner"]
[services.evil]
command = ["sleep", "1000"]
bundle = "both"
[services.good]
command = ["sleep", "1000"]
bundle = "both"
"#;
        let app = App::new(mode, manifest);
        let checked = app.run(&["check"]);
        assert_eq!(checked.code, 0, "{checked:?}");
        app.ok(&["up", "-d"]);
        // A directory on the way to a mount point can be renamed, if not removed.
        let script = "mv /data/outer/sub /data/outer/gone && ln -s /etc /data/outer/sub && mkdir -p /data/outer/elsewhere/inner \
                      && echo planted";
        assert_eq!(app.sh("evil", script).ok().out, "planted\n");
        app.ok(&["down"]);
        // A folder that host and jail have, and that nobody misses.
        let folder = harness::folder_of_the_host();
        let opt = folder.path().to_str().unwrap();
        for to in [opt, "/etc", "elsewhere", "/usr", "/tmp"] {
            let outer = app.state().join("apps/planted/resources/outer");
            let link = outer.join("sub");
            if std::fs::remove_file(&link).is_err() {
                std::fs::remove_dir_all(&link).unwrap();
            }
            std::os::unix::fs::symlink(to, &link).unwrap();
            let up = app.run(&["up", "-d"]);
            if up.code == 0 {
                // Up in spite of it: then what is mounted has to be where it belongs.
                let mounts = app.sh("good", "cat /proc/self/mountinfo").ok().out;
                let places: Vec<_> = mounts.lines().map(|l| l.split(' ').nth(4).unwrap()).collect();
                let away = |p: &&str| p.ends_with("/inner") && *p != "/data/outer/sub/inner";
                assert!(!places.iter().any(away), "{mode:?} {to}: {mounts}");
                assert!(!places.contains(&"/data/outer/elsewhere/inner"), "{mode:?}: {mounts}");
                app.ok(&["down"]);
            } else {
                assert!(
                    up.err.contains("sub") || up.err.contains("inner"),
                    "it is said what is wrong: {up:?}"
                );
            }
            // Taken away again, so that one failure is not those of all that follow.
            let made = [opt, "/etc", "/usr", "/tmp"].map(|to| Path::new(to).join("inner"));
            let made: Vec<_> = made.iter().filter(|path| path.exists()).collect();
            for path in &made {
                let _ = std::fs::remove_dir(path);
            }
            assert!(made.is_empty(), "{mode:?} {to}: made outside of the resource: {made:?}");
        }
    }
}

#[test]
fn the_control_socket_is_its_owners_and_bears_rubbish() {
    for mode in BOTH {
        let app = two(mode, "control", "");
        let socket = app.state().join("run/control/control.sock");
        let try_as = |user: &str| {
            let script = format!(
                "import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect('{}')\ns.send(b'{{\"do\":\"ps\"}}\\n')\nprint(s.recv(100))",
                socket.display()
            );
            let mut command = Command::new("setpriv");
            command.args(["--reuid", user, "--clear-groups", PYTHON, "-c", &script]);
            Ended::from(command.output().unwrap())
        };
        let owner = match mode {
            Mode::Root => "root",
            Mode::Rootless => harness::USER,
        };
        assert!(try_as(owner).out.contains("{"), "{:?}", try_as(owner));
        assert!(
            try_as("nobody").err.contains("PermissionError"),
            "{:?}",
            try_as("nobody")
        );
        // With the folders opened to all, the kernel still says who it is.
        use std::os::unix::fs::PermissionsExt;
        for folder in [
            app.state(),
            app.state().join("run"),
            app.state().join("run/control"),
            socket.clone(),
        ] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let stranger = try_as("nobody");
        assert!(!stranger.out.contains("{"), "{mode:?}: {stranger:?}");
        // The owner does not go on where others could be in the place of his supervisor.
        assert!(app.run(&["ps"]).err.contains("others may write to it"));
        for folder in [app.state(), app.state().join("run"), app.state().join("run/control")] {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o700)).unwrap();
        }
        // The test's root is the app's owner only in root mode, so rubbish is sent by a process of the owner's.
        let script = format!(
            r#"
import array, os
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.connect('{}')
    return s
for rubbish in (b'\n', b'\0' * 100 + b'\n', b'[' * 200000 + b'\n', b'{{"do":"no-such"}}\n', b'{{"do":"ps","x":1}}\n', b'\xff\xfe\n',
                b'{{"do":"exec","service":"web","args":["true"],"terminal":false}}\n',
                b'{{"do":"exec","service":"' + b'a' * 200000 + b'","args":[],"terminal":false}}\n'):
    s = connect()
    tried(s.sendall, rubbish)
    s.close()
    s = connect()
    tried(s.sendall, rubbish)
    tried(s.shutdown, socket.SHUT_WR)
    tried(s.recv, 1000)
half = [connect() for _ in range(40)]
for s in half:
    s.sendall(b'{{"do":"p')
big = connect()
tried(big.sendall, b'x' * (1 << 20))
fds = array.array('i', [0] * 200)
many = connect()
for _ in range(50):
    if tried(many.sendmsg, [b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]) == 'EPIPE':
        break
three = connect()
tried(three.sendmsg, [b'{{"do":"exec","service":"web","args":[],"terminal":true}}\n'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds[:3])])
print('sent', flush=True)
sys.stdin.read()
"#,
            socket.display()
        );
        let mut sender = app.shell_free(PYTHON, &["-c", &format!("{PRELUDE}{script}")]);
        let mut sender = sender.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 5];
        sender.stdout.take().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"sent\n");
        // While all of these are still connected.
        assert_eq!(app.ps()["services"].as_array().unwrap().len(), 2);
        assert_eq!(app.sh("web", "echo fine").ok().out, "fine\n");
        let open = || {
            std::fs::read_dir(format!("/proc/{}/fd", app.supervisor()))
                .unwrap()
                .count()
        };
        let during = open();
        drop(sender.stdin.take());
        sender.wait().unwrap();
        // And what came with them is closed again.
        wait_until(|| (open() <= during - 40).then_some(()));
        assert_eq!(app.ps()["services"].as_array().unwrap().len(), 2);
    }
}

/// Each call that gives a file a mode, with set-id bits, in the folder FOLDER: what came of it, and what has such a bit now.
const SET_ID: &str = include_str!("escapes/set_id.py");

#[test]
fn no_file_of_a_services_gets_a_set_id_bit() {
    let outside = harness::fresh_folder();
    let (uid, gid) = harness::user();
    std::os::unix::fs::chown(&outside, Some(uid), Some(gid)).unwrap();
    let script = |folder: &Path| format!("FOLDER = '{}'\n{SET_ID}", folder.display());
    // The control: an ordinary user of the host does all of it with his own files.
    let mut command = Command::new("setpriv");
    command.args([
        "--reuid",
        harness::USER,
        "--regid",
        harness::USER,
        "--clear-groups",
        PYTHON,
        "-c",
    ]);
    let control = Ended::from(
        command
            .arg(format!("{PRELUDE}os.umask(0)\n{}", script(&outside)))
            .output()
            .unwrap(),
    )
    .ok();
    assert!(
        control.out.starts_with(
            "allowed ['O_TMPFILE', 'chmod', 'chmod with more bits', 'creat', 'fchmod', 'fchmodat', 'fchmodat2', 'mkdir', \
             'mkdirat', 'mknod', 'mknodat', 'open', 'openat', 'openat2'] []\nset ['creat', 'fchmod', 'fchmodat', \
             'fchmodattwo', 'file', 'mknod', 'mknodat', 'more', 'open', 'openat', 'openattwo', 'tmpfile']\n"
        ) && control.out.ends_with("32 bits 0 6000\n"),
        "{control:?}"
    );
    for mode in BOTH {
        let manifest = r#"
[app]
name = "setid"
[resources]
data = { path = "/data/", owner = "rw" }
[services.web]
command = ["sh", "-c", "echo ready; exec sleep infinity"]
owner_resources = ["data"]
"#;
        let app = App::new(mode, manifest);
        app.ok(&["up", "-d"]);
        let expected = "allowed [] []\nset []\n32 bits 31 0\n";
        assert_eq!(
            python(&app, "web", &script(Path::new("/data"))).ok().out,
            expected,
            "{mode:?} exec"
        );
        let run = format!("{PRELUDE}os.mkdir('/data/run')\n{}", script(Path::new("/data/run")));
        let ran = app.ok(&["run", "-T", "web", "--", PYTHON, "-c", &run]);
        assert_eq!(ran.out, expected, "{mode:?} run");
        // `cp` works, and sends no such bit.
        let tool = app.write("tool", "#!/bin/sh\n");
        std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o6755)).unwrap();
        app.ok(&["cp", "tool", "web:/data/copied"]);
        let copied = app
            .sh(
                "web",
                "stat -c %a /data/copied; chmod u+s /data/copied || stat -c %a /data/copied",
            )
            .ok();
        assert_eq!(copied.out, "700\n700\n", "{copied:?}");
    }
}

/// What a service leaves in a folder of root's is root's, and anybody may run it.
#[test]
fn a_service_makes_no_program_of_roots() {
    let manifest = |source: &str, more: &str| {
        format!(
            "[app]\nname = \"roots\"\n[resources]\ndata = {{ path = \"/data\", source = \"{source}\", owner = \"rw\"{more} }}\n\
             [services.web]\ncommand = [\"sleep\", \"1000\"]\nowner_resources = [\"data\"]\n"
        )
    };
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let app = App::new(Mode::Root, &manifest("./data", ""));
    app.write("data/file", "");
    let data = app.folder.join("data");
    chown(&data, Some(0), Some(0)).unwrap();
    for command in [&["check"][..], &["up", "-d"], &["run", "-T", "web"]] {
        let refused = app.run(command);
        assert_ne!(refused.code, 0, "{refused:?}");
        for part in ["is root's", "write_as_root = true", "chown = true", "data = {"] {
            assert!(refused.err.contains(part), "{part}: {refused:?}");
        }
    }
    // Where root runs what it finds, its owner does not matter.
    for (source, folder) in [("/etc/cron.d", "/etc"), ("/usr/local", "/usr"), ("/var", "/var/")] {
        for more in ["", ", chown = true"] {
            app.write("pysecure.toml", manifest(source, more));
            let refused = app.run(&["check"]);
            assert!(
                refused.code != 0 && refused.err.contains(folder) && refused.err.contains("write_as_root"),
                "{source}{more}: {refused:?}"
            );
        }
    }
    // It is another user's: then nothing has to be allowed.
    app.write("pysecure.toml", manifest("./data", ""));
    let (uid, gid) = harness::user();
    chown(&data, Some(uid), Some(gid)).unwrap();
    app.ok(&["check"]);
    chown(&data, Some(0), Some(0)).unwrap();
    app.write("pysecure.toml", manifest("./data", ", write_as_root = true"));
    app.ok(&["check"]);
    app.ok(&["up", "-d"]);
    let script = "cp /usr/bin/id /data/id && chmod 755 /data/id && chmod 6755 /data/id";
    assert_ne!(app.sh("web", script).code, 0);
    let id = data.join("id");
    let found = std::fs::metadata(&id).unwrap();
    assert_eq!(
        (found.uid(), found.mode() & 0o7777),
        (0, 0o755),
        "it is root's, as was allowed"
    );
    let run = app_user_runs(&id).ok();
    assert!(!run.out.contains("euid=0"), "{run:?}");
    // The control: with the bit it would be the way to root.
    std::fs::set_permissions(&id, PermissionsExt::from_mode(0o6755)).unwrap();
    let run = app_user_runs(&id).ok();
    assert!(run.out.contains("euid=0"), "{run:?}");
}

/// A watcher looks at all that /proc shows of others while programs, probes and copies come in beside it.
#[test]
fn nothing_of_the_host_shows_while_a_process_comes_in() {
    need_python();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = format!(":{:04X} ", listener.local_addr().unwrap().port());
    for mode in BOTH {
        let manifest = format!(
            r#"
[app]
name = "joining"
[services.web]
command = ["{PYTHON}", "-u", "/code/watch.py"]
health = {{ command = ["true"], interval = "100ms" }}
[resources]
code = {{ path = "/code", source = "./code", global = "r" }}
"#
        );
        let app = App::new(mode, &manifest);
        let folder = app.folder.display();
        app.write(
            "code/watch.py",
            format!(
                r#"{PRELUDE}
def get(pid, name):
    try:
        return open('/proc/%s/%s' % (pid, name), 'rb').read().decode(errors='replace')
    except OSError:
        return ''
def places(text):
    return set(line.split(' ')[4] for line in text.splitlines())
mine = places(get('self', 'mountinfo'))
cgroup = get('self', 'cgroup')
groups = set(status('Groups').split())
told = set()
def caught(kind, what):
    if kind not in told:
        told.add(kind)
        print('CAUGHT', kind, repr(what)[:300], flush=True)
def look(pid):
    "What is the host's, whoever shows it; and what only a process shows that is not its program yet."
    mounts = get(pid, 'mountinfo')
    if places(mounts) - mine:
        caught('mountinfo', places(mounts) - mine)
    for name in ('net/tcp', 'net/unix', 'net/dev', 'cmdline', 'environ', 'status', 'maps', 'cgroup', 'limits'):
        text = get(pid, name)
        if '{folder}' in text or '{port}' in text:
            caught(name, text)
        if name == 'cgroup' and text not in ('', cgroup):
            caught(name, text)
    early = get(pid, 'comm')
    if early.strip() != 'pysecure':
        return False
    stat = get(pid, 'stat').rpartition(')')[2].split()
    shown = [name for name in ('environ', 'maps', 'auxv', 'numa_maps', 'io', 'stack', 'syscall') if get(pid, name)]
    links = [name for name in ('exe', 'cwd', 'root', 'fd/0', 'ns/mnt') if tried(os.readlink, '/proc/%s/%s' % (pid, name))[:1] != 'E']
    of = [l.split(':')[1].split() for l in get(pid, 'status').splitlines() if l.startswith('Groups:')]
    line = get(pid, 'cmdline').strip('\0')
    # Only if it still was none when all had been read.
    if get(pid, 'comm') != early:
        return False
    if shown or links:
        caught('its own', (shown, links))
    if line:
        caught('line', line)
    if stat and stat[4] != '0':
        caught('terminal', stat)
    if of and not set(of[0]) <= groups:
        caught('groups', of)
    return bool(stat)
print('watching', flush=True)
seen = 0
while True:
    for pid in os.listdir('/proc'):
        if pid.isdigit() and pid not in ('1', str(os.getpid())) and look(pid):
            seen += 1
            if seen % 20 == 0:
                print('seen', seen, flush=True)
"#
            ),
        );
        // Started by one who is in groups that are no service's: what comes in leaves them behind first.
        let binary = harness::binary().to_str().unwrap();
        let mut up = match mode {
            Mode::Root => app.shell_free("setpriv", &["--groups", "4,24,54321", binary, "up", "-d"]),
            Mode::Rootless => app.command(&["up", "-d"]),
        };
        Ended::from(up.output().unwrap()).ok();
        app.wait_for_log("web", "watching");
        app.write("file", "content");
        while !app.logs("web").contains("seen 100\n") {
            assert_eq!(app.sh("web", "exit 5").code, 5);
            app.ok(&["cp", "file", "web:/tmp/file"]);
        }
        let logs = app.logs("web");
        assert!(!logs.contains("CAUGHT"), "{mode:?}: {logs}");
        // The control: a process that enters the PID namespace first, and the rest never.
        let control = format!(
            r#"
import signal
fd = os.open('/proc/{}/ns/pid', os.O_RDONLY)
assert call(308, fd, 0x20000000) == 0
pid = os.fork()
if pid == 0:
    time.sleep(100000)
print('in', flush=True)
sys.stdin.read()
os.kill(pid, signal.SIGKILL)
os.waitpid(pid, 0)
"#,
            app.init_of("web")
        );
        let mut command = Command::new(PYTHON);
        command.arg("-c").arg(format!("{PRELUDE}# {folder}\n{control}"));
        let mut control = command.stdin(Stdio::piped()).spawn().unwrap();
        for kind in ["mountinfo", "net/tcp", "cmdline"] {
            app.wait_for_log("web", &format!("CAUGHT {kind} "));
        }
        drop(control.stdin.take());
        control.wait().unwrap();
    }
}

/// Whoever looks for a terminal of another process: by its name, by that one's descriptors, and by pidfd_getfd(2).
const SPY: &str = r#"
import subprocess
if sys.argv[1:] == ['prey']:
    master, slave = os.openpty()
    subprocess.Popen(['sleep', '100000'], stdin=slave)
    os.close(slave)
print('watching', flush=True)
looked = 0
while True:
    there = False
    paths = ['/dev/pts/' + name for name in os.listdir('/dev/pts') if name != 'ptmx']
    others = [pid for pid in os.listdir('/proc') if pid.isdigit() and int(pid) not in (1, os.getpid())]
    descriptors = []
    for pid in others:
        got = tried(lambda: open('/proc/%s/cmdline' % pid).read())
        there = there or 'OPERATOR' in got
        paths += ['/proc/%s/fd/%d' % (pid, n) for n in range(3)] + ['/proc/%s/root/dev/pts/0' % pid]
        pidfd = call(434, int(pid), 0)
        if isinstance(pidfd, int):
            descriptors += [(call(438, pidfd, n, 0), 'pidfd_getfd') for n in range(3)]
            os.close(pidfd)
    descriptors += [(tried(os.open, path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK), path.split('/')[1] + path.split('/')[-2]) for path in paths]
    for fd, path in descriptors:
        if isinstance(fd, int):
            if os.isatty(fd):
                tried(os.write, fd, b'[sudo] password: ')
                print('REACHED', path, flush=True)
            os.close(fd)
    if there:
        looked += 1
        if looked % 50 == 0:
            print('looked', looked, flush=True)
"#;

#[test]
fn a_service_does_not_reach_the_terminal_of_a_program_beside_it() {
    need_python();
    for mode in BOTH {
        let manifest = format!(
            r#"
[app]
name = "terminals"
code = {{ "/code" = "./code" }}
[services.spy]
command = ["{PYTHON}", "-u", "/code/spy.py"]
[services.control]
command = ["{PYTHON}", "-u", "/code/spy.py", "prey"]
"#
        );
        let app = App::new(mode, &manifest);
        app.write("code/spy.py", format!("{PRELUDE}{SPY}"));
        // The control ends when the terminal is full.
        assert!(app.run(&["up", "-d"]).code < 2);
        // The control: of a process of its own, in each way.
        for way in ["devpts", "procfd", "pidfd_getfd"] {
            app.wait_for_log("control", &format!("REACHED {way}\n"));
        }
        app.wait_for_log("spy", "watching");
        let script = ": OPERATOR; tty; echo be''gin; read line; echo \"got:$line\"; read line";
        let mut terminal = app.on_terminal(&["exec", "spy", "--", "sh", "-c", script], 24, 80);
        let mut shown = terminal.until("begin\r\n");
        assert!(shown.contains("/dev/pts/0"), "{mode:?}: {shown}");
        app.wait_for_log("spy", "looked 100\n");
        terminal.type_in("secret\n");
        shown += &terminal.until("got:secret\r\n");
        app.wait_for_log("spy", "looked 200\n");
        terminal.type_in("\n");
        let (code, rest) = terminal.ended();
        assert_eq!(code, 0, "{shown}{rest}");
        assert!(!(shown.clone() + &rest).contains("[sudo]"), "{mode:?}: {shown}{rest}");
        let logs = app.logs("spy");
        assert!(!logs.contains("REACHED"), "{mode:?}: {logs}");
    }
}

#[test]
fn no_service_takes_the_terminals_of_others() {
    let take = r#"
taken = []
while len(taken) < 200:
    got = tried(os.open, '/dev/ptmx', os.O_RDWR | os.O_NOCTTY)
    if not isinstance(got, int):
        break
    taken.append(got)
print(len(taken), got if isinstance(got, str) else '')
"#;
    assert_eq!(python_outside(take).out, "200 \n");
    for mode in BOTH {
        let app = two(mode, "ptys", "");
        assert_eq!(python(&app, "web", take).ok().out, "64 ENOSPC\n", "{mode:?}");
        // And it has them again, and so does a program on a terminal.
        assert_eq!(python(&app, "web", take).ok().out, "64 ENOSPC\n", "{mode:?}");
        let mut terminal = app.on_terminal(&["exec", "web", "--", "tty"], 24, 80);
        let (code, shown) = terminal.ended();
        assert!(code == 0 && shown.contains("/dev/pts/0"), "{shown}");
    }
}

#[test]
fn a_service_does_not_touch_limits_and_priority_of_a_program_beside_it() {
    need_python();
    // Each way to change another process of the same user.
    let attack = r#"
import re
def target():
    for pid in os.listdir('/proc'):
        if pid.isdigit() and tried(lambda: open('/proc/%s/cmdline' % pid).read()) == 'sleep\08100VICTIM\0':
            return int(pid)
pid = target()
pair = struct.pack('<QQ', 10, 10)
one = struct.pack('<Q', 1)
attr = struct.pack('<IIQiIQQQ', 48, 5, 0, 0, 0, 0, 0, 0)
zero = struct.pack('<i', 0)
print([
    call(302, pid, 7, ctypes.c_char_p(pair), None),             # prlimit64
    call(203, pid, 8, ctypes.c_char_p(one)),                    # sched_setaffinity
    call(144, pid, 5, ctypes.c_char_p(zero)),                   # sched_setscheduler
    call(142, pid, ctypes.c_char_p(zero)),                      # sched_setparam
    call(314, pid, ctypes.c_char_p(attr), 0),                   # sched_setattr
    call(141, 0, pid, 7),                                       # setpriority of a process
    call(141, 1, os.getpgid(pid), 7),                           # of a group
    call(141, 2, OWN and os.getuid(), 7),                       # of a user
    call(251, 1, pid, 3 << 13),                                 # ioprio_set
    call(251, 2, os.getpgid(pid), 3 << 13),
    call(251, 3, OWN and os.getuid(), 3 << 13),
])
# Its own it may change, and look at others'.
os.nice(1)
os.sched_setaffinity(0, os.sched_getaffinity(pid))
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
print(resource.prlimit(pid, resource.RLIMIT_NOFILE)[1] > 0, os.getpriority(os.PRIO_PROCESS, pid) >= 0)
"#;
    let state = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let nice = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .nth(16)
            .unwrap()
            .to_owned();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let cpus = status
            .lines()
            .find(|l| l.starts_with("Cpus_allowed:"))
            .unwrap()
            .to_owned();
        (
            nice,
            cpus,
            std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap(),
        )
    };
    let script = |own: bool, victim: u32| {
        format!("OWN = {}\n{attack}", if own { "1" } else { "0" }).replace("VICTIM", &victim.to_string())
    };
    // The control: what a user's processes may do to each other on the host.
    let as_user = ["--reuid", "64321", "--regid", "64321", "--clear-groups"];
    let mut prey = Command::new("setpriv");
    prey.args(as_user).args(["sleep", "81009"]);
    let mut prey = std::os::unix::process::CommandExt::process_group(&mut prey, 0)
        .spawn()
        .unwrap();
    wait_until(|| {
        let line = std::fs::read_to_string(format!("/proc/{}/cmdline", prey.id())).ok()?;
        (line == "sleep\081009\0").then_some(())
    });
    let before = state(prey.id() as i32);
    let mut control = Command::new("setpriv");
    control
        .args(as_user)
        .args([PYTHON, "-c"])
        .arg(format!("{PRELUDE}{}", script(true, 9)));
    let control = Ended::from(control.output().unwrap());
    let after = state(prey.id() as i32);
    prey.kill().unwrap();
    prey.wait().unwrap();
    assert!(
        control.out.starts_with(&format!("[{}]\n", ["0"; 11].join(", "))),
        "{control:?}"
    );
    assert!(before.0 != after.0 && before.2 != after.2, "{control:?}");
    for mode in BOTH {
        let manifest = format!(
            r#"
[app]
name = "priority"
[services.web]
command = ["{PYTHON}", "-uc", "import os, resource, time; me = os.getpid(); os.sched_setaffinity(me, os.sched_getaffinity(0)); os.setpriority(os.PRIO_PROCESS, me, 1); resource.prlimit(me, resource.RLIMIT_NOFILE, (100, 200)); print('ready', me); time.sleep(100000)"]
"#
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        // Its main program, which is always the second process, may name itself.
        app.wait_for_log("web", "ready 2\n");
        let mut beside = app
            .command(&["exec", "-T", "web", "--", "sleep", "81008"])
            .spawn()
            .unwrap();
        let pid = wait_until(|| {
            std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                (line == b"sleep\081008\0").then(|| entry.file_name().to_str().unwrap().parse::<i32>().unwrap())
            })
        });
        let before = state(pid);
        let seen = python(&app, "web", &script(false, 8)).ok().out;
        let refused = format!("[{}]\nTrue True\n", ["'EPERM'"; 11].join(", "));
        assert_eq!(seen, refused, "{mode:?}");
        assert_eq!(before, state(pid), "{mode:?}");
        beside.kill().unwrap();
        beside.wait().unwrap();
    }
}

/// Services of each kind: one with rights of its own and its bundle's, one that calls it, one that is root inside, one that
/// waits to be started.
fn kinds(mode: Mode, name: &str, port: u16) -> App {
    let manifest = format!(
        r#"
[app]
name = "{name}"
code = {{ "/code" = "./code" }}
[resources]
own = {{ path = "/data/own/", owner = "rw" }}
fixed = {{ path = "/data/fixed/", owner = "r" }}
tools = {{ path = "/data/tools/", owner = "rwx" }}
shared = {{ path = "/data/shared/", bundle = "rw" }}
[bundles.team]
resources = ["shared"]
[services.web]
command = ["sh", "-c", "echo ready; exec sleep 82001"]
owner_resources = ["own", "fixed", "tools"]
bundle = "team"
callers = {{ asker = "*" }}
[services.asker]
command = ["sh", "-c", "echo ready; exec sleep 82002"]
[services.rooted]
command = ["sh", "-c", "echo ready; exec sleep 82003"]
runs_with_root = true
[services.lazy]
command = ["sleep", "82004"]
listen = ["127.0.0.1:{port}"]
start = "on-demand"
"#
    );
    let app = App::new(mode, &manifest);
    app.write("code/file", "");
    // Started by one who is in groups that are no service's.
    let binary = harness::binary().to_str().unwrap();
    let mut up = match mode {
        Mode::Root => app.shell_free("setpriv", &["--groups", "4,24,54321", binary, "up", "-d"]),
        Mode::Rootless => app.command(&["up", "-d"]),
    };
    Ended::from(up.output().unwrap()).ok();
    for service in ["web", "asker", "rooted"] {
        app.wait_for_log(service, "ready");
    }
    app
}

/// A line of proc_pid_status(5), words parted by one space.
fn status(pid: i32, field: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text
        .lines()
        .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
        .unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What is told by the kernel of a program that runs for a service: who it is, and that it has no right.
fn confined(mode: Mode, pid: i32, who: &str, groups: usize) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(pid, set), "0000000000000000", "{who}: {set}");
    }
    assert_eq!(status(pid, "NoNewPrivs"), "1", "{who}");
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string(), "{who}: it leads its session");
    assert_eq!(status(pid, "Seccomp"), "2", "{who}");
    // Where rights go by ACL, who shares makes files for its bundle, too.
    let umask = if groups > 0 && mode == Mode::Rootless {
        "0007"
    } else {
        "0077"
    };
    assert_eq!(status(pid, "Umask"), umask, "{who}");
    assert_eq!(
        status(pid, "Groups").split_whitespace().count(),
        groups,
        "{who}: {}",
        status(pid, "Groups")
    );
    for ids in ["Uid", "Gid"] {
        let all = status(pid, ids);
        let words: std::collections::BTreeSet<&str> = all.split(' ').collect();
        assert!(words.len() == 1 && !words.contains("0"), "{who}: {ids} {all}");
    }
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    for (name, soft, hard) in [
        ("Max core file size", "0", "0"),
        ("Max processes", "4096", "4096"),
        ("Max open files", "1024", "16384"),
    ] {
        let line = limits.lines().find_map(|l| l.strip_prefix(name)).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..2], [soft, hard], "{who}: {name}");
    }
}

fn namespaces(pid: i32) -> Vec<std::path::PathBuf> {
    ["user", "mnt", "pid", "ipc", "uts", "cgroup", "net"]
        .map(|kind| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap())
        .into()
}

#[test]
fn the_kernel_says_what_holds_each_process_of_a_service() {
    for (mode, port) in [(Mode::Root, 18_471), (Mode::Rootless, 18_472)] {
        let app = kinds(mode, "confined", port);
        let mut seen: std::collections::BTreeSet<_> = namespaces(std::process::id() as i32).into_iter().collect();
        let (me, supervisor) = (seen.len(), app.supervisor());
        assert_eq!(me, 7);
        let mut keepers = std::collections::BTreeSet::new();
        for (service, seconds, groups) in [("web", "82001", 1), ("asker", "82002", 0), ("rooted", "82003", 0)] {
            let (main, init) = (host_pid(seconds, &app, service), app.init_of(service));
            confined(mode, main, service, groups);
            // Each has each of its own.
            for pid in [main, init] {
                let own = namespaces(pid);
                assert_eq!(own, namespaces(main), "{mode:?} {service}");
            }
            let before = seen.len();
            seen.extend(namespaces(main));
            assert_eq!(
                seen.len(),
                before + 7,
                "{mode:?}: {service} shares a namespace: {:?}",
                namespaces(main)
            );
            // PID 1 is another than the service, may signal, and is in no group.
            for (set, value) in [
                ("CapInh", 0),
                ("CapPrm", 0x20),
                ("CapEff", 0x20),
                ("CapBnd", 0),
                ("CapAmb", 0),
            ] {
                assert_eq!(
                    status(init, set),
                    format!("{value:016x}"),
                    "{mode:?} PID 1 of {service}: {set}"
                );
            }
            assert_eq!(status(init, "Groups"), "", "{mode:?} {service}");
            for ids in ["Uid", "Gid"] {
                let (its, mains) = (status(init, ids), status(main, ids));
                let words: std::collections::BTreeSet<&str> = its.split(' ').collect();
                assert!(
                    words.len() == 1 && its != mains && !words.contains("0"),
                    "{mode:?} {service} {its} {mains}"
                );
            }
            keepers.insert(status(init, "Uid"));
            // What is not dumpable is its memory's maker's.
            use std::os::unix::fs::MetadataExt;
            let owner = |pid: i32| {
                std::fs::metadata(format!("/proc/{pid}/stat"))
                    .unwrap()
                    .uid()
                    .to_string()
            };
            assert!(
                !status(init, "Uid").split(' ').any(|id| id == owner(init)),
                "{mode:?}: PID 1 of {service} is dumpable"
            );
            assert!(
                status(main, "Uid").split(' ').any(|id| id == owner(main)),
                "the control: {service} is dumpable"
            );
        }
        assert_eq!(keepers.len(), 1, "{keepers:?}");
        // The control: whoever started it was in other groups.
        if mode == Mode::Root {
            assert!(status(supervisor, "Groups").contains("54321"));
        }
        // What `exec` and `run` start is held alike.
        for (way, seconds) in [("exec", "82005"), ("run", "82006")] {
            let mut child = app
                .command(&[way, "-T", "web", "--", "sleep", seconds])
                .spawn()
                .unwrap();
            let pid = wait_until(|| {
                std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
                    let line = std::fs::read(entry.path().join("cmdline")).ok()?;
                    (line == format!("sleep\0{seconds}\0").as_bytes())
                        .then(|| entry.file_name().to_str().unwrap().parse::<i32>().unwrap())
                })
            });
            confined(mode, pid, way, 1);
            assert_eq!(status(pid, "Uid"), status(host_pid("82001", &app, "web"), "Uid"));
            if way == "exec" {
                assert_eq!(namespaces(pid), namespaces(app.init_of("web")));
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // The socket of a caller is its own, and no other's to connect to.
        use std::os::unix::fs::MetadataExt;
        let socket = app.state().join("run/confined/rpc/asker/web.sock");
        let found = std::fs::symlink_metadata(&socket).unwrap();
        assert_eq!(found.mode() & 0o7777, 0o600, "{mode:?}");
        assert!(status(host_pid("82002", &app, "asker"), "Uid").starts_with(&found.uid().to_string()));
        let folder = std::fs::symlink_metadata(socket.parent().unwrap()).unwrap();
        assert_eq!(folder.mode() & 0o7777, 0o711, "{mode:?}");
        // Who waits for the first connection holds nothing that other services live by.
        let open = |pid: i32| std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let running: Vec<i32> = ["web", "asker", "rooted"].map(|s| app.init_of(s)).into();
        let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
        let own = |pid: i32| std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
        let held: Vec<i32> = children
            .split_whitespace()
            .map(|pid| pid.parse().unwrap())
            .filter(|pid| !running.contains(pid) && own(*pid) != own(supervisor))
            .collect();
        let [held] = held[..] else {
            panic!("{mode:?}: {children}: {held:?}")
        };
        // The supervisor's three, the program's three, its socket, and the way to the launcher.
        let line = std::fs::read(format!("/proc/{held}/cmdline")).unwrap();
        assert!(line.iter().all(|b| *b == 0), "{mode:?}: {line:?}");
        assert_eq!(open(held), 8, "{mode:?}");
        assert!(open(supervisor) > 16, "{mode:?}");
    }
}

/// Lines of proc_pid_mountinfo(5): mount point, flags, type.
fn mounts_of(pid: i32) -> Vec<(String, std::collections::BTreeSet<String>, String)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let line = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let kind = words.iter().position(|w| *w == "-").unwrap() + 1;
        (
            words[4].to_owned(),
            words[5].split(',').map(str::to_owned).collect(),
            words[kind].to_owned(),
        )
    };
    text.lines().map(line).collect()
}

#[test]
fn every_mount_has_the_flags_that_it_should() {
    const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];
    const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    const MASKED: [&str; 12] = [
        "/proc/acpi",
        "/proc/asound",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/sys/devices/virtual/powercap",
        "/sys/firmware",
    ];
    // Those that this host's /proc has not, too.
    let spec: serde_json::Value = serde_json::from_str(include_str!("../specs/config.json")).unwrap();
    assert_eq!(spec["linux"]["readonlyPaths"], serde_json::json!(READ_ONLY));
    assert_eq!(spec["linux"]["maskedPaths"], serde_json::json!(MASKED));
    for (mode, port) in [(Mode::Root, 18_473), (Mode::Rootless, 18_474)] {
        let app = kinds(mode, "flags", port);
        for (service, seconds) in [("web", "82001"), ("rooted", "82003")] {
            let main = host_pid(seconds, &app, service);
            let mounts = mounts_of(main);
            let shown = format!("{mode:?} {service}: {mounts:#?}");
            let own = ["/data/own", "/data/shared", "/data/tools"];
            let masked = |point: &str| point.starts_with("/proc/") && !point.starts_with("/proc/sys");
            for (point, flags, _) in &mounts {
                let device = point.strip_prefix("/dev/").is_some_and(|name| DEVICES.contains(&name));
                let has = |flag: &str| flags.contains(flag);
                assert!(has("nosuid"), "{point}: {shown}");
                let places = ["/proc", "/dev", "/dev/pts", "/dev/shm", "/tmp"];
                // A file that is masked is covered by /dev/null.
                let null = masked(point) && has("rw");
                let written = places.contains(&point.as_str()) || own.contains(&point.as_str()) || device || null;
                assert_eq!(has("rw"), written, "{point}: {shown}");
                assert_eq!(has("ro"), !written, "{point}: {shown}");
                assert_eq!(
                    has("nodev"),
                    !(["/dev", "/dev/pts"].contains(&point.as_str()) || device || null),
                    "{point}: {shown}"
                );
                let data = point.starts_with("/data/") && point != "/data/tools";
                let noexec = data
                    || point.starts_with("/dev")
                    || point.starts_with("/proc")
                    || point == "/tmp"
                    || point.starts_with("/run/");
                if noexec || point == "/data/tools" || point == "/usr" {
                    assert_eq!(has("noexec"), noexec, "{point}: {shown}");
                }
            }
            let at = |point: &str| mounts.iter().any(|m| m.0 == point);
            let mut wanted = vec!["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/tmp", "/usr", "/code"];
            if service == "web" {
                wanted.extend(["/data/own", "/data/fixed", "/data/tools", "/data/shared"]);
            }
            for point in wanted {
                assert!(at(point), "{point}: {shown}");
            }
            // What this host's /proc has.
            let there = |path: &&&str| path.starts_with("/proc/") && Path::new(path).exists();
            for path in READ_ONLY.iter().filter(there) {
                assert!(
                    mounts.iter().any(|m| m.0 == *path && m.1.contains("ro")),
                    "{path}: {shown}"
                );
            }
            let (mut files, mut folders) = (0, 0);
            for path in MASKED.iter().filter(there) {
                let inside = Path::new("/proc").join(main.to_string()).join("root").join(&path[1..]);
                let found = std::fs::metadata(&inside).unwrap();
                use std::os::unix::fs::MetadataExt;
                if found.is_dir() {
                    folders += 1;
                    assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0, "{path}: {shown}");
                    assert!(
                        mounts
                            .iter()
                            .any(|m| m.0 == *path && m.1.contains("ro") && m.1.contains("noexec"))
                    );
                } else {
                    files += 1;
                    assert_eq!(found.rdev(), rustix::fs::makedev(1, 3), "{path}: {shown}");
                }
            }
            assert!(files >= 2 && folders >= 1, "{files} {folders}");
        }
    }
}

/// PID 1 has two ways to learn that its supervisor is gone: the end of a socket, and a signal. Here only the second.
#[test]
fn a_service_ends_with_its_supervisor_by_the_signal_alone() {
    need_python();
    for mode in BOTH {
        let rooted = "[services.rooted]\ncommand = [\"sleep\", \"1000\"]\nruns_with_root = true";
        let app = two(mode, "orphan", rooted);
        let supervisor = app.supervisor();
        let inits = ["web", "rooted"].map(|service| app.init_of(service));
        let main = host_pid("80002", &app, "web");
        // Whoever holds the supervisor's descriptors keeps the socket open.
        let script = format!(
            r#"
pidfd = call(434, {supervisor}, 0)
held = [call(438, pidfd, int(n), 0) for n in os.listdir('/proc/{supervisor}/fd')]
assert all(isinstance(fd, int) for fd in held), held
print('held', flush=True)
sys.stdin.read()
"#
        );
        let mut holder = Command::new(PYTHON);
        holder.arg("-c").arg(format!("{PRELUDE}{script}"));
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = [0; 5];
        holder.stdout.take().unwrap().read_exact(&mut said).unwrap();
        assert_eq!(&said, b"held\n");
        let state = |pid: i32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let line = |name: &str| Some(text.lines().find(|l| l.starts_with(name))?.to_owned());
            // A process that is ending has no memory any more.
            line("VmRSS").and(line("PPid:"))
        };
        let before = inits.map(|init| state(init).unwrap());
        harness::signal(supervisor as u32, nix::sys::signal::Signal::SIGKILL);
        let survives = |init: i32, before: &String| {
            let left = wait_until(|| match state(init) {
                None => Some(false),
                // Another one's child now, and told so: if it lives on, no signal came.
                Some(parent) => (parent != *before && state(supervisor).is_none()).then_some(true),
            });
            left && wait_until(|| {
                let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).ok();
                let idle = stat.is_some_and(|s| s.contains(") S "));
                (idle || state(init).is_none()).then(|| state(init).is_some())
            })
        };
        let survives = std::iter::zip(inits, &before).any(|(init, before)| survives(init, before));
        drop(holder.stdin.take());
        holder.wait().unwrap();
        assert!(!survives, "{mode:?}: PID 1 outlives its supervisor");
        wait_until(|| state(main).is_none().then_some(()));
    }
}

/// Calls that a filter which looks at numbers alone, or at too few of them, would let through.
#[test]
fn no_call_gets_round_the_filter() {
    // Each is made so that it would succeed, or fail for another reason than a refusal.
    let attacks = include_str!("escapes/calls.py");
    let refused: std::collections::BTreeSet<&str> = ["EPERM"].into();
    let read = |ended: &Ended| -> std::collections::BTreeMap<String, String> {
        let text = ended.out.lines().next().unwrap_or_else(|| panic!("{ended:?}"));
        let inside = text.trim_matches(['{', '}']);
        let pair = |p: &str| {
            let (key, value) = p.split_once(": ").unwrap();
            (key.trim_matches('\'').to_owned(), value.trim_matches('\'').to_owned())
        };
        inside.split(", ").map(pair).collect()
    };
    let outside = read(&python_outside(attacks));
    // The control: the host's root is refused none, but what its kernel was built or set up without.
    let lacking: Vec<_> = outside.iter().filter(|(_, got)| got.parse::<u64>().is_err()).collect();
    assert!(lacking.len() <= 6, "{lacking:?}");
    assert!(
        outside["process_vm_readv"] == "8" && outside["ptrace"] == "0",
        "{outside:?}"
    );
    for mode in BOTH {
        let app = two(mode, "calls", "");
        let inside = read(&python(&app, "web", attacks).ok());
        assert_eq!(inside.len(), outside.len());
        for (name, got) in &inside {
            assert!(refused.contains(got.as_str()), "{mode:?}: {name} {got}");
        }
    }
    // By the calls of 32 bits: a user namespace with every right.
    let narrow = include_str!("escapes/narrow.py");
    let control = python_outside(narrow).out;
    assert_eq!(control, format!("{}\n", 7 << 8), "the host's root makes one so");
    for mode in BOTH {
        let app = two(mode, "narrow", "");
        // SIGSYS, with or without a dump.
        let got: i32 = python(&app, "web", narrow).ok().out.trim().parse().unwrap();
        assert_eq!(got & 0x7f, 31, "{mode:?}: {got}");
    }
}

/// What goes on beside a service without a program of its own: it has given up what its service has not.
#[test]
fn a_copy_has_no_more_rights_than_its_service() {
    for (mode, port) in [(Mode::Root, 18_475), (Mode::Rootless, 18_476)] {
        let app = kinds(mode, "copying", port);
        for service in ["web", "rooted"] {
            app.sh(service, "truncate -s 2G /tmp/large").ok();
            let mut client = app.command(&["cp", &format!("{service}:/tmp/large"), "copied"]);
            let mut client = std::os::unix::process::CommandExt::process_group(&mut client, 0)
                .spawn()
                .unwrap();
            let group = nix::unistd::Pid::from_raw(client.id() as i32);
            let to_client = |signal| nix::sys::signal::killpg(group, signal).unwrap();
            let init = app.init_of(service);
            let inside = std::fs::read_link(format!("/proc/{init}/ns/pid")).unwrap();
            let main = host_pid(if service == "web" { "82001" } else { "82003" }, &app, service);
            let helper = wait_until(|| {
                let ended = client.try_wait().unwrap();
                assert!(ended.is_none(), "{mode:?}: the copy ended: {ended:?}");
                let of = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
                std::fs::read_dir("/proc")
                    .unwrap()
                    .flatten()
                    .filter_map(of)
                    .find(|pid| {
                        let theirs = std::fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
                        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
                        if theirs.as_ref() != Some(&inside) || [init, main].contains(pid) {
                            return false;
                        }
                        // The copy waits for it from now on.
                        to_client(nix::sys::signal::Signal::SIGSTOP);
                        // Its filter comes last.
                        text.contains("Seccomp:\t2")
                    })
            });
            confined(mode, helper, "a copy", if service == "web" { 1 } else { 0 });
            assert_eq!(status(helper, "Uid"), status(main, "Uid"), "{mode:?} {service}");
            assert_eq!(namespaces(helper), namespaces(main));
            use std::os::unix::fs::MetadataExt;
            let owner = std::fs::metadata(format!("/proc/{helper}/stat"))
                .unwrap()
                .uid()
                .to_string();
            assert!(
                !status(helper, "Uid").starts_with(&owner),
                "{mode:?} {service}: it is dumpable"
            );
            to_client(nix::sys::signal::Signal::SIGKILL);
            client.wait().unwrap();
        }
    }
}

/// Where mount and mode would let it, Landlock alone does not: /dev belongs to who is root inside, and is writable for it.
#[test]
fn what_no_rule_allows_landlock_refuses() {
    let abi = python_outside("print(call(444, 0, 0, 1))").out;
    assert!(
        abi.trim().parse::<u32>().is_ok_and(|abi| abi >= 1),
        "this kernel has no Landlock: {abi}"
    );
    for (mode, port) in [(Mode::Root, 18_477), (Mode::Rootless, 18_478)] {
        let app = kinds(mode, "ruled", port);
        let script = "print(os.stat('/dev').st_uid == os.getuid(), os.access('/dev', os.W_OK), tried(os.mkdir, '/dev/new'), \
                      tried(lambda: open('/dev/file', 'w').close()), tried(os.mkdir, '/tmp/new'))";
        let seen = python(&app, "rooted", script).ok().out;
        assert_eq!(seen, "True True EACCES EACCES None\n", "{mode:?}");
    }
}
