//! Configurations in Python, as the original has them: `pysecure -f pysecure_config.py` runs the file in a sandbox and
//! reads what it comes to. What it may not do it cannot, and errors point at its lines.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use std::path::Path;

/// A folder with the packages beside it, and this configuration.
fn app(mode: Mode, configuration: &str) -> App {
    let app = App::new(mode, "");
    std::fs::remove_file(app.folder.join("pysecure.toml")).unwrap();
    harness::python::package(&app, false, "lib");
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
            checked.out.contains("2 services, 5 resources, 1 bundle: ok"),
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
        // Values of another kind, however deep they stand, and whoever finds them.
        for (app, service, says, line) in [
            ("", "limits={'memory': [1]}", "memory", 4),
            (
                "",
                "limits={'memory': object()}",
                "`services.one.limits.memory` has <object",
                4,
            ),
            (
                "",
                "environment={'A': b'x'}",
                "`services.one.environment.A` has b'x'",
                4,
            ),
            ("", "callers={'one': 5}", "callers", 4),
            ("", "callers=['one']", "`callers` is a dict", 4),
            ("", "bundles=[3]", "`bundles` has 3 in it", 4),
            ("", "owner_resources=['x']", "`owner_resources` has 'x' in it", 4),
            (", code={'/x': 5}", "", "code", 2),
            (", rpc_max_message=[1]", "", "rpc_max_message", 2),
            (", never=['read x from']", "", "read x from", 2),
            (", never=[5]", "", "`never` has 5 in it", 2),
            (", initialize='x'", "", "'initialize': it is called 'setup' now", 2),
            (", nothing=1", "", "unexpected keyword argument 'nothing'", 2),
        ] {
            let configuration = format!(
                "from pysecure import *\nc = PySecureConfig('a', (61000, 61999), (61000, 61999){app})\n\
                 c.register_services([\n    PySecureService('one', '/', 'true', {service}),\n])\n"
            );
            expect(&configuration, &[says, &format!("pysecure_config.py:{line}:")]);
        }
        expect(
            "from pysecure import *\nc = PySecureConfig('a', (61000, 61999), (61000, 61999))\n",
            &["services", "--> pysecure_config.py:2:"],
        );
        let twice = "PySecureService('one', '/', 'true')";
        expect(
            &format!(
                "from pysecure import *\nc = PySecureConfig('a', (61000, 61999), (61000, 61999))\n\
                 c.register_services([{twice},\n  {twice}])\n"
            ),
            &["error: pysecure_config.py:4: ", "two services are named 'one'"],
        );
        // Its output is text, whatever it is.
        app.write("pysecure_config.py", "print('\\x1b[2J')\n");
        assert!(!check(&app).err.contains('\x1b'));
        let json = app.run(&["-f", "pysecure_config.py", "check", "--json"]);
        assert_eq!(json.code, 2, "{json:?}");
    }
}

/// Which sockets it was handed.
const HANDED: &str = "
import os, time
print('handed', os.environ.get('LISTEN_FDS'), os.environ.get('LISTEN_FDNAMES'), flush=True)
time.sleep(1000)
";

#[test]
fn callers_sockets_go_to_who_can_be_called() {
    for mode in BOTH {
        let name = format!("handed-{}", format!("{mode:?}").to_lowercase());
        // One that nobody has just now.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let app = app(
            mode,
            &format!(
                "from pysecure import *\nconfig = PySecureConfig('{name}')\n\
                 config.register_services([\n\
                 PySecureService('authsvc', '/srv/zoobar', '/srv/zoobar/auth.py', ready='notify'),\n\
                 PySecureService('web', '/srv/zoobar', '/srv/zoobar/web.py', listen=['127.0.0.1:{port}']),\n\
                 PySecureService('job', '/srv/zoobar', '/srv/zoobar/job.py', depends_on=['authsvc']),\n])\n"
            ),
        );
        app.write(
            "srv/zoobar/auth.py",
            AUTH.replace("/zoobar/db/cred/cred.db", "/dev/null"),
        );
        app.write("srv/zoobar/web.py", HANDED);
        app.write(
            "srv/zoobar/job.py",
            format!("import auth\nprint('got', auth.protected_function(), flush=True)\n{HANDED}"),
        );
        app.ok(&["up", "-d"]);
        assert!(
            app.wait_for_log("web", "handed").contains("handed 1 listen\n"),
            "{mode:?}: {:?}",
            app.run(&["logs"])
        );
        let job = app.wait_for_log("job", "handed");
        assert!(
            job.contains("got for job") && job.contains("handed None None"),
            "{mode:?}: {job}"
        );
        app.ok(&["down"]);
    }
}

