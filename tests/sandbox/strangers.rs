//! Others beside a run: processes of the same user, other runs of the same pool, their sockets, and terminals.

use crate::harness::{App, BOTH, Ended as Outside, wait_until};
use crate::pool::{PRELUDE, PYTHON, Pools, WAYS, Way, results, untouched, victim};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::json;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::process::Command;

const STRANGERS: &str = include_str!("../escapes/strangers.py");

/// Every way to another process is refused, though all have one id where this is no root's.
#[test]
fn a_run_reaches_no_process_beside_it() {
    for mode in BOTH {
        let pools = Pools::new(mode);
        let app = pools.warm.app();
        // The control: of the same user, without a sandbox.
        let mut prey = victim(app);
        let script = format!("{PRELUDE}PIDS = [{}]\n{STRANGERS}", prey.id());
        let control = Outside::from(app.shell_free(PYTHON, &["-c", &script]).output().unwrap()).ok();
        for works in [
            "by_file asked",
            "'kill': 0,",
            "'pidfd_send_signal': 0,",
            "'prlimit64': 0,",
            "'setpriority': 0,",
            "'cwd': os.stat",
        ] {
            assert!(control.out.contains(works), "{mode:?} {works}: {control:?}");
        }
        assert!(!untouched(prey.id()), "{mode:?}");
        prey.kill().unwrap();
        prey.wait().unwrap();

        let mut prey = victim(app);
        let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let beside = pools.begin(
            Way::Copy,
            "import signal\nfor s in range(1, 65):\n    tried(signal.signal, s, lambda *_: print('touched', flush=True)) if s not in (9, 19, 32, 33) else 0\n\
             print('begun', flush=True)\nsys.stdin.read()\nprint('well', flush=True)\n",
            json!({}),
            &[("stdin", &read)],
        );
        beside.until("begun");
        let all = [pools.warm.processes(), pools.cold.processes(), vec![prey.id() as i32]].concat();
        let all: BTreeSet<i32> = all.into_iter().collect();
        // What has one of these numbers in a sandbox is its own.
        let all: Vec<i32> = all.into_iter().filter(|pid| *pid > 8).collect();
        assert!(all.len() >= 6, "{all:?}");
        let script = format!("PIDS = {all:?}\n{STRANGERS}");
        for way in WAYS {
            let ended = pools.begin(way, &script, json!({}), &[]).ended().ok();
            assert_eq!(ended.out.lines().count(), 2 * all.len(), "{mode:?} {way:?}: {ended:#?}");
            for line in ended.out.lines() {
                let refused = |word: &str| matches!(word, "ESRCH" | "EPERM" | "ENOSYS" | "ENOENT");
                assert!(results(line).all(refused), "{mode:?} {way:?}: {line}");
            }
        }
        // And by any number: there is nobody but PID 1 and itself.
        pools.each_prints(
            "print([pid for pid in range(2, 40000) if call(62, pid, 0) != 'ESRCH' and pid != os.getpid()], call(62, -1, 0))\n",
            "[] ESRCH\n",
        );
        drop(write);
        assert_eq!(beside.ended().ok().out, "begun\nwell\n", "{mode:?}");
        assert!(untouched(prey.id()), "{mode:?}");
        prey.kill().unwrap();
        prey.wait().unwrap();
    }
}

/// Abstract sockets of the host's and of another run's, and what that one has in memory and on terminals of its own.
#[test]
fn a_run_reaches_no_socket_and_no_file_of_another() {
    let hold = "
listening = socket.socket(socket.AF_UNIX); listening.bind('\\0NAME'); listening.listen()
net = socket.socket(); net.bind(('127.0.0.1', 7778)); net.listen()
own = socket.socket(socket.AF_UNIX); own.connect('\\0NAME')
for folder in ('/tmp', '/dev/shm'):
    with open(folder + '/NAME', 'w') as file: file.write('held')
terminal = os.openpty()
print('holds', [os.path.exists(f + '/NAME') for f in ('/tmp', '/dev/shm')], os.listdir('/dev/pts'), flush=True)
sys.stdin.read()
listening.setblocking(False); listening.accept()
print('others', tried(listening.accept), tried(os.read, terminal[0], 1) if os.set_blocking(terminal[0], False) else 'EAGAIN')
";
    let look = "
def to(family, address):
    with socket.socket(family) as s:
        s.settimeout(20); s.connect(address)
        return 'connected'
print(tried(to, socket.AF_UNIX, '\\0NAME'), tried(to, socket.AF_UNIX, '\\0HOST'), tried(to, socket.AF_INET, ('127.0.0.1', 7778)))
print([os.path.exists(f + '/NAME') for f in ('/tmp', '/dev/shm')], [n for n in os.listdir('/dev/pts') if n != 'ptmx'])
";
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    for mode in BOTH {
        let name = format!("pysecure-beside-{}-{mode:?}", std::process::id());
        let host = SocketAddr::from_abstract_name(format!("{name}-host")).unwrap();
        let _host = UnixListener::bind_addr(&host).unwrap();
        let named = |script: &str| script.replace("HOST", &format!("{name}-host")).replace("NAME", &name);
        let control = crate::outside(&named(look)).out;
        assert!(control.starts_with("ECONNREFUSED connected "), "{mode:?}: {control}");
        let pools = Pools::new(mode);
        for holder in WAYS {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC).unwrap();
            let held = pools.begin(holder, &named(hold), json!({}), &[("stdin", &read)]);
            let said = held.until("holds");
            assert!(
                said.contains("[True, True]") && said.contains("'0'"),
                "{mode:?} {holder:?}: {said}"
            );
            pools.each_prints(
                &named(look),
                "ECONNREFUSED ECONNREFUSED ECONNREFUSED\n[False, False] []\n",
            );
            drop(write);
            let ended = held.ended().ok();
            assert!(
                ended.out.ends_with("others EAGAIN EAGAIN\n"),
                "{mode:?} {holder:?}: {ended:#?}"
            );
        }
    }
}

