//! Python without installing: the launcher carries the packages, services and configurations find them by themselves, what
//! is installed wins, and another version is said.

mod harness;

use harness::{App, BOTH, Mode};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// `auth` is called, `web` calls, `aside` does neither.
const MANIFEST: &str = r#"
[app]
name = "NAME"
code = { "/app" = "./app", "/opt/lib" = "./lib" }

[services.auth]
command = ["python3", "auth.py"]
directory = "/app"
ready = "notify"
callers = { web = ["login"] }

[services.web]
command = ["python3", "web.py"]
directory = "/app"
depends_on = { auth = "ready" }
ENVIRONMENT

[services.aside]
command = ["python3", "-c", "import os, sys; print('PYTHONPATH' in os.environ, [p for p in sys.path if 'pysecure' in p], os.path.exists('/run/pysecure/python'))"]
directory = "/app"
restart = "no"
"#;

const AUTH: &str = r#"
import pysecure_rpc
from pysecure_rpc import rpc

@rpc(run_as="auth")
def login(user: str) -> str:
    return f"{user} for {pysecure_rpc.caller()} by {pysecure_rpc.__file__}"

if __name__ == "__main__":
    pysecure_rpc.start_service("auth")
"#;

const WEB: &str = r#"
import os, sys
import pysecure, pysecure_rpc
import pysecure_rpc._errors as errors
from auth import login
assert errors is sys.modules["pysecure_rpc._errors"] and errors.RpcError is pysecure_rpc.RpcError
print("called:", login("alice"))
print("caller:", pysecure_rpc.__file__, "and", pysecure.__file__, "path:", sys.path[-1 if os.environ.get("LAST") else 1])
try:
    open("/run/pysecure/python/pysecure_rpc.py", "a")
    print("BROKEN: it writes to the launcher's packages")
except OSError as error:
    print("not written:", error.strerror)
print("over", flush=True)
"#;

/// Has a package in `lib` that is like the real one, but says that it is of another version.
fn install(app: &App, version: &str) {
    harness::python::package(app, false, "lib");
    for file in ["lib/pysecure_rpc/_version.py", "lib/pysecure/__init__.py"] {
        let text = std::fs::read_to_string(app.folder.join(file)).unwrap();
        let line = format!("__version__ = \"{}\"", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&line), "{file}");
        app.write(file, text.replace(&line, &format!("__version__ = \"{version}\"")));
    }
}

fn name_of(mode: Mode, name: &str) -> String {
    format!("{name}-{mode:?}").to_lowercase()
}

fn app(mode: Mode, name: &str, environment: &str) -> App {
    let name = name_of(mode, name);
    let manifest = MANIFEST.replace("NAME", &name).replace("ENVIRONMENT", environment);
    let app = App::new(mode, &manifest);
    app.write("app/auth.py", AUTH);
    app.write("app/web.py", WEB);
    app.write("lib/README", "");
    app
}

#[test]
fn with_nothing_installed_services_find_the_launcher_s_packages() {
    for mode in BOTH {
        let app = app(mode, "carried", "");
        let up = app.ok(&["up", "-d"]);
        assert!(!up.err.contains("version"), "{up:?}");
        let web = app.wait_for_log("web", "over");
        let carried = "/run/pysecure/python/carried";
        for line in [
            &format!("called: alice for web by {carried}/pysecure_rpc/__init__.py\n"),
            &format!(
                "caller: {carried}/pysecure_rpc/__init__.py and {carried}/pysecure/__init__.py path: /run/pysecure/python\n"
            ),
            "not written: ",
        ] {
            assert!(web.contains(line), "{mode:?}: no line says {line:?}:\n{web}");
        }
        assert!(!web.contains("version"), "{mode:?}: {web}");
        // Who has nothing to do with calls sees nothing of it.
        app.wait_for_log("aside", "False [] False\n");
        app.ok(&["down"]);
        // Other versions that nobody uses go, and those that another supervisor has stay.
        let python = app.state().join("python");
        let owner = std::fs::metadata(&python).unwrap();
        let given = |path: PathBuf| {
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
            path
        };
        let of_another = |letter: &str| {
            let folder = python.join(letter.repeat(64));
            std::fs::create_dir(&folder).unwrap();
            given(folder)
        };
        let (used, unused) = (of_another("a"), of_another("b"));
        let locks = python.join(format!("{}.lock", "a".repeat(64)));
        let theirs = std::fs::File::create(&locks).unwrap();
        given(locks);
        rustix::fs::flock(&theirs, FlockOperation::LockShared).unwrap();
        // What cannot be removed is said, and is all that stays: a folder where a file of locks ought to be.
        let (stays, no_file) = (of_another("c"), python.join(format!("{}.lock", "c".repeat(64))));
        std::fs::create_dir(&no_file).unwrap();
        let up = app.ok(&["-v", "up", "-d"]);
        assert!(used.exists() && !unused.exists() && stays.exists(), "{mode:?}");
        let says = format!("remove Python packages of another version at {}", stays.display());
        assert!(up.err.contains(&says), "{mode:?}: {}", up.err);
        std::fs::remove_dir(no_file).unwrap();
        drop(theirs);
        // Ours is to that supervisor what theirs is to ours.
        let own = std::fs::File::open(unpacked(&app, &[&used, &stays]).with_extension("lock")).unwrap();
        let alone = || rustix::fs::flock(&own, FlockOperation::NonBlockingLockExclusive);
        assert_eq!(alone(), Err(Errno::AGAIN), "{mode:?}");
        app.ok(&["down"]);
        harness::wait_until(|| alone().ok());
        drop(own);
        // Where it is gone, the next start makes it anew.
        std::fs::remove_dir_all(&python).unwrap();
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "over");
        app.ok(&["down"]);
    }
}

