//! `up`: starts an app, in the foreground or not; makes one that is up what the manifest says now.

use super::args::{Cli, Up};
use super::error::{Done, Failure, shown};
use super::load::{self, listener, ready, with_privilege};
use super::progress::Told;
use super::{limits, terminal};
use crate::app::{self, Loaded, renamed};
use crate::host::{Dirs, Privilege};
use crate::launch;
use crate::plan::lock::Claim;
use crate::plan::{Ledger, Plan};
use crate::supervise::client::{Client, ClientError};
use crate::supervise::fingerprint::{FingerprintReader, Fingerprints, of_storage};
use crate::supervise::mending::shared;
use crate::supervise::protocol::{AppStatus, Apply, Progress, Request};
use crate::supervise::reconcile::{Change, difference};
use crate::supervise::{App, Options, Outcome};
use crate::values::ServiceType;
use std::collections::BTreeSet;
use std::io::BufRead;
use std::os::fd::{BorrowedFd, OwnedFd};

pub(super) fn run(cli: &Cli, args: &Up) -> Done {
    limits::in_scope(cli);
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let mut loaded = read(cli)?;
    loaded.take_over = args.take_over;
    let dirs = loaded.dirs()?;
    if args.watch && !args.dry_run {
        return super::watch::run(cli, args, &loaded, &dirs);
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
        true => detach(plan, claim),
        false => attached(plan, claim),
    }
}

/// The manifest, with its warnings said.
pub(super) fn read(cli: &Cli) -> Result<Loaded, Failure> {
    let loaded = load::checked(cli)?;
    eprint!("{}", shown(&loaded.text, &loaded.found));
    Ok(loaded)
}

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

/// Supervises in this process, until all is over.
pub(super) fn attached(plan: Plan, claim: Claim) -> Done {
    let options = Options {
        attached: true,
        progress: None,
    };
    Ok(code_of(&App::new(plan, claim, options)?.run()?))
}

fn code_of(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Done => 0,
        Outcome::StartFailed(code) => *code,
        Outcome::ServiceFailed => 1,
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
    let mut ledger = Ledger::read(dirs, app)?;
    let before = ledger.clone();
    let plan = loaded.plan(dirs, &mut ledger)?;
    // What runs is compared by what the supervisor says of it.
    client.require(FINGERPRINTS)?;
    let runs: Vec<(String, Fingerprints)> = status
        .services
        .iter()
        .filter_map(|s| Some((s.service.clone(), s.fingerprints.clone()?)))
        .collect();
    let changes = difference(&runs, &fingerprints(&plan));
    let resources = of_storage(&plan.storage);
    let same = changes.is_empty() && status.resources.as_ref() == Some(&resources) && ledger == before;
    let changed: BTreeSet<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
    let oneshot = |name: &str| {
        let of = plan.services.iter().find(|s| s.name == name);
        of.is_some_and(|s| s.life.kind == ServiceType::Oneshot)
    };
    let resting: Vec<&str> = status
        .services
        .iter()
        .filter(|s| matches!(s.state.as_str(), "exited" | "failed" | "stopped" | "stopping"))
        .filter(|s| s.exit_code != Some(0) || !oneshot(&s.service))
        .filter(|s| !changed.contains(s.service.as_str()))
        .map(|s| s.service.as_str())
        .collect();
    let starting = status.services.iter().any(|s| match s.state.as_str() {
        "waiting" | "starting" | "restarting" => true,
        "running" => oneshot(&s.service),
        _ => false,
    });
    let lacking = app::lacking(&plan);
    let already = same && resting.is_empty() && lacking.is_empty();
    let is_up_already = || {
        outln!(
            "`{app}` is up already: {} services, supervisor {}",
            status.services.len(),
            status.supervisor_pid
        );
    };
    if already && (args.dry_run || !starting && !status.going_down) {
        is_up_already();
        return Ok(0);
    }
    for (name, change) in &changes {
        outln!("{}", in_words(name, *change));
    }
    for name in &resting {
        outln!("  start    {name}");
    }
    if args.dry_run {
        super::dry_run::say(loaded, &plan)?;
        return Ok(0);
    }
    let claim = Claim::join(dirs)?;
    let plan = if same && lacking.is_empty() {
        plan
    } else {
        planned(loaded, dirs, &claim, args.strict)?
    };
    let running = |name: &&str| !changed.contains(name) && !resting.contains(name);
    let lacking: Vec<&str> = lacking.iter().map(String::as_str).filter(running).collect();
    if !lacking.is_empty() {
        errln!(
            "note: a folder or a root of {0} was deleted, and is made anew; what runs does not see it before `pysecure restart {0}`",
            lacking.join(" ")
        );
    }
    let kept: BTreeSet<&str> = status.services.iter().map(|s| s.service.as_str()).collect();
    let apply = Apply {
        order: plan.services.iter().map(|s| s.name.clone()).collect(),
        resources: of_storage(&plan.storage),
        shared: shared(&plan.storage),
        services: plan
            .services
            .into_iter()
            .filter(|s| changed.contains(s.name.as_str()) || !kept.contains(s.name.as_str()))
            .collect(),
        templates: plan.templates,
        subtrees: plan.subtrees,
    };
    let count = apply.order.len();
    let mut told = Told::new(apply.services.len());
    let request = Request::Apply(Box::new(apply));
    client.change(&request, |progress| told.hear(&progress), wait)?;
    match told.end() {
        0 if already => is_up_already(),
        0 => outln!("`{app}` is up: {count} services"),
        code => return Ok(code),
    }
    Ok(0)
}

