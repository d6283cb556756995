//! Which files a run wanted and was not allowed, for runs that ask (`explain`): its calls are followed, and of those that failed it is
//! found out why.
//!
//! What follows them is a process of the pool's own, outside of the sandbox. It only looks: the run has the filter, the ids and the
//! namespaces of any other. What is told is a hint for whoever wrote the code, and no record: the code can see to it that a process
//! is not followed, and change a path while it is read.

use super::request::Denied;
use crate::launch::trace::{self, Call, Witness};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::net::SendFlags;
use rustix::process::Pid;
use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

/// How much of it is told, and how much of a path.
pub(super) const MOST: usize = 16;
const LONGEST: usize = 400;

/// What the C library and the loader look for by themselves, with every program or with every name that is looked up.
const ASKED_BY_ITSELF: [&str; 10] = [
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/locale.alias",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/services",
];
const NOTHING: &str = "nothing; a function of the api can do it outside";

/// What follows a run, as the pool has it.
#[derive(Debug)]
pub(super) struct Tracer {
    pub socket: OwnedFd,
    pub told: Option<Vec<Denied>>,
    /// It has nothing more to say.
    pub over: bool,
}

/// Where it begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Followed {
    /// An interpreter that waits for its task.
    Interpreter(Pid),
    /// All that this PID 1 starts.
    Init(Pid),
}

/// Who is told, and so what may be said.
#[derive(Clone, Debug)]
pub(super) enum Asker {
    /// Whose pool it is, and who can see this host: whether the root of sandboxes is this host's.
    Host { root: bool },
    /// A service, which is told nothing of the host; the sandbox's name.
    Service(String),
}

/// All that the tracer does: says whether it could begin, follows, and tells. Its exit code.
pub(super) fn follow(from: Followed, socket: BorrowedFd<'_>, uid: u32, asker: Asker) -> i32 {
    let begun = match from {
        Followed::Interpreter(pid) => trace::seize_running(pid),
        Followed::Init(pid) => trace::seize_init(pid),
    };
    let word = begun.map_or_else(Errno::raw_os_error, |()| 0);
    let heard = rustix::net::send(socket, &word.to_ne_bytes(), SendFlags::NOSIGNAL);
    if begun.is_err() || heard.is_err() {
        return 1;
    }
    let init = match from {
        Followed::Interpreter(_) => None,
        Followed::Init(pid) => Some(pid),
    };
    let mut found = Found {
        uid,
        asker,
        mounts: Vec::new(),
        known: BTreeSet::new(),
        denied: Vec::new(),
    };
    if trace::watch(init, &mut found).is_err() {
        return 1;
    }
    match serde_json::to_vec(&found.denied).map(|bytes| rustix::net::send(socket, &bytes, SendFlags::NOSIGNAL)) {
        Ok(Ok(_)) => 0,
        _ => 1,
    }
}

/// What a call wants of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wants {
    /// To know whether it is there.
    Look,
    Read,
    Execute,
    /// To write to it, and to make it if it is not there.
    Write,
    /// To make, remove or rename it.
    Make,
    /// Its mode, owner or attributes.
    Change,
}

impl Wants {
    fn of_open(flags: u64) -> Wants {
        let flags = flags as i32;
        let writes = flags & libc::O_ACCMODE != libc::O_RDONLY || flags & (libc::O_CREAT | libc::O_TRUNC) != 0;
        match writes {
            _ if flags & libc::O_PATH != 0 => Wants::Look,
            true => Wants::Write,
            false => Wants::Read,
        }
    }

    fn changes(self) -> bool {
        matches!(self, Wants::Write | Wants::Make | Wants::Change)
    }
}