/// The folder of the one version that is unpacked, but for these others.
fn unpacked(app: &App, others: &[&Path]) -> PathBuf {
    let all = std::fs::read_dir(app.state().join("python")).unwrap();
    let all = all.map(|entry| entry.unwrap().path());
    let mut all = all.filter(|path| path.extension().is_none() && !others.contains(&path.as_path()));
    let found = all.next().unwrap();
    assert_eq!(all.next(), None);
    found
}

/// Locks the folder of the packages that it sees, and gives the lock to whoever connects.
const LOCKS: &str = r#"
import fcntl, os, socket
folder = os.open("/run/pysecure/python", os.O_RDONLY)
try:
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("others have it still")
gate = socket.socket(socket.AF_UNIX)
gate.bind("/srv/board/gate")
os.chmod("/srv/board/gate", 0o777)
gate.listen()
print("over", flush=True)
socket.send_fds(gate.accept()[0], [b"x"], [folder])
"#;

const LOCKING: &str = r#"
[resources.board]
path = "/srv/board"
owner = "rw"

[services.locks]
command = ["python3", "locks.py"]
directory = "/app"
owner_resources = ["board"]
environment = { PYTHONPATH = "/run/pysecure/python" }
restart = "no"
"#;

fn received(from: &UnixStream) -> OwnedFd {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let (mut bytes, mut ancillary) = ([0u8; 1], RecvAncillaryBuffer::new(&mut space));
    let mut part = [std::io::IoSliceMut::new(&mut bytes)];
    recvmsg(from, &mut part, &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    let mut fds = ancillary.drain().flat_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
        _ => Vec::new(),
    });
    fds.next().expect("a descriptor comes with it")
}

/// A service's lock may outlive its app: it may give it away.
#[test]
fn a_service_that_locks_the_folder_it_sees_keeps_nobody_waiting() {
    for mode in BOTH {
        let app = app(mode, "locked", "");
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write("pysecure.toml", format!("{manifest}{LOCKING}"));
        app.write("app/locks.py", LOCKS);
        app.ok(&["up", "-d"]);
        app.wait_for_log("locks", "over");
        let gate = app
            .state()
            .join(format!("apps/{}/resources/board/gate", name_of(mode, "locked")));
        let theirs = received(&UnixStream::connect(&gate).unwrap());
        app.ok(&["down"]);
        std::fs::remove_file(gate).unwrap();
        // It is the folder on the host, and theirs alone when the supervisor has ended.
        let folder = std::fs::metadata(unpacked(&app, &[])).unwrap();
        let seen = rustix::fs::fstat(&theirs).unwrap();
        assert_eq!((seen.st_dev, seen.st_ino), (folder.dev(), folder.ino()), "{mode:?}");
        let alone = || rustix::fs::flock(&theirs, FlockOperation::NonBlockingLockExclusive);
        harness::wait_until(|| alone().ok());
        app.ok(&["run", "-T", "aside", "--", "true"]);
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "over");
        app.ok(&["run", "-T", "web", "--", "python3", "-c", "import pysecure_rpc"]);
        app.ok(&["down"]);
    }
}

#[test]
fn the_supervisor_does_not_wait_for_others_that_unpack() {
    for mode in BOTH {
        let app = app(mode, "unpacking", "");
        app.ok(&["up", "-d"]);
        app.wait_for_log("web", "over");
        let python = app.state().join("python");
        let other = std::fs::File::open(&python).unwrap();
        rustix::fs::flock(&other, FlockOperation::LockExclusive).unwrap();
        std::fs::remove_dir_all(unpacked(&app, &[])).unwrap();
        let ended = app.run(&["restart", "auth"]);
        assert!(
            ended.code != 0 && ended.err.contains("another process unpacks"),
            "{mode:?} {ended:?}"
        );
        // All others are heard.
        app.ps();
        drop(other);
        app.ok(&["restart", "auth"]);
        app.wait_for_state("auth", "running");
        app.ok(&["down"]);
    }
}

