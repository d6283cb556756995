//! One service's spec, from the default of `specs/config.json` and what the plan says of the service.

use super::error::CompileError;
use super::tree::Tree;
use super::{accounts, confine, grants, identity, limits, mounts, writable};
use crate::bundle::{
    Bundle, CGROUPS, CGROUPS_ANNOTATION, CPUSET, GRANTS_ANNOTATION, INIT_ANNOTATION, LOWEST_PORT, MEMORY_ANNOTATION,
    app_network,
};
use crate::plan::{Confinement, Identity, Plan, Unit};
use crate::values::Network;
use oci_spec::runtime::{
    Capabilities, Capability, Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Process, Spec,
};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

struct Defaults {
    spec: Spec,
    seccomp: LinuxSeccomp,
}

/// Parsed once a process: `up` of a thousand services compiles a thousand times.
fn defaults() -> Result<&'static Defaults, CompileError> {
    static DEFAULTS: OnceLock<Result<Defaults, String>> = OnceLock::new();
    DEFAULTS
        .get_or_init(|| {
            let spec = serde_json::from_str(include_str!("../../specs/config.json")).map_err(|e| e.to_string())?;
            let seccomp = serde_json::from_str(include_str!("../../specs/seccomp.json")).map_err(|e| e.to_string())?;
            Ok(Defaults { spec, seccomp })
        })
        .as_ref()
        .map_err(|e| CompileError::Default(e.clone()))
}

/// The calls that a process may make which only passes on what others say.
pub fn seccomp() -> Result<&'static LinuxSeccomp, CompileError> {
    Ok(&defaults()?.seccomp)
}

/// Compiles one service. `folder` is where its bundle will lie: an overlay names its layers by their path.
pub fn compile(plan: &Plan, service: &Unit, folder: &Path) -> Result<Bundle, CompileError> {
    let mut bundle = effects(plan, service, folder)?;
    let annotations = bundle.spec.annotations_mut().get_or_insert_default();
    annotations.insert(GRANTS_ANNOTATION.to_owned(), grants::annotation(service));
    Ok(bundle)
}

/// The same but for the annotation that says because of which rows: what decides about a process, to be compared or tried.
pub fn effects(plan: &Plan, service: &Unit, folder: &Path) -> Result<Bundle, CompileError> {
    let defaults = defaults()?;
    let template = plan
        .templates
        .get(&service.rootfs)
        .ok_or_else(|| CompileError::Template {
            service: service.name.clone(),
            name: service.rootfs.clone(),
        })?;
    let mut spec = defaults.spec.clone();
    let mut root = Tree::new();
    let mut layers = Vec::new();

    let mut made_inside = spec.mounts_mut().take().unwrap_or_default();
    limits::memory_files(&mut made_inside, &service.memory_files);
    for mount in &made_inside {
        root.directory(mount.destination());
    }
    let mut mounts = Vec::new();
    match &service.writable {
        None => mounts::template_mounts(template, &mut root, &mut mounts),
        Some(upper) => writable::tops(template, upper, &mut root, &mut mounts),
    }
    mounts::ours(plan, service, &mut root, &mut mounts);
    mounts::granted(service, template, folder, &mut root, &mut layers, &mut mounts)?;
    etc(service, &mut root);
    if let Some((path, by, kind)) = root.blocked.take() {
        return Err(CompileError::Blocked {
            service: service.name.clone(),
            rootfs: service.rootfs.clone(),
            path: Path::new("/").join(path),
            by: Path::new("/").join(by),
            kind,
        });
    }
    if let Some(upper) = &service.writable {
        let made = writable::Overlays::make(plan, service, upper, folder, &mut root, &mut layers)?;
        mounts.splice(0..0, made.mounts);
        if let Some(memory) = made.memory {
            spec.set_annotations(Some([(MEMORY_ANNOTATION.to_owned(), memory)].into()));
        }
    }

    if shows_cgroups(service) {
        let annotations = spec.annotations_mut().get_or_insert_default();
        annotations.insert(CGROUPS_ANNOTATION.to_owned(), "shown".to_owned());
    }

    if let Some(init) = service.identity.keeper.filter(|_| !service.users.is_empty()) {
        let annotations = spec.annotations_mut().get_or_insert_default();
        annotations.insert(INIT_ANNOTATION.to_owned(), format!("{}:{}", init.uid, init.gid));
    }

    // What belongs to the new namespaces is made in them, after all else was prepared outside: in the order in which the
    // kernel numbers and lists mounts.
    mounts.extend(made_inside);
    *spec.mounts_mut() = Some(mounts);
    spec.set_hostname(Some(service.name.clone()));
    if let Some(process) = spec.process_mut() {
        set_process(process, service);
        limits::replace(process, &service.limits);
    }
    let (uids, gids) = identity::mappings(&service.identity, &service.users);
    identity::check(service, &gids)?;
    let masked = service
        .mounts
        .iter()
        .flat_map(|m| m.masked.iter().map(|inside| format!("{}/{inside}", m.target)));
    if let Some(linux) = spec.linux_mut() {
        let mut paths = linux.masked_paths().clone().unwrap_or_default();
        paths.extend(masked);
        linux.set_masked_paths(Some(paths));
        linux.set_uid_mappings(Some(uids));
        linux.set_gid_mappings(Some(gids));
        let seccomp = super::seccomp::of(plan, service, &defaults.seccomp);
        linux.set_seccomp(Some(seccomp.map_err(|e| CompileError::Default(e.to_string()))?));
        linux.set_resources(limits::resources(&service.limits));
        set_network(linux, service, folder);
    }
    let mut bundle = Bundle {
        spec,
        root: root.entries(),
        layers,
    };
    confine::apply(service.confinement, &mut bundle)?;
    Ok(bundle)
}

