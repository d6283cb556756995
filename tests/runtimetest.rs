//! A service is what its spec says, point by point, as opencontainers/runtime-tools' `runtimetest` looks: a probe inside answers, and
//! the answers are held against what `compile` prints. The same comparison holds for crun with the bundle that `compile -o` writes.

mod harness;

#[path = "runtimetest/compare.rs"]
mod compare;
#[path = "runtimetest/filter.rs"]
mod filter;

use compare::{Facts, Host};
use harness::{App, BOTH, Container, Ended, Mode};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const NAME: &str = "as-said";

/// Each kind of mount, root, network and identity.
fn manifest() -> String {
    static APPS: AtomicU32 = AtomicU32::new(0);
    let (pid, number) = (std::process::id(), APPS.fetch_add(1, Ordering::Relaxed));
    format!(
        r#"
[app]
name = "{NAME}"
code = {{ "/zoobar" = {{ source = "./zoobar", exclude = [".env"] }} }}

[resources]
# Below read-only code: the mount point is supplied by a layer.
cred = {{ path = "/zoobar/db/cred/cred.db", owner = "rw" }}
channel = {{ path = "/data/channel/", bundle = "rw" }}
board = {{ path = "/data/board/", owner = "rwx", bundle = "rw" }}
letters = {{ path = "/data/letters/", owner = "rw", bundle = "r", global = "r" }}
pinned = {{ path = "/data/letters/pinned/", owner = "rw", global = "x" }}
motd = {{ path = "/data/motd.txt", source = "./motd.txt", global = "r" }}
tools = {{ path = "/opt/tools", source = "./tools", global = "rx" }}
# What PySecure keeps is masked in it.
all = {{ path = "/data/all", source = ".", owner = "r" }}

[bundles.team]
resources = ["board", "letters"]
[bundles.asked]
resources = ["channel"]

[services.auth]
command = ["/opt/tools/probe", "/data/channel/auth", "", "two words"]
directory = "/zoobar"
owner_resources = ["cred", "board"]
bundles = ["asked", "team"]
callers = {{ front = "*" }}
environment = {{ GREETING = "hello = world", EMPTY = "" }}
limits = {{ nofile = 99, fsize = "1G", core = "1M" }}

[services.front]
command = ["/opt/tools/probe", "/data/channel/front"]
bundles = ["asked", "team"]
owner_resources = ["all"]
publish = ["{address}:80"]

[services.admin]
command = ["/opt/tools/probe", "/data/channel/admin"]
bundle = "asked"
owner_resources = ["letters", "pinned"]
runs_with_root = true

[services.small]
command = ["/opt/tools/probe", "/data/channel/small"]
jail = "minimal"
bundles = ["asked", "team"]

[services.writes]
command = ["/opt/tools/probe", "/data/channel/writes"]
jail = "minimal"
writable = true
bundles = ["asked", "team"]

[services.hosts]
command = ["/opt/tools/probe", "/data/channel/hosts"]
bundle = "asked"
network = "host"

[services.apps]
command = ["/opt/tools/probe", "/data/channel/apps"]
bundle = "asked"
network = "app"
"#,
        // An address that nothing else here has.
        address = format_args!("127.77.{}.{}:{}", pid >> 8 & 255, pid & 255, 28_471 + number),
    )
}

const SERVICES: [&str; 7] = ["auth", "front", "admin", "small", "writes", "hosts", "apps"];

fn app(mode: Mode) -> App {
    let app = App::new(mode, &manifest());
    app.write("zoobar/auth.py", "print('auth')\n");
    app.write("zoobar/.env", "SECRET=1\n");
    app.write("motd.txt", "welcome\n");
    // By a program of its own: what this process had open for writing, a child of another test could hold until it execs.
    let probe = built("probe");
    let install = app
        .shell_free("install", &["-D", "-m", "755", probe.to_str().unwrap(), "tools/probe"])
        .output();
    Ended::from(install.unwrap()).ok();
    app
}

/// A program of `tests/runtimetest`, built so that it runs in any root.
fn built(name: &str) -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| {
        let folder = harness::fresh_folder();
        for name in ["probe", "filter"] {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/runtimetest/{name}.c"));
            let mut cc = Command::new("cc");
            let cc = cc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]);
            let done = cc
                .arg(folder.join(name))
                .arg(&source)
                .output()
                .expect("install `gcc` and `libc6-dev`");
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        }
        folder
    });
    folder.join(name)
}

/// A probe that runs as a service.
struct Probe {
    questions: File,
    answers: BufReader<File>,
}

impl Probe {
    /// The one of this service; waits for it.
    fn of(app: &App, service: &str) -> Probe {
        Probe::once_there(app, service, || ())
    }

