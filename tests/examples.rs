//! Each example, with its one command, as root and as an ordinary user: what it prints is what it promises.

mod harness;

use harness::python::files;
use harness::{App, BOTH, wait_until};
use std::path::Path;

/// A copy of an example's folder, which belongs to the mode's user.
fn example(mode: harness::Mode, name: &str) -> App {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    let app = App::new(mode, &std::fs::read_to_string(from.join("pysecure.toml")).unwrap());
    for file in files(&from) {
        let inside = file.strip_prefix(&from).unwrap().to_str().unwrap();
        if inside != "pysecure.toml" {
            app.write(inside, std::fs::read(&file).unwrap());
        }
    }
    app
}

#[test]
fn hello_shows_the_separation() {
    for mode in BOTH {
        let app = example(mode, "hello");
        app.ok(&["up", "-d"]);
        let last = "cannot become root";
        let [auth, web, stranger] = ["auth", "web", "stranger"].map(|s| app.wait_for_log(s, last));
        let says = |log: &str, wanted: &str| {
            let squeezed: Vec<String> = log
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            assert!(
                squeezed.iter().any(|l| l.ends_with(wanted)),
                "{mode:?}: no line says `{wanted}`:\n{log}"
            );
        };
        for what in [
            "can read the secret",
            "can write the secret",
            "can read the board",
            "can write the board",
        ] {
            says(&auth, what);
        }
        for what in [
            "cannot read the secret",
            "cannot write the secret",
            "can read the board",
            "can write the board",
        ] {
            says(&web, what);
        }
        for what in [
            "cannot read the secret",
            "cannot write the secret",
            "cannot read the board",
            "cannot write the board",
        ] {
            says(&stranger, what);
        }
        for log in [&auth, &web, &stranger] {
            for what in [
                "cannot write its own code",
                "cannot write the root",
                "cannot signal its PID 1",
                "cannot trace its PID 1",
                "cannot list what PID 1 has open",
                "cannot reach the host's network",
            ] {
                says(log, what);
            }
        }
        // The uids that they name are three, and those that `ps` shows.
        let ps = app.ps();
        for (service, log) in [("auth", &auth), ("web", &web), ("stranger", &stranger)] {
            let of = ps["services"]
                .as_array()
                .unwrap()
                .iter()
                .find(|s| s["service"] == service)
                .unwrap();
            assert!(log.contains(&format!("uid={}({service})", of["uid"])), "{log}");
        }
        // What was written is there, and whose it is on the host's disk.
        let notes = app.sh("web", "sort /data/board/notes.txt").ok().out;
        assert_eq!(notes, "auth was here\nweb was here\n");
        app.ok(&["down"]);
    }
}

#[test]
fn redis_keeps_its_data_and_its_socket_to_those_who_may() {
    assert!(
        Path::new("/usr/bin/redis-server").exists(),
        "install Debian's redis-server"
    );
    for mode in BOTH {
        let app = example(mode, "redis");
        for round in 1..=2 {
            app.ok(&["up", "-d"]);
            app.wait_for_log("counter", &format!("started {round} times"));
            let stranger =
                wait_until(|| Some(app.logs("stranger")).filter(|log| log.matches("and no port").count() == round));
            assert!(stranger.contains("no socket for me"), "{stranger}");
            // One who may use the socket still cannot read the files behind it.
            assert_ne!(app.sh("counter", "ls /data/redis").code, 0);
            assert_eq!(
                app.sh("counter", "redis-cli -s /run/redis/redis.sock ping").ok().out,
                "PONG\n"
            );
            assert_ne!(app.sh("stranger", "ls /run/redis").code, 0);
            app.ok(&["down"]);
        }
    }
}

