//! What came of the calls of services' functions: docs/reference/rpc-protocol.md, "Figures". Each process of a service counts in a
//! page of memory of its own, which it hands over on its notify socket. A page is read when somebody asks, or once more
//! when its process has ended; what it came to then is kept for as long as the app is up, as restarts are.
//!
//! All of it is an untrusted side's: a page is checked before it is kept and read as bytes, never mapped; how many pages
//! and names are kept has bounds; and numbers that a service takes back stay as they were.

use crate::supervise::logs::console::shown;
use pysecure_wire::figures::{self, NoPage, Numbers};
use rustix::io::Errno;
use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

pub use pysecure_wire::figures::BUCKETS;
pub(in crate::supervise) use pysecure_wire::figures::NAME;

/// Pages of one service at a time: so many processes of it may serve.
pub(in crate::supervise) const MOST_PAGES: usize = 128;
/// Names of functions that are kept of one service, from all its versions that ran.
const MOST_FUNCTIONS: usize = 512;

/// What a service's function has come to, with the empty name what is no function of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FunctionUsage {
    pub function: String,
    /// Calls that have ended, whatever came of them.
    pub calls: u64,
    /// Of these, calls that ended with an exception.
    pub errors: u64,
    /// It was asked for by a caller that has no grant for it.
    pub denied: u64,
    /// How long all calls took.
    pub nanoseconds: u64,
    pub mean_seconds: Option<f64>,
    /// Half of all calls took no longer, as far as the buckets tell.
    pub p50_seconds: Option<f64>,
    pub p99_seconds: Option<f64>,
    /// How many calls took less than 1 µs, 2 µs and so on by powers of two, without those before; the last: longer.
    pub buckets: Vec<u64>,
}

/// The upper bound of a bucket, in seconds; the last has none.
pub(in crate::supervise) fn bound(bucket: usize) -> Option<f64> {
    (bucket + 1 < BUCKETS).then(|| (1u64 << bucket) as f64 / 1e6)
}

/// Numbers by function. The names are such as may be shown.
#[derive(Clone, Default)]
struct Table(BTreeMap<String, Numbers>);

impl Table {
    fn each(&mut self, name: &str, numbers: &Numbers, join: impl Fn(u64, u64) -> u64) {
        if self.0.len() >= MOST_FUNCTIONS && !self.0.contains_key(name) {
            return;
        }
        let known = self.0.entry(name.to_owned()).or_insert([0; figures::NUMBERS]);
        for (known, number) in known.iter_mut().zip(numbers) {
            *known = join(*known, *number);
        }
    }

    fn add(&mut self, name: &str, numbers: &Numbers) {
        self.each(name, numbers, u64::saturating_add);
    }
}

struct Page {
    page: figures::Page,
    /// The process that counts in it; 0 if that is not known.
    process: i32,
}

impl Page {
    fn check(memfd: OwnedFd, process: i32) -> Result<Page, NoPage> {
        let page = figures::Page::check(memfd)?;
        Ok(Page { page, process })
    }

    /// Will nobody count in it any more?
    fn is_over(&self) -> bool {
        Pid::from_raw(self.process).is_some_and(|p| rustix::process::test_kill_process(p) == Err(Errno::SRCH))
    }

    fn add_to(&self, table: &mut Table) {
        self.page.read(|name, numbers| table.add(&shown(name), numbers));
    }
}

/// The figures of one service, from all processes of it.
#[derive(Default)]
pub(in crate::supervise) struct Figures {
    pages: Vec<Page>,
    /// Of processes that have ended.
    ended: Table,
    /// The most that was told so far.
    told: Table,
    warned: bool,
}

impl Figures {
    /// Pages that are held, a descriptor each.
    pub(in crate::supervise) fn pages(&self) -> usize {
        self.pages.len()
    }

