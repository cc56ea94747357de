//! A batch of wire items → facts to submit, facts to hold back, and gaps for what was refused.
//!
//! No item harms another: what cannot be read, lies in the future or is not this agent's to say becomes one
//! gap, the rest goes on. It does no I/O and reads no clock.

use std::collections::HashMap;
use std::sync::Arc;

use aftertrace_api::proto;
use aftertrace_model::fact::FactKey;
use aftertrace_model::rule;
use aftertrace_model::{Edge, Event, EventId, Gap, GapReason, Kind, Owner, Timestamp, text};
use prost::Message as _;
use serde_json::json;
use uuid::Uuid;

use crate::clock::{AHEAD_US_MAX, CALENDAR_US_MAX};
use crate::watch::{Claim, Placements};
use crate::writer::Facts;

/// Largest item: fifty times what our largest record takes.
const ITEM_BYTES_MAX: usize = 256 * 1024;

/// Marks a fact about a pod that our own watch could not confirm because it was not there at that time.
const UNCONFIRMED: &str = "aftertrace.pod.unconfirmed";

/// Who sends.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    /// Our cluster's name, which the agent gave rightly.
    pub(crate) cluster: String,
    /// The agent's node.
    pub(crate) node: String,
    /// The agent's spool.
    pub(crate) spool_id: Uuid,
}

/// A fact that waits for the pod watch.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) sequence: u64,
    pub(crate) event: Event,
}

/// What a batch comes to.
#[derive(Debug, Default)]
pub(crate) struct Sorted {
    pub(crate) facts: Facts,
    pub(crate) held: Vec<Held>,
    /// Where each edge of `facts` stands in the spool, in their order.
    pub(crate) edge_sequences: Vec<u64>,
}

