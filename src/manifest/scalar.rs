//! The kinds of single value that a key takes, each with its own rule and its own words.
//!
//! Only what can be judged by looking at the one value: whether a path makes sense or a name is declared
//! is not known here.

use schemars::{Schema, SchemaGenerator, json_schema};

use super::compose;
use super::decode::{Codec, Cx, Place, assignment, nearest, shown};
use super::shape::KeyRule;
use super::shell;
use super::tree::{Key, Node, Tree};
use super::types::At;
use super::{Diagnostic, Format};
use crate::former;
use crate::values::{Callable, Network, Perms, ResourceKind, Writable};

/// No operating system interface takes a NUL within a string: it would be cut off there.
fn refuse_nul(text: &str, span: &std::ops::Range<usize>, place: &Place<'_>, cx: &mut Cx) -> bool {
    if !text.contains('\0') {
        return false;
    }
    cx.report(
        Diagnostic::error(span.clone(), format!("{} contains a NUL character", place.describe()))
            .help("remove it: no path, argument or variable can hold one"),
    );
    true
}

/// One in which no variable is to stand.
fn string<C: Codec>(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<String>> {
    let found = any_string::<C>(tree, place, cx)?;
    if let Some(diagnostic) = shell::unexpanded(&found.value, &found.span, place) {
        cx.report(diagnostic);
    }
    Some(found)
}

fn any_string<C: Codec>(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<String>> {
    let Node::String(text) = tree.node else {
        cx.wrong_type::<C>(&tree, place);
        return None;
    };
    if refuse_nul(&text, &tree.span, place, cx) {
        return None;
    }
    Some(At {
        value: text.into_owned(),
        span: tree.span,
    })
}

/// Strings that only differ in what one writes into them.
macro_rules! strings {
    ($($(#[$doc:meta])* $name:ident: $example:literal;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name;

        impl Codec for $name {
            type Out = At<String>;
            const EXPECTED: &'static str = "a string";
            const EXAMPLE: &'static str = $example;

            fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<String>> {
                string::<$name>(tree, place, cx)
            }

            fn schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "pattern": NO_NUL })
            }

            fn help(place: &Place<'_>, found: Option<&Node<'_>>, format: Format) -> String {
                let text = match found {
                    Some(Node::Integer(Some(number))) => format!("\"{number}\""),
                    Some(Node::Boolean(value)) => format!("\"{value}\""),
                    _ => return format!("write, for example, `{}`", assignment(place.name, $example, format)),
                };
                format!("write `{}`", assignment(place.name, &text, format))
            }
        }
    )*};
}

const NO_NUL: &str = "^[^\\u0000]*$";

strings! {
    /// Any text, also a name that refers to something: whether it is declared, the model says.
    Text: "\"name\"";
    /// A path as services see it.
    Path: "\"/srv/app\"";
    /// A path on the host.
    HostPath: "\"./app\"";
    /// `ADDRESS:PORT`
    Listen: "\"127.0.0.1:8080\"";
    /// `[ADDRESS:]PORT:PORT`
    Publish: "\"127.0.0.1:8080:80\"";
    /// A rule of `[assert] never`.
    Rule: "\"read secret except vault\"";
    /// A rule of `[assert] always`.
    Promise: "\"read static by web\"";
}

impl KeyRule for Text {
    const EXAMPLE: &'static str = "web";
    const PATTERN: Option<&'static str> = Some(NO_NUL);

    fn check(key: &Key<'_>, _: &'static str, cx: &mut Cx) {
        refuse_nul(&key.text, &key.span, &Place::ROOT.key(key), cx);
    }
}

impl KeyRule for Path {
    const EXAMPLE: &'static str = "\"/srv/app\"";
    const PATTERN: Option<&'static str> = Some(NO_NUL);

    fn check(key: &Key<'_>, noun: &'static str, cx: &mut Cx) {
        Text::check(key, noun, cx);
    }
}

const LONGEST_NAME: usize = 63;

/// Name of a resource, bundle or service: 1 to 63 letters, digits, `_` and `-`, beginning with a letter.
/// It becomes a host name, a file name and an account's name, so it holds nothing that those cannot.
pub(crate) struct Name;

