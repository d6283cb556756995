//! `rpc call`: a function of a service, called as one of its callers. Whoever runs the app may speak for each of them: the
//! sockets are his.

use super::args::{Call, Cli};
use super::load::{self, with_privilege};
use super::{Done, Failure};
use crate::app::Loaded;
use crate::model::{OPERATOR, Subject};
use crate::rpc::{from_json, line, to_json};
use crate::supervise::client::Client;
use crate::supervise::console::shown;
use pysecure_rpc::{Answer, Connection, Value, Writer};
use serde_json::Value as Json;
use std::io::Write;
use std::time::Duration;

pub(super) fn run(cli: &Cli, args: &Call) -> Done {
    // The sockets belong to the callers' ids.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let (mut service, _) = connect(cli, &args.service, args.caller.as_deref())?;
    let values: Vec<Value> = args.args.iter().map(|text| from_json(&value(text))).collect();
    let mut named = Vec::new();
    for pair in &args.keyword {
        let (name, text) = pair
            .split_once('=')
            .ok_or_else(|| Failure::new(2, format!("-k {pair}: write NAME=VALUE")))?;
        named.push((name, from_json(&value(text))));
    }
    begin(
        &mut service,
        &args.function,
        &values,
        &named,
        args.timeout.map(super::args::seconds),
    )?;
    loop {
        match service.answer().map_err(failure)? {
            Answer::Whole(value) => {
                show(&to_json(&value))?;
                return Ok(0);
            }
            Answer::Item(value) => show(&to_json(&value))?,
            Answer::End(_) => return Ok(0),
        }
    }
}

fn begin(
    service: &mut Connection,
    function: &str,
    args: &[Value],
    named: &[(&str, Value)],
    timeout: Option<Duration>,
) -> Result<(), Failure> {
    let fill = |writer: &mut Writer<'_>| {
        writer.array(args.len());
        args.iter().try_for_each(|arg| writer.value(arg, 2))?;
        writer.map(named.len());
        for (name, value) in named {
            writer.str(name);
            writer.value(value, 2)?;
        }
        Ok(())
    };
    let begun = match timeout {
        Some(time) => pysecure_rpc::timeout(time, || service.begin(function, &fill)),
        None => service.begin(function, &fill),
    };
    begun.map_err(failure)
}

/// A service's words come from a side that may be hostile, so they are made harmless for the terminal.
fn failure(error: pysecure_rpc::Error) -> Failure {
    Failure::failed(shown(error.to_string().as_bytes()))
}

/// A connection to a service of an app that is up, and in whose name it is.
pub(super) fn connect(cli: &Cli, service: &str, wanted: Option<&str>) -> Result<(Connection, String), Failure> {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let caller = caller(&loaded, service, wanted)?;
    // Is it up at all? That is the first thing to say.
    Client::connect(&dirs, &loaded.model.app)?;
    if let Some(bytes) = loaded.model.rpc_max_message {
        pysecure_wire::limits::set_max_bytes(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let path = dirs.rpc(&caller).join(format!("{service}.sock"));
    match Connection::open(service, &path) {
        // The manifest grants it, as was seen before.
        Err(pysecure_rpc::Error::NotGranted(_)) => Err(Failure::failed(format!(
            "connect to {}: there is no such socket; apply the manifest's change with `pysecure up`",
            path.display()
        ))),
        other => Ok((other.map_err(failure)?, caller)),
    }
}

fn show(value: &Json) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    Ok(writeln!(out, "{}", line(value)).and_then(|()| out.flush())?)
}

/// JSON where it is, text where it is not: `5`, `true`, `[1]`, `alice`.
fn value(text: &str) -> Json {
    serde_json::from_str(text).unwrap_or_else(|_| Json::from(text))
}

/// In whose name: the one that was named, or the only one there is.
fn caller(loaded: &Loaded, service: &str, wanted: Option<&str>) -> Result<String, Failure> {
    let model = &loaded.model;
    let Some(id) = model.service(service) else {
        let names: Vec<&str> = model.services.iter().map(|s| s.name.as_str()).take(20).collect();
        return Err(Failure::new(
            2,
            format!("no service is called `{}`; there are: {}", service, names.join(", ")),
        ));
    };
    let callers: Vec<&str> = model
        .matrix()
        .calls_to(id)
        .filter(|row| matches!(row.subject, Subject::Service(_) | Subject::Operator))
        .map(|row| model.subject_name(row.subject))
        .collect();
    let names = callers.join(", ");
    match (wanted, callers.as_slice()) {
        (_, []) => Err(Failure::new(
            2,
            format!(
                "nobody may call `{service}`: its `callers` are empty; write `callers = {{ NAME = \"*\" }}` in [services.{service}], NAME \
                 being the service that calls it, or `{OPERATOR}` for whoever runs this command"
            ),
        )),
        (Some(name), _) if callers.contains(&name) => Ok(name.to_owned()),
        (Some(name), _) => Err(Failure::new(
            2,
            format!("`{name}` may not call `{}`; its callers are: {names}", service),
        )),
        (None, [one]) => Ok((*one).to_owned()),
        // In one's own name, where the manifest has it.
        (None, _) if callers.contains(&OPERATOR) => Ok(OPERATOR.to_owned()),
        (None, _) => Err(Failure::new(
            2,
            format!("say in whose name by --as: the callers of `{}` are: {names}", service),
        )),
    }
}

/// What a service says of the functions that this caller may call.
pub(super) fn described(service: &mut Connection) -> Result<Json, Failure> {
    begin(service, "pysecure.describe", &[], &[], None)?;
    match service.answer().map_err(failure)? {
        Answer::Whole(value) => Ok(to_json(&value)),
        _ => Err(Failure::failed(
            "the service does not keep to the protocol: it describes nothing",
        )),
    }
}

/// The functions with what they take and give, for people; with their documentation, if it is asked for.
pub(super) fn show_list(described: &Json, name: &str, documented: bool) -> Done {
    for function in described.as_array().into_iter().flatten() {
        let text = |key: &str| function[key].as_str().unwrap_or_default();
        let signature = text("signature");
        let line = if signature.is_empty() { text("name") } else { signature };
        outln!("{name}.{}", shown(line.as_bytes()));
        for line in text("doc").lines().filter(|_| documented) {
            outln!("    {}", shown(line.trim().as_bytes()));
        }
    }
    Ok(0)
}
