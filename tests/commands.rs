//! What commands take and what they say: one test for each thing that people met and that was not so.

mod harness;

use harness::{App, BOTH, Mode};

/// An app of one service that only waits.
fn idle(mode: Mode, name: &str, more: &str) -> App {
    App::new(
        mode,
        &format!("[app]\nname = \"{name}\"\n[services.web]\ncommand = [\"sleep\", \"infinity\"]\n{more}"),
    )
}

#[test]
fn one_is_not_many_and_a_signal_that_was_sent_is_what_kill_speaks_of() {
    for mode in BOTH {
        let app = idle(mode, "oneofall", "");
        assert!(
            app.ok(&["check"])
                .out
                .ends_with(": 1 service, 0 resources, 0 bundles: ok\n")
        );
        assert_eq!(app.ok(&["up", "-d"]).out, "`oneofall` is up: 1 service\n");
        assert!(
            app.ok(&["up", "-d"])
                .out
                .starts_with("`oneofall` is up already: 1 service, supervisor ")
        );
        assert_eq!(app.ok(&["kill", "-s", "CONT", "web"]).out, "sent CONT to web\n");
        assert_eq!(app.ok(&["kill", "web"]).out, "sent KILL to web\n");
        app.ok(&["down"]);
    }
}

#[test]
fn times_are_numbers_of_seconds_and_what_else_is_typed_is_said_to_be_none() {
    let app = idle(Mode::Root, "secondsonly", "");
    for (args, said) in [
        (["stop", "-t", "x"], "such as 10 or 0.5"),
        (["down", "-t", "nan"], "such as 10 or 0.5"),
        (["restart", "-t", "inf"], "such as 10 or 0.5"),
    ] {
        let refused = app.run(&args);
        assert!(refused.code == 2 && refused.err.contains(said), "{args:?}: {refused:?}");
        assert!(!refused.err.contains("float"), "{refused:?}");
    }
}

#[test]
fn exec_and_run_take_a_variable_from_whoever_calls_them() {
    for mode in BOTH {
        let app = idle(mode, "variables", "environment = { HAS = \"of the service\" }\n");
        app.ok(&["up", "-d"]);
        let show = ["--", "sh", "-c", "echo \"$TOKEN/$GIVEN/$HAS/${ABSENT-none}\""];
        for command in [&["exec", "-T"][..], &["run", "-T"][..]] {
            let options = [
                "-e",
                "TOKEN",
                "-e",
                "GIVEN=a=b",
                "-e",
                "HAS=another",
                "-e",
                "ABSENT",
                "web",
            ];
            let args = [command, &options[..], &show[..]].concat();
            let output = app.command(&args).env("TOKEN", "a secret").output().unwrap();
            let ended = harness::Ended::from(output).ok();
            assert_eq!(ended.out, "a secret/a=b/another/none\n", "{mode:?} {command:?}");
            assert!(ended.err.contains("note: -e ABSENT"), "{ended:?}");
            let wrong = app.run(&[command, &["-e", "=x", "web"], &show[..]].concat());
            assert!(wrong.code == 2 && wrong.err.contains("write KEY=VALUE"), "{wrong:?}");
        }
        app.ok(&["down"]);
    }
}

#[test]
fn ps_shows_the_services_that_were_named() {
    for mode in BOTH {
        let app = idle(
            mode,
            "someofall",
            "[services.db]\ncommand = [\"sleep\", \"infinity\"]\n",
        );
        app.ok(&["up", "-d"]);
        let shown = app.ok(&["ps", "db"]).out;
        assert!(shown.contains("db") && !shown.contains("web"), "{shown}");
        let json: serde_json::Value = serde_json::from_str(&app.ok(&["ps", "--json", "db"]).out).unwrap();
        let all = json["services"].as_array().unwrap();
        assert!(all.len() == 1 && all[0]["service"] == "db", "{json}");
        let unknown = app.run(&["ps", "dbs"]);
        assert!(unknown.code == 2 && unknown.err.contains("`dbs`"), "{unknown:?}");
        app.ok(&["down"]);
    }
}

#[test]
fn init_makes_the_folder_and_never_replaces_a_manifest() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let said = app.ok(&["init", "new/shop"]).out;
        assert!(
            said.contains("new/shop/pysecure.toml") && said.contains("`shop`"),
            "{said}"
        );
        app.ok(&["-f", "new/shop", "check"]);
        let again = app.run(&["init", "new/shop"]);
        assert!(again.code == 1 && again.err.contains("is there already"), "{again:?}");
        let file = app.run(&["init", "pysecure.toml"]);
        assert!(file.code == 1 && file.err.contains("pysecure.toml"), "{file:?}");
    }
}

#[test]
fn a_service_that_nobody_may_call_is_told_with_what_to_write() {
    let app = idle(Mode::Root, "uncallable", "");
    let refused = app.run(&["rpc", "call", "web", "f"]);
    assert!(
        refused.code == 2 && refused.err.contains("callers = { NAME = \"*\" }"),
        "{refused:?}"
    );
}
