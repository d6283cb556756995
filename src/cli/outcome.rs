//! What a start came to: how many services run; and of those that have ended by then, how, and their last lines.
//!
//! A service without `ready` counts as started when its program runs, and a program may end a moment later: a module that is missing,
//! a port that is taken. So programs that have just begun are looked at until they wait for something, as a program does that has
//! come to its work, or have computed for a second. It is their own time that counts, so that a busy host hides nothing.

use super::error::Done;
use crate::host::Dirs;
use crate::launch::descendants;
use crate::model::life::Ready;
use crate::plain::{self, counted};
use crate::plan::Unit;
use crate::supervise::client::{Client, ClientError};
use crate::supervise::console;
use crate::supervise::history::History;
use crate::supervise::logs::stamp;
use crate::supervise::protocol::{AppStatus, ServiceStatus};
use crate::values::ServiceType;
use jiff::Timestamp;
use std::time::{Duration, Instant};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(15);
/// What a program does that has computed for so long, in clock ticks (a hundred a second), is not waited for; nor what it does after this time,
/// whatever it waited for.
const MOST_COMPUTED: u64 = 100;
const LONGEST: Duration = Duration::from_secs(10);
/// Seconds since its start for which a program counts as one that has just begun.
const YOUNG: u64 = 2;
/// Last lines of a service, and services of which they are shown.
const LINES: usize = 6;
const SERVICES: usize = 3;

/// Says what runs of an app that has come up. The exit code: 1 if a service ended other than well, and is not started again.
pub(super) fn say(dirs: &Dirs, app: &str, units: &[Unit], begun: Timestamp) -> Done {
    let status = match looked_at(dirs, app, units) {
        Ok(status) => status,
        // It came up, and somebody has taken it down since.
        Err(ClientError::NotUp { .. } | ClientError::Ended { .. }) => {
            outln!("`{app}` is up: {}", counted(units.len(), "service"));
            return Ok(0);
        }
        Err(error) => return Err(error.into()),
    };
    let is_oneshot = |name: &str| {
        units
            .iter()
            .any(|u| u.name == name && u.life.kind == ServiceType::Oneshot)
    };
    let meant = || {
        status
            .services
            .iter()
            .filter(|s| !matches!(s.state.as_str(), "stopped" | "stopping"))
    };
    let ended: Vec<&ServiceStatus> = meant()
        .filter(|s| match s.state.as_str() {
            "exited" => s.exit_code != Some(0) || !is_oneshot(&s.service),
            "failed" | "restarting" => true,
            _ => false,
        })
        .collect();
    let all = meant().count();
    if ended.is_empty() {
        outln!("`{app}` is up: {}", counted(all, "service"));
        return Ok(0);
    }
    let run = match all - ended.len() {
        0 => "no service runs".to_owned(),
        running => format!("{running} of {all} services run"),
    };
    let how: Vec<String> = ended.iter().map(|service| in_words(service)).collect();
    outln!("`{app}` is up: {run}; {}", how.join(", "));
    let unwell: Vec<&&ServiceStatus> = ended.iter().filter(|s| s.exit_code != Some(0)).collect();
    for service in unwell.iter().take(SERVICES) {
        last_lines(dirs, &service.service, begun);
    }
    Ok(u8::from(unwell.iter().any(|s| s.state != "restarting")))
}

fn in_words(service: &ServiceStatus) -> String {
    let (name, error) = (&service.service, service.error.as_deref());
    let status = service.exit_code.or(service.last_exit_code);
    let why = match (status, error) {
        (_, Some(error)) if service.state == "failed" => return format!("{name} failed: {}", plain::line(error)),
        (Some(status), Some(error)) => format!("{name} ended with status {status} ({})", plain::line(error)),
        (Some(status), None) => format!("{name} ended with status {status}"),
        (None, _) => format!("{name} ended"),
    };
    match service.state.as_str() {
        "restarting" => format!("{why} and is started again"),
        _ => why,
    }
}

