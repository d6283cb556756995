//! The Python package as it is installed: one wheel with the compiled core and the launcher in it, an application that
//! runs from an environment which has nothing else, and what type checkers make of the packages.

mod harness;

use harness::{App, BOTH, Ended, Mode, binary, fresh_folder, need_root};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A program of the environment that tests/run makes.
fn tool(name: &str) -> Command {
    let path = repository().join("target/packaging/bin").join(name);
    assert!(
        path.exists(),
        "{} is missing: make the environment that tests/run makes, in target/packaging",
        path.display()
    );
    let mut command = Command::new(path);
    command
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PYRIGHT_PYTHON_IGNORE_WARNINGS", "1");
    command
}

/// A folder of an earlier run's, without what is in it.
fn emptied(path: &str) -> PathBuf {
    let path = repository().join(path);
    if path.exists() {
        std::fs::remove_dir_all(&path).unwrap();
    }
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[track_caller]
fn run(command: &mut Command) -> Ended {
    Ended::from(command.output().unwrap())
}

/// The wheel, built once, without optimization; the launcher in it is the one under test.
fn wheel() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        tool("maturin"); // what is missing is said here, and not fetched
        let out = emptied("target/wheels/tested");
        run(Command::new(repository().join("python/wheel"))
            .args(["--debug", "--launcher"])
            .arg(binary())
            .arg("--out")
            .arg(&out)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS"))
        .ok();
        let mut wheels: Vec<PathBuf> = std::fs::read_dir(out).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(wheels.len(), 1, "{wheels:?}");
        wheels.remove(0)
    })
}

/// An environment of Python's that has the wheel, installed without a network and without anything else.
fn environment(at: &Path) {
    run(Command::new("/usr/bin/python3")
        .args(["-m", "venv", "--without-pip"])
        .arg(at))
    .ok();
    run(tool("pip")
        .arg("--python")
        .arg(at.join("bin/python"))
        .args(["install", "--quiet", "--no-index", "--no-cache-dir", "--no-deps"])
        .arg(wheel()))
    .ok();
}

/// An environment that nobody changes.
fn shared() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let at = emptied("target/wheels/environment");
        environment(&at);
        at
    })
}

#[test]
fn one_wheel_has_it_all() {
    let name = wheel().file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("pysecure_launcher-"), "{name}");
    assert!(name.contains("-cp310-abi3-manylinux_"), "{name}");
    let list = "import sys, zipfile\n\
                held = zipfile.ZipFile(sys.argv[1])\n\
                print(*held.namelist(), sep='\\n')\n\
                print(next(held.read(n).decode() for n in held.namelist() if n.endswith('/METADATA')))";
    let listed = run(Command::new("/usr/bin/python3").args(["-c", list]).arg(wheel()))
        .ok()
        .out;
    let lines: Vec<&str> = listed.lines().collect();
    for file in [
        "pysecure/py.typed",
        "pysecure_rpc/py.typed",
        "pysecure_rpc/_core.pyi",
        "pysecure_rpc/_core.abi3.so",
        "pysecure_rpc/_plain.py",
        "pysecure_sandbox/py.typed",
        "pysecure_sandbox/_inside.py",
    ] {
        assert!(lines.contains(&file), "{file} is missing:\n{listed}");
    }
    for end in [
        ".data/scripts/pysecure",
        ".data/data/share/man/man1/pysecure.1",
        ".data/data/share/man/man5/pysecure.toml.5",
        "/LICENSE-MIT",
        "/LICENSE-APACHE",
    ] {
        assert!(lines.iter().any(|l| l.ends_with(end)), "{end} is missing:\n{listed}");
    }
    let mut wanted = lines.iter().filter(|line| line.contains("Requires-Dist"));
    assert!(
        wanted.all(|line| line.contains("extra == 'mcp'")),
        "it needs nothing but Python:\n{listed}"
    );
    // What was put beside the sources for it is gone again.
    assert!(!repository().join("python/pysecure_rpc._core.data").exists());
}

