//! System calls that neither rustix nor nix wraps safely, and nothing else. With [`super::child`], the only
//! place in the crate where `unsafe` may stand.
//!
//! Everything here is async-signal-safe: no allocation, no lock, no errno in thread-local storage that
//! anyone reads later. So it may be used between clone3(2) and execve(2).

#![allow(unsafe_code)]

use libc::{c_char, c_int, c_long, c_void};
use rustix::io::Errno;
use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

type Result<T> = std::result::Result<T, Errno>;

fn check(result: c_long) -> Result<c_long> {
    if result >= 0 {
        return Ok(result);
    }
    // SAFETY: errno is this thread's own and always mapped.
    Err(Errno::from_raw_os_error(unsafe { *libc::__errno_location() }))
}

/// linux/sched.h; libc has it in a type that is too narrow.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// clone3(2) as fork(2), into the given new namespaces. `Ok(0)` in the child.
///
/// # Safety
/// The process must be single-threaded, or the child may touch nothing that another thread could hold.
pub unsafe fn clone3(flags: u64) -> Result<i32> {
    // SAFETY: as promised by the caller.
    unsafe { clone3_into(flags, None) }
}

/// The same, the child being born in the given cgroup of version 2; cgroups(7), CLONE_INTO_CGROUP.
///
/// # Safety
/// As for [`clone3`].
pub unsafe fn clone3_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    // SAFETY: as promised by the caller.
    unsafe { clone(flags, libc::SIGCHLD as u64, cgroup) }
}

/// As [`clone3`], but of a child of the process whose child this one is.
///
/// # Safety
/// As for [`clone3`].
pub unsafe fn clone3_sibling(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    // It tells its end as this process does, so it names no signal of its own.
    // SAFETY: as promised by the caller.
    unsafe { clone(flags | libc::CLONE_PARENT as u64, 0, cgroup) }
}

/// # Safety
/// As for [`clone3`].
unsafe fn clone(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<i32> {
    // SAFETY: an all-zero clone_args is valid; without CLONE_VM and a stack the child runs on a copy of ours.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = exit_signal;
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is valid for the call and of the size given.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &args, size_of::<libc::clone_args>()) };
    check(result).map(|pid| pid as i32)
}

/// Runs `entry(argument)` in a child that shares our memory, and waits until it has exec'd or exited;
/// vfork(2) with a stack of its own.
///
/// # Safety
/// `stack_top` is the end of a writable region that nothing else uses and that suffices for `entry`;
/// `entry` never returns and writes to no memory that the caller relies on, but through `argument`.
pub unsafe fn vfork(
    stack_top: *mut u8,
    entry: extern "C" fn(*mut c_void) -> c_int,
    argument: *mut c_void,
) -> Result<i32> {
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: as promised by the caller.
    let result = unsafe { libc::clone(entry, stack_top.cast(), flags, argument) };
    check(c_long::from(result)).map(|pid| pid as i32)
}

/// execve(2); returns only if it failed.
pub fn execve(path: &CStr, argv: &[*const c_char], envp: &[*const c_char]) -> Errno {
    debug_assert!(argv.last().is_some_and(|p| p.is_null()) && envp.last().is_some_and(|p| p.is_null()));
    // SAFETY: both arrays end in a null pointer, and what they point to outlives the call.
    let result = unsafe { libc::syscall(libc::SYS_execve, path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    check(result).err().unwrap_or(Errno::INVAL)
}

/// Attributes to set on a detached mount tree; mount_setattr(2).
#[derive(Clone, Copy, Default)]
pub struct MountAttributes<'fd> {
    pub set: u64,
    pub idmap: Option<BorrowedFd<'fd>>,
}

/// Sets attributes on a mount tree and all below it, and makes it private, so that nothing mounted in it is
/// seen by the host.
pub fn mount_setattr(tree: BorrowedFd<'_>, attributes: MountAttributes<'_>) -> Result<()> {
    let idmap = if attributes.idmap.is_some() {
        libc::MOUNT_ATTR_IDMAP
    } else {
        0
    };
    let attr = libc::mount_attr {
        attr_set: attributes.set | idmap,
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: attributes.idmap.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    // SAFETY: the path is a terminated string, `attr` is valid for the call and of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &attr,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// Loads a classic BPF program as seccomp filter; seccomp(2). Wants no_new_privs.
pub fn seccomp_load(program: &[libc::sock_filter]) -> Result<()> {
    let prog = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: sock_fprog points to `len` instructions, which the kernel copies and does not write to.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &prog) };
    check(result).map(drop)
}

/// struct landlock_ruleset_attr of linux/landlock.h, up to ABI 6.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct LandlockRuleset {
    pub handled_access_fs: u64,
    pub handled_access_net: u64,
    pub scoped: u64,
}

