//! Further users of a service's own: what starts as root and drops to another id does so, and becomes no other.

mod harness;

use harness::{App, BOTH, Ended, Mode};

/// A service with users, and another one whose data it has nothing to do with.
fn two(mode: Mode, name: &str, more: &str) -> App {
    App::new(
        mode,
        &format!(
            "[app]\nname = \"{name}\"\n\
             [resources]\nown = {{ path = \"/srv/own\", owner = \"rwx\" }}\nother = {{ path = \"/srv/other\", owner = \"rw\" }}\n\
             shared = {{ path = \"/srv/shared/\", bundle = \"rw\" }}\n\
             [bundles.team]\nresources = [\"shared\"]\n\
             [services.a]\ncommand = \"sleep infinity\"\nusers = [\"one\", \"two\"]\nowner_resources = [\"own\"]\nbundle = \"team\"\n{more}\n\
             [services.b]\ncommand = \"sleep infinity\"\nowner_resources = [\"other\"]\nbundle = \"team\"\n"
        ),
    )
}

fn python(app: &App, way: &str, service: &str, script: &str) -> Ended {
    app.run(&[way, "-T", service, "--", "python3", "-c", script])
}

/// Tries each id for itself, in a process of its own.
const BECOMES: &str = r#"
import os, pwd, grp, sys, functools
print = functools.partial(print, flush=True)
mapped = {}
for line in open("/proc/self/uid_map"):
    first, outside, count = map(int, line.split())
    mapped.update({first + n: outside + n for n in range(count)})
groups = set()
for line in open("/proc/self/gid_map"):
    first, _, count = map(int, line.split())
    groups.update(range(first, first + count))
names = {p.pw_name: p.pw_uid for p in pwd.getpwall()}
def tried(does):
    pid = os.fork()
    if not pid:
        try: does()
        except OSError as e: os._exit(e.errno)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
def become(uid): return lambda: os.setresuid(uid, uid, uid)
def group(gid): return lambda: os.setgroups([gid])
ours = {0, names["one"], names["two"]}
init = set(mapped) - ours
print("ids", len(mapped), len(init), len({int(n) for n in sys.argv[1:]} & {out for n, out in mapped.items() if n}))
for uid in sorted(ours): print("own", tried(become(uid)))
foreign = [int(n) for n in sys.argv[1:]] + [1, 33, 1000, 65534, 2**31]
foreign = [n for n in foreign if n not in mapped]
print("foreign", {tried(become(uid)) for uid in foreign}, {tried(group(gid)) for gid in foreign if gid not in groups})
open("/tmp/mine", "w").close()
print("chown", tried(lambda: os.chown("/tmp/mine", names["one"], grp.getgrnam("two").gr_gid)),
      {tried(lambda: os.chown("/tmp/mine", uid, -1)) for uid in foreign})
def drop_and(does):
    def all():
        os.setgroups([]); os.setresgid(*[grp.getgrnam("one").gr_gid] * 3); os.setresuid(*[names["one"]] * 3)
        does()
    return all
print("back", tried(drop_and(become(0))), tried(drop_and(become(names["two"]))), tried(drop_and(lambda: os.chown("/tmp/mine", 0, 0))))
def caps():
    text = open("/proc/self/status").read()
    print([l.split()[1] for l in text.splitlines() if l.startswith("Cap")], flush=True)
tried(caps)
tried(drop_and(caps))
def executed(): os.execvp("grep", ["grep", "-h", "^CapEff", "/proc/self/status"])
sys.stdout.flush()
tried(executed); tried(drop_and(executed))
# Its own first process, which a signal from inside does not reach or does not end.
for uid in init: print("init", tried(lambda: (become(uid)(), os.kill(1, 9))) in (0, 1))
"#;

#[test]
fn a_service_becomes_its_users_and_nobody_else() {
    for mode in BOTH {
        let app = two(mode, "users-become", "");
        app.ok(&["up", "-d"]);
        // Ids that others have: of the other service, and what is 0 in its namespace.
        let map = app.sh("b", "cat /proc/self/uid_map").ok().out;
        let theirs: Vec<&str> = map.lines().map(|l| l.split_whitespace().nth(1).unwrap()).collect();
        assert!(theirs.len() >= 2, "{map}");
        for way in ["exec", "run"] {
            let args = [&[way, "-T", "a", "--", "python3", "-c", BECOMES][..], &theirs].concat();
            let seen = app.ok(&args).out;
            let kept = "00000000000404eb";
            let none = "0000000000000000";
            let expected = format!(
                "ids 4 1 0\nown 0\nown 0\nown 0\nforeign {{22}} {{22}}\nchown 0 {{22}}\nback 1 1 1\n\
                 ['{kept}', '{kept}', '{kept}', '{none}', '{kept}']\n['{kept}', '{none}', '{none}', '{none}', '{none}']\n\
                 CapEff:\t{kept}\nCapEff:\t{none}\ninit True\n"
            );
            assert_eq!(seen, expected, "{mode:?} {way}");
        }
        // The service is there as before.
        app.ok(&["exec", "-T", "a", "--", "true"]);
        assert_eq!(app.service("a")["restarts"], 0);
        leaves_no_namespace(&app, mode);
        its_files_stay_its_own(&app, mode);
        app.ok(&["down", "--purge"]);
    }
}

