//! Leader/followers (POSA 2): which of a service's threads waits on the epoll set. The leader runs what comes by itself, which
//! costs no hand-over. While a function runs, the leadership is up for the taking: if the function takes long, the monitor takes it and
//! wakes a follower to lead. A function that was slow lately has the leadership given away before it runs.
//!
//! Where one caller alone calls, again and again, its connection is *pinned*: the leader gives the leadership away, takes the connection
//! out of the epoll set and waits for its messages themselves, which is a system call less for each. It goes back when others
//! call, when nothing comes for a moment, and when a call does not end at once.
//!
//! `tests/leader.rs` runs this with loom's atomics and locks in the place of the standard library's, in all orders that there are.
#![allow(
    clippy::missing_const_for_thread_local,
    reason = "loom's macro knows no `const` blocks"
)]

use crate::sync::{AtomicBool, AtomicU64, Condvar, Mutex, MutexGuard, fence, sleep, thread_local};
use std::cell::Cell;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often the monitor looks. A function that it sees twice runs for longer than that.
const TICK: Duration = Duration::from_millis(1);
/// It sleeps after having seen nothing so often.
const QUIET_TICKS: u32 = 20;

/// What connections are waited for in, and taken out of while they are pinned.
pub trait Interest {
    type Connection;

    /// Puts one back in. False if it cannot be: then nobody would hear of the connection any more.
    fn put_back(&self, connection: Self::Connection) -> bool;
}

/// What a thread does. One that leads, or has a connection pinned to it, may close what the message came from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// It waits to lead, or runs something.
    Follower,
    Leader,
    Pinned,
}

thread_local! {
    static ROLE: Cell<Role> = Cell::new(Role::Follower);
}

fn role() -> Role {
    ROLE.with(Cell::get)
}

fn set_role(role: Role) -> Role {
    ROLE.with(|is| is.replace(role))
}

/// Does this thread lead?
pub fn leads() -> bool {
    role() == Role::Leader
}

/// Does this thread lead, or is a connection pinned to it?
pub fn may_close() -> bool {
    role() != Role::Follower
}

struct State<C> {
    led: bool,
    ended: bool,
    monitored: bool,
    /// The connection that is pinned.
    pinned: Option<C>,
    /// Is it neither pinned any more nor put back?
    lost: bool,
}

/// What the monitor saw when it last looked.
#[derive(Default)]
pub struct Seen {
    run: u64,
    pinned: u64,
    quiet: u32,
}

/// The threads of one service, and who of them leads.
pub struct LeaderFollowers<I: Interest> {
    interest: I,
    state: Mutex<State<I::Connection>>,
    vacant: Condvar,
    awake: Condvar,
    /// Set once, with Release under the lock; read with Acquire by whoever leads, so that it sees what was done before the end.
    ended: AtomicBool,
    /// The number of the run for which the leadership is up for the taking; 0 if it is not. Whoever exchanges the number for 0 has it.
    /// It is stored with Release and exchanged with AcqRel, so that the new leader sees what the old one did. Between its store and
    /// the load of `monitoring` stands a fence, and another in `sleep_if_quiet`, between the store of `monitoring` and the load
    /// of this: either the run is seen by the monitor before it sleeps, or the monitor's sleep by the run.
    offered: AtomicU64,
    /// The same for the thread with the pinned connection. The monitor takes it with `state` locked, and has the connection put back
    /// before it unlocks that: whoever locks `state` afterwards finds both done.
    offered_pin: AtomicU64,
    /// Numbers of runs. Relaxed: each is taken once, and no other memory goes with it.
    runs: AtomicU64,
    /// Is the monitor looking? Relaxed: the fences order it, with `offered` and `offered_pin`.
    monitoring: AtomicBool,
    /// Is a connection pinned? Relaxed, as the next: they are set and read under the interpreter's lock, which orders them.
    claimed: AtomicBool,
    /// Have others called since?
    others_called: AtomicBool,
}

impl<I: Interest> LeaderFollowers<I> {
    pub fn new(interest: I) -> LeaderFollowers<I> {
        LeaderFollowers {
            interest,
            state: Mutex::new(State {
                led: false,
                ended: false,
                monitored: false,
                pinned: None,
                lost: false,
            }),
            vacant: Condvar::new(),
            awake: Condvar::new(),
            ended: AtomicBool::new(false),
            offered: AtomicU64::new(0),
            offered_pin: AtomicU64::new(0),
            runs: AtomicU64::new(0),
            monitoring: AtomicBool::new(false),
            claimed: AtomicBool::new(false),
            others_called: AtomicBool::new(false),
        }
    }

    pub fn interest(&self) -> &I {
        &self.interest
    }

