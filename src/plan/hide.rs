//! What a mount leaves out of its source, found on disk: the entries that `exclude` names, wherever they lie.
//!
//! They are looked for when a plan is made, and again at each start. A name that is no pattern is left out of the top of
//! the folder even before it is there.

use super::{Mount, MountPoint, PlanError, Unit};
use crate::cause::Reason;
use crate::model::{Exclude, path};
use crate::walk::{self, Found};
use rustix::fs::FileType;
use rustix::io::Errno;
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A folder with more in it is one that somebody named by mistake.
const MOST_ENTRIES: usize = 1_000_000;
/// More of them are better left out by the folder that they lie in.
const MOST_HIDDEN: usize = 10_000;
/// What SQLite keeps beside a database, and may make at any time.
const BESIDE: [&str; 3] = ["-journal", "-shm", "-wal"];

/// Leaves out of the mount `at` what its `exclude` names, but for the ways to mounts that lie in it. `closed`: do services
/// not get into what others may not search? The error completes a sentence.
pub(super) fn apply(mounts: &mut [Mount], at: usize, closed: bool) -> Result<(), Reason> {
    if mounts[at].exclude.is_empty() {
        return Ok(());
    }
    let inner: Vec<(PathBuf, bool)> = mounts
        .iter()
        .filter(|m| path::is_below(&m.target, &mounts[at].target))
        .map(|m| {
            (
                m.target[mounts[at].target.len()..].trim_start_matches('/').into(),
                m.directory,
            )
        })
        .collect();
    let mount = &mut mounts[at];
    let exclude = &mount.exclude;
    if !mount.directory {
        return Err("`exclude` leaves out what a folder holds, and its source is a file: take it out".into());
    }
    if mount.writable || mount.idmap.is_some() {
        return Err(
            "`exclude` takes a source that all who see it may only read: take `w` away, and grant `r` by `global` alone"
                .into(),
        );
    }
    let mut search = Search {
        exclude,
        found: BTreeSet::new(),
        linked: BTreeSet::new(),
        links: Vec::new(),
        entries: 0,
        closed,
    };
    search.tree(&mount.source)?;
    // Another name of the same file is that file.
    for (file, path) in std::mem::take(&mut search.links) {
        if search.linked.contains(&file) {
            search.found.insert(path);
        }
    }
    for literal in exclude.literals() {
        let path = PathBuf::from(literal);
        let parent = path.parent().unwrap_or(Path::new(""));
        let there = std::fs::symlink_metadata(mount.source.join(parent)).is_ok_and(|m| m.is_dir());
        if there && exclude.names(&path) && !search.found.iter().any(|f| path.starts_with(f)) {
            search.found.insert(path);
        }
    }
    if search.found.len() > MOST_HIDDEN {
        let found = search.found.len();
        let text =
            format!("`exclude` names {found} entries, more than {MOST_HIDDEN}: name the folders that they lie in");
        return Err(text.into());
    }
    for path in search.found {
        around(&mount.source, path, &inner, &mut mount.hidden, &mut mount.missing)?;
    }
    mount.hidden.sort();
    mount.hidden.dedup();
    Ok(())
}

/// The same for a service that is about to start: what lies in its sources may have changed since it was planned.
pub fn again(service: &Unit) -> Result<Cow<'_, Unit>, PlanError> {
    if service.mounts.iter().all(|m| m.exclude.is_empty()) {
        return Ok(Cow::Borrowed(service));
    }
    let mut service = service.clone();
    let closed = service.identity.keeper.is_some();
    for at in 0..service.mounts.len() {
        apply(&mut service.mounts, at, closed).map_err(|reason| PlanError::Resource {
            name: service.mounts[at].target.clone(),
            reason,
        })?;
    }
    Ok(Cow::Owned(service))
}

