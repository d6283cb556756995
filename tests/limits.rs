//! Limits, on the machine that runs the tests, whichever version of cgroups it has: what a service eats too much of
//! ends it or stops it, and nobody else; and nothing of it is left in cgroupfs. Version 2 is booted in `tests/vm.rs`.

mod harness;

use harness::{App, BOTH, Container, Ended, Mode, wait_until};
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

/// The cgroups of an app, wherever they are.
fn cgroups(app: &str) -> Vec<PathBuf> {
    fn walk(folder: &Path, name: &str, out: &mut Vec<PathBuf>) {
        // Cgroups come and go while this looks.
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                if entry.file_name().to_string_lossy().starts_with(name) && folder.ends_with("pysecure") {
                    out.push(entry.path());
                }
                walk(&entry.path(), name, out);
            }
        }
    }
    let mut out = Vec::new();
    walk(Path::new("/sys/fs/cgroup"), &format!("{app}."), &mut out);
    out
}

/// A number or a line out of a file of one service's cgroups, from whichever has it.
fn value(app: &str, service: &str, file: &str) -> Option<String> {
    let found = cgroups(app)
        .into_iter()
        .map(|folder| folder.join(service).join(file))
        .find(|path| path.exists())?;
    Some(std::fs::read_to_string(found).unwrap().trim().to_owned())
}

fn service(app: &App, name: &str) -> serde_json::Value {
    let ps = app.ps();
    let all = ps["services"].as_array().unwrap();
    all.iter().find(|s| s["service"] == name).unwrap().clone()
}

/// What `stats` says of a service.
fn stats(app: &App, name: &str) -> serde_json::Value {
    let all: serde_json::Value = serde_json::from_str(&app.ok(&["stats", "--json"]).out).unwrap();
    let list = all.as_array().or_else(|| all["services"].as_array()).unwrap();
    list.iter().find(|s| s["service"] == name).unwrap().clone()
}

fn gone(app: &str) {
    wait_until(|| cgroups(app).is_empty().then_some(()));
}

#[test]
fn a_service_that_eats_memory_is_killed_and_that_is_said() {
    let manifest = r#"
[app]
name = "limit-memory"
[services.eater]
command = ["python3", "-c", "x = b'x' * (300 << 20); print('ate it all')"]
limits = { memory = "48M" }
[services.modest]
command = ["sh", "-c", "echo fine; exec sleep infinity"]
limits = { memory = "48M" }
"#;
    let app = App::new(Mode::Root, manifest);
    // What dies at once is counted.
    assert!(app.run(&["up", "-d"]).code < 2);
    wait_until(|| (service(&app, "eater")["state"] == "exited").then_some(()));
    let eater = service(&app, "eater");
    assert_eq!(eater["exit_code"], 137);
    assert_eq!(eater["error"], "killed: out of memory (limit 48M)");
    let ps = app.ok(&["ps"]).out;
    assert!(ps.contains("exited (137): killed: out of memory (limit 48M)"), "{ps}");
    assert!(!app.logs("eater").contains("ate it all"));
    let modest = service(&app, "modest");
    assert_eq!(modest["state"], "running");
    let usage = &stats(&app, "modest");
    assert!(usage["memory_bytes"].as_u64().unwrap() > 0, "{usage}");
    assert!(usage["cpu_usec"].as_u64().unwrap() > 0, "{usage}");
    // PID 1 and the program.
    assert_eq!(usage["pids"], 2, "{usage}");
    assert_eq!(usage["oom_kills"], 0, "{usage}");
    assert_eq!(
        value("limit-memory", "eater", "cgroup.procs"),
        None,
        "its cgroup went with it"
    );
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-memory"), [] as [PathBuf; 0]);

    // In the foreground it is said on the console.
    app.write(
        "pysecure.toml",
        manifest.replace("exec sleep infinity", "exec sleep 0.1"),
    );
    let up = app.run(&["up"]);
    assert!(
        up.err
            .contains("eater ended with code 137: killed: out of memory (limit 48M)"),
        "{}",
        up.err
    );
    assert_eq!(cgroups("limit-memory"), [] as [PathBuf; 0]);
}

#[test]
fn a_kill_that_memory_had_no_part_in_is_not_blamed_on_it() {
    let manifest = r#"
[app]
name = "limit-blame"
[services.a]
command = ["sh", "-c", "kill -9 $$"]
limits = { memory = "64M" }
[services.b]
command = "sleep infinity"
"#;
    let app = App::new(Mode::Root, manifest);
    // What dies at once is counted.
    assert!(app.run(&["up", "-d"]).code < 2);
    wait_until(|| (service(&app, "a")["state"] == "exited").then_some(()));
    assert_eq!(service(&app, "a")["exit_code"], 137);
    assert_eq!(service(&app, "a")["error"], serde_json::Value::Null);
}

