//! Bad luck: the supervisor killed at any moment, two starts at once, a start that fails, a full disk. Nothing
//! may be left behind, and nothing that was there may be lost.

mod harness;

use harness::{App, BOTH, Ended, Mode, need_root, wait_until};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn app(mode: Mode, name: &str, range: u32) -> App {
    let manifest = format!(
        r#"
[app]
name = "{name}"
uid_range = [{range}, {}]
gid_range = [{range}, {}]
[resources]
data = {{ path = "/data/d/file.txt", owner = "rw" }}
[services.keeps]
command = ["sh", "-c", "test -s /data/d/file.txt || echo kept > /data/d/file.txt; cat /data/d/file.txt; sleep 1000 & wait"]
owner_resources = ["data"]
[services.other]
command = ["sh", "-c", "echo runs; trap '' HUP; (trap '' HUP; sleep 1000) & while :; do sleep 1000; done"]
"#,
        range + 9,
        range + 9
    );
    App::new(mode, &manifest)
}

/// Every process of an app: who has one of its ids, and who has its state directory in the environment.
fn processes(app: &App, range: u32) -> BTreeSet<i32> {
    let shift = match app.mode {
        Mode::Root => 0,
        // newuidmap maps 1 to the first subordinate id.
        Mode::Rootless => harness::first_subordinate_id() - 1,
    };
    let ids = range + shift..range + shift + 10;
    let mark = format!("PYSECURE_STATE_DIR={}", app.state().display());
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        // /proc/PID belongs to root where a process is not dumpable; its status tells its ids all the same.
        let Ok(status) = std::fs::read_to_string(entry.path().join("status")) else {
            continue;
        };
        let uids = status.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or("");
        let has_id = uids
            .split_whitespace()
            .any(|uid| ids.contains(&uid.parse::<u32>().unwrap()));
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let named = environment.windows(mark.len()).any(|w| w == mark.as_bytes());
        let zombie = status.contains("\nState:\tZ");
        if (has_id || named) && !zombie {
            found.insert(pid);
        }
    }
    found
}

fn kill(pid: i32) {
    // It may have ended by itself.
    let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL);
}

/// Mounts of the host that have to do with an app.
fn mounts(app: &App) -> Vec<String> {
    let all = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    // The test's own, for the state directory, is not meant.
    let state = format!(" {} ", app.state().display());
    all.lines()
        .filter(|l| l.contains(app.folder.to_str().unwrap()) && !l.contains(&state))
        .map(str::to_owned)
        .collect()
}

#[track_caller]
fn assert_nothing_runs(app: &App, range: u32) {
    wait_until(|| processes(app, range).is_empty().then_some(()));
    assert_eq!(mounts(app), Vec::<String>::new());
}

fn assert_ledger_is_whole(app: &App, name: &str) -> serde_json::Value {
    let path = app.state().join(format!("apps/{name}/ledger.json"));
    let text = std::fs::read_to_string(&path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}: {text:?}", path.display()))
}

#[test]
fn nothing_survives_a_killed_supervisor_and_no_data_is_lost() {
    for mode in BOTH {
        let app = app(mode, "killed", 41_000);
        app.ok(&["up", "-d"]);
        app.wait_for_log("keeps", "kept");
        app.wait_for_log("other", "runs");
        // The scan sees what it has to: supervisor, two PID 1s, and their programs, one of them twice.
        assert!(processes(&app, 41_000).len() >= 6, "{:?}", processes(&app, 41_000));
        let file = app.state().join("apps/killed/resources/data");
        let before = tree(&file);
        let supervisor = app.supervisor();
        kill(supervisor);
        assert_nothing_runs(&app, 41_000);
        assert_eq!(tree(&file), before);
        let ps = app.run(&["ps"]);
        assert!(ps.err.contains("not up") && ps.code == 1, "{ps:?}");
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("keeps", "cat /data/d/file.txt").ok().out, "kept\n");
        assert_ne!(app.supervisor(), supervisor);
        // And `down` after such an end finds nothing to stop, and clears away what was left.
        kill(app.supervisor());
        assert_nothing_runs(&app, 41_000);
        assert!(app.state().join("run").exists());
        app.ok(&["down"]);
        assert!(!app.state().join("run/killed").exists());
        assert_eq!(tree(&file), before);
    }
}

