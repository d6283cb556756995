//! Limits that nobody else holds: a run is looked at from time to time.

use super::*;

/// A directory that may hold only so much is looked at no more often than this, and so that all but one part in so many of the time is
/// left for else; and a run whose processes nothing else counts.
const LOOK: Duration = Duration::from_millis(200);
const PART: u32 = 20;
pub(super) const COUNT: Duration = Duration::from_millis(50);

impl Pool {
    pub(super) fn next_look(&self) -> Option<Duration> {
        let soonest = self.runs.values().filter_map(|run| run.look).min();
        let again = self
            .cold
            .as_ref()
            .filter(|_| self.profile.ready > 0)
            .map(|(_, until)| *until);
        let next = soonest.into_iter().chain(again).chain(self.unprepared).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    pub(super) fn look(&mut self) {
        let now = Instant::now();
        self.unprepared = self.unprepared.filter(|until| *until > now);
        let due: Vec<u32> = self
            .runs
            .iter()
            .filter(|(_, r)| r.look.is_some_and(|l| l <= now))
            .map(|(n, _)| *n)
            .collect();
        for number in due {
            let Some(run) = self.runs.get_mut(&number) else {
                continue;
            };
            let sandbox = run.sandbox.and_then(|s| self.sandboxes.get(&s));
            let used = sandbox
                .map(|sandbox| sandbox.computed(&mut run.spent))
                .unwrap_or_default();
            let wall = run
                .limits
                .wall()
                .zip(run.began)
                .is_some_and(|(most, began)| now >= began + most);
            let leader = sandbox.filter(|_| run.scratch.is_some()).and_then(Sandbox::leader);
            let reason = if wall {
                Some("wall")
            } else if run.limits.cpu().is_some_and(|most| used >= most) {
                Some("cpu")
            } else {
                let group = leader.and_then(|group| group.exceeded(&run.limits));
                group.or_else(|| walked(now, run))
            };
            run.look = match reason {
                Some(_) => None,
                None => next_look(now, run, used),
            };
            if let Some(reason) = reason {
                self.kill(number, reason);
            }
        }
    }
}

/// When to look at a run again: when its time is over, when it can have computed for long enough, or after a while, if its
/// directory may hold only so much.
pub(super) fn next_look(now: Instant, run: &Pending, used: Duration) -> Option<Instant> {
    let wall = run.limits.wall().zip(run.began).map(|(most, began)| began + most);
    // On several processors at once it may compute faster than time goes by. How many there are takes long to find out.
    static PROCESSORS: LazyLock<u32> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, |n| n.get() as u32));
    let processors = *PROCESSORS;
    let soonest = Duration::from_millis(5);
    let cpu = run
        .limits
        .cpu()
        .map(|most| now + run.spent.pause((most.saturating_sub(used) / processors).max(soonest)));
    let processes = run.scratch.as_ref().map(|_| now + COUNT);
    wall.into_iter().chain(cpu).chain(processes).chain(run.walk).min()
}

pub(super) fn is_bounded(run: &Pending) -> bool {
    let directory = run.userdir.is_some() && (run.limits.files.is_some() || run.limits.userdir.is_some());
    directory || run.scratch.is_some()
}

/// Looks through what a run has written, if it is time to, and says when it is time again.
fn walked(now: Instant, run: &mut Pending) -> Option<&'static str> {
    run.walk.filter(|walk| *walk <= now)?;
    let began = Instant::now();
    let found = holds_too_much(run);
    run.walk = Some(Instant::now() + pause_after(began.elapsed(), least_pause(run)));
    found
}

pub(super) fn holds_too_much(run: &Pending) -> Option<&'static str> {
    let userdir = run.userdir.as_ref().and_then(|userdir| exceeded(userdir, &run.limits));
    userdir.or_else(|| run.scratch.as_ref()?.exceeded(&run.limits))
}

/// Of temporary files that lie on a disk nothing else is bounded.
pub(super) fn least_pause(run: &Pending) -> Duration {
    if run.scratch.is_some() { COUNT } else { LOOK }
}

/// What takes long is done seldom.
fn pause_after(took: Duration, least: Duration) -> Duration {
    took.saturating_mul(PART).max(least)
}

fn exceeded(userdir: &userdir::Userdir, limits: &Limits) -> Option<&'static str> {
    let (most_files, most_bytes) = (limits.files.unwrap_or(u64::MAX), limits.userdir.unwrap_or(u64::MAX));
    let (files, bytes) = userdir.holds(most_files, most_bytes);
    match (files > most_files, bytes > most_bytes) {
        (true, _) => Some("files"),
        (_, true) => Some("userdir"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_that_takes_long_is_seldom() {
        let milliseconds = Duration::from_millis;
        for (took, pause) in [(0, 200), (1, 200), (10, 200), (11, 220), (50, 1000), (1000, 20_000)] {
            assert_eq!(pause_after(milliseconds(took), LOOK), milliseconds(pause), "{took}");
        }
        assert_eq!(pause_after(milliseconds(3), COUNT), milliseconds(60));
        assert_eq!(pause_after(Duration::MAX, LOOK), Duration::MAX);
    }
}
