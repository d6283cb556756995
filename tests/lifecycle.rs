//! From `up` to `down`: what runs, what is printed, and that nothing is left behind.

mod harness;

use harness::{App, BOTH, Ended, Mode, fresh_folder, need_root, wait_until};
use std::process::Command;

fn two(name: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
[resources]
secret = {{ path = "/data/vault/secret.txt", owner = "rw" }}
[services.vault]
command = ["sh", "-c", "echo swordfish > /data/vault/secret.txt; echo written; exec sleep infinity"]
owner_resources = ["secret"]
[services.web]
command = ["sh", "-c", "echo hello; exec sleep infinity"]
"#
    )
}

#[test]
fn up_shows_separate_services_and_down_leaves_nothing() {
    for mode in BOTH {
        let app = App::new(mode, &two("lifecycle"));
        app.ok(&["up", "-d"]);
        app.wait_for_log("vault", "written");
        let ps = app.ps();
        let uids: Vec<_> = ps["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["uid"].as_u64().unwrap())
            .collect();
        assert_ne!(uids[0], uids[1]);
        assert_eq!(app.sh("vault", "cat /data/vault/secret.txt").ok().out, "swordfish\n");
        assert_ne!(app.sh("web", "cat /data/vault/secret.txt").code, 0);
        let inits = ["vault", "web"].map(|s| app.init_of(s));
        app.ok(&["down"]);
        for pid in inits {
            wait_until(|| (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
        }
        assert!(!app.state().join("run").exists(), "the runtime directory is gone");
        // The data is still there for the next time.
        app.ok(&["up", "-d"]);
        app.wait_for_log("vault", "written");
        assert_eq!(app.run(&["down", "--purge"]).code, 0);
        assert!(!app.state().join("apps/lifecycle").exists());
    }
}

#[test]
fn up_returns_when_services_end_at_once_or_cannot_start() {
    for mode in BOTH {
        let brief =
            "[app]\nname = \"brief\"\n[services.a]\ncommand = \"true\"\n[services.b]\ncommand = \"sleep infinity\"\n";
        let app = App::new(mode, brief);
        app.ok(&["up", "-d"]);
        wait_until(|| (app.ps()["services"][0]["exit_code"] == 0).then_some(()));
        app.ok(&["down"]);

        // The one in the middle takes the others with it, those that had not begun included.
        let middle = "[app]\nname = \"middle\"\n[services.a]\ncommand = \"sleep infinity\"\n[services.b]\ncommand = \"/no/such/program\"\n[services.c]\ncommand = \"sleep infinity\"\n";
        let app = App::new(mode, middle);
        for args in [&["up", "-d"][..], &["up"]] {
            let ended = app.run(args);
            assert_eq!(ended.code, 1, "{}", ended.err);
            assert!(
                ended.err.contains("service `b`")
                    && ended
                        .err
                        .contains("/no/such/program does not exist in the service's root"),
                "{}",
                ended.err
            );
            assert!(!app.state().join("run").exists());
        }
    }
}

/// Named to the copy of this program that is to fail.
const FAILS: &str = "PYSECURE_TEST_FAILS";

/// An app is made and the program copied; on demand it fails, with the app up.
#[test]
fn an_app_that_is_up_when_its_test_ends() {
    let app = App::new(Mode::Root, &two("ended"));
    app.ok(&["up", "-d"]);
    let folder = fresh_folder();
    std::fs::write(folder.join("left"), "").unwrap();
    assert!(std::env::var_os(FAILS).is_none(), "it fails as it was told to");
}

#[test]
fn tests_leave_nothing_in_tmp() {
    need_root();
    for fails in [false, true] {
        // A /tmp of its own, for other tests use the other one.
        let script = "mount -t tmpfs tmpfs /tmp && { \"$@\" >/dev/null 2>&1; echo \"ended with $?\"; ls -A /tmp; }";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "an_app_that_is_up_when_its_test_ends"]);
        if fails {
            command.env(FAILS, "");
        }
        let ended = Ended::from(command.output().expect("install `util-linux`")).ok();
        let code = if fails { 101 } else { 0 };
        assert_eq!(ended.out, format!("ended with {code}\n"), "{ended:?}");
    }
}
