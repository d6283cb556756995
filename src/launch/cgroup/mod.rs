//! Limits of a service as a whole: one cgroup for each service that has any, made when it starts and removed when it
//! is over.
//!
//! `linux.resources` of the spec → files of cgroupfs. A service without limits has no cgroup, and pays nothing.
//! Where the cgroups lie:
//!
//! ```text
//! BASE/pysecure/APP.PID/SERVICE     BASE: what this process may divide; PID: the supervisor's
//! BASE/pysecure/supervisors         version 2: who was in BASE before, which must then be empty
//! ```
//!
//! The service's PID 1 is in its cgroup before it does anything, and has it as the root of its cgroup namespace.
//! What is left of a supervisor that was killed is cleared away by its [`guard`], or else by the next `up` or `down`
//! ([`clear`]), for which the run directory has the paths on record.

mod guard;
mod host;
pub mod scope;
mod values;

pub use host::{Controller, Offer, Place, Refusal};
pub use values::Usage;

use super::LaunchError;
use crate::bundle::{CGROUPS, CPUSET};
use guard::Guard;
use host::{LEAF, TOP};
use oci_spec::runtime::LinuxResources;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The kernel lets go of a cgroup a moment after its last process was seen to end; so it is tried again, so often.
const PATIENCE: u32 = 200;
const MOMENT: Duration = Duration::from_millis(10);

/// A limit that this host does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lack {
    /// The manifest's key.
    pub key: &'static str,
    pub refusal: Refusal,
}

/// What of these limits cannot be held here.
pub fn lacking(offer: &Offer, resources: &LinuxResources) -> Vec<Lack> {
    let mut out: Vec<Lack> = values::needed(resources)
        .into_iter()
        .filter_map(|controller| {
            let refusal = offer.refusal(controller)?.clone();
            Some(Lack {
                key: controller.key(),
                refusal,
            })
        })
        .collect();
    if let Some(refusal) = values::weightless(offer, resources) {
        out.push(Lack {
            key: Controller::Io.key(),
            refusal,
        });
    }
    out
}

/// The cgroups of one app. Dropping it removes them all.
#[derive(Debug)]
pub struct Cgroups {
    /// Of each place, the cgroup that holds the app's services.
    apps: Vec<(Place, PathBuf)>,
    guard: Option<Guard>,
    record: PathBuf,
    offer: Offer,
}

impl Cgroups {
    /// Makes the place for an app's cgroups, and the guard that removes them whatever happens to this process.
    /// `run` is the app's runtime directory.
    pub fn open(app: &str, run: &Path, offer: &Offer) -> Result<Cgroups, LaunchError> {
        let name = format!("{app}.{}", std::process::id());
        let apps: Vec<(Place, PathBuf)> = offer
            .places
            .iter()
            .map(|place| (place.clone(), place.base.join(TOP).join(&name)))
            .collect();
        let record = run.join(RECORD);
        let paths: Vec<PathBuf> = apps.iter().map(|(_, path)| path.clone()).collect();
        write_record(&record, &paths).map_err(wrong("write", &record))?;
        let mut out = Cgroups {
            apps,
            guard: None,
            record,
            offer: offer.clone(),
        };
        if out.apps.is_empty() {
            return Ok(out);
        }
        // Before there is anything to remove.
        out.guard = Some(Guard::start(&paths)?);
        for (place, path) in &out.apps {
            prepare(place, path)?;
        }
        Ok(out)
    }

    /// What of these limits cannot be held.
    pub fn lacking(&self, resources: &LinuxResources) -> Vec<Lack> {
        lacking(&self.offer, resources)
    }

    /// The cgroup of one service, with its limits set. Limits that this host does not hold are left out: whoever
    /// opened this has said so.
    pub(super) fn make(&self, service: &str, resources: &LinuxResources) -> Result<Group, LaunchError> {
        let mut group = Group { parts: Vec::new() };
        for (place, app) in &self.apps {
            let path = app.join(service);
            retry(|| match std::fs::create_dir(&path) {
                // What the service had when it ran before.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    std::fs::remove_dir(&path)?;
                    std::fs::create_dir(&path)
                }
                other => other,
            })
            .map_err(wrong("make the cgroup", &path))?;
            group.parts.push(Part {
                path: path.clone(),
                controllers: place.controllers.clone(),
                unified: place.unified,
            });
            for controller in &place.controllers {
                values::apply(*controller, place.unified, &path, resources)?;
            }
        }
        Ok(group)
    }

    /// Ways into the cgroups of a service that runs.
    pub(super) fn entrances(&self, service: &str) -> Result<Vec<OwnedFd>, LaunchError> {
        let entrance = |(place, app): &(Place, PathBuf)| entrance(&app.join(service), place.unified);
        self.apps.iter().map(entrance).collect()
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        let paths: Vec<PathBuf> = self.apps.iter().map(|(_, path)| path.clone()).collect();
        let left = remove_all(&paths, PATIENCE);
        drop(self.guard.take());
        if left {
            tracing::warn!("cgroups are left behind; the next `up` or `down` removes them");
        } else {
            let _ = std::fs::remove_file(&self.record);
        }
    }
}

