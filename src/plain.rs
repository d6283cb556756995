//! Text of others, made plain: what a terminal would obey, and what it would not show or show elsewhere than it stands,
//! does not reach one.
//!
//! Services, images, manifests and peers choose names and words that commands print. Escape sequences (C0, DEL, C1) have
//! a terminal do things; characters of format (Unicode's Cf, as the marks that turn the direction of writing), line and
//! paragraph separators have a reader see what is not there. Both become U+FFFD; in JSON, where the value matters, they
//! are written as `\uXXXX`.

use std::borrow::Cow;
use std::fmt::Write;

/// Unicode 17's Cf, Zl and Zp beyond U+009F, with what is not assigned between them and would not be shown either.
const HIDDEN: [(u32, u32); 22] = [
    (0xad, 0xad),
    (0x600, 0x605),
    (0x61c, 0x61c),
    (0x6dd, 0x6dd),
    (0x70f, 0x70f),
    (0x890, 0x891),
    (0x8e2, 0x8e2),
    (0x180e, 0x180e),
    (0x200b, 0x200f),
    (0x2028, 0x202e),
    (0x2060, 0x206f),
    (0xfeff, 0xfeff),
    (0xfff0, 0xfffb),
    (0x110bd, 0x110bd),
    (0x110cd, 0x110cd),
    (0x13430, 0x1343f),
    (0x1bca0, 0x1bca3),
    (0x1d173, 0x1d17a),
    (0xe0000, 0xe00ff),
    // Not characters; what they do is up to each terminal.
    (0xfdd0, 0xfdef),
    (0xfffe, 0xffff),
    (0x10fffe, 0x10ffff),
];

/// What stands in its place.
const INSTEAD: char = '\u{fffd}';

/// Would a terminal obey it, not show it, or show it elsewhere? So are tabs and line feeds.
pub fn is_hidden(c: char) -> bool {
    let number = u32::from(c);
    c.is_control() || number >= 0xad && HIDDEN.iter().any(|(first, last)| (*first..=*last).contains(&number))
}

/// So many of them: "1 service", "2 services".
pub fn counted(count: usize, noun: &str) -> String {
    match count {
        1 => format!("1 {noun}"),
        _ => format!("{count} {noun}s"),
    }
}

/// As one line. Tabs stay.
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, |c| c == '\t')
}

/// The same, of text that has several: what this program says, with others' words in it.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| matches!(c, '\t' | '\n'))
}

fn replaced(text: &str, stays: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.bytes().all(|b| matches!(b, b' '..=b'~') || stays(char::from(b))) {
        return text.into();
    }
    let one = |c: char| if is_hidden(c) && !stays(c) { INSTEAD } else { c };
    text.chars().map(one).collect::<String>().into()
}

/// Lines in colour: sequences that set a style (ECMA-48's SGR) stay as well. Others' words in them have to be made plain
/// before, if they are not to be coloured.
pub fn styled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\x1b[") {
        let (before, sequence) = rest.split_at(at);
        let parameters = sequence[2..].find(|c: char| !c.is_ascii_digit() && c != ';');
        out += &lines(before);
        match parameters.filter(|end| sequence[2 + end..].starts_with('m')) {
            Some(end) => {
                out += &sequence[..end + 3];
                rest = &sequence[end + 3..];
            }
            None => {
                out.push(INSTEAD);
                rest = &sequence[1..];
            }
        }
    }
    out + &lines(rest)
}

/// JSON, with what is hidden written as JSON's escapes, so that the values stay what they are. It can stand in strings alone.
pub fn json(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n')) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if c == '\n' || !is_hidden(c) {
            out.push(c);
            continue;
        }
        for half in c.encode_utf16(&mut [0; 2]) {
            // Writing to memory does not fail.
            let _ = write!(out, "\\u{half:04x}");
        }
    }
    out.into()
}

/// What is written to `inner` is made plain, but for its style. A write is a whole number of characters, as those of
/// formatted text are.
pub struct Plain<W>(pub W);

impl<W: std::io::Write> std::io::Write for Plain<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write_all(styled(&String::from_utf8_lossy(bytes)).as_bytes())?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All that Unicode has, by what it is for.
    #[test]
    fn of_all_characters_none_is_left_that_hides() {
        let category = |wanted: &str| -> Vec<u32> {
            let script = format!(
                "import sys, unicodedata\nfor n in range(0x110000):\n    if unicodedata.category(chr(n)) in {wanted}: print(n)"
            );
            let out = std::process::Command::new("python3").args(["-c", &script]).output();
            let out = out.expect("install python3: it knows Unicode's categories").stdout;
            String::from_utf8(out)
                .unwrap()
                .lines()
                .map(|l| l.parse().unwrap())
                .collect()
        };
        for number in category("('Cc', 'Cf', 'Zl', 'Zp')") {
            let c = char::from_u32(number).unwrap();
            assert!(is_hidden(c), "U+{number:04X}");
            let text = format!("a{c}b");
            let kept = matches!(c, '\t' | '\n');
            assert_eq!(lines(&text), if kept { text.clone() } else { "a\u{fffd}b".into() });
            assert_eq!(line(&text).contains(c), c == '\t');
            assert!(kept || !styled(&text).contains(c));
            // JSON comes back as it was.
            let whole = serde_json::to_string(&text).unwrap();
            let shown = json(&whole);
            assert!(!shown.contains(c), "{shown}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), text);
        }
        // And what people write stays.
        for number in category(
            "('Lu', 'Ll', 'Lt', 'Lm', 'Lo', 'Mn', 'Mc', 'Me', 'Nd', 'Nl', 'No', 'Pc', 'Pd', 'Ps', 'Pe', 'Pi', 'Pf', 'Po', 'Sm', 'Sc', 'Sk', 'So', 'Zs', 'Co')",
        ) {
            let Some(c) = char::from_u32(number) else { continue };
            if !(0xfff0..=0xfffb).contains(&number) && !(0xe0000..=0xe00ff).contains(&number) {
                assert!(!is_hidden(c), "U+{number:04X}");
                assert_eq!(line(&c.to_string()), c.to_string());
            }
        }
    }

    #[test]
    fn style_stays_and_nothing_else_that_a_terminal_obeys() {
        let text = "\x1b[1;31merror\x1b[0m: \x1b]0;title\x07 \x1b[2J\x1b[31 \u{9b}31m \x1b[\x1b[m\tx\n\x1b";
        assert_eq!(
            styled(text),
            "\x1b[1;31merror\x1b[0m: \u{fffd}]0;title\u{fffd} \u{fffd}[2J\u{fffd}[31 \u{fffd}31m \u{fffd}[\x1b[m\tx\n\u{fffd}"
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_hidden_is_left(text: String) {
            let hidden = |c: char| is_hidden(c) && !matches!(c, '\t' | '\n');
            proptest::prop_assert!(!lines(&text).contains(hidden));
            proptest::prop_assert!(!line(&text).contains(|c| is_hidden(c) && c != '\t'));
            let whole = serde_json::to_string(&text).unwrap();
            proptest::prop_assert!(!json(&whole).contains(is_hidden));
            proptest::prop_assert_eq!(serde_json::from_str::<String>(&json(&whole)).unwrap(), text);
        }
    }
}
