//! `up`: starts an app, in the foreground or not; makes one that is up what the manifest says now.

use super::args::{Cli, Up};
use super::error::{Done, Failure, shown};
use super::load::{self, listener, with_privilege};
use super::reconcile::{connect, in_words, planned, reconcile};
use super::supervisor::{attached, detach};
use super::{dry_run, limits, watch};
use crate::app::{AppError, Loaded, renamed};
use crate::host::Dirs;
use crate::plan::Ledger;
use crate::plan::lock::Claim;
use crate::supervise::client::ClientError;
use crate::supervise::reconcile::Change;

/// The exit code is 0, 2 for what is wrong with the manifest or the arguments, and 1 for whatever else failed: which of an app's services
/// or of the host's parts it was, is said in words.
pub(super) fn run(cli: &Cli, args: &Up) -> Done {
    let of_up = |code| if matches!(code, 0 | 2) { code } else { 1 };
    brought_up(cli, args).map(of_up).map_err(|mut failure| {
        failure.code = of_up(failure.code);
        failure
    })
}

fn brought_up(cli: &Cli, args: &Up) -> Done {
    limits::in_scope(cli);
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let mut loaded = load::with_warnings(cli)?;
    loaded.take_over = args.take_over;
    let dirs = loaded.dirs()?;
    let known = || loaded.model.services.iter().map(|s| s.name.as_str());
    if let Some(unknown) = args.services.iter().find(|name| !known().any(|k| k == *name)) {
        return Err(AppError::no_service(unknown, known()).into());
    }
    if args.watch && !args.dry_run {
        return watch::run(cli, args, &loaded, &dirs);
    }
    if !args.dry_run {
        loaded.settle(&dirs, listener())?;
    }
    if let Some(code) = on_running(&loaded, &dirs, args)? {
        return Ok(code);
    }
    if args.dry_run {
        return would_start(&loaded, &dirs);
    }
    let claim = Claim::supervise(&dirs)?;
    let plan = planned(&loaded, &dirs, &claim, args.strict)?;
    match args.detach {
        true => detach(plan, claim, &args.services),
        false => attached(plan, claim, &args.services),
    }
}

/// Is it up? Then it becomes what the manifest says: `Some` is the exit code.
fn on_running(loaded: &Loaded, dirs: &Dirs, args: &Up) -> Result<Option<u8>, Failure> {
    let (client, status) = match connect(loaded, dirs) {
        Err(ClientError::NotUp { .. }) => return Ok(None),
        other => other?,
    };
    let supervisor = status.supervisor_pid;
    let code = reconcile(loaded, dirs, client, &status, args, &mut |_| true)?;
    if !args.detach && !args.dry_run && code == 0 {
        errln!("note: its supervisor is process {supervisor}; `pysecure logs -f` shows what its services print");
    }
    Ok(Some(code))
}

fn would_start(loaded: &Loaded, dirs: &Dirs) -> Done {
    eprint!("{}", shown(&loaded.text, &renamed::left_behind(loaded, dirs)));
    let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
    let plan = loaded.plan(dirs, &mut ledger)?;
    for service in &plan.services {
        outln!("{}", in_words(&service.name, Change::Add));
    }
    dry_run::say(loaded, &plan)?;
    Ok(0)
}
