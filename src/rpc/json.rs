//! Values of the wire as JSON and back, for people and scripts. JSON has fewer kinds of value: what it lacks becomes text
//! that says what it is (`2026-01-02`, `1.50`), or an array; bytes become `{"bytes": "hexadecimal"}`.

use rmpv::Value;
use serde_json::Value as Json;
use std::fmt::Write;

/// Extensions of docs/rpc-protocol.md.
pub(super) const LARGE_BYTES: i8 = 20;
pub(super) const SEQUENCES: std::ops::RangeInclusive<i8> = 2..=4;

pub fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::Nil,
        Json::Bool(b) => Value::Boolean(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            _ => Value::F64(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::Array(items.iter().map(from_json).collect()),
        Json::Object(pairs) => {
            let pairs = pairs
                .iter()
                .map(|(key, value)| (Value::from(key.as_str()), from_json(value)));
            Value::Map(pairs.collect())
        }
    }
}

/// Of a value that was received, whose nesting was looked at then.
pub fn to_json(value: &Value) -> Json {
    match value {
        Value::Nil => Json::Null,
        Value::Boolean(b) => Json::Bool(*b),
        Value::Integer(n) => match (n.as_i64(), n.as_u64()) {
            (Some(n), _) => n.into(),
            (None, Some(n)) => n.into(),
            _ => Json::Null,
        },
        Value::F32(n) => Json::from(f64::from(*n)),
        Value::F64(n) => serde_json::Number::from_f64(*n).map_or_else(|| n.to_string().into(), Json::Number),
        Value::String(text) => String::from_utf8_lossy(text.as_bytes()).into_owned().into(),
        Value::Binary(bytes) => serde_json::json!({ "bytes": hexadecimal(bytes) }),
        Value::Array(items) => items.iter().map(to_json).collect(),
        Value::Map(pairs) => {
            let pairs = pairs.iter().map(|(key, value)| {
                let key = match to_json(key) {
                    Json::String(text) => text,
                    other => other.to_string(),
                };
                (key, to_json(value))
            });
            Json::Object(pairs.collect())
        }
        Value::Ext(kind, data) => extension(*kind, data)
            .unwrap_or_else(|| serde_json::json!({ "extension": kind, "bytes": hexadecimal(data) })),
    }
}

/// `None` for what is not as the protocol has it.
fn extension(kind: i8, data: &[u8]) -> Option<Json> {
    let inner = || super::decode(data).ok();
    let numbers = || -> Option<Vec<Option<i64>>> {
        let Value::Array(items) = inner()? else { return None };
        Some(items.iter().map(Value::as_i64).collect())
    };
    Some(match kind {
        1 => decimal(data).into(),
        _ if SEQUENCES.contains(&kind) => to_json(&inner()?),
        5 => match numbers()?.as_slice() {
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
            ] => format!("{y:04}-{mo:02}-{d:02}T{}", time(*h, *mi, *s, *us, *offset)).into(),
            _ => return None,
        },
        6 => match numbers()?.as_slice() {
            [Some(y), Some(m), Some(d)] => format!("{y:04}-{m:02}-{d:02}").into(),
            _ => return None,
        },
        7 => match numbers()?.as_slice() {
            [Some(h), Some(m), Some(s), Some(us), offset, _] => time(*h, *m, *s, *us, *offset).into(),
            _ => return None,
        },
        8 => match numbers()?.as_slice() {
            // In seconds: a number that adds up.
            [Some(days), Some(seconds), Some(us)] => {
                Json::from(*days as f64 * 86_400.0 + *seconds as f64 + *us as f64 / 1e6)
            }
            _ => return None,
        },
        9 => std::str::from_utf8(data).ok()?.into(),
        10 => {
            let hex = hexadecimal(data);
            let part = |from: usize, to: usize| hex.get(from..to);
            let parts = [part(0, 8)?, part(8, 12)?, part(12, 16)?, part(16, 20)?, part(20, 32)?];
            parts.join("-").into()
        }
        12 => match inner()? {
            member @ (Value::String(_) | Value::Integer(_)) => to_json(&member),
            _ => return None,
        },
        13 => String::from_utf8_lossy(data).into_owned().into(),
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
        let ext = |kind, value: Value| {
            let mut bytes = Vec::new();
            rmpv::encode::write_value(&mut bytes, &value).unwrap();
            to_json(&Value::Ext(kind, bytes))
        };
        let numbers = |all: &[i64]| Value::Array(all.iter().map(|n| Value::from(*n)).collect());
        assert_eq!(ext(6, numbers(&[2026, 1, 2])), "2026-01-02");
        assert_eq!(
            ext(5, numbers(&[2026, 1, 2, 3, 4, 5, 6, -3_600_000_000, 0])),
            "2026-01-02T03:04:05.000006-01:00"
        );
        assert_eq!(ext(8, numbers(&[1, 1, 500_000])), 86_401.5);
        assert_eq!(to_json(&Value::Ext(9, b"1.50".to_vec())), "1.50");
        assert_eq!(
            to_json(&Value::Ext(10, (0..16).collect())),
            "00010203-0405-0607-0809-0a0b0c0d0e0f"
        );
    }

    proptest::proptest! {
        #[test]
        fn anything_is_shown(kind: i8, data: Vec<u8>) {
            to_json(&Value::Ext(kind, data.clone()));
            if let Ok(value) = super::super::decode(&data) {
                to_json(&value);
            }
        }
    }
}
