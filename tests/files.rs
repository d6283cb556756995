//! Files in and out of services: with the right owner, as far as grants go, and past no hostile link; and a look at
//! rootless files from where they have their ids.

mod harness;

use harness::{App, BOTH, Ended, Mode, signal, user, wait_until};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Stdio;

fn app(mode: Mode, name: &str) -> App {
    let manifest = format!(
        r#"
[app]
name = "{name}"
[resources]
own = {{ path = "/data/own/", owner = "rwx" }}
shared = {{ path = "/data/shared/", owner = "rw", bundle = "r" }}
board = {{ path = "/data/board/", owner = "rw", bundle = "rw" }}
[bundles.team]
resources = ["shared", "board"]
[services.keeps]
command = "sleep infinity"
owner_resources = ["own", "shared", "board"]
bundle = "team"
[services.reads]
command = "sleep infinity"
bundle = "team"
"#
    );
    App::new(mode, &manifest)
}

fn caller(mode: Mode) -> (u32, u32) {
    match mode {
        Mode::Root => (0, 0),
        Mode::Rootless => user(),
    }
}

/// A script as a service, whether the app is up or not.
fn inside(app: &App, up: bool, service: &str, script: &str) -> Ended {
    match up {
        true => app.sh(service, script),
        false => app.run(&["run", "-T", service, "--", "sh", "-c", script]),
    }
}

