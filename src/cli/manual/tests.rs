use super::*;
use std::collections::BTreeSet;
use std::path::PathBuf;

fn roff_of(page: &Page) -> String {
    roff::page(page, "2026-11-28")
}

/// As it is read, without what is bold.
fn read(page: &Page) -> String {
    roff_of(page)
        .replace("\\fB", "")
        .replace("\\fR", "")
        .replace("\\-", "-")
}

fn page_of(name: &str) -> Page {
    pages()
        .into_iter()
        .find(|page| page.name == name)
        .unwrap_or_else(|| panic!("no page {name}"))
}

#[test]
fn every_command_has_its_place_and_an_example() {
    let cli = built();
    let mut all = BTreeSet::new();
    walk(&cli, &mut |path, command| {
        assert!(all.insert(path.to_owned()));
        let text = text_of(path).unwrap_or_else(|| panic!("nothing is said of `{path}` in commands.rs"));
        assert!(!text.examples.is_empty(), "{path}");
        for (_, lines) in text.examples {
            assert!(lines.contains("pysecure"), "{path}: {lines}");
        }
        assert!(!about_of(command).is_empty(), "{path}");
        let described = command.get_arguments().filter(|arg| !arg.is_hide_set());
        for arg in described {
            assert!(
                arg.get_help().is_some(),
                "`{path}`: nothing is said of {}",
                arg.get_id()
            );
        }
    });
    let grouped: Vec<&str> = GROUPS.iter().flat_map(|(_, names)| *names).copied().collect();
    let shown: BTreeSet<&str> = super::shown(&cli).map(Command::get_name).collect();
    assert_eq!(grouped.iter().copied().collect::<BTreeSet<_>>(), shown);
    assert_eq!(grouped.len(), shown.len(), "one is in two groups");
    for about in COMMANDS {
        assert!(all.contains(about.command), "there is no `{}`", about.command);
    }
}

#[test]
fn every_option_and_key_is_in_its_page() {
    let cli = built();
    let has = |page: &str, word: &str| {
        let text = read(&page_of(page));
        assert!(
            text.contains(&format!("{word}\n"))
                || text.contains(&format!("{word} "))
                || text.contains(&format!("{word},")),
            "{page}: {word}"
        );
    };
    walk(&cli, &mut |path, command| {
        for arg in command
            .get_arguments()
            .filter(|arg| !arg.is_hide_set() && !arg.is_global_set())
        {
            if arg.get_id() != "help" {
                has(&page_name(path), &term(arg).replace('`', ""));
            }
        }
    });
    for arg in cli.get_arguments().filter(|arg| arg.get_id() != "help") {
        has("pysecure", &term(arg).replace('`', ""));
    }
    let schema = crate::manifest::schema();
    let described: BTreeSet<&str> = manifest::tables().collect();
    for (name, table) in schema["$defs"].as_object().unwrap() {
        assert!(
            described.contains(name.as_str()),
            "pysecure.toml(5) has no table {name}"
        );
        for key in table["properties"].as_object().unwrap().keys() {
            has("pysecure.toml", key);
        }
    }
}

/// The recipe's reader says itself what it knows.
#[test]
fn the_page_of_recipes_has_the_keys_that_are_read() {
    let error = toml::from_str::<crate::jail::recipe::Recipe>("nothing = 1")
        .unwrap_err()
        .to_string();
    let expected = error.split_once("expected one of ").unwrap().1;
    let known: BTreeSet<&str> = expected.split('`').skip(1).step_by(2).collect();
    assert_eq!(
        recipe::KEYS.iter().map(|(key, ..)| *key).collect::<BTreeSet<_>>(),
        known
    );
}