    /// The one that this container runs.
    fn in_container(app: &App, service: &str, container: &mut Container) -> Probe {
        Probe::once_there(app, service, || container.still_runs())
    }

    /// Waits for its pipes, and asks each time whether they can still come.
    fn once_there(app: &App, service: &str, mut can_come: impl FnMut()) -> Probe {
        let folder = app.state().join("apps").join(NAME).join("resources/channel");
        let mut pipe = |end: &str| {
            let path = folder.join(format!("{service}.{end}"));
            harness::wait_until(|| {
                can_come();
                path.exists().then_some(())
            });
            path
        };
        Probe {
            questions: File::options().write(true).open(pipe("questions")).unwrap(),
            answers: BufReader::new(File::open(pipe("answers")).unwrap()),
        }
    }

    fn ask(&mut self, question: &str) -> Result<String, i32> {
        let mut head = String::new();
        writeln!(self.questions, "{question}").unwrap();
        assert_ne!(self.answers.read_line(&mut head).unwrap(), 0, "the probe ended");
        let (kind, number) = head.trim_end().split_once(' ').unwrap();
        if kind == "!" {
            return Err(number.parse().unwrap());
        }
        let mut bytes = vec![0; number.parse().unwrap()];
        self.answers.read_exact(&mut bytes).unwrap();
        Ok(String::from_utf8(bytes).unwrap())
    }

    fn facts(&mut self, spec: &Value) -> Facts {
        let questions = compare::questions(spec);
        questions
            .into_iter()
            .map(|question| (question.clone(), self.ask(&question)))
            .collect()
    }

