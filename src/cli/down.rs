//! `down`: ends an app, and with `--purge` deletes all that it left.

use super::args::{Cli, Down};
use super::load::{self, with_privilege};
use super::{Done, Failure, give_back};
use crate::app::Loaded;
use crate::host::Dirs;
use crate::jail::store::Store;
use crate::plan::Ledger;
use crate::plan::ledger::Whose;
use crate::plan::lock::{Claim, Deed, Lock};
use crate::storage::adopted::{self, Record};
use crate::storage::purge::{self, OURS};
use crate::storage::staging;
use crate::supervise::client::{Client, ClientError};
use crate::walk::remove;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

pub(super) fn run(cli: &Cli, args: &Down) -> Done {
    // Data may belong to subordinate ids, which only the outer namespace's root can delete.
    if args.purge
        && let Some(code) = with_privilege()?
    {
        return Ok(code);
    }
    // A manifest with errors in it still names the app, which is all that is needed.
    let mut loaded = load::read(cli)?;
    loaded.take_over = args.take_over;
    let app = &loaded.model.app;
    if app.is_empty() {
        return Err(Failure::new(
            2,
            "the manifest does not name its app; see `pysecure check`",
        ));
    }
    let dirs = loaded.dirs()?;
    if args.purge {
        may_purge(&loaded, &dirs)?;
        if !asked(app, &Left::of(&dirs)?, args.yes)? {
            return Err(Failure::failed("nothing was deleted, and nothing stopped"));
        }
    }
    match Client::connect(&dirs, app).and_then(|mut client| client.down(args.timeout.map(super::args::seconds))) {
        Ok(()) => outln!("`{app}` is down"),
        // Or it was, and ended as it was asked.
        Err(ClientError::NotUp { .. }) => {
            if dirs.run.exists() || dirs.purging().exists() || dirs.initializing().exists() {
                // What services made in it may belong to subordinate ids, too.
                if let Some(code) = with_privilege()? {
                    return Ok(code);
                }
                clear_away(&dirs)?;
            }
            outln!("`{app}` is not up");
        }
        Err(e) => return Err(e.into()),
    }
    if args.purge {
        delete(app, &dirs)?;
    }
    Ok(0)
}

/// What others left that were killed, a supervisor, a purge, the maker of the first data; but not from under one that is
/// about to start.
fn clear_away(dirs: &Dirs) -> Result<(), Failure> {
    let _claim = Claim::supervise(dirs)?;
    let _one = crate::plan::lock::initializing(dirs)?;
    purge::sweep(dirs)?;
    staging::clear(&dirs.initializing())?;
    crate::launch::cgroup::clear(&dirs.run);
    remove(&dirs.run).map_err(|e| Failure::failed(format!("clear away {}: {e}", dirs.run.display())))?;
    // Only if no other app runs.
    let _ = dirs.run.parent().map(std::fs::remove_dir);
    Ok(())
}

/// Deleting takes more than a name: the data is to be that of this manifest beyond doubt.
fn may_purge(loaded: &Loaded, dirs: &Dirs) -> Result<(), Failure> {
    if loaded.take_over {
        return Ok(());
    }
    match loaded.owned_by(&Ledger::read(dirs, &loaded.model.app)?)? {
        Whose::Gone(from) => Err(Failure::failed(format!(
            "the data of `{}` is that of {}, which is gone, moved, or not mounted; if it is this manifest's, `pysecure down \
             --purge --take-over`",
            loaded.model.app,
            from.display()
        ))),
        _ => Ok(()),
    }
}

/// What an app has left.
struct Left {
    /// What is deleted.
    data: Vec<PathBuf>,
    /// What is given back.
    adopted: Vec<Record>,
}

impl Left {
    fn of(dirs: &Dirs) -> Result<Left, Failure> {
        let mut data = Vec::new();
        for at in below(&dirs.app)? {
            match at.file_name().and_then(|n| n.to_str()) {
                Some("resources" | "writable") => data.extend(below(&at)?),
                Some(name) if OURS.contains(&name) => data.push(at),
                _ => {}
            }
        }
        Ok(Left {
            data,
            adopted: adopted::records(dirs)?,
        })
    }
}

fn below(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let wrong = |e: std::io::Error| Failure::failed(format!("read {}: {e}", folder.display()));
    let mut out = Vec::new();
    match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(e) => return Err(wrong(e)),
        Ok(entries) => {
            for entry in entries {
                out.push(entry.map_err(wrong)?.path());
            }
        }
    }
    out.sort();
    Ok(out)
}

/// Says what is going to be deleted, and asks whoever sits at a terminal.
fn asked(app: &str, left: &Left, yes: bool) -> Result<bool, Failure> {
    if left.data.is_empty() && left.adopted.is_empty() {
        return Ok(true);
    }
    let asks = !yes && std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
    let say = |line: String| match asks {
        true => errln!("{line}"),
        false => outln!("{line}"),
    };
    for path in &left.data {
        let mut sum = Sum::default();
        sum.add(path);
        say(format!("  delete    {} ({sum})", path.display()));
    }
    for record in &left.adopted {
        say(format!(
            "  give back {} (resource `{}`)",
            record.path.display(),
            record.resource
        ));
    }
    if !asks {
        return Ok(true);
    }
    write!(std::io::stderr(), "stop `{app}`, and delete this? [y/N] ")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Files and bytes of a tree.
#[derive(Default)]
struct Sum {
    files: u64,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, path: &Path) {
        crate::walk::any(path, |entry| {
            if entry.kind() != rustix::fs::FileType::Directory {
                self.files += 1;
                self.bytes += u64::try_from(entry.stat.st_size).unwrap_or(0);
            }
            false
        });
    }
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files = if self.files == 1 { "file" } else { "files" };
        write!(f, "{} {files}, {} bytes", self.files, self.bytes)
    }
}

/// Deletes the data first and the ledger last: ids are others' to have only when nothing is left that may be theirs.
fn delete(app: &str, dirs: &Dirs) -> Result<(), Failure> {
    let _alone = Claim::alone(dirs, Deed::Purge)?;
    if !dirs.app.exists() {
        outln!("nothing to delete: `{app}` has no data in {}", dirs.state.display());
        return Ok(());
    }
    let mut kept = Vec::new();
    for record in adopted::records(dirs)? {
        if let Err(failure) = give_back::one(&record, &record.path) {
            kept.extend(failure.messages);
        }
    }
    let wrong = |path: &Path| {
        let path = path.display().to_string();
        move |e| Failure::failed(format!("delete {path}: {e}"))
    };
    purge::purge(dirs)?;
    let _lock = Lock::take(dirs)?;
    if let Ok(ledger) = Ledger::read(dirs, app) {
        Store::new(&dirs.state)
            .remove_private_trees(|uid, gid| ledger.services.values().any(|ids| (ids.uid, ids.gid) == (uid, gid)))?;
    }
    if !kept.is_empty() {
        kept.push(format!(
            "the data of `{app}` is deleted, but not its ledger: as long as files may belong to its ids, they are given to no \
             other app"
        ));
        return Err(Failure::all(1, kept));
    }
    match std::fs::remove_file(dirs.ledger()) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(wrong(&dirs.ledger())(e)),
        _ => {}
    }
    match std::fs::remove_dir(&dirs.app) {
        Ok(()) => outln!("deleted {}", dirs.app.display()),
        Err(e) if e.kind() == std::io::ErrorKind::DirectoryNotEmpty => outln!(
            "deleted what was PySecure's in {}; what is left is not",
            dirs.app.display()
        ),
        Err(e) => return Err(wrong(&dirs.app)(e)),
    }
    Ok(())
}
