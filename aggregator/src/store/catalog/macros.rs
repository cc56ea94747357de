//! The table macros: the verbs of the command, for SQL.
//!
//! No parameter has the name of a column: DuckDB replaces unqualified names by the argument, and in views and
//! recursive queries it confuses even qualified ones. Tables are not qualified, so that the macros work when the
//! catalog is attached under another name.

use std::fmt::Write as _;

use crate::store::duck;

/// How far a causal chain is followed from its event in each direction: as `Memory.Why` does unless told
/// otherwise. The longest pattern has six steps.
const DEPTH_MAX: u32 = 8;

/// The event of a pod that `why` starts from, as `Memory.Why`: its latest failure, or else its latest trouble,
/// or else its latest swap.
const ANCHOR: &str = "SELECT b.id FROM (SELECT a.event_id AS id, a.occurred_at AS t, a.latest AS l, CASE \
     WHEN a.kind = 'oom_kill' OR (a.kind = 'container_terminated' AND a.severity = 'error') \
       OR (a.kind = 'process_killed' AND a.reason = 'SIGKILL' \
         AND (a.attributes->>'aftertrace.signal.result') = 'delivered') THEN 2 \
     WHEN (a.kind = 'process_killed' AND (a.attributes->>'aftertrace.signal.result') = 'delivered') OR (a.kind = 'config_stale' AND a.severity <> 'info') \
       OR (a.kind = 'process_exited' AND a.episode_id IS NULL AND (a.attributes->>'process.exit.signal') IS NOT NULL) THEN 1 \
     WHEN a.kind = 'config_swapped' THEN 0 END AS sort \
     FROM events a WHERE a.namespace = ns AND a.pod = pod_name AND a.kind IN ('oom_kill', 'process_killed', \
     'process_exited', 'container_terminated', 'config_stale', 'config_swapped')) b \
     WHERE b.sort IS NOT NULL ORDER BY b.sort DESC, b.l DESC, b.t DESC, b.id DESC LIMIT 1";

/// The OOM kills since a time. What the victim held is what the kernel adds up itself.
const OOM_KILLS: &str = "SELECT v.occurred_at, v.namespace, v.pod, v.container, \
     v.attributes->>'aftertrace.oom.role' AS role, v.attributes->>'aftertrace.oom.level' AS level, \
     v.attributes->>'process.command' AS command, v.pid, v.container_init, \
     coalesce((v.attributes->>'aftertrace.oom.rss_anon_bytes')::UBIGINT, 0) \
       + coalesce((v.attributes->>'aftertrace.oom.rss_file_bytes')::UBIGINT, 0) \
       + coalesce((v.attributes->>'aftertrace.oom.rss_shmem_bytes')::UBIGINT, 0) AS rss_bytes, \
     v.attributes->>'aftertrace.oom.allocator.command' AS allocator, \
     (v.attributes->>'aftertrace.oom.allocator.pid')::UINTEGER AS allocator_pid, \
     v.workload_kind, v.workload, v.node, v.cgroup_id, v.summary, v.episode_id, v.event_id FROM events v \
     WHERE v.kind = 'oom_kill' AND v.occurred_at >= since::TIMESTAMP ORDER BY v.occurred_at, v.event_id";

