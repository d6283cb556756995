//! Who works on the data of an app: locks that lie beside it, so that they hold for whoever finds the data, whatever
//! his environment is.
//!
//! They are open file description locks (fcntl(2)): they end with the process that took them, however it ends, can be
//! asked for without being taken, and hold between hosts where the data is on NFS. What a process starts does not hold
//! them on: their descriptors are closed on exec, and by whoever is forked and does not exec. The files stay: one that is
//! deleted while another waits for it locks nobody out.

use super::PlanError;
use crate::cause::Reason;
use crate::host::{Dirs, make_private, make_state};
use nix::fcntl::{FcntlArg, fcntl};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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

/// Held while the setup script runs: the others wait, and find the work done.
pub fn initializing(dirs: &Dirs) -> Result<impl Sized + use<>, PlanError> {
    let (file, path) = open(dirs, &format!("{}.setup", name(dirs)))?;
    set(&file, Part::All, libc::F_WRLCK, true).map_err(|e| unlockable(&path, e))?;
    Ok(file)
}

/// The right to work on an app's data, for as long as this is kept.
pub struct Claim {
    file: File,
    /// Folders of the user's, if this is a supervisor's: see [`Claim::hold`].
    folders: RefCell<Vec<File>>,
    leads: bool,
}

/// What a claim is for, as others are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Deed {
    #[serde(rename = "up")]
    Up,
    #[serde(rename = "down --purge")]
    Purge,
    #[serde(rename = "setup")]
    Setup,
    #[serde(rename = "give-back")]
    GiveBack,
    #[serde(rename = "data remove")]
    Remove,
}

impl std::fmt::Display for Deed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Deed::Up => "up",
            Deed::Purge => "down --purge",
            Deed::Setup => "setup",
            Deed::GiveBack => "give-back",
            Deed::Remove => "data remove",
        })
    }
}

/// Who has an app's data for himself, as he wrote it into the lock's file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub deed: Deed,
    pub pid: u32,
    /// As [`begun`].
    began: Option<u64>,
    pub host: String,
    /// Where its control socket is, if it is a supervisor that has one.
    pub socket: Option<PathBuf>,
}

