//! `logs`: what services printed, oldest first, from the files that the supervisor keeps. It need not run.

use super::args::{Cli, Logs};
use super::load::Loaded;
use super::{Done, Failure};
use crate::plan::Dirs;
use crate::supervise::console::Console;
use crate::supervise::logs::parse;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

/// Read from the end of a log at most, for `--tail`.
const BLOCK: u64 = 64 << 10;

struct Log {
    name: String,
    /// Place in the manifest, for its colour.
    number: usize,
    /// How far the file has been read.
    read: u64,
    /// Bytes of a record that is still being written.
    rest: Vec<u8>,
}

pub(super) fn run(cli: &Cli, args: &Logs) -> Done {
    let loaded = Loaded::read(cli)?;
    let dirs = loaded.dirs(cli)?;
    let names: Vec<&str> = loaded.model.services.iter().map(|s| s.name.as_str()).collect();
    if let Some(unknown) = args.services.iter().find(|s| !names.contains(&s.as_str())) {
        return Err(Failure::new(
            2,
            format!("no service is called `{unknown}`; there are: {}", names.join(", ")),
        ));
    }
    let wanted = |name: &str| args.services.is_empty() || args.services.iter().any(|s| s == name);
    let mut logs: Vec<Log> = names
        .iter()
        .enumerate()
        .filter(|(_, name)| wanted(name))
        .map(|(number, name)| Log {
            name: (*name).to_owned(),
            number,
            read: 0,
            rest: Vec::new(),
        })
        .collect();
    let console = Console::new(logs.iter().map(|l| l.name.as_str()));
    // Watched before it is read, so that nothing written in between is missed.
    let watch = if args.follow { Some(watch(&dirs)?) } else { None };
    let mut records = Vec::new();
    for log in &mut logs {
        if let Some(lines) = args.tail {
            log.seek_tail(&dirs, lines)?;
        }
        let index = log.number;
        let mut own = log.fresh(&dirs)?;
        if let Some(lines) = args.tail {
            own.drain(..own.len().saturating_sub(lines));
        }
        records.extend(own.into_iter().map(|record| (record, index)));
    }
    // The time stands first in each record, in a form whose order is that of its bytes.
    records.sort();
    for (record, index) in &records {
        show(&console, *index, names[*index], record);
    }
    let Some(watch) = watch else { return Ok(0) };
    loop {
        watch.read_events().map_err(std::io::Error::from)?;
        for log in &mut logs {
            for record in log.fresh(&dirs)? {
                show(&console, log.number, &log.name, &record);
            }
        }
    }
}

fn watch(dirs: &Dirs) -> Result<Inotify, Failure> {
    let folder = dirs.logs();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(std::io::Error::from)?;
    inotify
        .add_watch(&folder, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)
        .map_err(|e| Failure::failed(format!("watch {}: {e}; has the app ever been up?", folder.display())))?;
    Ok(inotify)
}

fn show(console: &Console, number: usize, name: &str, record: &[u8]) {
    if let Some((_stream, text)) = parse(record) {
        console.line(number, name, text);
    }
}

impl Log {
    fn open(&self, dirs: &Dirs) -> Result<Option<File>, Failure> {
        let path = dirs.log(&self.name);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Failure::failed(format!("read {}: {e}", path.display()))),
        }
    }

    /// Goes back from the end until at least `lines` records lie behind.
    fn seek_tail(&mut self, dirs: &Dirs, lines: usize) -> Result<(), Failure> {
        let Some(mut file) = self.open(dirs)? else {
            return Ok(());
        };
        let end = file.seek(SeekFrom::End(0))?;
        let mut from = end;
        let mut seen = 0;
        let mut block = Vec::new();
        while from > 0 && seen <= lines {
            let start = from.saturating_sub(BLOCK);
            file.seek(SeekFrom::Start(start))?;
            block.clear();
            (&file).take(from - start).read_to_end(&mut block)?;
            for (at, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
                seen += 1;
                if seen > lines {
                    self.read = start + at as u64 + 1;
                    return Ok(());
                }
            }
            from = start;
        }
        self.read = 0;
        Ok(())
    }

    /// The whole records that were written since.
    fn fresh(&mut self, dirs: &Dirs) -> Result<Vec<Vec<u8>>, Failure> {
        let Some(mut file) = self.open(dirs)? else {
            return Ok(Vec::new());
        };
        if file.metadata()?.len() < self.read {
            // It was begun anew.
            self.read = 0;
            self.rest.clear();
        }
        file.seek(SeekFrom::Start(self.read))?;
        self.read += file.read_to_end(&mut self.rest)? as u64;
        let mut out = Vec::new();
        while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
            let mut record: Vec<u8> = self.rest.drain(..=end).collect();
            record.pop();
            out.push(record);
        }
        Ok(out)
    }
}
