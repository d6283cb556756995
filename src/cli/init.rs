//! `init`: a manifest to start from.

use super::args::{Cli, Init};
use super::{Done, Failure};
use std::io::Write;

pub(super) fn run(cli: &Cli, args: &Init) -> Done {
    let path = match cli.manifest() {
        Some(file) => file.to_owned(),
        None => args.folder.join("pysecure.toml"),
    };
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
    file.write_all(crate::manifest::INIT.as_bytes())?;
    outln!("wrote {}; start it with `pysecure up`", path.display());
    Ok(0)
}
