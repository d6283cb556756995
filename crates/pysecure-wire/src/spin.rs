//! Asks again and again for a moment before it waits: to be woken on another CPU takes many times as long as a call. Where that does not
//! pay it has to stop, for it takes the CPU from whoever is to answer. `PYSECURE_RPC_SPIN=0` in the environment switches it off.

use rustix::io::Errno;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// An answer that comes in less is worth having asked for: it is from another CPU, on which the other end asks as well.
const SOON: Duration = Duration::from_micros(20);
/// How long is asked where the last answer did not come so soon: longer than it takes to wake the other end on its CPU. For if both
/// give up before that, neither ever finds the other asking.
const PROBE: Duration = Duration::from_micros(100);
/// So many answers in a row may come in more than the one and less than the other.
const MOST_LATE: u8 = 8;
/// So many turns at the most are without that where it did not pay: to have asked in vain is nothing beside so many.
const LEFT_OUT: u32 = 4096;

/// Is it switched on, in this process?
fn enabled() -> bool {
    static ENABLED: OnceLock<bool> = OnceLock::new();
    *ENABLED.get_or_init(|| std::env::var_os("PYSECURE_RPC_SPIN").is_none_or(|set| set != "0"))
}

/// Whether spinning pays for one who waits. Where it did not, it is left out for twice as many turns as before: the CPU may be the
/// only one, or others need it more. One success only halves that number: it may be chance.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    enabled: bool,
    /// So many turns are left out.
    skip: u32,
    /// So many were left out when it last did not pay.
    last: u32,
    /// Did the last answer come soon?
    soon: bool,
    late: u8,
}

impl Default for Spin {
    fn default() -> Spin {
        Spin::new(enabled())
    }
}

impl Spin {
    /// One that is switched on or off, whatever the environment says.
    pub fn new(enabled: bool) -> Spin {
        Spin {
            enabled,
            skip: 0,
            last: 0,
            soon: false,
            late: 0,
        }
    }

    /// For how long to ask in this turn, if at all.
    fn wanted(&mut self) -> Option<Duration> {
        if !self.enabled {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        Some(if self.soon { SOON } else { PROBE })
    }

    /// How long it took until there was an answer, if one came.
    fn took(&mut self, time: Option<Duration>) {
        self.soon = time.is_some_and(|time| time <= SOON);
        self.late = if self.soon { 0 } else { self.late + 1 };
        if self.soon {
            self.last /= 2;
        } else if time.is_none() || self.late > MOST_LATE {
            self.late = 0;
            self.last = (2 * self.last).clamp(8, LEFT_OUT);
            self.skip = self.last;
        }
    }

    /// Calls `ask`, which does not wait, and after a moment in vain `wait`.
    #[inline]
    pub fn turn<T>(
        &mut self,
        mut ask: impl FnMut() -> Result<T, Errno>,
        wait: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Some(moment) = self.wanted() else {
            return wait();
        };
        match ask() {
            Err(Errno::AGAIN) => {}
            // It was there already: that says nothing of either.
            other => return other,
        }
        let (got, took) = again(ask, moment);
        self.took(took);
        match got {
            Err(Errno::AGAIN) => wait(),
            other => other,
        }
    }
}

/// Asks until there is an answer or the moment is over. Says how long it took, if there was one.
fn again<T>(mut ask: impl FnMut() -> Result<T, Errno>, moment: Duration) -> (Result<T, Errno>, Option<Duration>) {
    let start = Instant::now();
    loop {
        match ask() {
            Err(Errno::AGAIN) if start.elapsed() < moment => std::hint::spin_loop(),
            Err(Errno::AGAIN) => return (Err(Errno::AGAIN), None),
            other => return (other, Some(start.elapsed())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switched_off_it_waits_at_once() {
        let mut spin = Spin::new(false);
        let mut asked = 0;
        let ask = || {
            asked += 1;
            Err(Errno::AGAIN)
        };
        assert_eq!(spin.turn(ask, || Ok(())), Ok(()));
        assert_eq!(asked, 0);
    }

    #[test]
    fn it_stops_where_it_does_not_pay() {
        let mut spin = Spin::new(true);
        let mut waited = 0;
        let mut tried = 0;
        for _ in 0..100_000 {
            tried += u32::from(spin.skip == 0);
            let wait = || {
                waited += 1;
                Ok(())
            };
            assert_eq!(spin.turn(|| Err(Errno::AGAIN), wait), Ok(()));
        }
        assert_eq!(waited, 100_000);
        assert!(tried < 50, "{tried}");
        // And begins again where it does.
        let mut paid = 0;
        for _ in 0..100_000 {
            let mut asked = 0;
            let ask = || {
                asked += 1;
                if asked > 1 { Ok(()) } else { Err(Errno::AGAIN) }
            };
            let _ = spin.turn(ask, || Err(Errno::TIMEDOUT));
            paid += u32::from(asked > 1);
        }
        assert!(paid > 90_000, "{paid}");
    }
}
