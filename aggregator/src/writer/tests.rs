//! What leaves the engine's window is told once: live, not again by a replay or a start.

use std::fs;
use std::path::Path;

use aftertrace_model::{Event, GapReason, Kind, ObjectRef};

use super::*;
use crate::store::{Reader, StoreConfig};
use crate::testing::{at, event};

/// A window that is soon full.
const WINDOW: usize = 3;

/// A clock that stands: no minute ever passes.
fn clock() -> Timestamp {
    at(0)
}

fn start(dir: &Path) -> (WriterHandle, Reader) {
    let config = StoreConfig { dir: dir.to_owned(), cluster: "c".to_owned() };
    let store = Store::open(config).expect("the store opens");
    let reader = store.reader();
    let writer = Writer::spawn_at(store, clock, WINDOW, Box::new(|_| {})).expect("the writer starts");
    (writer, reader)
}

fn change(n: u64) -> Event {
    let object = ObjectRef {
        kind: "ConfigMap".to_owned(),
        namespace: "shop".to_owned(),
        name: "settings".to_owned(),
        uid: Some("u".to_owned()),
        resource_version: Some(n.to_string()),
    };
    Event { object: Some(object), pod: None, ..event(n, Kind::ConfigChanged, n.cast_signed()) }
}

async fn submit(writer: &WriterHandle, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let facts = Facts { events: vec![change(n)], ..Facts::default() };
        assert_eq!(writer.submit(facts).await.expect("accepted").events, 1);
    }
}

/// Count, first and last second of the gaps stored.
fn gaps(reader: &Reader) -> Vec<(u64, Timestamp, Timestamp)> {
    let gaps = reader.gaps_between(at(-1), at(1_000_000), None).expect("gaps are read");
    for gap in &gaps {
        assert_eq!((gap.reason, gap.component.as_str()), (GapReason::WindowFull, "aggregator/engine"));
    }
    gaps.iter().map(|g| (g.count, g.from, g.to)).collect()
}

#[tokio::test]
async fn what_leaves_the_window_is_told_once_and_never_by_a_start() {
    let (dir, copy) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let (writer, reader) = start(dir.path());
    submit(&writer, 0..WINDOW as u64).await;
    assert_eq!(gaps(&reader), [], "the window is not full");
    submit(&writer, 3..7).await;
    writer.shutdown().await.expect("flushed");
    let told = [(1, at(0), at(0)), (3, at(1), at(3))];
    assert_eq!(gaps(&reader), told, "the first at once, the others of that minute at the end");
    // The log as it was before anything came into segments: a start replays all of it.
    fs::create_dir(copy.path().join("wal")).expect("made");
    for file in fs::read_dir(dir.path().join("wal")).expect("listed") {
        let path = file.expect("read").path();
        fs::copy(&path, copy.path().join("wal").join(path.file_name().expect("named"))).expect("copied");
    }
    drop((writer, reader));

    for (dir, from) in [(dir.path(), "segments"), (copy.path(), "the log")] {
        let (writer, reader) = start(dir);
        assert_eq!(gaps(&reader), told, "a start from {from}");
        submit(&writer, 7..8).await;
        writer.shutdown().await.expect("flushed");
        let one_more = [told[0], told[1], (1, at(4), at(4))];
        assert_eq!(gaps(&reader), one_more, "the window of before, full, from {from}");
    }
}
