//! Configurations in Python, as the original has them: `pysecure -f pysecure_config.py` runs the file in a sandbox and
//! reads what it comes to. What it may not do it cannot, and errors point at its lines.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use std::path::Path;

/// A folder with the packages beside it, and this configuration.
fn app(mode: Mode, configuration: &str) -> App {
    let app = App::new(mode, "");
    std::fs::remove_file(app.folder.join("pysecure.toml")).unwrap();
    let packages = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/src");
    for package in ["pysecure", "pysecure_rpc"] {
        for entry in std::fs::read_dir(packages.join(package)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let name = path.file_name().unwrap().to_str().unwrap();
                app.write(&format!("lib/{package}/{name}"), std::fs::read(&path).unwrap());
            }
        }
    }
    app.write("pysecure_config.py", configuration);
    app
}

/// What the original's documentation shows, with the folders that it speaks of.
const ORIGINAL: &str = "
from pysecure import *

cred_db_resource = PySecureResource('/zoobar/db/cred/cred.db', 'rw',
'', '')
zoobar_resource = PySecureResource('/zoobar/db/zoobars/', '', 'rw', '')
zoobar_bundle = PySecureSharedBundle([zoobar_resource])
authsvc = PySecureService('authsvc', '/', '/zoobar/auth.py',
[cred_db_resource], zoobar_bundle)
web = PySecureService('web', '/zoobar', '/zoobar/web.py')
config = PySecureConfig('NAME', (61000, 61999), (61000, 61999))
config.register_resources([cred_db_resource, zoobar_resource])
config.register_bundles([zoobar_bundle])
config.register_services([authsvc, web])
PySecure.run_with_config(config)
";

const AUTH: &str = "
import pysecure_rpc
from pysecure_rpc import rpc

@rpc(run_as='authsvc')
def protected_function():
    with open('/zoobar/db/cred/cred.db', 'a') as file:
        file.write('called')
    return 'for ' + pysecure_rpc.caller()

if __name__ == '__main__':
    pysecure_rpc.start_service('authsvc')
";

const WEB: &str = "
import auth
print('got', auth.protected_function(), flush=True)
try:
    open('/zoobar/db/cred/cred.db')
    print('BROKEN: it reads what is not its own')
except OSError as e:
    print('refused:', type(e).__name__, flush=True)
";

#[test]
fn the_original_s_examples_run_as_written() {
    for mode in BOTH {
        let name = format!("original-{}", format!("{mode:?}").to_lowercase());
        let app = app(mode, &ORIGINAL.replace("NAME", &name));
        app.write("zoobar/auth.py", AUTH);
        app.write("zoobar/web.py", WEB);
        let checked = app.ok(&["-f", "pysecure_config.py", "check"]);
        assert!(
            checked.out.contains("2 services, 5 resources, 1 bundles: ok"),
            "{checked:?}"
        );
        // The line that says which policy is the file's.
        let says = "each may call every function of all others\n  --> pysecure_config.py:11:26";
        assert!(checked.err.contains(says), "{}", checked.err);
        // It is found by its name, too.
        app.ok(&["up", "-d"]);
        let web = app.wait_for_log("web", "refused");
        assert!(
            web.contains("got for web") && !web.contains("BROKEN"),
            "{mode:?}: {web}"
        );
        // The file that `run_with_config` writes is the same app.
        let run = app.shell_free("/usr/bin/python3", &["-B", "pysecure_config.py"]);
        let mut run = run;
        run.env("PYTHONPATH", app.folder.join("lib"))
            .env("PYSECURE_BINARY", harness::binary());
        app.ok(&["down"]);
        let mut up = run.spawn().unwrap();
        let json = format!("{name}.pysecure.json");
        harness::wait_until(|| {
            let logs = app.run(&["-f", &json, "logs", "web"]);
            (logs.out.matches("got for web").count() >= 2).then_some(())
        });
        app.ok(&["-f", "pysecure_config.py", "down"]);
        assert!(up.wait().unwrap().success(), "{mode:?}");
    }
}

