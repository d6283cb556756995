//! From a tree to typed values: what a decoder is, where it is, and how a table of keys becomes one.
//!
//! Nothing here stops at an error: it says what is wrong and goes on with a default, so that all errors
//! of a manifest are shown at once. No key is named here; keys stand in [`super::types`] alone.

use std::ops::Range;

use schemars::{Schema, SchemaGenerator};

use super::compose;
use super::tree::{Entries, Key, Node, Tree};
use super::{Diagnostic, Format};
use crate::former;

/// Decodes one kind of value, and describes it to those who write one.
pub(crate) trait Codec {
    type Out;

    /// For "expected X, found Y".
    const EXPECTED: &'static str;

    /// A value of this kind, written as TOML and JSON both write it.
    const EXAMPLE: &'static str = "";

    /// What an entry of a table of these is called, if it is a thing with a name of its own.
    const NOUN: Option<&'static str> = None;

    /// `None`: it has been said what is wrong.
    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<Self::Out>;

    fn schema(generator: &mut SchemaGenerator) -> Schema;

    /// What to write where this value is missing, or is `found`.
    fn help(place: &Place<'_>, _found: Option<&Node<'_>>, format: Format) -> String {
        format!(
            "write, for example, `{}`",
            assignment(place.name, Self::EXAMPLE, format)
        )
    }

    /// What is wrong when the key is missing.
    fn missing(key: &str, table: &str) -> String {
        format!("{table} has no `{key}`")
    }
}

/// A table with known keys; [`table!`] makes one.
pub(crate) trait Table: Default {
    const WHAT: &'static str;
    const DOC: &'static [&'static str];

    fn decode_entries(entries: Entries<'_>, place: &Place<'_>, cx: &mut Cx) -> Self;
    fn describe_entries(generator: &mut SchemaGenerator) -> Schema;
}

/// The key whose value is being decoded, and the tables around it.
pub(crate) struct Place<'p> {
    pub name: &'p str,
    pub span: Range<usize>,
    /// What it is, if its name is the author's own: "service".
    pub noun: Option<&'static str>,
    pub outer: Option<&'p Place<'p>>,
}

impl<'p> Place<'p> {
    pub(crate) const ROOT: Place<'static> = Place {
        name: "",
        span: 0..0,
        noun: None,
        outer: None,
    };

    pub(crate) fn key(&'p self, key: &'p Key<'_>) -> Place<'p> {
        Place {
            name: &key.text,
            span: key.span.clone(),
            noun: None,
            outer: Some(self),
        }
    }

    pub(crate) fn named(mut self, noun: Option<&'static str>) -> Self {
        self.noun = noun;
        self
    }

    fn is_root(&self) -> bool {
        self.outer.is_none()
    }

    /// "service `web`", "`owner` of resource `db`", "the manifest".
    pub(crate) fn describe(&self) -> String {
        let name = shown(self.name);
        match (self.noun, self.outer) {
            (Some(noun), _) => format!("{noun} `{name}`"),
            (None, None) => "the manifest".to_owned(),
            (None, Some(outer)) if outer.is_root() => format!("`{name}`"),
            (None, Some(outer)) => format!("`{name}` of {}", outer.describe()),
        }
    }

    /// "services.web"
    pub(crate) fn path(&self) -> String {
        match self.outer {
            Some(outer) if !outer.is_root() => format!("{}.{}", outer.path(), shown(self.name)),
            _ => shown(self.name),
        }
    }
}

/// More than anyone reads; beyond it only memory would grow.
const MOST_DIAGNOSTICS: usize = 10_000;

/// What the decoders share.
pub(crate) struct Cx {
    pub format: Format,
    pub diagnostics: Vec<Diagnostic>,
    /// What is not there. After a syntax error it may only not have been read.
    pub absences: Vec<Diagnostic>,
}

impl Cx {
    pub(crate) fn new(format: Format) -> Self {
        Cx {
            format,
            diagnostics: Vec::new(),
            absences: Vec::new(),
        }
    }

