//! What a service's functions have done, in memory that the supervisor reads when somebody asks (docs/rpc-protocol.md, Figures).
//! Counting costs no system call, and nobody is woken for it.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::collections::HashMap;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const SIZE: usize = 65_536;
const MAGIC: &[u8; 8] = b"PSRPCFG1";
const HEADER: usize = 16;
const NAME: usize = 64;
const BUCKETS: usize = 28;
const SLOT: usize = NAME + 4 * 8 + BUCKETS * 8;
const MOST: usize = (SIZE - HEADER) / SLOT;

pub(crate) struct Figures {
    page: MmapRaw,
    slots: HashMap<&'static str, usize>,
}

impl Figures {
    /// For these functions, if there is a supervisor to read it. A service runs as well without.
    pub(crate) fn under_pysecure(names: impl Iterator<Item = &'static str>) -> Option<Figures> {
        let supervisor = std::env::var_os("NOTIFY_SOCKET")?;
        std::env::var_os("PYSECURE_RPC_CALLERS")?;
        let made = Figures::new(names, |memfd| {
            let socket = UnixDatagram::unbound()?;
            socket.connect(&supervisor)?;
            let fds = [memfd];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            let text = IoSlice::new(b"FDSTORE=1\nFDNAME=rpc-figures");
            rustix::net::sendmsg(&socket, &[text], &mut ancillary, SendFlags::NOSIGNAL)?;
            Ok(())
        });
        made.inspect_err(|e| eprintln!("calls are not counted: {e}")).ok()
    }

    fn new(
        names: impl Iterator<Item = &'static str>,
        give: impl FnOnce(std::os::fd::BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<Figures> {
        let fd = rustix::fs::memfd_create("rpc-figures", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, SIZE as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // The last slot is for names that are no function's; functions beyond the page are not told apart from those.
        let names: Vec<&'static str> = names.take(MOST - 1).chain([""]).collect();
        for (at, name) in names.iter().enumerate() {
            let mut end = name.len().min(NAME - 1);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            rustix::io::pwrite(&fd, &name.as_bytes()[..end], (HEADER + at * SLOT) as u64)?;
        }
        rustix::io::pwrite(&fd, MAGIC, 0)?;
        rustix::io::pwrite(&fd, &(names.len() as u32).to_le_bytes(), 8)?;
        let page = MmapOptions::new().len(SIZE).map_raw(&fd)?;
        give(fd.as_fd())?;
        Ok(Figures {
            page,
            slots: names.into_iter().enumerate().map(|(at, name)| (name, at)).collect(),
        })
    }

    fn slot(&self, function: &str) -> usize {
        let last = self.slots.len() - 1;
        self.slots.get(function).copied().unwrap_or(last)
    }

    fn add(&self, slot: usize, number: usize, amount: u64) {
        let at = HEADER + slot * SLOT + NAME + number * 8;
        debug_assert!(at + 8 <= SIZE && at.is_multiple_of(align_of::<AtomicU64>()));
        // SAFETY: within the mapping, aligned (the mapping begins at a page, and all lengths are multiples of 8), and
        // nobody touches it but by atomics; the seals keep the memfd from shrinking under it.
        #[allow(unsafe_code)]
        let counter = unsafe { AtomicU64::from_ptr(self.page.as_mut_ptr().add(at).cast()) };
        // Readers on another endianness than ours there are none: both ends are this machine's.
        counter.fetch_add(amount.to_le(), Ordering::Relaxed);
    }

    pub(crate) fn ended(&self, function: &str, took: Duration, failed: bool) {
        let slot = self.slot(function);
        self.add(slot, 0, 1);
        if failed {
            self.add(slot, 1, 1);
        }
        self.add(slot, 3, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.add(slot, 4 + bucket(took), 1);
    }

    pub(crate) fn denied(&self, name: &str) {
        self.add(self.slot(name), 2, 1);
    }
}

/// Bucket n holds what took less than 2ⁿ µs, and no less than half of that.
fn bucket(took: Duration) -> usize {
    let bits = u128::BITS - took.as_micros().leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_holds_what_was_counted() {
        let mut kept = None;
        let figures = Figures::new(["one", "two"].into_iter(), |fd| {
            kept = Some(fd.try_clone_to_owned()?);
            Ok(())
        })
        .unwrap();
        figures.ended("two", Duration::from_micros(3), false);
        figures.ended("two", Duration::from_nanos(900), true);
        figures.denied("one");
        figures.denied("none of all");
        let fd = kept.unwrap();
        let mut page = vec![0; SIZE];
        assert_eq!(rustix::io::pread(&fd, &mut page, 0), Ok(SIZE));
        assert_eq!((&page[..8], page[8]), (&MAGIC[..], 3));
        let number = |slot: usize, n: usize| {
            let at = HEADER + slot * SLOT + NAME + 8 * n;
            u64::from_le_bytes(page[at..at + 8].try_into().unwrap())
        };
        assert_eq!(&page[HEADER + SLOT..HEADER + SLOT + 4], b"two\0");
        let numbers = |slot: usize| [0, 1, 2, 3].map(|n| number(slot, n));
        assert_eq!(numbers(0), [0, 0, 1, 0]);
        assert_eq!(numbers(1), [2, 1, 0, 3_900]);
        assert_eq!(numbers(2), [0, 0, 1, 0]);
        assert_eq!((number(1, 4), number(1, 4 + 2)), (1, 1));
        assert_eq!(bucket(Duration::from_secs(1 << 40)), BUCKETS - 1);
        // The supervisor reads what cannot be taken from under it.
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    }
}
