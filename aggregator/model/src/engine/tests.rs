//! Cause and effect, and what only looks like it. Each case is a readable trace of facts.

mod kernel;

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use uuid::Uuid;

use super::*;
use crate::config::ObjectKey;
use crate::{Kind, ObjectRef, Occurrence, PodRef, Source};

const S: i64 = 1_000_000;
const HEX: &str = "2c3d4f330fa69218432aed54a0a5511e4ec6c7ff3b513d5267490075c25b1596";

fn event(n: u128, kind: Kind, at: i64) -> Event {
    let occurred = Occurrence::within(Timestamp::from_micros(at), 50);
    Event {
        node: Some("node1".into()),
        pod: Some(PodRef { namespace: "shop".into(), name: "checkout".into(), uid: "u1".into() }),
        container: Some("app".into()),
        container_id: Some(HEX.into()),
        restart_count: Some(0),
        cgroup_id: Some(7),
        summary: format!("{kind} {n}"),
        ..Event::new(EventId(Uuid::from_u128(n)), kind, occurred, "test", Source::Kernel, "test")
    }
}

fn kill(n: u128, at: i64, init: Option<bool>) -> Event {
    Event {
        container_init: init,
        episode_id: Some(EventId(Uuid::from_u128(n - 1))),
        ..event(n, Kind::OomKill, at)
    }
}

fn terminated(n: u128, second: i64, restart_count: i32, id: &str, code: i32) -> Event {
    Event {
        occurred: Occurrence::floored_to_second(Timestamp::from_micros(second * S)),
        restart_count: Some(restart_count),
        container_id: Some(id.into()),
        reason: Some("OOMKilled".into()),
        exit_code: Some(code),
        ..event(n, Kind::ContainerTerminated, 0)
    }
}

fn attempt(n: u128, kind: Kind, second: i64, restart_count: i32) -> Event {
    Event {
        occurred: Occurrence::floored_to_second(Timestamp::from_micros(second * S)),
        restart_count: Some(restart_count),
        ..event(n, kind, 0)
    }
}

fn config(n: u128, kind: Kind, at: i64, value: Option<&str>) -> Event {
    let key = ObjectKey::derive(&[1; 32], "ConfigMap", "shop", "cfg");
    Event {
        object: Some(ObjectRef {
            kind: "ConfigMap".into(),
            namespace: "shop".into(),
            name: "cfg".into(),
            uid: Some("cm1".into()),
            resource_version: Some(n.to_string()),
        }),
        content: value.map(|v| key.content([("app.conf", v.as_bytes())])),
        ..event(n, kind, at)
    }
}

/// The live edges after all facts, as `cause->effect`.
fn live(owner: Owner, facts: &[Event]) -> BTreeSet<String> {
    let mut engine = Engine::new(owner, 1_000);
    let mut edges = BTreeSet::new();
    for fact in facts {
        for derived in engine.observe(&Arc::new(fact.clone())) {
            match derived {
                Derived::Edge(e) => {
                    assert!(edges.insert(name(e.cause_id, e.effect_id)), "an edge was given twice");
                }
                Derived::Retraction(r) => {
                    assert!(edges.remove(&name(r.cause_id, r.effect_id)), "retracted what was not there");
                }
            }
        }
    }
    edges
}

fn name(cause: EventId, effect: EventId) -> String {
    format!("{}->{}", cause.0.as_u128(), effect.0.as_u128())
}

fn check(owner: Owner, facts: &[Event], expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|e| (*e).to_owned()).collect();
    assert_eq!(live(owner, facts), expected, "in order");
    let reversed: Vec<_> = facts.iter().rev().cloned().collect();
    assert_eq!(live(owner, &reversed), expected, "reversed");
    let twice: Vec<_> = facts.iter().chain(facts).cloned().collect();
    assert_eq!(live(owner, &twice), expected, "twice");
}

#[test]
fn an_oom_kill_ends_its_container_and_it_starts_again() {
    let facts = [
        event(1, Kind::OomEpisode, 10 * S),
        kill(2, 10 * S + 100, Some(true)),
        terminated(3, 10, 0, HEX, 137),
        attempt(4, Kind::ContainerWaiting, 11, 0),
        Event { container_id: Some("next".into()), ..attempt(5, Kind::ContainerStarted, 12, 1) },
    ];
    check(Owner::Node, &facts, &["1->2", "2->3", "3->4", "3->5", "4->5"]);
    check(Owner::Cluster, &facts, &[]);
}

#[test]
fn near_in_time_is_not_cause_and_effect() {
    let other_life = terminated(3, 10, 1, "another", 137);
    check(Owner::Node, &[kill(2, 10 * S + 100, Some(true)), other_life], &[]);

    let mut other_pod = terminated(3, 10, 0, HEX, 137);
    other_pod.pod.as_mut().expect("set").uid = "u2".into();
    check(Owner::Node, &[kill(2, 10 * S + 100, Some(true)), other_pod], &[]);

    let ended_before = terminated(3, 9, 0, HEX, 137);
    check(Owner::Node, &[kill(2, 10 * S + 100, Some(true)), ended_before], &[]);

    let two_restarts_later = attempt(5, Kind::ContainerStarted, 12, 2);
    check(Owner::Node, &[terminated(3, 10, 0, HEX, 137), two_restarts_later], &[]);
}

#[test]
fn a_childs_death_does_not_end_the_container() {
    let exited_later = terminated(3, 60, 0, HEX, 0);
    check(Owner::Node, &[kill(2, 10 * S, Some(false)), exited_later], &[]);
    let same_second = terminated(3, 10, 0, HEX, 137);
    check(Owner::Node, &[kill(2, 10 * S, Some(false)), same_second], &[]);
}

