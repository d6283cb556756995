//! A grant holds for whatever file a program makes: what some forty programs make in a shared folder, tried by the
//! owner, by members of the bundle and by strangers, against what the manifest says.

mod harness;

use harness::{App, BOTH, Mode, wait_until};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

const TEAM: &str = r#"
[app]
name = "team"
code = { "/code" = "./code" }
[resources]
both = { path = "/data/both/", owner = "rw", bundle = "rw" }
wide = { path = "/data/wide/", owner = "rw", bundle = "rw", global = "r" }
shown = { path = "/data/shown/", owner = "rw", bundle = "r" }
kept = { path = "/data/kept/", owner = "r", bundle = "rw" }
nobodys = { path = "/data/nobodys/", bundle = "rw" }
[bundles.team]
resources = ["both", "wide", "shown", "kept", "nobodys"]
[services.owner]
command = "sleep infinity"
owner_resources = ["both", "wide", "shown", "kept"]
[services.member]
command = "sleep infinity"
bundle = "team"
[services.other]
command = "sleep infinity"
bundle = "team"
runs_with_root = true
[services.stranger]
command = "sleep infinity"
"#;

const SERVICES: [&str; 4] = ["owner", "member", "other", "stranger"];

fn team(mode: Mode, name: &str) -> App {
    let app = App::new(mode, &TEAM.replace("\"team\"\ncode", &format!("\"{name}\"\ncode")));
    app.write("code/make.sh", include_str!("bundles/make.sh"));
    app.write("code/probe.py", include_str!("bundles/probe.py"));
    app
}

/// Makes one thing by each program in a folder, and says their names.
fn make(app: &App, service: &str, folder: &str) -> Vec<String> {
    let script = format!("cd {folder} && sh /code/make.sh {service}");
    let made: Vec<String> = app.sh(service, &script).ok().out.lines().map(str::to_owned).collect();
    let failed: Vec<&String> = made.iter().filter(|l| l.contains("FAILED")).collect();
    assert!(failed.is_empty(), "{:?} {service} in {folder}: {failed:#?}", app.mode);
    assert!(made.len() > 35, "{made:?}");
    made
}

/// What a service may do with each of these.
fn probe(app: &App, service: &str, folder: &str, names: &[String]) -> BTreeMap<String, String> {
    let script = format!("python3 /code/probe.py {folder} {}", names.join(" "));
    let out = app.sh(service, &script).ok().out;
    let words = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    out.lines().filter_map(words).collect()
}

/// What a service with these permissions may do with what this program made.
fn expected(mode: Mode, name: &str, permissions: &str) -> &'static str {
    let program = name.split_once('-').unwrap().1;
    let directory = [
        "mkdir-700",
        "mkdir-p",
        "mktemp-d",
        "install-d",
        "tar",
        "tar-other-ids",
        "unzip",
        "rsync-a",
        "cp-a",
        "mv-tree",
        "git",
    ];
    let socket = ["bind", "bind-umask-077", "bind-gunicorn", "node", "redis-socket"];
    match permissions {
        "rw" if directory.contains(&program) => "rlwd",
        "rw" if socket.contains(&program) => "cd",
        "rw" => "rwd",
        "r" if directory.contains(&program) => "rl",
        // As root who reads is shown the files as its own, and a mount cannot withhold connecting.
        "r" if socket.contains(&program) && mode == Mode::Root => "c",
        "r" if socket.contains(&program) => "-",
        "r" => "r",
        _ => "-",
    }
}

/// Compares, and says what differs.
fn differing(app: &App, folder: &str, names: &[String], permissions: [&str; 4]) -> Vec<String> {
    let mut out = Vec::new();
    for (service, permissions) in SERVICES.iter().zip(permissions) {
        if permissions.is_empty() {
            assert_ne!(
                app.sh(service, &format!("ls -a {folder}")).code,
                0,
                "{service} sees {folder}"
            );
            continue;
        }
        let real = probe(app, service, folder, names);
        for name in names {
            let (wanted, is) = (
                expected(app.mode, name, permissions),
                real.get(name).map_or("-", String::as_str),
            );
            if wanted != is {
                out.push(format!("{service} on {folder}{name}: {wanted}, but {is}"));
            }
        }
    }
    out
}

