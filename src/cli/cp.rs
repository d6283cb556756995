//! `cp`: files into a service and out of it. What is inside is read and written by a process that is the service in
//! all that it may do; what is outside, by this one, as the user.
//!
//! While the app is up the supervisor makes that process. Else this one does, beside a service of which all is there
//! but its program.

use super::args::{Cli, Cp};
use super::load::{self, ready, with_privilege};
use super::{Done, Failure};
use crate::app::Loaded;
use crate::app::run::service_of;
use crate::host::Dirs;
use crate::launch::Descriptors;
use crate::launch::join::{Copy, Way, told};
use crate::oneoff;
use crate::plan::OneOff;
use crate::plan::lock::Claim;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::protocol::Request;
use crate::transfer::{self, Modes, TransferError};
use nix::sys::signal::{SigSet, Signal};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;
use std::ffi::OsStr;
use std::fs::File;
use std::io::BufWriter;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// What the arguments ask for.
struct Wanted {
    service: String,
    copy: Copy,
    /// The path on this side.
    here: PathBuf,
}

pub(super) fn run(cli: &Cli, args: &Cp) -> Done {
    let wanted = understand(args)?;
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    // Whoever reads no more of what is copied has said why; that is told, and is no reason to die of.
    SigSet::from(Signal::SIGPIPE)
        .thread_block()
        .map_err(std::io::Error::from)?;
    match Client::connect(&dirs, &loaded.model.app) {
        Ok(client) => transfer_by(&client, &wanted, |stdio| {
            let request = Request::Copy {
                service: wanted.service.clone(),
                copy: wanted.copy.clone(),
            };
            Ok(client.send(&request, &stdio)?)
        }),
        Err(ClientError::NotUp { .. }) => {
            if let Some(code) = with_privilege()? {
                return Ok(code);
            }
            alone(&loaded.checked()?, &dirs, &wanted)
        }
        Err(e) => Err(e.into()),
    }
}

fn understand(args: &Cp) -> Result<Wanted, Failure> {
    let bad = |why: &str| Failure::new(2, format!("cp {} {}: {why}", args.from, args.to));
    let (way, inside, here) = match (of_service(&args.from), of_service(&args.to)) {
        (Some(inside), None) => (Way::Out, inside, &args.to),
        (None, Some(inside)) => (Way::In, inside, &args.from),
        (Some(_), Some(_)) => {
            return Err(bad(
                "both are services'; copy out of the one first, then into the other",
            ));
        }
        (None, None) => {
            return Err(bad("one of FROM and TO must be SERVICE:/PATH"));
        }
    };
    let (service, path) = inside;
    if !path.starts_with('/') {
        return Err(bad(&format!(
            "write the path as the service sees it, from the root on: {service}:/{path}"
        )));
    }
    let from = if way == Way::In { here } else { path };
    Ok(Wanted {
        service: service.to_owned(),
        copy: Copy {
            way,
            path: path.into(),
            name: transfer::name_of(Path::new(from)).map(|name| name.to_string_lossy().into_owned()),
        },
        here: here.into(),
    })
}

/// `SERVICE:PATH`. A path of this side with a colon in it is written with a slash before that, such as `./a:b`.
fn of_service(text: &str) -> Option<(&str, &str)> {
    text.split_once(':')
        .filter(|(service, _)| !service.contains('/') && !service.is_empty())
}

/// Has `begin` start the other side with these descriptors, does this side's part, and hears how the other one ended.
fn transfer_by(
    client: &Client,
    wanted: &Wanted,
    begin: impl FnOnce([BorrowedFd<'_>; 3]) -> Result<(), Failure>,
) -> Done {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(std::io::Error::from)?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let stderr = std::io::stderr();
    let name = wanted.copy.name.as_deref().map(OsStr::new);
    let ours = match wanted.copy.way {
        Way::In => {
            begin([read.as_fd(), null.as_fd(), stderr.as_fd()])?;
            drop(read);
            let output = BufWriter::with_capacity(64 << 10, File::from(write));
            transfer::pack(&wanted.here, output, &mut |note| errln!("note: {note}"))
        }
        Way::Out => {
            begin([null.as_fd(), write.as_fd(), stderr.as_fd()])?;
            drop(write);
            transfer::unpack(File::from(read), &wanted.here, name, Modes::Sender)
        }
    };
    let theirs = session(client);
    match (ours, theirs) {
        (Ok(()), Ok(0)) => Ok(0),
        // What went wrong there was said there.
        (Ok(()) | Err(TransferError::Gone), Ok(1)) => Err(Failure::silent(1)),
        // Or there was nobody to say it. What it leaves of the stream is cut off here as well, which is no news then.
        (Ok(()) | Err(TransferError::Gone | TransferError::Stream(_)), Ok(code @ 2..)) => {
            Err(Failure::failed(format!(
                "the copy was cut off, as `{}` ended or was restarted meanwhile (its part ended with code {code}): of a directory, what \
             had been copied is there; a file that had not arrived as a whole is not; copy it again",
                wanted.service
            )))
        }
        (Ok(()) | Err(TransferError::Gone), Err(failure)) => Err(failure),
        (Err(error), _) => Err(Failure::failed(error)),
    }
}

fn session(client: &Client) -> Result<u8, Failure> {
    loop {
        let (kind, number, text, _) = client.session_message()?;
        match kind {
            told::EXITED => return Ok(number as u8),
            told::FAILED => return Err(Failure::new(number as u8, text)),
            _ => {}
        }
    }
}

fn alone(loaded: &Loaded, dirs: &Dirs, wanted: &Wanted) -> Done {
    let claim = Claim::join(dirs)?;
    let plan = ready(loaded, dirs, &claim)?;
    let service = service_of(&plan, &wanted.service)?;
    let mut once = oneoff::OneOff::prepare(&plan, service.one_off(OneOff::Copy))?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let running = once.launch(&Descriptors {
        hold: true,
        ..Descriptors::of([null.as_fd(); 3])
    })?;
    let held = once.held(&running).map_err(Failure::from);
    let spec = once.bundle().spec.clone();
    let done = held.and_then(|()| {
        let (ours, theirs): (OwnedFd, OwnedFd) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
                .map_err(std::io::Error::from)?;
        let client = Client::over(ours, &plan.app);
        transfer_by(&client, wanted, |stdio| {
            once.launcher().copy(running.pid, &spec, stdio, &wanted.copy, &theirs)?;
            drop(theirs);
            Ok(())
        })
    });
    running.abort();
    done
}