/// The cgroup of one service that runs. Dropping it removes it, which wants the service to have ended.
#[derive(Debug)]
pub struct Group {
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    path: PathBuf,
    controllers: Vec<Controller>,
    unified: bool,
}

impl Group {
    /// How often the kernel has killed a process of the service for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        values::oom_kills(&self.parts)
    }

    /// What the service uses now. What no controller counts is `None`.
    pub fn usage(&self) -> Usage {
        values::usage(&self.parts)
    }

    /// How long all of its processes have computed, those that have ended too, where that is counted.
    pub fn computed(&self) -> Option<Duration> {
        values::computed(&self.parts)
    }

    /// What of it a service may see, and where: version 2 as a whole, of version 1 each controller.
    pub(super) fn shown(&self) -> Vec<(PathBuf, PathBuf)> {
        let top = Path::new(CGROUPS);
        if let [
            Part {
                path, unified: true, ..
            },
        ] = &self.parts[..]
        {
            return vec![(path.clone(), top.to_owned())];
        }
        let mut out = Vec::new();
        for part in self.parts.iter().filter(|part| !part.unified) {
            let names = part.controllers.iter().map(|controller| controller.first_name());
            out.extend(names.map(|name| (part.path.clone(), top.join(name))));
        }
        // Of processors there is no cgroup of its own, and Java takes version 1 for none without.
        let cpus = host::own_cpuset().filter(|_| !out.is_empty());
        out.extend(cpus.map(|path| (path, PathBuf::from(CPUSET))));
        out
    }

    /// Takes in a process that was born elsewhere, as this process counts it.
    pub fn admit(&self, pid: i32) -> Result<(), LaunchError> {
        for part in &self.parts {
            let path = part.path.join("cgroup.procs");
            std::fs::write(&path, pid.to_string()).map_err(wrong("put a process into", &path))?;
        }
        Ok(())
    }

    /// For CLONE_INTO_CGROUP, which spares version 2 a migration.
    pub(super) fn birthplace(&self) -> Result<Option<OwnedFd>, LaunchError> {
        let Some(part) = self.parts.iter().find(|part| part.unified) else {
            return Ok(None);
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&part.path, flags, Mode::empty());
        opened
            .map(Some)
            .map_err(LaunchError::system("open the cgroup", part.path.display().to_string()))
    }

    /// For all others: a process of one thread writes `0` to each, and is in. Of version 2 there are none: [`Group::admit`] takes it in.
    pub fn entrances(&self) -> Result<Vec<OwnedFd>, LaunchError> {
        let separate = self.parts.iter().filter(|part| !part.unified);
        separate.map(|part| entrance(&part.path, false)).collect()
    }

    /// Is a process, as this process counts it, in all of it?
    pub fn holds(&self, pid: i32) -> bool {
        let pid = pid.to_string();
        let within = |part: &Part| {
            let all = std::fs::read_to_string(part.path.join("cgroup.procs"));
            all.is_ok_and(|all| all.lines().any(|line| line == pid))
        };
        self.parts.iter().all(within)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for part in &self.parts {
            // If it is still busy, it goes with the app's.
            let _ = std::fs::remove_dir(&part.path);
        }
    }
}

