//! `wait`: returns when services have ended and are not started again, and with what code.

use super::args::{Cli, Named};
use super::{Done, load};
use crate::app::AppError;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::events::Kind;
use crate::supervise::protocol::{AppStatus, ServiceStatus};
use std::collections::BTreeMap;

pub(super) fn run(cli: &Cli, args: &Named) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let app = &loaded.model.app;
    // What happens is heard of before it is asked how services are, so that no end is missed.
    let mut heard = Client::connect(&dirs, app)?;
    heard.hear_events()?;
    let mut asked = Client::connect(&dirs, app)?;
    let status = asked.states()?;
    let known = || status.services.iter().map(|s| s.service.as_str());
    if let Some(unknown) = args.services.iter().find(|name| !known().any(|k| k == *name)) {
        return Err(AppError::no_service(unknown, known()).into());
    }
    let names: Vec<String> = match args.services.is_empty() {
        true => known().map(str::to_owned).collect(),
        false => args.services.clone(),
    };
    let mut ends = Ends::of(names);
    ends.look(&status);
    while !ends.all() {
        let Some(event) = heard.event()? else { break };
        match (event.event, event.code) {
            (Kind::Exited | Kind::Failed, Some(code)) => drop(ends.last.insert(event.service, code)),
            (Kind::Exited | Kind::Stopped | Kind::Failed | Kind::Removed | Kind::Lost, _) => {}
            _ => continue,
        }
        match asked.states() {
            Ok(status) => ends.look(&status),
            // It goes down, and what ended meanwhile is heard of.
            Err(ClientError::NotUp { .. } | ClientError::Io { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(ends.code())
}

/// How services ended.
struct Ends {
    /// In the order in which they were named.
    names: Vec<String>,
    /// Of those that have.
    codes: BTreeMap<String, u8>,
    /// The last code that each ended with, whatever follows.
    last: BTreeMap<String, u8>,
}

impl Ends {
    fn of(names: Vec<String>) -> Ends {
        Ends {
            names,
            codes: BTreeMap::new(),
            last: BTreeMap::new(),
        }
    }

    fn all(&self) -> bool {
        self.names.iter().all(|name| self.codes.contains_key(name))
    }

    fn look(&mut self, status: &AppStatus) {
        for name in self.names.clone() {
            let of = status.services.iter().find(|s| s.service == name);
            if self.codes.contains_key(&name) || of.is_some_and(|s| !is_over(s)) {
                continue;
            }
            // One that the manifest has no more is gone.
            let (word, code) = match of {
                Some(service) => (service.state.as_str(), code_of(service)),
                None => ("removed", self.last.get(&name).copied().unwrap_or(0)),
            };
            say(&name, word, code);
            self.codes.insert(name, code);
        }
    }

    /// The app is down, or all have ended: the first code that is not 0, in the order in which services were named.
    fn code(mut self) -> u8 {
        for name in &self.names {
            if !self.codes.contains_key(name) {
                let code = self.last.get(name).copied().unwrap_or(0);
                say(name, "stopped", code);
                self.codes.insert(name.clone(), code);
            }
        }
        let mut codes = self.names.iter().filter_map(|name| self.codes.get(name));
        codes.find(|code| **code != 0).copied().unwrap_or(0)
    }
}

fn is_over(service: &ServiceStatus) -> bool {
    matches!(service.state.as_str(), "exited" | "failed" | "stopped")
}

fn code_of(service: &ServiceStatus) -> u8 {
    let code = service.exit_code.or(service.last_exit_code);
    match service.state.as_str() {
        "failed" => code.filter(|code| *code != 0).unwrap_or(1),
        // It ended because somebody had it end.
        "stopped" => 0,
        _ => code.unwrap_or(0),
    }
}

fn say(name: &str, word: &str, code: u8) {
    match word {
        "exited" => outln!("{name}: ended with status {code}"),
        _ => outln!("{name}: {word}"),
    }
}
