//! Images as jails: an OCI layout, or an archive as `docker save` writes it, read from disk.
//!
//! Nothing in an image is trusted: names, sizes, links and digests are its maker's claims. [`layers`] works out what
//! the layers come to without a file being made; what is made of that lies in the store, under names by content.

pub mod archive;
mod header;
pub mod layers;

use super::JailError;
use crate::cause::Reason;
use archive::Archive;
use oci_spec::image::{ImageConfiguration, ImageIndex, ImageManifest};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::error::Error;
use std::path::{Path, PathBuf};

/// As large as a manifest or a configuration may be.
const LARGEST_DOCUMENT: u64 = 4 << 20;
/// More layers than any file system lays over each other.
const MOST_LAYERS: usize = 512;
/// More variables than a program's are.
const MOST_VARIABLES: usize = 4096;
/// Indexes may name indexes.
const DEEPEST_INDEX: usize = 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub path: PathBuf,
    archive: Archive,
    layers: Vec<Layer>,
    /// Variables that its programs expect.
    pub environment: Vec<(String, String)>,
    /// Name or number, and a group after a colon; empty for root.
    pub user: String,
    /// What says that it is the same image: its configuration names all of its content by digest.
    pub identity: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Layer {
    /// Of its file in the archive.
    file: String,
    /// SHA-256 of the unpacked layer; empty where nobody says.
    diff: String,
}

/// An entry of docker-archive's `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Image {
    /// `tag`: which one, where there are several.
    pub fn open(path: &Path, tag: Option<&str>) -> Result<Image, JailError> {
        let archive = Archive::open(path)?;
        let (config_file, layers) = if archive.has("index.json") {
            of_layout(&archive, path, tag)?
        } else if archive.has("manifest.json") {
            of_saved(&archive, path, tag)?
        } else {
            return Err(JailError::image(
                path,
                Reason::new("it has neither index.json nor manifest.json, so it is no image")
                    .remedy("name an OCI layout, or what `docker save` wrote"),
            ));
        };
        let text = archive.document(&config_file, LARGEST_DOCUMENT)?;
        let config = ImageConfiguration::from_reader(text.as_slice())
            .map_err(|e| JailError::image(path, unreadable("configuration", e)))?;
        let diffs = config.rootfs().diff_ids();
        if diffs.len() != layers.len() {
            let text = format!(
                "it has {} layers, and its configuration names {}",
                layers.len(),
                diffs.len()
            );
            return Err(JailError::image(path, text));
        }
        if layers.len() > MOST_LAYERS {
            let text = format!("it has {} layers, more than {MOST_LAYERS}", layers.len());
            return Err(JailError::image(path, Reason::new(text).remedy("squash it")));
        }
        let layers = layers.into_iter().zip(diffs).map(|(file, diff)| {
            let diff = sha256_of(diff).ok_or_else(|| JailError::image(path, format!("{diff} is no sha256 digest")))?;
            Ok(Layer { file, diff })
        });
        let layers = layers.collect::<Result<_, JailError>>()?;
        let process = config.config().as_ref();
        let environment = process.and_then(|c| c.env().as_deref()).unwrap_or_default();
        if environment.len() > MOST_VARIABLES {
            let text = format!("it sets {} variables, more than {MOST_VARIABLES}", environment.len());
            return Err(JailError::image(
                path,
                Reason::new(text).remedy("take some out of the image"),
            ));
        }
        Ok(Image {
            path: path.to_owned(),
            archive,
            layers,
            environment: environment
                .iter()
                .filter_map(|v| v.split_once('='))
                .filter(|(key, value)| !key.is_empty() && !key.contains('\0') && !value.contains('\0'))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect(),
            user: process.and_then(|c| c.user().clone()).unwrap_or_default(),
            identity: super::hash::hex(&Sha256::digest(&text)),
        })
    }

    /// One layer and nothing that is said of it: a tar file of a whole root.
    pub fn of_tar(path: &Path) -> Result<Image, JailError> {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).map_err(|e| JailError::io("look at", path, e))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let changed = (found.ctime(), found.ctime_nsec());
        Ok(Image {
            path: path.to_owned(),
            archive: Archive::Folder(path.parent().unwrap_or(Path::new("/")).to_owned()),
            layers: vec![Layer {
                file: name.clone(),
                diff: String::new(),
            }],
            environment: Vec::new(),
            user: String::new(),
            identity: stamp(&name, (found.dev(), found.ino()), changed, found.len()),
        })
    }
}

/// What says of a file that is not read that it is the same: the time is of no use without its seconds, which are all that
/// some file systems keep.
fn stamp(name: &str, (dev, ino): (u64, u64), (seconds, nanoseconds): (i64, i64), length: u64) -> String {
    let all = format!("{name} {dev} {ino} {seconds}.{nanoseconds:09} {length}");
    super::hash::hex(&Sha256::digest(all))
}

