//! Jails: what a recipe comes to, what a service in one sees, and a store that stays whole.

mod harness;

use harness::{App, BOTH, Ended, Mode};
use sha2::Digest;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

fn two(name: &str) -> String {
    format!(
        r#"
[app]
name = "{name}"
[resources]
data = {{ path = "/srv/data", owner = "rw" }}
[services.small]
command = ["sh", "-c", "echo small; exec sleep infinity"]
jail = "minimal"
[services.snake]
command = ["python3", "-c", "import json, sqlite3, ssl, time; open('/srv/data/x', 'w'); print(ssl.OPENSSL_VERSION, flush=True); time.sleep(1e6)"]
owner_resources = ["data"]
jail = "python"
"#
    )
}

/// A manifest that matters little, with recipes of its own.
fn with(mode: Mode, name: &str, recipes: &[(&str, &str)]) -> App {
    let app = App::new(
        mode,
        &format!("[app]\nname = \"{name}\"\n[services.a]\ncommand = \"true\"\n"),
    );
    for (recipe, text) in recipes {
        app.write(&format!("jails/{recipe}.toml"), text);
    }
    app
}

/// A recipe of one path.
fn paths(path: &Path) -> String {
    format!("paths = [\"{}\"]\n", path.display())
}

fn trees(app: &App) -> Vec<PathBuf> {
    let found = std::fs::read_dir(app.state().join("jails/trees")).into_iter().flatten();
    found.map(|e| e.unwrap().path()).collect()
}

fn all_below(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        out.push(path.clone());
        if path.symlink_metadata().unwrap().is_dir() {
            all_below(&path, out);
        }
    }
}

#[test]
fn services_see_their_jail_and_nothing_else_of_the_host() {
    for mode in BOTH {
        let app = App::new(mode, &two("jailed"));
        app.ok(&["up", "-d"]);
        app.wait_for_log("small", "small");
        app.wait_for_log("snake", "OpenSSL");
        assert_eq!(app.sh("small", "ls /usr").ok().out, "bin\n");
        assert_eq!(app.sh("small", "ls /usr/bin/busybox /bin/sh").code, 0);
        for (service, script) in [
            ("small", "ls /usr/lib"),
            ("small", "ls /usr/bin/python3"),
            ("snake", "ls /usr/bin/perl"),
            ("snake", "ls /usr/share/doc"),
            ("snake", "touch /usr/bin/x"),
            ("snake", "touch /etc/x"),
            ("snake", "echo > /usr/bin/busybox"),
        ] {
            assert_ne!(app.sh(service, script).code, 0, "{service}: {script}");
        }
        assert!(app.ok(&["jail", "list"]).out.contains("of jailed"));
        // What an app has is spared; what nobody has goes.
        app.ok(&["jail", "build", "nginx"]);
        assert_eq!(trees(&app).len(), 3);
        app.ok(&["jail", "prune"]);
        assert_eq!(trees(&app).len(), 2);
        assert_eq!(app.sh("snake", "python3 -c 'import decimal'").code, 0);
        app.ok(&["down", "--purge"]);
        app.ok(&["jail", "prune"]);
        assert!(trees(&app).is_empty());
    }
}

#[test]
fn another_runtime_runs_the_same_jail() {
    let null = || std::fs::metadata("/dev/null").map(|m| (m.uid(), m.gid())).unwrap();
    let before = null();
    let app = App::new(
        Mode::Root,
        r#"
[app]
name = "jailcrun"
[services.small]
command = ["sh", "-c", "ls /usr; touch /usr/x || echo held"]
jail = "minimal"
[services.snake]
command = ["python3", "-c", "import ssl, os; print(os.listdir('/usr/lib'), os.path.exists('/usr/bin/perl'))"]
jail = "python"
"#,
    );
    let out = app.folder.join("bundles");
    app.ok(&["spec", "-o", out.to_str().unwrap()]);
    for (service, wanted) in [("small", "bin\nheld"), ("snake", "False")] {
        let id = format!("pysecure-jail-{}-{service}", std::process::id());
        let bundle = out.join(service);
        let mut runtime = harness::runtime("crun", &["run", "-b", bundle.to_str().unwrap(), &id]);
        let ended = Ended::from(runtime.output().unwrap()).ok();
        assert!(ended.out.contains(wanted), "{}\n{}", ended.out, ended.err);
    }
    // Given the host's as its standard streams, the runtime has changed the owner of another.
    let mut runtime = harness::runtime("crun", &["run", "-b", out.join("small").to_str().unwrap()]);
    let all_null = runtime
        .arg(format!("pysecure-jail-{}", std::process::id()))
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    assert!(all_null.status().unwrap().success());
    assert_eq!(null(), before, "the host's /dev/null was given away");
}

