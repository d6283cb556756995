//! What services print: that it is kept within its bound, found again, and holds up nobody.

mod harness;

use harness::{App, BOTH, Mode, wait_until};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};

fn log(app: &App, name: &str, service: &str) -> PathBuf {
    app.state().join(format!("apps/{name}/logs/{service}.log"))
}

/// The service's lines, `logs --json` and these arguments.
fn json(app: &App, args: &[&str]) -> Vec<serde_json::Value> {
    let out = app.ok(&[&["logs", "--json"], args].concat()).out;
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn texts(lines: &[serde_json::Value]) -> Vec<&str> {
    lines.iter().map(|line| line["line"].as_str().unwrap()).collect()
}

#[test]
fn streams_times_and_the_lines_that_were_asked_for() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "logwords"
[services.a]
command = ["sh", "-c", "echo out 1; sleep 0.3; echo err 1 >&2; sleep 0.3; echo out 2; printf unfinished >&2; head -c 40000 /dev/zero | tr '\\0' y; echo; exec sleep infinity"]
[services.b]
command = ["sh", "-c", "sleep 0.1; echo of b; exec sleep infinity"]
"#,
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("a", "yyy\n");
        app.wait_for_log("b", "of b");
        let all = json(&app, &["a"]);
        let long = "y".repeat(40_000);
        let of = |stream: &str| -> Vec<&str> {
            texts(&all)
                .into_iter()
                .zip(&all)
                .filter(|(_, l)| l["stream"] == stream)
                .map(|(t, _)| t)
                .collect()
        };
        assert_eq!(of("stdout"), ["out 1", "out 2", &long]);
        // What is not finished is kept until it is, or the service ends.
        assert_eq!(of("stderr"), ["err 1"]);
        assert!(all.iter().all(|line| line["service"] == "a"));

        // Of several services, in the order of time. When `b` came to print is its own affair.
        let time = |line: &serde_json::Value| line["time"].as_str().unwrap().to_owned();
        let both = json(&app, &[]);
        assert_eq!(both.len(), all.len() + 1);
        assert!(both.iter().map(time).is_sorted());

        let times: Vec<String> = all.iter().map(time).collect();
        assert_eq!(texts(&json(&app, &["--tail", "2", "a"])), ["out 2", &long]);
        assert_eq!(json(&app, &["--tail", "0"]).len(), 0);
        let since = json(&app, &["--since", &times[1], "-n", "2", "a"]);
        assert_eq!(texts(&since), ["out 2", &long]);
        let since = json(&app, &["--since", &times[1], "a"]);
        assert_eq!(texts(&since), ["err 1", "out 2", &long]);
        let within: Vec<_> = both
            .iter()
            .filter(|l| (&times[0]..&times[2]).contains(&&time(l)))
            .cloned()
            .collect();
        assert_eq!(json(&app, &["--since", &times[0], "--until", &times[2]]), within);
        let until = json(&app, &["--until", &times[2], "--tail", "1", "a"]);
        assert_eq!(texts(&until), ["err 1"]);
        assert_eq!(json(&app, &["--since", "10m"]).len(), both.len());
        assert_eq!(json(&app, &["--until", "10m"]).len(), 0);
        assert_eq!(json(&app, &["--until", "1970-01-02 12:00"]).len(), 0);
        let wrong = app.run(&["logs", "--since", "yesterday"]);
        assert!(
            wrong.code == 2 && wrong.err.contains("`yesterday` is no time"),
            "{}",
            wrong.err
        );
        let timed = app.ok(&["logs", "-t", "-n", "1", "b"]).out;
        assert_eq!(timed, format!("b | {} of b\n", time(&json(&app, &["b"])[0])));

        // The end of a service ends its line.
        app.ok(&["down"]);
        assert_eq!(texts(&json(&app, &["a", "-n", "1"])), ["unfinished"]);
        // What was printed before stays, and what comes is added.
        app.ok(&["up", "-d"]);
        wait_until(|| (texts(&json(&app, &["a"])).iter().filter(|t| **t == "out 2").count() == 2).then_some(()));
    }
}

