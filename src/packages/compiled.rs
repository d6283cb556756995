//! What an interpreter for one run loads, compiled once.
//!
//! Such an interpreter sees the packages read-only, so it could keep nothing itself, and would compile the same 400 lines each time. The
//! files are as Python makes them (`__pycache__`, PEP 3147), and are used without a look at their sources (PEP 552): both are put in place at
//! once. An interpreter of another version looks for files of another name, and takes the sources.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// The system's interpreter, which is what runs in the host's root.
const PYTHON: &str = "/usr/bin/python3";
const SOURCES: [&str; 4] = [
    "pysecure_sandbox.py",
    "carried/pysecure_sandbox/__init__.py",
    "carried/pysecure_sandbox/_cold.py",
    "carried/pysecure_sandbox/_program.py",
];
const COMPILE: &str = "\
import py_compile, sys
for source in sys.argv[1:]:
    py_compile.compile(source, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
";

/// Adds them to packages that nobody uses yet. Where that fails, for there need be no Python, the sources serve as well.
pub(super) fn add(packages: &Path) {
    let made = Command::new(PYTHON)
        .args(["-I", "-S", "-c", COMPILE])
        .args(SOURCES)
        .current_dir(packages)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let for_everybody = || -> std::io::Result<()> {
        for folder in ["", "carried/pysecure_sandbox"] {
            let cache = packages.join(folder).join("__pycache__");
            std::fs::set_permissions(&cache, PermissionsExt::from_mode(0o755))?;
            for file in std::fs::read_dir(&cache)? {
                std::fs::set_permissions(file?.path(), PermissionsExt::from_mode(0o644))?;
            }
        }
        Ok(())
    };
    match made {
        Ok(status) if status.success() => {
            if let Err(error) = for_everybody() {
                tracing::debug!(%error, "let everybody read compiled packages");
            }
        }
        Ok(status) => tracing::debug!(%status, "packages are not compiled"),
        Err(error) => tracing::debug!(%error, "packages are not compiled"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packages::{folder, unpack};

    /// Run from a folder in which the sources are broken, and cannot be what is used.
    #[test]
    fn what_is_compiled_is_used_in_place_of_its_source() {
        let state = tempfile::tempdir().unwrap();
        unpack(state.path()).unwrap();
        let packages = folder(state.path());
        for source in SOURCES {
            std::fs::write(packages.join(source), "broken (").unwrap();
        }
        let load = |packages: &Path| {
            let mut python = Command::new(PYTHON);
            python.args(["-S", "-c", "import pysecure_sandbox, pysecure_sandbox._program as p; print(p.__file__, p.leave.__code__.co_filename)"]);
            python.env_clear().env("PYTHONPATH", packages).output().unwrap()
        };
        let loaded = load(&packages);
        let file = packages.join("carried/pysecure_sandbox/_program.py");
        let expected = format!("{0} {0}\n", file.display());
        assert_eq!(String::from_utf8_lossy(&loaded.stdout), expected, "{loaded:?}");
        // Everybody may read them, and nobody but their owner write.
        for folder in ["", "carried/pysecure_sandbox"] {
            let cache = packages.join(folder).join("__pycache__");
            let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
            assert_eq!(mode(&cache), 0o755);
            let files: Vec<_> = std::fs::read_dir(&cache)
                .unwrap()
                .map(|file| file.unwrap().path())
                .collect();
            assert!(!files.is_empty() && files.iter().all(|file| mode(file) == 0o644));
            std::fs::remove_dir_all(cache).unwrap();
        }
        assert!(!load(&packages).status.success());
    }
}
