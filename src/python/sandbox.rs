//! The sandbox of a configuration in Python: like a service's, but it sees the file's folder besides, can write
//! nowhere, and may make no other process.
//!
//! It is drawn up as a plan of one service and goes through compile and launch as any does: own namespaces, no
//! capability, the system calls of services. What comes on top is taken from it here.

use super::PythonError;
use crate::bundle::{Bundle, RootEntry};
use crate::compile;
use crate::host::{Dirs, Privilege};
use crate::launch::{LaunchError, Launcher, Report, Request};
use crate::model::{Life, Limits, Logs};
use crate::plan::template::{Entry, Library, Template};
use crate::plan::{Identity, Mount, Plan, PlanError, Unit};
use crate::values::Network;
use oci_spec::runtime::{
    LinuxIdMapping, LinuxIdMappingBuilder, LinuxSyscall, Mount as SpecMount, PosixRlimit, PosixRlimitBuilder,
    PosixRlimitType,
};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// How this program is told to be the sandbox's launcher; standard input is the configuration.
pub const COMMAND: &str = "read-python";

const BOOT: &str = include_str!("boot.py");
const MEMORY: u64 = 512 << 20;
/// Who it is inside, where no other id exists.
const INSIDE: u32 = 1000;
/// Whatever makes a process or a thread, so that what one may use is all that it can use.
const MAKES_PROCESSES: [&str; 4] = ["fork", "vfork", "clone", "clone3"];

#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(transparent)]
    Python(#[from] PythonError),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Compile(#[from] compile::CompileError),
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error("{0}")]
    Place(String),
    /// What would keep the configuration in is not there, so it does not run.
    #[error("the sandbox of a configuration is drawn up without {0}")]
    Unprotected(&'static str),
}

/// Runs the configuration in the sandbox; its exit code. `file` is where it lies, free of links, and `owner` whose it is.
pub fn run(file: &Path, owner: u32, privilege: &Privilege) -> Result<u8, SandboxError> {
    let wrong = |operation: &'static str| {
        let path = file.to_owned();
        move |cause: std::io::Error| PythonError::Io { path, operation, cause }
    };
    let folder = file.parent().unwrap_or(Path::new("/"));
    let (Some(shown), Some(path)) = (folder.to_str(), file.to_str().map(str::to_owned)) else {
        return Err(SandboxError::Place(format!(
            "{}: its path is not UTF-8; rename it",
            file.display()
        )));
    };
    if shown == "/" {
        return Err(SandboxError::Place(format!(
            "{}: a configuration sees its folder, which here would be all of this host; put it into a folder of its own",
            file.display()
        )));
    }
    let ids = match privilege {
        Privilege::Root => Some(ids(owner)?),
        _ => None,
    };
    let mut template = Library::new(Path::new("/usr/share/pysecure/none"), Path::new("/")).load("host")?;
    // Python needs no more of it, and of /etc/ssl some is for root's eyes and a group's.
    template.entries.retain(|entry| match entry {
        Entry::Bind { path, .. } | Entry::Link { path, .. } => {
            !path.starts_with("/etc")
                || ["/etc/ld.so.cache", "/etc/localtime"]
                    .iter()
                    .any(|p| path == Path::new(p))
        }
        Entry::Directory { .. } => true,
    });
    let python = interpreter(&template);
    let packages = packages(folder);
    let around = folder.metadata().map_err(wrong("look at its folder"))?;
    let passes = ids.is_none_or(|(uid, _)| uid == around.uid() || around.mode() & 0o001 != 0);
    let directory = if passes { shown } else { "/" };
    let mut service = service(vec![python, "-c".into(), BOOT.into(), path], directory);
    let search: Vec<&str> = packages.iter().filter_map(|p| p.to_str()).collect();
    if !search.is_empty() {
        service.environment.insert("PYTHONPATH".into(), search.join(":"));
    }
    service.mounts.push(seen(folder));
    for package in packages.iter().filter(|p| !p.starts_with(folder)) {
        // One that lies around the folder would hide it.
        let place = if folder.starts_with(package) {
            0
        } else {
            service.mounts.len()
        };
        service.mounts.insert(place, seen(package));
    }
    service
        .mounts
        .retain(|m| !template.binds().any(|(bind, _)| Path::new(&m.target).starts_with(bind)));
    let plan = plan(template, privilege);
    let mut bundle = compile::compile(&plan, &service, Path::new("/"))?;
    narrow(&mut bundle, ids)?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let mut launcher = Launcher::new()?;
    let running = launcher.start(&Request {
        spec: &bundle.spec,
        root: &bundle.root,
        stdio: [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
        sockets: &[],
        terminal: false,
        network: None,
        hold: false,
    })?;
    loop {
        match running
            .report()
            .map_err(|e| LaunchError::system("hear from", "the sandbox")(e))?
        {
            Report::Exited(status) => return Ok(crate::supervise::exit_code(status)),
            Report::Failed(error) => return Err(error.into()),
            Report::End => return Err(LaunchError::Vanished.into()),
            _ => {}
        }
    }
}

