//! The spool as its users see it: durable, in order, and never a sequence twice.

use std::collections::BTreeSet;
use std::path::Path;

use aftertrace_api::proto::{Gap, item};

use super::*;

fn item(text: &str) -> Item {
    Item { item: Some(item::Item::Gap(Gap { detail: text.to_owned(), ..Gap::default() })) }
}

fn open(dir: &Path) -> (Writer, Reader, Recovered) {
    let options = Options { dir: dir.to_owned(), bytes_max: BYTES_MIN };
    start(&options, Arc::new(Ledger::default())).expect("the spool opens")
}

async fn available(reader: &Reader, sequence: u64) {
    let mut progress = reader.progress();
    let reached = progress.wait_for(|p| p.available >= sequence);
    tokio::time::timeout(Duration::from_secs(20), reached).await.expect("in time").expect("the thread runs");
}

#[tokio::test]
async fn what_is_readable_survives_and_a_sequence_is_never_used_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let mut used = BTreeSet::new();
    let mut id = None;
    for run in 0..4 {
        let (mut writer, reader, recovered) = open(dir.path());
        assert_eq!(*id.get_or_insert(recovered.spool_id), recovered.spool_id, "one spool, one id");
        assert_eq!(recovered.last_alive.is_some(), run > 0);
        assert!(!recovered.ended_clean);
        for n in 0..10 {
            let sequence = writer.append(item(&format!("{run}/{n}"))).await;
            assert!(used.insert(sequence), "sequence {sequence} was used before");
        }
        available(&reader, *used.last().expect("not empty")).await;
        // As after kill -9: the thread ends without its last record, the lock goes with the process.
        let mut progress = reader.progress();
        drop((writer, reader));
        while progress.changed().await.is_ok() {}
    }
    let (writer, reader, recovered) = open(dir.path());
    assert_eq!(recovered.damaged, 0);
    let mut read = Vec::new();
    let mut next = 1;
    while let Some(batch) = reader.read(next, 7).await {
        read.extend((batch.first..).take(batch.items.len()));
        next = batch.first + batch.items.len() as u64;
    }
    assert_eq!(read, used.into_iter().collect::<Vec<_>>());
    writer.close().await;
}

#[tokio::test]
async fn sequences_above_what_a_crash_left_are_skipped() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut writer, reader, _) = open(dir.path());
    let last = writer.append(item("unsynced")).await;
    available(&reader, last).await;
    let mut progress = reader.progress();
    drop((writer, reader));
    while progress.changed().await.is_ok() {}
    // The machine lost the segment that was not synced; the reservation was.
    for path in segment_paths(dir.path()).expect("listable") {
        std::fs::remove_file(path).expect("removes");
    }
    let (mut writer, _, _) = open(dir.path());
    assert!(writer.append(item("new")).await > last);
    // Not even the record is left: what the segments show is far below what is used next.
    let last = writer.next() - 1;
    writer.close().await;
    std::fs::write(dir.path().join("state"), [0; 5_000]).expect("writes");
    let (mut writer, _, recovered) = open(dir.path());
    assert_eq!(recovered.damaged, 1, "a lost record is told");
    assert!(writer.append(item("newer")).await > last);
    writer.close().await;
}

#[tokio::test]
async fn more_items_than_a_block_are_taken() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut writer, reader, _) = open(dir.path());
    let count = RESERVED_BLOCK + 1_000;
    for _ in 0..count {
        writer.append(Item::default()).await;
    }
    available(&reader, count).await;
    writer.close().await;
    let (writer, _, recovered) = open(dir.path());
    assert!(recovered.ended_clean, "closed in order");
    assert!(writer.next() > count);
}

#[tokio::test]
async fn acknowledgements_outlive_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut writer, reader, _) = open(dir.path());
    for n in 0..5 {
        writer.append(item(&n.to_string())).await;
    }
    available(&reader, 5).await;
    reader.ack(3, 3).await;
    writer.close().await;
    let (_writer, reader, _) = open(dir.path());
    let progress = reader.progress().borrow().clone();
    assert_eq!((progress.acked, progress.unacked_items, progress.available), (3, 2, 5));
}

#[tokio::test]
async fn a_second_agent_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_writer, _reader, _) = open(dir.path());
    let options = Options { dir: dir.path().to_owned(), bytes_max: BYTES_MIN };
    let error = start(&options, Arc::new(Ledger::default())).expect_err("it is in use");
    assert!(matches!(error, SpoolError::Locked { .. }) && error.to_string().contains("--spool"), "{error}");
    let options = Options { dir: "/proc/nowhere".into(), bytes_max: BYTES_MIN };
    let error = start(&options, Arc::new(Ledger::default())).expect_err("nothing can be made there");
    assert!(error.to_string().contains("/proc/nowhere"), "{error}");
}

/// Ends a spool of one item, removes `lost` from it, and says whether the next run uses the same identity.
async fn reuses(lost: &[&str]) -> bool {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut writer, reader, _) = open(dir.path());
    let first = (reader.spool_id(), writer.append(item("sent")).await);
    writer.close().await;
    for entry in std::fs::read_dir(dir.path()).expect("listable").flatten() {
        let path = entry.path();
        if lost.iter().any(|lost| path.to_string_lossy().ends_with(lost)) {
            std::fs::remove_file(path).expect("removes");
        }
    }
    let (mut writer, reader, _) = open(dir.path());
    let second = (reader.spool_id(), writer.append(item("new")).await);
    writer.close().await;
    first == second
}

#[tokio::test]
async fn no_lost_file_makes_an_identity_be_used_twice() {
    for lost in
        [&["state"] as &[_], &[".spool"], &["state", ".spool"], &["id", ".spool"], &["id", "state", ".spool"]]
    {
        assert!(!reuses(lost).await, "{lost:?}");
    }
}
