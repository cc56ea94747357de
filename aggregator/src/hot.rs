//! The recent past in memory: what was committed is here at once, before it is in segments.
//!
//! [`Hot::commit`] takes rows from the writer in order of position; [`crate::memory::recall`] asks here first
//! and in segments for what is older. It is bounded in rows and in bytes: the rows committed first leave first,
//! so whatever is missing here was committed before everything that is here.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use aftertrace_model::{Edge, Event, EventId, Gap, Kind, ObjectVersion, Timestamp};
use uuid::Uuid;

use crate::query::FactQuery;
use crate::writer::Committed;

/// Most rows held: with rows of 1 KiB about 100 MiB. A guess; measured rows are smaller.
pub const ROWS_MAX: usize = 100_000;

/// Most bytes that these rows take by their own count: rows with a minute of samples are ten times as large.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;

/// What a row takes beside its own bytes: its places in the indexes. A guess.
const ROW_BYTES: usize = 256;

/// How much earlier than the time it is about a row may be recorded: ingest takes facts that lie up to an
/// hour ahead, and an edge may be recorded up to half a minute before a fact of its own that was held back.
pub const RECORDED_EARLY_US_MAX: i64 = 3_700_000_000;

/// How current an answer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AsOf {
    /// Frames made durable so far.
    pub wal_position: u64,
    /// When the last of them was recorded.
    pub recorded_at: Option<Timestamp>,
}

/// The recent past. One writer commits, many readers ask; no lock outlives a call.
#[derive(Debug)]
pub struct Hot {
    rows_max: usize,
    bytes_max: usize,
    graph: RwLock<Graph>,
}

/// What identifies an edge.
type EdgeId = (EventId, EventId, String);

/// Kind in lower case, namespace, name.
type ObjectId = (String, String, String);

#[derive(Debug, Default)]
struct Graph {
    as_of: AsOf,
    events: HashMap<EventId, Held>,
    /// By namespace, and by namespace and pod.
    by_namespace: HashMap<String, BTreeSet<(Timestamp, EventId)>>,
    by_pod: HashMap<(String, String), BTreeSet<(Timestamp, EventId)>>,
    by_kind: HashMap<Kind, BTreeSet<(Timestamp, EventId)>>,
    edges: HashMap<EdgeId, Arc<Edge>>,
    /// Edges by cause and by effect.
    touching: HashMap<EventId, Vec<EdgeId>>,
    /// Edges that no longer hold; segments may have them still.
    retracted: HashSet<EdgeId>,
    objects: HashMap<ObjectId, Vec<Arc<ObjectVersion>>>,
    gaps: HashMap<Uuid, Arc<Gap>>,
    /// Every row, first committed first.
    order: VecDeque<Placed>,
    /// What they take.
    bytes: usize,
    /// Whatever was recorded after this is here; `None` if everything is.
    whole_since: Option<Timestamp>,
    /// When the frame that is being committed was recorded.
    recording: Timestamp,
}

#[derive(Clone, Debug)]
struct Held {
    event: Arc<Event>,
    position: u64,
}

/// A row's place in the order of commit.
#[derive(Debug)]
struct Placed {
    /// When its frame was recorded.
    recorded_at: Timestamp,
    bytes: usize,
    row: Row,
}

#[derive(Debug)]
enum Row {
    Event(EventId),
    Edge(EdgeId),
    Retraction(EdgeId),
    Object(ObjectId),
    Gap(Uuid),
}

/// The namespace that a fact belongs to: its pod's, or else its object's.
#[must_use]
pub fn namespace_of(event: &Event) -> Option<&str> {
    let pod = event.pod.as_ref().map(|p| p.namespace.as_str());
    pod.or_else(|| event.object.as_ref().map(|o| o.namespace.as_str())).filter(|n| !n.is_empty())
}

impl Default for Hot {
    fn default() -> Self {
        Self::new(ROWS_MAX, BYTES_MAX)
    }
}

impl Hot {
    /// An empty memory of at most `rows_max` rows and `bytes_max` bytes; the row committed last always fits.
    #[must_use]
    pub fn new(rows_max: usize, bytes_max: usize) -> Self {
        Self { rows_max: rows_max.max(1), bytes_max, graph: RwLock::default() }
    }

    /// Takes what was made durable together.
    pub fn commit(&self, committed: &Committed) {
        let mut graph = self.graph.write().unwrap_or_else(PoisonError::into_inner);
        graph.recording = committed.recorded_at;
        for event in &committed.events {
            graph.add_event(event, committed.wal_position);
        }
        for edge in &committed.edges {
            graph.add_edge(edge);
        }
        // Behind the edges: what was chosen and outdone within one commit does not stand.
        for r in &committed.retractions {
            let id = (r.cause_id, r.effect_id, r.rule_id.clone());
            graph.remove_edge(&id);
            graph.retracted.insert(id.clone());
            graph.push(0, Row::Retraction(id));
        }
        for object in &committed.objects {
            graph.add_object(object);
        }
        for gap in &committed.gaps {
            if graph.gaps.insert(gap.gap_id, Arc::new(gap.clone())).is_none() {
                graph.push(gap.approximate_bytes(), Row::Gap(gap.gap_id));
            }
        }
        while graph.order.len() > self.rows_max || (graph.bytes > self.bytes_max && graph.order.len() > 1) {
            graph.drop_first();
        }
        graph.as_of = AsOf { wal_position: committed.wal_position, recorded_at: Some(committed.recorded_at) };
    }

