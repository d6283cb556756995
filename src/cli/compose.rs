//! What people type who come from docker compose, or from a version of before: each word of such a command line that PySecure does not
//! take is answered with what to write instead.

use super::args::Cli;
use super::manual;
use crate::former;
use clap::CommandFactory as _;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::borrow::Cow;
use std::ffi::OsString;

/// `help` and `version` are options here, and commands there.
pub(super) fn rewritten(mut arguments: Vec<OsString>) -> Vec<OsString> {
    match arguments.get(1).and_then(|word| word.to_str()) {
        Some("help") => {
            arguments.remove(1);
            arguments.push("--help".into());
        }
        Some("version") if arguments.len() == 2 => arguments[1] = "--version".into(),
        _ => {}
    }
    arguments
}

/// Ends this program as clap does, with one line more if there is something to say.
pub(super) fn refuse(error: &clap::Error, arguments: &[OsString]) -> ! {
    let long = arguments.iter().any(|word| word == "--help");
    if without_command(error) {
        eprint!("{}", manual::documented(Cli::command(), true).render_help().ansi());
        std::process::exit(error.exit_code());
    }
    let shows_help = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    );
    let documented = || {
        manual::documented(Cli::command(), long)
            .try_get_matches_from(arguments)
            .err()
    };
    let documented = shows_help.then(documented).flatten();
    let error = documented.as_ref().unwrap_or(error);
    let _ = error.print();
    let tip = matches!(error.kind(), ErrorKind::InvalidSubcommand | ErrorKind::UnknownArgument)
        .then(|| tip(error, arguments))
        .flatten();
    if let Some(tip) = tip {
        errln!("\nnote: {tip}");
    }
    std::process::exit(error.exit_code());
}

/// Does no word say what is to be done?
fn without_command(error: &clap::Error) -> bool {
    let of_program = || match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(name)) => name == "pysecure",
        _ => true,
    };
    error.kind() == ErrorKind::MissingSubcommand && of_program()
}

fn tip(error: &clap::Error, arguments: &[OsString]) -> Option<Cow<'static, str>> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    if let Some(command) = context(ContextKind::InvalidSubcommand) {
        let renamed = former::command(command).map(|new| former::now(&format!("pysecure {new}")).into());
        let known = || COMMANDS.iter().find(|(words, _)| words.contains(&command));
        return renamed.or_else(|| known().map(|(_, tip)| (*tip).into()));
    }
    let option = context(ContextKind::InvalidArg)?;
    let option = option.split(['=', ' ']).next().unwrap_or(option);
    let line: Vec<&str> = arguments.iter().filter_map(|word| word.to_str()).collect();
    if let Some(new) = former::option(&line, option) {
        return Some(former::now(&format!("pysecure {new}")).into());
    }
    let command = known(arguments).unwrap_or_default();
    let of = |(commands, options, _): &&(&[&str], &[&str], &str)| {
        options.contains(&option) && (commands.is_empty() || commands.contains(&command))
    };
    OPTIONS.iter().find(of).map(|(_, _, tip)| (*tip).into())
}

/// The command that was given, as far as options are about it.
fn known(arguments: &[OsString]) -> Option<&str> {
    const OF_OPTIONS: [&str; 12] = [
        "up", "down", "ps", "exec", "run", "logs", "stop", "start", "restart", "kill", "cp", "stats",
    ];
    let words = arguments.iter().skip(1).filter_map(|word| word.to_str());
    words.into_iter().find(|word| OF_OPTIONS.contains(word))
}

