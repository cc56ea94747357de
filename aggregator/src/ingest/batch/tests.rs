//! What becomes of good, broken, early and foreign items.

use super::*;
use crate::testing::{at, edge, event, pod};
use aftertrace_api::proto::item::Item as Wire;

const SPOOL: Uuid = Uuid::from_u128(7);

fn speaker() -> Speaker {
    Speaker { cluster: "c".to_owned(), node: "node1".to_owned(), spool_id: SPOOL }
}

/// A watch that knows pod `a` on node1 and pod `b` on node2 since the epoch of tests.
fn placements() -> Placements {
    let placements = Placements::default();
    for (uid, node) in [("a", "node1"), ("b", "node2")] {
        placements.note("shop", "checkout", uid, &json!({"spec": {"nodeName": node}}));
    }
    placements.cover(Some(at(0)));
    placements
}

fn wire(event: &Event) -> Wire {
    Wire::Event(event.into())
}

/// Sorts items; returns kinds of events taken, edges taken, sequences held, reasons of gaps.
fn check(items: Vec<Wire>, expected: (usize, usize, &[u64], &[GapReason])) -> Sorted {
    let items = items.into_iter().map(|item| proto::Item { item: Some(item) }).collect();
    let sorted = speaker().sort(proto::Batch { first_sequence: 10, items }, &placements(), at(100));
    let held: Vec<_> = sorted.held.iter().map(|h| h.sequence).collect();
    let reasons: Vec<_> = sorted.facts.gaps.iter().map(|g| g.reason).collect();
    let found = (sorted.facts.events.len(), sorted.facts.edges.len(), held.as_slice(), reasons.as_slice());
    assert_eq!(found, expected);
    sorted
}

#[test]
fn a_malformed_item_costs_itself_only() {
    let good = event(1, Kind::OomKill, 1);
    let broken = proto::Event { event_id: vec![1, 2], ..(&good).into() };
    let sorted = check(
        vec![wire(&good), Wire::Event(broken), wire(&good)],
        (2, 0, &[], &[GapReason::RecordMalformed]),
    );
    let detail = &sorted.facts.gaps[0].detail;
    assert!(detail.contains("event_id has 2 bytes"), "the gap says what is wrong: {detail}");
    let unknown = proto::Event { kind: "x\u{1b}[2J".to_owned(), ..(&good).into() };
    let sorted = check(vec![Wire::Event(unknown)], (0, 0, &[], &[GapReason::RecordMalformed]));
    assert!(!sorted.facts.gaps[0].detail.contains('\u{1b}'), "hostile text is escaped");
}

#[test]
fn a_time_that_could_not_be_read_back_is_refused() {
    let good = event(1, Kind::OomKill, 1);
    for us in [i64::MIN, i64::MIN + 1, -1] {
        let early = proto::Event { earliest_us: us, ..(&good).into() };
        check(vec![Wire::Event(early)], (0, 0, &[], &[GapReason::RecordMalformed]));
        let cause = event(1, Kind::OomEpisode, 1);
        let edge = proto::Edge { cause_occurred_at_us: us, ..(&edge(&cause, &good)).into() };
        check(vec![Wire::Edge(edge)], (0, 0, &[], &[GapReason::RecordMalformed]));
        let gap = proto::Gap {
            from_us: us,
            gap_id: vec![0; 16],
            reason: "ring_full".to_owned(),
            ..Default::default()
        };
        check(vec![Wire::Gap(gap)], (0, 0, &[], &[GapReason::RecordMalformed]));
    }
    let late = proto::Event { latest_us: i64::MAX, ..(&good).into() };
    check(vec![Wire::Event(late)], (0, 0, &[], &[GapReason::RecordMalformed]));
    let far = proto::Event { event_id: vec![0xff; 16], ..(&good).into() };
    check(vec![Wire::Event(far)], (0, 0, &[], &[GapReason::FutureTime]));
}

#[test]
fn an_item_sent_again_is_the_same_gap() {
    let broken = || vec![Wire::Event(proto::Event::default())];
    let first = check(broken(), (0, 0, &[], &[GapReason::RecordMalformed]));
    let again = check(broken(), (0, 0, &[], &[GapReason::RecordMalformed]));
    assert_eq!(first.facts.gaps[0].gap_id, again.facts.gaps[0].gap_id);
}