impl Sorted {
    /// The facts that the edges join, each once.
    pub(crate) fn edge_ends(&self) -> Vec<EventId> {
        let mut ends: Vec<_> = self.facts.edges.iter().flat_map(|e| [e.cause_id, e.effect_id]).collect();
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

impl Speaker {
    /// Sorts the items of a batch.
    pub(crate) fn sort(&self, batch: proto::Batch, placements: &Placements, now: Timestamp) -> Sorted {
        let mut sorted = Sorted::default();
        for (n, item) in (0_u64..).zip(batch.items) {
            let sequence = batch.first_sequence.wrapping_add(n);
            match self.read(item, now) {
                Ok(Item::Event(event)) => {
                    self.settle(Held { sequence, event: *event }, placements, &mut sorted);
                }
                Ok(Item::Edge(edge)) => {
                    sorted.facts.edges.push(*edge);
                    sorted.edge_sequences.push(sequence);
                }
                Ok(Item::Gap(gap)) => sorted.facts.gaps.push(*gap),
                Err(refusal) => sorted.facts.gaps.push(self.refused(sequence, &refusal, now)),
            }
        }
        sorted
    }

    /// Refuses edges that join what `known` says is another node's fact, or one of another kind. A fact that is
    /// not known yet says nothing: facts and edges may come in any order, and an edge without its facts shows
    /// nowhere.
    pub(crate) fn refuse_foreign_edges(&self, sorted: &mut Sorted, known: &HashMap<EventId, Arc<Event>>) {
        let is_own = |id: EventId, kind: Kind| {
            known.get(&id).is_none_or(|e| e.kind == kind && e.node.as_deref() == Some(&self.node))
        };
        let edges = std::mem::take(&mut sorted.facts.edges);
        for (edge, sequence) in edges.into_iter().zip(std::mem::take(&mut sorted.edge_sequences)) {
            if is_own(edge.cause_id, edge.cause_kind) && is_own(edge.effect_id, edge.effect_kind) {
                sorted.facts.edges.push(edge);
                sorted.edge_sequences.push(sequence);
                continue;
            }
            let refusal = Refusal {
                reason: GapReason::Unauthorized,
                detail: format!(
                    "an edge by rule {} from {} to {}, which are not both facts of this node",
                    edge.rule_id, edge.cause_id, edge.effect_id
                ),
            };
            sorted.facts.gaps.push(self.refused(sequence, &refusal, edge.effect_occurred_at));
        }
    }

    /// Puts a fact where the pod watch says it belongs.
    pub(crate) fn settle(&self, held: Held, placements: &Placements, sorted: &mut Sorted) {
        let Held { sequence, mut event } = held;
        let claim = event
            .pod
            .as_ref()
            .map_or(Claim::Confirmed, |pod| placements.judge(&self.node, pod, &event.occurred));
        match claim {
            Claim::Confirmed => sorted.facts.events.push(event),
            Claim::Pending => sorted.held.push(Held { sequence, event }),
            // Evidence from while the API server or we were away must not be lost; it says what it lacks.
            Claim::Unwatched => {
                event
                    .attributes
                    .insert(UNCONFIRMED.to_owned(), json!("the pods were not watched at that time"));
                sorted.facts.events.push(event);
            }
            Claim::Refuted => sorted.facts.gaps.push(self.unauthorized(sequence, &event)),
        }
    }

    /// Gives up a fact whose pod the watch did not confirm.
    pub(crate) fn unauthorized(&self, sequence: u64, event: &Event) -> Gap {
        let pod = event.pod.clone().unwrap_or_default();
        let refusal = Refusal {
            reason: GapReason::Unauthorized,
            detail: format!(
                "{} of pod {}/{} ({}), which does not run on this node",
                event.kind, pod.namespace, pod.name, pod.uid
            ),
        };
        self.refused(sequence, &refusal, event.occurred.at)
    }

    fn read(&self, item: proto::Item, now: Timestamp) -> Result<Item, Refusal> {
        let bytes = item.encoded_len();
        if bytes > ITEM_BYTES_MAX {
            return Err(Refusal::malformed(format!(
                "an item of {bytes} bytes, the limit is {ITEM_BYTES_MAX}"
            )));
        }
        match item.item {
            Some(proto::item::Item::Event(event)) => {
                let event = Event::try_from(event).map_err(Refusal::malformed)?;
                self.accept_event(event, now).map(|e| Item::Event(Box::new(e)))
            }
            Some(proto::item::Item::Edge(edge)) => {
                let edge = Edge::try_from(edge).map_err(Refusal::malformed)?;
                accept_edge(edge, now).map(|e| Item::Edge(Box::new(e)))
            }
            Some(proto::item::Item::Gap(gap)) => {
                let gap = Gap::try_from(gap).map_err(Refusal::malformed)?;
                self.accept_gap(gap, now).map(|g| Item::Gap(Box::new(g)))
            }
            None => Err(Refusal::malformed("an item that is neither event, edge nor gap")),
        }
    }

    fn accept_event(&self, mut event: Event, now: Timestamp) -> Result<Event, Refusal> {
        in_calendar(&[event.occurred.at, event.occurred.earliest, event.occurred.latest])?;
        not_ahead(event.kind.as_str(), event.occurred.at, now)?;
        id_not_ahead(event.event_id, now)?;
        if matches!(event.kind, Kind::ConfigChanged | Kind::ObjectDeleted) {
            let detail = format!("{}, which only the aggregator's own watch may tell", event.kind);
            return Err(Refusal { reason: GapReason::Unauthorized, detail });
        }
        event.cluster.clone_from(&self.cluster);
        event.node = Some(self.node.clone());
        event.recorded_at = None;
        event.summary = text::escape(&event.summary);
        Ok(event)
    }

    fn accept_gap(&self, mut gap: Gap, now: Timestamp) -> Result<Gap, Refusal> {
        if gap.from > gap.to {
            return Err(Refusal::malformed(format!(
                "a gap that ends ({}) before it begins ({})",
                gap.to, gap.from
            )));
        }
        in_calendar(&[gap.from, gap.to])?;
        not_ahead("gap", gap.to, now)?;
        gap.cluster.clone_from(&self.cluster);
        gap.node = Some(self.node.clone());
        gap.recorded_at = None;
        gap.detail = text::escape(&gap.detail);
        Ok(gap)
    }

    /// The gap of a refused item. Its id is made from the item's place in the spool, so that an item sent
    /// again is counted once.
    fn refused(&self, sequence: u64, refusal: &Refusal, at: Timestamp) -> Gap {
        let place = FactKey::Record { spool_id: self.spool_id, sequence };
        let scope = format!("{}/refused/{}", self.cluster, refusal.reason);
        Gap {
            gap_id: place.event_id(&scope, Timestamp::default()).0,
            cluster: self.cluster.clone(),
            node: Some(self.node.clone()),
            component: "aggregator/ingest".to_owned(),
            reason: refusal.reason,
            from: at,
            to: at,
            count: 1,
            detail: text::escape(&refusal.detail),
            recorded_at: None,
        }
    }
}

enum Item {
    Event(Box<Event>),
    Edge(Box<Edge>),
    Gap(Box<Gap>),
}

/// Why an item was not taken.
struct Refusal {
    reason: GapReason,
    detail: String,
}

impl Refusal {
    fn malformed(what: impl std::fmt::Display) -> Self {
        Self { reason: GapReason::RecordMalformed, detail: format!("an item could not be read: {what}") }
    }
}

/// A time that no calendar has could be stored and never be read again, which would stop the next start.
fn in_calendar(times: &[Timestamp]) -> Result<(), Refusal> {
    match times.iter().find(|at| !(0..=CALENDAR_US_MAX).contains(&at.as_micros())) {
        Some(at) => Err(Refusal::malformed(format!("its time {at} is not between 1970 and 9999"))),
        None => Ok(()),
    }
}

/// An id begins with its fact's time, by which partitions and the memory of identities are ordered.
fn id_not_ahead(id: EventId, now: Timestamp) -> Result<(), Refusal> {
    not_ahead("an id", Timestamp::from_micros(id.unix_ms().saturating_mul(1_000)), now)
}

fn not_ahead(what: &str, at: Timestamp, now: Timestamp) -> Result<(), Refusal> {
    if at.micros_since(now) > AHEAD_US_MAX {
        let detail =
            format!("{what} at {at}, more than an hour ahead of the aggregator: check the node's clock");
        return Err(Refusal { reason: GapReason::FutureTime, detail });
    }
    Ok(())
}

/// An agent concludes by the rules of its node and no others.
fn accept_edge(mut edge: Edge, now: Timestamp) -> Result<Edge, Refusal> {
    in_calendar(&[edge.cause_occurred_at, edge.effect_occurred_at])?;
    not_ahead("edge", edge.effect_occurred_at, now)?;
    id_not_ahead(edge.cause_id, now)?;
    id_not_ahead(edge.effect_id, now)?;
    let is_its_own = rule::by_id(&edge.rule_id).is_some_and(|rule| {
        rule.owner == Owner::Node
            && rule.pattern == edge.pattern
            && (rule.cause, rule.effect) == (edge.cause_kind, edge.effect_kind)
    });
    if !is_its_own {
        let detail = format!("an edge by rule {:?}, which is no rule of agents", edge.rule_id);
        return Err(Refusal { reason: GapReason::Unauthorized, detail });
    }
    edge.recorded_at = None;
    edge.cause_summary = text::escape(&edge.cause_summary);
    Ok(edge)
}

#[cfg(test)]
mod tests;
