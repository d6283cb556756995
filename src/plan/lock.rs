//! Who works on the data of an app: locks that lie beside it, so that they hold for whoever finds the data, whatever
//! his environment is.
//!
//! They are open file description locks (fcntl(2)): they end with the process that took them, however it ends, can be
//! asked for without being taken, and hold between hosts where the data is on NFS. What a process starts does not hold
//! them on: their descriptors are closed on exec, and by whoever is forked and does not exec. The files stay: one that is
//! deleted while another waits for it locks nobody out.

use super::{Dirs, PlanError, make_private, make_state};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{CWD, Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// Held while ledgers are read, changed and written. One for all apps of a state: ranges are compared across them.
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for another `pysecure` that works on ledgers.
    pub fn take(dirs: &Dirs) -> Result<Lock, PlanError> {
        // No app's name has a dot.
        let (file, path) = open(dirs, ".ledgers")?;
        set(&file, Part::All, libc::F_WRLCK, true).map_err(|e| unlockable(&path, e))?;
        make_private(&dirs.app)?;
        Ok(Lock { _file: file })
    }
}

/// Held while the script of `initialize` runs: the others wait, and find the work done.
pub fn initializing(dirs: &Dirs) -> Result<impl Sized + use<>, PlanError> {
    let (file, path) = open(dirs, &format!("{}.initialize", name(dirs)))?;
    set(&file, Part::All, libc::F_WRLCK, true).map_err(|e| unlockable(&path, e))?;
    Ok(file)
}

/// The right to work on an app's data, for as long as this is kept.
pub struct Claim {
    file: File,
}

/// What a claim is for, as others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    #[serde(rename = "up")]
    Up,
    #[serde(rename = "down --purge")]
    Purge,
    #[serde(rename = "init-resources")]
    Initialize,
    #[serde(rename = "give-back")]
    GiveBack,
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Deed::Up => "up",
            Deed::Purge => "down --purge",
            Deed::Initialize => "init-resources",
            Deed::GiveBack => "give-back",
        })
    }
}

/// Who has an app's data for himself, as he wrote it into the lock's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub deed: Deed,
    pub pid: u32,
    pub host: String,
    /// Where its control socket is, if it is a supervisor that has one.
    pub socket: Option<PathBuf>,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", self.pid)?;
        if self.host != host() {
            write!(f, " of the host {}", self.host)?;
        }
        Ok(())
    }
}

/// Bytes of the lock's file.
#[derive(Clone, Copy)]
enum Part {
    /// Whoever has it decides what becomes of the app: its supervisor, or who deletes or replaces its data.
    Lead = 0,
    /// Shared by all that have processes which use the data; alone, it is free of such.
    Use = 1,
    All,
}

impl Claim {
    /// A supervisor's.
    pub fn supervise(dirs: &Dirs) -> Result<Claim, PlanError> {
        let claim = Claim::lead(dirs, Deed::Up)?;
        claim.take(dirs, Part::Use, libc::F_RDLCK, true)?;
        Ok(claim)
    }

    /// Whose deed leaves no room for another: no service of the app may run.
    pub fn alone(dirs: &Dirs, deed: Deed) -> Result<Claim, PlanError> {
        let claim = Claim::lead(dirs, deed)?;
        if !claim.take(dirs, Part::Use, libc::F_WRLCK, false)? {
            return Err(PlanError::Busy {
                app: name(dirs),
                cause: "a `pysecure run`, `cp` or `jail trace` works on its data; try again when that has ended"
                    .to_owned(),
            });
        }
        Ok(claim)
    }

    /// Whoever starts something beside the supervisor, if there is one. Waits for who has the data for himself.
    pub fn join(dirs: &Dirs) -> Result<Claim, PlanError> {
        let (file, _) = open(dirs, &name(dirs))?;
        let claim = Claim { file };
        if !claim.take(dirs, Part::Use, libc::F_RDLCK, false)? {
            claim.take(dirs, Part::Use, libc::F_RDLCK, true)?;
        }
        Ok(claim)
    }

    fn lead(dirs: &Dirs, deed: Deed) -> Result<Claim, PlanError> {
        let (file, _) = open(dirs, &name(dirs))?;
        let claim = Claim { file };
        if !claim.take(dirs, Part::Lead, libc::F_WRLCK, false)? {
            return Err(busy(dirs, read(&claim.file).as_ref()));
        }
        claim.say(deed, None);
        Ok(claim)
    }

