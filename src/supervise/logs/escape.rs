//! Escape sequences (ECMA-48) in what services print, told apart from their text.
//!
//! Of them all only colours and weights ever reach a terminal, and are taken back at the end of the line. What sets a title, makes a
//! link, moves the cursor, clears, asks the terminal or changes how it works is taken out whole, with all that belongs to it; elsewhere than
//! on a terminal that shows colours, so are they.

use crate::plain::is_hidden;

/// Of a control sequence so much is looked at.
const MOST_PARAMETERS: usize = 64;
const RESET: &str = "\x1b[0m";

/// Where in a sequence it stands.
enum State {
    Text,
    /// Behind ESC.
    Escape,
    /// Behind ESC and bytes that say what comes.
    Intermediate,
    /// In a control sequence (CSI): its parameters so far.
    Control(String),
    /// In a string for the terminal (OSC, DCS, SOS, PM, APC), which BEL may end.
    String {
        bell: bool,
    },
    /// In such a string, behind ESC.
    StringEscape,
    /// Behind a shift to another set of characters, which is for one character.
    Shifted,
}

/// Appends a line's text as it may be shown. `colours`: those of the text stay.
pub(super) fn write_shown(text: &[u8], colours: bool, out: &mut Vec<u8>) {
    let mut line = Line {
        state: State::Text,
        colours,
        coloured: false,
        out,
    };
    for chunk in text.utf8_chunks() {
        chunk.valid().chars().for_each(|c| line.take(c));
        match chunk.invalid() {
            [] => {}
            // Control characters of the upper half (C1), of a program that writes eight bits.
            [byte @ 0x80..=0x9f] => line.take(char::from(*byte)),
            _ => line.take(char::REPLACEMENT_CHARACTER),
        }
    }
    if line.coloured {
        out.extend_from_slice(RESET.as_bytes());
    }
}

struct Line<'o> {
    state: State,
    colours: bool,
    /// Something of the text's is in force.
    coloured: bool,
    out: &'o mut Vec<u8>,
}

impl Line<'_> {
    fn take(&mut self, c: char) {
        let state = std::mem::replace(&mut self.state, State::Text);
        self.state = match (state, c) {
            (State::String { .. }, '\x1b') => State::StringEscape,
            (State::String { bell: true }, '\x07') | (State::String { .. }, '\u{9c}' | '\x18' | '\x1a') => State::Text,
            (string @ State::String { .. }, _) => string,
            (State::StringEscape, '\\') => State::Text,
            // Any other sequence breaks the string off.
            (State::StringEscape, _) => self.escaped(c),
            (_, '\x1b') => State::Escape,
            (State::Escape, _) => self.escaped(c),
            (State::Intermediate, ' '..='/') => State::Intermediate,
            (State::Intermediate, '0'..='~') => State::Text,
            (State::Control(mut parameters), ' '..='?') => {
                if parameters.len() < MOST_PARAMETERS {
                    parameters.push(c);
                }
                State::Control(parameters)
            }
            (State::Control(parameters), '@'..='~') => {
                if c == 'm' && self.colours {
                    self.style(&parameters);
                }
                State::Text
            }
            (State::Shifted, ' '..='~') => State::Text,
            // What is in no sequence, or ends one that is none.
            _ => self.text(c),
        };
    }

    fn escaped(&mut self, c: char) -> State {
        match c {
            '[' => State::Control(String::new()),
            ']' => State::String { bell: true },
            'P' | 'X' | '^' | '_' => State::String { bell: false },
            'N' | 'O' => State::Shifted,
            ' '..='/' => State::Intermediate,
            '0'..='~' => State::Text,
            '\x1b' => State::Escape,
            _ => self.text(c),
        }
    }

    fn text(&mut self, c: char) -> State {
        match c {
            '\u{9b}' => return State::Control(String::new()),
            '\u{9d}' => return State::String { bell: true },
            '\u{90}' | '\u{98}' | '\u{9e}' | '\u{9f}' => return State::String { bell: false },
            '\u{8e}' | '\u{8f}' => return State::Shifted,
            '\u{80}'..='\u{9f}' => return State::Text,
            _ => {}
        }
        let shown = match is_hidden(c) && c != '\t' {
            true => char::REPLACEMENT_CHARACTER,
            false => c,
        };
        self.out.extend_from_slice(shown.encode_utf8(&mut [0; 4]).as_bytes());
        State::Text
    }

    /// Appends what of a style is a colour or a weight.
    fn style(&mut self, parameters: &str) {
        let kept = colours_of(parameters);
        if kept.is_empty() {
            return;
        }
        self.coloured = kept.last().is_none_or(|last| last != "0");
        self.out
            .extend_from_slice(format!("\x1b[{}m", kept.join(";")).as_bytes());
    }
}

/// Of SGR's parameters those that are taken back at the end of the line and hide nothing: no blinking, no concealed text, no fonts.
fn colours_of(parameters: &str) -> Vec<String> {
    let known = |c: char| c.is_ascii_digit() || c == ';' || c == ':';
    let mut kept = Vec::new();
    if !parameters.chars().all(known) || parameters.len() >= MOST_PARAMETERS {
        return kept;
    }
    let mut all = parameters.split(';');
    while let Some(parameter) = all.next() {
        let (number, parts) = match parameter.split_once(':') {
            Some((number, _)) => (number, true),
            None => (parameter, false),
        };
        match number.trim_start_matches('0').parse::<u16>() {
            Err(_) if number.chars().all(|c| c == '0') => kept.push("0".to_owned()),
            Ok(38 | 48 | 58) if parts => kept.push(parameter.to_owned()),
            Ok(38 | 48 | 58) => {
                let Some(colour) = of_a_palette(number, &mut all) else {
                    break;
                };
                kept.push(colour);
            }
            Ok(4) => kept.push("4".to_owned()),
            Ok(n @ (1..=3 | 7 | 9 | 21..=24 | 27 | 29..=37 | 39..=47 | 49 | 53 | 55 | 59 | 90..=97 | 100..=107)) => {
                kept.push(n.to_string());
            }
            _ => {}
        }
    }
    kept
}

