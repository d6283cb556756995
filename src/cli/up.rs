//! `up`: starts an app, in the foreground or not.

use super::args::{Cli, Up};
use super::load::{Loaded, ready, with_privilege};
use super::{Done, Failure, limits, terminal};
use crate::launch;
use crate::manifest;
use crate::plan::{Dirs, Ledger, Plan, Privilege};
use crate::supervise::client::{Client, ClientError};
use crate::supervise::protocol::Progress;
use crate::supervise::{App, Options, Outcome};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::BufRead;
use std::os::fd::OwnedFd;

pub(super) fn run(cli: &Cli, args: &Up) -> Done {
    limits::in_scope(cli);
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = Loaded::read(cli)?.checked()?;
    if !loaded.found.is_empty() {
        eprint!(
            "{}",
            manifest::render(&loaded.source, &loaded.found, terminal::colour_on_stderr())
        );
    }
    let dirs = loaded.dirs(cli)?;
    if let Some(code) = already(&loaded, &dirs, args.detach)? {
        return Ok(code);
    }
    let plan = ready(&loaded, &dirs)?;
    for note in &plan.notes {
        eprintln!("note: {note}");
    }
    if args.strict && plan.privilege == Privilege::OneId {
        return Err(Failure::failed(
            "--strict: all services would share one UID; see `pysecure doctor`",
        ));
    }
    limits::say(&plan.services, args.strict)?;
    let fingerprint = fingerprint(&plan);
    if args.detach {
        return detach(plan, fingerprint);
    }
    let app = App::new(
        plan,
        Options {
            attached: true,
            progress: None,
            fingerprint,
        },
    )?;
    Ok(code_of(&app.run()?))
}

fn code_of(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Done => 0,
        Outcome::StartFailed(code) => *code,
        Outcome::ServiceFailed => 1,
    }
}

/// What a plan comes to, in one word: two of the same manifest, host and ledger agree.
fn fingerprint(plan: &Plan) -> String {
    let mut hasher = DefaultHasher::new();
    format!("{:?}{:?}{:?}", plan.services, plan.storage, plan.templates).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// An app that is up stays as it is: the same manifest is nothing to do, another one is refused.
fn already(loaded: &Loaded, dirs: &Dirs, detach: bool) -> Result<Option<u8>, Failure> {
    let status = match Client::connect(dirs, &loaded.model.app).and_then(|client| client.status()) {
        Err(ClientError::NotUp { .. }) => return Ok(None),
        other => other?,
    };
    let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
    let same = loaded
        .plan(dirs, &mut ledger)
        .is_ok_and(|plan| fingerprint(&plan) == status.fingerprint);
    let app = &loaded.model.app;
    if !same {
        return Err(Failure::failed(format!(
            "`{app}` is up from another state of the manifest; `pysecure down`, then `up` again"
        )));
    }
    if !detach {
        return Err(Failure::failed(format!(
            "`{app}` is up already; see it with `pysecure logs -f`, end it with `pysecure down`"
        )));
    }
    println!(
        "`{app}` is up already: {} services, supervisor {}",
        status.services.len(),
        status.supervisor_pid
    );
    Ok(Some(0))
}

/// Leaves a supervisor behind, and waits until it says that all services run, or which does not.
fn detach(plan: Plan, fingerprint: String) -> Done {
    let (progress, theirs): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let app = plan.app.clone();
    let log = plan.dirs.app.join("supervisor.log");
    if launch::fork()?.is_none() {
        drop(progress);
        let outcome = terminal::become_daemon(&log).map_err(Failure::from).and_then(|()| {
            let app = App::new(
                plan,
                Options {
                    attached: false,
                    progress: theirs.try_clone().ok(),
                    fingerprint,
                },
            );
            app.map_err(|e| {
                report(&theirs, &e.to_string());
                Failure::silent(1)
            })
        });
        drop(theirs);
        let code = match outcome.and_then(|app| Ok(app.run()?)) {
            Ok(outcome) => code_of(&outcome),
            Err(failure) => {
                failure.messages.iter().for_each(|m| eprintln!("error: {m}"));
                failure.code
            }
        };
        std::process::exit(code.into());
    }
    drop(theirs);
    let mut started = 0;
    let mut failed: Option<u8> = None;
    for line in std::io::BufReader::new(std::fs::File::from(progress)).lines() {
        match serde_json::from_str(&line?) {
            Ok(Progress::Started { .. }) => started += 1,
            Ok(Progress::Failed { service, error, code }) => {
                if service.is_empty() {
                    eprintln!("error: {error}");
                } else {
                    eprintln!("error: service `{service}`: {error}");
                }
                failed.get_or_insert(code);
            }
            Ok(Progress::Done) if failed.is_none() => {
                println!("`{app}` is up: {started} services");
                return Ok(0);
            }
            Ok(Progress::Done) => break,
            Err(_) => {}
        }
    }
    match failed {
        Some(code) => Ok(code),
        None => Err(Failure::failed(format!(
            "the supervisor of `{app}` ended before all services ran; see {}",
            log.display()
        ))),
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
