//! Leader/followers (POSA 2): which of a service's threads waits on the epoll set. The leader runs what comes by itself, which
//! costs no hand-over. While a function runs, the leadership is up for the taking: if the function takes long, the monitor takes it and
//! wakes a follower to lead. A function that was slow lately has the leadership given away before it runs.
//!
//! Where one caller alone calls, again and again, its connection is *pinned*: the leader gives the leadership away, takes the connection
//! out of the epoll set and waits for its messages themselves, which is a system call less for each. It goes back when others
//! call, when nothing comes for a moment, and when a call does not end at once.

use crate::fd;
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How often the monitor looks. A function that it sees twice runs for longer than that.
const TICK: Duration = Duration::from_millis(1);
/// It sleeps after having seen nothing so often.
const QUIET_TICKS: u32 = 20;
/// What an epoll set is asked for, as `_server/connection.py` has it.
const IN: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);

/// A connection that is pinned, and the epoll set that it is not in meanwhile.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pin {
    pub fd: i32,
    pub epoll: i32,
}

impl Pin {
    fn encode(self) -> u64 {
        (self.epoll as u64) << 32 | u64::from(self.fd as u32)
    }

    fn decode(pin: u64) -> Pin {
        Pin {
            fd: pin as u32 as i32,
            epoll: (pin >> 32) as i32,
        }
    }

    /// Back into the epoll set. False if it cannot be: then nobody would hear of the connection any more. One that had to wait until its
    /// caller reads was put back by whoever sent to it (`_server/connection.py`, `want`), and asks for more than this does.
    #[allow(unsafe_code)]
    fn put_back(self) -> bool {
        let data = epoll::EventData::new_u64(self.fd as u64);
        // SAFETY: neither is -1. The engine owns the epoll set for as long as its threads run, and a pinned connection's socket is closed by
        // nobody but the thread that it is pinned to.
        let (epoll, fd) = unsafe { (fd::borrow(self.epoll), fd::borrow(self.fd)) };
        matches!(epoll::add(epoll, fd, data, IN), Ok(()) | Err(Errno::EXIST))
    }
}

/// What a thread does. One that leads, or has a connection pinned to it, may close what the message came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It waits to lead, or runs something.
    Follower,
    Leader,
    Pinned(Pin),
}

thread_local! {
    static ROLE: Cell<Role> = const { Cell::new(Role::Follower) };
}

/// Does this thread lead?
pub fn leads() -> bool {
    ROLE.get() == Role::Leader
}

/// Is a connection pinned to this thread?
pub fn is_pinned() -> bool {
    matches!(ROLE.get(), Role::Pinned(_))
}

/// Does this thread lead, or is a connection pinned to it?
pub fn may_close() -> bool {
    ROLE.get() != Role::Follower
}

#[derive(Default)]
struct State {
    led: bool,
    ended: bool,
    monitored: bool,
}

/// The threads of one service, and who of them leads.
#[derive(Default)]
pub struct LeaderFollowers {
    state: Mutex<State>,
    vacant: Condvar,
    awake: Condvar,
    /// Set once, with Release under the lock; read with Acquire by whoever leads, so that it sees what was done before the end.
    ended: AtomicBool,
    /// The number of the run for which the leadership is up for the taking; 0 if it is not. Whoever exchanges the number for 0 has it:
    /// AcqRel, so that the new leader sees what the old one did. Its store is SeqCst, and pairs with `monitoring`: either the run
    /// is seen by the monitor before it sleeps, or the monitor's sleep by the run.
    offered: AtomicU64,
    /// The same for the thread with the pinned connection.
    offered_pin: AtomicU64,
    /// Which connection that is. Relaxed: it is ordered by `offered_pin`, which is stored after and loaded before it.
    pin: AtomicU64,
    /// Numbers of runs. Relaxed: each is taken once, and no other memory goes with it.
    runs: AtomicU64,
    /// Is the monitor looking? SeqCst, with `offered` and `offered_pin`.
    monitoring: AtomicBool,
    /// Is a connection pinned? Relaxed, as the next two: they are set and read under the interpreter's lock, which orders them; the monitor
    /// sets the last by itself, and whoever waits for it reads it after taking that lock.
    pinned: AtomicBool,
    /// Have others called since?
    others_called: AtomicBool,
    /// Could the pinned connection not be put back?
    lost: AtomicBool,
}

