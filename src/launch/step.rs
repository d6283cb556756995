//! What a new process does to become a service, as rows of data: made before clone3(2), carried out in
//! order after it ([`super::child`]), and named by number when one fails.

use rustix::mount::MountAttrFlags;
use std::ffi::CString;
use std::os::fd::{OwnedFd, RawFd};
use std::path::Path;

/// Whose the process is that PID 1 looks after.
#[derive(Clone, Copy, Debug)]
pub enum Program<'a> {
    /// What the spec's `process` says is executed.
    OfSpec,
    /// The same, but without Landlock rules: copies of this program are to live among other mounts, and confine themselves.
    Forking,
    /// One that joins from outside when PID 1 has given up its rights. What is to be attached at this path then,
    /// [`OwnMounts::attach_in`](super::OwnMounts::attach_in) attaches.
    Joining(&'a Path),
}

/// A step of the namespace's init, before the service's process exists.
#[derive(Debug)]
pub(super) enum Step {
    /// Goes into the service's cgroups, but for the one that it was born in, and makes them the roots of a namespace.
    Cgroup {
        entrances: Vec<OwnedFd>,
        namespace: bool,
    },
    /// Waits until the launcher has written the id maps, then becomes id 0 if there is one, in no group.
    AwaitIds {
        root: bool,
        clear_groups: bool,
    },
    Hostname(CString),
    Loopback,
    /// Writes a value below /proc/sys.
    Sysctl {
        path: CString,
        value: CString,
    },
    /// Makes a detached tree the root. The old one stays below it, out of every path's reach, until [`Step::Leave`]:
    /// the kernel mounts a proc only where it sees another whole one, user_namespaces(7).
    Root {
        tree: OwnedFd,
    },
    /// Lets go of the old root.
    Leave,
    /// Attaches a detached tree, to `target` or to the place that was opened for it in an earlier tree.
    Attach {
        tree: OwnedFd,
        target: CString,
        place: Option<OwnedFd>,
    },
    /// Mounts a file system that must belong to the new namespaces.
    Filesystem {
        kind: CString,
        options: Vec<(CString, Option<CString>)>,
        attributes: MountAttrFlags,
        target: CString,
    },
    /// Makes an empty file for a device and attaches the host's node to it.
    Device {
        tree: OwnedFd,
        path: CString,
    },
    Link {
        path: CString,
        to: CString,
    },
    Directory {
        path: CString,
    },
    /// Covers a path with something empty, if it is there.
    Mask {
        path: CString,
    },
    /// Makes a path read-only, if it is there.
    ReadOnly {
        path: CString,
    },
    /// Says that all is there, and waits to be told to go on.
    Hold,
    /// Hands out the Landlock rules for a process that joins from outside.
    Rules,
    /// Opens a terminal in the new /dev/pts for the service's user, and hands its other end out.
    Terminal {
        uid: u32,
        gid: u32,
    },
}

impl Step {
    /// For an error: the operation and its object.
    pub(super) fn describe(&self) -> (&'static str, String) {
        let text = |c: &CString| c.to_string_lossy().into_owned();
        match self {
            Step::Cgroup { .. } => ("enter", "the service's cgroup".into()),
            Step::AwaitIds { .. } => ("become id 0 of", "the new user namespace".into()),
            Step::Hostname(name) => ("set the host name", text(name)),
            Step::Loopback => ("bring up", "lo".into()),
            Step::Sysctl { path, .. } => ("write", text(path)),
            Step::Root { .. } => ("make the root", "/".into()),
            Step::Leave => ("let go of", "the old root".into()),
            Step::Attach { target, .. } => ("mount", text(target)),
            Step::Filesystem { kind, target, .. } => ("mount", format!("{} -> {}", text(kind), text(target))),
            Step::Device { path, .. } => ("make the device", text(path)),
            Step::Link { path, .. } => ("make the link", text(path)),
            Step::Directory { path } => ("make the directory", text(path)),
            Step::Mask { path } => ("mask", text(path)),
            Step::ReadOnly { path } => ("make read-only", text(path)),
            Step::Hold => ("wait for", "the network".into()),
            Step::Rules => ("make", "Landlock rules".into()),
            Step::Terminal { .. } => ("open a terminal in", "/dev/pts".into()),
        }
    }
}