/// The Landlock ABI of this kernel; landlock_create_ruleset(2).
pub fn landlock_abi() -> Result<u32> {
    const VERSION: u32 = 1;
    // SAFETY: with the version flag the kernel reads no attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<c_void>(),
            0,
            VERSION,
        )
    };
    check(result).map(|abi| abi as u32)
}

/// `size`: how much of the attributes this kernel's ABI knows.
pub fn landlock_create(ruleset: &LandlockRuleset, size: usize) -> Result<OwnedFd> {
    debug_assert!(size <= size_of::<LandlockRuleset>());
    // SAFETY: at most the structure's own size is read.
    let result = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, ruleset, size, 0) };
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows `access` at and below what `parent` refers to; landlock_add_rule(2).
pub fn landlock_allow(ruleset: BorrowedFd<'_>, parent: BorrowedFd<'_>, access: u64) -> Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        allowed_access: u64,
        parent_fd: c_int,
    }
    const PATH_BENEATH: c_int = 1;
    let rule = PathBeneath {
        allowed_access: access,
        parent_fd: parent.as_raw_fd(),
    };
    // SAFETY: `rule` has the layout of struct landlock_path_beneath_attr and lives through the call.
    let result = unsafe { libc::syscall(libc::SYS_landlock_add_rule, ruleset.as_raw_fd(), PATH_BENEATH, &rule, 0) };
    check(result).map(drop)
}

pub fn landlock_restrict(ruleset: BorrowedFd<'_>) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) }).map(drop)
}

/// close_range(2): every descriptor from `first` on.
pub fn close_from(first: u32) -> Result<()> {
    // SAFETY: closes descriptors only; whoever calls this owns none from `first` on that it uses later.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor from 3 on that is not in the list. With an error, whatever was open still may be: who goes on has
/// what was not meant for it.
pub fn close_all_but(kept: &[RawFd]) -> Result<()> {
    close_except(|| kept.iter().copied())
}

/// Closes every descriptor from 3 on that is not among these, in whatever order they come; takes no memory.
pub fn close_except<I: Iterator<Item = RawFd>>(kept: impl Fn() -> I) -> Result<()> {
    let mut first = 3u32;
    while let Some(next) = kept().map(|fd| fd as u32).filter(|fd| *fd >= first).min() {
        if next > first {
            // SAFETY: closes descriptors only, of which the caller uses none later.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, next - 1, 0) })?;
        }
        first = next + 1;
    }
    close_from(first)
}

pub fn close_on_exec(fd: RawFd) -> Result<()> {
    // SAFETY: takes integers only.
    check(c_long::from(unsafe {
        libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC)
    }))
    .map(drop)
}

/// Makes `to` a copy of `from` that stays open on exec; dup3(2).
pub fn duplicate_to(from: RawFd, to: RawFd) -> Result<()> {
    // SAFETY: takes integers only; `to` is one of the numbers that the service is to have.
    check(unsafe { libc::syscall(libc::SYS_dup3, from, to, 0) }).map(drop)
}

