//! `aft oom`: who was killed by the kernel's OOM killer, in what role, and by which limit.

use std::collections::BTreeSet;

use aftertrace_api::proto::{Event, TimelineRequest, TimelineResponse};
use aftertrace_model::{Kind, attribute};

use super::Context;
use crate::args::{Level, Role};
use crate::detail::Attributes;
use crate::error::{Error, Outcome};
use crate::size::bytes;
use crate::table::table;
use crate::term::{BOLD, DIM, YELLOW, styled};
use crate::{json, listing};

/// What the command was given.
#[derive(Debug)]
pub(crate) struct Question {
    /// Only this pod.
    pub(crate) pod: Option<String>,
    /// Only this workload.
    pub(crate) workload: Option<String>,
    /// Only kills that this level's limit asked for.
    pub(crate) level: Option<Level>,
    /// Only victims of this role.
    pub(crate) role: Option<Role>,
    /// From, as written.
    pub(crate) since: Option<String>,
    /// Until, as written.
    pub(crate) until: Option<String>,
    /// Most kills.
    pub(crate) limit: Option<u32>,
}

/// One decision of the OOM killer, with those of its victims that were asked for.
#[derive(Debug)]
pub(crate) struct Episode<'a> {
    /// The decision's event; empty where a kill names none.
    pub(crate) id: &'a [u8],
    /// In order of time.
    pub(crate) kills: Vec<&'a Event>,
}

/// Asks for kills. Found means that there is one. Without a namespace every namespace is asked about, unless a
/// pod is named.
pub(crate) async fn run(context: &Context, question: Question) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let attributes = [
        (attribute::OOM_LEVEL, question.level.map(Level::as_str)),
        (attribute::OOM_ROLE, question.role.map(Role::as_str)),
    ];
    let request = TimelineRequest {
        namespace: context.namespace_of(question.pod.is_some()),
        pod: question.pod.unwrap_or_default(),
        workload: question.workload.unwrap_or_default(),
        kinds: vec![Kind::OomKill.as_str().to_owned()],
        attributes: attributes
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect(),
        since_us: context.micros(question.since.as_deref())?,
        until_us: context.micros(question.until.as_deref())?,
        limit: question.limit.unwrap_or(0),
        with_edges: true,
        ..TimelineRequest::default()
    };
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.timeline(request).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    let episodes = episodes(&answer.events);
    context.print(|| json::encode(&json::oom(&answer, &episodes)), || draw(&answer, &episodes, context))?;
    Ok(if answer.events.is_empty() { Outcome::NothingFound } else { Outcome::Found })
}

/// Kills by the decision that they belong to, in the order of their first kill.
pub(crate) fn episodes(kills: &[Event]) -> Vec<Episode<'_>> {
    let mut episodes: Vec<Episode<'_>> = Vec::new();
    for kill in kills {
        let id = kill.episode_id.as_deref().unwrap_or_default();
        match episodes.iter_mut().find(|e| !id.is_empty() && e.id == id) {
            Some(episode) => episode.kills.push(kill),
            None => episodes.push(Episode { id, kills: vec![kill] }),
        }
    }
    episodes
}

fn draw(answer: &TimelineResponse, episodes: &[Episode<'_>], context: &Context) -> String {
    let width = context.screen.width;
    let mut out = String::new();
    if episodes.is_empty() {
        out.push_str("No OOM kill like that is known in that time.\n");
    } else {
        let title = format!(
            "{} by {} of the OOM killer",
            counted(answer.events.len(), "kill"),
            counted(episodes.len(), "decision")
        );
        out.push_str(&styled(BOLD, &title));
        out.push_str("\n\n");
        out.push_str(&kills(answer, episodes, context));
    }
    if answer.truncated {
        let text = "There were more: these are the latest. Ask with --limit, or --since and --until.";
        listing::paragraph(text, YELLOW, width, &mut out);
    }
    listing::gaps(&answer.gaps, &context.clock, width, &mut out);
    if !episodes.is_empty() && !context.is_wide() {
        let text = "kills of one decision stand together; `-o wide` shows the ids that `aft why` takes";
        listing::paragraph(text, DIM, width, &mut out);
    }
    listing::as_of(answer.as_of.as_ref(), &context.clock, &mut out);
    out
}

fn kills(answer: &TimelineResponse, episodes: &[Episode<'_>], context: &Context) -> String {
    let ended: BTreeSet<&[u8]> = answer
        .edges
        .iter()
        .filter(|e| e.rule_id == "oom_kill.container_terminated")
        .map(|e| e.cause_id.as_slice())
        .collect();
    let rows = episodes.iter().flat_map(|episode| {
        let ended = &ended;
        episode.kills.iter().enumerate().map(move |(n, kill)| {
            let attributes = Attributes::of(kill);
            let text = |name| attributes.text(name).unwrap_or_default().to_owned();
            let held = [
                attribute::OOM_RSS_ANON_BYTES,
                attribute::OOM_RSS_FILE_BYTES,
                attribute::OOM_RSS_SHMEM_BYTES,
            ];
            let held: Vec<u64> = held.into_iter().filter_map(|name| attributes.number(name)).collect();
            let role = text(attribute::OOM_ROLE);
            let mut row = vec![
                context.clock.entry(kill.occurred_at_us, kill.earliest_us, kill.latest_us, false),
                match &kill.pod {
                    Some(pod) => format!("{}/{}", pod.namespace, pod.name),
                    None => format!("(no pod) node/{}", kill.node.as_deref().unwrap_or("?")),
                },
                kill.container.clone().unwrap_or_default(),
                if n == 0 { role } else { format!("└ {role}") },
                text(attribute::OOM_LEVEL),
                attributes.process(attribute::PROCESS_COMMAND, kill.pid.map(u64::from)),
                if held.is_empty() { String::new() } else { bytes(held.iter().sum()) },
                attributes.process(
                    attribute::OOM_ALLOCATOR_COMMAND,
                    attributes.number(attribute::OOM_ALLOCATOR_PID),
                ),
                if ended.contains(kill.event_id.as_slice()) { "yes".to_owned() } else { String::new() },
            ];
            if context.is_wide() {
                row.extend([
                    kill.workload.as_ref().map_or_else(String::new, |w| format!("{}/{}", w.kind, w.name)),
                    kill.node.clone().unwrap_or_default(),
                    json::id(episode.id),
                    json::id(&kill.event_id),
                ]);
            }
            row
        })
    });
    let mut header =
        vec!["TIME", "POD", "CONTAINER", "ROLE", "LEVEL", "COMMAND", "HELD", "ALLOCATOR", "ENDED CONTAINER"];
    if context.is_wide() {
        header.extend(["WORKLOAD", "NODE", "EPISODE_ID", "EVENT_ID"]);
    }
    table(&header, rows, context.screen.width)
}

fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_of_one_decision_stand_together() {
        let kill = |n: u8, episode: &[u8]| Event {
            event_id: vec![n],
            episode_id: (!episode.is_empty()).then(|| episode.to_vec()),
            ..Event::default()
        };
        // Two decisions at once: their kills come mixed. A kill without one stands by itself.
        let kills = [kill(1, b"a"), kill(2, b"b"), kill(3, b"a"), kill(4, b""), kill(5, b"")];
        let grouped: Vec<Vec<u8>> =
            episodes(&kills).iter().map(|e| e.kills.iter().map(|k| k.event_id[0]).collect()).collect();
        assert_eq!(grouped, [vec![1, 3], vec![2], vec![4], vec![5]]);
        assert_eq!((counted(1, "kill"), counted(2, "kill")), ("1 kill".to_owned(), "2 kills".to_owned()));
    }
}