/// Commands of docker compose, docker, systemctl and the like, and what does their work here.
const COMMANDS: &[(&[&str], &str)] = &[
    (
        &["scale"],
        "a service has one process tree: `processes` and `threads` of its server, or several services with a name each",
    ),
    (
        &["build", "pull", "push", "images", "image"],
        "there are no images: services run from your files, or from a root that `pysecure jail build NAME` makes",
    ),
    (
        &["config", "convert"],
        "`pysecure check` checks the manifest, `pysecure spec` prints what it comes to",
    ),
    (
        &["create"],
        "`pysecure up -d` makes and starts all; `start = \"on-demand\"` has a service wait for its first connection",
    ),
    (
        &["rm", "remove"],
        "a service that is stopped leaves no container: `pysecure stop SERVICE`; `pysecure data` shows what is kept, `pysecure down --purge` deletes it",
    ),
    (
        &["pause", "unpause"],
        "`pysecure kill -s STOP SERVICE` and `-s CONT` hold a service and let it go on",
    ),
    (
        &["port"],
        "`pysecure ps` lists services, `publish` and `listen` of the manifest say on which addresses",
    ),
    (
        &["volumes", "volume"],
        "`pysecure data` shows what is kept of the app, `pysecure access` who may touch it",
    ),
    (
        &["network", "networks"],
        "`network`, `publish` and `egress` of a service say what it reaches; `pysecure access` shows it",
    ),
    (&["watch"], "`pysecure up --watch` follows the manifest and the code"),
    (
        &["attach"],
        "`pysecure logs -f SERVICE` shows what it prints, `pysecure exec SERVICE -- sh` looks into it",
    ),
    (
        &["inspect"],
        "`pysecure ps --json`, `pysecure access --json` and `pysecure spec` say all that is known of a service",
    ),
    (
        &["status", "list", "list-units"],
        "`pysecure ps` shows the services and how they are",
    ),
    (
        &["enable", "disable"],
        "systemd starts an app at boot by a unit that runs `pysecure up`: docs/how-to/supervision.md",
    ),
    (
        &["shell", "sh", "bash"],
        "`pysecure exec SERVICE -- sh` is a shell beside a service that runs, `pysecure run SERVICE -- sh` one without it",
    ),
    (
        &["export", "commit", "save", "load", "import"],
        "there are no images: `pysecure cp SERVICE:/PATH .` copies files out, `pysecure spec -o DIR` writes OCI bundles",
    ),
    (
        &["login", "logout", "search", "publish"],
        "there is no registry: services run from your files, or from roots that recipes make",
    ),
    (
        &["validate", "lint", "verify"],
        "`pysecure check` says all that is wrong with the manifest",
    ),
];

/// Options: of these commands (any, if there is none), and what does their work here.
type OfOptions = (&'static [&'static str], &'static [&'static str], &'static str);

