//! How a process ended: the wait status of waitpid(2).

/// As an exit code, as shells have it: 128+n for signal n.
pub fn exit_code(status: i32) -> u8 {
    match signal(status) {
        None => (status >> 8 & 0xff) as u8,
        Some(signal) => 128 + signal as u8,
    }
}

/// The signal that it was killed by, if it was.
pub fn signal(status: i32) -> Option<i32> {
    Some(status & 0x7f).filter(|signal| *signal != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_status_is_read_as_a_shell_reads_it() {
        for (status, code, by) in [
            (0, 0, None),
            (3 << 8, 3, None),
            (9, 137, Some(9)),
            (11 | 0x80, 139, Some(11)),
        ] {
            assert_eq!((exit_code(status), signal(status)), (code, by), "{status:#x}");
        }
        // A signal that has a number only.
        assert_eq!(exit_code(64), 192);
    }
}
