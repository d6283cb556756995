//! A small call, beside the same bytes on a bare stream and on a bare SOCK_SEQPACKET socket; and a mebibyte there and back,
//! beside a bare stream. Both ends are pinned, to one CPU and then to one each, and all take turns in one run.
//!
//!     cargo bench -p pysecure-rpc

use pysecure_rpc::{Bytes, Result, rpc};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

#[rpc(run_as = "bench")]
fn login(user: String, password: String) -> Result<bool> {
    Ok(user == "alice" && password == "secret")
}

#[rpc(run_as = "bench")]
fn echo(data: Bytes) -> Result<Bytes> {
    Ok(data)
}

const ROUNDS: usize = 40;
const CALLS: u32 = 1_000;
const LARGE: usize = 1 << 20;
const LARGE_CALLS: u32 = 20;

/// Where this process has told its copy, which is pinned, where the ends are.
const PLACED: &str = "PYSECURE_BENCH_PLACED";

/// About what a call of `login` and its answer are.
const ASKED: &[u8] = b"\x95\x02\x01\xa5login\x92\xa5alice\xa6secret\x80";
const ANSWERED: &[u8] = b"\x93\x03\x01\xc3";

fn main() {
    let serves = std::env::args()
        .nth(1)
        .filter(|a| ["rpc", "raw", "stream", "short"].contains(&a.as_str()));
    let folder = std::env::var("PYSECURE_RPC_DIR").unwrap_or_default();
    match serves.as_deref() {
        Some("rpc") => return pysecure_rpc::start_service("bench").unwrap(),
        Some("raw") => return raw(Path::new(&folder)),
        Some("stream") => return stream(&Path::new(&folder).join("stream.sock"), LARGE, None),
        Some("short") => return stream(&Path::new(&folder).join("short.sock"), ASKED.len(), Some(ANSWERED)),
        _ => {}
    }
    let program = std::env::current_exe().unwrap();
    let Ok(placed) = std::env::var(PLACED) else {
        for placed in ["both ends on one CPU", "each end on a CPU of its own"] {
            let folder = tempfile::tempdir().unwrap();
            let status = Command::new("taskset")
                .args(["-c", "0"])
                .arg(&program)
                .env(PLACED, placed)
                .env("PYSECURE_RPC_DIR", folder.path())
                .status()
                .expect("install `util-linux`: both ends are pinned by taskset(1)");
            assert!(status.success(), "{status}");
        }
        return;
    };
    println!("{placed}:");
    let cpu = if placed.contains("one CPU") { "0" } else { "1" };
    let folder = std::env::var("PYSECURE_RPC_DIR").unwrap();
    let folder = Path::new(&folder);
    let _servers = ["rpc", "raw", "stream", "short"].map(|kind| {
        let mut server = Command::new("taskset");
        Server(server.args(["-c", cpu]).arg(&program).arg(kind).spawn().unwrap())
    });
    for name in ["bench.sock", "raw.sock", "stream.sock", "short.sock"] {
        while UnixStream::connect(folder.join(name)).is_err_and(|e| e.raw_os_error() != Some(91)) {
            std::thread::yield_now();
        }
    }
    let socket = seqpacket();
    // Between its bind and its listen it refuses.
    while rustix::net::connect(&socket, &SocketAddrUnix::new(folder.join("raw.sock")).unwrap()).is_err() {
        std::thread::yield_now();
    }
    let mut plain = UnixStream::connect(folder.join("stream.sock")).unwrap();
    let data = vec![7_u8; LARGE];
    let mut back = vec![0; LARGE];
    let mut owned = data.clone();
    let mut lines = UnixStream::connect(folder.join("short.sock")).unwrap();
    let [mut bare, mut short, mut called, mut streamed, mut handed] = [const { Vec::new() }; 5];
    for _ in 0..ROUNDS {
        short.push(time(CALLS, || {
            lines.write_all(ASKED).unwrap();
            lines.read_exact(&mut [0; ANSWERED.len()]).unwrap();
        }));
        bare.push(time(CALLS, || {
            rustix::net::send(&socket, ASKED, SendFlags::NOSIGNAL).unwrap();
            let mut buffer = [0; 64];
            assert_eq!(
                rustix::net::recv(&socket, &mut buffer, RecvFlags::empty()).unwrap().0,
                ANSWERED.len()
            );
        }));
        called.push(time(CALLS, || assert!(login("alice".into(), "secret".into()).unwrap())));
        streamed.push(time(LARGE_CALLS, || {
            plain.write_all(&data).unwrap();
            plain.read_exact(&mut back).unwrap();
        }));
        handed.push(time(LARGE_CALLS, || {
            owned = echo(Bytes(std::mem::take(&mut owned))).unwrap().0;
            assert_eq!(owned.len(), LARGE)
        }));
    }
    let (bare, short, called) = (median(bare), median(short), median(called));
    println!(
        "  small call, µs: bare stream {short:.2}, bare SOCK_SEQPACKET {bare:.2}, pysecure-rpc {called:.2}, ratio to the stream {:.2}",
        called / short
    );
    let (streamed, handed) = (median(streamed), median(handed));
    println!(
        "  1 MiB there and back, µs: bare stream {streamed:.0}, pysecure-rpc {handed:.0}, ratio {:.2}",
        handed / streamed
    );
}

/// Ends with the benchmark, however that ends.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn time(calls: u32, mut call: impl FnMut()) -> f64 {
    let start = Instant::now();
    (0..calls).for_each(|_| call());
    start.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn seqpacket() -> std::os::fd::OwnedFd {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

fn raw(folder: &Path) {
    let socket = seqpacket();
    rustix::net::bind(&socket, &SocketAddrUnix::new(folder.join("raw.sock")).unwrap()).unwrap();
    rustix::net::listen(&socket, 16).unwrap();
    loop {
        let one = rustix::net::accept(&socket).unwrap();
        let mut buffer = [0; 65_536];
        while rustix::net::recv(&one, &mut buffer, RecvFlags::empty()).is_ok_and(|(len, _)| len > 0) {
            rustix::net::send(&one, ANSWERED, SendFlags::NOSIGNAL).unwrap();
        }
    }
}

/// Reads so many bytes, and answers with them or with others.
fn stream(path: &Path, asked: usize, answer: Option<&[u8]>) {
    let listener = UnixListener::bind(path).unwrap();
    let mut buffer = vec![0; asked];
    for one in listener.incoming() {
        let mut one = one.unwrap();
        while one.read_exact(&mut buffer).is_ok() {
            one.write_all(answer.unwrap_or(&buffer)).unwrap();
        }
    }
}
