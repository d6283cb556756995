//! Memory that a process shares with the one it is a copy of: a stack for its child, and how it forgets the rest.

#![allow(unsafe_code)]

use super::Result;
use libc::c_void;
use rustix::io::Errno;

/// A region for the stack of [`vfork`](super::vfork)'s child, with a guard page at its low end.
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
