//! What a shell would do with a value, and nobody does: no value of a manifest is expanded, and no shell reads `command`.

use super::Diagnostic;
use super::Format;
use super::decode::{Place, assignment, shown};
use std::ops::Range;

/// Programs to which `$` means something.
const READ_THEMSELVES: [&str; 14] = [
    "sh", "bash", "dash", "ash", "zsh", "ksh", "fish", "busybox", "awk", "gawk", "mawk", "perl", "envsubst", "make",
];

/// A variable that stands in a value: `${NAME}` anywhere, `$NAME` and `~` where a path begins.
pub(super) fn unexpanded(text: &str, span: &Range<usize>, place: &Place<'_>) -> Option<Diagnostic> {
    let found = variable(text, true).or_else(|| {
        let first = text.split('/').next().unwrap_or_default();
        let whole = first == "~" || variable(first, false).is_some_and(|name| name == first);
        (whole && !first.is_empty()).then_some(first)
    })?;
    Some(not_replaced(found, span, place).help(
        "write the value itself; a configuration in Python may read the environment: os.environ; in a command, `sh -c` expands it",
    ))
}

fn not_replaced(found: &str, span: &Range<usize>, place: &Place<'_>) -> Diagnostic {
    let message = format!(
        "{}: `{}` is not replaced by a value, but taken as it stands",
        place.describe(),
        shown(found)
    );
    Diagnostic::warning(span.clone(), message)
}

/// The first variable in a text, as its author would write one for a shell or for Compose: in capitals.
fn variable(text: &str, braces: bool) -> Option<&str> {
    let name = |text: &str| {
        let letter = |b: u8| b.is_ascii_uppercase() || b == b'_';
        let length = text.bytes().take_while(|b| letter(*b) || b.is_ascii_digit()).count();
        (length > 0 && text.bytes().next().is_some_and(letter)).then_some(length)
    };
    let mut at = 0;
    while let Some(found) = text.get(at..)?.find('$') {
        let start = at + found;
        let behind = text.get(start + 1..)?;
        if let Some(inner) = behind.strip_prefix('{') {
            if let Some(length) = name(inner)
                && inner[length..].starts_with(['}', ':', '-', '?', '+'])
            {
                let end = inner.find('}').map_or(text.len(), |end| start + 3 + end);
                return text.get(start..end);
            }
        } else if !braces && let Some(length) = name(behind) {
            return text.get(start..start + 1 + length);
        }
        at = start + 1;
    }
    None
}

/// What only a shell would understand of a command that was written as one string.
pub(super) fn in_line(line: &str, span: &Range<usize>, place: &Place<'_>, format: Format) -> Option<Diagnostic> {
    let found = operator(line)?;
    let message = format!(
        "{}: `{found}` is an argument of the program like any other, for no shell reads this",
        place.describe()
    );
    Some(Diagnostic::warning(span.clone(), message).help(by_shell(line, place, format)))
}

/// A variable in the words of a command that no shell reads.
pub(super) fn in_words(words: &[String], span: &Range<usize>, place: &Place<'_>, format: Format) -> Option<Diagnostic> {
    let program = words.first()?.rsplit('/').next()?;
    if READ_THEMSELVES.contains(&program) {
        return None;
    }
    let found = words.iter().find_map(|word| variable(word, false))?;
    Some(not_replaced(found, span, place).help(by_shell(&words.join(" "), place, format)))
}

fn by_shell(line: &str, place: &Place<'_>, format: Format) -> String {
    let words = format!("[\"sh\", \"-c\", {}]", serde_json::Value::from(line));
    format!("write `{}`", assignment(place.name, &words, format))
}

/// The first operator of a shell's that stands in a line as a word, and is not quoted.
fn operator(line: &str) -> Option<&str> {
    const OPERATORS: [&str; 12] = ["&&", "||", "2>&1", "&>", "2>", ">>", "<<", "|", ">", "<", ";", "&"];
    let mut quote = None;
    let mut escaped = false;
    let mut before = ' ';
    for (at, letter) in line.char_indices() {
        let rest = &line[at..];
        match (quote, letter) {
            _ if escaped => escaped = false,
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), _) => {}
            (_, '\\') => escaped = true,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(letter),
            (None, _) => {
                let ends = |length: usize| rest[length..].chars().next().is_none_or(char::is_whitespace);
                if letter == ';' && ends(1) && at > 0 {
                    return Some(";");
                }
                let found = OPERATORS.into_iter().find(|operator| rest.starts_with(operator));
                if let Some(found) = found.filter(|_| before.is_whitespace()) {
                    // What is written to a file need not stand by itself.
                    if ends(found.len()) || found.contains('>') && !rest[found.len()..].starts_with('=') {
                        return Some(found);
                    }
                }
            }
        }
        before = letter;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_are_words_of_their_own() {
        for (line, found) in [
            ("cd /app && python3 a.py", Some("&&")),
            ("a | b", Some("|")),
            ("a >log 2>&1", Some(">")),
            ("cd /app; b", Some(";")),
            ("a &", Some("&")),
            ("a 2>/dev/null", Some("2>")),
            ("sh -c 'a && b'", None),
            ("sh -c \"a; b\"", None),
            ("find . -exec ls {} \\;", None),
            ("curl http://x/?a=1&b=2", None),
            ("pip install 'a>=2' b>=2", None),
            ("echo a;b", None),
        ] {
            assert_eq!(operator(line), found, "{line}");
        }
    }

    #[test]
    fn variables_are_in_capitals() {
        for (text, found) in [
            ("postgres://${USER}@db", Some("${USER}")),
            ("${PORT:-80}", Some("${PORT:-80}")),
            ("${lower}", None),
            ("$5,00", None),
            ("pa$$WORD", None),
            ("${", None),
        ] {
            assert_eq!(variable(text, true), found, "{text}");
        }
        assert_eq!(variable("--port=$PORT", false), Some("$PORT"));
    }
}
