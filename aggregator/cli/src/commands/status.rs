//! `aft status`: what Aftertrace sees, what it misses, and how far behind it is.

use std::collections::BTreeMap;

use aftertrace_api::proto::{AgentState, AgentStatus, StatusRequest, StatusResponse};
use anstyle::Style;

use super::Context;
use crate::error::{Error, Outcome};
use crate::size::bytes;
use crate::table::table;
use crate::term::{BOLD, GREEN, RED, YELLOW, safe, styled};
use crate::{json, listing};

/// Most nodes named on one line.
const NODES_NAMED_MAX: usize = 5;

/// Asks how Aftertrace is. An answer is an answer, however bad the news.
pub(crate) async fn run(context: &Context) -> Result<Outcome, Error> {
    context.refuse_dot()?;
    let (aggregator, mut client) = context.connect().await?;
    let answer = client.status(StatusRequest {}).await.map_err(|s| aggregator.refused(&s))?.into_inner();
    context.print(|| json::encode(&json::status(&answer)), || draw(&answer, context))?;
    Ok(Outcome::Found)
}

fn draw(answer: &StatusResponse, context: &Context) -> String {
    let width = context.screen.width;
    let mut out = String::new();
    let title = format!(
        "cluster {}, aggregator {}, {}",
        safe(&answer.cluster),
        safe(&answer.version),
        bytes(answer.rss_bytes)
    );
    out.push_str(&styled(BOLD, &title));
    out.push('\n');
    if answer.degraded.is_empty() {
        out.push_str(&styled(GREEN, "All is well."));
        out.push('\n');
    } else {
        listing::heading("Degraded:", RED, &mut out);
        for line in &answer.degraded {
            listing::item(&safe(line), width, &mut out);
        }
    }

    listing::heading("Agents:", BOLD, &mut out);
    if answer.agents.is_empty() {
        listing::item("none was seen since the aggregator started", width, &mut out);
    } else {
        out.push_str(&agents(&answer.agents, context));
        listing::heading("What the agents see:", BOLD, &mut out);
        out.push_str(&subjects(&answer.agents, context));
        let unseen = unseen(&answer.agents);
        if !unseen.is_empty() {
            listing::heading("What is not seen, and where:", YELLOW, &mut out);
            for line in unseen {
                listing::item(&line, width, &mut out);
            }
        }
    }

    listing::heading("Cluster watches:", BOLD, &mut out);
    for (kind, state) in &answer.watches {
        let style = if state == "ok" { Style::new() } else { RED };
        listing::item(&styled(style, &format!("{}: {}", safe(kind), safe(state))), None, &mut out);
    }
    if answer.watches.is_empty() {
        listing::item("none", width, &mut out);
    }

    listing::heading("Store:", BOLD, &mut out);
    let rows: Vec<String> =
        answer.rows.iter().map(|(table, rows)| format!("{} {rows}", safe(table))).collect();
    listing::item(
        &format!("rows: {}", if rows.is_empty() { "none".into() } else { rows.join(", ") }),
        width,
        &mut out,
    );
    let published = match answer.published_at_us {
        0 => "never published".to_owned(),
        us => format!("published {}", context.clock.instant(us)),
    };
    listing::item(&format!("catalog: {}, {published}", safe(&answer.catalog)), width, &mut out);
    listing::item(&format!("WAL frames not in segments yet: {}", answer.wal_pending_frames), width, &mut out);
    listing::as_of(answer.as_of.as_ref(), &context.clock, &mut out);
    out
}

