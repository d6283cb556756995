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
fn an_up_that_is_attached_counts_as_well() {
    for mode in BOTH {
        let app = idle(
            mode,
            "attached",
            "[services.dies]\ncommand = [\"sh\", \"-c\", \"echo why; exit 5\"]\n",
        );
        let mut terminal = app.on_terminal(&["up"], 24, 80);
        let shown = terminal.until("1 of 2 services run");
        assert!(shown.contains("dies ended with code 5"), "{shown}");
        app.ok(&["down"]);
        let (_, shown) = terminal.ended();
        assert!(!shown.contains("0 of 2"), "{shown}");
    }
}

/// The next change may mend what has died.
#[test]
fn watch_goes_on_where_a_service_has_died_at_once() {
    let app = App::new(
        Mode::Root,
        "[app]\nname = \"mended\"\ncode = { \"/app\" = \"./code\" }\n[services.web]\ncommand = [\"sh\", \"/app/run.sh\"]\n",
    );
    app.write("code/run.sh", "exit 1\n");
    let mut up = app
        .command(&["up", "-d", "--watch"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut says = std::io::BufReader::new(up.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("watching") {
        line.clear();
        assert_ne!(
            std::io::BufRead::read_line(&mut says, &mut line).unwrap(),
            0,
            "it ended"
        );
    }
    app.write("code/run.sh", "echo mended; exec sleep infinity\n");
    app.wait_for_log("web", "mended");
    harness::signal(up.id(), nix::sys::signal::Signal::SIGTERM);
    up.wait().unwrap();
    app.ok(&["down"]);
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

/// `db` ← `web`, and `other` by itself.
fn three(mode: Mode, name: &str) -> App {
    App::new(
        mode,
        &format!(
            "[app]\nname = \"{name}\"\n[services.other]\ncommand = [\"sleep\", \"infinity\"]\n\
             [services.web]\ncommand = [\"sleep\", \"infinity\"]\ndepends_on = [\"db\"]\n\
             [services.db]\ncommand = [\"sleep\", \"infinity\"]\n"
        ),
    )
}

#[test]
fn up_starts_those_that_were_named_and_what_they_depend_on() {
    for mode in BOTH {
        let app = three(mode, "upsome");
        let states = || ["other", "web", "db"].map(|s| app.service(s)["state"].as_str().unwrap().to_owned());
        let unknown = app.run(&["up", "-d", "wbe"]);
        assert!(unknown.code == 2 && unknown.err.contains("`wbe`"), "{unknown:?}");
        assert_eq!(app.ok(&["up", "-d", "web"]).out, "`upsome` is up: 2 services\n");
        assert_eq!(states(), ["stopped", "running", "running"]);
        // Once more there is nothing to do, and one that ended is started alone.
        let again = app.ok(&["up", "-d", "web"]).out;
        assert!(again.contains("is up already") && states()[0] == "stopped", "{again}");
        app.ok(&["stop", "web", "db"]);
        app.ok(&["up", "-d", "db"]);
        assert_eq!(states(), ["stopped", "stopped", "running"]);
        // What has changed of them is made so; what has changed of others is not passed over in silence.
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        let web = manifest.replace(
            "depends_on = [\"db\"]",
            "depends_on = [\"db\"]\nenvironment = { NEW = \"1\" }",
        );
        app.write("pysecure.toml", &web);
        app.ok(&["up", "-d", "web"]);
        assert_eq!(states(), ["stopped", "running", "running"]);
        assert_eq!(app.sh("web", "echo $NEW").out, "1\n");
        app.write(
            "pysecure.toml",
            web.replace("[services.other]", "[services.other]\nenvironment = { NEW = \"1\" }"),
        );
        let refused = app.run(&["up", "-d", "web"]);
        assert!(
            refused.code == 1 && refused.err.contains("has changed for `other`"),
            "{refused:?}"
        );
        app.ok(&["up", "-d"]);
        assert_eq!(states(), ["running", "running", "running"]);
        app.ok(&["down"]);
    }
}

#[test]
fn wait_ends_with_the_code_of_the_service() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "awaited"
[services.ends]
command = ["sh", "-c", "trap 'exit 3' TERM; sleep infinity & wait"]
[services.again]
command = ["sh", "-c", "echo begins; sleep infinity & wait"]
restart = "on-failure"
restart_delay = "1ms"
[services.done]
command = "true"
type = "oneshot"
"#,
        );
        let not_up = app.run(&["wait", "ends"]);
        assert!(not_up.code == 1 && not_up.err.contains("not up"), "{not_up:?}");
        app.ok(&["up", "-d"]);
        assert_eq!(app.ok(&["wait", "done"]).out, "done: ended with status 0\n");
        assert_eq!(app.run(&["wait", "nobody"]).code, 2);
        let wait = |args: &[&str]| {
            let mut command = app.command(&[&["-v", "wait"], args].concat());
            let mut child = command
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap();
            // It hears of what happens from now on.
            let mut says = std::io::BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            while !line.contains("hearing of events") {
                line.clear();
                assert_ne!(std::io::BufRead::read_line(&mut says, &mut line).unwrap(), 0);
            }
            std::thread::spawn(move || std::io::copy(&mut says, &mut std::io::sink()));
            child
        };
        let ended = |child: std::process::Child| harness::Ended::from(child.wait_with_output().unwrap());
        let one = wait(&["done", "ends"]);
        // Whoever ends with a code of its own by a signal that nobody of ours has sent it as an order to stop.
        app.ok(&["kill", "-s", "TERM", "ends"]);
        let one = ended(one);
        assert_eq!(
            (one.code, one.out.as_str()),
            (3, "done: ended with status 0\nends: ended with status 3\n")
        );
        // One that is started again has not ended.
        let again = wait(&["again"]);
        app.wait_for_log("again", "begins");
        app.ok(&["kill", "-s", "SEGV", "again"]);
        harness::wait_until(|| (app.logs("again").matches("begins").count() == 2).then_some(()));
        app.ok(&["stop", "again"]);
        let again = ended(again);
        assert_eq!((again.code, again.out.as_str()), (0, "again: stopped\n"), "{again:?}");
        app.ok(&["start", "ends"]);
        let down = wait(&["ends"]);
        app.ok(&["down"]);
        assert!(ended(down).out.starts_with("ends: "));
    }
}

#[test]
fn ls_lists_all_apps_of_this_user_with_their_manifests() {
    for mode in BOTH {
        let app = three(mode, "listed");
        assert_eq!(app.ok(&["ls", "--json"]).out, "[]\n");
        app.ok(&["up", "-d", "db"]);
        app.write(
            "second/pysecure.toml",
            // Ids that are no service's: a further user's, PID 1's, and nobody's.
            "[app]\nname = \"second\"\n[resources]\nr = { path = \"/data/r/\", global = \"r\" }\n\
             [services.a]\ncommand = [\"sleep\", \"infinity\"]\nusers = [\"www\"]\n",
        );
        app.ok(&["-f", "second", "up", "-d"]);
        app.ok(&["-f", "second", "down"]);
        // It needs no manifest.
        let elsewhere = |args: &[&str]| {
            let output = app.command(args).current_dir("/").output().unwrap();
            harness::Ended::from(output).ok().out
        };
        let list: serde_json::Value = serde_json::from_str(&elsewhere(&["ls", "--json"])).unwrap();
        let path = |name: &str| serde_json::json!(app.folder.join(name));
        assert_eq!(list[0]["app"], "listed", "{list}");
        assert_eq!(
            (&list[0]["state"], &list[0]["manifest"]),
            (&"up".into(), &path("pysecure.toml"))
        );
        assert_eq!(list[0]["supervisor_pid"], app.supervisor());
        let states: Vec<_> = list[0]["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["state"].clone())
            .collect();
        assert_eq!(states, ["stopped", "stopped", "running"]);
        assert_eq!((&list[1]["app"], &list[1]["state"]), (&"second".into(), &"down".into()));
        let services = serde_json::json!([{ "service": "a", "state": null }]);
        assert_eq!(
            (&list[1]["services"], &list[1]["manifest_exists"]),
            (&services, &true.into())
        );
        std::fs::remove_file(app.folder.join("second/pysecure.toml")).unwrap();
        let shown = elsewhere(&["ls"]);
        let line = |name: &str| shown.lines().find(|l| l.contains(name)).unwrap().to_owned();
        assert!(line("listed").contains("1 of 3 running"), "{shown}");
        assert!(
            line("second").contains("down") && line("second").contains("(gone)"),
            "{shown}"
        );
        app.ok(&["down"]);
    }
}
