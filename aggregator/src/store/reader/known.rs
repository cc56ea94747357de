//! What the writer asks at start and for old identities: which are in segments already.

use std::collections::HashSet;

use aftertrace_model::{Edge, Event, EventId, Kind, Timestamp};
use uuid::Uuid;

use super::Reader;
use crate::store::manifest::{Manifest, Segment};
use crate::store::rows::day_of_id;
use crate::store::{StoreError, Table};

/// Ids in one `IN` list: keeps a statement below some 50 KB.
const IN_LIST_MAX: usize = 1_000;

/// The identity of an edge as it is stored.
pub(crate) type EdgeId = (EventId, EventId, String);

/// The identity of a version: uid, resourceVersion, and whether it is the deletion.
pub(crate) type VersionId = (String, String, bool);

/// The newest rows of a table.
#[derive(Debug)]
pub(crate) struct Newest<T> {
    /// The identities.
    pub(crate) ids: Vec<T>,
    /// Milliseconds since the Unix epoch from which on all are there; `None` if nothing is older.
    pub(crate) since_ms: Option<i64>,
}

impl Reader {
    /// Which of these events are in segments.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn known_events(&self, ids: &[EventId]) -> Result<HashSet<EventId>, StoreError> {
        let mut known = HashSet::new();
        for chunk in ids.chunks(IN_LIST_MAX) {
            let days: HashSet<i64> = chunk.iter().map(|id| day_of_id(*id)).collect();
            let scan = self.scan(Table::Events, |s| days.contains(&s.day));
            let sql = format!("SELECT event_id::VARCHAR FROM {scan} WHERE event_id IN ({})", uuids(chunk));
            known.extend(self.ids(&sql, "look up events")?.into_iter().map(EventId));
        }
        Ok(known)
    }

    /// Edges, retracted or not, whose effect is one of these.
    pub(crate) fn known_edges(&self, effects: &[EventId]) -> Result<Vec<EdgeId>, StoreError> {
        let mut known = Vec::new();
        for chunk in effects.chunks(IN_LIST_MAX) {
            let days: HashSet<i64> = chunk.iter().map(|id| day_of_id(*id)).collect();
            let scan = self.scan(Table::Edges, |s| days.contains(&s.day));
            known.extend(self.edge_ids(&scan, &format!("WHERE effect_id IN ({})", uuids(chunk)))?);
        }
        Ok(known)
    }

    /// Versions of these objects, by uid.
    pub(crate) fn known_versions(&self, uids: &[String]) -> Result<Vec<VersionId>, StoreError> {
        let scan = self.scan(Table::Objects, |_| true);
        let mut known = Vec::new();
        for chunk in uids.chunks(IN_LIST_MAX) {
            let marks = vec!["?"; chunk.len()].join(", ");
            known.extend(self.version_ids(&scan, &format!("WHERE uid IN ({marks})"), chunk)?);
        }
        Ok(known)
    }

    /// Which of these gaps are in segments.
    pub(crate) fn known_gaps(&self, ids: &[Uuid]) -> Result<HashSet<Uuid>, StoreError> {
        let scan = self.scan(Table::Gaps, |_| true);
        let mut known = HashSet::new();
        for chunk in ids.chunks(IN_LIST_MAX) {
            let list: Vec<String> = chunk.iter().map(|id| format!("'{id}'::UUID")).collect();
            let sql = format!("SELECT gap_id::VARCHAR FROM {scan} WHERE gap_id IN ({})", list.join(", "));
            known.extend(self.ids(&sql, "look up gaps")?);
        }
        Ok(known)
    }

    /// Ids of the newest events, `rows` of them or all.
    pub(crate) fn newest_events(&self, rows: u64) -> Result<Newest<EventId>, StoreError> {
        let (scan, tail) = self.newest(Table::Events, "event_id", rows);
        let ids = self.ids(&format!("SELECT event_id::VARCHAR FROM {scan} {tail}"), "read event ids")?;
        let ids: Vec<EventId> = ids.into_iter().map(EventId).collect();
        let oldest = ids.iter().min().map(|id| id.unix_ms());
        Ok(self.newest_of(Table::Events, ids, oldest))
    }

    /// As [`Reader::newest_events`], for edges by their effects.
    pub(crate) fn newest_edges(&self, rows: u64) -> Result<Newest<EdgeId>, StoreError> {
        let (scan, tail) = self.newest(Table::Edges, "effect_id", rows);
        let ids = self.edge_ids(&scan, &tail)?;
        let oldest = ids.iter().map(|(_, effect, _)| effect.unix_ms()).min();
        Ok(self.newest_of(Table::Edges, ids, oldest))
    }

    /// As [`Reader::newest_events`], for versions of objects.
    pub(crate) fn newest_versions(&self, rows: u64) -> Result<Newest<VersionId>, StoreError> {
        let (scan, tail) = self.newest(Table::Objects, "valid_from", rows);
        let ids = self.version_ids(&scan, &tail, &[])?;
        Ok(self.newest_of(Table::Objects, ids, Some(i64::MAX)))
    }

    /// As [`Reader::newest_events`], for gaps.
    pub(crate) fn newest_gaps(&self, rows: u64) -> Result<Newest<Uuid>, StoreError> {
        let (scan, tail) = self.newest(Table::Gaps, "missing_from", rows);
        let ids = self.ids(&format!("SELECT gap_id::VARCHAR FROM {scan} {tail}"), "read gap ids")?;
        Ok(self.newest_of(Table::Gaps, ids, Some(i64::MAX)))
    }

    /// The partitions that hold the newest rows by `column`, and the end of a query that takes those.
    fn newest(&self, table: Table, column: &str, rows: u64) -> (String, String) {
        let first = newest_days(&self.manifest(), table, rows);
        let scan = self.scan(table, |s| first.is_none_or(|day| s.day >= day));
        (scan, format!("ORDER BY {column} DESC LIMIT {rows}"))
    }

    /// Says from when on the rows are all there: from the millisecond after the oldest one, unless none is
    /// missing, as more rows of that one may have been cut off.
    fn newest_of<T>(&self, table: Table, ids: Vec<T>, oldest_ms: Option<i64>) -> Newest<T> {
        let all = ids.len() as u64 == self.manifest().rows(table);
        let since_ms = if all { None } else { oldest_ms.map(|ms| ms.saturating_add(1)) };
        Newest { ids, since_ms }
    }

    /// The latest `limit` events of some kinds, or of all, that happened at or after `since`; oldest first.
    pub(crate) fn latest(
        &self,
        kinds: &[Kind],
        since: Timestamp,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let pass = |s: &Segment| s.max >= since;
        let list: Vec<String> = kinds.iter().map(|k| format!("'{k}'")).collect();
        let kinds =
            if list.is_empty() { String::new() } else { format!("AND e.kind IN ({})", list.join(", ")) };
        let tail = format!("WHERE e.occurred_at >= make_timestamp(?) {kinds}");
        self.last_events(pass, &tail, duckdb::params![since.as_micros()], limit)
    }

    /// Live edges whose effect happened at or after `since`.
    pub(crate) fn edges_since(&self, since: Timestamp) -> Result<Vec<Edge>, StoreError> {
        let condition = format!("e.effect_occurred_at >= make_timestamp({})", since.as_micros());
        self.live_edges(|s| s.max >= since, &condition)
    }

    /// The latest time of an event in segments.
    pub(crate) fn newest_time(&self) -> Option<Timestamp> {
        self.manifest().of(Table::Events).map(|s| s.max).max()
    }

    fn ids(&self, sql: &str, action: &'static str) -> Result<Vec<Uuid>, StoreError> {
        self.rows(sql, [], action, |row| {
            let text: String = row.get(0).map_err(StoreError::query(action))?;
            text.parse().map_err(|error| StoreError::Row { table: "ids", reason: format!("{text}: {error}") })
        })
    }

    fn edge_ids(&self, scan: &str, tail: &str) -> Result<Vec<EdgeId>, StoreError> {
        let sql = format!("SELECT cause_id::VARCHAR, effect_id::VARCHAR, rule_id FROM {scan} {tail}");
        let wrong = |error: uuid::Error| StoreError::Row { table: "edges", reason: error.to_string() };
        self.rows(&sql, [], "look up edges", |row| {
            let text = |i| row.get::<_, String>(i).map_err(StoreError::query("look up edges"));
            Ok((text(0)?.parse().map_err(wrong)?, text(1)?.parse().map_err(wrong)?, text(2)?))
        })
    }

    fn version_ids(&self, scan: &str, tail: &str, values: &[String]) -> Result<Vec<VersionId>, StoreError> {
        let sql = format!("SELECT uid, resource_version, deleted FROM {scan} {tail}");
        let failed = || StoreError::query("look up objects");
        self.rows(&sql, duckdb::params_from_iter(values), "look up objects", |row| {
            Ok((row.get(0).map_err(failed())?, row.get(1).map_err(failed())?, row.get(2).map_err(failed())?))
        })
    }
}

/// The first day of the newest partitions that hold `rows` rows; `None` if all are needed.
fn newest_days(manifest: &Manifest, of: Table, rows: u64) -> Option<i64> {
    let mut days: std::collections::BTreeMap<i64, u64> = std::collections::BTreeMap::new();
    for segment in manifest.of(of) {
        *days.entry(segment.day).or_default() += segment.rows;
    }
    let (mut sum, mut first) = (0_u64, None);
    for (day, count) in days.iter().rev() {
        if sum >= rows {
            return first;
        }
        sum += count;
        first = Some(*day);
    }
    None
}

/// Ids as a list of SQL literals.
pub(super) fn uuids(ids: &[EventId]) -> String {
    let list: Vec<String> = ids.iter().map(|id| format!("'{id}'::UUID")).collect();
    list.join(", ")
}
