//! Made-up facts and the few things every test here does with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use aftertrace_aggregator::query::FactQuery;
use aftertrace_aggregator::store::{Reader, Store, StoreConfig};
use aftertrace_aggregator::writer::{Committed, Facts, Writer, WriterHandle};
use aftertrace_model::{
    Edge, Event, EventId, Gap, GapReason, Grade, Kind, ObjectRef, ObjectVersion, Occurrence, PodRef,
    Severity, Source, Timestamp, Workload, fact::FactKey,
};
use uuid::Uuid;

/// 2026-11-20T10:52:02Z.
pub(crate) const T0: Timestamp = Timestamp::from_micros(1_795_171_922_000_000);

pub(crate) fn at(seconds: i64) -> Timestamp {
    T0.plus_micros(seconds * 1_000_000)
}

/// An event of pod `shop/<pod>` with container `app`, `seconds` after [`T0`].
pub(crate) fn event(kind: Kind, pod: &str, sequence: u64, when: Timestamp) -> Event {
    let key = FactKey::Record { spool_id: Uuid::from_u128(7), sequence };
    Event {
        event_id: key.event_id("test", when),
        kind,
        occurred: Occurrence::within(when, 100),
        recorded_at: None,
        boot_ns: Some(sequence),
        cluster: "test".to_owned(),
        node: Some("node-a".to_owned()),
        pod: Some(PodRef { namespace: "shop".to_owned(), name: pod.to_owned(), uid: format!("uid-{pod}") }),
        container: Some("app".to_owned()),
        container_id: Some(format!("{pod}-0")),
        restart_count: Some(0),
        workload: Some(Workload { kind: "Deployment".to_owned(), name: "checkout".to_owned() }),
        object: None,
        content: None,
        pid: Some(4_242),
        container_init: Some(true),
        cgroup_id: Some(u64::MAX - sequence),
        episode_id: None,
        reason: None,
        exit_code: None,
        source: Source::Kernel,
        hook: "raw_tracepoint/mark_victim".to_owned(),
        severity: Severity::Info,
        summary: format!("{kind} {sequence} it's \"quoted\""),
        attributes: [("sequence".to_owned(), serde_json::json!(sequence))].into_iter().collect(),
    }
}

/// The `config_changed` or `config_swapped` of ConfigMap `shop/settings`.
pub(crate) fn config(kind: Kind, pod: &str, sequence: u64, when: Timestamp) -> Event {
    let object = ObjectRef {
        kind: "ConfigMap".to_owned(),
        namespace: "shop".to_owned(),
        name: "settings".to_owned(),
        uid: Some("cm-uid".to_owned()),
        resource_version: (kind == Kind::ConfigChanged).then(|| sequence.to_string()),
    };
    Event { object: Some(object), ..event(kind, pod, sequence, when) }
}

pub(crate) fn edge(cause: &Event, effect: &Event) -> Edge {
    Edge {
        cause_id: cause.event_id,
        effect_id: effect.event_id,
        pattern: "P001".to_owned(),
        rule_id: format!("{}.{}", cause.kind, effect.kind),
        grade: Grade::Identified,
        confidence: None,
        lag_us: effect.occurred.at.micros_since(cause.occurred.at),
        evidence: [("k8s.pod.uid".to_owned(), "u".to_owned())].into_iter().collect(),
        cause_kind: cause.kind,
        cause_occurred_at: cause.occurred.at,
        cause_summary: cause.summary.clone(),
        effect_kind: effect.kind,
        effect_occurred_at: effect.occurred.at,
        recorded_at: None,
    }
}

