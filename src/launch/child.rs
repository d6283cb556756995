//! After clone3(2): the code that runs in the new namespaces, as PID 1, and in the service's process up to
//! its execve(2).
//!
//! Nothing here allocates, locks, logs or panics: the process is a copy of one that may have been anywhere.
//! What is needed was computed before ([`super::prepare`]). A failure is reported by number over the report
//! socket and ends the process.
//!
//! PID 1 stays for as long as the service runs: it reaps, forwards signals, and holds nothing that is
//! another's. It is not dumpable, keeps the keeper's id, and ends when its supervisor does.

#![allow(
    unsafe_code,
    reason = "in a copy of the process, it works on descriptors and memory that the original owns"
)]

use super::attach::{attach, attach_at, open_place};
use super::capabilities;
use super::cgroup;
use super::filesystem;
use super::landlock;
use super::step::{ExecContext, Stage, Step};
use crate::sys;
pub(super) use crate::sys::exit;
pub(super) use crate::sys::helper::hide;
use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags};
use rustix::process::Signal;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};

type Result<T> = std::result::Result<T, Errno>;

/// What a process says to its launcher: three numbers a message.
pub(super) mod report {
    /// A step failed: its place in the list, the errno.
    pub(crate) const STEP_FAILED: u32 = 1;
    /// A stage failed: its number, the errno.
    pub(crate) const STAGE_FAILED: u32 = 6;
    /// The program runs.
    pub(crate) const STARTED: u32 = 2;
    /// The program ended: its wait status.
    pub(crate) const EXITED: u32 = 3;
    /// A terminal is open; its other end comes with the message.
    pub(crate) const TERMINAL: u32 = 4;
    /// All is there but the program.
    pub(crate) const HELD: u32 = 5;
    /// The Landlock rules come with the message that a process which joins is to apply to itself.
    pub(crate) const RULES: u32 = 7;
}

/// What a launcher says to PID 1: go on.
pub(super) const GO: u8 = b'!';

/// All that PID 1 works on.
pub(super) struct Init {
    pub steps: Vec<Step>,
    pub exec: ExecContext,
    /// Both ways: reports out, one byte in when the id maps are written.
    pub report: RawFd,
    /// The launcher's end of it.
    pub launcher: RawFd,
    /// The id that PID 1 keeps, if id 0 is the service's own.
    pub keep: Option<(u32, u32)>,
    /// Does the process that it looks after join from outside?
    pub joined: bool,
    /// For the service's process up to its execve(2).
    pub stack: sys::Stack,
    pub page: usize,
}

/// PID 1's whole life. The padding keeps the frames of the process that this is a copy of on other pages
/// of the stack, so that they can be forgotten.
pub(super) fn run_init(init: &Init) -> ! {
    sys::below_padding(init.page, || live(init))
}

