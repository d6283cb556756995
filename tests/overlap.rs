//! Rights hold over what lies on disk, whatever names it has: each way to one file by two of them, refused or hidden,
//! beside a control in which a service does open it when only the outer name is declared; and manifests made at random,
//! in which every service opens all that it can reach.

mod harness;

use harness::{App, BOTH, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a service must not read.
const SECRET: &str = "the secret";

/// Mounts of this test's, gone with it.
#[derive(Default)]
struct Mounted(Vec<PathBuf>);

impl Mounted {
    fn mount(&mut self, args: &[&str], at: &Path) {
        let done = Command::new("mount").args(args).arg(at).status().unwrap();
        assert!(done.success(), "mount {args:?} {}", at.display());
        self.0.push(at.to_owned());
    }

    fn bind(&mut self, from: &Path, at: &Path) {
        std::fs::create_dir_all(at).unwrap();
        self.mount(&["--bind", from.to_str().unwrap()], at);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for at in self.0.iter().rev() {
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

/// `a` may see `sec`, `b` may not. Lines with `# inner` are what is left out for the control.
fn manifest(name: &str, lines: &str, owned: &str) -> String {
    format!(
        "[app]\nname = \"{name}\"\n{lines}\n[services.a]\ncommand = \"sleep infinity\"\nowner_resources = [{owned}] # inner\n\
         [services.b]\ncommand = \"sleep infinity\"\n"
    )
}

struct Case {
    name: &'static str,
    lines: &'static str,
    owned: &'static str,
    /// Where `b` finds the secret if nothing forbids it.
    at: &'static str,
    /// What the error says, beside the names of both.
    says: &'static str,
    /// What the path to a failed assertion says of the outer one.
    shown_by: Option<&'static str>,
    set_out: fn(&App, &mut Mounted),
}

fn nothing(_: &App, _: &mut Mounted) {}

const CASES: [Case; 11] = [
    Case {
        name: "code-source",
        lines: r#"code = { "/app" = "./app" }
[resources]
sec = { path = "/data/sec", source = "./app/data", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/app/data/s.txt",
        says: "`b` may not read or execute `sec`, but may through `code:/app`, at /app/data",
        shown_by: Some("`code:/app` shows at"),
        set_out: nothing,
    },
    Case {
        name: "code-equal",
        lines: r#"code = { "/app" = "./app/data" }
[resources]
sec = { path = "/data/sec", source = "./app/data", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/app/s.txt",
        says: "make them one resource",
        shown_by: Some("`code:/app` shows at"),
        set_out: nothing,
    },
    Case {
        name: "one-source",
        lines: r#"[resources]
pub = { path = "/data/pub", source = "./app/data", global = "r" }
sec = { path = "/data/sec", source = "./app/data", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/data/pub/s.txt",
        says: "`b` may not read `sec`, but may through `pub`",
        shown_by: Some("`pub` shows at /data/pub what is `sec` on disk"),
        set_out: nothing,
    },
    Case {
        name: "nested",
        lines: r#"[resources]
pub = { path = "/data/pub", source = "./app", global = "r" }
sec = { path = "/data/sec", source = "./app/data/s.txt", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/data/pub/data/s.txt",
        says: "at /data/pub/data/s.txt",
        shown_by: Some("`pub` shows at /data/pub/data/s.txt what is `sec` on disk"),
        set_out: nothing,
    },
    Case {
        name: "mounted-in-code",
        lines: r#"code = { "/app" = "./other" }
[resources]
sec = { path = "/data/sec", source = "./app", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/app/below/s.txt",
        says: "at /app/below, where it is mounted too",
        shown_by: Some("`code:/app` shows at"),
        set_out: |app, mounted| mounted.bind(&app.folder.join("app/data"), &app.folder.join("other/below")),
    },
    Case {
        name: "two-mounts",
        lines: r#"code = { "/app" = "./app" }
[resources]
sec = { path = "/data/sec", source = "./alias/data", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/app/data/s.txt",
        says: "at /app/data: it is the same on disk",
        shown_by: Some("`code:/app` shows at"),
        set_out: |app, mounted| mounted.bind(&app.folder.join("app"), &app.folder.join("alias")),
    },
    Case {
        name: "overlay",
        lines: r#"code = { "/app" = "./other" }
[resources]
sec = { path = "/data/sec", source = "./app/data", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/app/s.txt",
        says: "it is the same on disk",
        shown_by: Some("`code:/app` shows at"),
        set_out: |app, mounted| {
            let layer = |name: &str| app.folder.join(name).display().to_string();
            let layers = format!("lowerdir={}:{}", layer("app/data"), layer("elsewhere"));
            mounted.mount(&["-t", "overlay", "-o", &layers, "overlay"], &app.folder.join("other"));
        },
    },
    Case {
        name: "hard-link",
        lines: r#"code = { "/app" = "./other" }
[resources]
sec = { path = "/data/sec", source = "./app/data", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/app/deep/er/copy",
        says: "other/deep/er/copy is one of its files",
        shown_by: Some("`code:/app` has a hard link to a file of `sec`"),
        set_out: |app, _| {
            app.write("other/deep/er/x", "");
            std::fs::hard_link(app.folder.join("app/data/s.txt"), app.folder.join("other/deep/er/copy")).unwrap();
        },
    },
    Case {
        name: "hard-linked-file",
        lines: r#"[resources]
pub = { path = "/data/pub.txt", source = "./other/copy", global = "r" }
sec = { path = "/data/sec.txt", source = "./app/data/s.txt", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/data/pub.txt",
        says: "other/copy is one of its files",
        shown_by: Some("`pub` has a hard link to a file of `sec`"),
        set_out: |app, _| std::fs::hard_link(app.folder.join("app/data/s.txt"), app.folder.join("other/copy")).unwrap(),
    },
    Case {
        name: "around",
        lines: r#"code = { "/app" = "./app" }
[resources]
sec = { path = "/app/data", owner = "rw" } # inner
pub = { path = "/app/data/pub", owner = "rw", global = "r" } # inner"#,
        owned: "\"sec\", \"pub\"",
        at: "/app/data/s.txt",
        says: "`b` may see `pub`, but not `sec`, which it lies in",
        shown_by: None,
        set_out: nothing,
    },
    Case {
        name: "rootfs",
        lines: r#"[resources]
sec = { path = "/data/sec", source = "/usr/share/pysecure-test-overlap", owner = "r" } # inner"#,
        owned: "\"sec\"",
        at: "/usr/share/pysecure-test-overlap/s.txt",
        says: "but may through jail \"host\"",
        shown_by: Some("jail \"host\" shows at"),
        set_out: nothing,
    },
];

/// The tree of most cases, as the mode's user's.
fn tree(app: &App) {
    app.write("app/data/s.txt", SECRET);
    app.write("app/main.py", "print()");
    app.write("other/main.py", "print()");
    app.write("elsewhere/x", "");
}

/// What is wrong with an app's manifest in itself.
fn errors_by_name(app: &App) -> Vec<String> {
    use pysecure::manifest::{Severity, Source, parse};
    let source = Source::read(app.folder.join("pysecure.toml")).unwrap();
    let (manifest, mut found) = parse(&source);
    let base = pysecure::model::source::Base::open(&app.folder).unwrap();
    found.extend(pysecure::model::build(&manifest, &base).1);
    let errors = found.into_iter().filter(|d| d.severity == Severity::Error);
    errors.map(|d| d.message).collect()
}

fn read(app: &App, service: &str, path: &str) -> harness::Ended {
    app.run(&["run", "-T", service, "--", "cat", path])
}

#[test]
fn one_file_by_two_names_is_refused_at_both_lines() {
    let usr = Path::new("/usr/share/pysecure-test-overlap");
    std::fs::create_dir_all(usr).unwrap();
    std::fs::write(usr.join("s.txt"), SECRET).unwrap();
    for mode in BOTH {
        for case in &CASES {
            let name = format!("overlap-{}", case.name);
            let all = manifest(&name, case.lines, case.owned);
            let outer: Vec<&str> = all.lines().filter(|l| !l.contains("# inner")).collect();
            let app = App::new(mode, &outer.join("\n"));
            let mut mounted = Mounted::default();
            tree(&app);
            (case.set_out)(&app, &mut mounted);
            // The control: nothing but the manifest's word keeps `b` from it.
            assert_eq!(read(&app, "b", case.at).ok().out, SECRET, "{mode:?} {}", case.name);
            // Names alone would let the assertion pass; what lies on disk does not.
            let all = format!("{all}[assert]\nnever = [\"read sec except a\"]\n");
            app.write("pysecure.toml", &all);
            assert_eq!(errors_by_name(&app), [""; 0], "{mode:?} {}", case.name);
            for command in [
                &["check"][..],
                &["access"],
                &["up", "-d"],
                &["run", "-T", "b", "--", "cat", case.at],
            ] {
                let ended = app.run(command);
                assert_eq!(ended.code, 2, "{mode:?} {} {command:?}: {ended:?}", case.name);
                assert!(!ended.out.contains(SECRET), "{ended:?}");
                assert!(ended.err.contains(case.says), "{mode:?} {}: {}", case.name, ended.err);
                assert!(ended.err.contains("sec ="), "not at its line: {}", ended.err);
                let fails = ended.err.split("assertion fails: `b` may read `sec`").nth(1);
                match (case.shown_by, fails) {
                    // What stands in its place is none of its files.
                    (None, None) => {}
                    (Some(shown_by), Some(path)) => {
                        assert!(path.contains(shown_by), "{mode:?} {}: {path}", case.name);
                        assert!(path.contains("`sec` is the same on disk"), "{}: {path}", case.name);
                    }
                    (wanted, _) => panic!("{mode:?} {}: {wanted:?}: {}", case.name, ended.err),
                }
            }
            drop(app);
        }
    }
    std::fs::remove_dir_all(usr).unwrap();
}

#[test]
fn what_lies_where_it_is_mounted_is_hidden_from_others() {
    for mode in BOTH {
        let with = |line: &str| {
            manifest(
                "overlap-hidden",
                &format!("code = {{ \"/app\" = \"./app\" }}\n[resources]\n{line}"),
                "\"sec\"",
            )
        };
        for (line, here) in [
            // A part of the code that is its owner's alone.
            (
                "sec = { path = \"/app/data\", source = \"./app/data\", owner = \"r\" }",
                SECRET,
            ),
            // One that PySecure keeps, where the code holds an older one of its name; journals are as good as the file.
            ("sec = { path = \"/app/data/s.txt\", owner = \"rw\" }", ""),
            ("sec = { path = \"/app/data\", owner = \"rw\" }", ""),
        ] {
            let outer = "[app]\nname = \"overlap-hidden\"\ncode = { \"/app\" = \"./app\" }\n[services.b]\ncommand = \"sleep infinity\"\n";
            let app = App::new(mode, outer);
            tree(&app);
            app.write("app/data/s.txt-wal", SECRET);
            assert_eq!(read(&app, "b", "/app/data/s.txt-wal").ok().out, SECRET);
            app.write("pysecure.toml", with(line));
            app.ok(&["check"]);
            app.ok(&["up", "-d"]);
            let look = "cat /app/data/s.txt /app/data/s.txt-wal; cat /app/main.py; ls /app";
            let seen = app.sh("b", look);
            assert!(!seen.out.contains(SECRET), "{mode:?} {line}: {seen:?}");
            assert!(seen.out.contains("print()"), "{mode:?} {line}: {seen:?}");
            let own = app
                .sh(
                    "a",
                    "test ! -e /app/data/s.txt || cat /app/data/s.txt; cat /app/main.py",
                )
                .ok();
            assert_eq!(own.out, format!("{here}print()"), "{mode:?} {line}");
            // By name, so it holds for what is put in its place.
            std::fs::rename(app.folder.join("app/data"), app.folder.join("gone")).unwrap();
            app.write("app/data/s.txt", SECRET);
            app.write("app/data/s.txt-wal", SECRET);
            let seen = app.sh("b", look);
            assert!(!seen.out.contains(SECRET), "{mode:?} {line}: {seen:?}");
            app.ok(&["restart", "b"]);
            let seen = app.sh("b", look);
            assert!(!seen.out.contains(SECRET), "{mode:?} {line}: {seen:?}");
        }
    }
}

#[test]
fn what_came_since_is_hidden_at_the_next_start() {
    for mode in BOTH {
        let text = manifest(
            "overlap-later",
            "code = { \"/app\" = \"./app\" }\n[resources]\nsec = { path = \"/app/data/\", owner = \"rw\" }\n\
             own = { path = \"/own\", source = \"./own\", owner = \"r\" }",
            "\"sec\", \"own\"",
        );
        let app = App::new(mode, &text);
        app.write("app/main.py", "print()");
        app.write("own/s.txt", SECRET);
        app.ok(&["up", "-d"]);
        // Something of the resource's name comes into the code.
        app.write("app/data/s.txt", SECRET);
        app.ok(&["restart", "b"]);
        assert!(!app.sh("b", "cat /app/data/s.txt").out.contains(SECRET), "{mode:?}");
        // A source is mounted in the code. A supervisor of an ordinary user may have mounts of its own, in which that
        // is not seen.
        let mut mounted = Mounted::default();
        mounted.bind(&app.folder.join("own"), &app.folder.join("app/mnt"));
        let again = app.run(&["restart", "b"]);
        let seen = app.sh("b", "cat /app/mnt/s.txt");
        assert!(!seen.out.contains(SECRET), "{mode:?}: {again:?} {seen:?}");
        drop(mounted);
        app.ok(&["restart", "b"]);
        // A source becomes a link.
        std::fs::rename(app.folder.join("own"), app.folder.join("moved")).unwrap();
        symlink("/etc", app.folder.join("own")).unwrap();
        let linked = app.run(&["restart", "a"]);
        assert_ne!(linked.code, 0, "{mode:?}: {linked:?}");
        let checked = app.run(&["check"]);
        assert_eq!(checked.code, 2, "{mode:?}: {checked:?}");
    }
}

#[test]
fn a_mount_that_came_since_keeps_a_service_from_starting() {
    let text = manifest(
        "overlap-mount",
        "code = { \"/app\" = \"./app\" }\n[resources]\nsec = { path = \"/data/sec\", source = \"./own\", owner = \"r\" }",
        "\"sec\"",
    );
    let app = App::new(Mode::Root, &text);
    app.write("app/main.py", "print()");
    app.write("own/s.txt", SECRET);
    app.ok(&["up", "-d"]);
    let mut mounted = Mounted::default();
    mounted.bind(&app.folder.join("own"), &app.folder.join("app/mnt"));
    let again = app.run(&["restart", "b"]);
    assert_ne!(again.code, 0, "{again:?}");
    assert!(again.err.contains("at /app/mnt, where it is mounted too"), "{again:?}");
    drop(mounted);
    app.ok(&["start", "b"]);
    app.wait_for_state("b", "running");
}

#[test]
fn links_lead_where_the_service_may_go() {
    for mode in BOTH {
        let text = manifest(
            "overlap-links",
            "code = { \"/app\" = \"./app\" }\n[resources]\nsec = { path = \"/data/sec\", source = \"./own\", owner = \"r\" }",
            "\"sec\"",
        );
        let app = App::new(mode, &text);
        app.write("app/main.py", "print()");
        let there = app.write("own/s.txt", SECRET);
        symlink("../own", app.folder.join("app/beside")).unwrap();
        symlink(&there, app.folder.join("app/host")).unwrap();
        symlink("/data/sec/s.txt", app.folder.join("app/inside")).unwrap();
        // The control: on the host each of the first two leads there.
        assert_eq!(
            std::fs::read_to_string(app.folder.join("app/beside/s.txt")).unwrap(),
            SECRET
        );
        app.ok(&["check"]);
        for path in ["/app/beside/s.txt", "/app/host", "/app/inside"] {
            let seen = read(&app, "b", path);
            assert_ne!(seen.code, 0, "{mode:?} {path}: {seen:?}");
        }
        assert_eq!(read(&app, "a", "/app/inside").ok().out, SECRET);
        assert_ne!(read(&app, "a", "/app/host").code, 0);
    }
}

/// Nothing of what the state directory's folders hold is among the paths that were seen; the folders themselves may be.
#[track_caller]
fn hides_state(app: &App, seen: &str) {
    let names = std::fs::read_dir(app.state()).unwrap();
    let names: Vec<String> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().any(|name| name == "apps"), "{names:?}");
    let mode = std::fs::metadata(app.state()).unwrap().permissions().mode();
    for name in names {
        let shows = seen.contains(&format!("/state/{name}/"));
        assert!(!shows, "{:?} {mode:o}: {name}: {seen}", app.mode);
    }
}

#[test]
fn pysecures_own_data_and_rules_are_nobodys() {
    for mode in BOTH {
        let text = manifest(
            "overlap-own",
            "code = { \"/app\" = \".\" }\n[resources]\nsec = { path = \"/data/sec/\", owner = \"rw\" }",
            "\"sec\"",
        );
        let app = App::new(mode, &text);
        tree(&app);
        // The state directory lies beside the manifest.
        app.ok(&["run", "-T", "a", "--", "sh", "-c", "echo x >/data/sec/x"]);
        assert!(app.state().join("apps/overlap-own/ledger.json").exists());
        for mode_of_it in [0o700, 0o755] {
            std::fs::set_permissions(app.state(), std::fs::Permissions::from_mode(mode_of_it)).unwrap();
            let seen = app.run(&["run", "-T", "b", "--", "find", "/app"]).out;
            assert!(seen.contains("/app/pysecure.toml\n"), "{mode:?}: {seen}");
            hides_state(&app, &seen);
        }
        for (line, says) in [
            (
                "own = { path = \"/own\", source = \"./state/apps\", global = \"r\" }",
                "PySecure's own data",
            ),
            (
                "own = { path = \"/own\", source = \"./state\", owner = \"rw\" }",
                "PySecure's own data",
            ),
            (
                "own = { path = \"/own\", source = \".\", owner = \"rw\" }",
                "may write the manifest",
            ),
            (
                "own = { path = \"/own\", source = \"./pysecure.toml\", owner = \"rw\" }",
                "may write the manifest",
            ),
            (
                "own = { path = \"/own\", source = \"./other\", owner = \"rw\" }",
                "may write the setup script",
            ),
            (
                "own = { path = \"/own\", source = \"./jails/x.toml\", owner = \"rw\" }",
                "may write the jail recipes",
            ),
        ] {
            app.write("jails/x.toml", "");
            let owned = if line.contains("owner") { "\"own\"" } else { "" };
            app.write(
                "pysecure.toml",
                manifest(
                    "overlap-own",
                    &format!("setup = \"other/main.py\"\n[resources]\n{line}"),
                    owned,
                ),
            );
            let refused = app.run(&["check"]);
            assert_eq!(refused.code, 2, "{mode:?} {line}: {refused:?}");
            assert!(refused.err.contains(says), "{mode:?} {line}: {}", refused.err);
        }
    }
}

/// Its own files are shown to a service under its own id, and so would be what lies behind folders that are closed to others.
#[test]
fn pysecures_own_data_is_not_its_owners_who_owns_what_it_lies_in() {
    for mode in BOTH {
        let lines = "[resources]\nall = { path = \"/data/all\", source = \".\", owner = \"r\" }\n\
                     sec = { path = \"/data/sec/\", owner = \"rw\" }";
        let app = App::new(mode, &manifest("overlap-owner", lines, "\"all\", \"sec\""));
        let write = "echo x >/data/sec/x";
        app.ok(&["run", "-T", "a", "--", "sh", "-c", write]);
        for mode_of_it in [0o700, 0o755] {
            std::fs::set_permissions(app.state(), std::fs::Permissions::from_mode(mode_of_it)).unwrap();
            let seen = app.run(&["run", "-T", "a", "--", "find", "/data/all"]).out;
            assert!(seen.contains("/data/all/pysecure.toml\n"), "{mode:?}: {seen}");
            hides_state(&app, &seen);
        }
    }
}

/// Adopted means given to another owner with all that lies in it: ledgers and every app's data would be the service's.
#[test]
fn pysecures_own_data_is_adopted_by_nobody() {
    for mode in BOTH {
        let adopting = |source: &str| {
            let lines = format!(
                "[resources]\nall = {{ path = \"/data/all\", source = \"{source}\", chown = true, owner = \"r\" }}"
            );
            manifest("overlap-adopt", &lines, "\"all\"")
        };
        let app = App::new(mode, &adopting("./beside"));
        app.write("beside/x", "x");
        app.write("around/x", "x");
        app.ok(&["run", "-T", "a", "--", "cat", "/data/all/x"]);
        let owner = || std::os::unix::fs::MetadataExt::uid(&app.state().join("apps").metadata().unwrap());
        let before = owner();
        for source in [".", app.folder.to_str().unwrap()] {
            app.write("pysecure.toml", adopting(source));
            for command in [&["check"][..], &["up", "-d"], &["run", "-T", "a", "--", "true"]] {
                let refused = app.run(command);
                assert_ne!(refused.code, 0, "{mode:?} {source} {command:?}");
                assert!(
                    refused.err.contains("with PySecure's own data in it"),
                    "{mode:?}: {refused:?}"
                );
            }
        }
        assert_eq!(owner(), before, "{mode:?}");
        app.write("pysecure.toml", adopting("./around"));
        app.ok(&["check"]);
    }
}

/// Root alone shows a writable source as a service's own, over which no layer can be laid.
#[test]
fn what_is_older_than_a_resource_is_moved_out_of_a_writable_source() {
    let text = manifest(
        "overlap-older",
        "[resources]\npub = { path = \"/app\", source = \"./app\", owner = \"rw\", global = \"r\" }\n\
         sec = { path = \"/app/data\", owner = \"rw\" } # inner",
        "\"pub\", \"sec\"",
    );
    let app = App::new(Mode::Root, &text.replace(", \"sec\"", "").replace("sec =", "# sec ="));
    tree(&app);
    let (uid, gid) = harness::user();
    for path in ["app", "app/data", "app/data/s.txt", "app/main.py"] {
        std::os::unix::fs::chown(app.folder.join(path), Some(uid), Some(gid)).unwrap();
    }
    assert_eq!(read(&app, "b", "/app/data/s.txt").ok().out, SECRET);
    app.write("pysecure.toml", text);
    let refused = app.run(&["check"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused
            .err
            .contains("`b` may not see `sec`, but sees what `pub` holds in its place"),
        "{}",
        refused.err
    );
    std::fs::remove_file(app.folder.join("app/data/s.txt")).unwrap();
    app.ok(&["check"]);
    app.ok(&["run", "-T", "a", "--", "sh", "-c", "echo x >/app/data/x"]);
    assert_ne!(read(&app, "b", "/app/data/x").code, 0);
}

/// What hides something must not open the folder that it lies in.
#[test]
fn a_closed_folder_stays_closed() {
    for mode in BOTH {
        let text = manifest(
            "overlap-closed",
            "code = { \"/app\" = \"./app\" }\n[resources]\nsec = { path = \"/app/private/data\", owner = \"rw\" }",
            "\"sec\"",
        );
        let app = App::new(mode, &text);
        tree(&app);
        app.write("app/private/data/s.txt", SECRET);
        app.write("app/private/other", SECRET);
        let look = "cat /app/private/other /app/private/data/s.txt; ls /app/private";
        let private = app.folder.join("app/private");
        for (mode_of_it, open) in [(0o755, true), (0o700, false)] {
            std::fs::set_permissions(&private, std::fs::Permissions::from_mode(mode_of_it)).unwrap();
            let seen = app.run(&["run", "-T", "b", "--", "sh", "-c", look]);
            assert_eq!(
                seen.out,
                if open {
                    format!("{SECRET}other\n")
                } else {
                    String::new()
                },
                "{mode:?}: {seen:?}"
            );
        }
    }
}

#[test]
fn a_hard_link_to_what_pysecure_keeps_is_found() {
    for mode in BOTH {
        let text = manifest(
            "overlap-kept",
            "code = { \"/app\" = \"./other\" }\n[resources]\nsec = { path = \"/data/sec/\", owner = \"rw\" }",
            "\"sec\"",
        );
        let app = App::new(mode, &text);
        tree(&app);
        let write = format!("umask 0; printf '{SECRET}' >/data/sec/s.txt; chmod 644 /data/sec/s.txt");
        app.ok(&["run", "-T", "a", "--", "sh", "-c", &write]);
        let kept = app.state().join("apps/overlap-kept/resources/sec/s.txt");
        std::fs::hard_link(kept, app.folder.join("other/copy")).unwrap();
        // An ordinary user may not look at what a service keeps before it is one of its namespaces.
        let refused = app.run(&["run", "-T", "b", "--", "cat", "/app/copy"]);
        assert_eq!(refused.code, 2, "{mode:?}: {refused:?}");
        assert!(refused.err.contains("is one of its files"), "{mode:?}: {}", refused.err);
    }
}

/// As the mode's user, without newuidmap: all services have one id, and nothing but mounts between them.
fn with_one_id(app: &App, args: &[&str]) -> harness::Ended {
    let mut all = vec!["PATH=/nonexistent", harness::binary().to_str().unwrap()];
    all.extend(args);
    harness::Ended::from(app.shell_free("/usr/bin/env", &all).output().unwrap())
}

#[test]
fn with_one_id_mounts_hide_what_modes_would_not() {
    let text = manifest(
        "overlap-one-id",
        "code = { \"/app\" = \".\" }\n[resources]\nsec = { path = \"/data/sec/\", owner = \"rw\" }\n\
         part = { path = \"/app/app/data\", source = \"./app/data\", owner = \"r\" }",
        "\"sec\", \"part\"",
    );
    let app = App::new(Mode::Rootless, &text);
    tree(&app);
    let write = format!("printf '{SECRET}' >/data/sec/s.txt");
    with_one_id(&app, &["run", "-T", "a", "--", "/bin/sh", "-c", &write]).ok();
    // The control: its user, who is all services, reads it.
    let kept = "state/apps/overlap-one-id/resources/sec/s.txt";
    let there = harness::Ended::from(app.shell_free("cat", &[kept]).output().unwrap());
    assert_eq!(there.ok().out, SECRET);
    for path in [format!("/app/{kept}"), "/app/app/data/s.txt".to_owned()] {
        let seen = with_one_id(&app, &["run", "-T", "b", "--", "/bin/cat", &path]);
        assert!(seen.code != 0 && !seen.out.contains(SECRET), "{path}: {seen:?}");
    }
    let own = with_one_id(
        &app,
        &[
            "run",
            "-T",
            "a",
            "--",
            "/bin/cat",
            "/data/sec/s.txt",
            "/app/app/data/s.txt",
        ],
    );
    assert_eq!(own.ok().out, format!("{SECRET}{SECRET}"));
}

#[test]
fn where_the_inner_one_grants_as_much_nothing_is_wrong() {
    for mode in BOTH {
        let text = "[app]\nname = \"overlap-wider\"\ncode = { \"/app\" = \"./app\" }\n[resources]\n\
            one = { path = \"/one\", source = \"./other\", global = \"r\" }\n\
            two = { path = \"/two\", source = \"./other\", global = \"r\" }\n\
            tools = { path = \"/tools\", source = \"./app/data\", global = \"rx\" }\n\
            [services.b]\ncommand = \"sleep infinity\"\n[assert]\nnever = [\"write tools\"]\n";
        let app = App::new(mode, text);
        tree(&app);
        app.ok(&["check"]);
        assert_eq!(read(&app, "b", "/tools/s.txt").ok().out, SECRET);
        assert_eq!(read(&app, "b", "/two/main.py").ok().out, "print()");
    }
}

/// Rows of kind `part`: service, right, object, by, and the path at which it is seen.
fn parts(app: &App) -> Vec<[String; 5]> {
    let rows = app.access();
    let rows = rows.iter().filter(|row| row["kind"] == "part");
    let of = |row: &serde_json::Value| {
        ["service", "permissions", "object", "by", "path"].map(|key| row[key].as_str().unwrap().to_owned())
    };
    rows.map(of).collect()
}

/// Who reads a file, and by which names: those too that give nobody a right which he would not have without them.
#[test]
fn access_shows_all_names_of_what_lies_in_two_resources() {
    for mode in BOTH {
        let text = "[app]\nname = \"overlap-names\"\n[resources]\n\
            one = { path = \"/one\", source = \"./other\", global = \"r\" }\n\
            two = { path = \"/two\", source = \"./app\", global = \"r\" }\n\
            inner = { path = \"/inner\", source = \"./app/data\", global = \"r\" }\n\
            [services.b]\ncommand = \"sleep infinity\"\n";
        let app = App::new(mode, text);
        tree(&app);
        let row = |object: &str, by: &str, path: &str| ["b", "r", object, by, path].map(str::to_owned);
        let by_source = row("inner", "two", "/two/data");
        assert_eq!(parts(&app), std::slice::from_ref(&by_source), "{mode:?}");
        // Two files of `inner` get a name in `one`.
        app.write("app/data/second", SECRET);
        for (file, name) in [("s.txt", "copy"), ("second", "more")] {
            std::fs::hard_link(
                app.folder.join("app/data").join(file),
                app.folder.join("other").join(name),
            )
            .unwrap();
        }
        let rows = app.access();
        let links: Vec<_> = rows.iter().filter(|row| row["link"].is_string()).collect();
        let said: BTreeSet<(String, String)> = links
            .iter()
            .map(|row| {
                (
                    row["object"].as_str().unwrap().to_owned(),
                    row["by"].as_str().unwrap().to_owned(),
                )
            })
            .collect();
        let both = [("inner", "one"), ("one", "inner")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(said, both.into(), "{mode:?}: {links:?}");
        for row in links {
            // One stands for both.
            assert_eq!(row["more"], 1, "{mode:?}: {row}");
            let seen = read(&app, "b", row["path"].as_str().unwrap()).ok().out;
            assert_eq!(
                seen,
                std::fs::read_to_string(row["link"].as_str().unwrap()).unwrap(),
                "{row}"
            );
            let because = row["because"].as_array().unwrap();
            assert!(
                because
                    .iter()
                    .any(|line| line["says"].as_str().unwrap().contains("has a hard link to a file of")),
                "{because:?}"
            );
        }
        let table = app.ok(&["access"]).out;
        assert!(
            table.contains("file of inner") && table.contains("`one`, hard link"),
            "{table}"
        );
        assert!(table.contains(" and 1 more"), "{table}");
        // What is left out of a resource is no name of it.
        app.write(
            "pysecure.toml",
            text.replace("./other\"", "./other\", exclude = [\"copy\", \"more\"]"),
        );
        let left: Vec<_> = parts(&app).into_iter().filter(|row| row[2] == "inner").collect();
        assert_eq!(left, [by_source], "{mode:?}");
    }
}

/// A resource that lies in another by its `source` alone: a rule about the outer one is about it, too.
#[test]
fn an_assertion_is_about_parts_that_have_another_name() {
    for mode in BOTH {
        let with = |path: &str, rules: &str| {
            manifest(
                "overlap-part",
                &format!(
                    "[resources]\nwhole = {{ path = \"/whole\", source = \"./app\", owner = \"r\" }}\n\
                     part = {{ path = \"{path}\", source = \"./app/data\", owner = \"r\", global = \"r\" }}"
                ),
                "\"whole\", \"part\"",
            ) + &format!("[assert]\n{rules}\n")
        };
        let never = "never = [\"read whole except a\", \"write whole\"]";
        let app = App::new(mode, &with("/elsewhere", "never = []"));
        tree(&app);
        // The control: `b` reads one of its files.
        assert_eq!(read(&app, "b", "/elsewhere/s.txt").ok().out, SECRET, "{mode:?}");
        let rows = app.access();
        let parts: Vec<_> = rows
            .iter()
            .filter(|r| r["kind"] == "part" && r["service"] == "b")
            .collect();
        let [part] = parts[..] else {
            panic!("{mode:?}: {rows:?}")
        };
        assert_eq!(
            (
                &part["service"],
                &part["object"],
                &part["by"],
                &part["path"],
                &part["permissions"]
            ),
            (
                &"b".into(),
                &"whole".into(),
                &"part".into(),
                &"/whole/data".into(),
                &"r".into()
            )
        );
        assert!(app.ok(&["access"]).out.contains("part of whole"));
        app.write("pysecure.toml", with("/elsewhere", never));
        assert_eq!(errors_by_name(&app), [""; 0]);
        for command in [&["check"][..], &["up", "-d"], &["access"]] {
            let refused = app.run(command);
            assert_eq!(refused.code, 2, "{mode:?} {command:?}: {refused:?}");
            for says in [
                "assertion fails: `b` may read `whole`",
                "`part` grants every service r",
                "`whole` shows at /whole/data what is `part` on disk",
                "`part` is the same on disk",
            ] {
                assert!(refused.err.contains(says), "{mode:?}: {says}: {}", refused.err);
            }
            assert!(!refused.err.contains("may write"), "{}", refused.err);
        }
        // No promise is kept by a part, nor broken by one.
        app.write("pysecure.toml", with("/elsewhere", "always = [\"read whole by b\"]"));
        assert!(app.run(&["check"]).err.contains("`b` may not read `whole`"));
        // At its place in the outer one it is a resource of its own, as its path shows.
        app.write("pysecure.toml", with("/whole/data", never));
        app.ok(&["check"]);
        assert_eq!(read(&app, "b", "/whole/data/s.txt").ok().out, SECRET, "{mode:?}");
    }
}

#[test]
fn the_external_service_has_what_modes_on_the_host_give_it() {
    let text = manifest(
        "overlap-external",
        "external_uid = 33\nexternal_gid = 33\n[resources]\nsec = { path = \"/data/sec\", source = \"./own\", owner = \"r\" }",
        "\"sec\"",
    );
    let app = App::new(Mode::Root, &text);
    let there = app.write("own/s.txt", SECRET);
    let opens = || {
        let args = ["--reuid", "33", "--regid", "33", "--clear-groups", "cat"];
        Command::new("setpriv")
            .args(args)
            .arg(&there)
            .output()
            .unwrap()
            .status
            .success()
    };
    assert!(opens());
    let refused = app.run(&["check"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("lets it read"), "{}", refused.err);
    std::fs::set_permissions(app.folder.join("own"), std::fs::Permissions::from_mode(0o700)).unwrap();
    assert!(!opens());
    app.ok(&["check"]);
}

/// Numbers that look drawn, the same for the same seed (xorshift64*).
struct Draw(u64);

impl Draw {
    fn below(&mut self, count: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % count
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    fn of<T: Copy>(&mut self, these: &[T]) -> T {
        these[self.below(these.len())]
    }
}

const SERVICES: [&str; 3] = ["s0", "s1", "s2"];
const FOLDERS: [&str; 7] = ["a", "a/x", "a/x/m", "a/y", "b", "b/x", "c"];

/// All that a service can reach: `r PATH TOKEN` for what it can read, `w PATH TOKEN` for what it can write too.
const PROBE: &str = r#"
find -L /v /c -type f 2>/dev/null | while read -r path; do
  token=$(cat "$path" 2>/dev/null) || token=
  [ -n "$token" ] && echo "r $path $token"
  (: >>"$path") 2>/dev/null && echo "w $path $token"
done
for path in "$@"; do
  if [ -d "$path" ]; then ls "$path" >/dev/null 2>&1 && echo "list $path $(ls -A "$path" | tr '\n' /)"
  elif cat "$path" >/dev/null 2>&1; then if [ -s "$path" ]; then echo "list $path content"; else echo "list $path "; fi; fi
done
exit 0
"#;

struct Drawn {
    text: String,
    /// Name, path, source.
    resources: Vec<(String, String, Option<String>)>,
}

fn draw(draw: &mut Draw, mode: Mode, sources: &[String]) -> Drawn {
    let mut resources = Vec::new();
    let mut text = String::from("[app]\nname = \"overlap-random\"\n");
    // What others lie in is a folder.
    let source = |draw: &mut Draw, folder: bool| loop {
        let of = &sources[draw.below(sources.len())];
        if !folder || !of.ends_with("/f") {
            return of.clone();
        }
    };
    if !draw.one_in(4) {
        let of = source(draw, true);
        text += &format!("code = {{ \"/c\" = \"./t/{of}\" }}\n");
        resources.push(("code:/c".to_owned(), "/c".to_owned(), Some(of)));
    }
    text += "[resources]\n";
    let mut paths = vec!["/v/p", "/v/p/q", "/v/q", "/c/x", "/c/y", "/c/x/m", "/v/f"];
    let mut owners = vec![Vec::new(); SERVICES.len()];
    let mut bundled = Vec::new();
    // Most draws are of rights that often agree, or next to nothing would be accepted.
    let alike = draw.one_in(3);
    for number in 0..1 + draw.below(4) {
        let (name, path) = (format!("r{number}"), paths.remove(draw.below(paths.len())));
        let rights: &[&str] = match mode {
            _ if alike => &["r", "rx"],
            Mode::Root => &["", "r", "rx", "rw"],
            Mode::Rootless => &["", "r", "rx"],
        };
        let [owner, bundle, global] = [(); 3].map(|()| draw.of(rights));
        let global = if draw.one_in(2) { "" } else { global };
        let of = (!draw.one_in(4)).then(|| source(draw, matches!(path, "/v/p" | "/c/x")));
        let place = match &of {
            Some(of) => format!("source = \"./t/{of}\""),
            None => "kind = \"directory\"".to_owned(),
        };
        text += &format!(
            "{name} = {{ path = \"{path}\", {place}, owner = \"{owner}\", bundle = \"{bundle}\", global = \"{global}\" }}\n"
        );
        let kept = draw.below(SERVICES.len() + 1);
        if let Some(owner) = owners.get_mut(kept) {
            owner.push(name.clone());
        }
        if draw.one_in(2) {
            bundled.push(name.clone());
        }
        resources.push((name, path.to_owned(), of));
    }
    text += &format!("[bundles.b]\nresources = {bundled:?}\n");
    for (service, owned) in SERVICES.iter().zip(&owners) {
        text += &format!("[services.{service}]\ncommand = \"true\"\nowner_resources = {owned:?}\n");
        if draw.one_in(2) {
            text += "bundle = \"b\"\n";
        }
    }
    Drawn { text, resources }
}

/// The tree, with links and mounts at random. What can be named as a source.
fn grow(draw: &mut Draw, app: &App, mounted: &mut Mounted) -> Vec<String> {
    let top = app.folder.join("t");
    let mut sources: Vec<String> = FOLDERS.map(str::to_owned).to_vec();
    for folder in FOLDERS {
        app.write(&format!("t/{folder}/f"), folder);
        sources.push(format!("{folder}/f"));
    }
    let at = |draw: &mut Draw| top.join(draw.of(&FOLDERS));
    if draw.one_in(3) {
        std::fs::hard_link(at(draw).join("f"), at(draw).join("h")).unwrap();
    }
    for number in 0..draw.below(3) {
        let to = if draw.one_in(2) {
            at(draw)
        } else {
            PathBuf::from(draw.of(&["..", "x", "/v/p", "/c", "f"]))
        };
        symlink(to, at(draw).join(format!("l{number}"))).unwrap();
    }
    let everything = Command::new("find").arg(&top).output().unwrap().stdout;
    for path in String::from_utf8(everything).unwrap().lines().map(Path::new) {
        let found = path.symlink_metadata().unwrap();
        // Nobody's modes are in the way, so the manifest alone decides. An owner that is not root's.
        let (uid, gid) = harness::user();
        std::os::unix::fs::lchown(path, Some(uid), Some(gid)).unwrap();
        if !found.is_symlink() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
    }
    if draw.one_in(3) {
        let (from, to) = (draw.of(&FOLDERS), draw.of(&FOLDERS));
        mounted.bind(&top.join(from), &top.join(to));
        sources.retain(|s| top.join(s).exists());
    }
    sources
}

/// For each file's content, the sets of resources whose it is: by each of its names, those that hold it most closely.
fn owners(top: &Path, resources: &[(String, String, Option<String>)]) -> BTreeMap<String, BTreeSet<String>> {
    let id = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    let sources: Vec<((u64, u64), &str)> = resources
        .iter()
        .filter_map(|(name, _, source)| Some((id(&top.join(source.as_ref()?))?, name.as_str())))
        .collect();
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Not through links, but into all that is mounted.
    let all = Command::new("find")
        .arg(top)
        .args(["-type", "f"])
        .output()
        .unwrap()
        .stdout;
    for path in String::from_utf8(all).unwrap().lines().map(Path::new) {
        let owners = path
            .ancestors()
            .take_while(|a| a.starts_with(top))
            .find_map(|ancestor| {
                let here = id(ancestor);
                let names: BTreeSet<String> = sources
                    .iter()
                    .filter(|(of, _)| Some(*of) == here)
                    .map(|(_, name)| (*name).to_owned())
                    .collect();
                (!names.is_empty()).then_some(names)
            });
        let token = std::fs::read_to_string(path).unwrap();
        out.entry(token).or_default().extend(owners.into_iter().flatten());
    }
    out
}

/// For each file's content, all resources that it lies in, but for those in which the one whose it is stands at its place.
fn around(top: &Path, resources: &[(String, String, Option<String>)]) -> BTreeMap<String, BTreeSet<String>> {
    let id = |path: &Path| path.metadata().map(|m| (m.dev(), m.ino())).ok();
    let of = |there: &Path| -> Vec<&(String, String, Option<String>)> {
        let here = id(there);
        let is = |r: &&(String, String, Option<String>)| r.2.as_ref().is_some_and(|s| id(&top.join(s)) == here);
        resources.iter().filter(is).collect()
    };
    let mut out: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let all = Command::new("find")
        .arg(top)
        .args(["-type", "f"])
        .output()
        .unwrap()
        .stdout;
    for path in String::from_utf8(all).unwrap().lines().map(Path::new) {
        let way: Vec<&Path> = path.ancestors().take_while(|a| a.starts_with(top)).collect();
        let names = out.entry(std::fs::read_to_string(path).unwrap()).or_default();
        let Some(closest) = way.iter().find(|a| !of(a).is_empty()) else {
            continue;
        };
        for outer in way.iter().filter(|a| closest.starts_with(a) && *a != closest) {
            let inside = closest.strip_prefix(outer).unwrap();
            for (name, target, _) in of(outer) {
                let told_apart =
                    |r: &&(String, String, Option<String>)| Path::new(&r.1) == Path::new(target).join(inside);
                if !of(closest).iter().all(told_apart) {
                    names.insert(name.clone());
                }
            }
        }
    }
    out
}

/// What `access` shows, assertions say: nobody but those may, each of those may, and none of those may not.
fn agrees_with_assertions(
    app: &App,
    run: &dyn Fn(&[&str]) -> harness::Ended,
    drawn: &Drawn,
    may: &BTreeMap<(String, String), String>,
    reaches: &BTreeSet<(String, String, char)>,
    say: &dyn Fn(&str) -> String,
) {
    let verbs = [('r', "read"), ('w', "write"), ('x', "execute")];
    let (mut never, mut always, mut from) = (Vec::new(), Vec::new(), Vec::new());
    for (name, ..) in &drawn.resources {
        for (right, verb) in verbs {
            let who: Vec<&str> = SERVICES
                .into_iter()
                .filter(|s| reaches.contains(&((*s).to_owned(), name.clone(), right)))
                .collect();
            never.push(match who.is_empty() {
                true => format!("{verb} {name}"),
                false => format!("{verb} {name} except {}", who.join(", ")),
            });
            from.extend(who.iter().map(|who| format!("{verb} {name} from {who}")));
            let sure = SERVICES.into_iter().filter(|s| {
                let perms = may.get(&((*s).to_owned(), name.clone()));
                perms.is_some_and(|perms| perms.contains(right))
            });
            always.extend(sure.map(|who| format!("{verb} {name} by {who}")));
        }
    }
    let with = |rules: String| app.write("pysecure.toml", format!("{}[assert]\n{rules}\n", drawn.text));
    with(format!("never = {never:?}\nalways = {always:?}"));
    let holds = run(&["check"]);
    assert_eq!(
        holds.code,
        0,
        "{}",
        say(&format!("{never:?} {always:?}: {}", holds.err))
    );
    with(format!("never = {from:?}"));
    let fails = run(&["check", "--json"]);
    let said: serde_json::Value = serde_json::from_str(&fails.out).unwrap();
    let broken = said.as_array().unwrap().iter();
    // Those that hold by name and not on disk are told only when all others hold.
    let broken = broken
        .filter(|d| d["message"].as_str().unwrap().starts_with("assertion fails"))
        .count();
    let by_name = from
        .iter()
        .filter(|rule| {
            let words: Vec<&str> = rule.split(' ').collect();
            let letter = verbs.iter().find(|(_, verb)| *verb == words[0]).unwrap().0;
            let perms = may.get(&(words[3].to_owned(), words[1].to_owned()));
            perms.is_some_and(|perms| perms.contains(letter))
        })
        .count();
    assert_eq!(
        broken,
        if by_name > 0 { by_name } else { from.len() },
        "{}",
        say(&format!("{from:?}: {}", fails.out))
    );
    app.write("pysecure.toml", &drawn.text);
}

#[test]
fn whatever_is_accepted_is_true_of_real_opens() {
    let seed: u64 = match std::env::var("PYSECURE_OVERLAP_SEED") {
        Ok(text) => text.parse().expect("PYSECURE_OVERLAP_SEED is a number"),
        Err(_) => 20_261_126,
    };
    let cases: usize = std::env::var("PYSECURE_OVERLAP_CASES").map_or(60, |n| n.parse().unwrap());
    let (mut accepted, mut shown, mut opened) = (0, 0, 0);
    for case in 0..cases {
        let mode = if case % 3 == 0 { Mode::Root } else { Mode::Rootless };
        let one_id = case % 3 == 2;
        let mut numbers = Draw(seed.wrapping_add((case as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)) | 1);
        let app = App::new(mode, "");
        let run = |args: &[&str]| if one_id { with_one_id(&app, args) } else { app.run(args) };
        let mut mounted = Mounted::default();
        let sources = grow(&mut numbers, &app, &mut mounted);
        let drawn = draw(&mut numbers, mode, &sources);
        app.write("pysecure.toml", &drawn.text);
        let say = |what: &str| {
            format!(
                "PYSECURE_OVERLAP_SEED={seed}, case {case} ({mode:?}, one id: {one_id}): {what}\n{}",
                drawn.text
            )
        };
        let checked = run(&["check"]);
        if checked.code != 0 {
            assert_eq!(checked.code, 2, "{}", say(&checked.err));
            if std::env::var_os("PYSECURE_OVERLAP_WHY").is_some() {
                let errors = checked.err.lines().filter(|l| l.starts_with("error"));
                eprintln!("{}", errors.collect::<Vec<_>>().join(" | "));
            }
            shown += usize::from(checked.err.contains("but may through"));
            continue;
        }
        accepted += 1;
        let rows: serde_json::Value = serde_json::from_str(&run(&["access", "--json"]).ok().out).unwrap();
        let mut may: BTreeMap<(String, String), String> = BTreeMap::new();
        let mut reaches = BTreeSet::new();
        for row in rows.as_array().unwrap() {
            let text = |key: &str| row[key].as_str().unwrap().to_owned();
            match row["kind"].as_str() {
                Some("resource") => drop(may.insert((text("service"), text("resource")), text("permissions"))),
                Some("part") => {}
                other => panic!("{}", say(&format!("{other:?}"))),
            }
            for right in text("permissions").chars() {
                reaches.insert((text("service"), text("object"), right));
            }
        }
        agrees_with_assertions(&app, &run, &drawn, &may, &reaches, &say);
        let owners = owners(&app.folder.join("t"), &drawn.resources);
        let around = around(&app.folder.join("t"), &drawn.resources);
        for service in SERVICES {
            let may = |resource: &str, right: char| {
                may.get(&(service.to_owned(), resource.to_owned()))
                    .is_some_and(|all| all.contains(right))
            };
            let mut args = vec!["run", "-T", service, "--", "/bin/sh", "-c", PROBE, "sh"];
            args.extend(drawn.resources.iter().map(|r| r.1.as_str()));
            let ran = run(&args);
            assert_eq!(ran.code, 0, "{}", say(&ran.err));
            let mut listed = BTreeMap::new();
            for line in ran.out.lines() {
                let [what, path, token] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else {
                    panic!("{}", say(line))
                };
                if what == "list" {
                    listed.insert(path.to_owned(), token.to_owned());
                    continue;
                }
                opened += 1;
                let right = if what == "r" { 'r' } else { 'w' };
                for resource in &around[token] {
                    assert!(
                        reaches.contains(&(service.to_owned(), resource.clone(), right)),
                        "{}",
                        say(&format!(
                            "{service} opens {path} ({right}), which lies in {resource}, and no row says so"
                        ))
                    );
                }
                for resource in &owners[token] {
                    assert!(
                        may(resource, right),
                        "{}",
                        say(&format!(
                            "{service} opens {path} ({right}), a file of {resource}, to which it has no such right"
                        ))
                    );
                }
            }
            // And what is granted is there, and what is not is no more than a mount point.
            for (name, path, _) in &drawn.resources {
                let seen = listed.get(path).map(String::as_str);
                if may(name, 'r') {
                    assert!(
                        seen.is_some(),
                        "{}",
                        say(&format!("{service} may read {name}, but cannot: {}", ran.err))
                    );
                } else {
                    // The way to what lies in it and is granted.
                    let way = |entry: &str| {
                        drawn
                            .resources
                            .iter()
                            .any(|r| Path::new(&r.1).starts_with(Path::new(path).join(entry)))
                    };
                    let entries = seen.unwrap_or_default().split('/').filter(|e| !e.is_empty());
                    assert!(
                        entries.into_iter().all(way),
                        "{}",
                        say(&format!("{service} lists {path}: {}", ran.out))
                    );
                }
            }
        }
    }
    eprintln!("{cases} cases: {accepted} accepted, {shown} refused for what they show, {opened} opens");
    // Or it would be shown of next to nothing.
    assert!(accepted * 10 > cases, "{accepted} of {cases} accepted");
    assert!(shown * 10 > cases, "{shown} of {cases} refused for what they show");
    assert!(opened > cases, "{opened} opens");
}

#[test]
fn a_layer_is_laid_over_a_source_that_holds_the_apps_own_folder() {
    for mode in BOTH {
        let text = manifest(
            "overlap-layer",
            "code = { \"/app\" = \".\" }\n[resources]\nsec = { path = \"/app/app/data\", owner = \"rw\" }\n\
             new = { path = \"/app/new/place\", owner = \"rw\" }",
            "\"sec\", \"new\"",
        );
        let app = App::new(mode, &text);
        tree(&app);
        app.ok(&[
            "run",
            "-T",
            "a",
            "--",
            "sh",
            "-c",
            "set -e; echo x >/app/app/data/x; echo x >/app/new/place/x; cat /app/new/place/x",
        ]);
        let seen = app
            .ok(&[
                "run",
                "-T",
                "b",
                "--",
                "sh",
                "-c",
                "cat /app/app/main.py; find /app; true",
            ])
            .out;
        assert!(seen.contains("print()"), "{mode:?}: {seen}");
        hides_state(&app, &seen);
        assert!(!seen.contains("s.txt") && !seen.contains("place/x"), "{mode:?}: {seen}");
    }
}
