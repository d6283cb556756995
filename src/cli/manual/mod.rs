//! The manual: a page for each command and file, from the arguments, the manifest's schema and the texts beside this file. It is
//! written for man(1), by `pysecure man`, and for docs/reference, which a test compares; `--help` has its examples from here as well.

mod commands;
mod help;
mod manifest;
#[cfg(test)]
mod markdown;
mod page;
mod recipe;
mod roff;
mod rpc;
#[cfg(test)]
mod tests;

pub(super) use help::documented;

use super::args::Cli;
use super::error::EXIT_CODES;
#[cfg(test)]
use super::error::ExitCode;
use super::{Done, Failure};
use clap::{Arg, Command, CommandFactory};
use commands::{About, COMMANDS, ENVIRONMENT, FILES, GROUPS, SECURITY};
#[cfg(test)]
use page::Section;
use page::{Block, Page};
use std::path::Path;

/// Writes all pages below a folder, as man(1) wants to find them: `man1/pysecure-up.1`.
pub(super) fn write(folder: &Path) -> Done {
    let date = date();
    for page in pages() {
        let place = folder.join(format!("man{}", page.section));
        let file = place.join(format!("{}.{}", page.name, page.section));
        std::fs::create_dir_all(&place)
            .and_then(|()| std::fs::write(&file, roff::page(&page, &date)))
            .map_err(|e| Failure::failed(format!("write the page {}: {e}", file.display())))?;
    }
    Ok(0)
}

fn pages() -> Vec<Page> {
    let cli = built();
    let mut out = vec![program(&cli)];
    walk(&cli, &mut |path, command| out.push(of_command(path, command)));
    out.extend([manifest::page(), recipe::page(), rpc::page()]);
    out
}

/// All commands, with the arguments that each has.
fn built() -> Command {
    let mut cli = Cli::command();
    cli.build();
    cli
}

/// Each command that is shown, its own commands after it.
fn walk(command: &Command, each: &mut dyn FnMut(&str, &Command)) {
    fn inner(before: &str, command: &Command, each: &mut dyn FnMut(&str, &Command)) {
        for sub in shown(command) {
            let path = format!("{before}{}", sub.get_name());
            each(&path, sub);
            inner(&format!("{path} "), sub, each);
        }
    }
    inner("", command, each);
}

fn shown(command: &Command) -> impl Iterator<Item = &Command> {
    command
        .get_subcommands()
        .filter(|sub| !sub.is_hide_set() && sub.get_name() != "help")
}

/// What the texts have about a command.
fn text_of(path: &str) -> Option<&'static About> {
    COMMANDS.iter().find(|about| about.command == path)
}

fn program(cli: &Command) -> Page {
    let page = Page {
        name: "pysecure".to_owned(),
        section: 1,
        about: "run the parts of an application as separate users, in separate sandboxes".to_owned(),
        sections: Vec::new(),
    };
    let mut listed = Vec::new();
    for (heading, names) in GROUPS {
        listed.push(Block::Part((*heading).to_owned()));
        for sub in names.iter().filter_map(|name| cli.find_subcommand(name)) {
            listed.push(Block::Item(format!("`pysecure-{}(1)`", sub.get_name()), about_of(sub)));
        }
    }
    let pairs = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(term, text)| Block::item(&format!("`{term}`"), text))
            .collect()
    };
    page.with(
        "SYNOPSIS",
        vec![
            Block::text("`pysecure` [`-f` MANIFEST] [OPTION]... COMMAND [ARGUMENT]..."),
            Block::text("`pysecure help` [COMMAND]"),
            Block::text("`pysecure version`"),
        ],
    )
    .with("DESCRIPTION", vec![
        Block::text("PySecure runs an application as several services. Each has its own UID and its own namespaces. It sees the programs of the system, read-only, and the files that one file, the manifest, grants it. If one service is taken over, the others and their data stay out of reach."),
        Block::text("The manifest lists the services, the files that each may read or write, and who may call whom. `pysecure init` writes one that works; pysecure.toml(5) describes all keys. `pysecure check` shows errors with their lines before anything starts."),
        Block::text("`pysecure up` starts the services under a supervisor, one for each app; there is no other daemon. It works as root and as an ordinary user. Files, sockets and ids of an app are kept under its name."),
    ])
    .with("COMMANDS", listed)
    .with("GLOBAL OPTIONS", options(cli, |arg| arg.get_id() != "help"))
    .with("EXIT STATUS", exit_status(None))
    .with("ENVIRONMENT", pairs(ENVIRONMENT))
    .with("FILES", pairs(FILES))
    .with("SECURITY", SECURITY.iter().map(|text| Block::text(text)).collect())
    .with("EXAMPLES", examples(&[
        ("Write a manifest that works, and look for errors in it.", "pysecure init\npysecure check"),
        ("Start the app in the background, and see how its services are.", "pysecure up -d\npysecure ps"),
        ("See who may touch what, and why.", "pysecure access"),
        ("Follow what a service prints.", "pysecure logs -f web"),
        ("Look around in a service, with its rights.", "pysecure exec web -- sh"),
        ("Apply a changed manifest.", "pysecure up -d"),
        ("Stop the app.", "pysecure down"),
    ]))
    .with("SEE ALSO", see(&["pysecure.toml(5)", "pysecure-recipe(5)", "pysecure-rpc(7)", "namespaces(7)", "user_namespaces(7)", "subuid(5)", "sd_notify(3)", "systemd.exec(5)"]))
    .with("BUGS", vec![Block::text(BUGS)])
}

