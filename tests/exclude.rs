//! Folders that all services read: what in them is not for services is said, and can be left out; and what a resource
//! hides of them is said as well.

mod harness;

use harness::{App, BOTH, Container, Mode};

const SHOP: &str = r#"
[app]
name = "NAME"
code = { "/shop" = CODE }
[services.one]
command = ["sh", "-c", "sh /shop/look.sh; exec sleep infinity"]
[services.two]
command = ["sleep", "infinity"]
"#;

const EXCLUDED: &str = r#"{ source = ".", exclude = [".env", "*.db", ".git", "/private", "/gone/later", "key.pem", ".netrc", "!public.db", "state", "pysecure.toml", "bundles"] }"#;

fn app(mode: Mode, name: &str, code: &str) -> App {
    let app = App::new(mode, &SHOP.replace("NAME", name).replace("CODE", code));
    // Prints what it can read of all that there is.
    app.write(
        "look.sh",
        "find /shop -type f -exec grep -ls swordfish {} + 2>/dev/null | sort\necho looked\n",
    );
    for secret in [
        ".env",
        "shop.db",
        "deep/in/.env",
        ".git/config",
        "private/deep/file",
        "sub/other.db",
        "key.pem",
        ".netrc",
    ] {
        app.write(secret, "swordfish\n");
    }
    app.write("app.py", "code, with swordfish\n");
    app.write("public.db", "swordfish for all\n");
    app.write("gone/here", "");
    std::fs::hard_link(app.folder.join("shop.db"), app.folder.join("alias")).unwrap();
    std::os::unix::fs::symlink(".env", app.folder.join("link")).unwrap();
    // So that other users may read all of it, but for the modes.
    app
}

fn seen(app: &App) -> Vec<String> {
    let all = app.sh("two", "sh /shop/look.sh").ok().out;
    all.lines().filter(|l| *l != "looked").map(str::to_owned).collect()
}

#[test]
fn what_is_left_out_is_seen_by_nobody() {
    for mode in BOTH {
        // Without it, services read it all.
        let open = app(mode, "shown", "\".\"");
        let said = open.ok(&["up", "-d"]);
        let all = seen(&open);
        for secret in [
            "/shop/.env",
            "/shop/alias",
            "/shop/private/deep/file",
            "/shop/.git/config",
            "/shop/deep/in/.env",
        ] {
            assert!(all.iter().any(|l| l == secret), "{mode:?}: {secret} is not in {all:?}");
        }
        // And that is said, by `up` as by `check`.
        for said in [said, open.run(&["check"])] {
            assert!(
                said.err.contains("warning: all services can read .env, .git/"),
                "{}",
                said.err
            );
            assert!(
                said.err.contains("and ") && said.err.contains("exclude = ["),
                "{}",
                said.err
            );
            assert!(said.err.contains("pysecure.toml:4:20"), "{}", said.err);
        }

        let app = app(mode, "hidden", EXCLUDED);
        let said = app.ok(&["check"]);
        assert!(!said.err.contains("all services can read"), "{}", said.err);
        app.ok(&["up", "-d"]);
        assert_eq!(
            seen(&app),
            ["/shop/app.py", "/shop/look.sh", "/shop/public.db"],
            "{mode:?}"
        );
        for gone in [
            ".env",
            ".git",
            "private",
            "private/deep",
            "link",
            "alias",
            "shop.db-wal",
            "gone/later",
        ] {
            assert_ne!(
                app.sh("two", &format!("test -e /shop/{gone}")).code,
                0,
                "{mode:?}: {gone}"
            );
        }
        // Made anew, or made later, under a name that is left out.
        std::fs::remove_file(app.folder.join(".env")).unwrap();
        app.write(".env", "swordfish again\n");
        app.write("gone/later", "swordfish\n");
        app.write("shop.db-wal", "swordfish\n");
        // By a pattern, from the next start on; a service that ends by itself is looked at again as well.
        app.write("new.db", "swordfish\n");
        app.ok(&["restart", "two"]);
        assert_eq!(
            seen(&app),
            ["/shop/app.py", "/shop/look.sh", "/shop/public.db"],
            "{mode:?}"
        );
        // What `run` starts sees no more.
        let run = app.ok(&["run", "-T", "one", "--", "sh", "/shop/look.sh"]);
        assert_eq!(
            run.out, "/shop/app.py\n/shop/look.sh\n/shop/public.db\nlooked\n",
            "{mode:?}"
        );
        // Nothing of it is changed on the host.
        assert_eq!(
            std::fs::read_to_string(app.folder.join("private/deep/file")).unwrap(),
            "swordfish\n"
        );
    }
}