impl LeaderFollowers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the leadership away.
    fn give(&self) {
        self.state().led = false;
        self.vacant.notify_one();
    }

    /// Waits to lead. False at the end.
    pub fn lead(&self) -> bool {
        let mut state = self.state();
        while state.led && !state.ended {
            state = self.vacant.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.ended {
            return false;
        }
        state.led = true;
        ROLE.set(Role::Leader);
        true
    }

    /// Gives the leadership away if this thread has it.
    pub fn resign(&self) {
        if ROLE.replace(Role::Follower) == Role::Leader {
            self.give();
        }
    }

    /// Has it ended?
    pub fn ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Puts the number of a run where the monitor finds it.
    fn offer(&self, place: &AtomicU64) -> u64 {
        let run = self.runs.fetch_add(1, Ordering::Relaxed) + 1;
        place.store(run, Ordering::SeqCst);
        if !self.monitoring.load(Ordering::SeqCst) {
            // Both in one go: said after the monitor had slept again, it would never be woken.
            let mut state = self.state();
            state.monitored = true;
            self.monitoring.store(true, Ordering::SeqCst);
            self.awake.notify_one();
        }
        run
    }

    /// Before a function runs, which is slow or not. What it returns is for [`LeaderFollowers::done`].
    pub fn begin(&self, slow: bool) -> u64 {
        match ROLE.replace(Role::Follower) {
            Role::Follower => 0,
            Role::Leader if slow => {
                self.give();
                0
            }
            Role::Leader => self.offer(&self.offered),
            Role::Pinned(pin) if slow => {
                self.put_back(pin);
                0
            }
            Role::Pinned(pin) => {
                self.pin.store(pin.encode(), Ordering::Relaxed);
                self.offer(&self.offered_pin)
            }
        }
    }

    /// After it ran: the thread is what it was before, if nobody has taken that.
    pub fn done(&self, run: u64) {
        if run == 0 {
            return;
        }
        if take(&self.offered, run) {
            ROLE.set(Role::Leader);
        } else if take(&self.offered_pin, run) {
            ROLE.set(Role::Pinned(Pin::decode(self.pin.load(Ordering::Relaxed))));
        }
    }

    /// Ends it: wakes all that wait to lead.
    pub fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        self.ended.store(true, Ordering::Release);
        self.vacant.notify_all();
        self.awake.notify_all();
    }

    fn put_back(&self, pin: Pin) {
        if !pin.put_back() {
            self.lost.store(true, Ordering::Relaxed);
        }
    }

    /// Is a connection pinned?
    pub fn pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    /// Something came from another than the pinned connection.
    pub fn call_of_others(&self) {
        self.others_called.store(true, Ordering::Relaxed);
    }

    /// May this thread go on with the pinned connection alone?
    pub fn may_stay(&self) -> bool {
        is_pinned() && !self.others_called.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// Claims that a connection may be pinned, which only one can be. It is for [`LeaderFollowers::pin`] or
    /// [`LeaderFollowers::unclaim`] then.
    pub fn claim(&self) -> bool {
        !self.pinned.swap(true, Ordering::Relaxed)
    }

    /// Nothing is pinned after all.
    pub fn unclaim(&self) {
        self.pinned.store(false, Ordering::Relaxed);
    }

    /// Pins a connection, which is not in the epoll set any more, to this thread, and gives the leadership away.
    pub fn pin(&self, pin: Pin) {
        self.others_called.store(false, Ordering::Relaxed);
        ROLE.set(Role::Pinned(pin));
        self.give();
    }

    /// The connection is not pinned any more. It goes back into the epoll set if it `is_open`. False if it could not be put back.
    pub fn unpin(&self, is_open: impl FnOnce() -> bool) -> bool {
        if let Role::Pinned(pin) = ROLE.replace(Role::Follower)
            && is_open()
        {
            self.put_back(pin);
        }
        let lost = self.lost.swap(false, Ordering::Relaxed);
        self.unclaim();
        !lost
    }

    /// The monitor; runs in a thread of its own until the end.
    pub fn monitor(&self) {
        let (mut seen, mut seen_pinned) = (0, 0);
        let mut quiet = 0;
        while self.wait_for_runs() {
            std::thread::sleep(TICK);
            let runs = self.runs.load(Ordering::Relaxed);
            let run = self.offered.load(Ordering::Acquire);
            let pinned = self.offered_pin.load(Ordering::Acquire);
            // The thread with the pinned connection is in a call, and does not touch the connection's place in the set before it is done
            // with it.
            let pin = Pin::decode(self.pin.load(Ordering::Relaxed));
            if pinned != 0 && pinned == seen_pinned && take(&self.offered_pin, pinned) {
                self.put_back(pin);
            }
            seen_pinned = pinned;
            if run != 0 && run == seen {
                if take(&self.offered, run) {
                    self.give();
                }
            } else if run == 0 && pinned == 0 && runs == seen {
                quiet += 1;
                if quiet >= QUIET_TICKS {
                    quiet = 0;
                    self.sleep_if_quiet();
                }
                continue;
            }
            quiet = 0;
            seen = if run != 0 { run } else { runs };
        }
    }

    /// False at the end.
    fn wait_for_runs(&self) -> bool {
        let mut state = self.state();
        while !state.monitored && !state.ended {
            state = self.awake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.ended
    }

    /// A run that begins now sees that nobody monitors, or is seen here.
    fn sleep_if_quiet(&self) {
        let mut state = self.state();
        self.monitoring.store(false, Ordering::SeqCst);
        let offers = [&self.offered, &self.offered_pin];
        state.monitored = offers.iter().any(|offer| offer.load(Ordering::SeqCst) != 0);
        self.monitoring.store(state.monitored, Ordering::SeqCst);
    }
}

/// Takes what is offered for a run. False if it is not there any more.
fn take(offer: &AtomicU64, run: u64) -> bool {
    offer
        .compare_exchange(run, 0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}
