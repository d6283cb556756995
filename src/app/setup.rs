//! The setup script: run when an app's data is made, and again by `pysecure setup`.
//!
//! It runs in a jail of its own, as no service, on resources in a place aside. Only if it ends well do these become
//! the app's data.

use super::error::AppError;
use crate::launch::Descriptors;
use crate::oneoff::{OneOff, OneOffError};
use crate::plan::{Plan, SetupScript};
use crate::storage::staging;
use std::os::fd::AsFd;

/// Is the app's data still to be made?
pub(super) fn due(plan: &Plan) -> bool {
    !plan.dirs.resources().exists()
}

/// Runs the script, on what there is or on nothing, and puts in place what it has made. Jails must be there.
pub(super) fn make(plan: &Plan, setup_script: &SetupScript) -> Result<(), AppError> {
    let unchanged = if plan.dirs.resources().exists() {
        "the app's data is as it was"
    } else {
        "the app has no data yet"
    };
    staging::set_out(setup_script, Some(&plan.dirs))?;
    let ended = run(plan, setup_script, unchanged);
    // What is left is removed before the script runs again, so why it failed is what there is to say.
    if ended.is_err()
        && let Err(left) = staging::clear(&setup_script.dirs.app)
    {
        tracing::warn!("what the setup script has left stays for now: {left}");
    }
    ended?;
    Ok(staging::put_in_place(setup_script, &plan.dirs)?)
}

fn run(plan: &Plan, setup_script: &SetupScript, unchanged: &'static str) -> Result<(), AppError> {
    let null = std::fs::File::open("/dev/null").map_err(AppError::io("open", "/dev/null"))?;
    // What it prints is no part of what the command prints that it runs for.
    let says = std::io::stderr();
    let descriptors = Descriptors::of([null.as_fd(), says.as_fd(), says.as_fd()]);
    let script = setup_script.script.clone();
    match exit_code(plan, setup_script, &descriptors) {
        Ok(0) => Ok(()),
        Ok(code) => Err(AppError::ScriptEnded {
            script,
            code,
            unchanged,
        }),
        Err(source) => Err(AppError::Script {
            script,
            source: source.into(),
            unchanged,
        }),
    }
}

fn exit_code(plan: &Plan, setup_script: &SetupScript, with: &Descriptors<'_>) -> Result<u8, OneOffError> {
    let mut once = OneOff::prepare(plan, setup_script.service.clone())?;
    let running = once.launch(with)?;
    let ended = once.exit_code(&running);
    // Nothing of it may run on when its files become others'.
    let _ = rustix::process::waitpid(Some(running.pid), rustix::process::WaitOptions::empty());
    ended
}