/// What a service printed last since then, on standard error.
fn last_lines(dirs: &Dirs, service: &str, begun: Timestamp) {
    let read = || -> std::io::Result<Vec<String>> {
        let mut history = History::open(dirs.log(service), false)?;
        history.skip_to_last(LINES)?;
        let (begun, mut lines) = (stamp(begun), Vec::new());
        while let Some(line) = history.next_line()? {
            if line.time >= begun {
                lines.push(console::line(&line.text));
            }
        }
        Ok(lines)
    };
    // A log that is not kept in a file has none; `logs` says where it is.
    for line in read().unwrap_or_default() {
        errln!("  {service} | {line}");
    }
    errln!("note: `pysecure logs {service}` shows all that it printed");
}

/// How services are once those that have just begun wait for something.
fn looked_at(dirs: &Dirs, app: &str, units: &[Unit]) -> Result<AppStatus, ClientError> {
    let mut client = Client::connect(dirs, app)?;
    let status = client.states()?;
    let may_end = |name: &str| {
        let unit = units.iter().find(|u| u.name == name);
        unit.is_some_and(|u| u.life.kind == ServiceType::Simple && u.life.ready == Ready::Started)
    };
    let young = |s: &&ServiceStatus| s.state == "running" && s.seconds <= YOUNG && may_end(&s.service);
    let mut watched: Vec<(u32, Activity)> = status
        .services
        .iter()
        .filter(young)
        .filter_map(|s| Some((s.pid?, Activity::of(s.pid?))))
        .collect();
    if watched.is_empty() {
        return Ok(status);
    }
    let begun = Instant::now();
    let mut gone = Vec::new();
    while !watched.is_empty() && begun.elapsed() < LONGEST {
        std::thread::sleep(LOOK);
        watched.retain_mut(|(pid, before)| {
            let now = Activity::of(*pid);
            let rests = matches!(now, Activity::Waits(_)) && now == *before;
            if now == Activity::Gone {
                gone.push(*pid);
            }
            let over = match now {
                Activity::Gone => true,
                Activity::Waits(_) => rests,
                Activity::Works(computed) => computed >= MOST_COMPUTED,
            };
            *before = now;
            !over
        });
    }
    // Of what has ended the supervisor hears a moment later.
    loop {
        let status = client.states()?;
        let unheard = |s: &ServiceStatus| s.state == "running" && s.pid.is_some_and(|pid| gone.contains(&pid));
        if !status.services.iter().any(unheard) || begun.elapsed() > 2 * LONGEST {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
}

/// What the processes below a service's PID 1 are at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Activity {
    /// All of them wait; how much they have computed so far, in clock ticks.
    Waits(u64),
    /// One of them computes, waits for a disk, or is just ending; how much they have computed.
    Works(u64),
    /// There are none.
    Gone,
}

impl Activity {
    fn of(init: u32) -> Activity {
        let below = descendants::below(init);
        let all: Vec<Option<(char, u64)>> = below.iter().map(|pid| state_and_time(*pid)).collect();
        let computed = all.iter().flatten().map(|(_, time)| time).sum();
        match all.iter().all(|one| matches!(one, Some(('S', _)))) {
            _ if all.is_empty() => Activity::Gone,
            true => Activity::Waits(computed),
            false => Activity::Works(computed),
        }
    }
}

/// proc_pid_stat(5): the state, and the time in user and kernel mode, that of children included that have been waited for.
fn state_and_time(pid: u32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, which may be anything, is in parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let times = fields.skip(10).take(4).map(|field| field.parse::<u64>().ok());
    Some((state, times.sum::<Option<u64>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_waits_is_told_from_one_that_computes() {
        let child = |program: &str, argument: &str| std::process::Command::new(program).arg(argument).spawn().unwrap();
        let mut sleeps = child("sleep", "1000");
        let mut works = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done"])
            .spawn()
            .unwrap();
        let of = |id: u32| state_and_time(id).unwrap();
        while of(sleeps.id()).0 != 'S' || of(works.id()).1 == 0 {
            std::thread::yield_now();
        }
        assert!(of(works.id()).0 == 'R' && of(sleeps.id()) == of(sleeps.id()));
        for child in [&mut sleeps, &mut works] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(state_and_time(sleeps.id()), None);
        assert_eq!(Activity::of(sleeps.id()), Activity::Gone);
    }
}
