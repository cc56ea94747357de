//! Which facts of stale configuration still stand: those that nothing has ended since.
//!
//! A `config_stale` or `config_watched` ends with a restart of the container, the deletion of the pod, a later
//! fact of the same sort, or a later read of the volume by the same container (a read is a fact only of what a
//! swap brought). One that names files ends once each of them was read or named again. A `subPath` mount ends
//! with the container only: no read can show what is never mounted. The SQL macro `stale_configs` says the same,
//! and a test compares the two.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aftertrace_model::{Event, Kind, Timestamp, attribute};

use super::recall::Recall;
use crate::clock::CALENDAR_US_MAX;
use crate::query::FactQuery;
use crate::store::StoreError;

/// The kinds that can stand or be ended.
pub(super) const KINDS: &[Kind] = &[Kind::ConfigStale, Kind::ConfigWatched];

/// The kinds that end them.
const ENDS: &[Kind] = &[
    Kind::ConfigStale,
    Kind::ConfigWatched,
    Kind::ConfigRead,
    Kind::ProcessStarted,
    Kind::ContainerStarted,
    Kind::ContainerTerminated,
    Kind::ObjectDeleted,
];

/// Most facts looked at on either side: beyond, the latest win and the answer says that it is cut short.
const FACTS_MAX: usize = 20_000;

/// How much earlier than what it ends a fact may seem to be: a status floors its time to a second, and a pod's
/// deletion is told by another clock.
const BEFORE_US: i64 = 60_000_000;

/// The facts asked for that still stand, oldest first, and whether some could not be looked at.
pub(super) fn facts(recall: &Recall, query: &FactQuery) -> Result<(Vec<Arc<Event>>, bool), StoreError> {
    let candidates = recall.facts(&FactQuery { limit: FACTS_MAX, ..query.clone() })?;
    let Some(first) = candidates.first() else { return Ok((Vec::new(), false)) };
    let pod_uids: BTreeSet<_> = candidates.iter().filter_map(|e| e.pod_uid().map(str::to_owned)).collect();
    let ends = recall.facts(&FactQuery {
        pod_uids: Some(pod_uids),
        kinds: ENDS.to_vec(),
        ..FactQuery::between(
            first.occurred.at.plus_micros(-BEFORE_US),
            Timestamp::from_micros(CALENDAR_US_MAX),
            FACTS_MAX,
        )
    })?;
    let is_cut = candidates.len() == FACTS_MAX || ends.len() == FACTS_MAX;
    let mut of_pod: BTreeMap<Option<&str>, Vec<&Event>> = BTreeMap::new();
    for end in &ends {
        of_pod.entry(end.pod_uid()).or_default().push(end);
    }
    let still = |fact: &&Arc<Event>| {
        let of_pod = fact.pod_uid().and_then(|uid| of_pod.get(&Some(uid)));
        stands(fact, of_pod.map_or(&[], Vec::as_slice))
    };
    Ok((candidates.iter().filter(still).cloned().collect(), is_cut))
}

/// Whether a fact stands after these facts of the same pod.
fn stands(fact: &Event, of_pod: &[&Event]) -> bool {
    let files: BTreeSet<_> = attribute::texts(fact, attribute::STALE_FILES).into_iter().collect();
    let mut open = files.clone();
    for end in of_pod {
        if ends_with(fact, end) {
            return false;
        }
        let Some(named) = takes_the_place(fact, end) else { continue };
        if files.is_empty() || named.is_empty() {
            return false;
        }
        open.retain(|file| !named.contains(file));
    }
    files.is_empty() || !open.is_empty()
}

/// Whether the container or pod of the fact ended.
fn ends_with(fact: &Event, end: &Event) -> bool {
    match end.kind {
        Kind::ContainerTerminated => fact.container_id.is_some() && fact.container_id == end.container_id,
        Kind::ProcessStarted | Kind::ContainerStarted => {
            let is_another = fact.container_id.is_some()
                && end.container_id.is_some()
                && fact.container_id != end.container_id;
            is_another
                && fact.container == end.container
                && fact
                    .restart_count
                    .zip(end.restart_count)
                    .map_or_else(|| is_later(fact, end), |(before, now)| now > before)
        }
        Kind::ObjectDeleted => true,
        _ => false,
    }
}

/// The files of which a later fact says something newer; an empty list stands for all of them.
fn takes_the_place<'a>(fact: &Event, end: &'a Event) -> Option<Vec<&'a str>> {
    let volume = |event| attribute::text(event, attribute::VOLUME_NAME);
    if volume(fact) != volume(end) || fact.container != end.container || !is_later(fact, end) {
        return None;
    }
    match end.kind {
        Kind::ConfigStale | Kind::ConfigWatched => {
            let is_same = end.kind == fact.kind
                && object(fact) == object(end)
                && fact.pid == end.pid
                && (fact.kind == Kind::ConfigStale || fact.reason == end.reason);
            is_same.then(|| attribute::texts(end, attribute::STALE_FILES))
        }
        Kind::ConfigRead => {
            let same_object = object(fact).zip(object(end)).is_none_or(|(a, b)| a == b);
            (same_object && fact.reason.as_deref() != Some("sub_path"))
                .then(|| attribute::text(end, attribute::FILE).into_iter().collect())
        }
        _ => None,
    }
}

fn is_later(fact: &Event, end: &Event) -> bool {
    (end.occurred.at, end.event_id) > (fact.occurred.at, fact.event_id)
}

fn object(event: &Event) -> Option<(&str, &str, &str)> {
    event.object.as_ref().map(|o| (o.kind.as_str(), o.namespace.as_str(), o.name.as_str()))
}

#[cfg(test)]
mod tests;
