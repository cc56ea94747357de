//! Which identities memory keeps, which it lets go, and that those are found in segments.

use std::sync::Arc;

use aftertrace_model::{Event, GapReason, Kind, Timestamp};

use super::*;
use crate::store::{Rows, Store, StoreConfig};
use crate::testing;

fn seen(kept: usize) -> Seen {
    Seen::new(std::iter::empty(), None, kept)
}

#[test]
fn what_is_not_in_segments_is_never_forgotten() {
    let mut seen = seen(2);
    for key in 1..=5 {
        seen.insert(key, key as u64);
    }
    seen.trim(1, true);
    assert_eq!(seen.recent.keys().copied().collect::<Vec<_>>(), [4, 5]);
    assert!(!seen.contains(1) && seen.is_unsure(1), "in segments: to be looked up");
    assert!(seen.contains(2) && seen.contains(3), "not in segments: kept");
    assert!(!seen.is_unsure(6), "above the floor and unseen: new");
    seen.insert(0, 6);
    seen.trim(5, true);
    assert!(seen.contains(0), "a late one is kept until it is in segments");
    seen.trim(6, true);
    assert!(!seen.contains(0) && seen.is_unsure(0));
}

#[test]
fn without_time_in_the_identity_any_may_have_been_let_go() {
    let mut seen = seen(1);
    seen.insert(7, 1);
    seen.insert(9, 1);
    assert!(!seen.is_unsure(100));
    seen.trim(1, false);
    assert!(seen.is_unsure(100) && seen.contains(9));
    seen.insert(3, 2);
    assert!(seen.contains(3));
}

#[test]
fn an_edge_sorts_with_its_effect() {
    let id = |ms: u128| EventId(Uuid::from_u128((ms << 80) | 77));
    let early = edge_key(id(9), id(5), "a.b");
    assert_eq!(early >> 80, 5);
    assert_ne!(early, edge_key(id(9), id(5), "a.c"));
    assert_ne!(early, edge_key(id(8), id(5), "a.b"));
}

const T0: Timestamp = Timestamp::from_micros(1_795_171_922_000_000);

/// The `n`-th event, `n` seconds after the epoch of tests, stamped.
fn event_at(n: u64) -> Event {
    Event { recorded_at: Some(T0), ..testing::event(n, Kind::OomKill, n.cast_signed()) }
}

fn edge_at(n: u64) -> Edge {
    Edge { recorded_at: Some(T0), ..testing::edge(&event_at(0), &event_at(n)) }
}

fn gap_at(n: u64) -> Gap {
    Gap {
        gap_id: Uuid::from_u128(n.into()),
        cluster: "test".to_owned(),
        node: None,
        component: "test".to_owned(),
        reason: GapReason::RingFull,
        from: T0,
        to: T0,
        count: 0,
        detail: String::new(),
        recorded_at: Some(T0),
    }
}

fn version_at(n: u64) -> ObjectVersion {
    ObjectVersion {
        cluster: "test".to_owned(),
        kind: "ConfigMap".to_owned(),
        namespace: "shop".to_owned(),
        name: "it's".to_owned(),
        uid: "u".to_owned(),
        resource_version: n.to_string(),
        valid_from: T0,
        deleted: false,
        state: "{}".to_owned(),
        content: None,
        changed_paths: Vec::new(),
        recorded_at: Some(T0),
    }
}

#[test]
fn what_memory_let_go_is_found_in_segments() {
    let dir = tempfile::tempdir().expect("a folder");
    let config = StoreConfig { dir: dir.path().to_owned(), cluster: "test".to_owned() };
    let (shared, reader) = Store::open(config).expect("opens").into_parts();
    let stored = 1..=6;
    let rows = Rows {
        events: stored.clone().map(event_at).map(Arc::new).collect(),
        edges: stored.clone().map(edge_at).collect(),
        gaps: stored.clone().map(gap_at).collect(),
        objects: stored.clone().map(version_at).collect(),
        retractions: Vec::new(),
    };
    shared.flush(&rows, 1, T0).expect("flushed");
    for kept in [2, 100] {
        let seen = Dedupe::load_at_most(&reader, kept).expect("loaded");
        assert_eq!((seen.events.recent.len(), seen.edges.recent.len()), (kept.min(6), kept.min(6)));
        for n in 1..=8 {
            let (event_n, edge_n) = (event_at(n), edge_at(n));
            let (gap_n, version_n) = (gap_at(n), version_at(n));
            let old = seen
                .look_up(&reader, &[event_n.event_id], &[&edge_n], &[&version_n], &[&gap_n])
                .expect("looked up");
            let known = |seen: &Seen, key| seen.contains(key) || old.contains(key);
            let found = [
                known(&seen.events, event(event_n.event_id)),
                known(&seen.edges, edge(&edge_n)),
                known(&seen.versions, version(&version_n)),
                known(&seen.gaps, gap_n.gap_id.as_u128()),
            ];
            assert_eq!(found, [stored.contains(&n); 4], "number {n}, {kept} kept");
        }
    }
}
