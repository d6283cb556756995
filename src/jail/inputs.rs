//! What other programs make for a jail: a virtual environment by pip, a Debian by mmdebstrap. They run when somebody says
//! `jail build`, and never else: they take long, and fetch things.

use super::JailError;
use super::hash::hex;
use super::recipe::{Debian, Recipe, VENV};
use super::store::Store;
use crate::cause::Cause;
use sha2::{Digest, Sha256};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the virtual environment of this list is.
pub fn venv(store: &Store, name: &str, list: &Path) -> Result<PathBuf, JailError> {
    there(venv_place(store, list)?, "the virtual environment", "pip", name)
}

/// Where the tar file of this Debian is.
pub fn debian(store: &Store, name: &str, debian: &Debian) -> Result<PathBuf, JailError> {
    there(debian_place(store, debian), "the Debian", "mmdebstrap", name)
}

fn there(place: PathBuf, what: &'static str, maker: &'static str, name: &str) -> Result<PathBuf, JailError> {
    match place.exists() {
        true => Ok(place),
        false => Err(JailError::NotMade {
            what,
            maker,
            name: name.to_owned(),
        }),
    }
}

/// Makes what a recipe needs of these, if it is not there. `no_cache`: though it is.
pub fn make(store: &Store, recipe: &Recipe, no_cache: bool) -> Result<(), JailError> {
    if let Some(list) = &recipe.requirements {
        let place = venv_place(store, list)?;
        if no_cache || !place.exists() {
            store.make_input(&place, |aside| make_venv(list, aside))?;
        }
    }
    if let Some(debian) = &recipe.debian {
        let place = debian_place(store, debian);
        if no_cache || !place.exists() {
            store.make_input(&place, |aside| make_debian(debian, aside))?;
        }
    }
    Ok(())
}

/// What of it a recipe is made of, by its name in the store.
pub fn names(store: &Store, recipe: &Recipe) -> Result<Vec<String>, JailError> {
    let mut places = Vec::new();
    if let Some(list) = &recipe.requirements {
        places.push(venv_place(store, list)?);
    }
    if let Some(debian) = &recipe.debian {
        places.push(debian_place(store, debian));
    }
    let name = |place: &PathBuf| Some(place.file_name()?.to_str()?.to_owned());
    Ok(places.iter().filter_map(name).collect())
}

fn venv_place(store: &Store, list: &Path) -> Result<PathBuf, JailError> {
    let text = std::fs::read(list).map_err(|e| JailError::io("read", list, e))?;
    let python = std::fs::read_link("/usr/bin/python3").unwrap_or_default();
    let mut hasher = Sha256::new();
    hasher.update(python.as_os_str().as_encoded_bytes());
    hasher.update(b"\n");
    hasher.update(text);
    Ok(store.inputs().join(format!("venv-{}", hex(&hasher.finalize()))))
}

fn debian_place(store: &Store, debian: &Debian) -> PathBuf {
    let mut told = vec![format!("suite {}", debian.suite)];
    told.extend(debian.variant.iter().map(|v| format!("variant {v}")));
    told.extend(debian.packages.iter().map(|p| format!("package {p}")));
    told.extend(debian.mirror.iter().map(|m| format!("mirror {m}")));
    let hash = hex(&Sha256::digest(told.join("\0")));
    store.inputs().join(format!("debian-{hash}.tar"))
}

fn make_venv(list: &Path, aside: &Path) -> Result<(), JailError> {
    // Of the interpreter that the jail has, not of another that comes first in PATH.
    let python = "/usr/bin/python3";
    let mut base = Command::new(python);
    base.args(["-m", "venv", "--without-pip", "--symlinks"]).arg(aside);
    run(&mut base, "python3", "make a virtual environment")?;
    let mut pip = Command::new(python);
    pip.args([
        "-m",
        "pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "--python",
    ])
    .arg(aside)
    .args(["install", "--requirement"])
    .arg(list)
    .env("PIP_ROOT_USER_ACTION", "ignore")
    .current_dir(list.parent().unwrap_or(Path::new(".")));
    run(
        &mut pip,
        "pip",
        "install the requirements (Debian's packages python3-pip and python3-venv)",
    )?;
    move_to(aside, Path::new(VENV))
}

/// Programs of a virtual environment name it by its path, and it is made at another one than it will have.
fn move_to(made: &Path, place: &Path) -> Result<(), JailError> {
    let bin = made.join("bin");
    let (old, new) = (made.display().to_string(), place.display().to_string());
    let all = std::fs::read_dir(&bin).map_err(|e| JailError::io("read the directory", &bin, e))?;
    let inside = all.flatten().map(|e| e.path()).chain([made.join("pyvenv.cfg")]);
    for path in inside {
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
        // What is no text is a program that knows nothing of this.
        let Some(text) = is_file.then(|| std::fs::read_to_string(&path).ok()).flatten() else {
            continue;
        };
        if text.contains(&old) {
            std::fs::write(&path, text.replace(&old, &new)).map_err(|e| JailError::io("write", &path, e))?;
        }
    }
    Ok(())
}

fn make_debian(debian: &Debian, aside: &Path) -> Result<(), JailError> {
    let mut command = Command::new("mmdebstrap");
    command.args(["--quiet", "--format=tar"]);
    if let Some(variant) = &debian.variant {
        command.arg(format!("--variant={variant}"));
    }
    if !debian.packages.is_empty() {
        command.arg(format!("--include={}", debian.packages.join(",")));
    }
    command.arg("--").arg(&debian.suite).arg(aside).args(&debian.mirror);
    run(
        &mut command,
        "mmdebstrap",
        "make a Debian (Debian's package mmdebstrap)",
    )?;
    std::fs::set_permissions(aside, std::fs::Permissions::from_mode(0o600))
        .map_err(|e| JailError::io("change the mode of", aside, e))
}

fn run(command: &mut Command, program: &'static str, deed: &'static str) -> Result<(), JailError> {
    let failed = |cause: Cause, help| JailError::Program {
        program,
        deed,
        cause,
        help,
    };
    // What it says goes where errors go: a jail's own line is the only one on standard output.
    let ended = command
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status()
        .map_err(|e| failed(Cause::new(e), "install it"))?;
    match ended.success() {
        true => Ok(()),
        false => Err(failed(Cause::new(ended.to_string()), "what it says stands above")),
    }
}
