//! Logs with a torn tail, with damage and with frames written twice: what is read, and what is reported.

use super::*;
use crate::store::wal::Wal;
use aftertrace_api::proto::Gap;

const FRAMES: u64 = 3;

fn frame(position: u64) -> WalFrame {
    let gap = Gap { detail: format!("gap {position}"), ..Gap::default() };
    let recorded_at_us = 1_000 * i64::try_from(position).expect("small");
    WalFrame { recorded_at_us, position, gaps: vec![gap], ..WalFrame::default() }
}

fn encoded(position: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::append(&frame(position), &mut bytes);
    bytes
}

/// A data directory with a log of [`FRAMES`] frames in one file.
fn log() -> (tempfile::TempDir, PathBuf, Vec<u8>) {
    let data = tempfile::tempdir().expect("a folder");
    disk::make_dir(&data.path().join("wal")).expect("made");
    let mut wal = Wal::new(data.path(), 1);
    for position in 1..=FRAMES {
        assert_eq!(wal.next_position(), position);
        wal.append(1, &encoded(position)).expect("appended");
    }
    let path = data.path().join("wal/00000000000000000001.wal");
    let bytes = fs::read(&path).expect("read");
    (data, path, bytes)
}

fn read(data: &Path, after: u64) -> (Vec<u64>, Recovered) {
    let mut positions = Vec::new();
    let recovered = replay(data, after, None, |position, frame| {
        assert_eq!(frame, super::tests::frame(position), "the content of frame {position}");
        positions.push(position);
        Ok(())
    });
    (positions, recovered.expect("read"))
}

#[test]
fn a_log_is_read_back_from_any_position() {
    let (data, ..) = log();
    for after in 0..=FRAMES {
        let expected: Vec<u64> = (after + 1..=FRAMES).collect();
        let (positions, recovered) = read(data.path(), after);
        assert_eq!(positions, expected);
        assert_eq!(recovered, Recovered { next: FRAMES + 1, damage: Vec::new() });
    }
    assert_eq!(read(data.path(), 10).1.next, 11, "segments may be ahead of what is left of the log");
}

#[test]
fn a_torn_tail_is_cut_off_at_any_byte() {
    let (data, path, bytes) = log();
    let size = bytes.len() / usize::try_from(FRAMES).expect("small");
    for length in 0..bytes.len() {
        fs::write(&path, &bytes[..length]).expect("written");
        let whole = (length / size) as u64;
        let (positions, recovered) = read(data.path(), 0);
        assert_eq!(positions.len() as u64, whole, "{length} bytes");
        assert_eq!(recovered, Recovered { next: whole + 1, damage: Vec::new() }, "{length} bytes");
        let left = fs::metadata(&path).map_or(0, |m| m.len());
        assert_eq!(left, whole * size as u64, "what is torn is gone");
    }
}

#[test]
fn a_changed_byte_anywhere_costs_its_frame_and_is_said() {
    let (data, path, bytes) = log();
    let size = bytes.len() / usize::try_from(FRAMES).expect("small");
    for at in 0..2 * size {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x41;
        fs::write(&path, &damaged).expect("written");
        let lost = (at / size) as u64 + 1;
        let (positions, recovered) = read(data.path(), 0);
        let expected: Vec<u64> = (1..=FRAMES).filter(|p| *p != lost).collect();
        assert_eq!(positions, expected, "byte {at}");
        assert_eq!(recovered.next, FRAMES + 1);
        let [damage] = &recovered.damage[..] else { panic!("byte {at}: {recovered:?}") };
        assert_eq!((damage.first, damage.frames), (lost, Some(1)), "byte {at}");
        assert_eq!(damage.before, Some(Timestamp::from_micros(1_000 * (lost.cast_signed() + 1))));
        assert!(read(data.path(), lost).1.damage.is_empty(), "what is in segments is not missed");
    }
}

#[test]
fn damage_at_the_end_does_not_give_its_position_away_again() {
    let (data, path, mut bytes) = log();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, &bytes).expect("written");
    let (positions, recovered) = read(data.path(), 0);
    assert_eq!(positions, [1, 2]);
    assert_eq!((recovered.next, recovered.damage[0].first, recovered.damage[0].frames), (4, 3, None));

    let mut wal = Wal::new(data.path(), recovered.next);
    wal.append(1, &encoded(4)).expect("appended");
    let (positions, recovered) = read(data.path(), 0);
    assert_eq!((positions, recovered.next), (vec![1, 2, 4], 5));
    assert_eq!(recovered.damage.len(), 1, "still told, with the same first position");
    assert_eq!((recovered.damage[0].first, recovered.damage[0].frames), (3, Some(1)));
}

#[test]
fn a_failed_append_counts_for_nothing_and_the_next_one_goes_on() {
    let (data, ..) = log();
    let mut wal = Wal::new(data.path(), FRAMES + 1);
    let dir = data.path().join("wal");
    let away = data.path().join("away");
    fs::rename(&dir, &away).expect("renamed");
    let error = wal.append(1, &encoded(FRAMES + 1)).expect_err("no folder to write to");
    assert!(matches!(error, StoreError::Io { .. }), "{error}");
    assert_eq!(wal.next_position(), FRAMES + 1, "the position is free again");
    fs::rename(&away, &dir).expect("renamed");
    wal.append(1, &encoded(FRAMES + 1)).expect("appended");
    assert_eq!(read(data.path(), 0).0, [1, 2, 3, 4]);
}

#[test]
fn files_below_the_position_are_removed_and_the_last_one_stays() {
    let (data, ..) = log();
    let names = || crate::store::wal::files(&data.path().join("wal")).expect("listed").len();
    for position in [4, 6] {
        // Each start goes on in a new file.
        let mut wal = Wal::new(data.path(), position);
        wal.append(1, &encoded(position)).expect("appended");
        wal.append(1, &encoded(position + 1)).expect("appended");
    }
    assert_eq!(names(), 3);
    crate::store::wal::trim(data.path(), 2).expect("trimmed");
    assert_eq!(names(), 3);
    crate::store::wal::trim(data.path(), 3).expect("trimmed");
    assert_eq!(names(), 2);
    crate::store::wal::trim(data.path(), 99).expect("trimmed");
    assert_eq!(read(data.path(), 5).0, [6, 7]);
}
