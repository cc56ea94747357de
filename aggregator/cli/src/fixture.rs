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
    Timestamp, Workload, attribute, pattern,
};
use serde_json::json;
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

/// The event with these attributes.
fn with(mut event: Event, attributes: &[(&str, serde_json::Value)]) -> Event {
    event.attributes.extend(attributes.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    event
}

/// The facts of an OOM kill, from pressure to restart.
pub(crate) fn oom_facts() -> Vec<Event> {
    let mut facts = vec![
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
    ];
    let level = (attribute::OOM_LEVEL, json!("pod"));
    facts[1] = with(facts[1].clone(), &[level.clone(), (attribute::OOM_CONSTRAINT, json!("memcg"))]);
    facts[2] = with(facts[2].clone(), &victim("chosen", level));
    facts
}

fn victim(role: &str, level: (&'static str, serde_json::Value)) -> Vec<(&'static str, serde_json::Value)> {
    vec![
        level,
        (attribute::OOM_ROLE, json!(role)),
        (attribute::PROCESS_COMMAND, json!("memhog")),
        (attribute::OOM_ALLOCATOR_COMMAND, json!("writer")),
        (attribute::OOM_ALLOCATOR_PID, json!(4240)),
        (attribute::OOM_RSS_ANON_BYTES, json!(62_914_560)),
        (attribute::OOM_RSS_FILE_BYTES, json!(1_048_576)),
    ]
}

/// Two decisions: one killed the container's init and a member of its group, the other a child.
pub(crate) fn kills() -> Vec<Event> {
    let pod = || (attribute::OOM_LEVEL, json!("pod"));
    let member = with(
        Event {
            episode_id: Some(id(2)),
            pid: Some(4243),
            container_init: Some(false),
            ..fact(21, Kind::OomKill, kernel(104_900), Severity::Error, "killed memhog (pid 4243)")
        },
        &victim("group", pod()),
    );
    let child = with(
        Event {
            episode_id: Some(id(30)),
            pid: Some(5_000),
            container_init: Some(false),
            ..fact(31, Kind::OomKill, kernel(60_000_000), Severity::Error, "killed memhog (pid 5000)")
        },
        &victim("chosen", (attribute::OOM_LEVEL, json!("container"))),
    );
    vec![oom_facts().remove(2), member, child]
}

/// A SIGKILL to the container's init, its exit, and what the status makes of both.
pub(crate) fn signal_facts() -> Vec<Event> {
    let process = [(attribute::PROCESS_START_BOOT_NS, json!(1_000_000_000_u64))];
    let init = |e: Event| Event { pid: Some(4242), container_init: Some(true), ..e };
    let sent = [
        (attribute::SIGNAL_NUMBER, json!(9)),
        (attribute::SIGNAL_RESULT, json!(attribute::SIGNAL_DELIVERED)),
        (attribute::SENDER_COMMAND, json!("kubelet")),
        (attribute::SENDER_PID, json!(812)),
    ];
    let killed = Event {
        reason: Some("SIGKILL".into()),
        ..init(fact(
            41,
            Kind::ProcessKilled,
            kernel(0),
            Severity::Error,
            "kubelet (pid 812) sent SIGKILL to app's init (pid 4242)",
        ))
    };
    let exited = Event {
        exit_code: Some(137),
        ..init(fact(
            42,
            Kind::ProcessExited,
            kernel(900),
            Severity::Info,
            "app's init (pid 4242) ended by SIGKILL",
        ))
    };
    let terminated = Event {
        exit_code: Some(137),
        reason: Some("Error".into()),
        source: Source::Kube,
        ..fact(43, Kind::ContainerTerminated, status(0), Severity::Error, "app ended: Error, exit code 137")
    };
    vec![
        with(with(killed, &process), &sent),
        with(with(exited, &process), &[(attribute::EXIT_SIGNAL, json!(9))]),
        terminated,
    ]
}

/// What became of the swap of [`swap_facts`]: one container read it again, a sidecar did not and cannot hear.
pub(crate) fn reload_facts() -> Vec<Event> {
    let mut facts = swap_facts();
    let of_volume = |e: Event| {
        let volume = [
            (attribute::VOLUME_NAME, json!("config")),
            (attribute::VOLUME_GENERATION, json!("..2026_11_20_10_52_03.1")),
        ];
        with(e, &volume)
    };
    facts[1] = of_volume(facts[1].clone());
    let object = facts[1].object.clone();
    facts.push(Event {
        pid: Some(4242),
        object: object.clone(),
        ..of_volume(fact(
            9,
            Kind::ConfigRead,
            kernel(1_090_000),
            Severity::Info,
            "app (pid 4242) opened flags.yaml",
        ))
    });
    let sidecar = |e: Event| Event { container: Some("sidecar".into()), ..of_volume(e) };
    facts.push(Event {
        reason: Some("deaf".into()),
        pid: Some(4300),
        ..with(
            sidecar(fact(
                10,
                Kind::ConfigWatched,
                kernel(2_000_000),
                Severity::Warning,
                "reloader (pid 4300) watches a removed file of volume config",
            )),
            &[(attribute::PROCESS_COMMAND, json!("reloader"))],
        )
    });
    facts.push(Event {
        reason: Some("not_reopened".into()),
        object,
        ..with(
            sidecar(fact(
                11,
                Kind::ConfigStale,
                kernel(31_043_700),
                Severity::Warning,
                "sidecar did not open flags again",
            )),
            &[
                (attribute::STALE_AFTER_S, json!(30)),
                (attribute::STALE_FILES, json!(["flags.yaml", "b", "c"])),
                (attribute::STALE_WAS_READ_BEFORE, json!(false)),
            ],
        )
    });
    facts
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

/// P006, asked about the end of the container.
pub(crate) fn signal_chain() -> proto::WhyResponse {
    answer(&signal_facts(), id(43), "P006")
}

/// P003 with what followed, asked about the stale container.
pub(crate) fn reload_chain() -> proto::WhyResponse {
    answer(&reload_facts(), id(11), "P003")
}

/// The answer to `oom`.
pub(crate) fn oom_kills() -> proto::TimelineResponse {
    let mut facts = oom_facts();
    facts.extend(kills().split_off(1));
    proto::TimelineResponse {
        as_of: Some(proto::AsOf { wal_position: 17, recorded_at_us: T + 14_000_000 }),
        events: kills().iter().map(Into::into).collect(),
        edges: edges(&facts).iter().map(Into::into).collect(),
        gaps: vec![gap()],
        truncated: false,
    }
}

/// The answer to `stale`.
pub(crate) fn stale_configs() -> proto::TimelineResponse {
    let facts = reload_facts();
    proto::TimelineResponse {
        as_of: Some(proto::AsOf { wal_position: 17, recorded_at_us: T + 14_000_000 }),
        events: facts[3..].iter().map(Into::into).collect(),
        edges: edges(&facts).iter().map(Into::into).collect(),
        gaps: Vec::new(),
        truncated: false,
    }
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
