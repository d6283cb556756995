//! What a process finds of itself, held against the OCI spec that it was started from. The checks are those of
//! opencontainers/runtime-tools' `runtimetest`, with mounts compared in their order as there, and beyond them: every mount is
//! accounted for, with flags, options and what of the host it shows; the environment has nothing else; umask, namespaces and
//! propagation; and what `compile` prints beside the spec: what the root holds, and the names of sockets.

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Answers to [`questions`]; an error is the errno.
pub(crate) type Facts = BTreeMap<String, Result<String, i32>>;

/// What whoever starts it is and sees.
pub(crate) struct Host {
    pub(crate) mountinfo: String,
    pub(crate) namespaces: BTreeMap<&'static str, String>,
    pub(crate) oom_score_adj: String,
}

impl Host {
    pub(crate) fn here() -> Host {
        let read = |path: &str| std::fs::read_to_string(path).unwrap();
        let link = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        Host {
            mountinfo: read("/proc/self/mountinfo"),
            namespaces: NAMESPACES
                .iter()
                .map(|(_, kind)| (*kind, link(kind).display().to_string()))
                .collect(),
            oom_score_adj: read("/proc/self/oom_score_adj"),
        }
    }
}

/// As the spec calls a namespace, and as /proc does.
const NAMESPACES: [(&str, &str); 7] = [
    ("user", "user"),
    ("mount", "mnt"),
    ("pid", "pid"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("cgroup", "cgroup"),
    ("network", "net"),
];

/// config-linux.md, "Default Devices" and "Default Filesystems"; runtime-linux.md, "Dev symbolic links".
const DEVICES: [(&str, &str); 7] = [
    ("/dev/null", "c 1 3"),
    ("/dev/zero", "c 1 5"),
    ("/dev/full", "c 1 7"),
    ("/dev/random", "c 1 8"),
    ("/dev/urandom", "c 1 9"),
    ("/dev/tty", "c 5 0"),
    ("/dev/ptmx", "c 5 2"),
];
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
];
/// `/sys` is one of these too, but only as what SHOULD be there, and no service has it.
const FILE_SYSTEMS: [(&str, &str); 3] = [("/proc", "proc"), ("/dev/pts", "devpts"), ("/dev/shm", "tmpfs")];

/// As the spec calls a limit, and as /proc/self/limits does.
const LIMITS: [(&str, &str); 9] = [
    ("RLIMIT_AS", "Max address space"),
    ("RLIMIT_CORE", "Max core file size"),
    ("RLIMIT_CPU", "Max cpu time"),
    ("RLIMIT_DATA", "Max data size"),
    ("RLIMIT_FSIZE", "Max file size"),
    ("RLIMIT_MEMLOCK", "Max locked memory"),
    ("RLIMIT_NOFILE", "Max open files"),
    ("RLIMIT_NPROC", "Max processes"),
    ("RLIMIT_STACK", "Max stack size"),
];

/// Its own files that are compared.
const FILES: [&str; 9] = [
    "/proc/self/mountinfo",
    "/proc/self/status",
    "/proc/self/limits",
    "/proc/self/environ",
    "/proc/self/cmdline",
    "/proc/self/uid_map",
    "/proc/self/gid_map",
    "/proc/self/oom_score_adj",
    "/proc/sys/kernel/hostname",
];

fn list<'s>(spec: &'s Value, pointer: &str) -> &'s [Value] {
    spec.pointer(pointer)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn texts<'s>(spec: &'s Value, pointer: &str) -> Vec<&'s str> {
    list(spec, pointer).iter().map(|v| v.as_str().unwrap()).collect()
}

fn sysctls(spec: &Value) -> impl Iterator<Item = (String, &str)> {
    let all = spec.pointer("/linux/sysctl").and_then(Value::as_object);
    let file = |key: &str| format!("/proc/sys/{}", key.replace('.', "/"));
    all.into_iter()
        .flatten()
        .map(move |(key, value)| (file(key), value.as_str().unwrap()))
}