/// Path, owner, mode and content of everything below.
fn tree(path: &Path) -> Vec<(String, u32, u32, u32, Vec<u8>)> {
    let found = std::fs::symlink_metadata(path).unwrap();
    let content = if found.is_file() {
        std::fs::read(path).unwrap()
    } else {
        Vec::new()
    };
    let mut all = vec![(
        path.display().to_string(),
        found.uid(),
        found.gid(),
        found.mode(),
        content,
    )];
    if found.is_dir() {
        let mut names: Vec<_> = std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect();
        names.sort();
        all.extend(names.iter().flat_map(|p| tree(p)));
    }
    all
}

#[test]
fn killed_at_any_moment_of_its_start_it_leaves_no_process_and_a_whole_ledger() {
    for mode in BOTH {
        let app = app(mode, "anymoment", 41_100);
        let mut random = 0x2545_f491_4f6c_dd1du64 ^ u64::from(std::process::id());
        let mut stages = BTreeSet::new();
        for round in 0..30 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let delay = Duration::from_micros(random % 40_000);
            let mut up = app
                .command(&["up", "-d"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(delay);
            // Client and supervisor alike, but no service: those have to end by themselves.
            let mark = format!("PYSECURE_STATE_DIR={}", app.state().display());
            let launchers = processes(&app, 41_100).into_iter().filter(|pid| {
                let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                let outside = String::from_utf8_lossy(&read("status")).lines().any(|l| {
                    l.strip_prefix("NSpid:")
                        .is_some_and(|pids| pids.split_whitespace().count() == own_depth())
                });
                outside && read("environ").windows(mark.len()).any(|w| w == mark.as_bytes())
            });
            let mut killed = 0;
            for pid in launchers {
                kill(pid);
                killed += 1;
            }
            up.wait().unwrap();
            // A supervisor that was forked while the list was made.
            wait_until(|| {
                let left = processes(&app, 41_100);
                for pid in left.iter().filter(|pid| is_supervisor(**pid)) {
                    kill(*pid);
                }
                left.is_empty().then_some(())
            });
            assert_eq!(mounts(&app), Vec::<String>::new(), "round {round}");
            let ledger = app.state().join("apps/anymoment/ledger.json");
            let written = ledger.exists();
            if written {
                assert_ledger_is_whole(&app, "anymoment");
            }
            stages.insert((killed, written, app.state().join("run/anymoment/control.sock").exists()));
        }
        assert!(stages.len() > 1, "the moments were all the same: {stages:?}");
        app.ok(&["up", "-d"]);
        app.wait_for_log("keeps", "kept");
        app.ok(&["down"]);
        assert!(!app.state().join("run").exists());
    }
}

fn own_depth() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find_map(|l| l.strip_prefix("NSpid:"))
        .unwrap()
        .split_whitespace()
        .count()
}

fn is_supervisor(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let depth = status
        .lines()
        .find_map(|l| l.strip_prefix("NSpid:"))
        .map_or(0, |l| l.split_whitespace().count());
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    depth == own_depth() && line.ends_with(b"pysecure\0up\0-d\0")
}

#[test]
fn of_two_starts_at_once_one_wins() {
    for mode in BOTH {
        for round in 0..10 {
            let app = app(mode, "twoatonce", 41_200);
            let start = || {
                app.command(&["up", "-d"])
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            };
            let both = [start(), start()];
            let ended = both.map(|child| Ended::from(child.wait_with_output().unwrap()));
            let won = ended.iter().filter(|e| e.out.contains("is up: 2 services")).count();
            assert_eq!(won, 1, "{mode:?} {round}: {ended:#?}");
            let told = |e: &&Ended| e.err.contains("being started by another") || e.out.contains("is up already");
            assert_eq!(ended.iter().filter(told).count(), 1, "{mode:?} {round}: {ended:#?}");
            // Two supervisors would be two of each.
            let supervisors = processes(&app, 41_200)
                .into_iter()
                .filter(|pid| is_supervisor(*pid))
                .count();
            assert_eq!(supervisors, 1, "{mode:?} {round}");
            assert_eq!(app.ps()["services"].as_array().unwrap().len(), 2);
            kill(app.supervisor());
            assert_nothing_runs(&app, 41_200);
        }
    }
}

