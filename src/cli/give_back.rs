//! `give-back`: makes what was adopted its owner's again.

use super::args::{Cli, GiveBack};
use super::load::{self, with_privilege};
use super::{Done, Failure};
use crate::host::Dirs;
use crate::plan::Ledger;
use crate::plan::lock::{Claim, Deed, Lock};
use crate::storage::adopted::{self, Record};
use std::path::{Path, PathBuf};

pub(super) fn run(cli: &Cli, args: &GiveBack) -> Done {
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let _alone = Claim::alone(&dirs, Deed::GiveBack)?;
    let mut chosen = adopted::records(&dirs)?;
    if !args.paths.is_empty() {
        let wanted: Vec<PathBuf> = args.paths.iter().map(|p| named(p)).collect();
        if let Some(unknown) = wanted.iter().find(|w| !chosen.iter().any(|r| r.path == **w)) {
            let known: Vec<String> = chosen.iter().map(|r| r.path.display().to_string()).collect();
            return Err(Failure::new(
                2,
                match known.is_empty() {
                    true => format!("{}: nothing is adopted", unknown.display()),
                    false => format!("{}: not adopted; what is: {}", unknown.display(), known.join(", ")),
                },
            ));
        }
        chosen.retain(|r| wanted.contains(&r.path));
    }
    if args.moved_to.is_some() && chosen.len() > 1 {
        return Err(Failure::new(2, "--moved-to: name one path that was adopted"));
    }
    if chosen.is_empty() {
        outln!("nothing of `{}` is adopted", loaded.model.app);
        return Ok(0);
    }
    let mut failure = None;
    for record in &chosen {
        let place = args.moved_to.as_deref().map_or_else(|| record.path.clone(), named);
        let done = match args.forget {
            true => forget(record),
            false => one(record, &place),
        };
        match done {
            Ok(()) => not_applied(&dirs, record)?,
            Err(e) => failure = Some(e),
        }
    }
    failure.map_or(Ok(0), Err)
}

/// Gives one tree back, and says so.
pub(super) fn one(record: &Record, place: &Path) -> Result<(), Failure> {
    adopted::give_back(record, place).map_err(Failure::failed)?;
    outln!("gave back {}", place.display());
    Ok(())
}

fn forget(record: &Record) -> Result<(), Failure> {
    if record.path.exists() {
        return Err(Failure::failed(format!(
            "{} is still there: give it back, or delete it first",
            record.path.display()
        )));
    }
    Ok(adopted::forget(record)?)
}

/// If the manifest adopts it once more, all of it is to be made the services' again.
fn not_applied(dirs: &Dirs, record: &Record) -> Result<(), Failure> {
    let lock = Lock::take(dirs)?;
    let app = dirs.app.file_name().unwrap_or_default().to_string_lossy();
    let mut ledger = Ledger::read(dirs, &app)?;
    if ledger.applied.remove(&record.resource).is_some() {
        ledger.write(dirs, &lock)?;
    }
    Ok(())
}

/// A path as it is in a record: whole, and free of links as far as it is there.
fn named(path: &Path) -> PathBuf {
    std::fs::canonicalize(path)
        .or_else(|_| std::path::absolute(path))
        .unwrap_or_else(|_| path.to_owned())
}