/// Tries all that a configuration may not, and says what came of it.
const PRYING: &str = r#"
import ctypes, os, socket, subprocess, sys, threading
from pysecure import *

def attempt(what, deed):
    try:
        result = deed()
        print("DONE:", what, result)
    except (AttributeError, ImportError, NameError, TypeError) as e:
        print("BROKEN: it was not tried:", what, repr(e))
    except BaseException as e:
        print("refused:", what, type(e).__name__)

libc = ctypes.CDLL(None, use_errno=True)
def call(*args):
    if libc.syscall(*args) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

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
attempt("talk to a socket of the host's", lambda: socket.socket(socket.AF_UNIX).connect(here + "/../OTHER/socket"))
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
attempt("mount", lambda: call(165, b"none", b"/tmp", b"tmpfs", 0, 0))
attempt("a namespace of users", lambda: call(272, 0x10000000))
attempt("a namespace of mounts", lambda: call(272, 0x20000))
attempt("another's namespace", lambda: call(308, os.open("/proc/1/ns/net", os.O_RDONLY), 0))
attempt("trace", lambda: call(101, 16, 1, 0, 0))
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
    let _socket = std::os::unix::net::UnixListener::bind(other.join("socket")).unwrap();
    std::fs::set_permissions(
        other.join("socket"),
        std::os::unix::fs::PermissionsExt::from_mode(0o777),
    )
    .unwrap();
    std::fs::write(other.join("file"), "").unwrap();
    // The controls: what is tried by number is something, and what is looked for is there.
    let script = "import ctypes, sys; print(ctypes.CDLL(None).syscall(272, 0x20000), ctypes.CDLL(None).syscall(165, b'none', b'/tmp', b'tmpfs', 0, 0))";
    let outside = std::process::Command::new("unshare")
        .args(["-m", "/usr/bin/python3", "-c", script])
        .output()
        .unwrap();
    assert_eq!(Ended::from(outside).ok().out, "0 0\n");
    for path in ["/etc/shadow", "/root", "/home", "/var/lib"] {
        assert!(Path::new(path).exists(), "{path}");
    }
    for mode in BOTH {
        let other = other.file_name().unwrap().to_str().unwrap();
        let app = app(mode, &PRYING.replace("PORT", &port.to_string()).replace("OTHER", other));
        let ended = check(&app).ok();
        assert!(ended.err.contains("tried all"), "{mode:?}: {}", ended.err);
        assert!(!ended.err.contains("DONE"), "{mode:?}: {}", ended.err);
        assert!(!ended.err.contains("BROKEN"), "{mode:?}: {}", ended.err);
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
    let ended = check(&app);
    let says = "a configuration makes one PySecureConfig, but this makes no PySecureConfig";
    assert!(ended.err.contains(says), "{ended:?}");
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

/// Says who it is on the host, and tries what is root's or a group's to read.
const WHO: &str = r#"
import os
def ids(kind):
    return int(open("/proc/self/%s_map" % kind).read().split()[1])
print("uid", ids("uid"), "gid", ids("gid"), "groups", os.getgroups())
for name in ["/etc/shadow", "/etc/ssl", "/etc/ssl/private", "FOLDER/secret", "FOLDER/group", "FOLDER/own", "FOLDER/lib/outside"]:
    try:
        os.listdir(name) if os.path.isdir(name) else open(name).read()
        print("reads", name)
    except OSError as e:
        pass
try:
    from pysecure import *
except ImportError:
    raise SystemExit("plain")
config = PySecureConfig("who", (61000, 61999), (61000, 61999))
config.register_services([PySecureService("a", "/", "true")])
"#;

/// The folder of an app with such a configuration, files that root, its group and this user alone may read, and the
/// configuration theirs.
fn who(uid: u32, gid: u32) -> App {
    use std::os::unix::fs::PermissionsExt;
    let app = app(Mode::Root, "");
    let text = WHO.replace("FOLDER", app.folder.to_str().unwrap());
    let config = app.write("pysecure_config.py", text);
    for (name, mode, owner) in [("secret", 0o600, 0), ("group", 0o640, 0), ("own", 0o600, uid)] {
        let path = app.write(name, name);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
        std::os::unix::fs::chown(&path, Some(owner), Some(owner)).unwrap();
    }
    std::os::unix::fs::chown(&config, Some(uid), Some(gid)).unwrap();
    app
}

fn host_uid(said: &str) -> u32 {
    let number = said.split("uid ").nth(1).and_then(|rest| rest.split(' ').next());
    number
        .and_then(|n| n.parse().ok())
        .unwrap_or_else(|| panic!("no uid in {said}"))
}

#[test]
fn as_root_a_configuration_is_its_owners_or_nobodys() {
    let (user, group) = harness::user();
    for (uid, gid) in [(0, 0), (user, group), (user, 0)] {
        let app = who(uid, gid);
        // Without the sandbox, root's Python reads all of it.
        let plain = app
            .shell_free("/usr/bin/python3", &["-B", "-S", "pysecure_config.py"])
            .output()
            .unwrap();
        let plain = Ended::from(plain);
        for name in ["/etc/shadow", "/secret", "/group", "/own"] {
            assert!(plain.out.contains(&format!("{name}\n")), "{plain:?}");
        }
        let said = check(&app).ok().err;
        let seen = host_uid(&said);
        let own = format!("reads {}/own", app.folder.display());
        if uid == 0 {
            assert!(![0, 65_534, user].contains(&seen), "{said}");
            assert!(!said.contains("reads"), "{said}");
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
            assert!(!passwd.contains(&format!(":{seen}:")), "{seen} is an account's");
        } else {
            assert_eq!(seen, user, "{said}");
            assert!(said.contains(&own) && said.matches("reads").count() == 1, "{said}");
        }
        // Of groups it has its owner's own at most, whatever its file's group.
        let wanted = if uid == 0 {
            String::from("gid 2147483001 ")
        } else {
            format!("gid {group} ")
        };
        assert!(said.contains(&wanted), "{said}");
    }
}

/// Ends the thread that watches it, however the test ends.
struct Ending<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

#[test]
fn a_configuration_that_is_swapped_in_time_is_never_root() {
    let (user, group) = harness::user();
    let app = who(user, group);
    std::os::unix::fs::chown(&app.folder, Some(user), Some(group)).unwrap();
    let config = app.folder.join("pysecure_config.py");
    // A user cannot make a file of root's, but a link to one.
    let link = app.folder.join("link.py");
    std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _end = Ending(&ended);
        scope.spawn(|| {
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let flags = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(rustix::fs::CWD, &config, rustix::fs::CWD, &link, flags).unwrap();
            }
        });
        // What would happen if the text were read by its path, and the owner by that again.
        let naive = (0..100_000).any(|_| {
            use std::os::unix::fs::MetadataExt;
            let text = std::fs::read_to_string(&config).unwrap();
            text.contains("def ids") && std::fs::metadata(&config).unwrap().uid() == 0
        });
        assert!(naive, "nothing was swapped in time, so this shows nothing");
        let (mut ran, mut other) = (0, 0);
        while ran < 100 {
            let ended = check(&app);
            if ended.err.contains("uid ") {
                assert_eq!(host_uid(&ended.err), user, "{}", ended.err);
                assert_eq!(ended.err.matches("reads").count(), 1, "{}", ended.err);
                ran += 1;
            } else {
                other += 1;
            }
            assert!(other < 10_000, "{}", ended.err);
        }
        println!("{ran} ran as UID {user}, {other} found the link's target, which is no configuration");
    });
}