/// Since this version of the control protocol the supervisor says fingerprints that can be compared.
const FINGERPRINTS: u32 = 1;

fn fingerprints(plan: &Plan) -> Vec<(String, Fingerprints)> {
    let reader = FingerprintReader::new(&plan.app, &plan.privilege, plan.templates.clone());
    let of = |s: &crate::plan::Unit| (s.name.clone(), reader.read(s));
    plan.services.iter().map(of).collect()
}

fn in_words(name: &str, change: Change) -> String {
    let word = match change {
        Change::Add => "add     ",
        Change::Remove => "remove  ",
        Change::Restart => "restart ",
        Change::Adjust => "adjust  ",
    };
    format!("  {word} {name}")
}

fn would_start(loaded: &Loaded, dirs: &Dirs) -> Done {
    eprint!("{}", shown(&loaded.text, &renamed::left_behind(loaded, dirs)));
    let mut ledger = Ledger::read(dirs, &loaded.model.app)?;
    let plan = loaded.plan(dirs, &mut ledger)?;
    for service in &plan.services {
        outln!("{}", in_words(&service.name, Change::Add));
    }
    super::dry_run::say(loaded, &plan)?;
    Ok(0)
}

/// Leaves a supervisor behind, and waits until it says that all services have begun, or which did not.
pub(super) fn detach(plan: Plan, claim: Claim) -> Done {
    let (progress, theirs): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    // Before anything runs: it says how the start goes, and an error of its making is not to look like one of the app.
    let own = theirs.try_clone()?;
    let app = plan.app.clone();
    let log = plan.dirs.app.join("supervisor.log");
    let count = plan.services.len();
    if launch::fork()?.is_none() {
        drop(progress);
        let outcome = terminal::become_daemon(&log).map_err(Failure::from).and_then(|()| {
            let app = App::new(
                plan,
                claim,
                Options {
                    attached: false,
                    progress: Some(own),
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
                failure.tell();
                failure.code
            }
        };
        std::process::exit(code.into());
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
        0 if done => {
            outln!("`{app}` is up: {count} services");
            Ok(0)
        }
        0 => Err(Failure::failed(format!(
            "the supervisor of `{app}` ended before all services ran; see {}",
            log.display()
        ))),
        code => Ok(code),
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
