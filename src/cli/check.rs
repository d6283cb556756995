//! `check`: all that is wrong with a manifest, at once.

use super::args::{Check, Cli};
use super::dry_run::{self, Found};
use super::load::Loaded;
use super::{Done, Failure};
use crate::plan::Ledger;

pub(super) fn run(cli: &Cli, args: &Check) -> Done {
    let mut loaded = Loaded::read(cli)?;
    // Whether the host has room for it can be said only of a manifest that is right in itself.
    if !loaded.has_errors()
        && let Ok(dirs) = loaded.dirs(cli)
    {
        let left = super::renamed::left_behind(&loaded, &dirs);
        loaded.found.extend(left);
    }
    let mut host = if loaded.has_errors() {
        Ok(Found::default())
    } else {
        host(cli, &loaded)
    };
    if let Ok(found) = &mut host {
        loaded.found.append(&mut found.located);
    }
    if args.json {
        let mut all = loaded.found.clone();
        all.extend(host.as_ref().err().into_iter().flat_map(|f| f.located.clone()));
        let mut list = loaded.diagnostics_json(&all);
        let more = match &host {
            Ok(found) => {
                let refused = found.refused.iter().map(|m| plain("error", m));
                refused.chain(found.notes.iter().map(|n| plain("note", n))).collect()
            }
            Err(failure) => failure.messages.iter().map(|m| plain("error", m)).collect::<Vec<_>>(),
        };
        if let Some(list) = list.as_array_mut() {
            list.extend(more);
        }
        outln!("{}", crate::plain::json(&format!("{list:#}")));
    } else if loaded.has_errors() {
        eprint!("{}", loaded.render(&loaded.found));
    } else {
        if !loaded.found.is_empty() {
            eprint!("{}", loaded.render(&loaded.found));
        }
        if let Ok(found) = &host {
            for note in &found.notes {
                errln!("note: {note}");
            }
        }
        if host.as_ref().is_ok_and(|found| found.refused.is_empty()) {
            let model = &loaded.model;
            outln!(
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
        Ok(found) if found.refused.is_empty() => Ok(0),
        Ok(_) if args.json => Ok(1),
        Ok(found) => Err(Failure {
            messages: found.refused,
            ..Failure::silent(1)
        }),
        Err(failure) if args.json => Ok(failure.code),
        Err(failure) => Err(loaded.tell(failure)),
    }
}

fn host(cli: &Cli, loaded: &Loaded) -> Result<Found, Failure> {
    let dirs = loaded.places(cli)?;
    let mut ledger = Ledger::read(&dirs, &loaded.model.app)?;
    loaded.owned_by(&ledger)?;
    let mut plan = loaded.plan(&dirs, &mut ledger)?;
    plan.notes.extend(loaded.hard_links(&plan)?);
    let mut found = dry_run::find(loaded, &plan)?;
    found.notes.splice(0..0, plan.notes);
    Ok(found)
}

fn plain(severity: &str, message: &str) -> serde_json::Value {
    serde_json::json!({ "severity": severity, "message": message })
}
