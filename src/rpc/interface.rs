//! What `pysecure.describe` answers, as a stub for Python's type checkers and as JSON for programs in any language.
//!
//! A service describes itself, so its text is untrusted: what is no name of Python's gets into no stub, and what is no
//! type of docs/reference/rpc-protocol.md ("Signatures") is `Any`.

use serde_json::{Value as Json, json};
use std::collections::BTreeSet;
use std::fmt::Write;

/// Types within types; a message is not nested deeper either.
const DEEPEST: usize = 64;

/// A type as signatures have it.
#[derive(Clone, Debug, PartialEq)]
enum Type {
    /// `int`, `str` and the like.
    Plain(String),
    /// `list[T]`, `map[K,V]` and the like; `tuple[]` has none.
    Of(String, Vec<Type>),
    /// `tuple[T,...]`
    TupleOf(Box<Type>),
    OneOf(Vec<Type>),
    Enum(String),
    Literal(Vec<Json>),
    /// Name, type, and may it be left out?
    Record(Vec<(String, Type, bool)>),
    /// A record within itself.
    Inside(String),
}

struct Reader<'a> {
    rest: &'a str,
    depth: usize,
}

/// `None` for what is none.
fn parse(text: &str) -> Option<Type> {
    let mut reader = Reader { rest: text, depth: 0 };
    let found = reader.union()?;
    reader.rest.is_empty().then_some(found)
}

impl Reader<'_> {
    fn take(&mut self, token: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(token)?;
        Some(())
    }

    fn word(&mut self) -> Option<String> {
        let end = self
            .rest
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then(|| word.to_owned())
    }

    fn union(&mut self) -> Option<Type> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return None;
        }
        let mut all = vec![self.one()?];
        while self.take("|").is_some() {
            all.push(self.one()?);
        }
        self.depth -= 1;
        match all.len() {
            1 => all.pop(),
            _ => Some(Type::OneOf(all)),
        }
    }

    fn one(&mut self) -> Option<Type> {
        if self.take("@").is_some() {
            return self.word().map(Type::Inside);
        }
        if self.take("{").is_some() {
            return self.record();
        }
        let word = self.word()?;
        if self.take("[").is_none() {
            return Some(Type::Plain(word));
        }
        match word.as_str() {
            "enum" => {
                let name = self.word()?;
                self.take("]")?;
                Some(Type::Enum(name))
            }
            "literal" => self.literal(),
            _ => {
                let mut of = Vec::new();
                while self.take("]").is_none() {
                    if !of.is_empty() {
                        self.take(",")?;
                        if word == "tuple" && of.len() == 1 && self.take("...]").is_some() {
                            return of.pop().map(|item| Type::TupleOf(Box::new(item)));
                        }
                    }
                    of.push(self.union()?);
                }
                Some(Type::Of(word, of))
            }
        }
    }

    fn literal(&mut self) -> Option<Type> {
        let mut values = Vec::new();
        loop {
            let mut stream = serde_json::Deserializer::from_str(self.rest).into_iter::<Json>();
            values.push(stream.next()?.ok()?);
            self.rest = self.rest.get(stream.byte_offset()..)?;
            if self.take("]").is_some() {
                return Some(Type::Literal(values));
            }
            self.take(",")?;
        }
    }

    fn record(&mut self) -> Option<Type> {
        let mut fields: Vec<(String, Type, bool)> = Vec::new();
        while self.take("}").is_none() {
            if !fields.is_empty() {
                self.take(",")?;
            }
            let at = self.rest.find(':')?;
            let name = self.rest[..at].to_owned();
            self.rest = &self.rest[at + 1..];
            let kind = self.union()?;
            let optional = self.take("=").is_some();
            fields.push((name, kind, optional));
        }
        Some(Type::Record(fields))
    }
}

