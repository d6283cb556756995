//! `down`: ends an app, and with `--purge` all that it left.

use super::args::{Cli, Down};
use super::load::{Loaded, with_privilege};
use super::{Done, Failure};
use crate::launch::storage::remove;
use crate::plan::Dirs;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::lock;
use rustix::io::Errno;

pub(super) fn run(cli: &Cli, args: &Down) -> Done {
    // Data may belong to subordinate ids, which only the outer namespace's root can delete.
    if args.purge
        && let Some(code) = with_privilege()?
    {
        return Ok(code);
    }
    // A manifest with errors in it still names the app, which is all that is needed.
    let loaded = Loaded::read(cli)?;
    let app = &loaded.model.app;
    if app.is_empty() {
        return Err(Failure::new(
            2,
            "the manifest does not name its app; see `pysecure check`",
        ));
    }
    let dirs = loaded.dirs(cli)?;
    match Client::connect(&dirs, app).and_then(|mut client| client.down(args.timeout.map(super::args::seconds))) {
        Ok(()) => outln!("`{app}` is down"),
        // Or it was, and ended as it was asked.
        Err(ClientError::NotUp { .. }) => {
            clear_away(&dirs, app)?;
            outln!("`{app}` is not up");
        }
        Err(e) => return Err(e.into()),
    }
    if args.purge {
        let _lock = crate::plan::ledger::Lock::take(&dirs)?;
        remove(&dirs.app).map_err(|e| Failure::failed(format!("delete {}: {e}", dirs.app.display())))?;
        outln!("deleted {}", dirs.app.display());
    }
    Ok(0)
}

/// What a supervisor left that was killed; but not from under one that is about to start.
fn clear_away(dirs: &Dirs, app: &str) -> Result<(), Failure> {
    match lock(dirs) {
        Ok(Some(_held)) => {
            crate::launch::cgroup::clear(&dirs.run);
            remove(&dirs.run)?;
            // Only if no other app runs.
            let _ = dirs.run.parent().map(std::fs::remove_dir);
            Ok(())
        }
        Ok(None) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::WOULDBLOCK) => Err(Failure::failed(format!(
            "`{app}` is being started or ended by another pysecure; try again when that is done"
        ))),
        Err(errno) => Err(Failure::failed(format!("lock {}: {errno}", dirs.run.display()))),
    }
}
