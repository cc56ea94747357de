//! A full disk: nothing acknowledged is lost, and the writer goes on when there is space again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use aftertrace_aggregator::store::StoreError;
use aftertrace_aggregator::writer::Facts;
use aftertrace_model::{Event, Kind};

use crate::facts::{at, block_on, event, everything, start};

/// A small file system in memory, unmounted when dropped.
struct Small {
    dir: PathBuf,
    _parent: tempfile::TempDir,
}

impl Small {
    fn mount(megabytes: u32) -> Option<Self> {
        let parent = tempfile::tempdir().expect("a folder");
        let dir = parent.path().join("small");
        fs::create_dir(&dir).expect("made");
        let options = format!("size={megabytes}m");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&dir).output();
        mounted.is_ok_and(|o| o.status.success()).then_some(Self { dir, _parent: parent })
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: a failed test may still have files open in it.
        let done = Command::new("umount").arg("-l").arg(&self.dir).status();
        assert!(done.is_ok_and(|s| s.success()), "{} stays mounted", self.dir.display());
    }
}

/// One event with a kilobyte of text.
fn fact(n: u64) -> Facts {
    let summary = "x".repeat(1_000);
    let event = Event { summary, ..event(Kind::MemoryPressure, "pod-0", n, at(n.cast_signed())) };
    Facts { events: vec![event], ..Facts::default() }
}

fn fill(dir: &Path, leave_bytes: u64) -> PathBuf {
    let filler = dir.join("filler");
    let mut file = fs::File::create(&filler).expect("made");
    let block = vec![0_u8; 64 * 1024];
    while std::io::Write::write_all(&mut file, &block).is_ok() {}
    let length = file.metadata().expect("known").len();
    file.set_len(length.saturating_sub(leave_bytes)).expect("cut");
    filler
}

#[test]
fn a_full_disk_loses_nothing_and_is_overcome() {
    let Some(small) = Small::mount(24) else {
        println!("SKIPPED: no right to mount a small file system");
        return;
    };
    let (writer, reader) = start(&small.dir);
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let filler = fill(&small.dir, 256 * 1024);
        let mut refused = None;
        for n in round * 100_000.. {
            match block_on(writer.submit(fact(n))) {
                Ok(_) => acknowledged.push(n),
                Err(error) => {
                    refused = Some((n, error));
                    break;
                }
            }
            assert!(Instant::now() < deadline, "the disk never got full");
        }
        let (n, error) = refused.expect("refused");
        assert!(matches!(error, StoreError::Io { .. }), "{error}");
        assert!(!writer.status().degraded.is_empty(), "it is said");
        fs::remove_file(filler).expect("removed");
        block_on(writer.submit(fact(n))).expect("accepted again, without a restart");
        acknowledged.push(n);
        while !writer.status().degraded.is_empty() || writer.status().pending_frames > 0 {
            assert!(Instant::now() < deadline, "{:?}", writer.status());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    block_on(writer.shutdown()).expect("flushed");
    drop((writer, reader));
    let (writer, reader) = start(&small.dir);
    let (events, ..) = everything(&reader);
    let stored: Vec<u64> = events.iter().map(|e| e.boot_ns.expect("set")).collect();
    assert_eq!(stored, acknowledged, "each acknowledged event once, and no other");
    block_on(writer.shutdown()).expect("stopped");
}
