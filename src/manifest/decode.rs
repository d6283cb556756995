//! Tree → types. Each type says here once what it takes: [`Field::fill`] reads it and [`Field::schema`]
//! describes it, so the decoder and the JSON Schema cannot disagree. Decoding never stops at an error.

use super::diagnostic::Diagnostic;
use super::tree::{Node, Value};
use super::types::{At, Callable, Kind, Named, Network, Perms};
use serde_json::json;
use std::ops::Range;

/// What reads one key's value.
pub trait Field {
    /// Must the key be there?
    const REQUIRED: bool = false;
    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>);
    fn schema() -> serde_json::Value;
}

/// A value that stands alone: what it is read from, and how it is described.
pub trait Scalar: Sized + Default {
    /// The value, or what to say; [`expected`] makes the usual sentence.
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>>;
    fn schema() -> serde_json::Value;
}

/// Declares a table: a struct whose fields are its keys. Their documentation is the schema's.
macro_rules! table {
    ($(#[doc = $about:literal])* $(#[derive($($derive:ident),*)])? pub struct $name:ident {
        $( $(#[doc = $doc:literal])* pub $key:ident : $type:ty, )*
    }) => {
        $(#[doc = $about])* $(#[derive($($derive),*)])?
        pub struct $name { $( $(#[doc = $doc])* pub $key: $type, )* }

        impl $crate::manifest::decode::Field for $name {
            fn fill(&mut self, key: &str, node: $crate::manifest::tree::Node, found: &mut Vec<$crate::manifest::diagnostic::Diagnostic>) {
                use $crate::manifest::decode::Field;
                const KEYS: &[&str] = &[$(stringify!($key)),*];
                let whole = node.span.clone();
                let Some(entries) = $crate::manifest::decode::entries(key, node, found) else { return };
                let mut seen: Vec<&str> = Vec::with_capacity(KEYS.len());
                for (name, value) in entries {
                    match name.value.as_str() {
                        $( stringify!($key) => {
                            seen.push(stringify!($key));
                            self.$key.fill(stringify!($key), value, found);
                        } )*
                        _ => found.push($crate::manifest::decode::unknown_key(&name, key, KEYS)),
                    }
                }
                $( if <$type as Field>::REQUIRED && !seen.contains(&stringify!($key)) {
                    found.push($crate::manifest::decode::missing_key(&whole, key, stringify!($key)));
                } )*
            }

            fn schema() -> serde_json::Value {
                use $crate::manifest::decode::Field;
                let mut properties = serde_json::Map::new();
                #[allow(unused_mut)]
                let mut required: Vec<&str> = Vec::new();
                $(
                    let mut of = <$type as Field>::schema();
                    if let Some(of) = of.as_object_mut() {
                        of.insert("description".into(), concat!($($doc),*).trim().into());
                    }
                    properties.insert(stringify!($key).into(), of);
                    if <$type as Field>::REQUIRED {
                        required.push(stringify!($key));
                    }
                )*
                serde_json::json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
            }
        }
    };
}
pub(crate) use table;

/// The entries of a table, or a word about what stands there instead.
pub fn entries(key: &str, node: Node, found: &mut Vec<Diagnostic>) -> Option<Vec<(At<String>, Node)>> {
    match node.value {
        Value::Table(entries) => Some(entries),
        _ => {
            found.push(*expected(key, &node, "a table", &format!("write [{key}] and its keys below, or {key} = {{ … }}")));
            None
        }
    }
}

pub fn unknown_key(name: &At<String>, table: &str, keys: &[&str]) -> Diagnostic {
    let place = if table.is_empty() { "a manifest".to_owned() } else { format!("`{table}`") };
    let near = keys.iter().map(|k| (strsim::damerau_levenshtein(&name.value, k), *k)).min();
    let help = match near {
        Some((distance, near)) if distance <= 1 + name.value.chars().count() / 4 => format!("did you mean `{near}`?"),
        _ => format!("it takes {}", list(keys)),
    };
    Diagnostic::error(name.span.clone(), format!("{place} has no key `{}`", name.value)).help(help)
}

pub fn missing_key(table: &Range<usize>, of: &str, key: &str) -> Diagnostic {
    let example = match key {
        "app" => "[app] with name = \"…\"".to_owned(),
        "path" => "path = \"/…\", as services see it".to_owned(),
        "command" => "command = [\"program\", \"argument\"]".to_owned(),
        key => format!("{key} = …"),
    };
    let place = if of.is_empty() { "the manifest".to_owned() } else { format!("`{of}`") };
    let start = table.start;
    Diagnostic::error(start..table.end.max(start), format!("{place} lacks `{key}`")).help(format!("write {example}"))
}

pub fn expected(key: &str, node: &Node, what: &str, help: &str) -> Box<Diagnostic> {
    let found = Diagnostic::error(node.span.clone(), format!("`{key}` takes {what}, found {}", node.value.name()));
    Box::new(if help.is_empty() { found } else { found.help(help.to_owned()) })
}

fn list(words: &[&str]) -> String {
    words.iter().map(|w| format!("`{w}`")).collect::<Vec<_>>().join(", ")
}

fn refuse<T>(node: &Node, message: String, help: impl Into<String>) -> Result<T, Box<Diagnostic>> {
    Err(Box::new(Diagnostic::error(node.span.clone(), message).help(help)))
}

impl<T: Scalar> Field for At<T> {
    const REQUIRED: bool = true;

    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>) {
        match T::read(key, &node) {
            Ok(value) => *self = At { value, span: node.span },
            Err(problem) => found.push(*problem),
        }
    }

    fn schema() -> serde_json::Value {
        T::schema()
    }
}

impl<T: Scalar> Field for Option<At<T>> {
    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>) {
        let mut value = At::default();
        value.fill(key, node, found);
        // A value that failed stays as one that stands nowhere, so that its key does not count as left out.
        *self = Some(value);
    }

    fn schema() -> serde_json::Value {
        T::schema()
    }
}

impl<T: Scalar> Field for Vec<At<T>> {
    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>) {
        let Value::Array(items) = node.value else {
            found.push(*expected(key, &node, "a list", &format!("write {key} = [ … ]")));
            return;
        };
        for item in items {
            match T::read(key, &item) {
                Ok(value) => self.push(At { value, span: item.span }),
                Err(problem) => found.push(*problem),
            }
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "array", "items": T::schema() })
    }
}

impl<T: Field + Default> Field for Named<T> {
    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>) {
        let Some(entries) = entries(key, node, found) else { return };
        self.reserve(entries.len());
        for (name, node) in entries {
            let mut value = T::default();
            value.fill(&name.value, node, found);
            self.push((name, value));
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "object", "additionalProperties": T::schema() })
    }
}

