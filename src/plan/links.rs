//! Hard links between resources: one file with two names, of which one lies where a service may do more with it.
//!
//! Found by looking at files: those with more than one name are told by link(2)'s count. Only trees are looked into
//! that somebody may not read; if no file there has a second name, there is nothing to look for in the others. Looking
//! has a bound, and what lies beyond it is said.

use super::Unit;
use super::overlap::{Leak, Overlaps, Subtree};
use crate::walk::{Found, Walk};
use rustix::fs::FileType;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// As many files are looked at, at most, and for so long.
const MOST: usize = 200_000;
const LONGEST: Duration = Duration::from_secs(1);

/// Device and inode.
type File = (u64, u64);

/// Names of files in more than one subtree.
pub(super) struct Links {
    /// For each file, which subtrees it is in, and where.
    names: Vec<BTreeMap<usize, PathBuf>>,
    /// What was not looked at to the end.
    pub unseen: Vec<PathBuf>,
}

impl Links {
    pub(crate) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Those that let a service do what it may not. `services`: all whose rights count.
    pub(crate) fn leaks(&self, overlaps: &Overlaps, services: &[Unit]) -> Vec<Leak> {
        let pairs = self.pairs();
        pairs
            .flat_map(|(outer, inner, there)| overlaps.linked(services, outer, inner, &there))
            .collect()
    }

    /// A subtree that has a file of another's, that other, and where; both ways round.
    pub(crate) fn pairs(&self) -> impl Iterator<Item = (usize, usize, PathBuf)> {
        self.names.iter().flat_map(|names| {
            let both = names.iter().flat_map(move |a| names.keys().map(move |b| (a, *b)));
            both.filter(|((outer, _), inner)| *outer != inner)
                .map(|((outer, there), inner)| (*outer, inner, there.clone()))
        })
    }
}

pub(super) fn find(subtrees: &[Subtree]) -> Links {
    let (mut closed, mut open) = (Vec::new(), Vec::new());
    for (at, subtree) in subtrees.iter().enumerate().filter(|(_, p)| p.is_resource()) {
        if subtree.is_code() {
            open.push(at)
        } else {
            closed.push(at)
        }
    }
    let mut search = Search {
        // What lies in another subtree belongs to that.
        others: subtrees.iter().map(|p| p.path.as_path()).collect(),
        found: BTreeMap::new(),
        left: MOST,
        until: Instant::now() + LONGEST,
    };
    let mut unseen = Vec::new();
    search.all(subtrees, &closed, &mut unseen);
    if !search.found.is_empty() {
        search.all(subtrees, &open, &mut unseen);
    }
    let names = search.found.into_values().filter(|of| of.len() > 1).collect();
    Links { names, unseen }
}

struct Search<'p> {
    others: BTreeSet<&'p Path>,
    /// Which subtrees have a file with more names than one, and where; one name of it for each subtree.
    found: BTreeMap<File, BTreeMap<usize, PathBuf>>,
    left: usize,
    until: Instant,
}

/// The bound was met.
struct Enough;

impl Search<'_> {
    fn all(&mut self, subtrees: &[Subtree], these: &[usize], unseen: &mut Vec<PathBuf>) {
        for at in these {
            if self.look_into(*at, &subtrees[*at].path).is_err() {
                unseen.push(subtrees[*at].path.clone());
            }
        }
    }

    fn look_into(&mut self, of: usize, top: &Path) -> Result<(), Enough> {
        // Yet to be made, or swapped for something that a start will refuse.
        let Ok(walk) = Walk::at(top) else { return Ok(()) };
        let mut walk = walk.with_mounts();
        loop {
            let (kind, stat, path) = match walk.next() {
                Ok(None) => return Ok(()),
                Ok(Some(Found::Entry(entry))) => (entry.kind(), entry.stat, entry.path),
                // What an ordinary user may not look into before the start, is looked into at the start.
                _ => continue,
            };
            let within = !path.as_os_str().is_empty();
            if within {
                self.left = self.left.checked_sub(1).ok_or(Enough)?;
                if self.left.is_multiple_of(256) && Instant::now() > self.until {
                    return Err(Enough);
                }
            }
            if kind != FileType::Directory && (kind != FileType::RegularFile || stat.st_nlink < 2) {
                continue;
            }
            let path = if within { top.join(path) } else { top.to_owned() };
            let another_s = within && self.others.contains(path.as_path());
            match kind {
                FileType::Directory if another_s => walk.skip(),
                FileType::RegularFile if !another_s => self.file(of, &stat, &path),
                _ => {}
            }
        }
    }

    fn file(&mut self, of: usize, stat: &rustix::fs::Stat, path: &Path) {
        if stat.st_nlink > 1 {
            let names = self.found.entry((stat.st_dev, stat.st_ino)).or_default();
            names.entry(of).or_insert_with(|| path.to_owned());
        }
    }
}