#[inline(never)]
fn live(init: &Init) -> ! {
    let local = 0u8;
    let stack = sys::kept_stack(&raw const local as usize, init.page);
    // SAFETY: the report socket is open until this process ends.
    let report = unsafe { BorrowedFd::borrow_raw(init.report) };
    sys::set_signal_mask(u64::MAX);
    // Everybody may read a command line, and the service is not to see this one, which names paths of the host.
    // SAFETY: nothing here looks at it.
    unsafe { sys::forget_arguments(&init.exec.arguments) };
    // The launcher may be killed before the id maps are written. It is seen by the end of the socket, of which
    // this process must not hold the launcher's side, or by the signal; a change of id undoes that until `hide`.
    // SAFETY: the descriptor's owner is on the launcher's side of clone3(2); nothing here uses it.
    unsafe { rustix::io::close(init.launcher) };
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // Out of the terminal's process group: Ctrl-C is the supervisor's to handle.
    let _ = rustix::process::setsid();
    let mut terminal = None;
    for (number, step) in init.steps.iter().enumerate() {
        if matches!(step, Step::Hold) {
            // It may be for long, and what else is open here is what other services' lives hang on.
            let kept = || {
                init.exec
                    .stdio
                    .iter()
                    .chain(&init.exec.sockets)
                    .copied()
                    .chain([init.report])
            };
            // SAFETY: the owners of all others are on the launcher's side of clone3(2), and no step behind this one has any.
            if let Err(errno) = unsafe { sys::close_except(kept) } {
                fail(report, Stage::Descriptors, errno);
            }
        }
        let done = match step {
            Step::Rules => hand_out_rules(&init.exec, report).map(|()| None),
            other => carry_out(other, report),
        };
        match done {
            Ok(None) => {}
            Ok(Some(slave)) => terminal = Some(slave),
            Err(errno) => fail_step(report, number, errno),
        }
    }
    // Signals for a process that joined go to all.
    let main = if init.joined {
        -1
    } else {
        spawn(init, terminal.as_ref().map(|t| t.as_fd()), report)
    };
    drop(terminal);
    // SAFETY: nothing here uses what 0 was, and it is open from now on until this process ends.
    let report = match unsafe { sys::duplicate_to(init.report, 0) } {
        Ok(report) => report,
        Err(errno) => fail(report, Stage::Descriptors, errno),
    };
    if let Err((stage, errno)) = settle(init) {
        fail(report, stage, errno);
    }
    let needed = [
        &raw const main as usize,
        &raw const report as usize,
        &raw const stack as usize,
    ];
    if needed.iter().any(|address| !stack.contains(address)) {
        // The compiler has made this frame larger than `kept_stack` provides for.
        fail(report, Stage::Memory, Errno::FAULT);
    }
    say(report, report::STARTED, 0, 0);
    // SAFETY: `init` and all it points to are not used below; `main` and `report` are in what is kept, as was just seen.
    if unsafe { sys::forget_memory(&stack) }.is_err() {
        // It would hold what its service may not have.
        exit(125);
    }
    wait_for(main, report)
}

/// Makes the service's process, which has executed its program when this returns.
fn spawn(init: &Init, terminal: Option<BorrowedFd<'_>>, report: BorrowedFd<'_>) -> i32 {
    let mut started = Started {
        exec: &init.exec,
        terminal,
        failed: None,
    };
    // SAFETY: the stack is the child's alone; `serve` never returns and writes to `started` only.
    let spawned = unsafe { sys::vfork(init.stack.top(), serve, (&raw mut started).cast()) };
    match (spawned, std::hint::black_box(&started).failed) {
        (Err(errno), _) => fail(report, Stage::Spawn, errno),
        (Ok(_), Some((stage, errno))) => fail(report, stage, errno),
        (Ok(pid), None) => pid,
    }
}

/// Rules name what lies in this mount namespace, so they are made here.
fn hand_out_rules(exec: &ExecContext, report: BorrowedFd<'_>) -> Result<()> {
    match &exec.landlock {
        Some(rules) => sys::send_fd(report, &encode(report::RULES, 0, 0), landlock::ruleset(rules)?.as_fd()),
        None => Ok(()),
    }
}

/// Leaves PID 1 with the report socket as its one descriptor, 0, and with no right but to signal.
fn settle(init: &Init) -> std::result::Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    // SAFETY: the owners of all others are on the launcher's side of clone3(2).
    unsafe { sys::close_from(1) }.map_err(at(Stage::Descriptors))?;
    // Before the change of id, which leaves no capability in effect, though it keeps them permitted.
    sys::drop_bounding_set().map_err(at(Stage::Capabilities))?;
    if let Some((uid, gid)) = init.keep {
        rustix::thread::set_keep_capabilities(true).map_err(at(Stage::User))?;
        become_id(uid, gid).map_err(at(Stage::User))?;
    }
    capabilities::keep(capabilities::INIT).map_err(at(Stage::Capabilities))?;
    hide().map_err(at(Stage::User))
}

