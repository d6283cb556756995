//! What programs expect of a machine, and find in a service: files of /etc, devices, a log, limits.

mod harness;

use harness::{App, BOTH, Mode};

fn manifest(name: &str, more: &str) -> String {
    format!("[app]\nname = \"{name}\"\n[services.a]\ncommand = \"sleep infinity\"\n{more}")
}

/// Looks up what the C library and runtimes look up, and follows all links of /usr that lead into /etc.
const LOOKED_UP: &str = r#"
import mimetypes, os, platform, socket, sys
assert socket.getservbyname("https", "tcp") == 443
assert socket.getservbyport(25) == "smtp"
assert socket.getprotobyname("icmp") == 1
assert platform.freedesktop_os_release()["ID"]
assert mimetypes.MimeTypes(["/etc/mime.types"]).guess_type("a.woff2")[0]
for name in ["host.conf", "ld.so.conf", "rpc", "networks", "timezone", "localtime", "ssl/certs/ca-certificates.crt"]:
    assert os.path.exists("/etc/" + name), name
# Links that lead into /etc.
secret = ["/etc/environment", "/etc/ssl/private"]
broken = []
found = 0
for folder, folders, files in os.walk("/usr"):
    if folder.startswith("/usr/share/man"): continue
    for name in folders + files:
        path = os.path.join(folder, name)
        if not os.path.islink(path): continue
        to = os.path.normpath(os.path.join(folder, os.readlink(path)))
        if not to.startswith("/etc/") or to in secret: continue
        found += 1
        if not os.path.exists(path): broken.append(path)
print(found, *broken, sep="\n")
for name in ["shadow", "gshadow", "subuid", "ssh", "ssl/private", "machine-id", "sudoers", "pip.conf", "npmrc", "crontab",
             "nginx/nginx.conf", "apache2/sites-enabled", "mysql", "postgresql", "php/8.2/fpm/pool.d", "postfix", "default",
             "environment", "cron.d", "systemd", "pam.d"]:
    if os.path.lexists("/etc/" + name): print("there:", name, file=sys.stderr)
"#;

#[test]
fn tables_and_links_of_etc_are_there_and_secrets_are_not() {
    // What leads nowhere on the host leads nowhere in a service.
    let outside = std::process::Command::new("python3")
        .args(["-c", LOOKED_UP])
        .output()
        .unwrap();
    let outside = harness::Ended::from(outside).ok();
    for secret in ["shadow", "ssl/private", "pam.d", "nginx/nginx.conf"] {
        assert!(
            outside.err.contains(&format!("there: {secret}\n")),
            "{secret}: {outside:?}"
        );
    }
    for mode in BOTH {
        let app = App::new(mode, &manifest("machine-etc", ""));
        let inside = app.ok(&["run", "-T", "a", "--", "python3", "-c", LOOKED_UP]);
        assert_eq!(inside.out, outside.out, "{mode:?}");
        assert_eq!(inside.err, "", "{mode:?}");
    }
}

/// Java's cryptography, which reads what its links in /usr lead to, and PHP's modules, which are links in /etc.
#[test]
fn java_and_php_find_what_their_links_lead_to() {
    let jail = "jail = \"own\"\n";
    for mode in BOTH {
        for (name, root) in [("machine-host", ""), ("machine-jail", jail)] {
            if mode == Mode::Root && root == jail {
                // Who builds a jail is the same in both modes, and this one is large.
                continue;
            }
            let app = App::new(mode, &manifest(name, root));
            app.write(
                "jails/own.toml",
                "extends = \"minimal\"\nbinaries = [\"php\", \"keytool\"]\n",
            );
            let run = |args: &[&str]| app.ok(&[&["run", "-T", "a", "--"], args].concat()).out;
            let keytool = "keytool -genkeypair -alias a -keyalg EC -dname CN=a -storepass changeit -keystore /tmp/keys 2>/dev/null &&
                keytool -list -storepass changeit -keystore /tmp/keys";
            let listed = run(&["sh", "-c", keytool]);
            assert!(listed.contains("PrivateKeyEntry"), "{mode:?} {name}: {listed}");
            let modules = run(&["php", "-m"]);
            for module in ["pdo_mysql", "PDO", "ctype", "mysqli"] {
                assert!(modules.lines().any(|line| line == module), "{mode:?} {name}: {modules}");
            }
            let time = "date_default_timezone_set('Europe/Berlin'); echo date('e');";
            assert_eq!(run(&["php", "-r", time]), "Europe/Berlin", "{mode:?} {name}");
        }
    }
}

