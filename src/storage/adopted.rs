//! Trees of the user's that PySecure was given (`chown = true`): whose they were, and the way back.
//!
//! Before anything of such a tree is changed, the owner and the mode of all in it are written down, in a file of the app's
//! folder. As long as that file is there, files may belong to the app's ids, which are then given to nobody else: the app's
//! ledger is kept with it.
//!
//! What is written: a line of the record's version, the tree's path and the resource's name, each ended by a zero byte;
//! then for every file `MODE UID GID PATH`, ended likewise, the path being relative to the tree.

use super::through_proc;
use crate::cause::Reason;
use crate::host::{Dirs, make_private};
use crate::launch::LaunchError;
use crate::plan::{Ledger, PlanError};
use crate::walk::{self, Found, Walk};
use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const VERSION: &str = "pysecure adopted 1";

/// What is on record of one tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the record is.
    file: PathBuf,
    /// Where the tree was when it was adopted.
    pub path: PathBuf,
    pub resource: String,
}

/// Owner and mode as they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Was {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// By path in the tree; that of the tree itself is empty.
type Entries = HashMap<Vec<u8>, Was>;

#[derive(Debug, thiserror::Error)]
pub enum GiveBackError {
    #[error(
        "{0} is gone, and with it whatever belongs to the app's ids there; if it was moved, `pysecure give-back {0} --moved-to \
         PLACE`, if it was deleted, `pysecure give-back {0} --forget`", path.display()
    )]
    Gone { path: PathBuf },
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Plan(#[from] PlanError),
}

/// All trees of an app that were adopted and not given back, outer ones first.
pub fn records(dirs: &Dirs) -> Result<Vec<Record>, PlanError> {
    of_app(&dirs.app)
}

fn of_app(app: &Path) -> Result<Vec<Record>, PlanError> {
    let folder = app.join("adopted");
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(e)
            if matches!(
                e.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(Vec::new());
        }
        Err(e) => return Err(PlanError::io("read", folder, e)),
    };
    let mut out = Vec::new();
    for entry in entries {
        let file = entry.map_err(|e| PlanError::io("read", &folder, e))?.path();
        // One that is being written was never put in place: nothing was changed yet.
        if file.extension().is_some() {
            continue;
        }
        let (path, resource, _) = read(&file)?;
        out.push(Record { file, path, resource });
    }
    out.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(out)
}

fn read(file: &Path) -> Result<(PathBuf, String, Entries), PlanError> {
    let wrong = |cause: Box<dyn std::error::Error + Send + Sync>| {
        PlanError::io("read the record of what was adopted", file, cause)
    };
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|mut f| f.read_to_end(&mut bytes))
        .map_err(|e| wrong(e.into()))?;
    let mut parts = bytes.split(|b| *b == 0);
    if parts.next() != Some(VERSION.as_bytes()) {
        return Err(wrong("it is none, or of another version of pysecure".into()));
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(parts.next().unwrap_or_default().to_vec()));
    let resource = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    let mut entries = HashMap::new();
    for part in parts.filter(|p| !p.is_empty()) {
        let mut fields = part.splitn(4, |b| *b == b' ');
        let mut number = |base| {
            let text = std::str::from_utf8(fields.next()?).ok()?;
            u32::from_str_radix(text, base).ok()
        };
        let (Some(mode), Some(uid), Some(gid)) = (number(8), number(10), number(10)) else {
            return Err(wrong("it is damaged".into()));
        };
        entries.insert(fields.next().unwrap_or_default().to_vec(), Was { mode, uid, gid });
    }
    Ok((path, resource, entries))
}

