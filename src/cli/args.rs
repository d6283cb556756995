//! The arguments, which read as `docker compose`'s do where both have them.

use crate::values::Isolation;
use clap::builder::{PossibleValuesParser, StyledStr, TypedValueParser};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Privilege separation from one manifest: every service of an application in its own namespaces, with its own
/// UID, seeing only what it was granted.
#[derive(Debug, Parser)]
#[command(name = "pysecure", version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// The manifest, or a folder that holds one [default: pysecure.toml, pysecure.json or pysecure_config.py here]
    #[arg(short = 'f', value_name = "MANIFEST", conflicts_with = "file")]
    first: Option<PathBuf>,
    /// The same as -f, before or behind the command
    // Not one argument with two names: `logs -f` follows, so the short one cannot be global.
    #[arg(long, global = true, value_name = "MANIFEST")]
    file: Option<PathBuf>,
    /// Keep ledgers, data and sockets below this directory
    #[arg(long, global = true, value_name = "DIR", env = "PYSECURE_STATE_DIR")]
    pub state_dir: Option<PathBuf>,
    /// Say more on standard error; twice for everything (RUST_LOG is honoured)
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// How diagnostics are written
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    pub log_format: LogFormat,
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// The manifest that was named, if one was.
    pub(crate) fn manifest(&self) -> Option<&Path> {
        self.first.as_deref().or(self.file.as_deref())
    }
}

/// A command's arguments, which are described to clap once it is that command that was given: to describe all of them
/// takes longer than many a command does.
#[derive(Debug)]
pub(crate) struct Deferred<T>(T);

impl<T> std::ops::Deref for Deferred<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Args> Args for Deferred<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        command.defer(|command| described_as(command.get_about().cloned(), T::augment_args(command)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command.defer(|command| described_as(command.get_about().cloned(), T::augment_args_for_update(command)))
    }
}

/// What a command does is said with the command, and not with its arguments, which several may have in common.
fn described_as(about: Option<StyledStr>, command: clap::Command) -> clap::Command {
    match about {
        Some(about) => command.about(about),
        None => command,
    }
}

