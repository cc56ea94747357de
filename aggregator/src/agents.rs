//! The agents that were heard, and what they say of themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aftertrace_api::proto;
use aftertrace_model::Timestamp;
use tokio::sync::watch;

/// Most nodes remembered: above the 5,000 nodes that Kubernetes supports in a cluster.
const NODES_MAX: usize = 10_000;

/// One agent.
#[derive(Clone, Debug, Default)]
pub struct Agent {
    /// Its own words; `None` until it sent some.
    pub status: Option<proto::AgentStatus>,
    /// Its version, from its hello.
    pub version: String,
    /// Streams that are open; more than one while an agent replaces a broken one.
    pub streams: u32,
    /// When it was last heard.
    pub last_seen: Timestamp,
    /// Events accepted since the aggregator started.
    pub events: u64,
    /// Items that were there already.
    pub duplicates: u64,
    /// The number of its newest stream, for the older ones.
    newest: watch::Sender<u64>,
}

/// The agents by node.
#[derive(Debug, Default)]
pub struct Agents {
    by_node: Mutex<BTreeMap<String, Agent>>,
}

/// An open stream; the agent counts as connected until it is dropped.
#[derive(Debug)]
pub struct Connection {
    agents: Arc<Agents>,
    node: String,
    number: u64,
    newest: watch::Receiver<u64>,
}

impl Agents {
    /// Notes that a stream of `node` is open; `None` if too many nodes were heard.
    #[must_use]
    pub fn connect(self: &Arc<Self>, node: &str, version: &str, now: Timestamp) -> Option<Connection> {
        let mut by_node = self.lock();
        if by_node.len() >= NODES_MAX && !by_node.contains_key(node) {
            return None;
        }
        let agent = by_node.entry(node.to_owned()).or_default();
        agent.streams += 1;
        agent.version = version.to_owned();
        agent.last_seen = now;
        let number = agent.newest.borrow().saturating_add(1);
        agent.newest.send_replace(number);
        let newest = agent.newest.subscribe();
        drop(by_node);
        Some(Connection { agents: Arc::clone(self), node: node.to_owned(), number, newest })
    }

    /// Every agent that was heard, by node.
    #[must_use]
    pub fn all(&self) -> BTreeMap<String, Agent> {
        self.lock().clone()
    }

    /// The agent of a node.
    #[must_use]
    pub fn get(&self, node: &str) -> Option<Agent> {
        self.lock().get(node).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Agent>> {
        self.by_node.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Connection {
    /// The number of this stream among those of its node, counted from one.
    #[must_use]
    pub const fn number(&self) -> u64 {
        self.number
    }

    /// The number of the node's newest stream, now and as it grows.
    #[must_use]
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.clone()
    }

    /// Notes what the agent says of itself. Its node is the stream's, whatever it says.
    pub fn heard(&self, mut status: proto::AgentStatus, now: Timestamp) {
        status.node.clone_from(&self.node);
        self.change(now, |agent| agent.status = Some(status));
    }

    /// Notes what was accepted.
    pub fn accepted(&self, events: u64, duplicates: u64, now: Timestamp) {
        self.change(now, |agent| {
            agent.events += events;
            agent.duplicates += duplicates;
        });
    }

    fn change(&self, now: Timestamp, change: impl FnOnce(&mut Agent)) {
        if let Some(agent) = self.agents.lock().get_mut(&self.node) {
            agent.last_seen = now;
            change(agent);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(agent) = self.agents.lock().get_mut(&self.node) {
            agent.streams = agent.streams.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1);

    #[test]
    fn is_connected_while_a_stream_is_open() {
        let agents = Arc::new(Agents::default());
        let old = agents.connect("node1", "0.1.0", NOW).expect("room");
        let new = agents.connect("node1", "0.1.0", NOW).expect("room");
        drop(old);
        assert_eq!(agents.get("node1").expect("known").streams, 1, "the new stream is open");
        drop(new);
        assert_eq!(agents.get("node1").expect("still known").streams, 0);
    }

    #[test]
    fn speaks_for_its_own_node_only() {
        let agents = Arc::new(Agents::default());
        let connection = agents.connect("node1", "0.1.0", NOW).expect("room");
        connection.heard(proto::AgentStatus { node: "node2".to_owned(), ..Default::default() }, NOW);
        assert_eq!(agents.get("node1").and_then(|a| a.status).expect("told").node, "node1");
        assert!(agents.get("node2").is_none());
    }
}
