//! `jail trace`: a program run as a service, and the recipe that what it opened comes to.

use super::error::AppError;
use super::load::{Listener, Loaded};
use super::ready::ready;
use super::run::{not_twice, service_of};
use crate::host::Dirs;
use crate::jail::collect::collect;
use crate::jail::recipe::Recipe;
use crate::launch::Descriptors;
use crate::launch::trace::{Opened, follow};
use crate::oneoff::{self, OneOffError};
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

/// What came of tracing a program.
pub struct Traced {
    /// The recipe, as TOML.
    pub recipe: String,
    /// The program's exit code.
    pub code: u8,
}

/// Runs a service's program, or another in its place, and follows what it opens. Privileges are there already.
pub fn trace(
    loaded: &Loaded,
    dirs: &Dirs,
    name: &str,
    command: &[String],
    listener: Listener,
) -> Result<Traced, AppError> {
    if command.is_empty() {
        not_twice(dirs, &loaded.model.app, name)?;
    }
    let claim = Claim::join(dirs)?;
    let plan = ready(loaded, dirs, &claim, listener)?;
    let mut service = service_of(&plan, name)?.one_off(OneOff::Trace);
    if !command.is_empty() {
        service.command = command.to_vec();
    }
    let (opened, code) = followed(&plan, &service)?;
    remember(&plan, &service, &opened)?;
    let recipe = recipe(&service, &opened);
    Ok(Traced { recipe, code })
}

fn followed(plan: &Plan, service: &Unit) -> Result<(Opened, u8), OneOffError> {
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
fn recipe(service: &Unit, opened: &Opened) -> String {
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
    format!(
        "# What `{}` opened when it was traced. What it opens another time may be more.\n\ndescription = {}\n{}{}{}",
        service.command.join(" ").replace('\n', " "),
        serde_json::Value::from(format!("what {} opened", service.name)),
        list("binaries", &binaries.iter().collect::<Vec<_>>()),
        list("paths", &paths),
        list("directories", &directories.iter().collect::<Vec<_>>()),
    )
}

/// Adds to what was opened before, for `jail diff`.
fn remember(plan: &Plan, service: &Unit, opened: &Opened) -> Result<(), AppError> {
    let path = plan.dirs.trace(&service.name);
    let mut all = read(&path);
    all.extend(opened.files.iter().cloned());
    if let Some(folder) = path.parent() {
        crate::host::make_private(folder)?;
    }
    let text: String = all.iter().map(|p| format!("{}\n", p.display())).collect();
    std::fs::write(&path, text).map_err(AppError::io("write", path))
}

fn read(path: &Path) -> BTreeSet<PathBuf> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

/// What a service has opened, as it was traced.
pub fn opened(dirs: &Dirs, service: &str) -> Result<BTreeSet<PathBuf>, AppError> {
    let all = read(&dirs.trace(service));
    match all.is_empty() {
        true => Err(AppError::NotTraced {
            service: service.to_owned(),
        }),
        false => Ok(all),
    }
}
