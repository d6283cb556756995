//! The kinds of value by which a service's life is described: when it starts, when it is ready, what is done
//! when it ends.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::Diagnostic;
use super::Format;
use super::decode::{Codec, Cx, Place, assignment, shown};
use super::scalar::{Text, word};
use super::tree::{Node, Tree};
use super::types::{At, Named, Probe, Readiness};
use crate::values::{Condition, Isolation, Restart, ServiceType, Sink, Start, signal_number};

/// Enums that are one word out of a few.
macro_rules! words {
    ($($name:ident: $expected:literal, $example:literal, [$($word:literal => $variant:ident),+];)*) => {$(
        impl Codec for $name {
            type Out = At<$name>;
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = $example;

            fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<$name>> {
                word::<$name, $name>(tree, place, cx, &[$(($word, $name::$variant)),+])
            }

            fn schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "enum": [$($word),+] })
            }
        }
    )*};
}

words! {
    ServiceType: "`\"simple\"` or `\"oneshot\"`", "\"oneshot\"", ["simple" => Simple, "oneshot" => Oneshot];
    Start: "`\"auto\"` or `\"on-demand\"`", "\"on-demand\"", ["auto" => Auto, "on-demand" => OnDemand];
    Condition: "`\"started\"`, `\"ready\"` or `\"completed\"`", "\"ready\"",
        ["started" => Started, "ready" => Ready, "completed" => Completed];
    Restart: "`\"no\"`, `\"on-failure\"` or `\"always\"`", "\"on-failure\"",
        ["no" => No, "on-failure" => OnFailure, "always" => Always];
    Isolation: "`\"namespaces\"` or `\"landlock\"`", "\"landlock\"",
        ["namespaces" => Namespaces, "landlock" => Landlock];
    Sink: "`\"file\"`, `\"journald\"`, `\"syslog\"` or `\"none\"`", "\"journald\"",
        ["file" => File, "journald" => Journald, "syslog" => Syslog, "none" => None];
}

/// `["a", "b"]`, or `{ a = "ready", b = "completed" }`.
pub(crate) struct Dependencies;

impl Codec for Dependencies {
    type Out = Named<At<Condition>>;
    const EXPECTED: &'static str = "a list of services, or a table of services and conditions";
    const EXAMPLE: &'static str = "{ db = \"ready\" }";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Self::Out> {
        match tree.node {
            Node::Array(elements) => {
                let names = elements
                    .into_iter()
                    .filter_map(|element| Text::decode(element, place, cx));
                Some(
                    names
                        .map(|name| {
                            let span = name.span.clone();
                            (
                                name,
                                At {
                                    value: Condition::Started,
                                    span,
                                },
                            )
                        })
                        .collect(),
                )
            }
            Node::Table(entries) => {
                let mut out = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    let inner = place.key(&key);
                    let condition = Condition::decode(condition(value), &inner, cx).unwrap_or_default();
                    out.push((
                        At {
                            value: key.text.into_owned(),
                            span: key.span,
                        },
                        condition,
                    ));
                }
                Some(out)
            }
            Node::String(ref name) => {
                let list = assignment(place.name, &format!("[\"{}\"]", shown(name)), cx.format);
                cx.report(
                    Diagnostic::error(
                        tree.span.clone(),
                        format!("{}: expected {}", place.describe(), Self::EXPECTED),
                    )
                    .help(format!("for that one service, write `{list}`")),
                );
                None
            }
            _ => {
                cx.wrong_type::<Self>(&tree, place);
                None
            }
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "array", "items": Text::schema(generator) },
            { "type": "object", "additionalProperties": Condition::schema(generator) }
        ] })
    }
}

/// Compose has it in a table of its own, whose error is that of its word.
fn condition(value: Tree<'_>) -> Tree<'_> {
    match value.node {
        Node::Table(entries) => {
            let span = value.span.clone();
            let found = entries.into_iter().find(|(key, value)| {
                key.text == "condition" && matches!(&value.node, Node::String(text) if text.starts_with("service_"))
            });
            found.map_or(
                Tree {
                    node: Node::Table(Vec::new()),
                    span,
                },
                |(_, value)| value,
            )
        }
        node => Tree { node, span: value.span },
    }
}

impl Codec for Readiness {
    type Out = At<Readiness>;
    const EXPECTED: &'static str = "`\"notify\"` or a probe";
    const EXAMPLE: &'static str = "\"notify\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Readiness>> {
        let span = tree.span.clone();
        let value = match tree.node {
            Node::Table(_) => Readiness::Probe(Box::new(Probe::decode(tree, place, cx)?)),
            _ => {
                #[derive(Clone, Copy)]
                struct Notify;
                word::<Readiness, Notify>(tree, place, cx, &[("notify", Notify)])?;
                Readiness::Notify
            }
        };
        Some(At { value, span })
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "notify" }, Probe::schema(generator)] })
    }

    fn help(place: &Place<'_>, _found: Option<&Node<'_>>, format: Format) -> String {
        format!(
            "write `{}`, or a probe such as `{}`",
            assignment(place.name, "\"notify\"", format),
            assignment(place.name, "{ tcp = \"127.0.0.1:5432\" }", format)
        )
    }
}

/// A signal by its name, with or without `SIG`; its number comes out.
pub(crate) struct SignalName;

impl Codec for SignalName {
    type Out = At<u8>;
    const EXPECTED: &'static str = "the name of a signal, such as `\"SIGTERM\"`";
    const EXAMPLE: &'static str = "\"SIGTERM\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<u8>> {
        let Node::String(text) = &tree.node else {
            cx.wrong_type::<SignalName>(&tree, place);
            return None;
        };
        let Some(number) = signal_number(text) else {
            cx.report(
                Diagnostic::error(
                    tree.span.clone(),
                    format!("{}: there is no signal `{}`", place.describe(), shown(text)),
                )
                .help("`kill -l` lists them"),
            );
            return None;
        };
        Some(At {
            value: number,
            span: tree.span,
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(SIG)?[A-Z0-9]+$" })
    }
}
