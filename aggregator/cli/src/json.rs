//! Answers → JSON for programs. The shapes here are a contract: fields are added, never renamed or removed.
//!
//! Names are those of the SQL columns. Ids are UUIDs in text; times are RFC 3339 in UTC with microseconds;
//! what does not apply is `null`. A struct here is the documentation of its object.

use std::collections::BTreeMap;

use aftertrace_api::proto;
use aftertrace_model::text;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock::rfc3339;

/// How current an answer is.
#[derive(Debug, Serialize)]
pub(crate) struct AsOf {
    /// Everything up to this position of the WAL is in the answer.
    wal_position: u64,
    /// When the last of it was recorded; `null` if nothing was.
    recorded_at: Option<String>,
}

/// A fact.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    event_id: String,
    kind: &'a str,
    occurred_at: String,
    earliest: String,
    latest: String,
    recorded_at: Option<String>,
    boot_ns: Option<u64>,
    cluster: &'a str,
    node: Option<&'a str>,
    namespace: Option<&'a str>,
    pod: Option<&'a str>,
    pod_uid: Option<&'a str>,
    container: Option<&'a str>,
    container_id: Option<&'a str>,
    restart_count: Option<i32>,
    workload_kind: Option<&'a str>,
    workload: Option<&'a str>,
    object_kind: Option<&'a str>,
    object_namespace: Option<&'a str>,
    object_name: Option<&'a str>,
    object_uid: Option<&'a str>,
    object_resource_version: Option<&'a str>,
    content: Option<Content<'a>>,
    pid: Option<u32>,
    container_init: Option<bool>,
    cgroup_id: Option<u64>,
    episode_id: Option<String>,
    reason: Option<&'a str>,
    exit_code: Option<i32>,
    source: &'a str,
    hook: &'a str,
    severity: &'a str,
    summary: &'a str,
    /// An object; text where the server sent no JSON.
    attributes: Value,
}

/// Keyed hashes of configuration content.
#[derive(Debug, Serialize)]
pub(crate) struct Content<'a> {
    /// Names the key; hashes compare only under an equal one.
    key_id: &'a str,
    /// Key of the object to hash.
    keys: &'a BTreeMap<String, String>,
}

/// Cause and effect.
#[derive(Debug, Serialize)]
pub(crate) struct Edge<'a> {
    cause_id: String,
    effect_id: String,
    pattern: &'a str,
    rule_id: &'a str,
    grade: &'a str,
    confidence: Option<f64>,
    lag_us: i64,
    evidence: &'a BTreeMap<String, String>,
    cause_kind: &'a str,
    cause_occurred_at: String,
    cause_summary: &'a str,
    effect_kind: &'a str,
    effect_occurred_at: String,
    recorded_at: Option<String>,
}

/// Missing evidence.
#[derive(Debug, Serialize)]
pub(crate) struct Gap<'a> {
    gap_id: String,
    cluster: &'a str,
    node: Option<&'a str>,
    component: &'a str,
    reason: &'a str,
    missing_from: String,
    missing_to: String,
    count: u64,
    detail: &'a str,
    recorded_at: Option<String>,
}

/// `aft why`
#[derive(Debug, Serialize)]
pub(crate) struct Why<'a> {
    as_of: Option<AsOf>,
    /// The fact asked about; `null` if there is none.
    anchor_id: Option<String>,
    events: Vec<Event<'a>>,
    edges: Vec<Edge<'a>>,
    gaps: Vec<Gap<'a>>,
    /// Why there is no cause; `null` if there is one.
    no_cause_because: Option<&'a str>,
    remediation: &'a [String],
}

/// `aft timeline`
#[derive(Debug, Serialize)]
pub(crate) struct Timeline<'a> {
    as_of: Option<AsOf>,
    events: Vec<Event<'a>>,
    gaps: Vec<Gap<'a>>,
    /// Whether there were more events than asked for.
    truncated: bool,
}

/// `aft history`
#[derive(Debug, Serialize)]
pub(crate) struct History<'a> {
    as_of: Option<AsOf>,
    name: &'a str,
    total: u64,
    occurrences: Vec<Event<'a>>,
    groups: Vec<HistoryGroup<'a>>,
    remediation: &'a [String],
    gaps: Vec<Gap<'a>>,
}

/// Occurrences of one workload.
#[derive(Debug, Serialize)]
pub(crate) struct HistoryGroup<'a> {
    namespace: &'a str,
    workload: &'a str,
    count: u64,
    first: String,
    last: String,
}

/// `aft at`
#[derive(Debug, Serialize)]
pub(crate) struct StateAt<'a> {
    as_of: Option<AsOf>,
    /// `null` if no version was known at that time.
    version: Option<ObjectVersion<'a>>,
    gaps: Vec<Gap<'a>>,
    not_found_because: Option<&'a str>,
}

