//! `StateAt`: what an object was at a time, deleted ones included.

use aftertrace_api::proto;
use aftertrace_model::Timestamp;

use super::as_of;
use super::error::{AskError, name, time};
use super::recall::Recall;
use crate::watch::KINDS;

/// Answers a `StateAtRequest`.
///
/// # Errors
/// [`AskError::Malformed`] for a kind that is not watched or a bad name.
pub(super) fn answer(
    recall: &Recall,
    request: &proto::StateAtRequest,
    now: Timestamp,
) -> Result<proto::StateAtResponse, AskError> {
    let Some(kind) = KINDS.iter().find(|kind| kind.eq_ignore_ascii_case(&request.kind)) else {
        let asked = aftertrace_model::text::escape(&request.kind);
        let problem = format!("is {asked:?}; the kinds kept are {}", KINDS.join(", "));
        return Err(AskError::Malformed { field: "kind", problem });
    };
    name("namespace", &request.namespace)?;
    name("name", &request.name)?;
    let at = request.at_us.map_or(Ok(now), |us| time("at", us))?;
    let current = as_of(recall);
    let found = recall.object_at(kind, &request.namespace, &request.name, at)?;
    let since = found.as_ref().map_or(at, |found| found.version.valid_from);
    let gaps = recall.gaps_between(since.min(at), at, None, now)?;
    let not_found_because = match &found {
        Some(found) if found.version.deleted => {
            format!("it was deleted at {}; its last state is shown", found.version.valid_from)
        }
        Some(_) => String::new(),
        None => not_found(recall, kind, request, at, now)?,
    };
    Ok(proto::StateAtResponse {
        as_of: Some(current),
        valid_to_us: found.as_ref().and_then(|f| f.valid_to).map(Timestamp::as_micros),
        version: found.as_ref().map(|f| (&f.version).into()),
        // Agents lose no states of objects; only the aggregator's own gaps matter here.
        gaps: gaps.iter().filter(|gap| gap.node.is_none()).map(Into::into).collect(),
        not_found_because,
    })
}

fn not_found(
    recall: &Recall,
    kind: &str,
    request: &proto::StateAtRequest,
    at: Timestamp,
    now: Timestamp,
) -> Result<String, AskError> {
    let (namespace, name) = (&request.namespace, &request.name);
    let later = recall.object_at(kind, namespace, name, now)?;
    let watch = recall.health.status();
    let plural = format!("{}s", kind.to_ascii_lowercase());
    Ok(match (later, watch.get(&plural).map(String::as_str)) {
        (Some(_), _) => format!("{kind} {namespace}/{name} is known only after {at}; ask for a later time"),
        (None, Some("ok")) => format!("no {kind} {namespace}/{name} was seen: check the name and namespace"),
        (None, Some(why)) => {
            format!("no {kind} {namespace}/{name} was seen, and the watch of {plural} is {why}")
        }
        (None, None) => {
            format!("{plural} are not watched: start the aggregator with a kubeconfig and without --no-watch")
        }
    })
}
