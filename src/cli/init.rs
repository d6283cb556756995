//! `init`: a manifest to start from.

use super::args::{Cli, Init};
use super::{Done, Failure};
use crate::host::outer;
use crate::host::{Dirs, Privilege};
use crate::manifest::is_app_name;
use crate::plan::ledger::Whose;
use crate::plan::{Ledger, PlanError};
use std::io::Write;
use std::path::Path;

/// The app's name in the manifest that is written.
const NAME: &str = "name = \"demo\"";

pub(super) fn run(cli: &Cli, args: &Init) -> Done {
    let path = match cli.manifest() {
        Some(file) => file.to_owned(),
        None => args.folder.join("pysecure.toml"),
    };
    if cli.manifest().is_none() {
        std::fs::create_dir_all(&args.folder)
            .map_err(|e| Failure::failed(format!("make the folder {}: {e}", args.folder.display())))?;
    }
    let mut file = std::fs::File::options()
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| match e.kind() {
            std::io::ErrorKind::AlreadyExists => Failure::failed(format!(
                "{} is there already; edit it, or name another with -f",
                path.display()
            )),
            _ => Failure::failed(format!("write {}: {e}", path.display())),
        })?;
    let name = free_name(cli, &std::fs::canonicalize(&path)?);
    // The comment behind it keeps its column.
    let (before, behind) = crate::manifest::INIT
        .split_once(NAME)
        .unwrap_or((crate::manifest::INIT, ""));
    let named = format!("name = \"{name}\"");
    let column = NAME.len() + behind.len() - behind.trim_start_matches(' ').len();
    let behind = behind.trim_start_matches(' ');
    write!(file, "{before}{named:<0$} {behind}", column.saturating_sub(1))?;
    outln!("wrote {}; start `{name}` with `pysecure up`", path.display());
    Ok(0)
}

/// What the manifest's folder is called, made a name, and none that another manifest's app has here.
fn free_name(cli: &Cli, manifest: &Path) -> String {
    let folder = manifest.parent().and_then(Path::file_name).unwrap_or_default();
    let name = as_name(&folder.to_string_lossy());
    let root = outer::expected() == Privilege::Root;
    let free = |name: &String| {
        let dirs = Dirs::find(name, root, cli.state_dir.as_deref()).map_err(PlanError::from);
        let ledger = dirs.and_then(|dirs| Ledger::read(&dirs, name));
        // What cannot be read is somebody's.
        ledger.is_ok_and(|ledger| ledger.whose(manifest) == Whose::Ours)
    };
    let numbered = (2..100).map(|n| format!("{name}-{n}"));
    std::iter::once(name.clone()).chain(numbered).find(free).unwrap_or(name)
}

/// Lower case; what a name cannot hold becomes `-`. Short enough for a number behind it.
fn as_name(text: &str) -> String {
    let mut out = String::new();
    for letter in text.to_lowercase().chars() {
        match letter {
            'a'..='z' => out.push(letter),
            '0'..='9' | '_' if !out.is_empty() => out.push(letter),
            _ if !out.is_empty() && !out.ends_with('-') => out.push('-'),
            _ => {}
        }
    }
    out.truncate(48);
    let out = out.trim_end_matches(['-', '_']).to_owned();
    match is_app_name(&out) {
        true => out,
        false => "app".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders() {
        for (folder, name) in [
            ("web", "web"),
            ("My Shop", "my-shop"),
            ("2024-bank.v2", "bank-v2"),
            (".hidden", "hidden"),
            ("tmp.AbC_9", "tmp-abc_9"),
            ("", "app"),
            ("\u{e9}t\u{e9}", "t"),
            ("---", "app"),
            ("42", "app"),
        ] {
            assert_eq!(as_name(folder), name, "{folder}");
        }
        assert!(as_name(&"x".repeat(300)).len() <= 48);
    }
}
