//! What an app keeps on disk, and whose it is: one supervisor works on it, one manifest has it, and an id goes to nobody
//! else as long as files may be its own.

mod harness;

use harness::{App, BOTH, Ended, Mode, wait_until};
use nix::sys::signal::Signal;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

/// One service, which says so if it is run twice on its data.
fn witness(name: &str, more: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
{more}

[resources.w]
path = "/data/w/"
owner = "rwx"

[services.one]
owner_resources = ["w"]
command = ["sh", "-c", """
flock -n /data/w sh -c 'echo once >>/data/w/starts; echo first; exec sleep infinity' || echo twice
exec sleep infinity
"""]
"#
    )
}

#[track_caller]
fn refused(ended: Ended, code: i32, says: &[&str]) {
    assert_eq!(ended.code, code, "{}\n{}", ended.out, ended.err);
    for text in says {
        assert!(ended.err.contains(text), "{text}: {}", ended.err);
    }
}

/// As cron, su(1) and a login after a logout have it: no runtime directory, another one, or one that was emptied.
#[test]
fn a_supervisor_is_found_whatever_the_environment() {
    let app = App::new(Mode::Rootless, &witness("environs", ""));
    let (uid, gid) = harness::user();
    let runtime = |name: &str| {
        let path = app.folder.join(name);
        std::fs::create_dir(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(gid)).unwrap();
        path
    };
    let (first, second) = (runtime("first"), runtime("second"));
    let run = |args: &[&str], runtime: Option<&Path>| {
        let mut command = app.command(args);
        command.env_remove("PYSECURE_STATE_DIR");
        if let Some(runtime) = runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        Ended::from(command.output().unwrap())
    };
    run(&["up", "-d"], Some(&first)).ok();
    for place in [None, Some(second.as_path())] {
        let again = run(&["up", "-d"], place).ok();
        assert!(again.out.contains("is up already"), "{}", again.out);
        assert!(run(&["ps"], place).ok().out.contains("one"));
        run(&["exec", "-T", "one", "--", "test", "-d", "/data/w"], place).ok();
    }
    std::fs::remove_dir_all(&first).unwrap();
    run(&["up", "-d"], None).ok();
    let starts = run(&["exec", "-T", "one", "--", "cat", "/data/w/starts"], Some(&second));
    assert_eq!(starts.ok().out, "once\n");
    let pid = run(&["ps", "--json"], None).ok().out;
    let ps: serde_json::Value = serde_json::from_str(&pid).unwrap();
    let init = ps["services"][0]["pid"].as_i64().unwrap();
    refused(run(&["run", "-T", "one"], None), 1, &["a second time"]);
    run(&["run", "-T", "one", "--", "true"], None).ok();
    run(&["down", "--purge"], None).ok();
    assert!(
        !Path::new(&format!("/proc/{init}")).exists(),
        "it runs on without its data"
    );
}

/// Without its sockets a supervisor is not to be reached; that it is there is known all the same.
#[test]
fn a_supervisor_that_cannot_be_reached_keeps_others_off_its_data() {
    for mode in BOTH {
        let app = App::new(mode, &witness("unheard", ""));
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "first");
        let pid = app.supervisor();
        // It makes them again where it can.
        std::fs::rename(app.state().join("run/unheard"), app.folder.join("gone")).unwrap();
        std::fs::remove_dir_all(app.folder.join("gone")).unwrap();
        wait_until(|| Some(app.run(&["ps", "--json"])).filter(|ps| ps.code == 0));
        std::fs::remove_file(app.state().join("run/unheard/control.sock")).unwrap();
        wait_until(|| Some(app.run(&["ps", "--json"])).filter(|ps| ps.code == 0));
        assert_eq!(app.supervisor(), pid);
        harness::signal(pid as u32, Signal::SIGSTOP);
        std::fs::remove_dir_all(app.state().join("run")).unwrap();
        let told = [format!("process {pid}"), format!("kill {pid}")];
        let says: Vec<&str> = ["is up", "is gone"]
            .into_iter()
            .chain(told.iter().map(String::as_str))
            .collect();
        for args in [
            &["up", "-d"][..],
            &["ps"],
            &["down", "--purge"],
            &["stop"],
            &["cp", "one:/data/w/starts", "x"],
        ] {
            refused(app.run(args), 1, &says);
        }
        assert!(app.state().join("apps/unheard/resources/w/starts").exists());
        // The control: without the lock there are two of them, and the service sees it.
        std::fs::remove_dir_all(app.state().join("locks")).unwrap();
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "twice");
        assert_ne!(app.supervisor(), pid);
        harness::signal(pid as u32, Signal::SIGKILL);
        app.ok(&["down", "--purge"]);
    }
}

