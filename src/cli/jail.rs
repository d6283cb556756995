//! `jail`: roots put together from recipes. Recipes are those beside the manifest, which need not be there, and those
//! that PySecure brings.

use super::args::{Cli, Jail, JailDeed};
use super::error::{Done, Failure};
use super::load::{self, listener, with_privilege};
use super::progress;
use crate::app;
use crate::host::outer;
use crate::host::{Dirs, Privilege};
use crate::jail;
use crate::jail::listing::{EntryKind, JailEntry, Listing, content};
use crate::jail::recipe::{self, Recipe};
use crate::jail::store::{Count, Store};
use crate::plain;
use serde_json::json;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

struct Place {
    store: Store,
    recipes: PathBuf,
    apps: PathBuf,
}

pub(super) fn run(cli: &Cli, args: &Jail) -> Done {
    // In the namespace in which services are started: a jail's files belong to its 0.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let dirs = Dirs::find("", outer::expected() == Privilege::Root, cli.state_dir.as_deref())?;
    let folder = match cli.manifest() {
        Some(named) if named.is_dir() => named.to_owned(),
        Some(named) => named.parent().unwrap_or(Path::new(".")).to_owned(),
        None => PathBuf::from("."),
    };
    let place = Place {
        store: Store::new(&dirs.state).telling(Some(progress::building)),
        recipes: folder.join("jails"),
        apps: dirs.state.join("apps"),
    };
    match &args.deed {
        JailDeed::List { json } => list(&place, *json),
        JailDeed::Build { list, no_cache, names } => build(&place, list.as_deref(), *no_cache, names),
        JailDeed::Show { json, name } => show(&place, *json, name),
        JailDeed::Why { json, path, name } => why(&place, *json, path, name.as_deref()),
        JailDeed::Diff {
            json,
            one,
            traced: Some(service),
            ..
        } => never_opened(*json, &place.find(one)?, &opened(cli, service)?),
        JailDeed::Diff { json, one, other, .. } => diff(&place, *json, one, other.as_deref().unwrap_or_default()),
        JailDeed::Trace {
            output,
            service,
            command,
        } => trace(cli, service, command, output.as_deref()),
        JailDeed::Prune => {
            let Count { files, bytes } = place.store.prune(&place.apps)?;
            outln!("removed {files} files, {}", size(bytes));
            Ok(0)
        }
    }
}

impl Place {
    /// A jail that is built, by hash, or what a recipe comes to now.
    fn find(&self, name: &str) -> Result<Listing, Failure> {
        if recipe::all(&self.recipes).iter().any(|n| n == name) {
            let recipe = self.recipe(name)?;
            return jail::work_out(&self.store, name, &recipe).map_err(|e| named(name, e));
        }
        Ok(self.store.listing(name)?.1)
    }

    fn recipe(&self, name: &str) -> Result<Recipe, Failure> {
        let recipe = recipe::load(&self.recipes, name).map_err(|e| named(name, e))?;
        if !recipe.is_jail() {
            let text = format!("jail \"{name}\" binds the host's directories: there is nothing to build");
            return Err(Failure::new(2, text));
        }
        Ok(recipe)
    }
}

fn named(name: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(2, format!("jail \"{name}\": {error}"))
}

fn list(place: &Place, json: bool) -> Done {
    let mut recipes = Vec::new();
    for name in recipe::all(&place.recipes) {
        let (description, error) = match recipe::load(&place.recipes, &name) {
            Ok(recipe) => (recipe.description, None),
            Err(e) => (String::new(), Some(e.to_string())),
        };
        if !json {
            outln!(
                "recipe {}: {}",
                plain::line(&name),
                plain::line(error.as_deref().unwrap_or(&description))
            );
        }
        recipes.push(json!({ "name": name, "description": description, "error": error }));
    }
    let mut jails = Vec::new();
    for (hash, users) in place.store.list() {
        let (_, listing) = place.store.listing(&hash)?;
        if !json {
            let users = match users.is_empty() {
                true => "no app has it".to_owned(),
                false => format!("of {}", users.join(", ")),
            };
            outln!("jail {}: {}, {users}", short(&hash), sum(&listing));
        }
        let (files, bytes) = total(&listing);
        jails.push(json!({ "hash": hash, "files": files, "bytes": bytes, "apps": users }));
    }
    if json {
        outln!(
            "{}",
            crate::plain::json(&format!("{:#}", json!({ "recipes": recipes, "jails": jails })))
        );
    }
    Ok(0)
}

