//! Reads what is in segments back as the domain's types.
//!
//! A reader sees one manifest per question: everything up to [`Reader::as_of`], events and edges of the same
//! prefix. What the writer accepted since is in the writer's callback only. All methods block on disk and
//! processor: async callers go through [`Reader::run`].

mod decode;
pub(crate) mod known;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use aftertrace_model::{Edge, Event, EventId, Gap, Kind, ObjectVersion, Timestamp};
use duckdb::{Connection, Params, Row, params};

use self::decode::{Cells, select};
use super::catalog::views;
use super::manifest::{Manifest, Manifests, Segment};
use super::rows::day_of_id;
use super::segments::Segments;
use super::{StoreError, Table, duck};
use crate::query::FactQuery;

/// Answers typed questions from segments. Cheap to clone; clones share one DuckDB instance.
#[derive(Clone)]
pub struct Reader {
    manifests: Arc<Manifests>,
    segments: Segments,
    /// The instance, from which each question takes a connection of its own.
    instance: Arc<Mutex<Connection>>,
}

/// Which anchors to look for; `None` means any.
#[derive(Clone, Debug)]
pub struct AnchorQuery {
    /// The kind that a pattern is counted by.
    pub kind: Kind,
    /// An attribute and the value that it must have.
    pub with: Option<(&'static str, &'static str)>,
    /// Namespace of the pod.
    pub namespace: Option<String>,
    /// Name of the workload.
    pub workload: Option<String>,
    /// Name of the pod.
    pub pod: Option<String>,
    /// First instant, inclusive.
    pub since: Timestamp,
    /// Most events listed.
    pub limit: usize,
}

/// Occurrences of an anchor.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Anchors {
    /// How many there are, listed or not.
    pub total: u64,
    /// The latest, newest first.
    pub events: Vec<Event>,
    /// By workload, most first, then by name.
    pub groups: Vec<AnchorGroup>,
}

/// Occurrences in one workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnchorGroup {
    /// Namespace; empty where the fact has no pod.
    pub namespace: String,
    /// `<kind>/<name>` of the workload, or `Pod/<name>` where the owner is not known, or `Node/<name>` where the
    /// fact has no pod.
    pub workload: String,
    /// How many.
    pub count: u64,
    /// The first.
    pub first: Timestamp,
    /// The last.
    pub last: Timestamp,
}

