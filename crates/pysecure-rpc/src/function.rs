//! A function that can be called from elsewhere, as `#[rpc]` records it.

use crate::client;
use crate::error::Error;
use crate::returned::Returned;
use crate::server::Reply;
use crate::types;
use crate::value::Value;
use crate::writer::Writer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::OnceLock;

pub struct Parameter {
    pub name: &'static str,
    pub text: fn(&mut Vec<&'static str>) -> String,
}

/// Made by `#[rpc]` alone.
pub struct Function {
    pub service: &'static str,
    pub name: &'static str,
    pub doc: &'static str,
    pub idempotent: bool,
    pub parameters: &'static [Parameter],
    pub returns: fn(&mut Vec<&'static str>) -> String,
    pub stream: bool,
    pub serve: fn(Arguments, &mut Reply<'_>) -> Result<(), Error>,
}

inventory::collect!(Function);

impl Function {
    /// As docs/rpc-protocol.md has it.
    pub fn signature(&self) -> String {
        let parameters = self.parameters.iter();
        let parameters: Vec<String> = parameters
            .map(|p| format!("{}:{}", p.name, (p.text)(&mut Vec::new())))
            .collect();
        let returns = (self.returns)(&mut Vec::new());
        format!("{}({})->{returns}", self.name, parameters.join(","))
    }

    pub(crate) fn hash(&self) -> u64 {
        types::hash(&self.signature())
    }

    pub(crate) fn describe(&self) -> Value {
        let text = |t: &str| Value::Str(t.to_owned());
        let map = |fields: Vec<(&str, Value)>| Value::Map(fields.into_iter().map(|(k, v)| (text(k), v)).collect());
        let parameters = self.parameters.iter().map(|p| {
            map(vec![
                ("name", text(p.name)),
                ("kind", text("any")),
                ("type", text(&(p.text)(&mut Vec::new()))),
                ("optional", Value::Bool(false)),
            ])
        });
        let hash = self.hash();
        map(vec![
            ("name", text(self.name)),
            ("signature", text(&self.signature())),
            ("hash", i64::try_from(hash).map_or(Value::UInt(hash), Value::Int)),
            (
                "doc",
                if self.doc.is_empty() {
                    Value::Nil
                } else {
                    text(self.doc.trim())
                },
            ),
            ("idempotent", Value::Bool(self.idempotent)),
            ("stream", Value::Bool(self.stream)),
            ("parameters", Value::Array(parameters.collect())),
            ("returns", text(&(self.returns)(&mut Vec::new()))),
        ])
    }
}

/// What a call brought, taken in the order of the parameters.
pub struct Arguments {
    positional: std::vec::IntoIter<Value>,
    named: Vec<(Value, Value)>,
}

fn invalid(message: String) -> Error {
    Error::Remote {
        class: "pysecure.InvalidArguments".into(),
        message,
        args: Vec::new(),
        ran: false,
    }
}

impl Arguments {
    pub(crate) fn new(positional: Vec<Value>, named: Vec<(Value, Value)>) -> Arguments {
        Arguments {
            positional: positional.into_iter(),
            named,
        }
    }

    pub fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Error> {
        let at = self
            .named
            .iter()
            .position(|(key, _)| matches!(key, Value::Str(key) if key == name));
        let value = match (self.positional.next(), at) {
            (Some(_), Some(_)) => return Err(invalid(format!("`{name}` is given twice"))),
            (Some(value), None) => value,
            (None, Some(at)) => self.named.swap_remove(at).1,
            (None, None) => return Err(invalid(format!("`{name}` is missing"))),
        };
        crate::from_value(value).map_err(|e| invalid(format!("`{name}`: {e}")))
    }

    /// Nothing may be left.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.positional.next().is_some() {
            return Err(invalid("too many arguments".into()));
        }
        match self.named.first() {
            None => Ok(()),
            Some((name, _)) => Err(invalid(format!("there is no parameter {name:?}"))),
        }
    }
}

/// The caller's half of a function.
#[doc(hidden)]
pub fn call<T: Returned>(
    function: &'static Function,
    known: &'static OnceLock<(u64, String)>,
    arguments: client::Fill<'_>,
) -> Result<T, Error> {
    let (hash, signature) = known.get_or_init(|| {
        let text = function.signature();
        (types::hash(&text), text)
    });
    let known = client::Known {
        signature,
        hash: *hash,
        idempotent: function.idempotent,
    };
    T::call(function.service, function.name, arguments, known)
}

/// Writes an argument.
#[doc(hidden)]
pub fn argument<T: Serialize>(writer: &mut Writer<'_>, value: &T) -> Result<(), Error> {
    crate::encode::put(writer, value, 2)
}
