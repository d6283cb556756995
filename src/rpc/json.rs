//! Values of the wire as JSON and back, for people and scripts. JSON has fewer kinds of value: what it lacks becomes text
//! that says what it is (`2026-01-02`, `1.50`), or an array; bytes become `{"bytes": "hexadecimal"}`, and a map two keys of which
//! would have the same text an array of its pairs.

use pysecure_wire::Value;
use serde_json::Value as Json;
use std::fmt::Write;

/// Numbers of more bytes are shown in hexadecimal: their digits would take time that grows with the square.
const LONGEST_DECIMAL: usize = 1_786;

pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::Int(n),
            (None, Some(n)) => Value::UInt(n),
            _ => Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Str(text.clone()),
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| (Value::Str(key.clone()), from_json(value)));
            Value::Map(pairs.collect())
        }
    }
}

/// Of a value that was received, whose nesting was looked at then.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => Json::from(*n),
        Value::UInt(n) => Json::from(*n),
        Value::Float(n) => serde_json::Number::from_f64(*n).map_or_else(|| n.to_string().into(), Json::Number),
        Value::Str(text) => text.as_str().into(),
        Value::Bytes(bytes) => serde_json::json!({ "bytes": hexadecimal(bytes) }),
        Value::Array(items) | Value::Tuple(items) | Value::Set(items) | Value::FrozenSet(items) => {
            items.iter().map(to_json).collect()
        }
        Value::Map(pairs) => {
            let text = |key: &Value| match to_json(key) {
                Json::String(text) => text,
                other => other.to_string(),
            };
            let object: serde_json::Map<_, _> = pairs.iter().map(|(k, v)| (text(k), to_json(v))).collect();
            // Keys that are two and would become one, such as 1 and "1", stay two.
            match object.len() == pairs.len() {
                true => Json::Object(object),
                false => pairs
                    .iter()
                    .map(|(k, v)| Json::from(vec![to_json(k), to_json(v)]))
                    .collect(),
            }
        }
        Value::Member(member) => to_json(member),
        Value::Fd(_) => serde_json::json!({ "descriptor": null }),
        Value::Other(kind, data) => extension(*kind, data, value.parts())
            .unwrap_or_else(|| serde_json::json!({ "extension": kind, "bytes": hexadecimal(data) })),
    }
}

/// As one line of output. JSON lets stand what a terminal might obey, so it is escaped.
pub fn line(json: &Json) -> String {
    crate::plain::json(&json.to_string()).into_owned()
}

/// `None` for what is not as the protocol has it. `parts`: the numbers that it is made of.
fn extension(kind: i8, data: &[u8], parts: Option<Vec<Option<i64>>>) -> Option<Json> {
    let parts = parts.unwrap_or_default();
    Some(match (kind, parts.as_slice()) {
        (1, _) if data.len() > LONGEST_DECIMAL => serde_json::json!({ "int": hexadecimal(data) }),
        (1, _) => decimal(data).into(),
        (
            5,
            [
                Some(y),
                Some(mo),
                Some(d),
                Some(h),
                Some(mi),
                Some(s),
                Some(us),
                offset,
                _,
            ],
        ) => format!("{y:04}-{mo:02}-{d:02}T{}", time(*h, *mi, *s, *us, *offset)).into(),
        (6, [Some(y), Some(m), Some(d)]) => format!("{y:04}-{m:02}-{d:02}").into(),
        (7, [Some(h), Some(m), Some(s), Some(us), offset, _]) => time(*h, *m, *s, *us, *offset).into(),
        // In seconds: a number that adds up.
        (8, [Some(days), Some(seconds), Some(us)]) => {
            Json::from(*days as f64 * 86_400.0 + *seconds as f64 + *us as f64 / 1e6)
        }
        (9, _) => std::str::from_utf8(data).ok()?.into(),
        (10, _) => {
            let hex = hexadecimal(data);
            let part = |from: usize, to: usize| hex.get(from..to);
            let parts = [part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?];
            parts.join("-").into()
        }
        (13, _) => String::from_utf8_lossy(data).into_owned().into(),
        _ => return None,
    })
}

