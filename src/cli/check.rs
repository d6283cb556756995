//! `check`: all that is wrong with a manifest, at once.

use super::args::{Check, Cli};
use super::load::Loaded;
use super::{Done, Failure};
use crate::plan::Ledger;

pub(super) fn run(cli: &Cli, args: &Check) -> Done {
    let loaded = Loaded::read(cli)?;
    // Whether the host has room for it can be said only of a manifest that is right in itself.
    let host = if loaded.has_errors() {
        Ok(Vec::new())
    } else {
        host(cli, &loaded)
    };
    if args.json {
        let mut all = loaded.found.clone();
        all.extend(host.as_ref().err().into_iter().flat_map(|f| f.located.clone()));
        let mut list = loaded.diagnostics_json(&all);
        let more = match &host {
            Ok(notes) => notes.iter().map(|n| plain("note", n)).collect(),
            Err(failure) => failure.messages.iter().map(|m| plain("error", m)).collect::<Vec<_>>(),
        };
        if let Some(list) = list.as_array_mut() {
            list.extend(more);
        }
        println!("{list:#}");
    } else if loaded.has_errors() {
        eprint!("{}", loaded.render(&loaded.found));
    } else {
        if !loaded.found.is_empty() {
            eprint!("{}", loaded.render(&loaded.found));
        }
        if let Ok(notes) = &host {
            for note in notes {
                eprintln!("note: {note}");
            }
            let model = &loaded.model;
            println!(
                "{}: {} services, {} resources, {} bundles: ok",
                loaded.source.path.display(),
                model.services.len(),
                model.resources.len(),
                model.bundles.len()
            );
        }
    }
    if loaded.has_errors() {
        return Ok(2);
    }
    match host {
        Ok(_) => Ok(0),
        Err(failure) if args.json => Ok(failure.code),
        Err(failure) => Err(loaded.tell(failure)),
    }
}

fn host(cli: &Cli, loaded: &Loaded) -> Result<Vec<String>, Failure> {
    let dirs = loaded.dirs(cli)?;
    let mut ledger = Ledger::read(&dirs, &loaded.model.app)?;
    Ok(loaded.plan(&dirs, &mut ledger)?.notes)
}

fn plain(severity: &str, message: &str) -> serde_json::Value {
    serde_json::json!({ "severity": severity, "message": message })
}