const BUGS: &str = "Report bugs as issues of the project. A weakness is not for an issue: SECURITY.md of the sources says where it goes. Before version 1.0, keys of the manifest may still change; old ones are then answered with the new ones.";

fn of_command(path: &str, command: &Command) -> Page {
    let text = text_of(path);
    let page = Page {
        name: page_name(path),
        section: 1,
        about: uncapitalized(&about_of(command)),
        sections: Vec::new(),
    };
    let mut described = vec![Block::Text(sentence(&about_of(command)))];
    described.extend(text.iter().flat_map(|t| t.more).map(|more| Block::text(more)));
    let subs: Vec<Block> = shown(command)
        .map(|sub| {
            let page = page_name(&format!("{path} {}", sub.get_name()));
            Block::Item(format!("`{page}(1)`"), sentence(&about_of(sub)))
        })
        .collect();
    let mut also: Vec<&str> = vec!["pysecure(1)"];
    also.extend(text.iter().flat_map(|t| t.see));
    page.with("SYNOPSIS", vec![Block::Text(synopsis(path, command))])
        .with("DESCRIPTION", described)
        .with("COMMANDS", subs)
        .with(
            "OPTIONS",
            options(command, |arg| !arg.is_global_set() && arg.get_id() != "help"),
        )
        .with(
            "GLOBAL OPTIONS",
            vec![Block::text(
                "`--file` MANIFEST, `--state-dir` DIR, `--log-format` FORMAT and `-v` are described in pysecure(1).",
            )],
        )
        .with("EXAMPLES", examples(text.map_or(&[], |t| t.examples)))
        .with("EXIT STATUS", exit_status(Some(path)))
        .with("SEE ALSO", see(&also))
}

fn page_name(path: &str) -> String {
    format!("pysecure-{}", path.replace(' ', "-"))
}

