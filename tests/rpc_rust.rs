//! RPC in Rust: a Rust service called by a Rust program, from Python and from the command line, and one in Python called
//! from Rust; what was not granted comes to nothing.

mod harness;

use harness::{App, BOTH, Ended, Mode, python};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// `crates/pysecure-rpc/examples/vault.rs`, linked statically as all of this workspace is.
fn vault() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let built = Command::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "-p",
                "pysecure-rpc",
                "--features",
                "tokio",
                "--example",
                "vault",
            ])
            .args(["--message-format", "json-render-diagnostics"])
            .current_dir(repository())
            .output()
            .unwrap();
        let ended = Ended::from(built).ok();
        let messages = ended
            .out
            .lines()
            .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
        let made = messages
            .filter_map(|m| m["executable"].as_str().map(PathBuf::from))
            .next_back();
        made.expect("cargo made no program")
    })
}

const MANIFEST: &str = r#"
[app]
name = "rpcrust"
rpc_max_message = "2M"
external_uid = 33
external_gid = 33
code = { "/app" = "./app", "/opt/pysecure" = "./lib", "/opt/core" = "./core" }

[services.vault]
command = ["/app/vault"]
directory = "/app"
ready = "notify"
callers = { front = ["keep", "add", "reverse", "linger", "count", "doze", "kinds", "read"], py = ["keep", "add", "secret", "count", "kinds", "read"], compiled = ["add", "secret", "count", "kinds", "read"], operator = ["add", "keep"], EXTERNAL }

[services.other]
command = ["sleep", "infinity"]
directory = "/app"

[services.pyvault]
command = ["python3", "pyvault.py"]
directory = "/app"
ready = "notify"
environment = { PYTHONPATH = "/opt/pysecure" }
callers = { front = "*" }

[services.front]
command = ["/app/vault", "caller"]
directory = "/app"
depends_on = { vault = "ready" }

[services.py]
command = ["python3", "py.py"]
directory = "/app"
depends_on = { vault = "ready" }
environment = { PYTHONPATH = "/opt/pysecure" }

[services.compiled]
command = ["python3", "py.py"]
directory = "/app"
depends_on = { vault = "ready" }
environment = { PYTHONPATH = "/opt/core" }
"#;

/// What calls the Rust service: its functions stand here again, as Python has them.
const PY: &str = r#"
from collections.abc import Iterator
import datetime
import decimal
import os
import uuid
import pysecure_rpc
from pysecure_rpc import _codec, rpc

assert _codec.COMPILED == (os.environ["PYTHONPATH"].split(":")[0] == "/opt/core")

@rpc(run_as="vault")
def add(a: int, b: int) -> int: ...

@rpc(run_as="vault")
def secret() -> str: ...

@rpc(run_as="vault")
def count(to: int) -> Iterator[int]:
    yield 0

@rpc(run_as="vault")
def reverse(data: bytes) -> bytes: ...

@rpc(run_as="vault")
def kinds(
    at: datetime.datetime, day: datetime.date, time: datetime.time, span: datetime.timedelta, id: uuid.UUID,
    amount: decimal.Decimal, numbers: set[int],
) -> tuple[datetime.datetime, datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal, set[int]]: ...

@rpc(run_as="vault")
def read(file: pysecure_rpc.Fd) -> str: ...

zone = datetime.timezone(datetime.timedelta(hours=-1))
every = (
    datetime.datetime(2026, 2, 28, 23, 59, 0, 1, zone, fold=1), datetime.date(1, 1, 1), datetime.time(1, 2, 3),
    datetime.timedelta(-1, 5, 7), uuid.UUID(int=2**127 + 5), decimal.Decimal("1E+400"), {1, -(2**63)},
)
back = kinds(*every)
print("kinds", back == every and [type(b) for b in back] == [type(e) for e in every] and back[0].fold == 1)
try:
    kinds(*every[:6], {2**63})
    print("BROKEN")
