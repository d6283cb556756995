//! What was renamed in a manifest goes on with its data where the manifest says so; where it does not, that is said.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use serde_json::Value;

fn manifest(name: &str, body: &str) -> String {
    format!("[app]\nname = \"{name}\"\n{body}\n")
}

/// One resource, a file, and a service that owns it.
fn one(resource: &str, path: &str, more: &str, service: &str) -> String {
    format!(
        "[resources]\n{resource} = {{ path = \"{path}\", owner = \"rw\"{more} }}\n\
         [services.{service}]\ncommand = [\"sleep\", \"infinity\"]\nowner_resources = [\"{resource}\"]"
    )
}

fn set(app: &App, name: &str, body: &str) {
    app.write("pysecure.toml", manifest(name, body));
}

fn data(app: &App) -> Vec<(String, String, bool)> {
    let all: Value = serde_json::from_str(&app.ok(&["data", "--json"]).out).unwrap();
    let row = |v: &Value| {
        (
            v["kind"].as_str().unwrap().to_owned(),
            v["name"].as_str().unwrap().to_owned(),
            v["used"].as_bool().unwrap(),
        )
    };
    all.as_array().unwrap().iter().map(row).collect()
}

#[track_caller]
fn says(ended: &Ended, parts: &[&str]) {
    for part in parts {
        assert!(ended.err.contains(part), "no {part:?} in {}", ended.err);
    }
}

/// Starts the app, has the service do this, and stops it.
#[track_caller]
fn once(app: &App, script: &str) -> (Ended, String) {
    let up = app.ok(&["up", "-d"]);
    let out = app.sh("one", script).ok().out;
    app.ok(&["down"]);
    (up, out)
}

#[test]
fn a_resource_goes_on_under_another_name() {
    for mode in BOTH {
        let app = App::new(mode, "");
        set(&app, "renamed", &one("cred", "/data/old.db", "", "one"));
        once(&app, "echo swordfish > /data/old.db; echo hot > /data/old.db-wal");
        // Another name, and the file's name with it, as in Python: the control begins empty.
        set(&app, "renamed", &one("creds", "/data/new.db", "", "one"));
        let expected = [
            "warning: `creds` begins empty, and the data of `cred` (/data/old.db) is kept in",
            "pysecure.toml:4:1",
            "write was = \"cred\" for `creds`",
            "`pysecure data remove cred` deletes it",
        ];
        says(&app.ok(&["check"]), &expected);
        says(&app.ok(&["up", "--dry-run"]), &expected);
        let (up, out) = once(&app, "cat /data/new.db 2>/dev/null || true");
        says(&up, &expected);
        assert_eq!(out, "", "{mode:?}: the control has data");
        // Now that it was started, it is still empty, and that is still said.
        says(&app.ok(&["up", "--dry-run"]), &["the data of `cred`"]);
        let kept = data(&app);
        assert!(kept.contains(&("resource".into(), "cred".into(), false)), "{kept:?}");
        assert!(kept.contains(&("resource".into(), "creds".into(), true)), "{kept:?}");

        set(
            &app,
            "renamed",
            &one("creds", "/data/new.db", ", was = \"cred\"", "one"),
        );
        let before = std::fs::read(app.state().join("apps/renamed/ledger.json")).unwrap();
        let said = app.ok(&["check"]);
        assert!(!said.err.contains("begins empty"), "{}", said.err);
        let (up, out) = once(
            &app,
            "cat /data/new.db /data/new.db-wal; echo more >> /data/new.db; ls /data",
        );
        assert!(!up.err.contains("begins empty"), "{}", up.err);
        assert_eq!(out, "swordfish\nhot\nnew.db\nnew.db-wal\n", "{mode:?}");
        assert!(!data(&app).iter().any(|(_, name, _)| name == "cred"));
        // Killed before it was on record that this is done: it is done again, to the same end.
        std::fs::write(app.state().join("apps/renamed/ledger.json"), before).unwrap();
        let (_, out) = once(&app, "cat /data/new.db");
        assert_eq!(out, "swordfish\nmore\n", "{mode:?}");
        // `was` may stay, and may go.
        let (_, out) = once(&app, "cat /data/new.db");
        assert_eq!(out, "swordfish\nmore\n", "{mode:?}");
        set(&app, "renamed", &one("creds", "/data/third.db", "", "one"));
        // The same name, and another path: the same resource.
        let (_, out) = once(&app, "cat /data/third.db; ls /data");
        assert_eq!(out, "swordfish\nmore\nthird.db\nthird.db-wal\n", "{mode:?}");
    }
}