#[test]
fn a_grant_holds_for_whatever_programs_make() {
    for mode in BOTH {
        let app = team(mode, "programs");
        app.ok(&["up", "-d"]);
        for (maker, folder, permissions) in [
            ("owner", "/data/both/", ["rw", "rw", "rw", ""]),
            ("member", "/data/both/", ["rw", "rw", "rw", ""]),
            ("other", "/data/wide/", ["rw", "rw", "rw", "r"]),
            ("owner", "/data/shown/", ["rw", "r", "r", ""]),
            ("member", "/data/kept/", ["r", "rw", "rw", ""]),
            ("member", "/data/nobodys/", ["", "rw", "rw", ""]),
        ] {
            let names = make(&app, maker, folder);
            if mode == Mode::Rootless {
                // What was closed is opened by the supervisor, which comes after it.
                wait_until(|| differing(&app, folder, &names, permissions).is_empty().then_some(()));
                continue;
            }
            let differ = differing(&app, folder, &names, permissions);
            assert!(differ.is_empty(), "{mode:?}, made by {maker}:\n{}", differ.join("\n"));
        }
    }
}

/// A tree of the user's, in a bundle, with files of a second user in it.
#[test]
fn a_source_in_a_bundle_is_written_by_its_members() {
    let manifest = r#"
[app]
name = "source"
[resources]
tree = { path = "/data/tree", source = "./tree", owner = "rw", bundle = "rw", global = "r" }
[bundles.team]
resources = ["tree"]
[services.owner]
command = "true"
owner_resources = ["tree"]
[services.member]
command = "true"
bundle = "team"
[services.reader]
command = "true"
"#;
    let app = App::new(Mode::Root, manifest);
    let tree = app.folder.join("tree");
    for (name, owner, mode) in [("mine", 4321, 0o600), ("open", 5000, 0o666), ("closed", 5000, 0o600)] {
        let path = app.write(&format!("tree/{name}"), "text\n");
        chown(&path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    chown(&tree, Some(4321), Some(4321)).unwrap();
    std::fs::set_permissions(&tree, PermissionsExt::from_mode(0o700)).unwrap();
    let sh = |service: &str, script: &str| app.run(&["run", "-T", service, "--", "sh", "-c", script]);
    for service in ["owner", "member"] {
        let script = format!(
            "cd /data/tree && umask 077 && cat mine >/dev/null && echo {service} >>mine && echo {service} >>open && \
             mkdir -m 700 {service}.d && echo x >{service}.d/file && mktemp -p . >/dev/null && ! cat closed"
        );
        sh(service, &script).ok();
    }
    sh("owner", "cat /data/tree/member.d/file && rm -r /data/tree/member.d").ok();
    sh("member", "cat /data/tree/owner.d/file && rm -r /data/tree/owner.d").ok();
    assert_eq!(sh("reader", "cat /data/tree/mine").ok().out, "text\nowner\nmember\n");
    assert_ne!(sh("reader", "echo no >>/data/tree/open").code, 0);
    // On the host it stays what it was: what services make is the tree's owner's, and what was another's is still.
    for entry in std::fs::read_dir(&tree).unwrap() {
        let entry = entry.unwrap();
        let owner = if entry.file_name() == "open" || entry.file_name() == "closed" {
            5000
        } else {
            4321
        };
        let found = entry.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (owner, owner), "{:?}", entry.file_name());
    }
}

/// Data that was held by ACLs becomes its owner's, and an interrupted change is made again.
#[test]
fn what_was_held_by_acls_becomes_the_owners() {
    let app = team(Mode::Root, "migrated");
    let sh = |service: &str, script: &str| app.run(&["run", "-T", service, "--", "sh", "-c", script]);
    sh("owner", "mkdir /data/both/deep && echo text >/data/both/deep/file").ok();
    let both = app.state().join("apps/migrated/resources/both");
    let ledger_path = app.state().join("apps/migrated/ledger.json");
    let ledger: serde_json::Value = serde_json::from_slice(&std::fs::read(&ledger_path).unwrap()).unwrap();
    let owner = ledger["applied"]["both"].clone();
    let (uid, member) = (
        owner["uid"].as_u64().unwrap() as u32,
        ledger["services"]["member"]["uid"].as_u64().unwrap() as u32,
    );
    let group = ledger["groups"]["team"].as_u64().unwrap() as u32;
    // As an earlier version has left it.
    let age = |change: &dyn Fn(&mut serde_json::Value)| {
        for path in ["", "deep", "deep/file"].map(|p| both.join(p)) {
            chown(&path, Some(member), Some(group)).unwrap();
            let directory = path.is_dir();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(if directory { 0o2770 } else { 0o600 })).unwrap();
            if directory {
                let acl =
                    hex("020000000100070000000000020007000000000004000700ffffffff10000700ffffffff20000000ffffffff");
                let mut acl = acl;
                acl[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
                acl[16..20].copy_from_slice(&uid.to_le_bytes());
                rustix::fs::setxattr(
                    &path,
                    c"system.posix_acl_default",
                    &acl,
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap();
            }
        }
        let mut old = ledger.clone();
        change(&mut old);
        std::fs::write(&ledger_path, old.to_string()).unwrap();
    };
    let settled = || {
        for path in ["", "deep", "deep/file"].map(|p| both.join(p)) {
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o7077), (uid, 0), "{}", path.display());
            let mut value = [0u8; 64];
            for acl in [c"system.posix_acl_default", c"system.posix_acl_access"] {
                assert!(
                    rustix::fs::getxattr(&path, acl, &mut value).is_err(),
                    "{}: {acl:?}",
                    path.display()
                );
            }
        }
    };
    age(&|old| {
        old["applied"]["both"] = serde_json::json!({ "uid": uid, "gid": group, "owner": 6, "bundle": 6, "global": 0 });
    });
    assert_eq!(sh("member", "cat /data/both/deep/file").ok().out, "text\n");
    settled();
    // A change to another policy that was cut short is not forgotten when the old one comes back.
    let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    let changed = manifest.replace(
        r#"path = "/data/both/", owner = "rw", bundle = "rw""#,
        r#"path = "/data/both/", owner = "rw", bundle = "w""#,
    );
    assert_ne!(changed, manifest);
    app.write("pysecure.toml", &changed);
    let stuck = app.state().join("apps/migrated/resources/both/deep/file");
    let immutable = |flag: &str| {
        assert!(
            std::process::Command::new("chattr")
                .arg(flag)
                .arg(&stuck)
                .status()
                .expect("install `e2fsprogs`")
                .success()
        )
    };
    immutable("+i");
    assert_ne!(sh("owner", "true").code, 0);
    immutable("-i");
    app.write("pysecure.toml", &manifest);
    sh("owner", "true").ok();
    settled();
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}

