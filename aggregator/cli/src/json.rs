//! Answers → JSON for programs. The shapes are a contract; [`shape`] documents each object.
//!
//! Names are those of the SQL columns. Ids are UUIDs in text; times are RFC 3339 in UTC with microseconds;
//! what does not apply is `null`.

mod shape;

use aftertrace_api::proto;
use aftertrace_model::text;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use crate::clock::rfc3339;
use crate::commands::{oom, stale};
use shape::{
    Agent, AsOf, Content, Edge, Episode, Event, Gap, History, HistoryGroup, ObjectVersion, Oom, Stale,
    StaleConfigs, StateAt, Status, Subject, Swap, Timeline, Why,
};

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

/// The answer to `oom`.
pub(crate) fn oom<'a>(r: &'a proto::TimelineResponse, episodes: &[oom::Episode<'a>]) -> Oom<'a> {
    Oom {
        as_of: as_of(r.as_of.as_ref()),
        episodes: episodes
            .iter()
            .map(|episode| Episode {
                episode_id: (!episode.id.is_empty()).then(|| id(episode.id)),
                kills: episode.kills.iter().map(|kill| event(kill)).collect(),
            })
            .collect(),
        edges: r.edges.iter().map(edge).collect(),
        gaps: r.gaps.iter().map(gap).collect(),
        truncated: r.truncated,
    }
}

/// The answer to `stale`.
pub(crate) fn stale(r: &proto::TimelineResponse) -> StaleConfigs<'_> {
    let one = |fact| Stale {
        event: event(fact),
        swaps: stale::swaps(r, fact)
            .into_iter()
            .map(|edge| Swap {
                event_id: id(&edge.cause_id),
                occurred_at: rfc3339(edge.cause_occurred_at_us),
                summary: &edge.cause_summary,
            })
            .collect(),
    };
    StaleConfigs {
        as_of: as_of(r.as_of.as_ref()),
        stale: r.events.iter().map(one).collect(),
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