    /// Says that segments hold rows from before `since` that are not here.
    pub fn begins_at(&self, since: Timestamp) {
        let mut graph = self.graph.write().unwrap_or_else(PoisonError::into_inner);
        graph.whole_since = graph.whole_since.max(Some(since));
    }

    /// Whether every row about the time from `at` on is here, so that segments need not be asked.
    ///
    /// A row is recorded at most [`RECORDED_EARLY_US_MAX`] before the time it is about; whatever is about a
    /// later time than that after the oldest missing row was recorded is therefore here.
    #[must_use]
    pub fn covers(&self, at: Timestamp) -> bool {
        at >= self.covered_from()
    }

    /// The earliest time that [`Hot::covers`].
    #[must_use]
    pub fn covered_from(&self) -> Timestamp {
        let missing = self.read().whole_since;
        missing.map_or(Timestamp::default(), |since| since.plus_micros(RECORDED_EARLY_US_MAX + 1))
    }

    /// Up to where rows were committed.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        self.read().as_of
    }

    /// The event of that id.
    #[must_use]
    pub fn event(&self, id: EventId) -> Option<Arc<Event>> {
        self.read().events.get(&id).map(|held| Arc::clone(&held.event))
    }

    /// The facts asked for: the latest `limit`, oldest first.
    #[must_use]
    pub fn facts(&self, query: &FactQuery) -> Vec<Arc<Event>> {
        if query.since > query.until {
            return Vec::new();
        }
        let graph = self.read();
        let mut events = match (&query.namespace, &query.pod) {
            (Some(namespace), Some(pod)) => {
                graph.latest(graph.by_pod.get(&(namespace.clone(), pod.clone())), query)
            }
            (Some(namespace), None) => graph.latest(graph.by_namespace.get(namespace), query),
            (None, _) => {
                let of_kinds = graph
                    .by_kind
                    .iter()
                    .filter(|(kind, _)| query.kinds.is_empty() || query.kinds.contains(kind));
                of_kinds.flat_map(|(_, index)| graph.latest(Some(index), query)).collect()
            }
        };
        events.sort_by_key(|e| (e.occurred.at, e.event_id));
        let surplus = events.len().saturating_sub(query.limit);
        events.split_off(surplus)
    }

    /// Live edges whose cause or effect is one of these, each once.
    #[must_use]
    pub fn edges_touching(&self, ids: &[EventId]) -> Vec<Arc<Edge>> {
        let graph = self.read();
        let ids: HashSet<_> = ids.iter().filter_map(|id| graph.touching.get(id)).flatten().collect();
        ids.into_iter().filter_map(|id| graph.edges.get(id)).cloned().collect()
    }

    /// Whether the edge was retracted.
    #[must_use]
    pub fn is_retracted(&self, edge: &Edge) -> bool {
        self.read().retracted.contains(&(edge.cause_id, edge.effect_id, edge.rule_id.clone()))
    }

    /// Events of a kind since an instant that were committed after `position`, newest first.
    #[must_use]
    pub fn of_kind_after(&self, kind: Kind, since: Timestamp, position: u64) -> Vec<Arc<Event>> {
        let graph = self.read();
        let Some(index) = graph.by_kind.get(&kind) else { return Vec::new() };
        let from = (since, EventId(Uuid::nil()));
        let held = index.range(from..).rev().filter_map(|(_, id)| graph.events.get(id));
        held.filter(|held| held.position > position).map(|held| Arc::clone(&held.event)).collect()
    }

    /// The versions of one object that are here, by `valid_from`; kind in any case of letters.
    #[must_use]
    pub fn versions(&self, kind: &str, namespace: &str, name: &str) -> Vec<Arc<ObjectVersion>> {
        let id = (kind.to_ascii_lowercase(), namespace.to_owned(), name.to_owned());
        self.read().objects.get(&id).cloned().unwrap_or_default()
    }

    /// The last version here of each object of a kind, deleted ones included.
    #[must_use]
    pub fn last_versions(&self, kind: &str) -> Vec<Arc<ObjectVersion>> {
        let graph = self.read();
        let of_kind = graph.objects.iter().filter(|((k, _, _), _)| k.eq_ignore_ascii_case(kind));
        of_kind.filter_map(|(_, versions)| versions.last().cloned()).collect()
    }

    /// Gaps that overlap the closed interval, in order of time; with a node, its own and the aggregator's.
    #[must_use]
    pub fn gaps_between(&self, from: Timestamp, to: Timestamp, node: Option<&str>) -> Vec<Arc<Gap>> {
        let concerns = |gap: &Gap| node.is_none() || gap.node.is_none() || gap.node.as_deref() == node;
        let graph = self.read();
        let mut gaps: Vec<_> =
            graph.gaps.values().filter(|gap| gap.overlaps(from, to) && concerns(gap)).cloned().collect();
        gaps.sort_by_key(|gap| (gap.from, gap.gap_id));
        gaps
    }

    fn read(&self) -> RwLockReadGuard<'_, Graph> {
        // A panic while committing leaves a row half indexed at worst; every lookup tolerates that.
        self.graph.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Graph {
    /// What an index has of the facts asked for, newest first.
    fn latest(&self, index: Option<&BTreeSet<(Timestamp, EventId)>>, query: &FactQuery) -> Vec<Arc<Event>> {
        let range = (query.since, EventId(Uuid::nil()))..=(query.until, EventId(Uuid::max()));
        let ids = index.into_iter().flat_map(|index| index.range(range.clone()).rev());
        let events = ids.filter_map(|(_, id)| self.events.get(id)).map(|held| &held.event);
        events.filter(|event| query.matches(event)).take(query.limit).cloned().collect()
    }

    fn add_event(&mut self, event: &Arc<Event>, position: u64) {
        let id = event.event_id;
        if self.events.insert(id, Held { event: Arc::clone(event), position }).is_some() {
            return;
        }
        let place = (event.occurred.at, id);
        if let Some(namespace) = namespace_of(event) {
            self.by_namespace.entry(namespace.to_owned()).or_default().insert(place);
        }
        if let Some(pod) = &event.pod {
            self.by_pod.entry((pod.namespace.clone(), pod.name.clone())).or_default().insert(place);
        }
        self.by_kind.entry(event.kind).or_default().insert(place);
        self.push(event.approximate_bytes(), Row::Event(id));
    }

    fn add_edge(&mut self, edge: &Edge) {
        let id: EdgeId = (edge.cause_id, edge.effect_id, edge.rule_id.clone());
        self.retracted.remove(&id);
        if self.edges.insert(id.clone(), Arc::new(edge.clone())).is_some() {
            return;
        }
        for end in [edge.cause_id, edge.effect_id] {
            self.touching.entry(end).or_default().push(id.clone());
        }
        self.push(edge.approximate_bytes(), Row::Edge(id));
    }

    fn remove_edge(&mut self, id: &EdgeId) {
        if self.edges.remove(id).is_none() {
            return;
        }
        for end in [id.0, id.1] {
            if let Some(ids) = self.touching.get_mut(&end) {
                ids.retain(|other| other != id);
                if ids.is_empty() {
                    self.touching.remove(&end);
                }
            }
        }
    }

    fn add_object(&mut self, object: &ObjectVersion) {
        let id: ObjectId = (object.kind.to_ascii_lowercase(), object.namespace.clone(), object.name.clone());
        let versions = self.objects.entry(id.clone()).or_default();
        // Stable: of two versions with one time the later committed is in force.
        let place = versions.partition_point(|v| v.valid_from <= object.valid_from);
        versions.insert(place, Arc::new(object.clone()));
        self.push(object.approximate_bytes(), Row::Object(id));
    }

    fn push(&mut self, bytes: usize, row: Row) {
        let bytes = bytes + ROW_BYTES;
        self.bytes += bytes;
        self.order.push_back(Placed { recorded_at: self.recording, bytes, row });
    }

    fn drop_first(&mut self) {
        let Some(Placed { recorded_at, bytes, row }) = self.order.pop_front() else { return };
        self.bytes -= bytes;
        self.whole_since = self.whole_since.max(Some(recorded_at));
        match row {
            Row::Event(id) => self.drop_event(id),
            Row::Edge(id) => self.remove_edge(&id),
            Row::Retraction(id) => {
                self.retracted.remove(&id);
            }
            Row::Object(id) => {
                if let Some(versions) = self.objects.get_mut(&id) {
                    versions.remove(0);
                    if versions.is_empty() {
                        self.objects.remove(&id);
                    }
                }
            }
            Row::Gap(id) => {
                self.gaps.remove(&id);
            }
        }
    }

    fn drop_event(&mut self, id: EventId) {
        let Some(Held { event, .. }) = self.events.remove(&id) else { return };
        let place = (event.occurred.at, id);
        if let Some(namespace) = namespace_of(&event) {
            remove_place(&mut self.by_namespace, &namespace.to_owned(), &place);
        }
        if let Some(pod) = &event.pod {
            remove_place(&mut self.by_pod, &(pod.namespace.clone(), pod.name.clone()), &place);
        }
        remove_place(&mut self.by_kind, &event.kind, &place);
    }
}

fn remove_place<K: Eq + std::hash::Hash>(
    index: &mut HashMap<K, BTreeSet<(Timestamp, EventId)>>,
    key: &K,
    place: &(Timestamp, EventId),
) {
    if let Some(places) = index.get_mut(key) {
        places.remove(place);
        if places.is_empty() {
            index.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
