//! `setup`: the first content of an app's resources, made once, by a script in a jail of its own.

mod harness;

use harness::{App, BOTH, Mode, wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use std::path::{Path, PathBuf};

fn bank(name: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
setup = "pysecure_initialize_resources.sh"
code = {{ "/bank" = "./code" }}
[resources]
cred = {{ path = "/bank-db/cred/cred.db", owner = "rw" }}
board = {{ path = "/srv/board", owner = "rw", bundle = "r" }}
[bundles.all]
resources = ["board"]
[services.auth]
command = ["sleep", "infinity"]
owner_resources = ["cred", "board"]
bundle = "all"
[services.web]
command = ["sleep", "infinity"]
bundle = "all"
"#
    )
}

const SCRIPT: &str = r#"
set -e
. /bank/schema.sh
echo "said to whoever starts it"
echo "$SCHEMA" > /bank-db/cred/cred.db
echo once >> /srv/board/runs
mkdir /srv/board/deep
cp /bin/true /srv/board/deep/program
# As for services, so for this: no set-id bit.
if chmod 4777 /srv/board/deep/program 2>/dev/null; then exit 9; fi
chmod 777 /srv/board/deep/program
ls / /srv /run/pysecure /home > /srv/board/seen
! touch /bank/x 2> /dev/null
"#;

fn app(mode: Mode, name: &str, script: &str) -> App {
    let app = App::new(mode, &bank(name));
    app.write("code/schema.sh", "SCHEMA='alice:secret'\n");
    app.write("outside", "not to be seen");
    app.write("pysecure_initialize_resources.sh", script);
    app
}

#[test]
fn the_script_runs_once_and_its_files_become_their_owners() {
    for mode in BOTH {
        let app = app(mode, "initonce", SCRIPT);
        let up = app.ok(&["up", "-d"]);
        assert!(up.err.contains("said to whoever starts it"), "{}", up.err);
        assert_eq!(app.sh("auth", "cat /bank-db/cred/cred.db").ok().out, "alice:secret\n");
        app.sh("auth", "echo more >> /bank-db/cred/cred.db && rm -r /srv/board/deep")
            .ok();
        assert_eq!(app.sh("web", "cat /srv/board/runs").ok().out, "once\n");
        assert_ne!(app.sh("web", "echo x >> /srv/board/runs").code, 0);
        assert_ne!(app.sh("web", "cat /bank-db/cred/cred.db").code, 0);
        let seen = app.sh("web", "cat /srv/board/seen").ok().out;
        assert!(!seen.contains("outside") && seen.contains("bank-db"), "{seen}");
        assert!(!seen.contains("rpc"), "{seen}");
        // It is up: its data is not touched. Then: not again by itself, but when it is asked for.
        let refused = app.run(&["setup"]);
        assert!(
            refused.code == 1 && refused.err.contains("pysecure down"),
            "{}",
            refused.err
        );
        app.ok(&["down"]);
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("web", "cat /srv/board/runs").ok().out, "once\n");
        app.ok(&["down"]);
        app.ok(&["setup"]);
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("web", "cat /srv/board/runs").ok().out, "once\nonce\n");
        assert_eq!(app.sh("auth", "cat /bank-db/cred/cred.db").ok().out, "alice:secret\n");
        let program = app
            .sh("auth", "stat -c '%a %u' /srv/board/deep/program; id -u")
            .ok()
            .out;
        let (mode, ids) = program.split_once(' ').unwrap();
        assert!(!mode.starts_with('4'), "{program}");
        let ids: Vec<&str> = ids.lines().collect();
        assert_eq!(ids[0], ids[1], "{program}");
        assert!(!app.state().join("apps/initonce/initializing").exists());
    }
}

