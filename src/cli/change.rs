//! `start`, `stop`, `restart`, `reload` and `kill`: one request to the supervisor each, and what it says.

use super::args::{Cli, Kill, Named, Stop};
use super::load::{self, with_privilege};
use super::progress::Told;
use super::reconcile::{connect, follow};
use super::{Done, Failure};
use crate::app::{Difference, Loaded};
use crate::supervise::client::Client;
use crate::supervise::protocol::{Progress, Request};
use crate::values::{signal_name, signal_number};

pub(super) fn start(cli: &Cli, args: &Named) -> Done {
    let services = args.services.clone();
    ask(cli, &Request::Start { services })
}

pub(super) fn stop(cli: &Cli, args: &Stop) -> Done {
    let request = Request::Stop {
        services: args.services.clone(),
        timeout_ms: args.timeout.map(|s| super::args::seconds(s).as_millis() as u64),
    };
    ask(cli, &request)
}

pub(super) fn restart(cli: &Cli, args: &Stop) -> Done {
    let loaded = load::read(cli)?;
    let mut services = args.services.clone();
    let moved = moved(&loaded, &services);
    if !moved.is_empty() {
        if let Some(code) = with_privilege()? {
            return Ok(code);
        }
        let dirs = loaded.dirs()?;
        let (client, status) = connect(&loaded, &dirs)?;
        let found = Difference::of(&loaded, &dirs, &client, &status)?;
        if services.is_empty() {
            services = status.services.iter().map(|s| s.service.clone()).collect();
        }
        services.retain(|name| !moved.contains(name));
        let code = follow(&loaded, &dirs, (client, status), &found, &moved)?;
        if code != 0 || services.is_empty() {
            return Ok(code);
        }
    }
    let request = Request::Restart {
        services,
        timeout_ms: args.timeout.map(|s| super::args::seconds(s).as_millis() as u64),
    };
    ask_of(&loaded, &request)
}

/// Of the services that are to be started anew (all, if none is named), those whose sources lead elsewhere now, by a link that was switched.
/// Where the manifest has changed as well, that is for `up`; and what is wrong is said by what does the rest.
fn moved(loaded: &Loaded, names: &[String]) -> Vec<String> {
    let found = (|| {
        let dirs = loaded.dirs().ok().filter(|_| !loaded.has_errors())?;
        let (client, status) = connect(loaded, &dirs).ok()?;
        let found = Difference::of(loaded, &dirs, &client, &status).ok()?;
        found.moved_sources(&status)
    })();
    let mut found = found.unwrap_or_default();
    found.retain(|name| names.is_empty() || names.contains(name));
    found
}

pub(super) fn reload(cli: &Cli, args: &Named) -> Done {
    let services = args.services.clone();
    ask(cli, &Request::Reload { services })
}

pub(super) fn kill(cli: &Cli, args: &Kill) -> Done {
    let Some(signal) = signal_number(&args.signal) else {
        return Err(Failure::new(
            2,
            format!(
                "`{}` is no signal; write a name or a number, such as HUP, SIGUSR1 or 9",
                args.signal
            ),
        ));
    };
    let services = args.services.clone();
    let name = signal_name(signal);
    // How the service is by then says nothing: what the signal does to it comes later.
    let sent = |service: &str, _: &str| format!("sent {name} to {service}");
    ask_saying(&load::read(cli)?, &Request::Kill { services, signal }, &sent)
}

fn ask(cli: &Cli, request: &Request) -> Done {
    ask_of(&load::read(cli)?, request)
}

fn ask_of(loaded: &Loaded, request: &Request) -> Done {
    ask_saying(loaded, request, &|service, state| format!("{service}: {state}"))
}

/// `says`: the line for a service, of its name and what became of it.
fn ask_saying(loaded: &Loaded, request: &Request, says: &dyn Fn(&str, &str) -> String) -> Done {
    let dirs = loaded.dirs()?;
    let mut told = Told::new(1);
    let each = |progress: Progress| {
        if let Progress::Settled { service, state } = &progress {
            outln!("{}", says(service, state));
        }
        told.hear(&progress);
    };
    Client::connect(&dirs, &loaded.model.app)?.change(request, each, &mut |_| true)?;
    Ok(told.end())
}
