//! `jail trace`: a program run as a service, and the recipe that what it opened comes to.

use super::args::Cli;
use super::load::{Loaded, ready};
use super::run::not_twice;
use super::{Done, Failure};
use crate::jail::collect::collect;
use crate::jail::recipe::Recipe;
use crate::launch::Descriptors;
use crate::launch::trace::{Opened, follow};
use crate::oneoff;
use crate::plan::lock::Claim;
use crate::plan::{OneOff, Plan, Unit};
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// What is there in every service, whatever its root.
const EVERYWHERE: [&str; 5] = ["/proc", "/sys", "/dev", "/run", "/tmp"];
const GENERATED: [&str; 7] = [
    "/etc/passwd",
    "/etc/group",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/etc/mtab",
];

/// Privileges are there already.
pub(super) fn run(cli: &Cli, name: &str, command: &[String], output: Option<&Path>) -> Done {
    let loaded = Loaded::read(cli)?.checked()?;
    let dirs = loaded.dirs(cli)?;
    if command.is_empty() {
        not_twice(&dirs, &loaded.model.app, name)?;
    }
    let claim = Claim::join(&dirs)?;
    let plan = ready(&loaded, &dirs, &claim)?;
    let Some(service) = plan.services.iter().find(|s| s.name == name) else {
        return Err(super::error::no_service(name, &plan));
    };
    let mut service = service.one_off(OneOff::Trace);
    if !command.is_empty() {
        service.command = command.to_vec();
    }
    let (opened, code) = traced(&plan, &service)?;
    remember(&plan, &service, &opened)?;
    let text = recipe(&service, &opened)?;
    match output {
        Some(path) => {
            std::fs::write(path, text).map_err(|e| Failure::failed(format!("write {}: {e}", path.display())))?
        }
        None => print!("{}", crate::plain::lines(&text)),
    }
    Ok(code)
}

fn traced(plan: &Plan, service: &Unit) -> Result<(Opened, u8), Failure> {
    let mut once = oneoff::OneOff::prepare(plan, service.clone())?;
    let (stdin, stderr) = (std::io::stdin(), std::io::stderr());
    let running = once.launch(&Descriptors {
        hold: true,
        // Standard output is the recipe's.
        ..Descriptors::of([stdin.as_fd(), stderr.as_fd(), stderr.as_fd()])
    })?;
    once.held(&running)?;
    let opened = follow(&running)?;
    Ok((opened, once.exit_code(&running)?))
}

/// Is it a matter of the root, rather than of what every service has or this one is granted?
fn of_root(service: &Unit, path: &Path) -> bool {
    let granted = service.mounts.iter().any(|m| path.starts_with(&m.target));
    let everywhere = EVERYWHERE.iter().any(|e| path.starts_with(e)) || GENERATED.iter().any(|g| path == Path::new(g));
    path.is_absolute() && !granted && !everywhere && crate::model::path::normal(&path.to_string_lossy()).is_ok()
}

/// A recipe, in which nothing is said twice: what programs need follows from them. Its strings are JSON's, which are
/// TOML's too.
fn recipe(service: &Unit, opened: &Opened) -> Result<String, Failure> {
    let keep = |all: &BTreeSet<PathBuf>| -> Vec<String> {
        let kept = all.iter().filter(|p| of_root(service, p));
        kept.map(|p| p.display().to_string()).collect()
    };
    let binaries: Vec<String> = keep(&opened.programs);
    let named: Vec<String> = keep(&opened.named)
        .into_iter()
        .filter(|p| Path::new(p).exists())
        .collect();
    let links = named
        .iter()
        .filter(|p| std::fs::symlink_metadata(p).is_ok_and(|m| m.is_symlink()));
    let alone = Recipe {
        binaries: binaries.clone(),
        paths: links.cloned().collect(),
        ..Recipe::default()
    };
    let implied = collect("trace", &alone, None).unwrap_or_default();
    let real = |p: &str| std::fs::canonicalize(p).unwrap_or_else(|_| p.into());
    let needed = |p: &&String| alone.paths.contains(p) || !implied.items.contains_key(&real(p));
    let paths: Vec<&String> = named.iter().filter(needed).collect();
    let directories = keep(&opened.directories);
    let list = |key: &str, all: &[&String]| {
        let lines: String = all
            .iter()
            .map(|p| format!("  {},\n", serde_json::Value::from(p.as_str())))
            .collect();
        format!("{key} = [\n{lines}]\n")
    };
    Ok(format!(
        "# What `{}` opened when it was traced. What it opens another time may be more.\n\ndescription = {}\n{}{}{}",
        service.command.join(" ").replace('\n', " "),
        serde_json::Value::from(format!("what {} opened", service.name)),
        list("binaries", &binaries.iter().collect::<Vec<_>>()),
        list("paths", &paths),
        list("directories", &directories.iter().collect::<Vec<_>>()),
    ))
}

/// Adds to what was opened before, for `jail diff`.
fn remember(plan: &Plan, service: &Unit, opened: &Opened) -> Result<(), Failure> {
    let path = plan.dirs.trace(&service.name);
    let mut all = read(&path);
    all.extend(opened.files.iter().cloned());
    if let Some(folder) = path.parent() {
        crate::host::make_private(folder)?;
    }
    let text: String = all.iter().map(|p| format!("{}\n", p.display())).collect();
    std::fs::write(&path, text).map_err(|e| Failure::failed(format!("write {}: {e}", path.display())))
}

fn read(path: &Path) -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

/// What a service has opened, as it was traced.
pub(super) fn opened(cli: &Cli, service: &str) -> Result<BTreeSet<PathBuf>, Failure> {
    let loaded = Loaded::read(cli)?.checked()?;
    let all = read(&loaded.dirs(cli)?.trace(service));
    match all.is_empty() {
        true => Err(Failure::failed(format!(
            "`{service}` was not traced; run `pysecure jail trace {service}` first"
        ))),
        false => Ok(all),
    }
}
