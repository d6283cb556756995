//! specs/rpc-vectors.json: every value and message decodes to what stands there, or is refused for the reason that stands there.

use pysecure_wire::message::{self, CallOptions, ErrorReply, FromCaller, FromService, Hello};
use pysecure_wire::{Descriptor, IncomingArea, Malformed, Reader, Value, WireError, Writer, kind::extension};
use serde_json::Value as Json;
use std::os::fd::OwnedFd;
use std::sync::Arc;

fn vectors(which: &str) -> Vec<Json> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../specs/rpc-vectors.json");
    let all: Json = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    all[which].as_array().unwrap().clone()
}

fn unhex(text: &Json) -> Vec<u8> {
    let text = text.as_str().unwrap();
    let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

/// Bytes as they stand in the file: in hexadecimal, or such and parts that stand several times.
fn data(parts: &Json) -> Vec<u8> {
    match parts {
        Json::Array(parts) => parts.iter().flat_map(part).collect(),
        whole => unhex(whole),
    }
}

fn part(part: &Json) -> Vec<u8> {
    match part.as_array() {
        Some(repeated) => unhex(&repeated[0]).repeat(repeated[1].as_u64().unwrap() as usize),
        None => unhex(part),
    }
}

fn numbers(of: &Json) -> Vec<u8> {
    let mut writer = Writer::bare();
    let all = of.as_array().unwrap();
    writer.array(all.len());
    for number in all {
        match number.as_i64() {
            Some(number) => writer.int(number),
            None => writer.nil(),
        }
    }
    writer.finish().bytes
}

fn float(bits: &Json) -> f64 {
    f64::from_be_bytes(unhex(bits).try_into().unwrap())
}

/// A value as it stands in the file.
fn value(written: &Json, fds: &[Arc<OwnedFd>]) -> Value {
    let all = |of: &Json| {
        of.as_array()
            .unwrap()
            .iter()
            .map(|v| value(v, fds))
            .collect::<Vec<Value>>()
    };
    let object = match written {
        Json::Null => return Value::Nil,
        Json::Bool(flag) => return Value::Bool(*flag),
        Json::Number(number) => {
            return number
                .as_i64()
                .map_or_else(|| Value::UInt(number.as_u64().unwrap()), Value::Int);
        }
        Json::String(text) => return Value::Str(text.clone()),
        Json::Array(_) => return Value::Array(all(written)),
        Json::Object(object) => object,
    };
    let (kind, of) = object.iter().next().unwrap();
    let times = |of: &Json| of[1].as_u64().unwrap() as usize;
    match kind.as_str() {
        "repeat" => match &of[0] {
            Json::String(text) => Value::Str(text.repeat(times(of))),
            one => Value::Array(vec![value(one, fds); times(of)]),
        },
        "int" => Value::Other(extension::INTEGER, unhex(of)),
        "float" => Value::Float(float(of)),
        "surrogates" => Value::Other(extension::SURROGATES, unhex(of)),
        "bytes" => Value::Bytes(match of.get("repeat") {
            Some(many) => unhex(&many[0]).repeat(times(many)),
            None => unhex(of),
        }),
        "map" => Value::Map(pairs(of, fds)),
        "tuple" => Value::Tuple(all(of)),
        "set" => Value::Set(all(of)),
        "frozenset" => Value::FrozenSet(all(of)),
        "datetime" => Value::Other(extension::DATETIME, numbers(of)),
        "date" => Value::Other(extension::DATE, numbers(of)),
        "time" => Value::Other(extension::TIME, numbers(of)),
        "timedelta" => Value::Other(extension::TIMEDELTA, numbers(of)),
        "decimal" => Value::Other(extension::DECIMAL, of.as_str().unwrap().into()),
        "uuid" => Value::Other(extension::UUID, unhex(of)),
        "complex" => Value::Other(extension::COMPLEX, [unhex(&of[0]), unhex(&of[1])].concat()),
        "member" => Value::Member(Box::new(value(of, fds))),
        "fd" => Value::Fd(Descriptor(fds[of.as_u64().unwrap() as usize].clone())),
        other => panic!("{other}"),
    }
}

fn pairs(of: &Json, fds: &[Arc<OwnedFd>]) -> Vec<(Value, Value)> {
    let pair = |pair: &Json| (value(&pair[0], fds), value(&pair[1], fds));
    of.as_array().unwrap().iter().map(pair).collect()
}

/// As text, for NaN is unlike itself; and a descriptor by what it is open for.
fn shown(value: &Value) -> String {
    match value {
        Value::Fd(Descriptor(fd)) => {
            let stat = rustix::fs::fstat(fd).unwrap();
            format!("fd of {} {}", stat.st_dev, stat.st_ino)
        }
        Value::Array(items) => format!("{:?}", items.iter().map(shown).collect::<Vec<_>>()),
        Value::Float(number) => format!("{:016x}", number.to_bits()),
        other => format!("{other:?}"),
    }
}

/// The word for it in the file.
fn word(error: &WireError) -> String {
    match error {
        WireError::Malformed(Malformed::GoAway) => "goaway".into(),
        WireError::Malformed(malformed) => format!("{malformed:?}").to_lowercase(),
        other => format!("{other:?}"),
    }
}

fn descriptor(what: &Json) -> OwnedFd {
    match what.as_str() {
        Some("null") => return std::fs::File::open("/dev/null").unwrap().into(),
        Some("pipe") => return std::io::pipe().unwrap().0.into(),
        _ => {}
    }
    let flags = rustix::fs::MemfdFlags::CLOEXEC | rustix::fs::MemfdFlags::ALLOW_SEALING;
    let fd = rustix::fs::memfd_create("vector", flags).unwrap();
    let content = data(&what["memfd"]);
    assert_eq!(rustix::io::pwrite(&fd, &content, 0), Ok(content.len()));
    if what["sealed"] == true {
        rustix::fs::fcntl_add_seals(&fd, rustix::fs::SealFlags::SHRINK).unwrap();
    }
    fd
}

#[test]
fn values_are_what_the_file_says() {
    let mut wrong = Vec::new();
    for vector in vectors("values") {
        let bytes = data(&vector["bytes"]);
        // A value alone is read as the one element of a message, so that keys are told apart; the array around it is one container.
        let mut around = [&[0x91][..], &bytes].concat();
        let inside = vector["error"] == "depth" || vector["error"] == "values" || vector.get("value").is_none();
        if inside && bytes.first().is_some_and(|b| *b >= 0x90) {
            around = bytes.clone();
        }
        let read = pysecure_wire::read(&around, Vec::new(), &mut IncomingArea::default());
        match (read, vector.get("value"), vector.get("error")) {
            (Ok(read), Some(expected), None) => {
                let expected = value(expected, &[]);
                if shown(&read[0]) != shown(&expected) {
                    wrong.push(format!("{}: {:.200}", vector["name"], shown(&read[0])));
                }
                let mut writer = Writer::bare();
                writer.value(&expected, 0).unwrap();
                if vector["shortest"] == true && writer.finish().bytes != bytes {
                    wrong.push(format!("{}: written otherwise", vector["name"]));
                }
            }
            (Ok(_), None, None) => {}
            (Err(error), _, Some(expected)) if word(&error) == *expected => {}
            (other, ..) => wrong.push(format!("{}: {:.200}", vector["name"], format!("{other:?}"))),
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a message means: its kind and elements, each as text.
fn opened(vector: &Json, fds: Vec<OwnedFd>) -> Result<Vec<String>, WireError> {
    let bytes = data(&vector["bytes"]);
    let area = &mut IncomingArea::default();
    if vector["from"] == "service" {
        let mut opened = message::open(&bytes, fds, area)?;
        let read = FromService::read(&mut Reader::new(&opened.bytes, &mut opened.fds, area))?;
        opened.fds.finish(area)?;
        return Ok(service(read));
    }
    let mut opened = message::open_call(&bytes, fds, area, |_| true)?.unwrap();
    let mut reader = Reader::new(&opened.bytes, &mut opened.fds, area);
    let read = FromCaller::read(&mut reader, |name| Some(name.to_owned()))?;
    let shown = caller(read);
    opened.fds.finish(area)?;
    Ok(shown)
}

fn number(number: Option<u64>) -> String {
    shown(&number.map_or(Value::Nil, |n| i64::try_from(n).map_or(Value::UInt(n), Value::Int)))
}

fn text(text: Option<&str>) -> String {
    shown(&text.map_or(Value::Nil, |text| Value::Str(text.to_owned())))
}

fn map(entries: Vec<(Value, Value)>) -> String {
    shown(&Value::Map(entries))
}

/// The kind and the elements, each as text.
fn caller(read: FromCaller<'_, String>) -> Vec<String> {
    match read {
        FromCaller::Call(call, function) => {
            let CallOptions {
                deadline,
                traceparent,
                read,
                credit,
            } = call.options;
            let (args, kwargs) = (shown(&Value::Array(call.args)), map(call.kwargs));
            let head = [
                "CALL".into(),
                number(Some(call.id)),
                text(Some(&function)),
                args,
                kwargs,
            ];
            [
                &head[..],
                &[number(deadline), text(traceparent), number(read), number(credit)],
            ]
            .concat()
        }
        FromCaller::Refused(refused) => panic!("{refused:?}"),
        FromCaller::Credit { id, count, read } => {
            vec!["CREDIT".into(), number(Some(id)), number(Some(count)), number(read)]
        }
        FromCaller::Cancel { id } => vec!["CANCEL".into(), number(Some(id))],
    }
}

fn service(read: FromService) -> Vec<String> {
    let answer = |kind: &str, id, value: &Value| vec![kind.to_owned(), number(Some(id)), shown(value)];
    match read {
        FromService::Hello(Hello {
            service,
            caller,
            functions,
        }) => {
            let functions = functions.into_iter().map(|(name, hash)| {
                let hash = i64::try_from(hash).map_or(Value::UInt(hash), Value::Int);
                (Value::Str(name), hash)
            });
            let names = [
                "HELLO".into(),
                number(Some(1)),
                text(Some(&service)),
                text(caller.as_deref()),
            ];
            [&names[..], &[map(functions.collect())]].concat()
        }
        FromService::Ok(id, value) => answer("OK", id, &value),
        FromService::Item(id, value) => answer("ITEM", id, &value),
        FromService::End(id, value) => answer("END", id, &value),
        FromService::Err(id, error) => {
            let ErrorReply {
                class,
                message,
                args,
                traceback,
                ran,
            } = error;
            let head = ["ERR".into(), number(Some(id)), text(Some(&class)), text(Some(&message))];
            let rest = [
                shown(&Value::Array(args)),
                text(traceback.as_deref()),
                shown(&Value::Bool(ran)),
            ];
            [&head[..], &rest].concat()
        }
        FromService::GoAway(reason) => vec!["GOAWAY".into(), text(Some(&reason))],
    }
}

fn expected(means: &Json, fds: &[Arc<OwnedFd>]) -> Vec<String> {
    let element = |(name, element): (&String, &Json)| match name.as_str() {
        "kind" => element.as_str().unwrap().to_owned(),
        "kwargs" | "functions" => map(pairs(element, fds)),
        _ => shown(&value(element, fds)),
    };
    let mut names: Vec<&str> = match means["kind"].as_str().unwrap() {
        "HELLO" => vec!["version", "service", "caller", "functions"],
        "CALL" => vec![
            "id",
            "function",
            "args",
            "kwargs",
            "deadline",
            "traceparent",
            "read",
            "credit",
        ],
        "ERR" => vec!["id", "class", "message", "args", "traceback", "ran"],
        "CREDIT" => vec!["id", "count", "read"],
        "CANCEL" => vec!["id"],
        "GOAWAY" => vec!["reason"],
        _ => vec!["id", "value"],
    };
    names.insert(0, "kind");
    let object = means.as_object().unwrap();
    assert_eq!(object.len(), names.len(), "{means}");
    names
        .into_iter()
        .map(|name| element((&name.to_owned(), &object[name])))
        .collect()
}

#[test]
fn messages_are_what_the_file_says() {
    let mut wrong = Vec::new();
    for vector in vectors("messages") {
        let fds: Vec<OwnedFd> = vector["descriptors"]
            .as_array()
            .unwrap()
            .iter()
            .map(descriptor)
            .collect();
        let known: Vec<Arc<OwnedFd>> = fds.iter().map(|fd| Arc::new(fd.try_clone().unwrap())).collect();
        let read = opened(&vector, fds);
        let problem = match (&read, vector.get("means"), vector.get("error")) {
            (Ok(read), Some(means), None) => *read != expected(means, &known),
            (Err(error), None, Some(expected)) => word(error) != *expected,
            _ => true,
        };
        if problem {
            wrong.push(format!("{}: {:.300}", vector["name"], format!("{read:?}")));
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

/// A message that is put together by the crate is what the file has.
#[test]
fn messages_are_written_as_the_file_says() {
    let find = |name: &str| {
        let all = vectors("messages");
        data(&all.iter().find(|vector| vector["name"] == name).unwrap()["bytes"])
    };
    let options = CallOptions {
        deadline: Some(1000),
        traceparent: Some("00-x"),
        read: Some(0),
        credit: Some(5),
    };
    let mut call = Writer::bare();
    let arguments = |w: &mut Writer<'_>| {
        w.value(&Value::Array(vec![Value::Int(40), Value::Int(2)]), 1)?;
        w.value(&Value::Map(Vec::new()), 1)
    };
    message::write_call::<WireError>(&mut call, 1, |w| w.str("add"), arguments, &options).unwrap();
    assert_eq!(call.finish().bytes, find("a CALL with all that it may have"));
    let hello = message::hello_message("auth", Some("web"), [("login", 17_325_774_674_193_137_378)].into_iter());
    assert_eq!(hello.bytes, find("HELLO"));
    let args = [Value::Str("alice".into())];
    let error = message::error_message(1, "ValueError", "no such user", &args, true);
    assert_eq!(error.bytes, find("ERR"));
    assert_eq!(
        message::credit_message(9, 1 << 31, 5).bytes,
        find("CREDIT with all but more")
    );
    assert_eq!(message::cancel_message(1 << 53).bytes, find("CANCEL"));
    assert_eq!(message::goaway_message("the service ends").bytes, find("GOAWAY"));
}
