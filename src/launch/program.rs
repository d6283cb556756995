//! Why a program cannot be run in a service's root: execve(2) says "no such file" of a script whose interpreter is missing, too, and
//! of a program whose loader is.
//!
//! Asked before a start, by [`crate::app`], and after one that failed.

use super::dry_run::{Kind, Link, Node, Seen, Trouble, View, closed};
use super::error::LaunchError;
use crate::bundle::Bundle;
use crate::jail::elf;
use oci_spec::runtime::Process;
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How often a script may run with a script; execve(2).
const MOST_INTERPRETERS: usize = 5;
/// The longest argument or variable that execve(2) takes, its end included.
const LONGEST_STRING: usize = 32 * 4096;
/// How much of a first line the kernel reads; BINPRM_BUF_SIZE.
const LONGEST_FIRST_LINE: usize = 256;

/// Words that only a shell knows, and that no program of a usual host is called.
const OF_SHELLS: [&str; 27] = [
    "cd", "source", ".", "export", "set", "unset", "ulimit", "umask", "alias", "exec", "eval", "trap", "wait", "if",
    "for", "while", "until", "case", "function", "{", "(", "!", "[[", "then", "local", "readonly", "shift",
];

/// The error of a start of which the kernel says no more than that its program cannot be run, with the reason. `folder` is the bundle's;
/// the rest is as for [`View::new`].
pub fn explained(
    error: LaunchError,
    bundle: &Bundle,
    process: Option<&Process>,
    folder: &Path,
    kept: &[PathBuf],
    others: bool,
) -> LaunchError {
    let LaunchError::Program { code, .. } = error else {
        return error;
    };
    let nothing_to_come = BTreeMap::new();
    let mut view = View::new(bundle, folder, kept, &nothing_to_come, others);
    view.failed = true;
    let Some((command, process)) = process.and_then(|p| Some((p.args().as_ref()?, p))) else {
        return error;
    };
    let variables = process.env().iter().flatten().filter_map(|v| v.split_once('='));
    let environment = variables.map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let found = view.command(command, process.cwd(), &environment);
    match found.filter(|trouble| trouble.fatal) {
        Some(trouble) => LaunchError::Program {
            message: format!(
                "run {}: {}; {}",
                command.first().map_or("", String::as_str),
                trouble.message,
                trouble.help
            ),
            code,
        },
        None => error,
    }
}

fn fatal(message: String, help: impl Into<String>) -> Trouble {
    Trouble {
        message,
        help: help.into(),
        fatal: true,
    }
}

