#![no_main]

//! The readers of images, fed with a tar file as an image and as a layer: what comes of it is a tree or an error.

use libfuzzer_sys::fuzz_target;
use pysecure::jail::image::{Image, layers::listing};
use std::io::Write;
use std::sync::Arc;

fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    mend(&mut bytes);
    let mut file = tempfile::Builder::new().tempfile_in("/dev/shm").expect("a file in memory");
    file.write_all(&bytes).expect("memory");
    for image in [Image::of_tar(file.path()), Image::open(file.path(), None)] {
        if let Ok(found) = image.and_then(|image| listing(&Arc::new(image), &[])) {
            found.check().expect("a listing is a tree");
        }
    }
});

/// Sets the checksums of headers: a reader that sees a wrong one sees nothing else.
fn mend(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(block) = bytes.get_mut(at..at + 512) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let size = std::str::from_utf8(&block[124..135]).ok().and_then(|s| usize::from_str_radix(s, 8).ok());
        at += 512 + size.unwrap_or(0).next_multiple_of(512);
    }
}