fn time(h: i64, m: i64, s: i64, us: i64, offset: Option<i64>) -> String {
    let mut out = format!("{h:02}:{m:02}:{s:02}");
    if us != 0 {
        let _ = write!(out, ".{us:06}");
    }
    if let Some(offset) = offset {
        let minutes = offset.unsigned_abs() / 60_000_000;
        let sign = if offset < 0 { '-' } else { '+' };
        let _ = write!(out, "{sign}{:02}:{:02}", minutes / 60, minutes % 60);
    }
    out
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

/// A number in two's complement, the highest byte first, of any length.
fn decimal(bytes: &[u8]) -> String {
    let negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
    // Its absolute value: inverted, and one more.
    let mut magnitude: Vec<u8> = bytes.iter().map(|b| if negative { !b } else { *b }).collect();
    if negative {
        for byte in magnitude.iter_mut().rev() {
            let (sum, carries) = byte.overflowing_add(1);
            *byte = sum;
            if !carries {
                break;
            }
        }
    }
    let mut digits = Vec::new();
    while magnitude.iter().any(|b| *b != 0) {
        let mut rest = 0u32;
        for byte in &mut magnitude {
            let all = rest << 8 | u32::from(*byte);
            *byte = (all / 10) as u8;
            rest = all % 10;
        }
        digits.push(char::from(b'0' + rest as u8));
    }
    if digits.is_empty() {
        digits.push('0');
    }
    if negative {
        digits.push('-');
    }
    digits.into_iter().rev().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size() {
        assert_eq!(decimal(&[]), "0");
        assert_eq!(decimal(&[0x01, 0, 0, 0, 0, 0, 0, 0, 0]), "18446744073709551616");
        assert_eq!(decimal(&[0xff]), "-1");
        assert_eq!(decimal(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0]), "-2361183241434822606848");
    }

    #[test]
    fn json_comes_back() {
        for text in [
            r#"{"a":[1,-2,2.5,null,true,"x"],"b":{}}"#,
            "18446744073709551615",
            "\"\"",
        ] {
            let json: Json = serde_json::from_str(text).unwrap();
            assert_eq!(to_json(&from_json(&json)), json);
        }
        let ext = |kind, numbers: &[i64]| {
            let mut writer = pysecure_wire::Writer::bare();
            writer.array(numbers.len());
            numbers.iter().for_each(|n| writer.int(*n));
            to_json(&Value::Other(kind, writer.finish().bytes))
        };
        assert_eq!(ext(6, &[2026, 1, 2]), "2026-01-02");
        assert_eq!(
            ext(5, &[2026, 1, 2, 3, 4, 5, 6, -3_600_000_000, 0]),
            "2026-01-02T03:04:05.000006-01:00"
        );
        assert_eq!(ext(8, &[1, 1, 500_000]), 86_401.5);
        assert_eq!(to_json(&Value::Other(9, b"1.50".to_vec())), "1.50");
        assert_eq!(
            to_json(&Value::Other(10, (0..16).collect())),
            "00010203-0405-0607-0809-0a0b0c0d0e0f"
        );
    }

    #[test]
    fn no_key_is_lost() {
        let map = |keys: &[Value]| to_json(&Value::Map(keys.iter().map(|k| (k.clone(), Value::Nil)).collect()));
        let (one, text, other) = (Value::Int(1), Value::Str("1".into()), Value::Str("a".into()));
        assert_eq!(map(&[one.clone(), other.clone()]).to_string(), r#"{"1":null,"a":null}"#);
        assert_eq!(
            map(&[one, text, other]).to_string(),
            r#"[[1,null],["1",null],["a",null]]"#
        );
        assert_eq!(
            map(&[Value::Nil, Value::Str("null".into())]).to_string(),
            r#"[[null,null],["null",null]]"#
        );
    }

    #[test]
    fn numbers_beyond_reason_are_shown_as_they_came() {
        let all = vec![0x7f; 8 << 20];
        let shown = to_json(&Value::Other(1, all.clone()));
        assert_eq!(shown["int"].as_str().map(str::len), Some(2 * all.len()));
    }

    #[test]
    fn nothing_that_a_terminal_would_obey() {
        let json = Json::from("\u{9b}2J\u{1b}ä\u{7f}\u{202e}\u{e0041}");
        assert_eq!(line(&json), "\"\\u009b2J\\u001bä\\u007f\\u202e\\udb40\\udc41\"");
        assert_eq!(serde_json::from_str::<Json>(&line(&json)).unwrap(), json);
    }

    proptest::proptest! {
        #[test]
        fn anything_is_shown(kind: i8, data: Vec<u8>) {
            to_json(&Value::Other(kind, data.clone()));
            if let Ok(values) = pysecure_wire::read(&data, Vec::new(), &mut pysecure_wire::IncomingArea::default()) {
                values.iter().for_each(|value| drop(to_json(value)));
            }
        }
    }
}