    fn take(&self, dirs: &Dirs, part: Part, kind: i32, wait: bool) -> Result<bool, PlanError> {
        set(&self.file, part, kind, wait).map_err(|e| unlockable(&dirs.locks().join(name(dirs)), e))
    }

    /// Tells others who this is, and where it is to be reached.
    pub fn say(&self, deed: Deed, socket: Option<&Path>) {
        let holder = Holder {
            deed,
            pid: std::process::id(),
            host: host(),
            socket: socket.map(Path::to_owned),
        };
        let mut text = serde_json::to_vec(&holder).unwrap_or_default();
        text.push(b'\n');
        let mut file = &self.file;
        // On a full disk, others learn that it is taken, and not by whom.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(&text));
    }
}

/// Who has an app's data for himself, if anybody does; `Some(None)` if he has not said who he is.
pub fn holder(dirs: &Dirs) -> Result<Option<Option<Holder>>, PlanError> {
    let path = dirs.locks().join(name(dirs));
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file: File = match rustix::fs::openat(CWD, &path, flags, Mode::empty()) {
        Ok(file) => file.into(),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(PlanError::io("open lock", path, errno)),
    };
    let mut asked = span(Part::Lead, libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut asked)).map_err(|e| unlockable(&path, e))?;
    Ok((i32::from(asked.l_type) != libc::F_UNLCK).then(|| read(&file)))
}

/// Why nothing can be done on an app's data now.
pub fn busy(dirs: &Dirs, holder: Option<&Holder>) -> PlanError {
    let app = name(dirs);
    let cause = match holder {
        Some(
            holder @ Holder {
                deed: Deed::Up,
                socket: Some(socket),
                ..
            },
        ) => match socket.exists() || holder.host != host() {
            true => format!("it is up, by {holder}; `pysecure ps` shows it, `pysecure down` ends it"),
            false => format!(
                "it is up, but {} is gone, at which its supervisor, {holder}, was to be reached; `kill {}` ends it as `pysecure \
                 down` does",
                socket.display(),
                holder.pid
            ),
        },
        Some(holder @ Holder { deed: Deed::Up, .. }) => {
            format!(
                "it is up, or being started by another pysecure, {holder}; `pysecure ps` shows it, `pysecure down` ends it"
            )
        }
        Some(holder) => format!(
            "`pysecure {}`, {holder}, works on its data; try again when that has ended",
            holder.deed
        ),
        None => "another pysecure works on its data; try again when that has ended".to_owned(),
    };
    PlanError::Busy { app, cause }
}

fn name(dirs: &Dirs) -> String {
    dirs.app.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn open(dirs: &Dirs, name: &str) -> Result<(File, PathBuf), PlanError> {
    make_state(&dirs.state)?;
    make_private(&dirs.locks())?;
    let path = dirs.locks().join(name);
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, &path, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| PlanError::io("open lock", &path, e))?;
    Ok((file.into(), path))
}

fn read(mut file: &File) -> Option<Holder> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(64 << 10).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn span(part: Part, kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as i16,
        l_whence: libc::SEEK_SET as i16,
        l_start: match part {
            Part::All => 0,
            one => one as i64,
        },
        // 0: to the end, however far that is.
        l_len: i64::from(!matches!(part, Part::All)),
        l_pid: 0,
    }
}

/// Says whether the lock is had; it always is if this `wait`s for it.
fn set(file: &File, part: Part, kind: i32, wait: bool) -> nix::Result<bool> {
    let lock = span(part, kind);
    loop {
        let done = match wait {
            true => fcntl(file, FcntlArg::F_OFD_SETLKW(&lock)),
            false => fcntl(file, FcntlArg::F_OFD_SETLK(&lock)),
        };
        return match done {
            Ok(_) => Ok(true),
            Err(nix::Error::EAGAIN | nix::Error::EACCES) if !wait => Ok(false),
            Err(nix::Error::EINTR) => continue,
            Err(e) => Err(e),
        };
    }
}

fn unlockable(path: &Path, error: nix::Error) -> PlanError {
    PlanError::io(
        "lock",
        path,
        format_args!(
            "{error}; where files cannot be locked, nothing keeps two supervisors from one app's data: use --state-dir to put it on a local file system"
        ),
    )
}
