//! What is merged and when, and that no row is lost or kept twice by it.

use super::*;
use crate::store::rows::Rows;
use crate::store::{Store, StoreConfig};
use aftertrace_model::{Gap, GapReason};
use uuid::Uuid;

const T0: Timestamp = Timestamp::from_micros(1_795_171_922_000_000);

fn store(dir: &std::path::Path) -> Store {
    Store::open(StoreConfig { dir: dir.to_owned(), cluster: "test".to_owned() }).expect("opens")
}

fn one_gap(n: u64) -> Rows {
    let gap = Gap {
        gap_id: Uuid::from_u128(n.into()),
        cluster: "test".to_owned(),
        node: None,
        component: "test".to_owned(),
        reason: GapReason::RingFull,
        from: T0.plus_micros(-n.cast_signed()),
        to: T0,
        count: n,
        detail: String::new(),
        recorded_at: Some(T0),
    };
    Rows { gaps: vec![gap], ..Rows::default() }
}

#[test]
fn small_files_become_one_and_the_old_ones_stay_for_their_readers() {
    let dir = tempfile::tempdir().expect("a folder");
    let (shared, reader) = store(dir.path()).into_parts();
    let connection = shared.compactor().expect("starts");
    let count = FILES_MAX as u64 + 1;
    for n in 1..=count {
        assert!(!step(&shared, &connection, T0).expect("done"), "{n} files are few enough");
        shared.flush(&one_gap(n), n, T0).expect("flushed");
    }
    let before = reader.gaps_between(T0, T0, None).expect("read");
    assert_eq!(before.len() as u64, count);
    let old = shared.manifest();

    assert!(step(&shared, &connection, T0).expect("done"));
    let manifest = shared.manifest();
    assert_eq!((manifest.segments.len(), manifest.retired.len() as u64), (1, count));
    assert_eq!((manifest.segments[0].level, manifest.segments[0].rows), (1, count));
    assert_eq!(
        (manifest.segments[0].min, manifest.segments[0].max),
        (T0.plus_micros(-count.cast_signed()), T0)
    );
    assert_eq!(manifest.position, count, "a merge moves no position");
    assert_eq!(reader.gaps_between(T0, T0, None).expect("read"), before, "the same rows");
    let there = || old.segments.iter().filter(|s| shared.segments.path(&s.path).exists()).count() as u64;
    let almost = T0.plus_micros(15 * 60 * 1_000_000 - 1);
    step(&shared, &connection, almost).expect("done");
    assert_eq!(there(), count, "older catalogs can still be read");

    // They survive a restart within the grace, too.
    drop((shared, reader));
    let (shared, reader) = store(dir.path()).into_parts();
    let there = || old.segments.iter().filter(|s| shared.segments.path(&s.path).exists()).count() as u64;
    assert_eq!(there(), count);
    step(&shared, &connection, almost.plus_micros(1)).expect("done");
    assert_eq!((there(), shared.manifest().retired.len()), (0, 0));
    assert_eq!(reader.gaps_between(T0, T0, None).expect("read"), before);
}

#[test]
fn a_closed_day_becomes_one_file() {
    let dir = tempfile::tempdir().expect("a folder");
    let (shared, _reader) = store(dir.path()).into_parts();
    let connection = shared.compactor().expect("starts");
    for n in 1..=4 {
        shared.flush(&one_gap(n), n, T0).expect("flushed");
    }
    let day = 86_400_000_000;
    assert!(!step(&shared, &connection, T0.plus_micros(day)).expect("done"), "late rows may come");
    assert!(step(&shared, &connection, T0.plus_micros(2 * day)).expect("done"));
    assert_eq!(shared.manifest().segments.len(), 1);
    assert!(!step(&shared, &connection, T0.plus_micros(3 * day)).expect("done"));
}

#[test]
fn a_crash_at_any_step_of_a_commit_leaves_the_old_state_or_the_new_one() {
    let dir = tempfile::tempdir().expect("a folder");
    let open = || store(dir.path()).into_parts();
    let files = || {
        let folder = dir.path().join("segments/gaps/date=2026-11-20");
        std::fs::read_dir(folder).map_or(0, Iterator::count)
    };
    let rows = |n: u64| {
        let (shared, reader) = open();
        let gaps = reader.gaps_between(T0, T0, None).expect("read").len();
        assert_eq!(reader.counts()["gaps"], n);
        assert_eq!((gaps, files()), (usize::try_from(n).expect("small"), usize::try_from(n).expect("small")));
        shared
    };
    rows(0).flush(&one_gap(1), 1, T0).expect("flushed");
    // Dead after the segments were written.
    let shared = rows(1);
    let (manifests, segments) = (&shared.manifests, &shared.segments);
    let lost = segments.write(manifests, &one_gap(2), (2, 2)).expect("written");
    assert_eq!(files(), 2);
    drop(shared);
    // Dead while the manifest was written aside, and before it was renamed.
    for aside in [&b"half"[..], &std::fs::read(dir.path().join("MANIFEST")).expect("read")] {
        drop(rows(1));
        std::fs::write(dir.path().join("MANIFEST.new"), aside).expect("written");
    }
    assert!(!dir.path().join("segments").join(&lost[0].path).exists());
    // Dead after the rename, before the catalog and the WAL followed.
    let shared = rows(1);
    shared.flush(&one_gap(3), 3, T0).expect("flushed");
    let number = shared.manifests.next_file();
    drop(shared);
    let shared = rows(2);
    assert!(shared.manifests.next_file() >= number, "file names are not used again");
    assert!(shared.publish().expect("published"), "a start publishes the catalog of its manifest");
    assert!(!shared.publish().expect("published"), "once");
}