/// Every signal at its default, none blocked: what a program expects to start with. Rust ignores SIGPIPE,
/// and a shell may have left others ignored; both would be inherited through execve(2).
pub fn reset_signals() {
    // SAFETY: an all-zero sigaction is SIG_DFL; signals that cannot be set answer EINVAL, which is as good.
    unsafe {
        let default: [u64; 4] = [0; 4];
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, &default, std::ptr::null::<c_void>(), 8);
        }
    }
    set_signal_mask(0);
}

/// Blocks the signals in `mask` (bit n-1 for signal n) and no other; rt_sigprocmask(2).
pub fn set_signal_mask(mask: u64) {
    // SAFETY: the mask is 8 bytes, the size of the kernel's sigset_t.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &mask,
            std::ptr::null::<c_void>(),
            8,
        );
    }
}

/// A descriptor from which the signals in `mask` are read; signalfd(2).
pub fn signalfd(mask: u64) -> Result<OwnedFd> {
    // SAFETY: the mask is 8 bytes, the size of the kernel's sigset_t.
    let result = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            &mask,
            8,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    };
    // SAFETY: the kernel returned a new descriptor, which nobody else owns.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Makes the cgroups that this process is in the roots of a namespace; cgroup_namespaces(7).
pub fn own_cgroup_namespace() -> Result<()> {
    // SAFETY: takes an integer only, and shares no memory or descriptors otherwise than before.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWCGROUP) }).map(drop)
}

/// Takes this process into a copy of its mount namespace; mount_namespaces(7).
pub fn own_mount_namespace() -> Result<()> {
    // SAFETY: takes an integer only, and shares no memory or descriptors otherwise than before.
    check(unsafe { libc::syscall(libc::SYS_unshare, libc::CLONE_NEWNS) }).map(drop)
}

/// Sends a signal; kill(2). `pid` -1: to all that may be signalled, in a PID namespace all but its init.
pub fn kill(pid: i32, signal: i32) -> Result<()> {
    // SAFETY: takes integers only.
    check(unsafe { libc::syscall(libc::SYS_kill, pid, signal) }).map(drop)
}

/// Lets a process go on that is traced and has stopped, with a signal or 0; ptrace(2). The signal may be one without a name.
pub fn ptrace_onward(how: u32, pid: i32, signal: i32) -> Result<()> {
    // SAFETY: `how` is one of the requests that make a process go on; those take integers only.
    check(unsafe { libc::syscall(libc::SYS_ptrace, how, pid, 0, signal) }).map(drop)
}

/// What came with a message.
pub struct Received {
    /// The bytes that were taken of it.
    pub bytes: usize,
    /// The first descriptor. All others were closed.
    pub fd: Option<OwnedFd>,
    /// The process that sent it, as this one counts; 0 if it is not to be seen from here, or SO_PASSCRED is not set.
    pub sender: i32,
}

/// Takes a message and, close-on-exec, what came with it, without waiting; recvmsg(2). rustix has the sender's pid in a
/// type that cannot be 0, and nix leaves descriptors open when there were more than expected.
pub fn receive(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<Received> {
    // Credentials take 32 bytes, a descriptor 24; aligned as a cmsghdr is.
    let mut control = [0u64; 7];
    let mut part = libc::iovec {
        iov_base: bytes.as_mut_ptr().cast(),
        iov_len: bytes.len(),
    };
    // SAFETY: an all-zero msghdr is valid.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
    // SAFETY: the message leads to memory that is valid, and ours alone, for the call.
    let taken = check(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, flags) } as c_long)?;
    let mut received = Received {
        bytes: taken as usize,
        fd: None,
        sender: 0,
    };
    // SAFETY: the kernel filled the control buffer as far as msg_controllen says, which the macros go by.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&message) };
    while !header.is_null() {
        // SAFETY: a header within the buffer, and its content as far as its length says.
        let (kind, data, length) = unsafe {
            let content = (*header).cmsg_len as usize - libc::CMSG_LEN(0) as usize;
            (
                ((*header).cmsg_level, (*header).cmsg_type),
                libc::CMSG_DATA(header),
                content,
            )
        };
        match kind {
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) if length >= size_of::<libc::ucred>() => {
                // SAFETY: so many bytes are there, and any are a ucred.
                received.sender = unsafe { data.cast::<libc::ucred>().read_unaligned() }.pid;
            }
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                for at in 0..length / size_of::<RawFd>() {
                    // SAFETY: as many descriptors are there; each is new, and nobody else owns it.
                    let fd = unsafe { OwnedFd::from_raw_fd(data.cast::<RawFd>().add(at).read_unaligned()) };
                    received.fd.get_or_insert(fd);
                }
            }
            _ => {}
        }
        // SAFETY: as for the first.
        header = unsafe { libc::CMSG_NXTHDR(&message, header) };
    }
    Ok(received)
}

