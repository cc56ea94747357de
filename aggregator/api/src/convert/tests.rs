//! What goes out comes back; what is wrong is named.

use aftertrace_model::{Attributes, Kind};

use super::*;

fn event() -> Event {
    Event {
        event_id: EventId(Uuid::from_u128(1)),
        kind: Kind::OomKill,
        occurred: Occurrence::within(Timestamp::from_micros(1_000), 10),
        recorded_at: Some(Timestamp::from_micros(2_000)),
        boot_ns: Some(5),
        cluster: "test".into(),
        node: Some("node1".into()),
        pod: Some(PodRef { namespace: "shop".into(), name: "checkout".into(), uid: "u".into() }),
        container: Some("app".into()),
        container_id: Some("c".into()),
        restart_count: Some(3),
        workload: Some(Workload { kind: "Deployment".into(), name: "checkout".into() }),
        object: Some(ObjectRef {
            kind: "ConfigMap".into(),
            namespace: "shop".into(),
            name: "cfg".into(),
            uid: Some("o".into()),
            resource_version: Some("7".into()),
        }),
        content: Some(Content { key_id: "k".into(), keys: [("a".to_owned(), "b".to_owned())].into() }),
        pid: Some(42),
        container_init: Some(true),
        cgroup_id: Some(9),
        episode_id: Some(EventId(Uuid::from_u128(2))),
        reason: Some("OOMKilled".into()),
        exit_code: Some(137),
        source: Source::Kernel,
        hook: "raw_tracepoint/mark_victim".into(),
        severity: Severity::Error,
        summary: "killed".into(),
        attributes: Attributes::from([("process.rss_bytes".to_owned(), serde_json::json!(4096))]),
    }
}

#[test]
fn an_event_comes_back_as_it_went() {
    let wire = proto::Event::from(&event());
    assert_eq!(Event::try_from(wire), Ok(event()));
}

#[test]
fn an_edge_and_a_gap_come_back_as_they_went() {
    let edge = Edge {
        cause_id: EventId(Uuid::from_u128(1)),
        effect_id: EventId(Uuid::from_u128(2)),
        pattern: "P001".into(),
        rule_id: "oom_episode.oom_kill".into(),
        grade: Grade::Inferred,
        confidence: Some(0.5),
        lag_us: -3,
        evidence: Evidence::from([("a".to_owned(), "b".to_owned())]),
        cause_kind: Kind::OomEpisode,
        cause_occurred_at: Timestamp::from_micros(1),
        cause_summary: "s".into(),
        effect_kind: Kind::OomKill,
        effect_occurred_at: Timestamp::from_micros(2),
        recorded_at: None,
    };
    assert_eq!(Edge::try_from(proto::Edge::from(&edge)), Ok(edge));
    let gap = Gap {
        gap_id: Uuid::from_u128(8),
        cluster: "test".into(),
        node: None,
        component: "kernel/oom".into(),
        reason: aftertrace_model::GapReason::RingFull,
        from: Timestamp::from_micros(1),
        to: Timestamp::from_micros(2),
        count: 4,
        detail: "d".into(),
        recorded_at: None,
    };
    assert_eq!(Gap::try_from(proto::Gap::from(&gap)), Ok(gap));
}

#[test]
fn what_is_wrong_is_named() {
    let check = |change: fn(&mut proto::Event), expected: &str| {
        let mut wire = proto::Event::from(&event());
        change(&mut wire);
        let error = Event::try_from(wire).expect_err("damaged").to_string();
        assert!(error.contains(expected), "{error:?} does not say {expected:?}");
    };
    check(|e| e.event_id.truncate(3), "event_id has 3 bytes");
    check(|e| e.kind = "oom\x1b[2J".into(), "kind is \"oom\\\\x1b[2J\"");
    check(|e| e.latest_us = 0, "does not hold");
    check(|e| e.attributes = "[1]".into(), "no JSON object");
    check(|e| e.severity = "loud".into(), "severity is \"loud\"");
}
