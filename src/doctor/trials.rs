//! The child's side: each trial does on a small scale what the launcher does, step by step, and
//! names the step at which the machine refused.
//!
//! Runs only in a process of its own (see [`super::child`]) and only inside namespaces that it made
//! itself: nothing here may touch a mount, file or limit of the host.

use super::child::{Outcome, Refused, Runner, answer, step};
use crate::sys;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MoveMountFlags, OpenTreeFlags};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

pub(crate) const MAKE_USERNS: &str = "make a user namespace";
pub(crate) const MAP_IDS: &str = "map an id in it";
pub(crate) const MAKE_MOUNTNS: &str = "make a mount namespace";
pub(crate) const USE_POWER: &str = "use a capability in it";
pub(crate) const MAKE_NETNS: &str = "make a network namespace";
pub(crate) const MAKE_PIDNS: &str = "make a PID namespace";

type Trial = fn() -> Outcome;

/// Name for [`super::run_probe`], and what to do.
const TRIALS: &[(&str, Trial)] = &[
    ("user", user_namespace),
    ("others", other_namespaces),
    ("network", network_namespace),
    ("loopback", loopback),
    ("proc", proc_mount),
    ("proc-inside", proc_mount_as_pid_one),
    ("mount-api", mount_api),
    ("tmpfs", tmpfs),
    ("overlay", overlay),
    ("devpts", devpts),
    ("seccomp", seccomp),
    ("landlock", landlock),
    ("raise-limit", raise_limit),
    ("hold", hold),
];

/// Runs one trial in this process, which must be a child made for it. 2: no such trial.
pub fn run_probe(name: &str) -> u8 {
    let Some((_, trial)) = TRIALS.iter().find(|(known, _)| *known == name) else {
        return 2;
    };
    // Ends with the doctor, whatever becomes of it. Without it a trial still ends by itself.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let outcome = trial();
    answer(&outcome);
    u8::from(outcome.is_err())
}

/// Into a user namespace in which 0 is this user, and a mount namespace that nobody else sees.
fn enter() -> Result<(), Refused> {
    let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
    step(MAKE_USERNS, unshare(CloneFlags::CLONE_NEWUSER))?;
    // The file is absent on kernels before 3.19, which need no refusal.
    let _ = std::fs::write("/proc/self/setgroups", "deny");
    step(MAP_IDS, std::fs::write("/proc/self/uid_map", format!("0 {uid} 1")))?;
    step(MAP_IDS, std::fs::write("/proc/self/gid_map", format!("0 {gid} 1")))?;
    step(MAKE_MOUNTNS, unshare(CloneFlags::CLONE_NEWNS))?;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    step(USE_POWER, mount(None::<&str>, "/", None::<&str>, private, None::<&str>))
}

/// AppArmor may let the namespace be made and then deny every capability in it, although the
/// process's sets show them. Only using one tells.
fn user_namespace() -> Outcome {
    enter()?;
    step("make a UTS namespace", unshare(CloneFlags::CLONE_NEWUTS))?;
    step(USE_POWER, nix::unistd::sethostname("probe"))?;
    Ok("made one, mapped an id and used its capabilities".into())
}

fn other_namespaces() -> Outcome {
    enter()?;
    step("make an IPC namespace", unshare(CloneFlags::CLONE_NEWIPC))?;
    step("make a UTS namespace", unshare(CloneFlags::CLONE_NEWUTS))?;
    step("make a cgroup namespace", unshare(CloneFlags::CLONE_NEWCGROUP))?;
    step(MAKE_PIDNS, unshare(CloneFlags::CLONE_NEWPID))?;
    Ok("PID, IPC, UTS and cgroup namespaces can be made".into())
}

fn network_namespace() -> Outcome {
    enter()?;
    step(MAKE_NETNS, unshare(CloneFlags::CLONE_NEWNET))?;
    Ok("can be made".into())
}

