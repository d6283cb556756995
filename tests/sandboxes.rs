//! `[sandboxes.NAME]`: what the manifest says of one, its rows of the matrix, its ids, who reaches its socket, and the process
//! behind that. What happens in a run is another file's.

mod harness;

use harness::{App, BOTH, Ended, Mode, folder_of_the_host, wait_until};
use serde_json::Value;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;

const RESOURCES: &str = "[resources]\nusers = { path = \"/data/users/\", owner = \"rw\" }\n\
                         secret = { path = \"/data/secret/\", owner = \"rw\" }\n\
                         shown = { path = \"/data/shown/\", owner = \"rw\", global = \"r\" }\n\
                         single = { path = \"/data/single.db\", owner = \"rw\" }\n\
                         nobodys = { path = \"/data/nobodys/\", global = \"r\" }\n\
                         closed = { path = \"/data/closed/\", owner = \"r\" }\n";

/// Two services that sleep: `profiles`, which owns `users`, and `other`, which owns what else there is.
fn manifest(name: &str, rest: &str) -> String {
    format!(
        "[app]\nname = \"{name}\"\n{RESOURCES}\
         [services.profiles]\ncommand = [\"sleep\", \"infinity\"]\nowner_resources = [\"users\"]\n\
         [services.other]\ncommand = [\"sleep\", \"infinity\"]\n\
         owner_resources = [\"secret\", \"shown\", \"single\", \"closed\"]\n{rest}"
    )
}

const SCRIPT: &str = "[sandboxes.script]\nused_by = [\"profiles\"]\nuserdirs = \"users\"\nuids = 3\n";

/// Connects to a sandbox's socket in a service, as the service.
fn connect(app: &App, service: &str, sandbox: &str) -> Ended {
    let program = format!(
        "import socket\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
         s.connect('/run/pysecure/sandbox/{sandbox}.sock')\nprint('connected')"
    );
    app.run(&["exec", "-T", service, "--", "/usr/bin/python3", "-c", &program])
}

fn sandbox(app: &App, name: &str) -> Option<Value> {
    let ps = app.ps();
    let mut all = ps["sandboxes"].as_array().into_iter().flatten();
    all.find(|s| s["sandbox"] == name).cloned()
}

/// The process behind a sandbox, once it runs.
fn pid(app: &App, name: &str) -> i32 {
    wait_until(|| sandbox(app, name)?["pid"].as_i64()) as i32
}