#[test]
fn pages_have_what_a_manual_has() {
    for page in pages() {
        let text = roff_of(&page);
        let wanted: &[&str] = match page.section {
            1 if page.name == "pysecure" => &[
                "SYNOPSIS",
                "COMMANDS",
                "GLOBAL OPTIONS",
                "EXIT STATUS",
                "ENVIRONMENT",
                "FILES",
                "SECURITY",
                "EXAMPLES",
                "SEE ALSO",
                "BUGS",
            ],
            1 => &["SYNOPSIS", "DESCRIPTION", "EXAMPLES", "EXIT STATUS", "SEE ALSO"],
            5 => &["DESCRIPTION", "KEYS", "EXAMPLES", "SEE ALSO"],
            _ => &["DESCRIPTION", "MESSAGES", "SEE ALSO"],
        };
        for title in wanted {
            assert!(text.contains(&format!(".SH \"{title}\"\n")), "{}: {title}", page.name);
        }
        let head = format!(
            ".TH \"{}\" {} \"2026\\-11\\-28\"",
            page.name.to_uppercase().replace('-', "\\-"),
            page.section
        );
        assert!(
            text.starts_with(&head.replace("2026\\-11\\-28", "2026-11-28")),
            "{}",
            text.lines().next().unwrap()
        );
        assert!(text.is_ascii(), "{}", page.name);
        assert!(
            text.lines().all(|line| !line.is_empty() && !line.ends_with(' ')),
            "{}",
            page.name
        );
    }
    // Names of pages of ours that are referred to are there.
    let names: BTreeSet<String> = pages()
        .iter()
        .map(|page| format!("{}({})", page.name, page.section))
        .collect();
    for about in COMMANDS {
        for other in about.see.iter().filter(|other| other.starts_with("pysecure")) {
            assert!(names.contains(*other), "{}: {other}", about.command);
        }
    }
}

#[test]
fn a_page_is_the_same_wherever_it_is_made() {
    assert_eq!(
        released("# Changelog\n\n## Unreleased\n\n## [0.2.0] - 2027-01-02\n## 0.1.0 - 2026-12-01\n"),
        Some("2027-01-02")
    );
    assert_eq!(released("# Changelog\n\n## Unreleased\n"), None);
}

#[test]
fn what_a_macro_would_read_is_made_plain() {
    let page = Page {
        name: "x".into(),
        section: 1,
        about: "y".into(),
        sections: Vec::new(),
    }
    .with(
        "TEXT",
        vec![Block::text(".SH it's \\n `a -b`"), Block::code(".end\n'x")],
    );
    let text = roff_of(&page);
    assert!(
        text.ends_with(
            ".SH \"TEXT\"\n\\&.SH it\\(aqs \\en \\fBa\\fR \\fB\\-b\\fR\n.PP\n.RS 4\n.nf\n\\&.end\n\\(aqx\n.fi\n.RE\n"
        ),
        "{text}"
    );
}

/// `PYSECURE_BLESS=1` writes what is not so.
#[test]
fn the_reference_is_what_the_program_says() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let bless = std::env::var_os("PYSECURE_BLESS").is_some();
    for (name, text) in reference() {
        let path = root.join("docs/reference").join(name);
        if bless {
            std::fs::write(&path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == text,
            "{} is not what the program says: PYSECURE_BLESS=1 cargo test --lib cli::manual",
            path.display()
        );
    }
    let page = root.join("docs/reference/commands.md");
    let committed = std::fs::read_to_string(&page).unwrap();
    assert!(
        committed.contains(&exit_table()),
        "{}: its table of exit codes is not src/cli/error.rs's:\n{}",
        page.display(),
        exit_table()
    );
}

#[test]
fn help_has_groups_and_examples_and_nothing_hidden() {
    let help = |words: &[&str]| {
        let cli = documented(Cli::command(), !words.contains(&"-h"));
        let words = std::iter::once(&"pysecure").chain(words);
        cli.try_get_matches_from(words).unwrap_err().to_string()
    };
    let whole = help(&["--help"]);
    for (heading, names) in GROUPS {
        let from = whole
            .split_once(&format!("\n{heading}:\n"))
            .unwrap_or_else(|| panic!("{whole}"))
            .1;
        let group = from.split_once("\n\n").unwrap().0;
        assert_eq!(
            group
                .lines()
                .map(|line| line.split_whitespace().next().unwrap())
                .collect::<Vec<_>>(),
            *names
        );
    }
    assert!(
        whole.contains("`pysecure init`") && whole.contains("\nGlobal options:\n"),
        "{whole}"
    );
    assert!(
        !whole.contains("read-python") && !whole.contains("\n  call "),
        "{whole}"
    );
    let long = help(&["up", "--help"]);
    assert!(
        long.contains("\nExamples:\n") && long.contains("    pysecure up -d\n"),
        "{long}"
    );
    assert!(long.contains("\nGlobal options:\n"), "{long}");
    let short = help(&["up", "-h"]);
    assert!(!short.contains("Examples:") && short.len() < long.len(), "{short}");
    assert!(help(&["jail", "build", "--help"]).contains("jail_resources.txt"));
}
