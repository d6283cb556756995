//! One row a rule.

use crate::model::Life;
use crate::supervise::ids::ServiceId;
use crate::supervise::machine::deps::{Blocked, Dependency, blocked, has_come};
use crate::supervise::machine::exit::{Ended, Ending, Outcome, UNACCEPTED, Verdict};
use crate::supervise::machine::health::{extension, health, wait_for_readiness};
use crate::supervise::machine::restart::{Again, again, given_up_at_once};
use crate::supervise::machine::state::{After, State};
use crate::supervise::machine::stop::whose_turn_to_end;
use crate::supervise::machine::timers::Timer;
use crate::values::{Condition, Restart, ServiceType, Start};
use std::collections::BTreeSet;
use std::time::Duration;

fn failed() -> State {
    State::Failed {
        error: "gone".to_owned(),
    }
}

#[test]
fn what_is_waited_for_comes_in_no_other_state() {
    let of = |condition: Condition| {
        let states = [
            State::Waiting,
            State::Starting,
            State::Running,
            State::Listening,
            State::Stopping,
            State::Stopped,
            State::Exited { code: 0 },
            State::Exited { code: 1 },
            State::Exited { code: 143 },
        ];
        states.map(|state| u8::from(has_come(condition, &state, false)))
    };
    assert_eq!(of(Condition::Started), [0, 0, 0, 1, 0, 0, 1, 1, 1]);
    assert_eq!(of(Condition::Ready), [0, 0, 1, 1, 0, 0, 0, 0, 0]);
    assert_eq!(of(Condition::Completed), [0, 0, 0, 0, 0, 0, 1, 0, 0]);
    assert!(has_come(Condition::Started, &State::Starting, true));
    assert!(!has_come(Condition::Ready, &State::Starting, true));
}

#[test]
fn a_service_waits_for_what_may_come_and_fails_for_what_cannot() {
    use Condition::{Completed, Ready, Started};
    let never = |why: &str| Blocked::Never(format!("depends on `db`, which {why}"));
    let stopped = "was stopped; `pysecure start web` starts both";
    #[rustfmt::skip]
    let rows = [
        (Started,   State::Waiting,            After::Policy, false, Blocked::Wait),
        (Started,   State::Starting,           After::Policy, false, Blocked::Wait),
        (Started,   State::Starting,           After::Policy, true,  Blocked::Free),
        (Started,   State::Running,            After::Policy, true,  Blocked::Free),
        (Started,   State::Listening,          After::Policy, false, Blocked::Free),
        (Started,   State::Exited { code: 3 }, After::Policy, false, Blocked::Free),
        (Started,   State::Restarting,         After::Policy, false, Blocked::Wait),
        (Started,   failed(),                  After::Policy, false, never("failed")),
        (Started,   State::Stopped,            After::Policy, false, never(stopped)),
        (Ready,     State::Starting,           After::Policy, true,  Blocked::Wait),
        (Ready,     State::Running,            After::Policy, true,  Blocked::Free),
        (Ready,     State::Exited { code: 0 }, After::Policy, false, never("ended with code 0")),
        (Completed, State::Running,            After::Policy, true,  Blocked::Wait),
        (Completed, State::Exited { code: 0 }, After::Policy, false, Blocked::Free),
        (Completed, State::Exited { code: 1 }, After::Policy, false, never("ended with code 1")),
        // What is told to end will not stay as it is.
        (Ready,     State::Running,            After::Again,  true,  Blocked::Wait),
        (Ready,     State::Running,            After::Rest,   true,  Blocked::Wait),
        (Started,   State::Stopping,           After::Policy, true,  Blocked::Wait),
    ];
    for (condition, state, after, program_runs, expected) in rows {
        let dependency = Dependency {
            state: &state,
            after,
            program_runs,
        };
        let found = blocked("web", [("db", condition, Some(dependency))].into_iter());
        assert_eq!(found, expected, "{condition:?} {state:?} {after:?} {program_runs}");
    }
    let found = blocked("web", [("db", Started, None)].into_iter());
    assert_eq!(found, never("the app no longer has"));
    assert_eq!(blocked("web", [].into_iter()), Blocked::Free);
}

/// A simple service that ended by itself with this code after it had become ready, and is not restarted.
fn ended(code: i32) -> Ended {
    Ended {
        ending: Ending::Exited(code << 8),
        after: After::Policy,
        held: false,
        began: true,
        ready: true,
        fault: None,
        note: None,
        callers_wait: false,
        accepted: false,
        parting: false,
        kind: ServiceType::Simple,
        start: Start::Auto,
        restart: Restart::No,
    }
}

