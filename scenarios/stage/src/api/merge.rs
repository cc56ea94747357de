//! JSON merge patch (RFC 7386), to which strategic and server-side-apply patches are reduced here.
//!
//! The difference shows only in lists: a merge patch replaces a list, where a strategic patch would merge it
//! by key. Scenarios patch maps (`data`, `annotations`), for which both do the same.

use serde_json::{Map, Value};

/// Merges `patch` into `target`: objects by key, `null` removes, anything else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            // Depth is bounded by serde_json's recursion limit when the patch was parsed.
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(target: Value, patch: Value, expected: Value) {
        let mut merged = target;
        merge(&mut merged, &patch);
        assert_eq!(merged, expected);
    }

    #[test]
    fn a_patch_merges_objects_and_replaces_the_rest() {
        check(json!({"a": 1}), json!({"b": 2}), json!({"a": 1, "b": 2}));
        check(
            json!({"data": {"x": "1", "y": "2"}}),
            json!({"data": {"x": "3"}}),
            json!({"data": {"x": "3", "y": "2"}}),
        );
        check(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
        check(json!({"a": "text"}), json!({"a": {"b": 1}}), json!({"a": {"b": 1}}));
    }

    #[test]
    fn null_removes_and_is_never_stored() {
        check(json!({"a": 1, "b": 2}), json!({"a": null}), json!({"b": 2}));
        check(json!({}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}}));
    }
}