/// Many at once, against each other: whoever wins, no two supervisors may run, and no start may be broken by
/// an end next to it.
#[test]
fn ups_and_downs_at_once_leave_one_supervisor_or_none() {
    for mode in BOTH {
        let manifest = "[app]\nname = \"storm\"\nuid_range = [41300, 41309]\ngid_range = [41300, 41309]\n\
                        [services.web]\ncommand = [\"sleep\", \"1000\"]\n";
        let app = App::new(mode, manifest);
        std::thread::scope(|scope| {
            for worker in 0..3 {
                let app = &app;
                scope.spawn(move || {
                    for round in 0..15 {
                        let args: &[&str] = if (worker + round) % 2 == 0 {
                            &["up", "-d"]
                        } else {
                            &["down"]
                        };
                        let ended = app.run(args);
                        let lost = [
                            "being started or ended by another",
                            "being started by another",
                            "`storm` went down meanwhile",
                            "`storm` is going down",
                            "`storm` went down before it had said what came of this",
                        ];
                        let clear = ended.code == 0 || lost.iter().any(|text| ended.err.contains(text));
                        assert!(clear, "{mode:?} {args:?}: {ended:?}");
                        let all = processes(app, 41_300);
                        let services = all.iter().filter(|pid| {
                            std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|l| l == b"sleep\x001000\0")
                        });
                        assert!(services.count() <= 1, "{mode:?}: the service runs twice");
                    }
                });
            }
        });
        app.ok(&["down"]);
        assert_nothing_runs(&app, 41_300);
        app.ok(&["up", "-d"]);
        app.ok(&["down"]);
        assert!(!app.state().join("run").exists());
    }
}

#[test]
fn an_app_that_is_up_stays_as_it_is() {
    for mode in BOTH {
        let app = app(mode, "isup", 41_400);
        app.ok(&["up", "-d"]);
        let before = app.ps();
        let again = app.ok(&["up", "-d"]);
        assert!(again.out.contains("is up already"), "{again:?}");
        let attached = app.ok(&["up"]);
        assert!(
            attached.out.contains("is up already") && attached.err.contains("logs -f"),
            "{attached:?}"
        );
        assert_eq!(app.ps()["services"][0]["pid"], before["services"][0]["pid"]);
        assert_eq!(app.supervisor(), before["supervisor_pid"].as_i64().unwrap() as i32);
    }
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    for mode in BOTH {
        for (command, says) in [
            ("nosuchprogram", "no program is called"),
            ("/etc/passwd", "not executable"),
        ] {
            for up in [&["up", "-d"][..], &["up"]] {
                let manifest = format!(
                    "[app]\nname = \"failing\"\nuid_range = [41500, 41509]\ngid_range = [41500, 41509]\n\
                     [services.well]\ncommand = [\"sh\", \"-c\", \"sleep 1000 & wait\"]\n\
                     [services.ill]\ncommand = [\"{command}\"]\n[services.third]\ncommand = [\"sleep\", \"1000\"]\n"
                );
                let app = App::new(mode, &manifest);
                let ended = app.run(up);
                assert_eq!(ended.code, 1, "{ended:?}");
                assert!(ended.err.contains("`ill`") && ended.err.contains(says), "{ended:?}");
                assert_nothing_runs(&app, 41_500);
                assert!(
                    !app.state().join("run").exists(),
                    "{mode:?} {up:?}: the runtime directory is left"
                );
            }
        }
    }
}

/// A file system of a few kilobytes under an app's state directory.
struct Small<'a>(&'a App);

