//! Bad input and bad luck, as far as manifests, sources, ids and the host are concerned: each gets a clear error
//! or the documented behaviour. What concerns processes is in `faults.rs`.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use serde_json::Value;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

fn minimal(name: &str, more: &str) -> String {
    format!("[app]\nname = \"{name}\"\n{more}\n[services.one]\ncommand = \"true\"\n")
}

/// Fails with this code, and says each of these.
#[track_caller]
fn refused(ended: Ended, code: i32, says: &[&str]) {
    assert_eq!(ended.code, code, "{}\n{}", ended.out, ended.err);
    let plain = ended.err.split_whitespace().collect::<Vec<_>>().join(" ");
    for text in says {
        assert!(plain.contains(text), "does not say {text:?}:\n{}", ended.err);
    }
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
}

fn sh(app: &App, service: &str, script: &str) -> Ended {
    app.run(&["run", "-T", service, "--", "sh", "-c", script])
}

#[track_caller]
fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn files_that_are_no_manifest() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let check = |name: &str| app.run(&["-f", name, "check"]);
        refused(check("pysecure.toml"), 2, &["the manifest is empty", "pysecure init"]);
        refused(check("missing.toml"), 2, &["missing.toml"]);
        app.write("binary.toml", [0u8, 159, 146, 150, 7, 0]);
        refused(check("binary.toml"), 2, &["binary.toml"]);
        app.write("latin.toml", b"[app]\nname = \"caf\xe9\"\n");
        refused(check("latin.toml"), 2, &["latin.toml", "UTF-8"]);
        let large = app.write("large.toml", "");
        std::fs::File::options()
            .write(true)
            .open(&large)
            .unwrap()
            .set_len(100 << 20)
            .unwrap();
        refused(check("large.toml"), 2, &["large.toml"]);
        // Opening one waits for a writer, who never comes.
        mkfifo(&app.folder.join("fifo.toml"));
        refused(check("fifo.toml"), 2, &["fifo.toml"]);
        refused(app.run(&["-f", "/dev/zero", "check"]), 2, &["/dev/zero"]);
        std::fs::create_dir(app.folder.join("empty")).unwrap();
        refused(check("empty"), 2, &["empty"]);
        if mode == Mode::Rootless {
            let closed = app.write("closed.toml", minimal("closed", ""));
            std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o000)).unwrap();
            refused(check("closed.toml"), 2, &["closed.toml", "ermission denied"]);
        }
    }
}

#[test]
fn a_bound_of_messages_is_one_that_both_ends_can_keep() {
    let app = App::new(Mode::Root, "");
    for (size, code) in [("\"63K\"", 2), ("0", 2), ("\"2G\"", 2), ("\"64K\"", 0), ("\"1G\"", 0)] {
        let manifest = minimal("bound", "").replace("[app]\n", &format!("[app]\nrpc_max_message = {size}\n"));
        app.write("pysecure.toml", manifest);
        match code {
            0 => drop(app.ok(&["check"])),
            code => refused(
                app.run(&["check"]),
                code,
                &[
                    "pysecure.toml:2",
                    "rpc_max_message",
                    "write a size from \"64K\" to \"1G\"",
                ],
            ),
        }
    }
}

#[test]
fn all_errors_are_shown_at_once_in_the_order_of_their_lines() {
    let manifest = r#"
[app]
name = "Bad Name"
colour = "blue"
uid_range = [61000]
[resources]
relative = { path = "data/x", owner = "rw" }
upward = { path = "/data/../etc", owner = "rw" }
perms = { path = "/data/p", owner = "rwq" }
board = { path = "/data/board", bundle = "rw" }
twin = { path = "/data/board/", owner = "r" }
through = { path = "/data/file.txt/inside", global = "r" }
file = { path = "/data/file.txt", global = "r" }
[bundles.team]
resources = ["bord"]
[services.web]
command = 7
bundle = "taem"
owner_resources = ["bard"]
runs_with_rot = true
[services.other]
command = "true"
callers = { wbe = "*" }
network = "bridge"
[assert]
never = ["read bord except web", "frobnicate board"]
"#;
    let app = App::new(Mode::Root, manifest);
    let ended = app.run(&["check"]);
    let says = [
        "`colour`",
        "data/x",
        "`..`",
        "rwq",
        "has the path of",
        "goes through `file`",
        "did you mean `board`",
        "did you mean `team`",
        "did you mean `runs_with_root`",
        "did you mean `web`",
        "bridge",
        "frobnicate",
    ];
    refused(ended, 2, &says);
    let json = app.run(&["check", "--json"]);
    assert_eq!(json.code, 2);
    let list: Value = serde_json::from_str(&json.out).unwrap();
    let lines: Vec<u64> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|d| d["line"].as_u64().unwrap())
        .collect();
    assert!(lines.len() >= 16, "{lines:?}");
    assert!(lines.is_sorted(), "{lines:?}");
    // One that is right again in all of it is right.
    app.write("pysecure.toml", minimal("right", ""));
    assert!(app.ok(&["check"]).out.contains("ok"));
}

#[test]
fn networks_that_cannot_be() {
    let cases = [
        ("publish = [\"80\"]", "\"80:80\""),
        ("publish = [\"localhost:8080:80\"]", "127.0.0.1:8080:80"),
        ("publish = [\"::1:8080:80\"]", "[::1]:8080:80"),
        ("publish = [\"8080:80/udp\"]", "only TCP"),
        ("publish = [\"0:80\"]", "[ADDRESS:]PORT:PORT"),
        ("publish = \"8080:80\"", "publish"),
        ("network = \"host\"\npublish = [\"8080:80\"]", "has the host's network"),
        ("network = \"host\"\negress = true", "reaches the outside already"),
        ("publish = [\"8080:80\", \"0.0.0.0:8080:81\"]", "taken"),
        ("listen = [\"127.0.0.1:8080\"]\npublish = [\"8080:80\"]", "taken"),
        (
            "publish = [\"8080:80\"]\n[services.b]\ncommand = \"true\"\npublish = [\"8080:80\"]",
            "taken",
        ),
        (
            "network = \"app\"\npublish = [\"8080:80\"]\n[services.b]\ncommand = \"true\"\nnetwork = \"app\"\npublish = [\"8081:80\"]",
            "would listen on port 80",
        ),
        (
            "network = \"app\"\negress = true\n[services.b]\ncommand = \"true\"\nnetwork = \"app\"",
            "`b` would reach the outside too",
        ),
        ("network = \"apps\"", "did you mean"),
    ];
    let app = App::new(Mode::Root, "");
    for (text, says) in cases {
        let manifest = format!("[app]\nname = \"net\"\n[services.a]\ncommand = \"true\"\n{text}\n");
        app.write("pysecure.toml", &manifest);
        refused(app.run(&["check"]), 2, &[says]);
    }
    let right = "[app]\nname = \"net\"\n[services.a]\ncommand = \"true\"\nnetwork = \"app\"\negress = true\npublish = [\"8080:80\", \"127.0.0.2:8080:80\", \"[::1]:8080:80/tcp\"]\n";
    app.write("pysecure.toml", right);
    // Whether this host has a way out is another matter, and said as such.
    let checked = app.run(&["check"]);
    let lacking = checked.err.contains("service `a` has egress = true") && checked.err.contains("1 error");
    assert!(checked.code == 0 || lacking, "{checked:?}");
}