#[test]
fn a_fork_bomb_is_bounded_and_the_others_go_on() {
    let manifest = r#"
[app]
name = "limit-pids"
[services.bomb]
command = ["python3", "-c", """
import os, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(1000)
        made += 1
    except OSError as e:
        print('stopped after', made, e.strerror, flush=True)
        time.sleep(1000)
"""]
limits = { pids = 20 }
[services.other]
command = ["sh", "-c", "while sleep 0.05; do echo tick; done"]
limits = { pids = 20 }
"#;
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    let said = app.wait_for_log("bomb", "stopped after");
    // PID 1 and the program itself are two of the twenty.
    assert!(
        said.contains("stopped after 18 Resource temporarily unavailable"),
        "{said}"
    );
    assert_eq!(value("limit-pids", "bomb", "pids.current").as_deref(), Some("20"));
    let before = app.logs("other").len();
    wait_until(|| (app.logs("other").len() > before).then_some(()));
    // A program can look after it, but is held to the same: it starts no other.
    assert_eq!(app.run(&["exec", "-T", "bomb", "--", "true"]).code, 0);
    let beside = app.sh("bomb", "ls /; echo went on");
    assert!(
        beside.err.contains("fork") && !beside.out.contains("went on"),
        "{beside:?}"
    );
    assert_eq!(app.sh("other", "echo $$").code, 0);
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-pids"), [] as [PathBuf; 0]);
}

#[test]
fn processors_are_rationed() {
    let manifest = r#"
[app]
name = "limit-cpus"
[services.busy]
command = ["sh", "-c", "while :; do :; done"]
limits = { cpus = 0.1 }
"#;
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    wait_until(|| {
        let usage = stats(&app, "busy");
        (usage["throttled"].as_u64()? > 0).then_some(())
    });
    let quota = value("limit-cpus", "busy", "cpu.cfs_quota_us").or_else(|| value("limit-cpus", "busy", "cpu.max"));
    assert!(matches!(quota.as_deref(), Some("10000" | "10000 100000")), "{quota:?}");
}

#[test]
fn the_service_and_whoever_joins_it_is_in_its_cgroup_and_sees_it_as_the_root() {
    let manifest = r#"
[app]
name = "limit-root"
[services.a]
command = ["sh", "-c", "cat /proc/self/cgroup; exec sleep infinity"]
limits = { memory = "64M", pids = 30 }
"#;
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    let inside = app.wait_for_log("a", "0::/");
    for line in inside.lines() {
        assert!(line.ends_with(":/"), "{inside}");
    }
    // As the host sees them.
    let init = app.init_of("a");
    let of = |pid: i32| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(of(init).contains("pysecure/limit-root."), "{}", of(init));
    let mut beside = app
        .command(&["exec", "-T", "a", "--", "sleep", "1000"])
        .spawn()
        .unwrap();
    let joined = wait_until(|| {
        let procs = value("limit-root", "a", "cgroup.procs").unwrap();
        let pids: Vec<i32> = procs.lines().map(|line| line.parse().unwrap()).collect();
        (pids.len() == 3).then_some(pids)
    });
    for pid in joined {
        assert_eq!(of(pid), of(init));
    }
    app.ok(&["down"]);
    beside.wait().unwrap();
    assert_eq!(cgroups("limit-root"), [] as [PathBuf; 0]);
}

#[test]
fn limits_of_each_process_are_seen_inside() {
    for mode in BOTH {
        let manifest = r#"
[app]
name = "limit-each"
[services.a]
command = "sleep infinity"
limits = { nofile = 77, fsize = "64K", core = "2M" }
[services.b]
command = "sleep infinity"
"#;
        let app = App::new(mode, manifest);
        let up = app.ok(&["up", "-d"]);
        assert!(!up.err.contains("note: limits"), "{}", up.err);
        // In blocks of 512 bytes, as POSIX has it.
        assert_eq!(
            app.sh("a", "ulimit -n; ulimit -f; ulimit -c").ok().out,
            "77\n128\n4096\n"
        );
        assert_eq!(
            app.sh("b", "ulimit -Sn; ulimit -f; ulimit -c").ok().out,
            "1024\nunlimited\n0\n"
        );
        let written = app.sh("a", "head -c 100000 /dev/zero > /tmp/big; wc -c < /tmp/big");
        assert!(written.out.trim() == "65536", "{written:?}");
        assert_eq!(
            cgroups("limit-each"),
            [] as [PathBuf; 0],
            "no cgroup for what needs none"
        );
        app.ok(&["down"]);
    }
}

