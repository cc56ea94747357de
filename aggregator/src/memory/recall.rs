//! The recent past and the segments as one memory.
//!
//! What is in both is told once, and the recent past wins: it alone knows the latest retractions. Reading
//! segments blocks, so these run on threads for blocking work (see [`crate::store::Reader::run`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use aftertrace_model::{Edge, Event, EventId, Gap, ObjectVersion, Timestamp, attribute};

use crate::hot::{AsOf, Hot};
use crate::query::FactQuery;
use crate::store::{AnchorGroup, AnchorQuery, Anchors, ObjectAt, Reader, StoreError};
use crate::watch::WatchHealth;

/// Times that a count is begun again because a flush moved rows meanwhile. A flush comes once a second.
const COUNT_TRIES_MAX: usize = 5;

/// What is remembered.
#[derive(Clone, Debug)]
pub struct Recall {
    /// The recent past.
    pub hot: Arc<Hot>,
    /// The segments.
    pub reader: Reader,
    /// Outages that are not over.
    pub health: Arc<WatchHealth>,
}

impl Recall {
    /// Everything up to here is in an answer that is begun now.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        self.hot.as_of()
    }

    /// The events of those ids that are remembered, by id.
    ///
    /// # Errors
    /// [`StoreError`] where segments cannot be read.
    pub fn events(&self, ids: &[EventId]) -> Result<HashMap<EventId, Arc<Event>>, StoreError> {
        let mut found: HashMap<_, _> =
            ids.iter().filter_map(|id| Some((*id, self.hot.event(*id)?))).collect();
        let older: Vec<_> = ids.iter().filter(|id| !found.contains_key(id)).copied().collect();
        if !older.is_empty() {
            let events = self.reader.events_by_id(&older)?;
            found.extend(events.into_iter().map(|event| (event.event_id, Arc::new(event))));
        }
        Ok(found)
    }

    /// The events of those ids that are in memory, and the ids that segments may have: of a time that is not all
    /// in memory. Blocks nobody.
    #[must_use]
    pub fn recent_events(&self, ids: &[EventId]) -> (HashMap<EventId, Arc<Event>>, Vec<EventId>) {
        let covered_from = self.hot.covered_from();
        let mut found = HashMap::new();
        let mut older = Vec::new();
        for id in ids {
            match self.hot.event(*id) {
                Some(event) => {
                    found.insert(*id, event);
                }
                // An id begins with the fact's first time, which is not later than its time.
                None if id.unix_ms().saturating_mul(1_000) < covered_from.as_micros() => older.push(*id),
                None => {}
            }
        }
        (found, older)
    }

    /// Live edges whose cause or effect is one of these, each once.
    ///
    /// # Errors
    /// As [`Recall::events`].
    pub fn edges_touching(&self, ids: &[EventId]) -> Result<Vec<Arc<Edge>>, StoreError> {
        // An edge is recorded with its later fact, so a fact that was recorded in the time that is all here
        // has all its edges here.
        let is_recent = |id: &EventId| {
            self.hot.event(*id).and_then(|e| e.recorded_at).is_some_and(|at| self.hot.covers(at))
        };
        let asked: Vec<_> = ids.iter().filter(|id| !is_recent(id)).copied().collect();
        // Segments first: an edge that leaves the recent past in between has been seen in them.
        let older = if asked.is_empty() { Vec::new() } else { self.reader.edges_touching(&asked)? };
        let mut edges = self.hot.edges_touching(ids);
        let known: HashSet<_> = edges.iter().map(|e| (e.cause_id, e.effect_id, e.rule_id.clone())).collect();
        let older = older.into_iter().filter(|e| {
            !known.contains(&(e.cause_id, e.effect_id, e.rule_id.clone())) && !self.hot.is_retracted(e)
        });
        edges.extend(older.map(Arc::new));
        edges.sort_by(|a, b| {
            let key = |e: &Edge| (e.effect_occurred_at, e.effect_id, e.cause_occurred_at, e.cause_id);
            key(a).cmp(&key(b)).then_with(|| a.rule_id.cmp(&b.rule_id))
        });
        Ok(edges)
    }

    /// The facts asked for: the latest `limit`, oldest first.
    ///
    /// # Errors
    /// As [`Recall::events`].
    pub fn facts(&self, query: &FactQuery) -> Result<Vec<Arc<Event>>, StoreError> {
        let older = match self.hot.covers(query.since) {
            true => Vec::new(),
            false => self.reader.facts(query)?,
        };
        let recent = self.hot.facts(query);
        let mut by_time: BTreeMap<(Timestamp, EventId), Arc<Event>> =
            older.into_iter().map(|e| ((e.occurred.at, e.event_id), Arc::new(e))).collect();
        by_time.extend(recent.into_iter().map(|e| ((e.occurred.at, e.event_id), e)));
        let surplus = by_time.len().saturating_sub(query.limit);
        Ok(by_time.into_values().skip(surplus).collect())
    }

    /// Gaps that overlap the closed interval, in order of time; with a node, its own and the aggregator's.
    /// Outages that go on are among them.
    ///
    /// # Errors
    /// As [`Recall::events`].
    pub fn gaps_between(
        &self,
        from: Timestamp,
        to: Timestamp,
        node: Option<&str>,
        now: Timestamp,
    ) -> Result<Vec<Gap>, StoreError> {
        let mut by_id: BTreeMap<_, Gap> = self
            .health
            .open_gaps(now)
            .into_iter()
            .filter(|g| g.overlaps(from, to))
            .map(|g| (g.gap_id, g))
            .collect();
        if !self.hot.covers(from) {
            by_id.extend(self.reader.gaps_between(from, to, node)?.into_iter().map(|g| (g.gap_id, g)));
        }
        by_id.extend(self.hot.gaps_between(from, to, node).iter().map(|g| (g.gap_id, Gap::clone(g))));
        let mut gaps: Vec<_> = by_id.into_values().collect();
        gaps.sort_by_key(|gap| (gap.from, gap.gap_id));
        Ok(gaps)
    }

    /// The version of an object in force at `at`; kind in any case of letters.
    ///
    /// # Errors
    /// As [`Recall::events`].
    pub fn object_at(
        &self,
        kind: &str,
        namespace: &str,
        name: &str,
        at: Timestamp,
    ) -> Result<Option<ObjectAt>, StoreError> {
        let older = self.reader.object_at(kind, namespace, name, at)?;
        Ok(object_at(older, &self.hot.versions(kind, namespace, name), at))
    }

    /// Occurrences of an anchor kind.
    ///
    /// # Errors
    /// As [`Recall::events`].
    pub fn anchors(&self, query: &AnchorQuery) -> Result<Anchors, StoreError> {
        let mut tries = 0;
        let (position, older) = loop {
            let position = self.reader.as_of();
            let older = self.reader.anchors(query)?;
            tries += 1;
            if self.reader.as_of() == position || tries == COUNT_TRIES_MAX {
                break (position, older);
            }
        };
        let recent = self.hot.of_kind_after(query.kind, query.since, position);
        Ok(add_anchors(older, recent.into_iter().filter(|e| matches(query, e)), query.limit))
    }
}

