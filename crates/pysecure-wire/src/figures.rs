//! The page in which a service counts its calls, and which its supervisor reads when it is asked (docs/reference/rpc-protocol.md, "Figures").
//! Counting costs no system call, and nobody is woken for it.

use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{FileType, MemfdFlags, SealFlags};
use rustix::io::{Errno, pread, pwrite};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the page's descriptor is called, as sd_pid_notify_with_fds(3) names descriptors.
pub const NAME: &str = "rpc-figures";
/// A page's length in bytes.
pub const SIZE: usize = 65_536;
/// How many functions' calls a page has slots for, that of the empty name among them.
pub const MAX_SLOTS: usize = (SIZE - HEADER) / SLOT;
/// How many buckets a histogram has.
pub const BUCKETS: usize = 28;

/// What a page begins with.
pub const MAGIC: &[u8; 8] = b"PSRPCFG1";
/// What comes before the slots, in bytes: the magic, and how many slots are in use.
pub const HEADER: usize = 16;
/// A slot's length in bytes.
pub const SLOT: usize = NAME_FIELD + 8 * NUMBERS;
/// How many bytes a slot has for the name, with at least one NUL.
pub const NAME_FIELD: usize = 64;
/// How many numbers a slot has: four counters and the histogram.
pub const NUMBERS: usize = 4 + BUCKETS;
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A slot's numbers: calls, errors, refusals, nanoseconds, and the histogram's buckets.
pub type Numbers = [u64; NUMBERS];

/// One number of a slot, by its place in [`Numbers`].
#[derive(Clone, Copy)]
enum Counter {
    Calls = 0,
    Errors = 1,
    Refusals = 2,
    Nanoseconds = 3,
}

/// The bucket for what took so long: bucket n holds what took less than 2ⁿ µs, and no less than half of that; the last all that took
/// longer.
fn bucket(took: Duration) -> usize {
    let bits = u128::BITS - took.as_micros().leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

/// A page as whoever counts has it.
#[derive(Debug)]
pub struct Counters {
    page: MmapRaw,
}

impl Counters {
    /// A new page: its memfd, and the counters in it. Slot n is of name n; no more than [`MAX_SLOTS`] names have one.
    pub fn create<'n>(names: impl IntoIterator<Item = &'n str>) -> io::Result<(OwnedFd, Counters)> {
        let fd = rustix::fs::memfd_create(NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, SIZE as u64)?;
        rustix::fs::fcntl_add_seals(&fd, SEALS)?;
        let mut slots: u32 = 0;
        for name in names.into_iter().take(MAX_SLOTS) {
            let mut end = name.len().min(NAME_FIELD - 1);
            while !name.is_char_boundary(end) {
                end -= 1;
            }
            pwrite(&fd, &name.as_bytes()[..end], (HEADER + slots as usize * SLOT) as u64)?;
            slots += 1;
        }
        pwrite(&fd, MAGIC, 0)?;
        pwrite(&fd, &slots.to_le_bytes(), MAGIC.len() as u64)?;
        let counters = Counters::map(fd.as_fd())?;
        Ok((fd, counters))
    }

    /// The counters of a page that this process made. Fails for what is no sealed memfd of a page's length.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Counters> {
        if check(fd).is_err() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a malformed page of figures",
            ));
        }
        let page = MmapOptions::new().len(SIZE).map_raw(&fd)?;
        Ok(Counters { page })
    }

    /// A call of a slot's function has ended, after this time. A slot that there is not counts nothing.
    #[inline]
    pub fn ended(&self, slot: usize, took: Duration, failed: bool) {
        self.add(slot, Counter::Calls as usize, 1);
        if failed {
            self.add(slot, Counter::Errors as usize, 1);
        }
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.add(slot, Counter::Nanoseconds as usize, nanoseconds);
        self.add(slot, NUMBERS - BUCKETS + bucket(took), 1);
    }

    /// A caller that has no grant for a slot's function asked for it.
    pub fn refused(&self, slot: usize) {
        self.add(slot, Counter::Refusals as usize, 1);
    }

    /// A slot's numbers; zeros if there is no such slot. Two of them may be of different moments.
    pub fn read(&self, slot: usize) -> Numbers {
        std::array::from_fn(|number| {
            let word = self.word(slot, number);
            word.map_or(0, |word| u64::from_le(word.load(Ordering::Relaxed)))
        })
    }

    #[inline]
    fn add(&self, slot: usize, number: usize, amount: u64) {
        if let Some(word) = self.word(slot, number) {
            // Relaxed: each number stands for itself, and whoever reads takes what is there.
            word.fetch_add(amount.to_le(), Ordering::Relaxed);
        }
    }

    #[inline]
    fn word(&self, slot: usize, number: usize) -> Option<&AtomicU64> {
        if slot >= MAX_SLOTS || number >= NUMBERS {
            return None;
        }
        let at = HEADER + slot * SLOT + NAME_FIELD + number * 8;
        // SAFETY: `at` is a multiple of 8 and within the mapping, which begins at a page and lives as long as this object. The seal
        // keeps the memfd from shrinking under it, and nobody in this process touches its numbers but by atomic operations.
        #[allow(unsafe_code)]
        Some(unsafe { AtomicU64::from_ptr(self.page.as_mut_ptr().add(at).cast()) })
    }
}