#[test]
fn data_of_both_names_is_nobodys_to_choose() {
    for mode in BOTH {
        let app = App::new(mode, "");
        set(&app, "bothnames", &one("old", "/data/x/", "", "one"));
        once(&app, "echo old > /data/x/it");
        set(&app, "bothnames", &one("new", "/data/x/", "", "one"));
        once(&app, "echo new > /data/x/it");
        set(&app, "bothnames", &one("new", "/data/x/", ", was = \"old\"", "one"));
        let refused = app.run(&["up", "-d"]);
        assert_eq!(refused.code, 2, "{refused:?}");
        says(
            &refused,
            &[
                "both `old` and `new` have data",
                "pysecure.toml:4:48",
                "pysecure data remove new",
            ],
        );
        // Nothing is deleted unasked, nor what is used under a running app.
        let unasked = app.run(&["data", "remove", "new"]);
        assert!(unasked.code == 2 && unasked.err.contains("--yes"), "{unasked:?}");
        let unknown = app.run(&["data", "remove", "--yes", "other"]);
        assert!(
            unknown.code == 2 && unknown.err.contains("nothing is kept under the name `other`"),
            "{unknown:?}"
        );
        set(&app, "bothnames", &one("new", "/data/x/", "", "one"));
        app.ok(&["up", "-d"]);
        let used = app.run(&["data", "remove", "--yes", "new"]);
        assert!(used.code == 1 && used.err.contains("it is up"), "{used:?}");
        app.ok(&["down"]);
        says(
            &app.ok(&["data", "remove", "--yes", "new"]),
            &["resource `new`, which the manifest uses"],
        );
        set(&app, "bothnames", &one("new", "/data/x/", ", was = \"old\"", "one"));
        assert_eq!(once(&app, "cat /data/x/it").1, "old\n", "{mode:?}");
        // What nothing names any more is said, and can go.
        set(&app, "bothnames", "[services.one]\ncommand = [\"sleep\", \"infinity\"]");
        says(
            &app.ok(&["check"]),
            &[
                "warning: the data of `new` (/data/x",
                "`pysecure data remove new` deletes it",
            ],
        );
        app.ok(&["data", "remove", "--yes", "new"]);
        let said = app.ok(&["check"]);
        assert!(!said.err.contains("warning"), "{}", said.err);
    }
}

#[test]
fn a_service_goes_on_under_another_name() {
    for mode in BOTH {
        let app = App::new(mode, "");
        set(&app, "newname", &one("x", "/data/x/", "", "first"));
        app.ok(&["up", "-d"]);
        let uid = app.sh("first", "id -u; echo mine > /data/x/it").ok().out;
        app.ok(&["down"]);
        // A bundle's or a service's new name alone loses no data: its files become the new id's.
        set(&app, "newname", &one("x", "/data/x/", "", "one"));
        let (_, out) = once(&app, "id -u; cat /data/x/it; echo more >> /data/x/it");
        let other = out.lines().next().unwrap();
        assert!(other != uid.trim() && out.ends_with("mine\n"), "{mode:?}: {out}");
        // With `was` it is the same one again; the id that it had meanwhile is given to nobody.
        let was =
            one("x", "/data/x/", "", "one") + "\nwas = \"first\"\n[services.two]\ncommand = [\"sleep\", \"infinity\"]";
        set(&app, "newname", &was);
        for _ in 0..2 {
            app.ok(&["up", "-d"]);
            assert_eq!(
                app.sh("one", "id -u; cat /data/x/it").ok().out,
                format!("{uid}mine\nmore\n"),
                "{mode:?}"
            );
            assert_ne!(app.sh("two", "id -u").ok().out.trim(), other, "{mode:?}");
            app.ok(&["down"]);
        }
    }
}

