//! A function that can be called from elsewhere, as `#[rpc]` records it.

use crate::client;
use crate::connection::Fill;
use crate::error::Error;
use crate::reply::Reply;
use crate::returned::Returned;
use crate::types;
use pysecure_wire::{Value, Writer};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::OnceLock;

/// A parameter of a function.
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// The text of its type; see [`crate::Typed::text`].
    pub text: fn(&mut Vec<&'static str>) -> String,
}

/// A function that can be called from elsewhere. Made by `#[rpc]` alone.
pub struct Function {
    /// The service that it runs in.
    pub service: &'static str,
    /// Its name.
    pub name: &'static str,
    /// Its documentation.
    pub doc: &'static str,
    /// May it be called again when nobody knows whether it ran?
    pub idempotent: bool,
    /// Its parameters, in order.
    pub parameters: &'static [Parameter],
    /// The text of its result's type.
    pub returns: fn(&mut Vec<&'static str>) -> String,
    /// Is its result a stream?
    pub stream: bool,
    /// Runs it, and answers.
    pub serve: fn(Arguments, &mut Reply<'_>) -> Result<(), Error>,
}

inventory::collect!(Function);

impl Function {
    /// Its signature as text (docs/reference/rpc-protocol.md, "Signatures").
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

/// The arguments of a call, taken in the order of the parameters.
pub struct Arguments {
    positional: std::vec::IntoIter<Value>,
    named: Vec<(Value, Value)>,
}

fn invalid(message: String) -> Error {
    Error::reply("pysecure.InvalidArguments", message, false)
}

impl Arguments {
    pub(crate) fn new(positional: Vec<Value>, named: Vec<(Value, Value)>) -> Arguments {
        Arguments {
            positional: positional.into_iter(),
            named,
        }
    }

    /// The next argument, or the named one of this name.
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
    arguments: Fill<'_>,
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
