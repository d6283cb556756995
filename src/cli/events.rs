//! `events`: what happens to services, as it happens.

use super::Done;
use super::args::{Cli, Events};
use super::load;
use crate::plain;
use crate::supervise::client::Client;
use std::io::Write;

pub(super) fn run(cli: &Cli, args: &Events) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let mut out = std::io::stdout();
    Client::connect(&dirs, &loaded.model.app)?.events(|event| {
        let line = if args.json {
            plain::json(&serde_json::to_string(&event).unwrap_or_default()).into_owned()
        } else {
            let code = event.code.map(|c| format!(" ({c})")).unwrap_or_default();
            let detail = event.detail.map(|d| format!(": {d}")).unwrap_or_default();
            let line = format!("{} {} {}{code}{detail}", event.time, event.event.word(), event.service);
            plain::line(line.trim_end()).into_owned()
        };
        writeln!(out, "{line}").and_then(|()| out.flush()).is_ok()
    })?;
    Ok(0)
}