#[test]
fn sources_that_are_not_to_be_granted() {
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("inside/file.txt", "x");
        mkfifo(&app.folder.join("fifo"));
        symlink("/etc", app.folder.join("out")).unwrap();
        symlink("/nowhere/at/all", app.folder.join("dangling")).unwrap();
        symlink("loop", app.folder.join("loop")).unwrap();
        let outside = harness::fresh_folder();
        symlink(&outside, app.folder.join("absolute")).unwrap();
        let through = app.folder.join("absolute").join("x");
        for (source, says) in [
            ("./missing", "does not exist"),
            ("./fifo", "is a fifo"),
            ("/dev/null", "is a device"),
            ("./out", "leads out of"),
            ("./out/passwd", "leads out of"),
            ("../", "leads out of"),
            ("./inside/../../x", "leads out of"),
            ("./inside/file.txt/x", "not a directory"),
            ("./dangling", "leads"),
            ("./loop", "link"),
            (through.to_str().unwrap(), "link"),
            ("", "empty"),
        ] {
            app.write(
                "pysecure.toml",
                minimal(
                    "sources",
                    &format!("[resources]\nit = {{ path = \"/data/it\", source = \"{source}\", global = \"r\" }}\n"),
                ),
            );
            refused(app.run(&["check"]), 2, &[says]);
            app.write(
                "pysecure.toml",
                minimal("sources", &format!("code = {{ \"/code\" = \"{source}\" }}\n")),
            );
            refused(app.run(&["run", "one"]), 2, &[says]);
        }
        assert!(
            !app.state().join("apps/sources/ledger.json").exists(),
            "what is refused leaves no trace"
        );
        std::fs::remove_dir(outside).unwrap();
    }
}

#[test]
fn programs_that_cannot_run() {
    for mode in BOTH {
        let app = App::new(mode, &minimal("programs", "code = { \"/code\" = \"./code\" }\n"));
        app.write("code/plain.txt", "not a program\n");
        let run = |program: &str| app.run(&["run", "-T", "one", "--", program]);
        refused(run("/no/such/program"), 127, &["/no/such/program"]);
        refused(run("no-such-program"), 127, &["no-such-program"]);
        refused(run("/code/plain.txt"), 126, &["/code/plain.txt"]);
        refused(run("/code"), 126, &["/code"]);
        // The same where it is the service's command.
        for (command, code) in [("/no/such/program", 127), ("/code/plain.txt", 126)] {
            let other = App::new(
                mode,
                &format!(
                    "[app]\nname = \"programs2\"\ncode = {{ \"/code\" = \"./code\" }}\n[services.one]\ncommand = \"{command}\"\n"
                ),
            );
            other.write("code/plain.txt", "not a program\n");
            refused(other.run(&["run", "-T", "one"]), code, &[command]);
            // It ends with no service's code.
            refused(other.run(&["up", "-d"]), 1, &["`one`", command]);
        }
        let nowhere = App::new(
            mode,
            "[app]\nname = \"nowhere\"\n[services.one]\ncommand = \"true\"\ndirectory = \"/no/such/directory\"\n",
        );
        refused(nowhere.run(&["run", "-T", "one"]), 125, &["/no/such/directory"]);
    }
}

#[test]
fn ranges_that_do_not_do() {
    let with = |more: &str| App::new(Mode::Root, &minimal("ranges", more));
    let app = with("uid_range = [61000, 61000]\ngid_range = [61000, 61999]\n");
    refused(
        app.run(&["check"]),
        2,
        &["uid_range has 1 id, but this app needs 2", "write uid_range ="],
    );
    for (range, says) in [
        ("[0, 999]", "no such id"),
        ("[65000, 65600]", "65534"),
        ("[61999, 61000]", "uid_range"),
        ("[-1, 5]", "uid_range"),
        ("[61000, 99999999999]", "uid_range"),
    ] {
        let app = with(&format!("uid_range = {range}\n"));
        refused(app.run(&["check"]), 2, &[says]);
    }
    // An account of the host, and another user's subordinate ids.
    let (uid, _) = harness::user();
    let app = with(&format!("uid_range = [{uid}, {}]\n", uid + 50));
    refused(app.run(&["check"]), 2, &["the host's account", "move the range"]);
    refused(app.run(&["up", "-d"]), 2, &["the host's account"]);
    let subordinate = std::fs::read_to_string("/etc/subuid").unwrap();
    let line = subordinate
        .lines()
        .find(|l| l.starts_with(harness::USER))
        .expect("the test user has subordinate ids");
    let start: u32 = line.split(':').nth(1).unwrap().parse().unwrap();
    let app = with(&format!("uid_range = [{}, {}]\n", start + 10, start + 60));
    refused(app.run(&["check"]), 2, &["subordinate ids of", "move the range"]);
    // A user has only so many.
    let app = App::new(
        Mode::Rootless,
        &minimal("ranges", "uid_range = [70000, 71000]\ngid_range = [70000, 71000]\n"),
    );
    refused(app.run(&["check"]), 2, &["uid_range 70000-71000", "65536"]);
    refused(app.run(&["up", "-d"]), 2, &["uid_range 70000-71000", "65536"]);
}

/// Panics if an account or a group of this host has an id in the range.
fn need_free_ids(range: std::ops::RangeInclusive<u32>) {
    for file in ["/etc/passwd", "/etc/group"] {
        for line in std::fs::read_to_string(file).unwrap().lines() {
            let id = line.split(':').nth(2).and_then(|id| id.parse().ok());
            let is_free = !id.is_some_and(|id| range.contains(&id));
            assert!(
                is_free,
                "this test needs a host without accounts and groups of ids {range:?}: {file}: {line}"
            );
        }
    }
}