#[test]
fn an_unknown_victim_needs_the_status_to_agree() {
    check(Owner::Node, &[kill(2, 10 * S + 5, None), terminated(3, 10, 0, HEX, 137)], &["2->3"]);
    check(Owner::Node, &[kill(2, 10 * S + 5, None), terminated(3, 10, 0, HEX, 0)], &[]);
    check(Owner::Node, &[kill(2, 10 * S + 5, None), terminated(3, 30, 0, HEX, 137)], &[]);
}

#[test]
fn a_swap_belongs_to_the_version_whose_content_it_shows() {
    let v2 = config(2, Kind::ConfigChanged, 20 * S, Some("two"));
    let v3 = config(3, Kind::ConfigChanged, 80 * S, Some("three"));
    let swap_of_v2 = config(9, Kind::ConfigSwapped, 81 * S, Some("two"));
    check(Owner::Cluster, &[v2.clone(), v3.clone(), swap_of_v2], &["2->9"]);
    let swap_of_neither = config(9, Kind::ConfigSwapped, 81 * S, Some("four"));
    check(Owner::Cluster, &[v2.clone(), v3.clone(), swap_of_neither], &[]);
    let unhashed = config(9, Kind::ConfigSwapped, 81 * S, None);
    check(Owner::Cluster, &[v2.clone(), v3, unhashed], &["3->9"]);
    let too_late = config(9, Kind::ConfigSwapped, 500 * S, None);
    check(Owner::Cluster, &[v2.clone(), too_late], &[]);
    let before = config(9, Kind::ConfigSwapped, 19 * S, Some("two"));
    check(Owner::Cluster, &[v2, before], &[]);
}

#[test]
fn pressure_counts_within_its_window() {
    let facts = [
        event(1, Kind::MemoryPressure, 10 * S),
        event(2, Kind::MemoryPressure, 40 * S),
        event(3, Kind::OomEpisode, 41 * S),
    ];
    check(Owner::Cluster, &facts, &["2->3"]);
    check(Owner::Cluster, &[event(1, Kind::MemoryPressure, 10 * S), event(3, Kind::OomEpisode, 71 * S)], &[]);
}

#[test]
fn the_window_is_bounded_and_says_what_it_dropped() {
    let mut engine = Engine::new(Owner::Node, 2);
    for n in 1..=5 {
        engine.observe(&Arc::new(event(n, Kind::OomEpisode, i64::try_from(n).expect("small") * S)));
    }
    assert_eq!(
        (engine.len(), engine.take_evicted().map(|e| e.count), engine.take_evicted()),
        (2, Some(3), None)
    );
}

#[test]
fn the_window_is_bounded_in_bytes() {
    let large = |n| Event {
        summary: "x".repeat(10_000),
        ..event(n, Kind::OomEpisode, i64::try_from(n).expect("small") * S)
    };
    let mut engine = Engine::new(Owner::Node, 1_000).within_bytes(35_000);
    for n in 1..=5 {
        engine.observe(&Arc::new(large(n)));
    }
    assert_eq!((engine.len(), engine.take_evicted().map(|e| e.count)), (3, Some(2)));
    // A fact larger than the bound stays alone, and what left gave its bytes back.
    engine.observe(&Arc::new(Event { summary: "x".repeat(40_000), ..large(6) }));
    assert_eq!(engine.len(), 1);
    engine.observe(&Arc::new(large(7)));
    engine.observe(&Arc::new(large(8)));
    assert_eq!(engine.len(), 2);
}

/// Facts of every rule, near each other in time and place.
fn mixed() -> Vec<Event> {
    let mut facts = vec![
        event(1, Kind::OomEpisode, 10 * S),
        kill(2, 10 * S + 100, Some(true)),
        terminated(3, 10, 0, HEX, 137),
        attempt(4, Kind::ContainerWaiting, 11, 0),
        attempt(5, Kind::ContainerStarted, 12, 1),
        event(6, Kind::MemoryPressure, 5 * S),
        event(7, Kind::MemoryPressure, 9 * S),
        config(11, Kind::ConfigChanged, 20 * S, Some("a")),
        config(12, Kind::ConfigChanged, 21 * S, Some("b")),
        config(13, Kind::ConfigChanged, 22 * S, Some("a")),
        config(14, Kind::ConfigSwapped, 30 * S, Some("a")),
        config(15, Kind::ConfigSwapped, 31 * S, None),
    ];
    facts.extend(kernel::kills());
    facts.extend(kernel::reload());
    facts
}

proptest! {
    #[test]
    fn any_order_gives_the_same_live_edges(order in Just((0..mixed().len()).collect::<Vec<_>>()).prop_shuffle()) {
        let facts = mixed();
        let shuffled: Vec<_> = order.iter().map(|i| facts[*i].clone()).collect();
        for owner in [Owner::Node, Owner::Cluster] {
            prop_assert_eq!(live(owner, &shuffled), live(owner, &facts));
        }
        let set = |edges: &[&str]| edges.iter().map(|e| (*e).to_owned()).collect::<BTreeSet<_>>();
        let node: Vec<_> = ["1->2", "2->3", "3->4", "3->5", "4->5"]
            .iter().chain(kernel::KILL_EDGES).chain(kernel::RELOAD_EDGES).copied().collect();
        prop_assert_eq!(live(Owner::Node, &facts), set(&node));
        // Swaps without hashes go to the last change before them.
        prop_assert_eq!(live(Owner::Cluster, &facts), set(&["7->1", "13->14", "13->15", "13->40"]));
    }
}