impl KeyRule for Name {
    const EXAMPLE: &'static str = "web";
    const PATTERN: Option<&'static str> = Some("^[A-Za-z][A-Za-z0-9_-]{0,62}$");

    fn check(key: &Key<'_>, noun: &'static str, cx: &mut Cx) {
        if !is_name(&key.text, true) {
            report_name(&key.text, &key.span, noun, true, cx);
        }
    }
}

/// Name of the application: as [`Name`], and lower-case, since it names cgroups and folders that
/// others compare without case.
pub(crate) struct AppName;

/// Can an app be called that?
pub fn is_app_name(text: &str) -> bool {
    is_name(text, false)
}

impl Codec for AppName {
    type Out = At<String>;
    const EXPECTED: &'static str = "a string";
    const EXAMPLE: &'static str = "\"demo\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<String>> {
        let name = string::<AppName>(tree, place, cx)?;
        if !is_name(&name.value, false) {
            report_name(&name.value, &name.span, "app", false, cx);
            return None;
        }
        Some(name)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^[a-z][a-z0-9_-]{0,62}$" })
    }
}

fn is_name(name: &str, capitals: bool) -> bool {
    let letter = |byte: u8| byte.is_ascii_lowercase() || (capitals && byte.is_ascii_uppercase());
    let inner = |byte: u8| letter(byte) || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
    name.len() <= LONGEST_NAME && name.bytes().next().is_some_and(letter) && name.bytes().all(inner)
}

fn report_name(name: &str, span: &std::ops::Range<usize>, noun: &str, capitals: bool, cx: &mut Cx) {
    let a = if noun.starts_with('a') { "an" } else { "a" };
    let letters = if capitals { "letters" } else { "lower-case letters" };
    let (message, label) = if name.is_empty() {
        (format!("the name of {a} {noun} is empty"), String::new())
    } else if name.len() > LONGEST_NAME {
        let length = name.len();
        (
            format!("`{}` is too long for the name of {a} {noun}", shown(name)),
            format!("{length} bytes; {LONGEST_NAME} at most"),
        )
    } else {
        (
            format!("`{}` cannot be the name of {a} {noun}", shown(name)),
            format!("a name has {letters}, digits, `_` and `-`, and begins with a letter"),
        )
    };
    let proposed = propose_name(name, noun, capitals);
    cx.report(
        Diagnostic::error(span.clone(), message)
            .label(label)
            .help(format!("for example, `{proposed}`")),
    );
}

/// The nearest name that would do.
fn propose_name(name: &str, noun: &str, capitals: bool) -> String {
    let mut out = String::new();
    for letter in name.chars().take(LONGEST_NAME) {
        let letter = if capitals { letter } else { letter.to_ascii_lowercase() };
        if letter.is_ascii_alphanumeric() || letter == '_' || letter == '-' {
            out.push(letter);
        } else if !out.is_empty() && !out.ends_with(['_', '-']) {
            out.push('_');
        }
    }
    let out = out.trim_matches(['_', '-']);
    let mut out = match out.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => out.to_owned(),
        Some(_) => format!("{noun}_{out}"),
        None => noun.to_owned(),
    };
    out.truncate(LONGEST_NAME);
    out
}

/// A variable of the Python package's that a service may be given: it leaves the compiled core out.
const THEIRS: &str = "PYSECURE_RPC_PURE";

/// Name of an environment variable.
pub(crate) struct EnvName;

