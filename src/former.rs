//! Names of before version 1, and what each is called now: the one list of them. Whoever writes an old one is told the new one. The list is
//! for one release, and goes with the next.

/// Keys: the table that they stand in, the old one, the new one.
const KEYS: &[(&str, &str, &str)] = &[
    ("app", "dynamic_svc_uid", "external_uid"),
    ("app", "dynamic_svc_gid", "external_gid"),
    ("resource", "owned_by_dynamic_svc", "owned_by_external"),
    ("bundle", "used_by_dynamic_svc", "used_by_external"),
];

/// Words that are values: the old one, the new one.
const VALUES: &[(&str, &str)] = &[("dynamic", "external")];

/// What a key of such a table is called now, if it is one of before.
pub fn key(table: &str, old: &str) -> Option<&'static str> {
    let found = KEYS.iter().find(|(of, was, _)| *of == table && *was == old);
    found.map(|(_, _, new)| *new)
}

/// What a value is called now, if it is one of before.
pub fn value(old: &str) -> Option<&'static str> {
    VALUES.iter().find(|(was, _)| *was == old).map(|(_, new)| *new)
}

/// How the new name is told.
pub fn now(new: &str) -> String {
    format!("this is called `{new}` now: write that")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_names_are_known_where_they_stood() {
        assert_eq!(key("app", "dynamic_svc_uid"), Some("external_uid"));
        assert_eq!(key("service", "dynamic_svc_uid"), None);
        assert_eq!(value("dynamic"), Some("external"));
        // None of the new names is an old one, too.
        for (table, _, new) in KEYS {
            assert_eq!(key(table, new), None, "{new}");
        }
    }
}