/// `38;5;N` and `38;2;R;G;B`, of which the first number is taken already.
fn of_a_palette<'p>(first: &str, rest: &mut impl Iterator<Item = &'p str>) -> Option<String> {
    let kind = rest.next()?;
    let count = match kind {
        "5" => 1,
        "2" => 3,
        _ => return None,
    };
    let mut out = format!("{first};{kind}");
    for _ in 0..count {
        let number: u8 = rest.next()?.parse().ok()?;
        out += &format!(";{number}");
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &[u8], colours: bool) -> String {
        let mut out = Vec::new();
        write_shown(text, colours, &mut out);
        String::from_utf8(out).unwrap()
    }

    /// What has no colour in it and what comes of it, on a terminal and elsewhere.
    const PLAIN: &[(&[u8], &str)] = &[
        (b"a\x1b[2Jb\x1b[1;1Hc", "abc"),
        (b"a\x1b[?1049hb\x1b[?25lc\x1b[6nd\x1b[>0qe", "abcde"),
        (b"a\x1b]0;a title\x07b", "ab"),
        (b"a\x1b]2;a title\x1b\\b\x9d0;another\x9cc", "abc"),
        (
            b"\x1b]8;;https://example.org\x1b\\a link\x1b]8;;\x1b\\ and",
            "a link and",
        ),
        (b"\x1b]52;c;c3RvbGVu\x07a\x1b]4;1;?\x07b", "ab"),
        (b"a\x1bPq#0;2;0;0;0\x07~~\x1b\\b\x90more\x9cc", "abc"),
        (b"a\x1b_Gi=1\x1b\\b\x1b^pm\x1b\\c\x1bXsos\x1b\\d", "abcd"),
        (b"a\x1bcb\x1b7c\x1b8d\x1b(0e\x1b#8f\x1b=g", "abcdefg"),
        (b"a\x1bOPb\x1bNxc", "abc"),
        ("a\u{9b}2Jb\u{85}c\u{9d}0;t\u{9c}d".as_bytes(), "abcd"),
        (b"a\x9b2Jb\x85c\x8fPd", "abcd"),
        // Whatever is never ended is taken out to the end of the line; what ends a sequence that is none stands.
        (b"a\x1b]0;title", "a"),
        (b"a\x1b[31", "a"),
        (b"a\x1b", "a"),
        (b"a\x1b[3\xc3\xa4b", "a\u{e4}b"),
        (b"a\x1b]0;t\x1b[2Jb\x1b]0;t\x18c", "abc"),
        (b"a\x1b[8;1Hb\x1b[!pc\x1b[1 qd", "abcd"),
        // Hidden ones are shown to be there, as ever.
        (b"a\x07b\x00c\xff\xfed", "a\u{fffd}b\u{fffd}c\u{fffd}\u{fffd}d"),
        (b"tab\tstays", "tab\tstays"),
    ];

    #[test]
    fn what_is_no_colour_is_taken_out_whole() {
        for (text, wanted) in PLAIN {
            for colours in [false, true] {
                assert_eq!(shown(text, colours), *wanted, "{:?}", String::from_utf8_lossy(text));
            }
        }
    }

    #[test]
    fn colours_stay_where_they_are_shown_and_end_with_the_line() {
        for (text, coloured, plain) in [
            ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m", "red"),
            ("\x1b[1;31mred", "\x1b[1;31mred\x1b[0m", "red"),
            ("\x1b[mx", "\x1b[0mx", "x"),
            ("\u{9b}32mgreen", "\x1b[32mgreen\x1b[0m", "green"),
            ("\x1b[38;5;200mx\x1b[39m", "\x1b[38;5;200mx\x1b[39m\x1b[0m", "x"),
            ("\x1b[48;2;1;2;3;1mx", "\x1b[48;2;1;2;3;1mx\x1b[0m", "x"),
            ("\x1b[38:2::1:2:3mx", "\x1b[38:2::1:2:3mx\x1b[0m", "x"),
            // Nothing that blinks or hides, no fonts; and of what is no colour nothing.
            ("\x1b[5;8;31;12mx", "\x1b[31mx\x1b[0m", "x"),
            ("\x1b[8mx", "x", "x"),
            ("\x1b[38;5;999mx", "x", "x"),
            ("\x1b[?31mx\x1b[>4;1mx\x1b[31 mx", "xxx", "xxx"),
        ] {
            assert_eq!(shown(text.as_bytes(), true), coloured, "{text:?}");
            assert_eq!(shown(text.as_bytes(), false), plain, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_a_terminal_obeys_is_left(text: Vec<u8>, sequence in "[\\x1b\\x9b\\]\\[P0-9;mHJ\\\\\\x07 a]{0,40}") {
            for text in [&text[..], sequence.as_bytes()] {
                let plain = shown(text, false);
                proptest::prop_assert!(!plain.contains(|c| is_hidden(c) && c != '\t'), "{plain:?}");
                // Of styles alone there is more.
                let coloured = shown(text, true);
                proptest::prop_assert_eq!(&crate::plain::styled(&coloured), &coloured);
            }
        }
    }
}
