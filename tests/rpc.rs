//! RPC: the Python package's own tests, and services that call each other under the launcher: what is granted works,
//! and who was not granted it, or would be somebody else, comes to nothing.

mod harness;

use harness::python::{package, put, with_core};
use harness::{App, Ended, Mode, binary, need_root};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The interpreter that services find, too.
const PYTHON: &str = "/usr/bin/python3";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs one file of the Python package's tests, with the compiled core or in plain Python.
fn python_with(file: &str, core: bool) {
    python_by(Path::new(PYTHON), file, core);
}

fn python_by(interpreter: &Path, file: &str, core: bool) {
    need_root();
    let tests = repository().join("python/tests");
    let mut command = Command::new(interpreter);
    command
        .args(["-B", "-m", "unittest", file])
        .current_dir(&tests)
        .env("PYSECURE_BINARY", binary());
    match core {
        true => command.env("PYSECURE_RPC_PACKAGE", with_core()),
        false => command.env("PYSECURE_RPC_PURE", "1"),
    };
    let ended = Ended::from(command.output().expect("install `python3`"));
    assert_eq!(ended.code, 0, "{file}, core {core}:\n{}\n{}", ended.out, ended.err);
}

fn python(file: &str) {
    python_with(file, false);
}

#[test]
fn values_cross_and_a_million_hostile_messages_do_no_harm() {
    python("test_wire");
}

#[test]
fn values_cross_and_a_million_hostile_messages_do_no_harm_to_the_core() {
    python_with("test_wire", true);
}

#[test]
fn the_core_s_codec_and_the_plain_one_are_the_same() {
    python_with("test_both", true);
}

#[test]
fn the_vectors_are_read_in_plain_python() {
    python("test_vectors");
}

#[test]
fn the_vectors_are_read_by_the_core() {
    python_with("test_vectors", true);
}

#[test]
fn calls_mean_what_they_say() {
    python("test_calls");
}

#[test]
fn calls_mean_what_they_say_with_the_core() {
    python_with("test_calls", true);
}

#[test]
fn what_a_function_forks_serves_nothing_and_one_thread_is_one() {
    python("test_processes");
}

#[test]
fn what_a_function_forks_serves_nothing_and_one_thread_is_one_with_the_core() {
    python_with("test_processes", true);
}

#[test]
fn what_is_seen_of_calls_from_outside() {
    python("test_observed");
}

#[test]
fn what_is_seen_of_calls_from_outside_with_the_core() {
    python_with("test_observed", true);
}

#[test]
fn hostile_peers_and_rare_mishaps() {
    python("test_hostile");
}

#[test]
fn hostile_peers_and_rare_mishaps_with_the_core() {
    python_with("test_hostile", true);
}

#[test]
fn rare_states_of_the_engine() {
    python("test_engine");
}

#[test]
fn rare_states_of_the_engine_with_the_core() {
    python_with("test_engine", true);
}

#[test]
fn callers_in_gunicorn_and_gevent() {
    python("test_hosts");
}

#[test]
fn callers_in_gunicorn_and_gevent_with_the_core() {
    python_with("test_hosts", true);
}

/// Its figures mean nothing here; that it runs does.
#[test]
fn the_benchmark_beside_peers_works() {
    let out = Command::new(PYTHON)
        .args(["-B", "benches/rpc/peers/python", "--quick", "--core"])
        .arg(with_core())
        .current_dir(repository())
        .output()
        .expect("install `python3`");
    Ended::from(out).ok();
}

/// An interpreter that has what Debian 12 has no packages of.
fn with_pypi() -> PathBuf {
    let interpreter = repository().join("target/pypi/bin/python");
    assert!(
        interpreter.exists(),
        "make the environment that tests/run makes: python3 -m venv target/pypi && \
         target/pypi/bin/pip install opentelemetry-api==1.45.2 msgspec==0.22.0 mcp==2.3.0"
    );
    interpreter
}

#[test]
fn opentelemetry_s_context_goes_along() {
    python_by(&with_pypi(), "test_telemetry", false);
}

#[test]
fn opentelemetry_s_context_goes_along_with_the_core() {
    python_by(&with_pypi(), "test_telemetry", true);
}

