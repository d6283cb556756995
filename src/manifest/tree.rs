//! One tree for TOML and JSON: values, and where each stands. What a key means is not known here.

use super::Format;
use super::diagnostic::Diagnostic;
use super::types::At;
use std::ops::Range;
use toml::de::{DeTable, DeValue};

/// Deeper than any manifest; what reads the tree recurses no deeper.
const DEEPEST: usize = 64;

pub struct Node {
    pub value: Value,
    pub span: Range<usize>,
}

pub enum Value {
    Null,
    Bool(bool),
    /// `None`: outside the range of 64 bits.
    Integer(Option<i64>),
    Float,
    Date,
    String(String),
    Array(Vec<Node>),
    Table(Vec<(At<String>, Node)>),
}

impl Value {
    /// With its article, for "expected …, found …".
    pub fn name(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float => "a number with a fraction",
            Value::Date => "a date or time",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// Reads a text. The tree holds what could be read, even if not all could.
pub fn read(text: &str, format: Format, found: &mut Vec<Diagnostic>) -> Node {
    match format {
        Format::Toml => read_toml(text, found),
        Format::Json => read_json(text, found),
    }
}

fn read_toml(text: &str, found: &mut Vec<Diagnostic>) -> Node {
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in errors {
        // One at the very end has nothing to mark but the last character.
        let end = text.len();
        let span = error.span().unwrap_or(0..0);
        let start = span.start.min(end.saturating_sub(1));
        found.push(Diagnostic::error(start..span.end.clamp(start + 1, end.max(start + 1)), format!("not TOML: {}", error.message().trim_end())));
    }
    let span = table.span();
    Node { value: from_table(table.into_inner()), span }
}

fn from_table(table: DeTable<'_>) -> Value {
    let entry = |(key, value): (toml::Spanned<std::borrow::Cow<'_, str>>, toml::Spanned<DeValue<'_>>)| {
        let span = key.span();
        (At { value: key.into_inner().into_owned(), span }, from_toml(value))
    };
    Value::Table(table.into_iter().map(entry).collect())
}

/// Recurses no deeper than the parser does, which stops at 80.
fn from_toml(node: toml::Spanned<DeValue<'_>>) -> Node {
    let span = node.span();
    let value = match node.into_inner() {
        DeValue::String(text) => Value::String(text.into_owned()),
        DeValue::Integer(number) => Value::Integer(i64::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(_) => Value::Float,
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => Value::Array(items.into_iter().map(from_toml).collect()),
        DeValue::Table(table) => from_table(table),
    };
    Node { value, span }
}

fn read_json(text: &str, found: &mut Vec<Diagnostic>) -> Node {
    let strict = jsonc_parser::ParseOptions {
        allow_comments: false,
        allow_loose_object_property_names: false,
        allow_trailing_commas: false,
        allow_missing_commas: false,
        allow_single_quoted_strings: false,
        allow_hexadecimal_numbers: false,
        allow_unary_plus_numbers: false,
        allow_bare_decimal_point_numbers: false,
        allow_non_finite_numbers: false,
        allow_extended_string_escapes: false,
    };
    let nothing = || Node { value: Value::Table(Vec::new()), span: 0..0 };
    match jsonc_parser::parse_to_ast(text, &jsonc_parser::CollectOptions::default(), &strict) {
        Ok(parsed) => match parsed.value {
            Some(value) => from_json(value, 0, found),
            None => nothing(),
        },
        Err(error) => {
            let range = error.range();
            let start = range.start.min(text.len().saturating_sub(1));
            found.push(Diagnostic::error(start..range.end.clamp(start + 1, text.len().max(start + 1)), format!("not JSON: {}", error.kind())));
            nothing()
        }
    }
}

fn from_json(value: jsonc_parser::ast::Value<'_>, depth: usize, found: &mut Vec<Diagnostic>) -> Node {
    use jsonc_parser::ast::Value as Json;
    use jsonc_parser::common::Ranged;
    let span = value.start()..value.end();
    if depth > DEEPEST {
        found.push(Diagnostic::error(span.clone(), "nested too deeply").help("no key of a manifest takes such a value"));
        return Node { value: Value::Null, span };
    }
    let value = match value {
        Json::StringLit(text) => Value::String(text.value.into_owned()),
        Json::NumberLit(number) if number.value.contains(['.', 'e', 'E']) => Value::Float,
        Json::NumberLit(number) => Value::Integer(number.value.parse().ok()),
        Json::BooleanLit(value) => Value::Bool(value.value),
        Json::NullKeyword(_) => Value::Null,
        Json::Array(items) => Value::Array(items.elements.into_iter().map(|item| from_json(item, depth + 1, found)).collect()),
        Json::Object(object) => {
            let mut out: Vec<(At<String>, Node)> = Vec::with_capacity(object.properties.len());
            let mut seen = std::collections::HashMap::new();
            for property in object.properties {
                let at = property.name.start()..property.name.end();
                let name = property.name.into_string();
                if let Some(first) = seen.insert(name.clone(), at.clone()) {
                    found.push(Diagnostic::error(at, format!("`{name}` stands twice in one table")).other(first, "first here").help("keep one"));
                    continue;
                }
                out.push((At { value: name, span: at }, from_json(property.value, depth + 1, found)));
            }
            Value::Table(out)
        }
    };
    Node { value, span }
}
