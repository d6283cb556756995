//! `run`: one program with a service's grants, and no supervisor. It sees what the service sees, while the app
//! is up or not.

use super::args::{Cli, Run};
use super::load::{Loaded, ready, with_privilege};
use super::terminal::{self, Relay};
use super::{Done, Failure, limits};
use crate::host::Dirs;
use crate::launch::{Descriptors, LaunchError, Report, Running};
use crate::oneoff;
use crate::plan::OneOff;
use crate::plan::lock::Claim;
use crate::supervise::ServiceId;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::network::Networks;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn run(cli: &Cli, args: &Run) -> Done {
    limits::in_scope(cli);
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = Loaded::read(cli)?.checked()?;
    let dirs = loaded.dirs(cli)?;
    if loaded.model.service(&args.service).is_none() {
        let known: Vec<&str> = loaded.model.services.iter().map(|s| s.name.as_str()).take(20).collect();
        return Err(Failure::new(
            2,
            format!(
                "no service is called `{}`; there are: {}",
                args.service,
                known.join(", ")
            ),
        ));
    }
    if args.command.is_empty() {
        not_twice(&dirs, &loaded.model.app, &args.service)?;
    }
    let claim = Claim::join(&dirs)?;
    let plan = ready(&loaded, &dirs, &claim)?;
    for note in &plan.notes {
        errln!("note: {note}");
    }
    let Some(service) = plan.services.iter().find(|s| s.name == args.service) else {
        return Err(super::error::no_service(&args.service, &plan));
    };
    limits::say(std::slice::from_ref(service), false)?;
    let keeps_root = service.writable.as_ref().is_some_and(|upper| upper.kept.is_some());
    let mut service = service.one_off(OneOff::Run);
    if !args.command.is_empty() {
        service.command = args.command.clone();
    }
    for variable in &args.env {
        let (key, value) = variable
            .split_once('=')
            .ok_or_else(|| Failure::new(2, format!("-e {variable}: write KEY=VALUE")))?;
        service.environment.insert(key.to_owned(), value.to_owned());
    }
    if keeps_root {
        errln!(
            "note: what this program writes to its root is not kept: only `{}` itself writes there",
            args.service
        );
    }
    if !service.callees.is_empty() {
        crate::host::make_private(&plan.dirs.run)?;
    }
    crate::supervise::folders(&plan.dirs, &service)?;
    let mut once = oneoff::OneOff::prepare(&plan, service.clone())?;
    // The way out is the service's; the app's network is one for this program alone.
    let mut networks = Networks::default();
    let prepared = networks.prepare(&plan.privilege, std::iter::once(&service), once.launcher())?;
    networks.take_on(prepared);
    let signals = terminal::signals_for_the_program()?;
    once.hold_limits()?;
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let running = once.launch(&Descriptors {
        terminal: !args.no_tty && terminal::interactive(),
        network: networks.shared(&service),
        hold: Networks::holds(&service),
        ..Descriptors::of([stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])
    })?;
    let connected = networks
        .accompany(ServiceId::ALONE, &service, &running, once.launcher())
        .map_err(|e| e.to_string())
        .map(drop)
        .and_then(|()| networks.settled(ServiceId::ALONE));
    if let Err(error) = connected {
        running.abort();
        return Err(Failure::new(125, error));
    }
    // PID 1 has said how its program ended, and is ending itself; nobody has to wait for the kernel to take its
    // namespaces apart.
    let done = accompany(&running, &signals);
    networks.close();
    done
}

/// A service's own program is not run a second time on the same data: it may not expect that.
pub(super) fn not_twice(dirs: &Dirs, app: &str, service: &str) -> Result<(), Failure> {
    let status = match Client::connect(dirs, app).and_then(|mut client| client.status()) {
        Err(ClientError::NotUp { .. }) => return Ok(()),
        other => other?,
    };
    let runs = status.services.iter().any(|s| s.service == service && s.pid.is_some());
    match runs {
        true => Err(Failure::failed(format!(
            "`{service}` runs, and its program a second time would work on the same data; `pysecure exec {service} -- CMD` or \
             `pysecure run {service} -- CMD` for another one, or `pysecure stop {service}` first"
        ))),
        false => Ok(()),
    }
}

fn accompany(running: &Running, signals: &SignalFd) -> Done {
    let mut relay: Option<Relay> = None;
    loop {
        match &relay {
            Some(relay) => relay.until(running.reports.as_fd())?,
            None => {
                let mut ready = [
                    PollFd::new(&running.reports, PollFlags::IN),
                    PollFd::new(signals, PollFlags::IN),
                ];
                match rustix::event::poll(&mut ready, None) {
                    Err(Errno::INTR) => continue,
                    other => other.map_err(std::io::Error::from)?,
                };
                while let Ok(Some(info)) = signals.read_signal() {
                    if let Some(signal) = rustix::process::Signal::from_named_raw(info.ssi_signo as i32) {
                        let _ = running.signal(signal);
                    }
                }
                if ready[0].revents().is_empty() {
                    continue;
                }
            }
        }
        match running.report().map_err(std::io::Error::from)? {
            Report::Started | Report::Held => {}
            Report::Terminal(master) => relay = Some(start_relay(master)?),
            Report::Exited(status) => {
                if let Some(relay) = &relay {
                    relay.drain();
                }
                return Ok(crate::sys::exit_status::exit_code(status));
            }
            Report::Failed(error) => return Err(error.into()),
            Report::End => return Err(LaunchError::Vanished.into()),
        }
    }
}

fn start_relay(master: OwnedFd) -> Result<Relay, Failure> {
    Ok(Relay::start(master)?)
}
