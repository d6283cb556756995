//! `jail`: roots put together from recipes. Recipes are those beside the manifest, which need not be there, and those
//! that PySecure brings.

use super::args::{Cli, Jail, JailDeed};
use super::load::with_privilege;
use super::{Done, Failure};
use crate::jail;
use crate::jail::collect::{Kind, Listing};
use crate::jail::recipe::{self, Recipe};
use crate::jail::store::{Count, Store};
use crate::launch::outer;
use crate::plan::{Dirs, Privilege};
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
        store: Store::new(&dirs.state),
        recipes: folder.join("rootfs-templates"),
        apps: dirs.state.join("apps"),
    };
    match &args.deed {
        JailDeed::List => list(&place),
        JailDeed::Build { from, fresh, names } => build(&place, from.as_deref(), *fresh, names),
        JailDeed::Show { name } => show(&place, name),
        JailDeed::Why { path, name } => why(&place, path, name.as_deref()),
        JailDeed::Diff {
            one,
            traced: Some(service),
            ..
        } => never_opened(&place.find(one)?, &super::trace::opened(cli, service)?),
        JailDeed::Diff { one, other, .. } => diff(&place, one, other.as_deref().unwrap_or_default()),
        JailDeed::Trace {
            output,
            service,
            command,
        } => super::trace::run(cli, service, command, output.as_deref()),
        JailDeed::Prune => {
            let Count { files, bytes } = place.store.prune(&place.apps)?;
            println!("removed {files} files, {}", size(bytes));
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
            let text = format!("rootfs \"{name}\" binds the host's directories: there is nothing to build");
            return Err(Failure::new(2, text));
        }
        Ok(recipe)
    }
}

fn named(name: &str, error: impl std::fmt::Display) -> Failure {
    Failure::new(2, format!("rootfs \"{name}\": {error}"))
}

fn list(place: &Place) -> Done {
    for name in recipe::all(&place.recipes) {
        match recipe::load(&place.recipes, &name) {
            Ok(recipe) => println!("recipe {name}: {}", recipe.description),
            Err(e) => println!("recipe {name}: {e}"),
        }
    }
    for (hash, users) in place.store.list() {
        let (_, listing) = place.store.listing(&hash)?;
        let users = if users.is_empty() {
            "no app has it".to_owned()
        } else {
            format!("of {}", users.join(", "))
        };
        println!("jail {}: {}, {users}", short(&hash), sum(&listing));
    }
    Ok(0)
}

fn build(place: &Place, from: Option<&Path>, fresh: bool, names: &[String]) -> Done {
    let mut recipes: Vec<(String, Recipe)> = Vec::new();
    if let Some(path) = from {
        let text = std::fs::read_to_string(path)
            .map_err(|e| Failure::new(2, format!("read {}: {e}; name a list of paths", path.display())))?;
        recipes.push((path.display().to_string(), Recipe::from_list(&text)));
    }
    for name in names {
        recipes.push((name.clone(), place.recipe(name)?));
    }
    for (name, recipe) in &recipes {
        jail::made::make(&place.store, recipe, fresh).map_err(|e| named(name, e))?;
        let listing = jail::work_out(&place.store, name, recipe).map_err(|e| named(name, e))?;
        let (hash, new) = place.store.build(&listing, recipe).map_err(|e| named(name, e))?;
        for note in &listing.notes {
            eprintln!("note: {note}");
        }
        println!("{name}: {}, {} ({} new)", short(&hash), sum(&listing), size(new.bytes));
    }
    Ok(0)
}

fn show(place: &Place, name: &str) -> Done {
    for (path, item) in &place.find(name)?.items {
        match &item.kind {
            Kind::Directory => println!("{}/", path.display()),
            Kind::Link(target) => println!("{} -> {}", path.display(), target.display()),
            Kind::File { size: bytes, .. } => println!("{}  {}", path.display(), size(*bytes)),
        }
    }
    Ok(0)
}

fn why(place: &Place, path: &Path, name: Option<&str>) -> Done {
    let listings: Vec<(String, Listing)> = match name {
        Some(name) => vec![(name.to_owned(), place.find(name)?)],
        None => {
            let built = place.store.list().into_iter();
            built
                .map(|(hash, _)| place.store.listing(&hash))
                .collect::<Result<_, _>>()?
        }
    };
    let mut found = false;
    for (name, listing) in &listings {
        let Some(item) = listing.items.get(path) else { continue };
        found = true;
        println!("{}: {}", short(name), item.why);
        // And why that which needs it is there, up to the recipe.
        let mut reason = item.why.as_str();
        for _ in 0..listing.items.len() {
            let of = reason
                .strip_suffix(" needs it")
                .or_else(|| reason.strip_prefix("it lies in "));
            let Some((by, above)) = of.and_then(|of| Some((of, listing.items.get(Path::new(of))?))) else {
                break;
            };
            println!("  {by}: {}", above.why);
            reason = &above.why;
        }
    }
    if !found {
        return Err(Failure::failed(format!("{} is in no such jail", path.display())));
    }
    Ok(0)
}

/// As diff(1): 1 if they differ.
fn diff(place: &Place, one: &str, other: &str) -> Done {
    let (one, other) = (place.find(one)?, place.find(other)?);
    let mut same = true;
    let all: std::collections::BTreeSet<&PathBuf> = one.items.keys().chain(other.items.keys()).collect();
    for path in all {
        let sign = match (one.items.get(path), other.items.get(path)) {
            (Some(a), Some(b)) if a.kind == b.kind => continue,
            (Some(_), Some(_)) => '~',
            (Some(_), None) => '-',
            _ => '+',
        };
        same = false;
        println!("{sign} {}", path.display());
    }
    Ok(u8::from(!same))
}

/// As diff: 1 if there is anything.
fn never_opened(listing: &Listing, opened: &std::collections::BTreeSet<PathBuf>) -> Done {
    let mut same = true;
    for (path, item) in &listing.items {
        if matches!(item.kind, Kind::File { .. }) && !opened.contains(path) {
            same = false;
            println!("- {}", path.display());
        }
    }
    Ok(u8::from(!same))
}

/// As much of a hash as people need to tell jails apart.
fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

fn sum(listing: &Listing) -> String {
    let sizes = listing.items.values().filter_map(|i| match i.kind {
        Kind::File { size, .. } => Some(size),
        _ => None,
    });
    let (files, bytes) = sizes.fold((0u64, 0u64), |(n, sum), size| (n + 1, sum + size));
    format!("{files} files, {}", size(bytes))
}

fn size(bytes: u64) -> String {
    match bytes {
        0..10_000 => format!("{bytes} B"),
        10_000..10_000_000 => format!("{} kB", bytes / 1000),
        _ => format!("{} MB", bytes / 1_000_000),
    }
}
