//! Rows of one flush, and their way from the domain into Arrow, split by partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use aftertrace_model::{Content, Edge, Event, EventId, Gap, ObjectVersion, Retraction, Timestamp};
use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeBinaryArray, Float64Array, Int32Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray, UInt32Array, UInt64Array,
};

use super::Table;
use super::table::{day_of, day_of_ms};

/// Rows that wait for a flush, in order of commit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    pub(crate) events: Vec<Arc<Event>>,
    pub(crate) edges: Vec<Edge>,
    pub(crate) retractions: Vec<Retraction>,
    pub(crate) objects: Vec<ObjectVersion>,
    pub(crate) gaps: Vec<Gap>,
}

/// Rows of one table and partition, ready to be written.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) table: Table,
    pub(super) day: i64,
    pub(super) batch: RecordBatch,
    /// Earliest and latest time in it.
    pub(super) min: Timestamp,
    pub(super) max: Timestamp,
}

impl Rows {
    /// How many rows of all tables.
    pub(crate) fn len(&self) -> usize {
        self.events.len() + self.edges.len() + self.retractions.len() + self.objects.len() + self.gaps.len()
    }

    /// Splits the rows by table and partition, without order within.
    pub(super) fn parts(&self) -> Vec<Part> {
        let mut parts = Vec::new();
        split(
            &mut parts,
            Table::Events,
            &self.events,
            |e| day_of_id(e.event_id),
            |e| span(e.occurred.at),
            events,
        );
        split(&mut parts, Table::Edges, &self.edges, |e| day_of_id(e.effect_id), edge_span, edges);
        split(
            &mut parts,
            Table::EdgeRetractions,
            &self.retractions,
            |r| day_of_id(r.effect_id),
            |r| span(r.effect_occurred_at),
            retractions,
        );
        split(
            &mut parts,
            Table::Objects,
            &self.objects,
            |o| day_of(o.valid_from),
            |o| span(o.valid_from),
            objects,
        );
        split(&mut parts, Table::Gaps, &self.gaps, |g| day_of(g.from), |g| (g.from, g.to), gaps);
        parts
    }
}

/// The partition of an event, or of what belongs to it: found from the id alone.
pub(super) fn day_of_id(id: EventId) -> i64 {
    day_of_ms(id.unix_ms())
}

fn span(at: Timestamp) -> (Timestamp, Timestamp) {
    (at, at)
}

fn edge_span(e: &Edge) -> (Timestamp, Timestamp) {
    span(e.effect_occurred_at)
}

fn split<T>(
    parts: &mut Vec<Part>,
    table: Table,
    rows: &[T],
    day: impl Fn(&T) -> i64,
    span: impl Fn(&T) -> (Timestamp, Timestamp),
    columns: impl Fn(&[&T]) -> Vec<ArrayRef>,
) {
    let mut days: BTreeMap<i64, Vec<&T>> = BTreeMap::new();
    for row in rows {
        days.entry(day(row)).or_default().push(row);
    }
    for (day, rows) in days {
        let (mut min, mut max) = span(rows[0]);
        for row in &rows {
            let (from, to) = span(row);
            min = min.min(from);
            max = max.max(to);
        }
        let batch = RecordBatch::try_new(table.schema(), columns(&rows))
            .expect("the columns are built in the order and with the types of the table's declaration");
        parts.push(Part { table, day, batch, min, max });
    }
}

fn events(rows: &[&Arc<Event>]) -> Vec<ArrayRef> {
    vec![
        uuids(rows, |e| Some(e.event_id.0.as_bytes())),
        texts(rows, |e| Some(e.kind.as_str())),
        times(rows, |e| Some(e.occurred.at)),
        times(rows, |e| Some(e.occurred.earliest)),
        times(rows, |e| Some(e.occurred.latest)),
        times(rows, |e| recorded(e.recorded_at)),
        u64s(rows, |e| e.boot_ns),
        texts(rows, |e| Some(&e.cluster)),
        texts(rows, |e| e.node.as_deref()),
        texts(rows, |e| e.pod.as_ref().map(|p| p.namespace.as_str())),
        texts(rows, |e| e.pod.as_ref().map(|p| p.name.as_str())),
        texts(rows, |e| e.pod_uid()),
        texts(rows, |e| e.container.as_deref()),
        texts(rows, |e| e.container_id.as_deref()),
        i32s(rows, |e| e.restart_count),
        texts(rows, |e| e.workload.as_ref().map(|w| w.kind.as_str())),
        texts(rows, |e| e.workload.as_ref().map(|w| w.name.as_str())),
        texts(rows, |e| e.object.as_ref().map(|o| o.kind.as_str())),
        texts(rows, |e| e.object.as_ref().map(|o| o.namespace.as_str())),
        texts(rows, |e| e.object.as_ref().map(|o| o.name.as_str())),
        texts(rows, |e| e.object.as_ref().and_then(|o| o.uid.as_deref())),
        texts(rows, |e| e.object.as_ref().and_then(|o| o.resource_version.as_deref())),
        owned(rows, |e| e.content.as_ref().map(content_json)),
        Arc::new(rows.iter().map(|e| e.pid).collect::<UInt32Array>()),
        bools(rows, |e| e.container_init),
        u64s(rows, |e| e.cgroup_id),
        uuids(rows, |e| e.episode_id.as_ref().map(|id| id.0.as_bytes())),
        texts(rows, |e| e.reason.as_deref()),
        i32s(rows, |e| e.exit_code),
        texts(rows, |e| Some(e.source.as_str())),
        texts(rows, |e| Some(&e.hook)),
        texts(rows, |e| Some(e.severity.as_str())),
        texts(rows, |e| Some(&e.summary)),
        owned(rows, |e| Some(json(&e.attributes))),
    ]
}