/// A version of an object.
#[derive(Debug, Serialize)]
pub(crate) struct ObjectVersion<'a> {
    cluster: &'a str,
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    uid: &'a str,
    resource_version: &'a str,
    valid_from: String,
    /// `null` if it is in force still.
    valid_to: Option<String>,
    deleted: bool,
    /// An object; text where the server sent no JSON.
    state: Value,
    content: Option<Content<'a>>,
    changed_paths: &'a [String],
    recorded_at: Option<String>,
}

/// `aft status`
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    as_of: Option<AsOf>,
    cluster: &'a str,
    version: &'a str,
    catalog: &'a str,
    rows: &'a BTreeMap<String, u64>,
    wal_pending_frames: u64,
    /// `null` if the catalog was never published.
    published_at: Option<String>,
    degraded: &'a [String],
    watches: &'a BTreeMap<String, String>,
    agents: Vec<Agent<'a>>,
    rss_bytes: u64,
}

/// An agent.
#[derive(Debug, Serialize)]
pub(crate) struct Agent<'a> {
    node: &'a str,
    version: &'a str,
    connected: bool,
    last_seen: Option<String>,
    events: u64,
    duplicates: u64,
    subjects: Vec<Subject<'a>>,
    spool_items: u64,
    spool_bytes: u64,
    pods: u32,
    watch: &'a str,
    rss_bytes: u64,
    clock_error_ns: u64,
}

/// One subject of kernel evidence on one node.
#[derive(Debug, Serialize)]
pub(crate) struct Subject<'a> {
    name: &'a str,
    tier: &'a str,
    hooks: &'a [String],
    missing: &'a [String],
}

/// Indented JSON with a newline at its end, safe on a terminal.
///
/// JSON leaves some characters that steer terminals or reorder text as they are. They can stand in strings
/// only, so each becomes its `\u` escape, which reads back as the same character.
pub(crate) fn encode<T: Serialize>(answer: &T) -> String {
    let plain = serde_json::to_string_pretty(answer).expect("these structs have text keys only");
    let mut out = String::with_capacity(plain.len() + 1);
    let mut buffer = [0_u8; 4];
    for c in plain.chars() {
        let hostile = c != '\n' && text::escape(c.encode_utf8(&mut buffer)) != *c.encode_utf8(&mut [0; 4]);
        if hostile {
            for unit in c.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            out.push(c);
        }
    }
    out.push('\n');
    out
}

/// An id as text; hex digits where it is no UUID, which no server of ours sends.
pub(crate) fn id(bytes: &[u8]) -> String {
    Uuid::from_slice(bytes)
        .map_or_else(|_| bytes.iter().map(|b| format!("{b:02x}")).collect(), |uuid| uuid.to_string())
}

fn some_text(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn some_time(us: i64) -> Option<String> {
    (us != 0).then(|| rfc3339(us))
}

fn embedded(json: &str) -> Value {
    match json {
        "" => Value::Object(serde_json::Map::new()),
        _ => serde_json::from_str(json).unwrap_or_else(|_| Value::String(json.to_owned())),
    }
}

fn as_of(as_of: Option<&proto::AsOf>) -> Option<AsOf> {
    as_of.map(|a| AsOf { wal_position: a.wal_position, recorded_at: some_time(a.recorded_at_us) })
}

fn event(e: &proto::Event) -> Event<'_> {
    Event {
        event_id: id(&e.event_id),
        kind: &e.kind,
        occurred_at: rfc3339(e.occurred_at_us),
        earliest: rfc3339(e.earliest_us),
        latest: rfc3339(e.latest_us),
        recorded_at: e.recorded_at_us.map(rfc3339),
        boot_ns: e.boot_ns,
        cluster: &e.cluster,
        node: e.node.as_deref(),
        namespace: e.pod.as_ref().map(|p| p.namespace.as_str()),
        pod: e.pod.as_ref().map(|p| p.name.as_str()),
        pod_uid: e.pod.as_ref().map(|p| p.uid.as_str()),
        container: e.container.as_deref(),
        container_id: e.container_id.as_deref(),
        restart_count: e.restart_count,
        workload_kind: e.workload.as_ref().map(|w| w.kind.as_str()),
        workload: e.workload.as_ref().map(|w| w.name.as_str()),
        object_kind: e.object.as_ref().map(|o| o.kind.as_str()),
        object_namespace: e.object.as_ref().map(|o| o.namespace.as_str()),
        object_name: e.object.as_ref().map(|o| o.name.as_str()),
        object_uid: e.object.as_ref().and_then(|o| o.uid.as_deref()),
        object_resource_version: e.object.as_ref().and_then(|o| o.resource_version.as_deref()),
        content: e.content.as_ref().map(content),
        pid: e.pid,
        container_init: e.container_init,
        cgroup_id: e.cgroup_id,
        episode_id: e.episode_id.as_deref().map(id),
        reason: e.reason.as_deref(),
        exit_code: e.exit_code,
        source: &e.source,
        hook: &e.hook,
        severity: &e.severity,
        summary: &e.summary,
        attributes: embedded(&e.attributes),
    }
}

fn content(c: &proto::Content) -> Content<'_> {
    Content { key_id: &c.key_id, keys: &c.keys }
}