#[test]
fn an_installed_package_wins_and_another_version_is_said() {
    for mode in BOTH {
        // As an interpreter's own folders come after PYTHONPATH, and so after what the launcher shows.
        let site = "environment = { PYTHONPATH = \"/app/no\", LAST = \"1\" }";
        let app = app(mode, "installed", site);
        app.write("app/sitecustomize.py", "import sys\nsys.path.append('/opt/lib')\n");
        app.write("app/no/sitecustomize.py", "import sys\nsys.path.append('/opt/lib')\n");
        install(&app, "9.9.9");
        app.ok(&["up", "-d"]);
        let web = app.wait_for_log("web", "over");
        assert!(
            web.contains(
                "caller: /opt/lib/pysecure_rpc/__init__.py and /opt/lib/pysecure/__init__.py path: /opt/lib\n"
            ),
            "{mode:?}: {web}"
        );
        let says = format!(
            "pysecure_rpc: this package is version 9.9.9, and the launcher is {}: install the same one",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(web.matches(&says).count(), 1, "{mode:?}: {web}");
        app.ok(&["down"]);
    }
}

#[test]
fn what_the_manifest_shows_is_compared_before_anything_starts() {
    for mode in BOTH {
        let app = app(mode, "compared", "environment = { PYTHONPATH = \"/opt/lib\" }");
        install(&app, env!("CARGO_PKG_VERSION"));
        let same = app.ok(&["check"]);
        assert!(
            !same.err.contains("version") && !same.out.contains("version"),
            "{mode:?}: {same:?}"
        );
        install(&app, "9.9.9");
        for command in [&["check"][..], &["up", "-d"]] {
            let ended = app.ok(command);
            let says = format!(
                "`web` finds `pysecure_rpc` 9.9.9 in /opt/lib, and this launcher is {}",
                env!("CARGO_PKG_VERSION")
            );
            assert!(
                format!("{}{}", ended.out, ended.err).contains(&says),
                "{mode:?} {command:?}: {ended:?}"
            );
        }
        let web = app.wait_for_log("web", "over");
        assert!(
            web.contains("caller: /opt/lib/pysecure_rpc/__init__.py"),
            "{mode:?}: {web}"
        );
        app.ok(&["down"]);
    }
}

const CONFIGURATION: &str = "
import sys
from pysecure import *
import pysecure_rpc

print('read by', PySecure.__module__, sys.modules['pysecure'].__file__, pysecure_rpc.__file__)
auth = PySecureService('auth', '/app', '/app/auth.py', ready='notify', callers={'web': ['login']})
web = PySecureService('web', '/app', '/app/web.py', depends_on={'auth': 'ready'})
config = PySecureConfig('NAME', (61000, 61999), (61000, 61999))
config.register_services([auth, web])
PySecure.run_with_config(config)
";

#[test]
fn a_configuration_needs_nothing_installed_either() {
    for mode in BOTH {
        let app = App::new(mode, "");
        std::fs::remove_file(app.folder.join("pysecure.toml")).unwrap();
        let name = format!("carried-config-{mode:?}").to_lowercase();
        app.write("pysecure_config.py", CONFIGURATION.replace("NAME", &name));
        app.write("app/auth.py", AUTH);
        app.write("app/web.py", WEB);
        let checked = app.ok(&["-f", "pysecure_config.py", "check"]);
        let carried = "/run/pysecure/python/carried";
        let says = format!("read by pysecure {carried}/pysecure/__init__.py {carried}/pysecure_rpc/__init__.py");
        assert!(checked.err.contains(&says), "{mode:?}: {checked:?}");
        // `check` leaves no trace.
        assert!(!app.state().exists(), "{mode:?}");
        // What is wrong is shown at the file's own lines, as with a package that lies on disk.
        let wrong = CONFIGURATION
            .replace("NAME", &name)
            .replace("'web': ['login']", "'nobody': '*'");
        app.write("wrong_config.py", wrong);
        let ended = app.run(&["-f", "wrong_config.py", "check"]);
        assert!(
            ended.code == 2 && ended.err.contains("wrong_config.py:7"),
            "{mode:?}: {ended:?}"
        );
        app.ok(&["-f", "pysecure_config.py", "up", "-d"]);
        let web = app.wait_for_log("web", "over");
        let line = format!("called: alice for web by {carried}/pysecure_rpc/__init__.py\n");
        assert!(web.contains(&line), "{mode:?}: {web}");
        app.ok(&["-f", "pysecure_config.py", "down"]);
        // One beside it wins, and its version is compared.
        install(&app, "9.9.9");
        let checked = app.ok(&["-f", "pysecure_config.py", "check"]);
        assert!(!checked.err.contains(carried), "{mode:?}: {checked:?}");
        let says = format!(
            "/lib/pysecure is version 9.9.9, and the launcher is {}: install the same one",
            env!("CARGO_PKG_VERSION")
        );
        assert!(checked.err.contains(&says), "{mode:?}: {checked:?}");
    }
}
