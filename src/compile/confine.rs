//! Profiles of confinement: what a unit of a profile may not do, beyond what holds for all.
//!
//! A profile takes away, and adds nothing: what stands in its way is an error, so that nothing runs without it.

use super::error::CompileError;
use crate::bundle::{Bundle, RootEntry};
use crate::plan::Confinement;
use oci_spec::runtime::{
    LinuxNamespaceType, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder, Mount, PosixRlimit, PosixRlimitBuilder, PosixRlimitType,
    Spec,
};
use std::path::Path;

/// How many seconds a configuration may compute: twice as long as it is waited for, so that this is the end of what
/// nobody waits for any more.
pub const CONFIGURATION_CPU_SECONDS: u64 = 60;
const CONFIGURATION_MEMORY: u64 = 512 << 20;
/// What a configuration has of /dev: nothing that can be written to.
const CONFIGURATION_DEVICES: [&str; 2] = ["null", "urandom"];
/// Whatever makes a process or a thread, so that what one may use is all that it can use.
const MAKES_PROCESSES: [&str; 4] = ["fork", "vfork", "clone", "clone3"];

/// What services have and neither an interpreter nor a compiler needs: other ids and rights, further filters, System V's and POSIX'
/// queues, memory policies, and what has had more than its share of the kernel's faults.
const NOT_FOR_SANDBOXES: [&str; 60] = [
    "add_key",
    "capset",
    "chroot",
    "fanotify_init",
    "fanotify_mark",
    "futex_requeue",
    "io_cancel",
    "io_destroy",
    "io_getevents",
    "io_pgetevents",
    "io_setup",
    "io_submit",
    "ioprio_set",
    "landlock_add_rule",
    "landlock_create_ruleset",
    "landlock_restrict_self",
    "mbind",
    "migrate_pages",
    "mknod",
    "mknodat",
    "mlock",
    "mlock2",
    "mlockall",
    "move_pages",
    "mq_getsetattr",
    "mq_notify",
    "mq_open",
    "mq_timedreceive",
    "mq_timedsend",
    "mq_unlink",
    "msgctl",
    "msgget",
    "msgrcv",
    "msgsnd",
    "name_to_handle_at",
    "process_madvise",
    "process_mrelease",
    "remap_file_pages",
    "request_key",
    "seccomp",
    "semctl",
    "semget",
    "semop",
    "semtimedop",
    "set_mempolicy",
    "set_mempolicy_home_node",
    "setfsgid",
    "setfsuid",
    "setgid",
    "setgroups",
    "setregid",
    "setresgid",
    "setresuid",
    "setreuid",
    "setuid",
    "shmat",
    "shmctl",
    "shmdt",
    "shmget",
    "vmsplice",
];

/// What Landlock does not hold, where there are no namespaces and the id is that of whoever asked: sockets, IPC, owners, modes, times
/// and attributes of files, and what is told of changes in folders. And what leaves a process group, which is what a run is ended by.
const NOT_IN_PLACE: [&str; 36] = [
    "accept",
    "accept4",
    "bind",
    "chmod",
    "chown",
    "connect",
    "fchmod",
    "fchmodat",
    "fchmodat2",
    "fchown",
    "fchownat",
    "fremovexattr",
    "fsetxattr",
    "futimesat",
    "getxattr",
    "getxattrat",
    "inotify_add_watch",
    "lchown",
    "lgetxattr",
    "listen",
    "listxattr",
    "listxattrat",
    "llistxattr",
    "lremovexattr",
    "lsetxattr",
    "removexattr",
    "removexattrat",
    "setpgid",
    "setpriority",
    "setsid",
    "setxattr",
    "setxattrat",
    "socket",
    "utime",
    "utimensat",
    "utimes",
];
/// A copy of an interpreter is confined before it is known which files its run may use, and is held to those by this call alone. Whoever
/// has it and no rules, which it cannot make, can do nothing with it.
const RESTRICTS: &str = "landlock_restrict_self";
/// What takes the number of a process: 0 is the caller, and any other is somebody's.
const OF_PROCESSES: [&str; 5] = [
    "prlimit64",
    "sched_setaffinity",
    "sched_setattr",
    "sched_setparam",
    "sched_setscheduler",
];

