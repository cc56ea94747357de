//! The same facts, once or many times and in any order, give the same rows.

use aftertrace_aggregator::writer::Facts;
use aftertrace_model::Kind;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use crate::facts::{at, block_on, config, everything, gap, oom, start, version};

/// Three kills, two changes before a swap, objects and a gap: with edges of agents and of the engine, and a
/// choice between causes that depends on what is known.
fn story() -> Vec<Facts> {
    let mut story: Vec<Facts> =
        (0..3).map(|i| oom(&format!("pod-{i}"), 100 * i, at(i.cast_signed()))).collect();
    let changes = [(1_000, 10), (1_001, 20)];
    for (sequence, second) in changes {
        let event = config(Kind::ConfigChanged, "pod-0", sequence, at(second));
        story.push(Facts { events: vec![event], ..Facts::default() });
    }
    let swap = config(Kind::ConfigSwapped, "pod-0", 1_002, at(60));
    story.push(Facts { events: vec![swap], ..Facts::default() });
    let objects = vec![version("settings", 7, at(5), false), version("settings", 9, at(20), false)];
    story.push(Facts { objects, gaps: vec![gap(5, at(1), at(2))], ..Facts::default() });
    story
}

fn rows_of(submissions: &[Facts]) -> impl PartialEq + std::fmt::Debug + use<> {
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, reader) = start(dir.path());
    block_on(async {
        for facts in submissions {
            writer.submit(facts.clone()).await.expect("accepted");
        }
        writer.shutdown().await.expect("flushed");
    });
    (everything(&reader), reader.counts()["events"], reader.counts()["objects"], reader.counts()["gaps"])
}

#[test]
fn order_and_repetition_change_nothing() {
    let story = story();
    let expected = rows_of(&story);
    let mut random = StdRng::seed_from_u64(20_261_120);
    for _ in 0..4 {
        let mut twice: Vec<Facts> = story.iter().chain(&story).cloned().collect();
        twice.shuffle(&mut random);
        for facts in &mut twice {
            facts.events.shuffle(&mut random);
        }
        assert_eq!(rows_of(&twice), expected);
    }
}

#[test]
fn a_story_has_its_edges() {
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, reader) = start(dir.path());
    let accepted = block_on(async {
        let mut all = Vec::new();
        for facts in story().iter().chain(&story()) {
            all.push(writer.submit(facts.clone()).await.expect("accepted"));
        }
        writer.shutdown().await.expect("flushed");
        all
    });
    let (first, second) = accepted.split_at(story().len());
    assert_eq!(first.iter().map(|a| a.duplicates).sum::<u64>(), 0);
    assert_eq!(first.iter().map(|a| a.events).sum::<u64>(), 18);
    assert_eq!(second.iter().map(|a| a.events).sum::<u64>(), 0);
    assert_eq!(second.iter().map(|a| a.duplicates).sum::<u64>(), 18 + 9 + 2 + 1);
    let position = first.last().expect("a story").position;
    assert!(second.iter().all(|a| a.position == position), "duplicates take no frame: {second:?}");

    let (_, edges, gaps, objects) = everything(&reader);
    let mut rules: Vec<&str> = edges.iter().map(|e| e.rule_id.as_str()).collect();
    rules.sort_unstable();
    let mut expected = Vec::new();
    for rule in [
        "container_terminated.container_waiting",
        "memory_pressure.oom_episode",
        "oom_episode.oom_kill",
        "oom_kill.container_terminated",
    ] {
        expected.extend([rule; 3]);
    }
    expected.insert(0, "config_changed.config_swapped");
    expected.sort_unstable();
    assert_eq!(rules, expected, "the swap has one live cause");
    let swap = edges.iter().find(|e| e.pattern == "P003").expect("the swap has a cause");
    assert_eq!(swap.lag_us, 40_000_000, "the last change before it");
    assert_eq!(gaps.len(), 1);
    assert_eq!(objects.iter().map(|o| o.resource_version.as_str()).collect::<Vec<_>>(), ["9"]);
    assert_eq!(reader.counts()["edge_retractions"], 0, "in order of time nothing is revised but one choice");
}
