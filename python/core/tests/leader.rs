//! `leader.rs` with loom's atomics and locks: each test runs in all orders that its threads and the memory model allow, and loom
//! fails where what one thread wrote can be read by another that is not ordered after it.

#[allow(dead_code, unreachable_pub)]
#[path = "../src/leader.rs"]
mod leader;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU64, fence};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
    pub(crate) use loom::thread_local;

    pub(crate) fn sleep(_: std::time::Duration) {
        loom::thread::yield_now();
    }
}

use leader::{Interest, LeaderFollowers, Seen};
use loom::cell::Cell;
use loom::sync::{Arc, Mutex};
use loom::thread;

/// What belongs to whoever leads, and what to whoever has the pinned connection. Loom sees to it that no two threads have either at once,
/// and that each sees what the one before it did.
#[derive(Default)]
struct Owned {
    leader: Cell<u32>,
    pinned: [Cell<u32>; 2],
    /// How often each connection was put back.
    put_back: [Cell<u32>; 2],
}

struct Set {
    owned: Arc<Owned>,
    /// Which connection cannot be put back.
    loses: Option<usize>,
}

impl Interest for Set {
    /// Which of the two.
    type Connection = usize;

    fn put_back(&self, connection: usize) -> bool {
        touch(&self.owned.pinned[connection]);
        touch(&self.owned.put_back[connection]);
        self.loses != Some(connection)
    }
}

type Threads = Arc<(LeaderFollowers<Set>, Arc<Owned>)>;

fn threads() -> Threads {
    threads_and_set(None)
}

fn threads_and_set(loses: Option<usize>) -> Threads {
    let owned = Arc::new(Owned::default());
    let set = Set {
        owned: Arc::clone(&owned),
        loses,
    };
    Arc::new((LeaderFollowers::new(set), owned))
}

fn touch(owned: &Cell<u32>) {
    owned.set(owned.get() + 1);
}

/// As few turns of threads against their will as find each of the faults in tests/mutations, so that this takes seconds.
fn in_all_orders(test: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(test);
}

/// A monitor that looks as often as it takes for a run that lasts.
fn monitor(threads: &Threads) -> thread::JoinHandle<()> {
    let threads = Arc::clone(threads);
    thread::spawn(move || {
        let mut seen = Seen::default();
        for _ in 0..2 {
            threads.0.look(&mut seen);
        }
    })
}

#[test]
fn one_thread_leads_whoever_takes_the_leadership() {
    in_all_orders(|| {
        let threads = threads();
        let follower = {
            let threads = Arc::clone(&threads);
            thread::spawn(move || {
                if threads.0.lead() {
                    touch(&threads.1.leader);
                    threads.0.resign();
                }
            })
        };
        let monitor = monitor(&threads);
        if threads.0.lead() {
            touch(&threads.1.leader);
            let run = threads.0.begin(false);
            // Here it runs a function.
            threads.0.done(run);
            if leader::leads() {
                touch(&threads.1.leader);
            }
            threads.0.resign();
        }
        follower.join().unwrap();
        monitor.join().unwrap();
        threads.0.end();
    });
}

#[test]
fn a_pinned_connection_is_one_thread_s_or_the_monitor_s() {
    in_all_orders(|| {
        let threads = threads();
        let monitor = monitor(&threads);
        assert!(threads.0.lead() && threads.0.claim());
        assert!(serve_pinned(&threads, 0));
        monitor.join().unwrap();
        assert_eq!(threads.1.put_back[0].get(), 1);
        threads.0.end();
    });
}

/// What a thread that leads does with a connection that it has claimed, until others are to have it. False if it cannot be put back.
fn serve_pinned(threads: &Threads, connection: usize) -> bool {
    let pinned = &threads.1.pinned[connection];
    touch(pinned);
    threads.0.pin(connection);
    let run = threads.0.begin(false);
    threads.0.done(run);
    if threads.0.may_stay() {
        touch(pinned);
    }
    threads.0.unpin(true)
}

#[test]
fn a_connection_is_back_before_the_next_is_pinned() {
    for loses in [None, Some(0)] {
        in_all_orders(move || {
            let threads = threads_and_set(loses);
            let monitor = monitor(&threads);
            for connection in [0, 1] {
                assert!(threads.0.lead() && threads.0.claim());
                // The thread that had it hears that it is lost, whoever put it back.
                assert_eq!(serve_pinned(&threads, connection), loses != Some(connection));
            }
            monitor.join().unwrap();
            for times in &threads.1.put_back {
                assert_eq!(times.get(), 1);
            }
            threads.0.end();
        });
    }
}

/// As `Connections.drop` does it: whoever finds the connection pinned leaves it to the thread that has it.
fn close(threads: &Threads, descriptor: &Mutex<bool>) {
    let mut open = descriptor.lock().unwrap();
    if *open && !threads.0.is_pinned(|connection| *connection == 0) {
        *open = false;
        touch(&threads.1.pinned[0]);
    }
}

#[test]
fn a_pinned_connection_is_closed_once_and_while_nobody_uses_it() {
    in_all_orders(|| {
        let threads = threads();
        let monitor = monitor(&threads);
        // Under the interpreter's lock: has the connection ended? Under a lock of its own: is its descriptor open?
        let state = Arc::new((Mutex::new(false), Mutex::new(true)));
        let other = {
            let (threads, state) = (Arc::clone(&threads), Arc::clone(&state));
            thread::spawn(move || {
                *state.0.lock().unwrap() = true;
                close(&threads, &state.1);
            })
        };
        assert!(threads.0.lead() && threads.0.claim());
        let ended = state.0.lock().unwrap();
        if !*ended {
            threads.0.pin(0);
            drop(ended);
            touch(&threads.1.pinned[0]);
            let run = threads.0.begin(false);
            threads.0.done(run);
            if threads.0.may_stay() {
                touch(&threads.1.pinned[0]);
            }
            let ended = state.0.lock().unwrap();
            // The leader hears again of one that has ended and was put back.
            if !threads.0.unpin(!*ended) || *ended {
                close(&threads, &state.1);
            }
        }
        other.join().unwrap();
        monitor.join().unwrap();
        assert!(!*state.1.lock().unwrap(), "it is closed");
        threads.0.end();
    });
}

#[test]
fn no_run_begins_unseen_while_the_monitor_goes_to_sleep() {
    in_all_orders(|| {
        let threads = threads();
        assert!(threads.0.lead());
        let run = threads.0.begin(false);
        threads.0.done(run);
        let asleep = {
            let threads = Arc::clone(&threads);
            thread::spawn(move || threads.0.sleep_if_quiet())
        };
        // This one lasts.
        threads.0.begin(false);
        asleep.join().unwrap();
        // It would wait for ever otherwise, which loom sees.
        assert!(threads.0.wait_for_runs());
        threads.0.end();
    });
}
