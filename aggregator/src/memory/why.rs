//! `Why`: the causal graph of a fact, the gaps in its window, and where there is no cause, exactly why not.
//!
//! For a pod the fact is its newest failure: an `oom_kill`, a `process_killed` by SIGKILL or a
//! `container_terminated` of severity error; the rest of the chain is found from any of them. Only a pod without
//! a failure is asked about its newest trouble (`config_stale`, a SIGTERM, a process that ended by a signal), and
//! only one without either about its newest `config_swapped`: who asks why about a pod that failed wants the
//! failure, however often its volumes were swapped since.

use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_model::{Event, EventId, Gap, Kind, Severity, Timestamp, attribute, pattern};
use uuid::Uuid;

use super::error::{AskError, name};
use super::recall::Recall;
use super::{as_of, chain, no_cause};
use crate::agents::Agents;
use crate::clock::AHEAD_US_MAX;
use crate::query::FactQuery;

const DEPTH_DEFAULT: u32 = 8;
const DEPTH_MAX: u32 = 64;

/// How long before the first cause gaps matter: the window in which precursors count.
const BEFORE_US: i64 = 60_000_000;

/// Events of a pod among which its newest failure is looked for.
const PAGE_EVENTS: usize = 256;

/// Pages looked through before a pod counts as one that never failed: 16,384 events.
const PAGES_MAX: usize = 64;

/// Answers a `WhyRequest`.
///
/// # Errors
/// [`AskError::Malformed`] for a bad name or id, [`AskError::Unknown`] for a pod or event that was never seen.
pub(super) fn answer(
    recall: &Recall,
    agents: &Agents,
    request: &proto::WhyRequest,
    now: Timestamp,
) -> Result<proto::WhyResponse, AskError> {
    let depth_max = match request.depth_max {
        0 => DEPTH_DEFAULT,
        depth => depth.min(DEPTH_MAX),
    };
    let current = as_of(recall);
    let anchor = if request.event_id.is_empty() {
        name("namespace", &request.namespace)?;
        name("pod", &request.pod)?;
        match pod_anchor(recall, &request.namespace, &request.pod, now)? {
            Some(anchor) => anchor,
            None => return nothing_failed(recall, request, current, now),
        }
    } else {
        event_anchor(recall, &request.event_id)?
    };
    let chain = chain::around(anchor.event_id, depth_max, |ids| recall.edges_touching(ids))?;
    let mut ids: Vec<EventId> = chain.edges.iter().flat_map(|e| [e.cause_id, e.effect_id]).collect();
    ids.push(anchor.event_id);
    ids.sort_unstable();
    ids.dedup();
    let mut events: Vec<Arc<Event>> = recall.events(&ids)?.into_values().collect();
    events.sort_by_key(|e| (e.occurred.at, e.event_id));
    let first = events.iter().map(|e| e.occurred.earliest).min().unwrap_or(anchor.occurred.earliest);
    let last = events.iter().map(|e| e.occurred.latest).max().unwrap_or(anchor.occurred.latest);
    let node = anchor.node.as_deref();
    let gaps = recall.gaps_between(first.plus_micros(-BEFORE_US), last, node, now)?;
    let no_cause_because = match chain.has_cause {
        true => String::new(),
        false => no_cause::because(&anchor, &gaps, agents, &recall.health.status()),
    };
    let patterns: std::collections::BTreeSet<_> = chain.edges.iter().map(|e| e.pattern.as_str()).collect();
    // Rules of one pattern go on in chains of another: a restart after any end is joined by a rule of P001.
    let is_there = |p: &&pattern::Pattern| events.iter().any(|e| e.kind == p.anchor);
    let remediation =
        patterns.into_iter().filter_map(pattern::by_id).filter(is_there).flat_map(|p| p.remediation);
    Ok(proto::WhyResponse {
        as_of: Some(current),
        anchor_id: anchor.event_id.0.as_bytes().to_vec(),
        events: events.iter().map(|e| e.as_ref().into()).collect(),
        edges: chain.edges.iter().map(|e| e.as_ref().into()).collect(),
        gaps: gaps.iter().map(Into::into).collect(),
        no_cause_because,
        remediation: remediation.map(|r| (*r).to_owned()).collect(),
    })
}

fn event_anchor(recall: &Recall, id: &[u8]) -> Result<Arc<Event>, AskError> {
    let id = Uuid::from_slice(id).map(EventId).map_err(|_| AskError::Malformed {
        field: "event_id",
        problem: format!("has {} bytes; an id has 16", id.len()),
    })?;
    recall.events(&[id])?.remove(&id).ok_or_else(|| AskError::Unknown {
        what: format!("event {id}"),
        remedy: "check the id; `aft timeline` lists events with theirs".to_owned(),
    })
}

/// The newest fact of the surest sort of a pod of that name. What is all in memory is looked through first: a
/// failure there is the newest without asking segments.
fn pod_anchor(
    recall: &Recall,
    namespace: &str,
    pod: &str,
    now: Timestamp,
) -> Result<Option<Arc<Event>>, AskError> {
    let recent = newest(recall, namespace, pod, recall.hot.covered_from(), now)?;
    if let Some((Sort::Failure, anchor)) = recent {
        return Ok(Some(anchor));
    }
    let all = newest(recall, namespace, pod, Timestamp::default(), now)?;
    Ok(all.map(|(_, anchor)| anchor))
}

