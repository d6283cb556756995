//! Files and folders of the user's that are replaced while services see them: editors write a new file and rename it, a deploy switches
//! a link. `up` sees it, and `restart` follows it.

mod harness;

use harness::{App, BOTH};
use std::os::unix::fs::symlink;

const MANIFEST: &str = r#"
[app]
name = "replaced"
code = { "/code" = "./current" }
[resources]
conf = { path = "/data/conf", source = "./conf", owner = "r" }
[services.one]
owner_resources = ["conf"]
command = ["sh", "-c", "echo sees $(cat /data/conf /code/version); exec sleep infinity"]
[services.two]
command = ["sh", "-c", "echo sees $(cat /code/version); exec sleep infinity"]
"#;

/// As a deploy does it: the link is another from one moment to the next.
fn switch(app: &App, release: &str) {
    app.write(&format!("releases/{release}/version"), release);
    let new = app.folder.join("new");
    symlink(format!("releases/{release}"), &new).unwrap();
    std::fs::rename(new, app.folder.join("current")).unwrap();
}

/// As editors do it.
fn replace(app: &App, content: &str) {
    let new = app.write("conf.new", content);
    std::fs::rename(new, app.folder.join("conf")).unwrap();
}

#[test]
fn a_replaced_source_is_seen_by_up_and_followed_by_restart() {
    for mode in BOTH {
        let app = App::new(mode, MANIFEST);
        replace(&app, "a\n");
        switch(&app, "1");
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "sees a 1");
        let unchanged = || {
            let out = app.ok(&["up", "-d"]).out;
            assert!(out.contains("is up already"), "{mode:?} {out}");
        };
        unchanged();
        // Written in place it is the same file, which the service sees.
        app.write("conf", "a\n");
        unchanged();
        replace(&app, "b\n");
        let out = app.ok(&["up", "-d"]).out;
        assert!(out.contains("restart  one") && !out.contains("two"), "{mode:?} {out}");
        app.wait_for_log("one", "sees b 1");
        unchanged();
        replace(&app, "c\n");
        app.ok(&["restart", "one"]);
        app.wait_for_log("one", "sees c 1");
        unchanged();
        // Only whom it was asked for.
        switch(&app, "2");
        let two = app.init_of("two");
        assert_eq!(app.ok(&["restart", "one"]).out, "one: running\n");
        app.wait_for_log("one", "sees c 2");
        assert_eq!(app.init_of("two"), two);
        let out = app.ok(&["up", "-d"]).out;
        assert!(out.contains("restart  two") && !out.contains("one\n"), "{mode:?} {out}");
        app.wait_for_log("two", "sees 2");
        unchanged();
        switch(&app, "3");
        app.ok(&["restart"]);
        app.wait_for_log("one", "sees c 3");
        app.wait_for_log("two", "sees 3");
        unchanged();
        // What else the manifest says is for `up` alone.
        switch(&app, "4");
        app.write(
            "pysecure.toml",
            MANIFEST.replace("echo sees $(cat /code", "echo says $(cat /code"),
        );
        app.ok(&["restart", "two"]);
        assert!(!app.logs("two").contains("says"));
        app.ok(&["up", "-d"]);
        app.wait_for_log("two", "says 4");
        app.ok(&["down"]);
    }
}
