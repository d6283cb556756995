//! `exec`: a program beside a running service. The supervisor does the joining; this end lends its
//! descriptors or its terminal, and ends as the program does.

use super::args::{Cli, Exec};
use super::load;
use super::streams::Streams;
use super::terminal::{self, Relay};
use super::variables::variables;
use super::{Done, Failure};
use crate::launch::join::told;
use crate::supervise::client::Client;
use crate::supervise::protocol::Request;
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags};
use std::os::fd::AsFd;

pub(super) fn run(cli: &Cli, args: &Exec) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let client = Client::connect(&dirs, &loaded.model.app)?;
    let on_terminal = !args.no_tty && terminal::interactive();
    let given = variables(&args.env)?;
    let mut environment: Vec<String> = given.iter().map(|(key, value)| format!("{key}={value}")).collect();
    if on_terminal && let Ok(term) = std::env::var("TERM") {
        environment.push(format!("TERM={term}"));
    }
    let request = Request::Exec {
        service: args.service.clone(),
        args: args.command.clone(),
        environment,
        directory: args.workdir.clone(),
        terminal: on_terminal,
    };
    // Taken before the program can have said anything: whoever saw that may signal this end at once.
    let signals = if on_terminal {
        None
    } else {
        Some(terminal::signals_for_the_program()?)
    };
    let mut streams = match on_terminal {
        true => None,
        false => Some(Streams::new()?),
    };
    match &mut streams {
        Some(streams) => {
            streams.lend(|stdio| client.send(&request, &stdio))?;
            streams.lent();
        }
        None => {
            let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
            client.send(&request, &[stdin.as_fd(), stdout.as_fd(), stderr.as_fd()])?;
        }
    }
    let mut relay = None;
    loop {
        let (kind, number, text, fd) = client.session_message()?;
        match kind {
            told::TERMINAL => relay = fd.map(Relay::start).transpose()?,
            told::STARTED => match (&relay, &signals, &mut streams) {
                (Some(relay), ..) => relay.until(client.socket())?,
                (None, Some(signals), Some(streams)) => pass_signals(&client, signals, streams)?,
                _ => {}
            },
            told::EXITED => {
                if let Some(relay) = &relay {
                    relay.drain();
                }
                if let Some(streams) = &mut streams {
                    streams.finish();
                }
                return Ok(number as u8);
            }
            told::FAILED => return Err(Failure::new(number as u8, text)),
            _ => {}
        }
    }
}

/// Without a terminal in between, signals to this end are meant for the program.
fn pass_signals(client: &Client, signals: &SignalFd, streams: &mut Streams) -> std::io::Result<()> {
    loop {
        let socket = client.socket();
        streams.until(&[socket, signals.as_fd()])?;
        while let Ok(Some(info)) = signals.read_signal() {
            rustix::net::send(
                client.socket(),
                &[info.ssi_signo as u8],
                rustix::net::SendFlags::NOSIGNAL,
            )?;
        }
        let mut ready = [PollFd::new(&socket, PollFlags::IN)];
        let now = rustix::event::Timespec::default();
        if rustix::event::poll(&mut ready, Some(&now)).is_ok_and(|count| count > 0) {
            return Ok(());
        }
    }
}
