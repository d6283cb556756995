//! The command line: one file a command, and here what they share. Errors are told here, once, in one form;
//! nothing below decides anything about policy.
//!
//! Exit codes are listed in `error.rs`.

/// `println!`, with others' words in it: what a terminal would obey, or would mislead its reader, is made plain.
macro_rules! outln {
    ($($text:tt)*) => { std::println!("{}", crate::plain::lines(&format!($($text)*))) };
}

/// The same on standard error.
macro_rules! errln {
    ($($text:tt)*) => { std::eprintln!("{}", crate::plain::lines(&format!($($text)*))) };
}

// So that no command says anything by another way.
#[allow(unused_macros, reason = "who writes it means the above")]
macro_rules! println {
    ($($text:tt)*) => { outln!($($text)*) };
}
#[allow(unused_macros, reason = "who writes it means the above")]
macro_rules! eprintln {
    ($($text:tt)*) => { errln!($($text)*) };
}

mod access;
mod args;
mod call;
mod change;
mod check;
mod compose;
mod cp;
mod data;
mod down;
mod dry_run;
mod error;
mod events;
mod exec;
mod file_changes;
mod generate;
mod give_back;
mod inherited;
mod init;
mod jail;
mod limits;
mod load;
mod logs;
mod ls;
mod manual;
mod metrics;
mod noise;
mod outcome;
mod progress;
mod ps;
mod reconcile;
mod rpc;
mod run;
mod sandbox;
mod setup;
mod spec;
mod stats;
mod streams;
mod supervisor;
mod terminal;
mod top;
mod unshare;
mod up;
mod variables;
mod wait;
mod watch;

use args::{Cli, Command};
use clap::Parser;
use error::{Done, Failure};
use std::process::ExitCode;

pub fn main() -> ExitCode {
    if let Err(errno) = inherited::put_right() {
        return said(Err(Failure::failed(format!(
            "close the descriptors that the caller left open: {errno}; close_range(2) is needed, so allow it here, or run this \
             outside of what forbids it"
        ))));
    }
    let arguments = compose::rewritten(std::env::args_os().collect());
    let cli = Cli::try_parse_from(&arguments).unwrap_or_else(|error| compose::refuse(&error, &arguments));
    trace(&cli);
    if let Err(failure) = check_state_dir(&cli) {
        return said(Err(failure));
    }
    let done = match &cli.command {
        Command::Init(args) => init::run(&cli, args),
        Command::Check(args) => check::run(&cli, args),
        Command::Spec(args) => spec::run(&cli, args),
        Command::Up(args) => up::run(&cli, args),
        Command::Down(args) => down::run(&cli, args),
        Command::Ps(args) => ps::run(&cli, args),
        Command::Ls(args) => ls::run(&cli, args),
        Command::Wait(args) => wait::run(&cli, args),
        Command::Start(args) => change::start(&cli, args),
        Command::Stop(args) => change::stop(&cli, args),
        Command::Restart(args) => change::restart(&cli, args),
        Command::Reload(args) => change::reload(&cli, args),
        Command::Kill(args) => change::kill(&cli, args),
        Command::Stats(args) => stats::run(&cli, args),
        Command::Top => top::run(&cli),
        Command::Events(args) => events::run(&cli, args),
        Command::Metrics(args) => metrics::run(&cli, args),
        Command::Logs(args) => logs::run(&cli, args),
        Command::Exec(args) => exec::run(&cli, args),
        Command::Run(args) => run::run(&cli, args),
        Command::Cp(args) => cp::run(&cli, args),
        Command::GiveBack(args) => give_back::run(&cli, args),
        Command::Setup => setup::run(&cli),
        Command::Data(args) => data::run(&cli, args),
        Command::Jail(args) => jail::run(&cli, args),
        Command::Unshare(args) => unshare::run(args),
        Command::Sandbox(args) => sandbox::run(&cli, args),
        Command::Call(args) => call::run(&cli, args),
        Command::Rpc(args) => rpc::run(&cli, args),
        Command::Access(args) => access::run(&cli, args),
        Command::Doctor(args) => doctor(args),
        Command::Completions { shell } => generate::completions(*shell),
        Command::Man { folder } => manual::write(folder),
        Command::ReadPython { owner, configuration } => load::read_python(configuration, *owner),
    };
    said(done)
}

/// What can be told only before a user namespace is entered: whether the state directory is another user's.
fn check_state_dir(cli: &Cli) -> Result<(), Failure> {
    if let Some(given) = cli.state_dir.as_deref().filter(|_| !crate::host::outer::inside()) {
        crate::host::check_state(&std::path::absolute(given)?, false)?;
    }
    Ok(())
}

fn said(done: Done) -> ExitCode {
    match done {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            failure.tell();
            ExitCode::from(failure.code)
        }
    }
}

/// Diagnostics go to standard error, and only if asked for: a subscriber costs time at every start.
fn trace(cli: &Cli) {
    use tracing_subscriber::EnvFilter;
    let asked = std::env::var_os("RUST_LOG").is_some();
    if cli.verbose == 0 && !asked {
        return;
    }
    let level = match cli.verbose {
        0 | 1 => "pysecure=debug",
        _ => "trace",
    };
    let filter = if asked {
        EnvFilter::from_default_env()
    } else {
        EnvFilter::new(level)
    };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| crate::plain::Plain(std::io::stderr()));
    if cli.log_format == args::LogFormat::Json {
        subscriber.json().init()
    } else {
        subscriber.init()
    }
}

fn doctor(args: &args::Doctor) -> Done {
    use std::io::Write;
    if let Some(name) = &args.probe {
        return Ok(crate::doctor::run_probe(name));
    }
    let findings = crate::doctor::probe();
    let text = if args.json {
        crate::plain::json(&format!("{:#}\n", crate::doctor::to_json(&findings))).into_owned()
    } else {
        crate::doctor::render(&findings, terminal::colour())
    };
    // A reader that has gone changes nothing about the findings.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(crate::doctor::exit_code(&findings))
}