#[test]
fn files_go_in_and_out_with_the_right_owner() {
    for mode in BOTH {
        let app = app(mode, "copies");
        app.write("tree/deep/er/file.txt", "deep");
        app.write("tree/tool", "#!/bin/sh\necho runs\n");
        std::fs::set_permissions(app.folder.join("tree/tool"), PermissionsExt::from_mode(0o6755)).unwrap();
        symlink("deep/er/file.txt", app.folder.join("tree/link")).unwrap();
        nix::unistd::mkfifo(&app.folder.join("tree/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let big: Vec<u8> = (0..3_000_001u32).map(|n| (n / 3) as u8).collect();
        app.write("big", &big);
        for up in [true, false] {
            if up {
                app.ok(&["up", "-d"]);
            }
            let own = |script: &str| inside(&app, up, "keeps", script).ok().out;
            // To a directory that is there, under its name; to one that is not, as it; the content alone.
            let copied = app.ok(&["cp", "tree", "keeps:/data/own"]);
            assert!(
                copied.err.contains("fifo is neither a file nor a directory"),
                "{}",
                copied.err
            );
            app.ok(&["cp", "tree", "keeps:/data/own/new"]);
            app.ok(&["cp", "tree/.", "keeps:/data/own/new"]);
            app.ok(&["cp", "big", "keeps:/data/own/big"]);
            let seen = own("cd /data/own && find . | LC_ALL=C sort | tr '\\n' ' '; cat tree/link; new/tool");
            assert_eq!(
                seen,
                ". ./big ./new ./new/deep ./new/deep/er ./new/deep/er/file.txt ./new/link ./new/tool ./tree \
                 ./tree/deep ./tree/deep/er ./tree/deep/er/file.txt ./tree/link ./tree/tool deepruns\n"
            );
            // All is the service's, as if it had made it, and no file is set-id; directories hand their group on.
            let foreign =
                own("find /data/own -mindepth 1 '(' ! -user $(id -u) -o ! -group $(id -g) -o -type f -perm /6000 ')'");
            assert_eq!(foreign, "");
            app.ok(&["cp", "keeps:/data/own/big", "back"]);
            assert!(std::fs::read(app.folder.join("back")).unwrap() == big);
            app.ok(&["cp", "keeps:/data/own/tree", "out"]);
            app.ok(&["cp", "keeps:/data/own/tree", "."]);
            for path in ["back", "out", "out/tool", "out/link", "out/deep/er/file.txt"] {
                let found = std::fs::symlink_metadata(app.folder.join(path)).unwrap();
                assert_eq!((found.uid(), found.gid()), caller(mode), "{path}");
                assert_eq!(found.mode() & 0o6000, 0);
            }
            assert_eq!(std::fs::read_to_string(app.folder.join("out/link")).unwrap(), "deep");
            // What one member of a bundle is given, the others can work with.
            app.ok(&["cp", "tree/tool", "reads:/data/board/tool"]);
            inside(&app, up, "keeps", "echo more >>/data/board/tool").ok();
            own("rm -r /data/own/* /data/board/*");
            for path in ["back", "out"] {
                let path = app.folder.join(path);
                std::fs::remove_dir_all(&path)
                    .or_else(|_| std::fs::remove_file(&path))
                    .unwrap();
            }
            if up {
                app.ok(&["down"]);
            }
            assert!(!app.state().join("run/copies").exists());
        }
    }
}

#[test]
fn a_copy_may_no_more_than_its_service() {
    for mode in BOTH {
        let app = app(mode, "grants");
        app.write("file", "new");
        for up in [true, false] {
            if up {
                app.ok(&["up", "-d"]);
            }
            inside(
                &app,
                up,
                "keeps",
                "echo old >/data/shared/file; chmod 640 /data/shared/file",
            )
            .ok();
            let refused = |args: &[&str], why: &str| {
                let ended = app.run(args);
                assert!(ended.code == 1 && ended.err.contains(why), "{args:?} {ended:?}");
            };
            // Landlock or the mount, whichever is asked first.
            refused(&["cp", "file", "reads:/data/shared/file"], "write /data/shared/file: E");
            refused(
                &["cp", "file", "reads:/data/shared/another"],
                "write /data/shared/another: E",
            );
            refused(&["cp", "file", "reads:/etc/passwd"], "write /etc/passwd: E");
            refused(&["cp", "file", "reads:/data/own/file"], "ENOENT");
            refused(&["cp", "reads:/data/own", "copy"], "ENOENT");
            refused(&["cp", "file", "keeps:/data/own/none/"], "ENOENT");
            refused(&["cp", "nothing", "keeps:/data/own/x"], "ENOENT");
            refused(&["cp", "keeps:/data/shared/file", "file/x"], "ENOTDIR");
            refused(&["cp", ".", "keeps:/data/shared/file"], "ENOTDIR");
            assert!(!app.folder.join("copy").exists());
            app.ok(&["cp", "reads:/data/shared/file", "copy"]);
            assert_eq!(std::fs::read_to_string(app.folder.join("copy")).unwrap(), "old\n");
            std::fs::remove_file(app.folder.join("copy")).unwrap();
            for (args, why) in [
                (["cp", "file", "other"], "SERVICE:/PATH"),
                (["cp", "keeps:/a", "reads:/b"], "both"),
                (["cp", "keeps:data", "x"], "keeps:/data"),
            ] {
                let ended = app.run(&args);
                assert!(ended.code == 2 && ended.err.contains(why), "{ended:?}");
            }
            let ended = app.run(&["cp", "file", "nobody:/data"]);
            assert!(
                ended.code != 0 && ended.err.contains("no service is called `nobody`"),
                "{ended:?}"
            );
            if up {
                app.ok(&["down"]);
            }
        }
    }
}

#[test]
fn no_link_that_a_service_made_leads_anywhere_else() {
    for mode in BOTH {
        let app = app(mode, "links");
        // Of the caller: what a copy by path would write to as the caller.
        let victim = app.write("victim/file", "whole");
        app.write("evil", "evil");
        app.ok(&["up", "-d"]);
        let own = |script: &str| app.sh("keeps", &format!("cd /data/own && {script}")).ok();
        let shadow = std::fs::read("/etc/shadow").unwrap();
        own("ln -s /etc/shadow shadow; ln -s /etc etc; ln -s /proc/self self; ln -s /proc/1/root root");
        // Out: a link is copied as a link, and one on the way leads no farther than the service's root.
        app.ok(&["cp", "keeps:/data/own/shadow", "copy"]);
        let copy = app.folder.join("copy");
        assert_eq!(std::fs::read_link(&copy).unwrap(), Path::new("/etc/shadow"));
        std::fs::remove_file(&copy).unwrap();
        for path in [
            "etc/shadow",
            "self/environ",
            "self/exe",
            "self/root/etc/hostname",
            "root/etc/shadow",
        ] {
            let ended = app.run(&["cp", &format!("keeps:/data/own/{path}"), "copy"]);
            assert!(
                ended.code == 1 && std::fs::symlink_metadata(&copy).is_err(),
                "{path} {ended:?}"
            );
        }
        // In: the same.
        for path in [
            "shadow",
            "etc/shadow",
            "etc/new",
            "self/comm",
            "self/mem",
            "root/etc/new",
        ] {
            let ended = app.run(&["cp", "evil", &format!("keeps:/data/own/{path}")]);
            assert_eq!(ended.code, 1, "{path} {ended:?}");
        }
        assert!(std::fs::read("/etc/shadow").unwrap() == shadow);
        assert!(!Path::new("/etc/new").exists());
        // A name is no command to a terminal.
        own("mkdir names && mkfifo names/$(printf '\\033]0;title\\007')");
        let ended = app.ok(&["cp", "keeps:/data/own/names", "copy"]);
        assert!(
            ended.err.contains("left out") && !ended.err.contains(['\u{1b}', '\u{7}']),
            "{ended:?}"
        );
        std::fs::remove_dir(&copy).unwrap();
        // A tree whose link becomes a directory behind the caller's back: what comes second is not written through
        // what came first.
        let target = app.folder.join("victim");
        own(&format!("mkdir tree && ln -s {} tree/part", target.display()));
        app.ok(&["cp", "keeps:/data/own/tree", "copy"]);
        own("rm tree/part && mkdir tree/part && echo evil >tree/part/file");
        let ended = app.run(&["cp", "keeps:/data/own/tree/.", "copy"]);
        assert!(
            ended.code == 1 && ended.err.contains("a link stands there"),
            "{ended:?}"
        );
        own("rm -r tree/part && echo evil >tree/part");
        app.ok(&["cp", "evil", "keeps:/data/own/tree/part"]);
        own("rm tree/part && ln -s /data/own/fifo tree/part && mkfifo fifo");
        // Nor does one that waits for a reader hold it up.
        for path in ["tree/part", "fifo"] {
            assert_eq!(app.run(&["cp", "evil", &format!("keeps:/data/own/{path}")]).code, 1);
            assert_eq!(app.run(&["cp", "keeps:/data/own/fifo", "copy2"]).code, 1);
        }
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "whole");
    }
}

#[test]
fn unshare_shows_files_with_the_ids_of_services() {
    for mode in BOTH {
        let app = app(mode, "unshared");
        app.ok(&["up", "-d"]);
        app.sh("keeps", "echo secret >/data/own/secret; chmod 600 /data/own/secret")
            .ok();
        let file = app.state().join("apps/unshared/resources/own/secret");
        let path = file.to_str().unwrap();
        let plain = Ended::from(app.shell_free("cat", &[path]).output().unwrap());
        assert_eq!(plain.code == 0, mode == Mode::Root, "{plain:?}");
        assert_eq!(app.ok(&["unshare", "--", "cat", path]).out, "secret\n");
        let id = app.ok(&["unshare", "id", "-u"]);
        assert_eq!(id.out, "0\n");
        assert_eq!(id.err.contains("root needs no namespace"), mode == Mode::Root);
        // By the ids that `ps` shows.
        let uid = app.ps()["services"][0]["uid"].to_string();
        assert_eq!(app.ok(&["unshare", "stat", "-c", "%u", path]).out.trim(), uid);
        assert_eq!(app.run(&["unshare", "sh", "-c", "exit 7"]).code, 7);
        assert_eq!(app.run(&["unshare", "/no/such/program"]).code, 127);
        // Without a command, a shell.
        let mut shell = app.command(&["unshare"]);
        shell.env("SHELL", "/bin/echo");
        assert_eq!(Ended::from(shell.output().unwrap()).ok().out, "\n");
    }
}

/// A copy that is cut off says so, and leaves nothing under the name that it was to have.
#[test]
fn a_copy_that_is_cut_off_says_so() {
    for mode in BOTH {
        let app = app(mode, "cutoff");
        app.ok(&["up", "-d"]);
        std::fs::File::create(app.folder.join("big"))
            .unwrap()
            .set_len(8 << 30)
            .unwrap();
        std::fs::set_permissions(app.folder.join("big"), std::fs::Permissions::from_mode(0o644)).unwrap();
        inside(&app, true, "keeps", "truncate -s 8G /data/own/large").ok();
        let own = app.state().join("apps/cutoff/resources/own");
        // The client does not go on until the service is another one.
        let cut_off = |from: &str, to: &str| {
            let mut command = app.command(&["cp", from, to]);
            let copy = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_until(|| {
                let figures = std::fs::read_to_string(format!("/proc/{}/io", copy.id())).unwrap();
                let moved = figures.lines().find_map(|l| l.strip_prefix("rchar: ")).unwrap();
                (moved.parse::<u64>().unwrap() > 1 << 20).then_some(())
            });
            signal(copy.id(), nix::sys::signal::Signal::SIGSTOP);
            app.ok(&["restart", "keeps"]);
            signal(copy.id(), nix::sys::signal::Signal::SIGCONT);
            let ended = Ended::from(copy.wait_with_output().unwrap());
            assert_eq!(ended.code, 1, "{mode:?} {ended:?}");
            assert!(
                ended.err.contains("the copy was cut off, as `keeps` ended"),
                "{mode:?} {ended:?}"
            );
        };
        cut_off("big", "keeps:/data/own/big");
        assert!(!own.join("big").exists(), "{mode:?}");
        inside(&app, true, "keeps", "printf 'as it was' >/data/own/big").ok();
        cut_off("big", "keeps:/data/own/big");
        assert_eq!(
            std::fs::read_to_string(own.join("big")).unwrap(),
            "as it was",
            "{mode:?}"
        );
        cut_off("keeps:/data/own/large", "large");
        assert!(!app.folder.join("large").exists(), "{mode:?}");
        app.ok(&["down"]);
    }
}

#[test]
fn a_copy_goes_on_past_what_cannot_be_read_and_stays_sparse() {
    for mode in BOTH {
        let app = app(mode, "partly");
        for up in [true, false] {
            if up {
                app.ok(&["up", "-d"]);
            }
            let make = "cd /data/own && rm -rf * && mkdir -p tree/closed tree/open && echo a >tree/a && echo b >tree/b && echo c >tree/open/c && \
                        truncate -s 64M tree/sparse && echo end >>tree/sparse && chmod 0 tree/b tree/closed";
            assert_eq!(inside(&app, up, "keeps", make).code, 0);
            let to = app.folder.join(format!("out{up}"));
            let out = app.run(&["cp", "keeps:/data/own/tree", to.to_str().unwrap()]);
            assert_eq!(out.code, 1, "{mode:?} {up} {out:?}");
            for part in [
                "tree/b: ",
                "tree/closed: ",
                "left out",
                "2 of it could not be read",
                "the rest is copied",
            ] {
                assert!(out.err.contains(part), "{mode:?} {up} no {part}: {}", out.err);
            }
            assert_eq!(std::fs::read_to_string(to.join("a")).unwrap(), "a\n");
            assert_eq!(std::fs::read_to_string(to.join("open/c")).unwrap(), "c\n");
            assert!(!to.join("b").exists() && !to.join("closed").exists());
            let sparse = to.join("sparse").metadata().unwrap();
            assert_eq!(sparse.size(), (64 << 20) + 4, "{mode:?} {up}");
            assert!(sparse.blocks() < 1024, "{mode:?} {up}: {} blocks", sparse.blocks());
            // And in: onto what is there, too.
            for _ in 0..2 {
                app.ok(&["cp", to.join("sparse").to_str().unwrap(), "keeps:/data/own/again"]);
                let told = inside(
                    &app,
                    up,
                    "keeps",
                    "stat -c '%s %b' /data/own/again; tail -c 4 /data/own/again",
                );
                let mut words = told.out.split_whitespace();
                assert_eq!(words.next(), Some("67108868"), "{mode:?} {up} {told:?}");
                let blocks: u64 = words.next().unwrap().parse().unwrap();
                assert!(blocks < 1024, "{mode:?} {up}: {blocks} blocks");
                assert_eq!(words.next(), Some("end"));
            }
            // What was named itself is an error as before.
            let named = app.run(&["cp", "keeps:/data/own/tree/b", to.to_str().unwrap()]);
            assert_eq!(named.code, 1);
            assert!(!named.err.contains("left out"), "{named:?}");
            assert_eq!(inside(&app, up, "keeps", "chmod -R u+rwX /data/own").code, 0);
            if up {
                app.ok(&["down"]);
            }
        }
    }
}
