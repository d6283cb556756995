//! The network that services are granted: the app's own, published ports, the way out by pasta; that each is no more
//! than was granted, and that nothing of it is left behind.

mod harness;

use harness::{App, BOTH, Ended, Mode, binary, free_port, wait_until};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// A server in one line: it answers each connection with its name.
fn says(name: &str, address: &str, port: u16) -> String {
    format!(
        r#"["python3", "-c", """
import socket
listener = socket.create_server(('{address}', {port}))
print('listens', flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(b'{name}')
    connection.close()
"""]"#
    )
}

/// What a service gets from an address: what is said there, or how it fails.
fn ask(app: &App, service: &str, address: impl std::fmt::Display) -> String {
    let script = format!(
        r#"exec python3 -c "
import socket
host, port = '{address}'.rsplit(':', 1)
try:
    print(socket.create_connection((host, int(port)), 3).recv(100).decode(), end='')
except OSError as e:
    print('no: ' + str(e), end='')
""#
    );
    app.sh(service, &script).ok().out
}

/// Of this host, and not its loopback. Nothing is sent to find it.
fn outer_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket
        .connect("192.0.2.200:9")
        .expect("give this host a default route: what is tested leads to the outside");
    socket.local_addr().unwrap().ip()
}

/// As udev makes it, which not every machine for tests has.
fn open_tun() {
    std::fs::set_permissions("/dev/net/tun", std::fs::Permissions::from_mode(0o666)).expect("`modprobe tun`");
    assert!(Path::new("/usr/bin/pasta").exists(), "install `passt`");
}

fn read_all(address: impl std::net::ToSocketAddrs) -> std::io::Result<String> {
    let mut text = String::new();
    TcpStream::connect(address)?.read_to_string(&mut text)?;
    Ok(text)
}

#[test]
fn services_of_the_apps_network_reach_each_other_and_no_others_do() {
    for mode in BOTH {
        let manifest = format!(
            r#"
[app]
name = "shared"
[services.one]
command = {}
network = "app"
[services.two]
command = "sleep infinity"
network = "app"
[services.rooted]
command = "sleep infinity"
network = "app"
runs_with_root = true
[services.alone]
command = "sleep infinity"
"#,
            says("one", "127.0.0.1", 80)
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "listens");
        assert_eq!(ask(&app, "two", "127.0.0.1:80"), "one");
        assert_eq!(ask(&app, "rooted", "127.0.0.1:80"), "one");
        assert!(ask(&app, "alone", "127.0.0.1:80").starts_with("no: "));
        let network = |service: &str| app.sh(service, "readlink /proc/self/ns/net").ok().out;
        assert_eq!(network("one"), network("two"));
        assert_ne!(network("one"), network("alone"));
        for service in ["one", "rooted"] {
            let devices = app.sh(service, "cat /proc/net/dev").ok().out;
            let names: Vec<&str> = devices
                .lines()
                .skip(2)
                .map(|l| l.split(':').next().unwrap().trim())
                .collect();
            // The kernel puts its fallback devices of tunnels into each namespace, where they are loaded.
            assert!(names.contains(&"lo") && !names.contains(&"eth0"), "{names:?}");
            // Nobody has a right over the network that all share.
            let change = "python3 -c 'import socket,fcntl,struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack(\"16sh14x\", b\"lo\", 0))'";
            assert!(app.sh(service, change).err.contains("PermissionError"));
        }
        // One program with a service's grants gets a network of its own.
        let alone = app.ok(&["run", "-T", "two", "--", "readlink", "/proc/self/ns/net"]).out;
        assert_ne!(alone, network("two"));
        app.ok(&["down"]);
        assert!(!app.state().join("run").exists());
    }
}

#[test]
fn published_ports_lead_inside_and_not_out() {
    for mode in BOTH {
        let (first, second) = (free_port(), free_port());
        let outer = outer_address();
        let manifest = format!(
            r#"
[app]
name = "published"
[services.web]
command = {}
publish = ["{first}:80"]
[services.six]
command = {}
network = "app"
publish = ["{outer}:{second}:8080"]
"#,
            says("web", "0.0.0.0", 80),
            r#"["python3", "-c", """
import socket
listener = socket.create_server(('::1', 8080), family=socket.AF_INET6)
print('listens', flush=True)
while True:
    connection, _ = listener.accept()
    while piece := connection.recv(65536):
        connection.sendall(piece)
    connection.close()
"""]"#
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "listens");
        app.wait_for_log("six", "listens");
        for _ in 0..20 {
            assert_eq!(read_all(("127.0.0.1", first)).unwrap(), "web");
        }
        // Loopback is what is published on unless the manifest says more.
        assert!(TcpStream::connect((outer, first)).is_err());
        // Much at once, both ways, through an address of the outside, to whom listens on IPv6 alone.
        let sent: Vec<u8> = (0..8_000_000u32).map(|n| (n * 7 / 3) as u8).collect();
        let mut stream = TcpStream::connect((outer, second)).unwrap();
        let mut reader = stream.try_clone().unwrap();
        let back = std::thread::spawn(move || {
            let mut back = Vec::new();
            reader.read_to_end(&mut back).map(|_| back)
        });
        stream.write_all(&sent).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(
            back.join().unwrap().unwrap() == sent,
            "what comes back is what was sent"
        );
        // The way in is none out.
        let server = TcpListener::bind((outer, 0)).unwrap();
        for service in ["web", "six"] {
            let said = ask(&app, service, server.local_addr().unwrap());
            assert!(said.contains("unreachable"), "{said}");
        }
        // What is published is held by the supervisor, so nobody else gets it.
        let taken = App::new(mode, &manifest.replace("\"published\"", "\"taken\""));
        let ended = taken.run(&["up", "-d"]);
        assert!(
            ended.code == 1 && ended.err.contains("another program listens there"),
            "{ended:?}"
        );
        app.ok(&["down"]);
        assert!(TcpStream::connect(("127.0.0.1", first)).is_err());
    }
}

fn going_out(name: &str, network: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
[services.out]
command = ["sh", "-c", "cat /proc/net/route; exec sleep infinity"]
network = "{network}"
egress = true
[services.rooted]
command = "sleep infinity"
network = "{network}"
runs_with_root = true
egress = true
[services.closed]
command = "sleep infinity"
"#
    )
}

#[test]
fn egress_leads_out_and_nowhere_else() {
    open_tun();
    let answer = |listener: TcpListener| {
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let _ = stream.unwrap().write_all(b"hello");
            }
        })
    };
    let outer = TcpListener::bind((outer_address(), 0)).unwrap();
    let inner = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (outside, loopback) = (outer.local_addr().unwrap(), inner.local_addr().unwrap());
    answer(outer);
    answer(inner);
    for mode in BOTH {
        for network in ["none", "app"] {
            let app = App::new(mode, &going_out(&format!("out-{network}"), network));
            app.ok(&["up", "-d"]);
            // It is there before the program is.
            assert!(app.wait_for_log("out", "egress0").contains("egress0"));
            for service in ["out", "rooted"] {
                assert_eq!(ask(&app, service, outside), "hello", "{mode:?} {network} {service}");
                // Not this host's loopback, neither by its own address nor by the gateway's.
                assert_ne!(ask(&app, service, loopback), "hello");
                assert_ne!(
                    ask(&app, service, SocketAddr::new([10, 0, 2, 2].into(), loopback.port())),
                    "hello"
                );
                assert_eq!(
                    app.sh(service, "cat /etc/resolv.conf").ok().out,
                    "nameserver 10.0.2.3\n"
                );
            }
            assert!(ask(&app, "closed", outside).contains("unreachable"));
            let run = [
                "run",
                "-T",
                "out",
                "--",
                "python3",
                "-c",
                &format!(
                    "import socket; print(socket.create_connection(('{}', {})).recv(9))",
                    outside.ip(),
                    outside.port()
                ),
            ];
            assert_eq!(app.ok(&run).out, "b'hello'\n");
        }
    }
}

#[test]
fn without_pasta_up_says_what_to_install() {
    for mode in BOTH {
        let app = App::new(mode, &going_out("nopasta", "none"));
        let folder = harness::fresh_folder();
        for program in ["newuidmap", "newgidmap"] {
            std::os::unix::fs::symlink(Path::new("/usr/bin").join(program), folder.join(program)).unwrap();
        }
        let path = format!("PATH={}", folder.display());
        let ended = Ended::from(
            app.shell_free("/usr/bin/env", &[&path, binary().to_str().unwrap(), "up", "-d"])
                .output()
                .unwrap(),
        );
        assert!(
            ended.code == 1 && ended.err.contains("service `out`") && ended.err.contains("apt install passt"),
            "{ended:?}"
        );
        assert!(!app.state().join("run").exists());
        std::fs::remove_dir_all(folder).unwrap();
    }
}

/// A process and all that descend from it.
fn family(pid: i32) -> BTreeSet<i32> {
    let mut all = BTreeSet::from([pid]);
    loop {
        let before = all.len();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1)?.parse().ok());
            if parent.is_some_and(|parent| all.contains(&parent)) {
                all.insert(pid);
            }
        }
        if all.len() == before {
            return all;
        }
    }
}

fn is_pasta(pid: i32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/usr/bin/pasta"))
}

#[test]
fn nothing_is_left_of_a_network() {
    open_tun();
    for mode in BOTH {
        for (network, pastas) in [("none", 2), ("app", 1)] {
            let port = free_port();
            let manifest = going_out("gone", network).replace(
                "[services.rooted]",
                &format!("publish = [\"{port}:80\"]\n[services.rooted]"),
            );
            let app = App::new(mode, &manifest);
            for end in ["down", "kill"] {
                app.ok(&["up", "-d"]);
                let supervisor = app.supervisor();
                let family = family(supervisor);
                assert_eq!(
                    family.iter().filter(|pid| is_pasta(**pid)).count(),
                    pastas,
                    "{family:?}"
                );
                if end == "down" {
                    app.ok(&["down"]);
                    assert!(!app.state().join("run").exists());
                } else {
                    harness::signal(supervisor as u32, nix::sys::signal::Signal::SIGKILL);
                }
                for pid in family {
                    wait_until(|| (!alive(pid)).then_some(()));
                }
                assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
                let run = app.state().join("run/gone");
                if end == "kill" {
                    assert!(!run.join("services/app.net").exists());
                }
                let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
                assert!(!mounts.contains(app.folder.to_str().unwrap()), "{mounts}");
            }
        }
    }
}

/// It may be that nobody reaps an orphan here.
fn alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| !status.contains("State:\tZ"))
}

#[test]
fn a_service_does_not_outlive_its_way_out() {
    open_tun();
    for mode in BOTH {
        let app = App::new(mode, &going_out("cut", "none"));
        app.ok(&["up", "-d"]);
        // Which is whose does not show in the order of their ids.
        for pasta in family(app.supervisor()).into_iter().filter(|pid| is_pasta(*pid)) {
            harness::signal(pasta as u32, nix::sys::signal::Signal::SIGKILL);
        }
        let failed = app.wait_for_state("out", "failed");
        let error = failed["error"].as_str().unwrap();
        assert!(error.contains("pasta"), "{error}");
        // The others have nothing to do with it.
        assert_eq!(app.service("closed")["state"], "running");
    }
}

#[test]
fn a_service_does_not_outlive_the_process_for_its_ports() {
    for mode in BOTH {
        let (port, other, lazy) = (free_port(), free_port(), free_port());
        let web = says("here", "127.0.0.1", 80);
        let manifest = format!(
            r#"
[app]
name = "ported"
[services.again]
command = {web}
publish = ["127.0.0.1:{port}:80"]
restart = "on-failure"
restart_delay = "1ms"
[services.once]
command = {web}
publish = ["127.0.0.1:{other}:80"]
[services.lazy]
command = ["python3", "-c", """
import socket
listener = socket.socket(fileno=3)
while True:
    connection, _ = listener.accept()
    connection.sendall(b'here')
    connection.close()
"""]
listen = ["127.0.0.1:{lazy}"]
start = "on-demand"
"#
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        let supervisor = app.supervisor();
        let others = || {
            let mut others = family(supervisor);
            for service in ["again", "once"] {
                for pid in app.service(service)["pid"]
                    .as_i64()
                    .iter()
                    .flat_map(|pid| family(*pid as i32))
                {
                    others.remove(&pid);
                }
            }
            others.remove(&supervisor);
            others
        };
        // One for each with ports, a relay, and what is made ready for the first connection.
        let all = wait_until(|| Some(others()).filter(|all| all.len() == 4));
        for pid in &all {
            // It may have ended with one before it.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), nix::sys::signal::Signal::SIGKILL);
        }
        let failed = app.wait_for_state("once", "failed");
        assert!(
            failed["error"]
                .as_str()
                .unwrap()
                .contains("the process for its network ended")
        );
        assert!(TcpStream::connect(("127.0.0.1", other)).is_err());
        wait_until(|| {
            let again = app.service("again");
            (again["restarts"] == 1 && again["state"] == "running").then_some(())
        });
        let here = |port| wait_until(|| read_all(("127.0.0.1", port)).ok().filter(|text| text == "here"));
        here(port);
        assert_eq!(app.service("again")["restarts"], 1);
        // What was not used yet is nobody's loss.
        wait_until(|| all.iter().all(|pid| !alive(*pid)).then_some(()));
        assert_eq!(app.service("lazy")["state"], "listening");
        here(lazy);
        assert_eq!(app.service("lazy")["restarts"], 0);
        app.ok(&["start", "once"]);
        here(other);
    }
}

#[test]
fn the_apps_way_out_comes_back_with_its_services() {
    open_tun();
    let outer = TcpListener::bind((outer_address(), 0)).unwrap();
    let outside = outer.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in outer.incoming() {
            let _ = stream.unwrap().write_all(b"hello");
        }
    });
    for mode in BOTH {
        let manifest = going_out("comesback", "app").replace(
            "[services.rooted]",
            "restart = \"on-failure\"\nrestart_delay = \"10ms\"\n[services.rooted]",
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        let closed = app.init_of("closed");
        for _ in 0..3 {
            let before = app.service("out")["restarts"].as_u64().unwrap();
            let pasta = family(app.supervisor()).into_iter().find(|pid| is_pasta(*pid)).unwrap();
            harness::signal(pasta as u32, nix::sys::signal::Signal::SIGKILL);
            wait_until(|| {
                let out = app.service("out");
                (out["restarts"].as_u64().unwrap() > before && out["state"] == "running").then_some(())
            });
            wait_until(|| (ask(&app, "out", outside) == "hello").then_some(()));
        }
        // One that is not started again is not left running without it.
        let failed = app.service("rooted");
        assert_eq!(failed["state"], "failed", "{failed}");
        assert!(
            failed["error"].as_str().unwrap().contains("no longer connected"),
            "{failed}"
        );
        assert_eq!(app.init_of("closed"), closed);
    }
}

#[test]
fn networks_change_with_the_manifest() {
    open_tun();
    for mode in BOTH {
        let (first, second) = (free_port(), free_port());
        let manifest = |rest: &str| {
            format!(
                "[app]\nname = \"changes\"\n[services.web]\ncommand = {}\n{rest}\n[services.other]\ncommand = \"sleep infinity\"\n",
                // Above 1023: below, it could listen only as long as it is published.
                says("web", "127.0.0.1", 8080)
            )
        };
        let published = |port: u16| format!("publish = [\"{port}:8080\"]");
        let app = App::new(mode, &manifest(&published(first)));
        let answers = |port: u16| wait_until(|| read_all(("127.0.0.1", port)).ok().filter(|t| t == "web"));
        app.ok(&["up", "-d"]);
        answers(first);
        let other = app.init_of("other");
        app.write("pysecure.toml", manifest(&published(second)));
        app.ok(&["up", "-d"]);
        answers(second);
        assert!(TcpStream::connect(("127.0.0.1", first)).is_err());
        // The same port again, for a service started anew.
        app.ok(&["restart", "web"]);
        answers(second);
        let held = TcpListener::bind(("127.0.0.1", first)).unwrap();
        app.write("pysecure.toml", manifest(&published(first)));
        let ended = app.run(&["up", "-d"]);
        assert!(
            ended.code != 0 && ended.err.contains("another program listens there"),
            "{ended:?}"
        );
        answers(second);
        drop(held);
        // Into a network of the app's that was not there before, with a way out; and out of it again.
        app.write(
            "pysecure.toml",
            manifest(&format!("{}\nnetwork = \"app\"\negress = true", published(first))),
        );
        app.ok(&["up", "-d"]);
        answers(first);
        let devices = app.sh("web", "cat /proc/net/dev").ok().out;
        assert!(devices.contains("egress0"), "{devices}");
        app.write(
            "pysecure.toml",
            manifest(&format!("{}\nnetwork = \"app\"", published(first))),
        );
        app.ok(&["up", "-d"]);
        answers(first);
        wait_until(|| (!app.sh("web", "cat /proc/net/dev").ok().out.contains("egress0")).then_some(()));
        app.write("pysecure.toml", manifest(""));
        app.ok(&["up", "-d"]);
        assert!(TcpStream::connect(("127.0.0.1", first)).is_err());
        let left = family(app.supervisor());
        assert_eq!(
            left.len(),
            5,
            "the supervisor, and two processes of each service: {left:?}\n{}",
            app.ok(&["logs"]).out
        );
        assert_eq!(app.init_of("other"), other);
    }
}

#[test]
fn companions_have_no_rights() {
    open_tun();
    let port = free_port();
    let manifest = going_out("rights", "none").replace(
        "[services.rooted]",
        &format!("publish = [\"{port}:80\"]\n[services.rooted]"),
    );
    let manifest = format!("{manifest}listen = [\"127.0.0.1:{}\"]\n", free_port());
    let app = App::new(Mode::Root, &manifest);
    app.ok(&["up", "-d"]);
    let services: BTreeSet<i32> = ["out", "rooted", "closed"].map(|s| app.init_of(s)).into();
    let supervisor = app.supervisor();
    let mut seen = 0;
    for pid in family(supervisor) {
        let field = |text: &str, key: &str| -> String {
            let line = text.lines().find(|l| l.starts_with(key)).unwrap();
            line.split_whitespace().nth(1).unwrap().to_owned()
        };
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        if pid == supervisor
            || !(field(&status, "PPid:") == supervisor.to_string() || is_pasta(pid))
            || services.contains(&pid)
        {
            continue;
        }
        assert_ne!(field(&status, "Uid:"), "0");
        assert_eq!(field(&status, "NoNewPrivs:"), "1");
        assert_eq!(field(&status, "Seccomp:"), "2");
        if !is_pasta(pid) {
            assert_eq!(field(&status, "CapEff:"), "0000000000000000");
            assert_eq!(field(&status, "CapBnd:"), "0000000000000000");
        }
        seen += 1;
    }
    assert_eq!(seen, 5);
}

/// What a service could try with a socket that it was handed, to get into the network that this is of. Of the first
/// connection it is told which port only the host's loopback has, and says there how each trick went; each takes one
/// connection of the others, and the last ones the listening socket.
const TRICKS: &str = r#"
import ctypes, fcntl, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
listener = socket.socket(fileno=3)
listener.setblocking(True)
said, _ = listener.accept()
heard = said.makefile('r')
to = ('127.0.0.1', int(heard.readline()))
FASTOPEN, FASTOPEN_CONNECT = 0x20000000, 30

def say(trick, how):
    said.sendall(f'{trick}: {how}\n'.encode())
    heard.readline()

def reached(trick, does, on):
    "Did it come to a connection to what only the loopback has?"
    try:
        if does is not None:
            does(on)
        on.settimeout(10)
        say(trick, 'reached' if on.recv(9) == b'host' else 'something else')
    except OSError as e:
        say(trick, f'no ({e})')

def listens(trick, does, on):
    "Which port does it listen on now? Whoever reads this may try."
    try:
        does(on)
        on.listen()
        say(trick, f'listens {on.getsockname()[1]}')
    except OSError as e:
        say(trick, f'no ({e})')

def disconnect(on):
    if libc.connect(on.fileno(), struct.pack('H14x', socket.AF_UNSPEC), 16) != 0:
        raise OSError(ctypes.get_errno(), 'AF_UNSPEC')

class iovec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_char_p), ('length', ctypes.c_size_t)]
class mmsghdr(ctypes.Structure):
    _fields_ = [('name', ctypes.c_char_p), ('namelen', ctypes.c_uint), ('iov', ctypes.POINTER(iovec)),
                ('iovlen', ctypes.c_size_t), ('control', ctypes.c_void_p), ('controllen', ctypes.c_size_t),
                ('flags', ctypes.c_int), ('len', ctypes.c_uint)]
def sendmmsg(on):
    address = struct.pack('=H', socket.AF_INET) + struct.pack('>H', to[1]) + socket.inet_aton(to[0]) + bytes(8)
    message = mmsghdr(address, 16, ctypes.pointer(iovec(b'x', 1)), 1)
    if libc.sendmmsg(on.fileno(), ctypes.pointer(message), 1, FASTOPEN) != 1:
        raise OSError(ctypes.get_errno(), 'sendmmsg')

def late(on):
    on.setsockopt(socket.IPPROTO_TCP, FASTOPEN_CONNECT, 1)
    on.connect(to)
    on.sendall(b'x')

def device(on):
    for name in interfaces(on) + ['lo']:
        try:
            on.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, name.encode())
        except OSError:
            pass
    on.connect(to)

def interfaces(on):
    names = ctypes.create_string_buffer(8192)
    ask = struct.pack('iP', len(names), ctypes.addressof(names))
    length = struct.unpack('iP', fcntl.ioctl(on, 0x8912, ask))[0]                  # SIOCGIFCONF
    found = [names.raw[at:at + 16].rstrip(b'\0').split(b'\0')[0].decode() for at in range(0, length, 40)]
    for index in range(1, 100):
        try:
            name = fcntl.ioctl(on, 0x8910, struct.pack('16si20x', b'', index))[:16]  # SIOCGIFNAME
            found.append(name.split(b'\0')[0].decode())
        except OSError:
            pass
    return sorted(set(found))

def after(*steps):
    def does(on):
        for step in steps:
            step(on)
    return does
accept = lambda: listener.accept()[0]
both = lambda on: on.shutdown(socket.SHUT_RDWR)
elsewhere = lambda on: on.bind(('0.0.0.0', 0))

say('interfaces of a connection', interfaces(accept()))
say('interfaces of a listener', interfaces(listener))
reached('connect', after(disconnect, lambda on: on.connect(to)), accept())
reached('shutdown, connect', after(both, disconnect, lambda on: on.connect(to)), accept())
reached('sendto', after(disconnect, lambda on: on.sendto(b'x', FASTOPEN, to)), accept())
reached('sendmsg', after(disconnect, lambda on: on.sendmsg([b'x'], [], FASTOPEN, to)), accept())
reached('sendmmsg', after(disconnect, sendmmsg), accept())
reached('TCP_FASTOPEN_CONNECT', after(disconnect, late), accept())
reached('SO_BINDTODEVICE', after(disconnect, device), accept())
listens('listen', disconnect, accept())
listens('bind', after(disconnect, elsewhere), accept())
copy = socket.socket(fileno=os.dup(3))
listens('the listener, listen', both, copy)
if os.fork() == 0:
    reached('the listener, connect', after(both, disconnect, lambda on: on.connect(to)), listener)
    os._exit(0)
os.wait()
try:
    disconnect(listener)
except OSError:
    pass
reached('the listener, sendto', lambda on: on.sendto(b'x', FASTOPEN, to), listener)
listens('the listener, bind', after(both, disconnect, elsewhere), listener)
said.sendall(b'end\n')
"#;

/// How the tricks went, by whoever plays them at `address`: the name of each, and whether it came to something.
fn play(address: SocketAddr, secret: u16) -> BTreeMap<String, String> {
    let mut said = TcpStream::connect(address).unwrap();
    let others: Vec<TcpStream> = (0..12).map(|_| TcpStream::connect(address).unwrap()).collect();
    writeln!(said, "{secret}").unwrap();
    let mut went = BTreeMap::new();
    for line in BufReader::new(said.try_clone().unwrap()).lines() {
        let line = line.unwrap();
        let Some((trick, how)) = line.split_once(": ") else {
            break;
        };
        let how = match how.strip_prefix("listens ") {
            // Whether that is a port of this network is what counts.
            Some(port) => match TcpStream::connect(("127.0.0.1", port.parse().unwrap())) {
                Ok(_) if port != address.port().to_string() => "reached".to_owned(),
                other => format!("{other:?}"),
            },
            None => how.to_owned(),
        };
        went.insert(trick.to_owned(), how);
        writeln!(said).unwrap();
    }
    drop(others);
    went
}

/// A server that this host's loopback alone has, and its port.
fn of_the_loopback() -> u16 {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            let _ = stream.unwrap().write_all(b"host");
        }
    });
    port
}

#[test]
fn what_is_handed_over_leads_nowhere() {
    let secret = of_the_loopback();
    // Where the same is handed over by anybody else, all of it works.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let mut control = std::process::Command::new("/usr/bin/python3");
    control.args(["-c", &format!("import os; os.dup2(0, 3)\n{TRICKS}")]);
    let mut control = control.stdin(std::os::fd::OwnedFd::from(listener)).spawn().unwrap();
    let outside = play(address, secret);
    control.wait().unwrap();
    assert_eq!(outside.len(), 15, "{outside:?}");
    let interfaces = |went: &BTreeMap<String, String>| went["interfaces of a connection"].clone();
    assert!(interfaces(&outside).contains("'lo'"), "{outside:?}");
    let works = outside.values().filter(|how| *how == "reached").count();
    for trick in [
        "connect",
        "sendto",
        "sendmsg",
        "sendmmsg",
        "TCP_FASTOPEN_CONNECT",
        "listen",
        "bind",
    ] {
        assert_eq!(outside[trick], "reached", "{outside:?}");
    }
    assert!(works >= 10, "{outside:?}");
    for mode in BOTH {
        let [first, second, third, fourth] = std::array::from_fn(|_| free_port());
        let manifest = format!(
            r#"
[app]
name = "handed"
code = {{ "/tricks" = "./tricks" }}
[services.alone]
command = ["python3", "/tricks/tricks.py"]
listen = ["127.0.0.1:{first}"]
restart = "always"
restart_delay = "1ms"
[services.demand]
command = ["python3", "/tricks/tricks.py"]
listen = ["0.0.0.0:{second}"]
start = "on-demand"
[services.app]
command = ["python3", "/tricks/tricks.py"]
listen = ["[::]:{third}"]
network = "app"
publish = ["{}:80"]
[services.host]
command = ["python3", "/tricks/tricks.py"]
listen = ["127.0.0.1:{fourth}"]
network = "host"
[services.other]
command = "sleep infinity"
"#,
            free_port()
        );
        let app = App::new(mode, &manifest);
        app.write("tricks/tricks.py", TRICKS);
        app.ok(&["up", "-d"]);
        // Twice: what one process did to what it was handed is not felt by the next.
        for port in [first, second, third, fourth, first, second] {
            let went = play(SocketAddr::from(([127, 0, 0, 1], port)), secret);
            assert_eq!(went.len(), 15, "{mode:?} {port}: {went:?}\n{}", app.ok(&["logs"]).out);
            for (trick, how) in &went {
                if trick.starts_with("interfaces") {
                    // The kernel puts its fallback devices of tunnels into each namespace, where they are loaded.
                    let own = app.sh("other", "ls /proc/sys/net/ipv4/conf").ok().out;
                    let foreign = how
                        .split('\'')
                        .skip(1)
                        .step_by(2)
                        .find(|n| !own.lines().any(|o| o == *n));
                    assert_eq!(foreign, None, "{mode:?} {port} {trick}: {how}");
                } else {
                    assert_ne!(how, "reached", "{mode:?} {port} {trick}");
                }
            }
        }
    }
}

#[test]
fn who_listens_sees_the_client_and_the_address_that_it_came_to() {
    let server = r#"["python3", "-c", """
import socket
while True:
    for number in NUMBERS:
        listener = socket.socket(fileno=number)
        connection, client = listener.accept()
        listener.detach()
        here = connection.getsockname()
        connection.sendall(f'{client[0]} {client[1]} {here[0]} {here[1]}'.replace('::ffff:', '').encode())
        connection.close()
"""]"#;
    let outer = outer_address();
    for mode in BOTH {
        let ports: [u16; 4] = std::array::from_fn(|_| free_port());
        let app = App::new(
            mode,
            &format!(
                "[app]\nname = \"seen\"\n[services.web]\ncommand = {}\nlisten = [\"127.0.0.1:{}\", \"{outer}:{}\", \"[::1]:{}\", \"[::]:{}\"]\n",
                server.replace("NUMBERS", "(3, 4, 5, 6, 6, 6)"),
                ports[0],
                ports[1],
                ports[2],
                ports[3]
            ),
        );
        app.ok(&["up", "-d"]);
        let loopback = IpAddr::from(Ipv4Addr::LOCALHOST);
        let six = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
        for _ in 0..2 {
            for (ip, port) in [
                (loopback, ports[0]),
                (outer, ports[1]),
                (six, ports[2]),
                (loopback, ports[3]),
                (outer, ports[3]),
                (six, ports[3]),
            ] {
                let mut stream = TcpStream::connect((ip, port)).unwrap();
                let (client, here) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
                let mut seen = String::new();
                stream.read_to_string(&mut seen).unwrap();
                assert_eq!(
                    seen,
                    format!("{} {} {} {}", client.ip(), client.port(), here.ip(), here.port())
                );
            }
        }
    }
}

#[test]
fn servers_listen_as_they_do_elsewhere() {
    let manifest = |ports: &[u16]| {
        format!(
            r#"
[app]
name = "servers"
code = {{ "/code" = "./code" }}
[services.plain]
command = ["python3", "-c", """
import http.server, socket
server = http.server.ThreadingHTTPServer(('', 0), http.server.SimpleHTTPRequestHandler, bind_and_activate=False)
server.socket = socket.socket(fileno=3)
server.server_activate()
server.serve_forever()
"""]
directory = "/code"
listen = ["127.0.0.1:{}"]
[services.loop]
command = ["python3", "-c", """
import asyncio, socket
async def answer(reader, writer):
    while (await reader.readuntil(b'\\r\\n\\r\\n')):
        writer.write(b'HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello')
async def main():
    server = await asyncio.start_server(answer, sock=socket.socket(fileno=3))
    await server.serve_forever()
asyncio.run(main())
"""]
listen = ["127.0.0.1:{}"]
[services.gunicorn]
command = ["gunicorn", "--chdir", "/code", "--workers", "2", "--worker-tmp-dir", "/dev/shm", "app:app"]
listen = ["127.0.0.1:{}"]
[services.node]
command = ["node", "-e", "require('http').createServer((q, a) => a.end('hello')).listen({{fd: 3}})"]
listen = ["127.0.0.1:{}"]
[services.nginx]
command = ["nginx", "-c", "/code/nginx.conf"]
environment = {{ NGINX = "3;" }}
listen = ["127.0.0.1:{}"]
"#,
            ports[0], ports[1], ports[2], ports[3], ports[4]
        )
    };
    for program in ["/usr/bin/gunicorn", "/usr/bin/node", "/usr/sbin/nginx"] {
        assert!(
            Path::new(program).exists(),
            "install `gunicorn`, `nodejs` and `nginx-light`: {program}"
        );
    }
    for mode in BOTH {
        let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
        let app = App::new(mode, &manifest(&ports));
        app.write("code/index.html", "hello");
        app.write(
            "code/app.py",
            "def app(environ, start):\n    start('200 OK', [('Content-Length', '5')])\n    return [b'hello']\n",
        );
        app.write(
            "code/nginx.conf",
            format!(
                "daemon off; pid /tmp/pid; error_log stderr; events {{ }}\nhttp {{ access_log off; client_body_temp_path /tmp/b; \
                 proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;\n\
                 server {{ listen 127.0.0.1:{}; root /code; }} }}\n",
                ports[4]
            ),
        );
        app.ok(&["up", "-d"]);
        for (name, port) in ["plain", "loop", "gunicorn", "node", "nginx"].iter().zip(&ports) {
            for _ in 0..20 {
                // Two at once, and two on one connection.
                let mut two = [(); 2].map(|()| TcpStream::connect(("127.0.0.1", *port)).unwrap());
                for stream in &mut two {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
                }
                for stream in &mut two {
                    assert!(response(stream).ends_with("hello"), "{mode:?} {name}");
                }
                if *name != "gunicorn" && *name != "plain" {
                    two[0].write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").unwrap();
                    assert!(response(&mut two[0]).ends_with("hello"), "{mode:?} {name}");
                }
            }
        }
    }
}

/// One response with a length of five bytes.
fn response(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0u8; 1];
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_eq!(
            stream.read(&mut byte).unwrap(),
            1,
            "{}",
            String::from_utf8_lossy(&bytes)
        );
        bytes.push(byte[0]);
    }
    let mut body = [0u8; 5];
    stream.read_exact(&mut body).unwrap();
    bytes.extend(body);
    String::from_utf8(bytes).unwrap()
}

#[test]
fn what_a_process_said_last_arrives_and_what_it_did_not_take_waits_for_the_next() {
    for mode in BOTH {
        let (first, second) = (free_port(), free_port());
        let manifest = format!(
            r#"
[app]
name = "last"
[services.brief]
command = ["python3", "-c", """
import os, socket
connection, _ = socket.socket(fileno=3).accept()
connection.sendall(bytes(200_000))
os._exit(0)
"""]
listen = ["127.0.0.1:{first}"]
start = "on-demand"
[services.one]
command = ["python3", "-c", """
import os, socket
connection, _ = socket.socket(fileno=3).accept()
got = 0
while piece := connection.recv(65536):
    got += len(piece)
connection.sendall(str(got).encode())
connection.close()
os._exit(0)
"""]
listen = ["127.0.0.1:{second}"]
restart = "always"
restart_delay = "1ms"
restart_max_delay = "1ms"
restart_limit = 0
"#
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        for _ in 0..3 {
            let mut stream = TcpStream::connect(("127.0.0.1", first)).unwrap();
            let mut byte = [0u8; 1];
            stream.read_exact(&mut byte).unwrap();
            // Its process has ended, or is about to.
            app.wait_for_state("brief", "listening");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(rest.len(), 200_000 - 1);
        }
        // Each process takes one of them, and ends; those behind it go from one to the next with what they have sent.
        let mut streams: Vec<TcpStream> = (0..20)
            .map(|_| TcpStream::connect(("127.0.0.1", second)).unwrap())
            .collect();
        for (number, stream) in streams.iter_mut().enumerate() {
            stream.write_all(&vec![b'x'; 1000 * number]).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        for (number, stream) in streams.iter_mut().enumerate() {
            let mut got = String::new();
            stream.read_to_string(&mut got).unwrap();
            assert_eq!(got, (1000 * number).to_string());
        }
        // Nothing is left of those that brought them.
        wait_until(|| {
            let left = family(app.supervisor()).len();
            (left == 6).then_some(())
        });
    }
}

#[test]
fn published_clients_are_not_of_the_loopback() {
    let server = |address: &str, port: u16| {
        format!(
            r#"["python3", "-c", """
import socket
listener = socket.create_server(('{address}', {port}), family=socket.AF_INET6 if ':' in '{address}' else socket.AF_INET, dualstack_ipv6='{address}' == '::')
print('listens', flush=True)
while True:
    connection, client = listener.accept()
    connection.sendall(client[0].encode())
    connection.close()
"""]"#
        )
    };
    let cases = [
        ("four", "127.0.0.1", "192.0.0.8"),
        ("all", "0.0.0.0", "192.0.0.8"),
        ("six", "::1", "100::8"),
        ("dual", "::", "::ffff:192.0.0.8"),
    ];
    for mode in BOTH {
        for network in ["none", "app"] {
            let ports: Vec<u16> = cases.iter().map(|_| free_port()).collect();
            let mut manifest = "[app]\nname = \"notloopback\"\n".to_owned();
            for (at, ((name, address, _), port)) in cases.iter().zip(&ports).enumerate() {
                let inner = 80 + at as u16;
                manifest += &format!(
                    "[services.{name}]\ncommand = {}\nnetwork = \"{network}\"\npublish = [\"{port}:{inner}\"]\n",
                    server(address, inner)
                );
            }
            let app = App::new(mode, &manifest);
            app.ok(&["up", "-d"]);
            for ((name, _, from), port) in cases.iter().zip(&ports) {
                app.wait_for_log(name, "listens");
                assert_eq!(
                    read_all(("127.0.0.1", *port)).unwrap(),
                    *from,
                    "{mode:?} {network} {name}"
                );
                // Who asks for the addresses of this machine does not find it among them.
                let own = app.sh(name, "python3 -c 'import fcntl,socket,struct,ctypes; b=ctypes.create_string_buffer(4096); n=struct.unpack(\"iP\", fcntl.ioctl(socket.socket(), 0x8912, struct.pack(\"iP\", 4096, ctypes.addressof(b))))[0]; print([socket.inet_ntoa(b.raw[i+20:i+24]) for i in range(0, n, 40)])'; cat /proc/net/if_inet6").ok().out;
                assert!(
                    own.contains("127.0.0.1") && !own.contains("192.0.0.8") && !own.contains("0100000"),
                    "{own}"
                );
            }
            // From within the loopback is the loopback.
            assert_eq!(ask(&app, "four", "127.0.0.1:80"), "127.0.0.1");
        }
    }
}

#[test]
fn redis_without_a_password_refuses_published_clients() {
    assert!(Path::new("/usr/bin/redis-server").exists(), "install `redis-server`");
    for mode in BOTH {
        let port = free_port();
        let app = App::new(
            mode,
            &format!(
                "[app]\nname = \"redis\"\n[services.redis]\ncommand = [\"redis-server\", \"--bind\", \"0.0.0.0\", \"--save\", \"\", \"--dir\", \"/tmp\"]\npublish = [\"{port}:6379\"]\nready = {{ tcp = \"127.0.0.1:6379\" }}\n"
            ),
        );
        app.ok(&["up", "-d"]);
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let _ = stream.write_all(b"PING\r\n");
        let mut said = String::new();
        let _ = stream.read_to_string(&mut said);
        assert!(said.starts_with("-DENIED"), "{mode:?} {said:?}");
        assert_eq!(app.sh("redis", "redis-cli ping").ok().out, "PONG\n");
    }
}

#[test]
fn the_proxy_protocol_tells_who_connects() {
    assert!(Path::new("/usr/sbin/nginx").exists(), "install `nginx-light`");
    let outer = outer_address();
    for mode in BOTH {
        let ports: [u16; 3] = std::array::from_fn(|_| free_port());
        let app = App::new(
            mode,
            &format!(
                "[app]\nname = \"proxied\"\ncode = {{ \"/conf\" = \"./conf\" }}\n[services.web]\ncommand = [\"nginx\", \"-c\", \"/conf/nginx.conf\"]\nready = {{ tcp = \"127.0.0.1:80\" }}\n\
                 publish = [\"{outer}:{}:80/proxy-v1\", \"{outer}:{}:80/proxy-v2\", \"[::1]:{}:80/proxy-v2\"]\n",
                ports[0], ports[1], ports[2]
            ),
        );
        app.write(
            "conf/nginx.conf",
            "daemon off; pid /tmp/pid; error_log stderr; events { }\nhttp { access_log off; client_body_temp_path /tmp/b; \
             proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;\n\
             server { listen 80 proxy_protocol; set_real_ip_from 192.0.0.8; real_ip_header proxy_protocol;\n\
             location / { return 200 \"$remote_addr $remote_port $realip_remote_addr\"; } } }\n",
        );
        app.ok(&["up", "-d"]);
        for address in [
            SocketAddr::new(outer, ports[0]),
            SocketAddr::new(outer, ports[1]),
            SocketAddr::new(std::net::Ipv6Addr::LOCALHOST.into(), ports[2]),
        ] {
            let mut stream = TcpStream::connect(address).unwrap();
            let client = stream.local_addr().unwrap();
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            let wanted = format!("\r\n\r\n{} {} 192.0.0.8", client.ip(), client.port());
            assert!(said.ends_with(&wanted), "{mode:?} {said}");
        }
    }
}

/// Sets SO_REUSEPORT on a socket by all ways of writing the same numbers, and on what is left of the options another.
const REUSES: &str = r#"
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
one = (ctypes.c_int * 1)(1)
def sets(level, option):
    s = socket.socket()
    args = [ctypes.c_ulong(a) for a in (54, s.fileno(), level, option)]
    done = libc.syscall(*args, one, ctypes.c_ulong(4))
    name = 'yes' if done == 0 else errno.errorcode[ctypes.get_errno()]
    return name if s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) == 0 else 'reuses'
print(*[sets(l, o) for l, o in ((1, 15), (1 | 1 << 32, 15), (1, 15 | 1 << 40), (1 | 1 << 63, 15 | 1 << 63))])
print(*[sets(l, o) for l, o in ((1, 2), (1, 9), (6, 1), (6, 15), (1, 7), (0, 15), (41, 26))])
"#;

#[test]
#[cfg(target_arch = "x86_64")]
fn where_services_have_one_id_none_takes_the_connections_of_another() {
    // As the kernel has it: whose socket it is decides.
    let outside = std::process::Command::new("/usr/bin/python3")
        .args(["-c", REUSES])
        .output()
        .unwrap();
    let outside = String::from_utf8(outside.stdout).unwrap();
    assert_eq!(outside.lines().next(), Some("reuses reuses reuses reuses"), "{outside}");
    let manifest = "[app]\nname = \"reuse\"\n[services.app]\ncommand = \"sleep infinity\"\nnetwork = \"app\"\n\
                    [services.host]\ncommand = \"sleep infinity\"\nnetwork = \"host\"\n\
                    [services.alone]\ncommand = \"sleep infinity\"\n";
    for one_id in [true, false] {
        let app = App::new(Mode::Rootless, manifest);
        // Without newuidmap there is but one id.
        let run = |args: &[&str]| match one_id {
            true => {
                let mut all = vec!["PATH=/nonexistent", binary().to_str().unwrap()];
                all.extend(args);
                Ended::from(app.shell_free("/usr/bin/env", &all).output().unwrap())
            }
            false => app.run(args),
        };
        let up = run(&["up", "-d"]).ok();
        assert_eq!(up.err.contains("all services share your UID"), one_id, "{}", up.err);
        for service in ["app", "host", "alone"] {
            let said = run(&["exec", "-T", service, "--", "/usr/bin/python3", "-c", REUSES])
                .ok()
                .out;
            let (reuses, others) = said.trim_end().split_once('\n').unwrap();
            match one_id && service != "alone" {
                true => assert_eq!(reuses, "EPERM EPERM EPERM EPERM", "{service}"),
                false => assert_eq!(reuses, "reuses reuses reuses reuses", "{service}"),
            }
            assert!(!others.contains("EPERM"), "{service}: {others}");
        }
        run(&["down", "--purge"]).ok();
    }
}

#[test]
fn a_callers_socket_tells_nothing_of_the_callers_network() {
    // What a server of ours does with a connection of the host: it asks it for interfaces, in numbers of both widths.
    let listing = r#"
import ctypes, errno, os, socket, struct
libc = ctypes.CDLL(None, use_errno=True)
def ask(on, request):
    names = ctypes.create_string_buffer(8192)
    told = ctypes.create_string_buffer(struct.pack('iP', 8192, ctypes.addressof(names)))
    done = libc.syscall(ctypes.c_long(16), ctypes.c_ulong(on.fileno()), ctypes.c_ulong(request), told)
    length = struct.unpack('iP', told.raw[:16])[0] if done == 0 else 0
    if done != 0:
        return errno.errorcode[ctypes.get_errno()]
    return ','.join(sorted({names.raw[at:at + 16].split(b'\0')[0].decode() for at in range(0, length, 40)}))
"#;
    let serve = format!(
        "{listing}\nlistener = socket.socket(fileno=3)\nwhile True:\n    c, _ = listener.accept()\n    \
         c.send((ask(c, 0x8912) + ' ' + ask(c, 0x8912 | 1 << 32) + ' ' + ask(listener, 0x8912)).encode())\n    c.close()\n"
    );
    let call = "import socket, sys\nc = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\nc.connect(sys.argv[1])\nprint(c.recv(999).decode())";
    // Outside, it sees the host's.
    let folder = harness::fresh_folder();
    let path = folder.join("s");
    let control = format!(
        "import os, socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.bind({path:?})\ns.listen()\nos.dup2(s.fileno(), 3)\n{serve}"
    );
    let mut server = std::process::Command::new("/usr/bin/python3")
        .args(["-c", &control])
        .spawn()
        .unwrap();
    wait_until(|| path.exists().then_some(()));
    let asked = |path: &Path| {
        let mut said = String::new();
        wait_until(|| {
            let mut command = std::process::Command::new("/usr/bin/python3");
            let output = command.args(["-c", call]).arg(path).output().unwrap();
            said = String::from_utf8(output.stdout).unwrap();
            output.status.success().then_some(())
        });
        said
    };
    let outside = asked(&path);
    server.kill().unwrap();
    server.wait().unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    assert!(outside.contains("lo"), "{outside}");
    for mode in BOTH {
        let app = App::new(
            mode,
            "[app]\nname = \"asks\"\ncode = { \"/c\" = \"./c\" }\n[services.callee]\ncommand = [\"python3\", \"/c/serve.py\"]\ncallers = { operator = \"*\" }\n",
        );
        app.write("c/serve.py", &serve);
        app.ok(&["up", "-d"]);
        let socket = wait_until(|| {
            let found = std::process::Command::new("find")
                .arg(app.state())
                .args(["-name", "callee.sock"])
                .output()
                .unwrap();
            Some(String::from_utf8(found.stdout).unwrap().trim().to_owned()).filter(|p| !p.is_empty())
        });
        assert_eq!(asked(Path::new(&socket)), "EPERM EPERM EPERM\n", "{mode:?}");
    }
}

#[test]
fn a_service_does_not_outlive_its_relay() {
    for mode in BOTH {
        let port = free_port();
        let manifest = format!(
            r#"
[app]
name = "relayed"
[services.web]
command = ["python3", "-c", """
import socket
listener = socket.socket(fileno=3)
kept = []
while True:
    kept.append(listener.accept()[0])
    kept[-1].sendall(b'%d' % len(kept))
"""]
listen = ["127.0.0.1:{port}"]
restart = "on-failure"
restart_delay = "1ms"
"#
        );
        let app = App::new(mode, &manifest);
        app.ok(&["up", "-d"]);
        let answer = |stream: &mut TcpStream| {
            let mut bytes = [0u8; 9];
            let read = stream.read(&mut bytes).unwrap();
            String::from_utf8_lossy(&bytes[..read]).into_owned()
        };
        // Many at a time, and none of them in the way of another.
        let mut all: Vec<TcpStream> = (0..400)
            .map(|_| TcpStream::connect(("127.0.0.1", port)).unwrap())
            .collect();
        let answers: BTreeSet<String> = all.iter_mut().map(answer).collect();
        assert_eq!(answers.len(), 400);
        let init = app.init_of("web");
        let service = family(init);
        let supervisor = app.supervisor();
        let relays: Vec<i32> = family(supervisor)
            .into_iter()
            .filter(|pid| *pid != supervisor && !service.contains(pid))
            .collect();
        assert_eq!(relays.len(), 1, "{relays:?}");
        harness::signal(relays[0] as u32, nix::sys::signal::Signal::SIGKILL);
        wait_until(|| {
            let web = app.service("web");
            (web["restarts"] == 1 && web["state"] == "running").then_some(())
        });
        assert_ne!(app.init_of("web"), init);
        assert!(app.ok(&["logs"]).out.len() < 10_000);
        assert_eq!(answer(&mut TcpStream::connect(("127.0.0.1", port)).unwrap()), "1");
    }
}
