//! Keys that crowd: a caller can choose numbers, and what is made of them, so that a dict or a set looks in the same places for each
//! of them, and takes a time that grows with the square of their number. So it is tried first, with their hashes alone, how often it
//! would have to look; `_wire.py` does the same. Text and bytes are hashed with a key that nobody outside knows.

use crate::failed::{Failed, refused};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBytes, PyList, PyString};
use pysecure_wire::{Malformed, WireError};

/// How many keys cannot take long, however they crowd.
const FEW: usize = 64;
/// How often may be looked for each key; twice is usual, and a dozen times where keys are many times the same power of two.
const LOOKS: usize = 40;

/// Where CPython looks (Objects/dictobject.c and Objects/setobject.c): so many places in a row, before it jumps.
pub struct Kind {
    row: usize,
    /// With so many entries in a table of so many places it is made anew, for at least so many.
    grows: fn(usize, usize) -> Option<usize>,
}

pub const DICT: Kind = Kind {
    row: 0,
    grows: |used, places| (used >= 2 * places / 3).then_some(3 * used),
};

pub const SET: Kind = Kind {
    row: 9,
    grows: |used, places| (5 * used >= 3 * (places - 1)).then_some(1 + if used > 50_000 { 2 * used } else { 4 * used }),
};

struct Table<'a> {
    kind: &'a Kind,
    taken: Vec<u64>,
    mask: usize,
    looks: usize,
}

impl Table<'_> {
    fn resize(&mut self, at_least: usize) {
        let places = at_least.next_power_of_two().max(8);
        self.mask = places - 1;
        self.taken = vec![0; places.div_ceil(64)];
    }

    /// False if too many places had to be looked at.
    fn place(&mut self, hash: isize) -> bool {
        let mut jump = hash as usize;
        let mut at = jump & self.mask;
        loop {
            let row = if at + self.kind.row <= self.mask {
                self.kind.row
            } else {
                0
            };
            for place in at..=at + row {
                let (word, bit) = (place / 64, 1 << (place % 64));
                if self.taken[word] & bit == 0 {
                    self.taken[word] |= bit;
                    return true;
                }
            }
            // A row costs no more than one place: it is read at once.
            if self.looks == 0 {
                return false;
            }
            self.looks -= 1;
            jump >>= 5;
            at = at.wrapping_mul(5).wrapping_add(jump).wrapping_add(1) & self.mask;
        }
    }
}

/// Would it have to look too often for them?
fn crowd(hashes: &[isize], kind: &Kind) -> bool {
    // Those with equal hashes are compared with each other, wherever they lie.
    let mut sorted = hashes.to_vec();
    sorted.sort_unstable();
    let compared = sorted
        .chunk_by(|a, b| a == b)
        .map(|same| same.len() * (same.len() - 1) / 2)
        .sum();
    let Some(looks) = (FEW * FEW + LOOKS * hashes.len()).checked_sub(compared) else {
        return true;
    };
    let mut table = Table {
        kind,
        taken: Vec::new(),
        mask: 0,
        looks,
    };
    table.resize(8);
    for (at, hash) in hashes.iter().enumerate() {
        if !table.place(*hash) {
            return true;
        }
        if let Some(more) = (kind.grows)(at + 1, table.mask + 1)
            && at + 1 < hashes.len()
        {
            table.resize(more);
            if !hashes[..=at].iter().all(|hash| table.place(*hash)) {
                return true;
            }
        }
    }
    false
}

/// Are hashes of text such that somebody outside knows them?
fn known(py: Python<'_>) -> bool {
    static KNOWN: PyOnceLock<bool> = PyOnceLock::new();
    *KNOWN.get_or_init(py, || {
        let flags = py.import("sys").and_then(|sys| sys.getattr("flags"));
        let random = flags.and_then(|flags| flags.getattr("hash_randomization")?.extract::<i32>());
        let seed = std::env::var("PYTHONHASHSEED").unwrap_or_default();
        !matches!(random, Ok(1)) || !matches!(seed.as_str(), "" | "random")
    })
}

pub fn look<'a, 'py: 'a>(
    py: Python<'py>,
    keys: impl ExactSizeIterator<Item = &'a Bound<'py, PyAny>> + Clone,
    kind: Kind,
) -> Result<(), Failed> {
    if keys.len() <= FEW {
        return Ok(());
    }
    let text =
        |key: &Bound<'py, PyAny>| key.is_exact_instance_of::<PyString>() || key.is_exact_instance_of::<PyBytes>();
    if !known(py) && keys.clone().all(text) {
        return Ok(());
    }
    let hashes: PyResult<Vec<isize>> = keys.map(|key| key.hash()).collect();
    match crowd(&hashes.map_err(|e| refused(py, e))?, &kind) {
        true => Err(WireError::from(Malformed::Crowded).into()),
        false => Ok(()),
    }
}

pub fn look_at_items<'py>(py: Python<'py>, items: &Bound<'py, PyList>) -> Result<(), Failed> {
    if items.len() <= FEW {
        return Ok(());
    }
    let items: Vec<Bound<'py, PyAny>> = items.iter().collect();
    look(py, items.iter(), SET)
}
