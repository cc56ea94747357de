//! What a start finds: history, the rows of before, damage, another process.

use std::fs;

use aftertrace_aggregator::query::FactQuery;
use aftertrace_aggregator::store::{AnchorQuery, Store, StoreConfig, StoreError};
use aftertrace_aggregator::writer::{Facts, Origin};
use aftertrace_model::{GapReason, Kind};

use crate::facts::{at, block_on, config, everything, gap, oom, open, start, start_told, version};

#[test]
fn a_second_process_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().expect("a folder");
    let _held = open(dir.path());
    let config = StoreConfig { dir: dir.path().to_owned(), cluster: "test".to_owned() };
    let error = Store::open(config).expect_err("held");
    assert!(
        matches!(&error, StoreError::Locked { pid: Some(pid), .. } if *pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains(dir.path().to_str().expect("plain")), "{error}");
}

#[test]
fn rows_come_back_as_they_were() {
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, reader, told) = start_told(dir.path());
    let mut facts = oom("pod-0", 0, at(0));
    facts.objects = vec![version("a", 1, at(0), false), version("a", 2, at(10), true)];
    facts.gaps = vec![gap(9, at(-5), at(5))];
    block_on(async {
        writer.submit(facts.clone()).await.expect("accepted");
        writer.shutdown().await.expect("flushed");
    });
    let live = told.lock().expect("free")[0].clone();
    assert_eq!(live.origin, Origin::Live);
    let (events, edges, gaps, current) = everything(&reader);
    assert_eq!(events, facts.events);
    assert_eq!(edges.len(), 4, "the agents' three and the engine's one");
    assert_eq!(gaps, facts.gaps);
    assert_eq!(current, [], "a deleted object is not current");
    for event in &live.events {
        assert_eq!(reader.event(event.event_id).expect("read").as_ref(), Some(event.as_ref()));
    }

    let before = reader.object_at("configmap", "shop", "a", at(9)).expect("read").expect("in force");
    assert_eq!((before.version.resource_version.as_str(), before.valid_to), ("1", Some(at(10))));
    let after = reader.object_at("ConfigMap", "shop", "a", at(10)).expect("read").expect("in force");
    assert_eq!((after.version.deleted, after.valid_to), (true, None));
    assert_eq!(reader.object_at("ConfigMap", "shop", "a", at(-1)).expect("read"), None);
    assert_eq!(reader.gaps_between(at(6), at(7), None).expect("read"), []);
    assert_eq!(reader.gaps_between(at(5), at(7), Some("node-b")).expect("read"), []);
    assert_eq!(reader.gaps_between(at(5), at(7), Some("node-a")).expect("read").len(), 1);
    let latest = reader.facts(&FactQuery::of_pod("shop", Some("pod-0"), at(0), at(1), 2)).expect("read");
    assert_eq!(latest.iter().map(|e| e.kind).collect::<Vec<_>>(), [Kind::OomKill, Kind::ContainerTerminated]);

    let query = AnchorQuery {
        kind: Kind::OomKill,
        with: None,
        namespace: Some("shop".to_owned()),
        workload: None,
        pod: None,
        since: at(0),
        limit: 10,
    };
    let anchors = reader.anchors(&query).expect("read");
    assert_eq!((anchors.total, anchors.events.len(), anchors.groups.len()), (1, 1, 1));
    assert_eq!(anchors.groups[0].workload, "Deployment/checkout");
    let none = AnchorQuery { pod: Some("other".to_owned()), ..query };
    assert_eq!(reader.anchors(&none).expect("read").total, 0);
}

