//! Recorded watches and made-up statuses, and the facts that they tell. The expected lists are read off the
//! recordings' watch lines and `commands.log` by hand.

use super::*;
use crate::recordings;

fn facts() -> Facts {
    Facts::new(Origin { cluster: "test".into(), node: "node1".into() })
}

/// `kind container id restart_count reason exit_code time`, the id cut to 6 digits, the time to its second.
fn shown(e: &Event) -> String {
    let id: String = e.container_id.as_deref().unwrap_or("-").chars().take(6).collect();
    let time = if e.kind == Kind::ContainerWaiting { e.occurred.earliest } else { e.occurred.at };
    let mut out = format!(
        "{} {} {id} rc={}",
        e.kind,
        e.container.as_deref().unwrap_or("-"),
        e.restart_count.unwrap_or(-1)
    );
    if let Some(reason) = &e.reason {
        out += &format!(" {reason}");
    }
    if let Some(code) = e.exit_code {
        out += &format!(" {code}");
    }
    out + &format!(" {}", &time.to_string()[11..19])
}

fn replay(folder: &str) -> Option<(Vec<String>, Vec<Event>)> {
    let lines = recordings::pod_watch(&recordings::root()?.join(folder));
    assert!(!lines.is_empty(), "{folder} has a pod watch");
    let mut facts = facts();
    let events: Vec<Event> = lines.iter().flat_map(|l| facts.observe(&l.pod, l.arrived)).collect();
    for line in &lines {
        assert!(facts.observe(&line.pod, line.arrived).is_empty(), "a relist tells nothing new");
    }
    // A restarted agent tells it all again, under the same ids.
    let mut again = self::facts();
    let ids: BTreeSet<EventId> = events.iter().map(|e| e.event_id).collect();
    let later = lines.last().expect("not empty");
    for event in again.observe(&later.pod, later.arrived.plus_micros(60_000_000)) {
        assert!(ids.contains(&event.event_id), "{} has another id after a restart", shown(&event));
    }
    Some((events.iter().map(shown).collect(), events))
}

#[test]
fn s01_crash_loop() {
    let Some((shown, events)) = replay("s01-oom-crashloop") else { return };
    assert_eq!(
        shown,
        [
            "container_started app 2c3d4f rc=0 10:52:01",
            "container_terminated app 2c3d4f rc=0 OOMKilled 137 10:52:02",
            "container_started app 6e347e rc=1 10:52:03",
            "container_terminated app 6e347e rc=1 OOMKilled 137 10:52:04",
            "container_waiting app - rc=1 CrashLoopBackOff 10:52:04",
            "container_started app 58c02e rc=2 10:52:15",
            "container_terminated app 58c02e rc=2 OOMKilled 137 10:52:16",
            "container_waiting app - rc=2 CrashLoopBackOff 10:52:16",
            "container_started app 223afe rc=3 10:52:40",
            "container_terminated app 223afe rc=3 OOMKilled 137 10:52:41",
            "container_waiting app - rc=3 CrashLoopBackOff 10:52:41",
            "container_started app f03fd2 rc=4 10:53:39",
        ]
    );
    for event in &events {
        assert_eq!(event.pod_uid(), Some("7c925680-6d5c-463d-b7a3-c322719af62a"));
        assert_eq!(event.workload.as_ref().map(|w| w.name.as_str()), Some("oom-app"));
    }
}

#[test]
fn s03_volume_swap() {
    let Some((shown, _)) = replay("s03-volume-swap") else { return };
    assert_eq!(shown, ["container_started app 1c5302 rc=0 10:55:33"]);
}

#[test]
fn s06_short_lived() {
    let Some((shown, _)) = replay("s06-shortlived") else { return };
    assert_eq!(
        shown,
        [
            "container_started app ed6428 rc=0 11:00:09",
            "container_terminated app ed6428 rc=0 OOMKilled 137 11:00:15",
        ]
    );
}

