//! Services as a manifest declares them, but for what they own and share.

use super::build::{Names, flag, reported};
use super::{
    Caller, EXTERNAL, Model, OPERATOR, SETUP_SCRIPT, Service, ServicePlaces, Subject, life, limits, logs, network, path,
};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At, Manifest};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;

/// Addresses that are listened on, and where that is said.
type Bound<'m> = BTreeMap<SocketAddr, &'m At<String>>;

pub(super) fn declare(model: &mut Model, manifest: &Manifest, names: &Names, found: &mut Vec<Diagnostic>) {
    let mut bound = Bound::new();
    for (name, table) in &manifest.services {
        let service = service(name, table, manifest, names, &mut bound, found);
        model.services.push(service);
    }
}

fn service<'m>(
    name: &At<String>,
    table: &'m types::Service,
    manifest: &Manifest,
    names: &Names,
    bound: &mut Bound<'m>,
    found: &mut Vec<Diagnostic>,
) -> Service {
    fn place<T>(at: &Option<At<T>>, name: &At<String>) -> Range<usize> {
        at.as_ref().map_or_else(|| name.span.clone(), |at| at.span.clone())
    }
    not_reserved("service", name, found);
    let directory = directory(table, found);
    let (listen, listen_at) = listen(table, bound, found);
    let callers = callers(name, table, manifest, names, found);
    let (publish, publish_at) = network::read(&table.publish, found);
    Service {
        name: name.value.clone(),
        was: table.was.as_ref().filter(|at| !reported(at)).map(|at| at.value.clone()),
        command: table.command.value.clone(),
        directory,
        owns: Vec::new(),
        bundles: Vec::new(),
        runs_with_root: flag(&table.runs_with_root) || !table.users.is_empty(),
        users: users(name, table, found),
        rootfs: table
            .jail
            .as_ref()
            .map_or_else(|| "host".to_owned(), |r| r.value.clone()),
        writable: table.writable.as_ref().map(|w| w.value).unwrap_or_default(),
        callers,
        rpc_tracebacks: flag(&table.rpc_tracebacks),
        listen,
        network: table.network.as_ref().map(|n| n.value).unwrap_or_default(),
        publish,
        egress: flag(&table.egress),
        environment: table
            .environment
            .iter()
            .map(|(k, v)| (k.value.clone(), v.value.clone()))
            .collect(),
        life: life::read(name, table, names, found),
        limits: limits::read(name, table, found),
        memory_files: limits::memory_files(table, found),
        logs: logs::read(table, found),
        span: name.span.clone(),
        places: ServicePlaces {
            command: table.command.span.clone(),
            directory: place(&table.directory, name),
            rootfs: place(&table.jail, name),
            writable: place(&table.writable, name),
            runs_with_root: match (&table.runs_with_root, table.users.first()) {
                (Some(at), _) if at.value => at.span.clone(),
                (_, Some(at)) => at.span.clone(),
                _ => place(&table.runs_with_root, name),
            },
            network: place(&table.network, name),
            egress: place(&table.egress, name),
            listen: listen_at,
            publish: publish_at,
            owns: Vec::new(),
            bundles: Vec::new(),
        },
    }
}

/// More than any program has; each takes a line of the maps of ids.
const MOST_USERS: usize = 32;

/// Names as useradd(8) takes them, which no other line of the service's /etc/passwd and /etc/group has.
fn users(name: &At<String>, table: &types::Service, found: &mut Vec<Diagnostic>) -> Vec<String> {
    let taken = ["root", "nobody", "nogroup", "keeper"];
    let begins = |c: char| c.is_ascii_lowercase() || c == '_';
    let goes_on = |c: char| begins(c) || c.is_ascii_digit() || c == '-';
    let mut out: Vec<String> = Vec::new();
    for at in table.users.iter().filter(|at| !reported(at)) {
        let user = at.value.as_str();
        let bundle = table.bundles.iter().any(|bundle| bundle.value == user);
        let wrong = if !user.starts_with(begins) || !user.chars().all(goes_on) || user.len() > 32 {
            Some(format!("\"{user}\" is no name of a user"))
        } else if taken.contains(&user) || user == name.value {
            Some(format!("`{}` has a user called `{user}` already", name.value))
        } else if bundle {
            Some(format!(
                "`{user}` is a bundle of `{}`, and so a group of its own",
                name.value
            ))
        } else if out.iter().any(|other| other == user) {
            Some(format!("`{user}` is named twice"))
        } else if out.len() == MOST_USERS {
            Some(format!("`{}` has more than {MOST_USERS} users", name.value))
        } else {
            None
        };
        match wrong {
            None => out.push(user.to_owned()),
            Some(message) => found.push(Diagnostic::error(at.span.clone(), message).help(
                "name the users that the program drops to, such as users = [\"www-data\"]: lower-case letters, digits, `_` and `-`",
            )),
        }
    }
    let says_no = table
        .runs_with_root
        .as_ref()
        .filter(|at| !at.value && !table.users.is_empty());
    if let Some(at) = says_no {
        let message = format!("`{}` has `users`, which take that it is root inside", name.value);
        let help = "take `runs_with_root = false` out: outside it is as little root as any other service";
        found.push(Diagnostic::error(at.span.clone(), message).help(help));
    }
    out
}

