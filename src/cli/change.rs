//! `start`, `stop`, `restart`, `reload` and `kill`: one request to the supervisor each, and what it says.

use super::args::{Cli, Kill, Named, Stop};
use super::load;
use super::progress::Told;
use super::{Done, Failure};
use crate::supervise::client::Client;
use crate::supervise::protocol::{Progress, Request};
use crate::values::signal_number;

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
    let request = Request::Restart {
        services: args.services.clone(),
        timeout_ms: args.timeout.map(|s| super::args::seconds(s).as_millis() as u64),
    };
    ask(cli, &request)
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
    ask(cli, &Request::Kill { services, signal })
}

fn ask(cli: &Cli, request: &Request) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let mut told = Told::new(1);
    let each = |progress: Progress| {
        if let Progress::Settled { service, state } = &progress {
            outln!("{service}: {state}");
        }
        told.hear(&progress);
    };
    Client::connect(&dirs, &loaded.model.app)?.change(request, each, &mut |_| true)?;
    Ok(told.end())
}