/// A type as an object that a program need not parse.
fn to_json(kind: &Type) -> Json {
    let all = |kinds: &[Type]| kinds.iter().map(to_json).collect::<Vec<Json>>();
    match kind {
        Type::Plain(name) => json!({ "kind": name }),
        Type::Of(name, of) => json!({ "kind": name, "of": all(of) }),
        Type::TupleOf(item) => json!({ "kind": "tuple", "each": to_json(item) }),
        Type::OneOf(kinds) => json!({ "kind": "union", "of": all(kinds) }),
        Type::Enum(name) => json!({ "kind": "enum", "name": name }),
        Type::Literal(values) => json!({ "kind": "literal", "values": values }),
        Type::Inside(name) => json!({ "kind": "enclosing", "name": name }),
        Type::Record(fields) => {
            let field = |(name, kind, optional): &(String, Type, bool)| json!({ "name": name, "type": to_json(kind), "optional": optional });
            json!({ "kind": "record", "fields": fields.iter().map(field).collect::<Vec<Json>>() })
        }
    }
}

/// The interface of a service as one caller has it. `described` is what it answered.
pub fn description(service: &str, caller: &str, described: &Json) -> Json {
    let mut functions = described.as_array().cloned().unwrap_or_default();
    let typed = |text: &Json| text.as_str().and_then(parse).map_or(Json::Null, |kind| to_json(&kind));
    // By index, one that is no object would end this program.
    for function in functions.iter_mut().filter_map(Json::as_object_mut) {
        let returns = function.get("returns").map_or(Json::Null, typed);
        function.insert("returns_type".to_owned(), returns);
        let parameters = function.get_mut("parameters").and_then(Json::as_array_mut);
        for parameter in parameters.into_iter().flatten().filter_map(Json::as_object_mut) {
            let kind = parameter.get("type").map_or(Json::Null, typed);
            parameter.insert("parsed".to_owned(), kind);
        }
    }
    json!({ "protocol": 1, "service": service, "caller": caller, "functions": functions })
}

/// A module of Python's stubs (PEP 484): what type checkers read in place of the service's module.
pub fn stub(service: &str, caller: &str, described: &Json) -> String {
    let mut stub = Stub::default();
    let mut functions = String::new();
    for function in described.as_array().into_iter().flatten() {
        match stub.function(function) {
            Some(text) => functions.push_str(&text),
            None => functions.push_str("\n# One function has a name that is none of Python's.\n"),
        }
    }
    let mut out = format!(
        "# Functions of the service {service:?} that {caller:?} may call. Written by `pysecure rpc stubs`.\n\n\
         import datetime\nimport decimal\nimport enum\nimport uuid\n\
         from collections.abc import AsyncIterator, Iterator\nfrom typing import Any, Literal\n\n\
         from pysecure_rpc import Fd\nfrom typing_extensions import NotRequired, TypedDict\n"
    );
    for name in &stub.enums {
        // Its members do not cross; the service's own module has them.
        let _ = write!(out, "\nclass {name}(enum.Enum): ...\n");
    }
    for (_, name, fields) in &stub.records {
        let _ = write!(out, "\n{name} = TypedDict({}, {{{}}})\n", quoted(name), fields);
    }
    out + &functions
}

#[derive(Default)]
struct Stub {
    enums: BTreeSet<String>,
    /// The type, the name that it has here, and its fields as text.
    records: Vec<(Type, String, String)>,
    names: BTreeSet<String>,
}

impl Stub {
    fn function(&mut self, function: &Json) -> Option<String> {
        let name = identifier(function["name"].as_str()?)?;
        let mut parameters: Vec<String> = Vec::new();
        let (mut before, mut keywords) = ("", false);
        for parameter in function["parameters"].as_array().into_iter().flatten() {
            let label = identifier(parameter["name"].as_str()?)?;
            let hint = self.hint(&parameter["type"], &format!("{name}_{label}"));
            let default = if parameter["optional"] == true { " = ..." } else { "" };
            let kind = parameter["kind"].as_str()?;
            if before == "positional" && kind != "positional" {
                parameters.push("/".into());
            }
            if kind == "keyword" && !keywords {
                keywords = true;
                if before != "rest" {
                    parameters.push("*".into());
                }
            }
            before = ["positional", "rest"].into_iter().find(|k| *k == kind).unwrap_or("any");
            keywords |= kind == "rest";
            parameters.push(match kind {
                "rest" => format!("*{label}: {hint}"),
                "keywords" => format!("**{label}: {hint}"),
                _ => format!("{label}: {hint}{default}"),
            });
        }
        if before == "positional" {
            parameters.push("/".into());
        }
        let mut returns = self.hint(&function["returns"], &format!("{name}_result"));
        let is_async = function["async"] == true;
        if function["stream"] == true {
            returns = format!("{}Iterator[{returns}]", if is_async { "Async" } else { "" });
        }
        let keyword = match (is_async, function["stream"] == true) {
            (true, false) => "async def",
            _ => "def",
        };
        let mut out = format!("\n{keyword} {name}({}) -> {returns}:", parameters.join(", "));
        match function["doc"].as_str() {
            Some(doc) if !doc.is_empty() => {
                let _ = write!(out, "\n    {}\n    ...\n", quoted(doc));
            }
            _ => out.push_str(" ...\n"),
        }
        Some(out)
    }