#[test]
fn an_app_that_has_all_ids_is_named() {
    need_free_ids(20_000..=59_999);
    for mode in BOTH {
        let app = App::new(mode, &minimal("late", ""));
        let all = app.write(
            "all.toml",
            minimal("all", "uid_range = [20000, 59999]\ngid_range = [20000, 59999]\n"),
        );
        app.ok(&["-f", "all.toml", "run", "-T", "one"]);
        // No command that is ready to be pasted deletes another app's data.
        refused(
            app.run(&["run", "-T", "one"]),
            2,
            &[
                "no free range of",
                &format!("`all` ({})", all.display()),
                "by `pysecure down --purge` with its manifest",
                "which deletes its data",
            ],
        );
        app.ok(&["-f", "all.toml", "down", "--purge"]);
        app.ok(&["run", "-T", "one"]);
    }
}

#[test]
fn apps_of_one_host_share_no_ids() {
    for mode in BOTH {
        let first = App::new(
            mode,
            &minimal("first", "uid_range = [61000, 61099]\ngid_range = [61000, 61099]\n"),
        );
        first.ok(&["run", "-T", "one"]);
        let other = |range: &str| {
            first.write(
                "second.toml",
                minimal("second", &format!("uid_range = {range}\ngid_range = {range}\n")),
            );
            first.run(&["-f", "second.toml", "run", "-T", "one"])
        };
        refused(other("[61099, 61200]"), 2, &["overlaps", "`first`", "61000-61099"]);
        refused(other("[60000, 61000]"), 2, &["overlaps", "`first`"]);
        other("[61100, 61200]").ok();
        // Without a range a free one is found, and kept.
        first.write("third.toml", minimal("third", ""));
        let ids = || {
            first
                .run(&["-f", "third.toml", "run", "-T", "one", "--", "id", "-u"])
                .ok()
                .out
        };
        let uid = ids();
        assert!(!(61000..=61200).contains(&uid.trim().parse::<u32>().unwrap()), "{uid}");
        assert_eq!(uid, ids());
        // Another manifest of the same name does not get the first one's data.
        first.write("elsewhere/pysecure.toml", minimal("first", ""));
        refused(first.run(&["-f", "elsewhere", "run", "-T", "one"]), 2, &["first"]);
        for app in ["second.toml", "third.toml"] {
            first.run(&["-f", app, "down", "--purge"]);
        }
    }
}