/// Leaves out `path`, but for the ways to the mounts that lie in it.
fn around(
    source: &Path,
    path: PathBuf,
    inner: &[(PathBuf, bool)],
    hidden: &mut Vec<String>,
    missing: &mut Vec<MountPoint>,
) -> Result<(), Reason> {
    // Covered by that mount.
    if inner.iter().any(|(mount, _)| path.starts_with(mount) && path != *mount) {
        return Ok(());
    }
    if let Some((_, directory)) = inner.iter().find(|(mount, _)| *mount == path) {
        let point = MountPoint {
            path: text(&path)?,
            directory: *directory,
        };
        if !missing.contains(&point) {
            missing.push(point);
        }
        return Ok(());
    }
    if !inner.iter().any(|(mount, _)| mount.starts_with(&path)) {
        hidden.push(text(&path)?);
        return Ok(());
    }
    for (mount, directory) in inner.iter().filter(|(mount, _)| mount.starts_with(&path)) {
        let point = MountPoint {
            path: text(mount)?,
            directory: *directory,
        };
        if !missing.contains(&point) {
            missing.push(point);
        }
    }
    let wrong = |e: std::io::Error| Reason::new(format!("read {}: {e}", source.join(&path).display())).because(e);
    let entries = match std::fs::read_dir(source.join(&path)) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(wrong)?,
    };
    for entry in entries {
        around(
            source,
            path.join(entry.map_err(wrong)?.file_name()),
            inner,
            hidden,
            missing,
        )?;
    }
    Ok(())
}

fn text(path: &Path) -> Result<String, Reason> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        let shown = path.display();
        format!("the name {shown} is not UTF-8: rename it, or `exclude` the folder that it lies in").into()
    })
}

type FileId = (u64, u64);

struct Search<'e> {
    exclude: &'e Exclude,
    found: BTreeSet<PathBuf>,
    /// Files left out that have other names, too.
    linked: BTreeSet<FileId>,
    links: Vec<(FileId, PathBuf)>,
    entries: usize,
    /// Can services not pass what others may not search?
    closed: bool,
}

impl Search<'_> {
    fn tree(&mut self, top: &Path) -> Result<(), Reason> {
        let failed = |place: &dyn std::fmt::Display, errno: Errno| {
            Reason::new(format!("look for what to leave out in {place}: {errno}")).because(errno)
        };
        let wrong = |e: walk::WalkError| failed(&shown(&e.path), e.errno);
        let mut walk = walk::Walk::at(top)
            .map_err(|e| failed(&top.display(), e))?
            .with_mounts()
            .with_ends();
        // How much was found before each directory on the way, and its mode.
        let mut before: Vec<(usize, u32)> = Vec::new();
        while let Some(found) = walk.next().map_err(wrong)? {
            let entry = match found {
                Found::Entry(entry) => entry,
                Found::End { path, .. } => {
                    let changed = before.pop().filter(|(count, _)| self.found.len() > *count);
                    if self.closed && changed.is_some_and(|(_, mode)| mode & 0o004 == 0) {
                        let text = format!(
                            "{} may be searched but not read by services, and leaving something out of it would change \
                             that: `exclude` it as a whole, or `chmod o-x` it",
                            shown(path)
                        );
                        return Err(text.into());
                    }
                    continue;
                }
            };
            let (kind, stat, path) = (entry.kind(), entry.stat, entry.path);
            if path.as_os_str().is_empty() {
                before.push((0, 0o777));
                continue;
            }
            self.entries += 1;
            if self.entries > MOST_ENTRIES {
                return Err(format!("there are more than {MOST_ENTRIES} files in it: name a smaller folder").into());
            }
            let names = self.exclude.names(path);
            if kind != FileType::Directory && stat.st_nlink > 1 {
                let file = (stat.st_dev, stat.st_ino);
                if names {
                    self.linked.insert(file);
                } else {
                    self.links.push((file, path.to_owned()));
                }
            }
            if names {
                for ending in BESIDE.iter().filter(|_| kind == FileType::RegularFile) {
                    let mut beside = path.to_owned().into_os_string();
                    beside.push(ending);
                    self.found.insert(beside.into());
                }
                self.found.insert(path.to_owned());
                walk.skip();
            } else if kind == FileType::Directory {
                // Nobody gets into it, and a layer over it would open it.
                if self.closed && stat.st_mode & 0o001 == 0 {
                    walk.skip();
                } else {
                    before.push((self.found.len(), stat.st_mode));
                }
            }
        }
        Ok(())
    }
}

fn shown(path: &Path) -> String {
    match path.as_os_str().is_empty() {
        true => "it".to_owned(),
        false => path.display().to_string(),
    }
}
