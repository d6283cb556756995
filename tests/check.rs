//! `check` against `up`: what the one says ok to, the other starts, and what the other refuses, the one has said.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

#[track_caller]
fn says(ended: &Ended, code: i32, parts: &[&str]) {
    assert_eq!(ended.code, code, "{ended:?}");
    for part in parts {
        assert!(
            ended.err.contains(part) || ended.out.contains(part),
            "no {part:?} in:\n{}\n{}",
            ended.out,
            ended.err
        );
    }
}

/// A service with this body, and these keys of [app] before it.
fn manifest(name: &str, app: &str, service: &str) -> String {
    format!("[app]\nname = \"{name}\"\n{app}\n[services.one]\n{service}\n")
}

const CODE: &str = "code = { \"/code\" = \"./code\" }";

#[test]
fn a_semicolon_in_a_path_cuts_no_message() {
    let app = App::new(
        Mode::Root,
        "[app]\nname = \"semicolon\"\n[resources]\ndata = { path = \"/data\", source = \"./a; b\", owner = \"rw\" }\n\
         [services.one]\ncommand = \"true\"\nowner_resources = [\"data\"]\n",
    );
    app.write("a; b/file", "");
    let folder = app.folder.join("a; b");
    std::os::unix::fs::chown(&folder, Some(0), Some(0)).unwrap();
    let found = app.run(&["check", "--json"]);
    let all: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    let error = all
        .as_array()
        .unwrap()
        .iter()
        .find(|d| d["severity"] == "error")
        .unwrap();
    let says = format!(
        "resource `data`: {} is root's, and so would be all that services write there, for every other program of this host",
        folder.display()
    );
    assert_eq!(error["message"], says);
    let help = error["help"].as_str().unwrap();
    assert!(help.starts_with("give it to another user"), "{help}");
}

