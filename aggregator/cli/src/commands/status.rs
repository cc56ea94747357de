//! `aft status`: what Aftertrace sees, what it misses, and how far behind it is.

use aftertrace_api::proto::{AgentState, AgentStatus, StatusRequest, StatusResponse};
use anstyle::Style;

use super::Context;
use crate::error::{Error, Outcome};
use crate::table::table;
use crate::term::{BOLD, GREEN, RED, safe, styled};
use crate::{json, listing};

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
        out.push_str(&subjects(&answer.agents, width));
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

fn subjects(agents: &[AgentState], width: Option<usize>) -> String {
    let rows = agents.iter().filter_map(|a| a.status.as_ref()).flat_map(|s| {
        s.subjects.iter().map(move |subject| {
            vec![
                name(s),
                subject.name.clone(),
                subject.tier.clone(),
                subject.hooks.join(", "),
                subject.missing.join("; "),
            ]
        })
    });
    table(&["NODE", "SUBJECT", "TIER", "HOOKS", "MISSING"], rows, width)
}

fn name(status: &AgentStatus) -> String {
    if status.node.is_empty() { "(not heard yet)".to_owned() } else { status.node.clone() }
}

/// `9.4 MiB`
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(9_856_614), "9.4 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
    }
}
