//! The wire: what is written is read back the same, and whatever else comes is an error, never more.

use proptest::prelude::*;
use pysecure_wire::{Descriptor, EncodedMessage, IncomingArea, OutgoingArea, Value, WireError, Writer};
use std::os::fd::OwnedFd;

/// An array of one value, with large bytes in memfds.
fn written(value: &Value) -> EncodedMessage {
    written_into(&mut OutgoingArea::default(), value)
}

fn written_into(area: &mut OutgoingArea, value: &Value) -> EncodedMessage {
    let mut writer = Writer::over(Vec::new(), Some(area));
    writer.array(1);
    writer.value(value, 1).unwrap();
    writer.finish()
}

fn descriptors(message: &EncodedMessage) -> Vec<OwnedFd> {
    message.fds.iter().map(|fd| fd.try_clone().unwrap()).collect()
}

fn read(bytes: &[u8]) -> Result<Vec<Value>, WireError> {
    pysecure_wire::read(bytes, Vec::new(), &mut IncomingArea::default())
}

fn any_value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Nil),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        (-40_000_i64..70_000).prop_map(Value::Int),
        (1_u64 << 63..).prop_map(Value::UInt),
        any::<f64>()
            .prop_filter("not itself", |f| !f.is_nan())
            .prop_map(Value::Float),
        ".{0,40}".prop_map(Value::Str),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        (16_300_usize..16_500).prop_map(|len| Value::Bytes(vec![7; len])),
        "[a-z]{1,9}".prop_map(|name| Value::Member(Box::new(Value::Str(name)))),
        any::<[u8; 16]>().prop_map(|uuid| Value::Other(10, uuid.to_vec())),
        // One that no other kind of integer holds.
        proptest::collection::vec(any::<u8>(), 9..40).prop_map(|mut big| {
            big.insert(0, 5);
            Value::Other(1, big)
        }),
    ];
    scalar.prop_recursive(5, 60, 20, |inner| {
        let items = || proptest::collection::vec(inner.clone(), 0..20);
        prop_oneof![
            items().prop_map(Value::Array),
            items().prop_map(Value::Tuple),
            proptest::collection::btree_set(any::<i64>(), 0..20)
                .prop_map(|s| Value::Set(s.into_iter().map(Value::Int).collect())),
            proptest::collection::btree_map(".{0,6}", inner.clone(), 0..20)
                .prop_map(|m| Value::Map(m.into_iter().map(|(k, v)| (Value::Str(k), v)).collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_is_read(value in any_value()) {
        let mut writer = Writer::bare();
        // More than 16 large values stand inline.
        writer.array(1);
        writer.value(&value, 1).unwrap();
        let message = writer.finish();
        let fds = descriptors(&message);
        prop_assert_eq!(pysecure_wire::read(&message.bytes, fds, &mut IncomingArea::default()).unwrap(), [value]);
    }

    #[test]
    fn a_message_cut_short_or_continued_is_an_error(value in any_value(), at in any::<prop::sample::Index>()) {
        let message = written(&value);
        let cut = at.index(message.bytes.len());
        prop_assert!(pysecure_wire::read(&message.bytes[..cut], descriptors(&message), &mut IncomingArea::default()).is_err());
        let longer = [&message.bytes[..], &[0xc0]].concat();
        prop_assert!(pysecure_wire::read(&longer, descriptors(&message), &mut IncomingArea::default()).is_err());
    }

    #[test]
    fn bytes_of_any_kind_end(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
        let _ = read(&bytes);
        let _ = read(&[&[0x91][..], &bytes].concat());
    }

    #[test]
    fn a_flipped_byte_ends(value in any_value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut message = written(&value);
        let at = at.index(message.bytes.len());
        message.bytes[at] = byte;
        let fds = descriptors(&message);
        let _ = pysecure_wire::read(&message.bytes, fds, &mut IncomingArea::default());
    }
}

#[test]
fn hostile_messages_are_errors() {
    let deep = |n: usize| [vec![0x91; n], vec![0xc0]].concat();
    assert!(read(&deep(64)).is_ok());
    for (what, bytes) in [
        ("nothing", vec![]),
        ("no array", vec![0xc0]),
        ("65 deep", deep(65)),
        ("10,000 deep", deep(10_000)),
        (
            "extensions 10,000 deep",
            [0x91, 0xc9, 0xff, 0xff, 0xff, 0xff, 2].repeat(10_000),
        ),
        ("4 G of values", vec![0xdd, 0xff, 0xff, 0xff, 0xff]),
        ("4 G of entries", vec![0x91, 0xdf, 0xff, 0xff, 0xff, 0xff]),
        ("4 GiB of text", vec![0x91, 0xdb, 0xff, 0xff, 0xff, 0xff, b'a']),
        ("4 GiB of bytes", vec![0x91, 0xc6, 0xff, 0xff, 0xff, 0xff, 0]),
        ("the unused byte", vec![0x91, 0xc1]),
        ("not UTF-8", vec![0x91, 0xa2, 0xff, 0xfe]),
        ("a key twice", vec![0x91, 0x82, 0xa1, b'a', 1, 0xa1, b'a', 2]),
        (
            "a key twice, written in two ways",
            vec![0x91, 0x82, 0x01, 1, 0xcc, 0x01, 2],
        ),
        ("a list as key", vec![0x91, 0x81, 0x90, 1]),
        ("an element twice", vec![0x91, 0xc7, 3, 3, 0x92, 1, 1]),
        ("an unknown extension", vec![0x91, 0xd4, 99, 0]),
        ("a tuple that is text", vec![0x91, 0xd5, 2, 0xa1, b'a']),
        ("a descriptor that did not come", vec![0x91, 0xd5, 21, 0x91, 0]),
        (
            "an area that was never sent",
            vec![0x91, 0xc7, 5, 20, 0x94, 0xff, 0, 1, 0xc2],
        ),
        ("two values", vec![0x90, 0x90]),
    ] {
        assert!(read(&bytes).is_err(), "{what}");
    }
    // A million values and one more.
    let many = |n: u32| [&[0xdd][..], &n.to_be_bytes(), &vec![0xc0; n as usize]].concat();
    assert!(read(&many(999_999)).is_ok());
    assert!(read(&many(1_000_000)).is_err());
}

#[test]
fn descriptors_are_named_once_and_bytes_only_from_sealed_memfds() {
    let open = || OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let one = written(&Value::Fd(Descriptor(open().into())));
    assert!(matches!(
        pysecure_wire::read(&one.bytes, vec![open()], &mut IncomingArea::default()).unwrap()[..],
        [Value::Fd(_)]
    ));
    assert!(
        pysecure_wire::read(&one.bytes, vec![open(), open()], &mut IncomingArea::default()).is_err(),
        "one too many"
    );
    assert!(
        pysecure_wire::read(&[0x90], vec![open()], &mut IncomingArea::default()).is_err(),
        "not named"
    );
    let twice = [&[0x92][..], &one.bytes[1..], &one.bytes[1..]].concat();
    assert!(
        pysecure_wire::read(&twice, vec![open()], &mut IncomingArea::default()).is_err(),
        "named twice"
    );
    let large = written(&Value::Bytes(vec![1; 100_000]));
    assert_eq!(large.fds.len(), 1);
    let memfd = |seals: Option<rustix::fs::SealFlags>| {
        let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
        let fd = rustix::fs::memfd_create("large", flags).unwrap();
        rustix::fs::ftruncate(&fd, 1_000_000).unwrap();
        if let Some(seals) = seals {
            rustix::fs::fcntl_add_seals(&fd, seals).unwrap();
        }
        fd
    };
    // The control: sealed, it is read.
    let sealed = memfd(Some(rustix::fs::SealFlags::SHRINK));
    assert!(pysecure_wire::read(&large.bytes, vec![sealed], &mut IncomingArea::default()).is_ok());
    for wrong in [
        memfd(None),
        memfd(Some(rustix::fs::SealFlags::GROW)),
        open(),
        OwnedFd::from(std::io::pipe().unwrap().0),
        OwnedFd::from(tempfile::tempfile().unwrap()),
    ] {
        assert!(pysecure_wire::read(&large.bytes, vec![wrong], &mut IncomingArea::default()).is_err());
    }
    // Beyond its end.
    let small = written(&Value::Bytes(vec![1; 20_000]));
    assert!(pysecure_wire::read(&large.bytes, descriptors(&small), &mut IncomingArea::default()).is_err());
}

#[test]
fn an_area_is_sent_once_and_written_to_only_when_it_was_read() {
    let value = |byte: u8, len: usize| Value::Bytes(vec![byte; len]);
    let (mut outgoing, mut kept) = (OutgoingArea::default(), IncomingArea::default());
    let mut cross = |free: bool, sent: bool, value: &Value| {
        outgoing.begin(free);
        let message = written_into(&mut outgoing, value);
        let fds = message.fds.len();
        if sent {
            outgoing.sent();
            let read = pysecure_wire::read(&message.bytes, descriptors(&message), &mut kept).unwrap();
            assert_eq!(read, std::slice::from_ref(value));
        }
        fds
    };
    // One that was not sent after all is made again.
    assert_eq!(cross(true, false, &value(1, 20_000)), 1);
    assert_eq!(cross(true, true, &value(2, 20_000)), 1);
    assert_eq!(cross(true, true, &value(3, 1 << 20)), 0);
    let two = Value::Array(vec![value(4, 500_000), value(5, 500_000), value(6, 500_000)]);
    assert_eq!(cross(true, true, &two), 1, "what finds no room comes by itself");
    assert_eq!(cross(false, true, &value(7, 20_000)), 1, "not over what is unread");
    assert_eq!(cross(true, true, &value(8, 3 << 20)), 1, "a larger one takes its place");
    assert_eq!(cross(true, true, &value(9, 4 << 20)), 0);
    assert_eq!(cross(true, true, &value(10, 9 << 20)), 1, "too large to be kept");
    assert_eq!(cross(true, true, &value(11, 4 << 20)), 0);
}
