//! Signals by name and number.

/// As [`signal_number`] takes it, without `SIG`; the number of one that has no name.
pub fn signal_name(number: u8) -> String {
    let name = nix::sys::signal::Signal::try_from(i32::from(number)).map(nix::sys::signal::Signal::as_str);
    name.map_or_else(|_| number.to_string(), |name| name.trim_start_matches("SIG").to_owned())
}

/// signal(7). `TERM`, `SIGTERM`, `15`.
pub fn signal_number(name: &str) -> Option<u8> {
    if let Ok(number) = name.parse::<u8>() {
        return nix::sys::signal::Signal::try_from(i32::from(number))
            .is_ok()
            .then_some(number);
    }
    let full = if name.starts_with("SIG") {
        name.to_owned()
    } else {
        format!("SIG{name}")
    };
    let signal: nix::sys::signal::Signal = full.parse().ok()?;
    u8::try_from(signal as i32).ok()
}
