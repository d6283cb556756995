//! Completions, from the arguments themselves.

use super::Done;
use super::args::Cli;
use clap::CommandFactory;

pub(super) fn completions(shell: clap_complete::Shell) -> Done {
    clap_complete::generate(shell, &mut Cli::command(), "pysecure", &mut std::io::stdout());
    Ok(0)
}
