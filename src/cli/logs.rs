//! `logs`: what services printed, oldest first, from the files that the supervisor keeps. It need not run.

use super::args::{Cli, Logs};
use super::load;
use super::{Done, Failure};
use crate::host::Dirs;
use crate::supervise::console::Lines;
use crate::supervise::history::{History, Line};
use crate::supervise::logs::stamp;
use crate::values::Sink;
use jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::collections::VecDeque;
use std::io::{BufWriter, Stdout, Write};

/// Lines after which services that had none are asked again.
const ROUND: usize = 4096;

struct Log {
    name: String,
    /// Place in the manifest, for its colour.
    number: usize,
    history: History,
    /// Lines that were read and not yet shown.
    ready: VecDeque<Line>,
    /// It had no more when it was last asked.
    dry: bool,
}

/// What of a log is wanted.
struct Wanted {
    since: Option<String>,
    until: Option<String>,
}

pub(super) fn run(cli: &Cli, args: &Logs) -> Done {
    let now = Timestamp::now();
    let time = |text: &Option<String>| text.as_deref().map(|t| moment(t, now)).transpose();
    let wanted = Wanted {
        since: time(&args.since)?.map(stamp),
        until: time(&args.until)?.map(stamp),
    };
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let services = &loaded.model.services;
    if let Some(unknown) = args.services.iter().find(|s| loaded.model.service(s).is_none()) {
        let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
        return Err(Failure::new(
            2,
            format!("no service is called `{unknown}`; there are: {}", names.join(", ")),
        ));
    }
    // Watched before it is read, so that nothing written in between is missed.
    let watch = if args.follow { Some(watch(&dirs)?) } else { None };
    let mut logs = Vec::new();
    for (number, service) in services.iter().enumerate() {
        if !args.services.is_empty() && !args.services.contains(&service.name) {
            continue;
        }
        say_other_sink(&loaded.model.app, &service.name, service.logs.sink);
        logs.push(open(&dirs, &service.name, number, args, &wanted)?);
    }
    let mut printer = Printer::new(args, &logs);
    loop {
        printer.show(&mut logs, &wanted)?;
        let Some(watch) = &watch else { return Ok(0) };
        if !more_came(watch, &mut logs)? {
            return Ok(0);
        }
    }
}

/// Where else a service's lines are, if not in files.
fn say_other_sink(app: &str, service: &str, sink: Sink) {
    match sink {
        Sink::File => {}
        Sink::Journald => errln!(
            "note: lines of `{service}` are in the journal: journalctl PYSECURE_APP={app} PYSECURE_SERVICE={service}"
        ),
        Sink::Syslog => errln!("note: lines of `{service}` are in the system's log, under {app}/{service}"),
        Sink::None => errln!("note: lines of `{service}` are not kept; its sink is \"none\""),
    }
}

/// A service's log, at the first line that is wanted.
fn open(dirs: &Dirs, service: &str, number: usize, args: &Logs, wanted: &Wanted) -> Result<Log, Failure> {
    let path = dirs.log(service);
    let unreadable = |e: std::io::Error| Failure::failed(format!("read {}: {e}", path.display()));
    let mut history = History::open(path.clone(), args.follow).map_err(unreadable)?;
    if let Some(since) = &wanted.since {
        history.skip_before(since).map_err(unreadable)?;
    }
    let mut ready = VecDeque::new();
    match args.tail {
        None => {}
        Some(lines) if wanted.until.is_none() => history.skip_to_last(lines).map_err(unreadable)?,
        Some(lines) => {
            // The last before that time, which may be anywhere.
            while let Some(line) = history.next_line()? {
                if wanted.has(&line) {
                    ready.push_back(line);
                    ready.drain(..ready.len().saturating_sub(lines));
                }
            }
        }
    }
    Ok(Log {
        name: service.to_owned(),
        number,
        history,
        ready,
        dry: false,
    })
}

/// Waits until something was written; `false` if nothing can come any more.
fn more_came(watch: &Inotify, logs: &mut [Log]) -> Result<bool, Failure> {
    for event in watch.read_events().map_err(std::io::Error::from)? {
        if event.mask.contains(AddWatchFlags::IN_IGNORED) {
            // The folder itself was deleted.
            return Ok(false);
        }
        let name = event.name.as_ref().and_then(|n| n.to_str()?.strip_suffix(".log"));
        match name.and_then(|name| logs.iter_mut().find(|log| log.name == name)) {
            Some(log) => log.dry = false,
            // A file that was put aside, or more has happened than could be told.
            None => logs.iter_mut().for_each(|log| log.dry = false),
        }
    }
    Ok(true)
}

/// Lines on standard output, as they were asked for.
struct Printer<'a> {
    args: &'a Logs,
    lines: Lines,
    out: BufWriter<Stdout>,
    text: Vec<u8>,
}