fn set_network(linux: &mut Linux, service: &Unit, folder: &Path) {
    let is_network = |n: &LinuxNamespace| n.typ() == LinuxNamespaceType::Network;
    let mut namespaces = linux.namespaces().clone().unwrap_or_default();
    match service.network {
        Network::Host => namespaces.retain(|n| !is_network(n)),
        Network::App => {
            for namespace in namespaces.iter_mut().filter(|n| is_network(n)) {
                namespace.set_path(Some(app_network(folder)));
            }
        }
        Network::None => {
            // A service has no right to ports below 1024, which mean nothing in a namespace that is its own.
            if service.low_ports {
                let all = [(LOWEST_PORT.to_owned(), "0".to_owned())];
                linux.set_sysctl(Some(all.into()));
            }
        }
    }
    linux.set_namespaces(Some(namespaces));
}

fn set_process(process: &mut Process, service: &Unit) {
    let Identity {
        uid,
        gid,
        ref groups,
        root_inside,
        ..
    } = service.identity;
    let mut user = process.user().clone();
    user.set_uid(if root_inside { 0 } else { uid });
    user.set_gid(if root_inside { 0 } else { gid });
    user.set_umask(Some(service.umask));
    user.set_additional_gids((!groups.is_empty()).then(|| groups.iter().map(|g| g.0).collect()));
    process.set_user(user);
    if !service.users.is_empty() {
        let all = || Some(BECOMES_USERS.into_iter().collect::<Capabilities>());
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(all()).set_effective(all()).set_permitted(all());
        sets.set_inheritable(all()).set_ambient(all());
        process.set_capabilities(Some(sets));
    }
    process.set_args(Some(service.command.clone()));
    process.set_cwd(PathBuf::from(&service.directory));
    process.set_env(Some(
        service.environment.iter().map(|(k, v)| format!("{k}={v}")).collect(),
    ));
}

/// What a program has that starts as root and drops to another user: over its own ids and files, for nobody else's are mapped in its
/// namespace (docs/explanation/isolation.md).
const BECOMES_USERS: [Capability; 8] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setgid,
    Capability::Setuid,
    Capability::SysChroot,
];

fn etc(service: &Unit, root: &mut Tree) {
    root.file("/etc/passwd", accounts::passwd(service));
    root.file("/etc/group", accounts::group(service));
    root.file("/etc/hosts", accounts::hosts(service));
    root.file("/etc/hostname", format!("{}\n", service.name));
    root.file("/etc/nsswitch.conf", accounts::NSSWITCH.to_owned());
    root.file("/etc/resolv.conf", service.resolver.clone());
    root.directory(Path::new("/sys"));
    if shows_cgroups(service) {
        cgroups(root);
    }
    root.directory(Path::new("/var"));
    root.link(Path::new("/var/tmp"), Path::new("/tmp"));
    root.link(Path::new("/var/run"), Path::new("/run"));
    root.link(Path::new("/etc/mtab"), Path::new("/proc/mounts"));
}

/// Runtimes take what they find there for what they have: JVMs, Node.js, Go.
fn shows_cgroups(service: &Unit) -> bool {
    service.confinement == Confinement::Service && limits::resources(&service.limits).is_some()
}

/// Places for what the launcher shows of the service's own cgroup: version 2 lies at the top, of version 1 each controller in a
/// folder.
fn cgroups(root: &mut Tree) {
    for controller in ["memory", "cpu", "cpuacct", "pids", "blkio"] {
        root.directory(&Path::new(CGROUPS).join(controller));
    }
    root.file(CPUSET, String::new());
}