    /// Takes over a page from a process. `room`: so many pages it may have, if not [`MOST_PAGES`] are fewer.
    pub(in crate::supervise) fn take(&mut self, service: &str, memfd: OwnedFd, process: i32, room: usize) {
        let page = match Page::check(memfd, process) {
            Ok(page) => page,
            Err(why) => {
                self.warn(
                    service,
                    format_args!("what it handed over is no page of figures: {why}"),
                );
                return;
            }
        };
        if self.pages.iter().any(|p| p.page.identity() == page.page.identity()) {
            return;
        }
        self.settle(Page::is_over);
        if self.pages.len() >= room.min(MOST_PAGES) {
            let held = self.pages.len();
            self.warn(
                service,
                format_args!("{held} of its processes count; more are not read"),
            );
            return;
        }
        self.pages.push(page);
    }

    /// All processes of the service have ended.
    pub(in crate::supervise) fn end(&mut self) {
        self.settle(|_| true);
        self.warned = false;
    }

    /// Once in a life of the service, which could have us fill the disk.
    fn warn(&mut self, service: &str, what: std::fmt::Arguments<'_>) {
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(service, "{what}");
        }
    }

    /// Keeps the numbers of these pages, and lets go of the pages.
    fn settle(&mut self, these: impl Fn(&Page) -> bool) {
        let ended = &mut self.ended;
        self.pages.retain(|page| {
            let over = these(page);
            if over {
                page.add_to(ended);
            }
            !over
        });
    }

    pub(in crate::supervise) fn read(&mut self) -> Vec<FunctionUsage> {
        let mut now = self.ended.clone();
        for page in &self.pages {
            page.add_to(&mut now);
        }
        // Counters do not go back, whatever a service writes.
        for (name, numbers) in &now.0 {
            self.told.each(name, numbers, u64::max);
        }
        self.told.0.iter().map(|(name, numbers)| usage(name, numbers)).collect()
    }
}

fn usage(name: &str, numbers: &Numbers) -> FunctionUsage {
    let [calls, errors, denied, nanoseconds, buckets @ ..] = numbers;
    FunctionUsage {
        function: name.to_owned(),
        calls: *calls,
        errors: *errors,
        denied: *denied,
        nanoseconds: *nanoseconds,
        mean_seconds: (*calls > 0).then(|| *nanoseconds as f64 / 1e9 / *calls as f64),
        p50_seconds: quantile(buckets, 0.5),
        p99_seconds: quantile(buckets, 0.99),
        buckets: buckets.to_vec(),
    }
}