#[test]
fn both_codecs_and_msgspec_are_of_one_mind() {
    python_by(&with_pypi(), "test_msgspec", true);
}

#[test]
fn the_original_s_configuration() {
    python("test_config");
}

#[test]
fn the_types_hold() {
    let out = Command::new("/usr/bin/mypy")
        .args(["--strict", "--python-version", "3.10", "--cache-dir=/dev/null"])
        // Debian's is too old for the sandbox's options; `wheel` has all of `src` checked by one that is not.
        .args(["src/pysecure", "src/pysecure_rpc"])
        .current_dir(repository().join("python"))
        .output()
        .expect("install `mypy`");
    Ended::from(out).ok();
}

#[test]
fn the_documentation_s_python() {
    python("test_docs");
}

/// Both modes, in plain Python and with the compiled core.
const EACH: [(Mode, bool); 4] = [
    (Mode::Root, false),
    (Mode::Rootless, false),
    (Mode::Root, true),
    (Mode::Rootless, true),
];

/// `examples/rpc-hello`, with the packages that the launcher carries; or with the core, in a folder that is shown to services.
fn rpc_hello((mode, core): (Mode, bool)) -> App {
    let from = repository().join("examples/rpc-hello");
    let mut manifest = std::fs::read_to_string(from.join("pysecure.toml")).unwrap();
    if core {
        for (old, new) in [
            (
                "\"/app\" = \"./app\"",
                "\"/app\" = \"./app\", \"/opt/pysecure\" = \"./lib\"",
            ),
            (
                "directory = \"/app\"\n",
                "directory = \"/app\"\nenvironment = { PYTHONPATH = \"/opt/pysecure\" }\n",
            ),
        ] {
            assert!(manifest.contains(old), "{manifest}");
            manifest = manifest.replace(old, new);
        }
    }
    let app = App::new(mode, &manifest);
    put(&app, &from.join("app"), "app");
    if core {
        package(&app, true, "lib");
    }
    app
}

#[test]
fn services_call_each_other_and_attacks_come_to_nothing() {
    for (mode, core) in EACH {
        let app = rpc_hello((mode, core));
        app.ok(&["up", "-d"]);
        let web = app.wait_for_log("web", "that was all");
        for line in [
            "alice has 100.00",
            "after a transfer she has 87.50",
            "alice sent bob 12.50",
            "no: alice does not have 1000",
            "refused: log in with a wrong password (PermissionError)",
            "refused: a function of bank that was not granted (NoSuchFunction)",
            "refused: a function of auth that only bank may call (NoSuchFunction)",
            "refused: a socket made by itself, to be called in bank's place",
            "refused: bank's socket to auth",
            "functions of auth, to web: ['register', 'login']",
        ] {
            assert!(web.contains(line), "{mode:?}: no line says {line:?}:\n{web}");
        }
        assert!(!web.contains("BROKEN"), "{mode:?}: {web}");
        // The callee knows who called, and counts what it refused.
        let auth = app.logs("auth");
        assert!(auth.contains("check_token for bank"), "{auth}");
        assert!(auth.contains("auth refused 'check_token' to web, 1 so far"), "{auth}");
        assert!(app.logs("bank").contains("bank refused 'print_money' to web, 1 so far"));
        // With the core, it is what services load in their jails.
        let codec = app.sh(
            "auth",
            "python3 -Bc 'from pysecure_rpc import _codec; print(_codec.COMPILED)'",
        );
        let compiled = if core { "True" } else { "False" };
        assert_eq!(codec.ok().out.trim(), compiled, "{mode:?}");
        app.ok(&["down"]);
    }
}

/// A service that speaks the protocol by hand, and lies in every element that it has.
const LIAR: &str = r#"
import os, socket
from pysecure_rpc import _wire

def ask(path, *messages):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(path)
    hello = _wire.unpack(s.recv(65536))
    answers = []
    for m in messages:
        s.send(_wire.pack(m))
        answers.append(_wire.unpack(s.recv(65536)))
    return hello, answers

