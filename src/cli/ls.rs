//! `ls`: the apps of this user on this host, whether they are up, and where their manifests are. It needs no manifest.

use super::args::{Cli, Ls};
use super::{Done, terminal};
use crate::host::{Dirs, Privilege, outer};
use crate::plain;
use crate::plan::{Ledger, PlanError};
use crate::supervise::client::{Client, ClientError};
use crate::supervise::protocol::AppStatus;
use serde::Serialize;
use std::path::PathBuf;

/// An app as it is shown. Fields are added; none changes its meaning.
#[derive(Serialize)]
struct App {
    app: String,
    /// `up`, `down`, or `unknown` where something keeps it from being told.
    state: &'static str,
    /// The one that its data belongs to.
    manifest: Option<PathBuf>,
    /// Is it there?
    manifest_exists: bool,
    supervisor_pid: Option<u32>,
    services: Vec<Service>,
    /// Why something of it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Service {
    service: String,
    /// As `ps` has it; of an app that is not up, none.
    state: Option<String>,
}

pub(super) fn run(cli: &Cli, args: &Ls) -> Done {
    let apps = find(cli)?;
    if args.json {
        let list = serde_json::to_string_pretty(&apps).map_err(std::io::Error::from)?;
        outln!("{}", plain::json(&list));
        return Ok(0);
    }
    let mut table = terminal::table(["APP", "STATE", "SERVICES", "SUPERVISOR", "MANIFEST"]);
    for app in &apps {
        let running = app
            .services
            .iter()
            .filter(|s| s.state.as_deref() == Some("running"))
            .count();
        let services = match app.state {
            "up" => format!("{running} of {} running", app.services.len()),
            _ => app.services.len().to_string(),
        };
        let manifest = match &app.manifest {
            Some(path) if app.manifest_exists => path.display().to_string(),
            Some(path) => format!("{} (gone)", path.display()),
            None => "-".to_owned(),
        };
        table.add_row([
            plain::line(&app.app).into_owned(),
            app.state.to_owned(),
            services,
            app.supervisor_pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            plain::line(&manifest).into_owned(),
        ]);
    }
    outln!("{table}");
    for (app, error) in apps.iter().filter_map(|app| Some((&app.app, app.error.as_ref()?))) {
        errln!("note: `{app}`: {error}");
    }
    Ok(0)
}

fn find(cli: &Cli) -> Result<Vec<App>, super::Failure> {
    let root = outer::expected() == Privilege::Root;
    let dirs = |app: &str| Dirs::find(app, root, cli.state_dir.as_deref()).map_err(PlanError::from);
    let all = dirs("none")?.state.join("apps");
    let entries = match std::fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(super::Failure::failed(format!("read {}: {e}", all.display()))),
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.retain(|name| crate::manifest::is_app_name(name));
    names.sort();
    names.iter().map(|name| Ok(look(&dirs(name)?, name))).collect()
}

fn look(dirs: &Dirs, name: &str) -> App {
    let ledger = Ledger::read(dirs, name);
    let manifest = ledger
        .as_ref()
        .ok()
        .map(|l| l.manifest.clone())
        .filter(|path| !path.as_os_str().is_empty());
    let mut app = App {
        app: name.to_owned(),
        state: "down",
        manifest_exists: manifest.as_ref().is_some_and(|path| path.exists()),
        manifest,
        supervisor_pid: None,
        services: Vec::new(),
        error: None,
    };
    match Client::connect(dirs, name).and_then(|mut client| client.states()) {
        Ok(status) => runs(&mut app, status),
        Err(ClientError::NotUp { .. }) => {}
        Err(error) => (app.state, app.error) = ("unknown", Some(error.to_string())),
    }
    match ledger {
        Ok(ledger) if app.state == "down" => {
            let of = |service: &str| Service {
                service: service.to_owned(),
                state: None,
            };
            app.services = ledger.service_names().map(of).collect();
        }
        Ok(_) => {}
        Err(error) => app.error = Some(error.to_string()),
    }
    app
}

fn runs(app: &mut App, status: AppStatus) {
    app.state = "up";
    app.supervisor_pid = Some(status.supervisor_pid);
    let of = |service: crate::supervise::protocol::ServiceStatus| Service {
        service: service.service,
        state: Some(service.state),
    };
    app.services = status.services.into_iter().map(of).collect();
}