/// Writes down how a tree is, unless that was done. Says whether it was not: then nothing is known of how it was changed
/// since.
pub(super) fn record(dirs: &Dirs, ledger: &Ledger, resource: &str, path: &Path) -> Result<bool, PlanError> {
    let known = records(dirs)?;
    // A tree in one that was adopted before is on record there.
    if known.iter().any(|r| path.starts_with(&r.path)) {
        return Ok(false);
    }
    another_s(dirs, resource, path)?;
    let folder = dirs.app.join("adopted");
    make_private(&folder)?;
    let number = (1u32..)
        .find(|n| !folder.join(n.to_string()).exists())
        .unwrap_or_default();
    let file = folder.join(number.to_string());
    let fresh = file.with_extension("new");
    let wrong = |e: std::io::Error| PlanError::io("write down whose the files are that are adopted in", path, e);
    let mut out = BufWriter::new(
        File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&fresh)
            .map_err(wrong)?,
    );
    let mut head = VERSION.as_bytes().to_vec();
    for part in [path.as_os_str().as_bytes(), resource.as_bytes()] {
        head.push(0);
        head.extend(part);
    }
    head.push(0);
    let done = out.write_all(&head).map_err(Trouble::Io).and_then(|()| {
        let top = open_top(path)?;
        let found = rustix::fs::fstat(&top)?;
        let owner = original(ledger, path, &found);
        each(top, |name, _, found| {
            let was = known_or(ledger, found, owner);
            write!(out, "{:o} {} {} ", found.st_mode & 0o7777, was.0, was.1)?;
            out.write_all(name)?;
            out.write_all(&[0])?;
            Ok(())
        })
        .map_err(|(_, trouble)| trouble)
    });
    let done = done
        .map_err(|e| wrong(e.into()))
        .and_then(|()| out.into_inner().map_err(|e| wrong(e.into_error())))
        .and_then(|file| file.sync_all().map_err(wrong))
        .and_then(|()| crate::durable::rename(&fresh, &file).map_err(wrong));
    if done.is_err() {
        let _ = std::fs::remove_file(&fresh);
    }
    done.map(|()| true)
}

/// A tree is one app's: another that has it would find its files to belong to strangers.
fn another_s(dirs: &Dirs, resource: &str, path: &Path) -> Result<(), PlanError> {
    for entry in std::fs::read_dir(dirs.state.join("apps"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.path() == dirs.app {
            continue;
        }
        let records = of_app(&entry.path())?;
        if let Some(theirs) = records
            .iter()
            .find(|r| r.path.starts_with(path) || path.starts_with(&r.path))
        {
            return Err(PlanError::Resource {
                name: resource.to_owned(),
                reason: Reason::new(format!(
                    "the app `{}` has adopted {}",
                    entry.file_name().to_string_lossy(),
                    theirs.path.display()
                ))
                .remedy("`pysecure give-back` with its manifest first"),
            });
        }
    }
    Ok(())
}

/// Whose a tree is: who owns its folder, if it is the app's own ids that own the tree.
fn original(ledger: &Ledger, path: &Path, found: &rustix::fs::Stat) -> (u32, u32) {
    let here = (found.st_uid, found.st_gid);
    let above = path.parent().and_then(|p| std::fs::symlink_metadata(p).ok());
    known_or(ledger, found, above.map_or(here, |a| (a.uid(), a.gid())))
}

fn known_or(ledger: &Ledger, found: &rustix::fs::Stat, (uid, gid): (u32, u32)) -> (u32, u32) {
    let is = |range: [u32; 2], id: u32| (range[0]..=range[1]).contains(&id);
    (
        if is(ledger.uid_range, found.st_uid) {
            uid
        } else {
            found.st_uid
        },
        if is(ledger.gid_range, found.st_gid) {
            gid
        } else {
            found.st_gid
        },
    )
}

/// Makes a tree its owner's again, with the modes that it had. What came into it since is the owner's of the folder that it
/// is in, and nobody else's to read. No file gets a set-id bit back: what is in it now, a service may have written.
/// `place`: where the tree is now. The record goes when all is done.
pub fn give_back(record: &Record, place: &Path) -> Result<(), GiveBackError> {
    let (_, _, entries) = read(&record.file)?;
    let top = match open_top(place) {
        Ok(top) => top,
        Err(Errno::NOENT | Errno::NOTDIR) => {
            return Err(GiveBackError::Gone {
                path: record.path.clone(),
            });
        }
        Err(errno) => return Err(LaunchError::system("open", place.display().to_string())(errno).into()),
    };
    // The folders on the way that were there when the tree was adopted, outer ones first.
    let mut above: Vec<(Vec<u8>, Was)> = Vec::new();
    let result = each(top, |name, file, found| {
        while above.last().is_some_and(|(folder, _)| !lies_in(name, folder)) {
            above.pop();
        }
        let was = entries.get(name).copied();
        let folder = above.last().map(|(_, was)| *was);
        if let Some(was) = was.filter(|_| FileType::from_raw_mode(found.st_mode) == FileType::Directory) {
            above.push((name.to_vec(), was));
        }
        put_back(file, found, was, folder)
    });
    result.map_err(|(path, e)| {
        let shown = walk::shown(&place.join(path));
        match e {
            Trouble::Errno(errno) => LaunchError::system("give back", shown)(errno),
            Trouble::Io(e) => LaunchError::system_text("give back", shown, e),
        }
    })?;
    forget(record)?;
    Ok(())
}

/// The ids of a tree that was deleted own nothing of it any more.
pub fn forget(record: &Record) -> Result<(), PlanError> {
    std::fs::remove_file(&record.file).map_err(|e| PlanError::io("remove", &record.file, e))?;
    // If it was the last one.
    let _ = record.file.parent().map(std::fs::remove_dir);
    Ok(())
}

/// Is a path in a tree that of something in this folder of it?
fn lies_in(path: &[u8], folder: &[u8]) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.starts_with(b"/"))
}