#[test]
fn the_same_input_is_the_same_tree_and_costs_nothing_twice() {
    for mode in BOTH {
        let app = with(mode, "jailsame", &[]);
        let first = app.ok(&["jail", "build", "python"]).out;
        let again = app.ok(&["jail", "build", "python"]).out;
        assert!(again.contains("(0 B new)"), "{again}");
        let hash = |line: &str| line.split([' ', ',']).nth(1).unwrap().to_owned();
        assert_eq!(hash(&first), hash(&again));
        // What is in it is written down again, should that be lost.
        let lists = app.state().join("jails/manifests");
        std::fs::remove_dir_all(&lists).unwrap();
        app.ok(&["jail", "build", "python"]);
        assert!(app.ok(&["jail", "list"]).out.contains("no app has it"));
        // From nothing, and by two at once.
        std::fs::remove_dir_all(app.state().join("jails")).unwrap();
        let both: Vec<_> = (0..2)
            .map(|_| {
                let mut command = app.command(&["jail", "build", "python"]);
                command
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        for child in both {
            let ended = Ended::from(child.wait_with_output().unwrap()).ok();
            assert_eq!(hash(&ended.out), hash(&first));
        }
        assert_eq!(trees(&app).len(), 1);
    }
}

#[test]
fn a_build_that_was_killed_is_taken_up_again() {
    let app = with(Mode::Root, "jailkill", &[]);
    let store = app.state().join("jails");
    let count = |folder: &str| std::fs::read_dir(store.join(folder)).map_or(0, Iterator::count);
    let begun = || store.join("tmp").exists();
    let (some, many, listed) = (
        || count("blobs") > 0,
        || count("blobs") > 200,
        || count("manifests") > 0,
    );
    let stages: [&dyn Fn() -> bool; 4] = [&begun, &some, &many, &listed];
    for stage in stages {
        let mut child = app
            .command(&["jail", "build", "python"])
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        harness::wait_until(|| (stage() || child.try_wait().unwrap().is_some()).then_some(()));
        child.kill().unwrap();
        child.wait().unwrap();
        // Whatever has a whole tree's name is whole.
        for tree in trees(&app) {
            let built = app.ok(&["jail", "build", "python"]).out;
            let hash = tree.file_name().unwrap().to_str().unwrap();
            assert!(built.contains(&hash[..12]) && built.contains("(0 B new)"), "{built}");
        }
        app.ok(&["jail", "list"]);
    }
    app.ok(&["jail", "build", "python"]);
    assert_eq!(trees(&app).len(), 1);
    assert!(!app.state().join("jails/tmp").exists());
    let tree = &trees(&app)[0];
    let ended = Ended::from(
        app.shell_free(
            "chroot",
            &[tree.to_str().unwrap(), "/usr/bin/python3", "-c", "import ssl"],
        )
        .output()
        .unwrap(),
    );
    ended.ok();
}

#[test]
fn set_id_bits_and_devices_stay_out() {
    let folder = harness::folder_of_the_host();
    let folder = folder.path();
    let app = with(Mode::Root, "jailsetid", &[("own", &paths(folder))]);
    std::fs::copy("/bin/busybox", folder.join("suid")).unwrap();
    std::fs::set_permissions(folder.join("suid"), std::fs::Permissions::from_mode(0o6755)).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("dangling")).unwrap();
    for kind in ["c 1 3", "p"] {
        let script = format!("mknod {}/{} {kind}", folder.display(), &kind[..1]);
        assert!(
            std::process::Command::new("sh")
                .args(["-c", &script])
                .status()
                .unwrap()
                .success()
        );
    }
    app.ok(&["jail", "build", "own"]);
    let mut found = Vec::new();
    all_below(&trees(&app)[0], &mut found);
    let names: Vec<_> = found.iter().filter_map(|p| p.file_name()?.to_str()).collect();
    assert!(names.contains(&"suid") && names.contains(&"dangling"));
    assert!(!names.contains(&"c") && !names.contains(&"p"));
    for path in found {
        let mode = path.symlink_metadata().unwrap().mode();
        assert!(
            mode & 0o6000 == 0 || mode & 0o170_000 == 0o120_000,
            "{}: {mode:o}",
            path.display()
        );
    }
}

#[test]
fn what_is_wrong_with_a_recipe_is_said_with_its_remedy() {
    let folder = harness::folder_of_the_host();
    let (broken, circle) = (folder.path().join("broken"), folder.path().join("circle"));
    std::fs::write(&broken, b"\x7fELF\x02\x01\x01 and no more").unwrap();
    std::os::unix::fs::symlink(&circle, &circle).unwrap();
    let odd = folder.path().join("odd");
    std::fs::create_dir(&odd).unwrap();
    std::fs::write(odd.join(std::ffi::OsStr::from_bytes(b"not\xff text")), "").unwrap();
    let app = with(
        Mode::Root,
        "jailwrong",
        &[
            ("one", "extends = \"two\"\n"),
            ("two", "extends = \"one\"\npaths = [\"/etc/hosts\"]\n"),
            ("nobinary", "binaries = [\"no-such-program\"]\n"),
            ("nopath", "paths = [\"/no/such/path\"]\n"),
            ("noglob", "globs = [\"/no/such/*\"]\n"),
            ("leaves", "paths = [\"/usr/../../etc/shadow\"]\n"),
            ("mixed", "extends = \"host\"\nbinaries = [\"true\"]\n"),
            ("unknown", "extends = \"nosuch\"\n"),
            ("key", "colour = \"red\"\n"),
            ("former", "depends = true\n"),
            ("reserved", "paths = [\"/tmp/x\"]\n"),
            ("broken", &paths(&broken)),
            ("loop", &paths(&circle)),
            ("odd", &paths(&odd)),
        ],
    );
    app.write("rootfs-templates/python.toml", "extends = \"minimal\"\n");
    for (name, wanted) in [
        ("one", "one → two → one"),
        ("nobinary", "install it"),
        ("nopath", "`optional`"),
        ("noglob", "nothing here matches"),
        ("leaves", "holds `..`"),
        ("reserved", "choose another path"),
        ("mixed", "not both"),
        ("unknown", "there is no such jail"),
        ("key", "unknown field"),
        (
            "former",
            "unknown key `depends`; this is called `with_dependencies` now: write that",
        ),
        // As it was before version 1: nothing is built from another recipe of that name in its place.
        (
            "python",
            "rootfs-templates/python.toml is not read any more; rename the folder `rootfs-templates` to `jails`",
        ),
        ("broken", "broken program"),
        ("loop", "lead in a circle"),
        ("odd", "text is not UTF-8"),
        ("host", "nothing to build"),
    ] {
        let ended = app.run(&["jail", "build", name]);
        assert_eq!(ended.code, 2, "{name}: {}", ended.err);
        assert!(ended.err.contains(wanted), "{name}: {}", ended.err);
    }
    assert!(trees(&app).is_empty());
}

#[test]
fn a_list_of_the_original_is_read_as_it_is() {
    let app = with(Mode::Root, "jaillist", &[]);
    app.write(
        "jail_resources.txt",
        "# programs\n/usr/bin/env\nnginx\n\n/usr/lib/python3*/json\n",
    );
    app.ok(&["jail", "build", "--list", "jail_resources.txt"]);
    let why = app.ok(&["jail", "why", "/usr/lib/x86_64-linux-gnu/libssl.so.3"]).out;
    assert!(why.contains("/usr/sbin/nginx needs it"), "{why}");
    let by_link = app.ok(&["jail", "why", "/lib/x86_64-linux-gnu/libssl.so.3"]).out;
    assert_eq!(by_link, why);
    assert_eq!(app.run(&["jail", "why", "/etc/shadow"]).code, 1);
    assert_eq!(app.run(&["jail", "diff", "minimal", "minimal"]).code, 0);
    let diff = app.run(&["jail", "diff", "minimal", "python"]);
    assert_eq!(diff.code, 1);
    assert!(diff.out.contains("+ /usr/bin/python3\n"));
}

#[test]
fn jails_that_differ_in_a_byte_are_different() {
    let folder = harness::folder_of_the_host();
    let file = folder.path().join("file");
    let app = with(Mode::Root, "jaildiff", &[("own", &paths(&file))]);
    let built = |content: &str| {
        std::fs::write(&file, content).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        std::fs::File::open(&file).unwrap().set_modified(time).unwrap();
        let out = app.ok(&["jail", "build", "own"]).out;
        out.split([' ', ',']).nth(1).unwrap().to_owned()
    };
    let (one, other) = (built("one"), built("two"));
    let changed = format!("~ {}\n", file.display());
    let diff = app.run(&["jail", "diff", &one, &other]);
    assert_eq!((diff.code, &diff.out), (1, &changed), "{}", diff.err);
    // And from what the recipe comes to now.
    assert_eq!(app.run(&["jail", "diff", &one, "own"]).out, changed);
    assert_eq!(app.run(&["jail", "diff", &other, "own"]).code, 0);
}

#[test]
fn a_service_writes_to_its_jail_and_to_nobody_elses() {
    let manifest = |kind: &str| {
        format!(
            r#"
[app]
name = "jailwrite"
[resources]
data = {{ path = "/srv/data", owner = "rw" }}
[services.own]
command = ["sh", "-c", "echo runs; exec sleep infinity"]
jail = "minimal"
writable = {kind}
owner_resources = ["data"]
[services.other]
command = ["sh", "-c", "echo runs; exec sleep infinity"]
jail = "minimal"
"#
        )
    };
    let write = "set -e
        echo new > /usr/bin/new; echo more >> /etc/hosts; mkdir -p /var/lib/a/b; echo kept > /var/lib/a/b/c; mkdir /opt/x
        rm /bin/wc; echo '#!/bin/sh' > /bin/fresh; echo echo ran >> /bin/fresh; chmod +x /bin/fresh; fresh
        mv /usr/bin/busybox /usr/bin/moved; ln -s moved /usr/bin/busybox; echo r > /run/pid
        echo data > /srv/data/file";
    for mode in BOTH {
        let app = App::new(mode, &manifest("true"));
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("own", write).ok().out, "ran\n");
        for script in ["ls /usr/bin/new", "touch /usr/x", "touch /var/lib/x"] {
            assert_ne!(app.sh("other", script).code, 0, "{script}");
        }
        app.sh("other", "ls /usr/bin/busybox && wc -l < /etc/hosts").ok();
        // Nothing of it lies on a disk, and nothing is left of it.
        let mut found = Vec::new();
        all_below(&app.state(), &mut found);
        assert!(!found.iter().any(|p| p.ends_with("usr/bin/new")));
        app.ok(&["restart", "own"]);
        assert_ne!(app.sh("own", "ls /usr/bin/new").code, 0);
        app.sh("own", "ls /bin/wc /usr/bin/busybox && grep data /srv/data/file")
            .ok();
        // From now on it is kept: over a restart, over the app's end, and not over its data's.
        app.write("pysecure.toml", manifest("\"persistent\""));
        let again = app.ok(&["up", "-d"]).out;
        assert!(again.contains("restart  own") && !again.contains("other"), "{again}");
        app.sh("own", write).ok();
        app.ok(&["restart", "own"]);
        app.ok(&["down"]);
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("own", "cat /usr/bin/new /var/lib/a/b/c").ok().out, "new\nkept\n");
        // Another program has no part in what is kept while the service runs: its own writes are gone with it.
        let beside = app.run(&[
            "run",
            "-T",
            "own",
            "--",
            "sh",
            "-c",
            "test ! -e /usr/bin/new && echo other > /usr/bin/new",
        ]);
        assert!(beside.code == 0 && beside.err.contains("is not kept"), "{beside:?}");
        assert_eq!(app.sh("own", "cat /usr/bin/new").ok().out, "new\n");
        assert_ne!(app.sh("own", "ls /bin/wc").code, 0);
        app.ok(&["down", "--purge"]);
        app.ok(&["up", "-d"]);
        assert_ne!(app.sh("own", "ls /usr/bin/new").code, 0);
        app.ok(&["down", "--purge"]);
        app.ok(&["jail", "prune"]);
        for folder in ["private", "trees"] {
            let left = std::fs::read_dir(app.state().join("jails").join(folder))
                .unwrap()
                .count();
            assert_eq!(left, 0, "{folder}");
        }
        // The host's own directories are nobody's to write to.
        app.write("pysecure.toml", manifest("true").replace("\"minimal\"", "\"host\""));
        let refused = app.run(&["check"]);
        assert!(
            refused.code == 2 && refused.err.contains("take `writable` out"),
            "{}",
            refused.err
        );
    }
}

