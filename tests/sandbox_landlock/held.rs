//! What holds a run, whichever way its code comes to run: each rule is tried by what it refuses, with a control.

use crate::harness::{App, BOTH, Ended as Outside, Mode, signal, wait_until};
use crate::pool::{PRELUDE, PYTHON, Pool, Pools, WAYS, Way, results, say, untouched, victim};
use crate::{lives, userdir};
use nix::sys::signal::Signal::SIGKILL;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, recv};
use serde_json::json;
use std::path::Path;

fn pools(mode: Mode) -> Pools {
    Pools::of(mode, json!({ "isolation": "landlock" }))
}

/// The same code as the same user, with nothing around it.
#[track_caller]
fn outside(app: &App, script: &str) -> Outside {
    let script = format!("{PRELUDE}{script}");
    Outside::from(app.shell_free(PYTHON, &["-c", &script]).output().unwrap()).ok()
}

#[test]
fn each_way_of_running_is_held_by_the_same_rules() {
    for mode in BOTH {
        let pools = pools(mode);
        let app = pools.warm.app();
        let file = |name: &str| app.write(name, "of the user").display().to_string();
        let (secret, shown) = (file("secret.txt"), file("shown.txt"));
        let script = format!(
            "def t(what, does, *args):\n\
             \x20   print(what, 'done' if not isinstance(got := tried(does, *args), str) else got)\n\
             def child(does, *args):\n\
             \x20   pid = os.fork()\n\
             \x20   if pid == 0:\n\
             \x20       os._exit(isinstance(tried(does, *args), str))\n\
             \x20   if os.waitpid(pid, 0)[1]: raise PermissionError(1, 'in a child')\n\
             t('read', open, {secret:?})\n\
             t('write', open, {secret:?}, 'a')\n\
             t('truncate', os.truncate, {secret:?}, 3)\n\
             t('link', os.link, {secret:?}, {secret:?} + '.new')\n\
             t('write what is shown', open, {shown:?}, 'a')\n\
             t('truncate what is shown', os.truncate, {shown:?}, 11)\n\
             t('certificates', os.listdir, '/etc/ssl')\n\
             t('processes', os.listdir, '/proc')\n\
             t('a session', child, os.setsid)\n\
             t('a group', child, os.setpgid, 0, 0)\n\
             t('tcp', socket.socket, socket.AF_INET)\n\
             t('unix', socket.socket, socket.AF_UNIX)\n\
             t('netlink', socket.socket, socket.AF_NETLINK, socket.SOCK_RAW)\n\
             t('datagrams', socket.socketpair, socket.AF_UNIX, socket.SOCK_DGRAM)\n\
             print('and', open({shown:?}).read(), len(socket.socketpair()))\n"
        );
        let control = outside(app, &script).out;
        assert_eq!(control.matches(" done\n").count(), 14, "{mode:?}: {control}");
        assert!(control.ends_with("and of the user 2\n"), "{mode:?}: {control}");
        std::fs::write(&secret, "of the user").unwrap();
        std::fs::remove_file(format!("{secret}.new")).unwrap();
        for way in WAYS {
            let ended = pools
                .begin(way, &script, json!({ "readable": [shown] }), &[])
                .ended()
                .ok();
            let refused = |line: &&str| line.ends_with(" EACCES") || line.ends_with(" EPERM");
            assert_eq!(
                ended.out.lines().filter(refused).count(),
                14,
                "{mode:?} {way:?}: {ended:#?}"
            );
            assert!(
                ended.out.ends_with("and of the user 2\n"),
                "{mode:?} {way:?}: {ended:#?}"
            );
        }
        assert_eq!(std::fs::read_to_string(&secret).unwrap(), "of the user");
    }
}