impl Holder {
    /// Is it a supervisor whose control socket is not there? One that ends removes it first, and one whose socket was deleted
    /// makes it again.
    fn lacks_socket(&self) -> Option<&Path> {
        let socket = self
            .socket
            .as_deref()
            .filter(|_| self.deed == Deed::Up && self.host == host())?;
        (!socket.exists()).then_some(socket)
    }
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

/// Where in a lock's file the processes of services stand, behind what [`Holder`] says; bytes for each.
const RUNNING: u64 = 16 << 10;
const LINE: usize = 32;
/// Ten milliseconds each, as long as who has a lock does not live any more.
const MOST_TRIES: u32 = 500;
/// The same, as long as it is a supervisor without its socket: either ends soon.
const MOST_TRIES_WITHOUT_SOCKET: u32 = 100;
/// A killed process may take so long to end before whoever waits gives up.
const LONGEST_DEATH: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

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
        let claim = Claim::new(dirs, false)?;
        if !claim.take(dirs, Part::Use, libc::F_RDLCK, false)? {
            claim.take(dirs, Part::Use, libc::F_RDLCK, true)?;
        }
        Ok(claim)
    }

    fn lead(dirs: &Dirs, deed: Deed) -> Result<Claim, PlanError> {
        let claim = Claim::new(dirs, true)?;
        let mut tries = 0;
        while !claim.take(dirs, Part::Lead, libc::F_WRLCK, false)? {
            let holder = read(&claim.file);
            let most = match &holder {
                // What a killed supervisor had just begun to start keeps its lock until it has ended as well.
                None => MOST_TRIES,
                Some(holder) if holder.lacks_socket().is_some() => MOST_TRIES_WITHOUT_SOCKET,
                Some(_) => 0,
            };
            if tries >= most {
                return Err(busy(dirs, holder.as_ref()));
            }
            tries += 1;
            std::thread::sleep(Duration::from_millis(10));
        }
        claim.say(deed, None);
        claim.outlast(dirs)?;
        Ok(claim)
    }

    fn new(dirs: &Dirs, leads: bool) -> Result<Claim, PlanError> {
        Ok(Claim {
            file: open(dirs, &name(dirs))?.0,
            folders: RefCell::default(),
            leads,
        })
    }

    /// The user's folders in which services write: one supervisor works in each, of whatever app, user and state
    /// directory. The lock is a flock(2) of the folder itself, and so there is no file of it.
    pub fn hold<'p>(&self, app: &str, paths: impl Iterator<Item = &'p Path>) -> Result<(), PlanError> {
        if !self.leads {
            return Ok(());
        }
        let mut held = BTreeSet::new();
        for path in paths {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            // What is wrong with it is said by who mounts it.
            let Ok(folder) = rustix::fs::openat(CWD, path, flags, Mode::empty()) else {
                continue;
            };
            let Ok(found) = rustix::fs::fstat(&folder) else {
                continue;
            };
            if !held.insert((found.st_dev, found.st_ino)) {
                continue;
            }
            match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(PlanError::Busy {
                        app: app.to_owned(),
                        cause: format!(
                            "services of another supervisor write in {0}, and data is one app's; `fuser -v {0}` shows its \
                             process: end it by `pysecure down` with its manifest and --state-dir",
                            path.display()
                        ),
                    });
                }
                // There are file systems on which no directory can be locked.
                Err(_) => {}
                Ok(()) => self.folders.borrow_mut().push(folder.into()),
            }
        }
        Ok(())
    }

    /// Puts on record that this process, PID 1 of a service, uses the data. `number`: a small one, the service's.
    ///
    /// The kernel kills it with its supervisor, but that takes as long as it takes, and the supervisor's locks are free by
    /// then.
    pub fn runs(&self, number: u32, pid: i32) {
        let line = format!("{pid} {} ", begun(pid).unwrap_or_default());
        let mut padded = [b' '; LINE];
        padded[LINE - 1] = b'\n';
        let length = line.len().min(LINE - 1);
        padded[..length].copy_from_slice(&line.as_bytes()[..length]);
        // On a full disk it is not known, and most likely nobody will ever ask.
        let _ = self
            .file
            .write_all_at(&padded, RUNNING + u64::from(number) * LINE as u64);
    }

    /// Waits for the end of what a killed supervisor ran.
    fn outlast(&self, dirs: &Dirs) -> Result<(), PlanError> {
        let mut text = Vec::new();
        let mut file = &self.file;
        let read = file
            .seek(std::io::SeekFrom::Start(RUNNING))
            .and_then(|_| file.read_to_end(&mut text));
        if read.is_err() {
            return Ok(());
        }
        for line in text.chunks_exact(LINE) {
            let text = String::from_utf8_lossy(line);
            let mut words = text.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(pid)), Some(Ok(start))) = (words.next(), words.next()) else {
                continue;
            };
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else {
                continue;
            };
            let Ok(process) = rustix::process::pidfd_open(pid, PidfdFlags::empty()) else {
                continue;
            };
            let number = pid.as_raw_nonzero().get();
            if begun(number) != Some(start) {
                continue;
            }
            tracing::debug!(pid = number, "waiting for a service of a killed supervisor");
            let mut ready = [PollFd::new(&process, PollFlags::IN)];
            if matches!(rustix::event::poll(&mut ready, Some(&LONGEST_DEATH)), Ok(0)) {
                return Err(PlanError::Busy {
                    app: name(dirs),
                    cause: format!(
                        "a service of its last supervisor, which was killed, is still ending (process {number}); try again \
                         when it has"
                    ),
                });
            }
        }
        Ok(())
    }

    fn take(&self, dirs: &Dirs, part: Part, kind: i32, wait: bool) -> Result<bool, PlanError> {
        set(&self.file, part, kind, wait).map_err(|e| unlockable(&dirs.locks().join(name(dirs)), e))
    }

    /// Tells others who this is, and where it is to be reached.
    pub fn say(&self, deed: Deed, socket: Option<&Path>) {
        let holder = Holder {
            deed,
            pid: std::process::id(),
            began: begun(std::process::id() as i32),
            host: host(),
            socket: socket.map(Path::to_owned),
        };
        let mut text = serde_json::to_vec(&holder).unwrap_or_default();
        text.push(b'\n');
        // Of what stood there before, all behind the line's end counts for nothing. On a full disk, others learn that it is
        // taken, and not by whom.
        let _ = self.file.write_all_at(&text, 0);
    }
}

