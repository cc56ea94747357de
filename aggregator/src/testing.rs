//! What tests of several modules build facts from.

use std::sync::Arc;

use aftertrace_model::fact::FactKey;
use aftertrace_model::{Edge, Event, Grade, Kind, Occurrence, PodRef, Severity, Source, Timestamp};
use uuid::Uuid;

use crate::writer::{Committed, Origin};

/// A second after the epoch of tests.
pub(crate) const fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_795_000_000_000_000 + second * 1_000_000)
}

/// A kernel fact of pod `shop/checkout` on `node1`.
pub(crate) fn event(sequence: u64, kind: Kind, second: i64) -> Event {
    let occurred = Occurrence::within(at(second), 0);
    let key = FactKey::Record { spool_id: Uuid::nil(), sequence };
    Event {
        node: Some("node1".to_owned()),
        pod: Some(pod("a")),
        container: Some("app".to_owned()),
        container_id: Some("c0ffee".to_owned()),
        restart_count: Some(0),
        severity: Severity::Error,
        summary: format!("{kind} {sequence}"),
        ..Event::new(key.event_id("c", occurred.at), kind, occurred, "c", Source::Kernel, "test")
    }
}

/// The pod `shop/checkout` with this uid.
pub(crate) fn pod(uid: &str) -> PodRef {
    PodRef { namespace: "shop".to_owned(), name: "checkout".to_owned(), uid: uid.to_owned() }
}

/// An edge by a rule of agents.
pub(crate) fn edge(cause: &Event, effect: &Event) -> Edge {
    Edge {
        cause_id: cause.event_id,
        effect_id: effect.event_id,
        pattern: "P001".to_owned(),
        rule_id: format!("{}.{}", cause.kind, effect.kind),
        grade: Grade::Identified,
        confidence: None,
        lag_us: effect.occurred.at.micros_since(cause.occurred.at),
        evidence: Default::default(),
        cause_kind: cause.kind,
        cause_occurred_at: cause.occurred.at,
        cause_summary: cause.summary.clone(),
        effect_kind: effect.kind,
        effect_occurred_at: effect.occurred.at,
        recorded_at: None,
    }
}

/// Facts as the writer tells them.
pub(crate) fn committed(position: u64, events: &[Event], edges: &[Edge]) -> Committed {
    Committed {
        origin: Origin::Live,
        wal_position: position,
        recorded_at: at(1_000),
        events: events.iter().cloned().map(Arc::new).collect(),
        edges: edges.to_vec(),
        retractions: Vec::new(),
        objects: Vec::new(),
        gaps: Vec::new(),
    }
}