/// A file of the root that is more than a place to mount something on, and what is in it.
fn filled(entry: &Value) -> Option<(&str, &str)> {
    let (path, content) = (entry["file"].as_str()?, entry["content"].as_str()?);
    (!content.is_empty()).then_some((path, content))
}

/// What has to be asked to compare with this spec.
pub(crate) fn questions(spec: &Value) -> Vec<String> {
    let mut out: Vec<String> = FILES.iter().map(|file| format!("contents {file}")).collect();
    out.extend(
        NAMESPACES
            .iter()
            .map(|(_, kind)| format!("target /proc/self/ns/{kind}")),
    );
    out.extend(["directory", "tree /"].map(str::to_owned));
    out.extend(DEVICES.iter().map(|(path, _)| format!("status {path}")));
    out.extend(LINKS.iter().map(|(path, _)| format!("target {path}")));
    out.extend(
        texts(spec, "/linux/maskedPaths")
            .iter()
            .map(|path| format!("readable {path}")),
    );
    out.extend(
        texts(spec, "/linux/readonlyPaths")
            .iter()
            .map(|path| format!("writable {path}")),
    );
    out.extend(sysctls(spec).map(|(file, _)| format!("contents {file}")));
    for entry in list(spec, "/pysecure/rootfs") {
        out.extend(filled(entry).map(|(path, _)| format!("contents {path}")));
    }
    out
}

/// A mount, as /proc/self/mountinfo has it; proc_pid_mountinfo(5).
struct Mounted {
    device: String,
    root: String,
    target: String,
    options: Vec<String>,
    propagation: Vec<String>,
    kind: String,
    source: String,
    of_kind: Vec<String>,
}

fn mounts(mountinfo: &str) -> Vec<Mounted> {
    let plain = |text: &str| {
        [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
            .iter()
            .fold(text.to_owned(), |text, (code, is)| text.replace(code, is))
    };
    let parts = |text: &str| text.split(',').map(plain).collect();
    let one = |line: &str| {
        let (mount, of_kind) = line.split_once(" - ").unwrap();
        let mount: Vec<&str> = mount.split(' ').collect();
        let of_kind: Vec<&str> = of_kind.split(' ').collect();
        Mounted {
            device: mount[2].to_owned(),
            root: plain(mount[3]),
            target: plain(mount[4]),
            options: parts(mount[5]),
            propagation: mount[6..].iter().map(|p| (*p).to_owned()).collect(),
            kind: of_kind[0].to_owned(),
            source: plain(of_kind[1]),
            of_kind: parts(of_kind[2]),
        }
    };
    mountinfo.lines().map(one).collect()
}

/// On which device a path of the host lies, and where on that.
fn place(host: &[Mounted], path: &str) -> (String, String) {
    let of = |mount: &&Mounted| Path::new(path).starts_with(&mount.target);
    let longest = host.iter().filter(of).max_by_key(|m| m.target.len()).unwrap();
    let below = Path::new(path).strip_prefix(&longest.target).unwrap();
    let root = match below.as_os_str().is_empty() {
        true => longest.root.clone(),
        false => Path::new(&longest.root).join(below).display().to_string(),
    };
    (longest.device.clone(), root)
}

/// Why a mount is not what the spec says of it; `None` if it is.
fn mismatch(wanted: &Value, seen: &Mounted, host: &[Mounted]) -> Option<String> {
    let options: Vec<&str> = list(wanted, "/options").iter().map(|o| o.as_str().unwrap()).collect();
    let has = |name: &str| options.contains(&name) || options.contains(&format!("r{name}").as_str());
    let is_bind = has("bind");
    let source = wanted["source"].as_str();
    let kind = wanted["type"].as_str().unwrap_or("bind");
    let mut wrong = Vec::new();
    let mut same = |what: &str, wanted: &str, seen: &str| {
        if wanted != seen {
            wrong.push(format!("{what} {wanted}, found {seen}"));
        }
    };
    if is_bind {
        let (device, root) = place(host, source.unwrap_or_default());
        same(
            "source",
            &format!("{device} {root}"),
            &format!("{} {}", seen.device, seen.root),
        );
    } else {
        same("type", kind, &seen.kind);
        same("source", source.unwrap_or(&seen.source), &seen.source);
    }
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        let there = seen.options.iter().any(|o| o == flag);
        same(flag, &has(flag).to_string(), &there.to_string());
    }
    let accessed = ["noatime", "relatime"]
        .into_iter()
        .find(|name| seen.options.iter().any(|o| o == name));
    if !is_bind {
        let wanted = match has("strictatime") {
            true => "strictatime",
            false => "relatime",
        };
        same("access times by", wanted, accessed.unwrap_or("strictatime"));
    }
    let idmapped = seen.options.iter().any(|o| o == "idmapped");
    same(
        "idmapped",
        &wanted["uidMappings"].is_array().to_string(),
        &idmapped.to_string(),
    );
    same(
        "propagation",
        "private",
        &[&["private".to_owned()], &seen.propagation[..]].concat().join(" "),
    );
    for option in options.iter().filter(|_| !is_bind) {
        if let Some((wanted, found)) = of_the_kind(kind, option, &seen.of_kind) {
            same("option", &wanted, &found);
        }
    }
    (!wrong.is_empty()).then(|| wrong.join("; "))
}