/// The data is free as soon as nothing works on it, however that ended, and not before.
#[test]
fn data_is_deleted_under_nobody() {
    for mode in BOTH {
        let app = App::new(mode, &witness("undernobody", ""));
        let mut run = app
            .command(&["run", "-T", "one", "--", "sh", "-c", "echo here; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0u8; 5];
        std::io::Read::read_exact(run.stdout.as_mut().unwrap(), &mut line).unwrap();
        refused(app.run(&["down", "--purge"]), 1, &["pysecure run"]);
        assert!(app.state().join("apps/undernobody/resources/w").exists());
        run.kill().unwrap();
        run.wait().unwrap();
        // What is up is killed with its supervisor, and its data is free at once.
        for _ in 0..3 {
            app.ok(&["up", "-d"]);
            let pid = app.supervisor();
            harness::signal(pid as u32, Signal::SIGKILL);
            wait_until(|| (!alive(pid)).then_some(()));
        }
        let purged = app.ok(&["down", "--purge"]);
        assert!(purged.out.contains("deleted "), "{}", purged.out);
        let nothing = app.ok(&["down", "--purge"]);
        assert!(
            nothing.out.contains("nothing to delete") && !nothing.out.contains("deleted"),
            "{}",
            nothing.out
        );
        assert!(
            app.state().join("locks/undernobody").exists(),
            "a lock that is deleted locks nobody out"
        );
    }
}

fn alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !matches!(
        stat.rsplit(") ").next().and_then(|s| s.chars().next()),
        None | Some('Z')
    )
}

fn copy_of(app: &App, from: &str, to: &str) {
    app.write(
        &format!("{to}/pysecure.toml"),
        std::fs::read(app.folder.join(from).join("pysecure.toml")).unwrap(),
    );
}

/// A copy of an app's folder names the app, and is not the app.
#[test]
fn a_name_is_not_enough_to_touch_data() {
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("a/pysecure.toml", witness("named", ""));
        copy_of(&app, "a", "b");
        let at = |folder: &str, args: &[&str]| app.run(&[&["-f", folder], args].concat());
        at("a", &["up", "-d"]).ok();
        let owner = app.folder.join("a/pysecure.toml").display().to_string();
        let commands: [&[&str]; 20] = [
            &["down", "--purge"],
            &["down"],
            &["stop"],
            &["start"],
            &["restart", "one"],
            &["reload"],
            &["kill"],
            &["ps"],
            &["stats", "--no-stream"],
            &["logs"],
            &["events"],
            &["metrics"],
            &["exec", "-T", "one", "--", "true"],
            &["run", "-T", "one", "--", "true"],
            &["cp", "one:/data/w/starts", "stolen"],
            &["up", "-d"],
            &["up", "--dry-run"],
            &["spec"],
            &["check"],
            &["give-back"],
        ];
        for args in commands {
            refused(at("b", args), 2, &[&owner, "named"]);
        }
        assert_eq!(
            app.run(&["-f", "a", "ps", "--json"])
                .ok()
                .out
                .matches("\"running\"")
                .count(),
            1
        );
        assert!(app.state().join("apps/named/resources/w/starts").exists());
        // A folder that is moved takes its app with it, whatever comes to lie where it was.
        std::fs::rename(app.folder.join("a"), app.folder.join("c")).unwrap();
        at("c", &["exec", "-T", "one", "--", "test", "-e", "/data/w/starts"]).ok();
        app.write("a/other", "");
        app.write("a/pysecure.toml", witness("named", ""));
        at("c", &["up", "-d"]).ok();
        at("c", &["restart", "one"]).ok();
        at("c", &["down"]).ok();
        refused(at("a", &["ps"]), 2, &["named"]);
        // Of one that is gone, a copy may go on; but it deletes nothing for its name alone.
        std::fs::remove_dir_all(app.folder.join("c")).unwrap();
        std::fs::remove_dir_all(app.folder.join("a")).unwrap();
        refused(at("b", &["down", "--purge"]), 1, &["which is gone", "--take-over"]);
        assert!(app.state().join("apps/named/resources/w/starts").exists());
        let up = at("b", &["up", "-d"]).ok();
        assert!(up.err.contains("which is gone; from now on"), "{}", up.err);
        // And what is another's is taken over by name.
        copy_of(&app, "b", "d");
        refused(at("d", &["up", "-d"]), 2, &["--take-over"]);
        at("d", &["up", "-d", "--take-over"]).ok();
        refused(at("b", &["ps"]), 2, &["d/pysecure.toml"]);
        let purged = at("d", &["down", "--purge"]).ok();
        assert!(
            purged.out.contains("apps/named/resources/w (1 file, "),
            "{}",
            purged.out
        );
    }
}