/// Stale configuration that nothing has ended, as `Memory.Timeline` with `standing`. A fact that names files has
/// a row of `wanted` for each, and stands while one of them is left.
const STALE_CONFIGS: &str = "WITH facts AS (SELECT e.*, e.attributes->>'k8s.volume.name' AS volume, \
       e.attributes->>'aftertrace.file' AS file, \
       from_json(e.attributes->'aftertrace.stale.files', '[\"VARCHAR\"]') AS files \
       FROM events e WHERE e.kind IN ('config_stale', 'config_watched', 'config_read', 'process_started', \
       'container_started', 'container_terminated', 'object_deleted')), \
     wanted AS (SELECT s.*, unnest(CASE WHEN len(s.files) > 0 THEN s.files ELSE [NULL] END) AS open_file \
       FROM facts s WHERE s.kind IN ('config_stale', 'config_watched')), \
     standing AS (SELECT DISTINCT s.event_id FROM wanted s WHERE NOT EXISTS (SELECT 1 FROM facts n \
       WHERE n.pod_uid = s.pod_uid AND CASE n.kind \
       WHEN 'object_deleted' THEN true \
       WHEN 'container_terminated' THEN n.container_id = s.container_id \
       WHEN 'config_read' THEN s.reason IS DISTINCT FROM 'sub_path' \
         AND n.volume IS NOT DISTINCT FROM s.volume AND n.container IS NOT DISTINCT FROM s.container \
         AND (n.object_name IS NULL OR s.object_name IS NULL OR (n.object_kind = s.object_kind \
           AND n.object_namespace = s.object_namespace AND n.object_name = s.object_name)) \
         AND (s.open_file IS NULL OR n.file IS NULL OR n.file = s.open_file) \
         AND (n.occurred_at, n.event_id) > (s.occurred_at, s.event_id) \
       WHEN s.kind THEN n.volume IS NOT DISTINCT FROM s.volume AND n.container IS NOT DISTINCT FROM s.container \
         AND n.object_kind IS NOT DISTINCT FROM s.object_kind \
         AND n.object_namespace IS NOT DISTINCT FROM s.object_namespace \
         AND n.object_name IS NOT DISTINCT FROM s.object_name AND n.pid IS NOT DISTINCT FROM s.pid \
         AND (n.kind = 'config_stale' OR n.reason IS NOT DISTINCT FROM s.reason) \
         AND (s.open_file IS NULL OR coalesce(len(n.files), 0) = 0 OR list_contains(n.files, s.open_file)) \
         AND (n.occurred_at, n.event_id) > (s.occurred_at, s.event_id) \
       ELSE n.kind IN ('container_started', 'process_started') AND n.container IS NOT DISTINCT FROM s.container \
         AND n.container_id <> s.container_id AND coalesce(n.restart_count > s.restart_count, \
           (n.occurred_at, n.event_id) > (s.occurred_at, s.event_id)) END)), \
     swaps AS (SELECT w.effect_id, min(w.cause_occurred_at) AS swapped_at, \
       list(w.cause_id ORDER BY w.cause_id) AS swap_ids \
       FROM edges w WHERE w.cause_kind = 'config_swapped' GROUP BY w.effect_id) \
     SELECT s.occurred_at, s.kind, s.reason, s.severity, s.namespace, s.pod, s.container, s.object_kind, \
       s.object_name, s.volume, s.files, s.attributes->>'aftertrace.volume.generation' AS generation, \
       s.attributes->>'aftertrace.volume.held_generation' AS held_generation, s.pid, \
       s.attributes->>'process.command' AS command, p.swapped_at, \
       (s.attributes->>'aftertrace.stale.after_s')::DOUBLE AS after_s, \
       (s.attributes->>'aftertrace.stale.was_read_before')::BOOLEAN AS was_read_before, \
       s.workload_kind, s.workload, s.node, s.summary, p.swap_ids, s.event_id \
     FROM facts s JOIN standing t ON t.event_id = s.event_id LEFT JOIN swaps p ON p.effect_id = s.event_id \
     ORDER BY s.occurred_at, s.event_id";

struct Macro {
    name: &'static str,
    parameters: &'static str,
    meaning: &'static str,
    body: String,
}

pub(super) fn write(sql: &mut String) {
    for m in macros() {
        let Macro { name, parameters, meaning, body } = m;
        let meaning = duck::quote(meaning);
        writeln!(
            sql,
            "CREATE MACRO {name}({parameters}) AS TABLE {body};\nCOMMENT ON MACRO TABLE {name} IS {meaning};"
        )
        .expect("writing to a String does not fail");
    }
}