impl<T: Field + Default> Field for Option<Named<T>> {
    fn fill(&mut self, key: &str, node: Node, found: &mut Vec<Diagnostic>) {
        let mut table = Named::new();
        if key == "callers" && matches!(node.value, Value::Array(_) | Value::String(_)) {
            found.push(*expected(key, &node, "a table", "write callers = { NAME = \"*\" } for all functions, or callers = { NAME = [\"function\"] }"));
        } else {
            table.fill(key, node, found);
        }
        *self = Some(table);
    }

    fn schema() -> serde_json::Value {
        Named::<T>::schema()
    }
}

impl Scalar for String {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        match &node.value {
            Value::String(text) if text.contains('\0') => refuse(node, format!("`{key}` holds a NUL character"), "take it out; the kernel ends a string there"),
            Value::String(text) => Ok(text.clone()),
            Value::Integer(_) | Value::Bool(_) => Err(expected(key, node, "a string", "put it in quotes")),
            _ => Err(expected(key, node, "a string", "")),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string" })
    }
}

impl Scalar for bool {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        match &node.value {
            Value::Bool(value) => Ok(*value),
            _ => Err(expected(key, node, "true or false", "write it without quotes")),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "boolean" })
    }
}

/// The kernel's (uid_t)-1 means "no change", so it is no id.
const LAST_ID: u32 = u32::MAX - 1;

impl Scalar for u32 {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        match &node.value {
            Value::Integer(Some(number)) => match u32::try_from(*number) {
                Ok(id) if (1..=LAST_ID).contains(&id) => Ok(id),
                _ => refuse(node, format!("{number} is not an id for `{key}`"), format!("write a number from 1 to {LAST_ID}")),
            },
            Value::Integer(None) => refuse(node, format!("the number is too large for `{key}`"), format!("write a number from 1 to {LAST_ID}")),
            _ => Err(expected(key, node, "an id", "write a number, such as 33")),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "integer", "minimum": 1, "maximum": LAST_ID })
    }
}