fn loopback() -> Outcome {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    network_namespace()?;
    raise_loopback()?;
    let server = step("listen on 127.0.0.1", TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = step("listen on 127.0.0.1", server.local_addr())?;
    step("connect over 127.0.0.1", TcpStream::connect(address))?;
    Ok("comes up; 127.0.0.1 can be connected to".into())
}

/// One RTM_NEWLINK request that sets IFF_UP on interface 1, which `lo` always is in a new namespace.
fn raise_loopback() -> Result<(), Refused> {
    use nix::sys::socket::*;
    const RAISE: &str = "bring the loopback interface up";
    let mut request = Vec::with_capacity(32);
    request.extend(32u32.to_ne_bytes());
    request.extend(libc::RTM_NEWLINK.to_ne_bytes());
    request.extend(((libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16).to_ne_bytes());
    request.extend([0; 8]); // sequence and port
    request.extend([0; 4]); // family, padding, device type
    request.extend(1i32.to_ne_bytes());
    request.extend((libc::IFF_UP as u32).to_ne_bytes());
    request.extend((libc::IFF_UP as u32).to_ne_bytes());
    let socket = step(
        RAISE,
        socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::NetlinkRoute,
        ),
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    step(RAISE, sendto(socket.as_raw_fd(), &request, &kernel, MsgFlags::empty()))?;
    let mut reply = [0u8; 256];
    let length = step(RAISE, recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty()))?;
    match reply[..length]
        .get(16..20)
        .and_then(|b| b.try_into().ok())
        .map(i32::from_ne_bytes)
    {
        Some(0) => Ok(()),
        Some(negative) => Err(Refused::new(RAISE, negative.saturating_neg())),
        None => Err(Refused::new(RAISE, libc::EBADMSG)),
    }
}

fn proc_mount() -> Outcome {
    enter()?;
    step(MAKE_PIDNS, unshare(CloneFlags::CLONE_NEWPID))?;
    Runner::again().try_out("proc-inside")
}

/// The first process of the PID namespace that [`proc_mount`] made.
fn proc_mount_as_pid_one() -> Outcome {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    step(
        "mount proc",
        mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>),
    )?;
    let own = step("read the new /proc", std::fs::read_link("/proc/self"))?;
    if own == Path::new("1") {
        Ok("a new PID namespace gets a /proc of its own".into())
    } else {
        Err(Refused::new("the new /proc shows another PID namespace", 0))
    }
}

/// A tmpfs of our own over /tmp, which is in every Linux root; the host's stays as it is.
fn private_tmp() -> Result<(), Refused> {
    enter()?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    step(
        "mount tmpfs",
        mount(Some("tmpfs"), "/tmp", Some("tmpfs"), flags, Some("size=1m,mode=755")),
    )
}

fn tmpfs() -> Outcome {
    private_tmp()?;
    step("write to tmpfs", std::fs::write("/tmp/file", "x"))?;
    Ok("can be mounted in a user namespace".into())
}

fn mount_api() -> Outcome {
    private_tmp()?;
    step("make a directory", std::fs::create_dir("/tmp/from"))?;
    step("make a directory", std::fs::create_dir("/tmp/to"))?;
    let tree = step(
        "open_tree",
        rustix::mount::open_tree(
            rustix::fs::CWD,
            "/tmp/from",
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC,
        ),
    )?;
    step(
        "mount_setattr",
        sys::mount_setattr(
            tree.as_fd(),
            sys::MountAttributes {
                set: libc::MOUNT_ATTR_RDONLY,
                idmap: None,
            },
        ),
    )?;
    step(
        "move_mount",
        rustix::mount::move_mount(
            tree.as_fd(),
            "",
            rustix::fs::CWD,
            "/tmp/to",
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        ),
    )?;
    match std::fs::write("/tmp/to/file", "x") {
        Err(e) if e.raw_os_error() == Some(libc::EROFS) => Ok("open_tree, mount_setattr and move_mount work".into()),
        _ => Err(Refused::new("a mount that was made read-only can be written", 0)),
    }
}

fn overlay() -> Outcome {
    private_tmp()?;
    for directory in ["lower", "upper", "work", "merged"] {
        step(
            "make a directory",
            std::fs::create_dir(Path::new("/tmp").join(directory)),
        )?;
    }
    step("write to tmpfs", std::fs::write("/tmp/lower/file", "lower"))?;
    let layers = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work,userxattr";
    let target = "/tmp/merged";
    step(
        "mount overlay",
        mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(layers)),
    )?;
    step(
        "make a directory in overlay",
        std::fs::create_dir("/tmp/merged/mount-point"),
    )?;
    step("change a file in overlay", std::fs::write("/tmp/merged/file", "upper"))?;
    match std::fs::read("/tmp/lower/file").as_deref() {
        Ok(b"lower") => Ok("can be mounted in a user namespace".into()),
        _ => Err(Refused::new("overlay changed its lower layer", 0)),
    }
}