/// The Python that services would find, too.
fn interpreter(template: &Template) -> String {
    let shown = |path: &Path| template.binds().any(|(bind, _)| path.starts_with(bind));
    ["/usr/local/bin/python3", "/usr/bin/python3"]
        .into_iter()
        .find(|path| Path::new(path).canonicalize().is_ok_and(|real| shown(&real)))
        .unwrap_or("/usr/bin/python3")
        .to_owned()
}

/// Folders in which Python is to look for modules besides its own: those that the user's Python looks in, that of the
/// environment which this program was installed into, and `lib` beside the file.
fn packages(folder: &Path) -> Vec<PathBuf> {
    let mut wanted: Vec<PathBuf> = Vec::new();
    if let Some(path) = std::env::var_os("PYTHONPATH") {
        wanted.extend(std::env::split_paths(&path).filter(|p| p.is_absolute()));
    }
    let own = std::fs::read_link("/proc/self/exe").ok();
    let prefixes = [
        std::env::var_os("VIRTUAL_ENV").map(PathBuf::from),
        own.and_then(|exe| Some(exe.parent()?.parent()?.to_owned())),
    ];
    for prefix in prefixes.into_iter().flatten() {
        let versions = std::fs::read_dir(prefix.join("lib")).into_iter().flatten().flatten();
        wanted.extend(
            versions
                .map(|entry| entry.path().join("site-packages"))
                .filter(|site| site.join("pysecure").is_dir()),
        );
    }
    // Of the folder itself: a link would show what lies elsewhere to whoever made it.
    let beside = folder.join("lib");
    if beside.canonicalize().is_ok_and(|real| real == beside) && beside.join("pysecure").is_dir() {
        wanted.push(beside);
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for path in wanted.iter().filter_map(|p| p.canonicalize().ok()) {
        let fit = path.is_dir() && path != Path::new("/");
        if fit && !found.contains(&path) && !path.to_string_lossy().contains(':') {
            found.push(path);
        }
    }
    found
}

fn seen(folder: &Path) -> Mount {
    Mount {
        target: folder.to_string_lossy().into_owned(),
        source: folder.to_owned(),
        directory: true,
        foreign: false,
        writable: false,
        executable: true,
        idmap: None,
        missing: Vec::new(),
        hidden: Vec::new(),
        exclude: Default::default(),
        masked: Vec::new(),
        grant: None,
    }
}

fn service(command: Vec<String>, directory: &str) -> Unit {
    let environment = [
        ("HOME", "/"),
        ("LANG", "C.UTF-8"),
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONHASHSEED", "0"),
    ];
    Unit {
        name: "configuration".into(),
        identity: Identity {
            uid: INSIDE,
            gid: INSIDE,
            groups: Vec::new(),
            peers: Vec::new(),
            keeper: None,
            root_inside: false,
        },
        command,
        directory: directory.to_owned(),
        environment: environment.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        umask: crate::plan::private(),
        rootfs: "host".into(),
        writable: None,
        mounts: Vec::new(),
        network: Network::None,
        publish: Vec::new(),
        egress: false,
        resolver: String::new(),
        listen: Vec::new(),
        callers: Vec::new(),
        dynamic_uid: None,
        callees: Vec::new(),
        life: Life::default(),
        limits: Limits::default(),
        logs: Logs::default(),
    }
}

fn plan(template: Template, privilege: &Privilege) -> Plan {
    // Nothing of it is kept, so no place is needed.
    let nowhere = || PathBuf::from("/");
    Plan {
        app: "configuration".into(),
        privilege: privilege.clone(),
        dirs: Dirs {
            state: nowhere(),
            app: nowhere(),
            run: nowhere(),
            dynamic: nowhere(),
        },
        storage: Vec::new(),
        services: Vec::new(),
        templates: [("host".to_owned(), template)].into(),
        initializer: None,
        places: Vec::new(),
        notes: Vec::new(),
    }
}

/// Who a configuration is on the host, if root reads it: whoever wrote it, so that it reads what he lets himself read,
/// with his own group and no other; nobody at all for a file of root's.
fn ids(owner: u32) -> Result<(u32, u32), SandboxError> {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let lacks = || SandboxError::Unprotected("an id to run as that is not root's");
    let nobody = nobodys(&read("/proc/self/uid_map")).ok_or_else(lacks)?;
    let no_group = nobodys(&read("/proc/self/gid_map")).ok_or_else(lacks)?;
    let uid = if [0, OVERFLOW].contains(&owner) { nobody } else { owner };
    let accounts = read("/etc/passwd");
    let of_owner = |line: &str| {
        let mut numbers = line.split(':').skip(2).map(str::parse::<u32>);
        let (of, gid) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        (of == uid && ![0, OVERFLOW].contains(&gid)).then_some(gid)
    };
    Ok((uid, accounts.lines().find_map(of_owner).unwrap_or(no_group)))
}

/// Whose is what is nobody's here, and processes of the host's have it too.
const OVERFLOW: u32 = 65_534;

/// An id of which no account, no file and no process is: systemd's list of ids (UIDS-GIDS.md) has no use for the first,
/// and the second is the last that a small user namespace has. `map` is a uid_map; user_namespaces(7).
fn nobodys(map: &str) -> Option<u32> {
    let mapped = |id: u32| {
        map.lines().any(|line| {
            let mut fields = line.split_whitespace().map(str::parse::<u32>);
            let (first, count) = (fields.next().and_then(Result::ok), fields.nth(1).and_then(Result::ok));
            first
                .zip(count)
                .is_some_and(|(first, count)| id.checked_sub(first).is_some_and(|n| n < count))
        })
    };
    [2_147_483_001, 65_533].into_iter().find(|id| mapped(*id))
}

/// Takes from the spec what a service has and a configuration has not. `ids`: who it is to be, if not as compiled.
fn narrow(bundle: &mut Bundle, ids: Option<(u32, u32)>) -> Result<(), SandboxError> {
    let lacks = SandboxError::Unprotected;
    let spec = &mut bundle.spec;
    // Nowhere to write: neither /tmp nor /dev.
    let writable = |m: &SpecMount| matches!(m.typ().as_deref(), Some("tmpfs" | "devpts"));
    let mut mounts = spec.mounts_mut().take().unwrap_or_default();
    mounts.retain(|m| !writable(m));
    for device in ["null", "urandom"] {
        let path = Path::new("/dev").join(device);
        let mut mount = SpecMount::default();
        mount.set_destination(path.clone());
        mount.set_typ(Some("bind".into()));
        mount.set_source(Some(path.clone()));
        mount.set_options(Some(["bind", "ro", "nosuid", "noexec"].map(str::to_owned).into()));
        bundle
            .root
            .push(RootEntry::File(Path::new("dev").join(device), String::new()));
        mounts.push(mount);
    }
    *spec.mounts_mut() = Some(mounts);
    let process = spec.process_mut().as_mut().ok_or(lacks("limits"))?;
    process.set_rlimits(Some(limits()));
    let linux = spec.linux_mut().as_mut().ok_or(lacks("namespaces"))?;
    if let Some((uid, gid)) = ids {
        let to = |host: u32, mapping: &Option<Vec<LinuxIdMapping>>| {
            let line = |l: &LinuxIdMapping| {
                let own = LinuxIdMappingBuilder::default().container_id(l.container_id());
                own.host_id(host).size(1u32).build().ok()
            };
            Some(mapping.iter().flatten().filter_map(line).collect())
        };
        let (uids, gids) = (to(uid, linux.uid_mappings()), to(gid, linux.gid_mappings()));
        linux.set_uid_mappings(uids);
        linux.set_gid_mappings(gids);
    }
    let mut seccomp = linux.seccomp().clone().ok_or(lacks("a filter of system calls"))?;
    let without = |mut rule: LinuxSyscall| {
        let names = rule.names().iter().filter(|n| !MAKES_PROCESSES.contains(&n.as_str()));
        let names: Vec<String> = names.cloned().collect();
        rule.set_names(names.clone());
        (!names.is_empty()).then_some(rule)
    };
    let rules = seccomp.syscalls().clone().unwrap_or_default();
    // What no rule allows is refused.
    seccomp.set_syscalls(Some(rules.into_iter().filter_map(without).collect()));
    linux.set_seccomp(Some(seccomp));
    Ok(())
}

fn limits() -> Vec<PosixRlimit> {
    [
        (PosixRlimitType::RlimitCore, 0),
        (PosixRlimitType::RlimitNofile, 64),
        (PosixRlimitType::RlimitAs, MEMORY),
        // Memory that has the form of a file is none of its address space.
        (PosixRlimitType::RlimitFsize, 0),
        (PosixRlimitType::RlimitCpu, 2 * super::PATIENCE.as_secs()),
    ]
    .into_iter()
    .filter_map(|(kind, most)| {
        PosixRlimitBuilder::default()
            .typ(kind)
            .soft(most)
            .hard(most)
            .build()
            .ok()
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_an_id_that_exists_and_is_nobodys() {
        let map = |text| nobodys(text);
        assert_eq!(map("         0          0 4294967295\n"), Some(2_147_483_001));
        assert_eq!(map("0 1000 1\n1 100000 65536\n"), Some(65_533));
        assert_eq!(map("0 1000 1\n"), None);
        assert_eq!(map(""), None);
    }

    #[test]
    fn a_configuration_is_never_root() {
        for owner in [0, OVERFLOW] {
            let (uid, gid) = ids(owner).unwrap();
            assert!(![0, OVERFLOW].contains(&uid) && ![0, OVERFLOW].contains(&gid));
        }
        assert_eq!(ids(4_242).unwrap().0, 4_242);
    }
}