except pysecure_rpc.InvalidArguments as e:
    print("no i64:", e)
with open("/etc/passwd") as file:
    print("read", read(pysecure_rpc.Fd(file)).startswith("root:"))

print("add", add(2, b=40))
print("secret", secret())
print("counted", sum(count(1000)))
try:
    add(2**63 - 1, 1)
except OverflowError as e:
    print("OverflowError", e)
try:
    reverse(b"xyz")
    print("BROKEN")
except Exception as e:
    print("reverse:", type(e).__name__)
print("that was all")
"#;

/// The same functions, with the same signatures, served by Python under another name.
const PYVAULT: &str = r#"
import pysecure_rpc
from pysecure_rpc import rpc

@rpc(run_as="pyvault")
def add(a: int, b: int) -> int:
    return a + b

@rpc(run_as="pyvault")
def shout(text: str, times: list[int]) -> dict[str, bytes]:
    "Says it loud."
    return {text.upper(): bytes(times) * 100_000}

@rpc(run_as="pyvault")
def count(to: int):
    yield from range(to)

pysecure_rpc.start_service("pyvault")
"#;

fn app(mode: Mode) -> App {
    use std::os::unix::fs::PermissionsExt;
    // An ordinary user can give the external service nothing.
    let manifest = match mode {
        Mode::Root => MANIFEST.replace("EXTERNAL", "external = [\"secret\"]"),
        Mode::Rootless => MANIFEST.replace(", EXTERNAL", "").replace("external_", "# external_"),
    };
    let app = App::new(mode, &manifest);
    let program = app.write("app/vault", std::fs::read(vault()).unwrap());
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    app.write("app/py.py", PY);
    app.write("app/pyvault.py", PYVAULT);
    python::package(&app, false, "lib");
    python::package(&app, true, "core");
    app
}

#[track_caller]
fn holds(text: &str, lines: &[&str], whose: &str) {
    for line in lines {
        assert!(text.contains(line), "{whose}: no line says {line:?}:\n{text}");
    }
}

#[test]
fn rust_calls_rust_and_python_calls_rust() {
    for mode in BOTH {
        let app = app(mode);
        app.ok(&["up", "-d"]);
        let front = app.wait_for_log("front", "that was all");
        holds(
            &front,
            &[
                r#"keep: Entry { owner: "front", note: Some("x"), tags: ["a", "b"] }"#,
                "add: 42",
                "overflow: OverflowError: OverflowError: too large",
                "a million bytes turned around: true",
                "three million: RuntimeError: too large: more bytes than a message may have",
                "linger: pysecure.DeadlineExceeded",
                "add after a deadline: 2",
                "counted: 499500",
                "some: [0, 1, 2]",
                "dozed: \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"",
                "dozes: pysecure.DeadlineExceeded",
                "kinds come back: true",
                "read: \"from a pipe\"",
                "secret: pysecure.NoSuchFunction",
                "of another: PermissionError: call `other`: not granted",
            ],
            &format!("{mode:?}"),
        );
        for caller in ["py", "compiled"] {
            let said = app.wait_for_log(caller, "that was all");
            let lines = [
                "kinds True",
                "no i64: ",
                "read True",
                "add 42",
                "counted 499500",
                "secret the secret",
                "OverflowError too large",
                "reverse: ",
            ];
            holds(&said, &lines, caller);
            assert!(!said.contains("BROKEN"), "{said}");
        }
        // Both have ended in the service: the one that was done, and the one that nobody waits for.
        harness::wait_until(|| (app.logs("vault").matches("woken").count() == 2).then_some(()));
        app.wait_for_log("vault", "vault refused \"secret\" to front, 1 so far");
        // A call is counted when it has been answered, which its caller may see first.
        let of = |kind: &str, function: &str, count: u32| {
            format!("pysecure_rpc_{kind}_total{{app=\"rpcrust\",service=\"vault\",function=\"{function}\"}} {count}\n")
        };
        for line in [
            of("denied", "secret", 1),
            of("calls", "add", 7),
            of("errors", "add", 3),
            of("calls", "count", 4),
            of("errors", "doze", 1),
        ] {
            harness::wait_until(|| app.ok(&["metrics"]).out.contains(&line).then_some(()));
        }
        app.ok(&["down"]);
    }
}