/// Hands a page over to the supervisor's socket, as sd_pid_notify_with_fds(3) does.
pub fn hand_over(page: BorrowedFd<'_>, notify_socket: &OsStr) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.connect(notify_socket)?;
    let fds = [page];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    let text = IoSlice::new(b"FDSTORE=1\nFDNAME=rpc-figures");
    rustix::net::sendmsg(&socket, &[text], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Why a descriptor is no page of figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPage {
    /// It is not memory.
    #[error("it is no memfd")]
    NoMemfd,
    /// It could change its length.
    #[error("it lacks the seals F_SEAL_SHRINK, F_SEAL_GROW and F_SEAL_SEAL")]
    Unsealed,
    /// It has another length.
    #[error("it is not {SIZE} bytes long")]
    Size,
    /// It cannot be looked at.
    #[error("it cannot be read ({0})")]
    Unreadable(Errno),
    /// It begins with something else.
    #[error("it does not begin with PSRPCFG1")]
    Magic,
}

/// Is it a memfd of a page's length that cannot change it? Device and inode.
fn check(fd: BorrowedFd<'_>) -> Result<(u64, u64), NoPage> {
    // First of all, for this asks no file system: only memory has seals, and no read of it has to wait for anybody.
    let seals = rustix::fs::fcntl_get_seals(fd).map_err(|_| NoPage::NoMemfd)?;
    if !seals.contains(SEALS) {
        return Err(NoPage::Unsealed);
    }
    let stat = rustix::fs::fstat(fd).map_err(NoPage::Unreadable)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_size != SIZE as i64 {
        return Err(NoPage::Size);
    }
    Ok((stat.st_dev, stat.st_ino))
}

/// A page as its supervisor has it: of an untrusted side, checked, and read as bytes.
#[derive(Debug)]
pub struct Page {
    memfd: OwnedFd,
    identity: (u64, u64),
}

impl Page {
    /// Takes a descriptor for a page if it is one.
    pub fn check(memfd: OwnedFd) -> Result<Page, NoPage> {
        let identity = check(memfd.as_fd())?;
        let mut magic = [0; MAGIC.len()];
        let read = pread(&memfd, &mut magic, 0).map_err(NoPage::Unreadable)?;
        if read != magic.len() || magic != *MAGIC {
            return Err(NoPage::Magic);
        }
        Ok(Page { memfd, identity })
    }

    /// Device and inode: what makes it the page that it is.
    pub fn identity(&self) -> (u64, u64) {
        self.identity
    }

    /// Calls `each` with the name, which may be any bytes, and the numbers of every slot in use.
    pub fn read(&self, each: impl FnMut(&[u8], &Numbers)) {
        let mut bytes = [0; SIZE];
        let read = |bytes: &mut [u8], at: usize| pread(&self.memfd, bytes, at as u64).unwrap_or(0);
        if read(&mut bytes[..HEADER], 0) != HEADER {
            return;
        }
        // No more of it than is in use: there may be many.
        let end = HEADER + slots_in_use(&bytes[..HEADER]) * SLOT;
        let end = HEADER + read(&mut bytes[HEADER..end], HEADER);
        for_each_slot(&bytes[..end], each);
    }
}

/// Calls `each` with the name and the numbers of every slot of a page. `bytes` may be anything.
pub fn for_each_slot(bytes: &[u8], mut each: impl FnMut(&[u8], &Numbers)) {
    let Some((head, slots)) = bytes.split_at_checked(HEADER) else {
        return;
    };
    for slot in slots.chunks_exact(SLOT).take(slots_in_use(head)) {
        let (name, rest) = slot.split_at(NAME_FIELD);
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        let mut numbers = [0; NUMBERS];
        for (number, bytes) in numbers.iter_mut().zip(rest.as_chunks::<8>().0) {
            *number = u64::from_le_bytes(*bytes);
        }
        each(name, &numbers);
    }
}

fn slots_in_use(head: &[u8]) -> usize {
    match head.as_chunks::<4>().0 {
        [_, _, count, ..] if head.starts_with(MAGIC) => (u32::from_le_bytes(*count) as usize).min(MAX_SLOTS),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slots(fd: &OwnedFd) -> Vec<(String, Numbers)> {
        let mut out = Vec::new();
        let page = Page::check(fd.try_clone().unwrap()).unwrap();
        page.read(|name, numbers| out.push((String::from_utf8(name.to_vec()).unwrap(), *numbers)));
        out
    }

    #[test]
    fn the_page_holds_what_was_counted() {
        let (fd, counters) = Counters::create(["", "one", "two"]).unwrap();
        counters.ended(2, Duration::from_micros(3), false);
        counters.ended(2, Duration::from_nanos(900), true);
        counters.refused(1);
        counters.refused(0);
        let slots = slots(&fd);
        let names: Vec<&str> = slots.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["", "one", "two"]);
        assert_eq!(slots[0].1[..4], [0, 0, 1, 0]);
        assert_eq!(slots[1].1[..4], [0, 0, 1, 0]);
        assert_eq!(slots[2].1[..4], [2, 1, 0, 3_900]);
        assert_eq!((slots[2].1[4], slots[2].1[4 + 2]), (1, 1));
        assert_eq!(counters.read(2), slots[2].1);
        // The supervisor reads what cannot be taken from under it.
        assert!(rustix::fs::ftruncate(&fd, 0).is_err());
    }

    #[test]
    fn buckets_are_powers_of_two_of_microseconds() {
        let of = |nanoseconds| bucket(Duration::from_nanos(nanoseconds));
        assert_eq!([0, 999, 1_000, 1_999, 2_000, 3_999].map(of), [0, 0, 1, 1, 2, 2]);
        assert_eq!(bucket(Duration::from_secs(1 << 40)), BUCKETS - 1);
    }

    #[test]
    fn what_finds_no_slot_is_not_counted() {
        let names: Vec<String> = (0..300).map(|n| format!("f{n:03}")).collect();
        let (fd, counters) = Counters::create(names.iter().map(String::as_str)).unwrap();
        for slot in [MAX_SLOTS - 1, MAX_SLOTS, usize::MAX] {
            counters.ended(slot, Duration::ZERO, false);
            counters.refused(slot);
        }
        let slots = slots(&fd);
        assert_eq!(slots.len(), MAX_SLOTS);
        assert_eq!(slots.iter().map(|(_, numbers)| numbers[0]).sum::<u64>(), 1);
    }

    #[test]
    fn a_name_is_cut_between_characters() {
        let long = format!("a{}", "ä".repeat(40));
        let (fd, _) = Counters::create([long.as_str()]).unwrap();
        assert_eq!(slots(&fd)[0].0, format!("a{}", "ä".repeat(31)));
    }
}
