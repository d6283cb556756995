//! The Rust implementations of the peers' benchmark. `benches/rpc/peers/python` starts them and tells them what to measure, so that all implementations of both
//! languages take turns in one run:
//!
//!     pysecure-rpc-peers serve SIDE FOLDER     serves on FOLDER/bench.sock
//!     pysecure-rpc-peers call SIDE FOLDER      calls it; each line of its standard input asks for a figure, and it answers with one
//!
//! `small N`: the median of N small calls in microseconds. `large N`: the same of a mebibyte there and back, or `none` where the side
//! cannot carry bytes. `run S`: calls a second, over S seconds.

mod bare;
mod grpc;
mod ours;
mod served;
mod varlinked;

use std::io::{BufRead, Write};
use std::path::Path;
use std::time::{Duration, Instant};

pub const USER: &str = "alice";
pub const PASSWORD: &str = "secret";
const LARGE: usize = 1 << 20;

pub type Failed = Box<dyn std::error::Error>;

/// What every side's function does.
pub fn login(user: &str, password: &str) -> bool {
    user == USER && password == PASSWORD
}

/// One connection to a side's server.
pub trait Caller {
    fn login(&mut self) -> Result<bool, Failed>;

    /// The same bytes back; none where the side has no bytes, or none so long.
    fn echo(&mut self, _: Vec<u8>) -> Result<Option<Vec<u8>>, Failed> {
        Ok(None)
    }
}

fn main() -> Result<(), Failed> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [action, side, folder] = arguments.as_slice() else {
        return Err("usage: pysecure-rpc-peers serve|call SIDE FOLDER".into());
    };
    let path = Path::new(folder).join("bench.sock");
    match action.as_str() {
        "serve" => serve(side, &path),
        "call" => answer(connect(side, &path)?),
        _ => Err(format!("{action} is neither serve nor call").into()),
    }
}

fn serve(side: &str, path: &Path) -> Result<(), Failed> {
    match side {
        "stream" => bare::serve_stream(path),
        "packet" => bare::serve_packet(path, bare::same),
        "rmp" => bare::serve_packet(path, bare::rmp),
        "ours" => ours::serve(),
        "tarpc" => served::serve(path),
        "tonic" => grpc::serve(path),
        "varlink" => varlinked::serve(path),
        _ => Err(format!("there is no side {side}").into()),
    }
}

fn connect(side: &str, path: &Path) -> Result<Box<dyn Caller>, Failed> {
    Ok(match side {
        "stream" => Box::new(bare::Stream::connect(path)?),
        "packet" => Box::new(bare::Packet::connect(path)?),
        "rmp" => Box::new(bare::Rmp::connect(path)?),
        "ours" => Box::new(ours::Ours),
        "tarpc" => Box::new(served::Tarpc::connect(path)?),
        "tonic" => Box::new(grpc::Tonic::connect(path)?),
        "varlink" => Box::new(varlinked::Varlink::connect(path)?),
        _ => return Err(format!("there is no side {side}").into()),
    })
}

fn answer(mut caller: Box<dyn Caller>) -> Result<(), Failed> {
    for _ in 0..50 {
        right(&mut *caller)?;
    }
    say("ready")?;
    let mut data = (0..LARGE).map(|n| n as u8).collect::<Vec<u8>>();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (asked, number) = line.split_once(' ').ok_or("a figure and a number are asked for")?;
        match asked {
            "small" => say(&median(number.parse()?, || right(&mut *caller))?)?,
            "large" => match caller.echo(std::mem::take(&mut data))? {
                None => say("none")?,
                Some(back) => {
                    data = back;
                    say(&median(number.parse()?, || {
                        data = caller.echo(std::mem::take(&mut data))?.unwrap_or_default();
                        (data.len() == LARGE).then_some(()).ok_or("not all came back".into())
                    })?)?
                }
            },
            "run" => {
                let (start, lasts) = (Instant::now(), Duration::from_secs_f64(number.parse()?));
                let mut count = 0_u32;
                while start.elapsed() < lasts {
                    for _ in 0..50 {
                        right(&mut *caller)?;
                    }
                    count += 50;
                }
                say(&(f64::from(count) / start.elapsed().as_secs_f64()).to_string())?;
            }
            _ => return Err(format!("{asked} is not measured").into()),
        }
    }
    Ok(())
}

fn right(caller: &mut dyn Caller) -> Result<(), Failed> {
    caller.login()?.then_some(()).ok_or("a wrong answer".into())
}

fn say(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    out.flush()
}

fn median(times: usize, mut call: impl FnMut() -> Result<(), Failed>) -> Result<String, Failed> {
    let mut taken = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        call()?;
        taken.push(start.elapsed());
    }
    taken.sort();
    let middle = taken.get(times / 2).ok_or("nothing was to be measured")?;
    Ok((middle.as_secs_f64() * 1e6).to_string())
}

/// For the asynchronous peers' servers: one thread where there is one CPU, which saves them hand-overs.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    match std::thread::available_parallelism().map_or(1, |n| n.get()) {
        1 => alone(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    }
}

/// For their callers, which wait for each answer.
pub fn alone() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}
