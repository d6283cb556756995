//! The Debian package: built from this program's binary, installed where the machine stays as it is, an app started by its units,
//! removed again.

mod harness;

use harness::{Ended, bound, fresh_folder, need_root};
use std::path::Path;
use std::process::Command;

/// Runs a script as root in a copy of this machine's root that nobody else sees, and that is gone with it.
const IN_A_ROOT_OF_ITS_OWN: &str = r#"
set -eu
top=$1; shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$top"
mkdir "$top/upper" "$top/work" "$top/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root"
cd "$top/root"
for place in proc sys dev; do mount --rbind "/$place" "$place"; done
for place in run tmp; do mount -t tmpfs tmpfs "$place"; done
chmod 1777 tmp
cp "$1" tmp/package.deb
mkdir tmp/old
pivot_root . tmp/old
umount -l /tmp/old
cd /
exec /bin/bash -c "$2"
"#;

/// As systemd starts a unit of type `notify`: UNIT, what stands for %E, and the words before the command.
const START: &str = r#"
import os, re, select, shlex, socket, subprocess, sys
unit, configuration, *before = sys.argv[1:]
text = open(unit).read()
def command(key):
    line = re.search(rf"^{key}=(.*)$", text, re.M).group(1)
    return before + shlex.split(line.replace("%i", "demo").replace("%E", configuration))
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind("/run/notify")
os.chmod("/run/notify", 0o777)
os.environ["NOTIFY_SOCKET"] = "/run/notify"
up = subprocess.Popen(command("ExecStart"))
ended = os.pidfd_open(up.pid)
said = b""
while b"READY=1" not in said:
    ready, _, _ = select.select([manager, ended], [], [])
    assert manager in ready, f"it ended with {up.wait()}"
    said = manager.recv(4096)
del os.environ["NOTIFY_SOCKET"]
of_app = command("ExecStart")[:-1]
print(subprocess.check_output(of_app + ["ps"], text=True))
subprocess.check_call(command("ExecReload"))
os.kill(up.pid, 15)
assert up.wait() == 0, up.returncode
os.unlink("/run/notify")
"#;

const INSIDE: &str = r#"
set -eu
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
unset PYSECURE_STATE_DIR
dpkg -i /tmp/package.deb
dpkg -V pysecure
test "$(command -v pysecure)" = /usr/bin/pysecure
pysecure --version
man=$(gzip -dc /usr/share/man/man1/pysecure.1.gz); case $man in *pysecure*) ;; *) exit 1 ;; esac
test -s /usr/share/man/man1/pysecure-up.1.gz
bash -c '. /usr/share/bash-completion/completions/pysecure; complete -p pysecure'
grep -q '^#compdef pysecure' /usr/share/zsh/vendor-completions/_pysecure
grep -q 'complete -c pysecure' /usr/share/fish/vendor_completions.d/pysecure.fish
systemd-analyze verify --man=no pysecure@demo.service
echo == root
pysecure init /etc/pysecure/demo
python3 -c "$START" /usr/lib/systemd/system/pysecure@.service /none
test -d /var/lib/pysecure/apps/demo
echo == user
home=/tmp/home; install -d -o pysecure-test -g pysecure-test $home
as="setpriv --reuid pysecure-test --regid pysecure-test --init-groups --inh-caps=-all env HOME=$home"
$as pysecure init $home/.config/pysecure/demo
python3 -c "$START" /usr/lib/systemd/user/pysecure@.service $home/.config $as
test -d $home/.local/share/pysecure/apps/demo
echo == removed
dpkg -r pysecure
test ! -e /usr/bin/pysecure
test ! -e /usr/lib/systemd/system/pysecure@.service
test ! -e /usr/share/man/man1/pysecure.1.gz
# What is the user's stays.
test -e /etc/pysecure/demo/pysecure.toml
test -d /var/lib/pysecure/apps/demo
"#;

#[test]
fn a_package_is_installed_starts_an_app_and_is_removed() {
    bound();
    need_root();
    harness::user();
    let folder = fresh_folder();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(repository.join("packaging/deb"))
        .args([harness::binary().as_os_str(), folder.as_os_str()])
        .env("PYSECURE_DEB_COMPRESSION", "none")
        .output()
        .expect("packaging/deb is there");
    let package = Ended::from(output).ok().out.trim().to_owned();
    let root = folder.join("root");
    std::fs::create_dir(&root).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "bash", "-c", IN_A_ROOT_OF_ITS_OWN, "in"])
        .args([root.to_str().unwrap(), &package, INSIDE])
        .env("START", START)
        .output()
        .expect("install `util-linux`: it has unshare(1)");
    let ended = Ended::from(output).ok();
    for (from, services) in [("== root", "== user"), ("== user", "== removed")] {
        let part = ended.out.split(from).nth(1).unwrap().split(services).next().unwrap();
        assert!(
            part.contains("running") && part.contains("is up"),
            "{from}: {}",
            ended.out
        );
    }
    // The machine is as it was.
    assert!(!Path::new("/usr/bin/pysecure").exists() && !Path::new("/etc/pysecure").exists());
}

#[test]
fn a_package_of_a_binary_that_needs_libraries_is_refused() {
    let output = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb"))
        .args(["/bin/ls", "/tmp"])
        .output()
        .unwrap();
    let refused = Ended::from(output);
    assert!(
        refused.code == 1 && refused.err.contains("needs libraries"),
        "{refused:?}"
    );
}

/// `cargo install --path CLONE` in another folder does not read the clone's .cargo/config.toml, and says what comes of it.
#[test]
fn a_build_that_would_need_libraries_says_so() {
    bound();
    let folder = fresh_folder();
    let script = folder.join("script");
    let repository = env!("CARGO_MANIFEST_DIR");
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-o"]).arg(&script).arg("build.rs");
    Ended::from(rustc.current_dir(repository).output().unwrap()).ok();
    let says = |features: &str| {
        let output = Command::new(&script)
            .env("CARGO_MANIFEST_DIR", repository)
            .env("OUT_DIR", &folder)
            .env("CARGO_CFG_TARGET_OS", "linux")
            .env("CARGO_CFG_TARGET_FEATURE", features)
            .output()
            .unwrap();
        Ended::from(output).ok().out
    };
    assert!(says("fxsr,sse2").contains("cargo::warning=this pysecure needs libraries"));
    assert!(!says("crt-static,fxsr,sse2").contains("cargo::warning"));
}
