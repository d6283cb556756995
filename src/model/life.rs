//! A service's life as the manifest wants it: what it waits for, when it counts as ready, what is done when it
//! ends. Defaults stand here, once; what only makes sense together is checked together.

use super::build::Names;
use super::{EXTERNAL, ServiceId};
use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::{self, At, Readiness};
use crate::values::{Condition, Question, Restart, ServiceType, Start};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    pub kind: ServiceType,
    /// Names of services that come first.
    pub depends_on: Vec<(String, Condition)>,
    pub start: Start,
    pub ready: Ready,
    pub start_timeout: Duration,
    pub health: Option<Probe>,
    pub watchdog: Option<Duration>,
    pub restart: Restarts,
    /// signal(7), by number.
    pub stop_signal: u8,
    pub stop_timeout: Duration,
    pub reload_signal: u8,
}

/// When a service counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// When its program runs.
    Started,
    /// When it says so; sd_notify(3).
    Notify,
    Probe(Probe),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    pub question: Question,
    pub interval: Duration,
    pub timeout: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    pub when: Restart,
    pub delay: Duration,
    pub max_delay: Duration,
    /// 0: no limit.
    pub limit: u32,
    pub window: Duration,
}

impl Restarts {
    /// The wait before the next restart, when there were `before` already.
    pub fn wait(&self, before: u32) -> Duration {
        let doubled = self.delay.checked_mul(1u32.checked_shl(before).unwrap_or(u32::MAX));
        doubled.unwrap_or(self.max_delay).min(self.max_delay)
    }
}

impl Life {
    /// Has the service to speak sd_notify(3) to its supervisor?
    pub fn notifies(&self) -> bool {
        self.ready == Ready::Notify || self.watchdog.is_some()
    }
}

impl Default for Life {
    fn default() -> Self {
        Life {
            kind: ServiceType::Simple,
            depends_on: Vec::new(),
            start: Start::Auto,
            ready: Ready::Started,
            start_timeout: Duration::from_secs(90),
            health: None,
            watchdog: None,
            restart: Restarts {
                when: Restart::No,
                delay: Duration::from_millis(100),
                max_delay: Duration::from_secs(60),
                limit: 10,
                window: Duration::from_secs(600),
            },
            stop_signal: libc::SIGTERM as u8,
            stop_timeout: Duration::from_secs(10),
            reload_signal: libc::SIGHUP as u8,
        }
    }
}

/// Shorter, and a probe would do nothing but ask.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(10);

pub(super) fn read(name: &At<String>, table: &types::Service, names: &Names, found: &mut Vec<Diagnostic>) -> Life {
    let default = Life::default();
    let value = |at: &Option<At<Duration>>, or: Duration| at.as_ref().map_or(or, |at| at.value);
    let kind = table.kind.as_ref().map(|k| k.value).unwrap_or_default();
    let restart = table.restart.as_ref().map(|r| r.value).unwrap_or_default();
    let start = table.start.as_ref().map(|s| s.value).unwrap_or_default();
    if kind == ServiceType::Oneshot {
        refuse_for_oneshot(name, table, found);
    }
    refuse_pointless(name, table, restart, start == Start::OnDemand, found);
    let ready = match table.ready.as_ref().map(|r| &r.value) {
        None => Ready::Started,
        Some(Readiness::Notify) => Ready::Notify,
        Some(Readiness::Probe(of)) => {
            let span = table.ready.as_ref().map(|r| r.span.clone()).unwrap_or_default();
            probe(of, "ready", span, Duration::from_secs(1), found).map_or(Ready::Started, Ready::Probe)
        }
    };
    let health = table
        .health
        .as_ref()
        .and_then(|of| probe(of, "health", name.span.clone(), Duration::from_secs(30), found));
    Life {
        kind,
        depends_on: depends_on(name, table, names, found),
        start,
        ready,
        start_timeout: value(&table.start_timeout, default.start_timeout),
        health,
        watchdog: table.watchdog.as_ref().map(|w| w.value).filter(|w| !w.is_zero()),
        restart: Restarts {
            when: restart,
            delay: value(&table.restart_delay, default.restart.delay),
            max_delay: value(&table.restart_max_delay, default.restart.max_delay),
            limit: table.restart_limit.as_ref().map_or(default.restart.limit, |l| l.value),
            window: value(&table.restart_window, default.restart.window),
        },
        stop_signal: table.stop_signal.as_ref().map_or(default.stop_signal, |s| s.value),
        stop_timeout: value(&table.stop_timeout, default.stop_timeout),
        reload_signal: table.reload_signal.as_ref().map_or(default.reload_signal, |s| s.value),
    }
}

