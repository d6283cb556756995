//! What lies in a folder that all services may read, and looks as if it were not for them: passwords, keys, databases,
//! the history of the code, the manifest. Found by names, and by how files begin; what is found is said, and no more.

use crate::model::Exclude;
use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Bounds: a folder may be large, and this is asked at each start of an app.
const MOST_ENTRIES: usize = 50_000;
const MOST_OPENED: usize = 5_000;
const DEEPEST: usize = 40;
const MOST_NAMED: usize = 6;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposed {
    /// Paths in the folder, those at its top first; the first few.
    pub names: Vec<String>,
    /// How many more there are.
    pub more: usize,
    /// Patterns that leave all of these out.
    pub patterns: Vec<String>,
    /// Was only a part of the folder looked at?
    pub partly: bool,
}

/// Folders, by name.
const FOLDERS: [&str; 11] = [
    ".git",
    ".hg",
    ".svn",
    ".bzr",
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".password-store",
];
const FILES: [&str; 30] = [
    ".env",
    ".envrc",
    ".netrc",
    ".pgpass",
    ".my.cnf",
    ".mylogin.cnf",
    ".npmrc",
    ".pypirc",
    ".htpasswd",
    ".git-credentials",
    ".dockercfg",
    ".boto",
    ".s3cfg",
    ".vault-token",
    ".bash_history",
    ".psql_history",
    ".mysql_history",
    ".python_history",
    ".sqlite_history",
    "id_rsa",
    "id_dsa",
    "id_ecdsa",
    "id_ed25519",
    "credentials.json",
    "client_secret.json",
    "secrets.json",
    "secrets.yml",
    "secrets.yaml",
    "secrets.toml",
    "terraform.tfstate",
];
const ENDINGS: [&str; 13] = [
    ".db",
    ".db3",
    ".sqlite",
    ".sqlite3",
    ".sqlitedb",
    ".p12",
    ".pfx",
    ".jks",
    ".keystore",
    ".kdbx",
    ".pysecure.json",
    ".ppk",
    ".tfstate.backup",
];
/// Of a `.env.NAME`, those that hold no values.
const EXAMPLES: [&str; 5] = ["example", "sample", "template", "dist", "schema"];

/// `inner`: what lies in the folder and is mounted over, relative to it. `own`: what is PySecure's, on the host.
pub fn find(source: &Path, exclude: &Exclude, inner: &[PathBuf], own: &[PathBuf]) -> Exposed {
    let mut out = Exposed::default();
    let mut patterns: BTreeSet<String> = BTreeSet::new();
    let mut folders: VecDeque<(PathBuf, usize)> = [(PathBuf::new(), 0)].into();
    let (mut entries, mut opened) = (0, 0);
    while let Some((folder, depth)) = folders.pop_front() {
        // What cannot be read here is not looked into; nor can an ordinary user's services.
        let Ok(list) = std::fs::read_dir(source.join(&folder)) else {
            continue;
        };
        let mut names: Vec<_> = list.flatten().collect();
        names.sort_by_key(std::fs::DirEntry::file_name);
        for entry in names {
            entries += 1;
            if entries > MOST_ENTRIES {
                out.partly = true;
                break;
            }
            let inside = folder.join(entry.file_name());
            if exclude.names(&inside) || exclude.shows(&inside) || inner.contains(&inside) {
                continue;
            }
            let Ok(kind) = entry.file_type() else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            let host = source.join(&inside);
            let anchored = || format!("/{}", inside.display());
            let pattern = if own.contains(&host) {
                Some(anchored())
            } else if kind.is_dir() {
                FOLDERS.contains(&name.as_str()).then_some(name)
            } else if let Some(pattern) = by_name(&name) {
                Some(pattern)
            } else if kind.is_file() && opened < MOST_OPENED {
                opened += 1;
                secret(&host).then(anchored)
            } else {
                out.partly |= kind.is_file();
                None
            };
            match pattern {
                Some(pattern) => {
                    patterns.insert(pattern);
                    if out.names.len() < MOST_NAMED {
                        let ending = if kind.is_dir() { "/" } else { "" };
                        out.names.push(format!("{}{ending}", printable(&inside)));
                    } else {
                        out.more += 1;
                    }
                }
                None if kind.is_dir() && depth < DEEPEST => folders.push_back((inside, depth + 1)),
                None => out.partly |= kind.is_dir(),
            }
        }
        if entries > MOST_ENTRIES {
            break;
        }
    }
    out.patterns = patterns.into_iter().map(|p| printable(Path::new(&p))).collect();
    out
}

fn by_name(name: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if FILES.contains(&lower.as_str()) {
        return Some(name.to_owned());
    }
    if let Some(of) = lower.strip_prefix(".env.") {
        return (!EXAMPLES.iter().any(|e| of.ends_with(e))).then(|| name.to_owned());
    }
    let ending = ENDINGS.iter().find(|e| lower.ends_with(*e) && lower.len() > e.len())?;
    Some(format!("*{}", &name[name.len() - ending.len()..]))
}

/// Does a file begin as a database of SQLite's or a private key does?
fn secret(path: &Path) -> bool {
    let mut head = Vec::new();
    let opened = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path);
    let read = opened.and_then(|file| file.take(1024).read_to_end(&mut head));
    if read.is_err() {
        return false;
    }
    if head.starts_with(b"SQLite format 3\0") || head.starts_with(b"PuTTY-User-Key-File") {
        return true;
    }
    // A certificate may stand before its key; source code that speaks of keys does not begin a line with it.
    let text = String::from_utf8_lossy(&head);
    text.lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.trim_end().ends_with("PRIVATE KEY-----"))
}

/// Names on disk may hold anything.
fn printable(path: &Path) -> String {
    let text = path.to_string_lossy();
    text.chars()
        .map(|c| {
            if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
                '?'
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_service_s() {
        for (name, pattern) in [
            (".env", ".env"),
            (".env.production", ".env.production"),
            ("Shop.DB", "*.DB"),
            ("a.sqlite3", "*.sqlite3"),
            ("id_ed25519", "id_ed25519"),
        ] {
            assert_eq!(by_name(name).as_deref(), Some(pattern));
        }
        for name in [
            ".env.example",
            ".environment",
            "db",
            ".db",
            "id_rsa.pub",
            "app.py",
            "ä.db.py",
        ] {
            assert_eq!(by_name(name), None, "{name}");
        }
        assert_eq!(by_name("ä.db").as_deref(), Some("*.db"));
    }
}
