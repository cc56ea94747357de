//! Kernel hook → decoded: from the boot time that the program took in the kernel to the moment that user space
//! holds the checked record.

use std::time::Duration;

use aftertrace_agent::kernel::{Kernel, Record, clock::boot_now_ns};
use tokio::sync::mpsc;

/// Swaps measured: enough for a 99th percentile of twenty.
const SWAPS: usize = 2_000;

/// Between two swaps, so that each is drained alone, as on a quiet node.
const PAUSE: Duration = Duration::from_millis(1);

/// Measures; the kernel was found to take the programs.
pub(crate) async fn measure(kernel: Kernel) {
    let Kernel { attached, drain, .. } = kernel;
    let (sender, mut records) = mpsc::channel(1024);
    tokio::spawn(async move { drain.run(sender).await.expect("the runtime has I/O enabled") });
    let folder = std::env::temp_dir().join(format!("aftertrace-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("the folder for temporary files is writable");
    let writer = std::thread::spawn({
        let folder = folder.clone();
        move || {
            let staged = folder.join("..data_tmp");
            for n in 0..SWAPS {
                std::os::unix::fs::symlink(n.to_string(), &staged).expect("a link of ours");
                std::fs::rename(&staged, folder.join("..data")).expect("a rename of ours");
                std::thread::sleep(PAUSE);
            }
        }
    });
    let mut waits_ns = Vec::with_capacity(SWAPS);
    while waits_ns.len() < SWAPS {
        let record = records.recv().await.expect("the drain runs");
        let now = boot_now_ns();
        if let Record::Rename(rename) = record
            && rename.new_path.starts_with(&folder)
        {
            waits_ns.push(now.saturating_sub(rename.boot_ns));
        }
    }
    writer.join().expect("the writer does not panic");
    std::fs::remove_dir_all(&folder).expect("the folder is ours");
    drop(attached);
    waits_ns.sort_unstable();
    for (name, share, target) in [("p50", 50, ""), ("p99", 99, "100")] {
        let at = (waits_ns.len() * share / 100).min(waits_ns.len() - 1);
        println!("row\tkernel hook to decoded, {name}\t{:.1}\tµs\t{target}", micros(waits_ns[at]));
    }
}

fn micros(ns: u64) -> f64 {
    Duration::from_nanos(ns).as_secs_f64() * 1e6
}