/// Pushes a letter into each terminal that it was given, and into the one that it would have if it could.
const PUSH: &str = "
import fcntl
for fd in (0, 1, 2, '/dev/tty', '/dev/console', '/dev/tty1', '/dev/pts/0'):
    fd = tried(os.open, fd, os.O_RDWR) if isinstance(fd, str) else fd
    if isinstance(fd, int):
        # TIOCSCTTY, taking it from whom it belongs to, too; TIOCSTI; TIOCLINUX, which pastes; TIOCCONS.
        for request, argument in ((0x540e, 0), (0x540e, 1), (0x5412, b'Z'), (0x541c, b'\\3'), (0x541d, 0)):
            tried(fcntl.ioctl, fd, request, argument)
print('tried', tried(os.open, '/dev/tty', os.O_RDWR), flush=True)
";

/// What would wait at the terminal to be read by the next program, the caller's shell.
fn waiting(slave: &OwnedFd) -> u64 {
    let cooked = rustix::io::ioctl_fionread(slave).unwrap();
    let mut raw = tcgetattr(slave).unwrap();
    raw.local_modes.remove(LocalModes::ICANON);
    tcsetattr(slave, OptionalActions::Now, &raw).unwrap();
    cooked + rustix::io::ioctl_fionread(slave).unwrap()
}

#[test]
fn nothing_is_typed_into_the_callers_terminal() {
    // The control: the host's root may.
    let ends = nix::pty::openpty(None, None).unwrap();
    let mut control = Command::new(PYTHON);
    control
        .args(["-c", &format!("{PRELUDE}{PUSH}")])
        .stdin(ends.slave.try_clone().unwrap());
    assert!(control.output().unwrap().status.success());
    assert!(waiting(&ends.slave) > 0);
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("push.py", format!("{PRELUDE}{PUSH}"));
        for isolation in ["namespaces", "landlock"] {
            let of = ["sandbox", "--isolation", isolation];
            let run = ["sandbox", "run", "--isolation", isolation, "push.py"];
            let script = format!("{PRELUDE}{PUSH}");
            for args in [&run[..], &[&of[..], &["--", PYTHON, "-c", &script]].concat()] {
                let mut terminal = app.on_terminal(args, 24, 80);
                let mut shown = terminal.until("tried E");
                let (code, rest) = terminal.ended();
                shown += &rest;
                assert_eq!(code, 0, "{mode:?} {isolation}: {shown}");
                assert_eq!(waiting(&terminal.slave), 0, "{mode:?} {isolation}: {shown}");
            }
        }
        // And into one that a program has of somebody else, and gives to its run.
        let ends = nix::pty::openpty(None, None).unwrap();
        let mut whose = Command::new("setsid");
        whose
            .args(["--ctty", "sleep", "1000000"])
            .stdin(ends.slave.try_clone().unwrap());
        let mut whose = whose.spawn().expect("install `util-linux`: a terminal needs setsid(1)");
        let line = || std::fs::read(format!("/proc/{}/cmdline", whose.id())).unwrap();
        wait_until(|| line().starts_with(b"sleep").then_some(()));
        let pools = Pools::new(mode);
        for way in WAYS {
            let ended = pools
                .begin(way, PUSH, json!({}), &[("stdin", &ends.slave)])
                .ended()
                .ok();
            assert!(ended.out.starts_with("tried E"), "{mode:?} {way:?}: {ended:#?}");
            assert_eq!(waiting(&ends.slave), 0, "{mode:?} {way:?}");
        }
        whose.kill().unwrap();
        whose.wait().unwrap();
    }
}

/// A run has as many terminals as a service, and takes none of another's.
#[test]
fn no_run_takes_the_terminals_of_others() {
    let take = "
taken = []
while len(taken) < 200:
    got = tried(os.open, '/dev/ptmx', os.O_RDWR | os.O_NOCTTY)
    if not isinstance(got, int):
        break
    taken.append(got)
print(len(taken), got if isinstance(got, str) else '')
";
    assert_eq!(crate::outside(take).out, "200 \n");
    for mode in BOTH {
        let pools = Pools::new(mode);
        for _ in 0..2 {
            pools.each_prints(take, "64 ENOSPC\n");
        }
    }
}