impl Small<'_> {
    fn mount(app: &App) -> Small<'_> {
        need_root();
        std::fs::create_dir(app.state()).unwrap();
        let owner = match app.mode {
            Mode::Root => (0, 0),
            Mode::Rootless => harness::user(),
        };
        let options = format!("size=256k,mode=700,uid={},gid={}", owner.0, owner.1);
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "small"])
            .arg(app.state())
            .status();
        assert!(
            done.unwrap().success(),
            "a test mounts a small tmpfs: it needs CAP_SYS_ADMIN"
        );
        Small(app)
    }

    /// Leaves this many bytes free.
    fn fill(&self, free: usize) {
        let path = self.0.state().join("filler");
        let _ = std::fs::remove_file(&path);
        let size = nix::sys::statvfs::statvfs(&self.0.state()).unwrap();
        let bytes = size.blocks_available() as usize * size.fragment_size() as usize;
        std::fs::write(&path, vec![0; bytes - free]).unwrap();
    }

    fn empty(&self) {
        std::fs::remove_file(self.0.state().join("filler")).unwrap();
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = self.0.run(&["down"]);
        let _ = Command::new("umount").arg("-l").arg(self.0.state()).status();
    }
}

#[test]
fn a_full_disk_is_said_and_the_ledger_stays_as_it_was() {
    for mode in BOTH {
        let app = app(mode, "fulldisk", 41_600);
        // This is not about services that ignore SIGTERM, which take ten seconds a round.
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write(
            "pysecure.toml",
            manifest.replace("trap '' TERM HUP; (trap '' TERM; sleep 1000) &", ""),
        );
        let small = Small::mount(&app);
        app.ok(&["up", "-d"]);
        app.wait_for_log("keeps", "kept");
        app.ok(&["down"]);
        let before = assert_ledger_is_whole(&app, "fulldisk");
        // One more service, so that the ledger has to be written; at each size something else is the first to fail.
        let manifest = std::fs::read_to_string(app.folder.join("pysecure.toml")).unwrap();
        app.write(
            "pysecure.toml",
            format!("{manifest}[services.more]\ncommand = [\"sleep\", \"1000\"]\n"),
        );
        let mut failed = 0;
        for free in (0..20).map(|pages| pages * 4096) {
            small.fill(free);
            let ended = app.run(&["up", "-d"]);
            if ended.code == 0 {
                app.ok(&["down"]);
                continue;
            }
            failed += 1;
            assert!(ended.err.contains("No space left on device"), "{free} free: {ended:?}");
            assert_nothing_runs(&app, 41_600);
            let after = assert_ledger_is_whole(&app, "fulldisk");
            for (name, ids) in before["services"].as_object().unwrap() {
                assert_eq!(&after["services"][name], ids, "{free} free");
            }
            if free == 0 {
                assert_eq!(after, before);
            }
            assert!(!app.state().join("run/fulldisk/control.sock").exists(), "{free} free");
        }
        assert!(failed > 0, "the disk was never full");
        small.empty();
        app.ok(&["up", "-d"]);
        assert_eq!(app.sh("keeps", "cat /data/d/file.txt").ok().out, "kept\n");
        app.ok(&["down"]);
    }
}

/// What one service may do to a folder that it shares: make it deep, and rename what is in it.
fn shares(mode: Mode, name: &str, range: u32, bundle: &str) -> String {
    let adopted = match mode {
        Mode::Root => {
            "theirs = { path = \"/data/theirs/\", source = \"./theirs\", chown = true, owner = \"rw\", bundle = \"rw\" }"
        }
        // Without root, nobody's files can be shown as another's: one writer.
        Mode::Rootless => {
            "theirs = { path = \"/data/theirs/\", source = \"./theirs\", chown = true, owner = \"r\", bundle = \"rw\" }"
        }
    };
    format!(
        r#"
[app]
name = "{name}"
uid_range = [{range}, {last}]
gid_range = [{range}, {last}]
setup = "init.sh"
[resources]
shared = {{ path = "/data/shared/", owner = "rw", bundle = "{bundle}" }}
inner = {{ path = "/data/shared/sub/inner/", owner = "rw", bundle = "{bundle}" }}
{adopted}
[bundles.team]
resources = ["shared", "inner", "theirs"]
[services.owns]
command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
directory = "/data/shared/sub"
owner_resources = ["shared", "inner", "theirs"]
health = {{ command = ["sh", "-c", "echo >>/tmp/asked"], interval = "20ms", retries = 1 }}
[services.member]
command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done"]
bundle = "team"
"#,
        last = range + 9
    )
}

