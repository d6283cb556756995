//! One tree for both formats: what the text says, and where each part of it stands.
//!
//! Syntax is judged here and nowhere else: what the parsers refuse, duplicate keys, depth. What a key
//! means is not known here. Strings stay borrowed from the text wherever the text has no escapes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use jsonc_parser::ast;
use jsonc_parser::common::Ranged;
use jsonc_parser::errors::ParseErrorKind;
use toml::de::{DeTable, DeValue};

use super::{Diagnostic, Format};

/// A key as it reads once unquoted, and where it stands.
pub(crate) struct Key<'a> {
    pub text: Cow<'a, str>,
    pub span: Range<usize>,
}

pub(crate) type Entries<'a> = Vec<(Key<'a>, Tree<'a>)>;

pub(crate) struct Tree<'a> {
    pub node: Node<'a>,
    pub span: Range<usize>,
}

pub(crate) enum Node<'a> {
    String(Cow<'a, str>),
    /// `None`: beyond even 128 bits.
    Integer(Option<i128>),
    /// `None`: no number of that form.
    Float(Option<f64>),
    Boolean(bool),
    Datetime,
    Null,
    Array(Vec<Tree<'a>>),
    Table(Entries<'a>),
}

impl Node<'_> {
    /// For "expected X, found Y".
    pub(crate) fn noun(&self, format: Format) -> &'static str {
        match (self, format) {
            (Node::String(_), _) => "a string",
            (Node::Integer(_), _) => "an integer",
            (Node::Float(_), _) => "a number with a fraction or exponent",
            (Node::Boolean(_), _) => "a boolean",
            (Node::Datetime, _) => "a date or time",
            (Node::Null, _) => "null",
            (Node::Array(_), _) => "a list",
            (Node::Table(_), Format::Toml) => "a table",
            (Node::Table(_), Format::Json) => "an object",
        }
    }
}

/// Above this, one syntax error is reported instead of all: nothing bounds how many a parser that
/// recovers collects from garbage, and each costs memory.
const RECOVER_UP_TO: usize = 1 << 20;

/// How many syntax errors are kept of a text.
const MOST_SYNTAX_ERRORS: usize = 1_000;

/// How many duplicate keys get their first place shown. Finding one takes a walk.
const MOST_FIRST_PLACES: usize = 100;

/// How often the text before a repeated table header is parsed again, to find the first one.
const MOST_REPARSES: usize = 4;

/// The root table, and what is wrong with the syntax. With errors, the tree holds what could be read.
pub(crate) fn parse(text: &str, format: Format) -> (Entries<'_>, Vec<Diagnostic>) {
    match format {
        Format::Toml => toml(text),
        Format::Json => json(text),
    }
}

fn toml(text: &str) -> (Entries<'_>, Vec<Diagnostic>) {
    let (table, errors) = if text.len() <= RECOVER_UP_TO {
        let (table, errors) = DeTable::parse_recoverable(text);
        (table.into_inner(), errors)
    } else {
        match DeTable::parse(text) {
            Ok(table) => (table.into_inner(), Vec::new()),
            Err(error) => (DeTable::new(), vec![error]),
        }
    };
    let diagnostics = if errors.is_empty() {
        Vec::new()
    } else {
        toml_errors(text, &table, &errors)
    };
    (from_toml(table), diagnostics)
}

fn from_toml(table: DeTable<'_>) -> Entries<'_> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        let span = key.span();
        entries.push((
            Key {
                text: key.into_inner(),
                span,
            },
            from_toml_value(value),
        ));
    }
    entries
}