/// When a process began, in ticks since the host did: field 22 of proc_pid_stat(5). Not of one that has ended, and that only
/// its parent has not asked for yet.
fn begun(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    match fields.next()? {
        "Z" | "X" => None,
        _ => fields.nth(18)?.parse().ok(),
    }
}

/// Whether a process has been killed, and only has not ended yet: until it has, its locks are held.
fn is_ending(pid: u32) -> bool {
    let text = |file| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    is_exiting(&text("stat")) || has_kill_pending(&text("status"))
}

/// By the flags of proc_pid_stat(5), field 9: PF_EXITING of the kernel's include/linux/sched.h.
fn is_exiting(stat: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    let flags = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_EXITING != 0)
}

/// By the masks of proc_pid_status(5): signals pending for the thread, and for the process.
fn has_kill_pending(status: &str) -> bool {
    const KILL: u64 = 1 << (libc::SIGKILL - 1);
    status
        .lines()
        .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
        .filter_map(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .any(|mask| mask & KILL != 0)
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
    let unreachable = holder.and_then(|holder| Some((holder, holder.lacks_socket()?)));
    if let Some((holder, socket)) = unreachable {
        let cause = format!(
            "it is up, but {} is gone, at which its supervisor, {holder}, was to be reached; `kill {}` ends it as `pysecure down` \
             does",
            socket.display(),
            holder.pid
        );
        return PlanError::Busy { app, cause };
    }
    let cause = match holder {
        Some(holder @ Holder { deed: Deed::Up, .. }) => format!(
            "it is up, or being started by another pysecure, {holder}; `pysecure ps` shows it, `pysecure down` ends it"
        ),
        Some(holder) => format!(
            "`pysecure {}`, {holder}, works on its data; try again when that has ended",
            holder.deed
        ),
        None => "it is being started or ended by another pysecure; try again when that is done".to_owned(),
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
    file.take(RUNNING).read_to_string(&mut text).ok()?;
    let holder: Holder = serde_json::from_str(text.lines().next()?).ok()?;
    // One that was killed has left its words to whoever has the lock now, or has it for as long as its end takes.
    let stale = holder.host == host() && (begun(holder.pid as i32) != holder.began || is_ending(holder.pid));
    (!stale).then_some(holder)
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
        Reason::new(error.to_string())
            .because(error)
            .remedy("where files cannot be locked, nothing keeps two supervisors from one app's data: use --state-dir to put it on a local file system"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dirs(at: &tempfile::TempDir) -> Dirs {
        Dirs::find("locked", true, Some(&at.path().join("state"))).unwrap()
    }

    /// Children that other tests make in this process hold its locks on until they exec.
    fn when_free<T>(take: impl Fn() -> Result<T, PlanError>) -> T {
        loop {
            match take() {
                Ok(taken) => return taken,
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    #[test]
    fn one_leads_and_many_join() {
        let at = tempfile::tempdir().unwrap();
        let dirs = dirs(&at);
        assert_eq!(holder(&dirs).unwrap(), None);
        let up = Claim::supervise(&dirs).unwrap();
        up.say(Deed::Up, Some(Path::new("/run/x/control.sock")));
        let told = holder(&dirs).unwrap().unwrap().unwrap();
        assert_eq!((told.deed, told.pid), (Deed::Up, std::process::id()));
        for other in [Claim::supervise(&dirs), Claim::alone(&dirs, Deed::Purge)] {
            let error = other.err().unwrap().to_string();
            assert!(
                error.contains("it is up") && error.contains(&format!("kill {}", told.pid)),
                "{error}"
            );
        }
        let beside = Claim::join(&dirs).unwrap();
        drop(up);
        drop(when_free(|| Claim::supervise(&dirs)));
        assert!(Claim::alone(&dirs, Deed::Purge).is_err(), "something runs on the data");
        drop(when_free(|| Claim::supervise(&dirs)));
        drop(beside);
        drop(when_free(|| Claim::alone(&dirs, Deed::Purge)));
        while holder(&dirs).unwrap().is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A process that was killed holds its locks until its files are closed, which comes after its memory is gone.
    #[test]
    fn a_killed_supervisor_that_has_not_ended_yet_is_waited_for() {
        let at = tempfile::tempdir().unwrap();
        let dirs = dirs(&at);
        drop(Claim::supervise(&dirs).unwrap());
        // Much memory, given back page by page, makes a long end of it.
        let script = "import fcntl, mmap, os, struct, sys\n\
                      file = os.open(sys.argv[1], os.O_RDWR)\n\
                      fcntl.fcntl(file, fcntl.F_OFD_SETLK, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 1, 0))\n\
                      memory = mmap.mmap(-1, 256 << 20)\n\
                      memory.madvise(mmap.MADV_NOHUGEPAGE)\n\
                      memory.write(bytes(256 << 20))\n\
                      print('ready', flush=True)\n\
                      sys.stdin.read()\n";
        let mut process = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(dirs.locks().join("locked"))
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut told = [0; 6];
        process.stdout.as_mut().unwrap().read_exact(&mut told).unwrap();
        assert_eq!(&told, b"ready\n");
        let holder = Holder {
            deed: Deed::Up,
            pid: process.id(),
            began: begun(i32::try_from(process.id()).unwrap()),
            host: host(),
            socket: None,
        };
        let mut text = serde_json::to_vec(&holder).unwrap();
        text.push(b'\n');
        std::fs::write(dirs.locks().join("locked"), &text).unwrap();
        let error = Claim::supervise(&dirs).err().unwrap().to_string();
        assert!(error.contains(&format!("process {}", process.id())), "{error}");
        process.kill().unwrap();
        // It waits here, and does not fail.
        Claim::supervise(&dirs).unwrap();
        process.wait().unwrap();
    }

    /// Its sockets are gone before its locks are free.
    #[test]
    fn a_supervisor_that_goes_down_is_waited_for() {
        let at = tempfile::tempdir().unwrap();
        let dirs = dirs(&at);
        let up = Claim::supervise(&dirs).unwrap();
        up.say(Deed::Up, Some(&at.path().join("control.sock")));
        std::thread::scope(|scope| {
            let other = scope.spawn(|| Claim::supervise(&dirs).is_ok());
            // As long as a slow one takes for the rest.
            std::thread::sleep(Duration::from_millis(100));
            drop(up);
            assert!(other.join().unwrap());
        });
    }

    #[test]
    fn what_is_ending_is_seen_by_the_kernels_own_account() {
        let stat = |flags: u64| format!("7 (a) b) S 1 7 7 0 -1 {flags} 0 0");
        for (stat, exiting) in [
            (stat(0x0040_0100), false),
            (stat(0x0040_0104), true),
            (String::new(), false),
            ("7 (sh) S 1".to_owned(), false),
        ] {
            assert_eq!(is_exiting(&stat), exiting, "{stat}");
        }
        let status = |own: &str, all: &str| {
            format!("Name:\tSigPnd: 100\nSigPnd:\t{own}\nShdPnd:\t{all}\nSigBlk:\t0000000000000100\n")
        };
        let (none, kill, term) = ("0000000000000000", "0000000000000100", "0000000000004000");
        for (status, killed) in [
            (status(none, none), false),
            (status(term, term), false),
            (status(kill, none), true),
            (status(none, kill), true),
            (String::new(), false),
        ] {
            assert_eq!(has_kill_pending(&status), killed, "{status}");
        }
    }

    #[test]
    fn what_a_killed_supervisor_ran_is_outlasted() {
        let at = tempfile::tempdir().unwrap();
        let dirs = dirs(&at);
        let up = when_free(|| Claim::supervise(&dirs));
        let mut service = std::process::Command::new("sleep").arg("0.5").spawn().unwrap();
        let pid = i32::try_from(service.id()).unwrap();
        up.runs(7, pid);
        // As if it was another process, which has its number now: nobody waits for that.
        up.runs(9, i32::try_from(std::process::id()).unwrap());
        let own = begun(i32::try_from(std::process::id()).unwrap()).unwrap();
        up.file
            .write_all_at(
                format!("{} {:<12}", std::process::id(), own - 1).as_bytes(),
                RUNNING + 9 * LINE as u64,
            )
            .unwrap();
        drop(up);
        let again = when_free(|| Claim::supervise(&dirs));
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert!(stat.contains(") Z "), "{stat}");
        service.wait().unwrap();
        drop(again);
        when_free(|| Claim::supervise(&dirs));
    }
}