/// `was`: as it was, if it was there; `folder`: as the nearest folder was that was there.
fn put_back(file: BorrowedFd<'_>, found: &rustix::fs::Stat, was: Option<Was>, folder: Option<Was>) -> Done {
    let kind = FileType::from_raw_mode(found.st_mode);
    let nobody = Was {
        mode: 0o700,
        uid: 0,
        gid: 0,
    };
    let owner = was.or(folder).unwrap_or(nobody);
    let mode = was.map(|was| was.mode);
    if (found.st_uid, found.st_gid) != (owner.uid, owner.gid) {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::chownat(
            file,
            c"",
            Some(uid),
            Some(gid),
            AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW,
        )?;
    }
    if kind == FileType::Symlink {
        return Ok(());
    }
    for attribute in [c"system.posix_acl_default", c"system.posix_acl_access"] {
        let _ = rustix::fs::removexattr(through_proc(file), attribute);
    }
    let runs = found.st_mode & 0o111 != 0;
    let mode = match (kind, mode) {
        (FileType::Directory, Some(mode)) => mode,
        (FileType::Directory, None) => 0o700,
        (_, Some(mode)) => mode & 0o777,
        (_, None) if runs => 0o700,
        (_, None) => 0o600,
    };
    Ok(rustix::fs::chmod(through_proc(file), Mode::from_raw_mode(mode))?)
}

enum Trouble {
    Errno(Errno),
    Io(std::io::Error),
}

type Done = Result<(), Trouble>;

impl From<Errno> for Trouble {
    fn from(errno: Errno) -> Trouble {
        Trouble::Errno(errno)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Trouble {
        Trouble::Io(error)
    }
}

impl From<Trouble> for std::io::Error {
    fn from(trouble: Trouble) -> std::io::Error {
        match trouble {
            Trouble::Errno(errno) => errno.into(),
            Trouble::Io(error) => error,
        }
    }
}

fn open_top(path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(
        CWD,
        path,
        OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}

/// A tree, file by file: each by its path in the tree, a descriptor of it and what it is. A directory comes before what is
/// in it.
fn each(
    top: OwnedFd,
    mut done: impl FnMut(&[u8], BorrowedFd<'_>, &rustix::fs::Stat) -> Done,
) -> Result<(), (PathBuf, Trouble)> {
    let mut walk = Walk::new(top).map_err(|errno| (PathBuf::new(), Trouble::Errno(errno)))?;
    let wrong = |e: walk::WalkError| (e.path, Trouble::Errno(e.errno));
    while let Some(Found::Entry(entry)) = walk.next().map_err(wrong)? {
        done(entry.path.as_os_str().as_bytes(), entry.file, &entry.stat)
            .map_err(|trouble| (entry.path.to_owned(), trouble))?;
    }
    Ok(())
}
