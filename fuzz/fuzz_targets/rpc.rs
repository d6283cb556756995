#![no_main]

//! The decoder of RPC messages: whatever comes ends in values or an error, and values can be written again.

use libfuzzer_sys::fuzz_target;
use pysecure_wire::{IncomingArea, Writer, read};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(elements) = read(bytes, Vec::new(), &mut IncomingArea::default()) {
        let mut writer = Writer::bare();
        writer.array(elements.len());
        for element in &elements {
            writer.value(element, 1).expect("what was read can be written");
        }
        let message = writer.finish();
        let fds = message.fds.iter().map(|fd| fd.try_clone().expect("a descriptor")).collect();
        let again = read(&message.bytes, fds, &mut IncomingArea::default()).expect("what was written can be read");
        // NaN is unlike itself, so their texts are compared.
        assert_eq!(format!("{elements:?}"), format!("{again:?}"));
    }
});