/// At a terminal it is asked first, and all stays as it was with any answer but yes.
#[test]
fn deleting_is_asked() {
    for mode in BOTH {
        let app = App::new(mode, &witness("asked", ""));
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "first");
        for (answer, code) in [("\r", 1), ("no\r", 1), ("y\r", 0)] {
            let mut terminal = app.on_terminal(&["down", "--purge"], 24, 200);
            let shown = terminal.until("[y/N] ");
            assert!(shown.contains("resources/w (1 file"), "{shown}");
            assert_eq!(app.service("one")["state"], "running");
            terminal.type_in(answer);
            assert_eq!(terminal.ended().0, code);
            assert_eq!(app.state().join("apps/asked").exists(), code == 1);
        }
        app.ok(&["up", "-d"]);
        let mut terminal = app.on_terminal(&["down", "--purge", "--yes"], 24, 200);
        assert_eq!(terminal.ended().0, 0);
        assert!(!app.state().join("apps/asked").exists());
    }
}

/// Two first tries do not meet.
#[test]
fn init_takes_the_name_of_its_folder() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let name = |folder: &str| {
            app.write(&format!("{folder}/x"), "");
            let said = app.ok(&["init", folder]).out;
            said.split('`').nth(1).unwrap().to_owned()
        };
        assert_eq!(name("one/My Shop"), "my-shop");
        assert_eq!(name("two/4.bank"), "bank");
        app.run(&["-f", "two/4.bank", "up", "-d"]).ok();
        // There is one of that name.
        assert_eq!(name("three/bank"), "bank-2");
        app.run(&["-f", "three/bank", "up", "-d"]).ok();
        assert_eq!(app.run(&["-f", "three/bank", "down", "--purge"]).code, 0);
        assert!(app.run(&["-f", "two/4.bank", "ps"]).ok().out.contains("vault"));
        app.run(&["-f", "two/4.bank", "down", "--purge"]).ok();
    }
}

fn adopting(name: &str, more: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
{more}

[resources.tree]
path = "/data/tree/"
source = "./tree"
chown = true
owner = "rwx"

[services.one]
owner_resources = ["tree"]
command = ["sh", "-c", """
mkdir -p /data/tree/made && echo new >/data/tree/made/file && chmod 0666 /data/tree/made/file
ln -sf /etc/passwd /data/tree/made/link; cat /data/tree/deep/old
echo changed >/data/tree/deep/old; echo done; exec sleep infinity
"""]
"#
    )
}