/// What makes no sense for a service that ends when its work is done.
fn refuse_for_oneshot(name: &At<String>, table: &types::Service, found: &mut Vec<Diagnostic>) {
    let message = format!(
        "`{}` is a oneshot service, which ends when its work is done",
        name.value
    );
    let mut refuse = |span: &Range<usize>, help: &str| {
        found.push(Diagnostic::error(span.clone(), message.as_str()).help(help));
    };
    if let Some(at) = table.restart.as_ref().filter(|r| r.value == Restart::Always) {
        refuse(&at.span, "write restart = \"on-failure\", or leave it out");
    }
    if let Some(at) = &table.ready {
        refuse(
            &at.span,
            "it is awaited by depends_on = { … = \"completed\" }; leave `ready` out",
        );
    }
    if let Some(at) = table.start.as_ref().filter(|s| s.value == Start::OnDemand) {
        refuse(&at.span, "leave `start` out");
    }
}

/// What would have no effect.
fn refuse_pointless(
    name: &At<String>,
    table: &types::Service,
    restart: Restart,
    on_demand: bool,
    found: &mut Vec<Diagnostic>,
) {
    let mut refuse = |span: &Range<usize>, message: String, help: &str| {
        found.push(Diagnostic::error(span.clone(), message).help(help));
    };
    let called = table.callers.as_ref().is_some_and(|c| !c.is_empty());
    if let Some(at) = table
        .start
        .as_ref()
        .filter(|_| on_demand && table.listen.is_empty() && !called)
    {
        refuse(
            &at.span,
            format!("nothing can connect to `{}`, so nothing would start it", name.value),
            "name an address in `listen` or a service in `callers`, or leave `start` out",
        );
    }
    if let Some(at) = table.watchdog.as_ref().filter(|w| w.value.is_zero()) {
        refuse(
            &at.span,
            "a watchdog of no time at all".into(),
            "write, for example, watchdog = \"30s\"",
        );
    }
    // One on demand is started again where it took none of the connections that wait, whatever `restart` says.
    if restart == Restart::No && !on_demand {
        let idle = [&table.restart_delay, &table.restart_max_delay, &table.restart_window];
        let first = idle.into_iter().flatten().map(|at| at.span.clone());
        if let Some(span) = first.chain(table.restart_limit.as_ref().map(|l| l.span.clone())).next() {
            refuse(
                &span,
                format!("`{}` is never restarted, so this says nothing", name.value),
                "write restart = \"on-failure\" or \"always\" as well",
            );
        }
    }
}

fn depends_on(
    name: &At<String>,
    table: &types::Service,
    names: &Names,
    found: &mut Vec<Diagnostic>,
) -> Vec<(String, Condition)> {
    let mut out: Vec<(String, Condition)> = Vec::new();
    for (on, condition) in &table.depends_on {
        if on.value == name.value {
            found.push(
                Diagnostic::error(on.span.clone(), format!("`{}` depends on itself", name.value)).help("take it out"),
            );
        } else if names.service(&on.value).is_none() {
            let message = if on.value == EXTERNAL {
                "the external service is started by something else, so nothing can wait for it".to_owned()
            } else {
                names.undeclared("service", &on.value)
            };
            found.push(Diagnostic::error(on.span.clone(), message).help("correct the name, or take it out"));
        } else if out.iter().any(|(known, _)| *known == on.value) {
            found.push(
                Diagnostic::error(on.span.clone(), format!("`{}` is named twice", on.value)).help("once is enough"),
            );
        } else {
            out.push((on.value.clone(), condition.value));
        }
    }
    out
}