fn check(app: &App) -> Ended {
    app.run(&["-f", "pysecure_config.py", "check"])
}

#[test]
fn errors_point_at_the_file_s_lines() {
    for mode in BOTH {
        let app = app(mode, "");
        let expect = |configuration: &str, parts: &[&str]| {
            app.write("pysecure_config.py", configuration);
            let ended = check(&app);
            assert_eq!(ended.code, 2, "{mode:?} {configuration}: {ended:?}");
            for part in parts {
                assert!(ended.err.contains(part), "{mode:?}: no {part:?} in:\n{}", ended.err);
            }
        };
        let here = app.folder.join("pysecure_config.py");
        expect(
            "import pysecure\n\ndef make():\n    return nonsense\n\nmake()\n",
            &[
                "Traceback (most recent call last):",
                &format!("File \"{}\", line 6, in <module>", here.display()),
                &format!("File \"{}\", line 4, in make", here.display()),
                "error: pysecure_config.py:4: NameError: name 'nonsense' is not defined",
            ],
        );
        expect(
            "x = (\n",
            &["error: pysecure_config.py:1: SyntaxError: '(' was never closed"],
        );
        expect("", &["this makes no PySecureConfig"]);
        expect(
            "print('told')\nraise SystemExit(0)\n",
            &["told", "error: pysecure_config.py:2: SystemExit"],
        );
        expect(
            "from pysecure import *\nc = PySecureConfig('a', (61000, 61999), (61000, 61999))\n\
             c.register_services([\n    PySecureService('one', '/', 'true'),\n    \
             PySecureService(\n        'two', '/', 'true',\n        restat='always',\n    ),\n])\n",
            &[
                "unknown key `restat` in service `two`",
                "--> pysecure_config.py:7:9",
                "restat='always',",
                "did you mean `restart`?",
            ],
        );
        expect(
            "from pysecure import *\nc = PySecureConfig('a', (61000, 61999), (61000, 61999))\n\
             c.register_services([PySecureService('one', '/', 'true', callers={'nobody': '*'})])\n",
            &["no service is called `nobody`", "--> pysecure_config.py:3:"],
        );
        // Its output is text, whatever it is.
        app.write("pysecure_config.py", "print('\\x1b[2J')\n");
        assert!(!check(&app).err.contains('\x1b'));
        let json = app.run(&["-f", "pysecure_config.py", "check", "--json"]);
        assert_eq!(json.code, 2, "{json:?}");
    }
}

/// Tries all that a configuration may not, and says what came of it.
const PRYING: &str = r#"
import os, socket, subprocess, sys, threading
from pysecure import *

def attempt(what, deed):
    try:
        result = deed()
        print("DONE:", what, result)
    except BaseException as e:
        print("refused:", what, type(e).__name__)

def connect():
    s = socket.create_connection(("1.1.1.1", 53), 2)
def host():
    s = socket.create_connection(("127.0.0.1", PORT), 2)
def thread():
    t = threading.Thread(target=print)
    t.start()
def big_memfd():
    fd = os.memfd_create("x")
    return os.write(fd, b"x" * 100)

here = os.path.dirname(os.path.abspath(__file__))
attempt("connect", connect)
attempt("connect to the host", host)
attempt("talk to the host's system bus", lambda: socket.socket(socket.AF_UNIX).connect("/run/dbus/system_bus_socket"))
for path in (here, here + "/lib", "/tmp", "/dev", "/dev/shm", "/", "/usr", "/var/tmp", "/run", "/proc/self"):
    attempt("write in " + path, lambda: open(path + "/written", "w"))
attempt("change itself", lambda: open(__file__, "a"))
attempt("chmod itself", lambda: os.chmod(__file__, 0o777))
attempt("remove itself", lambda: os.unlink(__file__))
attempt("fork", os.fork)
attempt("run a program", lambda: subprocess.run(["true"]))
attempt("system", lambda: os.system("true") and 1 / 0)
attempt("a thread", thread)
attempt("a file of memory", big_memfd)
attempt("a gigabyte", lambda: len(bytearray(1 << 30)))
for path in ("/etc/shadow", "/root", "/home", "/var/lib", here + "/../OTHER"):
    attempt("see " + path, lambda: (os.listdir(path) if os.path.isdir(path) else open(path).read()) or 1 / 0)