#[test]
fn the_command_line_calls_what_the_manifest_lets_it() {
    for mode in BOTH {
        let app = app(mode);
        app.ok(&["up", "-d"]);
        let call = |args: &[&str]| app.run(&[&["rpc", "call"], args].concat());
        // As the operator.
        assert_eq!(call(&["vault", "add", "2", "40"]).ok().out.trim(), "42");
        let kept = call(&["vault", "keep", "x", r#"["a"]"#]).ok().out;
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({"owner": "operator", "note": "x", "tags": ["a"]})
        );
        let listed = app.ok(&["rpc", "describe", "vault"]).out;
        let keep =
            "vault.keep(name:str,tags:list[str])->{owner:str,note:str|nil,tags:list[str]}\n    Keeps what it is given";
        holds(&listed, &["add(a:int,b:int)->int", keep], "list");
        assert!(!listed.contains("secret") && !listed.contains("linger"), "{listed}");
        for (args, says) in [
            (&["vault", "secret"][..], "pysecure.NoSuchFunction"),
            (&["vault", "add", "x", "1"], "pysecure.InvalidArguments"),
            (&["vault", "add", "1", "2", "3"], "too many arguments"),
            (
                &["vault", "add", "9223372036854775807", "1"],
                "OverflowError: too large",
            ),
        ] {
            let ended = call(args);
            assert_eq!(ended.code, 1, "{mode:?} {args:?} {ended:?}");
            assert!(ended.err.contains(says), "{mode:?} {args:?}: {}", ended.err);
        }
        // As others, and as those who may not.
        assert_eq!(
            call(&["--as", "py", "vault", "secret"]).ok().out.trim(),
            "\"the secret\""
        );
        let late = call(&["--as", "front", "--timeout", "0.05", "vault", "linger", "5000"]);
        assert_eq!((late.code, late.err.contains("deadline")), (1, true), "{late:?}");
        for args in [&["--as", "other", "vault", "add", "1", "2"][..], &["nothing", "add"]] {
            assert_eq!(call(args).code, 2, "{args:?}");
        }
        // Rust calls Python.
        assert_eq!(
            call(&["--as", "front", "pyvault", "add", "1", "2"]).ok().out.trim(),
            "3"
        );
        let counted = call(&["--as", "front", "pyvault", "count", "5"]).ok().out;
        assert_eq!(counted, "0\n1\n2\n3\n4\n");
        let loud = call(&["--as", "front", "pyvault", "shout", "hey", "[65, 66]"]).ok().out;
        let loud: serde_json::Value = serde_json::from_str(&loud).unwrap();
        assert_eq!(loud["HEY"]["bytes"].as_str().unwrap(), "4142".repeat(100_000));
        holds(
            &app.ok(&["rpc", "describe", "--as", "front", "pyvault"]).out,
            &["shout(text:str,", "Says it loud."],
            "list",
        );
        // A restart is no more than a wait.
        app.ok(&["restart", "vault"]);
        assert_eq!(call(&["vault", "add", "2", "40"]).ok().out.trim(), "42");
        app.ok(&["down"]);
        assert_eq!(call(&["vault", "add", "2", "40"]).code, 1);
    }
}

/// Ends with the test, however that ends.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn connections_that_rest_take_no_threads_and_are_served_when_they_speak() {
    use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
    use std::os::fd::{AsRawFd, OwnedFd};
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(vault());
    command
        .env("PYSECURE_RPC_DIR", folder.path())
        .env_remove("NOTIFY_SOCKET");
    let mut service = Running(command.spawn().unwrap());
    let path = folder.path().join("vault.sock");
    let connect = || -> OwnedFd {
        let fd = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let address = UnixAddr::new(&path).unwrap();
        // Until it listens.
        harness::wait_until(|| socket::connect(fd.as_raw_fd(), &address).ok());
        fd
    };
    let receive = |fd: &OwnedFd| {
        let mut bytes = vec![0; 65_536];
        let len = socket::recv(fd.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        bytes.truncate(len);
        bytes
    };
    let add = |id: u8| [0x95, 2, id, 0xa3, b'a', b'd', b'd', 0x92, 2, 40, 0x80];
    let status = |of: &str| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/{of}", service.0.id())).unwrap();
        let (key, text) = match of {
            "status" => ("Threads:", text),
            _ => ("Pss:", text),
        };
        let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let speak = |fd: &OwnedFd, id: u8| {
        socket::send(fd.as_raw_fd(), &add(id), MsgFlags::empty()).unwrap();
        assert_eq!(receive(fd), [0x93, 3, id, 42]);
    };
    let first = connect();
    assert_eq!(receive(&first)[1], 1, "HELLO");
    speak(&first, 1);
    harness::wait_until(|| (status("status") <= 2).then_some(()));
    let before = status("smaps_rollup");
    let others: Vec<OwnedFd> = (0..1_000).map(|_| connect()).collect();
    for fd in &others {
        receive(fd);
        speak(fd, 1);
    }
    harness::wait_until(|| (status("status") <= 2).then_some(()));
    let each = (status("smaps_rollup") - before) as f64 / 1_000.0;
    println!("{each} KiB for each of a thousand connections");
    assert!(each < 8.0, "{each} KiB");
    // More at once than there are threads.
    for fd in &others {
        socket::send(fd.as_raw_fd(), &add(2), MsgFlags::empty()).unwrap();
    }
    for fd in &others {
        assert_eq!(receive(fd), [0x93, 3, 2, 42]);
    }
    // It is told to end: each hears of it, and it does.
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(service.0.id() as i32),
        nix::sys::signal::Signal::SIGTERM,
    )
    .unwrap();
    for fd in &others {
        assert_eq!(receive(fd)[..2], [0x92, 9], "GOAWAY");
        assert!(receive(fd).is_empty(), "the end");
    }
    assert!(service.0.wait().unwrap().success());
}

