//! Kills by signal, ends of processes, and what became of a swap.

use super::*;
use crate::attribute;

/// A process fact: `start` seconds after boot it began, `boot` milliseconds after boot this happened.
fn process(n: u128, kind: Kind, at_ms: i64, pid: u32, start: u64) -> Event {
    let mut fact = event(n, kind, at_ms * 1_000);
    fact.pid = Some(pid);
    fact.boot_ns = Some(u64::try_from(at_ms).expect("after boot") * 1_000_000);
    fact.attributes.insert(attribute::PROCESS_START_BOOT_NS.to_owned(), (start * 1_000_000_000).into());
    fact
}

fn signalled(n: u128, at_ms: i64, signal: u64, init: bool) -> Event {
    let mut fact = process(n, Kind::ProcessKilled, at_ms, 500, 3);
    fact.container_init = Some(init);
    fact.attributes.insert(attribute::SIGNAL_NUMBER.to_owned(), signal.into());
    fact.attributes.insert(attribute::SIGNAL_RESULT.to_owned(), attribute::SIGNAL_DELIVERED.into());
    fact
}

fn exited(n: u128, at_ms: i64, signal: Option<u64>, code: i32) -> Event {
    let mut fact = process(n, Kind::ProcessExited, at_ms, 500, 3);
    fact.exit_code = Some(code);
    if let Some(signal) = signal {
        fact.attributes.insert(attribute::EXIT_SIGNAL.to_owned(), signal.into());
    }
    fact
}

fn oom_killed(n: u128, at_ms: i64) -> Event {
    Event { container_init: Some(true), ..process(n, Kind::OomKill, at_ms, 500, 3) }
}

/// A volume fact of generation `g`.
fn volume(n: u128, kind: Kind, second: i64, g: &str, object: Option<&str>) -> Event {
    let mut fact = config(n, kind, second * S, None);
    match object {
        Some(name) => fact.object.as_mut().expect("set").name = name.to_owned(),
        None => fact.object = None,
    }
    fact.attributes.insert(attribute::VOLUME_NAME.to_owned(), "flags".into());
    fact.attributes.insert(attribute::VOLUME_GENERATION.to_owned(), g.into());
    fact
}

/// Two kills in a life of its own each: by the OOM killer, and by a signal.
pub(super) fn kills() -> Vec<Event> {
    let life = |e: Event, id: &str| Event { container_id: Some(id.into()), restart_count: Some(7), ..e };
    let mut oom_exit = exited(21, 50_001, Some(9), 137);
    oom_exit.episode_id = Some(EventId(Uuid::from_u128(99)));
    let mut signal = signalled(23, 60_000, 15, true);
    let mut signal_exit = exited(24, 60_400, Some(15), 143);
    for fact in [&mut signal, &mut signal_exit] {
        fact.pid = Some(600);
    }
    vec![
        life(oom_killed(20, 50_000), "oom"),
        life(oom_exit, "oom"),
        terminated(22, 50, 7, "oom", 137),
        life(signal, "signal"),
        life(signal_exit, "signal"),
        terminated(25, 60, 9, "signal", 143),
    ]
}

pub(super) const KILL_EDGES: &[&str] = &["20->21", "20->22", "23->24", "23->25"];

/// A projected volume that shows two objects, one of which was swapped.
pub(super) fn reload() -> Vec<Event> {
    vec![
        volume(40, Kind::ConfigSwapped, 32, "..g2", Some("cfg")),
        volume(41, Kind::ConfigNotified, 32, "..g2", None),
        volume(42, Kind::ConfigRead, 33, "..g2", Some("cfg")),
        volume(43, Kind::ConfigRead, 33, "..g2", Some("other")),
        volume(44, Kind::ConfigWatched, 34, "..g2", None),
        volume(45, Kind::ConfigStale, 62, "..g2", Some("cfg")),
        volume(46, Kind::ConfigRead, 33, "..g1", Some("cfg")),
    ]
}

pub(super) const RELOAD_EDGES: &[&str] = &["40->41", "40->42", "40->44", "40->45"];

#[test]
fn a_signal_ends_the_process_that_shows_it() {
    check(Owner::Node, &[signalled(1, 1_000, 9, true), exited(2, 1_001, Some(9), 137)], &["1->2"]);
    check(Owner::Node, &[signalled(1, 1_000, 15, true), exited(2, 9_000, Some(15), 143)], &["1->2"]);
    // Asked to end, it did so by itself, or was killed by somebody else later.
    check(Owner::Node, &[signalled(1, 1_000, 15, true), exited(2, 1_500, None, 0)], &[]);
    check(Owner::Node, &[signalled(1, 1_000, 15, true), exited(2, 31_000, Some(9), 137)], &[]);
    // A program may exit with 137 of its own will.
    check(Owner::Node, &[signalled(1, 1_000, 9, true), exited(2, 1_001, None, 137)], &[]);
}