/// Owner, group and mode of all in a tree, by path.
fn look(at: &Path) -> Vec<(String, u32, u32, u32)> {
    fn below(top: &Path, at: &Path, out: &mut Vec<(String, u32, u32, u32)>) {
        let found = std::fs::symlink_metadata(at).unwrap();
        let name = at.strip_prefix(top).unwrap().display().to_string();
        out.push((name, found.uid(), found.gid(), found.mode() & 0o7777));
        if found.is_dir() {
            for entry in std::fs::read_dir(at).unwrap() {
                below(top, &entry.unwrap().path(), out);
            }
        }
    }
    let mut out = Vec::new();
    below(at, at, &mut out);
    out.sort();
    out
}

fn tree(app: &App) -> Vec<(String, u32, u32, u32)> {
    app.write("tree/deep/old", "old\n");
    app.write("tree/program", "#!/bin/sh\n");
    app.write("tree/secret", "");
    if app.mode == Mode::Root {
        let (uid, gid) = harness::user();
        for (name, id) in [
            ("", uid),
            ("program", uid),
            ("secret", uid),
            ("deep", 4321),
            ("deep/old", 4321),
        ] {
            std::os::unix::fs::chown(app.folder.join("tree").join(name), Some(id), Some(gid)).unwrap();
        }
    }
    let mode = |name: &str, mode: u32| {
        let path = app.folder.join("tree").join(name);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("", 0o750);
    mode("deep", 0o1775);
    mode("deep/old", 0o644);
    mode("program", 0o4755);
    mode("secret", 0o600);
    look(&app.folder.join("tree"))
}

/// An adopted tree goes back to whom it belonged; until then its ids are nobody else's.
#[test]
fn what_is_adopted_is_given_back() {
    for mode in BOTH {
        let app = App::new(mode, &adopting("adopts", ""));
        let before = tree(&app);
        let top = app.folder.join("tree");
        let back = |before: &[(String, u32, u32, u32)]| {
            let after = look(&top);
            for (name, uid, gid, mode) in before {
                // A service may have written into it, so it runs as nobody but who starts it.
                let mode = if name == "program" { mode & 0o777 } else { *mode };
                assert!(after.contains(&(name.clone(), *uid, *gid, mode)), "{name}: {after:?}");
            }
            let (_, uid, gid, _) = before[0];
            assert!(after.contains(&("made/file".into(), uid, gid, 0o600)), "{after:?}");
            assert!(after.contains(&("made".into(), uid, gid, 0o700)), "{after:?}");
            assert_eq!(after.len(), before.len() + 3, "{after:?}");
        };
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "done");
        refused(app.run(&["give-back"]), 1, &["is up"]);
        app.ok(&["down"]);
        // The control: it is the service's, and its former owner is locked out.
        assert!(look(&top).iter().all(|now| now.1 != before[0].1), "{:?}", look(&top));
        if mode == Mode::Rootless {
            let read = app.shell_free("cat", &["tree/deep/old"]).output().unwrap();
            assert!(!read.status.success());
        }
        app.ok(&["give-back", "tree"]);
        back(&before);
        // It is adopted once more, and given back when all is deleted.
        app.ok(&["up", "-d"]);
        wait_until(|| (app.logs("one").matches("done").count() == 2).then_some(()));
        app.ok(&["down"]);
        assert!(look(&top).iter().all(|now| now.1 != before[0].1), "{:?}", look(&top));
        let said = app.ok(&["down", "--purge"]).out;
        assert!(said.contains("give back") && said.contains("gave back"), "{said}");
        back(&before);
        let text = app.shell_free("cat", &["tree/deep/old"]).output().unwrap();
        assert_eq!(text.stdout, b"changed\n");
        assert!(!app.state().join("apps/adopts").exists());
    }
}

