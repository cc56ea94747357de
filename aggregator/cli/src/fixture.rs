//! Answers for tests, made by the real engine from facts like those of the recordings.
//!
//! Also part of the integration tests, which include this file by its path.

#![allow(dead_code, reason = "unit and integration tests each use a part")]

use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_model::config::ObjectKey;
use aftertrace_model::engine::Derived;
use aftertrace_model::{
    Attributes, Edge, Engine, Event, EventId, Kind, ObjectRef, Occurrence, Owner, PodRef, Severity, Source,
    Timestamp, Workload, pattern,
};
use uuid::Uuid;

/// 2026-11-20T10:52:02Z
pub(crate) const T: i64 = 1_795_171_922_000_000;

/// Id of the container that is killed.
pub(crate) const CONTAINER_ID: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

/// The id of the n-th fact.
pub(crate) fn id(n: u128) -> EventId {
    EventId(Uuid::from_u128(0x019a_9e2b_4c00_8000_8000_0000_0000_0000 + n))
}

fn fact(n: u128, kind: Kind, occurred: Occurrence, severity: Severity, summary: &str) -> Event {
    Event {
        event_id: id(n),
        kind,
        occurred,
        recorded_at: Some(occurred.at.plus_micros(2_000_000)),
        boot_ns: None,
        cluster: "demo".into(),
        node: Some("node1".into()),
        pod: Some(PodRef { namespace: "shop".into(), name: "checkout-7d9".into(), uid: "u-1".into() }),
        container: Some("app".into()),
        container_id: Some(CONTAINER_ID.into()),
        restart_count: Some(0),
        workload: Some(Workload { kind: "Deployment".into(), name: "checkout".into() }),
        object: None,
        content: None,
        pid: None,
        container_init: None,
        cgroup_id: Some(4711),
        episode_id: None,
        reason: None,
        exit_code: None,
        source: Source::Kernel,
        hook: "raw_tracepoint/mark_victim".into(),
        severity,
        summary: summary.into(),
        attributes: Attributes::default(),
    }
}

fn kernel(us: i64) -> Occurrence {
    Occurrence::within(Timestamp::from_micros(T + us), 50)
}

fn status(second: i64) -> Occurrence {
    Occurrence::floored_to_second(Timestamp::from_micros(T + second * 1_000_000))
}

/// The facts of an OOM kill, from pressure to restart.
pub(crate) fn oom_facts() -> Vec<Event> {
    vec![
        fact(1, Kind::MemoryPressure, kernel(-192_500), Severity::Warning, "app is at 97 % of 64.0 MiB"),
        fact(
            2,
            Kind::OomEpisode,
            kernel(104_512),
            Severity::Error,
            "the limit of pod checkout-7d9 fired (64.0 MiB)",
        ),
        Event {
            episode_id: Some(id(2)),
            container_init: Some(true),
            pid: Some(4242),
            ..fact(
                3,
                Kind::OomKill,
                kernel(104_700),
                Severity::Error,
                "killed memhog (pid 4242) of container app",
            )
        },
        Event {
            exit_code: Some(137),
            reason: Some("OOMKilled".into()),
            source: Source::Kube,
            ..fact(
                4,
                Kind::ContainerTerminated,
                status(0),
                Severity::Error,
                "app ended: OOMKilled, exit code 137",
            )
        },
        Event {
            reason: Some("CrashLoopBackOff".into()),
            source: Source::Kube,
            ..fact(5, Kind::ContainerWaiting, status(2), Severity::Warning, "app waits: CrashLoopBackOff")
        },
        Event {
            restart_count: Some(1),
            container_id: Some("f".repeat(64)),
            source: Source::Kube,
            ..fact(6, Kind::ContainerStarted, status(12), Severity::Info, "app started, restart 1")
        },
    ]
}

/// A ConfigMap change and the swap that shows it, 1043.7 ms later.
pub(crate) fn swap_facts() -> Vec<Event> {
    let key = ObjectKey::derive(&[7; 32], "ConfigMap", "shop", "flags");
    let content = Some(key.content([("flags.yaml", b"beta: true".as_slice())]));
    let object = |version: Option<&str>| {
        Some(ObjectRef {
            kind: "ConfigMap".into(),
            namespace: "shop".into(),
            name: "flags".into(),
            uid: version.map(|_| "u-flags".into()),
            resource_version: version.map(Into::into),
        })
    };
    vec![
        Event {
            pod: None,
            container: None,
            container_id: None,
            restart_count: None,
            workload: None,
            node: None,
            source: Source::Kube,
            content: content.clone(),
            object: object(Some("1207")),
            ..fact(7, Kind::ConfigChanged, kernel(0), Severity::Info, "ConfigMap flags: flags.yaml changed")
        },
        Event {
            container: None,
            container_id: None,
            content,
            object: object(None),
            ..fact(
                8,
                Kind::ConfigSwapped,
                kernel(1_043_700),
                Severity::Info,
                "volume config shows flags anew",
            )
        },
    ]
}

/// The edges that the engines of both owners find.
pub(crate) fn edges(facts: &[Event]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for owner in [Owner::Node, Owner::Cluster] {
        let mut engine = Engine::new(owner, 100);
        for fact in facts {
            for derived in engine.observe(&Arc::new(fact.clone())) {
                match derived {
                    Derived::Edge(edge) => edges.push(edge),
                    Derived::Retraction(r) => panic!("these facts have one cause each: {r:?}"),
                }
            }
        }
    }
    edges
}

fn answer(facts: &[Event], anchor: EventId, pattern_id: &str) -> proto::WhyResponse {
    let remediation = pattern::by_id(pattern_id).expect("a known pattern").remediation;
    proto::WhyResponse {
        as_of: Some(proto::AsOf { wal_position: 17, recorded_at_us: T + 14_000_000 }),
        anchor_id: anchor.0.as_bytes().to_vec(),
        events: facts.iter().map(Into::into).collect(),
        edges: edges(facts).iter().map(Into::into).collect(),
        gaps: Vec::new(),
        no_cause_because: String::new(),
        remediation: remediation.iter().map(|r| (*r).to_owned()).collect(),
    }
}

/// P001, asked about the kill.
pub(crate) fn oom_chain() -> proto::WhyResponse {
    answer(&oom_facts(), id(3), "P001")
}

/// P003, asked about the swap.
pub(crate) fn swap_chain() -> proto::WhyResponse {
    answer(&swap_facts(), id(8), "P003")
}

/// A gap around the kill.
pub(crate) fn gap() -> proto::Gap {
    proto::Gap {
        gap_id: Uuid::from_u128(9).as_bytes().to_vec(),
        cluster: "demo".into(),
        node: Some("node1".into()),
        component: "kernel/oom".into(),
        reason: "ring_full".into(),
        from_us: T - 1_000_000,
        to_us: T + 1_000_000,
        count: 12,
        detail: "the ring buffer was full".into(),
        recorded_at_us: None,
    }
}

/// A version of a pod.
pub(crate) fn pod_version() -> proto::ObjectVersion {
    proto::ObjectVersion {
        cluster: "demo".into(),
        kind: "Pod".into(),
        namespace: "shop".into(),
        name: "checkout-7d9".into(),
        uid: "u-1".into(),
        resource_version: "1311".into(),
        valid_from_us: T,
        deleted: false,
        state: r#"{"spec":{"nodeName":"node1"},"status":{"containerStatuses":[{"name":"app","restartCount":1}]}}"#
            .into(),
        content: None,
        changed_paths: vec!["status.containerStatuses[0].restartCount".into()],
        recorded_at_us: None,
    }
}
