//! Which paths differ between two states of an object.
//!
//! Shape: `spec.nodeName`, `metadata.labels[app.kubernetes.io/name]`, and for lists whose elements have a
//! `name`, `type` or `uid` that element by it, `spec.containers[app].image`, so that a reordered list is no
//! change. Only the deepest paths are given.

use std::collections::BTreeSet;

use serde_json::Value;

/// Names by which Kubernetes tells elements of a list apart.
const ELEMENT_KEYS: &[&str] = &["name", "type", "uid"];

/// The paths that differ, sorted, each once.
pub(crate) fn changed_paths(before: &Value, after: &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    walk(before, after, "", &mut paths);
    paths
}

fn walk(before: &Value, after: &Value, path: &str, out: &mut BTreeSet<String>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(b), Value::Object(a)) => {
            for key in b.keys().chain(a.keys()).collect::<BTreeSet<_>>() {
                let (b, a) = (b.get(key).unwrap_or(&Value::Null), a.get(key).unwrap_or(&Value::Null));
                walk(b, a, &member(path, key), out);
            }
        }
        (Value::Null, Value::Object(a)) => a.iter().for_each(|(k, v)| {
            walk(&Value::Null, v, &member(path, k), out);
        }),
        (Value::Object(b), Value::Null) => b.iter().for_each(|(k, v)| {
            walk(v, &Value::Null, &member(path, k), out);
        }),
        (Value::Array(b), Value::Array(a)) => match (keyed(b), keyed(a)) {
            (Some(b), Some(a)) => {
                let keys: BTreeSet<_> = b.iter().chain(&a).map(|(key, _)| *key).collect();
                for key in keys {
                    let of = |list: &[(&str, &Value)]| {
                        list.iter().find(|(k, _)| *k == key).map_or(Value::Null, |(_, v)| (*v).clone())
                    };
                    walk(&of(&b), &of(&a), &format!("{path}[{key}]"), out);
                }
            }
            _ => {
                out.insert(path.to_owned());
            }
        },
        _ => {
            out.insert(path.to_owned());
        }
    }
}

/// The elements by their own key, if each has one and no two share it.
fn keyed(list: &[Value]) -> Option<Vec<(&str, &Value)>> {
    ELEMENT_KEYS.iter().find_map(|key| {
        let elements: Option<Vec<_>> = list.iter().map(|v| Some((v.get(key)?.as_str()?, v))).collect();
        elements.filter(|e| e.iter().map(|(k, _)| k).collect::<BTreeSet<_>>().len() == e.len())
    })
}

fn member(path: &str, key: &str) -> String {
    let plain = key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    match (path.is_empty(), plain) {
        (true, _) => key.to_owned(),
        (false, true) => format!("{path}.{key}"),
        (false, false) => format!("{path}[{key}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(before: &Value, after: &Value, expected: &[&str]) {
        let paths: Vec<_> = changed_paths(before, after).into_iter().collect();
        assert_eq!(paths, expected);
    }

    #[test]
    fn names_the_deepest_path() {
        check(&json!({"a": {"b": 1, "c": 2}}), &json!({"a": {"b": 1, "c": 3}}), &["a.c"]);
        check(&json!({"a": 1}), &json!({"a": 1}), &[]);
        check(&json!({}), &json!({"a": {"b": 1}}), &["a.b"]);
        check(&json!({"l": {"x/y": "1"}}), &json!({"l": {}}), &["l[x/y]"]);
    }

    #[test]
    fn an_element_is_known_by_its_name_not_its_place() {
        let before = json!({"c": [{"name": "a", "v": 1}, {"name": "b", "v": 1}]});
        check(&before, &json!({"c": [{"name": "b", "v": 1}, {"name": "a", "v": 1}]}), &[]);
        check(&before, &json!({"c": [{"name": "a", "v": 1}, {"name": "b", "v": 2}]}), &["c[b].v"]);
        check(&before, &json!({"c": [{"name": "a", "v": 1}]}), &["c[b].name", "c[b].v"]);
        check(
            &json!({"c": []}),
            &json!({"c": [{"type": "Ready", "status": "True"}]}),
            &["c[Ready].status", "c[Ready].type"],
        );
    }

    #[test]
    fn a_list_of_plain_values_is_one_path() {
        check(&json!({"k": ["a"]}), &json!({"k": ["a", "b"]}), &["k"]);
    }
}