#[test]
fn the_source_distribution_builds() {
    let out = emptied("target/wheels/source");
    let wheel = wheel(); // first, since both write to target/python-core
    run(Command::new(repository().join("python/wheel"))
        .args(["--sdist", "--out"])
        .arg(&out))
    .ok();
    let archive = files(&out).remove(0);
    let unpacked = fresh_folder(); // away from this repository's configuration
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&unpacked)).ok();
    let source = std::fs::read_dir(&unpacked).unwrap().next().unwrap().unwrap().path();
    // With the same target and flags what it depends on is there already.
    std::fs::create_dir(source.join(".cargo")).unwrap();
    std::fs::write(
        source.join(".cargo/config.toml"),
        "[build]\ntarget = \"host-tuple\"\nrustflags = [\"--cfg=pysecure_extension\"]\n",
    )
    .unwrap();
    run(tool("maturin")
        .args(["build", "--profile", "dev", "--target-dir"])
        .arg(repository().join("target/python-core"))
        .arg("--out")
        .arg(&out)
        .current_dir(source)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS"))
    .ok();
    std::fs::remove_dir_all(unpacked).unwrap();
    // The same wheel, but for the launcher.
    assert!(out.join(wheel.file_name().unwrap()).exists());
}

const MANIFEST: &str = r#"
[app]
name = "NAME"
code = { "/app" = "./app", "/opt/venv" = "./venv" }

[services.auth]
command = ["/opt/venv/bin/python", "-B", "auth.py"]
directory = "/app"
ready = "notify"
callers = { web = ["login"] }

[services.web]
command = ["/opt/venv/bin/python", "-B", "web.py"]
directory = "/app"
depends_on = { auth = "ready" }
"#;

const AUTH: &str = r#"
import pysecure_rpc
from pysecure_rpc import _codec, rpc

@rpc(run_as="auth")
def login(user: str, password: str) -> str:
    return f"{pysecure_rpc.caller()} calls, compiled: {_codec.COMPILED}"

if __name__ == "__main__":
    pysecure_rpc.start_service("auth")
"#;

const WEB: &str = r#"
import pysecure, pysecure_rpc
from pysecure_rpc import _codec
from auth import login
assert pysecure_rpc.__file__.startswith("/opt/venv/lib/"), pysecure_rpc.__file__
print(login("alice", "secret"), "and here:", _codec.COMPILED, flush=True)
"#;

#[test]
fn an_environment_with_the_wheel_runs_an_application_and_without_the_core_it_is_plain_python() {
    for mode in BOTH {
        let name = format!("wheel-{mode:?}").to_lowercase();
        let app = App::new(mode, &MANIFEST.replace("NAME", &name));
        app.write("app/auth.py", AUTH);
        app.write("app/web.py", WEB);
        let venv = app.folder.join("venv");
        environment(&venv);
        // All by the installed launcher.
        let launcher = venv.join("bin/pysecure");
        let pysecure = |args: &[&str]| run(&mut app.shell_free(launcher.to_str().unwrap(), args));
        assert_eq!(pysecure(&["--version"]).ok().out, app.ok(&["--version"]).out);
        pysecure(&["check"]).ok();
        for compiled in [true, false] {
            let core = files(&venv).into_iter().find(|f| f.ends_with("_core.abi3.so"));
            if !compiled {
                std::fs::remove_file(core.expect("the core is installed")).unwrap();
            }
            pysecure(&["up", "-d"]).ok();
            let says = match compiled {
                true => "web calls, compiled: True and here: True",
                false => "web calls, compiled: False and here: False",
            };
            app.wait_for_log("web", says);
            pysecure(&["down", "--purge"]).ok();
        }
    }
}

#[test]
fn a_configuration_finds_the_launcher_beside_its_interpreter() {
    need_root();
    let app = App::new(Mode::Root, "");
    app.write("bank/auth.py", AUTH);
    app.write(
        "pysecure_config.py",
        "from pysecure import PySecure, PySecureConfig, PySecureService\n\
         config = PySecureConfig('wheel-beside', (61000, 61999), (61000, 61999))\n\
         config.register_services([PySecureService('auth', '/bank', '/bank/auth.py')])\n\
         PySecure.run_with_config(config, '--dry-run')\n",
    );
    // Neither is the environment active nor PYSECURE_BINARY set.
    let mut command = app.shell_free(
        shared().join("bin/python").to_str().unwrap(),
        &["-B", "pysecure_config.py"],
    );
    let ended = run(command.env("PATH", "/usr/bin:/bin")).ok();
    assert!(ended.out.contains("auth"), "{ended:?}");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|path| match path.is_dir() && !path.is_symlink() {
            true => files(&path),
            false => vec![path],
        })
        .collect()
}

