//! What processes have used, as the kernel tells it; proc_pid_stat(5).

use crate::sys;
use rustix::fs::{Mode, OFlags};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the processes of a run have computed: those that are there, and those that were waited for.
///
/// Of a child that nobody waits for, since its parent ignores SIGCHLD, nothing is left when it has ended. What was seen of it before
/// is added: a lower bound, which is the closer the more often it is looked at.
#[derive(Clone, Debug, Default)]
pub(super) struct Spent {
    /// Those that were there at the last look.
    processes: BTreeMap<i32, Used>,
    /// Nanoseconds that were seen of those that have ended since, less those that their parents have had from them.
    missing: i64,
    /// As much of it, at the last look, as no ticks explain.
    excess: i64,
    /// How many looks more it is looked at often, since some were lost.
    often: u32,
    /// Does the kernel count all together, which needs no looks?
    exact: bool,
    lost: Duration,
    /// The most that there was in all.
    most: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Used {
    own: Duration,
    /// By those that it has waited for.
    waited_for: Duration,
}

/// So often it is looked at what loses children.
const OFTEN: Duration = Duration::from_millis(5);
const LOOKS: u32 = 100;
/// And so often at all others.
const SELDOM: Duration = Duration::from_millis(200);
/// Of each process it is told in ticks what its children computed, the user's time and the system's.
const INEXACT: i64 = 2 * 10_000_000;

impl Spent {
    /// What it comes to now, for these processes and all that came of them.
    pub(super) fn look(&mut self, roots: &[i32]) -> Duration {
        // Who is handed on to another parent meanwhile is not met, and has not ended; and of the end of these it is told elsewhere.
        let there = |pid: &i32| roots.contains(pid) || sys::cpu_time(*pid).is_some();
        self.compare(processes(roots), there)
    }

    /// What the kernel has counted.
    pub(super) fn counted(&mut self, sum: Duration) -> Duration {
        self.exact = true;
        self.at_least(sum)
    }

    fn at_least(&mut self, sum: Duration) -> Duration {
        self.most = self.most.max(sum);
        self.most
    }

    fn compare(&mut self, now: BTreeMap<i32, Used>, there: impl Fn(&i32) -> bool) -> Duration {
        let nanoseconds = |time: Duration| time.as_nanos().min(i64::MAX as u128) as i64;
        let mut change = 0;
        for (pid, before) in &self.processes {
            match now.get(pid) {
                Some(of) => change -= nanoseconds(of.waited_for.saturating_sub(before.waited_for)),
                None if there(pid) => {}
                None => change += nanoseconds(before.own + before.waited_for),
            }
        }
        let fresh = now.iter().filter(|(pid, _)| !self.processes.contains_key(pid));
        change -= fresh.map(|(_, of)| nanoseconds(of.waited_for)).sum::<i64>();
        self.often = if change > 0 {
            LOOKS
        } else {
            self.often.saturating_sub(1)
        };
        // What parents have had of children that were never seen makes up for nothing.
        self.missing = self.missing.saturating_add(change).max(0);
        let inexact = INEXACT.saturating_mul(now.len() as i64);
        let excess = self.missing.saturating_sub(inexact).max(0);
        // Who was waited for while this looked shows at its parent the next time.
        let lost = excess.min(self.excess);
        self.excess = excess;
        self.lost = self.lost.max(Duration::from_nanos(lost as u64));
        let sum: Duration = now.values().map(|of| of.own + of.waited_for).sum();
        self.processes = now;
        self.at_least(self.lost + sum)
    }

    /// With what was lost, and no less than what was seen. `sum`: of those that were waited for, at the end.
    pub(super) fn in_all(&self, sum: Duration) -> Duration {
        (self.lost + sum).max(self.most)
    }