fn matches(query: &AnchorQuery, event: &Event) -> bool {
    let is = |wanted: &Option<String>, value: Option<&str>| wanted.is_none() || wanted.as_deref() == value;
    is(&query.namespace, crate::hot::namespace_of(event))
        && is(&query.workload, event.workload.as_ref().map(|w| w.name.as_str()))
        && is(&query.pod, event.pod.as_ref().map(|p| p.name.as_str()))
        && query.with.is_none_or(|(name, value)| attribute::text(event, name) == Some(value))
}

/// Adds occurrences that are not in segments yet to what segments count.
fn add_anchors(mut anchors: Anchors, recent: impl Iterator<Item = Arc<Event>>, limit: usize) -> Anchors {
    for event in recent {
        anchors.total += 1;
        let workload = match (&event.workload, &event.pod, &event.node) {
            (Some(workload), ..) => format!("{}/{}", workload.kind, workload.name),
            (None, Some(pod), _) => format!("Pod/{}", pod.name),
            (None, None, Some(node)) => format!("Node/{node}"),
            (None, None, None) => String::new(),
        };
        let namespace = crate::hot::namespace_of(&event).unwrap_or_default().to_owned();
        let at = event.occurred.at;
        match anchors.groups.iter_mut().find(|g| g.namespace == namespace && g.workload == workload) {
            Some(group) => {
                group.count += 1;
                group.first = group.first.min(at);
                group.last = group.last.max(at);
            }
            None => anchors.groups.push(AnchorGroup { namespace, workload, count: 1, first: at, last: at }),
        }
        anchors.events.push(Event::clone(&event));
    }
    anchors.events.sort_by_key(|e| std::cmp::Reverse((e.occurred.at, e.event_id)));
    anchors.events.truncate(limit);
    anchors.groups.sort_by(|a, b| {
        b.count.cmp(&a.count).then_with(|| (&a.namespace, &a.workload).cmp(&(&b.namespace, &b.workload)))
    });
    anchors
}