hello, answers = ask("/run/pysecure/rpc/auth.sock",
    [2, 1, "check_token", ["x"], {}],
    [2, 2, "check_token", ["x"], {}, None, None, 0, 1, "bank", {"caller": "bank"}],
    [1, 1, "auth", "bank", {"check_token": 1}],
)
print("I am", hello[3], "and may call", sorted(hello[4]))
for a in answers:
    print(a[2])
for path in ("/run/pysecure/rpc/web.sock", "/run/pysecure/rpc/../bank/auth.sock", "/proc/1/root/run/pysecure/rpc/bank.sock"):
    try:
        ask(path)
        print("BROKEN: reached", path)
    except OSError as e:
        print(type(e).__name__)
for attempt in (
    lambda: os.rename("/run/pysecure/rpc/auth.sock", "/run/pysecure/rpc/bank.sock"),
    lambda: os.unlink("/run/pysecure/rpc/auth.sock"),
    lambda: socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind("/run/pysecure/rpc/mine.sock"),
):
    try:
        attempt()
        print("BROKEN: the folder of sockets can be written")
    except OSError as e:
        print(type(e).__name__)
"#;

#[test]
fn a_service_cannot_be_another() {
    for (mode, core) in EACH {
        let app = rpc_hello((mode, core));
        // `web` stays up, so that one can act in its place.
        app.write("app/web.py", "import time\ntime.sleep(1e9)\n");
        app.write("app/liar.py", LIAR);
        app.ok(&["up", "-d"]);
        let run = |service: &str| {
            let ended = app.run(&["exec", "-T", service, "--", "python3", "/app/liar.py"]);
            assert_eq!(ended.code, 0, "{mode:?} {service}: {}{}", ended.out, ended.err);
            assert!(!ended.out.contains("BROKEN"), "{mode:?} {service}: {}", ended.out);
            ended.out
        };
        let web = run("web");
        let lines: Vec<&str> = web.lines().collect();
        assert_eq!(
            lines[..4],
            [
                "I am web and may call ['login', 'register']",
                "pysecure.NoSuchFunction",
                "pysecure.NoSuchFunction",
                "pysecure.BadMessage"
            ],
            "{mode:?}: {web}"
        );
        let bank = run("bank");
        assert!(
            bank.starts_with("I am bank and may call ['check_token']\nKeyError\nKeyError\npysecure.BadMessage\n"),
            "{mode:?}: {bank}"
        );
        // `auth` may call nobody: it has no folder of sockets at all.
        let none = app.sh("auth", "ls /run/pysecure/rpc");
        assert_ne!(none.code, 0, "{mode:?}: {}", none.out);
        // Its policy is not its own to change, and is what the manifest says.
        let policy = app.sh("auth", "echo $PYSECURE_RPC_CALLERS").ok().out;
        assert_eq!(
            policy.trim(),
            r#"{"bank":["check_token"],"web":["login","register"]}"#,
            "{mode:?}"
        );
        app.ok(&["down"]);
    }
}

#[test]
fn a_service_restarts_and_callers_notice_no_more_than_a_wait() {
    for (mode, core) in EACH {
        let app = rpc_hello((mode, core));
        app.write(
            "app/web.py",
            "import time, auth\nauth.register('a', 'b')\n\
             for n in range(10**9):\n    assert auth.login('a', 'b')\n    print('call', n, flush=True)\n    time.sleep(0.05)\n",
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "call 3\n");
        app.ok(&["restart", "auth"]);
        let before = app.logs("web").lines().count();
        app.wait_for_log("web", &format!("call {}\n", before + 3));
        assert_eq!(app.service("web")["state"], "running", "{mode:?}: {}", app.logs("web"));
        app.ok(&["down"]);
    }
}

/// Bytes of a vector in hexadecimal, with what stands several times written out.
fn hexadecimal(parts: &Json) -> String {
    let part = |part: &Json| match part.as_array() {
        Some(repeated) => {
            let times = repeated[1].as_u64().unwrap() as usize;
            repeated[0].as_str().unwrap().repeat(times)
        }
        None => part.as_str().unwrap().to_owned(),
    };
    match parts.as_array() {
        Some(parts) => parts.iter().map(part).collect(),
        None => part(parts),
    }
}