/// Says something by syslog(3), and by other means that programs have for that.
const SAYS: &str = r#"
import logging, logging.handlers, socket, syslog, time
syslog.openlog("prog", syslog.LOG_PID, syslog.LOG_DAEMON)
syslog.syslog(syslog.LOG_ERR, "bad")
syslog.syslog(syslog.LOG_INFO, "fine")
handler = logging.handlers.SysLogHandler("/dev/log")
logging.getLogger().addHandler(handler)
logging.warning("two\nlines")
new = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
new.connect("/dev/log")
new.send(b'<31>1 2003-10-11T22:14:15.003Z host app 12 - [a@1 b="c"] structured')
new.send(b"x" * 50000 + b"END")
print("said", flush=True)
time.sleep(1e6)
"#;

#[test]
fn what_is_said_by_syslog_is_in_the_service_s_own_log() {
    for mode in BOTH {
        let app = App::new(
            mode,
            "[app]\nname = \"machine-syslog\"\n[services.a]\ncommand = [\"python3\", \"-c\", \"exec(open('/srv/says').read())\"]\n\
             [services.b]\ncommand = \"sleep infinity\"\n[resources.says]\npath = \"/srv/says\"\nsource = \"says\"\nglobal = \"r\"\n",
        );
        app.write("says", SAYS);
        app.ok(&["up", "-d"]);
        app.wait_for_log("a", "END");
        app.wait_for_log("a", "said");
        let lines = app.ok(&["logs", "--json", "a"]).out;
        let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let has = |stream: &str, text: &str| {
            let found = lines
                .iter()
                .filter(|l| l["stream"] == stream && l["line"].as_str().unwrap().contains(text));
            assert_eq!(found.count(), 1, "{mode:?} {stream} {text}: {lines:#?}");
        };
        has("stderr", "error: prog[2]: bad");
        has("stdout", "prog[2]: fine");
        has("stderr", "warning: two");
        has("stderr", "lines");
        has("stdout", "debug: app[12]: structured");
        // Whoever is run beside it speaks there, too, and another service to its own log.
        for service in ["a", "b"] {
            app.ok(&[
                "exec",
                "-T",
                service,
                "--",
                "logger",
                "-t",
                "beside",
                &format!("of {service}"),
            ]);
            let text = format!("beside: of {service}");
            harness::wait_until(|| (app.logs("a") + &app.logs("b")).contains(&text).then_some(()));
        }
        let (a, b) = (app.logs("a"), app.logs("b"));
        assert!(
            !a.contains("of b") && !b.contains("of a") && !b.contains("fine"),
            "{mode:?}: {a}\n{b}"
        );
        nobody_else_speaks_there(&app);
        // One that is started anew speaks on.
        app.ok(&["restart", "b"]);
        app.ok(&["exec", "-T", "b", "--", "logger", "again"]);
        app.wait_for_log("b", "again");
        app.ok(&["down", "--purge"]);
    }
}

/// By the socket's place on the host neither another service nor another account of the host speaks; its owner could.
fn nobody_else_speaks_there(app: &App) {
    let find = std::process::Command::new("find")
        .arg(app.state())
        .args(["-path", "*/a/log.sock"])
        .output()
        .unwrap();
    let path = harness::Ended::from(find).out.trim().to_owned();
    assert!(!path.is_empty());
    let script = format!(
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect({path:?}); s.send(b'<14>forged')"
    );
    let inside = app.run(&["exec", "-T", "b", "--", "python3", "-c", &script]);
    assert!(inside.code == 1 && inside.err.contains("Error"), "{inside:?}");
    let outside = std::process::Command::new("setpriv")
        .args([
            "--reuid",
            "65533",
            "--regid",
            "65533",
            "--clear-groups",
            "python3",
            "-c",
            &script,
        ])
        .output()
        .unwrap();
    let outside = harness::Ended::from(outside);
    assert!(outside.err.contains("Permission denied"), "{outside:?}");
    assert!(!app.logs("a").contains("forged"));
    harness::Ended::from(app.shell_free("python3", &["-c", &script]).output().unwrap()).ok();
    app.wait_for_log("a", "forged");
}

#[test]
fn who_floods_its_log_by_syslog_holds_up_no_other() {
    let flood = "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect('/dev/log')\nwhile True: s.send(b'<14>' + b'x' * 500)";
    for mode in BOTH {
        let app = App::new(
            mode,
            &format!(
                "[app]\nname = \"machine-flood\"\n[services.a]\ncommand = [\"python3\", \"-c\", {flood:?}]\n\
                 logs = {{ max_size = \"64K\", max_files = 2 }}\n\
                 [services.b]\ncommand = [\"sh\", \"-c\", \"while read x; do echo got $x; done < /tmp/pipe\"]\n"
            )
            .replace(
                "while read x; do echo got $x; done < /tmp/pipe",
                "for n in 1 2 3; do logger beat $n; sleep 0.1; done; sleep infinity",
            ),
        );
        app.ok(&["up", "-d"]);
        app.wait_for_log("a", "xxx");
        app.wait_for_log("b", "beat 3");
        let folder = app.state();
        let sizes = std::process::Command::new("sh")
            .args([
                "-c",
                "find \"$0\" -name 'a.log*' -printf '%s\\n'",
                folder.to_str().unwrap(),
            ])
            .output()
            .unwrap();
        let sizes: Vec<u64> = harness::Ended::from(sizes)
            .out
            .lines()
            .map(|l| l.parse().unwrap())
            .collect();
        assert!(
            !sizes.is_empty() && sizes.iter().sum::<u64>() <= (2 * 64) << 10,
            "{sizes:?}"
        );
        app.ok(&["down", "--purge"]);
    }
}