/// A pod whose statuses are given, created at 10:00:00 and seen at 10:10:00.
fn check(statuses: serde_json::Value, expected: &[&str]) {
    let mut status = statuses;
    for list in status.as_object_mut().expect("an object").values_mut() {
        for one in list.as_array_mut().expect("a list") {
            for (name, value) in [("ready", false.into()), ("image", "i".into()), ("imageID", "".into())] {
                one.as_object_mut().expect("an object").insert(name.to_owned(), value);
            }
        }
    }
    let pod = serde_json::json!({
        "metadata": {"uid": "u", "name": "p", "namespace": "n", "creationTimestamp": "2026-11-20T10:00:00Z"},
        "spec": {"containers": [], "initContainers": [{"name": "side", "restartPolicy": "Always"}]},
        "status": status});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let seen = Timestamp::parse_rfc3339("2026-11-20T10:10:00Z").expect("a time");
    let events = facts().observe(&pod, seen);
    let shown: Vec<String> = events.iter().map(shown).collect();
    assert_eq!(shown, expected);
}

#[test]
fn starting_is_no_waiting() {
    for reason in ["ContainerCreating", "PodInitializing"] {
        check(
            serde_json::json!({"containerStatuses": [
                {"name": "a", "restartCount": 0, "state": {"waiting": {"reason": reason}}}]}),
            &[],
        );
    }
}

#[test]
fn waiting_without_a_life_counts_from_the_creation() {
    check(
        serde_json::json!({"containerStatuses": [
            {"name": "a", "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff"}}}]}),
        &["container_waiting a - rc=0 ImagePullBackOff 10:00:00"],
    );
}

#[test]
fn init_sidecar_and_ephemeral_containers_count() {
    let ended = |id: &str, code: i32| {
        serde_json::json!({"terminated": {"containerID": format!("containerd://{id}"), "exitCode": code,
            "reason": "Error", "startedAt": "2026-11-20T10:01:00Z", "finishedAt": "2026-11-20T10:02:00Z"}})
    };
    check(
        serde_json::json!({
            "initContainerStatuses": [{"name": "side", "restartCount": 0, "state": ended("s1", 137)}],
            "ephemeralContainerStatuses": [{"name": "debug", "restartCount": 0, "state": ended("e1", 42)}]}),
        &[
            "container_started side s1 rc=0 10:01:00",
            "container_terminated side s1 rc=0 Error 137 10:02:00",
            "container_started debug e1 rc=0 10:01:00",
            "container_terminated debug e1 rc=0 Error 42 10:02:00",
        ],
    );
}

#[test]
fn a_container_that_never_started_only_ended() {
    check(
        serde_json::json!({"containerStatuses": [{"name": "a", "restartCount": 0, "state": {"terminated": {
            "containerID": "containerd://x", "exitCode": 128, "reason": "StartError",
            "startedAt": "1970-01-01T00:00:00Z", "finishedAt": "2026-11-20T10:02:00Z"}}}]}),
        &["container_terminated a x rc=0 StartError 128 10:02:00"],
    );
    check(
        serde_json::json!({"containerStatuses": [{"name": "a", "restartCount": 1, "state": {"terminated": {
            "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": null, "finishedAt": null}}}]}),
        &["container_terminated a - rc=1 ContainerStatusUnknown 137 10:10:00"],
    );
}

#[test]
fn foreign_text_is_escaped() {
    let pod = serde_json::json!({"metadata": {"uid": "u", "name": "p", "namespace": "n"},
        "status": {"containerStatuses": [{"name": "a", "restartCount": 0, "ready": false, "image": "i",
            "imageID": "", "state": {"waiting": {"reason": "Bad\u{1b}[31m", "message": "two\nlines"}}}]}});
    let pod: Pod = serde_json::from_value(pod).expect("a pod");
    let events = facts().observe(&pod, Timestamp::from_micros(0));
    assert_eq!(events.len(), 1);
    assert!(!events[0].summary.contains('\u{1b}'), "{}", events[0].summary);
    assert_eq!(events[0].attributes["aftertrace.status.message"], "two\\nlines");
}