#[test]
fn a_caller_that_takes_all_its_threads_leaves_the_others_theirs() {
    use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr};
    use std::os::fd::{AsRawFd, OwnedFd};
    let app = app(Mode::Root);
    let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    let patient = "[services.vault]\nstop_timeout = \"1s\"\n";
    app.write("pysecure.toml", manifest.replace("[services.vault]\n", patient));
    app.ok(&["up", "-d"]);
    let path = app.state().join("run/rpcrust/rpc/front/vault.sock");
    assert!(path.exists(), "{}", path.display());
    // A path of any length: sockaddr_un holds 108 bytes.
    let folder = std::fs::File::open(path.parent().unwrap()).unwrap();
    let short = format!("/proc/self/fd/{}/vault.sock", folder.as_raw_fd());
    let address = UnixAddr::new(short.as_str()).unwrap();
    let linger = [
        &[0x95, 2, 1, 0xa6][..],
        b"linger",
        &[0x91, 0xce, 0x7f, 0xff, 0xff, 0xff, 0x80],
    ]
    .concat();
    let held: Vec<OwnedFd> = (0..300)
        .map(|_| {
            let fd = socket::socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
            socket::connect(fd.as_raw_fd(), &address).unwrap();
            socket::send(fd.as_raw_fd(), &linger, MsgFlags::empty()).unwrap();
            fd
        })
        .collect();
    let called = app.ok(&["rpc", "call", "--as", "operator", "vault", "add", "2", "40"]);
    assert_eq!(called.out.trim(), "42");
    drop(held);
    app.ok(&["down"]);
}

