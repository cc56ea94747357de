//! The tables: their columns with types and comments, their order on disk, and their partitions.
//!
//! One declaration serves the Parquet schema, the catalog's comments and the reader's column lists, so that a
//! column has one name and one meaning everywhere. Names are those of the wire contract without `_us`; a
//! gap's `from` and `to` became `missing_from` and `missing_to`, because SQL reserves the words.

use std::sync::Arc;

use aftertrace_model::Timestamp;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// A table of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Events,
    Edges,
    EdgeRetractions,
    Objects,
    Gaps,
}

/// How a column is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    /// 16 bytes that DuckDB shows as UUID.
    Uuid,
    /// UTF-8.
    Text,
    /// Microseconds in UTC, no time zone.
    Time,
    I64,
    U64,
    I32,
    U32,
    F64,
    Bool,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) name: &'static str,
    pub(super) kind: Type,
    /// Whether a value may be absent.
    pub(super) nullable: bool,
    /// What it means, for the catalog.
    pub(super) comment: &'static str,
}

const fn must(name: &'static str, kind: Type, comment: &'static str) -> Column {
    Column { name, kind, nullable: false, comment }
}

const fn may(name: &'static str, kind: Type, comment: &'static str) -> Column {
    Column { name, kind, nullable: true, comment }
}

const RECORDED_AT: Column = must("recorded_at", Type::Time, "When the aggregator made it durable, UTC");
const CLUSTER: Column = must("cluster", Type::Text, "The configured name of the cluster");

const EVENTS: &[Column] = &[
    must(
        "event_id",
        Type::Uuid,
        "Identity: UUIDv8 of the fact's own time and a hash of cluster and fact key",
    ),
    must("kind", Type::Text, "What happened, in snake_case"),
    must("occurred_at", Type::Time, "Best estimate of when it happened, UTC"),
    must("earliest", Type::Time, "First instant at which it can have happened"),
    must("latest", Type::Time, "Last instant at which it can have happened"),
    RECORDED_AT,
    may("boot_ns", Type::U64, "Nanoseconds of the node's boot clock, for kernel facts"),
    CLUSTER,
    may("node", Type::Text, "The node, for facts of a node"),
    may("namespace", Type::Text, "Namespace of the pod"),
    may("pod", Type::Text, "Name of the pod; NULL if the fact is not tied to one"),
    may("pod_uid", Type::Text, "Uid of the pod: its identity, as names are used again"),
    may("container", Type::Text, "Name of the container within the pod"),
    may("container_id", Type::Text, "Id of the container without the runtime's prefix"),
    may("restart_count", Type::I32, "restartCount of the container's life that the fact belongs to"),
    may("workload_kind", Type::Text, "Kind of the pod's top owner, such as Deployment"),
    may("workload", Type::Text, "Name of the pod's top owner"),
    may("object_kind", Type::Text, "Kind of the API object that a configuration fact is about"),
    may("object_namespace", Type::Text, "Namespace of that object"),
    may("object_name", Type::Text, "Name of that object"),
    may("object_uid", Type::Text, "Uid of that object"),
    may("object_resource_version", Type::Text, "resourceVersion of that object"),
    may("content", Type::Text, "Keyed hashes of configuration content: JSON with key_id and keys"),
    may("pid", Type::U32, "The process: tgid in the node's pid namespace"),
    may("container_init", Type::Bool, "Whether that process was the container's init"),
    may("cgroup_id", Type::U64, "kernfs id of the memory cgroup"),
    may("episode_id", Type::Uuid, "The OOM episode that a kill belongs to"),
    may("reason", Type::Text, "Machine-readable reason, as the source names it"),
    may("exit_code", Type::I32, "Exit code of a termination"),
    must("source", Type::Text, "Who says so: kernel, node, kube or engine"),
    must("hook", Type::Text, "The hook, watch or file behind it"),
    must("severity", Type::Text, "info, warning or error"),
    must("summary", Type::Text, "One line for people, control characters escaped"),
    must("attributes", Type::Text, "Further facts: a JSON object with OpenTelemetry names"),
];

const EDGES: &[Column] = &[
    must("cause_id", Type::Uuid, "event_id of the cause"),
    must("effect_id", Type::Uuid, "event_id of the effect"),
    must("pattern", Type::Text, "The pattern it belongs to, such as P001"),
    must("rule_id", Type::Text, "The rule that joined them: cause.effect by kind"),
    must("grade", Type::Text, "How surely: proven, identified or inferred"),
    may("confidence", Type::F64, "Probability in 0..1, for inferred edges only"),
    must("lag_us", Type::I64, "Microseconds from cause to effect, by their best estimates"),
    must("evidence", Type::Text, "The joined values: a JSON object"),
    must("cause_kind", Type::Text, "Kind of the cause"),
    must("cause_occurred_at", Type::Time, "When the cause happened, UTC"),
    must("cause_summary", Type::Text, "Summary of the cause, so that the edge outlives it"),
    must("effect_kind", Type::Text, "Kind of the effect"),
    must("effect_occurred_at", Type::Time, "When the effect happened, UTC"),
    RECORDED_AT,
];

const EDGE_RETRACTIONS: &[Column] = &[
    must("cause_id", Type::Uuid, "The edge's cause"),
    must("effect_id", Type::Uuid, "The edge's effect"),
    must("rule_id", Type::Text, "The edge's rule"),
    must("reason", Type::Text, "Why it no longer holds, for people"),
    must("effect_occurred_at", Type::Time, "When the effect happened, UTC"),
    RECORDED_AT,
];