fn probe(
    of: &types::Probe,
    key: &str,
    span: Range<usize>,
    interval: Duration,
    found: &mut Vec<Diagnostic>,
) -> Option<Probe> {
    let given = [
        of.tcp.as_ref().map(|a| a.span.clone()),
        of.unix.as_ref().map(|a| a.span.clone()),
        of.http.as_ref().map(|a| a.span.clone()),
        of.command.as_ref().map(|a| a.span.clone()),
    ];
    let mut given = given.into_iter().flatten();
    match (given.next(), given.next()) {
        (None, _) => {
            found.push(
                Diagnostic::error(span, format!("`{key}` asks nothing"))
                    .help("name one of `tcp`, `unix`, `http` and `command`"),
            );
            return None;
        }
        (Some(first), Some(second)) => {
            found.push(
                Diagnostic::error(second, format!("`{key}` asks two things"))
                    .other(first, "first here")
                    .help("leave one; a `command` can ask several"),
            );
            return None;
        }
        _ => {}
    }
    if let Some(at) = of.interval.as_ref().filter(|i| i.value < SHORTEST_INTERVAL) {
        found.push(
            Diagnostic::error(at.span.clone(), format!("`{key}` would do nothing but ask"))
                .help("write an interval of 10ms or more"),
        );
        return None;
    }
    let question = question(of, found)?;
    Some(Probe {
        question,
        interval: of.interval.as_ref().map_or(interval, |i| i.value),
        timeout: of.timeout.as_ref().map_or(Duration::from_secs(5), |t| t.value),
        retries: of.retries.as_ref().map_or(3, |r| r.value),
    })
}

/// The one thing that a probe asks, if it can be asked.
fn question(of: &types::Probe, found: &mut Vec<Diagnostic>) -> Option<Question> {
    Some(if let Some(at) = &of.tcp {
        match at.value.parse() {
            Ok(address) => Question::Tcp(address),
            Err(_) => {
                found.push(super::services::address_error(at, "to connect to"));
                return None;
            }
        }
    } else if let Some(at) = &of.unix {
        match super::path::absolute(&at.value) {
            Ok(path) => Question::Unix(path),
            Err(why) => {
                found.push(Diagnostic::error(
                    at.span.clone(),
                    format!("path \"{}\" {why}", at.value),
                ));
                return None;
            }
        }
    } else if let Some(at) = &of.http {
        match http(&at.value) {
            Some((address, path)) => Question::Http { address, path },
            None => {
                found.push(
                    Diagnostic::error(
                        at.span.clone(),
                        format!("\"{}\" is no address that can be asked", at.value),
                    )
                    .help("write http://ADDRESS:PORT/PATH, such as \"http://127.0.0.1:8080/health\""),
                );
                return None;
            }
        }
    } else {
        Question::Command(of.command.as_ref().map(|c| c.value.clone()).unwrap_or_default())
    })
}

/// `http://ADDRESS[:PORT][/PATH]`; no name is looked up but `localhost`.
fn http(text: &str) -> Option<(SocketAddr, String)> {
    let rest = text.strip_prefix("http://")?;
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let plain = |path: &str| path.bytes().all(|b| b.is_ascii_graphic());
    let path = if path.is_empty() { "/" } else { path };
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let address = match host.strip_prefix("localhost") {
        Some("") => SocketAddr::new(local, 80),
        Some(port) => SocketAddr::new(local, port.strip_prefix(':')?.parse().ok()?),
        None => host.parse().ok().or_else(|| {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            Some(SocketAddr::new(bare.parse().ok()?, 80))
        })?,
    };
    (address.port() != 0 && plain(path)).then(|| (address, path.to_owned()))
}