const UNHELD: &str = r#"
[app]
name = "limit-unheld"
[services.a]
command = ["sh", "-c", "echo runs; exec sleep infinity"]
limits = { memory = "64M", pids = 30, required = REQUIRED }
[services.b]
command = "sleep infinity"
limits = { cpus = 1 }
"#;

/// Rootless tests run without a session of systemd's, and under version 1 there is nothing to delegate at all.
#[test]
fn what_an_ordinary_user_cannot_have_is_said_or_refused() {
    let app = App::new(Mode::Rootless, &UNHELD.replace("REQUIRED", "false"));
    let up = app.ok(&["up", "-d"]);
    assert!(
        up.err
            .contains("note: limits of `a`, `b` cannot be held here (cpus, memory, pids): "),
        "{}",
        up.err
    );
    let remedy = |err: &str| {
        err.contains("boot with version 2") || err.contains("docs/how-to/limits.md") || err.contains("loginctl")
    };
    assert!(remedy(&up.err), "{}", up.err);
    app.wait_for_log("a", "runs");
    assert_eq!(app.sh("a", "echo beside").ok().out, "beside\n");
    app.ok(&["down"]);
    let strict = app.run(&["up", "-d", "--strict"]);
    assert_eq!(strict.code, 1);
    assert!(
        strict.err.contains("error: limits of `a`, `b` are required"),
        "{}",
        strict.err
    );

    app.write("pysecure.toml", UNHELD.replace("REQUIRED", "true"));
    for args in [&["up", "-d"][..], &["up"], &["run", "-T", "a", "true"]] {
        let refused = app.run(args);
        assert_eq!(refused.code, 1, "{}", refused.err);
        assert!(
            refused
                .err
                .contains("error: limits of `a` are required but cannot be held here (memory, pids): "),
            "{}",
            refused.err
        );
        assert!(remedy(&refused.err), "{}", refused.err);
    }
    assert_ne!(app.run(&["ps"]).code, 0, "nothing was started");
}

#[test]
fn a_limit_above_what_pysecure_has_itself_is_said_or_refused() {
    let manifest = |required: bool| {
        format!(
            "[app]\nname = \"limit-above\"\n[services.a]\ncommand = \"sleep infinity\"\n\
             limits = {{ nofile = 1073741816, required = {required} }}\n"
        )
    };
    for mode in BOTH {
        let app = App::new(mode, &manifest(false));
        let up = app.ok(&["up", "-d"]);
        assert!(
            up.err.contains("note: limits of `a` cannot be held here (nofile): "),
            "{}",
            up.err
        );
        assert!(up.err.contains("LimitNOFILE="), "{}", up.err);
        app.ok(&["down"]);
        app.write("pysecure.toml", manifest(true));
        let refused = app.run(&["up", "-d"]);
        assert_eq!(refused.code, 1);
        assert!(
            refused.err.contains("are required but cannot be held here (nofile)"),
            "{}",
            refused.err
        );
    }
}

const TWO: &str = r#"
[app]
name = "limit-killed"
[services.a]
command = ["sh", "-c", "echo runs; exec sleep infinity"]
limits = { memory = "64M", pids = 30 }
[services.b]
command = ["sh", "-c", "trap '' TERM; echo runs; while :; do sleep 1; done"]
limits = { cpus = 0.5 }
"#;

#[test]
fn nothing_is_left_of_a_supervisor_that_was_killed() {
    let app = App::new(Mode::Root, TWO);
    // By its guard, with nobody's help.
    app.ok(&["up", "-d"]);
    app.wait_for_log("a", "runs");
    assert!(!cgroups("limit-killed").is_empty());
    kill(app.supervisor());
    gone("limit-killed");

    // The next `up` need not wait for that.
    for _ in 0..5 {
        app.ok(&["up", "-d"]);
        assert_eq!(stats(&app, "a")["pids"], 2);
        kill(app.supervisor());
    }
    app.ok(&["up", "-d"]);
    let now = format!("limit-killed.{}", app.supervisor());
    wait_until(|| {
        let left = cgroups("limit-killed");
        left.iter().all(|path| path.ends_with(&now)).then_some(())
    });

    // And with the guard killed too, `down` does it.
    let supervisor = app.supervisor();
    kill(guard(supervisor));
    kill(supervisor);
    let init = |path: &PathBuf| std::fs::read_to_string(path.join("a/cgroup.procs")).unwrap_or_default();
    wait_until(|| {
        cgroups("limit-killed")
            .iter()
            .all(|path| init(path).is_empty())
            .then_some(())
    });
    assert!(!cgroups("limit-killed").is_empty());
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-killed"), [] as [PathBuf; 0]);
}