/// A version in force at the time asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectAt {
    /// The version; `deleted` says that the object was gone by then.
    pub version: ObjectVersion,
    /// When the next version came into force; `None` if this is the last one known.
    pub valid_to: Option<Timestamp>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("as_of", &self.as_of()).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(manifests: Arc<Manifests>, segments: Segments, instance: Connection) -> Self {
        Self { manifests, segments, instance: Arc::new(Mutex::new(instance)) }
    }

    /// Runs a question on a thread for blocking work.
    ///
    /// # Errors
    /// What the question returns; [`StoreError::Closed`] if the runtime is shutting down.
    pub async fn run<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.clone();
        tokio::task::spawn_blocking(move || question(&reader)).await.map_err(|_| StoreError::Closed)?
    }

    /// The WAL position up to which segments hold everything.
    #[must_use]
    pub fn as_of(&self) -> u64 {
        self.manifest().position
    }

    /// The event of that id.
    ///
    /// # Errors
    /// [`StoreError::Query`] or [`StoreError::Row`].
    pub fn event(&self, id: EventId) -> Result<Option<Event>, StoreError> {
        Ok(self.events_by_id(&[id])?.pop())
    }

    /// The events of those ids that are there, in order of time.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn events_by_id(&self, ids: &[EventId]) -> Result<Vec<Event>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let days: HashSet<i64> = ids.iter().map(|id| day_of_id(*id)).collect();
        let tail = format!("WHERE e.event_id IN ({})", known::uuids(ids));
        self.last_events(|s| days.contains(&s.day), &tail, [], ids.len())
    }

    /// The facts asked for: the latest `limit`, oldest first.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn facts(&self, query: &FactQuery) -> Result<Vec<Event>, StoreError> {
        if query.since > query.until {
            return Ok(Vec::new());
        }
        let pass = |s: &Segment| s.min <= query.until && s.max >= query.since;
        self.last_events(pass, &condition(query), [], query.limit)
    }

    /// Live edges whose cause or effect is one of these, each once, by effect.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn edges_touching(&self, ids: &[EventId]) -> Result<Vec<Edge>, StoreError> {
        let Some(first) = ids.iter().map(|id| day_of_id(*id)).min() else { return Ok(Vec::new()) };
        // An edge lies with its effect, which is not earlier than the cause but for clock bounds.
        let list = known::uuids(ids);
        let condition = format!("(e.effect_id IN ({list}) OR e.cause_id IN ({list}))");
        self.live_edges(|s| s.day >= first - 1, &condition)
    }

    /// Occurrences of an anchor kind.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn anchors(&self, query: &AnchorQuery) -> Result<Anchors, StoreError> {
        let (namespace, workload, pod) = (&query.namespace, &query.workload, &query.pod);
        let since = query.since.as_micros();
        let with = query.with.map_or_else(String::new, |(name, value)| has(name, value));
        let tail = format!(
            "WHERE e.kind = ? AND e.occurred_at >= make_timestamp(?) AND (? IS NULL OR e.namespace = ?) \
             AND (? IS NULL OR e.workload = ?) AND (? IS NULL OR e.pod = ?){with}"
        );
        let values = params![query.kind.as_str(), since, namespace, namespace, workload, workload, pod, pod];
        let pass = |s: &Segment| s.max >= query.since;
        let mut events = self.last_events(pass, &tail, values, query.limit)?;
        events.reverse();
        let sql = format!(
            "SELECT coalesce(e.namespace, ''), \
             coalesce(e.workload_kind || '/' || e.workload, 'Pod/' || e.pod, 'Node/' || e.node, '') AS owner, \
             count(*), epoch_us(min(e.occurred_at)), epoch_us(max(e.occurred_at)) \
             FROM {} e {tail} GROUP BY ALL ORDER BY 3 DESC, 1, 2",
            self.scan(Table::Events, pass)
        );
        let groups = self.rows(&sql, values, "count occurrences", |row| {
            let mut cells = Cells::new(row, Table::Events);
            Ok(AnchorGroup {
                namespace: cells.take()?,
                workload: cells.take()?,
                count: cells.take::<i64>()?.unsigned_abs(),
                first: cells.take().map(Timestamp::from_micros)?,
                last: cells.take().map(Timestamp::from_micros)?,
            })
        })?;
        Ok(Anchors { total: groups.iter().map(|g| g.count).sum(), events, groups })
    }

    /// The version of an object that was in force at `at`; kind in any case of letters.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn object_at(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        at: Timestamp,
    ) -> Result<Option<ObjectAt>, StoreError> {
        let sql = format!(
            "SELECT {}, epoch_us(o.valid_to) FROM (SELECT *, lead(valid_from) OVER (ORDER BY {}) AS valid_to \
             FROM {} WHERE lower(kind) = lower(?) AND namespace = ? AND \"name\" = ?) o \
             WHERE o.valid_from <= make_timestamp(?) AND (o.valid_to IS NULL OR o.valid_to > make_timestamp(?))",
            select(Table::Objects, "o"),
            views::VERSION_ORDER,
            self.scan(Table::Objects, |_| true)
        );
        let at = at.as_micros();
        let mut found = self.rows(&sql, params![kind, namespace, name, at, at], "read objects", |row| {
            let mut cells = Cells::new(row, Table::Objects);
            let version = cells.object()?;
            Ok(ObjectAt { version, valid_to: cells.take::<Option<i64>>()?.map(Timestamp::from_micros) })
        })?;
        Ok(found.pop())
    }

    /// The last version of each object of a kind that is not deleted, by namespace and name.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn current_objects(&self, kind: &str) -> Result<Vec<ObjectVersion>, StoreError> {
        let sql = format!(
            "SELECT {} FROM (SELECT *, row_number() OVER (PARTITION BY namespace, \"name\" ORDER BY {}) AS rank \
             FROM {} WHERE lower(kind) = lower(?)) o WHERE o.rank = 1 AND NOT o.deleted \
             ORDER BY o.namespace, o.\"name\"",
            select(Table::Objects, "o"),
            views::VERSION_ORDER_LAST_FIRST,
            self.scan(Table::Objects, |_| true)
        );
        self.rows(&sql, params![kind], "read objects", |row| Cells::new(row, Table::Objects).object())
    }

    /// Gaps that overlap the closed interval, in order of time; with a node, its own and the aggregator's.
    ///
    /// # Errors
    /// As [`Reader::event`].
    pub fn gaps_between(
        &self,
        from: Timestamp,
        to: Timestamp,
        node: Option<&str>,
    ) -> Result<Vec<Gap>, StoreError> {
        let sql = format!(
            "SELECT {} FROM {} g WHERE g.missing_from <= make_timestamp(?) AND g.missing_to >= make_timestamp(?) \
             AND (? IS NULL OR g.node IS NULL OR g.node = ?) ORDER BY g.missing_from, g.gap_id",
            select(Table::Gaps, "g"),
            self.scan(Table::Gaps, |s| s.min <= to && s.max >= from)
        );
        let values = params![to.as_micros(), from.as_micros(), node, node];
        self.rows(&sql, values, "read gaps", |row| Cells::new(row, Table::Gaps).gap())
    }

    /// Rows in segments by table.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let manifest = self.manifest();
        Table::ALL.into_iter().map(|table| (table.name(), manifest.rows(table))).collect()
    }

    fn manifest(&self) -> Arc<Manifest> {
        self.manifests.current()
    }

    fn scan(&self, table: Table, pass: impl Fn(&Segment) -> bool) -> String {
        views::scan(table, &self.manifest(), &self.segments, pass)
    }

    /// The latest `limit` events `e` that `tail` lets through, oldest first.
    fn last_events(
        &self,
        pass: impl Fn(&Segment) -> bool,
        tail: &str,
        values: impl Params,
        limit: usize,
    ) -> Result<Vec<Event>, StoreError> {
        let sql = format!(
            "SELECT {} FROM {} e {tail} ORDER BY e.occurred_at DESC, e.event_id DESC LIMIT {limit}",
            select(Table::Events, "e"),
            self.scan(Table::Events, pass)
        );
        let mut events =
            self.rows(&sql, values, "read events", |row| Cells::new(row, Table::Events).event())?;
        events.reverse();
        Ok(events)
    }

    fn live_edges(&self, pass: impl Fn(&Segment) -> bool, condition: &str) -> Result<Vec<Edge>, StoreError> {
        // One manifest for both tables: a retraction must not be missed that an edge's file came with.
        let manifest = self.manifest();
        let scan = |table| views::scan(table, &manifest, &self.segments, &pass);
        let sql = format!(
            "SELECT {} FROM {} e WHERE {condition} AND {} \
             ORDER BY e.effect_occurred_at, e.effect_id, e.cause_id, e.rule_id",
            select(Table::Edges, "e"),
            scan(Table::Edges),
            views::not_retracted(&scan(Table::EdgeRetractions))
        );
        self.rows(&sql, [], "read edges", |row| Cells::new(row, Table::Edges).edge())
    }

    /// Runs a statement on a connection of its own and reads every row.
    fn rows<T>(
        &self,
        sql: &str,
        values: impl Params,
        action: &'static str,
        mut read: impl FnMut(&Row<'_>) -> Result<T, StoreError>,
    ) -> Result<Vec<T>, StoreError> {
        let connection = {
            let instance = self.instance.lock().unwrap_or_else(PoisonError::into_inner);
            instance.try_clone().map_err(StoreError::query(action))?
        };
        let mut statement = connection.prepare(sql).map_err(StoreError::query(action))?;
        let mut rows = statement.query(values).map_err(StoreError::query(action))?;
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(StoreError::query(action))? {
            found.push(read(row)?);
        }
        Ok(found)
    }
}