    /// Its process, as this one counts.
    fn pid(&mut self) -> i32 {
        let namespace = self.ask("target /proc/self/ns/pid").unwrap();
        let status = self.ask("contents /proc/self/status").unwrap();
        let number = |status: &str| {
            let line = status
                .lines()
                .find_map(|l| l.strip_prefix("NSpid:"))
                .unwrap_or_default();
            line.split_whitespace().last().map(str::to_owned)
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let mut same = processes.filter(|p| {
            let link = std::fs::read_link(p.path().join("ns/pid"));
            let its = std::fs::read_to_string(p.path().join("status")).unwrap_or_default();
            link.is_ok_and(|link| link == Path::new(&namespace)) && number(&its) == number(&status)
        });
        same.next().unwrap().file_name().to_str().unwrap().parse().unwrap()
    }

    /// The filter of system calls that the kernel has of it.
    fn filter(&mut self) -> Vec<filter::Instruction> {
        let printed = Command::new(built("filter"))
            .arg(self.pid().to_string())
            .output()
            .unwrap();
        filter::read(&Ended::from(printed).ok().out)
    }
}

fn specs(app: &App) -> Value {
    serde_json::from_str(&app.ok(&["spec"]).out).unwrap()
}

/// Calls that do nothing here, and whose own errors are none that a filter answers with.
const CALLS: [(&str, [u64; 6]); 16] = [
    ("getpid", [0; 6]),
    ("read", [u64::MAX, 0, 0, 0, 0, 0]),
    ("uname", [0; 6]),
    ("socket", [1, 99, 0, 0, 0, 0]),
    ("socket", [40, 99, 0, 0, 0, 0]),
    ("openat", [u64::MAX, 0, 0, 0, 0, 0]),
    ("openat2", [u64::MAX, 0, 0, 0, 0, 0]),
    ("clone3", [0; 6]),
    ("keyctl", [99_999, 0, 0, 0, 0, 0]),
    ("add_key", [0; 6]),
    ("process_madvise", [u64::MAX, 0, 0, 0, 0, 0]),
    ("name_to_handle_at", [u64::MAX, 0, 0, 0, 0, 0]),
    ("process_vm_readv", [0x7fff_ffff, 0, 0, 0, 0, 0]),
    ("memfd_secret", [0xffff, 0, 0, 0, 0, 0]),
    ("personality", [0xffff_ffff, 0, 0, 0, 0, 0]),
    ("personality", [0x0040_0000, 0, 0, 0, 0, 0]),
];

/// Tries calls that are refused and calls that are not.
fn tried(spec: &Value, probe: &mut Probe) -> Vec<String> {
    let profile = &spec["linux"]["seccomp"];
    let mut out = Vec::new();
    let mut refused = 0;
    for (name, arguments) in CALLS {
        let words: Vec<String> = arguments.iter().map(u64::to_string).collect();
        let found = probe.ask(&format!("call {} {}", filter::number(name), words.join(" ")));
        let wanted = filter::of_spec(profile, name, arguments);
        let as_said = match wanted {
            filter::ALLOW => found != Err(libc::EPERM) && found != Err(libc::ENOSYS),
            other => found == Err((other & 0xffff) as i32) && other & !0xffff == filter::ERRNO,
        };
        refused += usize::from(wanted != filter::ALLOW);
        if !as_said {
            out.push(format!(
                "{name} {arguments:x?}: the spec has {wanted:#x}, found {found:?}"
            ));
        }
    }
    assert!(refused >= 6 && CALLS.len() - refused >= 6, "{refused}");
    out
}

/// Numbers of system calls that there may be one day.
const CALL_NUMBERS: u32 = 1024;

/// Filters that were compared, each with what the spec said: most services have the same.
type Compared = Vec<(Value, Vec<filter::Instruction>)>;

/// All that differs in a probe from what its spec says. Calls from `end` on are not compared.
fn differences(spec: &Value, probe: &mut Probe, end: u32, compared: &mut Compared) -> Vec<String> {
    let facts = probe.facts(spec);
    let mut all = compare::differences(spec, &facts, &Host::here());
    all.extend(tried(spec, probe));
    let both = (spec["linux"]["seccomp"].clone(), probe.filter());
    if !compared.contains(&both) {
        all.extend(filter::differences(&both.0, &both.1, end));
        compared.push(both);
    }
    all
}

#[test]
fn a_service_is_what_its_spec_says() {
    for mode in BOTH {
        let app = app(mode);
        app.ok(&["up", "-d"]);
        let specs = specs(&app);
        let (mut different, mut compared) = (String::new(), Compared::new());
        for service in SERVICES {
            let mut probe = Probe::of(&app, service);
            for difference in differences(&specs[service], &mut probe, CALL_NUMBERS, &mut compared) {
                different += &format!("{mode:?} {service}: {difference}\n");
            }
        }
        assert_eq!(different, "");
    }
}

/// What another runtime makes of the same bundle is what the comparison takes for right.
#[test]
fn so_is_what_crun_starts() {
    // Neither a network that nobody has made, nor an overlay below what an id inside may not pass.
    const THEIRS: [&str; 5] = ["auth", "front", "admin", "small", "hosts"];
    // Debian 12's libseccomp knows no later ones by name, and leaves them to the default.
    const KNOWN: u32 = 440;
    let app = app(Mode::Root);
    let out = app.folder.join("out");
    app.ok(&["spec", "-o", out.to_str().unwrap()]);
    let (mut different, mut compared) = (String::new(), Compared::new());
    for service in THEIRS {
        let bundle = out.join(service);
        let spec = serde_json::from_slice(&std::fs::read(bundle.join("config.json")).unwrap()).unwrap();
        let mut container = Container::run("crun", &bundle);
        let mut probe = Probe::in_container(&app, service, &mut container);
        // It mounts first of all what id 0 inside has no way to, and the kernel lists mounts in the order in which they were made.
        let early = "(/zoobar/db/cred): found, but before what the spec mounts before it";
        let mut all = differences(&spec, &mut probe, KNOWN, &mut compared);
        all.retain(|difference| !difference.contains(early));
        for difference in all {
            different += &format!("{service}: {difference}\n");
        }
        drop(probe);
        container.ended().ok();
    }
    assert_eq!(different, "");
}

/// Each point of a spec that is not so is said.
#[test]
fn a_difference_is_told() {
    let app = app(Mode::Root);
    app.ok(&["up", "-d"]);
    let specs = specs(&app);
    let spec = &specs["auth"];
    let mut probe = Probe::of(&app, "auth");
    let filter = probe.filter();
    let mount = |target: &str| {
        let all = spec["mounts"].as_array().unwrap();
        all.iter().position(|m| m["destination"] == target).unwrap()
    };
    let [board, letters, dev, tmp, zoobar] = ["/data/board", "/data/letters", "/dev", "/tmp", "/zoobar"].map(mount);
    let at = |number: usize, rest: &str| format!("/mounts/{number}/{rest}");
    let options = |number: usize, from: &str, to: &str| {
        let text = spec["mounts"][number]["options"].to_string().replace(from, to);
        (at(number, "options"), serde_json::from_str(&text).unwrap())
    };
    let entry = |path: &str| {
        let all = spec["pysecure"]["rootfs"].as_array().unwrap();
        let at = all.iter().position(|e| e["file"] == path).unwrap();
        format!("/pysecure/rootfs/{at}")
    };
    let changed: Vec<((String, Value), &str)> = vec![
        (("/root/readonly".into(), false.into()), "root.readonly"),
        ((format!("{}/content", entry("/etc/hosts")), "x".into()), "/etc/hosts"),
        (
            (format!("{}/file", entry("/etc/passwd")), "/etc/hosts".into()),
            "the root has, and nothing says so: file /etc/passwd",
        ),
        (
            ("/pysecure/rootfs/0".into(), serde_json::json!({ "directory": "/gone" })),
            "the root lacks: directory /gone",
        ),
        (("/pysecure/sockets/0".into(), "other".into()), "process.env"),
        (("/hostname".into(), "other".into()), "hostname"),
        (("/process/cwd".into(), "/tmp".into()), "process.cwd"),
        (("/process/env/0".into(), "A=b".into()), "process.env"),
        (("/process/args/1".into(), "x".into()), "process.args"),
        (("/process/noNewPrivileges".into(), false.into()), "noNewPrivileges"),
        (("/process/oomScoreAdj".into(), 77.into()), "oomScoreAdj"),
        (("/process/user/uid".into(), 7.into()), "process.user.uid"),
        (("/process/user/umask".into(), 0.into()), "umask"),
        (
            ("/process/user/additionalGids".into(), Value::Array(vec![])),
            "additionalGids",
        ),
        (("/process/rlimits/0/soft".into(), 1.into()), "RLIMIT_"),
        (
            (
                "/process/capabilities/bounding".into(),
                serde_json::json!(["CAP_CHOWN"]),
            ),
            "capabilities.bounding",
        ),
        (("/linux/uidMappings/0/hostID".into(), 1.into()), "uidMappings"),
        (("/linux/gidMappings/0/size".into(), 9.into()), "gidMappings"),
        (
            ("/linux/namespaces".into(), serde_json::json!([{ "type": "user" }])),
            "namespaces: network",
        ),
        (
            ("/linux/maskedPaths".into(), serde_json::json!(["/etc/passwd"])),
            "/etc/passwd can be read",
        ),
        (
            ("/linux/readonlyPaths".into(), serde_json::json!(["/data/board"])),
            "/data/board can be written",
        ),
        (
            ("/linux/sysctl".into(), serde_json::json!({ "kernel.ostype": "Other" })),
            "/proc/sys/kernel/ostype",
        ),
        ((at(board, "source"), "/srv".into()), "(/data/board): source"),
        (
            (at(board, "destination"), "/data/elsewhere".into()),
            "(/data/elsewhere): not found",
        ),
        ((at(letters, "uidMappings"), Value::Null), "(/data/letters): idmapped"),
        (options(board, "rnosuid", "rprivate"), "(/data/board): nosuid"),
        (options(board, "\"rw\"", "\"rro\""), "(/data/board): ro"),
        (options(dev, "strictatime", "relatime"), "(/dev): access times"),
        (options(dev, "mode=755", "mode=700"), "(/dev): option mode"),
        (options(tmp, "size=262144k", "size=1k"), "(/tmp): option size"),
        ((at(tmp, "source"), "none".into()), "(/tmp): source"),
        ((at(zoobar, "type"), "tmpfs".into()), "(/zoobar): type"),
    ];
    for ((pointer, value), says) in changed {
        let mut other = spec.clone();
        match other.pointer_mut(&pointer) {
            Some(place) => *place = value,
            None => {
                let (parent, key) = pointer.rsplit_once('/').unwrap();
                other.pointer_mut(parent).unwrap()[key] = value;
            }
        }
        let facts = probe.facts(&other);
        let found = compare::differences(&other, &facts, &Host::here());
        let told = found.iter().any(|difference| difference.contains(says));
        assert!(told, "{pointer}: {found:#?}");
    }
    // The order of mounts, and one that is not said.
    let facts = probe.facts(spec);
    let with = |change: fn(&mut Vec<Value>)| {
        let mut other = spec.clone();
        change(other["mounts"].as_array_mut().unwrap());
        compare::differences(&other, &facts, &Host::here()).join("\n")
    };
    assert_eq!(with(|_| ()), "");
    let swapped = with(|all| all.swap(0, 1));
    assert!(swapped.contains("before what the spec mounts before it"), "{swapped}");
    let unsaid = with(|all| drop(all.pop()));
    assert!(unsaid.contains("the spec mounts nothing on /tmp"), "{unsaid}");
    // One call more and one condition less.
    for (from, to) in [("[\"socket\"]", "[\"bpf\"]"), ("SCMP_CMP_MASKED_EQ", "SCMP_CMP_GE")] {
        let text = spec["linux"]["seccomp"].to_string();
        let profile: Value = serde_json::from_str(&text.replace(from, to)).unwrap();
        assert!(
            !filter::differences(&profile, &filter, CALL_NUMBERS).is_empty(),
            "{from}"
        );
    }
}