#[test]
fn the_packages_are_right_to_both_type_checkers() {
    let python = repository().join("python");
    let mypy = ["--strict", "--python-version", "3.10", "--cache-dir=/dev/null", "src"];
    run(tool("mypy").args(mypy).current_dir(&python)).ok();
    // Its strict mode, as pyproject.toml asks for.
    run(tool("pyright")
        .args(["--warnings", "--pythonpath", "/usr/bin/python3"])
        .current_dir(&python))
    .ok();
    // The stub says what the core that was built has.
    let packages = files(shared())
        .into_iter()
        .find(|f| f.ends_with("_core.abi3.so"))
        .and_then(|f| Some(f.parent()?.parent()?.to_owned()))
        .expect("the core is installed");
    run(tool("stubtest")
        .args(["--ignore-disjoint-bases", "pysecure_rpc._core"])
        .env("MYPYPATH", python.join("src"))
        .env("PYTHONPATH", packages)
        .current_dir(shared()))
    .ok();
}

/// Both type checkers in their strict modes, on a program whose environment has the wheel: what they find.
fn checked(program: &str) -> [Ended; 2] {
    let folder = fresh_folder();
    std::fs::write(folder.join("program.py"), program).unwrap();
    let settings = r#"{ "typeCheckingMode": "strict", "pythonVersion": "3.10", "include": ["program.py"] }"#;
    std::fs::write(folder.join("pyrightconfig.json"), settings).unwrap();
    let python = shared().join("bin/python");
    let mypy = ["--strict", "--python-version", "3.10", "--cache-dir=/dev/null"];
    let both = [
        run(tool("mypy")
            .args(mypy)
            .arg("--python-executable")
            .arg(&python)
            .arg("program.py")
            .current_dir(&folder)),
        run(tool("pyright")
            .args(["--warnings", "--pythonpath"])
            .arg(&python)
            .current_dir(&folder)),
    ];
    std::fs::remove_dir_all(folder).unwrap();
    both
}

#[test]
fn a_program_s_functions_keep_their_signatures() {
    let typed = std::fs::read_to_string(repository().join("python/tests/typed.py")).unwrap();
    let [mypy, pyright] = checked(&typed);
    mypy.ok();
    pyright.ok();
}

/// The Python that a page shows, as one program.
fn shown(page: &str) -> String {
    let page = std::fs::read_to_string(repository().join(page)).unwrap();
    let blocks = page.split("```python\n").skip(1);
    blocks.map(|block| block.split("```\n").next().unwrap()).collect()
}

#[test]
fn what_the_documentation_shows_is_typed() {
    let [mypy, pyright] = checked(&shown("docs/how-to/sandbox.md"));
    mypy.ok();
    pyright.ok();
    let mut program = shown("docs/how-to/rpc.md");
    // The original's, where it has its main part in the function.
    program.push_str(
        "
@rpc(run_as='authsvc')
def protected_function() -> None:
    # Function details

    if __name__ == '__main__':
        pysecure_rpc.start_service('authsvc')

cred_db_resource = PySecureResource('/zoobar/db/cred/cred.db', 'rw',
'', '')
zoobar_bundle = PySecureSharedBundle([cred_db_resource])
authsvc = PySecureService('authsvc', '/', '/zoobar/auth.py',
[cred_db_resource], zoobar_bundle)
",
    );
    let [mypy, pyright] = checked(&program);
    mypy.ok();
    pyright.ok();
}

#[test]
fn a_wrong_call_is_seen_by_both_type_checkers() {
    let program = "\
import pysecure_rpc
from pysecure import PySecureResource
from pysecure_rpc import rpc


@rpc(run_as='auth')
def login(user: str, password: str) -> bool:
    return user == password


login('alice', 1)
login('alice')
login('alice', word='secret')
text: str = login('alice', 'secret')
PySecureResource('/db', 'rw')
rpc(run_as=1)
pysecure_rpc.start_service()
";
    for ended in checked(program) {
        assert_eq!(ended.code, 1, "{ended:?}");
        for line in 11..=17 {
            assert!(
                ended
                    .out
                    .lines()
                    .any(|l| l.contains(&format!("program.py:{line}:")) && l.contains("error")),
                "nothing is said of line {line}:\n{}",
                ended.out
            );
        }
    }
}