fn edge(e: &proto::Edge) -> Edge<'_> {
    Edge {
        cause_id: id(&e.cause_id),
        effect_id: id(&e.effect_id),
        pattern: &e.pattern,
        rule_id: &e.rule_id,
        grade: &e.grade,
        confidence: e.confidence,
        lag_us: e.lag_us,
        evidence: &e.evidence,
        cause_kind: &e.cause_kind,
        cause_occurred_at: rfc3339(e.cause_occurred_at_us),
        cause_summary: &e.cause_summary,
        effect_kind: &e.effect_kind,
        effect_occurred_at: rfc3339(e.effect_occurred_at_us),
        recorded_at: e.recorded_at_us.map(rfc3339),
    }
}

fn gap(g: &proto::Gap) -> Gap<'_> {
    Gap {
        gap_id: id(&g.gap_id),
        cluster: &g.cluster,
        node: g.node.as_deref(),
        component: &g.component,
        reason: &g.reason,
        missing_from: rfc3339(g.from_us),
        missing_to: rfc3339(g.to_us),
        count: g.count,
        detail: &g.detail,
        recorded_at: g.recorded_at_us.map(rfc3339),
    }
}

/// The answer to `why`.
pub(crate) fn why(r: &proto::WhyResponse) -> Why<'_> {
    Why {
        as_of: as_of(r.as_of.as_ref()),
        anchor_id: (!r.anchor_id.is_empty()).then(|| id(&r.anchor_id)),
        events: r.events.iter().map(event).collect(),
        edges: r.edges.iter().map(edge).collect(),
        gaps: r.gaps.iter().map(gap).collect(),
        no_cause_because: some_text(&r.no_cause_because),
        remediation: &r.remediation,
    }
}

/// The answer to `timeline`.
pub(crate) fn timeline(r: &proto::TimelineResponse) -> Timeline<'_> {
    Timeline {
        as_of: as_of(r.as_of.as_ref()),
        events: r.events.iter().map(event).collect(),
        gaps: r.gaps.iter().map(gap).collect(),
        truncated: r.truncated,
    }
}

/// The answer to `history`.
pub(crate) fn history(r: &proto::HistoryResponse) -> History<'_> {
    History {
        as_of: as_of(r.as_of.as_ref()),
        name: &r.name,
        total: r.total,
        occurrences: r.occurrences.iter().map(event).collect(),
        groups: r
            .groups
            .iter()
            .map(|g| HistoryGroup {
                namespace: &g.namespace,
                workload: &g.workload,
                count: g.count,
                first: rfc3339(g.first_us),
                last: rfc3339(g.last_us),
            })
            .collect(),
        remediation: &r.remediation,
        gaps: r.gaps.iter().map(gap).collect(),
    }
}

/// The answer to `at`.
pub(crate) fn state_at(r: &proto::StateAtResponse) -> StateAt<'_> {
    StateAt {
        as_of: as_of(r.as_of.as_ref()),
        version: r.version.as_ref().map(|v| ObjectVersion {
            cluster: &v.cluster,
            kind: &v.kind,
            namespace: &v.namespace,
            name: &v.name,
            uid: &v.uid,
            resource_version: &v.resource_version,
            valid_from: rfc3339(v.valid_from_us),
            valid_to: r.valid_to_us.map(rfc3339),
            deleted: v.deleted,
            state: embedded(&v.state),
            content: v.content.as_ref().map(content),
            changed_paths: &v.changed_paths,
            recorded_at: v.recorded_at_us.map(rfc3339),
        }),
        gaps: r.gaps.iter().map(gap).collect(),
        not_found_because: some_text(&r.not_found_because),
    }
}

/// The answer to `status`.
pub(crate) fn status(r: &proto::StatusResponse) -> Status<'_> {
    Status {
        as_of: as_of(r.as_of.as_ref()),
        cluster: &r.cluster,
        version: &r.version,
        catalog: &r.catalog,
        rows: &r.rows,
        wal_pending_frames: r.wal_pending_frames,
        published_at: some_time(r.published_at_us),
        degraded: &r.degraded,
        watches: &r.watches,
        agents: r.agents.iter().filter_map(agent).collect(),
        rss_bytes: r.rss_bytes,
    }
}

/// An agent that never said how it is has no name either, and is left out.
fn agent(a: &proto::AgentState) -> Option<Agent<'_>> {
    let status = a.status.as_ref()?;
    Some(Agent {
        node: &status.node,
        version: &status.version,
        connected: a.connected,
        last_seen: some_time(a.last_seen_us),
        events: a.events,
        duplicates: a.duplicates,
        subjects: status
            .subjects
            .iter()
            .map(|s| Subject { name: &s.name, tier: &s.tier, hooks: &s.hooks, missing: &s.missing })
            .collect(),
        spool_items: status.spool_items,
        spool_bytes: status.spool_bytes,
        pods: status.pods,
        watch: &status.watch,
        rss_bytes: status.rss_bytes,
        clock_error_ns: status.clock_error_ns,
    })
}

#[cfg(test)]
mod tests;
