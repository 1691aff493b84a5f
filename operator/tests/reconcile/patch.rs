//! JSON merge patches, for tables of small changes to one base.

use serde_json::Value;

/// `base` with `patch` laid over it: objects are merged, null removes, all else replaces.
pub(crate) fn merged(base: &Value, patch: &Value) -> Value {
    let (Value::Object(base), Value::Object(patch)) = (base, patch) else { return patch.clone() };
    let mut merged_fields = base.clone();
    for (key, patch) in patch {
        if patch.is_null() {
            merged_fields.remove(key);
        } else {
            let base = base.get(key).cloned().unwrap_or_default();
            merged_fields.insert(key.clone(), merged(&base, patch));
        }
    }
    Value::Object(merged_fields)
}