/// What an option has to look like, and what there is; `None` if the kernel does not show it.
fn of_the_kind(kind: &str, option: &str, seen: &[String]) -> Option<(String, String)> {
    let (key, value) = option.split_once('=').unwrap_or((option, ""));
    let found = seen
        .iter()
        .find_map(|o| o.split_once('=').filter(|(k, _)| *k == key))
        .map(|(_, value)| value);
    let number = |text: &str| u32::from_str_radix(text, 8).unwrap();
    let bytes = |text: &str| match text.strip_suffix('k') {
        Some(thousands) => thousands.parse::<u64>().unwrap() << 10,
        None => text.parse().unwrap(),
    };
    match (kind, key) {
        ("tmpfs", "mode") => Some((number(value), number(found.unwrap_or("1777"))))
            .map(|(a, b)| (format!("{key}={a:o}"), format!("{key}={b:o}"))),
        ("devpts", "mode" | "ptmxmode") => Some((
            format!("{key}={:o}", number(value)),
            format!("{key}={:o}", found.map_or(0, number)),
        )),
        ("tmpfs", "size") => Some((
            format!("{key}={}", bytes(value)),
            format!("{key}={}", found.map_or(0, bytes)),
        )),
        ("devpts", "max") => Some((option.to_owned(), format!("{key}={}", found.unwrap_or("none")))),
        // Layers are named by descriptors.
        ("overlay", "lowerdir" | "upperdir" | "workdir") => {
            Some((key.to_owned(), found.map_or("none", |_| key).to_owned()))
        }
        ("overlay", "userxattr") => {
            let there = seen.iter().any(|o| o == "userxattr");
            Some((key.to_owned(), if there { key } else { "none" }.to_owned()))
        }
        _ => None,
    }
}

struct Comparison<'a> {
    spec: &'a Value,
    facts: &'a Facts,
    host: &'a Host,
    differences: Vec<String>,
}

/// All that is not as the spec says, each as a sentence.
pub(crate) fn differences(spec: &Value, facts: &Facts, host: &Host) -> Vec<String> {
    let mut all = Comparison {
        spec,
        facts,
        host,
        differences: Vec::new(),
    };
    all.root();
    all.process();
    all.user();
    all.limits();
    all.capabilities();
    all.mounts();
    all.devices();
    all.paths();
    all.namespaces();
    all.differences
}

