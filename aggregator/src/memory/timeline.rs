//! `Timeline`: what happened to a pod, in a namespace, or of some kinds anywhere, in order.

use std::collections::BTreeSet;

use aftertrace_api::proto;
use aftertrace_model::{EventId, Kind, Timestamp};

use super::error::{AskError, limit, name, time};
use super::recall::Recall;
use super::{as_of, standing};
use crate::clock::AHEAD_US_MAX;
use crate::query::FactQuery;

const LIMIT_DEFAULT: u32 = 200;
const LIMIT_MAX: u32 = 10_000;
const WINDOW_DEFAULT_US: i64 = 24 * 3_600 * 1_000_000;

/// Most attributes in one question; nobody asks for more than a few.
const ATTRIBUTES_MAX: usize = 16;

/// Answers a `TimelineRequest`.
///
/// # Errors
/// [`AskError::Malformed`] for a question that names neither namespace nor kinds, a bad name or kind, or an
/// interval that ends before it begins.
pub(super) fn answer(
    recall: &Recall,
    request: &proto::TimelineRequest,
    now: Timestamp,
) -> Result<proto::TimelineResponse, AskError> {
    let limit = limit(request.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    // One more than asked for tells whether there were more.
    let query = query(request, now, limit + 1)?;
    let current = as_of(recall);
    let (mut events, is_cut) = match request.standing {
        true => standing::facts(recall, &query)?,
        false => (recall.facts(&query)?, false),
    };
    let surplus = events.len().saturating_sub(limit);
    events.drain(..surplus);
    let truncated = is_cut || surplus > 0;
    // What was left out by the limit is not asked about: the gaps are those of what is shown.
    let shown_from = match events.first() {
        Some(first) if truncated || request.standing => first.occurred.at,
        _ => query.since,
    };
    let gaps = recall.gaps_between(shown_from, query.until.min(now).max(shown_from), None, now)?;
    let nodes: BTreeSet<_> = events.iter().filter_map(|e| e.node.as_deref()).collect();
    let concerns = |gap: &&aftertrace_model::Gap| {
        query.pod.is_none() || gap.node.as_deref().is_none_or(|node| nodes.is_empty() || nodes.contains(node))
    };
    let edges = match request.with_edges {
        true => {
            let ids: Vec<EventId> = events.iter().map(|e| e.event_id).collect();
            recall.edges_touching(&ids)?
        }
        false => Vec::new(),
    };
    Ok(proto::TimelineResponse {
        as_of: Some(current),
        gaps: gaps.iter().filter(concerns).map(Into::into).collect(),
        events: events.iter().map(|e| e.as_ref().into()).collect(),
        edges: edges.iter().map(|e| e.as_ref().into()).collect(),
        truncated,
    })
}

/// The question, checked.
fn query(request: &proto::TimelineRequest, now: Timestamp, limit: usize) -> Result<FactQuery, AskError> {
    let mut kinds = request.kinds.iter().map(|kind| known(kind)).collect::<Result<Vec<_>, _>>()?;
    if request.standing {
        if let Some(other) = kinds.iter().find(|kind| !standing::KINDS.contains(kind)) {
            let problem = format!("has {other}, of which none stands; leave kinds out, or `standing`");
            return Err(AskError::Malformed { field: "kinds", problem });
        }
        if kinds.is_empty() {
            kinds = standing::KINDS.to_vec();
        }
    }
    let given = |field, value: &str| match value {
        "" => Ok(None),
        value => name(field, value).map(|()| Some(value.to_owned())),
    };
    if kinds.is_empty() || !request.pod.is_empty() {
        name("namespace", &request.namespace)?;
    }
    if request.attributes.len() > ATTRIBUTES_MAX {
        let problem = format!("has {}; the most is {ATTRIBUTES_MAX}", request.attributes.len());
        return Err(AskError::Malformed { field: "attributes", problem });
    }
    // A node whose clock is ahead has told facts of a time that is still to come here; they belong to now.
    let until = request.until_us.map_or(Ok(now.plus_micros(AHEAD_US_MAX)), |us| time("until", us))?;
    let from = match request.standing {
        true => Timestamp::default(),
        false => until.min(now).plus_micros(-WINDOW_DEFAULT_US),
    };
    let since = request.since_us.map_or(Ok(from), |us| time("since", us))?;
    if since > until {
        let problem = format!("is {since}, after until ({until})");
        return Err(AskError::Malformed { field: "since", problem });
    }
    Ok(FactQuery {
        namespace: given("namespace", &request.namespace)?,
        pod: given("pod", &request.pod)?,
        workload: given("workload", &request.workload)?,
        kinds,
        attributes: request.attributes.clone().into_iter().collect(),
        ..FactQuery::between(since, until, limit)
    })
}

fn known(kind: &str) -> Result<Kind, AskError> {
    kind.parse().map_err(|_| {
        let all: Vec<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
        let problem =
            format!("has {:?}; the kinds are {}", aftertrace_model::text::escape(kind), all.join(", "));
        AskError::Malformed { field: "kinds", problem }
    })
}
