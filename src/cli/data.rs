//! `data`: what is kept of an app, by whose name, and what of it nobody uses any more.

use super::args::{Cli, Data, DataCommand};
use super::load::{self, with_privilege};
use super::{Done, Failure};
use crate::app::Loaded;
use crate::plan::Ledger;
use crate::plan::leftover::{self, Kept, What};
use crate::plan::lock::{Claim, Deed, Lock};
use crate::supervise::console::shown;
use crate::walk::remove;
use std::io::{BufRead, IsTerminal};
use std::path::Path;

pub(super) fn run(cli: &Cli, args: &Data) -> Done {
    // Data may belong to subordinate ids.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = load::read(cli)?;
    if loaded.model.app.is_empty() {
        return Err(Failure::new(
            2,
            "the manifest does not name its app; see `pysecure check`",
        ));
    }
    match &args.command {
        Some(DataCommand::Remove { names, yes }) => delete(&loaded, names, *yes),
        None => list(&loaded, args.json),
    }
}

fn list(loaded: &Loaded, json: bool) -> Done {
    let dirs = loaded.dirs()?;
    let ledger = Ledger::read(&dirs, &loaded.model.app)?;
    let all = leftover::kept(&loaded.model, &ledger, &dirs);
    if json {
        let rows = all.iter().map(|kept| {
            serde_json::json!({
                "kind": kept.what.word(), "name": kept.name, "used": kept.used, "path": kept.path,
                "place": kept.place, "bytes": size(&kept.place),
            })
        });
        outln!("{:#}", serde_json::Value::Array(rows.collect()));
        return Ok(0);
    }
    let mut table = super::terminal::table(["KIND", "NAME", "USED", "SIZE", "PATH", "PLACE"]);
    for kept in &all {
        table.add_row([
            kept.what.word().to_owned(),
            shown(kept.name.as_bytes()),
            if kept.used { "yes" } else { "by nobody" }.to_owned(),
            crate::model::limits::size(size(&kept.place)),
            kept.path.clone().unwrap_or_default(),
            shown(kept.place.as_os_str().as_encoded_bytes()),
        ]);
    }
    outln!("{}", table.trim_fmt());
    Ok(0)
}

/// What the files in it take, as far as it can be read.
fn size(path: &Path) -> u64 {
    let mut sum = 0;
    crate::walk::any(path, |entry| {
        if entry.kind() != rustix::fs::FileType::Directory {
            sum += u64::try_from(entry.stat.st_size).unwrap_or(0);
        }
        false
    });
    sum
}

fn delete(loaded: &Loaded, names: &[String], yes: bool) -> Done {
    let dirs = loaded.dirs()?;
    let app = &loaded.model.app;
    let lock = Lock::take(&dirs)?;
    let mut ledger = Ledger::read(&dirs, app)?;
    loaded.owned_by(&ledger)?;
    let all = leftover::kept(&loaded.model, &ledger, &dirs);
    let mut chosen: Vec<&Kept> = Vec::new();
    for name in names {
        let before = chosen.len();
        chosen.extend(all.iter().filter(|kept| kept.name == *name));
        if chosen.len() == before {
            return Err(Failure::new(
                2,
                format!("nothing is kept under the name `{name}`; `pysecure data` lists what is"),
            ));
        }
    }
    // What is used may be in use.
    let _claim = match chosen.iter().any(|k| k.used) {
        true => Some(Claim::alone(&dirs, Deed::Remove)?),
        false => None,
    };
    for kept in &chosen {
        let now = if kept.used { ", which the manifest uses" } else { "" };
        eprintln!(
            "to be deleted: {} `{}`{now}: {}",
            kept.what.word(),
            kept.name,
            kept.place.display()
        );
    }
    if !yes && !confirmed()? {
        return Err(Failure::failed("nothing is deleted"));
    }
    for kept in &chosen {
        remove(&kept.place).map_err(|e| Failure::failed(format!("delete {}: {e}", kept.place.display())))?;
        if kept.what == What::Resource {
            ledger.paths.remove(&kept.name);
            ledger.applied.remove(&kept.name);
        }
        outln!("deleted {}", kept.place.display());
    }
    ledger.write(&dirs, &lock)?;
    Ok(0)
}

fn confirmed() -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::new(
            2,
            "this asks on a terminal, and there is none; write --yes if it is meant",
        ));
    }
    eprint!("delete it? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