// Recursive; the parser gives up at 80 levels.
fn from_toml_value(value: toml::Spanned<DeValue<'_>>) -> Tree<'_> {
    let span = value.span();
    let node = match value.into_inner() {
        DeValue::String(text) => Node::String(text),
        DeValue::Integer(number) => Node::Integer(i128::from_str_radix(number.as_str(), number.radix()).ok()),
        DeValue::Float(number) => Node::Float(number.as_str().parse().ok()),
        DeValue::Boolean(value) => Node::Boolean(value),
        DeValue::Datetime(_) => Node::Datetime,
        DeValue::Array(values) => Node::Array(values.into_iter().map(from_toml_value).collect()),
        DeValue::Table(table) => Node::Table(from_toml(table)),
    };
    Tree { node, span }
}

fn toml_errors(text: &str, table: &DeTable<'_>, errors: &[toml::de::Error]) -> Vec<Diagnostic> {
    let mut first_places = FirstPlaces::new(text, table);
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    for error in errors {
        // Only the depth limit has no place of its own, and it repeats for every level below.
        let span = error.span().unwrap_or(0..0);
        let message = error.message();
        if diagnostics
            .last()
            .is_some_and(|last| last.span == span && last.message == message)
        {
            continue;
        }
        if diagnostics.len() == MOST_SYNTAX_ERRORS {
            break;
        }
        let diagnostic = if message == "duplicate key" {
            let key = text.get(span.clone()).unwrap_or_default();
            duplicate(key, span.clone(), first_places.of(span))
        } else if message.contains("recurs") {
            Diagnostic::error(span, message).help("no key of a manifest takes values nested this deep")
        } else {
            Diagnostic::error(span, message).label("not valid TOML")
        };
        diagnostics.push(diagnostic);
    }
    diagnostics
}

fn duplicate(key: &str, span: Range<usize>, first: Option<Range<usize>>) -> Diagnostic {
    let key = key.trim_matches(['"', '\'']);
    let error = Diagnostic::error(span, format!("`{key}` is set twice"))
        .label("the second time")
        .help("keep one of the two");
    match first {
        Some(first) => error.other(first, "first set here"),
        None => error,
    }
}

/// Finds what a duplicate key repeats, which the TOML parser knows and does not tell.
struct FirstPlaces<'t, 'a> {
    text: &'a str,
    /// Where each table's header begins, in order, with the root at 0.
    headers: Vec<(usize, &'t DeTable<'a>)>,
    left: usize,
    /// The text before some header, parsed.
    before: Option<DeTable<'a>>,
    reparses_left: usize,
}

impl<'t, 'a> FirstPlaces<'t, 'a> {
    fn new(text: &'a str, root: &'t DeTable<'a>) -> Self {
        let mut headers = vec![(0, root)];
        let mut open = vec![root];
        while let Some(table) = open.pop() {
            for (_, value) in table {
                let start = value.span().start;
                let mut enter = |table: &'t DeTable<'a>, start: usize| {
                    open.push(table);
                    // The span of a table is its header, if it has one of its own.
                    if text.as_bytes().get(start) == Some(&b'[') {
                        headers.push((start, table));
                    }
                };
                match value.get_ref() {
                    DeValue::Table(table) => enter(table, start),
                    DeValue::Array(values) => {
                        for value in values {
                            if let DeValue::Table(table) = value.get_ref() {
                                enter(table, value.span().start);
                            }
                        }
                    }
                    _ => {}
                }
            }
        }
        headers.sort_by_key(|(start, _)| *start);
        FirstPlaces {
            text,
            headers,
            left: MOST_FIRST_PLACES,
            before: None,
            reparses_left: MOST_REPARSES,
        }
    }

    fn of(&mut self, span: Range<usize>) -> Option<Range<usize>> {
        self.left = self.left.checked_sub(1)?;
        let line_start = self
            .text
            .get(..span.start)?
            .rfind('\n')
            .map_or(0, |newline| newline + 1);
        let line = self.text.get(line_start..)?.lines().next()?;
        let first = if line.trim_start().starts_with('[') {
            self.of_header(line_start, line)
        } else {
            self.of_key(&span)
        };
        first.filter(|first| first.start < span.start)
    }

    fn of_key(&self, span: &Range<usize>) -> Option<Range<usize>> {
        let wanted = self.text.get(span.clone())?;
        let wanted = wanted.trim_matches(['"', '\'']);
        let index = self
            .headers
            .partition_point(|(start, _)| *start <= span.start)
            .checked_sub(1)?;
        let mut table = self.headers.get(index)?.1;
        // Down into the innermost inline table around the key.
        while let Some((_, inner)) = table.iter().find(|(_, value)| {
            let outer = value.span();
            value.get_ref().is_table()
                && self.text.as_bytes().get(outer.start) == Some(&b'{')
                && outer.start <= span.start
                && span.end <= outer.end
        }) {
            table = inner.get_ref().as_table()?;
        }
        table.get_key_value(wanted).map(|(key, _)| key.span())
    }

    fn of_header(&mut self, line_start: usize, line: &str) -> Option<Range<usize>> {
        let header = line.find(']').and_then(|end| line.get(..=end))?;
        let path = DeTable::parse(header).ok()?.into_inner();
        if let Some(found) = self.before.as_ref().and_then(|before| follow(before, &path)) {
            return Some(found);
        }
        self.reparses_left = self.reparses_left.checked_sub(1)?;
        let before = DeTable::parse_recoverable(self.text.get(..line_start)?).0.into_inner();
        let found = follow(&before, &path);
        self.before = Some(before);
        found
    }
}

/// Where in `table` the innermost key of `path`, a chain of tables with one key each, stands.
fn follow(table: &DeTable<'_>, path: &DeTable<'_>) -> Option<Range<usize>> {
    let (key, below) = path.iter().next()?;
    let (found, value) = table.get_key_value(key.get_ref().as_ref())?;
    match below.get_ref().as_table() {
        Some(below) if !below.is_empty() => follow(value.get_ref().as_table()?, below),
        _ => Some(found.span()),
    }
}

fn json(text: &str) -> (Entries<'_>, Vec<Diagnostic>) {
    let options = jsonc_parser::ParseOptions {
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
    let root = match jsonc_parser::parse_to_ast(text, &Default::default(), &options) {
        Ok(parsed) => parsed.value,
        Err(error) => return (Vec::new(), vec![json_error(&error)]),
    };
    let mut diagnostics = Vec::new();
    let entries = match root.map(|root| from_json(root, &mut diagnostics)) {
        Some(Tree {
            node: Node::Table(entries),
            ..
        }) => entries,
        other => {
            let span = other.as_ref().map_or(0..0, |tree| tree.span.clone());
            let found = other.map_or("nothing", |tree| tree.node.noun(Format::Json));
            diagnostics.push(
                Diagnostic::error(span, format!("a manifest is an object, found {found}"))
                    .help("write `{ \"app\": { \"name\": \"demo\" }, \"services\": { … } }`"),
            );
            Vec::new()
        }
    };
    (entries, diagnostics)
}

fn json_error(error: &jsonc_parser::errors::ParseError) -> Diagnostic {
    let span = error.range().start..error.range().end;
    let message = error.kind().to_string();
    let mut letters = message.chars();
    let message: String = letters
        .next()
        .into_iter()
        .flat_map(char::to_lowercase)
        .chain(letters)
        .collect();
    let diagnostic = Diagnostic::error(span, message).label("not valid JSON");
    match error.kind() {
        ParseErrorKind::CommentsNotAllowed => {
            diagnostic.help("JSON has no comments; TOML has: `pysecure init` writes a manifest in it")
        }
        ParseErrorKind::TrailingCommasNotAllowed => diagnostic.help("remove this comma"),
        ParseErrorKind::NestingDepthExceeded => diagnostic.help("no key of a manifest takes values nested this deep"),
        _ => diagnostic,
    }
}

// Recursive; the parser gives up at 512 levels.
fn from_json<'a>(value: ast::Value<'a>, diagnostics: &mut Vec<Diagnostic>) -> Tree<'a> {
    let range = value.range();
    let span = range.start..range.end;
    let node = match value {
        ast::Value::StringLit(string) => {
            control_characters(&string, diagnostics);
            Node::String(string.value)
        }
        ast::Value::NumberLit(number) => {
            if number.value.contains(['.', 'e', 'E']) {
                Node::Float(number.value.parse().ok())
            } else {
                Node::Integer(number.value.parse().ok())
            }
        }
        ast::Value::BooleanLit(boolean) => Node::Boolean(boolean.value),
        ast::Value::NullKeyword(_) => Node::Null,
        ast::Value::Array(array) => Node::Array(
            array
                .elements
                .into_iter()
                .map(|element| from_json(element, diagnostics))
                .collect(),
        ),
        ast::Value::Object(object) => Node::Table(from_json_object(object, diagnostics)),
    };
    Tree { node, span }
}