    fn hint(&mut self, text: &Json, wanted: &str) -> String {
        match text.as_str().and_then(parse) {
            Some(kind) => self.python(&kind, wanted, &[]),
            None => "Any".into(),
        }
    }

    /// `around`: the names of the records that it lies in.
    fn python(&mut self, kind: &Type, wanted: &str, around: &[String]) -> String {
        let inner = |stub: &mut Stub, of: &[Type]| -> Vec<String> {
            of.iter().map(|k| stub.python(k, wanted, around)).collect()
        };
        match kind {
            Type::Plain(name) => match name.as_str() {
                "nil" => "None".into(),
                "bool" | "int" | "float" | "complex" | "str" | "bytes" | "bytearray" => name.clone(),
                "datetime" | "date" | "time" | "timedelta" => format!("datetime.{name}"),
                "decimal" => "decimal.Decimal".into(),
                "uuid" => "uuid.UUID".into(),
                "fd" => "Fd".into(),
                _ => "Any".into(),
            },
            Type::Of(name, of) => {
                let parts = inner(self, of);
                match (name.as_str(), parts.len()) {
                    ("list" | "set" | "frozenset", 1) => format!("{name}[{}]", parts[0]),
                    ("map", 2) => format!("dict[{}]", parts.join(", ")),
                    ("tuple", 0) => "tuple[()]".into(),
                    ("tuple", _) => format!("tuple[{}]", parts.join(", ")),
                    _ => "Any".into(),
                }
            }
            Type::TupleOf(item) => {
                let item = self.python(item, wanted, around);
                format!("tuple[{item}, ...]")
            }
            Type::OneOf(kinds) => inner(self, kinds).join(" | "),
            Type::Enum(name) => match identifier(name) {
                Some(name) => {
                    self.names.insert(name.clone());
                    self.enums.insert(name.clone());
                    name
                }
                None => "Any".into(),
            },
            Type::Literal(values) => literal(values).unwrap_or_else(|| "Any".into()),
            // Records have no names on the wire, so of several around it could be any.
            Type::Inside(_) => match around {
                [one] => one.clone(),
                _ => "Any".into(),
            },
            Type::Record(fields) => self.record(kind, fields, wanted, around),
        }
    }

    fn record(&mut self, kind: &Type, fields: &[(String, Type, bool)], wanted: &str, around: &[String]) -> String {
        if let Some((_, name, _)) = self.records.iter().find(|(known, _, _)| known == kind) {
            return name.clone();
        }
        let mut name: String = wanted.split('_').map(capitalised).collect();
        while self.names.contains(&name) {
            name.push('_');
        }
        self.names.insert(name.clone());
        let around = [around, &[name.clone()]].concat();
        let mut text = String::new();
        for (field, kind, optional) in fields {
            let hint = self.python(kind, &format!("{wanted}_{field}"), &around);
            let hint = if *optional {
                format!("NotRequired[{hint}]")
            } else {
                hint
            };
            let _ = write!(
                text,
                "{}{}: {hint}",
                if text.is_empty() { "" } else { ", " },
                quoted(field)
            );
        }
        self.records.push((kind.clone(), name.clone(), text));
        name
    }
}

