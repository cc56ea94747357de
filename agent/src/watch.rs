//! This node's pods, watched through an outage of the API server.
//!
//! Turns the watch into [`Change`]s for the pipeline and its interruptions into counted losses. What a
//! status means is said in [`facts`].

pub(crate) mod facts;

use std::collections::BTreeSet;
use std::sync::Arc;

use aftertrace_model::{GapReason, Timestamp};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::clock;
use crate::losses::Ledger;

/// The component named in gaps.
const COMPONENT: &str = "agent/watch/pods";

/// A change of this node's pods.
#[derive(Debug)]
pub(crate) enum Change {
    /// The newest state of a pod, seen at that time.
    Apply(Box<Pod>, Timestamp),
    /// A pod was deleted; its last state may tell how its containers ended.
    Delete(Box<Pod>, Timestamp),
    /// A whole list was given: these pods are all.
    Listed(BTreeSet<String>),
}

/// How the watch stands, for people: `ok`, or why not and the remedy.
pub(crate) type Health = watch::Sender<String>;

/// Watches until the receiver is gone.
pub(crate) async fn run(
    client: Client,
    node: String,
    changes: mpsc::Sender<Change>,
    health: Health,
    ledger: Arc<Ledger>,
) {
    let pods: Api<Pod> = Api::all(client);
    let config = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watcher(pods, config).default_backoff().boxed();
    let mut outage = Outage::default();
    let mut listed = BTreeSet::new();
    while let Some(event) = events.next().await {
        let now = clock::now();
        let change = match event {
            Err(error) => {
                outage.failed(&error, now, &health, &ledger);
                continue;
            }
            Ok(watcher::Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(watcher::Event::InitApply(pod)) => {
                listed.extend(pod.metadata.uid.clone());
                Change::Apply(Box::new(pod), now)
            }
            Ok(watcher::Event::InitDone) => {
                outage.listed(now, &health, &ledger);
                Change::Listed(std::mem::take(&mut listed))
            }
            Ok(watcher::Event::Apply(pod)) => {
                outage.resumed(now, &health, &ledger);
                Change::Apply(Box::new(pod), now)
            }
            Ok(watcher::Event::Delete(pod)) => {
                outage.resumed(now, &health, &ledger);
                Change::Delete(Box::new(pod), now)
            }
        };
        let is_ours = match &change {
            // A server that ignores the field selector must not make us speak of other nodes' pods.
            Change::Apply(pod, _) | Change::Delete(pod, _) => {
                pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node.as_str())
            }
            Change::Listed(_) => true,
        };
        if is_ours && changes.send(change).await.is_err() {
            return;
        }
    }
}

/// What is known of the watch's interruptions.
#[derive(Debug, Default)]
struct Outage {
    /// When the watch last worked, before the present interruption or at all.
    last_good: Option<Timestamp>,
    /// The last error of the present interruption; what was before it is counted.
    failed_since: Option<Timestamp>,
    has_listed: bool,
}

impl Outage {
    fn failed(&mut self, error: &watcher::Error, now: Timestamp, health: &Health, ledger: &Ledger) {
        let text = crate::draft::text(&chain(error));
        match self.failed_since {
            None => warn!(error = %text, "the pod watch is interrupted; trying again"),
            // Told while it lasts: an answer given meanwhile must show it.
            Some(since) => count(ledger, since, now),
        }
        self.failed_since = Some(now);
        health.send_replace(format!(
            "down: {text}; check that the API server is reachable and that the agent may list and watch pods"
        ));
    }

    /// Something came through the watch.
    fn resumed(&mut self, now: Timestamp, health: &Health, ledger: &Ledger) {
        if let Some(since) = self.failed_since.take() {
            info!("the pod watch works again");
            count(ledger, since, now);
        }
        self.last_good = Some(now);
        health.send_if_modified(|held| {
            let changed = held != "ok";
            "ok".clone_into(held);
            changed
        });
    }

    /// A list is complete: the first, or one that replaces a watch that was too old.
    fn listed(&mut self, now: Timestamp, health: &Health, ledger: &Ledger) {
        let last_good = self.last_good;
        self.resumed(now, health, ledger);
        if self.has_listed {
            warn!("the pod watch was listed anew");
            let detail = "the watch was listed anew; what came and went between is unknown";
            let from = last_good.unwrap_or(now);
            ledger.add_between(COMPONENT, GapReason::WatchRelisted, (from, now), 0, detail);
        }
        self.has_listed = true;
    }
}

fn count(ledger: &Ledger, since: Timestamp, now: Timestamp) {
    let detail = "the API server could not be watched; states between may be missing";
    ledger.add_between(COMPONENT, GapReason::WatchDown, (since, now), 0, detail);
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
