//! The JSON Schema of a manifest, by which editors complete and check one.
//!
//! It is made of the same key lists as the decoder. It says no more than a schema can; what it accepts,
//! the decoder may still refuse.

use schemars::Schema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::Manifest;
use super::decode::prose;

pub fn schema() -> Value {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<Manifest>();
    let mut document = Map::new();
    document.insert(
        "$schema".to_owned(),
        json!(schemars::consts::meta_schemas::DRAFT2020_12),
    );
    document.insert("title".to_owned(), json!("PySecure manifest"));
    if let Value::Object(keys) = schema.to_value() {
        for (key, value) in keys {
            document.entry(key).or_insert(value);
        }
    }
    Value::Object(document)
}

/// Gathers what [`table!`](super::decode) knows of a table's keys.
pub(crate) struct TableSchema {
    description: String,
    properties: Map<String, Value>,
    required: Vec<Value>,
    exclusive: Vec<Value>,
}

impl TableSchema {
    pub(crate) fn new(doc: &[&str]) -> Self {
        TableSchema {
            description: prose(doc),
            properties: Map::new(),
            required: Vec::new(),
            exclusive: Vec::new(),
        }
    }

    /// `keys` are the names that a field has, of which one may be used.
    pub(crate) fn field(&mut self, doc: &[&str], keys: Vec<(&'static str, Schema)>, required: bool) {
        if let ([(key, _)], true) = (keys.as_slice(), required) {
            self.required.push(json!(key));
        }
        if keys.len() > 1 {
            let names: Vec<&str> = keys.iter().map(|(key, _)| *key).collect();
            self.exclusive.push(json!({ "required": names }));
        }
        for (key, mut schema) in keys {
            schema.insert("description".to_owned(), json!(prose(doc)));
            self.properties.insert(key.to_owned(), schema.to_value());
        }
    }

    pub(crate) fn finish(self) -> Schema {
        let mut schema = Map::new();
        schema.insert("description".to_owned(), Value::String(self.description));
        schema.insert("type".to_owned(), json!("object"));
        schema.insert("properties".to_owned(), Value::Object(self.properties));
        schema.insert("additionalProperties".to_owned(), json!(false));
        if !self.required.is_empty() {
            schema.insert("required".to_owned(), Value::Array(self.required));
        }
        if !self.exclusive.is_empty() {
            schema.insert("not".to_owned(), json!({ "anyOf": self.exclusive }));
        }
        schema.into()
    }
}
