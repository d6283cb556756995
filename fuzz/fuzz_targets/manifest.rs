//! No text, as TOML or as JSON, may make the manifest's front end panic, hang or overflow its stack.

#![no_main]

use libfuzzer_sys::fuzz_target;
use pysecure::manifest::{Format, Source, diagnostics_json, parse, render};

fuzz_target!(|data: &[u8]| {
    let Some((choice, text)) = data.split_first() else {
        return;
    };
    let format = if choice & 1 == 0 { Format::Toml } else { Format::Json };
    let source = Source {
        path: "manifest".into(),
        text: String::from_utf8_lossy(text).into_owned(),
        format,
    };
    let (_, diagnostics) = parse(&source);
    let _ = render(&source, &diagnostics, choice & 2 == 0);
    let _ = diagnostics_json(&source, &diagnostics);
});
