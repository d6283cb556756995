//! Data goes on under another name: what `was` says is carried out on disk.
//!
//! Each step is one rename(2), and the next time all that is left is done: after a kill nothing is lost, and nothing is
//! twice. The record of what was called how is changed by the caller, when all of this is done.

use crate::host::Dirs;
use crate::plan::PlanError;
use crate::walk::{Found, Walk, remove};
use std::path::{Path, PathBuf};

/// What SQLite keeps beside a database; it goes with it, and before it.
const BESIDE: [&str; 3] = ["-journal", "-shm", "-wal"];

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    Yes,
    /// There is nothing under the old name.
    Nothing,
    /// Both names have data.
    Both,
}

/// A folder, of a resource's or a service's own.
pub fn folder(old: &Path, new: &Path) -> Result<Moved, PlanError> {
    let wrong = |e: std::io::Error| PlanError::io("give its new name to", old, e);
    if std::fs::symlink_metadata(old).is_err() {
        return Ok(Moved::Nothing);
    }
    if std::fs::symlink_metadata(new).is_ok() {
        if holds_something(new).map_err(wrong)? {
            return Ok(match holds_something(old).map_err(wrong)? {
                true => Moved::Both,
                false => Moved::Nothing,
            });
        }
        // Made by a start that did not know yet.
        remove(new).map_err(wrong)?;
    }
    if let Some(parent) = new.parent() {
        crate::host::make_private(parent)?;
    }
    crate::durable::rename(old, new).map_err(wrong)?;
    Ok(Moved::Yes)
}

/// The file of a resource in its folder, whose path ends otherwise now.
pub fn file(folder: &Path, old: Option<&str>, new: &str) -> Result<(), PlanError> {
    let there = |name: &str| std::fs::symlink_metadata(folder.join(name)).ok();
    if there(new).is_some_and(|m| !m.is_file() || m.len() > 0) {
        return Ok(());
    }
    let old = match old {
        Some(old) => old.to_owned(),
        // A record from before paths were kept.
        None => match only_file(folder) {
            Some(old) => old,
            None => return Ok(()),
        },
    };
    if old == new || there(&old).is_none() {
        return Ok(());
    }
    for ending in BESIDE.iter().copied().chain([""]) {
        let (from, to) = (
            folder.join(format!("{old}{ending}")),
            folder.join(format!("{new}{ending}")),
        );
        match crate::durable::rename(&from, &to) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.map_err(|e| PlanError::io("give its new name to", &from, e))?,
        }
    }
    Ok(())
}

fn only_file(folder: &Path) -> Option<String> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    let mut names = entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_file()))
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| !BESIDE.iter().any(|ending| name.ends_with(ending)));
    let first = names.next();
    first.filter(|_| names.next().is_none())
}

/// A service's logs: all files of the old name, where the new one has none.
pub fn logs(dirs: &Dirs, old: &str, new: &str) -> Result<(), PlanError> {
    let of = |name: &str| -> Vec<(PathBuf, String)> {
        let entries = std::fs::read_dir(dirs.logs()).into_iter().flatten().flatten();
        let named = entries.filter_map(|e| Some((e.path(), e.file_name().into_string().ok()?)));
        named
            .filter_map(|(path, file)| Some((path, file.strip_prefix(name)?.to_owned())))
            .filter(|(_, rest)| rest.starts_with(".log"))
            .collect()
    };
    if !of(new).is_empty() {
        return Ok(());
    }
    for (path, rest) in of(old) {
        crate::durable::rename(&path, &dirs.logs().join(format!("{new}{rest}")))
            .map_err(|e| PlanError::io("give its new name to", &path, e))?;
    }
    Ok(())
}

/// A file with something in it, or a link or the like; not folders of empty files.
pub fn holds_something(path: &Path) -> std::io::Result<bool> {
    use rustix::fs::FileType;
    let mut walk = Walk::at(path)?;
    while let Some(found) = walk.next().map_err(|trouble| trouble.below(path))? {
        let Found::Entry(entry) = found else { continue };
        match entry.kind() {
            FileType::Directory => {}
            FileType::RegularFile if entry.stat.st_size == 0 => {}
            _ => return Ok(true),
        }
    }
    Ok(false)
}
