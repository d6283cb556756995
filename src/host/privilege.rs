//! With which ids PySecure works here.

/// With what ids services are kept apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// The host's root: ids are the host's own.
    Root,
    /// A user's outer namespace: ids are mapped onto the user's subordinate ids.
    SubordinateIds,
    /// A user without subordinate ids: one id for all services.
    OneId,
}

/// What this process's ids are called outside of its user namespace: in an outer namespace, the user's own.
pub fn ids_outside() -> Option<(u32, u32)> {
    let uid = outside(
        &std::fs::read_to_string("/proc/self/uid_map").ok()?,
        rustix::process::geteuid().as_raw(),
    )?;
    let gid = outside(
        &std::fs::read_to_string("/proc/self/gid_map").ok()?,
        rustix::process::getegid().as_raw(),
    )?;
    Some((uid, gid))
}

/// user_namespaces(7).
fn outside(map: &str, id: u32) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse::<u32>().ok());
        let (inside, outside, count) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let at = id.checked_sub(inside).filter(|at| *at < count)?;
        outside.checked_add(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_in_the_map() {
        let map = "         0       1013          1\n         1     100000      65536\n";
        assert_eq!(outside(map, 0), Some(1013));
        assert_eq!(outside(map, 5), Some(100_004));
        assert_eq!(outside(map, 65_537), None);
        assert_eq!(outside("0 0 4294967295\n", 7), Some(7));
        assert_eq!(outside("", 0), None);
    }
}
