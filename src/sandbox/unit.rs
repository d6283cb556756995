//! Profile → units: the sandbox of each run, and the warm interpreter.

use super::profile::{Limits, Profile};
use super::{Identities, SandboxError};
use crate::bundle::{Bundle, RootEntry};
use crate::compile;
use crate::packages;
use crate::plan::ledger::Ids;
use crate::plan::template::{Entry, Template};
use crate::plan::{Confinement, Identity, Mount, Plan, Role, Unit};
use crate::values::Isolation;
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) use crate::plan::SANDBOX_HOME as HOME;
/// Where a run without one works.
pub(super) const NO_HOME: &str = "/tmp";
/// Of /etc a sandbox sees this and what says its ids: what programs need to be found and linked.
const ETC: [&str; 5] = [
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
];
/// The one id that a user without subordinate ids has, as a sandbox sees it.
const INSIDE: u32 = 1000;
/// Open files of a process.
const NOFILE: u64 = 256;

/// Who runs in it: of the pool's ids, that of this place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Runner {
    /// As files have it, in the namespace of the pool.
    pub uid: u32,
    keeper: Option<u32>,
}

impl Runner {
    pub(super) fn of(ids: Option<&Identities>, place: u32) -> Runner {
        match ids {
            Some(ids) => Runner {
                uid: ids.first + place,
                keeper: Some(ids.keeper),
            },
            None => Runner {
                uid: INSIDE,
                keeper: None,
            },
        }
    }

    /// Without namespaces: whoever this is.
    pub(super) fn in_place() -> Runner {
        Runner {
            uid: rustix::process::geteuid().as_raw(),
            keeper: None,
        }
    }

    /// As the kernel tells of it outside of the sandbox.
    pub(super) fn uid_seen_outside(&self, ids: Option<&Identities>) -> u32 {
        // The one id of a user is 0 of the outer namespace.
        if ids.is_some() { self.uid } else { 0 }
    }

    pub(super) fn identity(&self) -> Identity {
        let ids = |id| Ids { uid: id, gid: id };
        Identity {
            uid: self.uid,
            gid: self.uid,
            groups: Vec::new(),
            peers: Vec::new(),
            keeper: self.keeper.map(ids),
            outside: Ids::default(),
            root_inside: false,
        }
    }
}

/// A template, less what a sandbox has no use for.
pub(super) fn root(mut template: Template) -> Template {
    if template.jail.is_none() {
        template.entries.retain(|entry| match entry {
            Entry::Bind { path, .. } | Entry::Link { path, .. } => {
                !path.starts_with("/etc") || ETC.iter().any(|kept| path == Path::new(kept))
            }
            Entry::Directory { .. } => true,
        });
    }
    template
}

/// The interpreter's variables. One thread each is all that a copy of a process has.
pub(super) fn environment() -> BTreeMap<String, String> {
    [
        ("HOME", NO_HOME),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PYTHONPATH", packages::FOLDER),
        ("OPENBLAS_NUM_THREADS", "1"),
        ("OMP_NUM_THREADS", "1"),
        ("MKL_NUM_THREADS", "1"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()))
    .into()
}

/// What runs Python: `module` of the package that stands in for it in a sandbox, below `packages`.
pub(super) fn python(profile: &Profile, template: Option<&Template>, packages: &Path, module: &str) -> Vec<String> {
    let interpreter = match (&profile.python, template) {
        (Some(path), _) => path.display().to_string(),
        (None, Some(template)) => template.python(),
        (None, None) => "/usr/bin/python3".to_owned(),
    };
    let boot = format!(
        "import sys; sys.path.insert(0, {:?}); from pysecure_sandbox.{module} import main; main()",
        format!("{}/carried", packages.display())
    );
    [interpreter.as_str(), "-I", "-S", "-B", "-c", &boot]
        .map(str::to_owned)
        .into()
}

/// Folders whose content a sandbox has of its own: what lies there on this host cannot be shown at the same place.
const OWN: [&str; 6] = ["/tmp", "/dev", "/proc", "/run", "/sys", "/var/tmp"];

