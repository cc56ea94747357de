//! `aft stale`: who still runs on old configuration, and why.

use aftertrace_api::proto::{Edge, Event, TimelineRequest, TimelineResponse};
use aftertrace_model::attribute;

use super::Context;
use crate::detail::Attributes;
use crate::error::{Error, Outcome};
use crate::table::table;
use crate::term::{BOLD, DIM, YELLOW};
use crate::{clock, json, listing};

/// What the command was given.
#[derive(Debug)]
pub(crate) struct Question {
    /// Only this pod.
    pub(crate) pod: Option<String>,
    /// Only this workload.
    pub(crate) workload: Option<String>,
    /// Most facts.
    pub(crate) limit: Option<u32>,
}

/// Asks for what still stands. Found means that something does. Without a namespace every namespace is asked
/// about, unless a pod is named.
pub(crate) async fn run(context: &Context, question: Question) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let request = TimelineRequest {
        namespace: context.namespace_of(question.pod.is_some()),
        pod: question.pod.unwrap_or_default(),
        workload: question.workload.unwrap_or_default(),
        limit: question.limit.unwrap_or(0),
        standing: true,
        with_edges: true,
        ..TimelineRequest::default()
    };
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.timeline(request).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    context.print(|| json::encode(&json::stale(&answer)), || draw(&answer, context))?;
    Ok(if answer.events.is_empty() { Outcome::NothingFound } else { Outcome::Found })
}

/// The swaps that a fact follows from, by time.
pub(crate) fn swaps<'a>(answer: &'a TimelineResponse, fact: &Event) -> Vec<&'a Edge> {
    let leads_here = |e: &&Edge| e.effect_id == fact.event_id && e.cause_kind == "config_swapped";
    let mut swaps: Vec<_> = answer.edges.iter().filter(leads_here).collect();
    swaps.sort_by_key(|e| (e.cause_occurred_at_us, &e.cause_id));
    swaps
}

fn draw(answer: &TimelineResponse, context: &Context) -> String {
    let width = context.screen.width;
    let mut out = String::new();
    if answer.events.is_empty() {
        out.push_str("Nothing is known to run on old configuration.\n");
    } else {
        out.push_str(&facts(answer, context));
        explain(&answer.events, width, &mut out);
    }
    if answer.truncated {
        let text = "There is more: these are the latest. Ask with --limit, or for one namespace with -n.";
        listing::paragraph(text, YELLOW, width, &mut out);
    }
    listing::gaps(&answer.gaps, &context.clock, width, &mut out);
    if !answer.events.is_empty() && !context.is_wide() {
        let text = "`-o wide` shows generations and the ids that `aft why` takes";
        listing::paragraph(text, DIM, width, &mut out);
    }
    listing::as_of(answer.as_of.as_ref(), &context.clock, &mut out);
    out
}

fn facts(answer: &TimelineResponse, context: &Context) -> String {
    let rows = answer.events.iter().map(|e| {
        let attributes = Attributes::of(e);
        let text = |name| attributes.text(name).unwrap_or_default().to_owned();
        let swapped = swaps(answer, e).last().map(|edge| edge.cause_occurred_at_us);
        let mut reason = e.reason.clone().unwrap_or_else(|| e.kind.clone());
        if attributes.is(attribute::STALE_WAS_READ_BEFORE) == Some(false) {
            reason.push_str(NEVER_READ);
        }
        let mut row = vec![
            e.pod.as_ref().map_or_else(String::new, |pod| format!("{}/{}", pod.namespace, pod.name)),
            e.container.clone().unwrap_or_default(),
            reason,
            e.object.as_ref().map_or_else(String::new, |o| format!("{}/{}", o.kind.to_lowercase(), o.name)),
            text(attribute::VOLUME_NAME),
            files(&attributes),
            swapped.map_or_else(String::new, |us| context.clock.instant(us)),
            swapped.map_or_else(String::new, |us| {
                clock::span(context.clock.now.timestamp().as_microsecond().saturating_sub(us).max(0))
            }),
            attributes.process(attribute::PROCESS_COMMAND, e.pid.map(u64::from)),
        ];
        if context.is_wide() {
            row.extend([
                text(attribute::VOLUME_GENERATION),
                text(attribute::HELD_GENERATION),
                e.node.clone().unwrap_or_default(),
                json::id(&e.event_id),
            ]);
        }
        row
    });
    let mut header =
        vec!["POD", "CONTAINER", "REASON", "OBJECT", "VOLUME", "FILES", "SWAPPED", "STALE FOR", "PROCESS"];
    if context.is_wide() {
        header.extend(["GENERATION", "HELD", "NODE", "EVENT_ID"]);
    }
    table(&header, rows, context.screen.width)
}

