//! What is to happen when, one of each kind a service. The event loop sleeps until the earliest, so nothing here wakes it
//! without need. Times are of the monotonic clock: a clock that is set moves no deadline.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Timer {
    /// It should be ready by now.
    Start,
    /// It should have ended by now.
    Stop,
    /// Its next restart.
    Restart,
    /// Its next probe.
    Ask,
    /// It should have been heard of by now.
    Watchdog,
}

#[derive(Default)]
pub(super) struct Timers {
    due: BTreeSet<(Instant, u32, Timer)>,
    of: HashMap<(u32, Timer), Instant>,
}

impl Timers {
    /// Sets a service's timer, in place of what it was set to before.
    pub(super) fn set(&mut self, service: u32, timer: Timer, at: Instant) {
        self.cancel(service, timer);
        self.due.insert((at, service, timer));
        self.of.insert((service, timer), at);
    }

    pub(super) fn cancel(&mut self, service: u32, timer: Timer) {
        if let Some(at) = self.of.remove(&(service, timer)) {
            self.due.remove(&(at, service, timer));
        }
    }

    pub(super) fn cancel_all(&mut self, service: u32) {
        for timer in [Timer::Start, Timer::Stop, Timer::Restart, Timer::Ask, Timer::Watchdog] {
            self.cancel(service, timer);
        }
    }

    /// Sets it to so long from now; to never, if no clock goes so far.
    pub(super) fn set_in(&mut self, service: u32, timer: Timer, wait: Duration) {
        match Instant::now().checked_add(wait) {
            Some(at) => self.set(service, timer, at),
            None => self.cancel(service, timer),
        }
    }

    /// Sets a timer that is set to so long from now, if that is earlier.
    pub(super) fn bring_forward(&mut self, service: u32, timer: Timer, wait: Duration) {
        if let (Some(set), Some(at)) = (self.at(service, timer), Instant::now().checked_add(wait))
            && at < set
        {
            self.set(service, timer, at);
        }
    }

    /// Moves all of them.
    pub(super) fn postpone(&mut self, by: Duration) {
        let all: Vec<(Instant, u32, Timer)> = self.due.iter().copied().collect();
        for (at, service, timer) in all {
            match at.checked_add(by) {
                Some(at) => self.set(service, timer, at),
                None => self.cancel(service, timer),
            }
        }
    }

    /// When a timer fires, if it is set.
    pub(super) fn at(&self, service: u32, timer: Timer) -> Option<Instant> {
        self.of.get(&(service, timer)).copied()
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// Takes the earliest that is due.
    pub(super) fn pop(&mut self, now: Instant) -> Option<(u32, Timer)> {
        let (at, service, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.cancel(service, timer);
        Some((service, timer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fires_once_and_in_order() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(1, Timer::Stop, at(30));
        timers.set(2, Timer::Ask, at(10));
        timers.set(1, Timer::Stop, at(20));
        timers.set(3, Timer::Ask, at(5));
        timers.cancel_all(3);
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        timers.postpone(Duration::from_millis(10));
        assert_eq!(timers.pop(at(19)), None);
        assert_eq!(timers.pop(at(40)), Some((2, Timer::Ask)));
        assert_eq!(timers.pop(at(40)), Some((1, Timer::Stop)));
        assert_eq!(timers.pop(at(40)), None);
        assert_eq!(timers.next(), None);
        timers.set_in(4, Timer::Stop, Duration::MAX);
        assert_eq!(timers.next(), None);
        timers.bring_forward(5, Timer::Stop, Duration::ZERO);
        assert_eq!(timers.next(), None);
        timers.set(5, Timer::Stop, start);
        timers.bring_forward(5, Timer::Stop, Duration::from_secs(9));
        assert_eq!(timers.next(), Some(start));
        timers.set_in(5, Timer::Stop, Duration::from_secs(900));
        timers.bring_forward(5, Timer::Stop, Duration::ZERO);
        assert!(timers.next() <= Some(Instant::now()));
    }
}