#[test]
fn what_is_left_out_is_so_in_bundles_for_other_runtimes() {
    let app = app(Mode::Root, "bundled", &EXCLUDED.replace("\"gone\"", "\"x\""));
    let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    let once = manifest.replace("; exec sleep infinity", "");
    app.write("pysecure.toml", once);
    // An overlay's layers may not lie in one another.
    let inside = app.run(&["spec", "-o", "bundles"]);
    assert!(
        inside.code == 1 && inside.err.contains("name a folder outside"),
        "{inside:?}"
    );
    let folder = tempfile::tempdir().unwrap();
    app.ok(&["spec", "-o", folder.path().to_str().unwrap()]);
    let bundle = folder.path().join("one");
    for program in ["crun", "runc"] {
        let ended = Container::run(program, &bundle).ended();
        assert_eq!(
            ended.out, "/shop/app.py\n/shop/look.sh\n/shop/public.db\nlooked\n",
            "{program}: {}",
            ended.err
        );
    }
}

#[test]
fn a_resource_lies_in_what_is_left_out() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "inside"
code = { "/shop" = { source = "./shop", exclude = ["/data"] } }
[resources]
kept = { path = "/shop/data/kept/", owner = "rw" }
db = { path = "/shop/data/db/shop.db", owner = "rw" }
[services.one]
command = ["sleep", "infinity"]
owner_resources = ["kept", "db"]
[services.two]
command = ["sleep", "infinity"]
"#,
        );
        app.write("shop/data/old", "swordfish\n");
        app.write("shop/data/kept/old", "swordfish\n");
        app.write("shop/data/db/shop.db", "swordfish\n");
        app.write("shop/app.py", "code\n");
        let said = app.ok(&["check"]);
        assert!(!said.err.contains("begins empty"), "{}", said.err);
        app.ok(&["up", "-d"]);
        app.sh(
            "one",
            "echo mine > /shop/data/kept/new; echo mine > /shop/data/db/shop.db; cat /shop/app.py",
        )
        .ok();
        for service in ["one", "two"] {
            let all = app.sh(service, "grep -r swordfish /shop; ls /shop/data").out;
            assert!(
                !all.contains("swordfish") && !all.contains("old"),
                "{mode:?} {service}: {all}"
            );
        }
        assert_ne!(app.sh("two", "cat /shop/data/kept/new").code, 0);
    }
}

#[test]
fn what_cannot_be_left_out_is_refused() {
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("shop/a", "");
        app.write("file", "");
        let code = |code: &str| {
            let manifest = format!(
                "[app]\nname = \"refused\"\ncode = {{ \"/shop\" = {code} }}\n[services.one]\ncommand = \"true\"\n"
            );
            app.write("pysecure.toml", manifest);
            app.run(&["check"])
        };
        for (exclude, says) in [
            (
                "{ source = \"./shop\", exclude = [\"../x\"] }",
                "is no path below the folder",
            ),
            ("{ source = \"./shop\", exclude = [\"\"] }", "names nothing"),
            ("{ source = \"./shop\", exclude = [\"a[\"] }", "cannot be read"),
            ("{ source = \"./file\", exclude = [\"a\"] }", "its source is a file"),
        ] {
            let ended = code(exclude);
            assert!(
                ended.code == 2 && ended.err.contains(says),
                "{mode:?} {exclude}: {ended:?}"
            );
        }
        let resource = "[app]\nname = \"refused\"\n[resources]\nshop = { path = \"/shop\", source = \"./shop\", owner = \"r\", exclude = [\"a\"] }\n\
                        [services.one]\ncommand = \"true\"\nowner_resources = [\"shop\"]\n";
        app.write("pysecure.toml", resource);
        let ended = app.run(&["check"]);
        // Without root there are no idmapped mounts, so it is but read-only.
        match mode {
            Mode::Root => assert!(
                ended.code == 2 && ended.err.contains("all who see it may only read"),
                "{ended:?}"
            ),
            Mode::Rootless => assert_eq!(ended.code, 0, "{ended:?}"),
        }
        app.write("pysecure.toml", resource.replace(", source = \"./shop\"", ""));
        let ended = app.run(&["check"]);
        assert!(
            ended.code == 2 && ended.err.contains("has no source to leave anything out of"),
            "{ended:?}"
        );
    }
}