/// Opens its streams by path.
const BY_PATH: &str =
    "echo out > /dev/stdout; echo fd > /dev/fd/1; cat /dev/stdin; echo end > /proc/self/fd/1; echo err > /dev/stderr";

#[test]
fn streams_are_opened_by_their_paths() {
    for mode in BOTH {
        let app = App::new(
            mode,
            &format!(
                "[app]\nname = \"machine-streams\"\n[services.a]\ncommand = [\"sh\", \"-c\", \"{BY_PATH}; exec sleep infinity\"]\n"
            ),
        );
        app.ok(&["up", "-d"]);
        // Of a service: its log, and nothing to read.
        let log = app.wait_for_log("a", "err");
        assert!(
            log.contains("out\n") && log.contains("fd\n") && log.contains("end\n"),
            "{mode:?}: {log}"
        );
        for way in ["exec", "run"] {
            let say = |script: &str| {
                let pysecure = harness::binary();
                let script = script.replace(
                    "RUN",
                    &format!("{} {way} -T a -- sh -c '{BY_PATH}'", pysecure.display()),
                );
                let script = script.replace(
                    "READ",
                    &format!("{} {way} -T a -- sh -c 'read x; echo got $x'", pysecure.display()),
                );
                harness::Ended::from(app.shell_free("sh", &["-c", &script]).output().unwrap()).ok()
            };
            let all = "out\nfd\nin\nend\n";
            app.write("in", "in\n");
            let name = format!("{mode:?} {way}");
            let ended = say("echo in | RUN");
            assert_eq!((&ended.out[..], &ended.err[..]), (all, "err\n"), "{name}: pipes");
            let ended = say("RUN < in > got 2> bad; cat got; cat bad >&2");
            assert_eq!((&ended.out[..], &ended.err[..]), (all, "err\n"), "{name}: files");
            let ended = say("echo before > got; RUN < in >> got 2>&1; cat got");
            assert_eq!(ended.out, format!("before\n{all}err\n"), "{name}: one file");
            let ended = say("RUN < /dev/null 2> /dev/null");
            assert_eq!(ended.out, "out\nfd\nend\n", "{name}: nothing");
            // What it does not read of a file is there for whoever reads on.
            app.write("in", "1\n2\n3\n");
            let ended = say("{ read one; READ; cat; } < in");
            assert_eq!(ended.out, "got 2\n3\n", "{name}: the rest");
            let mut shown = app.on_terminal(
                &[
                    way,
                    "-T",
                    "a",
                    "--",
                    "sh",
                    "-c",
                    "echo out > /dev/stdout; echo err > /dev/stderr",
                ],
                24,
                80,
            );
            let (code, text) = shown.ended();
            assert!(
                code == 0 && text.contains("out") && text.contains("err"),
                "{name}: {text}"
            );
            let mut shown = app.on_terminal(
                &[
                    way,
                    "a",
                    "--",
                    "sh",
                    "-c",
                    "echo out > /dev/stdout; echo err > /dev/stderr; test -t 2",
                ],
                24,
                80,
            );
            let (code, text) = shown.ended();
            assert!(
                code == 0 && text.contains("out") && text.contains("err"),
                "{name}: {text}"
            );
        }
        app.ok(&["down", "--purge"]);
    }
}