#[test]
fn programs_scripts_and_directories_are_looked_for_as_the_service_will_see_them() {
    for mode in BOTH {
        let app = App::new(mode, "");
        app.write("code/plain.txt", "no program\n");
        app.write("code/sub/run.sh", "#!/bin/sh\nexit 0\n");
        app.write("code/broken", "#!/no/such/interpreter\n");
        app.write("code/nothing", "echo no first line\n");
        for program in ["sub/run.sh", "broken", "nothing"] {
            let path = app.folder.join("code").join(program);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        // On the host it leads to a program, in the service's root to nothing: /home is empty there.
        app.write("private/tool", "#!/bin/sh\n");
        symlink(app.folder.join("private/tool"), app.folder.join("code/out")).unwrap();
        symlink("sub/run.sh", app.folder.join("code/link")).unwrap();
        symlink("/usr/bin/env", app.folder.join("code/absolute")).unwrap();
        for (service, parts) in [
            (
                "command = \"/no/such/program\"",
                [
                    "error: `one`: the program /no/such/program does not exist",
                    "pysecure.toml:5:11",
                ],
            ),
            (
                "command = \"no-such-program\"",
                ["error: `one`: no program is called no-such-program", "PATH"],
            ),
            (
                "command = \"/code/plain.txt\"",
                [
                    "error: `one`: the program /code/plain.txt is not executable",
                    "chmod a+x",
                ],
            ),
            (
                "command = \"/code/sub\"",
                [
                    "error: `one`: /code/sub is no program but a directory",
                    "name a program",
                ],
            ),
            (
                "command = \"/code/broken\"",
                ["runs with /no/such/interpreter, which does not exist", "install it"],
            ),
            (
                "command = \"/code/nothing\"",
                ["neither a program for this machine nor a script", "#!/bin/sh"],
            ),
            (
                "command = \"/code/out\"",
                ["/code/out is a link that leads to /", "correct the link"],
            ),
            (
                "command = \"./sub/gone.sh\"\ndirectory = \"/code\"",
                ["the program ./sub/gone.sh does not exist", "5:11"],
            ),
            (
                "command = \"true\"\ndirectory = \"/no/such\"",
                ["the directory /no/such does not exist", "6:13"],
            ),
            (
                "command = \"true\"\ndirectory = \"/code/plain.txt\"",
                ["/code/plain.txt is no directory", "6:13"],
            ),
            (
                "command = \"true\"\nenvironment = { PATH = \"/code\" }",
                ["no program is called true", "(/code)"],
            ),
        ] {
            app.write("pysecure.toml", manifest("foreseen", CODE, service));
            let checked = app.run(&["check"]);
            says(&checked, 2, &parts);
            assert!(!checked.out.contains("ok"), "{checked:?}");
            says(&app.run(&["up", "--dry-run"]), 2, &parts);
            // And it is so.
            let up = app.run(&["up", "-d"]);
            assert_ne!(up.code, 0, "{mode:?} {service}: up started what check refused");
            app.run(&["down", "--purge"]);
        }
        // What its program finds missing only when it runs is a warning.
        for (service, part) in [
            (
                "command = [\"python3\", \"auth.py\"]\ndirectory = \"/code\"",
                "the script /code/auth.py does not exist",
            ),
            (
                "command = \"sleep infinity\"\nhealth = { command = [\"/no/probe\"] }",
                "the program /no/probe does not exist",
            ),
        ] {
            app.write("pysecure.toml", manifest("foreseen", CODE, service));
            says(&app.run(&["check"]), 0, &["warning: `one`", part]);
        }
        // What is there is found: through links, by PATH, relative to the directory; and what may come is not missed.
        for service in [
            "command = \"./link\"\ndirectory = \"/code\"",
            "command = \"/code/absolute true\"",
            "command = [\"sh\", \"sub/run.sh\"]\ndirectory = \"/code/\"",
            "command = \"run.sh\"\nenvironment = { PATH = \"/nowhere:/code/sub\" }",
            "command = [\"sh\", \"-c\", \"exit 0\", \"missing.sh\"]\ndirectory = \"/\"",
        ] {
            app.write("pysecure.toml", manifest("foreseen", CODE, service));
            let checked = app.run(&["check"]);
            says(&checked, 0, &[": ok"]);
            assert!(!checked.err.contains("warning"), "{mode:?} {service}: {checked:?}");
            says(&app.run(&["run", "-T", "one"]), 0, &[]);
        }
        let kept = "owner_resources = [\"bin\"]\ncommand = \"/data/bin/made-later\"\n[resources]\nbin = { path = \"/data/bin\", owner = \"rwx\" }";
        app.write("pysecure.toml", manifest("foreseen", "", kept));
        let checked = app.run(&["check"]);
        says(&checked, 0, &[": ok"]);
        assert!(!checked.err.contains("does not exist"), "{checked:?}");
    }
}

/// Files in `code`, and what is said of each: by `check`, and by the start that fails.
fn unrunnable(app: &App, folder: &Path) -> Vec<(&'static str, [String; 2])> {
    let elsewhere = folder.join("bin/python3.99");
    std::fs::create_dir_all(folder.join("bin")).unwrap();
    std::fs::copy("/bin/true", &elsewhere).unwrap();
    let program = |name: &str, content: &[u8]| {
        let path = app.write(&format!("code/{name}"), content);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    for folder in ["venv", "uv"] {
        program(&format!("{folder}/bin/gunicorn"), b"#!/nowhere/venv/bin/python\n");
    }
    symlink("/usr/bin/python3", app.folder.join("code/venv/bin/python")).unwrap();
    symlink(&elsewhere, app.folder.join("code/uv/bin/python")).unwrap();
    symlink("python", app.folder.join("code/uv/bin/python3")).unwrap();
    program("windows", b"#!/bin/sh\r\necho\r\n");
    program("bom", b"\xef\xbb\xbf#!/bin/sh\n");
    program("late", b"\n#!/bin/sh\n");
    program("relative", b"#!python3\n");
    program("empty", b"");
    let mut musl = std::fs::read("/bin/true").unwrap();
    let (theirs, ours) = (b"/lib64/ld-linux-x86-64.so.2", b"/lib/ld-musl-x86_64.so.1\0\0\0");
    let at = musl.windows(theirs.len()).position(|w| w == theirs).unwrap();
    musl[at..at + ours.len()].copy_from_slice(ours);
    program("musl", &musl);
    let granted = format!("code = {{ \"{0}\" = \"{0}\" }}", folder.display());
    let elsewhere = elsewhere.display().to_string();
    [
        (
            "/code/venv/bin/gunicorn",
            ["runs with /nowhere/venv/bin/python", "`/code/venv/bin/python -m gunicorn`"],
        ),
        (
            "/code/uv/bin/gunicorn",
            ["/code/uv/bin/python is a link that leads to", &granted],
        ),
        ("/code/uv/bin/python", [&elsewhere, "recipe has `requirements`"]),
        (
            "/code/uv/bin/python3",
            ["reached by the link /code/uv/bin/python", &granted],
        ),
        ("/code/windows", ["CR LF", "sed -i 's/\\r$//'"]),
        ("/code/bom", ["a byte order mark", "sed -i"]),
        ("/code/late", ["does not stand at its very beginning", "remove what"]),
        (
            "/code/relative",
            ["runs with python3, which does not exist", "#!/usr/bin/env python3"],
        ),
        ("/code/empty", ["it is empty", "write it"]),
        (
            "/code/musl",
            ["is loaded by /lib/ld-musl-x86_64.so.1, which does not", "built for musl"],
        ),
        (
            "cd /code && python3 x.py",
            [
                "`cd` is a word of the shell",
                "`directory = \"/code\"`, and `command` without it; or `command = [\"sh\", \"-c\", \"cd /code && python3 x.py\"]`",
            ],
        ),
        (
            "PORT=80 python3 x.py",
            ["`PORT=80` is a variable", "environment = { PORT = \"80\" }"],
        ),
    ]
    .map(|(command, parts)| (command, parts.map(str::to_owned)))
    .into()
}

#[test]
fn what_lacks_of_a_program_that_is_there_is_said_with_what_works() {
    for mode in BOTH {
        let app = App::new(mode, "");
        let host = harness::folder_of_the_host();
        std::fs::set_permissions(host.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let granted = host.path().join("uv/cpython-3.99");
        for (command, parts) in unrunnable(&app, &granted) {
            let service = format!("command = \"{command}\"");
            app.write("pysecure.toml", manifest("lacking", CODE, &service));
            let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
            says(&app.run(&["check"]), 2, &parts);
            let run = app.run(&["run", "-T", "one"]);
            says(&run, run.code, &parts);
            assert!(matches!(run.code, 126 | 127), "{mode:?} {command}: {run:?}");
        }
        // And what is told works.
        let code = format!(
            "code = {{ \"/code\" = \"./code\", \"{0}\" = \"{0}\" }}",
            granted.display()
        );
        for command in ["/code/venv/bin/python -m this", "/code/uv/bin/python -m gunicorn"] {
            let service = format!("command = \"{command}\"");
            app.write("pysecure.toml", manifest("lacking", &code, &service));
            says(&app.run(&["check"]), 0, &[": ok"]);
            says(&app.run(&["run", "-T", "one"]), 0, &[]);
        }
        app.write(
            "pysecure.toml",
            manifest("lacking", CODE, "command = \"sleep infinity\""),
        );
        app.ok(&["up", "-d"]);
        let of = |command: &[&str]| app.run(&[&["exec", "-T", "one"], command].concat());
        says(&of(&["/code/windows"]), 127, &["CR LF"]);
        says(&of(&["cd", "/code"]), 127, &["`cd` is a word of the shell"]);
        says(&of(&["/code/uv/bin/gunicorn"]), 127, &["is a link that leads to"]);
        app.ok(&["down"]);
        app.write(
            "pysecure.toml",
            manifest("lacking", CODE, "command = \"/code/windows\""),
        );
        says(
            &app.run(&["up", "-d"]),
            1,
            &["service `one`: run /code/windows", "CR LF"],
        );
        // What only the program that is started would find is a warning.
        let long = "#!/bin/sh\n'''exec' \"/nowhere/bin/python\" \"$0\" \"$@\"\n' '''\n";
        for (name, content, part) in [
            ("env", "#!/usr/bin/env no-such-python\n", "no program is called that"),
            ("env-windows", "#!/usr/bin/env python3\r\n", "CR LF"),
            ("long", long, "runs with /nowhere/bin/python"),
        ] {
            let path = app.write(&format!("code/{name}"), content);
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            app.write(
                "pysecure.toml",
                manifest("lacking", CODE, &format!("command = \"/code/{name}\"")),
            );
            says(&app.run(&["check"]), 0, &["warning: `one`", part]);
        }
    }
}

#[test]
fn a_check_changes_nothing() {
    for mode in BOTH {
        let app = App::new(mode, &manifest("untouched", CODE, "command = \"true\""));
        app.write("code/x", "");
        app.ok(&["check"]);
        app.ok(&["up", "--dry-run"]);
        assert!(!app.state().exists(), "{mode:?}");
    }
}

#[test]
fn places_that_a_root_does_not_have_are_refused() {
    for mode in BOTH {
        for path in ["/bin/tool/", "/lib/app/", "/sbin/x.db"] {
            let resource = format!(
                "owner_resources = [\"it\"]\ncommand = \"true\"\n[resources]\nit = {{ path = \"{path}\", owner = \"rw\" }}"
            );
            let app = App::new(mode, &manifest("linked", "", &resource));
            for command in [["check", "--"], ["up", "-d"]] {
                let ended = app.run(&command[..if command[1] == "--" { 1 } else { 2 }]);
                says(
                    &ended,
                    2,
                    &[
                        "which is a link to usr/",
                        "choose another, such as /srv/",
                        "pysecure.toml:8:1",
                    ],
                );
            }
        }
    }
}

#[test]
fn addresses_that_this_host_does_not_have_are_refused() {
    for mode in BOTH {
        let app = App::new(
            mode,
            &manifest(
                "elsewhere",
                "",
                "command = \"true\"\npublish = [\"203.0.113.7:8080:80\"]",
            ),
        );
        says(
            &app.run(&["check"]),
            2,
            &["EADDRNOTAVAIL", "203.0.113.7:8080", "pysecure.toml:4:"],
        );
        says(&app.run(&["up", "-d"]), 1, &["EADDRNOTAVAIL"]);
    }
    let low = manifest("low", "", "command = \"true\"\npublish = [\"127.0.0.1:81:80\"]");
    let app = App::new(Mode::Rootless, &low);
    says(
        &app.run(&["check"]),
        2,
        &["EACCES: ports below 1024", "choose a higher one"],
    );
    says(&app.run(&["up", "-d"]), 1, &["EACCES"]);
}

/// `step`: the service is in each of so many bundles.
fn bundles(count: usize, step: usize) -> String {
    let mut text = String::from(
        "[app]\nname = \"groups\"\n[services.one]\ncommand = [\"sh\", \"-c\", \"id -G | wc -w\"]\nbundles = [",
    );
    for n in (0..count).step_by(step) {
        text += &format!("\"b{n:03}\", ");
    }
    text += "]\n";
    for n in 0..count {
        text += &format!("[bundles.b{n:03}]\n");
    }
    text
}

#[test]
fn neighbouring_ids_are_one_range_of_a_map() {
    for mode in BOTH {
        let app = App::new(mode, &bundles(600, 1));
        app.ok(&["check"]);
        assert_eq!(app.ok(&["run", "-T", "one"]).out.trim(), "601", "{mode:?}");
        // And where they are no neighbours, it is known before.
        let app = App::new(mode, &bundles(700, 2));
        for command in [&["check"][..], &["run", "-T", "one"]] {
            let code = if command[0] == "check" { 2 } else { 1 };
            says(&app.run(command), code, &["`one` is in 350 bundles", "merge bundles"]);
        }
    }
}

#[test]
fn an_external_service_s_ids_must_exist() {
    let app = |mode| {
        let external = "external_uid = 100000\nexternal_gid = 100000";
        let body = "command = \"true\"\nbundle = \"it\"\n[bundles.it]\nresources = [\"x\"]\nused_by_external = true\n\
                    [resources]\nx = { path = \"/data/x/\", bundle = \"r\" }";
        App::new(mode, &manifest("beyond", external, body))
    };
    // Nothing in the way of the host's root.
    app(Mode::Root).ok(&["check"]);
    let user = app(Mode::Rootless);
    for command in [&["check"][..], &["up", "-d"]] {
        says(
            &user.run(command),
            2,
            &["external_gid 100000-100000", "up to 65536", "pysecure.toml:4:"],
        );
    }
}

#[test]
fn the_external_service_s_former_name_is_told_by_the_new_one() {
    let body = "command = \"true\"\ncallers = { dynamic = \"*\" }\n[assert]\nnever = [\"egress from dynamic\"]";
    let app = App::new(Mode::Root, &manifest("former", "", body));
    let told = "there is no service `dynamic`: this is called `external` now: write that";
    let checked = app.run(&["check"]);
    says(&checked, 2, &[told]);
    assert_eq!(checked.err.matches(told).count(), 2, "{}", checked.err);
}

#[test]
fn a_source_that_cannot_be_shown_under_other_ids_is_known() {
    // sysfs has no idmapped mounts, on any kernel so far.
    let body = "command = \"true\"\nowner_resources = [\"sys\"]\n[resources.sys]\npath = \"/data/sys\"\nsource = \"/sys/class\"\nowner = \"r\"";
    let app = App::new(Mode::Root, &manifest("noidmap", "", body));
    let remedy = "write chown = true";
    says(
        &app.run(&["check"]),
        2,
        &[
            "the file system of /sys/class cannot show files under other ids (EINVAL",
            remedy,
            "pysecure.toml:9:10",
        ],
    );
    says(&app.run(&["up", "-d"]), 1, &["EINVAL", remedy]);
}
