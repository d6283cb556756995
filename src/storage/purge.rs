//! What `down --purge` deletes, and that a deletion which was killed is brought to its end.
//!
//! The data goes under another name first, in one step: from then on it counts as gone, whatever is left of it. The next
//! command that works on the app's data deletes the rest, before anything else.

use crate::durable;
use crate::host::Dirs;
use crate::plan::PlanError;
use crate::walk::remove;

/// What PySecure puts into an app's folder, but for what is last to go. Nothing else in it is deleted.
pub const OURS: [&str; 9] = [
    "resources",
    "writable",
    "initializing",
    "initializing.lock",
    "logs",
    "supervisor.log",
    "traces",
    "ledger.json.new",
    "purging",
];

/// Deletes all that is PySecure's of an app's data, but the ledger and the records of what was adopted.
pub fn purge(dirs: &Dirs) -> Result<(), PlanError> {
    let (from, aside) = (dirs.resources(), dirs.purging());
    let wrong = |e| PlanError::io("delete", &from, e);
    if !aside.exists() {
        // A name, which takes no room on a disk that is full.
        match durable::rename(&from, &aside) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => crate::host::make_private(&aside)?,
            other => other.map_err(wrong)?,
        }
    }
    finish(dirs)
}

/// Deletes what a purge has left that was killed. Says whether there was one.
pub fn sweep(dirs: &Dirs) -> Result<bool, PlanError> {
    let left = dirs.purging().exists();
    if left {
        finish(dirs)?;
    }
    Ok(left)
}

fn finish(dirs: &Dirs) -> Result<(), PlanError> {
    // The last one says that the others are to go.
    for name in OURS {
        let path = dirs.app.join(name);
        if path == dirs.purging() {
            durable::settle_names(&dirs.app).map_err(|e| PlanError::io("delete what is in", &dirs.app, e))?;
        }
        remove(&path).map_err(|e| PlanError::io("delete", &path, e))?;
    }
    Ok(())
}