fn devpts() -> Outcome {
    use rustix::fs::{Mode, OFlags};
    use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
    private_tmp()?;
    step("make a directory", std::fs::create_dir("/tmp/pts"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let data = "newinstance,ptmxmode=0666,mode=0620";
    step(
        "mount devpts",
        mount(Some("devpts"), "/tmp/pts", Some("devpts"), flags, Some(data)),
    )?;
    let access = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let ptmx = step("open ptmx", rustix::fs::open("/tmp/pts/ptmx", access, Mode::empty()))?;
    step("unlock a terminal", unlockpt(&ptmx))?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    step("open a terminal", ioctl_tiocgptpeer(&ptmx, peer))?;
    Ok("a service gets terminals of its own".into())
}

/// Installs a filter that refuses one harmless call, and makes that call.
fn seccomp() -> Outcome {
    use oci_spec::runtime::{LinuxSeccompAction, LinuxSeccompBuilder, LinuxSyscallBuilder};
    step("set no_new_privs", rustix::thread::set_no_new_privs(true))?;
    let refused = LinuxSyscallBuilder::default()
        .names(["getpriority".to_owned()])
        .action(LinuxSeccompAction::ScmpActErrno)
        .errno_ret(libc::ENOTNAM as u32)
        .build();
    let program = refused
        .and_then(|refused| {
            LinuxSeccompBuilder::default()
                .default_action(LinuxSeccompAction::ScmpActAllow)
                .syscalls([refused])
                .build()
        })
        .map_err(|e| Refused::new(&format!("write a filter ({e})"), 0))
        .and_then(|profile| {
            // As services' are, by the same compiler.
            crate::launch::seccomp::compile(&profile).map_err(|e| Refused::new(&format!("compile a filter ({e})"), 0))
        })?;
    step("install a filter", sys::seccomp_load(&program))?;
    match rustix::process::getpriority_process(None) {
        Err(e) if e.raw_os_error() == libc::ENOTNAM => {}
        _ => {
            return Err(Refused::new("an installed filter lets a refused call pass", 0));
        }
    }
    for (name, action) in [
        ("kill", libc::SECCOMP_RET_KILL_PROCESS),
        ("errno", libc::SECCOMP_RET_ERRNO),
        ("log", libc::SECCOMP_RET_LOG),
    ] {
        step(&format!("the action \"{name}\""), sys::seccomp_action_available(action))?;
    }
    Ok("a filter was installed and refused a call".into())
}

/// Answers with the ABI's number, after it was seen to refuse something.
fn landlock() -> Outcome {
    use landlock::{AccessFs, LandlockStatus, Ruleset, RulesetAttr};
    let restricted = Ruleset::default()
        .handle_access(AccessFs::ReadDir)
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.restrict_self())
        .map_err(|e| Refused::new(&format!("restrict itself ({e})"), 0))?;
    let abi = match restricted.landlock {
        LandlockStatus::NotImplemented => return Err(Refused::new("landlock", libc::ENOSYS)),
        LandlockStatus::NotEnabled => return Err(Refused::new("landlock", libc::EOPNOTSUPP)),
        LandlockStatus::Available {
            effective_abi,
            kernel_abi,
        } => kernel_abi.unwrap_or(effective_abi as i32),
    };
    match std::fs::read_dir("/") {
        Err(e) if e.raw_os_error() == Some(libc::EACCES) => Ok(abi.to_string()),
        _ => Err(Refused::new("a restriction lets a refused access pass", 0)),
    }
}

/// Lowers a hard limit of its own and raises it again, which takes CAP_SYS_RESOURCE.
fn raise_limit() -> Outcome {
    use nix::sys::resource::{Resource, setrlimit};
    step("lower a limit", setrlimit(Resource::RLIMIT_CORE, 0, 0))?;
    step("raise a hard limit", setrlimit(Resource::RLIMIT_CORE, 0, 1))?;
    Ok("a hard limit was raised".into())
}

/// Stays in a user namespace until its input ends.
fn hold() -> Outcome {
    step(MAKE_USERNS, unshare(CloneFlags::CLONE_NEWUSER))?;
    answer(&Ok("ready".into()));
    let _ = std::io::stdin().lock().read(&mut [0]);
    Ok("held".into())
}