/// As the client prints a value; `None` where that depends on C's library, or on how it is encoded.
fn as_printed(value: &Json) -> Option<String> {
    let all = |of: &Json| {
        of.as_array()
            .unwrap()
            .iter()
            .map(as_printed)
            .collect::<Option<Vec<String>>>()
    };
    let list = |of: &Json| Some(format!("[{}]", all(of)?.join(", ")));
    let object = match value {
        Json::Null => return Some("nil".into()),
        Json::String(text) => return Some(text.clone()),
        Json::Array(_) => return list(value),
        Json::Object(object) => object,
        other => return Some(other.to_string()),
    };
    let (kind, of) = object.iter().next().unwrap();
    Some(match kind.as_str() {
        "tuple" | "set" | "frozenset" | "datetime" | "date" | "time" | "timedelta" => list(of)?,
        "decimal" => of.as_str()?.to_owned(),
        "bytes" => of.as_str()?.to_owned(),
        "int" => format!("ext 1 {}", of.as_str()?),
        "uuid" => format!("ext 10 {}", of.as_str()?),
        "surrogates" => format!("ext 13 {}", of.as_str()?),
        "map" => {
            let pair = |pair: &Json| Some(format!("{}: {}", as_printed(&pair[0])?, as_printed(&pair[1])?));
            let pairs: Option<Vec<String>> = of.as_array()?.iter().map(pair).collect();
            format!("{{{}}}", pairs?.join(", "))
        }
        _ => return None,
    })
}

fn c_client(to: &Path) {
    let source = repository().join("examples/rpc-hello/client.c");
    let gcc = Command::new("gcc")
        .args(["-Wall", "-Wextra", "-Werror", "-o"])
        .args([to, &source])
        .output()
        .expect("install `gcc` and `libc6-dev`");
    Ended::from(gcc).ok();
}