/// As Prometheus' histogram_quantile() has it: within a bucket, calls are taken to be spread evenly.
fn quantile(buckets: &[u64; BUCKETS], part: f64) -> Option<f64> {
    let all: f64 = buckets.iter().map(|n| *n as f64).sum();
    let rank = part * all;
    let (mut before, mut lower) = (0.0, 0.0);
    for (at, count) in buckets.iter().enumerate().filter(|(_, n)| **n > 0) {
        lower = at.checked_sub(1).and_then(bound).unwrap_or(0.0);
        let count = *count as f64;
        // Of what is longer than all bounds nothing is known but that.
        let Some(upper) = bound(at) else { break };
        if before + count >= rank {
            return Some(lower + (upper - lower) * (rank - before) / count);
        }
        before += count;
    }
    (all > 0.0).then_some(lower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pysecure_wire::figures::{HEADER, MAGIC, MAX_SLOTS, NAME_FIELD, SIZE, SLOT};
    use rustix::fs::{MemfdFlags, SealFlags};

    fn memfd(size: u64, seals: SealFlags, content: &[u8]) -> OwnedFd {
        let fd = rustix::fs::memfd_create("page", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&fd, size).unwrap();
        rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        let _ = rustix::io::pwrite(&fd, content, 0);
        fd
    }

    fn seals() -> SealFlags {
        SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL
    }

    fn page(slots: &[(&[u8], &[u64])]) -> Vec<u8> {
        let mut out = [&MAGIC[..], &(slots.len() as u32).to_le_bytes(), &[0; 4]].concat();
        for (name, numbers) in slots {
            let at = out.len();
            out.extend_from_slice(name);
            out.resize(at + NAME_FIELD, 0);
            out.extend(numbers.iter().flat_map(|n| n.to_le_bytes()));
            out.resize(at + SLOT, 0);
        }
        out
    }

    fn handed(content: &[u8]) -> OwnedFd {
        memfd(SIZE as u64, seals(), content)
    }

    fn calls(figures: &mut Figures) -> Vec<(String, u64)> {
        figures.read().into_iter().map(|f| (f.function, f.calls)).collect()
    }

    #[test]
    fn only_a_sealed_page_is_kept() {
        let good = page(&[(b"f", &[1])]);
        let size = SIZE as u64;
        let of = |fd: OwnedFd| Page::check(fd, 0).map(|_| ());
        assert_eq!(of(memfd(size, seals(), &good)), Ok(()));
        assert_eq!(
            of(memfd(size, seals() - SealFlags::SHRINK, &good)),
            Err(NoPage::Unsealed)
        );
        assert_eq!(of(memfd(size, seals() - SealFlags::SEAL, &good)), Err(NoPage::Unsealed));
        assert_eq!(of(memfd(size + 1, seals(), &good)), Err(NoPage::Size));
        assert_eq!(of(memfd(0, seals(), &good)), Err(NoPage::Size));
        assert_eq!(of(memfd(size, seals(), b"PSRPCFG2")), Err(NoPage::Magic));
        let (end, _other) = rustix::pipe::pipe().unwrap();
        assert_eq!(of(end), Err(NoPage::NoMemfd));
        assert_eq!(
            of(std::fs::File::open("/dev/zero").unwrap().into()),
            Err(NoPage::NoMemfd)
        );
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        // On a tmpfs it has seals, and none can be added.
        assert!(matches!(of(file.into()), Err(NoPage::NoMemfd | NoPage::Unsealed)));
        // One that can only be written to.
        use std::os::fd::AsRawFd;
        let whole = memfd(size, seals(), &good);
        let blind = std::fs::OpenOptions::new()
            .write(true)
            .open(format!("/proc/self/fd/{}", whole.as_raw_fd()));
        assert_eq!(of(blind.unwrap().into()), Err(NoPage::Unreadable(Errno::BADF)));
    }

    #[test]
    fn numbers_of_all_processes_are_added_up_and_never_go_back() {
        let mut figures = Figures::default();
        let first = handed(&page(&[(b"", &[0, 0, 7]), (b"f", &[3, 1, 0, 500])]));
        let kept = first.try_clone().unwrap();
        figures.take("s", first, 0, usize::MAX);
        figures.take("s", kept.try_clone().unwrap(), 0, usize::MAX);
        assert_eq!(figures.pages(), 1, "the same page twice");
        figures.take("s", handed(&page(&[(b"f", &[2]), (b"g", &[1])])), 0, usize::MAX);
        let told = |calls: u64| vec![(String::new(), 0), ("f".into(), calls), ("g".into(), 1)];
        assert_eq!(calls(&mut figures), told(5));
        assert_eq!(figures.read()[0].denied, 7);
        // It says less than before, then nothing that can be understood, then more.
        rustix::io::pwrite(&kept, &page(&[(b"f", &[1])]), 0).unwrap();
        assert_eq!(calls(&mut figures), told(5));
        rustix::io::pwrite(&kept, b"rubbish!", 0).unwrap();
        assert_eq!(calls(&mut figures), told(5));
        rustix::io::pwrite(&kept, &page(&[(b"f", &[4])]), 0).unwrap();
        assert_eq!(calls(&mut figures), told(6));
        figures.end();
        assert_eq!((figures.pages(), calls(&mut figures)), (0, told(6)));
        // It was started again.
        figures.take("s", handed(&page(&[(b"f", &[10])])), 0, usize::MAX);
        assert_eq!(calls(&mut figures), told(16));
    }

    #[test]
    fn pages_of_processes_that_ended_make_room() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = child.id() as i32;
        child.wait().unwrap();
        let mut figures = Figures::default();
        let alive = std::process::id() as i32;
        figures.take("s", handed(&page(&[(b"f", &[1])])), alive, usize::MAX);
        for _ in 0..3 * MOST_PAGES {
            figures.take("s", handed(&page(&[(b"f", &[1])])), dead, usize::MAX);
        }
        assert_eq!(figures.pages(), 2, "the living one's and the last");
        assert_eq!(calls(&mut figures), [("f".to_owned(), 3 * MOST_PAGES as u64 + 1)]);
        for _ in 0..2 * MOST_PAGES {
            figures.take("s", handed(&page(&[(b"f", &[1])])), alive, usize::MAX);
        }
        assert_eq!(figures.pages(), MOST_PAGES);
        let mut little = Figures::default();
        little.take("s", handed(&page(&[])), alive, 0);
        assert_eq!(little.pages(), 0);
    }

    #[test]
    fn nonsense_is_bounded_and_shown_without_its_control_characters() {
        let mut figures = Figures::default();
        let mut lie = page(&[
            (b"a\x1b[2J\n\"\\", &[u64::MAX; 32]),
            (b"\xff\xfe", &[1]),
            (&[b'x'; 64], &[1]),
        ]);
        lie[8..12].fill(0xff);
        figures.take("s", handed(&lie), 0, usize::MAX);
        figures.take("s", handed(&lie), 0, usize::MAX);
        let told = figures.read();
        let names: Vec<&str> = told.iter().map(|f| f.function.as_str()).collect();
        assert_eq!(
            names,
            ["", "a\u{fffd}[2J\u{fffd}\"\\", &"x".repeat(64), "\u{fffd}\u{fffd}"]
        );
        assert_eq!((told[1].calls, told[1].buckets[0]), (u64::MAX, u64::MAX));
        assert!(told[1].p99_seconds.unwrap().is_finite());
        // Names without end, over many lives.
        for life in 0..10 {
            let names: Vec<String> = (0..MAX_SLOTS).map(|n| format!("f{life}-{n}")).collect();
            let slots: Vec<(&[u8], &[u64])> = names.iter().map(|n| (n.as_bytes(), &[1u64][..])).collect();
            figures.take("s", handed(&page(&slots)), 0, usize::MAX);
            figures.end();
        }
        assert_eq!(figures.read().len(), MOST_FUNCTIONS);
    }

    #[test]
    fn quantiles() {
        let of = |counts: &[(usize, u64)], part: f64| {
            let mut buckets = [0; BUCKETS];
            for (at, count) in counts {
                buckets[*at] = *count;
            }
            quantile(&buckets, part)
        };
        assert_eq!(of(&[], 0.5), None);
        assert_eq!(of(&[(7, 1)], 0.5), Some(0.000_096));
        assert_eq!(of(&[(0, 10)], 0.5), Some(0.000_000_5));
        assert_eq!(of(&[(7, 98), (10, 2)], 0.99), Some(0.000_768));
        assert_eq!(of(&[(27, 5)], 0.5), Some(67.108_864));
        assert_eq!(of(&[(1, 1), (27, 5)], 0.99), Some(67.108_864));
    }

    proptest::proptest! {
        #[test]
        fn any_page_is_read(
            mut bytes in proptest::collection::vec(0u8.., 0..3 * SLOT),
            count: u32,
            magic: bool,
            changed in proptest::collection::vec(0u8.., 0..2 * SLOT),
        ) {
            if magic && bytes.len() >= 12 {
                bytes[..8].copy_from_slice(MAGIC);
                bytes[8..12].copy_from_slice(&count.to_le_bytes());
            }
            let mut table = Table::default();
            figures::for_each_slot(&bytes, |name, numbers| table.add(&shown(name), numbers));
            let slots = bytes.len().saturating_sub(HEADER) / SLOT;
            proptest::prop_assert!(table.0.len() <= slots.min(count as usize));
            bytes.resize(SIZE, 0);
            let memfd = handed(&bytes);
            let again = memfd.try_clone().unwrap();
            let mut figures = Figures::default();
            figures.take("s", memfd, 0, usize::MAX);
            let before = figures.read();
            rustix::io::pwrite(&again, &changed, HEADER as u64).unwrap();
            let after = figures.read();
            for old in &before {
                let new = after.iter().find(|f| f.function == old.function).unwrap();
                proptest::prop_assert!(new.calls >= old.calls && new.nanoseconds >= old.nanoseconds);
                proptest::prop_assert!(!new.function.chars().any(|c| c.is_control() && c != '\t'));
                proptest::prop_assert!(new.p50_seconds.is_none_or(f64::is_finite));
            }
        }
    }
}