/// How a command is typed, with the names of all values.
fn synopsis(path: &str, command: &Command) -> String {
    let mut out = format!("`pysecure {path}`");
    let own = || {
        command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && !arg.is_global_set())
    };
    for arg in own().filter(|arg| !arg.is_positional() && arg.get_id() != "help") {
        let short = arg.get_short().map(|short| format!("-{short}"));
        let long = arg.get_long().map(|long| format!("--{long}"));
        let mut text = format!("`{}`", short.or(long).unwrap_or_default());
        if takes_value(arg) {
            text += &format!(" {}", value_name(arg));
        }
        let often = if matches!(arg.get_action(), clap::ArgAction::Append) {
            "..."
        } else {
            ""
        };
        out += &match arg.is_required_set() {
            true => format!(" {text}{often}"),
            false => format!(" [{text}]{often}"),
        };
    }
    if shown(command).next().is_some() {
        out += match command.is_subcommand_required_set() {
            true => " COMMAND",
            false => " [COMMAND]",
        };
    }
    for arg in own().filter(|arg| arg.is_positional()) {
        let many = arg.get_num_args().is_some_and(|range| range.max_values() > 1)
            || matches!(arg.get_action(), clap::ArgAction::Append);
        let name = value_name(arg);
        let often = if many { "..." } else { "" };
        let before = match (arg.is_last_set(), name == "CMD") {
            (true, _) => "-- ",
            // All that follows is the program's.
            (false, true) => "[--] ",
            (false, false) => "",
        };
        out += &match arg.is_required_set() {
            true => format!(" {before}{name}{often}"),
            false => format!(" [{before}{name}]{often}"),
        };
    }
    out
}

fn takes_value(arg: &Arg) -> bool {
    arg.get_action().takes_values()
}

fn value_name(arg: &Arg) -> String {
    match arg.get_value_names() {
        Some([name, ..]) => name.to_string(),
        _ => arg.get_id().as_str().to_uppercase(),
    }
}

/// Options and arguments, each with all that is to be said of it.
fn options(command: &Command, wanted: impl Fn(&Arg) -> bool) -> Vec<Block> {
    let all = command.get_arguments().filter(|arg| !arg.is_hide_set() && wanted(arg));
    all.map(|arg| Block::Item(term(arg), meaning(arg))).collect()
}

/// `-d`, `--detach`; or a value's name.
fn term(arg: &Arg) -> String {
    if arg.is_positional() {
        return value_name(arg);
    }
    let short = arg.get_short().map(|short| format!("`-{short}`"));
    let long = arg.get_long().map(|long| format!("`--{long}`"));
    let names: Vec<String> = short.into_iter().chain(long).collect();
    let value = match takes_value(arg) {
        true => format!(" {}", value_name(arg)),
        false => String::new(),
    };
    format!("{}{value}", names.join(", "))
}

fn meaning(arg: &Arg) -> String {
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let mut out = match help.split_once(" [default: ") {
        Some((text, default)) => format!("{} Default: {}.", sentence(text), default.trim_end_matches(']')),
        None => sentence(&help),
    };
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|value| !value.is_hide_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if takes_value(arg) && !values.is_empty() {
        out += &format!(" Possible values: {}.", values.join(", "));
    }
    let defaults: Vec<String> = arg
        .get_default_values()
        .iter()
        .map(|d| format!("`{}`", d.to_string_lossy()))
        .collect();
    if takes_value(arg) && !defaults.is_empty() {
        out += &format!(" Default: {}.", defaults.join(", "));
    }
    if let Some(variable) = arg.get_env() {
        out += &format!(" Environment: `{}`.", variable.to_string_lossy());
    }
    out
}

fn about_of(command: &Command) -> String {
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

/// clap's help ends without a full stop.
fn sentence(text: &str) -> String {
    match text.ends_with(['.', '?', '!']) || text.is_empty() {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}

/// As it stands after a dash.
fn uncapitalized(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_lowercase().to_string());
    format!("{}{}", first.unwrap_or_default(), letters.as_str())
}

fn examples(list: &[(&str, &str)]) -> Vec<Block> {
    let both = list
        .iter()
        .flat_map(|(what, line)| [Block::text(what), Block::code(line)]);
    both.collect()
}

/// The exit codes of a command; `None`: of all.
fn exit_status(path: Option<&str>) -> Vec<Block> {
    let rows = EXIT_CODES.iter().filter(|row| path.is_none_or(|path| row.is_of(path)));
    rows.map(|row| {
        let whose = match (path, row.of) {
            (None, [_, ..]) => format!(
                "{}: ",
                row.of.iter().map(|c| format!("`{c}`")).collect::<Vec<_>>().join(", ")
            ),
            _ => String::new(),
        };
        Block::Item(format!("`{}`", row.code), format!("{whose}{}", row.meaning))
    })
    .collect()
}

fn see(pages: &[&str]) -> Vec<Block> {
    let mut all: Vec<&str> = Vec::new();
    for page in pages {
        if !all.contains(page) {
            all.push(page);
        }
    }
    let all: Vec<String> = all.iter().map(|page| format!("`{page}`")).collect();
    vec![Block::Text(all.join(", "))]
}

/// The day that the pages bear: SOURCE_DATE_EPOCH's, or that of the changelog's newest release; nothing before there is one.
fn date() -> String {
    let epoch = std::env::var("SOURCE_DATE_EPOCH")
        .ok()
        .and_then(|text| text.parse::<i64>().ok());
    if let Some(time) = epoch.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()) {
        return time.strftime("%Y-%m-%d").to_string();
    }
    released(include_str!("../../../CHANGELOG.md"))
        .unwrap_or_default()
        .to_owned()
}