/// What a fact is to whoever asks about its pod, the one to start from last. The SQL macro `why` sorts alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    /// A volume shows something new.
    Swap,
    /// Something is not as it should be, or a process ended by a signal; no container's end says more.
    Trouble,
    /// Something was killed or ended badly.
    Failure,
}

/// The newest of a pod's facts of the highest sort.
fn newest(
    recall: &Recall,
    namespace: &str,
    pod: &str,
    since: Timestamp,
    now: Timestamp,
) -> Result<Option<(Sort, Arc<Event>)>, AskError> {
    let mut found: Option<(Sort, Arc<Event>)> = None;
    // Facts may be up to an hour ahead of our clock.
    let mut until = now.plus_micros(AHEAD_US_MAX);
    for _ in 0..PAGES_MAX {
        let query = FactQuery {
            kinds: ANCHOR_KINDS.to_vec(),
            ..FactQuery::of_pod(namespace, Some(pod), since, until, PAGE_EVENTS)
        };
        let page = recall.facts(&query)?;
        for event in page.iter().rev() {
            let Some(sort) = sort(event) else { continue };
            if found.as_ref().is_none_or(|best| rank(best) < rank(&(sort, Arc::clone(event)))) {
                found = Some((sort, Arc::clone(event)));
            }
        }
        let is_failure = matches!(found, Some((Sort::Failure, _)));
        match page.first() {
            Some(first) if !is_failure && page.len() == PAGE_EVENTS => {
                until = first.occurred.at.plus_micros(-1);
            }
            _ => break,
        }
    }
    Ok(found)
}

/// By the last instant: the end of a container, floored to its second, is not before the kill that it shows, and
/// is the better one to start from, because the kill stands above it.
fn rank((sort, event): &(Sort, Arc<Event>)) -> (Sort, Timestamp, Timestamp, EventId) {
    (*sort, event.occurred.latest, event.occurred.at, event.event_id)
}

/// The kinds that [`sort`] knows.
const ANCHOR_KINDS: &[Kind] = &[
    Kind::OomKill,
    Kind::ContainerTerminated,
    Kind::ProcessKilled,
    Kind::ProcessExited,
    Kind::ConfigStale,
    Kind::ConfigSwapped,
];

/// SIGTERM asks; what it is answered with is told by the end of the container. SIGKILL is an end.
fn sort(event: &Event) -> Option<Sort> {
    match event.kind {
        Kind::OomKill => Some(Sort::Failure),
        Kind::ContainerTerminated => (event.severity == Severity::Error).then_some(Sort::Failure),
        Kind::ProcessKilled => {
            let result = attribute::text(event, attribute::SIGNAL_RESULT);
            let is_kill = event.reason.as_deref() == Some("SIGKILL");
            (result == Some(attribute::SIGNAL_DELIVERED)).then_some(if is_kill {
                Sort::Failure
            } else {
                Sort::Trouble
            })
        }
        // One that never read the files before may never need them.
        Kind::ConfigStale => (event.severity > Severity::Info).then_some(Sort::Trouble),
        Kind::ProcessExited => {
            let by_signal = attribute::number(event, attribute::EXIT_SIGNAL).is_some();
            (by_signal && event.episode_id.is_none()).then_some(Sort::Trouble)
        }
        Kind::ConfigSwapped => Some(Sort::Swap),
        _ => None,
    }
}

/// Answers for a pod without an anchor: known and well, or never seen.
fn nothing_failed(
    recall: &Recall,
    request: &proto::WhyRequest,
    current: proto::AsOf,
    now: Timestamp,
) -> Result<proto::WhyResponse, AskError> {
    let (namespace, pod) = (request.namespace.as_str(), request.pod.as_str());
    let far = now.plus_micros(AHEAD_US_MAX);
    let object = recall.object_at("Pod", namespace, pod, far)?;
    let events = recall.facts(&FactQuery::of_pod(namespace, Some(pod), Timestamp::default(), far, 1))?;
    let since = match (&object, events.first()) {
        (None, None) => {
            let watch = match recall.health.status().get("pods").map(String::as_str) {
                Some("ok") => String::new(),
                Some(why) => format!("; the watch of pods is {why}"),
                None => "; pods are not watched (--no-watch), so only pods that agents told of are known"
                    .to_owned(),
            };
            return Err(AskError::Unknown {
                what: format!("pod {namespace}/{pod}"),
                remedy: format!(
                    "neither the watch nor any agent ever told of it; check name and namespace \
                     (`aft timeline -n {namespace}` shows what is known there){watch}"
                ),
            });
        }
        (Some(object), _) => object.version.valid_from,
        (None, Some(event)) => event.occurred.at,
    };
    let gaps: Vec<Gap> = recall.gaps_between(since.min(now), now, None, now)?;
    Ok(proto::WhyResponse {
        as_of: Some(current),
        no_cause_because: format!(
            "no failure and no swap of pod {namespace}/{pod} is recorded; it is known, last by a fact of {since}"
        ),
        gaps: gaps.iter().map(Into::into).collect(),
        ..proto::WhyResponse::default()
    })
}
