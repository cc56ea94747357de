//! Facts → edges: the rules that this node owns, over this node's own window.
//!
//! The same pure engine as the aggregator's, with the other owner. Node rules join identities and are never
//! revised, so there are edges here and no retractions.

use std::sync::Arc;

use aftertrace_model::{Derived, Edge, Engine, Event, GapReason, Owner};

use crate::losses::Ledger;
use crate::spool::TAIL_EVENTS_MAX;

/// The node's engine.
#[derive(Debug)]
pub(crate) struct Correlator {
    engine: Engine,
}

impl Correlator {
    /// An engine filled with what the spool still holds. Edges between those facts are in the spool too.
    pub(crate) fn new(tail: Vec<Event>) -> Self {
        let mut engine = Engine::new(Owner::Node, TAIL_EVENTS_MAX);
        for event in tail {
            engine.observe(&Arc::new(event));
        }
        Self { engine }
    }

    /// What follows from a fact.
    pub(crate) fn observe(&mut self, event: Event) -> Vec<Edge> {
        let derived = self.engine.observe(&Arc::new(event));
        derived
            .into_iter()
            .filter_map(|d| match d {
                Derived::Edge(edge) => Some(edge),
                Derived::Retraction(_) => None,
            })
            .collect()
    }

    /// Counts the facts that the window had no room for.
    pub(crate) fn count_evicted(&mut self, ledger: &Ledger) {
        if let Some(evicted) = self.engine.take_evicted() {
            let detail = "the oldest facts left the node's window";
            let span = (evicted.from, evicted.to);
            ledger.add_between("agent/correlate", GapReason::WindowFull, span, evicted.count, detail);
        }
    }
}