/// A call that takes a path: its name; which argument is the path, and which the directory that it begins at.
type Takes = (i64, &'static str, Option<usize>, usize, Wants);

const CALLS: &[Takes] = &[
    (libc::SYS_openat, "openat", Some(0), 1, Wants::Read),
    (libc::SYS_openat2, "openat2", Some(0), 1, Wants::Read),
    (libc::SYS_newfstatat, "newfstatat", Some(0), 1, Wants::Look),
    (libc::SYS_statx, "statx", Some(0), 1, Wants::Look),
    (libc::SYS_faccessat, "faccessat", Some(0), 1, Wants::Look),
    (libc::SYS_faccessat2, "faccessat2", Some(0), 1, Wants::Look),
    (libc::SYS_readlinkat, "readlinkat", Some(0), 1, Wants::Look),
    (libc::SYS_chdir, "chdir", None, 0, Wants::Execute),
    (libc::SYS_execve, "execve", None, 0, Wants::Execute),
    (libc::SYS_execveat, "execveat", Some(0), 1, Wants::Execute),
    (libc::SYS_truncate, "truncate", None, 0, Wants::Write),
    (libc::SYS_mkdirat, "mkdirat", Some(0), 1, Wants::Make),
    (libc::SYS_mknodat, "mknodat", Some(0), 1, Wants::Make),
    (libc::SYS_unlinkat, "unlinkat", Some(0), 1, Wants::Make),
    (libc::SYS_symlinkat, "symlinkat", Some(1), 2, Wants::Make),
    (libc::SYS_linkat, "linkat", Some(2), 3, Wants::Make),
    (libc::SYS_renameat2, "renameat2", Some(2), 3, Wants::Make),
    (libc::SYS_fchmodat, "fchmodat", Some(0), 1, Wants::Change),
    (libc::SYS_fchownat, "fchownat", Some(0), 1, Wants::Change),
    (libc::SYS_utimensat, "utimensat", Some(0), 1, Wants::Change),
    (libc::SYS_setxattr, "setxattr", None, 0, Wants::Change),
    (libc::SYS_lsetxattr, "lsetxattr", None, 0, Wants::Change),
    (libc::SYS_removexattr, "removexattr", None, 0, Wants::Change),
];

#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[Takes] = &[
    (libc::SYS_open, "open", None, 0, Wants::Read),
    (libc::SYS_creat, "creat", None, 0, Wants::Write),
    (libc::SYS_stat, "stat", None, 0, Wants::Look),
    (libc::SYS_lstat, "lstat", None, 0, Wants::Look),
    (libc::SYS_access, "access", None, 0, Wants::Look),
    (libc::SYS_readlink, "readlink", None, 0, Wants::Look),
    (libc::SYS_mkdir, "mkdir", None, 0, Wants::Make),
    (libc::SYS_mknod, "mknod", None, 0, Wants::Make),
    (libc::SYS_rmdir, "rmdir", None, 0, Wants::Make),
    (libc::SYS_unlink, "unlink", None, 0, Wants::Make),
    (libc::SYS_symlink, "symlink", None, 1, Wants::Make),
    (libc::SYS_link, "link", None, 1, Wants::Make),
    (libc::SYS_rename, "rename", None, 1, Wants::Make),
    (libc::SYS_renameat, "renameat", Some(2), 3, Wants::Make),
    (libc::SYS_chmod, "chmod", None, 0, Wants::Change),
    (libc::SYS_chown, "chown", None, 0, Wants::Change),
    (libc::SYS_lchown, "lchown", None, 0, Wants::Change),
    (libc::SYS_utime, "utime", None, 0, Wants::Change),
    (libc::SYS_utimes, "utimes", None, 0, Wants::Change),
];
#[cfg(not(target_arch = "x86_64"))]
const OLD_CALLS: &[Takes] = &[];

/// A mount of the sandbox, as proc_pid_mountinfo(5) tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mounted {
    point: PathBuf,
    read_only: bool,
    no_exec: bool,
}

struct Found {
    /// The run's, as files have it here.
    uid: u32,
    asker: Asker,
    mounts: Vec<Mounted>,
    /// What is told already: the path and the rule.
    known: BTreeSet<(PathBuf, String)>,
    denied: Vec<Denied>,
}