#[test]
fn nothing_is_shown_by_a_link_and_nobody_else_decides() {
    use std::os::unix::fs::PermissionsExt;
    let (user, group) = harness::user();
    let set = |path: &Path, mode| std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    // `lib` as a link, to a folder that its owner has no way to.
    let linked = who(user, group);
    let hidden = harness::fresh_folder();
    std::fs::rename(linked.folder.join("lib"), hidden.join("lib")).unwrap();
    std::fs::write(hidden.join("lib/outside"), "outside").unwrap();
    set(&hidden, 0o700);
    std::os::unix::fs::symlink(hidden.join("lib"), linked.folder.join("lib")).unwrap();
    let ended = check(&linked);
    // The package there is not seen either: it is the launcher's own that is taken.
    assert!(!ended.err.contains("outside"), "{}", ended.err);
    ended.ok();
    std::fs::remove_dir_all(&hidden).unwrap();
    for mode in BOTH {
        let app = app(mode, &WHO.replace("FOLDER", "/nowhere"));
        let config = app.folder.join("pysecure_config.py");
        check(&app).ok();
        // A folder as /tmp is: anybody puts `lib` there, or `json.py`.
        for bits in [0o1777, 0o777] {
            set(&app.folder, bits);
            let ended = check(&app);
            let says = "everybody may write to its folder";
            assert!(ended.code == 2 && ended.err.contains(says), "{mode:?}: {ended:?}");
        }
        set(&app.folder, 0o755);
        set(&config, 0o666);
        let ended = check(&app);
        assert!(
            ended.code == 2 && ended.err.contains("everybody may write to it,"),
            "{mode:?}: {ended:?}"
        );
        set(&config, 0o644);
        check(&app).ok();
        if mode == Mode::Root {
            // Root's configuration in a user's folder, who could put modules beside it.
            std::os::unix::fs::chown(&app.folder, Some(user), Some(group)).unwrap();
            let ended = check(&app);
            assert!(
                ended.code == 2 && ended.err.contains("put other modules beside it"),
                "{ended:?}"
            );
            std::os::unix::fs::chown(&app.folder, Some(0), Some(0)).unwrap();
            // A folder that is not for nobody: what it may not read, it is told.
            set(&app.folder, 0o700);
            let ended = check(&app);
            assert!(ended.err.contains("runs as no user"), "{ended:?}");
        }
    }
}