impl<'a> Printer<'a> {
    fn new(args: &'a Logs, logs: &[Log]) -> Printer<'a> {
        Printer {
            args,
            lines: Lines::new(logs.iter().map(|l| l.name.as_str())),
            out: BufWriter::with_capacity(64 << 10, std::io::stdout()),
            text: Vec::new(),
        }
    }

    /// All that there is now, the earliest first.
    fn show(&mut self, logs: &mut [Log], wanted: &Wanted) -> Result<(), Failure> {
        let mut shown = 0;
        while let Some(n) = earliest(logs, wanted)? {
            let log = &mut logs[n];
            let Some(line) = log.ready.pop_front() else { continue };
            self.line(log, &line)?;
            if log.history.take_gap() {
                self.out.flush()?;
                errln!(
                    "note: lines of `{}` may be missing here: files were put aside and deleted while it was read; \
                     raise max_files or max_size",
                    log.name
                );
            }
            shown += 1;
            if shown % ROUND == 0 {
                logs.iter_mut().for_each(|log| log.dry = false);
            }
        }
        Ok(self.out.flush()?)
    }

    fn line(&mut self, log: &Log, line: &Line) -> Result<(), Failure> {
        self.text.clear();
        if self.args.json {
            to_json(log, line, &mut self.text)?;
        } else {
            let time = self.args.timestamps.then_some(line.time.as_str());
            self.lines
                .write(log.number, &log.name, time, &line.text, &mut self.text);
        }
        Ok(self.out.write_all(&self.text)?)
    }
}

/// Which log has the line that comes first.
fn earliest(logs: &mut [Log], wanted: &Wanted) -> Result<Option<usize>, Failure> {
    let mut first: Option<usize> = None;
    for n in 0..logs.len() {
        let log = &mut logs[n];
        while log.ready.is_empty() && !log.dry {
            match log.history.next_line()? {
                Some(line) if wanted.has(&line) => log.ready.push_back(line),
                Some(_) => {}
                None => log.dry = true,
            }
        }
        let time = |n: usize| logs[n].ready.front().map(|line| line.time.as_str());
        if time(n).is_some() && first.is_none_or(|first| time(n) < time(first)) {
            first = Some(n);
        }
    }
    Ok(first)
}

impl Wanted {
    fn has(&self, line: &Line) -> bool {
        self.since.as_ref().is_none_or(|since| line.time >= *since)
            && self.until.as_ref().is_none_or(|until| line.time < *until)
    }
}

fn to_json(log: &Log, line: &Line, out: &mut Vec<u8>) -> Result<(), Failure> {
    #[derive(serde::Serialize)]
    struct Shown<'a> {
        time: &'a str,
        service: &'a str,
        stream: &'a str,
        line: &'a str,
    }
    let shown = Shown {
        time: &line.time,
        service: &log.name,
        stream: line.stream,
        line: &String::from_utf8_lossy(&line.text),
    };
    let text = serde_json::to_string(&shown).map_err(std::io::Error::from)?;
    out.extend_from_slice(crate::plain::json(&text).as_bytes());
    out.push(b'\n');
    Ok(())
}

/// RFC 3339; a date, or date and time, here; or so long ago.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp, Failure> {
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    if let Ok(local) = text.parse::<jiff::civil::DateTime>()
        && let Ok(time) = local.to_zoned(jiff::tz::TimeZone::system())
    {
        return Ok(time.timestamp());
    }
    let ago = text.parse::<jiff::SignedDuration>().ok();
    ago.and_then(|ago| now.checked_sub(ago.abs()).ok()).ok_or_else(|| {
        Failure::new(
            2,
            format!("`{text}` is no time; write 2026-01-31T12:00:00Z, \"2026-01-31 12:00\" or 10m (ago)"),
        )
    })
}

fn watch(dirs: &Dirs) -> Result<Inotify, Failure> {
    let folder = dirs.logs();
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).map_err(std::io::Error::from)?;
    inotify
        .add_watch(
            &folder,
            AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE,
        )
        .map_err(|e| Failure::failed(format!("watch {}: {e}; has the app ever been up?", folder.display())))?;
    Ok(inotify)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_as_people_write_them() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().unwrap();
        let of = |text: &str| moment(text, now).map(stamp).map_err(|f| f.code);
        assert_eq!(of("10m"), Ok("2026-03-01T11:50:00.000000Z".into()));
        assert_eq!(of("1h 30m ago"), Ok("2026-03-01T10:30:00.000000Z".into()));
        assert_eq!(
            of("2026-03-01T12:00:00.5+02:00"),
            Ok("2026-03-01T10:00:00.500000Z".into())
        );
        assert!(of("2026-02-28").is_ok() && of("2026-02-28 10:00").is_ok());
        for wrong in ["", "yesterday", "10 parsecs", "99999999999999h"] {
            assert_eq!(of(wrong), Err(2), "{wrong}");
        }
    }
}
