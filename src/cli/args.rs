//! The arguments, which read as `docker compose`'s do where both have them.

use crate::values::Isolation;
use clap::builder::{PossibleValuesParser, StyledStr, TypedValueParser};
use clap::{ArgMatches, Args, FromArgMatches, Parser, Subcommand, ValueEnum};
use std::path::{Path, PathBuf};

/// Of options that each command has.
const GLOBAL: &str = "Global options";

/// Run each part of an application as its own user, in its own sandbox, from one manifest.
#[derive(Debug, Parser)]
#[command(name = "pysecure", version, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// The manifest, or a folder that holds one [default: pysecure.toml, pysecure.json or pysecure_config.py here]
    #[arg(short = 'f', value_name = "MANIFEST", conflicts_with = "file", help_heading = GLOBAL)]
    first: Option<PathBuf>,
    /// Same as -f; may also follow the command
    // Not one argument with two names: `logs -f` follows, so the short one cannot be global.
    #[arg(long, global = true, value_name = "MANIFEST", help_heading = GLOBAL)]
    file: Option<PathBuf>,
    /// Keep ledgers, data and sockets in this directory
    #[arg(long, global = true, value_name = "DIR", env = "PYSECURE_STATE_DIR", help_heading = GLOBAL)]
    pub state_dir: Option<PathBuf>,
    /// Verbose diagnostics on standard error (-vv: all; RUST_LOG chooses)
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = GLOBAL)]
    pub verbose: u8,
    /// Format of diagnostics
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT", help_heading = GLOBAL)]
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
    /// Check the manifest, and show all errors in it
    Check(Deferred<Check>),
    /// Print the OCI spec of each service, or write its bundle
    #[command(alias = "compile")]
    Spec(Deferred<Spec>),
    /// Start the app, or apply a changed manifest to the running one
    Up(Deferred<Up>),
    /// Stop the app's services
    Down(Deferred<Down>),
    /// List services and their states
    Ps(Deferred<Ps>),
    /// List your apps on this host, and whether they are up
    Ls(Deferred<Ls>),
    /// Wait until services have ended, and end with their exit code
    Wait(Deferred<Named>),
    /// Start stopped services and their dependencies
    Start(Deferred<Named>),
    /// Stop services; the app stays up
    Stop(Deferred<Stop>),
    /// Restart services
    Restart(Deferred<Stop>),
    /// Send the reload signal to services
    Reload(Deferred<Named>),
    /// Send a signal to services, SIGKILL if none is named
    Kill(Deferred<Kill>),
    /// Show what services printed
    Logs(Deferred<Logs>),
    /// Show what services use
    Stats(Deferred<Stats>),
    /// Show live state, usage and logs of all services
    Top,
    /// Print what happens to services, as it happens
    Events(Deferred<Events>),
    /// Print usage in Prometheus' format
    Metrics(Deferred<Metrics>),
    /// Run a program in a running service
    Exec(Deferred<Exec>),
    /// Run a program with a service's grants, whether or not the app is up
    Run(Deferred<Run>),
    /// Copy files into a service, or out of it
    Cp(Deferred<Cp>),
    /// Run a program that may read files of rootless services
    Unshare(Deferred<Unshare>),
    /// Give files that services took over (`chown`) back to their owner
    GiveBack(Deferred<GiveBack>),
    /// Run the setup script on the app's data again
    Setup,
    /// List the app's data, and remove what the manifest does not use
    Data(Deferred<Data>),
    /// Build and inspect root file systems (jails)
    Jail(Deferred<Jail>),
    /// Run a Python file, or a program, that you do not trust
    Sandbox(Box<Deferred<Sandbox>>),
    /// Call a function of a service: `rpc call`
    #[command(hide = true)]
    Call(Deferred<Call>),
    /// Call a service's functions, and describe them
    Rpc(Deferred<Rpc>),
    /// Show who may access what, and why
    Access(Deferred<Access>),
    /// Show which features this host has, and how to get the others
    Doctor(Deferred<Doctor>),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder
    Man {
        /// The folder, for example /usr/local/share/man
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
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
    /// Run a Python file, or standard input for `-`
    Run(Box<SandboxRun>),
    /// Serve MCP: its tools run code in sandboxes (`--help` lists options)
    #[command(disable_help_flag = true)]
    Mcp(FrontEnd),
    /// Serve Piston's HTTP API on a Unix socket (`--help` lists options)
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
    /// The file, or `-` for standard input
    pub file: PathBuf,
    /// Arguments of the file
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct SandboxLimits {
    /// The only directory that it may write to, shown as /home/user
    #[arg(long, value_name = "DIR")]
    pub userdir: Option<PathBuf>,
    /// A path of this host that it may read, at the same place
    #[arg(long, value_name = "PATH")]
    pub readable: Vec<PathBuf>,
    /// A variable of its environment
    #[arg(short, long, value_name = "KEY=VALUE")]
    pub env: Vec<String>,
    /// Maximum time by the clock, in seconds [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub wall: Option<f64>,
    /// Maximum time on processors, in seconds [default: 10]
    #[arg(long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub cpu: Option<f64>,
    /// Maximum memory of each process, for example 256M [default: 512M]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub memory: Option<u64>,
    /// Maximum number of processes and threads [default: 64]
    #[arg(long, value_name = "NUMBER")]
    pub processes: Option<u64>,
    /// Maximum size of a file that it writes, for example 16M [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub file_size: Option<u64>,
    /// How it is isolated; `landlock` protects less, for hosts that refuse user namespaces
    #[arg(long, default_value = "namespaces", value_parser = isolation())]
    pub isolation: Isolation,
    /// Print on standard error which files it was denied, by what, and what would allow it (slower)
    #[arg(long)]
    pub explain: bool,
    /// Print on standard error how it ended, as JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Init {
    /// The folder to write it into
    #[arg(default_value = ".", value_name = "DIR")]
    pub folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Spec {
    /// Write a bundle for each service into this folder, for `crun run`; else print the specs
    #[arg(short, long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Run in the background; return when all services are ready
    #[arg(short, long)]
    pub detach: bool,
    /// Fail if this host cannot enforce everything in the manifest
    #[arg(long)]
    pub strict: bool,
    /// Show what would be done, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Restart services when their code changes, and apply the manifest when it changes
    #[arg(short, long)]
    pub watch: bool,
    /// Take over the data of an app of this name that belongs to another manifest
    #[arg(long)]
    pub take_over: bool,
    /// Only these services, and those that they depend on [default: all]
    #[arg(value_name = "SERVICE", conflicts_with_all = ["watch", "dry_run"])]
    pub services: Vec<String>,
}

/// Services by name.
#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Only these services [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// Maximum time to end, in seconds, in place of each service's `stop_timeout`
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub timeout: Option<f64>,
    /// Only these services [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Kill {
    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL")]
    pub signal: String,
    /// Only these services [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stats {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Print once and exit
    #[arg(long)]
    pub no_stream: bool,
    /// Only these services [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Print one JSON object per line
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Metrics {
    /// Print the path of the Unix socket that answers HTTP requests for them
    #[arg(long)]
    pub socket: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Call {
    /// Call as this service [default: the only caller]
    #[arg(long = "as", value_name = "CALLER")]
    pub caller: Option<String>,
    /// An argument by name
    #[arg(short, long, value_name = "NAME=VALUE")]
    pub keyword: Vec<String>,
    /// Maximum time of the call, in seconds
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub timeout: Option<f64>,
    /// The service that has the function
    pub service: String,
    /// The function's name
    pub function: String,
    /// Arguments: JSON, or else text
    #[arg(value_name = "ARGUMENT", allow_hyphen_values = true)]
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
    /// Write a stub (.pyi) of the functions for Python's type checkers
    Stubs {
        /// Call as this service [default: the only caller]
        #[arg(long = "as", value_name = "CALLER")]
        caller: Option<String>,
        /// Write to this file, and not to standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The service that has the functions
        service: String,
    },
    /// Show the functions with their types and documentation
    Describe {
        /// Call as this service [default: the only caller]
        #[arg(long = "as", value_name = "CALLER")]
        caller: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The service that has the functions
        service: String,
    },
}

/// Seconds from the command line as a time: none at all if negative, a year if it is more.
pub(crate) fn seconds(number: f64) -> std::time::Duration {
    std::time::Duration::try_from_secs_f64(number.clamp(0.0, 31_536_000.0)).unwrap_or_default()
}

#[derive(Debug, Args)]
pub(crate) struct Down {
    /// Maximum time to end, in seconds, in place of each service's `stop_timeout`
    #[arg(short, long, value_name = "SECONDS", value_parser = seconds_in_words)]
    pub timeout: Option<f64>,
    /// Delete the app's data, logs and ledger, and give files back to their owner
    #[arg(long)]
    pub purge: bool,
    /// Delete without asking
    #[arg(short, long, requires = "purge")]
    pub yes: bool,
    /// Do it although the app's data belongs to another manifest
    #[arg(long)]
    pub take_over: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GiveBack {
    /// The place to which the tree at PATH has moved
    #[arg(long, value_name = "PLACE", requires = "paths", conflicts_with = "forget")]
    pub moved_to: Option<PathBuf>,
    /// Forget the tree, which is deleted; its ids may be given to others
    #[arg(long, requires = "paths")]
    pub forget: bool,
    /// Only what was taken over at these paths [default: all]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Data {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<DataCommand>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Delete data that the manifest does not use any more, or any while the app is down
    Remove {
        /// Names of data, as `pysecure data` lists them
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Delete without asking
        #[arg(short, long)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Only these services [default: all]
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Ls {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Follow: print new lines as they come
    #[arg(short, long)]
    pub follow: bool,
    /// Only the last N lines of each service, or `all`
    #[arg(short = 'n', long, value_name = "N", value_parser = lines)]
    pub tail: Option<usize>,
    /// Only lines from this time on: RFC 3339, a local date or time, or an age such as `10m`
    #[arg(long, value_name = "TIME")]
    pub since: Option<String>,
    /// Only lines before this time
    #[arg(long, value_name = "TIME", conflicts_with = "follow")]
    pub until: Option<String>,
    /// Show the time of each line
    #[arg(short, long, conflicts_with = "json")]
    pub timestamps: bool,
    /// Print one JSON object per line: time, service, stream, line
    #[arg(long)]
    pub json: bool,
    /// Only these services
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Exec {
    /// Do not allocate a terminal
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Set a variable; of KEY alone, to the value that it has here, which no list of processes shows
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// The directory to start in
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// The running service
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
    /// Do not allocate a terminal
    #[arg(short = 'T', long)]
    pub no_tty: bool,
    /// Set a variable; of KEY alone, to the value that it has here, which no list of processes shows
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// The service whose grants the program gets
    pub service: String,
    /// The program and its arguments [default: the service's own]
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Cp {
    /// The source: a path, or SERVICE:/PATH; with `/.` at the end, what is in a directory
    #[arg(value_name = "FROM")]
    pub from: String,
    /// The destination: SERVICE:/PATH, or a path if FROM is a service's; into a directory if that exists
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
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// Print JSON
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
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Build jails that do not exist yet
    Build {
        /// Build a jail from this list of paths and programs, one per line
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
        /// Names of recipes
        #[arg(value_name = "RECIPE")]
        names: Vec<String>,
    },
    /// List the files of a jail
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// A recipe, or the hash of a jail
        name: String,
    },
    /// Show why a file is in a jail
    Why {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// The file's path in the jail
        path: PathBuf,
        /// A recipe, or the hash of a jail [default: all jails that are built]
        name: Option<String>,
    },
    /// Compare two jails, or a jail with what a traced service opened
    Diff {
        /// Print JSON
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
        /// Write to this file, and not to standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// The service whose grants the program gets
        service: String,
        /// The program and its arguments [default: the service's own]
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Remove jails that no app uses
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
        for (name, about) in [
            ("start", "Start stopped services"),
            ("reload", "Send the reload signal"),
        ] {
            let command = cli.find_subcommand(name).unwrap();
            assert!(command.get_about().unwrap().to_string().starts_with(about), "{name}");
            assert!(command.get_arguments().any(|a| a.get_id() == "services"), "{name}");
        }
    }
}