fn build(place: &Place, list: Option<&Path>, no_cache: bool, names: &[String]) -> Done {
    let mut recipes: Vec<(String, Recipe)> = Vec::new();
    if let Some(path) = list {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(2, format!("read {}: {e}; name a list of paths", path.display())))?;
        recipes.push((path.display().to_string(), Recipe::from_list(&text)));
    }
    for name in names {
        recipes.push((name.clone(), place.recipe(name)?));
    }
    for (name, recipe) in &recipes {
        jail::inputs::make(&place.store, recipe, no_cache).map_err(|e| named(name, e))?;
        let listing = jail::work_out(&place.store, name, recipe).map_err(|e| named(name, e))?;
        let (hash, new) = jail::build(&place.store, &listing, recipe, true).map_err(|e| named(name, e))?;
        for note in &listing.notes {
            errln!("note: {}", plain::line(note));
        }
        outln!("{name}: {}, {} ({} new)", short(&hash), sum(&listing), size(new.bytes));
    }
    Ok(0)
}

fn show(place: &Place, json: bool, name: &str) -> Done {
    let listing = place.find(name)?;
    if json {
        let all = listing.items.iter().map(|(path, item)| in_json(path, item));
        outln!(
            "{}",
            crate::plain::json(&format!("{:#}", serde_json::Value::Array(all.collect())))
        );
        return Ok(0);
    }
    for (path, item) in &listing.items {
        match &item.kind {
            EntryKind::Directory => outln!("{}/", one(path)),
            EntryKind::Link(target) => outln!("{} -> {}", one(path), one(target)),
            EntryKind::File { size: bytes, .. } => outln!("{}  {}", one(path), size(*bytes)),
        }
    }
    Ok(0)
}

fn in_json(path: &Path, item: &JailEntry) -> serde_json::Value {
    let (kind, target, bytes) = match &item.kind {
        EntryKind::Directory => ("directory", None, None),
        EntryKind::Link(target) => ("link", Some(target.display().to_string()), None),
        EntryKind::File { size, .. } => ("file", None, Some(size)),
    };
    json!({ "path": path.display().to_string(), "kind": kind, "target": target, "bytes": bytes, "why": item.why })
}

fn why(place: &Place, json: bool, path: &Path, name: Option<&str>) -> Done {
    let listings: Vec<(String, Listing)> = match name {
        Some(name) => vec![(name.to_owned(), place.find(name)?)],
        None => {
            let built = place.store.list().into_iter();
            built
                .map(|(hash, _)| place.store.listing(&hash))
                .collect::<Result<_, _>>()?
        }
    };
    let mut all = Vec::new();
    for (name, listing) in &listings {
        let path = &listing.place(path);
        let Some(item) = listing.items.get(path) else { continue };
        let mut chain = vec![json!({ "path": path.display().to_string(), "why": item.why })];
        if !json {
            outln!("{}: {}", short(name), plain::line(&item.why));
        }
        // And why that which needs it is there, up to the recipe.
        let mut reason = item.why.as_str();
        for _ in 0..listing.items.len() {
            let of = reason
                .strip_suffix(" needs it")
                .or_else(|| reason.strip_suffix(" opens it by name"))
                .or_else(|| reason.strip_suffix(" leads to it"))
                .or_else(|| reason.strip_prefix("it lies in "));
            let Some((by, above)) = of.and_then(|of| Some((of, listing.items.get(Path::new(of))?))) else {
                break;
            };
            if !json {
                outln!("  {}: {}", plain::line(by), plain::line(&above.why));
            }
            chain.push(json!({ "path": by, "why": above.why }));
            reason = &above.why;
        }
        all.push(json!({ "jail": name, "reasons": chain }));
    }
    if json {
        outln!(
            "{}",
            crate::plain::json(&format!("{:#}", serde_json::Value::Array(all.clone())))
        );
    }
    match all.is_empty() {
        true => Err(Failure::failed(format!("{} is in no such jail", path.display()))),
        false => Ok(0),
    }
}

