//! What a root or a layer holds before anything is mounted.

use crate::bundle::RootEntry;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A tree of empty places, in which the first entry for a path stays and parents come by themselves.
pub(super) struct Tree {
    entries: BTreeMap<PathBuf, RootEntry>,
    /// What could not be made, for what the root brings stands in its way: its path, that one's, and what that is.
    pub(super) blocked: Option<(PathBuf, PathBuf, &'static str)>,
}

impl Tree {
    pub(super) fn new() -> Tree {
        Tree {
            entries: BTreeMap::new(),
            blocked: None,
        }
    }

    pub(super) fn insert(&mut self, path: &Path, entry: impl FnOnce(PathBuf) -> RootEntry) {
        let path = path.strip_prefix("/").unwrap_or(path);
        for parent in path.ancestors().skip(1).filter(|p| !p.as_os_str().is_empty()) {
            let there = self
                .entries
                .entry(parent.to_owned())
                .or_insert_with(|| RootEntry::Directory(parent.to_owned()));
            let kind = match there {
                RootEntry::Directory(_) => continue,
                RootEntry::Link(..) => "a link",
                RootEntry::File(..) => "a file",
                RootEntry::Whiteout(_) => "nothing",
            };
            self.blocked.get_or_insert((path.to_owned(), parent.to_owned(), kind));
        }
        let wanted = entry(path.to_owned());
        let kind = match (self.entries.get(path), &wanted) {
            (None, _) => {
                self.entries.insert(path.to_owned(), wanted);
                return;
            }
            // A link is there for who finds nothing else.
            (_, RootEntry::Link(..) | RootEntry::Whiteout(_)) => return,
            (Some(RootEntry::Directory(_)), RootEntry::Directory(_)) => return,
            (Some(RootEntry::File(..)), RootEntry::File(..)) => return,
            (Some(RootEntry::Directory(_)), _) => "a directory",
            (Some(RootEntry::Link(..)), _) => "a link",
            (Some(RootEntry::File(..)), _) => "a file",
            (Some(RootEntry::Whiteout(_)), _) => "nothing",
        };
        self.blocked.get_or_insert((path.to_owned(), path.to_owned(), kind));
    }

    pub(super) fn directory(&mut self, path: &Path) {
        // Below /dev everything is made anew in a tmpfs, by whoever mounts that.
        if !path.starts_with("/dev") || path == Path::new("/dev") {
            self.insert(path, RootEntry::Directory);
        }
    }

    pub(super) fn file(&mut self, path: &str, content: String) {
        self.insert(Path::new(path), |p| RootEntry::File(p, content));
    }

    pub(super) fn link(&mut self, path: &Path, target: &Path) {
        self.insert(path, |p| RootEntry::Link(p, target.to_owned()));
    }

    pub(super) fn mount_point(&mut self, path: &Path, directory: bool) {
        if directory {
            self.directory(path);
        } else {
            self.insert(path, |p| RootEntry::File(p, String::new()));
        }
    }

    /// Takes out what lies below the directories at the top, but for those that something is mounted on at once; under
    /// each directory's name, with paths relative to it.
    pub(super) fn take_below_tops(&mut self, but: &[&str]) -> BTreeMap<PathBuf, Vec<RootEntry>> {
        let mut out: BTreeMap<PathBuf, Vec<RootEntry>> = BTreeMap::new();
        let mut left = BTreeMap::new();
        for (path, entry) in std::mem::take(&mut self.entries) {
            let mut parts = path.iter();
            let top = PathBuf::from(parts.next().unwrap_or_default());
            let inside = parts.as_path().to_owned();
            if but.iter().any(|b| top == Path::new(b)) {
                left.insert(path, entry);
            } else if inside.as_os_str().is_empty() {
                if matches!(entry, RootEntry::Directory(_)) {
                    out.entry(top).or_default();
                }
                left.insert(path, entry);
            } else {
                out.entry(top).or_default().push(match entry {
                    RootEntry::Directory(_) => RootEntry::Directory(inside),
                    RootEntry::File(_, content) => RootEntry::File(inside, content),
                    RootEntry::Link(_, target) => RootEntry::Link(inside, target),
                    RootEntry::Whiteout(_) => RootEntry::Whiteout(inside),
                });
            }
        }
        self.entries = left;
        out
    }

    /// Sorted by path, so parents come before children.
    pub(super) fn entries(self) -> Vec<RootEntry> {
        self.entries.into_values().collect()
    }
}