/// Where files may be that belong to ids, these are kept, with all that is known of them.
#[test]
fn an_id_is_not_given_again_while_files_may_be_its_own() {
    for mode in BOTH {
        let range = "uid_range = [43100, 43109]\ngid_range = [43100, 43109]";
        let app = App::new(mode, &adopting("retires", range));
        app.write("other.toml", witness("inherits", range));
        let other = |args: &[&str]| app.run(&[&["-f", "other.toml"], args].concat());
        let before = tree(&app);
        app.ok(&["up", "-d"]);
        app.wait_for_log("one", "done");
        std::fs::rename(app.folder.join("tree"), app.folder.join("moved")).unwrap();
        refused(
            app.run(&["down", "--purge"]),
            1,
            &["is gone", "--moved-to", "no other app"],
        );
        refused(app.run(&["down", "--purge"]), 1, &["is gone"]);
        refused(
            other(&["run", "-T", "one", "--", "true"]),
            2,
            &["overlaps", "`retires`"],
        );
        let moved = [
            "give-back",
            app.folder.join("tree").to_str().unwrap(),
            "--moved-to",
            "moved",
        ]
        .map(str::to_owned);
        app.ok(&moved.each_ref().map(String::as_str));
        let after = look(&app.folder.join("moved"));
        assert!(
            before.iter().filter(|b| b.0 != "program").all(|b| after.contains(b)),
            "{after:?}"
        );
        app.ok(&["down", "--purge"]);
        other(&["run", "-T", "one", "--", "true"]).ok();
        // A ledger that somebody deleted: its app's files are somebody's, and nobody knows whose.
        std::fs::remove_file(app.state().join("apps/inherits/ledger.json")).unwrap();
        refused(other(&["up", "-d"]), 1, &["ledger.json", "is gone"]);
        app.write("third.toml", witness("third", ""));
        refused(
            app.run(&["-f", "third.toml", "run", "-T", "one", "--", "true"]),
            1,
            &["inherits/ledger.json"],
        );
        refused(other(&["down", "--purge"]), 1, &["--take-over"]);
        other(&["down", "--purge", "--take-over"]).ok();
        app.run(&["-f", "third.toml", "run", "-T", "one", "--", "true"]).ok();
        app.run(&["-f", "third.toml", "down", "--purge"]).ok();
    }
}

/// A folder of the user's in which services write is one supervisor's, whatever state directories there are.
#[test]
fn a_folder_is_written_to_by_one_supervisor() {
    for mode in BOTH {
        let manifest = adopting("onewriter", "");
        let app = App::new(mode, &manifest);
        tree(&app);
        app.ok(&["up", "-d"]);
        let elsewhere = |args: &[&str]| app.run(&[&["--state-dir", "elsewhere"], args].concat());
        let path = app.folder.join("tree").display().to_string();
        let before = look(&app.folder.join("tree"));
        refused(elsewhere(&["up", "-d"]), 1, &[&path, "another supervisor"]);
        assert_eq!(
            before.first(),
            look(&app.folder.join("tree")).first(),
            "it was adopted by two"
        );
        app.ok(&["down"]);
        // The control: it is the folder that the two must not share, and nothing else.
        elsewhere(&["up", "-d"]).ok();
        refused(app.run(&["up", "-d"]), 1, &[&path]);
        elsewhere(&["down", "--purge"]).ok();
        app.ok(&["down", "--purge"]);
        // Nor do two apps adopt one tree, be they up or not.
        app.ok(&["run", "-T", "one", "--", "true"]);
        app.write("rival.toml", manifest.replace("onewriter", "rival"));
        refused(
            app.run(&["-f", "rival.toml", "run", "-T", "one", "--", "true"]),
            1,
            &["`onewriter` has adopted", "give-back"],
        );
        app.ok(&["give-back"]);
        app.run(&["-f", "rival.toml", "run", "-T", "one", "--", "true"]).ok();
        app.run(&["-f", "rival.toml", "down", "--purge"]).ok();
    }
}

