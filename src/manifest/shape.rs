//! Values made of other values: lists, tables of names, and the ways they may be shortened.
//!
//! A part that cannot be decoded never takes the rest along: a list loses one element, an entry of a
//! table stays declared with its default, so that what refers to it is not reported as well.

use std::marker::PhantomData;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::Diagnostic;
use super::Format;
use super::decode::{Codec, Cx, Place, assignment};
use super::scalar::HostPath;
use super::tree::{Key, Node, Tree};
use super::types::{At, Code, Named};

/// What a key of a [`Map`] must look like.
pub(crate) trait KeyRule {
    const EXAMPLE: &'static str;

    fn check(key: &Key<'_>, noun: &'static str, cx: &mut Cx);

    /// A pattern that JSON Schema understands, if any string will not do.
    const PATTERN: Option<&'static str>;
}

/// A list of values.
pub(crate) struct List<C>(PhantomData<C>);

impl<C: Codec> Codec for List<C> {
    type Out = Vec<C::Out>;
    const EXPECTED: &'static str = "a list";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Self::Out> {
        let Node::Array(elements) = tree.node else {
            cx.wrong_type::<Self>(&tree, place);
            return None;
        };
        let mut out = Vec::with_capacity(elements.len());
        for element in elements {
            out.extend(C::decode(element, place, cx));
        }
        Some(out)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": C::schema(generator) })
    }

    fn help(place: &Place<'_>, found: Option<&Node<'_>>, format: Format) -> String {
        match found {
            Some(Node::String(text)) if text.len() < 60 && !text.contains(['"', '\\']) => {
                format!("write `{}`", assignment(place.name, &format!("[\"{text}\"]"), format))
            }
            _ => format!(
                "write, for example, `{}`",
                assignment(place.name, &format!("[{}]", C::EXAMPLE), format)
            ),
        }
    }
}

/// A single value where there could be several.
pub(crate) struct One<C>(PhantomData<C>);

impl<C: Codec> Codec for One<C> {
    type Out = Vec<C::Out>;
    const EXPECTED: &'static str = C::EXPECTED;
    const EXAMPLE: &'static str = C::EXAMPLE;

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Self::Out> {
        if let Node::Array(_) = tree.node {
            cx.wrong_type::<Self>(&tree, place);
            return None;
        }
        C::decode(tree, place, cx).map(|value| vec![value])
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        C::schema(generator)
    }

    fn help(place: &Place<'_>, found: Option<&Node<'_>>, format: Format) -> String {
        match found {
            Some(Node::Array(_)) => format!("a list goes under the key `{}s`", place.name),
            _ => format!("write, for example, `{}`", assignment(place.name, C::EXAMPLE, format)),
        }
    }
}

/// A table whose keys are names.
pub(crate) struct Map<K, C>(PhantomData<(K, C)>);

impl<K: KeyRule, C: Codec> Codec for Map<K, C>
where
    C::Out: Default,
{
    type Out = Named<C::Out>;
    const EXPECTED: &'static str = "a table of names";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Self::Out> {
        let Node::Table(entries) = tree.node else {
            cx.wrong_type::<Self>(&tree, place);
            return None;
        };
        let mut out = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            K::check(&key, C::NOUN.unwrap_or("name"), cx);
            let inner = place.key(&key).named(C::NOUN);
            let value = C::decode(value, &inner, cx).unwrap_or_default();
            out.push((
                At {
                    value: key.text.into_owned(),
                    span: key.span,
                },
                value,
            ));
        }
        Some(out)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = json_schema!({ "type": "object", "additionalProperties": C::schema(generator) });
        if let Some(pattern) = K::PATTERN {
            schema.insert("propertyNames".to_owned(), serde_json::json!({ "pattern": pattern }));
        }
        schema
    }

    fn help(place: &Place<'_>, found: Option<&Node<'_>>, format: Format) -> String {
        if C::NOUN.is_some() {
            return match format {
                Format::Toml => format!("write a table that begins with `[{}.NAME]`", place.path()),
                Format::Json => format!("write `{}`", assignment(place.name, "{ \"NAME\": { … } }", format)),
            };
        }
        // As Compose has variables, too.
        if let Some(Node::Array(elements)) = found
            && let Some(entries) = elements.iter().map(pair).collect::<Option<Vec<_>>>()
            && !entries.is_empty()
        {
            let entries: Vec<String> = entries
                .iter()
                .take(3)
                .map(|(name, value)| assignment(name, &serde_json::Value::from(*value).to_string(), format))
                .collect();
            return format!(
                "write `{}`",
                assignment(place.name, &format!("{{ {} }}", entries.join(", ")), format)
            );
        }
        // A bare list of names becomes the table that its author probably meant.
        let names: Vec<&str> = match found {
            Some(Node::Array(elements)) => elements.iter().take(3).filter_map(bare_key).collect(),
            _ => Vec::new(),
        };
        let names = if names.is_empty() { vec![K::EXAMPLE] } else { names };
        let entries: Vec<String> = names.iter().map(|name| assignment(name, C::EXAMPLE, format)).collect();
        format!(
            "write `{}`",
            assignment(place.name, &format!("{{ {} }}", entries.join(", ")), format)
        )
    }
}

/// `NAME=VALUE`
fn pair<'t>(tree: &'t Tree<'_>) -> Option<(&'t str, &'t str)> {
    let Node::String(text) = &tree.node else { return None };
    text.split_once('=').filter(|_| text.len() < 200)
}

fn bare_key<'t>(tree: &'t Tree<'_>) -> Option<&'t str> {
    let Node::String(text) = &tree.node else { return None };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    (!text.is_empty() && text.len() < 60 && text.bytes().all(plain)).then_some(text)
}

/// A table of names that must have one.
pub(crate) struct NonEmpty<M>(PhantomData<M>);

impl<T, M: Codec<Out = Named<T>>> Codec for NonEmpty<M> {
    type Out = Named<T>;
    const EXPECTED: &'static str = M::EXPECTED;

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Self::Out> {
        let decoded = M::decode(tree, place, cx)?;
        if decoded.is_empty() {
            let message = Self::missing(place.name, "the manifest");
            let help = Self::help(place, None, cx.format);
            cx.absences
                .push(Diagnostic::error(place.span.clone(), message).help(help));
        }
        Some(decoded)
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = M::schema(generator);
        schema.insert("minProperties".to_owned(), 1.into());
        schema
    }

    fn help(place: &Place<'_>, found: Option<&Node<'_>>, format: Format) -> String {
        M::help(place, found, format)
    }

    fn missing(key: &str, table: &str) -> String {
        format!("no {key}: {table} declares nothing that runs")
    }
}

/// A host path, or a table that says more of it.
pub(crate) struct Folder;

impl Codec for Folder {
    type Out = Code;
    const EXPECTED: &'static str = "a path on the host, or a table of `source` and `exclude`";
    const EXAMPLE: &'static str = "\"./app\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Code> {
        match tree.node {
            Node::Table(_) => Code::decode(tree, place, cx),
            Node::String(_) => Some(Code {
                source: HostPath::decode(tree, place, cx)?,
                exclude: Vec::new(),
            }),
            _ => {
                cx.wrong_type::<Self>(&tree, place);
                None
            }
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [HostPath::schema(generator), Code::schema(generator)] })
    }
}