impl View<'_> {
    /// What is wrong with a command that is started in this directory with these variables.
    pub fn command(
        &self,
        command: &[String],
        directory: &Path,
        environment: &BTreeMap<String, String>,
    ) -> Option<Trouble> {
        let program = command.first()?;
        let long = command
            .iter()
            .map(String::len)
            .chain(environment.iter().map(|(k, v)| k.len() + v.len() + 1))
            .find(|length| *length >= LONGEST_STRING);
        if let Some(length) = long {
            return Some(fatal(
                format!("an argument or variable has {length} bytes, and a program takes less than {LONGEST_STRING}"),
                "put it into a file that the service may read",
            ));
        }
        let path = environment.get("PATH").map_or("/usr/bin:/bin", String::as_str);
        let candidates = candidates(program, directory, path);
        let mut trouble: Option<Trouble> = None;
        for candidate in &candidates {
            match self.runs(candidate, 0) {
                Ok(()) => {
                    return self
                        .started_by(candidate, directory, path)
                        .or_else(|| self.script(command, directory));
                }
                Err(None) => {}
                // As execvp(3) has it: what is there, and may not be run, is told rather than what is not there.
                Err(found) => trouble = trouble.or(found),
            }
        }
        let missing = || {
            fatal(
                if program.contains('/') {
                    format!("the program {program} does not exist in the service's root")
                } else {
                    format!("no program is called {program} in the service's PATH ({path})")
                },
                "correct `command`, install it, or grant the path that it lies in: as a resource with `x`, or in `code`",
            )
        };
        Some(trouble.or_else(|| of_a_shell(command)).unwrap_or_else(missing))
    }

    /// `Err(None)`: it is not there.
    fn runs(&self, program: &Path, depth: usize) -> Result<(), Option<Trouble>> {
        let shown = program.display();
        let wrong = |message: String, help: String| Err(Some(fatal(message, help)));
        let node = match self.resolve(program) {
            Seen::Unknown => return Ok(()),
            Seen::Missing(None) => return Err(None),
            Seen::Missing(Some(link)) => return Err(Some(dangling(program, &link))),
            Seen::Barred(at, why) if why.starts_with("may not") => {
                return wrong(
                    format!(
                        "the program {shown} cannot be reached: {} {why}, of which the service is one",
                        at.display()
                    ),
                    closed(&at),
                );
            }
            Seen::Barred(..) => return Err(None),
            Seen::Is(node) => node,
        };
        if node.kind != Kind::File {
            return wrong(
                format!("{shown} is no program but a directory"),
                "name a program as `command`".into(),
            );
        }
        let host = node.host.as_deref().unwrap_or(&node.path);
        if let Some(mode) = node.mode.filter(|mode| mode & 0o001 == 0) {
            // To what others may read already, the right to run it adds nothing.
            let remedy = match mode & 0o004 == 0 {
                true => closed(host),
                false => format!("`chmod a+x {}`, or name the program that runs it", host.display()),
            };
            return wrong(format!("the program {shown} is not executable for the service"), remedy);
        }
        if !node.executable {
            return wrong(
                format!("the program {shown} lies in a resource that the service may not execute"),
                "grant `x` on that resource".into(),
            );
        }
        let Some(head) = node.host.as_deref().and_then(head) else {
            return Ok(());
        };
        if elf::is_elf(&head) {
            return self.loads(program, &node, &head, depth);
        }
        let Some(interpreter) = first_line(&head).map(|line| line.interpreter) else {
            return Err(Some(no_first_line(program, host, &head)));
        };
        if interpreter.as_os_str().is_empty() || depth >= MOST_INTERPRETERS {
            return Ok(());
        }
        if interpreter.to_string_lossy().ends_with('\r') {
            return Err(Some(carriage_return(program, host)));
        }
        match self.runs(&interpreter, depth + 1) {
            Err(found) if depth == 0 => Err(Some(self.without_interpreter(program, &interpreter, found))),
            Err(None) => wrong(
                format!(
                    "{shown} runs with {}, which does not exist in the service's root",
                    interpreter.display()
                ),
                NO_INTERPRETER.into(),
            ),
            other => other,
        }
    }

    /// Of a program for a machine: is it this one, and is its loader there?
    fn loads(&self, program: &Path, node: &Node, head: &[u8], depth: usize) -> Result<(), Option<Trouble>> {
        let shown = program.display();
        // Its tables may stand behind what was read.
        let Ok(Some(needs)) = elf::needs(head) else {
            return Ok(());
        };
        // On others, a program may be registered that runs them (binfmt_misc): what did not fail is not judged.
        if let (true, Some(machine)) = (self.failed, foreign(needs.kind.1)) {
            return Err(Some(fatal(
                format!(
                    "{shown} is a program for {machine}, and this machine is {}",
                    std::env::consts::ARCH
                ),
                "install the build for this machine",
            )));
        }
        let Some(loader) = needs.interpreter.filter(|_| depth < MOST_INTERPRETERS) else {
            return Ok(());
        };
        match self.runs(&loader, depth + 1) {
            Err(None) => Err(Some(fatal(
                format!(
                    "{shown} is loaded by {}, which does not exist in the service's root",
                    loader.display()
                ),
                no_loader(&loader, node.host.as_deref()),
            ))),
            other => other,
        }
    }

    /// A script that is there, and whose interpreter is not, or cannot be run for the reason that was `found`.
    fn without_interpreter(&self, script: &Path, interpreter: &Path, found: Option<Trouble>) -> Trouble {
        let why = match &found {
            None => "which does not exist in the service's root".to_owned(),
            Some(found) => format!("and {}", found.message),
        };
        let message = format!("{} runs with {}, {why}", script.display(), interpreter.display());
        if !interpreter.is_absolute() {
            let name = interpreter.display();
            return fatal(
                message,
                format!("write the whole path in its first line, or `#!/usr/bin/env {name}`"),
            );
        }
        if let Some(found) = found {
            return fatal(message, found.help);
        }
        // An environment that was made elsewhere than where it is shown has its interpreter beside its scripts.
        let beside = interpreter.file_name().map(|name| script.with_file_name(name));
        let elsewhere = beside.into_iter().chain(self.inside(interpreter));
        for other in elsewhere.filter(|other| other != script) {
            match self.runs(&other, 1) {
                Ok(()) => return fatal(message, run_by(&other, script)),
                Err(Some(found)) => {
                    let message = format!("{message}; {}", found.message);
                    return fatal(message, format!("{}; then {}", found.help, run_by(&other, script)));
                }
                Err(None) => {}
            }
        }
        fatal(message, granted_or(interpreter, NO_INTERPRETER))
    }

    /// What a program that can be run starts in its turn, where it is a script that says so itself: by `env`, or as pip and uv write
    /// a script whose interpreter's path is too long for a first line. That fails only when it runs.
    fn started_by(&self, program: &Path, directory: &Path, path: &str) -> Option<Trouble> {
        let Seen::Is(node) = self.resolve(program) else {
            return None;
        };
        let host = node.host?;
        let head = head(&host)?;
        let line = first_line(&head)?;
        let warning = |trouble: Trouble| Trouble {
            fatal: false,
            ..trouble
        };
        if line.argument.ends_with('\r') {
            return Some(warning(carriage_return(program, &host)));
        }
        if line.interpreter.ends_with("env") {
            let mut words = line.argument.split_ascii_whitespace();
            let name = words.find(|word| !word.starts_with('-') && !word.contains('='))?;
            let there = candidates(name, directory, path);
            if there.iter().any(|at| !matches!(self.runs(at, 1), Err(None))) {
                return None;
            }
            let message = format!(
                "{} runs with {name}, and no program is called that in the service's PATH ({path})",
                program.display()
            );
            return Some(warning(fatal(message, granted_or(Path::new(name), NO_INTERPRETER))));
        }
        let second = head.split(|b| *b == b'\n').nth(1)?;
        let second = String::from_utf8_lossy(second);
        let (_, rest) = second.split_once("'''exec' ")?;
        let interpreter = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next()?,
            None => rest.split(' ').next()?,
        };
        let found = self.runs(Path::new(interpreter), 1).err()?;
        Some(warning(self.without_interpreter(
            program,
            Path::new(interpreter),
            found,
        )))
    }

    /// A script that an interpreter is told to run, if it is plain that one is named.
    fn script(&self, command: &[String], directory: &Path) -> Option<Trouble> {
        const INTERPRETERS: [&str; 12] = [
            "python", "pypy", "sh", "bash", "dash", "zsh", "node", "perl", "ruby", "php", "lua", "Rscript",
        ];
        let name = Path::new(command.first()?).file_name()?.to_str()?;
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if !INTERPRETERS.contains(&name) {
            return None;
        }
        // What stands behind an option may be its value, so only a first argument is sure to be a script.
        let script = command.get(1).filter(|a| !a.starts_with('-') && !a.is_empty())?;
        let path = directory.join(script);
        let says = |message: String, help: String| {
            Some(Trouble {
                message,
                help,
                fatal: false,
            })
        };
        match self.resolve(&path) {
            Seen::Missing(_) | Seen::Barred(..) => says(
                format!("the script {} does not exist in the service's root", path.display()),
                "correct `command` or `directory`, or grant the path that it lies in, such as in `code`".into(),
            ),
            Seen::Is(node) if node.kind == Kind::File && node.mode.is_some_and(|mode| mode & 0o004 == 0) => says(
                format!(
                    "the script {} may not be read by other users, of which the service is one",
                    path.display()
                ),
                closed(node.host.as_deref().unwrap_or(&node.path)),
            ),
            _ => None,
        }
    }
}

