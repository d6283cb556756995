//! Sockets that are handed over. Each case is a process of its own, for they are taken once, from its environment; it has one thread, as a service has
//! when it takes them, and so this file has no harness.

use pysecure_wire::listen::take_sockets;
use std::process::{Command, Stdio};

const CHILD: &str = "PYSECURE_TEST_TAKES_SOCKETS";

fn main() {
    if std::env::var_os(CHILD).is_some() {
        return child();
    }
    let policy = Some(r#"{"web": ["login"]}"#);
    // `$$` is the process's own number: `exec` keeps it.
    let taken = "web may login: true, logout: false; variables: 0";
    assert_eq!(run("$$", "web", policy), taken);
    assert_eq!(run("", "web", policy), taken, "LISTEN_PID may be left out");
    // Another process's: a shell that started it as a child has them.
    let other = run("1", "web", policy);
    assert!(other.contains("handed to process 1, and this is"), "{other}");
    assert_eq!(run("1", "web", None), "none");
    // Whatever else is handed over is the program's own, and stays open.
    assert_eq!(run("$$", "listen", policy), "; variables: 0; 3 is open");
    let nothing_said = run("$$", "web", None);
    assert!(
        nothing_said.contains("PYSECURE_RPC_CALLERS is not set"),
        "{nothing_said}"
    );
}

/// What a process says that has a socket of this name, which was handed to `process`.
fn run(process: &str, name: &str, policy: Option<&str>) -> String {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
    let pid = match process {
        "" => String::new(),
        number => format!("LISTEN_PID={number} "),
    };
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{pid}exec \"$0\" 3<&0")])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", name)
        .env_remove("LISTEN_PID")
        .env_remove("PYSECURE_RPC_CALLERS")
        .stdin(Stdio::from(socket));
    if let Some(policy) = policy {
        command.env("PYSECURE_RPC_CALLERS", policy);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn child() {
    let sockets = match take_sockets() {
        Ok(Some(sockets)) => sockets,
        Ok(None) => return print!("none"),
        Err(error) => return print!("{error}"),
    };
    for socket in &sockets {
        let may = |name| socket.allowed.allows(name);
        print!(
            "{} may login: {}, logout: {}",
            socket.caller,
            may("login"),
            may("logout")
        );
    }
    let left = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];
    let left = left.iter().filter(|name| std::env::var_os(name).is_some()).count();
    print!("; variables: {left}");
    if sockets.is_empty() && std::path::Path::new("/proc/self/fd/3").exists() {
        print!("; 3 is open");
    }
}