/// Why something was denied, and what would allow it.
struct Why {
    rule: String,
    allow: String,
}

impl Why {
    fn new(rule: impl Into<String>, allow: impl Into<String>) -> Option<Why> {
        let (rule, allow) = (rule.into(), allow.into());
        Some(Why { rule, allow })
    }
}

impl Witness for Found {
    fn ends(&mut self, pid: nix::unistd::Pid, call: Call, value: i64, failed: bool) {
        const DENIALS: [Errno; 4] = [Errno::ACCESS, Errno::PERM, Errno::ROFS, Errno::NOENT];
        let denial = DENIALS
            .into_iter()
            .find(|errno| value == -i64::from(errno.raw_os_error()));
        if let Some(errno) = denial.filter(|_| failed && self.denied.len() < MOST) {
            self.consider(pid, call, errno);
        }
    }
}

impl Found {
    /// A call has failed in a way that may be a denial.
    fn consider(&mut self, pid: nix::unistd::Pid, call: Call, errno: Errno) -> Option<()> {
        let takes = CALLS.iter().chain(OLD_CALLS).find(|takes| takes.0 == call.number)?;
        let (_, name, from, at, _) = *takes;
        let wants = wants(pid, call, takes)?;
        let named = trace::text_at(pid, call.arguments[at])?;
        let named = PathBuf::from(String::from_utf8(named).ok()?);
        let path = trace::absolute(pid, from.map(|from| call.arguments[from]), &named)?;
        let path = normal(&path);
        if self.mounts.is_empty() {
            let text = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
            self.mounts = text.lines().filter_map(Mounted::parse).collect();
        }
        let why = match errno {
            Errno::NOENT => self.missing(&path, wants),
            // Whether it may is what it asked, and it was answered.
            _ if wants == Wants::Look && name.contains("access") => None,
            _ => self.refused(pid, &path, wants, name, errno),
        }?;
        if self.known.insert((path, why.rule.clone())) {
            self.denied.push(Denied {
                kind: "file".into(),
                target: short(&named.to_string_lossy()),
                rule: short(&why.rule),
                allow: short(&why.allow),
            });
        }
        Some(())
    }

    /// The mount that a path lies in; the last one made is on top.
    fn mount(&self, path: &Path) -> Option<&Mounted> {
        let around = self.mounts.iter().filter(|mount| path.starts_with(&mount.point));
        around.max_by_key(|mount| mount.point.components().count())
    }

    /// Is it a part of the root that is made for a sandbox, and so nothing of what is shown in it?
    fn is_beside(&self, path: &Path) -> bool {
        self.mount(path).is_some_and(|mount| mount.point == Path::new("/"))
    }

    /// It is not there: was there something to be seen?
    fn missing(&self, path: &Path, wants: Wants) -> Option<Why> {
        let by_itself = |path: &Path| ASKED_BY_ITSELF.iter().any(|own| path == Path::new(own));
        if by_itself(path) {
            return None;
        }
        let beside = self.is_beside(path);
        match &self.asker {
            Asker::Service(sandbox) if beside && wants != Wants::Look => Why::new(
                "it is not shown in the sandbox, whether or not it is there",
                in_manifest(sandbox, path, wants),
            ),
            Asker::Service(_) => None,
            Asker::Host { .. } if beside && wants.changes() => {
                let folder = path.parent()?;
                on_host(folder).filter(|_| self.is_beside(folder))?;
                Why::new(format!("{} is not shown in the sandbox", folder.display()), ELSEWHERE)
            }
            Asker::Host { .. } if beside => {
                let found = on_host(path)?;
                Why::new("it is not shown in the sandbox", self.readable(path, &found))
            }
            Asker::Host { .. } if is_temporary(path) => {
                on_host(path).filter(|_| matches!(wants, Wants::Read | Wants::Execute))?;
                Why::new(
                    "a sandbox has a folder of its own there, and this is in the host's",
                    "a copy of it in its folder: put={…}; or readable=[…] when it is moved elsewhere",
                )
            }
            // What is opened by a name that is a link, which leads out of what is shown.
            Asker::Host { root: true } if matches!(wants, Wants::Read | Wants::Execute) => {
                let real = path
                    .canonicalize()
                    .ok()
                    .filter(|real| self.is_beside(real) && !by_itself(real))?;
                let found = on_host(&real)?;
                let rule = format!("it is a link to {}, which is not shown in the sandbox", real.display());
                Why::new(rule, self.readable(&real, &found))
            }
            Asker::Host { .. } => None,
        }
    }