const SOCKETS: &str = r#"
[app]
name = "sockets"
code = { "/code" = "./code" }
[resources]
door = { path = "/run/door/", owner = "rw", bundle = "c" }
hall = { path = "/run/hall/", owner = "rw", bundle = "rw" }
[bundles.team]
resources = ["door", "hall"]
[services.server]
command = ["python3", "/code/server.py", "/run/door/socket", "/run/hall/socket"]
owner_resources = ["door", "hall"]
[services.ann]
command = "sleep infinity"
bundle = "team"
[services.bob]
command = "sleep infinity"
bundle = "team"
[services.stranger]
command = "sleep infinity"
[assert]
never = ["connect door except server, ann, bob", "read door except server", "write door except server"]
"#;

/// Answers each connection with the name of who is at the other end.
const SERVER: &str = r#"
import os, pwd, selectors, socket, struct, sys
os.umask(int(sys.argv[3], 8)) if len(sys.argv) > 3 else None
wait = selectors.DefaultSelector()
for path in sys.argv[1:3]:
    if os.path.exists(path):
        os.unlink(path)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(path)
    listening.listen()
    wait.register(listening, selectors.EVENT_READ)
    open(os.path.join(os.path.dirname(path), "secret"), "w").write("secret")
print("ready", flush=True)
while True:
    for key, _ in wait.select():
        connection, _ = key.fileobj.accept()
        pid, uid, gid = struct.unpack("iii", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        connection.sendall(pwd.getpwuid(uid).pw_name.encode())
        connection.close()
"#;

const ASK: &str =
    "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(99).decode())";

/// Who may connect may do no more; and the server knows who it is.
#[test]
fn a_grant_to_connect_is_that_and_no_more() {
    for mode in BOTH {
        let app = App::new(mode, SOCKETS);
        app.write("code/server.py", SERVER);
        app.write("code/ask.py", ASK);
        app.ok(&["up", "-d"]);
        app.wait_for_log("server", "ready");
        let ask = |service: &str, path: &str| app.sh(service, &format!("python3 /code/ask.py {path}"));
        for client in ["ann", "bob"] {
            for path in ["/run/door/socket", "/run/hall/socket"] {
                assert_eq!(ask(client, path).ok().out.trim(), client, "{mode:?} {path}");
            }
            for deed in [
                "ls /run/door",
                "cat /run/door/secret",
                "cp /run/door/secret /tmp/s",
                "rm -f /run/door/socket; [ ! -e /run/door/socket ]",
                "mv /run/door/socket /run/door/other",
                "touch /run/door/new",
                "ln -s /tmp/x /run/door/link",
                "echo x >/run/door/secret",
                "chmod 777 /run/door/secret /run/door",
            ] {
                assert_ne!(app.sh(client, deed).code, 0, "{mode:?} {client}: {deed}");
            }
        }
        assert_ne!(app.sh("stranger", "ls /run/door || ls -d /run/door/socket").code, 0);
        // The control: where the bundle may write the folder, a member puts a socket of its own in the place.
        app.write(
            "code/impostor.py",
            "import socket; s = socket.socket(socket.AF_UNIX); s.bind('/run/hall/socket'); s.listen()\n\
             open('/tmp/ready', 'w'); c, _ = s.accept(); c.sendall(b'impostor')\n",
        );
        let impostor = "mv /run/hall/socket /run/hall/real && { python3 /code/impostor.py >/dev/null 2>&1 & } && \
                        until [ -e /tmp/ready ]; do sleep 0.01; done";
        app.sh("bob", impostor).ok();
        assert_eq!(ask("ann", "/run/hall/socket").ok().out.trim(), "impostor", "{mode:?}");
    }
    // Whatever umask the server sets itself.
    for mode in BOTH {
        let app = App::new(mode, &SOCKETS.replace("hall/socket\"]", "hall/socket\", \"077\"]"));
        app.write("code/server.py", SERVER);
        app.write("code/ask.py", ASK);
        app.ok(&["up", "-d"]);
        app.wait_for_log("server", "ready");
        for path in ["/run/door/socket", "/run/hall/socket"] {
            wait_until(|| (app.sh("ann", &format!("python3 /code/ask.py {path}")).out.trim() == "ann").then_some(()));
        }
        assert_ne!(app.sh("ann", "cat /run/door/secret").code, 0, "{mode:?}");
    }
    // `access` and `[assert]` say it.
    let app = App::new(
        Mode::Root,
        &SOCKETS.replace("except server, ann, bob", "except server, ann"),
    );
    app.write("code/server.py", SERVER);
    let refused = app.run(&["check"]);
    assert!(
        refused.code == 2 && refused.err.contains("`bob` may connect to sockets in `door`"),
        "{}",
        refused.err
    );
    app.write("pysecure.toml", SOCKETS);
    let table = app.ok(&["access"]).out;
    assert!(
        table
            .lines()
            .any(|l| l.contains("ann") && l.contains("---c") && l.contains("door")),
        "{table}"
    );
}

const POSTGRES: &str = r#"
[app]
name = "postgres"
[resources]
data = { path = "/data/pg/", owner = "rw", bundle = "r" }
socket = { path = "/run/pg/", owner = "rw", bundle = "c" }
[bundles.backup]
resources = ["data"]
[bundles.clients]
resources = ["socket"]
[services.pg]
command = ["sh", "-ec", """
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
[ -e /data/pg/PG_VERSION ] || initdb -D /data/pg -A peer -U pg >/tmp/initdb
exec postgres -D /data/pg -k /run/pg -c listen_addresses=
"""]
owner_resources = ["data", "socket"]
ready = { command = ["pg_isready", "-h", "/run/pg"] }
[services.ann]
command = "sleep infinity"
bundle = "clients"
[services.bob]
command = "sleep infinity"
bundle = "clients"
[services.backup]
command = "sleep infinity"
bundle = "backup"
"#;

/// PostgreSQL accepts its own data folder though a bundle reads it, and tells its clients apart by `peer`.
#[test]
fn postgres_knows_its_clients_by_peer() {
    for mode in BOTH {
        let app = App::new(mode, POSTGRES);
        app.ok(&["up", "-d"]);
        let roles = "createuser -h /run/pg ann; createuser -h /run/pg bob; createdb -h /run/pg -O ann ann; createdb -h /run/pg bob";
        app.sh("pg", roles).ok();
        let whoami = |service: &str, role: &str| {
            app.sh(
                service,
                &format!("psql -h /run/pg -U {role} -Atc 'select current_user' {role}"),
            )
        };
        for client in ["ann", "bob"] {
            assert_eq!(whoami(client, client).ok().out.trim(), client, "{mode:?}");
        }
        for (client, role) in [("ann", "bob"), ("bob", "ann"), ("ann", "pg")] {
            let refused = whoami(client, role);
            assert!(
                refused.code != 0 && refused.err.contains("eer authentication failed"),
                "{mode:?}: {}",
                refused.err
            );
        }
        if mode == Mode::Root {
            app.sh("backup", "cp -r /data/pg /tmp/copy && cat /tmp/copy/PG_VERSION")
                .ok();
        }
        // To know its clients by their ids makes the server none of them.
        let attack = |id: &str| format!("python3 -c '{BECOME}' {id}");
        let ids = app.sh("pg", "id -u ann bob").ok().out;
        for id in ids.split_whitespace() {
            let became = app.sh("pg", &attack(id)).ok();
            assert_eq!(became.out, "", "{mode:?}");
            // The control: who has the right succeeds in all of it.
            let control = std::process::Command::new("sh")
                .args(["-c", &attack(id)])
                .output()
                .unwrap();
            assert_eq!(
                String::from_utf8_lossy(&control.stdout),
                "chown\nfchmod\ncredentials\nsetresuid\n"
            );
        }
        assert_ne!(app.sh("backup", "touch /data/pg/x").code, 0);
        assert_ne!(app.sh("ann", "ls /run/pg || ls /data/pg").code, 0);
    }
}

/// Says in which ways it got the id that it was told: by giving a file away, a set-user-id file of it, credentials of its on a
/// socket, and itself.
const BECOME: &str = r#"
import os, socket, struct, sys, tempfile
id = int(sys.argv[1])
def tried(way, deed):
    try: deed()
    except OSError: return
    print(way, flush=True)
def give(mode):
    with tempfile.NamedTemporaryFile() as file:
        os.chown(file.name, id, -1)
        os.fchmod(file.fileno(), mode)
def speak():
    ours, theirs = socket.socketpair()
    ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, struct.pack("iII", os.getpid(), id, os.getgid()))])
