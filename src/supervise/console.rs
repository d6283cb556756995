//! Lines of many services on one terminal: each with its service's name, in a colour of its own where there
//! is a terminal that shows one.

use std::io::{IsTerminal, Write};

/// Colours that read on dark and on light ground.
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];

pub struct Console {
    width: usize,
    coloured: bool,
}

impl Console {
    pub fn new<'a>(names: impl Iterator<Item = &'a str>) -> Console {
        let coloured = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Console {
            width: names.map(str::len).max().unwrap_or(0),
            coloured,
        }
    }

    /// Prints a line of the service that stands `number`th in the manifest. Control characters of a service
    /// do not reach the terminal: they could do there whatever an escape sequence can.
    pub fn line(&self, number: usize, name: &str, text: &[u8]) {
        let text = printable(text);
        let width = self.width;
        let mut out = std::io::stdout().lock();
        // A reader that is gone is no reason to stop the services.
        let _ = if self.coloured {
            let colour = COLOURS[number % COLOURS.len()];
            writeln!(out, "\x1b[{colour}m{name:width$} |\x1b[0m {text}")
        } else {
            writeln!(out, "{name:width$} | {text}")
        };
    }
}

pub fn printable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let visible = |c: char| if c.is_control() && c != '\t' { '\u{fffd}' } else { c };
    text.strip_suffix('\r').unwrap_or(&text).chars().map(visible).collect()
}
