//! From arguments to a manifest and a plan, as every command that has a manifest needs them.

use super::args::Cli;
use super::error::{Done, Failure, printed, shown};
use super::progress;
use crate::app::{self, Given, Listener, Loaded, TakenOver};
use crate::host::Dirs;
use crate::host::outer;
use crate::plan::Plan;
use crate::plan::lock::Claim;
use crate::python;
use std::path::Path;

/// The manifest that was named, right or wrong.
pub(super) fn read(cli: &Cli) -> Result<Loaded, Failure> {
    let loaded = Loaded::read(given(cli))?;
    eprint!("{}", printed(loaded.text.printed()));
    Ok(loaded)
}

/// The same, if it is right.
pub(super) fn checked(cli: &Cli) -> Result<Loaded, Failure> {
    Ok(read(cli)?.checked()?)
}

/// The same, with its warnings said.
pub(super) fn with_warnings(cli: &Cli) -> Result<Loaded, Failure> {
    let loaded = checked(cli)?;
    eprint!("{}", shown(&loaded.text, &loaded.found));
    Ok(loaded)
}

pub(super) fn given(cli: &Cli) -> Given<'_> {
    Given {
        manifest: cli.manifest(),
        state_dir: cli.state_dir.as_deref(),
    }
}

/// [`app::ready`], telling on standard error what happens meanwhile.
pub(super) fn ready(loaded: &Loaded, dirs: &Dirs, claim: &Claim) -> Result<Plan, Failure> {
    Ok(app::ready(loaded, dirs, claim, listener())?)
}

pub(super) fn listener() -> Listener {
    Listener {
        taken_over: say_taken_over,
        building: progress::building,
    }
}

fn say_taken_over(event: &TakenOver) {
    let why = if event.gone { ", which is gone" } else { "" };
    errln!(
        "note: the data of `{}` was that of {}{why}; from now on it is that of {}",
        event.app,
        event.from.display(),
        event.by.display()
    );
}

/// `read-python`: the sandbox that [`python::read`] waits for.
pub(super) fn read_python(configuration: &Path, owner: u32) -> Done {
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let privilege = outer::expected();
    python::sandbox::run(configuration, owner, &privilege).map_err(Failure::failed)
}

/// Gets privileges if they are needed: `Some` is the exit code of the same command, run where it has them.
pub(super) fn with_privilege() -> Result<Option<u8>, Failure> {
    match outer::privilege() {
        Some(_) => Ok(None),
        None => Ok(Some(outer::enter()?)),
    }
}