/// Reaps whatever ends in the namespace, passes signals on, and ends with the main process: the kernel then
/// kills what is left.
fn wait_for(main: i32, report: BorrowedFd<'_>) -> ! {
    let Ok(signals) = sys::signalfd(u64::MAX) else {
        exit(125)
    };
    loop {
        while let Some((pid, status)) = sys::reap() {
            if pid == main {
                say(report, report::EXITED, status as u32, 0);
                exit(sys::exit_status::exit_code(status).into());
            }
        }
        let mut ready = [
            rustix::event::PollFd::new(&signals, rustix::event::PollFlags::IN),
            rustix::event::PollFd::new(&report, rustix::event::PollFlags::empty()),
        ];
        if rustix::event::poll(&mut ready, None).is_err() {
            continue;
        }
        if !ready[1].revents().is_empty() {
            // The supervisor is gone, whether or not its death signal came.
            exit(137);
        }
        let mut record = [0u8; 128];
        while let Ok(128) = rustix::io::read(&signals, &mut record) {
            let signal = i32::from_ne_bytes([record[0], record[1], record[2], record[3]]);
            match signal {
                libc::SIGCHLD => {}
                // As systemd does it: a shell in between would keep the signal to itself. And whoever was stopped
                // has to go on to see it.
                libc::SIGTERM | libc::SIGCONT => drop(sys::kill(-1, signal)),
                _ => drop(sys::kill(main, signal)),
            }
        }
    }
}

pub(super) fn carry_out(step: &Step, report: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    match step {
        Step::Cgroup { entrances, namespace } => {
            for entrance in entrances {
                cgroup::enter(entrance.as_fd())?;
            }
            if *namespace {
                sys::own_cgroup_namespace()?;
            }
        }
        Step::AwaitIds { root, clear_groups } => {
            await_go(report)?;
            rustix::process::umask(Mode::empty());
            if *clear_groups {
                rustix::thread::set_thread_groups(&[])?;
            }
            if *root {
                become_id(0, 0)?;
            }
            hide()?;
        }
        Step::Hostname(name) => rustix::system::sethostname(name.to_bytes())?,
        Step::Loopback => sys::loopback_up()?,
        Step::Sysctl { path, value } => write_file(path, value.to_bytes())?,
        Step::Root { tree } => {
            rustix::mount::move_mount(tree, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
            rustix::process::fchdir(tree)?;
            rustix::process::pivot_root(c".", c".")?;
        }
        Step::Leave => {
            rustix::mount::unmount(c".", UnmountFlags::DETACH)?;
            rustix::process::chdir(c"/")?;
        }
        Step::Attach { tree, target, place } => match place {
            Some(place) => attach_at(tree.as_fd(), place.as_fd())?,
            None => attach(tree.as_fd(), target)?,
        },
        Step::Filesystem {
            kind,
            options,
            attributes,
            target,
        } => {
            attach(filesystem::new(kind, options, *attributes)?.as_fd(), target)?;
        }
        Step::Device { tree, path } => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o666))?;
            attach(tree.as_fd(), path)?;
        }
        Step::Link { path, to } => rustix::fs::symlinkat(to, CWD, path)?,
        Step::Directory { path } => rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755))?,
        Step::Mask { path } => mask(path)?,
        Step::ReadOnly { path } => {
            if let Some(place) = open_place(path)? {
                let tree = clone_tree(place.as_fd())?;
                sys::mount_setattr(
                    tree.as_fd(),
                    sys::MountAttributes {
                        set: libc::MOUNT_ATTR_RDONLY,
                        idmap: None,
                    },
                )?;
                attach_at(tree.as_fd(), place.as_fd())?;
            }
        }
        Step::Hold => {
            say(report, report::HELD, 0, 0);
            await_go(report)?;
        }
        // It wants more than a step has.
        Step::Rules => return Err(Errno::INVAL),
        Step::Terminal { uid, gid } => return open_terminal(*uid, *gid, report).map(Some),
    }
    Ok(None)
}

fn await_go(report: BorrowedFd<'_>) -> Result<()> {
    let mut go = [0u8; 1];
    if rustix::io::read(report, &mut go)? != 1 {
        // The launcher is gone or gave up.
        exit(125);
    }
    Ok(())
}

pub(super) fn write_file(path: &CStr, bytes: &[u8]) -> Result<()> {
    let file = rustix::fs::openat(CWD, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, bytes).map(drop)
}

fn clone_tree(of: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    rustix::mount::open_tree(of, c"", flags)
}