#[test]
fn a_resource_in_the_place_of_files_says_so_and_can_begin_with_them() {
    for mode in BOTH {
        let manifest = |media: &str, notes: &str| {
            format!(
                "[app]\nname = \"media\"\ncode = {{ \"/zoobar\" = \"./zoobar\" }}\n[resources]\n\
                 media = {{ path = \"/zoobar/media\", owner = \"r\", bundle = \"r\"{media} }}\n\
                 notes = {{ path = \"/zoobar/db/notes.txt\", owner = \"rw\"{notes} }}\n\
                 [services.one]\ncommand = \"sleep infinity\"\nowner_resources = [\"media\", \"notes\"]\n"
            )
        };
        let app = App::new(mode, &manifest("", ""));
        app.write("zoobar/media/logo.png", "logo\n");
        app.write("zoobar/db/notes.txt", "first\n");
        let said = app.ok(&["check"]);
        for part in [
            "warning: `media` begins empty, and hides ./zoobar/media, which `code:/zoobar` brings",
            "pysecure.toml:5:1",
            "write `source = \"./zoobar/media\"` to have these files",
            "warning: `notes` begins empty, and hides ./zoobar/db/notes.txt",
            "write `initial = \"./zoobar/db/notes.txt\"` to begin with a copy of it",
            "exclude = [\"/media\"]",
        ] {
            assert!(said.err.contains(part), "{mode:?}: no {part:?} in {}", said.err);
        }
        app.write(
            "pysecure.toml",
            manifest(", source = \"./zoobar/media\"", ", initial = \"./zoobar/db/notes.txt\""),
        );
        let said = app.ok(&["check"]);
        assert!(!said.err.contains("begins empty"), "{}", said.err);
        app.ok(&["up", "-d"]);
        let read = app
            .sh(
                "one",
                "cat /zoobar/media/logo.png /zoobar/db/notes.txt; echo more >> /zoobar/db/notes.txt",
            )
            .ok();
        assert_eq!(read.out, "logo\nfirst\n", "{mode:?}");
        // It is a copy, made once.
        app.ok(&["down"]);
        app.write("zoobar/db/notes.txt", "other\n");
        app.ok(&["up", "-d"]);
        assert_eq!(
            app.sh("one", "cat /zoobar/db/notes.txt").ok().out,
            "first\nmore\n",
            "{mode:?}"
        );
        assert_eq!(
            std::fs::read_to_string(app.folder.join("zoobar/db/notes.txt")).unwrap(),
            "other\n"
        );
    }
}

#[test]
fn what_is_left_out_may_lie_however_deep() {
    for mode in BOTH {
        let manifest = "[app]\nname = \"excludedeep\"\ncode = { \"/app\" = { source = \"./src\", exclude = [\"*.secret\"] } }\n\
                        [services.web]\ncommand = [\"sleep\", \"1000\"]\n";
        let app = App::new(mode, manifest);
        let deepest = format!("src{}", "/d".repeat(300));
        app.write(&format!("{deepest}/open"), "seen");
        app.write(&format!("{deepest}/a.secret"), "hidden");
        let listing = format!("ls /app{}", "/d".repeat(300));
        let seen = app.run(&["run", "-T", "web", "--", "sh", "-c", &listing]);
        assert_eq!(seen.ok().out, "open\n", "{mode:?}");
    }
}