fn from_json_object<'a>(object: ast::Object<'a>, diagnostics: &mut Vec<Diagnostic>) -> Entries<'a> {
    let mut entries: Entries<'a> = Vec::with_capacity(object.properties.len());
    let mut seen: HashMap<Cow<'a, str>, Range<usize>> = HashMap::new();
    for property in object.properties {
        let (text, range) = match property.name {
            ast::ObjectPropName::String(name) => {
                control_characters(&name, diagnostics);
                (name.value, name.range)
            }
            ast::ObjectPropName::Word(name) => (Cow::Borrowed(name.value), name.range),
        };
        let span = range.start..range.end;
        let value = from_json(property.value, diagnostics);
        if let Some(first) = seen.get(&text) {
            diagnostics.push(duplicate(&text, span, Some(first.clone())));
            continue;
        }
        seen.insert(text.clone(), span.clone());
        entries.push((Key { text, span }, value));
    }
    entries
}

/// JSON wants control characters escaped; the parser takes them as they are.
fn control_characters(string: &ast::StringLit<'_>, diagnostics: &mut Vec<Diagnostic>) {
    let Cow::Borrowed(text) = string.value else { return };
    if let Some(offset) = text.bytes().position(|byte| byte < 0x20) {
        let at = string.range.start + 1 + offset;
        diagnostics.push(
            Diagnostic::error(at..at + 1, "a control character stands in a string")
                .label("not valid JSON")
                .help("write a newline as `\\n`, a tab as `\\t`, any other as `\\u00XX`"),
        );
    }
}
