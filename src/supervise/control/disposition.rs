//! What a signal would do to a service's program, as proc_pid_status(5) tells of it.

use crate::launch::descendants;
use crate::values::signal_name;

/// Signals that end nothing where there is no handler; signal(7).
const HARMLESS: [i32; 4] = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];

/// Why the program below this PID 1 is better not sent a signal that it is to act on. One that blocks it may wait for it with
/// sigwait(3) or signalfd(2).
pub(super) fn unhandled(init: u32, signal: u8) -> Option<String> {
    // The first of PID 1's children is the service's program; the others were orphaned below it.
    let program = *descendants::children(init).first()?;
    let status = std::fs::read_to_string(format!("/proc/{program}/status")).ok()?;
    why(&status, signal)
}

fn why(status: &str, signal: u8) -> Option<String> {
    let bit = 1u64.checked_shl(u32::from(signal).checked_sub(1)?)?;
    let has = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        Some(u64::from_str_radix(line.trim(), 16).ok()? & bit != 0)
    };
    let (caught, blocked, ignored) = (has("SigCgt:")?, has("SigBlk:")?, has("SigIgn:")?);
    let name = signal_name(signal);
    match () {
        () if caught || blocked => None,
        () if ignored => Some(format!("left alone: its program ignores {name}")),
        () if HARMLESS.contains(&i32::from(signal)) => {
            Some(format!("left alone: its program has no handler for {name}"))
        }
        () => Some(format!(
            "left alone: its program has no handler for {name}, which would end it; `restart` has it read its configuration anew, \
             or `reload_signal` names the signal that it takes"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_is_for_programs_that_catch_it_or_wait_for_it() {
        let status = |blocked: &str, ignored: &str, caught: &str| {
            format!("Name:\tx\nSigPnd:\t0000000000000000\nSigBlk:\t{blocked}\nSigIgn:\t{ignored}\nSigCgt:\t{caught}\n")
        };
        let (none, hup) = ("0000000000000000", "0000000000000001");
        assert_eq!(why(&status(none, none, hup), 1), None);
        assert_eq!(why(&status(hup, none, none), 1), None);
        let told = |status: &str, signal| why(status, signal).unwrap();
        assert!(told(&status(none, hup, none), 1).contains("ignores HUP"));
        assert!(told(&status(none, none, none), 1).contains("no handler for HUP, which would end it"));
        assert!(!told(&status(none, none, none), libc::SIGWINCH as u8).contains("end it"));
        // What cannot be read says nothing.
        assert_eq!(why("", 1), None);
        assert_eq!(why(&status(none, none, none), 0), None);
    }
}
