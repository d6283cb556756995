//! `stats`: what services use, once or again and again.

use super::args::{Cli, Stats};
use super::load;
use super::{Done, Failure, terminal};
use crate::plain;
use crate::supervise::client::Client;
use crate::supervise::figures::FunctionUsage;
use crate::supervise::usage::ServiceUsage;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Between two looks at the services.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) fn run(cli: &Cli, args: &Stats) -> Done {
    let loaded = load::read(cli)?;
    let dirs = loaded.dirs()?;
    let mut client = Client::connect(&dirs, &loaded.model.app)?;
    let mut sampler = Sampler::new(client.stats()?);
    let wanted = |name: &str| args.services.is_empty() || args.services.iter().any(|s| s == name);
    let live = !args.json && !args.no_stream && std::io::stdout().is_terminal();
    loop {
        // The first look has nothing to compare with.
        std::thread::sleep(if live { PAUSE } else { PAUSE / 4 });
        let mut rows = sampler.next(client.stats()?);
        rows.retain(|row| wanted(&row.usage.service));
        if args.json {
            outln!(
                "{}",
                crate::plain::json(&serde_json::to_string_pretty(&rows).map_err(Failure::failed)?)
            );
            return Ok(0);
        }
        let mut text = table(&rows);
        if rows.iter().any(|row| row.usage.functions.iter().any(is_told)) {
            text += &format!("\n\n{}", functions(&rows));
        }
        if !live {
            outln!("{text}");
            return Ok(0);
        }
        // Home, and each line overwritten, then the rest away: nothing flickers.
        let text = plain::lines(&text).replace('\n', "\x1b[K\n");
        print!("\x1b[H{text}\x1b[K\n\x1b[J");
        std::io::stdout().flush()?;
    }
}

/// A service's figures, and how busy it was since the look before.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Row {
    #[serde(flatten)]
    pub usage: ServiceUsage,
    /// Of one core.
    pub cpu_percent: f64,
}

pub(super) struct Sampler {
    before: Vec<ServiceUsage>,
    at: Instant,
}

impl Sampler {
    pub(super) fn new(first: Vec<ServiceUsage>) -> Sampler {
        Sampler {
            before: first,
            at: Instant::now(),
        }
    }

    pub(super) fn next(&mut self, now: Vec<ServiceUsage>) -> Vec<Row> {
        let time = self.at.elapsed().as_micros().max(1) as f64;
        let of = |usage: &ServiceUsage| {
            let before = self.before.iter().find(|b| b.service == usage.service);
            // Less than before: it was started anew.
            before.map_or(0, |b| usage.cpu_usec.saturating_sub(b.cpu_usec))
        };
        let rows = now
            .iter()
            .map(|usage| Row {
                cpu_percent: (of(usage) as f64 / time * 1000.0).round() / 10.0,
                usage: usage.clone(),
            })
            .collect();
        self.before = now;
        self.at = Instant::now();
        rows
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = terminal::table(["SERVICE", "STATE", "CPU", "MEMORY", "PIDS", "READ", "WRITTEN"]);
    for row in rows {
        let used = &row.usage;
        table.add_row([
            used.service.clone(),
            plain::line(&used.state).into_owned(),
            format!("{:.1}%", row.cpu_percent),
            bytes(used.memory_bytes),
            used.pids.to_string(),
            bytes(used.io_read_bytes),
            bytes(used.io_write_bytes),
        ]);
    }
    table.to_string()
}

/// What is no function is of interest once it was asked for.
fn is_told(of: &FunctionUsage) -> bool {
    !of.function.is_empty() || of.denied > 0
}

fn functions(rows: &[Row]) -> String {
    let mut table = terminal::table(["SERVICE", "FUNCTION", "CALLS", "ERRORS", "DENIED", "MEAN", "P50", "P99"]);
    for row in rows {
        for of in row.usage.functions.iter().filter(|f| is_told(f)) {
            let name = match of.function.as_str() {
                "" => "(no such)",
                name => name,
            };
            table.add_row([
                row.usage.service.clone(),
                plain::line(name).into_owned(),
                of.calls.to_string(),
                of.errors.to_string(),
                of.denied.to_string(),
                time(of.mean_seconds),
                time(of.p50_seconds),
                time(of.p99_seconds),
            ]);
        }
    }
    table.to_string()
}

/// A time that may be short, three digits of it.
fn time(seconds: Option<f64>) -> String {
    let Some(seconds) = seconds else { return "-".into() };
    let (value, unit) = match seconds {
        s if s >= 1.0 => (s, "s"),
        s if s >= 1e-3 => (s * 1e3, "ms"),
        s => (s * 1e6, "µs"),
    };
    match value {
        v if v >= 100.0 => format!("{v:.0} {unit}"),
        v if v >= 10.0 => format!("{v:.1} {unit}"),
        v => format!("{v:.2} {unit}"),
    }
}

/// As people read it: three digits and a unit of 1,024.
pub(super) fn bytes(number: u64) -> String {
    let mut value = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" || value >= 100.0 {
                format!("{value:.0} {unit}")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}