/// What it takes to get from a process inside the namespaces to its program, for a service and for `exec` alike.
pub(super) struct ExecContext {
    pub uid: u32,
    pub gid: u32,
    /// `None` where the outer namespace denies setgroups(2) and there is but one id.
    pub groups: Option<Vec<rustix::process::Gid>>,
    pub umask: u32,
    /// What it keeps, and its program has.
    pub capabilities: rustix::thread::CapabilitySet,
    pub rlimits: Vec<(rustix::process::Resource, rustix::process::Rlimit)>,
    pub directory: CString,
    /// Is it for a process beside a service that runs, which begins in `/` where the directory is gone?
    pub joins: bool,
    /// Does it stay in the namespaces of whoever starts it, with that one's ids? It gives up the rights that there are.
    pub in_place: bool,
    /// Where the launcher's own command line lies, which its copies forget before anybody can read it.
    pub arguments: std::ops::Range<usize>,
    pub argv: Strings,
    pub environment: Strings,
    /// Paths to try, in the order of PATH.
    pub candidates: Vec<CString>,
    pub landlock: Option<super::landlock::Rules>,
    pub filter: Option<std::rc::Rc<super::seccomp::Program>>,
    pub stdio: [RawFd; 3],
    /// Which of these are the host's /dev/null: the program gets its own, which it can open by the descriptor's path.
    pub null: [bool; 3],
    /// To become descriptors 3, 4, …
    pub sockets: Vec<RawFd>,
    /// Keeps the two lists above open, and above the places that they are to take.
    pub _kept: Vec<OwnedFd>,
}

/// What failed in a new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// The step at this place in the list.
    Step(u32),
    Stage(Stage),
}

/// Declares the stages, what each is in words, and the way back from its number.
macro_rules! stages {
    ($($(#[$doc:meta])* $name:ident = $words:literal,)*) => {
        /// Stages of an [`ExecContext`], for errors.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub(super) enum Stage {
            $($(#[$doc])* $name,)*
        }

        impl Stage {
            pub(super) fn from_code(code: u32) -> Option<Stage> {
                [$(Stage::$name),*].get(code as usize).copied()
            }

            /// The operation, for an error.
            pub(super) fn words(self) -> &'static str {
                match self {
                    $(Stage::$name => $words,)*
                }
            }
        }
    };
}

stages! {
    Namespaces = "enter the service's namespaces",
    Session = "start a session",
    Descriptors = "hand over descriptors",
    Limits = "set resource limits",
    Capabilities = "drop capabilities",
    Groups = "set groups",
    User = "set the user id",
    Directory = "enter the directory",
    NoNewPrivileges = "set no_new_privs",
    Landlock = "apply Landlock rules",
    Seccomp = "load the seccomp filter",
    Exec = "run",
    Spawn = "start a process",
    Terminal = "open a terminal",
    /// Of PID 1, which keeps nothing of the process that it is a copy of.
    Memory = "forget the launcher's memory",
}

/// Strings for execve(2): the terminated strings, and the array of pointers to them that ends in a null.
pub(super) struct Strings {
    owned: Vec<CString>,
    pointers: Vec<*const libc::c_char>,
}

impl Strings {
    pub(super) fn new(strings: Vec<CString>) -> Strings {
        // The strings' buffers stay where they are when the vector is moved.
        let pointers = strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect();
        Strings {
            owned: strings,
            pointers,
        }
    }

    /// The first one, for an error.
    pub(super) fn first(&self) -> String {
        let first = self.owned.first();
        first.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn pointers(&self) -> &[*const libc::c_char] {
        &self.pointers
    }
}

/// A path as the kernel takes it; `None` if it holds a NUL.
pub(super) fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).ok()
}