/// Where a program may lie: execvp(3).
fn candidates(program: &str, directory: &Path, path: &str) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![directory.join(program)];
    }
    let folders = path.split(':').filter(|f| !f.is_empty());
    folders.map(|folder| directory.join(folder).join(program)).collect()
}

const NO_INTERPRETER: &str = "install it, correct the script's first line, or give the service a jail that has it";

/// What only a shell understands, where a program is to be named.
fn of_a_shell(command: &[String]) -> Option<Trouble> {
    let first = command.first()?;
    let quoted: Vec<&str> = command.iter().map(String::as_str).collect();
    let as_shell = format!(
        "`command = [\"sh\", \"-c\", {}]`",
        serde_json::Value::from(quoted.join(" "))
    );
    if let Some((name, value)) = first.split_once('=').filter(|(name, _)| is_variable(name)) {
        let value = serde_json::Value::from(value);
        let rest = quoted.get(1..).unwrap_or_default().join(" ");
        let command = match rest.is_empty() {
            true => String::new(),
            false => format!(", and `command` from `{rest}` on"),
        };
        return Some(fatal(
            format!("`{first}` is a variable and no program: no shell reads `command`"),
            format!("write `environment = {{ {name} = {value} }}`{command}; or {as_shell}"),
        ));
    }
    let word = first.trim_start_matches(['(', '{']);
    if !OF_SHELLS.contains(&first.as_str()) && !OF_SHELLS.contains(&word) {
        return None;
    }
    let directory = match (first.as_str(), command.get(1)) {
        ("cd", Some(to)) => {
            let to = serde_json::Value::from(to.trim_end_matches(';'));
            format!("write `directory = {to}`, and `command` without it; or ")
        }
        ("export", _) => "write `environment`; or ".to_owned(),
        ("ulimit", _) => "write `limits`; or ".to_owned(),
        _ => "write ".to_owned(),
    };
    Some(fatal(
        format!("`{first}` is a word of the shell and no program: no shell reads `command`"),
        format!("{directory}{as_shell}"),
    ))
}

