//! What the app's services use and how they are, as text that Prometheus reads, over HTTP on a unix socket.
//! Follows the Prometheus text exposition format, version 0.0.4.

use super::figures::{self, FunctionUsage};
use super::usage::ServiceUsage;
use crate::supervise::control::protocol::AppStatus;
use std::fmt::Write;

/// A metric: name, type, help, and the value for a service.
type Metric = (&'static str, &'static str, &'static str, fn(&ServiceUsage) -> String);

const METRICS: [Metric; 7] = [
    (
        "pysecure_service_cpu_seconds_total",
        "counter",
        "CPU time since its process was started.",
        |u| format!("{}.{:06}", u.cpu_usec / 1_000_000, u.cpu_usec % 1_000_000),
    ),
    ("pysecure_service_memory_bytes", "gauge", "Memory in use.", |u| {
        u.memory_bytes.to_string()
    }),
    (
        "pysecure_service_pids",
        "gauge",
        "Processes and, with limits, threads.",
        |u| u.pids.to_string(),
    ),
    (
        "pysecure_service_io_read_bytes_total",
        "counter",
        "Bytes read from storage.",
        |u| u.io_read_bytes.to_string(),
    ),
    (
        "pysecure_service_io_write_bytes_total",
        "counter",
        "Bytes written to storage.",
        |u| u.io_write_bytes.to_string(),
    ),
    (
        "pysecure_service_restarts_total",
        "counter",
        "Restarts that followed from its restart policy.",
        |u| u.restarts.to_string(),
    ),
    ("pysecure_service_up", "gauge", "1 while it runs and is ready.", |u| {
        u8::from(u.state == "running").to_string()
    }),
];

/// The whole answer, head and body.
pub(in crate::supervise) fn answer(status: &AppStatus, usage: &[ServiceUsage]) -> Vec<u8> {
    let body = text(status, usage);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

pub(in crate::supervise) fn refusal() -> Vec<u8> {
    let body = "ask for GET /metrics\n";
    format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// A counter of functions: name, help, and the value.
type FunctionMetric = (&'static str, &'static str, fn(&FunctionUsage) -> u64);

const FUNCTION_METRICS: [FunctionMetric; 3] = [
    (
        "pysecure_rpc_calls_total",
        "Calls of a function that have ended.",
        |f| f.calls,
    ),
    (
        "pysecure_rpc_errors_total",
        "Calls of a function that ended with an exception.",
        |f| f.errors,
    ),
    (
        "pysecure_rpc_denied_total",
        "Refusals to callers without a grant; without a function's name, of what is no function.",
        |f| f.denied,
    ),
];

/// Names of apps and services need no escaping: the manifest allows letters, digits, `_` and `-` in them.
fn text(status: &AppStatus, usage: &[ServiceUsage]) -> String {
    let mut out = String::new();
    let app = &status.app;
    for (name, kind, help, value) in METRICS {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        for of in usage {
            let _ = writeln!(out, "{name}{{app=\"{app}\",service=\"{}\"}} {}", of.service, value(of));
        }
    }
    let name = "pysecure_service_healthy";
    let _ = writeln!(
        out,
        "# HELP {name} 1 while its health probe is answered well.\n# TYPE {name} gauge"
    );
    for of in &status.services {
        if let Some(health) = &of.health {
            let well = u8::from(health == "healthy");
            let _ = writeln!(out, "{name}{{app=\"{app}\",service=\"{}\"}} {well}", of.service);
        }
    }
    let name = "pysecure_denied_total";
    let _ = writeln!(
        out,
        "# HELP {name} Connections of other users that were turned away.\n# TYPE {name} counter\n{name}{{app=\"{app}\"}} {}",
        status.denied
    );
    functions(&mut out, app, usage);
    out
}

/// What came of calls, as far as services say.
fn functions(out: &mut String, app: &str, usage: &[ServiceUsage]) {
    let all: Vec<(String, &FunctionUsage)> = usage
        .iter()
        .flat_map(|of| of.functions.iter().map(move |f| (of, f)))
        .map(|(of, f)| {
            let function = escaped(&f.function);
            (
                format!("app=\"{app}\",service=\"{}\",function=\"{function}\"", of.service),
                f,
            )
        })
        .collect();
    if all.is_empty() {
        return;
    }
    // What is no function is refused, never called.
    let called = |f: &FunctionUsage| !f.function.is_empty();
    for (name, help, value) in FUNCTION_METRICS {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter");
        for (labels, f) in all
            .iter()
            .filter(|(_, f)| called(f) || name == "pysecure_rpc_denied_total")
        {
            let _ = writeln!(out, "{name}{{{labels}}} {}", value(f));
        }
    }
    let name = "pysecure_rpc_duration_seconds";
    let _ = writeln!(out, "# HELP {name} How long calls took.\n# TYPE {name} histogram");
    for (labels, f) in all.iter().filter(|(_, f)| called(f)) {
        let mut count = 0u64;
        for (at, more) in f.buckets.iter().enumerate() {
            count = count.saturating_add(*more);
            let bound = figures::bound(at).map_or_else(|| "+Inf".to_owned(), |b| b.to_string());
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        }
        let (seconds, rest) = (f.nanoseconds / 1_000_000_000, f.nanoseconds % 1_000_000_000);
        let _ = writeln!(
            out,
            "{name}_sum{{{labels}}} {seconds}.{rest:09}\n{name}_count{{{labels}}} {count}"
        );
    }
}

/// A label's value as the text format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_as_a_histogram() {
        let mut buckets = vec![0; figures::BUCKETS];
        (buckets[0], buckets[7], buckets[27]) = (1, 2, 1);
        let function = FunctionUsage {
            function: "a\"\\\n{}".into(),
            calls: 4,
            errors: 1,
            denied: 2,
            nanoseconds: 70_000_000_001,
            buckets,
            ..FunctionUsage::default()
        };
        let nothing = FunctionUsage {
            denied: 3,
            ..FunctionUsage::default()
        };
        let usage = [ServiceUsage {
            service: "s".into(),
            functions: vec![nothing, function],
            ..ServiceUsage::default()
        }];
        let mut out = String::new();
        functions(&mut out, "app", &usage);
        let labels = r#"app="app",service="s",function="a\"\\\n{}""#;
        for line in [
            format!("pysecure_rpc_calls_total{{{labels}}} 4"),
            format!("pysecure_rpc_errors_total{{{labels}}} 1"),
            format!("pysecure_rpc_denied_total{{{labels}}} 2"),
            "pysecure_rpc_denied_total{app=\"app\",service=\"s\",function=\"\"} 3".to_owned(),
            format!("pysecure_rpc_duration_seconds_bucket{{{labels},le=\"0.000001\"}} 1"),
            format!("pysecure_rpc_duration_seconds_bucket{{{labels},le=\"0.000064\"}} 1"),
            format!("pysecure_rpc_duration_seconds_bucket{{{labels},le=\"0.000128\"}} 3"),
            format!("pysecure_rpc_duration_seconds_bucket{{{labels},le=\"67.108864\"}} 3"),
            format!("pysecure_rpc_duration_seconds_bucket{{{labels},le=\"+Inf\"}} 4"),
            format!("pysecure_rpc_duration_seconds_sum{{{labels}}} 70.000000001"),
            format!("pysecure_rpc_duration_seconds_count{{{labels}}} 4"),
        ] {
            assert!(out.lines().any(|l| l == line), "no line is {line}:\n{out}");
        }
        assert_eq!(out.lines().count(), 4 * 2 + 1 + 3 + figures::BUCKETS + 2);
        out.clear();
        functions(&mut out, "app", &[ServiceUsage::default()]);
        assert_eq!(out, "");
    }
}