    pub(crate) fn report(&mut self, diagnostic: Diagnostic) {
        if self.diagnostics.len() < MOST_DIAGNOSTICS {
            self.diagnostics.push(diagnostic);
        }
    }

    pub(crate) fn wrong_type<C: Codec>(&mut self, tree: &Tree<'_>, place: &Place<'_>) {
        let found = tree.node.noun(self.format);
        let message = format!("{}: expected {}, found {found}", place.describe(), C::EXPECTED);
        self.report(
            Diagnostic::error(tree.span.clone(), message)
                .label(format!("expected {}", C::EXPECTED))
                .help(C::help(place, Some(&tree.node), self.format)),
        );
    }

    pub(crate) fn missing<C: Codec>(&mut self, key: &'static str, table: &Place<'_>) {
        let place = Place {
            name: key,
            span: 0..0,
            noun: None,
            outer: Some(table),
        };
        let message = C::missing(key, &table.describe());
        if self.absences.len() < MOST_DIAGNOSTICS {
            let help = C::help(&place, None, self.format);
            self.absences
                .push(Diagnostic::error(table.span.clone(), message).help(help));
        }
    }

    /// Says that the table has no such key; returns the one that was probably meant.
    pub(crate) fn unknown(
        &mut self,
        key: &Key<'_>,
        value: &Node<'_>,
        (what, keys): (&str, &[&'static str]),
        table: &Place<'_>,
    ) -> Option<&'static str> {
        let renamed = former::key(what, &key.text);
        let of_compose = compose::counterpart(what, &key.text, value);
        let meant = renamed.or_else(|| nearest(&key.text, keys).filter(|_| of_compose.is_none()));
        let help = match (renamed, of_compose, meant) {
            (Some(new), _, _) => former::now(new),
            (None, Some(help), _) => help,
            (None, None, Some(meant)) => format!("did you mean `{meant}`?"),
            (None, None, None) => format!("{} takes: {}", table.describe(), keys.join(", ")),
        };
        let message = format!("unknown key `{}` in {}", shown(&key.text), table.describe());
        self.report(
            Diagnostic::error(key.span.clone(), message)
                .label("unknown key")
                .help(help),
        );
        meant
    }

    pub(crate) fn both(&mut self, key: &Key<'_>, first: &str, first_span: Range<usize>, table: &Place<'_>) {
        let message = format!("{} has both `{first}` and `{}`", table.describe(), key.text);
        self.report(
            Diagnostic::error(key.span.clone(), message)
                .label("says the same thing again")
                .other(first_span, "said here already")
                .help("put all names into one list and remove the other key"),
        );
    }
}

/// The known word that `word` probably misspells.
pub(crate) fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    const LONGEST: usize = 64;
    if word.len() > LONGEST {
        return None;
    }
    let word = word.to_ascii_lowercase();
    known
        .iter()
        .map(|candidate| (strsim::osa_distance(&word, candidate), *candidate))
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Text of the manifest for use in a sentence: one line, and not long.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut out: String = text.chars().take(LONGEST).flat_map(escape).collect();
    if text.chars().nth(LONGEST).is_some() {
        out.push('…');
    }
    out
}

fn escape(letter: char) -> impl Iterator<Item = char> {
    let (as_is, escaped) = if crate::plain::is_hidden(letter) {
        (None, Some(letter.escape_default()))
    } else {
        (Some(letter), None)
    };
    as_is.into_iter().chain(escaped.into_iter().flatten())
}

pub(crate) fn assignment(key: &str, value: &str, format: Format) -> String {
    match format {
        Format::Toml => format!("{} = {value}", shown(key)),
        Format::Json => format!("\"{}\": {value}", shown(key)),
    }
}

