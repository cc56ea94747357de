//! The objects of the JSON, and thereby their documentation. Fields are added, never renamed or removed.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// How current an answer is.
#[derive(Debug, Serialize)]
pub(crate) struct AsOf {
    /// Everything up to this position of the WAL is in the answer.
    pub(super) wal_position: u64,
    /// When the last of it was recorded; `null` if nothing was.
    pub(super) recorded_at: Option<String>,
}

/// A fact.
#[derive(Debug, Serialize)]
pub(crate) struct Event<'a> {
    pub(super) event_id: String,
    pub(super) kind: &'a str,
    pub(super) occurred_at: String,
    pub(super) earliest: String,
    pub(super) latest: String,
    pub(super) recorded_at: Option<String>,
    pub(super) boot_ns: Option<u64>,
    pub(super) cluster: &'a str,
    pub(super) node: Option<&'a str>,
    pub(super) namespace: Option<&'a str>,
    pub(super) pod: Option<&'a str>,
    pub(super) pod_uid: Option<&'a str>,
    pub(super) container: Option<&'a str>,
    pub(super) container_id: Option<&'a str>,
    pub(super) restart_count: Option<i32>,
    pub(super) workload_kind: Option<&'a str>,
    pub(super) workload: Option<&'a str>,
    pub(super) object_kind: Option<&'a str>,
    pub(super) object_namespace: Option<&'a str>,
    pub(super) object_name: Option<&'a str>,
    pub(super) object_uid: Option<&'a str>,
    pub(super) object_resource_version: Option<&'a str>,
    pub(super) content: Option<Content<'a>>,
    pub(super) pid: Option<u32>,
    pub(super) container_init: Option<bool>,
    pub(super) cgroup_id: Option<u64>,
    pub(super) episode_id: Option<String>,
    pub(super) reason: Option<&'a str>,
    pub(super) exit_code: Option<i32>,
    pub(super) source: &'a str,
    pub(super) hook: &'a str,
    pub(super) severity: &'a str,
    pub(super) summary: &'a str,
    /// An object; text where the server sent no JSON.
    pub(super) attributes: Value,
}

/// Keyed hashes of configuration content.
#[derive(Debug, Serialize)]
pub(crate) struct Content<'a> {
    /// Names the key; hashes compare only under an equal one.
    pub(super) key_id: &'a str,
    /// Key of the object to hash.
    pub(super) keys: &'a BTreeMap<String, String>,
}

/// Cause and effect.
#[derive(Debug, Serialize)]
pub(crate) struct Edge<'a> {
    pub(super) cause_id: String,
    pub(super) effect_id: String,
    pub(super) pattern: &'a str,
    pub(super) rule_id: &'a str,
    pub(super) grade: &'a str,
    pub(super) confidence: Option<f64>,
    pub(super) lag_us: i64,
    pub(super) evidence: &'a BTreeMap<String, String>,
    pub(super) cause_kind: &'a str,
    pub(super) cause_occurred_at: String,
    pub(super) cause_summary: &'a str,
    pub(super) effect_kind: &'a str,
    pub(super) effect_occurred_at: String,
    pub(super) recorded_at: Option<String>,
}

/// Missing evidence.
#[derive(Debug, Serialize)]
pub(crate) struct Gap<'a> {
    pub(super) gap_id: String,
    pub(super) cluster: &'a str,
    pub(super) node: Option<&'a str>,
    pub(super) component: &'a str,
    pub(super) reason: &'a str,
    pub(super) missing_from: String,
    pub(super) missing_to: String,
    pub(super) count: u64,
    pub(super) detail: &'a str,
    pub(super) recorded_at: Option<String>,
}

/// `aft why`
#[derive(Debug, Serialize)]
pub(crate) struct Why<'a> {
    pub(super) as_of: Option<AsOf>,
    /// The fact asked about; `null` if there is none.
    pub(super) anchor_id: Option<String>,
    pub(super) events: Vec<Event<'a>>,
    pub(super) edges: Vec<Edge<'a>>,
    pub(super) gaps: Vec<Gap<'a>>,
    /// Why there is no cause; `null` if there is one.
    pub(super) no_cause_because: Option<&'a str>,
    pub(super) remediation: &'a [String],
}

/// `aft timeline`
#[derive(Debug, Serialize)]
pub(crate) struct Timeline<'a> {
    pub(super) as_of: Option<AsOf>,
    pub(super) events: Vec<Event<'a>>,
    pub(super) gaps: Vec<Gap<'a>>,
    /// Whether there were more events than asked for.
    pub(super) truncated: bool,
}

/// `aft oom`
#[derive(Debug, Serialize)]
pub(crate) struct Oom<'a> {
    pub(super) as_of: Option<AsOf>,
    /// In the order of their first kill.
    pub(super) episodes: Vec<Episode<'a>>,
    /// What led to these kills, and what followed.
    pub(super) edges: Vec<Edge<'a>>,
    pub(super) gaps: Vec<Gap<'a>>,
    /// Whether there were more kills than asked for.
    pub(super) truncated: bool,
}

