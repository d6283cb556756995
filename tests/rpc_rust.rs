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

/// `rpc/examples/vault.rs`, linked statically as all of this workspace is.
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
rpc_largest = "2M"
dynamic_svc_uid = 33
dynamic_svc_gid = 33
code = { "/app" = "./app", "/opt/pysecure" = "./lib", "/opt/core" = "./core" }

[services.vault]
command = ["/app/vault"]
directory = "/app"
ready = "notify"
callers = { front = ["keep", "add", "reverse", "linger", "count", "doze"], py = ["keep", "add", "secret", "count"], compiled = ["add", "secret", "count"], operator = ["add", "keep"], DYNAMIC }

[services.other]
command = ["/app/vault"]
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
import os
import pysecure_rpc
from pysecure_rpc import _codec, rpc

assert _codec.COMPILED == (os.environ["PYTHONPATH"] == "/opt/core")

@rpc(run_as="vault")
def add(a: int, b: int) -> int: ...

@rpc(run_as="vault")
def secret() -> str: ...

@rpc(run_as="vault")
def count(to: int) -> Iterator[int]:
    yield 0

@rpc(run_as="vault")
def reverse(data: bytes) -> bytes: ...

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
    // An ordinary user can give the dynamic service nothing.
    let manifest = match mode {
        Mode::Root => MANIFEST.replace("DYNAMIC", "dynamic = [\"secret\"]"),
        Mode::Rootless => MANIFEST
            .replace(", DYNAMIC", "")
            .replace("dynamic_svc", "# dynamic_svc"),
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
                "secret: pysecure.NoSuchFunction",
                "of another: PermissionError: call `other`: not granted",
            ],
            &format!("{mode:?}"),
        );
        for caller in ["py", "compiled"] {
            let said = app.wait_for_log(caller, "that was all");
            let lines = [
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
        let call = |args: &[&str]| app.run(&[&["call"], args].concat());
        // As the operator.
        assert_eq!(call(&["vault", "add", "2", "40"]).ok().out.trim(), "42");
        let kept = call(&["vault", "keep", "x", r#"["a"]"#]).ok().out;
        let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(
            kept,
            serde_json::json!({"owner": "operator", "note": "x", "tags": ["a"]})
        );
        let listed = call(&["--list", "vault"]).ok().out;
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
            &call(&["--as", "front", "--list", "pyvault"]).ok().out,
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
fn the_dynamic_service_has_sockets_for_its_id_alone() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let app = app(Mode::Root);
    app.ok(&["up", "-d"]);
    let socket = app.state().join("run-dynamic/rpcrust/vault.sock");
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
        theirs.contains("dynamic") && theirs.contains("secret") && !theirs.contains("keep"),
        "{theirs}"
    );
    let another = connect("34");
    assert!(another.err.contains("PermissionError"), "{another:?}");
    app.ok(&["down"]);
    assert!(!app.state().join("run-dynamic").exists());
}