#[test]
fn what_the_end_of_a_process_leads_to() {
    let could_not = |error: &str, code| Outcome::CouldNotStart {
        error: error.to_owned(),
        code,
    };
    let by_itself = |why: &str, verdict| Outcome::ByItself {
        why: why.to_owned(),
        verdict,
    };
    let plain = |code: i32, verdict| by_itself(&format!("ended with code {code}"), verdict);
    let failed = || Ending::Failed {
        error: "exec: ENOENT".to_owned(),
        code: 127,
    };
    let vanished = crate::launch::LaunchError::Vanished.to_string();
    let sick = || Some("unhealthy".to_owned());
    let on_demand = |code| Ended {
        start: Start::OnDemand,
        ..ended(code)
    };
    let oneshot = |code| Ended {
        kind: ServiceType::Oneshot,
        ..ended(code)
    };
    #[rustfmt::skip]
    let rows = [
        ("a service that ends rests", ended(0), plain(0, Verdict::Rest)),
        ("also one that ends badly", ended(3), plain(3, Verdict::Rest)),
        ("one that was never ready fails", Ended { ready: false, ..ended(0) }, by_itself("ended with code 0 before it was ready", Verdict::Fail)),
        ("one that was ended for a fault fails", Ended { fault: sick(), ..ended(0) }, by_itself("unhealthy", Verdict::Fail)),
        ("the kernel's reason is the reason", Ended { note: Some("killed".into()), restart: Restart::Always, ..ended(137) }, by_itself("killed", Verdict::Restart)),
        ("always is always", Ended { restart: Restart::Always, ..ended(0) }, plain(0, Verdict::Restart)),
        ("on-failure: not when it ended well", Ended { restart: Restart::OnFailure, ..ended(0) }, plain(0, Verdict::Rest)),
        ("on-failure: when it ended badly", Ended { restart: Restart::OnFailure, ..ended(1) }, plain(1, Verdict::Restart)),
        ("on-failure: when it was ended for a fault", Ended { restart: Restart::OnFailure, fault: sick(), ..ended(0) }, by_itself("unhealthy", Verdict::Restart)),
        ("a oneshot that ends well rests", Ended { ready: false, ..oneshot(0) }, plain(0, Verdict::Rest)),
        ("a oneshot that ends badly fails", oneshot(1), plain(1, Verdict::Fail)),
        ("a oneshot that is restarted on failure", Ended { restart: Restart::OnFailure, ..oneshot(1) }, plain(1, Verdict::Restart)),
        ("on demand: it listens again", on_demand(0), plain(0, Verdict::Listen)),
        ("on demand, badly: it rests", on_demand(1), plain(1, Verdict::Rest)),
        ("on demand, and callers wait in vain", Ended { callers_wait: true, ..on_demand(0) }, by_itself(UNACCEPTED, Verdict::Restart)),
        ("on demand, and it took one before those that wait", Ended { callers_wait: true, accepted: true, ..on_demand(0) }, plain(0, Verdict::Listen)),
        ("the relay of one that took one need not be heard", Ended { parting: true, accepted: true, ..on_demand(0) }, plain(0, Verdict::Listen)),
        ("on demand, and the relay has yet to say", Ended { parting: true, ..on_demand(0) }, plain(0, Verdict::AwaitRelay)),
        ("callers in vain come before what the relay says", Ended { callers_wait: true, parting: true, ..on_demand(0) }, by_itself(UNACCEPTED, Verdict::Restart)),
        ("made ready ahead of time: nothing is lost", Ended { held: true, began: false, ready: false, ..on_demand(0) }, Outcome::Spare),
        ("it did not come to its program", Ended { ending: failed(), began: false, ready: false, ..ended(0) }, could_not("exec: ENOENT", 127)),
        ("also one that was held", Ended { ending: failed(), held: true, began: false, ready: false, ..on_demand(0) }, could_not("exec: ENOENT", 127)),
        ("it vanished", Ended { began: false, ready: false, ..ended(0) }, could_not(&vanished, 125)),
        ("it was cut off before it began", Ended { began: false, ready: false, fault: Some("no network".into()), ..ended(137) }, could_not("no network", 125)),
        ("told to end", Ended { after: After::Rest, ..ended(143) }, Outcome::AsTold),
        ("told to end, whatever its policy", Ended { after: After::Rest, restart: Restart::Always, ..ended(1) }, Outcome::AsTold),
        ("told to start anew", Ended { after: After::Again, ending: failed(), began: false, ..ended(0) }, Outcome::AsTold),
        ("removed while it was held", Ended { after: After::Gone, held: true, began: false, ..on_demand(0) }, Outcome::AsTold),
    ];
    for (rule, ended, expected) in rows {
        assert_eq!(ended.outcome(), expected, "{rule}");
    }
    let killed = Ended {
        ending: Ending::Exited(9),
        ..ended(0)
    };
    assert_eq!((killed.code(), killed.failed(), ended(0).failed()), (137, true, false));
}