tried("chown", lambda: give(0o600))
tried("fchmod", lambda: give(0o4755))
tried("credentials", speak)
tried("setresuid", lambda: os.setresuid(id, id, id))
"#;

/// Two services, one database, in both of its ways to write.
#[test]
fn sqlite_is_written_by_owner_and_members_in_turn() {
    for mode in BOTH {
        let app = team(mode, "sqlite");
        app.ok(&["up", "-d"]);
        for journal in ["delete", "wal"] {
            let sql = |service: &str, sql: &str| {
                app.sh(
                    service,
                    &format!("sqlite3 -cmd '.timeout 1000000' /data/both/{journal}.db '{sql}'"),
                )
            };
            sql("owner", &format!("pragma journal_mode={journal}; create table t(x)")).ok();
            if mode == Mode::Rootless {
                wait_until(|| (sql("member", "select * from t").code == 0).then_some(()));
                wait_until(|| (sql("member", "insert into t values(0); delete from t").code == 0).then_some(()));
            }
            for round in 1..4 {
                for service in ["owner", "member", "other"] {
                    sql(service, "insert into t values(1)").ok();
                }
                assert_eq!(
                    sql("member", "select count(*) from t").ok().out.trim(),
                    (3 * round).to_string(),
                    "{mode:?} {journal}"
                );
            }
            // While one has it open.
            // Whoever finds it locked tries again: the one that asks whether the other has written may be in its way.
            let shell = format!("sqlite3 -cmd '.timeout 1000000' /data/both/{journal}.db");
            let written = format!("until [ \"$({shell} 'select max(x) from t')\" = 2 ]; do sleep 0.01; done");
            let held =
                format!("{shell} >/dev/null 2>&1 </tmp/fifo & exec 3>/tmp/fifo; echo 'insert into t values(2);' >&3");
            app.sh(
                "member",
                &format!("rm -f /tmp/fifo; mkfifo /tmp/fifo; ({held}; sleep infinity) >/dev/null 2>&1 & {written}"),
            )
            .ok();
            sql("owner", "insert into t values(3)").ok();
            sql("other", "insert into t values(4)").ok();
        }
    }
}