fn is_variable(name: &str) -> bool {
    let letter = |b: u8| b.is_ascii_alphabetic() || b == b'_';
    name.bytes().next().is_some_and(letter) && name.bytes().all(|b| letter(b) || b.is_ascii_digit())
}

/// The command that runs a script with an interpreter that its first line does not name.
fn run_by(interpreter: &Path, script: &Path) -> String {
    let module = script.file_name().and_then(|name| name.to_str());
    let module = module.filter(|name| is_variable(name) && is_python(interpreter));
    match module {
        Some(module) => format!("write `{} -m {module}` in `command`", interpreter.display()),
        None => format!("write `{} {}` in `command`", interpreter.display(), script.display()),
    }
}

fn is_python(interpreter: &Path) -> bool {
    let name = interpreter.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("python") || name.starts_with("pypy"))
}

/// A program that is a link to what the service does not see.
fn dangling(program: &Path, link: &Link) -> Trouble {
    let message = format!(
        "{} leads to {}, which does not exist in the service's root",
        if link.at == program {
            format!("{} is a link that", program.display())
        } else {
            format!(
                "{} is reached by the link {}, which",
                program.display(),
                link.at.display()
            )
        },
        link.to.display()
    );
    fatal(
        message,
        granted_or(&link.to, "correct the link, or make anew what it belongs to"),
    )
}

/// What to do about a program that services do not see: if this host has it, its folder can be granted.
fn granted_or(program: &Path, otherwise: &str) -> String {
    let recipe = match is_python(program) {
        true => "; a jail whose recipe has `requirements` brings a Python of its own",
        false => "",
    };
    match folder_of(program) {
        Some(folder) => {
            let shown = serde_json::Value::from(folder.to_string_lossy());
            format!("show services the folder that it lies in: `code = {{ {shown} = {shown} }}`{recipe}")
        }
        None => format!("{otherwise}{recipe}"),
    }
}

/// The folder of this host that has a program, and little else. Nobody is told to show all services a home.
fn folder_of(program: &Path) -> Option<PathBuf> {
    if !program.is_absolute() || !program.metadata().is_ok_and(|found| found.is_file()) {
        return None;
    }
    // What each service has of its own cannot be shown to it.
    let own = ["/tmp", "/proc", "/sys", "/dev", "/run"];
    if own.iter().any(|of| program.starts_with(of)) {
        return None;
    }
    let whole = |folder: &Path| {
        let depth = folder.components().count() - 1;
        depth < 2 || (folder.starts_with("/home") && depth < 3) || std::env::home_dir().as_deref() == Some(folder)
    };
    let folder = program.parent()?;
    let around = folder.parent().filter(|_| folder.ends_with("bin"));
    let folder = around.filter(|around| !whole(around)).unwrap_or(folder);
    (!whole(folder)).then(|| folder.to_owned())
}