impl KeyRule for EnvName {
    const EXAMPLE: &'static str = "LANG";
    const PATTERN: Option<&'static str> = Some(
        "^(?!LISTEN_FDS$|LISTEN_PID$|LISTEN_FDNAMES$|NOTIFY_SOCKET$|WATCHDOG_USEC$|PYSECURE_(?!RPC_PURE$))[A-Za-z_][A-Za-z0-9_]*$",
    );

    fn check(key: &Key<'_>, _: &'static str, cx: &mut Cx) {
        let name: &str = &key.text;
        let name_shown = shown(name);
        if matches!(
            name,
            "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES" | "NOTIFY_SOCKET" | "WATCHDOG_USEC"
        ) || (name.starts_with("PYSECURE_") && name != THEIRS)
        {
            cx.report(
                Diagnostic::error(
                    key.span.clone(),
                    format!("the variable `{name_shown}` is set by PySecure itself"),
                )
                .help("remove it; `listen` is what passes sockets to a service, `ready` and `watchdog` what lets it notify"),
            );
            return;
        }
        let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
        let valid =
            name.bytes().next().is_some_and(first) && name.bytes().all(|byte| first(byte) || byte.is_ascii_digit());
        if !valid {
            cx.report(
                Diagnostic::error(
                    key.span.clone(),
                    format!("`{name_shown}` cannot be the name of a variable"),
                )
                .label("a variable has letters, digits and `_`, and does not begin with a digit"),
            );
        }
    }
}

impl Codec for bool {
    type Out = At<bool>;
    const EXPECTED: &'static str = "true or false";
    const EXAMPLE: &'static str = "true";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<bool>> {
        let Node::Boolean(value) = tree.node else {
            cx.wrong_type::<bool>(&tree, place);
            return None;
        };
        Some(At { value, span: tree.span })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "boolean" })
    }
}

/// `u32::MAX` means "no id" to the kernel.
const HIGHEST_ID: u32 = u32::MAX - 1;

fn id<C: Codec>(tree: &Tree<'_>, lowest: u32, place: &Place<'_>, cx: &mut Cx) -> Option<u32> {
    let Node::Integer(number) = tree.node else {
        cx.wrong_type::<C>(tree, place);
        return None;
    };
    let id = number
        .and_then(|number| u32::try_from(number).ok())
        .filter(|id| (lowest..=HIGHEST_ID).contains(id));
    if id.is_none() {
        cx.report(
            Diagnostic::error(tree.span.clone(), format!("{}: no such id", place.describe()))
                .label(format!("ids go from {lowest} to {HIGHEST_ID}"))
                .help(C::help(place, None, cx.format)),
        );
    }
    id
}

/// A UID or GID.
pub(crate) struct Id;

impl Codec for Id {
    type Out = At<u32>;
    const EXPECTED: &'static str = "an integer";
    const EXAMPLE: &'static str = "33";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<u32>> {
        let value = id::<Id>(&tree, 0, place, cx)?;
        Some(At { value, span: tree.span })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": HIGHEST_ID })
    }
}

/// Lowest and highest id. Never 0: root is not for allocation.
pub(crate) struct IdRange;

impl Codec for IdRange {
    type Out = At<[u32; 2]>;
    const EXPECTED: &'static str = "a list of two integers";
    const EXAMPLE: &'static str = "[60706, 61183]";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<[u32; 2]>> {
        let Node::Array(bounds) = &tree.node else {
            cx.wrong_type::<IdRange>(&tree, place);
            return None;
        };
        let [lowest, highest] = bounds.as_slice() else {
            let count = bounds.len();
            cx.report(
                Diagnostic::error(
                    tree.span.clone(),
                    format!("{}: expected two ids, found {count}", place.describe()),
                )
                .label("the lowest and the highest id")
                .help(Self::help(place, None, cx.format)),
            );
            return None;
        };
        let lowest = id::<IdRange>(lowest, 1, place, cx);
        let highest = id::<IdRange>(highest, 1, place, cx);
        let (lowest, highest) = lowest.zip(highest)?;
        if lowest > highest {
            let swapped = assignment(place.name, &format!("[{highest}, {lowest}]"), cx.format);
            cx.report(
                Diagnostic::error(
                    tree.span.clone(),
                    format!("{}: the range is the wrong way round", place.describe()),
                )
                .label("the lowest id comes first")
                .help(format!("write `{swapped}`")),
            );
            return None;
        }
        Some(At {
            value: [lowest, highest],
            span: tree.span,
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "items": { "type": "integer", "minimum": 1, "maximum": HIGHEST_ID },
            "minItems": 2,
            "maxItems": 2
        })
    }
}

