//! The Python package, as services get it: plain, and with its compiled core.

use super::{App, Ended};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder, but what Python compiled there.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .filter(|path| path.file_name().is_some_and(|name| name != "__pycache__"))
        .flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] })
        .collect()
}

/// The Python package with its compiled core in it, built once.
pub fn with_core() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let build = repository().join("target/python-core");
        let out = Command::new(env!("CARGO"))
            .args(["rustc", "--locked", "--crate-type", "cdylib", "--target-dir"])
            .arg(&build)
            // Its flags are those of the configuration there, as for the wheel, so that both share what they build.
            .current_dir(repository().join("python/core"))
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .output()
            .expect("install `cargo`");
        Ended::from(out).ok();
        let library = files(&build)
            .into_iter()
            .find(|file| file.ends_with("debug/lib_core.so"))
            .expect("the core was built");
        let package = build.join("package");
        let _ = std::fs::remove_dir_all(&package);
        let source = repository().join("python/src");
        for file in files(&source) {
            let target = package.join(file.strip_prefix(&source).unwrap());
            std::fs::create_dir_all(target.parent().unwrap()).unwrap();
            std::fs::copy(&file, target).unwrap();
        }
        std::fs::copy(library, package.join("pysecure_rpc/_core.abi3.so")).unwrap();
        package
    })
}

/// Puts a folder's files into an app.
pub fn put(app: &App, source: &Path, target: &str) {
    for file in files(source) {
        let inside = file.strip_prefix(source).unwrap().to_str().unwrap();
        app.write(&format!("{target}/{inside}"), std::fs::read(&file).unwrap());
    }
}

/// Puts the package into an app's folder. A core that somebody built into the source tree is left out.
pub fn package(app: &App, core: bool, target: &str) {
    match core {
        true => put(app, with_core(), target),
        false => {
            put(app, &repository().join("python/src"), target);
            let _ = std::fs::remove_file(app.folder.join(target).join("pysecure_rpc/_core.abi3.so"));
        }
    }
}
