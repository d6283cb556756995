//! What a start costs, beside the least that the kernel asks for it and beside the peers, all in one run:
//! `cargo bench --bench start`, as root, with Debian's crun, bubblewrap and gcc.
//!
//! Each figure is measured in rounds, ours and the peer's in turn, and the median round counts. Nothing is asserted:
//! the table says what was seen.

use pysecure::bundle::Bundle;
use pysecure::compile::compile;
use pysecure::host::{Dirs, Privilege};
use pysecure::launch::{Descriptors, Launcher, Report};
use pysecure::plan::{self, Ledger, Plan};
use pysecure::{manifest, model};
use std::fmt::Write as _;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

const ROUNDS: usize = 9;

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--parse") {
        return parse_alone(&args.next().unwrap_or_default());
    }
    for (program, package) in [
        ("crun", "crun"),
        ("bwrap", "bubblewrap"),
        ("cc", "gcc"),
        ("unshare", "util-linux"),
    ] {
        if !run_quietly(Command::new("sh").args(["-c", &format!("command -v {program}")])) {
            eprintln!("the benchmark wants Debian's package {package}");
            std::process::exit(1);
        }
    }
    if Command::new("id")
        .arg("-u")
        .output()
        .map(|o| o.stdout != b"0\n")
        .unwrap_or(true)
    {
        eprintln!("the benchmark wants root: crun is measured with the host's ids");
        std::process::exit(1);
    }
    let bench = Bench::new();
    println!("| what | ours | peer | ratio | must reach | met? |");
    println!("| --- | --- | --- | --- | --- | --- |");
    bench.inside_a_supervisor();
    bench.one_shot();
    bench.many();
    bench.memory();
    bench.check();
    bench.exec();
    let _ = std::fs::remove_dir_all(&bench.folder);
}

/// A row of the table.
fn row(what: &str, unit: &str, ours: f64, peer: (&str, f64), most: f64) {
    let ratio = ours / peer.1;
    let verdict = if ratio <= most { "met" } else { "**missed**" };
    println!(
        "| {what} | {ours:.2} {unit} | {}: {:.2} {unit} | {ratio:.2} | ≤ {most} | {verdict} |",
        peer.0, peer.1
    );
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// Milliseconds of each of two things, taken in turn.
fn in_turn(mut one: impl FnMut() -> f64, mut other: impl FnMut() -> f64) -> (f64, f64) {
    one();
    other();
    let (mut a, mut b) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        a.push(one());
        b.push(other());
    }
    (median(a), median(b))
}

fn time(runs: usize, mut what: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..runs).for_each(|_| what());
    start.elapsed().as_secs_f64() * 1e3 / runs as f64
}

fn run_quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
}

