//! Records by the million, and where each of them went.
//!
//! Renames of `..data` onto itself: the kernel lets them succeed and changes nothing, so they cost little more
//! than the call, and the programs report each.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use aftertrace_agent::kernel::{Kernel, KernelLoss, LossReason, Record};
use tokio::sync::mpsc;

/// Records between the drain and whoever counts them, as in the agent.
const RECORDS_MAX: usize = 256;

/// How often the end is marked, until a mark finds room in the ring.
const MARK: Duration = Duration::from_millis(100);

/// How long the end may take to come. Only a failing run waits this long.
const END: Duration = Duration::from_secs(60);

/// What became of a storm.
pub(crate) struct Outcome {
    /// Renames that succeeded.
    pub(crate) emitted: u64,
    /// Their records that were decoded.
    pub(crate) read: u64,
    /// Renames of others that were decoded meanwhile; some of theirs may be among the losses.
    pub(crate) foreign: u64,
    /// Renames that were lost, by the agent's own counts.
    pub(crate) lost: u64,
    /// All counts, for people.
    pub(crate) losses: Vec<KernelLoss>,
    /// From the first rename to the last.
    pub(crate) elapsed: Duration,
}

/// Renames from `threads` threads, `each` times, in `folder`, while everything is read and counted.
pub(crate) async fn overload(kernel: Kernel, folder: &Path, threads: u64, each: u64) -> Outcome {
    let Kernel { attached, drain, mut losses, .. } = kernel;
    let (sender, mut records) = mpsc::channel(RECORDS_MAX);
    let reading = tokio::spawn(drain.run(sender));
    losses.take_all();
    let start = Instant::now();
    let storm = std::thread::spawn({
        let folder = folder.to_owned();
        move || {
            let writers: Vec<_> = (0..threads).map(|n| writer(&folder.join(n.to_string()), each)).collect();
            let emitted: u64 = writers.into_iter().map(|writer| writer.join().expect("no panic")).sum();
            (emitted, start.elapsed())
        }
    });
    let marker = folder.join("marker");
    let (mut read, mut foreign) = (0, 0);
    let mut silent = Duration::ZERO;
    loop {
        match tokio::time::timeout(MARK, records.recv()).await {
            Ok(Some(Record::Rename(rename))) => {
                silent = Duration::ZERO;
                if rename.new_path.starts_with(&marker) {
                    break;
                }
                let own = rename.new_path.starts_with(folder);
                *(if own { &mut read } else { &mut foreign }) += 1;
            }
            Ok(Some(_)) => {}
            Ok(None) => panic!("the drain ended"),
            // A rename that comes when there is room again is the mark behind all others.
            Err(_) => {
                silent += MARK;
                assert!(silent < END, "the mark never came");
                if storm.is_finished() {
                    drop(fs::create_dir(&marker));
                    fs::write(marker.join("..data"), "").expect("the folder is ours");
                    fs::rename(marker.join("..data"), marker.join("..data")).expect("the file is ours");
                }
            }
        }
    }
    let (emitted, elapsed) = storm.join().expect("the storm does not panic");
    let losses = losses.take_all();
    let lost = losses.iter().filter(|loss| is_of_rename(loss.reason)).map(|loss| loss.count).sum();
    drop(records);
    reading.await.expect("the drain does not panic").expect("the runtime has I/O enabled");
    drop(attached);
    Outcome { emitted, read, foreign, lost, losses, elapsed }
}

/// How many of its renames succeeded.
fn writer(folder: &Path, count: u64) -> std::thread::JoinHandle<u64> {
    fs::create_dir(folder).expect("the folder is ours");
    let data = folder.join("..data");
    fs::write(&data, "").expect("the folder is ours");
    std::thread::spawn(move || (0..count).filter(|_| fs::rename(&data, &data).is_ok()).count() as u64)
}

fn is_of_rename(reason: LossReason) -> bool {
    reason.loses_event()
        && match reason {
            LossReason::Recursion { hook } => hook.contains("rename"),
            LossReason::Malformed => true,
            LossReason::Program(_) => {
                reason.as_str().contains("rename") || reason.as_str().starts_with("path_")
            }
        }
}
