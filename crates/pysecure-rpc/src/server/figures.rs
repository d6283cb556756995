//! What a service counts of its functions (docs/reference/rpc-protocol.md, "Figures").

use pysecure_wire::figures::{Counters, MAX_SLOTS, hand_over};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

/// The counters of this process. Functions beyond the slots of a page are not counted.
pub(super) struct Figures {
    counters: Counters,
    /// By name, with the empty name for what is no function.
    slots: HashMap<&'static str, usize>,
}

impl Figures {
    /// For these functions, if there is a supervisor to read it. A service runs as well without.
    pub(super) fn under_pysecure(names: impl Iterator<Item = &'static str>) -> Option<Figures> {
        let supervisor = std::env::var_os("NOTIFY_SOCKET")?;
        std::env::var_os("PYSECURE_RPC_CALLERS")?;
        let made = Figures::handed_over(names, &supervisor);
        made.inspect_err(|e| eprintln!("calls are not counted: {e}")).ok()
    }

    fn handed_over(names: impl Iterator<Item = &'static str>, supervisor: &OsStr) -> std::io::Result<Figures> {
        let (page, figures) = Figures::new(names)?;
        hand_over(page.as_fd(), supervisor)?;
        Ok(figures)
    }

    fn new(names: impl Iterator<Item = &'static str>) -> std::io::Result<(OwnedFd, Figures)> {
        let names: Vec<&'static str> = std::iter::once("").chain(names).take(MAX_SLOTS).collect();
        let (page, counters) = Counters::create(names.iter().copied())?;
        let slots = names.into_iter().enumerate().map(|(slot, name)| (name, slot)).collect();
        Ok((page, Figures { counters, slots }))
    }

    /// A call of this function has ended.
    pub(super) fn ended(&self, function: &str, took: Duration, failed: bool) {
        if let Some(slot) = self.slots.get(function) {
            self.counters.ended(*slot, took, failed);
        }
    }

    /// A caller was refused this function, or with the empty name what is no function.
    pub(super) fn refused(&self, function: &str) {
        if let Some(slot) = self.slots.get(function) {
            self.counters.refused(*slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pysecure_wire::figures::Page;

    #[test]
    fn functions_without_a_slot_are_not_counted() {
        let names: Vec<&'static str> = (0..300).map(|n| &*format!("f{n:03}").leak()).collect();
        let (page, figures) = Figures::new(names.iter().copied()).unwrap();
        for name in &names {
            figures.ended(name, Duration::ZERO, true);
            figures.refused(name);
        }
        figures.refused("");
        let mut read = Vec::new();
        Page::check(page)
            .unwrap()
            .read(|name, numbers| read.push((name.to_vec(), numbers[..3].to_vec())));
        assert_eq!(read.len(), MAX_SLOTS);
        // The empty name counts what is no function, and nothing of functions that found no slot.
        assert_eq!(read[0], (Vec::new(), vec![0, 0, 1]));
        assert!(read[1..].iter().all(|(_, numbers)| *numbers == [1, 1, 1]));
    }
}