#[test]
fn of_several_that_start_the_app_at_once_one_runs_it() {
    for mode in BOTH {
        let app = app(mode, "initatonce", SCRIPT);
        let all: Vec<_> = (0..3)
            .map(|_| {
                let mut command = app.command(&["up", "-d"]);
                command
                    .stdout(std::process::Stdio::null())
                    .stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        let ended: Vec<_> = all
            .into_iter()
            .map(|child| harness::Ended::from(child.wait_with_output().unwrap()))
            .collect();
        assert!(ended.iter().any(|e| e.code == 0), "{ended:?}");
        for late in ended.iter().filter(|e| e.code != 0) {
            assert!(late.err.contains("is up, or being started by another"), "{}", late.err);
        }
        assert_eq!(app.sh("web", "cat /srv/board/runs").ok().out, "once\n");
    }
}

#[test]
fn a_script_that_fails_leaves_no_half_made_data() {
    for mode in BOTH {
        let app = app(mode, "initfails", "echo half > /bank-db/cred/cred.db\nexit 7\n");
        let resources = app.state().join("apps/initfails/resources");
        for _ in 0..2 {
            let failed = app.run(&["up", "-d"]);
            assert_eq!(failed.code, 1, "{}", failed.err);
            assert!(
                failed.err.contains("ended with 7") && failed.err.contains("no data yet"),
                "{}",
                failed.err
            );
            assert!(!resources.exists());
        }
        app.write("pysecure_initialize_resources.sh", SCRIPT);
        app.ok(&["up", "-d"]);
        app.sh("auth", "echo kept >> /srv/board/runs").ok();
        app.ok(&["down"]);
        // And a failure later changes nothing of what is there.
        app.write("pysecure_initialize_resources.sh", "rm -r /srv/board/*; exit 1\n");
        let failed = app.run(&["setup"]);
        assert!(
            failed.code == 1 && failed.err.contains("as it was"),
            "{} {}",
            failed.code,
            failed.err
        );
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("web", "cat /srv/board/runs").ok().out, "once\nkept\n");
    }
}

/// Something in the place aside that its owner cannot remove: a mount for root, and for a user a folder of root's.
struct Stuck(Mode, PathBuf);

impl Stuck {
    fn make(mode: Mode, below: &Path) -> Stuck {
        let folder = below.join("stuck");
        std::fs::create_dir(&folder).unwrap();
        match mode {
            Mode::Root => mount("stuck", &folder, "tmpfs", MountFlags::empty(), None).unwrap(),
            Mode::Rootless => std::fs::write(folder.join("file"), "").unwrap(),
        }
        Stuck(mode, folder)
    }
}

impl Drop for Stuck {
    fn drop(&mut self) {
        if self.0 == Mode::Root {
            unmount(&self.1, UnmountFlags::DETACH).unwrap();
        }
        let _ = std::fs::remove_dir_all(&self.1);
    }
}

#[test]
fn why_a_script_failed_is_said_even_if_what_it_left_stays() {
    for mode in BOTH {
        let script = "#!/bin/sh\n: > /srv/board/here\nuntil test -e /srv/board/go; do sleep 0.01; done\nexit 7\n";
        let app = app(mode, "initstuck", script);
        let aside = app.state().join("apps/initstuck/initializing");
        let mut command = app.command(&["-v", "up", "-d"]);
        command
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::piped());
        let starts = command.spawn().unwrap();
        let board = aside.join("resources/board");
        wait_until(|| board.join("here").exists().then_some(()));
        let stuck = Stuck::make(mode, &board);
        std::fs::write(board.join("go"), "").unwrap();
        let failed = harness::Ended::from(starts.wait_with_output().unwrap());
        assert_eq!(failed.code, 1, "{mode:?} {}", failed.err);
        assert!(failed.err.contains("ended with 7"), "{mode:?} {}", failed.err);
        assert!(
            failed.err.contains("stays for now") && failed.err.contains("remove"),
            "{mode:?} {}",
            failed.err
        );
        assert!(aside.exists(), "{mode:?}");
        drop(stuck);
        app.write("pysecure_initialize_resources.sh", SCRIPT);
        app.ok(&["up", "-d"]);
        assert!(!aside.exists(), "{mode:?}");
    }
}

#[test]
fn a_script_that_is_killed_has_made_nothing() {
    for mode in BOTH {
        let app = app(
            mode,
            "initkill",
            "#!/bin/sh\necho half > /bank-db/cred/cred.db\necho here\nexec sleep infinity\n",
        );
        let aside = app.state().join("apps/initkill/initializing");
        let mut child = app
            .command(&["up", "-d"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        wait_until(|| aside.join("resources/cred/cred.db").exists().then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        // As the user's launcher may be a process above the one that starts services.
        app.write("pysecure_initialize_resources.sh", SCRIPT);
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("auth", "cat /bank-db/cred/cred.db").ok().out, "alice:secret\n");
        assert!(!aside.exists());
    }
}

#[test]
fn what_is_wrong_with_it_is_said_at_its_line() {
    let app = App::new(
        Mode::Root,
        "[app]\nname = \"initwrong\"\nsetup = \"nosuch.sh\"\n[services.a]\ncommand = \"true\"\n",
    );
    let wrong = app.run(&["check"]);
    assert!(
        wrong.code == 2 && wrong.err.contains("does not exist") && wrong.err.contains(":3:"),
        "{}",
        wrong.err
    );
    let text = "[app]\nname = \"initwrong\"\nsetup_jail = \"host\"\n[services.a]\ncommand = \"true\"\n";
    app.write("pysecure.toml", text);
    let wrong = app.run(&["check"]);
    assert!(wrong.code == 2 && wrong.err.contains("is not"), "{}", wrong.err);
    app.write(
        "pysecure.toml",
        "[app]\nname = \"initwrong\"\n[services.a]\ncommand = \"true\"\n",
    );
    let wrong = app.run(&["setup"]);
    assert!(
        wrong.code == 2 && wrong.err.contains("names no script"),
        "{}",
        wrong.err
    );
}

/// `setup` works on a copy, which the next command finds if it was killed.
#[test]
fn one_that_is_killed_later_leaves_no_copy() {
    for mode in BOTH {
        let app = app(mode, "initkilled", SCRIPT);
        app.ok(&["up", "-d"]);
        app.ok(&["down"]);
        let aside = app.state().join("apps/initkilled/initializing");
        for next in [&["up", "-d"][..], &["down"], &["run", "web", "--", "true"]] {
            app.write(
                "pysecure_initialize_resources.sh",
                "#!/bin/sh\n: >/srv/board/here\nexec sleep infinity\n",
            );
            let mut child = app
                .command(&["setup"])
                .stderr(std::process::Stdio::null())
                .spawn()
                .unwrap();
            wait_until(|| aside.join("resources/board/here").exists().then_some(()));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(aside.exists());
            app.ok(next);
            assert!(!aside.exists(), "{mode:?} {next:?}");
            app.ok(&["down"]);
        }
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("web", "cat /srv/board/runs").ok().out, "once\n");
    }
}
