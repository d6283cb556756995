//! What of a folder is left out of what services see: patterns, as gitignore(5) has them.
//!
//! A pattern without a slash is a name, wherever it lies in the folder; one with a slash is a path from the folder on.
//! What is below something left out is left out as well. `!` before a pattern shows again what an earlier one left out;
//! the last one that fits decides.

use crate::manifest::diagnostic::Diagnostic;
use crate::manifest::types::At;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Exclude {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    text: String,
    pattern: glob::Pattern,
    /// By the whole path, not by the name alone?
    path: bool,
    shows: bool,
    /// The name or path, if it is no pattern: it is left out even where it is not there yet.
    literal: Option<String>,
}

const OPTIONS: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The most patterns of a folder: each is asked for each file in it.
const MOST: usize = 1000;

impl Exclude {
    pub(super) fn read(patterns: &[At<String>], found: &mut Vec<Diagnostic>) -> Exclude {
        let mut rules = Vec::new();
        if let Some(beyond) = patterns.get(MOST) {
            let text = format!("`exclude` has {} patterns, more than {MOST}", patterns.len());
            found.push(Diagnostic::error(beyond.span.clone(), text).help("name folders instead of what is in them"));
        }
        for at in patterns.iter().take(MOST) {
            match rule(&at.value) {
                Ok(rule) => rules.push(rule),
                Err(why) => found.push(
                    Diagnostic::error(at.span.clone(), format!("the pattern \"{}\" {why}", at.value)).help(
                        "write a name such as \".env\" or \"*.db\", or a path in the folder such as \"/data/private\"",
                    ),
                ),
            }
        }
        Exclude { rules }
    }

    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Is this left out? `relative`: to the folder. What lies around it is not asked about.
    pub fn names(&self, relative: &Path) -> bool {
        self.decided(relative).unwrap_or(false)
    }

    /// Is it named by a pattern that shows it, and so meant to be seen?
    pub fn shows(&self, relative: &Path) -> bool {
        self.decided(relative) == Some(false)
    }

    /// Is this, or something that it lies in, left out?
    pub fn hides(&self, relative: &Path) -> bool {
        relative
            .ancestors()
            .any(|path| !path.as_os_str().is_empty() && self.names(path))
    }

    fn decided(&self, relative: &Path) -> Option<bool> {
        let name = relative.file_name()?;
        let matches = |rule: &&Rule| {
            let of = if rule.path { relative } else { Path::new(name) };
            // What is not UTF-8 fits as far as it can be written.
            rule.pattern.matches_with(&of.to_string_lossy(), OPTIONS)
        };
        self.rules.iter().rev().find(matches).map(|rule| !rule.shows)
    }

    /// Names and paths that are no patterns: they can be left out before they are there.
    pub fn literals(&self) -> impl Iterator<Item = &str> {
        self.rules
            .iter()
            .filter(|r| !r.shows)
            .filter_map(|r| r.literal.as_deref())
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let (shows, rest) = match text.strip_prefix('!') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let rest = rest.strip_prefix("./").unwrap_or(rest);
    let path = rest.trim_end_matches('/').contains('/');
    let plain = rest.trim_matches('/');
    if plain.is_empty() {
        return Err("names nothing".into());
    }
    if plain
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err("is no path below the folder".into());
    }
    if let Some(bad) = plain.chars().find(|c| c.is_control()) {
        return Err(format!("holds the control character {bad:?}"));
    }
    let pattern = glob::Pattern::new(plain).map_err(|e| format!("cannot be read: {}", e.msg))?;
    Ok(Rule {
        text: text.to_owned(),
        pattern,
        path,
        shows,
        literal: (!plain.contains(['*', '?', '['])).then(|| plain.to_owned()),
    })
}

impl TryFrom<Vec<String>> for Exclude {
    type Error = String;

    fn try_from(patterns: Vec<String>) -> Result<Exclude, String> {
        let rules = patterns
            .iter()
            .map(|p| rule(p).map_err(|why| format!("the pattern \"{p}\" {why}")));
        Ok(Exclude {
            rules: rules.collect::<Result<_, _>>()?,
        })
    }
}

impl From<Exclude> for Vec<String> {
    fn from(exclude: Exclude) -> Vec<String> {
        exclude.rules.into_iter().map(|r| r.text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exclude(patterns: &[&str]) -> Exclude {
        let rules = patterns.iter().map(|p| rule(p).unwrap());
        Exclude { rules: rules.collect() }
    }

    #[test]
    fn names_paths_and_what_is_shown_again() {
        let all = exclude(&[".env", "*.db", "/data/*", "!data/public", "b/.git/", "!shown.db"]);
        for hidden in [
            ".env",
            "deep/in/.env",
            "a.db",
            "x/a.db",
            "data/private",
            "data/private/x",
            "b/.git/config",
            ".env/x",
        ] {
            assert!(all.hides(Path::new(hidden)), "{hidden}");
        }
        for seen in [
            "env",
            "a.db.txt",
            "data",
            "data/public",
            "x/data/private",
            ".git",
            "shown.db",
            "x/shown.db",
        ] {
            assert!(!all.hides(Path::new(seen)), "{seen}");
        }
        assert_eq!(all.literals().collect::<Vec<_>>(), [".env", "b/.git"]);
        assert!(all.shows(Path::new("shown.db")) && !all.shows(Path::new("env")));
    }

    #[test]
    fn what_is_no_pattern() {
        for bad in ["", "!", "/", "..", "a/../b", "a//b", "[", "a\nb"] {
            assert!(rule(bad).is_err(), "{bad:?}");
        }
    }
}