#[test]
fn a_start_tells_history_and_knows_what_is_stored() {
    let dir = tempfile::tempdir().expect("a folder");
    let change = config(Kind::ConfigChanged, "pod-0", 900, at(10));
    let first = Facts { events: vec![change.clone()], ..oom("pod-0", 0, at(0)) };
    let (writer, _reader) = start(dir.path());
    block_on(async {
        writer.submit(oom("pod-0", 0, at(0))).await.expect("accepted");
        writer.submit(Facts { edges: Vec::new(), ..first.clone() }).await.expect("accepted");
        writer.shutdown().await.expect("flushed");
    });
    drop((writer, _reader));

    let (writer, reader, told) = start_told(dir.path());
    {
        let told = told.lock().expect("free");
        assert_eq!(told.len(), 1);
        assert_eq!((told[0].origin, told[0].events.len(), told[0].edges.len()), (Origin::History, 6, 4));
    }
    let again = block_on(writer.submit(first)).expect("accepted");
    assert_eq!((again.events, again.duplicates), (0, 1 + 3));
    // The engine's window is back: a change from before the restart causes a swap after it.
    let swap = config(Kind::ConfigSwapped, "pod-0", 901, at(40));
    block_on(writer.submit(Facts { events: vec![swap.clone()], ..Facts::default() })).expect("accepted");
    block_on(writer.shutdown()).expect("flushed");
    let causes = reader.edges_touching(&[swap.event_id]).expect("read");
    assert_eq!(causes.iter().map(|e| e.cause_id).collect::<Vec<_>>(), [change.event_id]);
}

#[test]
fn a_damaged_frame_costs_its_rows_and_becomes_a_gap() {
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, _reader) = start(dir.path());
    // Taken while the rows are in the WAL alone: as if the disk had kept this and the process had died.
    let copy = tempfile::tempdir().expect("a folder");
    block_on(async {
        for i in 0..3 {
            writer.submit(oom("pod-0", 10 * i, at(i.cast_signed()))).await.expect("accepted");
        }
    });
    fs::create_dir(copy.path().join("wal")).expect("made");
    let wal =
        fs::read_dir(dir.path().join("wal")).expect("listed").next().expect("one file").expect("read").path();
    let mut bytes = fs::read(&wal).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(copy.path().join("wal").join(wal.file_name().expect("named")), bytes).expect("written");
    block_on(writer.shutdown()).expect("flushed");

    let (writer, reader, told) = start_told(copy.path());
    assert_eq!(reader.counts()["events"], 10, "the others are there");
    let gaps = reader.gaps_between(at(-1_000), at(1_000_000_000), None).expect("read");
    assert_eq!(gaps.len(), 1);
    assert_eq!((gaps[0].reason, gaps[0].component.as_str()), (GapReason::DiskCorrupt, "aggregator/wal"));
    let origins: Vec<_> = told.lock().expect("free").iter().map(|c| (c.origin, c.wal_position)).collect();
    assert_eq!(origins, [(Origin::Replay, 1), (Origin::Replay, 3), (Origin::Live, 4)]);
    block_on(async {
        let accepted = writer.submit(oom("pod-0", 100, at(50))).await.expect("accepted");
        assert_eq!(accepted.events, 5);
        writer.shutdown().await.expect("flushed");
    });
    drop((writer, reader));
    let (_writer, reader) = start(copy.path());
    assert_eq!(reader.counts()["events"], 15);
    assert_eq!(reader.counts()["gaps"], 1, "reported once");
}

#[test]
fn a_damaged_manifest_is_said_and_nothing_is_touched() {
    let dir = tempfile::tempdir().expect("a folder");
    let (writer, _reader) = start(dir.path());
    block_on(async {
        writer.submit(oom("pod-0", 0, at(0))).await.expect("accepted");
        writer.shutdown().await.expect("flushed");
    });
    drop((writer, _reader));
    let path = dir.path().join("MANIFEST");
    let mut bytes = fs::read(&path).expect("read");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).expect("written");
    let config = StoreConfig { dir: dir.path().to_owned(), cluster: "test".to_owned() };
    let error = Store::open(config).expect_err("damaged");
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
    let events = fs::read_dir(dir.path().join("segments/events")).expect("listed").count();
    assert!(events >= 2, "the seed and a partition are still there");
}
