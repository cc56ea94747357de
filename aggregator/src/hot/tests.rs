//! What is found, what retractions do, and what the bound costs.

use super::*;
use crate::query::FactQuery;
use crate::testing::{at, committed, edge, event};
use aftertrace_model::Retraction;

fn ids(events: &[Arc<Event>]) -> Vec<EventId> {
    events.iter().map(|e| e.event_id).collect()
}

#[test]
fn the_latest_of_a_pod_come_oldest_first() {
    let hot = Hot::default();
    let [a, b, c] =
        [3, 1, 2].map(|second| event(second, Kind::OomKill, i64::try_from(second).expect("small")));
    hot.commit(&committed(1, &[a.clone(), b.clone(), c.clone()], &[]));
    let all = hot.facts(&FactQuery::of_pod("shop", Some("checkout"), at(0), at(9), 9));
    assert_eq!(ids(&all), [b.event_id, c.event_id, a.event_id]);
    let latest = hot.facts(&FactQuery::of_pod("shop", None, at(0), at(9), 2));
    assert_eq!(ids(&latest), [c.event_id, a.event_id]);
    assert_eq!(
        ids(&hot.facts(&FactQuery::of_pod("shop", None, at(1), at(1), 9))),
        [b.event_id],
        "bounds are inclusive"
    );
    assert!(hot.facts(&FactQuery::of_pod("shop", Some("other"), at(0), at(9), 9)).is_empty());
    assert!(
        hot.facts(&FactQuery::of_pod("shop", None, at(9), at(0), 9)).is_empty(),
        "an interval that ends before it begins"
    );
}

#[test]
fn a_retracted_edge_is_gone_even_if_only_segments_have_it() {
    let hot = Hot::default();
    let (cause, effect) = (event(1, Kind::OomKill, 1), event(2, Kind::ContainerTerminated, 2));
    let joined = edge(&cause, &effect);
    hot.commit(&committed(1, &[cause.clone(), effect.clone()], std::slice::from_ref(&joined)));
    assert_eq!(hot.edges_touching(&[cause.event_id, effect.event_id]).len(), 1, "once, from both ends");
    let retraction = Retraction {
        cause_id: cause.event_id,
        effect_id: effect.event_id,
        rule_id: joined.rule_id.clone(),
        reason: String::new(),
        effect_occurred_at: at(2),
        recorded_at: None,
    };
    let both = Committed {
        retractions: vec![retraction.clone()],
        ..committed(1, &[cause.clone(), effect.clone()], std::slice::from_ref(&joined))
    };
    let at_once = Hot::default();
    at_once.commit(&both);
    assert!(at_once.edges_touching(&[effect.event_id]).is_empty(), "made and outdone in one commit");
    hot.commit(&Committed { retractions: vec![retraction], ..committed(2, &[], &[]) });
    assert!(hot.edges_touching(&[effect.event_id]).is_empty());
    assert!(hot.is_retracted(&joined));
    hot.commit(&committed(3, &[], std::slice::from_ref(&joined)));
    assert!(!hot.is_retracted(&joined), "made again, it holds again");
}

#[test]
fn rows_committed_first_leave_first_with_all_their_places() {
    let hot = Hot::new(3, usize::MAX);
    let events: Vec<_> =
        (0..5).map(|n| event(n, Kind::OomKill, 5 - i64::try_from(n).expect("small"))).collect();
    for (n, e) in (1..).zip(&events) {
        hot.commit(&committed(n, std::slice::from_ref(e), &[]));
    }
    assert!(hot.event(events[1].event_id).is_none() && hot.event(events[2].event_id).is_some());
    assert_eq!(hot.facts(&FactQuery::of_pod("shop", None, at(0), at(9), 9)).len(), 3);
    assert_eq!(hot.of_kind_after(Kind::OomKill, at(0), 0).len(), 3);
    assert_eq!(hot.as_of().wal_position, 5);
}

#[test]
fn counts_only_what_was_committed_after_a_position() {
    let hot = Hot::default();
    hot.commit(&committed(1, &[event(1, Kind::OomKill, 1)], &[]));
    hot.commit(&committed(2, &[event(2, Kind::OomKill, 2), event(3, Kind::ConfigSwapped, 2)], &[]));
    let after = hot.of_kind_after(Kind::OomKill, at(0), 1);
    assert_eq!(after.len(), 1);
    assert_eq!(after[0].occurred.at, at(2));
    assert!(hot.of_kind_after(Kind::OomKill, at(3), 0).is_empty());
}

#[test]
fn knows_what_it_no_longer_holds() {
    let hour = 3_700;
    let hot = Hot::new(2, usize::MAX);
    let commit = |n: u64, second| {
        let e = event(n, Kind::OomKill, second);
        hot.commit(&Committed { recorded_at: at(second), ..committed(n, &[e], &[]) });
    };
    commit(1, 10);
    commit(2, 20);
    assert!(hot.covers(at(0)), "nothing ever left");
    commit(3, 30);
    assert!(
        !hot.covers(at(10 + hour)),
        "the row that left was recorded at 10 and may be about an hour later"
    );
    assert!(hot.covers(at(11 + hour)));
    hot.begins_at(at(100));
    assert!(!hot.covers(at(11 + hour)) && hot.covers(at(101 + hour)));
}

#[test]
fn large_rows_leave_sooner() {
    let large = |n: u64| Event { summary: "x".repeat(10_000), ..event(n, Kind::OomKill, 1) };
    let hot = Hot::new(1_000, 35_000);
    for n in 1..=5 {
        hot.commit(&committed(n, &[large(n)], &[]));
    }
    let held = |n| hot.event(large(n).event_id).is_some();
    assert_eq!([1, 2, 3, 4, 5].map(held), [false, false, true, true, true]);
    assert!(!hot.covers(at(0)), "segments have to be asked for what left");
}