#[test]
fn a_service_that_prints_without_end_keeps_its_bound_and_holds_up_no_other() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "logbound"
[services.loud]
command = ["sh", "-c", "yes & yes no >&2"]
logs = { max_size = "64K", max_files = 3 }
[services.endless]
command = ["cat", "/dev/zero"]
logs = { max_size = "64K", max_files = 1 }
[services.quiet]
command = ["sh", "-c", "n=0; while :; do echo line $n; n=$((n + 1)); sleep 0.01; done"]
"#,
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("quiet", "line 99\n");
        let supervisor = app.supervisor();
        let folder = log(&app, "logbound", "loud").parent().unwrap().to_owned();
        let mut rotated = false;
        for _ in 0..1000 {
            let mut sum = [0, 0];
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                // It may have been deleted in between.
                let Ok(found) = entry.metadata() else { continue };
                assert!(found.len() <= 64 << 10 || !entry.file_name().to_string_lossy().starts_with("loud"));
                let name = entry.file_name().into_string().unwrap();
                rotated |= name == "loud.log.2";
                assert_ne!(name, "loud.log.3");
                assert_ne!(name, "endless.log.1");
                sum[usize::from(name.starts_with("endless"))] +=
                    if name.starts_with("quiet") { 0 } else { found.len() };
            }
            assert!(sum[1] <= 64 << 10, "{sum:?}");
        }
        assert!(rotated);
        let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).unwrap();
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak < 64 << 10, "{peak} KiB");
        // It answers, and ends, as if nothing were.
        app.ok(&["down"]);
        let quiet = app.logs("quiet");
        let last = quiet.lines().count();
        assert!(quiet.contains(&format!("line {}\n", last - 1)));
    }
}

#[test]
fn who_follows_loses_and_repeats_nothing_across_rotation_and_restarts() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "logfollow"
[services.n]
command = ["sh", "-c", "seq 50000; echo -n last; exec sleep infinity"]
logs = { max_size = "64K", max_files = 1000 }
"#,
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("n", "| 1000\n");
        let mut follow = app
            .command(&["logs", "-f", "n"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = follow.stdout.take().unwrap();
        let mut shown = String::new();
        let mut until = |text: &str, times: usize| {
            let mut bytes = [0; 64 << 10];
            while shown.matches(text).count() < times {
                let read = out.read(&mut bytes).unwrap();
                assert_ne!(read, 0);
                shown += std::str::from_utf8(&bytes[..read]).unwrap();
            }
            shown.clone()
        };
        until("| 50000\n", 1);
        app.ok(&["down"]);
        until("| last\n", 1);
        app.ok(&["up", "-d"]);
        let shown = until("| 50000\n", 2);
        let mut expected: String = (1..=50_000).map(|n| format!("n | {n}\n")).collect();
        expected = format!("{expected}n | last\n{expected}");
        assert!(
            shown == expected,
            "{} lines of {}",
            shown.lines().count(),
            expected.lines().count()
        );
        assert!(log(&app, "logfollow", "n").with_file_name("n.log.9").exists());
        assert!(app.logs("n") == expected);
        // It ends when there is nothing left to follow.
        app.ok(&["down", "--purge"]);
        assert!(follow.wait().unwrap().success());
    }
}

/// A small disk, mounted until this is dropped.
struct Disk(PathBuf);

impl Disk {
    fn new(app: &App, size: &str) -> Disk {
        let path = app.state();
        std::fs::create_dir(&path).unwrap();
        let (uid, gid) = match app.mode {
            Mode::Root => (0, 0),
            Mode::Rootless => harness::user(),
        };
        let options = format!("size={size},mode=0700,uid={uid},gid={gid}");
        let done = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(&path)
            .status();
        assert!(done.unwrap().success());
        Disk(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_stops_no_service_and_the_loss_is_told() {
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "logfull"
[services.n]
command = ["sh", "-c", "n=0; while :; do echo line $n; n=$((n + 1)); sleep 0.001; done"]
"#,
        );
        let disk = Disk::new(&app, "2m");
        app.ok(&["up", "-d"]);
        app.wait_for_log("n", "line 9\n");
        // The disk is filled by something else, up to the last byte.
        let ballast = disk.0.join("ballast");
        let filled = Command::new("sh")
            .arg("-c")
            .arg(format!("cat /dev/zero > {}", ballast.display()))
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!filled.success());
        let last = || app.logs("n").lines().count();
        let full = wait_until(|| {
            let before = last();
            std::thread::sleep(std::time::Duration::from_millis(500));
            (last() == before).then_some(before)
        });
        assert_eq!(app.ps()["services"][0]["state"], "running");
        std::thread::sleep(std::time::Duration::from_millis(100));
        std::fs::remove_file(&ballast).unwrap();
        let all = app.wait_for_log("n", "lines were lost: no space left on device");
        let lines: Vec<&str> = all.lines().collect();
        let at = lines.iter().position(|l| l.contains("were lost")).unwrap();
        assert!(at >= full - 1, "{at} {full}");
        let number = |line: &str| -> usize { line.rsplit(' ').next().unwrap().parse().unwrap() };
        let lost: usize = lines[at].split(' ').nth(3).unwrap().parse().unwrap();
        let after = wait_until(|| app.logs("n").lines().nth(at + 1).map(str::to_owned));
        assert_eq!(number(lines[at - 1]) + lost + 1, number(&after), "{all}");
        app.ok(&["down", "--purge"]);
    }
}