/// It tells what cannot be read from what can. What it does not tell is what a client has no need of: whether a key stands twice, and whether
/// a date is one.
#[test]
fn the_vectors_are_read_in_c() {
    let folder = tempfile::tempdir().unwrap();
    let built = folder.path().join("client");
    c_client(&built);
    let file = std::fs::read_to_string(repository().join("specs/rpc-vectors.json")).unwrap();
    let all: Json = serde_json::from_str(&file).unwrap();
    let vectors: Vec<(String, &Json)> = ["values", "messages"]
        .iter()
        .flat_map(|which| all[which].as_array().unwrap())
        .filter(|vector| vector["descriptors"].as_array().is_none_or(Vec::is_empty))
        .map(|vector| (hexadecimal(&vector["bytes"]), vector))
        .filter(|(hex, _)| hex.len() <= 2 * 65_536)
        .collect();
    assert!(vectors.len() > 400, "{}", vectors.len());
    let lines: String = vectors.iter().map(|(hex, _)| format!("{hex}\n")).collect();
    std::fs::write(folder.path().join("lines"), lines).unwrap();
    let out = Command::new(&built)
        .arg("--vectors")
        .stdin(std::fs::File::open(folder.path().join("lines")).unwrap())
        .output()
        .unwrap();
    assert!(out.status.success());
    let printed = String::from_utf8(out.stdout).unwrap();
    let printed: Vec<&str> = printed.lines().collect();
    assert_eq!(printed.len(), vectors.len());
    let tells = ["truncated", "trailing", "reserved", "utf8", "depth", "key"];
    let mut wrong = Vec::new();
    for ((_, vector), printed) in vectors.iter().zip(printed) {
        let malformed = printed.ends_with(" malformed");
        let right = match vector["error"].as_str() {
            Some(error) => malformed || !tells.contains(&error),
            None => {
                let exact = vector["shortest"].as_bool() == Some(true);
                let expected = vector.get("value").filter(|_| exact).and_then(as_printed);
                !malformed && expected.is_none_or(|expected| expected == printed)
            }
        };
        if !right {
            wrong.push(format!("{}: {printed:.100}", vector["name"]));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// The protocol's page suffices to write a client: this one is in C.
#[test]
fn a_client_in_c_speaks_the_protocol() {
    for (mode, core) in EACH {
        let app = rpc_hello((mode, core));
        app.write(
            "app/web.py",
            "import time, auth\nauth.register('a', 'b')\nprint('registered')\ntime.sleep(1e9)\n",
        );
        let built = app.folder.join("app/client");
        c_client(&built);
        app.ok(&["up", "-d"]);
        let call = |service: &str, args: &[&str]| {
            let all = [
                &[
                    "exec",
                    "-T",
                    service,
                    "--",
                    "/app/client",
                    "/run/pysecure/rpc/auth.sock",
                ],
                args,
            ]
            .concat();
            app.run(&all)
        };
        harness::wait_until(|| Some(()).filter(|()| call("web", &["login", "a", "b"]).code == 0));
        let token = call("web", &["login", "a", "b"]).ok().out;
        assert_eq!(call("bank", &["check_token", token.trim()]).ok().out, "a\n", "{mode:?}");
        let wrong = call("web", &["login", "a", "c"]);
        assert_eq!(
            (wrong.code, wrong.out.as_str()),
            (1, "PermissionError: wrong user or password\n")
        );
        let denied = call("web", &["check_token", token.trim()]);
        assert_eq!(
            (denied.code, denied.out.as_str()),
            (1, "pysecure.NoSuchFunction: auth has no function 'check_token'\n")
        );
        let described = call("web", &["pysecure.describe"]).ok().out;
        assert!(described.contains("login(user:str,password:str)->str"), "{described}");
        app.ok(&["down"]);
    }
}

#[test]
fn functions_are_called_from_the_command_line() {
    for (mode, core) in EACH {
        let app = rpc_hello((mode, core));
        let down = app.run(&["rpc", "call", "--as", "web", "auth", "login", "a", "b"]);
        assert!(down.code == 1 && down.err.contains("is not up"), "{down:?}");
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "that was all");
        let list = app.ok(&["rpc", "list", "--as", "bank", "auth"]).out;
        assert!(list.contains("auth.check_token(") && !list.contains("login"), "{list}");
        let web = |args: &[&str]| app.run(&[&["rpc", "call", "--as", "web"], args].concat());
        assert_eq!(web(&["auth", "register", "carol", "secret"]).ok().out, "null\n");
        let token = |user: &str| -> String {
            let told = web(&["auth", "login", "-k", "password=secret", "-k", &format!("user={user}")])
                .ok()
                .out;
            serde_json::from_str(&told).unwrap()
        };
        // The only caller need not be named; a decimal is shown as its text, a stream as a line for each item.
        let alice = token("alice");
        assert_eq!(app.ok(&["rpc", "call", "bank", "balance", &alice]).out, "\"87.50\"\n");
        assert_eq!(
            app.ok(&["rpc", "call", "bank", "statement", &alice]).out,
            "{\"sender\":\"alice\",\"receiver\":\"bob\",\"amount\":\"12.50\"}\n"
        );
        let token = token("carol");
        for (args, code, says) in [
            (&["auth", "login", "carol", "wrong"][..], 1, "PermissionError"),
            (&["auth", "check_token", &token], 1, "pysecure.NoSuchFunction"),
            (&["auth", "login", "1"], 1, "pysecure.InvalidArguments"),
            (&["nobody", "login"], 2, "no service is called `nobody`"),
        ] {
            let ended = web(args);
            assert!(ended.code == code && ended.err.contains(says), "{args:?}: {ended:?}");
        }
        let unnamed = app.run(&["rpc", "call", "auth", "login", "carol", "secret"]);
        assert!(unnamed.code == 2 && unnamed.err.contains("--as"), "{unnamed:?}");
        let stranger = app.run(&["rpc", "call", "--as", "auth", "bank", "balance", &token]);
        assert!(
            stranger.code == 2 && stranger.err.contains("its callers are: web"),
            "{stranger:?}"
        );
    }
}

/// The services of the package's own tests, as an app: `one` with functions of all kinds, and `web`, which may call them.
fn functions((mode, core): (Mode, bool)) -> App {
    let manifest = r#"
        [app]
        name = "NAME"
        uid_range = [61000, 61999]
        gid_range = [61000, 61999]
        code = { "/app" = "./app", "/opt/pysecure" = "./lib" }
        [services.one]
        command = ["python3", "functions.py", "one"]
        directory = "/app"
        ready = "notify"
        environment = { PYTHONPATH = "/opt/pysecure" }
        callers = { web = "*" }
        rpc_tracebacks = true
        [services.web]
        command = ["sleep", "infinity"]
        depends_on = { one = "ready" }
    "#;
    let app = App::new(
        mode,
        &manifest.replace("NAME", &format!("functions-{mode:?}").to_lowercase()),
    );
    put(&app, &repository().join("python/tests"), "app");
    package(&app, core, "lib");
    app
}

#[test]
fn services_of_one_thread_and_children_of_their_functions_under_the_launcher() {
    for (mode, core) in EACH {
        let manifest = r#"
            [app]
            name = "NAME"
            code = { "/app" = "./app", "/opt/pysecure" = "./lib" }
            [services.one]
            command = ["python3", "processes.py", "one", "threads=1", "processes=2"]
            directory = "/app"
            ready = "notify"
            environment = { PYTHONPATH = "/opt/pysecure" }
            callers = { web = "*" }
            [services.two]
            command = ["python3", "processes.py", "two"]
            directory = "/app"
            ready = "notify"
            environment = { PYTHONPATH = "/opt/pysecure" }
            callers = { one = "*" }
            [services.web]
            command = ["sleep", "infinity"]
            depends_on = { one = "ready", two = "ready" }
        "#;
        let app = App::new(
            mode,
            &manifest.replace("NAME", &format!("processes-{mode:?}-{core}").to_lowercase()),
        );
        put(&app, &repository().join("python/tests"), "app");
        package(&app, core, "lib");
        let up = app.run(&["up", "-d"]);
        assert_eq!(up.code, 0, "{mode:?} {core}: {up:?}\n{}", app.run(&["logs"]).out);
        let call = |what: &[&str]| -> Json {
            let said = app.ok(&[&["rpc", "call", "one"], what].concat()).out;
            serde_json::from_str(&said).unwrap_or_else(|e| panic!("{mode:?} {core} {what:?}: {e}: {said}"))
        };
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..8 {
            for kind in [["plain"], ["coroutine"], ["runs_a_loop"]] {
                assert_eq!(call(&kind), serde_json::json!([true, 42]), "{mode:?} {core} {kind:?}");
            }
            seen.insert(call(&["pid"]).to_string());
            let parent = call(&["forks", "exits"]);
            assert_eq!(parent[1], 7, "{mode:?} {core}");
            seen.insert(parent[0].to_string());
            assert_eq!(call(&["terminates"]), -15, "{mode:?} {core}");
        }
        // Nobody but the two processes has answered.
        assert!(seen.len() <= 2, "{mode:?} {core}: {seen:?}");
        let child = "one 100 ConnectionLost web None 0";
        assert_eq!(
            call(&["child_calls"])[0],
            serde_json::json!([child, child, child]),
            "{mode:?} {core}"
        );
        // A child that stays holds up neither the end nor the next start.
        call(&["leaves_one"]);
        app.ok(&["restart", "one"]);
        assert_eq!(call(&["plain"]), serde_json::json!([true, 42]), "{mode:?} {core}");
        app.ok(&["down"]);
    }
}

/// A program that uses the stub as its author would.
const PROGRAM: &str = r#"
import asyncio, datetime, decimal
import one
from pysecure_rpc import Fd

text: str = one.login("a", "b", remember=True, token=None)
one.write_to(Fd(1), text)
amount: decimal.Decimal = one.same_decimal(decimal.Decimal("1.5"))
day: datetime.date = one.same_date(datetime.date(2026, 1, 2))
pairs: dict[tuple[int, str], float] = one.same_keys({(1, "a"): 2.0})
none: tuple[int, ...] = one.same_tuples(())
choice = one.same_literal("a")
point = one.same_dataclass({"x": 1, "others": [{"x": 2}]})
x: int = point["x"]
for n in one.count(3):
    n += 1
async def main() -> str:
    async for n in one.count_async(3):
        n += 1
    return await one.later(1.0, "x")
asyncio.run(main())
rest: list[str] = one.rest(1, 2, 3, key="value")
"#;

#[test]
fn stubs_and_a_description_are_made_of_a_service() {
    let mut first = None;
    for (mode, core) in EACH {
        let app = functions((mode, core));
        app.ok(&["up", "-d"]);
        app.ok(&["rpc", "stubs", "one", "-o", "one.pyi"]);
        let stub = std::fs::read_to_string(app.folder.join("one.pyi")).unwrap();
        assert_eq!(app.ok(&["rpc", "stubs", "--as", "web", "one"]).out, stub);
        let mypy = |program: &str| {
            app.write("program.py", program);
            let out = Command::new("/usr/bin/mypy")
                .args(["--strict", "--cache-dir=cache", "program.py"])
                .current_dir(&app.folder)
                .env("MYPYPATH", "lib")
                .output()
                .expect("install `mypy`");
            Ended::from(out)
        };
        // What is the same text need not be read again.
        if first.is_none() {
            mypy(PROGRAM).ok();
            for (wrong, says) in [
                (
                    "import one\none.login('a', 1)\n",
                    "has incompatible type \"int\"; expected \"str\"",
                ),
                ("import one\nx: str = one.pid()\n", "Incompatible types in assignment"),
                ("import one\none.surprise()\n", "has no attribute \"surprise\""),
                ("import one\none.same_dataclass({'y': 1})\n", "Missing key \"x\""),
                ("import one\none.same_literal('b')\n", "incompatible type"),
            ] {
                let ended = mypy(wrong);
                assert!(
                    ended.code == 1 && ended.out.contains(says),
                    "{wrong}: {ended:?}\n{stub}"
                );
            }
        }
        assert_eq!(first.get_or_insert_with(|| stub.clone()), &stub, "{mode:?} {core}");
        let described: serde_json::Value =
            serde_json::from_str(&app.ok(&["rpc", "describe", "--json", "one"]).out).unwrap();
        let functions = described["functions"].as_array().unwrap();
        let keys = functions.iter().find(|f| f["name"] == "same_keys").unwrap();
        assert_eq!(
            keys["returns_type"],
            serde_json::json!({ "kind": "map", "of": [
                { "kind": "tuple", "of": [{ "kind": "int" }, { "kind": "str" }] }, { "kind": "float" },
            ]})
        );
        assert_eq!(described["service"], "one");
        let shown = app.ok(&["rpc", "describe", "one"]).out;
        assert!(shown.contains("one.login(user:str,password:str"), "{shown}");
        let nobody = app.run(&["rpc", "stubs", "web"]);
        assert!(
            nobody.code == 2 && nobody.err.contains("nobody may call `web`"),
            "{nobody:?}"
        );
        app.ok(&["down"]);
    }
}

/// The manifest says whether exceptions show the service's code; here it does.
#[test]
fn tracebacks_cross_where_the_manifest_asks_for_them() {
    for (mode, core) in EACH {
        let app = functions((mode, core));
        app.ok(&["up", "-d"]);
        let ask = "import sys\nsys.path.insert(0, '/app')\nimport functions as f\n\
                   try:\n    f.fail('value')\nexcept ValueError as e:\n    print(repr(e), e.__cause__)\n";
        let run = || app.run(&["exec", "-T", "web", "--", "python3", "-Bc", ask]).ok().out;
        let told = run();
        assert!(
            told.contains("ValueError('bad', 3)") && told.contains("/app/functions.py"),
            "{told}"
        );
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write("pysecure.toml", manifest.replace("rpc_tracebacks = true", ""));
        app.ok(&["up", "-d"]);
        let told = run();
        assert!(told.contains("ValueError('bad', 3) None"), "{told}");
        app.write("pysecure.toml", manifest.replace("callers = { web = \"*\" }", ""));
        let ended = app.run(&["check"]);
        assert!(
            ended.code == 2 && ended.err.contains("but nobody may call it"),
            "{ended:?}"
        );
        // For what is taken away with the folder.
        app.write("pysecure.toml", manifest);
    }
}

/// A callee that was taken over gives its listening socket away and shuts another down: when it starts again, neither matters.
#[test]
fn what_a_callee_did_with_its_sockets_ends_with_it() {
    for mode in harness::BOTH {
        let manifest = format!(
            r#"
[app]
name = "stolen"
code = {{ "/code" = "./code" }}
[resources]
marks = {{ path = "/marks/", owner = "rw" }}
[services.thief]
command = ["{PYTHON}", "-u", "/code/thief.py"]
callers = {{ callee = "*" }}
[services.callee]
command = ["{PYTHON}", "-u", "/code/callee.py"]
owner_resources = ["marks"]
callers = {{ web = "*", shut = "*", late = "*" }}
depends_on = {{ thief = "ready" }}
[services.web]
command = ["sleep", "infinity"]
[services.shut]
command = ["sleep", "infinity"]
[services.late]
command = ["sleep", "infinity"]
"#
        );
        let app = App::new(mode, &manifest);
        let shared = r#"
import array, os, socket, sys, threading, time
fds = {name: socket.socket(fileno=3 + n) for n, name in enumerate(os.environ['LISTEN_FDNAMES'].split(':'))}
def serve(listener, text):
    def loop():
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            peer.send(text)
            peer.close()
    threading.Thread(target=loop).start()
"#;
        app.write(
            "code/callee.py",
            format!(
                r#"{shared}
if os.path.exists('/marks/second'):
    for name, listener in fds.items():
        serve(listener, b'callee ' + name.encode())
else:
    open('/marks/second', 'w').close()
    thief = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thief.connect('/run/pysecure/rpc/thief.sock')
    thief.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [fds['web'].fileno()]))])
    serve(fds['web'], b'callee web')
    fds['shut'].shutdown(socket.SHUT_RDWR)
    thief.recv(1)
print('ready', flush=True)
time.sleep(100000)
"#
            ),
        );
        app.write(
            "code/thief.py",
            format!(
                r#"{shared}
peer, _ = fds['callee'].accept()
message, ancillary, _, _ = peer.recvmsg(1, 1000)
serve(socket.socket(fileno=array.array('i', ancillary[0][2])[0]), b'thief')
peer.send(b'x')
print('has it', flush=True)
time.sleep(100000)
"#
            ),
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("thief", "has it");
        app.wait_for_log("callee", "ready");
        let ask = "import socket\n\
                   s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
                   try:\n\
                   \x20s.connect('/run/pysecure/rpc/callee.sock')\n\
                   \x20print(s.recv(100).decode())\n\
                   except OSError as e:\n\
                   \x20print(e.strerror)\n";
        let asked = |caller: &str| app.ok(&["exec", "-T", caller, "--", PYTHON, "-c", ask]).out;
        // The control: while that one runs, both answer, and nobody the other.
        harness::wait_until(|| (asked("web") == "thief\n").then_some(()));
        assert_eq!(asked("shut"), "Connection refused\n");
        // Whoever waits in a socket that nobody else has goes on waiting there, over the restart.
        let mut late = app.command(&[
            "exec",
            "-T",
            "late",
            "--",
            PYTHON,
            "-c",
            &format!("{ask}print('asked')"),
        ]);
        let late = late.stdout(std::process::Stdio::piped()).spawn().unwrap();
        harness::wait_until(|| {
            let init = app.init_of("late");
            let sockets = std::fs::read_to_string(format!("/proc/{init}/net/unix")).unwrap();
            // A connected socket of sequenced packets.
            sockets.contains(" 0005 03 ").then_some(())
        });
        app.ok(&["restart", "callee"]);
        harness::wait_until(|| (app.logs("callee").matches("ready").count() == 2).then_some(()));
        for _ in 0..20 {
            assert_eq!(asked("web"), "callee web\n", "{mode:?}");
        }
        assert_eq!(asked("shut"), "callee shut\n", "{mode:?}");
        let late = Ended::from(late.wait_with_output().unwrap()).ok();
        assert_eq!(late.out, "callee late\nasked\n", "{mode:?}");
    }
}