/// Reaps one child, if one has ended: its pid and wait status; wait4(2).
pub fn reap() -> Option<(i32, i32)> {
    let mut status: c_int = 0;
    // SAFETY: `status` is valid for the call; no usage is asked for.
    let pid = unsafe {
        libc::syscall(
            libc::SYS_wait4,
            -1,
            &mut status,
            libc::WNOHANG,
            std::ptr::null::<c_void>(),
        )
    };
    (pid > 0).then_some((pid as i32, status))
}

/// Has a socket that is bound to an address without a port get one that is free for what it then connects to, in place of
/// one that is free altogether; ip(7), IP_BIND_ADDRESS_NO_PORT.
pub fn port_when_connecting(socket: BorrowedFd<'_>) -> Result<()> {
    let on: c_int = 1;
    // SAFETY: the option is an int, which is read during the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_BIND_ADDRESS_NO_PORT,
            (&raw const on).cast(),
            size_of::<c_int>() as u32,
        )
    };
    check(c_long::from(result)).map(drop)
}

/// How many bytes written to a TCP socket its peer has yet to acknowledge; tcp(7), SIOCOUTQ.
pub fn unsent(socket: BorrowedFd<'_>) -> Result<usize> {
    let mut bytes: c_int = 0;
    // SAFETY: the kernel writes an int.
    check(c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &mut bytes)
    }))?;
    Ok(bytes.max(0) as usize)
}

/// How many connections wait in a listening TCP socket to be accepted. tcp(7) does not say it, but ss(8) goes by it too.
pub fn waiting(listener: BorrowedFd<'_>) -> Result<u32> {
    // SAFETY: an all-zero tcp_info is valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes as many bytes as the length says at most.
    check(c_long::from(unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &mut length,
        )
    }))?;
    Ok(info.tcpi_unacked)
}

/// Brings up `lo` in this network namespace; netdevice(7).
pub fn loopback_up() -> Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: an all-zero ifreq is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: SIOCSIFFLAGS reads an ifreq, which `request` is.
    check(c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request)
    }))
    .map(drop)
}

/// Makes the terminal at `fd` the controlling one of this session; ioctl_tty(2).
pub fn set_controlling_terminal(fd: RawFd) -> Result<()> {
    // SAFETY: takes an integer argument.
    check(c_long::from(unsafe { libc::ioctl(fd, libc::TIOCSCTTY, 0) })).map(drop)
}

/// A region for the stack of [`vfork`]'s child, with a guard page at its low end.
pub struct Stack {
    base: *mut c_void,
    size: usize,
}

impl Stack {
    pub fn new(size: usize) -> Result<Stack> {
        // SAFETY: a fresh anonymous mapping, which nothing else uses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::NOMEM);
        }
        // SAFETY: the first page of the mapping just made.
        unsafe { libc::mprotect(base, 4096, libc::PROT_NONE) };
        Ok(Stack { base, size })
    }

    pub fn top(&self) -> *mut u8 {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.cast::<u8>().add(self.size) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no child runs on it: vfork has returned.
        unsafe { libc::munmap(self.base, self.size) };
    }
}