#[test]
fn a_program_without_a_function_that_callers_name_says_so() {
    for mode in BOTH {
        let app = app(mode);
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write(
            "pysecure.toml",
            manifest.replace("operator = [\"add\",", "operator = [\"ad\","),
        );
        assert_ne!(app.run(&["up", "-d"]).code, 0);
        let says = "`callers` let operator call `ad`, which this program does not have";
        app.wait_for_log("vault", says);
        let _ = app.run(&["down"]);
    }
}

#[test]
fn the_external_service_has_sockets_for_its_id_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let app = app(Mode::Root);
    app.ok(&["up", "-d"]);
    let socket = app.state().join("run-external/rpcrust/vault.sock");
    let found = std::fs::metadata(&socket).unwrap();
    assert_eq!((found.uid(), found.mode() & 0o777), (33, 0o600));
    let folder = std::fs::metadata(socket.parent().unwrap()).unwrap();
    assert_eq!((folder.uid(), folder.mode() & 0o777), (0, 0o711));
    // A state directory of one's own has to let it pass; the app's own folders below stay closed.
    for passed in [app.folder.clone(), app.state()] {
        std::fs::set_permissions(&passed, std::fs::Permissions::from_mode(0o711)).unwrap();
    }
    let script = format!(
        "import socket,sys\ns=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET)\ns.connect({:?})\nprint(s.recv(65536))",
        socket.to_str().unwrap()
    );
    let connect = |uid: &str| {
        let mut python = Command::new("setpriv");
        python.args([
            "--reuid",
            uid,
            "--regid",
            uid,
            "--clear-groups",
            "/usr/bin/python3",
            "-c",
            &script,
        ]);
        Ended::from(python.current_dir("/").output().unwrap())
    };
    let theirs = connect("33").ok().out;
    assert!(
        theirs.contains("external") && theirs.contains("secret") && !theirs.contains("keep"),
        "{theirs}"
    );
    let another = connect("34");
    assert!(another.err.contains("PermissionError"), "{another:?}");
    app.ok(&["down"]);
    assert!(!app.state().join("run-external").exists());
}

#[test]
fn callers_that_mean_it_ill_take_nothing_of_others() {
    let out = Command::new("/usr/bin/python3")
        .args(["-B", "-m", "unittest", "test_rust"])
        .current_dir(repository().join("python/tests"))
        .env("PYSECURE_VAULT", vault())
        .env("PYSECURE_RPC_PURE", "1")
        .output()
        .expect("install `python3`");
    let ended = Ended::from(out);
    assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
}

/// A service that ends with the test.
struct Served(std::process::Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn messages_that_are_none_are_answered_alike_by_all_three_servers() {
    let script = repository().join("python/tests/malformed.py");
    let plain = repository().join("python/src");
    let python = |package: &Path, pure: &str| {
        let mut command = Command::new("/usr/bin/python3");
        command.env("PYTHONPATH", package).env("PYSECURE_RPC_PURE", pure);
        command.arg("-B").arg(&script);
        command
    };
    let mut in_python = python(&plain, "1");
    in_python.arg("serve");
    let mut with_core = python(python::with_core(), "");
    with_core.arg("serve");
    let servers = [
        ("Rust", Command::new(vault())),
        ("Python", in_python),
        ("the core", with_core),
    ];
    for (name, mut server) in servers {
        let folder = tempfile::tempdir().unwrap();
        let server = Served(server.env("PYSECURE_RPC_DIR", folder.path()).spawn().unwrap());
        let socket = folder.path().join("vault.sock");
        harness::wait_until(|| {
            std::os::unix::fs::FileTypeExt::is_socket(&socket.metadata().ok()?.file_type()).then_some(())
        });
        let ended = python(&plain, "1")
            .arg(&socket)
            .arg(server.0.id().to_string())
            .output()
            .unwrap();
        let ended = Ended::from(ended);
        assert_eq!(ended.code, 0, "{name}: {}{}", ended.out, ended.err);
        println!("{name}: {}", ended.out);
    }
}