fn edges(rows: &[&Edge]) -> Vec<ArrayRef> {
    vec![
        uuids(rows, |e| Some(e.cause_id.0.as_bytes())),
        uuids(rows, |e| Some(e.effect_id.0.as_bytes())),
        texts(rows, |e| Some(&e.pattern)),
        texts(rows, |e| Some(&e.rule_id)),
        texts(rows, |e| Some(e.grade.as_str())),
        Arc::new(rows.iter().map(|e| e.confidence).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|e| Some(e.lag_us)).collect::<Int64Array>()),
        owned(rows, |e| Some(json(&e.evidence))),
        texts(rows, |e| Some(e.cause_kind.as_str())),
        times(rows, |e| Some(e.cause_occurred_at)),
        texts(rows, |e| Some(&e.cause_summary)),
        texts(rows, |e| Some(e.effect_kind.as_str())),
        times(rows, |e| Some(e.effect_occurred_at)),
        times(rows, |e| recorded(e.recorded_at)),
    ]
}

fn retractions(rows: &[&Retraction]) -> Vec<ArrayRef> {
    vec![
        uuids(rows, |r| Some(r.cause_id.0.as_bytes())),
        uuids(rows, |r| Some(r.effect_id.0.as_bytes())),
        texts(rows, |r| Some(&r.rule_id)),
        texts(rows, |r| Some(&r.reason)),
        times(rows, |r| Some(r.effect_occurred_at)),
        times(rows, |r| recorded(r.recorded_at)),
    ]
}

fn objects(rows: &[&ObjectVersion]) -> Vec<ArrayRef> {
    vec![
        texts(rows, |o| Some(&o.cluster)),
        texts(rows, |o| Some(&o.kind)),
        texts(rows, |o| Some(&o.namespace)),
        texts(rows, |o| Some(&o.name)),
        texts(rows, |o| Some(&o.uid)),
        texts(rows, |o| Some(&o.resource_version)),
        times(rows, |o| Some(o.valid_from)),
        bools(rows, |o| Some(o.deleted)),
        texts(rows, |o| Some(&o.state)),
        owned(rows, |o| o.content.as_ref().map(content_json)),
        owned(rows, |o| Some(json(&o.changed_paths))),
        times(rows, |o| recorded(o.recorded_at)),
    ]
}

fn gaps(rows: &[&Gap]) -> Vec<ArrayRef> {
    vec![
        uuids(rows, |g| Some(g.gap_id.as_bytes())),
        texts(rows, |g| Some(&g.cluster)),
        texts(rows, |g| g.node.as_deref()),
        texts(rows, |g| Some(&g.component)),
        texts(rows, |g| Some(g.reason.as_str())),
        times(rows, |g| Some(g.from)),
        times(rows, |g| Some(g.to)),
        u64s(rows, |g| Some(g.count)),
        texts(rows, |g| Some(&g.detail)),
        times(rows, |g| recorded(g.recorded_at)),
    ]
}

/// The writer stamps every row; a row without a stamp would be our own mistake and is dated to the epoch.
fn recorded(at: Option<Timestamp>) -> Option<Timestamp> {
    debug_assert!(at.is_some(), "the writer stamps rows before they come here");
    Some(at.unwrap_or_default())
}

fn content_json(content: &Content) -> String {
    json(content)
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("text keys and JSON values always encode")
}

fn uuids<T>(rows: &[&T], get: impl Fn(&T) -> Option<&[u8; 16]>) -> ArrayRef {
    let values = rows.iter().map(|row| get(row).map(|bytes| bytes.as_slice()));
    let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, 16)
        .expect("every value has 16 bytes by its type");
    Arc::new(array)
}

fn texts<T>(rows: &[&T], get: impl Fn(&T) -> Option<&str>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| get(row)).collect::<StringArray>())
}

fn owned<T>(rows: &[&T], get: impl Fn(&T) -> Option<String>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| get(row)).collect::<StringArray>())
}

fn times<T>(rows: &[&T], get: impl Fn(&T) -> Option<Timestamp>) -> ArrayRef {
    let values = rows.iter().map(|row| get(row).map(Timestamp::as_micros));
    Arc::new(values.collect::<TimestampMicrosecondArray>())
}

fn bools<T>(rows: &[&T], get: impl Fn(&T) -> Option<bool>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| get(row)).collect::<BooleanArray>())
}

fn u64s<T>(rows: &[&T], get: impl Fn(&T) -> Option<u64>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| get(row)).collect::<UInt64Array>())
}

fn i32s<T>(rows: &[&T], get: impl Fn(&T) -> Option<i32>) -> ArrayRef {
    Arc::new(rows.iter().map(|row| get(row)).collect::<Int32Array>())
}