impl Scalar for [u32; 2] {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        let help = "write the lowest and the highest id, such as [61000, 61999]";
        let Value::Array(items) = &node.value else { return Err(expected(key, node, "two ids", help)) };
        let [low, high] = &items[..] else {
            return refuse(node, format!("`{key}` takes two ids, found {}", items.len()), help);
        };
        let (low, high) = (u32::read(key, low)?, u32::read(key, high)?);
        if low > high {
            return refuse(node, format!("`{key}` begins above its end"), format!("write [{high}, {low}]"));
        }
        Ok([low, high])
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "array", "items": u32::schema(), "minItems": 2, "maxItems": 2 })
    }
}

impl Scalar for Perms {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        let help = "write any of r, w and x, each once, such as \"rw\"; \"\" for nothing";
        let Value::String(text) = &node.value else { return Err(expected(key, node, "permissions", help)) };
        let mut out = Perms::default();
        for letter in text.chars() {
            let bit = match letter {
                'r' => &mut out.read,
                'w' => &mut out.write,
                'x' => &mut out.exec,
                other => return refuse(node, format!("`{other}` in `{key}` is no permission"), help),
            };
            if std::mem::replace(bit, true) {
                return refuse(node, format!("`{letter}` stands twice in `{key}`"), help);
            }
        }
        Ok(out)
    }

    fn schema() -> serde_json::Value {
        json!({ "type": "string", "pattern": "^(?!.*(.).*\\1)[rwx]*$" })
    }
}

fn choice<T: Copy>(key: &str, node: &Node, choices: &[(&str, T)]) -> Result<T, Box<Diagnostic>> {
    let words: Vec<&str> = choices.iter().map(|c| c.0).collect();
    let quoted = words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(" or ");
    let Value::String(text) = &node.value else { return Err(expected(key, node, &quoted, "")) };
    match choices.iter().find(|c| c.0 == text) {
        Some((_, value)) => Ok(*value),
        None => refuse(node, format!("`{key}` cannot be \"{text}\""), format!("write {quoted}")),
    }
}

impl Default for Kind {
    fn default() -> Self {
        Kind::Directory
    }
}

impl Scalar for Kind {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        choice(key, node, &[("file", Kind::File), ("directory", Kind::Directory)])
    }

    fn schema() -> serde_json::Value {
        json!({ "enum": ["file", "directory"] })
    }
}

impl Scalar for Network {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        choice(key, node, &[("none", Network::None), ("host", Network::Host)])
    }

    fn schema() -> serde_json::Value {
        json!({ "enum": ["none", "host"] })
    }
}

impl Default for Callable {
    fn default() -> Self {
        Callable::Functions(Vec::new())
    }
}

impl Scalar for Callable {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        let help = "write \"*\" for all functions, or a list of their names";
        match &node.value {
            Value::String(text) if text == "*" => Ok(Callable::All),
            Value::String(text) => refuse(node, format!("\"{text}\" does not say what `{key}` may call"), format!("write [\"{text}\"], or \"*\" for all functions")),
            Value::Array(items) if items.is_empty() => refuse(node, format!("`{key}` may call nothing"), "take it out of `callers`: who is not named may not call"),
            Value::Array(items) => items.iter().map(|item| String::read(key, item)).collect::<Result<_, _>>().map(Callable::Functions),
            _ => Err(expected(key, node, "\"*\" or a list of functions", help)),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "oneOf": [{ "const": "*" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}

/// A command: a list of words, or one string, which is split as a shell splits words.
impl Scalar for Vec<String> {
    fn read(key: &str, node: &Node) -> Result<Self, Box<Diagnostic>> {
        let help = "write [\"program\", \"argument\"], or \"program argument\"";
        let words = match &node.value {
            Value::String(_) => {
                let text = String::read(key, node)?;
                match shlex::split(&text) {
                    Some(words) => words,
                    None => return refuse(node, format!("a quote in `{key}` is not closed"), "close it, or write a list of words"),
                }
            }
            Value::Array(items) => items.iter().map(|item| String::read(key, item)).collect::<Result<_, _>>()?,
            _ => return Err(expected(key, node, "a list of words, or a string", help)),
        };
        match words.first() {
            None => refuse(node, format!("`{key}` is empty"), help),
            Some(program) if program.is_empty() => refuse(node, format!("`{key}` begins with an empty word"), help),
            Some(_) => Ok(words),
        }
    }

    fn schema() -> serde_json::Value {
        json!({ "oneOf": [{ "type": "string", "minLength": 1 }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }] })
    }
}