/// With what rights it has it gets no others: no mounts, no namespaces, no files of another service, no set-id bits.
fn leaves_no_namespace(app: &App, mode: Mode) {
    let script = r#"
import ctypes, os, errno
libc = ctypes.CDLL(None, use_errno=True)
def says(code): return 0 if code == 0 else ctypes.get_errno()
print("unshare", says(libc.unshare(0x10000000)), says(libc.unshare(0x20000)))
print("mount", says(libc.mount(b"none", b"/tmp", b"tmpfs", 0, None)), says(libc.umount2(b"/srv/own", 2)))
print("setns", says(libc.setns(os.open("/proc/1/ns/mnt", os.O_RDONLY) if os.access("/proc/1/ns/mnt", os.R_OK) else 0, 0)) != 0)
print("ptrace", says(libc.ptrace(16, 1, 0, 0)))
def tried(does):
    try: does()
    except OSError as e: return errno.errorcode[e.errno]
    return "done"
print("other", tried(lambda: os.listdir("/srv/other")), tried(lambda: os.chmod("/srv/own", 0o4755)), tried(lambda: os.mknod("/tmp/null", 0o20666, 0x103)))
print("root", tried(lambda: open("/usr/x", "w")), tried(lambda: open("/etc/passwd", "a")), tried(lambda: open("/proc/sys/kernel/hostname", "w")))
os.mkdir("/tmp/in"); os.chroot("/tmp/in"); os.chroot("."); [os.chdir("..") for n in range(9)]
os.chroot("."); print("chroot", sorted(os.listdir("/")) == sorted(os.listdir(".")), os.path.exists("/srv/other"))
"#;
    let seen = python(app, "exec", "a", script).ok().out;
    let expected = "unshare 1 1\nmount 1 1\nsetns True\nptrace 1\nother ENOENT EPERM EACCES\nroot EROFS EACCES EROFS\nchroot True False\n";
    assert_eq!(seen, expected, "{mode:?}");
}

/// What a user of its makes in a resource is the service's to use, and nobody's who is not granted it; it is there at the next start.
fn its_files_stay_its_own(app: &App, mode: Mode) {
    let makes = "setpriv --reuid one --regid one --init-groups sh -c 'id -un; touch /srv/own/x 2>/dev/null || echo closed' && \
                 mkdir -p /srv/own/of-one && chown one:one /srv/own/of-one && chmod 700 /srv/own/of-one && \
                 setpriv --reuid one --regid one --init-groups sh -c 'echo text > /srv/own/of-one/file; chmod 600 /srv/own/of-one/file' && \
                 cat /srv/own/of-one/file && setpriv --reuid two --regid two --init-groups cat /srv/own/of-one/file 2>/dev/null || echo not two";
    let seen = app.sh("a", makes).ok().out;
    assert_eq!(seen, "one\nclosed\ntext\nnot two\n", "{mode:?}");
    app.ok(&["restart", "a"]);
    assert_eq!(
        app.sh("a", "stat -c '%U %a' /srv/own/of-one/file").ok().out,
        "one 600\n"
    );
    assert_ne!(app.sh("b", "cat /srv/own/of-one/file").code, 0);
    // In what is shared they are in the bundle's group, as the service is.
    let seen = app
        .sh("a", "setpriv --reuid one --regid one --init-groups id -Gn; id -Gn one")
        .ok()
        .out;
    assert_eq!(seen, "one team\none team\n", "{mode:?}");
}

#[test]
fn what_cannot_be_a_user_is_said_at_its_line() {
    for (users, more, says) in [
        ("[\"root\"]", "", "has a user called `root` already"),
        ("[\"a\"]", "", "has a user called `a` already"),
        ("[\"x\", \"x\"]", "", "`x` is named twice"),
        ("[\"Upper\"]", "", "\"Upper\" is no name of a user"),
        ("[\"a:b\"]", "", "is no name of a user"),
        ("[\"team\"]", "", "`team` is a bundle of `a`"),
        ("[\"x\"]", "runs_with_root = false", "take `runs_with_root = false` out"),
    ] {
        let app = two(Mode::Root, "users-wrong", more);
        let text = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write("pysecure.toml", text.replace("[\"one\", \"two\"]", users));
        let ended = app.run(&["check"]);
        assert!(
            ended.code == 2 && ended.err.contains(says) && ended.err.contains("pysecure.toml:"),
            "{users}: {ended:?}"
        );
    }
    // A class that is less than another one cannot be held against who leaves it.
    let app = two(Mode::Root, "users-blind", "");
    let text = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    app.write(
        "pysecure.toml",
        text.replace("bundle = \"rw\"", "bundle = \"w\", global = \"r\""),
    );
    let ended = app.run(&["check"]);
    assert!(
        ended.code != 0 && ended.err.contains("has `users`, and so falls into"),
        "{ended:?}"
    );
}

/// Ids are the ledger's: the same at each start, and after the service has another name.
#[test]
fn users_keep_their_ids() {
    let app = two(Mode::Root, "users-ledger", "");
    let ids = |app: &App, service: &str| {
        app.ok(&["run", "-T", service, "--", "sh", "-c", "id -u one; id -u two; id -u"])
            .out
    };
    let before = ids(&app, "a");
    assert_eq!(ids(&app, "a"), before);
    let text = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    app.write(
        "pysecure.toml",
        text.replace("[services.a]", "[services.renamed]\nwas = \"a\""),
    );
    assert_eq!(ids(&app, "renamed"), before);
    let access = app.ok(&["access"]).out;
    assert!(
        access.contains("root inside") && access.contains("and one, two"),
        "{access}"
    );
}