const INIT: &str = "echo first >/data/shared/file\n";

fn sharing(mode: Mode, name: &str, range: u32) -> App {
    let app = App::new(mode, &shares(mode, name, range, "rw"));
    app.write("init.sh", INIT);
    app.write("theirs/file", "theirs");
    app
}

#[test]
fn depth_is_no_reason_to_fail() {
    for mode in BOTH {
        let app = sharing(mode, "deep", 41_700);
        app.ok(&["up", "-d"]);
        let dig = "import os,sys\nos.chdir(sys.argv[1])\nfor i in range(int(sys.argv[2])):\n os.mkdir('deep'); os.chdir('deep')\n\
                   open('bottom', 'w').write('here')\n";
        // More than there are descriptors, and more than a path has room for.
        for (place, depth) in [("/data/shared", "5000"), ("/data/theirs", "1100")] {
            app.ok(&["exec", "-T", "member", "--", "python3", "-c", dig, place, depth]);
        }
        app.sh("owns", "cat /data/shared/file").ok();
        app.ok(&["restart"]);
        app.ok(&["down"]);
        // Rights change, and go all the way down.
        app.write("pysecure.toml", shares(mode, "deep", 41_700, "r"));
        app.ok(&["up", "-d"]);
        let climb = "import os,sys\nos.chdir(sys.argv[1])\nwhile os.path.isdir('deep'):\n os.chdir('deep')\n\
                     print(open('bottom').read(), os.access('bottom', os.W_OK))\n";
        let seen = |service: &str| {
            app.ok(&["exec", "-T", service, "--", "python3", "-c", climb, "/data/shared"])
                .out
        };
        assert_eq!(seen("owns"), "here True\n");
        assert_eq!(seen("member"), "here False\n");
        let listed = app.ok(&["data", "--json"]).out;
        assert!(listed.contains("\"name\": \"shared\""), "{listed}");
        app.ok(&["down"]);
        // A copy of all there is, and back.
        app.ok(&["setup"]);
        app.ok(&["up", "-d"]);
        assert_eq!(seen("owns"), "here True\n");
        app.ok(&["down"]);
        let purged = app.ok(&["down", "--purge"]);
        assert!(purged.out.contains("2 files, "), "{purged:?}");
        assert!(!app.state().join("apps/deep").exists());
        // What was the user's is the user's again, and as deep as it was made.
        let owner = std::fs::metadata(app.folder.join("theirs")).unwrap().uid();
        assert_eq!(owner, if mode == Mode::Root { 0 } else { harness::user().0 });
        let theirs = app.folder.join("theirs");
        let bottom = Command::new("python3")
            .args(["-c", climb])
            .arg(&theirs)
            .output()
            .unwrap();
        assert_eq!(Ended::from(bottom).ok().out, "here True\n");
        assert!(Command::new("rm").arg("-rf").arg(&theirs).status().unwrap().success());
    }
}

#[test]
fn a_folder_that_another_service_renames_fails_nobody() {
    for mode in BOTH {
        let app = sharing(mode, "renames", 41_720);
        app.ok(&["up", "-d"]);
        let before = app.init_of("owns");
        app.sh("owns", "echo kept >/data/shared/sub/inner/kept").ok();
        app.sh(
            "member",
            "mv /data/shared/sub /data/shared/other; ln -s /etc /data/shared/sub",
        )
        .ok();
        // Whoever looks after the service gets in, and so do its probes.
        let asked = app.sh("owns", "pwd; wc -l </tmp/asked").ok().out;
        let (place, asked) = asked.split_once('\n').unwrap();
        assert_ne!(place, "/data/shared/sub");
        let asked: usize = asked.trim().parse().unwrap();
        wait_until(|| {
            let now = app.sh("owns", "wc -l </tmp/asked").ok().out;
            (now.trim().parse::<usize>().unwrap() > asked + 3).then_some(())
        });
        assert_eq!(app.init_of("owns"), before);
        assert_eq!(app.service("owns")["state"], "running");
        // But a directory that somebody names is to be there.
        let named = app.run(&["exec", "-T", "--workdir", "/data/shared/sub/gone", "owns", "--", "pwd"]);
        assert_ne!(named.code, 0, "{named:?}");
        app.ok(&["down"]);
        app.ok(&["up", "-d"]);
        assert_eq!(
            app.sh("owns", "pwd; cat inner/kept").ok().out,
            "/data/shared/sub\nkept\n"
        );
        let all = app.sh("member", "ls /data/shared; cat /data/shared/file").ok().out;
        assert_eq!(all, "file\nmoved-aside-1\nother\nsub\nfirst\n");
    }
}