#[test]
fn node_nginx_and_apache_run_in_their_jails() {
    let manifest = r#"
[app]
name = "jailkinds"
code = { "/conf" = "./conf" }
[services.node]
command = ["node", "-e", "console.log('node', require('crypto').createHash('md5').update('x').digest('hex')); setInterval(() => 0, 1e6)"]
jail = "node"
[services.nginx]
command = ["nginx", "-c", "/conf/nginx.conf", "-e", "stderr"]
jail = "nginx"
ready = { http = "http://127.0.0.1:8081/hello.txt" }
[services.apache]
command = ["apache2", "-X", "-f", "/conf/apache.conf"]
jail = "apache"
ready = { http = "http://127.0.0.1:8080/hello.txt" }
"#;
    for mode in BOTH {
        let app = App::new(mode, manifest);
        app.write(
            "conf/apache.conf",
            "ServerName x\nListen 127.0.0.1:8080\nPidFile /tmp/pid\nMutex file:/tmp\nErrorLog /dev/stderr\nDocumentRoot /conf\n\
             Include /etc/apache2/mods-available/mpm_event.load\nInclude /etc/apache2/mods-available/authz_core.load\n",
        );
        app.write("conf/hello.txt", "served\n");
        app.write(
            "conf/nginx.conf",
            "daemon off;\npid /tmp/pid;\nworker_processes 1;\nevents {}\nhttp { access_log off; client_body_temp_path /tmp/b;\n\
             proxy_temp_path /tmp/p; fastcgi_temp_path /tmp/f; uwsgi_temp_path /tmp/u; scgi_temp_path /tmp/s;\n\
             server { listen 127.0.0.1:8081; root /conf; } }\n",
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("node", "node 9dd4e461268c8034f5c8564e155c67a6");
        assert_eq!(
            app.sh("apache", "wget -q -O - http://127.0.0.1:8080/hello.txt")
                .ok()
                .out,
            "served\n"
        );
        assert_eq!(
            app.sh("nginx", "wget -q -O - http://127.0.0.1:8081/hello.txt").ok().out,
            "served\n"
        );
        for service in ["node", "nginx", "apache"] {
            assert_ne!(app.sh(service, "ls /usr/bin/perl").code, 0, "{service}");
        }
    }
}

#[test]
fn packages_and_a_virtual_environment() {
    let manifest = r#"
[app]
name = "jailvenv"
[services.snake]
command = ["greet"]
jail = "mine"
"#;
    for mode in BOTH {
        let app = App::new(mode, manifest);
        app.write(
            "jails/mine.toml",
            "extends = \"python\"\npackages = [\"media-types\"]\nrequirements = \"requirements.txt\"\n",
        );
        app.write("requirements.txt", "./greeter-1.0-py3-none-any.whl\n");
        let make = r#"
import zipfile
with zipfile.ZipFile("greeter-1.0-py3-none-any.whl", "w") as z:
    z.writestr("greeter.py", "import sys\ndef main():\n    print('hello from', sys.prefix, flush=True)\n    import time; time.sleep(1e6)\n")
    d = "greeter-1.0.dist-info/"
    z.writestr(d + "METADATA", "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n")
    z.writestr(d + "WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    z.writestr(d + "entry_points.txt", "[console_scripts]\ngreet = greeter:main\n")
    z.writestr(d + "RECORD", "")
"#;
        Ended::from(app.shell_free("/usr/bin/python3", &["-c", make]).output().unwrap()).ok();
        let before = app.run(&["up", "-d"]);
        assert!(
            before.code == 2 && before.err.contains("pysecure jail build mine"),
            "{}",
            before.err
        );
        app.ok(&["jail", "build", "mine"]);
        app.ok(&["up", "-d"]);
        app.wait_for_log("snake", "hello from /venv");
        app.sh("snake", "ls /etc/mime.types").ok();
        let why = app.ok(&["jail", "why", "/etc/mime.types", "mine"]).out;
        assert!(why.contains("package media-types brings it"), "{why}");
        // What pip has made stays while an app has the jail, and goes with it.
        let made = || std::fs::read_dir(app.state().join("jails/inputs")).map_or(0, Iterator::count);
        app.ok(&["jail", "prune"]);
        assert_eq!(made(), 1);
        app.ok(&["down", "--purge"]);
        app.ok(&["jail", "prune"]);
        assert_eq!(made(), 0);
        app.write("jails/lacks.toml", "packages = [\"no-such-package\"]\n");
        let lacks = app.run(&["jail", "build", "lacks"]);
        assert!(
            lacks.code == 2 && lacks.err.contains("apt-get install no-such-package"),
            "{}",
            lacks.err
        );
    }
}

#[test]
fn a_debian_of_its_own() {
    for mode in BOTH {
        let app = App::new(
            mode,
            "[app]\nname = \"jaildebian\"\n[services.a]\ncommand = [\"sh\", \"-c\", \"cat /etc/debian_version; ls /usr/bin/busybox\"]\njail = \"debian\"\n",
        );
        let before = app.run(&["run", "-T", "a"]);
        assert!(
            before.code == 2 && before.err.contains("jail build debian"),
            "{}",
            before.err
        );
        app.ok(&["jail", "build", "debian"]);
        let ran = app.run(&["run", "-T", "a"]);
        assert!(ran.out.starts_with("12."), "{} {}", ran.out, ran.err);
        assert_ne!(ran.code, 0, "the host's busybox is in it");
    }
}

#[test]
fn a_trace_gives_the_least_recipe() {
    let manifest = |rootfs: &str| {
        format!(
            r#"
[app]
name = "jailtrace"
[resources]
data = {{ path = "/srv/data", owner = "rw" }}
[services.snake]
command = ["python3", "-c", "import json, sqlite3; open('/srv/data/x', 'w').write(json.dumps([1])); print(open('/srv/data/x').read(), 'traced')"]
owner_resources = ["data"]
jail = "{rootfs}"
"#
        )
    };
    for mode in BOTH {
        let app = App::new(mode, &manifest("host"));
        app.write("jails/x", "");
        let traced = app.ok(&["jail", "trace", "-o", "jails/least.toml", "snake"]);
        assert!(traced.err.contains("[1] traced"), "{}", traced.err);
        let recipe = std::fs::read_to_string(app.folder.join("jails/least.toml")).unwrap();
        assert!(
            recipe.contains("json/__init__.py") && !recipe.contains("\"/srv/data"),
            "{recipe}"
        );
        assert!(!recipe.contains("unittest"), "{recipe}");
        app.write("pysecure.toml", manifest("least"));
        let ran = app.ok(&["run", "-T", "snake"]);
        assert_eq!(ran.out, "[1] traced\n");
        // What it did not ask for is not there; and of the larger jail, this is what was never opened.
        let other = app.run(&["run", "-T", "snake", "--", "python3", "-c", "import unittest"]);
        assert_ne!(other.code, 0);
        let never = app.run(&["jail", "diff", "python", "--traced", "snake"]);
        assert_eq!(never.code, 1, "{}", never.err);
        assert!(never.out.contains("/unittest/"), "{}", never.out);
        assert!(
            !never.out.contains("libc.so.6") && !never.out.contains("- /usr/bin/python3"),
            "{}",
            never.out
        );
        // What is named from where a program is, by a link, is there by that link.
        let script = "import os; os.chdir('/usr/share/zoneinfo'); print(len(open('UTC').read()), \
                      len(open('../zoneinfo/UTC').read()), os.stat('Zulu').st_size)";
        app.write("pysecure.toml", manifest("host"));
        let trace = ["jail", "trace", "-o", "jails/least.toml", "snake"];
        let traced = app.ok(&[&trace[..], &["--", "python3", "-c", script]].concat());
        app.write("pysecure.toml", manifest("least"));
        let ran = app.ok(&["run", "-T", "snake", "--", "python3", "-c", script]);
        assert!(traced.err.ends_with(&ran.out), "{} {}", ran.out, traced.err);
        // A program's own end is the command's; one that is not there is said to be.
        let code = app
            .run(&["jail", "trace", "snake", "--", "python3", "-c", "raise SystemExit(7)"])
            .code;
        assert_eq!(code, 7);
        assert_eq!(app.run(&["jail", "trace", "snake", "--", "no-such-program"]).code, 127);
    }
}

/// A process that stops, one that handles a real-time signal, and one that ends by it.
const SIGNALS: &str = r#"
import os, signal, sys, time
signal.signal(40, lambda *_: print("handled", flush=True))
os.kill(os.getpid(), 40)
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
    print("goes on", flush=True)
    os.kill(os.getpid(), 41)
while not os.WIFSTOPPED(os.waitpid(child, os.WUNTRACED)[1]):
    pass
time.sleep(0.3)
print("is stopped", flush=True)
os.kill(child, signal.SIGCONT)
print("ended by", os.WTERMSIG(os.waitpid(child, 0)[1]), flush=True)
signal.signal(42, signal.SIG_DFL)
os.kill(os.getpid(), 42)
"#;

#[test]
fn a_trace_passes_on_every_signal() {
    let manifest = "[app]\nname = \"jailsignals\"\n[services.snake]\ncommand = [\"true\"]\njail = \"host\"\n";
    for mode in BOTH {
        let app = App::new(mode, manifest);
        let traced = app.run(&["jail", "trace", "snake", "--", "python3", "-c", SIGNALS]);
        assert_eq!(traced.err, "handled\nis stopped\ngoes on\nended by 41\n", "{mode:?}");
        assert_eq!(traced.code, 128 + 42, "{mode:?}");
        assert!(traced.out.contains("python3"), "{mode:?}: {}", traced.out);
    }
}

/// Compiles with gcc.
fn cc(args: &[&str], folder: &Path) {
    let mut command = std::process::Command::new("cc");
    let output = command.args(args).current_dir(folder).output().expect("install gcc");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn libraries_are_found_as_the_dynamic_linker_finds_them() {
    let folder = harness::folder_of_the_host();
    let folder = folder.path();
    let at = folder.display();
    for name in ["bin", "lib/glibc-hwcaps/x86-64-v3", "old", "far"] {
        std::fs::create_dir_all(folder.join(name)).unwrap();
    }
    for (file, text) in [
        ("c.c", "int c(void) { return 3; }"),
        ("b.c", "int c(void); int b(void) { return c(); }"),
        ("a.c", "int b(void); int a(void) { return b(); }"),
        ("one.c", "int a(void); int main(void) { return a() - 3; }"),
        ("two.c", "int b(void); int main(void) { return b() - 3; }"),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    let shared = ["-shared", "-fPIC", "-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"];
    let made = |out: &str, rest: &[&str]| cc(&[&["-o", out], rest].concat(), folder);
    made("far/libc3.so", &[&shared[..], &["c.c"]].concat());
    // An old RPATH, which whoever is loaded by it inherits.
    made("old/libb.so", &[&shared[..], &["b.c", "-Lfar", "-lc3"]].concat());
    let runpath = format!("-Wl,--enable-new-dtags,-rpath,{at}/far:$ORIGIN/../old:$ORIGIN/../../../old");
    made(
        "lib/liba.so",
        &[&shared[..], &["a.c", "-Lold", "-lb", "-Lfar", "-lc3", &runpath]].concat(),
    );
    std::fs::copy(
        folder.join("lib/liba.so"),
        folder.join("lib/glibc-hwcaps/x86-64-v3/liba.so"),
    )
    .unwrap();
    let unresolved = "-Wl,--allow-shlib-undefined,--unresolved-symbols=ignore-in-shared-libs";
    let rpath = format!("-Wl,--disable-new-dtags,-rpath,$ORIGIN/../old,-rpath,{at}/far");
    made("bin/two", &["two.c", "-Lold", "-lb", unresolved, &rpath]);
    made(
        "bin/one",
        &[
            "one.c",
            "-Llib",
            "-la",
            unresolved,
            "-Wl,--enable-new-dtags,-rpath,${ORIGIN}/../lib",
        ],
    );
    std::os::unix::fs::symlink("one", folder.join("bin/link")).unwrap();
    std::fs::write(folder.join("bin/script"), format!("#!{at}/bin/two\n")).unwrap();
    std::fs::set_permissions(folder.join("bin/script"), PermissionsExt::from_mode(0o755)).unwrap();
    let service =
        |name: &str, program: &str| format!("[services.{name}]\ncommand = \"{at}/bin/{program}\"\njail = \"{name}\"\n");
    let manifest = format!(
        "[app]\nname = \"jailelf\"\n{}{}",
        service("two", "two"),
        service("script", "script") + &service("one", "link")
    );
    let app = App::new(Mode::Root, &manifest);
    for (name, text) in [
        ("two", format!("binaries = [\"{at}/bin/two\"]\n")),
        ("script", paths(&folder.join("bin/script"))),
        ("one", paths(&folder.join("bin/link"))),
    ] {
        app.write(&format!("jails/{name}.toml"), text);
    }
    app.ok(&["run", "-T", "two"]);
    app.ok(&["run", "-T", "script"]);
    app.ok(&["run", "-T", "one"]);
    let shown = app.ok(&["jail", "show", "one"]).out;
    assert!(shown.contains("lib/glibc-hwcaps/x86-64-v3/liba.so"), "{shown}");
    assert!(shown.contains("bin/link -> one"), "{shown}");
    // What lies nowhere is said, with who wants it.
    std::fs::remove_file(folder.join("far/libc3.so")).unwrap();
    let lacks = app.run(&["jail", "build", "two"]);
    assert!(
        lacks.code == 2 && lacks.err.contains("libc3.so, which is nowhere to be found"),
        "{}",
        lacks.err
    );
}

#[test]
fn a_full_disk_leaves_the_store_whole() {
    let app = with(Mode::Root, "jailfull", &[]);
    let script = r#"
        mkdir -p "$1" && mount -t tmpfs -o size=4m none "$1" || exit 99
        "$0" jail build python; echo "first $?"
        "$0" jail list > /dev/null; echo "list $?"
        mount -o remount,size=400m "$1"
        "$0" jail build python; echo "second $?"
        test -e "$1/jails/tmp"; echo "left $?"
        chroot "$1"/jails/trees/* /usr/bin/python3 -c 'import ssl, json'; echo "runs $?"
    "#;
    let state = app.state();
    let binary = harness::binary().to_str().unwrap();
    let inner = [
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        binary,
        state.to_str().unwrap(),
    ];
    let ended = Ended::from(app.shell_free("unshare", &inner).output().unwrap());
    assert!(
        ended.err.contains("No space left on device"),
        "{} {}",
        ended.out,
        ended.err
    );
    for wanted in ["first 2", "list 0", "second 0", "left 1", "runs 0"] {
        assert!(ended.out.contains(wanted), "{wanted}: {} {}", ended.out, ended.err);
    }
}

#[test]
fn builds_and_prunes_at_once_do_not_harm_each_other() {
    for mode in BOTH {
        let app = App::new(mode, &two("jailatonce"));
        app.ok(&["up", "-d"]);
        let all: Vec<_> = (0..6)
            .map(|n| {
                let args: &[&str] = if n % 2 == 0 {
                    &["jail", "build", "nginx"]
                } else {
                    &["jail", "prune"]
                };
                let mut command = app.command(args);
                command
                    .stdout(std::process::Stdio::piped())
                    .stderr(std::process::Stdio::piped());
                command.spawn().unwrap()
            })
            .collect();
        for child in all {
            Ended::from(child.wait_with_output().unwrap()).ok();
        }
        // What runs has all that it had.
        app.sh("snake", "python3 -c 'import ssl, decimal'").ok();
        app.ok(&["restart"]);
        app.ok(&["jail", "build", "nginx"]);
        assert_eq!(trees(&app).len(), 3);
    }
}

#[test]
fn a_file_that_changes_while_it_is_copied_is_an_error_and_never_half_of_each() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let folder = harness::folder_of_the_host();
    let folder = folder.path();
    let file = folder.join("file");
    std::fs::write(&file, vec![b'a'; 4 << 20]).unwrap();
    let app = with(Mode::Root, "jailchanges", &[("own", &paths(folder))]);
    let over = AtomicBool::new(false);
    let err = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut letters = (b'b'..=b'z').cycle();
            while !over.load(Ordering::Relaxed) {
                let mut open = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
                std::io::Write::write_all(&mut open, &vec![letters.next().unwrap(); 4 << 20]).unwrap();
            }
        });
        let seen = harness::wait_until(|| Some(app.run(&["jail", "build", "own"])).filter(|e| e.code != 0));
        over.store(true, Ordering::Relaxed);
        seen.err
    });
    assert!(err.contains("changed while the jail was made"), "{err}");
    assert!(app.run(&["jail", "list"]).code == 0);
    app.ok(&["jail", "build", "own"]);
    app.ok(&["jail", "list", "--json"]);
}

#[test]
fn what_is_listed_is_listed_for_programs_too() {
    let app = with(Mode::Root, "jailjson", &[]);
    app.ok(&["jail", "build", "minimal"]);
    let json = |args: &[&str], code: i32| -> serde_json::Value {
        let ended = app.run(args);
        assert_eq!(ended.code, code, "{}", ended.err);
        serde_json::from_str(&ended.out).unwrap()
    };
    let list = json(&["jail", "list", "--json"], 0);
    assert!(
        list["recipes"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["name"] == "python")
    );
    assert_eq!(list["jails"][0]["files"], 1);
    let show = json(&["jail", "show", "--json", "minimal"], 0);
    let shell = show
        .as_array()
        .unwrap()
        .iter()
        .find(|i| i["path"] == "/bin/sh" || i["path"] == "/usr/bin/sh");
    assert_eq!(shell.unwrap()["target"], "busybox");
    let why = json(&["jail", "why", "--json", "/usr/bin/busybox"], 0);
    assert!(why[0]["reasons"][0]["why"].as_str().unwrap().contains("names it"));
    let diff = json(&["jail", "diff", "--json", "minimal", "python"], 1);
    assert!(
        diff.as_array()
            .unwrap()
            .iter()
            .any(|d| d["how"] == "only in the second")
    );
    assert_eq!(
        json(&["jail", "diff", "--json", "minimal", "minimal"], 0),
        serde_json::json!([])
    );
    // On a terminal, how far it is.
    let mut shown = app.on_terminal(&["jail", "build", "python"], 24, 80);
    let (code, text) = shown.ended();
    assert!(code == 0 && text.contains("building a jail: "), "{text}");
}

/// What programs open by name: a library that glibc wants when a thread is cancelled, the locale, the time zone; and a
/// library whose name only a note tells.
const BY_NAME: &str = r#"
#include <dlfcn.h>
#include <locale.h>
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>
static void *wait(void *none) { for (;;) pause(); return none; }
int main(void) {
    pthread_t thread;
    pthread_create(&thread, 0, wait, 0);
    pthread_cancel(thread);
    pthread_join(thread, 0);
    void *plug = dlopen("libplug.so", RTLD_NOW);
    int (*number)(void) = plug ? (int (*)(void))dlsym(plug, "number") : 0;
    printf("%s %d %d\n", setlocale(LC_ALL, "C.UTF-8"), access("/etc/localtime", R_OK), number ? number() : -1);
}
__asm__(".pushsection .note.dlopen, \"a\", @note\n"
        ".balign 4\n.long 4, 2f - 1f, 0x407c0c0a\n.asciz \"FDO\"\n"
        "1: .asciz \"[{\\\"feature\\\":\\\"plug\\\",\\\"soname\\\":[\\\"libplug.so\\\",\\\"libabsent.so\\\"]}]\"\n"
        "2: .balign 4\n.popsection");
"#;

#[test]
fn what_is_opened_by_name_comes_along_and_is_said_to() {
    let folder = harness::folder_of_the_host();
    let folder = folder.path();
    let at = folder.display();
    std::fs::create_dir(folder.join("lib")).unwrap();
    std::fs::write(folder.join("plug.c"), "int number(void) { return 7; }").unwrap();
    std::fs::write(folder.join("main.c"), BY_NAME).unwrap();
    cc(&["-shared", "-fPIC", "-o", "lib/libplug.so", "plug.c"], folder);
    cc(
        &["-o", "main", "main.c", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/lib"],
        folder,
    );
    let manifest = format!(
        "[app]\nname = \"jailbyname\"\n[services.a]\ncommand = \"{at}/main\"\njail = \"own\"\n\
         [services.b]\ncommand = \"{at}/main\"\njail = \"without\"\n"
    );
    for mode in BOTH {
        let app = App::new(mode, &manifest);
        let recipe = format!("binaries = [\"{at}/main\"]\n");
        app.write("jails/own.toml", &recipe);
        app.write(
            "jails/without.toml",
            recipe + "exclude = [\"/usr/lib/*/libgcc_s.so.1\"]\n",
        );
        assert_eq!(app.ok(&["run", "-T", "a"]).out, "C.UTF-8 0 7\n");
        let without = app.run(&["run", "-T", "b"]);
        assert!(
            without.code == 134 && without.err.contains("libgcc_s.so.1 must be installed"),
            "{without:?}"
        );
        let why = app.ok(&["jail", "why", &format!("{at}/lib/libplug.so"), "own"]).out;
        let told = format!("{at}/main opens it by name\n  {at}/main: recipe own names it");
        assert!(why.contains(&told), "{why}");
        let libgcc = "/usr/lib/x86_64-linux-gnu/libgcc_s.so.1";
        let why = app.ok(&["jail", "why", libgcc, "own"]).out;
        assert!(why.contains("/libc.so.6 opens it by name\n"), "{why}");
        assert_eq!(app.run(&["jail", "why", libgcc, "without"]).code, 1);
        // Whom to trust comes with what asks that, and nothing of it without.
        assert_eq!(
            app.run(&["jail", "why", "/etc/ssl/certs/ca-certificates.crt", "own"])
                .code,
            1
        );
        app.write("jails/curl.toml", "binaries = [\"curl\"]\n");
        let why = app
            .ok(&["jail", "why", "/etc/ssl/certs/ca-certificates.crt", "curl"])
            .out;
        assert!(
            why.contains("/libssl.so.3 opens it by name") && why.contains("recipe curl names it"),
            "{why}"
        );
    }
}

#[test]
fn the_linker_s_origin_is_where_a_library_is_named() {
    let folder = harness::folder_of_the_host();
    let folder = folder.path();
    for name in ["bin", "lib", "real", "other"] {
        std::fs::create_dir(folder.join(name)).unwrap();
    }
    for (file, text) in [
        ("b.c", "int b(void) { return 3; }"),
        ("a.c", "int b(void); int a(void) { return b(); }"),
        (
            "main.c",
            "int a(void); int c(void); int main(void) { return a() + c() - 3; }",
        ),
        ("c.c", "int c(void) { return 0; }"),
    ] {
        std::fs::write(folder.join(file), text).unwrap();
    }
    // liba is a link: what it needs lies beside the link, not beside the file. libc4 is needed by a path.
    let shared = ["-shared", "-fPIC", "-Wl,--no-as-needed"];
    let made = |out: &str, rest: &[&str]| cc(&[&["-o", out], rest].concat(), folder);
    made("lib/libb.so", &[&shared[..], &["b.c"]].concat());
    made(
        "real/liba.so",
        &[
            &shared[..],
            &["a.c", "-Llib", "-lb", "-Wl,--enable-new-dtags,-rpath,$ORIGIN"],
        ]
        .concat(),
    );
    std::os::unix::fs::symlink("../real/liba.so", folder.join("lib/liba.so")).unwrap();
    made(
        "other/libc4.so",
        &[&shared[..], &["c.c", "-Wl,-soname,$ORIGIN/../other/libc4.so"]].concat(),
    );
    made(
        "bin/main",
        &[
            "main.c",
            "-Llib",
            "-la",
            "other/libc4.so",
            "-Wl,-rpath-link,lib",
            "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib",
        ],
    );
    let at = folder.display();
    let app = App::new(
        Mode::Root,
        &format!("[app]\nname = \"jailorigin\"\n[services.a]\ncommand = \"{at}/bin/main\"\njail = \"own\"\n"),
    );
    app.write("jails/own.toml", format!("binaries = [\"{at}/bin/main\"]\n"));
    app.ok(&["run", "-T", "a"]);
}

#[test]
fn links_up_and_across_are_kept_and_bring_nothing_twice() {
    let folder = harness::folder_of_the_host();
    let tree = folder.path().join("tree");
    std::fs::create_dir_all(tree.join("a")).unwrap();
    std::fs::create_dir_all(tree.join("b")).unwrap();
    std::fs::create_dir_all(folder.path().join("beside")).unwrap();
    std::fs::write(folder.path().join("beside/file"), "x").unwrap();
    for (place, target) in [
        ("self", "."),
        ("up", ".."),
        ("a/top", ".."),
        ("a/b", "../b"),
        ("b/a", "../a"),
        ("circle", "circle"),
    ] {
        std::os::unix::fs::symlink(target, tree.join(place)).unwrap();
    }
    for mode in BOTH {
        let app = with(mode, "jailup", &[("own", &paths(&tree))]);
        let built = app.ok(&["jail", "build", "own"]);
        assert!(built.out.contains(" 0 files"), "{}", built.out);
        assert!(built.err.contains("tree/circle lead in a circle"), "{}", built.err);
        let shown = app.ok(&["jail", "show", "own"]).out;
        for link in [
            "tree/self -> .",
            "tree/up -> ..",
            "tree/a/top -> ..",
            "tree/a/b -> ../b",
            "tree/b/a -> ../a",
        ] {
            assert!(shown.contains(link), "{link}: {shown}");
        }
        assert!(!shown.contains("beside"), "{shown}");
    }
}

#[test]
fn packages_bring_what_they_depend_on_if_that_is_asked_for() {
    for mode in BOTH {
        let app = with(
            mode,
            "jaildepends",
            &[
                ("alone", "packages = [\"nginx-light\"]\n"),
                ("all", "extends = \"alone\"\nwith_dependencies = true\n"),
            ],
        );
        app.ok(&["jail", "build", "alone", "all"]);
        assert_eq!(app.run(&["jail", "why", "/usr/sbin/nginx", "alone"]).code, 1);
        let why = app.ok(&["jail", "why", "/usr/sbin/nginx", "all"]).out;
        assert!(
            why.contains("package nginx brings it, which package nginx-light needs"),
            "{why}"
        );
        // That these have files below /lib, which is a link here, does not bring all that lies there.
        let shown = app.ok(&["jail", "show", "all"]).out;
        assert!(
            !shown.contains("/usr/lib/gcc/") && !shown.contains("/usr/lib/chromium/"),
            "{shown}"
        );
        let tree = trees(&app)
            .into_iter()
            .find(|t| t.join("usr/sbin/nginx").exists())
            .unwrap();
        let version = std::process::Command::new("chroot")
            .arg(&tree)
            .args(["/usr/sbin/nginx", "-v"])
            .output();
        Ended::from(version.unwrap()).ok();
    }
}

/// What lies in a tree: path, mode, time, and content or target, in their order.
fn contents(tree: &Path) -> Vec<(PathBuf, u32, i64, Vec<u8>)> {
    let mut all = Vec::new();
    all_below(tree, &mut all);
    all.sort();
    let each = all.iter().map(|path| {
        let found = path.symlink_metadata().unwrap();
        let inside = path.strip_prefix(tree).unwrap().to_owned();
        match (found.is_file(), found.is_symlink()) {
            (true, _) => (inside, found.mode(), found.mtime(), std::fs::read(path).unwrap()),
            (_, true) => {
                let target = std::fs::read_link(path).unwrap();
                (inside, found.mode(), 0, target.as_os_str().as_bytes().to_vec())
            }
            _ => (inside, found.mode(), 0, Vec::new()),
        }
    });
    each.collect()
}

#[test]
fn the_same_and_different_recipes_are_built_at_once() {
    let recipes = ["python", "nginx", "minimal", "nginx", "python"];
    for mode in BOTH {
        let (alone, together) = (with(mode, "jailalone", &[]), with(mode, "jailtogether", &[]));
        for recipe in &recipes[..3] {
            alone.ok(&["jail", "build", recipe]);
        }
        let started = recipes.map(|recipe| {
            let mut command = together.command(&["jail", "build", recipe]);
            command
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped());
            command.spawn().unwrap()
        });
        let hash = |ended: &Ended| ended.out.split([' ', ',']).nth(1).unwrap().to_owned();
        for (recipe, child) in recipes.iter().zip(started) {
            let ended = Ended::from(child.wait_with_output().unwrap()).ok();
            assert_eq!(hash(&ended), hash(&alone.ok(&["jail", "build", recipe])), "{recipe}");
        }
        // Each is what one build alone makes, to the byte; and the store is whole.
        assert_eq!(trees(&together).len(), 3);
        for tree in trees(&together) {
            let other = alone.state().join("jails/trees").join(tree.file_name().unwrap());
            assert!(contents(&tree) == contents(&other), "{}", tree.display());
        }
        let store = together.state().join("jails");
        assert!(!store.join("tmp").exists());
        let mut blobs = Vec::new();
        all_below(&store.join("blobs"), &mut blobs);
        for blob in blobs.iter().filter(|b| b.is_file()) {
            let content = sha2::Sha256::digest(std::fs::read(blob).unwrap());
            let name: String = content.iter().map(|b| format!("{b:02x}")).collect();
            assert!(
                blob.file_name().unwrap().to_str().unwrap().starts_with(&name),
                "{}",
                blob.display()
            );
            assert!(blob.metadata().unwrap().nlink() > 1, "{} is in no tree", blob.display());
        }
        for recipe in &recipes[..3] {
            assert!(together.ok(&["jail", "build", recipe]).out.contains("(0 B new)"));
        }
    }
}

#[test]
fn where_there_can_be_no_links_files_are_copied() {
    let app = with(Mode::Root, "jailcopies", &[]);
    // To another mount there are none, be it the same disk.
    let script = r#"
        "$0" jail build nginx
        mount --bind "$1/jails/blobs" "$1/jails/blobs" || exit 99
        "$0" jail build python
        "$0" jail build python | grep -c '(0 B new)'
        for tree in "$1"/jails/trees/*; do test -e "$tree/usr/bin/python3" || continue
            find "$tree" -type f -printf '%i\n' | sort -u >"$1/those"
            find "$1/jails/blobs" -type f -printf '%i\n' | sort -u | comm -12 - "$1/those"
            chroot "$tree" /usr/bin/python3 -c 'import ssl, json; print("runs")'
        done
        "$0" jail prune
    "#;
    let state = app.state();
    let binary = harness::binary().to_str().unwrap();
    let inner = [
        "-m",
        "--propagation",
        "private",
        "sh",
        "-c",
        script,
        binary,
        state.to_str().unwrap(),
    ];
    let ended = Ended::from(app.shell_free("unshare", &inner).output().unwrap()).ok();
    let (_, rest) = ended.out.split_once("MB new)\n").unwrap();
    let rest: Vec<&str> = rest.lines().collect();
    assert_eq!(rest[1..3], ["1", "runs"], "{} {}", ended.out, ended.err);
    assert!(trees(&app).is_empty());
}

/// Files below a folder that have a set-id bit.
fn with_set_id(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    all_below(folder, &mut all);
    all.retain(|path| {
        let found = path.symlink_metadata().unwrap();
        found.is_file() && found.permissions().mode() & 0o6000 != 0
    });
    all
}

#[test]
fn no_file_s_set_id_bits_get_into_a_jail_however_it_is_copied() {
    for mode in BOTH {
        let from = harness::folder_of_the_host();
        // Larger ones are not read into memory, but copied by the kernel.
        for (name, size) in [("small", 100), ("at-once", 8 << 20), ("large", (8 << 20) + 1)] {
            for (kind, bits) in [("user", 0o4755), ("group", 0o2755), ("both", 0o6755)] {
                let place = from.path().join(format!("{name}-{kind}"));
                std::fs::write(&place, &format!("{name} {kind}\n").repeat(size / 8).as_bytes()[..size]).unwrap();
                std::fs::set_permissions(&place, PermissionsExt::from_mode(bits)).unwrap();
            }
        }
        assert_eq!(with_set_id(from.path()).len(), 9);
        let manifest = "[app]\nname = \"jailsetid\"\n[services.main]\ncommand = [\"sleep\", \"1000\"]\n\
                        jail = \"big\"\nwritable = true\n";
        let app = App::new(mode, manifest);
        app.write(
            "jails/big.toml",
            format!("binaries = [\"sleep\"]\npaths = [{:?}]\n", from.path()),
        );
        app.ok(&["up", "-d"]);
        let store = app.state().join("jails");
        let mut all = Vec::new();
        all_below(&store, &mut all);
        // Blobs, the tree, and as root the copy that is the service's own.
        let copies = all
            .iter()
            .filter(|p| p.ends_with("large-both") || p.ends_with("at-once-both"))
            .count();
        assert!(copies >= 2, "{mode:?}: {all:?}");
        assert_eq!(with_set_id(&store), Vec::<PathBuf>::new(), "{mode:?}");
        app.ok(&["down", "--purge"]);
        // Where blobs are another file system's, all goes by a second copy.
        let script = r#"
            umask 0
            "$0" jail prune
            mount -t tmpfs none "$1/jails/blobs" || exit 99
            "$0" jail build big && find "$1/jails" -type f -perm /6000
            find "$1/jails" -name 'large-*' | wc -l
            umount "$1/jails/blobs"
        "#;
        if mode == Mode::Root {
            let (state, binary) = (app.state(), harness::binary());
            let words = ["-m", "--propagation", "private", "sh", "-c", script];
            let mut command = app.shell_free("unshare", &words);
            command.arg(binary).arg(&state);
            let ended = Ended::from(command.output().unwrap()).ok();
            assert!(ended.out.ends_with("new)\n3\n"), "{} {}", ended.out, ended.err);
        }
    }
}

#[test]
fn who_is_not_root_shows_nothing_in_a_jail_that_he_may_not_read() {
    let (user, group) = harness::user();
    let (his, roots) = (harness::folder_of_the_host(), harness::folder_of_the_host());
    let (his, roots) = (his.path(), roots.path());
    let write = |path: &Path, text: &str, mode: u32| {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    let secret = roots.join("secret");
    write(&secret, "root's", 0o600);
    write(&roots.join("open"), "everybody's", 0o644);
    std::fs::create_dir(roots.join("closed")).unwrap();
    write(&roots.join("closed/inside"), "root's", 0o644);
    std::fs::set_permissions(roots.join("closed"), PermissionsExt::from_mode(0o700)).unwrap();
    write(&his.join("own"), "his", 0o600);
    write(&his.join("script"), &format!("#!{}\n", secret.display()), 0o755);
    for (name, target) in [
        ("a", "secret"),
        ("b", "open"),
        ("c", "closed"),
        ("d", "closed/inside"),
        ("e", "."),
    ] {
        std::os::unix::fs::symlink(roots.join(target), his.join(name)).unwrap();
    }
    let mut all = vec![his.to_owned()];
    all_below(his, &mut all);
    for path in all {
        std::os::unix::fs::lchown(path, Some(user), Some(group)).unwrap();
    }
    let recipes = [
        ("his", paths(his)),
        ("link", paths(&his.join("a"))),
        ("named", paths(&secret)),
    ];
    let recipes: Vec<(&str, &str)> = recipes.iter().map(|(n, text)| (*n, text.as_str())).collect();
    let app = with(Mode::Root, "jailhis", &recipes);
    let built = app.ok(&["jail", "build", "his"]);
    let says = "is not for everybody to read, and what brings it is another user's";
    assert!(
        built.err.contains(&format!("{} {says}", secret.display())),
        "{}",
        built.err
    );
    let shown = |name: &str| app.ok(&["jail", "show", name]).out;
    let has = |name: &str, path: &Path| shown(name).contains(&format!("{}  ", path.display()));
    assert!(
        has("his", &his.join("own")) && has("his", &roots.join("open")),
        "{}",
        shown("his")
    );
    for closed in [&secret, &roots.join("closed/inside")] {
        assert!(!has("his", closed) && !has("link", closed), "{}", shown("his"));
    }
    // What whoever writes the recipe names is his to show.
    assert!(has("named", &secret), "{}", shown("named"));
}

/// A jail of a few files of the host's, and a service in it.
fn small(mode: Mode, name: &str, host: &Path, more: &str) -> App {
    for number in 0..3 {
        std::fs::write(host.join(number.to_string()), format!("the content of {number}\n")).unwrap();
    }
    let manifest = format!(
        r#"
[app]
name = "{name}"
[resources]
data = {{ path = "/data/d/", owner = "rw" }}
[services.web]
command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
jail = "small"
{more}
owner_resources = ["data"]
"#
    );
    let app = App::new(mode, &manifest);
    let recipe = format!("extends = \"minimal\"\npaths = [\"{}\"]\n", host.display());
    app.write("jails/small.toml", recipe);
    app
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    all.sort();
    all
}

/// As a power loss leaves a file that was not synced.
fn break_off(file: &Path, length: u64) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::File::options()
        .write(true)
        .open(file)
        .unwrap()
        .set_len(length)
        .unwrap();
}

#[test]
fn what_is_broken_in_the_store_is_made_anew() {
    for mode in BOTH {
        let host = harness::folder_of_the_host();
        let app = small(mode, "brokenstore", host.path(), "");
        let jails = app.state().join("jails");
        let inside = host.path().strip_prefix("/").unwrap().join("1");
        let tree = || {
            let trees = below(&jails.join("trees"));
            assert_eq!(trees.len(), 1, "{trees:?}");
            trees[0].clone()
        };
        let whole = || std::fs::read_to_string(tree().join(&inside)).unwrap() == "the content of 1\n";
        let built = app.ok(&["jail", "build", "small"]).out;
        assert!(whole());
        // A file, by all of its names; the same length, and other content; the hash of nothing as that of a jail; a record
        // of nothing. By a build, and by a start, which looks at sizes.
        let breaks: [(&str, &dyn Fn()); 5] = [
            ("empty", &|| break_off(&tree().join(&inside), 0)),
            ("half", &|| break_off(&tree().join(&inside), 7)),
            ("other", &|| {
                break_off(&tree().join(&inside), 0);
                std::fs::write(tree().join(&inside), "THE CONTENT OF 1\n").unwrap();
            }),
            ("index", &|| {
                below(&jails.join("index")).iter().for_each(|known| break_off(known, 0))
            }),
            ("manifests", &|| {
                below(&jails.join("manifests"))
                    .iter()
                    .for_each(|list| break_off(list, 0))
            }),
        ];
        for (name, broken) in breaks {
            broken();
            let again = app.ok(&["jail", "build", "small"]).out;
            assert_eq!(again.split(',').next(), built.split(',').next(), "{name}");
            assert!(whole(), "{mode:?} {name}");
            assert!(app.ok(&["jail", "list"]).out.contains("jail "), "{name}");
            if name == "other" {
                continue;
            }
            broken();
            app.ok(&["up", "-d"]);
            let seen = app
                .sh("web", &format!("cat {}", host.path().join("1").display()))
                .ok()
                .out;
            assert_eq!(seen, "the content of 1\n", "{mode:?} {name}");
            app.ok(&["down"]);
        }
        // What another jail would be linked to.
        for blob in below(&jails.join("blobs")).iter().flat_map(|shelf| below(shelf)) {
            std::fs::remove_file(&blob).unwrap();
            std::fs::write(&blob, "").unwrap();
        }
        std::fs::write(host.path().join("3"), "one more\n").unwrap();
        app.ok(&["jail", "build", "small"]);
        for tree in below(&jails.join("trees")) {
            assert_eq!(
                std::fs::read_to_string(tree.join(&inside)).unwrap(),
                "the content of 1\n"
            );
        }
        assert!(!jails.join("tmp").exists());
    }
}

#[test]
fn a_jail_or_a_folder_that_is_deleted_while_the_app_is_up_is_made_again() {
    for mode in BOTH {
        for (more, folders) in [("", ["trees"].as_slice()), ("writable = true", &["private", "trees"])] {
            let host = harness::folder_of_the_host();
            let app = small(mode, "deletedjail", host.path(), more);
            app.ok(&["up", "-d"]);
            let cat = format!("cat {}", host.path().join("1").display());
            for restart in [&["restart", "web"][..], &["up", "-d"]] {
                for folder in folders {
                    for jail in below(&app.state().join("jails").join(folder)) {
                        std::fs::remove_dir_all(jail).unwrap();
                    }
                }
                let data = app.state().join("apps/deletedjail/resources/data");
                std::fs::remove_dir_all(&data).unwrap();
                app.ok(restart);
                app.ok(&["restart", "web"]);
                assert_eq!(
                    app.sh("web", &cat).ok().out,
                    "the content of 1\n",
                    "{mode:?} {more} {restart:?}"
                );
                // And it is the service's.
                app.sh("web", "echo kept >/data/d/file && cat /data/d/file").ok();
            }
            // With nothing to make it of, it is said what does.
            let jails = app.state().join("jails");
            for folder in folders.iter().chain(&["manifests"]) {
                for part in below(&jails.join(folder)) {
                    let _ = std::fs::remove_dir_all(&part);
                    let _ = std::fs::remove_file(&part);
                }
            }
            app.run(&["restart", "web"]);
            app.wait_for_log("web", "`pysecure up -d` makes it anew");
            app.ok(&["up", "-d"]);
            app.ok(&["restart", "web"]);
            assert_eq!(app.sh("web", &cat).ok().out, "the content of 1\n");
        }
    }
}

#[test]
fn a_resource_may_lie_at_the_top_of_a_root_that_can_be_written_to() {
    for mode in BOTH {
        for writable in ["true", "\"persistent\""] {
            let manifest = format!(
                r#"
[app]
name = "attop"
[resources]
data = {{ path = "/data", owner = "rw" }}
inner = {{ path = "/data/in/ner", owner = "rw" }}
conf = {{ path = "/conf.txt", owner = "rw" }}
[services.web]
command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
jail = "minimal"
writable = {writable}
owner_resources = ["data", "inner", "conf"]
"#
            );
            let app = App::new(mode, &manifest);
            app.ok(&["up", "-d"]);
            let write = "for f in /data/f /data/in/ner/f /conf.txt /var/f; do echo $f >$f || exit 1; done";
            app.sh("web", write).ok();
            app.ok(&["restart", "web"]);
            let seen = app.sh("web", "cat /data/f /data/in/ner/f /conf.txt").ok().out;
            assert_eq!(seen, "/data/f\n/data/in/ner/f\n/conf.txt\n", "{mode:?}");
            let kept = app.sh("web", "test -e /var/f").code == 0;
            assert_eq!(kept, writable != "true");
        }
    }
}