fn unreadable(what: &str, error: impl Into<Box<dyn Error + Send + Sync>>) -> Reason {
    let error = error.into();
    Reason::new(format!("its {what} cannot be read: {error}")).because(error)
}

type Parts = (String, Vec<String>);

fn of_layout(archive: &Archive, path: &Path, tag: Option<&str>) -> Result<Parts, JailError> {
    let mut text = archive.document("index.json", LARGEST_DOCUMENT)?;
    for _ in 0..DEEPEST_INDEX {
        let index =
            ImageIndex::from_reader(text.as_slice()).map_err(|e| JailError::image(path, unreadable("index", e)))?;
        let named = |d: &&oci_spec::image::Descriptor| {
            let name = d
                .annotations()
                .as_ref()
                .and_then(|a| a.get("org.opencontainers.image.ref.name"));
            tag.is_none_or(|tag| name.is_none_or(|name| name == tag || name.ends_with(&format!(":{tag}"))))
        };
        let here = |d: &&oci_spec::image::Descriptor| {
            d.platform().as_ref().is_none_or(|p| {
                p.os().to_string() == "linux" && p.architecture().to_string() == archive::architecture()
            })
        };
        let fit: Vec<_> = index.manifests().iter().filter(named).filter(here).collect();
        let found = match fit.as_slice() {
            [one] => *one,
            [] => {
                let text = format!("it holds no image for {}, or none of that tag", archive::architecture());
                return Err(JailError::image(path, text));
            }
            _ => {
                return Err(JailError::image(
                    path,
                    Reason::new("it holds several images").remedy("name one by `tag`"),
                ));
            }
        };
        text = blob(archive, path, found.digest().as_ref())?;
        if let Ok(manifest) = ImageManifest::from_reader(text.as_slice()) {
            let file = |digest: String| blob_file(&digest).ok_or_else(|| no_digest(path, &digest));
            let config = file(manifest.config().digest().to_string())?;
            blob(archive, path, manifest.config().digest().as_ref())?;
            let layers = manifest.layers().iter().map(|l| file(l.digest().to_string()));
            return Ok((config, layers.collect::<Result<_, _>>()?));
        }
    }
    Err(JailError::image(path, "its index leads to no manifest"))
}

fn of_saved(archive: &Archive, path: &Path, tag: Option<&str>) -> Result<Parts, JailError> {
    let text = archive.document("manifest.json", LARGEST_DOCUMENT)?;
    let saved: Vec<Saved> =
        serde_json::from_slice(&text).map_err(|e| JailError::image(path, unreadable("manifest.json", e)))?;
    let mut fit = saved.into_iter().filter(|s| {
        let tags = s.repo_tags.iter().flatten();
        tag.is_none_or(|tag| tags.into_iter().any(|t| t == tag || t.ends_with(&format!(":{tag}"))))
    });
    match (fit.next(), fit.next()) {
        (Some(one), None) => Ok((one.config, one.layers)),
        (None, _) => Err(JailError::image(path, "it holds no image of that tag")),
        _ => Err(JailError::image(
            path,
            Reason::new("it holds several images").remedy("name one by `tag`"),
        )),
    }
}

/// A small blob, which is what its digest says.
fn blob(archive: &Archive, path: &Path, digest: &str) -> Result<Vec<u8>, JailError> {
    let file = blob_file(digest).ok_or_else(|| no_digest(path, digest))?;
    let text = archive.document(&file, LARGEST_DOCUMENT)?;
    if super::hash::hex(&Sha256::digest(&text)) != sha256_of(digest).unwrap_or_default() {
        return Err(JailError::image(path, format!("{file} is not what its digest says")));
    }
    Ok(text)
}

fn no_digest(path: &Path, digest: &str) -> JailError {
    JailError::image(path, format!("{digest} is no sha256 digest"))
}

/// The number of a digest, which becomes part of a path: 64 hexadecimal digits and nothing else.
fn sha256_of(digest: &str) -> Option<String> {
    let number = digest.strip_prefix("sha256:")?;
    let right = number.len() == 64 && number.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    right.then(|| number.to_owned())
}

fn blob_file(digest: &str) -> Option<String> {
    Some(format!("blobs/sha256/{}", sha256_of(digest)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_changed_is_another_one() {
        let first = stamp("root.tar", (1, 2), (1_700_000_000, 0), 10);
        assert_eq!(stamp("root.tar", (1, 2), (1_700_000_000, 0), 10), first);
        for other in [
            stamp("other.tar", (1, 2), (1_700_000_000, 0), 10),
            stamp("root.tar", (2, 2), (1_700_000_000, 0), 10),
            stamp("root.tar", (1, 3), (1_700_000_000, 0), 10),
            // As where a file system keeps whole seconds.
            stamp("root.tar", (1, 2), (1_700_000_001, 0), 10),
            stamp("root.tar", (1, 2), (1_700_000_000, 1), 10),
            stamp("root.tar", (1, 2), (1_700_000_000, 0), 11),
        ] {
            assert_ne!(other, first);
        }
    }
}