pub(crate) fn version(name: &str, number: u64, from: Timestamp, deleted: bool) -> ObjectVersion {
    ObjectVersion {
        cluster: "test".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: "shop".to_owned(),
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        resource_version: number.to_string(),
        valid_from: from,
        deleted,
        state: format!(r#"{{"number":{number}}}"#),
        content: None,
        changed_paths: vec!["data.a".to_owned()],
        recorded_at: None,
    }
}

pub(crate) fn gap(id: u128, from: Timestamp, to: Timestamp) -> Gap {
    Gap {
        gap_id: Uuid::from_u128(id),
        cluster: "test".to_owned(),
        node: Some("node-a".to_owned()),
        component: "kernel/oom".to_owned(),
        reason: GapReason::RingFull,
        from,
        to,
        count: 3,
        detail: "the ring was full".to_owned(),
        recorded_at: None,
    }
}

/// The facts of one OOM kill in a pod, with the agent's edges: five events, three edges.
pub(crate) fn oom(pod: &str, first: u64, when: Timestamp) -> Facts {
    let after = |ms: i64| when.plus_micros(ms * 1_000);
    let pressure = event(Kind::MemoryPressure, pod, first, when);
    let episode = event(Kind::OomEpisode, pod, first + 1, after(800));
    let kill = Event {
        episode_id: Some(episode.event_id),
        severity: Severity::Error,
        ..event(Kind::OomKill, pod, first + 2, after(801))
    };
    let ended = Event {
        reason: Some("OOMKilled".to_owned()),
        exit_code: Some(137),
        severity: Severity::Error,
        ..event(Kind::ContainerTerminated, pod, first + 3, after(900))
    };
    let waiting = event(Kind::ContainerWaiting, pod, first + 4, after(1_900));
    let edges = vec![edge(&episode, &kill), edge(&kill, &ended), edge(&ended, &waiting)];
    Facts { events: vec![pressure, episode, kill, ended, waiting], edges, ..Facts::default() }
}

pub(crate) fn open(dir: &Path) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), cluster: "test".to_owned() }).expect("the store opens")
}

pub(crate) fn start(dir: &Path) -> (WriterHandle, Reader) {
    let store = open(dir);
    let reader = store.reader();
    (Writer::spawn(store, |_| {}).expect("the writer starts"), reader)
}

/// A writer whose callback keeps what it is told.
pub(crate) fn start_told(dir: &Path) -> (WriterHandle, Reader, Arc<Mutex<Vec<Committed>>>) {
    let told = Arc::new(Mutex::new(Vec::new()));
    let store = open(dir);
    let reader = store.reader();
    let keep = Arc::clone(&told);
    let writer = Writer::spawn(store, move |c| keep.lock().expect("no panic holds it").push(c.clone()));
    (writer.expect("the writer starts"), reader, told)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Where the tools are that `cargo xtask setup` brings.
pub(crate) fn duckdb() -> Option<PathBuf> {
    let tools = std::env::var_os("AFTERTRACE_TOOLS_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools"), PathBuf::from);
    let found = ["duckdb", "duckdb/duckdb", "duckdb/bin/duckdb"].map(|p| tools.join(p));
    let found = found.into_iter().find(|path| path.is_file());
    if found.is_none() {
        println!("SKIPPED: no DuckDB CLI in {}: run `cargo xtask setup`", tools.display());
    }
    found
}

/// What the CLI answers: CSV lines without a header.
pub(crate) fn ask(duckdb: &Path, dir: &Path, sql: &str) -> Result<String, String> {
    let output = Command::new(duckdb)
        .args(["-readonly", "-csv", "-noheader", "-nullvalue", ""])
        .arg(dir.join("memory.duckdb"))
        .arg(sql)
        .output()
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() && output.stderr.is_empty() {
        Ok(text(&output.stdout).replace("\r\n", "\n"))
    } else {
        Err(format!("{}: {}{}", output.status, text(&output.stderr), text(&output.stdout)))
    }
}

/// Every row of a namespace's events, its edges and the gaps, without `recorded_at`, in a fixed order.
pub(crate) fn everything(reader: &Reader) -> (Vec<Event>, Vec<Edge>, Vec<Gap>, Vec<ObjectVersion>) {
    let (from, to) = (Timestamp::from_micros(0), at(1_000_000_000));
    let mut events =
        reader.facts(&FactQuery::of_pod("shop", None, from, to, 1_000_000)).expect("events are read");
    let ids: Vec<EventId> = events.iter().map(|e| e.event_id).collect();
    let mut edges = BTreeMap::new();
    for chunk in ids.chunks(500) {
        for edge in reader.edges_touching(chunk).expect("edges are read") {
            let key = (edge.cause_id, edge.effect_id, edge.rule_id.clone());
            let before = edges.insert(key, Edge { recorded_at: None, ..edge.clone() });
            assert!(before.is_none_or(|b| b == Edge { recorded_at: None, ..edge }), "one row per edge");
        }
    }
    let mut gaps = reader.gaps_between(from, to, None).expect("gaps are read");
    let mut objects = reader.current_objects("ConfigMap").expect("objects are read");
    events.iter_mut().for_each(|e| e.recorded_at = None);
    gaps.iter_mut().for_each(|g| g.recorded_at = None);
    objects.iter_mut().for_each(|o| o.recorded_at = None);
    (events, edges.into_values().collect(), gaps, objects)
}