/// Ids of services as the ledger has them.
fn ids(app: &App, name: &str) -> Value {
    let text = std::fs::read_to_string(app.state().join("apps").join(name).join("ledger.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn an_id_is_never_given_to_another() {
    let with = |services: &[&str], range: &str| {
        let mut text = format!("[app]\nname = \"ledger\"\nuid_range = {range}\ngid_range = {range}\n");
        for service in services {
            text += &format!("[services.{service}]\ncommand = \"true\"\n");
        }
        text
    };
    let wide = "[61000, 61005]";
    for mode in BOTH {
        let app = App::new(mode, &with(&["a", "b", "c"], wide));
        app.ok(&["run", "-T", "a"]);
        let before = ids(&app, "ledger");
        // `b` goes and `new` comes, before the others.
        app.write("pysecure.toml", with(&["new", "a", "c"], wide));
        app.ok(&["run", "-T", "new"]);
        let after = ids(&app, "ledger");
        for service in ["a", "b", "c"] {
            assert_eq!(before["services"][service], after["services"][service], "{service}");
        }
        let news = &after["services"]["new"];
        assert!(
            before["services"]
                .as_object()
                .unwrap()
                .values()
                .all(|i| i["uid"] != news["uid"])
        );
        // It comes back to what it had.
        app.write("pysecure.toml", with(&["b", "a", "c", "new"], wide));
        let uid = app.ok(&["run", "-T", "b", "--", "id", "-u"]).out;
        assert_eq!(uid.trim(), before["services"]["b"]["uid"].to_string());
        // All six are given away: the keeper's, and those of a, b, c, new and one more.
        app.write("pysecure.toml", with(&["a", "last"], wide));
        app.ok(&["run", "-T", "last"]);
        app.write("pysecure.toml", with(&["a", "toomuch"], wide));
        refused(app.run(&["run", "-T", "toomuch"]), 2, &["used up", "widen the range"]);
        // The range cannot be moved from under them, but it can grow.
        app.write("pysecure.toml", with(&["a", "b"], "[62000, 62999]"));
        refused(app.run(&["check"]), 2, &["61001", "no longer holds"]);
        refused(app.run(&["up", "-d"]), 2, &["no longer holds", "--purge"]);
        app.write("pysecure.toml", with(&["a", "toomuch"], "[61000, 61999]"));
        app.ok(&["run", "-T", "toomuch"]);
        // A ledger that cannot be read is never taken for a new one.
        let ledger = app.state().join("apps/ledger/ledger.json");
        let text = std::fs::read(&ledger).unwrap();
        std::fs::write(&ledger, "{").unwrap();
        refused(app.run(&["run", "-T", "a"]), 1, &["ledger.json", "backup"]);
        std::fs::write(&ledger, text).unwrap();
        app.ok(&["run", "-T", "a"]);
    }
}

/// Who edits a ledger, or copies one, cannot have two services share an id, or one have the host's.
#[test]
fn a_ledger_that_nobody_would_have_written_is_refused() {
    for mode in BOTH {
        let app = App::new(mode, &minimal("edited", "[services.b]\ncommand = \"true\"\n"));
        app.ok(&["run", "-T", "one"]);
        let path = app.state().join("apps/edited/ledger.json");
        let text = std::fs::read_to_string(&path).unwrap();
        let edited = |change: &dyn Fn(&mut Value)| {
            let mut value: Value = serde_json::from_str(&text).unwrap();
            change(&mut value);
            std::fs::write(&path, value.to_string()).unwrap();
        };
        let of = |v: &Value, key: &str, id: &str| v["services"][key][id].clone();
        // The control: it may be written anew.
        edited(&|_| {});
        app.ok(&["run", "-T", "one"]);
        type Change<'c> = (&'c str, &'c dyn Fn(&mut Value));
        let changes: [Change<'_>; 9] = [
            ("to `b` and `one`", &|v| v["services"]["b"]["uid"] = of(v, "one", "uid")),
            ("to `b` and `one`", &|v| v["services"]["b"]["gid"] = of(v, "one", "gid")),
            ("to `one` and `the keeper`", &|v| {
                v["services"]["one"]["uid"] = v["keeper"]["uid"].clone()
            }),
            ("the UID 0 to `one`", &|v| v["services"]["one"]["uid"] = 0.into()),
            ("the GID 0 to `one`", &|v| v["services"]["one"]["gid"] = 0.into()),
            ("the GID 0 to `x`", &|v| v["groups"]["x"] = 0.into()),
            ("to `one` and `x`", &|v| v["groups"]["x"] = of(v, "one", "gid")),
            ("uid_range is", &|v| v["uid_range"] = serde_json::json!([5, 4])),
            ("that of the app `other`", &|v| v["app"] = "other".into()),
        ];
        std::fs::create_dir(app.state().join("apps/other")).unwrap();
        for (says, change) in changes {
            edited(change);
            refused(app.run(&["run", "-T", "one"]), 1, &["ledger.json", says, "backup"]);
            refused(app.run(&["up", "-d"]), 1, &[says]);
        }
        std::fs::write(&path, &text).unwrap();
        app.ok(&["run", "-T", "one"]);
    }
}

/// What lies in the state directory, and other apps that cannot start, are no reason for one that has its ids.
#[test]
fn an_app_that_cannot_start_stops_no_other() {
    for mode in BOTH {
        let app = App::new(mode, &minimal("first", ""));
        app.write("two.toml", minimal("two", ""));
        let two = |args: &[&str]| {
            let all: Vec<&str> = ["-f", "two.toml"].iter().chain(args).copied().collect();
            app.run(&all)
        };
        app.ok(&["run", "-T", "one"]);
        two(&["run", "-T", "one"]).ok();
        std::fs::write(app.state().join("apps/notes.txt"), "mine").unwrap();
        app.ok(&["run", "-T", "one"]);
        app.write("three.toml", minimal("three", ""));
        app.run(&["-f", "three.toml", "run", "-T", "one"]).ok();
        let ledger = app.state().join("apps/two/ledger.json");
        let text = std::fs::read(&ledger).unwrap();
        for broken in ["", "{", "{\"version\": 7}"] {
            std::fs::write(&ledger, broken).unwrap();
            refused(two(&["run", "-T", "one"]), 1, &["apps/two/ledger.json"]);
            let said = app.ok(&["up", "-d"]);
            assert!(
                said.err
                    .contains("note: another app of this state directory cannot start"),
                "{said:?}"
            );
            assert!(said.err.contains("apps/two/ledger.json"), "{said:?}");
            app.ok(&["down"]);
            // One that is yet to be given ids might be given the other's.
            app.write("four.toml", minimal("four", ""));
            refused(
                app.run(&["-f", "four.toml", "run", "-T", "one"]),
                1,
                &["apps/two/ledger.json", "backup"],
            );
        }
        std::fs::write(&ledger, text).unwrap();
        two(&["run", "-T", "one"]).ok();
        for name in ["two.toml", "three.toml"] {
            app.run(&["-f", name, "down", "--purge"]).ok();
        }
    }
}

/// A bundle's GID that the external service's takes the place of is given to nobody: files may have it.
#[test]
fn the_gid_that_a_bundle_had_is_given_to_nobody() {
    let with = |used: bool, more: &str| {
        format!(
            "[app]\nname = \"formergid\"\nuid_range = [61400, 61409]\ngid_range = [61400, 61409]\nexternal_uid = 33\n\
             external_gid = 33\n[resources]\nx = {{ path = \"/x/\", owner = \"rw\", bundle = \"r\" }}\n\
             [bundles.it]\nresources = [\"x\"]\nused_by_external = {used}\n\
             [services.a]\ncommand = \"true\"\nowner_resources = [\"x\"]\n[services.b]\ncommand = \"true\"\nbundle = \"it\"\n{more}"
        )
    };
    let app = App::new(Mode::Root, &with(false, ""));
    app.ok(&["run", "-T", "a"]);
    let had = ids(&app, "formergid")["groups"]["it"].as_u64().unwrap();
    app.write("pysecure.toml", with(true, "[services.c]\ncommand = \"true\"\n"));
    app.ok(&["run", "-T", "c"]);
    let ledger = ids(&app, "formergid");
    assert_eq!(ledger["groups"]["it"], 33);
    assert_ne!(ledger["services"]["c"]["gid"].as_u64(), Some(had), "{ledger}");
    // It is the bundle's own yet, if that returns.
    app.write("pysecure.toml", with(false, "[services.d]\ncommand = \"true\"\n"));
    app.ok(&["run", "-T", "d"]);
    let ledger = ids(&app, "formergid");
    assert_eq!(ledger["groups"]["it"].as_u64(), Some(had), "{ledger}");
    // Nor are its ids those of the app.
    app.write("pysecure.toml", with(true, "").replace("_gid = 33", "_gid = 61405"));
    refused(app.run(&["check"]), 2, &["61405", "the external service"]);
    app.write("pysecure.toml", with(false, ""));
}

const TWO: &str = r#"
[app]
name = "NAME"
[resources]
secret = { path = "/data/secret/", owner = "rw" }
[services.keeps]
command = ["sh", "-c", "echo swordfish >/data/secret/it; echo written; exec sleep infinity"]
owner_resources = ["secret"]
[services.other]
command = ["sh", "-c", "echo here; exec sleep infinity"]
"#;

/// Without ids to give out, services share one and are kept apart by mounts; that is said, and can be refused.
fn one_id(app: &App, run: impl Fn(&[&str]) -> Ended) {
    let said = run(&["check"]).ok();
    assert!(said.err.contains("all services share your UID"), "{}", said.err);
    refused(run(&["up", "-d", "--strict"]), 1, &["--strict", "one UID"]);
    assert!(
        !app.state().join("run").exists(),
        "a refused `up` leaves nothing running"
    );
    let up = run(&["up", "-d"]).ok();
    assert!(
        up.err.contains("all services share your UID") && up.err.contains("doctor"),
        "{}",
        up.err
    );
    harness::wait_until(|| run(&["logs", "keeps"]).out.contains("written").then_some(()));
    // `ps` has the UID that the host knows, and says that it is not the service's alone.
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&app.folder).unwrap());
    let shown = run(&["ps"]).ok();
    assert!(shown.out.contains(&format!("{owner} (shared)")), "{}", shown.out);
    assert!(shown.err.contains("share your UID"), "{}", shown.err);
    let json: serde_json::Value = serde_json::from_str(&run(&["ps", "--json"]).ok().out).unwrap();
    let service = &json["services"][0];
    assert_eq!(service["uid"], owner);
    let own = run(&["exec", "-T", service["service"].as_str().unwrap(), "--", "id", "-u"])
        .ok()
        .out;
    assert_eq!(service["ids_inside"][0].to_string(), own.trim());
    // That it is up already makes it no stricter.
    refused(run(&["up", "-d", "--strict"]), 1, &["--strict", "one UID"]);
    let inside = |service: &str, script: &str| run(&["exec", "-T", service, "--", "sh", "-c", script]);
    assert_eq!(inside("keeps", "cat /data/secret/it").ok().out, "swordfish\n");
    assert_ne!(inside("other", "cat /data/secret/it").code, 0);
    assert_eq!(
        inside("other", "ls /proc | grep -c '^[0-9]'; ls -d /data")
            .out
            .lines()
            .count(),
        1
    );
    run(&["down", "--purge"]).ok();
    // Further users need ids that are not there.
    let manifest = app.folder.join("pysecure.toml");
    let users = std::fs::read_to_string(&manifest).unwrap() + "users = [\"www\"]\n";
    std::fs::write(&manifest, users).unwrap();
    refused(
        run(&["up", "-d"]),
        2,
        &["`other`: has `users`", "users = [\"www\"]", "pysecure doctor"],
    );
}

