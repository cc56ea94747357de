//! `aft timeline`: what happened, in order of time.

use aftertrace_api::proto::{Event, TimelineRequest, TimelineResponse};

use super::Context;
use crate::args::PodName;
use crate::clock::Style;
use crate::error::{Error, Outcome};
use crate::table::table;
use crate::term::{DIM, YELLOW};
use crate::{detail, json, listing};

/// What the command was given.
#[derive(Debug)]
pub(crate) struct Question {
    /// Only this pod.
    pub(crate) pod: Option<PodName>,
    /// From, as written.
    pub(crate) since: Option<String>,
    /// Until, as written.
    pub(crate) until: Option<String>,
    /// Most events.
    pub(crate) limit: Option<u32>,
}

/// Asks for the facts of a pod or a namespace. Found means that there is one.
pub(crate) async fn run(context: &Context, question: Question) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let request = TimelineRequest {
        namespace: context.global.namespace_or_default(),
        pod: question.pod.map(|p| p.0).unwrap_or_default(),
        since_us: context.micros(question.since.as_deref())?,
        until_us: context.micros(question.until.as_deref())?,
        limit: question.limit.unwrap_or(0),
        ..TimelineRequest::default()
    };
    let about = match request.pod.as_str() {
        "" => format!("namespace {}", request.namespace),
        pod => format!("pod/{pod} -n {}", request.namespace),
    };
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.timeline(request).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    context.print(|| json::encode(&json::timeline(&answer)), || draw(&answer, &about, context))?;
    Ok(if answer.events.is_empty() { Outcome::NothingFound } else { Outcome::Found })
}

fn draw(answer: &TimelineResponse, about: &str, context: &Context) -> String {
    let width = context.screen.width;
    let mut out = if answer.events.is_empty() {
        format!("Nothing is known of {} in that time.\n", crate::term::safe(about))
    } else {
        events(&answer.events, context)
    };
    if answer.truncated {
        let text = "There were more: these are the latest. Ask with --limit, or --since and --until.";
        listing::paragraph(text, YELLOW, width, &mut out);
    }
    listing::gaps(&answer.gaps, &context.clock, width, &mut out);
    let times = match context.clock.style {
        Style::Absolute => format!("times: {}", context.clock.zone()),
        Style::Relative => String::new(),
    };
    let ids = match (context.is_wide(), answer.events.is_empty()) {
        (false, false) => "`-o wide` shows the ids that `aft why` takes",
        _ => "",
    };
    let notes: Vec<&str> = [times.as_str(), ids].into_iter().filter(|n| !n.is_empty()).collect();
    if !notes.is_empty() {
        listing::paragraph(&notes.join("; "), DIM, width, &mut out);
    }
    listing::as_of(answer.as_of.as_ref(), &context.clock, &mut out);
    out
}

/// A table of facts.
pub(crate) fn events(events: &[Event], context: &Context) -> String {
    let rows = events.iter().map(|e| {
        let subject = match (&e.pod, &e.object) {
            (Some(pod), _) => format!("pod/{}", pod.name),
            (None, Some(object)) => format!("{}/{}", object.kind.to_lowercase(), object.name),
            (None, None) => e.node.clone().unwrap_or_default(),
        };
        let mut row = vec![
            context.clock.entry(e.occurred_at_us, e.earliest_us, e.latest_us, false),
            e.severity.clone(),
            e.kind.clone(),
            subject,
            e.container.clone().unwrap_or_default(),
            detail::before_summary(e),
        ];
        if context.is_wide() {
            row.extend([e.node.clone().unwrap_or_default(), json::id(&e.event_id)]);
        }
        row
    });
    let mut header = vec!["TIME", "SEVERITY", "KIND", "SUBJECT", "CONTAINER", "SUMMARY"];
    if context.is_wide() {
        header.extend(["NODE", "EVENT_ID"]);
    }
    table(&header, rows, context.screen.width)
}