impl Codec for Perms {
    type Out = At<Perms>;
    const EXPECTED: &'static str = "a string of `r`, `w`, `x` and `c`";
    const EXAMPLE: &'static str = "\"rw\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Perms>> {
        let letters = match &tree.node {
            Node::String(letters) => letters,
            _ => {
                cx.wrong_type::<Perms>(&tree, place);
                return None;
            }
        };
        let mut perms = Perms::default();
        for letter in letters.chars() {
            let granted = match letter {
                'r' => &mut perms.read,
                'w' => &mut perms.write,
                'x' => &mut perms.exec,
                'c' => &mut perms.connect,
                _ => {
                    let message = format!(
                        "{}: `{}` is not a permission",
                        place.describe(),
                        shown(letter.encode_utf8(&mut [0; 4]))
                    );
                    cx.report(
                        Diagnostic::error(tree.span.clone(), message)
                            .label("any of `r`, `w`, `x` and `c`, or nothing")
                            .help(Self::help(place, None, cx.format)),
                    );
                    return None;
                }
            };
            if std::mem::replace(granted, true) {
                cx.report(
                    Diagnostic::error(
                        tree.span.clone(),
                        format!("{}: `{letter}` stands twice", place.describe()),
                    )
                    .label("each of `r`, `w`, `x` and `c` once at most"),
                );
                return None;
            }
        }
        Some(At {
            value: perms,
            span: tree.span,
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "permissions", "type": "string", "pattern": "^(?!.*(.).*\\1)[rwxc]*$" })
    }
}

/// One of a few words, with the nearest proposed for any other.
pub(super) fn word<C: Codec, T: Copy>(
    tree: Tree<'_>,
    place: &Place<'_>,
    cx: &mut Cx,
    words: &[(&'static str, T)],
) -> Option<At<T>> {
    let Node::String(text) = &tree.node else {
        cx.wrong_type::<C>(&tree, place);
        return None;
    };
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Some(At {
            value: *value,
            span: tree.span,
        });
    }
    let known: Vec<&'static str> = words.iter().map(|(word, _)| *word).collect();
    let renamed = former::value(text).filter(|new| known.contains(new));
    let help = match (renamed, compose::value(text), nearest(text, &known)) {
        (Some(new), _, _) => former::now(&format!("\"{new}\"")),
        (None, Some(help), _) => help,
        (None, None, Some(meant)) => format!("did you mean `\"{meant}\"`?"),
        (None, None, None) => C::help(place, None, cx.format),
    };
    cx.report(
        Diagnostic::error(
            tree.span.clone(),
            format!("{}: there is no `{}`", place.describe(), shown(text)),
        )
        .label(format!("expected {}", C::EXPECTED))
        .help(help),
    );
    None
}

impl Codec for ResourceKind {
    type Out = At<ResourceKind>;
    const EXPECTED: &'static str = "`\"file\"` or `\"directory\"`";
    const EXAMPLE: &'static str = "\"directory\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<ResourceKind>> {
        word::<ResourceKind, ResourceKind>(
            tree,
            place,
            cx,
            &[("file", ResourceKind::File), ("directory", ResourceKind::Directory)],
        )
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["file", "directory"] })
    }
}

impl Codec for Network {
    type Out = At<Network>;
    const EXPECTED: &'static str =
        "`\"none\"` (a loopback of its own), `\"app\"` (the app's) or `\"host\"` (the host's network)";
    const EXAMPLE: &'static str = "\"none\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Network>> {
        let words = [("none", Network::None), ("app", Network::App), ("host", Network::Host)];
        word::<Network, Network>(tree, place, cx, &words)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": ["none", "app", "host"] })
    }
}

const WRITABLE: &[(&str, Writable)] = &[("memory", Writable::Memory), ("persistent", Writable::Persistent)];

impl Codec for Writable {
    type Out = At<Writable>;
    const EXPECTED: &'static str = "`\"memory\"`, `\"persistent\"` or `false`";
    const EXAMPLE: &'static str = "\"memory\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Writable>> {
        let value = match tree.node {
            Node::Boolean(true) => Writable::Memory,
            Node::Boolean(false) => Writable::No,
            _ => return word::<Writable, Writable>(tree, place, cx, WRITABLE),
        };
        Some(At { value, span: tree.span })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "enum": [true, false, "memory", "persistent"] })
    }
}