fn without_programs(app: &App, args: &[&str]) -> Ended {
    let mut all = vec!["PATH=/nonexistent", harness::binary().to_str().unwrap()];
    all.extend(args);
    Ended::from(app.shell_free("/usr/bin/env", &all).output().unwrap())
}

#[test]
fn newuidmap_is_missing() {
    let app = App::new(Mode::Rootless, &TWO.replace("NAME", "nomap"));
    one_id(&app, |args| without_programs(&app, args));
}

#[test]
fn a_user_without_subordinate_ids() {
    let name = "pysecure-noids";
    let made = Command::new("flock")
        .args(["/run/lock/pysecure-test-user", "sh", "-c"])
        .arg(format!(
            "id {name} >/dev/null 2>&1 || useradd --create-home -K SUB_UID_COUNT=0 -K SUB_GID_COUNT=0 {name}"
        ))
        .status()
        .unwrap();
    assert!(
        made.success(),
        "make the user {name}: install `passwd` and `util-linux`"
    );
    for file in ["/etc/subuid", "/etc/subgid"] {
        assert!(
            !std::fs::read_to_string(file).unwrap().contains(name),
            "{file} gives {name} ids"
        );
    }
    let app = App::new(Mode::Root, &TWO.replace("NAME", "noids"));
    let owned = Command::new("chown")
        .args(["-R", name])
        .arg(&app.folder)
        .status()
        .unwrap();
    assert!(owned.success());
    one_id(&app, |args| {
        let args: Vec<&str> = [
            "--reuid",
            name,
            "--regid",
            name,
            "--init-groups",
            "--inh-caps=-all",
            harness::binary().to_str().unwrap(),
        ]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
        Ended::from(app.shell_free("setpriv", &args).output().unwrap())
    });
}

/// The files of accounts and subordinate ids are others', in a mount namespace of their own.
fn with_accounts(app: &App, passwd: &str, subordinate: &str, args: &[&str]) -> Ended {
    let (uid, gid) = harness::user();
    app.write("passwd", passwd);
    app.write("subid", subordinate);
    let script = format!(
        "mount --bind passwd /etc/passwd && mount --bind subid /etc/subuid && mount --bind subid /etc/subgid && \
         exec setpriv --reuid {uid} --regid {gid} --clear-groups --inh-caps=-all \"$@\""
    );
    let binary = harness::binary().to_str().unwrap();
    let all: Vec<&str> = ["--mount", "sh", "-c", &script, "sh", binary]
        .into_iter()
        .chain(args.iter().copied())
        .collect();
    Ended::from(app.shell_free("unshare", &all).output().unwrap())
}

#[test]
fn ids_are_the_users_whoever_the_files_name() {
    let app = App::new(
        Mode::Root,
        &minimal("aliases", "uid_range = [2000, 2099]\ngid_range = [2000, 2099]"),
    );
    let (uid, gid) = harness::user();
    let start = harness::first_subordinate_id();
    let owned = Command::new("chown")
        .args(["-R", &format!("{uid}:{gid}")])
        .arg(&app.folder)
        .status()
        .unwrap();
    assert!(owned.success());
    let line = |name: &str| format!("{name}:x:{uid}:{gid}::{}:/bin/sh\n", app.folder.display());
    let names = ["ann", "anna", "anne", "annabel"];
    let passwd = "root:x:0:0::/root:/bin/sh\n".to_owned() + &names.map(line).concat();
    let number = uid.to_string();
    // Of one user with four names, and with no name in the files.
    for name in names.iter().chain([&number.as_str()]) {
        let checked = with_accounts(&app, &passwd, &format!("{name}:{start}:65536\n"), &["run", "-T", "one"]).ok();
        assert!(!checked.err.contains("no subordinate ids"), "{name}: {checked:?}");
    }
    // What they give twice, whole or in part.
    for (first, second) in [(0, 0), (0, 1000), (1000, 0)] {
        let twice = format!("ann:{}:30000\n{uid}:{}:30000\n", start + first, start + second);
        with_accounts(&app, &passwd, &twice, &["run", "-T", "one"]).ok();
        let said = with_accounts(&app, &passwd, &twice, &["doctor"]);
        assert!(
            said.out.contains("ids were mapped into a namespace"),
            "{twice}: {said:?}"
        );
    }
    with_accounts(&app, &passwd, &format!("ann:{start}:65536\n"), &["down", "--purge"]).ok();
}