/// Copies that wait are there before it is known what their runs may use.
#[test]
fn a_copy_that_waited_is_held_by_the_rules_of_its_own_run() {
    for mode in BOTH {
        let pool = Pool::new(mode, json!({ "isolation": "landlock", "ready": 2 }));
        let folders = ["one", "two", "three"].map(|name| {
            let folder = pool.userdir(name);
            std::fs::write(folder.join("mine"), name).unwrap();
            folder
        });
        // Who had a run may be there for a moment longer.
        let mut before = Vec::new();
        for (folder, name) in folders.iter().zip(["one", "two", "three"]) {
            let waiting = wait_until(|| {
                let mut waiting = children(pool.warm());
                waiting.retain(|pid| !before.contains(pid));
                (waiting.len() == 2).then_some(waiting)
            });
            let others = folders.iter().filter(|other| *other != folder);
            let script = format!(
                "{PRELUDE}\
                 print(os.getpid(), open('mine').read())\n\
                 open('new', 'w').close()\n\
                 for other in {others:?}:\n\
                 \x20   print(tried(open, other + '/mine'), tried(open, other + '/new', 'w'), tried(os.listdir, other))\n",
                others = others.map(|other| other.display().to_string()).collect::<Vec<_>>()
            );
            let ended = pool.with(&script, json!({ "userdir": folder })).ok();
            let (first, rest) = ended.out.split_once('\n').unwrap();
            let (pid, content) = first.split_once(' ').unwrap();
            let pid = pid.parse().unwrap();
            assert!(waiting.contains(&pid), "{mode:?}: {waiting:?} {ended:#?}");
            before.push(pid);
            assert_eq!(content, name, "{mode:?}: {ended:#?}");
            assert_eq!(rest, "EACCES EACCES EACCES\n".repeat(2), "{mode:?}: {ended:#?}");
            assert!(folder.join("new").exists(), "{mode:?}");
        }
    }
}

