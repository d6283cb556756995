//! Completions and man pages, from the arguments themselves.

use super::args::Cli;
use super::{Done, Failure};
use clap::CommandFactory;
use std::path::Path;

pub(super) fn completions(shell: clap_complete::Shell) -> Done {
    clap_complete::generate(shell, &mut Cli::command(), "pysecure", &mut std::io::stdout());
    Ok(0)
}

pub(super) fn man(folder: &Path) -> Done {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
        .map_err(|e| Failure::failed(format!("write man pages to {}: {e}", folder.display())))?;
    Ok(0)
}