    fn readable(&self, path: &Path, found: &Stat) -> String {
        if path.starts_with("/sys") {
            return NOTHING.into();
        }
        let text = serde_json::Value::from(path.to_string_lossy());
        let line = format!("readable=[{text}] (--readable on the command line)");
        match found.st_mode & 0o004 {
            0 => format!("{line}; not everybody may read it, so think twice: whoever wrote the code can then"),
            _ => line,
        }
    }

    /// It is there, or could be, and was refused.
    fn refused(&self, pid: nix::unistd::Pid, path: &Path, wants: Wants, name: &str, errno: Errno) -> Option<Why> {
        let mount = self.mount(path)?;
        let point = mount.point.display();
        if wants.changes() && mount.read_only {
            return match self.is_beside(path) {
                true => Why::new("only its folder and /tmp can be written to", ELSEWHERE),
                false => Why::new(format!("{point} is mounted read-only"), ELSEWHERE),
            };
        }
        if errno == Errno::PERM {
            let rule =
                format!("{name}(2) is refused: by the list of system calls, or for want of a right that no run has");
            return Why::new(rule, NOTHING);
        }
        if mount.point.starts_with("/proc") {
            return Why::new("/proc tells a run of its own processes alone", NOTHING);
        }
        if let Some(why) = self.by_mode(pid, path, wants) {
            return Some(why);
        }
        if wants == Wants::Execute && mount.no_exec {
            let rule = format!("{point} is mounted noexec");
            return Why::new(
                rule,
                "its folder (`userdir`), or its interpreter: python3 FILE, sh FILE",
            );
        }
        Why::new(format!("the rules of Landlock for {point}"), NOTHING)
    }

    /// Is it a mode that forbids it, of the file or of a folder above it?
    fn by_mode(&self, pid: nix::unistd::Pid, path: &Path, wants: Wants) -> Option<Why> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
        let look = |path: &Path| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            let fd = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).ok()?;
            rustix::fs::fstat(fd).ok()
        };
        let folders: Vec<&Path> = path.ancestors().skip(1).collect();
        for folder in folders.iter().rev() {
            let found = look(folder)?;
            if !self.may(&found, 0o1) {
                return self.of_mode(folder, &found, "x");
            }
        }
        let own = look(path);
        let (at, found, bit, letter) = match (wants, own) {
            (Wants::Write | Wants::Make, None) | (Wants::Make, Some(_)) => {
                let folder = *folders.first()?;
                (folder, look(folder)?, 0o2, "w")
            }
            (Wants::Write, Some(own)) => (path, own, 0o2, "w"),
            (Wants::Execute, Some(own)) => (path, own, 0o1, "x"),
            (Wants::Read, Some(own)) => (path, own, 0o4, "r"),
            _ => return None,
        };
        if self.may(&found, bit) {
            return None;
        }
        self.of_mode(at, &found, letter)
    }

    fn may(&self, found: &Stat, bit: u32) -> bool {
        // Its group has the number of its id.
        let shift = match (found.st_uid == self.uid, found.st_gid == self.uid) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 0,
        };
        found.st_mode >> shift & bit == bit
    }

    fn of_mode(&self, at: &Path, found: &Stat, letter: &str) -> Option<Why> {
        let mode = found.st_mode & 0o7777;
        let own = found.st_uid == self.uid;
        let whose = if own { "" } else { "belongs to another id and " };
        // What was made for the sandbox is nowhere else to be changed.
        let allow = match own {
            _ if self.is_beside(at) => NOTHING.to_owned(),
            true => format!("chmod u+{letter} {}, which the code may do itself", at.display()),
            // A wider mode on the host would be for every account there.
            false => "a copy of what it needs: put={…}".to_owned(),
        };
        Why::new(format!("{} {whose}has mode {mode:04o}", at.display()), allow)
    }
}