fn no_loader(loader: &Path, host: Option<&Path>) -> String {
    let name = loader.to_string_lossy();
    if name.contains("ld-musl") {
        "it was built for musl, as Alpine has it: install a build for glibc, or give the service a jail that has musl"
            .into()
    } else if name.starts_with("/nix/") {
        "show services what it needs: `code = { \"/nix/store\" = \"/nix/store\" }`".into()
    } else {
        let collected = host.map_or_else(String::new, |host| format!(" of {}", host.display()));
        format!("give the service a jail that has it: a recipe{collected} collects what it needs")
    }
}

/// Neither for a machine nor a script.
fn no_first_line(program: &Path, host: &Path, head: &[u8]) -> Trouble {
    let shown = program.display();
    let (what, help) = if head.is_empty() {
        (" (it is empty)", "write it, or correct `command`".to_owned())
    } else if head
        .strip_prefix(b"\xef\xbb\xbf")
        .is_some_and(|rest| rest.starts_with(b"#!"))
    {
        let help = format!(
            "save it without one: `sed -i '1s/^\\xEF\\xBB\\xBF//' {}`",
            host.display()
        );
        (" (a byte order mark stands before its `#!`)", help)
    } else if head.trim_ascii_start().starts_with(b"#!") {
        (
            " (its `#!` does not stand at its very beginning)",
            "remove what stands before it".to_owned(),
        )
    } else {
        let help = format!(
            "begin {} with a line such as `#!/bin/sh`, or name the program that runs it",
            host.display()
        );
        ("", help)
    };
    let message = format!("{shown} is neither a program for this machine nor a script with a `#!` line{what}");
    fatal(message, help)
}

fn carriage_return(program: &Path, host: &Path) -> Trouble {
    fatal(
        format!(
            "the first line of {} ends as lines of Windows do (CR LF), and the CR counts as part of it",
            program.display()
        ),
        format!(
            "save it with the line ends of Unix: `sed -i 's/\\r$//' {}`",
            host.display()
        ),
    )
}

/// A script's first line, as the kernel reads it (load_script of fs/binfmt_script.c).
struct FirstLine {
    interpreter: PathBuf,
    argument: String,
}

fn first_line(head: &[u8]) -> Option<FirstLine> {
    let line = head.strip_prefix(b"#!")?;
    let line = line.get(..LONGEST_FIRST_LINE).unwrap_or(line);
    let line = line.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let line = line.trim_matches([' ', '\t']);
    let (interpreter, argument) = line.split_once([' ', '\t']).unwrap_or((line, ""));
    Some(FirstLine {
        interpreter: interpreter.into(),
        argument: argument.to_owned(),
    })
}

/// The name of a machine that this one is not.
fn foreign(machine: u16) -> Option<&'static str> {
    use object::elf;
    let names = [
        (elf::EM_X86_64, "x86_64", ["x86_64", ""]),
        (elf::EM_386, "x86", ["x86", "x86_64"]),
        (elf::EM_AARCH64, "aarch64", ["aarch64", ""]),
        (elf::EM_ARM, "arm", ["arm", "aarch64"]),
        (elf::EM_RISCV, "riscv64", ["riscv64", ""]),
        (elf::EM_PPC64, "powerpc64", ["powerpc64", ""]),
        (elf::EM_S390, "s390x", ["s390x", ""]),
    ];
    let (_, name, here) = names.into_iter().find(|(number, ..)| number.0 == machine)?;
    (!here.contains(&std::env::consts::ARCH)).then_some(name)
}

/// A program's beginning; all of it if it is short.
fn head(host: &Path) -> Option<Vec<u8>> {
    const ENOUGH: u64 = 64 << 10;
    let mut options = std::fs::File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(host)
        .ok()?;
    let mut head = Vec::new();
    file.take(ENOUGH).read_to_end(&mut head).ok()?;
    Some(head)
}