/// `## [0.1.0] - 2026-12-01`
fn released(changelog: &str) -> Option<&str> {
    let headings = changelog.lines().filter_map(|line| line.strip_prefix("## "));
    headings
        .filter_map(|heading| heading.rsplit_once(" - "))
        .map(|(_, day)| day.trim())
        .next()
}

/// Pages of docs/reference, which are made of the same: their paths below that folder, and their text.
#[cfg(test)]
fn reference() -> [(&'static str, String); 2] {
    [
        ("cli.md", reference_of_commands()),
        ("manifest.md", manifest::reference()),
    ]
}

#[cfg(test)]
fn reference_of_commands() -> String {
    let cli = built();
    let mut out = String::from(
        "# Commands\n\n<!-- Made from src/cli by `PYSECURE_BLESS=1 cargo test --lib cli::manual`: do not edit. -->\n\n",
    );
    out += "Every command and every option. The same is in `pysecure COMMAND --help` and, after `pysecure man DIR`, in man pages.\n\n";
    for (heading, names) in GROUPS {
        out += &format!("**{heading}**: ");
        let links: Vec<String> = names
            .iter()
            .map(|name| format!("[`{name}`](#pysecure-{name})"))
            .collect();
        out += &format!("{}.\n\n", links.join(", "));
    }
    out += "## Global options\n\nThese go before or after the command, but for `-f`, which goes before it.\n\n";
    out += &markdown_of(options(&cli, |arg| arg.get_id() != "help"));
    out += "## Exit codes\n\n";
    out += &exit_table();
    for (_, names) in GROUPS {
        for name in *names {
            walk(&cli, &mut |path, command| {
                if path.split(' ').next() == Some(*name) {
                    out += &reference_of(path, command);
                }
            });
        }
    }
    format!("{}\n", out.trim_end())
}

#[cfg(test)]
fn reference_of(path: &str, command: &Command) -> String {
    let level = if path.contains(' ') { 3 } else { 2 };
    let plain = |text: String| text.replace('`', "");
    let mut out = format!(
        "{} pysecure {path}\n\n```text\n{}\n```\n\n",
        "#".repeat(level),
        plain(synopsis(path, command))
    );
    out += &format!("{}\n\n", sentence(&about_of(command)));
    let text = text_of(path);
    for more in text.iter().flat_map(|t| t.more) {
        out += &format!("{more}\n\n");
    }
    out += &markdown_of(options(command, |arg| !arg.is_global_set() && arg.get_id() != "help"));
    out + &markdown_of(examples(text.map_or(&[], |t| t.examples)))
}

#[cfg(test)]
fn markdown_of(blocks: Vec<Block>) -> String {
    markdown::section(
        &Section {
            title: String::new(),
            blocks,
        },
        4,
    )
}

/// The exit codes, as docs/commands.md has them, too.
#[cfg(test)]
fn exit_table() -> String {
    let mut out = String::from("| code | of | meaning |\n| --- | --- | --- |\n");
    for ExitCode { code, meaning, of } in EXIT_CODES {
        let of: Vec<String> = of.iter().map(|command| format!("`{command}`")).collect();
        let of = if of.is_empty() {
            "every command".to_owned()
        } else {
            of.join(", ")
        };
        out += &format!("| {code} | {of} | {meaning} |\n");
    }
    out + "\n"
}