fn children(pid: i32) -> Vec<i32> {
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    children.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// Of its own files, too: by which path a file is named is nothing that a filter could see.
#[test]
fn modes_owners_times_and_attributes_stay_as_they_are() {
    let script = "
open('own', 'w').close()
fd = os.open('own', os.O_RDWR)
empty = ctypes.create_string_buffer(64)
found = {
    'chmod': call(90, b'own', 0o600), 'fchmod': call(91, fd, 0o600), 'fchmodat': call(268, -100, b'own', 0o600),
    'fchmodat2': call(452, -100, b'own', 0o600, 0),
    'chown': call(92, b'own', -1, -1), 'fchown': call(93, fd, -1, -1), 'lchown': call(94, b'own', -1, -1),
    'fchownat': call(260, -100, b'own', -1, -1, 0),
    'utime': call(132, b'own', 0), 'utimes': call(235, b'own', 0), 'futimesat': call(261, -100, b'own', 0),
    'utimensat': call(280, -100, b'own', 0, 0),
    'setxattr': call(188, b'own', b'user.x', b'y', 1, 0), 'lsetxattr': call(189, b'own', b'user.x', b'y', 1, 0),
    'fsetxattr': call(190, fd, b'user.x', b'y', 1, 0), 'getxattr': call(191, b'own', b'user.x', empty, 64),
    'lgetxattr': call(192, b'own', b'user.x', empty, 64), 'listxattr': call(194, b'own', empty, 64),
    'llistxattr': call(195, b'own', empty, 64), 'removexattr': call(197, b'own', b'user.x'),
    'lremovexattr': call(198, b'own', b'user.y'), 'fremovexattr': call(199, fd, b'user.y'),
    'inotify_add_watch': call(254, call(294, 0), b'own', 2),
}
for name, got in found.items():
    print(name, got)
";
    for mode in BOTH {
        let pools = pools(mode);
        let control = outside(pools.warm.app(), script).out;
        let works = control
            .lines()
            .filter(|line| line.ends_with(|c: char| c.is_ascii_digit()))
            .count();
        // Of 23 these two remove what is not there.
        assert_eq!(works, 21, "{mode:?}: {control}");
        for way in WAYS {
            let ended = pools.begin(way, script, json!({}), &[]).ended().ok();
            let refused = ended.out.lines().filter(|line| line.ends_with(" EPERM")).count();
            assert_eq!(
                (refused, ended.out.lines().count()),
                (23, 23),
                "{mode:?} {way:?}: {ended:#?}"
            );
        }
    }
}

#[test]
fn no_namespace_is_made_and_no_call_beside_it_gets_further() {
    let script = "
space = ctypes.create_string_buffer(4096)
def made(number, *args):
    pid = call(number, *args)
    if pid == 0:
        os._exit(0)
    return 'made' if isinstance(pid, int) else pid
def in_child(number, *args):
    pid = os.fork()
    if pid == 0:
        got = call(number, *args)
        os._exit(0 if isinstance(got, int) else getattr(errno, got))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return errno.errorcode[code] if code else 0
def clone3(flags):
    return made(435, struct.pack('<11Q', flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
kinds = {'user': 0x10000000, 'mnt': 0x20000, 'pid': 0x20000000, 'net': 0x40000000, 'ipc': 0x8000000, 'uts': 0x4000000, 'cgroup': 0x2000000}
found = {'clone3': clone3(0)}
for kind, flag in kinds.items():
    found['clone ' + kind] = made(56, flag | 17, 0, 0, 0, 0)
    found['clone3 ' + kind] = clone3(flag)
    found['unshare ' + kind] = in_child(272, flag)
found |= {
    'setns': call(308, os.open('/dev/null', os.O_RDONLY), 0), 'shmget': call(29, 0, 4096, 0o1600), 'semget': call(64, 0, 1, 0o1600), 'msgget': call(68, 0, 0o1600),
    'mq_open': call(240, b'pysecure-held', 0o102, 0o600, 0), 'keyctl': call(250, 0, -3, 0), 'io_uring_setup': call(425, 8, space),
    'setuid': call(105, os.getuid()), 'setgid': call(106, os.getgid()), 'setgroups': call(116, 0, 0), 'ptrace': call(101, 16, 99999999, 0, 0),
    'userfaultfd': call(323, 1), 'open_tree': call(428, -100, b'/', 1), 'chroot': call(161, b'/'), 'newer': call(511, 0),
}
call(71, found['msgget'], 0, 0), call(66, found['semget'], 0, 0), call(31, found['shmget'], 0, 0), call(241, b'pysecure-held')
for name, got in found.items():
    print(name, got)
";
    for mode in BOTH {
        let pools = pools(mode);
        let control = outside(pools.warm.app(), script).out;
        for works in [
            "clone3 made",
            "clone user made",
            "clone3 user made",
            "unshare user 0",
            "setuid 0",
            "setgid 0",
        ] {
            assert!(control.contains(works), "{mode:?} {works}: {control}");
        }
        for way in WAYS {
            let ended = pools.begin(way, script, json!({}), &[]).ended().ok();
            for line in ended.out.lines() {
                let (name, got) = line.rsplit_once(' ').unwrap();
                let unknown = name.starts_with("clone3") || name == "newer";
                let fine = if unknown {
                    got == "ENOSYS"
                } else {
                    got == "EPERM" || got == "ENOSYS"
                };
                assert!(fine, "{mode:?} {way:?}: {line}");
            }
            assert_eq!(ended.out.lines().count(), 37, "{mode:?} {way:?}: {ended:#?}");
        }
    }
}

/// Rights and limits, as the kernel tells a process of its own; /proc it cannot read.
const RIGHTS: &str = "
import resource
sets = ctypes.create_string_buffer(24)
call(125, struct.pack('<Ii', 0x20080522, 0), sets)
print(sets.raw == bytes(24), call(157, 39, 0, 0, 0, 0), call(157, 21, 0, 0, 0, 0), [c for c in range(41) if call(157, 23, c, 0, 0, 0) == 1], oct(os.umask(0)))
print([resource.getrlimit(kind) for kind in (resource.RLIMIT_CORE, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE)])
print(call(157, 47, 2, 21, 0, 0), call(157, 24, 0, 0, 0, 0), call(157, 28, 0, 0, 0, 0), tried(os.setuid, 0), tried(os.setgid, 0))
";

/// Each way of running with rights that begin like this.
#[track_caller]
fn no_right(pools: &Pools, begins: &str) {
    let mode = pools.mode;
    let keys = json!({ "limits": { "file_size": 1 << 20 } });
    for way in WAYS {
        let ended = pools.begin(way, RIGHTS, keys.clone(), &[]).ended().ok();
        assert!(ended.out.starts_with(begins), "{mode:?} {way:?}: {ended:#?}");
        assert!(
            ended
                .out
                .contains(" 0o77\n[(0, 0), (256, 256), (1048576, 1048576)]\nEPERM EPERM EPERM EPERM EPERM\n"),
            "{mode:?} {way:?}: {ended:#?}"
        );
    }
}

#[test]
fn no_right_is_left_and_limits_are_the_kernels() {
    for mode in BOTH {
        let pools = pools(mode);
        let control = outside(pools.warm.app(), RIGHTS).out;
        assert!(
            control.contains("0o22\n") && !control.contains("[(0, 0)"),
            "{mode:?}: {control}"
        );
        assert_eq!(
            control.starts_with("False 0 0 [0, "),
            mode == Mode::Root,
            "{mode:?}: {control}"
        );
        // A user has no right to give up what he could never use.
        no_right(
            &pools,
            if mode == Mode::Root {
                "True 1 2 [] 0o77"
            } else {
                "True 1 2 [0, "
            },
        );
    }
}

/// As in a container whose root is without CAP_SETPCAP.
#[test]
fn a_root_that_can_give_up_nothing_for_good_has_no_right_either() {
    let mode = Mode::Root;
    let started = |warm: bool| {
        let profile = json!({ "isolation": "landlock", "warm": warm });
        let within = ["setpriv", "--bounding-set=-setpcap"];
        Pool::start_within(App::new(mode, ""), &profile, &within).unwrap_or_else(|(_, error)| panic!("{error}"))
    };
    let [warm, cold] = [true, false].map(started);
    no_right(&Pools { mode, warm, cold }, "True 1 2 [0, ");
}

/// It has the id of the user's other programs, and sends none of them a signal, however it goes about it.
#[test]
fn a_run_reaches_no_process_beside_it() {
    const STRANGERS: &str = include_str!("../escapes/strangers.py");
    for mode in BOTH {
        let pools = pools(mode);
        let app = pools.warm.app();
        let mut prey = victim(app);
        let control = outside(app, &format!("PIDS = [{}]\n{STRANGERS}", prey.id())).out;
        for works in [
            "'kill': 0,",
            "'pidfd_send_signal': 0,",
            "'prlimit64': 0,",
            "'setpriority': 0,",
        ] {
            assert!(control.contains(works), "{mode:?} {works}: {control}");
        }
        assert!(!untouched(prey.id()), "{mode:?}");
        end(&mut prey);
        // A signal that is sent by a descriptor is told of to nobody.
        let mut prey = victim(app);
        let by_file = STRANGERS.split("    print('tried'").next().unwrap();
        outside(app, &format!("PIDS = [{}]\n{by_file}", prey.id()));
        assert!(!untouched(prey.id()), "{mode:?}");
        end(&mut prey);

        let mut prey = victim(app);
        let beside = pools
            .warm
            .begin("import time\nprint('begun', flush=True)\ntime.sleep(1e6)", json!({}));
        beside.until("begun");
        let mut all = [pools.warm.processes(), pools.cold.processes()].concat();
        all.push(prey.id() as i32);
        for way in WAYS {
            let ended = pools
                .begin(way, &format!("PIDS = {all:?}\n{STRANGERS}"), json!({}), &[])
                .ended()
                .ok();
            assert_eq!(ended.out.lines().count(), 2 * all.len(), "{mode:?} {way:?}: {ended:#?}");
            for line in ended.out.lines() {
                // The name of a process may be opened, and nothing done with it.
                let refused = |word: &str| matches!(word, "ESRCH" | "EPERM" | "EACCES" | "ENOSYS");
                assert!(results(line).all(refused), "{mode:?} {way:?}: {line}");
            }
        }
        assert!(untouched(prey.id()), "{mode:?}");
        end(&mut prey);
        say(&beside.connection, br#"{"kill": "stopped"}"#, &[]);
        let beside = beside.ended();
        assert_eq!(
            (beside.limit(), beside.out.as_str()),
            (Some("stopped"), "begun\n"),
            "{mode:?}"
        );
    }
}

fn end(child: &mut std::process::Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A socket that a run was given may be one that can send to any name.
#[test]
fn a_socket_that_was_given_sends_to_no_abstract_name() {
    for mode in BOTH {
        let name = format!("\0pysecure-held-{}-{mode:?}", std::process::id());
        let socket = || {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None).unwrap()
        };
        let (receives, given) = (socket(), socket());
        let address = rustix::net::SocketAddrUnix::new_abstract_name(&name.as_bytes()[1..]).unwrap();
        bind(&receives, &address).unwrap();
        let script = format!(
            "given = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM, fileno=0)\nprint('sent', tried(given.sendto, b'x', {:?}))\n",
            name.replace('\0', "\\0")
        )
        .replace("\\\\0", "\\0");
        let pools = pools(mode);
        let mut control = pools
            .warm
            .app()
            .shell_free(PYTHON, &["-c", &format!("{PRELUDE}{script}")]);
        let control = Outside::from(control.stdin(given.try_clone().unwrap()).output().unwrap());
        assert_eq!(control.ok().out, "sent 1\n", "{mode:?}");
        let mut byte = [0; 2];
        assert_eq!(
            recv(&receives, &mut byte, rustix::net::RecvFlags::empty()).unwrap().0,
            1
        );
        for way in WAYS {
            let ended = pools.begin(way, &script, json!({}), &[("stdin", &given)]).ended().ok();
            assert_eq!(ended.out, "sent EPERM\n", "{mode:?} {way:?}: {ended:#?}");
            assert!(
                recv(&receives, &mut byte, rustix::net::RecvFlags::empty()).is_err(),
                "{mode:?} {way:?}"
            );
        }
    }
}

/// Between the request and the run's beginning a folder on the way becomes a link.
#[test]
fn a_folder_that_became_a_link_gives_no_right_to_where_it_leads() {
    let script = "print(tried(lambda: open(PATH).read()))\n";
    for mode in BOTH {
        let pools = Pools::of(mode, json!({ "isolation": "landlock", "at_once": 1 }));
        for way in WAYS {
            let pool = if way == Way::Cold { &pools.cold } else { &pools.warm };
            let app = pool.app();
            let _ = std::fs::remove_file(app.folder.join("way"));
            let _ = std::fs::remove_dir_all(app.folder.join("way"));
            app.write("way/user/file", "of the run");
            app.write("secret/user/file", "of the user");
            let [userdir, secret] = ["way/user", "secret/user"].map(|name| app.folder.join(name));
            let read = |path: &Path| script.replace("PATH", &format!("{:?}", path.join("file").display().to_string()));
            let keys = json!({ "userdir": userdir });
            // The control: while it is a folder.
            let ended = pools.begin(way, &read(&userdir), keys.clone(), &[]).ended().ok();
            assert_eq!(ended.out, "of the run\n", "{mode:?} {way:?}");
            let first = pool.begin("print('begun', flush=True)\nimport time\ntime.sleep(1e6)", json!({}));
            first.until("begun");
            let second = pools.begin(way, &read(&secret), keys, &[]);
            // It was looked for, and waits, when what comes behind it on the same connection is answered.
            pool.descriptors();
            std::fs::rename(app.folder.join("way"), app.folder.join("moved")).unwrap();
            std::os::unix::fs::symlink(app.folder.join("secret"), app.folder.join("way")).unwrap();
            say(&first.connection, br#"{"kill": "stopped"}"#, &[]);
            first.ended();
            let ended = second.ended();
            assert!(!ended.out.contains("of the user"), "{mode:?} {way:?}: {ended:#?}");
            assert!(
                ended.out == "EACCES\n" || ended.event["event"] == "refused",
                "{mode:?} {way:?}: {ended:#?}"
            );
            std::fs::remove_dir_all(app.folder.join("moved")).unwrap();
        }
    }
}

#[test]
fn too_much_in_its_temporary_files_ends_a_run() {
    let script = "
import tempfile
with tempfile.TemporaryDirectory() as folder:
    for n in range(64):
        with open('%s/%d' % (folder, n), 'wb') as file: file.write(bytes(1 << 20))
    print('written', flush=True)
    time.sleep(WAITS)
";
    for mode in BOTH {
        for (tmp, waits, limit) in [(256 << 20, "0", None), (16 << 20, "1e6", Some("tmp"))] {
            let pools = Pools::of(mode, json!({ "isolation": "landlock", "limits": { "tmp": tmp } }));
            for way in WAYS {
                let ended = pools
                    .begin(way, &script.replace("WAITS", waits), json!({}), &[])
                    .ended();
                assert_eq!(ended.limit(), limit, "{mode:?} {way:?}: {ended:#?}");
            }
        }
    }
}

/// Without a PID namespace nobody else ends them. What a program had started is left where this happens, which the documentation says.
#[test]
fn runs_end_with_a_pool_that_is_killed() {
    let code = "
pid = os.fork() if FORKS else 0
if pid == 0:
    with open('pid.new', 'w') as file: file.write(f'{os.getppid()} {os.getpid()}' if FORKS else str(os.getpid()))
    os.rename('pid.new', 'pid')
time.sleep(1e6)";
    for mode in BOTH {
        for way in WAYS {
            let pools = Pools::of(mode, json!({ "isolation": "landlock", "limits": { "wall": 1e6 } }));
            let pool = if way == Way::Cold { &pools.cold } else { &pools.warm };
            let dir = userdir(pool.app());
            let code = code.replace("FORKS", if way == Way::Copy { "True" } else { "False" });
            let _run = pools.begin(way, &code, json!({ "userdir": dir }), &[]);
            let pids = wait_until(|| std::fs::read_to_string(Path::new(&dir).join("pid")).ok());
            let all: Vec<&str> = pids.split(' ').collect();
            assert!(all.iter().all(|pid| lives(pid)), "{mode:?} {way:?}: {pids}");
            let pools_own = pool.processes();
            // The process that serves, of which the other one is only the parent.
            signal(pools_own[1] as u32, SIGKILL);
            wait_until(|| all.iter().all(|pid| !lives(pid)).then_some(()));
            wait_until(|| pools_own.iter().all(|pid| !lives(&pid.to_string())).then_some(()));
        }
    }
}