#[track_caller]
fn must(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn parse_alone(path: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    std::hint::black_box(toml::de::DeTable::parse(&text).unwrap());
}

struct Bench {
    folder: PathBuf,
    program: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let folder = PathBuf::from("/var/tmp").join(format!("pysecure-bench-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("app")).unwrap();
        std::fs::write(folder.join("true.c"), "int main(void) { return 0; }\n").unwrap();
        std::fs::write(
            folder.join("idle.c"),
            "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n",
        )
        .unwrap();
        for name in ["true", "idle"] {
            let source = folder.join(format!("{name}.c"));
            must(
                Command::new("cc")
                    .args(["-static", "-O2", "-o"])
                    .arg(folder.join("app").join(name))
                    .arg(source),
            );
        }
        let floor = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/floor.c");
        must(
            Command::new("cc")
                .args(["-static", "-O2", "-o"])
                .arg(folder.join("floor"))
                .arg(floor),
        );
        let bench = Bench {
            folder,
            program: PathBuf::from(env!("CARGO_BIN_EXE_pysecure")),
        };
        bench.write("one", "[services.t]\ncommand = \"/app/true\"\n");
        bench
    }

    /// A manifest in a folder of its own, with the programs as code.
    fn write(&self, name: &str, services: &str) -> PathBuf {
        let path = self.folder.join(name);
        std::fs::create_dir_all(&path).unwrap();
        let app = self.folder.join("app");
        let head = format!(
            "[app]\nname = \"{name}\"\nuid_range = [20000, 60000]\ngid_range = [20000, 60000]\ncode = {{ \"/app\" = \"{}\" }}\n",
            app.display()
        );
        std::fs::write(path.join("pysecure.toml"), head + services).unwrap();
        path
    }

    fn pysecure(&self, name: &str, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(args)
            .current_dir(self.folder.join(name))
            .env("PYSECURE_STATE_DIR", self.folder.join("state").join(name));
        command
    }

    fn planned(&self, name: &str) -> (Plan, Bundle) {
        let path = self.folder.join(name).join("pysecure.toml");
        let source = manifest::Source::read(&path).unwrap();
        let (manifest, _) = manifest::parse(&source);
        let base = model::source::Base::open(path.parent().unwrap()).unwrap();
        let (model, _) = model::build(&manifest, &base);
        let dirs = Dirs::find(name, true, Some(&self.folder.join("state").join(name))).unwrap();
        let library = plan::template::Library::new(base.path(), &dirs.state);
        let mut ledger = Ledger::read(&dirs, name).unwrap();
        let plan = plan::draw(&model, &Privilege::Root, &dirs, &library, &mut ledger).unwrap();
        let bundle = compile(&plan, &plan.services[0], &dirs.bundle("t")).unwrap();
        (plan, bundle)
    }

    fn inside_a_supervisor(&self) {
        let (plan, bundle) = self.planned("one");
        let bundles = self.folder.join("bundles");
        must(&mut self.pysecure("one", &["spec", "-o", bundles.to_str().unwrap()]));
        let ops = self.folder.join("ops");
        std::fs::write(&ops, operations(&bundle)).unwrap();
        let null = std::fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .unwrap();
        let mut launcher = Launcher::new().unwrap();
        let mut start = |bundle: &Bundle| {
            let stdio = [null.as_fd(), null.as_fd(), null.as_fd()];
            let running = launcher.launch(bundle, &Descriptors::of(stdio)).unwrap();
            loop {
                match running.report().unwrap() {
                    Report::Started | Report::Terminal(_) => {}
                    Report::Exited(status) => break assert_eq!(status, 0),
                    other => panic!("{other:?}"),
                }
            }
            rustix::process::waitpid(Some(running.pid), rustix::process::WaitOptions::empty()).unwrap();
        };
        let floor = || {
            let output = Command::new(self.folder.join("floor"))
                .args([
                    "200",
                    ops.to_str().unwrap(),
                    bundles.join("t/rootfs").to_str().unwrap(),
                    "/app/true",
                ])
                .output()
                .unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
        };
        let (ours, peer) = in_turn(|| time(200, || start(&bundle)), floor);
        row("start to exit inside a supervisor", "ms", ours, ("floor", peer), 1.5);
        let with_compile = time(200, || start(&compile(&plan, &plan.services[0], &self.folder).unwrap()));
        println!(
            "| the same with its compile | {with_compile:.2} ms | floor: {peer:.2} ms | {:.2} | | |",
            with_compile / peer
        );
    }

    fn one_shot(&self) {
        let app = self.folder.join("app");
        let bwrap = || {
            let mut command = Command::new("bwrap");
            command.args("--unshare-all --unshare-user --uid 0 --gid 0 --hostname t --ro-bind /usr /usr --symlink usr/bin /bin --symlink usr/lib /lib --symlink usr/lib64 /lib64 --ro-bind /etc/alternatives /etc/alternatives --ro-bind /etc/ld.so.cache /etc/ld.so.cache --ro-bind /etc/ssl /etc/ssl --proc /proc --dev /dev --tmpfs /tmp --ro-bind".split(' '));
            must(command.arg(&app).args(["/app", "--die-with-parent", "/app/true"]));
        };
        let ours = || must(&mut self.pysecure("one", &["run", "t"]));
        let (a, b) = in_turn(|| time(30, ours), || time(30, bwrap));
        row("one-shot `run`, whole process", "ms", a, ("bubblewrap", b), 0.7);
        let crun = self.crun_series("for i in $(seq 30); do crun run b$$-$i; done", "bundles/t", 30);
        let (a, b) = in_turn(|| time(30, ours), crun);
        row("the same", "ms", a, ("crun run", b), 0.35);
    }

    /// A shell which measures itself, where crun works and cannot give away the host's /dev/null; milliseconds each.
    fn crun_series<'a>(&'a self, series: &'a str, bundle: &'a str, runs: usize) -> impl FnMut() -> f64 + 'a {
        move || {
            let script = format!(
                "cd {bundle} && s=$(date +%s%N) && {{ {series}; }} >/dev/null && e=$(date +%s%N) && echo $(( e - s ))"
            );
            let output = Command::new(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/harness/runtime-namespace.sh"
            ))
            .args(["--cgroup2", "bash", "-ec", &script])
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()
            .unwrap();
            assert!(
                output.status.success(),
                "crun: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            let nanoseconds: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
            nanoseconds / 1e6 / runs as f64
        }
    }

    fn many(&self) {
        let services = |n: usize| {
            (0..n).fold(String::new(), |mut all, i| {
                let _ = writeln!(all, "[services.s{i}]\ncommand = \"/app/idle\"");
                all
            })
        };
        for n in [100, 1000] {
            self.write(&format!("many{n}"), &services(n));
        }
        let up = |n: usize| {
            let name = format!("many{n}");
            let took = time(1, || must(&mut self.pysecure(&name, &["up", "-d"])));
            must(&mut self.pysecure(&name, &["down"]));
            took
        };
        self.write("idle", "[services.t]\ncommand = \"/app/idle\"\n");
        let bundles = self.folder.join("idle-bundles");
        must(&mut self.pysecure("idle", &["spec", "-o", bundles.to_str().unwrap()]));
        let crun = self.crun_series(
            "for i in $(seq 100); do crun run -d c$$-$i </dev/null >/dev/null 2>&1; done",
            "idle-bundles/t",
            1,
        );
        let mut crun = crun;
        let mut with_clean_up = || {
            let took = crun();
            let _ = run_quietly(Command::new("sh").args(["-c", "pkill -KILL -f ^/app/idle$"]));
            let _ = run_quietly(Command::new("sh").args([
                "-c",
                "for c in $(ls /run/crun 2>/dev/null | grep ^c); do crun delete -f $c; done",
            ]));
            took
        };
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            ours.push(up(100));
            theirs.push(with_clean_up());
        }
        let hundred = median(ours);
        row(
            "`up -d` of 100 services",
            "ms",
            hundred,
            ("100 × crun run -d", median(theirs)),
            0.25,
        );
        let thousand = median((0..3).map(|_| up(1000)).collect());
        row(
            "one service's share of `up` at 1,000",
            "ms",
            thousand / 1000.0,
            ("at 100", hundred / 100.0),
            1.2,
        );
    }

    /// KiB of Pss, the program's own left out.
    fn memory(&self) {
        must(&mut self.pysecure("many100", &["up", "-d"]));
        let ps = self.pysecure("many100", &["ps", "--json"]).output().unwrap();
        let ps: serde_json::Value = serde_json::from_slice(&ps.stdout).unwrap();
        let inits = ps["services"]
            .as_array()
            .unwrap()
            .iter()
            .map(|s| s["pid"].as_u64().unwrap());
        let hundred: u64 = inits.chain([ps["supervisor_pid"].as_u64().unwrap()]).map(pss).sum();
        must(&mut self.pysecure("many100", &["down"]));
        let mut bwraps: Vec<_> = (0..20)
            .map(|_| {
                let mut command = Command::new("bwrap");
                command.args(
                    "--unshare-all --die-with-parent --ro-bind /usr /usr --proc /proc --dev /dev --ro-bind".split(' '),
                );
                command
                    .arg(self.folder.join("app"))
                    .args(["/app", "/app/idle"])
                    .stdin(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        std::thread::sleep(std::time::Duration::from_millis(500));
        let pids = Command::new("pgrep").args(["-x", "bwrap"]).output().unwrap().stdout;
        let theirs: u64 = String::from_utf8(pids)
            .unwrap()
            .lines()
            .map(|p| pss(p.parse().unwrap()))
            .sum();
        bwraps.iter_mut().for_each(|b| drop(b.kill().and_then(|()| b.wait())));
        let ours = hundred as f64 / 100.0;
        println!(
            "| memory that an idle service adds beside its program (supervisor's share included) | {ours:.0} KiB | bubblewrap: {:.0} KiB | {:.2} | ≤ 300 KiB | {} |",
            theirs as f64 / 20.0,
            ours / (theirs as f64 / 20.0),
            if ours <= 300.0 { "met" } else { "**missed**" }
        );
    }

    fn check(&self) {
        let own = std::env::current_exe().unwrap();
        let mut figures = Vec::new();
        for n in [1_000, 10_000] {
            let mut text = String::new();
            for i in 0..3 * n {
                let _ = writeln!(
                    text,
                    "[resources.r{i}]\npath = \"/data/r{i}/\"\nowner = \"rw\"\nbundle = \"r\""
                );
            }
            for i in 0..n {
                let _ = writeln!(text, "[bundles.b{i}]\nresources = [\"r{}\"]", 3 * i);
                let _ = writeln!(
                    text,
                    "[services.s{i}]\ncommand = [\"/app/idle\"]\nowner_resources = [\"r{}\", \"r{}\", \"r{}\"]\nbundle = \"b{}\"",
                    3 * i,
                    3 * i + 1,
                    3 * i + 2,
                    (i + 1) % n
                );
            }
            let name = format!("check{n}");
            let file = self.write(&name, &text).join("pysecure.toml");
            let runs = if n == 1_000 { 10 } else { 2 };
            let parse = || must(Command::new(&own).arg("--parse").arg(&file));
            figures.push(in_turn(
                || time(runs, || must(&mut self.pysecure(&name, &["check"]))),
                || time(runs, parse),
            ));
        }
        row(
            "`check` of 1,000 services, 3,000 resources",
            "ms",
            figures[0].0,
            ("parsing alone", figures[0].1),
            3.0,
        );
        row(
            "`check` of ten times that",
            "ms",
            figures[1].0,
            ("ten times the time", 10.0 * figures[0].0),
            1.0,
        );
    }

    fn exec(&self) {
        must(&mut self.pysecure("idle", &["up", "-d"]));
        let ours = || must(&mut self.pysecure("idle", &["exec", "-T", "t", "--", "/app/true"]));
        let crun = self.crun_series(
            "crun run -d e$$ </dev/null >/dev/null 2>&1; b=$(date +%s%N); for i in $(seq 30); do crun exec e$$ /app/true; done; s=$(( $(date +%s%N) - $(date +%s%N) + b )); crun delete -f e$$",
            "idle-bundles/t",
            30,
        );
        let (a, b) = in_turn(|| time(30, ours), crun);
        row("`exec SERVICE -- true`", "ms", a, ("crun exec", b), 0.5);
        must(&mut self.pysecure("idle", &["down", "--purge"]));
    }
}

fn pss(pid: u64) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    text.lines()
        .find_map(|l| l.strip_prefix("Pss:"))
        .and_then(|l| l.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

/// The spec's mounts as the floor takes them.
fn operations(bundle: &Bundle) -> String {
    let mut out = String::new();
    for mount in bundle.spec.mounts().iter().flatten() {
        let options = mount.options().clone().unwrap_or_default();
        let has = |names: [&str; 2]| u8::from(options.iter().any(|o| names.contains(&o.as_str())));
        let target = mount.destination().display();
        match mount.typ().as_deref() {
            Some("proc") => writeln!(out, "p {target}"),
            Some("devpts") => writeln!(out, "d {target}"),
            Some("tmpfs") => {
                let data: Vec<&str> = options.iter().map(String::as_str).filter(|o| o.contains('=')).collect();
                writeln!(out, "t {target} {} {}", data.join(","), has(["noexec", "rnoexec"])).unwrap();
                if mount.destination() == Path::new("/dev") {
                    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
                        writeln!(out, "n {name}").unwrap();
                    }
                    for (name, to) in [
                        ("ptmx", "pts/ptmx"),
                        ("fd", "/proc/self/fd"),
                        ("stdin", "/proc/self/fd/0"),
                        ("stdout", "/proc/self/fd/1"),
                        ("stderr", "/proc/self/fd/2"),
                    ] {
                        writeln!(out, "l {to} /dev/{name}").unwrap();
                    }
                    writeln!(out, "k /dev/pts\nk /dev/shm")
                } else {
                    Ok(())
                }
            }
            _ => writeln!(
                out,
                "b {} {target} {} {}",
                mount.source().as_ref().unwrap().display(),
                has(["ro", "rro"]),
                has(["noexec", "rnoexec"])
            ),
        }
        .unwrap();
    }
    let linux = bundle.spec.linux().as_ref().unwrap();
    for path in linux.masked_paths().iter().flatten() {
        writeln!(out, "m {path}").unwrap();
    }
    for path in linux.readonly_paths().iter().flatten() {
        writeln!(out, "r {path}").unwrap();
    }
    out
}
