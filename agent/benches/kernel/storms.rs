//! Renames, opens and forks as fast as they go, with the programs attached and not, in turns within one run.
//!
//! A round measures both ways, each time in the other order, so that what changes slowly on the machine falls
//! out of their ratio. Of each way a round takes a low one of many short pieces, which an interruption does not
//! move; calls are timed by their own thread's processor time, processes by the clock.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use aftertrace_agent::kernel::{Kernel, LoadError};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;

use crate::interval::{low, ratio};
use crate::{load, row};

/// Rounds: the interval narrows with their root.
const ROUNDS: usize = 15;

/// Pieces of one storm in one round.
const PIECES: usize = 40;

/// Calls in one piece.
const CALLS: usize = 1_000;

/// Processes in one piece.
const PROCESSES: usize = 5;

/// A storm: its name, and the nanoseconds of one operation in one piece.
type Storm = (&'static str, fn(&Path) -> f64);

const STORMS: [Storm; 3] = [("rename", rename), ("open", open), ("fork, exec and exit", fork)];

/// Measures.
pub(crate) async fn measure() -> Result<(), LoadError> {
    let folder = std::env::temp_dir().join(format!("aftertrace-storm-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    fs::write(folder.join("plain"), "").expect("the folder is ours");
    let mut pairs: [Vec<(f64, f64)>; STORMS.len()] = Default::default();
    for n in 0..ROUNDS {
        let without_first = n % 2 == 0;
        let before = if without_first { Some(storms(&folder)) } else { None };
        let with = with_programs(&folder).await?;
        let without = before.unwrap_or_else(|| storms(&folder));
        for ((pairs, with), without) in pairs.iter_mut().zip(with).zip(without) {
            pairs.push((with, without));
        }
    }
    fs::remove_dir_all(&folder).expect("the folder is ours");
    for ((name, _), pairs) in STORMS.iter().zip(&pairs) {
        let slower = ratio(pairs);
        let percent = |ratio: f64| (ratio - 1.0) * 100.0;
        let value = format!(
            "{:+.1} ({:+.1} to {:+.1})",
            percent(slower.mean),
            percent(slower.low),
            percent(slower.high)
        );
        row(&format!("{name} storm with the programs, slower by"), &value, "%", "1");
        let mut without: Vec<f64> = pairs.iter().map(|(_, without)| *without).collect();
        let mut more: Vec<f64> = pairs.iter().map(|(with, without)| with - without).collect();
        without.sort_unstable_by(f64::total_cmp);
        more.sort_unstable_by(f64::total_cmp);
        let (without, more) = (without[ROUNDS / 2], more[ROUNDS / 2]);
        row(&format!("{name}, of {without:.0} ns each, more"), &format!("{more:.0}"), "ns", "");
    }
    Ok(())
}

/// All storms while the programs are attached and their records read.
async fn with_programs(folder: &Path) -> Result<[f64; STORMS.len()], LoadError> {
    let Kernel { attached, drain, .. } = load()?;
    let (sender, mut records) = mpsc::channel(256);
    let draining = tokio::spawn(drain.run(sender));
    let reading = tokio::spawn(async move { while records.recv().await.is_some() {} });
    let folder = folder.to_owned();
    let measured = tokio::task::spawn_blocking(move || storms(&folder)).await.expect("no panic");
    draining.abort();
    reading.abort();
    drop(draining.await);
    drop(attached);
    Ok(measured)
}

fn storms(folder: &Path) -> [f64; STORMS.len()] {
    STORMS.map(|(_, storm)| {
        // The first piece warms what the storm touches.
        storm(folder);
        low(&mut (0..PIECES).map(|_| storm(folder)).collect::<Vec<_>>())
    })
}

fn rename(folder: &Path) -> f64 {
    let file = folder.join("plain");
    timed(CALLS, || fs::rename(&file, &file).expect("the file is ours"))
}

fn open(folder: &Path) -> f64 {
    let file = folder.join("plain");
    timed(CALLS, || drop(fs::File::open(&file).expect("the file is ours")))
}

fn fork(_: &Path) -> f64 {
    let start = Instant::now();
    for _ in 0..PROCESSES {
        Command::new("/bin/true").status().expect("a program of the base system starts");
    }
    start.elapsed().as_nanos() as f64 / PROCESSES as f64
}

/// Nanoseconds of this thread's processor time for one call.
fn timed(calls: usize, mut call: impl FnMut()) -> f64 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
    };
    let start = now();
    for _ in 0..calls {
        call();
    }
    (now() - start) / calls as f64
}