/// Kills a process, and waits until it has let go of all that it held.
fn kill(pid: i32) {
    harness::signal(pid as u32, Signal::SIGKILL);
    wait_until(|| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

/// The supervisor's child that removes its cgroups.
fn guard(supervisor: i32) -> i32 {
    let children = std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap();
    let name = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .find(|pid| name(pid).trim() == "pysecure-guard")
        .unwrap()
}

#[test]
fn a_guard_that_was_killed_is_missed_by_nobody() {
    let app = App::new(Mode::Root, &TWO.replace("killed", "unguarded"));
    app.ok(&["up", "-d"]);
    harness::signal(guard(app.supervisor()) as u32, Signal::SIGKILL);
    app.wait_for_log("a", "runs");
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-unguarded"), [] as [PathBuf; 0]);
}

#[test]
fn the_guard_holds_nothing_of_the_supervisors() {
    let app = App::new(Mode::Root, &TWO.replace("killed", "guard"));
    app.ok(&["up", "-d"]);
    let guard = guard(app.supervisor());
    let open: Vec<PathBuf> = std::fs::read_dir(format!("/proc/{guard}/fd"))
        .unwrap()
        .map(|fd| std::fs::read_link(fd.unwrap().path()).unwrap())
        .collect();
    let harmless = |path: &&PathBuf| *path == Path::new("/dev/null") || path.to_string_lossy().starts_with("pipe:");
    assert_eq!(open.iter().filter(harmless).count(), open.len(), "{open:?}");
    assert_eq!(open.len(), 4, "{open:?}");
    app.ok(&["down"]);
    wait_until(|| (!Path::new(&format!("/proc/{guard}")).exists()).then_some(()));
}

#[test]
fn run_is_held_to_the_services_limits() {
    let app = App::new(Mode::Root, &TWO.replace("killed", "run"));
    let count = "import os\nmade = 0\ntry:\n  while True:\n    if os.fork() == 0: os.pause() if hasattr(os, 'pause') else __import__('time').sleep(9)\n    made += 1\nexcept OSError: print(made)";
    let ran: Ended = app.ok(&["run", "-T", "a", "--", "python3", "-c", count]);
    assert_eq!(ran.out.trim(), "28");
    assert_eq!(cgroups("limit-run"), [] as [PathBuf; 0]);
}

#[test]
fn a_weight_that_no_disk_heeds_is_said() {
    let manifest =
        "[app]\nname = \"limit-weight\"\n[services.a]\ncommand = \"sleep infinity\"\nlimits = { io_weight = 300 }\n";
    let app = App::new(Mode::Root, manifest);
    let up = app.ok(&["up", "-d"]);
    let heeded = std::fs::read_dir("/sys/block").unwrap().any(|disk| {
        std::fs::read_to_string(disk.unwrap().path().join("queue/scheduler")).is_ok_and(|s| s.contains("[bfq]"))
    });
    assert_eq!(
        up.err.contains("(io_weight): no disk here is shared by weight"),
        !heeded,
        "{}",
        up.err
    );
    let weight = ["io.weight", "io.bfq.weight", "blkio.bfq.weight"]
        .iter()
        .find_map(|file| value("limit-weight", "a", file));
    assert!(weight.is_some_and(|w| w.ends_with("300")));
}

/// The launcher holds nothing that the spec does not say: Debian's runc comes to the same numbers.
#[test]
fn another_runtime_is_told_the_same() {
    let manifest = r#"
[app]
name = "limit-runc"
[services.a]
command = ["sh", "-c", "ulimit -n; ulimit -c; echo up; exec sleep infinity"]
limits = { memory = "48M", pids = 10, cpus = 0.5, nofile = 99, core = "1M" }
"#;
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    app.wait_for_log("a", "up");
    const FILES: [&str; 6] = [
        "memory.limit_in_bytes",
        "memory.memsw.limit_in_bytes",
        "memory.max",
        "pids.max",
        "cpu.cfs_quota_us",
        "cpu.max",
    ];
    let ours = FILES.map(|file| value("limit-runc", "a", file));
    assert!(ours.iter().flatten().count() >= 3, "{ours:?}");

    app.ok(&["spec", "-o", "bundles"]);
    let mut container = Container::run("runc", &app.folder.join("bundles/a"));
    assert_eq!(container.until("up"), ["99", "2048", "up"]);
    let theirs = FILES.map(|file| {
        let path = find(Path::new("/sys/fs/cgroup"), &container.id, file)?;
        Some(std::fs::read_to_string(path).unwrap().trim().to_owned())
    });
    assert_eq!(ours, theirs);
}

fn find(folder: &Path, name: &str, file: &str) -> Option<PathBuf> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let is_folder = entry.file_type().is_ok_and(|t| t.is_dir());
        let inside = entry.path().join(file);
        match is_folder && entry.file_name() == name && inside.exists() {
            true => Some(inside),
            false => is_folder.then(|| find(&entry.path(), name, file))?,
        }
    })
}