#[test]
fn sizes_of_files_in_memory_and_limits_of_processes_are_the_manifest_s() {
    let keys = "shm_size = \"96M\"\ntmp_size = \"8M\"\ntmp_exec = true\nlimits = { memlock = \"128K\", nproc = 77 }\n";
    let look = "df -B1 --output=size /dev/shm /tmp | tail -n +2 | tr -d ' '; ulimit -l; \
                grep 'Max processes' /proc/self/limits | tr -s ' ' | cut -d' ' -f3,4; \
                printf '#!/bin/sh\\necho ran' > /tmp/x; chmod +x /tmp/x; /tmp/x || echo not; head -c 100M /dev/zero > /tmp/y; wc -c < /tmp/y";
    for mode in BOTH {
        let app = App::new(mode, &manifest("machine-sizes", keys));
        let run = |app: &App| app.ok(&["run", "-T", "a", "--", "bash", "-c", look]);
        let ended = run(&app);
        assert_eq!(
            ended.out.lines().collect::<Vec<_>>()[..6],
            ["100663296", "8388608", "128", "77 77", "ran", "8384512"],
            "{mode:?}: {ended:?}"
        );
        // The control: what is there without.
        app.write("pysecure.toml", manifest("machine-sizes", ""));
        let ended = run(&app);
        let lines: Vec<&str> = ended.out.lines().collect();
        assert_eq!(
            (lines[0], lines[1], lines[3], lines[4]),
            ("67108864", "268435456", "4096 4096", "not"),
            "{mode:?}: {ended:?}"
        );
        assert_eq!(lines[5], "104857600", "{mode:?}");
        for (key, says) in [
            ("shm_size = \"1K\"", "nothing has room in 1024 bytes"),
            ("tmp_size = 0", "nothing has room in 0 bytes"),
            ("tmp_exec = 1", "tmp_exec"),
            ("limits = { nproc = 1 }", "nproc"),
            (
                "limits = { shm_size = \"1M\" }",
                "write `shm_size` and `tmp_size` below [services.NAME]",
            ),
            (
                "tmp_size = \"2M\"\nlimits = { memory = \"1M\" }",
                "`limits.memory` counts what lies in it",
            ),
        ] {
            app.write("pysecure.toml", manifest("machine-sizes", key));
            let ended = app.run(&["check"]);
            assert!(
                ended.err.contains(says) && ended.err.contains("pysecure.toml:"),
                "{key}: {ended:?}"
            );
        }
    }
}

/// Of Node.js and of Java, which take the host's memory and processors where they see no cgroup.
#[test]
fn runtimes_see_the_limits_of_their_service() {
    let node = "console.log(process.constrainedMemory()); console.log(require('v8').getHeapStatistics().heap_size_limit < 400 << 20)";
    let java = ["java", "-XshowSettings:system", "-XX:+PrintFlagsFinal", "-version"];
    let limits = "limits = { memory = \"256M\", cpus = 1 }\n";
    let app = App::new(Mode::Root, &manifest("machine-runtimes", limits));
    let run = |command: &[&str]| app.ok(&[&["run", "-T", "a", "--"], command].concat());
    let seen = run(&["node", "-e", node]);
    assert_eq!(seen.out, "268435456\ntrue\n", "{seen:?}");
    let seen = run(&java);
    let all = seen.out + &seen.err;
    assert!(
        all.contains("Memory Limit: 256.00M") && all.contains("Effective CPU Count: 1\n"),
        "{all}"
    );
    let heap = all.lines().find(|line| line.contains(" MaxHeapSize ")).unwrap();
    let bytes: u64 = heap.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert!(bytes < 256 << 20, "{heap}");
    // It is its own, and nobody's to write.
    let cgroups = run(&[
        "sh",
        "-c",
        "grep ' /sys/fs/cgroup' /proc/self/mountinfo; ls -R /sys/fs/cgroup | grep -c machine-runtimes; true",
    ]);
    let (mounts, count) = cgroups.out.trim_end().rsplit_once('\n').unwrap();
    assert_eq!(count, "0");
    for mount in mounts.lines() {
        let fields: Vec<&str> = mount.split(' ').collect();
        assert!(fields[5].starts_with("ro,nosuid,nodev,noexec"), "{mount}");
        assert!(["/", "/cpuset.cpus"].contains(&fields[3]), "{mount}");
    }
    // The control: without limits there is nothing to see, and the host's memory is taken.
    app.write("pysecure.toml", manifest("machine-runtimes", ""));
    let seen = run(&[
        "sh",
        "-c",
        "ls /sys; grep -c ' /sys/fs/cgroup' /proc/self/mountinfo; true",
    ]);
    assert_eq!(seen.out, "0\n");
}

#[test]
fn memory_that_processes_share_is_counted_once() {
    let script = "import os, time\nx = bytearray(b'x') * (96 << 20)\nfor n in range(3):\n    if not os.fork(): break\nprint('there', flush=True); time.sleep(1e6)";
    for mode in BOTH {
        let app = App::new(
            mode,
            &format!("[app]\nname = \"machine-shared\"\n[services.a]\ncommand = [\"python3\", \"-c\", {script:?}]\n"),
        );
        app.ok(&["up", "-d"]);
        harness::wait_until(|| (app.logs("a").matches("there").count() == 4).then_some(()));
        let stats: serde_json::Value = serde_json::from_str(&app.ok(&["stats", "--json"]).out).unwrap();
        let all = stats
            .as_array()
            .unwrap_or_else(|| stats["services"].as_array().unwrap());
        let bytes = all[0]["memory_bytes"].as_u64().unwrap();
        assert!((96 << 20..192 << 20).contains(&bytes), "{mode:?}: {bytes}");
        app.ok(&["down", "--purge"]);
    }
}