#[test]
fn what_a_caller_may_not_start_or_open_is_told_as_that() {
    let app = App::new(Mode::Rootless, &minimal("lacking", ""));
    let under = |limit: &str| {
        let args = [limit, harness::binary().to_str().unwrap(), "run", "-T", "one"];
        Ended::from(app.shell_free("prlimit", &args).output().unwrap())
    };
    refused(under("--nproc=0"), 1, &["ulimit -u"]);
    // Wherever it is that none is left.
    for files in 5..24 {
        let ended = under(&format!("--nofile={files}"));
        assert!(!ended.err.contains("must name this user"), "{files}: {ended:?}");
        assert!(ended.code == 0 || !ended.err.is_empty(), "{files}: {ended:?}");
    }
    app.ok(&["run", "-T", "one"]);
}

#[test]
fn a_right_that_one_id_cannot_hold_is_refused() {
    let manifest = "[resources]\nbox = { path = \"/data/box/\", global = \"w\" }\n";
    let app = App::new(Mode::Rootless, &minimal("blind", manifest));
    app.ok(&["check"]);
    refused(
        without_programs(&app, &["check"]),
        2,
        &["without `r`", "subordinate ids"],
    );
}

/// The limit is set inside a user namespace made for it, so it holds for nobody else.
#[test]
fn user_namespaces_are_disabled() {
    for ids in ["0", "1000"] {
        let app = App::new(Mode::Rootless, &TWO.replace("NAME", "disabled"));
        let script = format!(
            "echo 0 >/proc/sys/user/max_user_namespaces && chown -R {ids}:{ids} . && \
             exec setpriv --reuid {ids} --regid {ids} --clear-groups --inh-caps=-all \"$@\""
        );
        for command in [["up", "-d"], ["run", "keeps"]] {
            let mut args = vec!["-Um", "--map-root-user", "--map-auto"];
            args.extend(["sh", "-c", &script, "sh", harness::binary().to_str().unwrap()]);
            args.extend(command);
            let ended = Ended::from(app.shell_free("unshare", &args).output().unwrap());
            assert!(ended.code == 1 || ended.code == 125, "{ended:?}");
            let said = ended.err.to_lowercase();
            assert!(said.contains("namespace") && said.contains("doctor"), "{}", ended.err);
            assert!(!app.state().join("run").exists(), "nothing is left behind");
        }
    }
}

#[test]
fn five_thousand_services() {
    let mut manifest = String::from("[app]\nname = \"many\"\nuid_range = [40000, 59999]\ngid_range = [40000, 59999]\n");
    for n in 0..5000 {
        manifest += &format!("[services.s{n}]\ncommand = [\"sleep\", \"infinity\"]\n");
    }
    for mode in BOTH {
        let app = App::new(mode, &manifest);
        assert!(app.ok(&["check"]).out.contains("5000 services"));
        // One of them runs as well as one of two does.
        assert_eq!(app.ok(&["run", "-T", "s4999", "--", "id", "-un"]).out, "s4999\n");
        let up = ["--nofile=4096:4096", harness::binary().to_str().unwrap(), "up", "-d"];
        let ended = Ended::from(app.shell_free("prlimit", &up).output().unwrap());
        refused(ended, 1, &["5000 services", "open files", "raise it"]);
        assert!(
            !app.state().join("run").exists(),
            "a refused `up` leaves nothing behind"
        );
    }
}

const SHARED: &str = r#"
[app]
name = "shared"
[resources]
board = { path = "/data/board/", owner = "r", bundle = "rw", global = "" }
[bundles.team]
resources = ["board"]
[services.owner]
command = "true"
owner_resources = ["board"]
[services.ann]
command = "true"
bundle = "team"
[services.bob]
command = "true"
bundle = "team"
[services.eve]
command = "true"
"#;