#[test]
fn what_a_killed_supervisor_leaves_of_a_root_that_can_be_written_to_goes_by_down() {
    for mode in BOTH {
        let manifest = "[app]\nname = \"killedroot\"\nuid_range = [41740, 41749]\ngid_range = [41740, 41749]\n\
                        [services.web]\ncommand = [\"sh\", \"-c\", \"mkdir -p /var/made; sleep 1000 & wait\"]\n\
                        jail = \"minimal\"\nwritable = true\n";
        let app = App::new(mode, manifest);
        app.ok(&["up", "-d"]);
        kill(app.supervisor());
        assert_nothing_runs(&app, 41_740);
        let run = app.state().join("run/killedroot");
        assert!(run.exists());
        let down = app.ok(&["down"]);
        assert!(down.out.contains("is not up"), "{down:?}");
        assert!(!run.exists());
    }
}

#[test]
fn a_purge_that_is_killed_is_brought_to_its_end_by_the_next_command() {
    for mode in BOTH {
        let app = sharing(mode, "halfpurged", 41_760);
        let folder = app.state().join("apps/halfpurged");
        let mut caught = 0;
        for next in [
            &["up", "-d"][..],
            &["down"],
            &["down", "--purge"],
            &["run", "owns", "--", "true"],
        ] {
            // Until one is killed on the way.
            let purging = folder.join("purging");
            loop {
                app.ok(&["up", "-d"]);
                let fill = "cd /data/shared && for n in $(seq 300); do mkdir $n && : >$n/a; done; echo second >file";
                app.sh("owns", fill).ok();
                app.ok(&["down"]);
                let mut child = app.command(&["down", "--purge"]).stdout(Stdio::null()).spawn().unwrap();
                wait_until(|| (purging.exists() || child.try_wait().unwrap().is_some()).then_some(()));
                let mark = format!("PYSECURE_STATE_DIR={}", app.state().display());
                for pid in processes(&app, 41_760) {
                    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
                    if environment.windows(mark.len()).any(|w| w == mark.as_bytes()) {
                        kill(pid);
                    }
                }
                child.wait().unwrap();
                assert_nothing_runs(&app, 41_760);
                if purging.exists() {
                    break;
                }
            }
            caught += 1;
            app.ok(next);
            assert!(!purging.exists(), "{next:?}");
            if next[0] != "down" {
                let seen = app.run(&[
                    "run",
                    "-T",
                    "owns",
                    "--",
                    "sh",
                    "-c",
                    "ls /data/shared; cat /data/shared/file",
                ]);
                assert_eq!(seen.ok().out, "file\nsub\nfirst\n", "{mode:?} {next:?}");
            }
            app.ok(&["down", "--purge"]);
            assert!(!folder.exists(), "{next:?}");
        }
        assert_eq!(caught, 4);
    }
}

