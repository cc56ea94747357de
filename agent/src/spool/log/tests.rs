//! The log after a writer that died anywhere, a disk that changed a byte, and a spool that ran full.

use aftertrace_api::proto::Gap;

use super::*;

const NOW: Timestamp = Timestamp::from_micros(1_000_000_000_000);
const ROOM: u64 = 64 * 1024 * 1024;

fn item(n: u64) -> Item {
    Item { item: Some(item::Item::Gap(Gap { detail: format!("item {n}"), ..Gap::default() })) }
}

fn number(item: &Item) -> u64 {
    match &item.item {
        Some(item::Item::Gap(gap)) => gap.detail["item ".len()..].parse().expect("a number"),
        other => panic!("not one of ours: {other:?}"),
    }
}

fn entries(numbers: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    numbers.into_iter().map(|n| (n, item(n))).collect()
}

fn open(dir: &Path, bytes_max: u64, acked: u64) -> (Log, Found) {
    Log::open(dir, bytes_max, acked, NOW).expect("the log opens")
}

/// Everything from `from` on, by sequence; checks that sequence and content agree.
fn read_all(log: &mut Log, from: u64) -> Vec<u64> {
    let mut seen = Vec::new();
    let mut next = from;
    while let Some((first, items)) = log.read(next, 3, usize::MAX).expect("readable") {
        assert!(first >= next && !items.is_empty() && items.len() <= 3);
        for (n, item) in (first..).zip(&items) {
            assert_eq!(number(item), n, "an item under another's sequence");
            seen.push(n);
        }
        next = first + items.len() as u64;
    }
    seen
}

fn copy(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    for path in segment_paths(from).expect("listable") {
        std::fs::copy(&path, dir.path().join(path.file_name().expect("a name"))).expect("copies");
    }
    dir
}

#[test]
fn what_was_appended_is_read_from_anywhere_and_after_a_restart() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    log.append(entries(1..=5), NOW).expect("appends");
    log.append(entries(6..=6), NOW).expect("appends");
    log.append(entries(100..=104), NOW).expect("appends after a jump");
    let all: Vec<u64> = (1..=6).chain(100..=104).collect();
    for from in [1, 2, 5, 6, 7, 50, 100, 103, 104, 105] {
        let expected: Vec<u64> = all.iter().copied().filter(|n| *n >= from).collect();
        assert_eq!(read_all(&mut log, from), expected, "from {from}");
    }
    drop(log);
    let (mut log, found) = open(dir.path(), ROOM, 3);
    assert_eq!((found.last, found.unacked, found.damaged), (104, 8, 0));
    assert_eq!(read_all(&mut log, 1), all);
    log.append(entries(200..=201), NOW).expect("appends to a new segment");
    assert_eq!(read_all(&mut log, 104), [104, 200, 201]);
}

#[test]
fn a_writer_that_died_at_any_byte_costs_only_the_frame_it_was_in() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    let mut ends = vec![0];
    for n in [1..=2, 3..=3, 4..=6] {
        log.append(entries(n), NOW).expect("appends");
        ends.push(log.bytes());
    }
    let lasts = [0, 2, 3, 6];
    for cut in 0..=log.bytes() {
        let dir = copy(dir.path());
        let path = segment_paths(dir.path()).expect("listable").remove(0);
        OpenOptions::new().write(true).open(&path).and_then(|f| f.set_len(cut)).expect("cuts");
        let whole = ends.iter().rposition(|end| *end <= cut).expect("0 is among them");
        let (mut log, found) = open(dir.path(), ROOM, 0);
        assert_eq!(found.damaged, 0, "a torn tail is no damage, cut {cut}");
        assert_eq!(read_all(&mut log, 1), (1..=lasts[whole]).collect::<Vec<_>>(), "cut {cut}");
        // The next writer goes on behind it, and nothing old comes back.
        log.append(entries(50..=51), NOW).expect("appends");
        let (mut log, _) = open(dir.path(), ROOM, 0);
        let expected: Vec<u64> = (1..=lasts[whole]).chain(50..=51).collect();
        assert_eq!(read_all(&mut log, 1), expected, "cut {cut}, reopened");
    }
}

#[test]
fn a_changed_byte_costs_its_frame_and_is_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    log.append(entries(1..=2), NOW).expect("appends");
    let start = log.bytes();
    log.append(entries(3..=4), NOW).expect("appends");
    let end = log.bytes();
    log.append(entries(5..=6), NOW).expect("appends");
    for at in start..end {
        let dir = copy(dir.path());
        let path = segment_paths(dir.path()).expect("listable").remove(0);
        let mut bytes = std::fs::read(&path).expect("reads");
        bytes[usize::try_from(at).expect("small")] ^= 0x20;
        std::fs::write(&path, bytes).expect("writes");
        let (mut log, found) = open(dir.path(), ROOM, 0);
        assert_eq!(found.damaged, 1, "byte {at}");
        assert_eq!(read_all(&mut log, 1), [1, 2, 5, 6], "byte {at}");
        let (_, found) = open(dir.path(), ROOM, 0);
        assert_eq!(found.damaged, 0, "the damage was cut out, byte {at}");
    }
}

