//! `History`: how often a pattern occurred, where, and when last.

use aftertrace_api::proto;
use aftertrace_model::{Timestamp, pattern};

use super::as_of;
use super::error::{AskError, limit, name, time};
use super::recall::Recall;
use crate::store::AnchorQuery;

const LIMIT_DEFAULT: u32 = 50;
const LIMIT_MAX: u32 = 1_000;
const WINDOW_DEFAULT_US: i64 = 30 * 24 * 3_600 * 1_000_000;

/// Answers a `HistoryRequest`.
///
/// # Errors
/// [`AskError::Unknown`] for a pattern that does not exist, [`AskError::Malformed`] for a bad name or limit.
pub(super) fn answer(
    recall: &Recall,
    request: &proto::HistoryRequest,
    now: Timestamp,
) -> Result<proto::HistoryResponse, AskError> {
    let pattern = pattern::by_id(&request.pattern).ok_or_else(|| AskError::Unknown {
        what: format!("pattern {:?}", aftertrace_model::text::escape(&request.pattern)),
        remedy: format!(
            "the patterns are {}",
            pattern::PATTERNS.iter().map(|p| format!("{} ({})", p.id, p.name)).collect::<Vec<_>>().join(", ")
        ),
    })?;
    let filter = |field, value: &str| {
        if value.is_empty() {
            return Ok(None);
        }
        name(field, value).map(|()| Some(value.to_owned()))
    };
    let month_before = now.plus_micros(-WINDOW_DEFAULT_US);
    let query = AnchorQuery {
        kind: pattern.anchor,
        with: pattern.anchor_with,
        namespace: filter("namespace", &request.namespace)?,
        workload: filter("workload", &request.workload)?,
        pod: filter("pod", &request.pod)?,
        since: request.since_us.map_or(Ok(month_before), |us| time("since", us))?,
        limit: limit(request.limit, LIMIT_DEFAULT, LIMIT_MAX)?,
    };
    let current = as_of(recall);
    let anchors = recall.anchors(&query)?;
    let gaps = recall.gaps_between(query.since, now, None, now)?;
    Ok(proto::HistoryResponse {
        as_of: Some(current),
        name: pattern.name.to_owned(),
        total: anchors.total,
        occurrences: anchors.events.iter().map(Into::into).collect(),
        groups: anchors
            .groups
            .into_iter()
            .map(|group| proto::HistoryGroup {
                namespace: group.namespace,
                workload: group.workload,
                count: group.count,
                first_us: group.first.as_micros(),
                last_us: group.last.as_micros(),
            })
            .collect(),
        remediation: pattern.remediation.iter().map(|r| (*r).to_owned()).collect(),
        gaps: gaps.iter().map(Into::into).collect(),
    })
}