fn agents(agents: &[AgentState], context: &Context) -> String {
    let rows = agents.iter().map(|a| {
        let s = a.status.clone().unwrap_or_default();
        vec![
            name(&s),
            s.version.clone(),
            if a.connected { "connected".to_owned() } else { "away".to_owned() },
            context.clock.instant(a.last_seen_us),
            s.pods.to_string(),
            s.watch.clone(),
            format!("{} ({} again)", a.events, a.duplicates),
            format!("{} ({})", s.spool_items, bytes(s.spool_bytes)),
            bytes(s.rss_bytes),
            format!("±{}", crate::clock::span(i64::try_from(s.clock_error_ns / 1_000).unwrap_or(i64::MAX))),
        ]
    });
    let header = [
        "NODE",
        "VERSION",
        "STREAM",
        "LAST SEEN",
        "PODS",
        "POD WATCH",
        "EVENTS",
        "SPOOLED",
        "MEMORY",
        "CLOCK",
    ];
    table(&header, rows, context.screen.width)
}

/// Each node's subjects with their tiers and hooks, and how many things they lack; [`unseen`] tells which.
fn subjects(agents: &[AgentState], context: &Context) -> String {
    let rows = agents.iter().filter_map(|a| a.status.as_ref()).flat_map(|s| {
        s.subjects.iter().map(move |subject| {
            let lacks = match subject.missing.len() {
                0 => String::new(),
                1 => "1 thing".to_owned(),
                n => format!("{n} things"),
            };
            vec![name(s), subject.name.clone(), subject.tier.clone(), subject.hooks.join(", "), lacks]
        })
    });
    table(&["NODE", "SUBJECT", "TIER", "HOOKS", "LACKS"], rows, context.screen.width)
}

/// What is not seen because of a tier or a kernel, and on which nodes: nodes of one kind say the same.
fn unseen(agents: &[AgentState]) -> Vec<String> {
    let mut nodes_of: BTreeMap<(&str, &str, &str), Vec<&str>> = BTreeMap::new();
    for status in agents.iter().filter_map(|a| a.status.as_ref()) {
        for subject in &status.subjects {
            for missing in &subject.missing {
                let key = (subject.name.as_str(), subject.tier.as_str(), missing.as_str());
                nodes_of.entry(key).or_default().push(&status.node);
            }
        }
    }
    let line = |((subject, tier, missing), nodes): (_, Vec<&str>)| {
        let more = nodes.len().saturating_sub(NODES_NAMED_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named = &nodes[..nodes.len().min(NODES_NAMED_MAX)];
        safe(&format!("{subject} ({tier}) on {}{more}: {missing}", named.join(", ")))
    };
    nodes_of.into_iter().map(line).collect()
}

fn name(status: &AgentStatus) -> String {
    if status.node.is_empty() { "(not heard yet)".to_owned() } else { status.node.clone() }
}

#[cfg(test)]
mod tests {
    use aftertrace_api::proto::Subject;

    use super::*;

    fn agent(node: &str, tier: &str, missing: &[&str]) -> AgentState {
        let subject = Subject {
            name: "swap".to_owned(),
            tier: tier.to_owned(),
            missing: missing.iter().map(|m| (*m).to_owned()).collect(),
            ..Subject::default()
        };
        let status = AgentStatus { node: node.to_owned(), subjects: vec![subject], ..AgentStatus::default() };
        AgentState { status: Some(status), ..AgentState::default() }
    }

    #[test]
    fn nodes_that_lack_the_same_are_told_together() {
        let agents = [
            agent("node1", "tracepoint", &["renames by io_uring"]),
            agent("node2", "tracepoint", &["renames by io_uring", "32-bit calls"]),
            agent("node3", "none", &["no tracefs"]),
            agent("node4", "tracing", &[]),
        ];
        assert_eq!(
            unseen(&agents),
            [
                "swap (none) on node3: no tracefs",
                "swap (tracepoint) on node2: 32-bit calls",
                "swap (tracepoint) on node1, node2: renames by io_uring",
            ]
        );
        let many: Vec<_> = (0..7).map(|n| agent(&format!("n{n}"), "none", &["x"])).collect();
        assert_eq!(unseen(&many), ["swap (none) on n0, n1, n2, n3, n4 and 2 more: x"]);
    }
}