/// Opened by whoever may move processes; the one that writes to it need not be allowed to, cgroups(7). Of version 1 the file for
/// threads: one that moves itself does not wait until nobody on this host is in the middle of a fork, which takes 10 ms and more.
fn entrance(path: &Path, unified: bool) -> Result<OwnedFd, LaunchError> {
    let path = path.join(if unified { "cgroup.procs" } else { "tasks" });
    rustix::fs::open(&path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(LaunchError::system("open", path.display().to_string()))
}

/// Moves the calling process, which has one thread. Nothing but system calls, for it is used between clone3(2) and execve(2).
pub(super) fn enter(entrance: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::io::write(entrance, b"0").map(drop)
}

fn wrong(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LaunchError {
    let path = path.display().to_string();
    move |e| match Errno::from_io_error(&e) {
        Some(errno) => LaunchError::system(operation, path)(errno),
        None => LaunchError::system_text(operation, path, e),
    }
}

/// As long as the kernel, or another pysecure in the same place, is in between.
fn retry<T>(mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    for _ in 0..PATIENCE {
        match attempt() {
            Err(e) if matches!(e.raw_os_error(), Some(libc::EBUSY | libc::ENOENT)) => std::thread::sleep(MOMENT),
            other => return other,
        }
    }
    attempt()
}

/// Makes the app's cgroup, and has the controllers handed down to it.
fn prepare(place: &Place, app: &Path) -> Result<(), LaunchError> {
    let top = place.base.join(TOP);
    retry(|| {
        make(&top)?;
        if place.unified {
            if !place.topmost {
                make(&top.join(LEAF))?;
                move_all(&place.base, &top.join(LEAF))?;
            }
            hand_down(&place.base, &place.controllers)?;
            hand_down(&top, &place.controllers)?;
        }
        make(app)?;
        if place.unified {
            hand_down(app, &place.controllers)?;
        }
        Ok(())
    })
    .map_err(wrong("make the cgroup", app))
}

fn make(path: &Path) -> io::Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

fn hand_down(path: &Path, controllers: &[Controller]) -> io::Result<()> {
    let words: Vec<String> = controllers.iter().map(|c| format!("+{}", c.second_name())).collect();
    std::fs::write(path.join("cgroup.subtree_control"), words.join(" "))
}

fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    for pid in std::fs::read_to_string(from.join("cgroup.procs"))?.lines() {
        match std::fs::write(to.join("cgroup.procs"), pid) {
            // It has ended meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
    Ok(())
}

/// Removes apps' cgroups; says whether something is left.
fn remove_all(apps: &[PathBuf], patience: u32) -> bool {
    for _ in 0..patience {
        let left = apps.iter().filter(|app| remove(app).is_err()).count();
        if left == 0 {
            return false;
        }
        std::thread::sleep(MOMENT);
    }
    apps.iter().any(|app| remove(app).is_err())
}

/// Removes an app's cgroup and those in it, and what holds it if it was the last. That is no error if it is not there.
fn remove(app: &Path) -> io::Result<()> {
    match std::fs::read_dir(app) {
        Ok(entries) => {
            for entry in entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())) {
                gone(std::fs::remove_dir(entry.path()))?;
            }
            gone(std::fs::remove_dir(app))?;
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let Some(top) = app.parent().filter(|top| top.ends_with(TOP)) else {
        return Ok(());
    };
    let Ok(others) = std::fs::read_dir(top) else {
        return Ok(());
    };
    let mut others = others.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    if others.any(|e| e.file_name() != LEAF) {
        return Ok(());
    }
    give_back(top);
    // Another app may have come in between.
    let _ = std::fs::remove_dir(top);
    Ok(())
}

/// Puts the processes back that were moved aside, where the kernel allows it: when no controller is handed down.
fn give_back(top: &Path) {
    let leaf = top.join(LEAF);
    let Some(base) = top.parent().filter(|_| leaf.is_dir()) else {
        return;
    };
    for path in [top, base] {
        let control = path.join("cgroup.subtree_control");
        let words: Vec<String> = host::read(&control)
            .split_whitespace()
            .map(|w| format!("-{w}"))
            .collect();
        let _ = std::fs::write(&control, words.join(" "));
    }
    let _ = move_all(&leaf, base);
    let _ = std::fs::remove_dir(leaf);
}

fn gone(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Where the paths of an app's cgroups are on record, in its runtime directory.
const RECORD: &str = "cgroups";

fn write_record(record: &Path, apps: &[PathBuf]) -> io::Result<()> {
    let mut text = Vec::new();
    for app in apps {
        text.extend(app.as_os_str().as_encoded_bytes());
        text.push(b'\n');
    }
    std::fs::write(record, text)
}

/// Removes what a supervisor left that was killed, its guard with it. The app's lock is to be held.
pub fn clear(run: &Path) {
    let record = run.join(RECORD);
    let Ok(text) = std::fs::read_to_string(&record) else {
        return;
    };
    let apps: Vec<PathBuf> = text.lines().map(PathBuf::from).collect();
    // A record is the owner's own, but nothing is lost by looking twice.
    let ours = |app: &PathBuf| app.is_absolute() && app.parent().is_some_and(|top| top.ends_with(TOP));
    if apps.iter().all(ours) && !remove_all(&apps, PATIENCE) {
        let _ = std::fs::remove_file(record);
    }
}

/// Is it anything that a cgroup is needed for?
pub(super) fn of_spec(spec: &oci_spec::runtime::Spec) -> Option<&LinuxResources> {
    let resources = spec.linux().as_ref()?.resources().as_ref()?;
    (*resources != LinuxResources::default()).then_some(resources)
}
