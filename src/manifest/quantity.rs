//! Amounts: times, sizes, counts, processors. Each is written as people write it elsewhere (`"10s"`, `"256M"`), and is
//! bounded, so that no sum of two overflows.

use std::time::Duration;

use schemars::{Schema, SchemaGenerator, json_schema};

use super::Diagnostic;
use super::decode::{Codec, Cx, Place, shown};
use super::tree::{Node, Tree};
use super::types::At;

/// A span of time: `"10s"`, `"1m 30s"`, `"250ms"`; a bare integer is seconds, as in `docker compose stop -t 10`.
pub(crate) struct Time;

/// A year: longer than anything that is waited for.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

impl Codec for Time {
    type Out = At<Duration>;
    const EXPECTED: &'static str = "a time such as `\"10s\"`";
    const EXAMPLE: &'static str = "\"10s\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<Duration>> {
        let value = match &tree.node {
            Node::Integer(seconds) => seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
            Node::String(text) => parse_time(text),
            _ => {
                cx.wrong_type::<Time>(&tree, place);
                return None;
            }
        };
        within::<Time, Duration>(value.filter(|v| *v <= LONGEST), "from 0 to 366 days", &tree, place, cx)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "time", "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": LONGEST.as_secs() },
            { "type": "string", "pattern": "^[0-9]" }
        ] })
    }
}

/// jiff's friendly format, without its signs.
fn parse_time(text: &str) -> Option<Duration> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    text.parse::<jiff::SignedDuration>().ok()?.try_into().ok()
}

/// Bytes: `"256M"`, `"1G"`, `4096`. The letters are powers of 1,024, as docker and systemd have them.
pub(crate) struct Size;

impl Codec for Size {
    type Out = At<u64>;
    const EXPECTED: &'static str = "a size such as `\"256M\"`";
    const EXAMPLE: &'static str = "\"256M\"";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<u64>> {
        let value = match &tree.node {
            Node::Integer(bytes) => bytes.and_then(|b| u64::try_from(b).ok()),
            Node::String(text) => parse_size(text),
            _ => {
                cx.wrong_type::<Size>(&tree, place);
                return None;
            }
        };
        let value = value.filter(|v| *v <= i64::MAX as u64);
        within::<Size, u64>(value, "bytes, or a number with K, M, G or T", &tree, place, cx)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "title": "size", "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": i64::MAX },
            { "type": "string", "pattern": "^[0-9]+ ?([kKmMgGtT]([iI]?[bB])?|[bB])?$" }
        ] })
    }
}

/// A size as it is written: bytes, or a number with K, M, G or T.
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A whole number from `LOW` to `HIGH`.
pub(crate) struct Count<const LOW: u32, const HIGH: u32>;

impl<const LOW: u32, const HIGH: u32> Codec for Count<LOW, HIGH> {
    type Out = At<u32>;
    const EXPECTED: &'static str = "an integer";
    const EXAMPLE: &'static str = "10";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<u32>> {
        let Node::Integer(number) = tree.node else {
            cx.wrong_type::<Self>(&tree, place);
            return None;
        };
        let value = number
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (LOW..=HIGH).contains(n));
        within::<Self, u32>(value, &format!("from {LOW} to {HIGH}"), &tree, place, cx)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": LOW, "maximum": HIGH })
    }
}

/// Processors: `2`, or a part such as `0.5`. In thousandths, which is finer than any scheduler holds.
pub(crate) struct Processors;

/// A hundredth, below which the kernel divides no processor; and more than any machine has.
const FEWEST: f64 = 0.01;
const MOST: f64 = 10_000.0;

impl Codec for Processors {
    type Out = At<u32>;
    const EXPECTED: &'static str = "a number of processors, such as `0.5`";
    const EXAMPLE: &'static str = "0.5";

    fn decode(tree: Tree<'_>, place: &Place<'_>, cx: &mut Cx) -> Option<At<u32>> {
        let value = match &tree.node {
            Node::Integer(number) => number.and_then(|n| u32::try_from(n).ok()).map(f64::from),
            Node::Float(number) => *number,
            _ => {
                cx.wrong_type::<Processors>(&tree, place);
                return None;
            }
        };
        let value = value
            .filter(|v| (FEWEST..=MOST).contains(v))
            .map(|v| (v * 1000.0).round() as u32);
        within::<Processors, u32>(value, "from 0.01 to 10000", &tree, place, cx)
    }

    fn schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": FEWEST, "maximum": MOST })
    }
}

/// The value, or what is wrong with it: it is not one, or too large.
fn within<C: Codec, T>(
    value: Option<T>,
    range: &str,
    tree: &Tree<'_>,
    place: &Place<'_>,
    cx: &mut Cx,
) -> Option<At<T>> {
    if value.is_none() {
        let found = match &tree.node {
            Node::String(text) => format!("`{}`", shown(text)),
            Node::Integer(Some(number)) => number.to_string(),
            Node::Float(Some(number)) => number.to_string(),
            _ => "this number".to_owned(),
        };
        cx.report(
            Diagnostic::error(
                tree.span.clone(),
                format!("{}: {found} is not {}", place.describe(), C::EXPECTED),
            )
            .label(range.to_owned())
            .help(C::help(place, None, cx.format)),
        );
    }
    value.map(|value| At {
        value,
        span: tree.span.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(parse_time("10s"), Some(Duration::from_secs(10)));
        assert_eq!(parse_time("1m 30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_time("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse_time("7"), Some(Duration::from_secs(7)));
        for wrong in [
            "",
            "-1s",
            "s",
            "10 parsecs",
            "10s ago",
            "99999999999999999999s",
            "1 month",
        ] {
            assert_eq!(parse_time(wrong).filter(|t| *t <= LONGEST), None, "{wrong}");
        }
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("256M"), Some(256 << 20));
        assert_eq!(parse_size("1 GiB"), Some(1 << 30));
        assert_eq!(parse_size("4096"), Some(4096));
        for wrong in ["", "M", "-1M", "1.5G", "1X", "99999999999T"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }
}