#[test]
fn a_build_and_a_copy_that_find_the_disk_full_leave_it_as_it_was() {
    for mode in BOTH {
        let app = sharing(mode, "fullbuild", 41_780);
        let host = harness::folder_of_the_host();
        for number in 0..40 {
            std::fs::write(host.path().join(number.to_string()), vec![number; 10_000]).unwrap();
        }
        let recipe = format!("paths = [\"{}\"]\n", host.path().display());
        app.write("jails/big.toml", recipe);
        let small = Small::mount(&app);
        app.ok(&["up", "-d"]);
        app.sh("owns", "head -c 150000 /dev/zero >/data/shared/big").ok();
        app.ok(&["down"]);
        let free = || {
            let size = nix::sys::statvfs::statvfs(&app.state()).unwrap();
            size.blocks_available() as usize * size.fragment_size() as usize
        };
        for command in [&["jail", "build", "big"][..], &["setup"]] {
            let before = free();
            let failed = app.run(command);
            assert_ne!(failed.code, 0, "{failed:?}");
            assert!(failed.err.contains("No space left on device"), "{failed:?}");
            // But for the folders of the store themselves, and its lock.
            assert!(
                free() + 8 * 4096 >= before,
                "{command:?}: {before} were free, and now {}",
                free()
            );
            assert!(!app.state().join("jails/tmp").exists());
            assert!(!app.state().join("apps/fullbuild/initializing").exists());
        }
        app.ok(&["down", "--purge"]);
        drop(small);
    }
}

/// A command of which nothing can close descriptors in front of one that it keeps: every helper does, and a service's own
/// start does not.
#[allow(
    unsafe_code,
    reason = "only a child that has not run its program yet can be given a filter"
)]
fn unable_to_close(mut command: Command) -> Command {
    use std::os::unix::process::CommandExt;
    let line = |code: u16, jt: u8, k: u32| libc::sock_filter { code, jt, jf: 0, k };
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const ANSWER: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const LAST: u32 = 16 + 8;
    let filter = [
        line(LOAD, 0, 0),
        line(EQUAL, 1, libc::SYS_close_range as u32),
        line(ANSWER, 0, libc::SECCOMP_RET_ALLOW),
        line(LOAD, 0, LAST),
        line(EQUAL, 1, u32::MAX),
        line(ANSWER, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        line(ANSWER, 0, libc::SECCOMP_RET_ALLOW),
    ];
    // SAFETY: one system call on memory that the child has a copy of.
    unsafe { command.pre_exec(move || Ok(pysecure::sys::seccomp_load(&filter)?)) };
    command
}

/// A helper that would hold what other services' lives hang on does not begin, and that is said.
#[test]
fn a_helper_that_cannot_close_descriptors_does_not_begin() {
    let app_with = |mode, name: &str, lines: &str| {
        let service = format!("[services.a]\ncommand = \"sleep infinity\"\n{lines}\n");
        App::new(mode, &format!("[app]\nname = \"unclosed-{name}\"\n{service}"))
    };
    let up = |app: &App| Ended::from(unable_to_close(app.command(&["up", "-d"])).output().unwrap());
    const WHY: &str = "close descriptors of the supervisor";
    for mode in BOTH {
        let health = "health = { command = [\"true\"], interval = \"100ms\", retries = 1 }";
        let app = app_with(mode, "joined", health);
        up(&app).ok();
        // `exec`, and `cp` as well.
        let refused = app.run(&["exec", "-T", "a", "--", "true"]);
        assert_eq!(refused.code, 125, "{mode:?}: {refused:?}");
        assert!(refused.err.contains(WHY), "{mode:?}: {}", refused.err);
        // A probe.
        let ill = wait_until(|| Some(app.service("a")).filter(|s| s["health"] == "unhealthy"));
        assert_eq!(ill["state"], "running");
        let log = app.wait_for_log("a", "unhealthy");
        assert!(log.contains(WHY), "{mode:?}: {log}");
        // A companion, which may fail a moment before its service runs or a moment after that.
        let app = app_with(
            mode,
            "companion",
            "network = \"app\"\npublish = [\"127.77.0.1:28461:80\"]",
        );
        let came = up(&app);
        wait_until(|| (came.err.contains(WHY) || app.logs("a").contains(WHY)).then_some(()));
        let app = app_with(mode, "relay", "listen = [\"127.77.0.2:28462\"]");
        let refused = up(&app);
        assert_eq!(refused.code, 1, "{mode:?}: {refused:?}");
        let said = refused.err.contains("`listen`") && refused.err.contains("EPERM");
        assert!(said, "{mode:?}: {}", refused.err);
    }
}
