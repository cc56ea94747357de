//! What the kernel's side costs, and how fast it is. Prints rows for `cargo xtask bench`.
//!
//! - [`latency`]: kernel hook → decoded
//! - [`programs`]: nanoseconds of one run of each program, by the kernel's own count
//! - [`storms`]: how much slower renames, opens and forks are with the programs attached
//! - [`overload`]: records that the ring buffer takes, and what is lost above that

mod interval;
mod latency;
mod overload;
mod programs;
#[path = "../../tests/kernel/storm.rs"]
mod storm;
mod storms;

use std::path::Path;
use std::process::ExitCode;

use aftertrace_agent::kernel::{Kernel, KernelConfig, KubeletCgroups, LoadError};

fn main() -> ExitCode {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime of one thread");
    let measured: Result<(), LoadError> = runtime.block_on(async {
        let kernel = load()?;
        let tiers = kernel.attached.subjects().iter().map(|s| match s.tier {
            Some(tier) => format!("{} {}", s.subject, tier.as_str()),
            None => format!("{} none", s.subject),
        });
        println!("tiers: {}", tiers.collect::<Vec<_>>().join(", "));
        latency::measure(kernel).await;
        programs::measure(load()?).await;
        storms::measure().await?;
        overload::measure(load()?).await;
        Ok(())
    });
    if let Err(error) = measured {
        println!("SKIPPED: {error}");
    }
    ExitCode::SUCCESS
}

/// The programs as the agent loads them on a node.
fn load() -> Result<Kernel, LoadError> {
    let v1 = Path::new("/sys/fs/cgroup/memory");
    let mount = if v1.is_dir() { v1 } else { Path::new("/sys/fs/cgroup") };
    Kernel::load(&KernelConfig {
        kubelet_cgroups: Some(KubeletCgroups::new(mount, "/")),
        ..KernelConfig::default()
    })
}

/// One line of the table.
fn row(what: &str, value: &str, unit: &str, target: &str) {
    println!("row\t{what}\t{value}\t{unit}\t{target}");
}