#[test]
fn a_bundle_under_another_name_loses_nothing() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let with = |bundle: &str| {
            format!(
                "[resources]\nx = {{ path = \"/data/x/\", owner = \"rw\", bundle = \"r\" }}\n[bundles.{bundle}]\nresources = [\"x\"]\n\
                 [services.one]\ncommand = [\"sleep\", \"infinity\"]\nowner_resources = [\"x\"]\n\
                 [services.two]\ncommand = [\"sleep\", \"infinity\"]\nbundle = \"{bundle}\"\n[services.three]\ncommand = [\"sleep\", \"infinity\"]"
            )
        };
        set(&app, "bundlename", &with("old"));
        once(&app, "echo mine > /data/x/it");
        let gids = |app: &App| -> Value {
            let text = std::fs::read_to_string(app.state().join("apps/bundlename/ledger.json")).unwrap();
            serde_json::from_str::<Value>(&text).unwrap()["groups"].clone()
        };
        let before = gids(&app)["old"].clone();
        set(&app, "bundlename", &with("new"));
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("two", "cat /data/x/it").ok().out, "mine\n", "{mode:?}");
        assert_ne!(app.sh("three", "cat /data/x/it").code, 0, "{mode:?}");
        let after = gids(&app);
        assert!(after["new"] != before && after["old"] == before, "{mode:?}: {after}");
    }
}

#[test]
fn a_root_that_is_kept_and_logs_go_along() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let service = |name: &str, more: &str| {
            format!(
                "[services.{name}]\ncommand = [\"sh\", \"-c\", \"echo begun; exec sleep 1000000\"]\njail = \"minimal\"\n\
                 writable = \"persistent\"{more}"
            )
        };
        set(&app, "rootname", &service("first", ""));
        app.ok(&["up", "-d"]);
        app.wait_for_log("first", "begun");
        app.sh("first", "echo mine > /opt/it").ok();
        app.ok(&["down"]);
        set(&app, "rootname", &service("one", ""));
        says(
            &app.ok(&["check"]),
            &[
                "`one` begins empty, and what was written to the root of `first` is kept in",
                "was = \"first\"",
            ],
        );
        set(&app, "rootname", &service("one", "\nwas = \"first\""));
        assert_eq!(once(&app, "cat /opt/it").1, "mine\n", "{mode:?}");
        assert_eq!(app.logs("one").matches("begun").count(), 2, "{mode:?}");
        assert!(!app.ok(&["check"]).err.contains("begins empty"));
    }
}

#[test]
fn an_app_under_another_name_is_told_where_its_data_is() {
    for mode in BOTH {
        let app = App::new(mode, "");
        set(&app, "appone", &one("x", "/data/x/", "", "one"));
        once(&app, "echo mine > /data/x/it");
        set(&app, "apptwo", &one("x", "/data/x/", "", "one"));
        let said = app.run(&["check"]);
        says(
            &said,
            &[
                "this manifest was the app `appone` before",
                "write name = \"appone\"",
                "pysecure.toml:2:8",
            ],
        );
        set(&app, "appone", &one("x", "/data/x/", "", "one"));
        let said = app.ok(&["check"]);
        assert!(!said.err.contains("before, whose data"), "{}", said.err);
    }
}

#[test]
fn names_that_nothing_had() {
    let app = App::new(Mode::Root, "");
    for (body, says) in [
        (one("x", "/data/x/", ", was = \"../y\"", "one"), "\"../y\" was never the name of a resource"),
        (one("x", "/data/x/", ", was = \"x\"", "one"), "there is a resource of that name"),
        (one("x", "/data/x/", ", was = \"y\", source = \".\"", "one"), "has a `source`"),
        (one("x", "/data/x/", "", "one") + "\nwas = \"one\"", "there is a service of that name"),
        (
            "[resources]\na = { path = \"/a/\", was = \"c\" }\nb = { path = \"/b/\", was = \"c\" }\n[services.one]\ncommand = \"true\"".to_owned(),
            "two resources were `c`",
        ),
    ] {
        set(&app, "nothing", &body);
        let ended = app.run(&["check"]);
        assert!(ended.code == 2 && ended.err.contains(says), "no {says:?} in {ended:?}");
    }
}