/// Behind the reason of a container that never opened the files before either: it may not need them.
const NEVER_READ: &str = " (never read)";

/// `app.conf, b.conf and 3 more`
fn files(attributes: &Attributes) -> String {
    let files = attributes.texts(attribute::STALE_FILES);
    let more = files.len().saturating_sub(FILES_NAMED_MAX);
    let named = files[..files.len().min(FILES_NAMED_MAX)].join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// Most files named in a row.
const FILES_NAMED_MAX: usize = 2;

/// What each reason that occurs means, once.
fn explain(events: &[Event], width: Option<usize>, out: &mut String) {
    let meanings: Vec<&str> = REASONS
        .iter()
        .filter(|(reason, _)| events.iter().any(|e| e.reason.as_deref() == Some(*reason)))
        .map(|(_, meaning)| *meaning)
        .collect();
    if meanings.is_empty() {
        return;
    }
    listing::heading("What that means:", BOLD, out);
    for meaning in meanings {
        listing::item(meaning, width, out);
    }
}

/// Each reason with its meaning and remedy.
const REASONS: &[(&str, &str)] = &[
    (
        "not_reopened",
        "not_reopened: the files were not opened since the swap; watch the directory, or restart the workload",
    ),
    (
        "notified_not_reopened",
        "notified_not_reopened: the program was told of the swap and did not read the files again",
    ),
    (
        "deaf_watcher",
        "deaf_watcher: the program watches a file that no longer exists and will not hear of any change",
    ),
    ("sub_path", "sub_path: a subPath mount never shows a change; only a restart of the container does"),
    (
        "deaf",
        "deaf: a watch on a removed file; watch the directory instead, or set the watch anew after each change",
    ),
    ("held_descriptor", "held_descriptor: a process still has a file of the removed generation open"),
    ("held_mapping", "held_mapping: a process still has a file of the removed generation mapped"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_swaps_of_a_fact_are_its_own_by_time() {
        let fact = Event { event_id: vec![1], ..Event::default() };
        let edge = |cause: u8, effect: u8, kind: &str, at: i64| Edge {
            cause_id: vec![cause],
            effect_id: vec![effect],
            cause_kind: kind.to_owned(),
            cause_occurred_at_us: at,
            ..Edge::default()
        };
        let answer = TimelineResponse {
            edges: vec![
                edge(9, 1, "config_swapped", 20),
                edge(8, 1, "config_swapped", 10),
                edge(7, 2, "config_swapped", 5),
                edge(6, 1, "config_changed", 1),
            ],
            ..TimelineResponse::default()
        };
        let found: Vec<u8> = swaps(&answer, &fact).iter().map(|e| e.cause_id[0]).collect();
        assert_eq!(found, [8, 9]);
    }

    #[test]
    fn only_reasons_that_occur_are_explained() {
        let event = Event { reason: Some("sub_path".to_owned()), ..Event::default() };
        let mut out = String::new();
        explain(&[event], None, &mut out);
        assert!(out.contains("subPath") && !out.contains("deaf"), "{out}");
        let mut none = String::new();
        explain(&[Event::default()], None, &mut none);
        assert_eq!(none, "");
    }
}