/// What was there before stays as it is; where others could put something in the place of what is ours, nothing is made.
#[test]
fn a_state_directory_is_used_as_it_is() {
    for mode in BOTH {
        let app = App::new(mode, &witness("stated", ""));
        let (uid, gid) = match mode {
            Mode::Root => (0, 0),
            Mode::Rootless => harness::user(),
        };
        let shared = app.folder.join("shared");
        let state = shared.to_str().unwrap();
        let at = |args: &[&str]| app.run(&[&["--state-dir", state], args].concat());
        let make = |mode: u32, uid: u32, gid: u32| {
            let _ = std::fs::remove_dir_all(&shared);
            std::fs::create_dir(&shared).unwrap();
            std::fs::set_permissions(&shared, std::fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&shared, Some(uid), Some(gid)).unwrap();
        };
        let mode_of = |path: &Path| std::fs::symlink_metadata(path).unwrap().mode() & 0o7777;
        // As /tmp is, or a folder of one's own.
        for (bits, owner) in [(0o1777, 0), (0o1777, uid), (0o755, uid), (0o775, uid), (0o2755, uid)] {
            make(bits, owner, if owner == 0 { 0 } else { gid });
            at(&["up", "-d"]).ok();
            assert_eq!(mode_of(&shared), bits);
            for own in [
                "apps",
                "locks",
                "run",
                "apps/stated",
                "run/stated",
                "apps/stated/resources",
            ] {
                assert_eq!(mode_of(&shared.join(own)) & 0o777, 0o700, "{own}");
            }
            assert!(at(&["ps"]).ok().out.contains("one"));
            at(&["down", "--purge"]).ok();
            assert_eq!(mode_of(&shared), bits);
        }
        // Where others may delete, or where it is another's.
        let stranger = 12_345;
        for (bits, owner, group) in [
            (0o777, uid, gid),
            (0o775, uid, stranger),
            (0o1777, stranger, stranger),
            (0o755, stranger, gid),
        ] {
            make(bits, owner, group);
            refused(at(&["up", "-d"]), 1, &[state, "--state-dir"]);
            assert_eq!(
                (mode_of(&shared), std::fs::read_dir(&shared).unwrap().count()),
                (bits, 0)
            );
        }
        // Others were first.
        for name in ["apps", "locks", "run", "jails"] {
            make(0o1777, 0, 0);
            let first = shared.join(name);
            std::fs::create_dir(&first).unwrap();
            std::os::unix::fs::chown(&first, Some(stranger), Some(stranger)).unwrap();
            refused(at(&["up", "-d"]), 1, &[&first.display().to_string(), "another user's"]);
            refused(at(&["ps"]), 1, &["another user's"]);
            std::fs::remove_dir(&first).unwrap();
            symlink(&app.folder, &first).unwrap();
            refused(at(&["up", "-d"]), 1, &[&first.display().to_string(), "a link"]);
        }
        // What is in an app's folder and not PySecure's is not deleted with the app.
        make(0o700, uid, gid);
        at(&["up", "-d"]).ok();
        std::fs::write(shared.join("apps/stated/diary"), "mine").unwrap();
        let said = at(&["down", "--purge"]).ok().out;
        assert!(
            said.contains("what is left is not") && shared.join("apps/stated/diary").exists(),
            "{said}"
        );
    }
}

/// Ids that are chosen meet neither those that examples name nor those that others of the host give out.
#[test]
fn chosen_ids_are_out_of_everybodys_way() {
    for mode in BOTH {
        let app = App::new(mode, &witness("chosen", ""));
        let uid: u32 = app
            .ok(&["run", "-T", "one", "--", "id", "-u"])
            .out
            .trim()
            .parse()
            .unwrap();
        let gid: u32 = app
            .ok(&["run", "-T", "one", "--", "id", "-g"])
            .out
            .trim()
            .parse()
            .unwrap();
        for id in [uid, gid] {
            // systemd's own users, its dynamic ones and nobody; subordinate ids; containers.
            assert!((1000..60_000).contains(&id), "{id}");
        }
        // After the first example, the original's kind of configuration, whose range most have copied.
        app.write(
            "later.toml",
            witness("later", "uid_range = [61000, 61999]\ngid_range = [61000, 61999]"),
        );
        app.run(&["-f", "later.toml", "run", "-T", "one", "--", "true"]).ok();
        app.run(&["-f", "later.toml", "down", "--purge"]).ok();
        // Whoever names ids of systemd's is told.
        app.write("dynamic.toml", witness("dynamic-ids", "uid_range = [62000, 62999]"));
        let checked = app.run(&["-f", "dynamic.toml", "check"]).ok();
        assert_eq!(
            checked.err.contains("DynamicUser"),
            mode == Mode::Root,
            "{}",
            checked.err
        );
    }
    // No two examples can meet, for none names ids.
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut seen = 0;
    for example in std::fs::read_dir(examples).unwrap() {
        for entry in std::fs::read_dir(example.unwrap().path()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file()
                && path
                    .file_name()
                    .is_some_and(|n| n.to_string_lossy().starts_with("pysecure"))
            {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.lines().any(|l| l.starts_with("uid_range")), "{}", path.display());
                assert!(!text.contains("(61000, 61999)"), "{}", path.display());
                seen += 1;
            }
        }
    }
    assert!(seen > 5, "{seen}");
}

