//! `Timeline`: what happened to a pod, or in a namespace, in order.

use aftertrace_api::proto;
use aftertrace_model::Timestamp;

use super::as_of;
use super::error::{AskError, limit, name, time};
use super::recall::Recall;
use crate::clock::AHEAD_US_MAX;

const LIMIT_DEFAULT: u32 = 200;
const LIMIT_MAX: u32 = 10_000;
const WINDOW_DEFAULT_US: i64 = 24 * 3_600 * 1_000_000;

/// Answers a `TimelineRequest`.
///
/// # Errors
/// [`AskError::Malformed`] for a missing namespace, a bad name or an interval that ends before it begins.
pub(super) fn answer(
    recall: &Recall,
    request: &proto::TimelineRequest,
    now: Timestamp,
) -> Result<proto::TimelineResponse, AskError> {
    name("namespace", &request.namespace)?;
    if !request.pod.is_empty() {
        name("pod", &request.pod)?;
    }
    // A node whose clock is ahead has told facts of a time that is still to come here; they belong to now.
    let until = request.until_us.map_or(Ok(now.plus_micros(AHEAD_US_MAX)), |us| time("until", us))?;
    let day_before = until.min(now).plus_micros(-WINDOW_DEFAULT_US);
    let since = request.since_us.map_or(Ok(day_before), |us| time("since", us))?;
    if since > until {
        let problem = format!("is {since}, after until ({until})");
        return Err(AskError::Malformed { field: "since", problem });
    }
    let limit = limit(request.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let current = as_of(recall);
    let pod = Some(request.pod.as_str()).filter(|pod| !pod.is_empty());
    // One more than asked for tells whether there were more.
    let mut events = recall.pod_events(&request.namespace, pod, since, until, limit + 1)?;
    let truncated = events.len() > limit;
    if truncated {
        events.remove(0);
    }
    // What was left out by the limit is not asked about: the gaps are those of what is shown.
    let shown_from = events.first().filter(|_| truncated).map_or(since, |e| e.occurred.at);
    let gaps = recall.gaps_between(shown_from, until.min(now).max(shown_from), None, now)?;
    let nodes: std::collections::BTreeSet<_> = events.iter().filter_map(|e| e.node.as_deref()).collect();
    let concerns = |gap: &&aftertrace_model::Gap| {
        pod.is_none() || gap.node.as_deref().is_none_or(|node| nodes.is_empty() || nodes.contains(node))
    };
    Ok(proto::TimelineResponse {
        as_of: Some(current),
        gaps: gaps.iter().filter(concerns).map(Into::into).collect(),
        events: events.iter().map(|e| e.as_ref().into()).collect(),
        truncated,
    })
}