impl<T: FromArgMatches> FromArgMatches for Deferred<T> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Deferred<T>, clap::Error> {
        T::from_arg_matches(matches).map(Deferred)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Write a commented manifest that works
    Init(Deferred<Init>),
    /// Check the manifest, and show all that is wrong with it
    Check(Deferred<Check>),
    /// Print the OCI spec of each service, or write its bundle
    #[command(alias = "compile")]
    Spec(Deferred<Spec>),
    /// Start the app's services, or make those that run what the manifest says now
    Up(Deferred<Up>),
    /// Stop the app's services
    Down(Deferred<Down>),
    /// List the app's services and how they are
    Ps(Deferred<Ps>),
    /// List your apps on this host: whether they are up, their services, and where their manifests are
    Ls(Deferred<Ls>),
    /// Wait until services have ended, and end with their exit code
    Wait(Deferred<Named>),
    /// Start services that rest, and those that they depend on
    Start(Deferred<Named>),
    /// Stop services; the app stays up
    Stop(Deferred<Stop>),
    /// Stop services and start them again
    Restart(Deferred<Stop>),
    /// Have services read their configuration again
    Reload(Deferred<Named>),
    /// Send a signal to services' programs
    Kill(Deferred<Kill>),
    /// Show what services printed
    Logs(Deferred<Logs>),
    /// Show what services use
    Stats(Deferred<Stats>),
    /// A page of all services on the terminal: how they are, what they use, what they print
    Top,
    /// Tell what happens to services, as it happens
    Events(Deferred<Events>),
    /// Print what services use as Prometheus reads it
    Metrics(Deferred<Metrics>),
    /// Run a program beside a running service, as that service
    Exec(Deferred<Exec>),
    /// Run a program with a service's grants; the app need not be up
    Run(Deferred<Run>),
    /// Copy files into a service or out of it, as its grants allow
    Cp(Deferred<Cp>),
    /// Run a program, or a shell, that sees the files of rootless services as root does
    Unshare(Deferred<Unshare>),
    /// Make what was adopted its owner's again; the app must be down
    GiveBack(Deferred<GiveBack>),
    /// Run the setup script on the app's data; the app must be down
    Setup,
    /// What is kept of the app, and what of it nothing in the manifest uses
    Data(Deferred<Data>),
    /// Roots put together from recipes: build them, and look into them
    Jail(Deferred<Jail>),
    /// Run what you do not trust: a Python file, or a program, that sees nothing of this host but what is named
    Sandbox(Box<Deferred<Sandbox>>),
    /// Call a function of a service: `rpc call`
    #[command(hide = true)]
    Call(Deferred<Call>),
    /// Call a service's functions, and describe them
    Rpc(Deferred<Rpc>),
    /// Show who may touch what
    Access(Deferred<Access>),
    /// Show what this host has of what PySecure uses, and how to get the rest
    Doctor(Deferred<Doctor>),
    /// Print a completion script for a shell
    Completions {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    #[command(hide = true)]
    Man { folder: PathBuf },
    /// Be the sandbox of a configuration in Python, which is on standard input
    #[command(hide = true, name = crate::python::sandbox::COMMAND)]
    ReadPython {
        #[arg(long)]
        owner: u32,
        configuration: PathBuf,
    },
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Sandbox {
    #[command(subcommand)]
    pub action: Option<SandboxAction>,
    #[command(flatten)]
    pub limits: SandboxLimits,
    /// The program and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SandboxAction {
    /// Run a file in Python, or what comes on standard input for `-`
    Run(Box<SandboxRun>),
    /// Be an MCP server, whose tools run code in sandboxes (`--help` has its options)
    #[command(disable_help_flag = true)]
    Mcp(FrontEnd),
    /// Run code that comes over HTTP on a unix socket, as Piston's API has it (`--help` has its options)
    #[command(disable_help_flag = true)]
    Serve(FrontEnd),
    /// Make sandboxes for the program at the other end of standard input
    #[command(hide = true)]
    Pool,
}

/// What is written in Python: `pysecure_sandbox/__main__.py`.
#[derive(Debug, Args)]
pub(crate) struct FrontEnd {
    /// Its options
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    pub options: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxRun {
    #[command(flatten)]
    pub limits: SandboxLimits,
    pub file: PathBuf,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxLimits {
    /// The one directory that it may write to, shown as /home/user
    #[arg(long, value_name = "DIR")]
    pub userdir: Option<PathBuf>,
    /// A path of this host that it may read, at the same place (may be given more than once)
    #[arg(long, value_name = "PATH")]
    pub readable: Vec<PathBuf>,
    /// A variable of its environment
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Seconds until it is ended [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub wall: Option<f64>,
    /// Seconds that it may compute [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub cpu: Option<f64>,
    /// Memory of each process, such as 256M [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Processes and threads at once [default: 64]
    #[arg(long, value_name = "NUMBER")]
    pub processes: Option<u64>,
    /// The largest file that it may write, such as 16M [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub file_size: Option<u64>,
    /// How it is kept apart: `landlock` where this host refuses user namespaces; it holds less
    #[arg(long, default_value = "namespaces", value_parser = isolation())]
    pub isolation: Isolation,
    /// Say on standard error which files it was denied, by what, and what would allow it; it is slower then
    #[arg(long)]
    pub explain: bool,
    /// Say on standard error how it ended, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// Where to write it
    #[arg(default_value = ".")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print a list of diagnostics for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Write a bundle a service below this folder, for `crun run` and the like; else print the specs
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Only these services
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Return when all services run
    #[arg(short, long)]
    pub detach: bool,
    /// Refuse to start where this host holds less than the manifest says
    #[arg(long)]
    pub strict: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restart services when their code changes, and follow the manifest as it changes
    #[arg(short, long)]
    pub watch: bool,
    /// Go on with the data of an app of this name that belongs to another manifest
    #[arg(long)]
    pub take_over: bool,
    /// Only these services, and those that they depend on [default: all]
    #[arg(conflicts_with_all = ["watch", "dry_run"])]
    pub services: Vec<String>,
}

/// Services by name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Only these services [default: all]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Seconds that they may take to end, in place of each one's `stop_timeout`
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub timeout: Option<f64>,
    /// Only these services [default: all]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Only these services [default: all]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Print a list for programs
    #[arg(long)]
    pub json: bool,
    /// Print once, on a terminal too
    #[arg(long)]
    pub no_stream: bool,
    /// Only these services [default: all]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Print an object a line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Print the path of the unix socket that answers HTTP requests for them
    #[arg(long)]
    pub socket: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// In this caller's name [default: the service's only one]
    #[arg(long = "as", value_name = "CALLER")]
    pub caller: Option<String>,
    /// An argument by name
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub keyword: Vec<String>,
    /// Seconds that the call may take
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub timeout: Option<f64>,
    pub service: String,
    pub function: String,
    /// Its arguments: JSON, or else text
    #[arg(allow_hyphen_values = true)]
    pub args: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Rpc {
    #[command(subcommand)]
    pub deed: RpcDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RpcDeed {
    /// Call a function, as one of the service's callers
    Call(Call),
    /// List the functions that a caller may call, one per line
    List {
        /// Call as this service [default: the only caller]
        #[arg(long = "as", value_name = "CALLER")]
        caller: Option<String>,
        /// The service that has the functions
        service: String,
    },
    /// Write a stub of the functions (.pyi), which Python's type checkers read in place of the service's module
    Stubs {
        /// In this caller's name [default: the service's only one]
        #[arg(long = "as", value_name = "CALLER")]
        caller: Option<String>,
        /// Write it there
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        service: String,
    },
    /// Show the functions with their types and documentation
    Describe {
        /// In this caller's name [default: the service's only one]
        #[arg(long = "as", value_name = "CALLER")]
        caller: Option<String>,
        /// Print an object for programs
        #[arg(long)]
        json: bool,
        service: String,
    },
}

/// Seconds from the command line as a time: none at all if negative, a year if it is more.
pub(crate) fn seconds(number: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(number.clamp(0.0, 31_536_000.0)).unwrap_or_default()
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Seconds that services may take to end, in place of each one's `stop_timeout`
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub timeout: Option<f64>,
    /// Delete the app's data, logs and ledger as well, and give adopted files back
    #[arg(long)]
    pub purge: bool,
    /// Do not ask before anything is deleted
    #[arg(short, long, requires = "purge")]
    pub yes: bool,
    /// Though the app and its data belong to another manifest
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GiveBack {
    /// Where the tree is now that was at PATH
    #[arg(long, value_name = "PLACE", requires = "paths", conflicts_with = "forget")]
    pub moved_to: Option<PathBuf>,
    /// The tree is deleted; its ids may be given to others
    #[arg(long, requires = "paths")]
    pub forget: bool,
    /// Only what was adopted at these paths [default: all]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Data {
    /// Print a list for programs
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<DataCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Delete what is kept under these names: of what the manifest does not name any more, or while the app is down
    Remove {
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Print a list for programs
    #[arg(long)]
    pub json: bool,
    /// Only these services [default: all]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print a list for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Go on as services print
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines of each service, or `all`
    #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
    pub tail: Option<usize>,
    /// Only lines from this time on: RFC 3339, a local date or time, or `10m` (ago)
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only lines before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<String>,
    /// Show the time of each line
    #[arg(short, long, conflicts_with = "json")]
    pub timestamps: bool,
    /// Print a line for programs for each line: time, service, stream, line
    #[arg(long)]
    pub json: bool,
    /// Only these services
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// No terminal, even if there is one
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Set a variable; of KEY alone, to the value that it has here, which no list of processes shows
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Start in this directory
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    pub service: String,
    /// The program and its arguments
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// No terminal, even if there is one
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Set a variable; of KEY alone, to the value that it has here, which no list of processes shows
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    pub service: String,
    /// The program and its arguments [default: the service's own]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// What to copy: a path, or SERVICE:/PATH; of a directory named with `/.` at its end, what is in it
    #[arg(value_name = "FROM")]
    pub from: String,
    /// Where to: a path if FROM is a service's, else SERVICE:/PATH; a directory that is there gets it under its name
    #[arg(value_name = "TO")]
    pub to: String,
}

#[derive(Debug, Args)]
pub(crate) struct Unshare {
    /// The program and its arguments [default: $SHELL]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Access {
    /// Print a list for programs
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print a list for programs
    #[arg(long)]
    pub json: bool,
    /// Try one feature, in a process that the doctor made for it
    #[arg(long, hide = true, value_name = "NAME")]
    pub probe: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Jail {
    #[command(subcommand)]
    pub deed: JailDeed,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JailDeed {
    /// List the recipes, and the jails that are built
    List {
        /// Print a list for programs
        #[arg(long)]
        json: bool,
    },
    /// Build jails, if they are not there
    Build {
        /// A list of paths and programs, a line each
        #[arg(
            long,
            value_name = "FILE",
            conflicts_with = "names",
            required_unless_present = "names"
        )]
        list: Option<PathBuf>,
        /// Rebuild virtual environments and Debian roots
        #[arg(long)]
        no_cache: bool,
        /// Recipes
        names: Vec<String>,
    },
    /// Show what is in a jail
    Show {
        /// Print a list for programs
        #[arg(long)]
        json: bool,
        /// A recipe, or the hash of a jail
        name: String,
    },
    /// Show why a file is in a jail
    Why {
        /// Print a list for programs
        #[arg(long)]
        json: bool,
        path: PathBuf,
        /// A recipe, or the hash of a jail [default: all jails that are built]
        name: Option<String>,
    },
    /// Show how two jails differ, or what of a jail was never opened
    Diff {
        /// Print a list for programs
        #[arg(long)]
        json: bool,
        /// A recipe, or the hash of a jail
        one: String,
        /// A recipe, or the hash of a jail
        #[arg(required_unless_present = "traced")]
        other: Option<String>,
        /// Compare with what this service opened when it was traced
        #[arg(long, value_name = "SERVICE", conflicts_with = "other")]
        traced: Option<String>,
    },
    /// Run a program as a service, and write a recipe of what it opens
    Trace {
        /// Write the recipe there, and not to standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        service: String,
        /// The program and its arguments [default: the service's own]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Remove jails that no app has
    Prune,
}

/// Of those names, as manifests have them.
fn isolation() -> impl TypedValueParser<Value = Isolation> {
    let all = [Isolation::Namespaces, Isolation::Landlock];
    let names = PossibleValuesParser::new(all.map(Isolation::name));
    names.map(move |name| all.into_iter().find(|one| one.name() == name).unwrap_or_default())
}

/// A number of seconds, as it is typed.
fn seconds_in_words(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|n| n.is_finite() && *n >= 0.0);
    number.ok_or_else(|| "write a number of seconds, such as 10 or 0.5".to_owned())
}

/// How many lines; `all` of them, as docker compose has it.
fn lines(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text.parse().map_err(|_| "write a number of lines, or `all`".to_owned()),
    }
}

/// A size as it is written in manifests: bytes, or a number with K, M, G or T.
fn bytes(text: &str) -> Result<u64, String> {
    let wrong = || "write bytes, or a number with K, M, G or T, such as 256M".to_owned();
    crate::manifest::size(text).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn commands_are_described_whole_when_they_are_asked_for() {
        Cli::command().debug_assert();
        let mut cli = Cli::command();
        cli.build();
        // Two that have their arguments in common.
        for (name, about) in [("start", "Start services that rest"), ("reload", "Have services read")] {
            let command = cli.find_subcommand(name).unwrap();
            assert!(command.get_about().unwrap().to_string().starts_with(about), "{name}");
            assert!(command.get_arguments().any(|a| a.get_id() == "services"), "{name}");
        }
    }
}