#[test]
fn restarts_wait_longer_each_time_and_come_to_an_end() {
    let mut rules = Life::default().restart;
    (rules.limit, rules.window) = (3, Duration::from_secs(60));
    let wait = |ms, restarts| Again::In {
        wait: Duration::from_millis(ms),
        restarts,
    };
    let short = Duration::from_secs(1);
    #[rustfmt::skip]
    let rows = [
        ("the first", short, 0, wait(100, 1)),
        ("the second waits twice as long", short, 1, wait(200, 2)),
        ("the last", short, 2, wait(400, 3)),
        ("no more than the limit", short, 3, Again::GivenUp { restarts: 3 }),
        ("one that lasted begins a new row", rules.window, 3, wait(100, 1)),
        ("just not", rules.window - Duration::from_nanos(1), 3, Again::GivenUp { restarts: 3 }),
    ];
    for (rule, ran, before, expected) in rows {
        assert_eq!(again(&rules, ran, before), expected, "{rule}");
    }
    rules.limit = 0;
    assert_eq!(again(&rules, short, 1000), wait(60_000, 1001));
    let once = |waits, restart| given_up_at_once(waits, restart);
    assert!(once(true, Restart::Always) && once(true, Restart::No) && once(false, Restart::No));
    assert!(!once(false, Restart::Always) && !once(false, Restart::OnFailure));
}

#[test]
fn health_is_lost_after_so_many_failures_and_found_at_once() {
    #[rustfmt::skip]
    let rows = [
        // before, failures, well, what follows
        (None,        0, true,  (Some(true), 0)),
        (None,        0, false, (None, 1)),
        (Some(true),  1, false, (Some(true), 2)),
        (Some(true),  2, false, (Some(false), 3)),
        (None,        2, false, (Some(false), 3)),
        (Some(false), 9, false, (Some(false), 10)),
        (Some(false), 9, true,  (Some(true), 0)),
    ];
    for (before, failures, well, expected) in rows {
        assert_eq!(
            health(before, failures, well, 3),
            expected,
            "{before:?} {failures} {well}"
        );
    }
    let second = Duration::from_secs(1);
    let waits = [0, 1, 5, 6, 40].map(|failures| wait_for_readiness(second, failures).as_millis());
    assert_eq!(waits, [20, 40, 640, 1000, 1000]);
}

#[test]
fn a_service_is_given_more_time_within_bounds() {
    let policy = Life {
        start_timeout: Duration::from_secs(10),
        stop_timeout: Duration::from_secs(4),
        ..Life::default()
    };
    let seconds = Duration::from_secs;
    #[rustfmt::skip]
    let rows = [
        ("as much as it asks", State::Starting, false, 0, 30, Some((Timer::Start, seconds(30)))),
        ("ten times start_timeout in all", State::Starting, false, 40, 90, Some((Timer::Start, seconds(60)))),
        ("no more after that", State::Starting, false, 120, 90, Some((Timer::Start, seconds(0)))),
        ("three times stop_timeout", State::Stopping, false, 2, 90, Some((Timer::Stop, seconds(10)))),
        ("nothing if it was told how long it may take", State::Stopping, true, 2, 90, None),
        ("nothing while it runs", State::Running, false, 0, 90, None),
    ];
    for (rule, state, told, in_state, asked, expected) in rows {
        let found = extension(&state, &policy, told, seconds(in_state), seconds(asked));
        assert_eq!(found, expected, "{rule}");
    }
}

#[test]
fn those_end_last_on_whom_others_depend() {
    let id = ServiceId::new;
    // 1 and 2 depend on 0; 3 depends on 2.
    let dependents: [&[ServiceId]; 4] = [&[id(1), id(2)], &[], &[id(3)], &[]];
    let turn = |doomed: &[u32], ending: &[u32]| {
        let doomed: BTreeSet<ServiceId> = doomed.iter().copied().map(id).collect();
        let ends = |of: ServiceId| doomed.contains(&of) || ending.contains(&of.number());
        let free = whose_turn_to_end(&doomed, |of| dependents[of.number() as usize], ends);
        free.iter().map(|of| of.number()).collect::<Vec<_>>()
    };
    assert_eq!(turn(&[0, 1, 2, 3], &[]), [3, 1]);
    // 1 and 3 were told, and have not ended.
    assert_eq!(turn(&[0, 2], &[1, 3]), [] as [u32; 0]);
    assert_eq!(turn(&[0, 2], &[]), [2]);
    assert_eq!(turn(&[0], &[]), [0]);
    // Whoever stays does not hold up what it depends on.
    assert_eq!(turn(&[2], &[]), [2]);
}
