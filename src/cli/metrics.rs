//! `metrics`: what the metrics socket says, for those who have no HTTP client at hand.

use super::args::{Cli, Metrics};
use super::load;
use super::{Done, Failure};
use crate::supervise::client;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

pub(super) fn run(cli: &Cli, args: &Metrics) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    if args.socket {
        outln!("{}", dirs.metrics().display());
        return Ok(0);
    }
    let mut socket = UnixStream::from(client::metrics(&dirs, &loaded.model.app)?);
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: pysecure\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let Some((_, body)) = answer.split_once("\r\n\r\n") else {
        return Err(Failure::failed("the supervisor's answer is cut off"));
    };
    print!("{}", crate::plain::lines(body));
    Ok(0)
}
