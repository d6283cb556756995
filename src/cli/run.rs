//! `run`: one program with a service's grants, and no supervisor. It sees what the service sees, while the app
//! is up or not.

use super::args::{Cli, Run};
use super::load::{self, ready, with_privilege};
use super::streams::Streams;
use super::terminal::{self, Relay};
use super::variables::variables;
use super::{Done, Failure, limits};
use crate::app::AppError;
use crate::app::run::{Program, not_twice, one_off, service_of};
use crate::launch::{LaunchError, Report, Running};
use crate::plan::lock::Claim;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec};
use std::os::fd::{AsFd, OwnedFd};

pub(super) fn run(cli: &Cli, args: &Run) -> Done {
    limits::in_scope(cli);
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = load::checked(cli)?;
    let dirs = loaded.dirs()?;
    let model = &loaded.model;
    if model.service(&args.service).is_none() {
        let known = model.services.iter().map(|s| s.name.as_str());
        return Err(AppError::no_service(&args.service, known).into());
    }
    if args.command.is_empty() {
        not_twice(&dirs, &model.app, &args.service)?;
    }
    let claim = Claim::join(&dirs)?;
    let plan = ready(&loaded, &dirs, &claim)?;
    for note in &plan.notes {
        errln!("note: {note}");
    }
    let service = service_of(&plan, &args.service)?;
    limits::say(std::slice::from_ref(service), false)?;
    let one_off = one_off(service, &args.command, variables(&args.env)?);
    if service.writable.as_ref().is_some_and(|upper| upper.kept.is_some()) {
        errln!(
            "note: what this program writes to its root is not kept: only `{}` itself writes there",
            args.service
        );
    }
    let mut program = Program::prepare(&plan, &one_off)?;
    let signals = terminal::signals_for_the_program()?;
    let on_terminal = !args.no_tty && terminal::interactive();
    let mut streams = Streams::new()?;
    let running = streams.lend(|stdio| program.start(on_terminal, stdio))?;
    streams.lent();
    // PID 1 has said how its program ended, and is ending itself; nobody has to wait for the kernel to take its
    // namespaces apart.
    let done = accompany(&program, &running, &signals, &mut streams);
    program.close();
    done
}

fn accompany(program: &Program<'_>, running: &Running, signals: &SignalFd, streams: &mut Streams) -> Done {
    let mut relay: Option<Relay> = None;
    loop {
        match &relay {
            Some(relay) => relay.until(running.reports.as_fd())?,
            None => {
                streams.until(&[running.reports.as_fd(), signals.as_fd()])?;
                while let Ok(Some(info)) = signals.read_signal() {
                    if let Some(signal) = rustix::process::Signal::from_named_raw(info.ssi_signo as i32) {
                        let _ = running.signal(signal);
                    }
                }
                let mut ready = [PollFd::new(&running.reports, PollFlags::IN)];
                if !rustix::event::poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0) {
                    continue;
                }
            }
        }
        match running.report().map_err(std::io::Error::from)? {
            Report::Started | Report::Held | Report::Rules(_) => {}
            Report::Terminal(master) => relay = Some(start_relay(master)?),
            Report::Exited(status) => {
                if let Some(relay) = &relay {
                    relay.drain();
                }
                streams.finish();
                return Ok(crate::sys::exit_status::exit_code(status));
            }
            Report::Failed(error) => {
                streams.finish();
                return Err(program.explained(error).into());
            }
            Report::End => return Err(LaunchError::Vanished.into()),
        }
    }
}

fn start_relay(master: OwnedFd) -> Result<Relay, Failure> {
    Ok(Relay::start(master)?)
}