    fn state(&self) -> MutexGuard<'_, State<I::Connection>> {
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
        set_role(Role::Leader);
        true
    }

    /// Gives the leadership away if this thread has it.
    pub fn resign(&self) {
        if set_role(Role::Follower) == Role::Leader {
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
        place.store(run, Ordering::Release);
        fence(Ordering::SeqCst);
        if !self.monitoring.load(Ordering::Relaxed) {
            // Both in one go: said after the monitor had slept again, it would never be woken.
            let mut state = self.state();
            state.monitored = true;
            self.monitoring.store(true, Ordering::Relaxed);
            self.awake.notify_one();
        }
        run
    }

    /// Before a function runs, which is slow or not. What it returns is for [`LeaderFollowers::done`].
    pub fn begin(&self, slow: bool) -> u64 {
        match set_role(Role::Follower) {
            Role::Follower => 0,
            Role::Leader if slow => {
                self.give();
                0
            }
            Role::Leader => self.offer(&self.offered),
            Role::Pinned if slow => {
                self.put_back(&mut self.state());
                0
            }
            Role::Pinned => self.offer(&self.offered_pin),
        }
    }

    /// After it ran: the thread is what it was before, if nobody has taken that.
    pub fn done(&self, run: u64) {
        if run == 0 {
            return;
        }
        if take(&self.offered, run) {
            set_role(Role::Leader);
        } else if take(&self.offered_pin, run) {
            set_role(Role::Pinned);
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

    /// Whoever has the pinned connection puts it back.
    fn put_back(&self, state: &mut State<I::Connection>) {
        if let Some(connection) = state.pinned.take()
            && !self.interest.put_back(connection)
        {
            state.lost = true;
        }
    }

    /// Is a connection pinned?
    pub fn pinned(&self) -> bool {
        self.claimed.load(Ordering::Relaxed)
    }

    /// Is this the connection that is pinned? Then the thread that has it, or the monitor, may be about to use it. Neither is any more
    /// once this says no.
    pub fn is_pinned(&self, is_this: impl FnOnce(&I::Connection) -> bool) -> bool {
        self.state().pinned.as_ref().is_some_and(is_this)
    }

    /// Something came from another than the pinned connection.
    pub fn call_of_others(&self) {
        self.others_called.store(true, Ordering::Relaxed);
    }

    /// May this thread go on with the pinned connection alone?
    pub fn may_stay(&self) -> bool {
        role() == Role::Pinned && !self.others_called.load(Ordering::Relaxed) && !self.ended.load(Ordering::Relaxed)
    }

    /// Claims that a connection may be pinned, which only one can be. It is for [`LeaderFollowers::pin`] or
    /// [`LeaderFollowers::unclaim`] then.
    pub fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::Relaxed)
    }

    /// Nothing is pinned after all.
    pub fn unclaim(&self) {
        self.claimed.store(false, Ordering::Relaxed);
    }

    /// Pins a connection, which is not in the epoll set any more, to this thread, and gives the leadership away.
    pub fn pin(&self, connection: I::Connection) {
        self.others_called.store(false, Ordering::Relaxed);
        set_role(Role::Pinned);
        let earlier = self.state().pinned.replace(connection);
        debug_assert!(earlier.is_none(), "only one can be pinned");
        self.give();
    }

    /// The connection is not pinned any more. It goes back into the epoll set if it `is_open`. False if it is not there: nobody else hears
    /// of it then.
    pub fn unpin(&self, is_open: bool) -> bool {
        // Whatever this thread still has: the monitor may be about to put the connection back, and no other may be pinned before
        // that is done.
        let mut state = self.state();
        if set_role(Role::Follower) == Role::Pinned {
            if is_open {
                self.put_back(&mut state);
            } else {
                state.pinned = None;
                state.lost = true;
            }
        }
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        self.unclaim();
        !lost
    }

    /// The monitor; runs in a thread of its own until the end.
    pub fn monitor(&self) {
        let mut seen = Seen::default();
        while self.wait_for_runs() {
            sleep(TICK);
            self.look(&mut seen);
        }
    }

    /// Takes what is offered for a run that was seen before.
    pub fn look(&self, seen: &mut Seen) {
        let runs = self.runs.load(Ordering::Relaxed);
        let run = self.offered.load(Ordering::Relaxed);
        let pinned = self.offered_pin.load(Ordering::Relaxed);
        // The thread with the pinned connection is in a call, and does not touch the connection's place in the set before it is done
        // with it.
        if pinned != 0 && pinned == seen.pinned {
            let mut state = self.state();
            if take(&self.offered_pin, pinned) {
                self.put_back(&mut state);
            }
        }
        seen.pinned = pinned;
        if run != 0 && run == seen.run {
            if take(&self.offered, run) {
                self.give();
            }
        } else if run == 0 && pinned == 0 && runs == seen.run {
            seen.quiet += 1;
            if seen.quiet >= QUIET_TICKS {
                seen.quiet = 0;
                self.sleep_if_quiet();
            }
            return;
        }
        seen.quiet = 0;
        seen.run = if run != 0 { run } else { runs };
    }

    /// Until there is a run to look at. False at the end.
    pub fn wait_for_runs(&self) -> bool {
        let mut state = self.state();
        while !state.monitored && !state.ended {
            state = self.awake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.ended
    }

    /// A run that begins now sees that nobody monitors, or is seen here.
    pub fn sleep_if_quiet(&self) {
        let mut state = self.state();
        self.monitoring.store(false, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let offers = [&self.offered, &self.offered_pin];
        state.monitored = offers.iter().any(|offer| offer.load(Ordering::Relaxed) != 0);
        self.monitoring.store(state.monitored, Ordering::Relaxed);
    }
}

/// Takes what is offered for a run. False if it is not there any more.
fn take(offer: &AtomicU64, run: u64) -> bool {
    offer
        .compare_exchange(run, 0, Ordering::AcqRel, Ordering::Relaxed)
        .is_ok()
}