fn macros() -> Vec<Macro> {
    vec![
        Macro {
            name: "causal_chain",
            parameters: "of_event",
            meaning: "The causal graph around an event: a row for the event itself (depth 0), then one per edge \
                      with the fact it leads to; causes have negative depth, effects positive",
            body: chain("SELECT of_event::UUID AS id"),
        },
        Macro {
            name: "why",
            parameters: "ns, pod_name",
            meaning: "The causal graph around the latest failure of a pod, or its latest trouble or swap if it \
                      never failed; columns as causal_chain",
            body: chain(ANCHOR),
        },
        Macro {
            name: "history",
            parameters: "of_pattern",
            meaning: "Every occurrence of a pattern such as P001, newest first",
            body: "SELECT v.occurred_at, v.namespace, v.pod, v.container, v.workload_kind, v.workload, v.node, \
                   v.summary, v.event_id FROM events v JOIN patterns p ON p.anchor = v.kind \
                   WHERE p.id = upper(of_pattern) AND (p.anchor_attribute IS NULL \
                     OR (v.attributes->>p.anchor_attribute) = p.anchor_value) ORDER BY v.occurred_at DESC, v.event_id DESC"
                .to_owned(),
        },
        Macro {
            name: "state_at",
            parameters: "of_kind, ns, of_name, t",
            meaning: "The version of an object that was in force at a time, deleted ones included; kind in any case",
            body: "SELECT o.* FROM objects o WHERE lower(o.kind) = lower(of_kind) AND o.namespace = ns \
                   AND o.\"name\" = of_name AND o.valid_from <= t::TIMESTAMP \
                   AND (o.valid_to IS NULL OR o.valid_to > t::TIMESTAMP)"
                .to_owned(),
        },
        Macro {
            name: "timeline",
            parameters: "ns, pod_name",
            meaning: "What happened to a pod, in order of time",
            body: "SELECT v.occurred_at, v.kind, v.container, v.severity, v.summary, v.source, v.node, v.pod_uid, \
                   v.event_id FROM events v WHERE v.namespace = ns AND v.pod = pod_name \
                   ORDER BY v.occurred_at, v.event_id"
                .to_owned(),
        },
        Macro {
            name: "oom_kills",
            parameters: "since := TIMESTAMP '1970-01-01'",
            meaning: "Processes killed by the kernel's OOM killer since a time, in order: role in the decision \
                      (chosen, group, shared_mm), level whose limit fired, memory held, and who allocated; kills of \
                      one decision share episode_id",
            body: OOM_KILLS.to_owned(),
        },
        Macro {
            name: "stale_configs",
            parameters: "",
            meaning: "Stale configuration that still stands: volumes that a container did not open again after a \
                      swap, and processes that will miss the next one; ended by a later read, a restart or the \
                      pod's deletion",
            body: STALE_CONFIGS.to_owned(),
        },
    ]
}

/// The graph around the event that `start` selects as `id`.
///
/// `UNION` keeps each pair of depth and event once, so the recursion is bounded by depth times events even if
/// clock bounds let two facts cause each other.
fn chain(start: &str) -> String {
    format!(
        "WITH RECURSIVE \
         anchor AS ({start}), \
         up(depth, id) AS (SELECT 0, n.id FROM anchor n UNION \
           SELECT u.depth - 1, e.cause_id FROM up u JOIN edges e ON e.effect_id = u.id \
           WHERE u.depth > -{DEPTH_MAX}), \
         down(depth, id) AS (SELECT 0, n.id FROM anchor n UNION \
           SELECT d.depth + 1, e.effect_id FROM down d JOIN edges e ON e.cause_id = d.id \
           WHERE d.depth < {DEPTH_MAX}), \
         causes AS (SELECT max(u.depth) AS depth, u.id FROM up u GROUP BY u.id), \
         effects AS (SELECT min(d.depth) AS depth, d.id FROM down d GROUP BY d.id), \
         steps AS ( \
           SELECT 0 AS depth, n.id, NULL::UUID AS cause_id, NULL::UUID AS effect_id, NULL AS pattern, \
             NULL AS rule_id, NULL AS grade, NULL::DOUBLE AS confidence, NULL::BIGINT AS lag_us, \
             NULL AS evidence, NULL AS kind, NULL::TIMESTAMP AS occurred_at, NULL AS summary FROM anchor n \
           UNION ALL \
           SELECT c.depth, c.id, e.cause_id, e.effect_id, e.pattern, e.rule_id, e.grade, e.confidence, \
             e.lag_us, e.evidence, e.cause_kind, e.cause_occurred_at, e.cause_summary \
           FROM edges e JOIN causes c ON c.id = e.cause_id JOIN causes f ON f.id = e.effect_id \
           WHERE f.depth > -{DEPTH_MAX} \
           UNION ALL \
           SELECT f.depth, f.id, e.cause_id, e.effect_id, e.pattern, e.rule_id, e.grade, e.confidence, \
             e.lag_us, e.evidence, e.effect_kind, e.effect_occurred_at, NULL \
           FROM edges e JOIN effects c ON c.id = e.cause_id JOIN effects f ON f.id = e.effect_id \
           WHERE c.depth < {DEPTH_MAX}) \
         SELECT s.depth, coalesce(v.occurred_at, s.occurred_at) AS occurred_at, \
           coalesce(v.kind, s.kind) AS kind, v.namespace, v.pod, v.container, \
           coalesce(v.summary, s.summary) AS summary, s.grade, s.confidence, s.lag_us, s.pattern, s.rule_id, \
           s.evidence, s.id AS event_id, s.cause_id, s.effect_id \
         FROM steps s LEFT JOIN events v ON v.event_id = s.id WHERE s.id IS NOT NULL \
         ORDER BY occurred_at, s.depth, s.id, s.effect_id"
    )
}
