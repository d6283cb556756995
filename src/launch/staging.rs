//! Resources in a place aside: filled there by the script of `initialize`, and put in place in one step.
//!
//! Paths are followed below directories that are PySecure's own alone, while no service of the app runs; what services
//! have left in them is looked at through no link all the same.

use super::LaunchError;
use super::storage::{self, StorageError};
use crate::plan::{Dirs, Initial, Initializer};
use rustix::fs::{CWD, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

/// As many bytes as a script may have.
const LONGEST_SCRIPT: u64 = 1 << 20;

/// Makes the place aside, empty or with what the resources hold now, all of it the script's, and the script.
pub fn set_out(initializer: &Initializer, from: Option<&Dirs>) -> Result<(), StorageError> {
    let aside = &initializer.dirs.app;
    clear(aside)?;
    crate::plan::make_private(aside)?;
    if let Some(from) = from.map(Dirs::resources).filter(|from| from.exists()) {
        copy_tree(&from, &initializer.dirs.resources(), 0)
            .map_err(|(path, e)| crate::plan::PlanError::io("copy the app's data at", path, e))?;
    }
    storage::make(&initializer.dirs, &initializer.storage, &mut BTreeMap::new())?;
    let shown = initializer.script.display().to_string();
    copy_script(initializer).map_err(|errno| {
        let source = LaunchError::system("copy the script", shown)(errno);
        StorageError::Resource {
            resource: "initialize".into(),
            source,
        }
    })
}

/// Puts the resources in place; `fresh`: nothing is there yet.
pub fn put_in_place(initializer: &Initializer, dirs: &Dirs) -> Result<(), StorageError> {
    let (made, place) = (initializer.dirs.resources(), dirs.resources());
    let moved = match rustix::fs::renameat_with(CWD, &made, CWD, &place, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => rustix::fs::renameat_with(CWD, &made, CWD, &place, RenameFlags::EXCHANGE),
        other => other,
    };
    moved.map_err(|e| crate::plan::PlanError::io("put the app's data in place at", &place, e))?;
    clear(&initializer.dirs.app)
}

/// Removes what a script that failed, or was killed, has left.
pub fn clear(aside: &Path) -> Result<(), StorageError> {
    storage::remove(aside).map_err(|e| crate::plan::PlanError::io("remove", aside, e).into())
}

/// The script is its runner's to read and to run, whatever its mode in the user's folder.
fn copy_script(initializer: &Initializer) -> Result<(), Errno> {
    use std::io::Read;
    let resolve = rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let script = rustix::fs::openat2(CWD, &initializer.script, flags, Mode::empty(), resolve)?;
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut text = Vec::new();
    let mut from = std::fs::File::from(script).take(LONGEST_SCRIPT + 1);
    from.read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST_SCRIPT {
        return Err(Errno::FBIG);
    }
    std::fs::write(&initializer.copy, text).map_err(io)?;
    // Set last, and no secret: the place aside is passed by nobody else.
    std::fs::set_permissions(&initializer.copy, std::fs::Permissions::from_mode(0o555)).map_err(io)
}

/// Makes a resource's folder with what it begins with, as a whole: after a kill it is there or it is not.
pub(super) fn begin_with(initial: &Initial, folder: &Path) -> Copied {
    // No resource's name begins with a dot.
    let aside = folder.with_file_name(".initial");
    let wrong = |e: std::io::Error| (initial.from.clone(), e);
    storage::remove(&aside).map_err(wrong)?;
    match &initial.file {
        None => copy_tree(&initial.from, &aside, 0)?,
        Some(name) => {
            let found = std::fs::symlink_metadata(&initial.from).map_err(wrong)?;
            std::fs::DirBuilder::new().mode(0o711).create(&aside).map_err(wrong)?;
            copy_file(&initial.from, &aside.join(name), &found).map_err(wrong)?;
        }
    }
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o711)).map_err(wrong)?;
    std::fs::rename(&aside, folder).map_err(wrong)
}

type Copied = Result<(), (std::path::PathBuf, std::io::Error)>;

/// Directories, files and links; pipes and sockets are made anew by whoever wants them. Modes stay, owners do not.
fn copy_tree(from: &Path, to: &Path, depth: usize) -> Copied {
    let wrong = |e: std::io::Error| (from.to_owned(), e);
    if depth > 200 {
        return Err(wrong(Errno::NAMETOOLONG.into()));
    }
    std::fs::DirBuilder::new().mode(0o700).create(to).map_err(wrong)?;
    // Held, so that nobody who may write there can put a link in the place of what is gone through.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let held = rustix::fs::open(from, flags, Mode::empty()).map_err(|errno| wrong(errno.into()))?;
    let through = std::path::PathBuf::from(format!("/proc/self/fd/{}", held.as_raw_fd()));
    for entry in std::fs::read_dir(&through).map_err(wrong)? {
        let entry = entry.map_err(wrong)?;
        let (path, target) = (through.join(entry.file_name()), to.join(entry.file_name()));
        let here = |e: std::io::Error| (from.join(entry.file_name()), e);
        let found = std::fs::symlink_metadata(&path).map_err(here)?;
        if found.is_dir() {
            copy_tree(&path, &target, depth + 1).map_err(|(inner, e)| {
                let inside = inner.strip_prefix(&through).map(Path::to_owned);
                (inside.map_or(inner, |inside| from.join(inside)), e)
            })?;
        } else if found.is_symlink() {
            symlink(std::fs::read_link(&path).map_err(here)?, &target).map_err(here)?;
        } else if found.is_file() {
            copy_file(&path, &target, &found).map_err(here)?;
        }
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path, found: &std::fs::Metadata) -> std::io::Result<()> {
    let mut source = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)?;
    let mut target = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(found.mode() & 0o777)
        .open(to)?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        std::io::copy(&mut source, &mut target)?;
    }
    target.set_modified(found.modified()?)
}