impl<T: Table> Codec for T
where
    T: schemars::JsonSchema,
{
    type Out = T;
    const EXPECTED: &'static str = "a table of keys";
    const NOUN: Option<&'static str> = Some(T::WHAT);

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<T> {
        match tree.node {
            Node::Table(entries) => Some(T::decode_entries(entries, place, cx)),
            _ => {
                cx.wrong_type::<T>(&tree, place);
                None
            }
        }
    }

    fn schema(generator: &mut SchemaGenerator) -> Schema {
        generator.subschema_for::<T>()
    }

    fn help(place: &Place<'_>, _found: Option<&Node<'_>>, format: Format) -> String {
        match format {
            Format::Toml => format!("write a table that begins with `[{}]`", place.path()),
            Format::Json => format!("write `{}`", assignment(place.name, "{ … }", format)),
        }
    }
}

/// Joins the lines of a doc comment.
pub(crate) fn prose(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// Makes of one list of keys a struct, its decoder and its JSON Schema.
///
/// `pub FIELD: TYPE = PRESENCE { "KEY": CODEC, … };` where `PRESENCE` is `required`, `optional` (an `Option`)
/// or `plain` (the type's default says that it is absent). Of several keys only one may be there.
macro_rules! table {
    (
        $(#[doc = $doc:literal])*
        pub struct $name:ident($what:literal) {
            $(
                $(#[doc = $field_doc:literal])*
                pub $field:ident: $type:ty = $presence:ident { $($key:literal: $codec:ty),+ };
            )*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default)]
        pub struct $name {
            $(
                $(#[doc = $field_doc])*
                pub $field: $type,
            )*
        }

        impl $crate::manifest::decode::Table for $name {
            const WHAT: &'static str = $what;
            const DOC: &'static [&'static str] = &[$($doc),*];

            fn decode_entries(
                entries: $crate::manifest::tree::Entries<'_>,
                place: &$crate::manifest::decode::Place<'_>,
                cx: &mut $crate::manifest::decode::Cx,
            ) -> Self {
                use $crate::manifest::decode::Codec;
                const KEYS: &[&str] = &[$($($key),+),*];
                // Where each field was set, and by which of its keys.
                #[derive(Default)]
                struct Seen {
                    $($field: Option<(&'static str, Range<usize>)>,)*
                }
                let mut seen = Seen::default();
                let mut misspelt: Vec<&'static str> = Vec::new();
                let mut table = Self::default();
                for (key, value) in entries {
                    match &*key.text {
                        $($(
                            $key => match &seen.$field {
                                Some((first, span)) => cx.both(&key, first, span.clone(), place),
                                None => {
                                    seen.$field = Some(($key, key.span.clone()));
                                    let inner = place.key(&key);
                                    if let Some(value) = <$codec as Codec>::decode(value, &inner, cx) {
                                        table.$field = $crate::manifest::decode::table!(@set $presence value);
                                    }
                                }
                            },
                        )+)*
                        _ => misspelt.extend(cx.unknown(&key, &value.node, (Self::WHAT, KEYS), place)),
                    }
                }
                $($(
                    $crate::manifest::decode::table!(@demand $presence {
                        if seen.$field.is_none() && !misspelt.contains(&$key) {
                            cx.missing::<$codec>($key, place);
                        }
                    });
                )+)*
                table
            }

            fn describe_entries(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                use $crate::manifest::decode::Codec;
                let mut table = $crate::manifest::schema::TableSchema::new(Self::DOC);
                $(
                    table.field(
                        &[$($field_doc),*],
                        vec![$(($key, <$codec as Codec>::schema(generator))),+],
                        $crate::manifest::decode::table!(@is_required $presence),
                    );
                )*
                table.finish()
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                <Self as $crate::manifest::decode::Table>::describe_entries(generator)
            }
        }
    };

    (@set optional $value:ident) => { Some($value) };
    (@set $presence:ident $value:ident) => { $value };
    (@demand required $check:block) => { $check };
    (@demand $presence:ident $check:block) => {};
    (@is_required required) => { true };
    (@is_required $presence:ident) => { false };
}
pub(super) use table;
