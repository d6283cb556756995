//! Which process this is. getpid(2) is a system call, and it is asked at every call; a page that the kernel empties in a child
//! (MADV_WIPEONFORK, madvise(2)) says the same for nothing.

use memmap2::MmapMut;
use rustix::mm::{Advice, madvise};
use std::sync::OnceLock;

struct Mark {
    /// Of the process that made the mark.
    id: u32,
    /// Not zero in that process alone; none where the kernel has no such pages.
    page: Option<MmapMut>,
}

static MARK: OnceLock<Mark> = OnceLock::new();

fn mark() -> Mark {
    let page = || {
        let mut page = MmapMut::map_anon(1).ok()?;
        // SAFETY: the mapping is this page alone, and what it holds in this process stays.
        #[allow(unsafe_code)]
        unsafe { madvise(page.as_mut_ptr().cast(), page.len(), Advice::LinuxWipeOnFork) }.ok()?;
        page[0] = 1;
        Some(page)
    };
    let id = std::process::id();
    Mark { id, page: page() }
}

pub(crate) fn id() -> u32 {
    let mark = MARK.get_or_init(mark);
    match &mark.page {
        Some(page) if page[0] == 1 => mark.id,
        _ => std::process::id(),
    }
}

/// Is this the process with that id?
pub(crate) fn is(process: u32) -> bool {
    process == id()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_another() {
        assert_eq!(id(), std::process::id());
        let mine = id();
        // SAFETY: the child asks for its id, and ends.
        #[allow(unsafe_code)]
        let child = unsafe { nix::unistd::fork() }.unwrap();
        match child {
            nix::unistd::ForkResult::Child => {
                let right = !is(mine) && id() == nix::unistd::getpid().as_raw() as u32;
                // SAFETY: nothing of the test's is to run in the child.
                #[allow(unsafe_code)]
                unsafe {
                    nix::libc::_exit(i32::from(!right))
                }
            }
            nix::unistd::ForkResult::Parent { child } => {
                let ended = nix::sys::wait::waitpid(child, None).unwrap();
                assert_eq!(ended, nix::sys::wait::WaitStatus::Exited(child, 0));
            }
        }
    }
}