fn literal(values: &[Json]) -> Option<String> {
    let one = |value: &Json| match value {
        Json::Null => Some("None".to_owned()),
        Json::Bool(true) => Some("True".to_owned()),
        Json::Bool(false) => Some("False".to_owned()),
        Json::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
        Json::String(text) => Some(quoted(text)),
        _ => None,
    };
    let parts: Option<Vec<String>> = values.iter().map(one).collect();
    parts.map(|parts| format!("Literal[{}]", parts.join(", ")))
}

fn capitalised(part: &str) -> String {
    let mut letters = part.chars().filter(|c| c.is_alphanumeric());
    letters
        .next()
        .map(|first| first.to_uppercase().chain(letters).collect())
        .unwrap_or_default()
}

/// As a Python string, in ASCII: JSON's escapes are Python's, but for characters of two halves.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            ' '..='~' => out.push(c),
            _ => {
                let _ = write!(out, "\\U{:08x}", c as u32);
            }
        }
    }
    out.push('"');
    out
}

const KEYWORDS: [&str; 35] = [
    "False", "None", "True", "and", "as", "assert", "async", "await", "break", "class", "continue", "def", "del",
    "elif", "else", "except", "finally", "for", "from", "global", "if", "import", "in", "is", "lambda", "nonlocal",
    "not", "or", "pass", "raise", "return", "try", "while", "with", "yield",
];

/// What can stand as a name in a module.
fn identifier(text: &str) -> Option<String> {
    let first = text.chars().next()?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    (text.chars().all(fits) && !first.is_ascii_digit() && !KEYWORDS.contains(&text)).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_read() {
        for (text, python) in [
            ("int", "int"),
            ("nil|str", "None | str"),
            ("map[str,list[tuple[int,...]]]", "dict[str, list[tuple[int, ...]]]"),
            ("tuple[]", "tuple[()]"),
            ("tuple[int,tuple[str,bytes]]", "tuple[int, tuple[str, bytes]]"),
            ("literal[\"a]\",1,null,true]", "Literal[\"a]\", 1, None, True]"),
            ("enum[Colour]", "Colour"),
            ("{x:int,y:list[@P]=}", "FP"),
            ("surprise[int]", "Any"),
            ("list[int", "Any"),
            ("{x:int", "Any"),
            ("", "Any"),
            ("literal[b'x']", "Any"),
            ("int]", "Any"),
        ] {
            assert_eq!(Stub::default().hint(&json!(text), "f_p"), python, "{text}");
        }
        let deep = "list[".repeat(10_000) + "int" + &"]".repeat(10_000);
        assert_eq!(Stub::default().hint(&json!(deep), "f_p"), "Any");
    }

    #[test]
    fn a_description_may_be_anything() {
        for odd in [json!(1), json!(null), json!("x"), json!([]), json!(true)] {
            let around = [
                json!([odd]),
                json!([{ "parameters": odd, "returns": odd }]),
                json!([{ "parameters": [odd] }]),
                json!([{ "name": odd, "parameters": [{ "name": odd, "type": odd, "kind": odd }] }]),
                odd,
            ];
            for described in around {
                description("a", "b", &described);
                stub("a", "b", &described);
            }
        }
    }

    #[test]
    fn nothing_gets_into_a_stub_that_is_no_name() {
        let described = json!([
            { "name": "a(): ...\nimport os", "parameters": [], "returns": "int" },
            { "name": "ok", "doc": "\"\"\"\nimport os\u{1f600}", "returns": "enum[os]|enum[class]|int",
              "parameters": [{ "name": "x=os.system()", "kind": "any", "type": "int" }] },
            { "name": "fine", "doc": "\"\"\"\nimport os", "returns": "literal[\"\\\"\\nimport os\"]",
              "parameters": [{ "name": "x", "kind": "any", "type": "{\"}\nimport os:int}" }] },
        ]);
        let text = stub("a\nimport os", "b", &described);
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| l.trim_start().starts_with("import os"))
            .collect();
        assert!(lines.is_empty(), "{text}");
        assert_eq!(text.matches("is none of Python's").count(), 2, "{text}");
    }
}
