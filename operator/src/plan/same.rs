//! Whether a live object still holds everything that was intended.
//!
//! What the API server or others added does not count; what they changed or took away does. What left the intent is
//! found by the hash of the intent, not here.

use serde_json::{Map, Value};

use crate::validate::quantity;

/// The first field of `intent` that `live` does not hold, as a path; `None` when it holds all.
pub(super) fn first_difference(live: &Value, intent: &Value) -> Option<String> {
    difference(live, intent, "", false)
}

fn difference(live: &Value, intent: &Value, path: &str, quantities: bool) -> Option<String> {
    match (live, intent) {
        (Value::Object(live), Value::Object(intent)) => intent.iter().find_map(|(key, intent)| {
            let quantities = quantities || key == "requests" || key == "limits";
            let path = format!("{path}.{key}");
            match live.get(key) {
                Some(live) => difference(live, intent, &path, quantities),
                // The API server drops what is empty.
                None => (!is_empty(intent)).then_some(path),
            }
        }),
        (Value::Array(live), Value::Array(intent)) => {
            intent.iter().enumerate().find_map(|(index, intent)| {
                let key = merge_key(intent);
                let path = match key.and_then(|key| intent[key].as_str()) {
                    Some(name) => format!("{path}[{name}]"),
                    None => format!("{path}[{index}]"),
                };
                let live = match key {
                    Some(key) => live.iter().find(|live| live.get(key) == intent.get(key)),
                    None => live.get(index),
                };
                live.map_or(Some(path.clone()), |live| difference(live, intent, &path, false))
            })
        }
        (Value::String(live), Value::String(intent)) if quantities => {
            let same = live == intent || quantity(live).is_some_and(|live| Some(live) == quantity(intent));
            (!same).then(|| path.to_owned())
        }
        (live, intent) => (live != intent).then(|| path.to_owned()),
    }
}

/// The key by which the API server merges a list of such items: others may have put their own between ours.
fn merge_key(item: &Value) -> Option<&'static str> {
    let item: &Map<String, Value> = item.as_object()?;
    ["uid", "name", "containerPort", "topologyKey", "key"].into_iter().find(|key| item.contains_key(*key))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn additions_of_others_are_no_drift() {
        let intent = json!({"replicas": 1, "env": [{"name": "TOPIC", "value": "t"}], "annotations": {}});
        let live =
            json!({"replicas": 1, "paused": false, "env": [{"name": "X"}, {"name": "TOPIC", "value": "t"}]});
        assert_eq!(first_difference(&live, &intent), None);
    }

    #[test]
    fn a_variable_with_an_empty_value_is_no_drift() {
        let intent = json!({"env": [{"name": "FLAGS", "value": ""}]});
        assert_eq!(first_difference(&json!({"env": [{"name": "FLAGS"}]}), &intent), None);
    }

    #[test]
    fn a_changed_or_missing_field_is_drift() {
        let intent = json!({"replicas": 1, "env": [{"name": "TOPIC", "value": "t"}]});
        assert!(
            first_difference(&json!({"replicas": 2, "env": [{"name": "TOPIC", "value": "t"}]}), &intent)
                .is_some()
        );
        assert!(first_difference(&json!({"replicas": 1, "env": []}), &intent).is_some());
        assert!(
            first_difference(&json!({"replicas": 1, "env": [{"name": "TOPIC", "value": "u"}]}), &intent)
                .is_some()
        );
    }

    #[test]
    fn a_quantity_in_the_api_server_s_spelling_is_no_drift() {
        let intent = json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert_eq!(first_difference(&json!({"requests": {"cpu": "1", "memory": "1Gi"}}), &intent), None);
        assert!(first_difference(&json!({"requests": {"cpu": "2", "memory": "1Gi"}}), &intent).is_some());
    }
}