/// Everyone's sorest point: who may do what with a file that another member made, and afterwards, when the
/// manifest has changed.
#[test]
fn files_in_a_shared_directory_are_everybodys_who_may() {
    for mode in BOTH {
        let app = App::new(mode, SHARED);
        // By any means that programs have of making files, and with any umask.
        let make = "cd /data/board && umask 077 && echo ann >plain && mkdir -p deep/er && echo ann >deep/er/file && \
                    echo ann >/tmp/x && cp -p /tmp/x copied && echo ann >new && mv new renamed && ln -s plain link && \
                    echo '#!/bin/sh' >script && chmod 755 script && chmod 600 plain";
        sh(&app, "ann", make).ok();
        let files = ["deep/er/file", "renamed", "link"];
        for file in files {
            let path = format!("/data/board/{file}");
            if file != "link" {
                assert_eq!(
                    sh(&app, "bob", &format!("cat {path} && echo bob >>{path}")).ok().out,
                    "ann\n",
                    "{file}"
                );
                assert_eq!(
                    sh(&app, "owner", &format!("cat {path}")).ok().out,
                    "ann\nbob\n",
                    "{file}"
                );
            }
            // The owner has fewer rights than the bundle, and does not borrow them.
            assert_ne!(sh(&app, "owner", &format!("echo owner >>{path}")).code, 0, "{file}");
            assert_ne!(sh(&app, "eve", &format!("cat {path}")).code, 0, "{file}");
        }
        // Members remove one another's, and nobody else does.
        assert_ne!(
            sh(&app, "owner", "rm -f /data/board/renamed; touch /data/board/x").code,
            0
        );
        sh(
            &app,
            "bob",
            "rm /data/board/deep/er/file && rmdir /data/board/deep/er /data/board/deep",
        )
        .ok();

        // The policy changes: what lies there is brought in line, the set of members and the rights alike.
        let changed = SHARED.replace(r#"owner = "r", bundle = "rw""#, r#"owner = "rw", bundle = "r""#);
        app.write("pysecure.toml", &changed);
        sh(&app, "owner", "echo owner >>/data/board/renamed").ok();
        // So it stands on the host too, where no mount holds a former right back.
        let on_disk = |file: &str| {
            let found = std::fs::metadata(app.state().join("apps/shared/resources/board").join(file)).unwrap();
            (found.uid(), found.mode() & 0o7777)
        };
        match mode {
            // One owner, and a folder that is closed to all others.
            Mode::Root => assert_eq!((on_disk("").1, on_disk("renamed").0), (0o700, on_disk("").0)),
            Mode::Rootless => {
                assert_eq!(on_disk("renamed"), (on_disk("").0, 0o640));
                assert_eq!(on_disk("script").1, 0o640);
            }
        }
        assert!(sh(&app, "bob", "cat /data/board/renamed").ok().out.ends_with("owner\n"));
        for member in ["ann", "bob"] {
            assert_ne!(sh(&app, member, "echo no >>/data/board/renamed").code, 0, "{member}");
            assert_ne!(
                sh(&app, member, "rm -f /data/board/renamed; touch /data/board/y").code,
                0,
                "{member}"
            );
        }
        // `eve` takes `board` over; `owner` is nobody to it.
        let moved = changed
            .replace("owner_resources = [\"board\"]\n", "")
            .replace("[services.eve]", "[services.eve]\nowner_resources = [\"board\"]");
        app.write("pysecure.toml", moved);
        sh(&app, "eve", "cat /data/board/renamed && echo eve >>/data/board/renamed").ok();
        assert_ne!(sh(&app, "owner", "cat /data/board/renamed").code, 0);
        // No set-id bit and no foreign owner is left: on the host all of it is the app's own.
        let board = app.state().join("apps/shared/resources/board");
        for entry in std::fs::read_dir(&board).unwrap() {
            let found = std::fs::symlink_metadata(entry.unwrap().path()).unwrap();
            assert!(found.is_symlink() || found.mode() & 0o6000 == 0, "{:o}", found.mode());
        }
        let mode = std::fs::metadata(app.state()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700, "the state is passable to others");
    }
}

/// The user's own tree: shown as the service's, and left as it is.
#[test]
fn a_source_keeps_its_owner() {
    let manifest = |more: &str| {
        format!(
            r#"
[app]
name = "sources"
[resources]
mine = {{ path = "/data/mine", source = "./mine", owner = "rw"{more} }}
[services.one]
command = "true"
owner_resources = ["mine"]
[services.two]
command = "true"
"#
        )
    };
    for app_mode in BOTH {
        let app = App::new(app_mode, &manifest(""));
        let file = app.write("mine/deep/file", "before\n");
        let mine = app.folder.join("mine");
        let (uid, gid) = match app_mode {
            Mode::Root => (4321, 4322),
            Mode::Rootless => harness::user(),
        };
        for path in [&mine, &mine.join("deep"), &file] {
            chown(path, Some(uid), Some(gid)).unwrap();
            let bits = if path == &file { 0o600 } else { 0o700 };
            std::fs::set_permissions(path, PermissionsExt::from_mode(bits)).unwrap();
        }
        let state = || {
            [&mine, &mine.join("deep"), &file].map(|p| {
                let found = std::fs::metadata(p).unwrap();
                (found.uid(), found.gid(), found.mode())
            })
        };
        let before = state();
        if app_mode == Mode::Root {
            let script = "cat /data/mine/deep/file && echo after >>/data/mine/deep/file && echo new >/data/mine/new && \
                          stat -c %u /data/mine /data/mine/deep/file && id -u";
            let out = sh(&app, "one", script).ok().out;
            let lines: Vec<&str> = out.lines().collect();
            assert_eq!(lines[0], "before");
            assert!(lines[1..].iter().all(|l| *l == lines[3]), "shown as another's: {out}");
            assert_eq!(before, state());
            let new = std::fs::metadata(mine.join("new")).unwrap();
            assert_eq!(
                (new.uid(), new.gid()),
                (uid, gid),
                "what a service makes is its owner's on disk"
            );
            assert_eq!(std::fs::read_to_string(&file).unwrap(), "before\nafter\n");
        } else {
            refused(app.run(&["check"]), 2, &["is yours", "chown = true"]);
            refused(app.run(&["run", "-T", "one"]), 2, &["is yours", "chown = true"]);
            refused(app.run(&["up", "-d"]), 2, &["chown = true"]);
            assert_eq!(before, state());
        }
        assert_ne!(sh(&app, "two", "ls /data/mine").code, 0);
        assert_eq!(before, state());
        // Asked for, it is done.
        app.write("pysecure.toml", manifest(", chown = true"));
        assert!(
            sh(
                &app,
                "one",
                "cat /data/mine/deep/file && echo more >>/data/mine/deep/file"
            )
            .ok()
            .out
            .starts_with("before")
        );
        assert_ne!(state()[0].0, uid);
        assert_ne!(state()[2].0, uid);
    }
}

/// A source whose mode forbids what is granted is neither opened up nor granted in vain; and nobody is told to open it to all.
#[test]
fn a_source_that_is_closed_is_refused_with_what_keeps_it_closed() {
    for mode in BOTH {
        let manifest = |keys: &str| {
            format!(
                "[app]\nname = \"closed\"\n[resources]\nkey = {{ path = \"/data/key\", global = \"r\", {keys} }}\n\
                 [services.one]\ncommand = [\"cat\", \"/data/key\"]\n"
            )
        };
        let app = App::new(mode, &manifest("source = \"./key.pem\""));
        let key = app.write("key.pem", "secret");
        let closed = PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key, closed).unwrap();
        let found = app.run(&["check"]);
        let initial = format!("initial = \"{}\"", key.display());
        assert!(!found.err.contains("chmod"), "{}", found.err);
        refused(found, 2, &["key.pem has mode 0600", &initial, "chown = true"]);
        // What is told works, and leaves the file closed.
        app.write("pysecure.toml", manifest(&initial));
        assert_eq!(app.ok(&["run", "-T", "one"]).out, "secret", "{mode:?}");
        assert_eq!(key.metadata().unwrap().mode() & 0o777, 0o600);

        let code = |more: &str| {
            format!(
                "[app]\nname = \"closedcode\"\ncode = {{ \"/code\" = \"./code\" }}\n[services.one]\n\
                 command = \"sh /code/main.sh\"\n{more}"
            )
        };
        app.write("pysecure.toml", code(""));
        let script = app.write("code/main.sh", "echo it runs");
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o600)).unwrap();
        let found = app.run(&["check"]);
        assert!(!found.err.contains("chmod"), "{}", found.err);
        let initial = format!("initial = \"{}\"", script.display());
        refused(found, 0, &["/code/main.sh may not be read by other users", &initial]);
        app.write(
            "pysecure.toml",
            code(&format!(
                "[resources]\nmain = {{ path = \"/code/main.sh\", global = \"r\", {initial} }}\n"
            )),
        );
        assert_eq!(app.ok(&["run", "-T", "one"]).out, "it runs\n", "{mode:?}");
        std::fs::set_permissions(app.folder.join("code"), PermissionsExt::from_mode(0o750)).unwrap();
        app.write("pysecure.toml", code(""));
        let found = app.run(&["run", "-T", "one"]);
        assert!(!found.err.contains("chmod"), "{}", found.err);
        refused(
            found,
            2,
            &["mode 0750", "as every account of this host does", "chown = true"],
        );
        std::fs::set_permissions(&script, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::set_permissions(app.folder.join("code"), PermissionsExt::from_mode(0o755)).unwrap();
        app.ok(&["run", "-T", "one"]);
    }
    // To give its owner a right is to open it to nobody else.
    let app = App::new(
        Mode::Root,
        "[app]\nname = \"closed\"\n[resources]\nkey = { path = \"/data/key\", source = \"./key\", owner = \"rw\" }\n\
         [services.one]\ncommand = \"true\"\nowner_resources = [\"key\"]\n",
    );
    let key = app.write("key", "");
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o400)).unwrap();
    let (uid, gid) = harness::user();
    chown(&key, Some(uid), Some(gid)).unwrap();
    refused(app.run(&["check"]), 2, &["mode 0400", "chmod 0600", "chown = true"]);
}