#[test]
fn a_pid_used_again_is_another_process() {
    let mut later = exited(2, 1_001, Some(9), 137);
    later.attributes.insert(attribute::PROCESS_START_BOOT_NS.to_owned(), 4_000_000_000_u64.into());
    check(Owner::Node, &[signalled(1, 1_000, 9, true), later.clone()], &[]);
    check(Owner::Node, &[oom_killed(1, 1_000), later], &[]);
    let elsewhere = Event { node: Some("node2".into()), ..exited(2, 1_001, Some(9), 137) };
    check(Owner::Node, &[oom_killed(1, 1_000), elsewhere], &[]);
    let mut unknown = exited(2, 1_001, Some(9), 137);
    unknown.attributes.remove(attribute::PROCESS_START_BOOT_NS);
    check(Owner::Node, &[oom_killed(1, 1_000), unknown], &[]);
}

#[test]
fn an_end_before_the_kill_is_not_its_effect() {
    // Within the bound of the wall clock, but one boot clock orders both.
    let kill = oom_killed(1, 1_000);
    let mut exit = exited(2, 1_000, Some(9), 137);
    check(Owner::Node, &[kill.clone(), exit.clone()], &["1->2"]);
    exit.boot_ns = exit.boot_ns.map(|ns| ns - 1);
    check(Owner::Node, &[kill.clone(), exit.clone()], &[]);
    // The signal comes before the mark, and the victim may run out in between.
    let mut kill = kill;
    kill.attributes.insert(attribute::OOM_SIGNAL_BOOT_NS.to_owned(), 999_000_000_u64.into());
    check(Owner::Node, &[kill, exit], &["1->2"]);
}

#[test]
fn an_oom_victim_that_ended_otherwise_was_ended_by_another() {
    check(Owner::Node, &[oom_killed(1, 1_000), exited(2, 1_001, Some(11), 139)], &[]);
    check(Owner::Node, &[oom_killed(1, 1_000), exited(2, 1_001, None, 0)], &[]);
}

#[test]
fn a_signal_to_what_the_oom_killer_ended_explains_nothing() {
    let mut exit = exited(3, 1_002, Some(9), 137);
    exit.episode_id = Some(EventId(Uuid::from_u128(90)));
    check(Owner::Node, &[oom_killed(1, 1_000), signalled(2, 1_001, 9, true), exit], &["1->3"]);
    let mut ignored = signalled(2, 1_001, 9, true);
    ignored.attributes.insert(attribute::SIGNAL_RESULT.to_owned(), "ignored".into());
    let facts =
        [oom_killed(1, 1_000), ignored, exited(3, 1_002, Some(9), 137), terminated(4, 1, 0, HEX, 137)];
    check(Owner::Node, &facts, &["1->3", "1->4"]);
}

#[test]
fn a_signal_ends_the_container_whose_status_shows_it() {
    check(Owner::Node, &[signalled(1, 1_000, 9, true), terminated(2, 1, 0, HEX, 137)], &["1->2"]);
    check(Owner::Node, &[signalled(1, 1_000, 15, true), terminated(2, 1, 0, HEX, 143)], &["1->2"]);
    for (what, kill, end) in [
        ("another code", signalled(1, 1_000, 15, true), terminated(2, 1, 0, HEX, 137)),
        ("no init", signalled(1, 1_000, 9, false), terminated(2, 1, 0, HEX, 137)),
        ("another life", signalled(1, 1_000, 9, true), terminated(2, 1, 1, "another", 137)),
        ("ended before", signalled(1, 3_000, 9, true), terminated(2, 1, 0, HEX, 137)),
    ] {
        assert_eq!(live(Owner::Node, &[kill, end]), BTreeSet::new(), "{what}");
    }
}

#[test]
fn what_follows_a_swap_is_of_its_generation_and_object() {
    check(Owner::Node, &reload(), RELOAD_EDGES);
    let mut other_pod = volume(2, Kind::ConfigRead, 33, "..g2", Some("cfg"));
    other_pod.pod.as_mut().expect("set").uid = "u2".into();
    let swap = volume(1, Kind::ConfigSwapped, 32, "..g2", Some("cfg"));
    check(Owner::Node, &[swap.clone(), other_pod], &[]);
    let before = volume(2, Kind::ConfigRead, 31, "..g2", Some("cfg"));
    check(Owner::Node, &[swap.clone(), before], &[]);
    let mut other_volume = volume(2, Kind::ConfigStale, 90, "..g2", Some("cfg"));
    other_volume.attributes.insert(attribute::VOLUME_NAME.to_owned(), "certs".into());
    check(Owner::Node, &[swap, other_volume], &[]);
    // Both objects of a projected volume were swapped at once: a watcher of the volume follows both.
    let both = [
        volume(1, Kind::ConfigSwapped, 32, "..g2", Some("cfg")),
        volume(2, Kind::ConfigSwapped, 32, "..g2", Some("other")),
        volume(3, Kind::ConfigNotified, 32, "..g2", None),
        volume(4, Kind::ConfigRead, 33, "..g2", Some("other")),
    ];
    check(Owner::Node, &both, &["1->3", "2->3", "2->4"]);
}
