//! The shapes that programs rely on. A change here that is not an addition breaks them.

use serde_json::{Value, json};

use super::*;
use crate::fixture;

fn parsed<T: Serialize>(answer: &T) -> Value {
    serde_json::from_str(&encode(answer)).expect("valid JSON")
}

fn names(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn why_has_this_shape() {
    let answer = fixture::oom_chain();
    let value = parsed(&why(&answer));
    assert_eq!(
        names(&value),
        ["anchor_id", "as_of", "edges", "events", "gaps", "no_cause_because", "remediation"]
    );
    assert_eq!(value["anchor_id"], "019a9e2b-4c00-8000-8000-000000000003");
    assert_eq!(value["as_of"], json!({"wal_position": 17, "recorded_at": "2026-11-20T10:52:16.000000Z"}));
    assert_eq!(value["no_cause_because"], Value::Null);
    let attributes = json!({
        "aftertrace.oom.allocator.command": "writer",
        "aftertrace.oom.allocator.pid": 4240,
        "aftertrace.oom.level": "pod",
        "aftertrace.oom.role": "chosen",
        "aftertrace.oom.rss_anon_bytes": 62_914_560,
        "aftertrace.oom.rss_file_bytes": 1_048_576,
        "process.command": "memhog",
    });
    assert_eq!(
        value["events"][2],
        json!({
            "event_id": "019a9e2b-4c00-8000-8000-000000000003",
            "kind": "oom_kill",
            "occurred_at": "2026-11-20T10:52:02.104700Z",
            "earliest": "2026-11-20T10:52:02.104650Z",
            "latest": "2026-11-20T10:52:02.104750Z",
            "recorded_at": "2026-11-20T10:52:04.104700Z",
            "boot_ns": null,
            "cluster": "demo",
            "node": "node1",
            "namespace": "shop",
            "pod": "checkout-7d9",
            "pod_uid": "u-1",
            "container": "app",
            "container_id": fixture::CONTAINER_ID,
            "restart_count": 0,
            "workload_kind": "Deployment",
            "workload": "checkout",
            "object_kind": null,
            "object_namespace": null,
            "object_name": null,
            "object_uid": null,
            "object_resource_version": null,
            "content": null,
            "pid": 4242,
            "container_init": true,
            "cgroup_id": 4711,
            "episode_id": "019a9e2b-4c00-8000-8000-000000000002",
            "reason": null,
            "exit_code": null,
            "source": "kernel",
            "hook": "raw_tracepoint/mark_victim",
            "severity": "error",
            "summary": "killed memhog (pid 4242) of container app",
            "attributes": attributes,
        })
    );
    let edge = value["edges"].as_array().expect("a list").iter().find(|e| e["grade"] == "proven");
    assert_eq!(
        edge.expect("the episode's edge"),
        &json!({
            "cause_id": "019a9e2b-4c00-8000-8000-000000000002",
            "effect_id": "019a9e2b-4c00-8000-8000-000000000003",
            "pattern": "P001",
            "rule_id": "oom_episode.oom_kill",
            "grade": "proven",
            "confidence": null,
            "lag_us": 188,
            "evidence": {
                "cgroup_id": "4711",
                "episode_id": "019a9e2b-4c00-8000-8000-000000000002",
                "time_bound_us": "200",
            },
            "cause_kind": "oom_episode",
            "cause_occurred_at": "2026-11-20T10:52:02.104512Z",
            "cause_summary": "the limit of pod checkout-7d9 fired (64.0 MiB)",
            "effect_kind": "oom_kill",
            "effect_occurred_at": "2026-11-20T10:52:02.104700Z",
            "recorded_at": null,
        })
    );
}

#[test]
fn an_event_of_an_object_names_its_version_and_hashes() {
    let answer = fixture::swap_chain();
    let event = &parsed(&why(&answer))["events"][0];
    assert_eq!(event["pod"], Value::Null);
    assert_eq!(event["object_kind"], "ConfigMap");
    assert_eq!(event["object_resource_version"], "1207");
    assert_eq!(names(&event["content"]), ["key_id", "keys"]);
    assert_eq!(names(&event["content"]["keys"]), ["flags.yaml"]);
}

#[test]
fn kills_and_stale_configuration_have_these_shapes() {
    let answer = fixture::oom_kills();
    let value = parsed(&oom(&answer, &oom::episodes(&answer.events)));
    assert_eq!(names(&value), ["as_of", "edges", "episodes", "gaps", "truncated"]);
    assert_eq!(names(&value["episodes"][0]), ["episode_id", "kills"]);
    assert_eq!(value["episodes"][1]["kills"][0]["pid"], 5_000);
    let value = parsed(&stale(&fixture::stale_configs()));
    assert_eq!(names(&value), ["as_of", "gaps", "stale", "truncated"]);
    assert_eq!(names(&value["stale"][0]), ["event", "swaps"]);
    assert_eq!(names(&value["stale"][0]["swaps"][0]), ["event_id", "occurred_at", "summary"]);
}

#[test]
fn an_empty_answer_has_the_same_shape() {
    let value = parsed(&why(&proto::WhyResponse { no_cause_because: "x".into(), ..Default::default() }));
    assert_eq!(
        value,
        json!({
            "as_of": null, "anchor_id": null, "events": [], "edges": [], "gaps": [],
            "no_cause_because": "x", "remediation": [],
        })
    );
}

#[test]
fn state_is_an_object_not_text() {
    let answer = proto::StateAtResponse {
        version: Some(fixture::pod_version()),
        gaps: vec![fixture::gap()],
        ..Default::default()
    };
    let value = parsed(&state_at(&answer));
    assert_eq!(value["version"]["state"]["spec"]["nodeName"], "node1");
    assert_eq!(value["version"]["valid_to"], Value::Null);
    assert_eq!(
        value["gaps"][0],
        json!({
            "gap_id": "00000000-0000-0000-0000-000000000009",
            "cluster": "demo",
            "node": "node1",
            "component": "kernel/oom",
            "reason": "ring_full",
            "missing_from": "2026-11-20T10:52:01.000000Z",
            "missing_to": "2026-11-20T10:52:03.000000Z",
            "count": 12,
            "detail": "the ring buffer was full",
            "recorded_at": null,
        })
    );
}

#[test]
fn the_other_answers_have_these_names() {
    let timeline = parsed(&timeline(&proto::TimelineResponse::default()));
    assert_eq!(names(&timeline), ["as_of", "events", "gaps", "truncated"]);
    let answer = proto::HistoryResponse {
        groups: vec![proto::HistoryGroup { count: 2, ..Default::default() }],
        ..Default::default()
    };
    let history = parsed(&history(&answer));
    assert_eq!(names(&history), ["as_of", "gaps", "groups", "name", "occurrences", "remediation", "total"]);
    assert_eq!(names(&history["groups"][0]), ["count", "first", "last", "namespace", "workload"]);
    let answer = proto::StatusResponse {
        agents: vec![proto::AgentState {
            status: Some(proto::AgentStatus {
                subjects: vec![proto::Subject::default()],
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    };
    let status = parsed(&status(&answer));
    assert_eq!(
        names(&status),
        [
            "agents",
            "as_of",
            "catalog",
            "cluster",
            "degraded",
            "published_at",
            "rows",
            "rss_bytes",
            "version",
            "wal_pending_frames",
            "watches",
        ]
    );
    assert_eq!(names(&status["agents"][0]["subjects"][0]), ["hooks", "missing", "name", "tier"]);
}

#[test]
fn hostile_text_is_escaped_and_reads_back_unchanged() {
    let hostile = "a\u{1b}[2J\u{9b}1m\u{202e}\u{e0041}\u{7f}\n é漢";
    let answer = proto::WhyResponse { no_cause_because: hostile.into(), ..Default::default() };
    let text = encode(&why(&answer));
    let bad = text.chars().find(|c| *c != '\n' && text::escape(&c.to_string()) != c.to_string());
    assert_eq!(bad, None, "{text}");
    assert!(text.contains("é漢"), "readable text stays readable: {text}");
    let value: Value = serde_json::from_str(&text).expect("valid JSON");
    assert_eq!(value["no_cause_because"], hostile);
}
