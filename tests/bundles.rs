//! A grant holds for whatever file a program makes: what some forty programs make in a shared folder, tried by the
//! owner, by members of the bundle and by strangers, against what the manifest says.

mod harness;

use harness::{App, Mode};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

const TEAM: &str = r#"
[app]
name = "team"
code = { "/code" = "./code" }
[resources]
both = { path = "/data/both/", owner = "rw", bundle = "rw" }
wide = { path = "/data/wide/", owner = "rw", bundle = "rw", global = "r" }
shown = { path = "/data/shown/", owner = "rw", bundle = "r" }
kept = { path = "/data/kept/", owner = "r", bundle = "rw" }
nobodys = { path = "/data/nobodys/", bundle = "rw" }
[bundles.team]
resources = ["both", "wide", "shown", "kept", "nobodys"]
[services.owner]
command = "sleep infinity"
owner_resources = ["both", "wide", "shown", "kept"]
[services.member]
command = "sleep infinity"
bundle = "team"
[services.other]
command = "sleep infinity"
bundle = "team"
runs_with_root = true
[services.stranger]
command = "sleep infinity"
"#;

const SERVICES: [&str; 4] = ["owner", "member", "other", "stranger"];

fn team(mode: Mode, name: &str) -> App {
    let app = App::new(mode, &TEAM.replace("\"team\"\ncode", &format!("\"{name}\"\ncode")));
    app.write("code/make.sh", include_str!("bundles/make.sh"));
    app.write("code/probe.py", include_str!("bundles/probe.py"));
    app
}

/// Makes one thing by each program in a folder, and says their names.
fn make(app: &App, service: &str, folder: &str) -> Vec<String> {
    let script = format!("cd {folder} && sh /code/make.sh {service}");
    let made: Vec<String> = app.sh(service, &script).ok().out.lines().map(str::to_owned).collect();
    let failed: Vec<&String> = made.iter().filter(|l| l.contains("FAILED")).collect();
    assert!(failed.is_empty(), "{:?} {service} in {folder}: {failed:#?}", app.mode);
    assert!(made.len() > 35, "{made:?}");
    made
}

/// What a service may do with each of these.
fn probe(app: &App, service: &str, folder: &str, names: &[String]) -> BTreeMap<String, String> {
    let script = format!("python3 /code/probe.py {folder} {}", names.join(" "));
    let out = app.sh(service, &script).ok().out;
    let words = |line: &str| line.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned()));
    out.lines().filter_map(words).collect()
}

/// What a service with these permissions may do with what this program made.
fn expected(mode: Mode, name: &str, permissions: &str) -> &'static str {
    let program = name.split_once('-').unwrap().1;
    let directory = [
        "mkdir-700",
        "mkdir-p",
        "mktemp-d",
        "install-d",
        "tar",
        "tar-other-ids",
        "unzip",
        "rsync-a",
        "cp-a",
        "mv-tree",
        "git",
    ];
    let socket = ["bind", "bind-umask-077", "bind-gunicorn", "node", "redis-socket"];
    match permissions {
        "rw" if directory.contains(&program) => "rlwd",
        "rw" if socket.contains(&program) => "cd",
        "rw" => "rwd",
        "r" if directory.contains(&program) => "rl",
        // As root who reads is shown the files as its own, and a mount cannot withhold connecting.
        "r" if socket.contains(&program) && mode == Mode::Root => "c",
        "r" if socket.contains(&program) => "-",
        "r" => "r",
        _ => "-",
    }
}

/// Compares, and says what differs.
fn differing(app: &App, folder: &str, names: &[String], permissions: [&str; 4]) -> Vec<String> {
    let mut out = Vec::new();
    for (service, permissions) in SERVICES.iter().zip(permissions) {
        if permissions.is_empty() {
            assert_ne!(
                app.sh(service, &format!("ls -a {folder}")).code,
                0,
                "{service} sees {folder}"
            );
            continue;
        }
        let real = probe(app, service, folder, names);
        for name in names {
            let (wanted, is) = (
                expected(app.mode, name, permissions),
                real.get(name).map_or("-", String::as_str),
            );
            if wanted != is {
                out.push(format!("{service} on {folder}{name}: {wanted}, but {is}"));
            }
        }
    }
    out
}

#[test]
fn a_grant_holds_for_whatever_programs_make() {
    for mode in [Mode::Root] {
        let app = team(mode, "programs");
        app.ok(&["up", "-d"]);
        for (maker, folder, permissions) in [
            ("owner", "/data/both/", ["rw", "rw", "rw", ""]),
            ("member", "/data/both/", ["rw", "rw", "rw", ""]),
            ("other", "/data/wide/", ["rw", "rw", "rw", "r"]),
            ("owner", "/data/shown/", ["rw", "r", "r", ""]),
            ("member", "/data/kept/", ["r", "rw", "rw", ""]),
            ("member", "/data/nobodys/", ["", "rw", "rw", ""]),
        ] {
            let names = make(&app, maker, folder);
            let differ = differing(&app, folder, &names, permissions);
            assert!(differ.is_empty(), "{mode:?}, made by {maker}:\n{}", differ.join("\n"));
        }
    }
}

