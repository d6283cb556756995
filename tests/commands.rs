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

#[test]
fn reload_leaves_alone_what_has_no_handler() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "reloads"
[services.hears]
command = ["sh", "-c", "trap 'echo read again' HUP; echo runs; while :; do sleep 0.02; done"]
[services.deaf]
command = ["sleep", "infinity"]
[services.ignores]
command = ["sh", "-c", "trap '' USR1; echo runs; exec sleep infinity"]
reload_signal = "USR1"
"#,
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("hears", "runs");
        app.wait_for_log("ignores", "runs");
        let before = ["deaf", "ignores"].map(|service| app.init_of(service));
        let said = app.ok(&["reload"]).out;
        assert!(said.contains("hears: sent HUP\n"), "{said}");
        assert!(
            said.contains("deaf: left alone: its program has no handler for HUP, which would end it"),
            "{said}"
        );
        assert!(
            said.contains("ignores: left alone: its program ignores USR1\n"),
            "{said}"
        );
        app.wait_for_log("hears", "read again");
        let named = app.run(&["reload", "deaf"]);
        assert!(
            named.code == 1 && named.err.contains("service `deaf`: left alone"),
            "{named:?}"
        );
        // What is sent to a program arrives before what is asked for after that.
        app.ok(&["exec", "-T", "deaf", "--", "true"]);
        assert_eq!(["deaf", "ignores"].map(|service| app.init_of(service)), before);
        app.ok(&["down"]);
    }
}

const PAINTED: &str = "command = [\"sh\", \"-c\", '''printf '\\033[31mred\\033[0m\\033]0;title\\007\\033[2J\\033]8;;http://x\\033\\\\link\\033]8;;\\033\\\\\\n'; exec sleep infinity''']\n";

#[test]
fn colours_of_services_reach_a_terminal_and_nothing_else_does() {
    for mode in BOTH {
        let app = App::new(mode, &format!("[app]\nname = \"painted\"\n[services.web]\n{PAINTED}"));
        let mut up = app.on_terminal(&["up"], 24, 80);
        let coloured = "\x1b[31mred\x1b[0mlink";
        let shown = up.until("link");
        assert!(shown.ends_with(coloured), "{mode:?}: {shown:?}");
        assert!(!shown.contains("title") && !shown.contains("[2J"), "{shown:?}");
        let (_, shown) = app.on_terminal(&["logs"], 24, 80).ended();
        assert!(shown.contains(coloured) && !shown.contains("title"), "{shown:?}");
        let (_, shown) = app.on_terminal_with(&["logs"], &[("NO_COLOR", "1")], 24, 80).ended();
        assert_eq!(shown, "web | redlink\r\n");
        assert_eq!(app.logs("web"), "web | redlink\n");
        app.ok(&["down"]);
        up.ended();
    }
}

