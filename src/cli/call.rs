//! `call`: a function of a running service, from the command line. Over the socket of the pair (caller, callee), so the
//! service holds this end to what the manifest grants that caller, and knows it by no other name.

use super::args::{Call, Cli};
use super::load::{Loaded, with_privilege};
use super::{Done, Failure};
use crate::model::OPERATOR;
use crate::plan::Dirs;
use pysecure_rpc::{Connection, Error, Value};
use serde_json::Value as Json;
use std::path::PathBuf;
use std::time::Duration;

pub(super) fn run(cli: &Cli, args: &Call) -> Done {
    // A service's socket is its id's alone; who owns the app is above that where it was made.
    if let Some(code) = with_privilege()? {
        return Ok(code);
    }
    let loaded = Loaded::read(cli)?;
    let path = socket(&loaded, &loaded.dirs(cli)?, args)?;
    let seconds = args.timeout.map(Duration::try_from_secs_f64).transpose();
    let timeout = seconds.map_err(|e| Failure::new(2, format!("--timeout: {e}")))?;
    let work = || -> Result<Value, Error> {
        let mut connection = Connection::open(&args.service, &path)?;
        match &args.function {
            Some(function) => {
                let values: Vec<Value> = args.args.iter().map(|text| argument(text)).collect();
                connection.call(function, &values, &[])
            }
            None => connection.call("pysecure.describe", &[], &[]),
        }
    };
    let result = match timeout {
        Some(time) => pysecure_rpc::within(time, work),
        None => work(),
    };
    let value = result.map_err(|error| match error {
        Error::NotGranted(_) => Failure::failed(format!(
            "`{}` has no socket to `{}`: the app is not up, or its manifest has changed since; `pysecure up -d` brings \
             it up to date",
            args.caller, args.service
        )),
        error => Failure::failed(harmless(&error.to_string())),
    })?;
    if args.list {
        for function in list(&value) {
            println!("{function}");
        }
    } else {
        println!("{:#}", json(&value));
    }
    Ok(0)
}

fn socket(loaded: &Loaded, dirs: &Dirs, args: &Call) -> Result<PathBuf, Failure> {
    let model = &loaded.model;
    let Some(callee) = model.service(&args.service) else {
        return Err(Failure::new(2, format!("no service is called `{}`", args.service)));
    };
    let callers: Vec<&str> = model.services[callee]
        .callers
        .iter()
        .map(|(c, _)| model.subject_name(*c))
        .collect();
    if !callers.contains(&args.caller.as_str()) {
        let others = match callers.as_slice() {
            [] => "nobody does".to_owned(),
            some => format!("these do: {}; `--as {}` calls in its place", some.join(", "), some[0]),
        };
        let remedy = match args.caller.as_str() {
            OPERATOR => "let the operator call it: callers = { operator = \"*\" }",
            _ => "name it there",
        };
        return Err(Failure::new(
            2,
            format!(
                "`callers` of `{}` do not name `{}` ({others}); {remedy}",
                args.service, args.caller
            ),
        ));
    }
    let folder = match args.caller.as_str() {
        crate::model::DYNAMIC => dirs.dynamic.clone(),
        caller => dirs.rpc(caller),
    };
    Ok(folder.join(format!("{}.sock", args.service)))
}

/// As JSON, or else as text.
fn argument(text: &str) -> Value {
    serde_json::from_str(text).map_or_else(|_| Value::Str(text.to_owned()), plain)
}

fn plain(json: Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(v) => Value::Bool(v),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(v), _) => Value::Int(v),
            (_, Some(v)) => Value::UInt(v),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(v) => Value::Str(v),
        Json::Array(v) => Value::Array(v.into_iter().map(plain).collect()),
        Json::Object(v) => Value::Map(v.into_iter().map(|(k, v)| (Value::Str(k), plain(v))).collect()),
    }
}

/// A result for programs to read. What JSON has no like of is text.
fn json(value: &Value) -> Json {
    let all = |items: &[Value]| Json::Array(items.iter().map(json).collect());
    match value {
        Value::Nil => Json::Null,
        Value::Bool(v) => (*v).into(),
        Value::Int(v) => (*v).into(),
        Value::UInt(v) => (*v).into(),
        // NaN and infinities are null.
        Value::Float(v) => (*v).into(),
        Value::Str(v) => v.as_str().into(),
        Value::Bytes(v) => match std::str::from_utf8(v) {
            Ok(text) => text.into(),
            Err(_) => hex(v).into(),
        },
        Value::Array(v) | Value::Tuple(v) | Value::Set(v) | Value::FrozenSet(v) => all(v),
        Value::Map(v) => {
            let key = |key: &Value| match key {
                Value::Str(text) => text.clone(),
                other => json(other).to_string(),
            };
            Json::Object(v.iter().map(|(k, v)| (key(k), json(v))).collect())
        }
        Value::Member(v) => json(v),
        Value::Fd(_) => "a descriptor".into(),
        Value::Other(9, data) => String::from_utf8_lossy(data).into(),
        Value::Other(_, data) => hex(data).into(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The signatures, and of each function's documentation the first line. It is the service's text, and may hold
/// what a terminal would obey.
fn list(described: &Value) -> Vec<String> {
    let Json::Array(functions) = json(described) else {
        return Vec::new();
    };
    let text = |f: &Json, key: &str| {
        f[key]
            .as_str()
            .and_then(|t| t.lines().next())
            .unwrap_or_default()
            .to_owned()
    };
    let line = |f: &Json| match text(f, "doc") {
        doc if doc.is_empty() => text(f, "signature"),
        doc => format!("{}  {doc}", text(f, "signature")),
    };
    functions.iter().map(|f| harmless(&line(f))).collect()
}

/// A service's text, without what a terminal would obey.
fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}
