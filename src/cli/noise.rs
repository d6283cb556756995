//! Files that come and go beside code while somebody works on it, and are none of it: what editors, interpreters and version control
//! keep there.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

/// Folders that hold nothing else.
const FOLDERS: [&[u8]; 11] = [
    b".git",
    b".hg",
    b".svn",
    b".jj",
    b"__pycache__",
    b".mypy_cache",
    b".pytest_cache",
    b".ruff_cache",
    b".hypothesis",
    b".idea",
    b".vscode",
];

/// Whose folder `.cache` holds what was made of the others.
const MODULES: &[u8] = b"node_modules";

/// Is it a folder of that kind? `above`: the one that it lies in.
pub(super) fn is_folder(name: &OsStr, above: Option<&OsStr>) -> bool {
    let name = name.as_bytes();
    FOLDERS.contains(&name) || name == b".cache" && above.is_some_and(|above| above.as_bytes() == MODULES)
}

/// Is it of that kind, or does it lie in such a folder? `path` is relative to what is code.
pub(super) fn is_noise(path: &Path) -> bool {
    let mut above = None;
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        if is_folder(name, above) {
            return true;
        }
        above = Some(name);
    }
    above.is_some_and(is_file)
}

fn is_file(name: &OsStr) -> bool {
    let name = name.as_bytes();
    // Vim tries whether it may write to a folder with a file of this name; the others are swap files, backups, locks and what is
    // written before it is renamed.
    name == b"4913"
        || name == b".DS_Store"
        || [
            &b".swp"[..],
            b".swo",
            b".swx",
            b"~",
            b".pyc",
            b".pyo",
            b".kate-swp",
            b"___jb_tmp___",
            b"___jb_old___",
        ]
        .iter()
        .any(|end| name.ends_with(end))
        || name.starts_with(b".#")
        || name.starts_with(b".goutputstream-")
        || name.len() > 1 && name.starts_with(b"#") && name.ends_with(b"#")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_and_caches_leave_is_told_from_code() {
        for noise in [
            ".git/index",
            "lib/.git",
            "app/__pycache__/a.cpython-311.pyc",
            ".mypy_cache/3.11/a.json",
            ".pytest_cache/v",
            "web/node_modules/.cache/babel/x",
            "app/.a.py.swp",
            "a.py~",
            "app/#a.py#",
            "app/.#a.py",
            "4913",
            "app/4913",
            "a.pyc",
        ] {
            assert!(is_noise(Path::new(noise)), "{noise}");
        }
        for code in [
            "",
            "a.py",
            "app/git/a.py",
            ".gitignore",
            ".cache/a.py",
            "cache/a.py",
            "node_modules/a/index.js",
            "49130",
            "#",
            "#a.py",
            ".env",
            "swp",
        ] {
            assert!(!is_noise(Path::new(code)), "{code}");
        }
    }
}