/// Takes from a bundle what its profile does not have.
pub(super) fn apply(profile: Confinement, bundle: &mut Bundle) -> Result<(), CompileError> {
    match profile {
        Confinement::Service => Ok(()),
        Confinement::Configuration => {
            nowhere_to_write(bundle);
            let process = bundle.spec.process_mut().as_mut();
            process
                .ok_or(CompileError::Unconfined("limits"))?
                .set_rlimits(Some(limits()?));
            without_calls(&mut bundle.spec, &MAKES_PROCESSES)
        }
        Confinement::Sandbox => {
            without_calls(&mut bundle.spec, &NOT_FOR_SANDBOXES)?;
            own_children(&mut bundle.spec)
        }
        Confinement::WarmInterpreter => {
            among_its_pool(&mut bundle.spec)?;
            joins_namespaces(&mut bundle.spec)
        }
        Confinement::SandboxInPlace => {
            let calls = NOT_FOR_SANDBOXES.into_iter().filter(|call| *call != RESTRICTS);
            without_calls(&mut bundle.spec, &calls.collect::<Vec<_>>())?;
            without_calls(&mut bundle.spec, &NOT_IN_PLACE)?;
            own_children(&mut bundle.spec)?;
            in_place(&mut bundle.spec)
        }
    }
}

/// A warm interpreter stays in the namespaces in which its pool makes sandboxes: into a PID namespace goes only who is in one around
/// it, and into a user namespace only who is in the one around it; setns(2).
fn among_its_pool(spec: &mut Spec) -> Result<(), CompileError> {
    let linux = spec.linux_mut().as_mut();
    let linux = linux.ok_or(CompileError::Unconfined("namespaces"))?;
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    let shared = [LinuxNamespaceType::User, LinuxNamespaceType::Pid];
    namespaces.retain(|n| !shared.contains(&n.typ()));
    linux.set_namespaces(Some(namespaces));
    linux.set_uid_mappings(None);
    linux.set_gid_mappings(None);
    Ok(())
}

/// clone(2) without CLONE_PARENT: whoever is started there is the child of who started it. The pool knows all that is in a sandbox by
/// that, and the parent of a copy of the warm interpreter is outside.
fn own_children(spec: &mut Spec) -> Result<(), CompileError> {
    let filter = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    let filter = filter.ok_or(CompileError::Unconfined("a filter of system calls"))?;
    let mut rules = filter.syscalls().clone().unwrap_or_default();
    for rule in rules
        .iter_mut()
        .filter(|rule| rule.names().iter().any(|name| name == "clone"))
    {
        let flags = rule
            .args()
            .as_ref()
            .and_then(|args| args.first())
            .map(LinuxSeccompArg::value);
        let flags = flags.ok_or(CompileError::Unconfined("clone"))?;
        // The flags that must not be there, and that they are not.
        let masked = argument(0, flags | libc::CLONE_PARENT as u64, Some(0))?;
        rule.set_args(Some(vec![masked]));
    }
    filter.set_syscalls(Some(rules));
    Ok(())
}

/// Calls of which a part is allowed: of processes the caller, and of sockets a pair that nothing else can be sent from (a datagram
/// socket's may send to any that has a name).
fn in_place(spec: &mut Spec) -> Result<(), CompileError> {
    const PAIR: &str = "socketpair";
    let filter = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    let filter = filter.ok_or(CompileError::Unconfined("a filter of system calls"))?;
    let mut rules = filter.syscalls().clone().unwrap_or_default();
    for rule in &mut rules {
        let of_another = |args: &Vec<LinuxSeccompArg>| args.iter().any(|a| a.index() == 0 && a.value() != 0);
        let another = rule.args().as_ref().is_some_and(of_another);
        let kept = |name: &&String| *name != PAIR && !(another && OF_PROCESSES.contains(&name.as_str()));
        let mut names: Vec<String> = rule.names().iter().filter(kept).cloned().collect();
        // What another one's limits are may be read, by a rule without a number.
        if !another
            && rule
                .args()
                .as_ref()
                .is_some_and(|args| args.iter().all(|a| a.index() == 2))
        {
            names.retain(|name| name != "prlimit64");
        }
        rule.set_names(names);
    }
    rules.retain(|rule| !rule.names().is_empty());
    for kind in [libc::SOCK_STREAM, libc::SOCK_SEQPACKET] {
        let unix = argument(0, libc::AF_UNIX as u64, None)?;
        // Without SOCK_CLOEXEC and SOCK_NONBLOCK.
        let kind = argument(1, 0xf, Some(kind as u64))?;
        let rule = LinuxSyscallBuilder::default()
            .names(vec![PAIR.to_owned()])
            .action(LinuxSeccompAction::ScmpActAllow)
            .args(vec![unix, kind])
            .build();
        rules.push(rule.map_err(|_| CompileError::Unconfined(PAIR))?);
    }
    filter.set_syscalls(Some(rules));
    Ok(())
}

