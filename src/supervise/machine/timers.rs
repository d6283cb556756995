//! What is to happen when, one of each kind a service. The event loop sleeps until the earliest, so nothing here wakes it
//! without need. Times are of the monotonic clock: a clock that is set moves no deadline.

use super::super::ids::ServiceId;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Timer {
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

impl Timer {
    pub(crate) const ALL: [Timer; 5] = [Timer::Start, Timer::Stop, Timer::Restart, Timer::Ask, Timer::Watchdog];
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(Instant, ServiceId, Timer)>,
    of: HashMap<(ServiceId, Timer), Instant>,
}

impl Timers {
    /// Sets a service's timer, in place of what it was set to before.
    pub(crate) fn set(&mut self, service: ServiceId, timer: Timer, at: Instant) {
        self.cancel(service, timer);
        self.due.insert((at, service, timer));
        self.of.insert((service, timer), at);
    }

    pub(crate) fn cancel(&mut self, service: ServiceId, timer: Timer) {
        if let Some(at) = self.of.remove(&(service, timer)) {
            self.due.remove(&(at, service, timer));
        }
    }

    pub(crate) fn cancel_all(&mut self, service: ServiceId) {
        for timer in Timer::ALL {
            self.cancel(service, timer);
        }
    }

    /// Sets it to `wait` after `now`; to never, if no clock goes so far.
    pub(crate) fn set_in(&mut self, service: ServiceId, timer: Timer, now: Instant, wait: Duration) {
        match now.checked_add(wait) {
            Some(at) => self.set(service, timer, at),
            None => self.cancel(service, timer),
        }
    }

    /// Sets a timer that is set to `wait` after `now`, if that is earlier.
    pub(crate) fn bring_forward(&mut self, service: ServiceId, timer: Timer, now: Instant, wait: Duration) {
        if let (Some(set), Some(at)) = (self.at(service, timer), now.checked_add(wait))
            && at < set
        {
            self.set(service, timer, at);
        }
    }

    /// Moves all of them.
    pub(crate) fn postpone(&mut self, by: Duration) {
        let all: Vec<(Instant, ServiceId, Timer)> = self.due.iter().copied().collect();
        for (at, service, timer) in all {
            match at.checked_add(by) {
                Some(at) => self.set(service, timer, at),
                None => self.cancel(service, timer),
            }
        }
    }

    /// When a timer fires, if it is set.
    pub(crate) fn at(&self, service: ServiceId, timer: Timer) -> Option<Instant> {
        self.of.get(&(service, timer)).copied()
    }

    /// All that are set.
    #[cfg(test)]
    pub(crate) fn all(&self) -> impl Iterator<Item = (ServiceId, Timer)> + '_ {
        self.due.iter().map(|(_, service, timer)| (*service, *timer))
    }

    pub(crate) fn next(&self) -> Option<Instant> {
        self.due.first().map(|(at, _, _)| *at)
    }

    /// Takes the earliest that is due.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(ServiceId, Timer)> {
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
        let id = ServiceId::new;
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut timers = Timers::default();
        timers.set(id(1), Timer::Stop, at(30));
        timers.set(id(2), Timer::Ask, at(10));
        timers.set(id(1), Timer::Stop, at(20));
        timers.set(id(3), Timer::Ask, at(5));
        timers.cancel_all(id(3));
        assert_eq!(timers.next(), Some(at(10)));
        assert_eq!(timers.pop(at(9)), None);
        timers.postpone(Duration::from_millis(10));
        assert_eq!(timers.pop(at(19)), None);
        assert_eq!(timers.pop(at(40)), Some((id(2), Timer::Ask)));
        assert_eq!(timers.pop(at(40)), Some((id(1), Timer::Stop)));
        assert_eq!(timers.pop(at(40)), None);
        assert_eq!(timers.next(), None);
        timers.set_in(id(4), Timer::Stop, start, Duration::MAX);
        assert_eq!(timers.next(), None);
        timers.bring_forward(id(5), Timer::Stop, start, Duration::ZERO);
        assert_eq!(timers.next(), None);
        timers.set(id(5), Timer::Stop, start);
        timers.bring_forward(id(5), Timer::Stop, start, Duration::from_secs(9));
        assert_eq!(timers.next(), Some(start));
        timers.set_in(id(5), Timer::Stop, start, Duration::from_secs(900));
        timers.bring_forward(id(5), Timer::Stop, start, Duration::ZERO);
        assert_eq!(timers.next(), Some(start));
    }
}