/// A command and its arguments.
pub(crate) struct Words;

impl Codec for Words {
    type Out = At<Vec<String>>;
    const EXPECTED: &'static str = "a list of strings, or one string";
    const EXAMPLE: &'static str = "[\"python3\", \"app.py\"]";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Vec<String>>> {
        let span = tree.span.clone();
        let mut line_of_shell = None;
        let words = match tree.node {
            Node::String(line) => {
                if refuse_nul(&line, &span, place, cx) {
                    return None;
                }
                let Some(words) = shlex::split(&line) else {
                    cx.report(
                        Diagnostic::error(span, format!("{}: a quotation mark is left open", place.describe()))
                            .label("split as a shell splits words")
                            .help(Self::help(place, None, cx.format)),
                    );
                    return None;
                };
                line_of_shell = shell::in_line(&line, &span, place, cx.format);
                words
            }
            Node::Array(elements) => {
                let count = elements.len();
                let mut words = Vec::with_capacity(count);
                for element in elements {
                    words.extend(any_string::<Text>(element, place, cx).map(|word| word.value));
                }
                if words.len() < count {
                    return None;
                }
                words
            }
            _ => {
                cx.wrong_type::<Words>(&tree, place);
                return None;
            }
        };
        if words.first().is_none_or(String::is_empty) {
            let message = format!("{} names no program", place.describe());
            cx.report(Diagnostic::error(span, message).help(Self::help(place, None, cx.format)));
            return None;
        }
        let of_shell = line_of_shell.or_else(|| shell::in_words(&words, &span, place, cx.format));
        of_shell.into_iter().for_each(|diagnostic| cx.report(diagnostic));
        Some(At { value: words, span })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "type": "string", "pattern": "^[^\\u0000]*[^\\s\\u0000][^\\u0000]*$" },
                {
                    "type": "array",
                    "prefixItems": [{ "type": "string", "minLength": 1 }],
                    "items": { "type": "string", "pattern": NO_NUL },
                    "minItems": 1
                }
            ]
        })
    }
}

impl Codec for Callable {
    type Out = At<Callable>;
    const EXPECTED: &'static str = "`\"*\"` or a list of functions";
    const EXAMPLE: &'static str = "\"*\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Callable>> {
        let span = tree.span.clone();
        let elements = match tree.node {
            Node::Array(elements) => elements,
            Node::String(text) if text == "*" => {
                return Some(At {
                    value: Callable::All,
                    span,
                });
            }
            Node::String(text) => {
                let message = format!(
                    "{}: expected {}, found `{}`",
                    place.describe(),
                    Self::EXPECTED,
                    shown(&text)
                );
                let list = assignment(place.name, &format!("[\"{}\"]", shown(&text)), cx.format);
                cx.report(Diagnostic::error(span, message).help(format!("for that one function, write `{list}`")));
                return None;
            }
            _ => {
                cx.wrong_type::<Callable>(&tree, place);
                return None;
            }
        };
        let mut functions = Vec::with_capacity(elements.len());
        for element in elements {
            let Some(function) = string::<Text>(element, place, cx) else {
                continue;
            };
            if function.value == "*" || function.value.is_empty() {
                let all = assignment(place.name, "\"*\"", cx.format);
                let message = format!(
                    "{}: `{}` is not the name of a function",
                    place.describe(),
                    function.value
                );
                cx.report(Diagnostic::error(function.span, message).help(format!("for all functions, write `{all}`")));
                continue;
            }
            functions.push(function.value);
        }
        Some(At {
            value: Callable::Functions(functions),
            span,
        })
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                { "const": "*" },
                {
                    "type": "array",
                    "items": { "type": "string", "minLength": 1, "pattern": NO_NUL, "not": { "const": "*" } }
                }
            ]
        })
    }

    fn help(place: &Place<'_>, _found: Option<&Node<'_>>, format: Format) -> String {
        format!(
            "write `{}`, or a list of functions",
            assignment(place.name, "\"*\"", format)
        )
    }
}