/// A file is covered with our own /dev/null, a directory with an empty read-only file system.
fn mask(path: &CStr) -> Result<()> {
    let Some(place) = open_place(path)? else { return Ok(()) };
    let found = rustix::fs::fstat(&place)?;
    let cover = if rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir() {
        let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
            | MountAttrFlags::MOUNT_ATTR_NOSUID
            | MountAttrFlags::MOUNT_ATTR_NODEV
            | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        filesystem::new::<&CStr>(c"tmpfs", &[], attributes)?
    } else {
        let null = open_place(c"/dev/null")?.ok_or(Errno::NOENT)?;
        let device = rustix::fs::fstat(&null)?;
        if device.st_rdev != rustix::fs::makedev(1, 3) {
            return Err(Errno::NODEV);
        }
        clone_tree(null.as_fd())?
    };
    attach_at(cover.as_fd(), place.as_fd())
}

/// Opens a new terminal, gives its slave to the service's user, and sends the master to the launcher.
pub(super) fn open_terminal(uid: u32, gid: u32, report: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::openat(CWD, c"/dev/pts/ptmx", flags, Mode::empty())?;
    rustix::pty::unlockpt(&master)?;
    let slave = rustix::pty::ioctl_tiocgptpeer(
        &master,
        rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY | rustix::pty::OpenptFlags::CLOEXEC,
    )?;
    rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    sys::send_fd(report, &encode(report::TERMINAL, 0, 0), master.as_fd())?;
    Ok(slave)
}

/// What PID 1 shares with the process that becomes the service, while that runs on its memory.
struct Started<'a> {
    exec: &'a ExecContext,
    terminal: Option<BorrowedFd<'a>>,
    failed: Option<(Stage, Errno)>,
}

/// The service's process, from its first instruction to its program's.
extern "C" fn serve(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `live` passes a pointer to its own `Started`, and waits.
    let started = unsafe { &mut *argument.cast::<Started>() };
    started.failed = Some(exec_program(started.exec, started.terminal, 0));
    exit(127)
}

/// Becomes the program, and tells if that failed.
pub(super) fn exec_reporting(exec: &ExecContext, terminal: Option<BorrowedFd<'_>>, report: BorrowedFd<'_>) -> ! {
    let behind = (exec.stdio.len() + exec.sockets.len()) as RawFd;
    // Behind the program's own, where it stays open until execve(2) succeeds.
    // SAFETY: what that number was is used no more: what the program is to have lies above.
    let report = match unsafe { sys::duplicate_to_cloexec(report.as_raw_fd(), behind) } {
        Ok(report) => report,
        Err(errno) => fail(report, Stage::Descriptors, errno),
    };
    let (stage, errno) = exec_program(exec, terminal, 1);
    fail(report, stage, errno)
}

/// The life of a process that is to have no namespaces of its own. `outlives`: may it see its maker's end?
pub(super) fn run_in_place(exec: &ExecContext, outlives: bool, report: RawFd) -> ! {
    // SAFETY: the report socket is open until this process ends.
    let report = unsafe { BorrowedFd::borrow_raw(report) };
    if !outlives && let Err(errno) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        fail(report, Stage::Session, errno);
    }
    exec_reporting(exec, None, report)
}

/// As [`apply_credentials`], for a process that keeps the ids and the namespaces of its maker.
fn apply_in_place(exec: &ExecContext, kept: u32) -> std::result::Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    sys::reset_signals();
    // A process group of its own, by which it is ended with all that it has started.
    rustix::process::setsid().map_err(at(Stage::Session))?;
    place_descriptors(exec.stdio, &exec.sockets, kept).map_err(at(Stage::Descriptors))?;
    for (resource, limit) in &exec.rlimits {
        rustix::process::setrlimit(*resource, *limit).map_err(at(Stage::Limits))?;
    }
    rustix::process::umask(Mode::from_raw_mode(exec.umask));
    give_up_where_allowed().map_err(at(Stage::Capabilities))?;
    rustix::thread::clear_ambient_capability_set().map_err(at(Stage::Capabilities))?;
    capabilities::keep(capabilities::NONE).map_err(at(Stage::Capabilities))?;
    rustix::process::chdir(exec.directory.as_c_str()).map_err(at(Stage::Directory))?;
    rustix::thread::set_no_new_privs(true).map_err(at(Stage::NoNewPrivileges))?;
    if let Some(rules) = &exec.landlock {
        landlock::apply(rules).map_err(at(Stage::Landlock))?;
    }
    if let Some(filter) = &exec.filter {
        sys::seccomp_load(filter).map_err(at(Stage::Seccomp))?;
    }
    Ok(())
}