const OBJECTS: &[Column] = &[
    CLUSTER,
    must("kind", Type::Text, "Kind of the object, such as Pod"),
    must("namespace", Type::Text, "Namespace of the object; empty for cluster-wide kinds"),
    must("name", Type::Text, "Name of the object"),
    must("uid", Type::Text, "Uid of the object"),
    must("resource_version", Type::Text, "resourceVersion of this version"),
    must("valid_from", Type::Time, "When this version came into force, UTC"),
    must("deleted", Type::Bool, "Whether the object is gone from valid_from on; state is then the last one"),
    must("state", Type::Text, "Allow-listed state: a JSON object"),
    may("content", Type::Text, "Keyed hashes of content that is not stored: JSON with key_id and keys"),
    must("changed_paths", Type::Text, "JSON paths that differ from the version before: a JSON array"),
    RECORDED_AT,
];

const GAPS: &[Column] = &[
    must("gap_id", Type::Uuid, "Identity, random"),
    CLUSTER,
    may("node", Type::Text, "The node; NULL for the aggregator's own gaps"),
    must("component", Type::Text, "The stage that lost it"),
    must("reason", Type::Text, "Why evidence is missing, in snake_case"),
    must("missing_from", Type::Time, "First instant from which evidence may be missing, UTC"),
    must("missing_to", Type::Time, "Last instant to which evidence may be missing, UTC"),
    must("count", Type::U64, "How many items; 0 where that is not known"),
    must("detail", Type::Text, "One line for people"),
    RECORDED_AT,
];

impl Table {
    /// Every table.
    pub(crate) const ALL: [Self; 5] =
        [Self::Events, Self::Edges, Self::EdgeRetractions, Self::Objects, Self::Gaps];

    /// The name in SQL and on disk.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Edges => "edges",
            Self::EdgeRetractions => "edge_retractions",
            Self::Objects => "objects",
            Self::Gaps => "gaps",
        }
    }

    /// The table of that name.
    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Its columns, in order.
    pub(super) const fn columns(self) -> &'static [Column] {
        match self {
            Self::Events => EVENTS,
            Self::Edges => EDGES,
            Self::EdgeRetractions => EDGE_RETRACTIONS,
            Self::Objects => OBJECTS,
            Self::Gaps => GAPS,
        }
    }

    /// The order of merged files: by what the main questions ask for, so that they read few row groups.
    pub(super) const fn sort_key(self) -> &'static str {
        match self {
            Self::Events => "namespace, pod, occurred_at, event_id",
            Self::Edges | Self::EdgeRetractions => "effect_id, cause_id, rule_id",
            Self::Objects => "kind, namespace, name, valid_from",
            Self::Gaps => "missing_from, gap_id",
        }
    }

    /// The Arrow schema of its files.
    pub(super) fn schema(self) -> SchemaRef {
        let fields: Vec<Field> = self.columns().iter().map(Column::field).collect();
        Arc::new(Schema::new(fields))
    }
}

impl Column {
    fn field(&self) -> Field {
        let data_type = match self.kind {
            Type::Uuid => DataType::FixedSizeBinary(16),
            Type::Text => DataType::Utf8,
            Type::Time => DataType::Timestamp(TimeUnit::Microsecond, None),
            Type::I64 => DataType::Int64,
            Type::U64 => DataType::UInt64,
            Type::I32 => DataType::Int32,
            Type::U32 => DataType::UInt32,
            Type::F64 => DataType::Float64,
            Type::Bool => DataType::Boolean,
        };
        let field = Field::new(self.name, data_type, self.nullable);
        match self.kind {
            // Arrow's canonical extension type, which becomes Parquet's UUID and so DuckDB's.
            Type::Uuid => field.with_metadata(
                [("ARROW:extension:name".to_owned(), "arrow.uuid".to_owned())].into_iter().collect(),
            ),
            _ => field,
        }
    }
}

/// Microseconds in a day.
const DAY_US: i64 = 86_400_000_000;

/// The first and last days that the calendar knows (9999-12-30); what lies outside is filed under them.
const DAYS: std::ops::RangeInclusive<i64> = 0..=2_932_895;

/// Days since the Unix epoch, as partitions count.
pub(super) fn day_of_ms(unix_ms: i64) -> i64 {
    unix_ms.div_euclid(DAY_US / 1_000).clamp(*DAYS.start(), *DAYS.end())
}

/// The partition of a time.
pub(super) fn day_of(at: Timestamp) -> i64 {
    day_of_ms(at.as_micros().div_euclid(1_000))
}

/// `YYYY-MM-DD`.
pub(super) fn date(day: i64) -> String {
    let midnight = Timestamp::from_micros(day.saturating_mul(DAY_US)).to_string();
    midnight.split('T').next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_has_a_date() {
        assert_eq!(date(day_of_ms(1_795_171_922_000)), "2026-11-20");
        assert_eq!(date(day_of_ms(-5)), "1970-01-01");
        assert_eq!(date(day_of_ms((1 << 48) - 1)), "9999-12-30");
        assert_eq!(date(day_of(Timestamp::from_micros(i64::MIN))), "1970-01-01");
        assert_eq!(date(day_of(Timestamp::from_micros(i64::MAX))), "9999-12-30");
    }

    #[test]
    fn every_table_is_found_by_its_name() {
        for table in Table::ALL {
            assert_eq!(Table::by_name(table.name()), Some(table));
        }
        assert_eq!(Table::by_name("event"), None);
    }
}