/// `what`: "service" or "sandbox".
pub(super) fn not_reserved(what: &str, name: &At<String>, found: &mut Vec<Diagnostic>) {
    if matches!(
        name.value.as_str(),
        EXTERNAL | OPERATOR | SETUP_SCRIPT | "listen" | "keeper"
    ) {
        found.push(
            Diagnostic::error(name.span.clone(), format!("a {what} cannot be called `{}`", name.value))
                .label("PySecure uses this word itself")
                .help(format!("call it `{}svc`", name.value)),
        );
    }
}

fn directory(table: &types::Service, found: &mut Vec<Diagnostic>) -> String {
    let top = || "/".to_owned();
    match &table.directory {
        None => top(),
        Some(at) if at.value.trim_end_matches('/').is_empty() && at.value.starts_with('/') => top(),
        Some(at) if reported(at) => top(),
        Some(at) => path::normal(&at.value).unwrap_or_else(|why| {
            found.push(Diagnostic::error(
                at.span.clone(),
                format!("directory \"{}\" {why}", at.value),
            ));
            top()
        }),
    }
}

/// The addresses that can be listened on, and where each stands.
fn listen<'m>(
    table: &'m types::Service,
    bound: &mut Bound<'m>,
    found: &mut Vec<Diagnostic>,
) -> (Vec<SocketAddr>, Vec<Range<usize>>) {
    let mut out = (Vec::new(), Vec::new());
    for at in &table.listen {
        match at.value.parse::<SocketAddr>() {
            Err(_) => found.push(address_error(at, "to listen on")),
            Ok(address) if address.port() == 0 => {
                found.push(
                    Diagnostic::error(at.span.clone(), format!("\"{}\" has port 0", at.value))
                        .help("name the port that clients connect to, 1 to 65535"),
                );
            }
            Ok(address) => match bound.insert(address, at) {
                Some(first) => found.push(
                    Diagnostic::error(at.span.clone(), format!("{address} is listened on twice"))
                        .other(first.span.clone(), "first here")
                        .help("give one of them another port"),
                ),
                None => {
                    out.0.push(address);
                    out.1.push(at.span.clone());
                }
            },
        }
    }
    out
}

/// Sorted by subject.
fn callers(
    name: &At<String>,
    table: &types::Service,
    manifest: &Manifest,
    names: &Names,
    found: &mut Vec<Diagnostic>,
) -> Vec<Caller> {
    let mut callers: Vec<Caller> = Vec::new();
    for (caller, callable) in table.callers.iter().flatten() {
        match names.subject(&caller.value) {
            None => found.push(names.unknown("service", caller)),
            Some(Subject::Sandbox(_)) => found.push(
                Diagnostic::error(
                    caller.span.clone(),
                    format!("`{}` is a sandbox, and what runs in one calls no service", caller.value),
                )
                .help("hand a function to the run that calls the service for it, and decides which calls those may be"),
            ),
            Some(Subject::Service(id)) if manifest.services[id.position()].0.value == name.value => {
                found.push(
                    Diagnostic::error(
                        caller.span.clone(),
                        format!("`{}` names itself as a caller", name.value),
                    )
                    .help("a service needs no grant to call its own functions; take it out"),
                );
            }
            Some(subject) => callers.push(Caller {
                subject,
                may: callable.value.clone(),
                span: caller.span.clone(),
            }),
        }
    }
    if let Some(at) = table
        .rpc_tracebacks
        .as_ref()
        .filter(|at| at.value && callers.is_empty())
    {
        found.push(
            Diagnostic::error(
                at.span.clone(),
                format!("`{}` shows its callers tracebacks, but nobody may call it", name.value),
            )
            .help("name its `callers`, or take this out"),
        );
    }
    callers.sort_by_key(|c| c.subject);
    callers
}

/// `what`: what the address is for, such as "to listen on".
pub(super) fn address_error(at: &At<String>, what: &str) -> Diagnostic {
    let text = &at.value;
    let help = match text.rsplit_once(':') {
        Some((host, port)) if port.parse::<u16>().is_ok() && matches!(host, "localhost" | "") => {
            format!("write \"127.0.0.1:{port}\"")
        }
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            format!("names are not looked up; write an address, such as \"127.0.0.1:{port}\" or \"[::1]:{port}\"")
        }
        _ if text.parse::<u16>().is_ok() => {
            format!("write \"127.0.0.1:{text}\" for this machine alone, or \"0.0.0.0:{text}\" for everybody")
        }
        _ => "write ADDRESS:PORT, such as \"127.0.0.1:8080\"".to_owned(),
    };
    Diagnostic::error(at.span.clone(), format!("\"{text}\" is no address {what}")).help(help)
}
