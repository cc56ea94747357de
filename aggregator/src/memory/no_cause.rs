//! Why a fact has no cause: what evidence would have shown one, and why there is none of it.

use std::collections::BTreeMap;

use aftertrace_model::{Event, Gap, Kind, attribute, text};

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
        Kind::ProcessExited => exited(anchor),
        Kind::ConfigSwapped => swapped(anchor, watches),
        Kind::ConfigNotified | Kind::ConfigRead | Kind::ConfigWatched | Kind::ConfigStale => {
            not_swapped(anchor)
        }
        Kind::ProcessKilled => {
            "it is where the record begins: why the sender sent the signal is not watched".to_owned()
        }
        Kind::ConfigChanged | Kind::ObjectDeleted => {
            "it is where the record begins: what a client of the API did and why is not watched".to_owned()
        }
        _ => "no rule gives this kind of fact a cause".to_owned(),
    }];
    let needed = needed(anchor);
    if !needed.is_empty() {
        reasons.extend(kernel_evidence(anchor, needed, agents));
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

/// A subject of kernel evidence by the name that agents give it, and what it sees in words.
type Needed = (&'static str, &'static str);

const OOM_DECISION: Needed = ("oom_decision", "decisions of the OOM killer");
const OOM_KILL: Needed = ("oom_kill", "OOM kills");
const PRESSURE: Needed = ("memory_pressure", "memory near its limits");
const SIGNAL: Needed = ("signal", "signals");
const SWAP: Needed = ("swap", "swaps of volumes");

/// The subjects that would have shown a cause; empty where no kernel could.
fn needed(anchor: &Event) -> &'static [Needed] {
    match anchor.kind {
        Kind::OomKill => &[OOM_KILL, OOM_DECISION],
        Kind::OomEpisode => &[PRESSURE],
        Kind::ContainerTerminated => match (anchor.reason.as_deref(), anchor.exit_code) {
            (_, Some(137)) => &[OOM_KILL, SIGNAL],
            (Some("OOMKilled"), _) => &[OOM_KILL],
            (_, Some(143)) => &[SIGNAL],
            _ => &[],
        },
        Kind::ProcessExited => match attribute::number(anchor, attribute::EXIT_SIGNAL) {
            Some(9) => &[OOM_KILL, SIGNAL],
            Some(15) => &[SIGNAL],
            _ => &[],
        },
        Kind::ConfigNotified | Kind::ConfigRead | Kind::ConfigWatched | Kind::ConfigStale => &[SWAP],
        _ => &[],
    }
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
            "it was ended by SIGKILL, and neither an OOM kill of the kernel nor a signal of another process is \
             recorded in this life of the container"
                .to_owned()
        }
        (_, Some(143)) => {
            "it was asked to end (SIGTERM), and no signal of another process is recorded in this life of the \
             container"
                .to_owned()
        }
        (_, Some(code)) => format!("its process ended by itself with exit code {code}; its log may say why"),
        (_, None) => "its status gives no exit code".to_owned(),
    }
}

fn exited(anchor: &Event) -> String {
    match attribute::number(anchor, attribute::EXIT_SIGNAL) {
        Some(signal @ (9 | 15)) => {
            format!("it ended by signal {signal}, and who sent that to this process is not recorded")
        }
        Some(signal) => {
            format!("it ended by signal {signal}, which is not watched: a fault of its own, or asked for")
        }
        None => "the process ended by itself; its log may say why".to_owned(),
    }
}

fn not_swapped(anchor: &Event) -> String {
    match anchor.reason.as_deref() {
        Some("sub_path") => "a subPath mount is stale by its nature: no swap reaches it".to_owned(),
        _ => "the swap that brought this generation of the volume is not recorded".to_owned(),
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
fn kernel_evidence(anchor: &Event, needed: &[Needed], agents: &Agents) -> Vec<String> {
    let Some(node) = anchor.node.as_deref() else {
        return vec!["the fact names no node, so no agent is known to have watched its kernel".to_owned()];
    };
    let status = match agents.get(node) {
        None => {
            return vec![format!(
                "no agent of node {node} was heard since the aggregator started: check that aftertrace-agent \
                 runs there"
            )];
        }
        Some(Agent { streams: 0, last_seen, .. }) => {
            return vec![format!(
                "the agent of node {node} is not connected; it was last heard at {last_seen}"
            )];
        }
        Some(Agent { status: None, .. }) => {
            return vec![format!("the agent of node {node} has not told what it sees")];
        }
        Some(Agent { status: Some(status), .. }) => status,
    };
    let told = needed.iter().filter_map(|(name, words)| {
        let Some(subject) = status.subjects.iter().find(|s| s.name == *name) else {
            return Some(format!("the agent of node {node} does not watch {words} ({name})"));
        };
        let missing = subject.missing.join(", ");
        match subject.tier.as_str() {
            "none" => Some(format!("the agent of node {node} has no hook for {words} ({name}): {missing}")),
            tier if !missing.is_empty() => {
                Some(format!("of {words} ({name}, tier {tier}) the agent of node {node} lacks: {missing}"))
            }
            _ => None,
        }
    });
    told.map(|line| text::escape(&line)).collect()
}

#[cfg(test)]
mod tests;
