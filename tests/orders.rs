//! Orders that come while others are under way: an order is carried out, or whoever gave it is told that it is overtaken.

mod harness;

use harness::{App, BOTH, Ended, Mode, wait_until};
use std::process::{Child, Stdio};

/// A service that ends when it is let go of, by [`let_go`]; another that is ready when it is.
fn app(mode: Mode, name: &str, range: u32) -> App {
    let last = range + 19;
    App::new(
        mode,
        &format!(
            r#"
[app]
name = "{name}"
uid_range = [{range}, {last}]
gid_range = [{range}, {last}]
[services.slow]
command = ["sh", "-c", "trap 'echo told; while ! [ -e /tmp/go ]; do sleep 0.02; done; exit 0' TERM; echo runs; while :; do sleep 0.02; done"]
stop_timeout = "30s"
[services.late]
command = ["sleep", "1000"]
ready = {{ command = ["test", "-e", "/tmp/go"], interval = "20ms" }}
start_timeout = "1h"
[services.other]
command = ["sleep", "1000"]
"#
        ),
    )
}

fn begin(app: &App, args: &[&str]) -> Child {
    let mut command = app.command(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(child: Child) -> Ended {
    Ended::from(child.wait_with_output().unwrap())
}

fn let_go(app: &App, service: &str) {
    app.ok(&["exec", service, "touch", "/tmp/go"]);
}

/// The app, with `slow` told to end by `args`.
fn stopping(app: &App, args: &[&str]) -> Child {
    let child = begin(app, args);
    app.wait_for_state("slow", "stopping");
    wait_until(|| (told(app) == 1).then_some(()));
    child
}

fn told(app: &App) -> usize {
    said(app, "told")
}

/// How often `slow` has said this. `logs` knows no service that the manifest has not.
fn said(app: &App, line: &str) -> usize {
    let apps = std::fs::read_dir(app.state().join("apps")).unwrap();
    let log = apps
        .flatten()
        .map(|a| a.path().join("logs/slow.log"))
        .find(|log| log.exists());
    let text = log.map(|log| std::fs::read_to_string(log).unwrap()).unwrap_or_default();
    text.lines().filter(|l| l.ends_with(line)).count()
}

/// Brings the app up.
fn up(app: &App) {
    with_late(app, begin(app, &["up", "-d"])).ok();
    wait_until(|| (said(app, "runs") == 1).then_some(()));
}

/// Lets `late` be ready, whenever it is there, until an order that waits for it is carried out.
fn with_late(app: &App, mut child: Child) -> Ended {
    wait_until(|| {
        app.run(&["exec", "late", "touch", "/tmp/go"]);
        child.try_wait().unwrap()
    });
    end(child)
}

fn wait_until_up(app: &App) {
    wait_until(|| (app.run(&["ps"]).code == 0).then_some(()));
}

/// Gives a process that is to wait for something the time to show that it does not.
fn is_waiting(child: &mut Child) {
    for _ in 0..50 {
        assert!(child.try_wait().unwrap().is_none(), "it did not wait");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn a_stop_that_is_overtaken_is_told_so() {
    for mode in BOTH {
        for order in [
            &["start", "slow"][..],
            &["restart", "slow"],
            &["start"],
            &["restart"],
            &["up", "-d"],
        ] {
            let app = app(mode, "overtaken", 43_300);
            up(&app);
            let stop = stopping(&app, &["stop", "slow"]);
            let again = begin(&app, order);
            let stop = end(stop);
            assert_eq!(stop.code, 1, "{order:?}: {stop:?}");
            assert!(
                stop.err.contains("`slow`: it was told to start again"),
                "{order:?}: {stop:?}"
            );
            let_go(&app, "slow");
            with_late(&app, again).ok();
            assert_eq!(app.service("slow")["state"], "running", "{order:?}");
            // It was told once, however many said so.
            assert_eq!(told(&app), 1, "{order:?}");
            let ends = begin(&app, &["down"]);
            wait_until(|| (told(&app) == 2).then_some(()));
            let_go(&app, "slow");
            end(ends).ok();
        }
    }
}

#[test]
fn a_start_that_is_overtaken_is_told_so() {
    let app = app(Mode::Root, "stopped", 43_320);
    up(&app);
    let restart = stopping(&app, &["restart", "slow"]);
    let stop = begin(&app, &["stop", "slow"]);
    let restart = end(restart);
    assert!(
        restart.code == 1 && restart.err.contains("`slow`: it was told to stop meanwhile"),
        "{restart:?}"
    );
    // A later order makes the time shorter, and none makes it longer: of this one nothing is let go of.
    app.ok(&["stop", "-t", "0.1", "slow"]);
    end(stop).ok();
    assert_eq!(app.service("slow")["last_exit_code"], 137);
}

#[test]
fn what_is_removed_stays_so() {
    for mode in BOTH {
        let app = app(mode, "removed", 43_340);
        up(&app);
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        let at = manifest.find("[services.slow]").unwrap();
        let without = manifest[..at].to_owned() + &manifest[manifest.find("[services.late]").unwrap()..];
        app.write("pysecure.toml", &without);
        let remove = stopping(&app, &["up", "-d"]);
        for order in ["restart", "start"] {
            let refused = app.run(&[order, "slow"]);
            assert!(
                refused.code == 1 && refused.err.contains("`slow` is being removed"),
                "{order}: {refused:?}"
            );
        }
        app.ok(&["start"]);
        with_late(&app, begin(&app, &["restart"])).ok();
        let_go(&app, "slow");
        end(remove).ok();
        assert_eq!(app.ps()["services"].as_array().unwrap().len(), 2);
        // What is written again while it ends is there again, and the order to remove it is told so.
        app.write("pysecure.toml", &manifest);
        app.ok(&["up", "-d"]);
        wait_until(|| (said(&app, "runs") == 2).then_some(()));
        app.write("pysecure.toml", &without);
        let remove = begin(&app, &["up", "-d"]);
        wait_until(|| (told(&app) == 2).then_some(()));
        app.write("pysecure.toml", &manifest);
        let again = begin(&app, &["up", "-d"]);
        let remove = end(remove);
        assert!(
            remove.code == 1 && remove.err.contains("`slow`: it was told to start again"),
            "{remove:?}"
        );
        let_go(&app, "slow");
        end(again).ok();
        assert_eq!(app.service("slow")["state"], "running");
        app.ok(&["down", "-t", "0.1"]);
    }
}

#[test]
fn up_says_that_it_is_up_when_it_is() {
    for mode in BOTH {
        let app = app(mode, "isup", 43_360);
        let mut first = begin(&app, &["up", "-d"]);
        wait_until_up(&app);
        app.wait_for_state("late", "starting");
        app.wait_for_state("other", "running");
        // Another waits as well, and so does a start.
        let mut more = [
            begin(&app, &["up", "-d"]),
            begin(&app, &["start", "late"]),
            begin(&app, &["start"]),
        ];
        is_waiting(&mut first);
        more.iter_mut().for_each(is_waiting);
        let_go(&app, "late");
        end(first).ok();
        let [second, start, all] = more.map(|child| end(child).ok());
        assert!(second.out.contains("is up already"), "{second:?}");
        assert!(start.out.contains("late: running"), "{start:?}");
        assert!(all.out.contains("late: running"), "{all:?}");
        app.ok(&["down", "-t", "0.1"]);
        // It is not of what somebody has stopped meanwhile, be it what had started or what had not.
        for stopped in ["other", "late"] {
            let first = begin(&app, &["up", "-d"]);
            wait_until_up(&app);
            app.wait_for_state("late", "starting");
            app.wait_for_state("other", "running");
            app.ok(&["stop", stopped]);
            if stopped == "other" {
                let_go(&app, "late");
            }
            let first = end(first);
            let says = format!("`{stopped}`: it was told to stop meanwhile");
            assert!(first.code == 1 && first.err.contains(&says), "{first:?}");
            assert!(!first.out.contains("is up"), "{first:?}");
            app.ok(&["down", "-t", "0.1"]);
        }
        // Nor of what has gone down.
        for order in [&["up", "-d"][..], &["start", "late"]] {
            let first = begin(&app, &["up", "-d"]);
            wait_until_up(&app);
            app.wait_for_state("late", "starting");
            let mut second = begin(&app, order);
            is_waiting(&mut second);
            app.ok(&["down", "-t", "0.1"]);
            for ended in [end(first), end(second)] {
                assert_eq!(ended.code, 1, "{ended:?}");
                assert!(ended.err.contains("`isup` went down meanwhile"), "{ended:?}");
                assert!(!ended.out.contains("is up"), "{ended:?}");
            }
        }
    }
}

#[test]
fn up_starts_what_is_being_stopped() {
    let app = app(Mode::Root, "stops", 43_380);
    up(&app);
    let down = stopping(&app, &["down"]);
    // Of an app that goes down it says that.
    let up_again = app.run(&["up", "-d"]);
    assert!(
        up_again.code == 1 && up_again.err.contains("`stops` is going down"),
        "{up_again:?}"
    );
    let_go(&app, "slow");
    end(down).ok();
}

/// What a client of before the control protocol had versions says, and one that is newer than this supervisor.
#[test]
fn clients_of_other_versions_are_understood_or_told_what_to_do() {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::os::unix::net::UnixStream;
    let app = app(Mode::Root, "versions", 43_380);
    up(&app);
    let path = app.state().join("run/versions/control.sock");
    let connect = || BufReader::new(UnixStream::connect(&path).unwrap());
    let ask = |socket: &mut BufReader<UnixStream>, line: &str| {
        socket.get_mut().write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        socket.read_line(&mut answer).unwrap();
        serde_json::from_str::<serde_json::Value>(&answer).unwrap()
    };
    let apart = |answer: &serde_json::Value, theirs: &str| {
        let error = answer["error"].as_str().unwrap();
        for told in ["version 3", theirs, "`pysecure down && pysecure up -d`"] {
            assert!(error.contains(told), "{error}");
        }
    };
    let is_closed = |mut socket: BufReader<UnixStream>| assert_eq!(socket.read(&mut [0]).unwrap(), 0);

    let mut old = connect();
    let status = &ask(&mut old, "{\"do\":\"ps\"}\n")["app"];
    assert!(status["storage"].is_u64() && status["denied"].is_u64(), "{status}");
    for service in status["services"].as_array().unwrap() {
        assert!(
            service["prints"]["process"].is_u64() && service["prints"]["life"].is_u64(),
            "{service}"
        );
        assert_eq!(service["state"], "running");
    }
    assert_eq!(ask(&mut old, "{\"do\":\"start\",\"services\":[]}\n")["event"], "done");
    apart(
        &ask(&mut old, include_str!("control-version-0/apply.json")),
        "version 0",
    );
    is_closed(old);

    let mut newer = connect();
    let hello = "{\"do\":\"hello\",\"version\":7,\"minimum\":1,\"pysecure\":\"7.0.0\",\"colour\":\"blue\"}\n";
    let answer = ask(&mut newer, hello);
    assert_eq!(
        (&answer["hello"]["version"], &answer["hello"]["minimum"]),
        (&3.into(), &0.into())
    );
    assert_eq!(ask(&mut newer, "{\"do\":\"ps\"}\n")["app"]["app"], "versions");
    apart(&ask(&mut newer, "{\"do\":\"teleport\"}\n"), "version 7");
    is_closed(newer);

    let mut newest = connect();
    apart(
        &ask(&mut newest, &hello.replace("\"minimum\":1", "\"minimum\":7")),
        "version 7",
    );
    // However far apart they are, an app can be ended.
    assert_eq!(
        ask(&mut newest, "{\"do\":\"down\",\"timeout_ms\":100}\n"),
        serde_json::json!({})
    );
    assert!(!path.exists());
}
