//! One fact caused another: by which rule, how surely, and on what evidence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{EventId, Kind, Timestamp};

/// How surely the cause is the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Likely by window and topology; carries a confidence.
    Inferred,
    /// The same uid, container id, restart count, resource version or content hash.
    Identified,
    /// The same kernel object: memory cgroup, inode, or pid with start time.
    Proven,
}

impl Grade {
    /// The name in snake_case.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Inferred => "inferred",
            Self::Identified => "identified",
            Self::Proven => "proven",
        }
    }
}

/// What an edge rests on: the joined values by name, sorted.
pub type Evidence = BTreeMap<String, String>;

/// A cause and its effect. It keeps enough of the cause to outlive it in the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Edge {
    /// The earlier fact.
    pub cause_id: EventId,
    /// The later fact.
    pub effect_id: EventId,
    /// The pattern, such as `P001`.
    pub pattern: String,
    /// The rule, such as `oom_kill.container_terminated`.
    pub rule_id: String,
    /// How sure.
    pub grade: Grade,
    /// Probability in 0..=1; `None` unless `grade` is [`Grade::Inferred`].
    pub confidence: Option<f64>,
    /// From the best estimate of the cause to that of the effect, in microseconds; may be slightly
    /// negative within the bounds of both.
    pub lag_us: i64,
    /// The joined values.
    pub evidence: Evidence,
    /// Kind of the cause.
    pub cause_kind: Kind,
    /// Best estimate of the cause's time.
    pub cause_occurred_at: Timestamp,
    /// Summary of the cause.
    pub cause_summary: String,
    /// Kind of the effect.
    pub effect_kind: Kind,
    /// Best estimate of the effect's time; it names the edge's partition.
    pub effect_occurred_at: Timestamp,
    /// When the aggregator made it durable; `None` before that.
    pub recorded_at: Option<Timestamp>,
}

/// An edge that no longer holds because a better cause became known. Edges are never updated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retraction {
    /// The edge's cause.
    pub cause_id: EventId,
    /// The edge's effect.
    pub effect_id: EventId,
    /// The edge's rule.
    pub rule_id: String,
    /// Why, for people.
    pub reason: String,
    /// The effect's time; it names the partition, as for the edge.
    pub effect_occurred_at: Timestamp,
    /// When the aggregator made it durable; `None` before that.
    pub recorded_at: Option<Timestamp>,
}