    /// How long to wait until the next look, where it would be this long.
    pub(super) fn pause(&self, pause: Duration) -> Duration {
        match self.exact {
            true => pause,
            false => pause.min(if self.often > 0 { OFTEN } else { SELDOM }),
        }
    }
}

fn processes(roots: &[i32]) -> BTreeMap<i32, Used> {
    let mut next = roots.to_vec();
    let mut out = BTreeMap::new();
    while let Some(pid) = next.pop() {
        if let (Some(own), false) = (sys::cpu_time(pid), out.contains_key(&pid)) {
            let waited_for = of_the_dead(pid);
            out.insert(pid, Used { own, waited_for });
            next.extend(children(pid));
        }
    }
    out
}

/// How long a process and those that it has waited for have computed.
pub(super) fn of_family(pid: i32) -> Duration {
    sys::cpu_time(pid).unwrap_or_default() + of_the_dead(pid)
}

/// Is it certain that a process of one thread has no children, dead ones that it has not waited for among them?
pub(super) fn is_childless(pid: i32) -> bool {
    children_of_one_thread(pid).is_some_and(|children| children.is_empty())
}

/// The children of a process of one thread, dead ones that it has not waited for among them; `None` if there are more than can be told
/// at once. proc_tid_children(5).
pub(super) fn children_of_one_thread(pid: i32) -> Option<Vec<i32>> {
    let children = told(pid, &format!("task/{pid}/children")).filter(|text| text.len() < MOST_TOLD)?;
    children.split_whitespace().map(|pid| pid.parse().ok()).collect()
}

/// As much of a file of /proc/PID is read, in bytes: a page.
const MOST_TOLD: usize = 4096;

/// What a file of /proc/PID says, as far as a page goes. One call reads that: files of unknown length are read in many small pieces
/// otherwise, each of which the kernel has to make.
pub(super) fn told(pid: i32, file: &str) -> Option<String> {
    let path = format!("/proc/{pid}/{file}");
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = vec![0u8; MOST_TOLD];
    let length = rustix::io::read(&file, &mut bytes[..]).ok()?;
    bytes.truncate(length);
    // A process may have any name.
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A process that waits for a message, has one thread and no child that it has not waited for; and how long it has computed. As long as
/// that stays the same it has done nothing else.
pub(super) fn waits_alone(pid: i32) -> Option<Duration> {
    let computed = sys::cpu_time(pid)?;
    let call = told(pid, "syscall")?;
    let stat = told(pid, "stat")?;
    (is_receiving(&call) && has_one_thread(&stat) && is_childless(pid)).then_some(computed)
}

/// /proc/PID/syscall: the number of the call that it is blocked in, or `running`; proc_pid_syscall(5).
fn is_receiving(call: &str) -> bool {
    let number = call.split_whitespace().next().and_then(|number| number.parse().ok());
    number == Some(libc::SYS_recvfrom)
}

/// `num_threads` of a line of /proc/PID/stat; proc_pid_stat(5).
fn has_one_thread(stat: &str) -> bool {
    let fields = stat.rsplit_once(')').map(|(_, fields)| fields);
    // The state, which follows the name, is field 3.
    fields.and_then(|fields| fields.split_whitespace().nth(20 - 3)) == Some("1")
}

/// What those have computed that it has waited for.
fn of_the_dead(pid: i32) -> Duration {
    let stat = told(pid, "stat").unwrap_or_default();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Duration::from_millis(waited_for(&stat).unwrap_or_default().saturating_mul(1000) / per_second)
}

/// `cutime` and `cstime` of a line of /proc/PID/stat, in ticks. The name may hold anything.
fn waited_for(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(')')?;
    // The state, which follows the name, is field 3.
    let times = fields.split_whitespace().skip(16 - 3).take(2);
    times.map(|time| time.parse::<u64>().ok()).sum()
}

fn children(pid: i32) -> Vec<i32> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let of = |thread: std::fs::DirEntry| std::fs::read_to_string(thread.path().join("children")).ok();
    let all: String = threads.filter_map(of).collect();
    all.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at processes of which this is known: pid, and milliseconds of its own and of those that it has waited for.
    fn look(spent: &mut Spent, now: &[(i32, u64, u64)]) -> u64 {
        let ms = Duration::from_millis;
        let used = |(pid, own, waited_for): &(i32, u64, u64)| {
            let (own, waited_for) = (ms(*own), ms(*waited_for));
            (*pid, Used { own, waited_for })
        };
        // Process 9 is always there, whether or not it is met.
        spent
            .compare(now.iter().map(used).collect(), |pid| *pid == 9)
            .as_millis() as u64
    }

    #[test]
    fn what_ends_unwaited_for_stays_counted() {
        let mut spent = Spent::default();
        assert_eq!(look(&mut spent, &[(1, 10, 0), (2, 200, 0)]), 210);
        // It has ended, and its parent knows nothing of it. Ticks make that inexact.
        assert_eq!(look(&mut spent, &[(1, 10, 0), (3, 100, 0)]), 210);
        assert_eq!(spent.pause(Duration::MAX), OFTEN);
        assert_eq!(look(&mut spent, &[(1, 10, 0)]), 210);
        assert_eq!(look(&mut spent, &[(1, 10, 0), (4, 10, 0)]), 280);
        for _ in 1..LOOKS {
            assert_eq!(spent.pause(Duration::MAX), OFTEN);
            look(&mut spent, &[(1, 10, 0), (4, 10, 0)]);
        }
        assert_eq!(spent.pause(Duration::MAX), SELDOM);
        assert_eq!(spent.in_all(Duration::ZERO), Duration::from_millis(280));
        assert_eq!(spent.in_all(Duration::from_millis(50)), Duration::from_millis(310));
        // Many that are each seen for a moment.
        let mut spent = Spent::default();
        for pid in 100..200 {
            look(&mut spent, &[(1, 10, 0), (pid, 5, 0)]);
        }
        look(&mut spent, &[(1, 10, 0)]);
        assert_eq!(look(&mut spent, &[(1, 10, 0)]), 10 + 500 - 20);
    }

    #[test]
    fn what_was_waited_for_is_not_counted_twice() {
        let mut spent = Spent::default();
        // Children that end one after the other, of which the parent's ticks tell late.
        for pid in 100..200_u64 {
            look(&mut spent, &[(1, 10, (pid - 100) * 4 / 10 * 10), (pid as i32, 3, 0)]);
        }
        assert_eq!(look(&mut spent, &[(1, 10, 400)]), 410);
        // One that is handed on to another parent, and met by none for a moment.
        let mut spent = Spent::default();
        assert_eq!(look(&mut spent, &[(1, 10, 0), (9, 300, 0)]), 310);
        assert_eq!(look(&mut spent, &[(1, 10, 0)]), 310);
        assert_eq!(look(&mut spent, &[(1, 10, 0), (9, 320, 0)]), 330);
        // One that is waited for between its parent's turn and its own.
        let mut spent = Spent::default();
        assert_eq!(look(&mut spent, &[(1, 10, 0), (2, 300, 0)]), 310);
        assert_eq!(look(&mut spent, &[(1, 10, 0)]), 310);
        assert_eq!(look(&mut spent, &[(1, 10, 300)]), 310);
        assert_eq!(look(&mut spent, &[(1, 10, 300)]), 310);
        // A process takes along what it has waited for.
        let mut spent = Spent::default();
        assert_eq!(look(&mut spent, &[(1, 10, 0), (2, 100, 200)]), 310);
        assert_eq!(look(&mut spent, &[(1, 10, 300)]), 310);
    }

    #[test]
    fn what_children_computed_stands_behind_any_name() {
        let line = "7 (a) 1 2 (b)) S 1 7 7 0 -1 4194304 100 0 0 0 11 12 130 4 20 0 1 0 5 6 7";
        assert_eq!(waited_for(line), Some(134));
        assert_eq!(waited_for("7 (a) S 1"), Some(0));
        assert_eq!(waited_for(""), None);
        assert_eq!(waited_for("7 (a) S 1 7 7 0 -1 4194304 100 0 0 0 11 12 -3 4"), None);
    }

    #[test]
    fn who_waits_for_a_message_waits_alone() {
        let line = |threads: &str| format!("7 (a) b) R 1 7 7 0 -1 4 1 0 0 0 1 2 3 4 20 0 {threads} 0 5 6 7");
        assert!(has_one_thread(&line("1")) && !has_one_thread(&line("2")) && !has_one_thread("7 (1 1 1 1"));
        let call = |number: i64| format!("{number} 0x6 0x7ffd 0x1 0x0 0x0 0x0 0x7ffd5a485ba0 0x7f6031208aa5");
        assert!(is_receiving(&call(libc::SYS_recvfrom)));
        assert!(!is_receiving(&call(libc::SYS_write)) && !is_receiving("running") && !is_receiving(""));
        // This thread is not waiting.
        assert_eq!(waits_alone(std::process::id() as i32), None);
    }

    /// The pool's question is answered by the kernel: who waits is told from who has a thread or a child more.
    #[test]
    fn only_who_waits_alone_is_taken_for_that() {
        let start = |before: &str| {
            let code = format!(
                "import os, socket, sys, threading, time\na, b = socket.socketpair()\n{before}\nprint(flush=True)\na.recv(1)"
            );
            let mut child = std::process::Command::new("python3");
            let child = child.args(["-c", &code]).stdout(std::process::Stdio::piped());
            let mut child = child.spawn().unwrap();
            std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
            child
        };
        let waits = |child: &std::process::Child| waits_alone(child.id() as i32);
        let mut alone = start("");
        while waits(&alone).is_none() {}
        assert_eq!(waits(&alone), waits(&alone));
        let sleeper = "threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()";
        let forked = "if os.fork() == 0: time.sleep(1e6)";
        let dead = "if os.fork() == 0: os._exit(0)";
        let mut others = [sleeper, forked, dead].map(start);
        for (other, why) in others.iter().zip(["a thread", "a child", "a dead child"]) {
            // Until it is in the same call as the first one.
            let call = || std::fs::read_to_string(format!("/proc/{}/syscall", other.id())).unwrap();
            while !is_receiving(&call()) {}
            assert_eq!(waits(other), None, "{why}");
        }
        for child in others.iter_mut().chain([&mut alone]) {
            for pid in children(child.id() as i32) {
                let _ = sys::kill(pid, libc::SIGKILL);
            }
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_process_is_counted_with_its_children() {
        let own = std::process::id() as i32;
        let mut child = std::process::Command::new("sh");
        let mut child = child.args(["-c", "while :; do :; done"]).spawn().unwrap();
        let pid = child.id() as i32;
        let computed = || Spent::default().look(&[pid]);
        while computed() < Duration::from_millis(20) {}
        assert!(children(own).contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(computed().is_zero());
        assert!(of_the_dead(own) >= Duration::from_millis(10));
        // Whose end is told elsewhere is not lost here.
        let mut spent = Spent::default();
        spent.processes.insert(
            pid,
            Used {
                own: Duration::from_secs(9),
                waited_for: Duration::ZERO,
            },
        );
        spent.look(&[pid]);
        assert!(spent.lost.is_zero());
        spent.processes.insert(
            pid,
            Used {
                own: Duration::from_secs(9),
                waited_for: Duration::ZERO,
            },
        );
        spent.look(&[]);
        spent.look(&[]);
        assert_eq!(spent.lost, Duration::from_secs(9));
    }
}
