//! `check`: all that is wrong with a manifest, at once.

use super::args::{Check, Cli};
use super::error::{Done, Failure, shown};
use super::load;
use crate::app::dry_run::{self, Found};
use crate::app::{AppError, Loaded, renamed};
use crate::plain::counted;
use crate::plan::Ledger;

pub(super) fn run(cli: &Cli, args: &Check) -> Done {
    let mut loaded = load::read(cli)?;
    // Whether the host has room for it can be said only of a manifest that is right in itself.
    if !loaded.has_errors()
        && let Ok(dirs) = loaded.dirs()
    {
        let left = renamed::left_behind(&loaded, &dirs);
        loaded.found.extend(left);
    }
    let mut host = if loaded.has_errors() {
        Ok(Found::default())
    } else {
        host(&loaded)
    };
    if let Ok(found) = &mut host {
        loaded.found.append(&mut found.located);
    }
    match args.json {
        true => in_json(&loaded, host),
        false => for_people(&loaded, host),
    }
}

fn in_json(loaded: &Loaded, host: Result<Found, AppError>) -> Done {
    let mut all = loaded.found.clone();
    let (code, more) = match host {
        Ok(found) => {
            let refused = found.refused.iter().map(|m| plain("error", m));
            let more: Vec<_> = refused.chain(found.notes.iter().map(|n| plain("note", n))).collect();
            (u8::from(!found.refused.is_empty()), more)
        }
        Err(error) => {
            all.extend_from_slice(error.located());
            let failure = Failure::from(error);
            let more = failure.messages.iter().map(|m| plain("error", m)).collect();
            (failure.code, more)
        }
    };
    let mut list = loaded.text.to_json(&all);
    if let Some(list) = list.as_array_mut() {
        list.extend(more);
    }
    outln!("{}", crate::plain::json(&format!("{list:#}")));
    Ok(if loaded.has_errors() { 2 } else { code })
}

fn for_people(loaded: &Loaded, host: Result<Found, AppError>) -> Done {
    eprint!("{}", shown(&loaded.text, &loaded.found));
    if loaded.has_errors() {
        return Ok(2);
    }
    let found = host?;
    for note in &found.notes {
        errln!("note: {note}");
    }
    if !found.refused.is_empty() {
        return Err(Failure::all(1, found.refused));
    }
    let model = &loaded.model;
    outln!(
        "{}: {}, {}, {}: ok",
        loaded.text.path().display(),
        counted(model.services.len(), "service"),
        counted(model.resources.len(), "resource"),
        counted(model.bundles.len(), "bundle")
    );
    Ok(0)
}

fn host(loaded: &Loaded) -> Result<Found, AppError> {
    let dirs = loaded.places()?;
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
