//! The network that services are granted: the app's own, published ports, the way out by pasta; that each is no more
//! than was granted, and that nothing of it is left behind.

mod harness;

use harness::{App, BOTH, Ended, Mode, binary, wait_until};
use std::collections::BTreeSet;
use std::io::{Read, Write};
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

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
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
    assert_eq!(seen, 4);
}
