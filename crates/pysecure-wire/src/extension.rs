//! Is an extension's data what its type says? (docs/reference/rpc-protocol.md, "Values")

use crate::error::{Malformed, WireError};
use crate::kind::extension::{COMPLEX, DATE, DATETIME, DECIMAL, INTEGER, MEMBER, SURROGATES, TIME, TIMEDELTA, UUID};
use crate::value::Value;

const MALFORMED: WireError = WireError::Malformed(Malformed::Extension);

/// A value whose data is no MessagePack.
pub(crate) fn opaque(kind: i8, data: &[u8]) -> Result<Value, WireError> {
    let valid = match kind {
        INTEGER if !data.is_empty() => {
            if let Some(number) = small(data) {
                return Ok(number);
            }
            true
        }
        DECIMAL => is_decimal(data),
        UUID | COMPLEX => data.len() == 16,
        SURROGATES => is_text_with_surrogates(data),
        _ => false,
    };
    match valid {
        true => Ok(Value::Other(kind, data.to_vec())),
        false => Err(MALFORMED),
    }
}

/// An integer that would have had no need of an extension: it is the same number.
fn small(data: &[u8]) -> Option<Value> {
    let sign = if data[0] & 0x80 == 0 { 0 } else { 0xff };
    let more = data.len().saturating_sub(9);
    if data[..more].iter().any(|b| *b != sign) {
        return None;
    }
    let number = data[more..]
        .iter()
        .fold(if sign == 0 { 0i128 } else { -1 }, |n, b| n << 8 | i128::from(*b));
    i64::try_from(number)
        .map(Value::Int)
        .or_else(|_| u64::try_from(number).map(Value::UInt))
        .ok()
}

/// A number as Python's `decimal` reads it: digits with a point and an exponent, Infinity, or NaN.
pub(crate) fn is_decimal(text: &[u8]) -> bool {
    let unsigned = match text {
        [b'+' | b'-', rest @ ..] => rest,
        all => all,
    };
    let lower = unsigned.to_ascii_lowercase();
    let digits = |bytes: &[u8]| bytes.iter().all(u8::is_ascii_digit);
    if matches!(&lower[..], b"inf" | b"infinity") {
        return true;
    }
    if let Some(payload) = lower.strip_prefix(b"nan").or_else(|| lower.strip_prefix(b"snan")) {
        return digits(payload);
    }
    let (number, exponent) = match lower.iter().position(|b| *b == b'e') {
        Some(at) => (&lower[..at], Some(&lower[at + 1..])),
        None => (&lower[..], None),
    };
    let (whole, fraction) = match number.iter().position(|b| *b == b'.') {
        Some(at) => (&number[..at], &number[at + 1..]),
        None => (number, &[][..]),
    };
    let exponent = exponent.is_none_or(|exponent| {
        let exponent = match exponent {
            [b'+' | b'-', rest @ ..] => rest,
            all => all,
        };
        !exponent.is_empty() && digits(exponent)
    });
    (!whole.is_empty() || !fraction.is_empty()) && digits(whole) && digits(fraction) && exponent
}

/// UTF-8 in which surrogates stand as if they were characters.
fn is_text_with_surrogates(mut data: &[u8]) -> bool {
    loop {
        let valid = match std::str::from_utf8(data) {
            Ok(_) => return true,
            Err(error) => error.valid_up_to(),
        };
        match data.get(valid..) {
            Some([0xed, 0xa0..=0xbf, 0x80..=0xbf, rest @ ..]) => data = rest,
            _ => return false,
        }
    }
}

/// A value whose data is one MessagePack value, and that is no container.
pub(crate) fn holding(kind: i8, inner: Value, data: &[u8]) -> Result<Value, WireError> {
    match (kind, inner) {
        (DATETIME..=TIMEDELTA, Value::Array(parts)) if is_moment(kind, &parts) => Ok(Value::Other(kind, data.to_vec())),
        (MEMBER, member @ (Value::Str(_) | Value::Int(_) | Value::UInt(_))) => Ok(Value::Member(Box::new(member))),
        _ => Err(MALFORMED),
    }
}

/// Are these numbers a date, a time or a time span?
fn is_moment(kind: i8, parts: &[Value]) -> bool {
    let mut numbers = [None; 9];
    if parts.len() > numbers.len() {
        return false;
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = match part {
            Value::Int(n) => Some(*n),
            Value::Nil => None,
            _ => return false,
        };
    }
    match (kind, &numbers[..parts.len()]) {
        (DATETIME, [year, month, day, time @ ..]) => is_date(*year, *month, *day) && is_time(time),
        (DATE, [year, month, day]) => is_date(*year, *month, *day),
        (TIME, time) => is_time(time),
        (TIMEDELTA, [Some(-999_999_999..=999_999_999), Some(0..=86_399), Some(0..=999_999)]) => true,
        _ => false,
    }
}

/// A day of the Gregorian calendar, in the years 1 to 9999.
fn is_date(year: Option<i64>, month: Option<i64>, day: Option<i64>) -> bool {
    let (Some(year @ 1..=9999), Some(month @ 1..=12), Some(day @ 1..)) = (year, month, day) else {
        return false;
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let last = match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    day <= last
}

/// Hour, minute, second, microsecond, the offset from UTC in microseconds (less than a day) or none, and fold.
fn is_time(parts: &[Option<i64>]) -> bool {
    const DAY: i64 = 86_400_000_000;
    let &[
        Some(0..=23),
        Some(0..=59),
        Some(0..=59),
        Some(0..=999_999),
        offset,
        Some(0..=1),
    ] = parts
    else {
        return false;
    };
    offset.is_none_or(|offset| -DAY < offset && offset < DAY)
}
