//! The supervisor of an app that is not up: this process, or one that it leaves behind.

use super::error::{Done, Failure};
use super::progress::Told;
use super::{outcome, terminal};
use crate::launch;
use crate::plan::Plan;
use crate::plan::lock::Claim;
use crate::supervise::protocol::Progress;
use crate::supervise::{App, Options, Outcome};
use jiff::Timestamp;
use std::io::BufRead;
use std::os::fd::OwnedFd;
use std::path::Path;

/// Supervises in this process, until all is over.
pub(super) fn attached(plan: Plan, claim: Claim, services: &[String]) -> Done {
    let options = Options {
        attached: true,
        progress: None,
        services: services.to_vec(),
    };
    Ok(code_of(&App::new(plan, claim, options)?.run()?))
}

fn code_of(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Done => 0,
        // A service's own code could be taken for one of this program's.
        Outcome::StartFailed(_) | Outcome::ServiceFailed => 1,
    }
}

/// Leaves a supervisor behind, and waits until it says that all services have begun, or which did not.
pub(super) fn detach(plan: Plan, claim: Claim, services: &[String]) -> Done {
    let (progress, theirs): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    // Before anything runs: it says how the start goes, and an error of its making is not to look like one of the app.
    let own = theirs.try_clone()?;
    let app = plan.app.clone();
    let log = plan.dirs.app.join("supervisor.log");
    let count = plan.services.len();
    let begun = Timestamp::now();
    let (dirs, units) = (plan.dirs.clone(), plan.services.clone());
    if launch::fork()?.is_none() {
        drop(progress);
        std::process::exit(supervise(plan, claim, services, &log, (own, theirs)).into());
    }
    // It is the supervisor's alone, and ends with it.
    drop(claim);
    drop((theirs, own));
    let mut told = Told::new(count);
    let mut done = false;
    for line in std::io::BufReader::new(std::fs::File::from(progress)).lines() {
        match serde_json::from_str(&line?) {
            Ok(Progress::Done) => {
                done = true;
                break;
            }
            Ok(progress) => told.hear(&progress),
            Err(_) => {}
        }
    }
    match told.end() {
        0 if done => outcome::say(&dirs, &app, &units, begun),
        0 => Err(Failure::failed(format!(
            "the supervisor of `{app}` ended before all services ran; see {}",
            log.display()
        ))),
        code => Ok(code),
    }
}

/// In the process that is left behind: supervises until all is over; the exit code.
fn supervise(plan: Plan, claim: Claim, services: &[String], log: &Path, (progress, errors): (OwnedFd, OwnedFd)) -> u8 {
    let outcome = terminal::become_daemon(log).map_err(Failure::from).and_then(|()| {
        let options = Options {
            attached: false,
            progress: Some(progress),
            services: services.to_vec(),
        };
        App::new(plan, claim, options).map_err(|e| {
            report(&errors, &e.to_string());
            Failure::silent(1)
        })
    });
    drop(errors);
    match outcome.and_then(|app| Ok(app.run()?)) {
        Ok(outcome) => code_of(&outcome),
        Err(failure) => {
            failure.tell();
            failure.code
        }
    }
}

fn report(progress: &OwnedFd, error: &str) {
    let line = Progress::Failed {
        service: String::new(),
        error: error.to_owned(),
        code: 1,
    };
    let mut bytes = serde_json::to_vec(&line).unwrap_or_default();
    bytes.push(b'\n');
    let _ = rustix::io::write(progress, &bytes);
}