/// As the original's resources were files that lay in its jail.
const MEDIA: &str = "
from pysecure import *
media = PySecureResource('/zoobar/media', 'r', 'r', '')
notes = PySecureResource('/zoobar/db/notes.txt', 'rw', '', '')
one = PySecureService('one', '/zoobar', 'sh /zoobar/run.sh', [media, notes])
two = PySecureService('two', '/zoobar', 'sh /zoobar/run.sh')
config = PySecureConfig('NAME', (61000, 61999), (61000, 61999))
config.register_services([one, two])
";

#[test]
fn a_resource_is_what_the_code_holds_there() {
    for mode in BOTH {
        let name = format!("media-{}", format!("{mode:?}").to_lowercase());
        let app = app(mode, &MEDIA.replace("NAME", &name));
        app.write("zoobar/media/logo.png", "logo\n");
        app.write("zoobar/db/notes.txt", "first\n");
        app.write(
            "zoobar/run.sh",
            "cat /zoobar/media/* /zoobar/db/*; echo more >> /zoobar/db/notes.txt; exec sleep infinity\n",
        );
        let checked = app.ok(&["check"]);
        assert!(!checked.err.contains("begins empty"), "{}", checked.err);
        app.ok(&["up", "-d"]);
        assert_eq!(
            app.wait_for_log("one", "first"),
            "one | logo\none | first\n",
            "{mode:?}"
        );
        app.ok(&["restart", "one"]);
        app.wait_for_log("one", "more");
        // Neither is another's.
        let other = app.sh("two", "cat /zoobar/media/logo.png /zoobar/db/notes.txt");
        assert!(other.code != 0 && other.out.is_empty(), "{mode:?}: {other:?}");
        let original = std::fs::read_to_string(app.folder.join("zoobar/db/notes.txt")).unwrap();
        assert_eq!(original, "first\n", "{mode:?}: the user's file stays as it is");
        app.ok(&["down", "--purge"]);
    }
}