/// What ACLs do not hold is just what `up` and the docs say. As root there is nothing of it.
#[test]
fn what_is_not_held_without_root_is_said() {
    let docs = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/how-to/rootless.md")).unwrap();
    for mode in BOTH {
        let root = mode == Mode::Root;
        let app = team(mode, "held");
        // The control: without the supervisor nobody opens what mkstemp(3) has closed, and a default ACL is no help.
        let run = |service: &str, script: &str| app.run(&["run", "-T", service, "--", "sh", "-c", script]);
        run("member", "mv $(mktemp -p /data/both) /data/both/closed").ok();
        assert_eq!(run("owner", "cat /data/both/closed").code == 0, root, "{mode:?}");
        let said = app.ok(&["up", "-d"]).err;
        assert_eq!(said.contains("are held by ACLs"), !root, "{said}");
        // What was made before is opened as well.
        wait_until(|| (app.sh("owner", "cat /data/both/closed").code == 0).then_some(()));
        app.sh("owner", "echo text >/data/both/file; echo text >/data/shown/file")
            .ok();
        wait_until(|| (app.sh("member", "cat /data/both/file /data/shown/file").code == 0).then_some(()));
        let bind = "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/data/shown/socket\")'";
        app.sh("owner", bind).ok();
        let held = [
            ("may change its mode", "member", "chmod 644 /data/both/file"),
            ("and its times", "member", "touch -d 2020-01-01 /data/both/file"),
            (
                "does not let connect to sockets",
                "member",
                "python3 -c 'import socket, sys; sys.exit(socket.socket(socket.AF_UNIX).connect_ex(\"/data/shown/socket\") != 111)'",
            ),
            ("shows mode 0770", "owner", "[ $(stat -c %a /data/both) = 700 ]"),
        ];
        for (words, service, deed) in held {
            assert_eq!(app.sh(service, deed).code == 0, root, "{mode:?}: {deed}");
            assert!(docs.contains(words), "docs/how-to/rootless.md does not say `{words}`");
            assert!(
                root || said.contains(words) || words.starts_with("shows"),
                "{words}: {said}"
            );
        }
    }
}

