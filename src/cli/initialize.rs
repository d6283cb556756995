//! The script of `initialize`: run when an app's data is made, and again by `init-resources`.
//!
//! It runs in a jail of its own, as no service, on resources in a place aside. Only if it ends well do these become
//! the app's data.

use super::args::Cli;
use super::load::{Loaded, ready_again, with_privilege};
use super::{Done, Failure};
use crate::launch::Descriptors;
use crate::oneoff::OneOff;
use crate::plan::lock::{Claim, Deed};
use crate::plan::{Initializer, Plan};
use crate::storage::staging;
use crate::supervise::client::{Client, ClientError};
use std::os::fd::AsFd;

/// `init-resources`.
pub(super) fn run(cli: &Cli) -> Done {
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = Loaded::read(cli)?.checked()?;
    let dirs = loaded.dirs(cli)?;
    let app = &loaded.model.app;
    if loaded.model.initialize.is_none() {
        let text = "the manifest names no script; write `initialize = \"SCRIPT\"` in [app]";
        return Err(Failure::new(2, text));
    }
    match Client::connect(&dirs, app) {
        Err(ClientError::NotUp { .. }) => {}
        Ok(_) => {
            let text = format!("`{app}` is up, and its services use its data; `pysecure down` first");
            return Err(Failure::failed(text));
        }
        Err(e) => return Err(e.into()),
    }
    let claim = Claim::alone(&dirs, Deed::Initialize)?;
    let plan = ready_again(&loaded, &dirs, &claim)?;
    for note in &plan.notes {
        errln!("note: {note}");
    }
    outln!("the data of `{app}` is initialized");
    Ok(0)
}

/// Is the app's data still to be made?
pub(super) fn due(plan: &Plan) -> bool {
    !plan.dirs.resources().exists()
}

/// Runs the script, on what there is or on nothing, and puts in place what it has made. Jails must be there.
pub(super) fn make(plan: &Plan, initializer: &Initializer) -> Result<(), Failure> {
    let shown = initializer.script.display();
    let unchanged = if plan.dirs.resources().exists() {
        "the app's data is as it was"
    } else {
        "the app has no data yet"
    };
    staging::set_out(initializer, Some(&plan.dirs))?;
    let ended = script(plan, initializer);
    if !matches!(ended, Ok(0)) {
        staging::clear(&initializer.dirs.app)?;
    }
    match ended {
        Ok(0) => Ok(staging::put_in_place(initializer, &plan.dirs)?),
        Ok(code) => Err(Failure::failed(format!(
            "initialize: {shown} ended with {code}; correct it: {unchanged}"
        ))),
        Err(mut failure) => {
            let tell = |m: &String| format!("initialize: {shown}: {m}; {unchanged}");
            failure.messages = failure.messages.iter().map(tell).collect();
            Err(failure)
        }
    }
}

/// The script's exit code.
fn script(plan: &Plan, initializer: &Initializer) -> Result<u8, Failure> {
    let mut once = OneOff::prepare(plan, initializer.service.clone())?;
    let null = std::fs::File::open("/dev/null")?;
    // What it prints is no part of what the command prints that it runs for.
    let says = std::io::stderr();
    let running = once.launch(&Descriptors::of([null.as_fd(), says.as_fd(), says.as_fd()]))?;
    let ended = once.exit_code(&running);
    // Nothing of it may run on when its files become others'.
    let _ = rustix::process::waitpid(Some(running.pid), rustix::process::WaitOptions::empty());
    Ok(ended?)
}