/// A tree of the user's, in a bundle, with files of a second user in it.
#[test]
fn a_source_in_a_bundle_is_written_by_its_members() {
    let manifest = r#"
[app]
name = "source"
[resources]
tree = { path = "/data/tree", source = "./tree", owner = "rw", bundle = "rw", global = "r" }
[bundles.team]
resources = ["tree"]
[services.owner]
command = "true"
owner_resources = ["tree"]
[services.member]
command = "true"
bundle = "team"
[services.reader]
command = "true"
"#;
    let app = App::new(Mode::Root, manifest);
    let tree = app.folder.join("tree");
    for (name, owner, mode) in [("mine", 4321, 0o600), ("open", 5000, 0o666), ("closed", 5000, 0o600)] {
        let path = app.write(&format!("tree/{name}"), "text\n");
        chown(&path, Some(owner), Some(owner)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    chown(&tree, Some(4321), Some(4321)).unwrap();
    std::fs::set_permissions(&tree, PermissionsExt::from_mode(0o700)).unwrap();
    let sh = |service: &str, script: &str| app.run(&["run", "-T", service, "--", "sh", "-c", script]);
    for service in ["owner", "member"] {
        let script = format!(
            "cd /data/tree && umask 077 && cat mine >/dev/null && echo {service} >>mine && echo {service} >>open && \
             mkdir -m 700 {service}.d && echo x >{service}.d/file && mktemp -p . >/dev/null && ! cat closed"
        );
        sh(service, &script).ok();
    }
    sh("owner", "cat /data/tree/member.d/file && rm -r /data/tree/member.d").ok();
    sh("member", "cat /data/tree/owner.d/file && rm -r /data/tree/owner.d").ok();
    assert_eq!(sh("reader", "cat /data/tree/mine").ok().out, "text\nowner\nmember\n");
    assert_ne!(sh("reader", "echo no >>/data/tree/open").code, 0);
    // On the host it stays what it was: what services make is the tree's owner's, and what was another's is still.
    for entry in std::fs::read_dir(&tree).unwrap() {
        let entry = entry.unwrap();
        let owner = if entry.file_name() == "open" || entry.file_name() == "closed" {
            5000
        } else {
            4321
        };
        let found = entry.metadata().unwrap();
        assert_eq!((found.uid(), found.gid()), (owner, owner), "{:?}", entry.file_name());
    }
}

/// Data that was held by ACLs becomes its owner's, and an interrupted change is made again.
#[test]
fn what_was_held_by_acls_becomes_the_owners() {
    let app = team(Mode::Root, "migrated");
    let sh = |service: &str, script: &str| app.run(&["run", "-T", service, "--", "sh", "-c", script]);
    sh("owner", "mkdir /data/both/deep && echo text >/data/both/deep/file").ok();
    let both = app.state().join("apps/migrated/resources/both");
    let ledger_path = app.state().join("apps/migrated/ledger.json");
    let ledger: serde_json::Value = serde_json::from_slice(&std::fs::read(&ledger_path).unwrap()).unwrap();
    let owner = ledger["applied"]["both"].clone();
    let (uid, member) = (
        owner["uid"].as_u64().unwrap() as u32,
        ledger["services"]["member"]["uid"].as_u64().unwrap() as u32,
    );
    let group = ledger["groups"]["team"].as_u64().unwrap() as u32;
    // As an earlier version has left it.
    let age = |change: &dyn Fn(&mut serde_json::Value)| {
        for path in ["", "deep", "deep/file"].map(|p| both.join(p)) {
            chown(&path, Some(member), Some(group)).unwrap();
            let directory = path.is_dir();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(if directory { 0o2770 } else { 0o600 })).unwrap();
            if directory {
                let acl =
                    hex("020000000100070000000000020007000000000004000700ffffffff10000700ffffffff20000000ffffffff");
                let mut acl = acl;
                acl[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
                acl[16..20].copy_from_slice(&uid.to_le_bytes());
                rustix::fs::setxattr(
                    &path,
                    c"system.posix_acl_default",
                    &acl,
                    rustix::fs::XattrFlags::empty(),
                )
                .unwrap();
            }
        }
        let mut old = ledger.clone();
        change(&mut old);
        std::fs::write(&ledger_path, old.to_string()).unwrap();
    };
    let settled = || {
        for path in ["", "deep", "deep/file"].map(|p| both.join(p)) {
            let found = std::fs::metadata(&path).unwrap();
            assert_eq!((found.uid(), found.mode() & 0o7077), (uid, 0), "{}", path.display());
            let mut value = [0u8; 64];
            for acl in [c"system.posix_acl_default", c"system.posix_acl_access"] {
                assert!(
                    rustix::fs::getxattr(&path, acl, &mut value).is_err(),
                    "{}: {acl:?}",
                    path.display()
                );
            }
        }
    };
    age(&|old| {
        old["applied"]["both"] = serde_json::json!({ "uid": uid, "gid": group, "owner": 6, "bundle": 6, "global": 0 });
    });
    assert_eq!(sh("member", "cat /data/both/deep/file").ok().out, "text\n");
    settled();
    // A change to another policy that was cut short is not forgotten when the old one comes back.
    let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
    let changed = manifest.replace(
        r#"path = "/data/both/", owner = "rw", bundle = "rw""#,
        r#"path = "/data/both/", owner = "rw", bundle = "w""#,
    );
    assert_ne!(changed, manifest);
    app.write("pysecure.toml", &changed);
    let stuck = app.state().join("apps/migrated/resources/both/deep/file");
    let immutable = |flag: &str| {
        assert!(
            std::process::Command::new("chattr")
                .arg(flag)
                .arg(&stuck)
                .status()
                .expect("install `e2fsprogs`")
                .success()
        )
    };
    immutable("+i");
    assert_ne!(sh("owner", "true").code, 0);
    immutable("-i");
    app.write("pysecure.toml", &manifest);
    sh("owner", "true").ok();
    settled();
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
        .collect()
}