attempt("signal", lambda: os.kill(1, 9))
attempt("mount", lambda: os.mount) if hasattr(os, "mount") else None
attempt("a namespace", lambda: os.unshare(0x10000000) if hasattr(os, "unshare") else 1 / 0)
attempt("see processes", lambda: [p for p in os.listdir("/proc") if p.isdigit() and int(p) > 2] or 1 / 0)
print("tried all")
config = PySecureConfig("prying", (61000, 61999), (61000, 61999))
config.register_services([PySecureService("a", "/", "true")])
"#;

#[test]
fn a_configuration_can_only_say_what_it_is() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = harness::fresh_folder();
    for mode in BOTH {
        let other = other.file_name().unwrap().to_str().unwrap();
        let app = app(mode, &PRYING.replace("PORT", &port.to_string()).replace("OTHER", other));
        let ended = check(&app).ok();
        assert!(ended.err.contains("tried all"), "{mode:?}: {}", ended.err);
        assert!(!ended.err.contains("DONE"), "{mode:?}: {}", ended.err);
        // Nothing was left behind, not even what Python keeps of a module.
        let left = std::fs::read_dir(app.folder.join("lib/pysecure")).unwrap();
        let left: Vec<_> = left.map(|e| e.unwrap().file_name()).collect();
        assert!(!left.iter().any(|n| n == "__pycache__"), "{left:?}");
    }
}

#[test]
fn a_configuration_that_does_not_end_is_ended() {
    let cases = [
        (
            "while True: pass\n",
            "it ran for 30 seconds without coming to a configuration",
        ),
        ("import time\ntime.sleep(1e6)\n", "it ran for 30 seconds"),
        (
            "while True: print('x' * 1000)\n",
            "it printed more than 64 KiB, and was ended",
        ),
        (
            "import os\nfor fd in range(3, 64):\n    try:\n        while True: os.write(fd, b'x' * 65536)\n    except OSError: pass\n",
            "the manifest that it comes to is larger than 16 MiB",
        ),
        (
            "x = []\nwhile True: x.append('x' * 1000000 + str(len(x)))\n",
            "MemoryError",
        ),
        ("def f(): f()\nf()\n", "RecursionError"),
        (
            "import os\nos.kill(os.getpid(), 9)\n",
            "before it had made a configuration",
        ),
        ("import os\nos._exit(0)\n", "before it had made a configuration"),
        (
            "import os\nos.close(1); os.close(2); os.close(0)\nwhile True: pass\n",
            "it ran for 30 seconds",
        ),
    ];
    // Side by side: some take their time.
    std::thread::scope(|scope| {
        for mode in BOTH {
            for (configuration, says) in cases {
                scope.spawn(move || {
                    let app = app(mode, configuration);
                    let ended = check(&app);
                    assert_eq!(ended.code, 2, "{mode:?} {configuration}: {ended:?}");
                    assert!(ended.err.contains(says), "{mode:?} {configuration}: {}", ended.err);
                    assert!(ended.err.len() < 10_000);
                    // For what is taken away with the folder.
                    app.write("pysecure_config.py", "");
                });
            }
        }
    });
}

#[test]
fn what_is_missing_is_said() {
    let app = app(Mode::Root, "import pysecure\n");
    std::fs::remove_dir_all(app.folder.join("lib")).unwrap();
    let ended = check(&app);
    assert!(
        ended.err.contains("there is no Python package `pysecure` for it"),
        "{ended:?}"
    );
    let root = app.shell_free(
        harness::binary().to_str().unwrap(),
        &["-f", "/pysecure_config.py", "check"],
    );
    let mut root = root;
    let ended = Ended::from(root.output().unwrap());
    assert!(
        ended.code == 2 && ended.err.contains("cannot open the manifest"),
        "{ended:?}"
    );
}
