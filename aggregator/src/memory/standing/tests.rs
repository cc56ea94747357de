//! What ends a fact of stale configuration, and what only looks like it.

use aftertrace_model::ObjectRef;

use super::*;
use crate::testing::event;

fn volume(sequence: u64, kind: Kind, second: i64) -> Event {
    let mut fact = event(sequence, kind, second);
    fact.attributes.insert(attribute::VOLUME_NAME.to_owned(), "flags".into());
    fact.object = Some(ObjectRef {
        kind: "ConfigMap".to_owned(),
        namespace: "shop".to_owned(),
        name: "flags".to_owned(),
        ..ObjectRef::default()
    });
    fact
}

fn stale(reason: &str) -> Event {
    Event { reason: Some(reason.to_owned()), ..volume(1, Kind::ConfigStale, 100) }
}

fn other_object(mut fact: Event) -> Event {
    fact.object.as_mut().expect("set").name = "other".to_owned();
    fact
}

fn life(kind: Kind, second: i64, id: &str, restart_count: i32) -> Event {
    Event { container_id: Some(id.to_owned()), restart_count: Some(restart_count), ..event(2, kind, second) }
}

/// Whether the one fact, alone, ends the other.
fn ends_it(fact: &Event, end: &Event) -> bool {
    !stands(fact, &[end])
}

#[test]
fn a_later_read_of_the_volume_ends_it() {
    let fact = stale("not_reopened");
    assert!(ends_it(&fact, &volume(2, Kind::ConfigRead, 101)));
    assert!(!ends_it(&fact, &volume(2, Kind::ConfigRead, 99)), "an earlier one was not enough");
    assert!(!ends_it(&stale("sub_path"), &volume(2, Kind::ConfigRead, 101)), "of a mount that never changes");
    assert!(!ends_it(&fact, &other_object(volume(2, Kind::ConfigRead, 101))), "of another object");
    let sidecar = Event { container: Some("sidecar".to_owned()), ..volume(2, Kind::ConfigRead, 101) };
    assert!(!ends_it(&fact, &sidecar), "by another container");
    let mut elsewhere = volume(2, Kind::ConfigRead, 101);
    elsewhere.attributes.insert(attribute::VOLUME_NAME.to_owned(), "certs".into());
    assert!(!ends_it(&fact, &elsewhere), "of another volume");
    assert!(ends_it(&fact, &Event { object: None, ..volume(2, Kind::ConfigRead, 101) }));
}

#[test]
fn the_end_of_the_container_or_pod_ends_it() {
    let fact = stale("sub_path");
    assert!(ends_it(&fact, &life(Kind::ContainerTerminated, 100, "c0ffee", 0)), "its own end");
    assert!(!ends_it(&fact, &life(Kind::ContainerTerminated, 100, "before", 0)), "the end of another life");
    // Floored to its second, the start seems earlier; the restart count orders the two.
    assert!(ends_it(&fact, &life(Kind::ContainerStarted, 99, "next", 1)));
    assert!(!ends_it(&fact, &life(Kind::ContainerStarted, 99, "c0ffee", 0)), "its own start");
    assert!(!ends_it(&fact, &life(Kind::ContainerStarted, 99, "before", -1)), "an earlier start");
    let uncounted = |second| Event { restart_count: None, ..life(Kind::ProcessStarted, second, "next", 0) };
    assert!(ends_it(&fact, &uncounted(101)) && !ends_it(&fact, &uncounted(99)));
    assert!(ends_it(&fact, &event(2, Kind::ObjectDeleted, 100)));
}

#[test]
fn a_later_fact_of_the_same_sort_takes_its_place() {
    let fact = stale("not_reopened");
    let later = |fact: Event| Event { event_id: event(9, fact.kind, 200).event_id, ..fact };
    let again = Event { reason: Some("deaf_watcher".to_owned()), ..volume(9, Kind::ConfigStale, 200) };
    assert!(ends_it(&fact, &again) && !ends_it(&again, &fact));
    assert!(!ends_it(&fact, &other_object(again)));
    let watched = |pid, second| Event {
        pid: Some(pid),
        reason: Some("deaf".to_owned()),
        ..volume(3, Kind::ConfigWatched, second)
    };
    assert!(ends_it(&watched(7, 100), &later(watched(7, 200))));
    assert!(!ends_it(&watched(7, 100), &later(watched(8, 200))), "another process");
    assert!(!ends_it(&fact, &watched(7, 200)), "another sort");
}

#[test]
fn each_file_that_was_named_has_to_be_read() {
    let of_files = |mut fact: Event, files: &[&str]| {
        fact.attributes.insert(attribute::STALE_FILES.to_owned(), files.into());
        fact
    };
    let read = |sequence, file: &str| {
        let mut read = volume(sequence, Kind::ConfigRead, 101);
        read.attributes.insert(attribute::FILE.to_owned(), file.into());
        read
    };
    let fact = of_files(stale("not_reopened"), &["a", "b"]);
    let (a, b, c) = (read(2, "a"), read(3, "b"), read(4, "c"));
    assert!(stands(&fact, &[&a]) && stands(&fact, &[&c, &a]), "b was not");
    assert!(!stands(&fact, &[&b, &c, &a]));
    let again = of_files(volume(9, Kind::ConfigStale, 200), &["b", "c"]);
    assert!(stands(&fact, &[&again]), "of a nothing newer is said");
    assert!(!stands(&fact, &[&again, &a]));
    assert!(!stands(&fact, &[&volume(5, Kind::ConfigRead, 101)]), "a read that names no file is of all");
}
