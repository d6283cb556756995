//! `run`: one program with a service's grants, and no supervisor. It sees what the service sees, while the app
//! is up or not.

use super::args::{Cli, Run};
use super::load::{self, ready, with_privilege};
use super::terminal::{self, Relay};
use super::variables::variables;
use super::{Done, Failure, limits};
use crate::app::AppError;
use crate::app::run::{Program, not_twice, one_off, service_of};
use crate::launch::{LaunchError, Report, Running};
use crate::plan::lock::Claim;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
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
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let on_terminal = !args.no_tty && terminal::interactive();
    let running = program.start(on_terminal, [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
    // PID 1 has said how its program ended, and is ending itself; nobody has to wait for the kernel to take its
    // namespaces apart.
    let done = accompany(&program, &running, &signals);
    program.close();
    done
}

fn accompany(program: &Program<'_>, running: &Running, signals: &SignalFd) -> Done {
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
            Report::Started | Report::Held | Report::Rules(_) => {}
            Report::Terminal(master) => relay = Some(start_relay(master)?),
            Report::Exited(status) => {
                if let Some(relay) = &relay {
                    relay.drain();
                }
                return Ok(crate::sys::exit_status::exit_code(status));
            }
            Report::Failed(error) => return Err(program.explained(error).into()),
            Report::End => return Err(LaunchError::Vanished.into()),
        }
    }
}

fn start_relay(master: OwnedFd) -> Result<Relay, Failure> {
    Ok(Relay::start(master)?)
}
