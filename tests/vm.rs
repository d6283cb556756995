//! Limits under cgroup version 2, in a machine that this test boots: Debian's kernel, a file system in memory with
//! this program and busybox, and no disk or network. First without systemd, then with it as the first process.
//!
//! The checks are shell scripts in `tests/vm`, which say how each went on the machine's console.

mod harness;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is checked without systemd, as root and as a user.
const EACH: [&str; 11] = [
    "memory",
    "pids",
    "memory.max",
    "memory.swap.max",
    "cpu.max",
    "pids.max",
    "io.weight",
    "throttled",
    "its cgroup is its root",
    "exec joins the cgroup",
    "usage",
];

const ONCE: [&str; 17] = [
    "root: up",
    "root: up says so",
    "root: no disk heeds a weight",
    "root: nothing left",
    "root: nothing left of a killed supervisor",
    "user: not delegated",
    "user: the remedy",
    "user: required",
    "user: required ends with",
    "user: nothing was started",
    "user: a second app",
    "user: the second goes on",
    "user: nothing left",
    "clock: probes go on when it jumps forward",
    "clock: forward",
    "clock: probes go on when it jumps back",
    "clock: down",
];

const WITH_SYSTEMD: [&str; 16] = [
    "package: started",
    "package: runs",
    "package: reloaded",
    "package: stopped",
    "package: nothing runs",
    "unit: not delegated",
    "root: up",
    "root: a scope of its own",
    "root: the scope is gone",
    "root: the own cgroup is whole",
    "user: up",
    "user: a scope of its own",
    "user: the scope is gone",
    "user: run",
    "nobody to ask",
    "nobody to ask, and the remedy",
];

fn here(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn done(command: &mut Command) -> Vec<u8> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}; tests/run installs what is missing"));
    assert!(output.status.success(), "{command:?} failed");
    output.stdout
}

fn need(program: &str, package: &str) {
    let found = ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/lib/systemd"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists());
    assert!(found, "install `{package}`: the machine is made with {program}");
}

struct Root(PathBuf);

impl Root {
    fn directory(&self, path: &str) {
        fs::create_dir_all(self.0.join(path)).unwrap();
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.0.join(path), text).unwrap();
    }

    fn copy(&self, from: &Path, to: &str, mode: u32) {
        let to = self.0.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(from, &to).unwrap_or_else(|e| panic!("copy {}: {e}", from.display()));
        fs::set_permissions(to, fs::Permissions::from_mode(mode)).unwrap();
    }

    /// A program of this machine, with the libraries that it needs, at the same paths.
    fn program(&self, path: &str) {
        self.copy(
            Path::new(path),
            path,
            fs::metadata(path).unwrap().permissions().mode() & 0o7777,
        );
        let listed = String::from_utf8(done(Command::new("ldd").arg(path))).unwrap();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            self.copy(Path::new(library), library, 0o755);
        }
    }
}

fn initramfs(folder: &Path) -> PathBuf {
    let root = Root(folder.join("root"));
    for path in [
        "new",
        "proc",
        "sys",
        "dev",
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "etc",
        "root",
        "home/user",
        "var/lib",
    ] {
        root.directory(path);
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        symlink(format!("usr/{name}"), root.0.join(name)).unwrap();
    }
    root.copy(Path::new("/bin/busybox"), "usr/bin/busybox", 0o755);
    let applets = String::from_utf8(done(Command::new("/bin/busybox").arg("--list"))).unwrap();
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.0.join("usr/bin").join(applet)).unwrap();
    }
    // Without what only a debugger reads, it is a third.
    let stripped = folder.join("pysecure");
    done(Command::new("strip").arg("-o").arg(&stripped).arg(harness::binary()));
    root.copy(&stripped, "usr/bin/pysecure", 0o755);
    for program in [
        "/usr/bin/newuidmap",
        "/usr/bin/newgidmap",
        "/lib/systemd/systemd",
        "/usr/bin/systemd-run",
        "/usr/bin/systemctl",
        "/usr/bin/dbus-daemon",
    ] {
        root.program(program);
    }
    // Over this bus a user's manager asks for processes that are not its own yet: those of a login.
    for file in ["system.conf", "system.d/org.freedesktop.systemd1.conf"] {
        let path = format!("/usr/share/dbus-1/{file}");
        root.copy(Path::new(&path), &path, 0o644);
    }
    for unit in fs::read_to_string(here("tests/vm/units")).unwrap().split("== ").skip(1) {
        let (name, text) = unit.split_once('\n').unwrap();
        root.directory(&format!("etc/systemd/{}", name.split_once('/').unwrap().0));
        root.write(&format!("etc/systemd/{name}"), text);
    }
    let template = "etc/systemd/system/pysecure@.service";
    root.copy(&here("packaging/pysecure@.service"), template, 0o644);
    // There is no target of a whole system here.
    root.directory(&format!("{template}.d"));
    root.write(
        &format!("{template}.d/machine.conf"),
        "[Unit]\nDefaultDependencies=no\n",
    );
    root.write(
        "etc/passwd",
        "root:x:0:0::/root:/bin/sh\nmessagebus:x:100:100::/:/bin/false\nuser:x:1000:1000::/home/user:/bin/sh\n",
    );
    root.write("etc/group", "root:x:0:\nmessagebus:x:100:\nuser:x:1000:\n");
    root.write("etc/shadow", "root::1::::::\nuser::1::::::\n");
    root.write("etc/subuid", "user:100000:65536\n");
    root.write("etc/subgid", "user:100000:65536\n");
    fs::set_permissions(root.0.join("home/user"), fs::Permissions::from_mode(0o755)).unwrap();
    for script in ["lib", "plain", "systemd"] {
        root.copy(&here("tests/vm").join(script), &format!("checks/{script}"), 0o644);
    }
    root.copy(&here("tests/vm/init"), "init", 0o755);
    let archive = folder.join("initramfs");
    let pack = format!(
        "cd '{}' && find . | /bin/busybox cpio -o -H newc 2>/dev/null >'{}'",
        root.0.display(),
        archive.display()
    );
    done(Command::new("sh").args(["-c", &pack]));
    archive
}

