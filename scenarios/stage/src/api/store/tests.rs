//! The store's promises, one short history each.

use serde_json::json;

use super::*;

const PODS: Resource = Resource::Pods;

fn pod(name: &str, phase: &str) -> Value {
    json!({ "metadata": { "namespace": "shop", "name": name }, "status": { "phase": phase } })
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

fn names(objects: &[Arc<Value>]) -> Vec<String> {
    objects.iter().map(|object| ObjectKey::of(object).name).collect()
}

#[test]
fn each_write_gets_the_next_revision() {
    let mut store = Store::new(LOG_ROWS_MAX);
    let first = store.create(PODS, pod("a", "Pending")).unwrap();
    let second = store.create(Resource::ConfigMaps, pod("b", "")).unwrap();
    assert_eq!(revision_of(&second), revision_of(&first) + 1);
    assert_eq!(store.head(PODS), revision_of(&second), "one revision counts all kinds");
}

#[test]
fn a_name_is_taken_once() {
    let mut store = Store::new(LOG_ROWS_MAX);
    store.create(PODS, pod("a", "Pending")).unwrap();
    let error = store.create(PODS, pod("a", "Pending")).unwrap_err();
    assert_eq!(error, ApiError::AlreadyExists { resource: PODS, name: "a".into() });
}

#[test]
fn an_unchanged_replace_writes_nothing() {
    let mut store = Store::new(LOG_ROWS_MAX);
    let created = store.create(PODS, pod("a", "Pending")).unwrap();
    let same = store.replace(PODS, pod("a", "Pending")).unwrap();
    assert_eq!(same, created);
    assert_eq!(store.revision(), revision_of(&created));
}

#[test]
fn a_stale_replace_is_a_conflict() {
    let mut store = Store::new(LOG_ROWS_MAX);
    let created = store.create(PODS, pod("a", "Pending")).unwrap();
    store.replace(PODS, pod("a", "Running")).unwrap();
    let mut stale = Value::clone(&created);
    stale["status"]["phase"] = json!("Failed");
    assert_eq!(store.replace(PODS, stale).unwrap_err().code(), 409);
}

#[test]
fn the_state_at_an_older_revision_is_rebuilt() {
    let mut store = Store::new(LOG_ROWS_MAX);
    store.create(PODS, pod("a", "Pending")).unwrap();
    let at = store.revision();
    store.replace(PODS, pod("a", "Running")).unwrap();
    store.create(PODS, pod("b", "Pending")).unwrap();
    store.delete(PODS, &key("a")).unwrap();
    assert_eq!(names(&store.list(PODS)), ["b"]);
    let then = store.list_at(PODS, at).unwrap();
    assert_eq!(names(&then), ["a"]);
    assert_eq!(then[0]["status"]["phase"], "Pending");
}

#[test]
fn changes_come_once_and_in_order() {
    let mut store = Store::new(LOG_ROWS_MAX);
    store.create(PODS, pod("a", "Pending")).unwrap();
    let at = store.revision();
    store.replace(PODS, pod("a", "Running")).unwrap();
    store.delete(PODS, &key("a")).unwrap();
    let changes = store.changes_after(PODS, at).unwrap();
    assert!(matches!(changes[0].change, Change::Put { previous: Some(_), .. }));
    let Change::Delete { object, .. } = &changes[1].change else { panic!("not a deletion: {changes:?}") };
    assert_eq!(revision_of(object), at + 2, "a deletion carries its own revision");
    assert!(store.changes_after(PODS, at + 2).unwrap().is_empty());
}

#[test]
fn compaction_is_gone_only_for_those_who_lag() {
    let mut store = Store::new(LOG_ROWS_MAX);
    store.create(PODS, pod("a", "Pending")).unwrap();
    let old = store.revision();
    store.replace(PODS, pod("a", "Running")).unwrap();
    store.compact();
    let head = store.head(PODS);
    assert_eq!(store.changes_after(PODS, old).unwrap_err(), ApiError::Gone { asked: old, oldest: head });
    assert!(store.changes_after(PODS, head).unwrap().is_empty());
    assert_eq!(names(&store.list(PODS)), ["a"], "objects stay");
}

#[test]
fn a_full_log_compacts_its_oldest_changes() {
    let mut store = Store::new(2);
    for name in ["a", "b", "c"] {
        store.create(PODS, pod(name, "Pending")).unwrap();
    }
    let first = store.revision() - 2;
    assert_eq!(store.changes_after(PODS, first).unwrap().len(), 2);
    assert_eq!(store.changes_after(PODS, first - 1).unwrap_err().code(), 410);
}

#[test]
fn a_recording_keeps_its_revisions() {
    let mut store = Store::new(LOG_ROWS_MAX);
    store.load_recorded(PODS, 282, Vec::new());
    assert_eq!(store.head(PODS), 282);
    let mut recorded = pod("a", "Pending");
    recorded["metadata"]["resourceVersion"] = json!("289");
    store.put_recorded(PODS, recorded.clone());
    store.put_recorded(PODS, recorded.clone());
    store.bookmark_recorded(PODS, 357);
    recorded["metadata"]["resourceVersion"] = json!("371");
    store.delete_recorded(PODS, recorded);
    let revisions: Vec<u64> =
        store.changes_after(PODS, 282).unwrap().iter().map(|entry| entry.revision).collect();
    assert_eq!(revisions, [289, 357, 371]);
    assert_eq!(store.changes_after(PODS, 281).unwrap_err().code(), 410);
}