/// Does a sandbox have something of its own at this path?
pub(super) fn is_own(path: &Path) -> bool {
    OWN.iter().any(|own| path.starts_with(own))
}

/// Where folders of modules are shown: at the same place where they can be.
pub(super) fn module_paths(profile: &Profile) -> Vec<PathBuf> {
    if profile.isolation == Isolation::Landlock {
        return profile.paths.clone();
    }
    let place = |(number, path): (usize, &PathBuf)| match is_own(path) {
        true => Path::new("/run/pysecure/packages").join(number.to_string()),
        false => path.clone(),
    };
    profile.paths.iter().enumerate().map(place).collect()
}

fn readable(profile: &Profile, further: &[PathBuf]) -> Vec<Mount> {
    let modules = module_paths(profile);
    let same = profile.readable.iter().chain(further);
    let mut shown: Vec<(PathBuf, &PathBuf)> = modules.into_iter().zip(&profile.paths).collect();
    shown.extend(same.map(|path| (path.clone(), path)));
    shown.sort();
    shown.dedup();
    let seen = |(target, path): (PathBuf, &PathBuf)| {
        Mount::read_only(target.to_string_lossy().into_owned(), path.clone(), path.is_dir())
    };
    shown.into_iter().map(seen).collect()
}

/// Those that lie in what the root shows anyway are left out.
fn beside(template: Option<&Template>, mounts: Vec<Mount>) -> Vec<Mount> {
    let within =
        |mount: &Mount| template.is_some_and(|t| t.binds().any(|(bind, _)| Path::new(&mount.target).starts_with(bind)));
    mounts.into_iter().filter(|mount| !within(mount)).collect()
}

pub(super) fn warm(plan: &Plan, profile: &Profile, ids: Option<&Identities>) -> Result<Bundle, SandboxError> {
    let template = plan.templates.get(&profile.rootfs);
    let uid = ids.map_or(0, |ids| ids.warm);
    let identity = Identity {
        keeper: None,
        ..Runner { uid, keeper: None }.identity()
    };
    let unit = Unit {
        confinement: Confinement::WarmInterpreter,
        environment: environment(),
        mounts: beside(template, readable(profile, &[])),
        ..Unit::new(
            Role::WarmInterpreter,
            "warm",
            identity,
            &profile.rootfs,
            python(profile, template, Path::new(packages::FOLDER), "_warm"),
        )
    };
    Ok(compile::compile(plan, &unit, Path::new("/"))?)
}

/// Where a sandbox lies among those of its pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub number: u32,
    pub runner: Runner,
    /// Has it a cgroup?
    pub cgroup: bool,
}

/// What a sandbox runs.
pub(super) enum Runs<'a> {
    /// A copy of the warm interpreter, which joins.
    Copy,
    /// An interpreter of its own.
    Python,
    Command {
        command: &'a [String],
        environment: &'a BTreeMap<String, String>,
    },
}

