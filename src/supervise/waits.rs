//! When whoever waits for services to begin is told for which of them it waits: after a moment, and from then on when that has changed,
//! ever more rarely.

use super::ids::WatchId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const FIRST: Duration = Duration::from_secs(2);
const LONGEST: Duration = Duration::from_secs(30);
#[derive(Default)]
pub(super) struct Waits {
    each: BTreeMap<WatchId, Wait>,
}

struct Wait {
    next: Instant,
    pause: Duration,
    told: String,
}

impl Waits {
    pub(super) fn begin(&mut self, watch: WatchId, now: Instant) {
        let wait = Wait {
            next: now + FIRST,
            pause: FIRST,
            told: String::new(),
        };
        self.each.insert(watch, wait);
    }

    pub(super) fn end(&mut self, watch: WatchId) {
        self.each.remove(&watch);
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.each.values().map(|wait| wait.next).min()
    }

    pub(super) fn due(&mut self, now: Instant) -> Vec<WatchId> {
        let mut due = Vec::new();
        for (watch, wait) in self.each.iter_mut().filter(|(_, wait)| wait.next <= now) {
            wait.pause = (2 * wait.pause).min(LONGEST);
            wait.next = now + wait.pause;
            due.push(*watch);
        }
        due
    }

    /// Was it told something else, if anything, the last time?
    pub(super) fn is_news(&mut self, watch: WatchId, text: &str) -> bool {
        match self.each.get_mut(&watch) {
            Some(wait) if wait.told != text => {
                text.clone_into(&mut wait.told);
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_after_a_moment_and_then_what_is_new_and_more_rarely() {
        let (start, mut waits) = (Instant::now(), Waits::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        waits.begin(WatchId::FIRST, start);
        assert!(waits.due(at(1)).is_empty());
        let mut told = Vec::new();
        for second in 2..120 {
            if !waits.due(at(second)).is_empty() {
                told.push(second);
            }
        }
        assert_eq!(told, [2, 6, 14, 30, 60, 90]);
        assert!(
            waits.is_news(WatchId::FIRST, "a")
                && !waits.is_news(WatchId::FIRST, "a")
                && waits.is_news(WatchId::FIRST, "b")
        );
        waits.end(WatchId::FIRST);
        assert!(waits.next().is_none() && !waits.is_news(WatchId::FIRST, "c"));
    }
}