#[test]
fn watch_restarts_whom_a_change_concerns_and_not_for_what_editors_leave() {
    use std::io::BufRead;
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "concerned"
[resources.first]
path = "/app/one/"
source = "./one"
owner = "rx"
[resources.second]
path = "/app/two/"
source = "./two"
owner = "rx"
[services.one]
command = ["sh", "/app/one/run.sh"]
owner_resources = ["first"]
[services.two]
command = ["sh", "/app/two/run.sh"]
owner_resources = ["second"]
"#,
        );
        app.write("one/run.sh", "echo one runs; exec sleep infinity\n");
        app.write("two/run.sh", "echo two runs; exec sleep infinity\n");
        app.write("one/.git/HEAD", "x");
        let mut up = app
            .command(&["up", "--watch"])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = std::io::BufReader::new(up.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("watching") {
            line.clear();
            assert_ne!(says.read_line(&mut line).unwrap(), 0, "it ended before it watched");
        }
        app.wait_for_log("one", "one runs");
        app.wait_for_log("two", "two runs");
        for noise in [
            ".git/index",
            ".run.sh.swp",
            "run.sh~",
            "#run.sh#",
            ".#run.sh",
            "4913",
            "__pycache__/a.pyc",
        ] {
            let path = app.folder.join("one").join(noise);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        app.write("two/run.sh", "echo two is new; exec sleep infinity\n");
        app.wait_for_log("two", "two is new");
        assert_eq!(app.logs("one"), "one | one runs\n", "{mode:?}");
        // And it is seen when it is concerned.
        app.write("one/run.sh", "echo one is new; exec sleep infinity\n");
        app.wait_for_log("one", "one is new");
        assert_eq!(app.logs("two").matches("two is new").count(), 1);
        harness::signal(up.id(), nix::sys::signal::Signal::SIGTERM);
        drop(says);
        assert_eq!(up.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn up_counts_what_died_at_once_and_shows_its_last_lines() {
    for mode in BOTH {
        let app = idle(
            mode,
            "counted",
            "[services.py]\ncommand = [\"python3\", \"-c\", \"import none_such\"]\n[services.db]\ncommand = [\"sleep\", \"infinity\"]\n",
        );
        let up = app.run(&["up", "-d"]);
        assert_eq!(
            up.out, "`counted` is up: 2 of 3 services run; py ended with status 1\n",
            "{mode:?}: {up:?}"
        );
        assert!(
            up.err
                .contains("  py | ModuleNotFoundError: No module named 'none_such'\n"),
            "{up:?}"
        );
        assert!(up.err.contains("`pysecure logs py`") && up.code == 1, "{up:?}");
        // The others run. Of one that was to end nothing else is said.
        assert_eq!(app.service("web")["state"], "running");
        app.ok(&["down"]);
        let app = idle(
            mode,
            "welldone",
            "[services.make]\ntype = \"oneshot\"\ncommand = \"true\"\n",
        );
        assert_eq!(app.ok(&["up", "-d"]).out, "`welldone` is up: 2 services\n");
        app.ok(&["down"]);
        let app = idle(mode, "overatonce", "[services.over]\ncommand = \"true\"\n");
        let up = app.ok(&["up", "-d"]);
        assert_eq!(
            up.out, "`overatonce` is up: 1 of 2 services run; over ended with status 0\n",
            "{up:?}"
        );
        // On an app that is up, of what is new.
        app.write(
            "pysecure.toml",
            "[app]\nname = \"overatonce\"\n[services.web]\ncommand = [\"sh\", \"-c\", \"echo at once; exit 2\"]\n",
        );
        let up = app.run(&["up", "-d"]);
        assert!(
            up.out
                .ends_with("`overatonce` is up: no service runs; web ended with status 2\n"),
            "{up:?}"
        );
        assert!(up.code == 1 && up.err.contains("  web | at once\n"), "{up:?}");
        app.ok(&["down"]);
    }
}

#[test]
fn an_exit_code_of_up_is_never_that_of_a_service() {
    for mode in BOTH {
        for (command, more) in [
            ("[\"sh\", \"-c\", \"exit 2\"]", "ready = \"notify\"\n"),
            ("[\"sh\", \"-c\", \"exit 127\"]", "type = \"oneshot\"\n"),
            ("\"/no/such/program\"", ""),
        ] {
            let app = App::new(
                mode,
                &format!("[app]\nname = \"codes\"\n[services.web]\ncommand = {command}\n{more}"),
            );
            for args in [&["up", "-d"][..], &["up"]] {
                let ended = app.run(args);
                assert!(
                    ended.code == 1 && ended.err.contains("`web`"),
                    "{mode:?} {command} {args:?}: {ended:?}"
                );
            }
        }
        let app = App::new(mode, "[app]\nname = \"codes\"\n[services.web]\nnonsense = 1\n");
        assert_eq!(app.run(&["up", "-d"]).code, 2);
    }
}

#[test]
fn up_says_whom_it_waits_for() {
    for mode in BOTH {
        let app = App::new(
            mode,
            "[app]\nname = \"waits\"\n[services.web]\ncommand = [\"sleep\", \"infinity\"]\ndepends_on = { db = \"ready\" }\n\
             [services.db]\ncommand = [\"sleep\", \"infinity\"]\nready = { unix = \"/tmp/db.sock\", interval = \"20ms\" }\n",
        );
        let listen = "import socket, time; s = socket.socket(socket.AF_UNIX); s.bind('/tmp/db.sock'); s.listen(); time.sleep(1e6)";
        let waits = "waiting for db: ready probe: /tmp/db.sock: no such file";
        // In a log a line, once.
        let mut up = app
            .command(&["up", "-d"])
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = std::io::BufReader::new(up.stderr.take().unwrap());
        let mut line = String::new();
        std::io::BufRead::read_line(&mut says, &mut line).unwrap();
        assert!(line.starts_with(waits), "{line}");
        let mut listener = app
            .command(&["exec", "-T", "db", "--", "python3", "-c", listen])
            .spawn()
            .unwrap();
        let mut rest = String::new();
        std::io::Read::read_to_string(&mut says, &mut rest).unwrap();
        assert!(!rest.contains("waiting for db"), "{rest}");
        assert_eq!(up.wait().unwrap().code(), Some(0));
        app.ok(&["down"]);
        listener.wait().unwrap();
        // On a terminal in the place of the last line; and by an `up` that is attached.
        let (args, shown) = match mode {
            Mode::Root => (&["up", "-d"][..], "\r\x1b[Kwaiting for db: ready probe"),
            Mode::Rootless => (&["up"][..], waits),
        };
        let mut terminal = app.on_terminal(args, 24, 60);
        terminal.until(shown);
        app.ok(&["down"]);
        terminal.ended();
    }
}
