//! What the app's services use and how they are, as text that Prometheus reads, over HTTP on a unix socket.
//! Follows the Prometheus text exposition format, version 0.0.4.

use super::protocol::AppStatus;
use super::usage::ServiceUsage;
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
pub(super) fn answer(status: &AppStatus, usage: &[ServiceUsage]) -> Vec<u8> {
    let body = text(status, usage);
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

pub(super) fn refusal() -> Vec<u8> {
    let body = "ask for GET /metrics\n";
    format!(
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

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
    out
}