const OPTIONS: &[OfOptions] = &[
    (
        &["exec", "run"],
        &["-i", "-t", "-it", "-ti", "--interactive", "--tty"],
        "leave it out: there is a terminal if you are at one, and standard input is passed on; `-T` is to have none",
    ),
    (
        &["run"],
        &["--rm"],
        "leave it out: nothing is left of a program that `run` started",
    ),
    (
        &["exec", "run"],
        &["-u", "--user"],
        "a service's program has the service's own UID, and so has this one: leave it out",
    ),
    (
        &["exec"],
        &["--privileged"],
        "no program gets more than its service has",
    ),
    (
        &["exec", "run"],
        &["-d", "--detach"],
        "write a service with `type = \"oneshot\"` and `pysecure start` it, or put `&` behind the command",
    ),
    (
        &["run"],
        &["-p", "--publish", "-P", "--service-ports"],
        "ports are the manifest's to publish: `publish` of the service",
    ),
    (
        &["run"],
        &["--volume"],
        "what a service sees is the manifest's to say: a resource with `source`; `pysecure cp` copies files in",
    ),
    (
        &["run"],
        &["-w", "--workdir"],
        "`directory` of the service is where it starts; for another: `-- sh -c 'cd DIR && exec CMD'`",
    ),
    (
        &["run"],
        &[
            "--entrypoint",
            "--name",
            "--no-deps",
            "--build",
            "--quiet-pull",
            "-l",
            "--label",
        ],
        "leave it out: `run SERVICE -- CMD` runs that command with the service's grants, and starts nothing else",
    ),
    (
        &["up"],
        &["--build", "--pull", "--no-build"],
        "leave it out: there are no images, and `up` builds roots that are missing",
    ),
    (
        &["up"],
        &["--force-recreate", "-V", "--renew-anon-volumes"],
        "`pysecure restart` starts services anew; `up` does so with those that have changed",
    ),
    (
        &["up"],
        &["--remove-orphans", "--no-recreate"],
        "leave it out: `up` stops what the manifest has no more, and touches only what has changed",
    ),
    (
        &["down"],
        &["--remove-orphans"],
        "leave it out: `down` stops all that the app has running",
    ),
    (
        &["up"],
        &["--scale"],
        "a service has one process tree: `processes` of its server, or several services with a name each",
    ),
    (
        &["up"],
        &["--wait", "--wait-timeout"],
        "`pysecure up -d` returns when all services are ready; `start_timeout` bounds it",
    ),
    (
        &["up"],
        &["--no-start", "--no-deps", "--no-log-prefix", "--attach", "--no-attach"],
        "`pysecure up -d` starts all, `pysecure stop SERVICE` stops one, `pysecure logs -f SERVICE` shows one",
    ),
    (
        &["up"],
        &[
            "--abort-on-container-exit",
            "--abort-on-container-failure",
            "--exit-code-from",
        ],
        "`pysecure run SERVICE` ends with its program's exit code; `pysecure events` tells when one ends",
    ),
    (
        &["down"],
        &["--volumes", "--rmi"],
        "`pysecure down --purge` deletes the app's data as well, after it has shown what that is",
    ),
    (
        &["ps"],
        &["-a", "--all"],
        "leave it out: `ps` shows all services, those too that do not run",
    ),
    (
        &["ps"],
        &["-q", "--quiet", "--services", "--format", "--filter", "--status"],
        "`pysecure ps --json` is for programs",
    ),
    (
        &["logs"],
        &["--no-color", "--no-log-prefix"],
        "leave it out: colours are for terminals alone; `--json` has each line by itself",
    ),
    (
        &["stop", "kill", "restart"],
        &["--remove-orphans", "--no-deps"],
        "leave it out: only the services that are named are stopped",
    ),
    (
        &["cp"],
        &["-a", "--archive", "-L", "--follow-link", "--index", "--all"],
        "leave it out: links are copied as links, owners and modes are the receiver's",
    ),
    (&["exec"], &["--index"], "leave it out: a service is there once"),
    (
        &["stats"],
        &["-a", "--all", "--format", "--no-trunc"],
        "`stats` shows all services; `--json` is for programs, `--no-stream` prints once",
    ),
    (
        &[],
        &["-p", "--project-name"],
        "`name` in [app] is the app's name; `-f` names another manifest",
    ),
    (
        &[],
        &["--profile"],
        "a service that is not to start with the others has `start = \"on-demand\"`; `pysecure start` and `stop` go by name",
    ),
    (
        &[],
        &["-f"],
        "write `--file MANIFEST` after the command, or `-f MANIFEST` before it: `logs -f` follows",
    ),
    (&[], &["--env-file"], "`environment` of a service holds its variables"),
    (
        &[],
        &["--project-directory", "-C"],
        "`-f FOLDER` names the folder of the manifest; its paths are relative to that",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn told(words: &[&str]) -> Option<Cow<'static, str>> {
        let arguments: Vec<OsString> = std::iter::once(&"pysecure").chain(words).map(OsString::from).collect();
        let error = Cli::command().try_get_matches_from(&arguments).unwrap_err();
        tip(&error, &arguments)
    }

    #[test]
    fn each_word_is_one_that_is_refused_and_told_of() {
        for (commands, text) in COMMANDS {
            for command in *commands {
                assert_eq!(told(&[command]).as_deref(), Some(*text), "{command}");
            }
        }
        for (commands, options, text) in OPTIONS {
            for option in *options {
                let words = match (commands.first(), *option) {
                    (Some(command), _) => vec![*command, option],
                    // It has its place before the command.
                    (None, "-f") => vec!["up", option, "x"],
                    (None, _) => vec![option, "up"],
                };
                assert_eq!(told(&words).as_deref(), Some(*text), "{words:?}");
            }
        }
        assert!(told(&["init-resources"]).unwrap().contains("`pysecure setup`"));
        let list = told(&["-f", "x", "jail", "build", "--from", "list.txt"]).unwrap();
        assert!(list.contains("`pysecure jail build --list`"), "{list}");
        assert!(
            told(&["call", "--list", "web"])
                .unwrap()
                .contains("`pysecure rpc list`")
        );
        assert!(told(&["exec", "-it", "web", "bash"]).unwrap().contains("terminal"));
        assert!(told(&["up", "--scale=web=3"]).is_some());
        assert_eq!(told(&["nonsense"]), None);
    }

    #[test]
    fn help_and_version_may_be_commands() {
        let of = |words: &[&str]| rewritten(words.iter().map(OsString::from).collect());
        assert_eq!(of(&["pysecure", "help", "up"]), ["pysecure", "up", "--help"]);
        assert_eq!(of(&["pysecure", "help"]), ["pysecure", "--help"]);
        assert_eq!(of(&["pysecure", "version"]), ["pysecure", "--version"]);
        assert_eq!(
            of(&["pysecure", "exec", "web", "help"]),
            ["pysecure", "exec", "web", "help"]
        );
    }
}