const ELSEWHERE: &str = "writing to its folder (`userdir`), which is kept, or to /tmp, which is not";

fn in_manifest(sandbox: &str, path: &Path, wants: Wants) -> String {
    match wants.changes() {
        true => ELSEWHERE.into(),
        false => format!(
            "[sandboxes.{sandbox}] jail = a recipe that has paths = [{}]; packages = [\"FOLDER\"] for modules; or a copy in its folder: put={{…}}",
            serde_json::Value::from(path.to_string_lossy())
        ),
    }
}

fn wants(pid: nix::unistd::Pid, call: Call, takes: &Takes) -> Option<Wants> {
    let [_, flags, further, ..] = call.arguments;
    Some(match takes.1 {
        "open" => Wants::of_open(flags),
        "openat" => Wants::of_open(further),
        "openat2" => Wants::of_open(trace::number_at(pid, further)?),
        _ => takes.4,
    })
}

/// Those folders' content is gone with the run.
fn is_temporary(path: &Path) -> bool {
    ["/tmp", "/var/tmp"].iter().any(|folder| path.starts_with(folder))
}

/// What this host has there; looked at without waiting for a server of files.
fn on_host(path: &Path) -> Option<Stat> {
    rustix::fs::statat(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT).ok()
}

/// Without `.` and `..`, read as names.
fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}

fn short(text: &str) -> String {
    let mut out: String = crate::plain::line(text).chars().take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

impl Mounted {
    fn parse(line: &str) -> Option<Mounted> {
        let (of_mount, of_system) = line.split_once(" - ")?;
        let mut words = of_mount.split(' ').skip(4);
        let point = PathBuf::from(unescaped(words.next()?));
        let options = words.next()?;
        let of_system = of_system.split(' ').nth(2).unwrap_or_default();
        let has = |options: &str, wanted: &str| options.split(',').any(|option| option == wanted);
        Some(Mounted {
            point,
            read_only: has(options, "ro") || has(of_system, "ro"),
            no_exec: has(options, "noexec"),
        })
    }
}

/// A space, a tab, a newline and a backslash are written as numbers; proc_pid_mounts(5).
fn unescaped(text: &str) -> String {
    let pairs = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")];
    pairs
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_the_kernel_writes_them() {
        let line = "36 35 98:0 /mnt1 /a\\040b rw,noexec,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue";
        let expected = Mounted {
            point: "/a b".into(),
            read_only: false,
            no_exec: true,
        };
        assert_eq!(Mounted::parse(line), Some(expected));
        assert!(Mounted::parse("1 0 0:1 / / ro - tmpfs none rw").unwrap().read_only);
        assert!(Mounted::parse("1 0 0:1 / / rw - tmpfs none ro").unwrap().read_only);
        assert_eq!(Mounted::parse("1 0 0:1 / /"), None);
    }

    #[test]
    fn what_is_open_for_writing_is_known() {
        for (flags, wants) in [
            (libc::O_RDONLY | libc::O_CLOEXEC, Wants::Read),
            (libc::O_RDWR, Wants::Write),
            (libc::O_RDONLY | libc::O_CREAT, Wants::Write),
            (libc::O_PATH | libc::O_CREAT, Wants::Look),
        ] {
            assert_eq!(Wants::of_open(flags as u64), wants);
        }
        assert_eq!(normal(Path::new("/a/./b/../../../c")), Path::new("/c"));
        assert_eq!(short(&"x".repeat(500)).chars().count(), LONGEST + 1);
    }
}
