//! Resources in a place aside: filled there by the setup script, and put in place in one step.
//!
//! Paths are followed below directories that are PySecure's own alone, while no service of the app runs; what services
//! have left in them is looked at through no link all the same.

use super::StorageError;
use crate::durable;
use crate::host::Dirs;
use crate::launch::LaunchError;
use crate::plan::{Initial, SetupScript};
use crate::walk::{self, Found, Trail, Walk};
use rustix::fs::{CWD, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// As many bytes as a script may have.
const LONGEST_SCRIPT: u64 = 1 << 20;

/// Makes the place aside, empty or with what the resources hold now, all of it the script's, and the script.
pub fn set_out(setup_script: &SetupScript, from: Option<&Dirs>) -> Result<(), StorageError> {
    let aside = &setup_script.dirs.app;
    clear(aside)?;
    let done = fill(setup_script, from);
    if done.is_err() {
        // On a full disk it would be the copy that fills it.
        let _ = clear(aside);
    }
    done
}

fn fill(setup_script: &SetupScript, from: Option<&Dirs>) -> Result<(), StorageError> {
    let aside = &setup_script.dirs.app;
    crate::host::make_private(aside)?;
    if let Some(from) = from.map(Dirs::resources).filter(|from| from.exists()) {
        copy_tree(&from, &setup_script.dirs.resources())
            .map_err(|(path, e)| crate::plan::PlanError::io("copy the app's data at", path, e))?;
    }
    super::make(
        &setup_script.dirs,
        &setup_script.storage,
        &mut BTreeMap::new(),
        &mut Vec::new(),
    )?;
    let shown = setup_script.script.display().to_string();
    copy_script(setup_script).map_err(|errno| {
        let source = LaunchError::system("copy the script", shown)(errno);
        StorageError::Resource {
            resource: "setup".into(),
            source,
        }
    })
}

/// Puts the resources in place; `fresh`: nothing is there yet.
pub fn put_in_place(setup_script: &SetupScript, dirs: &Dirs) -> Result<(), StorageError> {
    let (made, place) = (setup_script.dirs.resources(), dirs.resources());
    let wrong = |e: std::io::Error| crate::plan::PlanError::io("put the app's data in place at", &place, e);
    // It counts as made from then on.
    durable::settle(&made).map_err(wrong)?;
    let moved = match rustix::fs::renameat_with(CWD, &made, CWD, &place, RenameFlags::NOREPLACE) {
        Err(Errno::EXIST) => rustix::fs::renameat_with(CWD, &made, CWD, &place, RenameFlags::EXCHANGE),
        other => other,
    };
    moved.map_err(|errno| wrong(errno.into()))?;
    for folder in [&dirs.app, &setup_script.dirs.app] {
        durable::settle_names(folder).map_err(wrong)?;
    }
    clear(&setup_script.dirs.app)
}

/// Removes what a script that failed, or was killed, has left.
pub fn clear(aside: &Path) -> Result<(), StorageError> {
    crate::walk::remove(aside).map_err(|e| crate::plan::PlanError::io("remove", aside, e).into())
}

/// The script is its runner's to read and to run, whatever its mode in the user's folder.
fn copy_script(setup_script: &SetupScript) -> Result<(), Errno> {
    use std::io::Read;
    let resolve = rustix::fs::ResolveFlags::NO_SYMLINKS | rustix::fs::ResolveFlags::NO_MAGICLINKS;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let script = rustix::fs::openat2(CWD, &setup_script.script, flags, Mode::empty(), resolve)?;
    let io = |e: std::io::Error| Errno::from_io_error(&e).unwrap_or(Errno::IO);
    let mut text = Vec::new();
    let mut from = std::fs::File::from(script).take(LONGEST_SCRIPT + 1);
    from.read_to_end(&mut text).map_err(io)?;
    if text.len() as u64 > LONGEST_SCRIPT {
        return Err(Errno::FBIG);
    }
    std::fs::write(&setup_script.copy, text).map_err(io)?;
    // Set last, and no secret: the place aside is passed by nobody else.
    std::fs::set_permissions(&setup_script.copy, std::fs::Permissions::from_mode(0o555)).map_err(io)
}

/// Where a resource's folder is made; no resource's name begins with a dot.
pub(super) fn initial(resources: &Path) -> PathBuf {
    resources.join(".initial")
}

/// Makes a resource's folder with what it begins with, as a whole: after a kill or a power loss it is there or it is not.
pub(super) fn begin_with(initial: &Initial, aside: &Path, folder: &Path) -> Copied {
    let wrong = |e: std::io::Error| (initial.from.clone(), e);
    crate::walk::remove(aside).map_err(wrong)?;
    let copied = match &initial.file {
        None => copy_tree(&initial.from, aside),
        Some(name) => copy_alone(&initial.from, aside, name).map_err(wrong),
    };
    let placed = copied.and_then(|()| {
        std::fs::set_permissions(aside, std::fs::Permissions::from_mode(0o711))
            .and_then(|()| durable::settle(aside))
            .and_then(|()| durable::rename(aside, folder))
            .map_err(wrong)
    });
    if placed.is_err() {
        let _ = crate::walk::remove(aside);
    }
    placed
}

fn copy_alone(from: &Path, aside: &Path, name: &str) -> std::io::Result<()> {
    std::fs::DirBuilder::new().mode(0o711).create(aside)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let into = rustix::fs::open(aside, flags, Mode::empty())?;
    let source = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(from)?;
    copy_file(source, into.as_fd(), &CString::new(name)?)
}

type Copied = Result<(), (PathBuf, std::io::Error)>;

/// Directories, files and links; pipes and sockets are made anew by whoever wants them. Modes stay, owners do not.
fn copy_tree(from: &Path, to: &Path) -> Copied {
    let wrong = |errno: Errno| (from.to_owned(), errno.into());
    let mut walk = Walk::at(from).map_err(wrong)?.with_ends();
    let mut made = Trail::default();
    let none = |trouble: walk::WalkError| (from.join(trouble.path), trouble.errno.into());
    while let Some(found) = walk.next().map_err(none)? {
        match found {
            Found::End { .. } => drop(made.leave()),
            Found::Entry(entry) => copy_entry(&entry, to, &mut made).map_err(|e| (from.join(entry.path), e))?,
        }
    }
    Ok(())
}

fn copy_entry(entry: &walk::Entry<'_>, to: &Path, made: &mut Trail) -> std::io::Result<()> {
    let private = Mode::from_raw_mode(0o700);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (Some(parent), Some(into)) = (entry.parent, made.last()) else {
        // The top.
        rustix::fs::mkdirat(CWD, to, private)?;
        return Ok(made.enter(entry.name, rustix::fs::open(to, flags, Mode::empty())?)?);
    };
    match entry.kind() {
        FileType::Directory => {
            rustix::fs::mkdirat(into, entry.name, private)?;
            let directory = rustix::fs::openat(into, entry.name, flags, Mode::empty())?;
            made.enter(entry.name, directory)?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(entry.file, c"", Vec::new())?;
            rustix::fs::symlinkat(target, into, entry.name)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let source = rustix::fs::openat(parent, entry.name, flags, Mode::empty())?;
            copy_file(source.into(), into, entry.name)?;
        }
        _ => {}
    }
    Ok(())
}

fn copy_file(mut source: File, into: BorrowedFd<'_>, name: &CStr) -> std::io::Result<()> {
    let found = source.metadata()?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(found.mode() & 0o777);
    let mut target = File::from(rustix::fs::openat(into, name, flags, mode)?);
    crate::host::copy_content(&mut source, &mut target)?;
    target.set_modified(found.modified()?)
}