#[test]
fn the_node_is_the_speakers_whatever_the_item_says() {
    let forged = Event {
        node: Some("node9".to_owned()),
        cluster: "other".to_owned(),
        recorded_at: Some(at(0)),
        ..event(1, Kind::OomKill, 1)
    };
    let sorted = check(vec![wire(&forged)], (1, 0, &[], &[]));
    let taken = &sorted.facts.events[0];
    assert_eq!((taken.node.as_deref(), taken.cluster.as_str()), (Some("node1"), "c"));
    assert_eq!(taken.recorded_at, None);
}

#[test]
fn a_time_more_than_an_hour_ahead_is_quarantined() {
    let within = event(1, Kind::OomKill, 100 + 3_600);
    let beyond = event(2, Kind::OomKill, 100 + 3_601);
    check(vec![wire(&within), wire(&beyond)], (1, 0, &[], &[GapReason::FutureTime]));
}

#[test]
fn a_fact_about_a_pod_of_another_node_is_refused_and_of_an_unknown_one_held() {
    let here = event(1, Kind::OomKill, 1);
    let there = Event { pod: Some(pod("b")), ..event(2, Kind::OomKill, 1) };
    let unknown = Event { pod: Some(pod("new")), ..event(3, Kind::OomKill, 1) };
    let none = Event { pod: None, ..event(4, Kind::OomKill, 1) };
    check(
        vec![wire(&here), wire(&there), wire(&unknown), wire(&none)],
        (2, 0, &[12], &[GapReason::Unauthorized]),
    );
}

#[test]
fn a_fact_from_before_the_watch_is_taken_and_says_so() {
    let early = Event { pod: Some(pod("gone")), ..event(1, Kind::OomKill, -5) };
    let sorted = check(vec![wire(&early)], (1, 0, &[], &[]));
    assert!(sorted.facts.events[0].attributes.contains_key(UNCONFIRMED));
}

#[test]
fn agents_conclude_by_their_own_rules_only() {
    let (kill, end) = (event(1, Kind::OomKill, 1), event(2, Kind::ContainerTerminated, 2));
    let own = edge(&kill, &end);
    let of_the_cluster = Edge { rule_id: "config_changed.config_swapped".to_owned(), ..own.clone() };
    let invented = Edge { rule_id: "moon.oom".to_owned(), ..own.clone() };
    let items = [&own, &of_the_cluster, &invented].map(|e| Wire::Edge(e.into()));
    check(items.into(), (0, 1, &[], &[GapReason::Unauthorized, GapReason::Unauthorized]));
}

#[test]
fn what_the_aggregator_watches_itself_is_not_taken_from_agents() {
    check(vec![wire(&event(1, Kind::ConfigChanged, 1))], (0, 0, &[], &[GapReason::Unauthorized]));
}

#[test]
fn an_item_too_large_is_counted() {
    let large = Event { summary: "x".repeat(ITEM_BYTES_MAX), ..event(1, Kind::OomKill, 1) };
    check(vec![wire(&large)], (0, 0, &[], &[GapReason::RecordMalformed]));
}

#[test]
fn an_edge_joins_facts_of_its_own_node_only() {
    let kill = event(1, Kind::OomKill, 1);
    let end = event(2, Kind::ContainerTerminated, 2);
    let items = |e: &aftertrace_model::Edge| proto::Batch {
        first_sequence: 10,
        items: vec![proto::Item { item: Some(Wire::Edge(e.into())) }],
    };
    let judge = |known: &[&Event]| {
        let mut sorted = speaker().sort(items(&edge(&kill, &end)), &placements(), at(100));
        assert_eq!(sorted.edge_ends().len(), 2);
        let known = known.iter().map(|e| (e.event_id, Arc::new((*e).clone()))).collect();
        speaker().refuse_foreign_edges(&mut sorted, &known);
        assert_eq!(sorted.facts.edges.len(), sorted.edge_sequences.len());
        let reasons: Vec<_> = sorted.facts.gaps.iter().map(|g| g.reason).collect();
        (sorted.facts.edges.len(), reasons)
    };
    let taken = (1, Vec::new());
    let refused = (0, vec![GapReason::Unauthorized]);
    assert_eq!(judge(&[&kill, &end]), taken, "its own");
    assert_eq!(judge(&[]), taken, "not known yet");
    let foreign = Event { node: Some("node2".to_owned()), ..end.clone() };
    assert_eq!(judge(&[&kill, &foreign]), refused, "another node's end");
    assert_eq!(judge(&[&foreign]), refused);
    let nobodys = Event { node: None, ..kill.clone() };
    assert_eq!(judge(&[&nobodys]), refused, "the aggregator's own fact");
    let another = Event { kind: Kind::MemoryPressure, ..kill.clone() };
    assert_eq!(judge(&[&another]), refused, "another kind than the edge says");
}
