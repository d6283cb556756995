//! Rust's values on the wire, by serde.

use pysecure_rpc::kinds::{Date, DateTime, Decimal, Set, Time, TimeDelta, Uuid};
use pysecure_rpc::{Typed, Value, from_value, hash, to_value};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Written, and read again.
fn there_and_back(value: &impl Serialize) -> Value {
    to_value(value).unwrap()
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Typed)]
enum Colour {
    Red,
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Typed)]
struct Tree {
    name: String,
    #[serde(default)]
    colour: Option<Colour>,
    below: Vec<Tree>,
    size: (u64, f64),
}

#[test]
fn rust_s_values_come_back_and_no_other_type_is_taken() {
    let leaf = Tree {
        name: "leaf".into(),
        colour: Some(Colour::Red),
        below: vec![],
        size: (u64::MAX, 0.5),
    };
    let tree = Tree {
        name: "root".into(),
        colour: None,
        below: vec![leaf],
        size: (1, f64::INFINITY),
    };
    let back = there_and_back(&tree);
    assert_eq!(from_value::<Tree>(back).unwrap(), tree);
    for big in [i128::MIN, -1 << 64, 1 << 64, i128::MAX, 0, -1] {
        assert_eq!(from_value::<i128>(to_value(&big).unwrap()).unwrap(), big);
    }
    assert!(from_value::<String>(Value::Int(1)).is_err());
    assert!(from_value::<f64>(Value::Int(1)).is_err());
    assert!(from_value::<i64>(Value::Float(1.0)).is_err());
    assert!(from_value::<i64>(Value::Bool(true)).is_err());
    assert!(from_value::<u8>(Value::Int(256)).is_err());
    assert!(from_value::<bool>(Value::Nil).is_err());
}

#[derive(Debug, PartialEq, Serialize, Deserialize, Typed)]
struct Rare {
    ids: Vec<Uuid>,
    when: Option<DateTime>,
    sets: BTreeMap<String, Set<String>>,
    day: Date,
    span: TimeDelta,
    amount: Decimal,
}

#[test]
fn kinds_that_serde_has_not_come_back_within_others() {
    let day = Date {
        year: 1,
        month: 12,
        day: 31,
    };
    let time = Time {
        hour: 0,
        minute: 0,
        second: 0,
        microsecond: 999_999,
        offset: None,
        fold: false,
    };
    let rare = Rare {
        ids: vec![Uuid([0; 16]), Uuid([255; 16])],
        when: Some(DateTime { date: day, time }),
        sets: [("a".to_owned(), Set(["x".to_owned(), String::new()].into()))].into(),
        day,
        span: TimeDelta {
            days: -999_999_999,
            seconds: 86_399,
            microseconds: 1,
        },
        amount: Decimal("NaN".into()),
    };
    let back = there_and_back(&rare);
    assert_eq!(from_value::<Rare>(back).unwrap(), rare);
    let text = "{ids:list[uuid],when:datetime|nil,sets:map[str,set[str]],day:date,span:timedelta,amount:decimal}";
    assert_eq!(Rare::text(&mut Vec::new()), text);
    assert!(to_value(&Decimal("½".into())).is_err() && to_value(&Decimal(String::new())).is_err());
    // Nothing is taken for another, and no other format for one of these.
    let uuid = || to_value(&Uuid([1; 16])).unwrap();
    assert!(from_value::<Decimal>(uuid()).is_err());
    assert!(from_value::<String>(uuid()).is_err());
    assert!(from_value::<Set<i64>>(Value::Array(vec![Value::Int(1)])).is_err());
    assert!(from_value::<Date>(Value::Other(6, vec![0x93, 1, 0xcd, 1, 0, 1])).is_err());
    assert!(serde_json::to_string(&Uuid([1; 16])).is_err());
    assert!(serde_json::from_str::<Uuid>("null").is_err());
}

#[test]
fn signatures_are_the_protocol_s() {
    let text = "login(user:str,password:str,remember:bool=)->bool";
    assert_eq!(hash(text), 17_325_774_674_193_137_378);
    let tree = "{name:str,colour:enum[Colour]|nil=,below:list[@Tree],size:tuple[int,float]}";
    assert_eq!(Tree::text(&mut Vec::new()), tree);
}
