//! One program that is the service `vault`, or calls it: `vault` and `vault CALLER`.
//!
//! `#[rpc]` stands on the functions once; where they run is the only difference.

use pysecure_rpc::kinds::{Date, DateTime, Decimal, Fd, Set, Time, TimeDelta, Uuid};
use pysecure_rpc::{Bytes, Error, Result, Stream, Typed, rpc};
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(Debug, PartialEq, Serialize, Deserialize, Typed)]
pub struct Entry {
    owner: String,
    note: Option<String>,
    tags: Vec<String>,
}

/// Keeps what it is given, and says who gave it.
#[rpc(run_as = "vault")]
pub fn keep(name: String, tags: Vec<String>) -> Result<Entry> {
    Ok(Entry {
        owner: pysecure_rpc::caller().unwrap_or_default(),
        note: Some(name),
        tags,
    })
}

#[rpc(run_as = "vault", idempotent)]
pub fn add(a: i64, b: i64) -> Result<i64> {
    a.checked_add(b)
        .ok_or_else(|| Error::raise("OverflowError", "too large"))
}

/// Turns bytes around.
#[rpc(run_as = "vault")]
pub fn reverse(data: Bytes) -> Result<Bytes> {
    Ok(Bytes(data.0.into_iter().rev().collect()))
}

/// So many, each of so many bytes.
#[rpc(run_as = "vault")]
pub fn pieces(size: u64, many: u64) -> Result<Vec<Bytes>> {
    Ok((0..many).map(|n| Bytes(vec![n as u8; size as usize])).collect())
}

#[rpc(run_as = "vault")]
pub fn linger(milliseconds: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(milliseconds));
    Ok(())
}

/// One number after another, as fast as the caller takes them.
#[rpc(run_as = "vault")]
pub fn count(to: u64) -> Result<Stream<u64>> {
    Ok(Stream::of(0..to))
}

/// As `linger`, but ends when nobody waits for it.
#[rpc(run_as = "vault")]
pub async fn doze(milliseconds: u64) -> Result<String> {
    struct Ends;
    impl Drop for Ends {
        fn drop(&mut self) {
            println!("woken");
        }
    }
    let _ends = Ends;
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    Ok(pysecure_rpc::traceparent().unwrap_or_default())
}

pub type Kinds = (DateTime, Date, Time, TimeDelta, Uuid, Decimal, Set<i64>);

/// What serde has no words for, there and back.
#[rpc(run_as = "vault")]
pub fn kinds(
    at: DateTime,
    day: Date,
    time: Time,
    span: TimeDelta,
    id: Uuid,
    amount: Decimal,
    numbers: Set<i64>,
) -> Result<Kinds> {
    Ok((at, day, time, span, id, amount, numbers))
}

/// What a file holds that the caller has open.
#[rpc(run_as = "vault")]
pub fn read(file: Fd) -> Result<String> {
    let file = file
        .into_owned()
        .ok_or_else(|| Error::raise("OSError", "it is in use"))?;
    std::io::read_to_string(std::fs::File::from(file)).map_err(|e| Error::raise("OSError", e.to_string()))
}

#[rpc(run_as = "vault")]
pub fn secret() -> Result<String> {
    Ok("the secret".into())
}

fn say<T: std::fmt::Debug>(what: &str, result: Result<T>) {
    match result {
        Ok(value) => println!("{what}: {value:?}"),
        Err(error) => println!("{what}: {}: {error}", error.class()),
    }
}

fn main() -> Result<()> {
    if std::env::args().nth(1).is_none() {
        return pysecure_rpc::start_service("vault");
    }
    say("keep", keep("x".into(), vec!["a".into(), "b".into()]));
    say("add", add(2, 40));
    say("overflow", add(i64::MAX, 1));
    let long: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
    let turned = reverse(Bytes(long.clone())).map(|t| t.0.iter().rev().eq(long.iter()));
    say("a million bytes turned around", turned);
    let longer = reverse(Bytes(vec![0; 3_000_000])).map(|t| t.0.len());
    say("three million", longer);
    say(
        "linger",
        pysecure_rpc::timeout(Duration::from_millis(20), || linger(1_000)),
    );
    say("add after a deadline", add(1, 1));
    say("counted", count(1_000).and_then(|all| all.sum::<Result<u64>>()));
    say(
        "some",
        count(u64::MAX).and_then(|all| all.take(3).collect::<Result<Vec<_>>>()),
    );
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Error::raise("OSError", e.to_string()))?;
    say("dozed", pysecure_rpc::trace(trace, || runtime.block_on(doze(1))));
    say(
        "dozes",
        pysecure_rpc::timeout(Duration::from_millis(20), || runtime.block_on(doze(u32::MAX.into()))),
    );
    let time = Time {
        hour: 23,
        minute: 59,
        second: 0,
        microsecond: 1,
        offset: Some(-3_600_000_000),
        fold: true,
    };
    let date = Date {
        year: 2026,
        month: 2,
        day: 28,
    };
    let span = TimeDelta {
        days: -1,
        seconds: 5,
        microseconds: 0,
    };
    let numbers = Set([i64::MIN, 7].into());
    let all: Kinds = (
        DateTime { date, time },
        date,
        time,
        span,
        Uuid([7; 16]),
        Decimal("-1.50".into()),
        numbers,
    );
    let (at, day, time, span, id, amount, numbers) = all.clone();
    let back = kinds(at, day, time, span, id, amount, numbers);
    say("kinds come back", back.map(|back| back == all));
    let (end, mut other) = std::io::pipe().map_err(|e| Error::raise("OSError", e.to_string()))?;
    std::io::Write::write_all(&mut other, b"from a pipe").map_err(|e| Error::raise("OSError", e.to_string()))?;
    drop(other);
    say("read", read(std::os::fd::OwnedFd::from(end).into()));
    say("secret", secret());
    say("of another", pysecure_rpc::call("other", "anything", &[]));
    println!("that was all");
    Ok(())
}
