//! `check` against `up`: what the one says ok to, the other starts, and what the other refuses, the one has said.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use std::os::unix::fs::{PermissionsExt, symlink};

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
                ["the program /code/out does not exist", "grant the path"],
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
fn a_dynamic_service_s_ids_must_exist() {
    let app = |mode| {
        let dynamic = "dynamic_svc_uid = 100000\ndynamic_svc_gid = 100000";
        let body = "command = \"true\"\nbundle = \"it\"\n[bundles.it]\nresources = [\"x\"]\nused_by_dynamic_svc = true\n\
                    [resources]\nx = { path = \"/data/x/\", bundle = \"r\" }";
        App::new(mode, &manifest("beyond", dynamic, body))
    };
    // Nothing in the way of the host's root.
    app(Mode::Root).ok(&["check"]);
    let user = app(Mode::Rootless);
    for command in [&["check"][..], &["up", "-d"]] {
        says(
            &user.run(command),
            2,
            &["dynamic_svc_gid 100000-100000", "up to 65536", "pysecure.toml:4:"],
        );
    }
}

#[test]
fn a_source_that_cannot_be_shown_under_other_ids_is_known() {
    // sysfs has no idmapped mounts, on any kernel so far.
    let body = "command = \"true\"\nowner_resources = [\"sys\"]\n[resources.sys]\npath = \"/data/sys\"\nsource = \"/sys/class\"\nowner = \"r\"";
    let app = App::new(Mode::Root, &manifest("noidmap", "", body));
    let remedy = "write adopt = true";
    says(
        &app.run(&["check"]),
        2,
        &[
            "the file system of /sys/class cannot show files under other ids (EINVAL",
            remedy,
            "pysecure.toml:9:10",
        ],
    );
    says(&app.run(&["up", "-d"]), 125, &["EINVAL", remedy]);
}