/// Without CAP_SETPCAP there is nothing that could be given up for good, and nothing that no_new_privs would give back.
fn give_up_where_allowed() -> Result<()> {
    for done in [sys::drop_bounding_set(), capabilities::lock_root()] {
        match done {
            Err(Errno::PERM) | Ok(()) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Becomes the program; returns only if that failed, and where. `kept` descriptors behind the program's own
/// stay open up to execve(2).
fn exec_program(exec: &ExecContext, terminal: Option<BorrowedFd<'_>>, kept: u32) -> (Stage, Errno) {
    match try_exec(exec, terminal, kept) {
        Ok(never) => match never {},
        Err(failure) => failure,
    }
}

fn try_exec(
    exec: &ExecContext,
    terminal: Option<BorrowedFd<'_>>,
    kept: u32,
) -> std::result::Result<std::convert::Infallible, (Stage, Errno)> {
    match exec.in_place {
        true => apply_in_place(exec, kept)?,
        false => apply_credentials(exec, terminal, kept)?,
    }
    let mut failure = Errno::NOENT;
    for path in &exec.candidates {
        match sys::execve(path, exec.argv.pointers(), exec.environment.pointers()) {
            // As a shell goes on along PATH, but remembers a file that it may not run.
            Errno::NOENT | Errno::NOTDIR => {}
            Errno::ACCESS => failure = Errno::ACCESS,
            other => {
                failure = other;
                break;
            }
        }
    }
    Err((Stage::Exec, failure))
}

/// All but the program itself: descriptors, limits, ids, filters, in the order in which they are still allowed.
pub(super) fn apply_credentials(
    exec: &ExecContext,
    terminal: Option<BorrowedFd<'_>>,
    kept: u32,
) -> std::result::Result<(), (Stage, Errno)> {
    let at = |stage: Stage| move |errno: Errno| (stage, errno);
    sys::reset_signals();
    rustix::process::setsid().map_err(at(Stage::Session))?;
    let stdio = match terminal {
        Some(slave) => {
            sys::set_controlling_terminal(slave).map_err(at(Stage::Terminal))?;
            [slave.as_raw_fd(); 3]
        }
        None => own_null(exec),
    };
    place_descriptors(stdio, &exec.sockets, kept).map_err(at(Stage::Descriptors))?;
    for (resource, limit) in &exec.rlimits {
        rustix::process::setrlimit(*resource, *limit).map_err(at(Stage::Limits))?;
    }
    rustix::process::umask(Mode::from_raw_mode(exec.umask));
    if !exec.capabilities.is_empty() {
        // While the bounding set allows it.
        capabilities::make_inheritable(exec.capabilities).map_err(at(Stage::Capabilities))?;
    }
    sys::drop_bounding_set().map_err(at(Stage::Capabilities))?;
    if let Some(groups) = &exec.groups {
        rustix::thread::set_thread_groups(groups).map_err(at(Stage::Groups))?;
    }
    // A program run as uid 0 must not get back what is dropped here.
    capabilities::lock_root().map_err(at(Stage::Capabilities))?;
    become_id(exec.uid, exec.gid).map_err(at(Stage::User))?;
    rustix::thread::clear_ambient_capability_set().map_err(at(Stage::Capabilities))?;
    if exec.capabilities.is_empty() {
        capabilities::keep(capabilities::NONE).map_err(at(Stage::Capabilities))?;
    } else {
        capabilities::hand_on(exec.capabilities).map_err(at(Stage::Capabilities))?;
    }
    match rustix::process::chdir(exec.directory.as_c_str()) {
        // Who looks after a service gets in though another one has renamed the folder that it began in.
        Err(_) if exec.joins => rustix::process::chdir(c"/"),
        other => other,
    }
    .map_err(at(Stage::Directory))?;
    rustix::thread::set_no_new_privs(true).map_err(at(Stage::NoNewPrivileges))?;
    if let Some(rules) = &exec.landlock {
        landlock::apply(rules).map_err(at(Stage::Landlock))?;
    }
    if let Some(filter) = &exec.filter {
        sys::seccomp_load(filter).map_err(at(Stage::Seccomp))?;
    }
    Ok(())
}

/// The program's streams, of which the host's /dev/null is that of the program's own root: the other one lies outside of all that
/// it may open.
fn own_null(exec: &ExecContext) -> [RawFd; 3] {
    let mut stdio = exec.stdio;
    if !exec.null.contains(&true) {
        return stdio;
    }
    let least = (stdio.len() + exec.sockets.len()).max(64) as RawFd;
    let opened = rustix::fs::openat(CWD, c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    // Above the places that others are to take, as theirs are; it is closed with those.
    let above = opened.and_then(|null| rustix::io::fcntl_dupfd_cloexec(&null, least));
    if let Ok(null) = above.map(IntoRawFd::into_raw_fd) {
        for (fd, _) in stdio.iter_mut().zip(exec.null).filter(|(_, is)| *is) {
            *fd = null;
        }
    }
    stdio
}

/// Standard input, output, error and sockets to 0, 1, 2, 3…; everything else is closed. The launcher has
/// put the sources above all these places, so none overwrites another.
fn place_descriptors(stdio: [RawFd; 3], sockets: &[RawFd], kept: u32) -> Result<()> {
    for (to, from) in stdio.iter().chain(sockets).enumerate() {
        // SAFETY: the program's own places, which nothing uses before it does.
        unsafe { sys::duplicate_to(*from, to as RawFd) }?;
    }
    // SAFETY: from here on nothing is used but these and what is kept, up to execve(2) or to what is done in its stead.
    unsafe { sys::close_from((stdio.len() + sockets.len()) as u32 + kept) }
}

pub(super) fn become_id(uid: u32, gid: u32) -> Result<()> {
    let gid = Gid::from_raw(gid);
    let uid = Uid::from_raw(uid);
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)
}

/// Every right for good, and every id but the one given.
pub(super) fn give_up(id: Option<(u32, u32)>, clear_groups: bool) -> Result<()> {
    sys::drop_bounding_set()?;
    if clear_groups {
        rustix::thread::set_thread_groups(&[])?;
    }
    capabilities::lock_root()?;
    if let Some((uid, gid)) = id {
        become_id(uid, gid)?;
    }
    rustix::thread::clear_ambient_capability_set()?;
    capabilities::keep(capabilities::NONE)?;
    rustix::thread::set_no_new_privs(true)?;
    hide()
}

fn encode(tag: u32, a: u32, b: u32) -> [u8; 12] {
    let mut out = [0; 12];
    out[..4].copy_from_slice(&tag.to_ne_bytes());
    out[4..8].copy_from_slice(&a.to_ne_bytes());
    out[8..].copy_from_slice(&b.to_ne_bytes());
    out
}

pub(super) fn say(report: BorrowedFd<'_>, tag: u32, a: u32, b: u32) {
    // Whoever would read it may be gone; then nobody has to know.
    let _ = rustix::net::send(report, &encode(tag, a, b), rustix::net::SendFlags::NOSIGNAL);
}

pub(super) fn fail(report: BorrowedFd<'_>, stage: Stage, errno: Errno) -> ! {
    say(report, report::STAGE_FAILED, stage as u32, errno.raw_os_error() as u32);
    exit(125)
}

/// As [`fail`], of one of the steps, which is told by its place in their list.
fn fail_step(report: BorrowedFd<'_>, number: usize, errno: Errno) -> ! {
    say(report, report::STEP_FAILED, number as u32, errno.raw_os_error() as u32);
    exit(125)
}
