//! Bytes on sockets, with a thread a connection: what the kernel takes for itself; and rmp-serde on the same, which is what is
//! least to be added.

use crate::{Caller, Failed, LARGE, PASSWORD, USER, login};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

/// As long as a call of `login` and its answer are in our protocol.
const ASKED: &[u8] = b"\x96\x02\x01\xa5login\x92\xa5alice\xa6secret\x80\xcd\xea\x60";
const ANSWERED: &[u8] = b"\x93\x03\x01\xc3";
const LONGEST: usize = 65_536;

/// A connection begins with how long its questions and its answers are: 8 bytes. Answers as long as questions are the questions.
pub fn serve_stream(path: &Path) -> Result<(), Failed> {
    for one in UnixListener::bind(path)?.incoming() {
        let mut one = one?;
        thread::spawn(move || -> std::io::Result<()> {
            let (mut asked, mut answered) = ([0; 4], [0; 4]);
            one.read_exact(&mut asked)?;
            one.read_exact(&mut answered)?;
            let mut question = vec![0; u32::from_le_bytes(asked) as usize];
            let answer = (asked != answered).then(|| vec![1; u32::from_le_bytes(answered) as usize]);
            loop {
                one.read_exact(&mut question)?;
                one.write_all(answer.as_ref().unwrap_or(&question))?;
            }
        });
    }
    Ok(())
}

pub struct Stream {
    path: PathBuf,
    small: UnixStream,
    large: Option<UnixStream>,
}

impl Stream {
    pub fn connect(path: &Path) -> Result<Self, Failed> {
        let (path, small) = (path.to_owned(), open(path, ASKED.len(), ANSWERED.len())?);
        Ok(Self {
            path,
            small,
            large: None,
        })
    }
}

fn open(path: &Path, asked: usize, answered: usize) -> Result<UnixStream, Failed> {
    let mut stream = UnixStream::connect(path)?;
    stream.write_all(&u32::try_from(asked)?.to_le_bytes())?;
    stream.write_all(&u32::try_from(answered)?.to_le_bytes())?;
    Ok(stream)
}

impl Caller for Stream {
    fn login(&mut self) -> Result<bool, Failed> {
        let mut answer = [0; ANSWERED.len()];
        self.small.write_all(ASKED)?;
        self.small.read_exact(&mut answer)?;
        Ok(true)
    }

    fn echo(&mut self, mut data: Vec<u8>) -> Result<Option<Vec<u8>>, Failed> {
        let large = match &mut self.large {
            Some(large) => large,
            none => none.insert(open(&self.path, LARGE, LARGE)?),
        };
        large.write_all(&data)?;
        large.read_exact(&mut data)?;
        Ok(Some(data))
    }
}

type Answer = fn(&[u8], &mut Vec<u8>) -> Result<(), Failed>;

pub fn serve_packet(path: &Path, answer: Answer) -> Result<(), Failed> {
    let listener = socket()?;
    rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&listener, 128)?;
    loop {
        let one = rustix::net::accept(&listener)?;
        thread::spawn(move || {
            let (mut asked, mut answered) = (vec![0; LONGEST], Vec::new());
            while let Ok((length @ 1.., _)) = rustix::net::recv(&one, &mut asked[..], RecvFlags::empty()) {
                answered.clear();
                if answer(&asked[..length], &mut answered).is_err()
                    || rustix::net::send(&one, &answered, SendFlags::NOSIGNAL).is_err()
                {
                    return;
                }
            }
        });
    }
}

pub fn same(_: &[u8], answered: &mut Vec<u8>) -> Result<(), Failed> {
    answered.extend_from_slice(ANSWERED);
    Ok(())
}

fn socket() -> rustix::io::Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

pub struct Packet {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Packet {
    pub fn connect(path: &Path) -> Result<Self, Failed> {
        let socket = socket()?;
        rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
        let buffer = vec![0; LONGEST];
        Ok(Self { socket, buffer })
    }

    fn ask(&mut self, asked: &[u8]) -> Result<&[u8], Failed> {
        rustix::net::send(&self.socket, asked, SendFlags::NOSIGNAL)?;
        let (length, _) = rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty())?;
        Ok(&self.buffer[..length])
    }
}

impl Caller for Packet {
    fn login(&mut self) -> Result<bool, Failed> {
        Ok(self.ask(ASKED)?.len() == ANSWERED.len())
    }
}

pub fn rmp(asked: &[u8], answered: &mut Vec<u8>) -> Result<(), Failed> {
    let (id, function, (user, password)): (u64, &str, (&str, &str)) = rmp_serde::from_slice(asked)?;
    if function != "login" {
        return Err(format!("there is no function {function}").into());
    }
    Ok(rmp_serde::encode::write(answered, &(id, login(user, password)))?)
}

pub struct Rmp {
    packet: Packet,
    asked: Vec<u8>,
    id: u64,
}

impl Rmp {
    pub fn connect(path: &Path) -> Result<Self, Failed> {
        let (packet, asked, id) = (Packet::connect(path)?, Vec::new(), 0);
        Ok(Self { packet, asked, id })
    }
}

impl Caller for Rmp {
    fn login(&mut self) -> Result<bool, Failed> {
        self.id += 1;
        self.asked.clear();
        rmp_serde::encode::write(&mut self.asked, &(self.id, "login", (USER, PASSWORD)))?;
        let (id, right): (u64, bool) = rmp_serde::from_slice(self.packet.ask(&self.asked)?)?;
        Ok(right && id == self.id)
    }
}