fn lives(pid: i32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn what_is_wrong_with_a_sandbox_is_said_at_its_line() {
    let app = App::new(Mode::Root, "");
    app.write("lib/module.py", "");
    app.write("file", "");
    let host = folder_of_the_host();
    let line = manifest("sandboxwrong", "").lines().count() + 3;
    // What stands in the third line of the table, and what is said.
    for (key, says) in [
        ("userdirs = \"nothing\"", "no resource is called `nothing`"),
        (
            "userdirs = \"single\"",
            "`single` is a file, so no directory lies below it",
        ),
        (
            "userdirs = \"nobodys\"",
            "nobody owns `nobodys`, and runs of `script` make files as its owner",
        ),
        (
            "userdirs = \"closed\"",
            "the owner of `closed` may not read and write it",
        ),
        ("packages = [\"missing\"]", "does not exist"),
        ("packages = [\"lib\"]", "where a run has files of its own"),
        ("packages = [\"file\"]", "packages \"file\" is a file"),
        ("preload = [\"os; import x\"]", "is no name of a module"),
        ("ready = 17", "`script` keeps 17 sandboxes ready, but has ids for 16"),
        ("uids = 0", "0 is not an integer"),
        ("isolation = \"none\"", "`isolation` of sandbox `script`"),
        ("isolation = \"landlock\"", "are not isolated by Landlock alone"),
        ("limits = { wall = 0 }", "nothing runs in `wall` = 0"),
        (
            "limits = { memory = 64 }",
            "no interpreter of `script` starts in 64 bytes",
        ),
        (
            "limits = { userdir = \"1M\" }",
            "have no directory that could be limited",
        ),
        ("limits = { pids = 3 }", "unknown key `pids`"),
        ("network = \"host\"", "unknown key `network` in sandbox `script`"),
        ("used_by = [\"profiles\"]", "`used_by` is set twice"),
    ] {
        let table = format!("[sandboxes.script]\nused_by = [\"profiles\"]\n{key}\n");
        app.write("pysecure.toml", manifest("sandboxwrong", &table));
        let found = app.run(&["check"]);
        assert_ne!(found.code, 0, "{key}: {found:?}");
        assert!(found.err.contains(says), "{key}: {}", found.err);
        assert!(
            found.err.contains(&format!("pysecure.toml:{line}:")),
            "{key}: {}",
            found.err
        );
        assert!(found.err.contains("help:"), "{key}: {}", found.err);
    }
    for (table, says) in [
        (
            "[sandboxes.other]\nused_by = [\"profiles\"]\n",
            "a service is called `other`, too",
        ),
        (
            "[sandboxes.operator]\nused_by = [\"profiles\"]\n",
            "a sandbox cannot be called `operator`",
        ),
        (
            "[sandboxes.script]\nused_by = [\"nobody\"]\n",
            "no service is called `nobody`",
        ),
        (
            "[sandboxes.script]\nused_by = [\"operator\"]\n",
            "`operator` runs on the host",
        ),
        (
            "[sandboxes.script]\nused_by = [\"profiles\", \"profiles\"]\n",
            "`profiles` is named twice",
        ),
        (
            "[sandboxes.script]\nused_by = [\"profiles\"]\nisolation = \"landlock\"\njail = \"minimal\"\n",
            "`script` cannot have a root of its own: that takes namespaces",
        ),
        (
            "[sandboxes.script]\nused_by = [\"profiles\"]\n[assert]\nnever = [\"use scripts\"]\n",
            "no sandbox is called `scripts`; did you mean `script`?",
        ),
        (
            "callers = { script = \"*\" }\n[sandboxes.script]\nused_by = [\"profiles\"]\n",
            "`script` is a sandbox, and what runs in one calls no service",
        ),
        (
            "[sandboxes.script]\nused_by = [\"profiles\"]\njail = \"nowhere\"\n",
            "jail \"nowhere\"",
        ),
    ] {
        app.write("pysecure.toml", manifest("sandboxwrong", table));
        let found = app.run(&["check"]);
        assert_ne!(found.code, 0, "{table}: {found:?}");
        assert!(found.err.contains(says), "{table}: {}", found.err);
    }
    app.write(
        "pysecure.toml",
        manifest("sandboxwrong", "[sandboxes.script]\nuids = 2\n"),
    );
    let warned = app.ok(&["check"]);
    assert!(warned.err.contains("no service may use `script`"), "{}", warned.err);
    // The control: all of it is right together.
    let right = "[sandboxes.script]\nused_by = [\"profiles\", \"other\"]\nuserdirs = \"users\"\npackages = [\"HOST\"]\n\
                 preload = [\"xml.etree\"]\nuids = 20\nready = 2\nisolation = \"namespaces\"\nlimits = { wall = \"1m\", cpu = 5, \
                 memory = \"64M\", processes = 8, output = \"1M\", file_size = \"1M\", files = 100, tmp = \"8M\", userdir = \"10M\" }\n";
    let right = right.replace("HOST", host.path().to_str().unwrap());
    app.write("pysecure.toml", manifest("sandboxwrong", &right));
    app.ok(&["check"]);
}

#[test]
fn ids_of_runs_are_in_both_ranges() {
    let ranges = |uids: &str, gids: &str| {
        manifest("sandboxranges", SCRIPT)
            .replace("[app]\n", &format!("[app]\nuid_range = {uids}\ngid_range = {gids}\n"))
    };
    let app = App::new(Mode::Root, &ranges("[60706, 60905]", "[60906, 61105]"));
    let found = app.run(&["check"]);
    assert_ne!(found.code, 0);
    assert!(
        found
            .err
            .contains("sandboxes need 5 ids that are in both ranges, which have 0 in common"),
        "{}",
        found.err
    );
    app.write("pysecure.toml", ranges("[60706, 60905]", "[60806, 61105]"));
    app.ok(&["check"]);
    // As many as the app needs in all, but not so many in a row: the ids of services are where the row would be.
    app.write("pysecure.toml", ranges("[60706, 60720]", "[60716, 60730]"));
    let found = app.run(&["check"]);
    assert!(found.code == 0 || found.err.contains("in a row"), "{found:?}");
}

#[test]
fn what_packages_and_directories_would_show_of_others_is_refused() {
    let app = App::new(Mode::Root, "");
    let host = folder_of_the_host();
    for folder in ["own/lib", "code/lib", "state"] {
        std::fs::create_dir_all(host.path().join(folder)).unwrap();
    }
    let at = |inside: &str| host.path().join(inside).display().to_string();
    let of = |code: &str, packages: &str| {
        manifest("sandboxshows", &format!("{SCRIPT}packages = [\"{packages}\"]\n"))
            .replace("[app]\n", &format!("[app]\ncode = {{ \"/code\" = {code} }}\n"))
            .replace(
                "secret = { path = \"/data/secret/\"",
                &format!(
                    "secret = {{ path = \"/data/secret/\", source = \"{}\", write_as_root = true",
                    at("own")
                ),
            )
    };
    let plain = &format!("\"{}\"", at("code"));
    let excludes = &format!("{{ source = \"{}\", exclude = [\".env\"] }}", at("code"));
    for (code, packages, says) in [
        (plain, "own", Some("which not every service may read (`secret`)")),
        (plain, "own/lib", Some("which not every service may read (`secret`)")),
        (plain, "", Some("which not every service may read (`secret`)")),
        (
            excludes,
            "code/lib",
            Some("of which something is left out for all services"),
        ),
        (plain, "code/lib", None),
    ] {
        app.write("pysecure.toml", of(code, &at(packages)));
        let found = app.run(&["check"]);
        match says {
            Some(says) => {
                assert_ne!(found.code, 0, "{packages}: {found:?}");
                assert!(found.err.contains(says), "{packages}: {}", found.err);
            }
            None => assert_eq!(found.code, 0, "{found:?}"),
        }
    }
    let state = at("state");
    app.write("pysecure.toml", of(plain, &state));
    let found = Ended::from(
        app.command(&["check"])
            .env("PYSECURE_STATE_DIR", &state)
            .output()
            .unwrap(),
    );
    assert!(found.err.contains("hold PySecure's own data"), "{found:?}");
    // A source below which another resource's lies: a run would see that, and nothing could hide it.
    app.write("users/private/key", "");
    for path in ["users", "users/private", "users/private/key"] {
        std::os::unix::fs::chown(app.folder.join(path), Some(1000), Some(1000)).unwrap();
    }
    let sources = |secret: &str| {
        manifest("sandboxshows", SCRIPT)
            .replace(
                "users = { path = \"/data/users/\"",
                "users = { path = \"/data/users/\", source = \"users\"",
            )
            .replace("secret = { path = \"/data/secret/\", owner = \"rw\" }", secret)
    };
    app.write(
        "pysecure.toml",
        sources(
            "secret = { path = \"/data/users/private\", source = \"users/private\", owner = \"rw\", global = \"rw\" }",
        ),
    );
    let found = app.run(&["check"]);
    assert_ne!(found.code, 0, "{found:?}");
    app.write(
        "pysecure.toml",
        sources("secret = { path = \"/data/secret\", source = \"users/private\", owner = \"rw\", global = \"rw\" }"),
    );
    let found = app.run(&["check"]);
    assert!(
        found
            .err
            .contains("runs in a sandbox have their directories in `users`, which holds `secret`"),
        "{}",
        found.err
    );
    app.write(
        "pysecure.toml",
        sources("secret = { path = \"/data/secret/\", owner = \"rw\" }"),
    );
    app.ok(&["check"]);
}

#[test]
fn a_sandbox_is_a_subject_of_the_matrix() {
    let host = folder_of_the_host();
    let lib = host.path();
    let text = manifest("sandboxrows", &format!("{SCRIPT}packages = [\"{}\"]\n", lib.display()));
    let app = App::new(Mode::Root, &text);
    let rows: Value = serde_json::from_str(&app.ok(&["access", "--json"]).out).unwrap();
    let rows = rows.as_array().unwrap();
    let of = |subject: &str| -> Vec<&Value> { rows.iter().filter(|r| r["service"] == subject).collect() };
    // None of the services' rights is a run's, what all of them may read neither.
    let script = of("script");
    assert_eq!(script.len(), 2, "{script:?}");
    let line = |says: &str| text.lines().position(|l| l.starts_with(says)).unwrap() + 1;
    assert_eq!(script[0]["object"], "users");
    assert_eq!(script[0]["permissions"], "rwx");
    assert_eq!(script[0]["class"], "userdirs");
    assert_eq!(script[0]["because"][0]["line"], line("userdirs ="));
    assert_eq!(script[1]["kind"], "packages");
    assert_eq!(script[1]["object"], lib.to_str().unwrap());
    assert_eq!(script[1]["because"][0]["line"], line("packages ="));
    let uses: Vec<&Value> = rows.iter().filter(|r| r["kind"] == "sandbox").collect();
    assert_eq!(uses.len(), 1, "{uses:?}");
    assert_eq!(
        (&uses[0]["service"], &uses[0]["object"]),
        (&"profiles".into(), &"script".into())
    );
    assert_eq!(uses[0]["because"][0]["line"], line("used_by ="));
    let table = app.ok(&["access"]).out;
    let row = |words: [&str; 5]| {
        let found = table.lines().any(|l| l.split_whitespace().take(5).eq(words));
        assert!(found, "{words:?} is not in\n{table}");
    };
    row(["script", "rwx", "users", "userdirs", "below"]);
    row(["profiles", "use", "script", "used_by", "sandbox"]);
}

#[test]
fn assertions_hold_for_sandboxes() {
    let app = App::new(Mode::Root, "");
    for (never, always, says) in [
        ("write users except profiles", "", Some("`script` may write `users`")),
        ("write users except profiles, script", "", None),
        ("write users from script", "", Some("`script` may write `users`")),
        ("read secret from script", "", None),
        ("read shown from script", "", None),
        ("execute users from script", "", Some("`script` may execute `users`")),
        ("use script from other", "", None),
        (
            "use script from profiles",
            "",
            Some("`profiles` may use sandbox `script`"),
        ),
        ("use script", "", Some("`profiles` may use sandbox `script`")),
        ("use script except profiles", "", None),
        ("", "use script by profiles", None),
        ("", "use script by other", Some("`other` may not use sandbox `script`")),
        ("", "write users by script", None),
        ("", "read secret by script", Some("`script` may not read `secret`")),
        ("egress from script", "", None),
        ("call other from script", "", None),
    ] {
        let list = |rule: &str| {
            if rule.is_empty() {
                String::new()
            } else {
                format!("\"{rule}\"")
            }
        };
        let rules = format!("[assert]\nnever = [{}]\nalways = [{}]\n", list(never), list(always));
        app.write("pysecure.toml", manifest("sandboxassert", &format!("{SCRIPT}{rules}")));
        let found = app.run(&["check"]);
        match says {
            Some(says) => {
                assert_ne!(found.code, 0, "{rules}: {found:?}");
                assert!(found.err.contains(says), "{rules}: {}", found.err);
            }
            None => assert_eq!(found.code, 0, "{rules}: {}", found.err),
        }
    }
}

/// The ids that the ledger has under names that begin so.
fn ids(app: &App, name: &str, prefix: &str) -> BTreeSet<u64> {
    let ledger = std::fs::read(app.state().join(format!("apps/{name}/ledger.json"))).unwrap();
    let ledger: Value = serde_json::from_slice(&ledger).unwrap();
    let all = ledger["services"].as_object().unwrap();
    let of = all.iter().filter(|(key, _)| key.starts_with(prefix));
    of.map(|(key, ids)| {
        assert_eq!(ids["uid"], ids["gid"], "{key}");
        ids["uid"].as_u64().unwrap()
    })
    .collect()
}

#[test]
fn ids_are_a_sandbox_s_own_for_as_long_as_there_is_data() {
    for mode in BOTH {
        let name = "sandboxids";
        let app = App::new(mode, &manifest(name, SCRIPT));
        let up = |rest: &str| {
            app.write("pysecure.toml", manifest(name, rest));
            app.ok(&["up", "-d"]);
        };
        up(SCRIPT);
        let first = ids(&app, name, "script/");
        assert_eq!(first.len(), 5, "{first:?}");
        // Gone, and another in its place: nothing of the first is given to that, nor to a service that comes with it.
        let second = "[services.late]\ncommand = [\"sleep\", \"infinity\"]\n[sandboxes.second]\nused_by = [\"other\"]\nuids = 4\n";
        up(second);
        let others: BTreeSet<u64> = ids(&app, name, "second/")
            .union(&ids(&app, name, "late"))
            .copied()
            .collect();
        assert_eq!(others.len(), 7, "{others:?}");
        assert!(others.is_disjoint(&first), "{others:?} {first:?}");
        // Back again, it has what it had.
        up(&format!("{SCRIPT}{second}"));
        assert_eq!(ids(&app, name, "script/"), first);
        // More runs than the row has room for: it has another one, and those of the former one are nobody's.
        up(&format!("{}{second}", SCRIPT.replace("uids = 3", "uids = 5")));
        let more = ids(&app, name, "script/");
        assert!(more.is_superset(&first), "{more:?} {first:?}");
        assert_eq!(more.len(), 5 + 5, "{more:?}");
        assert!(more.is_disjoint(&others));
        // Fewer, and as many again.
        up(&format!("{}{second}", SCRIPT.replace("uids = 3", "uids = 2")));
        up(&format!("{}{second}", SCRIPT.replace("uids = 3", "uids = 5")));
        assert_eq!(ids(&app, name, "script/"), more);
        app.ok(&["down", "--purge", "--yes"]);
    }
}

#[test]
fn a_sandbox_s_socket_is_there_for_those_who_may_use_it_and_for_nobody_else() {
    for mode in BOTH {
        let name = "sandboxsocket";
        let second = "[sandboxes.second]\nused_by = [\"other\"]\nuids = 2\n";
        let app = App::new(mode, &manifest(name, &format!("{SCRIPT}{second}")));
        app.ok(&["up", "-d"]);
        // The control: who may use one reaches it.
        assert_eq!(connect(&app, "profiles", "script").ok().out, "connected\n", "{mode:?}");
        assert_eq!(connect(&app, "other", "second").ok().out, "connected\n", "{mode:?}");
        // Whoever may not does not even find it: not by its name, not beside its own, not anywhere.
        for (service, sandbox) in [("other", "script"), ("profiles", "second")] {
            let found = connect(&app, service, sandbox);
            assert!(found.err.contains("FileNotFoundError"), "{mode:?} {service}: {found:?}");
            let all = app
                .sh(service, "find / -name '*.sock' -path '*sandbox*' 2>/dev/null; true")
                .ok()
                .out;
            let own = if sandbox == "script" { "second" } else { "script" };
            let paths: BTreeSet<&str> = all.lines().collect();
            // A folder that it may pass, and not list.
            assert!(
                paths.iter().all(|p| p.ends_with(&format!("/{own}.sock"))),
                "{mode:?} {service}: {paths:?}"
            );
            let environment = app.sh(service, "printf %s \"$PYSECURE_SANDBOXES\"").ok().out;
            assert_eq!(environment, format!("{{\"{own}\":{{}}}}"), "{mode:?}");
        }
        // By what stands on disk neither: a folder a service, and in it a socket that is that service's alone.
        let run = app.state().join(format!("run/{name}/sandbox"));
        let file = std::fs::metadata(run.join("profiles/script.sock")).unwrap();
        assert_eq!(file.mode() & 0o777, 0o600, "{mode:?}");
        let others = std::fs::metadata(run.join("other/second.sock")).unwrap();
        assert_ne!(file.uid(), others.uid(), "{mode:?}");
        assert!(!run.join("other/script.sock").exists());
        // Taken away again, the socket goes, and who held a connection has nothing behind it.
        app.write("pysecure.toml", manifest(name, second));
        app.ok(&["up", "-d"]);
        assert!(!run.join("profiles/script.sock").exists(), "{mode:?}");
        assert!(
            connect(&app, "profiles", "script").err.contains("FileNotFoundError"),
            "{mode:?}"
        );
        app.ok(&["down"]);
    }
}

#[test]
fn the_process_behind_a_sandbox_is_kept_replaced_and_ended() {
    for mode in BOTH {
        let name = "sandboxprocess";
        let app = App::new(mode, &manifest(name, SCRIPT));
        app.ok(&["up", "-d"]);
        let first = pid(&app, "script");
        let table = app.ok(&["ps"]).out;
        assert!(table.contains("SANDBOX") && table.contains("script"), "{table}");
        // It ends, and is started again; services go on, and so does their way to it.
        let profiles = app.init_of("profiles");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
        let second = wait_until(|| Some(sandbox(&app, "script")?["pid"].as_i64()? as i32).filter(|pid| *pid != first));
        assert_eq!(sandbox(&app, "script").unwrap()["restarts"], 1);
        assert_eq!(connect(&app, "profiles", "script").ok().out, "connected\n", "{mode:?}");
        assert_eq!(app.init_of("profiles"), profiles);
        // Nothing has changed: it goes on.
        app.ok(&["up", "-d"]);
        assert_eq!(pid(&app, "script"), second);
        // It has changed: another takes its place, and services that see no difference go on.
        app.write(
            "pysecure.toml",
            manifest(name, &format!("{SCRIPT}limits = {{ wall = \"7s\" }}\n")),
        );
        let said = app.ok(&["up", "-d"]).out;
        assert!(said.contains("restart  script"), "{said}");
        let third = wait_until(|| Some(sandbox(&app, "script")?["pid"].as_i64()? as i32).filter(|pid| *pid != second));
        assert!(!lives(second), "{mode:?}");
        assert_eq!(app.init_of("profiles"), profiles);
        assert_eq!(connect(&app, "profiles", "script").ok().out, "connected\n", "{mode:?}");
        // It is gone from the manifest: it ends.
        app.write("pysecure.toml", manifest(name, ""));
        app.ok(&["up", "-d"]);
        wait_until(|| (!lives(third)).then_some(()));
        assert!(sandbox(&app, "script").is_none());
        // With the app, and with its supervisor.
        app.write("pysecure.toml", manifest(name, SCRIPT));
        app.ok(&["up", "-d"]);
        let fourth = pid(&app, "script");
        app.ok(&["down"]);
        assert!(!lives(fourth), "{mode:?}");
        app.ok(&["up", "-d"]);
        let fifth = pid(&app, "script");
        harness::signal(app.supervisor() as u32, nix::sys::signal::Signal::SIGKILL);
        wait_until(|| (!lives(fifth)).then_some(()));
        app.ok(&["up", "-d"]);
        app.ok(&["down", "--purge", "--yes"]);
    }
}

#[test]
fn a_program_in_a_service_s_place_may_use_its_sandboxes() {
    let app = App::new(Mode::Root, &manifest("sandboxrun", SCRIPT));
    app.ok(&["up", "-d"]);
    let list = |service: &str| {
        app.ok(&["run", service, "--", "sh", "-c", "ls /run/pysecure 2>/dev/null; true"])
            .out
    };
    assert!(list("profiles").contains("sandbox"), "{}", list("profiles"));
    assert!(!list("other").contains("sandbox"), "{}", list("other"));
    app.ok(&["down"]);
}

/// A service hears what its runs were denied, and nothing of a host that it cannot see itself.
#[test]
fn a_service_is_told_what_its_runs_are_denied_and_nothing_of_the_host() {
    let host = folder_of_the_host();
    std::fs::write(host.path().join("there"), "of the host").unwrap();
    for mode in BOTH {
        let app = App::new(mode, &manifest("sandboxexplains", SCRIPT));
        app.ok(&["up", "-d"]);
        let asks = format!(
            r#"
from pysecure_sandbox import Sandbox, userdir_for
own = userdir_for("/data/users", "own")
code = """
import os
for path in ("{at}/there", "{at}/missing", "/usr/own"):
    os.path.exists(path)
    try: open(path, "w" if "own" in path else "r")
    except OSError: pass
open("made", "w").write("x")
"""
with Sandbox("script") as sandbox:
    for each in sandbox.run(code, own, explain=True).denied:
        print(each.kind, each.target, "|", each.rule, "|", each.allow)
    print(sandbox.run(code, own).denied)
"#,
            at = host.path().display()
        );
        let told = app
            .run(&["exec", "-T", "profiles", "--", "/usr/bin/python3", "-c", &asks])
            .ok();
        let at = host.path().display();
        let line = |name: &str| {
            format!(
                "file {at}/{name} | it is not shown in the sandbox, whether or not it is there | [sandboxes.script] jail = a \
                 recipe that has paths = [\"{at}/{name}\"]; packages = [\"FOLDER\"] for modules; or a copy in its folder: put={{…}}\n"
            )
        };
        let own = "file /usr/own | /usr is mounted read-only | writing to its folder (`userdir`), which is kept, or to /tmp, which is not\n";
        assert_eq!(
            told.out,
            format!("{}{}{own}[]\n", line("there"), line("missing")),
            "{mode:?}: {told:?}"
        );
        app.ok(&["down"]);
    }
}

/// What a service says that has code run in its sandbox: a line a run.
const ASKS: &str = r#"
import os
from pysecure_sandbox import Refused, Sandbox, SandboxError, userdir_for

PEOPLE = "/data/users"
one, two = (userdir_for(PEOPLE, name) for name in ("one", "../two"))
os.makedirs("/tmp/elsewhere")
with Sandbox("script") as sandbox:
    ids = "import os; print(os.getuid(), os.getgid(), sorted(os.listdir('/home')), open('/proc/self/status').read().count('CapEff:\t0000000000000000'))"
    print("ids", sandbox.run(ids).stdout, end="")
    print("write", sandbox.run("open('file', 'w').write('of one')", one).exit, os.stat(one + "/file").st_uid == os.getuid())
    print("other", sandbox.run("import os; print(os.path.exists('../two'), os.listdir('/home/user'), os.path.exists('/data'))", one).stdout, end="")
    print("again", sandbox.run("print(open('file').read())", one).stdout, end="")
    begun = [sandbox.start(f"import time; time.sleep(0.3); open('of_{n}', 'w').write(open('file').read())", one) for n in range(2)]
    print("at_once", [run.wait().exit for run in begun], sandbox.run("import os; print(sorted(os.listdir('.')))", one).stdout, end="")
    print("empty", sandbox.run("import os; print(os.listdir('.'))", two).stdout, end="")
    print("module", sandbox.run("import carried; print(carried.WORD)").stdout, end="")
    print("output", sandbox.run("print('x' * 100_000)").limit)
    print("wall", sandbox.run("import time; time.sleep(3600)").limit)
    for path in (PEOPLE, "/tmp/elsewhere", "/data/shown/sub", one + "/../two", "relative"):
        try:
            print("refused", sandbox.run("", path).exit)
        except (Refused, SandboxError, ValueError) as error:
            print("refused", type(error).__name__)
try:
    Sandbox("second").run("1")
except SandboxError as error:
    print("second", error)
del os.environ["PYSECURE_SANDBOXES"]
with Sandbox("script") as unset:
    print("unset", unset.run("print('x' * 100_000)").limit, len(unset.run("print('x' * 60_000)").stdout))
    print("lower", unset.run("print('x' * 2000)", output=1000).limit, unset.run("print('x' * 100_000)", output="1M").limit)
"#;

#[test]
fn runs_have_ids_of_their_own_and_what_the_manifest_grants_them() {
    let host = folder_of_the_host();
    std::fs::write(host.path().join("carried.py"), "WORD = 'from a package'\n").unwrap();
    for mode in BOTH {
        let name = "sandboxruns";
        let script = format!(
            "{SCRIPT}packages = [\"{}\"]\npreload = [\"json\"]\nlimits = {{ wall = \"2s\", output = \"64K\" }}\n\
             [sandboxes.second]\nused_by = [\"other\"]\nuids = 2\n",
            host.path().display()
        );
        let app = App::new(mode, &manifest(name, &script));
        app.ok(&["up", "-d"]);
        let own = ids(&app, name, "script/");
        let told = app.run(&["exec", "-T", "profiles", "--", "/usr/bin/python3", "-c", ASKS]);
        let log = std::fs::read_to_string(app.state().join(format!("apps/{name}/supervisor.log"))).unwrap();
        assert_eq!(told.code, 0, "{mode:?}: {told:?}\n{log}");
        let says = |what: &str| -> Vec<&str> {
            let lines = told
                .out
                .lines()
                .filter_map(|line| line.strip_prefix(what)?.strip_prefix(' '));
            lines.collect()
        };
        let first = says("ids")[0]
            .split(' ')
            .map(str::parse::<u64>)
            .take(2)
            .collect::<Result<Vec<_>, _>>();
        let first = first.unwrap();
        assert_eq!(first[0], first[1], "{mode:?}: {told:?}");
        assert!(own.contains(&first[0]), "{mode:?}: {told:?} {own:?}");
        assert!(says("ids")[0].ends_with(" 1"), "{mode:?}: no capability: {told:?}");
        // What a run makes is the resource's owner's, for whoever runs next, and nobody else's.
        assert_eq!(says("write"), ["0 True"], "{mode:?}: {told:?}");
        assert_eq!(says("other"), ["False ['file'] False"], "{mode:?}: {told:?}");
        assert_eq!(says("again"), ["of one"], "{mode:?}: {told:?}");
        // Two in one directory, each of which has all that is in it.
        let both = "[0, 0] ['file', 'of_0', 'of_1']";
        assert_eq!(says("at_once"), [both], "{mode:?}: {told:?}");
        assert_eq!(says("empty"), ["[]"], "{mode:?}: {told:?}");
        assert_eq!(says("module"), ["from a package"], "{mode:?}: {told:?}");
        // The manifest's limits, those that the package holds among them.
        assert_eq!(
            (says("output"), says("wall")),
            (vec!["output"], vec!["wall"]),
            "{mode:?}: {told:?}"
        );
        // Whoever has not got them by his environment is told by the pool.
        assert_eq!(
            (says("unset"), says("lower")),
            (vec!["output 60001"], vec!["output output"]),
            "{mode:?}: {told:?}"
        );
        let refused = says("refused");
        assert!(
            refused.len() == 5 && refused.iter().all(|r| r.chars().all(char::is_alphabetic)),
            "{mode:?}: {told:?}"
        );
        assert!(
            says("second")[0].contains("may not use the sandbox 'second'"),
            "{mode:?}: {told:?}"
        );
        app.ok(&["down"]);
    }
}

/// What a service says whose run is not to end by itself.
const STAYS: &str = r#"
import os
from pysecure_sandbox import Sandbox, SandboxError, userdir_for

one, two = (userdir_for("/data/users", name) for name in ("one", "two"))
stay = "import os, time; open('made', 'w').write('by ' + str(os.getuid())); os.mkdir('folder'); print('made', flush=True); time.sleep(3600)"
with Sandbox("script") as sandbox:
    # Another one first, so that the next of `one` has another id than this.
    for folder in (two, one):
        run = sandbox.start(stay, folder)
        next(iter(run))
    print("made", os.path.basename(one), flush=True)
    try:
        run.wait()
    except SandboxError as error:
        print("lost", error)
"#;

const COMES_AGAIN: &str = r#"
import os
from pysecure_sandbox import Sandbox, userdir_for

one = userdir_for("/data/users", "one")
with Sandbox("script") as sandbox:
    print(sandbox.run("import os; open('made', 'a').write(' again'); open('folder/in', 'w').close(); print(open('made').read(), os.getuid())", one).stdout, end="")
print({os.stat(os.path.join(one, path)).st_uid == os.getuid() for path in (".", "made", "folder", "folder/in")}, open(one + "/made").read())
"#;

/// Where nobody maps ids of mounts, what is in a directory is given to a run. A pool that is killed cannot give it back.
#[test]
fn what_a_killed_pool_had_given_to_a_run_comes_back() {
    use std::io::{BufRead, Read};
    for mode in BOTH {
        let name = "sandboxkilled";
        let app = App::new(
            mode,
            &manifest(name, &format!("{SCRIPT}limits = {{ wall = \"1h\" }}\n")),
        );
        app.ok(&["up", "-d"]);
        let first = pid(&app, "script");
        let mut command = app.command(&["exec", "-T", "profiles", "--", "/usr/bin/python3", "-c", STAYS]);
        let mut asks = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut said = std::io::BufReader::new(asks.stdout.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        let folder = line
            .strip_prefix("made ")
            .unwrap_or_else(|| panic!("{mode:?}: {line}"))
            .trim();
        let find = |below: &std::path::Path| {
            let found = std::process::Command::new("find")
                .arg(below)
                .args(["-type", "d", "-name", folder])
                .output();
            let found = String::from_utf8(found.unwrap().stdout).unwrap();
            std::path::PathBuf::from(found.lines().next().unwrap_or_else(|| panic!("no {folder}: {found}")))
        };
        let on_disk = find(&app.state());
        let owners = || -> BTreeSet<u32> {
            let all = ["", "made", "folder"].map(|path| std::fs::metadata(on_disk.join(path)).unwrap().uid());
            all.into()
        };
        let service = std::fs::metadata(on_disk.parent().unwrap()).unwrap().uid();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
        let mut rest = String::new();
        said.read_to_string(&mut rest).unwrap();
        assert!(
            asks.wait().unwrap().success() && rest.starts_with("lost "),
            "{mode:?}: {rest}"
        );
        wait_until(|| Some(sandbox(&app, "script")?["pid"].as_i64()? as i32).filter(|pid| *pid != first));
        // The control: it is a run's still, where it was given to one.
        let left = owners();
        let was_given = !left.contains(&service);
        assert_eq!(was_given, mode == Mode::Rootless, "{mode:?}: {left:?} {service}");
        let again = app
            .ok(&["exec", "-T", "profiles", "--", "/usr/bin/python3", "-c", COMES_AGAIN])
            .out;
        let words: Vec<&str> = again.split_whitespace().collect();
        let [_, before, _, now, "{True}", _, by, "again"] = words[..] else {
            panic!("{mode:?}: {again}")
        };
        assert!(before == by && before != now, "{mode:?}: {again}");
        assert_eq!(owners(), BTreeSet::from([service]), "{mode:?}");
        app.ok(&["down"]);
    }
}