/// Replaces all private anonymous memory by zeroes, but for the program's own data and the stack between
/// `low` and `high`: what a forked process holds of its parent is gone, and costs nothing any more.
///
/// # Safety
/// Nothing on the heap, in thread-local storage or on the stack outside `low..high` may be used afterwards.
pub unsafe fn forget_memory(low: usize, high: usize) -> Result<()> {
    unsafe extern "C" {
        static __executable_start: u8;
        static _end: u8;
    }
    let program = (&raw const __executable_start as usize, &raw const _end as usize);
    let maps = rustix::fs::open(
        c"/proc/self/maps",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let mut buffer = [0u8; 2048];
    let mut filled = 0;
    loop {
        let read = rustix::io::read(&maps, &mut buffer[filled..])?;
        filled += read;
        let mut start = 0;
        while let Some(length) = buffer[start..filled].iter().position(|b| *b == b'\n') {
            if let Some((from, to)) = private_anonymous(&buffer[start..start + length]) {
                for (from, to) in [(from, to.min(low)), (from.max(high), to)] {
                    let own = from < program.1 && to > program.0;
                    if from < to && !own {
                        // SAFETY: the caller promised that nothing in it is used any more.
                        unsafe { libc::syscall(libc::SYS_madvise, from, to - from, libc::MADV_DONTNEED) };
                    }
                }
            }
            start += length + 1;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
        if read == 0 {
            return Ok(());
        }
        if filled == buffer.len() {
            return Err(Errno::OVERFLOW);
        }
    }
}

/// Where the kernel looks for this process's command line; proc_pid_stat(5), arg_start and arg_end.
pub fn arguments() -> Result<std::ops::Range<usize>> {
    const ARG_START: usize = 48;
    let stat = std::fs::read_to_string("/proc/self/stat").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    // Behind the name, which may hold anything, comes the third field.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_ascii_whitespace());
    let mut ends = fields.into_iter().flatten().skip(ARG_START - 3).map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(from)), Some(Ok(to))) if 0 < from && from <= to => Ok(from..to),
        _ => Err(Errno::INVAL),
    }
}

/// Makes the command line empty, for this process and for whoever looks at it from outside.
///
/// # Safety
/// `range` is what [`arguments`] found in this process or in one that this is a copy of, and nothing reads there.
pub unsafe fn forget_arguments(range: &std::ops::Range<usize>) {
    // SAFETY: the strings lie in the stack's pages, which can be written to.
    unsafe { std::ptr::write_bytes(std::ptr::with_exposed_provenance_mut::<u8>(range.start), 0, range.len()) };
}

/// The range of a line of proc_pid_maps(5), if it is writable, private and backed by no file.
fn private_anonymous(line: &[u8]) -> Option<(usize, usize)> {
    let text = std::str::from_utf8(line).ok()?;
    let mut fields = text.split_ascii_whitespace();
    let (from, to) = fields.next()?.split_once('-')?;
    let kind = fields.next()?;
    let name = fields.nth(3);
    let forgettable = matches!(name, None | Some("[heap]" | "[stack]")) || name.is_some_and(|n| n.starts_with("[anon"));
    if kind != "rw-p" || !forgettable {
        return None;
    }
    Some((
        usize::from_str_radix(from, 16).ok()?,
        usize::from_str_radix(to, 16).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_found() {
        let line = std::fs::read("/proc/self/cmdline").unwrap();
        let range = arguments().unwrap();
        assert_eq!(range.len(), line.len());
    }

    #[test]
    fn only_private_anonymous_memory_is_forgotten() {
        let line = b"7ffc000-7ffd000 rw-p 00000000 00:00 0                          [stack]";
        assert_eq!(private_anonymous(line), Some((0x7ffc000, 0x7ffd000)));
        assert_eq!(
            private_anonymous(b"1000-2000 rw-p 00000000 00:00 0 "),
            Some((0x1000, 0x2000))
        );
        assert_eq!(private_anonymous(b"1000-2000 rw-p 00000000 fe:00 12 /usr/bin/x"), None);
        assert_eq!(private_anonymous(b"1000-2000 r--p 00000000 00:00 0 [vvar]"), None);
        assert_eq!(private_anonymous(b"rubbish"), None);
    }
}