/// Whatever moment of `up` or `down` it is: a supervisor's end takes its cgroups along.
#[test]
fn killed_at_any_moment_nothing_is_left() {
    let app = App::new(Mode::Root, &TWO.replace("killed", "anytime"));
    let state = app.state();
    let of_the_app = |path: &Path| {
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        let comm = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let is_ours = String::from_utf8_lossy(&environment).contains(state.to_str().unwrap());
        is_ours && comm.trim() == "pysecure"
    };
    for round in 0..30u64 {
        let mut up = app
            .command(&["up", "-d"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut down = None;
        if round % 3 == 2 {
            up.wait().unwrap();
            down = Some(
                app.command(&["down"])
                    .stderr(std::process::Stdio::null())
                    .spawn()
                    .unwrap(),
            );
        }
        // Some moment up to 50 ms on, the same ones every time.
        let moment = round.wrapping_mul(2_654_435_761) % 50_000;
        std::thread::sleep(std::time::Duration::from_micros(moment));
        wait_until(|| {
            let mut left = 0;
            for process in std::fs::read_dir("/proc").unwrap().flatten() {
                let pid = process.file_name().to_string_lossy().parse::<i32>();
                if let Ok(pid) = pid
                    && of_the_app(&process.path())
                {
                    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
                    left += 1;
                }
            }
            (left == 0).then_some(())
        });
        up.wait().unwrap();
        down.map(|mut down| down.wait().unwrap());
        // The guard may have been hit as well, while it still looked like the supervisor.
        app.ok(&["down"]);
        assert_eq!(cgroups("limit-anytime"), [] as [PathBuf; 0], "round {round}");
    }
    app.ok(&["up", "-d"]);
    assert_eq!(stats(&app, "a")["pids"], 2);
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-anytime"), [] as [PathBuf; 0]);
}

/// An app that ran without limits has no place for cgroups until a change of the manifest needs one.
#[test]
fn limits_come_and_go_with_the_manifest() {
    let manifest = |limits: &str| {
        format!(
            "[app]\nname = \"limit-later\"\n[services.a]\ncommand = \"sleep infinity\"\n{limits}\n\
             [services.b]\ncommand = \"sleep infinity\"\n"
        )
    };
    let app = App::new(Mode::Root, &manifest(""));
    app.ok(&["up", "-d"]);
    let (supervisor, b) = (app.supervisor(), app.init_of("b"));
    assert_eq!(cgroups("limit-later"), [] as [PathBuf; 0]);
    for (limits, pids) in [("limits = { pids = 30 }", "30"), ("limits = { pids = 40 }", "40")] {
        app.write("pysecure.toml", manifest(limits));
        app.ok(&["up", "-d"]);
        assert_eq!(value("limit-later", "a", "pids.max").as_deref(), Some(pids));
    }
    app.write("pysecure.toml", manifest(""));
    app.ok(&["up", "-d"]);
    assert_eq!(value("limit-later", "a", "pids.max"), None);
    assert_eq!((app.supervisor(), app.init_of("b")), (supervisor, b));
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-later"), [] as [PathBuf; 0]);
}

/// Each start has a new cgroup, with counters that begin at nothing.
#[test]
fn a_service_that_runs_out_of_memory_again_and_again_is_restarted_as_its_rules_say() {
    let manifest = r#"
[app]
name = "limit-again"
[services.eater]
command = ["python3", "-c", "x = b'x' * (300 << 20)"]
limits = { memory = "48M" }
restart = "on-failure"
restart_delay = "10ms"
restart_limit = 3
"#;
    let app = App::new(Mode::Root, manifest);
    app.ok(&["up", "-d"]);
    wait_until(|| (service(&app, "eater")["state"] == "failed").then_some(()));
    let error = service(&app, "eater")["error"].as_str().unwrap().to_owned();
    assert_eq!(error, "killed: out of memory (limit 48M); given up after 3 restarts");
    app.ok(&["down"]);
    assert_eq!(cgroups("limit-again"), [] as [PathBuf; 0]);
}
