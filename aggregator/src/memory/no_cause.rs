//! Why a fact has no cause: what evidence would have shown one, and why there is none of it.

use std::collections::BTreeMap;

use aftertrace_model::{Event, Gap, Kind};

use crate::agents::{Agent, Agents};

/// Most gaps told of in one sentence; the answer lists them all.
const GAPS_TOLD_MAX: usize = 3;

/// One line for people.
pub(super) fn because(
    anchor: &Event,
    gaps: &[Gap],
    agents: &Agents,
    watches: &BTreeMap<String, String>,
) -> String {
    let mut reasons = vec![match anchor.kind {
        Kind::ContainerTerminated => terminated(anchor),
        Kind::ContainerWaiting => {
            "no termination of this container with the same restart count is recorded".to_owned()
        }
        Kind::ContainerStarted => "this is its first start, or the end before it was not seen".to_owned(),
        Kind::OomKill => "the episode that decided this kill is not recorded".to_owned(),
        Kind::OomEpisode => "no memory pressure of this container was seen in the minute before".to_owned(),
        Kind::ConfigSwapped => swapped(anchor, watches),
        Kind::ConfigChanged | Kind::ObjectDeleted => {
            "it is where the record begins: what a client of the API did and why is not watched".to_owned()
        }
        _ => "no rule gives this kind of fact a cause".to_owned(),
    }];
    if needs_kernel(anchor.kind) {
        reasons.extend(kernel_evidence(anchor, agents));
    }
    let told: Vec<_> = gaps
        .iter()
        .take(GAPS_TOLD_MAX)
        .map(|gap| format!("{} ({}) {} to {}", gap.reason, gap.component, gap.from, gap.to))
        .collect();
    if !told.is_empty() {
        let more = gaps.len().saturating_sub(GAPS_TOLD_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        reasons.push(format!("evidence is missing in that window: {}{more}", told.join(", ")));
    }
    reasons.join("; ")
}

fn needs_kernel(kind: Kind) -> bool {
    matches!(kind, Kind::ContainerTerminated | Kind::OomKill | Kind::OomEpisode)
}

fn terminated(anchor: &Event) -> String {
    match (anchor.reason.as_deref(), anchor.exit_code) {
        (Some("OOMKilled"), code) if code != Some(137) => {
            "the runtime says OOMKilled from a counter of the whole container, but its first process was not \
             killed: look for an oom_kill of one of its other processes"
                .to_owned()
        }
        (Some("OOMKilled"), _) => "no OOM kill of the kernel is recorded in this life of the container".to_owned(),
        (_, Some(137)) => {
            "it was ended by SIGKILL and no OOM kill of the kernel is recorded in this life of the container: \
             somebody else sent the signal, or the kill was not seen"
                .to_owned()
        }
        (_, Some(143)) => "it was asked to end (SIGTERM); who asked is not recorded".to_owned(),
        (_, Some(code)) => format!("its process ended by itself with exit code {code}; its log may say why"),
        (_, None) => "its status gives no exit code".to_owned(),
    }
}

fn swapped(anchor: &Event, watches: &BTreeMap<String, String>) -> String {
    let object = anchor
        .object
        .as_ref()
        .map_or_else(|| "its object".to_owned(), |o| format!("{} {}/{}", o.kind, o.namespace, o.name));
    match watches.get("configmaps").map(String::as_str) {
        None => "ConfigMaps are not watched: start the aggregator with a kubeconfig".to_owned(),
        Some("ok") if anchor.content.is_none() => format!(
            "the swapped files could not be hashed, and no change of {object} in the three minutes before is recorded"
        ),
        Some("ok") => format!(
            "no recorded change of {object} has the content that was swapped in: it was made before the watch \
             began, or undone within one sync of the kubelet"
        ),
        Some(why) => format!("the watch of configmaps is {why}"),
    }
}

/// What is wrong with the eyes on that node.
fn kernel_evidence(anchor: &Event, agents: &Agents) -> Option<String> {
    let Some(node) = anchor.node.as_deref() else {
        return Some("the fact names no node, so no agent is known to have watched its kernel".to_owned());
    };
    match agents.get(node) {
        None => Some(format!(
            "no agent of node {node} was heard since the aggregator started: check that aftertrace-agent runs there"
        )),
        Some(Agent { streams: 0, last_seen, .. }) => {
            Some(format!("the agent of node {node} is not connected; it was last heard at {last_seen}"))
        }
        Some(Agent { status: None, .. }) => {
            Some(format!("the agent of node {node} has not told what it sees"))
        }
        Some(Agent { status: Some(status), .. }) => {
            let Some(oom) = status.subjects.iter().find(|s| s.name == "oom") else {
                return Some(format!("the agent of node {node} does not watch OOM kills"));
            };
            let missing = oom.missing.join(", ");
            match oom.tier.as_str() {
                "none" => Some(format!("the agent of node {node} has no hook for OOM kills: {missing}")),
                _ if !missing.is_empty() => Some(format!("the agent of node {node} lacks: {missing}")),
                _ => None,
            }
        }
    }
}

#[cfg(test)]
mod tests;