/// One decision of the OOM killer.
#[derive(Debug, Serialize)]
pub(crate) struct Episode<'a> {
    /// The event of the decision; `null` where a kill names none.
    pub(super) episode_id: Option<String>,
    /// Those that were asked for, in order of time.
    pub(super) kills: Vec<Event<'a>>,
}

/// `aft stale`
#[derive(Debug, Serialize)]
pub(crate) struct StaleConfigs<'a> {
    pub(super) as_of: Option<AsOf>,
    /// Oldest first.
    pub(super) stale: Vec<Stale<'a>>,
    pub(super) gaps: Vec<Gap<'a>>,
    /// Whether there is more than asked for.
    pub(super) truncated: bool,
}

/// Stale configuration that still stands.
#[derive(Debug, Serialize)]
pub(crate) struct Stale<'a> {
    /// The `config_stale` or `config_watched`.
    pub(super) event: Event<'a>,
    /// The swaps it follows from, by time; a projected volume has one for each object.
    pub(super) swaps: Vec<Swap<'a>>,
}

/// A swap, as an edge keeps it.
#[derive(Debug, Serialize)]
pub(crate) struct Swap<'a> {
    pub(super) event_id: String,
    pub(super) occurred_at: String,
    pub(super) summary: &'a str,
}

/// `aft history`
#[derive(Debug, Serialize)]
pub(crate) struct History<'a> {
    pub(super) as_of: Option<AsOf>,
    pub(super) name: &'a str,
    pub(super) total: u64,
    pub(super) occurrences: Vec<Event<'a>>,
    pub(super) groups: Vec<HistoryGroup<'a>>,
    pub(super) remediation: &'a [String],
    pub(super) gaps: Vec<Gap<'a>>,
}

/// Occurrences of one workload.
#[derive(Debug, Serialize)]
pub(crate) struct HistoryGroup<'a> {
    pub(super) namespace: &'a str,
    pub(super) workload: &'a str,
    pub(super) count: u64,
    pub(super) first: String,
    pub(super) last: String,
}

/// `aft at`
#[derive(Debug, Serialize)]
pub(crate) struct StateAt<'a> {
    pub(super) as_of: Option<AsOf>,
    /// `null` if no version was known at that time.
    pub(super) version: Option<ObjectVersion<'a>>,
    pub(super) gaps: Vec<Gap<'a>>,
    pub(super) not_found_because: Option<&'a str>,
}

/// A version of an object.
#[derive(Debug, Serialize)]
pub(crate) struct ObjectVersion<'a> {
    pub(super) cluster: &'a str,
    pub(super) kind: &'a str,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
    pub(super) uid: &'a str,
    pub(super) resource_version: &'a str,
    pub(super) valid_from: String,
    /// `null` if it is in force still.
    pub(super) valid_to: Option<String>,
    pub(super) deleted: bool,
    /// An object; text where the server sent no JSON.
    pub(super) state: Value,
    pub(super) content: Option<Content<'a>>,
    pub(super) changed_paths: &'a [String],
    pub(super) recorded_at: Option<String>,
}

/// `aft status`
#[derive(Debug, Serialize)]
pub(crate) struct Status<'a> {
    pub(super) as_of: Option<AsOf>,
    pub(super) cluster: &'a str,
    pub(super) version: &'a str,
    pub(super) catalog: &'a str,
    pub(super) rows: &'a BTreeMap<String, u64>,
    pub(super) wal_pending_frames: u64,
    /// `null` if the catalog was never published.
    pub(super) published_at: Option<String>,
    pub(super) degraded: &'a [String],
    pub(super) watches: &'a BTreeMap<String, String>,
    pub(super) agents: Vec<Agent<'a>>,
    pub(super) rss_bytes: u64,
}

/// An agent.
#[derive(Debug, Serialize)]
pub(crate) struct Agent<'a> {
    pub(super) node: &'a str,
    pub(super) version: &'a str,
    pub(super) connected: bool,
    pub(super) last_seen: Option<String>,
    pub(super) events: u64,
    pub(super) duplicates: u64,
    pub(super) subjects: Vec<Subject<'a>>,
    pub(super) spool_items: u64,
    pub(super) spool_bytes: u64,
    pub(super) pods: u32,
    pub(super) watch: &'a str,
    pub(super) rss_bytes: u64,
    pub(super) clock_error_ns: u64,
}

/// One subject of kernel evidence on one node.
#[derive(Debug, Serialize)]
pub(crate) struct Subject<'a> {
    pub(super) name: &'a str,
    pub(super) tier: &'a str,
    pub(super) hooks: &'a [String],
    pub(super) missing: &'a [String],
}