/// The version in force at `at`, from what segments say of that time and the recent versions.
fn object_at(older: Option<ObjectAt>, recent: &[Arc<ObjectVersion>], at: Timestamp) -> Option<ObjectAt> {
    let in_force = recent.iter().rev().find(|v| v.valid_from <= at);
    let next = recent.iter().find(|v| v.valid_from > at).map(|v| v.valid_from);
    let earliest = |a: Option<Timestamp>, b: Option<Timestamp>| a.into_iter().chain(b).min();
    match (older, in_force) {
        (Some(older), Some(recent)) if older.version.valid_from > recent.valid_from => {
            Some(ObjectAt { valid_to: earliest(older.valid_to, next), ..older })
        }
        (older, Some(recent)) => {
            let later = older.and_then(|o| o.valid_to).filter(|to| *to > at);
            Some(ObjectAt { version: ObjectVersion::clone(recent), valid_to: earliest(later, next) })
        }
        (Some(older), None) => Some(ObjectAt { valid_to: earliest(older.valid_to, next), ..older }),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(s: i64) -> Timestamp {
        Timestamp::from_micros(s * 1_000_000)
    }

    fn version(second: i64, rv: &str) -> ObjectVersion {
        ObjectVersion {
            cluster: "c".to_owned(),
            kind: "ConfigMap".to_owned(),
            namespace: "shop".to_owned(),
            name: "app".to_owned(),
            uid: "u".to_owned(),
            resource_version: rv.to_owned(),
            valid_from: at(second),
            deleted: false,
            state: "{}".to_owned(),
            content: None,
            changed_paths: Vec::new(),
            recorded_at: None,
        }
    }

    fn check(
        older: Option<(i64, &str, Option<i64>)>,
        recent: &[(i64, &str)],
        second: i64,
        expected: Option<(&str, Option<i64>)>,
    ) {
        let older = older.map(|(from, rv, to)| ObjectAt { version: version(from, rv), valid_to: to.map(at) });
        let recent: Vec<_> = recent.iter().map(|(s, rv)| Arc::new(version(*s, rv))).collect();
        let found = object_at(older, &recent, at(second));
        let found = found.as_ref().map(|o| (o.version.resource_version.as_str(), o.valid_to));
        assert_eq!(found, expected.map(|(rv, to)| (rv, to.map(at))));
    }

    #[test]
    fn the_version_in_force_is_the_last_before_that_time_wherever_it_lies() {
        check(None, &[], 5, None);
        check(None, &[(10, "b")], 5, None);
        check(None, &[(10, "b")], 10, Some(("b", None)));
        check(Some((1, "a", None)), &[(10, "b")], 5, Some(("a", Some(10))));
        check(Some((1, "a", None)), &[(10, "b"), (20, "c")], 15, Some(("b", Some(20))));
        check(Some((1, "a", Some(10))), &[(10, "b")], 12, Some(("b", None)));
        check(Some((12, "x", None)), &[(10, "b")], 13, Some(("x", None)));
    }
}