/// Where the file system of the data has no idmapped mounts, as an overlay in a container has not, ACLs do what they can,
/// and that is said.
#[test]
fn a_file_system_without_idmapped_mounts_has_acls() {
    let app = team(Mode::Root, "overlay");
    let state = app.state();
    for name in ["lower", "upper", "work", "state"] {
        std::fs::create_dir(app.folder.join(name)).unwrap();
    }
    let mounted = Mounted::overlay(&app.folder, &state);
    let said = app.ok(&["up", "-d"]).err;
    assert!(
        said.contains("cannot be mounted with other ids") && said.contains("`both`"),
        "{said}"
    );
    let names = make(&app, "member", "/data/both/");
    let permissions = ["rw", "rw", "rw", ""];
    wait_until(|| {
        differing(&app, "/data/both/", &names, permissions)
            .is_empty()
            .then_some(())
    });
    app.ok(&["down", "--purge"]);
    drop(mounted);
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn overlay(folder: &std::path::Path, at: &std::path::Path) -> Mounted {
        let place = |name: &str| folder.join(name).display().to_string();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            place("lower"),
            place("upper"),
            place("work")
        );
        let mount = std::process::Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o", &options])
            .arg(at)
            .status();
        assert!(mount.unwrap().success());
        Mounted(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Lazily: a process that is on its end may still have a file open.
        let _ = std::process::Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
