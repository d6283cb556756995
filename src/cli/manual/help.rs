//! What `--help` shows beside the arguments: commands in groups, a first line to begin with, and examples.

use super::commands::{COMMANDS, GROUPS};
use clap::Command;
use std::fmt::Write;

/// Where one begins.
const FIRST: &str = "To begin: `pysecure init` writes a manifest that works, `pysecure up` starts it.";

/// The program with all that its help shows. It takes longer to make than most commands take, so it is made for help alone.
/// `long`: with examples.
pub(in crate::cli) fn documented(mut cli: Command, long: bool) -> Command {
    // What is described once it is asked for has to be there to be spoken of.
    cli.build();
    let template = format!(
        "{{about}}\n{FIRST}\n\n{{usage-heading}} {{usage}}\n\n{}Global options:\n{{options}}\n{{after-help}}\n",
        groups(&cli)
    );
    let mut cli = cli
        .help_template(template)
        .after_help("`pysecure help COMMAND` shows a command's options and examples.");
    for about in COMMANDS {
        let words: Vec<&str> = about.command.split(' ').collect();
        let text = match long {
            true => examples(about.examples),
            false => "`--help` has examples.".to_owned(),
        };
        cli = with_text(cli, &words, &text);
    }
    cli
}

fn groups(cli: &Command) -> String {
    let mut out = String::new();
    for (heading, names) in GROUPS {
        let _ = writeln!(out, "{heading}:");
        for sub in names.iter().filter_map(|name| cli.find_subcommand(name)) {
            let about = sub.get_about().map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(out, "  {:<12} {about}", sub.get_name());
        }
        out.push('\n');
    }
    out
}

fn with_text(command: Command, path: &[&str], text: &str) -> Command {
    match path {
        [] => command.after_help(text.to_owned()),
        [first, rest @ ..] => command.mut_subcommand(first, |sub| with_text(sub, rest, text)),
    }
}

fn examples(list: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (what, lines) in list {
        let _ = write!(out, "{}\n  {what}\n", if out.is_empty() { "Examples:" } else { "" });
        for line in lines.lines() {
            let _ = writeln!(out, "    {line}");
        }
    }
    out
}