/// Boots the machine, and reads what its console says until it is off.
fn boot(kernel: &Path, initramfs: &Path) -> String {
    let mut machine = Command::new("setpriv")
        // Not to be left behind by a test that was killed.
        .args(["--pdeathsig", "KILL", "qemu-system-x86_64"])
        .args([
            "-accel",
            "tcg",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "1200",
            "-nodefaults",
            "-no-reboot",
        ])
        .args(["-display", "none", "-serial", "stdio", "-nic", "none"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .args(["-append", "console=ttyS0 quiet panic=-1 oops=panic rdinit=/init"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("qemu-system-x86_64: {e}; install `qemu-system-x86`"));
    let mut all = String::new();
    for line in BufReader::new(machine.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8_lossy(&line.unwrap()).trim_end().to_owned();
        println!("{line}");
        all += &line;
        all.push('\n');
    }
    machine.wait().unwrap();
    all
}

#[test]
fn limits_hold_under_version_2() {
    harness::need_root();
    for (program, package) in [
        ("busybox", "busybox-static"),
        ("qemu-system-x86_64", "qemu-system-x86"),
        ("newuidmap", "uidmap"),
        ("systemd", "systemd"),
        ("dbus-daemon", "dbus"),
        ("strip", "binutils"),
    ] {
        need(program, package);
    }
    let kept = here("target/vm");
    let kernel = String::from_utf8(done(Command::new(here("tests/vm/kernel")).arg(&kept))).unwrap();
    let folder = harness::fresh_folder();
    let said = boot(Path::new(kernel.trim()), &initramfs(&folder));
    fs::remove_dir_all(&folder).unwrap();
    assert!(said.contains("\nfinished\n"), "the machine ended before its checks did");
    let mut results: BTreeMap<&str, bool> = BTreeMap::new();
    for line in said.lines() {
        if let Some(name) = line.strip_prefix("ok ") {
            results.entry(name).or_insert(true);
        } else if let Some(rest) = line.strip_prefix("not ok ") {
            results.insert(
                rest.split_once(": wanted")
                    .or(rest.split_once(": no <"))
                    .unwrap_or((rest, ""))
                    .0,
                false,
            );
        }
    }
    let failed: Vec<_> = results.iter().filter(|(_, ok)| !**ok).map(|(name, _)| *name).collect();
    assert!(failed.is_empty(), "failed: {failed:?}");
    let mut wanted: Vec<String> = ONCE.map(String::from).to_vec();
    wanted.extend(WITH_SYSTEMD.map(|what| format!("systemd: {what}")));
    for who in ["root", "user", "systemd: root", "systemd: unit", "systemd: user"] {
        wanted.extend(EACH.map(|what| format!("{who}: {what}")));
    }
    let unseen: Vec<_> = wanted
        .iter()
        .filter(|name| !results.contains_key(name.as_str()))
        .collect();
    assert!(unseen.is_empty(), "not checked: {unseen:?}");
}