#[test]
fn who_never_reads_what_up_shows_stops_no_service() {
    let manifest = r#"
[app]
name = "logstuck"
[services.loud]
command = ["sh", "-c", "n=0; while :; do echo $n; echo $n >&2; n=$((n + 1)); done"]
logs = { max_size = "1M" }
[services.quiet]
command = ["sh", "-c", "n=0; while :; do echo line $n; n=$((n + 1)); sleep 0.01; done"]
"#;
    for mode in BOTH {
        // Never read, and both streams the same pipe.
        let app = App::new(mode, manifest);
        let (mut read, write) = std::io::pipe().unwrap();
        let mut up = app
            .command(&["up"])
            .stdout(write.try_clone().unwrap())
            .stderr(write)
            .spawn()
            .unwrap();
        app.wait_for_log("loud", "300000");
        let so_far = app.wait_for_log("quiet", "line 99\n").lines().count();
        app.wait_for_log("quiet", &format!("line {so_far}\n"));
        // Who reads after all is told what is missing, and sees on from there.
        let mut shown = Vec::new();
        let mut bytes = [0; 64 << 10];
        while !String::from_utf8_lossy(&shown).contains("lines not shown; see `pysecure logs`\n") {
            let count = read.read(&mut bytes).unwrap();
            shown.extend_from_slice(&bytes[..count]);
        }
        // And once more nobody reads.
        app.ok(&["down"]);
        assert!(up.wait().unwrap().success());
        drop(read);

        // Gone.
        let (read, write) = std::io::pipe().unwrap();
        let mut up = app
            .command(&["up"])
            .stdout(write.try_clone().unwrap())
            .stderr(write)
            .spawn()
            .unwrap();
        drop(read);
        wait_until(|| app.run(&["ps"]).out.contains("running").then_some(()));
        let so_far = app.logs("quiet").lines().count();
        wait_until(|| (app.logs("quiet").lines().count() > so_far + 20).then_some(()));
        app.ok(&["down"]);
        assert!(up.wait().unwrap().success());
    }
}

/// Runs this test again as a program of its own, in a mount namespace whose /run and /dev are nobody else's.
/// `false`: it has been run there.
fn in_mount_namespace(test: &str) -> bool {
    if std::env::var_os("PYSECURE_TEST_NAMESPACE").is_some() {
        return true;
    }
    harness::need_root();
    let script = "mount -t tmpfs -o mode=0755 tmpfs /mnt
cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/fd /dev/stdin /dev/stdout /dev/stderr /mnt
mkdir /mnt/pts /mnt/shm
mount --bind /dev/pts /mnt/pts
mount --move /mnt /dev
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/lock /run/systemd/journal
exec \"$0\" --exact \"$1\" --nocapture";
    let done = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-ec", script])
        .arg(std::env::current_exe().unwrap())
        .arg(test)
        .env("PYSECURE_TEST_NAMESPACE", "1")
        .status()
        .expect("install `util-linux`: the test needs unshare(1)");
    assert!(done.success());
    false
}

const JOURNAL: &str = "/run/systemd/journal/socket";
const SYSLOG: &str = "/dev/log";

fn daemon(path: &str) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
    socket
}

fn message(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 64 << 10];
    let count = socket.recv(&mut bytes).unwrap();
    String::from_utf8(bytes[..count].to_vec()).unwrap()
}

