//! What a jail costs: to build beside a copy of the same files, again when it is there, and to start a service in;
//! and its size beside Debian's: `cargo bench --bench jail`, as root.
//!
//! Ours and the peer's in turn, and the median round counts. Nothing is asserted: the table says what was seen.

use pysecure::bundle::Bundle;
use pysecure::compile::compile;
use pysecure::host::{Dirs, Privilege};
use pysecure::launch::{Descriptors, Launcher, Report};
use pysecure::plan::{self, Ledger};
use pysecure::{manifest, model};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 11;

fn main() {
    let folder = PathBuf::from("/var/tmp").join(format!("pysecure-bench-jail-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    println!("| what | ours | peer | ratio | must reach | met? |");
    println!("| --- | --- | --- | --- | --- | --- |");
    build(&folder);
    start(&folder);
    size(&folder);
    let _ = std::fs::remove_dir_all(&folder);
}

fn row(what: &str, unit: &str, ours: f64, peer: (&str, f64), most: f64) {
    let ratio = ours / peer.1;
    let verdict = if ratio <= most { "met" } else { "**missed**" };
    println!(
        "| {what} | {ours:.2} {unit} | {}: {:.2} {unit} | {ratio:.2} | ≤ {most} | {verdict} |",
        peer.0, peer.1
    );
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn time(what: impl FnOnce()) -> f64 {
    let start = Instant::now();
    what();
    start.elapsed().as_secs_f64() * 1e3
}

#[track_caller]
fn must(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn pysecure(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pysecure"));
    command
        .args(args)
        .current_dir(folder)
        .env("PYSECURE_STATE_DIR", folder.join("state"));
    command
}

fn tree(folder: &Path) -> PathBuf {
    let mut all = std::fs::read_dir(folder.join("state/jails/trees")).unwrap();
    all.next().unwrap().unwrap().path()
}

fn build(folder: &Path) {
    let build = || drop(must(&mut pysecure(folder, &["jail", "build", "python"])));
    build();
    // The files as they lie on the host, so that neither side reads what the other has just written.
    let list: String = walk(&tree(folder))
        .iter()
        .map(|p| p.strip_prefix(tree(folder)).unwrap().to_owned())
        // But for the recipe's own links, of which there is no original.
        .filter(|p| Path::new("/").join(p).symlink_metadata().is_ok())
        .map(|p| format!("{}\n", p.display()))
        .collect();
    std::fs::write(folder.join("list"), list).unwrap();
    let (mut cold, mut warm, mut copy) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        std::fs::remove_dir_all(folder.join("state")).unwrap();
        cold.push(time(build));
        warm.push(time(build));
        let to = folder.join("copy");
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir(&to).unwrap();
        let mut cp = Command::new("sh");
        cp.current_dir("/")
            .args(["-c", "xargs -a \"$1\" -d '\\n' cp -a --parents -t \"$2\"", "sh"])
            .arg(folder.join("list"))
            .arg(&to);
        copy.push(time(|| drop(must(&mut cp))));
    }
    let (cold, warm, copy) = (median(&mut cold), median(&mut warm), median(&mut copy));
    row(
        "build of the python jail, cold",
        "ms",
        cold,
        ("`cp -a` of the same files", copy),
        1.5,
    );
    row("the same again, the store warm", "ms", warm, ("cold", cold), 0.1);
}

/// Files and links below a folder.
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => out.extend(walk(&entry.path())),
            false => out.push(entry.path()),
        }
    }
    out
}

fn start(folder: &Path) {
    let of = |rootfs: &str| -> Bundle {
        let text = format!(
            "[app]\nname = \"bench-{rootfs}\"\n[services.t]\ncommand = [\"/usr/bin/python3\", \"-S\", \"-c\", \"\"]\njail = \"{rootfs}\"\n"
        );
        std::fs::write(folder.join("pysecure.toml"), text).unwrap();
        must(&mut pysecure(folder, &["run", "-T", "t"]));
        let source = manifest::Source::read(folder.join("pysecure.toml")).unwrap();
        let (manifest, _) = manifest::parse(&source);
        let base = model::source::Base::open(folder).unwrap();
        let (model, _) = model::build(&manifest, &base);
        let dirs = Dirs::find(&format!("bench-{rootfs}"), true, Some(&folder.join("state"))).unwrap();
        let library = plan::template::Library::new(base.path(), &dirs.state);
        let mut ledger = Ledger::read(&dirs, &format!("bench-{rootfs}")).unwrap();
        let plan = plan::draw(&model, &Privilege::Root, &dirs, &library, &mut ledger).unwrap();
        compile(&plan, &plan.services[0], &dirs.bundle("t")).unwrap()
    };
    let (jail, host) = (of("python"), of("host"));
    let null = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .unwrap();
    let mut launcher = Launcher::new().unwrap();
    let mut run = |bundle: &Bundle| {
        let running = launcher.launch(bundle, &Descriptors::of([null.as_fd(); 3])).unwrap();
        loop {
            match running.report().unwrap() {
                Report::Started => {}
                Report::Exited(status) => break assert_eq!(status, 0),
                other => panic!("{other:?}"),
            }
        }
        rustix::process::waitpid(Some(running.pid), rustix::process::WaitOptions::empty()).unwrap();
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..20 * ROUNDS {
        ours.push(time(|| run(&jail)));
        theirs.push(time(|| run(&host)));
    }
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    row(
        "start to exit of `python3 -S -c \"\"` in the python jail",
        "ms",
        ours,
        ("jail = \"host\"", theirs),
        1.1,
    );
}

/// Bytes of the jail's files, beside those that dpkg says python3-minimal and all it depends on have.
fn size(folder: &Path) {
    let bytes = |path: &Path| path.symlink_metadata().map_or(0, |m| m.len());
    let ours: u64 = walk(&tree(folder)).iter().map(|p| bytes(p)).sum();
    let script = "apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
                  --no-enhances python3-minimal | grep '^[a-z]' | sort -u | xargs dpkg-query -W -f '${Installed-Size}\\n' \
                  2>/dev/null | awk '{ all += $1 } END { print all }'";
    let theirs = must(Command::new("sh").args(["-c", script]));
    let theirs: f64 = theirs.trim().parse().unwrap_or(f64::NAN);
    row(
        "size of the python jail",
        "MB",
        ours as f64 / 1e6,
        (
            "Debian's python3-minimal and what it depends on, as apt counts",
            theirs * 1024.0 / 1e6,
        ),
        1.0,
    );
}