#[test]
fn redis_and_nginx_survive_what_is_done_to_them() {
    for mode in BOTH {
        assert!(
            Path::new("/usr/sbin/nginx").exists() && Path::new("/usr/bin/redis-server").exists(),
            "install `nginx-light` and `redis-server`"
        );
        let app = example(mode, "web");
        let port = if mode == harness::Mode::Root { "18410" } else { "18411" };
        for file in ["pysecure.toml", "app/nginx.conf"] {
            let text = std::fs::read_to_string(app.folder.join(file)).unwrap();
            app.write(file, text.replace("127.0.0.1:8080", &format!("127.0.0.1:{port}")));
        }
        app.ok(&["up", "-d"]);
        let get = |path: &str| {
            let url = format!("http://127.0.0.1:{port}{path}");
            let out = std::process::Command::new("curl")
                .args(["--silent", "--fail", &url])
                .output();
            let out = out.expect("install `curl`");
            out.status.success().then(|| String::from_utf8(out.stdout).unwrap())
        };
        assert!(get("/").unwrap().contains("Three services"));
        let mut visits: u64 = 0;
        let mut visit = |patient: bool| {
            let counted = match patient {
                // While a service behind it is away, nginx says so, and goes on.
                true => wait_until(|| get("/visits")),
                false => get("/visits").unwrap(),
            };
            let counted: u64 = counted.trim().parse().unwrap();
            assert!(counted > visits, "{mode:?}: {counted} after {visits}");
            visits = counted;
        };
        visit(false);
        let uids = |app: &App| ["redis", "counter", "nginx"].map(|s| app.service(s)["uid"].as_u64().unwrap());
        let before = uids(&app);
        assert!(before[0] != before[1] && before[1] != before[2] && before[0] != before[2]);
        for service in ["redis", "counter", "nginx"] {
            let restarts = app.service(service)["restarts"].as_u64().unwrap();
            let inside = app.init_of(service);
            let children = std::fs::read_to_string(format!("/proc/{inside}/task/{inside}/children")).unwrap();
            let program: u32 = children.split_whitespace().next().unwrap().parse().unwrap();
            harness::signal(program, nix::sys::signal::Signal::SIGKILL);
            wait_until(|| (app.service(service)["restarts"].as_u64().unwrap() > restarts).then_some(()));
            // nginx' socket is held meanwhile: whoever connects waits, and is not refused.
            visit(service != "nginx");
            visit(true);
        }
        assert!(app.logs("nginx").contains("GET /visits"), "its log goes to /dev/stdout");
        // With the supervisor all services end; the next `up` finds the data as it was.
        let supervisor = app.supervisor() as u32;
        harness::signal(supervisor, nix::sys::signal::Signal::SIGKILL);
        wait_until(|| (app.run(&["ps"]).code == 1).then_some(()));
        wait_until(|| (app.run(&["up", "-d"]).code == 0).then_some(()));
        assert_eq!(uids(&app), before);
        visit(false);
        assert!(
            !app.sh("nginx", "cat /data/redis/appendonlydir/* || ls /run/redis")
                .err
                .is_empty()
        );
        app.ok(&["down"]);
    }
}

/// A program of an example that makes sandboxes by itself, as the mode's user: what it prints.
fn with_sandboxes(mode: harness::Mode, name: &str, program: &str) -> String {
    let app = App::new(mode, "");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
    harness::python::put(&app, &from, "example");
    harness::python::package(&app, false, "python");
    let mut command = app.shell_free("/usr/bin/python3", &["-B", &format!("example/{program}")]);
    command.env("PYTHONPATH", app.folder.join("python"));
    let output = command.env("PYSECURE_BINARY", harness::binary()).output().unwrap();
    harness::Ended::from(output).ok().out
}

#[test]
fn the_judge_judges_what_is_handed_in() {
    for mode in BOTH {
        let said = with_sandboxes(mode, "judge", "demo.py");
        let squeezed: Vec<String> = said
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        let verdicts = [
            "reverse-forgets.py wrong answer 1",
            "reverse-right.py accepted 2",
            "sum-connects.py runtime error 1 The code raised OSError",
            "sum-crashes.c runtime error 1 The run was ended by signal 6",
            "sum-endless.py time limit 1",
            "sum-greedy.py memory limit 1",
            "sum-mistyped.c compile error 0",
            "sum-overflows.c wrong answer 3",
            "sum-right.c accepted 3",
            "sum-right.py accepted 3",
            "sum-spies.c compile error 0",
        ];
        assert_eq!(squeezed.len(), verdicts.len(), "{mode:?}: {said}");
        for (line, verdict) in squeezed.iter().zip(verdicts) {
            assert!(line.starts_with(verdict), "{mode:?}: no {verdict} in\n{said}");
        }
    }
}

#[test]
fn the_agent_is_told_what_it_may_not_do() {
    for mode in BOTH {
        let said = with_sandboxes(mode, "agent", "agent.py");
        for what in [
            "unreachable",
            "NotApproved: refund: a person did not agree: more than 5000 cents",
            "BudgetExceeded: mail may be called once in a run",
            "refunds: {7: 3000}, mails: [('alice', 'Your lamp is paid back. We are sorry.')]",
        ] {
            assert!(said.contains(what), "{mode:?}: no {what} in\n{said}");
        }
    }
}