#[test]
fn the_hosts_own_logs() {
    if !in_mount_namespace("the_hosts_own_logs") {
        return;
    }
    for mode in BOTH {
        let app = App::new(
            mode,
            r#"
[app]
name = "logsinks"
[services.j]
command = ["sh", "-c", "echo to the journal; echo oops >&2; until [ -e /data/go ]; do sleep 0.01; done; seq 3000; exec sleep infinity"]
logs = { sink = "journald" }
owner_resources = ["go"]
[services.s]
command = ["sh", "-c", "n=0; while :; do echo line $n; n=$((n + 1)); sleep 0.01; done"]
logs = { sink = "syslog" }
[services.f]
command = ["sh", "-c", "n=0; while :; do echo line $n; n=$((n + 1)); sleep 0.01; done"]
[services.nobody]
command = ["sh", "-c", "echo unheard; exec sleep infinity"]
logs = { sink = "none" }
[resources.go]
path = "/data/"
owner = "rwx"
"#,
        );
        let syslog = daemon(SYSLOG);
        for detach in [&["up", "-d"][..], &["up"]] {
            let refused = app.run(detach);
            assert_eq!(refused.code, 1);
            assert!(
                refused
                    .err
                    .contains("the lines of `j` are for journald, but /run/systemd/journal/socket cannot be used")
                    && refused
                        .err
                        .contains("start journald, or write sink = \"file\" in [services.j.logs]"),
                "{}",
                refused.err
            );
        }
        let journal = daemon(JOURNAL);
        app.ok(&["up", "-d"]);
        let of = |priority: u8, text: &str| {
            format!(
                "PRIORITY={priority}\nSYSLOG_IDENTIFIER=logsinks/j\nPYSECURE_APP=logsinks\nPYSECURE_SERVICE=j\nMESSAGE={text}\n"
            )
        };
        let mut first = [message(&journal), message(&journal)];
        first.sort();
        assert_eq!(first, [of(3, "oops"), of(6, "to the journal")]);

        // <daemon.info>, then the local time as syslog has it.
        let line = message(&syslog);
        assert!(
            line.starts_with("<30>") && line.ends_with(" logsinks/s: line 0"),
            "{line}"
        );
        assert_eq!(
            line.as_bytes()[4..20].iter().filter(|b| **b == b':').count(),
            2,
            "{line}"
        );

        // A daemon that is slow slows its service, which loses nothing, and no other.
        app.sh("j", "touch /data/go").ok();
        let so_far = app.logs("f").lines().count();
        app.wait_for_log("f", &format!("line {}\n", so_far + 20));
        for n in 1..=3000 {
            assert_eq!(message(&journal), of(6, &n.to_string()));
        }

        // One that goes away and comes back is found again, and told what it missed.
        drop(syslog);
        std::fs::remove_file(SYSLOG).unwrap();
        let so_far = app.logs("f").lines().count();
        app.wait_for_log("f", &format!("line {}\n", so_far + 20));
        let syslog = daemon(SYSLOG);
        let told = message(&syslog);
        assert!(told.starts_with("<27>"), "{told}");
        let told: Vec<&str> = told.split(" logsinks/s: pysecure: ").collect();
        let lost: usize = told[1]
            .strip_suffix(" lines were lost: no such file or directory")
            .unwrap()
            .parse()
            .unwrap();
        assert!(lost >= 20);
        assert!(message(&syslog).contains(" logsinks/s: line "));

        let logs = app.ok(&["logs", "j", "s", "nobody"]);
        assert_eq!(logs.out, "");
        assert!(
            logs.err.contains("journalctl PYSECURE_APP=logsinks PYSECURE_SERVICE=j"),
            "{}",
            logs.err
        );

        // Nobody reads what the others still say, and that does not keep the app from ending.
        app.ok(&["down", "--purge"]);
        for path in [JOURNAL, SYSLOG] {
            std::fs::remove_file(path).unwrap();
        }
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let app = App::new(
        Mode::Root,
        r#"
[app]
name = "logwrong"
[services.a]
command = "true"
logs = { max_size = "1K" }
[services.b]
command = "true"
logs = { sink = "journald", max_files = 2 }
[services.c]
command = "true"
logs = { sink = "elsewhere", max_files = 0 }
"#,
    );
    let said = app.run(&["check"]);
    assert_eq!(said.code, 2);
    for part in [
        "a log so small would not hold long lines",
        "no file is written, so its size says nothing",
        "elsewhere",
        "0 is not an integer",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}
