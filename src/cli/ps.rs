//! `ps`: the services and how they are.

use super::args::{Cli, Ps};
use super::load;
use super::{Done, Failure, terminal};
use crate::app::AppError;
use crate::plain;
use crate::supervise::client::Client;
use crate::supervise::protocol::{AppStatus, SandboxStatus, ServiceStatus};

pub(super) fn run(cli: &Cli, args: &Ps) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let mut status = Client::connect(&dirs, &loaded.model.app)?.status()?;
    only(&mut status, &args.services)?;
    if args.json {
        outln!(
            "{}",
            crate::plain::json(&serde_json::to_string_pretty(&status).map_err(Failure::failed)?)
        );
        return Ok(0);
    }
    let mut table = terminal::table(["SERVICE", "STATE", "HEALTH", "RESTARTS", "PID", "UID", "GID", "UPTIME"]);
    for service in &status.services {
        table.add_row([
            service.service.clone(),
            plain::line(&state(service)).into_owned(),
            service.health.clone().unwrap_or_else(|| "-".to_owned()),
            service.restarts.to_string(),
            service.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            id(service.uid, service),
            id(service.gid, service),
            duration(service.seconds),
        ]);
    }
    outln!("{table}");
    if status.services.iter().any(|s| s.ids_inside.is_some()) {
        errln!(
            "note: without subordinate ids all services share your UID on this host, and see others as their own; `pysecure doctor` says \
             how to get them"
        );
    }
    if !status.sandboxes.is_empty() {
        outln!("{}", sandboxes(&status.sandboxes));
    }
    Ok(0)
}

/// An id on the host; whether others have it as well.
fn id(number: u32, service: &ServiceStatus) -> String {
    match service.ids_inside {
        Some(_) => format!("{number} (shared)"),
        None => number.to_string(),
    }
}

/// Leaves these services alone; none named: all that there is.
fn only(status: &mut AppStatus, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    let known = || status.services.iter().map(|s| s.service.as_str());
    if let Some(unknown) = names.iter().find(|name| !known().any(|k| k == *name)) {
        return Err(AppError::no_service(unknown, known()).into());
    }
    status.services.retain(|s| names.contains(&s.service));
    status.sandboxes.clear();
    Ok(())
}

fn sandboxes(all: &[SandboxStatus]) -> impl std::fmt::Display + use<> {
    let mut table = terminal::table(["SANDBOX", "STATE", "RESTARTS", "PID", "USED BY", "UPTIME"]);
    for sandbox in all {
        let state = match &sandbox.error {
            Some(error) => format!("{}: {error}", sandbox.state),
            None => sandbox.state.clone(),
        };
        table.add_row([
            sandbox.sandbox.clone(),
            plain::line(&state).into_owned(),
            sandbox.restarts.to_string(),
            sandbox.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            sandbox.used_by.join(", "),
            duration(sandbox.seconds),
        ]);
    }
    table
}

/// Its state, with what there is to add to it: how it ended, why it failed, what it says of itself.
pub(super) fn state(service: &ServiceStatus) -> String {
    let word = match service.reloading {
        true => "reloading",
        false => service.state.as_str(),
    };
    match (service.exit_code, &service.error, &service.status) {
        (Some(code), Some(note), _) => format!("{word} ({code}): {note}"),
        (Some(code), None, _) => format!("{word} ({code})"),
        (None, Some(error), _) => format!("{word}: {error}"),
        (None, None, Some(says)) if service.pid.is_some() => format!("{word}: {says}"),
        _ => word.to_owned(),
    }
}

pub(super) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds % 3_600 / 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds % 86_400 / 3_600),
    }
}