/// What a service has opened, as it was traced.
fn opened(cli: &Cli, service: &str) -> Result<BTreeSet<PathBuf>, Failure> {
    Ok(app::trace::opened(&load::checked(cli)?.dirs()?, service)?)
}

/// A program run as a service, and the recipe that what it opened comes to.
fn trace(cli: &Cli, service: &str, command: &[String], output: Option<&Path>) -> Done {
    let loaded = load::checked(cli)?;
    let traced = app::trace::trace(&loaded, &loaded.dirs()?, service, command, listener())?;
    match output {
        Some(path) => std::fs::write(path, traced.recipe)
            .map_err(|e| Failure::failed(format!("write {}: {e}", path.display())))?,
        None => print!("{}", plain::lines(&traced.recipe)),
    }
    Ok(traced.code)
}

/// As diff(1): 1 if they differ.
fn diff(place: &Place, json: bool, one: &str, other: &str) -> Done {
    let (one, other) = (place.find(one)?, place.find(other)?);
    let all: BTreeSet<&PathBuf> = one.items.keys().chain(other.items.keys()).collect();
    let mut changed = Vec::new();
    for path in all {
        match (one.items.get(path), other.items.get(path)) {
            (Some(a), Some(b)) => {
                let is_file = matches!(a.kind, EntryKind::File { .. });
                if a.kind != b.kind || is_file && content(path, a)? != content(path, b)? {
                    changed.push(('~', path));
                }
            }
            (Some(_), None) => changed.push(('-', path)),
            _ => changed.push(('+', path)),
        }
    }
    differences(json, changed)
}

/// The same, of what is there and what was opened of it.
fn never_opened(json: bool, listing: &Listing, opened: &BTreeSet<PathBuf>) -> Done {
    let files = listing
        .items
        .iter()
        .filter(|(_, i)| matches!(i.kind, EntryKind::File { .. }));
    let never = files.filter(|(path, _)| !opened.contains(*path));
    differences(json, never.map(|(path, _)| ('-', path)).collect())
}

fn differences(json: bool, all: Vec<(char, &PathBuf)>) -> Done {
    if json {
        let rows = all.iter().map(|(sign, path)| {
            let word = match sign {
                '~' => "differs",
                '-' => "only in the first",
                _ => "only in the second",
            };
            json!({ "path": path.display().to_string(), "how": word })
        });
        outln!(
            "{}",
            crate::plain::json(&format!("{:#}", serde_json::Value::Array(rows.collect())))
        );
    } else {
        for (sign, path) in &all {
            outln!("{sign} {}", one(path));
        }
    }
    Ok(u8::from(!all.is_empty()))
}

/// A path on a line of its own, whatever an image has named it.
fn one(path: &Path) -> String {
    plain::line(&path.display().to_string()).into_owned()
}

/// As much of a hash as people need to tell jails apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn total(listing: &Listing) -> (u64, u64) {
    let sizes = listing.items.values().filter_map(|i| match i.kind {
        EntryKind::File { size, .. } => Some(size),
        _ => None,
    });
    sizes.fold((0, 0), |(n, sum), size| (n + 1, sum + size))
}

fn sum(listing: &Listing) -> String {
    let (files, bytes) = total(listing);
    format!("{files} files, {}", size(bytes))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
