//! Lists the Python packages in `python/src`, which the program carries: a constant of all their files, in the order of their paths.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    warn_of_libraries();
    let source = Path::new(&std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default()).join("python/src");
    let mut files = Vec::new();
    for package in ["pysecure", "pysecure_rpc", "pysecure_sandbox"] {
        collect(&source.join(package), &mut files)?;
    }
    files.sort();
    let mut list = String::from("const CARRIED: &[(&str, &str)] = &[\n");
    for file in files {
        let inside = file.strip_prefix(&source).unwrap_or(&file).display().to_string();
        // What is quoted is quoted for Rust.
        let _ = writeln!(
            list,
            "    ({inside:?}, include_str!({:?})),",
            file.display().to_string()
        );
    }
    list.push_str("];\n");
    std::fs::write(
        Path::new(&std::env::var("OUT_DIR").unwrap_or_default()).join("packages.rs"),
        list,
    )
}

/// Cargo reads `.cargo/config.toml` of the folder that it is started in, and not of the package that it builds.
fn warn_of_libraries() {
    let of = |name: &str| std::env::var(name).unwrap_or_default();
    let linked_statically = of("CARGO_CFG_TARGET_FEATURE")
        .split(',')
        .any(|feature| feature == "crt-static");
    if of("CARGO_CFG_TARGET_OS") == "linux" && !linked_statically {
        println!(
            "cargo::warning=this pysecure needs libraries, so it cannot be init in every root: run cargo in the clone's own folder, whose \
             .cargo/config.toml links it statically, and without RUSTFLAGS"
        );
    }
}

/// Sources alone: not what Python compiled, nor a core that somebody built for this machine.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    println!("cargo::rerun-if-changed={}", folder.display());
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "py") {
            files.push(path);
        }
    }
    Ok(())
}