#[test]
fn a_byte_that_changes_while_we_run_is_counted_and_does_not_stop_the_reader() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    log.append(entries(1..=3), NOW).expect("appends");
    log.active = None;
    log.append(entries(4..=5), NOW).expect("appends to another segment");
    let path = segment_paths(dir.path()).expect("listable").remove(0);
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(&[0xff; 4], 20).expect("writes");
    assert_eq!(read_all(&mut log, 1), [4, 5]);
    assert_eq!(log.take_given_up(), GivenUp { items: 0, damaged: 1 });
}

#[test]
fn at_the_byte_limit_the_oldest_are_given_up_and_counted() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), 8 * 1024, 0);
    let mut given_up = 0;
    for n in 1..=2_000 {
        log.append(entries(n..=n), NOW).expect("appends");
        if n == 100 {
            log.ack(50);
        }
        given_up += log.take_given_up().items;
    }
    assert!(log.bytes() <= 8 * 1024, "{} bytes", log.bytes());
    let left = read_all(&mut log, 1);
    assert_eq!(*left.last().expect("not empty"), 2_000);
    assert_eq!(left.len() as u64 + given_up, 1_950, "sent, kept and given up make the whole");
    assert!(log.acked() >= left[0] - 1, "the reader goes on behind what is gone");
}

#[test]
fn acknowledged_segments_stay_for_the_window_and_no_longer() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    log.append(entries(1..=3), NOW).expect("appends");
    log.active = None;
    log.append(entries(4..=6), NOW).expect("appends to another segment");
    let later = NOW.plus_micros(KEPT_US + 1);
    log.reap(later);
    assert_eq!(read_all(&mut log, 1).len(), 6, "nothing is acknowledged");
    log.ack(4);
    log.reap(NOW.plus_micros(KEPT_US));
    assert_eq!(read_all(&mut log, 1).len(), 6, "the window may still need them");
    log.reap(later);
    assert_eq!(read_all(&mut log, 1), [4, 5, 6], "half of the second segment is open");
}

#[test]
fn a_disk_that_takes_nothing_leaves_items_in_memory_until_it_does() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    log.append(entries(1..=2), NOW).expect("appends");
    // A read-only handle takes nothing, as a full disk does.
    let path = segment_paths(dir.path()).expect("listable").remove(0);
    log.active = Some(File::open(path).expect("opens"));
    log.append(entries(3..=4), NOW).expect_err("the disk takes nothing");
    assert_eq!((log.in_memory(), log.last()), (2, 4));
    assert_eq!(read_all(&mut log, 1), [1, 2, 3, 4], "what waits can be sent");
    log.ack(3);
    log.active = None;
    log.flush(NOW).expect("the disk takes it again");
    assert_eq!(log.in_memory(), 0);
    assert_eq!(read_all(&mut log, 3), [4]);
    log.active = Some(File::open("/dev/null").expect("opens"));
    let many = u64::try_from(MEMORY_ITEMS_MAX).expect("small") + 7;
    log.append(entries(100..100 + many), NOW).expect_err("the disk takes nothing");
    assert_eq!(log.take_given_up().items, 7, "the oldest, and counted");
}

#[test]
fn facts_of_the_window_are_found_again() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (mut log, _) = open(dir.path(), ROOM, 0);
    let origin = crate::draft::Origin { cluster: "c".into(), node: "n".into() };
    let fact = |at: Timestamp, summary: &str| {
        let occurred = aftertrace_model::Occurrence::within(at, 0);
        let kind = aftertrace_model::Kind::OomKill;
        let mut event = crate::draft::event(&origin, kind, aftertrace_model::Source::Kernel, "h", occurred);
        summary.clone_into(&mut event.summary);
        Item { item: Some(item::Item::Event((&event).into())) }
    };
    let old = NOW.plus_micros(-KEPT_US - 1);
    log.append([(1, fact(old, "old")), (2, fact(NOW, "new")), (3, item(3))], NOW).expect("appends");
    let (_, found) = open(dir.path(), ROOM, 3);
    let summaries: Vec<&str> = found.tail.iter().map(|e| e.summary.as_str()).collect();
    assert_eq!(summaries, ["new"]);
}