/// [`FactQuery::matches`] as a condition on `e`. Every value is a literal: what is asked for varies too much for
/// parameters.
fn condition(query: &FactQuery) -> String {
    let (since, until) = (query.since.as_micros(), query.until.as_micros());
    let mut sql = format!("WHERE e.occurred_at BETWEEN make_timestamp({since}) AND make_timestamp({until})");
    if let Some(namespace) = query.namespace.as_deref().map(duck::quote) {
        sql.push_str(&match query.pod {
            Some(_) => format!(" AND e.namespace = {namespace}"),
            // A fact without a pod belongs to its object's namespace.
            None => format!(
                " AND (e.namespace = {namespace} OR (e.pod IS NULL AND e.object_namespace = {namespace}))"
            ),
        });
    }
    for (column, value) in [("pod", &query.pod), ("workload", &query.workload)] {
        if let Some(value) = value {
            sql.push_str(&format!(" AND e.{column} = {}", duck::quote(value)));
        }
    }
    let list = |values: Vec<String>| match values.is_empty() {
        true => "(NULL)".to_owned(),
        false => format!("({})", values.join(", ")),
    };
    if let Some(uids) = &query.pod_uids {
        let uids = uids.iter().map(|uid| duck::quote(uid)).collect();
        sql.push_str(&format!(" AND e.pod_uid IN {}", list(uids)));
    }
    if !query.kinds.is_empty() {
        let kinds = query.kinds.iter().map(|kind| duck::quote(kind.as_str())).collect();
        sql.push_str(&format!(" AND e.kind IN {}", list(kinds)));
    }
    for (name, value) in &query.attributes {
        sql.push_str(&has(name, value));
    }
    sql
}

/// That `e` has this attribute with this value.
fn has(name: &str, value: &str) -> String {
    format!(" AND (e.attributes->>{}) = {}", duck::quote(&json_path(name)), duck::quote(value))
}

/// A member of an object, whatever characters its name has.
fn json_path(name: &str) -> String {
    format!("$.\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))
}
