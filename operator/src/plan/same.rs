//! Whether a live object still holds everything that was intended.
//!
//! What the API server or others added does not count; what they changed or took away does. What left the intent is
//! found by the hash of the intent, not here.

use serde_json::{Map, Value};

use crate::validate::quantity;

/// Whether `live` holds all of `intent`.
pub(super) fn contains(live: &Value, intent: &Value) -> bool {
    holds(live, intent, false)
}

fn holds(live: &Value, intent: &Value, quantities: bool) -> bool {
    match (live, intent) {
        (Value::Object(live), Value::Object(intent)) => intent.iter().all(|(key, intent)| {
            let quantities = quantities || key == "requests" || key == "limits";
            match live.get(key) {
                Some(live) => holds(live, intent, quantities),
                // The API server drops what is empty.
                None => is_empty(intent),
            }
        }),
        (Value::Array(live), Value::Array(intent)) => intent.iter().enumerate().all(|(index, intent)| {
            let live = match merge_key(intent) {
                Some(key) => live.iter().find(|live| live.get(key) == intent.get(key)),
                None => live.get(index),
            };
            live.is_some_and(|live| holds(live, intent, false))
        }),
        (Value::String(live), Value::String(intent)) if quantities => {
            live == intent || quantity(live).is_some_and(|live| Some(live) == quantity(intent))
        }
        (live, intent) => live == intent,
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
        assert!(contains(&live, &intent));
    }

    #[test]
    fn a_changed_or_missing_field_is_drift() {
        let intent = json!({"replicas": 1, "env": [{"name": "TOPIC", "value": "t"}]});
        assert!(!contains(&json!({"replicas": 2, "env": [{"name": "TOPIC", "value": "t"}]}), &intent));
        assert!(!contains(&json!({"replicas": 1, "env": []}), &intent));
        assert!(!contains(&json!({"replicas": 1, "env": [{"name": "TOPIC", "value": "u"}]}), &intent));
    }

    #[test]
    fn a_quantity_in_the_api_server_s_spelling_is_no_drift() {
        let intent = json!({"requests": {"cpu": "1000m", "memory": "1024Mi"}});
        assert!(contains(&json!({"requests": {"cpu": "1", "memory": "1Gi"}}), &intent));
        assert!(!contains(&json!({"requests": {"cpu": "2", "memory": "1Gi"}}), &intent));
    }
}
