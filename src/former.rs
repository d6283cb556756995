//! Names of before version 1, and what each is called now: the one list of them. Whoever writes an old one is told the new one. The list is
//! for one release, and goes with the next.

/// Keys: the table that they stand in, the old one, the new one.
const KEYS: &[(&str, &str, &str)] = &[
    ("app", "dynamic_svc_uid", "external_uid"),
    ("app", "dynamic_svc_gid", "external_gid"),
    ("app", "initialize", "setup"),
    ("app", "initialize_rootfs", "setup_jail"),
    ("app", "rpc_largest", "rpc_max_message"),
    ("resource", "owned_by_dynamic_svc", "owned_by_external"),
    ("resource", "adopt", "chown"),
    ("bundle", "used_by_dynamic_svc", "used_by_external"),
    ("service", "rootfs", "jail"),
    ("sandbox", "rootfs", "jail"),
    ("recipe", "depends", "with_dependencies"),
];

/// The folder beside a manifest that had the recipes which are in `jails` now.
pub const RECIPES: &str = "rootfs-templates";

/// Commands, and their options with a space before: the old ones, the new ones.
const COMMANDS: &[(&str, &str)] = &[
    ("init-resources", "setup"),
    ("jail build --from", "jail build --list"),
    ("jail build --fresh", "jail build --no-cache"),
    ("call --list", "rpc list"),
    ("call -l", "rpc list"),
];

/// Words that are values: the old one, the new one.
const VALUES: &[(&str, &str)] = &[("dynamic", "external"), ("kept", "persistent")];

/// What a key of such a table is called now, if it is one of before.
pub fn key(table: &str, old: &str) -> Option<&'static str> {
    let found = KEYS.iter().find(|(of, was, _)| *of == table && *was == old);
    found.map(|(_, _, new)| *new)
}

/// What a value is called now, if it is one of before.
pub fn value(old: &str) -> Option<&'static str> {
    VALUES.iter().find(|(was, _)| *was == old).map(|(_, new)| *new)
}

/// A recipe's key of before, and what it is called now.
pub fn recipe_key(old: &str) -> Option<(&'static str, &'static str)> {
    let found = KEYS.iter().find(|(of, was, _)| *of == "recipe" && *was == old);
    found.map(|(_, was, new)| (*was, *new))
}

/// What a command is called now, if it is one of before.
pub fn command(old: &str) -> Option<&'static str> {
    COMMANDS.iter().find(|(was, _)| *was == old).map(|(_, new)| *new)
}

/// What is to be written for a command with this option, if that was once so: `line` is what was typed.
pub fn option(line: &[&str], option: &str) -> Option<&'static str> {
    let found = COMMANDS.iter().find(|(was, _)| {
        was.rsplit_once(' ')
            .is_some_and(|(command, last)| last == option && command.split(' ').all(|word| line.contains(&word)))
    });
    found.map(|(_, new)| *new)
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
        assert_eq!(recipe_key("depends"), Some(("depends", "with_dependencies")));
        assert_eq!(recipe_key("adopt"), None);
        assert_eq!(command("init-resources"), Some("setup"));
        assert_eq!(
            option(&["jail", "build", "--from"], "--from"),
            Some("jail build --list")
        );
        assert_eq!(option(&["run", "--from"], "--from"), None);
        assert_eq!(command("build"), None);
        // Each stands here once, and none of the new names is an old one, too.
        for (table, old, new) in KEYS {
            assert_eq!(key(table, new), None, "{new}");
            let same = |(of, was, _): &&(&str, &str, &str)| of == table && was == old;
            assert_eq!(KEYS.iter().filter(same).count(), 1, "{old}");
        }
    }
}