/// The bundle of one sandbox. `home`: is a user's directory shown?
pub(super) fn sandbox(
    plan: &Plan,
    profile: &Profile,
    place: Place,
    limits: &Limits,
    runs: &Runs<'_>,
    further: &[PathBuf],
    home: bool,
) -> Result<Bundle, SandboxError> {
    let template = plan.templates.get(&profile.rootfs);
    let mounts = readable(profile, further);
    let mut own = environment();
    let command = match runs {
        Runs::Copy => vec!["true".to_owned()],
        Runs::Python => python(profile, template, Path::new(packages::FOLDER), "_cold"),
        Runs::Command { command, environment } => {
            own.remove("PYTHONPATH");
            own.insert("HOME".to_owned(), (if home { HOME } else { NO_HOME }).to_owned());
            own.extend(environment.iter().map(|(k, v)| (k.clone(), v.clone())));
            command.to_vec()
        }
    };
    let mut unit = Unit {
        confinement: Confinement::Sandbox,
        directory: (if home { HOME } else { NO_HOME }).to_owned(),
        environment: own,
        mounts: beside(template, mounts),
        ..Unit::new(
            Role::Sandbox,
            // Its cgroup is called so as well.
            &format!("sandbox.{}.{}", profile.name, place.number),
            place.runner.identity(),
            &profile.rootfs,
            command,
        )
    };
    if place.cgroup {
        unit.limits.memory = limits.memory;
        // One is PID 1's.
        unit.limits.pids = limits.processes.and_then(|n| u32::try_from(n + 1).ok());
    }
    let mut bundle = compile::compile(plan, &unit, Path::new("/"))?;
    for directory in ["home", HOME.trim_start_matches('/')] {
        let entry = RootEntry::Directory(directory.into());
        if !bundle.root.contains(&entry) {
            bundle.root.push(entry);
        }
    }
    file_systems(&mut bundle, limits);
    let memory = (!matches!(runs, Runs::Copy | Runs::Python))
        .then_some(())
        .and(limits.memory);
    set_rlimits(&mut bundle, limits, memory);
    Ok(bundle)
}

/// What lies in memory is bounded, in bytes and in files.
fn file_systems(bundle: &mut Bundle, limits: &Limits) {
    let mut mounts = bundle.spec.mounts_mut().take().unwrap_or_default();
    for mount in &mut mounts {
        let path = mount.destination().clone();
        if ![Path::new("/tmp"), Path::new("/dev/shm")].contains(&path.as_path()) {
            continue;
        }
        let mut options = mount.options().clone().unwrap_or_default();
        options.retain(|o| !o.starts_with("size="));
        if let Some(bytes) = limits.tmp {
            options.push(format!("size={}k", bytes.div_ceil(1024)));
        }
        if let Some(files) = limits.files {
            // One is the root's.
            options.push(format!("nr_inodes={}", files + 1));
        }
        mount.set_options(Some(options));
    }
    bundle.spec.set_mounts(Some(mounts));
}

/// getrlimit(2): the number, what is held, and what it may be raised to. `memory`: all of the address space.
pub(super) fn rlimits(limits: &Limits, memory: Option<u64>) -> Vec<(u32, u64, u64)> {
    let mut out = vec![(libc::RLIMIT_CORE, 0, 0), (libc::RLIMIT_NOFILE, NOFILE, NOFILE)];
    if let Some(seconds) = limits.cpu {
        // The first is a signal that a program may handle, the second is the end.
        let seconds = seconds.ceil() as u64;
        out.push((libc::RLIMIT_CPU, seconds, seconds + 1));
    }
    let both = |kind, value: Option<u64>| value.map(|value| (kind, value, value));
    out.extend(both(libc::RLIMIT_NPROC, limits.processes));
    out.extend(both(libc::RLIMIT_FSIZE, limits.file_size));
    out.extend(both(libc::RLIMIT_AS, memory));
    out
}

pub(super) fn set_rlimits(bundle: &mut Bundle, limits: &Limits, memory: Option<u64>) {
    let kind = |number: u32| match number {
        libc::RLIMIT_CORE => Some(PosixRlimitType::RlimitCore),
        libc::RLIMIT_NOFILE => Some(PosixRlimitType::RlimitNofile),
        libc::RLIMIT_CPU => Some(PosixRlimitType::RlimitCpu),
        libc::RLIMIT_NPROC => Some(PosixRlimitType::RlimitNproc),
        libc::RLIMIT_FSIZE => Some(PosixRlimitType::RlimitFsize),
        libc::RLIMIT_AS => Some(PosixRlimitType::RlimitAs),
        _ => None,
    };
    let all: Vec<PosixRlimit> = rlimits(limits, memory)
        .into_iter()
        .filter_map(|(number, soft, hard)| {
            let limit = PosixRlimitBuilder::default().typ(kind(number)?).soft(soft).hard(hard);
            limit.build().ok()
        })
        .collect();
    if let Some(process) = bundle.spec.process_mut() {
        process.set_rlimits(Some(all));
    }
}
