//! Memory that a process shares with the one it is a copy of: a stack for its child, and how it forgets the rest.

use super::{Result, check};
use libc::c_void;
use rustix::io::Errno;
use std::ops::Range;

/// Page sizes for which the layouts below hold; getconf(1), PAGESIZE. x86-64 has the first, arm64 each of them.
pub const PAGE_SIZES: [usize; 3] = [4 << 10, 16 << 10, 64 << 10];

pub fn page_size() -> usize {
    rustix::param::page_size()
}

/// A region for the stack of [`vfork`](super::vfork)'s child, with a guard page at its low end.
pub struct Stack {
    base: *mut c_void,
    mapped: usize,
}

impl Stack {
    /// How much to map for so much that can be used, whole pages, and a guard page below.
    const fn layout(usable: usize, page: usize) -> usize {
        usable.next_multiple_of(page) + page
    }

    pub fn new(usable: usize) -> Result<Stack> {
        let page = page_size();
        let mapped = Stack::layout(usable, page);
        // SAFETY: a fresh anonymous mapping, which nothing else uses.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_STACK,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::NOMEM);
        }
        let stack = Stack { base, mapped };
        // SAFETY: the first page of the mapping just made, on which nothing runs.
        if unsafe { libc::mprotect(base, page, libc::PROT_NONE) } != 0 {
            return Err(Errno::NOMEM);
        }
        Ok(stack)
    }

    pub fn top(&self) -> *mut u8 {
        // SAFETY: one past the end of the mapping.
        unsafe { self.base.cast::<u8>().add(self.mapped) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no child runs on it: vfork has returned.
        unsafe { libc::munmap(self.base, self.mapped) };
    }
}

/// How much of the stack is kept below the frame of who forgets, for what it calls afterwards.
const KEPT_BELOW: usize = 48 << 10;

/// What is kept of the stack by a function whose local variable lies at `local` and which forgets its memory: the page of its
/// frame and the one above, into which the frame may reach, and [`KEPT_BELOW`].
pub const fn kept_stack(local: usize, page: usize) -> Range<usize> {
    let low = (local & !(page - 1)) - KEPT_BELOW.next_multiple_of(page);
    low..local.next_multiple_of(page) + page
}

/// How far the frame of who forgets must lie below those of the process that it is a copy of, so that [`kept_stack`] holds
/// nothing of them; `None` for a page size that is not provided for.
pub fn stack_padding(page: usize) -> Option<usize> {
    PAGE_SIZES.contains(&page).then_some(4 * page)
}

/// Runs `life` so far below the present frame as pages of this size ask for ([`stack_padding`]).
#[inline(always)]
pub fn below_padding<T>(page: usize, life: impl FnOnce() -> T) -> T {
    #[inline(never)]
    fn padded<const BYTES: usize, T>(life: impl FnOnce() -> T) -> T {
        let padding = [0u8; BYTES];
        std::hint::black_box(&padding);
        life()
    }
    match stack_padding(page) {
        Some(0..=0x4000) => padded::<0x4000, T>(life),
        Some(0x4001..=0x10000) => padded::<0x10000, T>(life),
        _ => padded::<0x40000, T>(life),
    }
}

/// Replaces all private anonymous memory by zeroes, but for the program's own data and the stack in `kept`
/// ([`kept_stack`]): what a forked process holds of its parent is gone, and costs nothing any more. An error
/// is of whatever could not be forgotten: it is there still.
///
/// # Safety
/// Nothing on the heap, in thread-local storage or on the stack outside `kept` may be used afterwards.
pub unsafe fn forget_memory(kept: &Range<usize>) -> Result<()> {
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
                for (from, to) in [(from, to.min(kept.start)), (from.max(kept.end), to)] {
                    let own = from < program.1 && to > program.0;
                    if from < to && !own {
                        // SAFETY: the caller promised that nothing in it is used any more.
                        unsafe { forget(from, to - from) }?;
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

/// madvise(2), MADV_DONTNEED. It refuses what is locked in memory, and what does not begin with a page.
///
/// # Safety
/// Nothing uses what lies there any more.
unsafe fn forget(from: usize, length: usize) -> Result<()> {
    // SAFETY: as promised by the caller.
    check(unsafe { libc::syscall(libc::SYS_madvise, from, length, libc::MADV_DONTNEED) }).map(drop)
}

/// Where the kernel looks for this process's command line; proc_pid_stat(5), arg_start and arg_end.
pub fn arguments() -> Result<Range<usize>> {
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
pub unsafe fn forget_arguments(range: &Range<usize>) {
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
    #[test]
    fn what_cannot_be_forgotten_is_said() {
        let page = page_size();
        let stack = Stack::new(page).unwrap();
        // SAFETY: within the mapping, above its guard page.
        let top = unsafe { stack.top().sub(page) };
        // SAFETY: a page that can be written to, and that nothing else uses.
        let look = || unsafe { top.read_volatile() };
        // SAFETY: likewise.
        unsafe { top.write_volatile(7) };
        // SAFETY: nothing but this test looks there.
        assert_eq!(unsafe { forget(top as usize + 1, page - 1) }, Err(Errno::INVAL));
        // SAFETY: the page is mapped, and ours.
        assert_eq!(unsafe { libc::mlock(top.cast(), page) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { forget(top as usize, page) }, Err(Errno::INVAL));
        assert_eq!(look(), 7);
        // SAFETY: as for mlock.
        assert_eq!(unsafe { libc::munlock(top.cast(), page) }, 0);
        // SAFETY: as above.
        assert_eq!(unsafe { forget(top as usize, page) }, Ok(()));
        assert_eq!(look(), 0);
    }

    #[test]
    fn layouts_hold_for_every_page_size() {
        for page in PAGE_SIZES {
            let padding = stack_padding(page).unwrap();
            for local in [0x7f00_1234_0000, 0x7f00_1234_0001, 0x7f00_1233_ffff, 0x7f00_1234_8008] {
                let kept = kept_stack(local, page);
                assert!(
                    kept.start.is_multiple_of(page) && kept.end.is_multiple_of(page),
                    "{page} {local:x}"
                );
                assert!(kept.start + KEPT_BELOW <= local && local < kept.end, "{page} {local:x}");
                // The frame reaches at least a page upwards, and the padding is above it still.
                assert!(
                    kept.end - local >= page && kept.end - local < 2 * page + 1,
                    "{page} {local:x}"
                );
                assert!(kept.end - local + page <= padding, "{page} {local:x}");
            }
            for usable in [1, 60 << 10, 64 << 10] {
                let mapped = Stack::layout(usable, page);
                assert!(
                    mapped.is_multiple_of(page) && mapped - page >= usable,
                    "{page} {usable}"
                );
            }
        }
        assert_eq!(stack_padding(8 << 10), None);
        assert!(PAGE_SIZES.contains(&page_size()));
    }
}