/// A mount within a resource is somebody's own affair: a change of who owns the resource ends at it.
#[test]
fn what_is_mounted_in_a_resource_keeps_its_owner() {
    let manifest = |owner: &str, other: &str| {
        format!(
            "[app]\nname = \"within\"\n[resources]\ndata = {{ path = \"/data/\", owner = \"rw\" }}\n\
             [services.{owner}]\ncommand = [\"sleep\", \"1000\"]\nowner_resources = [\"data\"]\n\
             [services.{other}]\ncommand = [\"sleep\", \"1000\"]\n"
        )
    };
    let app = App::new(Mode::Root, &manifest("one", "two"));
    app.ok(&["up", "-d"]);
    app.ok(&["down"]);
    let data = app.state().join("apps/within/resources/data");
    for name in ["plain", "mounted"] {
        std::fs::create_dir(data.join(name)).unwrap();
    }
    let mounted = data.join("mounted");
    let mount = |program: &str, args: &[&str]| {
        let done = std::process::Command::new(program)
            .args(args)
            .arg(&mounted)
            .status()
            .unwrap();
        assert!(done.success(), "{program}");
    };
    mount("mount", &["-t", "tmpfs", "-o", "uid=12345,mode=0751", "none"]);
    for name in ["plain/file", "mounted/file"] {
        std::fs::write(data.join(name), "").unwrap();
        std::os::unix::fs::chown(data.join(name), Some(12_345), Some(12_345)).unwrap();
    }
    app.write("pysecure.toml", manifest("two", "one"));
    let up = app.run(&["up", "-d"]);
    let owner = |name: &str| {
        let found = std::fs::symlink_metadata(data.join(name)).unwrap();
        (found.uid(), found.mode() & 0o7777)
    };
    let seen = (owner("mounted/file").0, owner("mounted"), owner("plain/file").0);
    app.run(&["down"]);
    mount("umount", &["-l"]);
    up.ok();
    assert_eq!((seen.0, seen.1), (12_345, (12_345, 0o751)));
    assert_ne!(seen.2, 12_345, "the control: what is of the resource has a new owner");
}

#[test]
fn the_keepers_ids_are_no_services() {
    for mode in BOTH {
        let service = |name: &str| format!("[services.{name}]\ncommand = [\"sleep\", \"infinity\"]\n");
        let app = App::new(mode, &("[app]\nname = \"keeps\"\n".to_owned() + &service("first")));
        app.ok(&["up", "-d"]);
        // One that comes later, when the keeper has ids already.
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write("pysecure.toml", manifest + &service("second"));
        app.ok(&["up", "-d"]);
        let ledger = std::fs::read(app.state().join("apps/keeps/ledger.json")).unwrap();
        let ledger: serde_json::Value = serde_json::from_slice(&ledger).unwrap();
        let all: Vec<&serde_json::Value> = ledger["services"].as_object().unwrap().values().collect();
        assert_eq!(all.len(), 2);
        for key in ["uid", "gid"] {
            assert!(ledger["keeper"][key].as_u64().unwrap() > 0);
            assert!(all.iter().all(|ids| ids[key] != ledger["keeper"][key]), "{ledger}");
        }
    }
}
