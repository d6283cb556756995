//! Asking again and again for a moment before waiting: to be woken on another CPU takes many times as long as a call. Where it does
//! not pay, it has to stop, for it takes the CPU from whoever is to answer.

use rustix::io::Errno;
use std::time::{Duration, Instant};

/// How long is asked again and again.
const MOMENT: Duration = Duration::from_micros(20);
/// So many turns at the most are without that where it did not pay: to have asked in vain is nothing beside so many.
const LEFT_OUT: u32 = 4096;

/// Does it pay? Where it did not, it is left out for twice as many turns as before: the CPU may be the only one, or others
/// need it more. Once that it pays halves them, for it can be by chance.
#[derive(Debug, Default)]
pub struct Spin {
    skip: u32,
    last: u32,
}

impl Spin {
    pub fn wanted(&mut self) -> bool {
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        true
    }

    pub fn paid(&mut self, paid: bool) {
        if paid {
            self.last /= 2;
        } else {
            self.last = (2 * self.last).clamp(8, LEFT_OUT);
            self.skip = self.last;
        }
    }

    /// `ask`, which does not wait, and after a moment in vain `wait`.
    pub fn turn<T>(
        &mut self,
        mut ask: impl FnMut() -> Result<T, Errno>,
        wait: impl FnOnce() -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        if !self.wanted() {
            return wait();
        }
        match ask() {
            Err(Errno::AGAIN) => {}
            // It was there already: that says nothing of either.
            other => return other,
        }
        let got = again(ask);
        self.paid(!matches!(got, Err(Errno::AGAIN)));
        match got {
            Err(Errno::AGAIN) => wait(),
            other => other,
        }
    }
}

/// Asks until there is an answer or the moment is over.
pub fn again<T>(mut ask: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    let start = Instant::now();
    loop {
        match ask() {
            Err(Errno::AGAIN) if start.elapsed() < MOMENT => std::hint::spin_loop(),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stops_where_it_does_not_pay() {
        let mut spin = Spin::default();
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
