//! Which events a swap makes: one for each object whose files changed, none for tokens.

use aftertrace_model::Timestamp;
use serde_json::json;

use super::*;
use crate::attribute::pods::Pods;
use crate::kernel::{RenameCall, Task};
use crate::volumes::path::VolumePath;

fn pods() -> Pods {
    let mut pods = Pods::default();
    let pod = json!({"metadata": {"uid": "u", "name": "p", "namespace": "n"}, "spec": {"containers": [], "volumes": [
        {"name": "cfg", "configMap": {"name": "cm", "items": [{"key": "k", "path": "dir/file"}]}},
        {"name": "sec", "secret": {"secretName": "s"}},
        {"name": "both", "projected": {"sources": [{"configMap": {"name": "a"}}, {"secret": {"name": "b"}}]}},
        {"name": "api", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}},
        {"name": "info", "downwardAPI": {"items": [
            {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
    ]}});
    pods.apply(&serde_json::from_value(pod).expect("a pod"), Timestamp::from_micros(0));
    pods
}

fn swap(volume: &str, changed: Option<&[&str]>) -> Swap {
    let owned = |list: &[&str]| list.iter().map(|p| (*p).to_owned()).collect::<Vec<_>>();
    let files = changed.map(|c| c.iter().map(|p| ((*p).to_owned(), b"new".to_vec())).collect());
    Swap {
        volume: VolumePath {
            root: "/k".into(),
            uid: "u".into(),
            plugin: "kubernetes.io~projected".into(),
            volume: volume.into(),
        },
        id: crate::kernel::VolumeId { device: 1, inode: 2 },
        generation: "..2".into(),
        previous: "..1".into(),
        previous_listing: None,
        listing: None,
        changed: changed.map(owned),
        files,
    }
}

fn rename() -> Rename {
    let writer = Task {
        tid: 7,
        tgid: 7,
        ns_tgid: None,
        uid: None,
        start_boot_ns: None,
        process_start_boot_ns: None,
        comm: Some("kube\nlet".into()),
    };
    Rename {
        boot_ns: 10,
        enter_boot_ns: 9,
        writer,
        mount_namespace: None,
        result: Ok(()),
        call: RenameCall::Renameat,
        old_dfd: None,
        new_dfd: None,
        flags: 0,
        old_path: "/k/..data_tmp".into(),
        new_path: "/k/..data".into(),
        volume: None,
    }
}

fn made(swap: &Swap, keys: &Keys) -> Vec<Event> {
    let origin = Origin { cluster: "c".into(), node: "n".into() };
    let pods = pods();
    let pod = pods.get("u").expect("it was applied");
    let occurred = Occurrence::within(Timestamp::from_micros(0), 1);
    events(&origin, swap, &rename(), occurred, pod, keys)
}

fn check(volume: &str, changed: Option<&[&str]>, expected: &[&str]) {
    let shown: Vec<String> = made(&swap(volume, changed), &Keys::new())
        .iter()
        .map(|e| {
            assert_eq!(e.pod_uid(), Some("u"));
            assert!(e.content.is_none() && e.attributes["aftertrace.content"] == "hash unavailable");
            let object = e.object.as_ref().map_or("?".to_owned(), |o| format!("{}/{}", o.kind, o.name));
            match e.attributes.get("aftertrace.changed_keys") {
                Some(keys) => format!("{object} {keys}"),
                None => object,
            }
        })
        .collect();
    assert_eq!(shown, expected, "{volume}");
}

#[test]
fn each_changed_object_has_its_event() {
    check("cfg", Some(&["dir/file"]), &[r#"ConfigMap/cm ["k"]"#]);
    check("sec", Some(&["a", "b"]), &[r#"Secret/s ["a","b"]"#]);
    check("api", Some(&["ca.crt", "token"]), &[r#"ConfigMap/kube-root-ca.crt ["ca.crt"]"#]);
    check("cfg", None, &["ConfigMap/cm"]);
}

#[test]
fn what_the_spec_cannot_tell_apart_is_not_guessed() {
    check("both", Some(&["x"]), &[r#"? ["x"]"#]);
    let event = made(&swap("both", Some(&["x"])), &Keys::new()).remove(0);
    assert_eq!(event.attributes["aftertrace.object.candidates"], json!(["ConfigMap a", "Secret b"]));
}

#[test]
fn a_rotated_token_or_a_label_is_no_configuration() {
    check("api", Some(&["token"]), &[]);
    check("info", Some(&["labels"]), &[]);
}

#[test]
fn content_is_hashed_by_key_and_only_for_its_object() {
    let key = ObjectKey::from_bytes([3; 32]);
    let object = MountedObject { kind: "ConfigMap", namespace: "n".into(), name: "cm".into() };
    let keys = Keys::from([(object, key.clone())]);
    let events = made(&swap("cfg", Some(&["dir/file"])), &keys);
    let content = events[0].content.as_ref().expect("there is a key");
    assert_eq!(*content, key.content([("k", b"new".as_slice())]));
    assert!(!events[0].attributes.contains_key("aftertrace.content"));
    assert_eq!(events[0].attributes["process.command"], "kube\\nlet");
    assert!(!serde_json::to_string(&events[0]).expect("encodes").contains("new\""), "no value leaves");
}