/// Conditions that cannot come true, and services that wait for each other in a circle.
pub(super) fn check(model: &super::Model, manifest: &types::Manifest, names: &Names, found: &mut Vec<Diagnostic>) {
    for (service, (_, table)) in model.services.iter().zip(&manifest.services) {
        for (on, condition) in &table.depends_on {
            let Some(of) = names.service(&on.value).map(|id| &model.services[id].life) else {
                continue;
            };
            let trouble = match (condition.value, of.kind) {
                (Condition::Completed, ServiceType::Simple) => Some(format!(
                    "`{}` is meant to go on running, so it never completes; write \"ready\" here, or type = \"oneshot\" there",
                    on.value
                )),
                (Condition::Ready, ServiceType::Oneshot) => Some(format!(
                    "`{}` is a oneshot service, which is never ready; write \"completed\"",
                    on.value
                )),
                _ => None,
            };
            if let Some(help) = trouble {
                let message = format!("`{}` would wait for `{}` forever", service.name, on.value);
                found.push(Diagnostic::error(condition.span.clone(), message).help(help));
            }
        }
    }
    if let Some(circle) = circle(model, names) {
        let names: Vec<&str> = circle.iter().map(|id| model.services[*id].name.as_str()).collect();
        let first = &model.services[circle[0]];
        found.push(
            Diagnostic::error(
                first.span.clone(),
                format!("services wait for each other: `{}`", names.join("` → `")),
            )
            .help("take one of these out of `depends_on`"),
        );
    }
}

/// Services of which each depends on the next and the last on the first, if there are any. Depth first with a stack of
/// its own: a chain may be as long as the manifest.
fn circle(model: &super::Model, names: &Names) -> Option<Vec<ServiceId>> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let next = |id: ServiceId, at: usize| {
        let (name, _) = model.services[id].life.depends_on.get(at)?;
        names.service(name)
    };
    let mut marks = vec![Mark::New; model.services.len()];
    for start in ServiceId::all(&model.services) {
        if marks[start.position()] != Mark::New {
            continue;
        }
        marks[start.position()] = Mark::Open;
        let mut path = vec![(start, 0)];
        while let Some((id, at)) = path.last_mut() {
            let id = *id;
            let Some(to) = next(id, *at) else {
                marks[id.position()] = Mark::Done;
                path.pop();
                continue;
            };
            *at += 1;
            match marks[to.position()] {
                Mark::Done => {}
                Mark::New => {
                    marks[to.position()] = Mark::Open;
                    path.push((to, 0));
                }
                Mark::Open => {
                    let from = path.iter().position(|(id, _)| *id == to).unwrap_or(0);
                    let mut found: Vec<ServiceId> = path[from..].iter().map(|(id, _)| *id).collect();
                    found.push(to);
                    return Some(found);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let of = Life::default().restart;
        let waits: Vec<u64> = [0, 1, 2, 9, 10, 40, u32::MAX]
            .map(|n| of.wait(n).as_millis() as u64)
            .into();
        assert_eq!(waits, [100, 200, 400, 51_200, 60_000, 60_000, 60_000]);
    }

    #[test]
    fn addresses_to_ask() {
        let found = http("http://127.0.0.1:8080/a?b=c").unwrap();
        assert_eq!(
            (found.0.to_string(), found.1),
            ("127.0.0.1:8080".into(), "/a?b=c".into())
        );
        assert_eq!(http("http://localhost:1").unwrap().0.to_string(), "127.0.0.1:1");
        assert_eq!(http("http://[::1]/x").unwrap().0.to_string(), "[::1]:80");
        for wrong in [
            "https://127.0.0.1",
            "http://example.org/",
            "http://",
            "http://127.0.0.1:0/",
            "http://127.0.0.1/a b",
            "http://localhostx",
        ] {
            assert!(http(wrong).is_none(), "{wrong}");
        }
    }
}
