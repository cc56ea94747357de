//! `Status`: what Aftertrace sees, what not, how far behind it is, and what to do about it.

use aftertrace_api::proto;
use aftertrace_model::Timestamp;

use super::recall::Recall;
use super::{as_of, micros};
use crate::agents::{Agent, Agents};
use crate::tls::ServerCertificate;
use crate::writer::WriterStatus;

/// What a status is made of.
pub(super) struct Parts<'a> {
    pub(super) cluster: &'a str,
    pub(super) catalog: &'a str,
    pub(super) recall: &'a Recall,
    pub(super) agents: &'a Agents,
    pub(super) writer: &'a WriterStatus,
    pub(super) certificate: &'a ServerCertificate,
    pub(super) is_watching: bool,
}

/// Answers a `StatusRequest`.
pub(super) fn answer(parts: &Parts<'_>, now: Timestamp) -> proto::StatusResponse {
    let agents = parts.agents.all();
    let mut watches = parts.recall.health.status();
    if !parts.is_watching {
        watches.insert("cluster".to_owned(), "off (--no-watch)".to_owned());
    }
    let mut degraded = parts.writer.degraded.clone();
    for (plural, state) in watches.iter().filter(|(_, state)| *state != "ok") {
        degraded.push(format!("watch of {plural}: {state}"));
    }
    if agents.is_empty() {
        degraded
            .push("no agent was heard: start aftertrace-agent with the agent token and ca.crt".to_owned());
    }
    for (node, agent) in &agents {
        degraded.extend(agent_degraded(node, agent));
    }
    if parts.certificate.is_near_its_end(now) {
        degraded.push(format!(
            "the server's certificate ends at {}: restart the aggregator, which renews it",
            parts.certificate.not_after
        ));
    }
    proto::StatusResponse {
        as_of: Some(as_of(parts.recall)),
        cluster: parts.cluster.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        catalog: parts.catalog.to_owned(),
        rows: parts.writer.rows.iter().map(|(table, rows)| ((*table).to_owned(), *rows)).collect(),
        wal_pending_frames: parts.writer.pending_frames,
        published_at_us: parts.writer.published_at.map_or(0, micros),
        degraded,
        watches,
        agents: agents.into_iter().map(agent_state).collect(),
        rss_bytes: rss_bytes().unwrap_or(0),
    }
}

fn agent_state((node, agent): (String, Agent)) -> proto::AgentState {
    let silent = || proto::AgentStatus { node, version: agent.version.clone(), ..Default::default() };
    proto::AgentState {
        connected: agent.streams > 0,
        last_seen_us: micros(agent.last_seen),
        events: agent.events,
        duplicates: agent.duplicates,
        status: Some(agent.status.unwrap_or_else(silent)),
    }
}

fn agent_degraded(node: &str, agent: &Agent) -> Vec<String> {
    if agent.streams == 0 {
        return vec![format!(
            "agent of node {node} is not connected since {}: check its log; its spool bridges the outage",
            agent.last_seen
        )];
    }
    let Some(status) = &agent.status else { return Vec::new() };
    let mut degraded = Vec::new();
    for subject in &status.subjects {
        if subject.tier == "none" {
            degraded.push(format!(
                "node {node}: {} is not seen: {}",
                subject.name,
                subject.missing.join(", ")
            ));
        }
    }
    if !status.watch.is_empty() && status.watch != "ok" {
        degraded.push(format!("node {node}: the agent's pod watch: {}", status.watch));
    }
    degraded.iter().map(|line| aftertrace_model::text::escape(line)).collect()
}

/// Resident memory of this process; `None` where the kernel does not tell.
fn rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
}
