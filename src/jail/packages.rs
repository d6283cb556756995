//! Debian's packages as they are installed here, and what they depend on, by what dpkg has on record.

use super::JailError;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;

/// More than this is a whole system, and meant for the recipe `debian`.
const MOST: usize = 500;

#[derive(Debug, Default)]
pub struct Installed {
    /// What each depends on: of each of these, one of several.
    packages: BTreeMap<String, Vec<Vec<String>>>,
    /// Names that packages have beside their own.
    provided: BTreeMap<String, Vec<String>>,
}

impl Installed {
    pub fn read() -> Result<Installed, JailError> {
        let path = Path::new("/var/lib/dpkg/status");
        let text = std::fs::read(path).map_err(|e| JailError::io("read", path, e))?;
        Ok(Installed::of(&String::from_utf8_lossy(&text), architecture()))
    }

    /// `status`: dpkg's file of that name.
    fn of(status: &str, architecture: &str) -> Installed {
        let mut out = Installed::default();
        for stanza in status.split("\n\n") {
            // Lines that begin with a space go on with one before, and none of these fields has such.
            let fields: BTreeMap<&str, &str> = stanza
                .lines()
                .filter(|l| !l.starts_with(' '))
                .filter_map(|l| l.split_once(": "))
                .collect();
            let field = |name: &str| fields.get(name).copied().unwrap_or_default();
            let name = field("Package");
            let of_machine = [architecture, "all"].contains(&field("Architecture"));
            if name.is_empty() || !of_machine || !field("Status").ends_with(" installed") {
                continue;
            }
            let depends = [field("Pre-Depends"), field("Depends")];
            let groups = depends.iter().flat_map(|d| d.split(','));
            let groups = groups.map(|g| g.split('|').map(bare).filter(|n| !n.is_empty()).collect::<Vec<_>>());
            out.packages
                .insert(name.to_owned(), groups.filter(|g| !g.is_empty()).collect());
            for virtual_name in field("Provides").split(',').map(bare).filter(|n| !n.is_empty()) {
                out.provided.entry(virtual_name).or_default().push(name.to_owned());
            }
        }
        out
    }

    /// These packages and what they need, each once, with the one that needs it.
    pub fn with_what_they_need(&self, named: &[String]) -> Result<Vec<(String, Option<String>)>, JailError> {
        let mut out: Vec<(String, Option<String>)> = Vec::new();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut next: VecDeque<(String, Option<String>)> = named.iter().map(|n| (n.clone(), None)).collect();
        while let Some((name, by)) = next.pop_front() {
            if !seen.insert(name.clone()) {
                continue;
            }
            if out.len() == MOST {
                return Err(JailError::TooMany(named.to_vec(), MOST));
            }
            for group in self.packages.get(&bare(&name)).into_iter().flatten() {
                next.extend(self.taken(group).map(|needed| (needed, Some(name.clone()))));
            }
            out.push((name, by));
        }
        Ok(out)
    }

    /// Of several, the first that is here, by its own name or by another's.
    fn taken(&self, group: &[String]) -> Option<String> {
        let by_itself = group.iter().find(|n| self.packages.contains_key(*n));
        by_itself.cloned().or_else(|| {
            let mut others = group.iter().filter_map(|n| self.provided.get(n)?.first());
            others.next().cloned()
        })
    }
}

/// What Debian calls this machine's architecture.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86" => "i386",
        "arm" => "armhf",
        _ => super::image::archive::architecture(),
    }
}

/// A name without its version and architecture.
fn bare(text: &str) -> String {
    let name = text.split(['(', '[', ':', '=']).next().unwrap_or_default();
    name.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "\
Package: web
Status: install ok installed
Architecture: amd64
Pre-Depends: base (>= 1.2)
Depends: lib:any (<< 3), gone | mail-agent, there | lib
Description: pages
 Depends: nothing, for this is text

Package: base
Status: install ok installed
Architecture: all
Depends: web

Package: lib
Status: install ok installed
Architecture: amd64

Package: postman
Status: install ok installed
Architecture: amd64
Provides: mail-agent (= 1), other

Package: gone
Status: deinstall ok config-files
Architecture: amd64

Package: lib
Status: install ok installed
Architecture: i386
Depends: base
";

    #[test]
    fn what_packages_need() {
        let installed = Installed::of(STATUS, "amd64");
        let found = installed.with_what_they_need(&["web".to_owned()]).unwrap();
        let found: Vec<_> = found.iter().map(|(n, by)| (n.as_str(), by.as_deref())).collect();
        let by_web = Some("web");
        assert_eq!(
            found,
            [("web", None), ("base", by_web), ("lib", by_web), ("postman", by_web)]
        );
    }

    #[test]
    fn there_is_a_bound() {
        let many = (0..=MOST).map(|n| {
            format!(
                "Package: p{n}\nStatus: install ok installed\nArchitecture: all\nDepends: p{}\n\n",
                n + 1
            )
        });
        let installed = Installed::of(&many.collect::<String>(), "amd64");
        let error = installed.with_what_they_need(&["p0".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("more than 500"), "{error}");
    }
}
