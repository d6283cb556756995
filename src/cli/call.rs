//! `call`: a function of a service, called as one of its callers. Whoever runs the app may speak for each of them: the
//! sockets are his.

use super::args::{Call, Cli};
use super::load::{Loaded, with_privilege};
use super::{Done, Failure};
use crate::model::{OPERATOR, Subject};
use crate::rpc::{Answer, Caller, RpcError, from_json, to_json};
use crate::supervise::client::Client;
use serde_json::Value as Json;
use std::io::Write;

pub(super) fn run(cli: &Cli, args: &Call) -> Done {
    // The sockets belong to the callers' ids.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let (mut service, _) = connect(cli, &args.service, args.caller.as_deref())?;
    if args.list {
        return show_list(&described(&mut service)?, &args.service);
    }
    let Some(function) = &args.function else {
        return Err(Failure::new(2, "name a function, or see them with --list"));
    };
    let values = args.args.iter().map(|text| from_json(&value(text))).collect();
    let mut named = Vec::new();
    for pair in &args.keyword {
        let (name, text) = pair
            .split_once('=')
            .ok_or_else(|| Failure::new(2, format!("-k {pair}: write NAME=VALUE")))?;
        named.push((rmpv::Value::from(name), from_json(&value(text))));
    }
    service.call(function, values, named, args.timeout.map(super::args::seconds))?;
    loop {
        match service.answer()? {
            Answer::Whole(value) => {
                show(&to_json(&value))?;
                return Ok(0);
            }
            Answer::Item(value) => show(&to_json(&value))?,
            Answer::End => return Ok(0),
        }
    }
}

/// A connection to a service of an app that is up, and in whose name it is.
pub(super) fn connect(cli: &Cli, service: &str, wanted: Option<&str>) -> Result<(Caller, String), Failure> {
    let loaded = Loaded::read(cli)?;
    let dirs = loaded.dirs(cli)?;
    let caller = caller(&loaded, service, wanted)?;
    // Is it up at all? That is the first thing to say.
    Client::connect(&dirs, &loaded.model.app)?;
    let path = dirs.rpc(&caller).join(format!("{service}.sock"));
    Ok((Caller::connect(&path)?, caller))
}

fn show(value: &Json) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    Ok(writeln!(out, "{value}").and_then(|()| out.flush())?)
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
    let callers: Vec<&str> = model.services[id]
        .callers
        .iter()
        .filter(|(caller, _)| matches!(caller, Subject::Service(_) | Subject::Operator))
        .map(|(caller, _)| model.subject_name(*caller))
        .collect();
    let names = callers.join(", ");
    match (wanted, callers.as_slice()) {
        (_, []) => Err(Failure::new(
            2,
            format!("nobody may call `{0}`: its `callers` are empty", service),
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
pub(super) fn described(service: &mut Caller) -> Result<Json, Failure> {
    service.call("pysecure.describe", Vec::new(), Vec::new(), None)?;
    match service.answer()? {
        Answer::Whole(value) => Ok(to_json(&value)),
        _ => Err(RpcError::Protocol("it describes nothing".into()).into()),
    }
}

/// The functions with what they take and give, for people.
pub(super) fn show_list(described: &Json, name: &str) -> Done {
    for function in described.as_array().into_iter().flatten() {
        let text = |key: &str| function[key].as_str().unwrap_or_default();
        let signature = text("signature");
        let line = if signature.is_empty() { text("name") } else { signature };
        println!("{name}.{}", crate::supervise::console::shown(line.as_bytes()));
        for line in text("doc").lines() {
            println!("    {}", crate::supervise::console::shown(line.trim().as_bytes()));
        }
    }
    Ok(0)
}