#[test]
fn a_resource_below_code_leaves_the_users_tree_as_it_is() {
    let manifest = r#"
[app]
name = "layers"
code = { "/zoobar" = "./zoobar" }
[resources]
cred = { path = "/zoobar/db/cred/cred.db", owner = "rw" }
person = { path = "/zoobar/db/person/person.db", owner = "rw", global = "r" }
[services.auth]
command = "true"
owner_resources = ["cred"]
[services.bank]
command = "true"
owner_resources = ["person"]
"#;
    for mode in BOTH {
        let app = App::new(mode, manifest);
        app.write("zoobar/auth.py", "code\n");
        app.write("zoobar/db/schema.sql", "schema\n");
        sh(&app, "auth", "cd /zoobar && cat auth.py db/schema.sql && echo secret >db/cred/cred.db && echo j >db/cred/cred.db-journal")
            .ok();
        sh(
            &app,
            "auth",
            "mv /zoobar/db/cred/cred.db-journal /zoobar/db/cred/cred.db && cat /zoobar/db/cred/cred.db",
        )
        .ok();
        for script in [
            "echo x >>/zoobar/auth.py",
            "touch /zoobar/new",
            "touch /zoobar/db/new",
            "rm -r /zoobar/db",
        ] {
            assert_ne!(sh(&app, "auth", script).code, 0, "{script}");
        }
        assert_ne!(sh(&app, "bank", "cat /zoobar/db/cred/cred.db").code, 0);
        sh(&app, "bank", "echo row >/zoobar/db/person/person.db").ok();
        assert_eq!(sh(&app, "auth", "cat /zoobar/db/person/person.db").ok().out, "row\n");
        let mut there: Vec<_> = std::fs::read_dir(app.folder.join("zoobar/db"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        assert_eq!(there, ["schema.sql"], "placeholders were made in the user's tree");
    }
}

#[test]
fn grants_that_undo_one_another_and_rules_that_do_not_hold() {
    let app = App::new(Mode::Root, "");
    let check = |text: &str| {
        app.write("pysecure.toml", format!("[app]\nname = \"grants\"\n{text}"));
        app.run(&["check"])
    };
    let team = "[bundles.team]\nresources = [RESOURCES]\n[services.a]\ncommand = \"true\"\nowner_resources = [\"file\"]\nbundle = \"team\"\n\
                [services.b]\ncommand = \"true\"\nbundle = \"team\"\n";
    let both = team.replace("RESOURCES", "\"dir\", \"file\"");
    // A member may not write the file, but may replace it.
    let undone = format!(
        "[resources]\ndir = {{ path = \"/data/dir/\", bundle = \"rw\" }}\nfile = {{ path = \"/data/dir/x.txt\", owner = \"rw\", bundle = \"r\" }}\n{both}"
    );
    refused(
        check(&undone),
        2,
        &[
            "may not write `file`",
            "remove and replace",
            "take `w` from the directory",
        ],
    );
    let held = undone.replace("bundle = \"rw\"", "bundle = \"r\"");
    check(&held).ok();
    // A writable file that has company is mounted alone, and that is worth a warning.
    assert!(check(&held).err.contains("write-then-rename"), "no warning");
    // In two bundles, each of which grants.
    let two = "[resources]\nfile = { path = \"/data/f/\", owner = \"rw\", bundle = \"r\" }\n[bundles.team]\nresources = [\"file\"]\n\
               [bundles.other]\nresources = [\"file\"]\n[services.a]\ncommand = \"true\"\nowner_resources = [\"file\"]\n\
               [services.b]\ncommand = \"true\"\nbundle = \"team\"\n[services.c]\ncommand = \"true\"\nbundle = \"other\"\n\
               [services.d]\ncommand = \"true\"\n";
    check(two).ok();
    sh(&app, "a", "echo shared >/data/f/x").ok();
    for member in ["b", "c"] {
        assert_eq!(sh(&app, member, "cat /data/f/x").ok().out, "shared\n");
        assert_ne!(sh(&app, member, "echo no >/data/f/x").code, 0);
    }
    assert_ne!(sh(&app, "d", "cat /data/f/x").code, 0);
    for (rule, wrong) in [
        ("read file except a, b, c", None),
        ("write file except a", None),
        ("execute file", None),
        ("call a from b", None),
        ("read file except a, b", Some("`c` may read `file`")),
        ("write file from a", Some("`a` may write `file`")),
        ("read file", Some("`a`, `b`, `c` may read `file`")),
        ("read flie", Some("did you mean `file`")),
        ("read file except dd", Some("did you mean `d`")),
        ("read file unless a", Some("expected `except` or `from`")),
    ] {
        let ended = check(&format!("{two}[assert]\nnever = [\"{rule}\"]\n"));
        match wrong {
            None => assert_eq!(ended.code, 0, "{rule}: {}", ended.err),
            Some(says) => {
                refused(ended, 2, &[says]);
                refused(app.run(&["up", "-d"]), 2, &[says]);
            }
        }
    }
}

#[test]
fn an_up_that_is_refused_leaves_nothing() {
    for mode in BOTH {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let listen = format!(
            "[app]\nname = \"taken\"\n[services.one]\ncommand = \"sleep infinity\"\nlisten = [\"127.0.0.1:{port}\"]\n"
        );
        let app = App::new(mode, &listen);
        refused(app.run(&["up", "-d"]), 1, &[&port.to_string()]);
        assert!(
            !app.state().join("run").exists(),
            "a refused `up` leaves something behind"
        );
        drop(taken);
        app.ok(&["up", "-d"]);
        app.ok(&["down"]);
    }
}