impl Comparison<'_> {
    fn same(&mut self, what: &str, wanted: impl ToString, found: impl ToString) {
        let (wanted, found) = (wanted.to_string(), found.to_string());
        if wanted != found {
            self.differences
                .push(format!("{what}: the spec has {wanted}, found {found}"));
        }
    }

    fn fact(&self, question: &str) -> Result<String, i32> {
        self.facts
            .get(question)
            .unwrap_or_else(|| panic!("nobody asked: {question}"))
            .clone()
    }

    fn text(&self, question: &str) -> String {
        self.fact(question).unwrap_or_else(|errno| format!("error {errno}"))
    }

    fn at(&self, pointer: &str) -> Value {
        self.spec.pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// A field of /proc/self/status.
    fn status(&self, field: &str) -> Vec<String> {
        let all = self.text("contents /proc/self/status");
        let line = all.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap_or_default().split_whitespace().map(str::to_owned).collect()
    }

    fn root(&mut self) {
        let seen = mounts(&self.text("contents /proc/self/mountinfo"));
        let top = seen.iter().rfind(|mount| mount.target == "/").unwrap();
        let readonly = top.options.iter().any(|option| option == "ro");
        self.same("root.readonly", self.at("/root/readonly") == true, readonly);
        // Beside the spec: what the root holds, where it is said.
        let entries = list(self.spec, "/pysecure/rootfs");
        if entries.is_empty() {
            return;
        }
        let mut wanted: Vec<String> = Vec::new();
        for entry in entries {
            let path = |key: &str| entry[key].as_str();
            wanted.push(match (path("directory"), path("file"), path("link")) {
                (Some(path), None, None) => format!("directory {path}"),
                (None, Some(path), None) => format!("file {path}"),
                (None, None, Some(path)) => format!("link {path} {}", entry["target"].as_str().unwrap()),
                _ => panic!("{entry}"),
            });
            if let Some((path, content)) = filled(entry) {
                let found = self.text(&format!("contents {path}"));
                self.same(path, content, found);
            }
        }
        let found = self.text("tree /");
        let mut found: Vec<&str> = found.lines().collect();
        wanted.sort();
        found.sort();
        for entry in wanted.iter().filter(|entry| !found.contains(&entry.as_str())) {
            self.differences.push(format!("the root lacks: {entry}"));
        }
        for entry in found.iter().filter(|entry| !wanted.iter().any(|w| w == *entry)) {
            self.differences
                .push(format!("the root has, and nothing says so: {entry}"));
        }
    }

    fn process(&mut self) {
        if let Some(name) = self.at("/hostname").as_str() {
            let found = self.text("contents /proc/sys/kernel/hostname");
            self.same("hostname", name, found.trim_end());
        }
        let directory = self.text("directory");
        self.same("process.cwd", self.at("/process/cwd").as_str().unwrap(), directory);
        // Descriptors are nothing that a spec can hold: sd_listen_fds(3). The program is the second process of its namespace.
        let sockets = texts(self.spec, "/pysecure/sockets");
        let handed = [
            format!("LISTEN_FDS={}", sockets.len()),
            "LISTEN_PID=2".to_owned(),
            format!("LISTEN_FDNAMES={}", sockets.join(":")),
        ];
        let mut wanted = texts(self.spec, "/process/env");
        wanted.extend(handed.iter().filter(|_| !sockets.is_empty()).map(String::as_str));
        let found = self.text("contents /proc/self/environ");
        let mut found: Vec<&str> = found.split_terminator('\0').collect();
        wanted.sort();
        found.sort();
        self.same("process.env", format!("{wanted:?}"), format!("{found:?}"));
        let found = self.text("contents /proc/self/cmdline");
        let found: Vec<&str> = found.split_terminator('\0').collect();
        self.same(
            "process.args",
            format!("{:?}", texts(self.spec, "/process/args")),
            format!("{found:?}"),
        );
        let privileges = self.at("/process/noNewPrivileges") == true;
        let found = self.status("NoNewPrivs").concat();
        self.same("process.noNewPrivileges", u8::from(privileges), found);
        let found = self.text("contents /proc/self/oom_score_adj");
        match self.at("/process/oomScoreAdj").as_i64() {
            Some(wanted) => self.same("process.oomScoreAdj", wanted, found.trim_end()),
            None => self.same("process.oomScoreAdj", &self.host.oom_score_adj, found),
        }
        if self.at("/linux/seccomp").is_object() {
            let found = self.status("Seccomp").concat();
            self.same("linux.seccomp: the mode", 2, found);
        }
    }

    fn user(&mut self) {
        for (field, key) in [("Uid", "uid"), ("Gid", "gid")] {
            let id = self.at(&format!("/process/user/{key}"));
            let found = self.status(field).join(" ");
            // Real, effective, saved, and for files.
            self.same(&format!("process.user.{key}"), vec![id.to_string(); 4].join(" "), found);
        }
        let mut wanted: Vec<u64> = list(self.spec, "/process/user/additionalGids")
            .iter()
            .map(|g| g.as_u64().unwrap())
            .collect();
        let mut found: Vec<u64> = self.status("Groups").iter().map(|g| g.parse().unwrap()).collect();
        wanted.sort();
        found.sort();
        self.same(
            "process.user.additionalGids",
            format!("{wanted:?}"),
            format!("{found:?}"),
        );
        if let Some(umask) = self.at("/process/user/umask").as_u64() {
            let found = self.status("Umask").concat();
            self.same("process.user.umask", format!("{umask:04o}"), found);
        }
        for (key, file) in [("uidMappings", "uid_map"), ("gidMappings", "gid_map")] {
            let wanted: Vec<String> = list(self.spec, &format!("/linux/{key}"))
                .iter()
                .map(|l| format!("{} {} {}", l["containerID"], l["hostID"], l["size"]))
                .collect();
            let found = self.text(&format!("contents /proc/self/{file}"));
            let found: Vec<String> = found
                .lines()
                .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            self.same(&format!("linux.{key}"), format!("{wanted:?}"), format!("{found:?}"));
        }
    }

    fn limits(&mut self) {
        let all = self.text("contents /proc/self/limits");
        for limit in list(self.spec, "/process/rlimits") {
            let kind = limit["type"].as_str().unwrap();
            let (_, name) = LIMITS.iter().find(|(k, _)| *k == kind).unwrap();
            let line = all.lines().find_map(|l| l.strip_prefix(name)).unwrap();
            let found: Vec<&str> = line.split_whitespace().take(2).collect();
            let text = |key: &str| match limit[key].as_u64().unwrap() {
                u64::MAX => "unlimited".to_owned(),
                number => number.to_string(),
            };
            self.same(kind, format!("{} {}", text("soft"), text("hard")), found.join(" "));
        }
    }

    fn capabilities(&mut self) {
        for (key, field) in [
            ("bounding", "CapBnd"),
            ("effective", "CapEff"),
            ("inheritable", "CapInh"),
            ("permitted", "CapPrm"),
            ("ambient", "CapAmb"),
        ] {
            let found = self.status(field).concat();
            // No service has any.
            self.same(
                &format!("process.capabilities.{key}"),
                "[]",
                self.at(&format!("/process/capabilities/{key}")),
            );
            self.same(&format!("process.capabilities.{key}"), "0000000000000000", found);
        }
    }

    /// Walks both lists at once, as `runtimetest` does: each mount of the spec has to be behind the one before.
    fn mounts(&mut self) {
        let seen = mounts(&self.text("contents /proc/self/mountinfo"));
        let host = mounts(&self.host.mountinfo);
        let mut taken = vec![false; seen.len()];
        let mut next = 0;
        for (number, wanted) in list(self.spec, "/mounts").iter().enumerate() {
            let target = wanted["destination"].as_str().unwrap();
            let name = format!("mounts[{number}] ({target})");
            let here: Vec<usize> = (0..seen.len())
                .filter(|at| !taken[*at] && seen[*at].target == target)
                .collect();
            let whole = |at: &&usize| mismatch(wanted, &seen[**at], &host).is_none();
            match here.iter().find(|at| **at >= next && whole(at)) {
                Some(at) => {
                    taken[*at] = true;
                    next = at + 1;
                }
                None => {
                    let earlier = here.iter().find(whole);
                    self.differences.push(match (earlier, here.first()) {
                        (Some(_), _) => format!("{name}: found, but before what the spec mounts before it"),
                        (None, Some(at)) => format!("{name}: {}", mismatch(wanted, &seen[*at], &host).unwrap()),
                        (None, None) => format!("{name}: not found"),
                    });
                    if let Some(at) = earlier.or(here.first()) {
                        taken[*at] = true;
                    }
                }
            }
        }
        for (path, kind) in FILE_SYSTEMS {
            let found = seen
                .iter()
                .rev()
                .find(|m| m.target == path)
                .map_or("none", |m| m.kind.as_str());
            self.same(&format!("the default file system {path}"), kind, found);
        }
        self.nothing_else(&seen, &taken);
    }

    /// Every other mount has to follow from the spec, too.
    fn nothing_else(&mut self, seen: &[Mounted], taken: &[bool]) {
        let paths: Vec<&str> = [
            texts(self.spec, "/linux/maskedPaths"),
            texts(self.spec, "/linux/readonlyPaths"),
        ]
        .concat();
        for mount in seen
            .iter()
            .zip(taken)
            .filter(|(_, taken)| !**taken)
            .map(|(mount, _)| mount)
        {
            let target = mount.target.as_str();
            let recursive = |m: &&Value| list(m, "/options").contains(&Value::from("rbind"));
            let below = |m: &&Value| Path::new(target).starts_with(m["destination"].as_str().unwrap());
            let of_another = list(self.spec, "/mounts").iter().filter(recursive).any(|m| below(&m));
            let is_device = DEVICES.iter().any(|(path, _)| *path == target);
            if target != "/" && !is_device && !paths.contains(&target) && !of_another {
                self.differences.push(format!(
                    "the spec mounts nothing on {target}, found {} {}",
                    mount.kind, mount.source
                ));
            }
            if !mount.propagation.is_empty() {
                self.differences
                    .push(format!("{target}: not private, but {}", mount.propagation.join(" ")));
            }
        }
    }

    fn devices(&mut self) {
        for (path, wanted) in DEVICES {
            let found = self.text(&format!("status {path}"));
            let number = found.rsplit_once(' ').map_or(found.as_str(), |(number, _)| number);
            self.same(path, wanted, number);
        }
        for (path, wanted) in LINKS {
            let found = self.text(&format!("target {path}"));
            self.same(path, wanted, found);
        }
        assert!(self.at("/linux/devices").is_null(), "compare these, too");
    }

    fn paths(&mut self) {
        let seen = mounts(&self.text("contents /proc/self/mountinfo"));
        let covered = |path: &str| seen.iter().any(|m| m.target == path);
        for path in texts(self.spec, "/linux/maskedPaths") {
            match self.fact(&format!("readable {path}")) {
                Ok(found) => self.same(&format!("linux.maskedPaths: {path} can be read"), "no", found),
                Err(libc::ENOENT | libc::ENOTDIR) => continue,
                Err(_) => {}
            }
            self.same(&format!("linux.maskedPaths: {path} is covered"), true, covered(path));
        }
        for path in texts(self.spec, "/linux/readonlyPaths") {
            match self.fact(&format!("writable {path}")) {
                Err(libc::ENOENT | libc::ENOTDIR) => continue,
                found => self.same(
                    &format!("linux.readonlyPaths: {path} can be written"),
                    false,
                    found.is_ok(),
                ),
            }
            self.same(&format!("linux.readonlyPaths: {path} is covered"), true, covered(path));
            let flags = seen.iter().rfind(|m| m.target == path).map_or(&[][..], |m| &m.options);
            self.same(
                &format!("linux.readonlyPaths: {path} is mounted ro"),
                true,
                flags.iter().any(|o| o == "ro"),
            );
        }
        for (file, wanted) in sysctls(self.spec) {
            let found = self.text(&format!("contents {file}"));
            self.same(&file, wanted, found.trim_end());
        }
    }

    fn namespaces(&mut self) {
        let all = list(self.spec, "/linux/namespaces");
        for (name, kind) in NAMESPACES {
            let found = self.text(&format!("target /proc/self/ns/{kind}"));
            let shared = found == self.host.namespaces[kind];
            let new = all.iter().any(|n| n["type"] == name);
            self.same(&format!("linux.namespaces: {name} is one of its own"), new, !shared);
        }
    }
}
