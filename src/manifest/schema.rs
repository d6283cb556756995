//! The manifest's JSON Schema, made of the types that decode it; `specs/manifest.schema.json` is this.

use super::decode::Field;
use super::types::Manifest;
use serde_json::{Value, json};

/// Draft 2020-12. What takes more than one key to check (names that nothing declares, ranges, nesting) only
/// `pysecure check` can say.
pub fn schema() -> Value {
    let mut out = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "PySecure manifest",
        "description": "The services of an application, the resources that each may touch and how, the bundles that they share, and who may call whom.",
    });
    let Value::Object(body) = Manifest::schema() else { return out };
    if let Some(out) = out.as_object_mut() {
        out.extend(body);
    }
    out
}
