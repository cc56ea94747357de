//! `Why`: the causal graph of a fact, the gaps in its window, and where there is no cause, exactly why not.
//!
//! For a pod the fact is its newest failure: an `oom_kill` or a `container_terminated` of severity error; the
//! rest of the chain is found from either. Only a pod without any failure is asked about its newest
//! `config_swapped`: who asks why about a pod that failed wants the failure, however often its volumes were
//! swapped since. The SQL macro `why` chooses alike.

use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_model::{Event, EventId, Gap, Kind, Severity, Timestamp, pattern};
use uuid::Uuid;

use super::error::{AskError, name};
use super::recall::Recall;
use super::{as_of, chain, no_cause};
use crate::agents::Agents;
use crate::clock::AHEAD_US_MAX;

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
    let remediation = patterns.into_iter().filter_map(pattern::by_id).flat_map(|p| p.remediation);
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

/// The newest failure of a pod of that name, or else its newest swap. What is all in memory is looked through
/// first: a failure there is the newest without asking segments.
fn pod_anchor(
    recall: &Recall,
    namespace: &str,
    pod: &str,
    now: Timestamp,
) -> Result<Option<Arc<Event>>, AskError> {
    let recent = newest(recall, namespace, pod, recall.hot.covered_from(), now)?;
    if recent.failure.is_some() {
        return Ok(recent.failure);
    }
    let all = newest(recall, namespace, pod, Timestamp::default(), now)?;
    Ok(all.failure.or(all.swap))
}

/// The newest facts of a pod that may be asked about.
#[derive(Default)]
struct Newest {
    failure: Option<Arc<Event>>,
    swap: Option<Arc<Event>>,
}

fn newest(
    recall: &Recall,
    namespace: &str,
    pod: &str,
    since: Timestamp,
    now: Timestamp,
) -> Result<Newest, AskError> {
    let mut found = Newest::default();
    // Facts may be up to an hour ahead of our clock.
    let mut until = now.plus_micros(AHEAD_US_MAX);
    for _ in 0..PAGES_MAX {
        let page = recall.pod_events(namespace, Some(pod), since, until, PAGE_EVENTS)?;
        found.failure = page.iter().rev().find(|e| is_failure(e)).cloned();
        found.swap =
            found.swap.or_else(|| page.iter().rev().find(|e| e.kind == Kind::ConfigSwapped).cloned());
        match page.first() {
            Some(first) if found.failure.is_none() && page.len() == PAGE_EVENTS => {
                until = first.occurred.at.plus_micros(-1);
            }
            _ => break,
        }
    }
    Ok(found)
}

/// Whether a fact is a failure.
fn is_failure(event: &Event) -> bool {
    match event.kind {
        Kind::OomKill => true,
        Kind::ContainerTerminated => event.severity == Severity::Error,
        _ => false,
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
    let events = recall.pod_events(namespace, Some(pod), Timestamp::default(), far, 1)?;
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