/// An argument that is this value, or that is `masked` by it.
fn argument(index: usize, value: u64, masked: Option<u64>) -> Result<LinuxSeccompArg, CompileError> {
    let builder = LinuxSeccompArgBuilder::default().index(index).value(value);
    let builder = match masked {
        None => builder.op(LinuxSeccompOperator::ScmpCmpEq),
        Some(rest) => builder.op(LinuxSeccompOperator::ScmpCmpMaskedEq).value_two(rest),
    };
    builder
        .build()
        .map_err(|_| CompileError::Unconfined("an argument of a system call"))
}

/// setns(2), which it has no right to but in namespaces that belong to its own id.
fn joins_namespaces(spec: &mut Spec) -> Result<(), CompileError> {
    let filter = spec.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    let filter = filter.ok_or(CompileError::Unconfined("a filter of system calls"))?;
    let call = LinuxSyscallBuilder::default()
        .names(vec!["setns".to_owned()])
        .action(LinuxSeccompAction::ScmpActAllow)
        .build()
        .map_err(|_| CompileError::Unconfined("setns"))?;
    let mut rules = filter.syscalls().clone().unwrap_or_default();
    rules.push(call);
    filter.set_syscalls(Some(rules));
    Ok(())
}

/// Neither /tmp nor /dev, of which two devices are left.
fn nowhere_to_write(bundle: &mut Bundle) {
    let writable = |m: &Mount| matches!(m.typ().as_deref(), Some("tmpfs" | "devpts"));
    let mut mounts = bundle.spec.mounts_mut().take().unwrap_or_default();
    mounts.retain(|m| !writable(m));
    let mut devices = Vec::new();
    for device in CONFIGURATION_DEVICES {
        let path = Path::new("/dev").join(device);
        let mut mount = Mount::default();
        mount.set_destination(path.clone());
        mount.set_typ(Some("bind".into()));
        mount.set_source(Some(path));
        mount.set_options(Some(["bind", "ro", "nosuid", "noexec"].map(str::to_owned).into()));
        bundle
            .root
            .push(RootEntry::File(Path::new("dev").join(device), String::new()));
        devices.push(mount);
    }
    // Before what is made inside, as all that is bound.
    mounts.splice(0..0, devices);
    bundle.spec.set_mounts(Some(mounts));
}

/// Takes these calls out of the filter, so that they are refused.
fn without_calls(spec: &mut Spec, calls: &[&str]) -> Result<(), CompileError> {
    let linux = spec
        .linux_mut()
        .as_mut()
        .ok_or(CompileError::Unconfined("namespaces"))?;
    let filter = linux.seccomp().clone();
    let mut filter: LinuxSeccomp = filter.ok_or(CompileError::Unconfined("a filter of system calls"))?;
    let without = |mut rule: LinuxSyscall| {
        let names = rule.names().iter().filter(|n| !calls.contains(&n.as_str()));
        let names: Vec<String> = names.cloned().collect();
        rule.set_names(names.clone());
        (!names.is_empty()).then_some(rule)
    };
    let rules = filter.syscalls().clone().unwrap_or_default();
    // What no rule allows is refused.
    filter.set_syscalls(Some(rules.into_iter().filter_map(without).collect()));
    linux.set_seccomp(Some(filter));
    Ok(())
}

fn limits() -> Result<Vec<PosixRlimit>, CompileError> {
    [
        (PosixRlimitType::RlimitCore, 0),
        (PosixRlimitType::RlimitNofile, 64),
        (PosixRlimitType::RlimitAs, CONFIGURATION_MEMORY),
        // Memory that has the form of a file is none of its address space.
        (PosixRlimitType::RlimitFsize, 0),
        (PosixRlimitType::RlimitCpu, CONFIGURATION_CPU_SECONDS),
    ]
    .into_iter()
    .map(|(kind, most)| {
        let limit = PosixRlimitBuilder::default().typ(kind).soft(most).hard(most);
        limit.build().map_err(|_| CompileError::Unconfined("limits"))
    })
    .collect()
}
