//! What an app becomes that is up already: what its manifest says now.

use super::args::Up;
use super::error::{Failure, shown};
use super::load::ready;
use super::progress::Told;
use super::{dry_run, limits, outcome};
use crate::app::{self, AppError, Difference, Loaded, renamed};
use crate::host::{Dirs, Privilege};
use crate::plain::counted;
use crate::plan::Plan;
use crate::plan::lock::Claim;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::protocol::{AppStatus, Progress, Request};
use crate::supervise::reconcile::Change;
use jiff::Timestamp;
use std::os::fd::BorrowedFd;

/// The plan, with all that it needs on disk, and its notes said.
pub(super) fn planned(loaded: &Loaded, dirs: &Dirs, claim: &Claim, strict: bool) -> Result<Plan, Failure> {
    let mut exposed = app::dry_run::exposed(loaded, dirs);
    exposed.extend(renamed::left_behind(loaded, dirs));
    eprint!("{}", shown(&loaded.text, &exposed));
    let plan = ready(loaded, dirs, claim)?;
    for note in &plan.notes {
        errln!("note: {note}");
    }
    if strict && plan.privilege == Privilege::OneId {
        return Err(Failure::failed(
            "--strict: all services would share one UID; see `pysecure doctor`",
        ));
    }
    limits::say(&plan.services, strict)?;
    Ok(plan)
}

pub(super) fn connect(loaded: &Loaded, dirs: &Dirs) -> Result<(Client, AppStatus), ClientError> {
    let mut client = Client::connect(dirs, &loaded.model.app)?;
    let status = client.status()?;
    Ok((client, status))
}

/// Finds what differs, shows it, and has the supervisor make it so. `wait`: see [`Client::change`].
pub(super) fn reconcile(
    loaded: &Loaded,
    dirs: &Dirs,
    mut client: Client,
    status: &AppStatus,
    args: &Up,
    wait: &mut dyn FnMut(BorrowedFd<'_>) -> bool,
) -> Result<u8, Failure> {
    let app = &loaded.model.app;
    if args.dry_run {
        eprint!("{}", shown(&loaded.text, &renamed::left_behind(loaded, dirs)));
    }
    let mut found = Difference::of(loaded, dirs, &client, status)?;
    if args.strict {
        refuse_less(&found.plan, status)?;
    }
    let only = only(&mut found, &args.services)?;
    if found.is_settled(status) || args.dry_run && found.is_none() {
        say_up_already(app, status);
        return Ok(0);
    }
    for (name, change) in &found.changes {
        outln!("{}", in_words(name, *change));
    }
    for name in &found.resting {
        outln!("  start    {name}");
    }
    if args.dry_run {
        dry_run::say(loaded, &found.plan)?;
        return Ok(0);
    }
    let claim = Claim::join(dirs)?;
    let plan = match found.is_to_be_made() {
        true => planned(loaded, dirs, &claim, args.strict)?,
        false => found.plan.clone(),
    };
    let without = found.run_without();
    if !without.is_empty() {
        errln!(
            "note: a folder or a root of {0} was deleted, and is made anew; what runs does not see it before `pysecure restart {0}`",
            without.join(" ")
        );
    }
    let mut apply = found.apply(plan, status);
    apply.only = only;
    let begun = Timestamp::now();
    let mut told = Told::new(apply.services.len());
    let request = Request::Apply(Box::new(apply));
    client.change(&request, |progress| told.hear(&progress), wait)?;
    match told.end() {
        0 if found.is_none() => {
            say_up_already(app, status);
            Ok(0)
        }
        0 => outcome::say(dirs, app, &found.plan.services, begun),
        code => Ok(code),
    }
}

/// Refuses an app that was started with less than `--strict` asks for, and goes on running so.
fn refuse_less(plan: &Plan, status: &AppStatus) -> Result<(), Failure> {
    let shared = status.services.iter().any(|s| s.ids_inside.is_some());
    if shared || plan.privilege == Privilege::OneId {
        return Err(Failure::failed(format!(
            "--strict: `{}` is up, and all its services share one UID; `pysecure doctor` says how to have ids for them, and \
             `pysecure down && pysecure up -d --strict` starts it with those",
            status.app
        )));
    }
    limits::say(&plan.services, true)
}

/// The services that are to run, if only some are; what rests of the others is left alone.
fn only(found: &mut Difference, names: &[String]) -> Result<Vec<String>, Failure> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let only = found.with_dependencies(names).map_err(|unknown| {
        let known = found.plan.services.iter().map(|s| s.name.as_str());
        Failure::from(AppError::no_service(unknown, known))
    })?;
    found.restrict(&only).map_err(|other| {
        Failure::failed(format!(
            "the manifest has changed for `{other}` as well; `pysecure up -d` makes all so, `pysecure start {}` starts what is known",
            names.join(" ")
        ))
    })?;
    Ok(only.into_iter().collect())
}

/// Starts services anew that are shown other files since a link was switched: what they may see follows from the manifest, so all that
/// is looked at before a start is looked at again.
pub(super) fn follow(
    loaded: &Loaded,
    dirs: &Dirs,
    (mut client, status): (Client, AppStatus),
    found: &Difference,
    names: &[String],
) -> Result<u8, Failure> {
    let claim = Claim::join(dirs)?;
    let plan = planned(loaded, dirs, &claim, false)?;
    let mut apply = found.apply(plan, &status);
    apply.services.retain(|s| names.contains(&s.name));
    let mut told = Told::new(apply.services.len());
    let each = |progress: Progress| {
        if let Progress::Settled { service, state } = &progress
            && names.contains(service)
        {
            outln!("{service}: {state}");
        }
        told.hear(&progress);
    };
    client.change(&Request::Apply(Box::new(apply)), each, &mut |_| true)?;
    Ok(told.end())
}

fn say_up_already(app: &str, status: &AppStatus) {
    outln!(
        "`{app}` is up already: {}, supervisor {}",
        counted(status.services.len(), "service"),
        status.supervisor_pid
    );
}

pub(super) fn in_words(name: &str, change: Change) -> String {
    let word = match change {
        Change::Add => "add     ",
        Change::Remove => "remove  ",
        Change::Restart => "restart ",
        Change::Adjust => "adjust  ",
    };
    format!("  {word} {name}")
}
