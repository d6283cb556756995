//! One program that is the service `vault`, or calls it: `vault` and `vault CALLER`.
//!
//! `#[rpc]` stands on the functions once; where they run is the only difference.

use pysecure_rpc::{Bytes, Error, Result, Typed, rpc};
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

#[rpc(run_as = "vault")]
pub fn linger(milliseconds: u64) -> Result<()> {
    std::thread::sleep(Duration::from_millis(milliseconds));
    Ok(())
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
    say(
        "linger",
        pysecure_rpc::within(Duration::from_millis(20), || linger(1_000)),
    );
    say("add after a deadline", add(1, 1));
    say("secret", secret());
    say("of another", pysecure_rpc::call_known("other", "anything", &[], None));
    println!("that was all");
    Ok(())
}
