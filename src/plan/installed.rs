//! Which `pysecure_rpc` a service finds that is not the launcher's own, as far as that can be seen before it starts.
//!
//! Looked at are the folders of its PYTHONPATH and those in which interpreters look: of the environment that its command
//! names, and of its root. A program may look elsewhere; the package itself says what it is, once it runs.

use super::Unit;
use super::template::{Entry, Template};
use crate::model::path::is_below;
use crate::packages::{FOLDER, VERSION};
use std::io::Read;
use std::path::{Path, PathBuf};

/// A sentence for each service that finds a package of another version.
pub(super) fn notes<'a>(services: &[Unit], template: impl Fn(&str) -> Option<&'a Template>) -> Vec<String> {
    let of = |service: &Unit| {
        let (folder, version) = found(service, template(&service.rootfs))?;
        (version != VERSION).then(|| {
            format!(
                "`{}` finds `pysecure_rpc` {version} in {folder}, and this launcher is {VERSION}: install the same version, or \
                 take that one away, and it finds the launcher's own",
                service.name
            )
        })
    };
    let rpc = |s: &&Unit| !s.callers.is_empty() || !s.callees.is_empty();
    services.iter().filter(rpc).filter_map(of).collect()
}

/// The first package that it finds: the folder as the service sees it, and the version.
fn found(service: &Unit, template: Option<&Template>) -> Option<(String, String)> {
    let path = service
        .environment
        .get("PYTHONPATH")
        .map(String::as_str)
        .unwrap_or_default();
    let named = path
        .split(':')
        .filter(|f| !f.is_empty() && *f != FOLDER)
        .map(str::to_owned);
    let own = service
        .command
        .first()
        .and_then(|c| c.strip_suffix("/bin/python").or(c.strip_suffix("/bin/python3")));
    let prefixes = own.into_iter().chain(["/usr/local", "/usr"]);
    let sites = prefixes.flat_map(|prefix| sites(service, template, prefix));
    named.chain(sites).find_map(|folder| {
        let host = on_host(service, template, &format!("{folder}/pysecure_rpc/_version.py"))?;
        Some((folder, version(&host)?))
    })
}

/// The folders of modules that interpreters below this prefix have.
fn sites(service: &Unit, template: Option<&Template>, prefix: &str) -> Vec<String> {
    let lib = format!("{prefix}/lib");
    let entries = on_host(service, template, &lib).and_then(|host| std::fs::read_dir(host).ok());
    let mut versions: Vec<String> = entries
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter(|name| name.starts_with("python3"))
        .collect();
    versions.sort();
    let folders = |version: String| ["dist-packages", "site-packages"].map(|f| format!("{lib}/{version}/{f}"));
    versions.into_iter().flat_map(folders).collect()
}

/// Where on the host it lies what the service sees at this path.
fn on_host(service: &Unit, template: Option<&Template>, path: &str) -> Option<PathBuf> {
    let mount = service.mounts.iter().rev().find(|m| is_below(path, &m.target));
    if let Some(mount) = mount {
        return inside(&mount.target, &mount.source, path);
    }
    template?.entries.iter().find_map(|entry| match entry {
        Entry::Bind { path: at, source, .. } => inside(at.to_str()?, source, path),
        _ => None,
    })
}

fn inside(target: &str, source: &Path, path: &str) -> Option<PathBuf> {
    let rest = Path::new(path).strip_prefix(target).ok()?;
    Some(source.join(rest))
}

/// The version that this file says. It is another's, so no more of it is read than such a line can take, and no link followed.
fn version(file: &Path) -> Option<String> {
    use rustix::fs::{CWD, Mode, OFlags};
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = rustix::fs::openat(CWD, file, flags, Mode::empty()).ok()?;
    let mut text = String::new();
    std::fs::File::from(opened).take(4096).read_to_string(&mut text).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("__version__ = \""))?;
    let version = line.split('"').next()?;
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-".contains(c);
    (version.len() < 40 && version.chars().all(plain)).then(|| version.to_owned())
}
