//! From `up` to `down`: what runs, what is printed, and that nothing is left behind.

mod harness;

use harness::{App, BOTH, wait_until};

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
